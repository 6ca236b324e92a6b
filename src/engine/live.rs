//! What was touched when: the rule by which a cached answer is current and a live query is asked again.
//!
//! A node counts ticks: every applied batch of changes is one, whether it comes from the log or from an index.
//!
//! - A query notes the tick first (`t0`), then reads. Its answer is current while nothing that it depends on was
//!   touched after `t0`, and `t0` is not below the floor.
//! - `touched` is set before the tick moves, so that who sees a tick sees what it touched.
//! - `touched` is bounded. What is forgotten raises the floor to its tick: an answer older than that is not trusted.
//! - A watch is told of every touch after its `t0`, also of those before it was made. Nothing is polled.
//!
//! Nothing here knows what a dependency means, or where changes come from.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use crate::read::Dependency;

/// A moment in a node's own count of applied changes. Means nothing on another node or after a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tick(u64);

/// Why an answer is not current.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stale {
    /// This was touched after it was read.
    Touched(Dependency),
    /// It was read before the floor: whether it is current is not known any more.
    BelowFloor,
}

/// Knows what was touched when, and wakes who waits for it. Cheap to clone; the clones are one tracker.
#[derive(Clone)]
pub struct Tracker(Arc<Shared>);

struct Shared {
    touched: RwLock<Touched>,
    /// Moves behind `touched`, never before it.
    tick: AtomicU64,
    watchers: Mutex<Watchers>,
    capacity: usize,
}

/// When each dependency was touched last, oldest first.
#[derive(Default)]
struct Touched {
    tick: Tick,
    floor: Tick,
    last: HashMap<Dependency, Tick>,
    /// In the order of touching. An entry that `last` contradicts is superseded by a later one.
    order: VecDeque<(Tick, Dependency)>,
}

#[derive(Default)]
struct Watchers {
    next: u64,
    all: HashMap<u64, Arc<Flag>>,
    by_dependency: HashMap<Dependency, HashMap<u64, Arc<Flag>>>,
}

#[derive(Default)]
struct Flag {
    raised: AtomicBool,
    notify: Notify,
}

/// Waits for a touch. Dropping it ends the waiting.
pub struct Watch {
    tracker: Tracker,
    number: u64,
    flag: Arc<Flag>,
    dependencies: Arc<[Dependency]>,
}

impl Tracker {
    /// A tracker that remembers this many dependencies.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Shared {
            touched: RwLock::default(),
            tick: AtomicU64::new(0),
            watchers: Mutex::default(),
            capacity: capacity.max(1),
        }))
    }

    /// Now. To be noted before reading.
    pub fn tick(&self) -> Tick {
        Tick(self.0.tick.load(Ordering::Acquire))
    }

    /// The oldest tick that answers are trusted from.
    pub fn floor(&self) -> Tick {
        self.touched().floor
    }

    /// A batch of changes was applied: its rows can be read from now on. One tick, however many dependencies.
    pub fn apply(&self, dependencies: &[Dependency]) -> Tick {
        let now = {
            let mut touched = self.touched_mut();
            let now = touched.touch(dependencies, self.0.capacity);
            self.0.tick.store(now.0, Ordering::Release);
            now
        };
        // Who is registered by now is woken here; who registers later sees `touched`.
        let mut woken = Vec::new();
        {
            let mut watchers = self.watchers();
            for dependency in dependencies {
                // They are woken once: what they watch does not interest them any more.
                woken.extend(watchers.by_dependency.remove(dependency).into_iter().flat_map(HashMap::into_values));
            }
        }
        woken.iter().for_each(|flag| flag.raise());
        now
    }

    /// Nothing read before now is trusted any more: changes may have been missed. Everyone who waits is woken.
    pub fn raise_floor(&self) -> Tick {
        let now = {
            let mut touched = self.touched_mut();
            let now = Tick(touched.tick.0 + 1);
            *touched = Touched { tick: now, floor: now, ..Touched::default() };
            self.0.tick.store(now.0, Ordering::Release);
            now
        };
        let woken: Vec<_> = {
            let mut watchers = self.watchers();
            watchers.by_dependency.clear();
            watchers.all.values().cloned().collect()
        };
        woken.iter().for_each(|flag| flag.raise());
        now
    }

    /// Whether what was read from `t0` on is current still, if this is all that it depends on.
    pub fn valid<'a>(&self, t0: Tick, dependencies: impl IntoIterator<Item = &'a Dependency>) -> bool {
        self.touched().unchanged(t0, dependencies)
    }

    /// What makes an answer old that was read from `t0` on and depends on these; `None` while it is current.
    pub fn stale<'a>(&self, t0: Tick, dependencies: impl IntoIterator<Item = &'a Dependency>) -> Option<Stale> {
        let touched = self.touched();
        if t0 < touched.floor {
            return Some(Stale::BelowFloor);
        }
        let later = |d: &&Dependency| touched.last.get(*d).is_some_and(|&tick| tick > t0);
        dependencies.into_iter().find(later).cloned().map(Stale::Touched)
    }

    /// Waits for the first touch of one of these after `t0`, or for the floor to rise over `t0`.
    pub fn watch(&self, t0: Tick, dependencies: impl Into<Arc<[Dependency]>>) -> Watch {
        let dependencies = dependencies.into();
        let flag = Arc::new(Flag::default());
        let number = self.watchers().add(&flag, &dependencies);
        // Registered first and looked second: a touch in between is seen by one of the two, at least.
        if !self.valid(t0, dependencies.iter()) {
            flag.raise();
        }
        Watch { tracker: self.clone(), number, flag, dependencies }
    }

    /// How many watches there are.
    pub fn watches(&self) -> usize {
        self.watchers().all.len()
    }

    // Nothing panics while it holds one of these locks, so what a poisoned one guards is whole.

    fn touched(&self) -> RwLockReadGuard<'_, Touched> {
        self.0.touched.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn touched_mut(&self) -> RwLockWriteGuard<'_, Touched> {
        self.0.touched.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("tick", &self.tick()).field("watches", &self.watches()).finish_non_exhaustive()
    }
}

impl Touched {
    fn touch(&mut self, dependencies: &[Dependency], capacity: usize) -> Tick {
        let now = Tick(self.tick.0 + 1);
        for dependency in dependencies {
            if self.last.insert(dependency.clone(), now) != Some(now) {
                self.order.push_back((now, dependency.clone()));
            }
        }
        while self.last.len() > capacity
            && let Some((tick, dependency)) = self.order.pop_front()
        {
            if self.last.get(&dependency) == Some(&tick) {
                self.last.remove(&dependency);
                self.floor = tick;
            }
        }
        // A dependency that is touched all the time leaves superseded entries behind: swept when they are the most.
        if self.order.len() > 2 * capacity {
            let last = &self.last;
            self.order.retain(|(tick, dependency)| last.get(dependency) == Some(tick));
        }
        self.tick = now;
        now
    }

    fn unchanged<'a>(&self, t0: Tick, dependencies: impl IntoIterator<Item = &'a Dependency>) -> bool {
        t0 >= self.floor && !dependencies.into_iter().any(|d| self.last.get(d).is_some_and(|&tick| tick > t0))
    }
}

impl Watchers {
    fn add(&mut self, flag: &Arc<Flag>, dependencies: &[Dependency]) -> u64 {
        let number = self.next;
        self.next += 1;
        self.all.insert(number, flag.clone());
        for dependency in dependencies {
            self.by_dependency.entry(dependency.clone()).or_default().insert(number, flag.clone());
        }
        number
    }

    fn remove(&mut self, number: u64, dependencies: &[Dependency]) {
        self.all.remove(&number);
        for dependency in dependencies {
            if let Some(watching) = self.by_dependency.get_mut(dependency) {
                watching.remove(&number);
                if watching.is_empty() {
                    self.by_dependency.remove(dependency);
                }
            }
        }
    }
}

impl Flag {
    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.notify.notify_one(); // kept for one who waits later
    }
}

impl Watch {
    /// Completes when something was touched; at once when it was already. Then make a new one, with a new `t0` and
    /// what the new answer depends on.
    pub async fn changed(&mut self) {
        while !self.has_changed() {
            self.flag.notify.notified().await;
        }
    }

    /// Whether something was touched.
    pub fn has_changed(&self) -> bool {
        self.flag.raised.load(Ordering::Acquire)
    }

    /// What it waits for.
    pub fn dependencies(&self) -> &Arc<[Dependency]> {
        &self.dependencies
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tracker.watchers().remove(self.number, &self.dependencies);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("number", &self.number)
            .field("has_changed", &self.has_changed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
