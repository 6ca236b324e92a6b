//! Who may call what: each operation as each role, as it is declared, as it is written down, and as it is executed.
//!
//! Every field of `Query` and `Mutation` declares its access or does not compile; that those of `Subscription` do, and
//! that none is missing in the catalogue, is looked up in the contract. The table stands in `permissions.txt`: after a
//! wanted change, write it anew with `ORIEL_BLESS=1 cargo test -p oriel-schema permissions`, and read the difference.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use async_graphql::{Request, Variables};
use futures::StreamExt;
use oriel_domain::roles::{RoleName, first_organization_permissions, permissions};
use oriel_kernel::{Grant, Permissions, UserId};
use serde_json::{Value, json};

use crate::access::{Access, Operation, Root};
use crate::api_keys::secret::PREFIX;
use crate::documents::tests::received;
use crate::testing::direct::{prepared, schema};
use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};
use crate::uploads::Uploads;

/// Who calls: each role; the superadmin is an owner of the first organisation, and the key one of an admin, with all
/// that they have.
const CALLERS: [&str; 11] = [
    "superadmin",
    "owner",
    "admin",
    "moderator",
    "operator",
    "report_manager",
    "report_viewer",
    "member",
    "viewer",
    "key",
    "anonymous",
];

/// What somebody may who is called so; nothing for who is not signed in.
fn permissions_of(caller: &str) -> Option<Permissions> {
    match caller {
        "anonymous" => None,
        "superadmin" => Some(first_organization_permissions(&[RoleName::Owner])),
        "key" => Some(permissions(&[RoleName::Admin])),
        role => Some(permissions(&[RoleName::parse(role).unwrap()])),
    }
}

/// What an operation does for a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// Everything that it can.
    All,
    /// What it can with what is the caller's own.
    Own,
    /// Nothing: `FORBIDDEN`.
    Forbidden,
    /// Nothing: `UNAUTHENTICATED`.
    Unauthenticated,
}

impl Answer {
    fn declared(access: Access, caller: &str) -> Self {
        match (access, permissions_of(caller)) {
            (Access::SignedIn, Some(_)) if caller == "key" => Self::Forbidden,
            (Access::Public, _) | (Access::SignedIn | Access::Authenticated, Some(_)) => Self::All,
            (Access::SignedIn | Access::Authenticated | Access::Permission(_), None) => Self::Unauthenticated,
            (Access::Permission(wanted), Some(permissions)) => match permissions.grant(wanted) {
                Some(Grant::All) => Self::All,
                Some(Grant::Own) => Self::Own,
                None => Self::Forbidden,
            },
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Own => "own",
            Self::Forbidden => "-",
            Self::Unauthenticated => "sign in",
        }
    }

    /// Whether it lets the caller in; if not, with which code it refuses.
    const fn refusal(self) -> Option<&'static str> {
        match self {
            Self::All | Self::Own => None,
            Self::Forbidden => Some("FORBIDDEN"),
            Self::Unauthenticated => Some("UNAUTHENTICATED"),
        }
    }
}

fn declaration(access: Access) -> String {
    match access {
        Access::Public => "for everyone".to_owned(),
        Access::SignedIn => "signed in".to_owned(),
        Access::Authenticated => "signed in, keys".to_owned(),
        Access::Permission(permission) => permission.to_string(),
    }
}

fn sorted() -> Vec<&'static Operation> {
    let mut operations = crate::operations();
    operations.sort_by_key(|operation| (operation.root, operation.name));
    operations
}

fn table() -> String {
    let mut text = String::from(
        "# Who may call what. all: in the whole organization; own: only what is one's own; -: FORBIDDEN;\n\
         # sign in: UNAUTHENTICATED. The superadmin is an owner of the first organization; the key is an admin's, with all that they have.\n",
    );
    let mut row = |operation: &str, declared: &str, cells: Vec<&str>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<15}")).collect();
        writeln!(text, "{}", format!("{operation:<36}{declared:<22}{cells}").trim_end()).unwrap();
    };
    row("operation", "declared", CALLERS.to_vec());
    for operation in sorted() {
        let cell = |caller| Answer::declared(operation.access, caller).word();
        row(&operation.to_string(), &declaration(operation.access), CALLERS.map(cell).to_vec());
    }
    text
}

#[test]
fn the_table_is_what_is_declared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("permissions.txt");
    let declared = table();
    if std::env::var_os("ORIEL_BLESS").is_some() {
        std::fs::write(&path, &declared).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (written_lines, declared_lines) = (lines(&written), lines(&declared));
    assert!(
        written == declared,
        "schema/permissions.txt differs from what is declared.\nonly in the file: {:#?}\nonly declared: {:#?}\n\
         If that is wanted: ORIEL_BLESS=1 cargo test -p oriel-schema permissions",
        written_lines.difference(&declared_lines).collect::<Vec<_>>(),
        declared_lines.difference(&written_lines).collect::<Vec<_>>(),
    );
}

#[tokio::test]
async fn every_operation_is_declared_once_and_its_description_says_how() {
    let contract = Contract::of(&Bed::new().await).await;
    let mut declared = BTreeMap::new();
    for operation in crate::operations() {
        assert!(declared.insert(operation.to_string(), operation.access).is_none(), "{operation} is declared twice");
    }
    for (root, type_name) in ROOTS {
        for field in contract.fields(type_name) {
            let name = format!("{}.{}", root.as_str(), field["name"].as_str().unwrap());
            let access = declared.remove(&name).unwrap_or_else(|| panic!("{name} declares no access"));
            let line = match access {
                Access::Public => "For everyone.".to_owned(),
                Access::SignedIn => "For everyone who is signed in.".to_owned(),
                Access::Authenticated => "For everyone who is signed in, and for API keys.".to_owned(),
                Access::Permission(permission) => format!("Requires the permission `{permission}`."),
            };
            let last = field["description"].as_str().unwrap().lines().last();
            assert_eq!(last, Some(line.as_str()), "{name}: the last line of its description");
        }
    }
    assert!(declared.is_empty(), "declared, and not in the contract: {declared:?}");
}

const ROOTS: [(Root, &str); 3] =
    [(Root::Query, "Query"), (Root::Mutation, "Mutation"), (Root::Subscription, "Subscription")];

#[tokio::test]
async fn every_operation_does_for_each_role_what_the_table_says() {
    let (bed, callers) = installation().await;
    let contract = Contract::of(&bed).await;
    let (mut wrong, mut tokens) = (Vec::new(), BTreeMap::<&str, String>::new());
    for operation in sorted() {
        for (caller, email) in &callers {
            let expected = Answer::declared(operation.access, caller).refusal();
            // Some operations end the session that calls them.
            let token = match email {
                Some(key) if key.starts_with(PREFIX) => Some(key.clone()),
                Some(email) => Some(match tokens.remove(*caller) {
                    Some(token) if goes_on(&bed, &token).await => token,
                    _ => login(&bed, email).await,
                }),
                None => None,
            };
            tokens.extend(token.clone().map(|token| (*caller, token)));
            let answer = call(&bed, &contract, operation, caller, token.as_deref()).await;
            let refused =
                codes(&answer).into_iter().find(|code| ["FORBIDDEN", "UNAUTHENTICATED"].contains(&code.as_str()));
            if refused.as_deref() != expected {
                wrong.push(format!("{operation} as {caller}: {answer}; the table says {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An installation with a caller of each kind, and their addresses; of the key its secret.
async fn installation() -> (Bed, Vec<(&'static str, Option<String>)>) {
    let bed = Bed::new().await;
    bed.register("First", "superadmin@example.org").await;
    let owner = bed.register("Second", "owner@example.org").await;
    let mut callers = Vec::new();
    for caller in CALLERS {
        let email = format!("{caller}@example.org");
        let known_by = match caller {
            "superadmin" | "owner" => Some(email),
            "anonymous" => None,
            "key" => {
                let admin = bed.join(&owner, &email, &["admin"]).await;
                Some(bed.key(&admin, RoleName::Admin.patterns()).await.1)
            }
            role => {
                bed.join(&owner, &email, &[role]).await;
                Some(email)
            }
        };
        callers.push((caller, known_by));
    }
    (bed, callers)
}

async fn login(bed: &Bed, email: &str) -> String {
    let input = json!({ "email": email, "password": PASSWORD });
    Person::of(&bed.mutate(None, "login", input, SIGNED_IN).await).access
}

/// Whether the session of this token has not ended.
async fn goes_on(bed: &Bed, token: &str) -> bool {
    let Ok((credential, _)) = bed.endpoint.authenticate(token) else { return false };
    bed.endpoint.viewer(credential).await.unwrap().is_some()
}

/// Calls an operation with the least that it takes. Ids name nothing, so that nothing is changed that others need.
async fn call(bed: &Bed, contract: &Contract, operation: &Operation, caller: &str, token: Option<&str>) -> Value {
    let (_, type_name) = ROOTS.into_iter().find(|(root, _)| *root == operation.root).unwrap();
    let field = contract.field(type_name, operation.name);
    let (mut declared, mut given, mut variables) = (String::new(), String::new(), serde_json::Map::new());
    for argument in field["args"].as_array().unwrap().iter().filter(|argument| argument["type"]["kind"] == "NON_NULL") {
        let name = argument["name"].as_str().unwrap();
        write!(declared, "${name}: {} ", written(&argument["type"])).unwrap();
        write!(given, "{name}: ${name} ").unwrap();
        variables.insert(name.to_owned(), contract.least(&argument["type"]));
    }
    let wrap = |text: String| if text.is_empty() { text } else { format!("({text})") };
    let query = format!(
        "{}{} {{ {}{} {} }}",
        operation.root.as_str(),
        wrap(declared),
        operation.name,
        wrap(given),
        contract.selection(&field["type"])
    );
    let uploads = Uploads::default();
    uploads.add(received(bed, "a.txt", "one").await);
    let request = Request::new(query.clone()).variables(Variables::from_json(Value::Object(variables)));
    let (request, _) = prepared(bed, token, uploads, request).await;
    let schema = schema(bed);
    let answer = match operation.root {
        Root::Query | Root::Mutation => schema.execute(request).await,
        Root::Subscription => {
            let mut answers = schema.execute_stream(request);
            let first = tokio::time::timeout(Duration::from_secs(60), answers.next());
            let (first, ()) = futures::join!(first, something_happens(bed, caller));
            first.expect("a subscription answers").unwrap()
        }
    };
    let answer = serde_json::to_value(answer).unwrap();
    let codes = codes(&answer);
    assert!(!codes.iter().any(|code| code == "none"), "{query} is no valid request: {answer}");
    answer
}

/// Something for a subscription to tell, in the organization of the caller.
async fn something_happens(bed: &Bed, caller: &str) {
    let owner = if caller == "superadmin" { "superadmin@example.org" } else { "owner@example.org" };
    let key = format!("P{}", bed.endpoint.services().engine.feed().head());
    let input = json!({ "key": key, "name": "A project" });
    let made = bed.mutate(Some(&login(bed, owner).await), "projectCreate", input, "userErrors { code }").await;
    assert_eq!(made["userErrors"], json!([]));
}

/// The codes of everything that went wrong; `none` for an error without one.
fn codes(answer: &Value) -> Vec<String> {
    let errors = answer["errors"].as_array().into_iter().flatten().map(|error| &error["extensions"]["code"]);
    let payloads = answer["data"].as_object().into_iter().flat_map(|data| data.values());
    let mended = payloads.flat_map(|payload| payload["userErrors"].as_array().into_iter().flatten());
    errors.chain(mended.map(|error| &error["code"])).map(|code| code.as_str().unwrap_or("none").to_owned()).collect()
}

// --- the contract, as introspection gives it -----------------------------------------------------------------------

const INTROSPECTION: &str = "{ __schema { types { kind name
    fields(includeDeprecated: true) { name description args { name type { ...T } } type { ...T } }
    inputFields { name type { ...T } } enumValues(includeDeprecated: true) { name } } } }
    fragment T on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }";

struct Contract(BTreeMap<String, Value>);

impl Contract {
    async fn of(bed: &Bed) -> Self {
        let answer = bed.ask(None, INTROSPECTION, json!({})).await;
        let types = answer["data"]["__schema"]["types"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        Self(types.into_iter().map(|kind| (kind["name"].as_str().unwrap().to_owned(), kind)).collect())
    }

    fn fields(&self, type_name: &str) -> &[Value] {
        self.0[type_name]["fields"].as_array().unwrap()
    }

    fn field(&self, type_name: &str, name: &str) -> &Value {
        self.fields(type_name).iter().find(|field| field["name"] == name).unwrap()
    }

    /// The least value of this type that looks valid.
    fn least(&self, of: &Value) -> Value {
        let kind = of["kind"].as_str().unwrap();
        match (kind, of["name"].as_str().unwrap_or_default()) {
            ("NON_NULL", _) => self.least(&of["ofType"]),
            ("LIST", _) => json!([self.least(&of["ofType"])]),
            ("ENUM", name) => self.0[name]["enumValues"][0]["name"].clone(),
            ("INPUT_OBJECT", name) => {
                let fields = self.0[name]["inputFields"].as_array().unwrap().iter();
                let wanted = fields.filter(|field| field["type"]["kind"] == "NON_NULL");
                wanted.map(|f| (f["name"].as_str().unwrap().to_owned(), self.least(&f["type"]))).collect()
            }
            (_, "ID") => json!(UserId::ABSENT.to_string()),
            (_, "String") => json!("something"),
            (_, "Int" | "Float" | "ByteSize") => json!(1),
            (_, "Boolean") => json!(true),
            (_, "Position") => json!("1"),
            (_, "DateTime") => json!("2031-01-01T00:00:00Z"),
            (_, "JSON") => json!({}),
            (_, "Upload") => json!(Uploads::placeholder(0)),
            (_, name) => panic!("say here what a value of {name} looks like"),
        }
    }

    /// As little of an answer as can be asked for, and what went wrong.
    fn selection(&self, of: &Value) -> &'static str {
        let (kind, name) = named(of);
        if matches!(kind, "SCALAR" | "ENUM") {
            return "";
        }
        let fields = self.0[name]["fields"].as_array();
        let mended = fields.into_iter().flatten().any(|field| field["name"] == "userErrors");
        if mended { "{ userErrors { code message } }" } else { "{ __typename }" }
    }
}

fn named(of: &Value) -> (&str, &str) {
    match of["ofType"].is_object() {
        true => named(&of["ofType"]),
        false => (of["kind"].as_str().unwrap(), of["name"].as_str().unwrap()),
    }
}

fn written(of: &Value) -> String {
    match of["kind"].as_str().unwrap() {
        "NON_NULL" => format!("{}!", written(&of["ofType"])),
        "LIST" => format!("[{}]", written(&of["ofType"])),
        _ => of["name"].as_str().unwrap().to_owned(),
    }
}
