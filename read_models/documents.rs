//! Documents as they are read: what is known of the current file, and how far the work on it is.
//!
//! Invariants: `status` is what the stages of the current revision add up to, or TRASHED. Nothing in the trash is
//! listed unless somebody asks for it. A file of which it is not sure that it is harmless is not handed out. An event
//! that does not fit the current revision changes nothing.
//!
//! What is in a file is asked of [`Contents`], which the server puts into the context of a request.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use async_trait::async_trait;
use oriel_domain::documents::{DocumentEvent, DocumentId, Stage as DomainStage};
use oriel_domain::projects::ProjectId;
use oriel_engine::read::{ByteSize, Collection, EnumFilter, ReadError, ReadModel, Tags};
use oriel_kernel::{MemberId, OrganizationId, Permission, Timestamp};
use sea_orm::entity::prelude::*;

use crate::{defect, members, passing, projects, reader};

pub mod pipeline;
mod projection;
pub mod revisions;
mod scan;

pub use pipeline::{DocumentStage, Stage, StageState, Stages};
pub use projection::Documents;
pub use revisions::{DocumentRevision, DocumentRevisionConnection, DocumentRevisionEdge};
pub use scan::{DocumentRelease, DocumentScan, Scan, ScanVerdict};

/// Seeing documents.
pub const VIEW: Permission = Permission::new("documents", "view");

/// How far a document is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum DocumentStatus {
    /// Something is still to be done with its file; `pipeline` says what.
    #[sea_orm(string_value = "processing")]
    Processing,
    /// Everything is done.
    #[sea_orm(string_value = "ready")]
    Ready,
    /// A stage failed for good, until somebody retries; `pipeline` says which and why.
    #[sea_orm(string_value = "failed")]
    Failed,
    /// The scan for viruses found something, or could not be finished: the file is not handed out, unless somebody
    /// releases it.
    #[sea_orm(string_value = "quarantined")]
    Quarantined,
    /// In the trash: it can be restored or purged.
    #[sea_orm(string_value = "trashed")]
    Trashed,
}

/// A file with a history, in a project.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "documents")]
#[graphql(name = "Document", complex)]
#[read_model(
    kind = "document",
    tenant = "organization_id",
    visible_by = "project_id",
    collections(org = "organization_id", project = "project_id")
)]
pub struct Model {
    /// The document's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: DocumentId,
    /// Where it is.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// In which project it is.
    #[graphql(skip)]
    #[read_model(filter)]
    pub project_id: ProjectId,
    /// What it is called.
    #[read_model(filter, order)]
    pub title: String,
    /// What its file was called where it came from; empty when whoever uploaded it was forgotten.
    pub file_name: String,
    /// What the content of its file is, whatever the name says.
    #[read_model(filter)]
    pub media_type: String,
    /// Bytes of its file: the current revision.
    #[read_model(filter, order)]
    pub size: ByteSize,
    /// Bytes of all its revisions.
    pub storage_used: ByteSize,
    /// SHA-256 of its file, hexadecimal.
    pub sha256: String,
    /// How far it is.
    #[read_model(filter)]
    pub status: DocumentStatus,
    /// The stages of the current revision.
    #[graphql(skip)]
    #[sea_orm(column_type = "JsonBinary")]
    pub pipeline: Stages,
    /// Words that it is found by: sorted, each once.
    #[read_model(filter)]
    #[sea_orm(column_type = "JsonBinary")]
    pub tags: Tags,
    /// Who uploaded its first file.
    #[graphql(skip)]
    #[read_model(filter)]
    pub uploaded_by_id: MemberId,
    /// How many pages its file has, where the format has pages and they were counted.
    pub page_count: Option<i32>,
    /// The language of its text, as an ISO 639 code, when it was recognised.
    pub language: Option<String>,
    /// When it was uploaded.
    #[read_model(filter, order)]
    pub created_at: Timestamp,
    /// When anything about it changed, the work on its file included.
    #[read_model(filter, order)]
    pub updated_at: Timestamp,
    /// When it was put in the trash; null when it is not there.
    pub trashed_at: Option<Timestamp>,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
    /// The number of the current file, from 1.
    pub revision: i32,
    /// The key under which the current file is kept. Never shown.
    #[graphql(skip)]
    pub blob: String,
    /// The key under which the text of the current file is kept. Never shown.
    #[graphql(skip)]
    pub text_blob: Option<String>,
    /// What the scan for viruses found in the current file, and who answered for it.
    #[graphql(skip)]
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub scan: Option<Scan>,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

// --- what is in a file ---------------------------------------------------------------------------------------------

/// What only the keeper of the blobs can tell. The server puts an `Arc<dyn Contents>` into the context of a request.
/// Whoever asks has seen the document's row already.
#[async_trait]
pub trait Contents: Send + Sync {
    /// The first so many characters of the text under this key; `None` when it is gone.
    async fn text(&self, blob: &str, max_chars: usize) -> Result<Option<String>>;

    /// An address that serves the file for a while.
    async fn download_url(&self, file: &Download<'_>) -> Result<String>;
}

/// A file that somebody wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Download<'a> {
    /// The key under which it is kept.
    pub blob: &'a str,
    /// What to call it; may be empty.
    pub file_name: &'a str,
    /// What it is.
    pub media_type: &'a str,
}

pub(crate) fn contents<'a>(cx: &Context<'a>) -> Result<&'a Arc<dyn Contents>, ReadError> {
    cx.data_opt::<Arc<dyn Contents>>().ok_or_else(|| defect("no Contents in the context"))
}

// --- relations -----------------------------------------------------------------------------------------------------

/// Characters of a text that one answer holds at most.
const TEXT: i32 = 1_000_000;

#[ComplexObject]
impl Model {
    /// What is done with the current file, stage after stage.
    #[graphql(name = "pipeline")]
    async fn shown_pipeline(&self) -> Vec<DocumentStage> {
        self.pipeline.shown()
    }

    /// What the scan for viruses found in the current file; null while it has no verdict, and where files are not
    /// scanned.
    #[graphql(name = "scan")]
    async fn shown_scan(&self) -> Option<DocumentScan> {
        self.scan.as_ref().and_then(Scan::shown)
    }

    /// Who released the current file from quarantine; null unless somebody did.
    async fn release(&self) -> Option<DocumentRelease> {
        self.scan.as_ref().and_then(Scan::release)
    }

    /// The project that it is in.
    async fn project(&self, cx: &Context<'_>) -> Result<Arc<projects::Model>> {
        let project = reader(cx)?.get::<projects::Model>(self.project_id).await?;
        Ok(project.ok_or_else(|| defect("a document is seen and its project is not"))?)
    }

    /// Who uploaded its first file; null when they are no member of the organization any more.
    async fn uploaded_by(&self, cx: &Context<'_>) -> Option<Result<Arc<members::Model>>> {
        let member = async { Ok(reader(cx)?.get::<members::Model>(self.uploaded_by_id).await?) };
        member.await.transpose()
    }

    /// The text in its file; null when there is none or it was not extracted yet, and while the file is kept back.
    async fn text(
        &self,
        cx: &Context<'_>,
        #[graphql(default = 10_000, desc = "How many characters from the beginning, 1000000 at most.")] max_chars: i32,
    ) -> Option<Result<String>> {
        let text = async {
            if max_chars > TEXT {
                return Err(ReadError::Limit(format!("`maxChars` may be {TEXT} at most; this is {max_chars}.")).into());
            }
            let Ok(max_chars) = usize::try_from(max_chars) else {
                return Err(ReadError::Invalid("`maxChars` may not be negative.".to_owned()).into());
            };
            match &self.text_blob {
                Some(_) if self.is_kept_back() => Ok(None),
                Some(blob) => contents(cx)?.text(blob, max_chars).await,
                None => Ok(None),
            }
        };
        text.await.transpose()
    }

    /// The files that it has had, the newest first.
    async fn revisions(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many from the beginning.")] first: Option<i32>,
        #[graphql(desc = "Only what stands behind this cursor.")] after: Option<String>,
    ) -> Result<DocumentRevisionConnection> {
        Ok(revisions::page(reader(cx)?, self.id, first, after.as_deref()).await?)
    }

    /// A signed address of a file, which expires: fetch it soon, and do not keep it. Null when there is no such
    /// revision, or while it was not found harmless.
    async fn download_url(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "Which file; the current one unless said.")] revision: Option<i32>,
    ) -> Option<Result<String>> {
        let url = async {
            let reader = reader(cx)?;
            passing(cx);
            let wanted = revision.unwrap_or(self.revision);
            if wanted == self.revision {
                return self.hand_out(cx).await;
            }
            let row = reader.get::<revisions::Model>(self.id).await?;
            let Some(file) = row.as_ref().and_then(|row| row.revision(wanted)).filter(|file| file.cleared) else {
                return Ok(None);
            };
            let file = Download { blob: &file.blob, file_name: &file.file_name, media_type: &file.media_type };
            contents(cx)?.download_url(&file).await.map(Some)
        };
        url.await.transpose()
    }
}

impl Model {
    /// Whether its current file may be handed out: the scan for viruses was passed or left out.
    pub fn is_cleared(&self) -> bool {
        self.pipeline.state(DomainStage::Scan).is_some_and(|state| state.is_settled())
    }

    /// Whether it is a file as it should be, and waits for the scan or is in quarantine: nothing in it may be seen.
    pub fn is_kept_back(&self) -> bool {
        self.pipeline.state(DomainStage::Validate).is_some_and(|state| state.is_settled()) && !self.is_cleared()
    }

    async fn hand_out(&self, cx: &Context<'_>) -> Result<Option<String>> {
        if !self.is_cleared() {
            return Ok(None);
        }
        let file = Download { blob: &self.blob, file_name: &self.file_name, media_type: &self.media_type };
        contents(cx)?.download_url(&file).await.map(Some)
    }
}

// --- lists ---------------------------------------------------------------------------------------------------------

/// The documents of a collection as a list shows them: without the trash, unless the filter names the status
/// `TRASHED`, in `eq` or `in`, anywhere in it.
pub fn listed(of: Collection<Model>, filter: Option<&DocumentFilter>) -> Collection<Model> {
    if filter.is_some_and(names_trash) { of } else { of.and(Column::Status.ne(DocumentStatus::Trashed)) }
}

fn names_trash(filter: &DocumentFilter) -> bool {
    let named = |status: &EnumFilter<DocumentStatus>| {
        let any = status.r#in.as_deref().unwrap_or_default();
        status.eq == Some(DocumentStatus::Trashed) || any.contains(&DocumentStatus::Trashed)
    };
    filter.status.as_ref().is_some_and(named)
        || filter.and.iter().flatten().any(names_trash)
        || filter.or.iter().flatten().any(names_trash)
        || filter.not.as_deref().is_some_and(names_trash)
}

// --- counters ------------------------------------------------------------------------------------------------------

/// What an event of a document moves in the counters of a project, and so of its organisation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    /// Of which project.
    pub project: ProjectId,
    /// Documents that are not in the trash.
    pub documents: i32,
    /// Bytes of all revisions, the trash included.
    pub bytes: i64,
}

/// The rule of both counters, said once: a document counts unless it is in the trash; its bytes count until it is
/// purged.
pub(crate) fn counted(event: &DocumentEvent) -> Vec<Counted> {
    use DocumentEvent as E;
    let one = |project: &ProjectId, documents, bytes| vec![Counted { project: *project, documents, bytes }];
    match event {
        E::Uploaded { project, size, .. } => one(project, 1, *size),
        E::RevisionAdded { project, size, .. } => one(project, 0, *size),
        E::Moved { from, to, .. } if from == to => Vec::new(),
        E::Moved { from, to, size } => [one(from, -1, -size), one(to, 1, *size)].concat(),
        E::Trashed { project, .. } => one(project, -1, 0),
        E::Restored { project, .. } => one(project, 1, 0),
        E::Purged { project, size, .. } => one(project, 0, -size),
        E::Renamed { .. }
        | E::Tagged { .. }
        | E::StageStarted { .. }
        | E::StageCompleted { .. }
        | E::StageSkipped { .. }
        | E::StageFailed { .. }
        | E::ScanOrdered { .. }
        | E::Scanned { .. }
        | E::Released { .. }
        | E::Retried { .. }
        | E::TextExtracted { .. } => Vec::new(),
    }
}
