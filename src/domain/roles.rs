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
                "operations:*",
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

#[cfg(test)]
mod tests {
    use oriel_kernel::{Grant, Permission};

    use super::*;

    fn grant(roles: &[RoleName], module: &'static str, action: &'static str) -> Option<Grant> {
        permissions(roles).grant(Permission::new(module, action))
    }

    #[test]
    fn the_more_powerful_role_allows_all_that_the_next_does() {
        let modules = [
            "organization",
            "members",
            "sessions",
            "projects",
            "documents",
            "search",
            "events",
            "operations",
            "system",
        ];
        for pair in RoleName::ALL.windows(2) {
            for module in modules {
                for action in Permission::ACTIONS {
                    let (more, less) = (grant(&pair[..1], module, action), grant(&pair[1..], module, action));
                    assert!(more >= less, "{}: {module}:{action}", pair[1]);
                }
            }
        }
    }

    #[test]
    fn what_each_role_may() {
        use RoleName::{Admin, Member, Owner, Viewer};
        assert_eq!(grant(&[Owner], "organization", "manage"), Some(Grant::All));
        assert_eq!(grant(&[Admin], "organization", "manage"), None);
        assert_eq!(grant(&[Admin], "organization", "edit"), Some(Grant::All));
        assert_eq!(grant(&[Admin], "events", "view"), Some(Grant::All));
        assert_eq!(grant(&[Member], "events", "view"), None);
        assert_eq!(grant(&[Member], "documents", "delete"), Some(Grant::Own));
        assert_eq!(grant(&[Member], "members", "edit"), None);
        assert_eq!(grant(&[Viewer], "documents", "create"), None);
        assert_eq!(grant(&[Viewer], "documents", "view"), Some(Grant::Own));
        assert_eq!(grant(&[Viewer, Admin], "documents", "view"), Some(Grant::All));
        assert_eq!(grant(&[], "organization", "view"), None);
    }

    #[test]
    fn only_an_owner_of_the_first_organization_operates_the_installation() {
        let system = Permission::new("system", "manage");
        assert_eq!(permissions(&[RoleName::Owner]).grant(system), None);
        assert_eq!(first_organization_permissions(&[RoleName::Owner]).grant(system), Some(Grant::All));
        assert_eq!(first_organization_permissions(&[RoleName::Admin]).grant(system), None);
    }

    #[test]
    fn names_and_normal_form() {
        for role in RoleName::ALL {
            assert_eq!(RoleName::parse(role.as_str()), Ok(*role));
        }
        assert_eq!(RoleName::parse("root").map_err(|r| r.code), Err(ErrorCode::Invalid));
        assert_eq!(normal(&[]).map_err(|r| (r.code, r.field)), Err((ErrorCode::Required, "roles")));
        let twice = [RoleName::Viewer, RoleName::Admin, RoleName::Viewer];
        assert_eq!(normal(&twice), Ok(vec![RoleName::Admin, RoleName::Viewer]));
    }
}
