//! Signed URLs, used by a plain HTTP client.

use chrono::TimeDelta;
use reqwest::StatusCode;

use super::store::{Store, bytes, fresh, now_here};
use super::*;

contract!(
    an_upload_and_a_download_without_credentials,
    an_upload_of_another_size_or_type_is_refused,
    a_changed_url_is_refused,
    an_expired_url_is_refused,
    an_upload_may_arrive_again,
);

const HOUR: TimeDelta = TimeDelta::hours(1);

async fn put(store: &Store, url: &Presigned, headers: &[(String, String)], body: &Bytes) -> StatusCode {
    let mut request = reqwest::Client::new()
        .put(format!("{}{}", store.address, url.url))
        .header("content-length", body.len())
        .body(body.clone());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send().await.unwrap().status()
}

async fn get(store: &Store, url: &str) -> reqwest::Response {
    reqwest::get(format!("{}{url}", store.address)).await.unwrap()
}

async fn an_upload_and_a_download_without_credentials(store: Store) {
    let now = now_here();
    for (size, terms) in [(0, PutSize::Exactly(0)), (3_000_000, PutSize::Exactly(3_000_000)), (7, PutSize::AtMost(9))] {
        let (key, content) = (fresh(STAGING), bytes(size));
        let url = store.blobs.presign_put(&key, now + HOUR, terms, Some("text/plain"), now).await.unwrap();
        assert_eq!(url.method, http::Method::PUT);
        assert_eq!(put(&store, &url, &url.headers, &content).await, StatusCode::OK, "{terms:?} {:?}", url.headers);
        assert_eq!(store.blobs.read(&key, u64::MAX).await.unwrap(), content);

        let disposition = Disposition::attachment("Büro & \"Co\".txt");
        let url = store.blobs.presign_get(&key, now + HOUR, &disposition, Some("text/x-oriel"), now).await.unwrap();
        assert!(url.headers.is_empty(), "{:?}", url.headers);
        let answer = get(&store, &url.url).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/x-oriel");
        assert_eq!(answer.headers()["content-disposition"], disposition.header_value());
        assert_eq!(answer.bytes().await.unwrap(), content);
    }
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

async fn an_upload_of_another_size_or_type_is_refused(store: Store) {
    let (key, now) = (fresh(STAGING), now_here());
    let url = store.blobs.presign_put(&key, now + HOUR, PutSize::Exactly(10), Some("text/plain"), now).await.unwrap();
    for size in [0, 9, 11, 1_000] {
        assert_eq!(put(&store, &url, &url.headers, &bytes(size)).await, StatusCode::FORBIDDEN, "{size}");
    }
    let html = [("content-type".to_owned(), "text/html".to_owned())];
    assert_eq!(put(&store, &url, &html, &bytes(10)).await, StatusCode::FORBIDDEN);
    assert_eq!(put(&store, &url, &[], &bytes(10)).await, StatusCode::FORBIDDEN);
    assert!(matches!(store.blobs.head(&key).await, Err(BlobError::NotFound)));
    assert_eq!(put(&store, &url, &url.headers, &bytes(10)).await, StatusCode::OK);
}

async fn a_changed_url_is_refused(store: Store) {
    let (key, other, now) = (fresh(FILES), fresh(FILES), now_here());
    store.blobs.write(&key, bytes(3)).await.unwrap();
    store.blobs.write(&other, bytes(3)).await.unwrap();
    let url =
        store.blobs.presign_get(&key, now + HOUR, &Disposition::attachment("a.txt"), None, now).await.unwrap().url;
    assert_eq!(get(&store, &url).await.status(), StatusCode::OK);
    for (was, becomes) in [(key.as_str(), other.as_str()), ("a.txt", "b.html"), ("attachment", "inline")] {
        let changed = url.replace(was, becomes);
        assert_ne!(changed, url);
        assert_eq!(get(&store, &changed).await.status(), StatusCode::FORBIDDEN, "{was}");
    }
    let upload = Presigned { url: url.clone(), method: http::Method::PUT, headers: vec![], expires_at: now };
    assert_eq!(put(&store, &upload, &[], &bytes(4)).await, StatusCode::FORBIDDEN);
    let deleted = reqwest::Client::new().delete(format!("{}{url}", store.address)).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::FORBIDDEN);
    assert_eq!(store.blobs.read(&key, 3).await.unwrap(), bytes(3));
}

async fn an_expired_url_is_refused(store: Store) {
    let (key, then) = (fresh(FILES), now_here() - TimeDelta::hours(2));
    store.blobs.write(&key, bytes(3)).await.unwrap();
    let name = Disposition::attachment("a.txt");
    let url = store.blobs.presign_get(&key, then + HOUR, &name, None, then).await.unwrap();
    assert_eq!(get(&store, &url.url).await.status(), StatusCode::FORBIDDEN);
    let url = store.blobs.presign_put(&fresh(STAGING), then + HOUR, PutSize::AtMost(9), None, then).await.unwrap();
    assert_eq!(put(&store, &url, &url.headers, &bytes(3)).await, StatusCode::FORBIDDEN);
    // Signed for longer than that, the same URLs of two hours ago are good.
    let url = store.blobs.presign_get(&key, then + HOUR * 3, &name, None, then).await.unwrap();
    assert_eq!(get(&store, &url.url).await.status(), StatusCode::OK);

    let too_late = store.blobs.presign_get(&key, then, &name, None, then).await;
    assert!(matches!(too_late, Err(PresignError::Expiry)));
    let too_long = store.blobs.presign_get(&key, then + TimeDelta::days(8), &name, None, then).await;
    assert!(matches!(too_long, Err(PresignError::Expiry)));
}

async fn an_upload_may_arrive_again(store: Store) {
    let (staged, kept, now) = (fresh(STAGING), fresh(FILES), now_here());
    let url = store.blobs.presign_put(&staged, now + HOUR, PutSize::AtMost(9), None, now).await.unwrap();
    assert_eq!(put(&store, &url, &url.headers, &bytes(3)).await, StatusCode::OK);
    store.blobs.copy(&staged, &kept).await.unwrap();
    assert_eq!(put(&store, &url, &url.headers, &bytes(5)).await, StatusCode::OK);
    assert_eq!(store.blobs.read(&staged, 9).await.unwrap(), bytes(5));
    assert_eq!(store.blobs.read(&kept, 9).await.unwrap(), bytes(3), "what was copied stays as it was");
}
