//! Persons of the installation.

use sea_orm_migration::schema::{integer, string_null, text, text_null};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "users",
        [
            text_null("email"),
            string_null("email_hash"),
            text("name"),
            text_null("username"),
            string_null("username_hash"),
            text_null("password_hash"),
            integer("version"),
        ],
    )
    .unique(&["email_hash"])
    .unique(&["username_hash"]),
}
