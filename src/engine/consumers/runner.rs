//! How one consumer is led along the log: batch after batch, and what happens when one fails.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use oriel_kernel::{Position, Recorded};
use sea_orm::{ConnectionTrait, Value};
use tokio::sync::watch;

use super::{Checkpoint, Consumer, ConsumerError, ConsumerLimits, Followed, Following, backoff, plain_text};
use crate::engine::Engine;

/// Follows the log with one consumer.
pub(super) struct Runner {
    pub(super) engine: Arc<Engine>,
    pub(super) consumer: Arc<dyn Consumer>,
    pub(super) followed: Arc<Followed>,
    pub(super) limits: ConsumerLimits,
    pub(super) stopped: watch::Receiver<bool>,
}

/// Why a step ended early.
enum Halt {
    Stopped,
    OtherHistory,
    Failed(ConsumerError),
}

impl From<ConsumerError> for Halt {
    fn from(error: ConsumerError) -> Self {
        Self::Failed(error)
    }
}

impl Runner {
    pub(super) async fn run(mut self) {
        let mut head = self.engine.feed().watch();
        // `None`: the consumer has to be asked how far it is.
        let mut begun: Option<Option<Checkpoint>> = None;
        let mut failures = 0u32;
        while !*self.stopped.borrow() {
            // What is announced while this round reads wakes the next one.
            head.mark_unchanged();
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
            }
            match step {
                Ok(true) => {}
                Ok(false) => {
                    failures = 0;
                    self.idle();
                    tokio::select! {
                        _ = head.changed() => {}
                        () = tokio::time::sleep(self.limits.poll) => {}
                        _ = self.stopped.changed() => {}
                    }
                }
                Err(Halt::Stopped) => break,
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
        self.followed.status().state = Following::Stopped;
    }

    /// Asks the consumer how far it is. What it set aside beyond that will come again.
    async fn begin(&self) -> Result<Option<Checkpoint>, Halt> {
        let reached = self.consumer.checkpoint().await?;
        let position = reached.map_or(Position::START, |(position, _)| position);
        let database = self.engine.database();
        let values: Vec<Value> = vec![self.followed.name.into(), position.number().into()];
        let sql = "DELETE FROM consumer_failures WHERE consumer = $1 AND position > $2";
        let statement = database.statement(sql, sql, values);
        database.writer().execute_raw(statement).await.map_err(ConsumerError::from)?;
        let sql = "SELECT CAST(COUNT(*) AS BIGINT) AS n FROM consumer_failures WHERE consumer = $1";
        let statement = database.statement(sql, sql, vec![self.followed.name.into()]);
        let row = database.writer().query_one_raw(statement).await.map_err(ConsumerError::from)?;
        let count = row.map(|row| row.try_get("", "n")).transpose().map_err(ConsumerError::from)?;
        self.followed.status().set_aside = count.unwrap_or(0);
        self.followed.position.send_replace(position);
        Ok(reached)
    }

    /// One batch. `None`: there is nothing to apply.
    async fn step(&self, reached: Option<Checkpoint>) -> Result<Option<Checkpoint>, Halt> {
        let limit = self.limits.batch.max(1);
        let log = self.engine.log();
        let events = match reached {
            None => log.read(Position::START, limit).await.map_err(ConsumerError::from)?,
            Some((position, id)) => {
                // Together with the event that the checkpoint names, which shows whether it is still this history.
                let before = Position::new(position.number() - 1);
                let mut events = log.read(before, limit + 1).await.map_err(ConsumerError::from)?;
                if events.first().is_none_or(|event| (event.position, event.id) != (position, id)) {
                    return Err(Halt::OtherHistory);
                }
                events.remove(0);
                events
            }
        };
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(None) };
        self.followed.status().behind_since = Some(first.at);
        self.apply(&events, self.limits.attempts.max(1)).await?;
        Ok(Some((last.position, last.id)))
    }

    /// Applies these, or halves them until what cannot be applied stands alone and is set aside.
    async fn apply(&self, events: &[Arc<Recorded>], attempts: u32) -> Result<(), Halt> {
        let Some(last) = events.last() else { return Ok(()) };
        let to = (last.position, last.id);
        let mut why = String::new();
        for attempt in 1..=attempts {
            if *self.stopped.borrow() {
                return Err(Halt::Stopped);
            }
            match self.guarded(events, to).await {
                Ok(()) => {
                    self.followed.position.send_replace(to.0);
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
            self.followed.position.send_replace(to.0);
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
        let applied = AssertUnwindSafe(self.consumer.apply(events, to)).catch_unwind().await;
        applied.unwrap_or_else(|_| Err(ConsumerError::Failed("the consumer panicked".to_owned())))
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
        let database = self.engine.database();
        database.writer().execute_raw(database.statement(sql, sql, values)).await?;
        self.followed.status().set_aside += 1;
        Ok(())
    }

    /// The log is another history: what was derived from the old one goes.
    async fn start_anew(&self) -> Result<(), ConsumerError> {
        tracing::error!(
            consumer = self.followed.name,
            "the log is another history than the one that this consumer followed; it begins anew"
        );
        self.consumer.reset().await?;
        self.followed.position.send_replace(Position::START);
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
        let wait = backoff(self.limits.backoff, self.limits.longest_backoff, failures);
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }
}
