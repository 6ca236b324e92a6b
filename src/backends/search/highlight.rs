//! Marks in a text what a query matched. Pure; it re-reads the text with the index's own analyzer, so words
//! found by stem, prefix or with a typing error are marked as they stand in the text.
//!
//! Everything outside the marks is HTML-escaped: fragments may be put into a page as they are.

use std::collections::{HashSet, VecDeque};

use tantivy::tokenizer::{TextAnalyzer, TokenStream};

use super::analyze;

/// How much of a body is searched for fragments, in bytes.
const MAX_SCANNED_BYTES: usize = 256 << 10;
/// The length of a fragment, in bytes, about.
const FRAGMENT_BYTES: usize = 150;
const MAX_FRAGMENTS: usize = 3;
/// Matches considered when fragments are chosen.
const MAX_SPANS: usize = 2_000;

/// What to mark.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub words: Vec<WordMark>,
    pub phrases: Vec<Vec<String>>,
}

/// One word of the query and the forms it is found in.
#[derive(Debug, Default)]
pub(super) struct WordMark {
    pub text: String,
    pub stem: String,
    pub prefix: bool,
    /// Words of the index that it was taken for.
    pub typos: HashSet<String>,
}

/// Reads texts and marks them; holds the analyzers between texts.
pub(super) struct Highlighter<'a> {
    marks: &'a Marks,
    longest: usize,
    plain: TextAnalyzer,
    stemmer: TextAnalyzer,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    from: usize,
    to: usize,
    /// Which word (or phrase) matched.
    what: usize,
}

impl<'a> Highlighter<'a> {
    pub fn new(marks: &'a Marks) -> Self {
        let longest = marks.phrases.iter().map(Vec::len).max().unwrap_or(0);
        Self { marks, longest, plain: analyze::plain(), stemmer: analyze::stemmer() }
    }

    /// The whole text with its matches marked; `None` without any. `sure` has a bit per word of the query that
    /// the entry matches as typed or by stem: such a word's typing variants are not marked.
    pub fn whole(&mut self, text: &str, sure: u32) -> Option<String> {
        let spans = self.spans(text, sure);
        (!spans.is_empty()).then(|| render(text, 0, text.len(), &spans))
    }

    /// The best pieces of the text, in its order.
    pub fn fragments(&mut self, text: &str, sure: u32) -> Vec<String> {
        let text = &text[..text.floor_char_boundary(MAX_SCANNED_BYTES)];
        let spans = self.spans(text, sure);
        best_windows(&spans)
            .into_iter()
            .map(|(first, last)| {
                let (from, to) = widen(text, spans[first].from, spans[last].to);
                render(text, from, to, &spans)
            })
            .collect()
    }

    fn spans(&mut self, text: &str, sure: u32) -> Vec<Span> {
        let mut words = self.plain.token_stream(text);
        let mut recent: VecDeque<(String, usize, usize)> = VecDeque::with_capacity(self.longest);
        let mut spans = Vec::new();
        while words.advance() && spans.len() < MAX_SPANS {
            let token = words.token();
            let what = self.marks.words.iter().enumerate().position(|(at, word)| {
                token.text == word.text
                    || word.prefix && token.text.starts_with(&word.text)
                    || sure & (1 << at) == 0 && word.typos.contains(&token.text)
                    || has_stem(&mut self.stemmer, &token.text, &word.stem)
            });
            if let Some(what) = what {
                spans.push(Span { from: token.offset_from, to: token.offset_to, what });
            }
            if self.longest > 0 {
                if recent.len() == self.longest {
                    recent.pop_front();
                }
                recent.push_back((token.text.clone(), token.offset_from, token.offset_to));
                for (at, phrase) in self.marks.phrases.iter().enumerate() {
                    let Some(start) = recent.len().checked_sub(phrase.len()) else { continue };
                    if recent.range(start..).map(|(text, ..)| text).eq(phrase) {
                        let what = self.marks.words.len() + at;
                        spans.extend(recent.range(start..).map(|&(_, from, to)| Span { from, to, what }));
                    }
                }
            }
        }
        spans.sort_by_key(|span| (span.from, span.to));
        spans.dedup_by_key(|span| span.from);
        spans
    }
}

fn has_stem(stemmer: &mut TextAnalyzer, word: &str, stem: &str) -> bool {
    // Most words differ in their first letters already, which stemming keeps.
    word.as_bytes().first() == stem.as_bytes().first()
        && stemmer.token_stream(word).next().is_some_and(|token| token.text == stem)
}

/// Up to three runs of spans that fit a fragment, those with the most different words first chosen.
fn best_windows(spans: &[Span]) -> Vec<(usize, usize)> {
    let mut windows: Vec<(usize, usize, usize)> = Vec::new();
    let mut last = 0;
    for first in 0..spans.len() {
        last = last.max(first);
        while last + 1 < spans.len() && spans[last + 1].to - spans[first].from <= FRAGMENT_BYTES * 4 / 5 {
            last += 1;
        }
        let inside = &spans[first..=last];
        let different = inside.iter().map(|span| span.what).collect::<HashSet<_>>().len();
        windows.push((different * 16 + inside.len().min(15), first, last));
    }
    windows.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    for (_, first, last) in windows {
        let apart = |&(from, to): &(usize, usize)| {
            spans[last].to + FRAGMENT_BYTES / 2 < spans[from].from
                || spans[to].to + FRAGMENT_BYTES / 2 < spans[first].from
        };
        if chosen.len() < MAX_FRAGMENTS && chosen.iter().all(apart) {
            chosen.push((first, last));
        }
    }
    chosen.sort_unstable();
    chosen
}

/// A window of about the wanted length around the matches, cut at spaces where there are some.
fn widen(text: &str, from: usize, to: usize) -> (usize, usize) {
    let room = FRAGMENT_BYTES.saturating_sub(to - from);
    let start = text.floor_char_boundary(from.saturating_sub(room / 2));
    let end = text.ceil_char_boundary((to + room - (from - start).min(room)).min(text.len()));
    let start =
        if start == 0 { 0 } else { text[start..from].find(char::is_whitespace).map_or(start, |offset| start + offset) };
    let end = if end == text.len() {
        end
    } else {
        text[to..end].rfind(char::is_whitespace).map_or(end, |offset| to + offset)
    };
    (start, end)
}

fn render(text: &str, from: usize, to: usize, spans: &[Span]) -> String {
    let mut out = String::with_capacity(to - from + 32);
    let mut at = from;
    let mut open = false;
    for span in spans.iter().filter(|span| span.from >= from && span.to <= to) {
        if open && span.from > at {
            out.push_str("</mark>");
            open = false;
        }
        escape(&text[at..span.from], &mut out);
        if !open {
            out.push_str("<mark>");
            open = true;
        }
        escape(&text[span.from..span.to], &mut out);
        at = span.to;
    }
    if open {
        out.push_str("</mark>");
    }
    escape(&text[at..to], &mut out);
    out.trim().to_owned()
}

/// Escapes, and makes each white-space character a plain space.
pub(super) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_whitespace() => out.push(' '),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks(text: &str) -> Marks {
        let words = analyze::words(text)
            .into_iter()
            .map(|(text, stem)| WordMark { text, stem, ..WordMark::default() })
            .collect();
        Marks { words, phrases: Vec::new() }
    }

    #[test]
    fn marks_forms_and_escapes_the_rest() {
        let marks = marks("vacuuming café");
        let marked = Highlighter::new(&marks).whole("A <b>Vacuum</b> & the CAFÉ's \"car\"", 0).unwrap();
        assert_eq!(
            marked,
            "A &lt;b&gt;<mark>Vacuum</mark>&lt;/b&gt; &amp; the <mark>CAFÉ</mark>&#39;s &quot;car&quot;"
        );
        assert_eq!(Highlighter::new(&marks).whole("nothing here", 0), None);
    }

    #[test]
    fn marks_typos_only_where_the_word_itself_is_missing() {
        let mut marks = marks("vacuum");
        marks.words[0].typos.insert("vacum".into());
        let mut highlighter = Highlighter::new(&marks);
        assert_eq!(highlighter.whole("vacum", 0).unwrap(), "<mark>vacum</mark>");
        assert_eq!(highlighter.whole("vacuum vacum", 1).unwrap(), "<mark>vacuum</mark> vacum");
    }

    #[test]
    fn marks_a_phrase_only_as_a_whole() {
        let marks = Marks { words: Vec::new(), phrases: vec![vec!["hard".into(), "floor".into()]] };
        assert_eq!(
            Highlighter::new(&marks).whole("hard work, hard floor", 0).unwrap(),
            "hard work, <mark>hard</mark> <mark>floor</mark>"
        );
    }

    #[test]
    fn fragments_show_the_best_places() {
        let filler = "lorem ipsum dolor sit amet ".repeat(40);
        let text = format!("{filler}one red {filler}two red blue green {filler}three blue {filler}four red {filler}");
        let fragments = Highlighter::new(&marks("red blue green")).fragments(&text, 0);
        assert_eq!(fragments.len(), MAX_FRAGMENTS);
        assert!(fragments.iter().any(|f| f.contains("<mark>red</mark> <mark>blue</mark> <mark>green</mark>")));
        for fragment in &fragments {
            let bare = fragment.replace("<mark>", "").replace("</mark>", "");
            assert!(bare.len() <= FRAGMENT_BYTES + 30 && bare.len() > 80, "{} {bare}", bare.len());
        }
    }

    proptest! {
        #[test]
        fn without_its_marks_the_title_is_the_text(text in "[ab é<>&\"'検]{0,80}") {
            if let Some(marked) = Highlighter::new(&marks("ab é 検")).whole(&text, 0) {
                let mut escaped = String::new();
                escape(&text, &mut escaped);
                prop_assert_eq!(marked.replace("<mark>", "").replace("</mark>", ""), escaped.trim());
            }
        }

        #[test]
        fn any_text_has_fragments_or_none(text in "[ab é\n検x]{0,600}") {
            for fragment in Highlighter::new(&marks("ab é")).fragments(&text, 0) {
                prop_assert!(fragment.contains("<mark>"));
            }
        }
    }
}
