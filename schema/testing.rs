//! What the tests of the schema stand on: the endpoint over a real engine on SQLite, a folder of blobs and an index in
//! a temporary folder, with a clock that moves when it is told to. Requests go in as a transport would send them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_graphql::parser::parse_query;
use async_graphql::parser::types::ExecutableDocument;
use async_graphql::{Request, ServerError, Variables};
use async_trait::async_trait;
use oriel_backends::blobs::{Blobs, UrlKeys};
use oriel_backends::identity::IdentityProviders;
use oriel_backends::search::{Search, Tantivy};
use oriel_domain::retention::Rules;
use oriel_domain::users::webauthn::RelyingParty;
use oriel_engine::db::Location;
use oriel_engine::keyring::{MasterKey, MasterKeys, MasterKeysError};
use oriel_engine::queue::QueueLimits;
use oriel_engine::rebuild::{Progress, ReadModelState, Verified};
use oriel_engine::{Database, Engine, Parts, Sources};
use oriel_kernel::{ErrorCode, Position, Rejection, Timestamp};
use oriel_read_models::{
    access_log, api_keys, consents, data_exports, documents, erasures, identities, identity_providers, installation,
    members, organizations, persisted_operations, policies, projects, retention, roles, security_events, sessions,
    users,
};
use sea_orm::{ConnectionTrait, EntityTrait, Schema};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::endpoint::{Caller, Document, Endpoint, Operation};
use crate::passwords::Passwords;
use crate::services::{
    BackendState, ConsumerState, DocumentReader, IndexFailure, Operations, Policy, QueueState, Services,
};
use crate::sessions::attempts::Attempts;
use crate::system::read_models::Rebuilds;
use crate::tokens::Tokens;
use crate::uploads::Uploads;

pub mod direct;

// The engine's tables, from the text of their migration: this room may not use that one either.
#[path = "../src/engine/suite/tables.rs"]
mod tables;

/// A password that is good enough for everybody.
pub const PASSWORD: &str = "violet-otter-93-lamp";

/// A clock that moves when it is told to, and ids that count.
pub struct Clock {
    micros: AtomicI64,
    ids: AtomicU64,
}

impl Clock {
    pub fn advance(&self, by: Duration) {
        self.micros.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Sources for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::from_timestamp_micros(self.micros.load(Ordering::SeqCst)).unwrap()
    }
    fn id(&self) -> Uuid {
        Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + u128::from(self.ids.fetch_add(1, Ordering::SeqCst)))
    }
}

/// The operation of a request, read as a transport does.
pub fn operation(request: Request) -> Result<Operation, Vec<ServerError>> {
    let document = Document::parse(&request.query).map_err(|error| vec![error])?;
    Operation::new(Arc::new(document), request).map_err(|error| vec![ServerError::new(error.to_string(), None)])
}

/// Nothing runs beside the schema: the index has come as far as it is said to have.
#[derive(Clone, Default)]
pub struct Idle(Arc<AtomicI64>);

impl Idle {
    pub fn index_reaches(&self, position: Position) {
        self.0.store(position.number(), Ordering::SeqCst);
    }
}

#[async_trait]
impl Operations for Idle {
    fn consumers(&self) -> Vec<ConsumerState> {
        Vec::new()
    }
    fn queues(&self) -> Vec<QueueState> {
        Vec::new()
    }
    fn backends(&self) -> Vec<BackendState> {
        Vec::new()
    }
    fn index_position(&self) -> Position {
        Position::new(self.0.load(Ordering::SeqCst))
    }
    fn index_states(&self) -> Vec<ReadModelState> {
        Vec::new()
    }
    async fn rebuild_index(&self, _: Progress<'_>) -> Result<Position, IndexFailure> {
        Err("nothing follows the log".into())
    }
    async fn verify_index(&self) -> Result<Verified, IndexFailure> {
        Err("nothing follows the log".into())
    }
}

/// Documents of at most this many bytes.
struct Short;

impl DocumentReader for Short {
    fn read(&self, text: &str) -> Result<ExecutableDocument, Rejection> {
        if text.len() > 1_000 {
            return Err(Rejection::new(ErrorCode::LimitExceeded, "At most 1000 bytes."));
        }
        parse_query(text).map_err(|error| Rejection::new(ErrorCode::Invalid, format!("{error}.")))
    }
}

/// A temporary folder, which goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clear.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An installation, empty at first.
pub struct Bed {
    pub endpoint: Endpoint,
    pub clock: Arc<Clock>,
    pub idle: Idle,
    _folder: Folder,
}

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub struct Person {
    pub access: String,
    pub refresh: String,
    pub user: String,
    pub member: String,
    pub organization: String,
}

/// What [`Person`] is read from: to be asked of a `SessionPayload`.
pub const SIGNED_IN: &str = "accessToken refreshToken expiresAt position userErrors { code path message }
    viewer { user { id name email } member { id roles { name } } organization { id name } session { id current } }";

/// Master keys of which another one is made when somebody rotates.
struct InMemory(Mutex<Vec<MasterKey>>);

#[async_trait]
impl MasterKeys for InMemory {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        let mut keys = self.0.lock().unwrap();
        let made = MasterKey::new([7 + u8::try_from(keys.len()).unwrap(); 32]);
        keys.insert(0, made.clone());
        Ok(Some(made))
    }

    async fn keep_only(&self, _: &MasterKey) -> Result<(), MasterKeysError> {
        // All stay, so that none is made twice.
        Ok(())
    }
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With other settings.
    pub async fn with(change: impl FnOnce(&mut Policy)) -> Self {
        let folder = std::env::temp_dir().join(format!("oriel-schema-{}", Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let database = Database::open(&Location::Sqlite(folder.join("oriel.db")), 4).await.unwrap();
        tables::create(database.writer()).await.unwrap();
        table(&database, users::Entity).await;
        table(&database, users::passkeys::Entity).await;
        table(&database, users::preferences::Entity).await;
        table(&database, organizations::Entity).await;
        table(&database, organizations::standings::Entity).await;
        table(&database, erasures::Entity).await;
        table(&database, data_exports::Entity).await;
        table(&database, policies::Entity).await;
        table(&database, access_log::Entity).await;
        table(&database, access_log::heads::Entity).await;
        table(&database, consents::Entity).await;
        table(&database, installation::Entity).await;
        table(&database, installation::features::Entity).await;
        table(&database, installation::changes::Entity).await;
        table(&database, retention::Entity).await;
        table(&database, retention::sweeps::Entity).await;
        table(&database, members::Entity).await;
        table(&database, sessions::Entity).await;
        table(&database, projects::Entity).await;
        table(&database, projects::members::Entity).await;
        table(&database, documents::Entity).await;
        table(&database, documents::revisions::Entity).await;
        table(&database, persisted_operations::Entity).await;
        table(&database, roles::Entity).await;
        table(&database, api_keys::Entity).await;
        table(&database, api_keys::uses::Entity).await;
        table(&database, identity_providers::Entity).await;
        table(&database, identities::Entity).await;
        table(&database, security_events::Entity).await;
        let clock = Arc::new(Clock { micros: AtomicI64::new(1_800_000_000_000_000), ids: AtomicU64::new(1) });
        let parts = Parts {
            database,
            master: Arc::new(InMemory(Mutex::new(vec![MasterKey::new([7; 32])]))),
            decoders: oriel_domain::DECODERS,
            read_models: oriel_read_models::read_models(),
            sources: Arc::clone(&clock) as Arc<dyn Sources>,
            limits: QueueLimits::default(),
            cached_aggregates: 1_000,
            remembered_changes: 10_000,
        };
        let mut policy = Policy {
            open_registration: true,
            access_token_ttl: Duration::from_secs(15 * 60),
            refresh_token_ttl: Duration::from_secs(30 * 24 * 3600),
            retention: Rules::default(),
            organization_grace: Duration::from_secs(30 * 24 * 3600),
            password_memory_kib: 8,
            url_ttl: Duration::from_secs(300),
            max_file_size: 1 << 20,
            scanner: false,
            live_pace: Duration::from_millis(1),
            live_queries_per_viewer: 100,
            cache_bytes: 1 << 20,
            max_page: 100,
            at_least_wait: Duration::from_secs(5),
            base_url: "http://oriel.test".to_owned(),
            relying_party: Some(RelyingParty::new("oriel.test", vec!["https://oriel.test".to_owned()])),
        };
        change(&mut policy);
        let idle = Idle::default();
        let engine = Engine::start(parts).await.unwrap();
        let services = Services {
            redis: None,
            identity: IdentityProviders::new(Arc::new(|ip| ip.is_loopback())).unwrap(),
            blobs: Blobs::open_folder(&folder.join("blobs"), UrlKeys::new("1", &[9; 32])).await.unwrap(),
            search: Search::Tantivy(Tantivy::open(folder.join("index")).await.unwrap()),
            tokens: Tokens::open(&engine).await.unwrap(),
            engine,
            passwords: Passwords::new(policy.password_memory_kib),
            attempts: Attempts::default(),
            operations: Arc::new(idle.clone()),
            rebuilds: Rebuilds::default(),
            documents: Arc::new(Short),
            policy,
        };
        Self { endpoint: Endpoint::new(Arc::new(services)), clock, idle, _folder: Folder(folder) }
    }

    /// The caller that a transport makes of this bearer token; `None` when it is refused.
    pub fn caller(&self, token: Option<&str>) -> Option<Caller> {
        let (credential, token_ends) = match token {
            Some(token) => self.endpoint.authenticate(token).map(|(credential, ends)| (Some(credential), ends)).ok()?,
            None => (None, None),
        };
        Some(Caller {
            request: Uuid::new_v4(),
            credential,
            token_ends,
            ip: Some("192.0.2.7".to_owned()),
            user_agent: Some("tests".to_owned()),
            at_least: None,
            schema_is_hidden: false,
            uploads: Uploads::default(),
        })
    }

    /// The whole answer to a request.
    pub async fn ask(&self, token: Option<&str>, query: &str, variables: Value) -> Value {
        let Some(caller) = self.caller(token) else {
            return json!({ "data": null, "errors": [{ "message": "refused", "extensions": { "code": "UNAUTHENTICATED" } }] });
        };
        let request = Request::new(query).variables(Variables::from_json(variables));
        match operation(request) {
            Ok(operation) => serde_json::to_value(self.endpoint.execute(operation, caller).await).unwrap(),
            Err(errors) => json!({ "errors": errors }),
        }
    }

    /// The whole answer to a request of somebody unknown at this address.
    pub async fn ask_from(&self, ip: &str, query: &str, variables: Value) -> Value {
        let caller = Caller { ip: Some(ip.to_owned()), ..self.caller(None).unwrap() };
        let operation = operation(Request::new(query).variables(Variables::from_json(variables))).unwrap();
        serde_json::to_value(self.endpoint.execute(operation, caller).await).unwrap()
    }

    /// What the mutation `field(input: …)` answers, which asks for `selection`. Errors that nobody can mend panic.
    pub async fn mutate(&self, token: Option<&str>, field: &str, input: Value, selection: &str) -> Value {
        let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
        let query = format!("mutation($input: {type_name}!) {{ {field}(input: $input) {{ {selection} }} }}");
        let mut answer = self.ask(token, &query, json!({ "input": input })).await;
        assert_eq!(answer.get("errors"), None, "{field}: {answer}");
        answer["data"][field].take()
    }

    /// The codes and paths of what has to be mended, such as `TAKEN input.email`.
    pub fn problems(payload: &Value) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let errors = payload["userErrors"].as_array().unwrap().iter();
        errors
            .map(|error| {
                let path = error["path"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(".");
                format!("{} {path}", text(&error["code"])).trim_end().to_owned()
            })
            .collect()
    }

    /// The code of the one error.
    pub fn code(answer: &Value) -> &str {
        answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
    }

    /// Founds an organisation; its owner.
    pub async fn register(&self, organization: &str, email: &str) -> Person {
        let input =
            json!({ "organizationName": organization, "email": email, "name": "Somebody", "password": PASSWORD });
        Person::of(&self.mutate(None, "register", input, SIGNED_IN).await)
    }

    /// Makes a key of this person with these scopes; its id and its secret.
    pub async fn key(&self, of: &Person, scopes: &[&str]) -> (String, String) {
        let input = json!({ "name": "A program", "scopes": scopes });
        let fields = "apiKey { id } secret userErrors { code message path }";
        let made = self.mutate(Some(&of.access), "apiKeyCreate", input, fields).await;
        assert_eq!(made["userErrors"], json!([]), "{made}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&made["apiKey"]["id"]), text(&made["secret"]))
    }

    /// Invites somebody with these roles, who accepts.
    pub async fn join(&self, host: &Person, email: &str, roles: &[&str]) -> Person {
        let input = json!({ "email": email, "roles": roles });
        let invited = self
            .mutate(Some(&host.access), "memberInvite", input, "invitationToken userErrors { code path message }")
            .await;
        let input = json!({ "token": invited["invitationToken"], "name": "Somebody", "password": PASSWORD });
        Person::of(&self.mutate(None, "memberAccept", input, SIGNED_IN).await)
    }
}

impl Person {
    /// From a `SessionPayload` that was asked for [`SIGNED_IN`].
    pub fn of(payload: &Value) -> Self {
        assert_eq!(payload["userErrors"], json!([]), "{payload}");
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("not a text: {payload}")).to_owned();
        let viewer = &payload["viewer"];
        Self {
            access: text(&payload["accessToken"]),
            refresh: text(&payload["refreshToken"]),
            user: text(&viewer["user"]["id"]),
            member: text(&viewer["member"]["id"]),
            organization: text(&viewer["organization"]["id"]),
        }
    }
}

async fn table(database: &Database, entity: impl EntityTrait) {
    let table = Schema::new(database.backend()).create_table_from_entity(entity);
    database.writer().execute(&table).await.unwrap();
}
