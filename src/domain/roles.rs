//! Roles: those that every organisation has, and those that it makes for itself.
//!
//! Invariants: the name of a role is unique in its organisation, whatever its case, and none of those that are built
//! in. **Nobody gives away more than they have**: what a role comes to allow, and what a role allows that somebody
//! comes to have, is allowed to whoever gives it. What is the owner's alone (`organization:manage`,
//! `organization:delete`) is never given away. A role that was deleted stays so; who had it keeps a name that allows
//! nothing.
//!
//! `:own` reaches, for viewing, the projects that one is a member of and what is in them; for changing and
//! deleting, what one made. Nothing here knows who has a role.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, Grant, OrganizationId, Outcome, Pattern, Permission,
    Permissions, Rejection, bounded_text, ids,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::persisted_operations::OperationsMode;

mod built_in;

pub use built_in::{OPERATES_THE_INSTALLATION, RoleName, first_organization_permissions, permissions};

ids! {
    /// A role that an organisation made.
    RoleId = "rol",
}

// --- a role as a member has it -------------------------------------------------------------------------------------

/// A role as a member has it. In events and rows it is a text: the name of one that is built in, or an id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// One that every organisation has.
    BuiltIn(RoleName),
    /// One that the organisation made.
    Custom(RoleId),
}

impl Role {
    /// The role that the text names; nothing for a text that names none.
    pub fn parse(text: &str) -> Option<Self> {
        let built_in = RoleName::parse(text).ok().map(Self::BuiltIn);
        built_in.or_else(|| text.parse().ok().map(Self::Custom))
    }

    /// The id, if the organisation made it.
    pub fn custom(self) -> Option<RoleId> {
        match self {
            Self::Custom(id) => Some(id),
            Self::BuiltIn(_) => None,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn(role) => role.fmt(f),
            Self::Custom(id) => id.fmt(f),
        }
    }
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        Self::BuiltIn(role)
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("this names no role"))
    }
}

/// A role that somebody is to have, and what it allows: of one that the organisation made, as whoever gives it has
/// read it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AssignedRole {
    /// One that every organisation has.
    BuiltIn(RoleName),
    /// One that the organisation made.
    Custom(RoleId, Vec<Pattern>),
}

impl From<RoleName> for AssignedRole {
    fn from(role: RoleName) -> Self {
        Self::BuiltIn(role)
    }
}

impl AssignedRole {
    /// Which one it is.
    pub fn role(&self) -> Role {
        match self {
            Self::BuiltIn(role) => Role::BuiltIn(*role),
            Self::Custom(id, _) => Role::Custom(*id),
        }
    }

    /// Refuses to give it to somebody when whoever gives it has less.
    pub(crate) fn must_be_covered(&self, given: &Given<'_>) -> Result<(), Rejection> {
        let lacking = match self {
            Self::BuiltIn(role) => {
                let mut patterns = role.patterns().iter().filter_map(|pattern| Pattern::parse(pattern).ok());
                patterns.find(|pattern| !given.permissions.covers(pattern))
            }
            Self::Custom(_, patterns) => patterns.iter().find(|pattern| !given.permissions.covers(pattern)).cloned(),
        };
        match lacking {
            None => Ok(()),
            Some(pattern) => {
                let message =
                    format!("This role allows `{pattern}`, which you do not have: nobody gives more than that.");
                Err(Rejection::new(ErrorCode::Forbidden, message).at("roles"))
            }
        }
    }

    /// What has to hold when it is given: the role is there still and allows what was read.
    pub(crate) fn definition(&self, organization: OrganizationId) -> Option<(Fact, Rejection)> {
        let Self::Custom(id, patterns) = self else { return None };
        let changed = Rejection::conflict("A role was changed or deleted at this moment. Try again.").at("roles");
        Some((definition(organization, *id, patterns), changed))
    }
}

/// The roles, sorted, each once.
///
/// # Errors
/// `REQUIRED` when there is none, `LIMIT_EXCEEDED` for more than 20.
pub(crate) fn normal(roles: &[AssignedRole]) -> Result<Vec<Role>, Rejection> {
    let mut roles: Vec<Role> = roles.iter().map(AssignedRole::role).collect();
    roles.sort_unstable();
    roles.dedup();
    match roles.len() {
        0 => Err(Rejection::new(ErrorCode::Required, "Name at least one role.").at("roles")),
        1..=MAX_ROLES => Ok(roles),
        many => {
            let message = format!("At most {MAX_ROLES} roles; these are {many}.");
            Err(Rejection::new(ErrorCode::LimitExceeded, message).at("roles"))
        }
    }
}

/// The most roles of a member.
const MAX_ROLES: usize = 20;

/// What is the owner's alone.
const THE_OWNERS: [Permission; 2] =
    [Permission::new("organization", "manage"), Permission::new("organization", "delete")];

/// Refuses to give away what is the owner's alone, or more than whoever gives it has.
pub(crate) fn must_be_grantable<'a>(
    patterns: impl IntoIterator<Item = &'a Pattern>,
    given: &Given<'_>,
    field: &'static str,
) -> Result<(), Rejection> {
    for pattern in patterns {
        let message = if THE_OWNERS.into_iter().any(|owners| pattern.grant(owners).is_some()) {
            format!("`{pattern}` has in it what is the owner's alone. Name what else is meant.")
        } else if !given.permissions.covers(pattern) {
            format!("You do not have `{pattern}` yourself: nobody gives more than that.")
        } else {
            continue;
        };
        return Err(Rejection::new(ErrorCode::Forbidden, message).at(field));
    }
    Ok(())
}

// --- events --------------------------------------------------------------------------------------------------------

/// What can happen to a role that an organisation made.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "role")]
pub enum RoleEvent {
    /// Was made.
    #[event("role_created")]
    Created {
        /// Where.
        organization: OrganizationId,
        /// What it is called.
        name: RoleTitle,
        /// What it is for.
        description: RoleDescription,
        /// What it allows.
        permissions: Vec<Pattern>,
        /// Which documents those who have it may have executed, where that is stricter than what holds for all.
        operations: Option<OperationsMode>,
    },
    /// Is now as this says.
    #[event("role_changed")]
    Changed {
        /// What it is called.
        name: RoleTitle,
        /// What it is for.
        description: RoleDescription,
        /// What it allows.
        permissions: Vec<Pattern>,
        /// Which documents those who have it may have executed, where that is stricter than what holds for all.
        operations: Option<OperationsMode>,
    },
    /// Is no role any more.
    #[event("role_deleted")]
    Deleted,
}

// --- parsed types --------------------------------------------------------------------------------------------------

bounded_text! {
    /// What a role is called.
    RoleTitle: 1..=60,
    /// What a role is for.
    RoleDescription: 0..=400 multiline,
}

impl RoleTitle {
    /// The name, trimmed, if a role that an organisation makes may have it.
    ///
    /// # Errors
    /// As [`RoleTitle::parse`]; `TAKEN` for the name of one that is built in, `INVALID` for what looks like an id.
    pub fn parse_new(text: &str) -> Result<Self, Rejection> {
        let name = Self::parse(text)?;
        match Role::parse(&name.0.to_lowercase()) {
            Some(Role::BuiltIn(_)) => Err(Rejection::taken("This is the name of a role that is built in.")),
            Some(Role::Custom(_)) => Err(Rejection::new(ErrorCode::Invalid, "This is an id. Choose a name.")),
            None => Ok(name),
        }
    }
}

// --- state ---------------------------------------------------------------------------------------------------------

/// What decides about the next command on a role that an organisation made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CustomRole(Option<Present>);

#[derive(Clone, Debug, PartialEq)]
struct Present {
    organization: OrganizationId,
    name: RoleTitle,
    description: RoleDescription,
    permissions: Vec<Pattern>,
    operations: Option<OperationsMode>,
    deleted: bool,
}

impl Aggregate for CustomRole {
    type Kind = kinds::RoleId;
    type Event = RoleEvent;
    const NOUN: &'static str = "role";

    fn evolve(&mut self, event: &RoleEvent) {
        match event {
            RoleEvent::Created { organization, name, description, permissions, operations } => {
                self.0 = Some(Present {
                    organization: *organization,
                    name: name.clone(),
                    description: description.clone(),
                    permissions: permissions.clone(),
                    operations: *operations,
                    deleted: false,
                });
            }
            RoleEvent::Changed { name, description, permissions, operations } => {
                if let Some(role) = &mut self.0 {
                    role.name.clone_from(name);
                    role.description.clone_from(description);
                    role.permissions.clone_from(permissions);
                    role.operations = *operations;
                }
            }
            RoleEvent::Deleted => {
                if let Some(role) = &mut self.0 {
                    role.deleted = true;
                }
            }
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.0.as_ref().map(|role| role.organization)
    }
}

impl CustomRole {
    /// The most permissions of one.
    pub const MAX_PERMISSIONS: usize = 100;

    fn present(&self) -> Result<&Present, Rejection> {
        self.0.as_ref().filter(|role| !role.deleted).ok_or_else(|| Rejection::not_found(Self::NOUN))
    }
}

/// Roles are the organisation's: a grant that reaches only one's own reaches nothing here.
fn must_reach_all(given: &Given<'_>) -> Result<(), Rejection> {
    match given.grant {
        Grant::All => Ok(()),
        Grant::Own => Err(Rejection::new(
            ErrorCode::Forbidden,
            "Roles belong to the organization: this needs the permission without `:own`.",
        )),
    }
}

/// The permissions, sorted, each once.
fn normal_permissions(permissions: &[Pattern]) -> Result<Vec<Pattern>, Rejection> {
    let mut permissions = permissions.to_vec();
    permissions.sort();
    permissions.dedup();
    if permissions.len() > CustomRole::MAX_PERMISSIONS {
        let message = format!("At most {} permissions; these are {}.", CustomRole::MAX_PERMISSIONS, permissions.len());
        return Err(Rejection::new(ErrorCode::LimitExceeded, message).at("permissions"));
    }
    Ok(permissions)
}

// --- facts ---------------------------------------------------------------------------------------------------------

/// That a role of this organisation has this name.
fn named(organization: OrganizationId, name: &RoleTitle) -> Fact {
    Fact::new("role_name", organization, name.as_str().to_lowercase())
}

/// That this role of this organisation allows exactly this.
fn definition(organization: OrganizationId, id: RoleId, permissions: &[Pattern]) -> Fact {
    let text = permissions.iter().map(Pattern::as_str).collect::<Vec<_>>().join(" ");
    let hash = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
    Fact::new("role_allows", organization, format!("{id} {hash}"))
}

fn name_taken() -> Rejection {
    Rejection::taken("Another role has this name.").at("name")
}

// --- commands ------------------------------------------------------------------------------------------------------

/// Makes a role in the organisation in which the actor acts.
pub struct CreateRole {
    /// What it is called.
    pub name: RoleTitle,
    /// What it is for.
    pub description: RoleDescription,
    /// What it allows.
    pub permissions: Vec<Pattern>,
    /// Which documents those who have it may have executed.
    pub operations: Option<OperationsMode>,
}

impl Command for CreateRole {
    type Aggregate = CustomRole;
    const CREATES: bool = true;

    fn decide(&self, role: &CustomRole, given: &Given<'_>) -> Decision<RoleEvent> {
        crate::must_be_new(role)?;
        must_reach_all(given)?;
        let permissions = normal_permissions(&self.permissions)?;
        must_be_grantable(&permissions, given, "permissions")?;
        let organization = given.organization;
        let defined = definition(organization, RoleId::from_uuid(given.id), &permissions);
        Ok(Outcome::events([RoleEvent::Created {
            organization,
            name: self.name.clone(),
            description: self.description.clone(),
            permissions,
            operations: self.operations,
        }])
        .claim(named(organization, &self.name), name_taken())
        .claim(defined, Rejection::conflict("This role exists already.")))
    }
}

/// Changes a role. What is `None` stays.
pub struct ChangeRole {
    /// What it is called.
    pub name: Option<RoleTitle>,
    /// What it is for.
    pub description: Option<RoleDescription>,
    /// What it allows.
    pub permissions: Option<Vec<Pattern>>,
    /// Which documents those who have it may have executed; `Some(None)`: the role says nothing about it.
    pub operations: Option<Option<OperationsMode>>,
}

impl Command for ChangeRole {
    type Aggregate = CustomRole;

    fn decide(&self, role: &CustomRole, given: &Given<'_>) -> Decision<RoleEvent> {
        let role = role.present()?;
        must_reach_all(given)?;
        let permissions = match &self.permissions {
            Some(permissions) => normal_permissions(permissions)?,
            None => role.permissions.clone(),
        };
        // What is taken away, anybody may who changes roles; what is added has to be theirs.
        let held = Permissions::new(role.permissions.iter().cloned());
        must_be_grantable(permissions.iter().filter(|added| !held.covers(added)), given, "permissions")?;
        let after = Present {
            name: self.name.clone().unwrap_or_else(|| role.name.clone()),
            description: self.description.clone().unwrap_or_else(|| role.description.clone()),
            permissions,
            operations: self.operations.unwrap_or(role.operations),
            ..role.clone()
        };
        if after == *role {
            return Ok(Outcome::nothing());
        }
        let (organization, id) = (role.organization, RoleId::from_uuid(given.id));
        let mut outcome = Outcome::events([RoleEvent::Changed {
            name: after.name.clone(),
            description: after.description,
            permissions: after.permissions.clone(),
            operations: after.operations,
        }]);
        let (was, is) = (named(organization, &role.name), named(organization, &after.name));
        if was != is {
            outcome = outcome.release(was).claim(is, name_taken());
        }
        if role.permissions != after.permissions {
            let again = Rejection::conflict("This role was changed at this moment. Try again.");
            outcome = outcome
                .release(definition(organization, id, &role.permissions))
                .claim(definition(organization, id, &after.permissions), again);
        }
        Ok(outcome)
    }
}

/// Ends a role: nobody has it any more.
pub struct DeleteRole;

impl Command for DeleteRole {
    type Aggregate = CustomRole;

    fn decide(&self, role: &CustomRole, given: &Given<'_>) -> Decision<RoleEvent> {
        let role = role.present()?;
        must_reach_all(given)?;
        let id = RoleId::from_uuid(given.id);
        Ok(Outcome::events([RoleEvent::Deleted]).release(named(role.organization, &role.name)).release(definition(
            role.organization,
            id,
            &role.permissions,
        )))
    }
}

#[cfg(test)]
mod tests;
