//! Copies of the log of an embedded installation, taken while it is written to, and put back.
//!
//! Invariants
//! - A copy is the log at one moment, with everything beside it that cannot be made from it. Read models are not in
//!   it: they are grown from the log again.
//! - The keys are in a file of their own, and of that only the newest is kept: once a person's key is destroyed, what
//!   every older copy of the log says about that person is sealed for ever.
//! - A file has its name once it is whole and on disk.
//! - What is put back is another history than the one that went on: its incarnation is a new one.
//!
//! PostgreSQL has its own tools for this.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oriel_kernel::{Position, Timestamp};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection};
use uuid::Uuid;

/// The tables that are in the file of the keys.
const KEYS: [&str; 4] = ["master_keys", "master_key_envelopes", "data_keys", "secrets"];
/// What is said only of read models and of this history.
const LEFT_OUT: [&str; 2] = ["read_models", "changes"];
/// Stands in the name of a table that a rebuild fills beside another.
const BESIDE: &str = "__";

/// A copy of the log, or what was put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Its last event.
    pub position: Position,
    /// When that was decided; `None` in an empty log.
    pub at: Option<Timestamp>,
}

/// Why nothing was copied, or put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database, or a copy of it.
    #[error("{}: {source}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
}

/// Copies the log of `database`, which may be in use, without these read models.
///
/// # Errors
/// See [`BackupError`]; then `target` does not exist.
pub async fn copy_log(database: &Path, target: &Path, read_models: &[&str]) -> Result<Copied, BackupError> {
    let keep = |table: &str| !read_models.contains(&table) && !LEFT_OUT.contains(&table) && !KEYS.contains(&table);
    let unfinished = copy(database, target, |table| !table.contains(BESIDE), keep).await?;
    let copied = at_its_end(&unfinished).await?;
    publish(&unfinished, target)?;
    Ok(copied)
}

/// Copies the keys of `database` in the place of those that were copied before.
///
/// # Errors
/// See [`BackupError`]; then `target` is what it was.
pub async fn copy_keys(database: &Path, target: &Path) -> Result<(), BackupError> {
    let keys = |table: &str| KEYS.contains(&table);
    let unfinished = copy(database, target, keys, keys).await?;
    publish(&unfinished, target)
}

/// Makes a database of a copied log and the keys. `incarnation` names the history that begins there.
///
/// # Errors
/// See [`BackupError`]; then `database` does not exist.
pub async fn put_back(log: &Path, keys: &Path, database: &Path, incarnation: Uuid) -> Result<Copied, BackupError> {
    let unfinished = copy(log, database, |_| true, |_| true).await?;
    let failed = |source| BackupError::Database { path: keys.to_owned(), source };
    let mut connection = open(&unfinished).await?;
    attach(&mut connection, keys).await?;
    for table in KEYS {
        fill(&mut connection, table).await.map_err(failed)?;
    }
    let sql = "UPDATE installation SET incarnation = ?1";
    sqlx::query(sql).bind(incarnation).execute(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    let copied = at_its_end(&unfinished).await?;
    publish(&unfinished, database)?;
    Ok(copied)
}

/// The tables of `source` that are wanted, and the rows of those that are to be filled, as they are at one moment. Gives
/// the file, which does not have its name yet.
async fn copy(
    source: &Path,
    target: &Path,
    wanted: impl Fn(&str) -> bool,
    filled: impl Fn(&str) -> bool,
) -> Result<PathBuf, BackupError> {
    let unfinished = beside(target);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(&unfinished)(error)),
        _ => {}
    }
    // Attaching a file that is not there would make one.
    fs::File::open(source).map_err(file(source))?;
    let failed = |error| BackupError::Database { path: source.to_owned(), source: error };
    let mut connection = open(&unfinished).await?;
    attach(&mut connection, source).await?;
    let mut transaction = connection.begin().await.map_err(failed)?;
    let sql = "SELECT type, tbl_name, sql FROM source.sqlite_master \
               WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY type DESC, name";
    let rows = sqlx::query(sql).fetch_all(&mut *transaction).await.map_err(failed)?;
    let mut indexes = Vec::new();
    for row in rows {
        let text = |column: usize| row.try_get::<String, _>(column).map_err(failed);
        let (kind, table, sql) = (text(0)?, text(1)?, text(2)?);
        if !wanted(&table) {
            continue;
        }
        if kind != "table" {
            indexes.push(sql);
            continue;
        }
        define(&mut transaction, sql).await.map_err(failed)?;
        if filled(&table) {
            fill(&mut transaction, &table).await.map_err(failed)?;
        }
    }
    // Cheaper once the rows are there.
    for index in indexes {
        define(&mut transaction, index).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok(unfinished)
}

async fn open(path: &Path) -> Result<SqliteConnection, BackupError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full);
    options.connect().await.map_err(|source| BackupError::Database { path: path.to_owned(), source })
}

async fn attach(connection: &mut SqliteConnection, path: &Path) -> Result<(), BackupError> {
    let name = path.to_str().ok_or_else(|| file(path)(io::Error::other("SQLite needs a name in UTF-8")))?;
    let attached = sqlx::query("ATTACH ?1 AS source").bind(name).execute(connection).await;
    attached.map(drop).map_err(|source| BackupError::Database { path: path.to_owned(), source })
}

/// Makes a table or an index as a database of ours defines it.
async fn define(connection: &mut SqliteConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// Copies the rows of a table from the attached database.
async fn fill(connection: &mut SqliteConnection, table: &str) -> Result<(), sqlx::Error> {
    let sql = format!("INSERT INTO main.\"{table}\" SELECT * FROM source.\"{table}\"");
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

async fn at_its_end(path: &Path) -> Result<Copied, BackupError> {
    let failed = |source| BackupError::Database { path: path.to_owned(), source };
    let mut connection = open(path).await?;
    let sql = "SELECT position, at FROM events ORDER BY position DESC LIMIT 1";
    let last = sqlx::query_as(sql).fetch_optional(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    let copied = |(position, at)| Copied { position: Position::new(position), at: Some(at) };
    Ok(last.map_or(Copied { position: Position::START, at: None }, copied))
}

/// The name of a file until it is whole.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    target.with_file_name(name)
}

fn publish(unfinished: &Path, target: &Path) -> Result<(), BackupError> {
    fs::rename(unfinished, target).map_err(file(target))?;
    let folder = target.parent().unwrap_or(target);
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(file(folder))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    move |source| BackupError::File { path: path.to_owned(), source }
}
