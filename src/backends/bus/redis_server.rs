//! A Redis server for one test, when the program is installed.

#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

// Each server of the tests takes it along, into whichever program it is part of.
#[allow(clippy::duplicate_mod)]
#[path = "../free_port.rs"]
mod free_port;

pub use free_port::free_port;

/// A server on a free port, in a temporary folder, ended when this is dropped.
pub struct RedisServer {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    process: Child,
}

impl RedisServer {
    /// `None` when Redis is not installed, which is said on the console and is a failure with
    /// `ORIEL_REQUIRE_SERVERS=1`.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with further arguments of the program.
    pub fn start_with(arguments: &[&str]) -> Option<Self> {
        let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !installed {
            assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "Redis is missing (Debian: redis-server)");
            eprintln!("not run: Redis is missing (Debian: redis-server)");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let port = free_port();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = run(&folder, port, &arguments);
        Some(Self { folder, port, arguments, process })
    }

    #[allow(dead_code)] // not every binary that has this file asks
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.process = run(&self.folder, self.port, &self.arguments);
    }

    /// Stops the process where it stands, its connections stay open.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(folder: &TempDir, port: u16, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"])
        .arg(folder.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
