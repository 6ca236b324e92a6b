//! When a key was last used: the table `api_key_uses`. A use is no event, so this is no projection: it is written beside
//! the log, about once a minute for each key, and announced to nobody. What shows it is never kept.

use oriel_domain::api_keys::ApiKeyId;
use oriel_engine::read::ReadModel;
use oriel_kernel::{OrganizationId, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue, ConnectionTrait};

/// The last use of a key.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "api_key_uses")]
#[read_model(kind = "api_key_use", name = "ApiKeyUse", tenant = "organization_id")]
pub struct Model {
    /// Which key.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ApiKeyId,
    /// Where it acts.
    pub organization_id: OrganizationId,
    /// When, to about a minute.
    pub last_used_at: Timestamp,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Notes that a key was used. Of several nodes the last one to write counts: they differ by a minute at most.
///
/// # Errors
/// The database cannot be written.
pub async fn note(
    writer: &impl ConnectionTrait,
    organization: OrganizationId,
    key: ApiKeyId,
    at: Timestamp,
) -> Result<(), DbErr> {
    let row = ActiveModel {
        id: ActiveValue::Set(key),
        organization_id: ActiveValue::Set(organization),
        last_used_at: ActiveValue::Set(at),
    };
    let newer = OnConflict::column(Column::Id).update_column(Column::LastUsedAt).to_owned();
    Entity::insert(row).on_conflict(newer).exec_without_returning(writer).await.map(|_| ())
}
