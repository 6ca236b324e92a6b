//! Answers and refusals as bytes and status codes.
//!
//! Invariants: every error has `extensions.code`; an answer without a result has no `data`, one whose result became
//! null has `data: null`; every answer carries the id of its trace as `extensions.traceId`.

use std::time::Duration;

use async_graphql::{ErrorExtensionValues, ServerError, Value};
use axum::body::Body;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use metrics::counter;
use oriel_schema::endpoint::Answer;
use serde::Serialize;

use super::codes::status_of;
use super::limits::Excess;

/// Why a request is not done.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// For HTTP.
    pub status: StatusCode,
    /// `extensions.code`.
    pub code: &'static str,
    /// What is wrong and how to mend it.
    pub message: String,
    /// When to come again.
    pub retry_after: Option<Duration>,
    /// More for programs.
    details: Vec<(&'static str, Value)>,
}

impl Refusal {
    /// With this status, code and text.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, details: Vec::new() }
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// The token is missing or not good.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message)
    }

    /// A limit of this value was passed.
    pub fn limit(status: StatusCode, name: &'static str, allowed: u64, message: impl Into<String>) -> Self {
        let mut refusal = Self::new(status, "LIMIT_EXCEEDED", message);
        refusal.details = vec![("limit", Value::from(name)), ("allowed", Value::from(allowed))];
        refusal
    }

    /// Says what was found beside what is allowed.
    pub fn found(mut self, found: u64) -> Self {
        self.details.push(("found", Value::from(found)));
        self
    }

    /// There is no room for changes.
    pub fn overloaded() -> Self {
        let message = "Too many changes wait at the moment. Nothing of the file was read. Try again after a second.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", message).after(Duration::from_secs(1))
    }

    /// Asks to come again after this time.
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// As a GraphQL error.
    pub fn error(&self) -> ServerError {
        counter!("oriel_refusals_total", "code" => self.code).increment(1);
        let mut extensions = ErrorExtensionValues::default();
        extensions.set("code", self.code);
        if let Some(wait) = self.retry_after {
            extensions.set("retryAfter", seconds(wait));
        }
        for (name, value) in &self.details {
            extensions.set(name, value.clone());
        }
        let mut error = ServerError::new(self.message.clone(), None);
        error.extensions = Some(extensions);
        error
    }

    /// As the answer to an operation.
    pub fn answer(&self) -> Answer {
        Answer::from_errors(vec![self.error()])
    }

    /// As the answer to an HTTP request.
    pub fn response(&self, trace: &str) -> Response {
        let mut answer = self.answer();
        finish(&mut answer, trace);
        let mut response = json(self.status, Format::Json, &answer);
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds(wait).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Whole seconds, at least one.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs_f64().ceil().max(1.0) as u64
}

impl From<Excess> for Refusal {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Circle => Self::bad_request("A fragment contains itself."),
            Excess::Limit { name, allowed, found, at_least, advice } => {
                let found_text = if at_least { format!("at least {found}") } else { found.to_string() };
                let message =
                    format!("The document is over {name}: {allowed} is allowed, it has {found_text}. {advice}");
                Self::limit(StatusCode::BAD_REQUEST, name, allowed, message).found(found)
            }
        }
    }
}

/// What the schema says, as an error of the transport: its code and its text. The status is that of the code, where it
/// is known.
pub fn refuse_with(status: StatusCode, error: async_graphql::Error) -> Refusal {
    let known =
        ["UNAUTHENTICATED", "ORGANIZATION_SUSPENDED", "UNAVAILABLE", "BEHIND", "POSITION_UNKNOWN", "OVERLOADED"];
    let code = error.extensions.as_ref().and_then(|extensions| match extensions.get("code") {
        Some(Value::String(code)) => known.into_iter().find(|known| known == code),
        _ => None,
    });
    let status = code.and_then(status_of).unwrap_or(status);
    Refusal::new(status, code.unwrap_or("INTERNAL"), error.message)
}

/// How an answer is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `application/graphql-response+json`: the status says whether there is a result.
    GraphqlResponse,
    /// `application/json`: 200 for whatever is an answer.
    Json,
    /// `text/event-stream`.
    EventStream,
    /// `multipart/mixed` with `subscriptionSpec`, as Apollo Client asks for the answers of a subscription.
    Multipart,
}

/// What the client accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepts {
    /// What it likes best.
    pub best: Format,
    /// Whether a stream of events would do.
    pub events: bool,
    /// Whether the parts of one answer would do, for a subscription.
    pub parts: bool,
}

impl Accepts {
    /// Reads `Accept`. Without one: JSON.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        let mut any = false;
        let mut best: Option<(f32, Format)> = None;
        let (mut events, mut parts_do) = (false, false);
        for range in ranges {
            any |= !range.trim().is_empty();
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/graphql-response+json" => Format::GraphqlResponse,
                "application/json" | "application/*" | "*/*" => Format::Json,
                "text/event-stream" => Format::EventStream,
                "multipart/mixed" if range.to_ascii_lowercase().contains("subscriptionspec=") => Format::Multipart,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok());
            let Some(quality) = quality.filter(|quality| *quality > 0.0) else { continue };
            events |= format == Format::EventStream;
            if format == Format::Multipart {
                parts_do = true;
                continue; // for a subscription alone, whatever else is liked better
            }
            if best.is_none_or(|(known, _)| quality > known) {
                best = Some((quality, format));
            }
        }
        match best {
            Some((_, best)) => Ok(Self { best, events, parts: parts_do }),
            None if parts_do => Ok(Self { best: Format::Multipart, events, parts: true }),
            None if !any => Ok(Self { best: Format::Json, events: false, parts: false }),
            None => Err(Refusal::new(
                StatusCode::NOT_ACCEPTABLE,
                "BAD_REQUEST",
                "Accept application/graphql-response+json, application/json or text/event-stream.",
            )),
        }
    }
}

/// Gives every error a code, and the answer its trace id.
pub fn finish(answer: &mut Answer, trace: &str) {
    for error in &mut answer.errors {
        let extensions = error.extensions.get_or_insert_default();
        if extensions.get("code").is_none() {
            // What the schema itself refuses: a document or a value that does not fit it.
            extensions.set("code", "BAD_REQUEST");
        }
        let is_told = |code: &Value| matches!(code, Value::String(code) if status_of(code).is_some());
        debug_assert!(
            extensions.get("code").is_some_and(is_told),
            "an error has a code that is not in CODES: {error:?}"
        );
    }
    answer.extensions.insert("traceId".to_owned(), Value::from(trace));
}

/// The status of an answer.
pub fn status(answer: &Answer, format: Format) -> StatusCode {
    if !answer.has_no_result() {
        return StatusCode::OK;
    }
    match (answer.code(), format) {
        // A token refuses the whole request, whoever noticed it.
        (Some("UNAUTHENTICATED"), _) => StatusCode::UNAUTHORIZED,
        (_, Format::Json | Format::EventStream | Format::Multipart) => StatusCode::OK,
        (code, Format::GraphqlResponse) => code.and_then(status_of).unwrap_or(StatusCode::BAD_REQUEST),
    }
}

/// JSON as an HTTP answer that nobody keeps.
pub fn json(status: StatusCode, format: Format, body: &impl Serialize) -> Response {
    let media_type = match format {
        Format::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        Format::Json | Format::EventStream | Format::Multipart => "application/json; charset=utf-8",
    };
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.append(VARY, HeaderValue::from_static("accept"));
    response
}

/// The answer to a query in a URL. One that holds until something changes has a tag, by which a client that has it
/// already is told so; nobody but this client may keep it, and only to ask again.
pub fn of_get(answer: &Answer, format: Format, headers: &HeaderMap) -> Response {
    let tag = answer.tag().and_then(|tag| HeaderValue::from_str(&tag).ok());
    let Some(tag) = tag else { return json(status(answer, format), format, answer) };
    let mut response = if is_known(headers, &tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().append(VARY, HeaderValue::from_static("accept"));
        response
    } else {
        json(status(answer, format), format, answer)
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, tag);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.append(VARY, HeaderValue::from(AUTHORIZATION));
    response
}

/// Whether `If-None-Match` names this tag; compared weakly, as RFC 9110 says.
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Ok(tag) = tag.to_str().map(opaque) else { return false };
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).any(|one| one.trim() == "*" || opaque(one) == tag)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn accepts(value: &str) -> Result<Accepts, StatusCode> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(value).unwrap())]);
        Accepts::of(&headers).map_err(|refusal| refusal.status)
    }

    #[test]
    fn what_known_clients_accept_is_understood() {
        let plain = |best| Ok(Accepts { best, events: false, parts: false });
        assert_eq!(Accepts::of(&HeaderMap::new()).unwrap(), plain(Format::Json).unwrap());
        assert_eq!(accepts("*/*"), plain(Format::Json));
        assert_eq!(accepts(""), plain(Format::Json));
        assert_eq!(
            accepts("application/graphql-response+json, application/json;q=0.9"),
            plain(Format::GraphqlResponse)
        );
        assert_eq!(
            accepts("application/json;q=0.5,application/graphql-response+json;q=0.6"),
            plain(Format::GraphqlResponse)
        );
        let urql = "application/graphql-response+json, application/json, text/event-stream, multipart/mixed";
        assert_eq!(accepts(urql), Ok(Accepts { best: Format::GraphqlResponse, events: true, parts: false }));
        let apollo = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/graphql-response+json,application/json;q=0.9";
        assert_eq!(accepts(apollo), Ok(Accepts { best: Format::GraphqlResponse, events: false, parts: true }));
        assert_eq!(accepts("text/event-stream"), Ok(Accepts { best: Format::EventStream, events: true, parts: false }));
        assert_eq!(accepts("text/html, image/png"), Err(StatusCode::NOT_ACCEPTABLE));
        assert_eq!(accepts("application/json;q=0"), Err(StatusCode::NOT_ACCEPTABLE));
    }

    #[test]
    fn a_refused_operation_has_no_data_and_a_failed_field_has_null() {
        let refused = Refusal::bad_request("no").answer();
        assert_eq!(refused.text(), r#"{"errors":[{"message":"no","extensions":{"code":"BAD_REQUEST"}}]}"#);
        let mut response = async_graphql::Response::from_errors(refused.errors);
        response.errors[0].path = vec![async_graphql::PathSegment::Field("a".into())];
        let failed = Answer::from(response);
        assert!(failed.text().contains(r#""data":null"#));
        assert_eq!(status(&failed, Format::GraphqlResponse), StatusCode::OK);
        assert!(Answer::from(async_graphql::Response::new(Value::Null)).text().contains(r#""data":null"#));
    }

    #[test]
    fn a_tag_is_compared_weakly_and_in_a_list() {
        let knows = |list: &str| {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(list).unwrap())]);
            is_known(&headers, &HeaderValue::from_static("W/\"ab\""))
        };
        assert!(knows("W/\"ab\"") && knows("\"ab\"") && knows("\"x\", W/\"ab\"") && knows("*"));
        assert!(!knows("W/\"abc\"") && !knows("ab"));
    }

    #[test]
    fn every_error_gets_a_code_and_every_answer_its_trace() {
        let mut answer = Answer::from_errors(vec![ServerError::new("no such field", None)]);
        finish(&mut answer, "t1");
        assert_eq!(answer.code(), Some("BAD_REQUEST"));
        assert_eq!(answer.extensions["traceId"], Value::from("t1"));
        assert_eq!(status(&answer, Format::Json), StatusCode::OK);
        assert_eq!(status(&answer, Format::GraphqlResponse), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_refusal_names_its_limit_and_its_wait_in_whole_seconds() {
        let refusal = Refusal::limit(StatusCode::PAYLOAD_TOO_LARGE, "max_body_bytes", 7, "too large");
        let error = refusal.after(Duration::from_millis(1_200)).error();
        let extensions = serde_json::to_value(error.extensions.unwrap()).unwrap();
        let wanted =
            serde_json::json!({"code": "LIMIT_EXCEEDED", "limit": "max_body_bytes", "allowed": 7, "retryAfter": 2});
        assert_eq!(extensions, wanted);
    }
}
