//! The roles that every organisation has, and what each allows.
//!
//! Invariants: only an owner has everything, and what is the owner's alone (`organization:manage`,
//! `organization:delete`) is named by no other role. `system:*` belongs to the installation's operator: an owner of its
//! first organisation.

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
    /// Looks after what others put in, whoever it was.
    Moderator,
    /// Looks after what is monitored.
    Operator,
    /// Makes reports and shares them.
    ReportManager,
    /// Reads reports.
    ReportViewer,
    /// Works in the projects that they are a member of.
    Member,
    /// Reads in the projects that they are a member of.
    Viewer,
}

impl RoleName {
    /// Every role.
    pub const ALL: &'static [Self] = &[
        Self::Owner,
        Self::Admin,
        Self::Moderator,
        Self::Operator,
        Self::ReportManager,
        Self::ReportViewer,
        Self::Member,
        Self::Viewer,
    ];

    /// The name in events and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Moderator => "moderator",
            Self::Operator => "operator",
            Self::ReportManager => "report_manager",
            Self::ReportViewer => "report_viewer",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }

    /// What it is for, for people.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Owner => "Everything in the organization.",
            Self::Admin => "Everything in the organization but what is the owner's alone.",
            Self::Moderator => "Looks after all projects and documents, whoever made them.",
            Self::Operator => "Looks after what is monitored.",
            Self::ReportManager => "Makes reports, shares and exports them.",
            Self::ReportViewer => "Reads reports.",
            Self::Member => "Works in the projects that they are a member of, and makes projects.",
            Self::Viewer => "Reads in the projects that they are a member of.",
        }
    }

    /// The role of this name.
    ///
    /// # Errors
    /// `INVALID` for a name that no role has.
    pub fn parse(name: &str) -> Result<Self, Rejection> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name).ok_or_else(|| {
            let names = Self::ALL.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
            Rejection::new(ErrorCode::Invalid, format!("There is no such role. Built in are {names}."))
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
                "roles:*",
                "keys:*",
                "providers:*",
                "sessions:*",
                "security:*",
                "projects:*",
                "documents:*",
                "search:*",
                "events:*",
                "operations:*",
                "policies:*",
                "reports:*",
                "monitoring:*",
            ],
            Self::Moderator => &[
                "organization:view",
                "members:view",
                "projects:view",
                "documents:view",
                "documents:edit",
                "documents:delete",
                "search:view",
            ],
            Self::Operator => &[
                "organization:view",
                "members:view",
                "projects:view:own",
                "documents:view:own",
                "search:view",
                "monitoring:*",
            ],
            Self::ReportManager => &[
                "organization:view",
                "members:view",
                "projects:view:own",
                "documents:view:own",
                "search:view",
                "reports:*",
            ],
            Self::ReportViewer => &["organization:view", "members:view", "search:view", "reports:view"],
            Self::Member => &[
                "organization:view",
                "members:view",
                "keys:view:own",
                "keys:create:own",
                "keys:edit:own",
                "keys:delete:own",
                "projects:view:own",
                "projects:create",
                "projects:edit:own",
                "projects:delete:own",
                "documents:view:own",
                "documents:create",
                "documents:edit",
                "documents:delete:own",
                "search:view",
                "reports:view:own",
            ],
            Self::Viewer => &[
                "organization:view",
                "members:view",
                "projects:view:own",
                "documents:view:own",
                "search:view",
                "reports:view:own",
            ],
        }
    }
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an owner of the installation's first organisation has besides: they operate the installation.
pub const OPERATES_THE_INSTALLATION: &str = "system:*";

/// What somebody with these roles is allowed.
pub fn permissions(roles: &[RoleName]) -> Permissions {
    Permissions::new(roles.iter().flat_map(|role| role.patterns()).copied())
}

/// What somebody with these roles is allowed in the installation's first organisation.
pub fn first_organization_permissions(roles: &[RoleName]) -> Permissions {
    let operator = roles.contains(&RoleName::Owner).then_some(OPERATES_THE_INSTALLATION);
    Permissions::new(roles.iter().flat_map(|role| role.patterns()).copied().chain(operator))
}

#[cfg(test)]
mod tests {
    use oriel_kernel::{Grant, Pattern, Permission};

    use super::RoleName::{Admin, Member, Moderator, Operator, Owner, ReportManager, ReportViewer, Viewer};
    use super::*;

    fn grant(roles: &[RoleName], module: &'static str, action: &'static str) -> Option<Grant> {
        permissions(roles).grant(Permission::new(module, action))
    }

    #[test]
    fn the_more_powerful_role_covers_all_that_the_lesser_allows() {
        let above = [
            (Owner, Admin),
            (Admin, Member),
            (Admin, Moderator),
            (Admin, Operator),
            (Admin, ReportManager),
            (ReportManager, ReportViewer),
            (Member, Viewer),
        ];
        for (more, less) in above {
            for pattern in less.patterns() {
                let pattern = Pattern::parse(pattern).expect("what a role allows is a pattern");
                assert!(permissions(&[more]).covers(&pattern), "{more} has less than {less}: {pattern}");
            }
        }
    }

    #[test]
    fn what_each_role_may() {
        assert_eq!(grant(&[Owner], "organization", "manage"), Some(Grant::All));
        assert_eq!(grant(&[Admin], "organization", "manage"), None);
        assert_eq!(grant(&[Admin], "organization", "edit"), Some(Grant::All));
        assert_eq!(grant(&[Admin], "events", "view"), Some(Grant::All));
        assert_eq!(grant(&[Admin], "security", "edit"), Some(Grant::All));
        assert_eq!(grant(&[Moderator], "security", "view"), None);
        assert_eq!(grant(&[Moderator], "documents", "delete"), Some(Grant::All));
        assert_eq!(grant(&[Moderator], "documents", "create"), None);
        assert_eq!(grant(&[Operator], "monitoring", "edit"), Some(Grant::All));
        assert_eq!(grant(&[Operator], "documents", "edit"), None);
        assert_eq!(grant(&[ReportManager], "reports", "export"), Some(Grant::All));
        assert_eq!(grant(&[ReportViewer], "reports", "edit"), None);
        assert_eq!(grant(&[Member], "events", "view"), None);
        assert_eq!(grant(&[Member], "documents", "delete"), Some(Grant::Own));
        assert_eq!(grant(&[Member], "members", "edit"), None);
        assert_eq!(grant(&[Viewer], "documents", "create"), None);
        assert_eq!(grant(&[Viewer], "documents", "view"), Some(Grant::Own));
        assert_eq!(grant(&[Viewer], "keys", "create"), None);
        assert_eq!(grant(&[Viewer, Admin], "documents", "view"), Some(Grant::All));
        assert_eq!(grant(&[], "organization", "view"), None);
    }

    #[test]
    fn what_is_the_owners_alone_is_in_no_other_role() {
        for role in RoleName::ALL.iter().filter(|role| **role != Owner) {
            for action in ["manage", "delete"] {
                assert_eq!(grant(&[*role], "organization", action), None, "{role}");
            }
            assert_eq!(grant(&[*role], "system", "view"), None, "{role}");
        }
    }

    #[test]
    fn only_an_owner_of_the_first_organization_operates_the_installation() {
        let system = Permission::new("system", "manage");
        assert_eq!(permissions(&[Owner]).grant(system), None);
        assert_eq!(first_organization_permissions(&[Owner]).grant(system), Some(Grant::All));
        assert_eq!(first_organization_permissions(&[Admin]).grant(system), None);
    }

    #[test]
    fn names() {
        for role in RoleName::ALL {
            assert_eq!(RoleName::parse(role.as_str()), Ok(*role));
        }
        assert_eq!(RoleName::parse("root").map_err(|r| r.code), Err(ErrorCode::Invalid));
    }
}
