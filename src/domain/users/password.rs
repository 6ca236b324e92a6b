//! Passwords: which are good enough, and how they travel.
//!
//! Invariants: neither a password nor its hash is ever printed. Length is what counts; beyond that only what is
//! guessed first is refused: the person's own names, the well-known words, repetitions and runs.
//!
//! Nothing here hashes: that costs time and randomness, and happens outside.

use std::fmt;

use oriel_kernel::{ErrorCode, Rejection};

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
        if is_about(text, about) {
            return weak("Your own name or address is guessed first. Choose something else.");
        }
        if is_obvious(text) {
            return weak("This password is guessed first. Several unrelated words make a good one.");
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

/// Whether it is one of the person's own names, but for digits, signs and case.
fn is_about(text: &str, about: &[&str]) -> bool {
    let text = letters(text);
    about.iter().any(|name| {
        let local = name.split('@').next().unwrap_or(name);
        [letters(name), letters(local)].iter().any(|own| !own.is_empty() && *own == text)
            || name.split_whitespace().map(letters).any(|own| !own.is_empty() && own == text)
    })
}

const OBVIOUS: &[&str] = &[
    "abc",
    "abcd",
    "admin",
    "administrator",
    "asdf",
    "asdfghjkl",
    "azerty",
    "azertyuiop",
    "baseball",
    "changeme",
    "contrasena",
    "dragon",
    "football",
    "hello",
    "iloveyou",
    "letmein",
    "master",
    "monkey",
    "motdepasse",
    "oriel",
    "pass",
    "password",
    "passwort",
    "princess",
    "qwerty",
    "qwertyuiop",
    "qwertz",
    "qwertzuiop",
    "secret",
    "sunshine",
    "superman",
    "test",
    "trustno",
    "user",
    "welcome",
    "zxcvbnm",
];

/// Whether it is a well-known word with digits and signs around it, a repetition, or a run like 1234567890.
fn is_obvious(text: &str) -> bool {
    let lower = text.to_lowercase();
    let symbols: Vec<char> = lower.chars().collect();
    let unit = period(&symbols);
    if unit.len() <= 3 || is_run(unit) {
        return true;
    }
    let bare = lower.trim_matches(|c: char| !c.is_alphabetic() && c != '@' && c != '$');
    let spelled: String = bare
        .chars()
        .map(|c| match c {
            '@' | '4' => 'a',
            '$' | '5' => 's',
            '0' => 'o',
            '3' => 'e',
            '1' | '!' => 'i',
            other => other,
        })
        .collect();
    [letters(&lower), letters(&spelled)].iter().any(|word| {
        let word: Vec<char> = word.chars().collect();
        let word: String = period(&word).iter().collect();
        OBVIOUS.contains(&word.as_str())
    })
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphabetic()).flat_map(char::to_lowercase).collect()
}

/// The shortest beginning of which the whole is a repetition, perhaps cut off at the end.
fn period(symbols: &[char]) -> &[char] {
    let length = (1..symbols.len()).find(|&n| symbols.iter().zip(&symbols[n..]).all(|(a, b)| a == b));
    &symbols[..length.unwrap_or(symbols.len())]
}

/// Whether every symbol is the next one after its predecessor, or every one the previous (0 follows 9).
fn is_run(symbols: &[char]) -> bool {
    let steps = |forward: bool| {
        symbols.windows(2).all(|pair| {
            let (a, b) = if forward { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
            (a == '9' && b == '0') || (a.is_alphanumeric() && a as u32 + 1 == b as u32)
        })
    };
    steps(true) || steps(false)
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
        ] {
            let code = Password::parse(weak, ADA).map_err(|r| r.code).err();
            assert_eq!(code, Some(ErrorCode::WeakPassword), "{weak}");
        }
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
