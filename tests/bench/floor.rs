//! The floor: what nobody can do without.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::routing::post;
use oriel_engine::Database;
use oriel_engine::Sources as _;
use oriel_engine::db::Location;
use oriel_kernel::{Id, RawId};
use oriel_migrations::{Migrator, MigratorTrait};
use oriel_schema::tokens::Tokens;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TransactionTrait, Value};
use serde_json::json;
use uuid::Uuid;

use crate::oriel::Running;

/// Raw transactions with the rows of a renamed project.
pub struct Writes {
    database: Database,
}

impl Writes {
    pub async fn open(folder: &Path) -> Self {
        let database = Database::open(&Location::Sqlite(folder.join("floor.sqlite")), 2).await.unwrap();
        Migrator::up(database.writer(), None).await.unwrap();
        Self { database }
    }

    /// One transaction with so many events, commands and changed projects, in one statement each.
    pub async fn transaction(&self, rows: usize) {
        let writer = self.database.writer();
        let backend = self.database.backend();
        let transaction = writer.begin().await.unwrap();
        let head = transaction
            .query_one_raw(Statement::from_string(backend, "SELECT COALESCE(MAX(position), 0) AS n FROM events"))
            .await
            .unwrap()
            .unwrap();
        let head: i64 = head.try_get("", "n").unwrap();
        let now = "2026-01-01T00:00:00.000001+00:00";
        let (mut events, mut commands, mut projects) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..rows {
            let (id, position) = (Uuid::now_v7().simple().to_string(), head + 1 + n as i64);
            let project = format!("{:032x}", n + 1);
            events.push(json!([position, id, project, "{\"name\":\"Name 12345\"}", "ab".repeat(32)]));
            commands.push(json!([id, position, project]));
            projects.push(json!([project, format!("Name {position}"), format!("P{n}")]));
        }
        let organization = "00000000000000000000000000000001";
        for (sql, json) in [
            (
                format!(
                    "INSERT INTO events (position, id, organization_id, sequence, stream, subject_id, version, type, type_version, actor_kind, actor_id, at, correlation_id, data, hash) \
                 SELECT value ->> 0, unhex(value ->> 1), unhex('{organization}'), value ->> 0, 'project', unhex(value ->> 2), value ->> 0, 'project_updated', 1, 1, unhex(value ->> 2), '{now}', unhex(value ->> 1), value ->> 3, unhex(value ->> 4) FROM json_each($1)"
                ),
                json!(events),
            ),
            (
                format!(
                    "INSERT INTO commands (id, input_hash, position, subject_id, at) SELECT unhex(value ->> 0), unhex('00'), value ->> 1, unhex(value ->> 2), '{now}' FROM json_each($1)"
                ),
                json!(commands),
            ),
            (
                format!(
                    "INSERT INTO projects (id, organization_id, name, key, status, owner_id, member_count, document_count, storage_used, created_at, updated_at, version, counted_position) \
                 SELECT unhex(value ->> 0), unhex('{organization}'), value ->> 1, value ->> 2, 'ACTIVE', unhex('{organization}'), 1, 0, 0, '{now}', '{now}', 1, 0 FROM json_each($1) WHERE true \
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = version + 1"
                ),
                json!(projects),
            ),
        ] {
            transaction
                .execute_raw(Statement::from_sql_and_values(backend, sql, [Value::from(json.to_string())]))
                .await
                .unwrap();
        }
        let sql = "INSERT INTO changes (position, first_position, touched) VALUES ($1, $2, '[]')";
        let values = [Value::from(head + rows as i64), Value::from(head + 1)];
        transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

/// A handler by hand: the token check, the SQL, the bytes.
pub struct Reads {
    pub address: String,
}

struct Handler {
    tokens: Tokens,
    token: String,
    database: DatabaseConnection,
    statements: Vec<Statement>,
    answer: String,
}

impl Reads {
    pub async fn start(server: &Running, _: &str, name: &str, project: &str, answer: serde_json::Value) -> Self {
        let database = Database::open(&Location::Sqlite(server.database()), 4).await.unwrap();
        let backend = database.backend();
        let project = RawId::parse(project).unwrap().uuid;
        let now = oriel_engine::SystemSources.now();
        let tokens = Tokens::new(&[7; 32]).unwrap();
        let id = || Uuid::now_v7();
        let ttl = Duration::from_secs(3600);
        let signed =
            tokens.sign(Id::from_uuid(id()), Id::from_uuid(id()), Id::from_uuid(id()), Id::from_uuid(id()), now, ttl);
        let one = "SELECT id, key, name, description, status, document_count, created_at, version FROM projects WHERE id = $1";
        let page = "SELECT id, title, file_name, media_type, size, status, created_at, version, project_id FROM documents WHERE organization_id = (SELECT organization_id FROM projects WHERE id = $1) ORDER BY id LIMIT 51";
        let by_project = |sql: &str| Statement::from_sql_and_values(backend, sql, [Value::from(project)]);
        let statements = match name {
            "object by id" => vec![by_project(one)],
            _ => vec![by_project(page), by_project(one)],
        };
        let handler = Handler {
            tokens,
            token: signed.unwrap().0,
            database: database.reader().clone(),
            statements,
            answer: answer.to_string(),
        };
        let router = axum::Router::new().route("/graphql", post(handle)).with_state(Arc::new(handler));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address }
    }
}

async fn handle(
    State(handler): State<Arc<Handler>>,
    headers: HeaderMap,
    body: String,
) -> ([(header::HeaderName, &'static str); 1], String) {
    assert!(headers.contains_key(header::AUTHORIZATION) && body.starts_with('{'));
    let request: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(request["query"].is_string());
    // Another key than the server's, because that is secret; the work is the same.
    assert!(handler.tokens.verify(&handler.token, oriel_engine::SystemSources.now()).is_some());
    let mut bytes = 0;
    for statement in &handler.statements {
        for row in handler.database.query_all_raw(statement.clone()).await.unwrap() {
            let id: Uuid = row.try_get("", "id").unwrap();
            let version: i32 = row.try_get("", "version").unwrap();
            let created: oriel_kernel::Timestamp = row.try_get("", "created_at").unwrap();
            let text: String = row.try_get("", "status").unwrap();
            bytes += id.as_bytes().len() + text.len() + version.to_string().len() + created.to_rfc3339().len();
        }
    }
    assert!(bytes > 0);
    ([(header::CONTENT_TYPE, "application/json")], handler.answer.clone())
}
