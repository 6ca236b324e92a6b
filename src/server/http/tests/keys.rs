//! API keys over every way in: HTTP, WebSocket, server-sent events; their own rate limit and mode.

use super::persisted::again;
use super::sockets::{Client, Events, PROTOCOL, connect, listen};
use super::*;

const MAKE: &str = "mutation($input: ApiKeyCreateInput!) { apiKeyCreate(input: $input) { apiKey { id } secret userErrors { message } } }";
const REVOKE: &str = "mutation($input: ApiKeyRevokeInput!) { apiKeyRevoke(input: $input) { userErrors { message } } }";
const PUBLISH: &str =
    "mutation($input: OperationsPublishInput!) { operationsPublish(input: $input) { added userErrors { message } } }";
const COUNT: &str = "{ projects { totalCount } }";

/// A key of the owner of this token; its id and its secret.
async fn make(bed: &Bed, token: &str, mut input: Value) -> (String, String) {
    input["name"] = json!("A program");
    let made = bed.ask(Some(token), MAKE, json!({ "input": input })).await.json();
    let made = &made["data"]["apiKeyCreate"];
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    (text(&made["apiKey"]["id"]), text(&made["secret"]))
}

async fn revoke(bed: &Bed, token: &str, key: &str) {
    let heard = bed.ask(Some(token), REVOKE, json!({ "input": { "id": key } })).await.json();
    assert_eq!(heard["data"]["apiKeyRevoke"]["userErrors"], json!([]), "{heard}");
}

#[tokio::test]
async fn a_key_is_a_bearer_token_and_a_wrong_or_revoked_one_refuses_the_request() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let (key, secret) = make(&bed, &token, json!({ "scopes": ["projects:view"] })).await;
    let asked = bed.ask(Some(&secret), COUNT, json!({})).await;
    assert_eq!((asked.status.as_u16(), &asked.json()["data"]["projects"]["totalCount"]), (200, &json!(0)));
    let bearer = format!("Bearer {secret}");
    let got = bed.get("/graphql?query=%7Bprojects%7BtotalCount%7D%7D", &[("authorization", &bearer)]).await;
    assert_eq!(got.json()["data"]["projects"]["totalCount"], 0);
    let mut other = secret.clone();
    other.replace_range(40..41, if &secret[40..41] == "a" { "b" } else { "a" });
    for wrong in [other.as_str(), "orl_", "orl_x", &secret[..88]] {
        let refused = bed.ask(Some(wrong), "{ __typename }", json!({})).await;
        assert_eq!(refused.refusal(), (401, "UNAUTHENTICATED".to_owned()), "{wrong}");
        assert!(!refused.text().contains(&secret[30..60]));
    }
    // What was kept for it is not served any more either.
    revoke(&bed, &token, &key).await;
    let refused = bed.ask(Some(&secret), COUNT, json!({})).await;
    assert_eq!(refused.refusal(), (401, "UNAUTHENTICATED".to_owned()));
}

#[tokio::test]
async fn a_socket_and_a_stream_of_a_key_last_as_long_as_it_does() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let (key, secret) = make(&bed, &token, json!({ "scopes": ["projects:*"] })).await;
    let address = listen(&bed).await;
    let mut client = Client::ready(address, Some(&secret)).await;
    let subscribe = |id: &str| json!({ "id": id, "type": "subscribe", "payload": { "query": "subscription { live { projects { totalCount } } }" } });
    client.say(subscribe("l")).await;
    assert_eq!(client.hear().await["payload"]["data"]["live"]["projects"]["totalCount"], 0);
    let bearer = format!("Bearer {secret}");
    let mut header = connect(address, &[PROTOCOL, ("authorization", &bearer)]).await.unwrap();
    header.say(json!({ "type": "connection_init" })).await;
    assert_eq!(header.hear().await, json!({ "type": "connection_ack" }));
    let mut events = Events::open(&bed, &secret, "subscription { live { projects { totalCount } } }").await;
    assert!(events.next().await.unwrap().1.contains("totalCount"));

    bed.project(&secret, "AA").await;
    assert_eq!(client.hear().await["payload"]["data"]["live"]["projects"]["totalCount"], 1);
    assert!(events.next().await.unwrap().1.contains("\"totalCount\":1"));
    revoke(&bed, &token, &key).await;
    let last = client.hear().await;
    assert!(last.to_string().contains("UNAUTHENTICATED"), "{last}");
    // And the sockets end, also one on which nothing goes on; their clients do not come back with the same key.
    for client in [client, header] {
        assert_eq!(client.closed().await, 4401);
    }
    let last = events.next().await.unwrap().1;
    assert!(last.contains("UNAUTHENTICATED"), "{last}");
    let mut refused = connect(address, &[PROTOCOL]).await.unwrap();
    refused.say(json!({ "type": "connection_init", "payload": { "authorization": bearer } })).await;
    assert_eq!(refused.closed().await, 4403);
}

#[tokio::test]
async fn a_key_spends_what_is_its_own() {
    let bed = Bed::set(&[("rate_limit", "2000")]).await;
    let token = bed.register("acme").await;
    let (_, small) = make(&bed, &token, json!({ "scopes": ["projects:view"], "rateLimit": 5 })).await;
    let (_, large) = make(&bed, &token, json!({ "scopes": ["projects:view"], "rateLimit": 1_000_000 })).await;
    let (_, usual) = make(&bed, &token, json!({ "scopes": ["projects:view"] })).await;
    let policy = async |secret: &str| bed.ask(Some(secret), COUNT, json!({})).await;
    assert_eq!(policy(&large).await.header("ratelimit-policy"), "\"cost\";q=2000;w=60");
    assert_eq!(policy(&usual).await.header("ratelimit-policy"), "\"cost\";q=2000;w=60");
    for left in [3, 1] {
        let asked = policy(&small).await;
        assert_eq!(asked.header("ratelimit-policy"), "\"cost\";q=5;w=60");
        assert!(asked.header("ratelimit").starts_with(&format!("\"cost\";r={left};")), "{:?}", asked.headers);
    }
    let spent = policy(&small).await;
    assert_eq!(spent.refusal(), (429, "RATE_LIMITED".to_owned()));
    assert!(!spent.header("retry-after").is_empty());
    // Neither another key nor the person pays for it.
    for other in [&large, &usual, &token] {
        assert_eq!(policy(other).await.status.as_u16(), 200);
    }
}

#[tokio::test]
async fn a_key_and_a_role_can_be_stricter_than_the_installation_and_not_milder() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let strict = json!({ "scopes": ["projects:view", "operations:edit"], "operations": "REGISTERED" });
    let (_, strict) = make(&bed, &token, strict).await;
    let (_, warned) = make(&bed, &token, json!({ "scopes": ["projects:view"], "operations": "WARN" })).await;
    let (_, open) = make(&bed, &token, json!({ "scopes": ["projects:view"], "operations": "OPEN" })).await;
    let ask = async |bed: &Bed, secret: &str| bed.ask(Some(secret), COUNT, json!({})).await;
    assert_eq!(ask(&bed, &strict).await.refusal(), (400, "OPERATION_NOT_REGISTERED".to_owned()));
    let answer = ask(&bed, &warned).await.json();
    assert_eq!(answer["extensions"]["warnings"][0]["code"], "OPERATION_NOT_REGISTERED", "{answer}");
    assert_eq!(ask(&bed, &open).await.json()["extensions"]["warnings"], Value::Null);
    assert_eq!(ask(&bed, &token).await.json()["data"]["projects"]["totalCount"], 0);

    // A key of a build publishes what it is to send, and then sends it.
    let input = json!({ "operations": [{ "hash": "count", "body": COUNT }] });
    let published = bed.ask(Some(&strict), PUBLISH, json!({ "input": input })).await.json();
    assert_eq!(published["data"]["operationsPublish"]["added"], 1, "{published}");
    assert_eq!(ask(&bed, &strict).await.json()["data"]["projects"]["totalCount"], 0);
    let other = bed.ask(Some(&strict), "{ projects { nodes { id } } }", json!({})).await;
    assert_eq!(other.refusal(), (400, "OPERATION_NOT_REGISTERED".to_owned()));

    // A role says the same of who has it.
    let role = "mutation { roleCreate(input: { name: \"Partner\", permissions: [\"projects:view\"], operations: REGISTERED }) { userErrors { message } } }";
    assert_eq!(bed.ask(Some(&token), role, json!({})).await.json()["data"]["roleCreate"]["userErrors"], json!([]));
    let partner = bed.join(&token, "partner", &["Partner"]).await;
    assert_eq!(ask(&bed, &partner).await.json()["data"]["projects"]["totalCount"], 0);
    let other = bed.ask(Some(&partner), "{ projects { nodes { id } } }", json!({})).await;
    assert_eq!(other.refusal(), (400, "OPERATION_NOT_REGISTERED".to_owned()));

    let bed = again(bed, &[("operations", "registered")]).await;
    let other = bed.ask(Some(&open), "{ projects { nodes { id } } }", json!({})).await;
    assert_eq!(other.refusal(), (400, "OPERATION_NOT_REGISTERED".to_owned()));
}
