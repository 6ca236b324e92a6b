//! What the operator says holds for everybody at once, and what is on for whom is nobody else's to know.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_graphql::Request;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::testing::{Bed, PASSWORD, SIGNED_IN, operation};

const SETTINGS: &str = "settings { registration notice maintenance } userErrors { code path message }";
const FEATURE: &str =
    "feature { key description enabled overrides { organizationId enabled } } userErrors { code path }";
/// What everybody is told.
const TOLD: &str = "{ installation { notice maintenance registrationOpen } }";

async fn told(bed: &Bed, token: Option<&str>) -> Value {
    bed.ask(token, TOLD, json!({})).await["data"]["installation"].clone()
}

#[tokio::test]
async fn settings_hold_for_everybody_at_once_and_are_the_operators() {
    let bed = Bed::new().await;
    let operator = bed.register("First", "operator@example.org").await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let before = json!({ "notice": null, "maintenance": false, "registrationOpen": true });
    for token in [None, Some(&*ada.access)] {
        assert_eq!(told(&bed, token).await, before);
    }
    let notice = json!({ "notice": "Back at noon.", "registration": "INVITE" });
    let denied = bed.mutate(Some(&ada.access), "installationUpdate", notice.clone(), SETTINGS).await;
    assert_eq!(Bed::problems(&denied), ["FORBIDDEN"]);
    let wrong = bed.mutate(Some(&operator.access), "installationUpdate", json!({ "notice": "" }), SETTINGS).await;
    assert_eq!(Bed::problems(&wrong), ["REQUIRED input.notice"]);
    let done = bed.mutate(Some(&operator.access), "installationUpdate", notice, SETTINGS).await;
    let expected = json!({ "registration": "INVITE", "notice": "Back at noon.", "maintenance": false });
    assert_eq!((&done["settings"], &done["userErrors"]), (&expected, &json!([])));
    for token in [None, Some(&*ada.access)] {
        let expected = json!({ "notice": "Back at noon.", "maintenance": false, "registrationOpen": false });
        assert_eq!(told(&bed, token).await, expected);
    }
    let new = json!({ "organizationName": "Looms", "email": "bob@example.org", "name": "Bob", "password": PASSWORD });
    let closed = bed.mutate(None, "register", new.clone(), SIGNED_IN).await;
    assert_eq!(Bed::problems(&closed), ["FORBIDDEN"]);

    // What is left out stays; null is as if it had never been set.
    let input = json!({ "registration": null });
    let done = bed.mutate(Some(&operator.access), "installationUpdate", input, SETTINGS).await;
    assert_eq!(done["settings"], json!({ "registration": null, "notice": "Back at noon.", "maintenance": false }));
    let done = bed.mutate(None, "register", new, SIGNED_IN).await;
    assert_eq!(Bed::problems(&done), Vec::<String>::new());

    let query = "{ system { settings { registration notice maintenance }
        changes(last: 10) { totalCount nodes { type data actor { ... on Member { id } } } } } }";
    let seen = bed.ask(Some(&operator.access), query, json!({})).await;
    let system = &seen["data"]["system"];
    assert_eq!(system["settings"], done_settings(), "{seen}");
    let change = |kind: &str, data: Value| json!({ "type": kind, "data": data, "actor": { "id": operator.member } });
    let expected = [
        change("installation_registration_set", json!({ "registration": "invite" })),
        change("installation_notice_set", json!({ "notice": "Back at noon." })),
        change("installation_registration_set", json!({ "registration": null })),
    ];
    assert_eq!(system["changes"], json!({ "totalCount": 3, "nodes": expected }));
    let denied = bed.ask(Some(&ada.access), query, json!({})).await;
    assert_eq!((Bed::code(&denied), &denied["data"]), ("FORBIDDEN", &json!({ "system": null })));
}

fn done_settings() -> Value {
    json!({ "registration": null, "notice": "Back at noon.", "maintenance": false })
}

#[tokio::test]
async fn under_maintenance_only_operators_change_anything_and_everybody_reads() {
    let bed = Bed::new().await;
    let operator = bed.register("First", "operator@example.org").await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let (_, key) = bed.key(&ada, &["projects:create"]).await;
    let on = |on: bool| json!({ "maintenance": on });
    let project = |key: &str| {
        format!("mutation {{ projectCreate(input: {{ name: \"A\", key: \"{key}\" }}) {{ userErrors {{ code }} }} }}")
    };
    bed.mutate(Some(&operator.access), "installationUpdate", on(true), SETTINGS).await;
    for (token, name) in [(&ada.access, "ADA"), (&key, "KEY")] {
        let refused = bed.ask(Some(token), &project(name), json!({})).await;
        assert_eq!(
            (Bed::code(&refused), &refused["data"]["projectCreate"]),
            ("MAINTENANCE", &json!(null)),
            "{refused}"
        );
    }
    let register = "mutation($input: RegisterInput!) { register(input: $input) { userErrors { code } } }";
    let new = json!({ "organizationName": "Looms", "email": "bob@example.org", "name": "Bob", "password": PASSWORD });
    assert_eq!(Bed::code(&bed.ask(None, register, json!({ "input": new })).await), "MAINTENANCE");
    let seen = bed.ask(Some(&ada.access), "{ projects { totalCount } }", json!({})).await;
    assert_eq!(seen["data"]["projects"]["totalCount"], 0);
    let login = json!({ "email": "ada@example.org", "password": PASSWORD });
    let signed_in = bed.mutate(None, "login", login, SIGNED_IN).await;
    assert_eq!(Bed::problems(&signed_in), Vec::<String>::new());
    let made = bed.ask(Some(&operator.access), &project("OPS"), json!({})).await;
    assert_eq!(made["data"]["projectCreate"]["userErrors"], json!([]));

    bed.mutate(Some(&operator.access), "installationUpdate", on(false), SETTINGS).await;
    let made = bed.ask(Some(&ada.access), &project("ADA"), json!({})).await;
    assert_eq!(made["data"]["projectCreate"]["userErrors"], json!([]), "{made}");
}

#[tokio::test]
async fn a_feature_is_on_for_whom_it_is_said_to_be_and_who_follows_it_hears_of_it() {
    let bed = Bed::new().await;
    let operator = bed.register("First", "operator@example.org").await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.register("Looms", "bob@example.org").await;
    let query = "{ viewer { features editor: feature(key: \"editor\") other: feature(key: \"nothing\") } }";
    let seen = async |token: &str| bed.ask(Some(token), query, json!({})).await["data"]["viewer"].clone();
    let off = json!({ "features": [], "editor": false, "other": false });
    let on = json!({ "features": ["editor"], "editor": true, "other": false });
    assert_eq!(seen(&ada.access).await, off);

    let followed = operation(Request::new("subscription { live { viewer { features } } }")).unwrap();
    let mut answers = bed.endpoint.execute_stream(followed, bed.caller(Some(&ada.access)).unwrap());
    let mut next = async || {
        let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await.unwrap().unwrap();
        let mut data = serde_json::from_str::<Value>(answer.data.unwrap().json()).unwrap();
        data["live"]["viewer"]["features"].take()
    };
    assert_eq!(next().await, json!([]));

    let set = json!({ "key": "editor", "description": "The editor of this year.", "enabled": false });
    let denied = bed.mutate(Some(&ada.access), "featureSet", set.clone(), FEATURE).await;
    assert_eq!(Bed::problems(&denied), ["FORBIDDEN"]);
    let wrong = json!({ "key": "A B", "description": "x".repeat(501), "enabled": true });
    let wrong = bed.mutate(Some(&operator.access), "featureSet", wrong, FEATURE).await;
    assert_eq!(Bed::problems(&wrong), ["INVALID input.key", "TOO_LONG input.description"]);
    let made = bed.mutate(Some(&operator.access), "featureSet", set, FEATURE).await;
    assert_eq!((&made["feature"]["key"], &made["feature"]["overrides"]), (&json!("editor"), &json!([])), "{made}");

    let for_ada = |enabled: Value| json!({ "key": "editor", "organizationId": ada.organization, "enabled": enabled });
    let nobody = json!({ "key": "editor", "organizationId": "org_00000000000000000000000009", "enabled": true });
    let nobody = bed.mutate(Some(&operator.access), "featureOverride", nobody, FEATURE).await;
    assert_eq!(Bed::problems(&nobody), ["NOT_FOUND input.organizationId"]);
    let said = bed.mutate(Some(&operator.access), "featureOverride", for_ada(json!(true)), FEATURE).await;
    let overrides = json!([{ "organizationId": ada.organization, "enabled": true }]);
    assert_eq!(said["feature"]["overrides"], overrides, "{said}");
    assert_eq!(next().await, json!(["editor"]));
    assert_eq!((seen(&ada.access).await, seen(&bob.access).await), (on.clone(), off.clone()));

    // For everybody; what was said for one stays until it is taken back.
    let everybody = json!({ "key": "editor", "enabled": true });
    bed.mutate(Some(&operator.access), "featureSet", everybody, FEATURE).await;
    bed.mutate(Some(&operator.access), "featureOverride", for_ada(json!(false)), FEATURE).await;
    assert_eq!((seen(&ada.access).await, seen(&bob.access).await), (off.clone(), on.clone()));
    let back = bed.mutate(Some(&operator.access), "featureOverride", for_ada(json!(null)), FEATURE).await;
    assert_eq!(back["feature"]["overrides"], json!([]));
    assert_eq!(seen(&ada.access).await, on);
    let removed = bed.mutate(Some(&operator.access), "featureRemove", json!({ "key": "editor" }), FEATURE).await;
    assert_eq!((&removed["feature"], &removed["userErrors"]), (&json!(null), &json!([])));
    assert_eq!(seen(&bob.access).await, off);
    let again = bed.mutate(Some(&operator.access), "featureRemove", json!({ "key": "editor" }), FEATURE).await;
    assert_eq!(Bed::problems(&again), ["NOT_FOUND input.key"]);
    let listed = bed.ask(Some(&operator.access), "{ system { features { key } changes { totalCount } } }", json!({}));
    assert_eq!(listed.await["data"]["system"], json!({ "features": [], "changes": { "totalCount": 6 } }));
}
