//! A PostgreSQL server and its replica, each on a port of its own: the primary is lost, and the replica promoted.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::cluster;
use super::engine_testing::{give_to_postgres, postgres, programs};
use super::redis_server::free_port;

/// Only a defect, or a machine that does nothing else, needs so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Pair {
    programs: PathBuf,
    folder: TempDir,
    ports: [u16; 2],
    running: [Option<Child>; 2],
    /// Which of the two takes writes.
    primary: usize,
}

impl Pair {
    /// A primary with the database `oriel`, and a replica that has each commit before it is acknowledged. `None` where
    /// PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        // Says what is missing, or fails.
        postgres()?;
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("oriel-pair-").tempdir().unwrap();
        give_to_postgres(folder.path());
        let ports = [free_port(), free_port()];
        let mut this = Self { programs, folder, ports, running: [None, None], primary: 0 };
        let data = this.data(0).display().to_string();
        this.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]);
        this.configure(
            0,
            "wal_keep_size = '512MB'\nwal_retrieve_retry_interval = '200ms'\nsynchronous_standby_names = ''\n",
        );
        this.serve(0);
        this.statement(0, "postgres", "CREATE DATABASE oriel");
        this.attach();
        Some(this)
    }

    /// Both, as libpq names them: the nodes find the one that takes writes.
    pub fn url(&self) -> String {
        let [first, second] = self.ports;
        format!("postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/oriel?target_session_attrs=read-write")
    }

    /// What a statement gives on the primary, a line for each row.
    pub fn sql(&self, sql: &str) -> String {
        self.statement(self.primary, "oriel", sql)
    }

    /// From here on a commit is acknowledged without the replica, which follows as fast as it can.
    pub fn wait_no_more(&self) {
        self.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        self.sql("SELECT pg_reload_conf()");
        self.until(self.primary, "SHOW synchronous_standby_names", "");
    }

    /// From here on a commit is acknowledged without the replica, which hears of none any more.
    pub fn cut_off(&self) {
        self.wait_no_more();
        let replica = 1 - self.primary;
        self.statement(replica, "postgres", "ALTER SYSTEM SET primary_conninfo = ''");
        self.statement(replica, "postgres", "SELECT pg_reload_conf()");
        self.until(self.primary, "SELECT count(*) FROM pg_stat_replication", "0");
    }

    /// The primary is gone in the middle of everything, as with `kill -9`.
    pub fn crash(&mut self) {
        cluster::crash(&self.data(self.primary));
        stop(&mut self.running[self.primary]);
    }

    /// It is there again, and recovers.
    pub fn start_again(&mut self) {
        self.serve(self.primary);
    }

    /// All of the primary stands still where it is; its connections stay open.
    pub fn freeze(&self) {
        self.signal(self.primary, "-STOP");
    }

    pub fn thaw(&self) {
        self.signal(self.primary, "-CONT");
    }

    /// The one that was the primary wakes up, and takes itself for it.
    pub fn thaw_the_other(&self) {
        self.signal(1 - self.primary, "-CONT");
    }

    /// The replica takes the place of the primary, which was lost. It is alone until [`Pair::attach`].
    pub fn promote(&mut self) {
        self.primary = 1 - self.primary;
        self.configure(self.primary, "synchronous_standby_names = ''\n");
        self.statement(self.primary, "postgres", "SELECT pg_reload_conf()");
        self.run("pg_ctl", &["-D", &self.data(self.primary).display().to_string(), "-w", "-t", "60", "promote"]);
    }

    /// The one that was lost is there again, and takes itself for the primary.
    pub fn the_other_comes_back(&mut self) {
        self.serve(1 - self.primary);
    }

    /// A new replica from a copy of the primary; from here on each commit waits for it.
    pub fn attach(&mut self) {
        let replica = 1 - self.primary;
        let data = self.data(replica);
        if data.exists() {
            std::fs::remove_dir_all(&data).unwrap();
        }
        let port = self.ports[self.primary].to_string();
        let data = data.display().to_string();
        let copy = ["-D", &data, "-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h", "127.0.0.1", "-p", &port];
        self.run("pg_basebackup", &copy);
        self.serve(replica);
        self.statement(self.primary, "postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.statement(self.primary, "postgres", "SELECT pg_reload_conf()");
        self.has_replica();
    }

    /// Waits until each commit is on the replica before it is acknowledged.
    pub fn has_replica(&self) {
        self.until(self.primary, "SELECT sync_state FROM pg_stat_replication", "sync");
        self.until(self.primary, "SHOW synchronous_standby_names", "*");
    }

    fn until(&self, server: usize, sql: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.statement(server, "postgres", sql) != wanted {
            assert!(Instant::now() < deadline, "{sql} does not become {wanted}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn data(&self, server: usize) -> PathBuf {
        self.folder.path().join(["first", "second"][server])
    }

    fn configure(&self, server: usize, lines: &str) {
        let path = self.data(server).join("postgresql.auto.conf");
        let there = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, there + lines).unwrap();
    }

    fn serve(&mut self, server: usize) {
        self.running[server] = Some(cluster::serve(
            &self.programs,
            &self.data(server),
            self.folder.path(),
            self.ports[server],
            "127.0.0.1",
        ));
    }

    fn signal(&self, server: usize, signal: &str) {
        let (postmaster, children) = cluster::processes(&self.data(server));
        // First the one that would start others.
        for process in std::iter::once(postmaster).chain(children) {
            // One that has just ended is not there any more.
            let _ = Command::new("kill").args([signal, &process]).status().unwrap();
        }
    }

    fn statement(&self, server: usize, database: &str, sql: &str) -> String {
        let port = self.ports[server].to_string();
        self.run(
            "psql",
            &["-X", "-q", "-A", "-t", "-U", "postgres", "-h", "127.0.0.1", "-p", &port, "-d", database, "-c", sql],
        )
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        cluster::run(&self.programs, program, arguments)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // What stands still does not end either.
        for server in [0, 1] {
            if self.running[server].is_some() && self.data(server).join("postmaster.pid").exists() {
                self.signal(server, "-CONT");
            }
        }
        self.running.iter_mut().for_each(stop);
    }
}

/// The shell that holds a server ends it when its input ends.
fn stop(shell: &mut Option<Child>) {
    if let Some(mut shell) = shell.take() {
        drop(shell.stdin.take());
        let _ = shell.wait();
    }
}

/// As a replica that answers viewers.
impl Pair {
    /// The primary alone.
    pub fn primary_url(&self) -> String {
        self.url_of(self.primary)
    }

    /// The replica alone.
    pub fn replica_url(&self) -> String {
        self.url_of(1 - self.primary)
    }

    /// What a statement gives on the replica.
    pub fn on_replica(&self, sql: &str) -> String {
        self.statement(1 - self.primary, "oriel", sql)
    }

    /// Asks the primary until it says so.
    pub fn until_on_primary(&self, sql: &str, wanted: &str) {
        self.until(self.primary, sql, wanted);
    }

    /// Asks the replica until it says so.
    pub fn until_on_replica(&self, sql: &str, wanted: &str) {
        self.until(1 - self.primary, sql, wanted);
    }

    /// The replica is gone in the middle of everything.
    pub fn lose_replica(&mut self) {
        let replica = 1 - self.primary;
        cluster::crash(&self.data(replica));
        stop(&mut self.running[replica]);
    }

    /// It is there again, and follows.
    pub fn replica_comes_back(&mut self) {
        self.serve(1 - self.primary);
    }

    fn url_of(&self, server: usize) -> String {
        format!("postgres://postgres@127.0.0.1:{}/oriel", self.ports[server])
    }
}
