//! Which texts continue what a person has typed so far, and in which order. Pure: backends bring candidates
//! from the scope, this picks.

use std::collections::HashSet;

use super::analyze::{self, fold};
use super::{MAX_QUERY_WORDS, SearchError, Suggestion, at_most};

/// What a tag says of itself where an entry says its kind.
const TAG: &str = "tag";

/// What was typed: whole words, then the beginning of one.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub words: Vec<String>,
    pub prefix: String,
    /// All of it as one value.
    pub whole: String,
}

impl Typed {
    /// `None`: nothing to continue.
    pub fn parse(text: &str) -> Result<Option<Self>, SearchError> {
        let mut words: Vec<String> = analyze::words(text).into_iter().map(|(word, _)| word).collect();
        at_most("words of a query", MAX_QUERY_WORDS, words.len())?;
        Ok(words.pop().map(|prefix| Self { words, prefix, whole: fold(text) }))
    }
}

/// Texts that may continue what was typed.
pub(super) struct Candidates<'a> {
    typed: &'a Typed,
    found: Vec<Candidate>,
}

struct Candidate {
    /// Its text begins with all that was typed.
    begins: bool,
    source: Source,
    suggestion: Suggestion,
}

/// Where a text is from; in this order among equals.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// By the entry's place among those found.
    Title(usize),
    /// The most frequent first.
    Tag(std::cmp::Reverse<u64>),
    Keyword(usize),
}

impl<'a> Candidates<'a> {
    pub fn new(typed: &'a Typed) -> Self {
        Self { typed, found: Vec::new() }
    }

    pub fn title(&mut self, text: &str, id: &str, kind: &str) {
        self.add(text, Some(id), kind, Source::Title(self.found.len()));
    }

    pub fn keyword(&mut self, text: &str, id: &str, kind: &str) {
        self.add(text, Some(id), kind, Source::Keyword(self.found.len()));
    }

    pub fn tag(&mut self, text: &str, count: u64) {
        self.add(text, None, TAG, Source::Tag(std::cmp::Reverse(count)));
    }

    /// Takes the text if it has all the words and one that begins as typed.
    fn add(&mut self, text: &str, id: Option<&str>, kind: &str, source: Source) {
        let has: Vec<String> = analyze::words(text).into_iter().map(|(word, _)| word).collect();
        if self.typed.words.iter().all(|word| has.contains(word))
            && has.iter().any(|word| word.starts_with(&self.typed.prefix))
        {
            self.found.push(Candidate {
                begins: fold(text).starts_with(&self.typed.whole),
                source,
                suggestion: Suggestion { text: text.to_owned(), id: id.map(str::to_owned), kind: kind.to_owned() },
            });
        }
    }

    /// The best, each text once.
    pub fn best(mut self, first: usize) -> Vec<Suggestion> {
        self.found.sort_by(|a, b| {
            let order = b.begins.cmp(&a.begins).then_with(|| a.source.cmp(&b.source));
            order.then_with(|| a.suggestion.text.cmp(&b.suggestion.text))
        });
        let mut seen = HashSet::new();
        let mut best: Vec<_> = self.found.into_iter().map(|candidate| candidate.suggestion).collect();
        best.retain(|suggestion| seen.insert(fold(&suggestion.text)));
        best.truncate(first);
        best
    }
}
