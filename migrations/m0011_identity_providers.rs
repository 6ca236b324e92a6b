//! The identity providers of organisations, and to which of them people are known.

use sea_orm_migration::schema::{
    boolean, integer, json_binary, string, string_null, text, text_null, timestamp_with_time_zone, uuid,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "identity_providers",
        [
            uuid("organization_id"),
            string("name"),
            text("issuer"),
            string("client_id"),
            boolean("has_client_secret"),
            json_binary("scopes"),
            json_binary("redirect_uris"),
            boolean("enabled"),
            string_null("roles_claim"),
            json_binary("role_mappings"),
            json_binary("default_roles"),
            boolean("provisions"),
            json_binary("email_domains"),
            boolean("trusts_email"),
            timestamp_with_time_zone("created_at"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"]),
    ReadModel::new(
        "identities",
        [
            uuid("organization_id"),
            uuid("provider_id"),
            uuid("user_id"),
            string("subject_hash"),
            text_null("subject"),
            text_null("email"),
            timestamp_with_time_zone("linked_at"),
        ],
    )
    .index(&["user_id"])
    .index(&["organization_id", "provider_id"])
    .index(&["subject_hash"]),
}
