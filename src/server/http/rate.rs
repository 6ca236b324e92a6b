//! The rate limit: one budget of cost for each person, or for each address that nobody signed in from, in this process.
//!
//! Invariants: a budget is a bucket that holds a minute's worth and fills evenly; the number of buckets is bounded. One that was not
//! used for a minute is full, so that forgetting it changes nothing: two generations of a minute each are kept. A
//! flood of addresses ends a generation early, which forgives, and never costs more memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
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
}

impl Rates {
    /// So much cost a minute for each; `None`: no limit.
    pub fn new(per_minute: Option<u32>) -> Self {
        Self { per_minute, most: MOST, buckets: Mutex::default() }
    }

    /// A whole budget.
    pub fn whole(&self) -> u64 {
        self.per_minute.map_or(u64::MAX, u64::from)
    }

    /// Takes a cost from a bucket. `Ok(None)`: there is no limit.
    pub fn take(&self, payer: Payer, cost: u64, now: Instant) -> Result<Option<Left>, Spent> {
        let Some(limit) = self.per_minute else { return Ok(None) };
        let full = f64::from(limit.max(1));
        let per_second = full / MINUTE.as_secs_f64();
        // What costs more than a full bucket would never be served.
        let cost = (cost as f64).min(full);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.turn(now, self.most);
        let known = buckets.current.get(&payer).or_else(|| buckets.before.get(&payer)).copied();
        let Bucket { tokens, at } = known.unwrap_or(Bucket { tokens: full, at: now });
        let tokens = (tokens + now.saturating_duration_since(at).as_secs_f64() * per_second).min(full);
        let enough = tokens >= cost;
        let rest = if enough { tokens - cost } else { tokens };
        buckets.current.insert(payer, Bucket { tokens: rest, at: now });
        let after = |missing: f64| Duration::from_secs_f64(missing / per_second);
        let left = Left { limit, remaining: rest as u32, full_in: after(full - rest) };
        if enough { Ok(Some(left)) } else { Err(Spent { left, wait: after(cost - tokens) }) }
    }
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
        let (rates, start) = (Rates::new(Some(60)), Instant::now());
        for n in 1..=20 {
            let left = rates.take(person(1), 3, start).unwrap().unwrap();
            let spent = 3 * n;
            assert_eq!(left, Left { limit: 60, remaining: 60 - spent, full_in: Duration::from_secs(spent.into()) });
        }
        assert_eq!(rates.take(person(1), 2, start).unwrap_err().wait, Duration::from_secs(2));
        assert!(rates.take(person(2), 1, start).is_ok());
        assert!(rates.take(person(1), 1, start + Duration::from_secs(1)).is_ok());
        assert!(rates.take(person(1), 1, start + Duration::from_secs(1)).is_err());
        let later = start + Duration::from_secs(200);
        assert!(rates.take(person(1), u64::MAX, later).is_ok(), "a full bucket serves anything");
    }

    #[test]
    fn without_a_limit_nobody_is_counted() {
        let rates = Rates::new(None);
        assert_eq!(rates.take(Payer::Unknown, 1_000_000, Instant::now()), Ok(None));
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
        let rates = Rates { most: 100, ..Rates::new(Some(5)) };
        let now = Instant::now();
        for n in 0..10_000 {
            rates.take(person(n), 1, now).unwrap();
        }
        let buckets = rates.buckets.lock().unwrap();
        assert!(buckets.current.len() + buckets.before.len() <= 200);
    }

    proptest! {
        #[test]
        fn within_any_minute_no_more_than_two_buckets_are_spent(
            steps in prop::collection::vec((0u64..3_000, 1u64..12), 1..400),
        ) {
            let (rates, start) = (Rates::new(Some(30)), Instant::now());
            let (mut at, mut served) = (0, Vec::new());
            for (pause, cost) in steps {
                at += pause;
                if rates.take(person(1), cost, start + Duration::from_millis(at)).is_ok() {
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
