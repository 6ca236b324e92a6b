//! Sessions that somebody wants to share with their owner.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{PASSWORD, SIGNED_IN, codes, installation, nobody, told, with_token};
use crate::support::{Server, Session, databases};

const WHO: &str = "{ viewer { user { name } } }";

async fn sign_in(session: &Session, input: Value) -> Value {
    let answer = told(session, "login", input, SIGNED_IN).await;
    assert!(answer["data"]["login"]["accessToken"].is_string(), "{answer}");
    answer["data"]["login"].clone()
}

async fn refresh(session: &Session, token: &Value) -> Value {
    told(session, "sessionRefresh", json!({ "refreshToken": token }), SIGNED_IN).await
}

fn with(session: &Session, tokens: &Value) -> Session {
    with_token(session, tokens["accessToken"].as_str().unwrap())
}

async fn is_over(session: &Session) -> bool {
    codes(&session.raw(WHO, json!({})).await) == ["UNAUTHENTICATED"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_refresh_token_ends_the_session_when_both_have_used_it() {
    for database in databases() {
        let server = Server::start(database).await;
        let ada = server.register("Ada").await;
        let nobody = nobody(&ada);
        let ours = json!({ "email": "ada@example.org", "password": PASSWORD });
        // Ada first, the thief then; the thief first, Ada then: nobody can tell them apart, so it is over for both.
        for _ in 0..2 {
            let stolen = sign_in(&nobody, ours.clone()).await;
            let first = refresh(&nobody, &stolen["refreshToken"]).await["data"]["sessionRefresh"].clone();
            assert!(!is_over(&with(&ada, &first)).await);
            let replayed = refresh(&nobody, &stolen["refreshToken"]).await;
            assert_eq!(codes(&replayed), ["INVALID_CREDENTIALS"], "{replayed}");
            assert!(is_over(&with(&ada, &stolen)).await && is_over(&with(&ada, &first)).await);
            assert_eq!(codes(&refresh(&nobody, &first["refreshToken"]).await), ["EXPIRED"]);
        }
        // All at once: one at most goes on, and not for long.
        for _ in 0..5 {
            let stolen = sign_in(&nobody, ours.clone()).await;
            let answers = join_all((0..8).map(|_| refresh(&nobody, &stolen["refreshToken"]))).await;
            let went_on = answers.iter().filter(|answer| answer["data"]["sessionRefresh"]["accessToken"].is_string());
            let went_on: Vec<&Value> = went_on.collect();
            assert!(went_on.len() <= 1, "{answers:?}");
            assert!(is_over(&with(&ada, &stolen)).await, "{answers:?}");
            for answer in went_on {
                assert!(is_over(&with(&ada, &answer["data"]["sessionRefresh"])).await);
            }
        }
        // Another session of hers goes on.
        assert!(!is_over(&ada).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_somebody_brings_along_is_not_the_session_that_begins() {
    let (server, _, ada) = installation().await;
    let eve = server.register("Eve").await;
    // A key for repetitions that Eve knows, since she has chosen it for Ada.
    let chosen = json!({ "email": "ada@example.org", "password": PASSWORD, "idempotencyKey": "chosen by Eve" });
    // And Eve's token, in the place of Ada's.
    let begun = sign_in(&eve, chosen.clone()).await;
    assert_eq!(eve.ask(WHO, json!({})).await["viewer"]["user"]["name"], "Eve Owner");
    assert_eq!(with(&ada, &begun).ask(WHO, json!({})).await["viewer"]["user"]["name"], "Ada Owner");

    let nobody = nobody(&eve);
    let mut tries =
        vec![json!({ "email": "ada@example.org", "password": "not her password", "idempotencyKey": "chosen by Eve" })];
    tries.push(json!({ "email": "ada@example.org", "password": "", "idempotencyKey": "chosen by Eve" }));
    for input in tries {
        assert_eq!(codes(&told(&nobody, "login", input, SIGNED_IN).await), ["INVALID_CREDENTIALS"]);
    }
    let mut own = chosen.clone();
    own["email"] = json!("eve@example.org");
    let answer = told(&nobody, "login", own, SIGNED_IN).await;
    let session = &answer["data"]["login"];
    match session["accessToken"].is_string() {
        true => assert_eq!(with(&ada, session).ask(WHO, json!({})).await["viewer"]["user"]["name"], "Eve Owner"),
        false => assert_eq!(codes(&answer), ["IDEMPOTENCY_MISMATCH"], "{answer}"),
    }
    assert_ne!(session["refreshToken"], begun["refreshToken"]);
    let guessed = json!({ "refreshToken": "", "idempotencyKey": "chosen by Eve" });
    assert_eq!(codes(&told(&nobody, "sessionRefresh", guessed, SIGNED_IN).await), ["INVALID_CREDENTIALS"]);

    // Signing in once more begins another session, and a changed password leaves that in which it was changed alone.
    let second = sign_in(&nobody, json!({ "email": "ada@example.org", "password": PASSWORD })).await;
    assert_ne!(second["refreshToken"], begun["refreshToken"]);
    let input = json!({ "currentPassword": PASSWORD, "newPassword": "violet-otter-93-lamp" });
    let changed = told(&with(&ada, &second), "passwordChange", input, "userErrors { code }").await;
    assert_eq!(codes(&changed), Vec::<String>::new(), "{changed}");
    assert!(!is_over(&with(&ada, &second)).await);
    assert!(is_over(&with(&ada, &begun)).await && is_over(&ada).await);
    assert_eq!(codes(&refresh(&nobody, &begun["refreshToken"]).await), ["EXPIRED"]);
}
