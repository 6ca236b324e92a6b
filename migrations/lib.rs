//! The tables: one migration per module, one file for both dialects, in the order of their numbers.
//!
//! Invariants: no database defaults (times and counters are set by Rust, so that both databases hold the same); no
//! foreign keys, because read models are projections and may be rebuilt one by one; a migration that was released is
//! never changed. Every column that a read model declares for filters or orders has an index behind its tenant (a
//! guard beside the read models checks it).
//! Nothing here knows what the rows mean.

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
mod read_model;

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
        ]
    }
}

#[cfg(test)]
mod tests;
