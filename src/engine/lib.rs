//! The engine: the log and what moves along it. Committer, projections, changes, rebuilds, consumers, jobs, live
//! tracking, and the one way to read.
//!
//! No product word stands here: the engine does not know which aggregates or read models exist.

// The derives write `::oriel_engine`, here too.
extern crate self as oriel_engine;

pub mod backup;
mod bulk;
pub mod bus;
pub mod chain;
mod committer;
pub mod consumers;
pub mod db;
pub mod engine;
mod erasure;
pub mod feed;
pub mod jobs;
pub mod keyring;
pub mod live;
pub mod log;
mod primary;
pub mod projection;
pub mod queue;
pub mod read;
pub mod rebuild;
mod replicas;
mod segments;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod testing;
mod wall;
mod workers;

pub use bus::{Authority, CommandContext, CommandError, Committed, Scope, Transaction};
pub use db::Database;
pub use engine::{Engine, Parts, Sources, StartError, SystemSources};
pub use replicas::{Moment, ReplicaState};
