//! The master key of an installation is replaced while it is in use, and the old one is not needed any more.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::{Environment, Kms, Server, Session, databases, program};

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
    let query =
        "{ system { keyInventory { masterKeys { id replacedAt emptiedAt dataKeys secrets atHand place kmsKeyId }
        dataKeys destroyedDataKeys secrets { name count } } } }";
    session.ask(query, json!({})).await["system"]["keyInventory"].take()
}

/// What the log says of rotations, the first one first.
async fn rotations(session: &Session) -> Vec<Value> {
    let query = "{ events(first: 50, filter: { types: [\"organization_master_key_rotated\"] }) {
        nodes { data actor { ... on Member { user { name } } } } } }";
    let mut said = session.ask(query, json!({})).await["events"]["nodes"].take();
    let mut said = std::mem::take(said.as_array_mut().unwrap());
    said.reverse();
    said
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
    assert_eq!(keys["masterKeys"][1]["place"], "FILE", "{keys}");
    let said = rotations(&ada).await;
    let named = |key: usize| json!({ "id": keys["masterKeys"][key]["id"], "place": "file" });
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((&said[0]["data"]["from"], &said[0]["data"]["to"]), (&named(0), &named(1)));
    assert_eq!(said[0]["actor"]["user"]["name"], "Ada Owner", "{said:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn in_a_kms_no_node_has_it_in_a_file_and_it_is_needed_at_the_start_alone() {
    let Some(kms) = Kms::start() else { return };
    let (first, second) = (kms.make("alias/first").await, kms.make("alias/second").await);
    let server = Server::start(None).await;
    let mut ada = server.register("Ada").await;
    let before = |alias: &str, previous: &str| {
        let previous = [("ORIEL_MASTER_KEY_PREVIOUS", previous.to_owned())];
        kms.environment(alias).into_iter().chain(previous).collect::<Environment>()
    };
    let restarted = async |server: Server, ada: &mut Session, environment: Environment| {
        let server = server.restart_among(environment).await;
        ada.url = server.url.clone();
        let seen = ada.ask(SAID, json!({})).await;
        assert!(seen["viewer"]["user"]["email"].as_str().unwrap().contains('@'), "{seen}");
        server
    };
    let rotated = async |server: &Server, ada: &Session| {
        let said = server.oriel(&["keys", "rotate"], &ada.token);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let keys = inventory(ada).await;
        let last = keys["masterKeys"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["dataKeys"], keys["dataKeys"], "{keys}");
        (last["place"].as_str().unwrap().to_owned(), last["kmsKeyId"].as_str().unwrap_or_default().to_owned())
    };

    // From the file: until somebody rotates, that goes on wrapping.
    let server = restarted(server, &mut ada, before("alias/first", "file")).await;
    assert_eq!(inventory(&ada).await["masterKeys"][0]["place"], "FILE");
    assert_eq!(rotated(&server, &ada).await, ("KMS".to_owned(), first.clone()));
    std::fs::remove_file(server.folder().join("data/master.key")).unwrap();
    let server = restarted(server, &mut ada, kms.environment("alias/first")).await;
    assert!(!server.folder().join("data/master.key").exists(), "none is made");
    let listed = server.oriel(&["keys", "list"], &ada.token);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(&format!("kms {first}")), "{listed}");
    // Another one under the same key, and another key.
    assert_eq!(rotated(&server, &ada).await, ("KMS".to_owned(), first.clone()));
    let server = restarted(server, &mut ada, before("alias/second", &kms.key("alias/first"))).await;
    assert_eq!(rotated(&server, &ada).await, ("KMS".to_owned(), second.clone()));
    let mut server = restarted(server, &mut ada, kms.environment("alias/second")).await;
    let places: Vec<Value> = rotations(&ada).await.into_iter().map(|mut event| event["data"].take()).collect();
    let places: Vec<[&Value; 2]> = places.iter().map(|data| [&data["from"]["place"], &data["to"]["place"]]).collect();
    let (file, first, second) = (json!("file"), json!({ "kms": first }), json!({ "kms": second }));
    assert_eq!(places, [[&file, &first], [&first, &first], [&first, &second]]);

    // What is wrong is said before anything listens, with what mends it.
    assert!(server.terminate().success());
    let mut elsewhere = kms.environment("alias/second");
    let name = elsewhere.iter_mut().find(|(name, _)| *name == "ORIEL_MASTER_KEY").unwrap();
    name.1 = name.1.replace("installation=test", "installation=staging");
    let said = refused(server.folder(), elsewhere);
    assert!(said.contains("installation than staging") && said.contains("InvalidCiphertextException"), "{said}");
    let said = refused(server.folder(), kms.environment("alias/third"));
    assert!(said.contains("NotFoundException") && said.contains("kms:alias/third"), "{said}");
    let said = refused(server.folder(), kms.environment("alias/first"));
    assert!(said.contains("kms:alias/second") && said.contains("ORIEL_MASTER_KEY_PREVIOUS"), "{said}");
    let offline = |arguments: &[&str], data: &Path, environment: Environment| {
        let mut command = Command::new(program());
        command.args(arguments).arg("--data").arg(data).env_clear().envs(environment);
        let output = command.output().unwrap();
        (output.status.success(), [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat())
    };
    let data = server.folder().join("data");
    let (_, said) = offline(&["doctor"], &data, kms.environment("alias/second"));
    assert!(said.contains(&format!("sealed by {}", second["kms"].as_str().unwrap())), "{said}");
    assert!(offline(&["doctor"], &data, kms.environment("alias/third")).1.contains("MEND     key"));

    // A backup opens with the KMS, and with it alone.
    let backups = server.folder().join("backups");
    let (done, said) = offline(&["backup", backups.to_str().unwrap()], &data, kms.environment("alias/second"));
    assert!(done && said.contains("the key of the KMS (kms:alias/second"), "{said}");
    let restored = |data: &str, environment| {
        offline(&["restore", backups.to_str().unwrap()], &server.folder().join(data), environment)
    };
    let (done, said) = restored("with", kms.environment("alias/second"));
    assert!(done, "{said}");
    let given = BASE64.encode(&[1; 32]);
    let (done, said) = restored("without", vec![("ORIEL_MASTER_KEY", given)]);
    assert!(!done && said.contains("kms:alias/second"), "{said}");

    // Who starts while it is away says so.
    let server = restarted(server, &mut ada, kms.environment("alias/second")).await;
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = |environment: Environment| -> Environment {
        let there = format!("http://{gone}");
        environment.into_iter().map(|(name, value)| (name, value.replace(&kms.endpoint, &there))).collect()
    };
    let said = refused(tempfile::tempdir().unwrap().path(), nobody(kms.environment("alias/second")));
    assert!(said.contains("the KMS does not") && said.contains("when a node starts"), "{said}");

    // Back into a file, and it is not needed any more.
    let mut back: Environment = before("", &kms.key("alias/second"));
    back.retain(|(name, _)| *name != "ORIEL_MASTER_KEY");
    let server = restarted(server, &mut ada, back).await;
    assert_eq!(rotated(&server, &ada).await, ("FILE".to_owned(), String::new()));
    drop(kms);
    let server = restarted(server, &mut ada, Environment::new()).await;
    let log = server.log.lock().unwrap().join("\n");
    assert!(!log.contains("a-secret-of-the-kms"));
}
