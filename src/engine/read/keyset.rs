//! Orders, and the places in them that cursors name.
//!
//! Invariants: every order is total, because the id ends it. Rows without a value come last in either direction, on
//! both databases. A cursor belongs to the order that it was made in and is refused by another. Nothing is skipped
//! by counting (`OFFSET`), so the hundredth page costs what the first one did.

use data_encoding::BASE64URL_NOPAD;
use sea_orm::sea_query::{Expr, ExprTrait, NullOrdering};
use sea_orm::{ColumnTrait, ColumnType, Condition, IdenStatic, Order, QueryOrder, Select, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::Column;
use super::scalar_filter::storable;
use super::{Limits, OrderDirection, ReadError, ReadModel};

/// One key of an order, as a request gives it.
pub trait Sorting<M: ReadModel>: Send + Sync {
    /// The column, and the direction.
    fn key(&self) -> (Column<M>, OrderDirection);
}

/// The order of a read model that declares no column to order by: by id, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unordered {}

impl<M: ReadModel> Sorting<M> for Unordered {
    fn key(&self) -> (Column<M>, OrderDirection) {
        match *self {}
    }
}

/// A total order of the rows of a read model.
#[derive(Clone, Debug)]
pub(super) struct Keyset<M: ReadModel> {
    keys: Vec<SortKey<M>>,
}

#[derive(Clone, Debug)]
struct SortKey<M: ReadModel> {
    column: Column<M>,
    descending: bool,
    nullable: bool,
}

/// A place in an order: the values of its keys in some row.
#[derive(Clone, Debug)]
pub(super) struct Place(Vec<Option<Value>>);

#[derive(Serialize, Deserialize)]
struct Cursor {
    /// The order that it was made in.
    o: String,
    /// The values of its keys.
    v: Vec<serde_json::Value>,
}

impl<M: ReadModel> Keyset<M> {
    pub fn new(order: &[M::Order], limits: &Limits) -> Result<Self, ReadError> {
        if order.len() > limits.order {
            return Err(ReadError::limit(format!("An order may have {} keys at most.", limits.order)));
        }
        let mut keys: Vec<SortKey<M>> = Vec::with_capacity(order.len() + 1);
        let wanted = order.iter().map(|o| o.key());
        let last = wanted.clone().last().map_or(OrderDirection::Asc, |(_, direction)| direction);
        for (column, direction) in wanted.chain([(M::id_column(), last)]) {
            // A column that was named before decides nothing any more.
            if !keys.iter().any(|k| k.column.as_str() == column.as_str()) {
                let descending = direction == OrderDirection::Desc;
                keys.push(SortKey { column, descending, nullable: column.def().is_null() });
            }
        }
        Ok(Self { keys })
    }

    pub fn order(&self, mut select: Select<M::Entity>, backward: bool) -> Select<M::Entity> {
        for key in &self.keys {
            let order = if key.descending != backward { Order::Desc } else { Order::Asc };
            // Said only where it matters: an index would not be used for it.
            select = match (key.nullable, backward) {
                (false, _) => select.order_by(key.column, order),
                (true, false) => select.order_by_with_nulls(key.column, order, NullOrdering::Last),
                (true, true) => select.order_by_with_nulls(key.column, order, NullOrdering::First),
            };
        }
        select
    }

    /// The rows behind a place, or those before it.
    pub fn beyond(&self, place: &Place, backward: bool) -> Condition {
        let keys = || self.keys.iter().zip(&place.0);
        let descends = self.keys.first().is_some_and(|k| k.descending) != backward;
        if keys().all(|(key, value)| !key.nullable && value.is_some() && (key.descending != backward) == descends) {
            // One comparison of rows, which an index answers.
            let columns = Expr::tuple(keys().map(|(key, _)| key.expr()));
            let values = Expr::tuple(keys().filter_map(|(_, value)| value.clone().map(Expr::val)));
            let compared = if descends { columns.lt(values) } else { columns.gt(values) };
            return Condition::all().add(compared);
        }
        let mut any = Condition::any().add(Expr::Constant(false.into()));
        let mut equal = Condition::all();
        for (key, value) in keys() {
            if let Some(further) = key.further(value.as_ref(), backward) {
                any = any.add(equal.clone().add(further));
            }
            equal = equal.add(match value {
                Some(value) => key.expr().eq(value.clone()),
                None => key.expr().is_null(),
            });
        }
        // Follows from the rest, but an index is entered by it.
        let bound = keys().next().and_then(|(key, value)| key.not_before(value.as_ref(), backward));
        Condition::all().add_option(bound).add(any)
    }

    pub fn cursor(&self, row: &M) -> Result<String, ReadError> {
        let values: Option<Vec<_>> = self.keys.iter().map(|key| to_json(row.get(key.column))).collect();
        let cursor = Cursor {
            o: self.signature(),
            v: values.ok_or_else(|| ReadError::internal("a column of this type cannot be ordered by"))?,
        };
        let text = serde_json::to_vec(&cursor).map_err(|_| ReadError::internal("a cursor cannot be written"))?;
        Ok(BASE64URL_NOPAD.encode(&text))
    }

    pub fn place(&self, cursor: &str) -> Result<Place, ReadError> {
        let unknown = || ReadError::invalid("This cursor is not one that an earlier answer gave.");
        let text = BASE64URL_NOPAD.decode(cursor.as_bytes()).map_err(|_| unknown())?;
        let cursor: Cursor = serde_json::from_slice(&text).map_err(|_| unknown())?;
        if cursor.o != self.signature() {
            return Err(ReadError::invalid(
                "This cursor was made in another order: ask with the orderBy of the request that gave it, or without a cursor.",
            ));
        }
        if cursor.v.len() != self.keys.len() {
            return Err(unknown());
        }
        let values = self.keys.iter().zip(cursor.v).map(|(key, value)| match value {
            serde_json::Value::Null if key.nullable => Ok(None),
            value => from_json(key.column.def().get_column_type(), value).map(Some).ok_or_else(unknown),
        });
        values.collect::<Result<_, _>>().map(Place)
    }

    /// The order in a few characters.
    fn signature(&self) -> String {
        let mut text = format!("{}:", M::KIND);
        for key in &self.keys {
            text.push(if key.descending { '-' } else { '+' });
            text.push_str(key.column.as_str());
        }
        text
    }
}

impl<M: ReadModel> SortKey<M> {
    fn expr(&self) -> Expr {
        Expr::col(self.column.as_column_ref())
    }

    /// What is as far as this value or further, where one comparison says it.
    fn not_before(&self, value: Option<&Value>, backward: bool) -> Option<Expr> {
        let value = value.filter(|_| !self.nullable || backward)?.clone();
        Some(if self.descending != backward { self.expr().lte(value) } else { self.expr().gte(value) })
    }

    /// What is further than this value by this key alone; `None` when nothing can be.
    fn further(&self, value: Option<&Value>, backward: bool) -> Option<Condition> {
        match (value, backward) {
            (None, false) => None, // rows without a value are the last
            (None, true) => Some(Condition::all().add(self.expr().is_not_null())),
            (Some(value), _) => {
                let column = self.expr();
                let value = value.clone();
                let further = if self.descending != backward { column.lt(value) } else { column.gt(value) };
                let further = Condition::any().add(further);
                Some(if self.nullable && !backward { further.add(self.expr().is_null()) } else { further })
            }
        }
    }
}

fn to_json(value: Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::String(text) => text.into(),
        Value::Bool(is) => is.into(),
        Value::SmallInt(number) => number.into(),
        Value::Int(number) => number.into(),
        Value::BigInt(number) => number.into(),
        Value::Uuid(id) => id.map(|id| id.simple().to_string()).into(),
        Value::ChronoDateTimeUtc(moment) => moment.map(oriel_kernel::time::text).into(),
        _ => return None,
    })
}

/// The value, if it is one that a column of this type can be compared with: a cursor comes from outside.
fn from_json(column: &ColumnType, value: serde_json::Value) -> Option<Value> {
    match column {
        ColumnType::String(_) | ColumnType::Text => value.as_str().filter(|t| !t.contains('\0')).map(Value::from),
        ColumnType::Boolean => value.as_bool().map(Value::from),
        ColumnType::SmallInteger => value.as_i64().and_then(|n| i16::try_from(n).ok()).map(Value::from),
        ColumnType::Integer => value.as_i64().and_then(|n| i32::try_from(n).ok()).map(Value::from),
        ColumnType::BigInteger => value.as_i64().map(Value::from),
        ColumnType::Uuid => value.as_str().and_then(|t| t.parse::<Uuid>().ok()).map(Value::from),
        ColumnType::TimestampWithTimeZone => {
            let moment = chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
            storable(moment.to_utc()).ok()
        }
        _ => None,
    }
}
