//! Batches the look-ups of one execution into one statement each.
//!
//! The `dataloader` crate, made sound for us. When the future that runs a batch is dropped, the crate's other waiters
//! panic or are told "not found", and async-graphql drops siblings at the first error: so a batch runs in a task of
//! its own, which nobody drops with its waiters. Only `try_load_many` is used, and what a batch could not read is an
//! error for each of its keys, never an absence.
//!
//! When a batch begins is the waiters' matter, not the clock's: all resolvers of one execution are polled in one task,
//! so whatever they ask for in one pass stands in one batch, and the first of them to be polled again starts it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use ::dataloader::BatchFn;
use ::dataloader::cached;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tracing::Instrument;

use super::ReadError;

/// Keys of one statement at most.
const BATCH: usize = 1_000;

/// How often a waiter lets the others go first. One would do for resolvers that begin together; those that were woken
/// by an earlier batch may come a moment later.
const TURNS: usize = 3;

type Loaded<V> = Result<V, ReadError>;
type Load<K, V> = dyn Fn(Vec<K>) -> BoxFuture<'static, Loaded<HashMap<K, V>>> + Send + Sync;
type Outcome<K, V> = Option<Result<Arc<HashMap<K, Loaded<V>>>, ReadError>>;

/// Loads values by key, those that are asked for together with one call. Lives as long as one execution and remembers
/// what it has loaded, so that one answer never shows two states of a row.
pub(super) struct Loader<K: Key, V: Value> {
    inner: cached::Loader<K, Loaded<V>, Batch<K, V>>,
    gathering: Mutex<Gathering<K, V>>,
}

/// What can be loaded by.
pub(super) trait Key: Eq + Hash + Clone + Debug + Send + Sync + 'static {}
impl<K: Eq + Hash + Clone + Debug + Send + Sync + 'static> Key for K {}

/// What can be loaded. The default is what a key has that the batch left out: nothing, an empty list, zero.
pub(super) trait Value: Default + Clone + Send + Sync + 'static {}
impl<V: Default + Clone + Send + Sync + 'static> Value for V {}

struct Batch<K, V>(Arc<Load<K, V>>);

/// The batch that has not begun.
struct Gathering<K, V> {
    number: u64,
    keys: Vec<K>,
    outcome: watch::Sender<Outcome<K, V>>,
}

impl<K: Key, V: Value> BatchFn<K, Loaded<V>> for Batch<K, V> {
    async fn load(&mut self, keys: &[K]) -> HashMap<K, Loaded<V>> {
        match (self.0)(keys.to_vec()).await {
            Ok(mut found) => keys.iter().map(|key| (key.clone(), Ok(found.remove(key).unwrap_or_default()))).collect(),
            Err(error) => keys.iter().map(|key| (key.clone(), Err(error.clone()))).collect(),
        }
    }
}

impl<K: Key, V: Value> Loader<K, V> {
    /// A loader over a function that reads many keys at once.
    pub fn new<F>(load: impl Fn(Vec<K>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Loaded<HashMap<K, V>>> + Send + 'static,
    {
        let load: Arc<Load<K, V>> = Arc::new(move |keys| Box::pin(load(keys)));
        Self {
            inner: cached::Loader::new(Batch(load)).with_max_batch_size(BATCH).with_yield_count(0),
            gathering: Mutex::new(Gathering { number: 0, keys: Vec::new(), outcome: watch::Sender::new(None) }),
        }
    }

    /// The value of this key.
    pub async fn get(&self, key: K) -> Loaded<V> {
        let (number, mut outcome) = self.join(key.clone());
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        self.begin(number);
        let Ok(outcome) = outcome.wait_for(Option::is_some).await else {
            return Err(ReadError::internal("a batch ended without an outcome"));
        };
        match &*outcome {
            Some(Ok(loaded)) => loaded.get(&key).cloned().unwrap_or_else(|| Ok(V::default())),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ReadError::internal("a batch without an outcome was taken for ended")),
        }
    }

    /// Adds a key to the batch that has not begun.
    fn join(&self, key: K) -> (u64, watch::Receiver<Outcome<K, V>>) {
        let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
        gathering.keys.push(key);
        (gathering.number, gathering.outcome.subscribe())
    }

    /// Begins this batch, unless another waiter did.
    fn begin(&self, number: u64) {
        let (keys, outcome) = {
            let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
            if gathering.number != number {
                return;
            }
            gathering.number += 1;
            (std::mem::take(&mut gathering.keys), std::mem::replace(&mut gathering.outcome, watch::Sender::new(None)))
        };
        let loader = self.inner.clone();
        let batch = async move {
            let loaded = loader.try_load_many(keys).await;
            let loaded =
                loaded.map(Arc::new).map_err(|missed| ReadError::internal(&format!("a key was left out: {missed}")));
            // When nobody waits any more, that is all right. When this panics, the waiters see the sender go.
            outcome.send_replace(Some(loaded));
        };
        tokio::spawn(batch.in_current_span());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::{Notify, Semaphore};

    /// Which waiter is dropped must not matter: each of them in turn may be the one that runs the batch.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_waiter_that_goes_away_in_mid_batch_takes_nobody_with_it() {
        for dropped in 0..10u64 {
            let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
            let loader = {
                let (begun, gate) = (begun.clone(), gate.clone());
                Arc::new(Loader::<u64, Option<u64>>::new(move |keys| {
                    let (begun, gate) = (begun.clone(), gate.clone());
                    async move {
                        begun.notify_one();
                        drop(gate.acquire().await.unwrap());
                        Ok(keys.into_iter().filter(|k| k % 3 != 0).map(|k| (k, Some(k * 2))).collect())
                    }
                }))
            };
            let waiters: Vec<_> = (0..10)
                .map(|key| {
                    let loader = loader.clone();
                    tokio::spawn(async move { loader.get(key).await })
                })
                .collect();
            begun.notified().await; // the batch is under way, and holds
            waiters[dropped as usize].abort();
            gate.add_permits(1);
            for (key, waiter) in (0..10u64).zip(waiters) {
                match waiter.await {
                    Ok(value) => {
                        assert_eq!(value, Ok((key % 3 != 0).then_some(key * 2)), "key {key}, dropped {dropped}")
                    }
                    Err(error) => assert!(key == dropped && error.is_cancelled()),
                }
            }
        }
    }

    #[tokio::test]
    async fn keys_asked_for_together_are_one_batch_and_are_remembered() {
        let batches = Arc::new(AtomicUsize::new(0));
        let loader = {
            let batches = batches.clone();
            Loader::<u64, u64>::new(move |keys| {
                batches.fetch_add(1, Ordering::Relaxed);
                async move { Ok(keys.into_iter().map(|k| (k, k + 1)).collect()) }
            })
        };
        let all = futures::future::join_all((0..50).map(|key| loader.get(key % 25))).await;
        assert!(all.iter().zip(0..).all(|(value, key)| *value == Ok(key % 25 + 1)));
        assert_eq!(loader.get(3).await, Ok(4));
        assert_eq!(batches.load(Ordering::Relaxed), 1);
    }

    /// The resolvers of one execution are one task, whatever the other threads do meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_one_task_asks_for_in_one_pass_is_one_batch_on_many_threads() {
        for _ in 0..200 {
            let batches = Arc::new(AtomicUsize::new(0));
            let loader = {
                let batches = batches.clone();
                Arc::new(Loader::<u64, u64>::new(move |keys| {
                    batches.fetch_add(1, Ordering::Relaxed);
                    async move { Ok(keys.into_iter().map(|k| (k, k + 1)).collect()) }
                }))
            };
            let execution = async move { futures::future::try_join_all((0..100).map(|key| loader.get(key))).await };
            let values = tokio::spawn(execution).await.unwrap();
            assert_eq!(values, Ok((1..=100).collect()));
            assert_eq!(batches.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_before_its_batch_begins_leaves_nobody_waiting() {
        let loader =
            Loader::<u64, Option<u64>>::new(|keys| async move { Ok(keys.into_iter().map(|k| (k, Some(k))).collect()) });
        assert!(loader.get(1).now_or_never().is_none());
        assert_eq!(futures::future::join(loader.get(2), loader.get(1)).await, (Ok(Some(2)), Ok(Some(1))));
        assert!(loader.get(3).now_or_never().is_none());
        assert_eq!(loader.get(4).await, Ok(Some(4)));
    }

    #[tokio::test]
    async fn a_batch_that_panics_is_an_error_for_all_who_wait() {
        let loader = Loader::<u64, Option<u64>>::new(|keys| async move {
            assert!(!keys.contains(&13), "a defect, made on purpose");
            Ok(HashMap::new())
        });
        let both = futures::future::join(loader.get(13), loader.get(1)).await;
        assert!(matches!(both, (Err(ReadError::Internal(_)), Err(ReadError::Internal(_)))));
        assert_eq!(loader.get(2).await, Ok(None));
    }

    #[tokio::test]
    async fn what_could_not_be_read_is_an_error_not_an_absence() {
        let loader = Loader::<u64, Option<u64>>::new(|_| async { Err(ReadError::invalid("no")) });
        let both = futures::future::join(loader.get(1), loader.get(2)).await;
        assert_eq!(both, (Err(ReadError::invalid("no")), Err(ReadError::invalid("no"))));
    }
}
