//! A PostgreSQL server of one test's own, which archives its log and may be lost.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::engine_testing::{as_postgres, give_to_postgres, programs};

/// Starts the server on `$2` with its socket in `$3`, on the port `$4` of the addresses `$5`, says so, and ends it when
/// its input ends.
const SCRIPT: &str = r#"
cd / && trap '' INT TERM HUP
"$1/pg_ctl" -D "$2" -l "$2.log" -w -t 60 -o "-p $4 -k $3 -c listen_addresses='$5' -c shared_buffers=32MB" start \
  >/dev/null 2>&1 </dev/null && echo ready || { cat "$2.log"; echo failed; }
read -r line
"$1/pg_ctl" -D "$2" -m immediate stop >/dev/null 2>&1
"#;

pub struct Cluster {
    programs: PathBuf,
    folder: TempDir,
    /// Holds the pipe on which the server depends.
    running: Option<Child>,
}

impl Cluster {
    /// A running server with the database `oriel`; `None` when PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("oriel-pg-").tempdir().unwrap();
        give_to_postgres(folder.path());
        let mut this = Self { programs, folder, running: None };
        this.run(
            "initdb",
            &["-D", &this.path("primary"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"],
        );
        let archive = this.path("archive");
        assert!(as_postgres("mkdir").arg(&archive).status().unwrap().success());
        let archiving = format!("archive_mode = on\narchive_command = 'cp %p {archive}/%f'\n");
        this.configure("primary", &archiving);
        this.serve("primary");
        this.sql("postgres", "CREATE DATABASE oriel");
        Some(this)
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/oriel?host={}", self.folder.path().display())
    }

    /// What a statement gives, a line for each row.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let socket = self.folder.path().display().to_string();
        self.run("psql", &["-X", "-q", "-A", "-t", "-U", "postgres", "-h", &socket, "-d", database, "-c", sql])
    }

    /// Asks until a statement gives this: nothing tells when the archiver is done. Bounded.
    pub async fn until(&self, database: &str, sql: &str, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.sql(database, sql) != wanted {
            assert!(Instant::now() < deadline, "{sql} does not become {wanted}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where the server keeps everything.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("primary")
    }

    /// A copy of the running server's files.
    pub fn base_backup(&self) {
        let socket = self.folder.path().display().to_string();
        self.run("pg_basebackup", &["-D", &self.path("base"), "-U", "postgres", "-h", &socket, "-c", "fast"]);
    }

    /// The server is gone. From its base backup and its archive comes another, as it was at this restore point.
    pub async fn recover(&mut self, restore_point: &str) {
        self.stop();
        let archive = self.path("archive");
        let target = format!(
            "restore_command = 'cp {archive}/%f %p'\nrecovery_target_name = '{restore_point}'\n\
             recovery_target_action = 'promote'\narchive_mode = off\n"
        );
        self.configure("base", &target);
        assert!(as_postgres("touch").arg(format!("{}/recovery.signal", self.path("base"))).status().unwrap().success());
        self.serve("base");
        // It answers before it is promoted.
        self.until("oriel", "SELECT pg_is_in_recovery()", "f").await;
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn configure(&self, data: &str, lines: &str) {
        let path = self.folder.path().join(data).join("postgresql.auto.conf");
        let there = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, there + lines).unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(&self.programs, program, arguments)
    }

    fn serve(&mut self, data: &str) {
        let data = self.folder.path().join(data);
        self.running = Some(serve(&self.programs, &data, self.folder.path(), 5432, ""));
    }

    fn stop(&mut self) {
        if let Some(mut shell) = self.running.take() {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a program of PostgreSQL says.
pub fn run(programs: &Path, program: &str, arguments: &[&str]) -> String {
    let output = as_postgres(programs.join(program)).args(arguments).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Starts a server; the shell that holds it ends it when its input ends.
pub fn serve(programs: &Path, data: &Path, sockets: &Path, port: u16, addresses: &str) -> Child {
    let mut shell = as_postgres("sh")
        .args(["-c", SCRIPT, "oriel-postgres"])
        .args([programs, data, sockets].map(Path::as_os_str))
        .args([&port.to_string(), addresses])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(shell.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<String> = said.take_while(|line| line != "ready" && line != "failed").collect();
    assert!(said.is_empty(), "PostgreSQL does not start:\n{}", said.join("\n"));
    shell
}

/// The process of a server, and those that it has started.
pub fn processes(data: &Path) -> (String, Vec<String>) {
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    let children = Command::new("pgrep").args(["-P", &pid]).output().unwrap().stdout;
    (pid, String::from_utf8(children).unwrap().lines().map(str::to_owned).collect())
}

/// Kills a server in the middle of everything.
pub fn crash(data: &Path) {
    let (postmaster, children) = processes(data);
    assert!(Command::new("kill").args(["-9", &postmaster]).status().unwrap().success());
    // They end by themselves when they notice; until then no other server may have their memory.
    for child in children {
        let deadline = Instant::now() + Duration::from_secs(60);
        let goes_on = |stat: String| !stat.contains(") Z");
        while std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(goes_on) {
            assert!(Instant::now() < deadline, "a process of the killed server goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
