//! `oriel doctor`: what holds here, in sentences that say what to do.

use std::process::ExitCode;

use oriel_backends::extraction::{Input, Limits, extract};
use oriel_engine::{Database, Sources, StartError, SystemSources};

use crate::installation::{Installation, InstallationError, location};
use crate::master_keys::{FILE, kms};
use crate::serve::reader_of_documents;
use crate::settings::{MasterKeyAt, Settings};

/// Checks everything that can be checked from here; the exit code is 1 when something has to be mended.
pub async fn run(settings: &Settings) -> ExitCode {
    let mut ill = 0;
    let mut say = |name: &str, result: Result<String, String>| match result {
        Ok(text) => println!("ok       {name:<12} {text}"),
        Err(text) => {
            ill += 1;
            println!("MEND     {name:<12} {text}");
        }
    };
    say(
        "listener",
        Ok(format!(
            "{} ({})",
            settings.listen,
            if settings.is_loopback() { "this machine only" } else { "reachable from others" }
        )),
    );
    if let Some(files) = settings.tls() {
        say("tls", files.examine(SystemSources.now()).await);
    }
    say("key", master_key(settings).await);
    match Installation::open(settings).await {
        Ok(installation) => {
            say("database", Ok(format!("open, migrated, at position {}", installation.engine.feed().head())));
            say("read models", read_models(&installation).await);
            if settings.is_postgres() {
                say("tenants", walls(&installation).await);
            }
            say(
                "blobs",
                installation
                    .blobs
                    .check()
                    .await
                    .map(|()| "answer and can be written".to_owned())
                    .map_err(|e| e.to_string()),
            );
            say(
                "search",
                match installation.search.checkpoint().await {
                    Ok(Some(at)) => Ok(format!("{} at position {}", installation.search.name(), at.position)),
                    Ok(None) => {
                        Ok(format!("{} is empty and follows the log from its beginning", installation.search.name()))
                    }
                    Err(error) => Err(error.to_string()),
                },
            );
            if let Some(scanner) = &installation.scanner {
                say("scanner", scanner.check().await.map(|()| "answers".to_owned()).map_err(|e| e.to_string()));
            }
            installation.engine.stop().await;
        }
        Err(InstallationError::Locked(_)) => {
            say("database", Ok("a server works on this folder; ask it with --url".to_owned()));
        }
        Err(InstallationError::Engine(StartError::Key(error))) => say("key", Err(error.to_string())),
        Err(error) => say("database", Err(error.to_string())),
    }
    say("durability", match location(settings) {
        Ok(oriel_engine::db::Location::Sqlite(_)) => Ok("SQLite, WAL, synchronous=FULL: what is acknowledged survives a killed process and a power cut; not the loss of the disk".to_owned()),
        Ok(postgres) => match Database::open(&postgres, 2).await {
            Ok(database) => {
                database.close().await;
                Ok("PostgreSQL with fsync, full_page_writes and synchronous_commit on; over the loss of the machine only with synchronous replication".to_owned())
            }
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    });
    say("reading", child().await);
    if ill == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where the master key is; whether it can be had is seen when the installation is opened.
async fn master_key(settings: &Settings) -> Result<String, String> {
    match &settings.master_key {
        MasterKeyAt::Given(_) => Ok("the master key comes from the settings".to_owned()),
        MasterKeyAt::Kms(key) => {
            let kms = kms(key).map_err(|error| error.to_string())?;
            let by = kms.check().await.map_err(|error| error.to_string())?;
            Ok(format!("the master key is in the database, sealed by {by}; the KMS makes keys and opens them"))
        }
        MasterKeyAt::File => Ok(format!(
            "the master key is the file {}; back it up: without it nothing that is sealed can be read",
            settings.data.join(FILE).display()
        )),
    }
}

/// Whether the database keeps the organisations apart too.
async fn walls(installation: &Installation) -> Result<String, String> {
    let database = installation.engine.database();
    if let Some(role) = database.exempt_role().await.map_err(|error| error.to_string())? {
        return Err(format!("{}. {EXEMPT_IS_MENDED}", exempt(&role)));
    }
    let mut said = "row-level security stands behind Oriel's own wall between organizations".to_owned();
    if !database.finds_words_by_index().await.map_err(|error| error.to_string())? {
        said += "; filters by tags look through the documents of an organization until a superuser runs, once and in \
                 this database, ALTER FUNCTION jsonb_contains(jsonb, jsonb) LEAKPROOF";
    }
    Ok(said)
}

/// That this role is exempt from row-level security.
pub(crate) fn exempt(role: &str) -> String {
    format!("the role {role} is a superuser or has BYPASSRLS: row-level security does not apply to it")
}

/// What is to be done about it.
pub(crate) const EXEMPT_IS_MENDED: &str =
    "Connect as a plain role that owns the database: ALTER ROLE ... NOSUPERUSER NOBYPASSRLS, or another one";

/// Whether every read model is whole, and whether a rebuild was left unfinished.
async fn read_models(installation: &Installation) -> Result<String, String> {
    let states = installation.engine.read_model_states().await.map_err(|error| error.to_string())?;
    let (next, running): (Vec<_>, Vec<_>) = states.into_iter().partition(|state| state.state == "catching_up");
    let mut said = format!("{} are at the end of the log", running.len());
    for state in next {
        let (name, at) = (state.name, state.position);
        said += &format!(
            "; a rebuild of {name} ended at position {at}: `oriel read-models rebuild {name}` goes on with it"
        );
    }
    Ok(said)
}

/// Whether documents can be read in the limited child process.
async fn child() -> Result<String, String> {
    let program = reader_of_documents().map_err(|e| format!("this program cannot start itself: {e}"))?;
    let input = Input::Stream(Box::pin(std::io::Cursor::new(b"Is anybody there?".to_vec())));
    match extract(&program, input, "text/plain", &Limits::default()).await {
        Ok(read) if read.text.contains("anybody") => {
            Ok("documents are read in a limited process of their own".to_owned())
        }
        Ok(_) => Err("the process that reads documents gives another text back".to_owned()),
        Err(failure) => Err(failure.reason()),
    }
}
