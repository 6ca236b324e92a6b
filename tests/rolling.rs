//! Nodes come and go behind a balancer, and nobody notices; and nodes of which one answers and another works.
//!
//! `ORIEL_TEST_OLD_BINARY` names the program of an earlier revision: then the nodes are of that one first, and each is
//! replaced by one of this revision, so that both work on one database (`.ci/long` builds it). Without it they are the
//! same program.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::nodes::{Shared, at_least, create, on};
use crate::support::{RedisServer, Server, Session, program};

/// How often the balancer asks whether a node is ready.
const PAUSE: Duration = Duration::from_millis(100);

/// A balancer of connections, round robin among the nodes that say that they are ready. As every balancer does, it tries
/// another node when a connection is refused, and never repeats anything that was sent.
struct Balancer {
    url: String,
    nodes: Arc<Mutex<Vec<(String, bool)>>>,
    _tasks: JoinSet<()>,
}

impl Balancer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let nodes: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(Arc::clone(&nodes)));
        tasks.spawn(balance(listener, Arc::clone(&nodes)));
        Self { url, nodes, _tasks: tasks }
    }

    fn add(&self, node: &Server) {
        self.nodes.lock().unwrap().push((node.url.clone(), false));
    }

    fn remove(&self, url: &str) {
        self.nodes.lock().unwrap().retain(|(known, _)| known != url);
    }

    /// Waits until it sends to so many nodes.
    async fn sends_to(&self, count: usize) {
        let is_so = || self.nodes.lock().unwrap().iter().filter(|(_, ready)| *ready).count() == count;
        while !is_so() {
            tokio::time::sleep(PAUSE / 4).await;
        }
    }
}

async fn watch(nodes: Arc<Mutex<Vec<(String, bool)>>>) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
    loop {
        let urls: Vec<String> = nodes.lock().unwrap().iter().map(|(url, _)| url.clone()).collect();
        for url in urls {
            let answer = http.get(format!("{url}/health/ready")).send().await;
            let is_ready = answer.is_ok_and(|answer| answer.status() == 200);
            nodes
                .lock()
                .unwrap()
                .iter_mut()
                .filter(|(known, _)| *known == url)
                .for_each(|(_, ready)| *ready = is_ready);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn balance(listener: TcpListener, nodes: Arc<Mutex<Vec<(String, bool)>>>) {
    let mut connections = JoinSet::new();
    let turn = Arc::new(AtomicUsize::new(0));
    while let Ok((mut client, _)) = listener.accept().await {
        let (nodes, turn) = (Arc::clone(&nodes), Arc::clone(&turn));
        connections.spawn(async move {
            loop {
                let ready: Vec<SocketAddr> = {
                    let nodes = nodes.lock().unwrap();
                    let ready = nodes.iter().filter(|(_, ready)| *ready);
                    ready.map(|(url, _)| url.trim_start_matches("http://").parse().unwrap()).collect()
                };
                let Some(address) = ready.get(turn.fetch_add(1, Ordering::Relaxed) % ready.len().max(1)) else {
                    return; // a failed request: the test says so
                };
                match TcpStream::connect(address).await {
                    Ok(mut node) => {
                        let _ = copy_bidirectional(&mut client, &mut node).await;
                        return;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_restarted_one_after_the_other_and_no_request_fails() {
    let redis = RedisServer::start();
    let Some(mut shared) = Shared::new(redis.as_ref()) else { return };
    shared.environment.push(("ORIEL_SHUTDOWN_DELAY", "5s".to_owned()));
    let balancer = Balancer::start().await;
    let old = std::env::var_os("ORIEL_TEST_OLD_BINARY").map_or_else(program, PathBuf::from);
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Server::start_as(old.clone(), shared.environment.clone()).await);
    }
    nodes.iter().for_each(|node| balancer.add(node));
    balancer.sends_to(3).await;
    let ada = Session { url: balancer.url.clone(), ..nodes[0].register("Ada").await };
    let project = ada.create_project("FILES").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    // What one revision takes in the other one may read.
    let mut files = JoinSet::new();
    files.spawn({
        let (ada, stop) = (ada.clone(), Arc::clone(&stop));
        async move {
            let mut ids = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let text = format!("About wraparound, number {}.", ids.len());
                let payload = ada.upload(&project, &format!("{}.txt", ids.len()), text.into_bytes()).await;
                ids.push(payload["document"]["id"].as_str().unwrap_or_else(|| panic!("{payload}")).to_owned());
                ada.document_ends(&ids[ids.len() - 1]).await;
            }
            ids
        }
    });
    for client in 0..6 {
        let (ada, stop) = (ada.clone(), Arc::clone(&stop));
        clients.spawn(async move {
            // Half of them keep their connections, half make a new one each time.
            let http = reqwest::Client::builder().pool_max_idle_per_host(if client % 2 == 0 { 8 } else { 0 });
            let session = Session { http: http.build().unwrap(), ..ada };
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                let key = format!("P{client}X{count}");
                let position = create(&session, &key).await.unwrap_or_else(|| panic!("{key} has failed"));
                // On whatever node this one is.
                let seen = at_least(&session, &position, "{ projects { totalCount } }").await;
                assert!(seen["projects"]["totalCount"].as_u64() > Some(count), "{seen}");
                count += 1;
            }
            count
        });
    }
    for _ in 0..3 {
        let mut leaving = nodes.remove(0);
        let url = leaving.url.clone();
        leaving = tokio::task::spawn_blocking(move || {
            assert!(leaving.terminate().success());
            leaving
        })
        .await
        .unwrap();
        balancer.remove(&url);
        let back = leaving.restart_as(program(), &[]).await;
        balancer.add(&back);
        balancer.sends_to(3).await;
        nodes.push(back);
    }
    stop.store(true, Ordering::SeqCst);
    let mut made = 0;
    while let Some(client) = clients.join_next().await {
        made += client.unwrap();
    }
    let count = ada.ask("{ projects { totalCount } }", json!({})).await["projects"]["totalCount"].clone();
    assert_eq!(count, made + 1);
    let ids = files.join_next().await.unwrap().unwrap();
    for id in &ids {
        assert_eq!(ada.document_ends(id).await["status"], "READY");
    }
    let found = |answer: &Value| answer["search"]["totalCount"] == ids.len();
    for node in &nodes {
        let session = on(node, &ada);
        session.until("{ search(query: \"wraparound\") { totalCount } }", json!({}), found).await;
        let verified = node.oriel(&["read-models", "verify"], &ada.token);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
    println!("three nodes were restarted while {made} projects were made: no request has failed");
    assert!(made > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_answers_and_another_one_works() {
    let redis = RedisServer::start();
    let Some(mut shared) = Shared::new(redis.as_ref()) else { return };
    shared.environment.push(("ORIEL_ROLE", "api".to_owned()));
    let api = shared.node().await;
    let ada = api.register("Ada").await;
    let project = ada.create_project("FILES").await;
    let uploaded = ada.upload(&project, "guide.txt", b"About wraparound.".to_vec()).await;
    let id = uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}"));
    let consumers = ada.ask("{ system { consumers { name } } }", json!({})).await;
    assert_eq!(consumers["system"]["consumers"].as_array().unwrap().len(), 1, "its own index alone: {consumers}");

    shared.environment.pop();
    shared.environment.push(("ORIEL_ROLE", "worker".to_owned()));
    let mut worker = shared.node().await;
    assert_eq!(ada.document_ends(id).await["status"], "READY");
    let found = |answer: &Value| answer["search"]["totalCount"] == 1;
    ada.until("{ search(query: \"wraparound\") { totalCount } }", json!({}), found).await;
    // It answers operators alone.
    let at_worker = on(&worker, &ada);
    let status = async |path: &str| at_worker.http.get(format!("{}{path}", worker.url)).send().await.unwrap().status();
    for (path, expected) in [("/health/ready", 200), ("/metrics", 200), ("/graphql.schema", 404), ("/", 404)] {
        assert_eq!(status(path).await, expected, "{path}");
    }
    let asked = at_worker.http.post(format!("{}/graphql", worker.url)).json(&json!({"query": "{ __typename }"}));
    assert_eq!(asked.send().await.unwrap().status(), 404);
    assert!(worker.terminate().success());
}
