//! Answers that are kept for as long as they are current, and executions that several wait for.
//!
//! Invariants: what is served was read from `t0` on, and nothing that it depends on was touched since; an answer with
//! errors, or with a value that passes, is not kept; a personal one is found by its own session or key alone; identical
//! questions that arrive together are executed once, and nobody gets an answer from before they asked that was
//! touched since. No time to live stands in for any of this.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use metrics::counter;
use oriel_engine::live::{Stale, Tracker};
use oriel_engine::read::Stability;
use oriel_kernel::{Credential, Position, Timestamp};

use super::answer::Outcome;

/// What is asked, and by whom as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    question: [u8; 16],
    /// Of a personal answer: whose.
    credential: Option<Credential>,
}

impl Key {
    /// From the first 16 bytes of a hash.
    pub fn of(hash: &[u8]) -> Self {
        let mut question = [0; 16];
        question.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
        Self { question, credential: None }
    }

    /// The same question for one session or key alone.
    pub fn personal(self, credential: Credential) -> Self {
        Self { credential: Some(credential), ..self }
    }

    /// What is asked.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    pub fn is_personal(&self) -> bool {
        self.credential.is_some()
    }
}

/// What is known under a key.
#[derive(Clone)]
enum Kept {
    /// The answers to this question are personal.
    Personal,
    Answer(Arc<Outcome>),
}

/// What was found.
pub(super) enum Found {
    /// It is current.
    Hit(Arc<Outcome>),
    /// Ask for a personal answer.
    Personal,
    /// Nothing that is current.
    Nothing,
}

/// An execution that several may wait for.
type Execution = BoxFuture<'static, Arc<Outcome>>;

/// One who waits for an execution. The last one who goes away ends it.
pub(super) struct Flight<'a> {
    cache: &'a Cache,
    key: Key,
    execution: Option<Shared<Execution>>,
    /// Whether the execution began for this one.
    pub is_new: bool,
}

impl Flight<'_> {
    pub async fn outcome(mut self) -> Arc<Outcome> {
        match &mut self.execution {
            Some(execution) => execution.await,
            None => unreachable!("it is taken by `drop` alone"),
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.execution = None;
        let mut flights = lock(&self.cache.flights);
        // Who comes later begins a new one.
        let is_over =
            |weak: &WeakShared<_>| weak.upgrade().is_none_or(|shared: Shared<Execution>| shared.peek().is_some());
        if flights.get(&self.key).is_some_and(is_over) {
            flights.remove(&self.key);
        }
    }
}

/// See the module.
pub(crate) struct Cache {
    kept: moka::sync::Cache<Key, Kept>,
    flights: Mutex<HashMap<Key, WeakShared<Execution>>>,
    hits: AtomicU64,
    misses: AtomicU64,
    shared: AtomicU64,
    coalesced: AtomicU64,
    invalidated: Mutex<HashMap<String, u64>>,
}

/// What the cache of answers has done since the server started.
#[derive(Clone, Debug, Default)]
pub struct CacheReport {
    /// Answers that were served without executing anything.
    pub hits: u64,
    /// Answers that had to be executed.
    pub misses: u64,
    /// Answers that another node had executed.
    pub shared: u64,
    /// Answers that somebody else's execution gave.
    pub coalesced: u64,
    /// Answers that are kept.
    pub entries: u64,
    /// About how many bytes they take.
    pub bytes: u64,
    /// How many answers were found to be old, by what had been touched: `documents@org`, `floor`, `time` …
    pub invalidated: Vec<(String, u64)>,
}

impl Cache {
    /// A cache of this many bytes; of none it keeps nothing, and still lets identical questions wait for each other.
    pub(super) fn new(bytes: u64) -> Self {
        let weigh = |_: &Key, kept: &Kept| match kept {
            Kept::Personal => 64,
            Kept::Answer(outcome) => u32::try_from(outcome.weight()).unwrap_or(u32::MAX),
        };
        Self {
            kept: moka::sync::Cache::builder().max_capacity(bytes).weigher(weigh).build(),
            flights: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            invalidated: Mutex::default(),
        }
    }

    /// What is kept under this key, if it is current and an index that it asked had come as far as `at_least`.
    pub(super) fn find(&self, key: &Key, tracker: &Tracker, now: Timestamp, at_least: Option<Position>) -> Found {
        let outcome = match self.kept.get(key) {
            None => return Found::Nothing,
            Some(Kept::Personal) => return Found::Personal,
            Some(Kept::Answer(outcome)) => outcome,
        };
        if matches!(outcome.stability, Stability::Until(moment) if moment <= now) {
            return self.drop_because(key, "time");
        }
        if let Some(reason) = tracker.stale(outcome.t0, outcome.dependencies.iter()) {
            return match reason {
                Stale::Touched(dependency) => {
                    let text = dependency.as_str();
                    self.drop_because(key, text.split_once(':').map_or(text, |(what, _)| what))
                }
                Stale::BelowFloor => self.drop_because(key, "floor"),
            };
        }
        if outcome.slowest < at_least && outcome.slowest.is_some() {
            return Found::Nothing;
        }
        Found::Hit(outcome)
    }

    fn drop_because(&self, key: &Key, reason: &str) -> Found {
        self.kept.invalidate(key);
        counter!("oriel_cache_invalidated_total", "by" => reason.to_owned()).increment(1);
        *lock(&self.invalidated).entry(reason.to_owned()).or_default() += 1;
        Found::Nothing
    }

    /// Whether answers to this question are known to be personal.
    pub(super) fn is_personal(&self, key: &Key) -> bool {
        matches!(self.kept.get(key), Some(Kept::Personal))
    }

    /// Keeps an outcome that is stable and still current, and that a question is answered personally.
    pub(super) fn keep(&self, key: Key, credential: Option<Credential>, outcome: &Arc<Outcome>, tracker: &Tracker) {
        let mut key = key;
        if let Some(credential) = credential.filter(|_| outcome.is_personal && !key.is_personal()) {
            self.kept.insert(key, Kept::Personal);
            key = key.personal(credential);
        }
        if outcome.is_stable() && tracker.valid(outcome.t0, outcome.dependencies.iter()) {
            self.kept.insert(key, Kept::Answer(Arc::clone(outcome)));
        }
    }

    /// The execution of this question that goes on, or a new one.
    pub(super) fn join<F>(&self, key: Key, execute: impl FnOnce() -> F) -> Flight<'_>
    where
        F: Future<Output = Arc<Outcome>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        let going_on = flights.get(&key).and_then(WeakShared::upgrade).filter(|shared| shared.peek().is_none());
        let is_new = going_on.is_none();
        let execution = going_on.unwrap_or_else(|| {
            let execution = execute().boxed().shared();
            flights.extend(execution.downgrade().map(|weak| (key, weak)));
            execution
        });
        Flight { cache: self, key, execution: Some(execution), is_new }
    }

    pub(super) fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        counter!("oriel_cache_requests_total", "outcome" => "hit").increment(1);
    }

    fn count_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        counter!("oriel_cache_requests_total", "outcome" => "miss").increment(1);
    }

    /// By who has executed it.
    pub(super) fn count_new(&self, outcome: &Outcome) {
        if !outcome.is_shared {
            return self.count_miss();
        }
        self.shared.fetch_add(1, Ordering::Relaxed);
        counter!("oriel_cache_requests_total", "outcome" => "shared").increment(1);
    }

    pub(super) fn count_coalesced(&self) {
        self.coalesced.fetch_add(1, Ordering::Relaxed);
        counter!("oriel_cache_requests_total", "outcome" => "coalesced").increment(1);
    }

    /// Forgets every answer.
    pub(crate) fn clear(&self) {
        self.kept.invalidate_all();
    }

    pub(crate) fn report(&self) -> CacheReport {
        self.kept.run_pending_tasks();
        let mut invalidated: Vec<_> = lock(&self.invalidated).iter().map(|(by, n)| (by.clone(), *n)).collect();
        invalidated.sort();
        CacheReport {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            shared: self.shared.load(Ordering::Relaxed),
            coalesced: self.coalesced.load(Ordering::Relaxed),
            entries: self.kept.entry_count(),
            bytes: self.kept.weighted_size(),
            invalidated,
        }
    }
}

/// Nothing panics while it holds one of these locks, so what a poisoned one guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
