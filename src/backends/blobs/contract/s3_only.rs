//! What only a bucket can get wrong.

use super::store::{ACCESS, SECRET, Store, bytes, fresh, now_here, s3_server};
use super::*;
use crate::resilience::State;

fn bucket(url: &str, secret: &str) -> Blobs {
    let settings = S3Settings::parse(&Url::parse(url).unwrap(), |_| None).unwrap();
    Blobs::open_s3(settings, Credentials::new(ACCESS, secret, None))
}

async fn assert_unavailable(blobs: &Blobs) {
    let key = fresh(FILES);
    let put = blobs.write(&key, bytes(3)).await.map(drop);
    let get = blobs.get(&key, None).await.map(drop);
    for (what, answer) in [("put", put), ("get", get), ("check", blobs.check().await)] {
        let Err(error @ BlobError::Unavailable(_)) = answer else { panic!("{what}: {answer:?}") };
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "the blob store is not available");
    }
}

#[tokio::test]
async fn a_wrong_secret_is_not_a_missing_blob() {
    let (_folder, endpoint) = s3_server().await;
    assert_unavailable(&bucket(&format!("s3://bucket?endpoint={endpoint}"), "another-secret")).await;
}

#[tokio::test]
async fn a_check_finds_a_missing_bucket() {
    let (_folder, endpoint) = s3_server().await;
    let checked = bucket(&format!("s3://elsewhere?endpoint={endpoint}"), SECRET).check().await;
    assert!(matches!(checked, Err(BlobError::Unavailable(_))), "{checked:?}");
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_unavailable(&bucket(&format!("s3://bucket?endpoint=http://{free}"), SECRET)).await;
}

#[tokio::test]
async fn clients_get_urls_of_the_public_endpoint() {
    let (_folder, endpoint) = s3_server().await;
    let blobs = bucket(&format!("s3://bucket?endpoint={endpoint}&public_endpoint=https://files.example"), SECRET);
    let (key, now) = (fresh(FILES), now_here());
    blobs.write(&key, bytes(3)).await.unwrap();
    let in_an_hour = now + chrono::TimeDelta::hours(1);
    let url = blobs.presign_get(&key, in_an_hour, &Disposition::attachment("x"), None, now).await.unwrap().url;
    assert!(url.starts_with(&format!("https://files.example/bucket/{key}?")), "{url}");
    assert!(!url.contains(SECRET));
}

#[tokio::test]
async fn the_server_answers_no_urls_of_a_bucket() {
    let store = Store::s3().await;
    let refused = store.blobs.verify(&http::Method::GET, "/blobs/files/x?signature=", now_here());
    assert_eq!(refused, Err(SignatureError::Invalid));
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_not_asked_for_a_while() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let blobs = bucket(&format!("s3://bucket?endpoint=http://{free}"), SECRET);
    assert!(blobs.health().unwrap().is_up(), "nothing is known of it yet");
    let key = fresh(FILES);
    for outages in 1..=5 {
        assert!(blobs.get(&key, None).await.is_err());
        assert_eq!(blobs.health().unwrap().outages, outages);
    }
    assert_eq!(blobs.health().unwrap().state, State::Open);
    let began = std::time::Instant::now();
    for _ in 0..100 {
        let refused = blobs.write(&key, bytes(3)).await;
        assert!(matches!(&refused, Err(error) if error.is_transient()), "{refused:?}");
    }
    // The SDK alone would have waited between its attempts.
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    // URLs are signed here: whoever has one asks the store by themselves.
    let now = now_here();
    let in_an_hour = now + chrono::TimeDelta::hours(1);
    assert!(blobs.presign_get(&key, in_an_hour, &Disposition::attachment("x"), None, now).await.is_ok());
}

#[tokio::test]
async fn what_is_missing_is_no_outage() {
    let store = Store::s3().await;
    for _ in 0..20 {
        assert!(matches!(store.blobs.head(&fresh(FILES)).await, Err(BlobError::NotFound)));
    }
    let key = fresh(FILES);
    store.blobs.write(&key, bytes(3)).await.unwrap();
    for _ in 0..20 {
        assert!(matches!(store.blobs.write(&key, bytes(3)).await, Err(BlobError::Exists)));
        let outside = store.blobs.get(&key, Some(7..9)).await;
        assert!(matches!(outside, Err(BlobError::RangeOutside { size: 3 })), "{outside:?}");
    }
    assert!(store.blobs.health().unwrap().is_up());
}
