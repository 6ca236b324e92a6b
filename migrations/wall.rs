//! The second wall between tenants: row-level security of PostgreSQL.
//!
//! The first wall is `Reader`, which adds the tenant to every statement that it builds. This one stands in the database,
//! so that a statement that lacks it gives nothing of anybody else:
//!
//! - Every table with the column `organization_id` is behind it, and those whose rows are organisations themselves. So is
//!   every table of what is a person's alone, with the column `user_id`, or called `user_…` and with the person's id as
//!   its own: they see their rows. People are seen by themselves and by those who share an organisation with them. It is
//!   forced: the role that owns the tables, as which Oriel connects, is subject to it too. Superusers and roles with
//!   BYPASSRLS are not; Oriel warns of that when it starts.
//! - Oriel's connections are opened with `oriel.system = on`, and see everything: the committer writes for many
//!   organisations in one transaction, consumers and live queries follow all of them.
//! - A statement that is executed for a viewer takes that back and names the viewer's organisation and person instead, in
//!   itself, for as long as it runs (`oriel_engine::read`). It costs no round trip, and some microseconds.
//! - A statement for the operator of the installation that lists organisations says `oriel.operator = on` besides
//!   (`read_models/organizations/accounts.rs`): it sees the rows of the tables `organizations` and `users`,
//!   and of no other.
//! - A role for reports ([`report`]) has policies of its own, in which its organisation is written down. Nothing that it
//!   can set widens what it sees.
//!
//! The condition is a `CASE`, not an `OR`: PostgreSQL takes it for true of half of the rows whatever it says, and so goes
//! on choosing the index that gives the order of a list. Behind row-level security an index is only entered by operators
//! that are marked as leakproof. All that Oriel uses are, but for the one that looks for words in lists:
//! `ALTER FUNCTION jsonb_contains(jsonb, jsonb) LEAKPROOF`, by a superuser and once, lets filters by tags use theirs.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::prelude::Uuid;
use sea_orm_migration::sea_orm::{DbBackend, Statement, TransactionSession, TransactionTrait};

/// The organisations that the person who asks is a member of: a function, because a policy that named the table would keep
/// a rebuilt one from taking its place.
const MEMBERSHIPS: &str = "CREATE OR REPLACE FUNCTION oriel_organizations_of(person uuid) RETURNS SETOF uuid \
     LANGUAGE sql STABLE AS 'SELECT organization_id FROM members WHERE user_id = $1'";

/// Whether a person is a member of an organisation, and not only invited: a function for the same reason, asked for each
/// row, of which there are few: an organisation may have many members. In PL/pgSQL, which keeps its plan for the next row.
const SHARES: &str = "CREATE OR REPLACE FUNCTION oriel_is_member(person uuid, organization uuid) RETURNS boolean \
     LANGUAGE plpgsql STABLE AS 'BEGIN RETURN EXISTS (SELECT FROM members \
     WHERE user_id = $1 AND organization_id = $2 AND status <> ''invited''); END'";

/// Puts every table behind the wall that belongs there and is not. Tables that are organisations name them by their id;
/// people see their own memberships and sessions wherever they are, the organisations that they are members of, and whoever
/// is a member where they act; what the installation asks everybody to agree to holds in every organisation.
const RAISE: &str = "DO $raise$
DECLARE
  walled record;
  organization constant text := $$(SELECT nullif(current_setting('oriel.organization', true), '')::uuid)$$;
  person constant text := $$(SELECT nullif(current_setting('oriel.person', true), '')::uuid)$$;
  is_seen text;
BEGIN
  FOR walled IN
    SELECT c.oid::regclass AS name, c.relname,
           EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'organization_id') AS belongs,
           EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'user_id') AS is_of_person
    FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema()::regnamespace
      AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polname = 'oriel')
  LOOP
    IF walled.belongs THEN
      is_seen := 'organization_id = ' || organization;
      IF walled.is_of_person THEN
        is_seen := is_seen || ' OR user_id = ' || person;
      END IF;
      IF walled.relname IN ('policies', 'consents') THEN
        is_seen := is_seen || ' OR organization_id = ''00000000-0000-0000-0000-000000000000''';
      END IF;
    ELSIF walled.is_of_person THEN
      is_seen := 'user_id = ' || person;
    ELSIF starts_with(walled.relname::text, 'user_') THEN
      is_seen := 'id = ' || person;
    ELSIF walled.relname = 'users' THEN
      is_seen := 'id = ' || person || ' OR oriel_is_member(id, ' || organization || ')'
        || ' OR (SELECT current_setting(''oriel.operator'', true)) = ''on''';
    ELSIF walled.relname = 'organization_standings' THEN
      is_seen := 'id = ' || organization;
    ELSIF walled.relname = 'organizations' THEN
      is_seen := 'id = ' || organization || ' OR id IN (SELECT oriel_organizations_of(' || person || '))'
        || ' OR (SELECT current_setting(''oriel.operator'', true)) = ''on''';
    ELSE
      CONTINUE;
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', walled.name);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', walled.name);
    EXECUTE format('CREATE POLICY oriel ON %s TO CURRENT_USER USING '
      || '(CASE WHEN (SELECT current_setting(''oriel.system'', true)) = ''on'' THEN true ELSE %s END)',
      walled.name, is_seen);
  END LOOP;
END $raise$";

/// Puts every table behind the wall that belongs there and is not. SQLite has no such wall: one process owns the file.
pub(crate) async fn raise(connection: &impl ConnectionTrait) -> Result<(), DbErr> {
    if connection.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    connection.execute_unprepared(MEMBERSHIPS).await?;
    connection.execute_unprepared(SHARES).await?;
    connection.execute_unprepared(RAISE).await?;
    Ok(())
}

/// What reports see: tables, the column in which their organisation stands, and the other columns. Nothing that opens
/// anything or names where files are, and nothing of people beyond their membership.
const REPORTED: &[(&str, &str, &[&str])] = &[
    (
        "organizations",
        "id",
        &[
            "name",
            "slug",
            "language",
            "time_zone",
            "status",
            "created_at",
            "member_count",
            "project_count",
            "document_count",
            "storage_used",
        ],
    ),
    ("members", "organization_id", &["id", "user_id", "roles", "status", "joined_at"]),
    (
        "projects",
        "organization_id",
        &[
            "id",
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
        ],
    ),
    ("project_members", "organization_id", &["id", "project_id", "member_id", "added_at"]),
    (
        "documents",
        "organization_id",
        &[
            "id",
            "project_id",
            "title",
            "media_type",
            "size",
            "storage_used",
            "status",
            "tags",
            "uploaded_by_id",
            "page_count",
            "language",
            "created_at",
            "updated_at",
            "trashed_at",
            "revision",
        ],
    ),
    ("roles", "organization_id", &["id", "name", "description", "permissions", "created_at"]),
    (
        "events",
        "organization_id",
        &["position", "id", "sequence", "stream", "subject_id", "version", "type", "actor_kind", "actor_id", "at"],
    ),
];

/// Why a role cannot report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The database refuses.
    #[error("{0}")]
    Database(#[from] DbErr),
    /// There is no such wall on SQLite.
    #[error("a role for reports needs PostgreSQL: set ORIEL_DATABASE_URL")]
    NotPostgres,
    /// The name is none that needs no quotes.
    #[error(
        "{0:?} is no name for a role here: begin with a letter, then letters, digits and _, at most 50, no capitals"
    )]
    Name(String),
    /// It would see more than it should, whatever is granted.
    #[error(
        "the role {0} is a superuser, has BYPASSRLS or belongs to the role that owns the tables: it sees everything. \
         Take another"
    )]
    SeesEverything(String),
    /// It may not be made.
    #[error(
        "there is no role {role}, and this connection may not make one ({source}): let somebody who may run \
         CREATE ROLE {role} LOGIN, and repeat"
    )]
    MayNotMake {
        /// Which.
        role: String,
        /// What the database says.
        source: DbErr,
    },
}

/// Lets a role read the read models of one organisation, and nothing else. It is made where there is none; one that has
/// reported on another organisation reports on this one from here on.
///
/// # Errors
/// See [`ReportError`].
pub async fn report<C>(connection: &C, role: &str, organization: Uuid) -> Result<(), ReportError>
where
    C: ConnectionTrait + TransactionTrait,
{
    if connection.get_database_backend() != DbBackend::Postgres {
        return Err(ReportError::NotPostgres);
    }
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    // With what stands before it in the names of policies it is a name of 63 characters at most.
    if role.len() > 50 || !role.starts_with(|c: char| c.is_ascii_lowercase()) || !role.chars().all(is_plain) {
        return Err(ReportError::Name(role.to_owned()));
    }
    let about = "SELECT rolsuper OR rolbypassrls OR pg_has_role(oid, current_user, 'MEMBER') AS all_seen \
                 FROM pg_roles WHERE rolname = $1";
    let about = Statement::from_sql_and_values(DbBackend::Postgres, about, [role.into()]);
    match connection.query_one_raw(about).await? {
        Some(row) if row.try_get("", "all_seen")? => return Err(ReportError::SeesEverything(role.to_owned())),
        Some(_) => {}
        None => {
            let made = connection.execute_unprepared(&format!("CREATE ROLE \"{role}\" LOGIN")).await;
            made.map_err(|source| ReportError::MayNotMake { role: role.to_owned(), source })?;
        }
    }
    let transaction = connection.begin().await?;
    let schema: String = {
        let asked =
            Statement::from_string(DbBackend::Postgres, "SELECT CAST(quote_ident(current_schema()) AS text) AS s");
        let row = transaction.query_one_raw(asked).await?;
        row.map(|row| row.try_get("", "s")).transpose()?.unwrap_or_default()
    };
    transaction.execute_unprepared(&format!("GRANT USAGE ON SCHEMA {schema} TO \"{role}\"")).await?;
    for (table, of, columns) in REPORTED {
        let columns = columns.join("\", \"");
        let policy = format!("oriel_report_{role}");
        for sql in [
            format!("REVOKE ALL ON \"{table}\" FROM \"{role}\""),
            format!("GRANT SELECT (\"{of}\", \"{columns}\") ON \"{table}\" TO \"{role}\""),
            format!("DROP POLICY IF EXISTS \"{policy}\" ON \"{table}\""),
            format!(
                "CREATE POLICY \"{policy}\" ON \"{table}\" FOR SELECT TO \"{role}\" USING (\"{of}\" = '{organization}')"
            ),
        ] {
            transaction.execute_unprepared(&sql).await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}
