//! From a snapshot and a question to an answer.

use std::time::Instant;

use tantivy::schema::{Field, Value};
use tantivy::{DocAddress, TantivyDocument};

use super::super::highlight::Highlighter;
use super::super::query::Query;
use super::super::suggest::{Candidates, Typed};
use super::super::{
    FacetField, Highlight, HighlightField, Hit, Scope, SearchAnswer, SearchError, SearchRequest, Suggestion,
};
use super::facets::Facets;
use super::generation::Snapshot;
use super::plan::Planner;
use super::run::{Rank, Wanted, run};

/// Entries that suggestions are taken from.
const MAX_SUGGESTING: usize = 200;

pub(super) fn search(
    snapshot: &Snapshot,
    scope: &Scope,
    request: &SearchRequest,
    until: Instant,
) -> Result<SearchAnswer, SearchError> {
    let query = Query::parse(&request.query)?;
    let after = request.after.as_ref().map(Rank::from_cursor).transpose()?;
    let (plan, marks) = Planner::new(snapshot, scope)?.search(scope, request, &query)?;
    let facets = Facets::of(&FacetField::ALL);
    let wanted = Wanted { browse: query.is_browse(), after, limit: request.first + 1, until };
    let mut found = run(&snapshot.searcher, &plan, &wanted, facets)?;
    let has_next = found.best.len() > request.first;
    found.best.truncate(request.first);
    let mut highlighter = Highlighter::new(&marks);
    let mut hits = Vec::with_capacity(found.best.len());
    for ranked in found.best {
        let entry = Stored::read(snapshot, ranked.at)?;
        let mut highlights = Vec::new();
        if let Some(title) = highlighter.whole(entry.first(snapshot.fields.title), ranked.sure) {
            highlights.push(Highlight { field: HighlightField::Title, fragments: vec![title] });
        }
        let fragments = highlighter.fragments(entry.first(snapshot.fields.body), ranked.sure);
        if !fragments.is_empty() {
            highlights.push(Highlight { field: HighlightField::Body, fragments });
        }
        hits.push(Hit {
            id: entry.first(snapshot.fields.id).to_owned(),
            kind: entry.first(snapshot.fields.kind).to_owned(),
            score: ranked.rank.relevance(),
            highlights,
            cursor: ranked.rank.cursor(),
        });
    }
    Ok(SearchAnswer {
        hits,
        total: found.total,
        facets: found.facets.finish(),
        has_next,
        checkpoint: snapshot.checkpoint,
    })
}

pub(super) fn suggest(
    snapshot: &Snapshot,
    scope: &Scope,
    typed: &str,
    first: usize,
    until: Instant,
) -> Result<Vec<Suggestion>, SearchError> {
    let Some(typed) = Typed::parse(typed)? else { return Ok(Vec::new()) };
    let plan = Planner::new(snapshot, scope)?.suggest(scope, &typed)?;
    let wanted = Wanted { browse: false, after: None, limit: MAX_SUGGESTING, until };
    let found = run(&snapshot.searcher, &plan, &wanted, Facets::of(&[FacetField::Tag]))?;
    let mut candidates = Candidates::new(&typed);
    for ranked in &found.best {
        let entry = Stored::read(snapshot, ranked.at)?;
        let (id, kind) = (entry.first(snapshot.fields.id), entry.first(snapshot.fields.kind));
        candidates.title(entry.first(snapshot.fields.title), id, kind);
        for keyword in entry.all(snapshot.fields.keyword) {
            candidates.keyword(keyword, id, kind);
        }
    }
    for (tag, count) in found.facets.into_values() {
        candidates.tag(&tag, count);
    }
    Ok(candidates.best(first))
}

/// The stored fields of an entry.
struct Stored(TantivyDocument);

impl Stored {
    fn read(snapshot: &Snapshot, at: DocAddress) -> Result<Self, SearchError> {
        Ok(Self(snapshot.searcher.doc(at)?))
    }

    fn first(&self, field: Field) -> &str {
        self.all(field).next().unwrap_or_default()
    }

    fn all(&self, field: Field) -> impl Iterator<Item = &str> {
        self.0.get_all(field).filter_map(|value| value.as_value().as_str())
    }
}
