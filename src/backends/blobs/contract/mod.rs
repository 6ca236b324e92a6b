//! What every blob store has to do, run on a local folder and on an S3 server inside this process.

#![allow(clippy::unwrap_used)]

mod alone;
mod bucket;
mod local_only;
mod s3_only;
mod store;
mod urls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, stream};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use self::store::{Store, bytes, chunked, fresh, now_here, sha256};
use super::*;

const MEGABYTE: usize = 1024 * 1024;
/// One part of an upload to S3, and a body of three of them.
const PART: usize = 5 * MEGABYTE;
const LARGE: usize = 12 * MEGABYTE;

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Store::local().await).await;
            })*
        }
        mod s3 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Store::s3().await).await;
            })*
        }
    };
}
use contract;

contract!(
    what_is_put_is_got,
    a_taken_key_is_refused,
    over_the_limit_nothing_stays,
    a_body_that_breaks_off_leaves_nothing,
    a_dropped_upload_leaves_nothing,
    what_is_not_there_is_not_found,
    ranges_outside_are_refused,
    a_copy_is_a_blob_of_its_own,
    a_list_holds_each_blob_once,
    a_file_is_fetched,
    it_answers_a_check,
    debug_shows_no_secret,
);

async fn what_is_put_is_got(store: Store) {
    for size in [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, PART - 1, PART, PART + 1, LARGE] {
        let (key, content) = (fresh(FILES), bytes(size));
        let info = store.blobs.put(&key, chunked(&content, 100_000), size as u64).await.unwrap();
        assert_eq!(info, BlobInfo { size: size as u64, sha256: sha256(&content) });
        assert_eq!(info.sha256_hex().len(), 64);
        let body = store.blobs.get(&key, None).await.unwrap();
        assert_eq!((body.size, body.range.clone()), (size as u64, 0..size as u64));
        let got: Vec<Bytes> = body.stream.try_collect().await.unwrap();
        assert!(got.iter().all(|chunk| chunk.len() <= MEGABYTE), "a chunk is larger than 1 MB");
        assert!(got.concat() == content, "{size} bytes came back different");
        assert_eq!(store.blobs.measure(&key, size as u64).await.unwrap(), info);
        let head = store.blobs.head(&key).await.unwrap();
        assert_eq!((head.key, head.size), (key, size as u64));
    }
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

async fn a_taken_key_is_refused(store: Store) {
    let key = fresh(FILES);
    store.blobs.write(&key, Bytes::from_static(b"first")).await.unwrap();
    for size in [5, LARGE] {
        let again = store.blobs.put(&key, chunked(&bytes(size), MEGABYTE), u64::MAX).await;
        assert!(matches!(again, Err(BlobError::Exists)), "{again:?}");
    }
    assert_eq!(store.blobs.read(&key, 5).await.unwrap(), "first");
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

async fn over_the_limit_nothing_stays(store: Store) {
    for (size, limit) in [(1, 0), (1_000, 999), (LARGE, LARGE - 1)] {
        let key = fresh(FILES);
        let read = Arc::new(AtomicU64::new(0));
        let endless = {
            let read = read.clone();
            chunked(&bytes(size), 100_000)
                .chain(stream::repeat_with(|| Ok(bytes(100_000))))
                .inspect(move |_| _ = read.fetch_add(1, Ordering::Relaxed))
        };
        let refused = store.blobs.put(&key, endless, limit as u64).await;
        assert!(matches!(refused, Err(BlobError::TooLarge { limit: at }) if at == limit as u64), "{refused:?}");
        assert!(read.load(Ordering::Relaxed) <= size.div_ceil(100_000) as u64, "read on after the limit");
        assert!(matches!(store.blobs.head(&key).await, Err(BlobError::NotFound)));
        // Of a small one and of none at all the same holds.
        assert!(matches!(store.blobs.write(&key, bytes(limit)).await, Ok(info) if info.size == limit as u64));
        let small = store.blobs.read(&key, limit.saturating_sub(1) as u64).await;
        assert!(limit == 0 || matches!(small, Err(BlobError::TooLarge { .. })));
    }
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

async fn a_body_that_breaks_off_leaves_nothing(store: Store) {
    for size in [0, 1_000, LARGE] {
        let key = fresh(FILES);
        let broken = chunked(&bytes(size), 100_000).chain(stream::iter([Err(io::Error::other("the client left"))]));
        let refused = store.blobs.put(&key, broken, u64::MAX >> 1).await;
        let Err(BlobError::BrokenOff(source)) = refused else { panic!("{refused:?}") };
        assert_eq!(source.to_string(), "the client left");
        assert!(matches!(store.blobs.get(&key, None).await, Err(BlobError::NotFound)));
    }
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

async fn a_dropped_upload_leaves_nothing(store: Store) {
    for size in [1_000, LARGE] {
        let key = fresh(FILES);
        let (reached, here) = tokio::sync::oneshot::channel::<()>();
        let mut reached = Some(reached);
        let stuck = chunked(&bytes(size), 100_000).chain(stream::poll_fn(move |_| {
            drop(reached.take());
            std::task::Poll::Pending
        }));
        tokio::select! {
            put = store.blobs.put(&key, stuck, u64::MAX >> 1) => panic!("{put:?}"),
            closed = here => assert!(closed.is_err()),
        }
        assert!(matches!(store.blobs.head(&key).await, Err(BlobError::NotFound)));
    }
    // S3 is told in the background.
    let cleared = async {
        while !store.leftovers().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), cleared).await;
    assert!(waited.is_ok(), "{:?}", store.leftovers());
}

async fn what_is_not_there_is_not_found(store: Store) {
    let (key, other) = (fresh(FILES), fresh(FILES));
    let blobs = &store.blobs;
    assert!(matches!(blobs.get(&key, None).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.get(&key, Some(1..2)).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.get(&key, Some(2..2)).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.head(&key).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.read(&key, 9).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.measure(&key, 9).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.copy(&key, &other).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.fetch_to(&key, &store.outside("x")).await, Err(BlobError::NotFound)));
    assert!(!store.outside("x").exists());
    blobs.delete(&key).await.unwrap();
    blobs.write(&key, Bytes::from_static(b"x")).await.unwrap();
    blobs.delete(&key).await.unwrap();
    blobs.delete(&key).await.unwrap();
    assert!(matches!(blobs.head(&key).await, Err(BlobError::NotFound)));
    assert!(blobs.list(FILES, None, 9).await.unwrap().is_empty());
}

async fn ranges_outside_are_refused(store: Store) {
    let key = fresh(FILES);
    store.blobs.write(&key, Bytes::from_static(b"0123456789")).await.unwrap();
    for range in [10..11, 10..u64::MAX, 3..3] {
        let refused = store.blobs.get(&key, Some(range.clone())).await;
        assert!(matches!(refused, Err(BlobError::RangeOutside { size: 10 })), "{range:?}: {refused:?}");
    }
    let cut = store.blobs.get(&key, Some(8..u64::MAX)).await.unwrap();
    assert_eq!((cut.size, cut.range), (10, 8..10));
}

async fn a_copy_is_a_blob_of_its_own(store: Store) {
    let blobs = &store.blobs;
    let (staged, kept) = (fresh(STAGING), fresh(FILES));
    let info = blobs.put(&staged, chunked(&bytes(LARGE), MEGABYTE), LARGE as u64).await.unwrap();
    blobs.copy(&staged, &kept).await.unwrap();
    assert!(matches!(blobs.copy(&staged, &kept).await, Err(BlobError::Exists)));
    blobs.delete(&staged).await.unwrap();
    assert_eq!(blobs.measure(&kept, LARGE as u64).await.unwrap(), info);
    assert!(matches!(blobs.measure(&kept, LARGE as u64 - 1).await, Err(BlobError::TooLarge { .. })));
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

async fn a_list_holds_each_blob_once(store: Store) {
    let before = now_here() - chrono::TimeDelta::seconds(2);
    let mut written = std::collections::BTreeMap::new();
    for size in 0..25 {
        let key = fresh(FILES);
        store.blobs.write(&key, bytes(size)).await.unwrap();
        written.insert(key, size as u64);
        store.blobs.write(&fresh(STAGING), bytes(1)).await.unwrap();
    }
    for limit in [1, 7, 25, 26, usize::MAX] {
        let mut listed = std::collections::BTreeMap::new();
        let mut after = None;
        loop {
            let page = store.blobs.list(FILES, after.as_ref(), limit).await.unwrap();
            assert!(page.len() <= limit);
            after = page.last().map(|entry| entry.key.clone());
            for entry in &page {
                assert!(entry.modified >= before && entry.modified <= now_here() + chrono::TimeDelta::seconds(2));
                assert_eq!(listed.insert(entry.key.clone(), entry.size), None, "{} came twice", entry.key);
            }
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(listed, written);
    }
    assert!(store.blobs.list(FILES, None, 0).await.unwrap().is_empty());
    assert!(store.blobs.list(BlobPrefix::new("empty"), None, 9).await.unwrap().is_empty());
}

async fn a_file_is_fetched(store: Store) {
    let (key, content) = (fresh(FILES), bytes(LARGE));
    let info = store.blobs.put(&key, chunked(&content, MEGABYTE), LARGE as u64).await.unwrap();
    let path = store.outside("fetched");
    std::fs::write(&path, "an older file").unwrap();
    assert_eq!(store.blobs.fetch_to(&key, &path).await.unwrap(), info);
    assert!(std::fs::read(&path).unwrap() == content);
    if let Some(path) = store.blobs.local_path(&key) {
        assert!(std::fs::read(&path).unwrap() == content);
    }
}

async fn it_answers_a_check(store: Store) {
    store.blobs.check().await.unwrap();
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

async fn debug_shows_no_secret(store: Store) {
    let shown = format!("{:?}", store.blobs);
    for secret in [store::SECRET, "42, 42", "2a2a"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// Any bytes, in any pieces, come back the same, and any range of them equals the slice.
fn any_bytes_and_any_range(store: impl Future<Output = Store>, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = runtime.block_on(store);
    let pieces = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5_000), 0..8);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(pieces, any::<(u16, u16)>()), |(pieces, (a, b))| {
        runtime.block_on(async {
            let (key, content) = (fresh(FILES), Bytes::from(pieces.concat()));
            let body = stream::iter(pieces.into_iter().map(|piece| Ok::<_, io::Error>(Bytes::from(piece))));
            let info = store.blobs.put(&key, body, content.len() as u64).await.unwrap();
            prop_assert_eq!(info, BlobInfo { size: content.len() as u64, sha256: sha256(&content) });
            prop_assert_eq!(&store.blobs.read(&key, u64::MAX).await.unwrap(), &content);
            let (start, end) = (a.min(b) as usize, a.max(b) as usize);
            let got = store.blobs.get(&key, Some(start as u64..end as u64)).await;
            if start == end || start >= content.len() {
                let outside = matches!(got, Err(BlobError::RangeOutside { size }) if size == content.len() as u64);
                prop_assert!(outside);
            } else {
                let end = end.min(content.len());
                let got = got.unwrap();
                prop_assert_eq!(got.range, start as u64..end as u64);
                let got: Vec<Bytes> = got.stream.try_collect().await.unwrap();
                prop_assert_eq!(&got.concat(), &content[start..end]);
            }
            Ok(())
        })
    });
    outcome.unwrap();
}

#[test]
fn local_any_bytes_and_any_range() {
    any_bytes_and_any_range(Store::local(), 64);
}

#[test]
fn s3_any_bytes_and_any_range() {
    any_bytes_and_any_range(Store::s3(), 48);
}
