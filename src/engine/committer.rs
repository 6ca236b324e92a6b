//! The committer: the one place of a process where events enter the log.
//!
//! It takes what is queued, with no added delay (the previous commit is the delay), and writes one transaction under
//! the order lock: checks, positions, events, read models, changes. Commands are checked in order against the
//! survivors before them; one that fails is answered and leaves. A batch that fails as a whole is halved, so that a
//! poisoned command fails alone. Nothing is acknowledged before it is on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oriel_kernel::{Actor, AnyEvent, EventId, Facts, OrganizationId, Position, Recorded, Rejection, Timestamp};
use sea_orm::{ColumnType, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Statement, Value};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::bulk::{Bulk, OnConflict, Writes, ids_json, in_ids};
use crate::db::Database;
use crate::feed::{Applied, Feed, touched_json};
use crate::log::chain;
use crate::projection::{Inline, ProjectError};
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
    /// Aggregates that have to be at these versions, though nothing is appended to them.
    pub(crate) observed: Vec<(Uuid, i32)>,
    pub(crate) actor: Actor,
    pub(crate) at: Timestamp,
    pub(crate) correlation: Uuid,
    pub(crate) causation: Option<Uuid>,
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
    read_models: Arc<Vec<Box<dyn Inline>>>,
    feed: Arc<Feed>,
    queue: Mutex<Queue<Item>>,
    wake: Notify,
    closing: std::sync::atomic::AtomicBool,
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Database(#[from] DbErr),
    #[error(transparent)]
    Projection(#[from] ProjectError),
    /// Another release has switched this read model: this process must not write it any more.
    #[error("the read model {0} is inline in another version than this program writes")]
    Generation(String),
    #[error("whether the batch was committed cannot be found out: {0}")]
    Uncertain(DbErr),
}

impl Committer {
    pub(crate) fn new(
        database: Database,
        read_models: Arc<Vec<Box<dyn Inline>>>,
        feed: Arc<Feed>,
        limits: QueueLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
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
            let verdicts = self.write_or_halve(&proposals).await;
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
        match self.write(proposals).await {
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
            return Ok(verdicts);
        }
        let last = batch.ground.head;
        let mut writes = batch.log_writes(self.database.backend())?;
        let mut touched: BTreeSet<Dependency> = BTreeSet::new();
        for (event, _) in &batch.events {
            touched.insert(Dependency::collection("events", "org", event.organization.uuid()));
        }
        for read_model in self.read_models.iter() {
            let events: Vec<_> = batch
                .events
                .iter()
                .filter(|(event, _)| read_model.takes(event.event.stream()))
                .map(|(event, _)| Arc::clone(event))
                .collect();
            if !events.is_empty() {
                let projected = read_model.project(&transaction, read_model.table(), &events).await?;
                writes.merge(projected.writes);
                touched.extend(projected.touched);
            }
        }
        writes.insert(changes_row(self.database.backend(), first, last, &touched)?);
        writes.execute(&transaction).await?;
        self.commit(transaction, proposals, &verdicts).await?;

        metrics::counter!("oriel_events_total").increment(batch.events.len() as u64);
        let events = batch.events.into_iter().map(|(event, _)| event).collect();
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
                Ok(Some(_)) => return Ok(()),
                Ok(None) => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100 << attempt)).await,
            }
        }
        Err(BatchError::Uncertain(error))
    }
}

fn is_outage(error: &BatchError) -> bool {
    let database = match error {
        BatchError::Generation(_) | BatchError::Uncertain(_) => return true,
        BatchError::Database(error) | BatchError::Projection(ProjectError::Database(error)) => error,
        BatchError::Projection(_) => return false,
    };
    match database {
        DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => true,
        DbErr::Exec(sea_orm::RuntimeErr::SqlxError(error)) | DbErr::Query(sea_orm::RuntimeErr::SqlxError(error)) => {
            matches!(
                &**error,
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_)
            ) || error.as_database_error().and_then(|e| e.code()).is_some_and(|code| code.starts_with("57P"))
        }
        _ => false,
    }
}

/// What the log and the facts say at the moment of the lock, about everything that the batch mentions.
#[derive(Default)]
struct Ground {
    head: Position,
    chains: HashMap<Uuid, (i64, Vec<u8>)>,
    versions: HashMap<Uuid, i32>,
    commands: HashMap<Uuid, (Position, Uuid, Vec<u8>)>,
    facts: BTreeSet<(String, String)>,
    read_models: HashMap<String, i32>,
}

impl Ground {
    /// One statement for the whole batch.
    async fn read(transaction: &DatabaseTransaction, proposals: &[Proposal]) -> Result<Self, DbErr> {
        let backend = transaction.get_database_backend();
        let (mut organizations, mut subjects, mut commands) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut facts: BTreeSet<(&str, &str)> = BTreeSet::new();
        for proposal in proposals {
            commands.insert(proposal.command);
            subjects.extend(proposal.observed.iter().map(|(id, _)| *id));
            for append in &proposal.appends {
                organizations.insert(append.tenant.uuid());
                subjects.insert(append.subject);
                let asked = append.facts.claim.iter().chain(&append.facts.require).map(|(fact, _)| fact);
                facts.extend(asked.chain(&append.facts.release).map(|f| (f.scope.as_str(), f.value.as_str())));
            }
        }
        let list = |ids: BTreeSet<Uuid>| Value::from(ids_json(&ids.into_iter().collect::<Vec<_>>()));
        let values =
            [list(organizations), list(subjects), list(commands), Value::from(serde_json::json!(facts).to_string())];
        let rows =
            transaction.query_all_raw(Statement::from_sql_and_values(backend, ground_sql(backend), values)).await?;
        let mut ground = Self::default();
        for row in &rows {
            ground.take(row)?;
        }
        Ok(ground)
    }

    fn take(&mut self, row: &QueryResult) -> Result<(), DbErr> {
        let id = || row.try_get::<Uuid>("", "id");
        let number = || row.try_get::<i64>("", "n");
        let text = |name: &str| row.try_get::<String>("", name);
        let small = |n: i64| i32::try_from(n).map_err(|e| DbErr::Type(e.to_string()));
        match row.try_get::<i32>("", "k")? {
            1 => self.head = Position::new(number()?),
            2 => {
                self.chains.insert(id()?, (number()?, row.try_get("", "h")?));
            }
            3 => {
                self.versions.insert(id()?, small(number()?)?);
            }
            4 => {
                self.commands.insert(id()?, (Position::new(number()?), row.try_get("", "id2")?, row.try_get("", "h")?));
            }
            5 => {
                self.facts.insert((text("a")?, text("b")?));
            }
            _ => {
                self.read_models.insert(text("a")?, small(number()?)?);
            }
        }
        Ok(())
    }
}

fn ground_sql(backend: DbBackend) -> String {
    let (ids, pairs, null_id, null_bytes) = match backend {
        DbBackend::Postgres => (
            "(SELECT value::uuid AS id FROM json_array_elements_text($N::json))",
            "(SELECT value ->> 0 AS scope, value ->> 1 AS value FROM json_array_elements($4::json))",
            "NULL::uuid",
            "NULL::bytea",
        ),
        _ => (
            "(SELECT unhex(value) AS id FROM json_each($N))",
            "(SELECT value ->> 0 AS scope, value ->> 1 AS value FROM json_each($4))",
            "NULL",
            "NULL",
        ),
    };
    let of = |n: u8| ids.replace("$N", &format!("${n}"));
    let (organizations, subjects) = (of(1), of(2));
    let commands = in_ids(backend, "c.id", 3);
    let (text, big) = ("CAST(NULL AS TEXT)", "CAST(NULL AS BIGINT)");
    format!(
        "SELECT 1 AS k, {null_id} AS id, {null_id} AS id2, {text} AS a, {text} AS b, MAX(position) AS n, {null_bytes} AS h \
           FROM events HAVING MAX(position) IS NOT NULL \
         UNION ALL SELECT 2, e.organization_id, {null_id}, {text}, {text}, e.sequence, e.hash \
           FROM {organizations} o JOIN events e ON e.organization_id = o.id AND e.sequence = \
             (SELECT MAX(l.sequence) FROM events l WHERE l.organization_id = o.id) \
         UNION ALL SELECT 3, s.id, {null_id}, {text}, {text}, v.version, {null_bytes} FROM \
             (SELECT s.id, (SELECT MAX(e.version) FROM events e WHERE e.subject_id = s.id) AS version FROM {subjects} s) v \
             JOIN {subjects} s ON s.id = v.id WHERE v.version IS NOT NULL \
         UNION ALL SELECT 4, c.id, c.subject_id, {text}, {text}, c.position, c.input_hash FROM commands c WHERE {commands} \
         UNION ALL SELECT 5, {null_id}, {null_id}, f.scope, f.value, {big}, {null_bytes} \
           FROM {pairs} w JOIN facts f ON f.scope = w.scope AND f.value = w.value \
         UNION ALL SELECT 6, {null_id}, {null_id}, r.name, r.state, r.version, {null_bytes} \
           FROM read_models r WHERE r.state = 'inline'"
    )
}

/// A batch while it is judged: what is known, with the survivors so far on top.
struct Batch {
    ground: Ground,
    events: Vec<(Arc<Recorded>, Vec<u8>)>,
    hashes: Vec<Vec<u8>>,
    commands: Vec<(Uuid, Position, Uuid, [u8; 32], Timestamp)>,
    /// Facts that the batch changed: whether they hold now, and whether they held before.
    facts: BTreeMap<(String, String), (bool, bool)>,
}

impl Batch {
    fn new(ground: Ground) -> Self {
        Self { ground, events: Vec::new(), hashes: Vec::new(), commands: Vec::new(), facts: BTreeMap::new() }
    }

    fn judge(&mut self, proposal: &Proposal) -> Verdict {
        if let Some((position, subject, input_hash)) = self.ground.commands.get(&proposal.command) {
            return Verdict::Repeated { position: *position, subject: *subject, input_hash: input_hash.clone() };
        }
        let version = |id: &Uuid| self.ground.versions.get(id).copied().unwrap_or(0);
        if proposal.observed.iter().any(|(id, expected)| version(id) != *expected) {
            return Verdict::Stale;
        }
        if let Some(append) = proposal.appends.iter().find(|append| version(&append.subject) != append.expected) {
            return Verdict::Conflict { subject: append.subject };
        }
        let facts = match self.judge_facts(proposal) {
            Ok(facts) => facts,
            Err(rejection) => return Verdict::Rejected(rejection),
        };
        for (fact, holds) in facts {
            let held = self.ground.facts.contains(&fact);
            self.facts.entry(fact).or_insert((holds, held)).0 = holds;
        }
        let events = self.append(proposal);
        let position = self.ground.head;
        self.ground.commands.insert(proposal.command, (position, proposal.subject, proposal.input_hash.to_vec()));
        self.commands.push((proposal.command, position, proposal.subject, proposal.input_hash, proposal.at));
        Verdict::Committed { position, events }
    }

    /// In the order of the command's parts: what is required, then what is released, then what is claimed.
    fn judge_facts(&self, proposal: &Proposal) -> Result<BTreeMap<(String, String), bool>, Rejection> {
        let mut changed: BTreeMap<(String, String), bool> = BTreeMap::new();
        let key = |fact: &oriel_kernel::Fact| (fact.scope.clone(), fact.value.clone());
        for facts in proposal.appends.iter().map(|append| &append.facts) {
            let holds = |changed: &BTreeMap<(String, String), bool>, key: &(String, String)| {
                let in_batch = || self.facts.get(key).map(|(holds, _)| *holds);
                changed.get(key).copied().or_else(in_batch).unwrap_or_else(|| self.ground.facts.contains(key))
            };
            for (fact, otherwise) in &facts.require {
                if !holds(&changed, &key(fact)) {
                    return Err(otherwise.clone());
                }
            }
            for fact in &facts.release {
                changed.insert(key(fact), false);
            }
            for (fact, otherwise) in &facts.claim {
                if holds(&changed, &key(fact)) {
                    return Err(otherwise.clone());
                }
                changed.insert(key(fact), true);
            }
        }
        Ok(changed)
    }

    fn append(&mut self, proposal: &Proposal) -> Vec<Arc<Recorded>> {
        let mut events = Vec::new();
        for append in &proposal.appends {
            for prepared in &append.events {
                self.ground.head = self.ground.head.next();
                let link = self.ground.chains.entry(append.tenant.uuid()).or_insert((0, Vec::new()));
                link.0 += 1;
                let version = self.ground.versions.entry(append.subject).or_insert(0);
                *version += 1;
                let event = Recorded {
                    position: self.ground.head,
                    id: prepared.id,
                    organization: append.tenant,
                    sequence: link.0,
                    subject: append.subject,
                    version: *version,
                    actor: proposal.actor,
                    at: proposal.at,
                    correlation: proposal.correlation,
                    causation: proposal.causation,
                    event: Arc::clone(&prepared.event),
                };
                link.1 = chain(&link.1, &event, &prepared.data);
                self.hashes.push(link.1.clone());
                let event = Arc::new(event);
                self.events.push((Arc::clone(&event), prepared.data.clone()));
                events.push(event);
            }
        }
        events
    }

    fn log_writes(&self, backend: DbBackend) -> Result<Writes, DbErr> {
        let bytes = || ColumnType::VarBinary(sea_orm::sea_query::StringLen::None);
        let columns = [
            ("position", ColumnType::BigInteger),
            ("id", ColumnType::Uuid),
            ("organization_id", ColumnType::Uuid),
            ("sequence", ColumnType::BigInteger),
            ("stream", ColumnType::Text),
            ("subject_id", ColumnType::Uuid),
            ("version", ColumnType::Integer),
            ("type", ColumnType::Text),
            ("type_version", ColumnType::SmallInteger),
            ("actor_kind", ColumnType::SmallInteger),
            ("actor_id", ColumnType::Uuid),
            ("at", ColumnType::TimestampWithTimeZone),
            ("correlation_id", ColumnType::Uuid),
            ("causation_id", ColumnType::Uuid),
            ("data", bytes()),
            ("hash", bytes()),
        ];
        let mut events = Bulk::new(backend, "events", &columns, OnConflict::Fail);
        for ((event, data), hash) in self.events.iter().zip(&self.hashes) {
            let (actor_kind, actor_id) = event.actor.to_columns();
            events.row([
                Value::from(event.position.number()),
                event.id.uuid().into(),
                event.organization.uuid().into(),
                event.sequence.into(),
                event.event.stream().into(),
                event.subject.into(),
                event.version.into(),
                event.event.event_type().into(),
                event.event.type_version().into(),
                actor_kind.into(),
                actor_id.into(),
                event.at.into(),
                event.correlation.into(),
                event.causation.into(),
                data.clone().into(),
                hash.clone().into(),
            ])?;
        }
        let columns = [
            ("id", ColumnType::Uuid),
            ("input_hash", bytes()),
            ("position", ColumnType::BigInteger),
            ("subject_id", ColumnType::Uuid),
            ("at", ColumnType::TimestampWithTimeZone),
        ];
        let mut commands = Bulk::new(backend, "commands", &columns, OnConflict::Fail);
        for (id, position, subject, input_hash, at) in &self.commands {
            commands.row([
                Value::from(*id),
                input_hash.to_vec().into(),
                position.number().into(),
                (*subject).into(),
                (*at).into(),
            ])?;
        }
        let columns = [("scope", ColumnType::Text), ("value", ColumnType::Text)];
        let mut claimed = Bulk::new(backend, "facts", &columns, OnConflict::Fail);
        let mut released = Vec::new();
        for ((scope, value), change) in &self.facts {
            match change {
                (true, false) => claimed.row([Value::from(scope.as_str()), value.as_str().into()])?,
                (false, true) => released.push((scope.as_str(), value.as_str())),
                (true, true) | (false, false) => {}
            }
        }
        let mut writes = Writes::default();
        writes.insert(events);
        writes.insert(commands);
        writes.insert(claimed);
        writes.remove_facts(&released);
        Ok(writes)
    }
}

fn changes_row(
    backend: DbBackend,
    first: Position,
    last: Position,
    touched: &BTreeSet<Dependency>,
) -> Result<Bulk, DbErr> {
    let columns = [
        ("position", ColumnType::BigInteger),
        ("first_position", ColumnType::BigInteger),
        ("touched", ColumnType::Text),
    ];
    let mut changes = Bulk::new(backend, "changes", &columns, OnConflict::Fail);
    changes.row([Value::from(last.number()), first.number().into(), touched_json(touched).into()])?;
    Ok(changes)
}
