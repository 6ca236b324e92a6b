//! The end of an organisation: when it is due, it ends; and then nothing of it is left.
//!
//! [`every`] ends what is due. The event says so to everybody at once, and destroys the organisation's data key. What is
//! left is removed by a job, in steps that may be done again: files, rows of read models (each step an event, so that
//! every node and every replay follows), facts, other jobs. When all of it is gone everywhere, the search index too, an
//! event certifies it. A job that was killed begins anew and finds what is left. Files of whose event the log does not
//! know are the sweep's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::{BlobKey, Blobs};
use oriel_domain::documents::DocumentEvent;
use oriel_domain::organizations::{CertifyEnd, Cleaned, EndOrganization, OrganizationEvent, RemoveRows};
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_engine::{CommandContext, CommandError, Engine};
use oriel_kernel::{Command, CommandId, Id, MemberId, OrganizationId, Position, Recorded};
use oriel_read_models::organizations::standings;
use sea_orm::DbErr;
use tokio::sync::watch;

use crate::search_index::{INDEX, SearchIndex};

const QUEUE: &str = "organization_end";
/// Events that are read at once.
const EVENTS: u64 = 500;
/// How long the index may take until the job is tried again.
const INDEX_WITHIN: Duration = Duration::from_secs(30);

/// Why an organisation that is due was not ended.
#[derive(Debug, thiserror::Error)]
pub enum EndingError {
    /// What is due.
    #[error("what is due cannot be read: {0}")]
    Database(#[from] DbErr),
    /// The command.
    #[error("an organisation cannot be ended: {0}")]
    Command(#[from] CommandError),
}

/// Ends the organisations whose end is due; how many.
pub(crate) async fn end_due(engine: &Engine) -> Result<usize, EndingError> {
    let due = standings::due(engine.database().reader(), engine.now()).await?;
    for organization in &due {
        let context = CommandContext::system(engine.new_id(), *organization, engine.now());
        let context = CommandContext { may_repeat: false, ..context };
        match engine.execute(&context, *organization, EndOrganization).await {
            Ok(_) => tracing::info!(%organization, "an organisation has ended"),
            // Called off at the last moment.
            Err(CommandError::Rejected(error)) => tracing::info!(%organization, ?error, "an organisation goes on"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(due.len())
}

/// Ends what is due, now and then, until told to stop.
pub(crate) async fn every(pause: Duration, engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
    loop {
        let ended = tokio::select! {
            ended = end_due(&engine) => ended,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "what is due was not ended; it is next time");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Orders the removal.
pub(crate) struct Endings;

impl Reactor for Endings {
    fn name(&self) -> &'static str {
        "endings"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        match event.event_as() {
            Some(OrganizationEvent::Ended) => vec![NewJob::new(QUEUE, event)],
            _ => Vec::new(),
        }
    }
}

/// Removes what is left.
pub(crate) struct Ending {
    pub(crate) engine: Arc<Engine>,
    pub(crate) blobs: Blobs,
    pub(crate) index: Arc<SearchIndex>,
}

#[async_trait::async_trait]
impl Worker for Ending {
    fn queue(&self) -> &'static str {
        QUEUE
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        self.remove(job).await.map_err(|error| JobFailure::again(format!("something is left of it: {error}")))
    }

    /// Until it is gone, however long something is not there: an hour apart, this is more than a week.
    fn max_attempts(&self) -> u32 {
        200
    }

    fn slots(&self) -> usize {
        1
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Ending {
    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        let organization = job.organization;
        let mut stores = vec![cleaned("data_keys", job.position)];
        self.remove_files(organization).await?;
        let mut tables: BTreeSet<&'static str> = BTreeSet::new();
        while let Some((table, ids)) = self.engine.some_rows(organization).await? {
            if table == "members" {
                let members: Vec<MemberId> = ids.iter().map(|id| Id::from_uuid(*id)).collect();
                self.engine.forget_facts(&members).await?;
            }
            tables.insert(table);
            self.execute(organization, self.engine.new_id(), RemoveRows { rows: (table, ids) }).await?;
        }
        self.engine.forget_facts(&[organization]).await?;
        self.engine.forget_jobs(organization, QUEUE).await?;
        // What was written while the files were removed: a worker's last text.
        self.remove_files(organization).await?;
        let position = self.engine.log().head().await?.0;
        tokio::time::timeout(INDEX_WITHIN, self.index.reached(position)).await?;
        let read_models = self.engine.read_models().iter().filter(|read_model| read_model.has_tenant());
        stores.extend(read_models.map(|read_model| cleaned(read_model.table(), position)));
        stores.extend([INDEX, "blobs", "facts", "jobs"].map(|store| cleaned(store, position)));
        self.execute(organization, job.command("certify"), CertifyEnd { stores }).await?;
        tracing::info!(%organization, %position, ?tables, "nothing is left of an organisation that has ended");
        Ok(())
    }

    async fn execute<C: Command<Aggregate = oriel_domain::organizations::Organization>>(
        &self,
        organization: OrganizationId,
        command: CommandId,
        what: C,
    ) -> Result<(), CommandError> {
        let context = CommandContext::system(command, organization, self.engine.now());
        self.engine.execute(&context, organization, what).await.map(|_| ())
    }

    /// Every file that an event of the organisation names.
    async fn remove_files(&self, organization: OrganizationId) -> Result<(), Failure> {
        let mut reached = Position::START;
        loop {
            let events = self.engine.log().read_organization(organization, reached, EVENTS).await?;
            let Some(last) = events.last() else { return Ok(()) };
            reached = last.position;
            for key in events.iter().filter_map(|event| event.event_as()).flat_map(files) {
                match BlobKey::parse(key) {
                    // One that is gone already is removed.
                    Ok(key) => self.blobs.delete(&key).await?,
                    Err(_) => tracing::warn!(%organization, "what an event calls a file is no key"),
                }
            }
        }
    }
}

fn cleaned(store: &str, position: Position) -> Cleaned {
    Cleaned { store: store.to_owned(), position }
}

/// The files that an event names.
fn files(event: &DocumentEvent) -> Vec<&str> {
    match event {
        DocumentEvent::Uploaded { blob, .. } | DocumentEvent::RevisionAdded { blob, .. } => vec![blob],
        DocumentEvent::TextExtracted { text: Some(text), .. } => vec![&text.blob],
        DocumentEvent::TextExtracted { text: None, .. }
        | DocumentEvent::Renamed { .. }
        | DocumentEvent::Tagged { .. }
        | DocumentEvent::Moved { .. }
        | DocumentEvent::StageStarted { .. }
        | DocumentEvent::StageCompleted { .. }
        | DocumentEvent::StageSkipped { .. }
        | DocumentEvent::StageFailed { .. }
        | DocumentEvent::Retried { .. }
        | DocumentEvent::Trashed { .. }
        | DocumentEvent::Restored { .. }
        | DocumentEvent::Purged { .. } => Vec::new(),
    }
}
