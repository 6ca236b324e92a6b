//! Many rows in one statement, the same way on both databases: the rows travel as one JSON parameter.
//!
//! This is the write path of the log and of every read model. It has no limit on the number of bound values, and on
//! PostgreSQL several tables are written in one round trip.

use std::fmt::Write as _;

use sea_orm::{ColumnType, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

/// How a value stands in the JSON, and how SQL takes it out again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Plain,
    Uuid,
    Bytes,
    Json,
}

/// What happens to a row whose key is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnConflict {
    /// The statement fails.
    Fail,
    /// All other columns are replaced. The key is the column `id`.
    Replace,
    /// It stays as it is.
    Skip,
}

/// Rows for one table.
#[derive(Debug)]
pub(crate) struct Bulk {
    backend: DbBackend,
    table: String,
    columns: Vec<(String, Kind)>,
    on_conflict: OnConflict,
    json: String,
    rows: usize,
}

/// Rows to remove from one table.
#[derive(Debug)]
enum Removal {
    ById { table: String, json: String },
    Facts { json: String },
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    bulks: Vec<Bulk>,
    removals: Vec<Removal>,
}

impl Bulk {
    pub(crate) fn new(
        backend: DbBackend,
        table: &str,
        columns: &[(&str, ColumnType)],
        on_conflict: OnConflict,
    ) -> Self {
        let columns = columns.iter().map(|(name, column_type)| ((*name).to_owned(), kind(column_type))).collect();
        Self { backend, table: table.to_owned(), columns, on_conflict, json: String::from("["), rows: 0 }
    }

    /// Adds a row: a value for each column, in order.
    pub(crate) fn row(&mut self, values: impl IntoIterator<Item = Value>) -> Result<(), DbErr> {
        self.json.push_str(if self.rows == 0 { "{" } else { ",{" });
        let mut first = true;
        for ((name, _), value) in self.columns.iter().zip(values) {
            let before = self.json.len();
            if !first {
                self.json.push(',');
            }
            // Column names are identifiers of ours: nothing in them wants escaping.
            let _ = write!(self.json, "\"{name}\":");
            if write_value(&mut self.json, value, self.backend)? {
                first = false;
            } else {
                self.json.truncate(before); // NULL: a key that is not there
            }
        }
        self.json.push('}');
        self.rows += 1;
        Ok(())
    }

    fn sql(&self, parameter: usize) -> String {
        let quoted: Vec<String> = self.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let list = quoted.join(", ");
        let table = &self.table;
        let mut sql = match self.backend {
            DbBackend::Postgres => format!(
                "INSERT INTO \"{table}\" ({list}) SELECT {list} FROM json_populate_recordset(NULL::\"{table}\", ${parameter}::json)"
            ),
            _ => {
                let taken: Vec<String> = self
                    .columns
                    .iter()
                    .map(|(name, kind)| match kind {
                        Kind::Plain => format!("value ->> '$.{name}'"),
                        Kind::Uuid | Kind::Bytes => format!("unhex(value ->> '$.{name}')"),
                        Kind::Json => format!("value -> '$.{name}'"),
                    })
                    .collect();
                format!(
                    "INSERT INTO \"{table}\" ({list}) SELECT {} FROM json_each(${parameter}) WHERE true",
                    taken.join(", ")
                )
            }
        };
        match self.on_conflict {
            OnConflict::Fail => {}
            OnConflict::Skip => sql.push_str(" ON CONFLICT DO NOTHING"),
            OnConflict::Replace => {
                let replaced: Vec<String> =
                    quoted.iter().filter(|c| *c != "\"id\"").map(|c| format!("{c} = excluded.{c}")).collect();
                let _ = write!(sql, " ON CONFLICT (\"id\") DO UPDATE SET {}", replaced.join(", "));
            }
        }
        sql
    }
}

impl Removal {
    fn sql(&self, backend: DbBackend, parameter: usize) -> String {
        match (self, backend) {
            (Self::ById { table, .. }, DbBackend::Postgres) => format!(
                "DELETE FROM \"{table}\" WHERE \"id\" IN (SELECT value::uuid FROM json_array_elements_text(${parameter}::json))"
            ),
            (Self::ById { table, .. }, _) => {
                format!("DELETE FROM \"{table}\" WHERE \"id\" IN (SELECT unhex(value) FROM json_each(${parameter}))")
            }
            (Self::Facts { .. }, DbBackend::Postgres) => format!(
                "DELETE FROM facts USING json_array_elements(${parameter}::json) AS gone \
                 WHERE facts.scope = gone ->> 0 AND facts.value = gone ->> 1"
            ),
            (Self::Facts { .. }, _) => format!(
                "DELETE FROM facts WHERE (scope, value) IN (SELECT value ->> 0, value ->> 1 FROM json_each(${parameter}))"
            ),
        }
    }

    fn json(self) -> String {
        match self {
            Self::ById { json, .. } | Self::Facts { json } => json,
        }
    }
}

impl Writes {
    pub(crate) fn insert(&mut self, bulk: Bulk) {
        if bulk.rows > 0 {
            self.bulks.push(bulk);
        }
    }

    pub(crate) fn remove(&mut self, table: &str, ids: &[Uuid]) {
        if !ids.is_empty() {
            self.removals.push(Removal::ById { table: table.to_owned(), json: ids_json(ids) });
        }
    }

    pub(crate) fn remove_facts(&mut self, facts: &[(&str, &str)]) {
        if !facts.is_empty() {
            self.removals.push(Removal::Facts { json: serde_json::json!(facts).to_string() });
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.bulks.extend(other.bulks);
        self.removals.extend(other.removals);
    }

    /// Writes everything in one call: on PostgreSQL that is one round trip, on SQLite one turn of its thread. A table
    /// stands in here at most once for rows and once for removals, and the two never name the same row.
    pub(crate) async fn execute(self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        let backend = transaction.get_database_backend();
        let mut parts = Vec::new();
        let mut values: Vec<String> = Vec::new();
        for removal in self.removals {
            parts.push(removal.sql(backend, values.len() + 1));
            values.push(removal.json());
        }
        for mut bulk in self.bulks {
            parts.push(bulk.sql(values.len() + 1));
            bulk.json.push(']');
            values.push(bulk.json);
        }
        if parts.is_empty() {
            return Ok(());
        }
        let sql = if backend == DbBackend::Postgres {
            let last = parts.pop().unwrap_or_default();
            let with: Vec<String> = parts.iter().enumerate().map(|(n, part)| format!("w{n} AS ({part})")).collect();
            if with.is_empty() { last } else { format!("WITH {} {last}", with.join(", ")) }
        } else {
            parts.join("; ")
        };
        let values: Vec<Value> = values.into_iter().map(Value::from).collect();
        transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
        Ok(())
    }
}

/// Ids as the JSON that [`in_ids`] reads.
pub(crate) fn ids_json(ids: &[Uuid]) -> String {
    let mut json = String::with_capacity(ids.len() * 36 + 2);
    json.push('[');
    for (n, id) in ids.iter().enumerate() {
        let _ = write!(json, "{}\"{}\"", if n == 0 { "" } else { "," }, id.simple());
    }
    json.push(']');
    json
}

/// `column IN (the ids of parameter $n)`.
pub(crate) fn in_ids(backend: DbBackend, column: &str, parameter: usize) -> String {
    match backend {
        DbBackend::Postgres => {
            format!("{column} IN (SELECT value::uuid FROM json_array_elements_text(${parameter}::json))")
        }
        _ => format!("{column} IN (SELECT unhex(value) FROM json_each(${parameter}))"),
    }
}

fn kind(column_type: &ColumnType) -> Kind {
    match column_type {
        ColumnType::Uuid => Kind::Uuid,
        ColumnType::Blob | ColumnType::Binary(_) | ColumnType::VarBinary(_) => Kind::Bytes,
        ColumnType::Json | ColumnType::JsonBinary => Kind::Json,
        _ => Kind::Plain,
    }
}

/// Appends the value; `false` for NULL, of which nothing is appended.
fn write_value(json: &mut String, value: Value, backend: DbBackend) -> Result<bool, DbErr> {
    macro_rules! plain {
        ($value:expr) => {
            match $value {
                Some(value) => {
                    let _ = write!(json, "{value}");
                    true
                }
                None => false,
            }
        };
    }
    Ok(match value {
        Value::Bool(value) => plain!(value),
        Value::TinyInt(value) => plain!(value),
        Value::SmallInt(value) => plain!(value),
        Value::Int(value) => plain!(value),
        Value::BigInt(value) => plain!(value),
        Value::Unsigned(value) => plain!(value),
        Value::Double(value) => plain!(value),
        Value::String(Some(value)) => {
            json.push_str(&serde_json::to_string(&value).map_err(|e| DbErr::Json(e.to_string()))?);
            true
        }
        Value::Uuid(Some(value)) => {
            let _ = write!(json, "\"{}\"", value.simple());
            true
        }
        Value::Bytes(Some(value)) => {
            json.push_str(if backend == DbBackend::Postgres { "\"\\\\x" } else { "\"" });
            data_encoding::HEXLOWER.encode_append(&value, json);
            json.push('"');
            true
        }
        Value::ChronoDateTimeUtc(Some(value)) => {
            // As sqlx writes it, so that a bound parameter compares equal on SQLite.
            let _ = write!(json, "\"{}\"", value.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, false));
            true
        }
        Value::Json(Some(value)) => {
            let _ = write!(json, "{value}");
            true
        }
        Value::String(None)
        | Value::Uuid(None)
        | Value::Bytes(None)
        | Value::ChronoDateTimeUtc(None)
        | Value::Json(None) => false,
        other => {
            return Err(DbErr::Type(format!("a read model's column of this type is not written in bulk: {other:?}")));
        }
    })
}
