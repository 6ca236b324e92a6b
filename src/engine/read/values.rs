//! Types that a column and the API share: sizes and lists of words; and how ids are bound in bulk.

use std::borrow::Cow;

use async_graphql::registry::Registry;
use async_graphql::{
    ContextSelectionSet, InputValueError, InputValueResult, OutputType, Positioned, Scalar, ScalarType, ServerResult,
};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Func, FunctionCall, Query};
use sea_orm::{ColumnTrait, DbBackend, FromJsonQueryResult, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A number of bytes: a `BIGINT` in a table. Never negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, sea_orm::DeriveValueType)]
pub struct ByteSize(i64);

impl ByteSize {
    /// This many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// How many bytes.
    pub fn bytes(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

impl std::ops::Add for ByteSize {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for ByteSize {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self::new(self.bytes().saturating_sub(other.bytes()))
    }
}

/// A number of bytes, as a JSON number. It may exceed 32 bits: read it into 64, or into a double, which is exact up
/// to 2^53. Never negative.
#[Scalar(name = "ByteSize")]
impl ScalarType for ByteSize {
    fn parse(value: async_graphql::Value) -> InputValueResult<Self> {
        match &value {
            async_graphql::Value::Number(number) => match number.as_i64() {
                Some(bytes) if bytes >= 0 => Ok(Self(bytes)),
                _ => Err(InputValueError::custom("a size is a whole number of bytes, 0 or more")),
            },
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    fn to_value(&self) -> async_graphql::Value {
        async_graphql::Value::from(self.0)
    }
}

/// A list of words, kept as a JSON array in one column (`JSONB` on PostgreSQL, text on SQLite).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Tags(pub Vec<String>);

impl From<Vec<String>> for Tags {
    fn from(words: Vec<String>) -> Self {
        Self(words)
    }
}

impl OutputType for Tags {
    fn type_name() -> Cow<'static, str> {
        <Vec<String> as OutputType>::type_name()
    }

    fn qualified_type_name() -> String {
        <Vec<String> as OutputType>::qualified_type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        <Vec<String> as OutputType>::create_type_info(registry)
    }

    async fn resolve(
        &self,
        cx: &ContextSelectionSet<'_>,
        field: &Positioned<async_graphql::parser::types::Field>,
    ) -> ServerResult<async_graphql::Value> {
        self.0.resolve(cx, field).await
    }
}

/// Whether the column holds one of these ids. One bound value however many there are, so that the text of the
/// statement (and its prepared plan) is the same for every number, and no limit on bound values is met.
pub fn among(column: impl ColumnTrait, ids: impl IntoIterator<Item = Uuid>, backend: DbBackend) -> Expr {
    let column = Expr::col(column.as_column_ref());
    match backend {
        DbBackend::Postgres => column.eq(Func::cust(Alias::new("ANY")).arg(array(ids))),
        _ => {
            let (table, id) = each(ids, backend);
            column.in_subquery(Query::select().expr(id).from_function(table, "each").take())
        }
    }
}

/// These ids as a table, which is to be named `each`, and the id in a row of it. One bound value, too.
pub(super) fn each(ids: impl IntoIterator<Item = Uuid>, backend: DbBackend) -> (FunctionCall, Expr) {
    let column = |name: &'static str| Expr::col((Alias::new("each"), Alias::new(name)));
    match backend {
        DbBackend::Postgres => (Func::cust(Alias::new("unnest")).arg(array(ids)), column("each")),
        // SQLite keeps a UUID as its 16 bytes.
        _ => {
            let list: Vec<String> = ids.into_iter().map(|id| id.simple().to_string()).collect();
            let list = Value::from(serde_json::Value::from(list).to_string());
            let id = Func::cust(Alias::new("unhex")).arg(column("value"));
            (Func::cust(Alias::new("json_each")).arg(list), id.into())
        }
    }
}

/// An array of PostgreSQL.
fn array(ids: impl IntoIterator<Item = Uuid>) -> Expr {
    let list: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    Expr::val(format!("{{{}}}", list.join(","))).cast_as("uuid[]")
}
