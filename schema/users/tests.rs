#![allow(clippy::unwrap_used)]

use async_graphql::{Name, Value as ConstValue};
use aws_lc_rs::digest::{SHA256, digest};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};

use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

const ERRORS: &str = "userErrors { code path message } position";

fn ada() -> Value {
    json!({ "organizationName": "Analytical Engines", "email": "Ada@Example.org", "name": "Ada", "password": PASSWORD, "username": "ada" })
}

#[tokio::test]
async fn whoever_registers_owns_their_organization_and_is_signed_in() {
    let bed = Bed::new().await;
    let registered = bed.mutate(None, "register", ada(), SIGNED_IN).await;
    let viewer = &registered["viewer"];
    assert_eq!(viewer["user"]["email"], "Ada@Example.org");
    assert_eq!(viewer["organization"]["name"], "Analytical Engines");
    assert_eq!(viewer["member"]["roles"][0]["name"], "owner");
    assert_eq!(viewer["session"]["current"], true);
    let person = Person::of(&registered);
    let query =
        "{ viewer { user { id } permissions sessions { ip userAgent current } organizations { name memberCount } } }";
    let answer = bed.ask(Some(&person.access), query, json!({})).await;
    assert_eq!(answer["data"]["viewer"]["user"]["id"], person.user, "{answer}");
    assert_eq!(answer["data"]["viewer"]["permissions"], json!(["*", "system:*"]));
    assert_eq!(
        answer["data"]["viewer"]["sessions"],
        json!([{ "ip": "192.0.2.7", "userAgent": "tests", "current": true }])
    );
    assert_eq!(answer["data"]["viewer"]["organizations"], json!([{ "name": "Analytical Engines", "memberCount": 1 }]));
    assert_eq!(bed.ask(None, "{ viewer { user { id } } }", json!({})).await["data"]["viewer"], Value::Null);
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let bed = Bed::new().await;
    let input =
        json!({ "organizationName": " ", "email": "nowhere", "name": "", "password": "short", "username": "1" });
    let refused = bed.mutate(None, "register", input, SIGNED_IN).await;
    let wanted = [
        "REQUIRED input.organizationName",
        "INVALID input.email",
        "REQUIRED input.name",
        "WEAK_PASSWORD input.password",
        "INVALID input.username",
    ];
    assert_eq!(Bed::problems(&refused), wanted);
    assert_eq!(refused["accessToken"], Value::Null);
    bed.mutate(None, "register", ada(), SIGNED_IN).await;
    let mut again = ada();
    (again["email"], again["username"]) = ("ada@example.ORG".into(), "ADA".into());
    let refused = bed.mutate(None, "register", again, SIGNED_IN).await;
    assert_eq!(Bed::problems(&refused), ["TAKEN input.email", "TAKEN input.username"]);
}

#[tokio::test]
async fn a_closed_installation_lets_the_first_in_and_no_other() {
    let bed = Bed::with(|policy| policy.open_registration = false).await;
    let mut first = ada();
    first["idempotencyKey"] = "first".into();
    let registered = Person::of(&bed.mutate(None, "register", first.clone(), SIGNED_IN).await);
    let second = json!({ "organizationName": "Other", "email": "b@example.org", "name": "B", "password": PASSWORD });
    assert_eq!(Bed::problems(&bed.mutate(None, "register", second, SIGNED_IN).await), ["FORBIDDEN"]);
    assert_eq!(Person::of(&bed.mutate(None, "register", first, SIGNED_IN).await).user, registered.user);
    let invited = bed.join(&registered, "c@example.org", &["member"]).await;
    assert_eq!(invited.organization, registered.organization);
}

#[tokio::test]
async fn a_repeated_registration_is_the_same_one() {
    let bed = Bed::new().await;
    let mut input = ada();
    input["idempotencyKey"] = "k1".into();
    let first = bed.mutate(None, "register", input.clone(), SIGNED_IN).await;
    let again = bed.mutate(None, "register", input.clone(), SIGNED_IN).await;
    assert_eq!(again["position"], first["position"]);
    assert_eq!(again["viewer"], first["viewer"]);
    assert_eq!(again["refreshToken"], first["refreshToken"]);
    let person = Person::of(&again);
    let sessions = bed.ask(Some(&person.access), "{ viewer { sessions { id } } }", json!({})).await;
    assert_eq!(sessions["data"]["viewer"]["sessions"].as_array().unwrap().len(), 1);

    let mut other = input.clone();
    other["password"] = "another-otter-93-lamp".into();
    let refused = bed.mutate(None, "register", other, SIGNED_IN).await;
    assert_eq!(Bed::problems(&refused), ["IDEMPOTENCY_MISMATCH input.idempotencyKey"]);

    // A refresh token that was used since is not given out again.
    bed.mutate(None, "sessionRefresh", json!({ "refreshToken": person.refresh }), SIGNED_IN).await;
    let late = bed.mutate(None, "register", input.clone(), SIGNED_IN).await;
    assert_eq!((Bed::problems(&late).len(), &late["refreshToken"]), (0, &Value::Null));
    assert_eq!(late["viewer"]["session"], first["viewer"]["session"]);

    // Nor is anything, to somebody who knows but an old password.
    let change = json!({ "currentPassword": PASSWORD, "newPassword": "quiet-heron-41-desk" });
    bed.mutate(Some(&person.access), "passwordChange", change, ERRORS).await;
    let refused = bed.mutate(None, "register", input, SIGNED_IN).await;
    assert_eq!(Bed::problems(&refused), ["INVALID_CREDENTIALS input.password"]);
}

#[tokio::test]
async fn what_is_kept_of_an_input_does_not_help_to_guess_its_password() {
    let bed = Bed::new().await;
    let ada = Person::of(&bed.mutate(None, "register", ada(), SIGNED_IN).await);
    bed.mutate(Some(&ada.access), "userUpdate", json!({ "name": "Ada King" }), ERRORS).await;
    let kept = kept_hashes(&bed).await;
    assert_eq!(kept.len(), 2);
    // What holds no secret can be recomputed; what holds one cannot.
    let fields = ["organizationName", "email", "name", "password", "username"];
    assert!(kept.contains(&plain_hash("userUpdate", &["name"], &json!({ "name": "Ada King" }))));
    assert!(!kept.contains(&plain_hash("register", &fields, &self::ada())));
}

async fn kept_hashes(bed: &Bed) -> Vec<Vec<u8>> {
    let database = bed.endpoint.services().engine.database();
    let select = Statement::from_string(database.backend(), "SELECT input_hash FROM commands");
    let rows = database.reader().query_all_raw(select).await.unwrap();
    rows.iter().map(|row| row.try_get("", "input_hash").unwrap()).collect()
}

/// The hash of an input as `access.rs` makes it, with the fields in the order of their declaration.
fn plain_hash(operation: &str, fields: &[&str], input: &Value) -> Vec<u8> {
    let value = |name: &&str| (Name::new(name), ConstValue::from_json(input[*name].clone()).unwrap());
    let text = format!("{operation}\n{}\n", ConstValue::Object(fields.iter().map(value).collect()));
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

#[tokio::test]
async fn a_person_is_called_otherwise_everywhere() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let renamed =
        bed.mutate(Some(&ada.access), "userUpdate", json!({ "name": "Ada King" }), "user { name } position").await;
    assert_eq!(renamed["user"]["name"], "Ada King");
    let refused = bed.mutate(Some(&ada.access), "userUpdate", json!({ "name": " " }), ERRORS).await;
    assert_eq!(Bed::problems(&refused), ["REQUIRED input.name"]);
}

#[tokio::test]
async fn a_changed_password_leaves_one_session() {
    let bed = Bed::new().await;
    let here = bed.register("Engines", "ada@example.org").await;
    let elsewhere =
        bed.mutate(None, "login", json!({ "email": "ada@example.org", "password": PASSWORD }), SIGNED_IN).await;
    let elsewhere = Person::of(&elsewhere);
    let further =
        bed.mutate(Some(&here.access), "organizationCreate", json!({ "name": "Looms" }), "organization { id }").await;
    let login =
        json!({ "email": "ada@example.org", "password": PASSWORD, "organizationId": further["organization"]["id"] });
    let there = Person::of(&bed.mutate(None, "login", login.clone(), SIGNED_IN).await);
    assert_eq!(further["organization"]["id"], there.organization);

    let wrong = json!({ "currentPassword": "wrong", "newPassword": "quiet-heron-41-desk" });
    assert_eq!(
        Bed::problems(&bed.mutate(Some(&here.access), "passwordChange", wrong, ERRORS).await),
        ["INVALID_CREDENTIALS input.currentPassword"]
    );
    let weak = json!({ "currentPassword": PASSWORD, "newPassword": "password123" });
    assert_eq!(
        Bed::problems(&bed.mutate(Some(&here.access), "passwordChange", weak, ERRORS).await),
        ["WEAK_PASSWORD input.newPassword"]
    );
    let change = json!({ "currentPassword": PASSWORD, "newPassword": "quiet-heron-41-desk", "idempotencyKey": "p1" });
    let changed = bed.mutate(Some(&here.access), "passwordChange", change.clone(), ERRORS).await;
    assert_eq!(changed["userErrors"], json!([]));
    assert_eq!(bed.mutate(Some(&here.access), "passwordChange", change, ERRORS).await["position"], changed["position"]);

    let who = "{ viewer { sessions { id } } }";
    for ended in [&elsewhere, &there] {
        assert_eq!(Bed::code(&bed.ask(Some(&ended.access), who, json!({})).await), "UNAUTHENTICATED");
    }
    let left = bed.ask(Some(&here.access), who, json!({})).await;
    assert_eq!(left["data"]["viewer"]["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(Bed::problems(&bed.mutate(None, "login", login, SIGNED_IN).await), ["INVALID_CREDENTIALS"]);
}

#[tokio::test]
async fn a_person_of_another_system_keeps_their_password_and_gets_a_better_hash() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    // Made by Python: see passwords.rs.
    let hash = "$pbkdf2-sha256$i=10000$cGVwcGVyIGFuZCBzYWx0IQ$Xksp/WWbdcpghrW1HJvRIgaV6L/UJWgo1SSn3Nlm/fc";
    let import = json!({ "email": "bob@example.org", "name": "Bob", "username": "bob", "passwordHash": hash });
    let asked = format!("userId {ERRORS}");
    let imported = bed.mutate(Some(&ada.access), "userImport", import.clone(), &asked).await;
    assert_eq!(imported["userErrors"], json!([]), "{imported}");
    let again = bed.mutate(Some(&ada.access), "userImport", import.clone(), &asked).await;
    assert_eq!(Bed::problems(&again), ["TAKEN input.email"]);
    let mut plain = import;
    plain["passwordHash"] = PASSWORD.into();
    let refused = bed.mutate(Some(&ada.access), "userImport", plain, &asked).await;
    assert_eq!(Bed::problems(&refused), ["INVALID input.passwordHash"]);

    let invite = json!({ "email": "bob@example.org", "roles": ["member"] });
    let invited = bed.mutate(Some(&ada.access), "memberInvite", invite, "invitationToken").await;
    let accept = json!({ "token": invited["invitationToken"], "password": PASSWORD });
    let bob = Person::of(&bed.mutate(None, "memberAccept", accept, SIGNED_IN).await);
    assert_eq!(imported["userId"], bob.user);
    let stored = stored_hash(&bed, &bob.user).await;
    assert!(stored.starts_with("$argon2id$"), "{stored}");
    let login = json!({ "username": "bob", "password": PASSWORD });
    Person::of(&bed.mutate(None, "login", login, SIGNED_IN).await);
    assert_eq!(stored_hash(&bed, &bob.user).await, stored, "it is not made anew each time");

    // Only the installation's operator takes people over.
    let import = json!({ "email": "eve@example.org", "name": "Eve", "passwordHash": hash });
    let refused = bed.mutate(Some(&bob.access), "userImport", import, &asked).await;
    assert_eq!(Bed::problems(&refused), ["FORBIDDEN"]);
}

async fn stored_hash(bed: &Bed, user: &str) -> String {
    let connection = bed.endpoint.services().engine.database().reader();
    let user = oriel_read_models::sign_in::user(connection, user.parse().unwrap()).await.unwrap().unwrap();
    user.password_hash.unwrap()
}

#[tokio::test]
async fn who_asks_which_addresses_are_taken_has_to_wait() {
    let bed = Bed::new().await;
    bed.register("Engines", "ada@example.org").await;
    let query = "mutation($input: RegisterInput!) { register(input: $input) { userErrors { code } } }";
    let mut last = Value::Null;
    for _ in 0..110 {
        last = bed.ask(None, query, json!({ "input": ada() })).await;
    }
    assert_eq!(Bed::code(&last), "RATE_LIMITED", "{last}");
}
