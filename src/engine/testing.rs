//! A PostgreSQL server for tests: started once per test process in a temporary folder, a fresh database per test.
//!
//! The databases are a plain role's, as an installation's are: a superuser would be exempt from row-level security.
//!
//! It listens on a socket in its folder, never on the network, and ends with the process that started it, however
//! that ends: a small shell holds the server and reads from a pipe that only this process can write to.
//! Standard library only, so that other test programs include this file by its path.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    databases: AtomicU32,
    creating: Mutex<()>,
    /// Holds the pipe: when this process ends, the pipe closes, and the shell ends the server.
    _shell: Child,
}

static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();

/// What the shell does: makes the cluster, starts it, says so, and waits for the end of its input.
const SCRIPT: &str = r#"
cd / && trap '' INT TERM HUP
end() { "$1/pg_ctl" -D "$2/data" -m immediate stop >/dev/null 2>&1; rm -rf "$2"; exit; }
{ "$1/initdb" -D "$2/data" -U postgres -A trust -E UTF8 --no-locale --no-sync &&
  "$1/pg_ctl" -D "$2/data" -l "$2/log" -w \
    -o "-p 5432 -k $2 -c listen_addresses='' -c max_connections=500 -c shared_buffers=32MB" start &&
  "$1/psql" -X -q -U postgres -h "$2" -d template1 -c 'CREATE ROLE oriel LOGIN CREATEROLE' \
    -c 'ALTER FUNCTION jsonb_contains(jsonb, jsonb) LEAKPROOF'; } >"$2/out" 2>&1 </dev/null \
  || { cat "$2/out" "$2/log"; echo failed; end "$@"; }
echo ready
read -r line
end "$@"
"#;

/// The server of this process; `None` when PostgreSQL is not installed, which is said on the console and is a failure
/// with `ORIEL_REQUIRE_SERVERS=1`.
pub fn postgres() -> Option<&'static Postgres> {
    let server = SERVER.get_or_init(|| programs().map(start));
    if server.is_none() {
        assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "PostgreSQL is missing (Debian: postgresql)");
        eprintln!("not run: PostgreSQL is missing (Debian: postgresql)");
    }
    server.as_ref()
}

impl Postgres {
    /// The URL of a new, empty database.
    pub fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let _one_at_a_time = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let made = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-U", "postgres", "-d", "postgres", "-p", "5432", "-h"])
            .arg(&self.folder)
            .args(["-c", &format!("CREATE DATABASE {name} OWNER oriel")])
            .stdin(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "the database {name} cannot be made");
        self.url(&self.folder, &name)
    }

    /// The URL of a database through the socket in another folder (a proxy's).
    pub fn url(&self, folder: &Path, database: &str) -> String {
        format!("postgres://oriel@localhost/{database}?host={}", folder.display())
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }
}

/// Where PostgreSQL's programs are: the newest of Debian's folders, or the path.
pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let complete = |folder: &PathBuf| ["initdb", "pg_ctl", "psql"].iter().all(|name| folder.join(name).is_file());
    folders.into_iter().rev().find(complete).or_else(|| std::env::split_paths(&path).find(complete))
}

fn start(programs: PathBuf) -> Postgres {
    // A short path: a socket's may have a hundred characters.
    let folder = std::env::temp_dir().join(format!("oriel-pg-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("a temporary folder");
    give_to_postgres(&folder);
    let mut shell = as_postgres("sh")
        .args(["-c", SCRIPT, "oriel-postgres"])
        .arg(&programs)
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let output = shell.stdout.take().expect("the shell's output");
    let mut said = String::new();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        match line.as_str() {
            "ready" => {
                return Postgres {
                    programs,
                    folder,
                    databases: AtomicU32::new(0),
                    creating: Mutex::new(()),
                    _shell: shell,
                };
            }
            "failed" => break,
            _ => {
                said.push_str(&line);
                said.push('\n');
            }
        }
    }
    panic!("PostgreSQL does not start:\n{said}");
}

/// PostgreSQL does not run as root, and reads only what is its own.
pub fn give_to_postgres(folder: &Path) {
    if is_root() {
        let given = Command::new("chown").arg("postgres").arg(folder).status();
        assert!(given.is_ok_and(|status| status.success()), "the folder cannot be given to the user postgres");
    }
}

/// A program, run by the user who may run PostgreSQL.
pub fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
