//! The one way to the read models: connection, viewer and recorder in one value, made anew for each execution.
//!
//! Invariants: without a viewer there is no reader. Every statement on a read model is built by `scoped`, which adds
//! what the viewer may see, and run by `Core::run`, which counts it. What is not the viewer's looks absent. What an
//! answer depends on is recorded before it is read. On PostgreSQL each statement says itself for whom it is, before it
//! reads a row: the database holds back what is not theirs, whatever the statement asks for (`behind_the_wall`).

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use oriel_kernel::{Grant, OrganizationId, Permission, Permissions, Viewer, Visible};
use sea_orm::sea_query::{Expr, Func, SelectStatement};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    FromQueryResult, QueryFilter, QueryOrder, QueryResult, QuerySelect, QueryTrait, Select, Value,
};
use uuid::Uuid;

use super::filter::compile;
use super::keyset::Keyset;
use super::loader::Loader;
use super::model::{Column, Key};
use super::page::{Connection, Page, PageArgs, Shape, Window, alike};
use super::values::among;
use super::{Collection, Dependency, Limits, ReadError, ReadModel, Recorder};

/// Where a reader reads: a pool, or one transaction when all of an answer must be of one moment.
#[derive(Clone, Debug)]
pub enum Source {
    /// Each statement on a connection of its own.
    Pool(DatabaseConnection),
    /// All statements in one transaction, one after the other.
    Transaction(Arc<DatabaseTransaction>),
}

impl From<DatabaseConnection> for Source {
    fn from(pool: DatabaseConnection) -> Self {
        Self::Pool(pool)
    }
}

impl From<Arc<DatabaseTransaction>> for Source {
    fn from(transaction: Arc<DatabaseTransaction>) -> Self {
        Self::Transaction(transaction)
    }
}

/// Reads what one viewer may see, and remembers what the answer depends on. Cheap to clone; the clones are one
/// reader.
#[derive(Clone)]
pub struct Reader {
    core: Arc<Core>,
    loaders: Arc<Mutex<Loaders>>,
}

/// The loaders made so far: one for each read model and purpose, or for each pair of types.
type Loaders = HashMap<(TypeId, Purpose), Arc<dyn Any + Send + Sync>>;

/// What the loaders share with their reader. They do not hold the reader itself, which holds them.
struct Core {
    source: Source,
    viewer: Arc<Viewer>,
    recorder: Arc<Recorder>,
    limits: Limits,
}

/// What a loader loads; of lists, which rows they are and what tells them apart.
#[derive(PartialEq, Eq, Hash)]
enum Purpose {
    Row,
    Many(String),
    Count(String),
    Page(String),
    Batch,
}

/// The rows of one relation.
type Rows<M> = Arc<Vec<Arc<M>>>;

impl Reader {
    /// A reader for one execution on behalf of this viewer. Who keeps the answer keeps with it what the viewer was
    /// resolved from: that is not read here, and not recorded.
    pub fn new(source: impl Into<Source>, viewer: Arc<Viewer>, recorder: Arc<Recorder>) -> Self {
        Self::with_limits(source, viewer, recorder, Limits::default())
    }

    /// A reader with other limits.
    pub fn with_limits(
        source: impl Into<Source>,
        viewer: Arc<Viewer>,
        recorder: Arc<Recorder>,
        limits: Limits,
    ) -> Self {
        Self { core: Arc::new(Core { source: source.into(), viewer, recorder, limits }), loaders: Arc::default() }
    }

    /// Who reads. The answer is theirs alone from here on; [`Reader::organization`], [`Reader::grant`] and
    /// [`Reader::visible`] leave it to everyone who sees the same.
    pub fn viewer(&self) -> &Arc<Viewer> {
        self.core.recorder.personal();
        &self.core.viewer
    }

    /// The organisation that is read.
    pub fn organization(&self) -> OrganizationId {
        self.core.viewer.organization
    }

    /// How far the reader's permission reaches; `None` when it is missing.
    pub fn grant(&self, wanted: Permission) -> Option<Grant> {
        self.core.viewer.grant(wanted)
    }

    /// All permissions of the reader.
    pub fn permissions(&self) -> &Permissions {
        &self.core.viewer.permissions
    }

    /// Which parts of the organisation are seen.
    pub fn visible(&self) -> &Visible {
        &self.core.viewer.visible
    }

    /// What this execution has read so far.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.core.recorder
    }

    /// What was read so far is not remembered: something was written, and what is read from now on is to show it.
    pub fn forget(&self) {
        self.loaders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What a request may ask for at most.
    pub fn limits(&self) -> &Limits {
        &self.core.limits
    }

    /// Which dialect a condition is to be written for.
    pub fn backend(&self) -> DbBackend {
        self.core.backend()
    }

    /// The row with this id, if the viewer may see it. Look-ups made together are one statement.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn get<M: ReadModel>(&self, id: impl Key) -> Result<Option<Arc<M>>, ReadError> {
        let Some(id) = id.key().filter(|id| !id.is_nil()) else { return Ok(None) };
        self.core.recorder.record(Dependency::row(M::KIND, id));
        let loader = self.loader::<M, Option<Arc<M>>>(Purpose::Row, |core| {
            Loader::new(move |ids: Vec<Uuid>| {
                let core = core.clone();
                async move {
                    let select = core.scoped::<M>().filter(one_of(M::id_column(), &ids, core.backend()));
                    let rows = core.rows::<M>(select).await?;
                    Ok(rows.into_iter().map(|row| (row.id(), Some(Arc::new(row)))).collect())
                }
            })
        })?;
        loader.get(id).await
    }

    /// All rows of a collection, in the order of their ids, for relations of a bounded size. Those of several owners,
    /// asked for together, are one statement.
    ///
    /// # Errors
    /// The database cannot be read, or there are more rows than a relation may have: such a relation is a `page`.
    pub async fn many<M: ReadModel>(&self, of: Collection<M>) -> Result<Arc<Vec<Arc<M>>>, ReadError> {
        self.core.recorder.record(of.dependency());
        let (column, rows) = (of.column, self.core.scoped::<M>().filter(of.narrowing()));
        let loader = self.loader::<M, Rows<M>>(Purpose::Many(alike::<M>(column, &rows, self.backend())), |core| {
            Loader::new(move |keys: Vec<Uuid>| {
                let (core, rows) = (core.clone(), rows.clone());
                async move {
                    let rows = core.relation::<M>(rows.filter(one_of(column, &keys, core.backend()))).await?;
                    let whole = |(key, rows): (_, Vec<M>)| (key, Arc::new(rows.into_iter().map(Arc::new).collect()));
                    Ok(by_key(column, rows).into_iter().map(whole).collect())
                }
            })
        })?;
        loader.get(of.key).await
    }

    /// How many rows of a collection the viewer may see. Counts of several collections that differ in whose they are
    /// alone, asked for together, are one statement.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn count<M: ReadModel>(&self, of: Collection<M>) -> Result<u64, ReadError> {
        self.core.recorder.record(of.dependency());
        let (column, rows) = (of.column, self.core.scoped::<M>().filter(of.narrowing()));
        let loader = self.loader::<M, u64>(Purpose::Count(alike::<M>(column, &rows, self.backend())), |core| {
            Loader::new(move |keys: Vec<Uuid>| {
                let (core, rows) = (core.clone(), rows.clone());
                async move {
                    let select = rows.filter(one_of(column, &keys, core.backend())).group_by(column);
                    let select = select.select_only().column_as(column.into_expr(), "of").column_as(count(), "n");
                    let mut counts = HashMap::new();
                    for row in core.run(&select.into_query()).await? {
                        let n: i64 = row.try_get("", "n")?;
                        counts.insert(row.try_get::<Uuid>("", "of")?, u64::try_from(n).unwrap_or(0));
                    }
                    Ok(counts)
                }
            })
        })?;
        loader.get(of.key).await
    }

    /// How many rows of a collection match a filter.
    ///
    /// # Errors
    /// The filter exceeds a limit, or the database cannot be read.
    pub async fn count_filtered<M: ReadModel>(
        &self,
        of: Collection<M>,
        filter: Option<M::Filter>,
    ) -> Result<u64, ReadError> {
        self.count(self.matching(of, filter.as_ref())?).await
    }

    /// One page of a collection, filtered and ordered. It is read when somebody looks at it; pages of several
    /// collections that differ in whose they are alone, looked at together, are one statement.
    ///
    /// # Errors
    /// The arguments contradict each other or exceed a limit, or a cursor is not of this order.
    pub fn page<M: ReadModel>(
        &self,
        of: Collection<M>,
        page: PageArgs,
        filter: Option<M::Filter>,
        order: Option<Vec<M::Order>>,
    ) -> Result<Connection<M>, ReadError> {
        let keyset = Keyset::<M>::new(order.as_deref().unwrap_or_default(), &self.core.limits)?;
        let window = Window::new(&page, &keyset, &self.core.limits)?;
        let of = self.matching(of, filter.as_ref())?;
        self.core.recorder.record(of.dependency());
        let shape = Shape::new(of.column, self.core.scoped::<M>().filter(of.narrowing()), keyset, window);
        Ok(Connection::new(self.clone(), of, shape))
    }

    /// The page of this shape that is this key's.
    pub(super) async fn read_page<M: ReadModel>(
        &self,
        key: Uuid,
        shape: &Arc<Shape<M>>,
    ) -> Result<Arc<Page<M>>, ReadError> {
        let loader = self.loader::<M, Arc<Page<M>>>(Purpose::Page(shape.text(self.backend())), |core| {
            let shape = shape.clone();
            Loader::new(move |keys: Vec<Uuid>| {
                let (core, shape) = (core.clone(), shape.clone());
                async move {
                    let rows = core.decode::<M>(&shape.of(&keys, core.backend())).await?;
                    let page = |(key, rows)| (key, Arc::new(shape.page(rows)));
                    Ok(by_key(shape.column, rows).into_iter().map(page).collect())
                }
            })
        })?;
        loader.get(key).await
    }

    /// The first row of a collection by id, for look-ups of what is there once at most.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn first<M: ReadModel>(&self, of: Collection<M>) -> Result<Option<M>, ReadError> {
        self.core.recorder.record(of.dependency());
        let select = self.core.scoped::<M>().filter(of.condition()).order_by_asc(M::id_column()).limit(1);
        Ok(self.core.rows::<M>(select).await?.pop())
    }

    /// Another shape of a collection's rows, such as sums: `shape` says which columns, and how they are grouped.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn shaped<M: ReadModel, R: FromQueryResult>(
        &self,
        of: Collection<M>,
        shape: impl FnOnce(Select<M::Entity>) -> Select<M::Entity> + Send,
    ) -> Result<Vec<R>, ReadError> {
        self.core.recorder.record(of.dependency());
        let select = shape(self.core.scoped::<M>().filter(of.condition()).select_only());
        self.core.decode(&select.into_query()).await
    }

    /// The rows of a collection that match a filter.
    fn matching<M: ReadModel>(
        &self,
        of: Collection<M>,
        filter: Option<&M::Filter>,
    ) -> Result<Collection<M>, ReadError> {
        Ok(match filter {
            Some(filter) => of.and(compile(filter, self.backend(), &self.core.limits)?),
            None => of,
        })
    }

    /// What `load` gives for this key, for what belongs to rows and is none. Keys that are asked for together are one
    /// call, and each is asked for once. The types say what is loaded: one pair of them, one `load`.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn batched<K, V, F>(
        &self,
        key: K,
        load: impl Fn(Vec<K>) -> F + Send + Sync + 'static,
    ) -> Result<V, ReadError>
    where
        K: Eq + Hash + Clone + fmt::Debug + Send + Sync + 'static,
        V: Default + Clone + Send + Sync + 'static,
        F: Future<Output = Result<HashMap<K, V>, ReadError>> + Send + 'static,
    {
        self.kept((TypeId::of::<(K, V)>(), Purpose::Batch), || Loader::new(load))?.get(key).await
    }

    fn loader<M: ReadModel, V: Default + Clone + Send + Sync + 'static>(
        &self,
        purpose: Purpose,
        make: impl FnOnce(Arc<Core>) -> Loader<Uuid, V>,
    ) -> Result<Arc<Loader<Uuid, V>>, ReadError> {
        self.kept((TypeId::of::<(M, V)>(), purpose), || make(self.core.clone()))
    }

    fn kept<L: Any + Send + Sync>(&self, of: (TypeId, Purpose), make: impl FnOnce() -> L) -> Result<Arc<L>, ReadError> {
        let mut loaders = self.loaders.lock().unwrap_or_else(PoisonError::into_inner);
        let found = loaders.entry(of).or_insert_with(|| Arc::new(make())).clone();
        drop(loaders);
        found.downcast().map_err(|_| ReadError::internal("a loader of another type stands under this key"))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("viewer", &self.core.viewer).finish_non_exhaustive()
    }
}

impl Core {
    fn backend(&self) -> DbBackend {
        match &self.source {
            Source::Pool(pool) => pool.get_database_backend(),
            Source::Transaction(transaction) => transaction.get_database_backend(),
        }
    }

    /// The rows that the viewer may see: where every statement on a read model begins.
    fn scoped<M: ReadModel>(&self) -> Select<M::Entity> {
        if M::PERSONAL {
            self.recorder.personal();
        }
        let seen = M::Entity::find().filter(M::scope(&self.viewer, self.backend()));
        match self.backend() {
            DbBackend::Postgres => seen.filter(behind_the_wall(&self.viewer)),
            _ => seen,
        }
    }

    /// Where every statement ends.
    async fn run(&self, select: &SelectStatement) -> Result<Vec<QueryResult>, DbErr> {
        self.recorder.count_statement();
        let mut statement = self.backend().build(select);
        if self.backend() == DbBackend::Sqlite {
            // Its planner looks at a bare parameter there, and so prepares the statement anew at each execution.
            statement.sql = statement.sql.replace(" LIMIT ?", " LIMIT +?");
        }
        match &self.source {
            Source::Pool(pool) => pool.query_all_raw(statement).await,
            Source::Transaction(transaction) => transaction.query_all_raw(statement).await,
        }
    }

    async fn decode<R: FromQueryResult>(&self, select: &SelectStatement) -> Result<Vec<R>, ReadError> {
        let rows = self.run(select).await?;
        Ok(rows.iter().map(|row| R::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    async fn rows<M: ReadModel>(&self, select: Select<M::Entity>) -> Result<Vec<M>, ReadError> {
        self.decode(&select.into_query()).await
    }

    /// Rows that are read whole, because their number is bounded.
    async fn relation<M: ReadModel>(&self, rows: Select<M::Entity>) -> Result<Vec<M>, ReadError> {
        let limit = self.limits.relation;
        let rows = self.rows::<M>(rows.order_by_asc(M::id_column()).limit(limit + 1)).await?;
        if rows.len() as u64 > limit {
            return Err(ReadError::internal(&format!("more than {limit} rows of {} read whole: page them", M::TABLE)));
        }
        Ok(rows)
    }
}

/// True, and for as long as the statement runs (in a transaction, until its end) row-level security lets through what
/// belongs to the viewer's organisation, or to their person. It names no column, so PostgreSQL evaluates it once, before
/// it looks at the first row; the policies of the migrations ask when they see one. No round trip, no copy of the wall in
/// a role or a pool for each tenant.
fn behind_the_wall(viewer: &Viewer) -> Expr {
    let sql = "(SELECT set_config('oriel.system', 'off', true) || set_config('oriel.organization', $1, true) || \
               set_config('oriel.person', $2, true)) IS NOT NULL";
    Expr::cust_with_values(sql, [viewer.organization.uuid().to_string(), viewer.person().uuid().to_string()])
}

fn count() -> Expr {
    Func::count(Expr::val(1)).into()
}

/// Whether the column holds one of these keys; a single one is compared as such, which every index answers best.
fn one_of(column: impl ColumnTrait, keys: &[Uuid], backend: DbBackend) -> Expr {
    match keys {
        [key] => column.eq(*key),
        keys => among(column, keys.iter().copied(), backend),
    }
}

/// The rows by what their column holds, each key's in the order in which they came.
fn by_key<M: ReadModel>(column: Column<M>, rows: Vec<M>) -> HashMap<Uuid, Vec<M>> {
    let mut groups: HashMap<Uuid, Vec<M>> = HashMap::new();
    for row in rows {
        if let Value::Uuid(Some(key)) = row.get(column) {
            groups.entry(key).or_default().push(row);
        }
    }
    groups
}
