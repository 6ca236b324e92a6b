//! Signed-in devices.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{text_null, timestamp_with_time_zone, timestamp_with_time_zone_null, uuid};

use crate::read_model::ReadModel;

/// See the module.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = [
            uuid("user_id"),
            uuid("organization_id"),
            uuid("member_id"),
            timestamp_with_time_zone("created_at"),
            timestamp_with_time_zone("last_seen_at"),
            timestamp_with_time_zone("expires_at"),
            timestamp_with_time_zone_null("ended_at"),
            text_null("ip"),
            text_null("user_agent"),
        ];
        ReadModel::new("sessions", columns)
            .index(&["user_id", "id"])
            .index(&["member_id", "ended_at"])
            .within(&["user_id"], &["ended_at"])
            .create(manager, &[])
            .await
    }
}
