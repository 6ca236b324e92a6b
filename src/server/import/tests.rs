#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::*;

const PATIENCE: Patience =
    Patience { attempts: 4, first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(2) };

#[derive(Clone, Debug, PartialEq)]
struct Doc {
    name: String,
    sha256: String,
    key: String,
    status: &'static str,
}

/// As much of a server as an import meets: projects by key, documents in pages of two, uploads with keys.
#[derive(Default)]
struct Server {
    projects: Vec<(String, &'static str)>,
    documents: Vec<Doc>,
    uploads: usize,
    /// Answers to the next uploads, instead of taking them.
    instead: Vec<(StatusCode, Value)>,
    /// Names that are refused, with a code.
    refuse: Vec<(&'static str, &'static str)>,
    /// Stops the import at the upload with this number.
    stop_at: Option<(usize, CancellationToken)>,
}

type Shared = Arc<Mutex<Server>>;

async fn graphql(State(server): State<Shared>, request: Request) -> Response {
    if request.headers().get("authorization").is_none_or(|token| token != "Bearer good") {
        return (StatusCode::UNAUTHORIZED, "").into_response();
    }
    let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
    if kind.starts_with("multipart/") {
        return upload(&server, &kind, request.into_body()).await;
    }
    let bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let asked: Value = serde_json::from_slice(&bytes).unwrap();
    let (query, variables) = (asked["query"].as_str().unwrap(), &asked["variables"]);
    let mut server = server.lock().unwrap();
    let data = if query.contains("projectCreate(") {
        let key = variables["input"]["key"].as_str().unwrap();
        if key.len() < 2 {
            json!({ "projectCreate": { "project": null, "userErrors": [{ "code": "INVALID", "message": "too short" }] } })
        } else {
            server.projects.push((key.to_owned(), "ACTIVE"));
            json!({ "projectCreate": { "project": { "id": key, "name": "n", "status": "ACTIVE" }, "userErrors": [] } })
        }
    } else if query.contains("projects(") {
        let found = server.projects.iter().filter(|(key, _)| variables["key"] == *key);
        let nodes: Vec<Value> =
            found.map(|(key, status)| json!({ "id": key, "name": "n", "status": status })).collect();
        json!({ "projects": { "nodes": nodes } })
    } else {
        let from: usize = variables["after"].as_str().map_or(0, |after| after.parse().unwrap());
        let page = server.documents.iter().skip(from).take(2);
        let nodes: Vec<Value> =
            page.map(|doc| json!({ "fileName": doc.name, "sha256": doc.sha256, "status": doc.status })).collect();
        let end = from + nodes.len();
        let info = json!({ "hasNextPage": end < server.documents.len(), "endCursor": end.to_string() });
        json!({ "project": { "documents": { "nodes": nodes, "pageInfo": info } } })
    };
    json!({ "data": data }).to_string().into_response()
}

async fn upload(server: &Shared, kind: &str, body: HttpBody) -> Response {
    let mut parts = multer::Multipart::new(body.into_data_stream(), multer::parse_boundary(kind).unwrap());
    let part = parts.next_field().await.unwrap().unwrap();
    assert_eq!(part.name(), Some("operations"));
    let operations: Value = serde_json::from_str(&part.text().await.unwrap()).unwrap();
    assert_eq!(parts.next_field().await.unwrap().unwrap().text().await.unwrap(), r#"{"0":["variables.input.file"]}"#);
    let file = parts.next_field().await.unwrap().unwrap();
    let name = file.file_name().unwrap().to_owned();
    let sha256 = HEXLOWER.encode(digest(&SHA256, &file.bytes().await.unwrap()).as_ref());

    let mut server = server.lock().unwrap();
    server.uploads += 1;
    if let Some((number, stop)) = &server.stop_at
        && server.uploads == *number
    {
        stop.cancel();
    }
    if !server.instead.is_empty() {
        let (status, body) = server.instead.remove(0);
        return (status, body.to_string()).into_response();
    }
    let refused = server.refuse.iter().find(|(refused, _)| *refused == name);
    if let Some((_, code)) = refused {
        let errors = json!([{ "code": code, "message": "not this one" }]);
        return json!({ "data": { "documentUpload": { "document": null, "userErrors": errors } } })
            .to_string()
            .into_response();
    }
    let key = operations["variables"]["input"]["idempotencyKey"].as_str().unwrap().to_owned();
    let doc = match server.documents.iter().find(|doc| doc.key == key) {
        Some(doc) => doc.clone(),
        None => Doc { name, sha256, key, status: "PROCESSING" },
    };
    if !server.documents.contains(&doc) {
        server.documents.push(doc.clone());
    }
    let document = json!({ "sha256": doc.sha256, "status": doc.status });
    json!({ "data": { "documentUpload": { "document": document, "userErrors": [] } } }).to_string().into_response()
}

struct World {
    server: Shared,
    url: String,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

impl World {
    async fn new(files: &[(&str, &str)]) -> Self {
        let server = Shared::default();
        server.lock().unwrap().projects.push(("DOCS".to_owned(), "ACTIVE"));
        let router = Router::new().route("/graphql", post(graphql)).with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let world = Self { server, url, folder: tempfile::tempdir().unwrap(), stop: CancellationToken::new() };
        files.iter().for_each(|(name, text)| world.write(name, text));
        world
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn what(&self) -> Import {
        Import {
            folder: self.folder.path().to_owned(),
            project: "DOCS".to_owned(),
            create_project: None,
            jobs: 3,
            hidden: false,
        }
    }

    async fn run_as(&self, token: &str, what: &Import) -> Result<Summary, ImportError> {
        let client = Client::new(&self.url, Some(token), PATIENCE).unwrap();
        import(&client, what, Progress::silent, &self.stop).await
    }

    async fn run(&self) -> Summary {
        self.run_as("good", &self.what()).await.unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.server.lock().unwrap().documents.iter().map(|doc| doc.name.clone()).collect();
        names.sort();
        names
    }
}

fn overloaded() -> (StatusCode, Value) {
    let errors = json!([{ "message": "busy", "extensions": { "code": "OVERLOADED", "retryAfter": 0.001 } }]);
    (StatusCode::OK, json!({ "data": { "documentUpload": null }, "errors": errors }))
}

#[tokio::test]
async fn a_folder_becomes_documents_named_by_their_paths() {
    let world = World::new(&[("a.txt", "one"), ("b/c d.txt", "two"), ("b/ü.txt", ""), (".git/config", "x")]).await;
    let summary = world.run().await;
    assert_eq!(world.names(), ["a.txt", "b/c d.txt", "b/ü.txt"]);
    assert_eq!((summary.imported, summary.bytes, summary.already_there, summary.exit_code()), (3, 6, 0, 0));
    let documents = world.server.lock().unwrap().documents.clone();
    let one = documents.iter().find(|doc| doc.name == "a.txt").unwrap();
    assert_eq!(one.sha256, HEXLOWER.encode(digest(&SHA256, b"one").as_ref()));
    assert_eq!(one.key, Fingerprint::of("DOCS", "a.txt", &one.sha256).to_string());
}

#[tokio::test]
async fn repeating_sends_only_what_is_new_or_changed() {
    let world = World::new(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]).await;
    world.run().await;
    world.write("b", "changed");
    world.write("f", "new");
    let summary = world.run().await;
    assert_eq!((summary.imported, summary.already_there), (2, 4));
    assert_eq!(world.server.lock().unwrap().uploads, 7);
    assert_eq!(world.run().await.already_there, 6);
    assert_eq!(world.server.lock().unwrap().uploads, 7);
}

#[tokio::test]
async fn what_is_in_the_trash_is_told_and_not_added_again() {
    let world = World::new(&[("a", "1")]).await;
    world.run().await;
    world.server.lock().unwrap().documents[0].status = "TRASHED";
    let summary = world.run().await;
    assert_eq!((summary.in_trash, summary.imported, summary.exit_code()), (1, 0, 0));
    assert!(summary.to_string().contains("1 in the trash"), "{summary}");
}

#[tokio::test]
async fn a_busy_server_is_waited_for() {
    let world = World::new(&[("a", "1"), ("b", "2")]).await;
    world.server.lock().unwrap().instead =
        vec![overloaded(), (StatusCode::SERVICE_UNAVAILABLE, json!("")), (StatusCode::TOO_MANY_REQUESTS, json!(""))];
    let summary = world.run().await;
    assert_eq!((summary.imported, summary.failed.len()), (2, 0), "{summary}");
    assert_eq!(world.server.lock().unwrap().uploads, 5);
}

#[tokio::test]
async fn a_server_that_stays_busy_ends_the_import() {
    let files: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|name| (name.as_str(), "x")).collect();
    let world = World::new(&files).await;
    world.server.lock().unwrap().instead = vec![overloaded(); 200];
    let summary = world.run().await;
    assert_eq!((summary.imported, summary.not_sent, summary.exit_code()), (0, 30, 1));
    assert!(summary.to_string().contains("ended early: the server is busy (OVERLOADED)"), "{summary}");
    assert!(world.server.lock().unwrap().uploads < 30, "not every file is tried against a busy server");
}

#[tokio::test]
async fn a_refused_file_fails_alone() {
    let world = World::new(&[("a", "1"), ("bad.exe", "2"), ("c", "3")]).await;
    world.server.lock().unwrap().refuse = vec![("bad.exe", "UNSUPPORTED_TYPE")];
    let summary = world.run().await;
    assert_eq!(world.names(), ["a", "c"]);
    assert_eq!(summary.failed, [("bad.exe".to_owned(), "not this one (UNSUPPORTED_TYPE)".to_owned())]);
    assert_eq!(summary.exit_code(), 1);
    assert!(summary.to_string().contains("\n  bad.exe: not this one"), "{summary}");
}

#[tokio::test]
async fn a_missing_permission_ends_the_import() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let world = World::new(&names.map(|name| (name, "x"))).await;
    world.server.lock().unwrap().refuse = names.map(|name| (name, "FORBIDDEN")).to_vec();
    let summary = world.run().await;
    assert!(world.server.lock().unwrap().uploads <= 6, "{summary}");
    assert_eq!(summary.not_sent + summary.failed.len(), 12);
    assert_eq!(summary.ended_by.as_deref(), Some("not this one (FORBIDDEN)"));
}

#[tokio::test]
async fn a_bad_token_is_said_before_anything_is_sent() {
    let world = World::new(&[("a", "1")]).await;
    let error = world.run_as("bad", &world.what()).await.unwrap_err().to_string();
    assert!(error.contains("does not accept the token") && error.contains("ORIEL_TOKEN"), "{error}");
    assert_eq!(world.server.lock().unwrap().uploads, 0);
}

#[tokio::test]
async fn a_missing_project_is_created_when_asked_for() {
    let world = World::new(&[("a", "1")]).await;
    let missing = Import { project: "NEW".to_owned(), ..world.what() };
    let error = world.run_as("good", &missing).await.unwrap_err().to_string();
    assert!(error.contains("NEW") && error.contains("--create-project"), "{error}");
    let create = Import { create_project: Some("New things".to_owned()), ..missing };
    assert_eq!(world.run_as("good", &create).await.unwrap().imported, 1);
    assert_eq!(world.server.lock().unwrap().projects.len(), 2);

    let wrong = Import { project: "X".to_owned(), ..create };
    let error = world.run_as("good", &wrong).await.unwrap_err().to_string();
    assert!(error.contains("too short (INVALID)"), "{error}");
}

#[tokio::test]
async fn an_archived_project_is_said_at_once() {
    let world = World::new(&[("a", "1")]).await;
    world.server.lock().unwrap().projects[0].1 = "ARCHIVED";
    assert!(matches!(world.run_as("good", &world.what()).await, Err(ImportError::Archived(_))));
}

#[tokio::test]
async fn ctrl_c_lets_the_files_being_sent_finish() {
    let names: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let world = World::new(&files).await;
    world.server.lock().unwrap().stop_at = Some((5, world.stop.clone()));
    let summary = world.run().await;
    assert!(summary.interrupted && summary.exit_code() == 130, "{summary}");
    assert!(summary.imported >= 5 && summary.imported <= 8, "{summary}");
    assert_eq!((summary.imported + summary.not_sent, summary.failed.len()), (40, 0), "{summary}");
    assert_eq!(world.names().len(), summary.imported, "what the server has is what is told");
}

#[tokio::test]
async fn other_content_under_the_name_is_noticed() {
    let world = World::new(&[("a", "1")]).await;
    let document = json!({ "sha256": "00", "status": "READY" });
    let other = json!({ "data": { "documentUpload": { "document": document, "userErrors": [] } } });
    world.server.lock().unwrap().instead = vec![(StatusCode::OK, other)];
    let summary = world.run().await;
    assert!(summary.failed[0].1.contains("changed while it was read"), "{summary}");
}
