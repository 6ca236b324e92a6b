//! A server by hand: the token check, the SQL, the bytes. It knows three questions, each under a path of its own.

use std::fs::read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Response};
use axum::routing::post;
use clap::Args;
use oriel_domain::documents::DocumentId;
use oriel_domain::projects::ProjectId;
use oriel_engine::db::Location;
use oriel_engine::{Database, Sources as _, SystemSources};
use oriel_kernel::{Id, Timestamp};
use oriel_schema::tokens::Tokens;
use sea_orm::{ConnectionTrait, DatabaseConnection, QueryResult, Statement, Value};
use serde::Serialize;
use uuid::Uuid;

use crate::oriel::{Running, first_address};

/// Not the server's key, which is secret; the work is the same.
const KEY: [u8; 32] = [7; 32];

#[derive(Args)]
pub struct Options {
    /// Oriel's database.
    #[arg(long)]
    database: PathBuf,
    /// Whose documents.
    #[arg(long)]
    organization: Uuid,
    /// Two answers that are kept.
    #[arg(long, num_args = 2)]
    kept: Vec<PathBuf>,
    /// What an answer says beside its data.
    #[arg(long)]
    extensions: String,
}

/// The server as a process. Dropped: killed.
pub struct Floor {
    process: Child,
    pub address: String,
    pub token: String,
}

impl Floor {
    /// Beside this server, on the same database, with these answers that it has given.
    pub fn beside(server: &Running, organization: Uuid, kept: [&[u8]; 2], extensions: &str) -> Self {
        let files = [0, 1].map(|n| server.folder().join(format!("kept-{n}.json")));
        files.iter().zip(kept).for_each(|(file, answer)| std::fs::write(file, answer).unwrap());
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["serve-floor", "--organization", &organization.to_string(), "--extensions", extensions])
            .arg("--database")
            .arg(server.database())
            .arg("--kept")
            .args(files)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let address = first_address(&mut process);
        let (id, ttl) = (Uuid::now_v7(), Duration::from_secs(3600));
        let (user, session, organization, member) =
            (Id::from_uuid(id), Id::from_uuid(id), Id::from_uuid(id), Id::from_uuid(id));
        let tokens = Tokens::new(&KEY).unwrap();
        let signed = tokens.sign(user, session, organization, member, SystemSources.now(), ttl);
        Self { process, address, token: signed.unwrap().0 }
    }

    pub fn process(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Handler {
    tokens: Tokens,
    database: DatabaseConnection,
    organization: Uuid,
    kept: Vec<Bytes>,
    extensions: String,
}

/// Serves until it is killed.
pub async fn serve(options: Options) {
    let database = Database::open(&Location::Sqlite(options.database), 16).await.unwrap();
    let handler = Handler {
        tokens: Tokens::new(&KEY).unwrap(),
        database: database.reader().clone(),
        organization: options.organization,
        kept: options.kept.iter().map(|file| read(file).unwrap().into()).collect(),
        extensions: options.extensions,
    };
    let router = Router::new()
        .route("/kept/0", post(kept::<0>))
        .route("/kept/1", post(kept::<1>))
        .route("/object", post(object))
        .route("/page", post(page))
        .with_state(Arc::new(handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    id: String,
    title: String,
    file_name: String,
    media_type: String,
    size: i64,
    status: String,
    created_at: String,
    version: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<Project>,
}

#[derive(Clone, Serialize)]
struct Project {
    name: String,
}

/// The columns of a document, as one who wants objects reads them.
const COLUMNS: &str = "id, organization_id, project_id, title, file_name, media_type, size, storage_used, sha256, status, \
    pipeline, tags, uploaded_by_id, page_count, language, created_at, updated_at, trashed_at, version, revision, blob, \
    text_blob";

async fn kept<const N: usize>(State(handler): State<Arc<Handler>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    handler.asked(&headers, &body);
    json(handler.kept[N].clone())
}

async fn object(State(handler): State<Arc<Handler>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let asked = handler.asked(&headers, &body);
    let id = DocumentId::parse_or_absent(asked["variables"]["id"].as_str().unwrap()).uuid();
    let sql = format!("SELECT {COLUMNS} FROM documents WHERE organization_id = $1 AND id = $2");
    let rows = handler.rows(sql, [handler.organization.into(), id.into()]).await;
    let data = serde_json::json!({ "document": rows.first().map(|row| document(row, None)) });
    handler.answer(&data)
}

async fn page(State(handler): State<Arc<Handler>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    #[derive(Serialize)]
    struct Data {
        documents: Nodes,
    }
    #[derive(Serialize)]
    struct Nodes {
        nodes: Vec<Document>,
    }
    let asked = handler.asked(&headers, &body);
    let cursor = data_encoding::BASE64URL_NOPAD.decode(asked["variables"]["after"].as_str().unwrap().as_bytes());
    let cursor: serde_json::Value = serde_json::from_slice(&cursor.unwrap()).unwrap();
    let after: Uuid = cursor["v"][0].as_str().unwrap().parse().unwrap();
    let sql = format!(
        "SELECT {COLUMNS} FROM documents WHERE organization_id = $1 AND status <> 'trashed' AND id > $2 ORDER BY id LIMIT 51"
    );
    let mut rows = handler.rows(sql, [handler.organization.into(), after.into()]).await;
    rows.truncate(50);
    let mut wanted: Vec<Uuid> = rows.iter().map(|row| row.try_get("", "project_id").unwrap()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let places: Vec<String> = (0..wanted.len()).map(|n| format!("${}", n + 2)).collect();
    let sql = format!("SELECT id, name FROM projects WHERE organization_id = $1 AND id IN ({})", places.join(", "));
    let values = [handler.organization].into_iter().chain(wanted).map(Value::from);
    let projects: Vec<(ProjectId, String)> = handler
        .rows(sql, values)
        .await
        .iter()
        .map(|row| (Id::from_uuid(row.try_get("", "id").unwrap()), row.try_get("", "name").unwrap()))
        .collect();
    let nodes = rows.iter().map(|row| {
        let of: Uuid = row.try_get("", "project_id").unwrap();
        let project = projects.iter().find(|(id, _)| id.uuid() == of).unwrap();
        document(row, Some(Project { name: project.1.clone() }))
    });
    handler.answer(&Data { documents: Nodes { nodes: nodes.collect() } })
}

fn document(row: &QueryResult, project: Option<Project>) -> Document {
    let text = |name| row.try_get::<String>("", name).unwrap();
    let id: DocumentId = Id::from_uuid(row.try_get("", "id").unwrap());
    Document {
        id: id.to_string(),
        title: text("title"),
        file_name: text("file_name"),
        media_type: text("media_type"),
        size: row.try_get("", "size").unwrap(),
        status: text("status").to_uppercase(),
        created_at: row.try_get::<Timestamp>("", "created_at").unwrap().to_rfc3339(),
        version: row.try_get("", "version").unwrap(),
        project,
    }
}

impl Handler {
    /// Checks the token, and reads the request.
    fn asked(&self, headers: &HeaderMap, body: &[u8]) -> serde_json::Value {
        let token = headers[AUTHORIZATION].to_str().unwrap().strip_prefix("Bearer ").unwrap();
        assert!(self.tokens.verify(token, SystemSources.now()).is_some());
        let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert!(asked["query"].is_string());
        asked
    }

    async fn rows(&self, sql: String, values: impl IntoIterator<Item = Value>) -> Vec<QueryResult> {
        let statement = Statement::from_sql_and_values(self.database.get_database_backend(), sql, values);
        self.database.query_all_raw(statement).await.unwrap()
    }

    fn answer(&self, data: &impl Serialize) -> Response<Body> {
        let data = serde_json::to_string(data).unwrap();
        json(format!(r#"{{"data":{data},"extensions":{}}}"#, self.extensions))
    }
}

fn json(body: impl Into<Body>) -> Response<Body> {
    Response::builder()
        .header(CONTENT_TYPE, "application/json; charset=utf-8")
        .header(CACHE_CONTROL, "no-store")
        .body(body.into())
        .unwrap()
}
