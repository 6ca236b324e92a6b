//! EXTRACT: the text of a document's current file, read by a child process and kept as a blob of its own.
//!
//! Invariants: what a file is refused for is the document's outcome, not a failed job; a failed job is the
//! installation's. A text is written under a fresh key before it is recorded, so that a recorded text is always there;
//! one that lost a race is removed here, one that was left by a kill by the sweep. Nothing is read for a document that
//! meanwhile has another file, is in the trash, or is gone.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use oriel_backends::blobs::{BlobError, BlobKey, Blobs};
use oriel_backends::extraction::{self, Extractable, Extracted, Input, Program, extractable};
use oriel_domain::documents::pipeline::{FailStage, RecordText, SkipStage, StartStage};
use oriel_domain::documents::{Awaited, Document, DocumentEvent, ExtractedText, Stage};
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_engine::{Committed, Engine};
use oriel_kernel::{Command, Recorded};
use oriel_read_models::documents;

use crate::stages::{Order, when_it_answers};
use crate::{Parts, TEXTS};

const QUEUE: &str = "extract";
/// How often a file is read before its document has failed.
pub(crate) const ATTEMPTS: u32 = 5;

/// Orders the extraction when it is due.
pub(crate) struct Extract;

impl Reactor for Extract {
    fn name(&self) -> &'static str {
        "extraction"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        Order::job(QUEUE, event, event.event_as().and_then(due))
    }
}

/// The revision to be read, and the number of the attempt.
fn due(event: &DocumentEvent) -> Option<(i32, i32)> {
    use DocumentEvent as E;
    match event {
        E::StageCompleted { revision, stage: Stage::Scan, .. }
        | E::StageSkipped { revision, stage: Stage::Scan, .. } => Some((*revision, 1)),
        E::Retried { revision, stage: Stage::Extract, attempt }
        | E::Restored { revision, awaits: Some(Awaited { stage: Stage::Extract, attempt }), .. } => {
            Some((*revision, *attempt))
        }
        E::StageCompleted { .. }
        | E::StageSkipped { .. }
        | E::Retried { .. }
        | E::Restored { .. }
        | E::Uploaded { .. }
        | E::RevisionAdded { .. }
        | E::Renamed { .. }
        | E::Tagged { .. }
        | E::Moved { .. }
        | E::StageStarted { .. }
        | E::StageFailed { .. }
        | E::ScanOrdered { .. }
        | E::Scanned { .. }
        | E::Released { .. }
        | E::TextExtracted { .. }
        | E::Trashed { .. }
        | E::Purged { .. } => None,
    }
}

/// Reads documents.
pub(crate) struct Extraction {
    engine: Arc<Engine>,
    blobs: Blobs,
    program: Program,
    limits: extraction::Limits,
    slots: usize,
}

/// Why there is no text.
struct Unread {
    /// For people.
    reason: String,
    /// Whether another attempt may end differently.
    transient: bool,
}

impl Extraction {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            engine: Arc::clone(&parts.engine),
            blobs: parts.blobs.clone(),
            program: parts.program.clone(),
            limits: parts.limits.extraction.clone(),
            slots: parts.limits.extractions,
        }
    }
}

#[async_trait::async_trait]
impl Worker for Extraction {
    fn queue(&self) -> &'static str {
        QUEUE
    }

    /// One more than a file is read: after attempts that ended without a word, the last one says so.
    fn max_attempts(&self) -> u32 {
        ATTEMPTS + 1
    }

    fn slots(&self) -> usize {
        self.slots
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        let order = Order::of(job)?;
        let Some(document) = order.waiting(&self.engine, job, Stage::Extract).await? else { return Ok(()) };
        let task = Task { extraction: self, job, order, attempt: 0 };
        match extractable(&document.media_type) {
            Extractable::NoText => task.skip("Files of this type have no text.".to_owned()).await,
            Extractable::Unsupported { reason } => task.skip(reason).await,
            Extractable::Yes(_) => task.numbered().extract(&document).await,
        }
    }
}

impl Extraction {
    async fn read(&self, document: &documents::Model) -> Result<Extracted, Unread> {
        let gone = || Unread { reason: "The file is not kept any more. Upload it again.".to_owned(), transient: false };
        let key = BlobKey::parse(&document.blob).map_err(|_| gone())?;
        let body = when_it_answers(|| self.blobs.get(&key, None)).await.map_err(|error| match error {
            BlobError::NotFound => gone(),
            error => {
                tracing::warn!(document = %document.id, %error, "a document's file cannot be fetched now");
                Unread { reason: "The file could not be fetched just now.".to_owned(), transient: true }
            }
        })?;
        let stream = tokio_util::io::StreamReader::new(body.stream.map_err(std::io::Error::other));
        extraction::extract(&self.program, Input::Stream(Box::pin(stream)), &document.media_type, &self.limits)
            .await
            .map_err(|failure| Unread { reason: failure.reason(), transient: failure.is_transient() })
    }

    /// Keeps the text; nothing when there is none.
    async fn keep(&self, text: &str, truncated: bool) -> Result<Option<(BlobKey, ExtractedText)>, BlobError> {
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let written = when_it_answers(|| async {
            // A fresh one each time, because an answer may be lost: what is left over goes with the sweep.
            let key = BlobKey::fresh(TEXTS, self.engine.new_id::<()>().uuid());
            let info = self.blobs.write(&key, bytes.clone()).await?;
            Ok((key, info))
        });
        let (key, info) = written.await?;
        let characters = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let kept = ExtractedText { blob: key.to_string(), sha256: info.sha256_hex(), characters, truncated };
        Ok(Some((key, kept)))
    }
}

/// One attempt at one order.
struct Task<'a> {
    extraction: &'a Extraction,
    job: &'a Job,
    order: Order,
    /// The stage's attempt.
    attempt: i32,
}

impl Task<'_> {
    /// With the number of the stage's attempt.
    fn numbered(mut self) -> Self {
        let earlier = i32::try_from(self.job.attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        self.attempt = self.order.attempt.saturating_add(earlier);
        self
    }

    async fn skip(&self, reason: String) -> Result<(), JobFailure> {
        self.execute("skip", SkipStage { revision: self.order.revision, stage: Stage::Extract, reason }).await.map(drop)
    }

    async fn extract(&self, document: &documents::Model) -> Result<(), JobFailure> {
        let (revision, stage, attempt) = (self.order.revision, Stage::Extract, self.attempt);
        if self.job.attempt > ATTEMPTS {
            let reason = "Reading the document was interrupted each time. Try it again.".to_owned();
            return self.fail(Unread { reason, transient: true }).await;
        }
        self.execute(&format!("start {attempt}"), StartStage { revision, stage, attempt }).await?;
        match self.extraction.read(document).await {
            Ok(extracted) => self.record(extracted).await,
            Err(unread) => self.fail(unread).await,
        }
    }

    async fn record(&self, extracted: Extracted) -> Result<(), JobFailure> {
        let Self { extraction, order, .. } = self;
        let kept = extraction.keep(&extracted.text, extracted.truncated).await;
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(document = %self.job.subject, %error, "a text cannot be kept now");
                let reason = "The text could not be kept just now.".to_owned();
                return self.fail(Unread { reason, transient: true }).await;
            }
        };
        let (key, text) = kept.unzip();
        let record = RecordText {
            revision: order.revision,
            attempt: self.attempt,
            text,
            page_count: extracted.page_count.and_then(|pages| i32::try_from(pages).ok()),
            language: extracted.language,
            title: extracted.title,
        };
        let committed = self.execute("record", record).await?;
        // A repetition may be of this very text, when its first commit was uncertain: that one is left to the sweep.
        if committed.events.is_empty()
            && !committed.repeated
            && let Some(key) = key
            && let Err(error) = extraction.blobs.delete(&key).await
        {
            tracing::warn!(%error, "a text that is not wanted any more stays until the sweep");
        }
        Ok(())
    }

    /// The document's outcome. The job itself has failed only if the file is not to blame.
    async fn fail(&self, unread: Unread) -> Result<(), JobFailure> {
        let Unread { reason, transient } = unread;
        let retrying = transient && self.job.attempt < ATTEMPTS;
        let failed = FailStage {
            revision: self.order.revision,
            stage: Stage::Extract,
            attempt: self.attempt,
            reason: reason.clone(),
            retrying,
        };
        self.execute(&format!("fail {}", self.attempt), failed).await?;
        match (transient, retrying) {
            (false, _) => Ok(()),
            (true, true) => Err(JobFailure::again(reason)),
            (true, false) => Err(JobFailure::for_good(reason)),
        }
    }

    async fn execute<C: Command<Aggregate = Document>>(&self, what: &str, command: C) -> Result<Committed, JobFailure> {
        self.order.report(&self.extraction.engine, self.job, what, command).await
    }
}
