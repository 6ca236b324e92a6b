//! API keys, and when each was last used: a table of its own, because a use is no event.

use sea_orm_migration::schema::{
    boolean, integer, integer_null, json_binary, string, string_null, timestamp_with_time_zone,
    timestamp_with_time_zone_null, uuid,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "api_keys",
        [
            uuid("organization_id"),
            uuid("owner_id"),
            string("name"),
            json_binary("scopes"),
            string("hint"),
            string("secret_hash"),
            string_null("previous_hash"),
            timestamp_with_time_zone_null("previous_until"),
            string_null("operations"),
            integer_null("rate_limit"),
            boolean("revoked"),
            timestamp_with_time_zone("created_at"),
            timestamp_with_time_zone_null("rotated_at"),
            timestamp_with_time_zone_null("revoked_at"),
            timestamp_with_time_zone_null("expires_at"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"])
    .within(&["organization_id"], &["owner_id", "name", "revoked", "created_at"]),
    ReadModel::new("api_key_uses", [uuid("organization_id"), timestamp_with_time_zone("last_used_at")])
        .index(&["organization_id", "id"]),
}
