//! What a batch stands on: one statement under the order lock.

use std::collections::{BTreeSet, HashMap};

use oriel_kernel::Position;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

use super::Proposal;
use crate::bulk::{ids_json, in_ids};

/// What the log and the facts say at the moment of the lock, about everything that the batch mentions.
#[derive(Default)]
pub(super) struct Ground {
    pub(super) head: Position,
    pub(super) chains: HashMap<Uuid, (i64, Vec<u8>)>,
    pub(super) versions: HashMap<Uuid, i32>,
    pub(super) commands: HashMap<Uuid, (Position, Uuid, Vec<u8>)>,
    pub(super) facts: BTreeSet<(String, String)>,
    pub(super) read_models: HashMap<String, i32>,
    /// Organisations and persons whose data keys were destroyed.
    pub(super) destroyed: BTreeSet<Uuid>,
}

impl Ground {
    /// One statement for the whole batch.
    pub(super) async fn read(transaction: &DatabaseTransaction, proposals: &[Proposal]) -> Result<Self, DbErr> {
        let backend = transaction.get_database_backend();
        let (mut organizations, mut subjects, mut commands) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut keys: BTreeSet<Uuid> = BTreeSet::new();
        let mut facts: BTreeSet<(&str, &str)> = BTreeSet::new();
        for proposal in proposals {
            commands.insert(proposal.command);
            keys.extend(&proposal.keys);
            subjects.extend(proposal.observed.versions.iter().map(|(id, _)| *id));
            facts.extend(proposal.observed.facts.iter().map(|f| (f.scope.as_str(), f.value.as_str())));
            for append in &proposal.appends {
                organizations.insert(append.tenant.uuid());
                subjects.insert(append.subject);
                let asked = append.facts.claim.iter().chain(&append.facts.require).map(|(fact, _)| fact);
                facts.extend(asked.chain(&append.facts.release).map(|f| (f.scope.as_str(), f.value.as_str())));
            }
        }
        let list = |ids: BTreeSet<Uuid>| Value::from(ids_json(&ids.into_iter().collect::<Vec<_>>()));
        let facts = Value::from(serde_json::json!(facts).to_string());
        let values = [list(organizations), list(subjects), list(commands), facts, list(keys)];
        let rows =
            transaction.query_all_raw(Statement::from_sql_and_values(backend, ground_sql(backend), values)).await?;
        let mut ground = Self::default();
        for row in &rows {
            ground.take(row)?;
        }
        Ok(ground)
    }

    fn take(&mut self, row: &QueryResult) -> Result<(), DbErr> {
        let id = || row.try_get::<Uuid>("", "id");
        let number = || row.try_get::<i64>("", "n");
        let text = |name: &str| row.try_get::<String>("", name);
        let small = |n: i64| i32::try_from(n).map_err(|e| DbErr::Type(e.to_string()));
        match row.try_get::<i32>("", "k")? {
            1 => self.head = Position::new(number()?),
            2 => {
                self.chains.insert(id()?, (number()?, row.try_get("", "h")?));
            }
            3 => {
                self.versions.insert(id()?, small(number()?)?);
            }
            4 => {
                self.commands.insert(id()?, (Position::new(number()?), row.try_get("", "id2")?, row.try_get("", "h")?));
            }
            5 => {
                self.facts.insert((text("a")?, text("b")?));
            }
            6 => {
                self.destroyed.insert(id()?);
            }
            _ => {
                self.read_models.insert(text("a")?, small(number()?)?);
            }
        }
        Ok(())
    }
}

fn ground_sql(backend: DbBackend) -> String {
    let (ids, pairs, null_id, null_bytes) = match backend {
        DbBackend::Postgres => (
            "(SELECT value::uuid AS id FROM json_array_elements_text($N::json))",
            "(SELECT value ->> 0 AS scope, value ->> 1 AS value FROM json_array_elements($4::json))",
            "NULL::uuid",
            "NULL::bytea",
        ),
        _ => (
            "(SELECT unhex(value) AS id FROM json_each($N))",
            "(SELECT value ->> 0 AS scope, value ->> 1 AS value FROM json_each($4))",
            "NULL",
            "NULL",
        ),
    };
    let of = |n: u8| ids.replace("$N", &format!("${n}"));
    let (organizations, subjects) = (of(1), of(2));
    let (commands, keys) = (in_ids(backend, "c.id", 3), in_ids(backend, "k.id", 5));
    let (text, big) = ("CAST(NULL AS TEXT)", "CAST(NULL AS BIGINT)");
    format!(
        "SELECT 1 AS k, {null_id} AS id, {null_id} AS id2, {text} AS a, {text} AS b, MAX(position) AS n, {null_bytes} AS h \
           FROM events HAVING MAX(position) IS NOT NULL \
         UNION ALL SELECT 2, e.organization_id, {null_id}, {text}, {text}, e.sequence, e.hash \
           FROM {organizations} o JOIN events e ON e.organization_id = o.id AND e.sequence = \
             (SELECT MAX(l.sequence) FROM events l WHERE l.organization_id = o.id) \
         UNION ALL SELECT 3, s.id, {null_id}, {text}, {text}, v.version, {null_bytes} FROM \
             (SELECT s.id, (SELECT MAX(e.version) FROM events e WHERE e.subject_id = s.id) AS version FROM {subjects} s) v \
             JOIN {subjects} s ON s.id = v.id WHERE v.version IS NOT NULL \
         UNION ALL SELECT 4, c.id, c.subject_id, {text}, {text}, c.position, c.input_hash FROM commands c WHERE {commands} \
         UNION ALL SELECT 5, {null_id}, {null_id}, f.scope, f.value, {big}, {null_bytes} \
           FROM {pairs} w JOIN facts f ON f.scope = w.scope AND f.value = w.value \
         UNION ALL SELECT 6, k.id, {null_id}, {text}, {text}, {big}, {null_bytes} \
           FROM data_keys k WHERE {keys} AND k.wrapped IS NULL \
         UNION ALL SELECT 7, {null_id}, {null_id}, r.name, r.state, r.version, {null_bytes} \
           FROM read_models r WHERE r.state = 'inline'"
    )
}
