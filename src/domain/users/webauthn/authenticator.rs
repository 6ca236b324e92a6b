//! An authenticator and its browser, in software: it makes a passkey and signs with it. For tests alone, here and of the
//! API; what it is told to do wrong it does.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// What a key signs with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Es256,
    EdDsa,
    Rs256,
}

enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
}

/// Somebody touched it, and it made sure who.
pub const VERIFIED: u8 = 0b101;
/// Somebody touched it.
pub const PRESENT: u8 = 0b001;

/// One passkey, and the browser around it.
pub struct Authenticator {
    pub id: Vec<u8>,
    pair: Pair,
    /// The counter of the last signature; 0 of one that does not count.
    pub counter: u32,
    pub flags: u8,
    /// Whose passkey it is, as it was told.
    pub handle: String,
    pub domain: String,
    pub origin: String,
    /// Whether the page stands inside one of somebody else.
    pub cross_origin: bool,
}

impl Authenticator {
    pub fn new(algorithm: Algorithm, id: u8, domain: &str, origin: &str) -> Self {
        let pair = match algorithm {
            Algorithm::Es256 => Pair::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()),
            Algorithm::EdDsa => Pair::EdDsa(Ed25519KeyPair::generate().unwrap()),
            Algorithm::Rs256 => Pair::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self {
            id: vec![id; 32],
            pair,
            counter: 0,
            flags: VERIFIED,
            handle: String::new(),
            domain: domain.to_owned(),
            origin: origin.to_owned(),
            cross_origin: false,
        }
    }

    /// What `navigator.credentials.create` gives for these options, as JSON.
    pub fn create(&mut self, options: &Value) -> Value {
        self.handle = options["user"]["id"].as_str().unwrap_or_default().to_owned();
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        let credential = [&[0; 16], &length[..], &self.id, &self.cose()].concat();
        let data = self.data(1 << 6, &credential);
        let object =
            [&[0xa3][..], &text("fmt"), &text("none"), &text("attStmt"), &[0xa0], &text("authData"), &bytes(&data)];
        let response = json!({
            "clientDataJSON": encode(&self.client_data("webauthn.create", &options["challenge"])),
            "attestationObject": encode(&object.concat()),
            "transports": ["internal", "hybrid"],
        });
        json!({
            "id": encode(&self.id), "rawId": encode(&self.id), "type": "public-key", "response": response,
            "clientExtensionResults": {}, "authenticatorAttachment": "platform",
        })
    }

    /// What `navigator.credentials.get` gives for these options, as JSON.
    pub fn get(&mut self, options: &Value) -> Value {
        if self.counter > 0 {
            self.counter += 1;
        }
        let data = self.data(0, &[]);
        let client_data = self.client_data("webauthn.get", &options["challenge"]);
        let signature = self.sign(&[&data, digest(&SHA256, &client_data).as_ref()].concat());
        let response = json!({
            "clientDataJSON": encode(&client_data),
            "authenticatorData": encode(&data),
            "signature": encode(&signature),
            "userHandle": self.handle,
        });
        json!({
            "id": encode(&self.id), "rawId": encode(&self.id), "type": "public-key", "response": response,
            "clientExtensionResults": {},
        })
    }

    fn client_data(&self, kind: &str, challenge: &Value) -> Vec<u8> {
        let (origin, cross) = (&self.origin, self.cross_origin);
        json!({ "type": kind, "challenge": challenge, "origin": origin, "crossOrigin": cross }).to_string().into_bytes()
    }

    fn data(&self, flags: u8, credential: &[u8]) -> Vec<u8> {
        let domain = digest(&SHA256, self.domain.as_bytes());
        [domain.as_ref(), &[self.flags | flags], &self.counter.to_be_bytes(), credential].concat()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Es256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// The public key, as RFC 9052 writes it.
    pub fn cose(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Es256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (bytes(&point[1..33]), bytes(&point[33..]));
                [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21][..], &x, &[0x22], &y].concat()
            }
            Pair::EdDsa(pair) => {
                [&[0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21][..], &bytes(pair.public_key().as_ref())].concat()
            }
            Pair::Rs256(pair) => {
                let key = pair.public_key();
                let n = bytes(key.modulus().big_endian_without_leading_zero());
                let e = bytes(key.exponent().big_endian_without_leading_zero());
                [&[0xa4, 1, 3, 3, 0x39, 1, 0, 0x20][..], &n, &[0x21], &e].concat()
            }
        }
    }
}

pub fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

// CBOR, as far as it is needed.

fn head(kind: u8, length: usize) -> Vec<u8> {
    let [.., high, low] = length.to_be_bytes();
    match length {
        0..24 => vec![kind << 5 | low],
        24..256 => vec![kind << 5 | 24, low],
        _ => vec![kind << 5 | 25, high, low],
    }
}

fn bytes(value: &[u8]) -> Vec<u8> {
    [head(2, value.len()), value.to_vec()].concat()
}

fn text(value: &str) -> Vec<u8> {
    [head(3, value.len()), value.as_bytes().to_vec()].concat()
}
