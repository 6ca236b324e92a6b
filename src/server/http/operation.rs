//! One operation: read within the limits, executed within its time, answered with a trace.

use std::time::Instant;

use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationType};
use async_graphql::{Request, Response as Answer, Value};
use axum::http::StatusCode;
use futures::{Stream, StreamExt};
use metrics::{counter, histogram};

use super::HttpState;
use super::access::Exchange;
use super::answer::{Refusal, code, finish};
use super::caller::Who;
use super::limits::{check_document, check_text};
use super::rate::Left;

/// What kind of operation it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It reads.
    Query,
    /// It changes.
    Mutation,
    /// It goes on.
    Subscription,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

/// An operation whose document was parsed and is within the limits.
pub struct Operation {
    /// Of the operation that was chosen.
    pub kind: Kind,
    /// The request, parsed.
    pub request: Request,
}

impl HttpState {
    /// Reads an operation: limits on the text, parser, limits on the document, choice of the operation.
    pub fn read(&self, exchange: &Exchange, mut request: Request) -> Result<Operation, Box<Answer>> {
        let limits = &self.limits.document;
        let refuse = |refusal: Refusal| Box::new(refusal.answer());
        check_text(&request.query, limits).map_err(|excess| refuse(excess.into()))?;
        if request.query.trim().is_empty() {
            return Err(refuse(Refusal::bad_request("There is no `query` in the request.")));
        }
        let wanted = request.operation_name.clone();
        let document = request.parsed_query().map_err(|error| Box::new(Answer::from_errors(vec![error])))?;
        check_document(document, limits).map_err(|excess| refuse(excess.into()))?;
        let (name, kind) = chosen(document, wanted.as_deref()).map_err(refuse)?;
        exchange.note_operation(name.unwrap_or(kind.label()));
        Ok(Operation { kind, request })
    }

    /// Executes an operation with one answer.
    pub async fn run(&self, exchange: &Exchange, who: &Who, operation: Operation, left: Option<Left>) -> Answer {
        let kind = operation.kind;
        let began = Instant::now();
        let mut answer = match who.caller(&operation.request.extensions) {
            Err(refusal) => refusal.answer(),
            Ok(caller) => {
                let limit = self.limits.request_timeout;
                let work = self.endpoint.execute(operation.request, caller);
                tokio::time::timeout(limit, work).await.unwrap_or_else(|_| too_slow(kind, limit).answer())
            }
        };
        histogram!("oriel_operation_seconds", "kind" => kind.label()).record(began.elapsed().as_secs_f64());
        count(kind, &answer);
        dress(&mut answer, exchange.trace(), left);
        answer
    }

    /// Executes any operation as a stream of answers. One with one answer has its time.
    pub fn stream(
        &self,
        trace: String,
        who: &Who,
        operation: Operation,
        left: Option<Left>,
    ) -> impl Stream<Item = Answer> + Send + use<> {
        let kind = operation.kind;
        let limit = self.limits.request_timeout;
        let answers = who.caller(&operation.request.extensions);
        let answers = answers.map(|caller| self.endpoint.execute_stream(operation.request, caller));
        async_stream::stream! {
            let mut answers = match answers {
                Ok(answers) => answers,
                Err(refusal) => {
                    let mut answer = refusal.answer();
                    dress(&mut answer, &trace, left);
                    yield answer;
                    return;
                }
            };
            let began = Instant::now();
            let mut first = true;
            loop {
                let next = match kind {
                    Kind::Subscription => answers.next().await,
                    Kind::Query | Kind::Mutation => match tokio::time::timeout(limit, answers.next()).await {
                        Ok(next) => next,
                        Err(_) => Some(too_slow(kind, limit).answer()),
                    },
                };
                let Some(mut answer) = next else { return };
                if std::mem::take(&mut first) {
                    count(kind, &answer);
                }
                dress(&mut answer, &trace, left);
                yield answer;
                if kind != Kind::Subscription {
                    histogram!("oriel_operation_seconds", "kind" => kind.label()).record(began.elapsed().as_secs_f64());
                    return;
                }
            }
        }
    }
}

fn count(kind: Kind, answer: &Answer) {
    let outcome = if answer.is_ok() { "ok" } else { "error" };
    counter!("oriel_operations_total", "kind" => kind.label(), "outcome" => outcome).increment(1);
}

/// Trace id, codes, and what is left of the rate limit.
pub fn dress(answer: &mut Answer, trace: &str, left: Option<Left>) {
    finish(answer, trace);
    if let Some(Left { limit, remaining }) = left {
        let entries = [("limit", limit), ("remaining", remaining)];
        let entries = entries.map(|(name, number)| (async_graphql::Name::new(name), Value::from(number)));
        answer.extensions.insert("rateLimit".to_owned(), Value::Object(entries.into_iter().collect()));
    }
}

fn too_slow(kind: Kind, limit: std::time::Duration) -> Refusal {
    let advice = match kind {
        Kind::Mutation => "The change may have been made; repeat it with the same idempotencyKey to learn it.",
        Kind::Query | Kind::Subscription => "Ask for less at once: smaller pages, fewer relations.",
    };
    let message = format!("The operation took longer than request_timeout = {limit:?} and was ended. {advice}");
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Refusal::limit(StatusCode::SERVICE_UNAVAILABLE, "request_timeout", millis, message)
}

/// The operation that is meant, and its name.
fn chosen<'a>(document: &'a ExecutableDocument, wanted: Option<&str>) -> Result<(Option<&'a str>, Kind), Refusal> {
    let wanted = wanted.filter(|name| !name.is_empty());
    let (name, operation) = match (&document.operations, wanted) {
        (DocumentOperations::Single(operation), None) => (None, operation),
        (DocumentOperations::Multiple(operations), None) if operations.len() == 1 => {
            let (name, operation) = operations.iter().next().ok_or_else(unnamed)?;
            (Some(name.as_str()), operation)
        }
        (DocumentOperations::Multiple(_), None) => return Err(unnamed()),
        (DocumentOperations::Single(_), Some(_)) => return Err(unknown()),
        (DocumentOperations::Multiple(operations), Some(wanted)) => {
            let (name, operation) = operations.get_key_value(wanted).ok_or_else(unknown)?;
            (Some(name.as_str()), operation)
        }
    };
    let kind = match operation.node.ty {
        OperationType::Query => Kind::Query,
        OperationType::Mutation => Kind::Mutation,
        OperationType::Subscription => Kind::Subscription,
    };
    Ok((name, kind))
}

fn unnamed() -> Refusal {
    Refusal::bad_request("The document has several operations: say which one with `operationName`.")
}

fn unknown() -> Refusal {
    Refusal::bad_request("The document has no operation of the name that `operationName` says.")
}

/// Whether the answer says that the session is nobody's any more.
pub fn has_ended(answer: &Answer) -> bool {
    super::answer::has_no_result(answer) && code(answer) == Some("UNAUTHENTICATED")
}
