//! Projections: how events become the rows of a read model.
//!
//! A projection is a pure fold. The engine finds out which rows a batch of events updates by a dry run, loads them in
//! one statement, folds, and writes them in bulk, in the transaction that appends the events. What changed, old row
//! against new, is computed here, so that nobody writes an invalidation.
//!
//! Rebuilding is the same fold into another table. Nothing here knows which read models exist.

use std::collections::{BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::Arc;

use oriel_kernel::{Event, Recorded};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, FromQueryResult, IdenStatic, Iterable,
    ModelTrait, Statement, Value,
};
use uuid::Uuid;

use crate::bulk::{Bulk, OnConflict, Writes, ids_json, in_ids};
use crate::read::{Dependency, ReadModel};

/// The most rows that one event may touch in one read model, inside the transaction of the commit.
pub const ROWS_PER_EVENT: usize = 100;

/// How events become the rows of one read model. Declared by [`projection!`](crate::projection!).
pub trait Projection: Send + Sync + 'static {
    /// The row.
    type Row: ReadModel;
    /// Raised when the same events give other rows: the read model is then rebuilt.
    const VERSION: i32;
}

/// What the events of one aggregate mean for a read model. Matches without `_`, so that a new event does not compile
/// until somebody has decided.
pub trait On<E: Event>: Projection {
    /// Folds one event into the rows.
    fn on(rows: &mut Rows<Self::Row>, at: &Recorded, event: &E);
}

/// The rows of a read model that a batch of events touches.
#[derive(Debug)]
pub struct Rows<M> {
    slots: HashMap<Uuid, Slot<M>>,
    missing: BTreeSet<Uuid>,
}

#[derive(Clone, Debug)]
struct Slot<M> {
    old: Option<M>,
    new: Option<M>,
}

impl<M: ReadModel> Default for Rows<M> {
    fn default() -> Self {
        Self { slots: HashMap::new(), missing: BTreeSet::new() }
    }
}

impl<M: ReadModel> Rows<M> {
    /// Rows that are there already.
    pub fn of(rows: impl IntoIterator<Item = M>) -> Self {
        let mut this = Self::default();
        for row in rows {
            this.slots.insert(row.id(), Slot { old: Some(row.clone()), new: Some(row) });
        }
        this
    }

    /// A new row.
    pub fn insert(&mut self, row: M) {
        let id = row.id();
        self.slots.entry(id).or_insert(Slot { old: None, new: None }).new = Some(row);
    }

    /// Changes a row; one that is not there stays so.
    pub fn update(&mut self, id: Uuid, change: impl FnOnce(&mut M)) {
        match self.slots.get_mut(&id) {
            Some(Slot { new: Some(row), .. }) => change(row),
            Some(_) => {}
            None => {
                self.missing.insert(id);
            }
        }
    }

    /// Removes a row.
    pub fn delete(&mut self, id: Uuid) {
        match self.slots.get_mut(&id) {
            Some(slot) => slot.new = None,
            None => {
                self.missing.insert(id);
            }
        }
    }

    /// The rows as they are now.
    pub fn rows(&self) -> impl Iterator<Item = &M> {
        self.slots.values().filter_map(|slot| slot.new.as_ref())
    }

    /// The ids that were asked for and are neither loaded nor inserted.
    pub fn missing(&self) -> &BTreeSet<Uuid> {
        &self.missing
    }
}

/// A read model whose projection runs inside the commit, whatever its row.
#[async_trait::async_trait]
pub trait Inline: Send + Sync {
    /// The table.
    fn table(&self) -> &'static str;
    /// See [`Projection::VERSION`].
    fn version(&self) -> i32;
    /// Whether events of this stream mean anything to it.
    fn takes(&self, stream: &str) -> bool;
    /// Folds events, in order, into this table (the read model's own, or the one that is being rebuilt).
    async fn project(
        &self,
        transaction: &DatabaseTransaction,
        table: &str,
        events: &[Arc<Recorded>],
    ) -> Result<Projected, ProjectError>;
}

/// What a projection wants written, and what that changes.
#[derive(Debug, Default)]
pub struct Projected {
    pub(crate) writes: Writes,
    pub(crate) touched: BTreeSet<Dependency>,
}

/// Why a projection did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// A defect in the projection of this read model.
    #[error("the projection of {table} panicked")]
    Panicked {
        /// The read model.
        table: &'static str,
    },
    /// An event that touches too much for the transaction of a commit.
    #[error("a batch of {events} events touches {rows} rows of {table}; an event may touch at most {ROWS_PER_EVENT}")]
    TooMany {
        /// The read model.
        table: &'static str,
        /// How many events.
        events: usize,
        /// How many rows.
        rows: usize,
    },
}

/// Hands an event to [`On::on`] for its aggregate. Written by [`projection!`](crate::projection!).
pub type Dispatch<P> = (&'static str, fn(&mut Rows<<P as Projection>::Row>, &Recorded));

/// [`Inline`] for a projection.
pub struct InlineOf<P: Projection> {
    dispatch: &'static [Dispatch<P>],
    projection: PhantomData<P>,
}

impl<P: Projection> InlineOf<P> {
    /// From what [`projection!`](crate::projection!) wrote.
    pub const fn new(dispatch: &'static [Dispatch<P>]) -> Self {
        Self { dispatch, projection: PhantomData }
    }

    fn fold(&self, rows: &mut Rows<P::Row>, events: &[Arc<Recorded>]) -> Result<(), ProjectError> {
        let fold = std::panic::AssertUnwindSafe(|| {
            for event in events {
                let stream = event.event.stream();
                for (_, on) in self.dispatch.iter().filter(|(name, _)| *name == stream) {
                    on(rows, event);
                }
            }
        });
        std::panic::catch_unwind(fold).map_err(|_| ProjectError::Panicked { table: P::Row::TABLE })
    }

    async fn load(&self, transaction: &DatabaseTransaction, table: &str, ids: &[Uuid]) -> Result<Vec<P::Row>, DbErr> {
        let backend = transaction.get_database_backend();
        let columns: Vec<String> = columns::<P::Row>().map(|column| format!("\"{}\"", column.as_str())).collect();
        let sql = format!("SELECT {} FROM \"{table}\" WHERE {}", columns.join(", "), in_ids(backend, "\"id\"", 1));
        let statement = Statement::from_sql_and_values(backend, sql, [Value::from(ids_json(ids))]);
        let rows = transaction.query_all_raw(statement).await?;
        rows.iter().map(|row| P::Row::from_query_result(row, "")).collect()
    }
}

fn columns<M: ReadModel>() -> impl Iterator<Item = <M::Entity as EntityTrait>::Column> {
    <<M as ModelTrait>::Entity as EntityTrait>::Column::iter()
}

#[async_trait::async_trait]
impl<P: Projection> Inline for InlineOf<P> {
    fn table(&self) -> &'static str {
        P::Row::TABLE
    }

    fn version(&self) -> i32 {
        P::VERSION
    }

    fn takes(&self, stream: &str) -> bool {
        self.dispatch.iter().any(|(name, _)| *name == stream)
    }

    async fn project(
        &self,
        transaction: &DatabaseTransaction,
        table: &str,
        events: &[Arc<Recorded>],
    ) -> Result<Projected, ProjectError> {
        // A dry run says which rows are needed; what they hold may lead to further ones.
        let mut loaded: Vec<P::Row> = Vec::new();
        let mut absent: BTreeSet<Uuid> = BTreeSet::new();
        let rows = loop {
            let mut rows = Rows::of(loaded.iter().cloned());
            rows.slots.extend(absent.iter().map(|id| (*id, Slot { old: None, new: None })));
            self.fold(&mut rows, events)?;
            if rows.missing.is_empty() {
                break rows;
            }
            let wanted: Vec<Uuid> = rows.missing.into_iter().collect();
            let found = self.load(transaction, table, &wanted).await?;
            absent.extend(wanted.iter().filter(|id| found.iter().all(|row| row.id() != **id)));
            loaded.extend(found);
        };
        if rows.slots.len() > ROWS_PER_EVENT * events.len() {
            return Err(ProjectError::TooMany { table: P::Row::TABLE, events: events.len(), rows: rows.slots.len() });
        }
        self.difference(transaction, table, rows)
    }
}

impl<P: Projection> InlineOf<P> {
    fn difference(
        &self,
        transaction: &DatabaseTransaction,
        table: &str,
        rows: Rows<P::Row>,
    ) -> Result<Projected, ProjectError> {
        let columns: Vec<_> = columns::<P::Row>().collect();
        let named: Vec<_> =
            columns.iter().map(|column| (column.as_str(), column.def().get_column_type().clone())).collect();
        let mut bulk = Bulk::new(transaction.get_database_backend(), table, &named, OnConflict::Replace);
        let mut removed = Vec::new();
        let mut projected = Projected::default();
        for (id, Slot { old, new }) in rows.slots {
            match (&old, &new) {
                (None, None) => continue,
                (Some(old), Some(new)) if columns.iter().all(|c| old.get(*c) == new.get(*c)) => continue,
                (_, Some(new)) => bulk.row(columns.iter().map(|column| new.get(*column)))?,
                (Some(_), None) => removed.push(id),
            }
            for row in [old, new].iter().flatten() {
                row.dependencies(&mut |dependency| {
                    projected.touched.insert(dependency);
                });
            }
        }
        projected.writes.insert(bulk);
        projected.writes.remove(table, &removed);
        Ok(projected)
    }
}

/// Declares a projection: `projection! { /// What it is. pub Projects for Model, version 1, on ProjectEvent }`.
#[macro_export]
macro_rules! projection {
    ($(#[$doc:meta])* pub $name:ident for $row:ty, version $version:literal, on $($event:ty),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl $crate::projection::Projection for $name {
            type Row = $row;
            const VERSION: i32 = $version;
        }

        impl $name {
            /// As the engine holds it.
            pub fn inline() -> ::std::boxed::Box<dyn $crate::projection::Inline> {
                const DISPATCH: &[$crate::projection::Dispatch<$name>] = &[$((
                    <$event as ::oriel_kernel::Event>::STREAM,
                    |rows, at| {
                        if let ::std::option::Option::Some(event) = at.event_as::<$event>() {
                            <$name as $crate::projection::On<$event>>::on(rows, at, event);
                        }
                    },
                )),+];
                ::std::boxed::Box::new($crate::projection::InlineOf::<$name>::new(DISPATCH))
            }
        }
    };
}

/// The list of projections that run inside the commit.
#[macro_export]
macro_rules! read_models {
    ($($projection:ty),+ $(,)?) => { ::std::vec![$(<$projection>::inline()),+] };
}
