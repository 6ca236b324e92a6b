//! Documents from outside: files that come with the request and past it, what becomes of those that are not used, and
//! what is seen of a document afterwards.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_graphql::{Request, Variables};
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures::StreamExt;
use oriel_backends::blobs::{BlobError, BlobKey, FILES, STAGING};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::testing::{Bed, Person, operation};
use crate::uploads::{Received, Uploads};

const SELECTION: &str = "document { id title fileName mediaType size sha256 status version revision tags trashedAt
    pipeline { stage state reason } project { id } uploadedBy { id } }
    userErrors { code message path } position";

/// A file as a transport leaves it.
pub async fn received(bed: &Bed, name: &str, content: &str) -> Received {
    let blob = BlobKey::fresh(FILES, Uuid::new_v4());
    bed.endpoint.services().blobs.write(&blob, Bytes::copy_from_slice(content.as_bytes())).await.unwrap();
    Received {
        blob,
        size: content.len() as u64,
        sha256: digest(&SHA256, content.as_bytes()).as_ref().try_into().unwrap(),
        file_name: name.to_owned(),
        head: content.as_bytes().to_vec(),
    }
}

/// A mutation with a file: its payload, and the blobs that no operation took.
async fn send(bed: &Bed, who: &Person, field: &str, mut input: Value, file: Received) -> (Value, Vec<BlobKey>) {
    let uploads = Uploads::default();
    input["file"] = json!(Uploads::placeholder(uploads.add(file)));
    let mut caller = bed.caller(Some(&who.access)).unwrap();
    caller.uploads = uploads.clone();
    let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    let query = format!("mutation($input: {type_name}!) {{ payload: {field}(input: $input) {{ {SELECTION} }} }}");
    let request = Request::new(query).variables(Variables::from_json(json!({ "input": input })));
    let answer = serde_json::to_value(bed.endpoint.execute(operation(request).unwrap(), caller).await).unwrap();
    assert_eq!(answer.get("errors"), None, "{answer}");
    (answer["data"]["payload"].clone(), uploads.leftovers().into_iter().map(|file| file.blob).collect())
}

pub async fn project(bed: &Bed, who: &Person, key: &str) -> String {
    let input = json!({ "name": key, "key": key });
    let made =
        bed.mutate(Some(&who.access), "projectCreate", input, "project { id } userErrors { code message path }").await;
    made["project"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// A document with this text in this project.
pub async fn document(bed: &Bed, who: &Person, project: &str, name: &str, text: &str) -> String {
    let file = received(bed, name, text).await;
    let (made, unused) = send(bed, who, "documentUpload", json!({ "projectId": project }), file).await;
    assert_eq!(unused, []);
    made["document"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// A newer file of this document.
pub async fn revise(bed: &Bed, who: &Person, document: &str, name: &str, text: &str) {
    let file = received(bed, name, text).await;
    let (made, _) = send(bed, who, "documentRevisionUpload", json!({ "id": document }), file).await;
    assert_eq!(made["userErrors"], json!([]), "{made}");
}

fn stage<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["pipeline"].as_array().unwrap().iter().find(|stage| stage["stage"] == name).unwrap()
}

async fn exists(bed: &Bed, blob: &BlobKey) -> bool {
    match bed.endpoint.services().blobs.head(blob).await {
        Ok(_) => true,
        Err(BlobError::NotFound) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_file_becomes_a_document() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let project = project(&bed, &ada, "ATLAS").await;
    let file = received(&bed, "papers/Plan 2031.txt", "The plan of the year.").await;
    let hash = data_encoding::HEXLOWER.encode(&file.sha256);
    let (made, unused) =
        send(&bed, &ada, "documentUpload", json!({ "projectId": project, "tags": ["plan", "a", "plan"] }), file).await;
    assert_eq!(unused, []);
    let document = &made["document"];
    assert_eq!(document["title"], "Plan 2031");
    assert_eq!(document["fileName"], "Plan 2031.txt");
    assert_eq!(document["mediaType"], "text/plain");
    assert_eq!(document["size"], 21);
    assert_eq!(document["sha256"], hash);
    assert_eq!(document["status"], "PROCESSING");
    assert_eq!(document["tags"], json!(["a", "plan"]));
    assert_eq!(document["project"]["id"], project);
    assert_eq!(document["uploadedBy"]["id"], ada.member);
    assert_eq!(stage(document, "VALIDATE")["state"], "DONE");
    assert_eq!(stage(document, "SCAN")["state"], "SKIPPED");

    let query = "query($id: ID!) { document(id: $id) { title downloadUrl } documents { totalCount nodes { id } }
        events(first: 50, filter: { subjectId: $id }) { nodes { type actor { ... on Member { id } } data } } }";
    let seen = bed.ask(Some(&ada.access), query, json!({ "id": document["id"] })).await;
    let data = &seen["data"];
    assert_eq!(data["document"]["title"], "Plan 2031", "{seen}");
    assert!(data["document"]["downloadUrl"].as_str().unwrap().starts_with("http://oriel.test/blobs/files/"));
    assert_eq!(data["documents"]["nodes"], json!([{ "id": document["id"] }]));
    let first = data["events"]["nodes"].as_array().unwrap().last().unwrap();
    assert_eq!((&first["type"], &first["actor"]["id"]), (&json!("document_uploaded"), &json!(ada.member)));
    assert_eq!(first["data"]["sha256"], hash);
}

#[tokio::test]
async fn a_file_that_cannot_be_a_document_says_why() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let project = project(&bed, &ada, "ATLAS").await;
    for (name, content, reason) in [
        ("empty.txt", "", "The file is empty."),
        ("scan.pdf", "just a text", "says PDF"),
        ("data.bin", "\u{1}\u{0}\u{2}\u{0}\u{3}", "Text is not read"),
    ] {
        let file = received(&bed, name, content).await;
        let (made, unused) = send(&bed, &ada, "documentUpload", json!({ "projectId": project }), file).await;
        assert_eq!(unused, [], "{name}");
        assert_eq!(made["document"]["status"], "FAILED", "{made}");
        let said = stage(&made["document"], "VALIDATE")["reason"].as_str().unwrap().to_owned();
        assert!(said.contains(reason), "{name}: {said}");
    }
}

#[tokio::test]
async fn a_retry_is_one_document_and_leaves_no_file() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let project = project(&bed, &ada, "ATLAS").await;
    let input = json!({ "projectId": project, "idempotencyKey": "k" });
    let (first, _) = send(&bed, &ada, "documentUpload", input.clone(), received(&bed, "a.txt", "one").await).await;

    let again = received(&bed, "a.txt", "one").await;
    let blob = again.blob.clone();
    let (second, unused) = send(&bed, &ada, "documentUpload", input.clone(), again).await;
    assert_eq!((&second["document"]["id"], &second["position"]), (&first["document"]["id"], &first["position"]));
    assert_eq!(unused, [blob]);

    let other = received(&bed, "a.txt", "two").await;
    let blob = other.blob.clone();
    let (refused, unused) = send(&bed, &ada, "documentUpload", input, other).await;
    assert_eq!(Bed::problems(&refused), ["IDEMPOTENCY_MISMATCH input.idempotencyKey"]);
    assert_eq!(unused, [blob]);
    let count = bed.ask(Some(&ada.access), "{ documents { totalCount } }", json!({})).await;
    assert_eq!(count["data"]["documents"]["totalCount"], 1);
}

#[tokio::test]
async fn a_refused_file_goes_back_to_the_transport() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.register("Difference", "bob@example.org").await;
    let viewer = bed.join(&ada, "vera@example.org", &["viewer"]).await;
    let project = project(&bed, &ada, "ATLAS").await;
    let cases = [
        (&bob, json!({ "projectId": project }), vec!["NOT_FOUND input.projectId"]),
        (&viewer, json!({ "projectId": project }), vec!["FORBIDDEN"]),
        (
            &ada,
            json!({ "projectId": project, "title": "", "tags": [""] }),
            vec!["REQUIRED input.title", "REQUIRED input.tags"],
        ),
        (&ada, json!({ "projectId": project, "idempotencyKey": "" }), vec!["REQUIRED input.idempotencyKey"]),
    ];
    for (who, input, expected) in cases {
        let file = received(&bed, "a.txt", "one").await;
        let blob = file.blob.clone();
        let (refused, unused) = send(&bed, who, "documentUpload", input, file).await;
        assert_eq!(Bed::problems(&refused), expected);
        assert_eq!((&refused["document"], unused), (&Value::Null, vec![blob]));
    }
}

#[tokio::test]
async fn a_document_goes_its_way() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let (from, to) = (project(&bed, &ada, "ATLAS").await, project(&bed, &ada, "BOREAS").await);
    let id = document(&bed, &ada, &from, "a.txt", "one").await;
    let change = async |field: &str, mut input: Value| {
        input["id"] = json!(id);
        bed.mutate(Some(&ada.access), field, input, SELECTION).await
    };
    let changed = change("documentUpdate", json!({ "title": "New", "tags": ["x"] })).await;
    assert_eq!((&changed["document"]["title"], &changed["document"]["tags"]), (&json!("New"), &json!(["x"])));
    let stale = change("documentUpdate", json!({ "title": "Newer", "expectedVersion": 1 })).await;
    assert_eq!(Bed::problems(&stale), ["CONFLICT input.expectedVersion"]);
    let moved = change("documentMove", json!({ "projectId": to })).await;
    assert_eq!(moved["document"]["project"]["id"], to);
    let newer = received(&bed, "b.md", "# Two").await;
    let (revised, unused) = send(&bed, &ada, "documentRevisionUpload", json!({ "id": id }), newer).await;
    assert_eq!((&revised["document"]["revision"], unused), (&json!(2), vec![]), "{revised}");
    assert_eq!(Bed::problems(&change("documentPurge", json!({})).await), ["CONFLICT"]);
    assert_eq!(change("documentDelete", json!({})).await["document"]["status"], "TRASHED");
    let listed =
        "{ all: documents { totalCount } trash: documents(filter: { status: { eq: TRASHED } }) { totalCount } }";
    let seen = bed.ask(Some(&ada.access), listed, json!({})).await;
    assert_eq!(seen["data"], json!({ "all": { "totalCount": 0 }, "trash": { "totalCount": 1 } }));
    assert_eq!(change("documentRestore", json!({})).await["document"]["trashedAt"], Value::Null);
    assert_eq!(change("documentRetry", json!({})).await["userErrors"], json!([]));
    change("documentDelete", json!({})).await;
    let purged = change("documentPurge", json!({})).await;
    assert_eq!((&purged["document"], &purged["userErrors"]), (&Value::Null, &json!([])));
    assert_eq!(Bed::problems(&change("documentRestore", json!({})).await), ["NOT_FOUND"]);
}

const BEGUN: &str = "uploadId url method headers { name value } expiresAt userErrors { code message path }";

/// Sends a file to a signed URL, as the server would take it.
async fn put(bed: &Bed, begun: &Value, content: &'static str) {
    let services = bed.endpoint.services();
    let path = begun["url"].as_str().unwrap().strip_prefix("http://oriel.test").unwrap();
    let method = begun["method"].as_str().unwrap().parse().unwrap();
    let grant = services.blobs.verify(&method, path, services.engine.now()).unwrap();
    let body = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(content.as_bytes()))]);
    services.blobs.receive(&grant, body).await.unwrap();
}

#[tokio::test]
async fn an_upload_past_the_endpoint_is_completed_once() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
    let project = project(&bed, &ada, "ATLAS").await;
    let input = json!({ "projectId": project, "fileName": "big.md", "size": 5, "tags": ["t"] });
    let begun = bed.mutate(Some(&ada.access), "documentUploadBegin", input, BEGUN).await;
    assert_eq!(begun["userErrors"], json!([]), "{begun}");
    let complete = async |who: &Person, id: &Value| {
        bed.mutate(Some(&who.access), "documentUploadComplete", json!({ "uploadId": id }), SELECTION).await
    };
    let id = &begun["uploadId"];
    assert_eq!(Bed::problems(&complete(&ada, id).await), ["NOT_FOUND input.uploadId"]);
    put(&bed, &begun, "# Big").await;
    // Somebody else's, or changed, looks absent.
    assert_eq!(Bed::problems(&complete(&bob, id).await), ["NOT_FOUND input.uploadId"]);
    let forged = format!("x{}", id.as_str().unwrap());
    assert_eq!(Bed::problems(&complete(&ada, &json!(forged)).await), ["NOT_FOUND input.uploadId"]);

    let made = complete(&ada, id).await;
    let document = &made["document"];
    assert_eq!(
        (&document["title"], &document["mediaType"], &document["size"]),
        (&json!("big"), &json!("text/markdown"), &json!(5))
    );
    assert_eq!(document["tags"], json!(["t"]));
    let again = complete(&ada, id).await;
    assert_eq!((&again["document"]["id"], &again["position"]), (&document["id"], &made["position"]));
    let services = bed.endpoint.services();
    assert_eq!(services.blobs.list(STAGING, None, 10).await.unwrap(), []);
    let kept = services.blobs.list(FILES, None, 10).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert!(exists(&bed, &kept[0].key).await);
}

#[tokio::test]
async fn an_upload_ends_and_has_limits() {
    let bed = Bed::with(|policy| policy.max_file_size = 10).await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let project = project(&bed, &ada, "ATLAS").await;
    let begin = async |mut input: Value| {
        input["projectId"] = json!(project);
        bed.mutate(Some(&ada.access), "documentUploadBegin", input, BEGUN).await
    };
    assert_eq!(Bed::problems(&begin(json!({ "fileName": "a", "size": 11 })).await), ["LIMIT_EXCEEDED input.size"]);
    assert_eq!(Bed::problems(&begin(json!({ "fileName": "" })).await), ["REQUIRED input.fileName"]);
    assert_eq!(Bed::problems(&begin(json!({ "fileName": "a", "mediaType": "\n" })).await), ["INVALID input.mediaType"]);
    let begun = begin(json!({ "fileName": "a.txt" })).await;
    put(&bed, &begun, "text").await;
    bed.clock.advance(Duration::from_secs(300 + 3600));
    // The session's token has ended as well: a new one.
    let login = json!({ "email": "ada@example.org", "password": crate::testing::PASSWORD });
    let ada = Person::of(&bed.mutate(None, "login", login, crate::testing::SIGNED_IN).await);
    let input = json!({ "uploadId": begun["uploadId"] });
    let late = bed.mutate(Some(&ada.access), "documentUploadComplete", input, SELECTION).await;
    assert_eq!(Bed::problems(&late), ["EXPIRED input.uploadId"]);
    let policy = bed.ask(Some(&ada.access), "{ uploadPolicy { maxFileSize acceptedMediaTypes } }", json!({})).await;
    assert_eq!(policy["data"]["uploadPolicy"]["maxFileSize"], 10);
}

#[tokio::test]
async fn a_live_query_follows_a_document() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let project = project(&bed, &ada, "ATLAS").await;
    let id = document(&bed, &ada, &project, "a.txt", "one").await;
    let query = "subscription($id: ID!) { live { document(id: $id) { title } } }";
    let request = Request::new(query).variables(Variables::from_json(json!({ "id": id })));
    let mut answers = bed.endpoint.execute_stream(operation(request).unwrap(), bed.caller(Some(&ada.access)).unwrap());
    let mut next = async || {
        let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await.unwrap().unwrap();
        serde_json::from_str::<Value>(answer.data.unwrap().json()).unwrap()
    };
    assert_eq!(next().await, json!({ "live": { "document": { "title": "a" } } }));
    for title in ["b", "c"] {
        bed.mutate(Some(&ada.access), "documentUpdate", json!({ "id": id, "title": title }), SELECTION).await;
        assert_eq!(next().await, json!({ "live": { "document": { "title": title } } }));
    }
}
