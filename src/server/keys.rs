//! `oriel keys`: which keys an installation has, and another master key in the place of the one in force.
//!
//! Invariants: no key is ever shown or sent. A rotation goes on in the server when this program ends.

use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::cli::{KeysAction, KeysArgs, ServerArgs};
use crate::client::{Client, ClientError, Patience};

/// How often is looked how far it is.
const PACE: Duration = Duration::from_millis(200);

const LIST: &str = "query KeysList { system { keyInventory {
  masterKeys { id since replacedAt emptiedAt dataKeys secrets place kmsKeyId }
  dataKeys destroyedDataKeys
  secrets { name count oldest newest }
} } }";
const ROTATE: &str = "mutation KeysRotate($input: MasterKeyRotateInput!) {
  masterKeyRotate(input: $input) { keyId userErrors { message } }
}";

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("no token; sign in as an owner of the first organization and set ORIEL_TOKEN to it (or pass --token)")]
    NoToken,
    #[error("the server refuses it: {0}")]
    Refused(String),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Runs the command; the exit code says whether all is well.
pub async fn run(args: &KeysArgs) -> ExitCode {
    let done = match &args.action {
        KeysAction::List(server) => list(server).await,
        KeysAction::Rotate(server) => rotate(server).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oriel keys: {error}");
            ExitCode::FAILURE
        }
    }
}

fn client(server: &ServerArgs) -> Result<Client, KeysError> {
    let token = server.token().ok_or(KeysError::NoToken)?;
    Ok(Client::new(&server.url, Some(token), Patience::default())?.on_waiting(|error| eprintln!("{error}")))
}

#[derive(Deserialize)]
struct Listed {
    system: Option<System>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct System {
    key_inventory: Inventory,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inventory {
    master_keys: Vec<MasterKey>,
    data_keys: i64,
    destroyed_data_keys: i64,
    secrets: Vec<Secret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MasterKey {
    id: String,
    since: String,
    replaced_at: Option<String>,
    emptied_at: Option<String>,
    data_keys: i64,
    secrets: i64,
    place: Option<String>,
    kms_key_id: Option<String>,
}

#[derive(Deserialize)]
struct Secret {
    name: String,
    count: i64,
    oldest: String,
    newest: String,
}

impl MasterKey {
    fn state(&self) -> &'static str {
        match (&self.replaced_at, &self.emptied_at) {
            (None, _) => "wraps",
            (Some(_), None) => "replaced",
            (Some(_), Some(_)) => "not needed",
        }
    }

    fn place(&self) -> String {
        match (self.place.as_deref(), &self.kms_key_id) {
            (_, Some(key)) => format!("kms {key}"),
            (Some(place), None) => place.to_lowercase(),
            (None, None) => "-".to_owned(),
        }
    }
}

async fn inventory(client: &Client) -> Result<Inventory, KeysError> {
    let listed: Listed = client.execute(LIST, &json!({})).await?;
    let none = || KeysError::Refused("this is for an owner of the first organization".to_owned());
    Ok(listed.system.ok_or_else(none)?.key_inventory)
}

async fn list(server: &ServerArgs) -> Result<(), KeysError> {
    let inventory = inventory(&client(server)?).await?;
    println!("{:<18} {:<12} {:<28} {:>10} {:>8} KEPT IN", "MASTER KEY", "STATE", "SINCE", "DATA KEYS", "SECRETS");
    for key in &inventory.master_keys {
        let MasterKey { id, since, data_keys, secrets, .. } = key;
        println!("{id:<18} {:<12} {since:<28} {data_keys:>10} {secrets:>8} {}", key.state(), key.place());
    }
    println!("\n{:<18} {:>6} {:<28} NEWEST", "SECRET", "COUNT", "OLDEST");
    for Secret { name, count, oldest, newest } in &inventory.secrets {
        println!("{name:<18} {count:>6} {oldest:<28} {newest}");
    }
    println!("\n{} data keys, {} of them destroyed", inventory.data_keys, inventory.destroyed_data_keys);
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    master_key_rotate: Option<Payload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    key_id: Option<String>,
    user_errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    message: String,
}

async fn rotate(server: &ServerArgs) -> Result<(), KeysError> {
    let client = client(server)?;
    // However often it is sent: one rotation.
    let input = json!({ "input": { "idempotencyKey": uuid::Uuid::new_v4().to_string() } });
    let answer: Rotated = client.execute(ROTATE, &input).await?;
    let payload = answer.master_key_rotate.ok_or_else(|| KeysError::Refused("no reason is given".to_owned()))?;
    let Some(id) = payload.key_id else {
        let why: Vec<String> = payload.user_errors.into_iter().map(|problem| problem.message).collect();
        return Err(KeysError::Refused(why.join(" ")));
    };
    loop {
        let keys = inventory(&client).await?.master_keys;
        if keys.iter().all(|key| key.state() != "replaced") {
            println!("the master key {id} wraps everything; those before it are not needed any more");
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
    }
}
