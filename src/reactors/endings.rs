//! The end of an organisation: when it is due, it ends; and then nothing of it is left. And the erasure of a person.
//!
//! [`every`] ends what is due. The event says so to everybody at once, and destroys the organisation's data key. What is
//! left is removed by a job, in steps that may be done again: files, rows of read models (each step an event, so that
//! every node and every replay follows), facts, other jobs. When all of it is gone everywhere, the search index too, an
//! event certifies it. A job that was killed begins anew and finds what is left. Files of whose event the log does not
//! know are the sweep's. Who was a member there and nowhere else is erased with it: nobody could sign in as them.
//!
//! When a person is erased, another job takes them out of their organisations, and has made anew what was made of events
//! that had said something about them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::{BlobKey, Blobs};
use oriel_domain::documents::DocumentEvent;
use oriel_domain::identities::UnlinkIdentity;
use oriel_domain::members::RemoveMember;
use oriel_domain::organizations::{CertifyEnd, Cleaned, EndOrganization, OrganizationEvent, RemoveRows};
use oriel_domain::projects::LeaveProject;
use oriel_domain::sessions::{EndReason, EndSession};
use oriel_domain::users::erasure::{CertifyErasure, EraseUser, MakeAnew};
use oriel_domain::users::{User, UserEvent};
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_engine::{CommandContext, CommandError, Engine, Transaction};
use oriel_kernel::{Command, CommandId, Effect, Id, MemberId, OrganizationId, Position, Recorded, UserId};
use oriel_read_models::identities;
use oriel_read_models::members::leaving;
use oriel_read_models::organizations::standings;
use sea_orm::DbErr;
use tokio::sync::watch;
use uuid::Uuid;

use crate::search_index::{INDEX, SearchIndex};

const QUEUE: &str = "organization_end";
const ERASURE: &str = "user_erasure";
/// Tables of organisations that are not made of the log.
pub(crate) const BESIDE: [&str; 4] = ["api_key_uses", "access_log", "access_log_heads", "retention_sweeps"];
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
        if let Some(OrganizationEvent::Ended) = event.event_as() {
            return vec![NewJob::new(QUEUE, event)];
        }
        if let Some(UserEvent::Erased) = event.event_as() {
            return vec![NewJob::new(ERASURE, event)];
        }
        Vec::new()
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
                self.erase_who_is_nowhere_else(organization, &members).await?;
            }
            tables.insert(table);
            self.execute(organization, self.engine.new_id(), RemoveRows { rows: (table, ids) }).await?;
        }
        for table in BESIDE {
            self.engine.forget_rows(table, organization).await?;
        }
        self.engine.forget_facts(&[organization]).await?;
        self.engine.forget_jobs(organization, QUEUE).await?;
        // What was written while the files were removed: a worker's last text.
        self.remove_files(organization).await?;
        let position = self.engine.log().head().await?.0;
        tokio::time::timeout(INDEX_WITHIN, self.index.reached(position)).await?;
        let read_models = self.engine.read_models().iter().filter(|read_model| read_model.has_tenant());
        stores.extend(read_models.map(|read_model| cleaned(read_model.table(), position)));
        stores.extend(BESIDE.map(|table| cleaned(table, position)));
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

    async fn erase_who_is_nowhere_else(
        &self,
        organization: OrganizationId,
        members: &[MemberId],
    ) -> Result<(), Failure> {
        let connection = self.engine.database().reader();
        for user in leaving::persons(connection, members).await? {
            let theirs = leaving::memberships(connection, user).await?;
            if theirs.iter().any(|(there, _, _)| *there != organization) {
                continue;
            }
            let context = CommandContext::system(self.engine.new_id(), OrganizationId::ABSENT, self.engine.now());
            match self.engine.execute(&context, user, EraseUser { by: None }).await {
                // Who was only invited is no user yet.
                Ok(_) | Err(CommandError::Rejected(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
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

/// Cleans up after an erased person.
pub(crate) struct Erasing {
    pub(crate) engine: Arc<Engine>,
    pub(crate) blobs: Blobs,
    pub(crate) index: Arc<SearchIndex>,
}

/// What a membership has of sessions and projects that ends in one transaction.
const AT_ONCE: u64 = 200;

#[async_trait::async_trait]
impl Worker for Erasing {
    fn queue(&self) -> &'static str {
        ERASURE
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        self.clean(job).await.map_err(|error| JobFailure::again(format!("something is left of them: {error}")))
    }

    fn max_attempts(&self) -> u32 {
        200
    }

    fn slots(&self) -> usize {
        1
    }
}

impl Erasing {
    async fn clean(&self, job: &Job) -> Result<(), Failure> {
        let user = UserId::from_uuid(job.subject);
        self.leave(user).await?;
        crate::data_exports::erase(&self.engine, &self.blobs, user).await?;
        // All that was said about them: nothing is written with their key any more.
        let head = self.engine.log().head().await?.0;
        let about: Vec<Uuid> = self.engine.about(user, head).await?.into_iter().collect();
        for subjects in about.chunks(Effect::MOST) {
            let anew = MakeAnew { subjects: subjects.to_vec() };
            match self.execute(user, self.engine.new_id(), anew).await {
                // Done before, by one that could not report.
                Err(CommandError::Rejected(_)) => return Ok(()),
                done => done?,
            }
        }
        let position = self.engine.log().head().await?.0;
        tokio::time::timeout(INDEX_WITHIN, self.index.reached(position)).await?;
        let mut stores = vec![cleaned("data_keys", job.position)];
        let read_models = self.engine.read_models().iter().filter(|read_model| read_model.is_made_of_one_stream());
        stores.extend(read_models.map(|read_model| cleaned(read_model.table(), position)));
        stores.extend([INDEX, "blobs", "facts"].map(|store| cleaned(store, position)));
        self.execute(user, job.command("certify"), CertifyErasure { stores }).await?;
        tracing::info!(%user, %position, subjects = about.len(), "nothing is left of a person who was erased");
        Ok(())
    }

    /// Takes them out of every organisation: their sessions, their projects, their membership or invitation.
    async fn leave(&self, user: UserId) -> Result<(), Failure> {
        let connection = self.engine.database().reader();
        for (organization, member, _) in leaving::memberships(connection, user).await? {
            let mut remove = Some(RemoveMember);
            loop {
                let sessions = leaving::sessions(connection, (organization, member), AT_ONCE).await?;
                let projects = leaving::projects(connection, (organization, member), AT_ONCE).await?;
                if sessions.is_empty() && projects.is_empty() && remove.is_none() {
                    break;
                }
                let mut transaction = Transaction::new();
                for session in sessions {
                    transaction = transaction.and(session, EndSession { reason: EndReason::Deactivated });
                }
                for project in projects {
                    transaction = transaction.and(project, LeaveProject { member });
                }
                if let Some(remove) = remove.take() {
                    for identity in identities::of_person(connection, (organization, user)).await? {
                        transaction = transaction.and(identity, UnlinkIdentity { by: None });
                    }
                    transaction = transaction.and(member, remove);
                }
                let context = CommandContext::system(self.engine.new_id(), organization, self.engine.now());
                match self.engine.transact(&context, transaction).await {
                    Ok(_) => {}
                    // They have come to own it meanwhile, or it has ended: then the end removes them.
                    Err(CommandError::Rejected(error)) => {
                        tracing::warn!(%user, %organization, ?error, "an erased person stays a member");
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    async fn execute<C: Command<Aggregate = User>>(
        &self,
        user: UserId,
        command: CommandId,
        what: C,
    ) -> Result<(), CommandError> {
        let context = CommandContext::system(command, OrganizationId::ABSENT, self.engine.now());
        self.engine.execute(&context, user, what).await.map(|_| ())
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
        | DocumentEvent::ScanOrdered { .. }
        | DocumentEvent::Scanned { .. }
        | DocumentEvent::Released { .. }
        | DocumentEvent::Retried { .. }
        | DocumentEvent::Trashed { .. }
        | DocumentEvent::Restored { .. }
        | DocumentEvent::Purged { .. } => Vec::new(),
    }
}
