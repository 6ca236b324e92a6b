//! Signed-in devices.

use sea_orm_migration::schema::{
    string_null, text_null, timestamp_with_time_zone, timestamp_with_time_zone_null, uuid, uuid_null,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "sessions",
        [
            uuid("user_id"),
            uuid("organization_id"),
            uuid("member_id"),
            timestamp_with_time_zone("created_at"),
            timestamp_with_time_zone("last_seen_at"),
            timestamp_with_time_zone("expires_at"),
            timestamp_with_time_zone_null("ended_at"),
            text_null("ip"),
            text_null("user_agent"),
            uuid_null("provider_id"),
            string_null("method"),
        ],
    )
    .index(&["user_id", "id"])
    .index(&["member_id", "ended_at"])
    .index(&["provider_id", "ended_at"])
    // What has been kept for long enough, and how much of that an organisation has.
    .index(&["ended_at"])
    .index(&["expires_at"])
    .index(&["organization_id", "ended_at"])
    .within(&["user_id"], &["ended_at"]),
}
