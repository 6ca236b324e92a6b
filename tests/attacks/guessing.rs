//! Passwords and codes that somebody tries one after the other, or many in one request.

use std::ops::Range;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use data_encoding::BASE32_NOPAD;
use futures::future::join_all;
use serde_json::{Value, json};

use super::{PASSWORD, SIGNED_IN, codes, document, installation, login, login_from, nobody, told};
use crate::support::{Server, Session};

const WRONG: &str = "violet-otter-93-lamp";
/// How many attempts are looked at before the next one has to wait.
const FREE: usize = 10;
/// How many are looked at of many in a row: a wait may have ended before the next attempt, and after a few of them that
/// takes longer than any machine.
const FEW: Range<usize> = FREE..FREE + 5;

/// How often each of these codes was answered.
fn count(answer: &Value, code: &str) -> usize {
    codes(answer).iter().filter(|found| *found == code).count()
}

/// Many attempts in one request, each under a name of its own.
fn many(field: &str, attempts: usize, input: impl Fn(usize) -> String) -> Value {
    let each = |n| format!("a{n}: {field}(input: {{ {} }}) {{ {SIGNED_IN} }} ", input(n));
    json!({ "query": format!("mutation {{ {} }}", (0..attempts).map(each).collect::<String>()) })
}

async fn send(session: &Session, body: &Value, address: &str) -> Value {
    login_from(session, address, body.clone()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_passwords_in_one_request_are_as_slow_as_in_many() {
    let (server, _, ada) = installation().await;
    let nobody = nobody(&ada);
    let guesses = many("login", 40, |n| format!("email: \"ada@example.org\", password: \"{WRONG}{n}\""));
    let answer = send(&nobody, &guesses, "203.0.113.5").await;
    let looked_at = count(&answer, "INVALID_CREDENTIALS");
    assert!(FEW.contains(&looked_at), "{answer}");
    assert_eq!(count(&answer, "RATE_LIMITED"), 40 - looked_at, "{answer}");
    // Each wait is twice as long: until one is that is not over before the next requests.
    let began = Instant::now();
    loop {
        let answer = send(&nobody, &login("ada@example.org", WRONG), "203.0.113.5").await;
        if answer["errors"][0]["extensions"]["retryAfter"].as_u64() > Some(5) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the waits stay short: {answer}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // Not even the right one is looked at now, nor those of a batch; they are told when to come again.
    let right = login("ada@example.org", PASSWORD);
    let waits = send(&nobody, &json!([right, right]), "203.0.113.5").await;
    for answer in waits.as_array().unwrap() {
        assert_eq!(codes(answer), ["RATE_LIMITED"], "{waits}");
        assert!(answer["errors"][0]["extensions"]["retryAfter"].as_u64() >= Some(1), "{waits}");
    }
    // Nobody is locked out by it.
    let elsewhere = send(&nobody, &right, "203.0.113.6").await;
    assert!(elsewhere["data"]["login"]["accessToken"].is_string(), "{elsewhere}");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_somebody_only_says_is_not_another_address() {
    // The proxies of this installation are elsewhere: who comes from here speaks for nobody else.
    let server = Server::start_with(None, &["--set", "trusted_proxies=192.0.2.0/24"]).await;
    let nobody = nobody(&server.register("Ada").await);
    let mut looked_at = 0;
    for n in 0..FREE + 5 {
        let request = nobody.http.post(format!("{}/graphql", nobody.url));
        let address = format!("198.51.100.{n}");
        let request = request
            .header("x-forwarded-for", &address)
            .header("forwarded", format!("for={address}"))
            .header("x-real-ip", &address)
            .header("true-client-ip", &address);
        let answer: Value = request.json(&login("eve@example.org", WRONG)).send().await.unwrap().json().await.unwrap();
        looked_at += count(&answer, "INVALID_CREDENTIALS");
    }
    // The addresses that were said have nothing to do with it.
    assert!(FEW.contains(&looked_at), "{looked_at}");
}

/// The code of RFC 6238, made apart from the product.
fn code(secret: &str, step: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &BASE32_NOPAD.decode(secret.as_bytes()).unwrap());
    let mac = hmac::sign(&key, &(now / 30 + step).to_be_bytes());
    let at = usize::from(mac.as_ref()[19] & 15);
    let number = u32::from_be_bytes(mac.as_ref()[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_signs_in_once_however_many_send_it_and_cannot_be_guessed() {
    let (_server, _, ada) = installation().await;
    let nobody = nobody(&ada);
    let begun = told(&ada, "totpBegin", json!({ "currentPassword": PASSWORD }), "secret").await;
    let secret = begun["data"]["totpBegin"]["secret"].as_str().unwrap().to_owned();
    let input = json!({ "code": code(&secret, 0) });
    let confirmed = told(&ada, "totpConfirm", input, "recoveryCodes userErrors { code }").await;
    let recovery = confirmed["data"]["totpConfirm"]["recoveryCodes"].clone();
    assert_eq!(recovery.as_array().map(Vec::len), Some(10), "{confirmed}");
    let input = json!({ "email": "ada@example.org", "password": PASSWORD });
    let challenge = told(&nobody, "login", input, SIGNED_IN).await["data"]["login"]["mfaToken"].clone();
    assert!(challenge.is_string());

    // Each round from an address of its own: those that come after the good one has ended are failures of that address,
    // and how many do is the machine's affair. Ten failures of one address, and the next one is not looked at.
    let round = async |address: &str, code: &Value| {
        let input = json!({ "mfaToken": challenge, "code": code });
        let body = json!({ "query": document("loginVerify", SIGNED_IN), "variables": { "input": input } });
        let answers = join_all((0..8).map(|_| send(&nobody, &body, address))).await;
        answers.iter().filter(|answer| answer["data"]["loginVerify"]["accessToken"].is_string()).count()
    };
    // The next step's, which is accepted already: the one of this step has confirmed the set-up.
    let good = [json!(code(&secret, 1)), recovery[0].clone()];
    for (n, good) in good.iter().enumerate() {
        assert_eq!(round(&format!("203.0.113.{}", 10 + n), good).await, 1, "one of eight");
        assert_eq!(round(&format!("203.0.113.{}", 20 + n), good).await, 0, "it was used");
    }
    // From another address, where nothing was tried yet: a few of a million are looked at.
    let guess = |n: usize| format!("mfaToken: {challenge}, code: \"{:06}\"", 111_111 * (n % 9 + 1));
    let answer = send(&nobody, &many("loginVerify", 40, guess), "203.0.113.9").await;
    let looked_at = count(&answer, "INVALID_CREDENTIALS");
    assert!(FEW.contains(&looked_at) && count(&answer, "RATE_LIMITED") == 40 - looked_at, "{answer}");
    // A token that stands for the password is nothing else, and is not made by hand.
    let answer =
        super::with_token(&ada, challenge.as_str().unwrap()).raw("{ viewer { user { name } } }", json!({})).await;
    assert_eq!(codes(&answer), ["UNAUTHENTICATED"]);
    let changed = challenge.as_str().unwrap().replace('.', "x.");
    let input = json!({ "mfaToken": changed, "code": recovery[1] });
    let refused = nobody.raw(&document("loginVerify", SIGNED_IN), json!({ "input": input })).await;
    assert_eq!(codes(&refused), ["EXPIRED"], "{refused}");
}
