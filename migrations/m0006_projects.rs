//! Projects, and who is in them.

use sea_orm_migration::schema::{big_integer, integer, string, text, text_null, timestamp_with_time_zone, uuid};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "projects",
        [
            uuid("organization_id"),
            text("name"),
            string("key"),
            text_null("description"),
            string("status"),
            uuid("owner_id"),
            integer("member_count"),
            integer("document_count"),
            big_integer("storage_used"),
            timestamp_with_time_zone("created_at"),
            timestamp_with_time_zone("updated_at"),
            integer("version"),
            big_integer("counted_position"),
        ],
    )
    .index(&["organization_id", "id"])
    .within(&["organization_id"], &["name", "key", "status", "owner_id", "created_at", "updated_at"]),
    ReadModel::new(
        "project_members",
        [uuid("organization_id"), uuid("project_id"), uuid("member_id"), timestamp_with_time_zone("added_at")],
    )
    .index(&["project_id", "id"])
    .index(&["member_id", "project_id"])
    .within(&["organization_id"], &["added_at"])
    .within(&["project_id"], &["added_at"]),
}
