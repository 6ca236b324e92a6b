//! Batches the look-ups of one execution into one statement each.
//!
//! The `dataloader` crate, made sound for us: when the future that runs a batch is dropped, the crate's other waiters
//! panic or are told "not found", and async-graphql drops siblings at the first error. So every load runs in a task of
//! its own, which nobody drops with its waiter, and what a batch could not read is an error for each of its keys.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use ::dataloader::BatchFn;
use ::dataloader::cached;
use futures::future::BoxFuture;
use tracing::Instrument;

use super::ReadError;

/// Keys of one batch at most.
const BATCH: usize = 1_000;

type Loaded<V> = Result<V, ReadError>;
type Load<K, V> = dyn Fn(Vec<K>) -> BoxFuture<'static, Loaded<HashMap<K, V>>> + Send + Sync;

/// Loads values by key, those that are asked for together with one call. Lives as long as one execution and remembers
/// what it has loaded, so that one answer never shows two states of a row.
pub(super) struct Loader<K: Key, V: Default + Clone + Send + 'static> {
    inner: cached::Loader<K, Loaded<V>, Batch<K, V>>,
}

/// What can be loaded by.
pub(super) trait Key: Eq + Hash + Clone + Debug + Send + Sync + 'static {}
impl<K: Eq + Hash + Clone + Debug + Send + Sync + 'static> Key for K {}

struct Batch<K, V>(Arc<Load<K, V>>);

impl<K: Key, V: Default + Clone + Send + 'static> BatchFn<K, Loaded<V>> for Batch<K, V> {
    async fn load(&mut self, keys: &[K]) -> HashMap<K, Loaded<V>> {
        match (self.0)(keys.to_vec()).await {
            Ok(mut found) => {
                keys.iter().map(|key| (key.clone(), Ok(found.remove(key).unwrap_or_default()))).collect()
            }
            Err(error) => keys.iter().map(|key| (key.clone(), Err(error.clone()))).collect(),
        }
    }
}

impl<K: Key, V: Default + Clone + Send + Sync + 'static> Loader<K, V> {
    /// A loader over a function that reads many keys at once. A key that it leaves out has the default value: nothing,
    /// an empty list, zero.
    pub fn new<F>(load: impl Fn(Vec<K>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Loaded<HashMap<K, V>>> + Send + 'static,
    {
        let load: Arc<Load<K, V>> = Arc::new(move |keys| Box::pin(load(keys)));
        Self { inner: cached::Loader::new(Batch(load)).with_max_batch_size(BATCH) }
    }

    /// The value of this key.
    pub async fn get(&self, key: K) -> Loaded<V> {
        let loader = self.inner.clone();
        let load = async move { loader.try_load(key).await };
        match tokio::spawn(load.in_current_span()).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(missed)) => Err(ReadError::internal(&format!("a batch left a key out: {missed}"))),
            Err(ended) => Err(ReadError::internal(&format!("a load did not end by itself: {ended}"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
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
                    Ok(value) => assert_eq!(value, Ok((key % 3 != 0).then_some(key * 2)), "key {key}, dropped {dropped}"),
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

    #[tokio::test]
    async fn what_could_not_be_read_is_an_error_not_an_absence() {
        let loader = Loader::<u64, Option<u64>>::new(|_| async { Err(ReadError::invalid("no")) });
        let both = futures::future::join(loader.get(1), loader.get(2)).await;
        assert_eq!(both, (Err(ReadError::invalid("no")), Err(ReadError::invalid("no"))));
    }
}
