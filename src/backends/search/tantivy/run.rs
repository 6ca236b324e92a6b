//! The loop over all matches of a plan: filters, ranks, counts facets, keeps the best.
//!
//! An entry's rank is its class, and within it how well it matches:
//! 4 the whole query is its title; 3 it has all words; 2 all, some of them only with typing errors; 1 some words;
//! 0 some, only with typing errors. So an exact match precedes a mistyped one, and all words precede some.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use tantivy::columnar::Column;
use tantivy::index::SegmentReader;
use tantivy::query::{Scorer, Weight};
use tantivy::{DocAddress, DocId, DocSet, Searcher, TERMINATED};

use super::super::{Cursor, MAX_SEARCH_TIME, SearchError};
use super::facets::Facets;
use super::plan::Plan;
use super::schema;

/// A mistyped word counts less than one as typed.
const MISTYPED: f32 = 0.3;
/// A value that is typed as such is what was meant.
const VALUE: f64 = 20.0;
/// Scores around this are in the middle of their class.
const MIDDLE: f64 = 12.0;
/// Candidates between two looks at the clock.
const PATIENCE: u32 = 1_024;

/// An entry's place in the order: relevance, then the newest, then a number that follows from its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// The bits of a number that is never negative, which order as it does.
    relevance: u64,
    updated: i64,
    tie: u64,
}

impl Rank {
    const CURSOR: u8 = b't';

    pub fn relevance(&self) -> f64 {
        f64::from_bits(self.relevance)
    }

    pub fn cursor(&self) -> Cursor {
        let mut bytes = vec![Self::CURSOR];
        bytes.extend(self.relevance.to_be_bytes());
        bytes.extend(self.updated.to_be_bytes());
        bytes.extend(self.tie.to_be_bytes());
        Cursor(data_encoding::BASE64URL_NOPAD.encode(&bytes))
    }

    pub fn from_cursor(cursor: &Cursor) -> Result<Self, SearchError> {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(cursor.0.as_bytes()).map_err(|_| SearchError::Cursor)?;
        let Some((&Self::CURSOR, rest)) = bytes.split_first() else { return Err(SearchError::Cursor) };
        let number = |at: usize| {
            let bytes = rest.get(at * 8..at * 8 + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_be_bytes).ok_or(SearchError::Cursor)
        };
        if rest.len() != 24 {
            return Err(SearchError::Cursor);
        }
        Ok(Self { relevance: number(0)?, updated: number(1)?.cast_signed(), tie: number(2)? })
    }
}

/// One of the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranked {
    pub rank: Rank,
    pub at: DocAddress,
    /// A bit per word of the query that matched without typing errors.
    pub sure: u32,
}

pub(super) struct Found {
    /// Best first.
    pub best: Vec<Ranked>,
    pub total: u64,
    pub facets: Facets,
}

/// What is wanted of the matches.
pub(super) struct Wanted {
    /// Everything that passes the filters matches, newest first.
    pub browse: bool,
    /// Only those behind this place; all are counted.
    pub after: Option<Rank>,
    /// How many of the best.
    pub limit: usize,
    /// When to give up.
    pub until: Instant,
}

/// Runs the plan over the snapshot.
pub(super) fn run(searcher: &Searcher, plan: &Plan, wanted: &Wanted, facets: Facets) -> Result<Found, SearchError> {
    let mut found = Found { best: Vec::new(), total: 0, facets };
    let mut best = BinaryHeap::with_capacity(wanted.limit + 1);
    let mut looked = 0;
    for (ordinal, reader) in (0u32..).zip(searcher.segment_readers()) {
        let mut matcher = Matcher::new(plan, reader, wanted.browse)?;
        let columns = Columns::new(reader)?;
        let mut counts = found.facets.segment(reader)?;
        while let Some((doc, relevance, sure)) = matcher.next(&mut || {
            looked += 1;
            if looked % PATIENCE == 1 && Instant::now() > wanted.until {
                return Err(SearchError::TooSlow(MAX_SEARCH_TIME));
            }
            Ok(())
        })? {
            found.total += 1;
            counts.count(doc);
            let rank = columns.rank(doc, relevance);
            if wanted.after.is_none_or(|after| rank < after) {
                best.push(Reverse(Ranked { rank, at: DocAddress::new(ordinal, doc), sure }));
                if best.len() > wanted.limit {
                    best.pop();
                }
            }
        }
        found.facets.add(counts)?;
    }
    found.best = best.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked).collect();
    Ok(found)
}

struct Columns {
    updated: Column<i64>,
    tie: Column<u64>,
}

impl Columns {
    fn new(reader: &SegmentReader) -> Result<Self, SearchError> {
        let columns = reader.fast_fields();
        Ok(Self { updated: columns.i64(schema::UPDATED)?, tie: columns.u64(schema::TIE)? })
    }

    fn rank(&self, doc: DocId, relevance: f64) -> Rank {
        Rank {
            relevance: relevance.to_bits(),
            updated: self.updated.first(doc).unwrap_or(i64::MIN),
            tie: self.tie.first(doc).unwrap_or(0),
        }
    }
}

/// The plan's postings in one segment.
struct Matcher<'a> {
    reader: &'a SegmentReader,
    browse: bool,
    filters: Vec<Box<dyn Scorer>>,
    required: Vec<Box<dyn Scorer>>,
    excluded: Vec<Box<dyn Scorer>>,
    words: Vec<WordScorers>,
    bonus: Vec<Box<dyn Scorer>>,
    value: Option<Box<dyn Scorer>>,
    whole: Option<Box<dyn Scorer>>,
    /// No document before this one is left to look at.
    target: DocId,
}

struct WordScorers {
    sure: Box<dyn Scorer>,
    mistyped: Option<Box<dyn Scorer>>,
    counts: bool,
}

impl<'a> Matcher<'a> {
    fn new(plan: &Plan, reader: &'a SegmentReader, browse: bool) -> Result<Self, SearchError> {
        let one = |weight: &dyn Weight| Ok::<_, SearchError>(weight.scorer(reader, 1.0)?);
        let maybe = |weight: &Option<Box<dyn Weight>>| weight.as_deref().map(one).transpose();
        let all = |weights: &[Box<dyn Weight>]| {
            weights.iter().map(|weight| one(weight.as_ref())).collect::<Result<Vec<_>, _>>()
        };
        let mut words = Vec::with_capacity(plan.words.len());
        for word in &plan.words {
            let (sure, mistyped) = (one(word.sure.as_ref())?, maybe(&word.mistyped)?);
            words.push(WordScorers { sure, mistyped, counts: word.counts });
        }
        Ok(Self {
            reader,
            browse,
            filters: all(&plan.filters)?,
            required: all(&plan.required)?,
            excluded: all(&plan.excluded)?,
            words,
            bonus: all(&plan.bonus)?,
            value: maybe(&plan.value)?,
            whole: maybe(&plan.whole)?,
            target: 0,
        })
    }

    /// The next match with its relevance and the words it surely has.
    fn next(
        &mut self,
        look: &mut dyn FnMut() -> Result<(), SearchError>,
    ) -> Result<Option<(DocId, f64, u32)>, SearchError> {
        'candidates: while self.target != TERMINATED {
            let doc = self.candidate();
            if doc == TERMINATED {
                break;
            }
            look()?;
            for filter in &mut self.filters {
                let at = seek(filter, doc);
                if at != doc {
                    self.target = at;
                    continue 'candidates;
                }
            }
            self.target = doc + 1;
            if !self.reader.is_deleted(doc)
                && self.required.iter_mut().all(|required| seek(required, doc) == doc)
                && !self.excluded.iter_mut().any(|excluded| seek(excluded, doc) == doc)
            {
                let (relevance, sure) = self.relevance(doc);
                return Ok(Some((doc, relevance, sure)));
            }
        }
        Ok(None)
    }

    fn candidate(&mut self) -> DocId {
        let target = self.target;
        if self.browse {
            return self.filters.first_mut().map_or(TERMINATED, |filter| seek(filter, target));
        }
        if let Some(required) = self.required.first_mut() {
            return seek(required, target);
        }
        let mut first = self.value.as_mut().map_or(TERMINATED, |value| seek(value, target));
        for word in self.words.iter_mut().filter(|word| word.counts) {
            first = first.min(seek(&mut word.sure, target));
            if let Some(mistyped) = &mut word.mistyped {
                first = first.min(seek(mistyped, target));
            }
        }
        first
    }

    fn relevance(&mut self, doc: DocId) -> (f64, u32) {
        if self.browse {
            return (0.0, 0);
        }
        let mut score = 0.0;
        let (mut all, mut all_sure, mut some_sure) = (true, true, !self.required.is_empty());
        let mut sure = 0;
        for (at, word) in self.words.iter_mut().enumerate() {
            if seek(&mut word.sure, doc) == doc {
                score += word.sure.score();
                sure |= 1 << at;
                some_sure |= word.counts;
            } else if word.mistyped.as_mut().is_some_and(|mistyped| seek(mistyped, doc) == doc) {
                score += word.mistyped.as_mut().map_or(0.0, |mistyped| MISTYPED * mistyped.score());
                all_sure &= !word.counts;
            } else if word.counts {
                all = false;
            }
        }
        for scorer in self.required.iter_mut().chain(&mut self.bonus) {
            if seek(scorer, doc) == doc {
                score += scorer.score();
            }
        }
        let mut score = f64::from(score.max(0.0));
        if self.value.as_mut().is_some_and(|value| seek(value, doc) == doc) {
            score += VALUE;
            some_sure = true;
        }
        let class = if self.whole.as_mut().is_some_and(|whole| seek(whole, doc) == doc) {
            4.0
        } else {
            match (all, all_sure, some_sure) {
                (true, true, _) => 3.0,
                (true, false, _) => 2.0,
                (false, _, true) => 1.0,
                (false, _, false) => 0.0,
            }
        };
        (class + score / (score + MIDDLE), sure)
    }
}

/// The scorer's first document that is not before the target.
fn seek(scorer: &mut Box<dyn Scorer>, target: DocId) -> DocId {
    let doc = scorer.doc();
    if doc < target { scorer.seek(target) } else { doc }
}
