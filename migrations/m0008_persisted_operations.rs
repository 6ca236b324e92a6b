//! Persisted operations, and what finds them: the hash that clients send, or the SHA-256 of the text.

use sea_orm_migration::schema::{integer, small_integer, string, text, text_null, timestamp_with_time_zone, uuid};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "persisted_operations",
        [
            uuid("organization_id"),
            string("hash"),
            string("sha256"),
            text_null("name"),
            string("kind"),
            text("body"),
            small_integer("published_by_kind"),
            uuid("published_by_id"),
            timestamp_with_time_zone("created_at"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"])
    .index(&["organization_id", "sha256"])
    .within(&["organization_id"], &["hash", "name", "kind", "created_at"]),
}
