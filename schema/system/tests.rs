//! What the operator sees and does, and nobody else.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_graphql::Request;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::documents::tests::{document, project};
use crate::testing::{Bed, operation};

#[tokio::test]
async fn a_read_model_is_verified_and_rebuilt_while_the_operator_watches() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.register("Difference", "bob@example.org").await;
    let project = project(&bed, &ada, "ATLAS").await;
    document(&bed, &ada, &project, "a.txt", "one").await;

    let refused = bed.ask(Some(&bob.access), "{ system { version } }", json!({})).await;
    assert_eq!((&refused["data"], Bed::code(&refused)), (&json!({ "system": null }), "FORBIDDEN"));
    let input = json!({ "name": "documents" });
    let forbidden = bed.mutate(Some(&bob.access), "readModelRebuild", input.clone(), "userErrors { code path }").await;
    assert_eq!(Bed::problems(&forbidden), ["FORBIDDEN"]);
    let cancel =
        async |token| bed.mutate(token, "readModelRebuildCancel", input.clone(), "userErrors { code path }").await;
    assert_eq!(Bed::problems(&cancel(Some(&ada.access)).await), ["CONFLICT input.name"], "nobody rebuilds it");
    assert_eq!(Bed::problems(&cancel(Some(&bob.access)).await), ["FORBIDDEN"]);

    let result = "result { name rows onlyRunning onlyReplayed position } userErrors { code path }";
    let verified = bed.mutate(Some(&ada.access), "readModelVerify", input.clone(), result).await;
    let found = &verified["result"];
    assert_eq!((&found["rows"], &found["onlyRunning"], &found["onlyReplayed"]), (&json!(1), &json!(0), &json!(0)));
    let unknown = bed.mutate(Some(&ada.access), "readModelVerify", json!({ "name": "sqlite_master" }), result).await;
    assert_eq!(Bed::problems(&unknown), ["NOT_FOUND input.name"]);

    let query = "subscription { live { system { position readModels { name generation state } } } }";
    let mut answers =
        bed.endpoint.execute_stream(operation(Request::new(query)).unwrap(), bed.caller(Some(&ada.access)).unwrap());
    let mut next = async || {
        let answer = tokio::time::timeout(Duration::from_secs(10), answers.next()).await.unwrap().unwrap();
        let models =
            serde_json::from_str::<Value>(answer.data.unwrap().json()).unwrap()["live"]["system"]["readModels"].take();
        models.as_array().unwrap().iter().filter(|model| model["name"] == "documents").cloned().collect::<Vec<Value>>()
    };
    assert_eq!(next().await[0]["generation"], 1);
    let begun = bed.mutate(Some(&ada.access), "readModelRebuild", input, "name userErrors { code path }").await;
    assert_eq!(begun["name"], "documents", "{begun}");
    let done = json!({ "name": "documents", "generation": 2, "state": "inline" });
    while next().await != [done.clone()] {}
    let seen = bed.ask(Some(&ada.access), "{ documents { nodes { title } } }", json!({})).await;
    assert_eq!(seen["data"]["documents"]["nodes"], json!([{ "title": "a" }]));
}

#[tokio::test]
async fn anything_by_its_id_and_nothing_of_others() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.register("Difference", "bob@example.org").await;
    let project = project(&bed, &ada, "ATLAS").await;
    let doc = document(&bed, &ada, &project, "a.txt", "one").await;
    let query = "query($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }";
    let ids = json!({ "ids": [doc, "nonsense", project, ada.member, ada.organization, ada.user] });
    let seen = bed.ask(Some(&ada.access), query, ids.clone()).await;
    let names: Vec<&Value> = seen["data"]["nodes"].as_array().unwrap().iter().map(|node| &node["__typename"]).collect();
    assert_eq!(json!(names), json!(["Document", null, "Project", "Member", "Organization", "User"]), "{seen}");
    let stolen = bed.ask(Some(&bob.access), query, ids).await;
    assert_eq!(stolen["data"]["nodes"], json!([null, null, null, null, null, null]));
    let many = bed.ask(Some(&ada.access), query, json!({ "ids": vec!["x"; 101] })).await;
    assert_eq!(Bed::code(&many), "LIMIT_EXCEEDED");
    let nobody = bed.ask(None, query, json!({ "ids": [] })).await;
    assert_eq!(Bed::code(&nobody), "UNAUTHENTICATED");
}
