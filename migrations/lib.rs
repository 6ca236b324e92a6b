//! The tables: one migration per module, one file for both dialects, in the order of their numbers.
//!
//! Invariants: no database defaults (times and counters are set by Rust, so that both databases hold the same); no
//! foreign keys, because read models are projections and may be rebuilt one by one; a migration that was released is
//! never changed. Every column that a read model declares for filters or orders has an index behind its tenant (a
//! guard beside the read models checks it).
//! Nothing here knows what the rows mean.
//!
//! **Expand, then contract.** While a release is rolled out, nodes of the one before go on working on the tables that the
//! new one has migrated. So a release only *expands*: it adds tables, columns that may be null, and indexes; it fills and
//! reads what it has added, and goes on filling what the release before reads. What nobody reads any more is taken away
//! by a later release, when no node of the earlier one is left: a *contraction*, declared in [`CONTRACTIONS`] with the
//! oldest migration whose program can live with it. A rename, another type, a NOT NULL, a unique index: an expansion now,
//! a contraction later.
//!
//! A program that meets migrations that it does not know works on, if none of them contracts what it needs, and refuses
//! to start otherwise ([`migrate`]).
//!
//! A migration takes its locks at once or not at all: who waits for a lock on a table makes everybody after it wait too.
//! An index on a large table, and the filling of a column, do not belong into a migration but into work that goes on
//! beside the nodes (a rebuild of the read model does both).

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::prelude::*;

mod m0001_engine;
mod m0002_users;
mod m0003_organizations;
mod m0004_members;
mod m0005_sessions;
mod m0006_projects;
mod m0007_documents;
mod m0008_persisted_operations;
mod m0009_api_keys;
mod m0010_roles;
mod m0011_identity_providers;
mod m0012_passkeys;
mod m0013_data_exports;
mod m0014_policies;
mod m0015_access_log;
mod m0016_master_key_envelopes;
mod m0017_retention;
mod m0018_security_events;
mod m0019_installation;
mod m0020_preferences;
mod migrate;
mod read_model;
mod wall;

pub use migrate::{MigrateError, Migrated, Patience, migrate};
pub use wall::{ReportError, report};

/// Migrations that take something away, each with the oldest migration whose program works with what is left. All others
/// expand.
pub const CONTRACTIONS: &[(&str, &str)] = &[];

/// Every migration, in order.
#[derive(Clone, Copy, Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_engine::Migration),
            Box::new(m0002_users::Migration),
            Box::new(m0003_organizations::Migration),
            Box::new(m0004_members::Migration),
            Box::new(m0005_sessions::Migration),
            Box::new(m0006_projects::Migration),
            Box::new(m0007_documents::Migration),
            Box::new(m0008_persisted_operations::Migration),
            Box::new(m0009_api_keys::Migration),
            Box::new(m0010_roles::Migration),
            Box::new(m0011_identity_providers::Migration),
            Box::new(m0012_passkeys::Migration),
            Box::new(m0013_data_exports::Migration),
            Box::new(m0014_policies::Migration),
            Box::new(m0015_access_log::Migration),
            Box::new(m0016_master_key_envelopes::Migration),
            Box::new(m0017_retention::Migration),
            Box::new(m0018_security_events::Migration),
            Box::new(m0019_installation::Migration),
            Box::new(m0020_preferences::Migration),
        ]
    }
}

#[cfg(test)]
mod tests;
