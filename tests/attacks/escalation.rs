//! People and keys that want to have more than they were given.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{PASSWORD, codes, installation, told};
use crate::support::Session;

const MINE: &str = "{ viewer { permissions member { id } } }";

/// What a set of patterns comes to, said one by one: what may be done to all, and (`:own`) to one's own.
struct Catalog(BTreeSet<String>);

impl Catalog {
    async fn of(session: &Session) -> Self {
        let answer = session.ask("{ permissionCatalog { permission } }", json!({})).await;
        let all = answer["permissionCatalog"].as_array().unwrap();
        Self(all.iter().map(|one| one["permission"].as_str().unwrap().to_owned()).collect())
    }

    /// Each permission, for one's own too, and every way to name many at once.
    fn patterns(&self) -> BTreeSet<String> {
        let mut patterns = BTreeSet::from(["*".to_owned(), "*:*".to_owned()]);
        for permission in &self.0 {
            let (module, action) = permission.split_once(':').unwrap();
            patterns.extend([
                permission.clone(),
                format!("{permission}:own"),
                format!("{module}:*"),
                format!("*:{action}"),
            ]);
        }
        patterns
    }

    fn spelt_out<'a>(&self, patterns: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for pattern in patterns {
            let (pattern, own) = pattern.strip_suffix(":own").map_or((pattern, false), |rest| (rest, true));
            let (module, action) = pattern.split_once(':').unwrap_or((pattern, "*"));
            for permission in &self.0 {
                let (of, what) = permission.split_once(':').unwrap();
                if [of, "*"].contains(&module) && [what, "*"].contains(&action) {
                    out.insert(format!("{permission}:own"));
                    out.extend((!own).then(|| permission.clone()));
                }
            }
        }
        out
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
}

struct Attacker {
    name: String,
    session: Session,
    /// Their member, to which they would give more.
    member: String,
    permissions: BTreeSet<String>,
}

impl Attacker {
    async fn new(name: &str, session: Session, catalog: &Catalog) -> Self {
        let viewer = session.ask(MINE, json!({})).await["viewer"].take();
        let permissions = catalog.spelt_out(texts(&viewer["permissions"]));
        Self {
            name: name.to_owned(),
            member: viewer["member"]["id"].as_str().unwrap().to_owned(),
            session,
            permissions,
        }
    }
}

/// Everybody there is, and some who were made to be dangerous.
async fn attackers(owner: &Session, catalog: &Catalog) -> Vec<Attacker> {
    let mut all = Vec::new();
    for role in ["admin", "moderator", "operator", "report_manager", "report_viewer", "member", "viewer"] {
        let session = owner.join(&format!("Eve-{role}"), role).await;
        all.push(Attacker::new(role, session, catalog).await);
    }
    // Looks after roles, members and keys, and has little else.
    let steward = ["roles:*", "members:*", "keys:*", "documents:view", "projects:view:own"];
    let input = json!({ "name": "Steward", "permissions": steward });
    let made = told(owner, "roleCreate", input, "role { id } userErrors { code message }").await;
    let role = made["data"]["roleCreate"]["role"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let session = owner.join("Eve-steward", &role).await;
    all.push(Attacker::new("steward", session, catalog).await);
    // Keys of the owner who may change who may what, and are given little else.
    let key = owner.with_key(&["roles:*", "members:*", "keys:*", "search:view"]).await;
    all.push(Attacker::new("a key that looks after roles", key, catalog).await);
    all.push(Attacker::new("a key with all its owner has", owner.with_key(&["*"]).await, catalog).await);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_to_have_more_than_they_were_given_by_any_way() {
    let (_server, _, owner) = installation().await;
    let catalog = Catalog::of(&owner).await;
    let roles = owner.ask("{ roles { id name permissions } }", json!({})).await["roles"].take();
    let roles: BTreeMap<String, BTreeSet<String>> = roles
        .as_array()
        .unwrap()
        .iter()
        .map(|role| (role["name"].as_str().unwrap().to_owned(), catalog.spelt_out(texts(&role["permissions"]))))
        .collect();
    assert_eq!(roles.len(), 8);
    let before = owner.ask("{ members { nodes { id roles { name } } } }", json!({})).await;
    assert_eq!(before["members"]["nodes"].as_array().map(Vec::len), Some(1));
    let mut given = 0;
    for (n, attacker) in attackers(&owner, &catalog).await.iter().enumerate() {
        let Attacker { name, session, member, permissions } = attacker;
        // A role of their own, to be filled afterwards.
        let input = json!({ "name": format!("Empty {n}"), "permissions": [] });
        let made = told(session, "roleCreate", input, "role { id }").await;
        let empty = made["data"]["roleCreate"]["role"]["id"].as_str().unwrap_or("none");
        for (m, pattern) in catalog.patterns().iter().enumerate() {
            let wanted = catalog.spelt_out([pattern.as_str()]);
            let more = !wanted.is_subset(permissions) || wanted.is_empty();
            let ways = [
                ("roleCreate", json!({ "name": format!("More {n} {m}"), "permissions": [pattern] })),
                ("roleUpdate", json!({ "id": empty, "permissions": [pattern] })),
                ("memberPermissionGrant", json!({ "id": member, "permission": pattern })),
                ("apiKeyCreate", json!({ "name": format!("More {m}"), "scopes": [pattern] })),
            ];
            for (field, input) in ways {
                let secret = if field == "apiKeyCreate" { "secret" } else { "position" };
                let answer = told(session, field, input, &format!("{secret} userErrors {{ code }}")).await;
                let done = codes(&answer).is_empty();
                assert!(!(done && more), "{name} gives away `{pattern}` by {field}: {answer}");
                given += usize::from(done);
                if let Some(secret) = answer["data"][field]["secret"].as_str() {
                    let made = Attacker::new("the key", super::with_token(session, secret), &catalog).await;
                    assert!(
                        made.permissions.is_subset(&wanted),
                        "{name}: a key for `{pattern}` may {:?}",
                        made.permissions
                    );
                }
            }
        }
        for (role, allows) in &roles {
            let more = role == "owner" || !allows.is_subset(permissions);
            let invite = json!({ "email": format!("friend-{n}-{role}@example.org"), "roles": [role] });
            let answer = told(session, "memberInvite", invite, "userErrors { code }").await;
            assert!(!(more && codes(&answer).is_empty()), "{name} invites a {role}: {answer}");
            let answer =
                told(session, "memberUpdate", json!({ "id": member, "roles": [role] }), "userErrors { code }").await;
            assert!(!(more && codes(&answer).is_empty()), "{name} becomes a {role}: {answer}");
            // Whoever may make themselves less is what they were again for the next attempt.
            if codes(&answer).is_empty() {
                let own = if roles.contains_key(name) { name.as_str() } else { "owner" };
                told(&owner, "memberUpdate", json!({ "id": member, "roles": [own] }), "userErrors { code }").await;
            }
        }
        let answer = told(session, "memberTransferOwnership", json!({ "id": member }), "userErrors { code }").await;
        assert!(!codes(&answer).is_empty(), "{name} takes the organization: {answer}");
        let after = Attacker::new(name, session.clone(), &catalog).await;
        assert!(after.permissions.is_subset(permissions), "{name} has come to have more");
    }
    assert!(given > 100, "what they have they may give: {given}");
}

/// Who owns the organisation: the names of its active owners.
async fn owners(session: &Session) -> Vec<String> {
    let query = "{ members(first: 100) { nodes { status user { name } roles { name } } } }";
    let members = session.ask(query, json!({})).await["members"]["nodes"].take();
    let owns = |one: &&Value| {
        one["status"] == "ACTIVE" && one["roles"].as_array().unwrap().contains(&json!({ "name": "owner" }))
    };
    let owners = members.as_array().unwrap().iter().filter(owns);
    owners.map(|one| one["user"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_never_loses_its_last_owner() {
    let (_server, _, ada) = installation().await;
    let bob = ada.join("Bob", "admin").await;
    let eve = ada.join("Eve", "admin").await;
    let me = async |session: &Session| session.ask(MINE, json!({})).await["viewer"]["member"]["id"].clone();
    let (ada_is, bob_is) = (me(&ada).await, me(&bob).await);
    let key = ada.with_key(&["*"]).await;
    for (name, who) in [("the owner", &ada), ("an admin", &bob), ("a key of the owner", &key)] {
        for (field, input) in [
            ("memberRemove", json!({ "id": ada_is })),
            ("memberSuspend", json!({ "id": ada_is })),
            ("memberUpdate", json!({ "id": ada_is, "roles": ["member"] })),
            ("memberUpdate", json!({ "id": ada_is, "roles": [] })),
            ("userErase", json!({ "password": PASSWORD })),
            ("memberTransferOwnership", json!({ "id": "mbr_00000000000000000000000000" })),
        ] {
            // What an admin does to themselves is their own affair.
            if (name, field) == ("an admin", "userErase") {
                continue;
            }
            let answer = told(who, field, input, "userErrors { code }").await;
            assert!(!codes(&answer).is_empty(), "{name}, {field}: {answer}");
            assert_eq!(owners(&eve).await, ["Ada Owner"], "{name}, {field}: {answer}");
        }
    }
    // To somebody who is removed at the same moment: in one order or in the other, never both.
    let transfer = told(&ada, "memberTransferOwnership", json!({ "id": bob_is }), "userErrors { code }");
    let remove = told(&eve, "memberRemove", json!({ "id": bob_is }), "userErrors { code }");
    let suspend = told(&eve, "memberSuspend", json!({ "id": bob_is }), "userErrors { code }");
    let (transferred, removed, suspended) = tokio::join!(transfer, remove, suspend);
    let owner = if codes(&transferred).is_empty() { "Bob" } else { "Ada Owner" };
    assert_eq!(owners(&eve).await, [owner], "{transferred} {removed} {suspended}");
}
