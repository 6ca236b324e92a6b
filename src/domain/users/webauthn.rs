//! What a browser hands over of a passkey (Web Authentication, Level 3), checked as its relying party.
//!
//! Invariants: what a passkey signed was signed for this installation's domain, on one of its pages, for the challenge
//! that was given, and not inside a page of somebody else. A public key is kept as its authenticator gave it (COSE), and
//! is one of those that are asked for: ES256, EdDSA, RS256. Who made an authenticator is not asked for (attestation is
//! "none"), and not believed when it is said.
//!
//! Whether a signature is that of a known passkey, whether its challenge was answered before and whose it is are not
//! known here: see `passkeys.rs`.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use ciborium::Value as Cbor;
use data_encoding::BASE64URL_NOPAD;
use oriel_kernel::{ErrorCode, Rejection};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The algorithms of the keys that are taken, by their COSE numbers, the best first: EdDSA, ES256, RS256.
pub const ALGORITHMS: [i64; 3] = [-8, -7, -257];

/// Bytes of a credential's id at most, as the standard has it.
const LONGEST_ID: usize = 1_023;
/// Bytes of a public key at most: RSA of 4096 bits, and what stands around it.
const LONGEST_KEY: usize = 640;

/// Whose passkeys these are: a domain, and the origins of the pages that may ask for them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelyingParty {
    id: String,
    origins: Vec<String>,
}

/// What a passkey has to sign: 32 random bytes, once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge(String);

/// A passkey that was made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewCredential {
    /// By which its authenticator knows it: base64url.
    pub id: String,
    /// COSE, base64url.
    pub public_key: String,
    /// How often it has signed, if its authenticator counts.
    pub counter: u32,
    /// How its authenticator is reached, such as `internal` or `usb`.
    pub transports: Vec<String>,
    /// Whether it is kept elsewhere too.
    pub backed_up: bool,
    /// Whether its authenticator made sure that it was its person.
    pub verified: bool,
}

/// What a passkey has signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Assertion {
    /// By which its authenticator knows it: base64url.
    pub credential: String,
    /// Whose passkey it says it is.
    pub handle: Option<String>,
    /// How often it has signed, if its authenticator counts.
    pub counter: u32,
    /// Whether it is kept elsewhere too.
    pub backed_up: bool,
    /// Whether its authenticator made sure that it was its person.
    pub verified: bool,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCredential").field("verified", &self.verified).finish_non_exhaustive()
    }
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertion").field("verified", &self.verified).finish_non_exhaustive()
    }
}

impl Challenge {
    /// How many random bytes it is made of.
    pub const BYTES: usize = 32;

    /// From random bytes.
    pub fn new(bytes: &[u8; Self::BYTES]) -> Self {
        Self(BASE64URL_NOPAD.encode(bytes))
    }

    /// From what [`Challenge::as_str`] gave.
    pub fn parse(text: &str) -> Option<Self> {
        (decoded(text)?.len() == Self::BYTES).then(|| Self(text.to_owned()))
    }

    /// As options and client data write it: base64url.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// --- what a browser hands over, as JSON (`PublicKeyCredential.toJSON`) ---------------------------------------------

#[derive(Deserialize)]
struct Credential<R> {
    #[serde(rename = "rawId")]
    id: String,
    #[serde(rename = "type")]
    kind: String,
    response: R,
}

#[derive(Deserialize)]
struct Attested {
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    #[serde(rename = "attestationObject")]
    object: String,
    #[serde(default)]
    transports: Vec<String>,
}

#[derive(Deserialize)]
struct Asserted {
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    #[serde(rename = "authenticatorData")]
    authenticator_data: String,
    signature: String,
    #[serde(default, rename = "userHandle")]
    handle: Option<String>,
}

#[derive(Deserialize)]
struct ClientData {
    #[serde(rename = "type")]
    kind: String,
    challenge: String,
    origin: String,
    #[serde(default, rename = "crossOrigin")]
    cross_origin: bool,
}

/// `INVALID`: it is not what a browser makes.
fn malformed() -> Rejection {
    let message = "This is not what `toJSON()` of a browser's `PublicKeyCredential` gives.";
    Rejection::new(ErrorCode::Invalid, message).at("credential")
}

/// `INVALID_CREDENTIALS`: it was made for something else.
fn elsewhere(message: impl Into<String>) -> Rejection {
    Rejection::new(ErrorCode::InvalidCredentials, message).at("credential")
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    // Some write the padding.
    BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()).ok()
}

fn credential<R: DeserializeOwned>(said: &Value) -> Result<(String, R), Rejection> {
    let credential = Credential::<R>::deserialize(said).map_err(|_| malformed())?;
    let id = decoded(&credential.id).filter(|id| (1..=LONGEST_ID).contains(&id.len())).ok_or_else(malformed)?;
    if credential.kind != "public-key" {
        return Err(malformed());
    }
    Ok((BASE64URL_NOPAD.encode(&id), credential.response))
}

impl RelyingParty {
    /// Of a domain, with the origins of its pages: `https://app.example.org`.
    pub fn new(id: impl Into<String>, origins: Vec<String>) -> Self {
        Self { id: id.into(), origins }
    }

    /// The domain.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The passkey that was made for this challenge.
    ///
    /// # Errors
    /// `INVALID` when it is nothing that a browser makes, or its key is none of those that were asked for;
    /// `INVALID_CREDENTIALS` when it was made for something else.
    pub fn registered(&self, said: &Value, challenge: &Challenge) -> Result<NewCredential, Rejection> {
        let (id, response) = credential::<Attested>(said)?;
        let client_data = decoded(&response.client_data).ok_or_else(malformed)?;
        self.check(&client_data, "webauthn.create", challenge)?;
        let object = decoded(&response.object).ok_or_else(malformed)?;
        let object: Cbor = ciborium::from_reader(object.as_slice()).map_err(|_| malformed())?;
        let entries = object.as_map().ok_or_else(malformed)?;
        let data = entries.iter().find(|(key, _)| key.as_text() == Some("authData"));
        let data = data.and_then(|(_, data)| data.as_bytes()).ok_or_else(malformed)?;
        let data = AuthenticatorData::read(data).ok_or_else(malformed)?;
        self.is_for_this(&data)?;
        let (named, key) = data.credential.ok_or_else(malformed)?;
        if BASE64URL_NOPAD.encode(named) != id {
            return Err(malformed());
        }
        if key.len() > LONGEST_KEY || !PublicKey::read(key).is_some_and(|key| key.is_sound()) {
            let message = "The key of this passkey is none of those that were asked for: EdDSA, ES256, RS256.";
            return Err(Rejection::new(ErrorCode::Invalid, message).at("credential"));
        }
        let known =
            |name: &String| (1..=20).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        Ok(NewCredential {
            id,
            public_key: BASE64URL_NOPAD.encode(key),
            counter: data.counter,
            transports: response.transports.into_iter().filter(known).take(8).collect(),
            backed_up: data.has(AuthenticatorData::BACKED_UP),
            verified: data.has(AuthenticatorData::VERIFIED),
        })
    }

    /// What a passkey has signed for this challenge. Whose signature it is has yet to be looked at.
    ///
    /// # Errors
    /// `INVALID` when it is nothing that a browser makes; `INVALID_CREDENTIALS` when it was made for something else.
    pub fn asserted(&self, said: &Value, challenge: &Challenge) -> Result<Assertion, Rejection> {
        let (credential, response) = credential::<Asserted>(said)?;
        let client_data = decoded(&response.client_data).ok_or_else(malformed)?;
        self.check(&client_data, "webauthn.get", challenge)?;
        let mut signed = decoded(&response.authenticator_data).ok_or_else(malformed)?;
        let data = AuthenticatorData::read(&signed).ok_or_else(malformed)?;
        self.is_for_this(&data)?;
        let (counter, backed_up, verified) =
            (data.counter, data.has(AuthenticatorData::BACKED_UP), data.has(AuthenticatorData::VERIFIED));
        let handle = response.handle.filter(|handle| !handle.is_empty());
        let handle = handle.map(|handle| decoded(&handle).ok_or_else(malformed)).transpose()?;
        let signature = decoded(&response.signature).ok_or_else(malformed)?;
        signed.extend_from_slice(digest(&SHA256, &client_data).as_ref());
        let handle = handle.map(|handle| BASE64URL_NOPAD.encode(&handle));
        Ok(Assertion { credential, handle, counter, backed_up, verified, signed, signature })
    }

    fn check(&self, client_data: &[u8], kind: &str, challenge: &Challenge) -> Result<(), Rejection> {
        let said: ClientData = serde_json::from_slice(client_data).map_err(|_| malformed())?;
        if said.kind != kind {
            return Err(elsewhere(format!("This is `{}`, and not `{kind}`.", said.kind)));
        }
        if said.challenge != challenge.0 {
            return Err(elsewhere("This was made for another challenge. Begin again."));
        }
        if said.cross_origin || !self.origins.contains(&said.origin) {
            let message = format!(
                "This was made on a page of `{}`, which is none of this installation's: see its settings `base_url`, \
                 `cors_origins` and `passkey_domain`.",
                said.origin
            );
            return Err(elsewhere(message));
        }
        Ok(())
    }

    fn is_for_this(&self, data: &AuthenticatorData<'_>) -> Result<(), Rejection> {
        if data.domain_hash != digest(&SHA256, self.id.as_bytes()).as_ref() {
            return Err(elsewhere("This passkey belongs to another domain."));
        }
        if !data.has(AuthenticatorData::PRESENT) {
            return Err(elsewhere("Nobody touched the authenticator."));
        }
        Ok(())
    }
}

impl Assertion {
    /// Whether it was signed with the private half of this key.
    pub fn is_signed_by(&self, public_key: &str) -> bool {
        let cose = decoded(public_key);
        let key = cose.as_deref().and_then(PublicKey::read);
        key.is_some_and(|key| key.verifies(&self.signed, &self.signature))
    }
}

// --- what an authenticator hands over ------------------------------------------------------------------------------

/// Authenticator data: 32 bytes, flags, a counter, then what the flags say.
struct AuthenticatorData<'a> {
    domain_hash: &'a [u8],
    flags: u8,
    counter: u32,
    /// Its id and its key.
    credential: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> AuthenticatorData<'a> {
    const PRESENT: u8 = 1;
    const VERIFIED: u8 = 1 << 2;
    const MAY_BE_BACKED_UP: u8 = 1 << 3;
    const BACKED_UP: u8 = 1 << 4;
    const HAS_CREDENTIAL: u8 = 1 << 6;
    const HAS_EXTENSIONS: u8 = 1 << 7;

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (domain_hash, rest) = bytes.split_at_checked(32)?;
        let (&flags, rest) = rest.split_first()?;
        let (counter, mut rest) = rest.split_first_chunk::<4>()?;
        let has = |flag| flags & flag != 0;
        if has(Self::BACKED_UP) && !has(Self::MAY_BE_BACKED_UP) {
            return None;
        }
        let mut credential = None;
        if has(Self::HAS_CREDENTIAL) {
            // First who made the authenticator.
            let (_, after) = rest.split_at_checked(16)?;
            let (length, after) = after.split_first_chunk::<2>()?;
            let (id, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            let (key, after) = first_item(after)?;
            credential = Some((id, key));
            rest = after;
        }
        if has(Self::HAS_EXTENSIONS) {
            (_, rest) = first_item(rest)?;
        }
        let counter = u32::from_be_bytes(*counter);
        rest.is_empty().then_some(Self { domain_hash, flags, counter, credential })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The bytes of the first CBOR item, and those behind it.
fn first_item(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    ciborium::from_reader::<Cbor, _>(&mut rest).ok()?;
    Some(bytes.split_at(bytes.len() - rest.len()))
}

/// A public key (COSE, RFC 9052).
enum PublicKey {
    /// The point, not compressed.
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
    Rs256 {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl PublicKey {
    fn read(cose: &[u8]) -> Option<Self> {
        let (whole, rest) = first_item(cose)?;
        let item: Cbor = ciborium::from_reader(whole).ok()?;
        let entries = item.as_map().filter(|_| rest.is_empty())?;
        let at = |label: i128| {
            entries.iter().find(|(key, _)| key.as_integer().map(i128::from) == Some(label)).map(|(_, value)| value)
        };
        let number = |label| at(label).and_then(Cbor::as_integer).map(i128::from);
        let bytes = |label, length: std::ops::RangeInclusive<usize>| {
            at(label).and_then(Cbor::as_bytes).filter(|bytes| length.contains(&bytes.len())).cloned()
        };
        // Key type, algorithm and curve.
        match (number(1)?, number(3)?, number(-1)) {
            (2, -7, Some(1)) => Some(Self::Es256([vec![4], bytes(-2, 32..=32)?, bytes(-3, 32..=32)?].concat())),
            (1, -8, Some(6)) => Some(Self::EdDsa(bytes(-2, 32..=32)?)),
            (3, -257, None) => Some(Self::Rs256 { n: bytes(-1, 256..=512)?, e: bytes(-2, 1..=4)? }),
            _ => None,
        }
    }

    /// Whether it is a key at all: the point is on its curve.
    fn is_sound(&self) -> bool {
        match self {
            Self::Es256(point) => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).is_ok(),
            Self::EdDsa(point) => ParsedPublicKey::new(&ED25519, point).is_ok(),
            Self::Rs256 { n, e } => n[0] != 0 && e[0] != 0 && e.last().is_some_and(|last| last % 2 == 1),
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let point = |key: Result<ParsedPublicKey, _>| key.is_ok_and(|key| key.verify_sig(message, signature).is_ok());
        match self {
            Self::Es256(key) => point(ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)),
            Self::EdDsa(key) => point(ParsedPublicKey::new(&ED25519, key)),
            Self::Rs256 { n, e } => {
                PublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod authenticator;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::authenticator::{Algorithm, Authenticator, PRESENT, encode};
    use super::*;

    const PAGE: &str = "https://app.example.org";

    fn here() -> RelyingParty {
        RelyingParty::new("example.org", vec![PAGE.to_owned(), "https://example.org".to_owned()])
    }

    fn challenge(n: u8) -> Challenge {
        Challenge::new(&[n; Challenge::BYTES])
    }

    fn options(challenge: &Challenge) -> Value {
        json!({ "challenge": challenge.as_str(), "user": { "id": "aGFuZGxl" } })
    }

    fn device(algorithm: Algorithm) -> Authenticator {
        Authenticator::new(algorithm, 7, "example.org", PAGE)
    }

    fn refused<T: fmt::Debug>(answer: Result<T, Rejection>) -> ErrorCode {
        let rejection = answer.unwrap_err();
        assert_eq!(rejection.field, "credential");
        rejection.code
    }

    #[test]
    fn what_a_passkey_signs_is_known_by_its_key_alone() {
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256] {
            let (mut one, mut other) = (device(algorithm), device(algorithm));
            let made = here().registered(&one.create(&options(&challenge(1))), &challenge(1)).unwrap();
            assert_eq!((made.id.as_str(), made.counter, made.verified), (encode(&one.id).as_str(), 0, true));
            assert_eq!((made.public_key.as_str(), made.backed_up), (encode(&one.cose()).as_str(), false));
            assert_eq!(made.transports, ["internal", "hybrid"]);
            let signed = here().asserted(&one.get(&options(&challenge(2))), &challenge(2)).unwrap();
            assert!(signed.is_signed_by(&made.public_key), "{algorithm:?}");
            assert_eq!((signed.credential.as_str(), signed.handle.as_deref()), (made.id.as_str(), Some("aGFuZGxl")));
            let theirs = here().asserted(&other.get(&options(&challenge(2))), &challenge(2)).unwrap();
            assert!(!theirs.is_signed_by(&made.public_key), "{algorithm:?}");
            for key in ["", "x", &made.public_key[..20]] {
                assert!(!signed.is_signed_by(key), "{key}");
            }
        }
    }

    #[test]
    fn what_was_made_for_something_else_is_refused() {
        let wrong = ErrorCode::InvalidCredentials;
        let created = |change: &dyn Fn(&mut Authenticator)| {
            let mut device = device(Algorithm::EdDsa);
            change(&mut device);
            here().registered(&device.create(&options(&challenge(1))), &challenge(1))
        };
        let asserted = |change: &dyn Fn(&mut Authenticator)| {
            let mut device = device(Algorithm::EdDsa);
            change(&mut device);
            here().asserted(&device.get(&options(&challenge(1))), &challenge(1))
        };
        for origin in ["https://evil.example", "http://app.example.org", "https://app.example.org:444", "null", ""] {
            assert_eq!(refused(created(&|device| device.origin = origin.to_owned())), wrong, "{origin}");
            assert_eq!(refused(asserted(&|device| device.origin = origin.to_owned())), wrong, "{origin}");
        }
        assert_eq!(refused(created(&|device| device.domain = "app.example.org".to_owned())), wrong);
        assert_eq!(refused(asserted(&|device| device.domain = "evil.example".to_owned())), wrong);
        assert_eq!(refused(asserted(&|device| device.cross_origin = true)), wrong);
        assert_eq!(refused(asserted(&|device| device.flags = 0)), wrong);
        assert!(!asserted(&|device| device.flags = PRESENT).unwrap().verified);
        assert_eq!(refused(asserted(&|device| device.flags = PRESENT | 1 << 4)), ErrorCode::Invalid, "not possible");

        let mut device = device(Algorithm::EdDsa);
        let made = device.create(&options(&challenge(1)));
        assert_eq!(refused(here().registered(&made, &challenge(2))), wrong, "another challenge");
        let signed = device.get(&options(&challenge(1)));
        assert_eq!(refused(here().asserted(&signed, &challenge(2))), wrong, "another challenge");
        // One is not the other.
        let mut mixed = made.clone();
        mixed["response"]["clientDataJSON"] = signed["response"]["clientDataJSON"].clone();
        assert_eq!(refused(here().registered(&mixed, &challenge(1))), wrong);
    }

    #[test]
    fn a_key_that_was_not_asked_for_is_refused() {
        let mut device = device(Algorithm::Es256);
        let mut made = device.create(&options(&challenge(1)));
        let object = decoded(made["response"]["attestationObject"].as_str().unwrap()).unwrap();
        let cose = device.cose();
        let at = object.windows(cose.len()).position(|window| window == cose).unwrap();
        // Another algorithm, another curve, and a point that is on none.
        for (byte, value) in [(4, 0x25), (6, 2), (12, cose[12] ^ 1), (0, 0xa4)] {
            let mut changed = object.clone();
            changed[at + byte] = value;
            made["response"]["attestationObject"] = encode(&changed).into();
            assert_eq!(refused(here().registered(&made, &challenge(1))), ErrorCode::Invalid, "{byte}");
        }
        made["response"]["attestationObject"] = encode(&object).into();
        assert!(here().registered(&made, &challenge(1)).is_ok());
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let mut device = device(Algorithm::Es256);
        let made = here().registered(&device.create(&options(&challenge(1))), &challenge(1)).unwrap();
        let signed = device.get(&options(&challenge(2)));
        let data = decoded(signed["response"]["authenticatorData"].as_str().unwrap()).unwrap();
        for byte in 32..data.len() {
            let (mut changed, mut other) = (data.clone(), signed.clone());
            changed[byte] ^= 2;
            other["response"]["authenticatorData"] = encode(&changed).into();
            let good = here().asserted(&other, &challenge(2)).is_ok_and(|a| a.is_signed_by(&made.public_key));
            assert!(!good, "byte {byte}");
        }
    }

    /// The test vectors of the standard (Web Authentication Level 3, section 16: <https://www.w3.org/TR/webauthn-3/>): for
    /// each algorithm a passkey that was made, and what it signed.
    #[test]
    fn the_examples_of_the_standard_are_good() {
        let text = include_str!("webauthn/vectors.json");
        let here = RelyingParty::new("example.org", vec!["https://example.org".to_owned()]);
        let bytes = |value: &Value| data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
        let examples: Vec<Value> = serde_json::from_str(text).unwrap();
        assert_eq!(examples.len(), 5);
        for example in &examples {
            let (name, id) = (&example["name"], encode(&bytes(&example["registration"]["credential_id"])));
            let said = |part: &Value, fields: &[&str]| {
                let response = fields.iter().map(|&field| (field.to_owned(), json!(encode(&bytes(&part[field])))));
                let response: serde_json::Map<_, _> = response.collect();
                json!({ "id": id, "rawId": id, "type": "public-key", "response": response })
            };
            let challenge = |part: &Value| Challenge::new(&bytes(&part["challenge"]).try_into().unwrap());
            let part = &example["registration"];
            let made = here.registered(&said(part, &["clientDataJSON", "attestationObject"]), &challenge(part));
            let made = made.unwrap_or_else(|rejection| panic!("{name}: {rejection:?}"));
            let part = &example["authentication"];
            let signed = said(part, &["clientDataJSON", "authenticatorData", "signature"]);
            let signed = here.asserted(&signed, &challenge(part)).unwrap();
            assert!(signed.is_signed_by(&made.public_key), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(data: Vec<u8>, key: Vec<u8>, cut in 0usize..200) {
            let _ = AuthenticatorData::read(&data);
            let _ = PublicKey::read(&key).map(|key| key.is_sound() && key.verifies(b"x", &data));
            let mut device = device(Algorithm::EdDsa);
            let mut made = device.create(&options(&challenge(1)));
            let object = decoded(made["response"]["attestationObject"].as_str().unwrap()).unwrap();
            made["response"]["attestationObject"] = encode(&object[..cut.min(object.len() - 1)]).into();
            prop_assert!(here().registered(&made, &challenge(1)).is_err());
            made["response"]["attestationObject"] = encode(&data).into();
            prop_assert!(here().registered(&made, &challenge(1)).is_err());
        }
    }
}
