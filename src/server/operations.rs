//! `oriel operations`: publishes the operations of a client through a running server, and lists what is published.
//!
//! Invariants: publishing is safe to repeat; a manifest of any size is sent in bounded parts; what is wrong with one
//! operation is told with its name, and keeps none of the others out.

mod manifest;

use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::{OperationsAction, OperationsArgs, ServerArgs};
use crate::client::{Client, ClientError, PageInfo, Patience};
use manifest::Operation;

/// Operations of one call.
const MOST: usize = 100;
/// Bytes of their texts: half of what the body of a request may have where nothing else is set.
const MOST_BYTES: usize = 512 << 10;

const PUBLISH: &str = "mutation OperationsPublish($input: OperationsPublishInput!) {
  operationsPublish(input: $input) { results { hash outcome } userErrors { code message path } }
}";
const LIST: &str = "query OperationsList($after: String) {
  persistedOperations(first: 100, after: $after) { nodes { hash name kind createdAt } pageInfo { hasNextPage endCursor } }
}";

/// Why nothing, or nothing more, was done.
#[derive(Debug, thiserror::Error)]
enum OperationsError {
    #[error("no token; make an API key that may publish operations and set ORIEL_TOKEN to it (or pass --token)")]
    NoToken,
    #[error("{file}: {why}")]
    Manifest { file: String, why: String },
    #[error("the server refuses it: {0}")]
    Refused(String),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Runs the command; the exit code says whether all is well.
pub async fn run(args: &OperationsArgs) -> ExitCode {
    let done = match &args.action {
        OperationsAction::Publish { file, server } => publish(file, server).await,
        OperationsAction::List(server) => list(server).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("oriel operations: {error}");
            ExitCode::FAILURE
        }
    }
}

fn client(server: &ServerArgs) -> Result<Client, OperationsError> {
    let token = server.token().ok_or(OperationsError::NoToken)?;
    Ok(Client::new(&server.url, Some(token), Patience::default())?.on_waiting(|error| eprintln!("{error}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Published {
    operations_publish: Option<Payload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    results: Option<Vec<OneResult>>,
    user_errors: Vec<UserError>,
}

#[derive(Deserialize)]
struct OneResult {
    hash: String,
    outcome: String,
}

#[derive(Deserialize)]
struct UserError {
    code: String,
    message: String,
    path: Option<Vec<String>>,
}

impl UserError {
    /// Whether it is about this operation of the call.
    fn is_about(&self, n: usize) -> bool {
        self.path.as_ref().and_then(|path| path.get(2)).is_some_and(|place| *place == n.to_string())
    }
}

async fn publish(file: &Path, server: &ServerArgs) -> Result<bool, OperationsError> {
    let wrong = |why: String| OperationsError::Manifest { file: file.display().to_string(), why };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let operations = manifest::read(&text).map_err(wrong)?;
    let client = client(server)?;
    let (mut added, mut unchanged, mut refused) = (0, 0, 0);
    for part in parts(&operations) {
        let list: Vec<Value> =
            part.iter().map(|one| json!({ "hash": one.hash, "body": one.body, "name": one.name })).collect();
        // The same key for every attempt at this part, and no other.
        let input = json!({ "input": { "operations": list, "idempotencyKey": uuid::Uuid::new_v4().to_string() } });
        let answer: Published = client.patiently(&CancellationToken::new(), || client.execute(PUBLISH, &input)).await?;
        let payload = answer.operations_publish.ok_or_else(|| OperationsError::Refused("no reason is given".into()))?;
        let Some(results) = payload.results else { return Err(OperationsError::Refused(told(&payload.user_errors))) };
        for (n, (result, operation)) in results.iter().zip(part).enumerate() {
            let name = operation.name.as_deref().unwrap_or_default();
            let count = match result.outcome.as_str() {
                "ADDED" => &mut added,
                "UNCHANGED" => &mut unchanged,
                _ => &mut refused,
            };
            *count += 1;
            let why = payload.user_errors.iter().filter(|error| error.is_about(n));
            let why: Vec<&str> = why.map(|error| error.message.as_str()).collect();
            let line = format!("{:<10} {} {name} {}", result.outcome.to_lowercase(), result.hash, why.join(" "));
            println!("{}", line.trim_end());
        }
    }
    println!("{added} added, {unchanged} unchanged, {refused} refused");
    Ok(refused == 0)
}

fn told(errors: &[UserError]) -> String {
    let texts: Vec<String> = errors.iter().map(|error| format!("{} ({})", error.message, error.code)).collect();
    if texts.is_empty() { "no reason is given".to_owned() } else { texts.join("; ") }
}

/// The operations in parts that a call can carry. One that is too large for any is sent alone, and refused there.
fn parts(operations: &[Operation]) -> Vec<&[Operation]> {
    let mut parts = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (n, operation) in operations.iter().enumerate() {
        let more = operation.hash.len() + operation.body.len();
        if n > begin && (n - begin == MOST || bytes + more > MOST_BYTES) {
            parts.push(&operations[begin..n]);
            (begin, bytes) = (n, 0);
        }
        bytes += more;
    }
    parts.push(&operations[begin..]);
    parts
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    persisted_operations: Option<Page>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    nodes: Vec<Node>,
    page_info: PageInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    hash: String,
    name: Option<String>,
    kind: String,
    created_at: String,
}

async fn list(server: &ServerArgs) -> Result<bool, OperationsError> {
    let client = client(server)?;
    println!("{:<64} {:<12} {:<32} NAME", "HASH", "KIND", "PUBLISHED");
    let (mut after, mut count): (Option<String>, usize) = (None, 0);
    loop {
        let page = json!({ "after": after });
        let listed: Listed = client.patiently(&CancellationToken::new(), || client.execute(LIST, &page)).await?;
        let Some(Page { nodes, page_info }) = listed.persisted_operations else { return Ok(false) };
        count += nodes.len();
        for Node { hash, name, kind, created_at } in nodes {
            println!("{hash:<64} {:<12} {created_at:<32} {}", kind.to_lowercase(), name.unwrap_or_default());
        }
        after = page_info.next(after.as_deref());
        if after.is_none() {
            break;
        }
    }
    println!("{count} published");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_hold_everything_in_its_order() {
        let of = |sizes: &[usize]| -> Vec<Operation> {
            let one = |size: &usize| Operation { hash: String::new(), body: "x".repeat(*size), name: None };
            sizes.iter().map(one).collect()
        };
        let lengths = |sizes: &[usize]| parts(&of(sizes)).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&[1; 250]), [100, 100, 50]);
        assert_eq!(lengths(&[MOST_BYTES / 2; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[1, MOST_BYTES + 1, 1]), [1, 1, 1]);
        assert_eq!(lengths(&[7]), [1]);
    }
}
