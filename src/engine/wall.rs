//! Row-level security of tables that the engine makes itself, of the shape of another one: a new generation of a read
//! model, a new part of the log. What the policies say is not its business (the migrations'); that they come along is.

use sea_orm::{ConnectionTrait, DbErr};

/// Gives the table `to` the policies and the grants of the table `from`, on PostgreSQL. Both names are the engine's own.
pub(crate) async fn copy(connection: &impl ConnectionTrait, from: &str, to: &str) -> Result<(), DbErr> {
    let sql = format!(
        "DO $copy$
         DECLARE
           policy record;
           granted record;
         BEGIN
           IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = '\"{from}\"'::regclass) THEN
             RETURN;
           END IF;
           ALTER TABLE \"{to}\" ENABLE ROW LEVEL SECURITY;
           ALTER TABLE \"{to}\" FORCE ROW LEVEL SECURITY;
           FOR policy IN SELECT * FROM pg_policies WHERE schemaname = current_schema() AND tablename = '{from}' LOOP
             EXECUTE format('CREATE POLICY %I ON \"{to}\" AS %s FOR %s TO %s USING (%s)', policy.policyname,
               policy.permissive, policy.cmd, (SELECT string_agg(quote_ident(r), ', ') FROM unnest(policy.roles) AS r),
               policy.qual);
           END LOOP;
           FOR granted IN
             SELECT a.grantee::regrole AS role, a.privilege_type AS privilege, '' AS columns
             FROM pg_class c, aclexplode(c.relacl) AS a
             WHERE c.oid = '\"{from}\"'::regclass AND a.grantee NOT IN (0, c.relowner)
             UNION ALL
             SELECT a.grantee::regrole, a.privilege_type, '(' || quote_ident(t.attname) || ')'
             FROM pg_attribute t, aclexplode(t.attacl) AS a
             WHERE t.attrelid = '\"{from}\"'::regclass AND a.grantee <> 0 AND NOT t.attisdropped
           LOOP
             EXECUTE format('GRANT %s %s ON \"{to}\" TO %s', granted.privilege, granted.columns, granted.role);
           END LOOP;
         END $copy$"
    );
    connection.execute_unprepared(&sql).await.map(|_| ())
}
