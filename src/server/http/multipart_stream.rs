//! A subscription as parts of one answer, as Apollo Client asks for it (multipart/mixed).
//! <https://www.apollographql.com/docs/graphos/routing/operations/subscriptions/multipart-protocol>
//!
//! A client delivers a part when it has seen the boundary behind it: so the boundary follows each part at once, and
//! not before the next one.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures::StreamExt;
use oriel_schema::endpoint::{Answer, Operation};
use tokio::time::{MissedTickBehavior, interval};

use super::HttpState;
use super::access::Exchange;
use super::answer::Refusal;
use super::caller::{Paid, Who};
use super::sse::X_ACCEL_BUFFERING;

/// Clients and proxies give up what is silent for longer.
const HEARTBEAT: Duration = Duration::from_secs(5);
const MEDIA_TYPE: &str = "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0";
const FIRST: &[u8] = b"\r\n--graphql";
const LAST: &[u8] = b"--\r\n";

/// The answers of this operation as parts.
pub fn stream(
    state: &HttpState,
    exchange: &Exchange,
    who: &Who,
    operation: Operation,
    paid: Paid,
) -> Result<Response, Refusal> {
    let socket = state.socket("multipart", who)?;
    let stop = state.stop.clone();
    let answers = state.stream(exchange.trace().to_owned(), who, operation, paid);
    let parts = async_stream::stream! {
        let _socket = socket;
        let mut answers = std::pin::pin!(answers);
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        yield Ok::<_, Infallible>(Bytes::from_static(FIRST));
        loop {
            let answer = tokio::select! {
                biased;
                // Without the last boundary: the client sees that it was cut off, and asks again.
                () = stop.cancelled() => return,
                answer = answers.next() => answer,
                _ = beat.tick() => {
                    yield Ok(part("{}"));
                    continue;
                }
            };
            let Some(answer) = answer else { break };
            yield Ok(part(&payload(&answer)));
            if answer.has_no_result() {
                break;
            }
        }
        yield Ok(Bytes::from_static(LAST));
    };
    let mut response = Response::new(Body::from_stream(parts));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// One part, and the boundary behind it.
fn part(json: &str) -> Bytes {
    format!("\r\ncontent-type: application/json\r\n\r\n{json}\r\n--graphql").into()
}

/// An answer stands in `payload`; a refusal, after which nothing comes, beside it.
fn payload(answer: &Answer) -> String {
    if answer.has_no_result() {
        let errors = serde_json::to_string(&answer.errors).unwrap_or_default();
        format!(r#"{{"payload":null,"errors":{errors}}}"#)
    } else {
        format!(r#"{{"payload":{}}}"#, answer.text())
    }
}
