//! The database: one connection that writes, others that read, on SQLite or PostgreSQL.
//!
//! SQLite has one writer connection and `query_only` readers; one process owns the file. PostgreSQL has a pool for
//! each. Start-up refuses settings under which an acknowledged write could be lost.
//!
//! What nobody waits for any more is not worked on: on PostgreSQL a read whose future was dropped is ended by the server
//! within two seconds, and any statement after its time-out; on SQLite it ends with its next row. What gives no row
//! before its end there, such as a count, goes on to that end and holds one of the readers meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, QueryResult, SqlxPostgresConnector,
    SqlxSqliteConnector, Statement, TransactionOptions, TransactionTrait, Value,
};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::task::JoinHandle;

use crate::primary::{Primary, Terms};
use crate::replicas::Replicas;

fn count<DB: sqlx::Database>(pool: &sqlx::Pool<DB>) -> (u32, usize, u32) {
    (pool.size(), pool.num_idle(), pool.options().get_max_connections())
}

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Location {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL URL. Holds a password: never printed.
    Postgres(Secret),
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Location {
    /// From `sqlite://path` or `postgres://…`; `None` for anything else.
    pub fn parse(url: &str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) {
            return Some(Self::Sqlite(PathBuf::from(path)));
        }
        (url.starts_with("postgres://") || url.starts_with("postgresql://"))
            .then(|| Self::Postgres(Secret(url.to_owned())))
    }
}

/// How many connections there are to the database, of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pool {
    /// `reader` or `writer`.
    pub name: &'static str,
    /// How many are open.
    pub open: usize,
    /// How many of these nobody uses.
    pub idle: usize,
    /// How many there may be.
    pub most: usize,
}

/// The connections.
#[derive(Clone, Debug)]
pub struct Database {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    backend: DbBackend,
    /// Of PostgreSQL.
    primary: Option<Arc<Primary>>,
    /// From which viewers may be answered.
    replicas: Arc<Replicas>,
    _following: Option<Arc<Following>>,
}

/// Ends with the last who has the database.
#[derive(Debug)]
struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be reached, or it refuses.
    #[error("the database cannot be opened: {0}")]
    Connect(#[from] DbErr),
    /// It would lose acknowledged writes.
    #[error("the database has {setting} = {value}: an acknowledged write could be lost. Set it to {wanted}.")]
    Unsafe {
        /// The server's setting.
        setting: String,
        /// What it is.
        value: String,
        /// What it has to be.
        wanted: &'static str,
    },
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Connect(DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into())))
    }
}

/// How many connections, and what they do at most.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Readers at most (and on PostgreSQL as many writers).
    pub most: u32,
    /// How long one is waited for when all are in use.
    pub acquire: Duration,
    /// How long a statement that reads may take on PostgreSQL.
    pub reading: Duration,
    /// How long a statement may take there on a connection that writes.
    pub writing: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self { most: 16, acquire: Duration::from_secs(10), reading: Self::READING, writing: Duration::from_secs(60) }
    }
}

impl Connections {
    /// How long a statement may take that nobody has set a time for.
    pub const READING: Duration = Duration::from_secs(30);
}

/// How long a connection that is given back may take to say that it is idle. Only one that is still at work for
/// somebody who has gone does not.
const IDLE_WITHIN: Duration = Duration::from_secs(1);

/// How long an answer is waited for. PostgreSQL ends a statement of ours before that; what waits longer waits for a server
/// that is gone without a word.
const ANSWERED_WITHIN: Duration = Duration::from_secs(45);

impl Database {
    /// Connects. `connections` bounds the readers (and on PostgreSQL the writers).
    ///
    /// # Errors
    /// When the database cannot be reached, or is set up to lose acknowledged writes.
    pub async fn open(location: &Location, connections: u32) -> Result<Self, OpenError> {
        Self::open_with(location, Connections { most: connections, ..Connections::default() }).await
    }

    /// Connects, with bounds on what the connections do.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub async fn open_with(location: &Location, connections: Connections) -> Result<Self, OpenError> {
        match location {
            Location::Sqlite(path) => Self::open_sqlite(path, connections).await,
            Location::Postgres(url) => Self::open_postgres(&url.0, connections).await,
        }
    }

    /// The same, with servers that follow it. Whether they answer is not asked: one that does not takes no reads.
    ///
    /// # Errors
    /// When one of these is no URL of PostgreSQL.
    pub fn with_replicas(self, urls: &[&str], connections: Connections) -> Result<Self, OpenError> {
        Ok(Self { replicas: Arc::new(Replicas::at(urls, connections)?), ..self })
    }

    /// The servers that follow the primary.
    pub(crate) fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    async fn open_sqlite(path: &Path, connections: Connections) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            // A whole page: the thread that reads need not wait for who takes its rows.
            .row_buffer_size(256)
            .statement_cache_capacity(200);
        // They are in this process: none is lost while it waits, and asking each before its use is a turn of its thread.
        let pool = || SqlitePoolOptions::new().test_before_acquire(false);
        let writer = pool()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await?;
        let reader = pool()
            .max_connections(connections.most.max(1))
            .acquire_timeout(connections.acquire)
            .idle_timeout(Duration::from_secs(60))
            .connect_with(options.pragma("query_only", "ON"))
            .await?;
        Ok(Self {
            writer: SqlxSqliteConnector::from_sqlx_sqlite_pool(writer),
            reader: SqlxSqliteConnector::from_sqlx_sqlite_pool(reader),
            backend: DbBackend::Sqlite,
            primary: None,
            replicas: Arc::default(),
            _following: None,
        })
    }

    async fn open_postgres(url: &str, connections: Connections) -> Result<Self, OpenError> {
        let primary = Arc::new(Primary::parse(url)?);
        let place = primary.find().await?;
        let pool = || {
            let (admits, watches) = (Arc::clone(&primary), Arc::clone(&primary));
            PgPoolOptions::new()
                .max_connections(connections.most.max(2))
                .acquire_timeout(connections.acquire)
                .idle_timeout(Duration::from_secs(60))
                // A round trip before each use would double the cost of small reads: only what has been idle is asked
                // whether it is still there.
                .test_before_acquire(false)
                .after_connect(move |connection, _| {
                    let primary = Arc::clone(&admits);
                    Box::pin(async move { primary.admit(connection).await })
                })
                .before_acquire(move |connection, meta| {
                    let is_current = watches.is_current(meta.age);
                    Box::pin(async move {
                        if !is_current {
                            return Err(sqlx::Error::Protocol("another server has taken its place".to_owned()));
                        }
                        if meta.idle_for > Duration::from_secs(1) {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
        };
        let (writing, reading) = (writing(connections.writing), reading(connections.reading));
        let writer = pool().connect_with(writing(place.clone())).await?;
        // The pool keeps a connection whose query was dropped, and waits for the end of that query. This one is closed
        // instead, which the server takes for the end of its work.
        let reader = pool().after_release(|connection, _| {
            Box::pin(async move {
                let idle = tokio::time::timeout(IDLE_WITHIN, connection.ping()).await;
                idle.unwrap_or_else(|_| Err(sqlx::Error::Protocol("nobody waits for its answer any more".to_owned())))?;
                Ok(true)
            })
        });
        let reader = reader.connect_with(reading(place)).await?;
        let following = primary.is_one_of_several().then(|| {
            let (primary, pools) = (Arc::clone(&primary), vec![(writer.clone(), writing), (reader.clone(), reading)]);
            Arc::new(Following(tokio::spawn(async move { primary.follow(pools).await })))
        });
        let this = Self {
            writer: SqlxPostgresConnector::from_sqlx_postgres_pool(writer),
            reader: SqlxPostgresConnector::from_sqlx_postgres_pool(reader),
            backend: DbBackend::Postgres,
            primary: Some(primary),
            replicas: Arc::default(),
            _following: following,
        };
        this.refuse_unsafe().await?;
        Ok(this)
    }

    async fn refuse_unsafe(&self) -> Result<(), OpenError> {
        for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
            let sql = format!("SELECT current_setting('{setting}') AS value");
            let row = self.writer.query_one_raw(Statement::from_string(self.backend, sql)).await?;
            let value: String = row.map(|row| row.try_get("", "value")).transpose()?.unwrap_or_default();
            if value == "off" {
                return Err(OpenError::Unsafe { setting: setting.to_owned(), value, wanted: "on" });
            }
        }
        Ok(())
    }

    /// The connection that writes.
    pub fn writer(&self) -> &DatabaseConnection {
        &self.writer
    }

    /// The connections that only read.
    pub fn reader(&self) -> &DatabaseConnection {
        &self.reader
    }

    /// The connections as they are now.
    pub fn pools(&self) -> [Pool; 2] {
        [("reader", &self.reader), ("writer", &self.writer)].map(|(name, connection)| {
            let (open, idle, most) = match self.backend {
                DbBackend::Postgres => count(connection.get_postgres_connection_pool()),
                _ => count(connection.get_sqlite_connection_pool()),
            };
            Pool { name, open: open as usize, idle, most: most as usize }
        })
    }

    /// SQLite or PostgreSQL.
    pub fn backend(&self) -> DbBackend {
        self.backend
    }

    /// A transaction that writes; on SQLite it holds the write lock from its first moment.
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let mode = (self.backend == DbBackend::Sqlite).then_some(sea_orm::SqliteTransactionMode::Immediate);
        let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
        self.writer.begin_with_options(options).await
    }

    /// A transaction that holds the order lock: nobody appends beside it.
    pub(crate) async fn begin_ordered(&self) -> Result<DatabaseTransaction, DbErr> {
        let transaction = self.begin().await?;
        if self.backend == DbBackend::Postgres {
            // A statement of its own: later ones see everything that was committed before the lock was had.
            transaction.execute_unprepared("SELECT pg_advisory_xact_lock(7022651418293)").await?;
        }
        Ok(transaction)
    }

    /// A statement in this database's dialect; `sqlite` and `postgres` take the same values as `$1`, `$2` …
    pub(crate) fn statement(&self, postgres: &str, sqlite: &str, values: Vec<Value>) -> Statement {
        let sql = if self.backend == DbBackend::Postgres { postgres } else { sqlite };
        Statement::from_sql_and_values(self.backend, sql, values)
    }

    /// The rows of a hand-written statement, read outside any transaction.
    pub(crate) async fn query(&self, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, DbErr> {
        let answer = self.reader.query_all_raw(Statement::from_sql_and_values(self.backend, sql, values));
        let Some(primary) = &self.primary else { return answer.await };
        tokio::select! {
            answer = answer => answer,
            () = primary.replaced() => Err(DbErr::Custom("another server has taken the place of the one asked".to_owned())),
            () = tokio::time::sleep(ANSWERED_WITHIN) => {
                Err(DbErr::Custom(format!("the database does not answer within {ANSWERED_WITHIN:?}")))
            }
        }
    }

    /// The server that takes writes; none where it is SQLite.
    pub(crate) fn primary(&self) -> Option<&Primary> {
        self.primary.as_deref()
    }

    /// What was read is where an acknowledged commit has to be, on a synchronous replica too: a server that was started
    /// again shows what it had not yet been told of by that replica. Its log is one, so what is behind a commit is there
    /// with the commit.
    pub(crate) async fn confirm(&self) -> Result<(), DbErr> {
        if self.backend == DbBackend::Postgres {
            self.writer.execute_unprepared("UPDATE installation SET one = one").await?;
        }
        Ok(())
    }

    /// The role as which it is connected, where that is exempt from row-level security: a superuser, or one with
    /// BYPASSRLS. Then only Oriel itself keeps the organisations apart.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn exempt_role(&self) -> Result<Option<String>, DbErr> {
        if self.backend != DbBackend::Postgres {
            return Ok(None);
        }
        let sql = "SELECT CAST(rolname AS text) AS name FROM pg_roles \
                   WHERE rolname = current_user AND (rolsuper OR rolbypassrls)";
        self.query(sql, vec![]).await?.first().map(|row| row.try_get("", "name")).transpose()
    }

    /// Whether filters by words of a list can use their index behind row-level security: the operator is not marked as
    /// leakproof unless somebody has done so.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn finds_words_by_index(&self) -> Result<bool, DbErr> {
        if self.backend != DbBackend::Postgres {
            return Ok(true);
        }
        let sql =
            "SELECT 1 AS one FROM pg_proc WHERE oid = 'jsonb_contains(jsonb,jsonb)'::regprocedure AND proleakproof";
        Ok(!self.query(sql, vec![]).await?.is_empty() || self.exempt_role().await?.is_some())
    }

    /// Closes the pools; what was committed is on disk.
    pub async fn close(self) {
        self.replicas.close().await;
        for connection in [self.reader, self.writer] {
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "a connection pool did not close cleanly");
            }
        }
    }
}

fn writing(most: Duration) -> Terms {
    let most = most.as_millis().max(1).to_string();
    Box::new(move |place| {
        common(place).options([
            ("statement_timeout", most.as_str()),
            // A node that stands still in the middle of a commit holds the order lock: the others wait so long.
            ("idle_in_transaction_session_timeout", "5s"),
        ])
    })
}

/// What connections are like that only read.
pub(crate) fn reading(most: Duration) -> Terms {
    let most = most.as_millis().max(1).to_string();
    Box::new(move |place| {
        common(place).options([
            ("statement_timeout", most.as_str()),
            ("default_transaction_read_only", "on"),
            // A server that is at work looks that often whether somebody still listens.
            ("client_connection_check_interval", "500ms"),
        ])
    })
}

fn common(place: PgConnectOptions) -> PgConnectOptions {
    // What Oriel does by itself is for all organisations; what it reads for a viewer takes this back.
    place.application_name("oriel").statement_cache_capacity(200).options([("oriel.system", "on")])
}
