//! The roles that organisations made.

use sea_orm_migration::schema::{integer, json_binary, string, string_null, text, timestamp_with_time_zone, uuid};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "roles",
        [
            uuid("organization_id"),
            string("name"),
            text("description"),
            json_binary("permissions"),
            string_null("operations"),
            timestamp_with_time_zone("created_at"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"]),
}
