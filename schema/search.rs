//! Search and suggestions, from the index of this node.
//!
//! Invariants: the scope of the viewer is part of the index query, so hits, totals, facets and suggestions are counted
//! from what they may see; and what was found is loaded through the reader once more, so that an index that lags shows
//! nothing that they may not see by now. A kind of thing whose permission is missing is not searched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_graphql::{Context, Enum, ID, Object, SimpleObject, Union};
use oriel_backends::resilience::whole_text;
use oriel_backends::search::{self as index, Checkpoint, Cursor, FacetField, Hit, SearchError, SearchRequest};
use oriel_domain::projects::ProjectId;
use oriel_engine::read::{PageInfo, ReadError, Reader};
use oriel_kernel::{Permission, Position, RawId, Visible, operations};
use oriel_read_models::{documents, passing, projects, search};
use uuid::Uuid;

use crate::access::{Result, error, reader, unavailable};
use crate::services::Services;

#[cfg(test)]
mod tests;

/// What can be searched.
#[derive(Default)]
pub struct SearchQuery;

/// What the request wants its answer to have seen, for those who answer from something else than the log.
#[derive(Clone, Copy, Debug)]
pub struct AtLeast(pub Position);

#[operations(query)]
impl SearchQuery {
    /// Finds documents and projects by their words, best first: titles, tags, file names, keys and the text in files.
    /// Words in quotation marks have to stand together, and a word with a minus before it must not occur; an empty
    /// query finds everything, newest first. The index follows the log within moments: `position` says how far.
    #[permission("search:view")]
    #[allow(clippy::too_many_arguments)]
    async fn search(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "What to find; at most 1000 characters and 32 words.")] query: String,
        #[graphql(desc = "Only these kinds of things.")] types: Option<Vec<SearchType>>,
        #[graphql(desc = "Only what is in this project.")] project_id: Option<ProjectId>,
        #[graphql(desc = "Only what has all of these tags.")] tags: Option<Vec<String>>,
        #[graphql(desc = "Only files of one of these media types.")] media_types: Option<Vec<String>>,
        #[graphql(desc = "How many; 20 unless said, at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
    ) -> Result<SearchConnection> {
        let services = Services::of(cx)?;
        let reader = reader(cx)?;
        let request = SearchRequest {
            query,
            kinds: kinds(&reader, types.as_deref()),
            project: project_id.map(|id| id.uuid()),
            tags: tags.unwrap_or_default(),
            media_types: media_types.unwrap_or_default(),
            first: how_many(first, 20)?,
            after: after.map(Cursor),
        };
        let begun = Instant::now();
        record(&reader);
        caught_up(cx, services).await?;
        if request.kinds.is_empty() {
            return Ok(SearchConnection::empty(services.operations.index_position()));
        }
        // Events that change no entry do not move the index's own checkpoint.
        let passed = services.operations.index_position();
        let answer = services.search.search(&scope(&reader), &request).await.map_err(shown)?;
        let position = passed.max(place(answer.checkpoint));
        reader.recorder().as_of(position);
        let page = load(&reader, answer.hits).await?;
        let edges = page.edges;
        Ok(SearchConnection {
            page_info: PageInfo {
                has_next_page: answer.has_next,
                has_previous_page: request.after.is_some(),
                // Of all hits, those that were dropped included: the next page begins behind them.
                start_cursor: page.start,
                end_cursor: page.end,
            },
            facets: answer.facets.into_iter().map(Facet::from).collect(),
            total: answer.total.saturating_sub(page.dropped),
            position,
            took: begun.elapsed(),
            edges,
        })
    }

    /// Titles, tags, keys and file names with words that begin like what was typed, best first. For a search field
    /// that answers while somebody types.
    #[permission("search:view")]
    async fn suggest(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "What was typed so far.")] prefix: String,
        #[graphql(default = 8, desc = "How many; at most 100.")] first: i32,
    ) -> Result<Vec<Suggestion>> {
        let services = Services::of(cx)?;
        let reader = reader(cx)?;
        let first = how_many(Some(first), 8)?;
        record(&reader);
        caught_up(cx, services).await?;
        let kinds = kinds(&reader, None);
        let at = services.operations.index_position();
        reader.recorder().as_of(at);
        let found = services.search.suggest(&scope(&reader), &prefix, first).await.map_err(shown)?;
        // A tag names nothing; it comes from documents.
        let may = |kind: &str| kinds.iter().any(|k| k == if kind == TAG { SearchType::Document.kind() } else { kind });
        Ok(found.into_iter().filter(|found| may(&found.kind)).map(Suggestion::from).collect())
    }
}

/// A kind of thing that can be found.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SearchType {
    /// A document.
    Document,
    /// A project.
    Project,
}

impl SearchType {
    const ALL: [Self; 2] = [Self::Document, Self::Project];

    /// Its kind in the index: the name of its GraphQL type.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Document => "Document",
            Self::Project => "Project",
        }
    }

    /// Its name in the API.
    const fn name(self) -> &'static str {
        match self {
            Self::Document => "DOCUMENT",
            Self::Project => "PROJECT",
        }
    }

    const fn permission(self) -> Permission {
        match self {
            Self::Document => documents::VIEW,
            Self::Project => projects::VIEW,
        }
    }

    fn of(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|found| found.kind() == kind)
    }
}

/// The kind of a suggestion that is a tag.
const TAG: &str = "tag";

/// Something that was found.
#[derive(Union)]
enum SearchResult {
    /// A document.
    Document(Arc<documents::Model>),
    /// A project.
    Project(Arc<projects::Model>),
}

/// A page of what was found, best first.
struct SearchConnection {
    edges: Vec<SearchEdge>,
    facets: Vec<Facet>,
    page_info: PageInfo,
    total: u64,
    position: Position,
    took: Duration,
}

/// A page of what was found, best first.
#[Object]
impl SearchConnection {
    /// What was found, with where and how well.
    async fn edges(&self) -> &[SearchEdge] {
        &self.edges
    }

    /// What was found.
    async fn nodes(&self) -> Vec<&SearchResult> {
        self.edges.iter().map(|edge| &edge.node).collect()
    }

    /// How many there are of each type, tag, project and media type: over everything that matches, on all pages.
    async fn facets(&self) -> &[Facet] {
        &self.facets
    }

    /// Where this page stands in the list.
    async fn page_info(&self) -> &PageInfo {
        &self.page_info
    }

    /// How many things match, on all pages.
    async fn total_count(&self) -> i32 {
        i32::try_from(self.total).unwrap_or(i32::MAX)
    }

    /// Where in the log the index stood when it answered: what happened later is not found yet.
    async fn position(&self, cx: &Context<'_>) -> Position {
        // It moves with every event of the installation, found or not.
        passing(cx);
        self.position
    }

    /// How long the search took, in milliseconds.
    async fn took_ms(&self, cx: &Context<'_>) -> f64 {
        passing(cx);
        self.took.as_secs_f64() * 1_000.0
    }
}

impl SearchConnection {
    fn empty(position: Position) -> Self {
        Self {
            edges: Vec::new(),
            facets: Vec::new(),
            page_info: PageInfo::default(),
            total: 0,
            position,
            took: Duration::ZERO,
        }
    }
}

/// Something that was found, where, and how well it fits.
#[derive(SimpleObject)]
struct SearchEdge {
    /// What was found.
    node: SearchResult,
    /// How well it fits; comparable within one answer only.
    score: f64,
    /// Where the words were found.
    highlights: Vec<Highlight>,
    /// Its place in this list; give it back as `after`.
    cursor: String,
}

/// Where the words were found in one field.
#[derive(SimpleObject)]
struct Highlight {
    /// `title` or `body`.
    field: String,
    /// Pieces of its text as HTML: matches stand between `<mark>` and `</mark>`, all else is escaped.
    fragments: Vec<String>,
}

/// How many of the things that match have which value.
#[derive(SimpleObject)]
struct Facet {
    /// `type`, `tag`, `project` or `mediaType`.
    field: String,
    /// The values, most frequent first, at most 100. Each can be given back as an argument of the search.
    values: Vec<FacetValue>,
}

/// A value and its count.
#[derive(SimpleObject)]
struct FacetValue {
    /// The value: a type, a tag, the id of a project, or a media type.
    value: String,
    /// How many of the things that match have it.
    count: i32,
}

/// A text that continues what was typed.
#[derive(SimpleObject)]
struct Suggestion {
    /// The text: a title, a tag, a key or a file name.
    text: String,
    /// The thing that it belongs to; null for a tag, which belongs to many.
    id: Option<ID>,
    /// What kind of thing that is; null for a tag.
    #[graphql(name = "type")]
    kind: Option<SearchType>,
}

impl From<index::FacetCounts> for Facet {
    fn from(counts: index::FacetCounts) -> Self {
        let value = |value: String| match counts.field {
            FacetField::Type => SearchType::of(&value).map_or(value, |kind| kind.name().to_owned()),
            FacetField::Project => Uuid::parse_str(&value).map_or(value, |uuid| ProjectId::from_uuid(uuid).to_string()),
            FacetField::Tag | FacetField::MediaType => value,
        };
        let values = counts.values.into_iter();
        let values = values
            .map(|(text, count)| FacetValue { value: value(text), count: i32::try_from(count).unwrap_or(i32::MAX) });
        Self { field: counts.field.as_str().to_owned(), values: values.collect() }
    }
}

impl From<index::Suggestion> for Suggestion {
    fn from(found: index::Suggestion) -> Self {
        Self { text: found.text, id: found.id.map(ID), kind: SearchType::of(&found.kind) }
    }
}

// --- from the viewer to the index, and back --------------------------------------------------------------------------

fn scope(reader: &Reader) -> index::Scope {
    index::Scope {
        organization: reader.organization().uuid(),
        projects: match reader.visible() {
            Visible::All => None,
            Visible::Only(projects) => Some(projects.iter().copied().collect()),
        },
    }
}

/// The kinds that are wanted and may be seen. None: there is nothing to find.
fn kinds(reader: &Reader, wanted: Option<&[SearchType]>) -> Vec<String> {
    let wanted = wanted.filter(|types| !types.is_empty()).unwrap_or(&SearchType::ALL);
    let allowed = SearchType::ALL.into_iter().filter(|kind| wanted.contains(kind));
    allowed.filter(|kind| reader.grant(kind.permission()).is_some()).map(|kind| kind.kind().to_owned()).collect()
}

fn how_many(first: Option<i32>, default: usize) -> Result<usize> {
    match first.map(usize::try_from) {
        None => Ok(default),
        Some(Ok(first)) => Ok(first),
        Some(Err(_)) => Err(error("BAD_REQUEST", "`first` may not be negative.").into()),
    }
}

fn record(reader: &Reader) {
    reader.recorder().record(search::dependency(reader.organization()));
}

/// Waits, bounded, until the index has seen what the request wants to be seen.
async fn caught_up(cx: &Context<'_>, services: &Services) -> Result<()> {
    let Some(AtLeast(wanted)) = cx.data_opt::<AtLeast>().copied() else { return Ok(()) };
    let reached = async {
        // The index says nothing when it passes events that change no entry: it is asked now and then.
        while services.operations.index_position() < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let wait = services.policy.at_least_wait;
    Ok(tokio::time::timeout(wait, reached).await.map_err(|_| {
        let at = services.operations.index_position();
        error(
            "BEHIND",
            format!("The search index has not seen position {wanted} within {wait:?}; it is at {at}. Try again."),
        )
    })?)
}

struct Loaded {
    edges: Vec<SearchEdge>,
    start: Option<String>,
    end: Option<String>,
    dropped: u64,
}

/// The things themselves, as the viewer sees them now. What is not there (any more) is dropped.
async fn load(reader: &Reader, hits: Vec<Hit>) -> Result<Loaded, ReadError> {
    let start = hits.first().map(|hit| hit.cursor.0.clone());
    let end = hits.last().map(|hit| hit.cursor.0.clone());
    let found = futures::future::try_join_all(hits.iter().map(|hit| find(reader, hit))).await?;
    let all = hits.len();
    let edges: Vec<_> = hits.into_iter().zip(found).filter_map(|(hit, node)| Some(edge(hit, node?))).collect();
    let dropped = (all - edges.len()) as u64;
    if dropped > 0 {
        tracing::debug!(dropped, "the index found what the viewer does not see: it lags");
    }
    Ok(Loaded { edges, start, end, dropped })
}

async fn find(reader: &Reader, hit: &Hit) -> Result<Option<SearchResult>, ReadError> {
    let Some(id) = RawId::parse(&hit.id) else { return Ok(None) };
    Ok(match SearchType::of(&hit.kind) {
        Some(SearchType::Document) => reader.get(id.uuid).await?.map(SearchResult::Document),
        Some(SearchType::Project) => reader.get(id.uuid).await?.map(SearchResult::Project),
        None => None,
    })
}

fn edge(hit: Hit, node: SearchResult) -> SearchEdge {
    let highlight = |h: index::Highlight| Highlight { field: h.field.as_str().to_owned(), fragments: h.fragments };
    SearchEdge {
        node,
        score: hit.score,
        highlights: hit.highlights.into_iter().map(highlight).collect(),
        cursor: hit.cursor.0,
    }
}

fn place(checkpoint: Option<Checkpoint>) -> Position {
    checkpoint.map_or(Position::START, |checkpoint| Position::new(checkpoint.position))
}

fn shown(failed: SearchError) -> async_graphql::Error {
    match failed {
        SearchError::Limit { .. } => error("LIMIT_EXCEEDED", format!("{failed}.")),
        SearchError::Cursor | SearchError::TooSlow(_) => error("BAD_REQUEST", format!("{failed}.")),
        failed => unavailable(whole_text(&failed)),
    }
}
