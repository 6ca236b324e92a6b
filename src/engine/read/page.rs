//! Relay's connections: pages of a collection, with opaque cursors.

use std::borrow::Cow;

use async_graphql::{Object, OutputType, SimpleObject, TypeName};
use sea_orm::Condition;

use super::keyset::{Keyset, Place};
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
    matching: Condition,
    keyset: Keyset<M>,
    rows: Vec<M>,
    has_next: bool,
    has_previous: bool,
}

/// An item of a page, and its cursor.
#[derive(Debug)]
pub struct Edge<'a, M: ReadModel> {
    connection: &'a Connection<M>,
    row: &'a M,
}

impl<M: ReadModel> Connection<M> {
    /// From the rows of the window and one more, which tells whether the list goes on.
    pub(super) fn new(
        reader: Reader,
        of: Collection<M>,
        matching: Condition,
        keyset: Keyset<M>,
        window: Window,
        mut rows: Vec<M>,
    ) -> Self {
        let more = rows.len() as u64 > window.size;
        rows.truncate(usize::try_from(window.size).unwrap_or(usize::MAX));
        let (has_next, has_previous) = if window.backward {
            rows.reverse();
            (window.before.is_some(), more)
        } else {
            (more, window.after.is_some())
        };
        Self { reader, of, matching, keyset, rows, has_next, has_previous }
    }

    /// The rows of this page.
    pub fn rows(&self) -> &[M] {
        &self.rows
    }

    /// The rows of this page, taken out.
    pub fn into_rows(self) -> Vec<M> {
        self.rows
    }

    /// Where this page stands in its list.
    ///
    /// # Errors
    /// The read model declares a column that cannot be ordered by: a defect.
    pub fn page_info(&self) -> Result<PageInfo, ReadError> {
        Ok(PageInfo {
            has_next_page: self.has_next,
            has_previous_page: self.has_previous,
            start_cursor: self.rows.first().map(|row| self.keyset.cursor(row)).transpose()?,
            end_cursor: self.rows.last().map(|row| self.keyset.cursor(row)).transpose()?,
        })
    }

    /// How many rows the list has, all pages together.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn total_count(&self) -> Result<u64, ReadError> {
        self.reader.count_matching(&self.of, self.matching.clone()).await
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
    async fn resolve_edges(&self) -> Vec<Edge<'_, M>> {
        self.rows.iter().map(|row| Edge { connection: self, row }).collect()
    }

    /// The items.
    #[graphql(name = "nodes")]
    async fn resolve_nodes(&self) -> &[M] {
        &self.rows
    }

    /// Where this page stands in the list.
    #[graphql(name = "pageInfo")]
    async fn resolve_page_info(&self) -> async_graphql::Result<PageInfo> {
        Ok(self.page_info()?)
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
        Ok(self.connection.keyset.cursor(self.row)?)
    }
}
