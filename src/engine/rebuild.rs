//! Rebuilding a read model beside the running one, while writes go on.
//!
//! A rebuild fills a table of its own, `NAME__next`, from the log, without the order lock, until few events remain.
//! Under the lock it folds the rest and swaps the tables by renaming. The feed of every node sees that the generation is
//! another one, and announces `read_model:NAME`. It can be ended at any moment: what is not switched is continued or
//! thrown away by the next one, and nobody sees it. A comparison fills `NAME__replay` in the same way, and throws it
//! away.
//!
//! Invariant: the row in `read_models` says how far such a table is, and moves in the transaction that fills it, from
//! the position that was read and from no other. So two who work on the same table cannot both go on.
//!
//! A transaction that reads one moment has to be a [`Engine::snapshot`]: PostgreSQL looks up by the names of *now*, and
//! a table that took another's place later is empty at that moment.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use oriel_kernel::{Position, Recorded};
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, RuntimeErr, TransactionTrait,
    Value,
};

use crate::engine::Engine;
use crate::log::LogError;
use crate::projection::{Inline, ProjectError, project};
use crate::wall;

/// Events in one transaction of a rebuild.
const CHUNK: u64 = 500;
/// How often a switch is tried whose table is being read without a pause.
const SWITCHES: u32 = 50;
/// The pause between two of these, in which everybody else gets their turn.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a comparison looks for a moment at which its replay is at the end of the log.
const MOMENTS: u32 = 10;

/// Told how far a rebuild is: the position reached and the head. `Break` ends it there.
pub type Progress<'a> = &'a (dyn Fn(Position, Position) -> ControlFlow<()> + Send + Sync);

/// The [`Progress`] of a rebuild that nobody watches.
pub fn unwatched(_: Position, _: Position) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Why a read model was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The projection. A rebuild never sets an event aside.
    #[error(transparent)]
    Projection(#[from] ProjectError),
    /// There is no such read model.
    #[error("there is no read model {0}")]
    Unknown(String),
    /// Whoever watches it ended it.
    #[error("the rebuild was cancelled; the next one goes on where it ended")]
    Cancelled,
    /// Another process does the same.
    #[error("another process rebuilds or verifies {0} at this moment; wait until it is done")]
    Elsewhere(&'static str),
}

/// What a comparison of a read model with its replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The read model.
    pub name: &'static str,
    /// Rows in the running table.
    pub rows: i64,
    /// Rows that only the running table has.
    pub only_running: i64,
    /// Rows that only the replay has.
    pub only_replayed: i64,
    /// Where in the log they were compared.
    pub position: Position,
}

/// A read model's state, for operators.
#[derive(Clone, Debug)]
pub struct ReadModelState {
    /// Its table.
    pub name: String,
    /// How often it was built.
    pub generation: i32,
    /// Of its projection.
    pub version: i32,
    /// `inline` or `catching_up`; that of an index: `following` or `catching_up`.
    pub state: String,
    /// How far it is; the head of the log when inline.
    pub position: Position,
}

/// Nobody appends to the log as long as this lives.
#[must_use]
#[derive(Debug)]
pub struct Standstill(DatabaseTransaction);

impl Standstill {
    /// Lets everybody go on.
    ///
    /// # Errors
    /// When the database is not there; then they go on as well.
    pub async fn end(self) -> Result<(), DbErr> {
        self.0.rollback().await
    }
}

/// What a table beside the running one is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To take the running one's place.
    Rebuild,
    /// To be compared with it.
    Verify,
}

impl Purpose {
    fn state(self) -> &'static str {
        match self {
            Self::Rebuild => "catching_up",
            Self::Verify => "verifying",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Rebuild => "__next",
            Self::Verify => "__replay",
        }
    }
}

/// A table beside the running one, and how far it is.
struct Beside<'a> {
    read_model: &'a dyn Inline,
    purpose: Purpose,
    /// Of a comparison: 0.
    generation: i32,
    reached: Position,
}

impl Beside<'_> {
    fn table(&self) -> String {
        format!("{}{}", self.read_model.table(), self.purpose.suffix())
    }
}

impl Engine {
    fn read_model(&self, name: &str) -> Result<&dyn Inline, RebuildError> {
        let found = self.read_models.iter().find(|read_model| read_model.table() == name);
        found.map(AsRef::as_ref).ok_or_else(|| RebuildError::Unknown(name.to_owned()))
    }

    /// Rebuilds a read model. May be dropped at any moment, or ended by `progress`.
    ///
    /// # Errors
    /// See [`RebuildError`]. The running read model is untouched then.
    pub async fn rebuild(&self, name: &str, progress: Progress<'_>) -> Result<(), RebuildError> {
        let read_model = self.read_model(name)?;
        let mut beside = self.begin(read_model, Purpose::Rebuild).await?;
        self.fill(&mut beside, progress).await?;
        if self.database.backend() == DbBackend::Postgres {
            // A new table has no statistics: the first queries after the switch would be planned for an empty one.
            let analyze = format!("ANALYZE \"{}\"", beside.table());
            self.database.writer().execute_unprepared(&analyze).await?;
        }
        let mut attempt = 1;
        let head = loop {
            match self.finish(&beside).await {
                Err(RebuildError::Database(error)) if is_held(&error) && attempt < SWITCHES => {
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                finished => break finished?,
            }
        };
        if let Err(error) = self.feed.catch_up().await {
            tracing::warn!(%error, read_model = name, "it is switched, but that cannot be read; caches are dropped");
            self.tracker.raise_floor();
        }
        // It is done: nobody can end it any more.
        let _ = progress(head, head);
        Ok(())
    }

    /// Replays a read model beside the running one and compares them, row by row, at one position. Writes go on.
    ///
    /// # Errors
    /// See [`RebuildError`].
    pub async fn verify(&self, name: &str) -> Result<Verified, RebuildError> {
        let read_model = self.read_model(name)?;
        let mut beside = self.begin(read_model, Purpose::Verify).await?;
        let compared = self.compare(&mut beside).await;
        self.discard(read_model.table(), Purpose::Verify).await?;
        compared
    }

    /// A transaction that reads one moment: all that is read in it was so at the same time.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn snapshot(&self) -> Result<DatabaseTransaction, DbErr> {
        let reader = self.database.reader();
        if self.database.backend() != DbBackend::Postgres {
            return reader.begin().await;
        }
        let transaction =
            reader.begin_with_config(Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly)).await?;
        // The moment is that of the first query. Before it all tables are held, so that none is switched after it; see
        // the module.
        let tables = self.held_tables();
        if !tables.is_empty() {
            transaction.execute_unprepared(&format!("LOCK TABLE {tables} IN ACCESS SHARE MODE")).await?;
        }
        Ok(transaction)
    }

    /// All tables that a rebuild may switch.
    pub(crate) fn held_tables(&self) -> String {
        let tables: Vec<String> = self.read_models.iter().map(|r| format!("\"{}\"", r.table())).collect();
        tables.join(", ")
    }

    /// Lets nobody append, for the little that something beside the log has left to catch up with. What is held up
    /// waits: not to be held for long. PostgreSQL ends it after ten seconds, which [`Standstill::end`] then says.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn standstill(&self) -> Result<Standstill, DbErr> {
        Ok(Standstill(self.database.begin_ordered().await?))
    }

    /// Every read model and how far it is.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn read_model_states(&self) -> Result<Vec<ReadModelState>, DbErr> {
        let sql = "SELECT name, generation, version, state, position FROM read_models WHERE generation > 0 \
                   ORDER BY name, generation";
        let head = self.feed.head();
        let rows = self.database.query(sql, vec![]).await?;
        rows.iter()
            .map(|row| {
                let state: String = row.try_get("", "state")?;
                Ok(ReadModelState {
                    name: row.try_get("", "name")?,
                    generation: row.try_get("", "generation")?,
                    version: row.try_get("", "version")?,
                    position: if state == "inline" { head } else { Position::new(row.try_get("", "position")?) },
                    state,
                })
            })
            .collect()
    }

    /// A new table, or the one that an earlier rebuild left behind. Decided under the order lock: of two who begin at
    /// once, the second sees what the first made.
    async fn begin<'a>(&self, read_model: &'a dyn Inline, purpose: Purpose) -> Result<Beside<'a>, RebuildError> {
        let (table, version) = (read_model.table(), read_model.version());
        let transaction = self.database.begin_ordered().await?;
        if purpose == Purpose::Rebuild {
            let sql = "SELECT generation, position FROM read_models \
                       WHERE name = $1 AND state = 'catching_up' AND version = $2";
            let statement = self.database.statement(sql, sql, vec![table.into(), version.into()]);
            if let Some(row) = transaction.query_one_raw(statement).await? {
                let (generation, reached) = (row.try_get("", "generation")?, row.try_get("", "position")?);
                transaction.rollback().await?;
                return Ok(Beside { read_model, purpose, generation, reached: Position::new(reached) });
            }
        }
        self.forget(&transaction, table, purpose).await?;
        create_beside(&transaction, table, purpose.suffix()).await?;
        let generation = match purpose {
            Purpose::Rebuild => "(SELECT COALESCE(MAX(generation), 0) + 1 FROM read_models WHERE name = $1)",
            Purpose::Verify => "0",
        };
        let sql = format!(
            "INSERT INTO read_models (name, generation, version, state, position) \
             VALUES ($1, {generation}, $2, $3, 0) RETURNING generation"
        );
        let values: Vec<Value> = vec![table.into(), version.into(), purpose.state().into()];
        let row = transaction.query_one_raw(self.database.statement(&sql, &sql, values)).await?;
        let generation = row.map(|row| row.try_get("", "generation")).transpose()?.unwrap_or_default();
        transaction.commit().await?;
        Ok(Beside { read_model, purpose, generation, reached: Position::START })
    }

    /// Folds the log into the table until few events remain.
    async fn fill(&self, beside: &mut Beside<'_>, progress: Progress<'_>) -> Result<(), RebuildError> {
        loop {
            let head = self.log.head().await?.0;
            if progress(beside.reached, head).is_break() {
                return Err(RebuildError::Cancelled);
            }
            if head.number() - beside.reached.number() < CHUNK as i64 {
                return Ok(());
            }
            let events = self.log.read(beside.reached, CHUNK).await?;
            let transaction = self.database.begin().await?;
            let reached = self.fold(&transaction, beside, beside.reached, &events).await?;
            transaction.commit().await?;
            beside.reached = reached;
        }
    }

    async fn fold(
        &self,
        transaction: &DatabaseTransaction,
        beside: &Beside<'_>,
        from: Position,
        events: &[Arc<Recorded>],
    ) -> Result<Position, RebuildError> {
        let Some(last) = events.last() else { return Ok(from) };
        let name = beside.read_model.table();
        // First of all, so that whoever else works on this table waits here, and then finds it moved.
        let sql = "UPDATE read_models SET position = $4 \
                   WHERE name = $1 AND generation = $2 AND position = $3 AND state <> 'inline'";
        let values: Vec<Value> =
            vec![name.into(), beside.generation.into(), from.number().into(), last.position.number().into()];
        if transaction.execute_raw(self.database.statement(sql, sql, values)).await?.rows_affected() != 1 {
            return Err(RebuildError::Elsewhere(name));
        }
        let table = beside.table();
        let histories = Arc::new(self.log.histories(transaction, events).await?);
        let projected = project(transaction, [(beside.read_model, table.as_str())], events, &histories).await?;
        projected.writes.execute(transaction).await?;
        Ok(last.position)
    }

    /// Under the order lock: whatever is left.
    async fn fold_rest(
        &self,
        transaction: &DatabaseTransaction,
        beside: &Beside<'_>,
    ) -> Result<Position, RebuildError> {
        let mut reached = beside.reached;
        loop {
            let events = self.log.read_in(transaction, reached, CHUNK).await?;
            if events.is_empty() {
                return Ok(reached);
            }
            reached = self.fold(transaction, beside, reached, &events).await?;
        }
    }

    async fn finish(&self, beside: &Beside<'_>) -> Result<Position, RebuildError> {
        let table = beside.read_model.table();
        let transaction = self.database.begin_ordered().await?;
        if self.database.backend() == DbBackend::Postgres {
            // While it waits for those who read the table, everybody else waits for it.
            transaction.execute_unprepared("SET LOCAL lock_timeout = '200ms'").await?;
        }
        let head = self.fold_rest(&transaction, beside).await?;
        let sql = "UPDATE read_models SET state = 'inline' \
                   WHERE name = $1 AND generation = $2 AND position = $3 AND state = 'catching_up'";
        let values: Vec<Value> = vec![table.into(), beside.generation.into(), head.number().into()];
        if transaction.execute_raw(self.database.statement(sql, sql, values)).await?.rows_affected() != 1 {
            return Err(RebuildError::Elsewhere(table));
        }
        let sql = "DELETE FROM read_models WHERE name = $1 AND state = 'inline' AND generation <> $2";
        let values: Vec<Value> = vec![table.into(), beside.generation.into()];
        transaction.execute_raw(self.database.statement(sql, sql, values)).await?;
        for sql in
            [format!("DROP TABLE \"{table}\""), format!("ALTER TABLE \"{}\" RENAME TO \"{table}\"", beside.table())]
        {
            transaction.execute_unprepared(&sql).await?;
        }
        rename_indexes(&transaction, table).await?;
        transaction.commit().await?;
        Ok(head)
    }

    /// Compares the running table with its replay, at a moment at which the replay is at the end of the log. That is
    /// looked for without holding anybody up; only when too much is written for that, writes wait for the comparison.
    async fn compare(&self, beside: &mut Beside<'_>) -> Result<Verified, RebuildError> {
        self.fill(beside, &unwatched).await?;
        for _ in 0..MOMENTS {
            let transaction = self.database.begin_ordered().await?;
            let reached = self.fold_rest(&transaction, beside).await?;
            transaction.commit().await?;
            beside.reached = reached;
            let moment = self.snapshot().await?;
            let sql = "SELECT COALESCE(MAX(position), 0) AS n FROM events";
            if self.number(&moment, sql).await? == reached.number() {
                return self.differences(&moment, beside).await;
            }
        }
        let transaction = self.database.begin_ordered().await?;
        beside.reached = self.fold_rest(&transaction, beside).await?;
        self.differences(&transaction, beside).await
    }

    async fn differences(
        &self,
        transaction: &DatabaseTransaction,
        beside: &Beside<'_>,
    ) -> Result<Verified, RebuildError> {
        let (running, replayed) = (beside.read_model.table(), beside.table());
        let row = match self.database.backend() {
            DbBackend::Postgres => {
                transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
                "CAST(to_jsonb(t) AS TEXT)"
            }
            _ => "*",
        };
        let only = |these: &str, those: &str| {
            format!(
                "SELECT CAST(COUNT(*) AS BIGINT) AS n FROM \
                 (SELECT {row} FROM \"{these}\" t EXCEPT SELECT {row} FROM \"{those}\" t) d"
            )
        };
        let count = format!("SELECT CAST(COUNT(*) AS BIGINT) AS n FROM \"{running}\"");
        Ok(Verified {
            name: running,
            rows: self.number(transaction, &count).await?,
            only_running: self.number(transaction, &only(running, &replayed)).await?,
            only_replayed: self.number(transaction, &only(&replayed, running)).await?,
            position: beside.reached,
        })
    }

    /// The number that a statement gives as `n`.
    async fn number(&self, transaction: &DatabaseTransaction, sql: &str) -> Result<i64, DbErr> {
        let row = transaction.query_one_raw(self.database.statement(sql, sql, vec![])).await?;
        row.map(|row| row.try_get("", "n")).transpose().map(Option::unwrap_or_default)
    }

    async fn discard(&self, table: &str, purpose: Purpose) -> Result<(), DbErr> {
        let transaction = self.database.begin_ordered().await?;
        self.forget(&transaction, table, purpose).await?;
        transaction.commit().await
    }

    async fn forget(&self, transaction: &DatabaseTransaction, table: &str, purpose: Purpose) -> Result<(), DbErr> {
        let sql = "DELETE FROM read_models WHERE name = $1 AND state = $2";
        let values: Vec<Value> = vec![table.into(), purpose.state().into()];
        transaction.execute_raw(self.database.statement(sql, sql, values)).await?;
        transaction.execute_unprepared(&format!("DROP TABLE IF EXISTS \"{table}{}\"", purpose.suffix())).await?;
        Ok(())
    }
}

/// Whether a table could not be switched because somebody reads it.
fn is_held(error: &DbErr) -> bool {
    /// PostgreSQL: a lock was not had in time.
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
        }
        _ => false,
    }
}

/// At start-up: a read model that is new, or whose projection changed, is built before anybody is served.
pub(crate) async fn bring_up_to_date(engine: &Engine) -> Result<(), RebuildError> {
    let states = engine.read_model_states().await?;
    for read_model in engine.read_models.iter() {
        let name = read_model.table();
        if !engine.shared_with_other_nodes() {
            // Of a process that was killed. Where others may be comparing, the next comparison removes it.
            engine.discard(name, Purpose::Verify).await?;
        }
        let inline = states.iter().find(|state| state.name == name && state.state == "inline");
        if inline.is_some_and(|state| state.version == read_model.version()) {
            continue;
        }
        if inline.is_none() && engine.feed.head() == Position::START {
            let sql = "INSERT INTO read_models (name, generation, version, state, position) VALUES ($1, 1, $2, 'inline', 0) ON CONFLICT DO NOTHING";
            let values: Vec<Value> = vec![name.into(), read_model.version().into()];
            engine.database.writer().execute_raw(engine.database.statement(sql, sql, values)).await?;
            continue;
        }
        tracing::info!(
            read_model = name,
            version = read_model.version(),
            "the projection is new: the read model is rebuilt"
        );
        engine.rebuild(name, &unwatched).await?;
    }
    Ok(())
}

/// An empty table of the same shape: the migration stays its only definition.
async fn create_beside(transaction: &DatabaseTransaction, table: &str, suffix: &str) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        let sql = format!("CREATE TABLE \"{table}{suffix}\" (LIKE \"{table}\" INCLUDING ALL)");
        transaction.execute_unprepared(&sql).await?;
        return wall::copy(transaction, table, &format!("{table}{suffix}")).await;
    }
    let sql = format!(
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = '{table}' AND sql IS NOT NULL ORDER BY type DESC"
    );
    let rows = transaction.query_all_raw(sea_orm::Statement::from_string(DbBackend::Sqlite, sql)).await?;
    for row in rows {
        let (kind, name, sql): (String, String, String) =
            (row.try_get("", "type")?, row.try_get("", "name")?, row.try_get("", "sql")?);
        let beside = sql.replacen(&format!("\"{table}\""), &format!("\"{table}{suffix}\""), 1);
        let beside = match kind.as_str() {
            "index" => beside.replacen(&format!("\"{name}\""), &format!("\"{name}{suffix}\""), 1),
            _ => beside,
        };
        if beside == sql {
            return Err(DbErr::Custom(format!("the definition of {name} does not name {table} in quotes")));
        }
        transaction.execute_unprepared(&beside).await?;
    }
    Ok(())
}

/// Gives the indexes of a switched table their lasting names back.
async fn rename_indexes(transaction: &DatabaseTransaction, table: &str) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        return Ok(()); // named by the server, after the table that they were made with; nothing refers to the names
    }
    let sql = format!(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = '{table}' AND sql IS NOT NULL"
    );
    let rows = transaction.query_all_raw(sea_orm::Statement::from_string(DbBackend::Sqlite, sql)).await?;
    for row in rows {
        let (name, sql): (String, String) = (row.try_get("", "name")?, row.try_get("", "sql")?);
        let Some(lasting) = name.strip_suffix(Purpose::Rebuild.suffix()) else { continue };
        transaction.execute_unprepared(&format!("DROP INDEX \"{name}\"")).await?;
        transaction.execute_unprepared(&sql.replacen(&format!("\"{name}\""), &format!("\"{lasting}\""), 1)).await?;
    }
    Ok(())
}
