//! What the tests of the product share: the program as a process, a client, and the servers that it may need.

mod bucket;
/// A clamd for one test: the scanner's own tests use the same.
#[path = "../../src/backends/scanner/clamd.rs"]
mod clamd;
mod cluster;
/// A PostgreSQL that is started once, and a database per test: the engine's own suite uses the same.
#[path = "../../src/engine/testing.rs"]
#[allow(dead_code)]
mod engine_testing;
mod kms;
mod pair;
pub mod provider;
/// A Redis server for one test: the bus's own suite uses the same.
#[path = "../../src/backends/bus/redis_server.rs"]
mod redis_server;
mod server;
/// A mail server for one test: the backend's own tests use the same.
#[path = "../../src/backends/mail/sink.rs"]
mod sink;

pub use bucket::Bucket;
pub use clamd::{Clamd, eicar};
pub use cluster::Cluster;
pub use kms::Kms;
pub use pair::Pair;
pub use redis_server::RedisServer;
pub use server::{Environment, Server, Session, program};
pub use sink::Sink;

/// The databases that the product's tests run on: SQLite always, PostgreSQL where it is installed.
pub fn databases() -> Vec<Option<String>> {
    let mut databases = vec![None];
    databases.extend(engine_testing::postgres().map(|server| Some(server.fresh_database())));
    databases
}
