//! A scripted Meilisearch: it takes exactly the requests of its script, with the key, in their order, and answers as the
//! server does (its answers are those of version 1.50). What is not in the script is refused, and told at the end.
//!
//! The contract runs against a real server where one is given; this runs always.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::super::{
    Change, Checkpoint, Entry, FacetCounts, FacetField, MAX_BODY_BYTES, Scope, Search, SearchError, SearchRequest,
};
use super::Meilisearch;

const KEY: &str = "a key of the server";
const ORGANIZATION: Uuid = Uuid::from_u128(7);
const WALL: &str = r#"organization = "00000000-0000-0000-0000-000000000007""#;

/// A request that is expected, and what it is answered with.
struct Exchange {
    method: Method,
    /// With its parameters.
    path: String,
    body: Value,
    status: u16,
    answer: Value,
}

/// Exchanges that come in their order; those of one step in any.
#[derive(Default)]
struct Script {
    steps: VecDeque<Vec<Exchange>>,
    refused: Vec<String>,
    tasks: u32,
}

#[derive(Clone, Default)]
struct Peer(Arc<Mutex<Script>>);

impl Peer {
    async fn start() -> (Self, String) {
        let peer = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(peer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (peer, url)
    }

    fn step(&self, exchanges: Vec<Exchange>) {
        self.0.lock().unwrap().steps.push_back(exchanges);
    }

    fn expect(&self, method: Method, path: &str, body: Value, status: u16, answer: Value) {
        self.step(vec![Exchange { method, path: path.into(), body, status, answer }]);
    }

    /// A request that the server takes to work on it later.
    fn begins(&self, method: Method, path: &str, body: Value, kind: &str) -> u32 {
        let mut script = self.0.lock().unwrap();
        script.tasks += 1;
        let task = script.tasks;
        drop(script);
        let answer = json!({
            "taskUid": task, "indexUid": "oriel_entries", "status": "enqueued", "type": kind, "enqueuedAt": NOW
        });
        self.expect(method, path, body, 202, answer);
        task
    }

    /// It is asked how that task went, and once more: so the client does.
    fn ended(&self, task: u32, kind: &str, details: Value, error: Value) {
        let status = if error.is_null() { "succeeded" } else { "failed" };
        let answer = json!({
            "uid": task, "batchUid": task, "indexUid": "oriel_entries", "status": status, "type": kind,
            "canceledBy": null, "details": details, "error": error, "duration": "PT0.005752393S",
            "enqueuedAt": NOW, "startedAt": NOW, "finishedAt": NOW
        });
        for answer in [answer.clone(), answer] {
            self.expect(Method::GET, &format!("/tasks/{task}"), Value::Null, 200, answer);
        }
    }

    fn works(&self, method: Method, path: &str, body: Value, kind: &str, details: Value) {
        let task = self.begins(method, path, body, kind);
        self.ended(task, kind, details, Value::Null);
    }

    /// What a new server is asked for first.
    fn is_new(&self) {
        for name in ["entries", "checkpoint"] {
            let path = format!("/indexes/oriel_{name}");
            self.expect(Method::GET, &path, Value::Null, 404, missing("index_not_found"));
            let body = json!({"uid": format!("oriel_{name}"), "primaryKey": "id"});
            self.works(Method::POST, "/indexes", body, "indexCreation", json!({"primaryKey": "id"}));
        }
        let settings = json!({
            "searchableAttributes": ["title", "tags", "keywords", "body"],
            "filterableAttributes": ["organization", "project", "kind", "tags", "media_type"],
            "sortableAttributes": ["updated_at", "id"],
            "rankingRules": ["words", "typo", "sort", "proximity", "attribute", "exactness", "updated_at:desc"],
            "separatorTokens": ["<", ">", "=", "+", "~", "$", "^", "`", "|"],
            "typoTolerance": {
                "enabled": true, "minWordSizeForTypos": {"oneTypo": 4, "twoTypos": 8}, "disableOnNumbers": true,
                "disableOnAttributes": null, "disableOnWords": null
            },
            "faceting": {"maxValuesPerFacet": 10_000, "sortFacetValuesBy": {"*": "count"}},
            "pagination": {"maxTotalHits": 1_000_000},
            "searchCutoffMs": 5_000,
        });
        let kind = "settingsUpdate";
        self.works(Method::PATCH, "/indexes/oriel_entries/settings", settings.clone(), kind, settings);
        self.is_at(None);
    }

    /// The checkpoint is asked for.
    fn is_at(&self, position: Option<i64>) {
        let path = "/indexes/oriel_checkpoint/documents/checkpoint";
        match position {
            None => self.expect(Method::GET, path, Value::Null, 404, missing("document_not_found")),
            Some(position) => self.expect(Method::GET, path, Value::Null, 200, mark(position)),
        }
    }

    /// Everything was asked for, and nothing else.
    fn is_done(&self) {
        let script = self.0.lock().unwrap();
        assert!(script.refused.is_empty(), "asked for, and not in the script: {:#?}", script.refused);
        let left: Vec<_> = script.steps.iter().flatten().map(|one| format!("{} {}", one.method, one.path)).collect();
        assert!(left.is_empty(), "never asked for: {left:?}");
    }
}

const NOW: &str = "2026-03-01T12:00:00.388571846Z";

fn missing(code: &str) -> Value {
    let link = format!("https://docs.meilisearch.com/errors#{code}");
    json!({"message": "It is not there.", "code": code, "type": "invalid_request", "link": link})
}

fn mark(position: i64) -> Value {
    json!({"id": "checkpoint", "generation": 1, "position": position, "event_id": Uuid::from_u128(position as u128)})
}

async fn answer(
    State(peer): State<Peer>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let path = uri.path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let key = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut script = peer.0.lock().unwrap();
    let expected = script.steps.front_mut().and_then(|step| {
        let at = step.iter().position(|one| one.method == method && one.path == path && one.body == body)?;
        Some(step.swap_remove(at))
    });
    if script.steps.front().is_some_and(Vec::is_empty) {
        script.steps.pop_front();
    }
    match expected.filter(|_| key == format!("Bearer {KEY}")) {
        Some(expected) => (StatusCode::from_u16(expected.status).unwrap(), expected.answer.to_string()),
        None => {
            let refused = format!("{method} {path} {body:#} with {key:?}");
            eprintln!("not in the script: {refused}");
            script.refused.push(refused);
            (StatusCode::BAD_REQUEST, missing("bad_request").to_string())
        }
    }
}

async fn open(peer: &Peer, url: &str) -> Search {
    peer.is_new();
    Search::Meilisearch(Meilisearch::open(&format!("{url}/"), Some(KEY), "oriel").await.unwrap())
}

fn at(position: i64) -> Checkpoint {
    Checkpoint { position, event_id: Uuid::from_u128(position as u128) }
}

fn entry(id: &str) -> Entry {
    Entry {
        id: id.into(),
        kind: "Document".into(),
        organization: ORGANIZATION,
        project: Some(Uuid::from_u128(8)),
        title: "Harbour".into(),
        body: "é".repeat(MAX_BODY_BYTES),
        tags: vec!["b".into(), "a".into(), "b".into()],
        media_type: Some("text/plain".into()),
        keywords: vec!["harbour.txt".into()],
        updated_at: DateTime::<Utc>::from_timestamp_micros(1_700_000_000_000_001).unwrap(),
    }
}

fn stored(id: &str) -> Value {
    json!({
        "id": id, "kind": "Document", "organization": ORGANIZATION, "project": Uuid::from_u128(8), "title": "Harbour",
        "body": "é".repeat(MAX_BODY_BYTES / 2), "tags": ["a", "b"], "media_type": "text/plain",
        "keywords": ["harbour.txt"], "updated_at": 1_700_000_000_000_001_i64
    })
}

#[tokio::test]
async fn the_checkpoint_moves_after_the_entries() {
    let (peer, url) = Peer::start().await;
    let search = open(&peer, &url).await;
    peer.is_at(Some(3));
    // Runs of one kind go together, in their order; and all have succeeded before the checkpoint is written.
    let documents = "/indexes/oriel_entries/documents";
    let put = peer.begins(
        Method::POST,
        &format!("{documents}?primaryKey=id"),
        json!([stored("a"), stored("b")]),
        "documentAdditionOrUpdate",
    );
    let batch = format!("{documents}/delete-batch");
    let removed = peer.begins(Method::POST, &batch, json!(["c", "d"]), "documentDeletion");
    let ended = peer.begins(Method::POST, &format!("{documents}/delete"), json!({"filter": WALL}), "documentDeletion");
    let one = json!({"receivedDocuments": 2, "indexedDocuments": 2});
    let deleted = json!({"providedIds": 2, "deletedDocuments": 2, "originalFilter": null});
    peer.ended(put, "documentAdditionOrUpdate", one.clone(), Value::Null);
    peer.ended(removed, "documentDeletion", deleted.clone(), Value::Null);
    peer.ended(ended, "documentDeletion", deleted.clone(), Value::Null);
    let path = "/indexes/oriel_checkpoint/documents?primaryKey=id";
    peer.works(Method::POST, path, json!([mark(4)]), "documentAdditionOrUpdate", one);
    let changes = vec![
        Change::Put(Box::new(entry("a"))),
        Change::Put(Box::new(entry("b"))),
        Change::Remove { id: "c".into() },
        Change::Remove { id: "d".into() },
        Change::RemoveOrganization(ORGANIZATION),
    ];
    search.apply(changes, at(4)).await.unwrap();
    peer.is_done();

    // A task that fails leaves the checkpoint where it is.
    peer.is_at(Some(4));
    let failing = peer.begins(Method::POST, &batch, json!(["e"]), "documentDeletion");
    let error = json!({"message": "no space left", "code": "no_space_left_on_device", "type": "system", "link": ""});
    peer.ended(failing, "documentDeletion", deleted, error);
    let failed = search.apply(vec![Change::Remove { id: "e".into() }], at(5)).await;
    assert!(matches!(failed, Err(SearchError::Unavailable(_))), "{failed:?}");
    peer.is_done();

    peer.is_at(Some(4));
    let back = search.apply(Vec::new(), at(3)).await;
    assert!(matches!(back, Err(SearchError::Backwards { .. })), "{back:?}");
    peer.is_done();
}

/// A query of a federated search, as it is when the matches are counted.
fn query(text: &str, filter: &str, strategy: &str, weight: f64) -> Value {
    json!({
        "indexUid": "oriel_entries", "q": text, "filter": filter, "matchingStrategy": strategy,
        "federationOptions": {"weight": weight}
    })
}

/// The two requests of a search.
fn search(queries: &[Value], browse: bool, page: (usize, usize), found: Value, total: usize) -> Vec<Exchange> {
    let facets = json!({"oriel_entries": ["kind", "tags", "project", "media_type"]});
    let count = json!({"page": 1, "hitsPerPage": 0, "facetsByIndex": facets, "mergeFacets": {}});
    let shown = queries.iter().cloned().map(|mut query| {
        query["attributesToRetrieve"] = json!(["id", "kind"]);
        query["attributesToHighlight"] = json!(["title", "body"]);
        query["attributesToCrop"] = json!(["body:25"]);
        query["cropMarker"] = json!("");
        query["highlightPreTag"] = json!("\u{E000}");
        query["highlightPostTag"] = json!("\u{E001}");
        if browse {
            query["sort"] = json!(["updated_at:desc", "id:desc"]);
        }
        query
    });
    let page = json!({"offset": page.0, "limit": page.1, "mergeFacets": {}});
    let exchange = |federation: Value, queries: Value, answer: Value| Exchange {
        method: Method::POST,
        path: "/multi-search".into(),
        body: json!({"federation": federation, "queries": queries}),
        status: 200,
        answer,
    };
    let counted = json!({
        "hits": [], "processingTimeMs": 1, "hitsPerPage": 0, "page": 1, "totalPages": 0, "totalHits": total,
        "facetDistribution": {"kind": {"Document": total}, "tags": {"a": 1, "b": 2}, "project": {}, "media_type": {}},
        "facetStats": {}
    });
    let found = json!({"hits": found, "processingTimeMs": 1, "limit": 10, "offset": 0, "estimatedTotalHits": total});
    vec![exchange(count, json!(queries), counted), exchange(page, shown.collect(), found)]
}

#[tokio::test]
async fn no_search_is_without_its_wall() {
    let (peer, url) = Peer::start().await;
    let index = open(&peer, &url).await;
    let scope = Scope { organization: ORGANIZATION, projects: Some(vec![Uuid::from_u128(8), Uuid::from_u128(9)]) };
    let wall = format!(
        r#"{WALL} AND project IN ["00000000-0000-0000-0000-000000000008", "00000000-0000-0000-0000-000000000009"]"#
    );

    // Any of the words; what is quoted, and what is excluded, holds for each.
    let asked = SearchRequest { query: "Harbour crane* -rust".into(), first: 10, ..SearchRequest::default() };
    let queries = [
        query("-rust harbour crane", &wall, "all", 4.0),
        query("-rust harbour crane", &wall, "frequency", 2.0),
        query("-rust harbour ", &wall, "all", 1.0),
        query("-rust crane", &wall, "all", 1.0),
    ];
    let hit = json!([{
        "id": "doc_1", "kind": "Document",
        "_federation": {"indexUid": "oriel_entries", "queriesPosition": 0, "weightedRankingScore": 3.0},
        "_formatted": {"id": "doc_1", "kind": "Document", "title": "A \u{E000}harbour\u{E001} & more", "body": "text"}
    }]);
    peer.is_at(Some(6));
    peer.step(search(&queries, false, (0, 10), hit, 12));
    let answer = index.search(&scope, &asked).await.unwrap();
    peer.is_done();
    assert_eq!((answer.total, answer.has_next, answer.checkpoint), (12, true, Some(at(6))));
    let [hit] = answer.hits.as_slice() else { panic!("{answer:?}") };
    assert_eq!((hit.id.as_str(), hit.score), ("doc_1", 0.75));
    assert_eq!(hit.highlights.len(), 1);
    assert_eq!(hit.highlights[0].fragments, ["A <mark>harbour</mark> &amp; more"]);
    let tags = FacetCounts { field: FacetField::Tag, values: vec![("b".into(), 2), ("a".into(), 1)] };
    assert_eq!(answer.facets[1], tags);

    // The next page; a phrase has to be there, whatever else is.
    let filtered = SearchRequest {
        query: "\"deep sea\" lamp".into(),
        after: Some(hit.cursor.clone()),
        tags: vec!["a\"b".into()],
        kinds: vec!["Document".into()],
        ..asked
    };
    let wall = format!(r#"{wall} AND tags = "a\"b" AND kind IN ["Document"]"#);
    let queries = [query("\"deep sea\" lamp ", &wall, "all", 4.0), query("\"deep sea\" ", &wall, "all", 1.0)];
    peer.is_at(Some(6));
    peer.step(search(&queries, false, (1, 10), json!([]), 0));
    assert!(index.search(&scope, &filtered).await.unwrap().hits.is_empty());
    peer.is_done();

    // Nothing is looked for: all of it, the newest first.
    let all = SearchRequest { first: 5, ..SearchRequest::default() };
    peer.is_at(None);
    peer.step(search(&[query("", WALL, "all", 1.0)], true, (0, 5), json!([]), 0));
    let answer = index.search(&Scope { organization: ORGANIZATION, projects: None }, &all).await.unwrap();
    assert_eq!((answer.total, answer.has_next, answer.checkpoint), (0, false, None));
    peer.is_done();

    // Suggestions are as walled.
    let nothing = Scope { organization: ORGANIZATION, projects: Some(Vec::new()) };
    let body = json!({
        "q": "annual rep", "limit": 200, "filter": format!("{WALL} AND project IN []"), "facets": ["tags"],
        "attributesToSearchOn": ["title", "tags", "keywords"],
        "attributesToRetrieve": ["id", "kind", "title", "keywords"], "matchingStrategy": "all"
    });
    let found = json!({
        "hits": [], "offset": 0, "limit": 200, "estimatedTotalHits": 0, "processingTimeMs": 1, "query": "annual rep",
        "facetDistribution": {"tags": {}}, "facetStats": {}
    });
    peer.expect(Method::POST, "/indexes/oriel_entries/search", body, 200, found);
    assert!(index.suggest(&nothing, "annual rep", 5).await.unwrap().is_empty());
    peer.is_done();
}

#[tokio::test]
async fn a_peer_that_answers_nonsense_is_away() {
    let (peer, url) = Peer::start().await;
    let index = open(&peer, &url).await;
    let scope = Scope { organization: ORGANIZATION, projects: None };
    let all = SearchRequest { first: 5, ..SearchRequest::default() };
    peer.is_at(Some(1));
    let mut exchanges = search(&[query("", WALL, "all", 1.0)], true, (0, 5), json!([]), 0);
    for exchange in &mut exchanges {
        exchange.answer = json!({"hello": "world"});
    }
    peer.step(exchanges);
    let failed = index.search(&scope, &all).await;
    assert!(matches!(failed, Err(SearchError::Unavailable(_))), "{failed:?}");
}
