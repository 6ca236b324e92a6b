//! EXTRACT: the text of a document's current file, read by a child process and kept as a blob of its own.
//!
//! Invariants: what a file is refused for is the document's outcome, not a failed job; a failed job is the
//! installation's. A text is written under a fresh key before it is recorded, so that a recorded text is always there;
//! one that lost a race is removed here, one that was left by a kill by the sweep. Nothing is read for a document that
//! meanwhile has another file, is in the trash, or is gone.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use oriel_backends::blobs::{BlobKey, Blobs};
use oriel_backends::extraction::{self, Extractable, Extracted, Input, Program, extractable};
use oriel_domain::documents::pipeline::RecordText;
use oriel_domain::documents::{Awaited, DocumentEvent, ExtractedText, Stage};
use oriel_engine::Engine;
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_kernel::Recorded;
use oriel_read_models::documents;

use crate::stages::{Order, Task, Trouble, file, when_it_answers};
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
        let Some((task, document)) = Task::of(&self.engine, job, Stage::Extract).await? else { return Ok(()) };
        match extractable(&document.media_type) {
            Extractable::NoText => task.skip("Files of this type have no text.").await,
            Extractable::Unsupported { reason } => task.skip(reason).await,
            Extractable::Yes(_) => self.extract(&task, &document).await,
        }
    }
}

impl Extraction {
    async fn extract(&self, task: &Task<'_>, document: &documents::Model) -> Result<(), JobFailure> {
        let earlier = i32::try_from(task.job.attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let attempt = task.order.attempt.saturating_add(earlier);
        let is_last = task.job.attempt >= ATTEMPTS;
        if task.job.attempt > ATTEMPTS {
            let interrupted = Trouble::passing("Reading the document was interrupted each time. Try it again.");
            return task.fail(attempt, interrupted, is_last).await;
        }
        task.start(attempt).await?;
        let read = async {
            let extracted = self.read(document).await?;
            let kept = self.keep(document, &extracted).await?;
            Ok((extracted, kept))
        };
        match read.await {
            Ok((extracted, kept)) => self.record(task, attempt, extracted, kept).await,
            Err(trouble) => task.fail(attempt, trouble, is_last).await,
        }
    }

    async fn read(&self, document: &documents::Model) -> Result<Extracted, Trouble> {
        let body = file(&self.blobs, document).await?;
        let stream = tokio_util::io::StreamReader::new(body.stream.map_err(std::io::Error::other));
        let input = Input::Stream(Box::pin(stream));
        let extracted = extraction::extract(&self.program, input, &document.media_type, &self.limits).await;
        extracted.map_err(|failure| match failure.is_transient() {
            true => Trouble::passing(failure.reason()),
            false => Trouble::lasting(failure.reason()),
        })
    }

    /// Keeps the text; nothing when there is none.
    async fn keep(
        &self,
        document: &documents::Model,
        Extracted { text, truncated, .. }: &Extracted,
    ) -> Result<Option<(BlobKey, ExtractedText)>, Trouble> {
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
        let (key, info) = written.await.map_err(|error| {
            tracing::warn!(document = %document.id, %error, "a text cannot be kept now");
            Trouble::passing("The text could not be kept just now.")
        })?;
        let characters = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let kept =
            ExtractedText { blob: key.to_string(), sha256: info.sha256_hex(), characters, truncated: *truncated };
        Ok(Some((key, kept)))
    }

    async fn record(
        &self,
        task: &Task<'_>,
        attempt: i32,
        extracted: Extracted,
        kept: Option<(BlobKey, ExtractedText)>,
    ) -> Result<(), JobFailure> {
        let (key, text) = kept.unzip();
        let record = RecordText {
            revision: task.order.revision,
            attempt,
            text,
            page_count: extracted.page_count.and_then(|pages| i32::try_from(pages).ok()),
            language: extracted.language,
            title: extracted.title,
        };
        let committed = task.report("record", record).await?;
        // A repetition may be of this very text, when its first commit was uncertain: that one is left to the sweep.
        if committed.events.is_empty()
            && !committed.repeated
            && let Some(key) = key
            && let Err(error) = self.blobs.delete(&key).await
        {
            tracing::warn!(%error, "a text that is not wanted any more stays until the sweep");
        }
        Ok(())
    }
}
