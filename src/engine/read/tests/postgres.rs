//! The same on PostgreSQL.

use futures::future::join_all;
use proptest::prelude::*;

use super::pages::{config, filters, orders, things, together, walk};
use super::*;
use crate::testing;

#[test]
fn the_same_on_postgresql() {
    let Some(server) = testing::postgres() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let db = runtime.block_on(connect(&server.fresh_database()));
    let cases = (things(), orders(), prop::option::of(filters()), 1..6i32);
    proptest!(config(100), |((things, order, filter, size) in cases)| {
        runtime.block_on(async {
            put(&db, things.clone()).await;
            walk(&db, &things, &order, filter.as_ref(), size).await;
            together(&db, &order, filter.as_ref(), size).await;
        });
    });
    runtime.block_on(loaders_and_scope(&db));
    runtime.block_on(db.close()).unwrap();
}

async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    create(&db).await;
    // The texts in the order of their bytes, as this test's own model has them.
    for column in ["name", "note"] {
        let alter = format!(r#"ALTER TABLE things ALTER COLUMN {column} TYPE text COLLATE "C""#);
        db.execute_unprepared(&alter).await.unwrap();
    }
    db
}

async fn loaders_and_scope(db: &DatabaseConnection) {
    put(db, (1..=40).map(|n| Model { shelf_id: shelf(n % 4), organization_id: org(1 + n % 2), ..thing(n) })).await;
    let reader = reader_of(db, viewer(1, only(&[0, 1])));
    let got = join_all((1..=50).map(|n| reader.get::<Model>(uuid(n)))).await;
    assert_eq!(got.iter().filter(|r| r.as_ref().unwrap().is_some()).count(), 10);
    let many = join_all((0..4).map(|s| reader.many(Model::in_shelf(shelf(s))))).await;
    assert_eq!(many.iter().map(|g| g.as_ref().unwrap().len()).collect::<Vec<_>>(), [10, 0, 0, 0]);
    let counts = join_all((0..4).map(|s| reader.count(Model::in_shelf(shelf(s))))).await;
    assert_eq!(counts, [10, 0, 0, 0].map(Ok));
    assert_eq!(reader.recorder().statements(), 3);
}
