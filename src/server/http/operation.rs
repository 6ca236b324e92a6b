//! One operation: read within the limits, executed within its time, answered with a trace.

use std::sync::Arc;
use std::time::Instant;

use async_graphql::{Request, Value};
use aws_lc_rs::digest::{SHA256, digest};
use axum::http::StatusCode;
use futures::{Stream, StreamExt};
use metrics::{counter, histogram};
use oriel_kernel::trace::{self, Place, TARGET};
use oriel_schema::endpoint::{Answer, Caller, Document, Kind, Operation};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::HttpState;
use super::access::Exchange;
use super::answer::{Refusal, finish};
use super::caller::{Paid, Who};
use super::introspection::{asks_for_the_schema, keep_to_itself};
use super::limits::{DocumentLimits, Excess, check_document, check_text, check_variables};
use super::persisted::warnings;

/// Parsed documents that are within the limits, by the hash of their text.
pub struct Documents {
    kept: moka::sync::Cache<[u8; 32], Arc<Document>>,
    limits: DocumentLimits,
}

impl Documents {
    /// Keeps documents of about so many bytes of text.
    pub fn new(limits: DocumentLimits, bytes: u64) -> Self {
        // What was parsed takes several times the memory of its text.
        let weigh = |_: &[u8; 32], document: &Arc<Document>| document.weight();
        Self { kept: moka::sync::Cache::builder().max_capacity(bytes).weigher(weigh).build(), limits }
    }

    /// The document of this text: limits on the text, parser, limits on the document.
    pub fn read(&self, text: &str) -> Result<Arc<Document>, Box<Answer>> {
        let refuse = |refusal: Refusal| Box::new(refusal.answer());
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        if let Some(document) = self.kept.get(&hash) {
            return Ok(document);
        }
        check_text(text, &self.limits).map_err(|excess| refuse(excess.into()))?;
        if text.trim().is_empty() {
            return Err(refuse(Refusal::bad_request("There is no `query` in the request.")));
        }
        let document = Document::parse(text).map_err(|error| Box::new(Answer::from_errors(vec![error])))?;
        check_document(document.parsed(), &self.limits).map_err(|excess| refuse(excess.into()))?;
        let document = Arc::new(document);
        self.kept.insert(hash, Arc::clone(&document));
        Ok(document)
    }
}

impl HttpState {
    /// What a request asks for, and what that costs: its document, the limits on its variables, its price.
    pub fn price(&self, request: &Request) -> Result<(Arc<Document>, u64), Box<Answer>> {
        let refuse = |excess: Excess| Box::new(Refusal::from(excess).answer());
        let document = self.documents.read(&request.query)?;
        check_variables(&request.variables, &self.limits.document).map_err(refuse)?;
        let cost = self.prices.of(document.parsed(), request.operation_name.as_deref(), &request.variables);
        Ok((document, cost.map_err(refuse)?))
    }

    /// Reads an operation and its price, within the limits, and chooses it.
    pub fn read(&self, exchange: &Exchange, request: Request) -> Result<(Operation, u64), Box<Answer>> {
        let refuse = |refusal: Refusal| Box::new(refusal.answer());
        let (document, cost) = self.price(&request)?;
        let unclear = |unclear: oriel_schema::endpoint::Unclear| refuse(Refusal::bad_request(unclear.0));
        let (name, kind) = document.choose(request.operation_name.as_deref()).map_err(unclear)?;
        exchange.note_operation(name.unwrap_or(kind.label()));
        Ok((Operation::new(document, request).map_err(unclear)?, cost))
    }

    /// Executes an operation with one answer.
    pub async fn run(&self, exchange: &Exchange, who: &Who, operation: Operation, paid: Paid) -> Answer {
        let kind = operation.kind();
        let began = Instant::now();
        let warnings = warnings(operation.extensions());
        let hidden = self.may_see_the_schema(who).await.err();
        let caller = who.caller(operation.extensions()).and_then(|caller| passes(&operation, hidden.as_ref(), caller));
        let mut answer = match caller {
            Err(refusal) => refusal.answer(),
            Ok(caller) => {
                let limit = self.limits.request_timeout;
                let span = span(&operation);
                let work = self.endpoint.execute(operation, caller).instrument(span);
                tokio::time::timeout(limit, work).await.unwrap_or_else(|_| too_slow(kind, limit).answer())
            }
        };
        if hidden.is_some() {
            keep_to_itself(&mut answer);
        }
        histogram!("oriel_operation_seconds", "kind" => kind.label()).record(began.elapsed().as_secs_f64());
        count(kind, &answer);
        dress(&mut answer, exchange.trace(), Some(paid));
        answer.extensions.extend(warnings.map(|list| ("warnings".to_owned(), list)));
        answer
    }

    /// Executes any operation as a stream of answers. One with one answer has its time.
    pub fn stream(
        &self,
        trace: String,
        who: &Who,
        operation: Operation,
        paid: Paid,
    ) -> impl Stream<Item = Answer> + Send + use<> {
        let kind = operation.kind();
        let limit = self.limits.request_timeout;
        let warnings = warnings(operation.extensions());
        let (state, who) = (self.clone(), who.clone());
        async_stream::stream! {
            let hidden = state.may_see_the_schema(&who).await.err();
            let caller = who.caller(operation.extensions());
            let caller = caller.and_then(|caller| passes(&operation, hidden.as_ref(), caller));
            // A subscription is as long as somebody listens: what it does is told by what it executes.
            let span = if kind == Kind::Subscription { Span::none() } else { span(&operation) };
            if let Ok(trace) = Uuid::try_parse(&trace) {
                trace::follow(&span, Place::start(trace));
            }
            let mut answers = match caller.map(|caller| state.endpoint.execute_stream(operation, caller)) {
                Ok(answers) => answers,
                Err(refusal) => {
                    let mut answer = refusal.answer();
                    dress(&mut answer, &trace, Some(paid));
                    yield answer;
                    return;
                }
            };
            let began = Instant::now();
            let mut first = true;
            loop {
                let next = match kind {
                    Kind::Subscription => answers.next().await,
                    Kind::Query | Kind::Mutation => match tokio::time::timeout(limit, answers.next().instrument(span.clone())).await {
                        Ok(next) => next,
                        Err(_) => Some(too_slow(kind, limit).answer()),
                    },
                };
                let Some(mut answer) = next else { return };
                if std::mem::take(&mut first) {
                    count(kind, &answer);
                }
                if hidden.is_some() {
                    keep_to_itself(&mut answer);
                }
                dress(&mut answer, &trace, Some(paid));
                answer.extensions.extend(warnings.clone().map(|list| ("warnings".to_owned(), list)));
                yield answer;
                if kind != Kind::Subscription {
                    histogram!("oriel_operation_seconds", "kind" => kind.label()).record(began.elapsed().as_secs_f64());
                    return;
                }
            }
        }
    }
}

/// Lets an operation pass which does not ask for a schema that is hidden.
fn passes(operation: &Operation, hidden: Option<&Refusal>, caller: Caller) -> Result<Caller, Refusal> {
    match hidden {
        Some(refusal) if asks_for_the_schema(operation.document().parsed()) => Err(refusal.clone()),
        _ => Ok(Caller { schema_is_hidden: hidden.is_some(), ..caller }),
    }
}

/// That of an execution.
fn span(operation: &Operation) -> Span {
    tracing::debug_span!(
        target: TARGET,
        "operation",
        otel.name = format!("{} {}", operation.kind().label(), operation.name().unwrap_or_default()).trim_end(),
        graphql.operation.type = operation.kind().label(),
        graphql.operation.name = operation.name(),
    )
}

fn count(kind: Kind, answer: &Answer) {
    let outcome = if answer.is_ok() { "ok" } else { "error" };
    counter!("oriel_operations_total", "kind" => kind.label(), "outcome" => outcome).increment(1);
}

/// Trace id, codes, and what it costs: `limit` is what one operation may, `remaining` what is left of the rate limit.
pub fn dress(answer: &mut Answer, trace: &str, paid: Option<Paid>) {
    finish(answer, trace);
    if let Some(Paid { cost, most, left }) = paid {
        let remaining = left.map(|left| ("remaining", u64::from(left.remaining)));
        let entries = [("requested", cost), ("limit", most)].into_iter().chain(remaining);
        let entries = entries.map(|(name, number)| (async_graphql::Name::new(name), Value::from(number)));
        answer.extensions.insert("cost".to_owned(), Value::Object(entries.collect()));
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

/// Whether the answer says that the session is nobody's any more.
pub fn has_ended(answer: &Answer) -> bool {
    answer.has_no_result() && answer.code() == Some("UNAUTHENTICATED")
}
