//! Persisted operations: publishing what clients will send, and taking it out of use.
//!
//! Invariants: what is published was parsed, fits the schema and is within the limits of a request, as of its
//! publishing. Publishing is safe to repeat: what stands there already is left as it is.

use std::sync::Arc;

use async_graphql::parser::types::{ExecutableDocument, OperationType};
use async_graphql::{Context, Enum, InputObject, SimpleObject};
use futures::StreamExt;
use oriel_domain::persisted_operations::{
    OperationBody, OperationHash, OperationKind, OperationName, PersistedOperationId, PublishOperation,
    RetireOperation, persisted_operation_id,
};
use oriel_engine::CommandContext;
use oriel_engine::read::{Connection, PageArgs};
use oriel_kernel::{ErrorCode, Position, Rejection, UserError, operations};
use oriel_read_models::persisted_operations::{
    Model as PersistedOperation, PersistedOperationFilter, PersistedOperationOrder,
};

use crate::access::{Failure, Problems, Result, derived_command, reader};
use crate::payload::payloads;
use crate::services::Services;
use crate::validation::{SchemaIsHidden, validate, without_suggestion};

/// The most operations of one call.
const MAX_OPERATIONS: usize = 1_000;
/// How many of them are on their way at a time: enough to share commits, too few to keep others waiting.
const AT_ONCE: usize = 32;

/// What can be asked about persisted operations.
#[derive(Default)]
pub struct PersistedOperationQuery;

/// What can be done with persisted operations.
#[derive(Default)]
pub struct PersistedOperationMutation;

payloads! {
    /// What became of the operations that were to be published. Unlike elsewhere, some may have been published while
    /// others were refused: the fields are there beside `userErrors`, which has one entry for each problem, with the
    /// place of its operation in the path, such as `["input", "operations", "3", "body"]`.
    OperationsPublishPayload {
        /// How many are published now that were not before.
        added: i32,
        /// How many were published before.
        unchanged: i32,
        /// How many were refused.
        refused: i32,
        /// What became of each, in the order of the input.
        results: Vec<OperationPublishResult>,
    }

    /// What became of taking an operation out of use.
    OperationRetirePayload {
        /// The operation as it was published.
        persisted_operation: Arc<PersistedOperation>,
    }
}

/// What became of one operation.
#[derive(SimpleObject)]
pub struct OperationPublishResult {
    /// Its hash, as it was sent.
    hash: String,
    /// What became of it.
    outcome: OperationPublishOutcome,
}

/// What became of an operation that was to be published.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum OperationPublishOutcome {
    /// It is published now and was not before.
    Added,
    /// It was published before.
    Unchanged,
    /// It is not published, for the reason in `userErrors`.
    Refused,
}

/// The root fields by which the operations of an organisation are looked after.
pub fn administration() -> impl Iterator<Item = &'static str> {
    PersistedOperationQuery::OPERATIONS.iter().chain(PersistedOperationMutation::OPERATIONS).map(|field| field.name)
}

#[operations(query)]
impl PersistedOperationQuery {
    /// The persisted operation with this id; null when there is none, or not any more.
    #[permission("operations:view")]
    async fn persisted_operation(
        &self,
        cx: &Context<'_>,
        id: PersistedOperationId,
    ) -> Result<Option<Arc<PersistedOperation>>> {
        Ok(reader(cx)?.get(id).await?)
    }

    /// The operations that clients of your organization may send by their hash, in the order of their ids unless
    /// another is asked for.
    #[permission("operations:view")]
    #[allow(clippy::too_many_arguments)]
    async fn persisted_operations(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<PersistedOperationFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<PersistedOperationOrder>>,
    ) -> Result<Connection<PersistedOperation>> {
        let reader = reader(cx)?;
        let all = PersistedOperation::in_org(reader.organization());
        Ok(reader.page(all, PageArgs::new(first, after, last, before), filter, order_by)?)
    }
}

#[operations(mutation)]
impl PersistedOperationMutation {
    /// Publishes operations, so that clients can send their hash instead of their text. Each is checked as a request
    /// would be: it has to be one operation with its fragments, fit the schema and be within the limits. Safe to
    /// repeat; what other calls have published stays. `oriel operations publish` reads the manifests of Apollo, Relay
    /// and graphql-codegen and calls this. What the installation's first organization publishes holds for all others
    /// too, and for who is not signed in.
    #[permission("operations:edit")]
    async fn operations_publish(
        &self,
        cx: &Context<'_>,
        input: OperationsPublishInput,
    ) -> Result<OperationsPublishPayload> {
        let context = granted.command(cx, &input)?;
        let services = Services::of(cx)?;
        let count = input.operations.len();
        if count > MAX_OPERATIONS {
            let message =
                format!("At most {MAX_OPERATIONS} operations; these are {count}. Publish them in several calls.");
            return Err(Rejection::new(ErrorCode::LimitExceeded, message).at("operations").into());
        }
        let is_hidden = cx.data_opt::<SchemaIsHidden>().is_some();
        let work = input.operations.into_iter().enumerate().map(|(n, operation)| {
            let (services, mut context) = (Arc::clone(services), context.clone());
            // Each is a command of its own, and the same one when the call is repeated under its key.
            context.command = derived_command(&format!("{}/{n}", context.command));
            async move { (operation.hash.clone(), publish(&services, &context, operation, is_hidden).await) }
        });
        let done: Vec<_> = futures::stream::iter(work).buffered(AT_ONCE).collect().await;
        Published::of(done, services.engine.feed().head())
    }

    /// Takes an operation out of use: from now on its hash is unknown. It can be published again.
    #[permission("operations:edit")]
    async fn operation_retire(&self, cx: &Context<'_>, input: OperationRetireInput) -> Result<OperationRetirePayload> {
        let context = granted.command(cx, &input)?;
        let persisted_operation = reader(cx)?.get::<PersistedOperation>(input.id).await?;
        let done = Services::of(cx)?.engine.execute(&context, input.id, RetireOperation).await?;
        Ok(OperationRetirePayload { persisted_operation, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// Publishes one operation: whether it was added, and where the log is then.
async fn publish(
    services: &Services,
    context: &CommandContext,
    operation: OperationPublishInput,
    is_hidden: bool,
) -> Result<(bool, Position)> {
    let command = checked(services, &operation, is_hidden).await?;
    let id = persisted_operation_id(context.organization, &command.hash);
    let done = services.engine.execute(context, id, command).await?;
    Ok((done.repeated || !done.events.is_empty(), done.position))
}

/// `is_hidden`: who publishes it may not see the schema.
async fn checked(services: &Services, operation: &OperationPublishInput, is_hidden: bool) -> Result<PublishOperation> {
    let mut problems = Problems::default();
    let hash = problems.take("hash", OperationHash::parse(&operation.hash));
    let body = problems.take("body", OperationBody::parse(&operation.body));
    let (Some(hash), Some(body)) = (hash, body) else { return Err(problems.failure()) };
    let document = services.documents.read(body.as_str()).map_err(|rejection| rejection.at("body"))?;
    let (name, kind) = only(&document).map_err(|rejection| rejection.at("body"))?;
    if operation.name.is_some() && operation.name != name {
        let found = name.as_deref().unwrap_or("no name");
        let message = format!("The document gives its operation another name: {found}. Send that one, or none.");
        return Err(Rejection::new(ErrorCode::Invalid, message).at("name").into());
    }
    validate(document).await.map_err(|errors| {
        let said = |message| if is_hidden { without_suggestion(message) } else { message };
        let reasons: Vec<String> = errors.into_iter().map(|error| said(error.message)).collect();
        let message = format!("This does not fit the schema: {}.", reasons.join("; ").trim_end_matches('.'));
        Rejection::new(ErrorCode::Invalid, message).at("body")
    })?;
    let name = name.as_deref().map(OperationName::parse).transpose().map_err(|rejection| rejection.at("body"))?;
    Ok(PublishOperation { hash, body, name, kind })
}

/// The one operation of a document.
fn only(document: &ExecutableDocument) -> Result<(Option<String>, OperationKind), Rejection> {
    let mut operations = document.operations.iter();
    let (Some((name, operation)), None) = (operations.next(), operations.next()) else {
        let message = "A persisted operation is one operation with its fragments. Publish each operation on its own.";
        return Err(Rejection::new(ErrorCode::Invalid, message));
    };
    let kind = match operation.node.ty {
        OperationType::Query => OperationKind::Query,
        OperationType::Mutation => OperationKind::Mutation,
        OperationType::Subscription => OperationKind::Subscription,
    };
    Ok((name.map(ToString::to_string), kind))
}

/// What became of several.
struct Published;

impl Published {
    fn of(done: Vec<(String, Result<(bool, Position)>)>, head: Position) -> Result<OperationsPublishPayload> {
        let (mut results, mut user_errors, mut position) = (Vec::with_capacity(done.len()), Vec::new(), None);
        for (n, (hash, done)) in done.into_iter().enumerate() {
            let outcome = match done {
                Ok((added, at)) => {
                    position = position.max(Some(at));
                    if added { OperationPublishOutcome::Added } else { OperationPublishOutcome::Unchanged }
                }
                Err(Failure::Rejected(errors)) => {
                    user_errors.extend(errors.into_iter().map(|error| in_list(error, n)));
                    OperationPublishOutcome::Refused
                }
                // What was published before stays; the call can be repeated.
                Err(failure @ Failure::Error(_)) => return Err(failure),
            };
            results.push(OperationPublishResult { hash, outcome });
        }
        let count = |wanted| {
            let count = results.iter().filter(|result| result.outcome == wanted).count();
            Some(i32::try_from(count).unwrap_or(i32::MAX))
        };
        Ok(OperationsPublishPayload {
            added: count(OperationPublishOutcome::Added),
            unchanged: count(OperationPublishOutcome::Unchanged),
            refused: count(OperationPublishOutcome::Refused),
            results: Some(results),
            user_errors,
            position: Some(position.unwrap_or(head)),
        })
    }
}

/// The problem of an operation as that of the list: `input.body` becomes `input.operations.3.body`.
fn in_list(error: UserError, n: usize) -> UserError {
    let field = error.path.into_iter().flatten().skip(1);
    let path = ["input".to_owned(), "operations".to_owned(), n.to_string()].into_iter().chain(field).collect();
    UserError { path: Some(path), ..error }
}

/// The operations that are to be published.
#[derive(InputObject)]
struct OperationsPublishInput {
    /// At most 1 000.
    operations: Vec<OperationPublishInput>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// An operation that is to be published.
#[derive(InputObject)]
struct OperationPublishInput {
    /// What clients will send: the SHA-256 of the body in hexadecimal digits, with or without `sha256:` before it. Or
    /// what your tool calls it, such as an MD5: letters, digits, `-`, `.`, `_` and `~`, at most 200.
    hash: String,
    /// The document, byte for byte as the hash was made of it: one operation with its fragments.
    body: String,
    /// The name that the document gives its operation. It is taken from there; when it is sent, it has to be that one.
    name: Option<String>,
}

/// The operation that is to be taken out of use.
#[derive(InputObject)]
struct OperationRetireInput {
    /// Which operation.
    id: PersistedOperationId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
