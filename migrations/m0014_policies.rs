//! Policies, and who agreed to them.

use sea_orm_migration::schema::{
    boolean, integer, integer_null, string, text, timestamp_with_time_zone, timestamp_with_time_zone_null, uuid,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "policies",
        [
            uuid("organization_id"),
            string("key"),
            integer("revision"),
            string("title"),
            text("text"),
            boolean("required"),
            boolean("blocking"),
            timestamp_with_time_zone("published_at"),
            timestamp_with_time_zone_null("retired_at"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"]),
    ReadModel::new(
        "consents",
        [
            uuid("organization_id"),
            uuid("policy_id"),
            uuid("user_id"),
            integer_null("revision"),
            timestamp_with_time_zone("changed_at"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"])
    .index(&["user_id", "id"]),
}
