//! The write side: what may happen, one file per aggregate.
//!
//! Every file reads the same way: invariants, events, parsed types, state, facts, commands, tests. An aggregate
//! decides from its own state; what must hold between aggregates is a fact. Everything is pure: nothing here knows a
//! database, a clock, randomness, a transport or GraphQL.
//!
//! Facts that name a thing of an organisation carry the organisation in their scope, so that a project or member of
//! another organisation never satisfies them.

use oriel_kernel::{Aggregate, ErrorCode, EventDecoder, Rejection};

pub mod api_keys;
pub mod consents;
pub mod data_exports;
pub mod documents;
pub mod identities;
pub mod identity_providers;
pub mod installation;
pub mod members;
pub mod organizations;
pub mod persisted_operations;
pub mod policies;
pub mod projects;
pub mod retention;
pub mod roles;
pub mod security_events;
pub mod sessions;
pub mod tickets;
pub mod users;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod testing;

macro_rules! aggregates {
    ($($aggregate:ty),+ $(,)?) => {
        /// Reads the events of every aggregate: the one list of what exists.
        pub const DECODERS: &[EventDecoder] = &[$(EventDecoder::of::<$aggregate>()),+];
    };
}

aggregates! {
    users::User,
    organizations::Organization,
    members::Member,
    sessions::Session,
    projects::Project,
    documents::Document,
    persisted_operations::PersistedOperation,
    roles::CustomRole,
    api_keys::ApiKey,
    identity_providers::IdentityProvider,
    identities::Identity,
    data_exports::DataExport,
    policies::Policy,
    consents::Consent,
    security_events::SecurityEvent,
    installation::Installation,
    retention::Retention,
}

/// Refuses to make what exists.
fn must_be_new<A: Aggregate>(state: &A) -> Result<(), Rejection> {
    match state.tenant() {
        None => Ok(()),
        Some(_) => Err(Rejection::conflict(format!("This {} exists already.", A::NOUN))),
    }
}

/// `FORBIDDEN`, for somebody who may do this only to what is their own.
fn not_yours(noun: &str) -> Rejection {
    Rejection::new(ErrorCode::Forbidden, format!("You may do this only with a {noun} of your own."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn streams_types_and_prefixes_are_told_apart() {
        let mut seen = BTreeSet::new();
        for decoder in super::DECODERS {
            assert!(seen.insert(decoder.stream.to_owned()), "stream {} twice", decoder.stream);
            assert!(seen.insert(format!("{}_", decoder.id_prefix)), "prefix {} twice", decoder.id_prefix);
            for (name, version) in decoder.types {
                assert!(seen.insert((*name).to_owned()), "type {name} twice");
                assert!(name.starts_with(decoder.stream), "{name} does not say its stream");
                assert!(*version >= 1);
            }
        }
    }
}
