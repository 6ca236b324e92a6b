//! The scanner for viruses from outside: a real clamd, real uploads, and who may do what about what it finds.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Clamd, Server, Session, eicar};

const PATIENCE: Duration = Duration::from_secs(60);

const LOOK: &str = "query($id: ID!) { document(id: $id) { status downloadUrl text revisions { nodes { revision } }
    first: downloadUrl(revision: 1) scan { verdict engine signature scannedAt }
    release { reason releasedBy { user { name } } } pipeline { stage state attempts reason } } }";

/// A server, and a clamd beside it.
async fn scanned() -> Option<(Server, Clamd)> {
    let clamd = Clamd::start()?;
    Some((Server::start_among(vec![("ORIEL_SCANNER_URL", clamd.url())]).await, clamd))
}

async fn look(session: &Session, id: &str) -> Value {
    session.ask(LOOK, json!({ "id": id })).await["document"].clone()
}

async fn ends(session: &Session, id: &str, status: &str) -> Value {
    let is = |answer: &Value| answer["document"]["status"] == status;
    session.until(LOOK, json!({ "id": id }), is).await["document"].clone()
}

fn stage<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["pipeline"].as_array().unwrap().iter().find(|stage| stage["stage"] == name).unwrap()
}

async fn upload(session: &Session, project: &str, name: &str, content: &[u8]) -> String {
    let uploaded = session.upload(project, name, content.to_vec()).await;
    uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}")).to_owned()
}

/// A mutation of a document: what became of it.
async fn change(session: &Session, name: &str, mut input: Value, id: &str) -> Value {
    input["id"] = json!(id);
    let kind = name[..1].to_uppercase() + &name[1..];
    let query = format!(
        "mutation($input: {kind}Input!) {{ payload: {name}(input: $input) {{ document {{ status }} userErrors {{ code message }} }} }}"
    );
    session.raw(&query, json!({ "input": input })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virus_is_kept_back_watched_live_and_released_by_who_may() {
    let Some((node, _clamd)) = scanned().await else { return };
    let ada = node.register("Ada").await;
    let grace = ada.join("Grace", "moderator").await;
    let project = ada.create_project("FILES").await;

    // Somebody watches all documents.
    let query = "subscription { live { documents { nodes { title status downloadUrl } } } }";
    let request = ada.http.post(format!("{}/graphql", node.url)).bearer_auth(&ada.token);
    let request = request.header("Accept", "text/event-stream").json(&json!({ "query": query }));
    let mut live = request.send().await.unwrap();
    let id = upload(&ada, &project, "eicar.txt", &eicar()).await;
    let mut told = String::new();
    while !told.contains("QUARANTINED") {
        let chunk = tokio::time::timeout(PATIENCE, live.chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("nobody is told: {told}")).unwrap();
        told.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("it ends: {told}"))).unwrap());
    }
    assert!(!told.contains("/blobs/") && !told.contains("READY"), "it was handed out meanwhile: {told}");

    let document = look(&ada, &id).await;
    assert_eq!(document["scan"]["verdict"], "INFECTED");
    assert!(document["scan"]["signature"].as_str().unwrap().starts_with("Eicar"), "{document}");
    assert!(document["scan"]["engine"].as_str().unwrap().starts_with("ClamAV "), "{document}");
    for absent in ["downloadUrl", "first", "text", "release"] {
        assert_eq!(document[absent], Value::Null, "{absent}");
    }
    assert_eq!(stage(&document, "EXTRACT")["attempts"], 0);
    let search = "{ search(query: \"eicar\") { totalCount } }";
    let found = ada.ask(search, json!({})).await;
    assert_eq!(found["search"]["totalCount"], 0, "it is found by its title");

    // Whoever looks after documents may have it scanned again, and may not answer for it.
    let reason = json!({ "reason": "It is the test file of EICAR." });
    let refused = change(&grace, "documentRelease", reason.clone(), &id).await;
    assert_eq!(refused["data"]["payload"]["userErrors"][0]["code"], "FORBIDDEN", "{refused}");
    let rescanned = change(&grace, "documentRescan", json!({}), &id).await;
    assert_eq!(rescanned["data"]["payload"]["userErrors"], json!([]), "{rescanned}");
    let again = |answer: &Value| {
        let document = &answer["document"];
        document["status"] == "QUARANTINED" && stage(document, "SCAN")["attempts"] == 2
    };
    ada.until(LOOK, json!({ "id": id }), again).await;

    let empty = change(&ada, "documentRelease", json!({ "reason": " " }), &id).await;
    assert_eq!(empty["data"]["payload"]["userErrors"][0]["code"], "REQUIRED", "{empty}");
    let released = change(&ada, "documentRelease", reason, &id).await;
    assert_eq!(released["data"]["payload"]["userErrors"], json!([]), "{released}");
    let document = ends(&ada, &id, "READY").await;
    assert_eq!(document["release"]["releasedBy"]["user"]["name"], "Ada Owner", "{document}");
    assert_eq!(document["scan"]["verdict"], "INFECTED", "what was found is not forgotten");
    let file = ada.http.get(document["downloadUrl"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(file.bytes().await.unwrap(), eicar());
    ada.until(search, json!({}), |answer| answer["search"]["totalCount"] == 1).await;
    let query = "query($id: ID!) { events(first: 100, filter: { subjectId: $id }) { nodes { type actor { __typename ... on Member { user { name } } } data } } }";
    let events = ada.ask(query, json!({ "id": id })).await;
    let events = events["events"]["nodes"].as_array().unwrap().clone();
    let released = events.iter().find(|event| event["type"] == "document_released").unwrap();
    assert_eq!(released["actor"]["user"]["name"], "Ada Owner", "{released}");
    assert!(released["data"]["reason"].as_str().unwrap().contains("EICAR"), "{released}");

    // Or it goes for ever.
    let other = upload(&ada, &project, "eicar2.txt", &eicar()).await;
    ends(&ada, &other, "QUARANTINED").await;
    change(&ada, "documentDelete", json!({}), &other).await;
    let purged = change(&ada, "documentPurge", json!({}), &other).await;
    assert_eq!(purged["data"]["payload"]["userErrors"], json!([]), "{purged}");
    assert_eq!(look(&ada, &other).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_came_past_the_endpoint_is_scanned_like_any_other() {
    let Some((node, _clamd)) = scanned().await else { return };
    let ada = node.register("Ada").await;
    let project = ada.create_project("FILES").await;
    for (content, status) in [(eicar(), "QUARANTINED"), (b"A letter".to_vec(), "READY")] {
        let begin = "mutation($input: DocumentUploadBeginInput!) { documentUploadBegin(input: $input) { uploadId url method headers { name value } userErrors { message } } }";
        let input = json!({ "projectId": project, "fileName": "a.txt", "size": content.len() });
        let begun = ada.ask(begin, json!({ "input": input })).await["documentUploadBegin"].clone();
        let mut request =
            ada.http.request(begun["method"].as_str().unwrap().parse().unwrap(), begun["url"].as_str().unwrap());
        for header in begun["headers"].as_array().unwrap() {
            request = request.header(header["name"].as_str().unwrap(), header["value"].as_str().unwrap());
        }
        assert!(request.body(content).send().await.unwrap().status().is_success());
        let complete = "mutation($input: DocumentUploadCompleteInput!) { documentUploadComplete(input: $input) { document { id } userErrors { message } } }";
        let made = ada.ask(complete, json!({ "input": { "uploadId": begun["uploadId"] } })).await;
        let id =
            made["documentUploadComplete"]["document"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        let document = ends(&ada, &id, status).await;
        assert_eq!(document["downloadUrl"].is_string(), status == "READY", "{document}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_scanner_uploads_are_taken_and_wait_and_go_on_when_it_is_back() {
    let Some((node, mut clamd)) = scanned().await else { return };
    let ada = node.register("Ada").await;
    let project = ada.create_project("FILES").await;
    let before = upload(&ada, &project, "before.txt", b"Before the outage").await;
    ends(&ada, &before, "READY").await;
    clamd.stop();
    let id = upload(&ada, &project, "letter.txt", b"A letter").await;
    let waits = |answer: &Value| {
        let scan = stage(&answer["document"], "SCAN");
        scan["reason"].as_str().is_some_and(|reason| reason.contains("does not answer"))
    };
    let document = ada.until(LOOK, json!({ "id": id }), waits).await["document"].clone();
    assert_eq!((&document["status"], &document["downloadUrl"]), (&json!("PROCESSING"), &Value::Null), "{document}");
    // What was scanned is handed out as ever.
    assert!(look(&ada, &before).await["downloadUrl"].is_string());
    let health = "{ system { backends { name kind healthy lastError } queues { name depth running } } }";
    let is_down = |answer: &Value| {
        let backends = answer["system"]["backends"].as_array().unwrap();
        backends.iter().any(|one| one["name"] == "scanner" && one["kind"] == "clamd" && one["healthy"] == false)
    };
    ada.until(health, json!({}), is_down).await;
    let ready = ada.http.get(format!("{}/health/ready", node.url)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    assert_eq!(ready.json::<Value>().await.unwrap()["status"], "degraded");
    clamd.start_again();
    assert!(ends(&ada, &id, "READY").await["downloadUrl"].is_string());
    let metrics = ada.http.get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("oriel_scans_total{verdict=\"clean\"} 2"), "{metrics}");
}
