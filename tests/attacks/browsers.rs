//! What a page of another site can make the browser of somebody do who is signed in.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::{events, installation, nobody};
use crate::support::Session;
use crate::tenants::Schema;

/// Sends this in the address, as a link or an image does.
async fn get(session: &Session, parts: &[(&str, String)]) -> (u16, Value) {
    let request = session.http.get(format!("{}/graphql", session.url)).query(parts);
    let response = request.bearer_auth(&session.token).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_changes_anything_whatever_stands_in_it() {
    let (_server, operator, ada) = installation().await;
    let schema = Schema::of(&ada).await;
    let before = events(&operator).await;
    let mut tried = 0;
    for field in schema.root("Mutation") {
        // Their permission is not what keeps them out: it is the operator's browser.
        let call = schema.calls("Mutation", &field, "none").remove(0);
        let (query, variables) = (call.document(), call.variables.to_string());
        let (status, answer) = get(&operator, &[("query", query.clone()), ("variables", variables.clone())]).await;
        assert_eq!(status, 405, "{query}: {answer}");
        // Beside a query, under the name of the mutation; and by its hash.
        let both = format!("query Harmless {{ __typename }} {}", query.replacen("mutation", "mutation Harmful", 1));
        let named = [("query", both), ("operationName", "Harmful".to_owned()), ("variables", variables.clone())];
        assert_eq!(get(&operator, &named).await.0, 405, "{query}");
        let hash = HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, query.as_bytes()).as_ref());
        let persisted = json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } }).to_string();
        let with_text = [("query", query.clone()), ("variables", variables.clone()), ("extensions", persisted.clone())];
        assert_eq!(get(&operator, &with_text).await.0, 405, "{query}");
        let by_hash = [("variables", variables), ("extensions", persisted)];
        let (status, answer) = get(&operator, &by_hash).await;
        assert!(answer.get("data").is_none(), "{status} {answer}");
        tried += 1;
    }
    assert!(tried > 60, "{tried}");
    assert_eq!(events(&operator).await, before, "an address has changed something");
    // What was sent before with its text is known by its hash, and still no address changes anything.
    let query = "mutation { projectCreate(input: {key: \"LINK\", name: \"Link\"}) { project { key } } }";
    let hash = HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, query.as_bytes()).as_ref());
    let persisted = json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } });
    let body = json!({ "query": query, "extensions": persisted });
    let request = ada.http.post(format!("{}/graphql", ada.url)).bearer_auth(&ada.token).json(&body);
    let made: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(made["data"]["projectCreate"]["project"]["key"], "LINK", "{made}");
    assert_eq!(get(&ada, &[("extensions", persisted.to_string())]).await.0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_browser_sends_by_itself_signs_anybody_in() {
    let (server, _, ada) = installation().await;
    let nobody = nobody(&ada);
    let cookies = ["access_token", "accessToken", "authorization", "Authorization", "token", "session", "oriel_token"];
    let cookies: Vec<String> =
        cookies.iter().map(|name| format!("{name}={}; {name}x=Bearer {}", ada.token, ada.token)).collect();
    let request = nobody.http.post(format!("{}/graphql", nobody.url)).header("cookie", cookies.join("; "));
    let body = json!({ "query": "{ viewer { user { name } } }" });
    let answer: Value = request.json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["data"], json!({ "viewer": null }), "{answer}");
    for part in ["access_token", "token", "authorization"] {
        let in_the_address = [("query", "{ viewer { user { name } } }"), (part, ada.token.as_str())];
        let request = nobody.http.get(format!("{}/graphql", nobody.url)).query(&in_the_address);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["data"]["viewer"].is_null(), "{part}: {answer}");
    }

    // A page of another site opens no socket, which no preflight would keep it from.
    let place = server.url.strip_prefix("http://").unwrap();
    let open = async |origin: &str| {
        let mut request = format!("ws://{place}/graphql").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match connect_async(request).await {
            Ok(_) => 101,
            Err(Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    for other in ["https://evil.example", "null", "http://127.0.0.1", &format!("{}.evil.example", server.url)] {
        assert_eq!(open(other).await, 403, "{other}");
    }
    assert_eq!(open(&server.url).await, 101);
    // Nor may it read an answer, or send what needs to be asked for first.
    let request = ada.http.request(reqwest::Method::OPTIONS, format!("{}/graphql", ada.url));
    let request = request.header("origin", "https://evil.example").header("access-control-request-method", "POST");
    let preflight =
        request.header("access-control-request-headers", "authorization,content-type").send().await.unwrap();
    let request = ada.http.post(format!("{}/graphql", ada.url)).bearer_auth(&ada.token).json(&body);
    let read = request.header("origin", "https://evil.example").send().await.unwrap();
    for response in [preflight, read] {
        for header in ["access-control-allow-origin", "access-control-allow-credentials"] {
            assert!(response.headers().get(header).is_none(), "{:?}", response.headers());
        }
    }
}
