//! Relay's connections: pages of a collection, with opaque cursors.
//!
//! Invariants: what cannot be answered is refused when the page is asked for; its rows are read when somebody looks at
//! them, once. Pages of one [`Shape`] that are looked at together are one statement, which reads no more rows than a
//! statement for each would: each list is a query of its own inside, with its own limit. (Numbering the rows with
//! a window function would read every list to its end.)

use std::borrow::Cow;
use std::sync::Arc;

use async_graphql::{Object, OutputType, SimpleObject, TypeName};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, JoinType, SelectStatement};
use sea_orm::{ColumnTrait, Condition, DbBackend, EntityTrait, QueryFilter, QuerySelect, QueryTrait, Select};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::keyset::{Keyset, Place};
use super::model::Column;
use super::values::each;
use super::{Collection, Limits, ReadError, ReadModel, Reader};

/// Which page is wanted: `first` items (after a cursor), or the `last` ones (before a cursor).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageArgs {
    /// How many from the beginning.
    pub first: Option<i32>,
    /// Only what stands behind this cursor.
    pub after: Option<String>,
    /// How many from the end.
    pub last: Option<i32>,
    /// Only what stands before this cursor.
    pub before: Option<String>,
}

impl PageArgs {
    /// From the arguments of a field.
    pub fn new(first: Option<i32>, after: Option<String>, last: Option<i32>, before: Option<String>) -> Self {
        Self { first, after, last, before }
    }
}

/// A page that can be read: sizes within the limits, cursors of the order.
#[derive(Debug)]
pub(super) struct Window {
    pub size: u64,
    pub backward: bool,
    after: Option<Place>,
    before: Option<Place>,
}

impl Window {
    pub fn new<M: ReadModel>(page: &PageArgs, keyset: &Keyset<M>, limits: &Limits) -> Result<Self, ReadError> {
        let (name, wanted) = match (page.first, page.last) {
            (Some(_), Some(_)) => return Err(ReadError::invalid("Say `first` or `last`, not both.")),
            (None, Some(last)) => ("last", Some(last)),
            (first, None) => ("first", first),
        };
        let size = match wanted.map(u32::try_from) {
            None => limits.default_page,
            Some(Err(_)) => return Err(ReadError::invalid(format!("`{name}` may not be negative."))),
            Some(Ok(size)) if size > limits.page => {
                return Err(ReadError::limit(format!("`{name}` may be {} at most; this is {size}.", limits.page)));
            }
            Some(Ok(size)) => size,
        };
        let place = |cursor: &Option<String>| cursor.as_deref().map(|c| keyset.place(c)).transpose();
        Ok(Self {
            size: size.into(),
            backward: page.last.is_some(),
            after: place(&page.after)?,
            before: place(&page.before)?,
        })
    }

    pub fn condition<M: ReadModel>(&self, keyset: &Keyset<M>) -> Condition {
        Condition::all()
            .add_option(self.after.as_ref().map(|place| keyset.beyond(place, false)))
            .add_option(self.before.as_ref().map(|place| keyset.beyond(place, true)))
    }
}

/// What pages that are read together have in common: everything but whose they are.
#[derive(Debug)]
pub(super) struct Shape<M: ReadModel> {
    pub column: Column<M>,
    keyset: Keyset<M>,
    window: Window,
    /// The rows of the window and one more, which tells whether the list goes on; of everybody.
    list: Select<M::Entity>,
}

impl<M: ReadModel> Shape<M> {
    /// A page of these rows, which `column` tells apart.
    pub fn new(column: Column<M>, rows: Select<M::Entity>, keyset: Keyset<M>, window: Window) -> Self {
        let list = keyset.order(rows.filter(window.condition(&keyset)), window.backward).limit(window.size + 1);
        Self { column, keyset, window, list }
    }

    /// The same text for the same shape, and for no other.
    pub fn text(&self, backend: DbBackend) -> String {
        alike::<M>(self.column, &self.list, backend)
    }

    /// The rows of the pages of these, one page's in their order (backward: the last first).
    pub fn of(&self, keys: &[Uuid], backend: DbBackend) -> SelectStatement {
        let list_of = |key: Expr| self.list.clone().filter(self.column.into_expr().eq(key));
        if let [key] = keys {
            return list_of(Expr::val(*key)).into_query();
        }
        let (keys, key) = each(keys.iter().copied(), backend);
        let mut all = self.keyset.order(M::Entity::find(), self.window.backward).into_query();
        all.from_clear().from_function(keys, "each");
        match backend {
            DbBackend::Postgres => {
                let (list, table) = (list_of(key).into_query(), Alias::new(M::TABLE));
                all.join_lateral(JoinType::InnerJoin, list, table, Expr::Constant(true.into()))
            }
            // SQLite has no lateral joins. Its cross joins are run in the order in which they are written.
            _ => {
                let ids = list_of(key).select_only().column(M::id_column()).into_query();
                all.cross_join(M::Entity::default()).and_where(M::id_column().in_subquery(ids))
            }
        };
        all
    }

    /// The page, from what was read of it.
    pub fn page(&self, mut rows: Vec<M>) -> Page<M> {
        let more = rows.len() as u64 > self.window.size;
        rows.truncate(usize::try_from(self.window.size).unwrap_or(usize::MAX));
        if self.window.backward {
            rows.reverse();
        }
        Page { rows, more }
    }
}

/// The same text for queries that differ at most in whose rows they read.
pub(super) fn alike<M: ReadModel>(column: Column<M>, rows: &Select<M::Entity>, backend: DbBackend) -> String {
    format!("{column:?} {:?}", rows.build(backend))
}

/// What was read of a page.
#[derive(Debug)]
pub(super) struct Page<M> {
    rows: Vec<M>,
    /// Whether the list goes on where the window ends.
    more: bool,
}

impl<M> Default for Page<M> {
    fn default() -> Self {
        Self { rows: Vec::new(), more: false }
    }
}

/// Where a page stands in its list.
#[derive(SimpleObject, Clone, PartialEq, Eq, Debug, Default)]
pub struct PageInfo {
    /// Whether more items follow: ask again with `after: endCursor`.
    pub has_next_page: bool,
    /// Whether items precede: ask again with `before: startCursor`.
    pub has_previous_page: bool,
    /// The cursor of the first item; null when the page is empty.
    pub start_cursor: Option<String>,
    /// The cursor of the last item; null when the page is empty.
    pub end_cursor: Option<String>,
}

/// A page of a collection.
#[derive(Debug)]
pub struct Connection<M: ReadModel> {
    reader: Reader,
    of: Collection<M>,
    shape: Arc<Shape<M>>,
    page: OnceCell<Arc<Page<M>>>,
}

/// An item of a page, and its cursor.
#[derive(Debug)]
pub struct Edge<'a, M: ReadModel> {
    connection: &'a Connection<M>,
    row: &'a M,
}

impl<M: ReadModel> Connection<M> {
    pub(super) fn new(reader: Reader, of: Collection<M>, shape: Shape<M>) -> Self {
        Self { reader, of, shape: Arc::new(shape), page: OnceCell::new() }
    }

    async fn page(&self) -> Result<&Page<M>, ReadError> {
        Ok(self.page.get_or_try_init(|| self.reader.read_page(self.of.key, &self.shape)).await?)
    }

    /// The rows of this page.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn rows(&self) -> Result<&[M], ReadError> {
        Ok(&self.page().await?.rows)
    }

    /// Where this page stands in its list.
    ///
    /// # Errors
    /// The database cannot be read, or the read model declares a column that cannot be ordered by: a defect.
    pub async fn page_info(&self) -> Result<PageInfo, ReadError> {
        let (Page { rows, more }, Shape { keyset, window, .. }) = (self.page().await?, &*self.shape);
        let (has_next_page, has_previous_page) =
            if window.backward { (window.before.is_some(), *more) } else { (*more, window.after.is_some()) };
        Ok(PageInfo {
            has_next_page,
            has_previous_page,
            start_cursor: rows.first().map(|row| keyset.cursor(row)).transpose()?,
            end_cursor: rows.last().map(|row| keyset.cursor(row)).transpose()?,
        })
    }

    /// How many rows the list has, all pages together.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn total_count(&self) -> Result<u64, ReadError> {
        self.reader.count(self.of.clone()).await
    }
}

impl<M: ReadModel> TypeName for Connection<M> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Connection", M::NAME).into()
    }
}

impl<M: ReadModel> TypeName for Edge<'_, M> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Edge", M::NAME).into()
    }
}

/// A page of a list.
#[Object(name_type)]
impl<M: ReadModel + OutputType> Connection<M> {
    /// The items with their cursors.
    #[graphql(name = "edges")]
    async fn resolve_edges(&self) -> async_graphql::Result<Vec<Edge<'_, M>>> {
        Ok(self.rows().await?.iter().map(|row| Edge { connection: self, row }).collect())
    }

    /// The items.
    #[graphql(name = "nodes")]
    async fn resolve_nodes(&self) -> async_graphql::Result<&[M]> {
        Ok(self.rows().await?)
    }

    /// Where this page stands in the list.
    #[graphql(name = "pageInfo")]
    async fn resolve_page_info(&self) -> async_graphql::Result<PageInfo> {
        Ok(self.page_info().await?)
    }

    /// How many items the list has, all pages together. Counted only when asked for.
    #[graphql(name = "totalCount")]
    async fn resolve_total_count(&self) -> async_graphql::Result<i32> {
        Ok(i32::try_from(self.total_count().await?).unwrap_or(i32::MAX))
    }
}

/// An item of a list, and its place.
#[Object(name_type)]
impl<M: ReadModel + OutputType> Edge<'_, M> {
    /// The item.
    #[graphql(name = "node")]
    async fn resolve_node(&self) -> &M {
        self.row
    }

    /// The item's place in this order; give it back as `after` or `before`.
    #[graphql(name = "cursor")]
    async fn resolve_cursor(&self) -> async_graphql::Result<String> {
        Ok(self.connection.shape.keyset.cursor(self.row)?)
    }
}
