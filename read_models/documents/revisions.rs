//! The files that a document has had.
//!
//! One row holds all files of one document, so that a move or a purge touches one row and not a thousand: an event
//! may touch only a bounded number. It is read whole when somebody asks for the history, and paged in memory.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Result, SimpleObject};
use oriel_domain::documents::{DocumentEvent, DocumentId, Stage};
use oriel_domain::projects::ProjectId;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ByteSize, PageInfo, ReadError, ReadModel, Reader};
use oriel_kernel::{MemberId, OrganizationId, Recorded, Timestamp};
use sea_orm::FromJsonQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{members, reader, told};

/// The files of one document. `id` is the document's.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "document_revisions")]
#[read_model(
    kind = "document_revisions",
    name = "DocumentRevisions",
    tenant = "organization_id",
    visible_by = "project_id"
)]
pub struct Model {
    /// The document.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: DocumentId,
    /// Where.
    pub organization_id: OrganizationId,
    /// In which project.
    pub project_id: ProjectId,
    /// Its files, the oldest first.
    #[sea_orm(column_type = "JsonBinary")]
    pub revisions: Revisions,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The files of a document, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Revisions(Vec<Revision>);

/// One file of a document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revision {
    /// From 1.
    pub number: i32,
    /// What it was called where it came from; empty when whoever uploaded it was forgotten.
    pub file_name: String,
    /// Of the content, not of the name.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// Of the content, hexadecimal.
    pub sha256: String,
    /// The key under which the content is kept. Never shown.
    pub blob: String,
    /// Who uploaded it.
    pub uploaded_by: MemberId,
    /// When.
    pub created_at: Timestamp,
    /// Whether the scan for viruses was passed or left out: only then may it be handed out.
    #[serde(default)]
    pub cleared: bool,
}

impl Model {
    /// The file of this number.
    pub fn revision(&self, number: i32) -> Option<&Revision> {
        self.revisions.0.iter().find(|revision| revision.number == number)
    }

    fn change(&mut self, number: i32, change: impl FnOnce(&mut Revision)) {
        if let Some(revision) = self.revisions.0.iter_mut().find(|revision| revision.number == number) {
            change(revision);
        }
    }
}

// --- in the API ----------------------------------------------------------------------------------------------------

/// A file that a document has, or had.
#[derive(Clone, Debug, SimpleObject)]
#[graphql(complex)]
pub struct DocumentRevision {
    /// The how many-eth file of the document, from 1: give it to `downloadUrl`.
    pub revision: i32,
    /// What the file was called where it came from; empty when whoever uploaded it was forgotten.
    pub file_name: String,
    /// What the content is, whatever the name says.
    pub media_type: String,
    /// Bytes.
    pub size: ByteSize,
    /// SHA-256 of the content, hexadecimal.
    pub sha256: String,
    /// When it was uploaded.
    pub created_at: Timestamp,
    #[graphql(skip)]
    uploaded_by_id: MemberId,
}

#[ComplexObject]
impl DocumentRevision {
    /// Who uploaded it; null when they are no member of the organization any more.
    async fn uploaded_by(&self, cx: &Context<'_>) -> Option<Result<Arc<members::Model>>> {
        let member = async { Ok(reader(cx)?.get::<members::Model>(self.uploaded_by_id).await?) };
        member.await.transpose()
    }
}

/// A page of the files that a document has had, the newest first.
#[derive(Clone, Debug, SimpleObject)]
pub struct DocumentRevisionConnection {
    /// The items with their cursors.
    pub edges: Vec<DocumentRevisionEdge>,
    /// The items.
    pub nodes: Vec<DocumentRevision>,
    /// Where this page stands in the list.
    pub page_info: PageInfo,
    /// How many items the list has, all pages together.
    pub total_count: i32,
}

/// An item of a list, and its place.
#[derive(Clone, Debug, SimpleObject)]
pub struct DocumentRevisionEdge {
    /// The item.
    pub node: DocumentRevision,
    /// The item's place; give it back as `after`.
    pub cursor: String,
}

/// A page of a document's files, the newest first.
///
/// # Errors
/// The arguments exceed a limit, the cursor is not of such a list, or the database cannot be read.
pub(super) async fn page(
    reader: &Reader,
    document: DocumentId,
    first: Option<i32>,
    after: Option<&str>,
) -> Result<DocumentRevisionConnection, ReadError> {
    let limits = reader.limits();
    let size = match first.map(u32::try_from) {
        None => limits.default_page,
        Some(Err(_)) => return Err(ReadError::Invalid("`first` may not be negative.".to_owned())),
        Some(Ok(size)) if size > limits.page => {
            return Err(ReadError::Limit(format!("`first` may be {} at most; this is {size}.", limits.page)));
        }
        Some(Ok(size)) => size,
    };
    let unknown = || ReadError::Invalid("This cursor is not one that an earlier answer gave.".to_owned());
    let below = after.map(|cursor| place(cursor).ok_or_else(unknown)).transpose()?.unwrap_or(i32::MAX);
    let row = reader.get::<Model>(document).await?;
    let all = row.as_ref().map_or(&[][..], |row| &row.revisions.0);
    let mut nodes: Vec<_> = all.iter().rev().filter(|revision| revision.number < below).map(shown).collect();
    let more = nodes.len() > size as usize;
    nodes.truncate(size as usize);
    let edges: Vec<_> =
        nodes.iter().map(|node| DocumentRevisionEdge { node: node.clone(), cursor: cursor(node.revision) }).collect();
    Ok(DocumentRevisionConnection {
        page_info: PageInfo {
            has_next_page: more,
            has_previous_page: after.is_some(),
            start_cursor: edges.first().map(|edge| edge.cursor.clone()),
            end_cursor: edges.last().map(|edge| edge.cursor.clone()),
        },
        edges,
        nodes,
        total_count: i32::try_from(all.len()).unwrap_or(i32::MAX),
    })
}

fn shown(revision: &Revision) -> DocumentRevision {
    DocumentRevision {
        revision: revision.number,
        file_name: revision.file_name.clone(),
        media_type: revision.media_type.clone(),
        size: ByteSize::new(revision.size),
        sha256: revision.sha256.clone(),
        created_at: revision.created_at,
        uploaded_by_id: revision.uploaded_by,
    }
}

fn cursor(number: i32) -> String {
    format!("r{number}")
}

fn place(cursor: &str) -> Option<i32> {
    cursor.strip_prefix('r')?.parse().ok().filter(|number| *number > 0)
}

// --- from events ---------------------------------------------------------------------------------------------------

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub DocumentRevisions for Model, version 1, on DocumentEvent
}

impl On<DocumentEvent> for DocumentRevisions {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &DocumentEvent) {
        use DocumentEvent as E;
        match event {
            E::Uploaded { organization, project, file_name, media_type, size, sha256, blob, uploaded_by, .. } => {
                rows.insert(Model {
                    id: DocumentId::from_uuid(at.subject),
                    organization_id: *organization,
                    project_id: *project,
                    revisions: Revisions(vec![Revision {
                        number: 1,
                        file_name: told(file_name).unwrap_or_default(),
                        media_type: media_type.clone(),
                        size: size.unsigned_abs(),
                        sha256: sha256.clone(),
                        blob: blob.clone(),
                        uploaded_by: *uploaded_by,
                        created_at: at.at,
                        cleared: false,
                    }]),
                });
            }
            E::RevisionAdded { project: _, revision, file_name, media_type, size, sha256, blob, uploaded_by } => {
                rows.update(at.subject, |document| {
                    document.revisions.0.retain(|known| known.number < *revision);
                    document.revisions.0.push(Revision {
                        number: *revision,
                        file_name: told(file_name).unwrap_or_default(),
                        media_type: media_type.clone(),
                        size: size.unsigned_abs(),
                        sha256: sha256.clone(),
                        blob: blob.clone(),
                        uploaded_by: *uploaded_by,
                        created_at: at.at,
                        cleared: false,
                    });
                });
            }
            E::Moved { to, .. } => rows.update(at.subject, |document| document.project_id = *to),
            E::StageCompleted { revision, stage: Stage::Scan, .. }
            | E::StageSkipped { revision, stage: Stage::Scan, .. } => {
                rows.update(at.subject, |document| document.change(*revision, |file| file.cleared = true));
            }
            E::ScanOrdered { revision, .. }
            | E::StageFailed { revision, stage: Stage::Scan, .. }
            | E::Retried { revision, stage: Stage::Scan, .. } => {
                rows.update(at.subject, |document| document.change(*revision, |file| file.cleared = false));
            }
            E::Purged { .. } => rows.delete(at.subject),
            E::Scanned { .. }
            | E::Released { .. }
            | E::StageCompleted { .. }
            | E::StageSkipped { .. }
            | E::Renamed { .. }
            | E::Tagged { .. }
            | E::StageStarted { .. }
            | E::StageFailed { .. }
            | E::Retried { .. }
            | E::TextExtracted { .. }
            | E::Trashed { .. }
            | E::Restored { .. } => {}
        }
    }
}
