//! The one way to the read models: connection, viewer and recorder in one value, made anew for each execution.
//!
//! Invariants: without a viewer there is no reader. Every statement on a read model is built by `scoped`, which adds
//! what the viewer may see, and run by `Core::run`, which counts it. What is not the viewer's looks absent. What an
//! answer depends on is recorded before it is read.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use oriel_kernel::{Grant, OrganizationId, Permission, Permissions, Viewer, Visible};
use sea_orm::sea_query::{Expr, Func, SelectStatement};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    FromQueryResult, QueryFilter, QueryOrder, QueryResult, QuerySelect, QueryTrait, Select, Value,
};
use uuid::Uuid;

use super::filter::compile;
use super::keyset::Keyset;
use super::loader::Loader;
use super::model::{Column, Key};
use super::page::{Connection, PageArgs, Window};
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

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Row,
    Many(&'static str),
    Count(&'static str),
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
                    let select = core.scoped::<M>().filter(among(M::id_column(), ids, core.backend()));
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
        if of.narrowed.is_some() {
            let rows = self.core.relation::<M>(of.condition()).await?;
            return Ok(Arc::new(rows.into_iter().map(Arc::new).collect()));
        }
        let column = of.column;
        let loader = self.loader::<M, Rows<M>>(Purpose::Many(of.scope), |core| {
            Loader::new(move |keys: Vec<Uuid>| {
                let core = core.clone();
                async move {
                    let condition = Condition::all().add(among(column, keys, core.backend()));
                    let mut groups: HashMap<Uuid, Vec<Arc<M>>> = HashMap::new();
                    for row in core.relation::<M>(condition).await? {
                        if let Value::Uuid(Some(key)) = row.get(column) {
                            groups.entry(key).or_default().push(Arc::new(row));
                        }
                    }
                    Ok(groups.into_iter().map(|(key, rows)| (key, Arc::new(rows))).collect())
                }
            })
        })?;
        loader.get(of.key).await
    }

    /// How many rows of a collection the viewer may see. Counts of several collections, asked for together, are one
    /// statement.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn count<M: ReadModel>(&self, of: Collection<M>) -> Result<u64, ReadError> {
        if of.narrowed.is_some() {
            return self.count_matching(&of, Condition::all()).await;
        }
        self.core.recorder.record(of.dependency());
        let column = of.column;
        let loader = self.loader::<M, u64>(Purpose::Count(of.scope), |core| {
            Loader::new(move |keys: Vec<Uuid>| {
                let core = core.clone();
                async move {
                    let select = core.scoped::<M>().filter(among(column, keys, core.backend()));
                    let select = select.select_only().column_as(column.into_expr(), "of").column_as(count(), "n");
                    let mut counts = HashMap::new();
                    for row in core.run(&select.group_by(column).into_query()).await? {
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
        let condition = self.compiled::<M>(filter.as_ref())?;
        self.count_matching(&of, condition).await
    }

    /// One page of a collection, filtered and ordered.
    ///
    /// # Errors
    /// The arguments contradict each other or exceed a limit, a cursor is not of this order, or the database cannot be
    /// read.
    pub async fn page<M: ReadModel>(
        &self,
        of: Collection<M>,
        page: PageArgs,
        filter: Option<M::Filter>,
        order: Option<Vec<M::Order>>,
    ) -> Result<Connection<M>, ReadError> {
        let keyset = Keyset::<M>::new(order.as_deref().unwrap_or_default(), &self.core.limits)?;
        let window = Window::new(&page, &keyset, &self.core.limits)?;
        let matching = self.compiled::<M>(filter.as_ref())?;
        self.core.recorder.record(of.dependency());
        let select =
            self.core.scoped::<M>().filter(of.condition()).filter(matching.clone()).filter(window.condition(&keyset));
        let select = keyset.order(select, window.backward).limit(window.size + 1);
        let rows = self.core.rows::<M>(select).await?;
        Ok(Connection::new(self.clone(), of, matching, keyset, window, rows))
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

    pub(super) async fn count_matching<M: ReadModel>(
        &self,
        of: &Collection<M>,
        matching: Condition,
    ) -> Result<u64, ReadError> {
        self.core.recorder.record(of.dependency());
        let select = self.core.scoped::<M>().filter(of.condition()).filter(matching);
        let rows = self.core.run(&select.select_only().column_as(count(), "n").into_query()).await?;
        let n: i64 = rows.first().map(|row| row.try_get("", "n")).transpose()?.unwrap_or(0);
        Ok(u64::try_from(n).unwrap_or(0))
    }

    fn compiled<M: ReadModel>(&self, filter: Option<&M::Filter>) -> Result<Condition, ReadError> {
        filter.map_or_else(|| Ok(Condition::all()), |f| compile(f, self.backend(), &self.core.limits))
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
        M::Entity::find().filter(M::scope(&self.viewer, self.backend()))
    }

    /// Where every statement ends.
    async fn run(&self, select: &SelectStatement) -> Result<Vec<QueryResult>, DbErr> {
        self.recorder.count_statement();
        let statement = self.backend().build(select);
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
    async fn relation<M: ReadModel>(&self, condition: Condition) -> Result<Vec<M>, ReadError> {
        let limit = self.limits.relation;
        let select = self.scoped::<M>().filter(condition).order_by_asc(M::id_column()).limit(limit + 1);
        let rows = self.rows::<M>(select).await?;
        if rows.len() as u64 > limit {
            return Err(ReadError::internal(&format!("more than {limit} rows of {} read whole: page them", M::TABLE)));
        }
        Ok(rows)
    }
}

fn count() -> Expr {
    Func::count(Expr::val(1)).into()
}

/// Which column a collection's rows have in common; here so that `Column` stays a detail of the model.
impl<M: ReadModel> Collection<M> {
    /// The column and the value that the rows have in common.
    pub fn shared(&self) -> (Column<M>, Uuid) {
        (self.column, self.key)
    }
}
