//! Who is asking, resolved once per request to plain values.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::{Actor, Grant, MemberId, OrganizationId, Permission, Permissions, SessionId, UserId};

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
