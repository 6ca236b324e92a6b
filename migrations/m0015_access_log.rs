//! Who has read what is sensitive: a table of its own, because reading is no event. Rows are added, and removed when they
//! are old; none is changed.

use sea_orm_migration::schema::{json_binary, small_integer, string, string_null, timestamp_with_time_zone, uuid};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "access_log",
        [
            uuid("organization_id"),
            timestamp_with_time_zone("at"),
            string("kind"),
            small_integer("actor_kind"),
            uuid("actor_id"),
            string_null("operation"),
            json_binary("ids"),
        ],
    )
    .index(&["organization_id", "id"])
    .index(&["at"])
    .within(&["organization_id"], &["kind", "actor_id"]),
}
