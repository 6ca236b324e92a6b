//! The command line: what can be asked of the program `oriel`, with its help.
//!
//! Invariants: every setting can be given with `--set`; a token or a secret never has to stand on the command line.
//! Nothing here does anything: it is parsed here and carried out elsewhere.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::{Flag, Sources};

/// One GraphQL endpoint over an event log.
#[derive(Debug, Parser)]
#[command(
    name = "oriel",
    version,
    about = "Oriel: one GraphQL endpoint over an event log",
    after_help = "Examples:\n  \
        oriel serve                                     run on the folder ./oriel-data, on 127.0.0.1:8080\n  \
        oriel serve --demo                              the same, with an organisation to look at\n  \
        oriel config > oriel.toml                       every setting, with its default\n  \
        ORIEL_TOKEN=... oriel import ./papers --project DOCS",
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Cli {
    /// What is asked.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Upload a folder to a running server, each file once
    Import(ImportArgs),
    /// Print the GraphQL schema (SDL)
    Schema,
    /// Bring the database up to this version, then stop
    Migrate(MigrateArgs),
    /// List, rebuild or verify read models and the search index through a running server
    ReadModels(ReadModelsArgs),
    /// Publish the operations of a client, or list those that are published
    Operations(OperationsArgs),
    /// List the keys of a running installation, or let another master key take the place of the one in force
    Keys(KeysArgs),
    /// Write the log of an organization to a file, or check such a file
    Audit(AuditArgs),
    /// Copy the log, the keys and the blobs of a running or stopped installation to a folder
    Backup(BackupArgs),
    /// Make an installation of a backup
    Restore(RestoreArgs),
    /// Print every setting with its default, or the values in force
    Config(ConfigArgs),
    /// Check the settings and every backend, and say what holds here
    Doctor(DoctorArgs),
    /// Read one document from standard input (started by the server itself)
    #[command(hide = true)]
    Extract {
        /// Passed on as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Where settings come from, for commands that work on this machine's installation.
#[derive(Debug, Default, Clone, Args)]
pub struct SettingArgs {
    /// Read settings from this file [variable: ORIEL_CONFIG; else oriel.toml in the data folder]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Folder of everything embedded [default: ./oriel-data]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<String>,
    /// How browsers reach this installation
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Which log records are written [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// auto, json or text [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any setting; may be repeated. `oriel config` prints them all
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<Pair>,
}

/// A key and a value, from `--set`. It prints without the value.
#[derive(Clone)]
pub struct Pair(String, String);

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=...", self.0)
    }
}

fn pair(text: &str) -> Result<Pair, &'static str> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, for example max_depth=20")?;
    Ok(Pair(key.trim().to_owned(), value.to_owned()))
}

impl SettingArgs {
    /// These flags, beside an environment.
    pub fn sources(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Sources {
        let named = [
            ("--listen", "listen", &self.listen),
            ("--data", "data", &self.data),
            ("--base-url", "base_url", &self.base_url),
            ("--log-level", "log_level", &self.log_level),
            ("--log-format", "log_format", &self.log_format),
        ];
        let named = named
            .into_iter()
            .filter_map(|(flag, key, value)| Some(Flag { flag, key: key.to_owned(), value: value.clone()? }));
        let set =
            self.set.iter().map(|Pair(key, value)| Flag { flag: "--set", key: key.clone(), value: value.clone() });
        Sources {
            flags: named.chain(set).collect(),
            environment: environment.into_iter().collect(),
            config: self.config.clone(),
        }
    }
}

/// `oriel serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    oriel serve\n  \
    oriel serve --listen 0.0.0.0:8080 --config /etc/oriel.toml\n  \
    ORIEL_DATABASE_URL=postgres://oriel@db/oriel oriel serve --set max_page=200")]
pub struct ServeArgs {
    /// Make an organisation with documents to look at, when the installation is empty
    #[arg(long)]
    pub demo: bool,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// `oriel migrate`.
#[derive(Debug, Args)]
#[command(
    after_help = "`oriel serve` migrates by itself; nodes of this release and of the one before work on one database.\n\
    With --reporting-role a role of PostgreSQL can read the projects, documents, members and events of one organization,\n\
    and nothing else: no keys, no sessions, no passwords, no file. It is made where there is none; give it a password with\n\
    ALTER ROLE. Repeat it after a release that reports more.\n\n\
    Examples:\n  \
    oriel migrate\n  \
    oriel migrate --reporting-role acme_reports --organization org_01jd8y4ve0e8xv3q4kq7m6z5ts"
)]
pub struct MigrateArgs {
    /// Let this role of PostgreSQL read what is reported on an organization
    #[arg(long, value_name = "NAME", requires = "organization")]
    pub reporting_role: Option<String>,
    /// The organization that the role reports on
    #[arg(long, value_name = "ID", requires = "reporting_role")]
    pub organization: Option<String>,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// Which running server to talk to, and as whom.
#[derive(Clone, Args)]
pub struct ServerArgs {
    /// The running server
    #[arg(long, value_name = "URL", env = "ORIEL_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// An API key or access token; the variable keeps it from the eyes of others on this machine
    #[arg(long, value_name = "TOKEN", env = "ORIEL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

impl ServerArgs {
    /// The token, unless it is left empty.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref().filter(|token| !token.trim().is_empty())
    }
}

impl std::fmt::Debug for ServerArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerArgs").field("url", &self.url).finish_non_exhaustive()
    }
}

/// `oriel import`.
#[derive(Debug, Args)]
#[command(after_help = "Each file becomes a document whose file name is its path below FOLDER. A file that is there\n\
    already, same path and same content, is skipped: repeating an import adds nothing twice.\n\
    Symbolic links are not followed. Ctrl-C ends the import after the files being sent.\n\n\
    Examples:\n  \
    ORIEL_TOKEN=... oriel import ./papers --project DOCS\n  \
    oriel import ./papers --project DOCS --create-project Papers --jobs 16 --url https://docs.example.com\n\n\
    Exit code: 0 all there, 1 some files failed or nothing could be done, 130 interrupted")]
pub struct ImportArgs {
    /// The folder to read, with all folders in it
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// The key of the project that gets the documents
    #[arg(long, value_name = "KEY")]
    pub project: String,
    /// Create the project under this name when there is none with the key
    #[arg(long, value_name = "NAME")]
    pub create_project: Option<String>,
    /// Files sent at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Import also files and folders whose name begins with a dot
    #[arg(long)]
    pub hidden: bool,
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `oriel read-models`.
#[derive(Debug, Args)]
#[command(
    after_help = "What is made of the log alone can be made anew: the read models, and the search index as one more of\n\
    them, named search. A rebuild goes on beside the running one, and writes go on. Ctrl-C cancels it; however it\n\
    ends, the running one is whole.\n\n\
    Examples:\n  \
    oriel read-models list\n  \
    oriel read-models rebuild documents\n  \
    oriel read-models rebuild search\n  \
    oriel read-models verify\n\n\
    Exit code: 0 done and nothing differs, 1 something differs or nothing could be done, 130 interrupted"
)]
pub struct ReadModelsArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ReadModelsAction,
}

/// What can be done with read models.
#[derive(Debug, Subcommand)]
pub enum ReadModelsAction {
    /// Name, generation, state, position and lag of each
    List(ServerArgs),
    /// Fill a new generation from the log beside the running one, then switch
    Rebuild {
        /// The read model, or `search`
        name: String,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Replay the log and compare with what is there
    Verify {
        /// The read model; all when left out
        name: Option<String>,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// `oriel operations`.
#[derive(Debug, Args)]
#[command(after_help = "FILE is a manifest: that of Apollo (generate-persisted-query-manifest), of Relay\n\
    (persistConfig.file) or of the client preset of graphql-codegen (persisted-documents.json).\n\
    Each operation is checked against the schema and the limits. Publishing again adds nothing twice.\n\n\
    Examples:\n  \
    ORIEL_TOKEN=... oriel operations publish persisted-query-manifest.json\n  \
    oriel operations publish src/gql/persisted-documents.json --url https://docs.example.com\n  \
    oriel operations list\n\n\
    Exit code: 0 all are published, 1 some were refused or nothing could be done")]
pub struct OperationsArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: OperationsAction,
}

/// What can be done with persisted operations.
#[derive(Debug, Subcommand)]
pub enum OperationsAction {
    /// Publish every operation of a manifest
    Publish {
        /// The manifest
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Hash, kind, time and name of each
    List(ServerArgs),
}

/// `oriel keys`.
#[derive(Debug, Args)]
#[command(
    after_help = "The master key wraps the keys of persons and organizations, and the secrets of the installation.\n\
    In the data folder (master.key) `rotate` makes another one and removes the old one when nothing needs it. From the\n\
    settings: give every node the new one as ORIEL_MASTER_KEY and the old one as ORIEL_MASTER_KEY_PREVIOUS, restart\n\
    them, rotate, and take ORIEL_MASTER_KEY_PREVIOUS away. Everybody goes on reading and writing. A backup that was made\n\
    before needs the old one: make another.\n\n\
    Examples:\n  \
    ORIEL_TOKEN=... oriel keys list\n  \
    oriel keys rotate --url https://docs.example.com"
)]
pub struct KeysArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: KeysAction,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysAction {
    /// Ids, ages and counts of all keys; never a key
    List(ServerArgs),
    /// Let another master key wrap everything
    Rotate(ServerArgs),
}

/// `oriel audit`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each line of an exported file holds an event, what its link of the hash chain covers, and the\n\
    link. `verify` needs nothing but the file: no event is missing, none was changed. Compare the hash that it prints\n\
    with one that was kept elsewhere: it shows that nothing before it was replaced.\n\n\
    Examples:\n  \
    ORIEL_TOKEN=... oriel audit export audit.jsonl\n  \
    oriel audit verify audit.jsonl\n  \
    oriel audit export audit.csv --format csv --url https://docs.example.com\n  \
    ORIEL_TOKEN=... oriel audit export readings.jsonl --readings"
)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: AuditAction,
}

/// What can be done with the log of an organization.
#[derive(Debug, Subcommand)]
pub enum AuditAction {
    /// Write every event to a file, the first one first; or every reading of what is sensitive
    Export {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Lines that can be checked, or a table to look at
        #[arg(long, value_enum, default_value_t = AuditFormat::Jsonl)]
        format: AuditFormat,
        /// Write who has read what is sensitive, instead of what happened
        #[arg(long)]
        readings: bool,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Check an exported file of lines, without a server
    Verify {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditFormat {
    /// A JSON object on each line
    Jsonl,
    /// A table with a line of headings
    Csv,
}

/// `oriel backup`.
#[derive(Debug, Args)]
#[command(after_help = "FOLDER keeps several backups: a log for each, and once for all of them the newest keys and\n\
    the blobs. What was purged or erased is gone from all of them with the next backup. The master key is not in it.\n\
    The installation may be in use. Where it is in PostgreSQL or S3, use their own tools.\n\n\
    Examples:\n  \
    oriel backup /mnt/backup\n  \
    oriel backup /mnt/backup --data /var/lib/oriel --keep 48")]
pub struct BackupArgs {
    /// The folder of the backups; made when it is not there
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// How many backups stay; the oldest are removed
    #[arg(long, value_name = "NUMBER", default_value_t = 48, value_parser = clap::value_parser!(u16).range(1..))]
    pub keep: u16,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// `oriel restore`.
#[derive(Debug, Args)]
#[command(
    after_help = "The data folder must be empty, but for the file master.key when ORIEL_MASTER_KEY is not set.\n\
    The log is checked event by event, the read models are made from it, and the index is when the server starts.\n\
    What comes of it is another history, with an incarnation of its own.\n\n\
    Examples:\n  \
    oriel restore /mnt/backup --data /var/lib/oriel\n  \
    oriel restore /mnt/backup --backup 20261121T080000000Z --data ./looked-at"
)]
pub struct RestoreArgs {
    /// The folder of the backups
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Which of them, by its name [default: the newest]
    #[arg(long, value_name = "NAME")]
    pub backup: Option<String>,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// `oriel config`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  oriel config > oriel.toml\n  oriel config --effective")]
pub struct ConfigArgs {
    /// Print the values in force and where each came from; secrets are masked
    #[arg(long)]
    pub effective: bool,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// `oriel doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    oriel doctor                                 this machine's settings and backends\n  \
    oriel doctor --url http://127.0.0.1:8080     only whether that server is ready; exit code 0 or 1")]
pub struct DoctorArgs {
    /// Ask a running server whether it is ready, and do nothing else
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::settings;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_settings() {
        let Command::Serve(serve) =
            parse("oriel serve --demo --listen 127.0.0.1:9 --set max_depth=20 --set base_url=").unwrap()
        else {
            panic!("not serve");
        };
        assert!(serve.demo);
        let settings = settings::load(&serve.settings.sources([])).unwrap().settings;
        assert_eq!(settings.listen.port(), 9);
        assert_eq!(settings.max_depth, 20);
    }

    #[test]
    fn every_named_flag_is_a_setting() {
        let flags = "--listen 127.0.0.1:1 --data d --base-url http://x --log-level warn --log-format json";
        let Command::Config(config) = parse(&format!("oriel config {flags}")).unwrap() else { panic!("not config") };
        let loaded = settings::load(&config.settings.sources([])).unwrap();
        let given = loaded.chosen.iter().filter(|chosen| chosen.origin != settings::Origin::Default).count();
        assert_eq!(given, 5);
    }

    #[test]
    fn neither_token_nor_set_value_is_printed() {
        let line = "oriel import f --project DOCS --token hunter2";
        assert!(!format!("{:?}", parse(line).unwrap()).contains("hunter2"));
        let line = "oriel serve --set search_key=hunter2";
        assert!(!format!("{:?}", parse(line).unwrap()).contains("hunter2"));
    }

    #[test]
    fn operations_are_published_from_a_file_and_listed() {
        let line = "oriel operations publish manifest.json --url http://h --token hunter2";
        let parsed = parse(line).unwrap();
        assert!(!format!("{parsed:?}").contains("hunter2"));
        let Command::Operations(OperationsArgs { action: OperationsAction::Publish { file, server } }) = parsed else {
            panic!("not publish");
        };
        assert_eq!((file, server.url.as_str()), (PathBuf::from("manifest.json"), "http://h"));
        assert!(parse("oriel operations list").is_ok());
        assert!(parse("oriel operations publish").is_err());
    }

    #[test]
    fn what_is_not_a_pair_is_refused() {
        assert!(parse("oriel serve --set max_depth").unwrap_err().to_string().contains("KEY=VALUE"));
        assert!(parse("oriel import f --project X --jobs 0").is_err());
        assert!(parse("oriel import f").is_err());
    }

    #[test]
    fn extract_passes_its_arguments_on() {
        let Command::Extract { arguments } = parse("oriel extract --type text/plain --memory 1").unwrap() else {
            panic!("not extract");
        };
        assert_eq!(arguments.len(), 4);
    }
}
