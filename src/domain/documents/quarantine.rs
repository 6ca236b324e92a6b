//! What people do about a file that the scanner keeps back: they have it looked at again, or answer for it.
//!
//! Invariants: only a file whose scan has failed is released, with a reason and under somebody's name; from then on it
//! goes its way like any other. A file that is to be scanned anew is kept back until the new verdict, whatever the last
//! one was. To remove it is `DeleteDocument` and `PurgeDocument`, as with every document.

use oriel_kernel::{Command, Decision, Given, Outcome, Rejection};

use super::{Document, DocumentEvent, Progress, ReleaseReason, Stage, StageState};

/// Hands a file in quarantine out after all.
pub struct ReleaseDocument {
    /// Why.
    pub reason: ReleaseReason,
}

impl Command for ReleaseDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_open(given)?;
        match document.pipeline.state(Stage::Scan) {
            Some(StageState::Failed) => {}
            // Released before, or never scanned: it is handed out already.
            Some(StageState::Skipped) => return Ok(Outcome::nothing()),
            _ => return Err(Rejection::conflict("This document is not in quarantine.")),
        }
        let Some(by) = given.member else {
            return Err(Rejection::conflict("Only a member of the organization can answer for a file."));
        };
        let revision = document.revision;
        let reason = format!("Released from quarantine: {}", self.reason);
        let released = vec![
            DocumentEvent::Released { revision, reason: self.reason.clone(), by },
            DocumentEvent::StageSkipped { revision, stage: Stage::Scan, reason },
        ];
        Ok(document.in_active_project(released, given))
    }
}

/// Has the current file scanned anew.
pub struct RescanDocument {
    /// Whether something will scan it.
    pub scanner: bool,
}

impl Command for RescanDocument {
    type Aggregate = Document;

    fn decide(&self, document: &Document, given: &Given<'_>) -> Decision<DocumentEvent> {
        document.must_be_open(given)?;
        if !self.scanner {
            return Err(Rejection::conflict("No scanner is configured. Files are not scanned."));
        }
        let refused = document.pipeline.state(Stage::Validate) == Some(StageState::Failed);
        if refused {
            return Err(Rejection::conflict("The file itself was refused. Upload another one."));
        }
        match document.pipeline.state(Stage::Scan) {
            Some(state) if state.is_open() => Ok(Outcome::nothing()),
            // What comes after the scan would be cut off and never be begun again.
            _ if document.progress() == Progress::Processing => {
                Err(Rejection::conflict("The work on this document's file goes on. Try again when it has ended."))
            }
            _ => {
                let attempt = document.pipeline.attempts(Stage::Scan).saturating_add(1);
                let ordered = DocumentEvent::ScanOrdered { revision: document.revision, attempt };
                Ok(document.in_active_project(vec![ordered], given))
            }
        }
    }
}
