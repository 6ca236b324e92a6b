//! Search on a Meilisearch server.
//!
//! Invariants
//! - Every read goes through [`wall`], which is where the scope becomes a filter.
//! - A checkpoint is written after the tasks of its changes have succeeded: it never runs ahead of the entries.
//!   A crash between leaves entries that are newer than the checkpoint; applying them again changes nothing.
//! - A generation is two indexes, entries and checkpoint, exchanged in one task.
//! - A server that is away when this process starts is found later: the indexes are made before they are first used.
//!
//! Meilisearch finds what has all words, or drops words one after the other. What has any of them is found by asking for
//! several [`Part`]s in one federated search, whose weights keep the order: all words, most of them, one.
//!
//! What differs from the embedded index, because Meilisearch is so: no English stemming; `*` has a meaning behind the
//! last word of a query, elsewhere it only adds what has that word alone, and it has none behind an excluded one; one
//! fragment per body; a cursor is an offset, so a page may repeat or miss entries that moved meanwhile.

#[cfg(test)]
mod peer_tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use meilisearch_sdk::client::SwapIndexes;
use meilisearch_sdk::documents::{DocumentDeletionQuery, DocumentsQuery, DocumentsResults};
use meilisearch_sdk::errors::{Error, ErrorCode, ErrorType};
use meilisearch_sdk::request::{HttpClient, Method};
use meilisearch_sdk::search::{MatchingStrategies, SearchQuery, SearchResult, SearchResults, Selectors};
use meilisearch_sdk::settings::{
    FacetSortValue, FacetingSettings, MinWordSizeForTypos, PaginationSetting, Settings, TypoToleranceSettings,
};
use meilisearch_sdk::task_info::TaskInfo;
use meilisearch_sdk::tasks::Task;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard};
use uuid::Uuid;

use super::compare::Comparison;
use super::highlight::escape;
use super::query::{Excluded, Query};
use super::suggest::{Candidates, Typed};
use super::{
    Change, Checkpoint, Compared, Cursor, Entry, FacetCounts, FacetField, Highlight, HighlightField, Hit,
    MAX_BODY_BYTES, MAX_SEARCH_TIME, Scope, SearchAnswer, SearchError, SearchRequest, Stats, Suggestion, most_frequent,
    not_backwards,
};
use crate::resilience::{Fault, Guard, Policy};
use crate::trace::ToMeilisearch;

type Client = meilisearch_sdk::client::Client<ToMeilisearch>;
type Index = meilisearch_sdk::indexes::Index<ToMeilisearch>;

/// See [`Search::version`](super::Search::version).
pub(super) const VERSION: i32 = 1;
/// Entries of one request; at about a megabyte each they stay below the server's limit of 100 MB.
const MAX_PUT: usize = 50;
/// How often a task is asked for, and for how long.
const TASK_INTERVAL: Duration = Duration::from_millis(50);
const TASK_TIMEOUT: Duration = Duration::from_secs(600);
/// How far pages and exact totals reach.
const MAX_TOTAL: usize = 1_000_000;
/// Distinct values counted per facet before the most frequent are taken.
const MAX_COUNTED_VALUES: usize = 10_000;
/// Entries that suggestions are taken from.
const MAX_SUGGESTING: usize = 200;
/// Stand for the marks until the text around them is escaped. Private use: no text means anything by them.
const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';
/// Signs that end a word beside those that do so by themselves.
const SEPARATORS: [&str; 9] = ["<", ">", "=", "+", "~", "$", "^", "`", "|"];
const CHECKPOINT_ID: &str = "checkpoint";
/// How much more what matches the whole query counts than what has one of its words: a score lies between 0 and 1, and
/// is above a half for whoever has all the words that were asked for.
const WHOLE: f64 = 4.0;
const MOST: f64 = 2.0;
const ONE: f64 = 1.0;

/// Indexes on a server, named by a prefix. Cheap to clone.
#[derive(Clone)]
pub struct Meilisearch {
    live: Arc<Generation>,
    /// Whether the indexes are there.
    made: Arc<OnceCell<()>>,
    guard: Arc<Guard>,
    prefix: String,
    writing: Arc<Mutex<()>>,
    rebuilding: Arc<Mutex<()>>,
}

impl fmt::Debug for Meilisearch {
    /// The client holds the server's key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meilisearch").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Meilisearch {
    /// Connects and makes the indexes `<prefix>_entries` and `<prefix>_checkpoint` where they are missing; if the
    /// server is away, as soon as it is back.
    pub async fn open(url: &str, key: Option<&str>, prefix: &str) -> Result<Self, SearchError> {
        let http = ToMeilisearch::new(key).map_err(SearchError::unavailable)?;
        // What reads has a time of its own, and what writes takes its time.
        let guard = Guard::new("search", Policy { time_out: None, ..Policy::default() });
        let this = Self {
            live: Arc::new(Generation::new(&http, url, key, prefix)),
            made: Arc::default(),
            guard: Arc::new(guard),
            prefix: prefix.to_owned(),
            writing: Arc::new(Mutex::new(())),
            rebuilding: Arc::new(Mutex::new(())),
        };
        match this.guard.repeat(|| this.live()).await {
            Err(error) if error.is_outage() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the search server is away; it is asked again"
                );
                Ok(this)
            }
            opened => opened.map(|_| this.clone()),
        }
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The running generation, made if it is missing.
    async fn live(&self) -> Result<&Generation, SearchError> {
        let make = async || {
            self.live.create().await?;
            self.live.mark().await.map(drop)
        };
        self.made.get_or_try_init(make).await?;
        Ok(&self.live)
    }

    pub(super) async fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        let _writing = self.writing.lock().await;
        self.live().await?.apply(changes, to).await
    }

    pub(super) async fn checkpoint(&self) -> Result<Option<Checkpoint>, SearchError> {
        self.live().await?.checkpoint().await
    }

    pub(super) fn generation(&self) -> i32 {
        self.live.number.load(Ordering::Relaxed)
    }

    pub(super) async fn search(&self, scope: &Scope, request: &SearchRequest) -> Result<SearchAnswer, SearchError> {
        let query = Query::parse(&request.query)?;
        let offset = request.after.as_ref().map_or(Ok(0), offset_of)?;
        // Read before the entries, which may be newer but never older than this.
        let checkpoint = self.live().await?.checkpoint().await?;
        let wall = wall(scope, Some(request));
        let parts = parts(&query, &request.query);
        let live = self.live().await?;

        let facets = [(live.entries.uid.as_str(), FacetField::ALL.map(attribute))].into();
        let count = parts.iter().map(|part| part.query(&live.entries, &wall));
        let count = live.federated(
            Federation { page: Some(1), hits_per_page: Some(0), facets_by_index: facets, ..Federation::default() },
            count,
        );

        let (open, close) = (OPEN.to_string(), CLOSE.to_string());
        let page = parts.iter().map(|part| {
            let mut page = part.query(&live.entries, &wall);
            page.query.with_attributes_to_retrieve(Selectors::Some(&["id", "kind"]));
            page.query.with_attributes_to_highlight(Selectors::Some(&["title", "body"]));
            page.query.with_attributes_to_crop(Selectors::Some(&[("body", Some(25))])).with_crop_marker("");
            page.query.with_highlight_pre_tag(&open).with_highlight_post_tag(&close);
            if query.is_browse() {
                page.query.with_sort(&["updated_at:desc", "id:desc"]);
            }
            page
        });
        let page = live
            .federated(Federation { offset: Some(offset), limit: Some(request.first), ..Federation::default() }, page);
        let (counted, found) = tokio::try_join!(count, page)?;

        let total = counted.total_hits.unwrap_or(0);
        let hits: Vec<Hit> =
            found.hits.into_iter().enumerate().map(|(at, found)| hit(found, offset + at + 1)).collect();
        let counts = counted.facet_distribution.unwrap_or_default();
        let facets = FacetField::ALL.map(|field| {
            let values = counts.get(attribute(field)).into_iter().flatten();
            let values = values.map(|(value, count)| (value.clone(), *count as u64)).collect();
            FacetCounts { field, values: most_frequent(values) }
        });
        let has_next = offset + hits.len() < total;
        Ok(SearchAnswer { has_next, hits, total: total as u64, facets: facets.into(), checkpoint })
    }

    pub(super) async fn suggest(
        &self,
        scope: &Scope,
        typed: &str,
        first: usize,
    ) -> Result<Vec<Suggestion>, SearchError> {
        let Some(typed) = Typed::parse(typed)? else { return Ok(Vec::new()) };
        let text = typed.words.iter().chain([&typed.prefix]).map(String::as_str).collect::<Vec<_>>().join(" ");
        let wall = wall(scope, None);
        let mut query = self.live().await?.entries.search();
        query.with_query(&text).with_filter(&wall).with_limit(MAX_SUGGESTING);
        query.with_attributes_to_search_on(&["title", "tags", "keywords"]);
        query.with_attributes_to_retrieve(Selectors::Some(&["id", "kind", "title", "keywords"]));
        query.with_matching_strategy(MatchingStrategies::ALL).with_facets(Selectors::Some(&["tags"]));
        let found: SearchResults<Found> = bounded(query.execute()).await?;
        let mut candidates = Candidates::new(&typed);
        for SearchResult { result: entry, .. } in &found.hits {
            candidates.title(&entry.title, &entry.id, &entry.kind);
            for keyword in &entry.keywords {
                candidates.keyword(keyword, &entry.id, &entry.kind);
            }
        }
        for (tag, count) in found.facet_distribution.iter().flatten().flat_map(|(_, tags)| tags) {
            candidates.tag(tag, *count as u64);
        }
        Ok(candidates.best(first))
    }

    pub(super) async fn begin_rebuild(&self) -> Result<Rebuild, SearchError> {
        let only = Arc::clone(&self.rebuilding).try_lock_owned().map_err(|_| SearchError::Rebuilding)?;
        self.live().await?;
        let next = Arc::new(self.live.next(&self.prefix));
        next.delete().await?;
        next.create().await?;
        Ok(Rebuild { live: Arc::clone(&self.live), next, writing: Arc::clone(&self.writing), _only: only })
    }

    pub(super) async fn reset(&self) -> Result<(), SearchError> {
        let rebuild = self.begin_rebuild().await?;
        let _writing = self.writing.lock().await;
        rebuild.exchange().await
    }

    pub(super) async fn stats(&self) -> Result<Stats, SearchError> {
        let stats = bounded(self.live().await?.entries.get_stats()).await?;
        Ok(Stats { documents: stats.number_of_documents as u64, bytes: stats.raw_document_db_size as u64 })
    }
}

/// Whether an error is what the server has said of a request, and not that it is away.
pub(super) fn is_answer(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let said = error.downcast_ref::<Error>();
    matches!(said, Some(Error::Meilisearch(said)) if said.error_type != ErrorType::Internal)
}

/// A generation beside the running one. One that is dropped is removed when the next begins.
pub struct Rebuild {
    live: Arc<Generation>,
    next: Arc<Generation>,
    writing: Arc<Mutex<()>>,
    _only: OwnedMutexGuard<()>,
}

impl fmt::Debug for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebuild").finish_non_exhaustive()
    }
}

impl Rebuild {
    pub(super) async fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        self.next.apply(changes, to).await
    }

    pub(super) async fn checkpoint(&self) -> Result<Option<Checkpoint>, SearchError> {
        self.next.checkpoint().await
    }

    pub(super) async fn compare(&self, still: impl Send) -> Result<Compared, SearchError> {
        let mut comparison = Comparison::default();
        self.live.contents(|id, digest| comparison.running(id, digest)).await?;
        self.next.contents(|id, digest| comparison.other(&id, digest)).await?;
        drop(still);
        Ok(comparison.finish())
    }

    pub(super) async fn switch(self) -> Result<(), SearchError> {
        let _writing = self.writing.lock().await;
        if let Some(at) = self.live.checkpoint().await? {
            let to = self.next.checkpoint().await?;
            not_backwards(Some(at), to.unwrap_or(Checkpoint { position: 0, ..at }))?;
        }
        self.exchange().await
    }

    pub(super) async fn abort(self) -> Result<(), SearchError> {
        self.next.delete().await
    }

    /// The caller holds `writing`.
    async fn exchange(&self) -> Result<(), SearchError> {
        let pair = |a: &Index, b: &Index| SwapIndexes { indexes: (a.uid.clone(), b.uid.clone()), rename: None };
        let swap = [pair(&self.live.entries, &self.next.entries), pair(&self.live.checkpoint, &self.next.checkpoint)];
        self.live.done(self.live.client.swap_indexes(&swap).await?).await?;
        self.live.number.store(self.next.number.load(Ordering::Relaxed), Ordering::Relaxed);
        // What was live has the other's names now.
        self.next.delete().await
    }
}

struct Generation {
    client: Client,
    /// For what the client has no words for.
    http: ToMeilisearch,
    url: String,
    entries: Index,
    checkpoint: Index,
    /// Which one it is, from 1; stands in the mark.
    number: AtomicI32,
}

impl Generation {
    fn new(http: &ToMeilisearch, url: &str, key: Option<&str>, prefix: &str) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        let client = Client::new_with_client(&url, key, http.clone());
        Self::of(client, http.clone(), url, prefix, 1)
    }

    /// The one that is built to take this one's place.
    fn next(&self, prefix: &str) -> Self {
        let number = self.number.load(Ordering::Relaxed) + 1;
        Self::of(self.client.clone(), self.http.clone(), self.url.clone(), &format!("{prefix}_next"), number)
    }

    fn of(client: Client, http: ToMeilisearch, url: String, prefix: &str, number: i32) -> Self {
        let index = |name: &str| client.index(format!("{prefix}_{name}"));
        let (entries, checkpoint) = (index("entries"), index("checkpoint"));
        Self { client, http, url, entries, checkpoint, number: AtomicI32::new(number) }
    }

    async fn create(&self) -> Result<(), SearchError> {
        for index in [&self.entries, &self.checkpoint] {
            match self.client.get_index(&index.uid).await {
                Ok(_) => continue,
                Err(error) if is(&error, ErrorCode::IndexNotFound) => {}
                Err(error) => return Err(error.into()),
            }
            self.done(self.client.create_index(&index.uid, Some("id")).await?).await?;
        }
        self.done(self.entries.set_settings(&settings()).await?).await
    }

    async fn delete(&self) -> Result<(), SearchError> {
        for index in [&self.entries, &self.checkpoint] {
            match self.client.get_index(&index.uid).await {
                Ok(index) => self.done(index.delete().await?).await?,
                Err(error) if is(&error, ErrorCode::IndexNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, SearchError> {
        Ok(self.mark().await?.map(|mark| mark.checkpoint))
    }

    /// Where it stands, and which one it is: another node may have switched.
    async fn mark(&self) -> Result<Option<Mark>, SearchError> {
        match bounded(self.checkpoint.get_document::<Mark>(CHECKPOINT_ID)).await {
            Ok(mark) => {
                self.number.store(mark.generation, Ordering::Relaxed);
                Ok(Some(mark))
            }
            Err(SearchError::Unavailable(error))
                if error.downcast_ref().is_some_and(|error| is(error, ErrorCode::DocumentNotFound)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        not_backwards(self.checkpoint().await?, to)?;
        // The server works its tasks off in their order, so runs of one kind can go together.
        let mut tasks = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while let Some(change) = changes.next() {
            tasks.push(match change {
                Change::Put(entry) => {
                    let mut puts = vec![Stored::from(*entry)];
                    while puts.len() < MAX_PUT
                        && let Some(Change::Put(entry)) = changes.next_if(|next| matches!(next, Change::Put(_)))
                    {
                        puts.push(Stored::from(*entry));
                    }
                    self.entries.add_or_replace(&puts, Some("id")).await?
                }
                Change::Remove { id } => {
                    let mut ids = vec![id];
                    while let Some(Change::Remove { id }) =
                        changes.next_if(|next| matches!(next, Change::Remove { .. }))
                    {
                        ids.push(id);
                    }
                    self.entries.delete_documents(&ids).await?
                }
                Change::RemoveOrganization(organization) => {
                    let filter = equals("organization", &organization.to_string());
                    DocumentDeletionQuery::new(&self.entries).with_filter(&filter).execute::<()>().await?
                }
            });
        }
        for task in tasks {
            self.done(task).await?;
        }
        let generation = self.number.load(Ordering::Relaxed);
        let mark = Mark { id: CHECKPOINT_ID.into(), generation, checkpoint: to };
        self.done(self.checkpoint.add_or_replace(&[mark], Some("id")).await?).await
    }

    /// Tells of each entry its id and a digest of all that is kept of it.
    async fn contents(&self, mut each: impl FnMut(String, u64)) -> Result<(), SearchError> {
        let mut offset = 0;
        loop {
            let mut page = DocumentsQuery::new(&self.entries);
            page.with_offset(offset).with_limit(MAX_PUT);
            let found: DocumentsResults<Stored> = bounded(page.execute()).await?;
            offset += found.results.len();
            let is_last = found.results.len() < MAX_PUT;
            for entry in found.results {
                let mut digest = DefaultHasher::new();
                digest.write(&serde_json::to_vec(&entry).map_err(SearchError::unavailable)?);
                each(entry.id, digest.finish());
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// What any of the queries finds, each entry once, the best first.
    async fn federated<'a>(
        &'a self,
        federation: Federation<'a>,
        queries: impl Iterator<Item = Weighted<'a>>,
    ) -> Result<Merged, SearchError> {
        let body = Federated { federation, queries: queries.collect() };
        let url = format!("{}/multi-search", self.url);
        bounded(self.http.request::<(), _, _>(&url, Method::Post { query: (), body }, 200)).await
    }

    async fn done(&self, task: TaskInfo) -> Result<(), SearchError> {
        match self.client.wait_for_task(task, Some(TASK_INTERVAL), Some(TASK_TIMEOUT)).await? {
            Task::Failed { content } => Err(Error::Meilisearch(content.error).into()),
            _ => Ok(()),
        }
    }
}

/// The checkpoint as a document.
#[derive(Serialize, Deserialize)]
struct Mark {
    id: String,
    #[serde(default = "first")]
    generation: i32,
    #[serde(flatten)]
    checkpoint: Checkpoint,
}

/// The generation of a mark that was written when they were not counted yet.
fn first() -> i32 {
    1
}

/// An entry as a document.
#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    kind: String,
    organization: Uuid,
    project: Option<Uuid>,
    title: String,
    body: String,
    tags: Vec<String>,
    media_type: Option<String>,
    keywords: Vec<String>,
    updated_at: i64,
}

impl From<Entry> for Stored {
    fn from(mut entry: Entry) -> Self {
        entry.body.truncate(entry.body.floor_char_boundary(MAX_BODY_BYTES));
        entry.tags.sort_unstable();
        entry.tags.dedup();
        Self {
            id: entry.id,
            kind: entry.kind,
            organization: entry.organization,
            project: entry.project,
            title: entry.title,
            body: entry.body,
            tags: entry.tags,
            media_type: entry.media_type,
            keywords: entry.keywords,
            updated_at: entry.updated_at.timestamp_micros(),
        }
    }
}

/// What is read back of it.
#[derive(Deserialize)]
struct Found {
    id: String,
    kind: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    keywords: Vec<String>,
}

/// One of the queries of a federated search.
struct Part {
    text: String,
    strategy: MatchingStrategies,
    weight: f64,
}

impl Part {
    fn query<'a>(&'a self, entries: &'a Index, wall: &'a str) -> Weighted<'a> {
        let mut query = entries.search();
        query.with_index_uid();
        query.with_query(&self.text).with_filter(wall).with_matching_strategy(self.strategy.clone());
        Weighted { query, federation_options: Weight { weight: self.weight } }
    }
}

/// What the server is asked to find what the embedded index finds: everything with all quoted phrases, and without
/// phrases everything with any of the words.
fn parts(query: &Query, typed: &str) -> Vec<Part> {
    let part = |text: String, strategy, weight| Part { text, strategy, weight };
    let quoted = |words: &[String]| format!("\"{}\" ", words.join(" "));
    let mut without = String::new();
    for excluded in &query.excluded {
        without += &match excluded {
            Excluded::Word(word) | Excluded::Prefix(word) => format!("-{word} "),
            Excluded::Phrase(words) => format!("-{}", quoted(words)),
        };
    }
    let phrases: String = query.phrases.iter().map(|phrase| quoted(phrase)).collect();
    // The last word of a query is also the beginning of longer ones, unless something follows it.
    let closed = |text: &str, prefix: bool| if prefix { text.to_owned() } else { format!("{text} ") };
    let words = query.words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
    let Some(last) = query.words.last() else {
        // Signs that are no words are looked for as they are.
        let text = if query.is_browse() || !phrases.is_empty() { format!("{without}{phrases}") } else { typed.into() };
        return vec![part(text, MatchingStrategies::ALL, ONE)];
    };
    let whole = format!("{without}{phrases}{}", closed(&words, last.prefix));
    let mut parts = vec![part(whole.clone(), MatchingStrategies::ALL, WHOLE)];
    if !phrases.is_empty() {
        parts.push(part(format!("{without}{phrases}"), MatchingStrategies::ALL, ONE));
    } else if query.words.len() > 1 {
        parts.push(part(whole, MatchingStrategies::FREQUENCY, MOST));
        let one = |text: String| part(text, MatchingStrategies::ALL, ONE);
        let each = query.words.iter().map(|word| closed(&word.text, word.prefix));
        parts.extend(each.map(|word| one(format!("{without}{word}"))));
    }
    parts
}

/// The body of a federated search (<https://www.meilisearch.com/docs/reference/api/multi_search>); the client's own has
/// no pages, and only pages are counted exactly.
#[derive(Serialize)]
struct Federated<'a> {
    federation: Federation<'a>,
    queries: Vec<Weighted<'a>>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Federation<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hits_per_page: Option<usize>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    facets_by_index: HashMap<&'a str, [&'static str; FacetField::ALL.len()]>,
    /// The facets of all queries are counted together, with the settings of the index.
    merge_facets: MergeFacets,
}

#[derive(Serialize, Default)]
struct MergeFacets {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Weighted<'a> {
    #[serde(flatten)]
    query: SearchQuery<'a, ToMeilisearch>,
    federation_options: Weight,
}

#[derive(Serialize)]
struct Weight {
    weight: f64,
}

/// The answer to a federated search.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Merged {
    hits: Vec<SearchResult<Found>>,
    total_hits: Option<usize>,
    facet_distribution: Option<HashMap<String, HashMap<String, usize>>>,
}

fn settings() -> Settings {
    let mut settings = Settings::new()
        .with_searchable_attributes(["title", "tags", "keywords", "body"])
        .with_filterable_attributes(["organization", "project", "kind", "tags", "media_type"])
        .with_sortable_attributes(["updated_at", "id"])
        .with_ranking_rules(["words", "typo", "sort", "proximity", "attribute", "exactness", "updated_at:desc"])
        .with_pagination(PaginationSetting { max_total_hits: MAX_TOTAL })
        .with_typo_tolerance(TypoToleranceSettings {
            enabled: Some(true),
            min_word_size_for_typos: Some(MinWordSizeForTypos { one_typo: Some(4), two_typos: Some(8) }),
            disable_on_numbers: Some(true),
            ..TypoToleranceSettings::default()
        })
        .with_faceting(FacetingSettings {
            max_values_per_facet: MAX_COUNTED_VALUES,
            sort_facet_values_by: Some([("*".to_owned(), FacetSortValue::Count)].into()),
        });
    settings.separator_tokens = Some(SEPARATORS.map(str::to_owned).into());
    settings.search_cutoff_ms = Some(MAX_SEARCH_TIME.as_millis() as u64);
    settings
}

/// The one place where a scope becomes a filter. No read is without it.
fn wall(scope: &Scope, request: Option<&SearchRequest>) -> String {
    let mut all = vec![equals("organization", &scope.organization.to_string())];
    if let Some(projects) = &scope.projects {
        all.push(one_of("project", projects.iter().map(Uuid::to_string)));
    }
    if let Some(request) = request {
        all.extend(request.project.map(|project| equals("project", &project.to_string())));
        all.extend(request.tags.iter().map(|tag| equals("tags", tag)));
        if !request.kinds.is_empty() {
            all.push(one_of("kind", request.kinds.iter().cloned()));
        }
        if !request.media_types.is_empty() {
            all.push(one_of("media_type", request.media_types.iter().cloned()));
        }
    }
    all.join(" AND ")
}

fn equals(attribute: &str, value: &str) -> String {
    format!("{attribute} = {}", quoted(value))
}

fn one_of(attribute: &str, values: impl Iterator<Item = String>) -> String {
    format!("{attribute} IN [{}]", values.map(|value| quoted(&value)).collect::<Vec<_>>().join(", "))
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn attribute(field: FacetField) -> &'static str {
    match field {
        FacetField::Type => "kind",
        FacetField::Tag => "tags",
        FacetField::Project => "project",
        FacetField::MediaType => "media_type",
    }
}

fn hit(found: SearchResult<Found>, next: usize) -> Hit {
    let marked = |name: &str| {
        let text = found.formatted_result.as_ref()?.get(name)?.as_str()?;
        text.contains(OPEN).then(|| marked(text))
    };
    let fields = [(HighlightField::Title, "title"), (HighlightField::Body, "body")];
    let highlights = fields
        .into_iter()
        .filter_map(|(field, name)| Some(Highlight { field, fragments: vec![marked(name)?] }))
        .collect();
    Hit {
        id: found.result.id,
        kind: found.result.kind,
        score: found.federation.map_or(0.0, |at| f64::from(at.weighted_ranking_score) / WHOLE),
        highlights,
        cursor: cursor_at(next),
    }
}

fn marked(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    escape(text.trim(), &mut escaped);
    escaped.replace(OPEN, "<mark>").replace(CLOSE, "</mark>")
}

fn cursor_at(offset: usize) -> Cursor {
    Cursor(data_encoding::BASE64URL_NOPAD.encode(format!("m{offset}").as_bytes()))
}

fn offset_of(cursor: &Cursor) -> Result<usize, SearchError> {
    let bytes = data_encoding::BASE64URL_NOPAD.decode(cursor.0.as_bytes()).map_err(|_| SearchError::Cursor)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| SearchError::Cursor)?;
    text.strip_prefix('m').and_then(|offset| offset.parse().ok()).ok_or(SearchError::Cursor)
}

/// Reads that do not answer are given up, a little after the server gives them up itself.
async fn bounded<T>(read: impl Future<Output = Result<T, Error>>) -> Result<T, SearchError> {
    match tokio::time::timeout(MAX_SEARCH_TIME + Duration::from_secs(1), read).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SearchError::TooSlow(MAX_SEARCH_TIME)),
    }
}

fn is(error: &Error, code: ErrorCode) -> bool {
    matches!(error, Error::Meilisearch(error) if error.error_code == code)
}

impl From<Error> for SearchError {
    fn from(error: Error) -> Self {
        if is(&error, ErrorCode::IndexNotFound) {
            return Self::Damaged("its index is missing on the server".into());
        }
        Self::unavailable(error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::resilience::State;
    use crate::search::Search;

    #[test]
    fn the_wall_is_in_every_filter_and_cannot_be_climbed() {
        let organization = Uuid::from_u128(1);
        let scope = Scope { organization, projects: Some(Vec::new()) };
        let request = SearchRequest { tags: vec!["\" OR organization EXISTS OR \"\\".into()], ..Default::default() };
        let filter = wall(&scope, Some(&request));
        assert_eq!(
            filter,
            format!(
                r#"organization = "{organization}" AND project IN [] AND tags = "\" OR organization EXISTS OR \"\\""#
            )
        );
        assert!(wall(&scope, None).starts_with(&format!("organization = \"{organization}\" AND project IN []")));
    }

    #[test]
    fn marks_survive_escaping() {
        assert_eq!(marked("a <b> \u{E000}c&d\u{E001}"), "a &lt;b&gt; <mark>c&amp;d</mark>");
    }

    #[test]
    fn cursors_are_read_back() {
        assert_eq!(offset_of(&cursor_at(70)).unwrap(), 70);
        assert!(matches!(offset_of(&Cursor("nonsense!".into())), Err(SearchError::Cursor)));
    }

    #[test]
    fn the_key_is_not_shown() {
        let http = ToMeilisearch::new(Some("very-secret-key")).unwrap();
        let index = Meilisearch {
            live: Arc::new(Generation::new(&http, "http://localhost:1", Some("very-secret-key"), "oriel")),
            made: Arc::default(),
            guard: Arc::new(Guard::new("search", Policy::default())),
            prefix: "oriel".into(),
            writing: Arc::default(),
            rebuilding: Arc::default(),
        };
        assert!(!format!("{index:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_server_that_is_away_does_not_keep_the_process_from_starting() {
        let nowhere = Meilisearch::open("http://127.0.0.1:1", None, "oriel").await.unwrap();
        let search = Search::Meilisearch(nowhere);
        assert!(!search.health().unwrap().is_up());
        let scope = Scope { organization: Uuid::from_u128(1), projects: None };
        let request = SearchRequest { first: 10, ..SearchRequest::default() };
        for _ in 0..3 {
            let answer = search.search(&scope, &request).await;
            assert!(matches!(answer, Err(SearchError::Unavailable(_))), "{answer:?}");
        }
        assert_eq!(search.health().unwrap().state, State::Open);
        let began = std::time::Instant::now();
        for _ in 0..100 {
            assert!(search.search(&scope, &request).await.is_err());
        }
        assert!(began.elapsed() < Duration::from_secs(60), "they waited for it: {:?}", began.elapsed());
    }

    #[test]
    fn what_the_server_says_of_a_request_is_an_answer() {
        let said = |kind: &str| -> SearchError {
            let said = serde_json::json!({
                "message": "no", "code": "invalid_search_q", "type": kind, "link": "https://example.org"
            });
            Error::Meilisearch(serde_json::from_value(said).unwrap()).into()
        };
        assert!(!said("invalid_request").is_outage() && !said("auth").is_outage());
        assert!(said("internal").is_outage() && SearchError::from(Error::Timeout).is_outage());
    }
}
