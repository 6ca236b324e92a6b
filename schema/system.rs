//! What the operator of the installation sees and does.
//!
//! What is shown is of the node that answers, except for the state of the read models, which is everybody's. None of
//! it is ever cached. A rebuild goes on after its mutation has answered; `system.readModels` shows how far it is.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_graphql::{ComplexObject, Context, ID, InputObject, SimpleObject};
use oriel_engine::Engine;
use oriel_engine::read::Dependency;
use oriel_engine::rebuild::{ReadModelState, RebuildError, Verified};
use oriel_kernel::{ErrorCode, Position, Rejection, UserError, operations};

use crate::access::{Failure, Payload, answered, Result, internal, reader, unavailable};
use crate::payload::payloads;
use crate::services::{self, Services};

pub mod cache;
#[cfg(test)]
mod tests;

/// What the operator sees.
#[derive(Default)]
pub struct SystemQuery;

/// What the operator does.
#[derive(Default)]
pub struct SystemMutation {
    busy: Busy,
}

/// What `system` depends on beside the log: touched when a rebuild gets on.
pub fn dependency() -> Dependency {
    Dependency::named("system")
}

#[operations(query)]
impl SystemQuery {
    /// The installation, as the node that answers sees it. For the installation's operator: an owner of its first
    /// organization.
    #[permission("system:manage")]
    async fn system(&self, cx: &Context<'_>) -> Result<System> {
        let services = Services::of(cx)?;
        let recorder = Arc::clone(reader(cx)?.recorder());
        recorder.volatile();
        recorder.record(dependency());
        Ok(System {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            position: services.engine.feed().head(),
            incarnation: services.engine.incarnation().to_string().into(),
        })
    }
}

#[operations(mutation)]
impl SystemMutation {
    /// Rebuilds a read model from the log, beside the running one and while writes go on. Answers at once; see
    /// `system.readModels` for how far it is.
    #[permission("system:manage")]
    async fn read_model_rebuild(
        &self,
        cx: &Context<'_>,
        input: ReadModelRebuildInput,
    ) -> Result<ReadModelRebuildPayload> {
        let services = Services::of(cx)?;
        let name = known(&services.engine, &input.name)?;
        let turn = self.busy.begin(name)?;
        let engine = Arc::clone(&services.engine);
        tokio::spawn(async move {
            let _turn = turn;
            let feed = Arc::clone(engine.feed());
            let progress = move |at: Position, head: Position| {
                tracing::info!(read_model = name, %at, %head, "a read model is being rebuilt");
                feed.touch(&[dependency()]);
                ControlFlow::Continue(())
            };
            if let Err(error) = engine.rebuild(name, &progress).await {
                tracing::error!(read_model = name, %error, "a read model was not rebuilt; the running one is untouched");
            }
            engine.feed().touch(&[dependency()]);
        });
        Ok(ReadModelRebuildPayload {
            name: Some(name.to_owned()),
            user_errors: Vec::new(),
            position: Some(services.engine.feed().head()),
        })
    }

    /// Replays a read model beside the running one and compares the two, row by row. Nothing is changed. Answers when
    /// it is done: the time grows with the log.
    #[permission("system:manage")]
    async fn read_model_verify(&self, cx: &Context<'_>, input: ReadModelVerifyInput) -> Result<ReadModelVerifyPayload> {
        let engine = &Services::of(cx)?.engine;
        let name = known(engine, &input.name)?;
        let turn = self.busy.begin(name)?;
        // It goes on when the client goes away, so that what it leaves behind is cleared.
        let task = tokio::spawn({
            let engine = Arc::clone(engine);
            async move {
                let _turn = turn;
                engine.verify(name).await
            }
        });
        let verified = task.await.map_err(internal)?.map_err(failed)?;
        Ok(ReadModelVerifyPayload { result: Some(verified.into()), user_errors: Vec::new() })
    }
}

/// Which read models are being rebuilt or verified by this node: each of them by one at a time.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<BTreeSet<&'static str>>>);

/// Ends with its drop.
struct Turn {
    busy: Busy,
    name: &'static str,
}

impl Busy {
    fn begin(&self, name: &'static str) -> Result<Turn, Rejection> {
        if self.names().insert(name) {
            return Ok(Turn { busy: self.clone(), name });
        }
        Err(Rejection::conflict("This read model is being rebuilt or verified. Wait until that is done.").at("name"))
    }

    fn names(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.names().remove(self.name);
    }
}

fn known(engine: &Engine, name: &str) -> Result<&'static str, Rejection> {
    let mut names = engine.read_models().iter().map(|read_model| read_model.table());
    names.find(|table| *table == name).ok_or_else(|| {
        let message = "There is no such read model. Their names are in `system.readModels`.";
        Rejection::new(ErrorCode::NotFound, message).at("name")
    })
}

fn failed(error: RebuildError) -> Failure {
    Failure::Error(match error {
        RebuildError::Database(error) => unavailable(error),
        other => internal(other),
    })
}

/// The installation, as the node that answers sees it.
#[derive(SimpleObject)]
#[graphql(complex)]
struct System {
    /// The release that runs.
    version: String,
    /// The end of the log, as far as this node has applied it.
    position: Position,
    /// Which history this is: another one after a restore from a backup.
    incarnation: ID,
}

#[ComplexObject]
impl System {
    /// Those who follow the log behind the commit: the search index, what orders the work on files.
    async fn consumers(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<Consumer>> {
        let consumers = Services::of(cx)?.operations.consumers();
        Ok(consumers.into_iter().map(|consumer| Consumer::new(consumer, self.position)).collect())
    }

    /// What Oriel stands on, and whether it answers.
    async fn backends(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<BackendStatus>> {
        Ok(Services::of(cx)?.operations.backends().into_iter().map(BackendStatus::from).collect())
    }

    /// Work that waits.
    async fn queues(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<QueueStatus>> {
        Ok(Services::of(cx)?.operations.queues().into_iter().map(QueueStatus::from).collect())
    }

    /// The answers that the node keeps.
    async fn cache(&self, cx: &Context<'_>) -> Result<cache::CacheStats, async_graphql::Error> {
        answered(cache::stats(cx))
    }

    /// The tables that are read from, with those that are being rebuilt beside them.
    async fn read_models(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<ReadModelStatus>> {
        let states = Services::of(cx)?.engine.read_model_states().await.map_err(unavailable)?;
        Ok(states.into_iter().map(ReadModelStatus::from).collect())
    }
}

/// One who follows the log.
#[derive(SimpleObject)]
struct Consumer {
    /// Its name.
    name: String,
    /// How far it is.
    position: Position,
    /// How many events it has still to take in.
    lag: i32,
    /// How long it has been behind, in milliseconds; 0 when it is not.
    lag_ms: f64,
    /// `running`, `retrying` or `stopped`.
    state: String,
    /// What went wrong last; null when nothing did.
    last_error: Option<String>,
    /// How many events it could not take in and set aside.
    set_aside: i32,
}

/// Something that Oriel stands on.
#[derive(SimpleObject)]
struct BackendStatus {
    /// What it is for, such as `search` or `blobs`.
    name: String,
    /// Which one it is, such as `tantivy` or `s3`.
    kind: String,
    /// Whether it answers.
    healthy: bool,
    /// What went wrong last; null when nothing did.
    last_error: Option<String>,
}

/// Work of one kind.
#[derive(SimpleObject)]
struct QueueStatus {
    /// Its name.
    name: String,
    /// Jobs that wait.
    depth: i32,
    /// Jobs that are being done.
    running: i32,
    /// Jobs that failed for good.
    failed: i32,
    /// How long the oldest has waited, in milliseconds; null when none waits.
    oldest_ms: Option<f64>,
}

/// A table that is read from, or one that will take its place.
#[derive(SimpleObject)]
struct ReadModelStatus {
    /// Its name.
    name: String,
    /// How often it was built.
    generation: i32,
    /// The version of its projection.
    version: i32,
    /// `inline`: it is read from, and moves with each commit. `catching_up`: it is being rebuilt.
    state: String,
    /// How far it is.
    position: Position,
}

/// What a comparison of a read model with a replay of the log found. All is well when nothing differs.
#[derive(SimpleObject)]
struct ReadModelVerification {
    /// The read model.
    name: String,
    /// Rows of the running table.
    rows: i32,
    /// Rows that only the running table has.
    only_running: i32,
    /// Rows that only the replay has. A row that differs is in both counts.
    only_replayed: i32,
    /// Where in the log they were compared.
    position: Position,
}

impl Consumer {
    fn new(consumer: services::ConsumerState, head: Position) -> Self {
        Self {
            name: consumer.name,
            lag: short((head.number() - consumer.position.number()).max(0)),
            position: consumer.position,
            lag_ms: milliseconds(consumer.lag),
            state: consumer.state,
            last_error: consumer.last_error,
            set_aside: short(consumer.set_aside),
        }
    }
}

impl From<services::BackendState> for BackendStatus {
    fn from(backend: services::BackendState) -> Self {
        let services::BackendState { name, kind, healthy, last_error } = backend;
        Self { name, kind, healthy, last_error }
    }
}

impl From<services::QueueState> for QueueStatus {
    fn from(queue: services::QueueState) -> Self {
        Self {
            name: queue.name,
            depth: short(queue.depth),
            running: short(queue.running),
            failed: short(queue.failed),
            oldest_ms: queue.oldest.map(milliseconds),
        }
    }
}

impl From<ReadModelState> for ReadModelStatus {
    fn from(state: ReadModelState) -> Self {
        let ReadModelState { name, generation, version, state, position } = state;
        Self { name, generation, version, state, position }
    }
}

impl From<Verified> for ReadModelVerification {
    fn from(verified: Verified) -> Self {
        Self {
            name: verified.name.to_owned(),
            rows: short(verified.rows),
            only_running: short(verified.only_running),
            only_replayed: short(verified.only_replayed),
            position: verified.position,
        }
    }
}

/// A count as GraphQL's `Int` holds it.
fn short(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The read model that is to be rebuilt.
#[derive(InputObject)]
struct ReadModelRebuildInput {
    /// Its name, as in `system.readModels`.
    name: String,
}

/// The read model that is to be compared with the log.
#[derive(InputObject)]
struct ReadModelVerifyInput {
    /// Its name, as in `system.readModels`.
    name: String,
}

payloads! {
    /// Whether a rebuild was begun.
    ReadModelRebuildPayload {
        /// The read model that is being rebuilt now.
        name: String,
    }
}

/// What a comparison found.
#[derive(SimpleObject)]
struct ReadModelVerifyPayload {
    /// What was found.
    result: Option<ReadModelVerification>,
    /// What has to be mended before this can be done; empty when it was done.
    user_errors: Vec<UserError>,
}

impl Payload for ReadModelVerifyPayload {
    fn rejected(user_errors: Vec<UserError>) -> Self {
        Self { result: None, user_errors }
    }
}
