//! The transport from outside: requests to the router, and sockets to a listener, over a real endpoint on SQLite.
#![allow(clippy::unwrap_used)]

mod blobs;
mod browser;
mod files;
mod freshness;
mod fuzz;
mod graphql;
mod health;
mod introspection;
mod keys;
mod limits;
mod persisted;
mod sockets;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use oriel_engine::rebuild::{Progress, ReadModelState, Verified};
use oriel_kernel::Position;
use oriel_schema::endpoint::Endpoint;
use oriel_schema::passwords::Passwords;
use oriel_schema::services::{BackendState, ConsumerState, IndexFailure, Operations, Policy, QueueState, Services};
use oriel_schema::system::read_models::Rebuilds;
use oriel_schema::tokens::Tokens;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Clocks, HttpState, documents, router};
use crate::installation::Installation;
use crate::settings::{Settings, Sources, load};

const PASSWORD: &str = "violet-otter-93-lamp";

/// Nothing runs beside the transport, but for one backend.
struct Beside {
    healthy: bool,
}

#[async_trait]
impl Operations for Beside {
    fn consumers(&self) -> Vec<ConsumerState> {
        Vec::new()
    }
    fn queues(&self) -> Vec<QueueState> {
        Vec::new()
    }
    fn backends(&self) -> Vec<BackendState> {
        let backend = BackendState {
            name: "search".into(),
            kind: "test".into(),
            healthy: self.healthy,
            last_error: None,
            health: None,
        };
        vec![backend]
    }
    fn index_position(&self) -> Position {
        Position::START
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

/// What can be set apart from the settings.
#[derive(Clone, Copy)]
struct Beds {
    clocks: Clocks,
    at_least_wait: Duration,
    /// How long access tokens are good for.
    tokens: Duration,
    healthy: bool,
}

impl Default for Beds {
    fn default() -> Self {
        Self {
            clocks: Clocks::USUAL,
            at_least_wait: Duration::from_millis(1),
            tokens: Duration::from_secs(900),
            healthy: true,
        }
    }
}

/// A server without a listener.
struct Bed {
    router: Router,
    state: HttpState,
    stop: CancellationToken,
    installation: Installation,
    folder: Arc<TempDir>,
}

/// What was answered.
#[derive(Debug)]
struct Heard {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status and the code of the first error.
    fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned())
    }
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let environment = pairs.iter().map(|(key, value)| (format!("ORIEL_{}", key.to_uppercase()).into(), value.into()));
    load(&Sources { environment: environment.collect(), ..Sources::default() }).unwrap().settings
}

impl Bed {
    async fn new() -> Self {
        Self::with(settings(&[]), Beds::default()).await
    }

    async fn set(pairs: &[(&str, &str)]) -> Self {
        Self::with(settings(pairs), Beds::default()).await
    }

    async fn with(settings: Settings, beds: Beds) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), settings, beds).await
    }

    /// On a folder that may have been used before.
    async fn on(folder: Arc<TempDir>, mut settings: Settings, beds: Beds) -> Self {
        settings.data = folder.path().join("data");
        let installation = Installation::open(&settings).await.unwrap();
        let engine = Arc::clone(&installation.engine);
        let seed = engine.keyring().secret("signing", engine.now()).await.unwrap();
        let services = Services {
            redis: None,
            tokens: Tokens::new(&seed).unwrap(),
            passwords: Passwords::new(8),
            attempts: oriel_schema::sessions::attempts::Attempts::default(),
            operations: Arc::new(Beside { healthy: beds.healthy }),
            rebuilds: Rebuilds::default(),
            blobs: installation.blobs.clone(),
            search: installation.search.clone(),
            identity: installation.identity.clone(),
            documents: documents(&settings),
            policy: Policy {
                open_registration: true,
                access_token_ttl: beds.tokens,
                refresh_token_ttl: settings.refresh_token_ttl,
                retention: settings.retention(),
                organization_grace: settings.organization_grace,
                password_memory_kib: 8,
                url_ttl: settings.download_url_ttl,
                max_file_size: settings.upload_max_size,
                scanner: false,
                live_pace: Duration::ZERO,
                live_queries_per_viewer: 1_000,
                cache_bytes: 1 << 20,
                max_page: settings.max_page,
                at_least_wait: beds.at_least_wait,
                base_url: settings.public_url(),
                relying_party: settings.relying_party(),
            },
            engine,
        };
        let stop = CancellationToken::new();
        let endpoint = Endpoint::new(Arc::new(services));
        let state = HttpState::with_clocks(endpoint, &settings, None, stop.clone(), beds.clocks).unwrap();
        Self { router: router(state.clone()), state, stop, installation, folder }
    }

    async fn send(&self, request: Request<Body>) -> Heard {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Heard { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Heard {
        self.send(with(Request::get(path), headers, Body::empty())).await
    }

    async fn post(&self, headers: &[(&str, &str)], body: impl Into<Body>) -> Heard {
        let json = [("content-type", "application/json")];
        let headers = if headers.iter().any(|(name, _)| *name == "content-type") {
            headers.to_vec()
        } else {
            [&json, headers].concat()
        };
        self.send(with(Request::post("/graphql"), &headers, body.into())).await
    }

    async fn ask(&self, token: Option<&str>, query: &str, variables: Value) -> Heard {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        self.post(&headers, json!({ "query": query, "variables": variables }).to_string()).await
    }

    /// Founds an organisation; its owner's token.
    async fn register(&self, organization: &str) -> String {
        let input = json!({ "organizationName": organization, "email": format!("{organization}@example.com"), "name": "Somebody", "password": PASSWORD });
        let query =
            "mutation($input: RegisterInput!) { register(input: $input) { accessToken userErrors { message } } }";
        let heard = self.ask(None, query, json!({ "input": input })).await.json();
        heard["data"]["register"]["accessToken"].as_str().unwrap_or_else(|| panic!("{heard}")).to_owned()
    }

    /// Invites somebody with these roles, who accepts; their token.
    async fn join(&self, host: &str, name: &str, roles: &[&str]) -> String {
        let input = json!({ "email": format!("{name}@example.com"), "roles": roles });
        let query = "mutation($input: MemberInviteInput!) { memberInvite(input: $input) { invitationToken userErrors { message } } }";
        let heard = self.ask(Some(host), query, json!({ "input": input })).await.json();
        let input =
            json!({ "token": heard["data"]["memberInvite"]["invitationToken"], "name": name, "password": PASSWORD });
        let query = "mutation($input: MemberAcceptInput!) { memberAccept(input: $input) { accessToken userErrors { message } } }";
        let heard = self.ask(None, query, json!({ "input": input })).await.json();
        heard["data"]["memberAccept"]["accessToken"].as_str().unwrap_or_else(|| panic!("{heard}")).to_owned()
    }

    /// A project; its id.
    async fn project(&self, token: &str, key: &str) -> String {
        let query = "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id } userErrors { message } } }";
        let heard = self.ask(Some(token), query, json!({ "input": { "name": key, "key": key } })).await.json();
        heard["data"]["projectCreate"]["project"]["id"].as_str().unwrap_or_else(|| panic!("{heard}")).to_owned()
    }

    /// Ends the server, so that its folder can be opened again.
    async fn close(self) -> Arc<TempDir> {
        self.installation.engine.stop().await;
        self.installation.engine.database().clone().close().await;
        self.folder
    }
}

fn with(builder: Builder, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(body).unwrap()
}
