//! The tour of the README and its page for partners, word for word: every command is run, every answer is compared.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::Server;

/// What stands in a fenced block, and which language it says.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            found.push((language.to_owned(), inside.join("\n")));
        }
    }
    found
}

/// Equal, where `…` at the end of a text stands for anything.
fn fits(shown: &Value, real: &Value) -> bool {
    match (shown, real) {
        (Value::String(shown), Value::String(real)) => match shown.strip_suffix('…') {
            Some(beginning) => real.starts_with(beginning),
            None => shown == real,
        },
        (Value::Array(shown), Value::Array(real)) => {
            shown.len() == real.len() && shown.iter().zip(real).all(|(shown, real)| fits(shown, real))
        }
        (Value::Object(shown), Value::Object(real)) => {
            shown.len() == real.len()
                && shown.iter().all(|(key, value)| real.get(key).is_some_and(|real| fits(value, real)))
        }
        (shown, real) => shown == real,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_works_word_for_word() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "curl is missing");
        eprintln!("NOT RUN: the tour; install the Debian package curl");
        return;
    }
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let (_, tour) = readme.split_once("## A tour in ten minutes").unwrap();
    // What is said for partners goes on where the tour ends.
    let (tour, _) = tour.split_once("\n## Never stale").unwrap();
    let server = Server::start(None).await;
    let mut script = String::from("set -e\n");
    let mut expected = Vec::new();
    for (language, text) in blocks(tour) {
        match language.as_str() {
            "sh" => {
                script.push_str(&text.replace("http://127.0.0.1:8080", &server.url));
                script.push_str("\nprintf '\\n--block--\\n'\n");
                expected.push(None);
            }
            "json" => *expected.last_mut().unwrap() = Some(text),
            // Shown, not run: it would build the program or read a package that may not be there. tests/clients runs
            // what is written for graphql-ws.
            "" | "js" => {}
            other => panic!("a block of the tour is {other:?}"),
        }
    }
    assert!(expected.iter().flatten().count() >= 6, "the tour shows too little");
    let folder = server.folder().to_owned();
    let output =
        tokio::task::spawn_blocking(move || Command::new("bash").arg("-c").arg(script).current_dir(folder).output());
    let output = output.await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for (real, shown) in said.split("\n--block--\n").zip(&expected) {
        if let Some(shown) = shown {
            let shown: Value = serde_json::from_str(shown).unwrap();
            let real: Value = serde_json::from_str(real.trim()).unwrap_or_else(|e| panic!("{e}: {real}"));
            assert!(fits(&shown, &real), "the README shows\n{shown:#}\nthe program answers\n{real:#}");
        }
    }
}
