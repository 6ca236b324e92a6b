//! What is kept, who it is kept for, and what a live query is told.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_graphql::{Request, Variables};
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};

use super::{Answer, Answers, Caller};
use crate::documents::tests::{document, project};
use crate::testing::{Bed, Person, operation};

const NAME: &str = "query($id: ID!) { project(id: $id) { name } }";
const ERRORS: &str = "userErrors { code message path }";

fn value(answer: &Answer) -> Value {
    let mut value: Value = serde_json::from_str(&answer.text()).unwrap();
    value.as_object_mut().unwrap().remove("extensions");
    value
}

async fn rename(bed: &Bed, who: &Person, project: &str, name: &str) {
    let input = json!({ "id": project, "name": name });
    assert_eq!(bed.mutate(Some(&who.access), "projectUpdate", input, ERRORS).await["userErrors"], json!([]));
}

fn follow(bed: &Bed, who: &Person, query: &str, variables: Value, extensions: Value) -> Answers {
    let mut request = Request::new(query).variables(Variables::from_json(variables));
    request.extensions = serde_json::from_value(extensions).unwrap();
    bed.endpoint.execute_stream(operation(request).unwrap(), bed.caller(Some(&who.access)).unwrap())
}

async fn next(answers: &mut Answers) -> Option<Value> {
    let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await.unwrap();
    answer.as_ref().map(value)
}

/// Until everything that could run has run: the tests have one thread, and what a task waits for is on its way.
async fn quiet(bed: &Bed) {
    for _ in 0..20 {
        tokio::task::yield_now().await;
        bed.endpoint.services().engine.database().reader().ping().await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_is_kept_until_what_it_was_read_from_is_touched() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let (atlas, other) = (project(&bed, &ada, "ATLAS").await, project(&bed, &ada, "OTHER").await);
    let ask =
        async || bed.ask(Some(&ada.access), NAME, json!({ "id": atlas })).await["data"]["project"]["name"].clone();
    assert_eq!(ask().await, "ATLAS");
    let before = bed.endpoint.cache_report();
    assert_eq!(ask().await, "ATLAS");
    rename(&bed, &ada, &other, "Elsewhere").await;
    assert_eq!(ask().await, "ATLAS");
    let kept = bed.endpoint.cache_report();
    assert_eq!((kept.hits, kept.misses), (before.hits + 2, before.misses));
    rename(&bed, &ada, &atlas, "Another").await;
    assert_eq!(ask().await, "Another");
    let after = bed.endpoint.cache_report();
    assert_eq!((after.hits, after.misses), (kept.hits, kept.misses + 1));
    assert!(after.invalidated.contains(&("project".to_owned(), 1)), "{after:?}");
}

#[tokio::test]
async fn an_empty_list_and_an_absent_row_are_answers_that_a_change_touches() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let listed = "{ projects(filter: { name: { eq: \"ATLAS\" } }) { nodes { name } totalCount } }";
    let ask = async |query: &str| bed.ask(Some(&ada.access), query, json!({})).await["data"].clone();
    assert_eq!(ask(listed).await["projects"]["totalCount"], 0);
    assert_eq!(ask("{ organization { projectCount } }").await["organization"]["projectCount"], 0);
    project(&bed, &ada, "ATLAS").await;
    assert_eq!(ask(listed).await["projects"], json!({ "nodes": [{ "name": "ATLAS" }], "totalCount": 1 }));
    assert_eq!(ask("{ organization { projectCount } }").await["organization"]["projectCount"], 1);
}

#[tokio::test]
async fn identical_questions_that_arrive_together_are_executed_once() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let atlas = project(&bed, &ada, "ATLAS").await;
    let before = bed.endpoint.cache_report();
    let together = (0..20).map(|_| bed.ask(Some(&ada.access), NAME, json!({ "id": atlas })));
    for answer in join_all(together).await {
        assert_eq!(answer["data"]["project"]["name"], "ATLAS");
    }
    let after = bed.endpoint.cache_report();
    // Who comes late finds it kept already.
    let shared = after.coalesced + after.hits - before.coalesced - before.hits;
    assert_eq!((after.misses - before.misses, shared), (1, 19));
}

#[tokio::test]
async fn those_who_see_the_same_share_answers_and_nobody_gets_a_personal_one() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let eve = bed.join(&ada, "eve@example.org", &["admin"]).await;
    let flo = bed.join(&ada, "flo@example.org", &["admin"]).await;
    let mia = bed.join(&ada, "mia@example.org", &["member"]).await;
    let atlas = project(&bed, &ada, "ATLAS").await;
    let ask = async |who: &Person, query: &str| bed.ask(Some(&who.access), query, json!({ "id": atlas })).await;
    assert_eq!(ask(&eve, NAME).await["data"]["project"]["name"], "ATLAS");
    let before = bed.endpoint.cache_report();
    assert_eq!(ask(&flo, NAME).await["data"]["project"]["name"], "ATLAS");
    assert_eq!(bed.endpoint.cache_report().hits, before.hits + 1, "another admin sees the same");
    // She is in the organisation and not in the project.
    assert_eq!(ask(&mia, NAME).await["data"], json!({ "project": null }));

    let who_am_i = "query($id: ID!) { viewer { user { id } session { id current } } project(id: $id) { name } }";
    for _ in 0..2 {
        for person in [&eve, &flo, &mia] {
            assert_eq!(ask(person, who_am_i).await["data"]["viewer"]["user"]["id"], json!(person.user));
        }
    }
    let together = join_all([&eve, &flo, &eve, &mia, &flo].map(|person| ask(person, "{ viewer { member { id } } }")));
    let members: Vec<_> = together.await.iter().map(|a| a["data"]["viewer"]["member"]["id"].clone()).collect();
    assert_eq!(members, [&eve, &flo, &eve, &mia, &flo].map(|person| json!(person.member)));
    let hits = bed.endpoint.cache_report().hits;
    ask(&flo, who_am_i).await;
    assert_eq!(bed.endpoint.cache_report().hits, hits + 1, "a personal answer is kept for its own session");
}

#[tokio::test]
async fn what_passes_and_what_failed_is_not_kept() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let vic = bed.join(&ada, "vic@example.org", &["viewer"]).await;
    let passing = [
        "{ search(query: \"a\") { totalCount tookMs } }",
        "{ search(query: \"a\") { position } }",
        "{ system { version } }",
    ];
    for query in passing {
        for _ in 0..2 {
            bed.ask(Some(&ada.access), query, json!({})).await;
        }
    }
    let forbidden = "{ system { version } }";
    for _ in 0..2 {
        assert_eq!(Bed::code(&bed.ask(Some(&vic.access), forbidden, json!({})).await), "FORBIDDEN");
    }
    assert_eq!(bed.endpoint.cache_report().hits, 0);
    for _ in 0..2 {
        bed.ask(Some(&ada.access), "{ search(query: \"a\") { totalCount } }", json!({})).await;
    }
    assert_eq!(bed.endpoint.cache_report().hits, 1);
}

#[tokio::test]
async fn a_permission_that_is_lost_takes_the_kept_answers_with_it() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let eve = bed.join(&ada, "eve@example.org", &["admin"]).await;
    let log = "{ events(last: 1) { nodes { type } } }";
    let ask = async |query: &str| bed.ask(Some(&eve.access), query, json!({})).await;
    assert_eq!(ask(log).await.get("errors"), None);
    bed.mutate(Some(&ada.access), "memberUpdate", json!({ "id": eve.member, "roles": ["member"] }), ERRORS).await;
    let after = ask(log).await;
    assert_eq!((Bed::code(&after), &after["data"]), ("FORBIDDEN", &json!({ "events": null })));
    bed.mutate(Some(&ada.access), "memberRemove", json!({ "id": eve.member }), ERRORS).await;
    let after = ask(log).await;
    assert_eq!((Bed::code(&after), after.get("data")), ("UNAUTHENTICATED", None));
}

#[tokio::test]
async fn who_loses_a_permission_while_a_query_goes_on_gets_nothing_of_it() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let eve = bed.join(&ada, "eve@example.org", &["admin"]).await;
    let seen = bed.endpoint.services().engine.feed().head();
    let query = "{ events(last: 1) { nodes { type } } search(query: \"a\") { totalCount } }";
    let caller = Caller { at_least: Some(seen), ..bed.caller(Some(&eve.access)).unwrap() };
    let endpoint = bed.endpoint.clone();
    let asked = tokio::spawn(async move { endpoint.execute(operation(Request::new(query)).unwrap(), caller).await });
    quiet(&bed).await;
    assert!(!asked.is_finished(), "it waits for the index");
    bed.mutate(Some(&ada.access), "memberUpdate", json!({ "id": eve.member, "roles": ["member"] }), ERRORS).await;
    bed.idle.index_reaches(seen);
    let answer = value(&asked.await.unwrap());
    assert_eq!((Bed::code(&answer), &answer["data"]["events"]), ("FORBIDDEN", &Value::Null), "{answer}");
}

#[tokio::test]
async fn an_answer_is_recognised_by_its_tag_until_it_is_another_one() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let atlas = project(&bed, &ada, "ATLAS").await;
    let ask = async |query: &str| {
        let request = Request::new(query).variables(Variables::from_json(json!({ "id": atlas })));
        bed.endpoint.execute(operation(request).unwrap(), bed.caller(Some(&ada.access)).unwrap()).await
    };
    let first = ask(NAME).await.tag().unwrap();
    rename(&bed, &ada, &atlas, "Other").await;
    let second = ask(NAME).await.tag().unwrap();
    rename(&bed, &ada, &atlas, "ATLAS").await;
    assert_eq!((ask(NAME).await.tag().unwrap(), first == second), (first, false));
    assert_eq!(ask("{ system { version } }").await.tag(), None);
    assert_eq!(ask("{ nonsense }").await.tag(), None);
}

#[tokio::test]
async fn identical_live_queries_are_executed_once_and_only_when_they_are_touched() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let eve = bed.join(&ada, "eve@example.org", &["admin"]).await;
    let flo = bed.join(&ada, "flo@example.org", &["admin"]).await;
    let bob = bed.register("Difference", "bob@example.org").await;
    let (atlas, other) = (project(&bed, &ada, "ATLAS").await, project(&bed, &ada, "OTHER").await);
    let query = "subscription($id: ID!) { live { project(id: $id) { name documents { nodes { title } } } } }";
    let mut all: Vec<_> =
        [&eve, &flo, &eve].map(|who| follow(&bed, who, query, json!({ "id": atlas }), json!({}))).into();
    for answers in &mut all {
        assert_eq!(next(answers).await.unwrap()["data"]["live"]["project"]["name"], "ATLAS");
    }
    let executions = || bed.endpoint.cache_report().misses;
    let before = executions();
    rename(&bed, &ada, &other, "Elsewhere").await;
    document(&bed, &ada, &other, "a.txt", "one").await;
    project(&bed, &bob, "ATLAS").await;
    quiet(&bed).await;
    assert_eq!(executions(), before, "nothing that it read was touched");
    rename(&bed, &ada, &atlas, "Another").await;
    for answers in &mut all {
        assert_eq!(next(answers).await.unwrap()["data"]["live"]["project"]["name"], "Another");
    }
    assert_eq!(executions(), before + 1, "three who ask the same");
    document(&bed, &ada, &atlas, "b.txt", "two").await;
    for answers in &mut all {
        assert_eq!(
            next(answers).await.unwrap()["data"]["live"]["project"]["documents"]["nodes"],
            json!([{ "title": "b" }])
        );
    }
    // An answer that is equal is not told again.
    rename(&bed, &ada, &atlas, "Third").await;
    rename(&bed, &ada, &atlas, "Another").await;
    quiet(&bed).await;
    for answers in &mut all {
        while let Some(told) = answers.next().now_or_never() {
            assert_ne!(value(&told.unwrap())["data"]["live"]["project"]["name"], "Fourth");
        }
    }
}

#[tokio::test]
async fn a_live_query_ends_when_its_permission_or_its_session_does() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let eve = bed.join(&ada, "eve@example.org", &["admin"]).await;
    let log = "subscription { live { events(first: 0) { totalCount } } }";
    let names = "subscription { live { organization { name } } }";
    let (mut events, mut name) =
        (follow(&bed, &eve, log, json!({}), json!({})), follow(&bed, &eve, names, json!({}), json!({})));
    assert!(next(&mut events).await.unwrap().get("errors").is_none());
    assert_eq!(next(&mut name).await.unwrap()["data"]["live"]["organization"]["name"], "Analytical");
    bed.mutate(Some(&ada.access), "memberUpdate", json!({ "id": eve.member, "roles": ["member"] }), ERRORS).await;
    let last = loop {
        let told = next(&mut events).await.unwrap();
        if told.get("errors").is_some() {
            break told;
        }
    };
    assert_eq!((Bed::code(&last), last.get("data")), ("FORBIDDEN", None));
    assert_eq!(next(&mut events).await, None);
    bed.mutate(Some(&ada.access), "memberSuspend", json!({ "id": eve.member }), ERRORS).await;
    assert_eq!(Bed::code(&next(&mut name).await.unwrap()), "UNAUTHENTICATED");
    assert_eq!(next(&mut name).await, None);
}

#[tokio::test]
async fn what_is_open_goes_on_when_the_session_is_refreshed_in_time_and_ends_when_it_is_not() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let names = "subscription { live { organization { name } } }";
    let log = "subscription { events { type } }";
    let open = |query: &str| follow(&bed, &ada, query, json!({}), json!({}));
    let (mut name, mut events) = (open(names), open(log));
    assert!(next(&mut name).await.unwrap().get("errors").is_none());
    assert!(events.next().now_or_never().is_none(), "it follows from here on");
    let rename = async |who: &Person, name: &str| {
        bed.mutate(Some(&who.access), "organizationUpdate", json!({ "name": name }), ERRORS).await
    };
    bed.clock.advance(Duration::from_secs(10 * 60));
    let input = json!({ "refreshToken": ada.refresh });
    let ada = Person::of(&bed.mutate(None, "sessionRefresh", input, crate::testing::SIGNED_IN).await);
    bed.clock.advance(Duration::from_secs(10 * 60)); // the first token has ended
    rename(&ada, "Second").await;
    while next(&mut name).await.unwrap()["data"]["live"]["organization"]["name"] != "Second" {}
    while next(&mut events).await.unwrap()["data"]["events"]["type"] != "organization_renamed" {}

    bed.clock.advance(Duration::from_secs(10 * 60)); // the second one too
    let input = json!({ "email": "ada@example.org", "password": crate::testing::PASSWORD });
    let other = Person::of(&bed.mutate(None, "login", input, crate::testing::SIGNED_IN).await);
    rename(&other, "Third").await;
    for answers in [&mut name, &mut events] {
        let last = next(answers).await.unwrap();
        assert_eq!(Bed::code(&last), "UNAUTHENTICATED", "{last}");
        assert_eq!(next(answers).await, None);
    }
}

#[tokio::test]
async fn changes_come_as_patches_to_who_asks_for_them() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    for number in 0..20 {
        project(&bed, &ada, &format!("P{number}")).await;
    }
    let query = "subscription { live { projects(first: 50) { nodes { id key name } } } }";
    let mut answers = follow(&bed, &ada, query, json!({}), json!({ "livePatch": true }));
    let first = answers.next().await.unwrap();
    let mut whole = value(&first)["data"].clone();
    assert_eq!(first.extensions["live"], async_graphql::value!({ "revision": 1 }));
    let id = whole["live"]["projects"]["nodes"][7]["id"].as_str().unwrap().to_owned();
    rename(&bed, &ada, &id, "Renamed").await;
    let second = answers.next().await.unwrap();
    assert_eq!(value(&second), json!({}), "a patch comes instead of the result");
    let live = second.extensions["live"].clone().into_json().unwrap();
    assert_eq!(live["revision"], 2);
    let patch: json_patch::Patch = serde_json::from_value(live["patch"].clone()).unwrap();
    json_patch::patch(&mut whole, &patch).unwrap();
    let fresh = bed.ask(Some(&ada.access), "{ projects(first: 50) { nodes { id key name } } }", json!({})).await;
    assert_eq!(whole["live"], fresh["data"]);
}

#[tokio::test]
async fn live_is_the_query_root_through_fragments_aliases_and_directives() {
    let bed = Bed::new().await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let told = async |query: &str| {
        let mut answers = follow(&bed, &ada, query, json!({ "no": false }), json!({}));
        next(&mut answers).await.unwrap()["data"].clone()
    };
    assert_eq!(told("subscription { live { __typename } }").await, json!({ "live": { "__typename": "Query" } }));
    let query = "subscription($no: Boolean!) { ...S } fragment S on Subscription { l: live { ...Q } }
        fragment Q on Query { o: organization { slug @include(if: $no) name @skip(if: $no) } }";
    assert_eq!(told(query).await, json!({ "l": { "o": { "name": "Analytical" } } }));
}

#[tokio::test]
async fn nobody_has_more_live_queries_than_they_may() {
    let bed = Bed::with(|policy| policy.live_queries_per_viewer = 2).await;
    let ada = bed.register("Analytical", "ada@example.org").await;
    let open = || follow(&bed, &ada, "subscription { live { organization { name } } }", json!({}), json!({}));
    let (mut one, mut two) = (open(), open());
    assert!(next(&mut one).await.is_some() && next(&mut two).await.is_some());
    let refused = next(&mut open()).await.unwrap();
    assert_eq!(Bed::code(&refused), "LIMIT_EXCEEDED");
    assert_eq!(refused["errors"][0]["extensions"]["limit"], "max_live_queries_per_viewer");
    drop(one);
    assert!(next(&mut open()).await.unwrap().get("errors").is_none());
}

#[tokio::test]
async fn nobody_signed_in_is_answered_from_what_is_kept_too() {
    let bed = Bed::new().await;
    let ask = async || {
        let operation = operation(Request::new("{ __typename viewer { user { id } } }")).unwrap();
        value(&bed.endpoint.execute(operation, Caller::default()).await)
    };
    assert_eq!(ask().await, json!({ "data": { "__typename": "Query", "viewer": null } }));
    assert_eq!(ask().await, json!({ "data": { "__typename": "Query", "viewer": null } }));
    assert_eq!(bed.endpoint.cache_report().hits, 1);
}
