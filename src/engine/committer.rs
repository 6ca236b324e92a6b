//! The committer: the one place of a process where events enter the log.
//!
//! It takes what is queued, with no added delay (the previous commit is the delay), and writes one transaction under
//! the order lock: checks, positions, events, read models, changes. Commands are checked in order against the
//! survivors before them; one that fails is answered and leaves. A batch that fails as a whole is halved, so that a
//! poisoned command fails alone. Nothing is acknowledged before it is on disk.

mod batch;
mod ground;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oriel_kernel::trace;
use oriel_kernel::{
    Actor, AnyEvent, EventId, Facts, Observed, OrganizationId, Position, Recorded, Rejection, Timestamp,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};
use tokio::sync::{Notify, oneshot};
use tracing::{Instrument, Span};
use uuid::Uuid;

use self::batch::{Batch, changes_row};
use self::ground::Ground;
use crate::db::Database;
use crate::feed::{Applied, Feed};
use crate::keyring;
use crate::log::{Log, LogError};
use crate::projection::{Inline, ProjectError, project};
use crate::queue::{Queue, QueueLimits, Waiting};
use crate::read::Dependency;

/// An event, ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) id: EventId,
    /// For the projections: personal data is clear.
    pub(crate) event: Arc<dyn AnyEvent>,
    /// For the log: personal data is sealed.
    pub(crate) data: Vec<u8>,
}

/// Events for one aggregate.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) tenant: OrganizationId,
    pub(crate) subject: Uuid,
    /// The version that they were decided on.
    pub(crate) expected: i32,
    pub(crate) events: Vec<Prepared>,
    pub(crate) facts: Facts,
}

/// What one command wants written.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) command: Uuid,
    pub(crate) input_hash: [u8; 32],
    pub(crate) subject: Uuid,
    pub(crate) organization: OrganizationId,
    pub(crate) appends: Vec<Append>,
    /// What its actor's permission rests on: it has to be so still.
    pub(crate) observed: Observed,
    /// The organisations that it writes into, and the persons with whose data keys it is sealed: all have to be there
    /// still.
    pub(crate) keys: BTreeSet<Uuid>,
    pub(crate) actor: Actor,
    pub(crate) at: Timestamp,
    pub(crate) correlation: Uuid,
    pub(crate) causation: Option<Uuid>,
    /// Within which it is to be written.
    pub(crate) span: Span,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// It is in the log.
    Committed { position: Position, events: Vec<Arc<Recorded>> },
    /// The command was committed before.
    Repeated { position: Position, subject: Uuid, input_hash: Vec<u8> },
    /// An aggregate has another version than the command was decided on.
    Conflict { subject: Uuid },
    /// What it observed changed.
    Stale,
    /// A fact is against it.
    Rejected(Rejection),
    /// It waited too long.
    Overloaded,
    /// It cannot be written, and nobody can mend it by trying again.
    Poisoned(String),
    /// The database is not there. It may be tried again.
    Unavailable(String),
}

struct Item {
    proposal: Proposal,
    bytes: usize,
    answer: oneshot::Sender<Verdict>,
}

impl Waiting for Item {
    fn organization(&self) -> Uuid {
        self.proposal.organization.uuid()
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn subjects(&self) -> impl Iterator<Item = Uuid> {
        self.proposal.appends.iter().map(|append| append.subject)
    }
}

/// See the module.
pub(crate) struct Committer {
    database: Database,
    log: Log,
    read_models: Arc<Vec<Box<dyn Inline>>>,
    feed: Arc<Feed>,
    queue: Mutex<Queue<Item>>,
    wake: Notify,
    closing: std::sync::atomic::AtomicBool,
}

/// How long a batch may take on PostgreSQL. Who sent its commands has given up long before.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Database(#[from] DbErr),
    #[error(transparent)]
    Projection(#[from] ProjectError),
    #[error(transparent)]
    Log(#[from] LogError),
    /// Another release has switched this read model: this process must not write it any more.
    #[error("the read model {0} is inline in another version than this program writes")]
    Generation(String),
    #[error("whether the batch was committed cannot be found out: {0}")]
    Uncertain(DbErr),
}

impl Committer {
    pub(crate) fn new(
        log: Log,
        read_models: Arc<Vec<Box<dyn Inline>>>,
        feed: Arc<Feed>,
        limits: QueueLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            database: log.database().clone(),
            log,
            read_models,
            feed,
            queue: Mutex::new(Queue::new(limits)),
            wake: Notify::new(),
            closing: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Whether a command of this weight would be taken now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.lock().has_room(bytes)
    }

    /// How many commands wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().len()
    }

    /// How long the first of them has waited.
    pub(crate) fn age(&self) -> Duration {
        self.lock().oldest().map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Queues a proposal and waits for its verdict.
    pub(crate) async fn submit(&self, proposal: Proposal) -> Verdict {
        let events = proposal.appends.iter().flat_map(|append| &append.events);
        let bytes = 256 + events.map(|event| event.data.len() + 256).sum::<usize>();
        let (answer, verdict) = oneshot::channel();
        if self.closing.load(std::sync::atomic::Ordering::Acquire) {
            return Verdict::Unavailable("the server is shutting down".to_owned());
        }
        if self.lock().push(Item { proposal, bytes, answer }, Instant::now()).is_err() {
            metrics::counter!("oriel_commands_refused_total", "reason" => "overloaded").increment(1);
            return Verdict::Overloaded;
        }
        self.wake.notify_one();
        verdict.await.unwrap_or_else(|_| Verdict::Unavailable("the committer has ended".to_owned()))
    }

    /// Writes batch after batch until [`Committer::close`], and then what is still queued.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let (batch, late) = self.lock().batch(Instant::now());
            for item in late {
                let _ = item.answer.send(Verdict::Overloaded);
            }
            if batch.is_empty() {
                if self.closing.load(std::sync::atomic::Ordering::Acquire) && self.depth() == 0 {
                    return;
                }
                self.wake.notified().await;
                continue;
            }
            metrics::histogram!("oriel_commit_batch_commands").record(batch.len() as f64);
            let started = Instant::now();
            let (proposals, answers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|item| (item.proposal, item.answer)).unzip();
            let verdicts = self.write_or_halve(&proposals).instrument(span(&proposals)).await;
            metrics::histogram!("oriel_commit_seconds").record(started.elapsed().as_secs_f64());
            for (answer, verdict) in answers.into_iter().zip(verdicts) {
                // A client that went away does not undo its command.
                let _ = answer.send(verdict);
            }
        }
    }

    /// Takes nothing more; [`Committer::run`] ends when the queue is empty.
    pub(crate) fn close(&self) {
        self.closing.store(true, std::sync::atomic::Ordering::Release);
        self.wake.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue<Item>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_or_halve(&self, proposals: &[Proposal]) -> Vec<Verdict> {
        match self.write_in_time(proposals).await {
            Ok(verdicts) => verdicts,
            Err(error) if is_outage(&error) => {
                tracing::error!(%error, commands = proposals.len(), "a batch was not committed: the database is not available");
                vec![Verdict::Unavailable(error.to_string()); proposals.len()]
            }
            Err(error) if proposals.len() == 1 => {
                tracing::error!(%error, command = %proposals[0].command, subject = %proposals[0].subject,
                    "a command is poisoned: it fails alone");
                metrics::counter!("oriel_commands_poisoned_total").increment(1);
                vec![Verdict::Poisoned(error.to_string())]
            }
            Err(error) => {
                tracing::warn!(%error, commands = proposals.len(), "a batch failed and is halved");
                let (left, right) = proposals.split_at(proposals.len() / 2);
                let mut verdicts = Box::pin(self.write_or_halve(left)).await;
                verdicts.extend(Box::pin(self.write_or_halve(right)).await);
                verdicts
            }
        }
    }

    /// A server that is gone without a word does not end what waits for it.
    async fn write_in_time(&self, proposals: &[Proposal]) -> Result<Vec<Verdict>, BatchError> {
        let Some(primary) = self.database.primary() else { return self.write(proposals).await };
        let given_up = |why: String| Err(BatchError::Uncertain(DbErr::Custom(why)));
        tokio::select! {
            written = self.write(proposals) => written,
            () = primary.replaced() => given_up("another server has taken the place of the one it was written to".to_owned()),
            () = tokio::time::sleep(WRITTEN_WITHIN) => {
                given_up(format!("the database does not answer within {WRITTEN_WITHIN:?}"))
            }
        }
    }

    async fn write(&self, proposals: &[Proposal]) -> Result<Vec<Verdict>, BatchError> {
        let transaction = self.database.begin_ordered().await?;
        let ground = Ground::read(&transaction, proposals).await?;
        for read_model in self.read_models.iter() {
            if ground.read_models.get(read_model.table()) != Some(&read_model.version()) {
                return Err(BatchError::Generation(read_model.table().to_owned()));
            }
        }
        let first = ground.head.next();
        let mut batch = Batch::new(ground);
        let verdicts: Vec<Verdict> = proposals.iter().map(|proposal| batch.judge(proposal)).collect();
        if batch.events.is_empty() {
            transaction.rollback().await?;
            if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Repeated { .. })) {
                self.database.confirm().await?;
            }
            return Ok(verdicts);
        }
        let last = batch.ground.head;
        let mut writes = batch.log_writes(self.database.backend())?;
        let mut touched: BTreeSet<Dependency> = BTreeSet::new();
        for (event, _) in &batch.events {
            touched.insert(Dependency::collection("events", "org", event.organization.uuid()));
        }
        let destroyed: Vec<Uuid> = batch.destroyed().collect();
        if !destroyed.is_empty() {
            writes.insert(keyring::destroyed(self.database.backend(), destroyed)?);
            touched.insert(Dependency::named(keyring::ANY_KEY));
        }
        let events: Vec<_> = batch.events.into_iter().map(|(event, _)| event).collect();
        let read_models = self.read_models.iter().map(|read_model| (read_model.as_ref(), read_model.table()));
        let histories = self.log.histories(&transaction, &events).await?;
        let projected = project(&transaction, read_models, &events, &Arc::new(histories)).await?;
        writes.merge(projected.writes);
        touched.extend(projected.touched);
        writes.insert(changes_row(self.database.backend(), first, last, &touched)?);
        writes.execute(&transaction).await?;
        self.commit(transaction, proposals, &verdicts).await?;

        metrics::counter!("oriel_events_total").increment(events.len() as u64);
        self.feed.announce(Applied { first, last, touched: touched.into_iter().collect(), events }).await;
        Ok(verdicts)
    }

    /// Commits; when the answer to that is lost, looks whether it happened before anything is said.
    async fn commit(
        &self,
        transaction: DatabaseTransaction,
        proposals: &[Proposal],
        verdicts: &[Verdict],
    ) -> Result<(), BatchError> {
        let Err(error) = transaction.commit().await else { return Ok(()) };
        if self.database.backend() == DbBackend::Sqlite && error.to_string().contains("disk I/O error") {
            // After a failed fsync nobody knows what is on disk but a new process that reads it.
            tracing::error!(%error, "the log could not be brought to disk; the process ends");
            std::process::abort();
        }
        let survivor = proposals.iter().zip(verdicts).find(|(_, v)| matches!(v, Verdict::Committed { .. }));
        let Some((survivor, _)) = survivor else { return Err(error.into()) };
        tracing::warn!(%error, command = %survivor.command, "a commit has no certain answer; its command is looked up");
        for attempt in 0..5u32 {
            let sql = "SELECT position FROM commands WHERE id = $1";
            let statement = Statement::from_sql_and_values(self.database.backend(), sql, [survivor.command.into()]);
            match self.database.writer().query_one_raw(statement).await {
                Ok(Some(_)) => return self.database.confirm().await.map_err(BatchError::Uncertain),
                Ok(None) => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100 << attempt)).await,
            }
        }
        Err(BatchError::Uncertain(error))
    }
}

/// That of a batch: it belongs to the first of its commands, and has to do with the others.
fn span(proposals: &[Proposal]) -> Span {
    let Some((first, others)) = proposals.split_first() else { return Span::none() };
    let commands = proposals.len();
    let span = tracing::debug_span!(target: trace::TARGET, parent: &first.span, "commit", commands);
    if !span.is_disabled() {
        others.iter().for_each(|other| {
            span.follows_from(&other.span);
        });
    }
    span
}

fn is_outage(error: &BatchError) -> bool {
    let database = match error {
        BatchError::Generation(_) | BatchError::Uncertain(_) => return true,
        BatchError::Database(error)
        | BatchError::Projection(ProjectError::Database(error))
        | BatchError::Log(LogError::Database(error)) => error,
        BatchError::Projection(_) | BatchError::Log(_) => return false,
    };
    match database {
        DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => true,
        DbErr::Exec(sea_orm::RuntimeErr::SqlxError(error)) | DbErr::Query(sea_orm::RuntimeErr::SqlxError(error)) => {
            matches!(
                &**error,
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_)
            ) || error.as_database_error().and_then(|e| e.code()).is_some_and(|code| {
                // The server ends, or has ended the transaction of a process that stood still in it; it is not the one
                // that takes writes any more; it has no room left.
                code.starts_with("57P") || code.starts_with("53") || code == "25P03" || code == "25006"
            })
        }
        _ => false,
    }
}
