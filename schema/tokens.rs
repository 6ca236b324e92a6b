//! Tokens: short-lived access tokens (JWT, EdDSA) and refresh tokens of which only a hash is kept.
//!
//! The signing keys are rows wrapped by the master key, so that every node signs and verifies with the same ones. A
//! token names the session; whether that still lives is asked at each request, so that a revocation takes effect at
//! once.
//!
//! **Rotation.** A new key is published at once and signs after [`SETTLED`], when every node knows it; the one before it
//! is published, and verifies, until no token that it signed can be good any more. So nobody is signed out.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_graphql::{Context, InputObject};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use oriel_domain::organizations::AddSigningKey;
use oriel_engine::{CommandContext, CommandError, Engine};
use oriel_kernel::{MemberId, OrganizationId, SessionId, Timestamp, UserId, operations};
use oriel_read_models::organizations;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::access::{derived_command, unavailable};
use crate::payload::payloads;
use crate::services::Services;

/// The name of the secrets that tokens are signed with.
const SIGNING: &str = "signing";
/// How long a new key is known before it signs. Nodes look for new ones at least twice as often.
pub const SETTLED: Duration = Duration::from_secs(120);
/// No access token is good for longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// When a key is replaced by itself.
const OLD: Duration = Duration::from_secs(90 * 24 * 3600);

/// What an access token says. RFC 7519 names, and the session, member and organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// The person.
    pub sub: UserId,
    /// The session.
    pub sid: SessionId,
    /// The organisation.
    pub org: OrganizationId,
    /// The person in that organisation.
    pub mbr: MemberId,
    /// When it was issued, in seconds since 1970.
    pub iat: i64,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
}

/// Makes and checks tokens.
pub struct Tokens {
    keys: ArcSwap<Keys>,
    random: SystemRandom,
}

/// The keys that are published, the oldest first.
struct Keys {
    all: Vec<Key>,
    /// Which of them signs.
    signing: usize,
}

struct Key {
    encoding: EncodingKey,
    decoding: DecodingKey,
    public: Vec<u8>,
    id: String,
}

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the signing key cannot be used")]
pub struct BadKey;

/// The signing keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// They cannot be read.
    #[error(transparent)]
    Read(#[from] oriel_engine::keyring::KeyError),
    /// The organisation that operates the installation cannot be read.
    #[error(transparent)]
    Operator(#[from] sea_orm::DbErr),
    /// That one is added cannot be written.
    #[error(transparent)]
    Log(#[from] CommandError),
    /// They cannot be used.
    #[error(transparent)]
    Bad(#[from] BadKey),
}

const ISSUER: &str = "oriel";

impl Tokens {
    /// With the one key that this secret gives.
    ///
    /// # Errors
    /// When the cipher library refuses it.
    pub fn new(seed: &[u8; 32]) -> Result<Self, BadKey> {
        let keys = Keys { all: vec![Key::new(seed)?], signing: 0 };
        Ok(Self { keys: ArcSwap::from_pointee(keys), random: SystemRandom::new() })
    }

    /// With the keys of the installation; the first is made if there is none.
    ///
    /// # Errors
    /// When they cannot be read or used.
    pub async fn open(engine: &Engine) -> Result<Self, KeysError> {
        let tokens = Self::new(&*engine.keyring().secret(SIGNING, engine.now()).await?)?;
        tokens.renew(engine).await?;
        Ok(tokens)
    }

    /// Reads the keys anew: another node, or an operator, may have added one. One that is old is replaced.
    ///
    /// # Errors
    /// When they cannot be read or used.
    pub async fn renew(&self, engine: &Engine) -> Result<(), KeysError> {
        let now = engine.now();
        let mut secrets = engine.keyring().secrets(SIGNING).await?;
        if secrets.last().is_some_and(|(since, _)| *since + OLD <= now) {
            // The same for every node that notices at this moment: one of them adds it.
            let id = derived_command(&format!("signing_key/{}", secrets.len()));
            if let Some(organization) = organizations::first(engine.database().reader()).await? {
                let context = CommandContext::system(id, organization, now);
                engine.execute(&context, organization, AddSigningKey).await?;
            }
            engine.keyring().add_secret(SIGNING, id.uuid(), now).await?;
            secrets = engine.keyring().secrets(SIGNING).await?;
        }
        let seeds: Vec<(Timestamp, &[u8; 32])> = secrets.iter().map(|(since, seed)| (*since, &**seed)).collect();
        self.keys.store(Arc::new(Keys::at(&seeds, now)?));
        Ok(())
    }

    /// The public keys, as RFC 7517 and RFC 8037 write them: for whoever verifies access tokens themselves.
    pub fn published(&self) -> serde_json::Value {
        let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        let keys = self.keys.load();
        let keys: Vec<_> = keys
            .all
            .iter()
            .map(|key| {
                json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.id, "x": encode(&key.public) })
            })
            .collect();
        json!({ "keys": keys })
    }

    /// An access token.
    ///
    /// # Errors
    /// When the cipher library fails.
    pub fn sign(
        &self,
        user: UserId,
        session: SessionId,
        organization: OrganizationId,
        member: MemberId,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<(String, Timestamp), BadKey> {
        let expires = now + ttl;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: user,
            sid: session,
            org: organization,
            mbr: member,
            iat: now.timestamp(),
            exp: expires.timestamp(),
        };
        let keys = self.keys.load();
        let key = &keys.all[keys.signing];
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key.id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &key.encoding).map_err(|_| BadKey)?;
        Ok((token, expires))
    }

    /// What a token says, if it is ours and has not ended.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        // Against the injected clock, not the machine's.
        validation.validate_exp = false;
        let keys = self.keys.load();
        let named = jsonwebtoken::decode_header(token).ok()?.kid?;
        let key = keys.all.iter().find(|key| key.id == named)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation).ok()?.claims;
        (claims.exp > now.timestamp()).then_some(claims)
    }

    /// A refresh token of this session, and the hash to keep.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn refresh_token(&self, session: SessionId) -> Result<(String, String), BadKey> {
        let mut secret = [0; 32];
        self.random.fill(&mut secret).map_err(|_| BadKey)?;
        let token = format!("{session}.{}", data_encoding::BASE64URL_NOPAD.encode(&secret));
        let hash = refresh_hash(&token);
        Ok((token, hash))
    }
}

impl Keys {
    /// Which keys there are at this moment, of all that were ever made: the oldest first.
    fn at(seeds: &[(Timestamp, &[u8; 32])], now: Timestamp) -> Result<Self, BadKey> {
        let signs_from = |since: Timestamp| since + SETTLED;
        let ended =
            |next: Option<&(Timestamp, &[u8; 32])>| next.is_some_and(|(since, _)| signs_from(*since) + LONGEST <= now);
        let kept = seeds.iter().enumerate().filter(|(n, _)| !ended(seeds.get(n + 1))).map(|(_, seed)| seed);
        let kept: Vec<_> = kept.collect();
        let all = kept.iter().map(|(_, seed)| Key::new(seed)).collect::<Result<Vec<_>, _>>()?;
        let signing = kept.iter().rposition(|(since, _)| signs_from(*since) <= now).unwrap_or(0);
        if all.is_empty() { Err(BadKey) } else { Ok(Self { all, signing }) }
    }
}

impl Key {
    fn new(seed: &[u8; 32]) -> Result<Self, BadKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| BadKey)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| BadKey)?;
        let public = pair.public_key().as_ref().to_vec();
        let id = data_encoding::BASE64URL_NOPAD.encode(&digest(&SHA256, &public).as_ref()[..9]);
        let (encoding, decoding) = (EncodingKey::from_ed_der(pkcs8.as_ref()), DecodingKey::from_ed_der(&public));
        Ok(Self { encoding, decoding, public, id })
    }
}

/// What can be done with the keys.
#[derive(Default)]
pub struct TokenMutation;

payloads! {
    /// What became of adding a key.
    SigningKeyRotatePayload {
        /// The ids of the keys that are published at `/.well-known/jwks.json`, the oldest first.
        key_ids: Vec<String>,
    }
}

#[operations(mutation)]
impl TokenMutation {
    /// Adds a key that access tokens are signed with from two minutes from now on. Those that were signed before stay
    /// good until they end, and nobody is signed out. It happens by itself every 90 days.
    #[permission("system:manage")]
    async fn signing_key_rotate(
        &self,
        cx: &Context<'_>,
        input: Option<SigningKeyRotateInput>,
    ) -> crate::access::Result<SigningKeyRotatePayload> {
        let services = Services::of(cx)?;
        let engine = &services.engine;
        let context = granted.command(cx, &input)?;
        // First that it is done, by whom; then, under the id of the command, so that a repetition adds none.
        let done = engine.execute(&context, granted.viewer()?.organization, AddSigningKey).await?;
        engine.keyring().add_secret(SIGNING, context.command.uuid(), context.now).await.map_err(unavailable)?;
        services.tokens.renew(engine).await.map_err(unavailable)?;
        let by = granted.viewer()?;
        tracing::info!(user = %by.user, member = %by.member, "a key was added that access tokens are signed with");
        let key_ids = services.tokens.keys.load().all.iter().map(|key| key.id.clone()).collect();
        Ok(SigningKeyRotatePayload { key_ids: Some(key_ids), user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// Adding a key needs nothing.
#[derive(InputObject)]
struct SigningKeyRotateInput {
    /// Makes a retry safe: the same key adds one.
    idempotency_key: Option<String>,
}

/// The session that a refresh token names, and the token's hash.
pub fn read_refresh_token(token: &str) -> Option<(SessionId, String)> {
    let (session, _) = token.split_once('.')?;
    Some((session.parse().ok()?, refresh_hash(token)))
}

fn refresh_hash(token: &str) -> String {
    data_encoding::BASE64URL_NOPAD.encode(digest(&SHA256, token.as_bytes()).as_ref())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use oriel_kernel::Id;
    use uuid::Uuid;

    fn sign(tokens: &Tokens, now: Timestamp) -> String {
        let id = Uuid::from_u128(7);
        let ttl = Duration::from_secs(900);
        tokens.sign(Id::from_uuid(id), Id::from_uuid(id), Id::from_uuid(id), Id::from_uuid(id), now, ttl).unwrap().0
    }

    #[test]
    fn a_token_holds_until_it_ends_and_only_here() {
        let now = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        let tokens = Tokens::new(&[1; 32]).unwrap();
        let token = sign(&tokens, now);
        assert!(tokens.verify(&token, now).is_some());
        assert!(tokens.verify(&token, now + Duration::from_secs(899)).is_some());
        assert_eq!(tokens.verify(&token, now + Duration::from_secs(900)), None);
        assert_eq!(Tokens::new(&[2; 32]).unwrap().verify(&token, now), None);
        let mut forged = token.clone();
        forged.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
        assert_eq!(tokens.verify(&forged, now), None);
    }

    #[test]
    fn a_new_key_signs_after_a_while_and_the_one_before_it_verifies_as_long_as_its_tokens() {
        let start = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        let (one, two) = ([1; 32], [2; 32]);
        let at = |after: Duration| {
            let keys = Keys::at(&[(start, &one), (start + Duration::from_secs(1_000), &two)], start + after).unwrap();
            (keys.all.len(), keys.signing)
        };
        let rotated = Duration::from_secs(1_000);
        assert_eq!(at(rotated), (2, 0), "published, and not used yet");
        assert_eq!(at(rotated + SETTLED), (2, 1));
        assert_eq!(at(rotated + SETTLED + LONGEST), (1, 0), "nothing that the first has signed is good any more");
        assert!(Keys::at(&[], start).is_err());
        assert_eq!(Keys::at(&[(start, &one)], start).map(|keys| keys.signing).ok(), Some(0), "the first signs at once");

        let tokens = Tokens::new(&one).unwrap();
        let before = sign(&tokens, start);
        tokens.keys.store(Arc::new(Keys::at(&[(start, &one), (start, &two)], start + SETTLED).unwrap()));
        let after = sign(&tokens, start);
        assert!(tokens.verify(&before, start).is_some() && tokens.verify(&after, start).is_some());
        let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        assert_ne!(kid(&before), kid(&after));
        assert_eq!(tokens.published()["keys"][1]["kid"], kid(&after));
    }

    #[test]
    fn a_forged_token_is_none() {
        let now = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        let tokens = Tokens::new(&[1; 32]).unwrap();
        let good = sign(&tokens, now);
        let (said, signature) = good.rsplit_once('.').unwrap();
        let (header, claims) = said.split_once('.').unwrap();
        let encode = |value: serde_json::Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let kid = jsonwebtoken::decode_header(&good).unwrap().kid.unwrap();
        // Without a signature, however `none` is written.
        for alg in ["none", "None", "NONE"] {
            let header = encode(json!({ "alg": alg, "typ": "JWT", "kid": kid }));
            assert_eq!(tokens.verify(&format!("{header}.{claims}."), now), None);
            assert_eq!(tokens.verify(&format!("{header}.{claims}.{signature}"), now), None);
        }
        // Signed with the public key as if it were a shared secret.
        let public = tokens.keys.load().all[0].public.clone();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
        let confused = format!("{}.{claims}", encode(json!({ "alg": "HS256", "typ": "JWT", "kid": kid })));
        let mac = data_encoding::BASE64URL_NOPAD.encode(aws_lc_rs::hmac::sign(&key, confused.as_bytes()).as_ref());
        assert_eq!(tokens.verify(&format!("{confused}.{mac}"), now), None);
        // With a key that the token brings along, one that is not ours, and none.
        let stranger = Tokens::new(&[9; 32]).unwrap();
        assert_eq!(tokens.verify(&sign(&stranger, now), now), None);
        let own = encode(json!({ "alg": "EdDSA", "kid": kid, "jwk": stranger.published()["keys"][0] }));
        let theirs = sign(&stranger, now);
        let (theirs, made) = (theirs.split('.').nth(1).unwrap(), theirs.rsplit('.').next().unwrap());
        assert_eq!(tokens.verify(&format!("{own}.{theirs}.{made}"), now), None);
        let nameless = encode(json!({ "alg": "EdDSA", "typ": "JWT" }));
        assert_eq!(tokens.verify(&format!("{nameless}.{claims}.{signature}"), now), None);
        // Other claims under the signature.
        let mut other: serde_json::Value =
            serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()).unwrap();
        other["org"] = Id::<oriel_kernel::kinds::OrganizationId>::from_uuid(Uuid::from_u128(8)).to_string().into();
        assert_eq!(tokens.verify(&format!("{header}.{}.{signature}", encode(other)), now), None);
        assert!(tokens.verify(&good, now).is_some());
    }

    #[test]
    fn refresh_tokens_name_their_session() {
        let tokens = Tokens::new(&[1; 32]).unwrap();
        let session = Id::from_uuid(Uuid::from_u128(9));
        let (token, hash) = tokens.refresh_token(session).unwrap();
        assert_eq!(read_refresh_token(&token), Some((session, hash)));
        assert_eq!(read_refresh_token("nonsense"), None);
        assert_ne!(tokens.refresh_token(session).unwrap().0, token);
    }
}
