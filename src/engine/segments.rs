//! The segments of what grows with the log: on PostgreSQL the tables of events and of changes are partitioned by ranges of
//! positions, so that their indexes stay small, old segments can be moved to another disk, and maintenance works on one
//! at a time. The migration makes the first ones; the next are made here, before they are needed.
//!
//! Invariants. The last segment is wholly ahead of the head. A segment is as wide as the
//! one before it. It is made under the order lock, so by one node; nobody who reads or writes waits for it (it is filled
//! with nothing, and attached under a lock that reads and writes do not touch).
//!
//! What PostgreSQL keeps unique of a partitioned table has to name its position: that is so of the position itself. That
//! a version of an aggregate, a sequence of an organisation, and an id are there once is what the committer sees to under
//! the order lock, where it reads all versions and sequences that it writes on; each segment has a unique index of its own
//! for them beside that. A command is there once by the table of commands, which is not partitioned.

use std::sync::Weak;
use std::time::Duration;

use oriel_kernel::Position;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};
use tokio::time::sleep;

use crate::db::Database;
use crate::engine::Engine;
use crate::wall;

/// What is partitioned where the migration has made it so.
const TABLES: [&str; 2] = ["events", "changes"];
/// How long is waited before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// One segment of a table.
struct Segment {
    name: String,
    from: i64,
    to: i64,
}

/// Makes what is missing ahead of `head`; gives the position from which on the next one is to be made, and nothing where
/// no table is partitioned.
pub(crate) async fn make_ahead(database: &Database, head: Position) -> Result<Option<Position>, DbErr> {
    if database.backend() != DbBackend::Postgres {
        return Ok(None);
    }
    let mut next = None;
    for table in TABLES {
        loop {
            let Some(last) = last(database.writer(), table).await? else { break };
            if head.number() < last.from {
                next = Some(next.map_or(last.from, |due: i64| due.min(last.from)));
                break;
            }
            add(database, table).await?;
        }
    }
    Ok(next.map(Position::new))
}

async fn last(connection: &impl ConnectionTrait, table: &str) -> Result<Option<Segment>, DbErr> {
    let sql = "SELECT CAST(name AS text) AS name, CAST(bounds[1] AS bigint) AS lower, CAST(bounds[2] AS bigint) AS upper \
               FROM (SELECT part.relname AS name, \
                     regexp_match(pg_get_expr(part.relpartbound, part.oid), '(\\d+)\\D+(\\d+)') AS bounds \
                     FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid \
                     WHERE inhparent = to_regclass($1)) AS parts \
               WHERE bounds IS NOT NULL ORDER BY upper DESC LIMIT 1";
    let row =
        connection.query_one_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, [table.into()])).await?;
    row.map(|row| {
        Ok(Segment { name: row.try_get("", "name")?, from: row.try_get("", "lower")?, to: row.try_get("", "upper")? })
    })
    .transpose()
}

/// The one behind the last.
async fn add(database: &Database, table: &str) -> Result<(), DbErr> {
    let before = last(database.writer(), table).await?.map(|last| last.to);
    let transaction = database.begin_ordered().await?;
    let Some(last) = last(&transaction, table).await?.filter(|last| Some(last.to) == before) else {
        return transaction.rollback().await; // another node was faster
    };
    transaction.execute_unprepared("SET LOCAL lock_timeout = '1s'").await?;
    let (from, to) = (last.to, last.to + (last.to - last.from));
    let segment = format!("{table}_{from}");
    for sql in [
        // With the indexes of its own that the last one has.
        format!("CREATE TABLE \"{segment}\" (LIKE \"{}\" INCLUDING ALL)", last.name),
        format!("ALTER TABLE \"{table}\" ATTACH PARTITION \"{segment}\" FOR VALUES FROM ({from}) TO ({to})"),
    ] {
        transaction.execute_unprepared(&sql).await?;
    }
    wall::copy(&transaction, &last.name, &segment).await?;
    transaction.commit().await?;
    tracing::info!(table, from, to, "the log has another segment");
    Ok(())
}

/// Makes each before it is needed, for as long as there is an engine.
pub(crate) async fn keep_ahead(engine: Weak<Engine>) {
    loop {
        let Some(strong) = engine.upgrade() else { return };
        let due = match make_ahead(&strong.database, strong.feed.head()).await {
            Ok(Some(due)) => due,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the next segment of the log cannot be made at the moment");
                drop(strong);
                sleep(PAUSE).await;
                continue;
            }
        };
        let mut heads = strong.feed.watch();
        drop(strong);
        let is_over = heads.wait_for(|head| *head >= due).await.is_err();
        if is_over {
            return;
        }
    }
}
