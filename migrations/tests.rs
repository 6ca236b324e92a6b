//! The migrations on an empty database. What they made is compared with the entities beside the read models.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};

use super::Migrator;

async fn empty() -> DatabaseConnection {
    let mut options = ConnectOptions::new("sqlite::memory:");
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

async fn texts(db: &DatabaseConnection, sql: &str) -> Vec<String> {
    let rows = db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

#[tokio::test]
async fn every_migration_runs_and_runs_once() {
    let db = empty().await;
    Migrator::up(&db, None).await.unwrap();
    let before = texts(&db, "SELECT name FROM sqlite_master ORDER BY name").await;
    Migrator::up(&db, None).await.unwrap();
    assert_eq!(texts(&db, "SELECT name FROM sqlite_master ORDER BY name").await, before);
    let tables: BTreeSet<&str> = before.iter().map(String::as_str).collect();
    for table in ["users", "organizations", "members", "sessions", "projects", "project_members", "documents"] {
        assert!(tables.contains(table), "{table}");
    }
}

#[tokio::test]
async fn no_defaults_and_no_foreign_keys() {
    let db = empty().await;
    Migrator::up(&db, None).await.unwrap();
    let sql = texts(&db, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'seaql_migrations'").await;
    assert!(sql.len() > 30, "{sql:?}");
    for statement in sql {
        let statement = statement.to_uppercase();
        assert!(!statement.contains(" DEFAULT ") && !statement.contains("REFERENCES"), "{statement}");
    }
}

#[test]
fn names_are_numbered_without_gaps_and_fit_their_files() {
    let names: Vec<String> = Migrator::migrations().iter().map(|m| m.name().to_owned()).collect();
    for (number, name) in (1..).zip(&names) {
        assert!(name.starts_with(&format!("m{number:04}_")), "{name}");
    }
}

#[tokio::test]
async fn index_names_fit_both_databases() {
    let db = empty().await;
    Migrator::up(&db, None).await.unwrap();
    for name in texts(&db, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").await {
        // PostgreSQL cuts longer names, and two that were cut may be one.
        assert!(name.starts_with("ix_") && name.len() <= 63, "{name}");
    }
}
