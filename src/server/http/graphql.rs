//! `POST /graphql` and `GET /graphql`: one operation or a batch, answered as JSON or, where there are many answers, as
//! events. Follows the GraphQL-over-HTTP specification; a browser form can send none of this.

use async_graphql::{Request as GraphqlRequest, Value};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use oriel_schema::endpoint::{Answer, Kind, Operation};
use serde::Deserialize;

use super::HttpState;
use super::access::Exchange;
use super::answer::{Accepts, Format, Refusal, json, of_get, status};
use super::body::collect;
use super::caller::{Paid, Who, at_least_cookie, bearer};
use super::operation::dress;
use super::persisted::{Sent, name_document, names_document};
use super::{multipart, multipart_stream, sse, sse_single, websocket};

/// Lists and objects within each other, in what the reader of JSON takes.
const JSON_NESTING: u64 = 127;

/// What a request holds.
pub enum Incoming {
    /// One operation.
    Single(Box<GraphqlRequest>),
    /// Several.
    Batch(Vec<GraphqlRequest>),
}

/// A query in the URL, a subscription as a stream of events, or the beginning of a WebSocket.
pub async fn get(
    State(state): State<HttpState>,
    Extension(exchange): Extension<Exchange>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    if websocket::is_asked_for(&parts.headers) {
        return websocket::open(state, exchange, parts).await;
    }
    let answered = async {
        let accepts = Accepts::of(&parts.headers)?;
        let who = state.identify(&exchange, &parts.headers, bearer(&parts.headers)?).await?;
        if accepts.best == Format::EventStream
            && let Some(token) = sse_single::named(&parts)
        {
            return sse_single::connect(&state, &who, token);
        }
        let incoming = Incoming::Single(Box::new(of_uri(&parts.uri)?));
        state.answer(&exchange, &who, incoming, accepts, Some(&parts.headers)).await
    };
    answered.await.unwrap_or_else(|refusal: Refusal| refusal.response(exchange.trace()))
}

/// Operations in the body.
pub async fn post(
    State(state): State<HttpState>,
    Extension(exchange): Extension<Exchange>,
    request: Request,
) -> Response {
    let answered = async {
        let (parts, body) = request.into_parts();
        let accepts = Accepts::of(&parts.headers)?;
        let who = state.identify(&exchange, &parts.headers, bearer(&parts.headers)?).await?;
        match media_type(&parts.headers).as_str() {
            "application/json" => {
                let incoming = parse(&state.body(body).await?)?;
                match (sse_single::named(&parts), incoming) {
                    (Some(token), Incoming::Single(request)) => {
                        sse_single::execute(&state, &exchange, &who, *request, &token).await
                    }
                    (_, incoming) => state.answer(&exchange, &who, incoming, accepts, None).await,
                }
            }
            "multipart/form-data" => {
                let (incoming, files) = multipart::receive(&state, &exchange, &who, &parts.headers, body).await?;
                let who = who.with_uploads(files.uploads().clone());
                let response = state.answer(&exchange, &who, incoming, accepts, None).await;
                files.clear().await;
                response
            }
            _ => Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "BAD_REQUEST",
                "Send application/json, or multipart/form-data with files (the GraphQL multipart request specification).",
            )),
        }
    };
    answered.await.unwrap_or_else(|refusal: Refusal| refusal.response(exchange.trace()))
}

impl HttpState {
    /// Executes what came in; `get`: the headers of a GET.
    async fn answer(
        &self,
        exchange: &Exchange,
        who: &Who,
        incoming: Incoming,
        accepts: Accepts,
        get: Option<&HeaderMap>,
    ) -> Result<Response, Refusal> {
        match incoming {
            Incoming::Single(request) => {
                self.charge(who, 1)?;
                self.single(exchange, who, *request, accepts, get).await
            }
            Incoming::Batch(requests) => {
                let most = self.limits.batch;
                if requests.len() > most {
                    let found = requests.len();
                    let message =
                        format!("A batch may hold max_batch = {most} operations; this one has {found}. Send several.");
                    let refusal = Refusal::limit(StatusCode::BAD_REQUEST, "max_batch", most as u64, message);
                    return Err(refusal.found(found as u64));
                }
                self.charge(who, requests.len() as u64)?;
                Ok(self.batch(exchange, who, requests, accepts).await)
            }
        }
    }

    async fn single(
        &self,
        exchange: &Exchange,
        who: &Who,
        mut request: GraphqlRequest,
        accepts: Accepts,
        get: Option<&HeaderMap>,
    ) -> Result<Response, Refusal> {
        self.resolve(who, &mut request).await?;
        if request.query.trim().is_empty() {
            // Not a request at all: 400, whatever the media type.
            let mut answer = Refusal::bad_request("There is no `query` in the request.").answer();
            dress(&mut answer, exchange.trace(), None);
            return Ok(json(StatusCode::BAD_REQUEST, accepts.best, &answer));
        }
        let (operation, cost) = match self.read(exchange, request) {
            Ok(read) => read,
            Err(mut answer) => {
                dress(&mut answer, exchange.trace(), None);
                if accepts.best == Format::EventStream {
                    return Ok(sse::refused(&answer));
                }
                return Ok(json(status(&answer, accepts.best), accepts.best, &answer));
            }
        };
        if get.is_some() && operation.kind() == Kind::Mutation {
            let message = "A mutation has to be sent with POST.";
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST", message);
            let mut response = refusal.response(exchange.trace());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return Ok(response);
        }
        let paid = self.pay(who, cost).await?;
        let is_subscription = operation.kind() == Kind::Subscription;
        if accepts.best == Format::Multipart || (is_subscription && accepts.parts) {
            return multipart_stream::stream(self, exchange, who, operation, paid);
        }
        if accepts.best == Format::EventStream || (is_subscription && accepts.events) {
            return sse::stream(self, exchange, who, operation, paid);
        }
        if is_subscription {
            return Err(no_single_answer());
        }
        let is_mutation = operation.kind() == Kind::Mutation;
        let answer = self.run(exchange, who, operation, paid).await;
        if let Some(headers) = get {
            return Ok(of_get(&answer, accepts.best, headers));
        }
        let mut response = json(status(&answer, accepts.best), accepts.best, &answer);
        if is_mutation {
            self.remember_position(&mut response, &answer);
        }
        Ok(response)
    }

    /// Executes a batch: queries side by side, anything with a mutation in the order in which it was written.
    async fn batch(&self, exchange: &Exchange, who: &Who, requests: Vec<GraphqlRequest>, accepts: Accepts) -> Response {
        let read = async |mut request| {
            let refuse = |refusal: Refusal| Box::new(refusal.answer());
            self.resolve(who, &mut request).await.map_err(refuse)?;
            let (operation, cost) = self.read(exchange, request)?;
            Ok((operation, self.pay(who, cost).await.map_err(refuse)?))
        };
        let mut operations: Vec<Result<(Operation, Paid), Box<Answer>>> = Vec::with_capacity(requests.len());
        for request in requests {
            operations.push(read(request).await);
        }
        let changes = operations.iter().flatten().any(|(operation, _)| operation.kind() == Kind::Mutation);
        let work = operations.into_iter().map(|operation| async move {
            let mut refused = match operation {
                Ok((operation, paid)) if operation.kind() != Kind::Subscription => {
                    return self.run(exchange, who, operation, paid).await;
                }
                Ok(_) => no_single_answer().answer(),
                Err(answer) => *answer,
            };
            dress(&mut refused, exchange.trace(), None);
            refused
        });
        let answers = if changes {
            let mut answers = Vec::with_capacity(work.len());
            for operation in work {
                answers.push(operation.await);
            }
            answers
        } else {
            futures::future::join_all(work).await
        };
        let format = if accepts.best == Format::EventStream { Format::Json } else { accepts.best };
        let mut response = json(StatusCode::OK, format, &answers);
        if changes && let Some(last) = answers.last() {
            self.remember_position(&mut response, last);
        }
        response
    }

    /// A browser sends the position of its change back by itself.
    fn remember_position(&self, response: &mut Response, answer: &Answer) {
        if let Some(Value::String(position)) = answer.extensions.get("position")
            && let Some(cookie) = at_least_cookie(position, self.https)
        {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
    }

    /// The body, if it is small enough and comes soon enough.
    async fn body(&self, body: Body) -> Result<Bytes, Refusal> {
        let most = usize::try_from(self.limits.body_bytes).unwrap_or(usize::MAX);
        collect(body, most, self.limits.pace).await
    }
}

fn no_single_answer() -> Refusal {
    Refusal::bad_request(
        "A subscription has many answers: open a WebSocket (graphql-transport-ws), or accept text/event-stream or multipart/mixed.",
    )
}

/// The media type without its parameters.
fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// One operation or a batch, as JSON.
pub fn parse(body: &[u8]) -> Result<Incoming, Refusal> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let parsed = match first {
        Some(b'[') => serde_json::from_slice(body)
            .map(|all: Vec<Sent>| Incoming::Batch(all.into_iter().map(GraphqlRequest::from).collect())),
        _ => serde_json::from_slice(body).map(|sent: Sent| Incoming::Single(Box::new(sent.into()))),
    };
    match parsed {
        Ok(Incoming::Batch(requests)) if requests.is_empty() => Err(Refusal::bad_request("The batch is empty.")),
        Ok(incoming) => Ok(incoming),
        Err(error) => Err(unreadable("The body is not a GraphQL request in JSON", &error)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    #[serde(default)]
    query: String,
    document_id: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
    extensions: Option<String>,
}

fn of_uri(uri: &Uri) -> Result<GraphqlRequest, Refusal> {
    let Query(parameters) = Query::<Parameters>::try_from_uri(uri)
        .map_err(|_| Refusal::bad_request("The parameters of the URL cannot be read; each may come once."))?;
    let mut request = GraphqlRequest::new(parameters.query);
    request.operation_name = parameters.operation_name;
    if let Some(text) = parameters.variables {
        request.variables = inside(&text, "variables")?;
    }
    if let Some(text) = parameters.extensions {
        request.extensions = inside(&text, "extensions")?;
    }
    if let Some(id) = parameters.document_id {
        name_document(&mut request, id);
    }
    if request.query.trim().is_empty() && !names_document(&request) {
        return Err(Refusal::bad_request(
            "This is the GraphQL endpoint: send a POST, or a GET with the parameter `query` or `documentId`.",
        ));
    }
    Ok(request)
}

fn inside<T: serde::de::DeserializeOwned + Default>(text: &str, name: &str) -> Result<T, Refusal> {
    let parsed: Result<Option<T>, _> = serde_json::from_str(text);
    parsed.map(Option::unwrap_or_default).map_err(|error| unreadable(&format!("`{name}` is not a JSON object"), &error))
}

/// What is not JSON, or nests too deep to be read.
fn unreadable(what: &str, error: &serde_json::Error) -> Refusal {
    if error.to_string().starts_with("recursion limit exceeded") {
        let message =
            format!("{what} that can be read: nesting = {JSON_NESTING} is allowed. Nest lists and objects less.");
        return Refusal::limit(StatusCode::BAD_REQUEST, "nesting", JSON_NESTING, message);
    }
    Refusal::bad_request(format!("{what}: {error}."))
}
