//! One node and three, over one PostgreSQL and one Redis, on one machine: what several nodes cost each other, and that
//! their answers are right. Whether they do more together is not seen where they share the cores.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine_testing::postgres;
use crate::load::{clients, request};
use crate::oriel::Running;
use crate::redis_server::RedisServer;
use crate::report::{Goal, Report};

const EACH: Duration = Duration::from_secs(4);
const READERS: usize = 12;
const WRITERS: usize = 64;
/// All nodes of an installation have the same.
const MASTER_KEY: &str = "b3JpZWwtbm9kZXMtc2hhcmUtdGhpcy1tYXN0ZXIta2U=";

pub async fn measure(report: &mut Report) {
    let Some((postgres, redis)) = postgres().zip(RedisServer::start()) else { return };
    let one = on(1, &postgres.fresh_database(), &redis.url()).await;
    let three = on(3, &postgres.fresh_database(), &redis.url()).await;
    let names = ["mutations, 64 clients", "uncached list of 20", "cached list of 20"];
    for (name, (one, three)) in names.into_iter().zip(one.into_iter().zip(three)) {
        let note = format!("p99 {:.1} ms, with one node {:.1}; floor: one node; the same cores", three.1, one.1);
        report.against("three nodes, PostgreSQL and Redis", name, "/s", three.0, one.0, Goal::None, note);
    }
}

/// How many a second and the p99 in ms: of changes, of what is read each time, and of what is kept.
async fn on(count: usize, database: &str, redis: &str) -> [(f64, f64); 3] {
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
    let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
    let ask = |query: String| request("/graphql", &token, &json!({ "query": query }).to_string());
    let list = "projects(first: 20) { nodes { id key name status updatedAt } }";

    let change = |client: usize, n: u64| {
        let id = &projects[client];
        ask(format!(
            "mutation {{ projectUpdate(input: {{id: \"{id}\", name: \"Name {n} of {client}\"}}) {{ position }} }}"
        ))
    };
    let changed = clients(&addresses, WRITERS, EACH, change).await;
    // Under another name each time, so that nobody has asked it before.
    let read = clients(&addresses, READERS, EACH, |client, n| ask(format!("{{ a{client}x{n}: {list} }}"))).await;
    let kept = clients(&addresses, READERS, EACH, |_, _| ask(format!("{{ {list} }}"))).await;
    for outcome in [&changed, &read, &kept] {
        assert_eq!(outcome.errors(), 0.0, "every request is answered");
    }
    // Whoever asks for what has been committed is shown the same by every node.
    let last = nodes[0]
        .post(&token, &json!({"query": "mutation { organizationUpdate(input: {name: \"Last\"}) { position } }"}))
        .await;
    let at_least = last["data"]["organizationUpdate"]["position"].clone();
    let all = "{ organization { name } projects(first: 100) { nodes { id name version } } }";
    let body = json!({ "query": all, "extensions": { "atLeast": at_least } });
    let mut shown: Vec<Value> = Vec::new();
    for node in &nodes {
        shown.push(node.post(&token, &body).await["data"].take());
    }
    shown.dedup();
    assert_eq!(shown.len(), 1, "the nodes do not show the same");
    [changed, read, kept].map(|outcome| (outcome.per_second(), outcome.within(0.99)))
}
