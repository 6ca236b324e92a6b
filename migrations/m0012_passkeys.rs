//! The passkeys of persons.

use sea_orm_migration::schema::{json_binary, string_null};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new("user_passkeys", [string_null("handle"), json_binary("passkeys")]).unique(&["handle"]),
}
