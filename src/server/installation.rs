//! An installation opened: the data folder with its lock, the keys, the database, the engine and the backends.
//!
//! Here, and nowhere else, each backend is chosen: embedded when nothing is set, production when a URL is. One process
//! owns the data folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::{Blobs, UrlKeys};
use oriel_backends::identity::IdentityProviders;
use oriel_backends::mail::Mail;
use oriel_backends::redis::{InvalidRedisUrl, Redis};
use oriel_backends::scanner::{InvalidScannerUrl, Scanner};
use oriel_backends::search::{Meilisearch, Search, SearchError, Tantivy};
use oriel_engine::db::{Connections, Location, OpenError};
use oriel_engine::keyring::KeyError;
use oriel_engine::queue::QueueLimits;
use oriel_engine::{Database, Engine, Parts, StartError, SystemSources};
use oriel_kernel::Blinder;
use oriel_kernel::OrganizationId;
use oriel_migrations::{MigrateError, Migrated, ReportError};
use tokio::time::{Instant, sleep};

use crate::master_keys::master_keys;
use crate::settings::Settings;

/// How long the folder may still be held: a child that a killed server was about to start has its lock for a moment.
const HELD_FOR: Duration = Duration::from_secs(2);

/// An installation that this process works on.
pub struct Installation {
    /// The log and what moves along it.
    pub engine: Arc<Engine>,
    /// Files.
    pub blobs: Blobs,
    /// The search index.
    pub search: Search,
    /// Who looks for viruses; `None`: nobody does.
    pub scanner: Option<Scanner>,
    /// Where letters go.
    pub mail: Mail,
    /// Servers of organisations that say who somebody is.
    pub identity: IdentityProviders,
    /// What the nodes share for a moment.
    pub redis: Option<Arc<Redis>>,
    /// Held as long as the process works on the folder.
    _lock: File,
}

/// Why an installation cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The data folder.
    #[error("the data folder {}: {source}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody else has it.
    #[error("another process works on {} already; stop it, or name another folder with --data", .0.display())]
    Locked(PathBuf),
    /// A setting for something that this release does not have.
    #[error("{0}")]
    NotHere(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// A migration.
    #[error("the database cannot be migrated: {0}")]
    Migrate(#[from] MigrateError),
    /// A role for reports.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The blob store.
    #[error(transparent)]
    Blobs(#[from] oriel_backends::blobs::OpenError),
    /// The index.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// Mail.
    #[error(transparent)]
    Mail(#[from] oriel_backends::mail::OpenError),
    /// The scanner.
    #[error(transparent)]
    Scanner(#[from] InvalidScannerUrl),
    /// What asks identity providers.
    #[error("identity providers cannot be asked: {0}")]
    Identity(#[from] oriel_backends::identity::SetUpError),
    /// What the nodes share.
    #[error(transparent)]
    Redis(#[from] InvalidRedisUrl),
}

impl Installation {
    /// Opens everything, migrated.
    ///
    /// # Errors
    /// See [`InstallationError`]; each says what to do.
    pub async fn open(settings: &Settings) -> Result<Self, InstallationError> {
        let lock = lock(&settings.data).await?;
        // What works in the background reads through the same connections, and has its usual time.
        let connections = Connections {
            most: settings.database_max_connections,
            acquire: settings.database_acquire_timeout,
            reading: settings.request_timeout.max(settings.database_read_timeout),
            writing: settings.database_write_timeout,
        };
        let database = Database::open_with(&location(settings)?, connections).await?;
        let replicas: Vec<&str> = settings.database_replica_url.iter().map(|url| url.expose()).collect();
        let database = database.with_replicas(&replicas, connections)?;
        brought_up(&database).await?;
        let master = master_keys(settings, &database).map_err(KeyError::from)?;
        let parts = Parts {
            database,
            master,
            decoders: oriel_domain::DECODERS,
            read_models: oriel_read_models::read_models(),
            sources: Arc::new(SystemSources),
            limits: QueueLimits {
                count: settings.commit_queue_count,
                bytes: usize::try_from(settings.commit_queue_bytes).unwrap_or(usize::MAX),
                age: settings.commit_queue_age,
                ..QueueLimits::default()
            },
            cached_aggregates: 20_000,
            remembered_changes: 200_000,
        };
        let engine = Engine::start(parts).await?;
        let secret = engine.keyring().secret("urls", engine.now()).await?;
        let keys = UrlKeys::new("1", &secret);
        let url = settings.blobs_url.as_ref().map(|url| url.expose());
        let blobs = Blobs::open(url, &settings.data.join("blobs"), keys).await?;
        let search = search(settings).await?;
        let url = settings.mail_url.as_ref().map(|url| url.expose());
        let mail = Mail::open(url, &settings.data.join("outbox"), &settings.mail_from)?;
        let scanner = settings.scanner_url.as_ref().map(|url| Scanner::open(url.expose(), settings.scanner_max_size));
        let scanner = scanner.transpose()?;
        let redis = settings.redis_url.as_ref().map(|url| Redis::open(url.expose(), &namespace(&engine)));
        let redis = redis.transpose()?.map(Arc::new);
        let networks = settings.identity_networks.clone();
        let may = move |ip| networks.iter().any(|network| network.contains(ip));
        let identity = IdentityProviders::new(Arc::new(may))?;
        Ok(Self { engine, blobs, search, scanner, mail, identity, redis, _lock: lock })
    }
}

/// What keeps an installation apart from others that share a Redis. It stays as it is over a restore and a promotion:
/// the word that there are changes is no more than a word, and answers name the incarnation that they are of.
pub fn namespace(engine: &Engine) -> String {
    format!("oriel:{}", engine.keyring().blind("redis", "namespace"))
}

/// Only the migrations, and what a role for reports may read: its name, and the organisation that it reports on.
///
/// # Errors
/// See [`InstallationError`].
pub async fn migrate(settings: &Settings, report: Option<(&str, &str)>) -> Result<usize, InstallationError> {
    let _lock = if settings.is_postgres() { None } else { Some(lock(&settings.data).await?) };
    let database = Database::open(&location(settings)?, settings.database_max_connections).await?;
    let applied = brought_up(&database).await?;
    if let Some((role, organization)) = report {
        let id = OrganizationId::parse_or_absent(organization);
        if id.is_absent() {
            return Err(InstallationError::NotHere(format!("{organization} is no id of an organization: org_...")));
        }
        oriel_migrations::report(database.writer(), role, id.uuid()).await?;
    }
    database.close().await;
    Ok(applied)
}

/// Migrated, or found to be workable as it is.
async fn brought_up(database: &Database) -> Result<usize, MigrateError> {
    let Migrated { applied, unknown } = oriel_migrations::migrate(database.writer()).await?;
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        tracing::info!(%unknown, "a newer release has migrated the database, and only added to it: this one works on");
    }
    Ok(applied)
}

/// Where the database is.
///
/// # Errors
/// For a URL that names none of the two kinds.
pub fn location(settings: &Settings) -> Result<Location, InstallationError> {
    match &settings.database_url {
        None => Ok(Location::Sqlite(settings.data.join("oriel.sqlite"))),
        Some(url) => Location::parse(url.expose())
            .ok_or_else(|| InstallationError::NotHere("database_url begins with postgres:// or sqlite://".to_owned())),
    }
}

async fn search(settings: &Settings) -> Result<Search, InstallationError> {
    if let Some(url) = &settings.search_url {
        let key = settings.search_key.as_ref().map(|key| key.expose().as_str());
        return Ok(Search::Meilisearch(Meilisearch::open(url.expose(), key, "oriel").await?));
    }
    let folder = settings.data.join("index");
    match Tantivy::open(&folder).await {
        Ok(index) => Ok(Search::Tantivy(index)),
        Err(error) if error.needs_rebuild() => {
            tracing::warn!(%error, "the search index is made anew from the log");
            Ok(Search::Tantivy(Tantivy::recreate(&folder).await?))
        }
        Err(error) => Err(error.into()),
    }
}

async fn lock(folder: &Path) -> Result<File, InstallationError> {
    let wrong = |source| InstallationError::Folder { folder: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(wrong)?;
    restrict(folder, 0o700).map_err(wrong)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(wrong)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < HELD_FOR => sleep(HELD_FOR / 50).await,
            Err(TryLockError::WouldBlock) => return Err(InstallationError::Locked(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(wrong(source)),
        }
    }
}

/// Lets only whom the mode says have it.
#[cfg(unix)]
pub(crate) fn restrict(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Files are their owner's as the system has it.
#[cfg(not(unix))]
pub(crate) fn restrict(_: &Path, _: u32) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::settings::{Flag, Sources, load};

    fn settings(folder: &Path) -> Settings {
        let flag = Flag { flag: "--data", key: "data".to_owned(), value: folder.display().to_string() };
        load(&Sources { flags: vec![flag], ..Sources::default() }).unwrap().settings
    }

    #[tokio::test]
    async fn one_process_owns_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let first = Installation::open(&settings).await.unwrap();
        let second = Installation::open(&settings).await;
        assert!(matches!(second, Err(InstallationError::Locked(_))));
        first.engine.stop().await;
    }

    #[tokio::test]
    async fn what_a_killed_one_left_holds_the_folder_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).await.unwrap();
        let mut next = Box::pin(lock(folder.path()));
        assert!(futures::poll!(&mut next).is_pending(), "it is held");
        drop(held);
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn a_damaged_key_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("master.key"), "nonsense").unwrap();
        let opened = Installation::open(&settings(folder.path())).await;
        assert!(opened.err().unwrap().to_string().contains("does not hold 32 bytes in base64"));
        assert_eq!(std::fs::read_to_string(folder.path().join("master.key")).unwrap(), "nonsense");
    }
}
