//! What is made of the log is made anew while everybody writes, killed halfway, cancelled, and begun again: what is
//! read from is whole at every moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Server, Session, databases};

const DOCUMENTS: usize = 8;
/// Enough for several steps of a rebuild.
const EVENTS: i64 = 1_200;
/// How often a rebuild may come to its end before it could be caught halfway.
const ATTEMPTS: usize = 30;

const STATES: &str = "{ system { position readModels { name generation state position busy lastError } } }";

/// Writes to one document, time after time, until it is told to stop or the server is gone. Its title ends with how
/// often.
struct Writer {
    acknowledged: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

/// Everybody who writes.
struct Writers {
    stop: Arc<AtomicBool>,
    all: Vec<Writer>,
}

impl Writers {
    fn start(session: &Session, documents: &[String], from: &[i64]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let all = documents.iter().zip(from).map(|(id, from)| {
            let mut times = *from;
            let acknowledged = Arc::new(AtomicI64::new(times));
            let task = tokio::spawn({
                let (session, id, stop) = (session.clone(), id.clone(), Arc::clone(&stop));
                let acknowledged = Arc::clone(&acknowledged);
                async move {
                    while !stop.load(Ordering::SeqCst) && rename(&session, &id, times + 1).await {
                        times += 1;
                        acknowledged.store(times, Ordering::SeqCst);
                    }
                }
            });
            Writer { acknowledged, task }
        });
        Self { all: all.collect(), stop }
    }

    /// How often each was answered, in the order of the documents.
    async fn end(self) -> Vec<i64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut acknowledged = Vec::new();
        for writer in self.all {
            writer.task.await.unwrap();
            acknowledged.push(writer.acknowledged.load(Ordering::SeqCst));
        }
        acknowledged
    }
}

/// Whether the server answered.
async fn rename(session: &Session, id: &str, times: i64) -> bool {
    let query = "mutation($input: DocumentUpdateInput!) { documentUpdate(input: $input) { userErrors { message } } }";
    let variables = json!({"input": {"id": id, "title": format!("Changed {times}")}});
    let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token);
    let answer = match request.json(&json!({"query": query, "variables": variables})).send().await {
        Ok(response) => response.json::<Value>().await,
        Err(error) => Err(error),
    };
    answer.is_ok_and(|answer| answer["data"]["documentUpdate"]["userErrors"] == json!([]))
}

/// What `system` says about this one: its generation, and how far the next one is.
fn standing(answer: &Value, name: &str) -> (i64, Option<i64>) {
    let models = answer["system"]["readModels"].as_array().unwrap().iter().filter(|model| model["name"] == name);
    let (next, running): (Vec<_>, Vec<_>) = models.partition(|model| model["state"] == "catching_up");
    let next = next.first().map(|next| next["position"].as_str().unwrap().parse().unwrap());
    (running[0]["generation"].as_i64().unwrap(), next)
}

/// Begins a rebuild by the command line, and comes back when it is halfway: the process that shows it. Nothing when it
/// came to its end too early.
async fn halfway(server: &Server, session: &Session, name: &str) -> Option<std::process::Child> {
    let (before, _) = standing(&session.ask(STATES, json!({})).await, name);
    let mut shown = server.spawn_oriel(&["read-models", "rebuild", name], &session.token);
    let is_halfway = |answer: &Value| {
        let head: i64 = answer["system"]["position"].as_str().unwrap().parse().unwrap();
        let is_busy = |model: &Value| model["name"] == name && model["busy"] == true;
        let is_busy = answer["system"]["readModels"].as_array().unwrap().iter().any(is_busy);
        is_busy && standing(answer, name).1.is_some_and(|position| position > 0 && position < head)
    };
    let is_over = |answer: &Value| standing(answer, name).0 > before;
    let seen = session.until(STATES, json!({}), |answer| is_halfway(answer) || is_over(answer)).await;
    if is_over(&seen) {
        assert!(shown.wait().unwrap().success());
        return None;
    }
    Some(shown)
}

/// Everything is there, and as the last acknowledged writes left it: how often each was written.
async fn answers(session: &Session, documents: &[String], acknowledged: &[i64]) -> Vec<i64> {
    let query = "query($ids: [ID!]!) { documents { totalCount } nodes(ids: $ids) { ... on Document { title } } }";
    let answer = session.ask(query, json!({"ids": documents})).await;
    assert_eq!(answer["documents"]["totalCount"], DOCUMENTS);
    let mut written = Vec::new();
    for (node, acknowledged) in answer["nodes"].as_array().unwrap().iter().zip(acknowledged) {
        let times: i64 = node["title"].as_str().unwrap().strip_prefix("Changed ").unwrap().parse().unwrap();
        // The last write may have been committed without its answer.
        assert!(times == *acknowledged || times == acknowledged + 1, "{times} of {acknowledged}");
        written.push(times);
    }
    let found = |answer: &Value| answer["search"]["totalCount"] == DOCUMENTS;
    session.until("{ search(query: \"wraparound\") { totalCount } }", json!({}), found).await;
    written
}

fn says_equal(server: &Server, session: &Session, arguments: &[&str], names: &[&str]) {
    let verify = server.oriel(&[&["read-models", "verify"], arguments].concat(), &session.token);
    let said = String::from_utf8_lossy(&verify.stdout);
    assert!(verify.status.success(), "{said}{}", String::from_utf8_lossy(&verify.stderr));
    for name in names {
        assert!(said.lines().any(|line| line.starts_with(name) && line.ends_with("equals its replay")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_halfway_and_begun_again_while_everybody_writes() {
    for database in databases() {
        let mut server = Server::start(database).await;
        let mut ada = server.register("Ada").await;
        let project = ada.create_project("DOCS").await;
        let mut documents = Vec::new();
        for n in 0..DOCUMENTS {
            let text = format!("This is document number {n} about wraparound.");
            let uploaded = ada.upload(&project, &format!("{n}.txt"), text.into_bytes()).await;
            documents.push(uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}")).to_owned());
        }
        for id in &documents {
            assert_eq!(ada.document_ends(id).await["status"], "READY");
        }
        let mut writers = Writers::start(&ada, &documents, &[0; DOCUMENTS]);
        let long = |answer: &Value| answer["system"]["position"].as_str().unwrap().parse::<i64>().unwrap() > EVENTS;
        ada.until(STATES, json!({}), long).await;

        for name in ["documents", "search"] {
            let mut killed = false;
            for _ in 0..ATTEMPTS {
                let (before, _) = standing(&ada.ask(STATES, json!({})).await, name);
                let Some(mut shown) = halfway(&server, &ada, name).await else { continue };
                server.kill();
                assert!(!shown.wait().unwrap().success(), "what shows it says that the server is gone");
                let acknowledged = writers.end().await;
                server = server.restart().await;
                ada = Session { url: server.url.clone(), ..ada };
                let written = answers(&ada, &documents, &acknowledged).await;
                let (generation, next) = standing(&ada.ask(STATES, json!({})).await, name);
                writers = Writers::start(&ada, &documents, &written);
                // It may have been faster than the kill.
                killed = generation == before;
                if killed {
                    assert_eq!(next.is_some(), name == "documents", "a read model is gone on with, an index is not");
                    break;
                }
            }
            assert!(killed, "{name} was always rebuilt before it could be killed");
            if name == "search" {
                let index = std::fs::read_dir(server.folder().join("data/index")).unwrap();
                let generations = index.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count();
                assert_eq!(generations, 1, "what the killed one left is removed");
            }
            says_equal(&server, &ada, &[name], &[name]);

            let (before, _) = standing(&ada.ask(STATES, json!({})).await, name);
            let rebuild = server.oriel(&["read-models", "rebuild", name], &ada.token);
            assert!(rebuild.status.success(), "{}", String::from_utf8_lossy(&rebuild.stderr));
            let (after, next) = standing(&ada.ask(STATES, json!({})).await, name);
            assert!(after > before && next.is_none(), "generation {after} after {before}");
        }

        let mut cancelled = false;
        for _ in 0..ATTEMPTS {
            let (before, _) = standing(&ada.ask(STATES, json!({})).await, "search");
            let Some(mut shown) = halfway(&server, &ada, "search").await else { continue };
            let interrupt = std::process::Command::new("kill").args(["-INT", &shown.id().to_string()]).status();
            assert!(interrupt.unwrap().success());
            let code = shown.wait().unwrap().code();
            let rests = |answer: &Value| {
                let models = answer["system"]["readModels"].as_array().unwrap();
                models.iter().all(|model| model["busy"] == false)
            };
            let seen = ada.until(STATES, json!({}), rests).await;
            // It may have been faster than the signal.
            cancelled = standing(&seen, "search").0 == before;
            if cancelled {
                assert_eq!((code, standing(&seen, "search").1), (Some(130), None));
                break;
            }
        }
        assert!(cancelled, "the index was always rebuilt before that could be cancelled");

        let acknowledged = writers.end().await;
        answers(&ada, &documents, &acknowledged).await;
        says_equal(&server, &ada, &[], &["documents", "document_revisions", "projects", "users", "search"]);
        let list = server.oriel(&["read-models", "list"], &ada.token);
        let said = String::from_utf8_lossy(&list.stdout);
        assert!(said.lines().any(|line| line.starts_with("search ") && line.contains("following")), "{said}");
    }
}
