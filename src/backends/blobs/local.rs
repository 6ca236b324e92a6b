//! Blobs in a folder of this machine.
//!
//! Invariants
//! - A blob is written under `.unfinished`, synced, then given its name in one step, and the folder that holds the
//!   name is synced before anyone is told. A file with a name is therefore whole.
//! - The file of a blob is never written again; a copy may be the same file under a second name.
//! - Whoever writes an unfinished file holds a lock on it, so opening removes those of dead processes and no other.
//!
//! Layout: `<prefix>/<last two digits>/<32 digits>`.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::body::{Body, Meter, Terms, resolve};
use super::{BlobEntry, BlobError, BlobInfo, BlobKey, BlobPrefix, OpenError, UrlKeys, key};

/// How much is read or written at once.
const CHUNK: usize = 256 * 1024;
const UNFINISHED: &str = ".unfinished";

/// A folder of blobs.
#[derive(Debug)]
pub struct LocalBlobs {
    root: PathBuf,
    keys: RwLock<Arc<UrlKeys>>,
}

impl LocalBlobs {
    pub(super) async fn open(folder: &Path, keys: UrlKeys) -> Result<Self, OpenError> {
        let root = folder.to_owned();
        let failed = |source| OpenError::Folder { path: folder.to_owned(), source };
        blocking(move || {
            let root = std::path::absolute(root)?;
            make_folder(&root.join(UNFINISHED))?;
            remove_leftovers(&root.join(UNFINISHED))?;
            Ok(root)
        })
        .await
        .map(|root| Self { root, keys: RwLock::new(Arc::new(keys)) })
        .map_err(failed)
    }

    pub(super) fn keys(&self) -> Arc<UrlKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_keys(&self, keys: UrlKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    pub(super) fn path(&self, key: &BlobKey) -> PathBuf {
        self.root.join(key.prefix()).join(key.shard()).join(key.name())
    }

    pub(super) async fn put(&self, key: &BlobKey, mut body: Body<'_>, terms: Terms) -> Result<BlobInfo, BlobError> {
        let target = self.path(key);
        if !terms.replace && tokio::fs::try_exists(&target).await.map_err(BlobError::unavailable)? {
            return Err(BlobError::Exists);
        }
        let folder = self.root.join(UNFINISHED);
        let (unfinished, file) = blocking(move || Unfinished::create(&folder)).await.map_err(BlobError::unavailable)?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(CHUNK);
        let mut writer = BufWriter::with_capacity(CHUNK, file);
        let mut meter = Meter::new(terms.limit);
        while let Some(chunk) = meter.next(&mut body).await? {
            writer.write_all(&chunk).await.map_err(BlobError::unavailable)?;
        }
        let info = terms.accept(meter.finish())?;
        writer.flush().await.map_err(BlobError::unavailable)?;
        let file = writer.into_inner();
        file.sync_all().await.map_err(BlobError::unavailable)?;
        let (locked, root) = (file.into_std().await, self.root.clone());
        let published = blocking(move || {
            let published = unfinished.publish(&root, &target, terms.replace);
            drop(locked);
            published
        });
        match published.await {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(BlobError::Exists),
            published => published.map(|()| info).map_err(BlobError::unavailable),
        }
    }

    pub(super) async fn get(
        &self,
        key: &BlobKey,
        range: Option<Range<u64>>,
    ) -> Result<(u64, Range<u64>, BoxStream<'static, io::Result<Bytes>>), BlobError> {
        let path = self.path(key);
        let (file, size, range) = blocking(move || {
            let mut file = fs::File::open(path)?;
            let size = file.metadata()?.len();
            let range = resolve(range, size);
            if let Some(range) = &range {
                io::Seek::seek(&mut file, io::SeekFrom::Start(range.start))?;
            }
            Ok((file, size, range))
        })
        .await
        .map_err(BlobError::from_io)?;
        let range = range.ok_or(BlobError::RangeOutside { size })?;
        let reader = tokio::fs::File::from_std(file).take(range.end - range.start);
        Ok((size, range, ReaderStream::with_capacity(reader, CHUNK).boxed()))
    }

    pub(super) async fn head(&self, key: &BlobKey) -> Result<BlobEntry, BlobError> {
        let (path, key) = (self.path(key), key.clone());
        blocking(move || entry(key, &path)).await.map_err(BlobError::from_io)
    }

    pub(super) async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        let path = self.path(key);
        let removed = blocking(move || {
            fs::remove_file(&path)?;
            sync_parent(&path)
        });
        match removed.await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlobError::unavailable(error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn copy(&self, from: &BlobKey, to: &BlobKey) -> Result<(), BlobError> {
        let (from, to, root) = (self.path(from), self.path(to), self.root.clone());
        let copied = blocking(move || {
            let mut source = fs::File::open(&from)?;
            if to.try_exists()? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            make_parent(&to)?;
            // Two names, one time: the copy has to count as new for whoever sweeps old blobs.
            source.set_modified(SystemTime::now())?;
            match fs::hard_link(&from, &to) {
                Err(error) if has_no_links(&error) => {
                    let (unfinished, mut copy) = Unfinished::create(&root.join(UNFINISHED))?;
                    io::copy(&mut source, &mut copy)?;
                    copy.sync_all()?;
                    unfinished.publish(&root, &to, false)
                }
                linked => linked.and_then(|()| sync_named(&root, &to)),
            }
        });
        copied.await.map_err(BlobError::from_io)
    }

    pub(super) async fn list(
        &self,
        prefix: BlobPrefix,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let (folder, after) = (self.root.join(prefix.as_str()), after.cloned());
        blocking(move || list(&folder, prefix, after.as_ref(), limit)).await.map_err(BlobError::unavailable)
    }

    pub(super) async fn check(&self) -> Result<(), BlobError> {
        let folder = self.root.join(UNFINISHED);
        blocking(move || {
            let (_unfinished, mut file) = Unfinished::create(&folder)?;
            io::Write::write_all(&mut file, b"oriel")?;
            file.sync_all()
        })
        .await
        .map_err(BlobError::unavailable)
    }
}

/// A file without a name yet; it goes when this goes, unless it was published.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn create(folder: &Path) -> io::Result<(Self, fs::File)> {
        let unfinished = Self { path: folder.join(Uuid::new_v4().simple().to_string()) };
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished.path)?;
        // File systems without locks exist; there a second process must not open the folder.
        if let Err(fs::TryLockError::Error(error)) = file.try_lock()
            && error.kind() != io::ErrorKind::Unsupported
        {
            return Err(error);
        }
        Ok((unfinished, file))
    }

    /// Gives the file its name. The content has to be synced already.
    fn publish(self, root: &Path, target: &Path, replace: bool) -> io::Result<()> {
        make_parent(target)?;
        if replace {
            fs::rename(&self.path, target)?;
            return sync_folders(root, target);
        }
        // A link never replaces, a rename does.
        match fs::hard_link(&self.path, target) {
            Err(error) if has_no_links(&error) => {
                if target.try_exists()? {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(&self.path, target)?;
            }
            linked => linked?,
        }
        sync_named(root, target)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "an unfinished blob could not be removed; it goes at the next start");
            }
            _ => {}
        }
    }
}

fn has_no_links(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), Unsupported | PermissionDenied | TooManyLinks | CrossesDevices)
}

/// Makes a name that was just given durable; if that fails, the name goes again.
fn sync_named(root: &Path, path: &Path) -> io::Result<()> {
    sync_folders(root, path).inspect_err(|_| drop(fs::remove_file(path)))
}

/// Syncs the folders from that of `path` up to the root: another may have made them a moment ago and not synced them.
fn sync_folders(root: &Path, path: &Path) -> io::Result<()> {
    for folder in path.ancestors().skip(1) {
        fs::File::open(folder)?.sync_all()?;
        if folder == root {
            break;
        }
    }
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_folder)
}

/// Makes a folder and those above it, and syncs each new name.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    make_parent(folder)?;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_parent(folder),
    }
}

fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for leftover in fs::read_dir(folder)? {
        let path = leftover?.path();
        let Ok(file) = fs::File::open(&path) else { continue };
        if !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn entry(key: BlobKey, path: &Path) -> io::Result<BlobEntry> {
    let metadata = fs::metadata(path)?;
    Ok(BlobEntry { key, size: metadata.len(), modified: metadata.modified()?.into() })
}

/// In the order of shards, then of names; a page reads only the shards it takes from.
fn list(folder: &Path, prefix: BlobPrefix, after: Option<&BlobKey>, limit: usize) -> io::Result<Vec<BlobEntry>> {
    let mut found = Vec::new();
    let begun = |shard: &&String| after.is_none_or(|after| shard.as_str() >= after.shard());
    for shard in names(folder)?.iter().filter(|name| key::is_shard(name)).filter(begun) {
        let shard_folder = folder.join(shard);
        for name in names(&shard_folder)?.into_iter().filter(|name| key::is_name(name)) {
            if found.len() >= limit {
                return Ok(found);
            }
            if after.is_some_and(|after| shard == after.shard() && name.as_str() <= after.name()) {
                continue;
            }
            let Ok(key) = BlobKey::parse(&format!("{}/{name}", prefix.as_str())) else { continue };
            match entry(key, &shard_folder.join(&name)) {
                Ok(entry) => found.push(entry),
                // Deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => {
            for entry in entries? {
                names.extend(entry?.file_name().into_string());
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
