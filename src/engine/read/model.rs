//! What reading needs to know of a read model: everything else is the same for all of them.
//!
//! Implemented by `#[derive(ReadModel)]`, never by hand.

use oriel_kernel::{Id, Viewer};
use sea_orm::sea_query::IntoCondition;
use sea_orm::{ColumnTrait, Condition, DbBackend, EntityTrait, FromQueryResult, ModelTrait};
use uuid::Uuid;

use super::{Dependency, Filter, Sorting};

/// The columns of a read model.
pub type Column<M> = <<M as ModelTrait>::Entity as EntityTrait>::Column;

/// A row of a read model: a table's row and a GraphQL object in one.
pub trait ReadModel:
    ModelTrait<Entity: EntityTrait<Model = Self>> + FromQueryResult + Clone + Send + Sync + 'static
{
    /// The table, and the prefix of its collections' dependencies: `documents`.
    const TABLE: &'static str;
    /// The prefix of its rows' dependencies: `document`.
    const KIND: &'static str;
    /// What the API calls it: `Document`.
    const NAME: &'static str;
    /// Whether who is asking decides what is seen, beyond organisation, permissions and projects.
    const PERSONAL: bool;

    /// The conditions that a list takes: `DocumentFilter`.
    type Filter: Filter;
    /// The orders that a list takes: `DocumentOrder`.
    type Order: Sorting<Self>;

    /// The primary key.
    fn id(&self) -> Uuid;

    /// The column of the primary key; always named `id`.
    fn id_column() -> Column<Self>;

    /// Which rows this viewer sees. The reader adds it to every statement.
    fn scope(viewer: &Viewer, backend: DbBackend) -> Condition;

    /// The row itself and every collection that holds it: what a change of this row touches.
    fn dependencies(&self, touch: &mut dyn FnMut(Dependency));

    /// The columns that filters and orders may use: each wants an index.
    fn declared() -> Declared<Self>;
}

/// The columns that a read model lets its readers filter and sort by.
#[derive(Debug)]
pub struct Declared<M: ReadModel> {
    /// Those that its filter takes.
    pub filters: &'static [Column<M>],
    /// Those that its order takes.
    pub orders: &'static [Column<M>],
}

/// The rows of a read model that belong somewhere: the documents of a project. Made by the functions that
/// `collections(project = "project_id")` gives the model: `Document::in_project(id)`.
#[derive(Clone, Debug)]
pub struct Collection<M: ReadModel> {
    pub(super) scope: &'static str,
    pub(super) column: Column<M>,
    pub(super) key: Uuid,
    pub(super) narrowed: Option<Condition>,
}

impl<M: ReadModel> Collection<M> {
    /// The rows whose `column` is `key`; changes of it are announced as `table@scope:key`.
    pub fn new(scope: &'static str, column: Column<M>, key: Uuid) -> Self {
        Self { scope, column, key, narrowed: None }
    }

    /// Only those of its rows for which this holds too.
    pub fn and(mut self, condition: impl IntoCondition) -> Self {
        let condition = condition.into_condition();
        self.narrowed = Some(match self.narrowed {
            Some(before) => before.add(condition),
            None => Condition::all().add(condition),
        });
        self
    }

    /// What is touched when a row enters, leaves or changes.
    pub fn dependency(&self) -> Dependency {
        Dependency::collection(M::TABLE, self.scope, self.key)
    }

    pub(super) fn condition(&self) -> Condition {
        self.narrowing().add(self.column.eq(self.key))
    }

    /// Which rows of its kind are in it, whosever they are.
    pub(super) fn narrowing(&self) -> Condition {
        Condition::all().add_option(self.narrowed.clone())
    }
}

/// A value that names something: an id, or the absence of one.
pub trait Key {
    /// The UUID inside.
    fn key(&self) -> Option<Uuid>;
}

impl Key for Uuid {
    fn key(&self) -> Option<Uuid> {
        Some(*self)
    }
}

impl<K> Key for Id<K> {
    fn key(&self) -> Option<Uuid> {
        Some(self.uuid())
    }
}

impl<T: Key> Key for Option<T> {
    fn key(&self) -> Option<Uuid> {
        self.as_ref().and_then(Key::key)
    }
}
