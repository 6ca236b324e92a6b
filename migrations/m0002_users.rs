//! Persons of the installation.

use sea_orm_migration::schema::{boolean, integer, string_null, text, text_null, timestamp_with_time_zone_null};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "users",
        [
            text_null("email"),
            string_null("email_hash"),
            boolean("email_verified"),
            text("name"),
            text_null("username"),
            string_null("username_hash"),
            text_null("password_hash"),
            timestamp_with_time_zone_null("second_factor_since"),
            integer("recovery_codes_left"),
            boolean("has_authenticator"),
            integer("passkey_count"),
            integer("version"),
        ],
    )
    .unique(&["email_hash"])
    .unique(&["username_hash"]),
}
