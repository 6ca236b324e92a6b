//! Search over the real product: facets and totals are what counting by hand gives, for whoever asks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::nodes::at_least;
use crate::support::{Server, Session};

const DOCUMENTS: usize = 36;

/// What is in document `n`: each combination of words, tags, types and projects occurs.
fn words(n: usize) -> String {
    let words = [(2, "whale"), (3, "harbour"), (5, "white whale")];
    let said: Vec<&str> = words.iter().filter(|(step, _)| n.is_multiple_of(*step)).map(|(_, word)| *word).collect();
    format!("Nothing else stands here, but {}.\n", said.join(" or "))
}

fn tags(n: usize) -> Vec<&'static str> {
    let tags = [(2, "red"), (3, "blue"), (4, "green")];
    tags.iter().filter(|(step, _)| (n + 1).is_multiple_of(*step)).map(|(_, tag)| *tag).collect()
}

fn file(n: usize) -> (String, Vec<u8>) {
    let text = words(n);
    match n % 4 {
        0 => (format!("note {n}.md"), format!("# Note\n\n{text}").into_bytes()),
        1 => (format!("note {n}.html"), format!("<!DOCTYPE html><title>Note</title><p>{text}</p>").into_bytes()),
        _ => (format!("note {n}.txt"), text.into_bytes()),
    }
}

/// Somebody with the role `member`, and their id.
async fn member(server: &Server, host: &Session) -> (Session, String) {
    let invite = "mutation($input: MemberInviteInput!) { memberInvite(input: $input) { invitationToken } }";
    let input = json!({ "email": "mia@example.org", "roles": ["member"] });
    let invited = host.ask(invite, json!({ "input": input })).await;
    let accept = "mutation($input: MemberAcceptInput!) { memberAccept(input: $input) {
        accessToken userErrors { message } viewer { member { id } } } }";
    let token = invited["memberInvite"]["invitationToken"].clone();
    let input = json!({ "token": token, "name": "Mia", "password": "correct horse battery" });
    let anonymous = Session { url: server.url.clone(), token: String::new(), http: host.http.clone() };
    let accepted = anonymous.ask(accept, json!({ "input": input })).await["memberAccept"].take();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{accepted}")).to_owned();
    let session = Session { token: text(&accepted["accessToken"]), ..anonymous };
    (session, text(&accepted["viewer"]["member"]["id"]))
}

const SEARCH: &str = "query($query: String!, $types: [SearchType!], $projectId: ID, $tags: [String!],
        $mediaTypes: [String!], $first: Int, $after: String) {
    search(query: $query, types: $types, projectId: $projectId, tags: $tags, mediaTypes: $mediaTypes,
            first: $first, after: $after) {
        nodes { __typename ... on Document { id title tags mediaType project { id } } ... on Project { id } }
        facets { field values { value count } } totalCount position pageInfo { hasNextPage endCursor } } }";

/// Waits until the index has seen what the log holds by now.
async fn indexed(session: &Session) {
    let head = session.ask("{ events(first: 1) { nodes { position } } }", json!({})).await;
    at_least(session, &head["events"]["nodes"][0]["position"], "{ search(query: \"\") { totalCount } }").await;
}

/// Everything that a search finds, page by page.
async fn everything(session: &Session, search: &Value) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut variables = search.clone();
        (variables["first"], variables["after"]) = (json!(7), after);
        let mut page = session.ask(SEARCH, variables).await["search"].take();
        found.append(page["nodes"].as_array_mut().unwrap());
        assert!(found.len() <= DOCUMENTS + 10, "the pages have no end");
        if page["pageInfo"]["hasNextPage"] == false {
            return found;
        }
        after = page["pageInfo"]["endCursor"].take();
    }
}

type Counts = BTreeMap<(String, String), u64>;

/// The facets, counted by hand.
fn counted(found: &[Value]) -> Counts {
    let mut counts = Counts::new();
    let mut count = |field: &str, value: &Value| {
        *counts.entry((field.to_owned(), value.as_str().unwrap().to_owned())).or_default() += 1;
    };
    for node in found {
        match node["__typename"].as_str() {
            Some("Document") => {
                count("type", &json!("DOCUMENT"));
                count("project", &node["project"]["id"]);
                count("mediaType", &node["mediaType"]);
                node["tags"].as_array().unwrap().iter().for_each(|tag| count("tag", tag));
            }
            _ => {
                count("type", &json!("PROJECT"));
                count("project", &node["id"]);
            }
        }
    }
    counts
}

/// The facets of an answer. The most frequent values come first.
fn facets(search: &Value) -> Counts {
    let mut counts = Counts::new();
    for facet in search["facets"].as_array().unwrap() {
        let values = facet["values"].as_array().unwrap();
        assert!(values.is_sorted_by_key(|value| std::cmp::Reverse(value["count"].as_u64())), "{facet}");
        for value in values {
            let key = (facet["field"].as_str().unwrap().to_owned(), value["value"].as_str().unwrap().to_owned());
            assert_eq!(counts.insert(key, value["count"].as_u64().unwrap()), None, "{facet}");
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn facets_and_totals_are_what_counting_gives() {
    let server = Server::start(None).await;
    let ada = server.register("Ada").await;
    let (mia, member) = member(&server, &ada).await;
    let mut projects = Vec::new();
    for key in ["ATLAS", "BOREAS", "SECRET"] {
        projects.push(ada.create_project(key).await);
    }
    // Mia is in the first two.
    for id in &projects[..2] {
        let add =
            "mutation($input: ProjectMemberAddInput!) { projectMemberAdd(input: $input) { userErrors { message } } }";
        let added = ada.ask(add, json!({ "input": { "id": id, "memberId": member } })).await;
        assert_eq!(added["projectMemberAdd"]["userErrors"], json!([]));
    }
    let mut documents = Vec::new();
    for n in 0..DOCUMENTS {
        let (name, content) = file(n);
        let uploaded = ada.upload(&projects[n % 3], &name, content).await;
        documents.push(uploaded["document"]["id"].as_str().unwrap_or_else(|| panic!("{uploaded}")).to_owned());
        let tag = "mutation($input: DocumentUpdateInput!) { documentUpdate(input: $input) { userErrors { message } } }";
        let tagged = ada.ask(tag, json!({ "input": { "id": documents[n], "tags": tags(n) } })).await;
        assert_eq!(tagged["documentUpdate"]["userErrors"], json!([]));
    }
    for id in &documents {
        assert_eq!(ada.document_ends(id).await["status"], "READY");
    }
    indexed(&ada).await;

    type Finds = fn(usize) -> bool;
    let queries: [(&str, Finds); 6] = [
        ("", |_| true),
        ("whale", |n| n % 2 == 0 || n % 5 == 0),
        ("harbour", |n| n % 3 == 0),
        ("whale harbour", |n| n % 3 == 0 || n % 2 == 0 || n % 5 == 0),
        ("\"white whale\"", |n| n % 5 == 0),
        ("whale -harbour", |n| n % 3 != 0 && (n % 2 == 0 || n % 5 == 0)),
    ];
    type Fits = Box<dyn Fn(usize) -> bool>;
    let filters: Vec<(Value, Fits)> = vec![
        (json!({}), Box::new(|_| true)),
        (json!({ "types": ["DOCUMENT"] }), Box::new(|_| true)),
        (json!({ "projectId": projects[1] }), Box::new(|n| n % 3 == 1)),
        (json!({ "projectId": projects[2] }), Box::new(|n| n % 3 == 2)),
        (json!({ "tags": ["red"] }), Box::new(|n| tags(n).contains(&"red"))),
        (json!({ "tags": ["red", "blue"] }), Box::new(|n| tags(n).contains(&"red") && tags(n).contains(&"blue"))),
        (json!({ "mediaTypes": ["text/plain"] }), Box::new(|n| n % 4 > 1)),
        (
            json!({ "mediaTypes": ["text/html", "text/markdown"], "tags": ["green"] }),
            Box::new(|n| n % 4 < 2 && tags(n).contains(&"green")),
        ),
    ];
    let mut found_something = 0;
    for (who, sees) in [(&ada, 3), (&mia, 2)] {
        for (query, says) in queries {
            for (filter, fits) in &filters {
                let mut search = filter.clone();
                search["query"] = json!(query);
                let asked = format!("{search}, seeing {sees} projects");
                let answer = who.ask(SEARCH, search.clone()).await["search"].take();
                let found = everything(who, &search).await;
                assert_eq!(facets(&answer), counted(&found), "{asked}");
                assert_eq!(answer["totalCount"], found.len(), "{asked}");
                // What was found is what was put in, and each once.
                let ids: BTreeSet<&str> = found.iter().map(|node| node["id"].as_str().unwrap()).collect();
                assert_eq!(ids.len(), found.len(), "{asked}");
                let expected = (0..DOCUMENTS).filter(|n| n % 3 < sees && says(*n) && fits(*n));
                let expected: BTreeSet<&str> = expected.map(|n| documents[n].as_str()).collect();
                let found: BTreeSet<&str> = ids.into_iter().filter(|id| id.starts_with("doc_")).collect();
                assert_eq!(found, expected, "{asked}");
                found_something += usize::from(!found.is_empty());
            }
        }
    }
    assert!(found_something > 60, "{found_something} of the searches found something");
}

#[tokio::test]
async fn a_search_is_as_far_as_it_was_asked_to_be() {
    let server = Server::start(None).await;
    let ada = server.register("analytical").await;
    ada.create_project("ATLAS").await;
    // Events that change nothing in the index count too.
    let renamed = ada.ask("mutation { userUpdate(input: { name: \"Countess\" }) { position } }", json!({})).await;
    let position = renamed["userUpdate"]["position"].as_str().unwrap();
    let body = json!({ "query": "{ search(query: \"project\") { position totalCount } }", "extensions": { "atLeast": position } });
    let request = ada.http.post(format!("{}/graphql", ada.url)).bearer_auth(&ada.token).json(&body);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let found = &answer["data"]["search"];
    assert_eq!(found["totalCount"], 1, "{answer}");
    let number = |text: &Value| text.as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&found["position"]) >= position.parse().unwrap(), "{answer}");
}
