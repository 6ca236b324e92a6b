//! The transport: HTTP, WebSocket and server-sent events around the one GraphQL endpoint.
//!
//! Invariants
//! - What is over a limit is refused before the work, with an error that names the limit.
//! - A token that is not good refuses the request; it never makes it anonymous.
//! - A client that reads slowly costs only itself: every queue is bounded, and nobody waits for it.
//! - Neither variables nor query texts nor tokens reach the log.
//!
//! Nothing here knows a type or a field of the schema, but for the name of the root field `live`.

mod access;
mod answer;
mod blobs;
mod body;
mod caller;
mod codes;
mod console;
mod cost;
mod graphql;
mod headers;
mod health;
mod introspection;
mod limits;
mod linger;
mod multipart;
mod multipart_stream;
mod observe;
mod operation;
mod persisted;
mod places;
mod proxies;
mod rate;
mod sse;
mod sse_single;
mod trace;
mod websocket;

#[cfg(test)]
mod tests;

pub use persisted::documents;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_request};
use axum::routing::get;
use oriel_schema::cost::{LISTS, WEIGHTS};
use oriel_schema::endpoint::Endpoint;
use tokio_util::sync::CancellationToken;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};

use crate::settings::{Role, Secret, Settings};
use crate::telemetry::Metrics;

/// Answers from this size on are compressed.
const COMPRESS_ABOVE: u64 = 2 << 10;

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub struct HttpState(Arc<Shared>);

/// What [`HttpState`] shares. Only this room looks inside.
pub struct Shared {
    endpoint: Endpoint,
    documents: operation::Documents,
    persisted: persisted::Persisted,
    introspection: introspection::Introspection,
    limits: Limits,
    rates: rate::Rates,
    prices: cost::Prices,
    places: Arc<places::Places>,
    streams: sse_single::Streams,
    proxies: proxies::Proxies,
    readiness: health::Readiness,
    metrics: Option<Metrics>,
    metrics_token: Option<Secret<String>>,
    stop: CancellationToken,
    sdl: String,
    /// The folder of another page than the console.
    console: Option<PathBuf>,
    https: bool,
    /// Where browsers reach this server.
    origin: String,
    /// From where else they may call.
    origins: Vec<String>,
    /// Whether it answers nobody but operators.
    is_worker: bool,
    /// Whether balancers are to send nothing more.
    leaving: AtomicBool,
}

/// What the settings say about requests, and the transport's own clocks.
#[derive(Clone, Debug)]
struct Limits {
    document: limits::DocumentLimits,
    body_bytes: u64,
    file_bytes: u64,
    batch: usize,
    operations_per_socket: usize,
    /// How long an operation with one answer may take.
    request_timeout: Duration,
    /// How fast bodies have to come.
    pace: body::Pace,
    clocks: Clocks,
}

/// How long the two ends of an open connection wait for each other.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// For `connection_init`.
    init: Duration,
    /// Between two signs of life that we send.
    beat: Duration,
    /// For a client to take a message that we send.
    write: Duration,
}

impl Clocks {
    const USUAL: Self =
        Self { init: Duration::from_secs(10), beat: Duration::from_secs(20), write: Duration::from_secs(30) };
}

impl HttpState {
    /// The transport of this endpoint. When `stop` is cancelled, open sockets and streams are closed, and the server
    /// says that it is not ready.
    ///
    /// # Errors
    /// When the contract cannot be read, from which the price of an operation is known.
    pub fn new(
        endpoint: Endpoint,
        settings: &Settings,
        metrics: Option<Metrics>,
        stop: CancellationToken,
    ) -> Result<Self, async_graphql::parser::Error> {
        Self::with_clocks(endpoint, settings, metrics, stop, Clocks::USUAL)
    }

    fn with_clocks(
        endpoint: Endpoint,
        settings: &Settings,
        metrics: Option<Metrics>,
        stop: CancellationToken,
        clocks: Clocks,
    ) -> Result<Self, async_graphql::parser::Error> {
        let limits = Limits {
            document: limits::DocumentLimits::of(settings),
            body_bytes: settings.max_body_bytes,
            file_bytes: settings.upload_max_size,
            batch: settings.max_batch,
            operations_per_socket: settings.max_operations_per_socket,
            request_timeout: settings.request_timeout,
            pace: body::Pace { rate: settings.min_body_rate, window: settings.request_timeout },
            clocks,
        };
        let room = places::Room {
            all: settings.max_sockets,
            viewer: settings.max_sockets_per_viewer,
            address: settings.max_sockets_per_address,
        };
        let url = settings.public_url();
        let sdl = oriel_schema::sdl();
        let usual = u64::from(oriel_engine::read::Limits::default().default_page);
        let pages = cost::Pages { default: usual, most: settings.max_page.into() };
        let prices = cost::Prices::new(&sdl, WEIGHTS, LISTS, pages, settings.max_cost)?;
        let rates = rate::Rates::new(settings.cost_per_minute(), endpoint.services().redis.clone());
        Ok(Self(Arc::new(Shared {
            endpoint,
            documents: operation::Documents::new(limits.document, settings.cache_size / 4),
            persisted: persisted::Persisted::new(settings),
            introspection: introspection::Introspection::new(settings),
            rates,
            prices,
            places: places::Places::new(room),
            streams: sse_single::Streams::default(),
            proxies: proxies::Proxies::new(settings.trusted_proxies.clone()),
            limits,
            readiness: health::Readiness::default(),
            metrics,
            metrics_token: settings.metrics_token.clone(),
            stop,
            sdl,
            console: settings.console_dir.clone(),
            https: url.starts_with("https://"),
            origin: url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/"),
            origins: settings.cors_origins.clone(),
            is_worker: settings.role == Role::Worker,
            leaving: AtomicBool::new(false),
        })))
    }
}

impl HttpState {
    /// From now on the server says that it is stopping, and goes on. Who has asked is told to connect to another.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether balancers are to send nothing more.
    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.stop.is_cancelled()
    }
}

impl Deref for HttpState {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Everything that the server answers; a worker answers operators alone. Serve it with the peers' addresses
/// (`into_make_service_with_connect_info::<SocketAddr>()`): they stand in sessions and share out the rate limit.
pub fn router(state: HttpState) -> Router {
    let parts = NotForContentType::const_new("multipart/mixed");
    let large = SizeAbove::new(COMPRESS_ABOVE).and(NotForContentType::SSE).and(parts);
    let compressed = Router::new()
        .route("/graphql", get(graphql::get).post(graphql::post).put(sse_single::reserve).delete(sse_single::complete))
        .route("/graphql.schema", get(health::schema))
        .merge(console::routes(state.console.as_deref()))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(large));
    let answers = compressed.route("/blobs/{*key}", get(blobs::download).put(blobs::upload));
    Router::new()
        .merge(if state.is_worker { Router::new() } else { answers })
        .route("/.well-known/jwks.json", get(health::signing_keys))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(health::nothing_here)
        .layer(headers::cors(&state.origins))
        .layer(map_request(linger::unread))
        .layer(from_fn_with_state(state.clone(), headers::secure))
        .layer(from_fn_with_state(state.clone(), access::record))
        .with_state(state)
}
