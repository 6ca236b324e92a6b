//! Who may see the schema: by introspection, as SDL, and through what an error suggests.
//!
//! Invariant: whoever may not see it learns none of its names but those that they sent.

use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use axum::http::StatusCode;
use oriel_domain::roles::RoleName;
use oriel_schema::endpoint::Answer;
use oriel_schema::validation::without_suggestion;

use super::HttpState;
use super::answer::{Refusal, refuse_with};
use super::caller::Who;
use crate::settings::{IntrospectionMode, Settings};

/// Who may see the schema.
pub struct Introspection {
    mode: IntrospectionMode,
    exempt: Vec<RoleName>,
}

impl Introspection {
    /// As the settings want it.
    pub fn new(settings: &Settings) -> Self {
        Self { mode: settings.introspection, exempt: settings.introspection_exempt_roles.clone() }
    }
}

impl HttpState {
    /// Lets whoever may see the schema pass.
    ///
    /// # Errors
    /// They may not; or who they are cannot be read.
    pub async fn may_see_the_schema(&self, who: &Who) -> Result<(), Refusal> {
        let Introspection { mode, exempt } = &self.introspection;
        match (mode, who.credential()) {
            (IntrospectionMode::Everyone, _) | (IntrospectionMode::SignedIn, Some(_)) => Ok(()),
            (IntrospectionMode::SignedIn, None) => {
                Err(Refusal::unauthenticated("Sign in to see the schema: introspection is for who is signed in."))
            }
            (IntrospectionMode::Off, None) => Err(closed()),
            (IntrospectionMode::Off, Some(credential)) => {
                let row = self.endpoint.viewer(credential).await;
                let row = row.map_err(|error| refuse_with(StatusCode::SERVICE_UNAVAILABLE, error))?;
                let is_exempt = row.is_some_and(|row| row.has_one_of(exempt));
                if is_exempt { Ok(()) } else { Err(closed()) }
            }
        }
    }
}

fn closed() -> Refusal {
    let message = "The schema cannot be seen here: introspection is off. The operator of this installation can open it \
                   (ORIEL_INTROSPECTION, ORIEL_INTROSPECTION_EXEMPT_ROLES).";
    Refusal::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
}

/// Whether the document asks for the schema, anywhere in it.
pub fn asks_for_the_schema(document: &ExecutableDocument) -> bool {
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    let fragments = document.fragments.values().map(|fragment| &fragment.node.selection_set.node);
    operations.chain(fragments).any(asks)
}

/// Documents nest no deeper than `max_depth`, which was checked.
fn asks(selections: &SelectionSet) -> bool {
    selections.items.iter().any(|selection| match &selection.node {
        Selection::Field(field) => {
            matches!(field.node.name.node.as_str(), "__schema" | "__type") || asks(&field.node.selection_set.node)
        }
        Selection::InlineFragment(fragment) => asks(&fragment.node.selection_set.node),
        Selection::FragmentSpread(_) => false, // the fragment itself is looked at
    })
}

/// Takes out of the errors what they suggest.
pub fn keep_to_itself(answer: &mut Answer) {
    for error in &mut answer.errors {
        error.message = without_suggestion(std::mem::take(&mut error.message));
    }
}
