//! Three nodes over a PostgreSQL with a synchronous replica, a Redis and a bucket, of which one after the other is
//! killed, stopped, lost or left hanging, while clients write and upload and remember each acknowledgement, follow the
//! log, and watch a live query. Afterwards: what was acknowledged is there, once; the log has no gap; who followed it
//! has seen each event once and in order; who watched has seen the end; every document is read and found; and every read
//! model is what the log gives. `ORIEL_CHAOS_SECONDS` says for how long (`.ci/long`: twenty minutes); what users saw of
//! each fault is printed as the table of `deploy/faults.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::freshness::Numbers;
use crate::nodes::{MASTER_KEY, PATIENCE, on};
use crate::support::{Bucket, Pair, RedisServer, Server, Session};

const CREATE: &str = "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) \
                      { project { key } position userErrors { code message } } }";
const UPLOAD: &str = "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) \
                      { document { id } userErrors { code message } } }";
/// How long a client waits for an answer before it asks another node.
const TURN: Duration = Duration::from_secs(5);
/// How long a client rests after each acknowledgement: it is about faults and not about throughput.
const REST: Duration = Duration::from_millis(30);

/// How something goes on that every client waits for.
struct Pulse(Mutex<Beats>);

struct Beats {
    count: u64,
    last: Instant,
    /// The longest time without one.
    longest: Duration,
}

impl Pulse {
    fn new() -> Self {
        Self(Mutex::new(Beats { count: 0, last: Instant::now(), longest: Duration::ZERO }))
    }

    fn beat(&self) {
        let mut beats = self.0.lock().unwrap();
        beats.count += 1;
        beats.longest = beats.longest.max(beats.last.elapsed());
        beats.last = Instant::now();
    }

    fn count(&self) -> u64 {
        self.0.lock().unwrap().count
    }

    /// From here on the longest silence is measured anew.
    fn begin(&self) {
        let mut beats = self.0.lock().unwrap();
        (beats.last, beats.longest) = (Instant::now(), Duration::ZERO);
    }

    fn longest(&self) -> Duration {
        self.0.lock().unwrap().longest
    }

    /// Waits until there were so many more.
    async fn goes_on(&self, what: &str, fault: &str, more: u64) {
        let (from, began) = (self.count(), Instant::now());
        while self.count() < from + more {
            // A breaker leaves a server alone for a minute.
            assert!(began.elapsed() < 3 * PATIENCE, "after \"{fault}\" nothing is {what} any more");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What the clients share.
struct World {
    urls: Mutex<Vec<String>>,
    session: Session,
    project: String,
    /// Writers stop when this is set; followers when they have seen everything.
    over: AtomicBool,
    changes: Pulse,
    uploads: Pulse,
    events: [Pulse; 2],
    live: [Pulse; 2],
    /// What was answered instead of an acknowledgement, since the last fault.
    refusals: Mutex<BTreeSet<String>>,
}

impl World {
    /// The same person on some node.
    fn on_some(&self, numbers: &mut Numbers) -> Session {
        let urls = self.urls.lock().unwrap();
        Session { url: urls[numbers.below(urls.len())].clone(), ..self.session.clone() }
    }

    /// Whether this is the acknowledgement. If not it was refused for now, or nothing was heard: anything else is a
    /// defect, above all that it is there already.
    fn is_acknowledged(&self, key: &str, answer: &Value, payload: &Value) -> bool {
        if payload["userErrors"] == json!([]) {
            return true;
        }
        assert!(payload["userErrors"].is_null(), "{key}: {answer}");
        let code = answer["errors"][0]["extensions"]["code"].as_str();
        let may_pass = matches!(code, None | Some("UNAVAILABLE" | "OVERLOADED" | "BEHIND"));
        assert!(may_pass, "{key}: {answer}");
        self.refusals.lock().unwrap().insert(code.unwrap_or("no answer").to_owned());
        false
    }
}

async fn answer_of(request: reqwest::RequestBuilder) -> Value {
    let answer = async { request.send().await.ok()?.json::<Value>().await.ok() };
    timeout(TURN, answer).await.ok().flatten().unwrap_or_default()
}

/// Makes projects, one after the other, each until it is acknowledged, on whichever node answers. Their keys.
async fn writer(world: Arc<World>, client: usize) -> Vec<String> {
    let (mut keys, mut numbers) = (Vec::new(), Numbers(client as u64));
    while !world.over.load(Ordering::SeqCst) {
        let key = format!("C{client}X{}", keys.len());
        let body = json!({"query": CREATE,
            "variables": {"input": {"key": key, "name": key, "idempotencyKey": key}}});
        loop {
            let session = world.on_some(&mut numbers);
            let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token).json(&body);
            let answer = answer_of(request).await;
            let payload = &answer["data"]["projectCreate"];
            if world.is_acknowledged(&key, &answer, payload) {
                assert_eq!(payload["project"]["key"], key, "{answer}");
                break;
            }
            sleep(REST).await;
        }
        world.changes.beat();
        keys.push(key);
        sleep(REST).await;
    }
    keys
}

/// What the document of this name says.
fn text_of(name: &str) -> String {
    format!("About wraparound in {name}.")
}

/// Uploads documents, one after the other, each until it is acknowledged. Their ids, and their names.
async fn uploader(world: Arc<World>, client: usize) -> Vec<(String, String)> {
    let (mut documents, mut numbers) = (Vec::new(), Numbers(100 + client as u64));
    while !world.over.load(Ordering::SeqCst) {
        let name = format!("D{client}X{}.txt", documents.len());
        let input = json!({"projectId": world.project, "file": null, "idempotencyKey": name});
        let operations = json!({"query": UPLOAD, "variables": {"input": input}}).to_string();
        let id = loop {
            let session = world.on_some(&mut numbers);
            let file = reqwest::multipart::Part::bytes(text_of(&name).into_bytes()).file_name(name.clone());
            let form = reqwest::multipart::Form::new().text("operations", operations.clone());
            let form = form.text("map", r#"{"0":["variables.input.file"]}"#).part("0", file);
            let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token);
            let answer = answer_of(request.header("graphql-require-preflight", "1").multipart(form)).await;
            let payload = &answer["data"]["documentUpload"];
            if world.is_acknowledged(&name, &answer, payload) {
                break payload["document"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
            }
            // As somebody does who is told that it is not available.
            sleep(10 * REST).await;
        };
        world.uploads.beat();
        documents.push((id, name));
        sleep(10 * REST).await;
    }
    documents
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
async fn follower(world: Arc<World>, number: usize, end: Arc<AtomicU64>) -> Vec<u64> {
    let (mut positions, mut numbers) = (Vec::<u64>::new(), Numbers(number as u64));
    loop {
        let after = positions.last().copied().unwrap_or(0);
        let query = format!("subscription {{ events(after: \"{after}\") {{ sequence position }} }}");
        let session = world.on_some(&mut numbers);
        let whole = follow(&session, &query, |data| {
            let number_of = |name: &str| match &data["events"][name] {
                Value::String(text) => text.parse::<u64>().unwrap(),
                number => number.as_u64().unwrap(),
            };
            positions.push(number_of("position"));
            assert_eq!(number_of("sequence"), positions.len() as u64, "an event is missing, or came twice");
            world.events[number].beat();
            positions.last() >= Some(&end.load(Ordering::SeqCst))
        });
        if whole.await {
            return positions;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Watches a live query from node to node until it shows the end.
async fn watcher(world: Arc<World>, number: usize, projects: Arc<AtomicU64>) {
    let mut numbers = Numbers(number as u64);
    loop {
        let query = "subscription { live { projects { totalCount } } }";
        let at_the_end = |data: &Value| {
            world.live[number].beat();
            data["live"]["projects"]["totalCount"] == projects.load(Ordering::SeqCst)
        };
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

/// What befalls the house.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    NodeKilled,
    NodeHangs,
    NodeRestarted,
    PostgresKilled,
    PostgresHangs,
    PrimaryLost,
    RedisKilled,
    RedisHangs,
    BucketAway,
}

impl Fault {
    /// Each at least once, in the short version too.
    const ALL: [Self; 9] = [
        Self::NodeKilled,
        Self::NodeHangs,
        Self::BucketAway,
        Self::PostgresKilled,
        Self::RedisKilled,
        Self::PrimaryLost,
        Self::NodeRestarted,
        Self::PostgresHangs,
        Self::RedisHangs,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NodeKilled => "a node is killed",
            Self::NodeHangs => "a node hangs",
            Self::NodeRestarted => "a node is restarted",
            Self::PostgresKilled => "PostgreSQL is killed, and recovers",
            Self::PostgresHangs => "PostgreSQL hangs",
            Self::PrimaryLost => "the primary is lost, its replica promoted",
            Self::RedisKilled => "Redis is killed",
            Self::RedisHangs => "Redis hangs",
            Self::BucketAway => "the S3 bucket is away",
        }
    }
}

/// What runs, and can be hit.
struct House {
    nodes: Vec<Option<Server>>,
    postgres: Pair,
    redis: RedisServer,
    bucket: Bucket,
    promotions: usize,
}

impl House {
    async fn begin(&mut self, fault: Fault, at: usize) {
        match fault {
            Fault::NodeKilled => self.nodes[at].as_mut().unwrap().kill(),
            Fault::NodeHangs => self.nodes[at].as_ref().unwrap().freeze(),
            Fault::NodeRestarted => {
                let mut leaving = self.nodes[at].take().unwrap();
                let ended = tokio::task::spawn_blocking(move || (leaving.terminate(), leaving)).await.unwrap();
                assert!(ended.0.success());
                self.nodes[at] = Some(ended.1);
            }
            Fault::PostgresKilled | Fault::PrimaryLost => self.postgres.crash(),
            Fault::PostgresHangs => self.postgres.freeze(),
            Fault::RedisKilled => self.redis.stop(),
            Fault::RedisHangs => self.redis.freeze(),
            Fault::BucketAway => self.bucket.stop(),
        }
    }

    async fn end(&mut self, fault: Fault, at: usize, world: &World) {
        match fault {
            Fault::NodeKilled | Fault::NodeRestarted => {
                let back = self.nodes[at].take().unwrap().restart().await;
                world.urls.lock().unwrap()[at] = back.url.clone();
                self.nodes[at] = Some(back);
            }
            Fault::NodeHangs => self.nodes[at].as_ref().unwrap().thaw(),
            Fault::PostgresKilled => self.postgres.start_again(),
            Fault::PrimaryLost => {
                self.postgres.promote();
                self.promotions += 1;
            }
            Fault::PostgresHangs => self.postgres.thaw(),
            Fault::RedisKilled => self.redis.start_again(),
            Fault::RedisHangs => self.redis.thaw(),
            Fault::BucketAway => self.bucket.start_again(),
        }
    }
}

/// What users saw of one kind of fault.
#[derive(Default)]
struct Seen {
    changes: Vec<Duration>,
    uploads: Vec<Duration>,
    events: Vec<Duration>,
    live: Vec<Duration>,
    /// From when the fault was over to the next acknowledgement of anything.
    after: Vec<Duration>,
    refusals: BTreeSet<String>,
}

/// One fault from its beginning until everything goes on.
async fn strike(house: &mut House, world: &World, fault: Fault, at: usize, pause: Duration, seen: &mut Seen) {
    let pulses = || [&world.changes, &world.uploads].into_iter().chain(&world.events).chain(&world.live);
    pulses().for_each(Pulse::begin);
    world.refusals.lock().unwrap().clear();
    house.begin(fault, at).await;
    sleep(pause).await;
    // What goes on without the one that is away goes on now, and does not wait for it.
    if !matches!(fault, Fault::PostgresKilled | Fault::PostgresHangs | Fault::PrimaryLost) {
        world.changes.goes_on("acknowledged", fault.name(), 7).await;
        if fault != Fault::BucketAway {
            world.uploads.goes_on("taken in", fault.name(), 1).await;
        }
    }
    house.end(fault, at, world).await;
    let back = Instant::now();
    world.changes.goes_on("acknowledged", fault.name(), 1).await;
    seen.after.push(back.elapsed());
    world.changes.goes_on("acknowledged", fault.name(), 6).await;
    world.uploads.goes_on("taken in", fault.name(), 2).await;
    for pulse in &world.events {
        pulse.goes_on("heard", fault.name(), 1).await;
    }
    for pulse in &world.live {
        pulse.goes_on("shown", fault.name(), 1).await;
    }
    let longest = |pulses: &[Pulse]| pulses.iter().map(Pulse::longest).max().unwrap_or_default();
    seen.changes.push(world.changes.longest());
    seen.uploads.push(world.uploads.longest());
    seen.events.push(longest(&world.events));
    seen.live.push(longest(&world.live));
    seen.refusals.append(&mut world.refusals.lock().unwrap());
    for node in house.nodes.iter().flatten() {
        ready(node).await;
    }
    // What can be lost next has to be on the replica.
    if fault == Fault::PrimaryLost {
        house.postgres.attach();
    }
    house.postgres.has_replica();
}

/// In the middle and at most.
fn figures(durations: &[Duration]) -> String {
    let mut sorted = durations.to_vec();
    sorted.sort();
    let seconds = |duration: &Duration| format!("{:.1}", duration.as_secs_f64());
    format!("{} / {} s", seconds(&sorted[sorted.len() / 2]), seconds(&sorted[sorted.len() - 1]))
}

fn table(faults: &BTreeMap<Fault, Seen>) -> String {
    let mut lines = vec![
        "| fault | times | no change was acknowledged | no upload was taken in | no event was heard | no live answer came \
         | from its end to the next acknowledgement | answers meanwhile |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    for (fault, seen) in faults {
        let columns = [&seen.changes, &seen.uploads, &seen.events, &seen.live, &seen.after].map(|all| figures(all));
        let refusals = seen.refusals.iter().cloned().collect::<Vec<_>>().join(", ");
        lines.push(format!("| {} | {} | {} | {refusals} |", fault.name(), seen.changes.len(), columns.join(" | ")));
    }
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_everything() {
    let seconds = std::env::var("ORIEL_CHAOS_SECONDS").ok().map_or(30, |text| text.parse().unwrap());
    let (Some(postgres), Some(redis)) = (Pair::start(), RedisServer::start()) else { return };
    let bucket = Bucket::start();
    let mut environment = vec![
        ("ORIEL_DATABASE_URL", postgres.url()),
        ("ORIEL_MASTER_KEY", MASTER_KEY.to_owned()),
        ("ORIEL_REDIS_URL", redis.url()),
        ("ORIEL_ACCESS_TOKEN_TTL", "1d".to_owned()),
        ("ORIEL_DATABASE_MAX_CONNECTIONS", "10".to_owned()),
    ];
    environment.extend(bucket.environment());
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Some(Server::start_among(environment.clone()).await));
    }
    let url = |node: &Option<Server>| node.as_ref().unwrap().url.clone();
    let session = nodes[0].as_ref().unwrap().register("Ada").await;
    let project = session.create_project("FILES").await;
    let world = Arc::new(World {
        urls: Mutex::new(nodes.iter().map(url).collect()),
        project,
        session,
        over: AtomicBool::new(false),
        changes: Pulse::new(),
        uploads: Pulse::new(),
        events: [Pulse::new(), Pulse::new()],
        live: [Pulse::new(), Pulse::new()],
        refusals: Mutex::default(),
    });
    let mut house = House { nodes, postgres, redis, bucket, promotions: 0 };
    let first = incarnation(&house, &world.session).await;
    let (end, projects) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(u64::MAX)));
    let (mut writers, mut uploaders) = (JoinSet::new(), JoinSet::new());
    let (mut followers, mut watchers) = (JoinSet::new(), JoinSet::new());
    (0..5).for_each(|client| _ = writers.spawn(writer(Arc::clone(&world), client)));
    (0..2).for_each(|client| _ = uploaders.spawn(uploader(Arc::clone(&world), client)));
    (0..2).for_each(|number| _ = followers.spawn(follower(Arc::clone(&world), number, Arc::clone(&end))));
    (0..2).for_each(|number| _ = watchers.spawn(watcher(Arc::clone(&world), number, Arc::clone(&projects))));

    let seed = std::process::id().into();
    println!("the faults are drawn with {seed}");
    let mut numbers = Numbers(seed);
    let mut faults: BTreeMap<Fault, Seen> = BTreeMap::new();
    let began = Instant::now();
    for number in 0.. {
        let is_first = number < Fault::ALL.len();
        if !is_first && began.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        let fault = Fault::ALL[if is_first { number } else { numbers.below(Fault::ALL.len()) }];
        let most = if is_first { 500 } else { 6_000 };
        let pause = Duration::from_millis(300 + numbers.below(most) as u64);
        let at = numbers.below(3);
        println!("{:6.1} s: {}", began.elapsed().as_secs_f64(), fault.name());
        strike(&mut house, &world, fault, at, pause, faults.entry(fault).or_default()).await;
    }
    world.over.store(true, Ordering::SeqCst);
    let mut acknowledged = BTreeSet::from(["FILES".to_owned()]);
    while let Some(keys) = writers.join_next().await {
        acknowledged.extend(keys.unwrap());
    }
    let mut documents = Vec::new();
    while let Some(ids) = uploaders.join_next().await {
        documents.append(&mut ids.unwrap());
    }
    println!("{}", table(&faults));

    // Every acknowledged write is there, once, and nothing else is.
    let postgres = &house.postgres;
    let rows = postgres.sql("SELECT key FROM projects");
    let there: Vec<String> = rows.lines().map(str::to_owned).collect();
    assert_eq!(there.len(), acknowledged.len(), "something is there twice, or is lost");
    assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), acknowledged);
    let count = |sql: &str| postgres.sql(sql).parse::<u64>().unwrap();
    let written = count("SELECT count(*) FROM events WHERE type = 'project_created'");
    assert_eq!(written, acknowledged.len() as u64, "one event for each");
    let uploaded = count("SELECT count(*) FROM events WHERE type = 'document_uploaded'");
    assert_eq!(uploaded, documents.len() as u64, "one event for each");
    // The log has no gap.
    let contiguous = "SELECT count(*) = max(position) AND min(position) = 1 FROM events";
    assert_eq!(postgres.sql(contiguous), "t");
    // Each promotion began another history, which every node knows.
    let now = incarnation(&house, &world.session).await;
    assert_eq!(now == first, house.promotions == 0, "{} promotions", house.promotions);

    // Every document is read, whatever was away meanwhile, and says what was uploaded.
    let nodes: Vec<Server> = house.nodes.into_iter().flatten().collect();
    let someone = on(&nodes[0], &world.session);
    for (id, name) in &documents {
        // A breaker leaves the bucket alone for a minute.
        let ended = |answer: &Value| answer["document"]["status"] != "PROCESSING";
        let query = "query($id: ID!) { document(id: $id) { status } }";
        someone.until_within(3 * PATIENCE, query, json!({ "id": id }), ended).await;
        let document = someone.document_ends(id).await;
        assert_eq!(document["status"], "READY", "{name}: {document}");
        assert_eq!(document["text"].as_str().map(str::trim), Some(text_of(name).as_str()), "{document}");
    }
    // Followers see everything, once and in order; watchers the end.
    // With one more, made below, so that who waits for what comes next hears of something.
    projects.store(written + 1, Ordering::SeqCst);
    end.store(
        count(
            "SELECT max(position) FROM events WHERE organization_id = (SELECT organization_id FROM projects LIMIT 1)",
        ),
        Ordering::SeqCst,
    );
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
    for node in &nodes {
        let found = |answer: &Value| answer["search"]["totalCount"] == documents.len();
        on(node, &world.session).until("{ search(query: \"wraparound\") { totalCount } }", json!({}), found).await;
    }
    println!(
        "{} changes and {} uploads were acknowledged over {} promotions, and nothing was lost.",
        acknowledged.len(),
        documents.len(),
        house.promotions
    );
}

/// Which history the database is of. Every node comes to say the same.
async fn incarnation(house: &House, session: &Session) -> String {
    let now = house.postgres.sql("SELECT incarnation FROM installation");
    for node in house.nodes.iter().flatten() {
        let says_so = |answer: &Value| answer["system"]["incarnation"] == now.as_str();
        on(node, session).until("{ system { incarnation } }", json!({}), says_so).await;
    }
    now
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
