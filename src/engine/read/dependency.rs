//! What an answer depends on, and what a change touches: one vocabulary for both.
//!
//! Reading records dependencies, writing touches them; an answer is stale when one that it recorded was touched.
//! The text is the whole meaning, so that nodes can tell each other what changed.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// Something that a change can touch: `document:UUID` (a row, there or not), `documents@project:UUID` (which rows
/// are in there), `search@org:UUID` (an index).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dependency(Arc<str>);

impl Dependency {
    /// One row of this kind, whether it is there or not.
    pub fn row(kind: &str, id: Uuid) -> Self {
        Self::joined(kind, ":", "", id)
    }

    /// Which rows of this table are in there: lists, counts and empty answers depend on it.
    pub fn collection(table: &str, scope: &str, id: Uuid) -> Self {
        Self::joined(table, "@", scope, id)
    }

    /// Any other name, or the text of another node's dependency.
    pub fn named(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn joined(what: &str, mark: &str, scope: &str, id: Uuid) -> Self {
        let mut digits = [0; uuid::fmt::Hyphenated::LENGTH];
        let digits = id.as_hyphenated().encode_lower(&mut digits);
        let mut text = String::with_capacity(what.len() + scope.len() + digits.len() + 2);
        text.push_str(what);
        text.push_str(mark);
        if !scope.is_empty() {
            text.push_str(scope);
            text.push(':');
        }
        text.push_str(digits);
        Self(text.into())
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let id = Uuid::from_u128(0xabc);
        assert_eq!(Dependency::row("thing", id).as_str(), "thing:00000000-0000-0000-0000-000000000abc");
        assert_eq!(
            Dependency::collection("things", "org", id),
            Dependency::named("things@org:00000000-0000-0000-0000-000000000abc")
        );
    }
}
