//! The walls between organisations: the whole schema, walked with ids stolen from another one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Server, Session, databases};

const INTROSPECTION: &str = "{ __schema { queryType { name } mutationType { name } types { name kind
    fields(includeDeprecated: true) { name args { name type { ...T } } type { ...T } }
    inputFields { name type { ...T } } enumValues { name } possibleTypes { name } } } }
    fragment T on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } }";

struct Schema(BTreeMap<String, Value>);

impl Schema {
    async fn of(session: &Session) -> Self {
        let answer = session.ask(INTROSPECTION, json!({})).await;
        let types = answer["__schema"]["types"].as_array().unwrap().clone();
        Self(types.into_iter().map(|t| (t["name"].as_str().unwrap().to_owned(), t)).collect())
    }

    /// Everything of a type that is reached without arguments that have to be given, to this depth.
    fn selection(&self, name: &str, depth: usize) -> String {
        let t = &self.0[name];
        if t["kind"] == "UNION" || t["kind"] == "INTERFACE" {
            let possible = t["possibleTypes"].as_array().unwrap();
            let parts = possible.iter().enumerate().map(|(n, p)| {
                // Aliased, because the same field may have other types in other objects.
                let inside = self.selection(p["name"].as_str().unwrap(), depth);
                format!("... on {} {{ {} }}", p["name"].as_str().unwrap(), aliased(&inside, n))
            });
            return format!("__typename {}", parts.collect::<Vec<_>>().join(" "));
        }
        let mut parts = vec!["__typename".to_owned()];
        for field in t["fields"].as_array().into_iter().flatten() {
            if field["args"].as_array().unwrap().iter().any(|a| a["type"]["kind"] == "NON_NULL") {
                continue;
            }
            let (kind, of) = named(&field["type"]);
            let field = field["name"].as_str().unwrap();
            match kind.as_str() {
                "SCALAR" | "ENUM" => parts.push(field.to_owned()),
                _ if depth > 0 => parts.push(format!("{field} {{ {} }}", self.selection(&of, depth - 1))),
                _ => {}
            }
        }
        parts.join(" ")
    }

    /// A value for an input, with the stolen id wherever an id is wanted.
    fn value(&self, t: &Value, id: &str, depth: usize) -> Value {
        match t["kind"].as_str().unwrap() {
            "NON_NULL" => self.value(&t["ofType"], id, depth),
            "LIST" => json!([self.value(&t["ofType"], id, depth)]),
            "ENUM" => self.0[t["name"].as_str().unwrap()]["enumValues"][0]["name"].clone(),
            "INPUT_OBJECT" => {
                let fields = self.0[t["name"].as_str().unwrap()]["inputFields"].as_array().unwrap().clone();
                let wanted = fields
                    .iter()
                    .filter(|f| f["type"]["kind"] == "NON_NULL" || (depth > 0 && named(&f["type"]).1 == "ID"));
                Value::Object(
                    wanted.map(|f| (f["name"].as_str().unwrap().to_owned(), self.value(&f["type"], id, 0))).collect(),
                )
            }
            _ => match t["name"].as_str().unwrap() {
                "ID" => json!(id),
                "Int" => json!(1),
                "Float" => json!(1.0),
                "Boolean" => json!(true),
                "Upload" => json!("upload:0"),
                _ => json!("harbour"),
            },
        }
    }

    /// A call of a root field with the stolen id in it.
    fn call(&self, field: &Value, id: &str, everything: bool) -> (String, String, Value) {
        let (mut declared, mut given, mut variables) = (Vec::new(), Vec::new(), serde_json::Map::new());
        for argument in field["args"].as_array().unwrap() {
            let has_id = named(&argument["type"]).1 == "ID";
            if argument["type"]["kind"] != "NON_NULL" && !(everything && has_id) {
                continue;
            }
            let name = argument["name"].as_str().unwrap();
            declared.push(format!("${name}: {}", written(&argument["type"])));
            given.push(format!("{name}: ${name}"));
            variables.insert(name.to_owned(), self.value(&argument["type"], id, 1));
        }
        let wrap =
            |parts: Vec<String>| if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) };
        let name = field["name"].as_str().unwrap();
        let (kind, of) = named(&field["type"]);
        let selection = match kind.as_str() {
            "SCALAR" | "ENUM" => String::new(),
            _ => format!("{{ {} }}", self.selection(&of, 3)),
        };
        (wrap(declared), format!("{name}{} {selection}", wrap(given)), Value::Object(variables))
    }

    fn root(&self, name: &str) -> Vec<Value> {
        self.0[name]["fields"].as_array().unwrap().clone()
    }
}

/// `a b { c }` with other names, so that two objects of a union do not disagree.
fn aliased(selection: &str, n: usize) -> String {
    let mut depth = 0;
    let words = selection.split(' ').map(|word| {
        let name = depth == 0 && word.starts_with(|c: char| c.is_ascii_lowercase());
        match word {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if name { format!("x{n}_{word}: {word}") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn named(t: &Value) -> (String, String) {
    match t["ofType"].is_object() {
        true => named(&t["ofType"]),
        false => (t["kind"].as_str().unwrap().to_owned(), t["name"].as_str().unwrap().to_owned()),
    }
}

fn written(t: &Value) -> String {
    match t["kind"].as_str().unwrap() {
        "NON_NULL" => format!("{}!", written(&t["ofType"])),
        "LIST" => format!("[{}]", written(&t["ofType"])),
        _ => t["name"].as_str().unwrap().to_owned(),
    }
}

fn ids(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            let is_id = text.len() == 30 && text.as_bytes()[3] == b'_';
            if is_id && !text.starts_with("cmd_") {
                found.insert(text.clone());
            }
        }
        Value::Array(all) => all.iter().for_each(|v| ids(v, found)),
        Value::Object(all) => all.values().for_each(|v| ids(v, found)),
        _ => {}
    }
}

/// Everything that this person can read without naming anything.
async fn read_everything(schema: &Schema, session: &Session) -> Value {
    let mut answers = serde_json::Map::new();
    for field in schema.root("Query") {
        let name = field["name"].as_str().unwrap();
        if ["node", "nodes", "project", "document"].contains(&name) {
            continue;
        }
        let (declared, call, variables) = schema.call(&field, "none", false);
        answers.insert(
            name.to_owned(),
            session.raw(&format!("query{declared} {{ {call} }}"), variables).await["data"].clone(),
        );
    }
    Value::Object(answers)
}

/// What ends the session that calls it, or begins another.
const LEAVES: &[&str] = &["register", "login", "sessionRefresh", "logout", "memberAccept", "passwordChange"];

/// The owner of an organisation, one with each other role in it, and a key of the owner with all that they have.
async fn thieves(owner: &Session) -> Vec<(String, Session)> {
    let mut thieves = vec![("owner".to_owned(), owner.clone())];
    for role in ["admin", "moderator", "operator", "report_manager", "report_viewer", "member", "viewer"] {
        thieves.push((role.to_owned(), owner.join(&format!("Thief-{role}"), role).await));
    }
    thieves.push(("a key".to_owned(), owner.with_key(&["*"]).await));
    thieves
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_organisation_sees_nothing_of_the_first() {
    for database in databases() {
        // The walk asks for more than any person would.
        let limits = [
            "--set",
            "max_depth=40",
            "--set",
            "max_cost=1000000000",
            "--set",
            "max_query_tokens=1000000",
            "--set",
            "max_aliases=10000",
            "--set",
            "max_query_bytes=16MiB",
            "--set",
            "max_body_bytes=16MiB",
        ];
        let server = Server::start_with(database, &limits).await;
        let first = server.register("Operator").await;
        let victim = server.register("Victim").await;
        let project = victim.create_project("SECRET").await;
        let uploaded = victim.upload(&project, "harbour.txt", b"the harbour is mine alone".to_vec()).await;
        let document = uploaded["document"]["id"].as_str().unwrap().to_owned();
        assert_eq!(victim.document_ends(&document).await["status"], "READY");
        victim.with_key(&["*"]).await;
        victim.create_role("SECRET").await;
        let thief = server.register("Thief").await;
        let schema = Schema::of(&thief).await;
        let thieves = thieves(&thief).await;

        let mut stolen = BTreeSet::new();
        ids(&read_everything(&schema, &victim).await, &mut stolen);
        assert!(stolen.contains(&project) && stolen.contains(&document) && stolen.len() >= 8, "{stolen:?}");
        for (role, thief) in &thieves {
            let mut own = BTreeSet::new();
            let mine = read_everything(&schema, thief).await;
            ids(&mine, &mut own);
            assert_eq!(stolen.intersection(&own).collect::<Vec<_>>(), Vec::<&String>::new(), "{role}");
            assert!(!mine.to_string().contains("Victim"), "{role}: {mine:#}");
        }

        let before = victim.ask("{ events(first: 1) { totalCount } }", json!({})).await;
        let mut kinds = BTreeSet::new();
        let first_id = stolen.first().cloned().unwrap();
        for id in &stolen {
            // The owner tries everything, all others one of each kind.
            let thieves = if kinds.insert(&id[..3]) { &thieves[..] } else { &thieves[..1] };
            // `node` resolves every id that the schema returned, for its owner; for the thief it is not there.
            let node = victim.raw("query($id: ID!) { node(id: $id) { id __typename } }", json!({"id": id})).await;
            assert_eq!(node["data"]["node"]["id"], json!(id), "{node}");
            for (role, thief) in thieves {
                for (root, kind) in [("Query", "query"), ("Mutation", "mutation")] {
                    for field in schema.root(root) {
                        let name = field["name"].as_str().unwrap();
                        if LEAVES.contains(&name) || field["args"].as_array().unwrap().is_empty() {
                            continue;
                        }
                        let (declared, call, variables) = schema.call(&field, id, true);
                        let names_it = variables.to_string().contains(id.as_str());
                        // What takes no id is asked once: it is the same with every one.
                        if !names_it && *id != first_id {
                            continue;
                        }
                        let answer = thief.raw(&format!("{kind}{declared} {{ {call} }}"), variables.clone()).await;
                        let mut seen = BTreeSet::new();
                        ids(&answer["data"], &mut seen);
                        let leaked: Vec<_> = seen.intersection(&stolen).collect();
                        assert!(leaked.is_empty(), "{name} {variables} shows {leaked:?} to {role}: {answer:#}");
                        let text = answer.to_string();
                        assert!(
                            !text.contains("SECRET") && !text.contains("mine alone"),
                            "{name} to {role}: {answer:#}"
                        );
                        // A mutation of what is not theirs looks exactly like one of what is not there.
                        if root == "Mutation" && names_it {
                            let absent = format!("{}{}", &id[..4], "0".repeat(26));
                            let (declared, call, variables) = schema.call(&field, &absent, true);
                            let nothing = thief.raw(&format!("{kind}{declared} {{ {call} }}"), variables).await;
                            assert_eq!(errors(&answer), errors(&nothing), "{name} as {role}: not yours, not there");
                        }
                    }
                }
            }
        }
        let after = victim.ask("{ events(first: 1) { totalCount } }", json!({})).await;
        assert_eq!(before, after, "the thief wrote into the other organisation");
        drop(first);
    }
}

fn errors(answer: &Value) -> Value {
    let payload = answer["data"].as_object().and_then(|data| data.values().next()).cloned().unwrap_or_default();
    let codes =
        |list: &Value, at: &str| list.as_array().into_iter().flatten().map(|e| e[at].clone()).collect::<Vec<_>>();
    json!([codes(&payload["userErrors"], "code"), codes(&answer["errors"], "message").len()])
}
