//! `oriel read-models`: list, rebuild and verify through a running server.

use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::json;

use crate::cli::{ReadModelsAction, ReadModelsArgs, ServerArgs};
use crate::client::{Client, ClientError, Patience};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    system: Option<System>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct System {
    position: String,
    read_models: Vec<State>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    name: String,
    generation: i32,
    version: i32,
    state: String,
    position: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    user_errors: Vec<Problem>,
    #[serde(default)]
    result: Option<Verified>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    name: String,
    rows: i64,
    only_running: i64,
    only_replayed: i64,
}

#[derive(Deserialize)]
struct Problem {
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    read_model_rebuild: Option<Changed>,
    read_model_verify: Option<Changed>,
}

const LIST: &str = "{ system { position readModels { name generation version state position } } }";

/// Runs the command; the exit code says whether all is well.
pub async fn run(args: &ReadModelsArgs) -> ExitCode {
    let done = match &args.action {
        ReadModelsAction::List(server) => list(server).await,
        ReadModelsAction::Rebuild { name, server } => rebuild(name, server).await,
        ReadModelsAction::Verify { name, server } => verify(name.as_deref(), server).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("oriel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn client(server: &ServerArgs) -> Result<Client, ClientError> {
    Client::new(&server.url, server.token.as_deref(), Patience::default())
}

async fn states(client: &Client) -> Result<System, ClientError> {
    let listed: Listed = client.execute(LIST, &json!({})).await?;
    Ok(listed.system.unwrap_or(System { position: String::new(), read_models: Vec::new() }))
}

async fn list(server: &ServerArgs) -> Result<bool, ClientError> {
    let system = states(&client(server)?).await?;
    println!("{:<24} {:>10} {:>8} {:<12} {:>12}", "READ MODEL", "GENERATION", "VERSION", "STATE", "POSITION");
    for State { name, generation, version, state, position } in system.read_models {
        println!("{name:<24} {generation:>10} {version:>8} {state:<12} {position:>12}");
    }
    println!("the log is at position {}", system.position);
    Ok(true)
}

async fn rebuild(name: &str, server: &ServerArgs) -> Result<bool, ClientError> {
    let client = client(server)?;
    let before = generation(&states(&client).await?, name);
    let query =
        "mutation($input: ReadModelRebuildInput!) { readModelRebuild(input: $input) { userErrors { message } } }";
    let answer: Answer = client.execute(query, &json!({"input": {"name": name}})).await?;
    if refused(answer.read_model_rebuild.as_ref()) {
        return Ok(false);
    }
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(format!("rebuilding {name}"));
    // The server goes on when this program ends: what is polled here is only the showing of it.
    loop {
        let system = states(&client).await?;
        if generation(&system, name) > before
            && !system.read_models.iter().any(|s| s.name == name && s.state != "inline")
        {
            bar.finish_with_message(format!("{name} is rebuilt"));
            return Ok(true);
        }
        if let Some(next) = system.read_models.iter().find(|s| s.name == name && s.state != "inline") {
            bar.set_length(system.position.parse().unwrap_or(0));
            bar.set_position(next.position.parse().unwrap_or(0));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn generation(system: &System, name: &str) -> i32 {
    system.read_models.iter().filter(|s| s.name == name && s.state == "inline").map(|s| s.generation).max().unwrap_or(0)
}

async fn verify(name: Option<&str>, server: &ServerArgs) -> Result<bool, ClientError> {
    let query = "mutation($input: ReadModelVerifyInput!) { readModelVerify(input: $input) \
                 { result { name rows onlyRunning onlyReplayed } userErrors { message } } }";
    let client = client(server)?;
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => {
            states(&client).await?.read_models.into_iter().filter(|s| s.state == "inline").map(|s| s.name).collect()
        }
    };
    let mut equal = true;
    for name in names {
        let answer: Answer = client.execute(query, &json!({"input": {"name": name}})).await?;
        if refused(answer.read_model_verify.as_ref()) {
            return Ok(false);
        }
        let Some(Verified { name, rows, only_running, only_replayed }) =
            answer.read_model_verify.and_then(|a| a.result)
        else {
            return Ok(false);
        };
        let same = only_running == 0 && only_replayed == 0;
        equal &= same;
        let verdict = match same {
            true => "equals its replay".to_owned(),
            false => format!("DIFFERS: {only_running} rows only in it, {only_replayed} only in its replay"),
        };
        println!("{name:<24} {rows:>10} rows  {verdict}");
    }
    Ok(equal)
}

fn refused(changed: Option<&Changed>) -> bool {
    let problems = changed.map(|changed| changed.user_errors.as_slice()).unwrap_or_default();
    problems.iter().for_each(|problem| eprintln!("oriel: {}", problem.message));
    changed.is_none() || !problems.is_empty()
}
