//! Who did it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{MemberId, RawId, UserId};

/// Who caused a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Actor {
    /// A person acting in an organisation.
    Member(MemberId),
    /// A person before or outside any organisation (signing up, signing in).
    User(UserId),
    /// A key that a program uses.
    ApiKey(Uuid),
    /// Oriel itself: a reactor, a timer, an operator on the command line.
    System,
    /// Nobody known yet: the request that signs a person up.
    Anonymous,
}

/// The kind of an [`Actor`], as the log's table holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActorKind {
    /// See [`Actor::Member`].
    Member = 1,
    /// See [`Actor::User`].
    User = 2,
    /// See [`Actor::ApiKey`].
    ApiKey = 3,
    /// See [`Actor::System`].
    System = 4,
    /// See [`Actor::Anonymous`].
    Anonymous = 5,
}

impl Actor {
    /// As two columns: the kind's number and the id (nil where the kind has none).
    pub fn to_columns(self) -> (i16, Uuid) {
        match self {
            Self::Member(id) => (ActorKind::Member as i16, id.uuid()),
            Self::User(id) => (ActorKind::User as i16, id.uuid()),
            Self::ApiKey(id) => (ActorKind::ApiKey as i16, id),
            Self::System => (ActorKind::System as i16, Uuid::nil()),
            Self::Anonymous => (ActorKind::Anonymous as i16, Uuid::nil()),
        }
    }

    /// From the two columns of [`Actor::to_columns`]. `None` for a number that no version of Oriel wrote.
    pub fn from_columns(kind: i16, id: Uuid) -> Option<Self> {
        Some(match kind {
            1 => Self::Member(MemberId::from_uuid(id)),
            2 => Self::User(UserId::from_uuid(id)),
            3 => Self::ApiKey(id),
            4 => Self::System,
            5 => Self::Anonymous,
            _ => return None,
        })
    }

    /// The id as the API shows it; `None` for the system and for nobody.
    pub fn id(self) -> Option<String> {
        match self {
            Self::Member(id) => Some(id.to_string()),
            Self::User(id) => Some(id.to_string()),
            Self::ApiKey(uuid) => Some(RawId { prefix: "key", uuid }.to_string()),
            Self::System | Self::Anonymous => None,
        }
    }
}
