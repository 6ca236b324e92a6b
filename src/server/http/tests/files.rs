//! Files in `multipart/form-data`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use oriel_reactors::FILES;

use super::*;

const UPLOAD: &str = "mutation Up($input: DocumentUploadInput!) { documentUpload(input: $input) {
    document { fileName size sha256 } userErrors { code path } } }";

/// The parts before the file, and the beginning of the file's part.
fn begin(operations: &Value, map: &Value) -> String {
    format!(
        "--b\r\ncontent-disposition: form-data; name=\"operations\"\r\n\r\n{operations}\r\n\
         --b\r\ncontent-disposition: form-data; name=\"map\"\r\n\r\n{map}\r\n"
    )
}

fn file(name: &str, file_name: &str, content: &str) -> String {
    format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n\r\n{content}\r\n")
}

fn upload(project: &str) -> Value {
    json!({ "query": UPLOAD, "variables": { "input": { "projectId": project, "file": null } } })
}

fn usual_map() -> Value {
    json!({ "0": ["variables.input.file"] })
}

async fn send(bed: &Bed, token: &str, body: impl Into<Body>) -> Heard {
    let bearer = format!("Bearer {token}");
    let headers = [
        ("content-type", "multipart/form-data; boundary=b"),
        ("graphql-require-preflight", "1"),
        ("authorization", &bearer),
    ];
    bed.post(&headers, body).await
}

/// How many files the store holds.
async fn kept(bed: &Bed) -> usize {
    bed.installation.blobs.list(FILES, None, 1_000).await.unwrap().len()
}

#[tokio::test]
async fn a_file_becomes_a_document() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let project = bed.project(&token, "DOCS").await;
    let text = "words \r\n--not the boundary\r\n".repeat(10_000);
    let body = begin(&upload(&project), &usual_map()) + &file("0", "../a/Bericht.txt", &text) + "--b--\r\n";
    let heard = send(&bed, &token, body).await.json();
    let document = &heard["data"]["documentUpload"]["document"];
    assert_eq!((&document["fileName"], heard.get("errors")), (&json!("Bericht.txt"), None), "{heard}");
    let blobs = bed.installation.blobs.list(FILES, None, 9).await.unwrap();
    let info = bed.installation.blobs.measure(&blobs[0].key, 1 << 20).await.unwrap();
    assert_eq!((blobs.len(), info.size), (1, text.len() as u64));
    assert_eq!(document["sha256"], info.sha256_hex());
}

#[tokio::test]
async fn what_no_operation_takes_does_not_stay() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let body =
        begin(&upload("prj_00000000000000000000000000"), &usual_map()) + &file("0", "a.txt", "words") + "--b--\r\n";
    let heard = send(&bed, &token, body).await.json();
    assert_eq!(heard["data"]["documentUpload"]["document"], Value::Null, "{heard}");
    assert_ne!(heard["data"]["documentUpload"]["userErrors"], json!([]), "{heard}");
    assert_eq!(kept(&bed).await, 0);
}

#[tokio::test]
async fn nothing_is_read_of_a_file_that_cannot_be_taken() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let folder = bed.close().await;
    let mut settings = settings(&[]);
    settings.commit_queue_count = 0;
    let full = Bed::on(folder, settings, Beds::default()).await;
    let bearer = format!("Bearer {token}");
    let typed = ("content-type", "multipart/form-data; boundary=b");
    let signed_in = ("authorization", bearer.as_str());
    let safe = ("x-requested-with", "x");
    for (headers, wanted) in [
        (&[typed, signed_in][..], (400, "BAD_REQUEST")),
        (&[typed, safe][..], (401, "UNAUTHENTICATED")),
        (&[typed, safe, ("authorization", "Bearer x")][..], (401, "UNAUTHENTICATED")),
        (&[typed, safe, signed_in][..], (503, "OVERLOADED")),
    ] {
        let read = Arc::new(AtomicBool::new(false));
        let reading = Arc::clone(&read);
        let body = Body::from_stream(futures::stream::once(async move {
            reading.store(true, Ordering::SeqCst);
            Ok::<_, io::Error>(Bytes::new())
        }));
        let heard = full.post(headers, body).await;
        assert_eq!(heard.refusal(), (wanted.0, wanted.1.to_owned()));
        assert!(!read.load(Ordering::SeqCst), "{wanted:?}");
        assert_eq!(heard.header("retry-after"), if wanted.0 == 503 { "1" } else { "" });
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_by_name_and_nothing_stays() {
    let bed = Bed::set(&[("upload_max_size", "1KiB")]).await;
    let token = bed.register("acme").await;
    let project = bed.project(&token, "DOCS").await;
    let whole =
        |size: usize| begin(&upload(&project), &usual_map()) + &file("0", "a.txt", &"x".repeat(size)) + "--b--\r\n";
    let heard = send(&bed, &token, whole(1_025)).await;
    assert_eq!(heard.refusal(), (413, "LIMIT_EXCEEDED".to_owned()));
    assert_eq!(heard.json()["errors"][0]["extensions"]["limit"], "upload_max_size");
    assert_eq!(kept(&bed).await, 0);
    assert_eq!(send(&bed, &token, whole(1_024)).await.json()["data"]["documentUpload"]["document"]["size"], 1_024);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let project = bed.project(&token, "DOCS").await;
    let two = json!({ "0": ["variables.input.file"], "1": ["variables.input.other"] });
    let start = begin(&upload(&project), &two) + &file("0", "a.txt", "words");
    let second = "--b\r\ncontent-disposition: form-data; name=\"1\"; filename=\"b\"\r\n\r\nhalf";
    for broken in [Err(io::Error::other("gone")), Ok(Bytes::new())] {
        let pieces = [Ok(Bytes::from(start.clone())), Ok(Bytes::from(second)), broken];
        let heard = send(&bed, &token, Body::from_stream(futures::stream::iter(pieces))).await;
        assert_eq!(heard.refusal(), (400, "BAD_REQUEST".to_owned()));
        // The first file was stored: it is deleted by a task of its own.
        until(async || kept(&bed).await == 0).await;
    }
    // A client that goes away while its file is being read.
    let pieces = futures::stream::iter([Ok::<_, io::Error>(Bytes::from(start)), Ok(Bytes::from(second))]);
    let (told, asked) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let rest = futures::stream::poll_fn(move |_| {
        // The response is never made; that the second file is waited for is told once.
        if let Some(told) = told.take() {
            let _ = told.send(());
        }
        std::task::Poll::Pending
    });
    let body = Body::from_stream(futures::StreamExt::chain(pieces, rest));
    tokio::select! {
        _ = send(&bed, &token, body) => panic!("answered without the rest"),
        asked = asked => asked.unwrap(),
    }
    until(async || kept(&bed).await == 0).await;
}

/// Polls until it holds; a test that waits in vain is ended by its own limit.
pub(super) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(60), async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn parts_that_are_missing_unnamed_or_in_another_order_are_refused() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let project = bed.project(&token, "DOCS").await;
    let operations = upload(&project);
    let (usual, one) = (begin(&operations, &usual_map()), file("0", "a.txt", "words"));
    let map_first = begin(&usual_map(), &operations)
        .replace("\"operations\"", "\"x\"")
        .replace("\"map\"", "\"operations\"")
        .replace("\"x\"", "\"map\"");
    for wrong in [
        one.clone() + &usual + "--b--\r\n",
        map_first + &one + "--b--\r\n",
        usual.clone() + "--b--\r\n",
        usual.clone() + &one + &one + "--b--\r\n",
        usual.clone() + &one + &file("1", "b.txt", "more") + "--b--\r\n",
        begin(&operations, &json!({ "0": ["variables.input.nothing"] })) + &one + "--b--\r\n",
        begin(&operations, &json!({ "0": ["variables.input.projectId"] })) + &one + "--b--\r\n",
        begin(&operations, &json!([])) + &one + "--b--\r\n",
        begin(&json!({ "query": "" }), &usual_map()) + &one + "--b--\r\n",
        "no multipart".to_owned(),
    ] {
        let heard = send(&bed, &token, wrong.clone()).await;
        assert_eq!(heard.status, 400, "{wrong}");
        until(async || kept(&bed).await == 0).await;
    }
    // What is wrong with a document is told as it is without files.
    let wrong = begin(&json!({ "query": "{".repeat(200) }), &usual_map()) + &one + "--b--\r\n";
    assert_eq!(send(&bed, &token, wrong).await.refusal(), (200, "LIMIT_EXCEEDED".to_owned()));
    assert_eq!(kept(&bed).await, 0);
}
