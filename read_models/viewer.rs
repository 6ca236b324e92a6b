//! Who is asking: from a session to plain values, in two statements at most.
//!
//! Invariants: a session that ended or expired, a member who is not active, a member of another person: nobody.
//! Whoever may see only their own projects sees those that they are a member of; whoever may see no projects sees
//! none. The owners of the first organisation operate the installation.
//!
//! What this depends on is part of the answer, because it is read without a reader: who caches it, or serves an
//! answer made with it, does so while none of these was touched. Which organisation is the first never changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use oriel_domain::projects::ProjectId;
use oriel_domain::roles::{RoleName, first_organization_permissions, permissions};
use oriel_engine::read::{Dependency, ReadModel, Tags};
use oriel_kernel::{Credential, Grant, MemberId, OrganizationId, SessionId, Timestamp, UserId, Viewer, Visible};
use sea_orm::sea_query::{Expr, Order, Query, SelectStatement, SubQueryStatement};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QuerySelect};
use uuid::Uuid;

use crate::members::MemberStatus;
use crate::{members, organizations, projects, roles, same, sessions};

/// Who is asking, until when, and what would make that another answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewerRow {
    /// Who is asking, and what they may see.
    pub viewer: Arc<Viewer>,
    /// The roles that allow it.
    pub roles: Vec<RoleName>,
    /// When the session ends by itself.
    pub expires_at: Timestamp,
    /// When it was last given an access token.
    pub last_seen_at: Timestamp,
    /// What it depends on: the session, the person's memberships, and the member's projects.
    pub dependencies: Vec<Dependency>,
}

#[derive(FromQueryResult)]
struct Found {
    user_id: UserId,
    member_id: MemberId,
    organization_id: OrganizationId,
    expires_at: Timestamp,
    last_seen_at: Timestamp,
    roles: Tags,
    version: i32,
    first: Option<Uuid>,
}

/// Who this session is, at this moment. Nothing when it is nobody (any more).
///
/// # Errors
/// The database cannot be read.
pub async fn resolve(
    connection: &impl ConnectionTrait,
    credential: Credential,
    now: Timestamp,
) -> Result<Option<ViewerRow>, DbErr> {
    let Some(session) = credential.session() else { return Ok(None) };
    let Some(row) = connection.query_one(&signed_in(session)).await? else { return Ok(None) };
    let found = Found::from_query_result(&row, "")?;
    if found.expires_at <= now {
        return Ok(None);
    }
    let names = roles::named(&found.roles.0);
    let permissions = match found.first == Some(found.organization_id.uuid()) {
        true => first_organization_permissions(&names),
        false => permissions(&names),
    };
    let visible = match permissions.grant(projects::VIEW) {
        Some(Grant::All) => Visible::All,
        Some(Grant::Own) => Visible::Only(Arc::new(own_projects(connection, &found).await?)),
        None => Visible::Only(Arc::default()),
    };
    let dependencies = vec![
        Dependency::row(sessions::Model::KIND, session.uuid()),
        members::Model::in_user(found.user_id).dependency(),
        projects::members::Model::in_member(found.member_id).dependency(),
    ];
    let viewer = Viewer {
        user: found.user_id,
        member: found.member_id,
        organization: found.organization_id,
        credential,
        versions: Arc::new([(found.member_id.uuid(), found.version)]),
        permissions: Arc::new(permissions),
        visible,
    };
    let Found { expires_at, last_seen_at, .. } = found;
    Ok(Some(ViewerRow { viewer: Arc::new(viewer), roles: names, expires_at, last_seen_at, dependencies }))
}

/// The session that goes on, with its active member, and which organisation is the first.
fn signed_in(session: SessionId) -> SelectStatement {
    use members::Column as M;
    use sessions::Column as S;
    let first = Query::select()
        .column((organizations::Entity, organizations::Column::Id))
        .from(organizations::Entity)
        .order_by((organizations::Entity, organizations::Column::CreatedPosition), Order::Asc)
        .limit(1)
        .take();
    let member = |ours: M, theirs: S| same((members::Entity, ours), (sessions::Entity, theirs));
    Query::select()
        .columns(
            [S::UserId, S::MemberId, S::OrganizationId, S::ExpiresAt, S::LastSeenAt]
                .map(|column| (sessions::Entity, column)),
        )
        .columns([M::Roles, M::Version].map(|column| (members::Entity, column)))
        .expr_as(Expr::SubQuery(None, Box::new(SubQueryStatement::SelectStatement(first))), "first")
        .from(sessions::Entity)
        .inner_join(members::Entity, member(M::Id, S::MemberId))
        .and_where(S::Id.eq(session.uuid()))
        .and_where(S::EndedAt.is_null())
        .and_where(member(M::UserId, S::UserId))
        .and_where(member(M::OrganizationId, S::OrganizationId))
        .and_where(M::Status.eq(MemberStatus::Active))
        .take()
}

async fn own_projects(connection: &impl ConnectionTrait, found: &Found) -> Result<BTreeSet<Uuid>, DbErr> {
    use projects::members::{Column, Entity};
    let rows: Vec<ProjectId> = Entity::find()
        .select_only()
        .column(Column::ProjectId)
        .filter(Column::MemberId.eq(found.member_id.uuid()))
        .filter(Column::OrganizationId.eq(found.organization_id.uuid()))
        .into_tuple()
        .all(connection)
        .await?;
    Ok(rows.into_iter().map(|project| project.uuid()).collect())
}
