//! `oriel backup` and `oriel restore`, for an installation of which everything is in its data folder.
//!
//! A backup folder holds one file of the log for each backup, and once for all of them the newest keys and the blobs:
//!
//! ```text
//! logs/20261121T080000000Z.sqlite    the log at that moment, personal data sealed
//! keys.sqlite                     the newest keys, wrapped by the master key
//! blobs/files/.. blobs/texts/..   what documents are made of, each blob once
//! ```
//!
//! Invariants: the log is copied before the blobs that it names, and these were copied a first time before it: what
//! is purged meanwhile is there, and what is uploaded meanwhile as well. The master key is not in it. Who was erased
//! stays erased in every older log, for the keys are the newest.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use oriel_backends::blobs::{FILES, TEXTS};
use oriel_engine::backup::{self, BackupError, Copied};
use oriel_engine::db::Location;
use oriel_engine::{Sources, SystemSources};
use walkdir::WalkDir;

use crate::installation::{self, Installation, InstallationError};
use crate::master_keys::FILE;
use crate::settings::{MasterKeyAt, Settings};

/// How a backup is named: by when it was begun, in UTC.
const NAME: &str = "%Y%m%dT%H%M%S%3fZ";
const LOGS: &str = "logs";
const BLOBS: &str = "blobs";
const KEYS: &str = "keys.sqlite";
const SUFFIX: &str = "sqlite";

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "{0} is not in the data folder: back it up with its own tools (README, \"Backup and restore\"); `oriel backup` and `oriel restore` are for an installation without database_url and blobs_url"
    )]
    Elsewhere(&'static str),
    #[error("there is no installation in {}; name its folder with --data", .0.display())]
    NoInstallation(PathBuf),
    #[error("another backup is written to {} at the moment", .0.display())]
    Busy(PathBuf),
    #[error(
        "there is no file in {}, but there are some in the backup: is a disk not mounted? If all were purged, remove {} and try again", .0.display(), .1.display()
    )]
    Empty(PathBuf, PathBuf),
    #[error("there is no backup {name} in {}; there are: {there}", folder.display())]
    NoBackup { folder: PathBuf, name: String, there: String },
    #[error("{} holds an installation already; name an empty folder with --data", .0.display())]
    Occupied(PathBuf),
    #[error(
        "the master key is missing: put the file master.key of the installation into {}, or set ORIEL_MASTER_KEY", .0.display()
    )]
    NoMasterKey(PathBuf),
    #[error("the log that was restored is damaged at position {0}; restore another backup")]
    Damaged(i64),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Copy(#[from] BackupError),
    #[error(transparent)]
    Open(#[from] InstallationError),
    #[error("the log cannot be read: {0}")]
    Read(#[from] oriel_engine::log::LogError),
}

/// What was done with blobs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Mirrored {
    there: u64,
    copied: u64,
    bytes: u64,
    removed: u64,
}

/// `oriel backup`: a new backup in this folder, of which at most `keep` stay.
pub async fn back_up(settings: &Settings, folder: &Path, keep: usize) -> ExitCode {
    let begun = Instant::now();
    say(back_up_into(settings, folder, keep).await.map(|(name, log, blobs)| {
        format!(
            "Backup {name} to {}: the log up to position {}, {} blobs ({} new, {} MB; {} removed), in {:.1} s.\n\
             The master key is not in it; keep {} too, somewhere else.",
            folder.display(),
            log.position,
            blobs.there,
            blobs.copied,
            blobs.bytes / 1_000_000,
            blobs.removed,
            begun.elapsed().as_secs_f64(),
            match &settings.master_key {
                MasterKeyAt::File => settings.data.join(FILE).display().to_string(),
                MasterKeyAt::Given(_) => "ORIEL_MASTER_KEY".to_owned(),
                MasterKeyAt::Kms(key) => format!("the key of the KMS ({key})"),
            },
        )
    }))
}

/// `oriel restore`: a backup of this folder, the newest without a name, in an empty data folder.
pub async fn restore(settings: &Settings, folder: &Path, name: Option<&str>) -> ExitCode {
    let begun = Instant::now();
    say(restore_from(settings, folder, name).await.map(|(name, log, blobs)| {
        let until = log.at.map(|at| format!(", the last event of {at}")).unwrap_or_default();
        format!(
            "Restored {name} to {}: the log up to position {}{until}, {} blobs, in {:.1} s. The log is whole and the read \
             models are made; the search index is made when the server starts.",
            settings.data.display(),
            log.position,
            blobs.copied,
            begun.elapsed().as_secs_f64(),
        )
    }))
}

fn say(outcome: Result<String, Failure>) -> ExitCode {
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("oriel: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn back_up_into(settings: &Settings, folder: &Path, keep: usize) -> Result<(String, Copied, Mirrored), Failure> {
    let database = database(settings)?;
    if !database.exists() {
        return Err(Failure::NoInstallation(settings.data.clone()));
    }
    let logs = folder.join(LOGS);
    make_folder(&logs)?;
    let _lock = lock(folder)?;
    let (from, to) = (settings.data.join(BLOBS), folder.join(BLOBS));
    make_folder(&to)?;
    let before = copy_blobs(&from, &to).await?;
    if before.there == 0 && names(&to)?.next().is_some() {
        return Err(Failure::Empty(from, to));
    }
    let name = SystemSources.now().format(NAME).to_string();
    let read_models = oriel_read_models::read_models();
    let read_models: Vec<&str> = read_models.iter().map(|read_model| read_model.table()).collect();
    let log = backup::copy_log(&database, &logs.join(&name).with_extension(SUFFIX), &read_models).await?;
    backup::copy_keys(&database, &folder.join(KEYS)).await?;
    let after = copy_blobs(&from, &to).await?;
    let removed = remove_blobs(&from, &to).await?;
    let mut there = backups(folder)?;
    let superfluous = there.len().saturating_sub(keep);
    for old in there.drain(..superfluous) {
        let path = logs.join(old).with_extension(SUFFIX);
        fs::remove_file(&path).map_err(file(&path))?;
    }
    let (copied, bytes) = (before.copied + after.copied, before.bytes + after.bytes);
    Ok((name, log, Mirrored { there: after.there, copied, bytes, removed }))
}

async fn restore_from(
    settings: &Settings,
    folder: &Path,
    name: Option<&str>,
) -> Result<(String, Copied, Mirrored), Failure> {
    let database = database(settings)?;
    let mut there = backups(folder)?;
    let found = match name {
        Some(name) => there.iter().find(|there| *there == name).cloned(),
        None => there.pop(),
    };
    let Some(name) = found else {
        let (name, there) = (name.unwrap_or("at all").to_owned(), there.join(", "));
        return Err(Failure::NoBackup { folder: folder.to_owned(), name, there });
    };
    if database.exists() {
        return Err(Failure::Occupied(settings.data.clone()));
    }
    if settings.master_key == MasterKeyAt::File && !settings.data.join(FILE).exists() {
        return Err(Failure::NoMasterKey(settings.data.clone()));
    }
    make_folder(&settings.data)?;
    let blobs = copy_blobs(&folder.join(BLOBS), &settings.data.join(BLOBS)).await?;
    let log = folder.join(LOGS).join(&name).with_extension(SUFFIX);
    // The database last: while it is not there, the folder is not an installation and the same can be done again.
    let copied = backup::put_back(&log, &folder.join(KEYS), &database, SystemSources.id()).await?;
    let installation = Installation::open(settings).await?;
    let damaged = installation.engine.log().verify().await?;
    installation.engine.stop().await;
    installation.engine.database().clone().close().await;
    match damaged {
        Some(position) => Err(Failure::Damaged(position.number())),
        None => Ok((name, copied, blobs)),
    }
}

/// Where the database is, when everything is in the data folder.
fn database(settings: &Settings) -> Result<PathBuf, Failure> {
    if settings.blobs_url.is_some() {
        return Err(Failure::Elsewhere("what blobs_url names"));
    }
    match installation::location(settings)? {
        Location::Sqlite(path) => Ok(path),
        Location::Postgres(_) => Err(Failure::Elsewhere("what database_url names")),
    }
}

/// The backups that are there, the oldest first.
fn backups(folder: &Path) -> Result<Vec<String>, Failure> {
    let logs = folder.join(LOGS);
    let mut names = Vec::new();
    for entry in fs::read_dir(&logs).map_err(file(&logs))? {
        let path = entry.map_err(file(&logs))?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX)
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Copies the blobs that are missing in `to`.
async fn copy_blobs(from: &Path, to: &Path) -> Result<Mirrored, Failure> {
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking(move || {
        let mut mirrored = Mirrored::default();
        let mut folders = HashSet::new();
        for name in names(&from)? {
            let name = name?;
            // Left by a backup that was killed.
            if name.extension().is_some() {
                continue;
            }
            mirrored.there += 1;
            let (source, target) = (from.join(&name), to.join(&name));
            if target.try_exists().map_err(file(&target))? {
                continue;
            }
            let Some(folder) = target.parent() else { continue };
            make_folder(folder)?;
            let unfinished = target.with_extension("unfinished");
            match fs::copy(&source, &unfinished) {
                // Purged since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                copied => mirrored.bytes += copied.map_err(file(&source))?,
            }
            let published = File::open(&unfinished).and_then(|file| file.sync_all());
            published.and_then(|()| fs::rename(&unfinished, &target)).map_err(file(&target))?;
            folders.insert(folder.to_owned());
            mirrored.copied += 1;
        }
        for folder in folders {
            File::open(&folder).and_then(|open| open.sync_all()).map_err(file(&folder))?;
        }
        Ok(mirrored)
    })
    .await
}

/// Removes from `to` the blobs that are not in `from` any more: purged and erased is so in backups too.
async fn remove_blobs(from: &Path, to: &Path) -> Result<u64, Failure> {
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking(move || {
        let mut removed = 0;
        for name in names(&to)? {
            let name = name?;
            let (source, path) = (from.join(&name), to.join(&name));
            if !source.try_exists().map_err(file(&source))? {
                fs::remove_file(&path).map_err(file(&path))?;
                removed += 1;
            }
        }
        Ok(removed)
    })
    .await
}

/// The names of all blobs that documents are made of, below this folder, which has to be there: where a disk is not
/// mounted, nothing is not all that there is.
fn names(folder: &Path) -> Result<impl Iterator<Item = Result<PathBuf, Failure>> + use<>, Failure> {
    fs::read_dir(folder).map_err(file(folder))?;
    let root = folder.to_owned();
    let below = [FILES, TEXTS].map(|prefix| WalkDir::new(folder.join(prefix.as_str())));
    Ok(below.into_iter().flatten().filter_map(move |entry| match entry {
        Ok(entry) if entry.file_type().is_file() => entry.path().strip_prefix(&root).ok().map(|name| Ok(name.into())),
        Ok(_) => None,
        // Of a kind of which there is none yet.
        Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => None,
        Err(error) => Some(Err(Failure::File { path: root.clone(), source: error.into() })),
    }))
}

/// Held as long as a backup is written.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let opened = opened.map_err(file(&path))?;
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(Failure::Busy(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(Failure::File { path, source }),
    }
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file(path))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::File { path: path.to_owned(), source }
}
