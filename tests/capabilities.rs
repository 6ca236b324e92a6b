//! The table of what Oriel can do for identity, organizations, audit and privacy says nothing that no test shows.

use std::collections::BTreeSet;
use std::path::Path;

/// A row of the table.
struct Row<'a> {
    id: &'a str,
    state: &'a str,
    tests: Vec<&'a str>,
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.trim_end_matches('|').split('|').map(str::trim).collect();
        let [id, _, state, _, tests] = cells.as_slice() else { return None };
        let is_row = id.len() > 1 && id[1..].bytes().all(|b| b.is_ascii_digit());
        let tests = tests.split('`').skip(1).step_by(2).collect();
        is_row.then_some(Row { id, state, tests })
    });
    rows.collect()
}

/// What is wrong with a row.
fn problem(root: &Path, row: &Row<'_>) -> Option<String> {
    if !["done", "partly", "not done"].contains(&row.state) {
        return Some(format!("{}: {} is no state", row.id, row.state));
    }
    if (row.state == "not done") != row.tests.is_empty() {
        return Some(format!("{}: what is done has a test, and nothing else", row.id));
    }
    row.tests.iter().find_map(|test| {
        let Some((file, function)) = test.split_once("::") else { return Some(format!("{}: {test}", row.id)) };
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        // The attribute stands before the function, or the macro that runs it on both databases does.
        let is_test = text.contains(&format!("fn {function}("))
            && ["#[test]", "#[tokio::test", "on_both!"].iter().any(|mark| text.contains(mark));
        (!is_test).then(|| format!("{}: there is no {test}", row.id))
    })
}

#[test]
fn every_capability_is_in_the_table_with_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("tests/capabilities.md")).unwrap();
    let rows = rows(&text);
    let found: Vec<String> = rows.iter().map(|row| row.id.to_owned()).collect();
    let wanted = [("I", 20), ("O", 4), ("U", 9)];
    let wanted: Vec<String> =
        wanted.iter().flat_map(|(part, most)| (1..=*most).map(move |n| format!("{part}{n}"))).collect();
    assert_eq!(found, wanted, "each once, in order");
    let problems: BTreeSet<String> = rows.iter().filter_map(|row| problem(&root, row)).collect();
    assert_eq!(problems, BTreeSet::new());
    let wrong = Row { id: "I1", state: "done", tests: vec!["tests/mail.rs::nothing_of_the_kind"] };
    assert!(problem(&root, &wrong).is_some(), "the guard itself goes red");
}
