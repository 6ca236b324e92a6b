//! Ids: a prefix, `_` and 26 characters of Crockford base32 around a UUIDv7, such as `doc_01jd…`.
//!
//! One type per kind of thing, so that a document's id cannot be passed for a project's. A malformed id or a wrong
//! prefix *looks absent*: as an API input it becomes [`Id::ABSENT`], which names nothing, so that "not there", "not
//! yours" and "not an id" are one answer.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use async_graphql::{ContextSelectionSet, InputType, InputValueResult, OutputType, Positioned, ServerResult, Value};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// What kind of thing an [`Id`] names. Implemented by [`ids!`](crate::ids), never by hand.
pub trait IdKind: 'static {
    /// Stands before the `_` in the id's text.
    const PREFIX: &'static str;
}

/// The id of a thing of kind `K`.
pub struct Id<K>(Uuid, PhantomData<fn() -> K>);

/// An id whose kind is known only at run time: its prefix and its UUID. `node(id:)` and the log speak of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RawId<'a> {
    /// What stands before the `_`.
    pub prefix: &'a str,
    /// The UUID behind it.
    pub uuid: Uuid,
}

/// Declares id types: `ids! { /// A project. ProjectId = "prj" }`.
#[macro_export]
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal),+ $(,)?) => {$(
        $crate::ids!(@kind $name $prefix);
        $(#[$doc])*
        pub type $name = $crate::Id<kinds::$name>;
    )+
        /// The kinds that the ids of this module name.
        pub mod kinds {
            $($(#[$doc])* #[derive(Clone, Copy, Debug)] pub enum $name {})+
        }
    };
    (@kind $name:ident $prefix:literal) => {
        impl $crate::IdKind for kinds::$name { const PREFIX: &'static str = $prefix; }
    };
}

impl<K> Id<K> {
    /// The id that names nothing: what a malformed id becomes.
    pub const ABSENT: Self = Self(Uuid::nil(), PhantomData);

    /// Wraps a UUID that is known to name a thing of this kind.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }

    /// The UUID inside.
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// Whether this is [`Id::ABSENT`].
    pub fn is_absent(self) -> bool {
        self.0.is_nil()
    }
}

impl<K: IdKind> Id<K> {
    /// Parses an id; anything that is not an id of this kind is [`Id::ABSENT`].
    pub fn parse_or_absent(text: &str) -> Self {
        text.parse().unwrap_or(Self::ABSENT)
    }
}

impl<'a> RawId<'a> {
    /// Parses any id. `None` when the text is not of the form `prefix_26characters`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (prefix, digits) = text.split_once('_')?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_lowercase()) {
            return None;
        }
        decode(digits).map(|uuid| Self { prefix, uuid })
    }
}

impl fmt::Display for RawId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = encode(self.uuid);
        // The alphabet is ASCII, so this cannot fail.
        let digits = std::str::from_utf8(&digits).map_err(|_| fmt::Error)?;
        write!(f, "{}_{digits}", self.prefix)
    }
}

/// Crockford's base32, lower case: no i, l, o, u. <https://www.crockford.com/base32.html>
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn encode(uuid: Uuid) -> [u8; 26] {
    let mut number = uuid.as_u128();
    let mut out = [b'0'; 26];
    for digit in out.iter_mut().rev() {
        *digit = ALPHABET[(number & 31) as usize];
        number >>= 5;
    }
    out
}

fn decode(digits: &str) -> Option<Uuid> {
    // 26 digits of 5 bits are 130 bits: the first digit may only be 0 to 7.
    if digits.len() != 26 || !(b'0'..=b'7').contains(&digits.as_bytes()[0]) {
        return None;
    }
    let mut number = 0u128;
    for byte in digits.bytes() {
        let value = ALPHABET.iter().position(|&a| a == byte)?;
        number = (number << 5) | value as u128;
    }
    Some(Uuid::from_u128(number))
}

/// The text is not an id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_ followed by 26 characters")]
pub struct InvalidId {
    prefix: &'static str,
}

impl<K: IdKind> FromStr for Id<K> {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match RawId::parse(text) {
            Some(raw) if raw.prefix == K::PREFIX => Ok(Self::from_uuid(raw.uuid)),
            _ => Err(InvalidId { prefix: K::PREFIX }),
        }
    }
}

impl<K: IdKind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RawId { prefix: K::PREFIX, uuid: self.0 }.fmt(f)
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// Written out, because a derive would ask the same of `K`.
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Default for Id<K> {
    fn default() -> Self {
        Self::ABSENT
    }
}

impl<K: IdKind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: IdKind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// --- in the API: the scalar ID -------------------------------------------------------------------------------

impl<K: IdKind> OutputType for Id<K> {
    fn type_name() -> Cow<'static, str> {
        Cow::Borrowed("ID")
    }

    fn create_type_info(registry: &mut async_graphql::registry::Registry) -> String {
        <async_graphql::ID as OutputType>::create_type_info(registry)
    }

    async fn resolve(
        &self,
        _: &ContextSelectionSet<'_>,
        _: &Positioned<async_graphql::parser::types::Field>,
    ) -> ServerResult<Value> {
        Ok(Value::String(self.to_string()))
    }
}

impl<K: IdKind> InputType for Id<K> {
    type RawValueType = Self;

    fn type_name() -> Cow<'static, str> {
        Cow::Borrowed("ID")
    }

    fn create_type_info(registry: &mut async_graphql::registry::Registry) -> String {
        <async_graphql::ID as InputType>::create_type_info(registry)
    }

    fn parse(value: Option<Value>) -> InputValueResult<Self> {
        <async_graphql::ID as InputType>::parse(value)
            .map(|id| Self::parse_or_absent(&id))
            .map_err(async_graphql::InputValueError::propagate)
    }

    fn to_value(&self) -> Value {
        Value::String(self.to_string())
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }
}

// --- in a table: a UUID --------------------------------------------------------------------------------------

impl<K> From<Id<K>> for sea_orm::Value {
    fn from(id: Id<K>) -> Self {
        id.0.into()
    }
}

impl<K> sea_orm::TryGetable for Id<K> {
    fn try_get_by<I: sea_orm::ColIdx>(row: &sea_orm::QueryResult, index: I) -> Result<Self, sea_orm::TryGetError> {
        Uuid::try_get_by(row, index).map(Self::from_uuid)
    }
}

impl<K> sea_orm::sea_query::ValueType for Id<K> {
    fn try_from(value: sea_orm::Value) -> Result<Self, sea_orm::sea_query::ValueTypeErr> {
        <Uuid as sea_orm::sea_query::ValueType>::try_from(value).map(Self::from_uuid)
    }
    fn type_name() -> String {
        "Id".to_owned()
    }
    fn array_type() -> sea_orm::sea_query::ArrayType {
        <Uuid as sea_orm::sea_query::ValueType>::array_type()
    }
    fn column_type() -> sea_orm::sea_query::ColumnType {
        <Uuid as sea_orm::sea_query::ValueType>::column_type()
    }
}

impl<K> sea_orm::sea_query::Nullable for Id<K> {
    fn null() -> sea_orm::Value {
        <Uuid as sea_orm::sea_query::Nullable>::null()
    }
}

impl<K> sea_orm::IntoActiveValue<Id<K>> for Id<K> {
    fn into_active_value(self) -> sea_orm::ActiveValue<Id<K>> {
        sea_orm::ActiveValue::Set(self)
    }
}

impl<K> sea_orm::TryFromU64 for Id<K> {
    fn try_from_u64(_: u64) -> Result<Self, sea_orm::DbErr> {
        Err(sea_orm::DbErr::ConvertFromU64("Id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    ids! {
        /// For these tests.
        ThingId = "thg",
        /// For these tests.
        OtherId = "oth"
    }

    proptest! {
        #[test]
        fn text_and_back(number: u128) {
            let id = ThingId::from_uuid(Uuid::from_u128(number));
            prop_assert_eq!(id.to_string().parse::<ThingId>(), Ok(id));
            prop_assert_eq!(id.to_string().len(), 30);
            prop_assert!(OtherId::parse_or_absent(&id.to_string()).is_absent());
        }

        #[test]
        fn order_of_text_is_order_of_ids(a: u128, b: u128) {
            let (a, b) = (ThingId::from_uuid(Uuid::from_u128(a)), ThingId::from_uuid(Uuid::from_u128(b)));
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }

        #[test]
        fn any_text_is_an_id_or_absent(text in ".{0,40}") {
            let id = ThingId::parse_or_absent(&text);
            prop_assert!(id.is_absent() || id.to_string() == text);
        }
    }

    #[test]
    fn malformed_ids_look_absent() {
        for text in [
            "",
            "thg_",
            "thg",
            "thg_zzzzzzzzzzzzzzzzzzzzzzzzzz",
            "THG_01jd0000000000000000000000",
            "thg_01jd000000000000000000000l",
        ] {
            assert!(ThingId::parse_or_absent(text).is_absent(), "{text}");
        }
    }
}
