//! What somebody may, and by what: the one list from which a viewer's permissions are resolved, and by which they are
//! explained.

use std::collections::HashMap;

use oriel_domain::roles::{OPERATES_THE_INSTALLATION, Role, RoleId, RoleName};
use oriel_engine::read::{ReadError, Reader};
use oriel_kernel::{Actor, MemberId, OrganizationId, Permissions, Timestamp, UserId};
use sea_orm::{ConnectionTrait, DbErr, EntityTrait};

use crate::members::Grants;
use crate::persisted_operations::operator;
use crate::{members, roles, sign_in};

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

/// An active member, read for signing them in.
#[derive(Clone, Debug)]
pub struct ActiveMember {
    /// The member.
    pub id: MemberId,
    /// Their roles.
    pub roles: Vec<Role>,
    /// What they may.
    pub permissions: Permissions,
}

/// As whom a person may act in an open organisation, and what they may there. Read without a reader: what signing in by
/// an identity provider asks before anybody is known.
///
/// # Errors
/// The database cannot be read.
pub async fn of_person(
    connection: &impl ConnectionTrait,
    user: UserId,
    organization: OrganizationId,
) -> Result<Option<ActiveMember>, DbErr> {
    let member = sign_in::active_member(connection, user, Some(organization)).await?;
    let Some((id, _)) = member else { return Ok(None) };
    let Some(member) = members::Entity::find_by_id(id).one(connection).await? else { return Ok(None) };
    let roles = roles::parsed(&member.roles);
    let made = roles::made(connection, organization, &roles).await?;
    let operates = operator(connection).await? == Some(organization);
    let permissions = permissions(&held(&roles, &made, &member.grants, operates));
    Ok(Some(ActiveMember { id, roles, permissions }))
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
