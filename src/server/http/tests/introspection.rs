//! Who sees the schema.

use super::*;

const ASKS: [&str; 5] = [
    "{ __schema { queryType { name } } }",
    "{ __type(name: \"Query\") { name } }",
    "{ ...F } fragment F on Query { a: __typename b: __schema { types { name } } }",
    "query A { __typename } query B { ... on Query { __type(name: \"Query\") { name } } }",
    "subscription { live { __schema { queryType { name } } } }",
];

/// What it is answered, as a stream so that any operation can be asked.
async fn heard(bed: &Bed, token: Option<&str>, query: &str) -> Heard {
    let bearer = format!("Bearer {}", token.unwrap_or_default());
    let mut headers = vec![("accept", "text/event-stream")];
    headers.extend(token.map(|_| ("authorization", bearer.as_str())));
    let name = query.starts_with("query A").then_some("B");
    bed.post(&headers, json!({ "query": query, "operationName": name }).to_string()).await
}

/// Opens to whom it should, over `/graphql` and `/graphql.schema`, and hides what it suggests from all others.
async fn shows(bed: &Bed, token: Option<&str>, wanted: Option<&str>) {
    for query in ASKS {
        if wanted.is_none() && query.starts_with("subscription") {
            continue; // it would go on
        }
        let text = heard(bed, token, query).await.text();
        match wanted {
            None => assert!(!text.contains("\"errors\"") && text.contains("Query"), "{query}: {text}"),
            Some(code) => {
                let refused = text.contains(&format!("\"code\":\"{code}\"")) && !text.contains("\"data\"");
                assert!(refused, "{query}: {text}");
            }
        }
    }
    let bearer = format!("Bearer {}", token.unwrap_or_default());
    let headers: Vec<_> = token.iter().map(|_| ("authorization", bearer.as_str())).collect();
    let schema = bed.get("/graphql.schema", &headers).await;
    match wanted {
        None => assert_eq!((schema.status.as_u16(), schema.text()), (200, oriel_schema::sdl())),
        Some(code) => assert!([401, 403].contains(&schema.status.as_u16()) && schema.refusal().1 == code),
    }

    for (nearly, name) in [("{ viewr { user { id } } }", "viewer"), ("{ projects(firstt: 1) { totalCount } }", "first")]
    {
        let one = bed.ask(token, nearly, json!({})).await.text();
        let streamed = heard(bed, token, nearly).await.text();
        for text in [one, streamed] {
            let suggests = text.contains("Did you mean") && text.contains(&format!("\\\"{name}\\\""));
            assert_eq!(suggests, wanted.is_none(), "{text}");
            assert!(text.contains("Unknown "), "what is wrong is said to everybody: {text}");
        }
    }
    if token.is_some() {
        let nearly = "{ viewr { user { id } } }";
        let input = json!({ "operations": [{ "hash": "ab", "body": nearly }] });
        let publish =
            "mutation($input: OperationsPublishInput!) { operationsPublish(input: $input) { userErrors { message } } }";
        let text = bed.ask(token, publish, json!({ "input": input })).await.text();
        assert_eq!(text.contains("Did you mean"), wanted.is_none(), "{text}");
        assert!(text.contains("viewr"), "what is wrong is said to everybody: {text}");
    }
    let works = bed.ask(token, "{ __typename }", json!({})).await.json();
    assert_eq!(works["data"]["__typename"], "Query");
}

#[tokio::test]
async fn everyone_sees_the_schema_unless_it_is_said_otherwise() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    shows(&bed, None, None).await;
    shows(&bed, Some(&token), None).await;
}

#[tokio::test]
async fn it_can_be_for_who_is_signed_in() {
    let bed = Bed::set(&[("introspection", "signed_in")]).await;
    let token = bed.register("acme").await;
    shows(&bed, None, Some("UNAUTHENTICATED")).await;
    shows(&bed, Some(&token), None).await;
}

#[tokio::test]
async fn it_can_be_off_but_for_some_roles() {
    let bed = Bed::set(&[("introspection", "off"), ("introspection_exempt_roles", "admin")]).await;
    let token = bed.register("acme").await;
    shows(&bed, None, Some("FORBIDDEN")).await;
    shows(&bed, Some(&token), Some("FORBIDDEN")).await;

    let bed = Bed::set(&[("introspection", "off"), ("introspection_exempt_roles", "owner")]).await;
    let token = bed.register("acme").await;
    shows(&bed, None, Some("FORBIDDEN")).await;
    shows(&bed, Some(&token), None).await;
}
