//! Statements that nobody waits for any more.

use sea_orm::{Statement, TransactionTrait};

use super::*;
use crate::db::Connections;

/// Rows without an end.
const ENDLESS: &str =
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT n FROM numbers";

async fn ask(database: &Database, sql: &str) -> Result<i64, sea_orm::DbErr> {
    let statement = Statement::from_string(database.backend(), sql);
    let row = database.reader().query_one_raw(statement).await?;
    row.map_or(Ok(0), |row| row.try_get_by_index(0))
}

/// How many statements the readers of this database are at work on, apart from this one.
const AT_WORK: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND state = 'active' AND pid <> pg_backend_pid()";

#[tokio::test]
async fn a_read_that_was_dropped_is_ended_by_the_server() {
    let Some(place) = Place::postgres().await else { return };
    let database = Database::open(&place.location, 2).await.unwrap();
    let observer = Database::open(&place.location, 2).await.unwrap();
    for _ in 0..3 {
        let abandoned = tokio::spawn({
            let database = database.clone();
            async move { ask(&database, "SELECT count(*) FROM (SELECT pg_sleep(600)) AS slept").await }
        });
        while ask(&observer, AT_WORK).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        abandoned.abort();
        let ended = async {
            while ask(&observer, AT_WORK).await.unwrap() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it is at work still");
    }
    // More were dropped than there are connections: none of them is lost.
    assert_eq!(ask(&database, "SELECT CAST(7 AS bigint)").await.unwrap(), 7);
}

#[tokio::test]
async fn a_read_has_its_time_on_the_server() {
    let Some(place) = Place::postgres().await else { return };
    let short = Duration::from_millis(200);
    let connections = Connections { most: 2, reading: short, writing: short, ..Connections::default() };
    let database = Database::open_with(&place.location, connections).await.unwrap();
    let endless = "SELECT count(*) FROM (SELECT pg_sleep(600)) AS slept";
    let refused = ask(&database, endless).await.unwrap_err().to_string();
    assert!(refused.contains("statement timeout"), "{refused}");
    let refused = database.writer().execute_unprepared(endless).await.unwrap_err().to_string();
    assert!(refused.contains("statement timeout"), "{refused}");
}

#[tokio::test]
async fn who_finds_all_connections_in_use_waits_so_long_and_no_longer() {
    let mut places = vec![Place::sqlite().await];
    places.extend(Place::postgres().await);
    for place in places {
        let connections = Connections { most: 2, acquire: Duration::from_millis(200), ..Connections::default() };
        let database = Database::open_with(&place.location, connections).await.unwrap();
        let held = (database.reader().begin().await.unwrap(), database.reader().begin().await.unwrap());
        let refused = ask(&database, "SELECT CAST(7 AS bigint)").await.unwrap_err();
        assert!(matches!(refused, sea_orm::DbErr::ConnectionAcquire(_)), "{refused}");
        held.0.rollback().await.unwrap();
        assert_eq!(ask(&database, "SELECT CAST(7 AS bigint)").await.unwrap(), 7);
        held.1.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_read_of_sqlite_that_was_dropped_ends_with_its_next_row() {
    let place = Place::sqlite().await;
    let database = Database::open(&place.location, 1).await.unwrap();
    let endless = Statement::from_string(database.backend(), ENDLESS);
    for _ in 0..3 {
        let reading = database.reader().query_all_raw(endless.clone());
        tokio::time::timeout(Duration::from_millis(20), reading).await.expect_err("it has no end");
        // There is one reader: were it at work still, this would wait for it.
        assert_eq!(ask(&database, "SELECT 7").await.unwrap(), 7);
    }
}

#[tokio::test]
async fn who_stands_still_in_a_commit_does_not_hold_up_the_others_for_ever() {
    let Some(place) = Place::postgres().await else { return };
    let (stopped, engine) = (place.engine().await, place.engine().await);
    // It has the order lock, and says nothing more.
    let held = stopped.standstill().await.unwrap();
    in_time(make(&engine, org(1), "a")).await;
    assert!(held.end().await.is_err(), "the server has ended it");
    make(&stopped, org(1), "b").await;
    assert_eq!(whole_log(&engine).await.len(), 2);
}
