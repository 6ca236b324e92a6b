//! Resilience: what stands between Oriel and every server that it does not run itself.
//!
//! A [`Guard`] is put around a backend once, and every request to that server goes through it:
//!
//! - **time-out**: an attempt that takes longer has failed;
//! - **retry**: what may be repeated is tried again after a pause that doubles and is random, so that many who failed
//!   together do not return together;
//! - **circuit breaker**: after five outages in a row nothing is asked for a minute, then one request alone, the probe,
//!   decides whether it goes on; who only [looks](Guard::look) whether the server is back may do so every few seconds
//!   (see [`breaker`](self::breaker));
//! - **span**: each attempt is one, named after the backend, so that a trace shows what was waited for;
//! - **bulkhead**: so many requests at once and so many that wait for a place; further ones are refused at once. One
//!   slow server does not take the memory and the patience of all the rest.
//!
//! Invariants: what a server answers is an answer, also when it refuses something; only an outage counts. Who goes away
//! while it waits gives back its place, and the probe if it was that. A refusal costs no time.
//!
//! It is our own because no well-kept crate has the whole: `backon` retries (and cannot be given its randomness),
//! `tower`'s layers limit services that have to be cloned or buffered, `failsafe` measures and does not limit. Nothing
//! here knows what a backend is for.

mod breaker;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use oriel_kernel::trace::{TARGET, current};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::field::Empty;
use tracing::{Instrument, Level, Span};

use self::breaker::{Breaker, Ended, Permit};
pub use self::breaker::{Limits, State};

/// How a backend is treated.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long one attempt may take; `None` where what is called has its own.
    pub time_out: Option<Duration>,
    /// How often that is tried which may be repeated.
    pub attempts: u32,
    /// How long it waits between two attempts.
    pub pause: Pause,
    /// When the breaker opens, and for how long.
    pub breaker: Limits,
    /// How many requests go on at once.
    pub running: usize,
    /// How many more wait for a place.
    pub waiting: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            time_out: Some(Duration::from_secs(5)),
            attempts: 3,
            pause: Pause { least: Duration::from_millis(50), most: Duration::from_secs(2) },
            breaker: Limits::default(),
            running: 64,
            waiting: 256,
        }
    }
}

/// A pause that doubles with each failure, up to a longest one.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// After the first failure.
    pub least: Duration,
    /// After many.
    pub most: Duration,
}

impl Pause {
    /// After so many failures before this one: between half and the whole of it, by a `chance` between 0 and 1.
    pub fn after(&self, failures: u32, chance: f64) -> Duration {
        let whole = self.least.saturating_mul(1 << failures.min(16)).min(self.most);
        whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

/// The clock and the randomness of a guard: injected, so that tests are deterministic.
pub trait Sources: Send + Sync {
    /// Now.
    fn now(&self) -> Instant;
    /// A random number from 0 to 1.
    fn chance(&self) -> f64;
}

/// The machine's clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSources;

impl Sources for SystemSources {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn chance(&self) -> f64 {
        f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
    }
}

/// Why there is no answer.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unanswered {
    /// The breaker is open.
    #[error("it has not answered several times; it is asked again in {} s", .0.as_secs_f64().ceil())]
    Open(Duration),
    /// All places are taken, and all that wait for one.
    #[error("too many requests wait for it")]
    Full,
    /// An attempt took too long.
    #[error("it has not answered within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// The errors of a backend.
pub trait Fault: std::error::Error + From<Unanswered> {
    /// Whether the server is away, or as good as: other requests would fail like this one. False for what it answers.
    fn is_outage(&self) -> bool;
}

/// How a backend is, as operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// Of the breaker.
    pub state: State,
    /// Outages in a row.
    pub outages: u32,
    /// In how long it is asked again; `None` unless the breaker is open.
    pub asked_again_in: Option<Duration>,
    /// What went wrong last; `None` when the last request was answered.
    pub last_error: Option<String>,
    /// Requests that go on.
    pub running: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
}

impl Health {
    /// Whether the server answered when it was last asked.
    pub fn is_up(&self) -> bool {
        self.state == State::Closed && self.outages == 0
    }
}

/// See the module. To be shared by all who use the backend.
pub struct Guard {
    name: &'static str,
    policy: Policy,
    sources: Arc<dyn Sources>,
    breaker: Mutex<Watched>,
    places: Semaphore,
    waiting: AtomicUsize,
}

struct Watched {
    breaker: Breaker,
    last_error: Option<String>,
}

impl Guard {
    /// Around the backend of this name.
    pub fn new(name: &'static str, policy: Policy) -> Self {
        Self::with_sources(name, policy, Arc::new(SystemSources))
    }

    /// The same with another clock and other randomness.
    pub fn with_sources(name: &'static str, policy: Policy, sources: Arc<dyn Sources>) -> Self {
        gauge!("oriel_backend_breaker", "backend" => name).set(State::Closed.number());
        Self {
            name,
            policy,
            sources,
            breaker: Mutex::new(Watched { breaker: Breaker::new(policy.breaker), last_error: None }),
            places: Semaphore::new(policy.running),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Asks, and asks again after an outage: for what may be repeated.
    ///
    /// # Errors
    /// Those of the backend, and [`Unanswered`] as one of them.
    pub async fn repeat<T, E: Fault, F>(&self, work: impl Fn() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut failures = 0;
        loop {
            match self.attempt(self.policy.time_out, Box::pin(work())).await {
                Attempt::Ended(result) => return result,
                Attempt::Outage(error) if failures + 1 >= self.policy.attempts => return Err(error),
                Attempt::Outage(error) => {
                    let pause = self.policy.pause.after(failures, self.sources.chance());
                    tracing::debug!(backend = self.name, %error, ?pause, "a backend is asked again");
                    counter!("oriel_backend_retries_total", "backend" => self.name).increment(1);
                    tokio::time::sleep(pause).await;
                    failures += 1;
                }
            }
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// Those of the backend, and [`Unanswered`] as one of them.
    pub async fn once<T, E: Fault>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.attempt(self.policy.time_out, Box::pin(work)).await.into()
    }

    /// Asks once, and waits for so long at most: to see whether the server answers.
    ///
    /// # Errors
    /// Those of the backend, and [`Unanswered`] as one of them.
    pub async fn within<T, E: Fault>(&self, limit: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.attempt(Some(limit), Box::pin(work)).await.into()
    }

    /// Looks whether the server answers, and waits for so long at most. While the breaker is open, it may all the same:
    /// alone, and every few seconds; its answer closes it, so that nobody's work waits for the rest of the time. It takes
    /// no place from those who work.
    ///
    /// # Errors
    /// Those of the backend, and [`Unanswered`] as one of them.
    pub async fn look<T, E: Fault>(&self, limit: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let permit = self.watched().breaker.look(self.sources.now());
        match permit {
            Ok(permit) => self.call(permit, Some(limit), Box::pin(work)).await.into(),
            Err(wait) => Err(Unanswered::Open(wait).into()),
        }
    }

    /// How the backend is.
    pub fn health(&self) -> Health {
        let now = self.sources.now();
        let watched = self.watched();
        Health {
            state: watched.breaker.state(),
            outages: watched.breaker.outages(),
            asked_again_in: watched.breaker.refuses(now),
            last_error: watched.last_error.clone(),
            running: self.policy.running - self.places.available_permits(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// What is asked is pinned on the heap: the futures of clients are large, and this is around each of them.
    async fn attempt<T, E: Fault>(
        &self,
        limit: Option<Duration>,
        work: Pin<Box<impl Future<Output = Result<T, E>>>>,
    ) -> Attempt<T, E> {
        let refused = |why: Unanswered, outcome: &'static str| {
            counter!("oriel_backend_requests_total", "backend" => self.name, "outcome" => outcome).increment(1);
            Attempt::Ended(Err(why.into()))
        };
        // Who would be refused anyway does not wait first.
        if let Some(wait) = self.watched().breaker.refuses(self.sources.now()) {
            return refused(Unanswered::Open(wait), "refused");
        }
        let Some(_place) = self.place().await else { return refused(Unanswered::Full, "full") };
        let permit = self.watched().breaker.ask(self.sources.now());
        match permit {
            Ok(permit) => self.call(permit, limit, work).await,
            Err(wait) => refused(Unanswered::Open(wait), "refused"),
        }
    }

    /// The call itself, of whom the breaker has let through.
    async fn call<T, E: Fault>(
        &self,
        permit: Permit,
        limit: Option<Duration>,
        work: Pin<Box<impl Future<Output = Result<T, E>>>>,
    ) -> Attempt<T, E> {
        let mut call = Call { guard: self, permit: Some(permit) };
        let began = self.sources.now();
        let span = self.span();
        let asked = async {
            match limit {
                None => work.await,
                Some(limit) => match tokio::time::timeout(limit, work).await {
                    Ok(result) => result,
                    Err(_) => Err(E::from(Unanswered::TimedOut(limit))),
                },
            }
        };
        let result = asked.instrument(span.clone()).await;
        let took = self.sources.now().saturating_duration_since(began);
        histogram!("oriel_backend_seconds", "backend" => self.name).record(took);
        let outage = result.as_ref().err().filter(|error| error.is_outage()).map(|error| whole_text(error));
        let outcome = if outage.is_some() { "outage" } else { "answered" };
        span.record("outcome", outcome);
        counter!("oriel_backend_requests_total", "backend" => self.name, "outcome" => outcome).increment(1);
        let is_outage = outage.is_some();
        call.end(outage);
        match result {
            Err(error) if is_outage => Attempt::Outage(error),
            result => Attempt::Ended(result),
        }
    }

    /// For a trace that there is: whoever only looks whether the server is there begins none.
    fn span(&self) -> Span {
        if !tracing::span_enabled!(target: TARGET, Level::DEBUG) || current().is_none() {
            return Span::none();
        }
        tracing::debug_span!(target: TARGET, "backend", otel.name = self.name, otel.kind = "client", outcome = Empty)
    }

    /// A place among those that go on; `None` when there is not even room to wait.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        let _waiting = Waiting::among(&self.waiting, self.policy.waiting)?;
        self.places.acquire().await.ok()
    }

    /// Nothing panics while it holds this lock, so what a poisoned one guards is whole.
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("name", &self.name).field("health", &self.health()).finish_non_exhaustive()
    }
}

/// How an attempt ended.
enum Attempt<T, E> {
    /// With an answer, or with a refusal of the guard's own: neither is repeated.
    Ended(Result<T, E>),
    /// The server is away.
    Outage(E),
}

impl<T, E> From<Attempt<T, E>> for Result<T, E> {
    fn from(attempt: Attempt<T, E>) -> Self {
        match attempt {
            Attempt::Ended(result) => result,
            Attempt::Outage(error) => Err(error),
        }
    }
}

/// One request that goes on. Dropped before its end, it says nothing about the server.
struct Call<'a> {
    guard: &'a Guard,
    permit: Option<Permit>,
}

impl Call<'_> {
    fn end(&mut self, outage: Option<String>) {
        let ended = if outage.is_some() { Ended::Outage } else { Ended::Answered };
        self.tell(ended, |last_error| *last_error = outage);
    }

    fn tell(&mut self, ended: Ended, note: impl FnOnce(&mut Option<String>)) {
        let Some(permit) = self.permit.take() else { return };
        let now = self.guard.sources.now();
        let mut watched = self.guard.watched();
        let before = watched.breaker.state();
        watched.breaker.end(permit, ended, now);
        note(&mut watched.last_error);
        let after = watched.breaker.state();
        let (name, error) = (self.guard.name, watched.last_error.clone());
        drop(watched);
        if before != after {
            gauge!("oriel_backend_breaker", "backend" => name).set(after.number());
            match (before, after) {
                (State::Closed, State::Open) => {
                    tracing::warn!(backend = name, error, "a backend is away; it is not asked for a while");
                }
                (_, State::Open) => tracing::debug!(backend = name, error, "a backend is still away"),
                (_, State::HalfOpen | State::Closed) => tracing::info!(backend = name, "a backend answers again"),
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.tell(Ended::Unknown, |_| {});
    }
}

/// One who waits for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one_more = |count: usize| (count < most).then_some(count + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An error with all that caused it, for operators.
pub fn whole_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
