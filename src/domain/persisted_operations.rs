//! Persisted operations: the documents that an organisation's clients send, published before they are used.
//!
//! Invariants: under one hash of an organisation stands one body, for as long as it is published; a hash of 64
//! hexadecimal digits is the SHA-256 of its body. What was retired can be published again. An operation belongs to
//! the organisation and to nobody in it.
//!
//! Nothing here knows GraphQL: that a body is one operation of the schema and within the limits is found out before.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Given, Grant, OrganizationId, Outcome, Rejection, bounded_text, ids,
};
use serde::{Deserialize, Serialize};
use uuid::Builder;

ids! {
    /// A persisted operation.
    PersistedOperationId = "pop",
}

/// The id of what stands under this hash in this organisation: the same for ever, so that there is one.
pub fn persisted_operation_id(organization: OrganizationId, hash: &OperationHash) -> PersistedOperationId {
    let whole = digest(&SHA256, format!("persisted_operation:{organization}:{hash}").as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&whole.as_ref()[..16]);
    PersistedOperationId::from_uuid(Builder::from_custom_bytes(beginning).into_uuid())
}

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a persisted operation.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "persisted_operation")]
pub enum PersistedOperationEvent {
    /// May be used from now on.
    #[event("persisted_operation_published")]
    Published {
        /// Where.
        organization: OrganizationId,
        /// What clients call it.
        hash: OperationHash,
        /// The document.
        body: OperationBody,
        /// What the document calls it.
        name: Option<OperationName>,
        /// What it does.
        kind: OperationKind,
    },
    /// May not be used any more.
    #[event("persisted_operation_retired")]
    Retired,
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What a document calls its operation.
    OperationName: 1..=200,
}

/// Which documents are executed, the mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationsMode {
    /// All.
    Open,
    /// All; those that are not published are counted, and answered with a warning.
    Warn,
    /// Only those that are published.
    Registered,
}

/// What kind of operation it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// It reads.
    Query,
    /// It changes.
    Mutation,
    /// It goes on.
    Subscription,
}

/// What clients call a document: a document identifier after the appendix "Persisted Documents" of GraphQL over HTTP.
/// `sha256:` is left out before 64 hexadecimal digits, which are written small.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationHash(String);

impl OperationHash {
    /// The most characters of one.
    pub const MAX: usize = 200;

    /// The identifier, trimmed.
    ///
    /// # Errors
    /// `REQUIRED` when empty, `TOO_LONG` beyond 200 characters, `INVALID` when it is none.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, Self::MAX, false)?;
        let digits = text.strip_prefix("sha256:").unwrap_or(&text);
        if is_sha256(digits) {
            return Ok(Self(digits.to_ascii_lowercase()));
        }
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
        };
        let fits = match text.split_once(':') {
            None => word(&text),
            Some((prefix, payload)) => prefix.len() > 2 && prefix.starts_with("x-") && word(prefix) && word(payload),
        };
        if !fits {
            let message = "This is no document identifier: send the SHA-256 of the body as 64 hexadecimal digits, or \
                           letters, digits, `-`, `.`, `_` and `~`.";
            return Err(Rejection::new(ErrorCode::Invalid, message));
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it says the SHA-256 of the body.
    pub fn is_sha256(&self) -> bool {
        is_sha256(&self.0)
    }
}

impl std::fmt::Display for OperationHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The text of a document, byte for byte as clients hash it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationBody(String);

impl OperationBody {
    /// The most bytes of one: its event has to fit into a command.
    pub const MAX: usize = 256 << 10;

    /// The text, unchanged.
    ///
    /// # Errors
    /// `REQUIRED` when empty, `TOO_LONG` beyond 256 KiB, `INVALID` with control characters.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        if text.trim().is_empty() {
            return Err(Rejection::new(ErrorCode::Required, "This may not be empty."));
        }
        if text.len() > Self::MAX {
            let message = format!("At most {} bytes; these are {}.", Self::MAX, text.len());
            return Err(Rejection::new(ErrorCode::TooLong, message));
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(Rejection::new(ErrorCode::Invalid, "Control characters are not allowed here."));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its SHA-256 in hexadecimal digits.
    pub fn sha256(&self) -> String {
        HEXLOWER.encode(digest(&SHA256, self.0.as_bytes()).as_ref())
    }
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a persisted operation's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PersistedOperation {
    organization: Option<OrganizationId>,
    /// The SHA-256 of what is published.
    published: Option<String>,
}

impl Aggregate for PersistedOperation {
    type Kind = kinds::PersistedOperationId;
    type Event = PersistedOperationEvent;
    const NOUN: &'static str = "persisted operation";

    fn evolve(&mut self, event: &PersistedOperationEvent) {
        match event {
            PersistedOperationEvent::Published { organization, hash: _, body, name: _, kind: _ } => {
                self.organization = Some(*organization);
                self.published = Some(body.sha256());
            }
            PersistedOperationEvent::Retired => self.published = None,
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }
}

impl PersistedOperation {
    /// Whether clients may send it.
    pub fn is_published(&self) -> bool {
        self.published.is_some()
    }
}

/// Nobody's own: a grant that reaches only that reaches nothing here.
fn must_reach_all(given: &Given<'_>) -> Result<(), Rejection> {
    match given.grant {
        Grant::All => Ok(()),
        Grant::Own => Err(Rejection::new(
            ErrorCode::Forbidden,
            "Persisted operations belong to the organization: this needs the permission without `:own`.",
        )),
    }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Publishes an operation in the organisation in which the actor acts. Published already: nothing happens.
pub struct PublishOperation {
    /// What clients call it.
    pub hash: OperationHash,
    /// The document.
    pub body: OperationBody,
    /// What the document calls it.
    pub name: Option<OperationName>,
    /// What it does.
    pub kind: OperationKind,
}

impl Command for PublishOperation {
    type Aggregate = PersistedOperation;
    const CREATES: bool = true;

    fn decide(&self, operation: &PersistedOperation, given: &Given<'_>) -> Decision<PersistedOperationEvent> {
        must_reach_all(given)?;
        let sha256 = self.body.sha256();
        if self.hash.is_sha256() && self.hash.as_str() != sha256 {
            let message = format!(
                "This is not the SHA-256 of the body, which is {sha256}. Hash the body byte for byte as it is sent."
            );
            return Err(Rejection::new(ErrorCode::Invalid, message).at("hash"));
        }
        match &operation.published {
            Some(published) if *published == sha256 => return Ok(Outcome::nothing()),
            Some(_) => {
                let message = "Another body is published under this hash. Retire that one first, or publish this one \
                               under another hash.";
                return Err(Rejection::conflict(message).at("hash"));
            }
            None => {}
        }
        Ok(Outcome::events([PersistedOperationEvent::Published {
            organization: given.organization,
            hash: self.hash.clone(),
            body: self.body.clone(),
            name: self.name.clone(),
            kind: self.kind,
        }]))
    }
}

/// Takes an operation out of use.
pub struct RetireOperation;

impl Command for RetireOperation {
    type Aggregate = PersistedOperation;

    fn decide(&self, operation: &PersistedOperation, given: &Given<'_>) -> Decision<PersistedOperationEvent> {
        must_reach_all(given)?;
        if operation.published.is_none() {
            return Err(Rejection::not_found(PersistedOperation::NOUN));
        }
        Ok(Outcome::events([PersistedOperationEvent::Retired]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, uuid};

    const BODY: &str = "query Names { projects { nodes { name } } }\n";
    const SHA256: &str = "a0909b4b8605a85a8c0c9871f302a71e24a707ceea424d36487c7caf5cb04327";

    fn publish(hash: &str, body: &str) -> PublishOperation {
        PublishOperation {
            hash: OperationHash::parse(hash).unwrap(),
            body: OperationBody::parse(body).unwrap(),
            name: None,
            kind: OperationKind::Query,
        }
    }

    #[test]
    fn a_sha256_is_that_of_the_body_to_the_last_byte() {
        let (mut desk, mut operation) = (Desk::new(), PersistedOperation::default());
        assert_eq!(OperationBody::parse(BODY).unwrap().sha256(), SHA256);
        let trimmed = publish(SHA256, BODY.trim());
        assert_eq!(desk.refused(uuid(7), &operation, &trimmed), (ErrorCode::Invalid, "hash"));
        assert_eq!(desk.done(uuid(7), &mut operation, &publish(&SHA256.to_uppercase(), BODY)).len(), 1);
        assert_eq!(desk.done(uuid(7), &mut operation, &publish(&format!("sha256:{SHA256}"), BODY)), []);
    }

    #[test]
    fn another_body_waits_until_the_first_is_retired() {
        let (mut desk, mut operation) = (Desk::new(), PersistedOperation::default());
        let (first, second) = (publish("d41d8cd98f00b204", "{ a }"), publish("d41d8cd98f00b204", "{ b }"));
        assert_eq!(desk.refused(uuid(7), &operation, &RetireOperation), (ErrorCode::NotFound, ""));
        desk.done(uuid(7), &mut operation, &first);
        assert_eq!(desk.refused(uuid(7), &operation, &second), (ErrorCode::Conflict, "hash"));
        assert_eq!(desk.done(uuid(7), &mut operation, &RetireOperation), [PersistedOperationEvent::Retired]);
        assert_eq!(desk.refused(uuid(7), &operation, &RetireOperation), (ErrorCode::NotFound, ""));
        assert_eq!(desk.done(uuid(7), &mut operation, &second).len(), 1);
    }

    #[test]
    fn it_is_nobodys_own() {
        let (mut desk, mut operation) = (Desk::new(), PersistedOperation::default());
        desk.done(uuid(7), &mut operation, &publish("a", "{ a }"));
        desk.grant = Grant::Own;
        assert_eq!(desk.refused(uuid(7), &operation, &RetireOperation), (ErrorCode::Forbidden, ""));
        let fresh = PersistedOperation::default();
        assert_eq!(desk.refused(uuid(8), &fresh, &publish("b", "{ b }")), (ErrorCode::Forbidden, ""));
    }

    #[test]
    fn hashes() {
        let parsed = |text: &str| OperationHash::parse(text).map(|hash| hash.0);
        assert_eq!(parsed(&format!(" sha256:{} ", SHA256.to_uppercase())), Ok(SHA256.to_owned()));
        for good in ["a", "d41d8cd98f00b204e9800998ecf8427e", "Names-1.2_~", "x-build:2031.07"] {
            assert_eq!(parsed(good), Ok(good.to_owned()));
        }
        let long = "a".repeat(201);
        for bad in ["", " ", "a b", "sha256:abc", "md5:00", "x-:a", "x-a:", "x-a:b:c", "ä", "a/b", &long] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bodies_stay_as_they_are() {
        assert_eq!(OperationBody::parse(" { a }\r\n").unwrap().as_str(), " { a }\r\n");
        for bad in ["", " \n", "{ a }\0", &" a".repeat(OperationBody::MAX)] {
            assert!(OperationBody::parse(bad).is_err());
        }
    }

    #[test]
    fn an_id_is_the_same_for_ever_and_another_in_another_organization() {
        let hash = OperationHash::parse("a").unwrap();
        let id = |organization: u128| persisted_operation_id(OrganizationId::from_uuid(uuid(organization)), &hash);
        assert_eq!(id(1).to_string(), "pop_1qea3qy3djhq28qdmg9mbmbc67");
        assert_ne!(id(1), id(2));
        assert_ne!(id(1), persisted_operation_id(OrganizationId::from_uuid(uuid(1)), &OperationHash("b".into())));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_head_of_this_file_holds(
            steps in prop::collection::vec((0u8..4, 0u8..3, any::<bool>()), 0..40),
        ) {
            let (mut desk, mut operation) = (Desk::new(), PersistedOperation::default());
            let mut history = Vec::new();
            for (what, n, own) in steps {
                desk.grant = if own { Grant::Own } else { Grant::All };
                let before = operation.clone();
                let body = format!("{{ field{n} }}");
                let written = match what {
                    0 => desk.execute(uuid(7), &mut operation, &RetireOperation),
                    1 => desk.execute(uuid(7), &mut operation, &publish(SHA256, &body)),
                    _ => desk.execute(uuid(7), &mut operation, &publish("custom", &body)),
                };
                match written {
                    Ok(events) => {
                        prop_assert!(!own, "somebody with a grant for their own changed it");
                        prop_assert!(what != 1, "a hash that is not the body's was taken");
                        let sha256 = OperationBody::parse(&body).unwrap().sha256();
                        prop_assert_eq!(operation.published.as_ref(), (what > 1).then_some(&sha256));
                        prop_assert!(before.published.is_none() || what == 0 || events.is_empty());
                        history.extend(events);
                    }
                    Err(_) => prop_assert_eq!(&before, &operation),
                }
            }
            let mut replayed = PersistedOperation::default();
            history.iter().for_each(|event| replayed.evolve(event));
            prop_assert_eq!(replayed, operation);
        }
    }
}
