//! What is read before anybody is known: the look-ups of signing in, registering and inviting.
//!
//! Invariants: nothing here is ever shown; it is what a command or a check of a password needs. Besides `viewer.rs`
//! this is the only reading without a viewer.

use oriel_kernel::{MemberId, OrganizationId, SessionId, Timestamp, UserId};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::members::MemberStatus;
use crate::organizations::standings;
use crate::{members, sessions, users};

/// How many of a person's last sessions say where they have signed in before.
const REMEMBERED: u64 = 200;

/// The user with this address: its hash is `Email::blind`.
///
/// # Errors
/// The database cannot be read.
pub async fn user_by_email(connection: &impl ConnectionTrait, hash: &str) -> Result<Option<users::Model>, DbErr> {
    users::Entity::find().filter(users::Column::EmailHash.eq(hash)).one(connection).await
}

/// The user with this user name: its hash is `Username::blind`.
///
/// # Errors
/// The database cannot be read.
pub async fn user_by_username(connection: &impl ConnectionTrait, hash: &str) -> Result<Option<users::Model>, DbErr> {
    users::Entity::find().filter(users::Column::UsernameHash.eq(hash)).one(connection).await
}

/// The user with this id.
///
/// # Errors
/// The database cannot be read.
pub async fn user(connection: &impl ConnectionTrait, id: UserId) -> Result<Option<users::Model>, DbErr> {
    users::Entity::find().filter(users::Column::Id.eq(id.uuid())).one(connection).await
}

/// Who is known to authenticators by this handle: see `passkeys::handle`.
///
/// # Errors
/// The database cannot be read.
pub async fn user_by_passkey_handle(connection: &impl ConnectionTrait, handle: &str) -> Result<Option<UserId>, DbErr> {
    use users::passkeys::{Column, Entity};
    let found = Entity::find().filter(Column::Handle.eq(handle)).one(connection).await?;
    Ok(found.map(|row| row.id))
}

/// As whom a user may act: in this organisation, or (when none is named) in the one that they joined first. Not in one
/// that is suspended or has ended.
///
/// # Errors
/// The database cannot be read.
pub async fn active_member(
    connection: &impl ConnectionTrait,
    user: UserId,
    organization: Option<OrganizationId>,
) -> Result<Option<(MemberId, OrganizationId)>, DbErr> {
    use members::{Column, Entity};
    let mut select = Entity::find()
        .select_only()
        .columns([Column::Id, Column::OrganizationId])
        .filter(Column::UserId.eq(user.uuid()))
        .filter(Column::Status.eq(MemberStatus::Active))
        .filter(standings::open((Entity, Column::OrganizationId)))
        .order_by_asc(Column::JoinedAt)
        .order_by_asc(Column::Id);
    if let Some(organization) = organization {
        select = select.filter(Column::OrganizationId.eq(organization.uuid()));
    }
    select.limit(1).into_tuple().one(connection).await
}

/// Where a user is an active member, in an organisation that is neither suspended nor has ended; the first hundred that
/// they have joined.
///
/// # Errors
/// The database cannot be read.
pub async fn active_members(
    connection: &impl ConnectionTrait,
    user: UserId,
) -> Result<Vec<(MemberId, OrganizationId)>, DbErr> {
    use members::{Column, Entity};
    let theirs = Entity::find()
        .select_only()
        .columns([Column::Id, Column::OrganizationId])
        .filter(Column::UserId.eq(user.uuid()))
        .filter(Column::Status.eq(MemberStatus::Active))
        .filter(standings::open((Entity, Column::OrganizationId)))
        .order_by_asc(Column::JoinedAt)
        .order_by_asc(Column::Id);
    theirs.limit(100).into_tuple().all(connection).await
}

/// The addresses and programs with which a user has signed in before a moment, the last ones first.
///
/// # Errors
/// The database cannot be read.
pub async fn places(
    connection: &impl ConnectionTrait,
    user: UserId,
    before: Timestamp,
    most: u64,
) -> Result<Vec<(Option<String>, Option<String>)>, DbErr> {
    use sessions::{Column, Entity};
    let select = Entity::find()
        .select_only()
        .columns([Column::Ip, Column::UserAgent])
        .filter(Column::UserId.eq(user.uuid()))
        .filter(Column::CreatedAt.lt(before))
        .order_by_desc(Column::Id)
        .limit(most);
    select.into_tuple().all(connection).await
}

/// The sessions of a user that go on at this moment, in the order of their organisations.
///
/// # Errors
/// The database cannot be read.
pub async fn sessions(
    connection: &impl ConnectionTrait,
    user: UserId,
    now: Timestamp,
) -> Result<Vec<(OrganizationId, SessionId)>, DbErr> {
    use sessions::{Column, Entity};
    Entity::find()
        .select_only()
        .columns([Column::OrganizationId, Column::Id])
        .filter(Column::UserId.eq(user.uuid()))
        .filter(Column::EndedAt.is_null())
        .filter(Column::ExpiresAt.gt(now))
        .order_by_asc(Column::OrganizationId)
        .order_by_asc(Column::Id)
        .into_tuple()
        .all(connection)
        .await
}

/// The addresses from which a user has signed in lately.
///
/// # Errors
/// The database cannot be read.
pub async fn addresses(connection: &impl ConnectionTrait, user: UserId) -> Result<Vec<String>, DbErr> {
    use sessions::{Column, Entity};
    let select = Entity::find()
        .select_only()
        .column(Column::Ip)
        .filter(Column::UserId.eq(user.uuid()))
        .filter(Column::Ip.is_not_null())
        .order_by_desc(Column::Id)
        .limit(REMEMBERED);
    select.into_tuple().all(connection).await
}
