//! Everything that is held about a person, as files for that person.

use sea_orm_migration::schema::{
    big_integer_null, integer, string, string_null, text_null, timestamp_with_time_zone, timestamp_with_time_zone_null,
    uuid,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "data_exports",
        [
            uuid("user_id"),
            string("status"),
            timestamp_with_time_zone("created_at"),
            integer("attempts"),
            text_null("reason"),
            timestamp_with_time_zone_null("completed_at"),
            timestamp_with_time_zone_null("ends_at"),
            big_integer_null("size"),
            string_null("sha256"),
            string_null("blob"),
            integer("version"),
        ],
    )
    .index(&["user_id", "id"])
    .index(&["status", "ends_at"]),
}
