//! The installation: settings that are changed while it runs, features, and what was changed when.

use sea_orm_migration::schema::{
    boolean, json_binary, small_integer, string, text, text_null, timestamp_with_time_zone, uuid,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "installation_settings",
        [
            uuid("installation_id"),
            string("setting"),
            text_null("value"),
            timestamp_with_time_zone("changed_at"),
        ],
    )
    .index(&["installation_id", "id"]),
    ReadModel::new(
        "features",
        [
            uuid("installation_id"),
            string("key"),
            text("description"),
            boolean("enabled"),
            json_binary("overrides"),
            timestamp_with_time_zone("changed_at"),
        ],
    )
    .index(&["installation_id", "id"]),
    ReadModel::new(
        "installation_changes",
        [
            uuid("installation_id"),
            string("event_type"),
            json_binary("data"),
            small_integer("actor_kind"),
            uuid("actor_id"),
            timestamp_with_time_zone("at"),
        ],
    )
    .index(&["installation_id", "id"]),
}
