//! Tests that limit or measure their process, and so need one of their own: each runs this test program again, for
//! one ignored test.

use std::process::Command;

use super::store::{Store, bytes, fresh};
use super::*;

fn run_alone(test: &str, shell: &str) {
    let module = module_path!().split_once("::").unwrap().1;
    let output = Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", &format!("{module}::{test}")])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "the test is not there: {told}");
}

/// Files may not grow past 512 KB, which a write learns in the middle, as on a full disk.
#[test]
fn a_full_disk_leaves_nothing() {
    run_alone("full_disk", "trap '' XFSZ; ulimit -f 1024;");
}

#[tokio::test]
#[ignore = "run by a_full_disk_leaves_nothing"]
async fn full_disk() {
    let store = Store::local().await;
    let key = fresh(FILES);
    let refused = store.blobs.write(&key, bytes(4 * MEGABYTE)).await;
    assert!(matches!(refused, Err(BlobError::Unavailable(_))), "{refused:?}");
    assert!(matches!(store.blobs.head(&key).await, Err(BlobError::NotFound)));
    assert_eq!(store.leftovers(), Vec::<String>::new());
    store.blobs.write(&key, bytes(1_000)).await.unwrap();
}

#[test]
fn a_large_blob_in_a_folder_moves_no_memory() {
    run_alone("large_in_a_folder", "");
}

#[test]
fn a_large_blob_in_a_bucket_moves_little_memory() {
    run_alone("large_in_a_bucket", "");
}

#[tokio::test]
#[ignore = "run by a_large_blob_in_a_folder_moves_no_memory"]
async fn large_in_a_folder() {
    assert_memory(Store::local().await, 256 * MEGABYTE, 8 * MEGABYTE).await;
}

#[tokio::test]
#[ignore = "run by a_large_blob_in_a_bucket_moves_little_memory"]
async fn large_in_a_bucket() {
    // Four parts, and what the server in this same process holds of them.
    assert_memory(Store::s3().await, 96 * MEGABYTE, 64 * MEGABYTE).await;
}

async fn assert_memory(store: Store, size: usize, most: usize) {
    store.blobs.write(&fresh(FILES), bytes(MEGABYTE)).await.unwrap();
    let before = peak_memory();
    let key = fresh(FILES);
    let chunks = stream::iter(0..size / 65_536).map(|at| Ok::<_, io::Error>(Bytes::from(vec![at as u8; 65_536])));
    let info = store.blobs.put(&key, chunks, size as u64).await.unwrap();
    assert_eq!(store.blobs.measure(&key, size as u64).await.unwrap(), info);
    let grown = peak_memory() - before;
    assert!(grown < most, "{grown} bytes for a blob of {size}");
    println!("{grown} bytes for a blob of {size}");
}

/// The most memory that this process ever had resident.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
