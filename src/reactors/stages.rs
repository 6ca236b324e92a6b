//! What the stages of a document have in common that a worker does: the order, whether it is still wanted, the file, and
//! how the outcome gets into the log.

use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::{BlobBody, BlobError, BlobKey, Blobs};
use oriel_domain::documents::pipeline::{FailStage, SkipStage, StartStage};
use oriel_domain::documents::{Document, DocumentId, Stage};
use oriel_engine::jobs::{Job, JobFailure, NewJob};
use oriel_engine::{CommandContext, Committed, Engine};
use oriel_kernel::{Command, EventId, Recorded};
use oriel_read_models::documents;
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long an attempt waits for a store that is away: that is not the file's fault, and no attempt of its own. Whoever
/// waits holds the lease of the job, and gives it back when the process ends.
const AWAY: Duration = Duration::from_secs(24 * 3600);
/// How often it is asked meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// What the store says, as soon as it says something.
pub(crate) async fn when_it_answers<T, F>(ask: impl Fn() -> F) -> Result<T, BlobError>
where
    F: Future<Output = Result<T, BlobError>>,
{
    let began = Instant::now();
    loop {
        match ask().await {
            Err(error) if error.is_transient() && began.elapsed() < AWAY => {
                tracing::debug!(%error, "a document waits for the store of the files");
                sleep(LOOK).await;
            }
            answer => return answer,
        }
    }
}

/// A document's file, as soon as the store says something.
pub(crate) async fn file(blobs: &Blobs, document: &documents::Model) -> Result<BlobBody, Trouble> {
    let gone = || Trouble::lasting("The file is not kept any more. Upload it again.");
    let key = BlobKey::parse(&document.blob).map_err(|_| gone())?;
    when_it_answers(|| blobs.get(&key, None)).await.map_err(|error| match error {
        BlobError::NotFound => gone(),
        error => {
            tracing::warn!(document = %document.id, %error, "a document's file cannot be fetched now");
            Trouble::passing(NOT_FETCHED)
        }
    })
}

pub(crate) const NOT_FETCHED: &str = "The file could not be fetched just now.";

/// Why a stage did not succeed.
pub(crate) struct Trouble {
    /// For people.
    reason: String,
    /// Whether another attempt may end differently.
    transient: bool,
}

impl Trouble {
    /// Another attempt may end differently.
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), transient: true }
    }

    /// It would be the same each time.
    pub(crate) fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), transient: false }
    }
}

/// What the worker has to know.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) revision: i32,
    /// The number of the stage's first attempt under this order.
    pub(crate) attempt: i32,
    /// The event that led to the order, and what it belongs to.
    event: EventId,
    correlation: Uuid,
}

impl Order {
    /// The job that an event leads to, if a stage is due after it: the revision, and the number of the attempt.
    pub(crate) fn job(queue: &'static str, event: &Recorded, due: Option<(i32, i32)>) -> Vec<NewJob> {
        let Some((revision, attempt)) = due else { return Vec::new() };
        let order = Self { revision, attempt, event: event.id, correlation: event.correlation };
        // Numbers and ids: this cannot fail.
        serde_json::to_value(order).map(|order| NewJob::new(queue, event).payload(order)).into_iter().collect()
    }
}

/// A job that is about a stage of a document.
pub(crate) struct Task<'a> {
    engine: &'a Arc<Engine>,
    pub(crate) job: &'a Job,
    pub(crate) order: Order,
    stage: Stage,
}

impl<'a> Task<'a> {
    /// The task of a job and its document, if the outcome is still wanted. Read without a viewer: the system asks, about
    /// one row that it knows.
    pub(crate) async fn of(
        engine: &'a Arc<Engine>,
        job: &'a Job,
        stage: Stage,
    ) -> Result<Option<(Self, documents::Model)>, JobFailure> {
        let order: Order = serde_json::from_value(job.payload.clone())
            .map_err(|error| JobFailure::for_good(format!("the order is not readable: {error}")))?;
        let id = DocumentId::from_uuid(job.subject);
        let found = documents::Entity::find_by_id(id).one(engine.database().reader()).await;
        let found = found.map_err(|error| JobFailure::again(format!("the document's row cannot be read: {error}")))?;
        let is_wanted = |document: &documents::Model| {
            let is_open = document.pipeline.is_open(stage);
            document.trashed_at.is_none() && document.revision == order.revision && is_open
        };
        Ok(found.filter(is_wanted).map(|document| (Self { engine, job, order, stage }, document)))
    }

    /// The stage is taken up.
    pub(crate) async fn start(&self, attempt: i32) -> Result<(), JobFailure> {
        let start = StartStage { revision: self.order.revision, stage: self.stage, attempt };
        self.report(&format!("start {attempt}"), start).await.map(drop)
    }

    /// The stage is left out.
    pub(crate) async fn skip(&self, reason: impl Into<String>) -> Result<(), JobFailure> {
        let skip = SkipStage { revision: self.order.revision, stage: self.stage, reason: reason.into() };
        self.report("skip", skip).await.map(drop)
    }

    /// What came of it is the document's outcome. The job itself has failed only if the file is not to blame.
    pub(crate) async fn fail(&self, attempt: i32, trouble: Trouble, is_last: bool) -> Result<(), JobFailure> {
        let Trouble { reason, transient } = trouble;
        let retrying = transient && !is_last;
        let (revision, stage) = (self.order.revision, self.stage);
        let failed = FailStage { revision, stage, attempt, reason: reason.clone(), retrying };
        let what = if retrying { format!("fail {attempt}") } else { format!("give up {attempt}") };
        self.report(&what, failed).await?;
        match (transient, retrying) {
            (false, _) => Ok(()),
            (true, true) => Err(JobFailure::again(reason)),
            (true, false) => Err(JobFailure::for_good(reason)),
        }
    }

    /// Reports something about the document, once for each `what`.
    pub(crate) async fn report<C: Command<Aggregate = Document>>(
        &self,
        what: &str,
        command: C,
    ) -> Result<Committed, JobFailure> {
        let Self { engine, job, order, .. } = self;
        let context = CommandContext {
            correlation: order.correlation,
            causation: Some(order.event.uuid()),
            ..CommandContext::system(job.command(what), job.organization, engine.now())
        };
        let committed = engine.execute(&context, DocumentId::from_uuid(job.subject), command).await;
        committed.map_err(|error| JobFailure::again(format!("{what}: {error}")))
    }
}
