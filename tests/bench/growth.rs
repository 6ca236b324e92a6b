//! Whether reads take longer when there is more to read.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::Value;

use crate::load::{Connection, median, request};
use crate::machine::resident;
use crate::oriel::Running;
use crate::reads::{object, page};
use crate::report::{Goal, Report};
use crate::rows::Documents;
use crate::scale::Scale;

const SIZES: [u64; 3] = [10_000, 100_000, 1_000_000];
const ASKED: usize = 400;
/// Characters of the longest bar.
const WIDTH: f64 = 40.0;

pub async fn measure(report: &mut Report, scale: Scale) {
    let server = Running::start();
    let token = server.register().await;
    let project = server.projects(&token, 1).await.remove(0);
    let template = server.document(&token, &project).await;
    let mut documents = Documents::beside(&server, &template).await;
    let mut found: [Vec<f64>; 3] = Default::default();
    let sizes = &SIZES[..scale.of(2, 2, 3)];
    let mut memory = Vec::new();
    for size in sizes {
        documents.grow_to(*size).await;
        // Numbers that no round of another size has asked for.
        let new = |n: usize| documents.spread(n as u64 + size / 2);
        let ask = async |question: &dyn Fn(usize) -> Value| {
            let mut connection = Connection::open(&server.address).await;
            let mut figures = Vec::new();
            for n in 0..ASKED {
                let request = request("/graphql", &token, &question(n).to_string());
                let started = Instant::now();
                connection.exchange(&request).await;
                figures.push(started.elapsed().as_secs_f64());
            }
            median(&figures) * 1e3
        };
        found[0].push(ask(&|n| object(new(n))).await);
        found[1].push(ask(&|n| page(new(ASKED + n))).await);
        found[2].push(ask(&|_| page(new(1))).await);
        memory.push(resident(server.process()) as f64 / 1e6);
    }
    let mut chart = format!("growth: p50 of {ASKED} requests, one after the other, in ms, by rows in the read model\n");
    for (name, figures) in ["object by id", "page of 50", "cached page"].into_iter().zip(&found) {
        let (first, last) = (figures[0], figures[figures.len() - 1]);
        let what = format!("{name}: {} rows against {}", sizes[sizes.len() - 1], sizes[0]);
        report.against("growth", what, "ms", last, first, Goal::TimesFloor(1.25), "floor: the fewest rows");
        let longest = figures.iter().copied().fold(0.0, f64::max);
        for (size, figure) in sizes.iter().zip(figures) {
            let bar = "#".repeat((figure / longest * WIDTH).round() as usize);
            let _ = writeln!(chart, "{name:<14} {size:>9} {figure:>7.3} {bar}");
        }
    }
    let last = memory[memory.len() - 1];
    let note = format!("at {} rows; {:.1} at {}", sizes[sizes.len() - 1], memory[0], sizes[0]);
    report.alone("growth", "memory of the server", "MB", last, Goal::None, note);
    report.chart(chart);
}
