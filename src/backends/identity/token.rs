//! The ID token: what is believed of it, and what it says.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use oriel_kernel::Timestamp;
use serde_json::{Map, Value};

/// The algorithms that are believed. None of them can be had with what a client knows.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// How far clocks may be apart, in seconds.
const APART: i64 = 60;
/// How long before it is shown a token can have been made, in seconds.
const OLDEST: i64 = 600;

/// What a token has to say.
#[derive(Clone, Copy)]
pub(super) struct Expected<'a> {
    pub issuer: &'a str,
    pub client: &'a str,
    pub nonce: &'a str,
    pub now: Timestamp,
}

/// Why a token is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// None of the keys fits: there may be newer ones.
    UnknownKey,
    /// For this reason.
    Bad(&'static str),
}

impl Verdict {
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::UnknownKey => "its token is signed with a key that it does not publish",
            Self::Bad(why) => why,
        }
    }
}

/// What a provider says about a person.
#[derive(Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

/// Names what is said, and says nothing of it.
impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Claims {
    /// Who it is to the provider: the same for ever.
    pub fn subject(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A claim that says yes or no; some providers write it as a text.
    pub fn flag(&self, name: &str) -> bool {
        match self.0.get(name) {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(text)) => text == "true",
            _ => false,
        }
    }

    /// The values of a claim: a text, a list of texts, or an object's keys. The name may be a path of names with dots.
    pub fn values(&self, name: &str) -> Vec<String> {
        match self.find(name) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::Object(all)) => all.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| {
            let mut parts = name.split('.');
            let first = self.0.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.get(part))
        })
    }

    /// What the provider says besides; what the token says stays.
    pub(super) fn add(&mut self, more: Map<String, Value>) -> Result<(), &'static str> {
        if more.get("sub").and_then(Value::as_str) != Some(self.subject()) {
            return Err("it says about another person what it was asked about this one");
        }
        for (name, value) in more {
            self.0.entry(name).or_insert(value);
        }
        Ok(())
    }
}

/// What a token says, if it is to be believed.
pub(super) fn verify(token: &str, keys: &[Jwk], expected: Expected<'_>) -> Result<Claims, Verdict> {
    let unsigned = "its token is not signed by RS256, ES256 or EdDSA";
    let header = jsonwebtoken::decode_header(token).map_err(|_| Verdict::Bad(unsigned))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Verdict::Bad(unsigned));
    }
    let named = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
    let mut fitting = keys.iter().filter(named).filter(|key| fits(key, header.alg)).peekable();
    if fitting.peek().is_none() {
        return Err(Verdict::UnknownKey);
    }
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[expected.issuer]);
    validation.set_audience(&[expected.client]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // Against the injected clock, not the machine's.
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    let mut believed = None;
    for key in fitting.take(10) {
        let Ok(key) = DecodingKey::from_jwk(key) else { continue };
        believed = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation).ok();
        if believed.is_some() {
            break;
        }
    }
    let not_ours = "its token is not signed with its key, or not by it, or not for this client";
    let claims = believed.ok_or(Verdict::Bad(not_ours))?.claims;
    must_be_meant(&claims, expected)?;
    Ok(Claims(claims))
}

/// What a signature does not say: for whom, when and for which attempt.
fn must_be_meant(claims: &Map<String, Value>, expected: Expected<'_>) -> Result<(), Verdict> {
    let moment = |name: &str| claims.get(name).and_then(|value| value.as_i64().or(value.as_f64().map(|s| s as i64)));
    let now = expected.now.timestamp();
    if moment("exp").is_none_or(|end| end.saturating_add(APART) <= now) {
        return Err(Verdict::Bad("its token has ended"));
    }
    if moment("iat").is_none_or(|made| made > now + APART || made < now - OLDEST) {
        return Err(Verdict::Bad("its token was not made just now"));
    }
    if moment("nbf").is_some_and(|begin| begin > now + APART) {
        return Err(Verdict::Bad("its token is not good yet"));
    }
    let audiences = claims.get("aud").and_then(Value::as_array).map_or(1, Vec::len);
    match claims.get("azp").map(Value::as_str) {
        Some(Some(party)) if party == expected.client => {}
        None if audiences == 1 => {}
        _ => return Err(Verdict::Bad("its token was given to another client")),
    }
    if claims.get("nonce").and_then(Value::as_str) != Some(expected.nonce) {
        return Err(Verdict::Bad("its token belongs to another attempt"));
    }
    match claims.get("sub").and_then(Value::as_str) {
        Some(subject) if (1..=255).contains(&subject.len()) => Ok(()),
        _ => Err(Verdict::Bad("its token does not say who it is about")),
    }
}

/// Whether a key is one for this algorithm: what signs with one is not taken for what signs with another.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), Algorithm::RS256) => true,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => key.curve == EllipticCurve::P256,
        (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let signs = key.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let meant = key.common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    kind && signs && meant
}
