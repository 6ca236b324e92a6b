//! What somebody may, and by what: the one list from which a viewer's permissions are resolved, and by which they are
//! explained.

use std::collections::HashMap;

use oriel_domain::roles::{OPERATES_THE_INSTALLATION, Role, RoleId, RoleName};
use oriel_engine::read::{ReadError, Reader};
use oriel_kernel::{Actor, Permissions, Timestamp};

use crate::members::Grants;
use crate::{members, roles};

/// One permission that somebody has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// `module:action[:own]`, with `*` for all.
    pub pattern: String,
    /// By what they have it.
    pub source: Source,
}

/// By what somebody has a permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// One of their roles.
    Role(Role),
    /// It was granted to them directly.
    Direct {
        /// When.
        at: Timestamp,
        /// By whom.
        by: Option<Actor>,
    },
    /// They own the organisation that operates the installation.
    Operator,
}

/// Everything that somebody with these roles and grants has. `operates`: their organisation is the installation's
/// first.
pub(crate) fn held(roles: &[Role], made: &HashMap<RoleId, roles::Model>, grants: &Grants, operates: bool) -> Vec<Held> {
    let mut held = Vec::new();
    for role in roles {
        let source = Source::Role(*role);
        match role {
            Role::BuiltIn(name) => {
                held.extend(name.patterns().iter().map(|pattern| Held { pattern: (*pattern).to_owned(), source }));
            }
            Role::Custom(id) => {
                let patterns = made.get(id).into_iter().flat_map(|role| &role.permissions.0);
                held.extend(patterns.map(|pattern| Held { pattern: pattern.clone(), source }));
            }
        }
    }
    held.extend(grants.0.iter().map(|grant| Held {
        pattern: grant.permission.clone(),
        source: Source::Direct { at: grant.at, by: grant.by() },
    }));
    if operates && roles.contains(&RoleName::Owner.into()) {
        held.push(Held { pattern: OPERATES_THE_INSTALLATION.to_owned(), source: Source::Operator });
    }
    held
}

/// What all of these allow together.
pub fn permissions(held: &[Held]) -> Permissions {
    Permissions::new(held.iter().map(|held| held.pattern.as_str()))
}

/// Everything that this member has.
///
/// # Errors
/// The database cannot be read.
pub async fn of_member(reader: &Reader, member: &members::Model, operates: bool) -> Result<Vec<Held>, ReadError> {
    let roles = roles::parsed(&member.roles);
    let mut made = HashMap::new();
    for id in roles.iter().filter_map(|role| role.custom()) {
        made.extend(reader.get::<roles::Model>(id).await?.map(|role| (id, (*role).clone())));
    }
    Ok(held(&roles, &made, &member.grants, operates))
}
