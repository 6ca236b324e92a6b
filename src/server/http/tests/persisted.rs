//! Persisted operations over every way in: by their hash, and what is executed at all.

use futures::StreamExt;
use oriel_domain::persisted_operations::OperationBody;

use super::*;

const LIST: &str = "query List { projects { nodes { key } } }";
const MAKE: &str = "mutation Make($input: ProjectCreateInput!) { projectCreate(input: $input) { project { key } userErrors { code } } }";
const PUBLISH: &str =
    "mutation($input: OperationsPublishInput!) { operationsPublish(input: $input) { added userErrors { message } } }";
const RETIRE: &str =
    "mutation($input: OperationRetireInput!) { operationRetire(input: $input) { userErrors { message } } }";
const IDS: &str = "{ persistedOperations { nodes { id hash } } }";

fn sha256(text: &str) -> String {
    OperationBody::parse(text).unwrap().sha256()
}

/// As Apollo's clients name it.
fn apollo(text: &str) -> Value {
    json!({ "persistedQuery": { "version": 1, "sha256Hash": sha256(text) } })
}

fn encoded(value: &Value) -> String {
    value.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect()
}

async fn send(bed: &Bed, token: Option<&str>, body: Value) -> Heard {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    bed.post(&headers, body.to_string()).await
}

pub async fn publish(bed: &Bed, token: &str, hash: &str, body: &str) {
    let input = json!({ "operations": [{ "hash": hash, "body": body }] });
    let heard = bed.ask(Some(token), PUBLISH, json!({ "input": input })).await.json();
    assert_eq!(heard["data"]["operationsPublish"], json!({ "added": 1, "userErrors": [] }), "{heard}");
}

/// The same installation with other settings.
pub async fn again(bed: Bed, pairs: &[(&str, &str)]) -> Bed {
    Bed::on(bed.close().await, settings(pairs), Beds::default()).await
}

#[tokio::test]
async fn a_document_is_sent_once_and_then_by_its_hash() {
    let bed = Bed::new().await;
    let text = "query Kind { __typename }";
    let by_hash = json!({ "extensions": apollo(text) });
    let unknown = send(&bed, None, by_hash.clone()).await;
    assert_eq!(unknown.refusal(), (200, "PERSISTED_QUERY_NOT_FOUND".to_owned()));
    assert_eq!(unknown.json()["errors"][0]["message"], "PersistedQueryNotFound");
    assert_eq!(unknown.header("cache-control"), "no-store");
    let sent = send(&bed, None, json!({ "query": text, "extensions": apollo(text) })).await;
    assert_eq!(sent.json()["data"]["__typename"], "Query");
    assert_eq!(send(&bed, None, by_hash).await.json()["data"]["__typename"], "Query");
    let url = format!("/graphql?operationName=Kind&extensions={}", encoded(&apollo(text)));
    assert_eq!(bed.get(&url, &[]).await.json()["data"]["__typename"], "Query");
    let named = json!({ "documentId": format!("sha256:{}", sha256(text)), "query": null });
    assert_eq!(send(&bed, None, named).await.json()["data"]["__typename"], "Query");
    // What one organisation sends is not there for another.
    let token = bed.register("acme").await;
    let other = send(&bed, Some(&token), json!({ "extensions": apollo(text) })).await;
    assert_eq!(other.refusal(), (200, "PERSISTED_QUERY_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn a_hash_never_stands_for_what_is_not_its_text_or_cannot_be_executed() {
    let bed = Bed::set(&[("max_depth", "5")]).await;
    let other = send(&bed, None, json!({ "query": "{ __typename }", "extensions": apollo("{ a }") })).await;
    assert_eq!(other.refusal(), (400, "BAD_REQUEST".to_owned()));
    assert!(other.text().contains("provided sha does not match query"), "{}", other.text());
    for wrong in ["{ nothingLikeThis }", "{", "{ a { b { c { d { e { f } } } } } }"] {
        let sent = send(&bed, None, json!({ "query": wrong, "extensions": apollo(wrong) })).await.json();
        assert!(sent["errors"][0]["message"] != "PersistedQueryNotFound", "{wrong}: {sent}");
        let by_hash = send(&bed, None, json!({ "extensions": apollo(wrong) })).await.json();
        assert_eq!(by_hash["errors"][0]["message"], "PersistedQueryNotFound", "{wrong}");
    }
    for wrong in [
        json!({ "extensions": { "persistedQuery": { "version": 2, "sha256Hash": sha256("{ a }") } } }),
        json!({ "extensions": { "persistedQuery": { "version": 1 } } }),
        json!({ "extensions": { "persistedQuery": { "version": 1, "sha256Hash": "a b" } } }),
        json!({ "extensions": apollo("{ a }"), "documentId": sha256("{ b }") }),
        json!({ "documentId": "md5:00" }),
    ] {
        assert_eq!(send(&bed, None, wrong.clone()).await.refusal(), (400, "BAD_REQUEST".to_owned()), "{wrong}");
    }
    let unknown = send(&bed, None, json!({ "documentId": "nowhere" })).await;
    assert_eq!(unknown.refusal(), (400, "PERSISTED_QUERY_NOT_FOUND".to_owned()));
    let without = Bed::set(&[("persisted_queries_memory", "0")]).await;
    let refused = send(&without, None, json!({ "extensions": apollo("{ __typename }") })).await;
    assert_eq!(refused.refusal(), (200, "PERSISTED_QUERY_NOT_SUPPORTED".to_owned()));
    assert_eq!(refused.json()["errors"][0]["message"], "PersistedQueryNotSupported");
}

#[tokio::test]
async fn what_is_published_is_executed_by_its_hash_over_every_way_in() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    bed.project(&token, "AA").await;
    publish(&bed, &token, &sha256(LIST), LIST).await;
    publish(&bed, &token, "d41d8cd98f00b204e9800998ecf8427e", MAKE).await;
    let bearer = format!("Bearer {token}");
    let signed_in = [("authorization", bearer.as_str())];
    let list = json!({ "documentId": format!("sha256:{}", sha256(LIST)) });
    let wanted = json!([{ "key": "AA" }]);
    for body in [list.clone(), json!({ "documentId": sha256(LIST) }), json!({ "extensions": apollo(LIST) })] {
        let heard = send(&bed, Some(&token), body).await.json();
        assert_eq!(heard["data"]["projects"]["nodes"], wanted, "{heard}");
    }
    let url = format!("/graphql?documentId=sha256:{}", sha256(LIST));
    assert_eq!(bed.get(&url, &signed_in).await.json()["data"]["projects"]["nodes"], wanted);
    let events = bed.post(&[signed_in[0], ("accept", "text/event-stream")], list.to_string()).await.text();
    assert!(events.contains(r#""key":"AA""#) && events.contains("event: complete"), "{events}");

    let make = json!({ "documentId": "d41d8cd98f00b204e9800998ecf8427e", "variables": { "input": { "key": "BB", "name": "B" } } });
    let batch = send(&bed, Some(&token), json!([make, list, { "documentId": "nowhere" }])).await.json();
    assert_eq!(batch[0]["data"]["projectCreate"]["project"]["key"], "BB", "{batch}");
    assert_eq!(batch[1]["data"]["projects"]["nodes"].as_array().unwrap().len(), 2, "{batch}");
    assert_eq!(batch[2]["errors"][0]["extensions"]["code"], "PERSISTED_QUERY_NOT_FOUND", "{batch}");
    let by_get = bed.get("/graphql?documentId=d41d8cd98f00b204e9800998ecf8427e", &signed_in).await;
    assert_eq!((by_get.status.as_u16(), by_get.header("allow")), (405, "POST"));
    let another = json!({ "documentId": "d41d8cd98f00b204e9800998ecf8427e", "query": LIST });
    assert_eq!(send(&bed, Some(&token), another).await.refusal(), (400, "BAD_REQUEST".to_owned()));

    // Retired: unknown to the next request.
    let nodes = bed.ask(Some(&token), IDS, json!({})).await.json()["data"]["persistedOperations"]["nodes"].take();
    let id = nodes.as_array().unwrap().iter().find(|node| node["hash"] == sha256(LIST)).unwrap()["id"].clone();
    bed.ask(Some(&token), RETIRE, json!({ "input": { "id": id } })).await;
    assert_eq!(send(&bed, Some(&token), list).await.refusal(), (400, "PERSISTED_QUERY_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn the_operations_of_the_first_organization_are_everybodys_and_those_of_others_their_own() {
    let bed = Bed::new().await;
    let (operator, other, third) =
        (bed.register("first").await, bed.register("other").await, bed.register("third").await);
    publish(&bed, &operator, "everybodys", "{ __typename }").await;
    publish(&bed, &other, "theirs", "{ __typename }").await;
    let finds = async |token: Option<&str>, hash: &str| {
        send(&bed, token, json!({ "documentId": hash })).await.json()["data"]["__typename"] == "Query"
    };
    for token in [Some(operator.as_str()), Some(&other), Some(&third), None] {
        assert!(finds(token, "everybodys").await);
        assert_eq!(finds(token, "theirs").await, token == Some(&other));
    }
}

#[tokio::test]
async fn with_registered_only_what_is_published_is_executed() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    publish(&bed, &token, &sha256(LIST), LIST).await;
    publish(&bed, &token, "custom", MAKE).await;
    let bed = again(bed, &[("operations", "registered")]).await;
    let free = "{ projects { totalCount } }";
    let refused = (400, "OPERATION_NOT_REGISTERED".to_owned());
    for body in [
        json!({ "query": free }),
        json!({ "query": free, "extensions": apollo(free) }),
        json!({ "extensions": apollo(free) }),
        json!({ "documentId": "nowhere" }),
        json!({ "query": format!("{LIST} ") }),
        json!({ "query": "{ ...F } fragment F on Query { __typename }" }),
    ] {
        let heard = send(&bed, Some(&token), body.clone()).await;
        assert_eq!(heard.refusal(), refused, "{body}");
        assert!(heard.text().contains("oriel operations publish"), "{}", heard.text());
    }
    let bearer = format!("Bearer {token}");
    let signed_in = ("authorization", bearer.as_str());
    let url = format!("/graphql?query={}", free.replace(' ', "%20").replace('{', "%7b").replace('}', "%7d"));
    assert_eq!(bed.get(&url, &[signed_in]).await.refusal(), refused);
    let events = [signed_in, ("accept", "text/event-stream")];
    assert_eq!(bed.post(&events, json!({ "query": free }).to_string()).await.refusal(), refused);
    // Nothing of a file is read: what follows never comes.
    let operations =
        json!({ "query": "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { position } }" });
    let part = format!("--b\r\ncontent-disposition: form-data; name=\"operations\"\r\n\r\n{operations}\r\n--b\r\n");
    let body = futures::stream::iter([Ok::<_, std::io::Error>(part)]).chain(futures::stream::pending());
    let multipart =
        [signed_in, ("content-type", "multipart/form-data; boundary=b"), ("graphql-require-preflight", "1")];
    assert_eq!(bed.post(&multipart, Body::from_stream(body)).await.refusal(), refused);
    let batch = send(&bed, Some(&token), json!([{ "query": free }, { "query": LIST }])).await.json();
    assert_eq!(batch[0]["errors"][0]["extensions"]["code"], "OPERATION_NOT_REGISTERED");
    assert_eq!(batch[1]["data"]["projects"]["nodes"], json!([]));
    // By its hash, by its text whatever its hash is called, the sign of life, and who is not signed in.
    let make = json!({ "query": MAKE, "variables": { "input": { "key": "AA", "name": "A" } } });
    let made = send(&bed, Some(&token), make).await.json();
    assert_eq!(made["data"]["projectCreate"]["project"]["key"], "AA", "{made}");
    let listed = send(&bed, Some(&token), json!({ "documentId": sha256(LIST) })).await.json();
    assert_eq!(listed["data"]["projects"]["nodes"], json!([{ "key": "AA" }]));
    assert_eq!(listed["extensions"].get("warnings"), None);
    assert_eq!(bed.ask(None, "{ __typename }", json!({})).await.json()["data"]["__typename"], "Query");
    assert_eq!(bed.ask(None, "{ viewer { permissions } }", json!({})).await.refusal(), refused);
    assert_eq!(bed.ask(None, LIST, json!({})).await.json()["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    // Who may publish is not shut out, and what they publish holds for the next request.
    publish(&bed, &token, &sha256(free), free).await;
    let heard = send(&bed, Some(&token), json!({ "query": free })).await.json();
    assert_eq!(heard["data"]["projects"]["totalCount"], 1, "{heard}");
    let bed = again(bed, &[("operations", "registered"), ("operations_exempt_roles", "owner")]).await;
    let heard = bed.ask(Some(&token), "{ organization { name } }", json!({})).await.json();
    assert_eq!(heard["data"]["organization"]["name"], "acme", "{heard}");
}

#[tokio::test]
async fn with_warn_everything_is_executed_and_what_is_not_published_says_so() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    publish(&bed, &token, &sha256(LIST), LIST).await;
    let bed = again(bed, &[("operations", "warn")]).await;
    let free = "{ projects { totalCount } }";
    for body in [
        json!({ "query": free, "extensions": apollo(free) }),
        json!({ "extensions": apollo(free) }),
        json!([{ "query": free }]),
    ] {
        let heard = send(&bed, Some(&token), body.clone()).await.json();
        let answer = if body.is_array() { &heard[0] } else { &heard };
        assert_eq!(answer["data"]["projects"]["totalCount"], 0, "{heard}");
        assert_eq!(answer["extensions"]["warnings"][0]["code"], "OPERATION_NOT_REGISTERED", "{heard}");
    }
    for body in [json!({ "query": LIST }), json!({ "extensions": apollo(LIST) }), json!({ "query": "{ __typename }" })]
    {
        let heard = send(&bed, Some(&token), body).await.json();
        assert_eq!((heard.get("errors"), heard["extensions"].get("warnings")), (None, None), "{heard}");
    }
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("accept", "text/event-stream")];
    let events = bed.post(&headers, json!({ "query": free }).to_string()).await.text();
    assert!(events.contains("OPERATION_NOT_REGISTERED"), "{events}");
}
