//! Persons of the installation.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{integer, string_null, text, text_null};

use crate::read_model::ReadModel;

/// See the module.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = [
            text_null("email"),
            string_null("email_hash"),
            text("name"),
            text_null("username"),
            string_null("username_hash"),
            text_null("password_hash"),
            integer("version"),
        ];
        ReadModel::new("users", columns).unique(&["email_hash"]).unique(&["username_hash"]).create(manager, &[]).await
    }
}
