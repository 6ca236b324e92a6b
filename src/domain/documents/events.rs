//! What can happen to a document. The names and fields are data: they stay.

use oriel_kernel::{Event, MemberId, OrganizationId, Personal};
use serde::{Deserialize, Serialize};

use super::{Awaited, ReleaseReason, Stage, Tag, Title};
use crate::projects::ProjectId;

/// What can happen to a document.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "document")]
pub enum DocumentEvent {
    /// Was uploaded: its revision 1. What became of the first stages follows in events of their own.
    #[event("document_uploaded")]
    Uploaded {
        /// Where.
        organization: OrganizationId,
        /// In which project.
        project: ProjectId,
        /// What it is called.
        title: Title,
        /// What the file was called where it came from.
        file_name: Personal<String>,
        /// Of the content, not of the name.
        media_type: String,
        /// Bytes.
        size: i64,
        /// Of the content, hexadecimal.
        sha256: String,
        /// The key under which the content is kept.
        blob: String,
        /// Sorted, each once.
        tags: Vec<Tag>,
        /// Whose it is.
        uploaded_by: MemberId,
    },
    /// Has a newer file. The pipeline begins again.
    #[event("document_revision_added")]
    RevisionAdded {
        /// In which project.
        project: ProjectId,
        /// Its number, from 2.
        revision: i32,
        /// What the file was called where it came from.
        file_name: Personal<String>,
        /// Of the content, not of the name.
        media_type: String,
        /// Bytes of this revision.
        size: i64,
        /// Of the content, hexadecimal.
        sha256: String,
        /// The key under which the content is kept.
        blob: String,
        /// Who uploaded this revision.
        uploaded_by: MemberId,
    },
    /// Is called otherwise.
    #[event("document_renamed")]
    Renamed {
        /// What it is called now.
        title: Title,
    },
    /// Has other tags.
    #[event("document_tagged")]
    Tagged {
        /// All of them: sorted, each once.
        tags: Vec<Tag>,
    },
    /// Is in another project.
    #[event("document_moved")]
    Moved {
        /// Where it was.
        from: ProjectId,
        /// Where it is.
        to: ProjectId,
        /// Bytes of all revisions.
        size: i64,
    },
    /// A worker took a stage up.
    #[event("document_stage_started")]
    StageStarted {
        /// Of which revision.
        revision: i32,
        /// Which stage.
        stage: Stage,
        /// The how many-eth time, from 1.
        attempt: i32,
    },
    /// A stage is done.
    #[event("document_stage_completed")]
    StageCompleted {
        /// Of which revision.
        revision: i32,
        /// Which stage.
        stage: Stage,
        /// The how many-eth time, from 1.
        attempt: i32,
    },
    /// A stage was left out, and why.
    #[event("document_stage_skipped")]
    StageSkipped {
        /// Of which revision.
        revision: i32,
        /// Which stage.
        stage: Stage,
        /// For people.
        reason: String,
    },
    /// A stage did not succeed.
    #[event("document_stage_failed")]
    StageFailed {
        /// Of which revision.
        revision: i32,
        /// Which stage.
        stage: Stage,
        /// The how many-eth time, from 1.
        attempt: i32,
        /// For people.
        reason: String,
        /// Whether it is tried again by itself; if not, the document has failed.
        retrying: bool,
    },
    /// Waits for the scan for viruses: it arrived where there is a scanner, or somebody wants it scanned anew. Until
    /// there is a verdict it is not handed out.
    #[event("document_scan_ordered")]
    ScanOrdered {
        /// Of which revision.
        revision: i32,
        /// The number of the next attempt.
        attempt: i32,
    },
    /// The scanner has a verdict. What follows from it for the stage stands in an event of its own.
    #[event("document_scanned")]
    Scanned {
        /// Of which revision.
        revision: i32,
        /// The how many-eth time, from 1.
        attempt: i32,
        /// Who says so: the program and its signatures, as it calls them.
        engine: String,
        /// What was found; nothing when it is clean.
        signature: Option<String>,
    },
    /// Somebody answers for a file in quarantine: it is handed out from now on.
    #[event("document_released")]
    Released {
        /// Of which revision.
        revision: i32,
        /// Why.
        reason: ReleaseReason,
        /// Who.
        by: MemberId,
    },
    /// Somebody wants a failed stage tried again.
    #[event("document_retried")]
    Retried {
        /// Of which revision.
        revision: i32,
        /// Which stage.
        stage: Stage,
        /// The number of the next attempt.
        attempt: i32,
    },
    /// The text in the file is known.
    #[event("document_text_extracted")]
    TextExtracted {
        /// Of which revision.
        revision: i32,
        /// Where it is kept; nothing when there is no text in it.
        text: Option<ExtractedText>,
        /// How many pages, where the format has pages.
        page_count: Option<i32>,
        /// ISO 639 code of the language, when it was recognised.
        language: Option<String>,
        /// The title that stands in the file itself.
        title: Option<String>,
    },
    /// Is in the trash.
    #[event("document_trashed")]
    Trashed {
        /// From which project.
        project: ProjectId,
        /// Bytes of all revisions.
        size: i64,
    },
    /// Is back from the trash.
    #[event("document_restored")]
    Restored {
        /// In which project.
        project: ProjectId,
        /// Bytes of all revisions.
        size: i64,
        /// The current one.
        revision: i32,
        /// The stage that the pipeline was waiting for; its work has to be ordered again.
        awaits: Option<Awaited>,
    },
    /// Is gone, with every file of it.
    #[event("document_purged")]
    Purged {
        /// From which project.
        project: ProjectId,
        /// Bytes of all revisions.
        size: i64,
        /// The keys of everything that was kept for it.
        blobs: Vec<String>,
    },
}

/// The text in a file, kept as a blob of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExtractedText {
    /// The key under which it is kept.
    pub blob: String,
    /// Of the text in UTF-8, hexadecimal.
    pub sha256: String,
    /// How long it is.
    pub characters: i64,
    /// Whether there was more than is kept.
    pub truncated: bool,
}
