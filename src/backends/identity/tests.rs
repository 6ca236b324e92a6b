//! The adapter asked as its callers ask it; the providers are scripted.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use chrono::TimeDelta;
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use oriel_kernel::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::reach::{Reach, is_public};
use super::token::{Claims, Expected, Verdict, verify};
use super::*;

fn now() -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000, 0).unwrap()
}

fn expected() -> Expected<'static> {
    Expected { issuer: "https://id.example.org", client: "oriel", nonce: "n", now: now() }
}

/// Says who it is, for this client, now.
fn said() -> Value {
    let seconds = now().timestamp();
    json!({ "iss": "https://id.example.org", "aud": "oriel", "sub": "ada", "nonce": "n", "iat": seconds, "exp": seconds + 60 })
}

struct Signer {
    encoding: EncodingKey,
    published: Value,
}

impl Signer {
    fn new(id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        let der = pair.to_pkcs8v1().unwrap();
        let published = json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": id, "x": x });
        Self { encoding: EncodingKey::from_ed_der(der.as_ref()), published }
    }

    fn key(&self) -> Jwk {
        serde_json::from_value(self.published.clone()).unwrap()
    }

    fn sign(&self, claims: &Value, kid: Option<&str>) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.encoding).unwrap()
    }
}

fn judged(claims: &Value) -> Result<Claims, Verdict> {
    let signer = Signer::new("k");
    verify(&signer.sign(claims, Some("k")), &[signer.key()], expected())
}

#[test]
fn what_is_signed_for_this_attempt_is_believed_and_nothing_else() {
    assert_eq!(judged(&said()).unwrap().subject(), "ada");
    let seconds = now().timestamp();
    for (name, value) in [
        ("iss", json!("https://evil.example.org")),
        ("aud", json!("another")),
        ("aud", json!(["oriel", "another"])),
        ("aud", Value::Null),
        ("azp", json!("another")),
        ("azp", json!(7)),
        ("nonce", json!("m")),
        ("nonce", Value::Null),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("exp", json!(seconds - 60)),
        ("exp", Value::Null),
        ("iat", json!(seconds + 61)),
        ("iat", json!(seconds - 601)),
        ("iat", Value::Null),
        ("nbf", json!(seconds + 61)),
    ] {
        let mut claims = said();
        claims[name] = value.clone();
        assert!(matches!(judged(&claims), Err(Verdict::Bad(_))), "{name}: {value}");
    }
    let mut shared = said();
    (shared["aud"], shared["azp"]) = (json!(["oriel", "another"]), json!("oriel"));
    judged(&shared).unwrap();
}

#[test]
fn no_key_but_a_published_one_of_the_same_kind_makes_a_token() {
    let (signer, other) = (Signer::new("k"), Signer::new("k"));
    let token = signer.sign(&said(), Some("k"));
    assert!(matches!(verify(&token, &[other.key()], expected()), Err(Verdict::Bad(_))));
    assert_eq!(verify(&signer.sign(&said(), Some("new")), &[signer.key()], expected()), Err(Verdict::UnknownKey));
    assert!(verify(&signer.sign(&said(), None), &[other.key(), signer.key()], expected()).is_ok());
    let mut encrypts = signer.published.clone();
    encrypts["use"] = json!("enc");
    let encrypts: Jwk = serde_json::from_value(encrypts).unwrap();
    assert_eq!(verify(&token, &[encrypts], expected()), Err(Verdict::UnknownKey));
    // With what a client, or everybody, knows.
    let public = signer.published["x"].as_str().unwrap().as_bytes();
    for secret in [b"the client's secret".as_slice(), public, b""] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k".to_owned());
        let forged = jsonwebtoken::encode(&header, &said(), &EncodingKey::from_secret(secret)).unwrap();
        assert!(matches!(verify(&forged, &[signer.key()], expected()), Err(Verdict::Bad(_))));
    }
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    for alg in ["none", "None", "HS256", "RS256"] {
        let forged = format!("{}.{}.", part(&json!({ "alg": alg, "kid": "k" })), part(&said()));
        assert!(verify(&forged, &[signer.key()], expected()).is_err(), "{alg}");
    }
}

#[test]
fn claims_are_found_by_name_or_path() {
    let mut claims = said();
    claims["realm_access"] = json!({ "roles": ["a", "b", 7] });
    claims["urn:x:roles"] = json!({ "editor": {}, "viewer": {} });
    claims["group"] = json!("staff");
    claims["email_verified"] = json!("true");
    let claims = judged(&claims).unwrap();
    assert_eq!(claims.values("realm_access.roles"), ["a", "b"]);
    assert_eq!(claims.values("urn:x:roles"), ["editor", "viewer"]);
    assert_eq!(claims.values("group"), ["staff"]);
    assert_eq!(claims.values("realm_access.groups"), Vec::<String>::new());
    assert!(claims.flag("email_verified") && !claims.flag("group") && !claims.flag("phone_verified"));
    assert!(!format!("{claims:?}").contains("staff"));
    let mut more = claims.clone();
    let about = |sub: &str| json!({ "sub": sub, "group": "other", "email": "x" }).as_object().unwrap().clone();
    assert!(more.add(about("eve")).is_err());
    more.add(about("ada")).unwrap();
    assert_eq!((more.text("group"), more.text("email")), (Some("staff"), Some("x")));
}

#[test]
fn nobody_has_this_server_ask_inside() {
    let nowhere = Reach::new(Arc::new(|_| false));
    let inside = Reach::new(Arc::new(|ip| ip.is_loopback()));
    for url in [
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://0x7f000001/",
        "https://2130706433/",
        "http://example.org/",
        "ftp://example.org/",
        "https://user:secret@example.org/",
        "https://example.org/#x",
        "file:///etc/passwd",
        "x",
    ] {
        assert!(matches!(nowhere.url(url), Err(IdentityError::Address(_))), "{url}");
    }
    nowhere.url("https://id.example.org/realms/one").unwrap();
    inside.url("http://127.0.0.1:7/").unwrap();
    assert!(inside.url("http://10.0.0.1/").is_err() && inside.url("https://10.0.0.1/").is_err());
    for (ip, public) in [
        ("1.1.1.1", true),
        ("100.64.0.1", false),
        ("192.168.1.1", false),
        ("0.0.0.0", false),
        ("255.255.255.255", false),
        ("224.0.0.1", false),
        ("2606:4700::1111", true),
        ("fe80::1", false),
        ("fd00::1", false),
        ("::", false),
        ("64:ff9b::a00:1", false),
        ("64:ff9b::101:101", true),
        ("2002:a00:1::", false),
        ("2001:db8::1", false),
    ] {
        assert_eq!(is_public(ip.parse::<IpAddr>().unwrap()), public, "{ip}");
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_not_followed() {
    let providers = IdentityProviders::new(Arc::new(|_| false)).unwrap();
    let error = providers.check("https://localhost:1", now()).await.unwrap_err();
    assert!(error.to_string().contains("no network that may be asked"), "{error}");
    assert_eq!(providers.health().unwrap().outages, 2);
}

#[test]
fn what_is_known_is_good_for_an_hour() {
    assert!(is_fresh(now(), now()) && is_fresh(now(), now() + TimeDelta::minutes(59)));
    assert!(!is_fresh(now(), now() + TimeDelta::hours(1)) && !is_fresh(now() + TimeDelta::seconds(1), now()));
}

proptest! {
    #[test]
    fn any_text_is_judged(token in ".{0,200}", dots in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
        let signer = Signer::new("k");
        prop_assert!(verify(&token, &[signer.key()], expected()).is_err());
        prop_assert!(verify(&dots, &[signer.key()], expected()).is_err());
    }
}
