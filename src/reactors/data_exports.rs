//! Data exports: a job gathers what is held about a person into a ZIP of JSON files, and puts it where only that person
//! finds it.
//!
//! Invariants: every attempt is recorded. The file says nothing about anybody else: what an event says about another
//! person is left out. A file that is not wanted any more when it is done goes at once; that of an export that ends goes
//! by the job that purges. Exports that are due end by an event that a timer appends.

use std::io::{Cursor, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oriel_backends::blobs::{BlobKey, Blobs, EXPORTS};
use oriel_domain::data_exports::{
    CompleteExport, DataExport, DataExportEvent, DataExportId, EraseExport, ExpireExport, FailExport, StartExport,
};
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_engine::{CommandContext, CommandError, Committed, Engine};
use oriel_kernel::time::text;
use oriel_kernel::{
    Actor, Command, CommandId, Id, MemberId, OrganizationId, PersonalField, PersonalVisitor, Position, RawId, Recorded,
    Timestamp, UserId,
};
use oriel_read_models::data_exports::{self, due, of_person};
use oriel_read_models::{api_keys, consents, documents, members, organizations, projects, sessions, users};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;
use zip::write::SimpleFileOptions;

const QUEUE: &str = "data_export";
/// How often it is tried.
const ATTEMPTS: u32 = 5;
/// Bytes of a file at most.
const MOST: usize = 128 << 20;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Orders the gathering.
pub(crate) struct Exports;

impl Reactor for Exports {
    fn name(&self) -> &'static str {
        "data_exports"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        match event.event_as() {
            Some(DataExportEvent::Requested { .. }) => vec![NewJob::new(QUEUE, event)],
            Some(
                DataExportEvent::Started { .. }
                | DataExportEvent::Failed { .. }
                | DataExportEvent::Completed { .. }
                | DataExportEvent::Ended { .. },
            )
            | None => Vec::new(),
        }
    }
}

/// Gathers.
pub(crate) struct Gathering {
    pub(crate) engine: Arc<Engine>,
    pub(crate) blobs: Blobs,
}

#[async_trait::async_trait]
impl Worker for Gathering {
    fn queue(&self) -> &'static str {
        QUEUE
    }

    fn max_attempts(&self) -> u32 {
        ATTEMPTS
    }

    fn slots(&self) -> usize {
        1
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        let again = |error: CommandError| JobFailure::again(format!("the outcome cannot be written: {error}"));
        let row = data_exports::Entity::find_by_id(DataExportId::from_uuid(job.subject));
        let row = row.one(self.engine.database().writer()).await;
        let row = row.map_err(|error| JobFailure::again(format!("the export cannot be read: {error}")))?;
        // It has ended meanwhile.
        let Some(row) = row.filter(|row| row.completed_at.is_none()) else { return Ok(()) };
        let attempt = i32::try_from(job.attempt).unwrap_or(i32::MAX);
        let started = job.command(&format!("start {attempt}"));
        self.execute(started, job.subject, StartExport { attempt }).await.map_err(again)?;
        let made = match self.gather(row.user_id).await {
            Ok(file) => self.keep(job, file).await,
            Err(error) => Err(error),
        };
        let Err(error) = made else { return Ok(()) };
        tracing::warn!(export = %job.subject, attempt, %error, "a data export was not made");
        let retrying = job.attempt < ATTEMPTS;
        let reason = "What is held could not be gathered just now.".to_owned();
        let failed = job.command(&format!("fail {attempt}"));
        self.execute(failed, job.subject, FailExport { attempt, reason, retrying }).await.map_err(again)?;
        Err(if retrying { JobFailure::again(error.to_string()) } else { JobFailure::for_good(error.to_string()) })
    }
}

impl Gathering {
    async fn keep(&self, job: &Job, file: Vec<u8>) -> Result<(), Failure> {
        let key = BlobKey::fresh(EXPORTS, self.engine.new_id::<()>().uuid());
        let size = i64::try_from(file.len())?;
        let info = self.blobs.write(&key, Bytes::from(file)).await?;
        let complete = CompleteExport { blob: key.to_string(), size, sha256: info.sha256_hex() };
        let committed = self.execute(job.command("complete"), job.subject, complete).await?;
        if committed.events.is_empty() && !committed.repeated {
            self.blobs.delete(&key).await?;
        }
        Ok(())
    }

    async fn execute<C: Command<Aggregate = DataExport>>(
        &self,
        command: CommandId,
        export: Uuid,
        what: C,
    ) -> Result<Committed, CommandError> {
        execute(&self.engine, command, export, what).await
    }

    /// Everything about this person, as a ZIP.
    async fn gather(&self, user: UserId) -> Result<Vec<u8>, Failure> {
        let connection = self.engine.database().reader();
        let person = users::Entity::find_by_id(user).one(connection).await?.ok_or("there is no such person")?;
        let memberships = members::Entity::find().filter(members::Column::UserId.eq(user.uuid()));
        let memberships = memberships.order_by_asc(members::Column::Id).all(connection).await?;
        let theirs: Vec<MemberId> = memberships.iter().map(|member| member.id).collect();
        let uuids: Vec<Uuid> = theirs.iter().map(|id| id.uuid()).collect();
        let mut file = File::default();
        file.add("profile.json", 1, &profile(&person))?;
        let rows = users::preferences::Entity::find_by_id(user).all(connection).await?;
        file.add("preferences.json", rows.len(), &rows.iter().map(preference).collect())?;
        let list = self.memberships(&memberships).await?;
        file.add("memberships.json", list.len(), &json!(list))?;
        let rows = sessions::Entity::find().filter(sessions::Column::UserId.eq(user.uuid())).all(connection).await?;
        file.add("sessions.json", rows.len(), &rows.iter().map(session).collect())?;
        let rows = api_keys::Entity::find().filter(api_keys::Column::OwnerId.is_in(uuids.iter().copied()));
        let rows = rows.all(connection).await?;
        file.add("api_keys.json", rows.len(), &rows.iter().map(api_key).collect())?;
        let rows = documents::Entity::find().filter(documents::Column::UploadedById.is_in(uuids.iter().copied()));
        let rows = rows.all(connection).await?;
        file.add("documents.json", rows.len(), &rows.iter().map(document).collect())?;
        let rows = consents::Entity::find().filter(consents::Column::UserId.eq(user.uuid())).all(connection).await?;
        file.add("consents.json", rows.len(), &rows.iter().map(consent).collect())?;
        let keys = rows_of_keys(connection, &uuids).await?;
        self.events(user, &[uuids, keys].concat(), &mut file).await?;
        file.finish(user, self.engine.now())
    }

    async fn memberships(&self, memberships: &[members::Model]) -> Result<Vec<Value>, DbErr> {
        let connection = self.engine.database().reader();
        let mut list = Vec::with_capacity(memberships.len());
        for member in memberships {
            let organization = organizations::Entity::find_by_id(member.organization_id).one(connection).await?;
            let places = projects::members::Entity::find()
                .filter(projects::members::Column::MemberId.eq(member.id.uuid()))
                .all(connection)
                .await?;
            let projects: Vec<_> = places
                .iter()
                .map(|place| json!({ "id": place.project_id.to_string(), "addedAt": text(place.added_at) }))
                .collect();
            let grants: Vec<_> = member
                .grants
                .0
                .iter()
                .map(|grant| json!({ "permission": grant.permission, "grantedAt": text(grant.at) }))
                .collect();
            list.push(json!({
                "id": member.id.to_string(),
                "organization": { "id": member.organization_id.to_string(), "name": organization.map(|it| it.name) },
                "roles": member.roles.0, "grants": grants, "status": format!("{:?}", member.status),
                "joinedAt": member.joined_at.map(text), "invitedAddress": member.invited_email, "projects": projects,
            }));
        }
        Ok(list)
    }

    /// What they have caused, and what says something about them: an event on each line.
    async fn events(&self, user: UserId, actors: &[Uuid], file: &mut File) -> Result<(), Failure> {
        let head = self.engine.log().head().await?.0;
        file.begin("events.jsonl")?;
        let (mut reached, mut count) = (Position::START, 0);
        while reached < head {
            let (events, to) = self.engine.events_of(user, actors, reached, head).await?;
            reached = to;
            for event in &events {
                file.line(&shown(event, user)?)?;
            }
            count += events.len();
        }
        file.end("events.jsonl", count);
        Ok(())
    }
}

async fn rows_of_keys(connection: &impl sea_orm::ConnectionTrait, owners: &[Uuid]) -> Result<Vec<Uuid>, DbErr> {
    let keys = api_keys::Entity::find().filter(api_keys::Column::OwnerId.is_in(owners.iter().copied()));
    Ok(keys.all(connection).await?.into_iter().map(|key| key.id.uuid()).collect())
}

async fn execute<C: Command<Aggregate = DataExport>>(
    engine: &Engine,
    command: CommandId,
    export: Uuid,
    what: C,
) -> Result<Committed, CommandError> {
    let context = CommandContext::system(command, OrganizationId::ABSENT, engine.now());
    engine.execute(&context, Id::from_uuid(export), what).await
}

// --- what is in the file -------------------------------------------------------------------------------------------

fn profile(person: &users::Model) -> Value {
    json!({
        "id": person.id.to_string(), "email": person.email, "emailVerified": person.email_verified,
        "name": person.name, "username": person.username, "hasPassword": person.password_hash.is_some(),
        "secondFactorSince": person.second_factor_since.map(text),
    })
}

fn preference(preference: &users::preferences::Model) -> Value {
    json!({
        "theme": preference.theme.map(|theme| format!("{theme:?}")), "language": preference.language,
        "timeZone": preference.time_zone,
    })
}

fn session(session: &sessions::Model) -> Value {
    json!({
        "id": session.id.to_string(), "organization": session.organization_id.to_string(),
        "createdAt": text(session.created_at), "lastSeenAt": text(session.last_seen_at),
        "endedAt": session.ended_at.map(text), "address": session.ip, "program": session.user_agent,
    })
}

fn api_key(key: &api_keys::Model) -> Value {
    json!({
        "id": key.id.to_string(), "organization": key.organization_id.to_string(), "name": key.name,
        "scopes": key.scopes.0, "createdAt": text(key.created_at), "revokedAt": key.revoked_at.map(text),
    })
}

fn consent(consent: &consents::Model) -> Value {
    json!({
        "policy": consent.policy_id.to_string(), "revision": consent.revision, "changedAt": text(consent.changed_at),
    })
}

fn document(document: &documents::Model) -> Value {
    json!({
        "id": document.id.to_string(), "organization": document.organization_id.to_string(),
        "project": document.project_id.to_string(), "title": document.title, "fileName": document.file_name,
        "mediaType": document.media_type, "size": document.size.bytes(), "sha256": document.sha256,
        "tags": document.tags.0, "createdAt": text(document.created_at),
    })
}

/// An event, without what it says about anybody else.
fn shown(event: &Recorded, user: UserId) -> Result<Value, serde_json::Error> {
    struct Others(UserId);
    impl PersonalVisitor for Others {
        fn visit(&mut self, field: &mut dyn PersonalField) {
            if field.of() != self.0 {
                field.set_erased();
            }
        }
    }
    let mut told = event.event.clone_boxed();
    told.visit_personal(&mut Others(user));
    let prefix = oriel_domain::DECODERS.iter().find(|decoder| decoder.stream == told.stream());
    let subject = prefix.map(|decoder| RawId { prefix: decoder.id_prefix, uuid: event.subject }.to_string());
    let actor = match event.actor {
        Actor::User(id) => id.to_string(),
        Actor::Member(id) => id.to_string(),
        Actor::ApiKey(id) => RawId { prefix: "key", uuid: id }.to_string(),
        Actor::System => "Oriel".to_owned(),
        Actor::Anonymous => "nobody known".to_owned(),
    };
    Ok(json!({
        "position": event.position.to_string(), "at": text(event.at), "type": told.event_type(), "subject": subject,
        "actor": actor, "data": told.shown()?,
    }))
}

/// The ZIP, as far as it is made.
struct File {
    zip: zip::ZipWriter<Cursor<Vec<u8>>>,
    contents: Vec<Value>,
}

impl Default for File {
    fn default() -> Self {
        Self { zip: zip::ZipWriter::new(Cursor::default()), contents: Vec::new() }
    }
}

impl File {
    fn add(&mut self, name: &str, count: usize, value: &Value) -> Result<(), Failure> {
        self.begin(name)?;
        self.zip.write_all(&serde_json::to_vec_pretty(value)?)?;
        self.end(name, count);
        Ok(())
    }

    fn begin(&mut self, name: &str) -> Result<(), Failure> {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        Ok(self.zip.start_file(name, options)?)
    }

    fn line(&mut self, value: &Value) -> Result<(), Failure> {
        writeln!(self.zip, "{value}")?;
        Ok(())
    }

    fn end(&mut self, name: &str, count: usize) {
        self.contents.push(json!({ "file": name, "entries": count }));
    }

    fn finish(mut self, user: UserId, at: Timestamp) -> Result<Vec<u8>, Failure> {
        let contents = json!({ "about": user.to_string(), "at": text(at), "contents": self.contents });
        self.add("contents.json", 1, &contents)?;
        let bytes = self.zip.finish()?.into_inner();
        if bytes.len() > MOST { Err("it is larger than an export may be".into()) } else { Ok(bytes) }
    }
}

// --- its end -------------------------------------------------------------------------------------------------------

/// Ends the exports whose time is over, some of them; how many.
pub(crate) async fn expire_due(engine: &Engine) -> Result<usize, Failure> {
    let due = due(engine.database().reader(), engine.now()).await?;
    for export in &due {
        execute(engine, engine.new_id(), export.uuid(), ExpireExport).await?;
    }
    Ok(due.len())
}

/// Ends the exports of a person who is erased, with their files.
pub(crate) async fn erase(engine: &Engine, blobs: &Blobs, user: UserId) -> Result<(), Failure> {
    for export in of_person(engine.database().writer(), user).await? {
        if let Some(Ok(key)) = export.blob.as_deref().map(BlobKey::parse) {
            blobs.delete(&key).await?;
        }
        execute(engine, engine.new_id(), export.id.uuid(), EraseExport).await?;
    }
    Ok(())
}

/// Ends what is due, now and then, until told to stop.
pub(crate) async fn every(pause: Duration, engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
    loop {
        let ended = tokio::select! {
            ended = expire_due(&engine) => ended,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "data exports that are due did not end; they do next time");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}
