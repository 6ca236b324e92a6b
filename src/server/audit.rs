//! `oriel audit`: writes the log of an organization to a file through a running server, and checks such a file without
//! one.
//!
//! Invariants: the file has every event up to the last one, each once and in order, whatever goes on meanwhile; it has
//! its name once it is whole. What is checked is what the events say, not only that the links fit together.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::DateTime;
use data_encoding::{BASE64, HEXLOWER};
use oriel_engine::chain::Record;
use oriel_kernel::RawId;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::{AuditAction, AuditArgs, AuditFormat, ServerArgs};
use crate::client::{Client, ClientError, PageInfo, Patience};

const EVENTS: &str = "query AuditExport($after: String) {
  events(first: 100, after: $after, orderBy: [{ field: POSITION, direction: ASC }]) {
    nodes { sequence position id type at subjectId version correlationId causationId data hash record
      actor { __typename ... on Member { id } ... on User { id } ... on ApiKey { id } } }
    pageInfo { hasNextPage endCursor }
  }
}";

/// Why nothing, or nothing more, was done.
#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error("no token; sign in, or make an API key that may see events, and set ORIEL_TOKEN to it (or pass --token)")]
    NoToken,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Table { path: PathBuf, source: csv::Error },
    #[error("{}, line {line}: {why}", path.display())]
    Line { path: PathBuf, line: usize, why: String },
    #[error("the server shows no events: the token needs the permission events:view for all of the organization")]
    Nothing,
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Runs the command; the exit code says whether all is well.
pub async fn run(args: &AuditArgs) -> ExitCode {
    let done = match &args.action {
        AuditAction::Export { file, format, server } => export(file, *format, server).await,
        AuditAction::Verify { file } => verify(file),
    };
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("oriel audit: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Deserialize)]
struct Listed {
    events: Option<Page>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    nodes: Vec<Value>,
    page_info: PageInfo,
}

async fn export(file: &Path, format: AuditFormat, server: &ServerArgs) -> Result<String, AuditError> {
    let token = server.token().ok_or(AuditError::NoToken)?;
    let client = Client::new(&server.url, Some(token), Patience::default())?.on_waiting(|error| eprintln!("{error}"));
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let wrong = |source| AuditError::File { path: file.to_owned(), source };
    let mut sheet = Sheet::new(File::create(&unfinished).map_err(wrong)?, format, file)?;
    let (mut after, mut count, mut hash): (Option<String>, usize, String) = (None, 0, String::new());
    loop {
        let page = json!({ "after": after });
        let listed: Listed = client.patiently(&CancellationToken::new(), || client.execute(EVENTS, &page)).await?;
        let Some(Page { nodes, page_info }) = listed.events else { return Err(AuditError::Nothing) };
        for event in &nodes {
            sheet.write(event)?;
            hash = event["hash"].as_str().unwrap_or_default().to_owned();
        }
        count += nodes.len();
        after = page_info.next(after.as_deref());
        if after.is_none() {
            break;
        }
    }
    sheet.end()?;
    std::fs::rename(&unfinished, file).map_err(wrong)?;
    Ok(format!("{count} events in {}; the last one's hash is {hash}", file.display()))
}

/// A file that is written.
enum Sheet<'a> {
    Lines(BufWriter<File>, &'a Path),
    Table(Box<csv::Writer<File>>, &'a Path),
}

/// The columns of the table; `record` and `hash` are for the lines, which can be checked.
const COLUMNS: [&str; 10] =
    ["sequence", "position", "at", "type", "subjectId", "version", "actor", "correlationId", "causationId", "data"];

impl<'a> Sheet<'a> {
    fn new(file: File, format: AuditFormat, path: &'a Path) -> Result<Self, AuditError> {
        match format {
            AuditFormat::Jsonl => Ok(Self::Lines(BufWriter::new(file), path)),
            AuditFormat::Csv => {
                let mut table = csv::Writer::from_writer(file);
                table.write_record(COLUMNS).map_err(|source| AuditError::Table { path: path.to_owned(), source })?;
                Ok(Self::Table(Box::new(table), path))
            }
        }
    }

    fn write(&mut self, event: &Value) -> Result<(), AuditError> {
        match self {
            Self::Lines(lines, path) => {
                writeln!(lines, "{event}").map_err(|source| AuditError::File { path: path.to_path_buf(), source })
            }
            Self::Table(table, path) => {
                let row = COLUMNS.map(|column| match (column, &event[column]) {
                    ("actor", actor) => cell(actor.get("id").unwrap_or(&actor["__typename"])),
                    (_, value) => cell(value),
                });
                table.write_record(row).map_err(|source| AuditError::Table { path: path.to_path_buf(), source })
            }
        }
    }

    fn end(self) -> Result<(), AuditError> {
        let (file, path) = match self {
            Self::Lines(lines, path) => (lines.into_inner().map_err(std::io::IntoInnerError::into_error), path),
            Self::Table(table, path) => (table.into_inner().map_err(|error| error.into_error()), path),
        };
        let synced = file.and_then(|file| file.sync_all());
        synced.map_err(|source| AuditError::File { path: path.to_owned(), source })
    }
}

/// A value in a table.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An event of a file of lines.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: String,
    sequence: i64,
    r#type: String,
    subject_id: String,
    version: i32,
    at: String,
    record: String,
    hash: String,
}

impl Line {
    /// What the event says beside its record, where that is something else.
    fn differs(&self, record: &Record) -> Option<&'static str> {
        let is = |id: &str, uuid| RawId::parse(id).is_some_and(|id| id.uuid == uuid);
        let at = DateTime::parse_from_rfc3339(&self.at).map(|at| at.timestamp_micros());
        let told = [
            ("id", is(&self.id, record.id)),
            ("sequence", self.sequence == record.sequence),
            ("type", self.r#type == record.event_type),
            ("subjectId", is(&self.subject_id, record.subject)),
            ("version", self.version == record.version),
            ("at", at == Ok(record.at)),
        ];
        told.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
    }
}

fn verify(path: &Path) -> Result<String, AuditError> {
    let wrong = |source| AuditError::File { path: path.to_owned(), source };
    let file = BufReader::new(File::open(path).map_err(wrong)?);
    let (mut link, mut sequence) = (Vec::new(), 0);
    for (number, line) in file.lines().enumerate() {
        let line = line.map_err(wrong)?;
        let damaged = |why: String| AuditError::Line { path: path.to_owned(), line: number + 1, why };
        let line: Line = serde_json::from_str(&line).map_err(|error| damaged(error.to_string()))?;
        let bytes = BASE64.decode(line.record.as_bytes()).ok();
        let read = bytes.and_then(|bytes| Some((Record::parse(&bytes)?, bytes)));
        let Some((record, bytes)) = read else { return Err(damaged("the record cannot be read".to_owned())) };
        sequence += 1;
        if record.sequence != sequence {
            return Err(damaged(format!("event {sequence} is missing: this is event {}", record.sequence)));
        }
        link = Record::link(&link, &bytes);
        if HEXLOWER.encode(&link) != line.hash {
            return Err(damaged(format!("event {sequence} does not follow on the one before it: the hash is another")));
        }
        if let Some(what) = line.differs(&record) {
            return Err(damaged(format!("{what} of event {sequence} is not what was written")));
        }
    }
    let hash = HEXLOWER.encode(&link);
    Ok(format!("{sequence} events, whole from the first to the last; the last one's hash is {hash}"))
}
