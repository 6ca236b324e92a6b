//! Three nodes, a PostgreSQL and a Redis, of which one after the other is killed, stopped or left hanging, while clients
//! write and remember each acknowledgement, follow the log, and watch a live query. Afterwards: what was acknowledged is
//! there, once; the log has no gap; who followed it has seen each event once and in order; who watched has seen the end;
//! and every read model is what the log gives. `ORIEL_CHAOS_SECONDS` says for how long (`.ci/long`: twenty minutes).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::freshness::Numbers;
use crate::nodes::{MASTER_KEY, PATIENCE, on};
use crate::support::{Cluster, RedisServer, Server, Session};

const CREATE: &str = "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) \
                      { project { key } position userErrors { code message } } }";
/// How long a client waits for an answer before it asks another node.
const TURN: Duration = Duration::from_secs(5);

/// What the clients share.
struct World {
    urls: Mutex<Vec<String>>,
    session: Session,
    /// Writers stop when this is set; followers when they have seen everything.
    over: AtomicBool,
    acknowledged: AtomicU64,
}

impl World {
    /// The same person on some node.
    fn on_some(&self, numbers: &mut Numbers) -> Session {
        let urls = self.urls.lock().unwrap();
        Session { url: urls[numbers.below(urls.len())].clone(), ..self.session.clone() }
    }
}

/// Makes projects, one after the other, each until it is acknowledged, on whichever node answers. Their keys.
async fn writer(world: Arc<World>, client: usize) -> Vec<String> {
    let (mut keys, mut numbers) = (Vec::new(), Numbers(client as u64));
    while !world.over.load(Ordering::SeqCst) {
        let key = format!("C{client}X{}", keys.len());
        let input = json!({"input": {"key": key, "name": key, "idempotencyKey": key}});
        loop {
            let session = world.on_some(&mut numbers);
            let body = json!({"query": CREATE, "variables": input});
            let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token).json(&body);
            let answer = async { request.send().await.ok()?.json::<Value>().await.ok() };
            let answer = timeout(TURN, answer).await.ok().flatten().unwrap_or_default();
            let payload = &answer["data"]["projectCreate"];
            if payload["userErrors"] == json!([]) {
                assert_eq!(payload["project"]["key"], key, "{answer}");
                break;
            }
            // Refused for now, or nothing was heard. Never that the key is taken: it was this one that took it.
            assert!(payload["userErrors"].is_null(), "{key}: {answer}");
            let code = answer["errors"][0]["extensions"]["code"].as_str();
            let may_pass = matches!(code, None | Some("UNAVAILABLE" | "OVERLOADED" | "BEHIND"));
            assert!(may_pass, "{key}: {answer}");
            sleep(Duration::from_millis(20)).await;
        }
        world.acknowledged.fetch_add(1, Ordering::SeqCst);
        keys.push(key);
    }
    keys
}

/// The data of a subscription's answers, until it breaks off or `each` has seen enough: then it gives true.
async fn follow(session: &Session, query: &str, mut each: impl FnMut(&Value) -> bool) -> bool {
    let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token);
    let request = request.header("Accept", "text/event-stream").json(&json!({ "query": query }));
    let Ok(Ok(mut response)) = timeout(TURN, request.send()).await else { return false };
    let mut text = String::new();
    // A stream says that it lives every 20 s.
    while let Ok(Ok(Some(chunk))) = timeout(Duration::from_secs(30), response.chunk()).await {
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data:")).map(str::trim);
            let answer = data.and_then(|data| serde_json::from_str::<Value>(data).ok());
            text = rest.to_owned();
            if answer.is_some_and(|answer| answer["data"].is_object() && each(&answer["data"])) {
                return true;
            }
        }
    }
    false
}

/// Follows the log from node to node. Each event's position; its sequence is checked.
async fn follower(world: Arc<World>, seed: u64, end: Arc<AtomicU64>) -> Vec<u64> {
    let (mut positions, mut numbers) = (Vec::<u64>::new(), Numbers(seed));
    loop {
        let after = positions.last().copied().unwrap_or(0);
        let query = format!("subscription {{ events(after: \"{after}\") {{ sequence position }} }}");
        let session = world.on_some(&mut numbers);
        let whole = follow(&session, &query, |data| {
            let number = |name: &str| match &data["events"][name] {
                Value::String(text) => text.parse::<u64>().unwrap(),
                number => number.as_u64().unwrap(),
            };
            positions.push(number("position"));
            assert_eq!(number("sequence"), positions.len() as u64, "an event is missing, or came twice");
            positions.last() >= Some(&end.load(Ordering::SeqCst))
        });
        if whole.await {
            return positions;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Watches a live query from node to node until it shows the end.
async fn watcher(world: Arc<World>, seed: u64, projects: Arc<AtomicU64>) {
    let mut numbers = Numbers(seed);
    loop {
        let query = "subscription { live { projects { totalCount } } }";
        let at_the_end = |data: &Value| data["live"]["projects"]["totalCount"] == projects.load(Ordering::SeqCst);
        if follow(&world.on_some(&mut numbers), query, at_the_end).await {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until this node is ready.
async fn ready(node: &Server) {
    let began = Instant::now();
    let http = reqwest::Client::new();
    loop {
        let asked = http.get(format!("{}/health/ready", node.url)).timeout(TURN).send().await;
        if asked.is_ok_and(|answer| answer.status() == 200) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "a node does not become ready again");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_everything() {
    let seconds = std::env::var("ORIEL_CHAOS_SECONDS").ok().map_or(30, |text| text.parse().unwrap());
    let (Some(mut postgres), Some(mut redis)) = (Cluster::start(), RedisServer::start()) else { return };
    let files = TempDir::new().unwrap();
    let environment = vec![
        ("ORIEL_DATABASE_URL", postgres.url()),
        ("ORIEL_MASTER_KEY", MASTER_KEY.to_owned()),
        ("ORIEL_BLOBS_URL", format!("file://{}", files.path().display())),
        ("ORIEL_REDIS_URL", redis.url()),
        ("ORIEL_ACCESS_TOKEN_TTL", "1d".to_owned()),
        ("ORIEL_DATABASE_MAX_CONNECTIONS", "10".to_owned()),
    ];
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Some(Server::start_among(environment.clone()).await));
    }
    let url = |node: &Option<Server>| node.as_ref().unwrap().url.clone();
    let session = nodes[0].as_ref().unwrap().register("Ada").await;
    let world = Arc::new(World {
        urls: Mutex::new(nodes.iter().map(url).collect()),
        session,
        over: AtomicBool::new(false),
        acknowledged: AtomicU64::new(0),
    });
    let (end, projects) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(u64::MAX)));
    let (mut writers, mut followers, mut watchers) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    (0..6).for_each(|client| _ = writers.spawn(writer(Arc::clone(&world), client)));
    (0..2).for_each(|seed| _ = followers.spawn(follower(Arc::clone(&world), seed, Arc::clone(&end))));
    (0..2).for_each(|seed| _ = watchers.spawn(watcher(Arc::clone(&world), seed, Arc::clone(&projects))));

    let mut numbers = Numbers(std::process::id().into());
    let mut faults: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let began = Instant::now();
    // Each at least once, in the short version too.
    let kinds = ["node killed", "node hangs", "PostgreSQL killed", "Redis killed", "node restarted", "Redis hangs"];
    for number in 0.. {
        if number >= kinds.len() && began.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        let kind = if number < kinds.len() { kinds[number] } else { kinds[numbers.below(kinds.len())] };
        let at = numbers.below(3);
        let pause = Duration::from_millis(500 + numbers.below(2_500) as u64);
        let (before, fault) = (world.acknowledged.load(Ordering::SeqCst), Instant::now());
        // What is written after the fault, and not what was on its way.
        let acknowledged = async {
            while world.acknowledged.load(Ordering::SeqCst) < before + 7 {
                sleep(Duration::from_millis(5)).await;
            }
            fault.elapsed()
        };
        let silence = match kind {
            "node killed" => {
                nodes[at].as_mut().unwrap().kill();
                timeout(PATIENCE, acknowledged).await
            }
            "node restarted" => {
                let mut leaving = nodes[at].take().unwrap();
                let ended = tokio::task::spawn_blocking(move || (leaving.terminate(), leaving)).await.unwrap();
                assert!(ended.0.success());
                nodes[at] = Some(ended.1);
                timeout(PATIENCE, acknowledged).await
            }
            "node hangs" => {
                nodes[at].as_ref().unwrap().freeze();
                sleep(pause).await;
                let silence = timeout(PATIENCE, acknowledged).await;
                nodes[at].as_ref().unwrap().thaw();
                silence
            }
            "PostgreSQL killed" => {
                postgres.crash();
                sleep(pause).await;
                postgres.start_again();
                timeout(PATIENCE, acknowledged).await
            }
            "Redis killed" => {
                redis.stop();
                sleep(pause).await;
                let silence = timeout(PATIENCE, acknowledged).await;
                redis.start_again();
                silence
            }
            _ => {
                redis.freeze();
                sleep(pause).await;
                let silence = timeout(PATIENCE, acknowledged).await;
                redis.thaw();
                silence
            }
        };
        let silence = silence.unwrap_or_else(|_| panic!("after \"{kind}\" nothing is acknowledged any more"));
        faults.entry(kind).or_default().push(silence);
        if matches!(kind, "node killed" | "node restarted") {
            let back = nodes[at].take().unwrap().restart().await;
            world.urls.lock().unwrap()[at] = back.url.clone();
            nodes[at] = Some(back);
        }
        for node in nodes.iter().flatten() {
            ready(node).await;
        }
    }
    world.over.store(true, Ordering::SeqCst);
    let mut acknowledged = BTreeSet::new();
    while let Some(keys) = writers.join_next().await {
        acknowledged.extend(keys.unwrap());
    }

    // Every acknowledged write is there, once, and nothing else is.
    let rows = postgres.sql("oriel", "SELECT key FROM projects");
    let there: Vec<String> = rows.lines().map(str::to_owned).collect();
    assert_eq!(there.len(), acknowledged.len(), "something is there twice, or is lost");
    assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), acknowledged);
    let count = |sql: &str| postgres.sql("oriel", sql).parse::<u64>().unwrap();
    let written = count("SELECT count(*) FROM events WHERE type = 'project_created'");
    assert_eq!(written, acknowledged.len() as u64, "one event for each");
    // The log has no gap.
    let contiguous = "SELECT count(*) = max(position) AND min(position) = 1 FROM events";
    assert_eq!(postgres.sql("oriel", contiguous), "t");
    // Followers see everything, once and in order; watchers the end.
    // With one more, made below, so that who waits for what comes next hears of something.
    projects.store(written + 1, Ordering::SeqCst);
    end.store(
        count(
            "SELECT max(position) FROM events WHERE organization_id = (SELECT organization_id FROM projects LIMIT 1)",
        ),
        Ordering::SeqCst,
    );
    let nodes: Vec<Server> = nodes.into_iter().flatten().collect();
    let someone = on(&nodes[0], &world.session);
    let last = json!({"input": {"key": "LAST", "name": "Last"}});
    someone.ask(CREATE, last).await;
    let mut seen = BTreeSet::new();
    while let Some(positions) = timeout(2 * PATIENCE, followers.join_next()).await.expect("a follower hears no end") {
        let positions = positions.unwrap();
        assert!(positions.windows(2).all(|two| two[0] < two[1]));
        seen.insert(
            positions.into_iter().filter(|position| *position <= end.load(Ordering::SeqCst)).collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen.len(), 1, "they have seen different things");
    while let Some(watched) = timeout(2 * PATIENCE, watchers.join_next()).await.expect("a watcher sees no end") {
        watched.unwrap();
    }
    // Every read model, and each node's index, is what the log gives.
    for node in &nodes {
        let verified = node.oriel(&["read-models", "verify"], &world.session.token);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
    all_at_the_end(&nodes, &world.session).await;
    println!("{} writes were acknowledged, and nothing was lost.\n", acknowledged.len());
    println!("| fault | times | nothing was acknowledged for: median | longest |\n|---|---|---|---|");
    for (fault, mut silences) in faults {
        silences.sort();
        let (median, longest) = (silences[silences.len() / 2], silences[silences.len() - 1]);
        println!("| {fault} | {} | {median:.1?} | {longest:.1?} |", silences.len());
    }
}

/// What follows the log has come to its end, each on one node or another.
async fn all_at_the_end(nodes: &[Server], session: &Session) {
    let query = "{ system { position consumers { name state position setAside } } }";
    let began = Instant::now();
    loop {
        let mut behind = BTreeSet::new();
        let mut led = BTreeSet::new();
        for node in nodes {
            let answer = on(node, session).ask(query, json!({})).await;
            let head = &answer["system"]["position"];
            for one in answer["system"]["consumers"].as_array().unwrap() {
                let name = one["name"].as_str().unwrap().to_owned();
                assert_eq!(one["setAside"], 0, "{one}");
                if one["state"] == "running" && &one["position"] == head {
                    led.insert(name);
                } else {
                    behind.insert(name);
                }
            }
        }
        if behind.is_subset(&led) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "nobody brings these to the end: {behind:?}, only {led:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
