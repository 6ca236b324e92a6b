//! Passwords: which are good enough, and how they travel.
//!
//! Invariants: neither a password nor its hash is ever printed. What counts is how many guesses it withstands, by
//! whoever knows the words, names, dates and patterns that people use, the passwords that were chosen most often (and
//! so became known), and the person's own names.
//!
//! Nothing here hashes: that costs time and randomness, and happens outside.

use std::fmt;

use oriel_kernel::{ErrorCode, Rejection};
use zxcvbn::{Score, zxcvbn};

/// A password that somebody chose and that is good enough. To check one that is typed to sign in, compare the text
/// as it is: the rules may have changed since it was chosen.
pub struct Password(String);

impl Password {
    const MIN_CHARS: usize = 10;
    const MAX_BYTES: usize = 1024;

    /// The password, as it was typed, if it is good enough for the person whom `about` names (e-mail address, name,
    /// user name).
    ///
    /// # Errors
    /// `REQUIRED` when empty, `TOO_LONG` beyond 1024 bytes, else `WEAK_PASSWORD`.
    pub fn parse(text: &str, about: &[&str]) -> Result<Self, Rejection> {
        let weak = |message: &str| Err(Rejection::new(ErrorCode::WeakPassword, message));
        if text.is_empty() {
            return Err(Rejection::new(ErrorCode::Required, "Choose a password."));
        }
        if text.len() > Self::MAX_BYTES {
            return Err(Rejection::new(ErrorCode::TooLong, "At most 1024 bytes."));
        }
        if text.chars().count() < Self::MIN_CHARS {
            return weak("At least 10 characters. Several words make a good password.");
        }
        let known = known_words(about);
        let guessing = zxcvbn(text, &known.iter().map(String::as_str).collect::<Vec<_>>());
        if guessing.score() < Score::Three {
            let why = guessing.feedback().and_then(|feedback| feedback.warning());
            let why = why.map_or_else(|| "This password is guessed early.".to_owned(), |warning| warning.to_string());
            return weak(&format!("{why} Several unrelated words make a good password."));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text, to hash it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The hash of a password, as a PHC string.
#[derive(Clone)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Wraps what the hasher gave.
    pub fn new(phc: impl Into<String>) -> Self {
        Self(phc.into())
    }

    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// What is guessed first of this person: their names and addresses, whole and in parts; of this product, its name; and
/// what is set where somebody is to choose another one.
fn known_words(about: &[&str]) -> Vec<String> {
    let whole = about.iter().map(|name| name.to_lowercase());
    let locals = about.iter().filter_map(|name| name.split_once('@')).map(|(local, _)| local.to_lowercase());
    let parts = about.iter().flat_map(|name| name.split(|c: char| !c.is_alphanumeric()));
    let parts = parts.filter(|part| part.chars().count() >= 3).map(str::to_lowercase);
    let joined =
        about.iter().map(|name| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase());
    let everywhere = ["oriel", "changeme"].map(str::to_owned);
    everywhere.into_iter().chain(joined).chain(whole).chain(locals).chain(parts).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADA: &[&str] = &["ada.lovelace@example.org", "Ada Lovelace"];

    #[test]
    fn good_ones() {
        for good in [
            "correct horse battery staple",
            "violet-otter-93-lamp",
            "Tr0ub4dor&3x",
            "грузовик и чайник",
            "  spaces  are  kept  ",
            "my password has Ada in it",
        ] {
            assert!(Password::parse(good, ADA).is_ok(), "{good}");
        }
        assert_eq!(Password::parse("  spaces  are  kept  ", ADA).unwrap().expose(), "  spaces  are  kept  ");
    }

    #[test]
    fn weak_ones() {
        for weak in [
            "short",
            "äöüäöü",
            "aaaaaaaaaaaa",
            "abababababab",
            "!!!!!!!!!!!!",
            "1234567890",
            "9876543210",
            "0123456789",
            "1234512345",
            "abcdefghijkl",
            "password123",
            "Password!2024",
            "P@ssw0rd!!!!",
            "passwordpassword",
            "qwertyuiop",
            "Qwertzuiop1",
            "letmein12345",
            "changeme-2026",
            "ada.lovelace@example.org",
            "AdaLovelace1",
            "ada lovelace 1815",
            "lovelace1815",
            "oriel-oriel-1",
            "dragon1987",
        ] {
            let code = Password::parse(weak, ADA).map_err(|r| r.code).err();
            assert_eq!(code, Some(ErrorCode::WeakPassword), "{weak}");
        }
    }

    #[test]
    fn what_is_weak_for_one_is_good_for_another() {
        let own = "augusta.byron-king";
        assert!(Password::parse(own, &[]).is_ok());
        let refused = Password::parse(own, &["augusta.byron@example.org", "Augusta Byron King"]).unwrap_err();
        assert_eq!(refused.code, ErrorCode::WeakPassword);
        let common = Password::parse("passwordpassword", &[]).unwrap_err();
        assert!(common.message.ends_with("make a good password."), "{}", common.message);
    }

    #[test]
    fn lengths() {
        assert_eq!(Password::parse("", ADA).map_err(|r| r.code).err(), Some(ErrorCode::Required));
        let long = "violet otter ".repeat(100);
        assert_eq!(Password::parse(&long, ADA).map_err(|r| r.code).err(), Some(ErrorCode::TooLong));
    }

    #[test]
    fn nothing_is_printed() {
        let password = Password::parse("violet-otter-93-lamp", &[]).unwrap();
        assert_eq!(format!("{password:?} {:?}", PasswordHash::new("$argon2id$secret")), "Password PasswordHash");
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in ".{0,60}", name in ".{0,20}") {
            if let Ok(password) = Password::parse(&text, &[&name]) {
                prop_assert!(text.chars().count() >= 10);
                prop_assert_eq!(password.expose(), text);
            }
        }
    }
}
