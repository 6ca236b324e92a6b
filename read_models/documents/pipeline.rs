//! Where the stages of a document's current revision stand. They live in the document's own row: every event of a
//! stage changes that row anyway, its status is what they add up to, and they move and go with it.

use async_graphql::{Enum, SimpleObject};
use oriel_domain::documents::{self as domain, DocumentEvent, Progress};
use oriel_kernel::Timestamp;
use sea_orm::FromJsonQueryResult;
use serde::{Deserialize, Serialize};

use super::DocumentStatus;
use crate::plain;

/// Something that is done with a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Enum)]
#[graphql(remote = "oriel_domain::documents::Stage")]
pub enum Stage {
    /// Is it a file that is accepted, and what it says it is?
    Validate,
    /// Is it free of viruses?
    Scan,
    /// Is it kept?
    Store,
    /// What text is in it?
    Extract,
    /// Can it be found?
    Index,
    /// What does it look like?
    Thumbnail,
    /// Do those who wait for it know?
    Notify,
}

/// Where a stage stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Enum)]
#[graphql(remote = "oriel_domain::documents::StageState")]
pub enum StageState {
    /// Its turn has not come, or it is tried again soon.
    Pending,
    /// Somebody works on it.
    Running,
    /// Is done.
    Done,
    /// Was left out; `reason` says why.
    Skipped,
    /// Failed for good, until somebody retries; `reason` says why.
    Failed,
}

/// A stage of what is done with a document's file.
#[derive(Clone, PartialEq, Eq, Debug, SimpleObject)]
pub struct DocumentStage {
    /// Which stage.
    pub stage: Stage,
    /// Where it stands.
    pub state: StageState,
    /// How often it was begun.
    pub attempts: i32,
    /// When the newest attempt began; null when it was not begun, or nobody noted when.
    pub started_at: Option<Timestamp>,
    /// When it was done, left out, or failed for good.
    pub finished_at: Option<Timestamp>,
    /// Why it failed or was left out; while it is tried again, why the last attempt failed.
    pub reason: Option<String>,
}

/// The stages of one revision, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Stages(Vec<Step>);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Step {
    stage: domain::Stage,
    state: domain::StageState,
    attempts: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// All stages of this release wait.
impl Default for Stages {
    fn default() -> Self {
        let waiting = |stage: &domain::Stage| Step {
            stage: *stage,
            state: domain::StageState::Pending,
            attempts: 0,
            started_at: None,
            finished_at: None,
            reason: None,
        };
        Self(domain::Stage::PIPELINE.iter().map(waiting).collect())
    }
}

impl Stages {
    /// As the API shows them.
    pub fn shown(&self) -> Vec<DocumentStage> {
        let shown = |step: &Step| DocumentStage {
            stage: step.stage.into(),
            state: step.state.into(),
            attempts: step.attempts,
            started_at: step.started_at,
            finished_at: step.finished_at,
            reason: step.reason.clone(),
        };
        self.0.iter().map(shown).collect()
    }

    /// What the stages add up to. A file of which it is not sure that it is harmless is in quarantine.
    pub(super) fn status(&self) -> DocumentStatus {
        if self.state(domain::Stage::Scan) == Some(domain::StageState::Failed) {
            return DocumentStatus::Quarantined;
        }
        match Progress::of(self.0.iter().map(|step| step.state)) {
            Progress::Processing => DocumentStatus::Processing,
            Progress::Ready => DocumentStatus::Ready,
            Progress::Failed => DocumentStatus::Failed,
        }
    }

    /// Where a stage stands; nothing for one that is not part of the pipeline.
    pub(super) fn state(&self, stage: domain::Stage) -> Option<domain::StageState> {
        self.0.iter().find(|step| step.stage == stage).map(|step| step.state)
    }

    /// How often a stage was begun.
    pub fn attempts(&self, stage: domain::Stage) -> i32 {
        self.0.iter().find(|step| step.stage == stage).map_or(0, |step| step.attempts)
    }

    /// Whether the outcome of a stage is open.
    pub fn is_open(&self, stage: domain::Stage) -> bool {
        matches!(self.state(stage), Some(domain::StageState::Pending | domain::StageState::Running))
    }

    /// What an event of a stage changes. Events of anything else change nothing here.
    pub(super) fn evolve(&mut self, event: &DocumentEvent, at: Timestamp) {
        use DocumentEvent as E;
        use domain::StageState as State;
        match event {
            E::StageStarted { stage, attempt, .. } => self.set(*stage, State::Running, *attempt, |step| {
                step.started_at = Some(at);
                step.finished_at = None;
                step.reason = None;
            }),
            E::StageCompleted { stage, attempt, .. } => self.set(*stage, State::Done, *attempt, |step| {
                step.finished_at = Some(at);
                step.reason = None;
            }),
            E::StageSkipped { stage, reason, .. } => self.set(*stage, State::Skipped, 0, |step| {
                step.finished_at = Some(at);
                step.reason = Some(plain(reason));
            }),
            E::StageFailed { stage, attempt, reason, retrying, .. } => {
                let state = if *retrying { State::Pending } else { State::Failed };
                self.set(*stage, state, *attempt, |step| {
                    step.finished_at = (!retrying).then_some(at);
                    step.reason = Some(plain(reason));
                });
            }
            E::Retried { stage, .. } => self.wait(*stage),
            E::ScanOrdered { .. } => self.wait(domain::Stage::Scan),
            E::Restored { awaits, .. } => {
                if let Some(awaited) = awaits {
                    self.wait(awaited.stage);
                }
            }
            E::Uploaded { .. }
            | E::RevisionAdded { .. }
            | E::Renamed { .. }
            | E::Tagged { .. }
            | E::Moved { .. }
            | E::Scanned { .. }
            | E::Released { .. }
            | E::TextExtracted { .. }
            | E::Trashed { .. }
            | E::Purged { .. } => {}
        }
    }

    fn wait(&mut self, stage: domain::Stage) {
        self.set(stage, domain::StageState::Pending, 0, |step| step.finished_at = None);
    }

    fn set(&mut self, stage: domain::Stage, state: domain::StageState, attempt: i32, change: impl FnOnce(&mut Step)) {
        if let Some(step) = self.0.iter_mut().find(|step| step.stage == stage) {
            step.state = state;
            step.attempts = step.attempts.max(attempt);
            change(step);
        }
    }
}
