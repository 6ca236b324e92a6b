//! The tables of the engine: the log and what moves along it. No product word.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, binary, binary_null, integer, small_integer, string, string_null, text, text_null,
    timestamp_with_time_zone, timestamp_with_time_zone_null, uuid, uuid_null,
};

use sea_orm_migration::sea_orm::DbBackend;

/// See the module.
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_engine"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let in_segments = manager.get_database_backend() == DbBackend::Postgres;
        for table in tables() {
            match SEGMENTED.into_iter().find(|name| in_segments && is_called(&table, name)) {
                Some(name) => create_in_segments(manager, name, &table).await?,
                None => manager.create_table(table).await?,
            }
        }
        for (table, mut index) in indexes() {
            if in_segments && SEGMENTED.contains(&table) && index.is_unique_key() {
                // What is unique in a partitioned table names its position; a segment has such indexes of its own.
                index.table(Alias::new(format!("{table}_0")));
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

/// What grows with the log. On PostgreSQL it is partitioned by ranges of positions; the engine makes the next segments, each
/// as wide as the one before and with its indexes.
const SEGMENTED: [&str; 2] = ["events", "changes"];
/// Positions of the first segment: more than are written while the next one is made, and few enough segments for a log of a
/// billion events to be looked through by an aggregate's id.
const SEGMENT: i64 = 1 << 25;

async fn create_in_segments(
    manager: &SchemaManager<'_>,
    name: &str,
    table: &TableCreateStatement,
) -> Result<(), DbErr> {
    let whole = format!("{} PARTITION BY RANGE (\"position\")", table.to_string(PostgresQueryBuilder));
    let first = format!("CREATE TABLE \"{name}_0\" PARTITION OF \"{name}\" FOR VALUES FROM (0) TO ({SEGMENT})");
    for sql in [whole, first] {
        manager.get_connection().execute_unprepared(&sql).await?;
    }
    Ok(())
}

fn is_called(table: &TableCreateStatement, name: &str) -> bool {
    table.to_string(PostgresQueryBuilder).starts_with(&format!("CREATE TABLE \"{name}\" "))
}

pub(crate) fn table(name: &'static str) -> TableCreateStatement {
    Table::create().table(Alias::new(name)).to_owned()
}

/// An index, and the table that it is of.
pub(crate) fn index(
    table: &'static str,
    columns: &[&'static str],
    unique: bool,
) -> (&'static str, IndexCreateStatement) {
    let mut index = Index::create();
    index.name(format!("ix_{table}_{}", columns.join("_"))).table(Alias::new(table));
    for column in columns {
        index.col(Alias::new(*column));
    }
    if unique {
        index.unique();
    }
    (table, index)
}

fn primary(columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create();
    for column in columns {
        index.col(Alias::new(*column));
    }
    index.primary();
    index.to_owned()
}

fn tables() -> Vec<TableCreateStatement> {
    vec![
        // The log. `data` is the payload, byte for byte what was hashed.
        table("events")
            .col(big_integer("position").primary_key())
            .col(uuid("id"))
            .col(uuid("organization_id"))
            .col(big_integer("sequence"))
            .col(string("stream"))
            .col(uuid("subject_id"))
            .col(integer("version"))
            .col(string("type"))
            .col(small_integer("type_version"))
            .col(small_integer("actor_kind"))
            .col(uuid("actor_id"))
            .col(timestamp_with_time_zone("at"))
            .col(uuid("correlation_id"))
            .col(uuid_null("causation_id"))
            .col(binary("data"))
            .col(binary("hash"))
            .to_owned(),
        // Commands that wrote something: a retry is answered from here.
        table("commands")
            .col(uuid("id").primary_key())
            .col(binary("input_hash"))
            .col(big_integer("position"))
            .col(uuid("subject_id"))
            .col(timestamp_with_time_zone("at"))
            .to_owned(),
        // Rules between aggregates.
        table("facts")
            .col(string("scope"))
            .col(string("value"))
            .primary_key(&mut primary(&["scope", "value"]))
            .to_owned(),
        // What each batch touched, compact: one row per batch, at its last position.
        table("changes")
            .col(big_integer("position").primary_key())
            .col(big_integer("first_position"))
            .col(text("touched"))
            .to_owned(),
        // Generations of read models.
        table("read_models")
            .col(string("name"))
            .col(integer("generation"))
            .col(integer("version"))
            .col(string("state"))
            .col(big_integer("position"))
            .primary_key(&mut primary(&["name", "generation"]))
            .to_owned(),
        // How far each shared consumer is, and which node follows for all of them.
        table("consumers")
            .col(string("name").primary_key())
            .col(big_integer("position"))
            .col(uuid_null("event_id"))
            .col(uuid_null("holder"))
            .col(big_integer("fence"))
            .col(timestamp_with_time_zone_null("leased_until"))
            .col(text_null("last_error"))
            .col(integer("attempts"))
            .col(timestamp_with_time_zone("updated_at"))
            .to_owned(),
        // Events that a consumer set aside after bounded retries.
        table("consumer_failures")
            .col(string("consumer"))
            .col(big_integer("position"))
            .col(uuid("event_id"))
            .col(integer("attempts"))
            .col(text("error"))
            .col(timestamp_with_time_zone("at"))
            .primary_key(&mut primary(&["consumer", "position"]))
            .to_owned(),
        // Work outside the log, made by reactors and claimed by workers.
        table("jobs")
            .col(uuid("id").primary_key())
            .col(string("queue"))
            .col(uuid("organization_id"))
            .col(uuid("subject_id"))
            .col(big_integer("position"))
            .col(text("payload"))
            .col(string("state"))
            .col(integer("attempts"))
            .col(timestamp_with_time_zone("run_at"))
            .col(timestamp_with_time_zone_null("leased_until"))
            .col(big_integer("fence"))
            .col(text_null("last_error"))
            .col(timestamp_with_time_zone("created_at"))
            .col(timestamp_with_time_zone_null("finished_at"))
            .to_owned(),
        // The master keys that wrap or wrapped, in the order of their turns: ids and times, never the keys.
        table("master_keys")
            .col(integer("turn").primary_key())
            .col(string("id"))
            .col(timestamp_with_time_zone("since"))
            .col(timestamp_with_time_zone_null("replaced_at"))
            .col(timestamp_with_time_zone_null("emptied_at"))
            .col(uuid_null("command"))
            .to_owned(),
        // A key for each person and each organisation, wrapped by a master key. `wrapped` is null once it is destroyed.
        table("data_keys")
            .col(uuid("id").primary_key())
            .col(binary_null("wrapped"))
            .col(string_null("wrapped_by"))
            .to_owned(),
        // Keys of the installation, wrapped by a master key.
        table("secrets")
            .col(string("name"))
            .col(uuid("key_id"))
            .col(binary("wrapped"))
            .col(string("wrapped_by"))
            .col(timestamp_with_time_zone("created_at"))
            .primary_key(&mut primary(&["name", "key_id"]))
            .to_owned(),
        // One row: which history this is, and on PostgreSQL the timeline of the server that it is written on.
        table("installation")
            .col(integer("one").primary_key())
            .col(uuid("incarnation"))
            .col(text_null("timeline"))
            .to_owned(),
    ]
}

fn indexes() -> Vec<(&'static str, IndexCreateStatement)> {
    vec![
        index("events", &["subject_id", "version"], true),
        index("events", &["organization_id", "sequence"], true),
        index("events", &["id"], true),
        index("events", &["organization_id", "type", "position"], false),
        index("events", &["organization_id", "actor_id", "position"], false),
        index("events", &["organization_id", "at", "position"], false),
        index("events", &["organization_id", "subject_id", "position"], false),
        index("events", &["organization_id", "position"], false),
        index("master_keys", &["id"], true),
        index("commands", &["at"], false),
        index("jobs", &["queue", "state", "run_at"], false),
        index("jobs", &["queue", "state", "organization_id", "position", "id"], false),
        index("jobs", &["subject_id", "state", "position"], false),
    ]
}
