//! The tracker against a model that forgets nothing, and against threads.

use super::*;
use futures::FutureExt;
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

fn dependency(number: u8) -> Dependency {
    Dependency::named(format!("thing:{number}"))
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<u8>),
    RaiseFloor,
    Watch { ago: u64, of: Vec<u8> },
    DropWatch(usize),
    Valid { ago: u64, of: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(0..12u8, 0..5);
    prop_oneof![
        6 => some().prop_map(Step::Apply),
        1 => Just(Step::RaiseFloor),
        4 => (0..6u64, some()).prop_map(|(ago, of)| Step::Watch { ago, of }),
        2 => (0..8usize).prop_map(Step::DropWatch),
        6 => (0..6u64, some()).prop_map(|(ago, of)| Step::Valid { ago, of }),
    ]
}

/// Every batch ever applied; `None` is a raised floor.
#[derive(Default)]
struct Model(Vec<Option<Vec<u8>>>);

impl Model {
    fn tick(&self) -> u64 {
        self.0.len() as u64
    }

    fn changed_after(&self, t0: u64, of: &[u8]) -> bool {
        self.0[t0 as usize..].iter().any(|batch| match batch {
            None => true,
            Some(touched) => touched.iter().any(|d| of.contains(d)),
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// With room for everything the tracker says exactly what the model says; with little room it may say "changed"
    /// too often, never "unchanged" wrongly, and never about a tick that it has not forgotten.
    #[test]
    fn says_what_a_model_without_limits_says(steps in prop::collection::vec(step(), 0..60), capacity in 1..14usize) {
        let roomy = capacity >= 12;
        let tracker = Tracker::new(capacity);
        let mut model = Model::default();
        let mut watches: Vec<(u64, Vec<u8>, Watch)> = Vec::new();
        for step in steps {
            match step {
                Step::Apply(of) => {
                    let dependencies: Vec<_> = of.iter().copied().map(dependency).collect();
                    model.0.push(Some(of));
                    prop_assert_eq!(tracker.apply(&dependencies).0, model.tick());
                }
                Step::RaiseFloor => {
                    model.0.push(None);
                    tracker.raise_floor();
                    prop_assert!(watches.iter().all(|(_, _, watch)| watch.has_changed()));
                }
                Step::Watch { ago, of } => {
                    let t0 = model.tick().saturating_sub(ago);
                    let dependencies: Vec<_> = of.iter().copied().map(dependency).collect();
                    watches.push((t0, of, tracker.watch(Tick(t0), dependencies)));
                }
                Step::DropWatch(which) => {
                    if which < watches.len() {
                        watches.swap_remove(which);
                    }
                }
                Step::Valid { ago, of } => {
                    let t0 = model.tick().saturating_sub(ago);
                    let dependencies: Vec<_> = of.iter().copied().map(dependency).collect();
                    let valid = tracker.valid(Tick(t0), &dependencies);
                    let changed = model.changed_after(t0, &of);
                    prop_assert!(!(valid && changed), "stale called valid: {:?} after {}", of, t0);
                    if roomy || t0 >= tracker.floor().0 {
                        prop_assert_eq!(valid, !changed);
                    }
                }
            }
            prop_assert_eq!(tracker.tick().0, model.tick());
            prop_assert_eq!(tracker.watches(), watches.len());
            let touched = tracker.touched();
            prop_assert!(touched.last.len() <= capacity && touched.order.len() <= 2 * capacity);
            drop(touched);
            for (t0, of, watch) in &mut watches {
                let told = watch.changed().now_or_never().is_some();
                let changed = model.changed_after(*t0, of);
                prop_assert!(told || !changed, "missed: {:?} after {}", of, t0);
                prop_assert!(changed || !told || !roomy, "told for nothing: {:?} after {}", of, t0);
            }
        }
        drop(watches);
        prop_assert!(tracker.watchers().by_dependency.is_empty());
    }
}

/// Each watcher must come to know the last value, though writers touch it at any moment: the loop of a live query.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_touch_is_missed_between_threads() {
    const WRITERS: usize = 4;
    const WRITES: usize = 500;
    const READERS: usize = 64;
    let tracker = Tracker::new(3); // smaller than what is touched: the floor rises, too
    let counters: Arc<Vec<AtomicUsize>> = Arc::new((0..8).map(|_| AtomicUsize::new(0)).collect());
    let mut tasks = Vec::new();
    for reader in 0..READERS {
        let (tracker, counters) = (tracker.clone(), counters.clone());
        tasks.push(tokio::spawn(async move {
            let which = reader % counters.len();
            loop {
                let t0 = tracker.tick();
                if counters[which].load(Ordering::SeqCst) == WRITERS * WRITES {
                    return;
                }
                tracker.watch(t0, [dependency(which as u8)]).changed().await;
            }
        }));
    }
    for _ in 0..WRITERS {
        let (tracker, counters) = (tracker.clone(), counters.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..WRITES {
                for (which, counter) in counters.iter().enumerate() {
                    counter.fetch_add(1, Ordering::SeqCst);
                    tracker.apply(&[dependency(which as u8)]);
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    let all = futures::future::try_join_all(tasks);
    let done = tokio::time::timeout(std::time::Duration::from_secs(60), all).await;
    assert!(matches!(done, Ok(Ok(_))), "a watcher was not told");
    assert_eq!(tracker.watches(), 0);
    assert_eq!(tracker.tick(), Tick((WRITERS * WRITES * counters.len()) as u64));
}

#[tokio::test]
async fn thousands_of_watches_on_one_thing_are_all_told_once() {
    let tracker = Tracker::new(100);
    let t0 = tracker.tick();
    let mut watches: Vec<_> =
        (0..5_000).map(|n| tracker.watch(t0, [dependency(1), dependency((n % 7 + 2) as u8)])).collect();
    tracker.apply(&[dependency(99)]);
    assert!(watches.iter().all(|w| !w.has_changed()));
    tracker.apply(&[dependency(1)]);
    for watch in &mut watches {
        assert!(watch.changed().now_or_never().is_some());
    }
    drop(watches);
    assert_eq!(tracker.watches(), 0);
    assert!(tracker.watchers().by_dependency.is_empty());
}

/// One touch against one watch, at the same time, many times: once the touch is applied the watch knows.
#[test]
fn a_touch_while_a_watch_is_being_made_is_not_missed() {
    const ROUNDS: usize = 100_000;
    let tracker = Tracker::new(10);
    let (asked, applied) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let reach = |counter: &AtomicUsize, round| {
        while counter.load(Ordering::SeqCst) < round {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                reach(&asked, round);
                (0..round % 61).for_each(|_| std::hint::spin_loop()); // now a little earlier, now a little later
                tracker.apply(&[dependency(1)]);
                applied.store(round, Ordering::SeqCst);
            }
        });
        for round in 1..=ROUNDS {
            let t0 = tracker.tick();
            asked.store(round, Ordering::SeqCst);
            (0..round % 37).for_each(|_| std::hint::spin_loop());
            let watch = tracker.watch(t0, [dependency(1)]);
            reach(&applied, round);
            if !watch.has_changed() {
                applied.store(ROUNDS, Ordering::SeqCst);
                asked.store(ROUNDS, Ordering::SeqCst);
                panic!("missed in round {round}");
            }
        }
    });
}
