//! What a member leaves behind who is suspended or removed: read for the command that ends it, and for no answer.
//! Whoever is removed has no row any more, so nothing here asks for one.

use oriel_domain::projects::ProjectId;
use oriel_kernel::{MemberId, OrganizationId, SessionId};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};

use crate::{projects, sessions};

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
