//! Passwords: hashing and checking them with Argon2id, the parameters after OWASP (19 MiB, two passes, one lane).
//! Hashes that another system made, with PBKDF2 too, are checked as they are, until their person signs in.
//!
//! Invariants: a password takes memory and time, so as many as there are processors are worked on at once, each by a
//! thread of its own that gives way to those that serve requests (what those notice all the same is measured in
//! `tests/bench`, `signing-in`); who waits too long is told `OVERLOADED`. Checking costs the same whether or not there is
//! somebody to check against (a hash that another system made costs what it says, until it is replaced).
//! Neither a password nor its hash is ever printed.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use async_graphql::ErrorExtensions;
use aws_lc_rs::pbkdf2;
use oriel_domain::users::{Password, PasswordHash};
use oriel_kernel::{ErrorCode, Rejection};
use tokio::sync::{Semaphore, oneshot};

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
    /// How many passwords were worked on: what signing in costs is compared by this.
    #[cfg(test)]
    worked: Arc<AtomicUsize>,
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

    /// With this much memory for each password. As many as there are processors are worked on at once.
    pub fn new(memory_kib: u32) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with_turns(memory_kib, processors, WAIT)
    }

    fn with_turns(memory_kib: u32, turns: usize, wait: Duration) -> Self {
        // The recommendation stands in for what Argon2 cannot work with.
        let params = Params::new(memory_kib.max(Params::MIN_M_COST), PASSES, LANES, None).unwrap_or_default();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Self {
            argon2,
            turns: Arc::new(Semaphore::new(turns)),
            wait,
            #[cfg(test)]
            worked: Arc::default(),
        }
    }

    /// The hash of a new password, with a salt of its own.
    ///
    /// # Errors
    /// `OVERLOADED` when too many wait; a defect when the system gives no random bytes.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash> {
        self.hash_text(password.expose().to_owned()).await
    }

    /// The hash of a password that is somebody's already, whatever it is like.
    ///
    /// # Errors
    /// See [`Passwords::hash`].
    pub async fn rehash(&self, typed: &str) -> Result<PasswordHash> {
        self.hash_text(typed.to_owned()).await
    }

    async fn hash_text(&self, text: String) -> Result<PasswordHash> {
        let argon2 = self.argon2.clone();
        let hash = self.in_turn(move || argon2.hash_password(text.as_bytes())).await?;
        Ok(PasswordHash::new(hash.map_err(internal)?.to_string()))
    }

    /// Whether a password with this hash is better hashed anew.
    pub fn is_outdated(&self, hash: &str) -> bool {
        let (ours, theirs) = (self.argon2.params(), phc::PasswordHash::new(hash));
        let params = theirs.ok().filter(is_argon2id).and_then(|hash| Params::try_from(&hash).ok());
        !params.is_some_and(|params| params.m_cost() >= ours.m_cost() && params.t_cost() >= ours.t_cost())
    }

    /// A hash that another system made, as a PHC string: Argon2id, or PBKDF2 with SHA-256 or SHA-512.
    ///
    /// # Errors
    /// `INVALID` when it is none, or one that is too weak to keep or takes too long to check.
    pub fn import(text: &str) -> Result<PasswordHash, Rejection> {
        let invalid = || {
            let message = "Give a hash as a PHC string: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, with at most 256 MiB, \
                           10 passes and 8 lanes, or `$pbkdf2-sha256$i=…$salt$hash` (or `-sha512`), with 10000 to \
                           5000000 iterations.";
            Rejection::new(ErrorCode::Invalid, message)
        };
        let hash = phc::PasswordHash::new(text.trim()).map_err(|_| invalid())?;
        let whole = hash.salt.is_some() && hash.hash.is_some();
        let fits = match Pbkdf2::of(&hash) {
            Some(pbkdf2) => (10_000..=5_000_000).contains(&pbkdf2.iterations.get()),
            None => {
                let params = Some(&hash).filter(|hash| is_argon2id(hash)).and_then(|hash| Params::try_from(hash).ok());
                let fits = |p: Params| p.m_cost() <= 256 * 1024 && p.t_cost() <= 10 && p.p_cost() <= 8;
                params.is_some_and(fits)
            }
        };
        if whole && fits { Ok(PasswordHash::new(text.trim())) } else { Err(invalid()) }
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
            Some(Ok(hash)) => match Pbkdf2::of(&hash) {
                Some(pbkdf2) => pbkdf2.verify(typed.as_bytes(), &hash),
                None => argon2.verify_password(typed.as_bytes(), &hash).is_ok(),
            },
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
        #[cfg(test)]
        self.worked.fetch_add(1, Ordering::SeqCst);
        let (done, worked) = oneshot::channel();
        // Not one of those that are kept for whatever blocks: a thread that gives way cannot take that back.
        let working = thread::Builder::new().name("password".to_owned()).spawn(move || {
            give_way();
            let _ = done.send(work());
            drop(turn);
        });
        working.map_err(internal)?;
        Ok(worked.await.map_err(internal)?)
    }
}

/// Lets other threads go first where there are more than processors, without being kept from working altogether. Only
/// Linux has a priority for each thread; lowering it needs no permission.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        const STEPS: i32 = 3;
        // Work that does not give way is done all the same.
        let _ = rustix::process::nice(STEPS);
    }
}

fn is_argon2id(hash: &phc::PasswordHash) -> bool {
    hash.algorithm.as_str() == "argon2id"
}

/// How another system hashed with PBKDF2.
struct Pbkdf2 {
    algorithm: pbkdf2::Algorithm,
    iterations: NonZeroU32,
}

impl Pbkdf2 {
    fn of(hash: &phc::PasswordHash) -> Option<Self> {
        let algorithm = match hash.algorithm.as_str() {
            "pbkdf2-sha256" => pbkdf2::PBKDF2_HMAC_SHA256,
            "pbkdf2-sha512" => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return None,
        };
        Some(Self { algorithm, iterations: NonZeroU32::new(hash.params.get_decimal("i")?)? })
    }

    fn verify(&self, typed: &[u8], hash: &phc::PasswordHash) -> bool {
        let (Some(salt), Some(hash)) = (&hash.salt, &hash.hash) else { return false };
        pbkdf2::verify(self.algorithm, self.iterations, salt, typed, hash.as_bytes()).is_ok()
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

    /// `hashlib.pbkdf2_hmac('sha256', b'violet-otter-93-lamp', b'pepper and salt!', 10000)` of Python, and with sha512.
    const FROM_PYTHON: [&str; 2] = [
        "$pbkdf2-sha256$i=10000$cGVwcGVyIGFuZCBzYWx0IQ$Xksp/WWbdcpghrW1HJvRIgaV6L/UJWgo1SSn3Nlm/fc",
        "$pbkdf2-sha512$i=10000$cGVwcGVyIGFuZCBzYWx0IQ$c2oJUERv0NgWEDu3Kli4JU9bM3D8Td9HLpwZFNQKbfm102y6AG5SU8j0GfkLNwDILxlT3T/wQWBMjjtyc6WJVA",
    ];

    fn password(text: &str) -> Password {
        Password::parse(text, &[]).unwrap()
    }

    impl Passwords {
        /// How many passwords were worked on.
        pub fn worked(&self) -> usize {
            self.worked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn a_hash_that_another_system_made_is_checked_and_outdated() {
        let passwords = Passwords::new(8);
        for imported in FROM_PYTHON {
            let hash = Passwords::import(imported).unwrap();
            assert!(passwords.verify("violet-otter-93-lamp", Some(hash.as_str())).await.unwrap(), "{imported}");
            assert!(!passwords.verify("violet-otter-93-lamq", Some(hash.as_str())).await.unwrap());
            assert!(passwords.is_outdated(hash.as_str()));
        }
        let today = passwords.rehash("short").await.unwrap();
        assert!(!passwords.is_outdated(today.as_str()) && Passwords::new(16).is_outdated(today.as_str()));
        assert!(passwords.verify("short", Some(today.as_str())).await.unwrap());
        Passwords::import(today.as_str()).unwrap();
    }

    #[test]
    fn what_is_no_hash_or_a_dangerous_one_is_not_imported() {
        let [good, _] = FROM_PYTHON;
        for bad in [
            "",
            "plain text",
            "$2b$12$abcdefghijklmnopqrstuv",
            &good.replace("sha256", "sha1"),
            &good.replace("i=10000", "i=1000"),
            &good.replace("i=10000", "i=4000000000"),
            &good.replace("i=10000", "i=0"),
            "$pbkdf2-sha256$i=10000$cGVwcGVyIGFuZCBzYWx0IQ",
            "$pbkdf2-sha256$i=10000",
            "$argon2id$v=19$m=4194304,t=2,p=1$cGVwcGVyIGFuZCBzYWx0IQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(Passwords::import(bad).is_err(), "{bad}");
        }
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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn who_works_on_a_password_gives_way_to_who_serves() {
        // What stands behind the name: the state, and as the 17th how much the thread gives way.
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
        };
        let usual = nice();
        let passwords = Passwords::new(8);
        assert!(passwords.in_turn(nice).await.unwrap() > usual || usual == 19);
        assert_eq!(nice(), usual);
    }

    #[test]
    fn the_recommendation_is_what_it_is() {
        assert_eq!(
            (Params::DEFAULT_M_COST, Params::DEFAULT_T_COST, Params::DEFAULT_P_COST),
            (Passwords::MEMORY_KIB, PASSES, LANES)
        );
    }
}
