//! Facts: the rules between aggregates.
//!
//! An aggregate decides from its own state alone. What must hold *between* aggregates is a fact, a row
//! `(scope, value)`: absent, and claimed by this command (a unique key); present (the project is active); or
//! released. The committer checks and writes them in the transaction that appends the events.

use serde::{Deserialize, Serialize};

use crate::Rejection;

/// A fact: that `value` holds in `scope`. For example scope `project_key:org_…`, value `ATLAS`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Fact {
    /// What kind of fact, and where it is unique.
    pub scope: String,
    /// The value that is claimed there.
    pub value: String,
}

impl Fact {
    /// A fact in a scope that is a kind and the thing it holds for.
    pub fn new(kind: &str, of: impl std::fmt::Display, value: impl Into<String>) -> Self {
        Self { scope: format!("{kind}:{of}"), value: value.into() }
    }
}

/// What a command asks of the facts.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// Must be absent, else the rejection; is present afterwards and belongs to the deciding aggregate.
    pub claim: Vec<(Fact, Rejection)>,
    /// Must be present, else the rejection.
    pub require: Vec<(Fact, Rejection)>,
    /// Is absent afterwards.
    pub release: Vec<Fact>,
}

impl Facts {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.claim.is_empty() && self.require.is_empty() && self.release.is_empty()
    }
}
