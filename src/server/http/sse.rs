//! Server-sent events: one operation, one stream (graphql-sse, distinct connections mode).
//! <https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md#distinct-connections-mode>
//!
//! Answers are made when the client has taken the last one, so that one that reads slowly costs only its own
//! connection. When the server stops, the stream ends without `complete`: a client then asks again.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use oriel_schema::endpoint::{Answer, Operation};

use super::HttpState;
use super::access::Exchange;
use super::answer::Refusal;
use super::caller::{Paid, Who};
use super::operation::has_ended;

/// Proxies close what is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(12);
/// Asks nginx not to hold events back.
pub const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The answers of this operation as events.
pub fn stream(
    state: &HttpState,
    exchange: &Exchange,
    who: &Who,
    operation: Operation,
    paid: Paid,
) -> Result<Response, Refusal> {
    let socket = state.socket("sse", who)?;
    let stop = state.stop.clone();
    let answers = state.stream(exchange.trace().to_owned(), who, operation, paid);
    Ok(events(async_stream::stream! {
        let _socket = socket;
        let mut answers = std::pin::pin!(answers);
        loop {
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answer = answers.next() => answer,
            };
            let Some(answer) = answer else { break };
            yield next(&answer);
            if has_ended(&answer) {
                break;
            }
        }
        yield complete();
    }))
}

/// The answer to an operation that was refused before it began: a browser's `EventSource` shows nothing but events.
pub fn refused(answer: &Answer) -> Response {
    events(stream::iter([next(answer), complete()]))
}

fn next(answer: &Answer) -> Result<Event, Infallible> {
    Ok(Event::default().event("next").data(answer.text()))
}

fn complete() -> Result<Event, Infallible> {
    // With a line of data, though it is empty: without one an `EventSource` dispatches nothing.
    Ok(Event::default().event("complete").data("\n"))
}

/// These events, kept from whoever holds back or gives up what is silent.
pub fn events(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let headers = [(CACHE_CONTROL, "no-cache, no-transform"), (X_ACCEL_BUFFERING, "no")];
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    (headers, events).into_response()
}
