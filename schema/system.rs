//! What the operator of the installation sees and does.
//!
//! What is shown is of the node that answers, except for the state of the read models, which is everybody's. None of
//! it is ever cached.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{ComplexObject, Context, Enum, ID, SimpleObject};
use oriel_backends::resilience::{Health, State};
use oriel_engine::read::{Connection, Dependency, PageArgs};
use oriel_kernel::{Position, operations};
use oriel_read_models::installation;
use oriel_read_models::installation::changes::{self, Model as InstallationChange};
use oriel_read_models::installation::features::{self, Model as Feature};
use oriel_read_models::organizations::accounts::{
    self, Model as Account, OrganizationAccountFilter, OrganizationAccountOrder,
};

use crate::access::{Result, answered, reader};
use crate::installation::InstallationSettings;
use crate::services::{self, Services};

pub mod cache;
pub mod keys;
pub mod read_models;
#[cfg(test)]
mod tests;

pub use read_models::SystemMutation;

/// What the operator sees.
#[derive(Default)]
pub struct SystemQuery;

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

    /// Which keys wrap and seal what: ids, ages and counts, never a key.
    async fn key_inventory(&self, cx: &Context<'_>) -> async_graphql::Result<keys::KeyInventory> {
        keys::inventory(Services::of(cx)?).await
    }

    /// The organizations of this installation, the oldest first unless another order is asked for. What they are
    /// called, how they stand and how much they hold, never what they hold. `organizationSuspend` and
    /// `organizationReinstate` take their ids.
    #[allow(clippy::too_many_arguments)]
    async fn organizations(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<OrganizationAccountFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<OrganizationAccountOrder>>,
    ) -> Result<Connection<Account>, async_graphql::Error> {
        let page = PageArgs::new(first, after, last, before);
        answered(reader(cx).and_then(|reader| Ok(reader.page(accounts::all(), page, filter, order_by)?)))
    }

    /// The settings of the installation that are changed while it runs: `installationUpdate` changes them.
    async fn settings(&self, cx: &Context<'_>) -> Result<InstallationSettings, async_graphql::Error> {
        Ok(installation::settings(&answered(reader(cx))?).await?.into())
    }

    /// The features that frontends ask for, by their keys, and for which organizations each is on or off.
    async fn features(&self, cx: &Context<'_>) -> Result<Vec<Arc<Feature>>, async_graphql::Error> {
        Ok(features::all(&answered(reader(cx))?).await?)
    }

    /// What was changed of settings and features, when and by whom, the oldest first: ask for the `last` ones for the
    /// newest.
    async fn changes(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Connection<InstallationChange>, async_graphql::Error> {
        let page = PageArgs::new(first, after, last, before);
        answered(reader(cx).and_then(|reader| Ok(reader.page(changes::all(), page, None, None)?)))
    }

    /// What is read from and made of the log alone: the tables and the search index, with those that are being built
    /// beside them.
    async fn read_models(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<read_models::ReadModelStatus>> {
        read_models::states(Services::of(cx)?).await
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
    /// `running`; `standing_by` while another node does it for all; `retrying`, `other_history` or `stopped`.
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
    /// Whether it answered when it was asked last. Without it Oriel goes on with less: nothing is lost, and what waits
    /// is done when it is back.
    healthy: bool,
    /// What went wrong last; null when nothing did.
    last_error: Option<String>,
    /// What stands between Oriel and a server that it does not run itself; null for what is inside the process.
    breaker: Option<BreakerStatus>,
}

/// A circuit breaker: after five requests in a row without an answer the server is not asked for a minute, so that
/// nobody waits for it; then one request alone decides.
#[derive(SimpleObject)]
struct BreakerStatus {
    /// Whether requests are let through.
    state: BreakerState,
    /// Requests in a row that were not answered.
    outages: i32,
    /// In how long the server is asked again, in milliseconds; null unless requests are refused.
    asked_again_in_ms: Option<f64>,
    /// Requests that go on.
    running: i32,
    /// Requests that wait for their turn.
    waiting: i32,
}

/// What a circuit breaker does with a request.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "State")]
enum BreakerState {
    /// It lets it through.
    Closed,
    /// It refuses it at once.
    Open,
    /// It refuses it at once while one other is waited for.
    HalfOpen,
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
        let services::BackendState { name, kind, healthy, last_error, health } = backend;
        Self { name, kind, healthy, last_error, breaker: health.map(BreakerStatus::from) }
    }
}

impl From<Health> for BreakerStatus {
    fn from(health: Health) -> Self {
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        Self {
            state: health.state.into(),
            outages: i32::try_from(health.outages).unwrap_or(i32::MAX),
            asked_again_in_ms: health.asked_again_in.map(milliseconds),
            running: count(health.running),
            waiting: count(health.waiting),
        }
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

/// A count as GraphQL's `Int` holds it.
fn short(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
