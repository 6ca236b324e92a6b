//! What is done with a revision of a document, stage after stage.
//!
//! Invariants: a document is ready when every stage of its current revision is done or skipped, and failed when one
//! failed for good. A stage's outcome counts only when the stages before it are settled, and once. Attempts only
//! grow. An outcome that comes too late (an older revision, a document in the trash or purged, a settled stage)
//! changes nothing and is no error: the worker has nothing left to do.
//!
//! In this release a file is validated and stored before the document exists; a scan is skipped unless there is a
//! scanner, and a virus that was found is never skipped: only a verdict or a person settles it. THUMBNAIL and NOTIFY are not part of the pipeline yet, and what is reported of them changes nothing.
//!
//! Who orders the work: the scan is due after `ScanOrdered`, the extraction when SCAN is completed or skipped, and both
//! again after `Retried` or `Restored { awaits }`, which also say the number of the attempt.
//! INDEX is reported by the search index itself.

use oriel_kernel::{Command, Decision, Given, Outcome};
use serde::{Deserialize, Serialize};

use super::{Document, DocumentEvent, ExtractedText, StoredFile};

/// Something that is done with a revision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
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

impl Stage {
    /// Every stage, in their order.
    pub const ALL: &'static [Self] =
        &[Self::Validate, Self::Scan, Self::Store, Self::Extract, Self::Index, Self::Thumbnail, Self::Notify];

    /// The stages of this release, in their order.
    pub const PIPELINE: [Self; 5] = [Self::Validate, Self::Scan, Self::Store, Self::Extract, Self::Index];

    /// The name in events and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "VALIDATE",
            Self::Scan => "SCAN",
            Self::Store => "STORE",
            Self::Extract => "EXTRACT",
            Self::Index => "INDEX",
            Self::Thumbnail => "THUMBNAIL",
            Self::Notify => "NOTIFY",
        }
    }
}

/// Where a stage stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StageState {
    /// Its turn has not come, or it is tried again soon.
    #[default]
    Pending,
    /// Somebody works on it.
    Running,
    /// Is done.
    Done,
    /// Was left out.
    Skipped,
    /// Failed for good, until somebody retries.
    Failed,
}

impl StageState {
    /// Whether the stages after it can go on.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }

    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }
}

/// How far a revision is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Progress {
    /// Something is still to be done.
    Processing,
    /// Every stage is done or skipped.
    Ready,
    /// A stage failed for good.
    Failed,
}

impl Progress {
    /// What the states of all stages of a revision add up to.
    pub fn of(states: impl IntoIterator<Item = StageState>) -> Self {
        states.into_iter().fold(Self::Ready, |progress, state| match (progress, state) {
            (Self::Failed, _) | (_, StageState::Failed) => Self::Failed,
            (progress, state) if state.is_settled() => progress,
            _ => Self::Processing,
        })
    }
}

/// A stage whose work is due, and the number of the attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Awaited {
    /// Which stage.
    pub stage: Stage,
    /// The how many-eth time, from 1.
    pub attempt: i32,
}

/// Where the stages of one revision stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pipeline([Step; Stage::PIPELINE.len()]);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Step {
    state: StageState,
    attempts: i32,
}

impl Pipeline {
    /// How far the revision is.
    pub fn progress(&self) -> Progress {
        Progress::of(self.0.iter().map(|step| step.state))
    }

    /// Where a stage stands; nothing for one that is not part of the pipeline.
    pub fn state(&self, stage: Stage) -> Option<StageState> {
        self.step(stage).map(|step| step.state)
    }

    /// How often a stage was begun.
    pub fn attempts(&self, stage: Stage) -> i32 {
        self.step(stage).map_or(0, |step| step.attempts)
    }

    /// The stage that is due, unless one failed.
    pub(super) fn awaits(&self) -> Option<Awaited> {
        self.first(|state| !state.is_settled()).filter(|_| self.failed().is_none())
    }

    /// The stage that failed, with the number of its next attempt.
    pub(super) fn failed(&self) -> Option<Awaited> {
        self.first(|state| state == StageState::Failed)
    }

    pub(super) fn start(&mut self, stage: Stage, attempt: i32) {
        self.set(stage, StageState::Running, attempt);
    }

    pub(super) fn complete(&mut self, stage: Stage, attempt: i32) {
        self.set(stage, StageState::Done, attempt);
    }

    pub(super) fn skip(&mut self, stage: Stage) {
        self.set(stage, StageState::Skipped, 0);
    }

    pub(super) fn fail(&mut self, stage: Stage, attempt: i32, retrying: bool) {
        self.set(stage, if retrying { StageState::Pending } else { StageState::Failed }, attempt);
    }

    pub(super) fn wait(&mut self, stage: Stage) {
        self.set(stage, StageState::Pending, 0);
    }

    fn set(&mut self, stage: Stage, state: StageState, attempt: i32) {
        if let Some(step) = position(stage).and_then(|at| self.0.get_mut(at)) {
            *step = Step { state, attempts: step.attempts.max(attempt) };
        }
    }

    fn step(&self, stage: Stage) -> Option<&Step> {
        position(stage).and_then(|at| self.0.get(at))
    }

    fn first(&self, fits: impl Fn(StageState) -> bool) -> Option<Awaited> {
        let (stage, step) = Stage::PIPELINE.iter().zip(&self.0).find(|(_, step)| fits(step.state))?;
        Some(Awaited { stage: *stage, attempt: step.attempts.saturating_add(1) })
    }

    /// The step, if it is this stage's turn and its outcome is open.
    fn open(&self, stage: Stage) -> Option<&Step> {
        let at = position(stage)?;
        let turn = self.0.iter().take(at).all(|before| before.state.is_settled());
        self.0.get(at).filter(|step| turn && step.state.is_open())
    }
}

fn position(stage: Stage) -> Option<usize> {
    Stage::PIPELINE.iter().position(|other| *other == stage)
}

/// What is known of the first stages when a file arrives.
pub(super) fn on_arrival(revision: i32, file: &StoredFile) -> Vec<DocumentEvent> {
    let done = |stage| DocumentEvent::StageCompleted { revision, stage, attempt: 1 };
    let scan =
        DocumentEvent::StageSkipped { revision, stage: Stage::Scan, reason: "No scanner is configured.".to_owned() };
    match &file.validation {
        Err(reason) => vec![DocumentEvent::StageFailed {
            revision,
            stage: Stage::Validate,
            attempt: 1,
            reason: short(reason),
            retrying: false,
        }],
        Ok(()) if file.scanner => {
            vec![done(Stage::Validate), done(Stage::Store), DocumentEvent::ScanOrdered { revision, attempt: 1 }]
        }
        Ok(()) => vec![done(Stage::Validate), scan, done(Stage::Store)],
    }
}

/// A reason is a line for people, not a log.
fn short(reason: &str) -> String {
    reason.chars().take(1_000).collect()
}

impl Document {
    /// The step that a worker reports on, if there is still something to report.
    fn open_step(&self, revision: i32, stage: Stage) -> Option<Step> {
        if self.trashed || self.purged || self.revision != revision {
            return None;
        }
        self.pipeline.open(stage).copied()
    }
}

// --- commands: all of them are the system's ------------------------------------------------------------------------

/// A worker takes a stage up.
pub struct StartStage {
    /// Of which revision.
    pub revision: i32,
    /// Which stage.
    pub stage: Stage,
    /// The how many-eth time, from 1.
    pub attempt: i32,
}

impl Command for StartStage {
    type Aggregate = Document;

    fn decide(&self, document: &Document, _: &Given<'_>) -> Decision<DocumentEvent> {
        let Self { revision, stage, attempt } = *self;
        match document.open_step(revision, stage) {
            Some(step) if attempt > step.attempts => {
                Ok(Outcome::events([DocumentEvent::StageStarted { revision, stage, attempt }]))
            }
            _ => Ok(Outcome::nothing()),
        }
    }
}

/// The search index has the document. A success counts whichever attempt it comes from.
pub struct RecordIndexed {
    /// Which revision.
    pub revision: i32,
    /// The how many-eth time, from 1.
    pub attempt: i32,
}

impl Command for RecordIndexed {
    type Aggregate = Document;

    fn decide(&self, document: &Document, _: &Given<'_>) -> Decision<DocumentEvent> {
        let (revision, stage) = (self.revision, Stage::Index);
        let Some(step) = document.open_step(revision, stage) else { return Ok(Outcome::nothing()) };
        let attempt = self.attempt.max(step.attempts).max(1);
        Ok(Outcome::events([DocumentEvent::StageCompleted { revision, stage, attempt }]))
    }
}

/// A stage is left out.
pub struct SkipStage {
    /// Of which revision.
    pub revision: i32,
    /// Which stage.
    pub stage: Stage,
    /// For people.
    pub reason: String,
}

impl Command for SkipStage {
    type Aggregate = Document;

    fn decide(&self, document: &Document, _: &Given<'_>) -> Decision<DocumentEvent> {
        let Self { revision, stage, .. } = *self;
        let Some(step) = document.open_step(revision, stage) else { return Ok(Outcome::nothing()) };
        if stage == Stage::Scan && document.infected {
            let reason = "A virus was found, and there is no scanner any more that would look again.".to_owned();
            let attempt = step.attempts.max(1);
            return Ok(Outcome::events([DocumentEvent::StageFailed {
                revision,
                stage,
                attempt,
                reason,
                retrying: false,
            }]));
        }
        Ok(Outcome::events([DocumentEvent::StageSkipped { revision, stage, reason: short(&self.reason) }]))
    }
}

/// A stage did not succeed. A failure counts only from the newest attempt.
pub struct FailStage {
    /// Of which revision.
    pub revision: i32,
    /// Which stage.
    pub stage: Stage,
    /// The how many-eth time, from 1.
    pub attempt: i32,
    /// For people.
    pub reason: String,
    /// Whether it is tried again by itself; if not, the document has failed.
    pub retrying: bool,
}

impl Command for FailStage {
    type Aggregate = Document;

    fn decide(&self, document: &Document, _: &Given<'_>) -> Decision<DocumentEvent> {
        let Self { revision, stage, attempt, retrying, .. } = *self;
        let Some(step) = document.open_step(revision, stage) else { return Ok(Outcome::nothing()) };
        let news = match step.state {
            StageState::Running => attempt >= step.attempts,
            // Nobody works on it: a failure known already is no news, giving up is.
            _ => attempt > step.attempts || !retrying,
        };
        if !news {
            return Ok(Outcome::nothing());
        }
        let (attempt, reason) = (attempt.max(step.attempts).max(1), short(&self.reason));
        Ok(Outcome::events([DocumentEvent::StageFailed { revision, stage, attempt, reason, retrying }]))
    }
}

/// The scanner has a verdict; that completes SCAN, or fails it for good.
pub struct RecordVerdict {
    /// Of which revision.
    pub revision: i32,
    /// The how many-eth time, from 1.
    pub attempt: i32,
    /// Who says so: the program and its signatures, as it calls them.
    pub engine: String,
    /// What was found; `None`: nothing.
    pub signature: Option<String>,
}

impl Command for RecordVerdict {
    type Aggregate = Document;

    fn decide(&self, document: &Document, _: &Given<'_>) -> Decision<DocumentEvent> {
        let (revision, stage) = (self.revision, Stage::Scan);
        let Some(step) = document.open_step(revision, stage) else { return Ok(Outcome::nothing()) };
        let attempt = self.attempt.max(step.attempts).max(1);
        let signature = self.signature.as_deref().map(short);
        let outcome = match &signature {
            None => DocumentEvent::StageCompleted { revision, stage, attempt },
            Some(found) => {
                let reason = short(&format!("A virus was found: {found}."));
                DocumentEvent::StageFailed { revision, stage, attempt, reason, retrying: false }
            }
        };
        let scanned = DocumentEvent::Scanned { revision, attempt, engine: short(&self.engine), signature };
        Ok(Outcome::events([scanned, outcome]))
    }
}

/// The text was extracted; that completes EXTRACT.
pub struct RecordText {
    /// Of which revision.
    pub revision: i32,
    /// The how many-eth time, from 1.
    pub attempt: i32,
    /// Where it is kept; nothing when there is no text in the file.
    pub text: Option<ExtractedText>,
    /// How many pages, where the format has pages.
    pub page_count: Option<i32>,
    /// ISO 639 code of the language, when it was recognised.
    pub language: Option<String>,
    /// The title that stands in the file itself; cut to 300 characters.
    pub title: Option<String>,
}

impl Command for RecordText {
    type Aggregate = Document;

    fn decide(&self, document: &Document, _: &Given<'_>) -> Decision<DocumentEvent> {
        let (revision, stage) = (self.revision, Stage::Extract);
        let Some(step) = document.open_step(revision, stage) else { return Ok(Outcome::nothing()) };
        let extracted = DocumentEvent::TextExtracted {
            revision,
            text: self.text.clone(),
            page_count: self.page_count,
            language: self.language.clone(),
            title: self.title.as_ref().map(|title| title.chars().take(300).collect()),
        };
        let attempt = self.attempt.max(step.attempts).max(1);
        Ok(Outcome::events([extracted, DocumentEvent::StageCompleted { revision, stage, attempt }]))
    }
}
