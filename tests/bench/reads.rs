//! Reads over HTTP against a handler by hand: kept answers, and questions that nobody has asked before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oriel_kernel::RawId;
use serde_json::{Value, json};

use crate::floor::reads::Floor;
use crate::load::{Connection, Rounds, request};
use crate::oriel::Running;
use crate::report::{Goal, Report};
use crate::rows::Documents;

const ROUNDS: usize = 5;
const EACH: Duration = Duration::from_millis(1_500);
/// More than are asked for one by one in all rounds: each is asked for once, and no answer is kept already.
const DOCUMENTS: u64 = 200_000;

pub const OBJECT: &str =
    "query($id: ID!) { document(id: $id) { id title fileName mediaType size status createdAt version } }";
pub const PAGE: &str = "query($after: String) { documents(first: 50, after: $after) { nodes { \
    id title fileName mediaType size status createdAt version project { name } } } }";

pub fn object(n: u64) -> Value {
    json!({ "query": OBJECT, "variables": { "id": Documents::id(n) } })
}

/// The page behind this document.
pub fn page(n: u64) -> Value {
    let cursor = json!({ "o": "document:+id", "v": [Documents::id(n).uuid().simple().to_string()] });
    let cursor = data_encoding::BASE64URL_NOPAD.encode(cursor.to_string().as_bytes());
    json!({ "query": PAGE, "variables": { "after": cursor } })
}

pub async fn measure(report: &mut Report) {
    let server = Running::start();
    let token = server.register().await;
    let project = server.projects(&token, 1).await.remove(0);
    let template = server.document(&token, &project).await;
    let mut documents = Documents::beside(&server, &template).await;
    documents.grow_to(DOCUMENTS).await;
    let organization = organization(&server, &token).await;

    let mut connection = Connection::open(&server.address).await;
    let questions = [object(1), page(1)].map(|body| body.to_string());
    let [one, many] = &questions;
    let one = connection.exchange(&request("/graphql", &token, one)).await.to_vec();
    let many = connection.exchange(&request("/graphql", &token, many)).await.to_vec();
    let extensions = serde_json::from_slice::<Value>(&one).unwrap()["extensions"].to_string();
    let floor = Floor::beside(&server, organization, [&one, &many], &extensions);
    let contest = Contest { server: &server, token: &token, floor: &floor };
    for (path, number, answer) in [("/object", 1, &one), ("/page", 1, &many)] {
        contest.is_fair(path, &questions[usize::from(path == "/page")], number, answer).await;
    }

    contest.run(report, "cached object", "/kept/0", Goal::OfFloor(0.7), |_| object(1)).await;
    contest.run(report, "cached page of 50", "/kept/1", Goal::OfFloor(0.7), |_| page(1)).await;
    let next = AtomicU64::new(2);
    let new = || documents.spread(next.fetch_add(1, Ordering::Relaxed));
    contest.run(report, "object by id, not cached", "/object", Goal::OfFloor(0.6), |_| object(new())).await;
    let what = "page of 50 x 8 fields + relation, not cached";
    contest.run(report, what, "/page", Goal::OfFloor(0.6), |_| page(new())).await;
}

async fn organization(server: &Running, token: &str) -> uuid::Uuid {
    let answer = server.post(token, &json!({ "query": "{ viewer { organization { id } } }" })).await;
    let id = answer["data"]["viewer"]["organization"]["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
    RawId::parse(id).unwrap().uuid
}

struct Contest<'a> {
    server: &'a Running,
    token: &'a str,
    floor: &'a Floor,
}

impl Contest<'_> {
    /// Sees that the floor gives the same data.
    async fn is_fair(&self, path: &str, question: &str, number: u64, answer: &[u8]) {
        let mut connection = Connection::open(&self.floor.address).await;
        let least = connection.exchange(&request(path, &self.floor.token, question)).await;
        let data = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["data"].take();
        assert_eq!(data(least), data(answer), "{path} {number}");
        assert!(answer.len().abs_diff(least.len()) < 16, "{} bytes and {}", answer.len(), least.len());
    }

    async fn run(
        &self,
        report: &mut Report,
        what: &str,
        path: &str,
        goal: Goal,
        question: impl Fn(u64) -> Value + Sync,
    ) {
        let Self { server, token, floor } = self;
        let (mut oriel, mut least) = (Rounds::default(), Rounds::default());
        for _ in 0..ROUNDS {
            let ask = |n| request("/graphql", token, &question(n).to_string());
            oriel.one_more(server.process(), &server.address, EACH, ask).await;
            let ask = |n| request(path, &floor.token, &question(n).to_string());
            least.one_more(floor.process(), &floor.address, EACH, ask).await;
        }
        let (cpu, floor_cpu) = (oriel.cpu_each(), least.cpu_each());
        let note = format!("CPU {cpu:.0} us each, floor {floor_cpu:.0}: {:.2}", floor_cpu / cpu);
        report.against("reads over HTTP, SQLite", what, "/s", oriel.per_second(), least.per_second(), goal, note);
    }
}
