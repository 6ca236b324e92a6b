//! Markdown: the text without the syntax; the title is the front matter's or the first heading.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd};

use super::sink::TextSink;
use super::{About, ExtractFailure, html, text};

pub(super) fn extract(bytes: &[u8], sink: &mut TextSink) -> Result<About, ExtractFailure> {
    let source = text::decode(bytes)?;
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    let mut writer = Writer { sink, matter: None, heading: None, html: None, title: None, code: false };
    for event in Parser::new_ext(&source, options) {
        writer.event(event);
        if writer.sink.is_full() {
            break;
        }
    }
    Ok(About { title: writer.title, page_count: None })
}

struct Writer<'s> {
    sink: &'s mut TextSink,
    /// The front matter, while inside it.
    matter: Option<String>,
    /// The first heading, while inside it.
    heading: Option<String>,
    /// A block of HTML, while inside it.
    html: Option<String>,
    title: Option<String>,
    code: bool,
}

impl Writer<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.text(&text);
            }
            Event::Html(source) => match &mut self.html {
                Some(html) => html.push_str(&source),
                None => {
                    html::write(&source, self.sink);
                }
            },
            // Only the tags: what they enclose comes as text.
            Event::InlineHtml(tag) if tag.starts_with("<br") => self.sink.line(),
            Event::InlineHtml(_) | Event::FootnoteReference(_) | Event::TaskListMarker(_) => {}
            Event::SoftBreak => self.text(&CowStr::Borrowed(" ")),
            Event::HardBreak => self.sink.line(),
            Event::Rule => self.sink.paragraph(),
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(matter) = &mut self.matter {
            matter.push_str(text);
        } else if self.code {
            self.sink.verbatim(text);
        } else {
            if let Some(heading) = &mut self.heading {
                heading.push_str(text);
            }
            self.sink.words(text);
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::MetadataBlock(_) => self.matter = Some(String::new()),
            Tag::Heading { .. } => {
                self.sink.paragraph();
                if self.title.is_none() {
                    self.heading = Some(String::new());
                }
            }
            Tag::CodeBlock(_) => {
                self.sink.paragraph();
                self.code = true;
            }
            Tag::HtmlBlock => self.html = Some(String::new()),
            Tag::Item | Tag::TableRow | Tag::TableHead => self.sink.line(),
            Tag::Paragraph | Tag::Table(_) | Tag::BlockQuote(_) | Tag::FootnoteDefinition(_) => {
                self.sink.paragraph();
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::MetadataBlock(_) => {
                let matter = self.matter.take().unwrap_or_default();
                self.title = matter.lines().find_map(|line| {
                    let value = line.strip_prefix("title:")?.trim().trim_matches(['"', '\'']);
                    (!value.is_empty()).then(|| value.to_owned())
                });
            }
            TagEnd::Heading(_) => {
                if let Some(heading) = self.heading.take() {
                    self.title = Some(heading).filter(|h| !h.trim().is_empty());
                }
                self.sink.paragraph();
            }
            TagEnd::CodeBlock => {
                self.code = false;
                self.sink.paragraph();
            }
            TagEnd::HtmlBlock => {
                let source = self.html.take().unwrap_or_default();
                self.sink.paragraph();
                html::write(&source, self.sink);
                self.sink.paragraph();
            }
            TagEnd::Paragraph | TagEnd::Table | TagEnd::List(_) => self.sink.paragraph(),
            TagEnd::TableCell => self.sink.tab(),
            TagEnd::Item | TagEnd::TableRow | TagEnd::TableHead => self.sink.line(),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(source: &str) -> (String, Option<String>) {
        let mut sink = TextSink::new(10_000);
        let about = extract(source.as_bytes(), &mut sink).unwrap();
        (sink.finish().0, about.title)
    }

    #[test]
    fn the_syntax_is_gone_and_the_words_are_whole() {
        let (text, title) = read(
            "Intro\n\n# The *big* plan\n\nSome **bo**ld [link](http://x.example) and `code`.\nNext &amp; line\n\n\
             - one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```rust\nfn main() {\n    1\n}\n```\n",
        );
        assert_eq!(title.as_deref(), Some("The big plan"));
        assert_eq!(
            text,
            "Intro\n\nThe big plan\n\nSome bold link and code. Next & line\n\none\ntwo\n\na\tb\n1\t2\n\n\
             fn main() {\n    1\n}"
        );
    }

    #[test]
    fn front_matter_names_the_title_and_html_is_read_as_html() {
        let (text, title) = read("---\ntitle: \"Report\"\nid: 7\n---\n\n<p align=center>Hello <b>there</b></p>\n\nEnd");
        assert_eq!(title.as_deref(), Some("Report"));
        assert_eq!(text, "Hello there\n\nEnd");
    }
}
