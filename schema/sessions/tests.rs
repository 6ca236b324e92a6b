#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

const ERRORS: &str = "userErrors { code path message } position";
const WHO: &str = "{ viewer { user { id } organization { id } sessions { id current } } }";

async fn login(bed: &Bed, input: Value) -> Value {
    bed.mutate(None, "login", input, SIGNED_IN).await
}

async fn refresh(bed: &Bed, token: &str) -> Value {
    bed.mutate(None, "sessionRefresh", json!({ "refreshToken": token }), SIGNED_IN).await
}

#[tokio::test]
async fn signing_in_does_not_tell_what_was_wrong() {
    let bed = Bed::new().await;
    let input = json!({ "organizationName": "Engines", "email": "ada@example.org", "name": "Ada", "password": PASSWORD, "username": "ada" });
    let ada = Person::of(&bed.mutate(None, "register", input, SIGNED_IN).await);
    for right in [json!({ "email": "ADA@example.org" }), json!({ "username": "Ada" })] {
        let mut input = right.clone();
        input["password"] = PASSWORD.into();
        assert_eq!(Person::of(&login(&bed, input).await).user, ada.user);
    }
    let mut answers = Vec::new();
    for wrong in [
        json!({ "email": "ada@example.org", "password": "violet-otter-93-lamq" }),
        json!({ "email": "bob@example.org", "password": PASSWORD }),
        json!({ "email": "not an address", "password": PASSWORD }),
        json!({ "username": "bob", "password": PASSWORD }),
        json!({ "username": "ada", "password": "" }),
    ] {
        let answer = login(&bed, wrong).await;
        assert_eq!(Bed::problems(&answer), ["INVALID_CREDENTIALS"]);
        answers.push(answer);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    for wrong in
        [json!({ "password": PASSWORD }), json!({ "email": "a@b.co", "username": "ada", "password": PASSWORD })]
    {
        assert_eq!(Bed::problems(&login(&bed, wrong).await), ["INVALID input.email"]);
    }
    let elsewhere = json!({ "username": "ada", "password": PASSWORD, "organizationId": ada.member });
    assert_eq!(Bed::problems(&login(&bed, elsewhere).await), ["INVALID_CREDENTIALS"]);
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_session() {
    let bed = Bed::new().await;
    let first = bed.register("Engines", "ada@example.org").await;
    let second = Person::of(&refresh(&bed, &first.refresh).await);
    assert_ne!(second.refresh, first.refresh);
    assert_eq!(second.user, first.user);
    assert_eq!(Bed::problems(&refresh(&bed, &first.refresh).await), ["INVALID_CREDENTIALS input.refreshToken"]);
    assert_eq!(Bed::problems(&refresh(&bed, &second.refresh).await), ["EXPIRED"]);
    assert_eq!(Bed::code(&bed.ask(Some(&second.access), WHO, json!({})).await), "UNAUTHENTICATED");
    for nonsense in ["", "x", "x.y", &format!("{}.y", first.user)] {
        assert_eq!(Bed::problems(&refresh(&bed, nonsense).await), ["INVALID_CREDENTIALS input.refreshToken"]);
    }
}

#[tokio::test]
async fn a_refresh_with_a_key_can_be_repeated_until_its_token_is_used() {
    let bed = Bed::new().await;
    let first = bed.register("Engines", "ada@example.org").await;
    let exchange = json!({ "refreshToken": first.refresh, "idempotencyKey": "r1" });
    let second = Person::of(&bed.mutate(None, "sessionRefresh", exchange.clone(), SIGNED_IN).await);
    let again = Person::of(&bed.mutate(None, "sessionRefresh", exchange.clone(), SIGNED_IN).await);
    assert_eq!(again.refresh, second.refresh);
    Person::of(&refresh(&bed, &second.refresh).await);
    let late = bed.mutate(None, "sessionRefresh", exchange, SIGNED_IN).await;
    assert_eq!(late["refreshToken"], Value::Null);
    // Another key is another command: the token was used.
    let other = json!({ "refreshToken": first.refresh, "idempotencyKey": "r2" });
    let refused = bed.mutate(None, "sessionRefresh", other, SIGNED_IN).await;
    assert_eq!(Bed::problems(&refused), ["INVALID_CREDENTIALS input.refreshToken"]);
}

#[tokio::test]
async fn time_ends_tokens_and_sessions() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    bed.clock.advance(Duration::from_secs(15 * 60));
    assert_eq!(Bed::code(&bed.ask(Some(&ada.access), WHO, json!({})).await), "UNAUTHENTICATED");
    let next = Person::of(&refresh(&bed, &ada.refresh).await);
    assert_eq!(bed.ask(Some(&next.access), WHO, json!({})).await["data"]["viewer"]["user"]["id"], ada.user);
    bed.clock.advance(Duration::from_secs(30 * 24 * 3600));
    assert_eq!(Bed::problems(&refresh(&bed, &next.refresh).await), ["EXPIRED"]);
}

#[tokio::test]
async fn sessions_are_ended_by_those_whose_they_are() {
    let bed = Bed::new().await;
    let here = bed.register("Engines", "ada@example.org").await;
    let there = Person::of(&login(&bed, json!({ "email": "ada@example.org", "password": PASSWORD })).await);
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let sessions = bed.ask(Some(&here.access), WHO, json!({})).await["data"]["viewer"]["sessions"].take();
    let other = sessions.as_array().unwrap().iter().find(|session| session["current"] == false).unwrap()["id"].clone();

    let input = json!({ "id": other });
    let refused = bed.mutate(Some(&eve.access), "sessionRevoke", input.clone(), ERRORS).await;
    assert_eq!(Bed::problems(&refused), ["NOT_FOUND input.id"]);
    assert_eq!(bed.ask(Some(&there.access), WHO, json!({})).await["data"]["viewer"]["user"]["id"], here.user);
    let revoked =
        bed.mutate(Some(&here.access), "sessionRevoke", input, "session { id endedAt } userErrors { code }").await;
    assert_eq!(revoked["session"]["id"], other);
    assert_ne!(revoked["session"]["endedAt"], Value::Null);
    assert_eq!(Bed::code(&bed.ask(Some(&there.access), WHO, json!({})).await), "UNAUTHENTICATED");
    assert_eq!(Bed::problems(&refresh(&bed, &there.refresh).await), ["EXPIRED"]);

    let out = bed
        .ask(Some(&here.access), "mutation { logout { session { endedAt } userErrors { code } position } }", json!({}))
        .await;
    assert_ne!(out["data"]["logout"]["session"]["endedAt"], Value::Null, "{out}");
    assert_eq!(Bed::code(&bed.ask(Some(&here.access), WHO, json!({})).await), "UNAUTHENTICATED");
    assert_eq!(Bed::problems(&refresh(&bed, &here.refresh).await), ["EXPIRED"]);
    let nobody = bed.ask(None, "mutation { logout { userErrors { code } } }", json!({})).await;
    assert_eq!(Bed::code(&nobody), "UNAUTHENTICATED");
}

#[tokio::test]
async fn switching_goes_on_in_another_organization_of_mine() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let made = bed
        .mutate(
            Some(&ada.access),
            "organizationCreate",
            json!({ "name": "Looms" }),
            "organization { id name slug } userErrors { code }",
        )
        .await;
    let looms = &made["organization"]["id"];
    let foreign = json!({ "organizationId": eve.organization });
    let refused = bed.mutate(Some(&ada.access), "sessionSwitch", foreign, SIGNED_IN).await;
    assert_eq!(Bed::problems(&refused), ["NOT_FOUND input.organizationId"]);
    let switched = bed.mutate(Some(&ada.access), "sessionSwitch", json!({ "organizationId": looms }), SIGNED_IN).await;
    assert_eq!(&switched["viewer"]["organization"]["id"], looms);
    let there = Person::of(&switched);
    assert_eq!(there.user, ada.user);
    assert_ne!(there.member, ada.member);
    assert_eq!(Bed::code(&bed.ask(Some(&ada.access), WHO, json!({})).await), "UNAUTHENTICATED");
    let who = bed.ask(Some(&there.access), WHO, json!({})).await;
    assert_eq!(&who["data"]["viewer"]["organization"]["id"], looms);
    assert_eq!(who["data"]["viewer"]["sessions"].as_array().unwrap().len(), 1);
    let same = bed.mutate(Some(&there.access), "sessionSwitch", json!({ "organizationId": looms }), SIGNED_IN).await;
    assert_eq!(Bed::problems(&same), ["CONFLICT input.organizationId"]);
}

#[tokio::test]
async fn all_other_sessions_end_at_once() {
    let bed = Bed::new().await;
    let here = bed.register("Engines", "ada@example.org").await;
    let there = Person::of(&login(&bed, json!({ "email": "ada@example.org", "password": PASSWORD })).await);
    let query = "mutation { sessionRevokeAll { session { id current } userErrors { code } position } }";
    let revoked = bed.ask(Some(&here.access), query, json!({})).await;
    assert_eq!(revoked["data"]["sessionRevokeAll"]["session"]["current"], true, "{revoked}");
    assert_eq!(Bed::code(&bed.ask(Some(&there.access), WHO, json!({})).await), "UNAUTHENTICATED");
    let who = bed.ask(Some(&here.access), WHO, json!({})).await;
    assert_eq!(who["data"]["viewer"]["sessions"].as_array().unwrap().len(), 1);
}

/// What signing in answers: `wrong`, `wait` or `in`.
async fn guess(bed: &Bed, ip: &str, input: Value) -> &'static str {
    let query = "mutation($input: LoginInput!) { login(input: $input) { accessToken userErrors { code } } }";
    let answer = bed.ask_from(ip, query, json!({ "input": input })).await;
    match (Bed::code(&answer), answer["data"]["login"]["accessToken"].is_string()) {
        ("RATE_LIMITED", _) => "wait",
        (_, true) => "in",
        _ => "wrong",
    }
}

fn wrong(email: &str) -> Value {
    json!({ "email": email, "password": "violet-otter-93-lamq" })
}

fn right(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD })
}

#[tokio::test]
async fn guessing_from_one_address_has_to_wait_and_does_the_same_work_for_everybody() {
    let bed = Bed::new().await;
    bed.register("Engines", "ada@example.org").await;
    let passwords = &bed.endpoint.services().passwords;
    let mut seen = Vec::new();
    for email in ["ada@example.org", "nobody@example.org", "not an address"] {
        let before = passwords.worked();
        let mut answers = Vec::new();
        for _ in 0..40 {
            answers.push(guess(&bed, "198.51.100.1", wrong(email)).await);
        }
        // Not even the right password is looked at while it has to wait.
        answers.push(guess(&bed, "198.51.100.1", right(email)).await);
        seen.push((answers, passwords.worked() - before));
    }
    let (answers, worked) = &seen[0];
    assert_eq!((answers[0], answers[40], *worked), ("wrong", "wait", 10), "{answers:?}");
    assert!(seen.iter().all(|other| other == &seen[0]), "{seen:?}");
    bed.clock.advance(Duration::from_secs(1));
    assert_eq!(guess(&bed, "198.51.100.1", right("ada@example.org")).await, "in");
}

#[tokio::test]
async fn guessing_from_many_addresses_locks_nobody_out_where_they_have_signed_in_before() {
    let bed = Bed::new().await;
    // They register at 192.0.2.7.
    bed.register("Engines", "ada@example.org").await;
    let mut looked_at = 0;
    for n in 0..300 {
        let ip = format!("198.51.{}.{}", 100 + n / 250, n % 250);
        looked_at += usize::from(guess(&bed, &ip, wrong("ada@example.org")).await == "wrong");
    }
    assert_eq!(looked_at, 100);
    assert_eq!(guess(&bed, "203.0.113.9", right("ada@example.org")).await, "wait");
    assert_eq!(guess(&bed, "192.0.2.7", right("ada@example.org")).await, "in");
    // Nobody is known to exist by this.
    for n in 0..300 {
        let ip = format!("198.51.{}.{}", 100 + n / 250, n % 250);
        guess(&bed, &ip, wrong("nobody@example.org")).await;
    }
    assert_eq!(guess(&bed, "203.0.113.9", wrong("nobody@example.org")).await, "wait");
}

#[tokio::test]
async fn a_stranger_at_the_same_address_locks_nobody_out_for_long() {
    let bed = Bed::new().await;
    bed.register("Engines", "ada@example.org").await;
    for n in 0..300 {
        guess(&bed, "192.0.2.7", wrong(&format!("p{n}@example.org"))).await;
        guess(&bed, "192.0.2.7", wrong("ada@example.org")).await;
        bed.clock.advance(Duration::from_secs(2));
    }
    bed.clock.advance(Duration::from_secs(30));
    assert_eq!(guess(&bed, "192.0.2.7", right("ada@example.org")).await, "in");
}

#[tokio::test]
async fn a_session_that_somebody_brings_along_is_never_the_one_that_begins() {
    let bed = Bed::new().await;
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    bed.register("Engines", "ada@example.org").await;
    // Whoever signs in with somebody else's token gets a session of their own, and the other stays whose it was.
    let login = bed.mutate(Some(&eve.access), "login", right("ada@example.org"), SIGNED_IN).await;
    assert!(login["accessToken"].is_string(), "{login}");
    assert_ne!(login["accessToken"], eve.access);
    let who = bed.ask(Some(&eve.access), WHO, json!({})).await;
    assert_eq!(who["data"]["viewer"]["user"]["id"], eve.user);
    let who = bed.ask(login["accessToken"].as_str(), WHO, json!({})).await;
    assert_ne!(who["data"]["viewer"]["user"]["id"], eve.user);
}

#[tokio::test]
async fn a_key_is_replaced_without_signing_anybody_out() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let rotate = "mutation { signingKeyRotate(input: { idempotencyKey: \"r\" }) { keyIds userErrors { code } } }";
    let refused = bed.ask(Some(&bob.access), rotate, json!({})).await;
    assert_eq!(refused["data"]["signingKeyRotate"]["userErrors"], json!([{ "code": "FORBIDDEN" }]), "{refused}");
    let rotated = bed.ask(Some(&ada.access), rotate, json!({})).await["data"]["signingKeyRotate"].take();
    assert_eq!(rotated["keyIds"].as_array().unwrap().len(), 2);
    assert_eq!(bed.ask(Some(&ada.access), rotate, json!({})).await["data"]["signingKeyRotate"], rotated);
    let written = async || {
        let log = bed.endpoint.services().engine.log().read(oriel_kernel::Position::START, 1_000).await.unwrap();
        let keys = log.iter().filter(|event| event.event.event_type() == "organization_signing_key_added");
        keys.map(|event| (event.organization.to_string(), event.actor)).collect::<Vec<_>>()
    };
    let hers = oriel_kernel::Actor::Member(ada.member.parse().unwrap());
    assert_eq!(written().await, [(ada.organization.clone(), hers)], "once, and by whom");

    let services = bed.endpoint.services();
    let at_once = Person::of(&refresh(&bed, &ada.refresh).await);
    assert_eq!(kid(&at_once.access), kid(&ada.access), "not every node knows the new one yet");
    bed.clock.advance(crate::tokens::SETTLED);
    services.tokens.renew(&services.engine).await.unwrap();
    let next = Person::of(&refresh(&bed, &at_once.refresh).await);
    assert_eq!((kid(&next.access), kid(&ada.access)), (text(&rotated["keyIds"][1]), text(&rotated["keyIds"][0])));
    for token in [&at_once.access, &bob.access, &next.access] {
        let who = bed.ask(Some(token), WHO, json!({})).await;
        assert!(who["data"]["viewer"]["user"]["id"].is_string(), "{who}");
    }
    // By itself, when it is old; and what is of no use any more is not published.
    bed.clock.advance(Duration::from_secs(91 * 24 * 3600));
    services.tokens.renew(&services.engine).await.unwrap();
    // Another node that notices it too adds none.
    services.tokens.renew(&services.engine).await.unwrap();
    let itself = (ada.organization.clone(), oriel_kernel::Actor::System);
    assert_eq!(written().await, [(ada.organization.clone(), hers), itself]);
    let published = services.tokens.published();
    let ids: Vec<String> = published["keys"].as_array().unwrap().iter().map(|key| text(&key["kid"])).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &text(&rotated["keyIds"][1])), "{published}");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
