//! The log in segments, on PostgreSQL: they are made before they are needed, and nobody notices.

use super::*;

/// The tables of the migration, in segments of this many positions.
async fn partition(place: &Place, width: i64) {
    let database = Database::open(&place.location, 2).await.unwrap();
    for table in ["events", "changes"] {
        for sql in [
            format!("ALTER TABLE {table} RENAME TO whole"),
            format!("CREATE TABLE {table} (LIKE whole) PARTITION BY RANGE (position)"),
            format!("ALTER TABLE {table} ADD PRIMARY KEY (position)"),
            format!("CREATE TABLE {table}_0 (LIKE whole INCLUDING ALL)"),
            format!("ALTER TABLE {table} ATTACH PARTITION {table}_0 FOR VALUES FROM (0) TO ({width})"),
            "DROP TABLE whole".to_owned(),
        ] {
            database.writer().execute_unprepared(&sql).await.unwrap();
        }
    }
    database.close().await;
}

const SEGMENTS: &str = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
/// Unique indexes that a segment has for itself; with that of its position they are four.
const UNIQUE: &str = "SELECT min(n) FROM (SELECT count(*) FILTER (WHERE indisunique) AS n FROM pg_inherits \
                      JOIN pg_index ON indrelid = inhrelid WHERE inhparent = 'events'::regclass GROUP BY inhrelid) AS s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_always_a_segment_ahead() {
    let Some(place) = Place::postgres().await else { return };
    partition(&place, 100).await;
    let (one, other) = (place.engine().await, place.engine().await);
    assert_eq!(number(&one, SEGMENTS).await, 2, "of two that start one has made it");
    let mut things = Vec::new();
    for n in 0..5u128 {
        things.push(make(&one, org(n % 2), &format!("{n}")).await);
    }
    for turn in 0..60 {
        let engine = if turn % 2 == 0 { &one } else { &other };
        for (n, id) in things.iter().enumerate() {
            while count(engine, org(n as u128 % 2), *id).await.is_err() {}
        }
    }
    let log = whole_log(&one).await;
    assert!(log.len() > 300);
    let last = i64::try_from(log.len()).unwrap();
    until(|| async { number(&one, SEGMENTS).await == last / 100 + 2 }).await;
    assert_eq!(
        one.log().verify().await.unwrap(),
        None,
        "every position, sequence and link of the chains is there once"
    );
    assert_eq!(number(&one, UNIQUE).await, 4);
    // An aggregate is read across segments.
    assert!(one.log().read_subject(things[0].uuid()).await.unwrap().len() > 60);
    // One that starts goes on where they are.
    let third = place.engine().await;
    assert_eq!(third.feed().head().number(), last);
    count(&third, org(0), things[0]).await.unwrap();
}
