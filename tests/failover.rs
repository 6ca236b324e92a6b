//! PostgreSQL is lost and its replica promoted: one that has each commit before it is acknowledged, and one that lacks
//! some. And a node that follows the log for all, stands still while another one takes over, and wakes up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oriel_engine::Database;
use oriel_engine::db::Location;
use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::nodes::{Shared, Stream, at_least, create, created, keys, leads, on, whole_log, writer};
use crate::support::{Pair, Server, Session};

async fn incarnation(session: &Session) -> Value {
    session.ask("{ system { incarnation } }", json!({})).await["system"]["incarnation"].clone()
}

fn is_whole(node: &Server, session: &Session) {
    let verified = node.oriel(&["read-models", "verify"], &session.token);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_promoted_and_everything_goes_on() {
    let Some(mut postgres) = Pair::start() else { return };
    let shared = Shared::on(postgres.url(), None);
    let [a, b] = [shared.node().await, shared.node().await];
    let ada = a.register("Ada").await;
    let [at_a, at_b] = [&a, &b].map(|node| on(node, &ada));
    let mut live = Stream::open(&at_b, "subscription { live { projects { totalCount } } }").await;
    let mut acknowledged = BTreeSet::new();
    for (number, session) in [&at_a, &at_b].into_iter().cycle().take(6).enumerate() {
        let key = format!("BEFORE{number}");
        created(session, &key).await;
        acknowledged.insert(key);
    }
    let before = incarnation(&at_a).await;

    postgres.crash();
    postgres.promote();
    let position = created(&at_a, "AFTER").await;
    acknowledged.insert("AFTER".to_owned());
    live.until(|answer| answer["live"]["projects"]["totalCount"] == 7).await;
    for session in [&at_a, &at_b] {
        at_least(session, &position, "{ organization { name } }").await;
        assert_eq!(keys(session).await, acknowledged);
        whole_log(session, &position).await;
        let renewed = |answer: &Value| answer["system"]["incarnation"] != before;
        session.until("{ system { incarnation } }", json!({}), renewed).await;
    }
    let now = incarnation(&at_a).await;
    assert_eq!(incarnation(&at_b).await, now, "all call it the same");

    // The one that was lost comes back by itself, and takes itself for the primary: nobody listens to it.
    postgres.the_other_comes_back();
    let b = b.restart().await;
    let at_b = on(&b, &ada);
    for (session, key) in [(&at_a, "LATER"), (&at_b, "LATEST")] {
        created(session, key).await;
        acknowledged.insert(key.to_owned());
    }
    assert_eq!(keys(&at_b).await, acknowledged);
    assert_eq!(incarnation(&at_b).await, now);
    assert_eq!(postgres.sql("SELECT count(*) FROM projects"), acknowledged.len().to_string());
    is_whole(&a, &at_a);
    is_whole(&b, &at_b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_stands_still_is_replaced_and_nobody_waits_for_it() {
    let Some(mut postgres) = Pair::start() else { return };
    let shared = Shared::on(postgres.url(), None);
    let node = shared.node().await;
    let ada = node.register("Ada").await;
    let mut live = Stream::open(&ada, "subscription { live { projects { totalCount } } }").await;
    created(&ada, "BEFORE").await;
    live.until(|answer| answer["live"]["projects"]["totalCount"] == 1).await;
    // As a machine that is gone without a word: no connection to it breaks.
    postgres.freeze();
    postgres.promote();
    let began = Instant::now();
    let position = created(&ada, "AFTER").await;
    println!("acknowledged {:.1?} after the promotion", began.elapsed());
    live.until(|answer| answer["live"]["projects"]["totalCount"] == 2).await;
    whole_log(&ada, &position).await;
    // It wakes up, and takes itself for the primary: nobody listens.
    postgres.thaw_the_other();
    created(&ada, "LATER").await;
    assert_eq!(postgres.sql("SELECT count(*) FROM projects"), "3");
    assert_eq!(keys(&ada).await.len(), 3);
    leads(&ada).await;
    is_whole(&node, &ada);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_way_to_a_primary_that_is_gone_is_not_waited_for() {
    let Some(mut postgres) = Pair::start() else { return };
    let shared = Shared::on(postgres.url(), None);
    let node = shared.node().await;
    let ada = node.register("Ada").await;
    created(&ada, "BEFORE").await;
    // Somebody else has the order lock: the change is under way in the server when that is gone.
    let holder = sea_orm::Database::connect(postgres.primary_url()).await.unwrap();
    let held = holder.begin().await.unwrap();
    held.execute_unprepared("SELECT pg_advisory_xact_lock(7022651418293)").await.unwrap();
    let under_way = tokio::task::spawn_blocking(move || {
        postgres.until_on_primary("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", "1");
        postgres.freeze();
        postgres.promote();
        postgres
    });
    let (answer, postgres) = tokio::join!(create(&ada, "UNDERWAY"), under_way);
    assert_eq!(answer, None, "nobody can know");
    let _postgres = postgres.unwrap();
    node.says("another server has taken the place of the one it was written to").await;
    // Whoever repeats it is answered.
    created(&ada, "UNDERWAY").await;
    assert_eq!(keys(&ada).await, BTreeSet::from(["BEFORE".to_owned(), "UNDERWAY".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_promoted_replica_lacks_is_said_and_nothing_wrong_is_answered() {
    let Some(mut postgres) = Pair::start() else { return };
    let shared = Shared::on(postgres.url(), None);
    let mut node = shared.node().await;
    let ada = node.register("Ada").await;
    created(&ada, "KEPT").await;
    let before = incarnation(&ada).await;
    // From here on the replica is not waited for, and has nothing more: the window of an asynchronous one, held open.
    postgres.cut_off();
    let lost = created(&ada, "LOST").await;
    assert_eq!(keys(&ada).await, BTreeSet::from(["KEPT".to_owned(), "LOST".to_owned()]));

    postgres.crash();
    postgres.promote();
    // It knows what is not there any more, and answers nothing from that.
    assert!(!node.ends().await.success());
    node.says("the database lacks what was committed").await;
    node = node.restart().await;
    let ada = on(&node, &ada);
    assert_eq!(keys(&ada).await, BTreeSet::from(["KEPT".to_owned()]));
    assert_ne!(incarnation(&ada).await, before);
    // Who has seen more is told so, and never answered with less.
    let request = ada.http.post(format!("{}/graphql", ada.url)).bearer_auth(&ada.token);
    let request = request.header("Oriel-At-Least", lost.as_str().unwrap());
    let refused: Value = request.json(&json!({"query": "{ __typename }"})).send().await.unwrap().json().await.unwrap();
    assert_eq!(refused["errors"][0]["extensions"]["code"], "POSITION_UNKNOWN", "{refused}");
    let query = json!({"query": format!("subscription {{ events(after: {lost}) {{ position }} }}")});
    let request = ada.http.post(format!("{}/graphql", ada.url)).bearer_auth(&ada.token).json(&query);
    let stream = request.header("Accept", "text/event-stream").send().await.unwrap().text().await.unwrap();
    assert!(stream.contains("POSITION_UNKNOWN"), "{stream}");
    // Who still knows what they did repeats it.
    created(&ada, "LOST").await;
    assert_eq!(keys(&ada).await, BTreeSet::from(["KEPT".to_owned(), "LOST".to_owned()]));
    is_whole(&node, &ada);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_replica_loses_the_end_and_nothing_before_it() {
    let Some(mut postgres) = Pair::start() else { return };
    postgres.wait_no_more();
    let shared = Shared::on(postgres.url(), None);
    let mut node = shared.node().await;
    let ada = node.register("Ada").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = writer(&ada, "K", &stop);
    let enough = |answer: &Value| answer["projects"]["totalCount"].as_u64() > Some(40);
    ada.until("{ projects { totalCount } }", json!({}), enough).await;
    // In the middle of a commit, which is the last one.
    postgres.crash();
    stop.store(true, Ordering::SeqCst);
    postgres.promote();
    let acknowledged = writing.await.unwrap();
    let there: BTreeSet<String> = postgres.sql("SELECT key FROM projects").lines().map(str::to_owned).collect();
    let lost = acknowledged.iter().filter(|key| !there.contains(*key)).count();
    println!("an asynchronous replica lacked {lost} of {} acknowledged changes", acknowledged.len());
    assert!(
        acknowledged[..acknowledged.len() - lost].iter().all(|key| there.contains(key)),
        "one in the middle is lost"
    );
    if lost > 0 {
        assert!(!node.ends().await.success());
        node = node.restart().await;
    }
    let ada = on(&node, &ada);
    for key in &acknowledged {
        created(&ada, key).await;
    }
    created(&ada, "LAST").await;
    // The one in whose middle it was is there, or is not.
    let now = keys(&ada).await;
    assert!(now.is_superset(&acknowledged.iter().cloned().collect()) && now.len() <= acknowledged.len() + 2, "{now:?}");
    is_whole(&node, &ada);
}

/// Who has the lease of each consumer, and how often it was taken.
async fn leases(database: &Database) -> Vec<(String, i64)> {
    let sql = "SELECT name || ' by ' || CAST(holder AS text) AS held, fence FROM consumers ORDER BY name";
    let rows = database.reader().query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    rows.iter().map(|row| (row.try_get("", "held").unwrap(), row.try_get("", "fence").unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_writes_nothing_when_it_wakes_up() {
    let Some(shared) = Shared::new(None) else { return };
    let url = &shared.environment.iter().find(|(name, _)| *name == "ORIEL_DATABASE_URL").unwrap().1;
    let database = Database::open(&Location::parse(url).unwrap(), 2).await.unwrap();
    let (a, b) = (shared.node().await, shared.node().await);
    let ada = a.register("Ada").await;
    let (at_a, at_b) = (on(&a, &ada), on(&b, &ada));
    let project = at_a.create_project("FILES").await;
    leads(&at_a).await;
    let held_by_a = leases(&database).await;

    a.freeze();
    leads(&at_b).await;
    let held_by_b = leases(&database).await;
    for ((before, fence), (after, raised)) in held_by_a.iter().zip(&held_by_b) {
        assert!(before != after && raised > fence, "{before} {fence}, {after} {raised}");
    }
    // What happens while it stands still leads to jobs, which it would make once more.
    let mut documents = Vec::new();
    for number in 0..3 {
        let uploaded = at_b.upload(&project, &format!("{number}.txt"), b"About wraparound.".to_vec()).await;
        let id = uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}")).to_owned();
        assert_eq!(at_b.document_ends(&id).await["status"], "READY");
        documents.push(id);
    }

    a.thaw();
    a.says("another node has taken the lease").await;
    let stands_by = |answer: &Value| {
        let consumers = answer["system"]["consumers"].as_array().unwrap();
        consumers.iter().filter(|one| one["state"] == "standing_by").count() == held_by_a.len()
    };
    at_a.until("{ system { consumers { name state } } }", json!({}), stands_by).await;
    leads(&at_b).await;
    assert_eq!(leases(&database).await, held_by_b, "the one that leads leads on");
    for id in &documents {
        let document = at_a.document_ends(id).await;
        let stages = document["pipeline"].as_array().unwrap();
        assert!(!stages.is_empty() && stages.iter().all(|stage| stage["attempts"].as_i64() <= Some(1)), "{document}");
    }
    let jobs = "SELECT count(*) AS n FROM (SELECT 1 FROM jobs GROUP BY queue, subject_id, position HAVING count(*) > 1) AS twice";
    let row =
        database.reader().query_one_raw(Statement::from_string(DbBackend::Postgres, jobs)).await.unwrap().unwrap();
    assert_eq!(row.try_get::<i64>("", "n").unwrap(), 0, "a job was made twice");
    is_whole(&a, &at_a);
}
