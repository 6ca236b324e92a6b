//! Tokens: short-lived access tokens (JWT, EdDSA) and refresh tokens of which only a hash is kept.
//!
//! The signing key is a row wrapped by the master key, so that every node signs and verifies with the same one. A
//! token names the session; whether that still lives is asked at each request, so that a revocation takes effect at
//! once.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use oriel_kernel::{MemberId, OrganizationId, SessionId, Timestamp, UserId};
use serde::{Deserialize, Serialize};

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
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    random: SystemRandom,
}

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the signing key cannot be used")]
pub struct BadKey;

const ISSUER: &str = "oriel";

impl Tokens {
    /// With the key that this secret of the installation gives.
    ///
    /// # Errors
    /// When the cipher library refuses it.
    pub fn new(seed: &[u8; 32]) -> Result<Self, BadKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| BadKey)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| BadKey)?;
        let public = pair.public_key().as_ref();
        let key_id = data_encoding::BASE64URL_NOPAD.encode(&digest(&SHA256, public).as_ref()[..9]);
        Ok(Self {
            encoding: EncodingKey::from_ed_der(pkcs8.as_ref()),
            decoding: DecodingKey::from_ed_der(public),
            key_id,
            random: SystemRandom::new(),
        })
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
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(|_| BadKey)?;
        Ok((token, expires))
    }

    /// What a token says, if it is ours and has not ended.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        // Against the injected clock, not the machine's.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims;
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
    fn refresh_tokens_name_their_session() {
        let tokens = Tokens::new(&[1; 32]).unwrap();
        let session = Id::from_uuid(Uuid::from_u128(9));
        let (token, hash) = tokens.refresh_token(session).unwrap();
        assert_eq!(read_refresh_token(&token), Some((session, hash)));
        assert_eq!(read_refresh_token("nonsense"), None);
        assert_ne!(tokens.refresh_token(session).unwrap().0, token);
    }
}
