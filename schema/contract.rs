//! The contract: `graphql.schema` is what the code says, and says what everything is for.
//!
//! After a wanted change, write it anew with `ORIEL_BLESS=1 cargo test -p oriel-schema contract`, and read the
//! difference as a partner would.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use async_graphql::{Request, Value};

/// Everything that introspection says, with arguments.
const INTROSPECTION: &str = "{ __schema { types {
    kind name description
    fields(includeDeprecated: true) { name description args { name description } type { ...Type } }
    inputFields { name description type { ...Type } }
    enumValues(includeDeprecated: true) { name description }
} } }
fragment Type on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }";

/// Arguments that the description of their field explains.
const EXPLAINED: &[&str] = &["input", "id", "ids"];

#[test]
fn the_file_equals_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphql.schema");
    let code = crate::sdl();
    if std::env::var_os("ORIEL_BLESS").is_some() {
        std::fs::write(&path, &code).unwrap();
    }
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    let line = file.lines().zip(code.lines()).position(|(file, code)| file != code);
    let line = line.unwrap_or_else(|| file.lines().count().min(code.lines().count()));
    assert!(
        file == code,
        "graphql.schema differs from the code from line {} on:\n  {}\nIf that is wanted: ORIEL_BLESS=1 cargo test -p oriel-schema contract",
        line + 1,
        code.lines().nth(line).unwrap_or("(its end)"),
    );
}

#[tokio::test]
async fn everything_is_described() {
    let mut missing = Vec::new();
    for kind in types().await {
        let name = text(&kind, "name").to_owned();
        if text(&kind, "description").is_empty() {
            missing.push(name.clone());
        }
        for part in ["fields", "inputFields", "enumValues"] {
            for member in list(&kind, part) {
                let path = format!("{name}.{}", text(member, "name"));
                if text(member, "description").is_empty() {
                    missing.push(path.clone());
                }
                missing.extend(
                    list(member, "args")
                        .iter()
                        .filter(|argument| {
                            text(argument, "description").is_empty() && !EXPLAINED.contains(&text(argument, "name"))
                        })
                        .map(|argument| format!("{path}({})", text(argument, "name"))),
                );
            }
        }
    }
    assert!(missing.is_empty(), "without a description: {missing:#?}");
}

#[tokio::test]
async fn roots_are_nullable_and_mutations_take_one_input() {
    let mut wrong = Vec::new();
    for kind in types().await {
        let root = text(&kind, "name").to_owned();
        if !matches!(root.as_str(), "Query" | "Mutation") {
            continue;
        }
        for field in list(&kind, "fields") {
            let name = text(field, "name");
            if text(object(field, "type"), "kind") == "NON_NULL" {
                wrong.push(format!("{root}.{name} is not nullable"));
            }
            let arguments: Vec<&str> = list(field, "args").iter().map(|argument| text(argument, "name")).collect();
            if root == "Mutation" && arguments != ["input"] {
                wrong.push(format!("{root}.{name} takes {arguments:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The types of the schema that are ours.
async fn types() -> Vec<Value> {
    let answer = crate::schema().finish().execute(Request::new(INTROSPECTION)).await;
    assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    let built_in = ["Boolean", "Float", "ID", "Int", "String"];
    let types = list(object(&answer.data, "__schema"), "types");
    types
        .iter()
        .filter(|kind| !text(kind, "name").starts_with("__") && !built_in.contains(&text(kind, "name")))
        .cloned()
        .collect()
}

fn object<'a>(value: &'a Value, key: &str) -> &'a Value {
    match value {
        Value::Object(fields) => fields.get(key).unwrap_or(&Value::Null),
        _ => &Value::Null,
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    match object(value, key) {
        Value::List(items) => items,
        _ => &[],
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    match object(value, key) {
        Value::String(text) => text,
        _ => "",
    }
}
