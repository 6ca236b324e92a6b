//! The headers of every answer, and which other origins may call.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CONNECTION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, IF_RANGE, ORIGIN, RANGE, REFERRER_POLICY,
    RETRY_AFTER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, Version};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::HttpState;
use super::access::REQUEST_ID;
use super::caller::AT_LEAST;
use super::multipart::PREFLIGHT;
use super::rate;
use super::sse_single::TOKEN;
use super::trace::{TRACEPARENT, TRACERESPONSE, TRACESTATE};

/// How long a browser remembers what it may send.
const CORS_AGE: Duration = Duration::from_secs(3_600);

/// What browsers are told with every answer. A handler that needs another policy sets it first.
pub async fn secure(State(state): State<HttpState>, request: Request, next: Next) -> Response {
    let is_http_1 = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if is_http_1 && state.is_leaving() {
        // Who comes again is to come to another node.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let mut tell = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    tell(X_CONTENT_TYPE_OPTIONS, "nosniff");
    tell(X_FRAME_OPTIONS, "DENY");
    tell(CONTENT_SECURITY_POLICY, "default-src 'self'");
    tell(REFERRER_POLICY, "no-referrer");
    if state.https {
        tell(STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains");
    }
    response
}

impl HttpState {
    /// Whether a page of the origin that asks, if it is a page, may open a socket: a browser does not ask first, as it
    /// does for other requests of another origin.
    pub fn may_come_from(&self, parts: &Parts) -> bool {
        let Some(origin) = parts.headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(Authority::as_str));
        let is_same = origin.split_once("://").is_some_and(|(_, place)| host == Some(place));
        is_same || origin == self.origin || self.origins.iter().any(|known| known == origin)
    }
}

/// Lets browser applications of these origins call. Tokens are sent by hand, so that credentials are not needed.
pub fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    let usual = [ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH, IF_RANGE, RANGE];
    let ours = [REQUEST_ID, TRACEPARENT, TRACESTATE, AT_LEAST, TOKEN];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(usual.into_iter().chain(ours).chain(PREFLIGHT).collect::<Vec<_>>())
        .expose_headers([
            REQUEST_ID,
            TRACERESPONSE,
            RETRY_AFTER,
            rate::POLICY,
            rate::STATE,
            ETAG,
            ACCEPT_RANGES,
            CONTENT_RANGE,
            CONTENT_LENGTH,
            CONTENT_DISPOSITION,
        ])
        .max_age(CORS_AGE)
}
