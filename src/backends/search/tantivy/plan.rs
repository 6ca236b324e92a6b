//! A query made concrete for one snapshot: which postings are read, and what each counts.
//!
//! Every word is looked up in three fields by its folded form and by its stem; words that may be mistyped are
//! expanded to the words of the same organisation that are close to them. All statistics are the
//! organisation's own.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use tantivy::query::{
    AutomatonWeight, Bm25StatisticsProvider, BooleanWeight, BoostWeight, EmptyWeight, EnableScoring, FuzzyTermQuery,
    Occur, PhraseQuery, Query as _, SumCombiner, TermQuery, TermSetQuery, Weight,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocSet, Searcher, TERMINATED, Term};
use tantivy_fst::Automaton;

use super::super::highlight::{Marks, WordMark};
use super::super::query::{Excluded, Query, Word};
use super::super::suggest::Typed;
use super::super::{Scope, SearchRequest, analyze};
use super::generation::Snapshot;
use super::schema::{Fields, Owner, WEIGHTS};

type Result<T> = tantivy::Result<T>;

/// Words of one query that are also looked for with typing errors: the rarest ones.
const MAX_MISTYPED_WORDS: usize = 8;
/// Words of the index that one word is taken for, at most.
const MAX_VARIANTS: usize = 24;
/// Words close to a mistyped one that are weighed against each other.
const MAX_CLOSE: usize = 200;
/// How many words a title, the labels and a body have, about: what is shorter counts more. Fixed, because an average
/// that is taken of the entries would be another one after each merge.
const LENGTHS: [u64; 3] = [8, 4, 600];
/// A stem against the word as typed; a run of words against each.
const STEM: f32 = 0.6;
const RUN: f32 = 0.7;

/// What [`super::run`] executes.
pub(super) struct Plan {
    /// All must match; the organisation is the first.
    pub filters: Vec<Box<dyn Weight>>,
    /// All must match, and count.
    pub required: Vec<Box<dyn Weight>>,
    /// None may match.
    pub excluded: Vec<Box<dyn Weight>>,
    pub words: Vec<WordPlan>,
    /// Counts where it matches.
    pub bonus: Vec<Box<dyn Weight>>,
    /// A piece of the query is a whole value of the entry.
    pub value: Option<Box<dyn Weight>>,
    /// The whole query is the entry's title.
    pub whole: Option<Box<dyn Weight>>,
}

pub(super) struct WordPlan {
    /// As typed, by stem or by prefix.
    pub sure: Box<dyn Weight>,
    /// Only with typing errors.
    pub mistyped: Option<Box<dyn Weight>>,
    /// Whether an entry is found by this word, and preferred for having it.
    pub counts: bool,
}

/// Makes plans for one organisation in one snapshot.
pub(super) struct Planner<'a> {
    snapshot: &'a Snapshot,
    owner: Owner,
    statistics: Statistics<'a>,
}

impl<'a> Planner<'a> {
    pub fn new(snapshot: &'a Snapshot, scope: &Scope) -> Result<Self> {
        let owner = Owner::new(scope.organization);
        let statistics = Statistics::new(snapshot, &owner)?;
        Ok(Self { snapshot, owner, statistics })
    }

    /// A plan of the walls alone. The only place where one begins: no plan is without its scope.
    pub fn scope(&self, scope: &Scope) -> Result<Plan> {
        let fields = self.fields();
        let mut filters = vec![self.unscored(&self.owner.term(fields.organization, ""))?];
        if let Some(projects) = &scope.projects {
            let projects = projects.iter().map(|id| Term::from_field_text(fields.project, &id.to_string()));
            filters.push(self.one_of(projects)?);
        }
        Ok(Plan {
            filters,
            required: Vec::new(),
            excluded: Vec::new(),
            words: Vec::new(),
            bonus: Vec::new(),
            value: None,
            whole: None,
        })
    }

    /// The plan of a search, and what to mark in its hits.
    pub fn search(&self, scope: &Scope, request: &SearchRequest, query: &Query) -> Result<(Plan, Marks)> {
        let mut plan = self.scope(scope)?;
        self.filter(&mut plan, request)?;
        for excluded in &query.excluded {
            plan.excluded.push(match excluded {
                Excluded::Word(word) => self.exactly(std::slice::from_ref(word), 1.0)?,
                Excluded::Phrase(words) => self.exactly(words, 1.0)?,
                Excluded::Prefix(prefix) => self.beginning(&self.fields().words, prefix),
            });
        }
        for phrase in &query.phrases {
            plan.required.push(self.exactly(phrase, 1.0)?);
        }
        for run in query.runs.iter().filter(|run| run.len() > 1) {
            plan.bonus.push(self.exactly(run, RUN)?);
        }
        if !query.values.is_empty() {
            let fields = [self.fields().title_value, self.fields().label_value];
            let terms = fields.iter().flat_map(|field| query.values.iter().map(|value| self.owner.term(*field, value)));
            plan.value = Some(self.one_of(terms)?);
        }
        plan.whole = Some(self.unscored(&self.owner.term(self.fields().title_value, &query.whole))?);
        let mut marks = Marks { words: Vec::new(), phrases: query.phrases.clone() };
        let only_stop_words = query.words.iter().all(|word| analyze::is_stop_word(&word.text));
        let mistyped = self.mistyped(&query.words)?;
        for (word, mistyped) in query.words.iter().zip(mistyped) {
            let counts = only_stop_words || word.prefix || !analyze::is_stop_word(&word.text);
            plan.words.push(WordPlan { sure: self.sure(word)?, mistyped: self.variants(&mistyped)?, counts });
            marks.words.push(WordMark {
                text: word.text.clone(),
                stem: word.stem.clone(),
                prefix: word.prefix,
                typos: mistyped.into_iter().collect::<HashSet<_>>(),
            });
        }
        Ok((plan, marks))
    }

    /// The plan of a suggestion: all words, the last as a prefix, in titles and labels.
    pub fn suggest(&self, scope: &Scope, typed: &Typed) -> Result<Plan> {
        let mut plan = self.scope(scope)?;
        let named = [self.fields().words[0], self.fields().words[1]];
        for word in &typed.words {
            plan.required.push(self.in_fields(&named, |field| {
                self.scored(TermQuery::new(self.owner.term(field, word), IndexRecordOption::WithFreqs))
            })?);
        }
        plan.required.push(self.beginning(&named, &typed.prefix));
        plan.whole = Some(self.beginning(&[self.fields().title_value, self.fields().label_value], &typed.whole));
        Ok(plan)
    }

    fn filter(&self, plan: &mut Plan, request: &SearchRequest) -> Result<()> {
        let fields = self.fields();
        let terms = |field, values: &[String]| {
            values.iter().map(|value| Term::from_field_text(field, value)).collect::<Vec<_>>()
        };
        if let Some(project) = request.project {
            plan.filters.push(self.unscored(&Term::from_field_text(fields.project, &project.to_string()))?);
        }
        if !request.kinds.is_empty() {
            plan.filters.push(self.one_of(terms(fields.kind, &request.kinds))?);
        }
        if !request.media_types.is_empty() {
            plan.filters.push(self.one_of(terms(fields.media_type, &request.media_types))?);
        }
        for tag in terms(fields.tag, &request.tags) {
            plan.filters.push(self.unscored(&tag)?);
        }
        Ok(())
    }

    fn sure(&self, word: &Word) -> Result<Box<dyn Weight>> {
        let fields = self.fields();
        let mut parts = Vec::new();
        let stems = fields.stems.map(|field| (field, word.stem.as_str(), STEM));
        let words = fields.words.map(|field| (field, word.text.as_str(), 1.0));
        for (at, (field, text, factor)) in words.into_iter().chain(stems).enumerate() {
            let term = self.owner.term(field, text);
            if self.statistics.has(&term)? {
                let weight = self.scored(TermQuery::new(term, IndexRecordOption::WithFreqs))?;
                parts.push(boosted(weight, WEIGHTS[at % WEIGHTS.len()] * factor));
            }
        }
        if word.prefix {
            parts.push(self.beginning(&fields.words, &word.text));
        }
        Ok(any(parts))
    }

    fn variants(&self, variants: &[String]) -> Result<Option<Box<dyn Weight>>> {
        let mut parts = Vec::new();
        for variant in variants {
            for (field, weight) in self.fields().words.into_iter().zip(WEIGHTS) {
                let term = self.owner.term(field, variant);
                if self.statistics.has(&term)? {
                    let query = TermQuery::new(term, IndexRecordOption::WithFreqs);
                    parts.push(boosted(self.scored(query)?, weight));
                }
            }
        }
        Ok((!parts.is_empty()).then(|| any(parts)))
    }

    /// For each word the words of the index it may have been meant as.
    fn mistyped(&self, words: &[Word]) -> Result<Vec<Vec<String>>> {
        let mut order = Vec::new();
        for (at, word) in words.iter().enumerate() {
            if !word.prefix && analyze::typos(&word.text) > 0 && !analyze::is_stop_word(&word.text) {
                let known = self.statistics.frequency(&self.owner.term(self.fields().words[0], &word.text))?;
                order.push((known, at));
            }
        }
        order.sort_unstable();
        let mut out = vec![Vec::new(); words.len()];
        for (_, at) in order.into_iter().take(MAX_MISTYPED_WORDS) {
            out[at] = self.close_to(&words[at].text)?;
        }
        Ok(out)
    }

    fn close_to(&self, word: &str) -> Result<Vec<String>> {
        // What is read twice is kept with the smaller distance.
        let mut found: BTreeMap<String, u8> = BTreeMap::new();
        for distance in 1..=analyze::typos(word) {
            let term = Term::from_field_text(self.fields().words[0], word);
            let close = Owned::new(&self.owner, FuzzyTermQuery::new(term, distance, true).automaton()?);
            for segment in self.snapshot.searcher.segment_readers() {
                for field in self.fields().words {
                    let index = segment.inverted_index(field)?;
                    let mut terms = index.terms().search(&close).into_stream()?;
                    while terms.advance() {
                        if let Some(variant) = self.owner.strip(terms.key()).filter(|variant| *variant != word) {
                            found.entry(variant.to_owned()).or_insert(distance);
                        }
                    }
                }
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by(|(a, x), (b, y)| x.cmp(y).then(a.cmp(b)));
        found.truncate(MAX_CLOSE);
        // Distance first, then how often. A word that only removed entries had is none.
        let mut weighed = Vec::with_capacity(found.len());
        for (variant, distance) in found {
            let often = self.statistics.frequency(&self.owner.term(self.fields().words[0], &variant))?;
            if often > 0 {
                weighed.push((distance, Reverse(often), variant));
            }
        }
        weighed.sort_unstable();
        Ok(weighed.into_iter().take(MAX_VARIANTS).map(|(.., variant)| variant).collect())
    }

    /// These words in this order, as typed.
    fn exactly(&self, words: &[String], factor: f32) -> Result<Box<dyn Weight>> {
        let mut parts = Vec::new();
        for (field, weight) in self.fields().words.into_iter().zip(WEIGHTS) {
            let mut terms: Vec<_> = words.iter().map(|word| self.owner.term(field, word)).collect();
            let part = match terms.len() {
                0 => continue,
                1 => self.scored(TermQuery::new(terms.remove(0), IndexRecordOption::WithFreqs))?,
                _ => self.scored(PhraseQuery::new(terms))?,
            };
            parts.push(boosted(part, weight * factor));
        }
        Ok(any(parts))
    }

    /// Words that begin so; each counts the same, however rare.
    fn beginning(&self, fields: &[Field], prefix: &str) -> Box<dyn Weight> {
        let parts = fields.iter().enumerate().map(|(at, field)| {
            let weight = AutomatonWeight::new(*field, Owned::new(&self.owner, Beginning(prefix.as_bytes().to_vec())));
            boosted(Box::new(weight), WEIGHTS[at % WEIGHTS.len()])
        });
        any(parts.collect())
    }

    fn in_fields(&self, fields: &[Field], part: impl Fn(Field) -> Result<Box<dyn Weight>>) -> Result<Box<dyn Weight>> {
        let parts = fields.iter().zip(WEIGHTS).map(|(field, weight)| Ok(boosted(part(*field)?, weight)));
        Ok(any(parts.collect::<Result<Vec<_>>>()?))
    }

    fn one_of(&self, terms: impl IntoIterator<Item = Term>) -> Result<Box<dyn Weight>> {
        TermSetQuery::new(terms).weight(EnableScoring::disabled_from_searcher(&self.snapshot.searcher))
    }

    fn unscored(&self, term: &Term) -> Result<Box<dyn Weight>> {
        TermQuery::new(term.clone(), IndexRecordOption::Basic)
            .weight(EnableScoring::disabled_from_searcher(&self.snapshot.searcher))
    }

    fn scored(&self, query: impl tantivy::query::Query) -> Result<Box<dyn Weight>> {
        query.weight(EnableScoring::enabled_from_statistics_provider(&self.statistics, &self.snapshot.searcher))
    }

    fn fields(&self) -> Fields {
        self.snapshot.fields
    }
}

fn boosted(weight: Box<dyn Weight>, boost: f32) -> Box<dyn Weight> {
    Box::new(BoostWeight::new(weight, boost))
}

/// Matches where one matches; the scores of all that do are added.
fn any(mut parts: Vec<Box<dyn Weight>>) -> Box<dyn Weight> {
    match parts.len() {
        0 => Box::new(EmptyWeight),
        1 => parts.remove(0),
        _ => {
            let parts = parts.into_iter().map(|part| (Occur::Should, part)).collect();
            Box::new(BooleanWeight::with_minimum_number_should_match(parts, 1, true, Box::new(SumCombiner::default)))
        }
    }
}

/// Numbers of the organisation that BM25 counts with. One word has one frequency in all fields, so that being
/// rare in a field is no merit. Removed entries, which the index holds until a merge, are not counted: an answer is
/// the same until an entry changes.
struct Statistics<'a> {
    searcher: &'a Searcher,
    fields: Fields,
    entries: u64,
    frequencies: RefCell<HashMap<Vec<u8>, u64>>,
}

impl<'a> Statistics<'a> {
    fn new(snapshot: &'a Snapshot, owner: &Owner) -> Result<Self> {
        let entries =
            snapshot.entries(owner, || alive(&snapshot.searcher, &owner.term(snapshot.fields.organization, "")))?;
        let (searcher, fields) = (&snapshot.searcher, snapshot.fields);
        Ok(Self { searcher, fields, entries: entries.max(1), frequencies: RefCell::default() })
    }

    fn frequency(&self, term: &Term) -> Result<u64> {
        let siblings = if self.fields.stems.contains(&term.field()) { self.fields.stems } else { self.fields.words };
        let text = term.serialized_value_bytes();
        let mut key = text.to_vec();
        key.push(u8::from(siblings == self.fields.stems));
        if let Some(known) = self.frequencies.borrow().get(&key) {
            return Ok(*known);
        }
        let mut most = 0;
        for field in siblings {
            let text = std::str::from_utf8(text).unwrap_or_default();
            most = most.max(alive(self.searcher, &Term::from_field_text(field, text))?);
        }
        let most = most.min(self.entries);
        self.frequencies.borrow_mut().insert(key, most);
        Ok(most)
    }

    /// Whether an entry has this word in this field.
    fn has(&self, term: &Term) -> Result<bool> {
        Ok(self.searcher.doc_freq(term)? > 0 && self.frequency(term)? > 0)
    }
}

/// How many entries have this word, without those that were removed.
fn alive(searcher: &Searcher, term: &Term) -> Result<u64> {
    let mut count = 0;
    for segment in searcher.segment_readers() {
        let index = segment.inverted_index(term.field())?;
        let Some(bits) = segment.alive_bitset() else {
            count += u64::from(index.doc_freq(term)?);
            continue;
        };
        let Some(mut postings) = index.read_postings(term, IndexRecordOption::Basic)? else { continue };
        while postings.doc() != TERMINATED {
            count += u64::from(bits.is_alive(postings.doc()));
            postings.advance();
        }
    }
    Ok(count)
}

impl Bm25StatisticsProvider for Statistics<'_> {
    fn total_num_tokens(&self, field: Field) -> Result<u64> {
        let kinds = [self.fields.words, self.fields.stems];
        let place = kinds.iter().find_map(|fields| fields.iter().position(|one| *one == field));
        Ok(self.entries * place.map_or(1, |place| LENGTHS[place]))
    }

    fn total_num_docs(&self) -> Result<u64> {
        Ok(self.entries)
    }

    fn doc_freq(&self, term: &Term) -> Result<u64> {
        self.frequency(term)
    }
}

/// An automaton behind the owner's characters.
struct Owned<A> {
    owner: Vec<u8>,
    inner: A,
}

impl<A> Owned<A> {
    fn new(owner: &Owner, inner: A) -> Self {
        Self { owner: owner.as_str().as_bytes().to_vec(), inner }
    }
}

#[derive(Clone)]
enum OwnedState<S> {
    Owner(usize),
    Inside(S),
    Elsewhere,
}

impl<A: Automaton> Automaton for Owned<A> {
    type State = OwnedState<A::State>;

    fn start(&self) -> Self::State {
        OwnedState::Owner(0)
    }

    fn is_match(&self, state: &Self::State) -> bool {
        matches!(state, OwnedState::Inside(inner) if self.inner.is_match(inner))
    }

    fn can_match(&self, state: &Self::State) -> bool {
        match state {
            OwnedState::Owner(_) => true,
            OwnedState::Inside(inner) => self.inner.can_match(inner),
            OwnedState::Elsewhere => false,
        }
    }

    fn accept(&self, state: &Self::State, byte: u8) -> Self::State {
        match state {
            OwnedState::Owner(at) if self.owner.get(*at) != Some(&byte) => OwnedState::Elsewhere,
            OwnedState::Owner(at) if at + 1 == self.owner.len() => OwnedState::Inside(self.inner.start()),
            OwnedState::Owner(at) => OwnedState::Owner(at + 1),
            OwnedState::Inside(inner) => OwnedState::Inside(self.inner.accept(inner, byte)),
            OwnedState::Elsewhere => OwnedState::Elsewhere,
        }
    }
}

/// Accepts what begins with these bytes.
struct Beginning(Vec<u8>);

impl Automaton for Beginning {
    /// How much has been read; `None` after a wrong byte.
    type State = Option<usize>;

    fn start(&self) -> Self::State {
        Some(0)
    }

    fn is_match(&self, state: &Self::State) -> bool {
        *state == Some(self.0.len())
    }

    fn can_match(&self, state: &Self::State) -> bool {
        state.is_some()
    }

    fn will_always_match(&self, state: &Self::State) -> bool {
        self.is_match(state)
    }

    fn accept(&self, state: &Self::State, byte: u8) -> Self::State {
        match *state {
            Some(read) if read == self.0.len() => Some(read),
            Some(read) if self.0[read] == byte => Some(read + 1),
            _ => None,
        }
    }
}
