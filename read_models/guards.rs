//! Guards: the tables that the migrations make are the ones that the entities read, and what is declared for filters
//! and orders has an index behind the tenant. That the databases use them stands in `guards/plans.rs`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use oriel_engine::read::ReadModel;
use oriel_migrations::Migrator;
use sea_orm::sea_query::ColumnType;
use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, EntityTrait, IdenStatic,
    Iterable, Statement,
};
use sea_orm_migration::MigratorTrait;

use crate::{
    access_log, api_keys, consents, data_exports, documents, erasures, events, identities, identity_providers,
    installation, members, organizations, persisted_operations, policies, projects, retention, roles, security_events,
    sessions, users,
};

mod plans;

/// An empty database with every table: SQLite, or temporary tables on `ORIEL_TEST_POSTGRES_URL`.
pub async fn migrated() -> DatabaseConnection {
    let Ok(url) = std::env::var("ORIEL_TEST_POSTGRES_URL") else { return sqlite().await };
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).min_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    // One connection for ever, whose tables vanish with it.
    db.execute_unprepared("SET search_path TO pg_temp").await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    db
}

async fn sqlite() -> DatabaseConnection {
    let mut options = ConnectOptions::new("sqlite::memory:");
    options.max_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    db
}

/// What a table is like.
struct Table {
    name: &'static str,
    /// Name, and whether it may be null.
    columns: BTreeMap<String, bool>,
    indexes: Vec<Vec<String>>,
}

async fn rows(db: &DatabaseConnection, sql: String) -> Vec<sea_orm::QueryResult> {
    db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap()
}

impl Table {
    async fn of(db: &DatabaseConnection, name: &'static str) -> Self {
        let mut columns = BTreeMap::new();
        for row in rows(db, format!("PRAGMA table_info('{name}')")).await {
            let key: i32 = row.try_get("", "pk").unwrap();
            let required: i32 = row.try_get("", "notnull").unwrap();
            columns.insert(row.try_get("", "name").unwrap(), required == 0 && key == 0);
        }
        let mut indexes = Vec::new();
        for row in rows(db, format!("PRAGMA index_list('{name}')")).await {
            let index: String = row.try_get("", "name").unwrap();
            let parts = rows(db, format!("PRAGMA index_info('{index}')")).await;
            indexes.push(parts.iter().map(|part| part.try_get("", "name").unwrap()).collect());
        }
        Self { name, columns, indexes }
    }

    fn has_index(&self, columns: &[&str]) -> bool {
        self.indexes
            .iter()
            .any(|index| index.iter().map(String::as_str).take(columns.len()).eq(columns.iter().copied()))
    }
}

/// `tenant` is the column that every list of this read model names. The table, and whether it has such lists.
async fn check<M: ReadModel>(db: &DatabaseConnection, tenant: &str, collections: &[&str]) -> (&'static str, bool) {
    let table = Table::of(db, M::TABLE).await;
    let columns = <M::Entity as EntityTrait>::Column::iter().map(|c| (c.as_str().to_owned(), c.def().is_null()));
    assert_eq!(table.columns, columns.collect::<BTreeMap<_, _>>(), "{}", table.name);
    for column in collections {
        assert!(table.has_index(&[column]), "{}: no index for the collection by {column}", table.name);
    }
    (M::TABLE, indexed::<M>(&table, tenant))
}

/// What is declared for filters and orders has an index. Whether anything is.
fn indexed<M: ReadModel>(table: &Table, tenant: &str) -> bool {
    let declared = M::declared();
    for column in declared.filters.iter().chain(declared.orders) {
        // Lists of words have an inverted index on PostgreSQL and none on SQLite.
        let words = matches!(column.def().get_column_type(), ColumnType::JsonBinary);
        assert!(
            words || table.has_index(&[tenant, column.as_str()]),
            "{}: no index for {}",
            table.name,
            column.as_str()
        );
    }
    !declared.filters.is_empty() || !declared.orders.is_empty()
}

#[tokio::test]
async fn tables_are_what_the_entities_say_and_declared_columns_have_an_index() {
    let db = sqlite().await;
    // The same table, as it is listed.
    let accounts = indexed::<organizations::accounts::Model>(&Table::of(&db, "organizations").await, "installation_id");
    let checked = [
        check::<users::Model>(&db, "id", &["email_hash", "username_hash"]).await,
        check::<users::passkeys::Model>(&db, "id", &["handle"]).await,
        check::<users::preferences::Model>(&db, "id", &[]).await,
        (check::<organizations::Model>(&db, "id", &["created_position", "installation_id"]).await.0, accounts),
        check::<organizations::standings::Model>(&db, "id", &["ends_at"]).await,
        check::<erasures::Model>(&db, "id", &[]).await,
        check::<data_exports::Model>(&db, "user_id", &["user_id"]).await,
        check::<access_log::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<policies::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<consents::Model>(&db, "organization_id", &["user_id"]).await,
        check::<installation::Model>(&db, "installation_id", &["installation_id"]).await,
        check::<installation::features::Model>(&db, "installation_id", &["installation_id"]).await,
        check::<installation::changes::Model>(&db, "installation_id", &["installation_id"]).await,
        check::<retention::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<members::Model>(&db, "organization_id", &["organization_id", "user_id"]).await,
        check::<sessions::Model>(&db, "user_id", &["user_id"]).await,
        check::<projects::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<projects::members::Model>(&db, "organization_id", &["project_id", "member_id"]).await,
        check::<documents::Model>(&db, "organization_id", &["organization_id", "project_id"]).await,
        check::<documents::revisions::Model>(&db, "organization_id", &[]).await,
        check::<persisted_operations::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<roles::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<api_keys::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<security_events::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<identity_providers::Model>(&db, "organization_id", &["organization_id"]).await,
        check::<identities::Model>(&db, "organization_id", &["user_id", "subject_hash"]).await,
        check::<api_keys::uses::Model>(&db, "organization_id", &[]).await,
        check::<events::Model>(&db, "organization_id", &["organization_id", "subject_id", "id"]).await,
    ];
    assert!(Table::of(&db, "persisted_operations").await.has_index(&["organization_id", "sha256"]));
    // Every read model is checked, and the plans of those that are listed are.
    let mut tables: Vec<&str> = crate::read_models().iter().map(|read_model| read_model.table()).collect();
    tables.push(events::Model::TABLE);
    for table in tables {
        let (_, listed) = checked.iter().find(|(name, _)| *name == table).unwrap_or_else(|| panic!("{table}"));
        assert_eq!(
            *listed,
            plans::EXPLAINED.contains(&table),
            "{table}: its plans stand in `guards/plans.rs` if it is listed"
        );
    }
}

#[tokio::test]
#[should_panic(expected = "no index for title")]
async fn the_guard_itself_goes_red() {
    let db = sqlite().await;
    db.execute_unprepared("DROP INDEX ix_documents_organization_id_title_id").await.unwrap();
    check::<documents::Model>(&db, "organization_id", &[]).await;
}

#[test]
fn every_projection_is_listed_once() {
    let tables: Vec<_> = crate::read_models().iter().map(|read_model| read_model.table()).collect();
    let mut once = tables.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), tables.len());
    for decoder in oriel_domain::DECODERS {
        assert!(crate::read_models().iter().any(|read_model| read_model.takes(decoder.stream)), "{}", decoder.stream);
    }
}
