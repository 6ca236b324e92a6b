//! What several nodes share through Redis: one budget for each person, answers, the end of a session; and that a Redis
//! that is stopped or hangs costs time and nothing else. What is shared over a Cluster, and behind Sentinels, is tested
//! beside it, in `src/backends/redis`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use oriel_schema::endpoint::{Caller, Endpoint};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::freshness::{Numbers, ask};
use crate::nodes::{Node, PATIENCE, Shared, create, on};
use crate::support::{RedisServer, Server, Session};

const LOGIN: &str = "mutation($input: LoginInput!) { login(input: $input) { accessToken userErrors { message } } }";

fn servers() -> Option<(RedisServer, Shared)> {
    let redis = RedisServer::start()?;
    let shared = Shared::new(Some(&redis))?;
    Some((redis, shared))
}

/// Somebody who is not signed in, on this node.
fn nobody(node: &Server, session: &Session) -> Session {
    Session { token: String::new(), ..on(node, session) }
}

/// What is left of the rate limit after this query; `None` when it was refused for it.
async fn left(session: &Session, query: &str) -> Option<u64> {
    let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token);
    let response = request.json(&json!({ "query": query })).send().await.unwrap();
    if response.status() == 429 {
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
        return None;
    }
    let state = response.headers()["ratelimit"].to_str().unwrap();
    let left = state.split(';').find_map(|part| part.strip_prefix("r=")).unwrap();
    Some(left.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_the_budget_of_a_person() {
    let Some((mut redis, mut shared)) = servers() else { return };
    shared.environment.push(("ORIEL_RATE_LIMIT", "6000".to_owned()));
    let (a, b) = (shared.node().await, shared.node().await);
    let ada = a.register("Ada").await;
    let (at_a, at_b) = (on(&a, &ada), on(&b, &ada));
    // 501 each: a quarter of the budget on one node.
    let dear = "{ projects(first: 100) { nodes { id name key status } } }";
    let began = Instant::now();
    for _ in 0..3 {
        left(&at_a, dear).await.unwrap();
    }
    // It is gone on the other one, as soon as that is connected.
    let back = |since: Instant| since.elapsed().as_secs() * 100 + 100;
    loop {
        let left = left(&at_b, "{ __typename }").await.unwrap();
        if left <= 6_000 - 1_503 + back(began) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "each has a budget of its own: {left}");
    }
    // Spent together, it is spent for both.
    let nodes = [&at_a, &at_b];
    let mut served = 0;
    for node in nodes.into_iter().cycle() {
        match left(node, dear).await {
            Some(_) => served += 1,
            None => break,
        }
        assert!(served <= 10 + began.elapsed().as_secs() / 5, "more than there is was served");
    }
    // Others have their own; also when Redis is gone: each node goes on with what it knows of them.
    let grace = b.register("Grace").await;
    assert!(left(&on(&a, &grace), dear).await.is_some());
    redis.stop();
    let bob = a.register("Bob").await;
    for node in [&a, &b] {
        assert!(left(&on(node, &bob), dear).await.is_some());
    }
    let mut served = 0;
    while left(&on(&a, &bob), dear).await.is_some() {
        served += 1;
        assert!(served < 100, "without Redis there is no limit");
    }
}

/// Who may clear what this node keeps asks it again and again, until what another one has executed serves it.
async fn served_by_another(node: &Node, caller: &Caller, query: &str) -> Value {
    let began = Instant::now();
    loop {
        node.ask(caller, "mutation { cacheClear { position } }", json!({})).await;
        let before = node.house.endpoint.cache_report().shared;
        let answer = node.ask(caller, query, json!({})).await;
        if node.house.endpoint.cache_report().shared > before {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "it executes everything itself");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_has_answered_serves_the_others_for_as_long_as_it_is_current() {
    let Some((_redis, shared)) = servers() else { return };
    let (a, b) = (Node::open(&shared).await, Node::open(&shared).await);
    let ada = a.register().await;
    b.house.installation.engine.feed().catch_up().await.unwrap();
    let query = "{ organization { name } projects { totalCount } }";
    let name = |answer: &Value| answer["organization"]["name"].as_str().unwrap().to_owned();
    a.ask(&ada, query, json!({})).await;
    assert_eq!(name(&served_by_another(&b, &ada, query).await), "Ada");
    for number in 0..5 {
        // What was touched is not served any more, on whichever node it was changed.
        let (changing, other) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let new = format!("Name {number}");
        let position = changing.rename(&ada, &new).await;
        tokio::time::timeout(PATIENCE, other.house.installation.engine.feed().reached(position)).await.unwrap();
        other.ask(&ada, "mutation { cacheClear { position } }", json!({})).await;
        assert_eq!(name(&other.ask(&ada, query, json!({})).await), new);
        // And what is new serves.
        assert_eq!(name(&served_by_another(changing, &ada, query).await), new);
    }
    // A node that has just started has it from the others.
    let c = Node::open(&shared).await;
    let before = c.house.endpoint.cache_report();
    assert_eq!((before.hits, before.shared), (0, 0));
    assert_eq!(name(&served_by_another(&c, &ada, query).await), "Name 4");
    // What is for one person alone stays on its node.
    let personal = "{ viewer { user { name } sessions { id } } }";
    for node in [&a, &b, &c] {
        let before = node.house.endpoint.cache_report().shared;
        node.ask(&ada, personal, json!({})).await;
        assert_eq!(node.house.endpoint.cache_report().shared, before);
    }
    for node in [a, b, c] {
        node.close().await;
    }
}

/// Several nodes, changes on any of them, and questions to any of them: what a node serves, of its own or of another's,
/// is what it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_share_is_what_they_read() {
    const QUERIES: [&str; 5] = [
        "{ organization { name slug } }",
        "{ projects { totalCount nodes { key name status } } }",
        "{ projects(first: 1, orderBy: [{field: NAME, direction: DESC}]) { nodes { name documentCount } } }",
        "{ members { totalCount nodes { user { name } roles { name } } } }",
        r#"{ projects(filter: {status: {eq: ARCHIVED}}) { totalCount nodes { key } } }"#,
    ];
    let Some((_redis, shared)) = servers() else { return };
    let nodes = [Node::open(&shared).await, Node::open(&shared).await, Node::open(&shared).await];
    let fresh = nodes.each_ref().map(|node| Endpoint::keeping(Arc::clone(node.house.endpoint.services()), 0));
    let ada = nodes[0].register().await;
    let mut random = Numbers(7);
    let mut projects: Vec<String> = Vec::new();
    for step in 0..150 {
        let node = &nodes[random.below(3)];
        let changed = match random.below(6) {
            0 => node.ask(&ada, RENAME_ORGANIZATION, json!({"name": format!("Name {step}")})).await,
            1 => {
                let input = json!({"key": format!("KEY{step}"), "name": format!("Project {step}")});
                let made = node.ask(&ada, CREATE, json!({ "input": input })).await;
                projects.push(made["made"]["project"]["id"].as_str().unwrap().to_owned());
                made
            }
            2 if !projects.is_empty() => {
                let input = json!({"id": projects[random.below(projects.len())], "name": format!("Other {step}")});
                node.ask(&ada, UPDATE, json!({ "input": input })).await
            }
            3 if !projects.is_empty() => {
                let input = json!({"id": projects[random.below(projects.len())]});
                node.ask(&ada, ARCHIVE, json!({ "input": input })).await
            }
            _ => Value::Null,
        };
        if let Some(position) = changed["made"]["position"].as_str() {
            let position = position.parse().unwrap();
            for node in &nodes {
                let reached = node.house.installation.engine.feed().reached(position);
                tokio::time::timeout(PATIENCE, reached).await.unwrap();
            }
        }
        for _ in 0..3 {
            let (at, query) = (random.below(3), QUERIES[random.below(QUERIES.len())]);
            if random.below(2) == 0 {
                nodes[at].ask(&ada, "mutation { cacheClear { position } }", json!({})).await;
            }
            let kept = ask(&nodes[at].house.endpoint, &ada, query, &json!({})).await;
            let read = ask(&fresh[at], &ada, query, &json!({})).await;
            assert_eq!(kept, read, "step {step}, node {at}: {query}");
        }
    }
    let shared: u64 = nodes.iter().map(|node| node.house.endpoint.cache_report().shared).sum();
    println!("{shared} answers of another node were served");
    assert!(shared > 10, "hardly anything was shared: {shared}");
    for node in nodes {
        node.close().await;
    }
}

const RENAME_ORGANIZATION: &str =
    "mutation($name: String!) { made: organizationUpdate(input: {name: $name}) { position } }";
const CREATE: &str =
    "mutation($input: ProjectCreateInput!) { made: projectCreate(input: $input) { project { id } position } }";
const UPDATE: &str = "mutation($input: ProjectUpdateInput!) { made: projectUpdate(input: $input) { position } }";
const ARCHIVE: &str = "mutation($input: ProjectArchiveInput!) { made: projectArchive(input: $input) { position } }";

/// A session that is ended on one node is ended on all: at once for who says what they have seen, and for everybody else
/// as soon as the node has heard of it. Nothing of sessions is in Redis: they are rows, and what a node keeps of them is
/// current in the same way as everything else that it keeps.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_revoked_is_over_on_every_node() {
    let Some((mut redis, shared)) = servers() else { return };
    let (a, b) = (shared.node().await, shared.node().await);
    let ada = a.register("Ada").await;
    let email = json!({"input": {"email": "ada@example.org", "password": "correct horse battery"}});
    let mut waits = BTreeMap::new();
    for redis_is in ["there", "stopped"] {
        if redis_is == "stopped" {
            redis.stop();
        }
        for _ in 0..5 {
            // Another session of hers, known on both nodes.
            let token = nobody(&b, &ada).ask(LOGIN, email.clone()).await["login"]["accessToken"].clone();
            let other = Session { token: token.as_str().unwrap().to_owned(), ..ada.clone() };
            let id =
                on(&a, &other).ask("{ viewer { session { id } } }", json!({})).await["viewer"]["session"]["id"].clone();
            on(&b, &other).ask("{ viewer { session { id } } }", json!({})).await;
            let revoke = "mutation($id: ID!) { sessionRevoke(input: {id: $id}) { position userErrors { message } } }";
            let revoked = on(&a, &ada).ask(revoke, json!({ "id": id })).await["sessionRevoke"].clone();
            assert_eq!(revoked["userErrors"], json!([]));
            let began = Instant::now();
            assert_eq!(status(&on(&a, &other), None).await, 401, "the node that ended it");
            while status(&on(&b, &other), None).await != 401 {
                assert!(began.elapsed() < PATIENCE, "it goes on on the other node");
            }
            waits.entry(redis_is).or_insert_with(Vec::new).push(began.elapsed());
            assert_eq!(status(&on(&b, &other), revoked["position"].as_str()).await, 401);
        }
    }
    println!("a session that was revoked on one node was over on the other one after: {waits:?}");
}

/// Waits until this node's Redis has answered it.
async fn is_connected(node: &Server) {
    let began = Instant::now();
    loop {
        let metrics = reqwest::get(format!("{}/metrics", node.url)).await.unwrap().text().await.unwrap();
        if metrics.contains("oriel_backend_requests_total{backend=\"redis\",outcome=\"answered\"}") {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it has no connection to Redis");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Signs in; the code of the refusal, if it is one.
async fn sign_in(node: &Server, session: &Session, email: &str, password: &str) -> Result<String, String> {
    let input = json!({"input": {"email": email, "password": password}});
    let answer = nobody(node, session).raw(LOGIN.replace("{ message }", "{ code }").as_str(), input).await;
    let token = answer["data"]["login"]["accessToken"].as_str().map(str::to_owned);
    let refusal = [&answer["errors"][0]["extensions"]["code"], &answer["data"]["login"]["userErrors"][0]["code"]];
    let refusal = refusal.into_iter().find_map(Value::as_str).map(str::to_owned);
    token.ok_or_else(|| refusal.unwrap_or_else(|| panic!("{answer}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_at_every_node_waits_as_with_one_and_a_stopped_redis_keeps_nobody_out() {
    let Some((mut redis, shared)) = servers() else { return };
    let (a, b) = (shared.node().await, shared.node().await);
    let ada = a.register("Ada").await;
    a.register("Grace").await;
    for node in [&a, &b] {
        is_connected(node).await;
    }
    let mut tried = 0;
    for node in [&a, &b].into_iter().cycle() {
        match sign_in(node, &ada, "ada@example.org", "not her password").await.unwrap_err().as_str() {
            "INVALID_CREDENTIALS" => tried += 1,
            "RATE_LIMITED" => break,
            other => panic!("{other}"),
        }
        // Each of them would let ten pass before the first wait; the first waits are short, and the machine is slow.
        assert!(tried < 18, "each node counts for itself");
    }
    // Others sign in at the same address, on every node, with Redis and without.
    for redis_is in ["there", "stopped"] {
        if redis_is == "stopped" {
            redis.stop();
        }
        for node in [&a, &b, &a, &b] {
            let signed_in = sign_in(node, &ada, "grace@example.org", "correct horse battery").await;
            assert!(signed_in.is_ok(), "Redis is {redis_is}: {signed_in:?}");
        }
    }
    // What a node was told it knows: without Redis it goes on from there, and still counts.
    let mut tried = 0;
    while sign_in(&b, &ada, "ada@example.org", "not her password").await.unwrap_err() != "RATE_LIMITED" {
        tried += 1;
        assert!(tried < 12, "without Redis nobody waits");
    }
}

/// The code with which a node closes the socket of whoever is known by this token.
async fn socket(node: &Server, token: &str) -> impl Future<Output = u16> + use<> {
    let mut request = format!("{}/graphql", node.url.replacen("http", "ws", 1)).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let init = json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } });
    socket.send(Message::text(init.to_string())).await.unwrap();
    let acknowledged = socket.next().await.unwrap().unwrap();
    assert!(acknowledged.to_text().unwrap().contains("connection_ack"), "{acknowledged}");
    async move {
        loop {
            match tokio::time::timeout(PATIENCE, socket.next()).await.expect("it stays open") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_on_one_node_loses_its_sockets_on_every_node() {
    let Some((mut redis, shared)) = servers() else { return };
    let (a, b) = (shared.node().await, shared.node().await);
    let ada = a.register("Ada").await;
    for redis_is in ["there", "stopped"] {
        if redis_is == "stopped" {
            redis.stop();
        }
        let key = ada.with_key(&["projects:view"]).await;
        let session = sign_in(&a, &ada, "ada@example.org", "correct horse battery").await.unwrap();
        let session = Session { token: session, ..ada.clone() };
        // The other node knows them as soon as it has heard of them.
        for known in [&key, &session] {
            let began = Instant::now();
            while status(&on(&b, known), None).await == 401 {
                assert!(began.elapsed() < PATIENCE, "the other node does not hear of it");
            }
        }
        let (of_key, of_session) = (socket(&b, &key.token).await, socket(&b, &session.token).await);
        let keys = ada.ask("{ apiKeys(first: 10) { nodes { id revoked } } }", json!({})).await;
        let keys = keys["apiKeys"]["nodes"].as_array().unwrap();
        let id = keys.iter().find(|key| key["revoked"] == false).unwrap()["id"].clone();
        let revoke = "mutation($id: ID!) { apiKeyRevoke(input: {id: $id}) { userErrors { message } } }";
        assert_eq!(ada.ask(revoke, json!({ "id": id })).await["apiKeyRevoke"]["userErrors"], json!([]));
        session.ask("mutation { logout { position } }", json!({})).await;
        assert_eq!((of_key.await, of_session.await), (4401, 4401), "Redis is {redis_is}");
    }
}

async fn status(session: &Session, at_least: Option<&str>) -> u16 {
    let mut request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token);
    if let Some(position) = at_least {
        request = request.header("Oriel-At-Least", position);
    }
    request.json(&json!({"query": "{ viewer { user { name } } }"})).send().await.unwrap().status().as_u16()
}

/// How long each request of a time took, in order.
fn table(time: &str, kind: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!(
        "| {time} | {kind} | {} | {:.1} | {:.1} | {:.1} |",
        took.len(),
        at(0.5).as_secs_f64() * 1e3,
        at(0.99).as_secs_f64() * 1e3,
        at(1.0).as_secs_f64() * 1e3
    );
}

/// Two nodes under load, with a budget that is shared and answers that are: while Redis is stopped and while it hangs
/// every request is answered as before, and what it took is shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_stopped_or_hangs_costs_time_and_nothing_else() {
    println!("| Redis | request | number | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|---|");
    for trouble in ["stopped", "hanging"] {
        let Some((mut redis, mut shared)) = servers() else { return };
        shared.environment.push(("ORIEL_RATE_LIMIT", "100000000".to_owned()));
        let nodes = [shared.node().await, shared.node().await];
        let ada = nodes[0].register("Ada").await;
        load(&nodes, &ada, "there").await;
        match trouble {
            "stopped" => redis.stop(),
            _ => redis.freeze(),
        }
        load(&nodes, &ada, trouble).await;
        // Operators see it; balancers go on sending.
        degraded(&nodes[0], &ada).await;
        match trouble {
            "stopped" => redis.start_again(),
            _ => redis.thaw(),
        }
        load(&nodes, &ada, "there again").await;
    }
}

/// Eight clients that read and change, and one that signs in, for a while. Everything is answered.
async fn load(nodes: &[Server; 2], ada: &Session, time: &str) {
    const TIME: Duration = Duration::from_secs(4);
    let before = on(&nodes[0], ada).ask("{ projects { totalCount } }", json!({})).await;
    let mut projects = before["projects"]["totalCount"].as_u64().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (session, stop) = (on(&nodes[client % 2], ada), Arc::clone(&stop));
        let key = format!("P{projects}X{client}X");
        clients.spawn(async move {
            let (mut reads, mut writes) = (Vec::new(), Vec::new());
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                if reads.len() % 5 == 4 {
                    create(&session, &format!("{key}{}", writes.len())).await.expect("a change is refused");
                    writes.push(began.elapsed());
                }
                let began = Instant::now();
                let query = "query($n: Int) { projects(first: $n) { totalCount nodes { name } } }";
                session.ask(query, json!({"n": reads.len() % 7 + 1})).await;
                reads.push(began.elapsed());
            }
            (reads, writes)
        });
    }
    let began = Instant::now();
    let mut logins = Vec::new();
    while began.elapsed() < TIME {
        let input = json!({"input": {"email": "ada@example.org", "password": "correct horse battery"}});
        let asked = Instant::now();
        let answer = nobody(&nodes[logins.len() % 2], ada).ask(LOGIN, input).await;
        assert!(answer["login"]["accessToken"].is_string(), "{time}: {answer}");
        logins.push(asked.elapsed());
    }
    stop.store(true, Ordering::SeqCst);
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    while let Some(client) = clients.join_next().await {
        let (read, written) = client.unwrap();
        projects += written.len() as u64;
        reads.extend(read);
        writes.extend(written);
    }
    table(time, "query", reads);
    table(time, "change", writes);
    table(time, "sign-in", logins);
    // What was acknowledged is there on both nodes, each once.
    for node in nodes {
        let is_whole = |answer: &Value| answer["projects"]["totalCount"] == projects;
        on(node, ada).until("{ projects { totalCount } }", json!({}), is_whole).await;
    }
}

/// Waits until the node says that Redis is away.
async fn degraded(node: &Server, operator: &Session) {
    let query = "{ system { backends { name healthy breaker { state outages } } } }";
    let is_away = |answer: &Value| {
        let backends = answer["system"]["backends"].as_array().unwrap();
        backends.iter().any(|one| one["name"] == "redis" && one["healthy"] == false)
    };
    on(node, operator).until(query, json!({}), is_away).await;
    let health = operator.http.get(format!("{}/health/ready", node.url)).send().await.unwrap();
    assert_eq!(health.status(), 200);
    let health: Value = health.json().await.unwrap();
    assert_eq!(health["status"], "degraded", "{health}");
    let redis = health["components"].as_array().unwrap().iter().find(|one| one["name"] == "redis").unwrap().clone();
    assert_eq!((&redis["status"], &redis["kind"]), (&json!("down"), &json!("redis")));
    let is_open = |answer: &Value| {
        let backends = answer["system"]["backends"].as_array().unwrap();
        backends.iter().any(|one| one["name"] == "redis" && one["breaker"]["state"] == "OPEN")
    };
    on(node, operator).until(query, json!({}), is_open).await;
    let metrics = operator.http.get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
    // Now and then one asks whether it is back.
    let breaker = metrics.lines().find_map(|line| line.strip_prefix("oriel_backend_breaker{backend=\"redis\"} "));
    assert!(matches!(breaker, Some("1" | "2")), "it is not closed: {breaker:?}");
}
