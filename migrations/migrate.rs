//! Bringing a database up to this program while other nodes work on it, older ones and newer ones.
//!
//! Invariants. One node migrates, others that start meanwhile wait for it, bounded. All of it is one transaction: what
//! fails leaves nothing behind. No lock is waited for longer than a moment, because everybody else waits behind who waits
//! for a lock; it is tried again instead, bounded. The database says of each migration with which programs it can be
//! lived, so that an older one knows whether to go on.

use std::time::Duration;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbBackend, RuntimeErr, Statement, TransactionTrait,
};
use tokio::time::{Instant, sleep};

use crate::{CONTRACTIONS, Migrator, wall};

/// For each migration the oldest one whose program works with what it leaves.
const COMPATIBILITY: &str = "CREATE TABLE IF NOT EXISTS schema_compatibility \
     (version TEXT NOT NULL PRIMARY KEY, compatible_from TEXT NOT NULL)";
/// Held by the node that migrates.
pub(crate) const LOCK: &str = "SELECT pg_advisory_xact_lock(7022651418294)";

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For another node that migrates, and all in all for the locks on tables.
    pub whole: Duration,
    /// For one lock on a table, while which everybody else waits who wants it.
    pub lock: Duration,
    /// Between two attempts.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { whole: Duration::from_secs(300), lock: Duration::from_secs(2), pause: Duration::from_secs(1) }
    }
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Migrated {
    /// How many migrations were applied.
    pub applied: usize,
    /// Migrations of a newer program, with which this one can live.
    pub unknown: Vec<String>,
}

/// Why a database is not migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// It is not for this program any more.
    #[error(
        "the database was migrated by a newer release ({newest}), which took away what this one needs: it wants a \
         program that knows {compatible_from}. Start the newer release"
    )]
    Newer {
        /// A migration that this program does not know.
        newest: String,
        /// The oldest one that is to be known.
        compatible_from: String,
    },
    /// Neither is ahead of the other.
    #[error(
        "the database has the migration {unknown}, which this program does not know, and lacks {pending}: they are of \
         two lines of releases. Start the one that it was migrated by"
    )]
    Apart {
        /// What it has.
        unknown: String,
        /// What it lacks.
        pending: String,
    },
    /// Another node is at it, or is not done.
    #[error("another node has been migrating the database for more than {0:?}; look at what it does, and start again")]
    Busy(Duration),
    /// Somebody uses a table.
    #[error(
        "for {0:?} no moment was found in which the tables to be changed are free: a query or transaction holds one of \
         them. End it (pg_stat_activity says which it is), and start again. Nothing was changed"
    )]
    Held(Duration),
}

/// Brings the database up to this program, or finds that it may be worked on as it is.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate(connection: &DatabaseConnection) -> Result<Migrated, MigrateError> {
    migrate_as::<Migrator>(connection, CONTRACTIONS, Patience::default()).await
}

/// The same with other migrations.
pub(crate) async fn migrate_as<M: MigratorTrait>(
    connection: &DatabaseConnection,
    contractions: &[(&str, &str)],
    patience: Patience,
) -> Result<Migrated, MigrateError> {
    let plan = Plan::of::<M>(connection).await?;
    if plan.pending.is_empty() {
        return Ok(plan.nothing());
    }
    if connection.get_database_backend() != DbBackend::Postgres {
        // One process owns the file.
        M::up(connection, None).await?;
        note::<M>(connection, contractions).await?;
        return Ok(Migrated { applied: plan.pending.len(), unknown: plan.unknown });
    }
    let began = Instant::now();
    loop {
        let left = patience.whole.saturating_sub(began.elapsed()).max(patience.lock);
        match attempt::<M>(connection, contractions, patience.lock, left).await {
            Err(MigrateError::Database(error)) if is_held(&error) => {
                if began.elapsed() + patience.pause >= patience.whole {
                    return Err(MigrateError::Held(patience.whole));
                }
                sleep(patience.pause).await;
            }
            ended => return ended,
        }
    }
}

async fn attempt<M: MigratorTrait>(
    connection: &DatabaseConnection,
    contractions: &[(&str, &str)],
    lock: Duration,
    left: Duration,
) -> Result<Migrated, MigrateError> {
    let transaction = connection.begin().await?;
    transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
    wait_at_most(&transaction, left).await?;
    transaction.execute_unprepared(LOCK).await.map_err(|error| match is_held(&error) {
        true => MigrateError::Busy(left),
        false => error.into(),
    })?;
    // As the node before this one has left it.
    let plan = Plan::of::<M>(&transaction).await?;
    if plan.pending.is_empty() {
        transaction.rollback().await?;
        return Ok(plan.nothing());
    }
    wait_at_most(&transaction, lock).await?;
    M::up(&transaction, None).await?;
    note::<M>(&transaction, contractions).await?;
    wall::raise(&transaction).await?;
    transaction.commit().await?;
    Ok(Migrated { applied: plan.pending.len(), unknown: plan.unknown })
}

async fn wait_at_most(transaction: &DatabaseTransaction, time: Duration) -> Result<(), DbErr> {
    let sql = format!("SET LOCAL lock_timeout = '{}ms'", time.as_millis().max(1));
    transaction.execute_unprepared(&sql).await.map(|_| ())
}

/// What there is to do.
struct Plan {
    pending: Vec<String>,
    unknown: Vec<String>,
}

impl Plan {
    async fn of<M: MigratorTrait>(connection: &impl ConnectionTrait) -> Result<Self, MigrateError> {
        let known: Vec<String> = M::migrations().iter().map(|migration| migration.name().to_owned()).collect();
        let applied =
            texts(connection, "seaql_migrations", "SELECT version FROM seaql_migrations ORDER BY version").await?;
        let pending: Vec<String> = known.iter().filter(|name| !applied.contains(name)).cloned().collect();
        let unknown: Vec<String> = applied.into_iter().filter(|name| !known.contains(name)).collect();
        let Some(newest) = unknown.last() else { return Ok(Self { pending, unknown }) };
        let demands = "SELECT version || ' ' || compatible_from FROM schema_compatibility";
        let demands = texts(connection, "schema_compatibility", demands).await?;
        for name in &unknown {
            // Names have no spaces. One of which nothing is said may have taken away anything.
            let demanded = demands.iter().filter_map(|text| text.split_once(' ')).find(|(version, _)| version == name);
            let compatible_from = demanded.map_or(name.as_str(), |(_, from)| from);
            if known.last().is_none_or(|last| last.as_str() < compatible_from) {
                let (newest, compatible_from) = (newest.clone(), compatible_from.to_owned());
                return Err(MigrateError::Newer { newest, compatible_from });
            }
        }
        match pending.first() {
            Some(pending) => Err(MigrateError::Apart { unknown: newest.clone(), pending: pending.clone() }),
            None => Ok(Self { pending, unknown }),
        }
    }

    fn nothing(self) -> Migrated {
        Migrated { applied: 0, unknown: self.unknown }
    }
}

/// The only column of a statement; nothing where its table is not there.
async fn texts(connection: &impl ConnectionTrait, table: &str, sql: &str) -> Result<Vec<String>, DbErr> {
    let backend = connection.get_database_backend();
    let is_there = match backend {
        DbBackend::Postgres => format!("SELECT 1 AS one WHERE to_regclass('{table}') IS NOT NULL"),
        _ => format!("SELECT 1 AS one FROM sqlite_master WHERE type = 'table' AND name = '{table}'"),
    };
    if connection.query_one_raw(Statement::from_string(backend, is_there)).await?.is_none() {
        return Ok(Vec::new());
    }
    let rows = connection.query_all_raw(Statement::from_string(backend, sql)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Says of each migration with which programs it can be lived.
async fn note<M: MigratorTrait>(connection: &impl ConnectionTrait, contractions: &[(&str, &str)]) -> Result<(), DbErr> {
    connection.execute_unprepared(COMPATIBILITY).await?;
    let names: Vec<String> = M::migrations().iter().map(|migration| migration.name().to_owned()).collect();
    for name in &names {
        let so_far = contractions.iter().filter(|(contraction, _)| *contraction <= name.as_str());
        let compatible_from = so_far.map(|(_, from)| *from).max().or(names.first().map(String::as_str));
        let sql = "INSERT INTO schema_compatibility (version, compatible_from) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let values = [name.into(), compatible_from.into()];
        connection.execute_raw(Statement::from_sql_and_values(connection.get_database_backend(), sql, values)).await?;
    }
    Ok(())
}

/// Whether a lock was not had in time.
fn is_held(error: &DbErr) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
        }
        _ => false,
    }
}
