//! From filter inputs to conditions: `and`, `or`, `not` and the limits. What a column can be asked is in
//! `scalar_filter.rs`.
//!
//! Invariants: the logic has two values on both databases: `not` is everything else, rows without a value included.
//! An empty `and` holds for every row, an empty `or` for none. Depth and the number of values are bounded before a
//! statement is built.

use std::cell::Cell;

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, Condition, DbBackend};

use super::ReadError;
use super::scalar_filter::On;

/// What a request may ask for at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Items of a page when the request does not say.
    pub default_page: u32,
    /// Items of a page at most.
    pub page: u32,
    /// Keys to order by at most.
    pub order: usize,
    /// Levels of `and`, `or` and `not` at most.
    pub filter_depth: usize,
    /// Values in one list of a filter at most.
    pub filter_list: usize,
    /// Values in a whole filter at most.
    pub filter_values: usize,
    /// Characters of a text in a filter at most.
    pub filter_text: usize,
    /// Rows of a relation that is read whole at most.
    pub relation: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            default_page: 20,
            page: 100,
            order: 5,
            filter_depth: 8,
            filter_list: 500,
            filter_values: 2_000,
            filter_text: 1_000,
            relation: 10_000,
        }
    }
}

/// Conditions on the rows of a read model, as a request gives them.
pub trait Filter: Send + Sync {
    /// As a condition of a statement.
    ///
    /// # Errors
    /// A limit is exceeded, or a value is not one that a column can hold.
    fn condition(&self, within: &Within<'_>) -> Result<Condition, ReadError>;
}

/// The filter of a read model that declares no column to filter by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfiltered {}

impl Filter for Unfiltered {
    fn condition(&self, _: &Within<'_>) -> Result<Condition, ReadError> {
        match *self {}
    }
}

/// Where in a filter we are: the limits and what is used up of them.
#[derive(Debug)]
pub struct Within<'a> {
    pub(super) backend: DbBackend,
    pub(super) limits: &'a Limits,
    depth: usize,
    values: &'a Cell<usize>,
}

/// Compiles a whole filter.
pub(super) fn compile(filter: &impl Filter, backend: DbBackend, limits: &Limits) -> Result<Condition, ReadError> {
    filter.condition(&Within { backend, limits, depth: 1, values: &Cell::new(0) })
}

impl Within<'_> {
    /// The column, to be asked something.
    pub fn column(&self, column: impl ColumnTrait) -> On {
        On { column: Expr::col(column.as_column_ref()), nullable: false }
    }

    /// The combinations that every filter has: all of `and`, one of `or`, and not `not`.
    ///
    /// # Errors
    /// A limit is exceeded, here or further in.
    pub fn combine<F: Filter>(
        &self,
        and: Option<&[F]>,
        or: Option<&[F]>,
        not: Option<&F>,
    ) -> Result<Condition, ReadError> {
        let mut all = Condition::all();
        if let Some(and) = and {
            let inner = self.deeper(and.len())?;
            for filter in and {
                all = all.add(filter.condition(&inner)?);
            }
        }
        if let Some(or) = or {
            let inner = self.deeper(or.len())?;
            // Not an empty `Condition::any()`, which sea-query leaves out.
            let mut one = Condition::any().add(Expr::Constant(false.into()));
            for filter in or {
                one = one.add(Expr::from(filter.condition(&inner)?));
            }
            all = all.add(one);
        }
        if let Some(not) = not {
            let condition = not.condition(&self.deeper(1)?)?;
            // Not `NOT`: that leaves rows out for which the condition is unknown, those without a value.
            all = all.add(Expr::from(condition).is_not(Expr::Constant(true.into())));
        }
        Ok(all)
    }

    fn deeper(&self, count: usize) -> Result<Self, ReadError> {
        if self.depth >= self.limits.filter_depth {
            return Err(ReadError::limit(format!(
                "A filter may be nested {} levels deep at most.",
                self.limits.filter_depth
            )));
        }
        self.spend(count)?;
        Ok(Self { backend: self.backend, limits: self.limits, depth: self.depth + 1, values: self.values })
    }

    /// Counts values (or inner filters) against the limit of one list and that of the whole filter.
    pub(super) fn spend(&self, count: usize) -> Result<(), ReadError> {
        let (list, whole) = (self.limits.filter_list, self.limits.filter_values);
        if count > list {
            return Err(ReadError::limit(format!(
                "A list in a filter may hold {list} values at most; this has {count}."
            )));
        }
        self.values.set(self.values.get() + count);
        if self.values.get() > whole {
            return Err(ReadError::limit(format!("A filter may hold {whole} values at most.")));
        }
        Ok(())
    }
}
