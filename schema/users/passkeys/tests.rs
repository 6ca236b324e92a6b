#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

#[path = "../../../src/domain/users/webauthn/authenticator.rs"]
mod authenticator;

use authenticator::{Algorithm, Authenticator, PRESENT, VERIFIED};

const ERRORS: &str = "userErrors { code path message } position";
const BEGUN: &str = "challengeToken options userErrors { code path message }";
const CHALLENGE: &str = "accessToken mfaToken mfaMethods userErrors { code path message }";
const PASSKEYS: &str = "{ viewer { passkeys { id name createdAt lastUsedAt transports backedUp }
    secondFactor { recoveryCodesLeft } sessions { method current } } }";

fn device(algorithm: Algorithm, id: u8) -> Authenticator {
    Authenticator::new(algorithm, id, "oriel.test", "https://oriel.test")
}

/// Registers a passkey; what became of it.
async fn register(bed: &Bed, person: &Person, device: &mut Authenticator, name: &str) -> Value {
    let begin = json!({ "currentPassword": PASSWORD });
    let begun = bed.mutate(Some(&person.access), "passkeyRegistrationBegin", begin, BEGUN).await;
    assert_eq!(begun["userErrors"], json!([]), "{begun}");
    let credential = device.create(&begun["options"]);
    let input = json!({ "challengeToken": begun["challengeToken"], "credential": credential, "name": name });
    bed.mutate(Some(&person.access), "passkeyRegister", input, &registered()).await
}

fn registered() -> String {
    format!("passkey {{ id name transports }} recoveryCodes {ERRORS}")
}

async fn begin(bed: &Bed, input: Value) -> Value {
    let begun = bed.mutate(None, "passkeyLoginBegin", input, BEGUN).await;
    assert_eq!(begun["userErrors"], json!([]), "{begun}");
    begun
}

/// What an answer to this challenge is as an input.
fn answer(begun: &Value, device: &mut Authenticator) -> Value {
    json!({ "challengeToken": begun["challengeToken"], "credential": device.get(&begun["options"]) })
}

async fn login(bed: &Bed, input: Value) -> Value {
    bed.mutate(None, "passkeyLogin", input, SIGNED_IN).await
}

/// Signs in without a password.
async fn sign_in(bed: &Bed, device: &mut Authenticator) -> Value {
    login(bed, answer(&begin(bed, json!({})).await, device)).await
}

const WRONG: [&str; 1] = ["INVALID_CREDENTIALS input.credential"];

#[tokio::test]
async fn a_passkey_signs_in_by_itself_with_every_algorithm() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    for (n, algorithm) in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256].into_iter().enumerate() {
        let mut device = device(algorithm, n as u8);
        let made = register(&bed, &ada, &mut device, &format!("Device {n}")).await;
        assert_eq!(made["passkey"]["transports"], json!(["internal", "hybrid"]), "{made}");
        assert_eq!(made["recoveryCodes"].is_array(), n == 0, "with the first second factor: {made}");
        bed.clock.advance(Duration::from_secs(1));
        let there = sign_in(&bed, &mut device).await;
        assert_eq!(Person::of(&there).user, ada.user);
        let seen = bed.ask(there["accessToken"].as_str(), PASSKEYS, json!({})).await;
        let passkey = &seen["data"]["viewer"]["passkeys"][n];
        assert_eq!((&passkey["name"], passkey["lastUsedAt"].is_string()), (&json!(format!("Device {n}")), true));
        let sessions = seen["data"]["viewer"]["sessions"].as_array().unwrap();
        let here = sessions.iter().find(|session| session["current"] == true).unwrap();
        assert_eq!(here["method"], "PASSKEY", "{seen}");
        assert!(sessions.iter().any(|session| session["method"] == "PASSWORD"), "{seen}");
    }
    // It begins in the organization that is named.
    let made =
        bed.mutate(Some(&ada.access), "organizationCreate", json!({ "name": "Looms" }), "organization { id }").await;
    let mut device = device(Algorithm::EdDsa, 9);
    register(&bed, &ada, &mut device, "Another").await;
    let mut input = answer(&begin(&bed, json!({})).await, &mut device);
    input["organizationId"] = made["organization"]["id"].clone();
    assert_eq!(Person::of(&login(&bed, input).await).organization, made["organization"]["id"]);
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let mut input = answer(&begin(&bed, json!({})).await, &mut device);
    input["organizationId"] = eve.organization.into();
    assert_eq!(Bed::problems(&login(&bed, input).await), ["INVALID_CREDENTIALS"]);
}

#[tokio::test]
async fn after_a_password_it_is_the_second_factor() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let right = json!({ "email": "ada@example.org", "password": PASSWORD });
    let there = Person::of(&bed.mutate(None, "login", right.clone(), SIGNED_IN).await);
    let mut device = device(Algorithm::Es256, 1);
    let made = register(&bed, &ada, &mut device, "Telephone").await;
    let codes = made["recoveryCodes"].as_array().unwrap_or_else(|| panic!("{made}")).clone();
    assert_eq!(codes.len(), 10);
    // What the password alone began has ended.
    assert_eq!(Bed::code(&bed.ask(Some(&there.access), PASSKEYS, json!({})).await), "UNAUTHENTICATED");

    let challenged = bed.mutate(None, "login", right.clone(), CHALLENGE).await;
    assert_eq!(Bed::problems(&challenged), ["MFA_REQUIRED"], "{challenged}");
    assert_eq!(challenged["mfaMethods"], json!(["PASSKEY", "RECOVERY_CODE"]));
    assert_eq!(challenged["accessToken"], Value::Null);
    let begun = begin(&bed, json!({ "mfaToken": challenged["mfaToken"] })).await;
    assert_eq!(begun["options"]["allowCredentials"][0]["id"], authenticator::encode(&device.id), "{begun}");
    let done = login(&bed, answer(&begun, &mut device)).await;
    let person = Person::of(&done);
    assert_eq!(person.user, ada.user);
    let seen = bed.ask(Some(&person.access), PASSKEYS, json!({})).await;
    let sessions = seen["data"]["viewer"]["sessions"].as_array().unwrap();
    assert!(sessions.iter().any(|session| session["method"] == "PASSWORD_AND_PASSKEY"), "{seen}");

    // Digits are of no authenticator that she has; a recovery code is good once.
    let challenged = bed.mutate(None, "login", right.clone(), CHALLENGE).await;
    let verify = async |code: &Value| {
        let input = json!({ "mfaToken": challenged["mfaToken"], "code": code });
        bed.mutate(None, "loginVerify", input, SIGNED_IN).await
    };
    assert_eq!(Bed::problems(&verify(&json!("123456")).await), ["INVALID_CREDENTIALS input.code"]);
    Person::of(&verify(&codes[0]).await);
    assert_eq!(Bed::problems(&verify(&codes[0]).await), ["INVALID_CREDENTIALS input.code"]);

    // A passkey of somebody else is none of hers, though its own person signed with it.
    let eve = bed.register("Elsewhere", "eve@example.org").await;
    let mut hers = Authenticator::new(Algorithm::EdDsa, 2, "oriel.test", "https://oriel.test");
    register(&bed, &eve, &mut hers, "Eve's").await;
    let begun = begin(&bed, json!({ "mfaToken": challenged["mfaToken"] })).await;
    assert_eq!(Bed::problems(&login(&bed, answer(&begun, &mut hers)).await), WRONG);
    for nonsense in ["", "x"] {
        let refused = bed.mutate(None, "passkeyLoginBegin", json!({ "mfaToken": nonsense }), ERRORS_ALONE).await;
        assert_eq!(Bed::problems(&refused), ["EXPIRED input.mfaToken"]);
    }
}

const ERRORS_ALONE: &str = "userErrors { code path message }";

#[tokio::test]
async fn a_challenge_is_good_once_for_five_minutes_and_for_whom_it_was_given() {
    let bed = Bed::new().await;
    let (ada, bob) =
        (bed.register("Engines", "ada@example.org").await, bed.register("Elsewhere", "bob@example.org").await);
    let mut device = device(Algorithm::EdDsa, 1);
    register(&bed, &ada, &mut device, "Telephone").await;
    let input = answer(&begin(&bed, json!({})).await, &mut device);
    Person::of(&login(&bed, input.clone()).await);
    assert_eq!(Bed::problems(&login(&bed, input.clone()).await), WRONG, "replayed");
    // By two at once: one of them.
    let twice = answer(&begin(&bed, json!({})).await, &mut device);
    let (one, two) = tokio::join!(login(&bed, twice.clone()), login(&bed, twice));
    assert_eq!([one, two].iter().filter(|answer| answer["accessToken"].is_string()).count(), 1);

    // With a key the same session, whatever was answered since.
    let mut keyed = answer(&begin(&bed, json!({})).await, &mut device);
    keyed["idempotencyKey"] = "k".into();
    let first = login(&bed, keyed.clone()).await;
    let again = login(&bed, keyed).await;
    assert_eq!((&again["refreshToken"], &again["position"]), (&first["refreshToken"], &first["position"]));
    assert!(first["refreshToken"].is_string());

    let late = answer(&begin(&bed, json!({})).await, &mut device);
    bed.clock.advance(Duration::from_secs(300));
    assert_eq!(Bed::problems(&login(&bed, late).await), ["EXPIRED input.challengeToken"]);
    let (one, other) = (begin(&bed, json!({})).await, begin(&bed, json!({})).await);
    let mut mixed = answer(&one, &mut device);
    mixed["challengeToken"] = other["challengeToken"].clone();
    assert_eq!(Bed::problems(&login(&bed, mixed).await), WRONG);

    // That of a registration is for the session that asked, and registers nothing else.
    let asked =
        bed.mutate(Some(&ada.access), "passkeyRegistrationBegin", json!({ "currentPassword": PASSWORD }), BEGUN).await;
    let mut new = Authenticator::new(Algorithm::EdDsa, 5, "oriel.test", "https://oriel.test");
    let input =
        json!({ "challengeToken": asked["challengeToken"], "credential": new.create(&asked["options"]), "name": "N" });
    let fields = registered();
    let refused = bed.mutate(Some(&bob.access), "passkeyRegister", input.clone(), &fields).await;
    assert_eq!(Bed::problems(&refused), ["EXPIRED input.challengeToken"]);
    let elsewhere = sign_in(&bed, &mut device).await;
    let refused = bed.mutate(elsewhere["accessToken"].as_str(), "passkeyRegister", input.clone(), &fields).await;
    assert_eq!(Bed::problems(&refused), ["EXPIRED input.challengeToken"]);
    let mut keyed = input.clone();
    keyed["idempotencyKey"] = "r".into();
    let made = bed.mutate(Some(&ada.access), "passkeyRegister", keyed.clone(), &fields).await;
    assert_eq!(made["userErrors"], json!([]), "{made}");
    let again = bed.mutate(Some(&ada.access), "passkeyRegister", keyed, &fields).await;
    assert_eq!((&again["passkey"], &again["position"]), (&made["passkey"], &made["position"]));
    let again = bed.mutate(Some(&ada.access), "passkeyRegister", input, &fields).await;
    assert_eq!(Bed::problems(&again), WRONG);
    let used = json!({ "challengeToken": asked["challengeToken"], "credential": new.get(&asked["options"]) });
    assert_eq!(Bed::problems(&login(&bed, used).await), ["EXPIRED input.challengeToken"]);
}

#[tokio::test]
async fn what_was_made_elsewhere_or_unverified_or_copied_is_refused() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let mut device = device(Algorithm::EdDsa, 1);
    let wrong_password = json!({ "currentPassword": "violet-otter-93-lamq" });
    let refused = bed.mutate(Some(&ada.access), "passkeyRegistrationBegin", wrong_password, ERRORS_ALONE).await;
    assert_eq!(Bed::problems(&refused), ["INVALID_CREDENTIALS input.currentPassword"]);

    device.origin = "https://evil.test".to_owned();
    assert_eq!(Bed::problems(&register(&bed, &ada, &mut device, "Evil").await), WRONG);
    device.origin = "https://oriel.test".to_owned();
    device.flags = PRESENT;
    assert_eq!(Bed::problems(&register(&bed, &ada, &mut device, "Touched").await), WRONG);
    device.flags = VERIFIED;
    device.counter = 7;
    assert_eq!(register(&bed, &ada, &mut device, "Good").await["userErrors"], json!([]));
    assert_eq!(Bed::problems(&register(&bed, &ada, &mut device, "Twice").await), ["TAKEN input.credential"]);

    for change in [
        (|device| device.origin = "http://oriel.test".to_owned()) as fn(&mut Authenticator),
        |device| device.domain = "evil.test".to_owned(),
        |device| device.flags = PRESENT,
        |device| device.handle = "AAAA".to_owned(),
        |device| device.cross_origin = true,
        |device| device.id[0] ^= 1,
    ] {
        let (origin, domain, handle, id) =
            (device.origin.clone(), device.domain.clone(), device.handle.clone(), device.id.clone());
        change(&mut device);
        assert_eq!(Bed::problems(&sign_in(&bed, &mut device).await), WRONG);
        (device.origin, device.domain, device.handle, device.id) = (origin, domain, handle, id);
        (device.flags, device.cross_origin) = (VERIFIED, false);
    }
    for nonsense in [json!(7), json!("x"), json!({}), json!({ "id": "x", "rawId": "x", "type": "public-key" })] {
        let begun = begin(&bed, json!({})).await;
        let input = json!({ "challengeToken": begun["challengeToken"], "credential": nonsense });
        assert_eq!(Bed::problems(&login(&bed, input).await), ["INVALID input.credential"], "{nonsense}");
    }
    Person::of(&sign_in(&bed, &mut device).await);
    let head = bed.endpoint.services().engine.feed().head();
    // A copy that has signed less often than the other.
    device.counter = 3;
    assert_eq!(Bed::problems(&sign_in(&bed, &mut device).await), WRONG);
    let log = bed.endpoint.services().engine.log().read(head, 10).await.unwrap();
    let written: Vec<&str> = log.iter().map(|event| event.event.event_type()).collect();
    assert_eq!(written, ["user_passkey_clone_suspected"]);
    device.counter = 100;
    Person::of(&sign_in(&bed, &mut device).await);
}

#[tokio::test]
async fn they_are_named_and_removed_by_their_person_alone() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let eve = bed.join(&ada, "eve@example.org", &["admin"]).await;
    let mut device = device(Algorithm::EdDsa, 1);
    let made = register(&bed, &ada, &mut device, "Telephone").await;
    let id = &made["passkey"]["id"];
    let fields = format!("passkey {{ id name }} {ERRORS}");
    let rename = json!({ "id": id, "name": " Old telephone " });
    let refused = bed.mutate(Some(&eve.access), "passkeyRename", rename.clone(), &fields).await;
    assert_eq!(Bed::problems(&refused), ["NOT_FOUND input.id"]);
    let renamed = bed.mutate(Some(&ada.access), "passkeyRename", rename, &fields).await;
    assert_eq!(renamed["passkey"], json!({ "id": id, "name": "Old telephone" }), "{renamed}");
    let seen = bed.ask(Some(&eve.access), PASSKEYS, json!({})).await;
    assert_eq!(seen["data"]["viewer"]["passkeys"], json!([]));

    let remove = |password: &str| json!({ "id": id, "currentPassword": password });
    let refused = bed.mutate(Some(&ada.access), "passkeyRemove", remove("violet-otter-93-lamq"), ERRORS).await;
    assert_eq!(Bed::problems(&refused), ["INVALID_CREDENTIALS input.currentPassword"]);
    let refused = bed.mutate(Some(&eve.access), "passkeyRemove", remove(PASSWORD), ERRORS).await;
    assert_eq!(Bed::problems(&refused), ["NOT_FOUND input.id"]);
    let removed = bed.mutate(Some(&ada.access), "passkeyRemove", remove(PASSWORD), ERRORS).await;
    assert_eq!(removed["userErrors"], json!([]), "{removed}");
    assert_eq!(Bed::problems(&sign_in(&bed, &mut device).await), WRONG);
    let seen = bed.ask(Some(&ada.access), PASSKEYS, json!({})).await;
    assert_eq!(seen["data"]["viewer"]["passkeys"], json!([]));
    assert_eq!(seen["data"]["viewer"]["secondFactor"], Value::Null, "{seen}");
    let right = json!({ "email": "ada@example.org", "password": PASSWORD });
    Person::of(&bed.mutate(None, "login", right, SIGNED_IN).await);
}

#[tokio::test]
async fn who_begins_without_a_password_is_told_the_same_whoever_they_are() {
    let bed = Bed::new().await;
    let empty = begin(&bed, json!({})).await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let mut device = device(Algorithm::EdDsa, 1);
    register(&bed, &ada, &mut device, "Telephone").await;
    let mut said = [empty, begin(&bed, json!({})).await].map(|begun| begun["options"].clone());
    assert_ne!(said[0]["challenge"], said[1]["challenge"]);
    said.iter_mut().for_each(|options| options["challenge"] = Value::Null);
    assert_eq!(said[0], said[1]);
    assert_eq!(said[0]["allowCredentials"], json!([]));
    // Nobody's passkey, a removed one and a wrong signature are one answer.
    let mut stranger = Authenticator::new(Algorithm::EdDsa, 2, "oriel.test", "https://oriel.test");
    stranger.handle = "AAAA".to_owned();
    assert_eq!(Bed::problems(&sign_in(&bed, &mut stranger).await), WRONG);
    stranger.handle.clone_from(&device.handle);
    stranger.id.clone_from(&device.id);
    assert_eq!(Bed::problems(&sign_in(&bed, &mut stranger).await), WRONG);
    // Wrong ones cannot be tried one after the other.
    let query = "mutation($input: PasskeyLoginInput!) { passkeyLogin(input: $input) { userErrors { code } } }";
    let mut looked_at = 0;
    for _ in 0..40 {
        let input = answer(&begin(&bed, json!({})).await, &mut stranger);
        looked_at += usize::from(bed.ask(None, query, json!({ "input": input })).await.get("errors").is_none());
    }
    assert!(looked_at < 12, "{looked_at}");
    let input = answer(&begin(&bed, json!({})).await, &mut stranger);
    assert_eq!(Bed::code(&bed.ask(None, query, json!({ "input": input })).await), "RATE_LIMITED");
}

#[tokio::test]
async fn it_is_enough_where_a_second_factor_is_required_and_goes_with_its_person() {
    const WHO: &str = "{ viewer { secondFactorMissing } members { totalCount } }";
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let mut device = device(Algorithm::EdDsa, 1);
    register(&bed, &ada, &mut device, "Telephone").await;
    let require = json!({ "required": true });
    let required = bed.mutate(Some(&ada.access), "organizationSecondFactorRequire", require, ERRORS).await;
    assert_eq!(required["userErrors"], json!([]), "{required}");
    let there = sign_in(&bed, &mut device).await;
    let who = bed.ask(there["accessToken"].as_str(), WHO, json!({})).await;
    assert_eq!(who["data"]["viewer"]["secondFactorMissing"], false);
    assert_eq!(who["data"]["members"]["totalCount"], 2, "{who}");
    let who = bed.ask(Some(&bob.access), WHO, json!({})).await;
    assert_eq!(who["data"]["viewer"]["secondFactorMissing"], true);
    let mut his = Authenticator::new(Algorithm::Es256, 2, "oriel.test", "https://oriel.test");
    assert_eq!(register(&bed, &bob, &mut his, "Key").await["userErrors"], json!([]));
    let who = bed.ask(Some(&bob.access), WHO, json!({})).await;
    assert_eq!(who["data"]["members"]["totalCount"], 2, "what is kept of answers follows: {who}");

    let erased = bed.mutate(Some(&bob.access), "userErase", json!({ "password": PASSWORD }), ERRORS).await;
    assert_eq!(erased["userErrors"], json!([]), "{erased}");
    assert_eq!(Bed::problems(&sign_in(&bed, &mut his).await), WRONG);
    // Whoever has the device may register it anew.
    assert_eq!(register(&bed, &ada, &mut his, "Found").await["userErrors"], json!([]));
}

#[tokio::test]
async fn where_there_is_no_domain_it_says_so() {
    let bed = Bed::with(|policy| policy.relying_party = None).await;
    let refused = bed.ask(None, "mutation { passkeyLoginBegin { userErrors { code message } } }", json!({})).await;
    assert_eq!(refused["data"]["passkeyLoginBegin"]["userErrors"][0]["code"], "CONFLICT", "{refused}");
}
