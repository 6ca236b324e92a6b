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
        let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await.unwrap().unwrap();
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

#[tokio::test]
async fn the_operator_sees_which_organizations_there_are_and_nothing_in_them() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.register("Difference", "bob@example.org").await;
    let cleo = bed.join(&bob, "cleo@example.org", &["admin"]).await;
    let atlas = project(&bed, &bob, "ATLAS").await;
    document(&bed, &bob, &atlas, "a.txt", "one").await;
    bed.register("Looms", "dora@example.org").await;

    const LIST: &str =
        "query($filter: OrganizationAccountFilter, $order: [OrganizationAccountOrder!], $first: Int, $after: String) {
        system { organizations(filter: $filter, orderBy: $order, first: $first, after: $after) { totalCount
            nodes { id name status endsAt memberCount projectCount documentCount storageUsed owner { id name email } }
            pageInfo { hasNextPage endCursor } } } }";
    let list = async |variables: Value| {
        let answer = bed.ask(Some(&ada.access), LIST, variables).await;
        assert_eq!(answer.get("errors"), None, "{answer}");
        answer["data"]["system"]["organizations"].clone()
    };
    let names = |list: &Value| {
        let nodes = list["nodes"].as_array().unwrap().iter();
        nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = list(json!({})).await;
    assert_eq!(
        (names(&all), &all["totalCount"]),
        (["Analytical", "Difference", "Looms"].map(str::to_owned).to_vec(), &json!(3))
    );
    let owner = json!({ "id": bob.user, "name": "Somebody", "email": "bob@example.org" });
    let expected = json!({ "id": bob.organization, "name": "Difference", "status": "ACTIVE", "endsAt": null,
        "memberCount": 2, "projectCount": 1, "documentCount": 1, "storageUsed": 3, "owner": owner });
    assert_eq!(all["nodes"][1], expected);

    // By pages, in another order; what is chosen by its name and how it stands.
    let order = json!([{ "field": "NAME", "direction": "DESC" }]);
    let page = list(json!({ "order": order, "first": 2 })).await;
    assert_eq!(
        (names(&page), &page["pageInfo"]["hasNextPage"]),
        (vec!["Looms".to_owned(), "Difference".to_owned()], &json!(true))
    );
    let page = list(json!({ "order": order, "first": 2, "after": page["pageInfo"]["endCursor"] })).await;
    assert_eq!(names(&page), ["Analytical"]);
    assert_eq!(names(&list(json!({ "filter": { "name": { "contains": "OOM" } } })).await), ["Looms"]);
    let suspend = json!({ "id": bob.organization, "reason": "The bill was not paid." });
    let done = bed.mutate(Some(&ada.access), "organizationSuspend", suspend, "userErrors { code path }").await;
    assert_eq!(Bed::problems(&done), Vec::<String>::new());
    let suspended = json!({ "filter": { "status": { "eq": "SUSPENDED" } } });
    assert_eq!(names(&list(suspended.clone()).await), ["Difference"]);
    let id = json!({ "id": bob.organization });
    bed.mutate(Some(&ada.access), "organizationReinstate", id, "userErrors { code path }").await;
    assert_eq!(names(&list(suspended).await), Vec::<String>::new());

    // Whoever takes over is the one to be reached.
    let heir = json!({ "id": cleo.member });
    let done = bed.mutate(Some(&bob.access), "memberTransferOwnership", heir, "userErrors { code path }").await;
    assert_eq!(Bed::problems(&done), Vec::<String>::new());
    let owner = json!({ "id": cleo.user, "name": "Somebody", "email": "cleo@example.org" });
    assert_eq!(list(json!({})).await["nodes"][1]["owner"], owner);

    // Nobody else: not an owner, not a key that has everything but the installation.
    let (_, key) = bed.key(&ada, &["*"]).await;
    for token in [&cleo.access, &key] {
        let refused = bed.ask(Some(token), LIST, json!({})).await;
        assert_eq!((&refused["data"], Bed::code(&refused)), (&json!({ "system": null }), "FORBIDDEN"));
    }
}
