#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use proptest::prelude::*;

use super::*;

const QUICK: Patience =
    Patience { attempts: 4, first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(2) };

/// A server that answers every GraphQL request with what `answer` gives for its number, from 1.
async fn server<R>(answer: impl Fn(u32, HeaderMap) -> R + Clone + Send + Sync + 'static) -> (String, Arc<AtomicU32>)
where
    R: IntoResponse + 'static,
{
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let graphql =
        post(move |headers: HeaderMap| async move { answer(count.fetch_add(1, Ordering::SeqCst) + 1, headers) });
    let ready = get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "catching up") });
    let router = Router::new().route("/graphql", graphql).route("/health/ready", ready);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asked)
}

async fn ask(url: &str) -> Result<Value, ClientError> {
    let client = Client::new(url, Some("hunter2"), QUICK).unwrap();
    let none = json!({});
    client.patiently(&CancellationToken::new(), || client.execute("{ __typename }", &none)).await
}

#[tokio::test]
async fn data_is_read_and_the_token_sent() {
    let (url, _) = server(|_, headers| {
        assert_eq!(headers[AUTHORIZATION], "Bearer hunter2");
        json!({ "data": { "__typename": "Query" } }).to_string()
    })
    .await;
    assert_eq!(ask(&url).await.unwrap()["__typename"], "Query");
    assert_eq!(ask(&format!("{url}/graphql")).await.unwrap()["__typename"], "Query");
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_again_only_for_a_while() {
    let (url, asked) = server(|number, _| match number {
        1 => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "0")], String::new()),
        2 => {
            let busy =
                json!({ "errors": [{ "message": "m", "extensions": { "code": "OVERLOADED", "retryAfter": 0.001 } }] });
            (StatusCode::OK, [(RETRY_AFTER, "60")], busy.to_string())
        }
        _ => (StatusCode::OK, [(RETRY_AFTER, "0")], json!({ "data": 1 }).to_string()),
    })
    .await;
    assert_eq!(ask(&url).await.unwrap(), 1);
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (url, asked) = server(|_, _| (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "0")], "")).await;
    assert!(matches!(ask(&url).await.unwrap_err(), ClientError::Busy { .. }));
    assert_eq!(asked.load(Ordering::SeqCst), QUICK.attempts);
}

#[tokio::test]
async fn what_will_not_pass_is_not_asked_again() {
    let (url, asked) = server(|_, _| StatusCode::UNAUTHORIZED).await;
    let error = ask(&url).await.unwrap_err();
    assert!(matches!(error, ClientError::Unauthenticated) && error.to_string().contains("ORIEL_TOKEN"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let refused = json!({ "data": null, "errors": [{ "message": "no", "extensions": { "code": "FORBIDDEN" } }] });
    let (url, asked) = server(move |_, _| refused.to_string()).await;
    assert_eq!(ask(&url).await.unwrap_err().to_string(), "FORBIDDEN: no");
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let (url, _) = server(|_, _| "<html>hello</html>").await;
    assert!(matches!(ask(&url).await.unwrap_err(), ClientError::NotOriel { .. }));
}

#[tokio::test]
async fn nobody_there_is_said_with_the_url_and_the_reason() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = ask(&url).await.unwrap_err();
    let text = error.to_string();
    assert!(error.is_passing() && text.contains(&url) && text.to_lowercase().contains("refused"), "{text}");
}

#[tokio::test]
async fn waiting_is_told_once_per_question() {
    static TOLD: AtomicU32 = AtomicU32::new(0);
    let (url, asked) = server(|_, _| (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "0")], "")).await;
    let client = Client::new(&url, None, QUICK).unwrap().on_waiting(|_| {
        TOLD.fetch_add(1, Ordering::SeqCst);
    });
    let none = json!({});
    let answer: Result<Value, _> =
        client.patiently(&CancellationToken::new(), || client.execute("{ __typename }", &none)).await;
    assert!(answer.is_err());
    assert_eq!((TOLD.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (1, QUICK.attempts));
}

#[tokio::test]
async fn a_stop_ends_the_waiting() {
    let (url, asked) = server(|_, _| (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "3600")], "")).await;
    let client = Client::new(&url, None, QUICK).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let none = json!({});
    let answer: Result<Value, _> = client.patiently(&stop, || client.execute("{ __typename }", &none)).await;
    assert!(answer.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn readiness_is_the_status_with_the_servers_own_words() {
    let (url, _) = server(|_, _| "").await;
    let client = Client::new(&url, None, QUICK).unwrap();
    assert_eq!(client.ready().await.unwrap(), (false, "catching up".to_owned()));
}

#[test]
fn only_web_urls_and_tokens_of_one_line_are_taken() {
    for wrong in ["", "127.0.0.1:8080", "ftp://host", "http://", "http://h/?x=1"] {
        assert!(matches!(Client::new(wrong, None, QUICK), Err(ClientError::Url(_))), "{wrong}");
    }
    assert!(matches!(Client::new("http://h", Some("a\nb"), QUICK), Err(ClientError::TokenText)));
    let client = Client::new("https://h/oriel/graphql", Some("hunter2"), QUICK).unwrap();
    assert_eq!(client.endpoint.as_str(), "https://h/oriel/graphql");
    assert!(!format!("{client:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn pauses_are_bounded_and_respect_what_was_asked(attempt in 1_u32..100, asked in 0_u64..100_000, chance in 0.0..1.0) {
        let patience = Patience::default();
        let own = patience.pause(attempt, None, chance);
        prop_assert!(own <= patience.longest_pause && own >= patience.first_pause / 2);
        let asked = Duration::from_secs(asked);
        let pause = patience.pause(attempt, Some(asked), chance);
        prop_assert!(pause >= asked.min(LONGEST_WAIT));
        prop_assert!(pause <= LONGEST_WAIT + patience.longest_pause);
    }

    #[test]
    fn chance_is_a_fraction(_ in 0..10) {
        prop_assert!((0.0..1.0).contains(&chance()));
    }
}

#[test]
fn pages_end_where_the_server_says_and_never_go_in_a_circle() {
    let next = |info: &str, after| serde_json::from_str::<PageInfo>(info).unwrap().next(after);
    assert_eq!(next(r#"{"hasNextPage":true,"endCursor":"b"}"#, Some("a")).as_deref(), Some("b"));
    assert_eq!(next(r#"{"hasNextPage":false,"endCursor":"b"}"#, Some("a")), None);
    assert_eq!(next(r#"{"hasNextPage":true,"endCursor":"a"}"#, Some("a")), None);
    assert_eq!(next(r#"{"hasNextPage":true,"endCursor":null}"#, None), None);
}
