//! The words everything is said in: ids, positions, events, aggregates, commands, personal data, errors.
//!
//! Everything here is pure: no I/O, no clock, no randomness. The only foreign words are the traits by which an id
//! or a position can stand in a table (`sea_orm`) and in the API (`async_graphql`), because Rust wants such an
//! implementation beside the type. Nothing here knows a database, a transport or a product module.

extern crate self as oriel_kernel;

pub mod actor;
pub mod aggregate;
pub mod event;
pub mod fact;
pub mod id;
pub mod input;
pub mod permission;
pub mod personal;
pub mod position;
pub mod rejection;
pub mod time;
pub mod trace;
pub mod viewer;

pub use actor::{Actor, ActorKind};
pub use aggregate::{Aggregate, Command, Decision, Given, Outcome};
pub use event::{AnyEvent, Effect, Event, EventDecodeError, EventDecoder, Recorded};
pub use fact::{Fact, Facts};
pub use id::{Id, IdKind, RawId};
pub use oriel_macros::{Event, operations};
pub use permission::{Grant, Pattern, Permission, Permissions};
pub use personal::{Blinder, Personal, PersonalField, PersonalVisitor};
pub use position::Position;
pub use rejection::{ErrorCode, Rejection, UserError};
pub use time::Timestamp;
pub use viewer::{Credential, Observed, SecretHash, Viewer, Visible};

ids! {
    /// An organisation: a tenant.
    OrganizationId = "org",
    /// A person of the installation.
    UserId = "usr",
    /// A person in one organisation.
    MemberId = "mbr",
    /// A signed-in device: a family of refresh tokens.
    SessionId = "ses",
    /// A command: the idempotency key of a client, or a new one.
    CommandId = "cmd",
    /// One event in the log.
    EventId = "evt",
}

/// What the derives write into other crates.
#[doc(hidden)]
pub mod private {
    pub use serde;
    pub use serde_json;
}
