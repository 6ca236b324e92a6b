//! Oriel against the floor, in one run: ratios, because absolute figures belong to the machine.
//!
//! The floor is what nobody can do without: for reads, a hand-written axum handler with the same token check, the same
//! SQL and the same bytes; for writes, the same rows in raw transactions on the same disk. Server, floor and clients
//! are processes of their own that share the machine, so each measurement says what CPU time the server took. Rounds
//! of Oriel and of the floor alternate, and what counts is the median round.
//!
//! `cargo bench -p oriel --bench floor` runs it, bounded in time; with `-- --long` more rows and more subscribers. A part
//! that breaks or does not end is said to have done so, and the others go on; what there is already is in the file.
#![allow(clippy::unwrap_used, missing_docs)]

mod dashboards;
/// The engine's own PostgreSQL for tests.
#[path = "../../src/engine/testing.rs"]
#[allow(dead_code)]
mod engine_testing;
mod floor;
mod growth;
mod live;
mod load;
mod machine;
mod neighbours;
mod nodes;
mod oriel;
mod reads;
mod recovery;
/// A Redis server, as the bus's own tests start it.
#[path = "../../src/backends/bus/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
mod report;
mod rows;
mod scale;
mod signing_in;
mod start;
mod subscribers;
mod writes;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use futures::FutureExt;

use crate::report::Report;
use crate::scale::Scale;

/// A part that takes longer does not end: in minutes, by how much is measured.
const MOST_MINUTES: [u64; 3] = [3, 8, 30];

/// What is measured, and how much of it.
#[derive(Parser)]
struct Options {
    /// What `cargo bench` says; without it nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// A million rows and more subscribers.
    #[arg(long)]
    long: bool,
    /// A small try, to see that everything works: its figures say nothing.
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the table is written as JSON. A relative path begins in `src/server`, where cargo runs this.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench.json"))]
    json: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Start,
    Writes,
    Reads,
    Growth,
    Live,
    Nodes,
    Dashboards,
    SigningIn,
    Neighbours,
    Recovery,
}

/// What this program does as a process that the measuring one has started.
#[derive(Subcommand)]
enum Role {
    /// The floor of reads.
    ServeFloor(floor::reads::Options),
    /// Clients of live queries.
    Subscribe(subscribers::Options),
}

impl Options {
    fn scale(&self) -> Scale {
        match (self.quick, self.long) {
            (true, _) => Scale::Quick,
            (false, false) => Scale::Usual,
            (false, true) => Scale::Long,
        }
    }
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    async fn measure(self, report: &mut Report, scale: Scale) {
        match self {
            Self::Start => start::measure(report).await,
            Self::Writes => writes::measure(report).await,
            Self::Reads => reads::measure(report).await,
            Self::Growth => growth::measure(report, scale).await,
            Self::Live => live::measure(report, scale).await,
            Self::Nodes => nodes::measure(report, scale).await,
            Self::Dashboards => dashboards::measure(report, scale).await,
            Self::SigningIn => signing_in::measure(report, scale).await,
            Self::Neighbours => neighbours::measure(report, scale).await,
            Self::Recovery => recovery::measure(report, scale).await,
        }
    }
}

fn main() -> ExitCode {
    // `cargo test --all-targets` starts benchmarks too, with words of its own; that is not what this is for.
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if std::env::args().any(|argument| argument == "--bench") => error.exit(),
        Err(_) => return ExitCode::SUCCESS,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match options.role {
        Some(Role::ServeFloor(options)) => runtime.block_on(floor::reads::serve(options)),
        Some(Role::Subscribe(options)) => runtime.block_on(subscribers::run(options)),
        None if options.bench => {
            let report = runtime.block_on(measure(&options));
            println!("\n{report}");
            println!("As JSON: {}", options.json.display());
            return if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        None => {}
    }
    ExitCode::SUCCESS
}

async fn measure(options: &Options) -> Report {
    machine::allow_many_files();
    let (mut report, scale) = (Report::new(), options.scale());
    let most = Duration::from_secs(60 * scale.of(MOST_MINUTES[0], MOST_MINUTES[1], MOST_MINUTES[2]));
    let wanted = |part: &&Part| options.only.is_empty() || options.only.contains(part);
    for part in Part::value_variants().iter().filter(wanted) {
        eprintln!("{} ...", part.name());
        let began = Instant::now();
        let measured = AssertUnwindSafe(part.measure(&mut report, scale)).catch_unwind();
        match tokio::time::timeout(most, measured).await {
            Ok(Ok(())) => report.ended(part.name(), began.elapsed()),
            // What it was stands above, where it panicked.
            Ok(Err(_)) => report.broke(format!("{} broke", part.name())),
            Err(_) => report.broke(format!("{} had not ended after {most:?}", part.name())),
        }
        std::fs::write(&options.json, report.json()).unwrap();
    }
    report
}
