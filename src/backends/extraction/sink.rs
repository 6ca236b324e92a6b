//! Where every parser puts its text: one bounded buffer that keeps white space tidy.
//!
//! Invariants: never more than `limit` bytes; no control characters except tab and line feed; no line begins or
//! ends with a blank and no more than one empty line follows another, except in `verbatim` text; ligatures are
//! letters again. It must not know any document format.

/// What separates the next word from the text before it. Ordered: the stronger one wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Space,
    Tab,
    Line,
    Paragraph,
}

/// A bounded collector of text.
pub(super) struct TextSink {
    text: String,
    limit: usize,
    gap: Gap,
    truncated: bool,
}

impl TextSink {
    /// A sink that keeps at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { text: String::new(), limit, gap: Gap::None, truncated: false }
    }

    /// Running text: every run of white space in it is one blank.
    pub(super) fn words(&mut self, words: &str) {
        for c in words.chars() {
            if c.is_whitespace() || c == '\u{200b}' {
                self.widen(Gap::Space);
            } else {
                self.put(c);
            }
            if self.truncated {
                return;
            }
        }
    }

    /// Text whose white space matters (plain text, source, `pre`).
    pub(super) fn verbatim(&mut self, text: &str) {
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\r' if chars.peek() == Some(&'\n') => {}
                '\r' | '\u{85}' | '\u{2028}' | '\u{c}' => self.put('\n'),
                _ => self.put(c),
            }
            if self.truncated {
                return;
            }
        }
    }

    /// The next word is separated by a blank at least.
    pub(super) fn space(&mut self) {
        self.widen(Gap::Space);
    }

    /// The next word is in the next cell of a table.
    pub(super) fn tab(&mut self) {
        self.widen(Gap::Tab);
    }

    /// A cell of a table has ended: the next word is in the next one, whatever lines the cell held.
    pub(super) fn cell(&mut self) {
        self.gap = Gap::Tab;
    }

    /// The next word starts a line.
    pub(super) fn line(&mut self) {
        self.widen(Gap::Line);
    }

    /// The next word starts a paragraph.
    pub(super) fn paragraph(&mut self) {
        self.widen(Gap::Paragraph);
    }

    /// Removes a hyphen at the end, so that a word divided between two lines becomes whole again.
    pub(super) fn rejoin(&mut self) {
        if self.text.ends_with(['-', '\u{2010}']) {
            self.text.pop();
        }
        self.gap = Gap::None;
    }

    /// Whether the text ends with a letter and a hyphen.
    pub(super) fn ends_divided(&self) -> bool {
        let mut back = self.text.chars().rev();
        matches!(back.next(), Some('-' | '\u{2010}')) && back.next().is_some_and(char::is_alphabetic)
    }

    /// Whether nothing more fits; a parser may stop.
    pub(super) fn is_full(&self) -> bool {
        self.truncated
    }

    /// The text, and whether something was left out.
    pub(super) fn finish(mut self) -> (String, bool) {
        self.text.truncate(self.text.trim_end().len());
        (self.text, self.truncated)
    }

    fn widen(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    fn put(&mut self, c: char) {
        let gap = std::mem::replace(&mut self.gap, Gap::None);
        if !self.text.is_empty() {
            self.push_str(match gap {
                Gap::None => "",
                Gap::Space => " ",
                Gap::Tab => "\t",
                Gap::Line => "\n",
                Gap::Paragraph => "\n\n",
            });
        }
        match c {
            '\n' | '\t' => self.push(c),
            c if c.is_control() => {}
            // A soft hyphen is an advice to the typesetter, a byte order mark one to the decoder.
            '\u{ad}' | '\u{feff}' => {}
            '\u{a0}' | '\u{202f}' => self.push(' '),
            '\u{fb00}' => self.push_str("ff"),
            '\u{fb01}' => self.push_str("fi"),
            '\u{fb02}' => self.push_str("fl"),
            '\u{fb03}' => self.push_str("ffi"),
            '\u{fb04}' => self.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => self.push_str("st"),
            c => self.push(c),
        }
    }

    fn push(&mut self, c: char) {
        self.push_str(c.encode_utf8(&mut [0; 4]));
    }

    fn push_str(&mut self, s: &str) {
        if self.text.len() + s.len() > self.limit {
            self.truncated = true;
        } else if !self.truncated {
            self.text.push_str(s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_tidy() {
        let mut sink = TextSink::new(1000);
        sink.paragraph();
        sink.words("  one \n two");
        sink.line();
        sink.paragraph();
        sink.words("three\u{0}\u{fb01}n");
        sink.tab();
        sink.words("four  ");
        assert_eq!(sink.finish(), ("one two\n\nthreefin\tfour".to_owned(), false));
    }

    #[test]
    fn verbatim_keeps_lines_and_blanks() {
        let mut sink = TextSink::new(1000);
        sink.verbatim("a\r\n  b\rc\n\n\nd");
        assert_eq!(sink.finish().0, "a\n  b\nc\n\n\nd");
    }

    #[test]
    fn the_limit_holds_between_characters() {
        let mut sink = TextSink::new(5);
        sink.words("ääää");
        assert!(sink.is_full());
        assert_eq!(sink.finish(), ("ää".to_owned(), true));
    }

    #[test]
    fn divided_words_are_joined() {
        let mut sink = TextSink::new(100);
        sink.words("Geo-");
        sink.line();
        assert!(sink.ends_divided());
        sink.rejoin();
        sink.words("metrie");
        assert_eq!(sink.finish().0, "Geometrie");
    }
}
