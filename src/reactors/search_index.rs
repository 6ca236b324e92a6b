//! The search index follows the log.
//!
//! Invariants
//! - An entry is made of the *current* rows of the read models and the time of the last event that changed it. An
//!   event says only whose entry is to be made again; so an index that is built anew equals one that grew.
//! - The index's checkpoint moves with its entries. It may stay behind events that change no entry, which would cost a
//!   commit each; [`SearchIndex::position`] counts them.
//! - Whoever waited for a position finds caches dropped and live searches told already.
//! - A commit of the index costs a dozen files however little is in it: what comes within [`PACE`] of one is in the
//!   next together, unless somebody waits for it.
//! - Memory is bounded by [`CHUNK_BYTES`] of text and a few texts in flight, however large a batch is.
//!
//! Rows are read without a viewer: this is a projection of everything, and every *search* takes a scope. Documents in
//! the trash are not in the index, nor those whose file waits for the scan for viruses or is in quarantine; archived
//! projects are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oriel_backends::blobs::{BlobError, BlobKey, Blobs};
use oriel_backends::resilience::whole_text;
use oriel_backends::search::{self as index, Change, Entry, MAX_BODY_BYTES, Search, SearchError, Tantivy};
use oriel_domain::documents::{DocumentEvent, DocumentId, Stage};
use oriel_domain::organizations::OrganizationEvent;
use oriel_domain::projects::{ProjectEvent, ProjectId};
use oriel_domain::users::UserEvent;
use oriel_engine::Engine;
use oriel_engine::consumers::{Checkpoint, Consumer, ConsumerError, Follower, Lease, SharedConsumer};
use oriel_engine::log::LogError;
use oriel_engine::read::{Dependency, ReadModel};
use oriel_engine::rebuild::ReadModelState;
use oriel_kernel::{EventId, OrganizationId, Position, Recorded, Timestamp};
use oriel_read_models::{documents, projects, search};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::Parts;

mod rebuild;

/// The name of the index among what can be rebuilt.
pub const INDEX: &str = "search";
/// The consumer's name.
pub(crate) const NAME: &str = "search_index";
/// Text that is gathered before it is handed to the index.
const CHUNK_BYTES: usize = 8 << 20;
/// Changes that are gathered before they are handed to the index.
const CHUNK_CHANGES: usize = 1_000;
/// Texts that are fetched beside each other.
const FETCHES: usize = 8;
/// Ids in one statement.
const IDS: usize = 1_000;
/// How soon after a commit the next one may begin that nobody waits for.
const PACE: Duration = Duration::from_millis(100);
/// How far the index's own checkpoint may stay behind events that change no entry.
const LAZY: i64 = 1_000;

/// Why the index does not follow.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The read models.
    #[error("the read models cannot be read: {0}")]
    Database(#[from] DbErr),
    /// The texts.
    #[error("a text cannot be fetched: {0}")]
    Blob(#[from] BlobError),
    /// The index.
    #[error("{0}")]
    Search(#[from] SearchError),
    /// A row is older than the event that asks for it: a replica that lags.
    #[error("the row of {0} is behind its events")]
    Behind(Uuid),
    /// Whoever watches a rebuild ended it.
    #[error("the rebuild was cancelled; the running index is untouched")]
    Cancelled,
}

impl From<IndexError> for ConsumerError {
    fn from(error: IndexError) -> Self {
        match error {
            // Somebody else was faster, which is as good.
            IndexError::Search(SearchError::Backwards { .. }) => Self::Elsewhere,
            IndexError::Search(error @ (SearchError::Limit { .. } | SearchError::Cursor)) => {
                Self::Failed(error.to_string())
            }
            // With what the server says of it: nothing else tells an operator why nothing is found.
            error => Self::Unavailable(whole_text(&error)),
        }
    }
}

/// Opens the index in a folder. One that is damaged, or of an older format, begins anew: it fills itself from the log.
///
/// # Errors
/// When the folder cannot be used.
pub async fn open_index(folder: &Path) -> Result<Search, SearchError> {
    match Tantivy::open(folder).await {
        Ok(index) => Ok(Search::Tantivy(index)),
        Err(error) if error.needs_rebuild() => {
            tracing::error!(%error, folder = %folder.display(), "the search index begins anew");
            Ok(Search::Tantivy(Tantivy::recreate(folder).await?))
        }
        Err(error) => Err(error),
    }
}

/// See the module.
pub(crate) struct SearchIndex {
    engine: Arc<Engine>,
    blobs: Blobs,
    search: Search,
    /// Held by whoever changes the running index: the consumer, and a rebuild while it switches.
    applying: Mutex<()>,
    reached: watch::Sender<Position>,
    /// How far somebody is waiting for it to be.
    awaited: watch::Sender<Position>,
    /// When it was committed last.
    committed: std::sync::Mutex<Option<Instant>>,
    /// How far the index is that is being built to take this one's place.
    next: std::sync::Mutex<Option<Position>>,
    /// See [`CHUNK_BYTES`].
    chunk_bytes: usize,
}

/// Where changes go.
#[derive(Clone, Copy)]
enum Target<'a> {
    Running(&'a Search),
    Next(&'a index::Rebuild),
}

impl Target<'_> {
    async fn apply(&self, changes: Vec<Change>, (position, id): Checkpoint) -> Result<(), SearchError> {
        let to = index::Checkpoint { position: position.number(), event_id: id.uuid() };
        match self {
            Self::Running(search) => search.apply(changes, to).await,
            Self::Next(rebuild) => rebuild.apply(changes, to).await,
        }
    }
}

impl SearchIndex {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            engine: Arc::clone(&parts.engine),
            blobs: parts.blobs.clone(),
            search: parts.search.clone(),
            applying: Mutex::new(()),
            reached: watch::Sender::new(Position::START),
            awaited: watch::Sender::new(Position::START),
            committed: std::sync::Mutex::default(),
            next: std::sync::Mutex::new(None),
            chunk_bytes: CHUNK_BYTES,
        }
    }

    /// Gathers less text.
    #[cfg(test)]
    pub(crate) fn in_chunks_of(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes;
        self
    }

    /// A search that begins now sees everything up to here.
    pub(crate) fn position(&self) -> Position {
        *self.reached.borrow()
    }

    /// The generation that answers, and the one that is being built.
    pub(crate) fn states(&self) -> Vec<ReadModelState> {
        let state = |behind: i32, state: &str, position| ReadModelState {
            name: INDEX.to_owned(),
            generation: self.search.generation() + behind,
            version: self.search.version(),
            state: state.to_owned(),
            position,
        };
        let next = *self.next();
        let next = next.map(|position| state(1, "catching_up", position));
        [state(0, "following", self.position())].into_iter().chain(next).collect()
    }

    fn next(&self) -> std::sync::MutexGuard<'_, Option<Position>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a search sees everything up to `position`, which it then does as soon as it can.
    pub(crate) async fn reached(&self, position: Position) {
        self.awaited.send_if_modified(|awaited| {
            let further = position > *awaited;
            *awaited = position.max(*awaited);
            further
        });
        self.reaches(position).await;
    }

    /// Waits until a search sees everything up to `position`.
    pub(crate) async fn reaches(&self, position: Position) {
        // The sender lives as long as `self`: this ends only by the condition.
        let _ = self.reached.subscribe().wait_for(|reached| *reached >= position).await;
    }

    fn advance(&self, to: Position) {
        self.reached.send_if_modified(|reached| {
            let moved = to > *reached;
            *reached = to.max(*reached);
            moved
        });
    }

    fn touch(&self, organizations: &BTreeSet<OrganizationId>) {
        let touched: Vec<Dependency> = organizations.iter().copied().map(search::dependency).collect();
        if !touched.is_empty() {
            self.engine.feed().touch(&touched);
        }
    }

    /// Makes the entries that these events change anew, and moves the checkpoint to `to`. `from` is where it is.
    async fn put(
        &self,
        target: Target<'_>,
        events: &[Arc<Recorded>],
        from: i64,
        to: Checkpoint,
    ) -> Result<BTreeSet<OrganizationId>, IndexError> {
        let changed = changed(events);
        let rows = self.rows(&changed).await?;
        let changes: Vec<_> = changed.iter().map(|one| self.change(one, &rows)).collect();
        let mut changes = futures::stream::iter(changes).buffered(FETCHES);
        let (mut gathered, mut bytes) = (Vec::new(), 0);
        // In the order of the events: all entries that were last changed up to the checkpoint of a chunk are in it or
        // in an earlier one, the others come again if this ends in between. What one event changes stays together.
        let mut last: Option<Checkpoint> = None;
        while let Some((change, at)) = changes.try_next().await? {
            let full = bytes >= self.chunk_bytes || gathered.len() >= CHUNK_CHANGES;
            if let Some(last) = last.filter(|last| full && *last != at) {
                target.apply(std::mem::take(&mut gathered), last).await?;
                bytes = 0;
            }
            bytes += size(&change);
            gathered.push(change);
            last = Some(at);
        }
        // Without events it is one that was set aside that is passed by.
        if !gathered.is_empty() || events.is_empty() || to.0.number() - from >= LAZY {
            target.apply(gathered, to).await?;
        }
        if !changed.is_empty() {
            *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Ok(rows.organizations(&changed))
    }

    /// The current rows: one statement a table.
    async fn rows(&self, changed: &[Changed]) -> Result<Rows, DbErr> {
        let (mut document_ids, mut project_ids) = (Vec::new(), Vec::new());
        for one in changed {
            match one.what {
                Findable::Document(id) => document_ids.push(id),
                Findable::Project(id) => project_ids.push(id),
                Findable::Organization(_) => {}
            }
        }
        let reader = self.engine.database().reader();
        let mut rows = Rows::default();
        for ids in document_ids.chunks(IDS) {
            let found =
                documents::Entity::find().filter(documents::Column::Id.is_in(ids.iter().copied())).all(reader).await?;
            rows.documents.extend(found.into_iter().map(|row| (row.id.uuid(), row)));
        }
        for ids in project_ids.chunks(IDS) {
            let found =
                projects::Entity::find().filter(projects::Column::Id.is_in(ids.iter().copied())).all(reader).await?;
            rows.projects.extend(found.into_iter().map(|row| (row.id.uuid(), row)));
        }
        Ok(rows)
    }

    async fn change(&self, one: &Changed, rows: &Rows) -> Result<(Change, Checkpoint), IndexError> {
        let current = |version: i32, id: Uuid| if version < one.version { Err(IndexError::Behind(id)) } else { Ok(()) };
        let change = match one.what {
            Findable::Document(id) => match rows.documents.get(&id.uuid()) {
                Some(row) => {
                    current(row.version, id.uuid())?;
                    if row.trashed_at.is_some() || row.is_kept_back() {
                        return Ok((Change::Remove { id: id.to_string() }, one.at));
                    }
                    let body = match &row.text_blob {
                        Some(key) => self.text(id, key).await?,
                        None => String::new(),
                    };
                    Change::Put(Box::new(document(row, body, one.moment)))
                }
                None => Change::Remove { id: id.to_string() },
            },
            Findable::Project(id) => match rows.projects.get(&id.uuid()) {
                Some(row) => {
                    current(row.version, id.uuid())?;
                    Change::Put(Box::new(project(row, one.moment)))
                }
                None => Change::Remove { id: id.to_string() },
            },
            Findable::Organization(id) => Change::RemoveOrganization(id.uuid()),
        };
        Ok((change, one.at))
    }

    /// As much of a text as the index takes. One that is gone (the document is being purged) is empty.
    async fn text(&self, document: DocumentId, key: &str) -> Result<String, BlobError> {
        let Ok(key) = BlobKey::parse(key) else {
            tracing::error!(%document, "what is recorded as the place of a text is no key; the text is not found");
            return Ok(String::new());
        };
        let mut body = match self.blobs.get(&key, Some(0..MAX_BODY_BYTES as u64)).await {
            Ok(body) => body,
            Err(BlobError::NotFound) => {
                tracing::warn!(%document, "the text of a document is gone; it is found by its title only");
                return Ok(String::new());
            }
            Err(BlobError::RangeOutside { .. }) => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = body.stream.try_next().await.map_err(|error| BlobError::Unavailable(error.into()))? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(whole_characters(bytes))
    }
}

#[async_trait::async_trait]
impl Consumer for SearchIndex {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError> {
        let checkpoint = self.search.checkpoint().await.map_err(IndexError::from)?;
        let checkpoint = checkpoint.map(|at| (Position::new(at.position), EventId::from_uuid(at.event_id)));
        if let Some((position, _)) = checkpoint {
            self.advance(position);
        }
        Ok(checkpoint)
    }

    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint) -> Result<(), ConsumerError> {
        let applying = self.applying.lock().await;
        // After a rebuild the index may be ahead of who follows.
        let from = self.search.checkpoint().await.map_err(IndexError::from)?.map_or(0, |at| at.position);
        if from >= to.0.number() {
            self.advance(to.0);
            return Ok(());
        }
        let news = events.iter().position(|event| event.position.number() > from).unwrap_or(events.len());
        match self.put(Target::Running(&self.search), &events[news..], from, to).await {
            Ok(touched) => {
                self.touch(&touched);
                self.advance(to.0);
                Ok(())
            }
            Err(IndexError::Search(error)) if error.needs_rebuild() => {
                tracing::error!(%error, "the search index is damaged and begins anew");
                drop(applying);
                self.reset().await?;
                Err(ConsumerError::Elsewhere)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn gathered(&self) {
        let committed = *self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(committed) = committed else { return };
        let mut awaited = self.awaited.subscribe();
        tokio::select! {
            () = tokio::time::sleep_until(committed + PACE) => {}
            _ = awaited.wait_for(|awaited| *awaited > self.position()) => {}
        }
    }

    async fn reset(&self) -> Result<(), ConsumerError> {
        let _applying = self.applying.lock().await;
        self.search.reset().await.map_err(IndexError::from)?;
        self.reached.send_replace(Position::START);
        Ok(())
    }
}

/// An index outside the process: one node fills it for all of them.
///
/// Its server knows no fence. It is asked for the lease right before, and refuses to be moved backwards. Where that was
/// not enough (another node has put one in its place that it rebuilt, and that is behind), it is followed from there.
pub(crate) struct SharedIndex {
    index: Arc<SearchIndex>,
    /// Where its checkpoint was when this node looked last.
    seen: AtomicI64,
}

impl SharedIndex {
    pub(crate) fn new(index: Arc<SearchIndex>) -> Self {
        Self { index, seen: AtomicI64::new(0) }
    }

    async fn at(&self) -> Result<Option<Checkpoint>, ConsumerError> {
        let checkpoint = self.index.search.checkpoint().await.map_err(IndexError::from)?;
        self.seen.store(checkpoint.map_or(0, |at| at.position), Ordering::Relaxed);
        Ok(checkpoint.map(|at| (Position::new(at.position), EventId::from_uuid(at.event_id))))
    }
}

/// Each node fills its own index, or one of them that of all.
pub(crate) fn follower(index: &Arc<SearchIndex>) -> Follower {
    match &index.search {
        Search::Tantivy(_) => Follower::PerNode(Arc::clone(index) as _),
        Search::Meilisearch(_) => Follower::Shared(Arc::new(SharedIndex::new(Arc::clone(index)))),
    }
}

#[async_trait::async_trait]
impl SharedConsumer for SharedIndex {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError> {
        self.at().await
    }

    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint, lease: &Lease) -> Result<(), ConsumerError> {
        let seen = self.seen.load(Ordering::Relaxed);
        if self.at().await?.map_or(0, |(position, _)| position.number()) < seen {
            return Err(ConsumerError::Elsewhere);
        }
        lease.renew().await?;
        self.index.apply(events, to).await?;
        self.at().await?;
        // The index has a checkpoint of its own.
        lease.pass(to).await
    }

    async fn applied_elsewhere(&self, from: Option<Position>, to: Position) -> Result<(), ConsumerError> {
        let mut at = from.unwrap_or(to);
        while at < to {
            let left = u64::try_from(to.number() - at.number()).unwrap_or(0);
            let events = self.index.engine.log().read(at, left.min(CHUNK_CHANGES as u64)).await?;
            let Some(last) = events.last() else { break };
            let changed = changed(&events);
            let rows = self.index.rows(&changed).await?;
            self.index.touch(&rows.organizations(&changed));
            at = last.position;
        }
        self.index.advance(to);
        Ok(())
    }

    async fn reset(&self, lease: &Lease) -> Result<(), ConsumerError> {
        lease.restart().await?;
        Consumer::reset(&*self.index).await
    }
}

// --- what changed ------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Findable {
    Document(DocumentId),
    Project(ProjectId),
    /// Everything of an organisation that has ended.
    Organization(OrganizationId),
}

/// Something whose entry has to be made again, and the last event that says so.
struct Changed {
    what: Findable,
    /// Whose it is; nothing when only its row says so.
    organization: Option<OrganizationId>,
    at: Checkpoint,
    moment: Timestamp,
    version: i32,
}

#[derive(Default)]
struct Rows {
    documents: HashMap<Uuid, documents::Model>,
    projects: HashMap<Uuid, projects::Model>,
}

impl Rows {
    /// Whose index has changed.
    fn organizations(&self, changed: &[Changed]) -> BTreeSet<OrganizationId> {
        let row = |one: &Changed| match one.what {
            Findable::Document(id) => self.documents.get(&id.uuid()).map(|row| row.organization_id),
            Findable::Project(_) | Findable::Organization(_) => None,
        };
        changed.iter().filter_map(|one| one.organization.or_else(|| row(one))).collect()
    }
}

/// Each thing once, at its last change, in the order of these.
fn changed(events: &[Arc<Recorded>]) -> Vec<Changed> {
    let mut seen = HashSet::new();
    let mut changed: Vec<Changed> = events.iter().rev().flat_map(|event| findables(event)).collect();
    changed.retain(|one| seen.insert(one.what));
    changed.reverse();
    changed
}

/// Whose entries an event changes.
fn findables(event: &Recorded) -> Vec<Changed> {
    let at = (event.position, event.id);
    let change = |what, organization, version| Changed { what, organization, at, moment: event.at, version };
    if let Some(UserEvent::MadeAnew { subjects }) = event.event_as() {
        // Of what their rows say; which of them are documents, and whose, their rows say too.
        let documents = subjects.iter().map(|id| Findable::Document(DocumentId::from_uuid(*id)));
        return documents.map(|document| change(document, None, 0)).collect();
    }
    if let Some(OrganizationEvent::RowsRemoved { read_model, ids }) = event.event_as() {
        // Something may have made their entries anew since the organisation ended.
        let what = |id: &Uuid| match read_model.as_str() {
            documents::Model::TABLE => Some(Findable::Document(DocumentId::from_uuid(*id))),
            projects::Model::TABLE => Some(Findable::Project(ProjectId::from_uuid(*id))),
            _ => None,
        };
        let organization = Some(event.organization);
        return ids.iter().filter_map(what).map(|what| change(what, organization, 0)).collect();
    }
    findable(event).map(|what| change(what, Some(event.organization), event.version)).into_iter().collect()
}

/// Whose entry an event changes.
fn findable(event: &Recorded) -> Option<Findable> {
    if let Some(happened) = event.event_as::<DocumentEvent>() {
        use DocumentEvent as E;
        return match happened {
            E::Uploaded { .. }
            | E::RevisionAdded { .. }
            | E::Renamed { .. }
            | E::Tagged { .. }
            | E::Moved { .. }
            | E::TextExtracted { .. }
            | E::Trashed { .. }
            | E::Restored { .. }
            | E::ScanOrdered { .. }
            | E::StageCompleted { stage: Stage::Scan, .. }
            | E::StageSkipped { stage: Stage::Scan, .. }
            | E::StageFailed { stage: Stage::Scan, .. }
            | E::Retried { stage: Stage::Scan, .. }
            | E::Purged { .. } => Some(Findable::Document(DocumentId::from_uuid(event.subject))),
            E::Scanned { .. }
            | E::Released { .. }
            | E::StageStarted { .. }
            | E::StageCompleted { .. }
            | E::StageSkipped { .. }
            | E::StageFailed { .. }
            | E::Retried { .. } => None,
        };
    }
    if let Some(OrganizationEvent::Ended) = event.event_as() {
        return Some(Findable::Organization(event.organization));
    }
    match event.event_as::<ProjectEvent>()? {
        ProjectEvent::Created { .. } | ProjectEvent::Renamed { .. } | ProjectEvent::Described { .. } => {
            Some(Findable::Project(ProjectId::from_uuid(event.subject)))
        }
        ProjectEvent::Archived
        | ProjectEvent::Restored
        | ProjectEvent::MemberAdded { .. }
        | ProjectEvent::MemberRemoved { .. } => None,
    }
}

// --- entries -----------------------------------------------------------------------------------------------------

fn document(row: &documents::Model, body: String, changed: Timestamp) -> Entry {
    Entry {
        id: row.id.to_string(),
        kind: documents::Model::NAME.to_owned(),
        organization: row.organization_id.uuid(),
        project: Some(row.project_id.uuid()),
        title: row.title.clone(),
        body,
        tags: row.tags.0.clone(),
        media_type: Some(row.media_type.clone()),
        keywords: Some(row.file_name.clone()).filter(|name| !name.is_empty()).into_iter().collect(),
        updated_at: changed,
    }
}

fn project(row: &projects::Model, changed: Timestamp) -> Entry {
    Entry {
        id: row.id.to_string(),
        kind: projects::Model::NAME.to_owned(),
        organization: row.organization_id.uuid(),
        project: Some(row.id.uuid()),
        title: row.name.clone(),
        body: row.description.clone().unwrap_or_default(),
        tags: Vec::new(),
        media_type: None,
        keywords: vec![row.key.clone()],
        updated_at: changed,
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry.body.len() + entry.title.len(),
        Change::Remove { .. } | Change::RemoveOrganization(_) => 0,
    }
}

/// The text without the part of a character at its end, where it was cut.
fn whole_characters(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let valid = error.utf8_error().valid_up_to();
        let mut bytes = error.into_bytes();
        bytes.truncate(valid);
        String::from_utf8(bytes).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(whole_characters(b"plain".to_vec()), "plain");
        assert_eq!(whole_characters("Größe".as_bytes()[..3].to_vec()), "Gr");
        assert_eq!(whole_characters(Vec::new()), "");
    }
}
