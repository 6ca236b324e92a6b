//! The lease of a shared consumer: one node at a time follows the log for all of them.
//!
//! It is the consumer's row in `consumers`. Whoever takes it raises the fence, and whatever is written for the consumer
//! is written in a transaction that has changed the row under the present fence. So a holder that stood still while
//! another one took over writes nothing when it wakes up. A lease is free when it was given back or has run out. That is
//! told by the clock of each node: where clocks differ it moves early or late, and nothing is doubled by that.
//!
//! The row may stay behind events that nothing had to be written for: who applies them again writes nothing again, and
//! a transaction for each would cost as much as the command that led to it. Such a checkpoint is kept in memory and
//! written when the lease is renewed, with whatever is written next, when too many events have passed, and at the end.
//!
//! One process owns an SQLite database: what an earlier one left there is void.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oriel_kernel::{EventId, Position};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, Value};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Checkpoint, ConsumerError, ConsumerLimits};
use crate::engine::Engine;

/// See the module. Nothing but time ends it: it is given back by [`give_back`].
pub struct Lease {
    engine: Arc<Engine>,
    consumer: &'static str,
    holder: Uuid,
    fence: i64,
    length: Duration,
    /// How many events may pass before the row is written again.
    lazy: i64,
    renewed: Mutex<Instant>,
    row: Mutex<Row>,
}

/// What the row says, and what it does not say yet.
struct Row {
    position: i64,
    passed: Option<Checkpoint>,
}

impl Lease {
    /// Takes the lease; `None` while another node has it.
    pub(super) async fn take(
        engine: &Arc<Engine>,
        consumer: &'static str,
        holder: Uuid,
        limits: &ConsumerLimits,
    ) -> Result<Option<Self>, DbErr> {
        let (length, lazy) = (limits.lease, limits.lazy);
        let (now, database) = (engine.now(), engine.database());
        let renewed = Mutex::new(Instant::now());
        let values: Vec<Value> = vec![consumer.into(), holder.into(), (now + length).into(), now.into()];
        let set = "UPDATE consumers SET holder = $2, fence = fence + 1, leased_until = $3, updated_at = $4";
        // Who is changing the row at this moment has the lease.
        let free = format!(
            "{set} WHERE name = (SELECT name FROM consumers WHERE name = $1 \
               AND (leased_until IS NULL OR leased_until <= $4 OR holder = $2) FOR UPDATE SKIP LOCKED) RETURNING fence, position"
        );
        let any = format!("{set} WHERE name = $1 RETURNING fence, position");
        let first = "INSERT INTO consumers (name, position, attempts, holder, fence, leased_until, updated_at) \
                     VALUES ($1, 0, 0, $2, 1, $3, $4) ON CONFLICT DO NOTHING RETURNING fence, position";
        let mut taken = None;
        for (postgres, sqlite) in [(free.as_str(), any.as_str()), (first, first)] {
            if taken.is_none() {
                let statement = database.statement(postgres, sqlite, values.clone());
                taken = database.writer().query_one_raw(statement).await?;
            }
        }
        let Some(row) = taken else { return Ok(None) };
        let (engine, fence) = (Arc::clone(engine), row.try_get("", "fence")?);
        let row = Mutex::new(Row { position: row.try_get("", "position")?, passed: None });
        Ok(Some(Self { engine, consumer, holder, fence, length, lazy, renewed, row }))
    }

    /// A transaction in which the lease is held, and the checkpoint moves to `to`: what is written in it is written by
    /// the holder, or not at all.
    ///
    /// # Errors
    /// [`ConsumerError::Elsewhere`] when the lease is lost; or the database is not there.
    pub async fn begin(&self, to: Option<Checkpoint>) -> Result<DatabaseTransaction, ConsumerError> {
        let transaction = self.engine.database().begin().await?;
        self.hold(&transaction, to).await?;
        Ok(transaction)
    }

    /// Moves the checkpoint.
    ///
    /// # Errors
    /// See [`Lease::begin`].
    pub async fn advance(&self, to: Checkpoint) -> Result<(), ConsumerError> {
        self.hold(self.engine.database().writer(), Some(to)).await
    }

    /// Moves the checkpoint past events that nothing had to be written for: at once in this process, in the row before
    /// long. They may come again.
    ///
    /// # Errors
    /// See [`Lease::begin`].
    pub async fn pass(&self, to: Checkpoint) -> Result<(), ConsumerError> {
        let behind = {
            let mut row = self.row();
            row.passed = Some(to);
            to.0.number() - row.position
        };
        if behind >= self.lazy { self.renew().await } else { self.renew_in_time().await }
    }

    /// How far it is beyond what the row says.
    pub(super) fn passed(&self) -> Option<Checkpoint> {
        self.row().passed
    }

    /// Moves the checkpoint to the beginning of the log.
    ///
    /// # Errors
    /// See [`Lease::begin`].
    pub async fn restart(&self) -> Result<(), ConsumerError> {
        let transaction = self.begin(Some((Position::START, EventId::from_uuid(Uuid::nil())))).await?;
        let sql = "UPDATE consumers SET event_id = NULL WHERE name = $1";
        let statement = self.engine.database().statement(sql, sql, vec![self.consumer.into()]);
        transaction.execute_raw(statement).await?;
        Ok(transaction.commit().await?)
    }

    /// Holds it for another while.
    ///
    /// # Errors
    /// See [`Lease::begin`].
    pub async fn renew(&self) -> Result<(), ConsumerError> {
        self.hold(self.engine.database().writer(), self.passed()).await
    }

    /// Holds it for another while, if a third of this one is over.
    pub(super) async fn renew_in_time(&self) -> Result<(), ConsumerError> {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.elapsed() < self.length / 3 { Ok(()) } else { self.renew().await }
    }

    /// Holds it until it is lost. Goes on beside what moves the checkpoint, and leaves that alone.
    pub(super) async fn lost(&self) {
        loop {
            tokio::time::sleep(self.length / 3).await;
            match self.hold(self.engine.database().writer(), None).await {
                Ok(()) => {}
                Err(ConsumerError::Elsewhere) => return,
                Err(error) => tracing::warn!(consumer = self.consumer, %error, "a lease cannot be renewed"),
            }
        }
    }

    async fn hold(&self, connection: &impl ConnectionTrait, to: Option<Checkpoint>) -> Result<(), ConsumerError> {
        let asked = Instant::now();
        let now = self.engine.now();
        let sql = "UPDATE consumers SET leased_until = $4, updated_at = $5, position = COALESCE($6, position), \
                   event_id = COALESCE($7, event_id) WHERE name = $1 AND holder = $2 AND fence = $3";
        let (position, event) = to.map(|(position, event)| (position.number(), event.uuid())).unzip();
        let values: Vec<Value> = vec![
            self.consumer.into(),
            self.holder.into(),
            self.fence.into(),
            (now + self.length).into(),
            now.into(),
            position.into(),
            event.into(),
        ];
        let statement = self.engine.database().statement(sql, sql, values);
        if connection.execute_raw(statement).await?.rows_affected() == 0 {
            tracing::warn!(
                consumer = self.consumer,
                fence = self.fence,
                "another node has taken the lease: what was to be written under it is not"
            );
            return Err(ConsumerError::Elsewhere);
        }
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        if let Some((position, _)) = to {
            *self.row() = Row { position: position.number(), passed: None };
        }
        Ok(())
    }

    fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back what this node holds, so that another one need not wait, and says how far it came.
pub(super) async fn give_back(
    engine: &Engine,
    consumer: &str,
    holder: Uuid,
    passed: Option<Checkpoint>,
) -> Result<(), DbErr> {
    let sql = "UPDATE consumers SET holder = NULL, leased_until = NULL, position = COALESCE($3, position), \
               event_id = COALESCE($4, event_id) WHERE name = $1 AND holder = $2";
    let (position, event) = passed.map(|(position, event)| (position.number(), event.uuid())).unzip();
    let values = vec![consumer.into(), holder.into(), position.into(), event.into()];
    let statement = engine.database().statement(sql, sql, values);
    engine.database().writer().execute_raw(statement).await.map(|_| ())
}

impl Engine {
    /// How far a shared consumer is whose checkpoint is its row; `None` at the beginning.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn shared_checkpoint(&self, consumer: &str) -> Result<Option<Checkpoint>, DbErr> {
        let sql = "SELECT position, event_id FROM consumers WHERE name = $1";
        let statement = self.database.statement(sql, sql, vec![consumer.into()]);
        let Some(row) = self.database.writer().query_one_raw(statement).await? else { return Ok(None) };
        let (position, event): (i64, Option<Uuid>) = (row.try_get("", "position")?, row.try_get("", "event_id")?);
        Ok(event.map(|event| (Position::new(position), EventId::from_uuid(event))))
    }
}
