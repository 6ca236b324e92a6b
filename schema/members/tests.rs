#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::documents::tests::project;
use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

const MEMBER: &str = "member { id status version roles { name } user { name email } } invitationToken userErrors { code path message } position";
const WHO: &str = "{ viewer { member { id roles { name } } } }";

async fn invite(bed: &Bed, by: &Person, email: &str, role: &str) -> Value {
    bed.mutate(Some(&by.access), "memberInvite", json!({ "email": email, "roles": [role] }), MEMBER).await
}

async fn accept(bed: &Bed, token: &Value, password: &str) -> Value {
    bed.mutate(None, "memberAccept", json!({ "token": token, "name": "Bob", "password": password }), SIGNED_IN).await
}

async fn change(bed: &Bed, by: &Person, field: &str, id: &str) -> Value {
    bed.mutate(Some(&by.access), field, json!({ "id": id }), MEMBER).await
}

#[tokio::test]
async fn an_invited_person_joins_with_the_roles_they_were_given() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let invited = invite(&bed, &ada, "Bob@example.org", "viewer").await;
    assert_eq!(invited["member"]["status"], "INVITED");
    assert_eq!(invited["member"]["user"]["name"], "Bob@example.org");
    assert_eq!(Bed::problems(&invite(&bed, &ada, "bob@example.org", "viewer").await), ["TAKEN input.email"]);
    let joined = accept(&bed, &invited["invitationToken"], PASSWORD).await;
    let bob = Person::of(&joined);
    assert_eq!(
        (&bob.organization, joined["viewer"]["member"]["id"].as_str().unwrap()),
        (&ada.organization, invited["member"]["id"].as_str().unwrap())
    );
    assert_eq!(joined["viewer"]["member"]["roles"], json!([{ "name": "viewer" }]));
    let listed = bed
        .ask(
            Some(&bob.access),
            "{ members { totalCount nodes { user { email } } } organization { memberCount } }",
            json!({}),
        )
        .await;
    assert_eq!(listed["data"]["members"]["totalCount"], 2, "{listed}");
    assert_eq!(listed["data"]["organization"]["memberCount"], 2);
    // A viewer may not invite.
    assert_eq!(Bed::problems(&invite(&bed, &bob, "eve@example.org", "viewer").await), ["FORBIDDEN"]);
    let signed_in =
        bed.mutate(None, "login", json!({ "email": "bob@example.org", "password": PASSWORD }), SIGNED_IN).await;
    assert_eq!(Person::of(&signed_in).user, bob.user);
}

#[tokio::test]
async fn an_invitation_holds_for_its_address_its_time_and_once() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;

    // Somebody who has an account shows its password.
    let invited = invite(&bed, &ada, "eve@example.org", "member").await;
    let refused = accept(&bed, &invited["invitationToken"], "another-otter-93-lamp").await;
    assert_eq!(Bed::problems(&refused), ["INVALID_CREDENTIALS input.password"]);
    let joined = Person::of(&accept(&bed, &invited["invitationToken"], PASSWORD).await);
    assert_eq!((&joined.user, &joined.organization), (&eve.user, &ada.organization));

    // Nobody made up a token.
    let forged = format!("{}x", invited["invitationToken"].as_str().unwrap());
    for token in ["", "x", "mbr_x.1.y", &forged] {
        assert_eq!(Bed::problems(&accept(&bed, &json!(token), PASSWORD).await), ["EXPIRED input.token"]);
    }

    // Somebody new has to say what they are called.
    let invited = invite(&bed, &ada, "new@example.org", "member").await;
    let unnamed = json!({ "token": invited["invitationToken"], "password": "short" });
    let refused = bed.mutate(None, "memberAccept", unnamed, SIGNED_IN).await;
    assert_eq!(Bed::problems(&refused), ["REQUIRED input.name", "WEAK_PASSWORD input.password"]);

    // Withdrawn, or too late.
    change(&bed, &ada, "memberRemove", invited["member"]["id"].as_str().unwrap()).await;
    assert_eq!(Bed::problems(&accept(&bed, &invited["invitationToken"], PASSWORD).await), ["EXPIRED input.token"]);
    let invited = invite(&bed, &ada, "new@example.org", "member").await;
    bed.clock.advance(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(Bed::problems(&accept(&bed, &invited["invitationToken"], PASSWORD).await), ["EXPIRED input.token"]);
}

#[tokio::test]
async fn a_repeated_acceptance_is_the_same_one() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let invited = invite(&bed, &ada, "bob@example.org", "member").await;
    let input =
        json!({ "token": invited["invitationToken"], "name": "Bob", "password": PASSWORD, "idempotencyKey": "a1" });
    let first = bed.mutate(None, "memberAccept", input.clone(), SIGNED_IN).await;
    let again = bed.mutate(None, "memberAccept", input, SIGNED_IN).await;
    assert_eq!(
        (&again["position"], &again["viewer"], &again["refreshToken"]),
        (&first["position"], &first["viewer"], &first["refreshToken"])
    );
}

#[tokio::test]
async fn what_happens_to_a_member_holds_for_their_sessions_at_once() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["viewer"]).await;
    let who = || bed.ask(Some(&bob.access), WHO, json!({}));
    assert_eq!(who().await["data"]["viewer"]["member"]["id"], bob.member);

    let input = json!({ "id": bob.member, "roles": ["member", "admin"], "expectedVersion": 2 });
    let changed = bed.mutate(Some(&ada.access), "memberUpdate", input.clone(), MEMBER).await;
    assert_eq!(changed["member"]["roles"], json!([{ "name": "admin" }, { "name": "member" }]));
    assert_eq!(who().await["data"]["viewer"]["member"]["roles"].as_array().unwrap().len(), 2);
    let stale = bed.mutate(Some(&ada.access), "memberUpdate", input, MEMBER).await;
    assert_eq!(Bed::problems(&stale), ["CONFLICT input.expectedVersion"]);
    let unknown = json!({ "id": bob.member, "roles": ["king"] });
    assert_eq!(
        Bed::problems(&bed.mutate(Some(&ada.access), "memberUpdate", unknown, MEMBER).await),
        ["INVALID input.roles"]
    );

    let login = json!({ "email": "bob@example.org", "password": PASSWORD });
    assert_eq!(change(&bed, &ada, "memberSuspend", &bob.member).await["member"]["status"], "SUSPENDED");
    assert_eq!(Bed::code(&who().await), "UNAUTHENTICATED");
    assert_eq!(Bed::problems(&bed.mutate(None, "login", login.clone(), SIGNED_IN).await), ["INVALID_CREDENTIALS"]);
    let refresh = json!({ "refreshToken": bob.refresh });
    assert_eq!(Bed::problems(&bed.mutate(None, "sessionRefresh", refresh, SIGNED_IN).await), ["EXPIRED"]);
    assert_eq!(change(&bed, &ada, "memberReactivate", &bob.member).await["member"]["status"], "ACTIVE");
    assert_eq!(Bed::code(&who().await), "UNAUTHENTICATED");
    let bob = Person::of(&bed.mutate(None, "login", login.clone(), SIGNED_IN).await);
    let who = || bed.ask(Some(&bob.access), WHO, json!({}));
    assert_eq!(who().await["data"]["viewer"]["member"]["id"], bob.member);

    let removed = change(&bed, &ada, "memberRemove", &bob.member).await;
    assert_eq!((&removed["member"], &removed["userErrors"]), (&Value::Null, &json!([])));
    assert_eq!(Bed::code(&who().await), "UNAUTHENTICATED");
    assert_eq!(Bed::problems(&bed.mutate(None, "login", login, SIGNED_IN).await), ["INVALID_CREDENTIALS"]);
    assert_eq!(Bed::problems(&change(&bed, &ada, "memberRemove", &bob.member).await), ["NOT_FOUND"]);
}

#[tokio::test]
async fn whoever_is_suspended_or_leaves_leaves_nothing_behind() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    invite(&bed, &ada, "invited@example.org", "viewer").await;
    let atlas = project(&bed, &ada, "ATLAS").await;
    let own = project(&bed, &bob, "OWN").await;
    bed.mutate(Some(&ada.access), "projectMemberAdd", json!({ "id": atlas, "memberId": bob.member }), "position").await;
    let login = json!({ "email": "bob@example.org", "password": PASSWORD });
    bed.mutate(None, "login", login, SIGNED_IN).await;
    let seen = async || {
        let query = "{ organization { memberCount } members { totalCount }
            projects { nodes { memberCount members { nodes { member { id } } } } }
            ended: events(first: 20, filter: { types: [\"session_ended\"] }) { nodes { data subjectId } }
            left: events(first: 20, filter: { types: [\"project_member_removed\"] }) { nodes { data subjectId } } }";
        bed.ask(Some(&ada.access), query, json!({})).await["data"].take()
    };
    let counts = |seen: &Value| {
        let projects = seen["projects"]["nodes"].as_array().unwrap().iter();
        let members: Vec<_> =
            projects.map(|p| (p["memberCount"].as_i64(), p["members"]["nodes"].as_array().map(Vec::len))).collect();
        let ended = seen["ended"]["nodes"].as_array().unwrap().len();
        (seen["organization"]["memberCount"].as_i64(), seen["members"]["totalCount"].as_i64(), members, ended)
    };
    // Who is invited is listed, and not counted.
    assert_eq!(counts(&seen().await), (Some(2), Some(3), vec![(Some(2), Some(2)), (Some(1), Some(1))], 0));
    change(&bed, &ada, "memberSuspend", &bob.member).await;
    assert_eq!(counts(&seen().await), (Some(1), Some(3), vec![(Some(2), Some(2)), (Some(1), Some(1))], 2));
    change(&bed, &ada, "memberReactivate", &bob.member).await;
    assert_eq!(counts(&seen().await).0, Some(2));
    change(&bed, &ada, "memberRemove", &bob.member).await;
    let seen = seen().await;
    assert_eq!(counts(&seen), (Some(1), Some(2), vec![(Some(1), Some(1)), (Some(0), Some(0))], 2));
    assert_eq!(seen["ended"]["nodes"][0]["data"], json!({ "reason": "DEACTIVATED" }));
    let left: BTreeSet<_> = seen["left"]["nodes"].as_array().unwrap().iter().map(|e| e["subjectId"].as_str()).collect();
    assert_eq!(left, BTreeSet::from([Some(atlas.as_str()), Some(own.as_str())]));
}

#[tokio::test]
async fn members_of_other_organizations_look_absent() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    for field in ["memberRemove", "memberSuspend", "memberReactivate", "memberTransferOwnership"] {
        assert_eq!(Bed::problems(&change(&bed, &eve, field, &ada.member).await), ["NOT_FOUND"], "{field}");
    }
    let query = "query($id: ID!) { member(id: $id) { id } }";
    assert_eq!(bed.ask(Some(&eve.access), query, json!({ "id": ada.member })).await["data"]["member"], Value::Null);
    assert_eq!(
        bed.ask(Some(&ada.access), query, json!({ "id": ada.member })).await["data"]["member"]["id"],
        ada.member
    );
}

#[tokio::test]
async fn there_is_always_an_owner() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
    for field in ["memberRemove", "memberSuspend"] {
        assert_eq!(Bed::problems(&change(&bed, &bob, field, &ada.member).await), ["CONFLICT"], "{field}");
    }
    assert_eq!(Bed::problems(&invite(&bed, &bob, "eve@example.org", "owner").await), ["INVALID input.roles"]);
    assert_eq!(Bed::problems(&change(&bed, &bob, "memberTransferOwnership", &bob.member).await), ["FORBIDDEN"]);
    let handed = change(&bed, &ada, "memberTransferOwnership", &bob.member).await;
    assert_eq!(handed["member"]["roles"], json!([{ "name": "owner" }]), "{handed}");
    let roles = bed.ask(Some(&ada.access), WHO, json!({})).await["data"]["viewer"]["member"]["roles"].take();
    assert_eq!(roles, json!([{ "name": "admin" }]));
    assert_eq!(change(&bed, &bob, "memberRemove", &ada.member).await["userErrors"], json!([]));
}
