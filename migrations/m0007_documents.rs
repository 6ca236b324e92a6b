//! Documents, and the files that each has had.

use sea_orm_migration::schema::{
    big_integer, integer, integer_null, json_binary, json_binary_null, string, string_null, text, text_null,
    timestamp_with_time_zone, timestamp_with_time_zone_null, uuid,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "documents",
        [
            uuid("organization_id"),
            uuid("project_id"),
            text("title"),
            text("file_name"),
            string("media_type"),
            big_integer("size"),
            big_integer("storage_used"),
            string("sha256"),
            string("status"),
            json_binary("pipeline"),
            json_binary("tags"),
            uuid("uploaded_by_id"),
            integer_null("page_count"),
            string_null("language"),
            timestamp_with_time_zone("created_at"),
            timestamp_with_time_zone("updated_at"),
            timestamp_with_time_zone_null("trashed_at"),
            integer("version"),
            integer("revision"),
            text("blob"),
            text_null("text_blob"),
            json_binary_null("scan"),
        ],
    )
    .index(&["organization_id", "id"])
    .within(
        &["organization_id"],
        &["title", "media_type", "size", "status", "project_id", "uploaded_by_id", "created_at", "updated_at"],
    )
    // The list of one project, in the orders that it is mostly wanted in.
    .index(&["project_id", "id"])
    .within(&["project_id"], &["title", "created_at", "updated_at"])
    .words(&["tags"]),
    ReadModel::new("document_revisions", [uuid("organization_id"), uuid("project_id"), json_binary("revisions")]),
}
