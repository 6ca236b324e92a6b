//! What a key may, for how long, and what nobody does with one.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_graphql::Request;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::documents::tests::project;
use crate::testing::{Bed, Person, operation};

const MADE: &str = "apiKey { id name scopes hint revoked expiresAt version owner { id } } secret userErrors { code message path } position";
const ERRORS: &str = "userErrors { code message path }";
const WHO: &str = "{ viewer { permissions apiKey { id } member { id } } }";
const PROJECTS: &str = "{ projects { nodes { key } } }";

async fn make(bed: &Bed, of: &Person, input: Value) -> Value {
    bed.mutate(Some(&of.access), "apiKeyCreate", input, MADE).await
}

async fn rotate(bed: &Bed, of: &Person, key: &str, overlap: i64) -> String {
    let input = json!({ "id": key, "overlapSeconds": overlap });
    let rotated = bed.mutate(Some(&of.access), "apiKeyRotate", input, MADE).await;
    rotated["secret"].as_str().unwrap_or_else(|| panic!("{rotated}")).to_owned()
}

async fn revoke(bed: &Bed, by: &Person, key: &str) -> Value {
    bed.mutate(Some(&by.access), "apiKeyRevoke", json!({ "id": key }), ERRORS).await
}

/// Whether somebody is known by this secret.
async fn is_good(bed: &Bed, secret: &str) -> bool {
    bed.ask(Some(secret), "{ node(id: \"none\") { id } }", json!({})).await.get("errors").is_none()
}

#[tokio::test]
async fn a_key_acts_for_who_made_it_and_is_the_author_of_what_it_does() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let scopes = ["projects:*", "members:view", "organization:view"];
    let made = make(&bed, &ada, json!({ "name": "Nightly build", "scopes": scopes })).await;
    let (key, secret) = (&made["apiKey"], made["secret"].as_str().unwrap());
    assert_eq!((&key["name"], &key["owner"]["id"]), (&json!("Nightly build"), &json!(ada.member)));
    assert!(secret.starts_with("orl_") && secret.ends_with(key["hint"].as_str().unwrap()));

    let who = bed.ask(Some(secret), WHO, json!({})).await;
    assert_eq!(
        who["data"]["viewer"],
        json!({ "permissions": ["members:view", "organization:view", "projects:*"], "apiKey": { "id": key["id"] },
            "member": { "id": ada.member } })
    );
    let input = json!({ "key": "ATLAS", "name": "Atlas" });
    let atlas =
        bed.mutate(Some(secret), "projectCreate", input, "project { id owner { id } } userErrors { code }").await;
    assert_eq!(atlas["project"]["owner"]["id"], json!(ada.member));
    assert_eq!(
        bed.ask(Some(secret), PROJECTS, json!({})).await["data"]["projects"]["nodes"],
        json!([{ "key": "ATLAS" }])
    );
    let log = "{ events(filter: { types: [\"project_created\"] }) { nodes { actor { ... on ApiKey { id name } } } } }";
    let log = bed.ask(Some(&ada.access), log, json!({})).await;
    let author = json!({ "id": key["id"], "name": "Nightly build" });
    assert_eq!(log["data"]["events"]["nodes"], json!([{ "actor": author }]), "{log}");
    // The person's devices and their other organizations are not the key's.
    let other = bed
        .mutate(
            Some(&ada.access),
            "organizationCreate",
            json!({ "name": "Elsewhere" }),
            "organization { id } userErrors { code }",
        )
        .await;
    let other = &other["organization"]["id"];
    let personal = "query($other: ID!, $session: ID!) { viewer { organizations { id } sessions { id } }
        organization: node(id: $other) { id } session: node(id: $session) { id } }";
    let session =
        bed.ask(Some(&ada.access), "{ viewer { session { id } } }", json!({})).await["data"]["viewer"]["session"]["id"]
            .clone();
    let shown = bed.ask(Some(secret), personal, json!({ "other": other, "session": session })).await;
    let viewer = json!({ "organizations": [{ "id": ada.organization }], "sessions": [] });
    assert_eq!(shown["data"], json!({ "viewer": viewer, "organization": null, "session": null }), "{shown}");
    // What it was not given, it does not have, although its owner has it.
    assert_eq!(Bed::code(&bed.ask(Some(secret), "{ documents { totalCount } }", json!({})).await), "FORBIDDEN");
    assert_eq!(Bed::code(&bed.ask(Some(secret), "{ viewer { session { id } } }", json!({})).await), "FORBIDDEN");
}

#[tokio::test]
async fn a_secret_is_shown_once_and_is_nowhere_else() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let input = json!({ "name": "CI", "scopes": ["*"], "idempotencyKey": "k1" });
    let first = make(&bed, &ada, input.clone()).await;
    let again = make(&bed, &ada, input).await;
    assert_eq!(
        (&again["secret"], &again["apiKey"], &again["position"]),
        (&Value::Null, &first["apiKey"], &first["position"])
    );
    let secret = first["secret"].as_str().unwrap();
    let everything = "{ apiKeys { nodes { id name scopes hint expiresAt } } events { nodes { data } } }";
    let shown = bed.ask(Some(&ada.access), everything, json!({})).await.to_string();
    assert!(!shown.contains(secret) && shown.contains("CI"), "{shown}");
}

#[tokio::test]
async fn a_key_is_good_until_it_is_revoked_or_ends() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let (key, secret) = bed.key(&ada, &["*"]).await;
    assert!(is_good(&bed, &secret).await);
    assert_eq!(Bed::problems(&revoke(&bed, &ada, &key).await), Vec::<String>::new());
    assert!(!is_good(&bed, &secret).await);
    assert_eq!(Bed::problems(&revoke(&bed, &ada, &key).await), Vec::<String>::new());
    let rotated = bed.mutate(Some(&ada.access), "apiKeyRotate", json!({ "id": key }), MADE).await;
    assert_eq!(Bed::problems(&rotated), ["CONFLICT"]);

    let ends = bed.endpoint.services().engine.now() + Duration::from_secs(60);
    let made = make(&bed, &ada, json!({ "name": "CI", "scopes": ["*"], "expiresAt": ends })).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(is_good(&bed, secret).await);
    bed.clock.advance(Duration::from_secs(60));
    assert!(!is_good(&bed, secret).await);
    assert_eq!(Bed::code(&bed.ask(Some(secret), WHO, json!({})).await), "UNAUTHENTICATED");
}

#[tokio::test]
async fn after_a_rotation_both_secrets_are_good_for_a_while_and_then_the_new_one() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let (key, first) = bed.key(&ada, &["*"]).await;
    let second = rotate(&bed, &ada, &key, 120).await;
    assert!(is_good(&bed, &first).await && is_good(&bed, &second).await);
    bed.clock.advance(Duration::from_secs(119));
    assert!(is_good(&bed, &first).await);
    bed.clock.advance(Duration::from_secs(1));
    assert!(!is_good(&bed, &first).await && is_good(&bed, &second).await);
    // One that was replaced earlier ends with the next rotation; without an overlap at once.
    let third = rotate(&bed, &ada, &key, 120).await;
    let fourth = rotate(&bed, &ada, &key, 0).await;
    for (secret, expected) in [(&first, false), (&second, false), (&third, false), (&fourth, true)] {
        assert_eq!(is_good(&bed, secret).await, expected);
    }
    let too_long = json!({ "id": key, "overlapSeconds": 604_801 });
    let too_long = bed.mutate(Some(&ada.access), "apiKeyRotate", too_long, ERRORS).await;
    assert_eq!(Bed::problems(&too_long), ["INVALID input.overlapSeconds"]);
    let negative = json!({ "id": key, "overlapSeconds": -1 });
    let negative = bed.mutate(Some(&ada.access), "apiKeyRotate", negative, ERRORS).await;
    assert_eq!(Bed::problems(&negative), ["INVALID input.overlapSeconds"]);
}

#[tokio::test]
async fn a_key_never_has_more_than_its_owner_at_that_moment() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
    let atlas = project(&bed, &ada, "ATLAS").await;
    let (_, secret) = bed.key(&bob, &["projects:*", "documents:view"]).await;
    let ask = async |query: &str| bed.ask(Some(&secret), query, json!({})).await;
    assert_eq!(ask(PROJECTS).await["data"]["projects"]["nodes"], json!([{ "key": "ATLAS" }]));
    let roles = async |role: &str| {
        let input = json!({ "id": bob.member, "roles": [role] });
        bed.mutate(Some(&ada.access), "memberUpdate", input, ERRORS).await
    };
    roles("viewer").await;
    assert_eq!(ask(PROJECTS).await["data"]["projects"]["nodes"], json!([]));
    let rename = json!({ "id": atlas, "name": "Mine" });
    let renamed = bed.mutate(Some(&secret), "projectUpdate", rename.clone(), ERRORS).await;
    assert_eq!(Bed::problems(&renamed), ["FORBIDDEN"]);
    roles("admin").await;
    let renamed = bed.mutate(Some(&secret), "projectUpdate", rename, ERRORS).await;
    assert_eq!(Bed::problems(&renamed), Vec::<String>::new());
    bed.mutate(Some(&ada.access), "memberSuspend", json!({ "id": bob.member }), ERRORS).await;
    assert!(!is_good(&bed, &secret).await);
    bed.mutate(Some(&ada.access), "memberReactivate", json!({ "id": bob.member }), ERRORS).await;
    assert!(is_good(&bed, &secret).await);
    // Who leaves takes their keys along.
    bed.mutate(Some(&ada.access), "memberRemove", json!({ "id": bob.member }), ERRORS).await;
    assert!(!is_good(&bed, &secret).await);
    let left = "{ apiKeys(filter: { revoked: { eq: true } }) { nodes { owner { id } revoked } } }";
    let left = bed.ask(Some(&ada.access), left, json!({})).await;
    assert_eq!(left["data"]["apiKeys"]["nodes"], json!([{ "owner": null, "revoked": true }]), "{left}");
}

#[tokio::test]
async fn nobody_gets_more_by_a_key() {
    let bed = Bed::new().await;
    bed.register("First", "operator@example.org").await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let admin = bed.join(&ada, "admin@example.org", &["admin"]).await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let viewer = bed.join(&ada, "eve@example.org", &["viewer"]).await;
    for (who, scopes) in [
        (&bob, "projects:*"),
        (&bob, "*"),
        (&bob, "projects:view"),
        (&admin, "*"),
        (&admin, "organization:manage"),
        (&ada, "system:manage"),
    ] {
        let made = make(&bed, who, json!({ "name": "More", "scopes": ["search:view", scopes] })).await;
        assert_eq!(Bed::problems(&made), ["FORBIDDEN input.scopes"], "{scopes}");
        assert_eq!(made["secret"], Value::Null);
    }
    let unknown = make(&bed, &ada, json!({ "name": "More", "scopes": ["dragons:view"] })).await;
    assert_eq!(Bed::problems(&unknown), ["INVALID input.scopes"]);
    let none = make(&bed, &viewer, json!({ "name": "Mine", "scopes": ["search:view"] })).await;
    assert_eq!(Bed::problems(&none), ["FORBIDDEN"]);

    // A key makes no keys and gives no secrets, whatever its scopes are.
    let (key, secret) = bed.key(&ada, &["*"]).await;
    let made =
        bed.mutate(Some(&secret), "apiKeyCreate", json!({ "name": "Child", "scopes": ["search:view"] }), MADE).await;
    assert_eq!((Bed::problems(&made), &made["secret"]), (vec!["FORBIDDEN".to_owned()], &Value::Null));
    let rotated = bed.mutate(Some(&secret), "apiKeyRotate", json!({ "id": key }), MADE).await;
    assert_eq!((Bed::problems(&rotated), &rotated["secret"]), (vec!["FORBIDDEN".to_owned()], &Value::Null));
    // Nor does it become its owner: no session, no other organization, no password.
    for (field, input) in [
        ("sessionSwitch", json!({ "organizationId": ada.organization })),
        ("passwordChange", json!({ "currentPassword": "a", "newPassword": "b" })),
        ("userUpdate", json!({ "name": "Mallory" })),
        ("organizationCreate", json!({ "name": "Mallory's" })),
        ("memberTransferOwnership", json!({ "id": admin.member })),
    ] {
        let refused = bed.mutate(Some(&secret), field, input, ERRORS).await;
        assert_eq!(Bed::problems(&refused), ["FORBIDDEN"], "{field}");
    }
    // The secret of another's key gives what is theirs: an admin ends it, and no more.
    let stolen = bed.mutate(Some(&admin.access), "apiKeyRotate", json!({ "id": key }), MADE).await;
    assert_eq!((Bed::problems(&stolen), &stolen["secret"]), (vec!["FORBIDDEN".to_owned()], &Value::Null));
    let (of_bob, _) = bed.key(&bob, &["search:view"]).await;
    assert_eq!(Bed::problems(&revoke(&bed, &bob, &key).await), ["FORBIDDEN"]);
    assert_eq!(Bed::problems(&revoke(&bed, &admin, &of_bob).await), Vec::<String>::new());
    assert_eq!(Bed::problems(&revoke(&bed, &admin, &key).await), Vec::<String>::new());
}

#[tokio::test]
async fn whoever_may_see_their_own_keys_sees_those_and_another_organization_none() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let (of_ada, _) = bed.key(&ada, &["*"]).await;
    let (of_bob, secret) = bed.key(&bob, &["search:view", "keys:view:own"]).await;
    let listed = async |token: &str| {
        let answer = bed
            .ask(Some(token), "{ apiKeys(orderBy: [{ field: CREATED_AT }]) { nodes { id } totalCount } }", json!({}))
            .await;
        let nodes = answer["data"]["apiKeys"]["nodes"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        assert_eq!(answer["data"]["apiKeys"]["totalCount"], nodes.len());
        nodes.into_iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Twice: what is kept for one is not shown to another.
    for _ in 0..2 {
        assert_eq!(listed(&ada.access).await, [of_ada.clone(), of_bob.clone()]);
        assert_eq!(listed(&bob.access).await, std::slice::from_ref(&of_bob));
        assert_eq!(listed(&secret).await, std::slice::from_ref(&of_bob));
        assert_eq!(listed(&eve.access).await, Vec::<String>::new());
    }
    let query = "query($id: ID!) { apiKey(id: $id) { id } node(id: $id) { id } }";
    for (token, id, seen) in [
        (&ada.access, &of_bob, true),
        (&bob.access, &of_ada, false),
        (&secret, &of_ada, false),
        (&eve.access, &of_bob, false),
    ] {
        let found = bed.ask(Some(token), query, json!({ "id": id })).await;
        let expected = if seen { json!({ "id": id }) } else { Value::Null };
        assert_eq!(found["data"], json!({ "apiKey": expected, "node": expected }), "{found}");
    }
    assert_eq!(Bed::problems(&revoke(&bed, &eve, &of_bob).await), ["NOT_FOUND"]);
}

#[tokio::test]
async fn what_a_key_follows_ends_with_it_and_with_its_secret() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let follow = |secret: &str, query: &str| {
        let request = operation(Request::new(query)).unwrap();
        bed.endpoint.execute_stream(request, bed.caller(Some(secret)).unwrap())
    };
    let patience = Duration::from_secs(60);
    for how in ["revoked", "rotated"] {
        let (key, secret) = bed.key(&ada, &["projects:view", "events:view"]).await;
        let mut live = follow(&secret, "subscription { live { projects { totalCount } } }");
        let mut events = follow(&secret, "subscription { events { type } }");
        let first = tokio::time::timeout(patience, live.next()).await.unwrap().unwrap().text();
        assert!(first.contains("totalCount"), "{first}");
        let ending = async {
            match how {
                "revoked" => drop(revoke(&bed, &ada, &key).await),
                _ => drop(rotate(&bed, &ada, &key, 0).await),
            }
        };
        let (heard, ()) = futures::join!(
            async {
                // An event may come first: that of the key itself.
                let mut last = String::new();
                while let Some(answer) = tokio::time::timeout(patience, events.next()).await.unwrap() {
                    last = answer.text().to_string();
                }
                last
            },
            ending
        );
        assert!(heard.contains("UNAUTHENTICATED"), "{how}: {heard}");
        let last = tokio::time::timeout(patience, live.next()).await.unwrap().unwrap().text();
        assert!(last.contains("UNAUTHENTICATED"), "{how}: {last}");
        assert!(tokio::time::timeout(patience, live.next()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn when_a_key_was_last_used_is_known_to_a_minute() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let (key, secret) = bed.key(&ada, &["search:view"]).await;
    let used = async || {
        let query = "query($id: ID!) { apiKey(id: $id) { lastUsedAt } }";
        bed.ask(Some(&ada.access), query, json!({ "id": key })).await["data"]["apiKey"]["lastUsedAt"].clone()
    };
    assert_eq!(used().await, Value::Null);
    // It is written beside what is answered.
    let known = async |before: &Value| {
        let begun = std::time::Instant::now();
        loop {
            let now = used().await;
            if now != *before {
                return now;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the use was not noted");
            tokio::task::yield_now().await;
        }
    };
    assert!(is_good(&bed, &secret).await);
    let first = known(&Value::Null).await;
    bed.clock.advance(Duration::from_secs(59));
    assert!(is_good(&bed, &secret).await);
    assert_eq!(used().await, first);
    bed.clock.advance(Duration::from_secs(1));
    assert!(is_good(&bed, &secret).await);
    assert_ne!(known(&first).await, first);
}

#[tokio::test]
async fn a_key_is_changed_to_less_at_once() {
    const CHANGED: &str = "apiKey { name scopes expiresAt version } userErrors { code path message }";
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let (id, secret) = bed.key(&ada, &["projects:*", "documents:view"]).await;
    let create = "mutation { projectCreate(input: { key: \"K1\", name: \"One\" }) { userErrors { code } } }";
    let made = bed.ask(Some(&secret), create, json!({})).await;
    assert_eq!(made["data"]["projectCreate"]["userErrors"], json!([]), "{made}");
    let update = async |input: Value| bed.mutate(Some(&ada.access), "apiKeyUpdate", input, CHANGED).await;
    let wider = json!({ "id": id, "scopes": ["*"] });
    assert_eq!(Bed::problems(&update(wider).await), ["FORBIDDEN input.scopes"]);
    let stale = json!({ "id": id, "name": "Reader", "expectedVersion": 7 });
    assert_eq!(Bed::problems(&update(stale).await), ["CONFLICT input.expectedVersion"]);
    let narrower = json!({ "id": id, "name": "Reader", "scopes": ["projects:view"], "expectedVersion": 1 });
    let changed = update(narrower).await["apiKey"].take();
    assert_eq!(changed, json!({ "name": "Reader", "scopes": ["projects:view"], "expiresAt": null, "version": 2 }));
    let refused = bed.ask(Some(&secret), create, json!({})).await;
    assert_eq!(refused["data"]["projectCreate"]["userErrors"], json!([{ "code": "FORBIDDEN" }]), "{refused}");
    let read = bed.ask(Some(&secret), "{ projects { totalCount } }", json!({})).await;
    assert_eq!(read["data"]["projects"]["totalCount"], 1, "{read}");

    let ends = bed.endpoint.services().engine.now() + Duration::from_secs(60);
    assert_eq!(update(json!({ "id": id, "expiresAt": ends })).await["userErrors"], json!([]));
    bed.clock.advance(Duration::from_secs(61));
    let ended = bed.ask(Some(&secret), "{ projects { totalCount } }", json!({})).await;
    assert_eq!(Bed::code(&ended), "UNAUTHENTICATED");
    assert_eq!(Bed::problems(&update(json!({ "id": id, "expiresAt": null })).await), ["EXPIRED"]);
}
