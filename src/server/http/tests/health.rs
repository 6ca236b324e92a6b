//! What operators ask.

use super::*;

#[tokio::test]
async fn a_server_is_ready_while_its_database_answers() {
    let bed = Bed::new().await;
    let heard = bed.get("/health/ready", &[]).await;
    assert_eq!((heard.status.as_u16(), &heard.json()["status"]), (200, &json!("ready")));
    assert_eq!(heard.json()["components"][0], json!({ "name": "database", "status": "up" }));
    assert_eq!(bed.get("/health/live", &[]).await.status, 200);
    bed.stop.cancel();
    let heard = bed.get("/health/ready", &[]).await;
    assert_eq!((heard.status.as_u16(), &heard.json()["status"]), (503, &json!("stopping")));
    assert_eq!(bed.get("/health/live", &[]).await.status, 200);

    let bed = Bed::new().await;
    bed.installation.engine.database().clone().close().await;
    let heard = bed.get("/health/ready", &[]).await;
    assert_eq!((heard.status.as_u16(), &heard.json()["status"]), (503, &json!("unavailable")));
    assert_eq!(heard.json()["components"][0]["status"], "down");
}

#[tokio::test]
async fn a_backend_that_can_be_missed_makes_it_degraded() {
    let bed = Bed::with(settings(&[]), Beds { healthy: false, ..Beds::default() }).await;
    let heard = bed.get("/health/ready", &[]).await;
    assert_eq!((heard.status.as_u16(), &heard.json()["status"]), (200, &json!("degraded")));
    assert_eq!(heard.json()["components"][2], json!({ "name": "search", "status": "down", "kind": "test" }));
}

#[tokio::test]
async fn the_schema_the_console_and_what_is_not_there() {
    let bed = Bed::new().await;
    let schema = bed.get("/graphql.schema", &[]).await;
    assert!(schema.status == 200 && schema.text() == oriel_schema::sdl());
    let packed = bed.get("/graphql.schema", &[("accept-encoding", "gzip")]).await;
    assert!(packed.header("content-encoding") == "gzip" && packed.body.len() < schema.body.len());
    let index = bed.get("/", &[]).await;
    assert!(index.header("content-type").starts_with("text/html") && index.text().contains("/graphql.schema"));
    assert_eq!(bed.get("/nothing", &[]).await.status, 404);
    assert_eq!(bed.get("/metrics", &[]).await.status, 404);
}
