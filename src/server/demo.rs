//! `--demo`: an organisation with projects and documents to look at, made through the endpoint as anybody would.

use std::sync::Arc;

use async_graphql::{Request, Value, Variables, value};
use bytes::Bytes;
use futures::stream;
use oriel_backends::blobs::BlobKey;
use oriel_engine::keyring::random_key;
use oriel_schema::endpoint::{Caller, Document, Endpoint, Operation};
use oriel_schema::uploads::{Received, Uploads};

/// How to sign in to the demonstration.
#[derive(Debug)]
pub struct SignIn {
    /// The e-mail address.
    pub email: &'static str,
    /// Made for this installation; shown once.
    pub password: String,
    /// For the first requests; it ends after a while.
    pub access_token: String,
}

/// Why there is no demonstration.
#[derive(Debug, thiserror::Error)]
#[error("the demonstration cannot be made: {0}")]
pub struct DemoError(String);

const EMAIL: &str = "ada@demo.example";

const DOCUMENTS: &[(&str, &str, &str, &[&str])] = &[
    (
        "welcome.md",
        "Welcome to the harbour",
        "# Welcome to the harbour\n\nThis project shows what Oriel does with documents: each is stored, read, indexed and \
         found by its full text. Search for *tide tables* or for a misspelt *lighthose*.\n",
        &["guide"],
    ),
    (
        "tides.txt",
        "Tide tables for beginners",
        "High water comes about every twelve hours and twenty-five minutes. A tide table lists the times and heights of \
         high and low water for a port. Spring tides follow new and full moon; neap tides follow the quarters.\n",
        &["guide", "sea"],
    ),
    (
        "lighthouse.html",
        "The lighthouse keeper's log",
        "<html><head><title>Log</title></head><body><h1>The lighthouse keeper's log</h1><p>Wind from the west, force \
         seven. Lamp trimmed at dusk and burning steadily until dawn. Two brigs passed, one bound for Bergen.</p></body></html>",
        &["log"],
    ),
    (
        "cargo.csv",
        "Cargo, first week",
        "ship,cargo,tonnes\nHalcyon,timber,240\nMeridian,grain,410\nPerseverance,slate,180\n",
        &["figures"],
    ),
];

/// Makes the demonstration in an empty installation; `None` when there is something in it already.
///
/// # Errors
/// When a step is refused.
pub async fn make(endpoint: &Endpoint) -> Result<Option<SignIn>, DemoError> {
    if endpoint.services().engine.feed().head().number() > 0 {
        return Ok(None);
    }
    let key = random_key().map_err(|e| DemoError(e.to_string()))?;
    let password = data_encoding::BASE32_NOPAD.encode(&key[..10]).to_lowercase();
    let registered = run(
        endpoint,
        "mutation($input: RegisterInput!) { register(input: $input) { accessToken userErrors { message } } }",
        value!({"input": {"organizationName": "Harbour Office", "name": "Ada Harbour", "email": EMAIL, "password": password.clone()}}),
        Caller::default(),
    )
    .await?;
    let token = text(&registered, &["register", "accessToken"])?;
    let (credential, _) = endpoint.authenticate(&token).map_err(|_| DemoError("the token is refused".to_owned()))?;
    let caller = Caller { credential: Some(credential), ..Caller::default() };
    for (key, name) in [("HARBOUR", "Harbour"), ("LIBRARY", "Library")] {
        let created = run(
            endpoint,
            "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id } userErrors { message } } }",
            value!({"input": {"name": name, "key": key}}),
            caller.clone(),
        )
        .await?;
        if key == "HARBOUR" {
            let project = text(&created, &["projectCreate", "project", "id"])?;
            for document in DOCUMENTS {
                upload(endpoint, &caller, &project, document).await?;
            }
        }
    }
    Ok(Some(SignIn { email: EMAIL, password, access_token: token }))
}

async fn upload(
    endpoint: &Endpoint,
    caller: &Caller,
    project: &str,
    (file_name, title, content, tags): &(&str, &str, &'static str, &[&str]),
) -> Result<(), DemoError> {
    let services = endpoint.services();
    let blob = BlobKey::fresh(oriel_reactors::FILES, uuid::Uuid::now_v7());
    let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(content.as_bytes()))]);
    let stored = services.blobs.put(&blob, body, 1 << 20).await.map_err(wrong)?;
    let uploads = Uploads::default();
    let number = uploads.add(Received {
        blob,
        size: stored.size,
        sha256: stored.sha256,
        file_name: (*file_name).to_owned(),
        head: content.as_bytes().to_vec(),
    });
    let tags: Vec<Value> = tags.iter().map(|tag| Value::from(*tag)).collect();
    let variables =
        value!({"input": {"projectId": project, "title": title, "tags": tags, "file": Uploads::placeholder(number)}});
    let query = "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { document { id } userErrors { message } } }";
    run(endpoint, query, variables, Caller { uploads, ..caller.clone() }).await.map(|_| ())
}

fn wrong(error: impl std::fmt::Display) -> DemoError {
    DemoError(error.to_string())
}

async fn run(
    endpoint: &Endpoint,
    query: &str,
    variables: Value,
    caller: Caller,
) -> Result<serde_json::Value, DemoError> {
    let request = Request::new(query).variables(Variables::from_value(variables));
    let document = Document::parse(query).map_err(wrong)?;
    let operation = Operation::new(Arc::new(document), request).map_err(wrong)?;
    let answer = endpoint.execute(operation, caller).await;
    let json: serde_json::Value = match &answer.data {
        Some(data) => serde_json::from_str(data.json()).map_err(wrong)?,
        None => serde_json::Value::Null,
    };
    let user_errors =
        json.as_object().and_then(|fields| fields.values().next()).map(|payload| payload["userErrors"].to_string());
    match (answer.errors.first(), user_errors.as_deref()) {
        (Some(error), _) => Err(DemoError(error.message.clone())),
        (None, Some("[]")) => Ok(json),
        (None, other) => Err(DemoError(other.unwrap_or_default().to_owned())),
    }
}

fn text(json: &serde_json::Value, path: &[&str]) -> Result<String, DemoError> {
    let found = path.iter().fold(json, |value, key| &value[*key]);
    found.as_str().map(str::to_owned).ok_or_else(|| DemoError(format!("no {} in the answer", path.join("."))))
}
