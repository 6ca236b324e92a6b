//! What a key's secret looks like: `orl_`, and 85 digits and small letters: the key's id (26), 256 random bits (52), and
//! 7 that follow from all before them. So a scanner of leaked secrets finds one (`orl_[0-9a-z]{85}`) and knows without
//! asking anybody whether it is one; and a guess that is none costs no look-up.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::{BASE32HEX_NOPAD, HEXLOWER};
use oriel_domain::api_keys::ApiKeyId;
use oriel_kernel::{Credential, SecretHash};

/// What every secret begins with.
pub const PREFIX: &str = "orl_";
/// Bytes that are drawn.
const RANDOM: usize = 32;
/// Characters of the key's id, after its own prefix.
const ID: usize = 26;
/// Characters of the check at the end.
const CHECK: usize = 7;
/// Characters of all.
const LENGTH: usize = PREFIX.len() + ID + 52 + CHECK;
/// Characters that are shown again.
const HINT: usize = 4;

/// A new secret. Not printed.
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandom;

impl Secret {
    /// Draws one for this key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn draw(key: ApiKeyId) -> Result<Self, NoRandom> {
        let mut random = [0; RANDOM];
        SystemRandom::new().fill(&mut random).map_err(|_| NoRandom)?;
        let id = key.to_string();
        let (_, digits) = id.split_once('_').ok_or(NoRandom)?;
        let text = format!("{PREFIX}{digits}{}", letters(&random));
        Ok(Self(format!("{text}{}", check(&text))))
    }

    /// Its SHA-256 in hexadecimal digits: what is kept of it.
    pub fn hash(&self) -> String {
        HEXLOWER.encode(digest(&SHA256, self.0.as_bytes()).as_ref())
    }

    /// Its end.
    pub fn hint(&self) -> String {
        self.0[self.0.len() - HINT..].to_owned()
    }

    /// The text, to be shown this once.
    pub fn reveal(self) -> String {
        self.0
    }
}

/// Which key the secret is of, and its hash. `None` for what is no secret.
pub fn read(text: &str) -> Option<Credential> {
    let alphabet = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let digits = text.strip_prefix(PREFIX)?;
    if text.len() != LENGTH || !digits.bytes().all(alphabet) {
        return None;
    }
    let (whole, end) = text.split_at(LENGTH - CHECK);
    if check(whole) != end {
        return None;
    }
    let key: ApiKeyId = format!("key_{}", &digits[..ID]).parse().ok()?;
    let mut secret = [0; 32];
    secret.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    Some(Credential::ApiKey { key: key.uuid(), secret: SecretHash(secret) })
}

fn check(text: &str) -> String {
    letters(&digest(&SHA256, text.as_bytes()).as_ref()[..4])
}

fn letters(bytes: &[u8]) -> String {
    BASE32HEX_NOPAD.encode(bytes).to_ascii_lowercase()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::Id;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_secret_names_its_key_and_is_like_no_other() {
        let key: ApiKeyId = Id::from_uuid(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0007));
        let (one, two) = (Secret::draw(key).unwrap(), Secret::draw(key).unwrap());
        assert_eq!(format!("{one:?}"), "***");
        let (hash, hint, text) = (one.hash(), one.hint(), one.reveal());
        assert!(text.len() == 89 && text.ends_with(&hint) && two.reveal() != text);
        let Some(Credential::ApiKey { key: named, secret }) = read(&text) else { panic!("{text}") };
        assert_eq!((named, HEXLOWER.encode(&secret.0)), (key.uuid(), hash));
    }

    proptest! {
        #[test]
        fn what_was_changed_anywhere_is_no_secret(number: u128, at in 0usize..89, by in "[0-9a-z_A-Z ]") {
            let text = Secret::draw(Id::from_uuid(Uuid::from_u128(number))).unwrap().reveal();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &by);
            prop_assert_eq!(read(&changed).is_some(), changed == text);
            prop_assert!(read(&text[..at]).is_none());
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,120}") {
            prop_assert!(read(&text).is_none());
            let longer = format!("{PREFIX}{text}");
            prop_assert!(read(&longer).is_none());
        }
    }
}
