//! What a person types, taken apart. Pure: it knows no index.
//!
//! `vacuum cleaner` words, `"hard floor"` exactly this, `vac*` words that begin so, `-carpet` without.
//! Everything else is text: a quote without its partner, a lone minus or a bracket is no error.

use super::analyze::{self, fold};
use super::{MAX_QUERY_CHARS, MAX_QUERY_WORDS, SearchError, at_most};

/// A query in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// What should be found, each once.
    pub words: Vec<Word>,
    /// What must be found: quoted phrases.
    pub phrases: Vec<Vec<String>>,
    /// What must not be found.
    pub excluded: Vec<Excluded>,
    /// Words that were typed next to each other: entries that have them so come earlier.
    pub runs: Vec<Vec<String>>,
    /// Pieces as typed, for values that are more than words (`INV-2024/17`, `c++`).
    pub values: Vec<String>,
    /// The whole text as a value.
    pub whole: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub stem: String,
    /// Found also as the beginning of a longer word.
    pub prefix: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Excluded {
    Word(String),
    Prefix(String),
    Phrase(Vec<String>),
}

impl Query {
    /// Takes the text apart; refuses only what is too long.
    pub fn parse(text: &str) -> Result<Self, SearchError> {
        at_most("characters of a query", MAX_QUERY_CHARS, text.chars().count())?;
        let mut query = Self { whole: fold(text), ..Self::default() };
        let mut adjacent = Vec::new();
        for piece in pieces(text) {
            query.add(&piece, &mut adjacent);
        }
        if adjacent.len() > 1 {
            query.runs.push(adjacent);
        }
        query.runs.dedup();
        at_most("words of a query", MAX_QUERY_WORDS, query.size())?;
        Ok(query)
    }

    /// Nothing is looked for: everything, or everything without the excluded, is the answer.
    pub fn is_browse(&self) -> bool {
        self.words.is_empty() && self.phrases.is_empty() && self.values.is_empty()
    }

    fn size(&self) -> usize {
        let excluded = self.excluded.iter().map(|excluded| match excluded {
            Excluded::Word(_) | Excluded::Prefix(_) => 1,
            Excluded::Phrase(words) => words.len(),
        });
        self.words.len().max(self.values.len())
            + self.phrases.iter().map(Vec::len).sum::<usize>()
            + excluded.sum::<usize>()
    }

    fn add(&mut self, piece: &Piece<'_>, adjacent: &mut Vec<String>) {
        let words = analyze::words(piece.text);
        let plain = || words.iter().map(|(word, _)| word.clone()).collect::<Vec<_>>();
        let prefix = piece.prefix && words.last().is_some_and(|(word, _)| word.chars().count() > 1);
        if piece.excluded {
            match (words.as_slice(), prefix) {
                ([], _) => {}
                ([(word, _)], true) => self.excluded.push(Excluded::Prefix(word.clone())),
                ([(word, _)], false) => self.excluded.push(Excluded::Word(word.clone())),
                _ => self.excluded.push(Excluded::Phrase(plain())),
            }
            return;
        }
        if piece.quoted && !words.is_empty() {
            self.phrases.push(plain());
            return;
        }
        let value = fold(piece.text);
        let is_word = matches!(words.as_slice(), [(word, _)] if *word == value);
        if !value.is_empty() && !is_word && !self.values.contains(&value) {
            self.values.push(value);
        }
        if words.len() > 1 {
            self.runs.push(plain());
        }
        let last = words.len().saturating_sub(1);
        for (at, (text, stem)) in words.into_iter().enumerate() {
            adjacent.push(text.clone());
            let prefix = prefix && at == last;
            match self.words.iter_mut().find(|known| known.text == text) {
                Some(known) => known.prefix |= prefix,
                None => self.words.push(Word { text, stem, prefix }),
            }
        }
    }
}

struct Piece<'a> {
    text: &'a str,
    quoted: bool,
    prefix: bool,
    excluded: bool,
}

/// Cuts at spaces and quotes.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let excluded = first == '-' && rest[1..].starts_with(|c: char| c.is_alphanumeric() || is_quote(c));
        if excluded {
            rest = &rest[1..];
        }
        let (piece, after) = match quoted(rest) {
            Some((inside, after)) => (Piece { text: inside, quoted: true, prefix: false, excluded }, after),
            None => {
                let unquoted = rest.trim_start_matches(is_quote);
                let end = unquoted.find(|c: char| c.is_whitespace() || is_quote(c)).unwrap_or(unquoted.len());
                let (chunk, after) = unquoted.split_at(end);
                let stripped = chunk.trim_end_matches('*');
                let prefix = stripped.len() < chunk.len();
                (Piece { text: if prefix { stripped } else { chunk }, quoted: false, prefix, excluded }, after)
            }
        };
        if !piece.text.is_empty() {
            out.push(piece);
        }
        rest = after.trim_start();
    }
    out
}

fn quoted(rest: &str) -> Option<(&str, &str)> {
    let open = rest.chars().next().filter(|c| is_quote(*c))?;
    let inside = &rest[open.len_utf8()..];
    let (end, close) = inside.char_indices().find(|(_, c)| is_quote(*c))?;
    Some((&inside[..end], &inside[end + close.len_utf8()..]))
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '“' | '”' | '„' | '«' | '»')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(query: &Query) -> Vec<&str> {
        query.words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn takes_apart_what_people_type() {
        let query = Query::parse("Hard floor “deep Clean” vac* -carpet -\"wet dry\" -rug*").unwrap();
        assert_eq!(texts(&query), ["hard", "floor", "vac"]);
        assert!(query.words[2].prefix && !query.words[0].prefix);
        assert_eq!(query.phrases, [["deep", "clean"]]);
        assert_eq!(
            query.excluded,
            [
                Excluded::Word("carpet".into()),
                Excluded::Phrase(vec!["wet".into(), "dry".into()]),
                Excluded::Prefix("rug".into())
            ]
        );
    }

    #[test]
    fn values_stay_whole_beside_their_words() {
        let query = Query::parse("INV-2024/17").unwrap();
        assert_eq!(texts(&query), ["inv", "2024", "17"]);
        assert_eq!(query.values, ["inv-2024/17"]);
        assert_eq!(query.runs, [["inv", "2024", "17"]]);
    }

    #[test]
    fn marks_without_meaning_are_text() {
        assert_eq!(texts(&Query::parse("12\" monitor - (and) --x").unwrap()), ["12", "monitor", "and", "x"]);
        assert!(Query::parse(" \t ").unwrap().is_browse());
        assert!(Query::parse("-carpet").unwrap().is_browse());
        assert!(!Query::parse("???").unwrap().is_browse(), "symbols look for something");
        assert!(Query::parse("\"\"").unwrap().is_browse());
    }

    #[test]
    fn limits_are_named() {
        let long = "x".repeat(MAX_QUERY_CHARS + 1);
        assert!(matches!(Query::parse(&long), Err(SearchError::Limit { what: "characters of a query", .. })));
        let many = (0..=MAX_QUERY_WORDS).map(|n| format!("w{n} ")).collect::<String>();
        assert!(matches!(Query::parse(&many), Err(SearchError::Limit { what: "words of a query", .. })));
    }

    proptest! {
        #[test]
        fn nothing_typed_is_an_error(text in "[ a-zé\"“*\\-+(){}\\[\\]^~:/\\\\!?&|<>0-9検🚀]{0,60}") {
            match Query::parse(&text) {
                Ok(_) | Err(SearchError::Limit { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
