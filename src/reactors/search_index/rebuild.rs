//! Building the index anew from the log, beside the running one, which goes on following and answering: to take its
//! place, or to be compared with it.
//!
//! Nothing is set aside here: what cannot be applied ends the rebuild, and the running index stays.

use std::collections::BTreeSet;

use oriel_backends::search as index;
use oriel_engine::rebuild::{Progress, Verified, unwatched};
use oriel_kernel::{OrganizationId, Position};

use super::{INDEX, IndexError, SearchIndex, Target};

/// Events that are read at once.
const CHUNK: u64 = 500;

/// What was applied to the next index so far.
#[derive(Default)]
struct Filled {
    position: Position,
    organizations: BTreeSet<OrganizationId>,
}

/// The next index is shown to operators as long as this lives.
struct Shown<'a>(&'a SearchIndex);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        *self.0.next() = None;
    }
}

impl SearchIndex {
    /// See [`Reactors::rebuild_index`](crate::Reactors::rebuild_index).
    pub(crate) async fn rebuild(&self, progress: Progress<'_>) -> Result<Position, IndexError> {
        let next = self.search.begin_rebuild().await?;
        let _shown = Shown(self);
        let show = |position: Position, head: Position| {
            *self.next() = Some(position);
            progress(position, head)
        };
        let mut filled = Filled::default();
        // Dropped anywhere in here, `next` goes with it.
        self.fill_up(&next, &mut filled, &show).await?;
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
        // It is done: nobody can end it any more.
        let _ = show(filled.position, self.engine.feed().head());
        Ok(filled.position)
    }

    /// See [`Reactors::verify_index`](crate::Reactors::verify_index).
    pub(crate) async fn verify(&self) -> Result<Verified, IndexError> {
        let next = self.search.begin_rebuild().await?;
        let mut filled = Filled::default();
        self.fill_up(&next, &mut filled, &unwatched).await?;
        let applying = self.applying.lock().await;
        self.fill_up(&next, &mut filled, &unwatched).await?;
        // An entry is made of the current row: both indexes are made of the same rows only where nobody writes.
        let still = self.engine.standstill().await?;
        self.follow().await?;
        while self.fill(&next, &mut filled).await? > 0 {}
        still.end().await?;
        let compared = next.compare(applying).await?;
        next.abort().await?;
        let count = |entries: u64| i64::try_from(entries).unwrap_or(i64::MAX);
        Ok(Verified {
            name: INDEX,
            rows: count(compared.entries),
            only_running: count(compared.only_running),
            only_replayed: count(compared.only_other),
            position: filled.position,
        })
    }

    /// Applies the log until few events remain.
    async fn fill_up(
        &self,
        next: &index::Rebuild,
        filled: &mut Filled,
        progress: Progress<'_>,
    ) -> Result<(), IndexError> {
        loop {
            if progress(filled.position, self.engine.feed().head()).is_break() {
                return Err(IndexError::Cancelled);
            }
            if self.fill(next, filled).await? < CHUNK as usize {
                return Ok(());
            }
        }
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

    /// Applies to the running index what its consumer has not got to yet. The caller holds `applying`.
    async fn follow(&self) -> Result<(), IndexError> {
        loop {
            let from = self.search.checkpoint().await?.map_or(0, |at| at.position);
            let events = self.engine.log().read(self.position().max(Position::new(from)), CHUNK).await?;
            let Some(last) = events.last() else { return Ok(()) };
            let touched = self.put(Target::Running(&self.search), &events, from, (last.position, last.id)).await?;
            self.touch(&touched);
            self.advance(last.position);
        }
    }
}
