//! A thousand people who look at dashboards while some of them change things: how fast they are answered at the rate
//! that was asked for, and at which rate it breaks. Requests come when they are due, whether or not those before
//! them are answered.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;

use crate::load::{Outcome, arrivals, clients, request};
use crate::oriel::Running;
use crate::report::{Goal, Report};
use crate::scale::Scale;

const ORGANIZATIONS: usize = 10;
const PEOPLE: usize = 100;
const PART: &str = "dashboards: 1 000 people, 1 % changes, SQLite";
const PROJECTS: usize = 20;
const DOCUMENTS: usize = 10;
/// One request of so many is a change.
const CHANGES: u64 = 100;
/// What was asked for, in requests a second.
const WANTED: f64 = 500.0;
const RATES: [f64; 8] = [WANTED, 1_000.0, 2_000.0, 4_000.0, 6_000.0, 8_000.0, 12_000.0, 16_000.0];
const WORDS: [&str; 8] = ["harbour", "lighthouse", "cargo", "tide", "harbuor", "keeper", "timber", "pilot"];
/// People who sign up at the same time.
const AT_ONCE: usize = 4;

struct Organization {
    people: Vec<String>,
    projects: Vec<String>,
    documents: Vec<String>,
}

pub async fn measure(report: &mut Report, scale: Scale) {
    let server = Running::start();
    let people = scale.of(5, PEOPLE, PEOPLE);
    let organizations: Vec<Organization> =
        futures::stream::iter(0..ORGANIZATIONS).map(|n| found(&server, n, people)).buffered(AT_ONCE).collect().await;
    let time = Duration::from_secs(scale.of(1, 8, 20));
    let load = Load { server: &server, organizations: &organizations };
    // Everybody has been there before, and has asked all that they ask.
    let before = Duration::from_secs(scale.of(2, 12, 20));
    clients(&[&server], 32, before, |client, n| load.request(client as u64 * 1_000_003 + n, u64::MAX)).await;
    let mut held = 0.0;
    let mut broke = "none of those that were tried".to_owned();
    for (round, rate) in RATES.into_iter().enumerate() {
        let (outcome, hits) = load.at(rate, time, CHANGES, (round as u64 + 1) << 32).await;
        let figures = format!("{}; {hits:.1} % kept", outcome.told());
        if rate == WANTED {
            let (p95, errors) = (outcome.within(0.95), outcome.errors());
            let note = format!("{:.0}/s answered: {figures}", outcome.per_second());
            report.alone(PART, "500 requests a second: P95", "ms", p95, Goal::AtMost(2_000.0), note);
            report.alone(PART, "errors", "%", errors, Goal::AtMost(0.1), "of all requests, refused ones too");
            report.alone(PART, "answers that were kept", "%", hits, Goal::AtLeast(95.0), "of all queries, by /metrics");
            let (kept, all) = load.at(rate, time, u64::MAX, 1 << 60).await;
            let note = format!("nobody changes anything, {all:.1} % are kept: {}", kept.told());
            report.alone(PART, "kept answers: p99", "ms", kept.within(0.99), Goal::AtMost(10.0), note);
        }
        eprintln!("  {rate:.0}/s: {figures}");
        if outcome.errors() >= 0.1 || outcome.within(0.95) >= 2_000.0 || outcome.per_second() < 0.9 * rate {
            broke = format!("{rate:.0}/s: {:.0}/s answered, {figures}", outcome.per_second());
            break;
        }
        held = rate;
    }
    let note = format!("clients on the same cores; broke: {broke}");
    report.alone(PART, "the highest rate that was held", "/s", held, Goal::AtLeast(WANTED), note);
}

/// An organisation with its people, projects and documents.
async fn found(server: &Running, number: usize, count: usize) -> Organization {
    let owner = server.register_as(&format!("Dash{number}")).await;
    let projects = server.projects(&owner, PROJECTS).await;
    let mut documents = Vec::new();
    for n in 0..DOCUMENTS {
        let words = format!("The {} of the {} and its {n} ropes", WORDS[n % 8], WORDS[(n + 3) % 8]);
        documents.push(server.upload(&owner, &projects[n % 5], &format!("{}-{n}.txt", WORDS[n % 8]), words).await);
    }
    let mut people = vec![owner];
    for n in 1..count {
        // Most look, some look after what others do.
        let role = if n % 10 == 0 { "admin" } else { "moderator" };
        people.push(server.join(&people[0], &format!("dash-{number}-{n}"), role).await);
    }
    server.documents_are_read(&people[0]).await;
    Organization { people, projects, documents }
}

struct Load<'a> {
    server: &'a Running,
    organizations: &'a [Organization],
}

impl Load<'_> {
    /// Requests at this rate, of which one of `changes` is a change; and how many of a hundred queries were answered with
    /// what is kept. `first`: so that no change is that of another round.
    async fn at(&self, rate: f64, time: Duration, changes: u64, first: u64) -> (Outcome, f64) {
        let before = self.kept().await;
        let outcome = arrivals(&[self.server], rate, time, |n| self.request(first + n, changes)).await;
        let after = self.kept().await;
        let [hits, all] = [after[0] - before[0], after[1] - before[1]];
        (outcome, hits / all * 1e2)
    }

    /// Queries that were answered with what is kept or just being made, and all.
    async fn kept(&self) -> [f64; 2] {
        let mut counts = [0.0; 3];
        for (count, outcome) in counts.iter_mut().zip(["hit", "coalesced", "miss"]) {
            *count = self.server.metric(&format!("oriel_cache_requests_total{{outcome=\"{outcome}\"}}")).await;
        }
        [counts[0] + counts[1], counts.iter().sum()]
    }

    fn request(&self, n: u64, changes: u64) -> Vec<u8> {
        // Spread over everything, and the same in each run.
        let dice = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pick = |shift: u32, count: usize| ((dice >> shift) % count as u64) as usize;
        let organization = &self.organizations[pick(8, ORGANIZATIONS)];
        let (person, project) = (pick(16, organization.people.len()), &organization.projects[pick(24, PROJECTS)]);
        let (document, word) = (&organization.documents[pick(32, DOCUMENTS)], WORDS[pick(40, 8)]);
        if n % changes == changes - 1 {
            let query = format!(
                "mutation {{ projectUpdate(input: {{id: \"{project}\", name: \"Name {n}\"}}) {{ project {{ name }} userErrors {{ message }} }} }}"
            );
            return request("/graphql", &organization.people[0], &json!({ "query": query }).to_string());
        }
        let body = match pick(48, 12) {
            0 => json!({ "query": "{ viewer { user { name } organization { name } permissions } }" }),
            1 => json!({ "query": "{ projects(first: 20) { totalCount nodes { id key name status updatedAt } } }" }),
            2 => {
                json!({ "query": "{ projects(filter: {status: {eq: ACTIVE}}) { totalCount } documents { totalCount } }" })
            }
            3 => {
                json!({ "query": "query($id: ID!) { project(id: $id) { key name status documentCount memberCount } }", "variables": { "id": project } })
            }
            4 => {
                json!({ "query": "{ documents(first: 20) { nodes { id title status size createdAt } pageInfo { hasNextPage endCursor } } }" })
            }
            5 => {
                json!({ "query": "{ documents(first: 10, orderBy: [{field: CREATED_AT, direction: DESC}]) { nodes { title createdAt project { name } } } }" })
            }
            6 => {
                json!({ "query": "query($id: ID) { documents(filter: {projectId: {eq: $id}}) { totalCount nodes { title status } } }", "variables": { "id": project } })
            }
            7 => {
                json!({ "query": "query($id: ID!) { document(id: $id) { title status size version project { name } } }", "variables": { "id": document } })
            }
            8 => {
                json!({ "query": "query($q: String!) { search(query: $q, first: 10) { totalCount nodes { ... on Document { title } } facets { field values { value count } } } }", "variables": { "q": word } })
            }
            9 => {
                json!({ "query": "query($p: String!) { suggest(prefix: $p) { text } }", "variables": { "p": &word[..3] } })
            }
            10 => {
                json!({ "query": "{ members(first: 20) { totalCount nodes { status user { name } roles { name } } } }" })
            }
            _ => json!({ "query": "{ organization { name } uploadPolicy { maxFileSize } }" }),
        };
        request("/graphql", &organization.people[person], &body.to_string())
    }
}
