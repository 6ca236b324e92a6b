//! The built-in roles, and what each allows.
//!
//! Invariants: every organisation has an owner (see `members.rs`); only an owner has everything, and what is the
//! owner's alone (`organization:manage`, `organization:delete`) is named by no other role. `system:*` belongs to
//! the installation's operator: an owner of its first organisation.
//!
//! `:own` reaches, for viewing, the projects that one is a member of and what is in them; for changing and
//! deleting, what one made. Nothing here knows who has a role.

use oriel_kernel::{ErrorCode, Permissions, Rejection};
use serde::{Deserialize, Serialize};

/// A role that every organisation has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// Everything in the organisation.
    Owner,
    /// Everything but what is the owner's alone.
    Admin,
    /// Works in the projects that they are a member of.
    Member,
    /// Reads in the projects that they are a member of.
    Viewer,
}

impl RoleName {
    /// Every role, the most powerful first.
    pub const ALL: &'static [Self] = &[Self::Owner, Self::Admin, Self::Member, Self::Viewer];

    /// The name in events and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }

    /// The role of this name.
    ///
    /// # Errors
    /// `INVALID` for a name that no role has.
    pub fn parse(name: &str) -> Result<Self, Rejection> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name).ok_or_else(|| {
            Rejection::new(ErrorCode::Invalid, "There is no such role. The roles are owner, admin, member and viewer.")
        })
    }

    /// What the role allows.
    pub const fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Owner => &["*"],
            Self::Admin => &[
                "organization:view",
                "organization:edit",
                "members:*",
                "sessions:*",
                "projects:*",
                "documents:*",
                "search:*",
                "events:*",
            ],
            Self::Member => &[
                "organization:view",
                "members:view",
                "projects:view:own",
                "projects:create",
                "projects:edit:own",
                "projects:delete:own",
                "documents:view:own",
                "documents:create",
                "documents:edit",
                "documents:delete:own",
                "search:view",
            ],
            Self::Viewer => {
                &["organization:view", "members:view", "projects:view:own", "documents:view:own", "search:view"]
            }
        }
    }
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody with these roles is allowed.
pub fn permissions(roles: &[RoleName]) -> Permissions {
    Permissions::new(roles.iter().flat_map(|role| role.patterns()).copied())
}

/// What somebody with these roles is allowed in the installation's first organisation: an owner there operates the
/// installation.
pub fn first_organization_permissions(roles: &[RoleName]) -> Permissions {
    let operator: &[&str] = if roles.contains(&RoleName::Owner) { &["system:*"] } else { &[] };
    Permissions::new(roles.iter().flat_map(|role| role.patterns()).chain(operator).copied())
}

/// The roles, sorted, each once.
///
/// # Errors
/// `REQUIRED` when there is none.
pub(crate) fn normal(roles: &[RoleName]) -> Result<Vec<RoleName>, Rejection> {
    if roles.is_empty() {
        return Err(Rejection::new(ErrorCode::Required, "Name at least one role.").at("roles"));
    }
    let mut roles = roles.to_vec();
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}
