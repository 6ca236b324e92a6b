//! The engine from outside, with a toy product, on SQLite and on PostgreSQL.
//!
//! Clock and ids are counters. Nothing here sleeps to wait for something: what is waited for is an answer, a signal
//! or a position, within a time-out that only a defect reaches.

#![allow(clippy::unwrap_used, missing_docs)]

mod abandoned;
mod authority;
mod consumers;
mod echoes;
mod erasure;
mod golden;
mod jobs;
mod keys;
mod log;
mod personal;
mod rebuilds;
mod segments;
mod statements;
mod tables;
mod things;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use oriel_kernel::{CommandId, OrganizationId, Recorded, Timestamp, UserId};
use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder, Schema};
use uuid::Uuid;

use crate::bus::{CommandContext, CommandError, Committed};
use crate::db::{Database, Location};
use crate::engine::{Engine, Parts, Sources};
use crate::keyring::MasterKey;
use crate::projection::Inline;
use crate::queue::QueueLimits;
pub use things::ThingEvent;
use things::{Count, Make, Model, ThingId};

/// A clock that moves when it is told to, and ids that count.
pub struct Counters {
    micros: AtomicI64,
    ids: AtomicU64,
}

impl Sources for Counters {
    fn now(&self) -> Timestamp {
        Timestamp::from_timestamp_micros(self.micros.load(Ordering::SeqCst)).unwrap()
    }
    fn id(&self) -> Uuid {
        Uuid::from_u128(0x7000_0000 + u128::from(self.ids.fetch_add(1, Ordering::SeqCst)))
    }
}

impl Counters {
    pub fn advance(&self, by: Duration) {
        self.micros.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

/// A migrated database without an engine.
pub struct Place {
    pub location: Location,
    pub sources: Arc<Counters>,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::made(Location::Sqlite(folder.path().join("test.db")), Some(folder)).await
    }

    /// `None` where PostgreSQL is not installed.
    pub async fn postgres() -> Option<Self> {
        let server = tokio::task::spawn_blocking(crate::testing::postgres).await.unwrap()?;
        let url = tokio::task::spawn_blocking(|| server.fresh_database()).await.unwrap();
        Some(Self::made(Location::parse(&url).unwrap(), None).await)
    }

    async fn made(location: Location, folder: Option<tempfile::TempDir>) -> Self {
        let database = Database::open(&location, 2).await.unwrap();
        tables::create(database.writer()).await.unwrap();
        let schema = Schema::new(database.backend());
        database.writer().execute(&schema.create_table_from_entity(things::Entity)).await.unwrap();
        let index = "CREATE INDEX \"ix_toys_label\" ON \"toys\" (\"organization_id\", \"label\", \"id\")";
        database.writer().execute_unprepared(index).await.unwrap();
        database.close().await;
        let sources = Arc::new(Counters { micros: AtomicI64::new(1_700_000_000_000_000), ids: AtomicU64::new(0) });
        Self { location, sources, _folder: folder }
    }

    pub async fn engine(&self) -> Arc<Engine> {
        self.engine_with(QueueLimits::default()).await
    }

    /// An engine as if in a process of its own.
    pub async fn engine_with(&self, limits: QueueLimits) -> Arc<Engine> {
        self.engine_on(Database::open(&self.location, 4).await.unwrap(), limits).await
    }

    pub async fn engine_on(&self, database: Database, limits: QueueLimits) -> Arc<Engine> {
        self.engine_of(database, limits, things::read_models()).await
    }

    pub async fn engine_of(
        &self,
        database: Database,
        limits: QueueLimits,
        read_models: Vec<Box<dyn Inline>>,
    ) -> Arc<Engine> {
        let parts = Parts {
            database,
            master: Arc::new(MasterKey::new([7; 32])),
            decoders: &things::DECODERS,
            read_models,
            sources: Arc::clone(&self.sources) as Arc<dyn Sources>,
            limits,
            cached_aggregates: 10_000,
            remembered_changes: 10_000,
        };
        Engine::start(parts).await.unwrap()
    }
}

/// The same test on both databases.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($place:ident) $body:block)+) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run(Place::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                if let Some(place) = Place::postgres().await {
                    run(place).await;
                }
            }

            async fn run($place: Place) $body
        }
    )+};
}
use on_both;

pub fn org(number: u128) -> OrganizationId {
    OrganizationId::from_uuid(Uuid::from_u128(0x0a00 + number))
}

pub fn person(number: u128) -> UserId {
    UserId::from_uuid(Uuid::from_u128(0x0b00 + number))
}

/// A new command in this organisation.
pub fn context(engine: &Engine, organization: OrganizationId) -> CommandContext {
    let context = CommandContext::system(engine.new_id(), organization, engine.now());
    CommandContext { may_repeat: false, ..context }
}

/// One that may be a repetition.
pub fn repeatable(engine: &Engine, organization: OrganizationId, command: CommandId, input: u8) -> CommandContext {
    CommandContext { input_hash: [input; 32], ..CommandContext::system(command, organization, engine.now()) }
}

/// Makes a thing.
pub async fn make(engine: &Engine, organization: OrganizationId, label: &str) -> ThingId {
    let id: ThingId = engine.new_id();
    let make = Make { label: label.to_owned(), owner: person(1), name: "Ada Lovelace" };
    engine.execute(&context(engine, organization), id, make).await.unwrap();
    id
}

/// Counts a thing on.
pub async fn count(engine: &Engine, organization: OrganizationId, id: ThingId) -> Result<Committed, CommandError> {
    engine.execute(&context(engine, organization), id, Count::once()).await
}

/// The whole log.
pub async fn whole_log(engine: &Engine) -> Vec<Arc<Recorded>> {
    engine.log().read(oriel_kernel::Position::START, 1_000_000).await.unwrap()
}

/// The whole read model.
pub async fn rows(engine: &Engine) -> Vec<Model> {
    things::Entity::find().order_by_asc(things::Column::Id).all(engine.database().writer()).await.unwrap()
}

/// A single number from the database.
pub async fn number(engine: &Engine, sql: &str) -> i64 {
    let statement = engine.database().statement(sql, sql, vec![]);
    let row = engine.database().writer().query_one_raw(statement).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

/// Ends a test that waits for what does not come.
pub async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("what is waited for does not come")
}

/// Looks until it is so; every look asks, none sleeps.
pub async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    in_time(async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
