//! ODT (OpenDocument text): paragraphs, tables, lists, notes; headers and footers; the title from its meta data.
//!
//! What was deleted under change tracking and comments are no text.

use quick_xml::events::BytesStart;

use super::package::{Listener, Package, attribute, first_text, read_xml};
use super::sink::TextSink;
use super::{About, ExtractFailure};

/// More blanks in one `text:s` mean nothing.
const MAX_BLANKS: usize = 100;

pub(super) fn extract(bytes: &[u8], sink: &mut TextSink) -> Result<About, ExtractFailure> {
    let mut package = Package::open(bytes)?;
    if package.part("META-INF/manifest.xml")?.is_some_and(|xml| xml.contains("encryption-data")) {
        return Err(ExtractFailure::Encrypted);
    }
    let Some(content) = package.part("content.xml")? else {
        return Err(ExtractFailure::broken("its main part is missing"));
    };
    read_xml(&content, &mut Body::within("body", sink))?;
    // Headers and footers are styles of the page.
    if let Some(styles) = package.part("styles.xml")? {
        sink.paragraph();
        read_xml(&styles, &mut Body::within("master-styles", sink))?;
    }
    let title = package.part("meta.xml")?.and_then(|xml| first_text(&xml, "title"));
    Ok(About { title, page_count: None })
}

struct Body<'s> {
    sink: &'s mut TextSink,
    /// Only what this element contains is read.
    root: &'static str,
    inside: bool,
    /// Depth of paragraphs: white space between them is indentation of the file.
    in_paragraph: usize,
}

impl<'s> Body<'s> {
    fn within(root: &'static str, sink: &'s mut TextSink) -> Self {
        Self { sink, root, inside: false, in_paragraph: 0 }
    }
}

impl Listener for Body<'_> {
    fn start(&mut self, name: &str, element: &BytesStart<'_>) -> bool {
        if name == self.root {
            self.inside = true;
        }
        if !self.inside {
            return true;
        }
        match name {
            "p" | "h" => {
                self.in_paragraph += 1;
                if name == "h" {
                    self.sink.paragraph();
                }
            }
            "s" => {
                let count = attribute(element, "c").and_then(|c| c.parse().ok()).unwrap_or(1_usize);
                self.sink.verbatim(&" ".repeat(count.min(MAX_BLANKS)));
            }
            "tab" => self.sink.tab(),
            "line-break" => self.sink.line(),
            "note" => self.sink.space(),
            "table" => self.sink.paragraph(),
            "tracked-changes" | "annotation" | "note-citation" | "forms" | "event-listeners" => return false,
            _ => {}
        }
        true
    }

    fn end(&mut self, name: &str) {
        if !self.inside {
            return;
        }
        match name {
            "p" => {
                self.in_paragraph = self.in_paragraph.saturating_sub(1);
                self.sink.line();
            }
            "h" => {
                self.in_paragraph = self.in_paragraph.saturating_sub(1);
                self.sink.paragraph();
            }
            "table-cell" => self.sink.cell(),
            "table-row" => self.sink.line(),
            "table" => self.sink.paragraph(),
            _ if name == self.root => self.inside = false,
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.inside && self.in_paragraph > 0 {
            self.sink.words(text);
        }
    }

    fn is_done(&self) -> bool {
        self.sink.is_full()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::extraction::fixtures::zip_of;

    const CONTENT: &str = "<o:document-content xmlns:o='o' xmlns:text='t' xmlns:table='b'><o:automatic-styles/><o:body>\
        <o:text>\n  <text:tracked-changes><text:p>gone</text:p></text:tracked-changes><text:h>Kopf</text:h>\n  \
        <text:p>Grö<text:span>ße</text:span><text:s text:c='2'/>x<text:tab/>y<text:line-break/>z</text:p>\
        <text:p>Word<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>A note</text:p>\
        </text:note-body></text:note></text:p><table:table><table:table-row><table:table-cell><text:p>1</text:p>\
        </table:table-cell><table:table-cell><text:p>2</text:p></table:table-cell></table:table-row></table:table>\
        </o:text></o:body></o:document-content>";

    fn read(bytes: &[u8]) -> Result<(String, Option<String>), ExtractFailure> {
        let mut sink = TextSink::new(10_000);
        let about = extract(bytes, &mut sink)?;
        Ok((sink.finish().0, about.title))
    }

    #[test]
    fn paragraphs_tables_notes_footers_and_the_title() {
        let bytes = zip_of(&[
            ("mimetype", "application/vnd.oasis.opendocument.text"),
            ("content.xml", CONTENT),
            (
                "styles.xml",
                "<s xmlns:o='o' xmlns:text='t'><o:styles><text:p>no</text:p></o:styles><o:master-styles>\
                <text:p>Foot</text:p></o:master-styles></s>",
            ),
            ("meta.xml", "<m xmlns:dc='d'><dc:title>Titel</dc:title></m>"),
        ]);
        let (text, title) = read(&bytes).unwrap();
        assert_eq!(title.as_deref(), Some("Titel"));
        assert_eq!(text, "Kopf\n\nGröße  x\ty\nz\nWord A note\n\n1\t2\n\nFoot");
    }

    #[test]
    fn an_encrypted_document_says_so() {
        let bytes = zip_of(&[
            ("content.xml", "\u{1}garbage"),
            ("META-INF/manifest.xml", "<m:file-entry xmlns:m='m'><m:encryption-data/></m:file-entry>"),
        ]);
        assert!(matches!(read(&bytes), Err(ExtractFailure::Encrypted)));
    }
}
