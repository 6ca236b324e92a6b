//! Requests that nobody meant: real ones with something changed, and arbitrary texts. Whatever comes in is answered,
//! and soon; what is refused has a code and a text for people, with nothing in it of what is inside; what a refused
//! upload has left behind is deleted. `PROPTEST_CASES` makes it longer.

use std::collections::BTreeMap;
use std::future::Future;

use axum::http::HeaderValue;
use data_encoding::BASE64URL_NOPAD;
use futures::{SinkExt, StreamExt};
use oriel_reactors::FILES;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestCaseError, TestRunner};
use tokio::runtime::Runtime;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;

const DOCUMENTS: &[&str] = &[
    "{ viewer { user { id name } organization { name } permissions } }",
    "query Page($first: Int = 2, $after: String) { projects(first: $first, after: $after, orderBy: [{ field: NAME, direction: DESC }]) { edges { cursor node { ...P } } pageInfo { hasNextPage endCursor } totalCount } } fragment P on Project { id name documents(filter: { or: [{ title: { startsWith: \"a\" } }, { not: { title: { eq: \"\"\"b\"\"\" } } }] }) { totalCount } }",
    "query($ids: [ID!]!) { nodes(ids: $ids) { __typename id ... on Project @include(if: true) { n: name } ... on Document { title } } }",
    "{ search(query: \"deep \\\"whale song\\\" -boat wh*\", first: 3) { edges { score node { ... on Document { id } } } facets { field values { value count } } totalCount } suggest(prefix: \"a\") { text } }",
    "mutation M($input: ProjectUpdateInput!) { projectUpdate(input: $input) { project { id } userErrors { code path } position } }",
    "subscription S { live { projects { nodes { name } } } }",
    "query A { __typename } query B { __schema { types { name fields { name type { kind ofType { name } } } } } }",
    "{ a: __typename # {{{ \n b: events(last: 1, filter: { subjectId: \"prj_01\" }) { nodes { type data } } }",
];

const BODIES: &[&str] = &[
    r#"{"query":"query Q($n: Int) { projects(first: $n) { nodes { id } } }","operationName":"Q","variables":{"n":3},"extensions":{"atLeast":"3"}}"#,
    r#"[{"query":"{ __typename }"},{"query":"{ viewer { permissions } }","variables":null},{"documentId":"sha256:0b"}]"#,
    r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38"}},"query":"{__typename}"}"#,
    r#"{"query":"mutation($i: ProjectCreateInput!) { projectCreate(input: $i) { project { id } userErrors { code message path } } }","variables":{"i":{"key":"A","name":"\u0000é🚀","description":null,"idempotencyKey":"k"}}}"#,
];

const ADDRESSES: &[&str] = &[
    "query=%7B__typename%7D&variables=%7B%22a%22%3A1%7D&operationName=&extensions=%7B%7D",
    "documentId=sha256%3Aecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38&variables=null",
    "query=query+A%28%24n%3AInt%29%7Bprojects%28first%3A%24n%29%7BtotalCount%7D%7D&variables=%7B%22n%22%3A2%7D",
];

const HEADERS: &[(&str, &[&str])] = &[
    (
        "accept",
        &[
            "application/graphql-response+json; charset=utf-8, application/json; q=0.9",
            "text/html,*/*;q=0.1",
            "multipart/mixed;subscriptionSpec=1.0",
        ],
    ),
    ("content-type", &["application/json; charset=utf-8", "multipart/form-data; boundary=\"b c\""]),
    ("authorization", &["Bearer eyJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.eyJzaWQiOiIwIn0.AAAA"]),
    ("oriel-at-least", &["42"]),
    ("if-none-match", &["W/\"abc\", *"]),
    ("traceparent", &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]),
    ("x-forwarded-for", &["203.0.113.7, [2001:db8::1]:4711"]),
    ("forwarded", &["for=\"[2001:db8::1]:4711\";proto=https, for=192.0.2.60"]),
    ("cookie", &["oriel_at_least=42; a=b"]),
];

const MESSAGES: &[&str] = &[
    r#"{"type":"connection_init","payload":{"authorization":"Bearer abc"}}"#,
    r#"{"id":"1","type":"subscribe","payload":{"query":"{ __typename }","operationName":null,"variables":{"a":[1]},"extensions":{}}}"#,
    r#"{"id":"1","type":"subscribe","payload":{"query":"subscription { live { organization { name } } }"}}"#,
    r#"{"id":"1","type":"complete"}"#,
    r#"{"type":"ping","payload":{"n":1}}"#,
    r#"{"type":"pong"}"#,
];

/// What means something somewhere.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "...",
    "...F",
    "@skip(if: true)",
    "@include(if: $x)",
    "$x",
    "\"",
    "\"\"\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\0",
    "null",
    "-1",
    "9223372036854775808",
    "1e999",
    "0.1",
    "true",
    "#",
    "\u{feff}",
    "\u{202e}",
    "é",
    "🚀",
    "%",
    "%00",
    "%ff",
    "&",
    "=",
    ";",
    ",",
    "\r\n",
    "--b",
    "--b--",
    "fragment F on Query { ...F }",
    "fragment G on Project { id }",
    "query Q { __typename }",
    "first: 101",
    "first: -1",
    "a: __typename",
    "__typename",
    "id",
    "variables.input.file",
    "q=",
    "\":",
    "{\"a\":",
    "[[[[[[[[",
    "upload:0",
    "*",
    "-",
];

/// One change of a text.
#[derive(Clone, Debug)]
enum Edit {
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Put(Index, u8),
    Insert(Index, Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        3 => (any::<Index>(), 1..20usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        1 => (any::<Index>(), 1..40usize, 1..200usize).prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        6 => (any::<Index>(), any::<Index>()).prop_map(|(at, token)| Edit::Insert(at, token)),
    ];
    prop::collection::vec(edit, 0..6)
}

fn edited(text: &str, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for edit in edits {
        let place = |at: &Index, length: usize| {
            let begin = at.index(bytes.len() + 1);
            begin..(begin + length).min(bytes.len())
        };
        match edit {
            Edit::Remove(at, length) => drop(bytes.drain(place(at, *length))),
            Edit::Repeat(at, length, times) => {
                let place = place(at, *length);
                let again = bytes[place.clone()].repeat(*times);
                bytes.splice(place.end..place.end, again);
            }
            Edit::Put(at, byte) => {
                let place = place(at, 1);
                bytes.splice(place, [*byte]);
            }
            Edit::Insert(at, token) => {
                let place = place(at, 0);
                bytes.splice(place, token.get(TOKENS).bytes());
            }
        }
    }
    bytes
}

/// One of these, changed; now and then something else altogether.
fn changed(of: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => (any::<Index>(), edits()).prop_map(move |(one, edits)| edited(of[one.index(of.len())], &edits)),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => "\\PC{0,60}".prop_map(String::into_bytes),
    ]
}

fn changed_text(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    changed(of).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Tries what the strategy gives, on one server.
fn fuzz<S: Strategy>(strategy: S, attempt: impl AsyncFn(&Bed, &str, S::Value) -> Result<(), TestCaseError>) {
    let runtime = Runtime::new().unwrap();
    let bed = runtime.block_on(Bed::new());
    let token = runtime.block_on(bed.register("acme"));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let tried = TestRunner::new(config).run(&strategy, |given| runtime.block_on(attempt(&bed, &token, given)));
    tried.unwrap_or_else(|why| panic!("{why}"));
}

/// It comes to an end.
async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, TestCaseError> {
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, work).await.map_err(|_| TestCaseError::fail("there is no end to it"))
}

/// Errors are for people and programs, and tell nothing of what is inside.
fn is_told(error: &Value) -> Result<(), TestCaseError> {
    let (code, message) = (error["extensions"]["code"].as_str(), error["message"].as_str());
    prop_assert!(code.is_some_and(|code| !code.is_empty() && code != "INTERNAL"), "{error}");
    prop_assert!(message.is_some_and(|message| message.len() > 8), "{error}");
    for inside in ["panicked", "src/", ".rs:", "sqlx", "sea_orm", "SELECT ", "no such table", "alloc::", "core::"] {
        prop_assert!(!message.unwrap_or_default().contains(inside), "{error}");
    }
    Ok(())
}

fn is_answered(heard: &Heard) -> Result<(), TestCaseError> {
    let (status, said) = (heard.status.as_u16(), heard.text());
    prop_assert!(status < 500 || status == 503, "{status} {said}");
    let Ok(answer) = serde_json::from_slice::<Value>(&heard.body) else {
        // A page, a stream, or nothing: all of them by intent.
        prop_assert!(status < 400, "{status} {said}");
        return Ok(());
    };
    let answers = answer.as_array().cloned().unwrap_or_else(|| vec![answer]);
    for answer in &answers {
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        prop_assert!(status < 400 || !errors.is_empty(), "{status} {said}");
        errors.iter().try_for_each(is_told)?;
    }
    Ok(())
}

async fn post(bed: &Bed, token: &str, body: impl Into<Body>) -> Result<Heard, TestCaseError> {
    in_time(bed.post(&[("authorization", &format!("Bearer {token}"))], body)).await
}

#[test]
fn documents() {
    fuzz(changed_text(DOCUMENTS), async |bed, token, query| {
        is_answered(&post(bed, token, json!({ "query": query }).to_string()).await?)
    });
}

/// What the validator would walk over for ever, or make more errors of than there is memory for.
#[tokio::test]
async fn documents_that_grow_are_refused() {
    let bed = Bed::new().await;
    let fragments: String = (0..30).map(|n| format!(" fragment F{n} on Query {{ ...F{0} ...F{0} }}", n + 1)).collect();
    let arguments: String = (0..1_000).map(|n| format!("x{n}: 1 ")).collect();
    for query in [
        format!("{{ __typename ...F0 }} {fragments} fragment F30 on Query {{ ...Gone }}"),
        format!("{{ viewer {{ user {{ name({arguments}) {} }} }} }}", "name ".repeat(900)),
    ] {
        let heard = in_time(bed.ask(None, &query, json!({}))).await.unwrap();
        assert_eq!(heard.refusal(), (200, "LIMIT_EXCEEDED".to_owned()), "{} bytes", heard.body.len());
        assert_eq!(heard.json()["errors"][0]["extensions"]["limit"], "expansion");
    }
}

#[test]
fn bodies() {
    fuzz(changed(BODIES), async |bed, token, body| is_answered(&post(bed, token, body).await?));
}

#[test]
fn addresses() {
    fuzz(changed_text(ADDRESSES), async |bed, token, query| {
        let bearer = format!("Bearer {token}");
        let uri = format!("/graphql?{query}");
        let Ok(request) = Request::get(&uri).header("authorization", bearer).body(Body::empty()) else { return Ok(()) };
        is_answered(&in_time(bed.send(request)).await?)
    });
}

#[test]
fn headers() {
    let values = |of: &'static [&'static str]| prop_oneof![3 => changed(of), 1 => Just(Vec::new())];
    let headers: Vec<_> = HEADERS.iter().map(|(_, of)| prop::option::weighted(0.3, values(of))).collect();
    fuzz((headers, any::<bool>()), async |bed, _, (values, get)| {
        let mut request = match get {
            true => Request::get("/graphql?query=%7B__typename%7D").body(Body::empty()),
            false => Request::post("/graphql").body(Body::from(r#"{"query":"{ __typename }"}"#)),
        }
        .unwrap();
        for ((name, _), value) in HEADERS.iter().zip(values) {
            if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
                request.headers_mut().append(*name, value);
            }
        }
        is_answered(&in_time(bed.send(request)).await?)
    });
}

#[test]
fn cursors_ids_and_searches() {
    const ASKED: &str = "query($cursor: String, $id: ID!, $ids: [ID!]!, $text: String!) {
        a: projects(first: 2, after: $cursor, filter: { name: { contains: $text } }) { nodes { id } }
        b: projects(last: 2, before: $cursor, orderBy: [{ field: UPDATED_AT }]) { nodes { id } }
        c: events(first: 2, after: $cursor) { nodes { type } }
        node(id: $id) { id } nodes(ids: $ids) { id }
        d: search(query: $text, first: 2, after: $cursor) { totalCount } suggest(prefix: $text) { text } }";
    const CURSORS: &[&str] = &[
        r#"{"o":"project:+id","v":["01990000000070008000000000000001"]}"#,
        r#"{"o":"project:+updated_at+id","v":["2026-01-01T00:00:00Z","01990000000070008000000000000001"]}"#,
        r#"{"o":"event:+position","v":[3]}"#,
        "{\"s\":1.5,\"id\":\"doc_01990000000070008000000000000001\"}",
    ];
    const IDS: &[&str] = &["prj_01jd0000000000000000000000", "doc_7zzzzzzzzzzzzzzzzzzzzzzzzz", "mbr_"];
    const TEXTS: &[&str] = &["deep \"whale song\" -boat wh* INV-2024/17", "検索 -\"a b\" c++ “x”"];
    let given = (changed(CURSORS), any::<bool>(), changed_text(IDS), changed_text(TEXTS));
    fuzz(given, async |bed, token, (cursor, encoded, id, text)| {
        let cursor =
            if encoded { BASE64URL_NOPAD.encode(&cursor) } else { String::from_utf8_lossy(&cursor).into_owned() };
        let variables = json!({ "cursor": cursor, "id": id, "ids": [id, text], "text": text });
        is_answered(&post(bed, token, json!({ "query": ASKED, "variables": variables }).to_string()).await?)
    });
}

#[test]
fn uploads() {
    const FORMS: &[&str] = &[
        "--b\r\ncontent-disposition: form-data; name=\"operations\"\r\n\r\n{\"query\":\"mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { document { id } userErrors { code } } }\",\"variables\":{\"input\":{\"projectId\":\"PROJECT\",\"file\":null}}}\r\n--b\r\ncontent-disposition: form-data; name=\"map\"\r\n\r\n{\"0\":[\"variables.input.file\"]}\r\n--b\r\ncontent-disposition: form-data; name=\"0\"; filename=\"a.txt\"\r\n\r\nwords\r\n--b--\r\n",
        "--b\r\ncontent-disposition: form-data; name=\"operations\"\r\n\r\n[{\"query\":\"{ __typename }\",\"variables\":{\"a\":[null,{\"b\":null}]}}]\r\n--b\r\ncontent-disposition: form-data; name=\"map\"\r\n\r\n{\"0\":[\"0.variables.a.0\"],\"1\":[\"0.variables.a.1.b\"]}\r\n--b\r\ncontent-disposition: form-data; name=\"0\"; filename=\"../x\"\r\ncontent-type: text/plain\r\n\r\n1\r\n--b\r\ncontent-disposition: form-data; name=\"1\"\r\n\r\n2\r\n--b--\r\n",
    ];
    let runtime = Runtime::new().unwrap();
    let bed = runtime.block_on(Bed::new());
    let token = runtime.block_on(bed.register("acme"));
    let project = runtime.block_on(bed.project(&token, "DOCS"));
    let bearer = format!("Bearer {token}");
    let headers = [
        ("content-type", "multipart/form-data; boundary=b"),
        ("graphql-require-preflight", "1"),
        ("authorization", &bearer),
    ];
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let tried = TestRunner::new(config).run(&changed(FORMS), |form| {
        let project = project.as_bytes();
        let body = match form.windows(7).position(|part| part == b"PROJECT") {
            Some(at) => [&form[..at], project, &form[at + 7..]].concat(),
            None => form,
        };
        runtime.block_on(async {
            let heard = in_time(bed.post(&headers, body)).await?;
            is_answered(&heard)?;
            Ok(())
        })
    });
    tried.unwrap_or_else(|why| panic!("{why}"));
    // A file that no document has is removed after the answer.
    runtime.block_on(files::until(async || {
        let kept = bed.installation.blobs.list(FILES, None, 100_000).await.unwrap().len();
        let listed = bed.ask(Some(&token), "{ documents(first: 0) { totalCount } }", json!({})).await;
        listed.json()["data"]["documents"]["totalCount"] == json!(kept)
    }));
}

#[test]
fn sockets() {
    let messages = prop::collection::vec(changed_text(MESSAGES), 1..5);
    let runtime = Runtime::new().unwrap();
    let bed = runtime.block_on(Bed::new());
    let address = runtime.block_on(sockets::listen(&bed));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let talk = async |messages: Vec<String>| {
        let mut request = format!("ws://{address}/graphql").into_client_request().unwrap();
        let (name, protocol) = sockets::PROTOCOL;
        request.headers_mut().insert(name, HeaderValue::from_static(protocol));
        let mut socket = connect_async(request).await.unwrap().0;
        let begin = json!({ "type": "connection_init" }).to_string();
        let end = json!({ "type": "ping", "payload": "the end" }).to_string();
        for message in [begin].into_iter().chain(messages).chain([end]) {
            // Who was closed meanwhile hears why below.
            if socket.send(Message::text(message)).await.is_err() {
                break;
            }
        }
        while let Some(heard) = socket.next().await {
            match heard {
                Ok(Message::Text(text)) => {
                    let heard: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
                    if heard.get("payload") == Some(&json!("the end")) {
                        return Ok(());
                    }
                    let payload = heard.get("payload").cloned().unwrap_or_default();
                    let errors = if heard["type"] == "error" { payload } else { payload["errors"].clone() };
                    errors.as_array().into_iter().flatten().try_for_each(is_told)?;
                }
                Ok(Message::Close(Some(frame))) => {
                    prop_assert!((4400..4500).contains(&u16::from(frame.code)), "{frame:?}");
                    prop_assert!(!frame.reason.is_empty(), "{frame:?}");
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => return Err(TestCaseError::fail(format!("{error}"))),
            }
        }
        Err(TestCaseError::fail("the socket ended without a reason"))
    };
    let tried =
        TestRunner::new(config).run(&messages, |messages| runtime.block_on(async { in_time(talk(messages)).await? }));
    tried.unwrap_or_else(|why| panic!("{why}"));
}
