//! Oriel against the floor, in one run: ratios, because absolute figures belong to the machine.
//!
//! The floor is what nobody can do without: for reads, a hand-written axum handler with the same token check, the same
//! SQL and the same bytes; for writes, the same rows in raw transactions on the same disk. Server, floor and clients
//! are processes of their own that share the machine, so each measurement says what CPU time the server took. Rounds
//! of Oriel and of the floor alternate, and what counts is the median round.
//!
//! `cargo bench -p oriel --bench floor` runs it, bounded in time; with `-- --long` more rows and more subscribers.
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
mod signing_in;
mod start;
mod subscribers;
mod writes;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::report::Report;

/// What is measured, and how much of it.
#[derive(Parser)]
struct Options {
    /// What `cargo bench` says; without it nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// A million rows and more subscribers.
    #[arg(long)]
    long: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the table is written as JSON.
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

fn main() {
    // `cargo test --all-targets` starts benchmarks too, with words of its own; that is not what this is for.
    let Ok(options) = Options::try_parse() else {
        assert!(!std::env::args().any(|argument| argument == "--bench"), "{}", Options::parse().json.display());
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match options.role {
        Some(Role::ServeFloor(options)) => runtime.block_on(floor::reads::serve(options)),
        Some(Role::Subscribe(options)) => runtime.block_on(subscribers::run(options)),
        None if options.bench => {
            let report = runtime.block_on(measure(&options));
            println!("\n{report}");
            std::fs::write(&options.json, report.json()).unwrap();
            println!("As JSON: {}", options.json.display());
        }
        None => {}
    }
}

async fn measure(options: &Options) -> Report {
    machine::allow_many_files();
    let mut report = Report::new();
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    if wanted(Part::Start) {
        start::measure(&mut report).await;
    }
    if wanted(Part::Writes) {
        writes::measure(&mut report).await;
    }
    if wanted(Part::Reads) {
        reads::measure(&mut report).await;
    }
    if wanted(Part::Growth) {
        growth::measure(&mut report, options.long).await;
    }
    if wanted(Part::Live) {
        live::measure(&mut report, options.long).await;
    }
    if wanted(Part::Nodes) {
        nodes::measure(&mut report).await;
    }
    if wanted(Part::Dashboards) {
        dashboards::measure(&mut report, options.long).await;
    }
    if wanted(Part::SigningIn) {
        signing_in::measure(&mut report).await;
    }
    if wanted(Part::Neighbours) {
        neighbours::measure(&mut report, options.long).await;
    }
    if wanted(Part::Recovery) {
        recovery::measure(&mut report, options.long).await;
    }
    report
}
