//! Live queries: from a commit to the last of many subscribers, and what an open socket takes.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::load::{median, percentile};
use crate::machine::{cpu_seconds, resident};
use crate::oriel::Running;
use crate::report::{Goal, Report};
use crate::scale::Scale;

/// What one person on one machine may not do by default.
const UNLIMITED: &[(&str, &str)] = &[
    ("ORIEL_MAX_SOCKETS", "100000"),
    ("ORIEL_MAX_SOCKETS_PER_VIEWER", "100000"),
    ("ORIEL_MAX_SOCKETS_PER_ADDRESS", "100000"),
    ("ORIEL_MAX_LIVE_QUERIES_PER_VIEWER", "100000"),
];
/// Time for what follows a commit, before the next one.
const PAUSE: Duration = Duration::from_millis(100);

pub async fn measure(report: &mut Report, scale: Scale) {
    let server = Running::start_with(UNLIMITED);
    let token = server.register().await;
    let project = server.projects(&token, 1).await.remove(0);
    let mut live = Live { server, token, project, names: 0 };
    // Before anything else has grown the process.
    live.idle(report, scale.of(500, 5_000, 20_000)).await;
    let crowds = [(100, 30), (1_000, 20), (5_000, 10)];
    for (sockets, rounds) in &crowds[..scale.of(1, 3, 3)] {
        live.tell(report, *sockets, "same", *rounds).await;
    }
    live.tell(report, scale.of(100, 1_000, 5_000), "own", 10).await;
}

struct Live {
    server: Running,
    token: String,
    project: String,
    /// How often the project was renamed.
    names: usize,
}

/// The other process.
struct Subscribers {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
    sockets: usize,
}

impl Subscribers {
    async fn open(live: &Live, sockets: usize, query: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["subscribe", "--address", &live.server.address, "--token", &live.token])
            .args(["--project", &live.project, "--sockets", &sockets.to_string(), "--query", query])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut says = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = says.next_line().await.unwrap().unwrap();
        let sockets = ready.strip_prefix("ready ").unwrap().parse().unwrap();
        Self { process, says, sockets }
    }

    /// The median, the 99 % and the last moment at which they were told of this name.
    async fn told(&mut self, name: usize) -> [f64; 3] {
        let line = self.says.next_line().await.unwrap().unwrap();
        let words: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
        assert_eq!(words[0], name as u64);
        [1, 2, 3].map(|n| words[n] as f64 / 1e9)
    }

    fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.process.id().unwrap())
    }

    async fn close(mut self) {
        drop(self.process.stdin.take());
        self.process.wait().await.unwrap();
    }
}

impl Live {
    async fn idle(&self, report: &mut Report, wanted: usize) {
        let process = self.server.process();
        let before = resident(process);
        let subscribers = Subscribers::open(self, wanted, "none").await;
        let sockets = subscribers.sockets;
        let each = (resident(process) - before) as f64 / sockets as f64 / 1e3;
        let note = format!("{sockets} of {wanted} sockets opened, each signed in, nothing asked");
        report.alone("live", "memory of an idle socket", "KB", each, Goal::AtMost(20.0), note);
        subscribers.close().await;
    }

    async fn tell(&mut self, report: &mut Report, wanted: usize, query: &str, rounds: usize) {
        let (process, before) = (self.server.process(), resident(self.server.process()));
        let mut subscribers = Subscribers::open(self, wanted, query).await;
        let sockets = subscribers.sockets;
        let each = resident(process).saturating_sub(before) as f64 / sockets as f64 / 1e3;
        let cpu = cpu_seconds(process);
        let client_cpu = subscribers.cpu_seconds();
        let (mut p50, mut p99, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            self.names += 1;
            let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
            self.server.rename(&self.token, &self.project, self.names).await;
            let told = subscribers.told(self.names).await.map(|moment| (moment - sent) * 1e3);
            p50.push(told[0]);
            p99.push(told[1]);
            last.push(told[2]);
            tokio::time::sleep(PAUSE).await;
        }
        let (cpu, client_cpu) = (cpu_seconds(process) - cpu, subscribers.cpu_seconds() - client_cpu);
        let deliveries = (sockets * rounds) as f64;
        let queries = if query == "same" { "one query" } else { "own queries" };
        let name = format!("{sockets} subscribers, {queries}");
        let note = format!(
            "p50 {:.0}, all told {:.0}, slowest round {:.0} ms, from sending the mutation; {:.1} KB a socket",
            median(&p50),
            median(&last),
            percentile(&last, 1.0),
            each,
        );
        report.alone("live", format!("{name}: p99"), "ms", median(&p99), Goal::AtMost(1_000.0), note);
        let note = format!("CPU {cpu:.2} s for {deliveries} deliveries; clients {client_cpu:.2} s on the same cores");
        let goal = if query == "same" { Goal::AtLeast(5_000.0) } else { Goal::None };
        report.alone("live", format!("{name}: deliveries per CPU-second"), "/s", deliveries / cpu, goal, note);
        subscribers.close().await;
    }
}
