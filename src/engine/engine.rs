//! The engine: the log and what moves along it, as one value.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use oriel_kernel::{EventDecoder, Id, Timestamp};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::bus::Cached;
use crate::committer::Committer;
use crate::db::Database;
use crate::feed::Feed;
use crate::keyring::{KeyError, Keyring, MasterKeys};
use crate::live::Tracker;
use crate::log::{Log, LogError};
use crate::projection::Inline;
use crate::queue::QueueLimits;
use crate::rebuild::{self, RebuildError};
use crate::segments;

/// The clock and the source of ids: injected, so that tests are deterministic.
pub trait Sources: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
    /// A new id, greater than those before it.
    fn id(&self) -> Uuid;
}

/// The machine's clock, and UUIDv7.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSources;

impl Sources for SystemSources {
    #[allow(clippy::disallowed_methods)] // the one place that reads the machine's clock
    fn now(&self) -> Timestamp {
        oriel_kernel::time::to_micros(chrono::Utc::now())
    }
    fn id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// What an engine is made of.
pub struct Parts {
    /// Migrated.
    pub database: Database,
    /// Where the keys are that wrap all others.
    pub master: Arc<dyn MasterKeys>,
    /// The aggregates whose events the log holds.
    pub decoders: &'static [EventDecoder],
    /// The read models that are projected inside the commit.
    pub read_models: Vec<Box<dyn Inline>>,
    /// Clock and ids.
    pub sources: Arc<dyn Sources>,
    /// Bounds of the commit queue.
    pub limits: QueueLimits,
    /// How many aggregates are kept at hand.
    pub cached_aggregates: u64,
    /// How many touched dependencies are remembered.
    pub remembered_changes: usize,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A read model had to be rebuilt and could not.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

/// See the module. Cheap to share.
pub struct Engine {
    pub(crate) database: Database,
    pub(crate) log: Log,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) tracker: Tracker,
    pub(crate) read_models: Arc<Vec<Box<dyn Inline>>>,
    pub(crate) aggregates: moka::sync::Cache<Uuid, Cached>,
    pub(crate) turns: Vec<Arc<tokio::sync::Mutex<()>>>,
    pub(crate) sources: Arc<dyn Sources>,
    /// Counts whenever there may be a job to claim.
    pub(crate) work: tokio::sync::watch::Sender<u64>,
    incarnation: ArcSwap<Uuid>,
    committing: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("head", &self.feed.head()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the engine: makes what the installation lacks, rebuilds the read models whose projection changed, and
    /// begins to commit.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(parts: Parts) -> Result<Arc<Self>, StartError> {
        let now = parts.sources.now();
        let keyring = Arc::new(Keyring::open(parts.database.clone(), parts.master, now).await?);
        let log = Log::new(parts.database.clone(), Arc::clone(&keyring), parts.decoders);
        let incarnation = incarnation(&parts.database, parts.sources.id()).await?;
        let (head, last) = log.head().await?;
        if let (Some(primary), Some(last)) = (parts.database.primary(), last) {
            primary.applied(head, last);
        }
        let tracker = Tracker::new(parts.remembered_changes);
        let feed = Arc::new(Feed::new(parts.database.clone(), tracker.clone(), Arc::clone(&keyring), head));
        let read_models = Arc::new(parts.read_models);
        let committer = Committer::new(log.clone(), Arc::clone(&read_models), Arc::clone(&feed), parts.limits);
        let engine = Arc::new(Self {
            database: parts.database,
            log,
            keyring,
            committer: Arc::clone(&committer),
            feed,
            tracker,
            read_models,
            aggregates: moka::sync::Cache::new(parts.cached_aggregates),
            turns: (0..4096).map(|_| Arc::default()).collect(),
            sources: parts.sources,
            work: tokio::sync::watch::Sender::new(0),
            incarnation: ArcSwap::from_pointee(incarnation),
            committing: std::sync::Mutex::new(None),
        });
        if let Some(primary) = engine.database.primary() {
            let this = Arc::downgrade(&engine);
            primary.on_promotion(move || _ = this.upgrade().map(|engine| engine.forget_what_is_kept()));
            tokio::spawn(renew_incarnation(Arc::downgrade(&engine), primary.promotions()));
        }
        rebuild::bring_up_to_date(&engine).await?;
        if engine.shared_with_other_nodes() {
            engine.feed.begin().await?;
        }
        engine.feed.catch_up().await?;
        if segments::make_ahead(&engine.database, engine.feed.head()).await?.is_some() {
            tokio::spawn(segments::keep_ahead(Arc::downgrade(&engine)));
        }
        if !engine.database.replicas().is_empty() {
            tokio::spawn(crate::replicas::watch(Arc::downgrade(&engine)));
        }
        *engine.committing.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(tokio::spawn(committer.run()));
        Ok(engine)
    }

    /// Commits what is queued, and ends.
    pub async fn stop(&self) {
        self.committer.close();
        let task = self.committing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the committer ended badly");
        }
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What was committed, in order.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// What was touched when.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// The keys.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// The read models that are projected inside the commit.
    pub fn read_models(&self) -> &[Box<dyn Inline>] {
        &self.read_models
    }

    /// Which history this is: another one after a restore, and after the promotion of a replica.
    pub fn incarnation(&self) -> Uuid {
        **self.incarnation.load()
    }

    /// Ends when the database that takes writes now lacks what this process has applied: what is known here is of a
    /// history that is gone, and the process can only begin anew.
    pub async fn history_is_lost(&self) {
        match self.database.primary() {
            Some(primary) => _ = primary.is_lost().wait_for(|is_lost| *is_lost).await,
            None => std::future::pending().await,
        }
    }

    /// What was read from a server whose place another one has taken may be of what that one lacks.
    fn forget_what_is_kept(&self) {
        self.keyring.drop_all();
        self.aggregates.invalidate_all();
        self.tracker.raise_floor();
    }

    /// Commands that wait to be committed.
    pub fn queued_commands(&self) -> usize {
        self.committer.depth()
    }

    /// How long the first of them has waited.
    pub fn queued_for(&self) -> Duration {
        self.committer.age()
    }

    /// Whether a command would be taken now. To be asked before an upload is read.
    pub fn has_room(&self) -> bool {
        self.committer.has_room(0)
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.sources.now()
    }

    /// A new id.
    pub fn new_id<K>(&self) -> Id<K> {
        Id::from_uuid(self.sources.id())
    }

    /// Lets the workers of this process look for jobs now. They look by themselves now and then.
    pub fn wake_workers(&self) {
        self.work.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whether other processes may write to the same log.
    pub(crate) fn shared_with_other_nodes(&self) -> bool {
        self.database.backend() == DbBackend::Postgres
    }

    /// Forgets the commands that are older than their retries may be (P7), a bounded number at a time.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn forget_commands(&self, before: Timestamp) -> Result<u64, DbErr> {
        let sql = "DELETE FROM commands WHERE id IN (SELECT id FROM commands WHERE at < $1 ORDER BY at LIMIT 1000)";
        let statement = self.database.statement(sql, sql, vec![before.into()]);
        Ok(self.database.writer().execute_raw(statement).await?.rows_affected())
    }
}

/// Notes each promotion, for all nodes: the first that comes gives the history its new name.
async fn renew_incarnation(engine: Weak<Engine>, mut promotions: tokio::sync::watch::Receiver<u64>) {
    while promotions.changed().await.is_ok() {
        while let Some(engine) = engine.upgrade() {
            match incarnation(&engine.database, engine.sources.id()).await {
                Ok(renewed) => {
                    engine.incarnation.store(Arc::new(renewed));
                    break;
                }
                Err(error) => tracing::warn!(%error, "the promotion of a replica cannot be noted at the moment"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Which history this is. Where PostgreSQL was restored to a moment or a replica was promoted, it goes on on another
/// timeline than the one that is noted: from there on it is another history.
async fn incarnation(database: &Database, fresh: Uuid) -> Result<Uuid, DbErr> {
    let insert = "INSERT INTO installation (one, incarnation) VALUES (1, $1) ON CONFLICT DO NOTHING";
    database.writer().execute_raw(database.statement(insert, insert, vec![fresh.into()])).await?;
    if database.backend() == DbBackend::Postgres {
        // The first 8 digits of the name of a WAL file are the timeline.
        let note = "UPDATE installation SET timeline = current.timeline, \
                    incarnation = CASE WHEN installation.timeline IS NULL THEN incarnation ELSE $1 END \
                    FROM (SELECT substring(pg_walfile_name(pg_current_wal_lsn()) FOR 8) AS timeline) AS current \
                    WHERE installation.timeline IS DISTINCT FROM current.timeline";
        database.writer().execute_raw(database.statement(note, note, vec![fresh.into()])).await?;
    }
    let select = "SELECT incarnation FROM installation WHERE one = 1";
    let row = database.writer().query_one_raw(database.statement(select, select, vec![])).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("installation".to_owned()))?.try_get("", "incarnation")
}
