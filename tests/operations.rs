//! Persisted operations from a client's manifest to a server that executes nothing else.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Server, Session, databases};

const NAMES: &str = "query Names { projects { nodes { key } } }";
/// `printf %s '…' | sha256sum`, as a build does it.
const NAMES_SHA256: &str = "0623adacadd8db7690da90f3393e604945a2428ae581a7c09aa2c3cbc79f9e9c";
const MAKE: &str = "mutation Make($input: ProjectCreateInput!) { projectCreate(input: $input) { position } }";
const MAKE_SHA256: &str = "4aacda6e378142cc6acfb109e32191f48402af2b51499c80179b17ff0b4fe846";

fn manifest(server: &Server, name: &str, content: &Value) -> String {
    let path: PathBuf = server.folder().join(name);
    std::fs::write(&path, content.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the program says, and whether it is content.
fn run(server: &Server, arguments: &[&str], token: &str) -> (bool, String) {
    let output = server.oriel(arguments, token);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

async fn send(session: &Session, body: Value) -> (u16, Value) {
    let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token).json(&body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_manifest_to_nothing_but_what_is_published() {
    for database in databases() {
        let server = Server::start(database).await;
        let ada = server.register("Ada").await;
        ada.create_project("ONE").await;

        let apollo = |operations: Value| json!({ "format": "apollo-persisted-query-manifest", "version": 1, "operations": operations });
        let names = json!({ "id": NAMES_SHA256, "name": "Names", "type": "query", "body": NAMES });
        let stale =
            json!({ "id": "stale", "name": "Stale", "type": "query", "body": "query Stale { nothingLikeThis }" });
        let file = manifest(&server, "apollo.json", &apollo(json!([names, stale])));
        let (content, said) = run(&server, &["operations", "publish", &file], &ada.token);
        assert!(!content && said.contains("1 added, 0 unchanged, 1 refused"), "{said}");
        let refused = said.lines().find(|line| line.starts_with("refused")).unwrap();
        assert!(refused.contains("Stale") && refused.contains("nothingLikeThis"), "{said}");
        let file = manifest(&server, "apollo.json", &apollo(json!([names])));
        let (content, said) = run(&server, &["operations", "publish", &file], &ada.token);
        assert!(content && said.contains("0 added, 1 unchanged, 0 refused"), "{said}");

        // As Relay and graphql-codegen write it, and more than one call takes.
        let mut many: serde_json::Map<_, _> =
            (0..250).map(|n| (format!("{n:032x}"), json!(format!("query Q{n} {{ __typename }}")))).collect();
        many.insert(MAKE_SHA256.to_owned(), json!(MAKE));
        let file = manifest(&server, "persisted-documents.json", &Value::Object(many));
        let (content, said) = run(&server, &["operations", "publish", &file], &ada.token);
        assert!(content && said.contains("251 added, 0 unchanged, 0 refused"), "{said}");
        let (content, said) = run(&server, &["operations", "list"], &ada.token);
        assert!(content && said.contains(NAMES_SHA256) && said.contains("252 published"), "{said}");

        let file = manifest(&server, "none.json", &json!([1]));
        let (content, said) = run(&server, &["operations", "publish", &file], &ada.token);
        assert!(!content && said.contains("none.json") && said.contains("not a JSON object"), "{said}");
        let (content, said) = run(&server, &["operations", "list"], "");
        assert!(!content && said.contains("ORIEL_TOKEN"), "{said}");

        let server = server.restart_with(&["--set", "operations=registered"]).await;
        let ada = Session { url: server.url.clone(), ..ada };
        let (status, answer) = send(&ada, json!({ "query": "{ organization { name } }" })).await;
        assert_eq!((status, &answer["errors"][0]["extensions"]["code"]), (400, &json!("OPERATION_NOT_REGISTERED")));
        let make = json!({ "documentId": format!("sha256:{MAKE_SHA256}"), "variables": { "input": { "key": "TWO", "name": "Two" } } });
        let (status, answer) = send(&ada, make).await;
        assert!(status == 200 && answer["data"]["projectCreate"]["position"].is_string(), "{answer}");
        let by_hash = json!({ "extensions": { "persistedQuery": { "version": 1, "sha256Hash": NAMES_SHA256 } } });
        let (_, answer) = send(&ada, by_hash).await;
        assert_eq!(answer["data"]["projects"]["nodes"], json!([{ "key": "ONE" }, { "key": "TWO" }]), "{answer}");
        // Who publishes them is not shut out.
        let file = manifest(&server, "more.json", &json!({ "more": "{ organization { name } }" }));
        let (content, said) = run(&server, &["operations", "publish", &file], &ada.token);
        assert!(content && said.contains("1 added"), "{said}");
        let (_, answer) = send(&ada, json!({ "documentId": "more" })).await;
        assert_eq!(answer["data"]["organization"]["name"], "Ada", "{answer}");
    }
}
