//! `oriel import`: a folder becomes the documents of a project, through a running server.
//!
//! Invariants: repeating an import adds nothing twice (the server is asked what it has, and each upload carries a
//! key made of project, path and content); a file is never whole in memory; what concerns one file fails alone, what
//! would fail for every file ends the import; symbolic links are not followed.
//! Nothing here knows how the server stores or reads a document.

mod progress;
mod tree;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use futures::{StreamExt, TryStreamExt};
use indicatif::{HumanBytes, HumanDuration};
use reqwest::Body;
use serde::Deserialize;
use serde_json::json;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::cli::ImportArgs;
use crate::client::{Client, ClientError, PageInfo, Patience};
pub use progress::Progress;
use tree::{Fingerprint, Found};

const FIND_PROJECT: &str = "query ImportProject($key: String!) {
  projects(first: 1, filter: { key: { eq: $key } }) { nodes { id name status } }
}";
const CREATE_PROJECT: &str = "mutation ImportProjectCreate($input: ProjectCreateInput!) {
  projectCreate(input: $input) { project { id name status } userErrors { code message } }
}";
const KNOWN_DOCUMENTS: &str = "query ImportKnown($id: ID!, $after: String) {
  project(id: $id) {
    documents(first: 100, after: $after) { nodes { fileName sha256 status } pageInfo { hasNextPage endCursor } }
  }
}";
const UPLOAD: &str = "mutation ImportUpload($input: DocumentUploadInput!) {
  documentUpload(input: $input) { document { sha256 status } userErrors { code message } }
}";

/// What to import.
#[derive(Debug, Clone)]
pub struct Import {
    /// The folder.
    pub folder: PathBuf,
    /// The key of the project.
    pub project: String,
    /// The name under which to create the project when it is missing.
    pub create_project: Option<String>,
    /// Files sent at the same time.
    pub jobs: usize,
    /// Also what begins with a dot.
    pub hidden: bool,
}

/// Why nothing, or nothing more, was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nobody can upload anonymously.
    #[error("no token; make an API key that may create documents and set ORIEL_TOKEN to it (or pass --token)")]
    NoToken,
    /// The folder cannot be read.
    #[error("{0}")]
    Folder(String),
    /// No such project.
    #[error("there is no project with the key {0} that you may see; pass --create-project NAME to create it")]
    NoProject(String),
    /// The project takes no documents.
    #[error("the project {0} is archived; restore it first")]
    Archived(String),
    /// The server refuses the project.
    #[error("the project could not be created: {0}")]
    NotCreated(String),
    /// The server cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What became of the files.
#[derive(Debug, Default)]
pub struct Summary {
    /// Files uploaded.
    pub imported: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the project has already.
    pub already_there: usize,
    /// Files that the project has in its trash.
    pub in_trash: usize,
    /// Symbolic links, not followed.
    pub links: usize,
    /// Files not sent because the import ended early.
    pub not_sent: usize,
    /// Files that could not be imported, with the reason.
    pub failed: Vec<(String, String)>,
    /// What ended the import early.
    pub ended_by: Option<String>,
    /// The user ended it.
    pub interrupted: bool,
}

impl Summary {
    /// 0 when all is there, 1 when something failed, 130 when the user ended it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self { interrupted: true, .. } => 130,
            Self { ended_by: None, failed, .. } if failed.is_empty() => 0,
            _ => 1,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} imported ({}), {} already there", self.imported, HumanBytes(self.bytes), self.already_there)?;
        let counts = [
            (self.in_trash, "in the trash (restore them there)"),
            (self.links, "symbolic links not followed"),
            (self.not_sent, "not sent"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        write!(f, ", {} failed", self.failed.len())?;
        self.failed.iter().try_for_each(|(name, reason)| write!(f, "\n  {name}: {reason}"))?;
        self.ended_by.iter().try_for_each(|reason| write!(f, "\nThe import ended early: {reason}"))
    }
}

/// The whole command: signals, progress, summary and exit code.
pub async fn run(args: &ImportArgs) -> ExitCode {
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_ctrl_c(stop.clone()));
    let started = Instant::now();
    match import_as_asked(args, &stop).await {
        Ok(summary) => {
            println!("{summary}\nin {}", HumanDuration(started.elapsed()));
            ExitCode::from(summary.exit_code())
        }
        Err(error) => {
            eprintln!("oriel import: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn import_as_asked(args: &ImportArgs, stop: &CancellationToken) -> Result<Summary, ImportError> {
    let token = args.server.token().ok_or(ImportError::NoToken)?;
    let client = Client::new(&args.server.url, Some(token), Patience::default())?.on_waiting(|error| {
        // A busy server is nothing to speak of, and a bar may be on the screen.
        if matches!(error, ClientError::Unreachable { .. }) {
            eprintln!("{error} Trying again for a minute.");
        }
    });
    let what = Import {
        folder: args.folder.clone(),
        project: args.project.clone(),
        create_project: args.create_project.clone(),
        jobs: usize::from(args.jobs),
        hidden: args.hidden,
    };
    import(&client, &what, Progress::for_terminal, stop).await
}

/// The first Ctrl-C lets the files being sent finish, the second ends the process. Either is safe to repeat from.
async fn stop_on_ctrl_c(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        eprintln!("Stopping when the files being sent are there; Ctrl-C again stops at once.");
        stop.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    }
}

/// Imports a folder. `progress` is made when the numbers of files and bytes are known.
pub async fn import(
    client: &Client,
    what: &Import,
    progress: impl FnOnce(usize, u64) -> Progress,
    stop: &CancellationToken,
) -> Result<Summary, ImportError> {
    let (folder, hidden) = (what.folder.clone(), what.hidden);
    let walk = tokio::task::spawn_blocking(move || tree::walk(&folder, hidden));
    let tree = walk.await.map_err(|error| ImportError::Folder(error.to_string()))?.map_err(ImportError::Folder)?;

    // What ends everything ends it through `halt`; `stop` is the user's.
    let halt = stop.child_token();
    let project = project(client, what, &halt).await?;
    let known = known_documents(client, &project, &halt).await?;

    let total = tree.files.len();
    let bytes = tree.files.iter().map(|file| file.size).sum();
    let job = Job { client, project, known, halt, fatal: OnceLock::new(), progress: progress(total, bytes) };
    let mut summary = Summary { links: tree.links, failed: tree.unreadable, ..Summary::default() };
    let files = tree.files.into_iter().take_while(|_| !job.halt.is_cancelled());
    let mut outcomes = futures::stream::iter(files).map(|file| job.one(file)).buffer_unordered(what.jobs.max(1));
    let mut begun = 0;
    while let Some((name, outcome)) = outcomes.next().await {
        begun += 1;
        match outcome {
            Outcome::Imported(bytes) => {
                summary.imported += 1;
                summary.bytes += bytes;
            }
            Outcome::AlreadyThere => summary.already_there += 1,
            Outcome::InTrash => summary.in_trash += 1,
            Outcome::NotSent => summary.not_sent += 1,
            Outcome::Failed(reason) => summary.failed.push((name, reason)),
        }
        job.progress.file_done();
    }
    drop(outcomes);
    job.progress.finish();
    summary.not_sent += total - begun;
    summary.ended_by = job.fatal.into_inner();
    summary.interrupted = stop.is_cancelled();
    summary.failed.sort();
    Ok(summary)
}

#[derive(Deserialize)]
struct Project {
    id: String,
    status: String,
}

#[derive(Deserialize)]
struct UserError {
    code: String,
    message: String,
}

#[derive(Deserialize)]
struct Nodes<T> {
    nodes: Vec<T>,
}

/// The id of the project, created if that was asked for.
async fn project(client: &Client, what: &Import, halt: &CancellationToken) -> Result<String, ImportError> {
    #[derive(Deserialize)]
    struct Found {
        projects: Option<Nodes<Project>>,
    }
    let key = json!({ "key": what.project });
    let found: Found = client.patiently(halt, || client.execute(FIND_PROJECT, &key)).await?;
    let project = match (found.projects.and_then(|projects| projects.nodes.into_iter().next()), &what.create_project) {
        (Some(project), _) => project,
        (None, Some(name)) => create_project(client, &what.project, name, halt).await?,
        (None, None) => return Err(ImportError::NoProject(what.project.clone())),
    };
    if project.status == "ARCHIVED" { Err(ImportError::Archived(what.project.clone())) } else { Ok(project.id) }
}

async fn create_project(
    client: &Client,
    key: &str,
    name: &str,
    halt: &CancellationToken,
) -> Result<Project, ImportError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        project: Option<Project>,
        user_errors: Vec<UserError>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Created {
        project_create: Option<Payload>,
    }
    let idempotency_key = uuid::Uuid::new_v4().to_string();
    let input = json!({ "input": { "key": key, "name": name, "idempotencyKey": idempotency_key } });
    let created: Created = client.patiently(halt, || client.execute(CREATE_PROJECT, &input)).await?;
    let payload = created.project_create.ok_or_else(|| ImportError::NotCreated("no answer".to_owned()))?;
    payload.project.ok_or_else(|| ImportError::NotCreated(told(&payload.user_errors)))
}

fn told(errors: &[UserError]) -> String {
    let texts: Vec<String> = errors.iter().map(|error| format!("{} ({})", error.message, error.code)).collect();
    if texts.is_empty() { "the server gives no reason".to_owned() } else { texts.join("; ") }
}

/// What the project has, outside its trash, as fingerprints: 32 bytes a document.
async fn known_documents(
    client: &Client,
    project: &str,
    halt: &CancellationToken,
) -> Result<HashSet<Fingerprint>, ImportError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        file_name: Option<String>,
        sha256: String,
        status: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Documents {
        nodes: Vec<Document>,
        page_info: PageInfo,
    }
    #[derive(Deserialize)]
    struct OfProject {
        documents: Documents,
    }
    #[derive(Deserialize)]
    struct Known {
        project: Option<OfProject>,
    }
    let mut known = HashSet::new();
    let mut after: Option<String> = None;
    loop {
        let page = json!({ "id": project, "after": after });
        let answer: Known = client.patiently(halt, || client.execute(KNOWN_DOCUMENTS, &page)).await?;
        let Some(OfProject { documents }) = answer.project else {
            return Err(ImportError::NoProject(project.to_owned()));
        };
        for document in documents.nodes.iter().filter(|document| document.status != "TRASHED") {
            if let Some(name) = &document.file_name {
                known.insert(Fingerprint::of(project, name, &document.sha256.to_ascii_lowercase()));
            }
        }
        after = documents.page_info.next(after.as_deref());
        if after.is_none() {
            return Ok(known);
        }
    }
}

/// What became of one file.
enum Outcome {
    Imported(u64),
    AlreadyThere,
    InTrash,
    NotSent,
    Failed(String),
}

/// What all files share.
struct Job<'a> {
    client: &'a Client,
    project: String,
    known: HashSet<Fingerprint>,
    halt: CancellationToken,
    fatal: OnceLock<String>,
    progress: Progress,
}

impl Job<'_> {
    async fn one(&self, file: Found) -> (String, Outcome) {
        let outcome = self.outcome(&file).await.unwrap_or_else(Outcome::Failed);
        (file.name, outcome)
    }

    async fn outcome(&self, file: &Found) -> Result<Outcome, String> {
        let path = file.path.clone();
        let hashed = tokio::task::spawn_blocking(move || tree::hash(&path)).await.map_err(|error| error.to_string())?;
        let (sha256, size) = hashed.map_err(|error| error.to_string())?;
        let fingerprint = Fingerprint::of(&self.project, &file.name, &sha256);
        if self.known.contains(&fingerprint) {
            self.progress.forward(file.size);
            return Ok(Outcome::AlreadyThere);
        }
        let sent = Arc::new(AtomicU64::new(0));
        let answer = self.client.patiently(&self.halt, || self.upload(file, &fingerprint, size, sent.clone())).await;
        let answer = match answer {
            Ok(answer) => answer?,
            Err(error) => return self.failed(error),
        };
        let Some(Payload { document, user_errors }) = answer.document_upload else {
            return Err("the server gives no reason".to_owned());
        };
        match document {
            Some(document) if document.status == "TRASHED" => Ok(Outcome::InTrash),
            Some(document) if !document.sha256.eq_ignore_ascii_case(&sha256) => {
                Err("the file changed while it was read; import again".to_owned())
            }
            Some(_) => Ok(Outcome::Imported(size)),
            None => {
                let reason = told(&user_errors);
                if user_errors.iter().any(|error| error.code == "FORBIDDEN") {
                    self.end_all(&reason);
                }
                Err(reason)
            }
        }
    }

    /// One attempt. What is wrong with the file itself is the inner error: it will not pass.
    async fn upload(
        &self,
        file: &Found,
        fingerprint: &Fingerprint,
        size: u64,
        sent: Arc<AtomicU64>,
    ) -> Result<Result<Uploaded, String>, ClientError> {
        self.progress.back(sent.swap(0, Ordering::Relaxed));
        let opened = match tree::open(&file.path, size).await {
            Ok(opened) => opened,
            Err(reason) => return Ok(Err(reason)),
        };
        let progress = self.progress.clone();
        let body = ReaderStream::with_capacity(opened, 64 << 10).inspect_ok(move |chunk| {
            let bytes = chunk.len() as u64;
            sent.fetch_add(bytes, Ordering::Relaxed);
            progress.forward(bytes);
        });
        let input = json!({ "projectId": self.project, "file": null, "idempotencyKey": fingerprint.to_string() });
        let variables = json!({ "input": input });
        self.client.upload(UPLOAD, &variables, &file.name, Body::wrap_stream(body), size).await.map(Ok)
    }

    fn failed(&self, error: ClientError) -> Result<Outcome, String> {
        if error.is_passing() && self.halt.is_cancelled() {
            return Ok(Outcome::NotSent);
        }
        let concerns_all = match &error {
            ClientError::Refused { code, .. } => code == "FORBIDDEN",
            ClientError::Unreachable { connected, .. } => !connected,
            _ => true,
        };
        if concerns_all {
            self.end_all(&error.to_string());
            return Ok(Outcome::NotSent);
        }
        Err(error.to_string())
    }

    fn end_all(&self, reason: &str) {
        // The first reason is the one to tell.
        let _ = self.fatal.set(reason.to_owned());
        self.halt.cancel();
    }
}

#[derive(Deserialize)]
struct UploadedDocument {
    sha256: String,
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    document: Option<UploadedDocument>,
    user_errors: Vec<UserError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Uploaded {
    document_upload: Option<Payload>,
}

#[cfg(test)]
mod tests;
