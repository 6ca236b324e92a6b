//! The thread through the whole house: sign up, make a project, upload, watch, find, and see who did it.

use serde_json::json;

use crate::support::{Server, databases};

#[tokio::test(flavor = "multi_thread")]
async fn from_signing_up_to_finding() {
    for database in databases() {
        let server = Server::start(database).await;
        let ada = server.register("Ada").await;
        let project = ada.create_project("DOCS").await;
        let text = b"# Autovacuum\n\nVacuuming prevents transaction id wraparound.".to_vec();
        let uploaded = ada.upload(&project, "guide.md", text).await;
        assert_eq!(uploaded["userErrors"], json!([]));
        let id = uploaded["document"]["id"].as_str().unwrap();
        let document = ada.document_ends(id).await;
        assert_eq!(document["status"], "READY", "{document:#}");
        assert!(document["text"].as_str().unwrap().contains("wraparound"));
        let query = "query($q: String!) { search(query: $q) { totalCount nodes { ... on Document { id } } edges { highlights { field fragments } } facets { field values { value count } } } }";
        for (words, why) in
            [("vacuum wraparound", "words"), ("\"transaction id\"", "a phrase"), ("wraparuond", "a misspelt word")]
        {
            let found = ada.ask(query, json!({"q": words})).await;
            assert_eq!(found["search"]["nodes"][0]["id"], id, "{why}: {found:#}");
            let marked = found["search"]["edges"][0]["highlights"].to_string();
            assert!(marked.contains("<mark>"), "{why}: {marked}");
        }
        let events = ada.ask("{ events(first: 100) { nodes { type sequence actor { __typename ... on Member { user { name } } } } } }", json!({})).await;
        let nodes = events["events"]["nodes"].as_array().unwrap();
        let uploaded = nodes.iter().find(|event| event["type"] == "document_uploaded").unwrap();
        assert_eq!(uploaded["actor"]["user"]["name"], "Ada Owner");
        let mut sequences: Vec<i64> = nodes.iter().map(|event| event["sequence"].as_i64().unwrap()).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, (1..=sequences.len() as i64).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_safe() {
    for database in databases() {
        let server = Server::start(database).await;
        let ada = server.register("Ada").await;
        let query = "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id name } userErrors { code path } position } }";
        let input = json!({"input": {"key": "ONE", "name": "One", "idempotencyKey": "k1"}});
        let first = ada.ask(query, input.clone()).await;
        assert_eq!(first, ada.ask(query, input).await);
        let other = ada.ask(query, json!({"input": {"key": "TWO", "name": "Two", "idempotencyKey": "k1"}})).await;
        assert_eq!(other["projectCreate"]["userErrors"][0]["code"], "IDEMPOTENCY_MISMATCH");
        let taken = ada.ask(query, json!({"input": {"key": "ONE", "name": "Again"}})).await;
        assert_eq!(taken["projectCreate"]["userErrors"][0], json!({"code": "TAKEN", "path": ["input", "key"]}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_loses_nothing() {
    let mut server = Server::start(None).await;
    let ada = server.register("Ada").await;
    ada.create_project("KEPT").await;
    assert!(server.terminate().success());
    let server = server.restart().await;
    let again = crate::support::Session { url: server.url.clone(), ..ada };
    let projects = again.ask("{ projects { nodes { key } } }", json!({})).await;
    assert_eq!(projects["projects"]["nodes"][0]["key"], "KEPT");
}
