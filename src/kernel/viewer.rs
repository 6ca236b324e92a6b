//! Who is asking, resolved once per request to plain values.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::{Actor, Fact, Grant, MemberId, OrganizationId, Permission, Permissions, SessionId, UserId};

/// By what somebody is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Credential {
    /// A session in which a person is signed in.
    Session(SessionId),
    /// A key that a program uses on behalf of a member.
    ApiKey {
        /// Which one.
        key: Uuid,
        /// Of the secret that was shown: after a rotation two are good for a while, and each ends at its own time.
        secret: SecretHash,
    },
}

impl Credential {
    /// The session, if it is one.
    pub fn session(self) -> Option<SessionId> {
        match self {
            Self::Session(session) => Some(session),
            Self::ApiKey { .. } => None,
        }
    }
}

/// The SHA-256 of a secret that was drawn at random. Not printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretHash(pub [u8; 32]);

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Who is asking, and what they may see. Without one nothing tenant-scoped can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Viewer {
    /// The person, or whose key it is.
    pub user: UserId,
    /// The person in this organisation.
    pub member: MemberId,
    /// The organisation that the token names.
    pub organization: OrganizationId,
    /// By what they are known: the signed-in device, or a key.
    pub credential: Credential,
    /// What all this was read from, and the versions of it: the member, their own roles, the key. Another one means
    /// other permissions, or none.
    pub versions: Arc<[(Uuid, i32)]>,
    /// What they may: what their roles and direct grants allow; for a key what of that its scopes leave.
    pub permissions: Arc<Permissions>,
    /// Which parts of the organisation they see.
    pub visible: Visible,
    /// Whether they are signed in because an identity provider of the organisation says who they are: it speaks for them
    /// in this organisation alone.
    pub confined: bool,
    /// A policy to which they have to agree before they do or see anything else. Of nobody who asks with a key.
    pub unagreed: Option<Uuid>,
}

/// Which parts (projects) of an organisation somebody sees.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Visible {
    /// All of them.
    All,
    /// These.
    Only(Arc<BTreeSet<Uuid>>),
}

impl Visible {
    /// Whether this part is seen.
    pub fn sees(&self, scope: Uuid) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.contains(&scope),
        }
    }

    /// The fact that lets a member see a part of the organisation. The aggregate that is this part claims and releases
    /// it with its members; it is looked at again when a command on something in this part is committed.
    pub fn fact(member: MemberId, scope: Uuid) -> Fact {
        Fact::new("sees", member, scope.to_string())
    }
}

/// What somebody's permission rests on, as it was read. The committer compares it with the log of the moment: nothing
/// is written on a permission that has changed meanwhile.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Observed {
    /// Aggregates, and the versions at which they were read.
    pub versions: Vec<(Uuid, i32)>,
    /// What has to hold still.
    pub facts: Vec<Fact>,
}

impl Viewer {
    /// As the author of a change.
    pub fn actor(&self) -> Actor {
        match self.credential {
            Credential::Session(_) => Actor::Member(self.member),
            Credential::ApiKey { key, .. } => Actor::ApiKey(key),
        }
    }

    /// The person, for what is theirs in every organisation: devices, memberships. Absent for a key, which acts for a
    /// member of one organisation, and not for the person.
    pub fn person(&self) -> UserId {
        match self.credential {
            Credential::Session(_) => self.user,
            Credential::ApiKey { .. } => UserId::ABSENT,
        }
    }

    /// The session in which they are signed in; `None` for a key.
    pub fn session(&self) -> Option<SessionId> {
        self.credential.session()
    }

    /// How far a permission is granted; `None` when it is not.
    pub fn grant(&self, wanted: Permission) -> Option<Grant> {
        self.permissions.grant(wanted)
    }
}
