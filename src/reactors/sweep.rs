//! Files that nobody needs go: what a kill left between writing a file and committing the event that names it.
//!
//! Invariants: only what is older than [`AGE`] goes, so that nothing goes whose event is on its way. What is old is
//! listed *before* the references are read. A run looks at a bounded number of files and goes on there the next time,
//! and at every reference once. Time is the engine's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::{BlobError, BlobKey, BlobPrefix, Blobs, EXPORTS, MAX_LISTED};
use oriel_engine::Engine;
use oriel_kernel::Timestamp;
use oriel_read_models::data_exports;
use oriel_read_models::documents::{self, revisions};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::{FILES, STAGING, TEXTS};

/// How old a file has to be.
pub(crate) const AGE: Duration = Duration::from_secs(24 * 3600);
/// Files of one kind that a run looks at.
const LOOKED_AT: usize = 50_000;
/// Rows that are read at once.
const ROWS: u64 = 1_000;

/// Why files were not swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The references.
    #[error("what is referenced cannot be read: {0}")]
    Database(#[from] DbErr),
    /// The files.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A row that this release does not understand: nothing is removed.
    #[error("the files of a document are not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// What a run did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Files that it looked at.
    pub seen: usize,
    /// Files that it removed, and uploads that were never completed.
    pub removed: usize,
}

/// See the module.
pub(crate) struct Sweep {
    engine: Arc<Engine>,
    blobs: Blobs,
    /// Where the next run goes on, in each of [`KINDS`].
    next: Mutex<[Option<BlobKey>; KINDS.len()]>,
}

const KINDS: [BlobPrefix; 4] = [FILES, TEXTS, EXPORTS, STAGING];

impl Sweep {
    pub(crate) fn new(engine: Arc<Engine>, blobs: Blobs) -> Self {
        Self { engine, blobs, next: Mutex::default() }
    }

    pub(crate) async fn run(&self) -> Result<Swept, SweepError> {
        let mut next = self.next.lock().await;
        let before = self.engine.now() - AGE;
        let mut swept = Swept::default();
        for (kind, next) in KINDS.into_iter().zip(next.iter_mut()) {
            let mut old = self.old(kind, next, before, &mut swept).await?;
            // Nothing refers to what was uploaded and not taken.
            if kind != STAGING && !old.is_empty() {
                self.keep_referenced(&mut old).await?;
            }
            for key in old {
                self.blobs.delete(&key).await?;
                swept.removed += 1;
            }
        }
        swept.removed += self.blobs.abort_unfinished(before).await?;
        if swept.removed > 0 {
            tracing::info!(seen = swept.seen, removed = swept.removed, "files that nobody needs were removed");
            metrics::counter!("oriel_blobs_swept_total").increment(swept.removed as u64);
        }
        Ok(swept)
    }

    /// The next old files of a kind.
    async fn old(
        &self,
        kind: BlobPrefix,
        next: &mut Option<BlobKey>,
        before: Timestamp,
        swept: &mut Swept,
    ) -> Result<HashSet<BlobKey>, BlobError> {
        let mut old = HashSet::new();
        let mut looked_at = 0;
        while looked_at < LOOKED_AT {
            let page = self.blobs.list(kind, next.as_ref(), MAX_LISTED).await?;
            looked_at += page.len();
            swept.seen += page.len();
            let last = page.len() < MAX_LISTED;
            *next = page.last().filter(|_| !last).map(|entry| entry.key.clone());
            old.extend(page.into_iter().filter(|entry| entry.modified < before).map(|entry| entry.key));
            if last {
                break;
            }
        }
        Ok(old)
    }

    /// Takes out what a document refers to: the files of all its revisions, and the text of the current one. (Nothing
    /// reads the texts of older revisions.)
    async fn keep_referenced(&self, old: &mut HashSet<BlobKey>) -> Result<(), SweepError> {
        #[derive(Deserialize)]
        struct File {
            blob: String,
        }
        let reader = self.engine.database().reader();
        let mut keep = |key: &str| {
            if let Ok(key) = BlobKey::parse(key) {
                old.remove(&key);
            }
        };
        data_exports::files(reader).await?.iter().for_each(|file| keep(file));
        let mut after = Uuid::nil();
        loop {
            use revisions::Column;
            let rows = revisions::Entity::find().select_only().columns([Column::Id, Column::Revisions]);
            let rows = rows.filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(ROWS);
            let rows: Vec<(Uuid, serde_json::Value)> = rows.into_tuple().all(reader).await?;
            for (id, files) in &rows {
                after = *id;
                Vec::<File>::deserialize(files)?.iter().for_each(|file| keep(&file.blob));
            }
            if rows.len() < ROWS as usize {
                break;
            }
        }
        let mut after = Uuid::nil();
        loop {
            use documents::Column;
            let rows = documents::Entity::find().select_only().columns([Column::Id, Column::Blob, Column::TextBlob]);
            let rows = rows.filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(ROWS);
            let rows: Vec<(Uuid, String, Option<String>)> = rows.into_tuple().all(reader).await?;
            for (id, blob, text) in &rows {
                after = *id;
                keep(blob);
                text.iter().for_each(|text| keep(text));
            }
            if rows.len() < ROWS as usize {
                return Ok(());
            }
        }
    }
}

/// Sweeps now and then, until told to stop.
pub(crate) async fn every(pause: Duration, sweep: Arc<Sweep>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        let swept = tokio::select! {
            swept = sweep.run() => swept,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "files that nobody needs could not be removed; they are next time");
        }
    }
}
