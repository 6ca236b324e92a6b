//! The master keys that a service keeps: sealed by it, so that every node has the same ones and none has them in a file.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{binary, integer, string};

/// See the module.
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0016_master_key_envelopes"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table(Alias::new("master_key_envelopes"))
            .col(string("id").primary_key())
            .col(string("service"))
            .col(integer("number"))
            .col(string("sealed_by"))
            .col(binary("sealed"))
            .to_owned();
        manager.create_table(table).await?;
        let unique = Index::create()
            .name("ix_master_key_envelopes_service_number")
            .table(Alias::new("master_key_envelopes"))
            .col(Alias::new("service"))
            .col(Alias::new("number"))
            .unique()
            .to_owned();
        manager.create_index(unique).await
    }
}
