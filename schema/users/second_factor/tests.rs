#![allow(clippy::unwrap_used)]

use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use serde_json::{Value, json};

use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

const ERRORS: &str = "userErrors { code path message } position";
const CHALLENGE: &str = "accessToken refreshToken mfaToken viewer { user { id } } userErrors { code path message }";
const FACTOR: &str = "{ viewer { secondFactor { since recoveryCodesLeft } sessions { id } } }";

/// Somebody with an authenticator.
struct Ada {
    bed: Bed,
    person: Person,
    secret: String,
    recovery: Vec<String>,
}

impl Ada {
    async fn new() -> Self {
        let bed = Bed::new().await;
        let person = bed.register("Engines", "ada@example.org").await;
        let (secret, recovery) = set_up(&bed, &person).await;
        Self { bed, person, secret, recovery }
    }

    /// What the authenticator shows at this moment.
    fn code(&self) -> String {
        code(&self.bed, &self.secret)
    }

    /// Half a minute later, so that there is another code.
    fn later(&self) -> String {
        self.bed.clock.advance(Duration::from_secs(30));
        self.code()
    }

    /// The answer to the right password.
    async fn challenge(&self) -> String {
        let input = json!({ "email": "ada@example.org", "password": PASSWORD });
        let challenged = self.bed.mutate(None, "login", input, CHALLENGE).await;
        assert_eq!(Bed::problems(&challenged), ["MFA_REQUIRED"], "{challenged}");
        assert_eq!((&challenged["accessToken"], &challenged["viewer"]), (&Value::Null, &Value::Null));
        challenged["mfaToken"].as_str().unwrap().to_owned()
    }

    async fn verify(&self, token: &str, code: &str) -> Value {
        self.bed.mutate(None, "loginVerify", json!({ "mfaToken": token, "code": code }), SIGNED_IN).await
    }
}

/// The code of RFC 6238, made apart from the product.
fn code(bed: &Bed, secret: &str) -> String {
    use aws_lc_rs::hmac;
    let seconds = bed.endpoint.services().engine.now().timestamp();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &BASE32_NOPAD.decode(secret.as_bytes()).unwrap());
    let mac = hmac::sign(&key, &(seconds / 30).to_be_bytes());
    let at = usize::from(mac.as_ref()[19] & 15);
    let number = u32::from_be_bytes(mac.as_ref()[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

async fn set_up(bed: &Bed, person: &Person) -> (String, Vec<String>) {
    let begin = json!({ "currentPassword": PASSWORD });
    let begun = bed.mutate(Some(&person.access), "totpBegin", begin, &format!("secret url {ERRORS}")).await;
    let secret = begun["secret"].as_str().unwrap_or_else(|| panic!("{begun}")).to_owned();
    assert!(begun["url"].as_str().unwrap().contains(&secret));
    let confirm = json!({ "code": code(bed, &secret) });
    let confirmed = bed.mutate(Some(&person.access), "totpConfirm", confirm, &format!("recoveryCodes {ERRORS}")).await;
    let recovery = confirmed["recoveryCodes"].as_array().unwrap_or_else(|| panic!("{confirmed}"));
    (secret, recovery.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
}

#[tokio::test]
async fn the_password_alone_signs_nobody_in_and_a_code_is_good_once() {
    let ada = Ada::new().await;
    let token = ada.challenge().await;
    let used = ada.code();
    assert_eq!(Bed::problems(&ada.verify(&token, &used).await), ["INVALID_CREDENTIALS input.code"], "it confirmed");
    let fresh = ada.later();
    assert_eq!(Person::of(&ada.verify(&token, &fresh).await).user, ada.person.user);
    // Replayed: with the same token, with another one, and by two at once.
    let other = ada.challenge().await;
    for token in [&token, &other] {
        assert_eq!(Bed::problems(&ada.verify(token, &fresh).await), ["INVALID_CREDENTIALS input.code"]);
    }
    let next = ada.later();
    let (one, two) = tokio::join!(ada.verify(&other, &next), ada.verify(&other, &next));
    let signed_in = [one, two].iter().filter(|answer| answer["accessToken"].is_string()).count();
    assert_eq!(signed_in, 1);
}

#[tokio::test]
async fn a_token_stands_for_the_password_for_five_minutes_and_for_nothing_else() {
    let ada = Ada::new().await;
    let token = ada.challenge().await;
    for nonsense in ["", "x", &token[..token.len() - 1], &ada.person.access] {
        assert_eq!(Bed::problems(&ada.verify(nonsense, &ada.code()).await), ["EXPIRED input.mfaToken"]);
    }
    let answer = ada.bed.ask(Some(&token), "{ viewer { user { id } } }", json!({})).await;
    assert_eq!(Bed::code(&answer), "UNAUTHENTICATED");
    ada.bed.clock.advance(Duration::from_secs(300));
    assert_eq!(Bed::problems(&ada.verify(&token, &ada.code()).await), ["EXPIRED input.mfaToken"]);
    // Nor after another password was chosen.
    let token = ada.challenge().await;
    let change = json!({ "currentPassword": PASSWORD, "newPassword": "quiet-heron-41-desk" });
    let changed = ada.bed.mutate(Some(&ada.person.access), "passwordChange", change, ERRORS).await;
    assert_eq!(changed["userErrors"], json!([]), "{changed}");
    assert_eq!(Bed::problems(&ada.verify(&token, &ada.later()).await), ["EXPIRED input.mfaToken"]);
}

#[tokio::test]
async fn codes_cannot_be_tried_one_after_the_other() {
    let ada = Ada::new().await;
    let token = ada.challenge().await;
    let query = "mutation($input: LoginVerifyInput!) { loginVerify(input: $input) { userErrors { code } } }";
    let guess = async |n: u32| {
        let input = json!({ "mfaToken": token, "code": format!("{n:06}") });
        ada.bed.ask(None, query, json!({ "input": input })).await
    };
    let mut looked_at = 0;
    for n in 0..100 {
        if guess(n).await.get("errors").is_none() {
            looked_at += 1;
        }
    }
    assert!(looked_at <= 11, "{looked_at}");
    assert_eq!(Bed::code(&guess(100).await), "RATE_LIMITED");
}

#[tokio::test]
async fn a_recovery_code_signs_in_once() {
    let ada = Ada::new().await;
    assert_eq!(ada.recovery.len(), 10);
    let token = ada.challenge().await;
    let there = Person::of(&ada.verify(&token, &ada.recovery[3].to_uppercase()).await);
    let again = ada.verify(&ada.challenge().await, &ada.recovery[3]).await;
    assert_eq!(Bed::problems(&again), ["INVALID_CREDENTIALS input.code"]);
    let factor = ada.bed.ask(Some(&there.access), FACTOR, json!({})).await;
    assert_eq!(factor["data"]["viewer"]["secondFactor"]["recoveryCodesLeft"], 9, "{factor}");
    let regenerate = json!({ "code": ada.later() });
    let asked = format!("recoveryCodes {ERRORS}");
    let made = ada.bed.mutate(Some(&there.access), "recoveryCodesRegenerate", regenerate, &asked).await;
    assert_eq!(made["recoveryCodes"].as_array().unwrap().len(), 10, "{made}");
    let old = ada.verify(&ada.challenge().await, &ada.recovery[4]).await;
    assert_eq!(Bed::problems(&old), ["INVALID_CREDENTIALS input.code"]);
}

#[tokio::test]
async fn setting_it_up_ends_what_the_password_alone_began_and_giving_it_up_takes_a_code() {
    let bed = Bed::new().await;
    let person = bed.register("Engines", "ada@example.org").await;
    let login = json!({ "email": "ada@example.org", "password": PASSWORD });
    let there = Person::of(&bed.mutate(None, "login", login.clone(), SIGNED_IN).await);
    let wrong = json!({ "currentPassword": "violet-otter-93-lamq" });
    let refused = bed.mutate(Some(&person.access), "totpBegin", wrong, ERRORS).await;
    assert_eq!(Bed::problems(&refused), ["INVALID_CREDENTIALS input.currentPassword"]);
    let begin = json!({ "currentPassword": PASSWORD, "idempotencyKey": "k" });
    let begun = bed.mutate(Some(&person.access), "totpBegin", begin.clone(), "secret").await;
    assert_eq!(bed.mutate(Some(&person.access), "totpBegin", begin, "secret").await, begun);
    Person::of(&bed.mutate(None, "login", login.clone(), SIGNED_IN).await);

    let (secret, _) = set_up(&bed, &person).await;
    assert_eq!(Bed::code(&bed.ask(Some(&there.access), FACTOR, json!({})).await), "UNAUTHENTICATED");
    let factor = bed.ask(Some(&person.access), FACTOR, json!({})).await;
    assert!(factor["data"]["viewer"]["secondFactor"]["since"].is_string(), "{factor}");
    assert_eq!(factor["data"]["viewer"]["sessions"].as_array().unwrap().len(), 1);

    let disable =
        async |code: String| bed.mutate(Some(&person.access), "totpDisable", json!({ "code": code }), ERRORS).await;
    assert_eq!(Bed::problems(&disable("000000".to_owned()).await), ["INVALID_CREDENTIALS input.code"]);
    bed.clock.advance(Duration::from_secs(30));
    assert_eq!(disable(code(&bed, &secret)).await["userErrors"], json!([]));
    Person::of(&bed.mutate(None, "login", login, SIGNED_IN).await);
}

#[tokio::test]
async fn no_other_way_in_goes_around_it() {
    let bed = Bed::new().await;
    let register = json!({ "organizationName": "Engines", "email": "ada@example.org", "name": "Ada", "password": PASSWORD, "idempotencyKey": "r" });
    let person = Person::of(&bed.mutate(None, "register", register.clone(), SIGNED_IN).await);
    set_up(&bed, &person).await;
    // A repeated registration knows the password, and no more.
    let again = bed.mutate(None, "register", register, CHALLENGE).await;
    assert_eq!(Bed::problems(&again), ["MFA_REQUIRED"]);
    assert_eq!(again["accessToken"], Value::Null);
    // An accepted invitation neither.
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let invite = json!({ "email": "ada@example.org", "roles": ["member"] });
    let invited = bed.mutate(Some(&eve.access), "memberInvite", invite, "invitationToken").await;
    let accept = json!({ "token": invited["invitationToken"], "password": PASSWORD });
    let accepted = bed.mutate(None, "memberAccept", accept, CHALLENGE).await;
    assert_eq!(Bed::problems(&accepted), ["MFA_REQUIRED"], "{accepted}");
    assert_eq!(accepted["accessToken"], Value::Null);
    assert!(accepted["mfaToken"].is_string());
}

#[tokio::test]
async fn where_it_is_required_nobody_does_anything_without() {
    const WHO: &str = "{ viewer { permissions secondFactorMissing } members { totalCount } }";
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
    let asked = "organization { secondFactorRequired } userErrors { code path message }";
    let require = async |who: &Person, required: bool| {
        bed.mutate(Some(&who.access), "organizationSecondFactorRequire", json!({ "required": required }), asked).await
    };
    assert_eq!(Bed::problems(&require(&ada, true).await), ["CONFLICT"], "she has none herself");
    set_up(&bed, &ada).await;
    assert_eq!(require(&ada, true).await["organization"]["secondFactorRequired"], true);

    let hers = bed.ask(Some(&ada.access), WHO, json!({})).await;
    assert_eq!(hers["data"]["members"]["totalCount"], 2, "{hers}");
    let his = bed.ask(Some(&bob.access), WHO, json!({})).await;
    assert_eq!(his["data"]["viewer"], json!({ "permissions": [], "secondFactorMissing": true }), "{his}");
    assert_eq!(Bed::code(&his), "FORBIDDEN");
    assert_eq!(Bed::problems(&require(&bob, false).await), ["FORBIDDEN"]);
    let login = json!({ "email": "bob@example.org", "password": PASSWORD });
    let again = Person::of(&bed.mutate(None, "login", login, SIGNED_IN).await);
    let his = bed.ask(Some(&again.access), WHO, json!({})).await;
    assert_eq!(his["data"]["viewer"]["secondFactorMissing"], true, "signing in anew is no way around: {his}");

    // What is kept of answers follows at once.
    set_up(&bed, &again).await;
    let his = bed.ask(Some(&again.access), WHO, json!({})).await;
    assert_eq!(his["data"]["viewer"]["secondFactorMissing"], false, "{his}");
    assert_eq!(his["data"]["members"]["totalCount"], 2, "{his}");
    require(&ada, false).await;
}

const RESET: &str = "member { id } userErrors { code path message }";

#[tokio::test]
async fn a_lost_one_is_taken_away_by_who_may_as_much() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let eve = bed.join(&ada, "eve@example.org", &["admin"]).await;
    let reset = async |who: &Person, whose: &Person| {
        let input = json!({ "id": whose.member, "reason": "The telephone fell into the Thames." });
        bed.mutate(Some(&who.access), "memberSecondFactorReset", input, RESET).await
    };
    assert_eq!(Bed::problems(&reset(&eve, &bob).await), ["CONFLICT"], "he has none");
    set_up(&bed, &bob).await;
    set_up(&bed, &ada).await;
    assert_eq!(Bed::problems(&reset(&bob, &eve).await), ["FORBIDDEN"]);
    assert_eq!(Bed::problems(&reset(&eve, &ada).await), ["FORBIDDEN"], "the owner may more");
    assert_eq!(Bed::problems(&reset(&bob, &bob).await), ["FORBIDDEN"]);
    set_up(&bed, &eve).await;
    assert_eq!(Bed::problems(&reset(&eve, &eve).await), ["FORBIDDEN"], "not one's own");
    let silent = json!({ "id": bob.member, "reason": " " });
    let refused = bed.mutate(Some(&eve.access), "memberSecondFactorReset", silent, RESET).await;
    assert_eq!(Bed::problems(&refused), ["REQUIRED input.reason"]);

    let done = reset(&eve, &bob).await;
    assert_eq!(done, json!({ "member": { "id": bob.member }, "userErrors": [] }));
    assert_eq!(Bed::code(&bed.ask(Some(&bob.access), FACTOR, json!({})).await), "UNAUTHENTICATED");
    let login = json!({ "email": "bob@example.org", "password": PASSWORD });
    let again = Person::of(&bed.mutate(None, "login", login.clone(), SIGNED_IN).await);
    // The log of the organization says who and why.
    let events = "{ events(first: 20) { nodes { type data actor { ... on Member { id } } } } }";
    let log = bed.ask(Some(&ada.access), events, json!({})).await["data"]["events"]["nodes"].take();
    let mut said = log.as_array().unwrap_or_else(|| panic!("{log}")).iter();
    let said = said.rfind(|event| event["type"] == "member_second_factor_reset").unwrap().clone();
    assert_eq!(said["actor"]["id"], eve.member, "{said}");
    assert!(said["data"].to_string().contains("Thames"), "{said}");

    // An account of several organizations is not this one's to change; the operator helps.
    set_up(&bed, &again).await;
    let elsewhere = json!({ "name": "Looms" });
    bed.mutate(Some(&again.access), "organizationCreate", elsewhere, "userErrors { code }").await;
    let (refused, more) = (reset(&eve, &bob).await, reset(&eve, &ada).await);
    assert_eq!(Bed::problems(&refused), ["FORBIDDEN"]);
    assert_eq!(refused["userErrors"], more["userErrors"], "nobody learns which it is");
    let by_operator = json!({ "id": bob.user, "reason": "He came with his passport." });
    let fields = "userId userErrors { code path message }";
    let refused = bed.mutate(Some(&eve.access), "userSecondFactorReset", by_operator.clone(), fields).await;
    assert_eq!(Bed::problems(&refused), ["FORBIDDEN"]);
    let done = bed.mutate(Some(&ada.access), "userSecondFactorReset", by_operator, fields).await;
    assert_eq!(done["userId"], bob.user, "{done}");
    assert_eq!(Bed::code(&bed.ask(Some(&again.access), FACTOR, json!({})).await), "UNAUTHENTICATED");
    Person::of(&bed.mutate(None, "login", login, SIGNED_IN).await);
    let own = json!({ "id": ada.user, "reason": "Mine." });
    let refused = bed.mutate(Some(&ada.access), "userSecondFactorReset", own, fields).await;
    assert_eq!(Bed::problems(&refused), ["FORBIDDEN input.id"]);
}
