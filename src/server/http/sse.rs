//! Server-sent events: one operation, one stream (graphql-sse, distinct connections mode).
//!
//! Answers are made when the client has taken the last one, so that one that reads slowly costs only its own
//! connection. When the server stops, the stream ends without `complete`: a client then asks again.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use metrics::gauge;
use oriel_schema::endpoint::Operation;
use tokio::sync::OwnedSemaphorePermit;

use super::HttpState;
use super::access::Exchange;
use super::answer::Refusal;
use super::caller::Who;
use super::operation::has_ended;
use super::rate::Left;

/// Proxies close what is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(12);
/// Asks nginx not to hold events back.
pub const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// One of the connections that stay open, while it is held.
pub struct Socket {
    transport: &'static str,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Socket {
    fn drop(&mut self) {
        gauge!("oriel_sockets", "transport" => self.transport).decrement(1.0);
    }
}

impl HttpState {
    /// A place among the open connections, if there is one.
    pub fn socket(&self, transport: &'static str) -> Result<Socket, Refusal> {
        let Ok(permit) = self.sockets.clone().try_acquire_owned() else {
            let most = self.limits.sockets;
            let message = format!("This server holds max_sockets = {most} open connections already. Try again later.");
            let refusal = Refusal::limit(StatusCode::SERVICE_UNAVAILABLE, "max_sockets", most as u64, message);
            return Err(refusal.after(Duration::from_secs(5)));
        };
        gauge!("oriel_sockets", "transport" => transport).increment(1.0);
        Ok(Socket { transport, _permit: permit })
    }
}

/// The answers of this operation as events.
pub fn stream(
    state: &HttpState,
    exchange: &Exchange,
    who: &Who,
    operation: Operation,
    left: Option<Left>,
) -> Result<Response, Refusal> {
    let socket = state.socket("sse")?;
    let stop = state.stop.clone();
    let answers = state.stream(exchange.trace().to_owned(), who, operation, left);
    let events = async_stream::stream! {
        let _socket = socket;
        let mut answers = std::pin::pin!(answers);
        loop {
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answer = answers.next() => answer,
            };
            let Some(answer) = answer else { break };
            yield Ok::<_, Infallible>(Event::default().event("next").data(answer.text()));
            if has_ended(&answer) {
                break;
            }
        }
        yield Ok(Event::default().event("complete").data(""));
    };
    let headers = [(CACHE_CONTROL, "no-cache, no-transform"), (X_ACCEL_BUFFERING, "no")];
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok((headers, events).into_response())
}
