//! Jobs: work outside the log, made by reactors, done by workers.
//!
//! Invariants: a job is made once for its event (its id is derived). It is claimed by a lease with a fence: whoever
//! claims it raises the fence, and only the holder of the present fence can report, so a worker that came back from
//! the dead changes nothing. In one queue a job waits until the earlier jobs of its subject have ended; otherwise jobs
//! run beside each other, and organisations take turns. Every job ends `done` or `failed` with a reason, after a
//! bounded number of attempts. A job may run twice (the process died before it could report): workers are idempotent.
//!
//! Nothing here knows what a job does.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use oriel_kernel::{CommandId, OrganizationId, Position, Recorded, Timestamp};
use sea_orm::{ColumnType, ConnectionTrait, DatabaseTransaction, DbErr, QueryResult, Value};
use uuid::Uuid;

use crate::bulk::{Bulk, OnConflict, Writes};
use crate::consumers::{backoff, plain_text};
use crate::engine::Engine;

pub use crate::workers::Workers;

/// Jobs that a pruning removes at once.
const PRUNED: i64 = 1_000;

/// What a reactor wants done.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// By which worker.
    pub queue: &'static str,
    /// For whom: organisations take turns.
    pub organization: OrganizationId,
    /// On what: the jobs of one subject in one queue run one after the other.
    pub subject: Uuid,
    /// What the worker has to know. No personal data: it would outlive its key.
    pub payload: serde_json::Value,
    /// Not before.
    pub run_at: Option<Timestamp>,
}

impl NewJob {
    /// About the event's own aggregate, at once, without a payload.
    pub fn new(queue: &'static str, event: &Recorded) -> Self {
        Self {
            queue,
            organization: event.organization,
            subject: event.subject,
            payload: serde_json::Value::Null,
            run_at: None,
        }
    }

    /// With this for the worker.
    pub fn payload(mut self, payload: serde_json::Value) -> Self {
        self.payload = payload;
        self
    }
}

/// A job that a worker holds.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id, derived from its event.
    pub id: Uuid,
    /// Its queue.
    pub queue: String,
    /// For whom.
    pub organization: OrganizationId,
    /// On what.
    pub subject: Uuid,
    /// Where the event is that it was made for.
    pub position: Position,
    /// See [`NewJob::payload`].
    pub payload: serde_json::Value,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Raised whenever it is claimed.
    pub fence: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Job {
    /// The id of the command that reports this job's outcome: the same in every attempt, so that it is carried out
    /// once.
    pub fn command(&self, what: &str) -> CommandId {
        CommandId::from_uuid(derived(&[b"command", self.id.as_bytes(), what.as_bytes()], 0))
    }
}

/// A job that was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct JobFailure {
    /// What is wrong, for operators.
    pub message: String,
    /// Whether another attempt may succeed.
    pub retry: bool,
}

impl JobFailure {
    /// It may succeed later.
    pub fn again(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: true }
    }

    /// It never will.
    pub fn for_good(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: false }
    }
}

/// Does the jobs of one queue.
#[async_trait::async_trait]
pub trait Worker: Send + Sync + 'static {
    /// Its queue's name, for ever.
    fn queue(&self) -> &'static str;

    /// Does one job. Idempotent: it may have been done before. Dropped when the lease is lost or the process ends.
    async fn run(&self, job: &Job) -> Result<(), JobFailure>;

    /// How often a job is tried before it has failed.
    fn max_attempts(&self) -> u32 {
        10
    }

    /// How many jobs run beside each other in this process.
    fn slots(&self) -> usize {
        4
    }

    /// How long a job waits after this many failed attempts.
    fn backoff(&self, attempts: u32) -> Duration {
        backoff(Duration::from_secs(1), Duration::from_secs(3600), attempts)
    }
}

/// How workers go about it.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// How long a claim holds; it is renewed while the job runs.
    pub lease: Duration,
    /// How long a missed wake-up may go unnoticed.
    pub poll: Duration,
    /// How long running jobs may go on when the process ends.
    pub grace: Duration,
    /// How long a job that is done is remembered.
    pub keep_done: Duration,
    /// How long a job that failed is remembered.
    pub keep_failed: Duration,
}

impl Default for WorkerLimits {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            lease: Duration::from_secs(60),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            keep_done: day * 7,
            keep_failed: day * 30,
        }
    }
}

/// A queue, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Jobs that wait.
    pub depth: i64,
    /// Jobs that are being done.
    pub running: i64,
    /// Jobs that failed for good, and are remembered.
    pub failed: i64,
    /// When the oldest that waits was made.
    pub oldest: Option<Timestamp>,
}

/// The jobs of one event, with their ids: rows for [`insert`].
pub(crate) fn of_event(
    reactor: &str,
    event: &Recorded,
    jobs: Vec<NewJob>,
    now: Timestamp,
) -> Vec<(Uuid, Position, Timestamp, NewJob)> {
    let event_id = event.id.uuid();
    let id = |n: usize, job: &NewJob| {
        let parts: [&[u8]; 4] = [b"job", reactor.as_bytes(), event_id.as_bytes(), job.queue.as_bytes()];
        derived(&parts, u16::try_from(n).unwrap_or(u16::MAX))
    };
    jobs.into_iter().enumerate().map(|(n, job)| (id(n, &job), event.position, now, job)).collect()
}

/// Makes jobs; those that are there already stay as they are.
pub(crate) async fn insert(
    transaction: &DatabaseTransaction,
    jobs: &[(Uuid, Position, Timestamp, NewJob)],
) -> Result<(), DbErr> {
    let columns = [
        ("id", ColumnType::Uuid),
        ("queue", ColumnType::Text),
        ("organization_id", ColumnType::Uuid),
        ("subject_id", ColumnType::Uuid),
        ("position", ColumnType::BigInteger),
        ("payload", ColumnType::Text),
        ("state", ColumnType::Text),
        ("attempts", ColumnType::Integer),
        ("run_at", ColumnType::TimestampWithTimeZone),
        ("fence", ColumnType::BigInteger),
        ("created_at", ColumnType::TimestampWithTimeZone),
    ];
    let mut bulk = Bulk::new(transaction.get_database_backend(), "jobs", &columns, OnConflict::Skip);
    for (id, position, now, job) in jobs {
        bulk.row([
            Value::from(*id),
            job.queue.into(),
            job.organization.uuid().into(),
            job.subject.into(),
            position.number().into(),
            job.payload.to_string().into(),
            "queued".into(),
            0i32.into(),
            job.run_at.unwrap_or(*now).into(),
            0i64.into(),
            (*now).into(),
        ])?;
    }
    let mut writes = Writes::default();
    writes.insert(bulk);
    writes.execute(transaction).await
}

/// An id that follows from what it is for. Ids of the same parts are in the order of `n`.
fn derived(parts: &[&[u8]], n: u16) -> Uuid {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    let mut bytes = [0; 16];
    bytes[..14].copy_from_slice(&digest.as_ref()[..14]);
    bytes[14..].copy_from_slice(&n.to_be_bytes());
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

const RETURNED: &str = "id, queue, organization_id, subject_id, position, payload, attempts, fence, created_at";

/// The claims on the jobs of one queue. Each method is one statement, and so one transaction.
impl Engine {
    /// The next job of a queue whose turn it is: of the organisation after `after`, in the order of ids.
    pub(crate) async fn claim_job(&self, queue: &str, after: Uuid, lease: Duration) -> Result<Option<Job>, DbErr> {
        // Two looks instead of one ordering by "after or not": each walks an index and stops at the first.
        match self.claim_on(queue, ">", after, lease).await? {
            Some(job) => Ok(Some(job)),
            None => self.claim_on(queue, "<=", after, lease).await,
        }
    }

    async fn claim_on(&self, queue: &str, side: &str, after: Uuid, lease: Duration) -> Result<Option<Job>, DbErr> {
        let now = self.now();
        let sql = |lock: &str| {
            format!(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, fence = fence + 1, leased_until = $4 \
                 WHERE id = (SELECT j.id FROM jobs j \
                   WHERE j.queue = $1 AND j.state = 'queued' AND j.run_at <= $2 AND j.organization_id {side} $3 \
                   AND NOT EXISTS (SELECT 1 FROM jobs e WHERE e.subject_id = j.subject_id AND e.queue = j.queue \
                     AND e.state IN ('queued', 'running') AND (e.position, e.id) < (j.position, j.id)) \
                   ORDER BY j.organization_id, j.position, j.id LIMIT 1 {lock}) \
                 RETURNING {RETURNED}"
            )
        };
        let values = vec![queue.into(), now.into(), after.into(), (now + lease).into()];
        let statement = self.database.statement(&sql("FOR UPDATE OF j SKIP LOCKED"), &sql(""), values);
        self.database.writer().query_one_raw(statement).await?.map(|row| job(&row)).transpose()
    }

    /// Renews a lease; `false` when it is lost.
    pub(crate) async fn renew_lease(&self, job: &Job, lease: Duration) -> Result<bool, DbErr> {
        let sql = "UPDATE jobs SET leased_until = $3 WHERE id = $1 AND fence = $2 AND state = 'running'";
        self.held(sql, vec![job.id.into(), job.fence.into(), (self.now() + lease).into()]).await
    }

    /// Ends a job, or puts it back until `run_at`; `false` when the lease is lost: somebody else reports.
    pub(crate) async fn finish_job(&self, job: &Job, outcome: &Outcome) -> Result<bool, DbErr> {
        let now = self.now();
        let ids: Vec<Value> = vec![job.id.into(), job.fence.into()];
        let (sql, values) = match outcome {
            Outcome::Done => (
                "UPDATE jobs SET state = 'done', leased_until = NULL, finished_at = $3 \
                 WHERE id = $1 AND fence = $2 AND state = 'running'",
                vec![now.into()],
            ),
            Outcome::Failed(why) => (
                "UPDATE jobs SET state = 'failed', leased_until = NULL, finished_at = $3, last_error = $4 \
                 WHERE id = $1 AND fence = $2 AND state = 'running'",
                vec![now.into(), plain_text(why).into()],
            ),
            Outcome::Again(why, wait) => (
                "UPDATE jobs SET state = 'queued', leased_until = NULL, run_at = $3, last_error = $4 \
                 WHERE id = $1 AND fence = $2 AND state = 'running'",
                vec![(now + *wait).into(), plain_text(why).into()],
            ),
            // It was not its fault: this attempt does not count.
            Outcome::Released => (
                "UPDATE jobs SET state = 'queued', leased_until = NULL, attempts = attempts - 1 \
                 WHERE id = $1 AND fence = $2 AND state = 'running'",
                vec![],
            ),
        };
        self.held(sql, ids.into_iter().chain(values).collect()).await
    }

    async fn held(&self, sql: &str, values: Vec<Value>) -> Result<bool, DbErr> {
        let statement = self.database.statement(sql, sql, values);
        Ok(self.database.writer().execute_raw(statement).await?.rows_affected() == 1)
    }

    /// Takes over what a worker left behind that ended without a word.
    pub(crate) async fn take_over_jobs(&self, queue: &str, max_attempts: u32) -> Result<u64, DbErr> {
        let now = self.now();
        let why = "the process that worked on it ended each time before it could report";
        let most = i32::try_from(max_attempts).unwrap_or(i32::MAX);
        let fail = "UPDATE jobs SET state = 'failed', leased_until = NULL, finished_at = $2, last_error = $4 \
                    WHERE queue = $1 AND state = 'running' AND leased_until < $2 AND attempts >= $3";
        let values = vec![queue.into(), now.into(), most.into(), why.into()];
        let failed = self.database.writer().execute_raw(self.database.statement(fail, fail, values)).await?;
        let again = "UPDATE jobs SET state = 'queued', leased_until = NULL \
                     WHERE queue = $1 AND state = 'running' AND leased_until < $2 AND attempts < $3";
        let values = vec![queue.into(), now.into(), most.into()];
        let freed = self.database.writer().execute_raw(self.database.statement(again, again, values)).await?;
        Ok(failed.rows_affected() + freed.rows_affected())
    }

    /// Forgets jobs that ended long ago, a bounded number at a time.
    pub(crate) async fn prune_jobs(&self, queue: &str, limits: &WorkerLimits) -> Result<u64, DbErr> {
        let sql = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE queue = $1 AND \
                   ((state = 'done' AND finished_at < $2) OR (state = 'failed' AND finished_at < $3)) LIMIT $4)";
        let now = self.now();
        let values =
            vec![queue.into(), (now - limits.keep_done).into(), (now - limits.keep_failed).into(), PRUNED.into()];
        Ok(self.database.writer().execute_raw(self.database.statement(sql, sql, values)).await?.rows_affected())
    }

    /// Every queue that has jobs, as the database has it.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn queue_states(&self) -> Result<Vec<QueueState>, DbErr> {
        let sql = "SELECT queue, state, CAST(COUNT(*) AS BIGINT) AS n, MIN(created_at) AS oldest FROM jobs \
                   GROUP BY queue, state ORDER BY queue";
        let mut states: Vec<QueueState> = Vec::new();
        for row in self.database.query(sql, vec![]).await? {
            let name: String = row.try_get("", "queue")?;
            if states.last().is_none_or(|last| last.name != name) {
                states.push(QueueState { name, ..QueueState::default() });
            }
            let Some(last) = states.last_mut() else { continue };
            let count: i64 = row.try_get("", "n")?;
            match row.try_get::<String>("", "state")?.as_str() {
                "queued" => {
                    last.depth = count;
                    last.oldest = row.try_get("", "oldest")?;
                }
                "running" => last.running = count,
                "failed" => last.failed = count,
                _ => {}
            }
        }
        Ok(states)
    }

    /// Gives the failed jobs of a queue another round of attempts; how many.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn retry_failed_jobs(&self, queue: &str) -> Result<u64, DbErr> {
        let sql = "UPDATE jobs SET state = 'queued', attempts = 0, run_at = $2, finished_at = NULL \
                   WHERE queue = $1 AND state = 'failed'";
        let statement = self.database.statement(sql, sql, vec![queue.into(), self.now().into()]);
        let count = self.database.writer().execute_raw(statement).await?.rows_affected();
        self.wake_workers();
        Ok(count)
    }
}

fn job(row: &QueryResult) -> Result<Job, DbErr> {
    let payload: String = row.try_get("", "payload")?;
    Ok(Job {
        id: row.try_get("", "id")?,
        queue: row.try_get("", "queue")?,
        organization: OrganizationId::from_uuid(row.try_get("", "organization_id")?),
        subject: row.try_get("", "subject_id")?,
        position: Position::new(row.try_get("", "position")?),
        payload: serde_json::from_str(&payload).map_err(|e| DbErr::Json(e.to_string()))?,
        attempt: u32::try_from(row.try_get::<i32>("", "attempts")?).unwrap_or(0),
        fence: row.try_get("", "fence")?,
        created_at: row.try_get("", "created_at")?,
    })
}

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Done,
    Failed(String),
    Again(String, Duration),
    Released,
}
