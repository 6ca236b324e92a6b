//! What a member leaves behind who is suspended or removed, and what a person does who is erased: read for the command
//! that ends it, and for no answer. Whoever is removed has no row any more, so nothing here asks for one.

use oriel_domain::api_keys::ApiKeyId;
use oriel_domain::projects::ProjectId;
use oriel_engine::read::Tags;
use oriel_kernel::{MemberId, OrganizationId, SessionId, UserId};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};

use crate::{api_keys, members, projects, sessions};

/// Where this person is a member, or invited; with the names of their roles.
///
/// # Errors
/// The database cannot be read.
pub async fn memberships(
    connection: &impl ConnectionTrait,
    user: UserId,
) -> Result<Vec<(OrganizationId, MemberId, Tags)>, DbErr> {
    use members::{Column, Entity};
    let theirs = Entity::find().select_only().columns([Column::OrganizationId, Column::Id, Column::Roles]);
    theirs.filter(Column::UserId.eq(user.uuid())).into_tuple().all(connection).await
}

/// Whether this person is a member of another organisation than this one, and not only invited.
///
/// # Errors
/// The database cannot be read.
pub async fn is_member_elsewhere(
    connection: &impl ConnectionTrait,
    user: UserId,
    organization: OrganizationId,
) -> Result<bool, DbErr> {
    use members::{Column, Entity, MemberStatus};
    let others = Entity::find().filter(Column::UserId.eq(user.uuid())).filter(Column::Status.ne(MemberStatus::Invited));
    Ok(others.filter(Column::OrganizationId.ne(organization.uuid())).one(connection).await?.is_some())
}

/// The persons who are these members.
///
/// # Errors
/// The database cannot be read.
pub async fn persons(connection: &impl ConnectionTrait, members: &[MemberId]) -> Result<Vec<UserId>, DbErr> {
    use members::{Column, Entity};
    let these = Entity::find().select_only().column(Column::UserId);
    these.filter(Column::Id.is_in(members.iter().map(|id| id.uuid()))).into_tuple().all(connection).await
}

/// Some of this member's sessions that have not ended, at most `limit`.
///
/// # Errors
/// The database cannot be read.
pub async fn sessions(
    connection: &impl ConnectionTrait,
    (organization, member): (OrganizationId, MemberId),
    limit: u64,
) -> Result<Vec<SessionId>, DbErr> {
    use sessions::{Column, Entity};
    let theirs = Entity::find().select_only().column(Column::Id).filter(Column::MemberId.eq(member.uuid()));
    let theirs = theirs.filter(Column::OrganizationId.eq(organization.uuid())).filter(Column::EndedAt.is_null());
    theirs.limit(limit).into_tuple().all(connection).await
}

/// Some of this member's keys that were not revoked, at most `limit`.
///
/// # Errors
/// The database cannot be read.
pub async fn api_keys(
    connection: &impl ConnectionTrait,
    (organization, member): (OrganizationId, MemberId),
    limit: u64,
) -> Result<Vec<ApiKeyId>, DbErr> {
    use api_keys::{Column, Entity};
    let theirs = Entity::find().select_only().column(Column::Id).filter(Column::OwnerId.eq(member.uuid()));
    let theirs = theirs.filter(Column::OrganizationId.eq(organization.uuid())).filter(Column::Revoked.eq(false));
    theirs.limit(limit).into_tuple().all(connection).await
}

/// Some of the projects that this member is in, at most `limit`.
///
/// # Errors
/// The database cannot be read.
pub async fn projects(
    connection: &impl ConnectionTrait,
    (organization, member): (OrganizationId, MemberId),
    limit: u64,
) -> Result<Vec<ProjectId>, DbErr> {
    use projects::members::{Column, Entity};
    let theirs = Entity::find().select_only().column(Column::ProjectId).filter(Column::MemberId.eq(member.uuid()));
    theirs.filter(Column::OrganizationId.eq(organization.uuid())).limit(limit).into_tuple().all(connection).await
}
