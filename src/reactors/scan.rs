//! SCAN: whether there is a virus in a document's current file, asked of the scanner.
//!
//! Invariants: a file is let through only by the scanner's word, by a person, or where nothing scans. While the scanner
//! is away a file waits: that is said once in the document, costs no attempt, and ends by itself. A file that the
//! scanner cannot deal with, however often it is asked, stays in quarantine with the reason, for people to decide. What
//! is found is the document's outcome, not a failed job.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use oriel_backends::blobs::Blobs;
use oriel_backends::resilience::Fault;
use oriel_backends::scanner::{ScanError, Scanner, Verdict};
use oriel_domain::documents::pipeline::RecordVerdict;
use oriel_domain::documents::{Awaited, DocumentEvent, Stage};
use oriel_engine::Engine;
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_kernel::Recorded;
use oriel_read_models::documents;

use crate::Parts;
use crate::stages::{NOT_FETCHED, Order, Task, Trouble, file};

const QUEUE: &str = "scan";
/// How often a file is shown to the scanner before it stays in quarantine.
pub(crate) const ATTEMPTS: i32 = 5;
/// How long a job that has a place waits for a scanner that is away, before it lets another have the place.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile. While the breaker is open that asks nobody.
const LOOK: Duration = Duration::from_millis(250);
/// How long a job waits for its next turn at most.
const LONGEST: Duration = Duration::from_secs(15);

/// Orders the scan when it is due.
pub(crate) struct Scan;

impl Reactor for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        Order::job(QUEUE, event, event.event_as().and_then(due))
    }
}

/// The revision to be scanned, and the number of the attempt.
fn due(event: &DocumentEvent) -> Option<(i32, i32)> {
    use DocumentEvent as E;
    match event {
        E::ScanOrdered { revision, attempt }
        | E::Retried { revision, stage: Stage::Scan, attempt }
        | E::Restored { revision, awaits: Some(Awaited { stage: Stage::Scan, attempt }), .. } => {
            Some((*revision, *attempt))
        }
        E::Retried { .. }
        | E::Restored { .. }
        | E::Uploaded { .. }
        | E::RevisionAdded { .. }
        | E::Renamed { .. }
        | E::Tagged { .. }
        | E::Moved { .. }
        | E::StageStarted { .. }
        | E::StageCompleted { .. }
        | E::StageSkipped { .. }
        | E::StageFailed { .. }
        | E::Scanned { .. }
        | E::Released { .. }
        | E::TextExtracted { .. }
        | E::Trashed { .. }
        | E::Purged { .. } => None,
    }
}

/// Shows files to the scanner.
pub(crate) struct Scanning {
    engine: Arc<Engine>,
    blobs: Blobs,
    scanner: Option<Scanner>,
}

const WAITS: &str = "The scanner for viruses does not answer. The file waits for it.";

impl Scanning {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self { engine: Arc::clone(&parts.engine), blobs: parts.blobs.clone(), scanner: parts.scanner.clone() }
    }
}

#[async_trait::async_trait]
impl Worker for Scanning {
    fn queue(&self) -> &'static str {
        QUEUE
    }

    /// Nearly all of them go to waiting for a scanner that is away: that is a week.
    fn max_attempts(&self) -> u32 {
        30_000
    }

    fn backoff(&self, attempts: u32) -> Duration {
        Duration::from_secs(1 << attempts.min(4)).min(LONGEST)
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        let Some((task, document)) = Task::of(&self.engine, job, Stage::Scan).await? else { return Ok(()) };
        let Some(scanner) = &self.scanner else { return task.skip("No scanner is configured.").await };
        let begun = document.pipeline.attempts(Stage::Scan);
        if let Err(error) = is_back(scanner).await {
            tracing::debug!(document = %document.id, %error, "a file waits for the scanner");
            // Of the attempt that is known: said again it is no news.
            let attempt = begun.max(task.order.attempt);
            return task.fail(attempt, Trouble::passing(WAITS), job.attempt >= self.max_attempts()).await;
        }
        let attempt = begun.saturating_add(1).max(task.order.attempt);
        task.start(attempt).await?;
        match self.look(scanner, &document).await {
            Ok(Verdict { engine, signature }) => {
                let (revision, verdict) = (document.revision, if signature.is_some() { "infected" } else { "clean" });
                metrics::counter!("oriel_scans_total", "verdict" => verdict).increment(1);
                if let Some(signature) = &signature {
                    tracing::warn!(document = %document.id, revision, signature, "a virus was found; the file is in quarantine");
                }
                let record = RecordVerdict { revision, attempt, engine, signature };
                task.report(&format!("verdict {attempt}"), record).await.map(drop)
            }
            Err(trouble) => {
                metrics::counter!("oriel_scans_total", "verdict" => "none").increment(1);
                let is_last = attempt.saturating_sub(task.order.attempt).saturating_add(1) >= ATTEMPTS;
                task.fail(attempt, trouble, is_last).await
            }
        }
    }
}

/// Waits a while for the scanner to answer.
async fn is_back(scanner: &Scanner) -> Result<(), ScanError> {
    let answers = async {
        loop {
            match scanner.check().await {
                Ok(()) => return,
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, answers).await {
        Ok(()) => Ok(()),
        Err(_) => scanner.check().await,
    }
}

impl Scanning {
    async fn look(&self, scanner: &Scanner, document: &documents::Model) -> Result<Verdict, Trouble> {
        let body = file(&self.blobs, document).await?;
        let stream = Box::pin(body.stream.map_err(std::io::Error::other));
        scanner.scan(body.size, stream).await.map_err(|error| {
            tracing::warn!(document = %document.id, %error, "a document's file could not be scanned");
            match error {
                ScanError::TooLarge => Trouble::lasting("The file is larger than the scanner for viruses takes."),
                ScanError::Body(_) => Trouble::passing(NOT_FETCHED),
                error if error.is_outage() => Trouble::passing("The scanner for viruses did not finish with the file."),
                _ => Trouble::passing("The scanner for viruses could not deal with the file."),
            }
        })
    }
}
