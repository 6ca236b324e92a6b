//! What a person can ask about themselves, and what is kept of it.

use std::io::{Cursor, Read};

use serde_json::{Value, json};

use crate::support::{Server, Session, databases};

/// The files of a ZIP, by name.
fn unzipped(bytes: &[u8]) -> Vec<(String, String)> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut files = Vec::new();
    for n in 0..zip.len() {
        let mut file = zip.by_index(n).unwrap();
        let (name, mut text) = (file.name().unwrap().into_owned(), String::new());
        file.read_to_string(&mut text).unwrap();
        files.push((name, text));
    }
    files
}

const REQUEST: &str = "mutation($input: DataExportRequestInput!) { dataExportRequest(input: $input) {
    dataExport { id status } userErrors { code path message } position } }";
const EXPORTS: &str = "{ dataExports { nodes { id status attempts size sha256 endsAt downloadUrl } totalCount } }";

/// Waits until the newest export of this person can be downloaded.
async fn ready(session: &Session) -> Value {
    let is_ready = |answer: &Value| answer["dataExports"]["nodes"][0]["status"] == "READY";
    session.until(EXPORTS, json!({}), is_ready).await["dataExports"]["nodes"][0].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_about_a_person_is_for_that_person_and_nothing_about_others_is_in_it() {
    for database in databases() {
        let server = Server::start(database).await;
        let operator = server.register("Operator").await;
        let ada = server.register("Ada").await;
        let bob = ada.join("Bob", "admin").await;
        let project = ada.create_project("ATLAS").await;
        let uploaded = bob.upload(&project, "bobs-own-plan.txt", b"A plan.".to_vec()).await;
        bob.document_ends(uploaded["document"]["id"].as_str().unwrap()).await;

        let prefers = "mutation { preferencesUpdate(input: { timeZone: \"Europe/Vienna\" }) { userErrors { code } } }";
        assert_eq!(bob.ask(prefers, json!({})).await["preferencesUpdate"]["userErrors"], json!([]));
        let asked = bob.ask(REQUEST, json!({ "input": { "idempotencyKey": "once" } })).await;
        let again = bob.ask(REQUEST, json!({ "input": { "idempotencyKey": "once" } })).await;
        let id = asked["dataExportRequest"]["dataExport"]["id"].as_str().unwrap_or_else(|| panic!("{asked}"));
        assert_eq!(again["dataExportRequest"]["dataExport"]["id"], id);
        let export = ready(&bob).await;
        let another = bob.ask(REQUEST, json!({ "input": {} })).await;
        assert_eq!(another["dataExportRequest"]["userErrors"][0]["code"], "CONFLICT", "one at a time");

        let url = export["downloadUrl"].as_str().unwrap();
        let file = bob.http.get(url).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(export["size"], file.len());
        let files = unzipped(&file);
        let text = |name: &str| &files.iter().find(|(found, _)| found == name).unwrap().1;
        let contents: Value = serde_json::from_str(text("contents.json")).unwrap();
        assert_eq!(contents["contents"].as_array().unwrap().len(), 8, "{contents}");
        for (name, said) in [
            ("profile.json", "bob@example.org"),
            ("preferences.json", "Europe/Vienna"),
            ("memberships.json", "Ada"),
            ("sessions.json", "127.0.0.1"),
            ("documents.json", "bobs-own-plan.txt"),
            ("events.jsonl", "document_uploaded"),
            ("events.jsonl", "user_registered"),
            ("events.jsonl", "bob@example.org"),
        ] {
            assert!(text(name).contains(said), "{said} is not in {name}: {}", text(name));
        }
        for (name, text) in &files {
            for other in ["ada@example.org", "Ada Owner", "$argon2id$", "operator@example.org"] {
                assert!(name == "events.jsonl" && other == "$argon2id$" || !text.contains(other), "{other} in {name}");
            }
        }

        // Nobody else sees it, whatever they may.
        let find = "query($id: ID!) { node(id: $id) { id } dataExports { totalCount } }";
        let direct = "query($id: DataExportId!) { dataExport(id: $id) { id } }";
        for session in [&ada, &operator] {
            let seen = session.ask(find, json!({ "id": id })).await;
            assert_eq!((&seen["node"], &seen["dataExports"]["totalCount"]), (&json!(null), &json!(0)));
            assert_eq!(
                session.ask(&direct.replace("DataExportId!", "ID!"), json!({ "id": id })).await["dataExport"],
                json!(null)
            );
        }
        let viewer = bob.ask("{ viewer { user { id } } }", json!({})).await;
        let by_id = json!({ "input": { "userId": viewer["viewer"]["user"]["id"] } });
        let refused = ada.ask(REQUEST, by_id.clone()).await;
        assert_eq!(refused["dataExportRequest"]["userErrors"][0]["code"], "NOT_FOUND");

        // It goes when they do not want it any more, and the operator can ask for it, and sees nothing of it.
        let discard = "mutation($input: DataExportDiscardInput!) { dataExportDiscard(input: $input) {
            dataExport { status downloadUrl } userErrors { code } } }";
        let stolen = ada.ask(discard, json!({ "input": { "id": id } })).await;
        assert_eq!(stolen["dataExportDiscard"]["userErrors"][0]["code"], "NOT_FOUND");
        let gone = bob.ask(discard, json!({ "input": { "id": id } })).await;
        assert_eq!(gone["dataExportDiscard"]["dataExport"], json!({ "status": "DISCARDED", "downloadUrl": null }));
        until_gone(&bob, url).await;
        let asked = operator.ask(REQUEST, by_id).await;
        assert_eq!(
            asked["dataExportRequest"],
            json!({ "dataExport": null, "userErrors": [], "position": asked["dataExportRequest"]["position"] })
        );
        let is_ready = |answer: &Value| answer["dataExports"]["nodes"][1]["status"] == "READY";
        let seen = bob.until(EXPORTS, json!({}), is_ready).await;
        let url = seen["dataExports"]["nodes"][1]["downloadUrl"].as_str().unwrap();
        assert_eq!(bob.http.get(url).send().await.unwrap().status(), 200);

        // Who is erased leaves no file.
        let erase = "mutation { userErase(input: { password: \"correct horse battery\" }) { userErrors { message } } }";
        assert_eq!(bob.ask(erase, json!({})).await["userErase"]["userErrors"], json!([]));
        until_gone(&ada, url).await;
        let user = viewer["viewer"]["user"]["id"].clone();
        let certificate = "query($id: ID!) { erasure(id: $id) { completedAt } }";
        operator.until(certificate, json!({ "id": user }), |answer| answer["erasure"]["completedAt"].is_string()).await;
        let refused = operator.ask(REQUEST, json!({ "input": { "userId": user } })).await;
        assert_eq!(refused["dataExportRequest"]["userErrors"][0]["code"], "NOT_FOUND");
        let verify = server.oriel(&["read-models", "verify", "data_exports"], &operator.token);
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
    }
}

/// Waits until there is nothing at this address.
async fn until_gone(session: &Session, url: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while session.http.get(url).send().await.unwrap().status() != 404 {
        assert!(std::time::Instant::now() < deadline, "the file is still served");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
