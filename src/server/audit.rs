//! `oriel audit`: writes the log of an organization, or who has read what is sensitive in it, to a file through a running
//! server, and checks such a file without one.
//!
//! Invariants: the file has every event (or every reading that is left) up to the last one, each once and in order,
//! whatever goes on meanwhile; it has its name once it is whole. What is checked is what they say, not only that the
//! links fit together.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::DateTime;
use data_encoding::{BASE64, HEXLOWER};
use oriel_engine::chain::{Record, link};
use oriel_kernel::RawId;
use oriel_read_models::access_log::chain::Entry;
use serde::Deserialize;
use serde::de::DeserializeOwned;
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
const READINGS: &str = "query AccessExport($after: String) {
  accessLog(first: 100, after: $after) {
    nodes { sequence at kind operation ids removed { through hash } hash record
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
    #[error("the server shows nothing: the token needs the permission events:view for all of the organization")]
    Nothing,
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Runs the command; the exit code says whether all is well.
pub async fn run(args: &AuditArgs) -> ExitCode {
    let done = match &args.action {
        AuditAction::Export { file, format, readings, server } => {
            let what = if *readings { &OF_READINGS } else { &OF_EVENTS };
            export(file, what, *format, server).await
        }
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

/// What can be written to a file.
struct What {
    /// In the plural.
    name: &'static str,
    query: &'static str,
    /// The columns of the table; `record` and `hash` are for the lines, which can be checked.
    columns: &'static [&'static str],
}

const OF_EVENTS: What = What {
    name: "events",
    query: EVENTS,
    columns: &[
        "sequence",
        "position",
        "at",
        "type",
        "subjectId",
        "version",
        "actor",
        "correlationId",
        "causationId",
        "data",
    ],
};

const OF_READINGS: What =
    What { name: "readings", query: READINGS, columns: &["sequence", "at", "kind", "actor", "operation", "ids"] };

#[derive(Deserialize)]
struct Listed {
    #[serde(alias = "accessLog")]
    events: Option<Page>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    nodes: Vec<Value>,
    page_info: PageInfo,
}

async fn export(file: &Path, what: &What, format: AuditFormat, server: &ServerArgs) -> Result<String, AuditError> {
    let token = server.token().ok_or(AuditError::NoToken)?;
    let client = Client::new(&server.url, Some(token), Patience::default())?.on_waiting(|error| eprintln!("{error}"));
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let wrong = |source| AuditError::File { path: file.to_owned(), source };
    let mut sheet = Sheet::new(File::create(&unfinished).map_err(wrong)?, what.columns, format, file)?;
    let (mut after, mut count, mut hash): (Option<String>, usize, String) = (None, 0, String::new());
    loop {
        let page = json!({ "after": after });
        let listed: Listed = client.patiently(&CancellationToken::new(), || client.execute(what.query, &page)).await?;
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
    Ok(format!("{count} {} in {}; the last one's hash is {hash}", what.name, file.display()))
}

/// A file that is written.
enum Sheet<'a> {
    Lines(BufWriter<File>, &'a Path),
    Table(Box<csv::Writer<File>>, &'static [&'static str], &'a Path),
}

impl<'a> Sheet<'a> {
    fn new(
        file: File,
        columns: &'static [&'static str],
        format: AuditFormat,
        path: &'a Path,
    ) -> Result<Self, AuditError> {
        match format {
            AuditFormat::Jsonl => Ok(Self::Lines(BufWriter::new(file), path)),
            AuditFormat::Csv => {
                let mut table = csv::Writer::from_writer(file);
                table.write_record(columns).map_err(|source| AuditError::Table { path: path.to_owned(), source })?;
                Ok(Self::Table(Box::new(table), columns, path))
            }
        }
    }

    fn write(&mut self, event: &Value) -> Result<(), AuditError> {
        match self {
            Self::Lines(lines, path) => {
                writeln!(lines, "{event}").map_err(|source| AuditError::File { path: path.to_path_buf(), source })
            }
            Self::Table(table, columns, path) => {
                let row = columns.iter().map(|column| match (*column, &event[column]) {
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
            Self::Table(table, _, path) => (table.into_inner().map_err(|error| error.into_error()), path),
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

/// A reading of a file of lines.
#[derive(Deserialize)]
struct ReadingLine {
    sequence: i64,
    at: String,
    kind: String,
    operation: Option<String>,
    ids: Vec<String>,
    record: String,
    hash: String,
}

impl ReadingLine {
    fn entry(&self) -> Result<(Entry, Vec<u8>), String> {
        decoded(&self.record, Entry::parse)
    }

    /// What the reading says beside its record, where that is something else.
    fn differs(&self, entry: &Entry) -> Option<&'static str> {
        let at = DateTime::parse_from_rfc3339(&self.at).map(|at| at.timestamp_micros());
        let told = [
            ("sequence", self.sequence == entry.sequence),
            ("kind", self.kind.eq_ignore_ascii_case(&entry.kind)),
            ("operation", self.operation.as_deref().unwrap_or_default() == entry.operation),
            ("ids", self.ids.join(" ") == entry.ids),
            ("at", at == Ok(entry.at)),
        ];
        told.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
    }
}

/// What a record says, and its bytes.
fn decoded<R>(record: &str, parse: impl FnOnce(&[u8]) -> Option<R>) -> Result<(R, Vec<u8>), String> {
    let bytes = BASE64.decode(record.as_bytes()).ok();
    let read = bytes.and_then(|bytes| Some((parse(&bytes)?, bytes)));
    read.ok_or_else(|| "the record cannot be read".to_owned())
}

/// Each line of a file, to be judged.
fn each<L: DeserializeOwned>(path: &Path, mut judged: impl FnMut(L) -> Result<(), String>) -> Result<(), AuditError> {
    let wrong = |source| AuditError::File { path: path.to_owned(), source };
    for (number, line) in BufReader::new(File::open(path).map_err(wrong)?).lines().enumerate() {
        let line = serde_json::from_str(&line.map_err(wrong)?).map_err(|error| error.to_string());
        let damaged = |why| AuditError::Line { path: path.to_owned(), line: number + 1, why };
        line.and_then(&mut judged).map_err(damaged)?;
    }
    Ok(())
}

fn verify(path: &Path) -> Result<String, AuditError> {
    let wrong = |source| AuditError::File { path: path.to_owned(), source };
    let mut first = String::new();
    BufReader::new(File::open(path).map_err(wrong)?).read_line(&mut first).map_err(wrong)?;
    let has_readings = serde_json::from_str::<Value>(&first).is_ok_and(|line| line.get("kind").is_some());
    if has_readings { verify_readings(path) } else { verify_events(path) }
}

fn verify_events(path: &Path) -> Result<String, AuditError> {
    let (mut hash, mut sequence) = (Vec::new(), 0);
    each(path, |line: Line| {
        let (record, bytes) = decoded(&line.record, Record::parse)?;
        sequence += 1;
        if record.sequence != sequence {
            return Err(format!("event {sequence} is missing: this is event {}", record.sequence));
        }
        hash = link(&hash, &bytes);
        if HEXLOWER.encode(&hash) != line.hash {
            return Err(format!("event {sequence} does not follow on the one before it: the hash is another"));
        }
        match line.differs(&record) {
            Some(what) => Err(format!("{what} of event {sequence} is not what was written")),
            None => Ok(()),
        }
    })?;
    let hash = HEXLOWER.encode(&hash);
    Ok(format!("{sequence} events, whole from the first to the last; the last one's hash is {hash}"))
}

/// The first readings may have been removed after their time: then one of the file says so, and on which hash the first
/// one that is left follows.
fn verify_readings(path: &Path) -> Result<String, AuditError> {
    let mut removed: HashMap<i64, Vec<u8>> = HashMap::new();
    each(path, |line: ReadingLine| {
        removed.extend(line.entry()?.0.removed.map(|removed| (removed.through, removed.hash)));
        Ok(())
    })?;
    let mut count = 0;
    let mut before: Option<(i64, Vec<u8>)> = None;
    each(path, |line: ReadingLine| {
        let (entry, bytes) = line.entry()?;
        let sequence = entry.sequence;
        let (last, hash) = match before.take() {
            Some(before) => before,
            None if sequence == 1 => (0, Vec::new()),
            None => match removed.get(&(sequence - 1)) {
                Some(hash) => (sequence - 1, hash.clone()),
                None => {
                    return Err(format!("what was before reading {sequence} is missing: nothing says it was removed"));
                }
            },
        };
        if sequence != last + 1 {
            return Err(format!("reading {} is missing: this is reading {sequence}", last + 1));
        }
        let hash = link(&hash, &bytes);
        if HEXLOWER.encode(&hash) != line.hash {
            return Err(format!("reading {sequence} does not follow on the one before it: the hash is another"));
        }
        if removed.get(&sequence).is_some_and(|said| *said != hash) {
            return Err(format!("reading {sequence} is not the one that was removed"));
        }
        if let Some(what) = line.differs(&entry) {
            return Err(format!("{what} of reading {sequence} is not what was written"));
        }
        count += 1;
        before = Some((sequence, hash));
        Ok(())
    })?;
    let (last, hash) = before.unwrap_or_default();
    let (gone, hash) = (last - count, HEXLOWER.encode(&hash));
    Ok(format!("{count} readings, whole to the last, after {gone} that were removed; the last one's hash is {hash}"))
}
