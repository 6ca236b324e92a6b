//! What the tests of the product share: the program as a process, a client, and the servers that it may need.

mod postgres;
mod server;

pub use postgres::postgres_url;
pub use server::{Server, Session};

/// The databases that the product's tests run on: SQLite always, PostgreSQL where it is installed.
pub fn databases() -> Vec<Option<String>> {
    let mut databases = vec![None];
    databases.extend(postgres_url().map(Some));
    databases
}
