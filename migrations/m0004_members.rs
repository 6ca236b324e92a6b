//! Persons in an organisation.

use sea_orm_migration::schema::{integer, json_binary, string, text_null, timestamp_with_time_zone_null, uuid};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "members",
        [
            uuid("organization_id"),
            uuid("user_id"),
            json_binary("roles"),
            json_binary("grants"),
            string("status"),
            timestamp_with_time_zone_null("joined_at"),
            text_null("invited_email"),
            timestamp_with_time_zone_null("invited_at"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"])
    .index(&["organization_id", "user_id"])
    .index(&["user_id", "id"])
    // What has been kept for long enough.
    .index(&["invited_at"])
    .within(&["organization_id"], &["status", "joined_at"])
    .words(&["roles"]),
}
