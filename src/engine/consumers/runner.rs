//! How one consumer is led along the log: batch after batch, and what happens when one fails.
//!
//! A shared consumer is led by the node that has its lease. The lease is taken anew whenever the consumer is asked how
//! far it is; who does not get it stands by, and looks how far the others are.
//!
//! What this process has written itself comes from the feed, and is not read again. The log is read where the feed has
//! a gap, and now and then: a wake-up may be missed, and the log may have become another history.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use oriel_kernel::trace::{self, Place};
use oriel_kernel::{Position, Recorded};
use sea_orm::{ConnectionTrait, Statement, Value};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::lease::{Lease, give_back};
use super::{Checkpoint, ConsumerError, ConsumerLimits, Followed, Following, Follows, backoff, plain_text};
use crate::engine::Engine;
use crate::feed::Applied;

/// Of the events of a batch, how many are named by the span in which it is applied.
const NAMED: usize = 32;

/// Follows the log with one consumer.
pub(super) struct Runner {
    engine: Arc<Engine>,
    follows: Follows,
    followed: Arc<Followed>,
    limits: ConsumerLimits,
    stopped: watch::Receiver<bool>,
    /// This one among those who may have the lease.
    holder: Uuid,
    /// Of a shared consumer, while it is led.
    lease: Option<Lease>,
    /// How far it was when this process looked last.
    seen: Option<Position>,
    /// What is committed, while events are applied: who stands by holds on to nothing.
    news: Option<broadcast::Receiver<Arc<Applied>>>,
    /// What came last of it, as far as it is not applied.
    latest: Option<Arc<Applied>>,
    /// Whether the log has to be read, whatever the feed says.
    look: bool,
}

/// Why a step ended early.
enum Halt {
    Stopped,
    OtherHistory,
    /// Another node has the lease.
    Led,
    Failed(ConsumerError),
}

impl From<ConsumerError> for Halt {
    fn from(error: ConsumerError) -> Self {
        Self::Failed(error)
    }
}

impl Runner {
    pub(super) fn new(
        engine: Arc<Engine>,
        follows: Follows,
        followed: Arc<Followed>,
        limits: ConsumerLimits,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let holder = engine.sources.id();
        let (lease, seen, news, latest) = (None, None, None, None);
        Self { engine, follows, followed, limits, stopped, holder, lease, seen, news, latest, look: true }
    }

    pub(super) async fn run(mut self) {
        // `None`: the consumer has to be asked how far it is.
        let mut begun: Option<Option<Checkpoint>> = None;
        let mut failures = 0u32;
        while !*self.stopped.borrow() {
            let step = match begun {
                None => self.begin().await.map(|reached| begun = Some(reached)).map(|()| true),
                Some(reached) => self.step(reached).await.map(|next| {
                    let moved = next.is_some();
                    begun = Some(next.or(reached));
                    moved
                }),
            };
            if step.is_err() {
                begun = None;
                (self.news, self.latest) = (None, None);
            }
            match step {
                Ok(true) => {}
                Ok(false) => {
                    failures = 0;
                    self.idle();
                    self.wait_for_news().await;
                }
                Err(Halt::Stopped) => break,
                Err(Halt::Led) => {
                    failures = 0;
                    self.followed.status().state = Following::StandingBy;
                    self.wait(self.limits.stand_by).await;
                }
                Err(Halt::Failed(ConsumerError::Elsewhere)) => {}
                Err(Halt::Failed(error)) => {
                    failures += 1;
                    self.failed(Following::Retrying, &error, failures);
                    self.pause(failures).await;
                }
                Err(Halt::OtherHistory) => {
                    if let Err(error) = self.start_anew().await {
                        failures += 1;
                        self.failed(Following::OtherHistory, &error, failures);
                        self.pause(failures).await;
                    }
                }
            }
        }
        let passed = self.lease.as_ref().and_then(Lease::passed);
        if let Follows::ForAll(_) = self.follows
            && let Err(error) = give_back(&self.engine, self.followed.name, self.holder, passed).await
        {
            tracing::warn!(consumer = self.followed.name, %error, "a lease cannot be given back; it runs out");
        }
        self.followed.status().state = Following::Stopped;
    }

    /// Asks the consumer how far it is. What it set aside beyond that will come again.
    async fn begin(&mut self) -> Result<Option<Checkpoint>, Halt> {
        self.lease = None;
        self.news = Some(self.engine.feed().subscribe());
        self.look = true;
        let reached = match &self.follows {
            Follows::ForItself(consumer) => consumer.checkpoint().await?,
            Follows::ForAll(consumer) => {
                let lease = Lease::take(&self.engine, consumer.name(), self.holder, &self.limits);
                self.lease = lease.await.map_err(ConsumerError::from)?;
                let reached = consumer.checkpoint().await?;
                let position = reached.map_or(Position::START, |(position, _)| position);
                if self.seen.is_none_or(|seen| seen < position) {
                    consumer.applied_elsewhere(self.seen, position).await?;
                }
                reached
            }
        };
        let position = reached.map_or(Position::START, |(position, _)| position);
        self.count_set_aside(position).await?;
        self.reached(position);
        if self.lease.is_none() && matches!(self.follows, Follows::ForAll(_)) {
            self.followed.status().behind_since = None;
            return Err(Halt::Led);
        }
        Ok(reached)
    }

    fn reached(&mut self, position: Position) {
        self.seen = Some(position);
        self.followed.position.send_replace(position);
    }

    async fn count_set_aside(&self, position: Position) -> Result<(), ConsumerError> {
        let database = self.engine.database();
        if self.leads() {
            let values: Vec<Value> = vec![self.followed.name.into(), position.number().into()];
            let sql = "DELETE FROM consumer_failures WHERE consumer = $1 AND position > $2";
            self.write(database.statement(sql, sql, values)).await?;
        }
        let sql = "SELECT CAST(COUNT(*) AS BIGINT) AS n FROM consumer_failures WHERE consumer = $1";
        let statement = database.statement(sql, sql, vec![self.followed.name.into()]);
        let row = database.writer().query_one_raw(statement).await?;
        let count = row.map(|row| row.try_get("", "n")).transpose()?;
        self.followed.status().set_aside = count.unwrap_or(0);
        Ok(())
    }

    /// Whether this node applies what comes.
    fn leads(&self) -> bool {
        self.lease.is_some() || matches!(self.follows, Follows::ForItself(_))
    }

    /// Writes what is told of this consumer; that of a shared one under its lease.
    async fn write(&self, statement: Statement) -> Result<(), ConsumerError> {
        match &self.lease {
            Some(lease) => {
                let transaction = lease.begin(None).await?;
                transaction.execute_raw(statement).await?;
                transaction.commit().await?;
            }
            None => {
                self.engine.database().writer().execute_raw(statement).await?;
            }
        }
        Ok(())
    }

    /// One batch. `None`: there is nothing to apply.
    async fn step(&mut self, reached: Option<Checkpoint>) -> Result<Option<Checkpoint>, Halt> {
        tokio::select! {
            () = self.follows.gathered() => {}
            _ = self.stopped.wait_for(|stopped| *stopped) => return Err(Halt::Stopped),
        }
        let position = reached.map_or(Position::START, |(position, _)| position);
        let mut events = if self.look { Vec::new() } else { self.heard(position) };
        if self.look || (events.is_empty() && self.engine.feed().head() > position) {
            events = self.read(reached).await?;
            self.look = false;
        }
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            if let Some(lease) = &self.lease {
                lease.renew_in_time().await?;
            }
            return Ok(None);
        };
        self.followed.status().behind_since = Some(first.at);
        self.apply(&events, self.limits.attempts.max(1)).await?;
        Ok(Some((last.position, last.id)))
    }

    /// The next events that came through the feed, if they follow on these without a gap: a batch at most.
    fn heard(&mut self, position: Position) -> Vec<Arc<Recorded>> {
        let limit = usize::try_from(self.limits.batch.max(1)).unwrap_or(usize::MAX);
        let (mut events, mut reached) = (Vec::new(), position);
        while events.len() < limit {
            let next = self.latest.take().or_else(|| {
                loop {
                    match self.news.as_mut()?.try_recv() {
                        Ok(batch) => break Some(batch),
                        Err(TryRecvError::Lagged(_)) => {}
                        Err(TryRecvError::Empty | TryRecvError::Closed) => break None,
                    }
                }
            });
            let Some(batch) = next else { break };
            if batch.last <= reached {
                continue;
            }
            if batch.events.is_empty() || batch.first > reached.next() {
                break; // others have written: that is read
            }
            let new = batch.events.iter().filter(|event| event.position > reached);
            events.extend(new.take(limit - events.len()).cloned());
            reached = events.last().map_or(reached, |event: &Arc<Recorded>| event.position);
            if reached < batch.last {
                self.latest = Some(batch);
            }
        }
        events
    }

    /// The next events of the log, a batch at most.
    async fn read(&self, reached: Option<Checkpoint>) -> Result<Vec<Arc<Recorded>>, Halt> {
        let limit = self.limits.batch.max(1);
        let log = self.engine.log();
        let Some((position, id)) = reached else {
            return Ok(log.read(Position::START, limit).await.map_err(ConsumerError::from)?);
        };
        // Together with the event that the checkpoint names, which shows whether it is still this history.
        let before = Position::new(position.number() - 1);
        let mut events = log.read(before, limit + 1).await.map_err(ConsumerError::from)?;
        if events.first().is_none_or(|event| (event.position, event.id) != (position, id)) {
            return Err(Halt::OtherHistory);
        }
        events.remove(0);
        Ok(events)
    }

    /// Waits for what is committed next, and no longer than a missed wake-up may go unnoticed.
    async fn wait_for_news(&mut self) {
        let poll = self.limits.poll.min(self.limits.lease / 3);
        let news = async {
            match &mut self.news {
                Some(news) => news.recv().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            batch = news => self.latest = batch,
            () = tokio::time::sleep(poll) => self.look = true,
            _ = self.stopped.changed() => {}
        }
    }

    /// Applies these, or halves them until what cannot be applied stands alone and is set aside.
    async fn apply(&mut self, events: &[Arc<Recorded>], attempts: u32) -> Result<(), Halt> {
        let Some(last) = events.last() else { return Ok(()) };
        let to = (last.position, last.id);
        let mut why = String::new();
        for attempt in 1..=attempts {
            if *self.stopped.borrow() {
                return Err(Halt::Stopped);
            }
            match self.guarded(events, to).await {
                Ok(()) => {
                    self.reached(to.0);
                    return Ok(());
                }
                Err(error @ ConsumerError::Failed(_)) => {
                    self.failed(Following::Retrying, &error, attempt);
                    why = error.to_string();
                }
                Err(error) => return Err(error.into()),
            }
            if attempt < attempts {
                self.pause(attempt).await;
            }
        }
        if let [event] = events {
            self.set_aside(event, attempts, &why).await?;
            self.guarded(&[], to).await.map_err(|error| match error {
                ConsumerError::Failed(why) => ConsumerError::Unavailable(why),
                other => other,
            })?;
            self.reached(to.0);
            return Ok(());
        }
        let (left, right) = events.split_at(events.len() / 2);
        for half in [left, right] {
            let attempts = if half.len() == 1 { self.limits.attempts.max(1) } else { 1 };
            Box::pin(self.apply(half, attempts)).await?;
        }
        Ok(())
    }

    /// A consumer that panics has failed, like any other.
    async fn guarded(&self, events: &[Arc<Recorded>], to: Checkpoint) -> Result<(), ConsumerError> {
        let applied = async {
            match (&self.follows, &self.lease) {
                (Follows::ForItself(consumer), _) => consumer.apply(events, to).await,
                (Follows::ForAll(consumer), Some(lease)) => tokio::select! {
                    applied = consumer.apply(events, to, lease) => applied,
                    () = lease.lost() => Err(ConsumerError::Elsewhere),
                },
                (Follows::ForAll(_), None) => Err(ConsumerError::Elsewhere),
            }
        };
        let applied = AssertUnwindSafe(applied.instrument(self.span(events))).catch_unwind().await;
        applied.unwrap_or_else(|_| Err(ConsumerError::Failed("the consumer panicked".to_owned())))
    }

    /// That of a batch: it comes after its first event, and has to do with the others.
    fn span(&self, events: &[Arc<Recorded>]) -> Span {
        let span = tracing::debug_span!(
            target: trace::TARGET,
            "consume",
            otel.name = self.followed.name,
            otel.kind = "consumer",
            events = events.len(),
        );
        if let Some((first, others)) = events.split_first() {
            trace::follow(&span, Place::of(first));
            others.iter().take(NAMED).for_each(|event| trace::link(&span, Place::of(event)));
        }
        span
    }

    async fn set_aside(&self, event: &Recorded, attempts: u32, why: &str) -> Result<(), ConsumerError> {
        tracing::error!(consumer = self.followed.name, position = %event.position, event = %event.id, attempts, why,
            "an event cannot be applied and is set aside");
        metrics::counter!("oriel_consumer_set_aside_total", "consumer" => self.followed.name).increment(1);
        let sql = "INSERT INTO consumer_failures (consumer, position, event_id, attempts, error, at) \
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (consumer, position) \
                   DO UPDATE SET attempts = excluded.attempts, error = excluded.error, at = excluded.at";
        let values: Vec<Value> = vec![
            self.followed.name.into(),
            event.position.number().into(),
            event.id.uuid().into(),
            i32::try_from(attempts).unwrap_or(i32::MAX).into(),
            plain_text(why).into(),
            self.engine.now().into(),
        ];
        self.write(self.engine.database().statement(sql, sql, values)).await?;
        self.followed.status().set_aside += 1;
        Ok(())
    }

    /// The log is another history: what was derived from the old one goes.
    async fn start_anew(&mut self) -> Result<(), ConsumerError> {
        tracing::error!(
            consumer = self.followed.name,
            "the log is another history than the one that this consumer followed; it begins anew"
        );
        match (&self.follows, &self.lease) {
            (Follows::ForItself(consumer), _) => consumer.reset().await?,
            (Follows::ForAll(consumer), Some(lease)) => consumer.reset(lease).await?,
            (Follows::ForAll(_), None) => return Err(ConsumerError::Elsewhere),
        }
        self.reached(Position::START);
        self.followed.status().last_error = Some("the log is another history: everything is applied anew".to_owned());
        Ok(())
    }

    fn idle(&self) {
        metrics::gauge!("oriel_consumer_lag_events", "consumer" => self.followed.name).set(0.0);
        let mut status = self.followed.status();
        status.state = Following::Running;
        status.behind_since = None;
    }

    fn failed(&self, state: Following, error: &ConsumerError, attempt: u32) {
        tracing::warn!(consumer = self.followed.name, %error, attempt, "a consumer failed and tries again");
        let lag = self.engine.feed().head().number() - self.followed.position.borrow().number();
        metrics::gauge!("oriel_consumer_lag_events", "consumer" => self.followed.name).set(lag as f64);
        let mut status = self.followed.status();
        status.state = state;
        status.last_error = Some(error.to_string());
    }

    async fn pause(&self, failures: u32) {
        self.wait(backoff(self.limits.backoff, self.limits.longest_backoff, failures)).await;
    }

    async fn wait(&self, wait: Duration) {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }
}
