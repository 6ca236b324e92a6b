//! The log of an organization in a file, and who has read what: whole, and whoever changes it is found out without a
//! server.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::nodes::{PATIENCE, Shared, on};
use crate::support::{Server, Session};

fn oriel(server: &Server, arguments: &[&str], token: &str) -> (bool, String) {
    let Output { status, stdout, stderr } = server.oriel(arguments, token);
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_log_shows_by_itself_that_it_is_whole() {
    let server = Server::start(None).await;
    let session = server.register("Audited").await;
    let other = server.register("Other").await;
    for number in 0..120 {
        session.create_project(&format!("P{number}")).await;
        other.create_project(&format!("P{number}")).await;
    }
    let count = session.ask("{ events(first: 0) { totalCount } auditVerify { whole events hash } }", json!({})).await;
    let file = server.folder().join("audit.jsonl");
    let (path, hash) = (file.to_str().unwrap(), count["auditVerify"]["hash"].as_str().unwrap());

    let (done, said) = oriel(&server, &["audit", "export", path], &session.token);
    assert!(done && said.contains(hash), "{said}");
    let events = lines(&file);
    assert_eq!(
        (&json!(events.len()), &json!(events.len())),
        (&count["events"]["totalCount"], &count["auditVerify"]["events"])
    );
    let (done, said) = oriel(&server, &["audit", "verify", path], "");
    assert!(done && said.contains(hash) && said.contains(&format!("{} events", events.len())), "{said}");

    // What somebody might do to it, and what it is called.
    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let (mut events, file) = (events.clone(), server.folder().join("changed.jsonl"));
        change(&mut events);
        let text: Vec<String> = events.iter().map(Value::to_string).collect();
        std::fs::write(&file, text.join("\n")).unwrap();
        let (done, said) = oriel(&server, &["audit", "verify", file.to_str().unwrap()], "");
        assert!(!done, "{said}");
        said
    };
    let said = changed(&|events| drop(events.remove(7)));
    assert!(said.contains("line 8: event 8 is missing: this is event 9"), "{said}");
    let said = changed(&|events| events.swap(3, 4));
    assert!(said.contains("event 4 is missing: this is event 5"), "{said}");
    let said = changed(&|events| events[9]["type"] = json!("project_archived"));
    assert!(said.contains("type of event 10 is not what was written"), "{said}");
    let said = changed(&|events| {
        let record = data_encoding::BASE64.decode(events[9]["record"].as_str().unwrap().as_bytes()).unwrap();
        let record = String::from_utf8_lossy(&record).replace("project_created", "project_deleted").into_bytes();
        events[9]["record"] = json!(data_encoding::BASE64.encode(&record));
    });
    assert!(said.contains("event 10 does not follow") || said.contains("cannot be read"), "{said}");
    let said = changed(&|events| events[9]["record"] = json!("!"));
    assert!(said.contains("line 10: the record cannot be read"), "{said}");

    let table = server.folder().join("audit.csv");
    let (done, said) = oriel(&server, &["audit", "export", table.to_str().unwrap(), "--format", "csv"], &session.token);
    assert!(done, "{said}");
    let mut table = csv::Reader::from_path(&table).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), events.len());
    let last: Value = serde_json::from_str(&rows[rows.len() - 1][9]).unwrap();
    assert_eq!(last["key"], "P119");

    let (done, said) = oriel(&server, &["audit", "export", path], "");
    assert!(!done && said.contains("ORIEL_TOKEN"), "{said}");
}

/// The numbers of all readings, once so many are written down.
async fn readings(session: &Session, count: usize) -> Value {
    let query = "{ accessLog(kind: PERSON, first: 0) { totalCount } auditVerify { readings { whole readings hash } } }";
    let written = async {
        loop {
            let answer = session.ask(query, json!({})).await;
            if answer["accessLog"]["totalCount"].as_u64().unwrap() >= count as u64 {
                return answer["auditVerify"]["readings"].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_all_nodes_are_one_chain_and_are_checked_without_a_server() {
    let Some(shared) = Shared::new(None) else { return };
    let (one, two) = (shared.node().await, shared.node().await);
    let session = one.register("Audited").await;
    let (here, there) = (session.clone(), on(&two, &session));
    let read = async |session: &Session| {
        for number in 0..60 {
            let query = format!("query Read{number} {{ viewer {{ user {{ email }} }} }}");
            session.ask(&query, json!({})).await;
        }
    };
    tokio::join!(read(&here), read(&there));
    let found = readings(&session, 120).await;
    assert_eq!(found["whole"], true, "{found}");

    let file = one.folder().join("readings.jsonl");
    let path = file.to_str().unwrap();
    let (done, said) = oriel(&one, &["audit", "export", path, "--readings"], &session.token);
    assert!(done, "{said}");
    let rows = lines(&file);
    assert_eq!(json!(rows.len()), found["readings"]);
    let names: BTreeSet<&str> = rows.iter().filter_map(|row| row["operation"].as_str()).collect();
    assert!((0..60).all(|number| names.contains(format!("Read{number}").as_str())), "{names:?}");
    let (done, said) = oriel(&one, &["audit", "verify", path], "");
    let hash = found["hash"].as_str().unwrap();
    assert!(done && said.contains(hash) && said.contains(&format!("{} readings", rows.len())), "{said}");

    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let (mut rows, file) = (rows.clone(), one.folder().join("changed.jsonl"));
        change(&mut rows);
        let text: Vec<String> = rows.iter().map(Value::to_string).collect();
        std::fs::write(&file, text.join("\n")).unwrap();
        let (done, said) = oriel(&one, &["audit", "verify", file.to_str().unwrap()], "");
        assert!(!done, "{said}");
        said
    };
    let said = changed(&|rows| drop(rows.remove(7)));
    assert!(said.contains("line 8: reading 8 is missing: this is reading 9"), "{said}");
    let said = changed(&|rows| drop(rows.remove(0)));
    assert!(said.contains("what was before reading 2 is missing"), "{said}");
    let said = changed(&|rows| rows.swap(3, 4));
    assert!(said.contains("reading 4 is missing: this is reading 5"), "{said}");
    let said = changed(&|rows| rows.insert(5, rows[4].clone()));
    assert!(said.contains("reading 6 is missing: this is reading 5"), "{said}");
    let said = changed(&|rows| rows[9]["operation"] = json!("Another"));
    assert!(said.contains("operation of reading 10 is not what was written"), "{said}");
    let said = changed(&|rows| rows[9]["record"] = rows[8]["record"].clone());
    assert!(said.contains("reading 10 is missing: this is reading 9"), "{said}");
    let said = changed(&|rows| rows[9]["hash"] = rows[8]["hash"].clone());
    assert!(said.contains("reading 10 does not follow on the one before it"), "{said}");

    let table = one.folder().join("readings.csv");
    let arguments = ["audit", "export", table.to_str().unwrap(), "--readings", "--format", "csv"];
    let (done, said) = oriel(&one, &arguments, &session.token);
    assert!(done, "{said}");
    let mut table = csv::Reader::from_path(&table).unwrap();
    assert_eq!(table.headers().unwrap(), vec!["sequence", "at", "kind", "actor", "operation", "ids"]);
    assert_eq!(table.records().count(), rows.len());
}
