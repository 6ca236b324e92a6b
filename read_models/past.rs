//! What something was: its row as it stood after an event of the past, folded anew from the events of its aggregate.
//!
//! Invariants: nothing is said that its own events do not say: what events of other aggregates add up to is left out.
//! What was said about somebody who was forgotten is erased in the events, and so in what is made of them.

use std::sync::Arc;

use oriel_engine::projection::{Inline, Past, ProjectError};
use oriel_kernel::{RawId, Recorded};
use uuid::Uuid;

use crate::node::Node;

/// Columns that follow from the events of other aggregates.
const ADDED_UP: &[(&str, &[&str])] = &[
    ("organization", &["member_count", "project_count", "document_count", "storage_used"]),
    ("project", &["document_count", "storage_used"]),
];

/// What something was after each of its events.
pub struct States {
    /// What the API calls it: `Project`.
    pub name: &'static str,
    /// The columns that its own events say everything about.
    pub columns: Vec<&'static str>,
    /// What it was; nothing where it was not there.
    pub states: Vec<Option<Node>>,
}

/// The stream of the aggregate of an id, and its UUID; nothing when ids of this kind have no events.
pub fn subject(id: &str) -> Option<(&'static str, Uuid)> {
    let id = RawId::parse(id)?;
    let decoder = oriel_domain::DECODERS.iter().find(|decoder| decoder.id_prefix == id.prefix)?;
    Some((decoder.stream, id.uuid))
}

/// What the events of an aggregate, from its first one on, have made of it; nothing when no read model shows it.
///
/// # Errors
/// A defect in its projection.
pub fn states(
    read_models: &[Box<dyn Inline>],
    (stream, subject): (&str, Uuid),
    events: &[Arc<Recorded>],
) -> Result<Option<States>, ProjectError> {
    let Some(own) = read_models.iter().find(|own| own.kind() == stream && own.takes(stream)) else { return Ok(None) };
    let Past { name, mut columns, rows } = own.past(subject, events)?;
    let added_up = ADDED_UP.iter().find(|(kind, _)| *kind == stream).map(|(_, columns)| *columns).unwrap_or_default();
    columns.retain(|column| !added_up.contains(column));
    Ok(Some(States { name, columns, states: rows.into_iter().map(|row| Node::of_row(row?)).collect() }))
}
