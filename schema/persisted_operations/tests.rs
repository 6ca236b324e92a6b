#![allow(clippy::unwrap_used)]

use oriel_domain::persisted_operations::OperationBody;
use serde_json::{Value, json};

use crate::testing::{Bed, Person};

const PUBLISHED: &str = "added unchanged refused results { hash outcome } userErrors { code message path } position";
const LIST: &str =
    "{ persistedOperations(orderBy: [{field: NAME, direction: ASC}]) { totalCount nodes { id hash sha256 name kind body
    publishedBy { ... on Member { id } } } } }";
const NAMES: &str = "query Names { projects { nodes { name } } }\n";
const MAKE: &str = "mutation Make($input: ProjectCreateInput!) { projectCreate(input: $input) { position } }";
const WATCH: &str = "subscription Watch { live { projects { totalCount } } }";

fn sha256(body: &str) -> String {
    OperationBody::parse(body).unwrap().sha256()
}

fn operation(body: &str) -> Value {
    json!({ "hash": sha256(body), "body": body })
}

async fn publish(bed: &Bed, by: &Person, operations: Value) -> Value {
    bed.mutate(Some(&by.access), "operationsPublish", json!({ "operations": operations }), PUBLISHED).await
}

fn counts(payload: &Value) -> [i64; 3] {
    ["added", "unchanged", "refused"].map(|field| payload[field].as_i64().unwrap())
}

#[tokio::test]
async fn what_is_published_is_listed_until_it_is_retired() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let md5 = json!({ "hash": "d41d8cd98f00b204e9800998ecf8427e", "body": WATCH, "name": "Watch" });
    let all = json!([operation(NAMES), operation(MAKE), md5]);
    assert_eq!(counts(&publish(&bed, &ada, all.clone()).await), [3, 0, 0]);
    assert_eq!(counts(&publish(&bed, &ada, all).await), [0, 3, 0]);
    let listed = bed.ask(Some(&ada.access), LIST, json!({})).await["data"]["persistedOperations"].take();
    assert_eq!(listed["totalCount"], 3);
    let nodes = listed["nodes"].as_array().unwrap();
    let shown: Vec<_> = nodes.iter().map(|node| (&node["name"], &node["kind"], &node["body"])).collect();
    let wanted = [("Make", "MUTATION", MAKE), ("Names", "QUERY", NAMES), ("Watch", "SUBSCRIPTION", WATCH)];
    assert_eq!(shown, wanted.map(|(a, b, c)| (json!(a), json!(b), json!(c))).each_ref().map(|(a, b, c)| (a, b, c)));
    assert_eq!((&nodes[1]["hash"], &nodes[1]["sha256"]), (&json!(sha256(NAMES)), &json!(sha256(NAMES))));
    assert_eq!((&nodes[2]["sha256"], &nodes[2]["publishedBy"]["id"]), (&json!(sha256(WATCH)), &json!(ada.member)));

    let retire = json!({ "id": nodes[1]["id"], "idempotencyKey": "r1" });
    let fields = "persistedOperation { name } userErrors { code path } position";
    let retired = bed.mutate(Some(&ada.access), "operationRetire", retire.clone(), fields).await;
    assert_eq!((&retired["persistedOperation"]["name"], &retired["userErrors"]), (&json!("Names"), &json!([])));
    let again = bed.mutate(Some(&ada.access), "operationRetire", retire, fields).await;
    assert_eq!((&again["position"], &again["userErrors"]), (&retired["position"], &json!([])));
    let gone = bed.mutate(Some(&ada.access), "operationRetire", json!({ "id": nodes[1]["id"] }), fields).await;
    assert_eq!(Bed::problems(&gone), ["NOT_FOUND"]);
    assert_eq!(counts(&publish(&bed, &ada, json!([operation(NAMES)])).await), [1, 0, 0]);
}

#[tokio::test]
async fn each_is_checked_and_one_that_is_refused_keeps_none_of_the_others_out() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let named = |name: &str| json!({ "hash": sha256(NAMES), "body": NAMES, "name": name });
    let operations = json!([
        { "hash": sha256(MAKE), "body": NAMES },
        operation("{ nothingLikeThis }"),
        operation("query A { __typename } query B { __typename }"),
        operation("query {"),
        { "hash": "a b", "body": "" },
        named("Other"),
        named("Names"),
        operation(&format!("{{ {} }}", "a ".repeat(500))),
    ]);
    let published = publish(&bed, &ada, operations).await;
    assert_eq!(counts(&published), [1, 0, 7]);
    assert_eq!(
        Bed::problems(&published),
        [
            "INVALID input.operations.0.hash",
            "INVALID input.operations.1.body",
            "INVALID input.operations.2.body",
            "INVALID input.operations.3.body",
            "INVALID input.operations.4.hash",
            "REQUIRED input.operations.4.body",
            "INVALID input.operations.5.name",
            "LIMIT_EXCEEDED input.operations.7.body",
        ]
    );
    assert_eq!(published["results"][6], json!({ "hash": sha256(NAMES), "outcome": "ADDED" }));
    let text = published["userErrors"].to_string();
    assert!(text.contains("nothingLikeThis") && text.contains(&sha256(NAMES)), "{text}");
    let custom = |body: &str| json!([{ "hash": "same", "body": body }]);
    assert_eq!(counts(&publish(&bed, &ada, custom(NAMES)).await), [1, 0, 0]);
    assert_eq!(Bed::problems(&publish(&bed, &ada, custom(MAKE)).await), ["CONFLICT input.operations.0.hash"]);
    let many = Value::Array((0..1_001).map(|_| operation(NAMES)).collect());
    assert_eq!(Bed::problems(&publish(&bed, &ada, many).await), ["LIMIT_EXCEEDED input.operations"]);
}

#[tokio::test]
async fn a_repeated_call_is_one_write_and_the_same_answer() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let input = json!({ "operations": [operation(NAMES), operation(MAKE)], "idempotencyKey": "k1" });
    let first = bed.mutate(Some(&ada.access), "operationsPublish", input.clone(), PUBLISHED).await;
    let again = bed.mutate(Some(&ada.access), "operationsPublish", input, PUBLISHED).await;
    assert_eq!((counts(&first), &first), ([2, 0, 0], &again));
    let other = json!({ "operations": [operation(WATCH), operation(MAKE)], "idempotencyKey": "k1" });
    let refused = bed.mutate(Some(&ada.access), "operationsPublish", other, PUBLISHED).await;
    assert_eq!(counts(&refused), [0, 0, 2]);
}

#[tokio::test]
async fn they_belong_to_their_organization_and_to_who_may() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let admin = bed.join(&ada, "carol@example.org", &["admin"]).await;
    assert_eq!(counts(&publish(&bed, &admin, json!([operation(NAMES)])).await), [1, 0, 0]);
    assert_eq!(Bed::problems(&publish(&bed, &bob, json!([operation(NAMES)])).await), ["FORBIDDEN"]);
    assert_eq!(Bed::code(&bed.ask(Some(&bob.access), LIST, json!({})).await), "FORBIDDEN");
    let of = async |person: &Person| {
        bed.ask(Some(&person.access), LIST, json!({})).await["data"]["persistedOperations"].take()
    };
    let (here, there) = (of(&ada).await, of(&eve).await);
    assert_eq!((&here["totalCount"], &there["totalCount"]), (&json!(1), &json!(0)));
    let id = &here["nodes"][0]["id"];
    let query = "query($id: ID!) { persistedOperation(id: $id) { hash } node(id: $id) { __typename } }";
    let seen = bed.ask(Some(&ada.access), query, json!({ "id": id })).await;
    assert_eq!(seen["data"]["node"]["__typename"], "PersistedOperation");
    assert_eq!(seen["data"]["persistedOperation"]["hash"], json!(sha256(NAMES)));
    let unseen = bed.ask(Some(&eve.access), query, json!({ "id": id })).await;
    assert_eq!(unseen["data"], json!({ "persistedOperation": null, "node": null }));
    let stolen =
        bed.mutate(Some(&eve.access), "operationRetire", json!({ "id": id }), "userErrors { code path }").await;
    assert_eq!(Bed::problems(&stolen), ["NOT_FOUND"]);
    // The same operation in two organisations is two.
    assert_eq!(counts(&publish(&bed, &eve, json!([operation(NAMES)])).await), [1, 0, 0]);
    assert_eq!(of(&ada).await["nodes"][0]["publishedBy"]["id"], json!(admin.member));
}
