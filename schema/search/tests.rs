//! Search from outside, over an index that the test fills.
#![allow(clippy::unwrap_used)]

use oriel_backends::search::{Change, Checkpoint, Entry};
use oriel_kernel::RawId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::documents::tests::{document, project};
use crate::testing::{Bed, Person};

const SEARCH: &str = "query($q: String!, $types: [SearchType!], $project: ID, $first: Int, $after: String) {
    search(query: $q, types: $types, projectId: $project, first: $first, after: $after) {
        edges { score cursor highlights { field fragments } node { ... on Document { id title } ... on Project { id key } } }
        facets { field values { value count } } pageInfo { hasNextPage endCursor } totalCount position tookMs } }";

fn entry(bed: &Bed, who: &Person, kind: &str, id: &str, project: &str, title: &str) -> Change {
    Change::Put(Box::new(Entry {
        id: id.to_owned(),
        kind: kind.to_owned(),
        organization: RawId::parse(&who.organization).unwrap().uuid,
        project: Some(RawId::parse(project).unwrap().uuid),
        title: title.to_owned(),
        body: String::new(),
        tags: vec!["tag".to_owned()],
        media_type: None,
        keywords: Vec::new(),
        updated_at: bed.endpoint.services().engine.now(),
    }))
}

async fn search(bed: &Bed, who: &Person, variables: Value) -> Value {
    let answer = bed.ask(Some(&who.access), SEARCH, variables).await;
    assert_eq!(answer.get("errors"), None, "{answer}");
    answer["data"]["search"].clone()
}

fn ids(found: &Value) -> Vec<&str> {
    found["edges"].as_array().unwrap().iter().map(|edge| edge["node"]["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_is_found_is_what_may_be_seen() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.register("Difference", "bob@example.org").await;
    let mia = bed.join(&ada, "mia@example.org", &["member"]).await;
    let atlas = project(&bed, &ada, "ATLAS").await;
    let doc = document(&bed, &ada, &atlas, "whale.txt", "a whale").await;
    let theirs = project(&bed, &bob, "ATLAS").await;
    // What the index still holds and the tables do not: it lags.
    let gone = RawId { prefix: "doc", uuid: Uuid::from_u128(1) }.to_string();
    let changes = vec![
        entry(&bed, &ada, "Document", &doc, &atlas, "White <whale>"),
        entry(&bed, &ada, "Document", &gone, &atlas, "Whale that is gone"),
        entry(&bed, &ada, "Project", &atlas, &atlas, "Whale project"),
        entry(&bed, &bob, "Project", &theirs, &theirs, "Whale of theirs"),
    ];
    let to = Checkpoint { position: 7, event_id: Uuid::from_u128(7) };
    bed.endpoint.services().search.apply(changes, to).await.unwrap();

    let found = search(&bed, &ada, json!({ "q": "whale" })).await;
    let mut seen = ids(&found);
    seen.sort_unstable();
    let mut expected = [doc.as_str(), atlas.as_str()];
    expected.sort_unstable();
    assert_eq!(seen, expected);
    assert_eq!((&found["totalCount"], &found["position"]), (&json!(2), &json!("7")));
    let facets = found["facets"].as_array().unwrap();
    let facet = |name: &str| &facets.iter().find(|facet| facet["field"] == name).unwrap()["values"];
    assert_eq!(facet("type"), &json!([{ "value": "DOCUMENT", "count": 2 }, { "value": "PROJECT", "count": 1 }]));
    assert_eq!(facet("project"), &json!([{ "value": atlas, "count": 3 }]));

    let only = search(&bed, &ada, json!({ "q": "white whale", "types": ["DOCUMENT"], "project": atlas })).await;
    assert_eq!(ids(&only)[0], doc);
    let fragment = only["edges"][0]["highlights"][0]["fragments"][0].as_str().unwrap();
    assert!(fragment.contains("&lt;<mark>whale</mark>&gt;"), "{fragment}");

    assert_eq!(ids(&search(&bed, &bob, json!({ "q": "whale" })).await), [theirs.as_str()]);
    assert_eq!(search(&bed, &bob, json!({ "q": "", "project": atlas })).await["totalCount"], 0);
    // Mia is in the organisation and in none of its projects.
    let nothing = search(&bed, &mia, json!({ "q": "whale" })).await;
    assert_eq!((&nothing["totalCount"], &nothing["edges"]), (&json!(0), &json!([])));
    assert!(nothing["facets"].as_array().unwrap().iter().all(|facet| facet["values"] == json!([])));

    let suggested = "{ suggest(prefix: \"whit\") { text id type } }";
    let texts = bed.ask(Some(&ada.access), suggested, json!({})).await;
    assert_eq!(texts["data"]["suggest"], json!([{ "text": "White <whale>", "id": doc, "type": "DOCUMENT" }]));
    let texts = bed.ask(Some(&mia.access), suggested, json!({})).await;
    assert_eq!(texts["data"]["suggest"], json!([]));
}

#[tokio::test]
async fn pages_and_limits() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let mut changes = Vec::new();
    for number in 0..5 {
        let id = project(&bed, &ada, &format!("P{number}")).await;
        changes.push(entry(&bed, &ada, "Project", &id, &id, "Whale"));
    }
    let to = Checkpoint { position: 7, event_id: Uuid::from_u128(7) };
    bed.endpoint.services().search.apply(changes, to).await.unwrap();
    let (mut after, mut seen) = (Value::Null, Vec::new());
    loop {
        let page = search(&bed, &ada, json!({ "q": "whale", "first": 2, "after": after })).await;
        assert_eq!(page["totalCount"], 5);
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        after = page["pageInfo"]["endCursor"].clone();
        if page["pageInfo"]["hasNextPage"] == json!(false) {
            break;
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 5);

    let code = async |variables: Value| {
        let answer = bed.ask(Some(&ada.access), SEARCH, variables).await;
        assert_eq!(answer["data"]["search"], Value::Null);
        Bed::code(&answer).to_owned()
    };
    assert_eq!(code(json!({ "q": "x", "first": 101 })).await, "LIMIT_EXCEEDED");
    assert_eq!(code(json!({ "q": "x".repeat(1_001) })).await, "LIMIT_EXCEEDED");
    assert_eq!(code(json!({ "q": "x", "first": -1 })).await, "BAD_REQUEST");
    assert_eq!(code(json!({ "q": "x", "after": "nonsense" })).await, "BAD_REQUEST");
}
