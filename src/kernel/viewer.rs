//! Who is asking, resolved once per request to plain values.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::{Actor, Fact, Grant, MemberId, OrganizationId, Permission, Permissions, SessionId, UserId};

/// Who is asking, and what they may see. Without one nothing tenant-scoped can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Viewer {
    /// The person.
    pub user: UserId,
    /// The person in this organisation.
    pub member: MemberId,
    /// The organisation that the token names.
    pub organization: OrganizationId,
    /// The signed-in device.
    pub session: SessionId,
    /// The version of the member that all this was read at: another one means other roles or another status.
    pub member_version: i32,
    /// What their roles allow.
    pub permissions: Arc<Permissions>,
    /// Which parts of the organisation they see.
    pub visible: Visible,
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
        Actor::Member(self.member)
    }

    /// How far a permission is granted; `None` when it is not.
    pub fn grant(&self, wanted: Permission) -> Option<Grant> {
        self.permissions.grant(wanted)
    }
}
