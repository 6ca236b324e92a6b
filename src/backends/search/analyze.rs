//! How a text becomes words: split, without accents, in lower case; and their English stems.
//!
//! The same functions cut texts for the index, queries and highlights, so what is found can be marked. A change
//! here changes the index: raise `tantivy::files::FORMAT`.

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RawTokenizer, Stemmer, TextAnalyzer, Token, TokenStream, Tokenizer,
};

/// A word longer than this is known by its beginning.
const MAX_WORD_CHARS: usize = 100;

/// The words of a text in their folded form.
pub(super) fn plain() -> TextAnalyzer {
    TextAnalyzer::builder(Splitter::default()).filter(AsciiFoldingFilter).filter(LowerCaser).build()
}

/// The stems of the same words, one for one.
pub(super) fn stemmed() -> TextAnalyzer {
    TextAnalyzer::builder(Splitter::default())
        .filter(AsciiFoldingFilter)
        .filter(LowerCaser)
        .filter(Stemmer::new(Language::English))
        .build()
}

/// The stem of a folded word. It begins with the same letter.
pub(super) fn stemmer() -> TextAnalyzer {
    TextAnalyzer::builder(RawTokenizer::default()).filter(Stemmer::new(Language::English)).build()
}

/// The folded words of a short text, each with its stem.
pub(super) fn words(text: &str) -> Vec<(String, String)> {
    let (mut plain, mut stemmed) = (plain(), stemmed());
    let (mut words, mut stems) = (plain.token_stream(text), stemmed.token_stream(text));
    let mut out = Vec::new();
    while words.advance() && stems.advance() {
        out.push((words.token().text.clone(), stems.token().text.clone()));
    }
    out
}

/// A whole value as one word: without accents, in lower case, runs of spaces as one.
pub(super) fn fold(value: &str) -> String {
    let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut analyzer =
        TextAnalyzer::builder(RawTokenizer::default()).filter(AsciiFoldingFilter).filter(LowerCaser).build();
    let mut stream = analyzer.token_stream(&value);
    stream.next().map(|token| token.text.clone()).unwrap_or_default()
}

/// Words so common that matching one says nothing.
pub(super) fn is_stop_word(word: &str) -> bool {
    const STOP: &[&str] = &[
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "did", "do", "does", "for", "from", "had",
        "has", "have", "how", "i", "if", "in", "is", "it", "its", "of", "on", "or", "that", "the", "this", "to", "was",
        "what", "when", "which", "with", "you",
    ];
    STOP.binary_search(&word).is_ok()
}

/// How many typing errors a word may have: none in short ones and in those with digits, which are values.
pub(super) fn typos(word: &str) -> u8 {
    if word.chars().any(|c| c.is_numeric() || stands_alone(c)) {
        return 0;
    }
    match word.chars().count() {
        0..=3 => 0,
        4..=7 => 1,
        _ => 2,
    }
}

/// Scripts written without spaces: each character is a word, and runs of them are sought as phrases.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}'      // Thai, Lao
        | '\u{1000}'..='\u{109F}'    // Myanmar
        | '\u{1780}'..='\u{17FF}'    // Khmer
        | '\u{3040}'..='\u{30FF}'    // Hiragana, Katakana
        | '\u{3400}'..='\u{9FFF}'    // Han
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}')
}

/// An accent written as a character of its own: part of the word, and dropped from it.
fn is_combining(c: char) -> bool {
    matches!(c, '\u{0300}'..='\u{036F}')
}

/// Splits at everything that is neither letter nor digit.
#[derive(Clone, Default)]
pub(super) struct Splitter {
    token: Token,
}

pub(super) struct SplitterStream<'a> {
    text: &'a str,
    at: usize,
    token: &'a mut Token,
}

impl Tokenizer for Splitter {
    type TokenStream<'a> = SplitterStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> SplitterStream<'a> {
        self.token.reset();
        SplitterStream { text, at: 0, token: &mut self.token }
    }
}

impl TokenStream for SplitterStream<'_> {
    fn advance(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let Some((from, first)) = rest.char_indices().find(|(_, c)| c.is_alphanumeric()) else {
            self.at = self.text.len();
            return false;
        };
        self.token.text.clear();
        let mut to = rest.len();
        for (kept, (offset, c)) in rest[from..].char_indices().enumerate() {
            let inside =
                offset == 0 || !stands_alone(first) && !stands_alone(c) && (c.is_alphanumeric() || is_combining(c));
            if !inside {
                to = from + offset;
                break;
            }
            if kept < MAX_WORD_CHARS && !is_combining(c) {
                self.token.text.push(c);
            }
        }
        self.token.offset_from = self.at + from;
        self.token.offset_to = self.at + to;
        self.token.position = self.token.position.wrapping_add(1);
        self.at += to;
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_words(text: &str) -> Vec<String> {
        words(text).into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn splits_and_folds() {
        assert_eq!(plain_words("Café_Ünïted-2024.v2 (Straße)"), ["cafe", "united", "2024", "v2", "strasse"]);
        assert_eq!(plain_words("cafe\u{301} noir"), ["cafe", "noir"], "a decomposed accent is part of its word");
        assert_eq!(plain_words("検索 engine検"), ["検", "索", "engine", "検"]);
        assert!(plain_words(" -- \"*\" 🚀 ").is_empty());
        assert_eq!(fold("  INV-2024/\t0017É "), "inv-2024/ 0017e");
    }

    #[test]
    fn offsets_point_into_the_text() {
        let text = "Ein Café, zwei";
        let mut analyzer = plain();
        let mut stream = analyzer.token_stream(text);
        let mut pieces = Vec::new();
        while stream.advance() {
            pieces.push(&text[stream.token().offset_from..stream.token().offset_to]);
        }
        assert_eq!(pieces, ["Ein", "Café", "zwei"]);
    }

    #[test]
    fn stems_follow_their_words() {
        assert_eq!(words("Vacuuming cars"), [("vacuuming".into(), "vacuum".into()), ("cars".into(), "car".into())]);
    }

    #[test]
    fn values_have_no_typos() {
        assert_eq!((typos("inv2024x"), typos("car"), typos("cars"), typos("vacuumed")), (0, 0, 1, 2));
    }

    #[test]
    fn stop_words_are_sorted() {
        for word in ["a", "an", "how", "the", "you", "with", "its"] {
            assert!(is_stop_word(word), "{word}");
        }
        assert!(!is_stop_word("vacuum"));
    }
}
