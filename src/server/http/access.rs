//! What belongs to one HTTP request, what its answer tells of the rate limit, and its one line in the access log.
//!
//! A line has the ids of the request and its trace, route, status, time, the names of the operations and who is signed
//! in; never a variable, a query's text, a URL's parameters or an address.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt;
use metrics::{counter, histogram};
use oriel_kernel::Viewer;
use oriel_kernel::trace::{self, TARGET};
use tracing::Instrument;
use tracing::field::Empty;
use uuid::Uuid;

use super::HttpState;
use super::answer::Refusal;
use super::proxies::Proxies;
use super::rate::Left;
use super::trace::{TRACERESPONSE, Trace};

/// The header in which a request's id comes and goes.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of operation names in a line of the log.
const MOST_NAMED: usize = 200;

/// One HTTP request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: Uuid,
    named: String,
    trace: Trace,
    address: Option<IpAddr>,
    noted: Mutex<Noted>,
}

#[derive(Default, Debug)]
struct Noted {
    operations: String,
    viewer: Option<Arc<Viewer>>,
    left: Option<Left>,
}

impl Exchange {
    fn of(request: &Request, proxies: &Proxies) -> Self {
        let (id, named) = request_id(request.headers());
        let trace = Trace::of(request.headers(), id);
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let address = peer.map(|peer| proxies.client(peer, request.headers()));
        Self(Arc::new(Inner { id, named, trace, address, noted: Mutex::default() }))
    }

    /// The request's id.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// The request's id as its client knows it.
    pub fn named(&self) -> &str {
        &self.0.named
    }

    /// The id of the trace that it belongs to.
    pub fn trace(&self) -> &str {
        self.0.trace.id()
    }

    /// The same as the number that it is: what the request causes is known by it.
    pub fn correlation(&self) -> Uuid {
        self.0.trace.place().trace
    }

    /// Where the request comes from.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.address
    }

    /// Notes the name of an operation.
    pub fn note_operation(&self, name: &str) {
        let operations = &mut self.0.noted.lock().unwrap_or_else(PoisonError::into_inner).operations;
        if operations.len() + name.len() < MOST_NAMED {
            let comma = if operations.is_empty() { "" } else { "," };
            operations.push_str(comma);
            operations.push_str(name);
        }
    }

    /// Notes what is left of the caller's rate limit.
    pub fn note_left(&self, left: Left) {
        self.0.noted.lock().unwrap_or_else(PoisonError::into_inner).left = Some(left);
    }

    /// Notes who is signed in.
    pub fn note_viewer(&self, viewer: &Arc<Viewer>) {
        self.0.noted.lock().unwrap_or_else(PoisonError::into_inner).viewer = Some(Arc::clone(viewer));
    }
}

/// The client's own id where it is a UUID (32 digits will do), else a new one.
fn request_id(headers: &HeaderMap) -> (Uuid, String) {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given.and_then(|text| Some((Uuid::try_parse(text).ok().filter(|id| !id.is_nil())?, text.to_owned()))) {
        Some(given) => given,
        None => {
            let id = Uuid::now_v7();
            (id, id.to_string())
        }
    }
}

/// Gives the request its [`Exchange`], and writes its line. A panic becomes an answer.
pub async fn record(State(state): State<HttpState>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let exchange = Exchange::of(&request, &state.proxies);
    let method = request.method().clone();
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "other".to_owned(), |path| path.as_str().into());
    request.extensions_mut().insert(exchange.clone());

    // Whatever is logged meanwhile names the trace.
    let span = tracing::info_span!(target: TARGET, "request", trace_id = exchange.trace());
    trace::follow(&span, exchange.0.trace.place());
    let recorded = tracing::debug_span!(
        target: TARGET,
        parent: &span,
        "http",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
    );
    trace::follow(&recorded, exchange.0.trace.place());
    let answering = next.run(request).instrument(recorded.clone()).instrument(span);
    let answered = AssertUnwindSafe(answering).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        // What it was is in the log already, through the panic hook.
        let message = format!("Something went wrong on our side. Error id {}.", exchange.id());
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message).response(exchange.trace())
    });
    if let Ok(value) = HeaderValue::from_str(exchange.named()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let place = if recorded.is_disabled() { None } else { recorded.in_scope(trace::current) };
    if let Some(value) = exchange.0.trace.response(place) {
        response.headers_mut().insert(TRACERESPONSE, value);
    }

    let (status, elapsed) = (response.status().as_u16(), began.elapsed());
    recorded.record("http.response.status_code", status);
    counter!("oriel_http_requests_total", "route" => route.clone(), "status" => status.to_string()).increment(1);
    histogram!("oriel_http_request_seconds", "route" => route.clone()).record(elapsed.as_secs_f64());
    let noted = exchange.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(left) = &noted.left {
        left.write(response.headers_mut());
    }
    let user = noted.viewer.as_ref().map(|viewer| viewer.user.to_string());
    let organization = noted.viewer.as_ref().map(|viewer| viewer.organization.to_string());
    tracing::info!(
        target: "oriel::access",
        request_id = exchange.named(),
        trace_id = exchange.trace(),
        %method,
        route,
        status,
        ms = elapsed.as_secs_f64() * 1e3,
        operation = (!noted.operations.is_empty()).then_some(noted.operations.as_str()),
        user,
        organization,
        "request"
    );
    drop(noted);
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_uuid_is_kept_as_it_was_written_and_all_else_replaced() {
        for given in ["0199c2d1-7a5e-7c11-8000-0123456789ab", "0199c2d17a5e7c1180000123456789ab"] {
            let (id, named) = request_id(&headers(&[(&REQUEST_ID, given)]));
            assert_eq!((id.to_string().as_str(), named.as_str()), ("0199c2d1-7a5e-7c11-8000-0123456789ab", given));
        }
        for wrong in ["", "x", "00000000-0000-0000-0000-000000000000", "a b"] {
            let (id, named) = request_id(&headers(&[(&REQUEST_ID, wrong)]));
            assert_eq!((id.get_version_num(), named), (7, id.to_string()));
        }
    }
}
