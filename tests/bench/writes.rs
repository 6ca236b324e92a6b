//! Mutations against the same rows in raw transactions, on each database.

use std::time::Duration;

use oriel_engine::db::Location;

use crate::floor::writes::Writes;
use crate::load::{median, rate, times};
use crate::machine::cpu_seconds;
use crate::oriel::Running;
use crate::report::{Goal, Report};

const ROUNDS: usize = 5;
const EACH: Duration = Duration::from_millis(1_500);
const CLIENTS: usize = 64;
/// One after the other, in a round.
const ALONE: usize = 100;

pub async fn measure(report: &mut Report) {
    let server = Running::start();
    let floor = Writes::open(&Location::Sqlite(server.folder().join("floor.sqlite"))).await;
    on(report, "SQLite", &server, &floor).await;
    drop(server);
    if let Some(postgres) = crate::engine_testing::postgres() {
        let server = Running::start_with(&[("ORIEL_DATABASE_URL", &postgres.fresh_database())]);
        let floor = Writes::open(&Location::parse(&postgres.fresh_database()).unwrap()).await;
        on(report, "PostgreSQL", &server, &floor).await;
    }
}

async fn on(report: &mut Report, name: &str, server: &Running, floor: &Writes) {
    let token = server.register().await;
    let projects = server.projects(&token, CLIENTS).await;
    let (mut alone, mut raw, mut together, mut bulk) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cpu, mut all) = (0.0, 0.0);
    for round in 0..ROUNDS {
        let number = |n| round * 1_000_000 + n;
        alone.push(median(&times(ALONE, |n| server.rename(&token, &projects[n % 8], number(n))).await) * 1e3);
        raw.push(median(&times(ALONE, |_| floor.transaction(1)).await) * 1e3);
        let before = cpu_seconds(server.process());
        let work = |client: usize, n| server.rename(&token, &projects[client], number(ALONE + n));
        together.push(rate(CLIENTS, EACH, work).await);
        cpu += cpu_seconds(server.process()) - before;
        all += together[round] * EACH.as_secs_f64();
        bulk.push(CLIENTS as f64 * rate(1, EACH, |_, _| floor.transaction(CLIENTS)).await);
    }
    let what = format!("one mutation alone, p50, {name}");
    report.against("writes", what, "ms", median(&alone), median(&raw), Goal::TimesFloor(1.5), "");
    let what = format!("mutations, {CLIENTS} clients, {name}");
    let note = format!("CPU {:.0} us each", cpu / all * 1e6);
    report.against("writes", what, "/s", median(&together), median(&bulk), Goal::OfFloor(0.5), note);
}
