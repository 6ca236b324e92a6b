//! The walls between organisations, and those between the members of one: the whole schema, walked with ids that are
//! somebody else's, in every place where an id can stand.
//!
//! Invariants: what is not yours looks exactly like what is not there, in data, errors, counts, facets, suggestions and
//! events; and what others do shows nowhere in what you read or follow. Of times: `attacks/timing.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{Server, Session, databases};

const INTROSPECTION: &str = "{ __schema { queryType { name } mutationType { name } types { name kind
    fields(includeDeprecated: true) { name args { name type { ...T } } type { ...T } }
    inputFields { name type { ...T } } enumValues { name } possibleTypes { name } } } }
    fragment T on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } }";

/// What is another value each time, or says how far the installation has come.
const VOLATILE: &[&str] =
    &["tookMs", "downloadUrl", "position", "lastSeenAt", "lastUsedAt", "errorId", "traceId", "readings"];

/// The schema, as anybody can ask for it.
pub struct Schema(BTreeMap<String, Value>);

/// A call of one field, with an id in one place of its arguments, or in all.
pub struct Call {
    /// In which place, for people.
    pub place: String,
    declared: String,
    text: String,
    /// What stands in its places.
    pub variables: Value,
}

impl Call {
    /// The operation.
    pub fn document(&self) -> String {
        format!("{} {{ {} }}", self.declared, self.text)
    }
}

/// Where an id goes.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// Along these names, and nowhere else.
    At(&'a [String]),
    /// Wherever one is wanted.
    Everywhere,
    /// Not in here.
    Nowhere,
}

impl Schema {
    /// As this person sees it.
    pub async fn of(session: &Session) -> Self {
        let answer = session.ask(INTROSPECTION, json!({})).await;
        let types = answer["__schema"]["types"].as_array().unwrap().clone();
        Self(types.into_iter().map(|t| (t["name"].as_str().unwrap().to_owned(), t)).collect())
    }

    /// The fields of `Query` or `Mutation`.
    pub fn root(&self, name: &str) -> Vec<Value> {
        self.0[name]["fields"].as_array().unwrap().clone()
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
        for field in t["fields"].as_array().into_iter().flatten().filter(|field| !has_to_be_given_something(field)) {
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

    /// Every field below `Query` that is reached without arguments, with the names that lead to it: of each type once.
    fn reached(&self) -> Vec<(Vec<String>, Value)> {
        let mut found = Vec::new();
        let (mut seen, mut next) = (BTreeSet::new(), vec![(Vec::new(), "Query".to_owned())]);
        while !next.is_empty() {
            for (path, name) in std::mem::take(&mut next) {
                if !seen.insert(name.clone()) {
                    continue;
                }
                for field in self.0[&name]["fields"].as_array().into_iter().flatten() {
                    found.push((path.clone(), field.clone()));
                    let (kind, of) = named(&field["type"]);
                    if kind == "OBJECT" && !has_to_be_given_something(field) {
                        let to = [path.clone(), vec![field["name"].as_str().unwrap().to_owned()]].concat();
                        next.push((to, of));
                    }
                }
            }
        }
        found
    }

    /// The places inside a value where an id can stand: where the type says so, and where roles are named.
    fn places(&self, name: &str, t: &Value, inside: &mut Vec<String>) -> Vec<Vec<String>> {
        let (kind, of) = named(t);
        if of == "ID" || (of == "String" && name == "roles") {
            return vec![vec![name.to_owned()]];
        }
        if kind != "INPUT_OBJECT" || inside.contains(&of) {
            return Vec::new();
        }
        inside.push(of.clone());
        let fields = self.0[&of]["inputFields"].as_array().unwrap();
        let deeper = fields.iter().flat_map(|f| self.places(f["name"].as_str().unwrap(), &f["type"], inside));
        let places = deeper.map(|rest| [vec![name.to_owned()], rest].concat()).collect();
        inside.pop();
        places
    }

    /// A value for an input. `own`: what stands where an id is wanted that is not the one in question.
    fn value(&self, name: &str, t: &Value, place: Place<'_>, id: &str, own: &dyn Fn(&str) -> String) -> Value {
        match t["kind"].as_str().unwrap() {
            "NON_NULL" => self.value(name, &t["ofType"], place, id, own),
            "LIST" => json!([self.value(name, &t["ofType"], place, id, own)]),
            "ENUM" => self.0[t["name"].as_str().unwrap()]["enumValues"][0]["name"].clone(),
            "INPUT_OBJECT" => {
                let mut given = serde_json::Map::new();
                for field in self.0[t["name"].as_str().unwrap()]["inputFields"].as_array().unwrap() {
                    let name = field["name"].as_str().unwrap();
                    let (to_it, inside) = match place {
                        Place::At([first, rest @ ..]) if first == name => (true, Place::At(rest)),
                        Place::At(_) | Place::Nowhere => (false, Place::Nowhere),
                        Place::Everywhere => (named(&field["type"]).1 == "ID", Place::Everywhere),
                    };
                    if to_it || field["type"]["kind"] == "NON_NULL" {
                        given.insert(name.to_owned(), self.value(name, &field["type"], inside, id, own));
                    }
                }
                Value::Object(given)
            }
            _ => match (t["name"].as_str().unwrap(), place) {
                (_, Place::At([])) | ("ID", Place::Everywhere) => json!(id),
                ("ID", _) => json!(own(name)),
                ("Int", _) => json!(1),
                ("Float", _) => json!(1.0),
                ("Boolean", _) => json!(true),
                ("Upload", _) => json!("upload:0"),
                // Their own, so that it is not what keeps them out.
                ("String", _) if name.ends_with("assword") => json!("correct horse battery"),
                _ => json!("harbour"),
            },
        }
    }

    /// The calls of a field of `Query` or `Mutation` with this id in each place where one can stand, and in all of them
    /// at once, which comes last. One, where none can.
    pub fn calls(&self, root: &str, field: &Value, id: &str) -> Vec<Call> {
        self.calls_below(root, &[], field, id, &|_| "none".to_owned())
    }

    fn calls_below(
        &self,
        root: &str,
        path: &[String],
        field: &Value,
        id: &str,
        own: &dyn Fn(&str) -> String,
    ) -> Vec<Call> {
        let arguments = field["args"].as_array().unwrap();
        let places =
            arguments.iter().flat_map(|a| self.places(a["name"].as_str().unwrap(), &a["type"], &mut Vec::new()));
        let places: Vec<Vec<String>> = places.collect();
        let each = places.iter().map(|place| Place::At(place)).filter(|_| places.len() > 1);
        each.chain([Place::Everywhere]).map(|place| self.call(root, path, field, place, id, own)).collect()
    }

    fn call(
        &self,
        root: &str,
        path: &[String],
        field: &Value,
        place: Place<'_>,
        id: &str,
        own: &dyn Fn(&str) -> String,
    ) -> Call {
        let (mut declared, mut given, mut variables) = (Vec::new(), Vec::new(), serde_json::Map::new());
        for argument in field["args"].as_array().unwrap() {
            let name = argument["name"].as_str().unwrap();
            let (to_it, inside) = match place {
                Place::At([first, rest @ ..]) if first == name => (true, Place::At(rest)),
                Place::At(_) | Place::Nowhere => (false, Place::Nowhere),
                Place::Everywhere => (named(&argument["type"]).1 == "ID", Place::Everywhere),
            };
            if to_it || argument["type"]["kind"] == "NON_NULL" {
                declared.push(format!("${name}: {}", written(&argument["type"])));
                given.push(format!("{name}: ${name}"));
                variables.insert(name.to_owned(), self.value(name, &argument["type"], inside, id, own));
            }
        }
        let wrap =
            |parts: Vec<String>| if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) };
        let name = field["name"].as_str().unwrap();
        let (kind, of) = named(&field["type"]);
        let selection = match kind.as_str() {
            "SCALAR" | "ENUM" => String::new(),
            _ => format!("{{ {} }}", self.selection(&of, 3 - path.len().min(2))),
        };
        let call = format!("{name}{} {selection}", wrap(given));
        let at = match place {
            Place::At(names) => names.join("."),
            Place::Everywhere => "everywhere".to_owned(),
            Place::Nowhere => String::new(),
        };
        Call {
            place: format!("{}{name}({at})", path.iter().map(|name| format!("{name}.")).collect::<String>()),
            declared: format!("{}{}", root.to_lowercase(), wrap(declared)),
            text: path.iter().rev().fold(call, |inner, name| format!("{name} {{ {inner} }}")),
            variables: Value::Object(variables),
        }
    }
}

fn has_to_be_given_something(field: &Value) -> bool {
    field["args"].as_array().unwrap().iter().any(|argument| argument["type"]["kind"] == "NON_NULL")
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

/// Everything that this person can read without naming anything, but for what is another value each time.
async fn read_everything(schema: &Schema, session: &Session) -> Value {
    let mut answers = serde_json::Map::new();
    for field in schema.root("Query") {
        let name = field["name"].as_str().unwrap();
        if !["node", "nodes", "project", "document"].contains(&name) {
            let call = schema.calls("Query", &field, "none").pop().unwrap();
            let data = session.raw(&call.document(), call.variables).await["data"].take();
            answers.insert(name.to_owned(), settled(data));
        }
    }
    Value::Object(answers)
}

/// Without what is another value each time.
fn settled(mut value: Value) -> Value {
    match &mut value {
        Value::Array(all) => all.iter_mut().for_each(|one| *one = settled(one.take())),
        Value::Object(all) => {
            all.retain(|name, _| !VOLATILE.iter().any(|volatile| name.ends_with(volatile)));
            // How many readings are kept: one's own are among them.
            if all.get("kind") == Some(&json!("ACCESS_LOG")) {
                all.retain(|name, _| !["count", "oldest"].contains(&name.as_str()));
            }
            all.values_mut().for_each(|one| *one = settled(one.take()));
        }
        _ => {}
    }
    value
}

/// What an answer tells, whichever id was asked for.
fn tells(answer: &Value, id: &str) -> String {
    let mut told = settled(answer.clone());
    told.as_object_mut().unwrap().remove("extensions");
    told.to_string().replace(id, "the id")
}

/// What ends the session that calls it, or begins another.
const LEAVES: &[&str] = &["register", "login", "sessionRefresh", "logout", "memberAccept", "passwordChange"];

/// Somebody who has no business with what they ask for.
struct Thief {
    name: String,
    session: Session,
    /// Of each kind, something that is their own.
    own: BTreeMap<String, String>,
    /// What they may not do, whatever it is done to.
    forbidden: Mutex<BTreeSet<String>>,
}

impl Thief {
    fn new(name: &str, session: Session) -> Self {
        Self { name: name.to_owned(), session, own: BTreeMap::new(), forbidden: Mutex::default() }
    }

    /// Of the kind that is wanted in this place.
    fn owns(&self, field: &str, name: &str) -> String {
        let kinds =
            [("project", "prj_"), ("document", "doc_"), ("member", "mbr_"), ("role", "rol_"), ("apiKey", "key_")];
        let meant = if name == "id" { field } else { name };
        let kind = kinds.iter().find(|(word, _)| meant.starts_with(word)).map_or("none", |(_, kind)| kind);
        self.own.get(kind).cloned().unwrap_or_else(|| "none".to_owned())
    }

    /// Asks, and sees that nothing of these shows.
    async fn asks(&self, call: &Call, stolen: &BTreeSet<String>) -> Value {
        let mut answer = self.session.raw(&call.document(), call.variables.clone()).await;
        // More passwords at once than are worked on: each try waits its turn.
        while answer["errors"][0]["extensions"]["code"] == "OVERLOADED" {
            answer = self.session.raw(&call.document(), call.variables.clone()).await;
        }
        let mut seen = BTreeSet::new();
        ids(&answer["data"], &mut seen);
        let leaked: Vec<_> = seen.intersection(stolen).collect();
        let (place, name) = (&call.place, &self.name);
        assert!(leaked.is_empty(), "{place} {} shows {leaked:?} to {name}: {answer:#}", call.variables);
        let text = answer.to_string();
        assert!(!text.contains("SECRET") && !text.contains("mine alone"), "{place} to {name}: {answer:#}");
        for error in answer["errors"].as_array().into_iter().flatten() {
            let code = error["extensions"]["code"].as_str();
            assert!(code.is_some() && code != Some("INTERNAL"), "{place} {}: {error}", call.variables);
        }
        answer
    }

    /// Tries this id in every place, or (`thorough` or not) in all places of a field at once.
    async fn tries(&self, schema: &Schema, id: &str, stolen: &BTreeSet<String>, thorough: bool) -> usize {
        let absent = format!("{}{}", &id[..4], "0".repeat(26));
        let queries = schema.reached().into_iter().map(|(path, field)| ("Query", path, field));
        let mutations = schema.root("Mutation").into_iter().map(|field| ("Mutation", Vec::new(), field));
        let mut tried = 0;
        for (root, path, field) in queries.chain(mutations) {
            let name = field["name"].as_str().unwrap();
            if LEAVES.contains(&name) || !(thorough || path.is_empty()) || self.forbidden.lock().unwrap().contains(name)
            {
                continue;
            }
            let own = |meant: &str| self.owns(name, meant);
            let mut calls = schema.calls_below(root, &path, &field, id, &own);
            let mut of_nobody = schema.calls_below(root, &path, &field, &absent, &own);
            if !thorough {
                calls.drain(..calls.len() - 1);
                of_nobody.drain(..of_nobody.len() - 1);
            }
            for (call, nothing) in calls.iter().zip(&of_nobody) {
                if !call.variables.to_string().contains(id) {
                    continue;
                }
                let answer = self.asks(call, stolen).await;
                tried += 1;
                // Who may not do it is told so before anybody looks at the id.
                let error = &answer["errors"][0];
                let at_the_field = error["path"].as_array().is_some_and(|path| path.len() == 1);
                if root == "Mutation" && at_the_field && error["extensions"]["code"] == "FORBIDDEN" {
                    self.forbidden.lock().unwrap().insert(name.to_owned());
                    break;
                }
                // Theirs are the same words as those for what is not there.
                if thorough || root == "Mutation" {
                    let nothing = self.asks(nothing, stolen).await;
                    let (told, wanted) = (tells(&answer, id), tells(&nothing, &absent));
                    assert_eq!(
                        told, wanted,
                        "{} {} as {}: not yours, not there",
                        call.place, call.variables, self.name
                    );
                }
            }
        }
        tried
    }
}

/// The owner of an organisation, one with each other role in it, and keys: of the owner with all that they have, and of
/// somebody who works there.
async fn thieves(owner: &Session, project: &str, document: &str) -> Vec<Thief> {
    let mut thieves = vec![Thief::new("owner", owner.clone())];
    for role in ["admin", "moderator", "operator", "report_manager", "report_viewer", "member", "viewer"] {
        thieves.push(Thief::new(role, owner.join(&format!("Thief-{role}"), role).await));
    }
    let works = thieves.iter().find(|thief| thief.name == "member").unwrap().session.clone();
    thieves.push(Thief::new("a key", owner.with_key(&["*"]).await));
    let scopes = ["documents:view:own", "projects:view:own", "search:view"];
    thieves.push(Thief::new("a key of a member", works.with_key(&scopes).await));
    let member = owner.ask("{ viewer { member { id } } }", json!({})).await["viewer"]["member"]["id"].clone();
    for (kind, id) in [("prj_", project), ("doc_", document), ("mbr_", member.as_str().unwrap())] {
        thieves[0].own.insert(kind.to_owned(), id.to_owned());
    }
    thieves
}

/// A server that lets the walk ask for more than any person would.
async fn server(database: Option<String>) -> Server {
    let limits = [
        "max_depth=40",
        "max_cost=1000000000",
        "max_query_tokens=1000000",
        "max_aliases=10000",
        "max_query_bytes=16MiB",
        "max_body_bytes=16MiB",
    ];
    let flags: Vec<&str> = limits.iter().flat_map(|limit| ["--set", limit]).collect();
    Server::start_with(database, &flags).await
}

async fn put(session: &Session, project: &str, name: &str, text: &str) -> String {
    let uploaded = session.upload(project, name, text.as_bytes().to_vec()).await;
    let document = uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}")).to_owned();
    assert_eq!(session.document_ends(&document).await["status"], "READY");
    document
}

/// What was put in is found.
async fn finds(session: &Session, count: u64) {
    let query = "{ search(query: \"harbour\") { totalCount } }";
    session.until(query, json!({}), |found| found["search"]["totalCount"] == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_organisation_sees_nothing_of_the_first() {
    let walks = databases().into_iter().map(|database| tokio::spawn(walk(database)));
    join_all(walks).await.into_iter().for_each(Result::unwrap);
}

/// Walks over the whole schema with what was stolen, on this database.
async fn walk(database: Option<String>) {
    let server = server(database).await;
    let operator = server.register("Operator").await;
    let victim = server.register("Victim").await;
    let thief = server.register("Thief").await;
    // The same words, so that what is counted, suggested and found would show.
    let own = thief.create_project("MINE").await;
    let own_document = put(&thief, &own, "harbour.txt", "the harbour of the thief").await;
    finds(&thief, 1).await;
    let schema = Schema::of(&thief).await;
    let thieves = thieves(&thief, &own, &own_document).await;
    let mut before = Vec::new();
    for thief in &thieves {
        before.push(read_everything(&schema, &thief.session).await);
    }

    let project = victim.create_project("SECRET").await;
    let document = put(&victim, &project, "harbour.txt", "the harbour is mine alone").await;
    let other = put(&victim, &project, "harbours.txt", "two harbours, both mine alone").await;
    victim.with_key(&["*"]).await;
    victim.create_role("SECRET").await;
    victim.join("Accomplice", "admin").await;
    // Somebody guesses at their password.
    let nobody = Session { token: String::new(), ..victim.clone() };
    let guess = "mutation($input: LoginInput!) { login(input: $input) { userErrors { code } } }";
    for _ in 0..10 {
        nobody.ask(guess, json!({ "input": { "email": "victim@example.org", "password": "wrong" } })).await;
    }
    let told = |answer: &Value| answer["securityEvents"]["totalCount"] == 1;
    victim.until("{ securityEvents { totalCount } }", json!({}), told).await;
    let query = "mutation($id: ID!) { documentDelete(input: {id: $id}) { userErrors { message } } }";
    victim.ask(query, json!({ "id": other })).await;
    finds(&victim, 1).await;
    let mut stolen = BTreeSet::new();
    ids(&read_everything(&schema, &victim).await, &mut stolen);
    assert!(stolen.contains(&project) && stolen.contains(&document) && stolen.len() >= 12, "{stolen:?}");

    // All that the victim has done shows nowhere: not in what is listed, counted, suggested, found, in facets or events.
    for (thief, before) in thieves.iter().zip(&before) {
        let mine = read_everything(&schema, &thief.session).await;
        assert_eq!(&mine, before, "{} sees that somebody else has done something", thief.name);
        let mut own = BTreeSet::new();
        ids(&mine, &mut own);
        assert_eq!(stolen.intersection(&own).collect::<Vec<_>>(), Vec::<&String>::new(), "{}", thief.name);
        assert!(!mine.to_string().contains("Victim"), "{}: {mine:#}", thief.name);
    }
    // Who operates the installation reads nothing in it either.
    let mut operated = read_everything(&schema, &operator).await;
    // What organisations there are, whose, and how much they hold, is the operator's to know, and there alone.
    let accounts = operated["system"]["system"]["organizations"].take().to_string();
    assert!(accounts.contains("Victim"), "{accounts}");
    let operated = operated.to_string();
    for word in ["SECRET", "mine alone", "harbour", "Accomplice"] {
        assert!(!accounts.contains(word), "{word}: {accounts}");
    }
    for word in ["SECRET", "mine alone", "harbour", "Victim", "Accomplice"] {
        assert!(!operated.contains(word), "{word}: {operated}");
    }

    let before = victim.ask("{ events(first: 1) { totalCount } }", json!({})).await;
    let (mut kinds, mut firsts, mut tried) = (BTreeMap::new(), Vec::new(), 0);
    let node = "query($id: ID!) { node(id: $id) { id __typename } }";
    for id in &stolen {
        // Every id that the schema has returned is found by whose it is (a session by its person alone, whoever reads
        // of it in the log), and by nobody else.
        let found = victim.raw(node, json!({ "id": id })).await["data"]["node"]["id"].take();
        assert!(found == json!(id) || (found.is_null() && id.starts_with("ses_")), "{id}: {found}");
        assert!(operator.raw(node, json!({ "id": id })).await["data"]["node"].is_null(), "{id}");
        let of_its_kind = kinds.entry(&id[..3]).or_insert(0);
        *of_its_kind += 1;
        let is_first = *of_its_kind == 1;
        firsts.extend(is_first.then_some(id));
        // Of each kind the first one in every place, two more in all places of a field at once.
        if *of_its_kind <= 3 {
            tried += thieves[0].tries(&schema, id, &stolen, is_first).await;
        }
    }
    let all = join_all(thieves[1..].iter().map(async |thief| {
        let mut tried = 0;
        for id in &firsts {
            tried += thief.tries(&schema, id, &stolen, false).await;
        }
        tried
    }));
    tried += all.await.into_iter().sum::<usize>();
    println!("{tried} tries with {} ids of {} kinds", stolen.len(), kinds.len());
    assert!(tried > 1_000, "{tried}");
    let after = victim.ask("{ events(first: 1) { totalCount } }", json!({})).await;
    assert_eq!(before, after, "the thief wrote into the other organisation");
}

/// Inside an organisation, too, what somebody may not see looks absent.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_sees_nothing_of_the_projects_and_sessions_of_others() {
    let server = server(None).await;
    server.register("Operator").await;
    let owner = server.register("Victim").await;
    let (open, secret) = (owner.create_project("OPEN").await, owner.create_project("SECRET").await);
    let mut insiders = Vec::new();
    for role in ["operator", "report_manager", "report_viewer", "member", "viewer"] {
        let insider = owner.join(&format!("Insider-{role}"), role).await;
        let member = insider.ask("{ viewer { member { id } } }", json!({})).await["viewer"]["member"]["id"].clone();
        let query = "mutation($id: ID!, $member: ID!) { projectMemberAdd(input: {id: $id, memberId: $member}) { userErrors { message } } }";
        let added = owner.ask(query, json!({ "id": open, "member": member })).await;
        assert_eq!(added["projectMemberAdd"]["userErrors"], json!([]));
        insiders.push(Thief::new(role, insider));
    }
    let works = insiders.iter().find(|one| one.name == "member").unwrap().session.clone();
    insiders.push(Thief::new("a key of a member", works.with_key(&["projects:view:own", "documents:view:own"]).await));
    let document = put(&owner, &secret, "harbour.txt", "the harbour is mine alone").await;
    finds(&owner, 1).await;
    // Of keys it is said that they are another's: who made which is no secret between colleagues.
    let held = owner.ask("{ viewer { session { id } } }", json!({})).await;
    let hidden = [json!(secret), json!(document), held["viewer"]["session"]["id"].clone()];
    let hidden: BTreeSet<String> = hidden.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    let schema = Schema::of(&owner).await;
    let tried = join_all(insiders.iter().map(async |insider| {
        let mut seen = BTreeSet::new();
        let mine = read_everything(&schema, &insider.session).await;
        ids(&mine, &mut seen);
        assert_eq!(hidden.intersection(&seen).collect::<Vec<_>>(), Vec::<&String>::new(), "{}: {mine:#}", insider.name);
        assert!(!mine.to_string().contains("SECRET"), "{}: {mine:#}", insider.name);
        let mut tried = 0;
        for id in &hidden {
            tried += insider.tries(&schema, id, &hidden, insider.name == "member").await;
        }
        tried
    }));
    println!("{} tries with {} ids", tried.await.into_iter().sum::<usize>(), hidden.len());
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Follows this; the first operation of a socket of its own.
async fn follow(session: &Session, query: &str) -> Socket {
    let place = session.url.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{place}/graphql").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    request.headers_mut().insert("authorization", format!("Bearer {}", session.token).parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    for message in
        [json!({ "type": "connection_init" }), json!({ "type": "subscribe", "id": "1", "payload": { "query": query } })]
    {
        socket.send(Message::text(message.to_string())).await.unwrap();
    }
    assert_eq!(hear(&mut socket).await["type"], "connection_ack");
    socket
}

async fn hear(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_follows_says_nothing_of_another_organisation() {
    for database in databases() {
        let server = server(database).await;
        let (victim, thief) = (server.register("Victim").await, server.register("Thief").await);
        let own = thief.create_project("MINE").await;
        put(&thief, &own, "harbour.txt", "the harbour of the thief").await;
        finds(&thief, 1).await;
        let counts = "projects { totalCount } documents { totalCount nodes { title } } members { totalCount } \
                      search(query: \"harbour\") { totalCount facets { field values { value count } } } \
                      suggest(prefix: \"harb\") { text }";
        let mut live = follow(&thief, &format!("subscription {{ live {{ {counts} }} }}")).await;
        let first = hear(&mut live).await["payload"]["data"]["live"].take();
        assert_eq!((&first["projects"]["totalCount"], &first["search"]["totalCount"]), (&json!(1), &json!(1)));
        let newest = "{ events(first: 1, orderBy: [{ field: POSITION, direction: DESC }]) { nodes { sequence } } }";
        let newest = thief.ask(newest, json!({})).await["events"]["nodes"][0]["sequence"].clone();
        let mut events = follow(&thief, "subscription { events { type sequence } }").await;

        let project = victim.create_project("SECRET").await;
        put(&victim, &project, "harbour.txt", "the harbour is mine alone").await;
        finds(&victim, 1).await;
        victim.join("Accomplice", "admin").await;
        thief.create_project("OTHER").await;
        // The first that is said, after all that the victim has done, is what the thief did.
        let next = hear(&mut live).await["payload"]["data"]["live"].take();
        let mut wanted = first.clone();
        wanted["projects"]["totalCount"] = json!(2);
        assert_eq!(next, wanted);
        loop {
            let told = hear(&mut events).await["payload"]["data"]["events"].take();
            let number = |value: &Value| value.to_string().trim_matches('"').parse::<u64>().unwrap();
            // Those of before, if the stream begins with them; after them one's own, without a gap.
            if number(&told["sequence"]) > number(&newest) {
                assert_eq!(number(&told["sequence"]), number(&newest) + 1, "{told}");
                assert_eq!(told["type"], "project_created", "{told}");
                break;
            }
        }
    }
}
