//! Building the index anew from the log, beside the running one, which goes on following and answering.
//!
//! Nothing is set aside here: what cannot be applied ends the rebuild, and the running index stays.

use std::collections::BTreeSet;

use oriel_backends::search as index;
use oriel_kernel::{OrganizationId, Position};

use super::{IndexError, SearchIndex, Target};

/// Events that are read at once.
const CHUNK: u64 = 500;

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RebuildProgress {
    /// What it has applied.
    pub position: Position,
    /// Where the log ends at the moment.
    pub head: Position,
}

/// What was applied to the next index so far.
struct Filled {
    position: Position,
    organizations: BTreeSet<OrganizationId>,
}

impl SearchIndex {
    /// See [`Reactors::rebuild_index`](crate::Reactors::rebuild_index).
    pub(crate) async fn rebuild(
        &self,
        progress: &(dyn Fn(RebuildProgress) + Send + Sync),
    ) -> Result<Position, IndexError> {
        let next = self.search.begin_rebuild().await?;
        let mut filled = Filled { position: Position::START, organizations: BTreeSet::new() };
        // Dropped anywhere in here, `next` goes with it.
        while self.fill(&next, &mut filled).await? == CHUNK as usize {
            progress(RebuildProgress { position: filled.position, head: self.engine.feed().head() });
        }
        // The running index stands still for the few events that are left.
        let applying = self.applying.lock().await;
        while filled.position < self.position() {
            self.fill(&next, &mut filled).await?;
        }
        next.switch().await?;
        drop(applying);
        // The answers may differ, if the running index was damaged.
        self.touch(&filled.organizations);
        self.advance(filled.position);
        progress(RebuildProgress { position: filled.position, head: self.engine.feed().head() });
        Ok(filled.position)
    }

    /// The next events; how many they were.
    async fn fill(&self, next: &index::Rebuild, filled: &mut Filled) -> Result<usize, IndexError> {
        let events = self.engine.log().read(filled.position, CHUNK).await?;
        let Some(last) = events.last() else { return Ok(0) };
        // As from the beginning: the checkpoint moves with every chunk.
        let touched = self.put(Target::Next(next), &events, i64::MIN / 2, (last.position, last.id)).await?;
        filled.organizations.extend(touched);
        filled.position = last.position;
        Ok(events.len())
    }
}
