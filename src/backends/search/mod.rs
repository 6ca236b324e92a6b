//! Search: entries go in with the position of the log they come from, ranked answers come out.
//!
//! Invariants
//! - Every read takes a [`Scope`] and applies it inside the index query: hits, totals, facets, suggestions and
//!   highlights are computed from entries of the scope alone.
//! - [`Search::apply`] is durable and visible to readers when it returns, and moves the [`Checkpoint`] together
//!   with the entries. Applying the same changes again changes nothing.
//! - An answer carries the checkpoint of the snapshot that produced it.
//! - Whatever a person types is a query, never a syntax error; beyond a limit the error names the limit.
//!
//! An index is derived: it may be thrown away and filled again from the log at any time. It knows *entries*,
//! not what they stand for; nothing here knows an aggregate, an event or GraphQL.

mod analyze;
mod compare;
mod highlight;
pub mod meilisearch;
mod query;
mod suggest;
pub mod tantivy;

#[cfg(test)]
mod contract;

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::compare::Compared;
pub use self::meilisearch::Meilisearch;
pub use self::tantivy::Tantivy;
use crate::resilience::{Fault, Health, Unanswered};

/// Longest query text, in characters.
pub const MAX_QUERY_CHARS: usize = 1_000;
/// Most words of one query, phrases and exclusions included.
pub const MAX_QUERY_WORDS: usize = 32;
/// Most hits of one page, and most suggestions of one answer.
pub const MAX_FIRST: usize = 100;
/// Most values of one filter (kinds, tags, media types).
pub const MAX_FILTER_VALUES: usize = 50;
/// Most values of one facet in an answer, the most frequent first.
pub const MAX_FACET_VALUES: usize = 100;
/// How much of a body is indexed and stored, in bytes; what follows is not found.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Most changes of one [`Search::apply`].
pub const MAX_CHANGES: usize = 10_000;
/// How long one search may work before it gives up.
pub const MAX_SEARCH_TIME: Duration = Duration::from_secs(5);

/// How long a server may take to say that it is there.
const CHECK_WITHIN: Duration = Duration::from_secs(3);

/// One findable thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The global id. Putting an entry with the same id replaces the older one.
    pub id: String,
    /// What it is, as the reader knows it ("Document", "Project").
    pub kind: String,
    /// The organisation that owns it.
    pub organization: Uuid,
    /// The project whose members may see it; `None`: only who sees the whole organisation.
    pub project: Option<Uuid>,
    /// Its title.
    pub title: String,
    /// Its text; what exceeds [`MAX_BODY_BYTES`] is cut.
    pub body: String,
    /// Its tags, found by their words and filtered by their exact value.
    pub tags: Vec<String>,
    /// Its media type, filtered by its exact value.
    pub media_type: Option<String>,
    /// Further words it is found by: a file name, a key.
    pub keywords: Vec<String>,
    /// When it last changed; orders entries of equal relevance, newest first.
    pub updated_at: DateTime<Utc>,
}

/// One step of the index.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Adds the entry, or replaces the one with its id.
    Put(Box<Entry>),
    /// Removes an entry; nothing happens when there is none.
    Remove {
        /// The entry's global id.
        id: String,
    },
    /// Removes everything of one organisation.
    RemoveOrganization(Uuid),
}

/// Where in the log an index stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Checkpoint {
    /// The position of the last event that was applied.
    pub position: i64,
    /// That event's id; another id at this position means another history.
    pub event_id: Uuid,
}

/// What the reader may see. Mandatory in every read.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// Only entries of this organisation.
    pub organization: Uuid,
    /// Only entries of these projects; `None`: everything of the organisation.
    pub projects: Option<Vec<Uuid>>,
}

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SearchRequest {
    /// What the person typed; empty: everything, newest first.
    pub query: String,
    /// Only these kinds; empty: all.
    pub kinds: Vec<String>,
    /// Only this project, within the scope.
    pub project: Option<Uuid>,
    /// Only entries that carry *all* of these tags.
    pub tags: Vec<String>,
    /// Only entries of *one* of these media types; empty: all.
    pub media_types: Vec<String>,
    /// How many hits, at most [`MAX_FIRST`].
    pub first: usize,
    /// Continue behind this hit.
    pub after: Option<Cursor>,
}

/// Where a hit stands in the order of its answer. Opaque; exact while the index stands still. When it changes
/// between two pages, an entry whose relevance changed meanwhile may be seen twice or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// The answer to a [`SearchRequest`].
#[derive(Debug, Clone, PartialEq)]
pub struct SearchAnswer {
    /// This page, best first.
    pub hits: Vec<Hit>,
    /// How many entries match, on all pages.
    pub total: u64,
    /// Counts over all matches, under the same scope and filters.
    pub facets: Vec<FacetCounts>,
    /// Whether there is a further page.
    pub has_next: bool,
    /// Where the snapshot that answered stands; `None`: nothing was ever applied.
    pub checkpoint: Option<Checkpoint>,
}

/// One found entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The entry's global id.
    pub id: String,
    /// The entry's kind.
    pub kind: String,
    /// Its relevance; comparable within one answer only.
    pub score: f64,
    /// Where the query was found.
    pub highlights: Vec<Highlight>,
    /// The place behind this hit.
    pub cursor: Cursor,
}

/// Fragments of one field, HTML-escaped, matches between `<mark>` and `</mark>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Highlight {
    /// The field they are from.
    pub field: HighlightField,
    /// The fragments, in the order of the text.
    pub fragments: Vec<String>,
}

/// The fields that are highlighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HighlightField {
    /// The whole title.
    Title,
    /// Up to three pieces of the body, of about 150 characters.
    Body,
}

impl HighlightField {
    /// The name that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Body => "body",
        }
    }
}

/// What matches are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FacetField {
    /// The entry's kind.
    Type,
    /// Each of its tags.
    Tag,
    /// Its project.
    Project,
    /// Its media type.
    MediaType,
}

impl FacetField {
    /// All of them, in the order of an answer.
    pub const ALL: [Self; 4] = [Self::Type, Self::Tag, Self::Project, Self::MediaType];

    /// The name that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Tag => "tag",
            Self::Project => "project",
            Self::MediaType => "mediaType",
        }
    }
}

/// The exact number of matches per value, most frequent first, at most [`MAX_FACET_VALUES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FacetCounts {
    /// What is counted.
    pub field: FacetField,
    /// Each value and its count.
    pub values: Vec<(String, u64)>,
}

/// A text that continues what the person typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The title, keyword or tag.
    pub text: String,
    /// The entry it belongs to; `None` for a tag, which belongs to many.
    pub id: Option<String>,
    /// The entry's kind, or `tag`.
    pub kind: String,
}

/// The size of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Entries of all organisations.
    pub documents: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What can go wrong. Texts name what to change; causes are for the log.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The request is larger than the product allows.
    #[error("{what}: at most {limit}, not {got}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
        /// How much was asked for.
        got: usize,
    },
    /// The search gave up.
    #[error("the search took longer than {} s: use fewer or longer words, or a filter", .0.as_secs())]
    TooSlow(Duration),
    /// The cursor was not given out by this backend.
    #[error("the cursor is not one that a search gave out: start again without it")]
    Cursor,
    /// The index cannot be used as it is.
    #[error("the index has to be rebuilt: {0}")]
    Damaged(String),
    /// The checkpoint is older than the index.
    #[error("the index stands at position {at} and cannot go back to {to}: reset or rebuild it")]
    Backwards {
        /// Where the index stands.
        at: i64,
        /// Where it was told to go.
        to: i64,
    },
    /// A second rebuild was begun.
    #[error("a rebuild is already running: finish or abort it first")]
    Rebuilding,
    /// The backend does not answer; the work may be tried again.
    #[error("the search index is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Unanswered> for SearchError {
    fn from(why: Unanswered) -> Self {
        Self::unavailable(why)
    }
}

impl Fault for SearchError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(cause) if !meilisearch::is_answer(cause.as_ref()))
    }
}

impl SearchError {
    /// Whether only a rebuild (or reset) helps.
    pub fn needs_rebuild(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }

    /// Whether the one who asked can mend it; otherwise it is the installation's.
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Limit { .. } | Self::TooSlow(_) | Self::Cursor)
    }

    pub(crate) fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into())
    }
}

/// The search backend. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Search {
    /// In process, in a folder.
    Tantivy(Tantivy),
    /// A Meilisearch server.
    Meilisearch(Meilisearch),
}

impl Search {
    /// Makes the changes and moves the checkpoint, both or neither (Meilisearch: the checkpoint last, so a
    /// crash between repeats the changes). Durable, and seen by readers, when it returns.
    pub async fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        at_most("changes of one batch", MAX_CHANGES, changes.len())?;
        match self {
            Self::Tantivy(index) => index.apply(changes, to).await,
            Self::Meilisearch(index) => index.guard().once(index.apply(changes, to)).await,
        }
    }

    /// Where the index stands; `None`: it is new or was reset, and wants the log from its beginning.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, SearchError> {
        match self {
            Self::Tantivy(index) => Ok(index.checkpoint()),
            Self::Meilisearch(index) => index.guard().repeat(|| index.checkpoint()).await,
        }
    }

    /// Answers a request from what the scope may see.
    pub async fn search(&self, scope: &Scope, request: &SearchRequest) -> Result<SearchAnswer, SearchError> {
        request.check()?;
        match self {
            Self::Tantivy(index) => index.search(scope, request).await,
            Self::Meilisearch(index) => index.guard().repeat(|| index.search(scope, request)).await,
        }
    }

    /// Titles, keywords and tags in the scope with words that begin like what was typed, best first.
    pub async fn suggest(&self, scope: &Scope, prefix: &str, first: usize) -> Result<Vec<Suggestion>, SearchError> {
        at_most("first", MAX_FIRST, first)?;
        at_most("characters of a query", MAX_QUERY_CHARS, prefix.chars().count())?;
        match self {
            Self::Tantivy(index) => index.suggest(scope, prefix, first).await,
            Self::Meilisearch(index) => index.guard().repeat(|| index.suggest(scope, prefix, first)).await,
        }
    }

    /// Opens an empty generation beside the running one, which goes on serving and being applied to. One at a
    /// time; what an earlier, killed rebuild left is removed.
    pub async fn begin_rebuild(&self) -> Result<Rebuild, SearchError> {
        Ok(match self {
            Self::Tantivy(index) => Rebuild::Tantivy(index.begin_rebuild().await?),
            Self::Meilisearch(index) => Rebuild::Meilisearch(index.guard().once(index.begin_rebuild()).await?),
        })
    }

    /// Forgets everything at once, checkpoint included: for an index of another history.
    pub async fn reset(&self) -> Result<(), SearchError> {
        match self {
            Self::Tantivy(index) => index.reset().await,
            Self::Meilisearch(index) => index.guard().once(index.reset()).await,
        }
    }

    /// How large the index is.
    pub async fn stats(&self) -> Result<Stats, SearchError> {
        match self {
            Self::Tantivy(index) => index.stats().await,
            Self::Meilisearch(index) => index.guard().repeat(|| index.stats()).await,
        }
    }

    /// Whether the index answers.
    pub async fn check(&self) -> Result<(), SearchError> {
        match self {
            Self::Tantivy(_) => Ok(()),
            Self::Meilisearch(index) => index.guard().look(CHECK_WITHIN, index.checkpoint()).await.map(drop),
        }
    }

    /// How the server of the index is; `None` in process.
    pub fn health(&self) -> Option<Health> {
        match self {
            Self::Tantivy(_) => None,
            Self::Meilisearch(index) => Some(index.guard().health()),
        }
    }

    /// How often the index was built, counted from 1; another one answers after a rebuild or a reset.
    pub fn generation(&self) -> i32 {
        match self {
            Self::Tantivy(index) => index.generation(),
            Self::Meilisearch(index) => index.generation(),
        }
    }

    /// Of the way in which entries are held: an index of another version is built anew.
    pub fn version(&self) -> i32 {
        match self {
            Self::Tantivy(_) => tantivy::VERSION,
            Self::Meilisearch(_) => meilisearch::VERSION,
        }
    }

    /// The backend's name, for `system` and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tantivy(_) => "tantivy",
            Self::Meilisearch(_) => "meilisearch",
        }
    }
}

/// A generation that is being filled. Dropped without [`Rebuild::switch`], it never existed.
#[derive(Debug)]
#[must_use]
pub enum Rebuild {
    /// In process.
    Tantivy(tantivy::Rebuild),
    /// On a Meilisearch server.
    Meilisearch(meilisearch::Rebuild),
}

impl Rebuild {
    /// As [`Search::apply`], on the new generation.
    pub async fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        at_most("changes of one batch", MAX_CHANGES, changes.len())?;
        match self {
            Self::Tantivy(rebuild) => rebuild.apply(changes, to).await,
            Self::Meilisearch(rebuild) => rebuild.apply(changes, to).await,
        }
    }

    /// Where the new generation stands.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, SearchError> {
        match self {
            Self::Tantivy(rebuild) => Ok(rebuild.checkpoint()),
            Self::Meilisearch(rebuild) => rebuild.checkpoint().await,
        }
    }

    /// Compares the running generation with this one, entry by entry: all that a search reads of each. `still` keeps
    /// the running one from being applied to, and is let go as soon as that does not matter any more: in process at
    /// once, on a server at the end.
    pub async fn compare(&self, still: impl Send) -> Result<Compared, SearchError> {
        match self {
            Self::Tantivy(rebuild) => rebuild.compare(still).await,
            Self::Meilisearch(rebuild) => rebuild.compare(still).await,
        }
    }

    /// Replaces the running generation by this one, which must not stand behind it. The next
    /// [`Search::checkpoint`] is this generation's: whoever follows the log continues from there.
    pub async fn switch(self) -> Result<(), SearchError> {
        match self {
            Self::Tantivy(rebuild) => rebuild.switch().await,
            Self::Meilisearch(rebuild) => rebuild.switch().await,
        }
    }

    /// Removes the new generation.
    pub async fn abort(self) -> Result<(), SearchError> {
        match self {
            Self::Tantivy(rebuild) => rebuild.abort().await,
            Self::Meilisearch(rebuild) => rebuild.abort().await,
        }
    }
}

impl SearchRequest {
    fn check(&self) -> Result<(), SearchError> {
        at_most("first", MAX_FIRST, self.first)?;
        at_most("characters of a query", MAX_QUERY_CHARS, self.query.chars().count())?;
        at_most("values of the filter by type", MAX_FILTER_VALUES, self.kinds.len())?;
        at_most("values of the filter by tag", MAX_FILTER_VALUES, self.tags.len())?;
        at_most("values of the filter by media type", MAX_FILTER_VALUES, self.media_types.len())
    }
}

fn at_most(what: &'static str, limit: usize, got: usize) -> Result<(), SearchError> {
    if got > limit {
        return Err(SearchError::Limit { what, limit, got });
    }
    Ok(())
}

/// An index follows a log, which never shrinks; the same position again is a retry.
fn not_backwards(at: Option<Checkpoint>, to: Checkpoint) -> Result<(), SearchError> {
    match at {
        Some(at) if at.position > to.position => Err(SearchError::Backwards { at: at.position, to: to.position }),
        _ => Ok(()),
    }
}

/// The most frequent values, equals by name.
fn most_frequent(mut values: Vec<(String, u64)>) -> Vec<(String, u64)> {
    values.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    values.truncate(MAX_FACET_VALUES);
    values
}
