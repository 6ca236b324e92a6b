//! What looks like an attack on the people of an organisation.

use sea_orm_migration::schema::{
    integer, json_binary, small_integer_null, string, string_null, text_null, timestamp_with_time_zone,
    timestamp_with_time_zone_null, uuid, uuid_null,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "security_events",
        [
            uuid("organization_id"),
            string("kind"),
            string("severity"),
            string("status"),
            json_binary("reasons"),
            uuid_null("member_id"),
            small_integer_null("actor_kind"),
            uuid_null("actor_id"),
            string_null("source_address"),
            text_null("source_program"),
            integer("count"),
            timestamp_with_time_zone("first_at"),
            timestamp_with_time_zone("last_at"),
            timestamp_with_time_zone_null("acknowledged_at"),
            small_integer_null("acknowledged_by_kind"),
            uuid_null("acknowledged_by_id"),
            text_null("note"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"])
    .within(&["organization_id"], &["kind", "severity", "status", "member_id", "first_at", "last_at"]),
}
