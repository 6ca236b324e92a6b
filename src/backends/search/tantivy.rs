//! Search in process: tantivy in a folder, one generation of files at a time.
//!
//! Invariants
//! - The checkpoint is the payload of tantivy's own commit: segments and checkpoint reach the disk as one.
//! - Readers hold one [`Snapshot`](generation::Snapshot): searcher and checkpoint that belong together.
//! - The organisation is part of every indexed word, so words, their statistics (hence scores), typing variants
//!   and phrases of one organisation are read without touching another's.
//! - All work happens on blocking threads, bounded in number and time. A panic in a reader (unreadable files)
//!   becomes [`SearchError::Damaged`].
//! - One process owns the folder (tantivy's writer lock).

mod answer;
mod contents;
mod facets;
mod files;
mod generation;
mod plan;
mod run;
mod schema;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use self::contents::contents;
use self::files::Folder;
use self::generation::Generation;
use super::compare::Comparison;
use super::{
    Change, Checkpoint, Compared, MAX_SEARCH_TIME, Scope, SearchAnswer, SearchError, SearchRequest, Stats, Suggestion,
};

/// See [`Search::version`](super::Search::version).
pub(super) const VERSION: i32 = files::FORMAT;

/// Searches that work at once; the rest wait their turn.
const MAX_SEARCHES: usize = 16;

/// An index in a folder. Cheap to clone; all clones are the same index.
#[derive(Debug, Clone)]
pub struct Tantivy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: Folder,
    live: RwLock<Arc<Generation>>,
    /// Held by whoever writes the live generation or replaces it.
    writing: Arc<Mutex<()>>,
    /// Held by the one rebuild.
    rebuilding: Arc<Mutex<()>>,
    searching: Arc<Semaphore>,
}

impl Tantivy {
    /// Opens the index in the folder, or an empty one where there is none. What a killed rebuild left is
    /// removed. [`SearchError::Damaged`]: unreadable, or of another format: see [`Tantivy::recreate`].
    pub async fn open(folder: impl AsRef<Path>) -> Result<Self, SearchError> {
        let folder = Folder::new(folder.as_ref());
        blocking(move || {
            let name = match folder.current()? {
                Some(name) => name,
                None => folder.start()?,
            };
            folder.remove_all_but(&name);
            let live = Generation::open(&folder.path(&name), &name)?;
            Ok(Self::with(folder, live))
        })
        .await
    }

    /// Opens an empty index in the folder, whatever it held.
    pub async fn recreate(folder: impl AsRef<Path>) -> Result<Self, SearchError> {
        let folder = Folder::new(folder.as_ref());
        blocking(move || {
            let name = folder.start()?;
            folder.remove_all_but(&name);
            let live = Generation::open(&folder.path(&name), &name)?;
            Ok(Self::with(folder, live))
        })
        .await
    }

    fn with(folder: Folder, live: Generation) -> Self {
        Self {
            inner: Arc::new(Inner {
                folder,
                live: RwLock::new(Arc::new(live)),
                writing: Arc::new(Mutex::new(())),
                rebuilding: Arc::new(Mutex::new(())),
                searching: Arc::new(Semaphore::new(MAX_SEARCHES)),
            }),
        }
    }

    pub(super) async fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        // The guard goes into the blocking work: a caller that stops waiting does not let another in.
        let writing = Arc::clone(&self.inner.writing).lock_owned().await;
        let live = self.inner.live();
        blocking(move || {
            let _writing = writing;
            live.apply(changes, to)
        })
        .await
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.inner.live().snapshot().checkpoint
    }

    pub(super) fn generation(&self) -> i32 {
        self.inner.live().number()
    }

    pub(super) async fn search(&self, scope: &Scope, request: &SearchRequest) -> Result<SearchAnswer, SearchError> {
        let (scope, request) = (scope.clone(), request.clone());
        self.read(move |live| answer::search(&live.snapshot(), &scope, &request, until())).await
    }

    pub(super) async fn suggest(
        &self,
        scope: &Scope,
        prefix: &str,
        first: usize,
    ) -> Result<Vec<Suggestion>, SearchError> {
        let (scope, prefix) = (scope.clone(), prefix.to_owned());
        self.read(move |live| answer::suggest(&live.snapshot(), &scope, &prefix, first, until())).await
    }

    pub(super) async fn stats(&self) -> Result<Stats, SearchError> {
        self.read(|live| live.stats()).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Generation) -> Result<T, SearchError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let turn = Arc::clone(&self.inner.searching).acquire_owned().await.map_err(SearchError::unavailable)?;
        let live = self.inner.live();
        blocking(move || {
            let _turn = turn;
            work(&live)
        })
        .await
    }

    pub(super) async fn begin_rebuild(&self) -> Result<Rebuild, SearchError> {
        let only = Arc::clone(&self.inner.rebuilding).try_lock_owned().map_err(|_| SearchError::Rebuilding)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.folder.remove_all_but(&inner.live().name);
            let name = inner.folder.create_next()?;
            let next = Generation::open(&inner.folder.path(&name), &name)?;
            Ok(Rebuild { next: Some(Arc::new(next)), inner, _only: only })
        })
        .await
    }

    pub(super) async fn reset(&self) -> Result<(), SearchError> {
        // A running rebuild reads the log that this index is to forget.
        let only = Arc::clone(&self.inner.rebuilding).try_lock_owned().map_err(|_| SearchError::Rebuilding)?;
        let writing = Arc::clone(&self.inner.writing).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let _held = (only, writing);
            let name = inner.folder.create_next()?;
            let next = Arc::new(Generation::open(&inner.folder.path(&name), &name)?);
            inner.replace(next)
        })
        .await
    }
}

impl Inner {
    fn live(&self) -> Arc<Generation> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The caller holds `writing`.
    fn replace(&self, next: Arc<Generation>) -> Result<(), SearchError> {
        self.folder.switch_to(&next.name)?;
        let name = next.name.clone();
        let old = std::mem::replace(&mut *self.live.write().unwrap_or_else(PoisonError::into_inner), next);
        // Searches that still run on it keep its files open; the folder goes now.
        old.close();
        self.folder.remove_all_but(&name);
        Ok(())
    }
}

/// A generation beside the running one.
#[derive(Debug)]
pub struct Rebuild {
    inner: Arc<Inner>,
    /// Empty once switched.
    next: Option<Arc<Generation>>,
    _only: OwnedMutexGuard<()>,
}

impl Rebuild {
    pub(super) async fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        let next = self.next()?;
        blocking(move || next.apply(changes, to)).await
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.next.as_ref().and_then(|next| next.snapshot().checkpoint)
    }

    pub(super) async fn compare(&self, still: impl Send) -> Result<Compared, SearchError> {
        let (running, next) = (self.inner.live().snapshot(), self.next()?.snapshot());
        // What a snapshot shows stays as it is.
        drop(still);
        blocking(move || {
            let mut comparison = Comparison::default();
            contents(&running, |id, digest| comparison.running(id, digest))?;
            contents(&next, |id, digest| comparison.other(&id, digest))?;
            Ok(comparison.finish())
        })
        .await
    }

    pub(super) async fn switch(mut self) -> Result<(), SearchError> {
        let writing = Arc::clone(&self.inner.writing).lock_owned().await;
        // The whole rebuild goes into the blocking work, so that nothing is removed under it.
        blocking(move || {
            let _writing = writing;
            let next = self.next()?;
            let (at, to) = (self.inner.live().snapshot().checkpoint, next.snapshot().checkpoint);
            if let Some(at) = at {
                super::not_backwards(Some(at), to.unwrap_or(Checkpoint { position: 0, ..at }))?;
            }
            self.inner.replace(next)?;
            // It lives on as the running one.
            self.next.take();
            Ok(())
        })
        .await
    }

    pub(super) async fn abort(self) -> Result<(), SearchError> {
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }

    fn next(&self) -> Result<Arc<Generation>, SearchError> {
        self.next.clone().ok_or_else(|| SearchError::unavailable("the rebuild is over"))
    }
}

impl Drop for Rebuild {
    fn drop(&mut self) {
        if let Some(next) = self.next.take() {
            next.close();
            self.inner.folder.remove_unless_current(&next.name);
        }
    }
}

/// When a search that begins now gives up.
fn until() -> Instant {
    Instant::now() + MAX_SEARCH_TIME
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SearchError> + Send + 'static,
) -> Result<T, SearchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(end) if end.is_panic() => Err(SearchError::Damaged("reading it failed unexpectedly".into())),
        Err(end) => Err(SearchError::unavailable(end)),
    }
}

/// Whether the index itself is at fault, or only the moment.
impl From<tantivy::TantivyError> for SearchError {
    fn from(error: tantivy::TantivyError) -> Self {
        use tantivy::TantivyError as E;
        match error {
            E::OpenReadError(_)
            | E::DataCorruption(_)
            | E::FieldNotFound(_)
            | E::SchemaError(_)
            | E::IncompatibleIndex(_)
            | E::DeserializeError(_)
            | E::InternalError(_) => Self::Damaged(error.to_string()),
            E::IoError(ref cause) if damaging(cause.kind()) => Self::Damaged(error.to_string()),
            other => Self::unavailable(other),
        }
    }
}

fn damaging(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as K;
    matches!(kind, K::InvalidData | K::InvalidInput | K::UnexpectedEof | K::NotFound | K::Other)
}
