#![allow(clippy::unwrap_used)]

use std::time::Duration;

use oriel_domain::tickets::Ticket;
use oriel_domain::users::UserEvent;
use oriel_domain::users::addresses::{EMAIL, EMAIL_LIFE, PASSWORD_RESET};
use oriel_kernel::{Position, Recorded, UserId};
use serde_json::{Value, json};

use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

const ERRORS: &str = "userErrors { code path message } position";
const NEW: &str = "quiet-heron-41-desk";

async fn ask(bed: &Bed, email: &str) -> Value {
    let asked = format!("goodForMinutes {ERRORS}");
    bed.mutate(None, "passwordResetRequest", json!({ "email": email }), &asked).await
}

/// The next event after this position; waits for it.
async fn next(bed: &Bed, after: Position) -> std::sync::Arc<Recorded> {
    let engine = &bed.endpoint.services().engine;
    let mut head = engine.feed().watch();
    let wait = async {
        loop {
            if let Some(recorded) = engine.log().read(after, 1).await.unwrap().pop() {
                return recorded;
            }
            head.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap()
}

async fn head(bed: &Bed) -> Position {
    bed.endpoint.services().engine.log().head().await.unwrap().0
}

/// What the link in the mail would end with, which this event leads to.
fn link(bed: &Bed, recorded: &Recorded) -> String {
    let blinder = bed.endpoint.services().engine.keyring().as_ref();
    let subject = UserId::from_uuid(recorded.subject);
    match recorded.event_as().unwrap() {
        UserEvent::PasswordResetRequested { request, ends_at } => {
            Ticket { subject, ends_at: *ends_at, about: request.clone() }.sign(PASSWORD_RESET, blinder)
        }
        UserEvent::Registered { email_hash, .. } => {
            Ticket { subject, ends_at: recorded.at + EMAIL_LIFE, about: email_hash.clone() }.sign(EMAIL, blinder)
        }
        UserEvent::EmailChangeRequested { email_hash, ends_at, .. } => {
            Ticket { subject, ends_at: *ends_at, about: email_hash.clone() }.sign(EMAIL, blinder)
        }
        other => panic!("{other:?} sends no link"),
    }
}

async fn reset(bed: &Bed, token: &str, password: &str) -> Value {
    let input = json!({ "token": token, "newPassword": password });
    bed.mutate(None, "passwordReset", input, ERRORS).await
}

async fn login(bed: &Bed, email: &str, password: &str) -> Value {
    bed.mutate(None, "login", json!({ "email": email, "password": password }), SIGNED_IN).await
}

#[tokio::test]
async fn a_forgotten_password_is_chosen_anew_by_a_link_and_every_session_ends() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let there = Person::of(&login(&bed, "ada@example.org", PASSWORD).await);
    let before = head(&bed).await;
    let asked = ask(&bed, "ADA@example.org").await;
    let token = link(&bed, &*next(&bed, before).await);

    assert_eq!(Bed::problems(&reset(&bed, &token, "password1234").await), ["WEAK_PASSWORD input.newPassword"]);
    assert_eq!(Bed::problems(&reset(&bed, "nonsense", NEW).await), ["EXPIRED input.token"]);
    let done = reset(&bed, &token, NEW).await;
    assert_eq!(done["userErrors"], json!([]), "{done}");
    for token in [&ada.access, &there.access] {
        let answer = bed.ask(Some(token), "{ viewer { user { id } } }", json!({})).await;
        assert_eq!(Bed::code(&answer), "UNAUTHENTICATED");
    }
    assert_eq!(Bed::problems(&login(&bed, "ada@example.org", PASSWORD).await), ["INVALID_CREDENTIALS"]);
    let again = Person::of(&login(&bed, "ada@example.org", NEW).await);
    let verified = bed.ask(Some(&again.access), "{ viewer { user { emailVerified } } }", json!({})).await;
    assert_eq!(verified["data"]["viewer"]["user"]["emailVerified"], true, "{verified}");

    // A link that was used ends nothing and changes nothing.
    assert_eq!(Bed::problems(&reset(&bed, &token, "another-otter-12-sofa").await), ["EXPIRED input.token"]);
    let answer = bed.ask(Some(&again.access), "{ viewer { user { id } } }", json!({})).await;
    assert_eq!(answer["data"]["viewer"]["user"]["id"], ada.user, "{answer}");

    // Asked for nobody, the answer is the same.
    assert_eq!(ask(&bed, "nobody@example.org").await, asked);
}

#[tokio::test]
async fn asking_for_a_link_does_the_same_for_everybody_before_it_answers() {
    let bed = Bed::new().await;
    bed.register("Engines", "ada@example.org").await;
    let services = bed.endpoint.services();
    let worked = services.passwords.worked();
    let before = head(&bed).await;
    // The answer is there before the work: neither waits for a look-up nor for a commit.
    let (known, unknown) = (ask(&bed, "ada@example.org").await, ask(&bed, "nobody@example.org").await);
    assert_eq!(known, unknown);
    assert_eq!(known["position"], Value::Null);
    next(&bed, before).await;
    assert_eq!(services.passwords.worked(), worked);
    // Mails to one person are some time apart, however often they are asked for.
    let after = head(&bed).await;
    for _ in 0..5 {
        ask(&bed, "ada@example.org").await;
    }
    bed.clock.advance(Duration::from_secs(121));
    ask(&bed, "ada@example.org").await;
    let second = next(&bed, after).await;
    assert!(second.at - next(&bed, before).await.at >= chrono::TimeDelta::minutes(2));
}

#[tokio::test]
async fn who_asks_for_many_links_has_to_wait() {
    let bed = Bed::new().await;
    let query = "mutation($input: PasswordResetRequestInput!) { passwordResetRequest(input: $input) { position } }";
    let mut asked = 0;
    let waits = async {
        loop {
            let input = json!({ "email": format!("p{asked}@example.org") });
            let answer = bed.ask(None, query, json!({ "input": input })).await;
            match Bed::code(&answer) {
                "none" => asked += 1,
                // What is done beside has to get its turn.
                "OVERLOADED" => tokio::task::yield_now().await,
                code => break code.to_owned(),
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap();
    assert_eq!((refused.as_str(), asked), ("RATE_LIMITED", 100));
}

#[tokio::test]
async fn an_address_becomes_theirs_when_the_link_was_opened() {
    let bed = Bed::new().await;
    let before = head(&bed).await;
    let ada = bed.register("Engines", "ada@example.org").await;
    bed.register("Looms", "bob@example.org").await;
    let welcome = link(&bed, &*next(&bed, before).await);
    let confirm = async |token: &str| bed.mutate(None, "emailConfirm", json!({ "token": token }), ERRORS).await;
    assert_eq!(confirm(&welcome).await["userErrors"], json!([]));
    assert_eq!(confirm(&welcome).await["userErrors"], json!([]), "twice is once");
    assert_eq!(Bed::problems(&confirm("x.y.z").await), ["EXPIRED input.token"]);

    let change = async |email: &str, password: &str| {
        let input = json!({ "email": email, "currentPassword": password });
        bed.mutate(Some(&ada.access), "emailChange", input, ERRORS).await
    };
    let wrong = change("new@example.org", "violet-otter-93-lamq").await;
    assert_eq!(Bed::problems(&wrong), ["INVALID_CREDENTIALS input.currentPassword"]);
    let before = head(&bed).await;
    assert_eq!(change("new@example.org", PASSWORD).await["userErrors"], json!([]));
    let token = link(&bed, &*next(&bed, before).await);
    Person::of(&login(&bed, "ada@example.org", PASSWORD).await);
    assert_eq!(Bed::problems(&login(&bed, "new@example.org", PASSWORD).await), ["INVALID_CREDENTIALS"]);
    assert_eq!(confirm(&token).await["userErrors"], json!([]));
    Person::of(&login(&bed, "new@example.org", PASSWORD).await);
    assert_eq!(Bed::problems(&login(&bed, "ada@example.org", PASSWORD).await), ["INVALID_CREDENTIALS"]);

    // Whether somebody has an address is told to whoever reads its mail, and to nobody else.
    bed.clock.advance(Duration::from_secs(121));
    let before = head(&bed).await;
    assert_eq!(change("bob@example.org", PASSWORD).await["userErrors"], json!([]));
    let token = link(&bed, &*next(&bed, before).await);
    assert_eq!(Bed::problems(&confirm(&token).await), ["TAKEN input.email"]);

    // A link has its time, and is good for what it was sent for.
    let other = reset(&bed, &token, NEW).await;
    assert_eq!(Bed::problems(&other), ["EXPIRED input.token"]);
    bed.clock.advance(Duration::from_secs(3 * 24 * 3600));
    assert_eq!(Bed::problems(&confirm(&token).await), ["EXPIRED input.token"]);
}
