//! The rate limit: one budget of cost for each person, or for each address that nobody signed in from. All nodes share
//! it where there is a Redis between them.
//!
//! Invariants
//! - A budget is a bucket that holds a minute's worth and fills evenly. The number of buckets is bounded: one that was
//!   not used for a minute is full, so that forgetting it changes nothing: two generations of a minute each are kept. A
//!   flood of addresses ends a generation early, which forgives, and never costs more memory.
//! - A node's own bucket never holds less than the shared one: who is refused here would be refused there, so a flood
//!   costs Redis nothing, and who is served costs it one round trip.
//! - Without an answer from Redis the node's own bucket decides. What was taken here alone is owed to the shared one, and
//!   paid with the next cost; what fills again in the meantime is forgiven.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use oriel_backends::redis::{Budget, Redis};
use uuid::Uuid;

/// What is allowed.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of it.
pub const STATE: HeaderName = HeaderName::from_static("ratelimit");
/// Buckets of one generation.
const MOST: usize = 50_000;
const MINUTE: Duration = Duration::from_secs(60);

/// Whose bucket it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Payer {
    /// Somebody who is signed in.
    Person(Uuid),
    /// A key, and how much it may spend in a minute where that is less than what holds for all.
    Key(Uuid, Option<u32>),
    /// Somebody who is not.
    Address(IpAddr),
    /// All whose address is not known.
    Unknown,
}

impl Payer {
    /// The one behind an address. IPv6 gives everybody a network of 64 bits.
    pub fn at(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => Self::Address(IpAddr::V6((address.to_bits() >> 64 << 64).into())),
            Some(address) => Self::Address(address),
            None => Self::Unknown,
        }
    }

    /// What the shared bucket is called.
    fn name(&self) -> String {
        match self {
            Self::Person(id) => format!("rate:person:{}", id.simple()),
            Self::Key(id, _) => format!("rate:key:{}", id.simple()),
            Self::Address(address) => format!("rate:address:{address}"),
            Self::Unknown => "rate:unknown".to_owned(),
        }
    }
}

/// What is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// What may be spent in a minute.
    pub limit: u32,
    /// What may be spent at once.
    pub remaining: u32,
    /// When all of it will be there again.
    pub full_in: Duration,
}

impl Left {
    /// As header fields (draft-ietf-httpapi-ratelimit-headers).
    pub fn write(&self, headers: &mut HeaderMap) {
        let Self { limit, remaining, full_in } = self;
        let fields = [
            (POLICY, format!("\"cost\";q={limit};w={}", MINUTE.as_secs())),
            (STATE, format!("\"cost\";r={remaining};t={}", full_in.as_secs_f64().ceil() as u64)),
        ];
        for (name, text) in fields {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

/// There is not enough left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spent {
    /// What is left.
    pub left: Left,
    /// When there will be enough.
    pub wait: Duration,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
    /// What was taken here and not from the shared bucket.
    owed: f64,
}

impl Bucket {
    fn fill(&mut self, full: f64, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + seconds * full / MINUTE.as_secs_f64()).min(full);
        self.owed = self.owed.min(full - self.tokens);
        self.at = now;
    }
}

#[derive(Default)]
struct Generations {
    began: Option<Instant>,
    current: HashMap<Payer, Bucket>,
    before: HashMap<Payer, Bucket>,
}

/// See the module.
pub struct Rates {
    per_minute: Option<u32>,
    most: usize,
    buckets: Mutex<Generations>,
    shared: Option<Arc<Redis>>,
}

impl Rates {
    /// So much cost a minute for each; `None`: no limit. `shared`: between these nodes.
    pub fn new(per_minute: Option<u32>, shared: Option<Arc<Redis>>) -> Self {
        Self { per_minute, most: MOST, buckets: Mutex::default(), shared }
    }

    /// A whole budget of this payer.
    pub fn whole(&self, payer: Payer) -> u64 {
        self.limit(payer).map_or(u64::MAX, u64::from)
    }

    /// What they may spend in a minute.
    fn limit(&self, payer: Payer) -> Option<u32> {
        match payer {
            Payer::Key(_, own) => own.into_iter().chain(self.per_minute).min(),
            Payer::Person(_) | Payer::Address(_) | Payer::Unknown => self.per_minute,
        }
    }

    /// Takes a cost from this node's bucket, without waiting; it is owed to the shared one. `Ok(None)`: there is no
    /// limit.
    pub fn charge(&self, payer: Payer, cost: u64, now: Instant) -> Result<Option<Left>, Spent> {
        let Some(limit) = self.limit(payer) else { return Ok(None) };
        let (full, cost) = amounts(limit, cost);
        self.with(payer, full, now, |bucket| {
            if bucket.tokens < cost {
                return Err(spent(limit, bucket.tokens, cost));
            }
            bucket.tokens -= cost;
            bucket.owed = (bucket.owed + cost).min(full);
            Ok(Some(left(limit, bucket.tokens)))
        })
    }

    /// Takes a cost, of which so much was charged before. `Ok(None)`: there is no limit.
    pub async fn take(&self, payer: Payer, cost: u64, charged: u64, now: Instant) -> Result<Option<Left>, Spent> {
        let Some(limit) = self.limit(payer) else { return Ok(None) };
        let Some(shared) = &self.shared else { return self.charge(payer, cost.saturating_sub(charged), now) };
        let (full, rest) = amounts(limit, cost.saturating_sub(charged));
        // Here first: who has spent it all is told so by this node.
        let (own, owed) = self.with(payer, full, now, |bucket| {
            if bucket.tokens < rest {
                return Err(spent(limit, bucket.tokens, rest));
            }
            bucket.tokens -= rest;
            // What was charged before is a part of the cost, unless another operation has paid it already.
            let own = (charged as f64).min(bucket.owed);
            Ok((own, std::mem::take(&mut bucket.owed) - own))
        })?;
        let cost = (rest + own).min(full);
        let balance = shared.spend(&payer.name(), Budget { capacity: full, fills_in: MINUTE }, cost, owed).await;
        self.with(payer, full, now, |bucket| match balance {
            Ok(balance) => {
                bucket.tokens = (balance.left - bucket.owed).clamp(0.0, full);
                let enough = balance.was_enough;
                if enough { Ok(Some(left(limit, balance.left))) } else { Err(spent(limit, balance.left, cost)) }
            }
            Err(_) => {
                bucket.owed = (bucket.owed + cost + owed).min(full - bucket.tokens);
                Ok(Some(left(limit, bucket.tokens)))
            }
        })
    }

    /// Works on a bucket as it is now.
    fn with<T>(&self, payer: Payer, full: f64, now: Instant, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut buckets = self.lock();
        buckets.turn(now, self.most);
        let known = buckets.current.get(&payer).or_else(|| buckets.before.get(&payer)).copied();
        let mut bucket = known.unwrap_or(Bucket { tokens: full, at: now, owed: 0.0 });
        bucket.fill(full, now);
        let done = work(&mut bucket);
        buckets.current.insert(payer, bucket);
        done
    }

    /// Nothing panics while it holds this lock, so what a poisoned one guards is whole.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A full bucket, and a cost: what costs more than a full one would never be served.
fn amounts(limit: u32, cost: u64) -> (f64, f64) {
    let full = f64::from(limit.max(1));
    (full, (cost as f64).min(full))
}

fn left(limit: u32, tokens: f64) -> Left {
    Left { limit, remaining: tokens as u32, full_in: time_for(limit, f64::from(limit.max(1)) - tokens) }
}

fn spent(limit: u32, tokens: f64, cost: f64) -> Spent {
    Spent { left: left(limit, tokens), wait: time_for(limit, cost - tokens) }
}

/// In what time so much comes back.
fn time_for(limit: u32, tokens: f64) -> Duration {
    MINUTE.mul_f64(tokens.max(0.0) / f64::from(limit.max(1)))
}

impl Generations {
    fn turn(&mut self, now: Instant, most: usize) {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= MINUTE || self.current.len() >= most {
            self.before = std::mem::take(&mut self.current);
            self.began = Some(now);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn person(number: u128) -> Payer {
        Payer::Person(Uuid::from_u128(number))
    }

    #[test]
    fn a_bucket_empties_fills_again_and_is_one_persons_own() {
        let (rates, start) = (Rates::new(Some(60), None), Instant::now());
        for n in 1..=20 {
            let left = rates.charge(person(1), 3, start).unwrap().unwrap();
            let spent = 3 * n;
            assert_eq!(left, Left { limit: 60, remaining: 60 - spent, full_in: Duration::from_secs(spent.into()) });
        }
        assert_eq!(rates.charge(person(1), 2, start).unwrap_err().wait, Duration::from_secs(2));
        assert!(rates.charge(person(2), 1, start).is_ok());
        assert!(rates.charge(person(1), 1, start + Duration::from_secs(1)).is_ok());
        assert!(rates.charge(person(1), 1, start + Duration::from_secs(1)).is_err());
        let later = start + Duration::from_secs(200);
        assert!(rates.charge(person(1), u64::MAX, later).is_ok(), "a full bucket serves anything");
    }

    #[test]
    fn a_key_has_a_bucket_of_its_own_which_is_smaller_or_as_large_as_that_of_others() {
        let start = Instant::now();
        let key = |limit| Payer::Key(Uuid::from_u128(1), limit);
        for (all, own, expected) in
            [(None, Some(3), 3), (Some(60), Some(3), 3), (Some(5), Some(60), 5), (Some(7), None, 7)]
        {
            let rates = Rates::new(all, None);
            assert_eq!(rates.whole(key(own)), u64::from(expected));
            for n in 1..=expected {
                let left = rates.charge(key(own), 1, start).unwrap().unwrap();
                assert_eq!((left.limit, left.remaining), (expected, expected - n));
            }
            assert!(rates.charge(key(own), 1, start).is_err());
            assert!(rates.charge(person(1), 1, start).is_ok());
        }
        assert_eq!(Rates::new(None, None).charge(key(None), 1_000, start), Ok(None));
    }

    #[test]
    fn without_a_limit_nobody_is_counted() {
        let rates = Rates::new(None, None);
        assert_eq!(rates.charge(Payer::Unknown, 1_000_000, Instant::now()), Ok(None));
        assert!(rates.buckets.lock().unwrap().current.is_empty());
    }

    #[test]
    fn what_is_left_is_told_as_the_draft_of_the_standard_says() {
        let mut headers = HeaderMap::new();
        Left { limit: 100, remaining: 50, full_in: Duration::from_millis(29_100) }.write(&mut headers);
        assert_eq!(headers[POLICY], "\"cost\";q=100;w=60");
        assert_eq!(headers[STATE], "\"cost\";r=50;t=30");
    }

    #[test]
    fn addresses_of_one_network_share_a_bucket() {
        let at = |text: &str| Payer::at(Some(text.parse().unwrap()));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let rates = Rates { most: 100, ..Rates::new(Some(5), None) };
        let now = Instant::now();
        for n in 0..10_000 {
            rates.charge(person(n), 1, now).unwrap();
        }
        let buckets = rates.buckets.lock().unwrap();
        assert!(buckets.current.len() + buckets.before.len() <= 200);
    }

    proptest! {
        #[test]
        fn within_any_minute_no_more_than_two_buckets_are_spent(
            steps in prop::collection::vec((0u64..3_000, 1u64..12), 1..400),
        ) {
            let (rates, start) = (Rates::new(Some(30), None), Instant::now());
            let (mut at, mut served) = (0, Vec::new());
            for (pause, cost) in steps {
                at += pause;
                if rates.charge(person(1), cost, start + Duration::from_millis(at)).is_ok() {
                    served.push((at, cost));
                }
            }
            for (from, _) in &served {
                let within = served.iter().filter(|(at, _)| (*from..from + 60_000).contains(at));
                let spent: u64 = within.map(|(_, cost)| cost).sum();
                prop_assert!(spent <= 60, "{spent}");
            }
        }
    }
}
