//! The log of an organization in a file: whole, and whoever changes it is found out without a server.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::Server;

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
