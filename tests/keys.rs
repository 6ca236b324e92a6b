//! The master key of an installation is replaced while it is in use, and the old one is not needed any more.

use std::path::Path;
use std::process::Command;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::{Environment, Server, Session, databases};

const NAME: &str = "{ viewer { user { name } } }";
/// What the log says of a person, opened with their key.
const SAID: &str =
    "{ events(first: 100, filter: { types: [\"user_registered\"] }) { totalCount } viewer { user { name email } } }";

fn keys_of(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("data/master.key")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// What the program says when it does not start.
fn refused(folder: &Path, environment: Environment) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oriel"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(folder.join("data")).env_clear();
    let output = command.envs(environment).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn inventory(session: &Session) -> Value {
    let query = "{ system { keyInventory { masterKeys { id replacedAt emptiedAt dataKeys secrets atHand }
        dataKeys destroyedDataKeys secrets { name count } } } }";
    session.ask(query, json!({})).await["system"]["keyInventory"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_file_the_old_one_is_gone_and_nothing_needs_it() {
    let mut server = Server::start(None).await;
    let (ada, bob) = (server.register("Ada").await, server.register("Bob").await);
    let before = keys_of(server.folder());
    assert_eq!(before.len(), 1);
    let denied = server.oriel(&["keys", "rotate"], &bob.token);
    assert!(!denied.status.success(), "{denied:?}");
    let said = server.oriel(&["keys", "rotate"], &ada.token);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let after = keys_of(server.folder());
    assert!(after.len() == 1 && after != before, "another one, alone");
    let keys = inventory(&ada).await;
    assert_eq!(keys["masterKeys"][0]["dataKeys"], 0, "{keys}");
    assert!(keys["masterKeys"][0]["emptiedAt"].is_string() && keys["masterKeys"][1]["atHand"] == true, "{keys}");
    assert_eq!(keys["masterKeys"][1]["dataKeys"], keys["dataKeys"], "{keys}");
    let listed = server.oriel(&["keys", "list"], &ada.token);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("not needed") && listed.contains("wraps") && listed.contains("signing"), "{listed}");
    for shown in [keys.to_string(), listed] {
        assert!(!shown.contains(&before[0]) && !shown.contains(&after[0]), "no key is shown");
    }

    assert!(server.terminate().success());
    let token = ada.token.clone();
    let file = server.folder().join("data/master.key");
    std::fs::write(&file, &before[0]).unwrap();
    let said = refused(server.folder(), Environment::new());
    assert!(said.contains("ORIEL_MASTER_KEY_PREVIOUS"), "{said}");
    std::fs::write(&file, &after[0]).unwrap();
    let server = server.restart().await;
    for session in [ada, bob] {
        let session = Session { url: server.url.clone(), ..session };
        let seen = session.ask(SAID, json!({})).await;
        assert!(seen["viewer"]["user"]["email"].as_str().unwrap().contains('@'), "{seen}");
    }
    // What is read again is what is sealed in the log.
    let verify = server.oriel(&["read-models", "verify", "users"], &token);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_settings_on_two_nodes_that_go_on_writing() {
    let Some(database) = databases().into_iter().flatten().next() else { return };
    let [old, new] = [[1; 32], [2; 32]].map(|bytes| BASE64.encode(&bytes));
    let given = |keys: &[(&'static str, &String)]| -> Environment {
        let keys = keys.iter().map(|(name, key)| (*name, (*key).clone()));
        keys.chain([("ORIEL_DATABASE_URL", database.clone())]).collect()
    };
    let only_old = given(&[("ORIEL_MASTER_KEY", &old)]);
    let both = given(&[("ORIEL_MASTER_KEY", &new), ("ORIEL_MASTER_KEY_PREVIOUS", &old)]);
    let only_new = given(&[("ORIEL_MASTER_KEY", &new)]);

    let one = Server::start_among(only_old.clone()).await;
    let operator = one.register("Operator").await;
    let asked = "mutation { masterKeyRotate { keyId userErrors { code } } }";
    let none = operator.ask(asked, json!({})).await;
    assert_eq!(none["masterKeyRotate"]["userErrors"][0]["code"], "CONFLICT", "{none}");
    // One node after the other is given the new one.
    let two = Server::start_among(both.clone()).await;
    two.register("Early").await;
    assert_eq!(one.register("Earlier").await.ask(NAME, json!({})).await["viewer"]["user"]["name"], "Earlier Owner");
    let one = one.restart_among(both).await;

    let registering = async |server: &Server, name: &str| {
        let mut made = Vec::new();
        for n in 0..20 {
            made.push(server.register(&format!("{name}{n}")).await);
        }
        made
    };
    let rotating = async {
        let said = one.oriel(&["keys", "rotate"], &operator.token);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    };
    let (first, second, ()) = tokio::join!(registering(&one, "Ones"), registering(&two, "Twos"), rotating);
    let (one, two) = (one.restart_among(only_new.clone()).await, two.restart_among(only_new).await);
    for (session, server) in first.iter().zip(std::iter::repeat(&two)).chain(second.iter().zip(std::iter::repeat(&one)))
    {
        let session = Session { url: server.url.clone(), ..session.clone() };
        assert!(session.ask(NAME, json!({})).await["viewer"]["user"]["name"].is_string());
    }
    let keys = inventory(&Session { url: one.url.clone(), ..operator }).await;
    assert_eq!((&keys["masterKeys"][0]["dataKeys"], &keys["masterKeys"][0]["atHand"]), (&json!(0), &json!(false)));
    let elsewhere = tempfile::tempdir().unwrap();
    let said = refused(elsewhere.path(), only_old);
    assert!(said.contains("ORIEL_MASTER_KEY_PREVIOUS"), "{said}");
}
