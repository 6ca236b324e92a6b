//! Signed URLs.

use chrono::{DateTime, TimeDelta, Utc};
use oriel_backends::blobs::{BlobKey, Disposition, PutSize};
use oriel_reactors::FILES;
use uuid::Uuid;

use super::*;

const TEXT: &[u8] = b"0123456789";

fn blobs(bed: &Bed) -> &oriel_backends::blobs::Blobs {
    &bed.installation.blobs
}

fn now(bed: &Bed) -> DateTime<Utc> {
    bed.installation.engine.now()
}

async fn stored(bed: &Bed) -> BlobKey {
    let key = BlobKey::fresh(FILES, Uuid::now_v7());
    blobs(bed).write(&key, TEXT.to_vec().into()).await.unwrap();
    key
}

async fn link(bed: &Bed, key: &BlobKey, at: DateTime<Utc>) -> String {
    let disposition = Disposition::attachment("Übersicht \"1\".html");
    blobs(bed).presign_get(key, at + TimeDelta::seconds(60), &disposition, Some("text/html"), at).await.unwrap().url
}

#[tokio::test]
async fn a_download_is_whole_named_and_harmless() {
    let bed = Bed::new().await;
    let key = stored(&bed).await;
    let url = link(&bed, &key, now(&bed)).await;
    let heard = bed.get(&url, &[]).await;
    assert_eq!((heard.status.as_u16(), &heard.body[..]), (200, TEXT));
    for (name, value) in [
        ("content-type", "text/html"),
        ("content-length", "10"),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        (
            "content-disposition",
            "attachment; filename=\"_bersicht _1_.html\"; filename*=UTF-8''%C3%9Cbersicht%20%221%22.html",
        ),
    ] {
        assert_eq!(heard.header(name), value, "{name}");
    }
    let head = bed.send(with(Request::head(&url), &[], Body::empty())).await;
    assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.len()), (200, "10", 0));
    assert_eq!(head.header("etag"), heard.header("etag"));
    blobs(&bed).delete(&key).await.unwrap();
    assert_eq!(bed.get(&url, &[]).await.status, 404);
}

#[tokio::test]
async fn parts_and_copies_are_served_by_their_validators() {
    let bed = Bed::new().await;
    let key = stored(&bed).await;
    let url = link(&bed, &key, now(&bed)).await;
    let tag = bed.get(&url, &[]).await.header("etag").to_owned();
    let weak = format!("W/{tag}");
    let part = bed.get(&url, &[("range", "bytes=2-4")]).await;
    assert_eq!(
        (part.status.as_u16(), &part.body[..], part.header("content-range")),
        (206, &b"234"[..], "bytes 2-4/10")
    );
    assert_eq!(part.header("content-length"), "3");
    let last = bed.get(&url, &[("range", "bytes=-3"), ("if-range", &tag)]).await;
    assert_eq!(
        (last.status.as_u16(), &last.body[..], last.header("content-range")),
        (206, &b"789"[..], "bytes 7-9/10")
    );
    let outside = bed.get(&url, &[("range", "bytes=10-")]).await;
    assert_eq!((outside.status.as_u16(), outside.header("content-range")), (416, "bytes */10"));
    for (name, value) in
        [("if-range", "\"other\""), ("if-range", weak.as_str()), ("if-range", "Wed, 21 Oct 2015 07:28:00 GMT")]
    {
        let heard = bed.get(&url, &[("range", "bytes=2-4"), (name, value)]).await;
        assert_eq!((heard.status.as_u16(), heard.body.len()), (200, 10), "{value}");
    }
    assert_eq!(bed.get(&url, &[("range", "bytes=0-1,4-5")]).await.body, TEXT);
    for known in [tag.as_str(), weak.as_str(), "*", &format!("\"a\", {tag}")] {
        let heard = bed.get(&url, &[("if-none-match", known), ("range", "bytes=2-4")]).await;
        assert_eq!((heard.status.as_u16(), heard.body.len(), heard.header("etag")), (304, 0, tag.as_str()), "{known}");
    }
    assert_eq!(bed.get(&url, &[("if-none-match", "\"other\"")]).await.status, 200);
}

#[tokio::test]
async fn a_link_that_was_changed_or_has_expired_is_refused_in_words() {
    let bed = Bed::new().await;
    let key = stored(&bed).await;
    let url = link(&bed, &key, now(&bed)).await;
    let other = url.replace(key.as_str(), stored(&bed).await.as_str());
    let path = url.split('?').next().unwrap();
    for wrong in [other.as_str(), &url.replace("text%2Fhtml", "text%2Fplain"), path, "/blobs/x", &format!("{url}&a=b")]
    {
        let heard = bed.get(wrong, &[]).await;
        assert_eq!(
            (heard.status.as_u16(), heard.header("content-type")),
            (403, "text/plain; charset=utf-8"),
            "{wrong}"
        );
        assert!(heard.text().contains("not valid"), "{}", heard.text());
    }
    let expired = bed.get(&link(&bed, &key, now(&bed) - TimeDelta::seconds(3_600)).await, &[]).await;
    assert!(expired.status == 403 && expired.text().contains("expired"), "{}", expired.text());
    assert_eq!(bed.send(with(Request::put(&url), &[], Body::from("x"))).await.status, 403);
}

#[tokio::test]
async fn an_upload_is_held_to_what_was_signed() {
    let bed = Bed::new().await;
    let key = BlobKey::fresh(FILES, Uuid::now_v7());
    let now = now(&bed);
    let signed =
        blobs(&bed).presign_put(&key, now + TimeDelta::seconds(60), PutSize::AtMost(10), Some("text/plain"), now).await;
    let url = signed.unwrap().url;
    let put = async |headers: &[(&str, &str)], body: &'static [u8]| {
        bed.send(with(Request::put(&url), headers, Body::from(body))).await
    };
    let typed = ("content-type", "text/plain");
    assert_eq!(put(&[("content-type", "text/html")], TEXT).await.status, 403);
    assert_eq!(put(&[typed, ("content-length", "11")], TEXT).await.status, 403);
    assert_eq!(put(&[typed], b"0123456789a").await.status, 413);
    assert!(blobs(&bed).head(&key).await.is_err());
    assert_eq!(bed.get(&url, &[]).await.status, 403);
    let done = put(&[typed], TEXT).await;
    assert_eq!(done.status, 200);
    let info = blobs(&bed).measure(&key, 100).await.unwrap();
    assert_eq!(done.header("etag"), format!("\"{}\"", info.sha256_hex()));
}
