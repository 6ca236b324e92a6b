//! WebSockets: the sub-protocol graphql-transport-ws.
//! <https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md>
//!
//! One task reads and writes the socket; each operation is a task that waits while the socket's queue is full. So a
//! client that reads slowly stops its own operations and nobody else's, and one that reads nothing is closed.

use std::collections::HashMap;
use std::time::Duration;

use async_graphql::Request as GraphqlRequest;
use async_graphql_axum::GraphQLProtocol;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use oriel_engine::live::Watch;
use oriel_schema::endpoint::{Answer, Operation};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::HttpState;
use super::access::Exchange;
use super::answer::Refusal;
use super::caller::{Paid, Who, bearer, token_of};
use super::operation::dress;
use super::persisted::Sent;
use super::places::Socket;

const PROTOCOL: &str = "graphql-transport-ws";
/// Answers that wait to be written.
const QUEUE: usize = 16;
/// Buffers of a socket: most are idle, and there are many.
const BUFFER: usize = 4 << 10;
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Characters of an operation's id.
const MAX_ID: usize = 200;
/// How long operations may take to say that their session has ended, before their socket does.
const LAST_WORDS: Duration = Duration::from_secs(1);

mod code {
    pub const RESTART: u16 = 1012;
    pub const BAD_REQUEST: u16 = 4400;
    pub const UNAUTHORIZED: u16 = 4401;
    pub const FORBIDDEN: u16 = 4403;
    pub const INIT_TIMEOUT: u16 = 4408;
    pub const DUPLICATE: u16 = 4409;
    pub const TOO_MANY: u16 = 4429;
}

/// Whether the request wants to become a WebSocket.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let says = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|list| list.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    says(CONNECTION, "upgrade") && says(UPGRADE, "websocket")
}

/// Becomes a WebSocket.
pub async fn open(state: HttpState, exchange: Exchange, mut parts: Parts) -> Response {
    let refuse = |refusal: Refusal| refusal.response(exchange.trace());
    if !state.may_come_from(&parts) {
        let message = "Pages of this origin may not open a socket. An operator can allow it with ORIEL_CORS_ORIGINS.";
        return refuse(Refusal::new(StatusCode::FORBIDDEN, "FORBIDDEN", message));
    }
    let offered = GraphQLProtocol::from_request_parts(&mut parts, &()).await;
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade.protocols([PROTOCOL]),
        Err(rejection) => return rejection.into_response(),
    };
    if offered.is_err() || upgrade.selected_protocol().is_none() {
        return refuse(Refusal::bad_request(format!("Open the WebSocket with the sub-protocol {PROTOCOL}.")));
    }
    // A bad token in the header refuses the upgrade; that of `connection_init` closes the socket.
    let token = match bearer(&parts.headers) {
        Ok(token) => token,
        Err(refusal) => return refuse(refusal),
    };
    let who = match state.identify(&exchange, &parts.headers, token).await {
        Ok(who) => who,
        Err(refusal) => return refuse(refusal),
    };
    let socket = match state.socket("websocket", &who) {
        Ok(socket) => socket,
        Err(refusal) => return refuse(refusal),
    };
    let most = usize::try_from(state.limits.body_bytes).unwrap_or(usize::MAX);
    let headers = copied(&parts.headers);
    upgrade.read_buffer_size(BUFFER).write_buffer_size(BUFFER).max_message_size(most).max_frame_size(most).on_upgrade(
        move |web_socket| async move {
            Connection::new(state, exchange, who.lasting(), headers, socket).serve(web_socket).await;
        },
    )
}

/// The same headers in memory of their own: as they came they are views of the buffer in which the connection reads
/// requests, and would keep all of it for as long as the socket is open.
fn copied(headers: &HeaderMap) -> HeaderMap {
    let copy = |(name, value): (&HeaderName, &HeaderValue)| {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    headers.iter().filter_map(copy).collect()
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FromClient {
    ConnectionInit { payload: Option<Value> },
    Subscribe { id: String, payload: Box<Sent> },
    Complete { id: String },
    Ping { payload: Option<Value> },
    Pong {},
}

/// What an operation has to say.
enum Said {
    /// One answer, or its refusal.
    Answer(Box<Answer>),
    /// There are no more.
    Over,
}

/// From which operation: an id can be used again, its number cannot.
struct FromOperation {
    id: String,
    number: u64,
    said: Said,
}

/// Why the socket ends.
#[derive(Debug)]
enum End {
    /// We close it, for this reason.
    Close(u16, &'static str),
    /// The other end has closed it, and waits for us to do the same.
    Left,
    /// The other end is gone.
    Gone,
}

struct Connection {
    state: HttpState,
    exchange: Exchange,
    /// Who the header says; `connection_init` may say better.
    who: Who,
    headers: HeaderMap,
    ready: bool,
    operations: HashMap<String, (u64, AbortHandle)>,
    tasks: JoinSet<()>,
    queue: mpsc::Sender<FromOperation>,
    said: Option<mpsc::Receiver<FromOperation>>,
    counted: u64,
    place: Socket,
    /// When to ask whether they are signed in still.
    signed_out: Option<Instant>,
    /// Hears when that is to be asked at once.
    watch: Option<Watch>,
}

impl Connection {
    fn new(state: HttpState, exchange: Exchange, who: Who, headers: HeaderMap, socket: Socket) -> Self {
        let (queue, said) = mpsc::channel(QUEUE);
        Self {
            state,
            exchange,
            who,
            headers,
            ready: false,
            operations: HashMap::new(),
            tasks: JoinSet::new(),
            queue,
            said: Some(said),
            counted: 0,
            place: socket,
            signed_out: None,
            watch: None,
        }
    }

    async fn serve(mut self, mut socket: WebSocket) {
        let end = self.talk(&mut socket).await;
        self.tasks.abort_all();
        tracing::debug!(trace_id = self.exchange.trace(), ?end, operations = self.counted, "a socket ended");
        let patience = self.state.limits.clocks.write;
        if let End::Close(code, reason) = end {
            let frame = CloseFrame { code, reason: reason.into() };
            // Whether the client hears it is not ours to know.
            let _ = timeout(patience, socket.send(Message::Close(Some(frame)))).await;
        }
        if !matches!(end, End::Gone) {
            // Each end answers the other's close frame. Ours is written while we read on; until theirs has come, our
            // reason may still be on its way.
            let _ = timeout(patience, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
        }
    }

    async fn talk(&mut self, socket: &mut WebSocket) -> End {
        let clocks = self.state.limits.clocks;
        let stop = self.state.stop.clone();
        let Some(mut said) = self.said.take() else { return End::Gone };
        let opened = Instant::now();
        let mut beat = interval_at(opened + clocks.beat, clocks.beat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = true;
        if let Err(end) = Box::pin(self.stay()).await {
            return end;
        }
        loop {
            // Long enough to be never, where nobody is signed in.
            let signed_out = self.signed_out.unwrap_or(opened + NEVER);
            let talked = tokio::select! {
                biased;
                () = stop.cancelled() => Err(End::Close(code::RESTART, "The server restarts")),
                message = socket.recv() => {
                    heard = true;
                    match message {
                        // In memory of its own while it lasts: most sockets wait.
                        Some(Ok(message)) => Box::pin(self.hear(socket, message)).await,
                        Some(Err(_)) | None => Err(End::Gone),
                    }
                }
                Some(FromOperation { id, number, said }) = said.recv() => self.tell(socket, id, number, said).await,
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Ok(_) => Ok(()),
                    Err(error) => Box::pin(self.failed(socket, &error)).await,
                },
                () = tokio::time::sleep_until(opened + clocks.init), if !self.ready => {
                    Err(End::Close(code::INIT_TIMEOUT, "Connection initialisation timeout"))
                }
                () = tokio::time::sleep_until(signed_out) => Box::pin(self.stay_or_end(socket, &mut said)).await,
                () = changed(&mut self.watch) => Box::pin(self.stay_or_end(socket, &mut said)).await,
                _ = beat.tick() => {
                    if std::mem::take(&mut heard) {
                        self.send(socket, Message::Ping(Bytes::new())).await
                    } else {
                        Err(End::Gone)
                    }
                }
            };
            if let Err(end) = talked {
                return end;
            }
        }
    }

    async fn hear(&mut self, socket: &mut WebSocket, message: Message) -> Result<(), End> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(End::Close(code::BAD_REQUEST, "Send text, not bytes")),
            Message::Close(_) => return Err(End::Left),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
        };
        let Ok(message) = serde_json::from_str(&text) else {
            return Err(End::Close(code::BAD_REQUEST, "Invalid message"));
        };
        match message {
            FromClient::ConnectionInit { payload } => self.initialise(socket, payload).await,
            FromClient::Ping { payload } => self.write(socket, &with_payload("pong", payload)).await,
            FromClient::Pong {} => Ok(()),
            FromClient::Subscribe { .. } if !self.ready => Err(End::Close(code::UNAUTHORIZED, "Unauthorized")),
            FromClient::Subscribe { id, payload } => self.subscribe(socket, id, (*payload).into()).await,
            FromClient::Complete { id } => {
                if let Some((_, task)) = self.operations.remove(&id) {
                    task.abort();
                }
                Ok(())
            }
        }
    }

    async fn initialise(&mut self, socket: &mut WebSocket, payload: Option<Value>) -> Result<(), End> {
        if self.ready {
            return Err(End::Close(code::TOO_MANY, "Too many initialisation requests"));
        }
        let given = payload.as_ref().and_then(Value::as_object).and_then(|payload| {
            payload.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization")).map(|(_, value)| value)
        });
        if let Some(value) = given.filter(|value| !value.is_null()) {
            let token = value.as_str().and_then(token_of).ok_or(End::Close(code::FORBIDDEN, "Forbidden"))?;
            let who = self.state.identify(&self.exchange, &self.headers, Some(token)).await;
            self.who = who.map(Who::lasting).map_err(|refusal| match refusal.status {
                StatusCode::UNAUTHORIZED => End::Close(code::FORBIDDEN, "Forbidden"),
                StatusCode::TOO_MANY_REQUESTS => End::Close(code::TOO_MANY, "Too many requests"),
                _ => End::Close(code::RESTART, "Try again"),
            })?;
            let held = self.place.belong_to(&self.who);
            held.map_err(|_| End::Close(code::TOO_MANY, "You hold max_sockets_per_viewer connections already"))?;
        }
        self.stay().await?;
        self.ready = true;
        self.write(socket, &json!({ "type": "connection_ack" })).await
    }

    /// Reads an operation and pays for it.
    async fn begin(&self, mut request: GraphqlRequest) -> Result<(Paid, Operation), Box<Answer>> {
        let refuse = |refusal: Refusal| Box::new(refusal.answer());
        self.state.charge(&self.who, 1).map_err(refuse)?;
        self.state.resolve(&self.who, &mut request).await.map_err(refuse)?;
        let (operation, cost) = self.state.read(&self.exchange, request)?;
        Ok((self.state.pay(&self.who, cost).await.map_err(refuse)?, operation))
    }

    /// Whether they are signed in still, and until when: a session that was refreshed in time goes on, and with it
    /// everything on its sockets.
    async fn stay(&mut self) -> Result<(), End> {
        let (until, watch) = match self.state.standing(&self.who).await {
            Ok(standing) => standing,
            Err(refusal) => {
                return Err(match refusal.status {
                    StatusCode::UNAUTHORIZED if self.state.may_come_back(&self.who).await => {
                        // Clients come back from this one with the token that they have by then.
                        End::Close(code::FORBIDDEN, "The access token has expired")
                    }
                    // And not from this one: they have to sign in again.
                    StatusCode::UNAUTHORIZED => End::Close(code::UNAUTHORIZED, "The session or the key has ended"),
                    StatusCode::FORBIDDEN => End::Close(code::FORBIDDEN, "Forbidden"),
                    _ => End::Close(code::RESTART, "Try again"),
                });
            }
        };
        self.signed_out = until.map(|left| Instant::now() + left);
        self.watch = watch;
        Ok(())
    }

    /// The same; whose operations go on hears from each of them first that it is over.
    async fn stay_or_end(
        &mut self,
        socket: &mut WebSocket,
        said: &mut mpsc::Receiver<FromOperation>,
    ) -> Result<(), End> {
        let Err(end) = self.stay().await else { return Ok(()) };
        let last_words = async {
            while !self.operations.is_empty() {
                let Some(FromOperation { id, number, said }) = said.recv().await else { break };
                self.tell(socket, id, number, said).await?;
            }
            Ok(())
        };
        timeout(LAST_WORDS, last_words).await.unwrap_or(Ok(()))?;
        Err(end)
    }

    async fn subscribe(&mut self, socket: &mut WebSocket, id: String, request: GraphqlRequest) -> Result<(), End> {
        if id.is_empty() || id.len() > MAX_ID {
            return Err(End::Close(code::BAD_REQUEST, "The id of an operation has 1 to 200 characters"));
        }
        if self.operations.contains_key(&id) {
            return Err(End::Close(code::DUPLICATE, "There is an operation of this id already"));
        }
        let trace = self.exchange.trace().to_owned();
        let most = self.state.limits.operations_per_socket;
        let begun = if self.operations.len() >= most {
            let message =
                format!("A socket may have max_operations_per_socket = {most} operations. Complete one first.");
            let refusal = Refusal::limit(StatusCode::BAD_REQUEST, "max_operations_per_socket", most as u64, message);
            Err(Box::new(refusal.found(most as u64 + 1).answer()))
        } else {
            self.begin(request).await
        };
        let (paid, operation) = match begun {
            Ok(begun) => begun,
            Err(mut answer) => {
                dress(&mut answer, &trace, None);
                return self.write(socket, &json!({ "id": id, "type": "error", "payload": answer.errors })).await;
            }
        };
        self.counted += 1;
        let (number, queue) = (self.counted, self.queue.clone());
        let answers = self.state.stream(trace, &self.who, operation, paid);
        let name = id.clone();
        let task = self.tasks.spawn(async move {
            let mut answers = std::pin::pin!(answers);
            let say = |said| queue.send(FromOperation { id: name.clone(), number, said });
            while let Some(answer) = answers.next().await {
                if say(Said::Answer(Box::new(answer))).await.is_err() {
                    return; // the socket is gone
                }
            }
            let _ = say(Said::Over).await;
        });
        self.operations.insert(id, (number, task));
        Ok(())
    }

    /// Passes on what an operation says, unless the client has completed it.
    async fn tell(&mut self, socket: &mut WebSocket, id: String, number: u64, said: Said) -> Result<(), End> {
        if self.operations.get(&id).is_none_or(|(known, _)| *known != number) {
            return Ok(());
        }
        match said {
            Said::Over => {
                self.operations.remove(&id);
                self.write(socket, &json!({ "id": id, "type": "complete" })).await
            }
            Said::Answer(answer) if answer.has_no_result() => {
                if let Some((_, task)) = self.operations.remove(&id) {
                    task.abort();
                }
                self.write(socket, &json!({ "id": id, "type": "error", "payload": answer.errors })).await
            }
            Said::Answer(answer) => {
                let id = serde_json::to_string(&id).unwrap_or_default();
                let text = format!(r#"{{"id":{id},"type":"next","payload":{}}}"#, answer.text());
                self.send(socket, Message::Text(text.into())).await
            }
        }
    }

    /// A task that did not come to its end: aborted by us, or a defect.
    async fn failed(&mut self, socket: &mut WebSocket, error: &tokio::task::JoinError) -> Result<(), End> {
        let of_task = |(_, (_, task)): &(&String, &(u64, AbortHandle))| task.id() == error.id();
        let Some(id) = self.operations.iter().find(of_task).map(|(id, _)| id.clone()) else { return Ok(()) };
        self.operations.remove(&id);
        let message = format!("Something went wrong on our side. Error id {}.", self.exchange.id());
        let mut answer = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message).answer();
        dress(&mut answer, self.exchange.trace(), None);
        self.write(socket, &json!({ "id": id, "type": "error", "payload": answer.errors })).await
    }

    async fn write(&self, socket: &mut WebSocket, message: &Value) -> Result<(), End> {
        self.send(socket, Message::Text(message.to_string().into())).await
    }

    /// Waits for the client to take the message, but not for ever.
    async fn send(&self, socket: &mut WebSocket, message: Message) -> Result<(), End> {
        let patience: Duration = self.state.limits.clocks.write;
        match timeout(patience, socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}

/// Completes when something happens that somebody is known by.
async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn with_payload(kind: &str, payload: Option<Value>) -> Value {
    match payload {
        Some(payload) => json!({ "type": kind, "payload": payload }),
        None => json!({ "type": kind }),
    }
}
