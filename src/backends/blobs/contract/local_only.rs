//! What only a folder can get wrong.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use super::store::{Store, bytes, chunked, fresh, now_here};
use super::*;

#[tokio::test]
async fn opening_clears_what_a_killed_process_left_and_nothing_else() {
    let store = Store::local().await;
    let dead = store.data().join(".unfinished/dead");
    std::fs::write(&dead, "half of a file").unwrap();
    let (key, content) = (fresh(FILES), bytes(300_000));

    // A second opening while an upload is under way, which then goes on.
    let (data, left) = (store.data(), dead.clone());
    let reopen = stream::once(async move {
        Blobs::open_folder(&data, UrlKeys::new("k1", &[42; 32])).await.unwrap();
        assert!(!left.exists());
        Ok(Bytes::new())
    });
    let body = chunked(&content, 100_000).chain(reopen).chain(chunked(&content, 100_000));
    store.blobs.put(&key, body, 600_000).await.unwrap();
    assert_eq!(store.blobs.read(&key, 600_000).await.unwrap(), [&content[..], &content[..]].concat());
    assert_eq!(store.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_copy_of_an_old_blob_is_new() {
    let store = Store::local().await;
    let (staged, kept) = (fresh(STAGING), fresh(FILES));
    store.blobs.write(&staged, bytes(3)).await.unwrap();
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 86_400);
    std::fs::File::open(store.blobs.local_path(&staged).unwrap()).unwrap().set_modified(two_days_ago).unwrap();
    assert!(store.blobs.head(&staged).await.unwrap().modified < now_here() - chrono::TimeDelta::days(1));
    store.blobs.copy(&staged, &kept).await.unwrap();
    assert!(store.blobs.head(&kept).await.unwrap().modified > now_here() - chrono::TimeDelta::minutes(1));
}

#[tokio::test]
async fn files_are_private_and_strangers_are_not_listed() {
    let store = Store::local().await;
    let key = fresh(FILES);
    store.blobs.write(&key, bytes(3)).await.unwrap();
    let path = store.blobs.local_path(&key).unwrap();
    assert!(path.starts_with(store.data()));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::write(path.with_file_name("lost+found"), "").unwrap();
    std::fs::write(store.data().join("files/README"), "").unwrap();
    let listed = store.blobs.list(FILES, None, 9).await.unwrap();
    assert_eq!(listed.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), [key]);
}

#[tokio::test]
async fn a_truncated_file_is_an_error_and_not_a_short_blob() {
    let store = Store::local().await;
    let key = fresh(FILES);
    store.blobs.write(&key, bytes(900_000)).await.unwrap();
    let mut body = store.blobs.get(&key, None).await.unwrap();
    body.stream.try_next().await.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(store.blobs.local_path(&key).unwrap()).unwrap();
    file.set_len(600_000).unwrap();
    let rest: io::Result<Vec<Bytes>> = body.stream.try_collect().await;
    assert_eq!(rest.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_url_opens_a_folder() {
    let folder = tempfile::TempDir::new().unwrap();
    let keys = || UrlKeys::new("k1", &[42; 32]);
    let (named, default) = (folder.path().join("named"), folder.path().join("default"));
    let blobs = Blobs::open(Some(&format!("file://{}", named.display())), &default, keys()).await.unwrap();
    let key = fresh(FILES);
    blobs.write(&key, bytes(3)).await.unwrap();
    assert!(named.join("files").is_dir() && !default.exists());
    Blobs::open(None, &default, keys()).await.unwrap();
    assert!(default.is_dir());
    for url in ["http://127.0.0.1/x", "nonsense", "file://elsewhere/x"] {
        assert!(matches!(Blobs::open(Some(url), &default, keys()).await, Err(OpenError::Url(_))), "{url}");
    }
    std::fs::write(folder.path().join("a-file"), "").unwrap();
    let no_folder = Blobs::open_folder(&folder.path().join("a-file/x"), keys()).await;
    assert!(matches!(no_folder, Err(OpenError::Folder { .. })));
}
