//! The read side: one file per read model. One struct is the table's row and the GraphQL object; beside it stand its
//! relations and its projection.
//!
//! Invariants: a projection is a pure fold, so that a rebuilt read model equals a grown one; it matches events without
//! `_`. Everything is read through a [`Reader`](oriel_engine::read::Reader), which knows the viewer; what is read
//! before there is one, or for a command, stands in `sign_in.rs`, `viewer.rs`, `persisted_operations.rs`,
//! `members/leaving.rs`, for sweeping in `retention.rs`, and for signing in by an identity provider beside its read models, and nowhere else. What a partner sees is described for somebody who has only introspection.
//! Nothing here knows a transport, a blob store or a key: what needs one is asked of a trait in the request's context
//! ([`documents::Contents`], [`events::Payloads`]).

use async_graphql::{Context, Error, ErrorExtensions};
use oriel_engine::projection::Inline;
use oriel_engine::read::{ReadError, Reader};
use oriel_kernel::{Permission, Personal};
use sea_orm::sea_query::{Expr, ExprTrait, IntoColumnRef};

pub mod access_log;
pub mod api_keys;
pub mod authorization;
pub mod consents;
pub mod data_exports;
pub mod documents;
pub mod erasures;
pub mod events;
pub mod identities;
pub mod identity_providers;
pub mod installation;
pub mod members;
pub mod node;
pub mod organizations;
pub mod past;
pub mod persisted_operations;
pub mod policies;
pub mod projects;
mod readers;
pub mod retention;
pub mod roles;
pub mod search;
pub mod security_events;
pub mod sessions;
pub mod sign_in;
pub mod users;
pub mod viewer;

mod derived;
#[cfg(test)]
mod guards;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod reading;

pub use readers::{Readers, current_reader, passing};

/// Every projection: the one list of what the engine keeps within the commit.
pub fn read_models() -> Vec<Box<dyn Inline>> {
    oriel_engine::read_models![
        users::Users,
        users::passkeys::UserPasskeys,
        users::preferences::UserPreferences,
        organizations::Organizations,
        organizations::standings::Standings,
        erasures::Erasures,
        data_exports::DataExports,
        policies::Policies,
        consents::Consents,
        installation::InstallationSettings,
        installation::features::Features,
        installation::changes::InstallationChanges,
        retention::Retentions,
        members::Members,
        sessions::Sessions,
        projects::Projects,
        projects::members::ProjectMembers,
        documents::Documents,
        documents::revisions::DocumentRevisions,
        persisted_operations::PersistedOperations,
        roles::Roles,
        api_keys::ApiKeys,
        identity_providers::IdentityProviders,
        identities::Identities,
        security_events::SecurityEvents,
    ]
}

/// The reader of this request.
fn reader<'a>(cx: &Context<'a>) -> Result<&'a Reader, ReadError> {
    readers::borrowed(cx).ok_or_else(|| defect("an object is resolved without a reader in the context"))
}

/// Something that has to be there is not: a defect. What it is goes to the log, its id to the client.
fn defect(what: &str) -> ReadError {
    let id = uuid::Uuid::new_v4();
    tracing::error!(%id, what, "resolving failed: a defect");
    ReadError::Internal(id)
}

/// `FORBIDDEN`, unless the viewer's roles grant this.
fn must(reader: &Reader, wanted: Permission) -> Result<(), Error> {
    if reader.grant(wanted).is_some() {
        return Ok(());
    }
    let message = format!("This requires the permission `{wanted}`.");
    Err(Error::new(message).extend_with(|_, extensions| extensions.set("code", "FORBIDDEN")))
}

/// That two columns hold the same.
fn same(one: impl IntoColumnRef, other: impl IntoColumnRef) -> Expr {
    Expr::col(one).equals(other)
}

/// What is said about a person, unless they were forgotten.
fn told(value: &Personal<String>) -> Option<String> {
    value.get().map(|text| plain(text))
}

/// A text as both databases can hold it: PostgreSQL refuses U+0000, and a projection that fails refuses writes.
fn plain(text: &str) -> String {
    text.replace('\0', "")
}
