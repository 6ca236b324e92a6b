//! Answers that a client has already, and the parts of an answer that goes on.

use super::*;

const NAMES: &str = "/graphql?query=%7Bprojects%7Bnodes%7Bname%7D%7D%7D";

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    bed.project(&token, "AA").await;
    let bearer = format!("Bearer {token}");
    let signed_in = ("authorization", bearer.as_str());
    let first = bed.get(NAMES, &[signed_in]).await;
    assert_eq!((first.status.as_u16(), first.header("cache-control")), (200, "private, no-cache"));
    let vary: Vec<_> =
        first.headers.get_all("vary").iter().map(|value| value.to_str().unwrap().to_lowercase()).collect();
    assert!(
        vary.iter().any(|value| value.contains("authorization")) && vary.iter().any(|value| value.contains("accept"))
    );
    let tag = first.header("etag").to_owned();
    let again = bed.get(NAMES, &[signed_in, ("if-none-match", &tag)]).await;
    assert_eq!((again.status.as_u16(), again.body.len(), again.header("etag")), (304, 0, tag.as_str()));
    let other = bed.get(NAMES, &[signed_in, ("if-none-match", "W/\"0\"")]).await;
    assert_eq!((other.status.as_u16(), other.header("etag")), (200, tag.as_str()));

    bed.project(&token, "BB").await;
    let changed = bed.get(NAMES, &[signed_in, ("if-none-match", &tag)]).await;
    assert_eq!(changed.json()["data"]["projects"]["nodes"], json!([{ "name": "AA" }, { "name": "BB" }]));
    assert_ne!(changed.header("etag"), tag);
    // Nothing of it is anybody else's.
    let other = bed.register("other").await;
    let bearer = format!("Bearer {other}");
    let theirs = bed.get(NAMES, &[("authorization", &bearer), ("if-none-match", changed.header("etag"))]).await;
    assert_eq!(theirs.json()["data"]["projects"]["nodes"], json!([]));
    // What failed, and what is sent by POST, has no tag.
    assert_eq!(bed.get("/graphql?query=%7Bnothing%7D", &[signed_in]).await.header("etag"), "");
    let post = bed.post(&[signed_in], json!({ "query": "{ projects { nodes { name } } }" }).to_string()).await;
    assert_eq!((post.header("etag"), post.header("cache-control")), ("", "no-store"));
}

/// The text until it ends so.
async fn until(body: &mut Body, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let frame = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.unwrap();
        match frame {
            Some(frame) => text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap()),
            None => break,
        }
    }
    text
}

#[tokio::test]
async fn a_subscription_comes_in_parts_to_apollo_client() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let bearer = format!("Bearer {token}");
    let apollo = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/graphql-response+json,application/json;q=0.9";
    let headers = [("authorization", bearer.as_str()), ("accept", apollo), ("content-type", "application/json")];
    let live = json!({ "query": "subscription { live { projects { nodes { name } } } }" }).to_string();
    let answer = bed.router.clone().oneshot(with(Request::post("/graphql"), &headers, live.into())).await.unwrap();
    let media_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(media_type, "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0");
    let mut body = answer.into_body();
    assert_eq!(until(&mut body, "--graphql").await, "\r\n--graphql");
    let part = async |body: &mut Body| loop {
        let text = until(body, "\r\n--graphql").await;
        let json = text.strip_prefix("\r\ncontent-type: application/json\r\n\r\n").unwrap();
        if let Some(payload) =
            serde_json::from_str::<Value>(json.strip_suffix("\r\n--graphql").unwrap()).unwrap().get("payload")
        {
            return payload["data"]["live"]["projects"]["nodes"].clone();
        }
    };
    assert_eq!(part(&mut body).await, json!([]));
    bed.project(&token, "AA").await;
    assert_eq!(part(&mut body).await, json!([{ "name": "AA" }]));

    // A query is answered as ever, whatever else the client would take.
    let query = json!({ "query": "{ __typename }" }).to_string();
    let plain = bed.post(&headers, query).await;
    assert!(plain.header("content-type").starts_with("application/graphql-response+json"));
    // A refusal is one part beside `payload`, and the end.
    let wrong = json!({ "query": "subscription { live { nothing } }" }).to_string();
    let refused = bed.post(&headers, wrong).await.text();
    assert!(refused.contains(r#"{"payload":null,"errors":[{"#) && refused.ends_with("--graphql--\r\n"), "{refused}");
}
