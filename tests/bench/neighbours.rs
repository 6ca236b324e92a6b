//! Small organisations beside a large one that asks for all it can: what they notice of it.
//!
//! The large one is hammered without a limit, and with the one that is usual beyond a machine of one's own. Its documents
//! are rows beside one that was uploaded, as in `growth.rs`; what it publishes is in the log, so that there is something
//! to rebuild.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;

use crate::load::{Connection, Outcome, arrivals, request};
use crate::oriel::Running;
use crate::reads::page;
use crate::report::{Goal, Report};
use crate::rows::Documents;
use crate::scale::Scale;

/// Requests a second of all small ones together.
const RATE: f64 = 100.0;
/// One of so many is a change.
const CHANGES: u64 = 10;
/// Those of the large one that ask on as soon as they are answered, for each kind of work.
const LISTS: usize = 4;
const SEARCHES: usize = 2;
const PART: &str = "small organizations beside a large one, SQLite";

pub async fn measure(report: &mut Report, scale: Scale) {
    let (small, documents, published) = scale.of((5, 1_000, 1), (50, 100_000, 5), (1_000, 1_000_000, 100));
    let time = Duration::from_secs(scale.of(2, 12, 30));
    let mut server = Running::start();
    let operator = server.register_as("Operator").await;
    let founded = futures::stream::iter(0..small).map(async |n| {
        let token = server.register_as(&format!("Small{n}")).await;
        let project = server.projects(&token, 1).await.remove(0);
        (token, project)
    });
    let neighbours: Vec<(String, String)> = founded.buffered(4).collect().await;
    let token = server.register_as("Large").await;
    let project = server.projects(&token, 1).await.remove(0);
    let template = server.document(&token, &project).await;
    let mut rows = Documents::beside(&server, &template).await;
    rows.grow_to(documents).await;
    for limit in ["off", "120000"] {
        if limit != "off" {
            server = server.restart_with(&[("ORIEL_RATE_LIMIT", limit)]);
        }
        let large = Large { server: &server, operator: &operator, token: &token, project: &project, rows: &rows };
        if limit == "off" {
            for n in 0..published {
                large.publish(&mut Connection::open(&server.address).await, n).await;
            }
        }
        let ask = |n: u64, round: &str| {
            let (token, project) = &neighbours[(n.wrapping_mul(982_451_653) % small as u64) as usize];
            let query = if n.is_multiple_of(CHANGES) {
                format!(
                    "mutation {{ projectUpdate(input: {{id: \"{project}\", name: \"{round} {n} {limit}\"}}) {{ position }} }}"
                )
            } else {
                format!("{{ {round}{n}: projects {{ totalCount nodes {{ id key name status }} }} }}")
            };
            request("/graphql", token, &json!({ "query": query }).to_string())
        };
        arrivals(&[&server], RATE, Duration::from_secs(2), |n| ask(n, "w")).await;
        let alone = arrivals(&[&server], RATE, time, |n| ask(n, "a")).await;
        let ended = AtomicBool::new(false);
        let measured = async {
            let beside = arrivals(&[&server], RATE, time, |n| ask(n, "b")).await;
            ended.store(true, Ordering::Relaxed);
            beside
        };
        let (beside, work) = tokio::join!(measured, large.hammers(&ended));
        tell(report, limit, &alone, &beside, &format!("{small} small, one of {documents} documents: {work}"));
    }
}

fn tell(report: &mut Report, limit: &str, alone: &Outcome, beside: &Outcome, work: &str) {
    let limited = if limit == "off" { "no rate limit" } else { "the usual rate limit" };
    for (what, part, goal) in
        [("p50", 0.5, Goal::TimesFloor(2.0)), ("p95", 0.95, Goal::None), ("p99", 0.99, Goal::None)]
    {
        let goal = if limit == "off" { Goal::None } else { goal };
        let note = if part == 0.5 { work } else { "" };
        report.against(PART, format!("{limited}: {what}"), "ms", beside.within(part), alone.within(part), goal, note);
    }
    let note = format!("with all that the large one asks for: {}; alone: {}", beside.told(), alone.told());
    report.alone(PART, format!("{limited}: errors"), "%", beside.errors(), Goal::AtMost(0.1), note);
}

struct Large<'a> {
    server: &'a Running,
    operator: &'a str,
    token: &'a str,
    project: &'a str,
    rows: &'a Documents,
}

impl Large<'_> {
    /// Lists, searches, uploads, publishes, and has read models rebuilt, all at once, until it is over.
    async fn hammers(&self, ended: &AtomicBool) -> String {
        let counts: [AtomicU64; 5] = Default::default();
        let [pages, searches, uploads, published, rebuilt] = &counts;
        let going = || !ended.load(Ordering::Relaxed);
        let lists = (0..LISTS).map(async |_| {
            let mut connection = Connection::open(&self.server.address).await;
            while going() {
                let n = self.rows.spread(pages.fetch_add(1, Ordering::Relaxed));
                connection.offer(&request("/graphql", self.token, &page(n).to_string())).await;
            }
        });
        let finds = (0..SEARCHES).map(async |_| {
            let mut connection = Connection::open(&self.server.address).await;
            while going() {
                let n = searches.fetch_add(1, Ordering::Relaxed);
                let query = format!("{{ a{n}: search(query: \"document words\") {{ totalCount facets {{ field values {{ value count }} }} }} }}");
                connection.offer(&request("/graphql", self.token, &json!({ "query": query }).to_string())).await;
            }
        });
        let uploading = async {
            while going() {
                let n = uploads.fetch_add(1, Ordering::Relaxed);
                let text = "A document of many words. ".repeat(200);
                let name = format!("import-{n}.txt");
                let sent = self.server.try_upload(self.token, self.project, &name, text).await;
                if !sent.is_ok_and(|answer| answer.get("errors").is_none()) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let publishing = async {
            let mut connection = Connection::open(&self.server.address).await;
            while going() {
                self.publish(&mut connection, 1_000 + published.fetch_add(1, Ordering::Relaxed)).await;
            }
        };
        let rebuilding = async {
            let mut connection = Connection::open(&self.server.address).await;
            for name in ["persisted_operations", "search", "projects", "members"].into_iter().cycle() {
                if !going() {
                    break;
                }
                let query =
                    format!("mutation {{ readModelRebuild(input: {{name: \"{name}\"}}) {{ userErrors {{ code }} }} }}");
                connection.offer(&request("/graphql", self.operator, &json!({ "query": query }).to_string())).await;
                rebuilt.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (lists, finds) = (futures::future::join_all(lists), futures::future::join_all(finds));
        tokio::join!(lists, finds, uploading, publishing, rebuilding);
        let [pages, searches, uploads, published, rebuilt] = counts.map(AtomicU64::into_inner);
        format!(
            "{pages} pages, {searches} searches, {uploads} uploads, {published} x 200 published, {rebuilt} rebuilds asked for"
        )
    }

    /// Two hundred operations in one call.
    async fn publish(&self, connection: &mut Connection, number: u64) {
        let body =
            |n: u64| format!("query Q{number}x{n} {{ projects(first: {}) {{ nodes {{ name }} }} }}", n % 100 + 1);
        let operations: Vec<_> =
            (0..200).map(|n| json!({ "hash": format!("bench-{number}-{n}"), "body": body(n) })).collect();
        let query = "mutation($input: OperationsPublishInput!) { operationsPublish(input: $input) { position } }";
        let body = json!({ "query": query, "variables": { "input": { "operations": operations } } });
        connection.offer(&request("/graphql", self.token, &body.to_string())).await;
    }
}
