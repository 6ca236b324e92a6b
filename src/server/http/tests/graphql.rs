//! `/graphql` over plain HTTP.

use std::io::Write;
use std::sync::Mutex;

use super::*;

const CREATE: &str = "mutation Make($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id name } userErrors { code } position } }";

#[tokio::test]
async fn an_anonymous_question_is_answered_with_its_id_and_trace() {
    let bed = Bed::new().await;
    let (id, trace) = ("0199c2d1-7a5e-7c11-8000-0123456789ab", "0199c2d17a5e7c1180000123456789ab");
    let heard = bed.post(&[("x-request-id", id)], r#"{"query":"{ __typename }"}"#).await;
    assert_eq!(heard.status, 200);
    let body = heard.json();
    assert_eq!((&body["data"]["__typename"], &body["extensions"]["traceId"]), (&json!("Query"), &json!(trace)));
    assert_eq!(body.get("errors"), None);
    assert_eq!(heard.header("x-request-id"), id);
    assert!(heard.header("traceresponse").starts_with(&format!("00-{trace}-")), "{}", heard.header("traceresponse"));
}

#[tokio::test]
async fn a_request_stays_in_the_trace_of_its_caller() {
    let bed = Bed::new().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let given = format!("00-{trace}-00f067aa0ba902b7-01");
    for (body, status) in [(r#"{"query":"{ __typename }"}"#, 200), (r#"{"query":"{"}"#, 200), ("{", 400)] {
        let heard = bed.post(&[("traceparent", &given), ("tracestate", "a=b")], body.to_owned()).await;
        assert_eq!((heard.status.as_u16(), &heard.json()["extensions"]["traceId"]), (status, &json!(trace)), "{body}");
        let span = heard.header("traceresponse");
        assert!(span.starts_with(&format!("00-{trace}-")) && span.ends_with("-01") && span != given, "{span}");
        assert_ne!(heard.header("x-request-id").replace('-', ""), trace, "a trace has several requests");
    }
    // What does not follow the specification is ignored: a trace of its own begins.
    for wrong in [format!("00-{trace}-00f067aa0ba902b7-01-x"), given.to_uppercase(), "rubbish".to_owned()] {
        let heard = bed.post(&[("traceparent", &wrong)], r#"{"query":"{ __typename }"}"#).await;
        let own = heard.header("x-request-id").replace('-', "");
        assert_eq!((heard.status.as_u16(), &heard.json()["extensions"]["traceId"]), (200, &json!(own)), "{wrong}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_a_bad_request_without_data() {
    let bed = Bed::set(&[("max_body_bytes", "1KiB")]).await;
    for (body, wanted) in [
        ("{", (400, "BAD_REQUEST")),
        ("", (400, "BAD_REQUEST")),
        ("[]", (400, "BAD_REQUEST")),
        ("[1]", (400, "BAD_REQUEST")),
        (r#"{"query": 1}"#, (400, "BAD_REQUEST")),
        (r#"{"query":"{ a }","variables":[]}"#, (400, "BAD_REQUEST")),
        (&" ".repeat(1_025), (413, "LIMIT_EXCEEDED")),
    ] {
        let heard = bed.post(&[], body.to_owned()).await;
        assert_eq!(heard.refusal(), (wanted.0, wanted.1.to_owned()), "{body}");
        assert_eq!(heard.json().get("data"), None, "{body}");
    }
    let named = bed.post(&[], " ".repeat(1_025)).await.json();
    assert_eq!(named["errors"][0]["extensions"]["limit"], "max_body_bytes");
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/graphql", ""] {
        let heard = bed.post(&[("content-type", media_type)], "{ __typename }").await;
        assert_eq!(heard.refusal(), (415, "BAD_REQUEST".to_owned()), "{media_type}");
    }
    let deep = format!(r#"{{"query":"{{a}}","variables":{}1{}}}"#, "[".repeat(400), "]".repeat(400));
    assert_eq!(bed.post(&[], deep).await.status, 400);
}

#[tokio::test]
async fn the_media_type_that_is_asked_for_decides_the_status() {
    let bed = Bed::new().await;
    let new = "application/graphql-response+json";
    for (query, with_new) in [("{ __typename }", 200), ("{ nothingLikeThis }", 400), ("{ ", 400), ("", 400)] {
        let body = json!({ "query": query }).to_string();
        let heard = bed.post(&[("accept", new)], body.clone()).await;
        assert_eq!(heard.status, with_new, "{query}");
        assert!(heard.header("content-type").starts_with(new));
        assert_eq!(heard.json().get("data").is_some(), with_new == 200, "{query}");
        let heard = bed.post(&[("accept", "application/json")], body).await;
        // What is no request at all is 400 in either.
        assert_eq!(heard.status, if query.is_empty() { 400 } else { 200 }, "{query}");
        assert!(heard.header("content-type").starts_with("application/json"));
    }
    let heard = bed.post(&[("accept", new)], r#"{"query":"{ nothingLikeThis }"}"#).await;
    assert_eq!(heard.refusal(), (400, "BAD_REQUEST".to_owned()));
    assert_eq!(bed.post(&[("accept", "image/png")], r#"{"query":"{ __typename }"}"#).await.status, 406);
}

#[tokio::test]
async fn a_token_that_is_not_good_never_makes_the_request_anonymous() {
    let bed = Bed::new().await;
    let body = r#"{"query":"{ __typename }"}"#;
    for wrong in ["Bearer x", "Bearer ", "Basic YTpi", "x", "Bearer a.b.c"] {
        let heard = bed.post(&[("authorization", wrong)], body).await;
        assert_eq!(heard.refusal(), (401, "UNAUTHENTICATED".to_owned()), "{wrong}");
        assert_eq!(heard.header("www-authenticate"), "Bearer");
        assert_eq!(bed.get("/graphql?query={__typename}", &[("authorization", wrong)]).await.status, 401);
    }
    let token = bed.register("acme").await;
    let ask = "{ viewer { organization { name } } }";
    let heard = bed.ask(Some(&token), ask, json!({})).await.json();
    assert_eq!(heard["data"]["viewer"]["organization"]["name"], "acme");
    let out = bed.ask(Some(&token), "mutation { logout { userErrors { code } } }", json!({})).await;
    assert_eq!(out.json()["data"]["logout"]["userErrors"], json!([]), "{}", out.text());
    assert_eq!(bed.ask(Some(&token), "{ __typename }", json!({})).await.refusal(), (401, "UNAUTHENTICATED".to_owned()));
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order_and_has_a_limit() {
    let bed = Bed::set(&[("max_batch", "3")]).await;
    let token = bed.register("acme").await;
    let bearer = format!("Bearer {token}");
    let one = |key: &str| json!({ "query": CREATE, "variables": { "input": { "name": key, "key": key } } });
    let list = json!({ "query": "{ projects { nodes { name } } }" });
    let heard = bed.post(&[("authorization", &bearer)], json!([one("AA"), list, { "query": "{" }]).to_string()).await;
    assert_eq!(heard.status, 200);
    let heard = heard.json();
    assert_eq!(heard[0]["data"]["projectCreate"]["project"]["name"], "AA");
    assert_eq!(heard[1]["data"]["projects"]["nodes"], json!([{ "name": "AA" }]));
    assert_eq!(heard[2]["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    let over = bed.post(&[], json!([list, list, list, list]).to_string()).await;
    assert_eq!(over.refusal(), (400, "LIMIT_EXCEEDED".to_owned()));
    assert_eq!(over.json()["errors"][0]["extensions"]["limit"], "max_batch");
}

#[tokio::test]
async fn a_url_can_ask_and_cannot_change() {
    let bed = Bed::new().await;
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let query = encode("query A { __typename } query B($n: String!) { __type(name: $n) { name } }");
    let path = format!("/graphql?query={query}&operationName=B&variables={}", encode(r#"{"n":"Query"}"#));
    assert_eq!(bed.get(&path, &[]).await.json()["data"]["__type"]["name"], "Query");
    let unnamed = bed.get(&format!("/graphql?query={query}"), &[]).await;
    assert!(unnamed.json()["errors"][0]["message"].as_str().unwrap().contains("operationName"));

    let change = encode("mutation M { logout { userErrors { code } } } query Q { __typename }");
    let heard = bed.get(&format!("/graphql?query={change}&operationName=M"), &[]).await;
    assert_eq!((heard.status.as_u16(), heard.header("allow")), (405, "POST"));
    assert_eq!(bed.get(&format!("/graphql?query={change}&operationName=Q"), &[]).await.status, 200);
    for wrong in ["/graphql", "/graphql?query=", "/graphql?query=%7Ba%7D&variables=x", "/graphql?query=a&query=b"] {
        assert_eq!(bed.get(wrong, &[]).await.refusal(), (400, "BAD_REQUEST".to_owned()), "{wrong}");
    }
    assert_eq!(bed.send(with(Request::patch("/graphql"), &[], Body::empty())).await.status, 405);
}

#[tokio::test]
async fn a_document_over_a_limit_is_refused_by_name_and_value() {
    let bed = Bed::set(&[("max_depth", "5"), ("max_aliases", "2")]).await;
    let heard = bed.ask(None, "{ a { b { c { d { e { f } } } } } }", json!({})).await.json();
    let extensions = &heard["errors"][0]["extensions"];
    let wanted = json!({ "code": "LIMIT_EXCEEDED", "limit": "max_depth", "allowed": 5, "found": 6 });
    assert_eq!(extensions, &wanted);
    assert!(heard["errors"][0]["message"].as_str().unwrap().contains("max_depth"), "{heard}");
    let heard = bed.ask(None, "{ x: __typename y: __typename z: __typename }", json!({})).await.json();
    assert_eq!(heard["errors"][0]["extensions"]["limit"], "max_aliases");
    let heard = bed.ask(None, &"a ".repeat(20_000), json!({})).await.json();
    assert_eq!(heard["errors"][0]["extensions"]["limit"], "max_query_tokens", "{heard}");
}

#[tokio::test]
async fn a_client_is_not_answered_with_less_than_it_has_seen() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let bearer = format!("Bearer {token}");
    let made = bed.ask(Some(&token), CREATE, json!({ "input": { "name": "A", "key": "AA" } })).await;
    let position = made.json()["data"]["projectCreate"]["position"].as_str().unwrap().to_owned();
    let cookie = made.header("set-cookie").to_owned();
    assert!(cookie.starts_with(&format!("oriel_at_least={position};")) && cookie.contains("HttpOnly"), "{cookie}");
    assert!(!cookie.contains("Secure"));
    let beyond = (position.parse::<u64>().unwrap() + 1_000).to_string();
    let body = r#"{"query":"{ __typename }"}"#;
    let ask = async |name: &str, value: &str| bed.post(&[("authorization", &bearer), (name, value)], body).await.json();
    assert_eq!(ask("oriel-at-least", &position).await["data"]["__typename"], "Query");
    assert_eq!(ask("oriel-at-least", &beyond).await["errors"][0]["extensions"]["code"], "POSITION_UNKNOWN");
    assert_eq!(
        ask("cookie", &format!("a=b; oriel_at_least={beyond}")).await["errors"][0]["extensions"]["code"],
        "POSITION_UNKNOWN"
    );
    assert_eq!(ask("cookie", "oriel_at_least=what").await["data"]["__typename"], "Query");
    assert_eq!(ask("oriel-at-least", "-1").await["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    for (at_least, code) in
        [(json!(beyond), "POSITION_UNKNOWN"), (json!("x"), "BAD_REQUEST"), (json!(7), "BAD_REQUEST")]
    {
        let body = json!({ "query": "{ __typename }", "extensions": { "atLeast": at_least } });
        assert_eq!(bed.post(&[], body.to_string()).await.json()["errors"][0]["extensions"]["code"], code);
    }
}

#[tokio::test]
async fn an_operation_that_takes_too_long_is_ended() {
    let mut settings = settings(&[]);
    settings.request_timeout = Duration::from_millis(20);
    let bed = Bed::with(settings, Beds { at_least_wait: Duration::from_secs(3_600), ..Beds::default() }).await;
    let heard = bed.post(&[("oriel-at-least", "1000")], r#"{"query":"{ __typename }"}"#).await.json();
    assert_eq!(heard["errors"][0]["extensions"]["limit"], "request_timeout", "{heard}");
    let stuck = Body::from_stream(futures::stream::pending::<Result<axum::body::Bytes, std::io::Error>>());
    assert_eq!(bed.post(&[], stuck).await.refusal(), (408, "LIMIT_EXCEEDED".to_owned()));
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let bed = Bed::set(&[("rate_limit", "3")]).await;
    let body = r#"{"query":"{ __typename }"}"#;
    let heard = bed.post(&[], body).await;
    assert_eq!(heard.json()["extensions"]["cost"], json!({ "requested": 1, "limit": 50_000, "remaining": 2 }));
    assert_eq!(heard.header("ratelimit-policy"), "\"cost\";q=3;w=60");
    assert_eq!(heard.header("ratelimit"), "\"cost\";r=2;t=20");
    assert_eq!(bed.post(&[("authorization", "Bearer guess")], body).await.status, 401);
    assert_eq!(bed.post(&[], format!("[{body}]")).await.status, 200);
    for headers in [&[][..], &[("authorization", "Bearer guess")][..]] {
        let heard = bed.post(headers, body).await;
        assert_eq!(heard.refusal(), (429, "RATE_LIMITED".to_owned()));
        let wait: u64 = heard.header("retry-after").parse().unwrap();
        assert!((1..=20).contains(&wait), "{wait}");
        assert_eq!(heard.json()["errors"][0]["extensions"]["retryAfter"], wait);
        assert!(heard.header("ratelimit").starts_with("\"cost\";r=0;"), "{}", heard.header("ratelimit"));
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_request_is_one_line_of_the_log_without_its_secrets() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let lines = Lines::default();
    let writer = lines.clone();
    // With a single subscriber in the process, a place that logs asks only the thread that comes there first, which may
    // be another test's. With two it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    {
        let _guard = tracing::subscriber::set_default(subscriber);
        bed.ask(Some(&token), CREATE, json!({ "input": { "name": "Verborgen", "key": "SECRETKEY" } })).await;
    }
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for secret in ["Verborgen", "SECRETKEY", "userErrors", &token] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let requests: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|record: &Value| record["target"] == "oriel::access")
        .collect();
    let [record] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(
        (&record["operation"], &record["status"], &record["route"]),
        (&json!("Make"), &json!(200), &json!("/graphql"))
    );
    assert!(
        record["user"].as_str().unwrap().contains('_') && record["organization"].as_str().unwrap().contains('_'),
        "{record}"
    );
    let trace = record["request_id"].as_str().unwrap().replace('-', "");
    assert_eq!(record["trace_id"], trace.as_str(), "{record}");
    assert!(record["request_id"].as_str().unwrap().len() == 36 && record["ms"].as_f64().unwrap() > 0.0, "{record}");
}
