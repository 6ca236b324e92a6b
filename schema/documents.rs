//! Documents: looking at them, changing them, the trash. How files arrive stands in `documents/uploads.rs`.

use std::sync::Arc;

use async_graphql::{Context, InputObject, SimpleObject};
use oriel_domain::documents::{
    DeleteDocument, DocumentId, MoveDocument, PurgeDocument, ReleaseDocument, ReleaseReason, RescanDocument,
    RestoreDocument, RetryDocument, Tags, Title, UpdateDocument,
};
use oriel_domain::projects::ProjectId;
use oriel_engine::read::{ByteSize, Connection, PageArgs};
use oriel_engine::{CommandContext, Committed};
use oriel_kernel::operations;
use oriel_read_models::documents::{DocumentFilter, DocumentOrder, Model as Document, listed};

use crate::access::{Problems, Result, after_write, reader};
use crate::payload::payloads;
use crate::services::Services;

#[cfg(test)]
pub(crate) mod tests;
pub mod uploads;

/// What can be asked about documents.
#[derive(Default)]
pub struct DocumentQuery;

/// What can be done with documents.
#[derive(Default)]
pub struct DocumentMutation;

payloads! {
    /// What became of a change of a document.
    DocumentPayload {
        /// The document as it is now; null when it is gone for ever, or you may not see it.
        document: Arc<Document>,
    }
}

#[operations(query)]
impl DocumentQuery {
    /// The document with this id, in the trash or not; null when there is none that you may see.
    #[permission("documents:view")]
    async fn document(&self, cx: &Context<'_>, id: DocumentId) -> Result<Option<Arc<Document>>> {
        Ok(reader(cx)?.get(id).await?)
    }

    /// The documents that you may see, oldest first unless another order is asked for. Those in the trash are listed
    /// only if the filter names the status `TRASHED`.
    #[permission("documents:view")]
    #[allow(clippy::too_many_arguments)]
    async fn documents(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<DocumentFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<DocumentOrder>>,
    ) -> Result<Connection<Document>> {
        let reader = reader(cx)?;
        let all = listed(Document::in_org(reader.organization()), filter.as_ref());
        Ok(reader.page(all, PageArgs::new(first, after, last, before), filter, order_by)?)
    }

    /// Which files are taken.
    #[authenticated]
    async fn upload_policy(&self, cx: &Context<'_>) -> Result<UploadPolicy> {
        Ok(UploadPolicy {
            max_file_size: ByteSize::new(Services::of(cx)?.policy.max_file_size),
            accepted_media_types: uploads::ACCEPTED.iter().map(|text| (*text).to_owned()).collect(),
        })
    }
}

/// Which files are taken.
#[derive(SimpleObject)]
struct UploadPolicy {
    /// The largest file. A larger one is refused while it is being sent.
    max_file_size: ByteSize,
    /// The media types of files that can become documents; `text/*` stands for every type that begins with `text/`.
    /// What counts is the content of a file, not its name: a file of another type becomes a document that has
    /// `FAILED`, and its pipeline says why.
    accepted_media_types: Vec<String>,
}

#[operations(mutation)]
impl DocumentMutation {
    /// Makes a document of a file that is sent with this request, as `multipart/form-data`
    /// (<https://github.com/jaydenseric/graphql-multipart-request-spec>). For large files see `documentUploadBegin`.
    ///
    /// The document exists when this answers, and its file is safe. What is done with it then is in `pipeline`, and can
    /// be followed live. A file that is empty, is not what its name says, or is of a type that is not accepted, becomes
    /// a document that has `FAILED`; its pipeline says why.
    #[permission("documents:create")]
    async fn document_upload(&self, cx: &Context<'_>, input: DocumentUploadInput) -> Result<DocumentPayload> {
        uploads::upload(cx, &granted, input).await
    }

    /// Prepares an upload that goes past this endpoint, straight to the store of files: send the file with `method` to
    /// `url`, with exactly these `headers`, and then call `documentUploadComplete`. Nothing exists before that.
    #[permission("documents:create")]
    async fn document_upload_begin(
        &self,
        cx: &Context<'_>,
        input: uploads::DocumentUploadBeginInput,
    ) -> Result<uploads::DocumentUploadBeginPayload> {
        uploads::begin(cx, &granted, input).await
    }

    /// Makes a document of a file that was sent to the URL of `documentUploadBegin`. Completing the same upload again
    /// gives the same document.
    #[permission("documents:create")]
    async fn document_upload_complete(
        &self,
        cx: &Context<'_>,
        input: uploads::DocumentUploadCompleteInput,
    ) -> Result<DocumentPayload> {
        uploads::complete(cx, &granted, input).await
    }

    /// Adds a newer file to a document, sent as in `documentUpload`. The older ones stay in `revisions`.
    #[permission("documents:edit")]
    async fn document_revision_upload(
        &self,
        cx: &Context<'_>,
        input: DocumentRevisionUploadInput,
    ) -> Result<DocumentPayload> {
        uploads::revise(cx, &granted, input).await
    }

    /// Changes the title or the tags.
    #[permission("documents:edit")]
    async fn document_update(&self, cx: &Context<'_>, input: DocumentUpdateInput) -> Result<DocumentPayload> {
        let context = granted.command(cx, &input)?;
        let mut problems = Problems::default();
        let title = problems.take("title", input.title.as_deref().map(Title::parse).transpose());
        let tags = problems.take("tags", input.tags.as_deref().map(Tags::parse).transpose());
        let (Some(title), Some(tags)) = (title, tags) else { return Err(problems.failure()) };
        execute(cx, &context, input.id, UpdateDocument { title, tags }).await
    }

    /// Moves a document to another project that you see.
    #[permission("documents:edit")]
    async fn document_move(&self, cx: &Context<'_>, input: DocumentMoveInput) -> Result<DocumentPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, MoveDocument { to: input.project_id }).await
    }

    /// Puts a document in the trash. It stays there until it is restored or purged.
    #[permission("documents:delete")]
    async fn document_delete(&self, cx: &Context<'_>, input: DocumentDeleteInput) -> Result<DocumentPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, DeleteDocument).await
    }

    /// Takes a document out of the trash.
    #[permission("documents:delete")]
    async fn document_restore(&self, cx: &Context<'_>, input: DocumentRestoreInput) -> Result<DocumentPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, RestoreDocument).await
    }

    /// Removes a document in the trash for ever, with all its files. Nobody can bring it back.
    #[permission("documents:delete")]
    async fn document_purge(&self, cx: &Context<'_>, input: DocumentPurgeInput) -> Result<DocumentPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, PurgeDocument).await
    }

    /// Has the failed stage of a document's pipeline tried again. Nothing happens when none has failed.
    #[permission("documents:edit")]
    async fn document_retry(&self, cx: &Context<'_>, input: DocumentRetryInput) -> Result<DocumentPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, RetryDocument).await
    }

    /// Has the current file scanned for viruses anew. Until there is a verdict it is kept back, as after an upload.
    #[permission("documents:edit")]
    async fn document_rescan(&self, cx: &Context<'_>, input: DocumentRescanInput) -> Result<DocumentPayload> {
        let scanner = Services::of(cx)?.policy.scanner;
        execute(cx, &granted.command(cx, &input)?, input.id, RescanDocument { scanner }).await
    }

    /// Releases a file in quarantine: it is handed out, read and found from now on, and the log says who answers for
    /// that, and why.
    #[permission("documents:manage")]
    async fn document_release(&self, cx: &Context<'_>, input: DocumentReleaseInput) -> Result<DocumentPayload> {
        let context = granted.command(cx, &input)?;
        let reason = ReleaseReason::parse(&input.reason).map_err(|rejection| rejection.at("reason"))?;
        execute(cx, &context, input.id, ReleaseDocument { reason }).await
    }
}

async fn execute<C: oriel_kernel::Command<Aggregate = oriel_domain::documents::Document>>(
    cx: &Context<'_>,
    context: &CommandContext,
    id: DocumentId,
    command: C,
) -> Result<DocumentPayload> {
    let done = Services::of(cx)?.engine.execute(context, id, command).await?;
    payload(cx, done).await
}

async fn payload(cx: &Context<'_>, done: Committed) -> Result<DocumentPayload> {
    let document = after_write::<Document>(cx, done.subject).await?;
    Ok(DocumentPayload { document, user_errors: Vec::new(), position: Some(done.position) })
}

/// A new document.
#[derive(InputObject)]
struct DocumentUploadInput {
    /// In which project. It has to be active.
    project_id: ProjectId,
    /// The file.
    file: crate::uploads::Upload,
    /// What it is called; by default the file's name, without its ending.
    title: Option<String>,
    /// Words that it is found by; at most 50.
    tags: Option<Vec<String>>,
    /// Makes a retry safe: the same key and file give the same document and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A newer file of a document.
#[derive(InputObject)]
struct DocumentRevisionUploadInput {
    /// Which document.
    id: DocumentId,
    /// The newer file.
    file: crate::uploads::Upload,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key and file give the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of a document. What is left out stays.
#[derive(InputObject)]
struct DocumentUpdateInput {
    /// Which document.
    id: DocumentId,
    /// What it is called.
    title: Option<String>,
    /// All words that it is found by, in place of those that it has; at most 50.
    tags: Option<Vec<String>>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Where a document is to be.
#[derive(InputObject)]
struct DocumentMoveInput {
    /// Which document.
    id: DocumentId,
    /// To which project. It has to be active.
    project_id: ProjectId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Which file is to be handed out after all, and why.
#[derive(InputObject)]
struct DocumentReleaseInput {
    /// Which document.
    id: DocumentId,
    /// Why, for whoever asks later; at most 500 characters.
    reason: String,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Which document, for the changes that need nothing else.
macro_rules! only_the_document {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(InputObject)]
        struct $name {
            /// Which document.
            id: DocumentId,
            /// Refuse the change unless this is the version now.
            expected_version: Option<i32>,
            /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
            idempotency_key: Option<String>,
        }
    )+};
}

only_the_document! {
    /// The document that is to be put in the trash.
    DocumentDeleteInput,
    /// The document that is to be taken out of the trash.
    DocumentRestoreInput,
    /// The document that is to be removed for ever.
    DocumentPurgeInput,
    /// The document whose failed stage is to be tried again.
    DocumentRetryInput,
    /// The document whose current file is to be scanned for viruses anew.
    DocumentRescanInput,
}
