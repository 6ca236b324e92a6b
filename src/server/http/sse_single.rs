//! Server-sent events on a single connection (graphql-sse, single connection mode): a browser, which may have only a
//! few connections, reserves a stream, asks each operation by a request of its own, and hears all answers on it.
//! <https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md#single-connection-mode>
//!
//! Invariants: a stream belongs to the session that reserved it; it has one connection, and is forgotten with it, or
//! when none has come for it in time. Its operations are executed as the client takes what they say, so that one that
//! reads slowly costs only itself.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_graphql::{Request as GraphqlRequest, Value};
use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use oriel_kernel::Credential;
use oriel_schema::endpoint::Answer;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::HttpState;
use super::access::Exchange;
use super::answer::{Format, Refusal, json, status};
use super::caller::{Who, bearer};
use super::operation::{dress, has_ended};
use super::places::Socket;
use super::sse::events;

/// Names a stream. A browser's `EventSource`, which sends no headers, says `token` in the URL.
pub const TOKEN: HeaderName = HeaderName::from_static("x-graphql-event-stream-token");
/// Characters of an operation's id.
const MAX_ID: usize = 200;

/// The streams that are reserved or connected, by token.
#[derive(Default)]
pub struct Streams(Mutex<HashMap<String, Arc<Stream>>>);

/// A stream that somebody reserved.
struct Stream {
    /// Whose it is; nobody's when it was reserved without signing in.
    credential: Option<Credential>,
    /// What is being executed on it, and how to end that.
    operations: Mutex<HashMap<String, CancellationToken>>,
    begin: mpsc::Sender<BoxStream<'static, Said>>,
    /// What the connection takes when it comes.
    waiting: Mutex<Option<Waiting>>,
}

/// What waits for the connection: the operations that were begun, and the place among the open connections.
struct Waiting {
    begun: mpsc::Receiver<BoxStream<'static, Said>>,
    place: Socket,
}

/// What an operation says: an answer, or that it is over.
struct Said {
    id: String,
    ended: CancellationToken,
    answer: Option<Answer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    token: Option<String>,
    operation_id: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    /// The caller's stream of this name. That of somebody else looks like none.
    fn of(&self, token: &str, who: &Who) -> Result<Arc<Stream>, Refusal> {
        let stream = lock(&self.0).get(token).cloned();
        stream.filter(|stream| stream.credential == who.credential()).ok_or_else(unknown)
    }

    fn forget(&self, token: &str) {
        if let Some(stream) = lock(&self.0).remove(token) {
            lock(&stream.operations).drain().for_each(|(_, ended)| ended.cancel());
        }
    }
}

fn unknown() -> Refusal {
    let message = "There is no such stream: it was not reserved, nobody connected in time, or its connection ended. \
                   Reserve another with PUT.";
    Refusal::new(StatusCode::NOT_FOUND, "BAD_REQUEST", message)
}

fn parameters(parts: &Parts) -> Option<Parameters> {
    Query::try_from_uri(&parts.uri).ok().map(|Query(parameters)| parameters)
}

/// The stream that a request names, if it names one.
pub fn named(parts: &Parts) -> Option<String> {
    let header = parts.headers.get(TOKEN).and_then(|value| value.to_str().ok()).map(str::to_owned);
    header.or_else(|| parameters(parts)?.token)
}

/// `PUT /graphql`: reserves a stream; its token is the answer.
pub async fn reserve(
    State(state): State<HttpState>,
    Extension(exchange): Extension<Exchange>,
    request: Request,
) -> Response {
    let reserved = async {
        let (parts, _) = request.into_parts();
        let who = state.identify(&exchange, &parts.headers, bearer(&parts.headers)?).await?;
        state.charge(&who, 1)?;
        let place = state.socket("sse", &who)?;
        let (begin, begun) = mpsc::channel(state.limits.operations_per_socket);
        let waiting = Mutex::new(Some(Waiting { begun, place }));
        let stream = Stream { credential: who.credential(), operations: Mutex::default(), begin, waiting };
        let token = Uuid::new_v4().simple().to_string();
        lock(&state.streams.0).insert(token.clone(), Arc::new(stream));
        Ok(token)
    };
    match reserved.await {
        Ok(token) => {
            tokio::spawn(expire(state, token.clone()));
            let headers = [(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "text/plain; charset=utf-8")];
            (StatusCode::CREATED, headers, token).into_response()
        }
        Err(refusal) => Refusal::response(&refusal, exchange.trace()),
    }
}

/// Forgets a stream that nobody has connected to in time.
async fn expire(state: HttpState, token: String) {
    tokio::time::sleep(state.limits.clocks.init).await;
    let stream = lock(&state.streams.0).get(&token).cloned();
    if stream.is_some_and(|stream| lock(&stream.waiting).take().is_some()) {
        state.streams.forget(&token);
    }
}

/// A connection; the stream is forgotten with it.
struct Connected {
    state: HttpState,
    token: String,
    _place: Socket,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.state.streams.forget(&self.token);
    }
}

/// `GET /graphql` with the token: everything that is said on the stream, as events.
pub fn connect(state: &HttpState, who: &Who, token: String) -> Result<Response, Refusal> {
    // Who cannot send headers shows the token alone; what is executed was asked by its owner.
    let stream = match who.credential() {
        Some(_) => state.streams.of(&token, who)?,
        None => lock(&state.streams.0).get(&token).cloned().ok_or_else(unknown)?,
    };
    let waiting = lock(&stream.waiting).take();
    let Some(Waiting { mut begun, place }) = waiting else {
        return Err(conflict("This stream has its connection already. Reserve another with PUT."));
    };
    let stop = state.stop.clone();
    let connected = Connected { state: state.clone(), token, _place: place };
    Ok(events(async_stream::stream! {
        let _connected = connected;
        let mut running = SelectAll::new();
        loop {
            let Said { id, ended, answer } = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(operation) = begun.recv() => {
                    running.push(operation);
                    continue;
                }
                Some(said) = running.next() => said,
            };
            if ended.is_cancelled() {
                continue;
            }
            if let Some(answer) = &answer {
                let id = serde_json::to_string(&id).unwrap_or_default();
                let data = format!(r#"{{"id":{id},"payload":{}}}"#, answer.text());
                yield Ok::<_, Infallible>(Event::default().event("next").data(data));
            }
            if answer.as_ref().is_none_or(has_ended) {
                ended.cancel();
                lock(&stream.operations).remove(&id);
                yield Ok(Event::default().event("complete").data(serde_json::json!({ "id": id }).to_string()));
            }
        }
    }))
}

/// `POST /graphql` with the token: an operation whose answers go to the stream.
pub async fn execute(
    state: &HttpState,
    exchange: &Exchange,
    who: &Who,
    mut request: GraphqlRequest,
    token: &str,
) -> Result<Response, Refusal> {
    let stream = state.streams.of(token, who)?;
    let id = match request.extensions.0.get("operationId") {
        Some(Value::String(id)) if (1..=MAX_ID).contains(&id.len()) => id.clone(),
        _ => {
            let message =
                format!("Name the operation with `extensions.operationId`, a text of 1 to {MAX_ID} characters.");
            return Err(Refusal::bad_request(message));
        }
    };
    state.charge(who, 1)?;
    state.resolve(who, &mut request).await?;
    let (operation, cost) = match state.read(exchange, request) {
        Ok(read) => read,
        Err(mut answer) => {
            dress(&mut answer, exchange.trace(), None);
            return Ok(json(status(&answer, Format::GraphqlResponse), Format::Json, &answer));
        }
    };
    let paid = state.pay(who, cost).await?;
    let ended = CancellationToken::new();
    stream.take_up(&id, &ended, state.limits.operations_per_socket)?;
    let answers = state.stream(exchange.trace().to_owned(), who, operation, paid).map(Some);
    let answers = answers.chain(futures::stream::iter([None])).take_until(ended.clone().cancelled_owned());
    let said = answers.map(move |answer| Said { id: id.clone(), ended: ended.clone(), answer });
    // There is room for as many as there may be; what is full is full of what was ended and not yet cleared away.
    stream.begin.send(said.boxed()).await.map_err(|_| unknown())?;
    Ok(StatusCode::ACCEPTED.into_response())
}

impl Stream {
    /// Takes up an operation.
    fn take_up(&self, id: &str, ended: &CancellationToken, most: usize) -> Result<(), Refusal> {
        let mut operations = lock(&self.operations);
        if operations.contains_key(id) {
            return Err(conflict("There is an operation of this id already."));
        }
        if operations.len() >= most {
            let message =
                format!("A stream may have max_operations_per_socket = {most} operations. Complete one first.");
            let refusal = Refusal::limit(StatusCode::BAD_REQUEST, "max_operations_per_socket", most as u64, message);
            return Err(refusal.found(most as u64 + 1));
        }
        operations.insert(id.to_owned(), ended.clone());
        Ok(())
    }
}

fn conflict(message: &str) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "BAD_REQUEST", message)
}

/// `DELETE /graphql` with the token: ends an operation. One that is over is ended.
pub async fn complete(
    State(state): State<HttpState>,
    Extension(exchange): Extension<Exchange>,
    request: Request,
) -> Response {
    let completed = async {
        let (parts, _) = request.into_parts();
        let who = state.identify(&exchange, &parts.headers, bearer(&parts.headers)?).await?;
        state.charge(&who, 1)?;
        let token = named(&parts).ok_or_else(unknown)?;
        let stream = state.streams.of(&token, &who)?;
        let missing = || Refusal::bad_request("Say which operation is to be ended: `?operationId=`.");
        let id = parameters(&parts).and_then(|parameters| parameters.operation_id).ok_or_else(missing)?;
        let ended = lock(&stream.operations).remove(&id);
        if let Some(ended) = ended {
            ended.cancel();
        }
        Ok(())
    };
    match completed.await {
        Ok(()) => (StatusCode::OK, [(CACHE_CONTROL, HeaderValue::from_static("no-store"))]).into_response(),
        Err(refusal) => Refusal::response(&refusal, exchange.trace()),
    }
}
