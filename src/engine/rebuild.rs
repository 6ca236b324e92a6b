//! Rebuilding a read model beside the running one, while writes go on.
//!
//! A rebuild fills a table of its own, `NAME__next`, from the log, without the order lock, until few events remain.
//! Under the lock it folds the rest, swaps the tables by renaming, and announces `read_model:NAME`. It can be ended
//! at any moment: what is not switched is continued or thrown away by the next one, and nobody sees it.

use std::sync::Arc;

use oriel_kernel::{Position, Recorded};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Value};

use crate::engine::Engine;
use crate::log::LogError;
use crate::projection::{Inline, ProjectError, project};
use crate::read::Dependency;

/// Events in one transaction of a rebuild.
const CHUNK: u64 = 500;

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
    /// `inline` or `catching_up`.
    pub state: String,
    /// How far it is; the head of the log when inline.
    pub position: Position,
}

impl Engine {
    fn read_model(&self, name: &str) -> Result<&dyn Inline, RebuildError> {
        let found = self.read_models.iter().find(|read_model| read_model.table() == name);
        found.map(AsRef::as_ref).ok_or_else(|| RebuildError::Unknown(name.to_owned()))
    }

    /// Rebuilds a read model; `progress` is told the position reached and the head.
    ///
    /// # Errors
    /// See [`RebuildError`]. The running read model is untouched then.
    pub async fn rebuild(
        &self,
        name: &str,
        progress: &(dyn Fn(Position, Position) + Send + Sync),
    ) -> Result<(), RebuildError> {
        let read_model = self.read_model(name)?;
        let mut reached = self.begin(read_model).await?;
        loop {
            let head = self.log.head().await?.0;
            progress(reached, head);
            if head.number() - reached.number() < CHUNK as i64 {
                break;
            }
            let events = self.log.read(reached, CHUNK).await?;
            let transaction = self.database.begin().await?;
            reached = self.fold(&transaction, read_model, &events, reached).await?;
            transaction.commit().await?;
        }
        let head = self.finish(read_model, reached).await?;
        progress(head, head);
        self.feed.touch(&[Dependency::named(format!("read_model:{name}"))]);
        // Every answer may have come from the old table: nothing that is cached survives.
        self.tracker.raise_floor();
        Ok(())
    }

    /// Replays a read model beside the running one and compares them, row by row, at one position.
    ///
    /// # Errors
    /// See [`RebuildError`].
    pub async fn verify(&self, name: &str) -> Result<Verified, RebuildError> {
        let read_model = self.read_model(name)?;
        let table = read_model.table();
        self.discard(table).await?;
        let mut reached = self.begin(read_model).await?;
        while self.log.head().await?.0.number() - reached.number() >= CHUNK as i64 {
            let events = self.log.read(reached, CHUNK).await?;
            let transaction = self.database.begin().await?;
            reached = self.fold(&transaction, read_model, &events, reached).await?;
            transaction.commit().await?;
        }
        let transaction = self.database.begin_ordered().await?;
        let position = self.fold_rest(&transaction, read_model, reached).await?;
        let row = |alias: &str| match self.database.backend() {
            DbBackend::Postgres => format!("CAST(to_jsonb({alias}) AS TEXT)"),
            _ => "*".to_owned(),
        };
        let (running, next) = (row("r"), row("n"));
        let count = |sql: String| {
            let statement = self.database.statement(&sql, &sql, vec![]);
            let transaction = &transaction;
            async move {
                let row = transaction.query_one_raw(statement).await?;
                row.map(|row| row.try_get::<i64>("", "n")).transpose().map(Option::unwrap_or_default)
            }
        };
        let rows = count(format!("SELECT CAST(COUNT(*) AS BIGINT) AS n FROM \"{table}\"")).await?;
        let only_running = count(format!(
            "SELECT CAST(COUNT(*) AS BIGINT) AS n FROM (SELECT {running} FROM \"{table}\" r EXCEPT SELECT {next} FROM \"{table}__next\" n) d"
        ))
        .await?;
        let only_replayed = count(format!(
            "SELECT CAST(COUNT(*) AS BIGINT) AS n FROM (SELECT {next} FROM \"{table}__next\" n EXCEPT SELECT {running} FROM \"{table}\" r) d"
        ))
        .await?;
        transaction.rollback().await?;
        self.discard(table).await?;
        Ok(Verified { name: table, rows, only_running, only_replayed, position })
    }

    /// Every read model and how far it is.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn read_model_states(&self) -> Result<Vec<ReadModelState>, DbErr> {
        let sql = "SELECT name, generation, version, state, position FROM read_models ORDER BY name, generation";
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

    /// The table beside the running one, and how far it is: new, or one that an earlier rebuild left behind.
    async fn begin(&self, read_model: &dyn Inline) -> Result<Position, RebuildError> {
        let (table, version) = (read_model.table(), read_model.version());
        let sql = "SELECT version, position FROM read_models WHERE name = $1 AND state = 'catching_up'";
        if let Some(row) = self.database.query(sql, vec![table.into()]).await?.first() {
            if row.try_get::<i32>("", "version")? == version {
                return Ok(Position::new(row.try_get("", "position")?));
            }
            self.discard(table).await?;
        }
        let transaction = self.database.begin_ordered().await?;
        create_beside(&transaction, table).await?;
        let sql = "INSERT INTO read_models (name, generation, version, state, position) \
                   SELECT $1, COALESCE(MAX(generation), 0) + 1, $2, 'catching_up', 0 FROM read_models WHERE name = $1";
        transaction.execute_raw(self.database.statement(sql, sql, vec![table.into(), version.into()])).await?;
        transaction.commit().await?;
        Ok(Position::START)
    }

    async fn fold(
        &self,
        transaction: &DatabaseTransaction,
        read_model: &dyn Inline,
        events: &[Arc<Recorded>],
        reached: Position,
    ) -> Result<Position, RebuildError> {
        let next = format!("{}__next", read_model.table());
        let projected = project(transaction, [(read_model, next.as_str())], events).await?;
        projected.writes.execute(transaction).await?;
        let reached = events.last().map_or(reached, |event| event.position);
        let sql = "UPDATE read_models SET position = $2 WHERE name = $1 AND state = 'catching_up'";
        let values: Vec<Value> = vec![read_model.table().into(), reached.number().into()];
        transaction.execute_raw(self.database.statement(sql, sql, values)).await?;
        Ok(reached)
    }

    /// Under the order lock: whatever is left.
    async fn fold_rest(
        &self,
        transaction: &DatabaseTransaction,
        read_model: &dyn Inline,
        mut reached: Position,
    ) -> Result<Position, RebuildError> {
        loop {
            let events = self.log.read_in(transaction, reached, CHUNK).await?;
            if events.is_empty() {
                return Ok(reached);
            }
            reached = self.fold(transaction, read_model, &events, reached).await?;
        }
    }

    async fn finish(&self, read_model: &dyn Inline, reached: Position) -> Result<Position, RebuildError> {
        let table = read_model.table();
        let transaction = self.database.begin_ordered().await?;
        if self.database.backend() == DbBackend::Postgres {
            transaction.execute_unprepared("SET LOCAL lock_timeout = '200ms'").await?;
        }
        let head = self.fold_rest(&transaction, read_model, reached).await?;
        for sql in [
            format!("DROP TABLE \"{table}\""),
            format!("ALTER TABLE \"{table}__next\" RENAME TO \"{table}\""),
            format!("DELETE FROM read_models WHERE name = '{table}' AND state = 'inline'"),
            format!("UPDATE read_models SET state = 'inline' WHERE name = '{table}'"),
        ] {
            transaction.execute_unprepared(&sql).await?;
        }
        rename_indexes(&transaction, table).await?;
        transaction.commit().await?;
        Ok(head)
    }

    async fn discard(&self, table: &str) -> Result<(), DbErr> {
        let transaction = self.database.begin_ordered().await?;
        transaction.execute_unprepared(&format!("DROP TABLE IF EXISTS \"{table}__next\"")).await?;
        let sql = "DELETE FROM read_models WHERE name = $1 AND state = 'catching_up'";
        transaction.execute_raw(self.database.statement(sql, sql, vec![table.into()])).await?;
        transaction.commit().await
    }
}

/// At start-up: a read model that is new, or whose projection changed, is built before anybody is served.
pub(crate) async fn bring_up_to_date(engine: &Engine) -> Result<(), RebuildError> {
    let states = engine.read_model_states().await?;
    for read_model in engine.read_models.iter() {
        let name = read_model.table();
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
        engine.rebuild(name, &|_, _| {}).await?;
    }
    Ok(())
}

/// An empty table of the same shape: the migration stays its only definition.
async fn create_beside(transaction: &DatabaseTransaction, table: &str) -> Result<(), DbErr> {
    transaction.execute_unprepared(&format!("DROP TABLE IF EXISTS \"{table}__next\"")).await?;
    if transaction.get_database_backend() == DbBackend::Postgres {
        let sql = format!("CREATE TABLE \"{table}__next\" (LIKE \"{table}\" INCLUDING ALL)");
        transaction.execute_unprepared(&sql).await?;
        return Ok(());
    }
    let sql = format!(
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = '{table}' AND sql IS NOT NULL ORDER BY type DESC"
    );
    let rows = transaction.query_all_raw(sea_orm::Statement::from_string(DbBackend::Sqlite, sql)).await?;
    for row in rows {
        let (kind, name, sql): (String, String, String) =
            (row.try_get("", "type")?, row.try_get("", "name")?, row.try_get("", "sql")?);
        let beside = sql.replacen(&format!("\"{table}\""), &format!("\"{table}__next\""), 1);
        let beside = match kind.as_str() {
            "index" => beside.replacen(&format!("\"{name}\""), &format!("\"{name}__next\""), 1),
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
        let Some(lasting) = name.strip_suffix("__next") else { continue };
        transaction.execute_unprepared(&format!("DROP INDEX \"{name}\"")).await?;
        transaction.execute_unprepared(&sql.replacen(&format!("\"{name}\""), &format!("\"{lasting}\""), 1)).await?;
    }
    Ok(())
}
