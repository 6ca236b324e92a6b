//! Attempts to sign in, counted, so that nobody guesses a secret by trying, and nobody is locked out by somebody else's
//! trying.
//!
//! Invariants: after some failures each next attempt has to wait, longer each time, up to a limit. It is counted for the
//! account at this place (an address, or of IPv6 a network), for the place, and for the account from everywhere. The
//! last two let those through who have signed in at this place before, so that whoever knows the password and is where
//! they usually are waits for no stranger; what is tried at such a place is counted with the account there, and its
//! waits are short. An account that does not exist is counted like any other.
//!
//! An attempt counts from its beginning, so that many at once are no way around; one that succeeds takes that back. The
//! number of counters is bounded: two generations of an hour each are kept, and a flood ends a generation early.
//!
//! Where there is a Redis between the nodes, it counts for all of them, and this node keeps what it was told; without an
//! answer what this node knows decides. So who goes from node to node gains nothing, and a stopped Redis keeps nobody out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_graphql::ErrorExtensions;
use aws_lc_rs::digest::{SHA256, digest};
use chrono::TimeDelta;
use data_encoding::HEXLOWER;
use oriel_backends::redis::{Redis, Waits};
use oriel_kernel::{OrganizationId, Timestamp};
use tokio::sync::Semaphore;

use crate::access::{Failure, error};

/// Counters of one generation.
const MOST: usize = 100_000;
/// Pieces of work that go on beside the answers.
const ASIDE: usize = 64;
/// How long a failure is remembered at least.
const HOUR: TimeDelta = TimeDelta::hours(1);

/// How long a counter is kept in Redis at least.
const KEEP: Duration = Duration::from_secs(2 * 3600);

/// For an account at a place.
const HERE: Waits = Waits { free: 10, longest: Duration::from_secs(15 * 60) };
/// For an account at a place where its person has signed in before.
const AT_HOME: Waits = Waits { free: 10, longest: Duration::from_secs(30) };
/// For a place, whatever the account.
const PLACE: Waits = Waits { free: 100, longest: Duration::from_secs(60) };
/// For an account, from everywhere.
const ACCOUNT: Waits = Waits { free: 100, longest: Duration::from_secs(60) };

/// For what nobody waits for.
const NO_WAIT: Waits = Waits { free: u32::MAX, longest: Duration::ZERO };

/// What is tried: each is counted for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secret {
    /// A password.
    Password,
    /// A code of a second factor.
    Code,
    /// What a passkey has signed.
    Passkey,
    /// Whether an address or a user name is taken.
    Name,
    /// A link to choose another password, asked for.
    Link,
}

/// Where an attempt comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place(String);

impl Place {
    /// Its name, for what is said of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The place of an address. IPv6 gives everybody a network of 64 bits.
    pub fn of(ip: Option<&str>) -> Self {
        Self(match ip.and_then(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()) {
            Some(IpAddr::V6(ip)) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()).to_string(),
            Some(IpAddr::V4(ip)) => ip.to_string(),
            None => "unknown".to_owned(),
        })
    }
}

/// What is counted under; nothing about a person can be read from it.
type Key = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Counter {
    failures: u32,
    /// When the next attempt may be made.
    open_at: Timestamp,
}

#[derive(Default)]
struct Generations {
    began: Option<Timestamp>,
    current: HashMap<Key, Counter>,
    before: HashMap<Key, Counter>,
}

/// See the module.
pub struct Attempts {
    most: usize,
    counters: Mutex<Generations>,
    shared: Option<Arc<Redis>>,
    aside: Arc<Semaphore>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::new(None)
    }
}

/// An attempt that has begun: failed, unless it is said to have succeeded.
#[derive(Debug)]
#[must_use = "an attempt counts as failed until it is said to have succeeded"]
pub struct Attempt {
    here: Key,
    all: Vec<Key>,
    /// How many have failed at the account at this place, this one included.
    failures_here: u32,
    /// The same, from wherever they came.
    failures: u32,
}

impl Attempt {
    /// How many attempts at the account have failed within an hour or two, this one included if it fails.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How many of them came from this place.
    pub fn failures_here(&self) -> u32 {
        self.failures_here
    }
}

/// It has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// How long.
    pub wait: Duration,
    /// Whether somebody who has signed in at this place before would not have to.
    pub strangers_only: bool,
}

impl Attempts {
    /// Counts for this node, or for all between which this Redis stands.
    pub fn new(shared: Option<Arc<Redis>>) -> Self {
        Self { most: MOST, counters: Mutex::default(), shared, aside: Arc::new(Semaphore::new(ASIDE)) }
    }

    /// Begins an attempt at a place, on an account if it is about one; `at_home`: its person has signed in there
    /// before.
    ///
    /// # Errors
    /// When it has to wait. Then it does not count.
    pub async fn begin(
        &self,
        secret: Secret,
        account: Option<&str>,
        place: &Place,
        at_home: bool,
        now: Timestamp,
    ) -> Result<Attempt, Wait> {
        let here = key(secret, &["here", account.unwrap_or_default(), &place.0]);
        let mut counted = Vec::with_capacity(3);
        if let Some(account) = account {
            counted.push((here, if at_home { AT_HOME } else { HERE }));
            if !at_home {
                counted.push((key(secret, &["account", account]), ACCOUNT));
            }
        }
        if !at_home {
            counted.push((key(secret, &["place", &place.0]), PLACE));
        }
        let failures = match self.count_for_all(&counted, now).await {
            Some(failures) => failures,
            None => self.count_here(&counted, now),
        };
        if let Some(failures) = failures {
            // Of an account those here come first, and then those from everywhere; a place is not one account's.
            let of_account = if account.is_none() { 0 } else { 1 + usize::from(!at_home) };
            let failures_here = failures.first().filter(|_| account.is_some()).copied().unwrap_or_default();
            let failures = failures.into_iter().take(of_account).max().unwrap_or_default();
            let all = counted.into_iter().map(|(key, _)| key).collect();
            return Ok(Attempt { here, all, failures_here, failures });
        }
        let counters = self.lock(now);
        let left = |key: &Key, longest: Duration| {
            let left = counters.get(key).map(|counter| counter.open_at.min(now + longest) - now);
            left.and_then(|left| left.to_std().ok()).unwrap_or_default()
        };
        let wait = counted.iter().map(|(key, rule)| left(key, rule.longest)).max().unwrap_or_default();
        Err(Wait { wait, strangers_only: !at_home && left(&here, AT_HOME.longest) < wait })
    }

    /// Counts an attempt with all nodes, and keeps what they know; what the counters say, if it may be made. `None`:
    /// nobody answers.
    async fn count_for_all(&self, counted: &[(Key, Waits)], now: Timestamp) -> Option<Option<Vec<u32>>> {
        let names: Vec<_> = counted.iter().map(|(key, _)| HEXLOWER.encode(key)).collect();
        let under: Vec<_> = names.iter().map(String::as_str).zip(counted.iter().map(|(_, rule)| *rule)).collect();
        let attempted = self.shared.as_ref()?.attempt(&under, KEEP).await.ok()?;
        let mut counters = self.lock(now);
        for ((key, _), known) in counted.iter().zip(&attempted.counters) {
            counters.current.insert(*key, Counter { failures: known.failures, open_at: now + known.wait });
        }
        Some(attempted.may.then(|| attempted.counters.iter().map(|known| known.failures).collect()))
    }

    /// Counts an attempt with what this node knows; what the counters say, if it may be made.
    fn count_here(&self, counted: &[(Key, Waits)], now: Timestamp) -> Option<Vec<u32>> {
        let mut counters = self.lock(now);
        let is_open = |(key, rule): &(Key, Waits)| {
            counters.get(key).is_none_or(|counter| counter.open_at.min(now + rule.longest) <= now)
        };
        if !counted.iter().all(is_open) {
            return None;
        }
        let mut count = |(key, rule): &(Key, Waits)| {
            let failures = counters.get(key).map_or(0, |counter| counter.failures).saturating_add(1);
            counters.current.insert(*key, Counter { failures, open_at: now + wait_after(*rule, failures) });
            failures
        };
        Some(counted.iter().map(&mut count).collect())
    }

    /// Counts an account of an organisation at which somebody has failed at this place; how many there are now.
    pub async fn count_account(&self, organization: OrganizationId, place: &Place, now: Timestamp) -> u32 {
        let counted = [(accounts(organization, place), NO_WAIT)];
        let failures = match self.count_for_all(&counted, now).await {
            Some(failures) => failures,
            None => self.count_here(&counted, now),
        };
        failures.and_then(|failures| failures.first().copied()).unwrap_or_default()
    }

    /// Takes that back: whoever it was has got it right at last.
    pub fn uncount_account(&self, organization: OrganizationId, place: &Place, now: Timestamp) {
        let here = accounts(organization, place);
        self.withdrawn(Attempt { here, all: vec![here], failures_here: 0, failures: 0 }, now);
    }

    fn lock(&self, now: Timestamp) -> MutexGuard<'_, Generations> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.turn(now, self.most);
        counters
    }

    /// Does work that the answer must not tell of: it goes on beside, and the answer does not wait for it.
    ///
    /// # Errors
    /// `OVERLOADED` when too much of it goes on.
    pub fn aside(&self, work: impl Future<Output = ()> + Send + 'static) -> Result<(), Failure> {
        let overloaded = |_| {
            let message = "Too many ask for this at the moment. Try again after a second.";
            Failure::Error(error("OVERLOADED", message).extend_with(|_, e| e.set("retryAfter", 1)))
        };
        let place = Arc::clone(&self.aside).try_acquire_owned().map_err(overloaded)?;
        tokio::spawn(async move {
            work.await;
            drop(place);
        });
        Ok(())
    }

    /// Ends an attempt well: it does not count, and what was tried on this account at this place before is forgotten.
    pub fn succeeded(&self, attempt: Attempt, now: Timestamp) {
        let here = attempt.here;
        self.take_back(attempt, now, |key, failures| if *key == here { 0 } else { failures.saturating_sub(1) });
    }

    /// Ends an attempt that was not looked at: it does not count.
    pub fn withdrawn(&self, attempt: Attempt, now: Timestamp) {
        self.take_back(attempt, now, |_, failures| failures.saturating_sub(1));
    }

    fn take_back(&self, attempt: Attempt, now: Timestamp, left: impl Fn(&Key, u32) -> u32) {
        if let Some(redis) = self.shared.clone() {
            let under: Vec<_> =
                attempt.all.iter().map(|key| (HEXLOWER.encode(key), left(key, u32::MAX) == 0)).collect();
            // Nobody waits for it: until then one more is counted.
            tokio::spawn(async move {
                let under: Vec<_> = under.iter().map(|(name, forget)| (name.as_str(), *forget)).collect();
                if let Err(error) = redis.take_back(&under).await {
                    tracing::trace!(%error, "an attempt to sign in is not taken back for all nodes");
                }
            });
        }
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for key in attempt.all {
            if let Some(Counter { failures, .. }) = counters.get(&key) {
                counters.current.insert(key, Counter { failures: left(&key, failures), open_at: now });
            }
        }
    }
}

/// A second after the first failure that is not free, and twice as long after each next.
fn wait_after(rule: Waits, failures: u32) -> Duration {
    let Some(more) = failures.checked_sub(rule.free) else { return Duration::ZERO };
    Duration::from_secs(1 << more.min(20)).min(rule.longest)
}

impl Generations {
    fn get(&self, key: &Key) -> Option<Counter> {
        self.current.get(key).or_else(|| self.before.get(key)).copied()
    }

    fn turn(&mut self, now: Timestamp, most: usize) {
        let began = *self.began.get_or_insert(now);
        if now - began >= HOUR || self.current.len() + 3 > most {
            self.before = std::mem::take(&mut self.current);
            self.began = Some(now);
        }
    }
}

impl From<Wait> for Failure {
    fn from(Wait { wait, .. }: Wait) -> Self {
        let seconds = wait.as_secs_f64().ceil() as u64;
        let message = format!("There were too many attempts. Try again after {seconds} seconds.");
        let limited = error("RATE_LIMITED", message);
        Self::Error(limited.extend_with(|_, extensions| extensions.set("retryAfter", seconds)))
    }
}

/// What the accounts of an organisation at which somebody failed at a place are counted under.
fn accounts(organization: OrganizationId, place: &Place) -> Key {
    key(Secret::Password, &["accounts", &organization.to_string(), &place.0])
}

fn key(secret: Secret, parts: &[&str]) -> Key {
    let hash = digest(&SHA256, format!("{secret:?}\0{}", parts.join("\0")).as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(&hash.as_ref()[..16]);
    key
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn address(n: u32) -> Place {
        Place::of(Some(&std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()))
    }

    /// Without a Redis nothing is waited for.
    fn begin(
        attempts: &Attempts,
        secret: Secret,
        account: &str,
        place: &Place,
        at_home: bool,
        now: Timestamp,
    ) -> Result<Attempt, Wait> {
        attempts.begin(secret, Some(account), place, at_home, now).now_or_never().unwrap()
    }

    fn guess(attempts: &Attempts, account: &str, place: &Place, now: Timestamp) -> Result<(), Wait> {
        begin(attempts, Secret::Password, account, place, false, now).map(drop)
    }

    #[test]
    fn from_one_address_the_waits_grow() {
        let attempts = Attempts::default();
        let mut now = at(0);
        for _ in 0..HERE.free {
            guess(&attempts, "ada", &address(1), now).unwrap();
        }
        let mut waits = Vec::new();
        for _ in 0..14 {
            let Wait { wait, .. } = guess(&attempts, "ada", &address(1), now).unwrap_err();
            waits.push(wait.as_secs());
            now += wait;
            guess(&attempts, "ada", &address(1), now).unwrap();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]);
    }

    #[test]
    fn a_day_of_guessing_from_one_address_is_few_guesses() {
        let attempts = Attempts::default();
        let guesses = (0..24 * 3600).filter(|second| guess(&attempts, "ada", &address(1), at(*second)).is_ok());
        let guesses = guesses.count();
        assert!(guesses < 150, "{guesses}");
    }

    #[test]
    fn from_many_addresses_one_account_is_guessed_a_bounded_number_of_times() {
        let attempts = Attempts::default();
        let guesses = (0..3600).filter(|n| guess(&attempts, "ada", &address(*n), at(i64::from(*n))).is_ok()).count();
        assert!(guesses < 200, "{guesses}");
    }

    #[test]
    fn from_one_address_many_accounts_are_guessed_a_bounded_number_of_times() {
        let attempts = Attempts::default();
        let guesses = (0..3600).filter(|n| guess(&attempts, &n.to_string(), &address(1), at(*n)).is_ok()).count();
        assert!(guesses < 200, "{guesses}");
    }

    #[test]
    fn who_is_where_they_usually_are_waits_for_no_stranger() {
        let attempts = Attempts::default();
        for n in 0..100_000u32 {
            let _ = guess(&attempts, "ada", &address(2 + n % 5_000), at(0));
        }
        let stranger = guess(&attempts, "ada", &address(900_000), at(0)).unwrap_err();
        assert!(stranger.strangers_only, "{stranger:?}");
        let home = begin(&attempts, Secret::Password, "ada", &address(1), true, at(0)).unwrap();
        attempts.succeeded(home, at(0));
        // Somebody else behind the same address tries many accounts, and theirs too.
        let theirs = |second| begin(&attempts, Secret::Password, "ada", &address(1), true, at(second));
        let mut guesses = 0;
        for second in 0..3_000 {
            let _ = guess(&attempts, &second.to_string(), &address(1), at(second));
            guesses += usize::from(theirs(second).is_ok());
        }
        assert!(guesses < 130, "{guesses}");
        let there = theirs(3_000).unwrap_err();
        assert!(there.wait <= AT_HOME.longest && !there.strangers_only, "{there:?}");
        assert!(theirs(3_000 + i64::try_from(there.wait.as_secs()).unwrap()).is_ok());
        assert!(begin(&attempts, Secret::Password, "bob", &address(1), true, at(3_000)).is_ok());
    }

    #[test]
    fn many_at_once_are_no_way_around_and_success_takes_its_attempt_back() {
        let attempts = Attempts::default();
        let ada = || begin(&attempts, Secret::Password, "ada", &address(1), false, at(0));
        let mut open: Vec<Attempt> = (0..HERE.free).map(|_| ada().unwrap()).collect();
        ada().unwrap_err();
        attempts.succeeded(open.pop().unwrap(), at(0));
        open.push(ada().unwrap());
        // A right password of one's own is no way to forget what was tried from here on others.
        let own = || begin(&attempts, Secret::Password, "eve", &address(1), false, at(0));
        let before = attempts.counters.lock().unwrap().get(&key(Secret::Password, &["place", "10.0.0.1"])).unwrap();
        attempts.succeeded(own().unwrap(), at(0));
        let after = attempts.counters.lock().unwrap().get(&key(Secret::Password, &["place", "10.0.0.1"])).unwrap();
        assert_eq!(after.failures, before.failures);
    }

    #[test]
    fn each_secret_is_counted_for_itself() {
        let attempts = Attempts::default();
        for _ in 0..50 {
            let _ = guess(&attempts, "ada", &address(1), at(0));
        }
        assert!(begin(&attempts, Secret::Code, "ada", &address(1), false, at(0)).is_ok());
    }

    #[test]
    fn an_attempt_knows_how_many_failed_before_it() {
        let attempts = Attempts::default();
        let counted = |account: &str, place: u32| {
            let begun = begin(&attempts, Secret::Password, account, &address(place), false, at(0)).unwrap();
            (begun.failures(), begun.failures_here())
        };
        assert_eq!([counted("ada", 1), counted("ada", 1), counted("ada", 2)], [(1, 1), (2, 2), (3, 1)]);
        assert_eq!(counted("bob", 1), (1, 1), "what others fail at from there is no matter");
        let nobody = attempts.begin(Secret::Link, None, &address(1), false, at(0)).now_or_never().unwrap().unwrap();
        assert_eq!((nobody.failures(), nobody.failures_here()), (0, 0));
        let home = begin(&attempts, Secret::Password, "ada", &address(1), true, at(0)).unwrap();
        assert_eq!((home.failures(), home.failures_here()), (3, 3));
    }

    #[test]
    fn accounts_are_counted_for_an_organization_and_a_place_and_taken_back() {
        let (attempts, one) = (Attempts::default(), OrganizationId::from_uuid(uuid::Uuid::from_u128(1)));
        let other = OrganizationId::from_uuid(uuid::Uuid::from_u128(2));
        let count =
            |organization, place| attempts.count_account(organization, &address(place), at(0)).now_or_never().unwrap();
        assert_eq!([count(one, 1), count(one, 1), count(other, 1), count(one, 2)], [1, 2, 1, 1]);
        attempts.uncount_account(one, &address(1), at(0));
        assert_eq!(count(one, 1), 2);
    }

    #[test]
    fn addresses_of_one_network_are_one_place() {
        let place = |text: &str| Place::of(Some(text));
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1"));
        assert_ne!(place("2001:db8::1"), place("2001:db8:0:1::1"));
        assert_eq!(place("::ffff:192.0.2.1"), place("192.0.2.1"));
        assert_eq!(Place::of(None), place("nowhere"));
    }

    #[test]
    fn however_many_there_are_memory_is_bounded() {
        let attempts = Attempts { most: 50, ..Attempts::default() };
        for n in 0..10_000u32 {
            let (account, now) = (n.to_string(), at(i64::from(n / 100)));
            let begun = begin(&attempts, Secret::Password, &account, &address(n / 7), false, now);
            if let (Ok(attempt), 0) = (begun, n % 3) {
                attempts.succeeded(attempt, now);
            }
        }
        let counters = attempts.counters.lock().unwrap();
        assert!(counters.current.len() <= 53 && counters.before.len() <= 53);
    }
}
