//! Roles that an organisation makes, what is granted besides, and why somebody may do something.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_graphql::Request;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::documents::tests::{document, project};
use crate::testing::{Bed, Person, operation};

const ERRORS: &str = "userErrors { code message path }";
const ROLE: &str =
    "role { id name description permissions operations builtIn version } userErrors { code message path }";
const EXPLAIN: &str = "query($permission: String!, $member: ID, $key: ID) {
    explainAccess(permission: $permission, memberId: $member, apiKeyId: $key) {
        allowed reach reason scopes rolesThatAllow
        grants { permission source reach role { name } grantedBy { ... on Member { id } } } } }";

async fn make(bed: &Bed, by: &Person, name: &str, permissions: &[&str]) -> String {
    let input = json!({ "name": name, "permissions": permissions });
    let made = bed.mutate(Some(&by.access), "roleCreate", input, ROLE).await;
    made["role"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

async fn change(bed: &Bed, by: &str, field: &str, input: Value) -> Vec<String> {
    Bed::problems(&bed.mutate(Some(by), field, input, ERRORS).await)
}

async fn give(bed: &Bed, by: &Person, to: &Person, roles: &[&str]) -> Vec<String> {
    change(bed, &by.access, "memberUpdate", json!({ "id": to.member, "roles": roles })).await
}

async fn permissions(bed: &Bed, of: &Person) -> Value {
    bed.ask(Some(&of.access), "{ viewer { permissions } }", json!({})).await["data"]["viewer"]["permissions"].clone()
}

const NONE: Vec<String> = Vec::new();

#[tokio::test]
async fn a_role_is_made_given_changed_and_deleted_and_holds_at_once() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["viewer"]).await;
    let auditor = make(&bed, &ada, "Auditor", &["events:view", "events:view", "documents:view"]).await;
    assert_eq!(give(&bed, &ada, &bob, &["auditor"]).await, NONE);
    assert_eq!(permissions(&bed, &bob).await, json!(["documents:view", "events:view"]));
    let shown = "{ viewer { member { roles { id name permissions builtIn } } } }";
    let roles = json!([{ "id": auditor, "name": "Auditor", "permissions": ["documents:view", "events:view"], "builtIn": false }]);
    let answer = bed.ask(Some(&bob.access), shown, json!({})).await;
    assert_eq!(answer["data"]["viewer"]["member"]["roles"], roles, "{answer}");
    let list = "{ members { nodes { roles { id name permissions builtIn } } } }";
    let members = bed.ask(Some(&ada.access), list, json!({})).await;
    assert_eq!(members["data"]["members"]["nodes"][1]["roles"], roles, "{members}");

    // What follows the role follows its changes.
    let live = operation(Request::new("subscription { live { documents { totalCount } } }")).unwrap();
    let mut live = bed.endpoint.execute_stream(live, bed.caller(Some(&bob.access)).unwrap());
    let mut heard = async || tokio::time::timeout(Duration::from_secs(60), live.next()).await.unwrap().unwrap().text();
    assert!(heard().await.contains("totalCount"));
    let less = json!({ "id": auditor, "permissions": ["events:view", "members:view"], "name": "Witness" });
    let changed = bed.mutate(Some(&ada.access), "roleUpdate", less, ROLE).await;
    assert_eq!((&changed["role"]["name"], &changed["role"]["version"]), (&json!("Witness"), &json!(2)));
    assert!(heard().await.contains("FORBIDDEN"));
    assert_eq!(permissions(&bed, &bob).await, json!(["events:view", "members:view"]));
    assert_eq!(change(&bed, &ada.access, "roleDelete", json!({ "id": auditor })).await, NONE);
    assert_eq!(permissions(&bed, &bob).await, json!([]));
    assert_eq!(change(&bed, &ada.access, "roleDelete", json!({ "id": auditor })).await, ["NOT_FOUND"]);
    assert_eq!(give(&bed, &ada, &bob, &["Witness"]).await, ["INVALID input.roles"]);
    assert_eq!(give(&bed, &ada, &bob, &[&auditor]).await, ["INVALID input.roles"]);
}

#[tokio::test]
async fn a_live_query_shows_again_what_may_be_seen_again() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["viewer"]).await;
    let carol = bed.join(&ada, "carol@example.org", &["viewer"]).await;
    project(&bed, &ada, "ATLAS").await;
    let set = async |of: &Person, field: &str| {
        let input = json!({ "id": of.member, "permission": "projects:view" });
        assert_eq!(change(&bed, &ada.access, field, input).await, NONE);
    };
    set(&bob, "memberPermissionGrant").await;
    set(&carol, "memberPermissionGrant").await;
    let follow = |who: &Person| {
        let live = operation(Request::new("subscription { live { projects { totalCount } } }")).unwrap();
        bed.endpoint.execute_stream(live, bed.caller(Some(&who.access)).unwrap())
    };
    let (mut hers, mut his) = (follow(&carol), follow(&bob));
    let patience = Duration::from_secs(60);
    let first = tokio::time::timeout(patience, hers.next()).await.unwrap().unwrap().text();
    assert!(first.contains("\"totalCount\":1"), "{first}");
    // Hers goes on, unchanged: his is hers again, which was read before what he saw in between.
    for (field, count) in [("", 1), ("memberPermissionRevoke", 0), ("memberPermissionGrant", 1)] {
        if !field.is_empty() {
            set(&bob, field).await;
        }
        let heard = tokio::time::timeout(patience, his.next()).await.unwrap().unwrap().text();
        assert!(heard.contains(&format!("\"totalCount\":{count}")), "{field}: {heard}");
    }
}

#[tokio::test]
async fn built_in_and_made_roles_are_listed_and_found_alike() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    make(&bed, &ada, "Auditor", &["events:view"]).await;
    let listed = async |who: &Person| {
        let answer = bed.ask(Some(&who.access), "{ roles { id name builtIn } }", json!({})).await;
        answer["data"]["roles"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    };
    let (here, there) = (listed(&ada).await, listed(&eve).await);
    let names: Vec<_> = here.iter().map(|role| role["name"].as_str().unwrap()).collect();
    let built_in = ["owner", "admin", "moderator", "operator", "report_manager", "report_viewer", "member", "viewer"];
    assert_eq!(names, [&built_in[..], &["Auditor"]].concat());
    assert_eq!(there.len(), built_in.len());
    let query = "query($id: ID!) { role(id: $id) { name } node(id: $id) { id } }";
    for role in &here {
        let found = bed.ask(Some(&ada.access), query, json!({ "id": role["id"] })).await;
        assert_eq!(found["data"], json!({ "role": { "name": role["name"] }, "node": { "id": role["id"] } }), "{found}");
        let hidden = bed.ask(Some(&eve.access), query, json!({ "id": role["id"] })).await;
        assert_eq!(hidden["data"], json!({ "role": null, "node": null }));
    }
    let admin = &here[1]["id"];
    let update = json!({ "id": admin, "permissions": ["*"] });
    assert_eq!(change(&bed, &ada.access, "roleUpdate", update.clone()).await, ["CONFLICT"]);
    assert_eq!(change(&bed, &eve.access, "roleUpdate", update).await, ["NOT_FOUND"]);
    assert_eq!(change(&bed, &eve.access, "roleDelete", json!({ "id": here[8]["id"] })).await, ["NOT_FOUND"]);
    let taken = json!({ "name": "auditor", "permissions": [] });
    assert_eq!(change(&bed, &ada.access, "roleCreate", taken).await, ["TAKEN input.name"]);
    let built_in = json!({ "name": "Admin", "permissions": ["dragons:view"] });
    assert_eq!(
        change(&bed, &ada.access, "roleCreate", built_in).await,
        ["TAKEN input.name", "INVALID input.permissions"]
    );
}

#[tokio::test]
async fn nobody_gets_more_by_a_role_or_a_grant() {
    let bed = Bed::new().await;
    bed.register("First", "superadmin@example.org").await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let admin = bed.join(&ada, "admin@example.org", &["admin"]).await;
    let bob = bed.join(&ada, "bob@example.org", &["viewer"]).await;
    // Looks after roles and members, and has little else.
    let steward = make(&bed, &ada, "Steward", &["roles:*", "members:*", "documents:view"]).await;
    assert_eq!(give(&bed, &ada, &bob, &[&steward]).await, NONE);
    for more in ["documents:edit", "documents:*", "*:view", "projects:create"] {
        let create = json!({ "name": "More", "permissions": [more] });
        assert_eq!(change(&bed, &bob.access, "roleCreate", create).await, ["FORBIDDEN input.permissions"], "{more}");
        let own = json!({ "id": steward, "permissions": ["roles:*", "members:*", "documents:view", more] });
        assert_eq!(change(&bed, &bob.access, "roleUpdate", own).await, ["FORBIDDEN input.permissions"], "{more}");
        let grant = json!({ "id": bob.member, "permission": more });
        let refused = change(&bed, &bob.access, "memberPermissionGrant", grant).await;
        assert_eq!(refused, ["FORBIDDEN input.permission"], "{more}");
    }
    assert_eq!(give(&bed, &bob, &bob, &["admin"]).await, ["FORBIDDEN input.roles"]);
    assert_eq!(give(&bed, &bob, &bob, &["Steward", "viewer"]).await, ["FORBIDDEN input.roles"]);
    assert_eq!(give(&bed, &bob, &bob, &["owner"]).await, ["INVALID input.roles"]);
    let invite = json!({ "email": "friend@example.org", "roles": ["admin"] });
    assert_eq!(change(&bed, &bob.access, "memberInvite", invite).await, ["FORBIDDEN input.roles"]);
    assert_eq!(permissions(&bed, &bob).await, json!(["documents:view", "members:*", "roles:*"]));
    // What is the owner's alone, and what is the installation's.
    for (who, alone) in
        [(&ada, "organization:manage"), (&ada, "*"), (&admin, "organization:delete"), (&ada, "system:view")]
    {
        let create = json!({ "name": "Deputy", "permissions": [alone] });
        assert_eq!(change(&bed, &who.access, "roleCreate", create).await, ["FORBIDDEN input.permissions"], "{alone}");
        let grant = json!({ "id": bob.member, "permission": alone });
        let refused = change(&bed, &who.access, "memberPermissionGrant", grant).await;
        assert_eq!(refused, ["FORBIDDEN input.permission"], "{alone}");
    }
    // A key has its scopes and no more, whatever roles its owner may change and has.
    let (_, secret) = bed.key(&ada, &["roles:*", "members:*"]).await;
    let widened = json!({ "id": steward, "permissions": ["documents:edit", "roles:*", "members:*"] });
    assert_eq!(change(&bed, &secret, "roleUpdate", widened).await, ["FORBIDDEN input.permissions"]);
    let promoted = json!({ "id": bob.member, "roles": ["admin"] });
    assert_eq!(change(&bed, &secret, "memberUpdate", promoted).await, ["FORBIDDEN input.roles"]);
    let granted = json!({ "id": bob.member, "permission": "events:view" });
    assert_eq!(change(&bed, &secret, "memberPermissionGrant", granted).await, ["FORBIDDEN input.permission"]);
    let narrowed = json!({ "id": steward, "permissions": ["documents:view"] });
    assert_eq!(change(&bed, &secret, "roleUpdate", narrowed).await, NONE);
    assert_eq!(permissions(&bed, &bob).await, json!(["documents:view"]));
}

#[tokio::test]
async fn a_permission_is_granted_besides_and_says_when_and_by_whom() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["viewer"]).await;
    let grant = json!({ "id": bob.member, "permission": "events:view" });
    let fields =
        "member { grants { permission grantedAt grantedBy { ... on Member { id } } } } userErrors { code path }";
    let granted = bed.mutate(Some(&ada.access), "memberPermissionGrant", grant.clone(), fields).await;
    let shown = &granted["member"]["grants"][0];
    assert_eq!(
        (&shown["permission"], &shown["grantedBy"]["id"]),
        (&json!("events:view"), &json!(ada.member)),
        "{granted}"
    );
    assert!(shown["grantedAt"].as_str().is_some_and(|at| at.starts_with("2027-")), "{granted}");
    assert!(bed.ask(Some(&bob.access), "{ events { totalCount } }", json!({})).await.get("errors").is_none());
    let twice = bed.mutate(Some(&ada.access), "memberPermissionGrant", grant.clone(), fields).await;
    assert_eq!(twice["member"]["grants"].as_array().map(Vec::len), Some(1));
    let revoked = bed.mutate(Some(&ada.access), "memberPermissionRevoke", grant, fields).await;
    assert_eq!(revoked["member"]["grants"], json!([]));
    assert_eq!(Bed::code(&bed.ask(Some(&bob.access), "{ events { totalCount } }", json!({})).await), "FORBIDDEN");
    let unknown = json!({ "id": bob.member, "permission": "dragons:view" });
    assert_eq!(change(&bed, &ada.access, "memberPermissionGrant", unknown).await, ["INVALID input.permission"]);
    let owner = json!({ "id": ada.member, "permission": "events:view" });
    assert_eq!(change(&bed, &ada.access, "memberPermissionGrant", owner).await, ["CONFLICT"]);
}

#[tokio::test]
async fn can_says_what_would_be_let() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let shared = project(&bed, &ada, "SHARED").await;
    let hidden = project(&bed, &ada, "HIDDEN").await;
    let own = project(&bed, &bob, "OWN").await;
    let added = json!({ "id": shared, "memberId": bob.member });
    assert_eq!(change(&bed, &ada.access, "projectMemberAdd", added).await, NONE);
    let (theirs, mine) =
        (document(&bed, &ada, &shared, "a.txt", "A.").await, document(&bed, &bob, &shared, "b.txt", "B.").await);
    let (_, secret) = bed.key(&bob, &["documents:delete:own", "documents:view:own", "projects:view:own"]).await;
    let can = async |token: &str, permission: &str, subject: Option<&str>| {
        let query = "query($permission: String!, $subject: ID) { can(permission: $permission, subject: $subject) }";
        let answer = bed.ask(Some(token), query, json!({ "permission": permission, "subject": subject })).await;
        answer["data"]["can"].as_bool().unwrap_or_else(|| panic!("{answer}"))
    };
    for (token, permission, subject, expected) in [
        (&ada.access, "documents:delete", None, true),
        (&ada.access, "system:manage", None, true),
        (&eve.access, "system:manage", None, false),
        (&ada.access, "documents:delete", Some(&mine), true),
        (&bob.access, "events:view", None, false),
        (&bob.access, "documents:delete", None, true),
        (&bob.access, "documents:delete", Some(&mine), true),
        (&bob.access, "documents:delete", Some(&theirs), false),
        (&bob.access, "documents:view", Some(&theirs), true),
        (&bob.access, "projects:edit", Some(&own), true),
        (&bob.access, "projects:edit", Some(&shared), false),
        (&bob.access, "projects:view", Some(&hidden), false),
        (&eve.access, "documents:view", Some(&mine), false),
        (&secret, "documents:delete", Some(&mine), true),
        (&secret, "documents:delete", Some(&theirs), false),
        (&secret, "documents:create", None, false),
        (&secret, "projects:edit", Some(&own), false),
    ] {
        let subject = subject.map(String::as_str);
        assert_eq!(can(token, permission, subject).await, expected, "{permission} {subject:?}");
    }
    // It is what an operation is told.
    let deleted = change(&bed, &secret, "documentDelete", json!({ "id": theirs })).await;
    assert_eq!(deleted, ["FORBIDDEN"]);
    assert_eq!(change(&bed, &secret, "documentDelete", json!({ "id": mine })).await, NONE);
    let unknown = bed.ask(Some(&ada.access), "{ can(permission: \"dragons:ride\") }", json!({})).await;
    assert_eq!(Bed::code(&unknown), "BAD_REQUEST");
}

#[tokio::test]
async fn access_is_explained_by_what_gives_it() {
    let bed = Bed::new().await;
    let first = bed.register("First", "superadmin@example.org").await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["viewer"]).await;
    let explain = async |by: &str, permission: &str, member: Option<&str>, key: Option<&str>| {
        let variables = json!({ "permission": permission, "member": member, "key": key });
        let answer = bed.ask(Some(by), EXPLAIN, variables).await;
        assert_eq!(answer.get("errors"), None, "{answer}");
        answer["data"]["explainAccess"].clone()
    };
    let reader = make(&bed, &ada, "Reader", &["documents:view"]).await;
    assert_eq!(give(&bed, &ada, &bob, &["viewer", &reader]).await, NONE);
    let grant = json!({ "id": bob.member, "permission": "documents:*:own" });
    assert_eq!(change(&bed, &ada.access, "memberPermissionGrant", grant).await, NONE);
    let why = explain(&ada.access, "documents:view", Some(&bob.member), None).await;
    assert_eq!((&why["allowed"], &why["reach"]), (&json!(true), &json!("ALL")));
    assert_eq!(
        why["grants"],
        json!([
            { "permission": "documents:view", "source": "ROLE", "reach": "ALL", "role": { "name": "Reader" }, "grantedBy": null },
            { "permission": "documents:view:own", "source": "ROLE", "reach": "OWN", "role": { "name": "viewer" }, "grantedBy": null },
            { "permission": "documents:*:own", "source": "DIRECT", "reach": "OWN", "role": null, "grantedBy": { "id": ada.member } },
        ])
    );
    let why_not = explain(&ada.access, "events:view", Some(&bob.member), None).await;
    assert_eq!((&why_not["allowed"], &why_not["grants"]), (&json!(false), &json!([])));
    assert_eq!(why_not["rolesThatAllow"], json!(["owner", "admin"]));
    assert_eq!(why_not["reason"], "None of the member's roles and grants allows `events:view`.");
    let operates = explain(&first.access, "system:manage", None, None).await;
    assert_eq!((&operates["allowed"], &operates["grants"][0]["source"]), (&json!(true), &json!("OPERATOR")));
    let own = explain(&bob.access, "documents:view", None, None).await;
    assert_eq!(own["allowed"], json!(true));
    let others = json!({ "permission": "documents:view", "member": ada.member });
    assert_eq!(Bed::code(&bed.ask(Some(&bob.access), EXPLAIN, others).await), "FORBIDDEN");
    let does_not = explain(&ada.access, "system:manage", None, None).await;
    assert_eq!(does_not["allowed"], json!(false));

    let (key, secret) = bed.key(&ada, &["documents:view", "roles:view"]).await;
    let of_key = explain(&ada.access, "documents:view", None, Some(&key)).await;
    assert_eq!((&of_key["allowed"], &of_key["scopes"]), (&json!(true), &json!(["documents:view"])));
    assert_eq!(explain(&secret, "documents:view", None, None).await, of_key);
    let too_far = explain(&secret, "documents:edit", None, None).await;
    assert_eq!((&too_far["allowed"], &too_far["grants"][0]["permission"]), (&json!(false), &json!("*")));
    assert!(too_far["reason"].as_str().unwrap().contains("none of the key's scopes"), "{too_far}");
    assert_eq!(change(&bed, &ada.access, "apiKeyRevoke", json!({ "id": key })).await, NONE);
    let revoked = explain(&ada.access, "documents:view", None, Some(&key)).await;
    assert_eq!((&revoked["allowed"], &revoked["reason"]), (&json!(false), &json!("The key was revoked.")));
    assert_eq!(change(&bed, &ada.access, "memberSuspend", json!({ "id": bob.member })).await, NONE);
    let suspended = explain(&ada.access, "documents:view", Some(&bob.member), None).await;
    assert_eq!((&suspended["allowed"], &suspended["reach"]), (&json!(false), &Value::Null));
    // Of another organization nothing is explained.
    assert_eq!(explain(&first.access, "documents:view", Some(&bob.member), None).await, Value::Null);
    assert_eq!(explain(&first.access, "documents:view", None, Some(&key)).await, Value::Null);
}
