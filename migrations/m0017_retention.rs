//! For how long organisations keep what may be removed, and what was removed: that is no read model, because sweeping is
//! no event.

use sea_orm_migration::schema::{
    big_integer, integer, integer_null, small_integer, string, timestamp_with_time_zone, timestamp_with_time_zone_null,
    uuid, uuid_null,
};

use crate::read_model::{ReadModel, migration};

migration! {
    ReadModel::new(
        "retentions",
        [
            uuid("organization_id"),
            string("kind"),
            integer_null("days"),
            timestamp_with_time_zone("changed_at"),
            small_integer("changed_by_kind"),
            uuid("changed_by_id"),
            integer("version"),
        ],
    )
    .index(&["organization_id", "id"])
    .index(&["kind", "days"]),
    ReadModel::new(
        "retention_sweeps",
        [
            uuid("organization_id"),
            timestamp_with_time_zone_null("swept_at"),
            big_integer("removed"),
            big_integer("removed_in_all"),
            uuid_null("holder"),
            timestamp_with_time_zone_null("leased_until"),
        ],
    ),
}
