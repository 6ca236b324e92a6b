//! What is bounded beside the document: costs, places for sockets, files before they are read, who reads the numbers.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::ConnectInfo;
use tokio_tungstenite::tungstenite::Error;

use super::sockets::{Client, Events, PROTOCOL, connect, listen};
use super::*;
use crate::telemetry::Metrics;

fn extensions(heard: &Heard) -> Value {
    heard.json()["errors"][0]["extensions"].clone()
}

#[tokio::test]
async fn an_operation_says_what_it_costs_and_pays_for_it() {
    // What is spent comes back within a minute: enough of it for another such page takes most of that.
    let bed = Bed::set(&[("rate_limit", "340"), ("max_cost", "1500")]).await;
    let token = bed.register("acme").await;
    let page = "query($n: Int) { projects(first: $n) { nodes { id name } } }";
    // Registering has cost those who are not signed in all that they have; this is another one's budget, and whole.
    let heard = bed.ask(Some(&token), page, json!({ "n": 100 })).await;
    let cost = heard.json()["extensions"]["cost"].clone();
    assert_eq!(cost, json!({ "requested": 301, "limit": 1_500, "remaining": 39 }));
    assert_eq!(heard.header("ratelimit"), "\"cost\";r=39;t=54");

    let refused = extensions(&bed.ask(Some(&token), page, json!({ "n": 101 })).await);
    assert_eq!(
        (&refused["limit"], &refused["allowed"], &refused["found"]),
        (&json!("max_page"), &json!(100), &json!(101))
    );
    let nested = "{ projects(first: 100) { nodes { documents(first: 100) { nodes { id } } } } }";
    let refused = extensions(&bed.ask(Some(&token), nested, json!({})).await);
    assert_eq!((&refused["limit"], &refused["found"]), (&json!("max_cost"), &json!(1 + 100 * (2 + 200))));

    let spent = bed.ask(Some(&token), page, json!({ "n": 100 })).await;
    assert_eq!(spent.refusal(), (429, "RATE_LIMITED".to_owned()));
    let refused = extensions(&spent);
    assert_eq!(
        (&refused["limit"], &refused["allowed"], &refused["found"]),
        (&json!("rate_limit"), &json!(340), &json!(301))
    );
    assert_eq!(bed.ask(Some(&token), page, json!({ "n": 1 })).await.status, 200, "less can be had at once");
}

#[tokio::test]
async fn an_operation_in_a_batch_pays_for_itself() {
    let bed = Bed::set(&[("rate_limit", "400")]).await;
    let one = json!({ "query": "{ projects(first: 100) { nodes { id name } } }" });
    let heard = bed.post(&[], json!([one, one]).to_string()).await.json();
    assert_eq!(heard[0]["extensions"]["cost"]["requested"], 301, "{heard}");
    assert_eq!(heard[1]["errors"][0]["extensions"]["code"], "RATE_LIMITED", "{heard}");
}

#[tokio::test]
async fn what_costs_more_than_a_whole_budget_is_served_by_a_full_one() {
    let bed = Bed::set(&[("rate_limit", "50")]).await;
    let page = "{ projects(first: 100) { nodes { id name } } }";
    let heard = bed.ask(None, page, json!({})).await.json();
    assert_eq!(heard["extensions"]["cost"], json!({ "requested": 301, "limit": 50_000, "remaining": 0 }));
}

async fn refused(address: SocketAddr, headers: &[(&'static str, &str)]) -> (u16, Value) {
    let Err(Error::Http(response)) = connect(address, headers).await else { panic!("it was opened") };
    let body: Value = serde_json::from_slice(response.body().as_deref().unwrap()).unwrap();
    (response.status().as_u16(), body["errors"][0]["extensions"]["limit"].clone())
}

#[tokio::test]
async fn one_person_and_one_address_have_so_many_sockets() {
    let bed = Bed::set(&[("max_sockets_per_viewer", "2"), ("max_sockets_per_address", "4")]).await;
    let (token, other) = (bed.register("acme").await, bed.register("other").await);
    let bearer = format!("Bearer {token}");
    let address = listen(&bed).await;
    let live = "subscription { live { viewer { user { id } } } }";
    let _events = Events::open(&bed, &token, live).await;
    let _socket = Client::ready(address, Some(&token)).await;
    assert_eq!(refused(address, &[PROTOCOL, ("authorization", &bearer)]).await, (429, json!("max_sockets_per_viewer")));
    let headers = [("authorization", bearer.as_str()), ("accept", "text/event-stream")];
    let heard = bed.post(&headers, json!({ "query": live }).to_string()).await;
    assert_eq!((heard.status.as_u16(), &extensions(&heard)["limit"]), (429, &json!("max_sockets_per_viewer")));
    // Who signs in later is counted then.
    let mut late = connect(address, &[PROTOCOL]).await.unwrap();
    late.say(json!({ "type": "connection_init", "payload": { "authorization": bearer } })).await;
    assert_eq!(late.closed().await, 4429);

    let _others = [Client::ready(address, Some(&other)).await, Client::ready(address, Some(&other)).await];
    let _last = connect(address, &[PROTOCOL]).await.unwrap();
    assert_eq!(refused(address, &[PROTOCOL]).await, (429, json!("max_sockets_per_address")));
    // Behind a proxy that is trusted, the addresses are those of its clients.
    let elsewhere = [PROTOCOL, ("x-forwarded-for", "203.0.113.9")];
    let _elsewhere = connect(address, &elsewhere).await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_file_is_read_for_an_operation_that_is_over_a_limit() {
    let bed = Bed::set(&[("rate_limit", "5000")]).await;
    let token = bed.register("acme").await;
    let query = "mutation($file: Upload!) { documentUpload(input: { file: $file }) { document { project {
                 documents(first: 100) { nodes { project { documents(first: 100) { nodes { id title size tags sha256 } } } } } } } } }";
    let operations = json!({ "query": query, "variables": { "file": null } });
    let begin = format!(
        "--b\r\ncontent-disposition: form-data; name=\"operations\"\r\n\r\n{operations}\r\n\
         --b\r\ncontent-disposition: form-data; name=\"map\"\r\n\r\n{{\"0\":[\"variables.file\"]}}\r\n"
    );
    // What follows never comes.
    let body = async_stream::stream! {
        yield Ok::<_, std::io::Error>(Bytes::from(begin));
        std::future::pending::<()>().await;
    };
    let bearer = format!("Bearer {token}");
    let headers = [
        ("content-type", "multipart/form-data; boundary=b"),
        ("graphql-require-preflight", "1"),
        ("authorization", bearer.as_str()),
        ("accept", "application/graphql-response+json"),
    ];
    let heard = bed.post(&headers, Body::from_stream(body)).await;
    assert_eq!((heard.status.as_u16(), &extensions(&heard)["limit"]), (400, &json!("max_cost")), "{}", heard.text());
}

#[tokio::test]
async fn metrics_are_for_this_machine_and_for_who_has_the_token() {
    let settings = settings(&[("metrics_token", "s3cret")]);
    let bed = Bed::with(settings.clone(), Beds::default()).await;
    let endpoint = bed.state.endpoint.clone();
    let metrics = Some(Metrics::apart().unwrap());
    let state = HttpState::with_clocks(endpoint, &settings, metrics, bed.stop.clone(), Clocks::USUAL).unwrap();
    let status = async |peer: &str, headers: &[(&str, &str)]| {
        let mut request = with(Request::get("/metrics"), headers, Body::empty());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
        router(state.clone()).oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(status("127.0.0.1", &[]).await, 200);
    assert_eq!(status("::1", &[]).await, 200);
    assert_eq!(status("192.0.2.1", &[]).await, 401);
    assert_eq!(status("192.0.2.1", &[("authorization", "Bearer guess")]).await, 401);
    assert_eq!(status("192.0.2.1", &[("authorization", "Bearer s3cret")]).await, 200);
    // A proxy on this machine speaks for somebody else, whatever that one says.
    for told in [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=_hidden")] {
        assert_eq!(status("127.0.0.1", &[told]).await, 401, "{told:?}");
    }
}
