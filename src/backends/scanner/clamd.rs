//! A clamd for one test, when the program is installed: it knows one virus, the test file of EICAR.

#![allow(clippy::unwrap_used, dead_code)]

use std::fmt::Write;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

// Each server of the tests takes it along, into whichever program it is part of.
#[allow(clippy::duplicate_mod)]
#[path = "../free_port.rs"]
mod free_port;

/// Every scanner takes this for a virus; it does nothing. In two parts, so that no scanner finds it here.
pub fn eicar() -> Vec<u8> {
    [br"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-".as_slice(), b"ANTIVIRUS-TEST-FILE!$H+H*"].concat()
}

/// What it calls that.
pub const SIGNATURE: &str = "Eicar-Local-Test.UNOFFICIAL";
/// The largest file that it takes.
pub const STREAM_MAX: u64 = 1 << 20;

/// A server on a free port, in a temporary folder, ended when this is dropped.
pub struct Clamd {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl Clamd {
    /// `None` when clamd is not installed, which is said on the console and is a failure with
    /// `ORIEL_REQUIRE_SERVERS=1`. It answers a moment later.
    pub fn start() -> Option<Self> {
        if !installed() {
            assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "clamd is missing (Debian: clamav-daemon)");
            eprintln!("not run: clamd is missing (Debian: clamav-daemon)");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let port = free_port::free_port();
        let signatures = folder.path().join("signatures");
        std::fs::create_dir(&signatures).unwrap();
        let mut hex = String::new();
        eicar().iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
        std::fs::write(signatures.join("local.ndb"), format!("Eicar-Local-Test:0:*:{hex}\n")).unwrap();
        let settings = format!(
            "TCPAddr 127.0.0.1\nTCPSocket {port}\nForeground yes\nDatabaseDirectory {}\nTemporaryDirectory {}\n\
             StreamMaxLength {STREAM_MAX}\nMaxThreads 4\n",
            signatures.display(),
            folder.path().display()
        );
        std::fs::write(folder.path().join("clamd.conf"), settings).unwrap();
        let process = run(&folder);
        Some(Self { folder, port, process })
    }

    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    pub fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.process = run(&self.folder);
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

impl Drop for Clamd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not everybody's path has the folder of servers.
fn program() -> &'static str {
    if std::path::Path::new("/usr/sbin/clamd").exists() { "/usr/sbin/clamd" } else { "clamd" }
}

fn installed() -> bool {
    Command::new(program()).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn run(folder: &TempDir) -> Child {
    let mut command = Command::new(program());
    command.arg("-c").arg(folder.path().join("clamd.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
