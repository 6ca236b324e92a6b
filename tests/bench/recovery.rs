//! What is lost with the machine, and how long it takes to be there again: `oriel backup` and `oriel restore` of a log of
//! a size that takes years to come to.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{clients, request};
use crate::oriel::Running;
use crate::report::{Goal, Report};
use crate::scale::Scale;

const CLIENTS: usize = 64;
const PART: &str = "backup and restore, SQLite";

pub async fn measure(report: &mut Report, scale: Scale) {
    let (projects, published) = scale.of((200, 1), (2_000, 48), (50_000, 950));
    let server = Running::start();
    let token = server.register().await;
    grow(&server, &token, projects, published).await;
    let events = position(&server, &token).await;
    indexed(&server, &token).await;
    let (data, backups) = (server.folder().join("data"), tempfile::tempdir().unwrap());
    let backup = |data: &Path| oriel(&["backup", backups.path().to_str().unwrap()], data);
    let full = backup(&data);
    grow(&server, &token, projects / 100, 0).await;
    let again = backup(&data);
    let size = walkdir::WalkDir::new(backups.path().join("logs")).into_iter().filter_map(Result::ok);
    let size = size.filter_map(|entry| entry.metadata().ok()).filter(|it| it.is_file()).map(|it| it.len()).max();
    let size = size.unwrap_or_default() as f64 / 1e6;
    let note = format!("{events} events, {size:.0} MB; while the server runs");
    report.alone(PART, "the first backup", "s", full.as_secs_f64(), Goal::None, note);
    let note = "an hour's loss at most, if it is made each hour; archived by PostgreSQL: what was not yet archived";
    // What is acknowledged while it is made is in the next one.
    report.alone(PART, "a repeated one", "s", again.as_secs_f64(), Goal::AtMost(3_600.0), note);

    let place = tempfile::tempdir().unwrap();
    let restored = place.path().join("data");
    std::fs::create_dir_all(&restored).unwrap();
    std::fs::copy(data.join("master.key"), restored.join("master.key")).unwrap();
    let before = position(&server, &token).await;
    drop(server);
    let began = Instant::now();
    let restoring = oriel(&["restore", backups.path().to_str().unwrap()], &restored);
    let server = Running::start_in(Arc::new(place), &[]);
    let query = json!({ "query": "{ projects { totalCount } }" });
    let answer = server.post(&token, &query).await;
    let ready = began.elapsed();
    assert!(answer["data"]["projects"]["totalCount"].as_u64() >= Some(projects), "{answer}");
    assert_eq!(position(&server, &token).await, before, "what was backed up is there");
    indexed(&server, &token).await;
    let complete = began.elapsed();
    let note = format!(
        "until the first answer; of it `oriel restore` {:.1} s, which checks every event",
        restoring.as_secs_f64()
    );
    report.alone(PART, "restored and ready", "s", ready.as_secs_f64(), Goal::AtMost(4.0 * 3_600.0), note);
    let note = format!("{projects} projects are in the index again");
    report.alone(PART, "search complete", "s", complete.as_secs_f64(), Goal::AtMost(4.0 * 3_600.0), note);
}

/// So many projects, each a command of its own, and so many calls that publish a thousand operations.
async fn grow(server: &Running, token: &str, projects: u64, published: u64) {
    let made = position(server, token).await;
    let each = projects / CLIENTS as u64 + 1;
    let done = AtomicU64::new(0);
    let ask = |_: usize, _: u64| {
        let number = done.fetch_add(1, Ordering::Relaxed);
        let query = if number < projects {
            format!(
                "mutation {{ projectCreate(input: {{key: \"K{made}N{number}\", name: \"Harbour {number}\"}}) {{ position }} }}"
            )
        } else {
            "{ __typename }".to_owned()
        };
        request("/graphql", token, &json!({ "query": query }).to_string())
    };
    while done.load(Ordering::Relaxed) < projects {
        let time = Duration::from_millis((each / 8).clamp(50, 2_000));
        assert_eq!(clients(&[server], CLIENTS, time, ask).await.errors(), 0.0);
    }
    for call in 0..published {
        let body = |n: u64| format!("query Q{call}x{n} {{ projects(first: {}) {{ nodes {{ name }} }} }}", n % 100 + 1);
        let operations: Vec<_> =
            (0..1_000).map(|n| json!({ "hash": format!("bench-{call}-{n}"), "body": body(n) })).collect();
        let query = "mutation($input: OperationsPublishInput!) { operationsPublish(input: $input) { position userErrors { message } } }";
        server.post(token, &json!({ "query": query, "variables": { "input": { "operations": operations } } })).await;
    }
}

async fn position(server: &Running, token: &str) -> u64 {
    let answer = server.post(token, &json!({ "query": "{ system { position } }" })).await;
    answer["data"]["system"]["position"].as_str().unwrap().parse().unwrap()
}

/// Waits until the index has applied the whole log.
async fn indexed(server: &Running, token: &str) {
    let query = json!({ "query": "{ system { position consumers { name position } } }" });
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    loop {
        let system = server.post(token, &query).await["data"]["system"].take();
        let index = system["consumers"].as_array().unwrap().iter().find(|one| one["name"] == "search_index");
        let index = index.unwrap_or_else(|| panic!("nobody follows the log for the index: {system}"));
        if number(&index["position"]) >= number(&system["position"]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long the program takes on this data folder.
fn oriel(arguments: &[&str], data: &Path) -> Duration {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_oriel")).args(arguments).arg("--data").arg(data).env_clear().output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed()
}
