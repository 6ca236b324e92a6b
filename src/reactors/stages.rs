//! What the stages of a document have in common that a worker does: the order, whether it is still wanted, and how its
//! outcome gets into the log.

use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::BlobError;
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

    /// The order of a job.
    pub(crate) fn of(job: &Job) -> Result<Self, JobFailure> {
        serde_json::from_value(job.payload.clone())
            .map_err(|error| JobFailure::for_good(format!("the order is not readable: {error}")))
    }

    /// The document, if the outcome of this stage is still wanted. Read without a viewer: the system asks, about one row
    /// that it knows.
    pub(crate) async fn waiting(
        &self,
        engine: &Engine,
        job: &Job,
        stage: Stage,
    ) -> Result<Option<documents::Model>, JobFailure> {
        let id = DocumentId::from_uuid(job.subject);
        let found = documents::Entity::find_by_id(id).one(engine.database().reader()).await;
        let found = found.map_err(|error| JobFailure::again(format!("the document's row cannot be read: {error}")))?;
        Ok(found.filter(|document| {
            let is_open = document.pipeline.is_open(stage);
            document.trashed_at.is_none() && document.revision == self.revision && is_open
        }))
    }

    /// Reports something about the document, once for each `what`.
    pub(crate) async fn report<C: Command<Aggregate = Document>>(
        &self,
        engine: &Arc<Engine>,
        job: &Job,
        what: &str,
        command: C,
    ) -> Result<Committed, JobFailure> {
        let context = CommandContext {
            correlation: self.correlation,
            causation: Some(self.event.uuid()),
            ..CommandContext::system(job.command(what), job.organization, engine.now())
        };
        let committed = engine.execute(&context, DocumentId::from_uuid(job.subject), command).await;
        committed.map_err(|error| JobFailure::again(format!("{what}: {error}")))
    }
}
