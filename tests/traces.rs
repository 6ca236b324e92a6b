//! Traces: what a request sets off is told to a collector (OTLP over HTTP) as one story, whoever does the parts of it.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Bucket, Clamd, RedisServer, Server, Sink, databases};

const PATIENCE: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector that keeps what it is sent.
struct Collector {
    url: String,
    sent: mpsc::UnboundedReceiver<Vec<Span>>,
    spans: Vec<Span>,
}

impl Collector {
    async fn start() -> Self {
        let (told, sent) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let take = async move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
            let _ = told.send(scopes.flat_map(|scope| scope.spans).collect());
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", post(take))).await });
        Self { url, sent, spans: Vec::new() }
    }

    /// Waits for a span of this trace for which this holds.
    async fn find(&mut self, what: &str, is: impl Fn(&Span) -> bool) -> Span {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(span) = self.spans.iter().find(|span| hex(&span.trace_id) == TRACE && is(span)) {
                return span.clone();
            }
            match tokio::time::timeout_at(deadline, self.sent.recv()).await {
                Ok(Some(spans)) => self.spans.extend(spans),
                _ => {
                    let tree: Vec<_> =
                        self.spans.iter().map(|s| (hex(&s.parent_span_id), hex(&s.span_id), &s.name)).collect();
                    panic!("{what} was not sent: {tree:#?}")
                }
            }
        }
    }

    /// Waits for a span of this name under another one.
    async fn under(&mut self, parent: &Span, name: &str) -> Span {
        let what = format!("{name} under {}", parent.name);
        self.find(&what, |span| span.parent_span_id == parent.span_id && span.name == name).await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => Some(text),
        other => panic!("{key}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_what_follows_from_it_is_one_tree() {
    for database in databases() {
        let mut collector = Collector::start().await;
        let mut environment = vec![
            ("ORIEL_OTLP_ENDPOINT", collector.url.clone()),
            // How often spans are sent, in milliseconds.
            ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ];
        environment.extend(database.map(|url| ("ORIEL_DATABASE_URL", url)));
        let server = Server::start_among(environment).await;
        let mut session = server.register("Acme").await;
        let project = session.create_project("DOCS").await;
        let parent = format!("00-{TRACE}-{CALLER}-01").parse().unwrap();
        let headers = reqwest::header::HeaderMap::from_iter([("traceparent".parse().unwrap(), parent)]);
        session.http = reqwest::Client::builder().default_headers(headers).build().unwrap();
        let uploaded = session.upload(&project, "notes.md", b"# Notes\n\nalgebraical patterns".to_vec()).await;
        assert_eq!(uploaded["userErrors"], serde_json::json!([]), "{uploaded}");

        let request = collector.find("the request", |span| hex(&span.parent_span_id) == CALLER).await;
        assert_eq!((request.name.as_str(), request.kind()), ("POST /graphql", SpanKind::Server));
        let mutation = collector.under(&request, "mutation").await;
        let command = collector.under(&mutation, "UploadDocument").await;
        let commit = collector.under(&command, "commit").await;
        collector.under(&commit, "project").await;
        let inserts = |span: &Span| text(span, "db.statement").is_some_and(|sql| sql.contains("INTO \"events\""));
        let insert =
            collector.find("the statement", |span| span.parent_span_id == commit.span_id && inserts(span)).await;
        assert_eq!(insert.kind(), SpanKind::Client);
        assert!(!text(&insert, "db.statement").unwrap().contains("notes"), "values are not told: {insert:?}");

        let event = collector.under(&command, "document_uploaded").await;
        assert_eq!(event.kind(), SpanKind::Producer);
        // The reactor makes a job of it, the job is done, and says so in a command of its own, whose event follows.
        let reaction = collector.find("the reactor", |span| {
            let named = span.links.iter().any(|link| link.span_id == event.span_id);
            span.name == "extraction" && text(span, "job").is_none() && (span.parent_span_id == event.span_id || named)
        });
        assert_eq!(reaction.await.kind(), SpanKind::Consumer);
        let job = collector.find("the job", |span| span.name == "extract" && text(span, "job").is_some()).await;
        let cause = collector.find("what the job is for", |span| span.span_id == job.parent_span_id).await;
        assert_eq!((job.kind(), cause.kind()), (SpanKind::Consumer, SpanKind::Producer));
        assert_eq!(cause.parent_span_id, command.span_id, "{cause:?}");
        let done = collector.under(&job, "RecordText").await;
        collector.under(&done, "commit").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_servers_were_asked_is_in_the_tree() {
    let (Some(redis), Some(clamd)) = (RedisServer::start(), Clamd::start()) else { return };
    let (bucket, sink) = (Bucket::start(), Sink::start("localhost").await);
    let mut collector = Collector::start().await;
    let mut environment = vec![
        ("ORIEL_OTLP_ENDPOINT", collector.url.clone()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ("ORIEL_REDIS_URL", redis.url()),
        ("ORIEL_RATE_LIMIT", "100000".to_owned()),
        ("ORIEL_SCANNER_URL", clamd.url()),
        ("ORIEL_MAIL_URL", format!("smtp://127.0.0.1:{}", sink.port)),
    ];
    environment.extend(bucket.environment());
    let server = Server::start_among(environment).await;
    let mut session = server.register("Acme").await;
    let project = session.create_project("DOCS").await;
    let parent = format!("00-{TRACE}-{CALLER}-01").parse().unwrap();
    let headers = reqwest::header::HeaderMap::from_iter([("traceparent".parse().unwrap(), parent)]);
    session.http = reqwest::Client::builder().default_headers(headers).build().unwrap();
    session.upload(&project, "notes.md", b"# Notes".to_vec()).await;
    session.join("Grace", "member").await;

    let asked = |name: &'static str| {
        move |span: &Span| {
            let answered = text(span, "outcome") == Some("answered");
            span.name == name && span.kind() == SpanKind::Client && answered
        }
    };
    // Each under what had to wait for it: a request, or a job.
    for (name, under) in [
        ("redis", SpanKind::Server),
        ("blobs", SpanKind::Server),
        ("scanner", SpanKind::Consumer),
        ("mail", SpanKind::Consumer),
    ] {
        let span = collector.find(name, asked(name)).await;
        let mut above = span.clone();
        while above.kind() != under {
            let parent = above.parent_span_id.clone();
            above = collector.find(&format!("what is above {}", above.name), |span| span.span_id == parent).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_trace_is_named_all_the_same() {
    let server = Server::start(None).await;
    let request = reqwest::Client::new().get(format!("{}/graphql?query=%7B__typename%7D", server.url));
    let response = request.header("traceparent", format!("00-{TRACE}-{CALLER}-01")).send().await.unwrap();
    let named = response.headers()["traceresponse"].to_str().unwrap().to_owned();
    assert!(named.starts_with(&format!("00-{TRACE}-")) && !named.contains(CALLER), "{named}");
    let answer: serde_json::Value = response.json().await.unwrap();
    assert_eq!(answer["extensions"]["traceId"], TRACE);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_number_for_every_promise() {
    let server = Server::start(None).await;
    let session = server.register("Acme").await;
    session.create_project("DOCS").await;
    let read = async || reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    let number_in = |text: &str, series: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not measured:\n{text}")).parse::<f64>().unwrap()
    };
    // What goes on by itself is done at some moment.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let text = loop {
        let text = read().await;
        let resting =
            [("oriel_feed_is_current", 1.0), ("oriel_commands_waiting", 0.0), ("oriel_commands_waiting_seconds", 0.0)];
        if resting.iter().all(|(series, wanted)| number_in(&text, series) == *wanted) {
            break text;
        }
        assert!(tokio::time::Instant::now() < deadline, "something is always waiting:\n{text}");
    };
    let number = |series: &str| number_in(&text, series);
    assert!(number("oriel_commit_batch_commands_count") >= 2.0);
    assert_eq!(number(r#"oriel_database_connections_most{pool="writer"}"#), 1.0);
    assert!(number(r#"oriel_database_connections{pool="reader",state="idle"}"#) >= 0.0);
    for consumer in ["extraction", "index_stage", "search_index"] {
        assert!(number(&format!("oriel_consumer_lag_seconds{{consumer=\"{consumer}\"}}")) < 60.0);
    }
    assert_eq!(number(r#"oriel_jobs_oldest_seconds{queue="extract"}"#), 0.0);
    assert!(number("oriel_connections") >= 1.0 && number("oriel_cache_bytes") >= 0.0);
}
