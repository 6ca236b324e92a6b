//! What a column can be asked, by its type. Each filter is defined once and is the same in every read model.
//!
//! Invariants: a value that the database would refuse is refused here; text is compared without regard to case in
//! `contains` and `startsWith`, on both databases; a row without a value is `ne` to everything.

use std::borrow::Cow;
use std::marker::PhantomData;

use async_graphql::{Enum, ID, InputObject, InputType, TypeName};
use chrono::Datelike;
use oriel_kernel::{Id, IdKind, RawId, Timestamp, time::to_micros};
use sea_orm::sea_query::extension::postgres::PgExpr;
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Func, LikeExpr, Query};
use sea_orm::{ActiveEnum, Condition, DbBackend, Value};

use super::values::{ByteSize, Tags};
use super::{ReadError, Within};

/// A type of column that can be filtered by.
pub trait Filterable {
    /// What the API takes.
    type Filter: InputType;

    /// What it means for this column.
    ///
    /// # Errors
    /// A limit is exceeded, or a value is not one that a column can hold.
    fn condition(filter: &Self::Filter, on: On, within: &Within<'_>) -> Result<Condition, ReadError>;
}

impl<T: Filterable> Filterable for Option<T> {
    type Filter = T::Filter;
    fn condition(filter: &T::Filter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        T::condition(filter, On { nullable: true, ..on }, within)
    }
}

/// A column that is asked something.
#[derive(Debug)]
pub struct On {
    pub(super) column: Expr,
    pub(super) nullable: bool,
}

impl On {
    fn is(&self, value: Value) -> Expr {
        self.column.clone().eq(value)
    }

    fn is_not(&self, value: Value) -> Condition {
        let differs = Condition::any().add(self.column.clone().ne(value));
        if self.nullable { differs.add(self.column.clone().is_null()) } else { differs }
    }

    fn one_of(&self, values: Vec<Value>, within: &Within<'_>) -> Result<Expr, ReadError> {
        within.spend(values.len())?;
        if values.is_empty() {
            return Ok(Expr::Constant(false.into()));
        }
        Ok(self.column.clone().is_in(values))
    }

    fn missing(&self, missing: bool) -> Expr {
        if missing { self.column.clone().is_null() } else { self.column.clone().is_not_null() }
    }
}

/// What `eq`, `ne`, `in` and `isNull` mean everywhere.
fn equality(
    on: &On,
    eq: Option<Value>,
    ne: Option<Value>,
    any: Option<Vec<Value>>,
    is_null: Option<bool>,
    within: &Within<'_>,
) -> Result<Condition, ReadError> {
    Ok(Condition::all()
        .add_option(eq.map(|v| on.is(v)))
        .add_option(ne.map(|v| on.is_not(v)))
        .add_option(any.map(|v| on.one_of(v, within)).transpose()?)
        .add_option(is_null.map(|v| on.missing(v))))
}

/// What `lt`, `lte`, `gt` and `gte` mean everywhere.
fn bounds(on: &On, lt: Option<Value>, lte: Option<Value>, gt: Option<Value>, gte: Option<Value>) -> Condition {
    Condition::all()
        .add_option(lt.map(|v| on.column.clone().lt(v)))
        .add_option(lte.map(|v| on.column.clone().lte(v)))
        .add_option(gt.map(|v| on.column.clone().gt(v)))
        .add_option(gte.map(|v| on.column.clone().gte(v)))
}

// --- text ---------------------------------------------------------------------------------------------------------

/// Conditions on a text; all that are given must hold.
#[derive(InputObject, Clone, Debug, Default)]
pub struct StringFilter {
    /// Is exactly this.
    pub eq: Option<String>,
    /// Is anything but this, or there is none.
    pub ne: Option<String>,
    /// Is exactly one of these; an empty list matches nothing.
    pub r#in: Option<Vec<String>>,
    /// Has this somewhere in it, in capitals or not.
    pub contains: Option<String>,
    /// Begins with this, in capitals or not.
    pub starts_with: Option<String>,
    /// true: there is no text; false: there is one.
    pub is_null: Option<bool>,
}

impl Filterable for String {
    type Filter = StringFilter;

    fn condition(filter: &StringFilter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        let eq = filter.eq.as_deref().map(|t| text(t, within)).transpose()?;
        let ne = filter.ne.as_deref().map(|t| text(t, within)).transpose()?;
        let any = filter.r#in.as_deref().map(|t| texts(t, within)).transpose()?;
        let contains = filter.contains.as_deref().map(|t| like(&on, "%", t, within)).transpose()?;
        let starts_with = filter.starts_with.as_deref().map(|t| like(&on, "", t, within)).transpose()?;
        Ok(equality(&on, eq, ne, any, filter.is_null, within)?.add_option(contains).add_option(starts_with))
    }
}

fn checked<'a>(text: &'a str, within: &Within<'_>) -> Result<&'a str, ReadError> {
    if text.contains('\0') {
        return Err(ReadError::invalid("A text in a filter may not hold the character U+0000."));
    }
    let limit = within.limits.filter_text;
    if text.chars().nth(limit).is_some() {
        return Err(ReadError::limit(format!("A text in a filter may have {limit} characters at most.")));
    }
    Ok(text)
}

fn text(text: &str, within: &Within<'_>) -> Result<Value, ReadError> {
    checked(text, within).map(Value::from)
}

fn texts(list: &[String], within: &Within<'_>) -> Result<Vec<Value>, ReadError> {
    list.iter().map(|t| text(t, within)).collect()
}

fn like(on: &On, before: &str, part: &str, within: &Within<'_>) -> Result<Expr, ReadError> {
    let mut pattern = before.to_owned();
    for character in checked(part, within)?.chars() {
        // Not the backslash, which PostgreSQL may read differently inside a literal.
        if matches!(character, '!' | '%' | '_') {
            pattern.push('!');
        }
        pattern.push(character);
    }
    pattern.push('%');
    let column = on.column.clone();
    Ok(match within.backend {
        // Written out: sea-query's `ilike` puts parentheses around `$2 ESCAPE '!'`, which is no SQL.
        DbBackend::Postgres => Expr::cust_with_exprs("($1 ILIKE $2 ESCAPE '!')", [column, Expr::val(pattern)]),
        // SQLite's LIKE disregards case by itself, of the letters A to Z.
        _ => column.like(LikeExpr::new(pattern).escape('!')),
    })
}

// --- ids ----------------------------------------------------------------------------------------------------------

/// Conditions on an id; all that are given must hold.
#[derive(InputObject, Clone, Debug, Default)]
pub struct IdFilter {
    /// Is this.
    pub eq: Option<ID>,
    /// Is anything but this, or there is none.
    pub ne: Option<ID>,
    /// Is one of these; an empty list matches nothing.
    pub r#in: Option<Vec<ID>>,
    /// true: there is no id; false: there is one.
    pub is_null: Option<bool>,
}

impl<K: IdKind> Filterable for Id<K> {
    type Filter = IdFilter;

    fn condition(filter: &IdFilter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        // What is not an id of this kind looks absent: it is the id of nothing.
        let id = |text: &ID| match RawId::parse(text) {
            Some(raw) if raw.prefix == K::PREFIX => Value::from(raw.uuid),
            _ => Value::from(Self::ABSENT.uuid()),
        };
        let any = filter.r#in.as_ref().map(|ids| ids.iter().map(id).collect());
        equality(&on, filter.eq.as_ref().map(id), filter.ne.as_ref().map(id), any, filter.is_null, within)
    }
}

// --- numbers ------------------------------------------------------------------------------------------------------

/// Conditions on a number; all that are given must hold.
#[derive(InputObject, Clone, Debug, Default)]
pub struct IntFilter {
    /// Is exactly this.
    pub eq: Option<i32>,
    /// Is anything but this, or there is none.
    pub ne: Option<i32>,
    /// Is one of these; an empty list matches nothing.
    pub r#in: Option<Vec<i32>>,
    /// Is less than this.
    pub lt: Option<i32>,
    /// Is this or less.
    pub lte: Option<i32>,
    /// Is more than this.
    pub gt: Option<i32>,
    /// Is this or more.
    pub gte: Option<i32>,
    /// true: there is no number; false: there is one.
    pub is_null: Option<bool>,
}

fn integers<T: From<i32> + Into<Value>>(f: &IntFilter, on: &On, within: &Within<'_>) -> Result<Condition, ReadError> {
    let value = |number: i32| -> Value { T::from(number).into() };
    let any = f.r#in.as_ref().map(|list| list.iter().copied().map(value).collect());
    Ok(equality(on, f.eq.map(value), f.ne.map(value), any, f.is_null, within)?.add(bounds(
        on,
        f.lt.map(value),
        f.lte.map(value),
        f.gt.map(value),
        f.gte.map(value),
    )))
}

impl Filterable for i32 {
    type Filter = IntFilter;
    fn condition(filter: &IntFilter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        integers::<Self>(filter, &on, within)
    }
}

impl Filterable for i64 {
    type Filter = IntFilter;
    fn condition(filter: &IntFilter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        integers::<Self>(filter, &on, within)
    }
}

/// Conditions on a number of bytes; all that are given must hold.
#[derive(InputObject, Clone, Debug, Default)]
pub struct ByteSizeFilter {
    /// Is exactly this.
    pub eq: Option<ByteSize>,
    /// Is less than this.
    pub lt: Option<ByteSize>,
    /// Is this or less.
    pub lte: Option<ByteSize>,
    /// Is more than this.
    pub gt: Option<ByteSize>,
    /// Is this or more.
    pub gte: Option<ByteSize>,
    /// true: there is no size; false: there is one.
    pub is_null: Option<bool>,
}

impl Filterable for ByteSize {
    type Filter = ByteSizeFilter;
    fn condition(f: &ByteSizeFilter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        let value = Value::from;
        Ok(equality(&on, f.eq.map(value), None, None, f.is_null, within)?.add(bounds(
            &on,
            f.lt.map(value),
            f.lte.map(value),
            f.gt.map(value),
            f.gte.map(value),
        )))
    }
}

// --- time ---------------------------------------------------------------------------------------------------------

/// Conditions on a moment; all that are given must hold. Moments are kept to the microsecond.
#[derive(InputObject, Clone, Debug, Default)]
pub struct DateTimeFilter {
    /// Is exactly this.
    pub eq: Option<Timestamp>,
    /// Is before this.
    pub lt: Option<Timestamp>,
    /// Is this or before.
    pub lte: Option<Timestamp>,
    /// Is after this.
    pub gt: Option<Timestamp>,
    /// Is this or after.
    pub gte: Option<Timestamp>,
    /// true: there is no moment; false: there is one.
    pub is_null: Option<bool>,
}

impl Filterable for Timestamp {
    type Filter = DateTimeFilter;
    fn condition(f: &DateTimeFilter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        let value = |moment: Option<Timestamp>| moment.map(storable).transpose();
        let range = bounds(&on, value(f.lt)?, value(f.lte)?, value(f.gt)?, value(f.gte)?);
        Ok(equality(&on, value(f.eq)?, None, None, f.is_null, within)?.add(range))
    }
}

/// A moment as both databases can hold and compare it.
pub(super) fn storable(moment: Timestamp) -> Result<Value, ReadError> {
    if !(1..=9999).contains(&moment.year()) {
        return Err(ReadError::invalid("A moment must be in the years 1 to 9999."));
    }
    Ok(to_micros(moment).into())
}

// --- yes or no, one of a few --------------------------------------------------------------------------------------

/// Conditions on a yes or no; all that are given must hold.
#[derive(InputObject, Clone, Debug, Default)]
pub struct BooleanFilter {
    /// Is this.
    pub eq: Option<bool>,
}

impl Filterable for bool {
    type Filter = BooleanFilter;
    fn condition(filter: &BooleanFilter, on: On, _: &Within<'_>) -> Result<Condition, ReadError> {
        Ok(Condition::all().add_option(filter.eq.map(|v| on.is(v.into()))))
    }
}

/// Conditions on one of a few values; all that are given must hold.
#[derive(InputObject, Clone, Debug)]
#[graphql(name_type)]
pub struct EnumFilter<E: InputType> {
    /// Is this.
    pub eq: Option<E>,
    /// Is anything but this, or there is none.
    pub ne: Option<E>,
    /// Is one of these; an empty list matches nothing.
    pub r#in: Option<Vec<E>>,
}

impl<E: InputType> TypeName for EnumFilter<E> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Filter", E::type_name()).into()
    }
}

/// A column that holds one of a few values; stands for them in the derive, because a trait cannot tell them from text.
#[derive(Debug)]
pub struct EnumColumn<E>(PhantomData<E>);

impl<E: ActiveEnum + InputType> Filterable for EnumColumn<E> {
    type Filter = EnumFilter<E>;
    fn condition(filter: &EnumFilter<E>, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        let value = |e: &E| -> Value { ActiveEnum::to_value(e).into() };
        let any = filter.r#in.as_ref().map(|list| list.iter().map(value).collect());
        equality(&on, filter.eq.as_ref().map(value), filter.ne.as_ref().map(value), any, None, within)
    }
}

// --- lists of words -----------------------------------------------------------------------------------------------

/// Conditions on a list of words; all that are given must hold. Words are compared exactly.
#[derive(InputObject, Clone, Debug, Default)]
pub struct TagsFilter {
    /// This word is among them.
    pub has: Option<String>,
    /// One of these words is among them; an empty list matches nothing.
    pub has_any: Option<Vec<String>>,
    /// All of these words are among them; an empty list matches everything.
    pub has_all: Option<Vec<String>>,
    /// true: there are none; false: there are some.
    pub is_empty: Option<bool>,
}

impl Filterable for Tags {
    type Filter = TagsFilter;
    fn condition(filter: &TagsFilter, on: On, within: &Within<'_>) -> Result<Condition, ReadError> {
        let mut all = Condition::all();
        if let Some(word) = &filter.has {
            all = all.add(has(&on, word, within)?);
        }
        if let Some(words) = &filter.has_any {
            within.spend(words.len())?;
            let mut one = Condition::any().add(Expr::Constant(false.into()));
            for word in words {
                one = one.add(has(&on, word, within)?);
            }
            all = all.add(one);
        }
        if let Some(words) = &filter.has_all {
            within.spend(words.len())?;
            for word in words {
                all = all.add(has(&on, word, within)?);
            }
        }
        if let Some(empty) = filter.is_empty {
            let length = match within.backend {
                DbBackend::Postgres => Func::cust(Alias::new("jsonb_array_length")).arg(jsonb(on.column.clone())),
                _ => Func::cust(Alias::new("json_array_length")).arg(on.column.clone()),
            };
            let none = Expr::from(length).eq(0);
            all = all.add(if empty { none } else { none.is_not(Expr::Constant(true.into())) });
        }
        Ok(all)
    }
}

fn has(on: &On, word: &str, within: &Within<'_>) -> Result<Expr, ReadError> {
    let word = checked(word, within)?;
    Ok(match within.backend {
        DbBackend::Postgres => {
            let list = serde_json::Value::from(vec![word]).to_string();
            jsonb(on.column.clone()).contains(jsonb(Expr::val(list)))
        }
        _ => {
            let each = Func::cust(Alias::new("json_each")).arg(on.column.clone());
            let value = Expr::col((Alias::new("each"), Alias::new("value")));
            Expr::exists(
                Query::select().expr(Expr::val(1)).from_function(each, "each").and_where(value.eq(word)).take(),
            )
        }
    })
}

fn jsonb(expr: Expr) -> Expr {
    expr.cast_as("jsonb")
}

/// The direction of an order.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OrderDirection {
    /// Smallest, earliest, first in the alphabet first. What has no value comes last.
    #[default]
    Asc,
    /// Largest, latest, last in the alphabet first. What has no value comes last.
    Desc,
}
