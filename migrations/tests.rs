//! The migrations on an empty database. What they made is compared with the entities beside the read models.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement, TransactionTrait,
};

use super::migrate::{LOCK, migrate_as};
use super::{MigrateError, Migrated, Migrator, Patience, migrate};

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
        assert!(!statement.contains(" DEFAULT ") && !statement.contains(" REFERENCES "), "{statement}");
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

#[tokio::test]
async fn an_index_of_one_database_is_on_the_same_table_of_the_other() {
    let Some((postgres, _)) = two_nodes().await else { return };
    let sqlite = empty().await;
    Migrator::up(&sqlite, None).await.unwrap();
    migrate(&postgres).await.unwrap();
    let sql = "SELECT tbl_name || ' ' || name || CASE WHEN sql LIKE 'CREATE UNIQUE%' THEN ' unique' ELSE '' END \
               FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1";
    let expected = texts(&sqlite, sql).await;
    assert!(expected.len() > 30, "{expected:?}");
    // What is unique in a table of segments is so in each.
    let sql = "SELECT CAST(regexp_replace(tablename, '_0$', '') || ' ' || indexname \
               || CASE WHEN indexdef LIKE 'CREATE UNIQUE%' THEN ' unique' ELSE '' END AS text) \
               FROM pg_indexes WHERE schemaname = current_schema()";
    let rows = postgres.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    let found: BTreeSet<String> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
    for index in expected {
        assert!(found.contains(&index), "{index} is missing: {found:#?}");
    }
}

// --- while others work on the database --------------------------------------------------------------------------------

/// The engine's own tests use the same server.
#[path = "../src/engine/testing.rs"]
#[allow(dead_code)]
mod testing;

/// The release after this one.
struct Later;

#[async_trait::async_trait]
impl MigratorTrait for Later {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut migrations = Migrator::migrations();
        migrations.push(Box::new(Colour));
        migrations
    }
}

struct Colour;

impl MigrationName for Colour {
    fn name(&self) -> &'static str {
        "m9999_colour"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Colour {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared("ALTER TABLE projects ADD COLUMN colour TEXT").await?;
        Ok(())
    }
}

fn colour() -> String {
    Colour.name().to_owned()
}

/// A short one: what is waited for in these tests does not come.
const PATIENCE: Patience =
    Patience { whole: Duration::from_millis(600), lock: Duration::from_millis(100), pause: Duration::from_millis(20) };

/// Two that are connected to the same new database; nothing where PostgreSQL is not installed.
async fn two_nodes() -> Option<(DatabaseConnection, DatabaseConnection)> {
    let server = tokio::task::spawn_blocking(testing::postgres).await.unwrap()?;
    let url = tokio::task::spawn_blocking(|| server.fresh_database()).await.unwrap();
    let connect = || {
        let mut options = ConnectOptions::new(&url);
        options.sqlx_logging(false);
        Database::connect(options)
    };
    Some((connect().await.unwrap(), connect().await.unwrap()))
}

#[tokio::test]
async fn of_two_that_start_at_once_one_migrates() {
    let Some((one, other)) = two_nodes().await else { return };
    let (first, second) = tokio::join!(migrate(&one), migrate(&other));
    let (first, second) = (first.unwrap().applied, second.unwrap().applied);
    assert_eq!((first.min(second), first.max(second)), (0, Migrator::migrations().len()));
    assert_eq!(migrate(&one).await.unwrap(), Migrated::default());
}

#[tokio::test]
async fn who_waits_for_another_that_migrates_waits_so_long_and_no_longer() {
    let Some((one, other)) = two_nodes().await else { return };
    let migrating = one.begin().await.unwrap();
    migrating.execute_unprepared(LOCK).await.unwrap();
    let refused = migrate_as::<Migrator>(&other, &[], PATIENCE).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Busy(_)), "{refused}");
    migrating.rollback().await.unwrap();
    assert_eq!(migrate(&other).await.unwrap().applied, Migrator::migrations().len());
}

#[tokio::test]
async fn a_migration_does_not_stand_in_the_way_of_those_behind_it() {
    let Some((one, other)) = two_nodes().await else { return };
    migrate(&one).await.unwrap();
    let reading = one.begin().await.unwrap();
    reading.execute_unprepared("SELECT count(*) FROM projects").await.unwrap();
    let migrating = migrate_as::<Later>(&other, &[], PATIENCE);
    let others = async {
        // Each of them would wait behind a lock that is waited for.
        for _ in 0..200 {
            let sql = "SET statement_timeout = '5s'; SELECT count(*) FROM projects";
            one.execute_unprepared(sql).await.unwrap();
        }
    };
    let (refused, ()) = tokio::join!(migrating, others);
    assert!(matches!(refused, Err(MigrateError::Held(_))), "{refused:?}");
    assert_eq!(migrate(&one).await.unwrap(), Migrated::default(), "nothing of it is there");
    reading.rollback().await.unwrap();
    assert_eq!(migrate_as::<Later>(&other, &[], PATIENCE).await.unwrap().applied, 1);
}

#[tokio::test]
async fn a_program_lives_with_what_a_newer_one_added_and_refuses_what_took_something_away() {
    let mut databases = vec![empty().await];
    databases.extend(two_nodes().await.map(|(one, _)| one));
    for db in databases {
        migrate(&db).await.unwrap();
        migrate_as::<Later>(&db, &[], PATIENCE).await.unwrap();
        let expected = Migrated { applied: 0, unknown: vec![colour()] };
        assert_eq!(migrate(&db).await.unwrap(), expected);
        let forget = format!("DELETE FROM schema_compatibility WHERE version = '{}'", colour());
        db.execute_unprepared(&forget).await.unwrap();
        let refused = migrate(&db).await.unwrap_err();
        assert!(matches!(refused, MigrateError::Newer { .. }), "nothing is said of it: {refused}");
    }
    let mut databases = vec![empty().await];
    databases.extend(two_nodes().await.map(|(one, _)| one));
    for db in databases {
        let name = colour();
        migrate_as::<Later>(&db, &[(&name, &name)], PATIENCE).await.unwrap();
        let refused = migrate(&db).await.unwrap_err().to_string();
        assert!(refused.contains(&name) && refused.contains("Start the newer release"), "{refused}");
        assert_eq!(migrate_as::<Later>(&db, &[], PATIENCE).await.unwrap(), Migrated::default());
    }
}

#[tokio::test]
async fn two_lines_of_releases_do_not_share_a_database() {
    let db = empty().await;
    migrate_as::<Later>(&db, &[], PATIENCE).await.unwrap();
    let last = Migrator::migrations().last().unwrap().name().to_owned();
    db.execute_unprepared(&format!("DELETE FROM seaql_migrations WHERE version = '{last}'")).await.unwrap();
    let refused = migrate(&db).await.unwrap_err().to_string();
    assert!(refused.contains(&colour()) && refused.contains(&last), "{refused}");
}
