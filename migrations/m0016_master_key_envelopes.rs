//! The master keys that a service keeps: sealed by it, so that every node has the same ones and none has them in a file.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{binary, integer, string};

use crate::m0001_engine::{index, table};

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
        for table in tables() {
            manager.create_table(table).await?;
        }
        for (_, index) in indexes() {
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

fn tables() -> Vec<TableCreateStatement> {
    vec![
        table("master_key_envelopes")
            .col(string("id").primary_key())
            .col(string("service"))
            .col(integer("number"))
            .col(string("sealed_by"))
            .col(binary("sealed"))
            .to_owned(),
    ]
}

fn indexes() -> Vec<(&'static str, IndexCreateStatement)> {
    vec![index("master_key_envelopes", &["service", "number"], true)]
}
