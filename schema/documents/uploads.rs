//! How files arrive: with the request, or past it through a signed URL.
//!
//! Invariants: a file is in the blob backend under a fresh key before its document exists. It is removed again as soon
//! as it is certain that nothing refers to it; where that is not certain (the database went away during the commit) it
//! stays, and the sweep of unreferenced keys decides later. An upload through a signed URL is measured on a copy that
//! whoever holds the URL cannot change.
//!
//! An upload that was begun is kept nowhere: its id is a signed ticket that says everything.

use async_graphql::{Context, ID, InputObject, SimpleObject};
use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use futures::TryStreamExt;
use oriel_backends::blobs::{BlobError, BlobKey, FILES, PresignError, PutSize, STAGING};
use oriel_backends::extraction::{self, Extractable};
use oriel_backends::resilience::whole_text;
use oriel_domain::documents::{AddRevision, Document, FileName, StoredFile, Tags, Title, UploadDocument};
use oriel_domain::projects::ProjectId;
use oriel_engine::read::ByteSize;
use oriel_engine::{CommandError, Committed};
use oriel_kernel::{
    Command, Decision, ErrorCode, Given, MemberId, OrganizationId, Rejection, Timestamp, UserError, Viewer,
};
use oriel_read_models::documents::revisions;
use oriel_read_models::projects::{Model as Project, ProjectStatus};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DocumentPayload, DocumentRevisionUploadInput, DocumentUploadInput, payload};
use crate::access::{Granted, Payload, Problems, Result, internal, reader, unavailable};
use crate::services::{Meta, Services};
use crate::uploads::{Received, Upload, Uploads};

/// How long after its URL has expired an upload can still be completed: a large one may have begun at the last moment.
const GRACE: std::time::Duration = std::time::Duration::from_secs(3600);

/// How long the URL of an upload is good at most: what stays in [`STAGING`] for a day is swept.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(12 * 3600);

/// What [`validated`] accepts, for people who choose files.
pub(super) const ACCEPTED: &[&str] = &[
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.oasis.opendocument.text",
    "application/json",
    "application/xml",
    "application/yaml",
    "text/*",
    "image/*",
    "audio/*",
    "video/*",
    "font/*",
];

// --- with the request --------------------------------------------------------------------------------------------

pub(super) async fn upload(cx: &Context<'_>, granted: &Granted, input: DocumentUploadInput) -> Result<DocumentPayload> {
    let mut problems = Problems::default();
    let title = problems.take("title", input.title.as_deref().map(Title::parse).transpose());
    let tags = problems.take("tags", Tags::parse(input.tags.iter().flatten()));
    let taken = Taken::take(cx, input.file)?;
    let name = problems.take("file", FileName::parse(&taken.file()?.file_name));
    let (Some(title), Some(tags), Some(name)) = (title, tags, name) else { return Err(problems.failure()) };
    let title = title.map_or_else(|| title_of(&name), Ok)?;

    let services = Services::of(cx)?;
    let context = granted.command_about(cx, &input, &taken.file()?.sha256)?;
    let file = stored(services, granted.viewer()?, name, taken.file()?);
    let upload = UploadDocument { project: input.project_id, title, tags, file };
    let used = taken.used()?;
    let done = services.engine.execute(&context, services.engine.new_id(), upload).await;
    payload(cx, settle(cx, used, done).await?).await
}

pub(super) async fn revise(
    cx: &Context<'_>,
    granted: &Granted,
    input: DocumentRevisionUploadInput,
) -> Result<DocumentPayload> {
    let taken = Taken::take(cx, input.file)?;
    let name = FileName::parse(&taken.file()?.file_name).map_err(|rejection| rejection.at("file"))?;
    let services = Services::of(cx)?;
    let context = granted.command_about(cx, &input, &taken.file()?.sha256)?;
    let file = stored(services, granted.viewer()?, name, taken.file()?);
    let used = taken.used()?;
    let done = services.engine.execute(&context, input.id, AddRevision { file }).await;
    payload(cx, settle(cx, used, done).await?).await
}

/// A file of the request that an operation takes. Dropped before [`Taken::used`], it goes back to those that the
/// transport removes.
struct Taken<'a> {
    uploads: &'a Uploads,
    file: Option<Received>,
}

impl<'a> Taken<'a> {
    fn take(cx: &Context<'a>, upload: Upload) -> Result<Self> {
        let uploads = &Meta::of(cx)?.uploads;
        let file = uploads.take(upload).ok_or_else(|| {
            let message = "There is no such file in this request. Each file can be used once.";
            Rejection::new(ErrorCode::Required, message).at("file")
        })?;
        Ok(Self { uploads, file: Some(file) })
    }

    fn file(&self) -> Result<&Received> {
        Ok(self.file.as_ref().ok_or_else(|| internal("a file is used after its command"))?)
    }

    /// The file, about to be given to a command. From here on it is not given back by itself, even if the request is
    /// dropped: it may be committed.
    fn used(mut self) -> Result<Received> {
        Ok(self.file.take().ok_or_else(|| internal("a file is used after its command"))?)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.uploads.give_back(file);
        }
    }
}

/// The outcome of the command, once it is decided what becomes of the file.
async fn settle(cx: &Context<'_>, file: Received, done: Result<Committed, CommandError>) -> Result<Committed> {
    if is_unused(cx, &file.blob, &done).await {
        Meta::of(cx)?.uploads.give_back(file);
    }
    Ok(done?)
}

/// Whether it is certain that nothing refers to this file.
async fn is_unused(cx: &Context<'_>, blob: &BlobKey, done: &Result<Committed, CommandError>) -> bool {
    match done {
        Ok(committed) if committed.repeated => !may_be_kept(cx, committed.subject, blob).await,
        Ok(_) => false,
        Err(CommandError::Rejected(_) | CommandError::Stale | CommandError::SignedOut | CommandError::Overloaded) => {
            true
        }
        Err(CommandError::Unavailable(_) | CommandError::Internal(_)) => false,
    }
}

/// Whether this document may have this file: after an uncertain commit one's own command shows as repeated.
async fn may_be_kept(cx: &Context<'_>, document: Uuid, blob: &BlobKey) -> bool {
    let Ok(reader) = reader(cx) else { return true };
    match reader.get::<revisions::Model>(document).await {
        Ok(Some(row)) => (1..).map_while(|number| row.revision(number)).any(|file| file.blob == blob.as_str()),
        Ok(None) | Err(_) => true,
    }
}

// --- through a signed URL ------------------------------------------------------------------------------------------

/// A file that will be sent to a URL.
#[derive(InputObject)]
pub(super) struct DocumentUploadBeginInput {
    /// In which project. It has to be active.
    project_id: ProjectId,
    /// What the file is called.
    file_name: String,
    /// How large it is. Exactly so many bytes have to be sent then.
    size: Option<ByteSize>,
    /// What it is; it has to be sent as `Content-Type` then. What counts later is the content.
    media_type: Option<String>,
    /// What the document will be called; by default the file's name, without its ending.
    title: Option<String>,
    /// Words that it will be found by; at most 50.
    tags: Option<Vec<String>>,
}

/// The upload that is complete.
#[derive(InputObject)]
pub(super) struct DocumentUploadCompleteInput {
    /// What `documentUploadBegin` answered.
    upload_id: ID,
    /// Accepted as everywhere and not needed here: the same `uploadId` gives the same document.
    idempotency_key: Option<String>,
}

/// Where a file can be sent to.
#[derive(SimpleObject, Default)]
pub(super) struct DocumentUploadBeginPayload {
    /// Give it to `documentUploadComplete`, an hour after `expiresAt` at the latest. Only you can use it.
    upload_id: Option<ID>,
    /// Where to send the file.
    url: Option<String>,
    /// The HTTP method to send it with.
    method: Option<String>,
    /// Headers to be sent exactly so.
    headers: Option<Vec<HttpHeader>>,
    /// Until when the URL takes the file.
    expires_at: Option<Timestamp>,
    /// What has to be mended before this can be done; empty when it was done.
    user_errors: Vec<UserError>,
}

/// A header of an HTTP request.
#[derive(SimpleObject)]
struct HttpHeader {
    /// Its name.
    name: String,
    /// Its value.
    value: String,
}

impl Payload for DocumentUploadBeginPayload {
    fn rejected(user_errors: Vec<UserError>) -> Self {
        Self { user_errors, ..Self::default() }
    }
}

/// Everything that is known of an upload that was begun.
#[derive(Serialize, Deserialize)]
struct Ticket {
    organization: OrganizationId,
    member: MemberId,
    project: ProjectId,
    staging: BlobKey,
    file_name: String,
    title: Option<String>,
    tags: Vec<String>,
    expires_at: i64,
}

pub(super) async fn begin(
    cx: &Context<'_>,
    granted: &Granted,
    input: DocumentUploadBeginInput,
) -> Result<DocumentUploadBeginPayload> {
    let services = Services::of(cx)?;
    let viewer = granted.viewer()?;
    let mut problems = Problems::default();
    let name = problems.take("fileName", FileName::parse(&input.file_name));
    let title = problems.take("title", input.title.as_deref().map(Title::parse).transpose());
    let tags = problems.take("tags", Tags::parse(input.tags.iter().flatten()));
    let size = problems.take("size", allowed(services, input.size));
    // The command checks it again; here it saves sending a file in vain.
    let project = reader(cx)?.get::<Project>(input.project_id).await?;
    if !project.is_some_and(|project| project.status == ProjectStatus::Active) {
        problems.push(Rejection::new(ErrorCode::NotFound, "There is no such active project.").at("projectId"));
        return Err(problems.failure());
    }
    let (Some(name), Some(title), Some(tags), Some(size)) = (name, title, tags, size) else {
        return Err(problems.failure());
    };
    let now = services.engine.now();
    let staging = BlobKey::fresh(STAGING, services.engine.new_id::<()>().uuid());
    let media_type = input.media_type.as_deref();
    let expires = now + services.policy.url_ttl.min(LONGEST);
    let signed = services.blobs.presign_put(&staging, expires, size, media_type, now).await;
    let signed = signed.map_err(|error| match error {
        PresignError::MediaType => {
            Rejection::new(ErrorCode::Invalid, "This is not a media type, such as text/plain.").at("mediaType").into()
        }
        error @ (PresignError::Expiry | PresignError::Unavailable(_)) => {
            crate::access::Failure::from(unavailable(whole_text(&error)))
        }
    })?;
    let ticket = Ticket {
        organization: viewer.organization,
        member: viewer.member,
        project: input.project_id,
        staging,
        file_name: name.as_str().to_owned(),
        title: title.map(String::from),
        tags: tags.as_slice().iter().map(ToString::to_string).collect(),
        expires_at: (signed.expires_at + GRACE).timestamp(),
    };
    Ok(DocumentUploadBeginPayload {
        upload_id: Some(ticket.seal(services).await?.into()),
        url: Some(services.absolute(&signed.url)),
        method: Some(signed.method.to_string()),
        headers: Some(signed.headers.into_iter().map(|(name, value)| HttpHeader { name, value }).collect()),
        expires_at: Some(signed.expires_at),
        user_errors: Vec::new(),
    })
}

fn allowed(services: &Services, size: Option<ByteSize>) -> Result<PutSize, Rejection> {
    let most = services.policy.max_file_size;
    match size.map(ByteSize::bytes) {
        None => Ok(PutSize::AtMost(most)),
        Some(size) if size <= most => Ok(PutSize::Exactly(size)),
        Some(_) => Err(too_large(most)),
    }
}

fn too_large(most: u64) -> Rejection {
    Rejection::new(ErrorCode::LimitExceeded, format!("A file may have {most} bytes at most."))
}

pub(super) async fn complete(
    cx: &Context<'_>,
    granted: &Granted,
    mut input: DocumentUploadCompleteInput,
) -> Result<DocumentPayload> {
    let services = Services::of(cx)?;
    let viewer = granted.viewer()?;
    let ticket = Ticket::open(services, viewer, &input.upload_id).await?;
    // The upload itself is the key: who completes it twice, knowingly or not, has one document.
    input.idempotency_key = Some(format!("upload {}", ticket.staging));
    let context = granted.command(cx, &input)?;
    let id = services.engine.new_id();

    let fresh = BlobKey::fresh(FILES, services.engine.new_id::<()>().uuid());
    let file = match receive(services, &ticket, &fresh).await {
        Ok(file) => file,
        Err(BlobError::NotFound) => {
            remove(services, &fresh).await;
            let done = services.engine.execute(&context, id, NothingArrived).await?;
            return payload(cx, done).await;
        }
        Err(error) => {
            remove(services, &fresh).await;
            return Err(match error {
                BlobError::TooLarge { limit } => {
                    remove(services, &ticket.staging).await;
                    too_large(limit).into()
                }
                error => unavailable(whole_text(&error)).into(),
            });
        }
    };
    let name = FileName::parse(&ticket.file_name)?;
    let title = ticket.title.as_deref().map_or_else(|| title_of(&name), Title::parse)?;
    let stored = stored(services, viewer, name, &file);
    let upload = UploadDocument { project: ticket.project, title, tags: Tags::parse(&ticket.tags)?, file: stored };
    let done = services.engine.execute(&context, id, upload).await;
    if is_unused(cx, &fresh, &done).await {
        remove(services, &fresh).await;
    }
    let done = done?;
    remove(services, &ticket.staging).await;
    payload(cx, done).await
}

/// Copies what arrived to where nobody else can write, and looks at it there.
async fn receive(services: &Services, ticket: &Ticket, fresh: &BlobKey) -> Result<Received, BlobError> {
    services.blobs.copy(&ticket.staging, fresh).await?;
    let info = services.blobs.measure(fresh, services.policy.max_file_size).await?;
    let mut head = Vec::new();
    if info.size > 0 {
        let most = info.size.min(extraction::SNIFF_BYTES as u64);
        let mut body = services.blobs.get(fresh, Some(0..most)).await?;
        while let Some(chunk) = body.stream.try_next().await.map_err(|e| BlobError::Unavailable(e.into()))? {
            head.extend_from_slice(&chunk);
        }
    }
    let file_name = ticket.file_name.clone();
    Ok(Received { blob: fresh.clone(), size: info.size, sha256: info.sha256, file_name, head })
}

/// A blob that is left behind costs space until the sweep, nothing else.
async fn remove(services: &Services, blob: &BlobKey) {
    if let Err(error) = services.blobs.delete(blob).await {
        tracing::warn!(%blob, %error, "a blob that nothing refers to could not be removed");
    }
}

/// Completes an upload of which no file is there: the document that an earlier attempt made, or a refusal.
struct NothingArrived;

impl Command for NothingArrived {
    type Aggregate = Document;
    const CREATES: bool = true;

    fn decide(&self, _: &Document, _: &Given<'_>) -> Decision<<Document as oriel_kernel::Aggregate>::Event> {
        let message = "No file has arrived for this upload. Send it to the URL of documentUploadBegin first.";
        Err(Rejection::new(ErrorCode::NotFound, message).at("uploadId"))
    }
}

impl Ticket {
    async fn seal(&self, services: &Services) -> Result<String> {
        let text = serde_json::to_vec(self).map_err(internal)?;
        let tag = hmac::sign(&key(services).await?, &text);
        Ok(format!("{}.{}", BASE64URL_NOPAD.encode(&text), BASE64URL_NOPAD.encode(tag.as_ref())))
    }

    /// The ticket, if we made it, for this member, and it is still good.
    async fn open(services: &Services, viewer: &Viewer, id: &str) -> Result<Self> {
        let absent = || Rejection::not_found("upload").at("uploadId");
        let (text, tag) = id.split_once('.').ok_or_else(absent)?;
        let text = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| absent())?;
        let tag = BASE64URL_NOPAD.decode(tag.as_bytes()).map_err(|_| absent())?;
        hmac::verify(&key(services).await?, &text, &tag).map_err(|_| absent())?;
        let ticket: Self = serde_json::from_slice(&text).map_err(internal)?;
        if ticket.organization != viewer.organization || ticket.member != viewer.member {
            return Err(absent().into());
        }
        if ticket.expires_at <= services.engine.now().timestamp() {
            let message = "This upload has expired. Begin another one.";
            return Err(Rejection::new(ErrorCode::Expired, message).at("uploadId").into());
        }
        Ok(ticket)
    }
}

async fn key(services: &Services) -> Result<hmac::Key> {
    let secret = services.engine.keyring().secret("uploads", services.engine.now()).await.map_err(unavailable)?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()))
}

// --- what both have in common --------------------------------------------------------------------------------------

fn stored(services: &Services, viewer: &Viewer, name: FileName, file: &Received) -> StoredFile {
    let media_type = extraction::sniff(&file.head, name.as_str()).media_type;
    StoredFile {
        validation: validated(file.size, name.as_str(), &media_type),
        name,
        media_type,
        size: i64::try_from(file.size).unwrap_or(i64::MAX),
        sha256: data_encoding::HEXLOWER.encode(&file.sha256),
        blob: file.blob.to_string(),
        scanner: services.policy.scanner,
        user: viewer.user,
        uploaded_by: viewer.member,
    }
}

/// Whether a file may be a document; if not, why, for people.
fn validated(size: u64, name: &str, media_type: &str) -> Result<(), String> {
    if size == 0 {
        return Err("The file is empty.".to_owned());
    }
    if let Some(reason) = extraction::contradicts(name, media_type) {
        return Err(reason);
    }
    match extraction::extractable(media_type) {
        Extractable::Yes(_) | Extractable::NoText => Ok(()),
        Extractable::Unsupported { reason } => Err(reason),
    }
}

/// What a document is called whose title was not said: the name of its file, without the ending.
fn title_of(name: &FileName) -> Result<Title, Rejection> {
    let name = name.as_str();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    Title::parse(stem).or_else(|_| Title::parse(name)).map_err(|rejection| rejection.at("title"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn titles_come_from_file_names() {
        let title = |name: &str| title_of(&FileName::parse(name).unwrap()).unwrap().to_string();
        assert_eq!(title("C:\\papers\\Plan 2031.final.pdf"), "Plan 2031.final");
        assert_eq!(title("README"), "README");
        assert_eq!(title(".env"), ".env");
        assert_eq!(title(" .env "), ".env");
    }

    #[test]
    fn what_is_said_to_be_accepted_is_accepted() {
        for accepted in ACCEPTED {
            let media_type = accepted.replace('*', "example");
            assert_eq!(validated(1, "no-ending", &media_type), Ok(()), "{accepted}");
        }
        assert!(!validated(1, "report.docx", "application/pdf").unwrap_err().is_empty());
        assert!(validated(1, "a.zip", "application/zip").is_err());
        assert!(validated(0, "a.txt", "text/plain").is_err());
    }
}
