//! Requests that ask for too much, all at once and again and again, beside somebody who just works.
//!
//! Each is refused by the name of its limit, within a bounded time and in bounded memory, and nothing of it is
//! executed; whoever works beside them gets every answer right. How long that took, with them and without, is printed
//! with the memory in one table; of the times nobody judges, since they are those of this machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{Server, Session};

/// What only a defect reaches.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often each is sent.
const TIMES: usize = 8;
/// How much more memory the server may need beside the flood than it ever did before. All that the flood sends is
/// several times as much.
const MORE_MEMORY: u64 = 96 << 20;

/// A request, and the limit that it is over.
struct Hostile {
    limit: &'static str,
    status: u16,
    body: String,
}

fn over(limit: &'static str, query: &str, variables: Value) -> Hostile {
    Hostile { limit, status: 400, body: json!({ "query": query, "variables": variables }).to_string() }
}

/// Changes, so that it would show if one was made.
fn changes(count: usize) -> String {
    let change =
        |n| format!("a{n}: projectCreate(input: {{ key: \"HOSTILE{n}\", name: \"Hostile\" }}) {{ project {{ id }} }} ");
    (0..count).map(change).collect()
}

fn hostile() -> Vec<Hostile> {
    let inner = "{ nodes { documents(first: 100) { nodes { project { documents(first: 100) { nodes { id } } } } } } }";
    let ids: Vec<String> = (0..100).map(|n| format!("prj_{n:026}")).collect();
    let under = |on: &str| {
        format!(
            "query($ids: [ID!]!) {{ nodes(ids: $ids) {{ id ... on {on} {{ documents(first: 100) {{ nodes {{ id title size }} edges {{ cursor }} }} }} }} }}"
        )
    };
    let mut bomb = "{ projects { nodes { ...F0 } } }".to_owned();
    for n in 0..50 {
        bomb.push_str(&format!(" fragment F{n} on Project {{ ...F{0} ...F{0} }}", n + 1));
    }
    bomb.push_str(" fragment F50 on Project { id }");
    let aliases: String = (0..150).map(|n| format!("x{n}: id ")).collect();
    let turns = format!("types {{ {} name {} }}", "fields { type { ".repeat(5), "} } ".repeat(5));
    let spiral: String = (0..40).map(|n| format!("a{n}: __schema {{ {turns} }} ")).collect();
    let spiral = format!("{{ {spiral} }}");
    let deep = format!("{{ {} id {} }}", "node(id: 1) { ... on Document { project { ".repeat(12), "} } } ".repeat(12));
    let batch: Vec<Value> = (0..1_000).map(|_| json!({ "query": format!("mutation {{ {} }}", changes(1)) })).collect();
    let mut nested = "1".to_owned();
    for _ in 0..10_000 {
        nested = format!("[{nested}]");
    }
    vec![
        Hostile {
            limit: "max_body_bytes",
            status: 413,
            body: json!({ "query": format!("{{ viewer {{ {} }} }}", "a ".repeat(5 << 20)) }).to_string(),
        },
        over("max_query_bytes", &format!("# {}\nmutation {{ {} }}", "x".repeat(200_000), changes(1)), json!({})),
        over("max_query_tokens", &format!("{{ viewer {{ {} }} }}", "a ".repeat(20_000)), json!({})),
        over("nesting", &format!("{{ a(b: {}1{}) }}", "[".repeat(5_000), "]".repeat(5_000)), json!({})),
        over("max_depth", &deep, json!({})),
        over("max_aliases", &format!("mutation {{ {} }}", changes(1).replace("id", &aliases)), json!({})),
        over("max_root_fields", &format!("mutation {{ {} }}", changes(60)), json!({})),
        over(
            "max_directives",
            &format!(
                "mutation {{ {} }}",
                changes(1).replace(") {", &format!(") {} {{", "@skip(if: false) ".repeat(300)))
            ),
            json!({}),
        ),
        over("max_cost", &bomb, json!({})),
        over("max_cost", &format!("{{ projects(first: 100) {inner} }}"), json!({})),
        over("max_cost", &under("Project"), json!({ "ids": ids })),
        over(
            "max_cost",
            &under("Node").replace("... on Node {", "... on Node { ... on Project {").replacen("} } }", "} } } }", 1),
            json!({ "ids": ids }),
        ),
        over("max_cost", &format!("subscription {{ live {{ projects(first: 100) {inner} }} }}"), json!({})),
        over("max_cost", &spiral, json!({})),
        over("max_page", "query($n: Int) { projects(first: $n) { nodes { id } } }", json!({ "n": 1_000_000 })),
        Hostile { limit: "max_batch", status: 400, body: Value::from(batch).to_string() },
        over("max_variable_values", &format!("mutation {{ {} }}", changes(1)), json!({ "v": vec![0; 20_000] })),
        Hostile {
            limit: "nesting",
            status: 400,
            body: format!(r#"{{"query":"{{ viewer {{ user {{ id }} }} }}","variables":{{"v":{nested}}}}}"#),
        },
    ]
}

const CIRCLE: &str = "{ viewer { ...A } } fragment A on Viewer { ...B } fragment B on Viewer { ...A }";

async fn send(session: &Session, body: String) -> (u16, Value) {
    let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token).body(body);
    let request = request
        .header("content-type", "application/json")
        .header("accept", "application/graphql-response+json, application/json;q=0.9, text/event-stream;q=0.1");
    let response = tokio::time::timeout(PATIENCE, request.send()).await.expect("no answer in time").unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn is_refused(session: &Session, Hostile { limit, status, body }: &Hostile) {
    let (heard, answer) = send(session, body.clone()).await;
    let extensions = &answer["errors"][0]["extensions"];
    assert_eq!((extensions["limit"].as_str(), heard), (Some(*limit), *status), "{answer}");
    assert_eq!(extensions["code"], "LIMIT_EXCEEDED", "{answer}");
    assert!(extensions["allowed"].is_number(), "{answer}");
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains(limit), "{answer}");
    assert!(answer.get("data").is_none(), "{answer}");
}

/// The address and port behind `http://`.
fn place(server: &Server) -> &str {
    server.url.strip_prefix("http://").unwrap()
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(server: &Server, token: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://{}/graphql", place(server)).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    Ok(connect_async(request).await?.0)
}

async fn hear(socket: &mut Socket) -> Value {
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("nothing was heard").unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// More operations than a socket may have.
async fn floods_a_socket(server: &Server, session: &Session, most: usize) {
    let mut socket = open(server, &session.token).await.unwrap();
    socket.send(Message::text(json!({ "type": "connection_init" }).to_string())).await.unwrap();
    assert_eq!(hear(&mut socket).await["type"], "connection_ack");
    for n in 0..most * 20 {
        let query = "subscription { live { viewer { user { id } } } }";
        let message = json!({ "type": "subscribe", "id": n.to_string(), "payload": { "query": query } });
        socket.send(Message::text(message.to_string())).await.unwrap();
    }
    let (mut begun, mut refused) = (0, 0);
    while begun + refused < most * 20 {
        let heard = hear(&mut socket).await;
        match heard["type"].as_str().unwrap() {
            "next" => begun += 1,
            "error" => {
                assert_eq!(heard["payload"][0]["extensions"]["limit"], "max_operations_per_socket", "{heard}");
                refused += 1;
            }
            other => panic!("{other}: {heard}"),
        }
    }
    assert_eq!(begun, most);
}

/// Opens a socket and says nothing.
async fn never_begins(server: &Server, session: &Session) {
    let mut socket = open(server, &session.token).await.unwrap();
    let closed = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, closed).await.expect("it stays open"), 4408);
}

/// More sockets than one person may have.
async fn hoards_sockets(server: &Server, session: &Session, most: usize) {
    let mut held = Vec::new();
    for _ in 0..most {
        held.push(open(server, &session.token).await.unwrap());
    }
    for _ in 0..TIMES {
        let Err(Error::Http(response)) = open(server, &session.token).await else { panic!("one more was opened") };
        let body: Value = serde_json::from_slice(response.body().as_deref().unwrap()).unwrap();
        assert_eq!(response.status(), 429, "{body}");
        assert_eq!(body["errors"][0]["extensions"]["limit"], "max_sockets_per_viewer", "{body}");
        assert_eq!(body["errors"][0]["extensions"]["found"], most + 1, "{body}");
    }
}

/// All that a connection says until the server closes it.
async fn last_words(stream: &mut TcpStream) -> String {
    let mut words = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut words)).await.expect("it stays open").unwrap();
    String::from_utf8_lossy(&words).into_owned()
}

/// A body that never ends, and comes a byte at a time.
async fn drips(server: &Server, session: &Session) {
    let mut stream = TcpStream::connect(place(server)).await.unwrap();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\
         authorization: Bearer {}\r\nconnection: close\r\n\r\n{{\"query\":\"",
        session.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        while writing.write_all(b" ").await.is_ok() {
            clock.tick().await;
        }
    });
    let mut answer = vec![0; 64 << 10];
    let read = tokio::time::timeout(PATIENCE, reading.read(&mut answer)).await.expect("no answer in time").unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    dripping.abort();
}

/// Connects and says nothing, or half a head.
async fn is_silent(server: &Server, head: &str) {
    let mut stream = TcpStream::connect(place(server)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let words = last_words(&mut stream).await;
    assert!(words.is_empty() || words.starts_with("HTTP/1.1 4"), "{words}");
}

/// More connections from one address than it may have, which say nothing.
async fn crowds(server: &Server, most: usize) {
    let connect = || async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        socket.connect(place(server).parse().unwrap()).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..most + TIMES {
        held.push(connect().await);
    }
    let words = join_all(held.iter_mut().map(last_words)).await;
    let told = words.iter().filter(|words| words.starts_with("HTTP/1.1 429")).inspect(|words| {
        assert!(words.contains("max_connections_per_address"), "{words}");
    });
    let told = told.count();
    assert!((1..=TIMES).contains(&told), "{told} were told: {words:?}");
}

/// Somebody who just works: what they did is what they find.
struct Worker {
    session: Session,
    made: usize,
    took: Vec<Duration>,
}

impl Worker {
    async fn work(&mut self) {
        let begun = Instant::now();
        let key = format!("K{}", self.made);
        self.session.create_project(&key).await;
        self.made += 1;
        let query = "{ projects(last: 1) { totalCount nodes { key name documents(first: 50) { nodes { id } } } } }";
        let found = self.session.ask(query, json!({})).await["projects"].clone();
        let newest = json!([{ "key": key, "name": format!("Project {key}"), "documents": { "nodes": [] } }]);
        assert_eq!((&found["totalCount"], &found["nodes"]), (&json!(self.made), &newest));
        self.took.push(begun.elapsed());
    }

    /// A row of the table: how long rounds of a change and a query took, and the memory that was ever used.
    fn row(&mut self, when: &str, memory: u64) -> String {
        let mut took = std::mem::take(&mut self.took);
        took.sort_unstable();
        let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let (rounds, half, most) = (took.len(), at(50), at(99));
        format!("{when:<16} {rounds:>6} {half:>8.1} {most:>8.1} {:>9.1}", memory as f64 / f64::from(1 << 20))
    }
}

/// How many operations were executed, whatever came of them.
async fn executed(server: &Server) -> u64 {
    let text = reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    let counts = text.lines().filter(|line| line.starts_with("oriel_operations_total"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_too_much_is_refused_and_nobody_else_notices() {
    let (sockets, operations, connections) = (12, 5, 200);
    let limits = [
        // Long enough for whoever works, however busy the machine is, and short enough to be waited for.
        "--set=request_timeout=15s".to_owned(),
        "--set=idle_timeout=15s".to_owned(),
        format!("--set=max_sockets_per_viewer={sockets}"),
        format!("--set=max_operations_per_socket={operations}"),
        // Those of this machine count, too.
        "--set=trusted_proxies=".to_owned(),
        format!("--set=max_connections_per_address={connections}"),
    ];
    let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
    let server = Server::start_with(None, &limits).await;
    let mut worker = Worker { session: server.register("Worker").await, made: 0, took: Vec::new() };
    let mut attacker = server.register("Attacker").await;
    let elsewhere = "127.0.0.8".parse::<std::net::IpAddr>().unwrap();
    attacker.http = reqwest::Client::builder().local_address(elsewhere).build().unwrap();
    let hoarder = server.register("Hoarder").await;
    for _ in 0..40 {
        worker.work().await;
    }
    let usual = server.most_memory();
    let alone = worker.row("alone", usual);

    let before = executed(&server).await;
    let made = worker.made;
    let all = hostile();
    let requests = join_all((0..TIMES).map(|_| join_all(all.iter().map(|hostile| is_refused(&attacker, hostile)))));
    let circles = join_all((0..TIMES).map(|_| async {
        let (status, answer) = send(&attacker, json!({ "query": CIRCLE }).to_string()).await;
        assert_eq!((status, &answer["errors"][0]["extensions"]["code"]), (400, &json!("BAD_REQUEST")), "{answer}");
    }));
    let connections = async {
        let half = "POST /graphql HTTP/1.1\r\nhost: x\r\nx-never: en";
        tokio::join!(
            floods_a_socket(&server, &attacker, operations),
            join_all((0..4).map(|_| never_begins(&server, &attacker))),
            hoards_sockets(&server, &hoarder, sockets),
            join_all((0..4).map(|_| drips(&server, &attacker))),
            join_all(["", half].map(|head| is_silent(&server, head))),
            crowds(&server, connections),
        );
    };
    let is_over = AtomicBool::new(false);
    let flood = async {
        tokio::join!(requests, circles, connections);
        is_over.store(true, Ordering::Relaxed);
    };
    // A round that has begun is ended.
    let work = async {
        while !is_over.load(Ordering::Relaxed) {
            worker.work().await;
        }
    };
    tokio::join!(flood, work);
    let most = server.most_memory();
    let beside = worker.row("beside the flood", most);
    eprintln!("                 rounds  p50 (ms) p99 (ms) most memory (MiB)\n{alone}\n{beside}");
    assert!(most < usual + MORE_MEMORY, "{usual} bytes before the flood, {most} with it");

    // A change and a query each round, and the operations that a socket may have.
    let rounds = worker.made - made;
    let counted = executed(&server).await - before;
    assert_eq!(counted, 2 * rounds as u64 + operations as u64, "something of the flood was executed");
    let found = attacker.ask("{ projects { totalCount } }", json!({})).await;
    assert_eq!(found["projects"]["totalCount"], 0);
}
