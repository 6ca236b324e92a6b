//! Asynchronous consumers: who follows the log with a checkpoint of their own (an index, the reactors).
//!
//! Invariants: events are applied in order, and none is skipped silently. A batch that fails is tried again and then
//! halved, until the one event that cannot be applied stands alone; that one is set aside, visibly, in
//! `consumer_failures`, and the consumer moves on. An outage (of the database, of the search server) never sets
//! anything aside: it is waited out. A checkpoint is a position *and* the id of the event there; when the log has
//! another event at that place it is another history, and what was derived from the old one is thrown away.
//!
//! What is derived inside a process is followed for by each node itself, with a checkpoint of its own. For what all
//! nodes share one of them follows at a time, which holds the lease of the consumer; the others stand by.
//!
//! Nothing here knows what a consumer does with the events.

mod lease;
mod runner;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oriel_kernel::{EventId, Position, Recorded, Timestamp};
use sea_orm::DbErr;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::engine::Engine;
use crate::jobs::{self, NewJob};
use crate::log::LogError;

pub use lease::Lease;
use runner::Runner;

/// A place in the log, and which event is there: the checkpoint of a consumer.
pub type Checkpoint = (Position, EventId);

/// Follows the log on each node by itself: what it derives is inside the process, and its checkpoint with it.
#[async_trait::async_trait]
pub trait Consumer: Send + Sync + 'static {
    /// Its name, for ever.
    fn name(&self) -> &'static str;

    /// How far it is; `None` at the beginning.
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError>;

    /// Applies these events, in order, and moves the checkpoint to `to` with them. Events that were applied before may
    /// come again. No events: only the checkpoint moves, past an event that was set aside.
    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint) -> Result<(), ConsumerError>;

    /// Ends when the next batch may begin; what comes meanwhile is in it. At once, unless a batch has a price of its
    /// own, however small it is.
    async fn gathered(&self) {}

    /// Throws away what was derived, checkpoint included: the log is another history.
    async fn reset(&self) -> Result<(), ConsumerError>;
}

/// Follows the log for all nodes: on one of them at a time, which holds its [`Lease`].
#[async_trait::async_trait]
pub trait SharedConsumer: Send + Sync + 'static {
    /// Its name, for ever.
    fn name(&self) -> &'static str;

    /// How far it is, whichever node brought it there; `None` at the beginning.
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError>;

    /// As [`Consumer::apply`]. What it writes to the database it writes under the lease.
    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint, lease: &Lease) -> Result<(), ConsumerError>;

    /// Another node has brought it from here to there: what this one has kept of it is old. `None`: it was never looked
    /// at by this process.
    async fn applied_elsewhere(&self, _from: Option<Position>, _to: Position) -> Result<(), ConsumerError> {
        Ok(())
    }

    /// As [`Consumer::reset`].
    async fn reset(&self, lease: &Lease) -> Result<(), ConsumerError>;
}

/// Who follows the log, told apart by where what they derive is.
#[derive(Clone)]
pub enum Follower {
    /// Inside the process: each node follows by itself.
    PerNode(Arc<dyn Consumer>),
    /// In one place for all nodes: one of them follows.
    Shared(Arc<dyn SharedConsumer>),
    /// In jobs, which all nodes share.
    Reactor(Arc<dyn Reactor>),
}

/// Says what has to be done outside the log because of an event. The jobs are made in the transaction that moves the
/// reactor's checkpoint.
pub trait Reactor: Send + Sync + 'static {
    /// Its name, for ever.
    fn name(&self) -> &'static str;

    /// The jobs that this event leads to. Pure: the same event gives the same jobs in the same order.
    fn react(&self, event: &Recorded) -> Vec<NewJob>;
}

/// Why a consumer did not apply something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumerError {
    /// What it writes to is not there. It is tried again for as long as that takes.
    #[error("not available: {0}")]
    Unavailable(String),
    /// It cannot be applied. It is tried again a bounded number of times; then the event is set aside.
    #[error("{0}")]
    Failed(String),
    /// Another node has moved the checkpoint meanwhile, or holds the lease: the consumer is asked anew how far it is.
    #[error("another node applies it")]
    Elsewhere,
}

impl From<DbErr> for ConsumerError {
    fn from(error: DbErr) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<LogError> for ConsumerError {
    /// An event that this release cannot read is waited for too (the release that can): never skipped.
    fn from(error: LogError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// How a consumer is followed up.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerLimits {
    /// Events in one batch.
    pub batch: u64,
    /// How often something that fails is tried before it is halved or set aside.
    pub attempts: u32,
    /// The first wait after a failure; it doubles each time.
    pub backoff: Duration,
    /// The longest wait after a failure.
    pub longest_backoff: Duration,
    /// How long a missed wake-up may go unnoticed.
    pub poll: Duration,
    /// How long the lease of a shared consumer holds; it is renewed all the time. So long nobody follows when its
    /// holder is killed.
    pub lease: Duration,
    /// How often who stands by looks whether the lease is free.
    pub stand_by: Duration,
    /// How many events that nothing was to be written for may pass before the checkpoint of a shared consumer is
    /// written; it is, too, whenever the lease is renewed.
    pub lazy: i64,
}

impl Default for ConsumerLimits {
    fn default() -> Self {
        Self {
            batch: 500,
            attempts: 5,
            backoff: Duration::from_millis(100),
            // What is back is noticed so soon: who waits for an index or a letter waits no longer than that.
            longest_backoff: Duration::from_secs(5),
            poll: Duration::from_secs(1),
            lease: Duration::from_secs(5),
            stand_by: Duration::from_millis(500),
            lazy: 1_000,
        }
    }
}

/// What a consumer is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Following {
    /// It applies what comes.
    Running,
    /// Another node applies what comes, for all of them.
    StandingBy,
    /// It failed, and tries again.
    Retrying,
    /// The log is another history than the one that it followed, and it cannot begin anew by itself.
    OtherHistory,
    /// It was stopped.
    Stopped,
}

impl Following {
    /// As operators read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::StandingBy => "standing_by",
            Self::Retrying => "retrying",
            Self::OtherHistory => "other_history",
            Self::Stopped => "stopped",
        }
    }
}

/// A consumer, for operators.
#[derive(Clone, Debug)]
pub struct ConsumerState {
    /// Its name.
    pub name: &'static str,
    /// The last event that it applied or set aside.
    pub position: Position,
    /// Events that it has not yet applied.
    pub lag_events: i64,
    /// How long ago the first of them was decided.
    pub lag: Duration,
    /// What it is doing.
    pub state: Following,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Events that it set aside.
    pub set_aside: i64,
}

/// An event that a consumer set aside.
#[derive(Clone, Debug)]
pub struct SetAside {
    /// Who.
    pub consumer: String,
    /// Where the event is.
    pub position: Position,
    /// Which event.
    pub event: EventId,
    /// How often it was tried.
    pub attempts: i32,
    /// What went wrong.
    pub error: String,
    /// When it was given up.
    pub at: Timestamp,
}

/// A consumer did not reach a position in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Behind {
    /// It is only here.
    #[error("the consumer is at position {0}")]
    At(Position),
    /// There is no such consumer in this process.
    #[error("there is no such consumer")]
    Unknown,
}

/// What a runner leads along the log.
enum Follows {
    ForItself(Arc<dyn Consumer>),
    ForAll(Arc<dyn SharedConsumer>),
}

impl Follows {
    fn name(&self) -> &'static str {
        match self {
            Self::ForItself(consumer) => consumer.name(),
            Self::ForAll(consumer) => consumer.name(),
        }
    }

    async fn gathered(&self) {
        if let Self::ForItself(consumer) = self {
            consumer.gathered().await;
        }
    }
}

/// The consumers of this process.
pub struct Consumers {
    engine: Arc<Engine>,
    followed: Vec<Arc<Followed>>,
    stop: watch::Sender<bool>,
    /// Aborted when this is dropped; ended at a batch's boundary by [`Consumers::stop`].
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

struct Followed {
    name: &'static str,
    position: watch::Sender<Position>,
    status: Mutex<Status>,
}

struct Status {
    state: Following,
    last_error: Option<String>,
    set_aside: i64,
    /// When the first event that is not applied was decided.
    behind_since: Option<Timestamp>,
}

impl Followed {
    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumers {
    /// Starts to follow the log with each of these.
    pub fn start(engine: &Arc<Engine>, followers: Vec<Follower>, limits: ConsumerLimits) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (mut followed, mut tasks) = (Vec::new(), JoinSet::new());
        for follower in followers {
            let follows = match follower {
                Follower::PerNode(consumer) => Follows::ForItself(consumer),
                Follower::Shared(consumer) => Follows::ForAll(consumer),
                Follower::Reactor(reactor) => {
                    Follows::ForAll(Arc::new(ReactorConsumer { engine: Arc::clone(engine), reactor }))
                }
            };
            let status = Status { state: Following::Running, last_error: None, set_aside: 0, behind_since: None };
            let one = Arc::new(Followed {
                name: follows.name(),
                position: watch::Sender::new(Position::START),
                status: Mutex::new(status),
            });
            followed.push(Arc::clone(&one));
            tasks.spawn(Runner::new(Arc::clone(engine), follows, one, limits, stopped.clone()).run());
        }
        Self { engine: Arc::clone(engine), followed, stop, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// Ends each at the boundary of a batch.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a consumer ended badly");
            }
        }
    }

    /// Each of them, and how far it is.
    pub fn states(&self) -> Vec<ConsumerState> {
        let (head, now) = (self.engine.feed().head(), self.engine.now());
        let state = |one: &Arc<Followed>| {
            let position = *one.position.borrow();
            let status = one.status();
            let lag = status.behind_since.and_then(|since| (now - since).to_std().ok()).unwrap_or_default();
            ConsumerState {
                name: one.name,
                position,
                lag_events: (head.number() - position.number()).max(0),
                lag,
                state: status.state,
                last_error: status.last_error.clone(),
                set_aside: status.set_aside,
            }
        };
        self.followed.iter().map(state).collect()
    }

    /// How far one is.
    pub fn position(&self, name: &str) -> Option<Position> {
        self.followed.iter().find(|one| one.name == name).map(|one| *one.position.borrow())
    }

    /// Waits until one has applied (or set aside) everything up to `position`.
    ///
    /// # Errors
    /// When it has not after `timeout`, or is not there.
    pub async fn wait_for(&self, name: &str, position: Position, timeout: Duration) -> Result<(), Behind> {
        let one = self.followed.iter().find(|one| one.name == name).ok_or(Behind::Unknown)?;
        let mut reached = one.position.subscribe();
        let reached = tokio::time::timeout(timeout, reached.wait_for(|reached| *reached >= position)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Behind::At(*one.position.borrow())),
        }
    }

    /// The events that one set aside, the latest first.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn set_aside(&self, name: &str, limit: u32) -> Result<Vec<SetAside>, DbErr> {
        let sql = "SELECT consumer, position, event_id, attempts, error, at FROM consumer_failures \
                   WHERE consumer = $1 ORDER BY position DESC LIMIT $2";
        let rows = self.engine.database().query(sql, vec![name.into(), i64::from(limit).into()]).await?;
        rows.iter()
            .map(|row| {
                Ok(SetAside {
                    consumer: row.try_get("", "consumer")?,
                    position: Position::new(row.try_get("", "position")?),
                    event: EventId::from_uuid(row.try_get("", "event_id")?),
                    attempts: row.try_get("", "attempts")?,
                    error: row.try_get("", "error")?,
                    at: row.try_get("", "at")?,
                })
            })
            .collect()
    }
}

/// A reactor's checkpoint is its row in `consumers`, moved in the transaction that makes its jobs. Events that lead to
/// none cost no transaction.
struct ReactorConsumer {
    engine: Arc<Engine>,
    reactor: Arc<dyn Reactor>,
}

#[async_trait::async_trait]
impl SharedConsumer for ReactorConsumer {
    fn name(&self) -> &'static str {
        self.reactor.name()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError> {
        Ok(self.engine.shared_checkpoint(self.name()).await?)
    }

    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint, lease: &Lease) -> Result<(), ConsumerError> {
        let mut made = Vec::new();
        for event in events {
            made.extend(jobs::of_event(self.name(), event, self.reactor.react(event), self.engine.now()));
        }
        // Without events it is one that was set aside that is passed by, which is remembered.
        if made.is_empty() && !events.is_empty() {
            return lease.pass(to).await;
        }
        let transaction = lease.begin(Some(to)).await?;
        jobs::insert(&transaction, &made).await?;
        transaction.commit().await?;
        if !made.is_empty() {
            self.engine.wake_workers();
        }
        Ok(())
    }

    async fn reset(&self, _: &Lease) -> Result<(), ConsumerError> {
        let why = "the log is another history than the one that this reactor followed. It does not begin anew by itself, \
                   because mails and calls that were made would be made again: remove its row from the table consumers \
                   if that is wanted";
        Err(ConsumerError::Failed(why.to_owned()))
    }
}

/// Twice as long each time, and of that a random part, so that those who failed together do not come back together.
pub(crate) fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(longest);
    // Random enough for this, without a generator: the low digits of the clock.
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    full.mul_f64(0.5 + f64::from(clock.subsec_nanos() % 1000) / 2000.0)
}

/// Text that both databases take: PostgreSQL has no NUL in texts. Bounded, because errors quote what they were given.
pub(crate) fn plain_text(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(2000).collect()
}
