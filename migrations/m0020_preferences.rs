//! What persons prefer.

use sea_orm_migration::schema::{string_null, text_null};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new("user_preferences", [string_null("theme"), text_null("language"), text_null("time_zone")]),
}
