//! What sweeping has done: the table `retention_sweeps`. Sweeping is no event, what it removes goes by events: so this is
//! no projection. A row for each kind and organisation of which something was removed; and one of the installation, which
//! is also the lease: one node sweeps at a time.
//!
//! Invariants: who holds the lease is told by its row alone, and holds it for a while or until it is given back. The
//! clock is that of each node: where clocks differ, two may sweep at once, and what is removed twice is removed once.

use oriel_domain::retention::{RetentionKind, retention_id};
use oriel_kernel::{OrganizationId, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, Statement, Value};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "retention_sweeps")]
pub struct Model {
    /// Of a kind in an organisation: as in `retentions`. Of the installation: nil.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Where.
    pub organization_id: OrganizationId,
    /// When something was last removed; of the installation: when everything was last looked at.
    pub swept_at: Option<Timestamp>,
    /// How many were removed then.
    pub removed: i64,
    /// How many were ever.
    pub removed_in_all: i64,
    /// Of the installation: who sweeps.
    pub holder: Option<Uuid>,
    /// Of the installation: until when nobody else does.
    pub leased_until: Option<Timestamp>,
}

/// None: nothing is read by relations.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Takes the lease, or holds it for another while; `false` while another node has it.
///
/// # Errors
/// The database cannot be written.
pub async fn hold(
    writer: &impl ConnectionTrait,
    holder: Uuid,
    (now, until): (Timestamp, Timestamp),
) -> Result<bool, DbErr> {
    let sql = "INSERT INTO retention_sweeps (id, organization_id, removed, removed_in_all, holder, leased_until) \
               VALUES ($1, $1, 0, 0, $2, $3) ON CONFLICT (id) DO UPDATE SET holder = $2, leased_until = $3 \
               WHERE retention_sweeps.leased_until IS NULL OR retention_sweeps.leased_until <= $4 \
                 OR retention_sweeps.holder = $2";
    let values: Vec<Value> = vec![Uuid::nil().into(), holder.into(), until.into(), now.into()];
    Ok(execute(writer, sql, values).await? == 1)
}

/// Gives the lease back, everything having been looked at.
///
/// # Errors
/// The database cannot be written.
pub async fn finish(writer: &impl ConnectionTrait, holder: Uuid, now: Timestamp, removed: u64) -> Result<(), DbErr> {
    let sql = "UPDATE retention_sweeps SET swept_at = $3, removed = $4, removed_in_all = removed_in_all + $4, \
               leased_until = NULL WHERE id = $1 AND holder = $2";
    let values: Vec<Value> = vec![Uuid::nil().into(), holder.into(), now.into(), number(removed).into()];
    execute(writer, sql, values).await.map(|_| ())
}

/// Notes how many were removed of a kind in an organisation.
///
/// # Errors
/// The database cannot be written.
pub async fn note(
    writer: &impl ConnectionTrait,
    (organization, kind): (OrganizationId, RetentionKind),
    now: Timestamp,
    removed: u64,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO retention_sweeps (id, organization_id, swept_at, removed, removed_in_all) \
               VALUES ($1, $2, $3, $4, $4) ON CONFLICT (id) DO UPDATE SET swept_at = $3, removed = $4, \
               removed_in_all = retention_sweeps.removed_in_all + $4";
    let id = retention_id(organization, kind).uuid();
    let values: Vec<Value> = vec![id.into(), organization.uuid().into(), now.into(), number(removed).into()];
    execute(writer, sql, values).await.map(|_| ())
}

/// What was removed of a kind in an organisation; nothing when nothing ever was.
///
/// # Errors
/// The database cannot be read.
pub async fn of(
    connection: &impl ConnectionTrait,
    (organization, kind): (OrganizationId, RetentionKind),
) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(retention_id(organization, kind).uuid()).one(connection).await
}

/// When everything was last looked at.
///
/// # Errors
/// The database cannot be read.
pub async fn last(connection: &impl ConnectionTrait) -> Result<Option<Timestamp>, DbErr> {
    Ok(Entity::find_by_id(Uuid::nil()).one(connection).await?.and_then(|row| row.swept_at))
}

async fn execute(writer: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Result<u64, DbErr> {
    let statement = Statement::from_sql_and_values(writer.get_database_backend(), sql, values);
    Ok(writer.execute_raw(statement).await?.rows_affected())
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
