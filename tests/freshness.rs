//! Cached equals fresh, live equals asked again: random histories of several people in two organisations, interleaved
//! with random queries, on both databases, with everything at work that works in the program: extraction, the search
//! index, the reactors.
//!
//! Beside the endpoint stands a second one over the same services that keeps nothing. What the first one answers, from
//! wherever, is compared with what the second one reads; and what a live query said last with that too.
//! `ORIEL_FRESHNESS_STEPS` and `ORIEL_FRESHNESS_SEED` make it longer and other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_graphql::{Request, Variables};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use oriel_backends::blobs::BlobKey;
use oriel_backends::extraction::Program;
use oriel_schema::endpoint::{Answers, Caller, Document, Endpoint, Operation};
use oriel_schema::uploads::{Received, Uploads};
use oriel_server::serve::House;
use oriel_server::settings::{Sources, load};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::databases;

const PASSWORD: &str = "violet-otter-93-lamp";
/// Steps on each database, unless `ORIEL_FRESHNESS_STEPS` says otherwise.
const STEPS: u64 = 1_500;
/// How many different questions are asked again and again.
const ASKED: usize = 60;
/// How many ask while something is changed.
const ASKERS: usize = 4;
/// How long background work may take until what two endpoints say is the same.
const PATIENCE: Duration = Duration::from_secs(60);

/// What people ask: the text, and the names of the variables that are drawn.
const QUERIES: &[&str] = &[
    "{ viewer { user { id name email } member { id roles { name permissions } grants { permission } status } organization { id name documentCount projectCount memberCount storageUsed } organizations { id name } permissions sessions { id current } } }",
    "{ viewer { sessions { id current } } }",
    "{ viewer { features consentsMissing consents { state revision policy { key revision } } } policies { key text revision } }",
    "{ viewer { organizations { id } } }",
    "{ organization { name slug documentCount projectCount memberCount storageUsed version } }",
    "{ members(first: 20) { nodes { id status roles { name } user { id name email } } totalCount } }",
    "query($status: [MemberStatus!]) { members(filter: { status: { in: $status } }) { nodes { id } totalCount } }",
    "{ projects(first: 3, orderBy: [{ field: NAME, direction: DESC }]) { edges { cursor node { id name key status memberCount documentCount storageUsed owner { id user { name } } } } pageInfo { hasNextPage endCursor } totalCount } }",
    "query($word: String) { projects(filter: { name: { contains: $word } }) { nodes { id name version } totalCount } }",
    "query($project: ID!) { project(id: $project) { id name description status memberCount documentCount updatedAt documents(first: 5, orderBy: [{ field: TITLE, direction: ASC }]) { nodes { id title tags status version } totalCount } } }",
    "query($project: ID!, $word: String) { project(id: $project) { documents(filter: { title: { contains: $word } }) { nodes { id title } totalCount } } }",
    "{ documents(first: 50) { nodes { id title status mediaType size tags project { id name } uploadedBy { id user { name } } pipeline { stage state attempts } } totalCount } }",
    "query($document: ID!) { document(id: $document) { id title tags status version text language project { key } revisions { nodes { revision fileName size } } } }",
    "query($word: String) { documents(filter: { or: [{ title: { startsWith: $word } }, { not: { title: { contains: \"a\" } } }] }) { nodes { id } totalCount } }",
    "{ documents(filter: { status: { in: [TRASHED] } }) { nodes { id trashedAt } totalCount } }",
    "{ documents(first: 0) { totalCount } }",
    "{ projects(first: 10) { nodes { id name } } }",
    "query($project: ID!) { project(id: $project) { documents(first: 10) { edges { cursor node { title } } } } }",
    "query($ids: [ID!]!) { nodes(ids: $ids) { id __typename ... on Project { name } ... on Document { title } ... on Member { status user { name } } } }",
    "query($project: ID!) { node(id: $project) { id ... on Project { name version } } }",
    "{ events(last: 5) { nodes { type sequence version subject { id } actor { ... on Member { id user { name } } } data } totalCount } }",
    "query($project: ID!) { events(last: 3, filter: { subjectId: $project }) { nodes { type version } } }",
    "query($word: String!) { search(query: $word, first: 10) { nodes { ... on Document { id title } ... on Project { id name } } facets { field values { value count } } totalCount } }",
    "query($word: String!, $project: ID) { search(query: $word, projectId: $project) { edges { score node { ... on Document { id } ... on Project { id } } } totalCount } }",
    "query($word: String!) { suggest(prefix: $word) { text id type } }",
    "{ roles { id name permissions version } }",
    "{ apiKeys(first: 20) { nodes { id name revoked rotatedAt owner { id } version } totalCount } }",
    "query($project: ID) { can(permission: \"projects:edit\", subject: $project) }",
    "{ explainAccess(permission: \"documents:view\") { allowed reach reason scopes rolesThatAllow grants { permission source reach role { name } } } }",
];

const WORDS: &[&str] = &["whale", "harbour", "Atlas", "lamp", "otter", "a", "report"];

/// Numbers that look random and are the same each time. <https://prng.di.unimi.it/splitmix64.c>
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

struct Person {
    caller: Caller,
    member: String,
    email: String,
    organization: usize,
}

/// Who asks what.
type Question = (usize, &'static str, Value);

struct Live {
    person: usize,
    /// As they were signed in when it began.
    caller: Caller,
    query: &'static str,
    variables: Value,
    answers: Answers,
    said: Option<Value>,
}

struct World {
    numbers: Numbers,
    kept: Endpoint,
    fresh: Endpoint,
    people: Vec<Person>,
    /// Keys, which ask as people do, and change nothing.
    programs: Vec<Person>,
    projects: [Vec<String>; 2],
    documents: [Vec<String>; 2],
    /// Roles that were made, by their ids, and keys.
    roles: [Vec<String>; 2],
    keys: [Vec<String>; 2],
    /// The organisation that is closed now and then, and ends.
    second: Value,
    lives: Vec<Live>,
    /// What was asked before, and by whom: most questions are asked more than once.
    asked: Vec<Question>,
    made: u64,
}

pub fn operation(query: &str, variables: Value) -> Operation {
    let request = Request::new(query).variables(Variables::from_json(variables));
    Operation::new(Arc::new(Document::parse(query).unwrap()), request).unwrap()
}

/// The answer without what is said beside it. A defect is never an answer.
pub async fn ask(endpoint: &Endpoint, caller: &Caller, query: &str, variables: &Value) -> Value {
    told(endpoint, caller, query, variables).await.1
}

/// The position of an answer, and the answer.
async fn told(endpoint: &Endpoint, caller: &Caller, query: &str, variables: &Value) -> (u64, Value) {
    let answer = endpoint.execute(operation(query, variables.clone()), caller.clone()).await;
    let answer: Value = serde_json::from_str(&answer.text()).unwrap();
    // One that was refused before anything was read has none.
    let position = answer["extensions"]["position"].as_str().map_or(0, |position| position.parse().unwrap());
    (position, without_extensions(answer))
}

fn without_extensions(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().remove("extensions");
    let codes = answer["errors"].as_array().cloned().unwrap_or_default();
    for error in codes {
        assert_ne!(error["extensions"]["code"], "INTERNAL", "{error}");
        assert_ne!(error["extensions"]["code"], "none", "{error}");
        assert!(!error["extensions"].is_null(), "the query does not fit the schema: {error}");
    }
    answer
}

impl World {
    async fn new(house: &House, seed: u64) -> Self {
        let kept = house.endpoint.clone();
        let fresh = Endpoint::keeping(Arc::clone(kept.services()), 0);
        let mut world = Self {
            numbers: Numbers(seed),
            kept,
            fresh,
            people: Vec::new(),
            programs: Vec::new(),
            projects: [Vec::new(), Vec::new()],
            documents: [Vec::new(), Vec::new()],
            roles: [Vec::new(), Vec::new()],
            keys: [Vec::new(), Vec::new()],
            second: Value::Null,
            lives: Vec::new(),
            asked: Vec::new(),
            made: 0,
        };
        for organization in 0..2 {
            world.register(organization, &format!("owner{organization}@example.org")).await;
        }
        for (number, (host, role)) in [(0, "admin"), (0, "member"), (0, "viewer"), (1, "member")].iter().enumerate() {
            world.invite(*host, &format!("guest{number}@example.org"), role, &format!("Guest {number}")).await;
        }
        world
    }

    /// Founds an organisation; its owner comes last among the people.
    async fn register(&mut self, organization: usize, email: &str) {
        let input = json!({ "organizationName": format!("Organization {organization}"), "name": "Owner",
            "email": email, "password": PASSWORD });
        let query = "mutation($input: RegisterInput!) { payload: register(input: $input) { accessToken viewer { member { id } user { email } } userErrors { message } } }";
        self.sign_in(organization, query, input).await;
        if organization == 1 {
            let caller = &self.people[self.people.len() - 1].caller;
            self.second = ask(&self.kept, caller, "{ organization { id } }", &json!({})).await["data"]["organization"]
                ["id"]
                .take();
        }
    }

    /// Somebody joins, and comes last among the people.
    async fn invite(&mut self, host: usize, email: &str, role: &str, name: &str) {
        let caller = self.people[host].caller.clone();
        let input = json!({ "email": email, "roles": [role] });
        let query = "mutation($input: MemberInviteInput!) { memberInvite(input: $input) { invitationToken userErrors { message } } }";
        let invited = ask(&self.kept, &caller, query, &json!({ "input": input })).await;
        let token = &invited["data"]["memberInvite"]["invitationToken"];
        let input = json!({ "token": token, "name": name, "password": PASSWORD });
        let query = "mutation($input: MemberAcceptInput!) { payload: memberAccept(input: $input) { accessToken viewer { member { id } user { email } } userErrors { message } } }";
        self.sign_in(host, query, input).await;
    }

    async fn sign_in(&mut self, organization: usize, query: &str, input: Value) {
        let answer = ask(&self.kept, &Caller::default(), query, &json!({ "input": input })).await;
        let payload = &answer["data"]["payload"];
        let token = payload["accessToken"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let (credential, _) = self.kept.authenticate(token).unwrap();
        self.people.push(Person {
            caller: Caller { credential: Some(credential), ..Caller::default() },
            member: payload["viewer"]["member"]["id"].as_str().unwrap().to_owned(),
            email: payload["viewer"]["user"]["email"].as_str().unwrap().to_owned(),
            organization,
        });
    }

    /// An id of this organisation, mostly; sometimes of the other one, or none.
    fn any(&mut self, what: fn(&Self) -> &[Vec<String>; 2], organization: usize) -> String {
        let organization = if self.numbers.below(12) == 0 { 1 - organization } else { organization };
        let count = what(self)[organization].len();
        if count == 0 {
            return "prj_00000000000000000000000001".to_owned();
        }
        let chosen = self.numbers.below(count);
        what(self)[organization][chosen].clone()
    }

    fn project(&mut self, organization: usize) -> String {
        self.any(|world| &world.projects, organization)
    }

    fn document(&mut self, organization: usize) -> String {
        self.any(|world| &world.documents, organization)
    }

    fn member(&mut self, organization: usize) -> String {
        // Never the owner, or nobody could do anything any more.
        let members: Vec<_> =
            self.people[2..].iter().filter(|p| p.organization == organization).map(|p| p.member.clone()).collect();
        self.numbers.pick(&members).clone()
    }

    /// Somebody does something, which may be refused.
    async fn change(&mut self) {
        let person = self.numbers.below(self.people.len());
        let organization = self.people[person].organization;
        let word = *self.numbers.pick(WORDS);
        self.made += 1;
        let made = self.made;
        let (field, input) = match self.numbers.below(27) {
            0 | 1 if self.projects[organization].len() < 12 => {
                ("projectCreate", json!({ "name": format!("{word} {made}"), "key": format!("P{made}") }))
            }
            0..=2 => ("projectUpdate", json!({ "id": self.project(organization), "name": format!("{word} {made}") })),
            3 => ("projectArchive", json!({ "id": self.project(organization) })),
            4 => ("projectRestore", json!({ "id": self.project(organization) })),
            5 | 6 => {
                let (id, member) = (self.project(organization), self.member(organization));
                ("projectMemberAdd", json!({ "id": id, "memberId": member }))
            }
            7 => {
                let (id, member) = (self.project(organization), self.member(organization));
                ("projectMemberRemove", json!({ "id": id, "memberId": member }))
            }
            8 | 9 => return self.upload(person, word).await,
            10 | 11 => {
                let tags = [word, *self.numbers.pick(WORDS)];
                (
                    "documentUpdate",
                    json!({ "id": self.document(organization), "title": format!("{word} {made}"), "tags": tags }),
                )
            }
            12 | 13 => {
                let (id, project) = (self.document(organization), self.project(organization));
                ("documentMove", json!({ "id": id, "projectId": project }))
            }
            14 => ("documentDelete", json!({ "id": self.document(organization) })),
            15 => ("documentRestore", json!({ "id": self.document(organization) })),
            16 => {
                let roles = [*self.numbers.pick(&["admin", "member", "viewer"])];
                ("memberUpdate", json!({ "id": self.member(organization), "roles": roles }))
            }
            17 if self.numbers.below(3) == 0 => ("memberSuspend", json!({ "id": self.member(organization) })),
            17 => ("memberReactivate", json!({ "id": self.member(organization) })),
            20 if self.roles[organization].len() < 6 => {
                ("roleCreate", json!({ "name": format!("Role {made}"), "permissions": self.some_permissions() }))
            }
            20 | 21 => {
                let id = self.any(|world| &world.roles, organization);
                ("roleUpdate", json!({ "id": id, "permissions": self.some_permissions() }))
            }
            22 if self.numbers.below(6) == 0 => {
                ("roleDelete", json!({ "id": self.any(|world| &world.roles, organization) }))
            }
            22 => {
                let role = self.any(|world| &world.roles, organization);
                ("memberUpdate", json!({ "id": self.member(organization), "roles": ["viewer", role] }))
            }
            23 | 24 => {
                let field = *self.numbers.pick(&["memberPermissionGrant", "memberPermissionRevoke"]);
                (field, json!({ "id": self.member(organization), "permission": self.some_permissions()[0] }))
            }
            25 if self.keys[organization].len() < 3 => return self.make_key(person).await,
            25 => {
                // Of the owner's own: the others' are rotated and revoked by nobody else, or by chance.
                let id = self.any(|world| &world.keys, organization);
                let field = *self.numbers.pick(&["apiKeyRotate", "apiKeyRevoke"]);
                (
                    field,
                    if field == "apiKeyRotate" {
                        json!({ "id": id, "overlapSeconds": 0 })
                    } else {
                        json!({ "id": id })
                    },
                )
            }
            26 => {
                let key = *self.numbers.pick(&["editor", "charts"]);
                ("featureSet", json!({ "key": key, "enabled": self.numbers.below(2) == 0 }))
            }
            18 if self.numbers.below(4) == 0 => {
                // On another device: one more session.
                ("login", json!({ "email": self.people[person].email, "password": PASSWORD }))
            }
            18 => ("userUpdate", json!({ "name": format!("{word} {made}") })),
            _ => ("organizationUpdate", json!({ "name": format!("{word} {made}") })),
        };
        let person = match field {
            // The owners repair what the others lost.
            "memberUpdate"
            | "memberReactivate"
            | "memberSuspend"
            | "roleCreate"
            | "roleUpdate"
            | "roleDelete"
            | "memberPermissionGrant"
            | "memberPermissionRevoke" => organization,
            "featureSet" => 0,
            _ => person,
        };
        let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
        let made = match field {
            "projectCreate" => "project { id }",
            "roleCreate" => "role { id }",
            _ => "",
        };
        let query = format!(
            "mutation($input: {type_name}!) {{ payload: {field}(input: $input) {{ {made} userErrors {{ code message }} }} }}"
        );
        let answer = ask(&self.kept, &self.people[person].caller, &query, &json!({ "input": input })).await;
        let payload = &answer["data"]["payload"];
        if let Some(id) = payload["project"]["id"].as_str() {
            self.projects[organization].push(id.to_owned());
        }
        if let Some(id) = payload["role"]["id"].as_str() {
            self.roles[organization].push(id.to_owned());
        }
        if field == "memberReactivate" && payload["userErrors"] == json!([]) {
            self.sign_in_again(input["id"].as_str().unwrap()).await;
        }
    }

    /// Whoever was suspended was signed out.
    async fn sign_in_again(&mut self, member: &str) {
        let person = self.people.iter().position(|person| person.member == member).unwrap();
        let input = json!({ "email": self.people[person].email, "password": PASSWORD });
        let query = "mutation($input: LoginInput!) { login(input: $input) { accessToken userErrors { message } } }";
        let answer = ask(&self.kept, &Caller::default(), query, &json!({ "input": input })).await;
        let token = answer["data"]["login"]["accessToken"].as_str().unwrap_or_else(|| panic!("{answer}"));
        self.people[person].caller.credential = Some(self.kept.authenticate(token).unwrap().0);
    }

    /// What a role is to allow, or a member besides.
    fn some_permissions(&mut self) -> Vec<&'static str> {
        const ALL: &[&str] = &[
            "projects:view",
            "projects:view:own",
            "documents:view",
            "documents:edit",
            "search:view",
            "events:view",
            "members:view",
        ];
        let count = 1 + self.numbers.below(3);
        (0..count).map(|_| *self.numbers.pick(ALL)).collect()
    }

    /// Somebody makes a key, which asks like a person from then on, until it is revoked or rotated.
    async fn make_key(&mut self, person: usize) {
        let scopes = *self
            .numbers
            .pick(&[&["projects:view:own", "documents:view:own"][..], &["documents:view:own", "search:view"]]);
        let input = json!({ "name": "A program", "scopes": scopes });
        let Person { caller, member, email, organization } = &self.people[person];
        let query = "mutation($input: ApiKeyCreateInput!) { payload: apiKeyCreate(input: $input) { apiKey { id } secret userErrors { code } } }";
        let answer = ask(&self.kept, caller, query, &json!({ "input": input })).await;
        let payload = &answer["data"]["payload"];
        let Some(secret) = payload["secret"].as_str() else { return };
        let (credential, _) = self.kept.authenticate(secret).unwrap();
        let key = Person {
            caller: Caller { credential: Some(credential), ..Caller::default() },
            member: member.clone(),
            email: email.clone(),
            organization: *organization,
        };
        self.keys[*organization].push(payload["apiKey"]["id"].as_str().unwrap().to_owned());
        self.programs.push(key);
    }

    /// The operator closes the second organisation, or opens it again.
    async fn suspend(&mut self) {
        let field = *self.numbers.pick(&["organizationSuspend", "organizationReinstate", "organizationReinstate"]);
        let mut input = json!({ "id": self.second });
        if field == "organizationSuspend" {
            input["reason"] = json!("For a moment.");
        }
        self.by(0, field, input).await;
        // What was followed there has ended, if it was closed; before it is opened again, that is seen.
        self.settle().await;
    }

    /// An owner asks everybody of theirs to agree before they do anything else. Some do; then it is taken back.
    async fn bind(&mut self) {
        let organization = self.numbers.below(2);
        self.made += 1;
        let text = format!("Number {}.", self.made);
        let input = json!({ "key": "terms", "title": "Terms", "text": text, "blocking": true });
        let query = "mutation($input: PolicyPublishInput!) { payload: policyPublish(input: $input) { policy { id revision } userErrors { code } } }";
        let answer = ask(&self.kept, &self.people[organization].caller, query, &json!({ "input": input })).await;
        let policy = answer["data"]["payload"]["policy"].clone();
        // Of one that is suspended or has ended nobody publishes anything.
        if policy.is_null() {
            return;
        }
        self.compare().await;
        self.settle().await;
        for person in 0..self.people.len() {
            let is_asked = self.people[person].organization == organization;
            if is_asked && (person == organization || self.numbers.below(2) == 0) {
                let input = json!({ "policyId": policy["id"], "revision": policy["revision"] });
                self.by(person, "consentGive", input).await;
            }
        }
        for _ in 0..5 {
            self.compare().await;
        }
        self.settle().await;
        self.by(organization, "policyRetire", json!({ "id": policy["id"] })).await;
        self.settle().await;
    }

    /// The second organisation is to end; the timer sees to it while everything goes on.
    async fn delete(&mut self) {
        self.by(0, "organizationReinstate", json!({ "id": self.second })).await;
        let slug = ask(&self.fresh, &self.people[1].caller, "{ organization { slug } }", &json!({})).await;
        let slug = slug["data"]["organization"]["slug"].clone();
        let answer = self.by(1, "organizationDelete", json!({ "slug": slug })).await;
        assert_eq!(answer["data"]["payload"]["userErrors"], json!([]), "{answer}");
    }

    /// When it has ended, with all that its people followed, another one takes its place.
    async fn found_anew(&mut self) {
        let begun = tokio::time::Instant::now();
        let ended = |answer: &Value| answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED";
        while !ended(&ask(&self.kept, &self.people[1].caller, "{ organization { id } }", &json!({})).await) {
            assert!(begun.elapsed() < 3 * PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.settle().await;
        let theirs = |person: &usize| *person == 1 || *person == 5;
        assert!(!self.lives.iter().any(|live| theirs(&live.person)), "what they followed goes on");
        (self.projects[1], self.documents[1]) = (Vec::new(), Vec::new());
        self.register(1, "again1@example.org").await;
        let owner = self.people.pop().unwrap();
        self.people[1] = owner;
        self.invite(1, "guest-again@example.org", "member", "Guest").await;
        let guest = self.people.pop().unwrap();
        self.people[5] = guest;
    }

    /// What this person is answered.
    async fn by(&self, person: usize, field: &str, input: Value) -> Value {
        let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
        let query = format!(
            "mutation($input: {type_name}!) {{ payload: {field}(input: $input) {{ userErrors {{ code message }} }} }}"
        );
        ask(&self.kept, &self.people[person].caller, &query, &json!({ "input": input })).await
    }

    async fn upload(&mut self, person: usize, word: &str) {
        let organization = self.people[person].organization;
        if self.documents[organization].len() >= 40 {
            return;
        }
        let project = self.project(organization);
        let text = format!("About {word}, number {}.", self.made);
        let blob = BlobKey::fresh(oriel_reactors::FILES, uuid::Uuid::now_v7());
        let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(text.clone()))]);
        let stored = self.kept.services().blobs.put(&blob, body, 1 << 20).await.unwrap();
        let uploads = Uploads::default();
        let number = uploads.add(Received {
            blob,
            size: stored.size,
            sha256: stored.sha256,
            file_name: format!("{word}-{}.txt", self.made),
            head: text.into_bytes(),
        });
        let caller = Caller { uploads, ..self.people[person].caller.clone() };
        let input = json!({ "projectId": project, "tags": [word], "file": Uploads::placeholder(number) });
        let query = "mutation($input: DocumentUploadInput!) { payload: documentUpload(input: $input) { document { id } userErrors { code } } }";
        let answer = ask(&self.kept, &caller, query, &json!({ "input": input })).await;
        if let Some(id) = answer["data"]["payload"]["document"]["id"].as_str() {
            self.documents[organization].push(id.to_owned());
        }
    }

    /// Everybody who asks: people first, then keys.
    fn asker(&self, number: usize) -> &Person {
        self.people.get(number).unwrap_or_else(|| &self.programs[number - self.people.len()])
    }

    fn any_asker(&mut self) -> usize {
        self.numbers.below(self.people.len() + self.programs.len())
    }

    fn question(&mut self, person: usize) -> (&'static str, Value) {
        let organization = self.asker(person).organization;
        let query = *self.numbers.pick(QUERIES);
        let mut variables = json!({});
        let mut draw = |name: &str, value: Value| {
            if query.contains(&format!("${name}")) {
                variables[name] = value;
            }
        };
        draw("word", json!(self.numbers.pick(WORDS)));
        draw("status", json!([*self.numbers.pick(&["ACTIVE", "SUSPENDED"])]));
        let (project, document) = (self.project(organization), self.document(organization));
        draw("ids", json!([project, document, self.people[self.people.len() - 1].member, self.people[2].member]));
        draw("project", json!(project));
        draw("document", json!(document));
        (query, variables)
    }

    /// What is kept is what is read, as soon as nothing is on its way any more.
    async fn compare(&mut self) {
        if self.asked.len() < ASKED || self.numbers.below(8) == 0 {
            let person = self.any_asker();
            let (query, variables) = self.question(person);
            if self.asked.len() == ASKED {
                let oldest = self.numbers.below(ASKED);
                self.asked.swap_remove(oldest);
            }
            self.asked.push((person, query, variables));
        }
        let question = self.numbers.pick(&self.asked).clone();
        self.kept_is_read(&question).await;
    }

    async fn kept_is_read(&self, (person, query, variables): &Question) {
        let caller = &self.asker(*person).caller;
        let begun = tokio::time::Instant::now();
        loop {
            let kept = ask(&self.kept, caller, query, variables).await;
            let fresh = ask(&self.fresh, caller, query, variables).await;
            if kept == fresh {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{query} {variables}\nkept: {kept}\nread: {fresh}");
            tokio::task::yield_now().await;
        }
    }

    /// Some ask again and again while others change things. Nothing is kept that was read before what it shows was
    /// changed; and who was told the position that is still the last one was told what is read.
    async fn race(&mut self) {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut asking = Vec::new();
        for _ in 0..ASKERS.min(self.asked.len()) {
            let (person, query, variables) = self.numbers.pick(&self.asked).clone();
            let (kept, caller) = (self.kept.clone(), self.asker(person).caller.clone());
            let is_over = Arc::clone(&is_over);
            asking.push(tokio::spawn(async move {
                let mut last = None;
                while !is_over.load(Ordering::Relaxed) {
                    last = Some(told(&kept, &caller, query, &variables).await);
                    tokio::task::yield_now().await;
                }
                ((person, query, variables), caller, last)
            }));
        }
        for _ in 0..3 {
            self.change().await;
        }
        is_over.store(true, Ordering::Relaxed);
        for asked in asking {
            let (question, caller, last) = asked.await.unwrap();
            self.kept_is_read(&question).await;
            let (_, query, variables) = &question;
            // The index has a position of its own.
            let Some((position, answer)) = last.filter(|_| !query.contains("search(") && !query.contains("suggest("))
            else {
                continue;
            };
            let begun = tokio::time::Instant::now();
            loop {
                let (now, fresh) = told(&self.fresh, &caller, query, variables).await;
                if now != position || answer == fresh {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "{query} {variables} at {position}\ntold: {answer}\nread: {fresh}");
                tokio::task::yield_now().await;
            }
        }
    }

    fn follow(&mut self) {
        let person = self.any_asker();
        let (query, variables) = self.question(person);
        let text = match query.strip_prefix('{') {
            Some(rest) => format!("subscription {{ live {{{rest} }}"),
            None => {
                let (head, rest) = query.split_once('{').unwrap();
                format!("{} {{ live {{{rest} }}", head.replacen("query", "subscription", 1))
            }
        };
        let caller = self.asker(person).caller.clone();
        let answers = self.kept.execute_stream(operation(&text, variables.clone()), caller.clone());
        self.lives.push(Live { person, caller, query, variables, answers, said: None });
    }

    /// Every live query says what is read, as soon as nothing is on its way any more. One that has ended is gone.
    async fn settle(&mut self) {
        let mut number = 0;
        while number < self.lives.len() {
            let live = &mut self.lives[number];
            let caller = live.caller.clone();
            let begun = tokio::time::Instant::now();
            let ended = loop {
                while let Some(next) = live.answers.next().now_or_never() {
                    match next {
                        Some(answer) => live.said = Some(serde_json::from_str(&answer.text()).unwrap()),
                        None => break,
                    }
                }
                let fresh = ask(&self.fresh, &caller, live.query, &live.variables).await;
                let said = live.said.clone().map(|mut said| {
                    if let Some(data) = said.get_mut("data").filter(|data| !data.is_null()) {
                        *data = data["live"].take();
                    }
                    for error in said["errors"].as_array_mut().into_iter().flatten() {
                        if let Some(path) = error["path"].as_array_mut() {
                            path.retain(|part| part != "live");
                        }
                    }
                    without_extensions(said)
                });
                let said = said.map(shown);
                let fresh = shown(fresh);
                if said.as_ref() == Some(&fresh) {
                    break false;
                }
                if let Some(said) = &said
                    && is_over(said)
                {
                    assert!(is_over(&fresh), "{} {}\nended: {said}\nread: {fresh}", live.query, live.variables);
                    break true;
                }
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{} {} of person {}\nsaid: {said:?}\nread: {fresh}",
                    live.query,
                    live.variables,
                    live.person
                );
                // The next answer, or a moment for what is on its way.
                if let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(20), live.answers.next()).await {
                    live.said = Some(serde_json::from_str(&answer.text()).unwrap());
                }
            };
            if ended {
                self.lives.swap_remove(number);
            } else {
                number += 1;
            }
        }
    }
}

/// Errors without their places in the text, which the subscription has elsewhere.
fn shown(mut answer: Value) -> Value {
    for error in answer["errors"].as_array_mut().into_iter().flatten() {
        error.as_object_mut().unwrap().remove("locations");
    }
    if answer["errors"].is_null() {
        answer.as_object_mut().unwrap().remove("errors");
    }
    answer
}

/// Whether nothing may be seen any more.
fn is_over(answer: &Value) -> bool {
    let shows = |data: &Value| data.as_object().is_some_and(|fields| fields.values().any(|field| !field.is_null()));
    answer.get("errors").is_some() && !answer.get("data").is_some_and(shows)
}

async fn history(database: Option<String>) {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (steps, seed) = (number("ORIEL_FRESHNESS_STEPS", STEPS), number("ORIEL_FRESHNESS_SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let environment = database.map(|url| ("ORIEL_DATABASE_URL".into(), url.into())).into_iter().collect();
    let mut settings = load(&Sources { environment, ..Sources::default() }).unwrap().settings;
    settings.data = folder.path().to_owned();
    settings.live_pace = Duration::from_millis(1);
    settings.organization_grace = Duration::ZERO;
    let stop = CancellationToken::new();
    let house =
        House::open(&settings, Program::new(env!("CARGO_BIN_EXE_oriel").into(), ["extract"]), &stop).await.unwrap();
    let mut world = World::new(&house, seed).await;
    let (mut compared, mut followed) = (0, 0);
    for step in 0..steps {
        match step {
            // Now and then an organisation is closed; once it ends, at whatever moment the timer finds it, and another
            // one is founded in its place.
            _ if step == steps / 3 => world.delete().await,
            _ if step == steps * 2 / 3 => world.found_anew().await,
            _ if step % 60 == 59 => world.suspend().await,
            _ if step % 60 == 29 => world.bind().await,
            _ => {}
        }
        match world.numbers.below(12) {
            0 | 1 => {
                world.change().await;
                if step % 4 == 0 {
                    world.settle().await;
                }
            }
            3 if step % 8 == 0 => world.race().await,
            2 if world.lives.len() < 8 => {
                world.follow();
                followed += 1;
            }
            2 => drop(world.lives.swap_remove(world.numbers.below(8))),
            _ => {
                world.compare().await;
                compared += 1;
            }
        }
    }
    world.settle().await;
    let report = world.kept.cache_report();
    println!("{steps} steps, seed {seed}: {compared} answers compared, {followed} live queries, {report:?}");
    assert!(report.hits > compared / 5, "hardly anything was served from what is kept: {report:?}");
    drop(world);
    stop.cancel();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_what_is_read_on_sqlite() {
    history(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_what_is_read_on_postgresql() {
    for url in databases().into_iter().flatten() {
        history(Some(url)).await;
    }
}
