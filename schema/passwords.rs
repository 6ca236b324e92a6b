//! Passwords: hashing and checking them with Argon2id, the parameters after OWASP (19 MiB, two passes, one lane).
//!
//! Invariants: a password takes memory and time, so a bounded number is worked on at once, off the threads that
//! serve requests; who waits too long is told `OVERLOADED`. Checking costs the same whether or not there is somebody
//! to check against. Neither a password nor its hash is ever printed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use async_graphql::ErrorExtensions;
use oriel_domain::users::{Password, PasswordHash};
use tokio::sync::Semaphore;

use crate::access::{Failure, Result, error, internal};

/// How many passes over the memory.
const PASSES: u32 = 2;
/// How many lanes.
const LANES: u32 = 1;
/// How long a password waits for its turn.
const WAIT: Duration = Duration::from_secs(2);
/// No password is longer, in bytes.
const LONGEST: usize = 1024;

/// Hashes and checks passwords. Cheap to clone; the clones share their turns.
#[derive(Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    turns: Arc<Semaphore>,
    wait: Duration,
}

/// Says nothing about any password.
impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("turns", &self.turns.available_permits()).finish_non_exhaustive()
    }
}

impl Passwords {
    /// What OWASP recommends, in KiB.
    pub const MEMORY_KIB: u32 = 19 * 1024;

    /// With this much memory for each password. Twice as many as there are processors are worked on at once.
    pub fn new(memory_kib: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_turns(memory_kib, 2 * processors, WAIT)
    }

    fn with_turns(memory_kib: u32, turns: usize, wait: Duration) -> Self {
        // The recommendation stands in for what Argon2 cannot work with.
        let params = Params::new(memory_kib.max(Params::MIN_M_COST), PASSES, LANES, None).unwrap_or_default();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Self { argon2, turns: Arc::new(Semaphore::new(turns)), wait }
    }

    /// The hash of a new password, with a salt of its own.
    ///
    /// # Errors
    /// `OVERLOADED` when too many wait; a defect when the system gives no random bytes.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash> {
        let argon2 = self.argon2.clone();
        let hash = self.in_turn(move || argon2.hash_password(password.expose().as_bytes())).await?;
        Ok(PasswordHash::new(hash.map_err(internal)?.to_string()))
    }

    /// Whether this is the password that was hashed. Without a hash, because there is no such person, it is not, and
    /// that takes as long to find out.
    ///
    /// # Errors
    /// `OVERLOADED` when too many wait.
    pub async fn verify(&self, typed: &str, hash: Option<&str>) -> Result<bool> {
        let fits = typed.len() <= LONGEST;
        let typed = if fits { typed.to_owned() } else { String::new() };
        let hash = hash.map(str::to_owned);
        let argon2 = self.argon2.clone();
        let right = self.in_turn(move || match hash.as_deref().map(phc::PasswordHash::new) {
            Some(Ok(hash)) => argon2.verify_password(typed.as_bytes(), &hash).is_ok(),
            absent => {
                if absent.is_some() {
                    tracing::error!("a stored password hash is not a PHC string");
                }
                // The same work, for nobody.
                let _ = argon2.hash_password(typed.as_bytes());
                false
            }
        });
        Ok(right.await? && fits)
    }

    /// Works on a password when it is its turn. The turn ends with the work, even if nobody waits for it any more.
    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let turn = tokio::time::timeout(self.wait, Arc::clone(&self.turns).acquire_owned());
        let Ok(Ok(turn)) = turn.await else { return Err(overloaded()) };
        let worked = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        Ok(worked.await.map_err(internal)?)
    }
}

fn overloaded() -> Failure {
    let message = "Too many people sign in at the moment. Try again after a second.";
    Failure::Error(error("OVERLOADED", message).extend_with(|_, extensions| extensions.set("retryAfter", 1)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text, &[]).unwrap()
    }

    #[tokio::test]
    async fn only_the_password_that_was_hashed_is_right() {
        let passwords = Passwords::new(8);
        let hash = passwords.hash(password("violet-otter-93-lamp")).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=8,t=2,p=1$"), "{}", hash.as_str());
        assert!(passwords.verify("violet-otter-93-lamp", Some(hash.as_str())).await.unwrap());
        assert!(!passwords.verify("violet-otter-93-lamp ", Some(hash.as_str())).await.unwrap());
        assert!(!passwords.verify("", Some(hash.as_str())).await.unwrap());
        assert!(!passwords.verify(&"x".repeat(2_000), Some(hash.as_str())).await.unwrap());
        assert!(!passwords.verify("violet-otter-93-lamp", None).await.unwrap());
        assert!(!passwords.verify("violet-otter-93-lamp", Some("damaged")).await.unwrap());
        let again = passwords.hash(password("violet-otter-93-lamp")).await.unwrap();
        assert_ne!(again.as_str(), hash.as_str(), "the salt is not a new one");
    }

    #[tokio::test]
    async fn a_hash_keeps_the_parameters_that_it_was_made_with() {
        let hash = Passwords::new(16).hash(password("violet-otter-93-lamp")).await.unwrap();
        assert!(Passwords::new(8).verify("violet-otter-93-lamp", Some(hash.as_str())).await.unwrap());
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told() {
        let passwords = Passwords::with_turns(8, 1, Duration::from_millis(1));
        let turn = Arc::clone(&passwords.turns).acquire_owned().await.unwrap();
        let Err(Failure::Error(error)) = passwords.verify("x", None).await else { panic!("it did not wait") };
        assert!(format!("{error:?}").contains("OVERLOADED"), "{error:?}");
        drop(turn);
        assert!(!passwords.verify("x", None).await.unwrap());
    }

    #[test]
    fn the_recommendation_is_what_it_is() {
        assert_eq!(
            (Params::DEFAULT_M_COST, Params::DEFAULT_T_COST, Params::DEFAULT_P_COST),
            (Passwords::MEMORY_KIB, PASSES, LANES)
        );
    }
}
