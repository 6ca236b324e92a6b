//! What is fuzzed: the whole transport over a real endpoint on SQLite, without a listener.
//!
//! Whatever comes in is answered, within [`PATIENCE`], with a code that is not `INTERNAL` and nothing of what is inside.
//! A panic anywhere ends the process, as libFuzzer wants it.

use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use oriel_backends::extraction::Program;
use oriel_server::http::{HttpState, router};
use oriel_server::serve::House;
use oriel_server::settings::{Sources, load};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// What only a defect reaches.
const PATIENCE: Duration = Duration::from_secs(20);
/// Words of what is inside.
const INSIDE: [&str; 8] = ["\"INTERNAL\"", "panicked", ".rs:", "sqlx", "sea_orm", "no such table", "alloc::", "core::"];
const CONTENT_TYPES: [&str; 4] =
    ["application/json", "multipart/form-data; boundary=b", "application/json; charset=utf-8", "text/plain"];
const ACCEPTS: [&str; 8] = [
    "application/graphql-response+json",
    "application/json",
    "*/*",
    "text/event-stream",
    "multipart/mixed;subscriptionSpec=1.0, application/json",
    "application/graphql-response+json;q=0.9, application/json;q=0.1",
    "text/html",
    "",
];

struct Server {
    runtime: Runtime,
    router: Router,
    token: String,
    /// Kept while it runs.
    _house: House,
    _folder: tempfile::TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = Runtime::new().expect("a runtime");
        let environment = vec![("ORIEL_DATA".into(), folder.path().join("data").into_os_string())];
        let settings = load(&Sources { environment, ..Sources::default() }).expect("the default settings").settings;
        let (house, router, token) = runtime.block_on(async {
            let stop = CancellationToken::new();
            // Documents are not read here: their parser is a process of its own.
            let program = Program::new("/bin/false".into(), ["extract"]);
            let house = House::open(&settings, program, &stop).await.expect("a house");
            let router = router(HttpState::new(house.endpoint.clone(), &settings, None, stop).expect("a transport"));
            let token = register(&router).await;
            (house, router, token)
        });
        Self { runtime, router, token, _house: house, _folder: folder }
    }
}

/// Somebody who is signed in, so that there is something to ask for.
async fn register(router: &Router) -> String {
    let query = "mutation($input: RegisterInput!) { register(input: $input) { accessToken } }";
    let input = json!({ "organizationName": "Acme", "name": "Ada", "email": "ada@example.com", "password": "violet-otter-93-lamp" });
    let body = json!({ "query": query, "variables": { "input": input } }).to_string();
    let request = Request::post("/graphql").header(CONTENT_TYPE, "application/json").body(Body::from(body));
    let response = router.clone().oneshot(request.expect("a request")).await.expect("an answer");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    answer["data"]["register"]["accessToken"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// One request. The first byte says how it is sent: its method, media types, and whether somebody is signed in. The
/// rest is its body, or what stands in the URL.
pub fn request(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    let Server { runtime, router, token, .. } = &*SERVER;
    let text = String::from_utf8_lossy(rest);
    let request = match way & 1 {
        0 => Request::post("/graphql"),
        _ => Request::get(format!("/graphql?{text}")),
    };
    let request = request.header(CONTENT_TYPE, CONTENT_TYPES[usize::from(way >> 2 & 3)]);
    let request = request.header(ACCEPT, ACCEPTS[usize::from(way >> 4 & 7)]).header("graphql-require-preflight", "1");
    let request = if way & 2 == 0 { request } else { request.header(AUTHORIZATION, format!("Bearer {token}")) };
    // What is no URL at all does not get as far.
    let Ok(request) = request.body(Body::from(rest.to_vec())) else { return };
    let answered = async {
        let response = router.clone().oneshot(request).await.expect("a router always answers");
        let status = response.status().as_u16();
        let said = whole(response).await;
        assert!(status < 500 || status == 503, "{status} {said}");
        tells_nothing(&said);
    };
    runtime.block_on(async { timeout(PATIENCE, answered).await }).expect("there is no end to it");
}

/// The body; of a stream, which may go on for ever, the first part.
async fn whole(response: Response<Body>) -> String {
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let goes_on = ["text/event-stream", "multipart/mixed"].iter().any(|stream| media_type.starts_with(stream));
    let mut body = response.into_body();
    let bytes = if goes_on {
        let first = body.frame().await.map(|frame| frame.expect("a part").into_data());
        first.and_then(Result::ok).unwrap_or_else(Bytes::new)
    } else {
        body.collect().await.expect("a body").to_bytes()
    };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer may quote what was sent, which no seed makes one of these words.
fn tells_nothing(said: &str) {
    for inside in INSIDE {
        assert!(!said.contains(inside), "it says `{inside}`: {said}");
    }
}

/// A WebSocket. The first byte says whether what follows are lines, each a message, or the bytes of frames; and
/// whether the socket was initialised before.
pub fn socket(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    let Server { runtime, router, token, .. } = &*SERVER;
    let talked = async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let service = TowerToHyperService::new(router.clone());
        let serving = tokio::spawn(async move {
            // How it ends is the protocol's matter.
            let _ =
                Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(server), service).await;
        });
        let upgrade = format!(
            "GET /graphql HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: graphql-transport-ws\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        let mut said = upgrade.into_bytes();
        if way & 2 == 0 {
            said.extend(frame(1, br#"{"type":"connection_init"}"#));
        }
        if way & 1 == 0 {
            rest.split(|byte| *byte == b'\n').for_each(|line| said.extend(frame(1, line)));
        } else {
            said.extend(rest);
        }
        said.extend(frame(8, &1000u16.to_be_bytes()));
        // It may be closed before all was said.
        let _ = client.write_all(&said).await;
        let _ = client.shutdown().await;
        let mut heard = Vec::new();
        let _ = client.read_to_end(&mut heard).await;
        serving.await.expect("a connection does not panic");
        tells_nothing(&String::from_utf8_lossy(&heard));
    };
    runtime.block_on(async { timeout(PATIENCE, talked).await }).expect("there is no end to it");
}

/// A frame as clients send it, under a mask of zeros.
fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ 0..126 => vec![0x80 | short as u8],
        long @ 126..65_536 => [&[0x80 | 126], &(long as u16).to_be_bytes()[..]].concat(),
        longer => [&[0x80 | 127], &(longer as u64).to_be_bytes()[..]].concat(),
    };
    [&[0x80 | code], &length[..], &[0; 4], payload].concat()
}
