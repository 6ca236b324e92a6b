//! Several Redis servers for one test: a Cluster, and a primary with its replica and a Sentinel.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bus::redis_server::{RedisServer, free_port};

const PATIENCE: Duration = Duration::from_secs(60);

/// Three servers, each with a third of the keys.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start() -> Option<Self> {
        let ports = [free_port(), free_port(), free_port()];
        let mut nodes = Vec::new();
        for bus in ports {
            let bus = bus.to_string();
            nodes.push(RedisServer::start_with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "1000",
                "--cluster-require-full-coverage",
                "no",
            ])?);
        }
        for (node, slots) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
            until(|| {
                tell(node.port(), &format!("CLUSTER ADDSLOTSRANGE {slots}")).is_some_and(|answer| answer == "+OK")
            });
        }
        for (node, bus) in nodes.iter().zip(ports).skip(1) {
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.port());
            until(|| tell(nodes[0].port(), &meet).is_some_and(|answer| answer == "+OK"));
        }
        for node in &nodes {
            let is_whole = |info: String| {
                ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"]
                    .iter()
                    .all(|line| info.contains(line))
            };
            until(|| tell(node.port(), "CLUSTER INFO").is_some_and(is_whole));
        }
        Some(Self { nodes })
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }
}

/// A primary, its replica, and a Sentinel that makes the replica the primary when that is gone.
pub struct WatchedRedis {
    pub primary: RedisServer,
    _replica: RedisServer,
    port: u16,
    sentinel: Child,
    _folder: TempDir,
}

impl WatchedRedis {
    pub fn start() -> Option<Self> {
        let primary = RedisServer::start()?;
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()])?;
        until(|| tell(replica.port(), "INFO replication").is_some_and(|info| info.contains("master_link_status:up")));
        let (folder, port) = (TempDir::new().unwrap(), free_port());
        let file = folder.path().join("sentinel.conf");
        let settings = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
            folder.path().display(),
            primary.port()
        );
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
        let sentinel = command.spawn().unwrap();
        let watched = Self { primary, _replica: replica, port, sentinel, _folder: folder };
        // It has found the replica.
        let knows = |answer: String| answer.contains("slaves=1");
        until(|| tell(watched.port, "INFO sentinel").is_some_and(knows));
        Some(watched)
    }

    /// The first Sentinel of the list is not there.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", self.port)
    }
}

impl Drop for WatchedRedis {
    fn drop(&mut self) {
        let _ = self.sentinel.kill();
        let _ = self.sentinel.wait();
    }
}

fn until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "the servers do not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a server answers to a command of plain words; `None` while it does not.
fn tell(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    // A line, or as many bytes as the first line says.
    loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).ok().filter(|length| *length > 0)?;
        answer.push_str(std::str::from_utf8(&piece[..length]).ok()?);
        let Some((first, rest)) = answer.split_once("\r\n") else { continue };
        match first.strip_prefix('$') {
            None => return Some(first.to_owned()),
            Some(length) if rest.len() >= length.parse().ok()? => return Some(rest.to_owned()),
            Some(_) => {}
        }
    }
}
