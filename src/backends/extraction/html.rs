//! HTML: what a reader sees, and the title. Scripts, styles and what is hidden are no text.
//!
//! Invariant: walks without recursion; nesting depth is the author's, not ours to trust.

use encoding_rs::Encoding;
use scraper::{Html, Node, node::Element};

use super::sink::TextSink;
use super::{About, ExtractFailure, text};

/// A declared encoding stands in the first bytes or nowhere (HTML standard: 1024).
const DECLARATION_BYTES: usize = 1024;

pub(super) fn extract(bytes: &[u8], sink: &mut TextSink) -> Result<About, ExtractFailure> {
    let source = match declared_encoding(bytes) {
        Some(encoding) if Encoding::for_bom(bytes).is_none() => encoding.decode(bytes).0,
        _ => text::decode(bytes)?,
    };
    Ok(About { title: write(&source, sink), page_count: None })
}

/// Writes what is visible; returns the title.
pub(super) fn write(source: &str, sink: &mut TextSink) -> Option<String> {
    let document = Html::parse_document(source);
    let mut title: Option<String> = None;
    let mut in_pre = 0_usize;
    let mut at = document.tree.root();
    loop {
        let mut enter = true;
        match at.value() {
            Node::Text(text) if in_pre > 0 => sink.verbatim(text),
            Node::Text(text) => sink.words(text),
            Node::Element(element) => {
                if element.name() == "title" && title.is_none() {
                    let text: String = at.children().filter_map(|n| n.value().as_text()).map(|t| &**t).collect();
                    title = Some(text);
                }
                enter = !is_hidden(element);
                if enter {
                    boundary(element.name(), sink);
                    in_pre += usize::from(element.name() == "pre");
                    if let Some(alternative) = element.attr("alt") {
                        sink.space();
                        sink.words(alternative);
                        sink.space();
                    }
                }
            }
            _ => {}
        }
        if sink.is_full() {
            return title;
        }
        if enter && let Some(child) = at.first_child() {
            at = child;
            continue;
        }
        let mut entered = enter;
        loop {
            if entered && let Node::Element(element) = at.value() {
                in_pre -= usize::from(element.name() == "pre");
                match element.name() {
                    "td" | "th" => sink.cell(),
                    name => boundary(name, sink),
                }
            }
            entered = true;
            if let Some(next) = at.next_sibling() {
                at = next;
                break;
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return title,
            }
        }
    }
}

/// The gap before and after an element.
fn boundary(name: &str, sink: &mut TextSink) {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "pre" | "blockquote" | "table" | "ul" | "ol" | "dl"
        | "section" | "article" | "aside" | "header" | "footer" | "main" | "nav" | "form" | "fieldset" | "hr"
        | "figure" | "details" => sink.paragraph(),
        "div" | "li" | "tr" | "br" | "dt" | "dd" | "option" | "caption" | "figcaption" | "summary" | "address"
        | "legend" | "body" => sink.line(),
        "button" | "select" | "textarea" | "label" | "input" => sink.space(),
        _ => {}
    }
}

fn is_hidden(element: &Element) -> bool {
    matches!(element.name(), "script" | "style" | "template" | "iframe" | "object" | "title" | "noframes")
        || element.attr("hidden").is_some()
        || element.attr("type") == Some("hidden")
}

/// `<meta charset=x>`, `<meta http-equiv content="...charset=x">` or `<?xml encoding="x"?>`.
fn declared_encoding(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = bytes[..bytes.len().min(DECLARATION_BYTES)].to_ascii_lowercase();
    let head = String::from_utf8_lossy(&head);
    let after = ["charset=", "encoding="].iter().find_map(|key| head.split_once(key)).map(|(_, after)| after)?;
    let label = after.trim_start_matches(['"', '\'', ' ']);
    let end = label.find(|c: char| !(c.is_ascii_alphanumeric() || "-_:.".contains(c))).unwrap_or(label.len());
    let encoding = Encoding::for_label(&label.as_bytes()[..end])?;
    // A declaration that can be read as ASCII is not itself in UTF-16.
    let wide = encoding == encoding_rs::UTF_16LE || encoding == encoding_rs::UTF_16BE;
    // Nor is it true when the bytes are valid UTF-8 with other than ASCII characters.
    let contradicted = !bytes.is_ascii() && std::str::from_utf8(bytes).is_ok();
    Some(if wide || contradicted { encoding_rs::UTF_8 } else { encoding })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (String, Option<String>) {
        let mut sink = TextSink::new(1_000_000);
        let about = extract(bytes, &mut sink).unwrap();
        (sink.finish().0, about.title)
    }

    #[test]
    fn what_is_seen_is_read() {
        let (text, title) = read(
            "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style><script>var x = '<p>no</p>';\
             </script></head><body><h1>Head</h1><p>one <b>bo</b>ld\n two<br>three</p><p hidden>no</p>\
             <ul><li>x</li><li>y</li></ul><table><tr><td>1</td><td>2</td></tr></table>\
             <pre>a\n  b</pre>M&uuml;nchen &#8364;<!-- no --><img alt='a cat' src=x></body></html>"
                .as_bytes(),
        );
        assert_eq!(title.as_deref(), Some("A & B"));
        assert_eq!(text, "Head\n\none bold two\nthree\n\nx\ny\n\n1\t2\n\na\n  b\n\nMünchen € a cat");
    }

    #[test]
    fn the_declared_encoding_counts() {
        let page = "<meta charset=\"iso-8859-2\"><p>Zażółć gęślą jaźń</p>";
        assert_eq!(read(&encoding_rs::ISO_8859_2.encode(page).0).0, "Zażółć gęślą jaźń");
        assert_eq!(read("<meta charset=latin1><p>Größe</p>".as_bytes()).0, "Größe");
    }

    #[test]
    fn deep_nesting_is_no_trouble() {
        let page = format!("{}deep{}", "<span>".repeat(20_000), "</span>".repeat(20_000));
        assert_eq!(read(page.as_bytes()).0, "deep");
    }
}
