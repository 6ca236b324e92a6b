//! How many statements an answer costs: for each representative query a number that is the same for one row and for
//! fifty. Resolving who asks is not counted: it is two statements, once per execution.
//!
//! A number that grew is a relation that is read row by row: ask for it through a loader of the reader. A number that
//! is wanted otherwise is changed here.
#![allow(clippy::unwrap_used)]

use async_graphql::{Request, Variables};
use serde_json::{Value, json};

use crate::documents::tests::{document, project, revise};
use crate::testing::direct::{prepared, schema};
use crate::testing::{Bed, Person};
use crate::uploads::Uploads;

/// A query, and how many statements it takes.
struct Asked {
    what: &'static str,
    query: &'static str,
    statements: u64,
}

/// Each query asks a relation in one place only: what two places ask for at the same time is one statement or two.
const QUERIES: &[Asked] = &[
    Asked {
        what: "who I am, and where",
        // The person, the member, the organisation, the session.
        query: "{ viewer { user { name email } member { roles { name } } organization { name memberCount storageUsed }
            session { id expiresAt } permissions } }",
        statements: 4,
    },
    Asked {
        what: "where else I am",
        // The memberships, the organisations that they name, the sessions.
        query: "{ viewer { organizations { name } sessions { id current lastSeenAt } } }",
        statements: 3,
    },
    Asked {
        what: "an object by its id",
        query: "query($document: ID!) { document(id: $document) { title status size tags pipeline { stage state } } }",
        statements: 1,
    },
    Asked {
        what: "an object with what it belongs to",
        // The document, its project, that one's owner, that one's person.
        query: "query($document: ID!) { document(id: $document) { title pipeline { stage state reason }
            project { key name owner { user { name } } } } }",
        statements: 4,
    },
    Asked {
        what: "an object with its history",
        // The document, the revisions, the members who uploaded them, those persons.
        query: "query($document: ID!) { document(id: $document) { title pipeline { stage state reason }
            revisions(first: 100) { totalCount nodes { revision size uploadedBy { user { name } } } } } }",
        statements: 4,
    },
    Asked {
        what: "a page with relations",
        // The documents, their projects, the members who uploaded them, those persons.
        query: "{ documents(first: 50, orderBy: { field: UPDATED_AT, direction: DESC }) {
            edges { cursor node { id title mediaType size status tags updatedAt
                project { id key name } uploadedBy { id user { name } } } } pageInfo { hasNextPage endCursor } } }",
        statements: 4,
    },
    Asked {
        what: "a filtered page and how much it leaves out",
        // A count; a page and its count.
        query: r#"{ all: documents(first: 1) { totalCount }
            texts: documents(first: 50, filter: { mediaType: { eq: "text/plain" }, not: { tags: { has: "x" } } }) {
                totalCount nodes { title } } }"#,
        statements: 3,
    },
    Asked {
        what: "a list inside an object",
        // The project, a page of its documents, their count, who uploaded them, those persons.
        query: "query($project: ID!) { project(id: $project) { name documents(first: 50) { totalCount nodes {
            title uploadedBy { id user { name } } } } } }",
        statements: 5,
    },
    Asked {
        what: "the people of a project",
        // The project, a page of who is in it, their count, the members, those persons.
        query: "query($project: ID!) { project(id: $project) { name members(first: 50) { totalCount nodes {
            addedAt member { roles { name } user { name email } } } } } }",
        statements: 5,
    },
    Asked {
        what: "what it all adds up to",
        // The organisation has counters; a list whose items nobody asks for is a count.
        query: "{ organization { memberCount projectCount documentCount storageUsed }
            projects { totalCount } documents { totalCount } members { totalCount } }",
        statements: 4,
    },
    Asked {
        what: "things of many kinds by their ids",
        // One for each kind.
        query:
            "query($ids: [ID!]!) { nodes(ids: $ids) { __typename id ... on Document { title } ... on Project { name }
            ... on Member { status } ... on User { name } ... on Organization { name } } }",
        statements: 5,
    },
    Asked {
        what: "members with their persons and roles",
        query: "{ members(first: 50) { nodes { id status joinedAt roles { name permissions } user { id name email } } } }",
        statements: 2,
    },
    Asked {
        what: "projects with their owners and counts",
        // The projects, which have counters; their owners, those persons.
        query: "{ projects(first: 50, orderBy: { field: NAME }) { nodes { id key name memberCount documentCount
            storageUsed owner { id user { name } } } } }",
        statements: 3,
    },
    Asked {
        what: "lists inside a list",
        // The projects; the pages of their documents, the counts, who uploaded them; the pages of who is in them, the
        // counts.
        query: r#"{ projects(first: 50) { nodes { name
            documents(first: 2, orderBy: { field: TITLE, direction: DESC }, filter: { not: { tags: { has: "x" } } }) {
                totalCount nodes { title uploadedBy { id } } pageInfo { endCursor } }
            members(last: 2) { totalCount edges { cursor node { addedAt } } } } } }"#,
        statements: 6,
    },
    Asked {
        what: "how long the lists inside a list are",
        // The projects, the counts of documents, the counts of members.
        query: "{ projects(first: 50) { nodes { documents { totalCount } members { totalCount } } } }",
        statements: 3,
    },
    Asked {
        what: "a list inside a list inside a list",
        // The projects, the pages of their documents, the revisions, the members who uploaded them.
        query: "{ projects(first: 50) { nodes { documents(first: 2) { nodes { title revisions(first: 1) { totalCount
            nodes { revision uploadedBy { id } } } } } } } }",
        statements: 4,
    },
    Asked {
        what: "what happened, to what and by whom",
        // The events and their count; the members, projects and documents that they happened to, which members, or
        // persons who joined just then, caused.
        query: r#"{ events(first: 100, filter: { types: ["document_uploaded", "project_created", "member_joined"] }) {
            totalCount nodes { type at sequence data
            actor { __typename ... on Member { id } } subject { __typename id ... on Document { title } } } } }"#,
        statements: 6,
    },
];

/// An organisation with so many of each thing.
struct World {
    bed: Bed,
    owner: Person,
    projects: Vec<String>,
    documents: Vec<String>,
    members: Vec<Person>,
}

impl World {
    async fn new() -> Self {
        let bed = Bed::new().await;
        let owner = bed.register("Analytical", "ada@example.org").await;
        let mut world = Self { bed, owner, projects: Vec::new(), documents: Vec::new(), members: Vec::new() };
        world.grow(1).await;
        world
    }

    /// To `count` projects, as many members, all in the first project, as many documents there and one in each other
    /// project, and as many revisions of the first document. Everything is somebody else's.
    async fn grow(&mut self, count: usize) {
        let Self { bed, owner, projects, documents, members } = self;
        for n in projects.len()..count {
            let member = bed.join(owner, &format!("m{n}@example.org"), &["admin"]).await;
            let made = project(bed, &member, &format!("P{n}")).await;
            projects.push(made.clone());
            if n > 0 {
                let input = json!({ "id": projects[0], "memberId": member.member });
                let done = bed.mutate(Some(&owner.access), "projectMemberAdd", input, "userErrors { code }").await;
                assert_eq!(done["userErrors"], json!([]));
                document(bed, &member, &made, &format!("{n}.txt"), "its own").await;
            }
            documents.push(document(bed, &member, &projects[0], &format!("{n}.txt"), "a text").await);
            revise(bed, &member, &documents[0], &format!("{n}.md"), &format!("# Number {n}")).await;
            members.push(member);
        }
    }

    /// What the queries ask about: an id of each, and up to a hundred of all kinds.
    fn variables(&self) -> Value {
        let mut ids = vec![&self.owner.organization];
        for n in 0..self.projects.len().min(24) {
            ids.extend([&self.projects[n], &self.documents[n], &self.members[n].member, &self.members[n].user]);
        }
        json!({ "document": self.documents[0], "project": self.projects[0], "ids": ids })
    }

    async fn ask(&self, asked: &Asked) -> (Value, u64) {
        let declared = ["document", "project", "ids"].map(|name| (name, asked.query.contains(&format!("${name}"))));
        let mut variables = self.variables();
        for (name, _) in declared.iter().filter(|(_, used)| !used) {
            variables.as_object_mut().unwrap().remove(*name);
        }
        let request = Request::new(asked.query).variables(Variables::from_json(variables));
        let (request, recorder) = prepared(&self.bed, Some(&self.owner.access), Uploads::default(), request).await;
        let answer = schema(&self.bed).execute(request).await;
        assert!(answer.errors.is_empty(), "{}: {:?}", asked.what, answer.errors);
        (answer.data.into_json().unwrap(), recorder.statements())
    }
}

/// The longest list in an answer.
fn longest(answer: &Value) -> usize {
    match answer {
        Value::Array(items) => items.len().max(items.iter().map(longest).max().unwrap_or(0)),
        Value::Object(fields) => fields.values().map(longest).max().unwrap_or(0),
        _ => 0,
    }
}

#[tokio::test]
async fn a_query_takes_as_many_statements_for_fifty_rows_as_for_one() {
    let mut world = World::new().await;
    let mut few = Vec::new();
    for asked in QUERIES {
        few.push(world.ask(asked).await);
    }
    world.grow(50).await;
    let mut wrong = Vec::new();
    for (asked, (small, before)) in QUERIES.iter().zip(few) {
        let (large, after) = world.ask(asked).await;
        if (before, after) != (asked.statements, asked.statements) {
            wrong.push(format!("{}: {before} for few rows, {after} for fifty; {} said", asked.what, asked.statements));
        }
        // A query that finds nothing would cost nothing.
        let (small, large) = (longest(&small), longest(&large));
        assert!(!asked.query.contains("nodes") || (small < 30 && large >= 50), "{}: {small}, {large}", asked.what);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
