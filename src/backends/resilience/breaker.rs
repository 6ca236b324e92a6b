//! The circuit breaker: a state machine that is told the time.
//!
//! Closed, it lets everything through and counts outages in a row. At the limit it opens, and refuses for a while. Then
//! it is half open: one request is let through, the probe. Its answer closes the breaker, its outage opens it for as
//! long again.
//!
//! A look, which nobody's work depends on, may be the probe earlier: so those who work neither wait for the rest of the
//! time after the server is back, nor find out themselves that it is not.
//!
//! Invariants: while it is open no work passes, and a look only so often; half open there is one probe at most, and one
//! that went away without an end makes place for the next; how a request ended that was let through in an earlier state
//! says nothing about this one.

use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Outages in a row that open it.
    pub outages: u32,
    /// How long it stays open.
    pub open_for: Duration,
    /// How long after an outage it is looked whether the server is back.
    pub look_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { outages: 5, open_for: Duration::from_secs(60), look_after: Duration::from_secs(4) }
    }
}

/// What the breaker does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It lets it through.
    Closed,
    /// It refuses it.
    Open,
    /// It waits for the answer to one.
    HalfOpen,
}

impl State {
    /// As a metric: 0 closed, 1 half open, 2 open.
    pub fn number(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// There was an answer.
    Answered,
    /// There was none.
    Outage,
    /// Nobody waited for the end.
    Unknown,
}

/// Lets one request through. To be given back with its end.
#[derive(Debug)]
pub(super) struct Permit {
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
enum Now {
    Closed,
    Open { until: Instant, look_at: Instant },
    HalfOpen,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    limits: Limits,
    now: Now,
    outages: u32,
    /// Counts the states: a permit knows in which one it was given.
    epoch: u64,
}

impl Breaker {
    pub fn new(limits: Limits) -> Self {
        Self { limits, now: Now::Closed, outages: 0, epoch: 0 }
    }

    pub fn state(&self) -> State {
        match self.now {
            Now::Closed => State::Closed,
            Now::Open { .. } => State::Open,
            Now::HalfOpen => State::HalfOpen,
        }
    }

    /// Outages since the last answer.
    pub fn outages(&self) -> u32 {
        self.outages
    }

    /// Whether a request would be refused: in how long it is worth to ask again.
    pub fn refuses(&self, now: Instant) -> Option<Duration> {
        match self.now {
            Now::Closed => None,
            Now::Open { until, .. } => Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero()),
            // How long the probe takes is not known.
            Now::HalfOpen => Some(Duration::from_secs(1).min(self.limits.open_for)),
        }
    }

    /// Lets a request through, or says in how long it is worth to ask again.
    pub fn ask(&mut self, now: Instant) -> Result<Permit, Duration> {
        if let Some(wait) = self.refuses(now) {
            return Err(wait);
        }
        if matches!(self.now, Now::Open { .. }) {
            self.become_now(Now::HalfOpen);
        }
        Ok(Permit { epoch: self.epoch })
    }

    /// Lets one through that only looks whether the server answers, or says in how long the next one may.
    pub fn look(&mut self, now: Instant) -> Result<Permit, Duration> {
        if let Now::Open { look_at, .. } = self.now {
            let wait = look_at.saturating_duration_since(now);
            if !wait.is_zero() {
                return Err(wait);
            }
            self.become_now(Now::HalfOpen);
            return Ok(Permit { epoch: self.epoch });
        }
        self.ask(now)
    }

    /// A request has ended.
    pub fn end(&mut self, permit: Permit, ended: Ended, now: Instant) {
        if permit.epoch != self.epoch {
            return;
        }
        match ended {
            Ended::Answered => self.outages = 0,
            Ended::Outage => self.outages = self.outages.saturating_add(1),
            Ended::Unknown => {}
        }
        let Limits { open_for, look_after, .. } = self.limits;
        let open = Now::Open { until: now + open_for, look_at: now + look_after.min(open_for) };
        match (self.now, ended) {
            (Now::Closed, Ended::Outage) if self.outages >= self.limits.outages => self.become_now(open),
            (Now::HalfOpen, Ended::Answered) => self.become_now(Now::Closed),
            (Now::HalfOpen, Ended::Outage) => self.become_now(open),
            (Now::HalfOpen, Ended::Unknown) => self.become_now(Now::Open { until: now, look_at: now }),
            (Now::Closed | Now::Open { .. }, _) => {}
        }
    }

    fn become_now(&mut self, now: Now) {
        self.now = now;
        self.epoch += 1;
    }
}
