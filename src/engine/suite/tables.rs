//! The engine's tables for its own tests, read from the text of the migrations: those stay their only definition, though
//! they are a room that the engine may not use.

use sea_orm::sea_query::{Alias, ColumnDef, Index, Table};
use sea_orm::{ConnectionTrait, DbErr};

const MIGRATIONS: [&str; 2] = [
    include_str!("../../../migrations/m0001_engine.rs"),
    include_str!("../../../migrations/m0016_master_key_envelopes.rs"),
];

/// Makes them.
pub async fn create(connection: &impl ConnectionTrait) -> Result<(), DbErr> {
    for migration in MIGRATIONS {
        create_those_of(connection, migration).await?;
    }
    Ok(())
}

async fn create_those_of(connection: &impl ConnectionTrait, migration: &str) -> Result<(), DbErr> {
    let (_, body) = migration.split_once("fn tables()").expect("the migration has a list of tables");
    let (tables, indexes) = body.split_once("fn indexes()").expect("the migration has a list of indexes");
    for text in tables.split("table(\"").skip(1) {
        let mut table = Table::create();
        table.table(Alias::new(quoted(text)));
        for column in text.split(".col(").skip(1) {
            let (kind, rest) = column.split_once("(\"").expect("a column is a type and a name");
            let mut definition = ColumnDef::new(Alias::new(quoted(rest)));
            match kind.trim_end_matches("_null") {
                "big_integer" => definition.big_integer(),
                "integer" => definition.integer(),
                "small_integer" => definition.small_integer(),
                "string" => definition.string(),
                "text" => definition.text(),
                "binary" => definition.binary(),
                "uuid" => definition.uuid(),
                "timestamp_with_time_zone" => definition.timestamp_with_time_zone(),
                other => panic!("the migration has columns of the type {other}, which these tests do not know"),
            };
            if !kind.ends_with("_null") {
                definition.not_null();
            }
            if rest.contains(".primary_key()") {
                definition.primary_key();
            }
            table.col(&mut definition);
        }
        if let Some((_, key)) = text.split_once("primary(&[") {
            let mut index = Index::create();
            list(key).for_each(|column| {
                index.col(Alias::new(column));
            });
            table.primary_key(&mut index);
        }
        connection.execute(&table).await?;
    }
    for text in indexes.split("index(\"").skip(1) {
        let table = quoted(text);
        let (_, columns) = text.split_once("&[").expect("an index has columns");
        let columns: Vec<&str> = list(columns).collect();
        let mut index = Index::create();
        index.name(format!("ix_{table}_{}", columns.join("_"))).table(Alias::new(table));
        columns.iter().for_each(|column| {
            index.col(Alias::new(*column));
        });
        if text.split_once(']').is_some_and(|(_, rest)| rest.starts_with(", true")) {
            index.unique();
        }
        connection.execute(&index).await?;
    }
    Ok(())
}

fn quoted(text: &str) -> &str {
    text.split('"').next().unwrap_or_default()
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(']')
        .next()
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().trim_matches('"'))
        .filter(|n| !n.is_empty())
}
