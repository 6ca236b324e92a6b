//! `oriel read-models`: list, rebuild and verify through a running server.
//!
//! The server does the work; what is polled here is only the showing of it. Ctrl-C asks the server to end a rebuild.

use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{ReadModelsAction, ReadModelsArgs, ServerArgs};
use crate::client::{Client, ClientError, Patience};

/// How often a rebuild is looked at.
const PACE: Duration = Duration::from_millis(250);
/// After so long a server that does not say that it works on it, and does not get on, is not believed to.
const STANDSTILL: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
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
    lag: i64,
    busy: bool,
    last_error: Option<String>,
    verified: Option<Verified>,
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
struct Answer {
    changed: Option<Changed>,
}

const LIST: &str = "{ system { position readModels { name generation version state position lag busy lastError \
    verified { name rows onlyRunning onlyReplayed } } } }";
const REBUILD: &str = "mutation($input: ReadModelRebuildInput!) \
    { changed: readModelRebuild(input: $input) { userErrors { message } } }";
const CANCEL: &str = "mutation($input: ReadModelRebuildCancelInput!) \
    { changed: readModelRebuildCancel(input: $input) { userErrors { message } } }";
const VERIFY: &str = "mutation($input: ReadModelVerifyInput!) { changed: readModelVerify(input: $input) \
    { result { name rows onlyRunning onlyReplayed } userErrors { message } } }";

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    Ill,
    Interrupted,
}

/// Runs the command; the exit code says whether all is well.
pub async fn run(args: &ReadModelsArgs) -> ExitCode {
    let done = match &args.action {
        ReadModelsAction::List(server) => list(server).await,
        ReadModelsAction::Rebuild { name, server } => rebuild(name, server).await,
        ReadModelsAction::Verify { name, server } => verify(name.as_deref(), server).await,
    };
    match done {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Ill) => ExitCode::FAILURE,
        Ok(Ended::Interrupted) => ExitCode::from(130),
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

impl System {
    /// What is read from under this name.
    fn running(&self, name: &str) -> Option<&State> {
        self.read_models.iter().find(|state| state.name == name && !state.is_next())
    }

    /// What is being built to take its place.
    fn next(&self, name: &str) -> Option<&State> {
        self.read_models.iter().find(|state| state.name == name && state.is_next())
    }
}

impl State {
    fn is_next(&self) -> bool {
        self.state == "catching_up"
    }
}

async fn list(server: &ServerArgs) -> Result<Ended, ClientError> {
    let system = states(&client(server)?).await?;
    println!(
        "{:<24} {:>10} {:>8} {:<12} {:>12} {:>8}",
        "READ MODEL", "GENERATION", "VERSION", "STATE", "POSITION", "LAG"
    );
    for State { name, generation, version, state, position, lag, .. } in system.read_models {
        println!("{name:<24} {generation:>10} {version:>8} {state:<12} {position:>12} {lag:>8}");
    }
    println!("the log is at position {}", system.position);
    Ok(Ended::Well)
}

async fn rebuild(name: &str, server: &ServerArgs) -> Result<Ended, ClientError> {
    let client = client(server)?;
    let before = states(&client).await?.running(name).map_or(0, |state| state.generation);
    if change(&client, REBUILD, name).await?.is_none() {
        return Ok(Ended::Ill);
    }
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(format!("rebuilding {name}"));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut moved = (Instant::now(), String::new());
    loop {
        let system = states(&client).await?;
        let Some(running) = system.running(name) else {
            eprintln!("oriel: the server does not know {name} any more");
            return Ok(Ended::Ill);
        };
        if running.generation > before {
            bar.finish_and_clear();
            println!("{name} is rebuilt: generation {}", running.generation);
            return Ok(Ended::Well);
        }
        let reached = system.next(name).map(|next| next.position.clone()).unwrap_or_default();
        bar.set_length(system.position.parse().unwrap_or(0));
        bar.set_position(reached.parse().unwrap_or(0));
        if running.busy || moved.1 != reached {
            moved = (Instant::now(), reached);
        } else if let Some(error) = &running.last_error {
            bar.abandon();
            eprintln!("oriel: {name} is not rebuilt, and what is read from is untouched: {error}");
            return Ok(Ended::Ill);
        } else if moved.0.elapsed() > STANDSTILL {
            bar.abandon();
            eprintln!(
                "oriel: the server does not work on {name} any more (was it restarted?); start the rebuild again"
            );
            return Ok(Ended::Ill);
        }
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            _ = &mut interrupted => {
                bar.abandon();
                if change(&client, CANCEL, name).await?.is_some() {
                    eprintln!("oriel: the rebuild of {name} is cancelled; what is read from is untouched");
                }
                return Ok(Ended::Interrupted);
            }
        }
    }
}

async fn verify(name: Option<&str>, server: &ServerArgs) -> Result<Ended, ClientError> {
    let client = client(server)?;
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => {
            states(&client).await?.read_models.into_iter().filter(|state| !state.is_next()).map(|s| s.name).collect()
        }
    };
    let mut ended = Ended::Well;
    for name in names {
        let Some(Verified { name, rows, only_running, only_replayed }) = compare(&client, &name).await? else {
            return Ok(Ended::Ill);
        };
        let verdict = if only_running == 0 && only_replayed == 0 {
            "equals its replay".to_owned()
        } else {
            ended = Ended::Ill;
            format!("DIFFERS: {only_running} rows only in it, {only_replayed} only in its replay")
        };
        println!("{name:<24} {rows:>10} rows  {verdict}");
    }
    Ok(ended)
}

/// What a comparison finds; nothing when there was none, which is said here.
async fn compare(client: &Client, name: &str) -> Result<Option<Verified>, ClientError> {
    let error = match change(client, VERIFY, name).await {
        Ok(changed) => return Ok(changed.and_then(|changed| changed.result)),
        Err(error) => error,
    };
    // It may take longer than a request: it goes on then.
    let mut is_going_on = false;
    loop {
        let Some(state) = states(client).await?.read_models.into_iter().find(|s| s.name == name && !s.is_next()) else {
            return Err(error);
        };
        match (state.busy, state.verified, state.last_error) {
            (true, ..) => is_going_on = true,
            (false, Some(verified), _) if is_going_on => return Ok(Some(verified)),
            (false, None, Some(why)) if is_going_on => {
                eprintln!("oriel: {name} is not verified: {why}");
                return Ok(None);
            }
            _ => return Err(error),
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Executes a mutation on what has this name. Nothing when it was refused, which is said here.
async fn change(client: &Client, mutation: &str, name: &str) -> Result<Option<Changed>, ClientError> {
    let input: Value = json!({"input": {"name": name}});
    let answer: Answer = client.execute(mutation, &input).await?;
    let Some(changed) = answer.changed else { return Ok(None) };
    changed.user_errors.iter().for_each(|problem| eprintln!("oriel: {}", problem.message));
    Ok(changed.user_errors.is_empty().then_some(changed))
}
