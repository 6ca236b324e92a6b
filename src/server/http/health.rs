//! What operators ask: whether this process lives, whether it can work, its numbers, its schema.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sea_orm::ConnectionTrait;
use serde::Serialize;
use tokio::sync::Mutex;

use super::HttpState;
use super::access::Exchange;
use super::answer::{Format, Refusal, json};
use super::caller::bearer;
use super::proxies::is_forwarded;

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer holds: many who ask cost one question a second.
const HOLDS: Duration = Duration::from_secs(1);

/// The last answer of the database.
#[derive(Default)]
pub struct Readiness(Mutex<Option<(Instant, bool)>>);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    position: String,
    components: Vec<Component>,
}

#[derive(Serialize)]
struct Component {
    name: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

/// This process lives.
pub async fn live() -> Response {
    json(StatusCode::OK, Format::Json, &serde_json::json!({ "status": "live" }))
}

/// This process can work: the database answers, and it is not stopping. A backend that the product can do without
/// makes it degraded.
pub async fn ready(State(state): State<HttpState>) -> Response {
    let word = |up: bool| if up { "up" } else { "down" };
    let database = state.database_answers().await;
    let services = state.endpoint.services();
    let room = services.engine.has_room();
    let mut components = vec![
        Component { name: "database".to_owned(), status: word(database), kind: None },
        Component { name: "commands".to_owned(), status: if room { "up" } else { "overloaded" }, kind: None },
    ];
    let backends = services.operations.backends();
    let healthy = backends.iter().all(|backend| backend.healthy);
    components.extend(backends.into_iter().map(|backend| Component {
        status: word(backend.healthy),
        name: backend.name,
        kind: Some(backend.kind),
    }));
    let (code, status) = match (database, state.is_leaving()) {
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (true, false) if healthy && room => (StatusCode::OK, "ready"),
        (true, false) => (StatusCode::OK, "degraded"),
    };
    let position = services.engine.feed().head().to_string();
    json(code, Format::Json, &Health { status, position, components })
}

/// The public keys of access tokens (RFC 7517), for whoever verifies them without asking.
pub async fn signing_keys(State(state): State<HttpState>) -> Response {
    let mut response = json(StatusCode::OK, Format::Json, &state.endpoint.services().tokens.published());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    response
}

impl HttpState {
    async fn database_answers(&self) -> bool {
        let mut last = self.readiness.0.lock().await;
        if let Some((at, answered)) = *last
            && at.elapsed() < HOLDS
        {
            return answered;
        }
        let asking = self.endpoint.services().engine.database().reader().execute_unprepared("SELECT 1");
        let answered = match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the database does not answer");
                false
            }
            Err(_) => {
                tracing::warn!(patience = ?PATIENCE, "the database does not answer in time");
                false
            }
        };
        *last = Some((Instant::now(), answered));
        answered
    }
}

/// The numbers of this process, for Prometheus: to this machine, and to whoever has the token.
pub async fn metrics(
    State(state): State<HttpState>,
    Extension(exchange): Extension<Exchange>,
    headers: HeaderMap,
) -> Response {
    match &state.metrics {
        Some(_) if !is_here(&exchange, &headers) && !has_token(&state, &headers) => {
            let message = "Metrics are for this machine, and for `Authorization: Bearer <metrics_token>`.";
            Refusal::unauthenticated(message).response(exchange.trace())
        }
        Some(metrics) => {
            state.observe();
            let headers = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (CACHE_CONTROL, "no-store")];
            (headers, metrics.render()).into_response()
        }
        None => nothing_here(Extension(exchange)).await,
    }
}

/// Whether a program on this machine asks, and not a proxy for somebody else.
fn is_here(exchange: &Exchange, headers: &HeaderMap) -> bool {
    let here = exchange.address().is_some_and(|address| address.to_canonical().is_loopback());
    here && !is_forwarded(headers)
}

/// Whether the token is the one of the settings. Hashes are compared: the time tells nothing of the token.
fn has_token(state: &HttpState, headers: &HeaderMap) -> bool {
    let Some(wanted) = &state.metrics_token else { return false };
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    bearer(headers).ok().flatten().is_some_and(|given| hash(given).as_ref() == hash(wanted.expose()).as_ref())
}

/// The contract, as SDL, for whoever may see it.
pub async fn schema(
    State(state): State<HttpState>,
    Extension(exchange): Extension<Exchange>,
    headers: HeaderMap,
) -> Response {
    let allowed = async {
        let who = state.identify(&exchange, &headers, bearer(&headers)?).await?;
        state.may_see_the_schema(&who).await
    };
    match allowed.await {
        Ok(()) => {
            let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "private, no-cache")];
            (headers, state.sdl.clone()).into_response()
        }
        Err(refusal) => refusal.response(exchange.trace()),
    }
}

/// No route leads here.
pub async fn nothing_here(Extension(exchange): Extension<Exchange>) -> Response {
    Refusal::new(StatusCode::NOT_FOUND, "BAD_REQUEST", "There is nothing here. The GraphQL endpoint is /graphql.")
        .response(exchange.trace())
}
