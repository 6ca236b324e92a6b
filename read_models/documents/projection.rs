//! How events become the rows of documents.

use oriel_domain::documents::{DocumentEvent, DocumentId};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ByteSize, Tags};
use oriel_kernel::Recorded;

use super::{DocumentStatus, Model, Scan, Stages};
use crate::{plain, told};

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Documents for Model, version 1, on DocumentEvent
}

impl On<DocumentEvent> for Documents {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &DocumentEvent) {
        use DocumentEvent as E;
        let mut change = |change: &dyn Fn(&mut Model)| {
            rows.update(at.subject, |document| {
                change(document);
                document.settle(at);
            });
        };
        match event {
            E::Renamed { title } => change(&|document| document.title = plain(title.as_str())),
            E::Tagged { tags } => change(&|document| document.tags = words(tags)),
            E::Moved { to, .. } => change(&|document| document.project_id = *to),
            E::Trashed { .. } => change(&|document| document.trashed_at = Some(at.at)),
            E::Restored { .. } => change(&|document| {
                document.trashed_at = None;
                document.pipeline.evolve(event, at.at);
            }),
            E::StageStarted { revision, .. }
            | E::StageCompleted { revision, .. }
            | E::StageSkipped { revision, .. }
            | E::StageFailed { revision, .. }
            | E::Retried { revision, .. }
            | E::ScanOrdered { revision, .. }
            | E::Scanned { revision, .. }
            | E::Released { revision, .. } => change(&|document| {
                if document.revision == *revision {
                    document.pipeline.evolve(event, at.at);
                    Scan::evolve(&mut document.scan, event, at.at);
                }
            }),
            E::TextExtracted { revision, text, page_count, language, title: _ } => change(&|document| {
                if document.revision == *revision {
                    document.text_blob = text.as_ref().map(|text| text.blob.clone());
                    document.page_count = *page_count;
                    document.language = language.as_deref().map(plain);
                }
            }),
            E::RevisionAdded { project: _, revision, file_name, media_type, size, sha256, blob, uploaded_by: _ } => {
                change(&|document| {
                    if document.revision < *revision {
                        document.storage_used = document.storage_used + ByteSize::new(size.unsigned_abs());
                    }
                    document.revision = *revision;
                    document.file_name = told(file_name).unwrap_or_default();
                    document.media_type.clone_from(media_type);
                    document.size = ByteSize::new(size.unsigned_abs());
                    document.sha256.clone_from(sha256);
                    document.blob.clone_from(blob);
                    document.text_blob = None;
                    document.page_count = None;
                    document.language = None;
                    document.pipeline = Stages::default();
                    document.scan = None;
                });
            }
            E::Purged { .. } => rows.delete(at.subject),
            E::Uploaded {
                organization,
                project,
                title,
                file_name,
                media_type,
                size,
                sha256,
                blob,
                tags,
                uploaded_by,
            } => rows.insert(Model {
                id: DocumentId::from_uuid(at.subject),
                organization_id: *organization,
                project_id: *project,
                title: plain(title.as_str()),
                file_name: told(file_name).unwrap_or_default(),
                media_type: media_type.clone(),
                size: ByteSize::new(size.unsigned_abs()),
                storage_used: ByteSize::new(size.unsigned_abs()),
                sha256: sha256.clone(),
                status: DocumentStatus::Processing,
                pipeline: Stages::default(),
                tags: words(tags),
                uploaded_by_id: *uploaded_by,
                page_count: None,
                language: None,
                created_at: at.at,
                updated_at: at.at,
                trashed_at: None,
                version: at.version,
                revision: 1,
                blob: blob.clone(),
                text_blob: None,
                scan: None,
            }),
        }
    }
}

impl Model {
    /// What follows from a change, whatever it was.
    fn settle(&mut self, at: &Recorded) {
        self.status = if self.trashed_at.is_some() { DocumentStatus::Trashed } else { self.pipeline.status() };
        self.version = at.version;
        self.updated_at = at.at;
    }
}

fn words(tags: &[oriel_domain::documents::Tag]) -> Tags {
    Tags(tags.iter().map(|tag| plain(tag.as_str())).collect())
}
