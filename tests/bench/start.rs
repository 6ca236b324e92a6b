//! How soon the server is there, and what it takes while nothing happens.

use std::time::Duration;

use crate::load::{median, percentile};
use crate::machine::{cpu_seconds, resident};
use crate::oriel::Running;
use crate::report::{Goal, Report};

const STARTS: usize = 5;
/// What a start leaves to be done is done by then.
const SETTLED: Duration = Duration::from_secs(3);

pub async fn measure(report: &mut Report) {
    let (mut times, mut memory, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let server = Running::start();
        times.push(server.started_in.as_secs_f64());
        if memory.is_empty() {
            tokio::time::sleep(SETTLED).await;
            let before = cpu_seconds(server.process());
            tokio::time::sleep(SETTLED).await;
            cpu.push((cpu_seconds(server.process()) - before) / SETTLED.as_secs_f64() * 1e2);
            memory.push(resident(server.process()) as f64 / 1e6);
        }
    }
    let worst = format!("longest of {STARTS}: {:.2} s; an empty folder, all tables made", percentile(&times, 1.0));
    report.alone("start", "ready after", "s", median(&times), Goal::AtMost(1.0), worst);
    let idle = format!("{:.1} % of a core", cpu[0]);
    report.alone("start", "idle memory", "MB", median(&memory), Goal::AtMost(80.0), idle);
}
