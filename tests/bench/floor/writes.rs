//! Raw transactions with the rows of renamed projects.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};

use oriel_engine::db::Location;
use oriel_engine::{Database, Sources as _, SystemSources};
use oriel_migrations::{Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, Statement, TransactionTrait, Value};
use uuid::Uuid;

const EVENTS: &[&str] = &[
    "position",
    "id",
    "organization_id",
    "sequence",
    "stream",
    "subject_id",
    "version",
    "type",
    "type_version",
    "actor_kind",
    "actor_id",
    "at",
    "correlation_id",
    "causation_id",
    "data",
    "hash",
];
const COMMANDS: &[&str] = &["id", "input_hash", "position", "subject_id", "at"];
const PROJECTS: &[&str] = &[
    "id",
    "organization_id",
    "name",
    "key",
    "description",
    "status",
    "owner_id",
    "member_count",
    "document_count",
    "storage_used",
    "created_at",
    "updated_at",
    "version",
    "counted_position",
];

/// A database with the same tables, and nobody else in it.
pub struct Writes {
    database: Database,
    head: AtomicI64,
}

/// Projects are found again, as Oriel finds those that it renames.
fn project(n: i64) -> Uuid {
    Uuid::from_u128(1 + n as u128)
}

impl Writes {
    pub async fn open(location: &Location) -> Self {
        let database = Database::open(location, 2).await.unwrap();
        Migrator::up(database.writer(), None).await.unwrap();
        Self { database, head: AtomicI64::new(0) }
    }

    /// One transaction with so many events, commands and changed projects, in one statement each, and the row that says
    /// what changed.
    pub async fn transaction(&self, rows: usize) {
        let rows = rows as i64;
        let head = self.head.fetch_add(rows, Ordering::Relaxed);
        let (now, organization) = (SystemSources.now(), Uuid::from_u128(1));
        let (mut events, mut commands, mut projects) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..rows {
            let (id, position) = (Uuid::now_v7(), head + 1 + n);
            let name = format!("Name {position}");
            events.extend([
                position.into(),
                id.into(),
                organization.into(),
                position.into(),
                "project".into(),
                project(n).into(),
                (position as i32).into(),
                "project_updated".into(),
                1i16.into(),
                1i16.into(),
                organization.into(),
                now.into(),
                id.into(),
                None::<Uuid>.into(),
                format!(r#"{{"name":"{name}"}}"#).into_bytes().into(),
                vec![0u8; 32].into(),
            ]);
            commands.extend([id.into(), vec![0u8; 32].into(), position.into(), project(n).into(), now.into()]);
            projects.extend([
                project(n).into(),
                organization.into(),
                name.into(),
                format!("P{n}").into(),
                None::<String>.into(),
                "active".into(),
                organization.into(),
                1i32.into(),
                0i32.into(),
                0i64.into(),
                now.into(),
                now.into(),
                (position as i32).into(),
                0i64.into(),
            ]);
        }
        let replaced: Vec<String> = PROJECTS[1..].iter().map(|name| format!("{name} = excluded.{name}")).collect();
        let replace = format!(" ON CONFLICT (id) DO UPDATE SET {}", replaced.join(", "));
        let touched = format!("[\"project:{}\"]", organization.simple()).repeat(rows as usize);
        let changes = vec![Value::from(head + rows), (head + 1).into(), touched.into()];
        let transaction = self.database.writer().begin().await.unwrap();
        for (table, columns, values, behind) in [
            ("events", EVENTS, events, ""),
            ("commands", COMMANDS, commands, ""),
            ("projects", PROJECTS, projects, replace.as_str()),
            ("changes", &["position", "first_position", "touched"], changes, ""),
        ] {
            let sql = insert(table, columns, values.len() / columns.len()) + behind;
            let statement = Statement::from_sql_and_values(self.database.backend(), sql, values);
            transaction.execute_raw(statement).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
}

fn insert(table: &str, columns: &[&str], rows: usize) -> String {
    let mut sql = format!("INSERT INTO {table} ({}) VALUES ", columns.join(", "));
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=columns.len() {
            let comma = if column == 1 { "" } else { ", " };
            let _ = write!(sql, "{comma}${}", row * columns.len() + column);
        }
        sql.push(')');
    }
    sql
}
