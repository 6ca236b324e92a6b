//! Who is asking: from a session or a key to plain values, in two statements at most, and one more for roles that the
//! organisation made.
//!
//! Invariants: a session that ended or expired, a key that was revoked, has ended or is shown with another secret, a
//! member who is not active, a member of another person: nobody. A key has what both its scopes and its owner have at
//! this moment. Whoever may see only their own projects sees those that they are a member of; whoever may see no
//! projects sees none. In an organisation that is suspended or has ended nobody is anybody. Where a second factor is
//! required, whoever is signed in and has none may do nothing and sees nothing; so does whoever has not agreed to a
//! policy that blocks. A key is asked for neither: it is a program's, which neither has a second factor nor reads what
//! it agrees to, and a policy that is published stops no integration at that moment. Its owner, though, makes no
//! further one until they have agreed. The owners of the first organisation operate the installation.
//!
//! What this depends on is part of the answer, because it is read without a reader: who caches it, or serves an
//! answer made with it, does so while none of these was touched. Which organisation is the first never changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use oriel_domain::api_keys::ApiKeyId;
use oriel_domain::persisted_operations::OperationsMode;
use oriel_domain::projects::ProjectId;
use oriel_domain::roles::{Role, RoleName};
use oriel_engine::read::{Dependency, ReadModel, Tags};
use oriel_kernel::{
    Credential, Grant, MemberId, OrganizationId, Permissions, SecretHash, SessionId, Timestamp, UserId, Viewer, Visible,
};
use sea_orm::sea_query::{Expr, Order, Query, SelectStatement, SubQueryStatement};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QuerySelect};
use uuid::Uuid;

use crate::authorization::{held, permissions};
use crate::members::{Grants, MemberStatus};
use crate::organizations::standings::{self, Standing};
use crate::{api_keys, consents, members, organizations, policies, projects, roles, same, sessions, users};

/// Who is asking, until when, and what would make that another answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewerRow {
    /// Who is asking, and what they may see.
    pub viewer: Arc<Viewer>,
    /// Their roles, or those of the key's owner.
    pub roles: Vec<Role>,
    /// When the session, or the key with this secret, ends by itself.
    pub expires_at: Timestamp,
    /// When the session was last given an access token.
    pub last_seen_at: Timestamp,
    /// Which documents they may have executed, where their roles or the key say something about it.
    pub operations: Option<OperationsMode>,
    /// How much cost they may cause in a minute, where the key says something about it.
    pub rate_limit: Option<u32>,
    /// What it depends on: the session or the key, the person's memberships, the member's own roles and projects,
    /// whether the organisation is open, and what a person is to agree to and has agreed to.
    pub dependencies: Vec<Dependency>,
}

impl ViewerRow {
    /// Whether they have one of these roles.
    pub fn has_one_of(&self, names: &[RoleName]) -> bool {
        self.roles.iter().any(|role| names.iter().any(|name| *role == Role::BuiltIn(*name)))
    }
}

/// The member who asks, or whose key does.
#[derive(FromQueryResult)]
struct Found {
    user_id: UserId,
    member_id: MemberId,
    organization_id: OrganizationId,
    roles: Tags,
    grants: Grants,
    version: i32,
    first: Option<Uuid>,
}

#[derive(FromQueryResult)]
struct Session {
    expires_at: Timestamp,
    last_seen_at: Timestamp,
    second_factor_required: bool,
    second_factor_since: Option<Timestamp>,
    provider_id: Option<Uuid>,
    unagreed: Option<Uuid>,
}

#[derive(FromQueryResult)]
struct Key {
    scopes: Tags,
    secret_hash: String,
    previous_hash: Option<String>,
    previous_until: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    operations: Option<api_keys::OperationsMode>,
    rate_limit: Option<i32>,
    created_at: Timestamp,
    key_version: i32,
}

/// What a credential says besides whose it is.
struct Shown {
    expires_at: Timestamp,
    last_seen_at: Timestamp,
    scopes: Option<Permissions>,
    operations: Option<OperationsMode>,
    rate_limit: Option<u32>,
    version: Option<(Uuid, i32)>,
    dependency: Dependency,
    second_factor: SecondFactor,
    confined: bool,
    unagreed: Option<Uuid>,
}

/// What is known of the second factor of who asks.
enum SecondFactor {
    /// It is not asked for.
    NotRequired,
    /// It is, and they have one.
    Present,
    /// It is, and they have none.
    Missing,
}

impl Session {
    fn shown(self, session: SessionId) -> Shown {
        Shown {
            expires_at: self.expires_at,
            last_seen_at: self.last_seen_at,
            scopes: None,
            operations: None,
            rate_limit: None,
            version: None,
            dependency: Dependency::row(sessions::Model::KIND, session.uuid()),
            second_factor: match (self.second_factor_required, self.second_factor_since) {
                (false, _) => SecondFactor::NotRequired,
                (true, Some(_)) => SecondFactor::Present,
                (true, None) => SecondFactor::Missing,
            },
            confined: self.provider_id.is_some(),
            unagreed: self.unagreed,
        }
    }
}

impl Key {
    /// Nothing when it has another secret.
    fn shown(self, key: Uuid, secret: SecretHash) -> Option<Shown> {
        // What is compared are hashes of 256 random bits: how long it takes tells nothing that helps to find them.
        let secret = HEXLOWER.encode(&secret.0);
        let never = Timestamp::MAX_UTC;
        let secret_ends = if secret == self.secret_hash {
            never
        } else if Some(&secret) == self.previous_hash.as_ref() {
            self.previous_until?
        } else {
            return None;
        };
        Some(Shown {
            expires_at: self.expires_at.unwrap_or(never).min(secret_ends),
            last_seen_at: self.created_at,
            scopes: Some(Permissions::new(self.scopes.0)),
            operations: self.operations.map(Into::into),
            rate_limit: self.rate_limit.and_then(|limit| u32::try_from(limit).ok()),
            version: Some((key, self.key_version)),
            dependency: Dependency::row(api_keys::Model::KIND, key),
            second_factor: SecondFactor::NotRequired,
            confined: false,
            unagreed: None,
        })
    }
}

/// Who this is, at this moment. Nothing when it is nobody (any more).
///
/// # Errors
/// The database cannot be read.
pub async fn resolve(
    connection: &impl ConnectionTrait,
    credential: Credential,
    now: Timestamp,
) -> Result<Option<ViewerRow>, DbErr> {
    let query = match credential {
        Credential::Session(session) => of_session(session),
        Credential::ApiKey { key, .. } => of_key(ApiKeyId::from_uuid(key)),
    };
    let Some(row) = connection.query_one(&query).await? else { return Ok(None) };
    let found = Found::from_query_result(&row, "")?;
    let shown = match credential {
        Credential::Session(session) => Some(Session::from_query_result(&row, "")?.shown(session)),
        Credential::ApiKey { key, secret } => Key::from_query_result(&row, "")?.shown(key, secret),
    };
    let Some(shown) = shown.filter(|shown| shown.expires_at > now) else { return Ok(None) };

    let roles = roles::parsed(&found.roles);
    let made = roles::made(connection, found.organization_id, &roles).await?;
    let operates = found.first == Some(found.organization_id.uuid());
    let theirs = permissions(&held(&roles, &made, &found.grants, operates));
    let permissions = match (&shown.scopes, &shown.second_factor) {
        (_, SecondFactor::Missing) => Permissions::default(),
        _ if shown.unagreed.is_some() => Permissions::default(),
        (Some(scopes), _) => theirs.intersection(scopes),
        (None, _) => theirs,
    };
    let visible = match permissions.grant(projects::VIEW) {
        Some(Grant::All) => Visible::All,
        Some(Grant::Own) => Visible::Only(Arc::new(own_projects(connection, &found).await?)),
        None => Visible::Only(Arc::default()),
    };
    let mut dependencies = vec![
        shown.dependency,
        members::Model::in_user(found.user_id).dependency(),
        projects::members::Model::in_member(found.member_id).dependency(),
        standings::dependency(found.organization_id),
    ];
    if credential.session().is_some() {
        dependencies.extend([
            policies::Model::in_org(OrganizationId::ABSENT).dependency(),
            policies::Model::in_org(found.organization_id).dependency(),
            consents::Model::in_user(found.user_id).dependency(),
        ]);
    }
    if !matches!(shown.second_factor, SecondFactor::NotRequired) {
        dependencies.push(Dependency::row(users::Model::KIND, found.user_id.uuid()));
    }
    let own_roles = roles.iter().filter_map(|role| role.custom());
    dependencies.extend(own_roles.map(|id| Dependency::row(roles::Model::KIND, id.uuid())));
    let versions = [(found.member_id.uuid(), found.version)].into_iter().chain(shown.version);
    let versions = versions.chain(made.values().map(|role| (role.id.uuid(), role.version))).collect();
    // Roles add up: of those that say something about it the mildest counts. A key can only be stricter.
    let of_roles = made.values().filter_map(|role| role.operations).map(OperationsMode::from).min();
    let viewer = Viewer {
        user: found.user_id,
        member: found.member_id,
        organization: found.organization_id,
        credential,
        versions,
        permissions: Arc::new(permissions),
        visible,
        confined: shown.confined,
        unagreed: shown.unagreed,
    };
    Ok(Some(ViewerRow {
        viewer: Arc::new(viewer),
        roles,
        expires_at: shown.expires_at,
        last_seen_at: shown.last_seen_at,
        operations: of_roles.max(shown.operations),
        rate_limit: shown.rate_limit,
        dependencies,
    }))
}

fn subquery(select: SelectStatement) -> Expr {
    Expr::SubQuery(None, Box::new(SubQueryStatement::SelectStatement(select)))
}

/// The session that goes on, with its active member, and which organisation is the first.
fn of_session(session: SessionId) -> SelectStatement {
    use sessions::Column as S;
    let member = |ours: members::Column, theirs: S| same((members::Entity, ours), (sessions::Entity, theirs));
    with_member(
        Query::select().from(sessions::Entity).inner_join(members::Entity, member(members::Column::Id, S::MemberId)),
    )
    .columns([S::ExpiresAt, S::LastSeenAt, S::ProviderId].map(|column| (sessions::Entity, column)))
    .expr_as(
        Expr::exists(standings::second_factor_required((sessions::Entity, S::OrganizationId))),
        "second_factor_required",
    )
    .expr_as(
        subquery(policies::unagreed((sessions::Entity, S::UserId), (sessions::Entity, S::OrganizationId))),
        "unagreed",
    )
    .column((users::Entity, users::Column::SecondFactorSince))
    .inner_join(users::Entity, same((users::Entity, users::Column::Id), (sessions::Entity, S::UserId)))
    .and_where(S::Id.eq(session.uuid()))
    .and_where(S::EndedAt.is_null())
    .and_where(member(members::Column::UserId, S::UserId))
    .and_where(member(members::Column::OrganizationId, S::OrganizationId))
    .take()
}

/// The key that was not revoked, with its active owner, and which organisation is the first.
fn of_key(key: ApiKeyId) -> SelectStatement {
    use api_keys::Column as K;
    let owner = |ours: members::Column, theirs: K| same((members::Entity, ours), (api_keys::Entity, theirs));
    let columns = [
        K::Scopes,
        K::SecretHash,
        K::PreviousHash,
        K::PreviousUntil,
        K::ExpiresAt,
        K::Operations,
        K::RateLimit,
        K::CreatedAt,
    ];
    with_member(
        Query::select().from(api_keys::Entity).inner_join(members::Entity, owner(members::Column::Id, K::OwnerId)),
    )
    .columns(columns.map(|column| (api_keys::Entity, column)))
    .expr_as(Expr::col((api_keys::Entity, K::Version)), "key_version")
    .and_where(K::Id.eq(key.uuid()))
    .and_where(K::Revoked.eq(false))
    .and_where(owner(members::Column::OrganizationId, K::OrganizationId))
    .take()
}

/// What is read of the member, who is active.
fn with_member(select: &mut SelectStatement) -> &mut SelectStatement {
    use members::Column as M;
    let first = Query::select()
        .column((organizations::Entity, organizations::Column::Id))
        .from(organizations::Entity)
        .order_by((organizations::Entity, organizations::Column::CreatedPosition), Order::Asc)
        .limit(1)
        .take();
    select
        .columns(
            [M::UserId, M::OrganizationId, M::Roles, M::Grants, M::Version].map(|column| (members::Entity, column)),
        )
        .expr_as(Expr::col((members::Entity, M::Id)), "member_id")
        .expr_as(subquery(first), "first")
        .and_where(M::Status.eq(MemberStatus::Active))
        .and_where(standings::open((members::Entity, M::OrganizationId)))
}

/// Whether nobody acts with this credential only because its organisation is suspended.
///
/// # Errors
/// The database cannot be read.
pub async fn is_suspended(connection: &impl ConnectionTrait, credential: Credential) -> Result<bool, DbErr> {
    let organization = match credential {
        Credential::Session(session) => {
            let session = sessions::Entity::find().filter(sessions::Column::Id.eq(session.uuid()));
            let session = session.filter(sessions::Column::EndedAt.is_null()).one(connection).await?;
            session.map(|session| session.organization_id)
        }
        Credential::ApiKey { key, secret } => {
            let key = api_keys::Entity::find().filter(api_keys::Column::Id.eq(key));
            let key = key.filter(api_keys::Column::Revoked.eq(false)).one(connection).await?;
            key.filter(|key| key.secret_hash == HEXLOWER.encode(&secret.0)).map(|key| key.organization_id)
        }
    };
    match organization {
        Some(organization) => Ok(standings::standing(connection, organization).await? == Some(Standing::Suspended)),
        None => Ok(false),
    }
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
