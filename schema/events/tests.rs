//! The log from outside: as a list, and as a stream that replays, follows, and ends with the right to it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_graphql::{Request, Variables};
use futures::StreamExt;
use oriel_engine::chain::{Record, link as chained};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::documents::tests::project;
use crate::endpoint::Answers;
use crate::testing::{Bed, Person, operation};

const EVENTS: &str = "subscription($after: Position, $filter: EventFilter) {
    events(after: $after, filter: $filter) { type sequence position subject { id } actor { ... on Member { id } } data } }";

fn follow(bed: &Bed, who: &Person, variables: Value) -> Answers {
    let request = Request::new(EVENTS).variables(Variables::from_json(variables));
    bed.endpoint.execute_stream(operation(request).unwrap(), bed.caller(Some(&who.access)).unwrap())
}

/// The next answer; nothing when the stream has ended.
async fn next(stream: &mut Answers) -> Option<Value> {
    let answer = tokio::time::timeout(Duration::from_secs(60), stream.next()).await.unwrap();
    answer.map(|answer| serde_json::to_value(answer).unwrap())
}

async fn event(stream: &mut Answers) -> Value {
    let answer = next(stream).await.unwrap();
    assert_eq!(answer.get("errors"), None, "{answer}");
    answer["data"]["events"].clone()
}

#[tokio::test]
async fn the_past_then_the_present_without_a_gap() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.register("Difference", "bob@example.org").await;
    // More than a page of the past, and another organisation in between.
    for number in 0..60 {
        project(&bed, &ada, &format!("A{number}")).await;
        project(&bed, &bob, &format!("B{number}")).await;
    }
    let all = bed.ask(Some(&ada.access), "{ events(first: 1) { totalCount nodes { sequence } } }", json!({})).await;
    let total = all["data"]["events"]["nodes"][0]["sequence"].as_i64().unwrap();
    assert_eq!(all["data"]["events"]["totalCount"], total, "newest first, and all of them");

    let mut stream = follow(&bed, &ada, json!({ "after": "0" }));
    let mut seen = 0;
    while seen < total {
        let event = event(&mut stream).await;
        seen += 1;
        assert_eq!(event["sequence"], seen);
    }
    let made = project(&bed, &ada, "NOW").await;
    let now = event(&mut stream).await;
    assert_eq!((&now["sequence"], &now["type"]), (&json!(seen + 1), &json!("project_created")));
    assert_eq!((&now["subject"]["id"], &now["actor"]["id"]), (&json!(made), &json!(ada.member)));
    assert_eq!(now["data"]["name"], "NOW");

    // From where the client stopped, and only what it wants.
    let filter = json!({ "types": ["project_archived"], "subjectId": made });
    let mut rest = follow(&bed, &ada, json!({ "after": now["position"], "filter": filter }));
    for field in ["projectArchive", "projectRestore", "projectArchive"] {
        bed.mutate(Some(&ada.access), field, json!({ "id": made }), "userErrors { code message path }").await;
    }
    assert_eq!(event(&mut rest).await["type"], "project_archived");
    assert_eq!(event(&mut rest).await["sequence"], seen + 4);
}

#[tokio::test]
async fn what_belongs_to_an_event_is_of_its_moment() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let id = project(&bed, &ada, "ATLAS").await;
    let now = bed.ask(Some(&ada.access), "{ events(first: 1) { nodes { position } } }", json!({})).await;
    let query = "subscription($after: Position) { events(after: $after) { subject { ... on Project { name } } } }";
    let variables = Variables::from_json(json!({ "after": now["data"]["events"]["nodes"][0]["position"] }));
    let request = Request::new(query).variables(variables);
    let mut stream = bed.endpoint.execute_stream(operation(request).unwrap(), bed.caller(Some(&ada.access)).unwrap());
    for name in ["One", "Two"] {
        bed.mutate(
            Some(&ada.access),
            "projectUpdate",
            json!({ "id": id, "name": name }),
            "userErrors { code message path }",
        )
        .await;
        let seen = next(&mut stream).await.unwrap();
        assert_eq!(seen["data"], json!({ "events": { "subject": { "name": name } } }));
    }
}

#[tokio::test]
async fn the_stream_ends_with_the_right_to_it() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let admin = bed.join(&ada, "adam@example.org", &["admin"]).await;
    let member = bed.join(&ada, "mia@example.org", &["member"]).await;
    assert_eq!(Bed::code(&next(&mut follow(&bed, &member, json!({}))).await.unwrap()), "FORBIDDEN");
    let unknown = next(&mut follow(&bed, &ada, json!({ "after": "999999" }))).await.unwrap();
    assert_eq!(Bed::code(&unknown), "POSITION_UNKNOWN");

    let mut stream = follow(&bed, &admin, json!({ "after": "0" }));
    event(&mut stream).await;
    let roles = json!({ "id": admin.member, "roles": ["member"] });
    bed.mutate(Some(&ada.access), "memberUpdate", roles, "userErrors { code message path }").await;
    let mut last = Value::Null;
    while let Some(answer) = next(&mut stream).await {
        last = answer;
    }
    assert_eq!(Bed::code(&last), "FORBIDDEN");

    let mut stream = follow(&bed, &ada, json!({ "after": "0" }));
    event(&mut stream).await;
    let login = json!({ "email": "ada@example.org", "password": crate::testing::PASSWORD });
    let other = Person::of(&bed.mutate(None, "login", login, crate::testing::SIGNED_IN).await);
    bed.mutate(Some(&ada.access), "logout", json!({}), "userErrors { code message path }").await;
    assert!(!other.access.is_empty());
    let mut last = Value::Null;
    while let Some(answer) = next(&mut stream).await {
        last = answer;
    }
    assert_eq!(Bed::code(&last), "UNAUTHENTICATED");
}

#[tokio::test]
async fn the_chain_can_be_checked_by_us_and_by_anybody() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let bob = bed.register("Difference", "bob@example.org").await;
    for number in 0..3 {
        project(&bed, &ada, &format!("A{number}")).await;
        project(&bed, &bob, &format!("B{number}")).await;
    }
    let verify = "{ auditVerify { whole events hash brokenAt } }";
    let whole = bed.ask(Some(&ada.access), verify, json!({})).await["data"]["auditVerify"].clone();
    let query = "{ events(first: 100, orderBy: [{ field: POSITION, direction: ASC }]) { nodes { id type sequence position hash record } } }";
    let events = bed.ask(Some(&ada.access), query, json!({})).await["data"]["events"]["nodes"].clone();
    let events = events.as_array().unwrap();

    let mut link = Vec::new();
    for event in events {
        let record = data_encoding::BASE64.decode(event["record"].as_str().unwrap().as_bytes()).unwrap();
        link = chained(&link, &record);
        assert_eq!(event["hash"], data_encoding::HEXLOWER.encode(&link));
        let record = Record::parse(&record).unwrap();
        assert_eq!((&json!(record.event_type), &json!(record.sequence)), (&event["type"], &event["sequence"]));
        let personal = "ada@example.org".as_bytes();
        assert!(!record.data.windows(personal.len()).any(|window| window == personal), "it is sealed");
    }
    let expected =
        json!({ "whole": true, "events": events.len(), "hash": events.last().unwrap()["hash"], "brokenAt": null });
    assert_eq!(whole, expected);

    // Somebody with access to the database changes the past.
    let third = events[2]["position"].as_str().unwrap();
    let sql = format!("UPDATE events SET type = 'project_archived' WHERE position = {third}");
    bed.endpoint.services().engine.database().writer().execute_unprepared(&sql).await.unwrap();
    let broken = bed.ask(Some(&ada.access), verify, json!({})).await["data"]["auditVerify"].clone();
    assert_eq!(broken, json!({ "whole": false, "events": 2, "hash": events[1]["hash"], "brokenAt": third }));
    let other = bed.ask(Some(&bob.access), verify, json!({})).await["data"]["auditVerify"].clone();
    assert_eq!(other["whole"], true, "that of another organization is its own");
}
