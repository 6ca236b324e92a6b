//! DOCX (Office Open XML text): paragraphs, tables, notes, headers and footers; the title from its properties.
//!
//! What was deleted under change tracking, field instructions and fallback copies are no text.

use quick_xml::events::BytesStart;

use super::package::{Listener, Package, attribute, first_text, read_xml};
use super::sink::TextSink;
use super::{About, ExtractFailure};

const MAIN_PART: &str = "word/document.xml";

pub(super) fn extract(bytes: &[u8], sink: &mut TextSink) -> Result<About, ExtractFailure> {
    let mut package = Package::open(bytes)?;
    let main = main_part(&mut package)?;
    let Some(document) = package.part(&main)? else {
        return Err(ExtractFailure::broken("its main part is missing"));
    };
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let mut parts: Vec<String> = package.names().into_iter().filter(|name| is_side_part(name, &folder)).collect();
    parts.sort();
    let (headers, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(|name| name.contains("/header"));

    // A first page and even pages have headers of their own, often with the same words.
    let mut seen: Vec<String> = Vec::new();
    for name in headers {
        write_side_part(&mut package, &name, &mut seen, sink)?;
    }
    read_xml(&document, &mut Body { sink, in_text: 0 })?;
    for name in others {
        write_side_part(&mut package, &name, &mut seen, sink)?;
    }
    let title = package.part("docProps/core.xml")?.and_then(|xml| first_text(&xml, "title"));
    Ok(About { title, page_count: None })
}

/// The relationships of the package name the main part; nearly always the usual one.
fn main_part(package: &mut Package<'_>) -> Result<String, ExtractFailure> {
    struct Target(Option<String>);
    impl Listener for Target {
        fn start(&mut self, name: &str, element: &BytesStart<'_>) -> bool {
            let kind = attribute(element, "Type").unwrap_or_default();
            if name == "Relationship" && kind.ends_with("/officeDocument") {
                self.0 = attribute(element, "Target");
            }
            true
        }
        fn end(&mut self, _: &str) {}
        fn text(&mut self, _: &str) {}
        fn is_done(&self) -> bool {
            self.0.is_some()
        }
    }
    let mut target = Target(None);
    if let Some(relations) = package.part("_rels/.rels")? {
        read_xml(&relations, &mut target)?;
    }
    Ok(target.0.map_or_else(|| MAIN_PART.to_owned(), |target| target.trim_start_matches('/').to_owned()))
}

fn is_side_part(name: &str, folder: &str) -> bool {
    name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).is_some_and(|file| {
        !file.contains('/')
            && file.ends_with(".xml")
            && ["header", "footer", "footnotes", "endnotes"].iter().any(|kind| file.starts_with(kind))
    })
}

fn write_side_part(
    package: &mut Package<'_>,
    name: &str,
    seen: &mut Vec<String>,
    sink: &mut TextSink,
) -> Result<(), ExtractFailure> {
    let Some(xml) = package.part(name)? else { return Ok(()) };
    let mut own = TextSink::new(1 << 20);
    read_xml(&xml, &mut Body { sink: &mut own, in_text: 0 })?;
    let (text, _) = own.finish();
    if !text.is_empty() && !seen.contains(&text) {
        sink.paragraph();
        sink.verbatim(&text);
        sink.paragraph();
        seen.push(text);
    }
    Ok(())
}

struct Body<'s> {
    sink: &'s mut TextSink,
    in_text: usize,
}

impl Listener for Body<'_> {
    fn start(&mut self, name: &str, _: &BytesStart<'_>) -> bool {
        match name {
            "t" => self.in_text += 1,
            "tab" if self.in_text == 0 => self.sink.tab(),
            "br" | "cr" => self.sink.line(),
            "noBreakHyphen" => self.sink.words("-"),
            "tbl" => self.sink.paragraph(),
            // `pPr` and `rPr` hold only formatting, among it tab stops of the same name as the character.
            "del" | "moveFrom" | "instrText" | "delText" | "Fallback" | "pPr" | "rPr" | "sectPr" => return false,
            _ => {}
        }
        true
    }

    fn end(&mut self, name: &str) {
        match name {
            "t" => self.in_text -= 1,
            "p" => self.sink.line(),
            "tc" => self.sink.cell(),
            "tr" => self.sink.line(),
            "tbl" => self.sink.paragraph(),
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.in_text > 0 {
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

    fn read(bytes: &[u8]) -> Result<(String, Option<String>), ExtractFailure> {
        let mut sink = TextSink::new(10_000);
        let about = extract(bytes, &mut sink)?;
        Ok((sink.finish().0, about.title))
    }

    #[test]
    fn paragraphs_tables_notes_and_the_title() {
        let bytes = zip_of(&[
            ("[Content_Types].xml", "<Types/>"),
            (
                "word/document.xml",
                "<w:document xmlns:w='w'><w:body><w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>Grö</w:t></w:r>\
                 <w:r><w:t xml:space='preserve'>ße &amp; Maß </w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r>\
                 </w:del><w:ins><w:r><w:t>new</w:t></w:r></w:ins></w:p><w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t>\
                 <w:br/><w:t>c</w:t><w:instrText>PAGE</w:instrText></w:r></w:p><w:tbl><w:tr><w:tc><w:p><w:r><w:t>1</w:t>\
                 </w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>2</w:t></w:r></w:p></w:tc></w:tr></w:tbl></w:body></w:document>",
            ),
            ("word/footnotes.xml", "<w:footnotes xmlns:w='w'><w:p><w:r><w:t>A note</w:t></w:r></w:p></w:footnotes>"),
            ("word/header1.xml", "<w:hdr xmlns:w='w'><w:p><w:r><w:t>Top</w:t></w:r></w:p></w:hdr>"),
            ("word/header2.xml", "<w:hdr xmlns:w='w'><w:p><w:r><w:t>Top</w:t></w:r></w:p></w:hdr>"),
            ("docProps/core.xml", "<c xmlns:dc='d'><dc:title>My title</dc:title></c>"),
        ]);
        let (text, title) = read(&bytes).unwrap();
        assert_eq!(title.as_deref(), Some("My title"));
        assert_eq!(text, "Top\n\nGröße & Maß new\na\tb\nc\n\n1\t2\n\nA note");
    }

    #[test]
    fn a_bomb_and_a_damaged_file_are_refused() {
        let bomb = zip_of(&[("word/document.xml", &" ".repeat(65 << 20))]);
        assert!(bomb.len() < 1 << 20);
        assert!(matches!(read(&bomb), Err(ExtractFailure::TooLarge { .. })));
        let good = zip_of(&[("word/document.xml", "<w:p/>")]);
        assert!(matches!(read(&good[..good.len() / 2]), Err(ExtractFailure::Broken { .. })));
        assert!(matches!(read(&zip_of(&[("a", "b")])), Err(ExtractFailure::Broken { .. })));
    }
}
