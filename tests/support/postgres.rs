//! A PostgreSQL that the tests start themselves, once, on a free port in a temporary folder; a database per test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The URL of a new, empty database; `None` where PostgreSQL is not installed.
pub fn postgres_url() -> Option<String> {
    static SERVER: OnceLock<Option<u16>> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let port = (*SERVER.get_or_init(start))?;
    let name = format!("oriel_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let sql = format!("CREATE DATABASE {name}");
    let status = program(&bin()?, "psql")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "oriel", "-d", "postgres", "-qc", &sql])
        .status()
        .unwrap();
    assert!(status.success(), "a database cannot be made");
    Some(format!("postgres://oriel@127.0.0.1:{port}/{name}"))
}

fn bin() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    places.extend((13..=18).rev().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))));
    places.into_iter().find(|place| place.join("initdb").exists())
}

fn program(bin: &Path, name: &str) -> Command {
    let mut command = Command::new(bin.join(name));
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    command
}

fn start() -> Option<u16> {
    let Some(bin) = bin() else {
        let text = "NOT RUN on PostgreSQL: initdb is missing; install the Debian package postgresql";
        assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "{text}");
        eprintln!("{text}");
        return None;
    };
    let folder = tempfile::Builder::new().prefix("oriel-pg").tempdir().unwrap().keep();
    let data = folder.join("data");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // PostgreSQL refuses to run as root. The shell ends the server and removes the folder when this process ends: it
    // waits for the end of its standard input, which this process holds open.
    let root = Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0");
    let become_other = if root { "setpriv --reuid=postgres --regid=postgres --clear-groups" } else { "" };
    if root {
        assert!(Command::new("chown").arg("postgres").arg(&folder).status().unwrap().success());
    }
    let script = format!(
        "cd {folder} && {become_other} {bin}/initdb -D {data} -U oriel -A trust -E UTF8 --locale=C --no-sync >init.log 2>&1 || exit 1
         {become_other} {bin}/pg_ctl -D {data} -w -l {data}/log -o '-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c max_connections=300' start >/dev/null 2>&1 || exit 1
         echo ready; cat >/dev/null; {become_other} {bin}/pg_ctl -D {data} -m immediate stop >/dev/null 2>&1; rm -rf {folder}",
        folder = folder.display(),
        data = data.display(),
        bin = bin.display(),
    );
    let mut shell = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line.trim(), "ready", "PostgreSQL does not start");
    // Held open until this process ends, however it ends.
    std::mem::forget(shell.stdin.take());
    Some(port)
}
