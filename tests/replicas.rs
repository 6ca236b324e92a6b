//! Queries answered from a replica of PostgreSQL: nobody notices when it lags, stands still or goes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Environment, Pair, Server, Session};

/// How many queries were read there so far.
async fn reads(server: &Server, session: &Session, target: &str) -> u64 {
    let metrics = session.http.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
    let line = format!("oriel_reads_total{{target=\"{target}\"}} ");
    metrics.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

/// Whether the replica takes reads, as operators see it.
async fn is_used(session: &Session, used: bool) {
    let is_so = |answer: &Value| {
        let backends = answer["system"]["backends"].as_array().unwrap();
        let replica = backends.iter().find(|backend| backend["name"] == "replica_1").expect("it is shown");
        replica["healthy"] == used && (used || replica["lastError"].is_string())
    };
    session.until("{ system { backends { name kind healthy lastError } } }", json!({}), is_so).await;
}

/// Makes a project and sees it, on the one connection and by a query that nobody has asked before.
async fn writes_and_reads(session: &Session, number: usize) {
    session.create_project(&format!("P{number}")).await;
    let query = format!("{{ seen{number}: projects {{ totalCount }} }}");
    let answer = session.ask(&query, json!({})).await;
    assert_eq!(answer[format!("seen{number}")]["totalCount"], number + 1, "what was written is read");
}

/// Asks what nobody has asked before, until one of the answers was read there.
async fn until_read_from(server: &Server, session: &Session, target: &str, asked: &mut usize) {
    let before = reads(server, session, target).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while reads(server, session, target).await == before {
        assert!(std::time::Instant::now() < deadline, "{target} takes no reads");
        *asked += 1;
        session.ask(&format!("{{ asked{asked}: organization {{ name projectCount }} }}"), json!({})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_answers_while_it_is_far_enough_and_nobody_notices_when_it_is_not() {
    let Some(mut pair) = tokio::task::spawn_blocking(Pair::start).await.unwrap() else { return };
    let environment: Environment =
        vec![("ORIEL_DATABASE_URL", pair.primary_url()), ("ORIEL_DATABASE_REPLICA_URL", pair.replica_url())];
    let server = Server::start_among(environment).await;
    let ada = server.register("Ada").await;
    let mut asked = 0;
    is_used(&ada, true).await;
    until_read_from(&server, &ada, "replica_1", &mut asked).await;

    // It receives everything and shows nothing of it.
    pair.on_replica("SELECT pg_wal_replay_pause()");
    pair.until_on_replica("SELECT pg_get_wal_replay_pause_state()", "paused");
    let query = "{ projects { totalCount nodes { key } } }";
    assert_eq!(ada.ask(query, json!({})).await["projects"]["totalCount"], 0);
    for number in 0..8 {
        writes_and_reads(&ada, number).await;
        assert_eq!(ada.ask(query, json!({})).await["projects"]["totalCount"], number + 1);
    }
    is_used(&ada, false).await;
    let before = reads(&server, &ada, "replica_1").await;
    until_read_from(&server, &ada, "primary", &mut asked).await;
    assert_eq!(reads(&server, &ada, "replica_1").await, before, "it takes no reads while it lags");
    pair.on_replica("SELECT pg_wal_replay_resume()");
    is_used(&ada, true).await;
    until_read_from(&server, &ada, "replica_1", &mut asked).await;

    // It is always a little late.
    pair.on_replica("ALTER SYSTEM SET recovery_min_apply_delay = '150ms'");
    pair.on_replica("SELECT pg_reload_conf()");
    pair.until_on_replica("SHOW recovery_min_apply_delay", "150ms");
    for number in 8..24 {
        writes_and_reads(&ada, number).await;
        assert_eq!(ada.ask(query, json!({})).await["projects"]["totalCount"], number + 1);
    }
    pair.on_replica("ALTER SYSTEM SET recovery_min_apply_delay = 0");
    pair.on_replica("SELECT pg_reload_conf()");

    // It goes, and comes back. A commit does not wait for it.
    pair.wait_no_more();
    pair.lose_replica();
    for number in 24..32 {
        writes_and_reads(&ada, number).await;
    }
    is_used(&ada, false).await;
    pair.replica_comes_back();
    is_used(&ada, true).await;
    until_read_from(&server, &ada, "replica_1", &mut asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_never_answered_keeps_nobody_from_starting() {
    let Some(url) = crate::support::databases().into_iter().flatten().next() else { return };
    let environment: Environment = vec![
        ("ORIEL_DATABASE_URL", url),
        (
            "ORIEL_DATABASE_REPLICA_URL",
            "postgres://oriel@127.0.0.1:1/oriel,postgres://oriel@127.0.0.1:2/oriel".to_owned(),
        ),
    ];
    let server = Server::start_among(environment).await;
    let ada = server.register("Ada").await;
    for number in 0..3 {
        writes_and_reads(&ada, number).await;
    }
    is_used(&ada, false).await;
}
