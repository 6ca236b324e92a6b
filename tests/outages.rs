//! A server that Oriel does not run itself is away: what goes on, what waits, and that it catches up by itself when it
//! is back. One test for each row of the table in the README; Redis has a file of its own, PostgreSQL stands in
//! `restarts.rs`.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::nodes::{PATIENCE, Shared};
use crate::support::{Bucket, Server, Session};

/// An address at which nobody listens, and that the system gives to nobody meanwhile. Not by the number by which the
/// program says where it listens itself.
const NOWHERE: &str = "http://localhost:1";

const HEALTH: &str = "{ system { backends { name kind healthy lastError breaker { state outages } } \
                      consumers { name state } } }";

/// What operators see of a backend.
fn backend<'a>(answer: &'a Value, name: &str) -> &'a Value {
    answer["system"]["backends"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

/// The node says that it is degraded, and which backend is away; balancers go on sending.
async fn is_degraded(node: &Server, operator: &Session, name: &str) {
    let seen = operator.until(HEALTH, json!({}), |answer| backend(answer, name)["healthy"] == false).await;
    assert!(backend(&seen, name)["lastError"].is_string(), "{seen}");
    let health = operator.http.get(format!("{}/health/ready", node.url)).send().await.unwrap();
    assert_eq!(health.status(), 200);
    let health: Value = health.json().await.unwrap();
    assert_eq!(health["status"], "degraded", "{health}");
    let down = health["components"].as_array().unwrap().iter().filter(|one| one["status"] == "down");
    assert_eq!(down.map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), [name]);
    // Five in a row, also when nobody needs it: it is asked now and then. Then it is left alone for a while.
    let is_open = |answer: &Value| backend(answer, name)["breaker"]["state"] == "OPEN";
    operator.until(HEALTH, json!({}), is_open).await;
    let metrics = operator.http.get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(&format!("oriel_backend_breaker{{backend=\"{name}\"}} 2")), "{metrics}");
    assert!(metrics.contains(&format!("oriel_backend_requests_total{{backend=\"{name}\",outcome=\"outage\"}}")));
}

/// What has nothing to do with the backend: signing in, changing, reading, live.
async fn the_rest_works(node: &Server, session: &Session) {
    let name = format!("Grace{}", session.token.len());
    node.register(&name).await;
    session.create_project("REST").await;
    session
        .until("{ projects { nodes { key } } }", json!({}), |answer| answer["projects"]["nodes"][0]["key"] == "REST")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_all_goes_on_but_files() {
    let environment = vec![
        ("ORIEL_BLOBS_URL", format!("s3://bucket?endpoint={NOWHERE}")),
        ("AWS_ACCESS_KEY_ID", "AKIAORIEL".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-bucket".to_owned()),
    ];
    let node = Server::start_among(environment).await;
    let ada = node.register("Ada").await;
    the_rest_works(&node, &ada).await;
    let project = ada.create_project("FILES").await;
    let operations = json!({
        "query": "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { document { id } } }",
        "variables": {"input": {"projectId": project, "file": null}},
    });
    let form = reqwest::multipart::Form::new()
        .text("operations", operations.to_string())
        .text("map", r#"{"0":["variables.input.file"]}"#)
        .part("0", reqwest::multipart::Part::bytes(b"A file".to_vec()).file_name("a.txt"));
    let request = ada.http.post(format!("{}/graphql", node.url)).header("graphql-require-preflight", "1");
    let refused = request.bearer_auth(&ada.token).multipart(form).send().await.unwrap();
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{refused}");
    assert!(!refused.to_string().contains("localhost"), "internal text reaches a client: {refused}");
    is_degraded(&node, &ada, "blobs").await;
    the_rest_goes_on(&ada).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_search_server_all_goes_on_but_search() {
    let node = Server::start_among(vec![("ORIEL_SEARCH_URL", NOWHERE.to_owned())]).await;
    let ada = node.register("Ada").await;
    the_rest_works(&node, &ada).await;
    // Documents are taken in and read; to be found they wait.
    let project = ada.create_project("FILES").await;
    let uploaded = ada.upload(&project, "guide.txt", b"About wraparound.".to_vec()).await;
    let id = uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}"));
    let text = "query($id: ID!) { document(id: $id) { text(maxChars: 100) } }";
    ada.until(text, json!({"id": id}), |answer| answer["document"]["text"] == "About wraparound.").await;
    let refused = ada.raw("{ search(query: \"wraparound\") { totalCount } }", json!({})).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{refused}");
    assert!(!refused.to_string().contains("localhost"), "internal text reaches a client: {refused}");
    is_degraded(&node, &ada, "search").await;
    // The index follows the log by itself: it tries again.
    let waits = |answer: &Value| {
        let consumers = answer["system"]["consumers"].as_array().unwrap();
        consumers.iter().any(|one| one["state"] == "retrying")
    };
    ada.until(HEALTH, json!({}), waits).await;
    the_rest_goes_on(&ada).await;
}

/// Also while the breaker is open.
async fn the_rest_goes_on(session: &Session) {
    session.create_project("LATER").await;
    let count = session.ask("{ projects { totalCount } }", json!({})).await["projects"]["totalCount"].clone();
    assert_eq!(count, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_wait_for_the_bucket_and_are_not_given_up() {
    let Some(mut shared) = Shared::new(None) else { return };
    let mut bucket = Bucket::start();
    shared.environment.retain(|(name, _)| *name != "ORIEL_BLOBS_URL");
    shared.environment.extend(bucket.environment());
    shared.environment.push(("ORIEL_ROLE", "api".to_owned()));
    let api = shared.node().await;
    let ada = api.register("Ada").await;
    let project = ada.create_project("FILES").await;
    let uploaded = ada.upload(&project, "guide.txt", b"About wraparound.".to_vec()).await;
    let id = uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}"));

    bucket.stop();
    shared.environment.pop();
    shared.environment.push(("ORIEL_ROLE", "worker".to_owned()));
    let worker = shared.node().await;
    // Until it has failed more often than a document may, and is not asked any more.
    let began = Instant::now();
    loop {
        let metrics = ada.http.get(format!("{}/metrics", worker.url)).send().await.unwrap().text().await.unwrap();
        if metrics.contains("oriel_backend_breaker{backend=\"blobs\"} 2") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the bucket is asked on and on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bucket.start_again();
    // A breaker leaves it alone for a minute.
    let began = Instant::now();
    loop {
        let document = ada.ask("query($id: ID!) { document(id: $id) { status } }", json!({"id": id})).await;
        match document["document"]["status"].as_str() {
            Some("READY") => break,
            Some("PROCESSING") => assert!(began.elapsed() < 3 * PATIENCE, "it waits for ever"),
            other => panic!("it was given up: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
