//! What the end of an organisation and the erasure of a person ask of the log, and of what stands beside it.
//!
//! Rows of read models go by events ([`Effect`](oriel_kernel::Effect)), so that a rebuilt read model equals a grown one
//! (while it goes on, a replay shows as erased what the running one has yet to lose): here it is only found out which.
//! What is not made of the log (facts, jobs) is removed at once. Everything here may be done again. Nothing knows which
//! aggregates or read models exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use oriel_kernel::{Effect, Id, OrganizationId, Position, Recorded, UserId};
use sea_orm::{ConnectionTrait, DbErr, Value};
use uuid::Uuid;

use crate::engine::Engine;
use crate::log::LogError;

/// Events that are looked through by one statement.
const EVENTS: i64 = 10_000;

impl Engine {
    /// Rows of an organisation, of the first read model that has any, as many as one event can remove.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn some_rows(&self, organization: OrganizationId) -> Result<Option<(&'static str, Vec<Uuid>)>, DbErr> {
        for read_model in self.read_models.iter().filter(|read_model| read_model.has_tenant()) {
            let table = read_model.table();
            let most = Effect::MOST;
            let sql = format!("SELECT id FROM \"{table}\" WHERE organization_id = $1 ORDER BY id LIMIT {most}");
            let statement = self.database.statement(&sql, &sql, vec![organization.uuid().into()]);
            let rows = self.database.writer().query_all_raw(statement).await?;
            let ids = rows.iter().map(|row| row.try_get("", "id")).collect::<Result<Vec<_>, _>>()?;
            if !ids.is_empty() {
                return Ok(Some((table, ids)));
            }
        }
        Ok(None)
    }

    /// The aggregates some of whose events, up to a position, hold something about a person, sealed. The whole log is
    /// looked through, a bounded part of it at a time.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn about(&self, person: UserId, to: Position) -> Result<BTreeSet<Uuid>, LogError> {
        let sql = |holds: &str| {
            format!("SELECT DISTINCT subject_id FROM events WHERE position > $1 AND position <= $2 AND {holds} > 0")
        };
        let (postgres, sqlite) =
            (sql("position(convert_to($3, 'UTF8') in data)"), sql("instr(data, CAST($3 AS BLOB))"));
        let mut subjects = BTreeSet::new();
        let mut reached = 0;
        while reached < to.number() {
            let next = (reached + EVENTS).min(to.number());
            let values: Vec<Value> = vec![reached.into(), next.into(), format!("\"of\":\"{person}\"").into()];
            let statement = self.database.statement(&postgres, &sqlite, values);
            for row in self.database.reader().query_all_raw(statement).await? {
                subjects.insert(row.try_get("", "subject_id")?);
            }
            reached = next;
        }
        Ok(subjects)
    }

    /// What one of these has caused, or what says something about a person, after a position: of a bounded part of the
    /// log, and where that ends.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn events_of(
        &self,
        person: UserId,
        actors: &[Uuid],
        after: Position,
        head: Position,
    ) -> Result<(Vec<Arc<Recorded>>, Position), LogError> {
        let to = Position::new((after.number() + EVENTS).min(head.number()));
        // As whom they acted before they were a member.
        let actors = [actors, &[person.uuid()]].concat();
        Ok((self.log.read_of(person, &actors, (after, to)).await?, to))
    }

    /// Forgets the facts that are claimed in a scope of these things: `kind:id`, whatever the kind.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn forget_facts<K: oriel_kernel::IdKind>(&self, things: &[Id<K>]) -> Result<(), DbErr> {
        let things = serde_json::json!(things.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string();
        let statement = self.database.statement(
            "DELETE FROM facts WHERE split_part(scope, ':', 2) IN (SELECT json_array_elements_text($1::json))",
            "DELETE FROM facts WHERE substr(scope, instr(scope, ':') + 1) IN (SELECT value FROM json_each($1))",
            vec![things.into()],
        );
        self.database.writer().execute_raw(statement).await?;
        Ok(())
    }

    /// Removes what a table that is not made of the log holds of an organisation.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn forget_rows(&self, table: &'static str, organization: OrganizationId) -> Result<(), DbErr> {
        let sql = format!("DELETE FROM \"{table}\" WHERE organization_id = $1");
        let statement = self.database.statement(&sql, &sql, vec![organization.uuid().into()]);
        self.database.writer().execute_raw(statement).await?;
        Ok(())
    }

    /// Forgets the jobs of an organisation, but for those of one queue.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn forget_jobs(&self, organization: OrganizationId, but: &str) -> Result<(), DbErr> {
        let sql = "DELETE FROM jobs WHERE organization_id = $1 AND queue <> $2";
        let values: Vec<Value> = vec![organization.uuid().into(), but.into()];
        self.database.writer().execute_raw(self.database.statement(sql, sql, values)).await?;
        Ok(())
    }
}
