//! Projections: how events become the rows of a read model.
//!
//! A projection is a pure fold. The engine finds out which rows a batch of events updates by a dry run, loads those of
//! all read models in one statement, folds, and writes them in bulk, in the transaction that appends the events. What
//! changed, old row against new, is computed here, so that nobody writes an invalidation.
//!
//! Rebuilding is the same fold into another table. Nothing here knows which read models exist.

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::Arc;

use oriel_kernel::{Effect, Event, Recorded};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, FromQueryResult, IdenStatic,
    Iterable, ModelTrait, QueryResult, Statement, Value,
};
use uuid::Uuid;

use crate::bulk::{Bulk, OnConflict, Writes, ids_json, in_ids};
use crate::log::Histories;
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

    /// Takes over what became of rows that are there, when their history was folded anew. None comes back.
    fn renew(&mut self, anew: Self) {
        for (id, slot) in anew.slots {
            match self.slots.get_mut(&id) {
                Some(Slot { new: here @ Some(_), .. }) => *here = slot.new,
                Some(_) => {}
                None => {
                    self.missing.insert(id);
                }
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
pub trait Inline: Send + Sync {
    /// The table.
    fn table(&self) -> &'static str;
    /// See [`Projection::VERSION`].
    fn version(&self) -> i32;
    /// Whether events of this stream mean anything to it.
    fn takes(&self, stream: &str) -> bool;
    /// Whether what an event does by itself changes its rows.
    fn is_affected(&self, effect: Effect<'_>) -> bool;
    /// Whether its rows belong to organisations: they have a column `organization_id`.
    fn has_tenant(&self) -> bool;
    /// Whether its rows can be made anew one by one, because a row follows from the events of one aggregate. What is
    /// said about a person has to stand in such read models only.
    fn is_made_of_one_stream(&self) -> bool;
    /// What it calls its rows: see [`ReadModel::KIND`].
    fn kind(&self) -> &'static str;
    /// What the events of one aggregate, from its first one on, have made of the row of its id. What events of other
    /// aggregates add to that row is not in it.
    ///
    /// # Errors
    /// A defect in the projection.
    fn past(&self, subject: Uuid, events: &[Arc<Recorded>]) -> Result<Past, ProjectError>;
    /// Begins to fold these events, in order, into this table (the read model's own, or the one that is being rebuilt).
    fn begin(&self, table: &str, events: Vec<Arc<Recorded>>, histories: &Arc<Histories>) -> Box<dyn Fold>;
}

/// What a row was.
pub struct Past {
    /// What the API calls it: see [`ReadModel::NAME`].
    pub name: &'static str,
    /// The columns of its table.
    pub columns: Vec<&'static str>,
    /// The row after each event; nothing where there was none.
    pub rows: Vec<Option<Arc<dyn Any + Send + Sync>>>,
}

/// Events on their way into one table. The rows that they need are asked for until none is missing.
pub trait Fold: Send {
    /// The table.
    fn table(&self) -> &str;
    /// Its columns.
    fn columns(&self) -> Vec<&'static str>;
    /// The ids of the rows that are still needed, found out by a dry run. Those that were asked for before and have not
    /// been given are not there.
    fn missing(&mut self) -> Result<Vec<Uuid>, ProjectError>;
    /// Gives one of them; its columns' names have this prefix.
    fn give(&mut self, row: &QueryResult, prefix: &str) -> Result<(), DbErr>;
    /// What is to be written.
    fn finish(self: Box<Self>, backend: DbBackend) -> Result<Projected, ProjectError>;
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

/// Folds events into these read models, each into its table. The rows that all of them need are one statement on
/// PostgreSQL, and a second one if what they hold leads to further ones: what a batch costs does not depend on how many
/// read models it touches.
#[tracing::instrument(target = "oriel::trace", level = "debug", skip_all, fields(events = events.len()))]
pub(crate) async fn project<'a>(
    transaction: &DatabaseTransaction,
    read_models: impl IntoIterator<Item = (&'a dyn Inline, &'a str)>,
    events: &[Arc<Recorded>],
    histories: &Arc<Histories>,
) -> Result<Projected, ProjectError> {
    let backend = transaction.get_database_backend();
    let mut folds = Vec::new();
    for (read_model, table) in read_models {
        let taken: Vec<_> = events.iter().filter(|event| concerns(read_model, event)).cloned().collect();
        if !taken.is_empty() {
            folds.push(read_model.begin(table, taken, histories));
        }
    }
    loop {
        let mut wanted = Vec::new();
        for fold in &mut folds {
            let ids = fold.missing()?;
            if !ids.is_empty() {
                wanted.push((fold, ids));
            }
        }
        if wanted.is_empty() {
            break;
        }
        // SQLite is in this process: a statement costs no round trip there, and outer joins do.
        let together = if backend == DbBackend::Postgres { wanted.len() } else { 1 };
        for wanted in wanted.chunks_mut(together) {
            load(transaction, wanted).await?;
        }
    }
    let mut projected = Projected::default();
    for fold in folds {
        let one = fold.finish(backend)?;
        projected.writes.merge(one.writes);
        projected.touched.extend(one.touched);
    }
    Ok(projected)
}

fn concerns(read_model: &dyn Inline, event: &Recorded) -> bool {
    let event = event.event.as_ref();
    read_model.takes(event.stream()) || event.effect().is_some_and(|effect| read_model.is_affected(effect))
}

/// Loads rows of several tables by one statement: side by side, none joined to any.
async fn load(transaction: &DatabaseTransaction, wanted: &mut [(&mut Box<dyn Fold>, Vec<Uuid>)]) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let (mut shown, mut tables, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (fold, ids)) in wanted.iter().enumerate() {
        shown.extend(fold.columns().into_iter().map(|column| format!("t{n}.\"{column}\" AS \"t{n}_{column}\"")));
        let by_id = in_ids(backend, "\"id\"", n + 1);
        tables.push(format!("(SELECT * FROM \"{}\" WHERE {by_id}) t{n}", fold.table()));
        values.push(Value::from(ids_json(ids)));
    }
    let mut sql = format!("SELECT {} FROM {}", shown.join(", "), tables.join(" FULL JOIN "));
    sql.push_str(&" ON FALSE".repeat(tables.len() - 1));
    for row in transaction.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await? {
        for (n, (fold, _)) in wanted.iter_mut().enumerate() {
            let prefix = format!("t{n}_");
            if row.try_get::<Option<Uuid>>(&prefix, "id")?.is_some() {
                fold.give(&row, &prefix)?;
            }
        }
    }
    Ok(())
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
}

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

    fn is_affected(&self, effect: Effect<'_>) -> bool {
        match effect {
            Effect::RemovesRows { read_model, .. } => read_model == self.table(),
            Effect::MakesAnew { .. } => self.is_made_of_one_stream(),
            Effect::DestroysKey => false,
        }
    }

    fn has_tenant(&self) -> bool {
        columns::<P::Row>().any(|column| column.as_str() == "organization_id")
    }

    fn is_made_of_one_stream(&self) -> bool {
        self.dispatch.len() == 1
    }

    fn kind(&self) -> &'static str {
        P::Row::KIND
    }

    fn past(&self, subject: Uuid, events: &[Arc<Recorded>]) -> Result<Past, ProjectError> {
        let mut rows = Rows::<P::Row>::default();
        let after = |event: &Arc<Recorded>| {
            let stream = event.event.stream();
            for (_, on) in self.dispatch.iter().filter(|(name, _)| *name == stream) {
                on(&mut rows, event);
            }
            let row = rows.slots.get(&subject)?.new.clone()?;
            Some(Arc::new(row) as Arc<dyn Any + Send + Sync>)
        };
        let folded = std::panic::AssertUnwindSafe(|| events.iter().map(after).collect());
        let rows = std::panic::catch_unwind(folded).map_err(|_| ProjectError::Panicked { table: P::Row::TABLE })?;
        let columns = columns::<P::Row>().map(|column| column.as_str()).collect();
        Ok(Past { name: P::Row::NAME, columns, rows })
    }

    fn begin(&self, table: &str, events: Vec<Arc<Recorded>>, histories: &Arc<Histories>) -> Box<dyn Fold> {
        Box::new(FoldOf::<P> {
            dispatch: self.dispatch,
            table: table.to_owned(),
            events,
            histories: Arc::clone(histories),
            given: HashMap::new(),
            folded: None,
        })
    }
}

/// [`Fold`] for a projection.
struct FoldOf<P: Projection> {
    dispatch: &'static [Dispatch<P>],
    table: String,
    events: Vec<Arc<Recorded>>,
    histories: Arc<Histories>,
    /// What was asked for: the row, or that there is none.
    given: HashMap<Uuid, Option<P::Row>>,
    /// The outcome, once nothing is missing.
    folded: Option<Rows<P::Row>>,
}

impl<P: Projection> FoldOf<P> {
    fn on(&self, rows: &mut Rows<P::Row>, event: &Recorded) {
        let stream = event.event.stream();
        for (_, on) in self.dispatch.iter().filter(|(name, _)| *name == stream) {
            on(rows, event);
        }
    }

    /// What the events of these aggregates make up to the n-th event: first those of the log, then those of the batch
    /// that is on its way into it.
    fn anew(&self, n: usize, subjects: &[Uuid]) -> Rows<P::Row> {
        let mut rows = Rows::default();
        let history = self.histories.get(&self.events[n].position).map(Vec::as_slice).unwrap_or_default();
        let logged = history.last().map(|last| last.position).unwrap_or_default();
        let batch = self.events[..=n].iter().filter(|event| event.position > logged);
        for event in history.iter().chain(batch.filter(|event| subjects.contains(&event.subject))) {
            self.on(&mut rows, event);
        }
        rows
    }

    fn run(&self) -> Result<Rows<P::Row>, ProjectError> {
        let slot = |row: &Option<P::Row>| Slot { old: row.clone(), new: row.clone() };
        let slots = self.given.iter().map(|(id, row)| (*id, slot(row))).collect();
        let mut rows = Rows { slots, missing: BTreeSet::new() };
        let fold = std::panic::AssertUnwindSafe(|| {
            for (n, event) in self.events.iter().enumerate() {
                self.on(&mut rows, event);
                match event.event.effect() {
                    Some(Effect::RemovesRows { read_model, ids }) if read_model == P::Row::TABLE => {
                        ids.iter().for_each(|id| rows.delete(*id));
                    }
                    Some(Effect::MakesAnew { subjects }) if self.dispatch.len() == 1 => {
                        rows.renew(self.anew(n, subjects));
                    }
                    Some(Effect::RemovesRows { .. } | Effect::MakesAnew { .. } | Effect::DestroysKey) | None => {}
                }
            }
        });
        std::panic::catch_unwind(fold).map_err(|_| ProjectError::Panicked { table: P::Row::TABLE })?;
        Ok(rows)
    }
}

impl<P: Projection> Fold for FoldOf<P> {
    fn table(&self) -> &str {
        &self.table
    }

    fn columns(&self) -> Vec<&'static str> {
        columns::<P::Row>().map(|column| column.as_str()).collect()
    }

    fn missing(&mut self) -> Result<Vec<Uuid>, ProjectError> {
        if self.folded.is_some() {
            return Ok(Vec::new());
        }
        let rows = self.run()?;
        if rows.missing.is_empty() {
            self.folded = Some(rows);
            return Ok(Vec::new());
        }
        self.given.extend(rows.missing.iter().map(|id| (*id, None)));
        Ok(rows.missing.into_iter().collect())
    }

    fn give(&mut self, row: &QueryResult, prefix: &str) -> Result<(), DbErr> {
        let row = P::Row::from_query_result(row, prefix)?;
        self.given.insert(row.id(), Some(row));
        Ok(())
    }

    fn finish(self: Box<Self>, backend: DbBackend) -> Result<Projected, ProjectError> {
        let rows = match self.folded {
            Some(rows) => rows,
            None => self.run()?,
        };
        let events = self.events.len();
        if rows.slots.len() > ROWS_PER_EVENT * events {
            return Err(ProjectError::TooMany { table: P::Row::TABLE, events, rows: rows.slots.len() });
        }
        difference(backend, &self.table, rows)
    }
}

fn columns<M: ReadModel>() -> impl Iterator<Item = <M::Entity as EntityTrait>::Column> {
    <<M as ModelTrait>::Entity as EntityTrait>::Column::iter()
}

/// What has become of the rows: what is written, and what that touches.
fn difference<M: ReadModel>(backend: DbBackend, table: &str, rows: Rows<M>) -> Result<Projected, ProjectError> {
    let columns: Vec<_> = columns::<M>().collect();
    let named: Vec<_> =
        columns.iter().map(|column| (column.as_str(), column.def().get_column_type().clone())).collect();
    let mut bulk = Bulk::new(backend, table, &named, OnConflict::Replace);
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
