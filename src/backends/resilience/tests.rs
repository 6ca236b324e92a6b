//! The state machine against what is said of it, and the guard against a backend that does as it is told.

#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;

const LIMITS: Limits = Limits { outages: 5, open_for: Duration::from_secs(60), look_after: Duration::from_secs(4) };

/// What happens to a breaker.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask {
        looks: bool,
    },
    /// The request that was let through first, or last, ends.
    End {
        last: bool,
        ended: Ended,
    },
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ended = prop_oneof![3 => Just(Ended::Outage), 1 => Just(Ended::Answered), 1 => Just(Ended::Unknown)];
    let step = prop_oneof![
        4 => prop::bool::weighted(0.3).prop_map(|looks| Step::Ask { looks }),
        4 => (any::<bool>(), ended).prop_map(|(last, ended)| Step::End { last, ended }),
        1 => (0u64..50_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #[test]
    fn the_breaker_does_what_is_said_of_it(steps in steps()) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(LIMITS);
        // Requests that go on, and in which period between two changes of the state they began.
        let (mut going_on, mut period) = (Vec::new(), 0);
        let (mut in_a_row, mut opened): (u32, Option<Instant>) = (0, None);
        let mut is_free = false;
        for step in steps {
            let before = breaker.state();
            match step {
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Ask { looks } => match if looks { breaker.look(now) } else { breaker.ask(now) } {
                    Ok(permit) => {
                        if let Some(since) = opened {
                            let shut = if looks { LIMITS.look_after } else { LIMITS.open_for };
                            // One that went away without an end has made place for the next.
                            prop_assert!(is_free || now >= since + shut, "something passes while it is open");
                        }
                        prop_assert!(before != State::HalfOpen, "there is a second probe");
                        is_free = false;
                        period += u64::from(breaker.state() != before);
                        going_on.push((permit, period));
                    }
                    Err(wait) => {
                        prop_assert!(before != State::Closed, "it is closed and refuses");
                        prop_assert!(!wait.is_zero() && wait <= LIMITS.open_for);
                        let shut = if looks { LIMITS.look_after } else { LIMITS.open_for };
                        let is_over = is_free || opened.is_some_and(|since| now >= since + shut);
                        let has_probe = going_on.iter().any(|(_, began)| *began == period);
                        prop_assert!(before == State::Open && !is_over || has_probe, "nobody would ever ask again");
                    }
                },
                Step::End { last, ended } if !going_on.is_empty() => {
                    let (permit, began) = going_on.remove(if last { going_on.len() - 1 } else { 0 });
                    breaker.end(permit, ended, now);
                    if began != period {
                        prop_assert_eq!(breaker.state(), before, "an old request changed something");
                        continue;
                    }
                    match ended {
                        Ended::Answered => in_a_row = 0,
                        Ended::Outage => in_a_row += 1,
                        Ended::Unknown => {}
                    }
                    let expected = match (before, ended) {
                        (_, Ended::Answered) => State::Closed,
                        (State::Closed, Ended::Outage) if in_a_row < LIMITS.outages => State::Closed,
                        (_, Ended::Outage) => State::Open,
                        (State::HalfOpen, Ended::Unknown) => State::Open,
                        (state, Ended::Unknown) => state,
                    };
                    prop_assert_eq!(breaker.state(), expected);
                    is_free = before == State::HalfOpen && ended == Ended::Unknown;
                    if ended == Ended::Outage && expected == State::Open {
                        opened = Some(now);
                    } else if expected == State::Closed {
                        opened = None;
                    }
                    period += u64::from(before != expected);
                }
                Step::End { .. } => {}
            }
            prop_assert_eq!(breaker.outages(), in_a_row);
        }
    }

    #[test]
    fn a_pause_doubles_up_to_the_longest_and_is_random(failures in 0u32..100, chance in 0.0f64..=1.0) {
        let pause = Pause { least: Duration::from_millis(100), most: Duration::from_secs(5) };
        let whole = Duration::from_millis(100 << failures.min(6)).min(pause.most);
        let after = pause.after(failures, chance);
        prop_assert!(after >= whole / 2 && after <= whole, "{after:?} of {whole:?}");
        prop_assert!(pause.after(failures, 1.0) > pause.after(failures, 0.0));
    }
}

#[derive(thiserror::Error, Debug, PartialEq)]
enum Wrong {
    #[error("it is away")]
    Away,
    #[error("there is none")]
    NotThere,
    #[error("no answer")]
    Unanswered(#[from] Unanswered),
}

impl Fault for Wrong {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Away | Self::Unanswered(Unanswered::TimedOut(_)))
    }
}

/// A clock that stands still until it is moved.
struct Still {
    began: Instant,
    millis: AtomicU64,
}

impl Still {
    fn pass(&self, time: Duration) {
        self.millis.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Sources for Still {
    fn now(&self) -> Instant {
        self.began + Duration::from_millis(self.millis.load(Ordering::SeqCst))
    }

    fn chance(&self) -> f64 {
        0.5
    }
}

fn guard(change: impl FnOnce(&mut Policy)) -> (Arc<Still>, Arc<Guard>) {
    let mut policy = Policy {
        pause: Pause { least: Duration::from_millis(1), most: Duration::from_millis(2) },
        breaker: LIMITS,
        ..Policy::default()
    };
    change(&mut policy);
    let clock = Arc::new(Still { began: Instant::now(), millis: AtomicU64::new(0) });
    let guard = Guard::with_sources("test", policy, Arc::clone(&clock) as Arc<dyn Sources>);
    (clock, Arc::new(guard))
}

async fn ask(guard: &Guard, answer: Result<u8, Wrong>) -> Result<u8, Wrong> {
    guard.once(async { answer }).await
}

#[tokio::test]
async fn five_outages_open_it_for_a_minute_and_one_probe_closes_it() {
    let (clock, guard) = guard(|_| {});
    for outages in 1..=5 {
        assert_eq!(guard.health().state, State::Closed);
        assert_eq!(ask(&guard, Err(Wrong::Away)).await, Err(Wrong::Away));
        assert_eq!((guard.health().outages, guard.health().is_up()), (outages, false));
    }
    assert_eq!(guard.health().last_error.as_deref(), Some("it is away"));
    clock.pass(Duration::from_secs(20));
    assert_eq!(ask(&guard, Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Open(Duration::from_secs(40)))));
    assert_eq!(guard.health().asked_again_in, Some(Duration::from_secs(40)));
    clock.pass(Duration::from_secs(40));
    // The probe goes on, and nobody else is let through.
    let (answer, answered) = oneshot::channel::<u8>();
    let probe = {
        let guard = Arc::clone(&guard);
        tokio::spawn(async move { guard.once(async { answered.await.map_err(|_| Wrong::Away) }).await })
    };
    while guard.health().state != State::HalfOpen {
        tokio::task::yield_now().await;
    }
    assert!(matches!(ask(&guard, Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Open(_)))));
    answer.send(7).unwrap();
    assert_eq!(probe.await.unwrap(), Ok(7));
    assert_eq!(ask(&guard, Ok(1)).await, Ok(1));
    let health = guard.health();
    assert!(health.is_up() && health.last_error.is_none() && health.running == 0, "{health:?}");
}

#[tokio::test]
async fn a_look_finds_a_server_that_is_back_long_before_work_would() {
    let (clock, guard) = guard(|policy| (policy.running, policy.waiting) = (1, 0));
    let look = async |answer| guard.look(Duration::from_secs(5), async { answer }).await;
    for _ in 0..5 {
        assert_eq!(ask(&guard, Err(Wrong::Away)).await, Err(Wrong::Away));
    }
    // Not at once, and not all the time.
    clock.pass(Duration::from_secs(3));
    assert_eq!(look(Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Open(Duration::from_secs(1)))));
    clock.pass(Duration::from_secs(1));
    assert_eq!(look(Err(Wrong::Away)).await, Err(Wrong::Away));
    assert_eq!(look(Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Open(LIMITS.look_after))));
    assert_eq!(guard.health().asked_again_in, Some(LIMITS.open_for), "whoever works waits on");
    clock.pass(LIMITS.look_after);
    assert!(matches!(ask(&guard, Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Open(_)))));
    assert_eq!(look(Ok(7)).await, Ok(7));
    assert_eq!((guard.health().state, guard.health().outages), (State::Closed, 0));
    // All places are taken: it looks all the same, and takes none.
    let mut work = Box::pin(guard.once(pending::<Result<u8, Wrong>>()));
    assert!(futures::poll!(&mut work).is_pending());
    assert_eq!(ask(&guard, Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Full)));
    assert_eq!(look(Ok(7)).await, Ok(7));
    // What takes too long is an outage like any other.
    let limit = Duration::from_millis(20);
    let late = guard.look(limit, pending::<Result<u8, Wrong>>()).await;
    assert_eq!(late, Err(Wrong::Unanswered(Unanswered::TimedOut(limit))));
    assert_eq!(guard.health().outages, 1);
}

#[tokio::test]
async fn a_probe_that_fails_or_goes_away_does_not_close_it() {
    let (clock, guard) = guard(|policy| policy.breaker.outages = 1);
    assert!(ask(&guard, Err(Wrong::Away)).await.is_err());
    clock.pass(LIMITS.open_for);
    assert_eq!(ask(&guard, Err(Wrong::Away)).await, Err(Wrong::Away));
    assert!(matches!(ask(&guard, Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Open(_)))));
    clock.pass(LIMITS.open_for);
    // One that is dropped: the next one is the probe.
    let mut dropped = Box::pin(guard.once(pending::<Result<u8, Wrong>>()));
    assert!(futures::poll!(&mut dropped).is_pending());
    assert_eq!(guard.health().state, State::HalfOpen);
    drop(dropped);
    assert_eq!(ask(&guard, Ok(2)).await, Ok(2));
    assert_eq!(guard.health().state, State::Closed);
}

#[tokio::test]
async fn an_answer_is_no_outage_whatever_it_says() {
    let (_, guard) = guard(|_| {});
    for _ in 0..20 {
        assert_eq!(ask(&guard, Err(Wrong::NotThere)).await, Err(Wrong::NotThere));
    }
    assert!(guard.health().is_up());
    // It also ends a row of outages.
    for _ in 0..4 {
        let _ = ask(&guard, Err(Wrong::Away)).await;
    }
    let _ = ask(&guard, Err(Wrong::NotThere)).await;
    let _ = ask(&guard, Err(Wrong::Away)).await;
    assert_eq!((guard.health().state, guard.health().outages), (State::Closed, 1));
}

#[tokio::test]
async fn what_may_be_repeated_is_repeated_a_few_times() {
    let (_, guard) = guard(|policy| policy.attempts = 3);
    let tried = AtomicUsize::new(0);
    let fails = |times: usize| {
        let tried = &tried;
        move || async move { if tried.fetch_add(1, Ordering::SeqCst) < times { Err(Wrong::Away) } else { Ok(3) } }
    };
    assert_eq!(guard.repeat(fails(2)).await, Ok(3));
    assert_eq!(tried.swap(0, Ordering::SeqCst), 3);
    assert_eq!(guard.repeat(fails(9)).await, Err(Wrong::Away));
    assert_eq!(tried.swap(0, Ordering::SeqCst), 3);
    let refuses = || async { Err::<u8, _>(Wrong::NotThere) };
    assert_eq!(guard.repeat(refuses).await, Err(Wrong::NotThere));
    // The fifth outage in a row opens it in the middle of the repetitions: the last one is not made.
    let _ = ask(&guard, Ok(0)).await;
    for _ in 0..3 {
        let _ = ask(&guard, Err(Wrong::Away)).await;
    }
    assert!(matches!(guard.repeat(fails(9)).await, Err(Wrong::Unanswered(Unanswered::Open(_)))));
    assert_eq!(tried.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_takes_too_long_has_failed() {
    let limit = Duration::from_millis(20);
    let (_, guard) = guard(|policy| policy.time_out = Some(limit));
    for _ in 0..5 {
        let answer = guard.once(pending::<Result<u8, Wrong>>()).await;
        assert_eq!(answer, Err(Wrong::Unanswered(Unanswered::TimedOut(limit))));
    }
    assert_eq!(guard.health().state, State::Open);
    assert_eq!(guard.health().last_error.as_deref(), Some("no answer: it has not answered within 20 ms"));
}

#[tokio::test]
async fn so_many_go_on_so_many_wait_and_the_rest_is_refused() {
    let (_, guard) = guard(|policy| (policy.running, policy.waiting, policy.time_out) = (2, 1, None));
    let mut ends = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let (end, ended) = oneshot::channel::<()>();
        let guard = Arc::clone(&guard);
        ends.push(end);
        tasks.push(tokio::spawn(async move { guard.once(async { ended.await.map_err(|_| Wrong::Away) }).await }));
    }
    while (guard.health().running, guard.health().waiting) != (2, 1) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&guard, Ok(1)).await, Err(Wrong::Unanswered(Unanswered::Full)));
    // One that waits and goes away gives its place in the queue back.
    tasks.pop().unwrap().abort();
    while guard.health().waiting > 0 {
        tokio::task::yield_now().await;
    }
    let next = {
        let guard = Arc::clone(&guard);
        tokio::spawn(async move { ask(&guard, Ok(4)).await })
    };
    while guard.health().waiting == 0 {
        tokio::task::yield_now().await;
    }
    ends.drain(..2).for_each(|end| end.send(()).unwrap());
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(next.await.unwrap(), Ok(4));
    assert_eq!((guard.health().running, guard.health().outages), (0, 0));
}
