//! Documents: files with a history, and what is done with them.
//!
//! Invariants: revisions count from 1 without gaps; the size is the sum of theirs. What adds to a document or changes
//! it needs an active project that the actor sees; taking away (move off, trash, purge) does not. A document in the
//! trash accepts only restore and purge; a purged one looks absent. Restore returns to where it was. "One's own"
//! document is the one that one uploaded. The events stand in `events.rs`, how a revision is worked on in `pipeline.rs`,
//! what people do about a file that the scanner keeps back in `quarantine.rs`.
//!
//! An event that moves a counter of a project or an organisation carries `project` and `size`, because a projection
//! looks nothing up. Nothing here knows a file's content, only where it is kept.

use std::collections::BTreeSet;

use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Given, Grant, MemberId, OrganizationId, Outcome, Personal, Rejection,
    UserId, bounded_text, ids,
};
use uuid::Uuid;

use crate::projects::{self, ProjectId};

pub mod events;
pub mod pipeline;
pub mod quarantine;
#[cfg(test)]
mod tests;

pub use events::{DocumentEvent, ExtractedText};
pub use pipeline::{Awaited, Pipeline, Progress, Stage, StageState};
pub use quarantine::{ReleaseDocument, RescanDocument};

ids! {
    /// A document.
    DocumentId = "doc",
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What a document is called.
    Title: 1..=300,
    /// A word that documents are found by.
    Tag: 1..=60,
    /// Why a file in quarantine is handed out after all.
    ReleaseReason: 1..=500,
}

/// The tags of a document: sorted, each once, at most 50.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tags(Vec<Tag>);

impl Tags {
    /// How many tags a document may have.
    pub const MAX: usize = 50;

    /// The tags, trimmed and sorted.
    ///
    /// # Errors
    /// What is wrong with the first tag that is none; `LIMIT_EXCEEDED` beyond 50.
    pub fn parse<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self, Rejection> {
        let mut tags = BTreeSet::new();
        for text in texts {
            tags.insert(Tag::parse(text.as_ref())?);
            if tags.len() > Self::MAX {
                return Err(Rejection::new(ErrorCode::LimitExceeded, "At most 50 tags."));
            }
        }
        Ok(Self(tags.into_iter().collect()))
    }

    /// The tags.
    pub fn as_slice(&self) -> &[Tag] {
        &self.0
    }
}

/// What a file was called where it came from: without the folders, at most 255 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct FileName(String);

impl FileName {
    /// The name: what follows the last `/` or `\`.
    ///
    /// # Errors
    /// `REQUIRED` when nothing does, `TOO_LONG`, or `INVALID` with control characters.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let name = text.rsplit(['/', '\\']).next().unwrap_or(text);
        oriel_kernel::input::bounded(name, 1, 255, false).map(Self)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A file that was received, looked at and stored.
pub struct StoredFile {
    /// What it was called where it came from.
    pub name: FileName,
    /// Of the content, not of the name.
    pub media_type: String,
    /// Bytes.
    pub size: i64,
    /// Of the content, hexadecimal.
    pub sha256: String,
    /// The key under which the content is kept.
    pub blob: String,
    /// Whether it may be a document. If not, why: the document exists and has failed.
    pub validation: Result<(), String>,
    /// Whether something will scan it. If not, the scan is skipped, visibly.
    pub scanner: bool,
    /// Who uploaded it: the person.
    pub user: UserId,
    /// Who uploaded it: the member.
    pub uploaded_by: MemberId,
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a document's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    organization: Option<OrganizationId>,
    project: ProjectId,
    title: Title,
    tags: Vec<Tag>,
    uploaded_by: MemberId,
    /// The current one, from 1.
    revision: i32,
    /// Bytes of all revisions.
    size: i64,
    /// The keys of everything that is kept for it.
    blobs: Vec<String>,
    pipeline: Pipeline,
    /// Whether a virus was found in the current revision, and nobody has answered for it since.
    infected: bool,
    trashed: bool,
    purged: bool,
}

impl Aggregate for Document {
    type Kind = kinds::DocumentId;
    type Event = DocumentEvent;
    const NOUN: &'static str = "document";

    fn evolve(&mut self, event: &DocumentEvent) {
        use DocumentEvent as E;
        match event {
            E::Uploaded { organization, project, title, size, blob, tags, uploaded_by, .. } => {
                self.organization = Some(*organization);
                self.project = *project;
                self.title = title.clone();
                self.tags.clone_from(tags);
                self.uploaded_by = *uploaded_by;
                self.begin_revision(1, *size, blob);
            }
            E::RevisionAdded { revision, size, blob, .. } => self.begin_revision(*revision, *size, blob),
            E::Renamed { title } => self.title = title.clone(),
            E::Tagged { tags } => self.tags.clone_from(tags),
            E::Moved { to, .. } => self.project = *to,
            E::StageStarted { stage, attempt, .. } => self.pipeline.start(*stage, *attempt),
            E::StageCompleted { stage, attempt, .. } => self.pipeline.complete(*stage, *attempt),
            E::StageSkipped { stage, .. } => self.pipeline.skip(*stage),
            E::StageFailed { stage, attempt, retrying, .. } => self.pipeline.fail(*stage, *attempt, *retrying),
            E::Retried { stage, .. } => self.pipeline.wait(*stage),
            E::ScanOrdered { .. } => self.pipeline.wait(Stage::Scan),
            E::Scanned { signature, .. } => self.infected = signature.is_some(),
            E::Released { .. } => self.infected = false,
            E::TextExtracted { text, .. } => {
                self.blobs.extend(text.iter().map(|text| text.blob.clone()));
            }
            E::Trashed { .. } => self.trashed = true,
            E::Restored { awaits, .. } => {
                self.trashed = false;
                if let Some(awaited) = awaits {
                    self.pipeline.wait(awaited.stage);
                }
            }
            E::Purged { .. } => {
                self.purged = true;
                self.blobs.clear();
            }
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }

    fn scope(&self) -> Option<Uuid> {
        self.organization.map(|_| self.project.uuid())
    }
}

impl Document {
    /// How many revisions a document may have.
    pub const MAX_REVISIONS: i32 = 1_000;

    fn begin_revision(&mut self, revision: i32, size: i64, blob: &str) {
        self.revision = revision;
        self.size += size;
        self.blobs.push(blob.to_owned());
        self.pipeline = Pipeline::default();
        self.infected = false;
    }

    /// How far the current revision is.
    pub fn progress(&self) -> Progress {
        self.pipeline.progress()
    }

    /// Whoever asks may change it, and it was not purged.
    fn must_be_theirs(&self, given: &Given<'_>) -> Result<(), Rejection> {
        if self.purged {
            return Err(Rejection::not_found(Self::NOUN));
        }
        if given.grant == Grant::Own && !given.is(self.uploaded_by) {
            return Err(crate::not_yours(Self::NOUN));
        }
        Ok(())
    }

    /// As [`Self::must_be_theirs`], and it is not in the trash.
    fn must_be_open(&self, given: &Given<'_>) -> Result<(), Rejection> {
        self.must_be_theirs(given)?;
        if self.trashed {
            return Err(Rejection::conflict("This document is in the trash. Restore it first."));
        }
        Ok(())
    }

    /// These things happen, if the document's project is active.
    fn in_active_project(&self, events: Vec<DocumentEvent>, given: &Given<'_>) -> Outcome<DocumentEvent> {
        if events.is_empty() {
            return Outcome::nothing();
        }
        let archived = Rejection::conflict("The project of this document is archived. Restore the project first.");
        Outcome::events(events).require(projects::active(given.organization, self.project), archived)
    }
}

/// The same answer for a project that is not there, is not seen, or is archived.
fn no_such_project() -> Rejection {
    Rejection::new(ErrorCode::NotFound, "There is no such active project.").at("projectId")
}

fn must_see(project: ProjectId, given: &Given<'_>) -> Result<(), Rejection> {
    if given.visible.sees(project.uuid()) { Ok(()) } else { Err(no_such_project()) }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Makes a document of a stored file.
pub struct UploadDocument {
    /// Where to.
    pub project: ProjectId,
    /// What it is called.
    pub title: Title,
    /// What it is found by.
    pub tags: Tags,
    /// Its first revision.
    pub file: StoredFile,
}

impl Command for UploadDocument {
    type Aggregate = Document;
    const CREATES: bool = true;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        crate::must_be_new(document)?;
        must_see(self.project, given)?;
        let file = &self.file;
        let mut events = vec![DocumentEvent::Uploaded {
            organization: given.organization,
            project: self.project,
            title: self.title.clone(),
            file_name: Personal::new(file.user, file.name.as_str().to_owned()),
            media_type: file.media_type.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
            blob: file.blob.clone(),
            tags: self.tags.0.clone(),
            uploaded_by: file.uploaded_by,
        }];
        events.extend(pipeline::on_arrival(1, file));
        Ok(Outcome::events(events).require(projects::active(given.organization, self.project), no_such_project()))
    }
}

/// Adds a newer file to a document.
pub struct AddRevision {
    /// The newer file.
    pub file: StoredFile,
}

impl Command for AddRevision {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_open(given)?;
        if document.revision >= Document::MAX_REVISIONS {
            let message = format!("A document has at most {} revisions.", Document::MAX_REVISIONS);
            return Err(Rejection::new(ErrorCode::LimitExceeded, message));
        }
        let (file, revision) = (&self.file, document.revision + 1);
        let mut events = vec![DocumentEvent::RevisionAdded {
            project: document.project,
            revision,
            file_name: Personal::new(file.user, file.name.as_str().to_owned()),
            media_type: file.media_type.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
            blob: file.blob.clone(),
            uploaded_by: file.uploaded_by,
        }];
        events.extend(pipeline::on_arrival(revision, file));
        Ok(document.in_active_project(events, given))
    }
}

/// Changes title and tags, as far as they are given.
pub struct UpdateDocument {
    /// What it is called from now on.
    pub title: Option<Title>,
    /// What it is found by from now on.
    pub tags: Option<Tags>,
}

impl Command for UpdateDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_open(given)?;
        let title = self.title.clone().filter(|title| *title != document.title);
        let tags = self.tags.clone().map(|tags| tags.0).filter(|tags| *tags != document.tags);
        let renamed = title.map(|title| DocumentEvent::Renamed { title });
        let tagged = tags.map(|tags| DocumentEvent::Tagged { tags });
        Ok(document.in_active_project(renamed.into_iter().chain(tagged).collect(), given))
    }
}

/// Moves a document to another project that the actor sees.
pub struct MoveDocument {
    /// Where to.
    pub to: ProjectId,
}

impl Command for MoveDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_open(given)?;
        if document.project == self.to {
            return Ok(Outcome::nothing());
        }
        must_see(self.to, given)?;
        let moved = DocumentEvent::Moved { from: document.project, to: self.to, size: document.size };
        Ok(Outcome::events([moved]).require(projects::active(given.organization, self.to), no_such_project()))
    }
}

/// Puts a document in the trash.
pub struct DeleteDocument;

impl Command for DeleteDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_theirs(given)?;
        if document.trashed {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([DocumentEvent::Trashed { project: document.project, size: document.size }]))
    }
}

/// Takes a document out of the trash.
pub struct RestoreDocument;

impl Command for RestoreDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_theirs(given)?;
        if !document.trashed {
            return Ok(Outcome::nothing());
        }
        let restored = DocumentEvent::Restored {
            project: document.project,
            size: document.size,
            revision: document.revision,
            awaits: document.pipeline.awaits(),
        };
        Ok(document.in_active_project(vec![restored], given))
    }
}

/// Removes a document in the trash for ever, with its files.
pub struct PurgeDocument;

impl Command for PurgeDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_theirs(given)?;
        if !document.trashed {
            return Err(Rejection::conflict("Only a document in the trash can be purged. Delete it first."));
        }
        Ok(Outcome::events([DocumentEvent::Purged {
            project: document.project,
            size: document.size,
            blobs: document.blobs.clone(),
        }]))
    }
}

/// Has a failed stage tried again.
pub struct RetryDocument;

impl Command for RetryDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_open(given)?;
        match document.pipeline.failed() {
            None => Ok(Outcome::nothing()),
            Some(Awaited { stage: Stage::Validate, .. }) => {
                Err(Rejection::conflict("The file itself was refused. Upload another one."))
            }
            Some(Awaited { stage, attempt }) => {
                Ok(Outcome::events([DocumentEvent::Retried { revision: document.revision, stage, attempt }]))
            }
        }
    }
}
