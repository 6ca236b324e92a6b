//! Organisations: tenants.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer, string, text, timestamp_with_time_zone};

use crate::read_model::ReadModel;

/// See the module.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = [
            text("name"),
            string("slug"),
            timestamp_with_time_zone("created_at"),
            integer("member_count"),
            integer("project_count"),
            integer("document_count"),
            big_integer("storage_used"),
            integer("version"),
            big_integer("created_position"),
            big_integer("counted_position"),
        ];
        ReadModel::new("organizations", columns)
            .index(&["slug"])
            .index(&["created_position"])
            .create(manager, &[])
            .await
    }
}
