//! INDEX: a document whose text is settled is ready as soon as the search index has it.
//!
//! Follows the log *behind* the index: an event that makes INDEX due is reported when the index has applied it. The
//! command's id is derived from the event, and a stage that is settled changes nothing, so events may come again; that
//! is why the checkpoint (its row) may stay behind, and may go back to the beginning. One node does this for all: where
//! each has an index of its own, a document is ready when that node's has it.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use oriel_domain::documents::pipeline::RecordIndexed;
use oriel_domain::documents::{Awaited, DocumentEvent, DocumentId, Stage};
use oriel_engine::consumers::{Checkpoint, ConsumerError, Lease, SharedConsumer};
use oriel_engine::{CommandContext, CommandError, Engine};
use oriel_kernel::{CommandId, Recorded};
use tokio::sync::watch;
use uuid::Uuid;

use crate::search_index::SearchIndex;

/// The consumer's name, and its row's.
pub(crate) const NAME: &str = "index_stage";
/// Commands that wait to be committed together.
const AT_ONCE: usize = 64;
/// Makes a command's id of an event's: another reactor's command for the same event has another one.
const COMMAND: u128 = 0x6f72_6965_6c2d_696e_6465_782d_7374_6167;

/// See the module.
pub(crate) struct IndexStage {
    engine: Arc<Engine>,
    index: Arc<SearchIndex>,
    stopping: watch::Receiver<bool>,
}

impl IndexStage {
    pub(crate) fn new(engine: Arc<Engine>, index: Arc<SearchIndex>, stopping: watch::Receiver<bool>) -> Self {
        Self { engine, index, stopping }
    }

    async fn complete(&self, event: &Recorded, (revision, attempt): (i32, i32)) -> Result<(), ConsumerError> {
        let id = CommandId::from_uuid(Uuid::from_u128(event.id.uuid().as_u128() ^ COMMAND));
        let system = CommandContext::system(id, event.organization, self.engine.now()).caused_by(event);
        // A repetition decides to do nothing: looking it up first would cost a query each.
        let context = CommandContext { may_repeat: false, ..system };
        let command = RecordIndexed { revision, attempt };
        match self.engine.execute(&context, DocumentId::from_uuid(event.subject), command).await {
            Ok(_) => Ok(()),
            Err(error @ (CommandError::Rejected(_) | CommandError::Internal(_))) => {
                Err(ConsumerError::Failed(error.to_string()))
            }
            Err(error) => Err(ConsumerError::Unavailable(error.to_string())),
        }
    }
}

/// The revision that is to be in the index, and the number of the attempt.
fn due(event: &DocumentEvent) -> Option<(i32, i32)> {
    use DocumentEvent as E;
    match event {
        E::StageCompleted { revision, stage: Stage::Extract, .. }
        | E::StageSkipped { revision, stage: Stage::Extract, .. } => Some((*revision, 1)),
        E::Retried { revision, stage: Stage::Index, attempt }
        | E::Restored { revision, awaits: Some(Awaited { stage: Stage::Index, attempt }), .. } => {
            Some((*revision, *attempt))
        }
        E::StageCompleted { .. }
        | E::StageSkipped { .. }
        | E::Retried { .. }
        | E::Restored { .. }
        | E::Uploaded { .. }
        | E::RevisionAdded { .. }
        | E::Renamed { .. }
        | E::Tagged { .. }
        | E::Moved { .. }
        | E::StageStarted { .. }
        | E::StageFailed { .. }
        | E::ScanOrdered { .. }
        | E::Scanned { .. }
        | E::Released { .. }
        | E::TextExtracted { .. }
        | E::Trashed { .. }
        | E::Purged { .. } => None,
    }
}

#[async_trait::async_trait]
impl SharedConsumer for IndexStage {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError> {
        Ok(self.engine.shared_checkpoint(NAME).await?)
    }

    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint, lease: &Lease) -> Result<(), ConsumerError> {
        let due: Vec<_> = events.iter().filter_map(|event| Some((event, event.event_as().and_then(due)?))).collect();
        if let Some((last, _)) = due.last() {
            let mut stopping = self.stopping.clone();
            tokio::select! {
                () = self.index.reaches(last.position) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return Err(ConsumerError::Elsewhere),
            }
        }
        let commands: Vec<_> = due.into_iter().map(|(event, due)| self.complete(event, due)).collect();
        futures::stream::iter(commands).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        // Without events it is one that was set aside that is passed by, which is remembered.
        if events.is_empty() { lease.advance(to).await } else { lease.pass(to).await }
    }

    async fn reset(&self, lease: &Lease) -> Result<(), ConsumerError> {
        lease.restart().await
    }
}
