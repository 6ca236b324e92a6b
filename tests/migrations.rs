//! Nodes of two releases on one database, which the newer one has migrated; and two that start at once on an empty one.

use serde_json::json;

use crate::support::{Environment, Server, databases};

/// 32 bytes.
const MASTER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// What the release after this one does to the database.
const NEWER: &str = "ALTER TABLE projects ADD COLUMN colour TEXT; CREATE TABLE colours (id uuid PRIMARY KEY); \
     INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_colours', 0); \
     INSERT INTO schema_compatibility (version, compatible_from) VALUES ('m9999_colours', 'm0001_engine')";

fn environment() -> Option<Environment> {
    let url = databases().into_iter().flatten().next()?;
    Some(vec![("ORIEL_DATABASE_URL", url), ("ORIEL_MASTER_KEY", MASTER_KEY.to_owned())])
}

async fn sql(environment: &Environment, sql: &str) {
    let database = sea_orm::Database::connect(&environment[0].1).await.unwrap();
    sea_orm::ConnectionTrait::execute_unprepared(&database, sql).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_node_works_on_what_a_newer_one_has_added_to_and_refuses_what_it_took_from() {
    let Some(environment) = environment() else { return };
    let older = Server::start_among(environment.clone()).await;
    let ada = older.register("Ada").await;
    ada.create_project("BEFORE").await;
    sql(&environment, NEWER).await;
    // One that runs goes on, and one that starts does.
    ada.create_project("DURING").await;
    let second = Server::start_among(environment.clone()).await;
    let there = crate::nodes::on(&second, &ada);
    there.create_project("AFTER").await;
    let rebuild = "mutation { readModelRebuild(input: { name: \"projects\" }) { userErrors { message } } }";
    assert_eq!(there.ask(rebuild, json!({})).await["readModelRebuild"]["userErrors"], json!([]));
    let all = |answer: &serde_json::Value| answer["projects"]["totalCount"] == 3;
    there.until("{ projects { totalCount nodes { key } } }", json!({}), all).await;
    second.says("m9999_colours").await;

    sql(
        &environment,
        "UPDATE schema_compatibility SET compatible_from = 'm9999_colours' WHERE version = 'm9999_colours'",
    )
    .await;
    for command in ["serve", "migrate"] {
        let folder = tempfile::tempdir().unwrap();
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_oriel"));
        program.arg(command).env_clear().envs(environment.clone()).env("ORIEL_DATA", folder.path());
        program.env("ORIEL_LISTEN", "127.0.0.1:0");
        let ended = tokio::task::spawn_blocking(move || program.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains("Start the newer release"), "{command}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_start_at_once_on_an_empty_database_both_serve() {
    let Some(environment) = environment() else { return };
    let (one, other) = tokio::join!(Server::start_among(environment.clone()), Server::start_among(environment.clone()));
    let ada = one.register("Ada").await;
    ada.create_project("ONE").await;
    let there = crate::nodes::on(&other, &ada);
    let is_seen = |answer: &serde_json::Value| answer["projects"]["totalCount"] == 1;
    there.until("{ projects { totalCount } }", json!({}), is_seen).await;
}
