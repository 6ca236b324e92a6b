//! Organisations: tenants, whether they are open, and what was erased.

use sea_orm_migration::schema::{
    big_integer, boolean, integer, json_binary, string, text, text_null, timestamp_with_time_zone,
    timestamp_with_time_zone_null, uuid,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "organizations",
        [
            text("name"),
            string("slug"),
            text_null("language"),
            text_null("time_zone"),
            boolean("second_factor_required"),
            string("status"),
            timestamp_with_time_zone_null("ends_at"),
            timestamp_with_time_zone("created_at"),
            integer("member_count"),
            integer("project_count"),
            integer("document_count"),
            big_integer("storage_used"),
            integer("version"),
            big_integer("created_position"),
            big_integer("counted_position"),
            uuid("installation_id"),
            uuid("owner_id"),
        ],
    )
    .index(&["slug"])
    .index(&["created_position"])
    .index(&["installation_id", "id"])
    .within(&["installation_id"], &["name", "status", "ends_at", "created_at"]),
    ReadModel::new(
        "organization_standings",
        [string("standing"), boolean("second_factor_required"), timestamp_with_time_zone_null("ends_at")],
    )
    .index(&["ends_at"]),
    ReadModel::new(
        "erasures",
        [
            string("kind"),
            timestamp_with_time_zone("began_at"),
            timestamp_with_time_zone_null("completed_at"),
            json_binary("stores"),
        ],
    ),
}
