//! SCAN: whether there is a virus in a document's current file, asked of the scanner.
//!
//! Invariants: a file is let through only by the scanner's word, by a person, or where nothing scans. While the scanner
//! is away a file waits: that is said once in the document, costs no attempt, and ends by itself. A file that the
//! scanner cannot deal with, however often it is asked, stays in quarantine with the reason, for people to decide. What
//! is found is the document's outcome, not a failed job.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use oriel_backends::blobs::{BlobError, BlobKey, Blobs};
use oriel_backends::resilience::Fault;
use oriel_backends::scanner::{ScanError, Scanner, Verdict};
use oriel_domain::documents::pipeline::{FailStage, RecordVerdict, SkipStage, StartStage};
use oriel_domain::documents::{Awaited, DocumentEvent, Stage};
use oriel_engine::Engine;
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_kernel::Recorded;
use oriel_read_models::documents;

use crate::Parts;
use crate::stages::{Order, when_it_answers};

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

/// Why there is no verdict.
struct Unscanned {
    /// For people.
    reason: &'static str,
    /// Whether another attempt may end differently.
    transient: bool,
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
        let order = Order::of(job)?;
        let Some(document) = order.waiting(&self.engine, job, Stage::Scan).await? else { return Ok(()) };
        let (revision, stage) = (order.revision, Stage::Scan);
        let Some(scanner) = &self.scanner else {
            let reason = "No scanner is configured.".to_owned();
            let skip = SkipStage { revision, stage, reason };
            return order.report(&self.engine, job, "skip", skip).await.map(drop);
        };
        let begun = document.pipeline.attempts(stage);
        if let Err(error) = is_back(scanner).await {
            tracing::debug!(document = %document.id, %error, "a file waits for the scanner");
            // Of the attempt that is known: said again it is no news.
            let attempt = begun.max(order.attempt);
            let last = job.attempt >= self.max_attempts();
            return self.fail(job, &order, attempt, Unscanned { reason: WAITS, transient: true }, last).await;
        }
        let attempt = begun.saturating_add(1).max(order.attempt);
        let start = StartStage { revision, stage, attempt };
        order.report(&self.engine, job, &format!("start {attempt}"), start).await?;
        match self.look(scanner, &document).await {
            Ok(Verdict { engine, signature }) => {
                let verdict = if signature.is_some() { "infected" } else { "clean" };
                metrics::counter!("oriel_scans_total", "verdict" => verdict).increment(1);
                if let Some(signature) = &signature {
                    tracing::warn!(document = %document.id, revision, signature, "a virus was found; the file is in quarantine");
                }
                let record = RecordVerdict { revision, attempt, engine, signature };
                order.report(&self.engine, job, &format!("verdict {attempt}"), record).await.map(drop)
            }
            Err(unscanned) => {
                metrics::counter!("oriel_scans_total", "verdict" => "none").increment(1);
                let last = attempt.saturating_sub(order.attempt).saturating_add(1) >= ATTEMPTS;
                self.fail(job, &order, attempt, unscanned, last).await
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
    async fn look(&self, scanner: &Scanner, document: &documents::Model) -> Result<Verdict, Unscanned> {
        let gone = || Unscanned { reason: "The file is not kept any more. Upload it again.", transient: false };
        let key = BlobKey::parse(&document.blob).map_err(|_| gone())?;
        let body = when_it_answers(|| self.blobs.get(&key, None)).await.map_err(|error| match error {
            BlobError::NotFound => gone(),
            error => {
                tracing::warn!(document = %document.id, %error, "a document's file cannot be fetched now");
                Unscanned { reason: "The file could not be fetched just now.", transient: true }
            }
        })?;
        let stream = Box::pin(body.stream.map_err(std::io::Error::other));
        scanner.scan(body.size, stream).await.map_err(|error| {
            tracing::warn!(document = %document.id, %error, "a document's file could not be scanned");
            match error {
                ScanError::TooLarge => {
                    Unscanned { reason: "The file is larger than the scanner for viruses takes.", transient: false }
                }
                ScanError::Body(_) => Unscanned { reason: "The file could not be fetched just now.", transient: true },
                error if error.is_outage() => {
                    Unscanned { reason: "The scanner for viruses did not finish with the file.", transient: true }
                }
                _ => Unscanned { reason: "The scanner for viruses could not deal with the file.", transient: true },
            }
        })
    }

    /// The document's outcome. The job itself has failed only if the file is not to blame.
    async fn fail(
        &self,
        job: &Job,
        order: &Order,
        attempt: i32,
        unscanned: Unscanned,
        last: bool,
    ) -> Result<(), JobFailure> {
        let Unscanned { reason, transient } = unscanned;
        let retrying = transient && !last;
        let failed =
            FailStage { revision: order.revision, stage: Stage::Scan, attempt, reason: reason.to_owned(), retrying };
        let what = if retrying { format!("fail {attempt}") } else { format!("give up {attempt}") };
        order.report(&self.engine, job, &what, failed).await?;
        match (transient, retrying) {
            (false, _) => Ok(()),
            (true, true) => Err(JobFailure::again(reason)),
            (true, false) => Err(JobFailure::for_good(reason)),
        }
    }
}
