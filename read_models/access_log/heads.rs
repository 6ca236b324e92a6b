//! Where the chain of an organization's readings ends, and where what is left of it begins: the table
//! `access_log_heads`. Its row is the lock under which batches of several nodes are put at the end one after the other.

use std::collections::BTreeMap;

use oriel_engine::chain::link;
use oriel_kernel::OrganizationId;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, IntoActiveModel, QueryOrder, QuerySelect};

use super::chain::Removed;
use super::{Model as Row, Reading};

/// The ends of a chain.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "access_log_heads")]
pub struct Model {
    /// Whose chain it is.
    #[sea_orm(primary_key, auto_increment = false)]
    pub organization_id: OrganizationId,
    /// The number of its last row.
    pub sequence: i64,
    /// The link of that one.
    pub hash: Vec<u8>,
    /// The number of the last row that was removed; 0 before the first one is.
    pub removed_through: i64,
    /// The link of that one.
    pub removed_hash: Vec<u8>,
}

/// None.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// Of an organization in which nothing was read.
    pub(super) fn new(organization_id: OrganizationId) -> Self {
        Self { organization_id, sequence: 0, hash: Vec::new(), removed_through: 0, removed_hash: Vec::new() }
    }

    /// The row of a reading at the end of the chain.
    pub(super) fn append(&mut self, reading: Reading, removed: Option<Removed>) -> Row {
        let (actor_kind, actor_id) = reading.actor.to_columns();
        let (removed_through, removed_hash) = removed.map(|removed| (removed.through, removed.hash)).unzip();
        let mut row = Row {
            id: reading.id,
            organization_id: self.organization_id,
            sequence: self.sequence + 1,
            at: reading.at,
            kind: reading.kind,
            actor_kind,
            actor_id,
            operation: reading.operation,
            ids: reading.ids,
            removed_through,
            removed_hash,
            hash: Vec::new(),
        };
        row.hash = link(&self.hash, &row.entry().record());
        (self.sequence, self.hash) = (row.sequence, row.hash.clone());
        row
    }
}

/// The heads of these organizations, which nobody else changes until the end of the transaction. Always in the same order,
/// so that no two wait for each other.
pub(super) async fn lock(
    transaction: &impl ConnectionTrait,
    organizations: impl IntoIterator<Item = OrganizationId>,
) -> Result<BTreeMap<Uuid, Model>, DbErr> {
    let new: BTreeMap<Uuid, Model> =
        organizations.into_iter().map(|organization| (organization.uuid(), Model::new(organization))).collect();
    let these: Vec<OrganizationId> = new.values().map(|head| head.organization_id).collect();
    // The transaction begins with a change, so that SQLite lets it write at once.
    let there = OnConflict::column(Column::OrganizationId).do_nothing().to_owned();
    let new = new.into_values().map(written);
    Entity::insert_many(new).on_conflict(there).exec_without_returning(transaction).await?;
    let heads = Entity::find().filter(Column::OrganizationId.is_in(these)).order_by_asc(Column::OrganizationId);
    let heads = heads.lock_exclusive().all(transaction).await?;
    Ok(heads.into_iter().map(|head| (head.organization_id.uuid(), head)).collect())
}

/// Keeps what has become of them.
pub(super) async fn keep(
    transaction: &impl ConnectionTrait,
    heads: impl IntoIterator<Item = Model>,
) -> Result<(), DbErr> {
    let columns = [Column::Sequence, Column::Hash, Column::RemovedThrough, Column::RemovedHash];
    let changed = OnConflict::column(Column::OrganizationId).update_columns(columns).to_owned();
    let heads = heads.into_iter().map(written);
    Entity::insert_many(heads).on_conflict(changed).exec_without_returning(transaction).await.map(|_| ())
}

fn written(head: Model) -> ActiveModel {
    head.into_active_model().reset_all()
}
