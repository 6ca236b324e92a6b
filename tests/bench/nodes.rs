//! One node and three, over one PostgreSQL and one Redis, on one machine: what several nodes cost each other, and that
//! their answers are right. Whether they do more together is not seen where they share the cores.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine_testing::postgres;
use crate::load::{Outcome, clients, request};
use crate::oriel::Running;
use crate::redis_server::RedisServer;
use crate::report::{Goal, Report};
use crate::scale::Scale;

const READERS: usize = 12;
const WRITERS: usize = 64;
/// All nodes of an installation have the same.
const MASTER_KEY: &str = "b3JpZWwtbm9kZXMtc2hhcmUtdGhpcy1tYXN0ZXIta2U=";

pub async fn measure(report: &mut Report, scale: Scale) {
    let Some((postgres, redis)) = postgres().zip(RedisServer::start()) else {
        return report.broke("nodes want PostgreSQL and redis-server".to_owned());
    };
    let time = Duration::from_secs(scale.of(1, 5, 20));
    let one = on(1, &postgres.fresh_database(), &redis.url(), time).await;
    let three = on(3, &postgres.fresh_database(), &redis.url(), time).await;
    let names = ["mutations, 64 clients", "uncached list of 20", "cached list of 20"];
    for (name, (one, three)) in names.into_iter().zip(one.into_iter().zip(three)) {
        let note = format!("{}; floor: one node: {}", three.told(), one.told());
        let part = "three nodes and one, PostgreSQL and Redis";
        report.against(part, name, "/s", three.per_second(), one.per_second(), Goal::None, note);
        let errors = three.errors().max(one.errors());
        report.alone(part, format!("{name}: errors"), "%", errors, Goal::AtMost(0.1), "of the worse of both");
    }
}

/// What came of changes, of what is read each time, and of what is kept.
async fn on(count: usize, database: &str, redis: &str, time: Duration) -> [Outcome; 3] {
    let files = tempfile::tempdir().unwrap();
    let blobs = format!("file://{}", files.path().display());
    let settings = [
        ("ORIEL_DATABASE_URL", database),
        ("ORIEL_REDIS_URL", redis),
        ("ORIEL_BLOBS_URL", &blobs),
        ("ORIEL_MASTER_KEY", MASTER_KEY),
    ];
    let nodes: Vec<Running> = (0..count).map(|_| Running::start_with(&settings)).collect();
    let token = nodes[0].register().await;
    let projects = nodes[0].projects(&token, WRITERS).await;
    let all: Vec<&Running> = nodes.iter().collect();
    let ask = |query: String| request("/graphql", &token, &json!({ "query": query }).to_string());
    let list = "projects(first: 20) { nodes { id key name status updatedAt } }";

    let change = |client: usize, n: u64| {
        let id = &projects[client];
        ask(format!(
            "mutation {{ projectUpdate(input: {{id: \"{id}\", name: \"Name {n} of {client}\"}}) {{ position }} }}"
        ))
    };
    let changed = clients(&all, WRITERS, time, change).await;
    // Under another name each time, so that nobody has asked it before.
    let read = clients(&all, READERS, time, |client, n| ask(format!("{{ a{client}x{n}: {list} }}"))).await;
    let kept = clients(&all, READERS, time, |_, _| ask(format!("{{ {list} }}"))).await;
    // Whoever asks for what has been committed is shown the same by every node.
    let last = nodes[0]
        .post(&token, &json!({"query": "mutation { organizationUpdate(input: {name: \"Last\"}) { position } }"}))
        .await;
    let at_least = last["data"]["organizationUpdate"]["position"].clone();
    let whole = "{ organization { name } projects(first: 100) { nodes { id name version } } }";
    let body = json!({ "query": whole, "extensions": { "atLeast": at_least } });
    let mut shown: Vec<Value> = Vec::new();
    for node in &nodes {
        shown.push(node.post(&token, &body).await["data"].take());
    }
    shown.dedup();
    assert_eq!(shown.len(), 1, "the nodes do not show the same");
    [changed, read, kept]
}
