//! The second wall between organisations, and between people, in PostgreSQL: behind it is every table that holds something
//! of one, whatever was made, rebuilt or reported.

use oriel_engine::db::{Database, Location};
use oriel_kernel::{OrganizationId, UserId};
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use serde_json::{Value, json};

use crate::support::{Environment, Server, Session, databases};

/// 32 bytes.
const MASTER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
/// Every table of organizations or people, or of what is theirs, that lacks the wall.
const UNWALLED: &str = "SELECT CAST(c.relname AS text) FROM pg_class c \
     WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace \
       AND (c.relname LIKE 'organization%' OR c.relname LIKE 'user%' OR EXISTS (SELECT FROM pg_attribute \
            WHERE attrelid = c.oid AND attname IN ('organization_id', 'organization', 'tenant_id', 'user_id') \
              AND NOT attisdropped)) \
       AND NOT (c.relrowsecurity AND c.relforcerowsecurity \
                AND EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polname = 'oriel')) ORDER BY 1";
/// Every table.
const TABLES: &str = "SELECT CAST(relname AS text) FROM pg_class \
     WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY 1";

/// The URL of a new database on PostgreSQL; nothing where that is not installed.
fn postgres() -> Option<String> {
    databases().into_iter().flatten().next()
}

/// Connected with these settings and as this role.
async fn connect(url: &str, role: &str, settings: &str) -> DatabaseConnection {
    let url = url.replace("postgres://oriel@", &format!("postgres://{role}@"));
    let mut options = ConnectOptions::new(format!("{url}{settings}"));
    options.max_connections(1).sqlx_logging(false);
    sea_orm::Database::connect(options).await.unwrap()
}

async fn texts(db: &DatabaseConnection, sql: &str) -> Vec<String> {
    let rows = db.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

async fn refused(db: &DatabaseConnection, sql: &str) -> bool {
    match db.execute_unprepared(sql).await {
        Ok(_) => false,
        Err(error) => {
            assert!(error.to_string().contains("permission denied"), "{sql}: {error}");
            true
        }
    }
}

/// An organisation with a project and a document, and its id.
async fn organization(server: &Server, name: &str) -> (Session, String) {
    let session = server.register(name).await;
    let project = session.create_project("NOTES").await;
    session.upload(&project, "notes.txt", format!("What {name} noted.").into_bytes()).await;
    session.create_role(&format!("readers of {name}")).await;
    let viewer = session.ask("{ viewer { organization { id } } }", json!({})).await;
    let id = viewer["viewer"]["organization"]["id"].as_str().unwrap().to_owned();
    (session, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_an_organization_is_behind_the_wall_also_when_it_is_made_anew() {
    let Some(url) = postgres() else { return };
    let server = Server::start(Some(url.clone())).await;
    let (ada, ours) = organization(&server, "Ada").await;
    let (_, theirs) = organization(&server, "Babbage").await;
    let system = connect(&url, "oriel", "&options[oriel.system]=on").await;
    assert_eq!(texts(&system, UNWALLED).await, Vec::<String>::new());
    let walled = "SELECT CAST(relname AS text) FROM pg_class WHERE relforcerowsecurity";
    assert!(texts(&system, walled).await.len() >= 12, "the guard sees tables");
    // The guard itself.
    for column in ["organization_id", "user_id"] {
        system.execute_unprepared(&format!("CREATE TABLE forgotten ({column} uuid)")).await.unwrap();
        assert_eq!(texts(&system, UNWALLED).await, ["forgotten"]);
        system.execute_unprepared("DROP TABLE forgotten").await.unwrap();
    }

    let mutation = "mutation($name: String!) { readModelRebuild(input: { name: $name }) { userErrors { message } } }";
    let names = ["documents", "organizations", "members", "users", "user_passkeys", "data_exports"];
    for name in names {
        let answer = ada.ask(mutation, json!({ "name": name })).await;
        assert_eq!(answer["readModelRebuild"]["userErrors"], json!([]), "{answer}");
    }
    let rebuilt = "{ system { readModels { name generation state } } }";
    let is_done = |answer: &Value| {
        let states = answer["system"]["readModels"].as_array().unwrap();
        let new = |state: &&Value| state["generation"] == 2 && state["state"] != "CATCHING_UP";
        states.iter().filter(new).count() == names.len() && states.iter().all(|state| state["state"] != "CATCHING_UP")
    };
    ada.until(rebuilt, json!({}), is_done).await;
    assert_eq!(texts(&system, UNWALLED).await, Vec::<String>::new());

    // Who says nothing sees nothing; who says an organisation sees that one.
    let id = |text: &str| OrganizationId::parse_or_absent(text).uuid();
    for (settings, expected) in
        [(String::new(), vec![]), (format!("&options[oriel.organization]={}", id(&ours)), vec![id(&ours)])]
    {
        let viewer = connect(&url, "oriel", &settings).await;
        for table in ["documents", "projects", "members", "sessions", "events", "roles", "jobs"] {
            let sql = format!("SELECT DISTINCT CAST(organization_id AS text) FROM {table}");
            let seen = texts(&viewer, &sql).await;
            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            // Jobs that are done are gone.
            assert!(seen == expected || (table == "jobs" && seen.is_empty()), "{table}: {seen:?}");
        }
        let seen = texts(&viewer, "SELECT CAST(id AS text) FROM organizations").await;
        assert_eq!(seen, expected.iter().map(ToString::to_string).collect::<Vec<_>>());
        // It cannot write into another one either.
        let sql = format!("UPDATE projects SET organization_id = '{}'", id(&theirs));
        let moved = viewer.execute_unprepared(&sql).await;
        assert!(moved.is_err() || expected.is_empty(), "a row was moved to another organization");
    }
    // Who lists organisations as the operator sees those, and nothing of what is in them.
    let settings = format!("&options[oriel.organization]={}&options[oriel.operator]=on", id(&ours));
    let operator = connect(&url, "oriel", &settings).await;
    let counted = "SELECT CAST(count(*) AS text) FROM organizations";
    assert_eq!(texts(&operator, counted).await, ["2"]);
    for table in ["documents", "projects", "members", "sessions", "events", "roles", "organization_standings"] {
        let column = if table == "organization_standings" { "id" } else { "organization_id" };
        let seen = texts(&operator, &format!("SELECT DISTINCT CAST({column} AS text) FROM {table}")).await;
        assert_eq!(seen, [id(&ours).to_string()], "{table}");
    }
    let everything = texts(&system, "SELECT CAST(count(DISTINCT organization_id) AS text) FROM documents").await;
    assert_eq!(everything, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_a_persons_alone_is_seen_by_them_and_by_nobody_else() {
    let Some(url) = postgres() else { return };
    let server = Server::start(Some(url.clone())).await;
    let (ada, ours) = organization(&server, "Ada").await;
    let (babbage, _) = organization(&server, "Babbage").await;
    let mut people = Vec::new();
    for session in [&ada, &babbage] {
        let mutation = "mutation { dataExportRequest(input: {}) { userErrors { message } } }";
        assert_eq!(session.ask(mutation, json!({})).await["dataExportRequest"]["userErrors"], json!([]));
        let viewer = session.ask("{ viewer { user { id } } }", json!({})).await;
        people.push(UserId::parse_or_absent(viewer["viewer"]["user"]["id"].as_str().unwrap()).uuid().to_string());
    }
    let owned = [("data_exports", "user_id"), ("user_passkeys", "id"), ("users", "id")];
    let sql = |(table, column): (&str, &str)| format!("SELECT DISTINCT CAST({column} AS text) FROM {table} ORDER BY 1");
    let organization = OrganizationId::parse_or_absent(&ours).uuid();
    let me = &people[..1];
    for (settings, alone, known) in [
        (String::new(), &[][..], &[][..]),
        // Whoever is a member is known there, and nothing is seen of what is theirs.
        (format!("&options[oriel.organization]={organization}"), &[], me),
        (format!("&options[oriel.person]={}", me[0]), me, me),
    ] {
        let viewer = connect(&url, "oriel", &settings).await;
        for table in owned {
            let expected = if table.0 == "users" { known } else { alone };
            assert_eq!(texts(&viewer, &sql(table)).await, expected, "{} {settings}", table.0);
        }
        // Nor is it given to somebody else.
        let given = viewer.execute_unprepared(&format!("UPDATE data_exports SET user_id = '{}'", people[1])).await;
        assert!(given.is_err() || alone.is_empty(), "a row was given to another person");
    }
    let system = connect(&url, "oriel", "&options[oriel.system]=on").await;
    let mut both = people.clone();
    both.sort();
    for table in owned {
        assert_eq!(texts(&system, &sql(table)).await, both, "{}", table.0);
    }
    // The operator sees whose an organization is that they are no member of.
    let owners = ada.ask("{ system { organizations { nodes { owner { name } } } } }", json!({})).await;
    let mut owners: Vec<_> = owners["system"]["organizations"]["nodes"].as_array().unwrap().iter().collect();
    owners.retain(|organization| organization["owner"]["name"] == "Babbage Owner");
    assert_eq!(owners.len(), 1, "{owners:?}");
    // Any other role sees none of it, even if somebody lets it read the table.
    let role = format!("stranger_{}", std::process::id());
    for sql in
        [format!("CREATE ROLE {role} LOGIN"), format!("GRANT SELECT ON data_exports, user_passkeys, users TO {role}")]
    {
        system.execute_unprepared(&sql).await.unwrap();
    }
    let stranger = connect(&url, &role, &format!("&options[oriel.person]={}", me[0])).await;
    stranger.execute_unprepared("SET oriel.system = on").await.unwrap();
    for table in owned {
        assert_eq!(texts(&stranger, &sql(table)).await, Vec::<String>::new(), "{}", table.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_reports_reads_its_organization_and_nothing_else() {
    let Some(url) = postgres() else { return };
    let server = Server::start(Some(url.clone())).await;
    let (ada, ours) = organization(&server, "Ada").await;
    let (_, theirs) = organization(&server, "Babbage").await;
    let role = format!("reports_{}", std::process::id());
    let migrate = |environment: Environment, organization: String| {
        let role = role.clone();
        move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oriel"));
            command.args(["migrate", "--reporting-role", &role, "--organization", &organization]).env_clear();
            command.envs(environment).output().unwrap()
        }
    };
    let environment: Environment = vec![("ORIEL_DATABASE_URL", url.clone())];
    let made = tokio::task::spawn_blocking(migrate(environment.clone(), ours.clone())).await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let report = connect(&url, &role, "").await;
    // Nothing that it can say for itself widens what it sees.
    report.execute_unprepared("SET oriel.system = on").await.unwrap();
    let theirs = OrganizationId::parse_or_absent(&theirs).uuid();
    report.execute_unprepared(&format!("SET oriel.organization = '{theirs}'")).await.unwrap();
    let ours = OrganizationId::parse_or_absent(&ours).uuid().to_string();
    let read = ["members", "projects", "project_members", "documents", "roles", "events"];
    for table in texts(&report, TABLES).await {
        if table == "organizations" {
            assert_eq!(texts(&report, "SELECT CAST(id AS text) FROM organizations").await, [ours.as_str()]);
        } else if read.contains(&table.as_str()) {
            let seen = texts(&report, &format!("SELECT DISTINCT CAST(organization_id AS text) FROM {table}")).await;
            assert!(seen == [ours.as_str()] || (table == "project_members" && seen.is_empty()), "{table}: {seen:?}");
        } else {
            assert!(refused(&report, &format!("SELECT count(*) FROM \"{table}\"")).await, "{table} is read");
        }
        for sql in [format!("DELETE FROM \"{table}\""), format!("TRUNCATE \"{table}\"")] {
            assert!(refused(&report, &sql).await, "{sql}");
        }
    }
    for sql in [
        "SELECT blob FROM documents",
        "SELECT invited_email FROM members",
        "SELECT data FROM events",
        "INSERT INTO projects (id) VALUES (gen_random_uuid())",
        "UPDATE projects SET name = 'mine'",
        "CREATE TABLE mine (one int)",
    ] {
        assert!(refused(&report, sql).await, "{sql}");
    }
    let titles = texts(&report, "SELECT title FROM documents").await;
    assert_eq!(titles, ["notes"]);

    // A rebuilt read model is reported on as before.
    let mutation = "mutation { readModelRebuild(input: { name: \"documents\" }) { userErrors { message } } }";
    ada.ask(mutation, json!({})).await;
    let is_done = |answer: &Value| {
        let states = answer["system"]["readModels"].as_array().unwrap();
        states.iter().any(|state| state["name"] == "documents" && state["generation"] == 2)
            && states.iter().all(|state| state["state"] != "CATCHING_UP")
    };
    ada.until("{ system { readModels { name generation state } } }", json!({}), is_done).await;
    assert_eq!(texts(&report, "SELECT DISTINCT CAST(organization_id AS text) FROM documents").await, [ours.as_str()]);
    assert!(refused(&report, "SELECT blob FROM documents").await);

    // The role as which Oriel itself is connected is none for reports.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oriel"));
    command
        .args(["migrate", "--reporting-role", "oriel", "--organization", "org_01jd8y4ve0e8xv3q4kq7m6z5ts"])
        .env_clear();
    command.envs(environment);
    let said = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("sees everything"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_exempt_is_told() {
    let Some(url) = postgres() else { return };
    let environment = |url: &str| -> Environment {
        vec![("ORIEL_DATABASE_URL", url.to_owned()), ("ORIEL_MASTER_KEY", MASTER_KEY.to_owned())]
    };
    let plain = Server::start_among(environment(&url)).await;
    let warned = |server: &Server| server.log.lock().unwrap().iter().any(|line| line.contains("row-level security"));
    assert!(!warned(&plain));
    drop(plain);
    let superuser = url.replace("postgres://oriel@", "postgres://postgres@");
    let exempt = Server::start_among(environment(&superuser)).await;
    assert!(warned(&exempt), "{:#?}", exempt.log.lock().unwrap());
    drop(exempt);
    for (url, expected) in [(url, "ok       tenants"), (superuser.clone(), "MEND     tenants")] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oriel"));
        command.arg("doctor").env_clear().envs(environment(&url)).env("ORIEL_DATA", folder.path());
        let said = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(expected), "{said}");
    }
    let database = Database::open(&Location::parse(&superuser).unwrap(), 2).await.unwrap();
    assert_eq!(database.exempt_role().await.unwrap().as_deref(), Some("postgres"));
    database.close().await;
}
