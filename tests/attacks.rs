//! Attacks on the running program, as somebody would try them who has read everything: the source, the schema and the
//! public keys. Each has to fail, and what it tried to break has to work beside it.
//!
//! Invariant: `deploy/security.md` names for each attack a test that makes it, here or beside the code that withstands
//! it, and each test that it names is there.

mod browsers;
mod escalation;
mod guessing;
mod sessions;
mod timing;
mod tokens;

use serde_json::{Value, json};

use crate::support::{Server, Session};

const PASSWORD: &str = "correct horse battery";
/// What signing in answers.
const SIGNED_IN: &str = "accessToken refreshToken mfaToken userErrors { code }";

/// The whole answer to a mutation that takes one input.
async fn told(session: &Session, field: &str, input: Value, selection: &str) -> Value {
    session.raw(&document(field, selection), json!({ "input": input })).await
}

fn document(field: &str, selection: &str) -> String {
    let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    format!("mutation($input: {type_name}!) {{ {field}(input: $input) {{ {selection} }} }}")
}

/// The codes of what went wrong, whether a person can mend it or not.
fn codes(answer: &Value) -> Vec<String> {
    let payloads = answer["data"].as_object().into_iter().flatten().map(|(_, payload)| &payload["userErrors"]);
    let mendable = payloads.filter_map(Value::as_array).flatten().map(|error| &error["code"]);
    let others = answer["errors"].as_array().into_iter().flatten().map(|error| &error["extensions"]["code"]);
    mendable.chain(others).map(|code| code.as_str().unwrap_or("?").to_owned()).collect()
}

/// The same program, asked by nobody.
fn nobody(session: &Session) -> Session {
    with_token(session, "")
}

fn with_token(session: &Session, token: &str) -> Session {
    Session { token: token.to_owned(), ..session.clone() }
}

/// Signs in, from an address that a proxy tells of.
async fn login_from(session: &Session, address: &str, body: Value) -> Value {
    let request = session.http.post(format!("{}/graphql", session.url)).header("x-forwarded-for", address);
    request.json(&body).send().await.unwrap().json().await.unwrap()
}

fn login(email: &str, password: &str) -> Value {
    let input = json!({ "email": email, "password": password });
    json!({ "query": document("login", SIGNED_IN), "variables": { "input": input } })
}

/// How many events there are: an attack that fails adds none.
async fn events(operator: &Session) -> Value {
    operator.ask("{ system { position } }", json!({})).await["system"]["position"].clone()
}

/// An installation with its operator, and somebody with an organisation of their own.
async fn installation() -> (Server, Session, Session) {
    let server = Server::start(None).await;
    let operator = server.register("Operator").await;
    let ada = server.register("Ada").await;
    (server, operator, ada)
}

#[test]
fn every_attack_that_is_told_of_has_its_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("deploy/security.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack"));
    let mut named = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "an attack, what becomes of it, and its tests: {row}");
        // `file.rs` and then the functions in it, until the next file.
        let mut source = None;
        for word in cells[2].split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                let path = root.join(word);
                source = Some(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{word}: {error}")));
            } else {
                let source = source.as_ref().unwrap_or_else(|| panic!("in which file is {word}?"));
                assert!(source.contains(&format!("fn {word}(")), "there is no test {word}: {row}");
                named += 1;
            }
        }
        assert!(source.is_some(), "no test is named: {row}");
    }
    assert!(named >= 40, "the table of attacks has shrunk: {named}");
}
