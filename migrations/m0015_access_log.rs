//! Who has read what is sensitive: a table of its own, because reading is no event. Rows are added, and removed when they
//! are old; none is changed. Beside it, for each organization, where the hash chain of its rows ends and begins.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, binary, binary_null, json_binary, small_integer, string, string_null,
    timestamp_with_time_zone, uuid,
};

use crate::read_model::ReadModel;

/// See the module.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let rows = ReadModel::new(
            "access_log",
            [
                uuid("organization_id"),
                big_integer("sequence"),
                timestamp_with_time_zone("at"),
                string("kind"),
                small_integer("actor_kind"),
                uuid("actor_id"),
                string_null("operation"),
                json_binary("ids"),
                big_integer_null("removed_through"),
                binary_null("removed_hash"),
                binary("hash"),
            ],
        );
        let rows = rows
            .unique(&["organization_id", "sequence"])
            .index(&["organization_id", "kind", "sequence", "id"])
            .index(&["organization_id", "actor_id", "sequence", "id"])
            .index(&["at", "organization_id"]);
        rows.create(manager).await?;
        let heads = Table::create()
            .table(Alias::new("access_log_heads"))
            .col(uuid("organization_id").primary_key())
            .col(big_integer("sequence"))
            .col(binary("hash"))
            .col(big_integer("removed_through"))
            .col(binary("removed_hash"))
            .to_owned();
        manager.create_table(heads).await
    }
}
