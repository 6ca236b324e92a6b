//! Replicas of PostgreSQL: servers that follow the primary, from which viewers may be answered.
//!
//! Invariants. What is read from a replica is read in one REPEATABLE READ transaction, which knows how far the replica was
//! at its moment; its answer counts as one of that position, and holds only if nothing that it depends on has been touched
//! since ([`Moment::since`]). Whoever needs a position that it does not show yet goes to the primary, and so does everybody
//! for whom it does not hold. A replica takes reads while it answers, is a replica, is of this history and shows what this
//! node knew a look ago: one that is away, stands still or lags takes none, and nobody notices.
//! What Oriel does by itself (the log, sign-in, jobs) never asks a replica.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::future::join_all;
use oriel_kernel::Position;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, SqlxPostgresConnector, Statement,
    TransactionTrait,
};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::db::{Connections, reading};
use crate::engine::Engine;
use crate::live::Tick;

/// How often each is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// How long a replica may take to give a connection, or to say how far it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// One server that follows the primary.
pub(crate) struct Replica {
    name: String,
    pool: DatabaseConnection,
    is_usable: AtomicBool,
    seen: Mutex<Seen>,
}

/// What was seen of it last.
#[derive(Clone, Default)]
struct Seen {
    position: Position,
    why_not: Option<String>,
}

/// A replica, for operators.
#[derive(Clone, Debug)]
pub struct ReplicaState {
    /// `replica_1`, in the order of the settings.
    pub name: String,
    /// Whether it takes reads.
    pub is_usable: bool,
    /// How far it was when it was asked last.
    pub position: Position,
    /// Why it takes none.
    pub why_not: Option<String>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Replicas {
    all: Vec<Replica>,
    turn: AtomicUsize,
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all.iter().map(|replica| &replica.name)).finish()
    }
}

/// A moment of a replica: all that is read in the transaction was so at the same time.
pub struct Moment {
    /// To read in.
    pub transaction: Arc<DatabaseTransaction>,
    /// What is read here is current while nothing that it depends on is touched after this.
    pub since: Tick,
    /// Which replica it is.
    pub name: String,
}

impl Replicas {
    /// At these URLs; whether they answer is not asked yet.
    pub(crate) fn at(urls: &[&str], connections: Connections) -> Result<Self, sqlx::Error> {
        let replica = |(number, url): (usize, &&str)| {
            let options = reading(connections.reading)(PgConnectOptions::from_str(url)?)
                // So that to begin is to begin a moment.
                .options([("default_transaction_isolation", "repeatable read")]);
            let pool = PgPoolOptions::new()
                .max_connections(connections.most.max(2))
                .acquire_timeout(ANSWER_WITHIN)
                .idle_timeout(Duration::from_secs(60))
                .test_before_acquire(false)
                .after_release(|connection, _| {
                    Box::pin(async move {
                        let idle = timeout(ANSWER_WITHIN, connection.ping()).await;
                        Ok(matches!(idle, Ok(Ok(()))))
                    })
                })
                .connect_lazy_with(options);
            Ok(Replica {
                name: format!("replica_{}", number + 1),
                pool: SqlxPostgresConnector::from_sqlx_postgres_pool(pool),
                is_usable: AtomicBool::new(false),
                seen: Mutex::default(),
            })
        };
        let all = urls.iter().enumerate().map(replica).collect::<Result<_, sqlx::Error>>()?;
        Ok(Self { all, turn: AtomicUsize::new(0) })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// One that takes reads, in turn.
    fn next(&self) -> Option<&Replica> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let all = (0..self.all.len()).filter_map(|n| self.all.get((first + n) % self.all.len()));
        all.into_iter().find(|replica| replica.is_usable.load(Ordering::Acquire))
    }

    /// All of them, for operators.
    pub(crate) fn states(&self) -> Vec<ReplicaState> {
        let state = |replica: &Replica| {
            let Seen { position, why_not } = replica.seen();
            let is_usable = replica.is_usable.load(Ordering::Acquire);
            ReplicaState { name: replica.name.clone(), is_usable, position, why_not }
        };
        self.all.iter().map(state).collect()
    }

    pub(crate) async fn close(&self) {
        join_all(self.all.iter().map(|replica| replica.pool.clone().close())).await;
    }
}

impl Replica {
    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It takes no reads until it was looked at again.
    fn fails(&self, why: String) {
        if self.is_usable.swap(false, Ordering::AcqRel) {
            tracing::warn!(replica = %self.name, %why, "a replica takes no reads; they go to the others or the primary");
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).why_not = Some(why);
    }

    /// Whether it takes reads now. `shown`: what it has to show.
    async fn look(&self, incarnation: Uuid, shown: Position, head: Position) {
        let sql = "SELECT pg_is_in_recovery() AS follows, \
                   (SELECT COALESCE(MAX(position), 0) FROM events) AS position, \
                   (SELECT incarnation FROM installation WHERE one = 1) AS incarnation";
        let asked = async {
            let row = self.pool.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
            let row = row.ok_or_else(|| DbErr::RecordNotFound("installation".to_owned()))?;
            let incarnation: Option<Uuid> = row.try_get("", "incarnation")?;
            Ok::<_, DbErr>((
                row.try_get::<bool>("", "follows")?,
                Position::new(row.try_get("", "position")?),
                incarnation,
            ))
        };
        let (follows, position, of) = match timeout(2 * ANSWER_WITHIN, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return self.fails(error.to_string()),
            Err(_) => return self.fails(format!("it did not answer within {:?}", 2 * ANSWER_WITHIN)),
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).position = position;
        let lag = head.number().saturating_sub(position.number()).max(0);
        metrics::gauge!("oriel_replica_lag", "replica" => self.name.clone()).set(lag as f64);
        if !follows {
            return self.fails("it is no replica".to_owned());
        }
        if of != Some(incarnation) {
            return self.fails("it is of another history of the log".to_owned());
        }
        if position < shown {
            return self
                .fails(format!("it lags: it is at {position}, the log was at {shown} when it was asked before"));
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).why_not = None;
        if !self.is_usable.swap(true, Ordering::AcqRel) {
            tracing::info!(replica = %self.name, %position, "a replica takes reads");
        }
    }

    /// A transaction of one moment, and how far it is. `tables` are held, so that none is switched after it.
    async fn moment(&self, tables: &str) -> Result<(DatabaseTransaction, Position), DbErr> {
        let transaction = self.pool.begin().await?;
        if !tables.is_empty() {
            transaction.execute_unprepared(&format!("LOCK TABLE {tables} IN ACCESS SHARE MODE")).await?;
        }
        let sql = "SELECT COALESCE(MAX(position), 0) AS position FROM events";
        let row = transaction.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
        let position = row.map(|row| row.try_get("", "position")).transpose()?.unwrap_or_default();
        Ok((transaction, Position::new(position)))
    }
}

impl Engine {
    /// A moment of a replica that shows at least `at_least`; nothing where none does. `now`: noted before, so that what a
    /// replica shows that is as far as this node is current from then on.
    pub async fn moment_of_replica(&self, at_least: Option<Position>, now: Tick) -> Option<Moment> {
        let replicas = self.database.replicas();
        if replicas.is_empty() || !self.feed.is_current() {
            return None;
        }
        let head = self.feed.head();
        let replica = replicas.next()?;
        let (transaction, position) = match timeout(ANSWER_WITHIN, replica.moment(&self.held_tables())).await {
            Ok(Ok(moment)) => moment,
            Ok(Err(error)) => {
                replica.fails(error.to_string());
                return None;
            }
            Err(_) => {
                replica.fails(format!("it did not answer within {ANSWER_WITHIN:?}"));
                return None;
            }
        };
        if at_least.is_some_and(|wanted| position < wanted) {
            return None;
        }
        let since = if position >= head { now } else { self.feed.tick_at(position)? };
        Some(Moment { transaction: Arc::new(transaction), since, name: replica.name.clone() })
    }

    /// The replicas and how they are.
    pub fn replica_states(&self) -> Vec<ReplicaState> {
        self.database.replicas().states()
    }
}

/// Looks at all of them now and then, for as long as there is an engine.
pub(crate) async fn watch(engine: Weak<Engine>) {
    let mut shown = Position::START;
    while let Some(engine) = engine.upgrade() {
        let (replicas, incarnation, head) = (engine.database.replicas(), engine.incarnation(), engine.feed.head());
        join_all(replicas.all.iter().map(|replica| replica.look(incarnation, shown, head))).await;
        shown = head;
        drop(engine);
        sleep(LOOK).await;
    }
}
