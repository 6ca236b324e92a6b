//! Oriel against the floor, in one run: ratios, because absolute figures belong to the machine.
//!
//! The floor is what nobody can do without: for reads, a hand-written axum handler with the same token check, the same
//! SQL and the same bytes; for writes, the same rows in raw transactions on the same disk. `cargo bench` runs it; every
//! measurement is bounded in time.
#![allow(clippy::unwrap_used, missing_docs)]

mod floor;
mod load;
mod oriel;

use std::time::Duration;

use load::{median, rate};

const ROUNDS: usize = 5;
const EACH: Duration = Duration::from_secs(2);

fn main() {
    // `cargo test --all-targets` runs benchmarks once, to see that they work; that is not what this is for.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = oriel::Running::start();
    println!("start-up                     {:>10.0} ms to listening", server.started_in.as_secs_f64() * 1e3);
    println!("idle memory                  {:>10.1} MB resident", server.resident() as f64 / 1e6);
    runtime.block_on(async {
        let owner = server.register().await;
        let projects = server.projects(&owner, 64).await;
        server.documents(&owner, &projects[0], 60).await;
        writes(&server, &owner, &projects).await;
        reads(&server, &owner, &projects[0]).await;
    });
    println!("memory after all that        {:>10.1} MB resident", server.resident() as f64 / 1e6);
}

async fn writes(server: &oriel::Running, token: &str, projects: &[String]) {
    let floor = floor::Writes::open(server.folder()).await;
    let (mut alone, mut raw, mut together, mut bulk) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.push(load::p50(100, |n| server.rename(token, &projects[n % 8], round * 1000 + n)).await);
        raw.push(load::p50(100, |_| floor.transaction(1)).await);
        together.push(rate(64, EACH, |client, n| server.rename(token, &projects[client], round * 100_000 + n)).await);
        bulk.push(64.0 * rate(1, EACH, |_, _| floor.transaction(64)).await);
    }
    let (a, r) = (median(&mut alone), median(&mut raw));
    println!(
        "one mutation alone, p50      {:>10.2} ms; one raw transaction {:.2} ms; ratio {:.2}",
        a * 1e3,
        r * 1e3,
        a / r
    );
    let (t, b) = (median(&mut together), median(&mut bulk));
    println!("mutations, 64 clients        {t:>10.0} /s; raw batched rows {b:.0} /s; ratio {:.2}", t / b);
}

async fn reads(server: &oriel::Running, token: &str, project: &str) {
    let one = format!(
        r#"{{"query":"{{ project(id: \"{project}\") {{ id key name description status documentCount createdAt version }} }}"}}"#
    );
    let page = r#"{"query":"{ documents(first: 50) { nodes { id title fileName mediaType size status createdAt version project { name } } } }"}"#;
    for (name, body) in [("object by id", one.as_str()), ("page of 50 + relation", page)] {
        let answer = server.post(token, body).await;
        let floor = floor::Reads::start(server, token, name, project, answer).await;
        let (mut real, mut least) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            real.push(load::requests(&server.address, token, body, 2, EACH).await);
            least.push(load::requests(&floor.address, token, body, 2, EACH).await);
        }
        let (real, least) = (median(&mut real), median(&mut least));
        println!("{name:<28} {real:>10.0} /s; floor {least:.0} /s; ratio {:.2}", real / least);
    }
}
