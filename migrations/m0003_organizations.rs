//! Organisations: tenants.

use sea_orm_migration::schema::{big_integer, integer, string, text, timestamp_with_time_zone};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "organizations",
        [
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
        ],
    )
    .index(&["slug"])
    .index(&["created_position"]),
}
