//! What stays open: WebSockets (graphql-transport-ws) and server-sent events.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;

const LIVE: &str = "subscription Watch { live { projects { nodes { name } } } }";

pub struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

pub async fn listen(bed: &Bed) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = bed.router.clone().into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

pub async fn connect(address: SocketAddr, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
    let mut request = format!("ws://{address}/graphql").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    Ok(Client(connect_async(request).await?.0))
}

pub const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "graphql-transport-ws");

impl Client {
    /// One whose `connection_init` was acknowledged.
    pub async fn ready(address: SocketAddr, token: Option<&str>) -> Self {
        let mut client = connect(address, &[PROTOCOL]).await.unwrap();
        let payload = token.map(|token| json!({ "authorization": format!("Bearer {token}") }));
        client.say(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(client.hear().await, json!({ "type": "connection_ack" }));
        client
    }

    pub async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn subscribe(&mut self, id: &str, query: &str) {
        self.say(json!({ "id": id, "type": "subscribe", "payload": { "query": query } })).await;
    }

    /// The next message of the sub-protocol.
    pub async fn hear(&mut self) -> Value {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// With which code the server closes.
    pub async fn closed(mut self) -> u16 {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_socket_ends_with_the_token_so_that_the_client_comes_back_with_another_one() {
    let bed = Bed::with(settings(&[]), Beds { tokens: Duration::from_secs(5), ..Beds::default() }).await;
    let token = bed.register("acme").await;
    let client = Client::ready(listen(&bed).await, Some(&token)).await;
    assert_eq!(client.closed().await, 4403);
}

#[tokio::test]
async fn a_socket_ends_with_its_session_and_its_client_does_not_come_back() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let address = listen(&bed).await;
    let idle = Client::ready(address, Some(&token)).await;
    let mut watching = Client::ready(address, Some(&token)).await;
    watching.subscribe("l", LIVE).await;
    assert_eq!(watching.hear().await["type"], "next");
    let ended = bed.ask(Some(&token), "mutation { logout { position userErrors { message } } }", json!({})).await;
    assert_eq!(ended.json()["data"]["logout"]["userErrors"], json!([]), "{}", ended.text());
    // What goes on says so first.
    let last = watching.hear().await;
    assert!(last.to_string().contains("UNAUTHENTICATED"), "{last}");
    for client in [idle, watching] {
        assert_eq!(client.closed().await, 4401);
    }
}

#[tokio::test]
async fn a_live_query_follows_changes_beside_other_operations() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let mut client = Client::ready(listen(&bed).await, Some(&token)).await;
    client.subscribe("l", LIVE).await;
    let first = client.hear().await;
    assert_eq!((&first["id"], &first["type"]), (&json!("l"), &json!("next")));
    assert_eq!(first["payload"]["data"]["live"]["projects"]["nodes"], json!([]), "{first}");
    assert!(
        first["payload"]["extensions"]["position"].is_string() && first["payload"]["extensions"]["traceId"].is_string()
    );

    client.subscribe("q", "{ __typename }").await;
    assert_eq!(client.hear().await["payload"]["data"]["__typename"], "Query");
    assert_eq!(client.hear().await, json!({ "id": "q", "type": "complete" }));

    bed.project(&token, "AA").await;
    let next = client.hear().await;
    assert_eq!(next["payload"]["data"]["live"]["projects"]["nodes"], json!([{ "name": "AA" }]), "{next}");
    client.say(json!({ "id": "l", "type": "complete" })).await;
    client.say(json!({ "type": "ping", "payload": { "n": 1 } })).await;
    assert_eq!(client.hear().await, json!({ "type": "pong", "payload": { "n": 1 } }));
    bed.project(&token, "BB").await;
    client.subscribe("l", LIVE).await;
    assert_eq!(client.hear().await["payload"]["data"]["live"]["projects"]["nodes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_operation_is_followed_by_its_hash() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    persisted::publish(&bed, &token, "live", LIVE).await;
    let mut client = Client::ready(listen(&bed).await, Some(&token)).await;
    let subscribe = |id: &str, hash: &str| json!({ "id": id, "type": "subscribe", "payload": { "documentId": hash } });
    client.say(subscribe("n", "nowhere")).await;
    let heard = client.hear().await;
    assert_eq!((&heard["id"], &heard["type"]), (&json!("n"), &json!("error")), "{heard}");
    assert_eq!(heard["payload"][0]["extensions"]["code"], "PERSISTED_QUERY_NOT_FOUND", "{heard}");
    client.say(subscribe("l", "live")).await;
    assert_eq!(client.hear().await["payload"]["data"]["live"]["projects"]["nodes"], json!([]));
    bed.project(&token, "AA").await;
    assert_eq!(client.hear().await["payload"]["data"]["live"]["projects"]["nodes"], json!([{ "name": "AA" }]));
    drop(client);

    let bed = persisted::again(bed, &[("operations", "registered")]).await;
    let mut client = Client::ready(listen(&bed).await, Some(&token)).await;
    client.subscribe("f", "subscription { live { projects { totalCount } } }").await;
    let heard = client.hear().await;
    assert_eq!(heard["payload"][0]["extensions"]["code"], "OPERATION_NOT_REGISTERED", "{heard}");
    client.subscribe("l", LIVE).await;
    assert_eq!(client.hear().await["payload"]["data"]["live"]["projects"]["nodes"], json!([{ "name": "AA" }]));
}

#[tokio::test]
async fn what_cannot_begin_is_an_error_of_its_operation_alone() {
    let bed = Bed::set(&[("max_operations_per_socket", "1"), ("max_depth", "5")]).await;
    let token = bed.register("acme").await;
    let mut client = Client::ready(listen(&bed).await, Some(&token)).await;
    for (query, code) in [
        ("{ nothingLikeThis }", "BAD_REQUEST"),
        ("{ ", "BAD_REQUEST"),
        ("{ a { b { c { d { e { f } } } } } }", "LIMIT_EXCEEDED"),
    ] {
        client.subscribe("x", query).await;
        let heard = client.hear().await;
        assert_eq!((&heard["id"], &heard["type"]), (&json!("x"), &json!("error")), "{heard}");
        assert_eq!(heard["payload"][0]["extensions"]["code"], code, "{heard}");
    }
    client.subscribe("l", LIVE).await;
    assert_eq!(client.hear().await["type"], "next");
    client.subscribe("m", LIVE).await;
    let over = client.hear().await;
    assert_eq!(
        (&over["type"], &over["payload"][0]["extensions"]["limit"]),
        (&json!("error"), &json!("max_operations_per_socket"))
    );
}

#[tokio::test]
async fn a_socket_that_says_nothing_is_closed() {
    let clocks = Clocks { init: Duration::from_millis(50), ..Clocks::USUAL };
    let bed = Bed::with(settings(&[]), Beds { clocks, ..Beds::default() }).await;
    assert_eq!(connect(listen(&bed).await, &[PROTOCOL]).await.unwrap().closed().await, 4408);
}

#[tokio::test]
async fn a_socket_is_closed_with_the_code_of_its_mistake() {
    let bed = Bed::new().await;
    let address = listen(&bed).await;
    let init = || json!({ "type": "connection_init" });
    let subscribe = |id: &str| json!({ "id": id, "type": "subscribe", "payload": { "query": LIVE } });
    for (messages, code) in [
        (vec![json!("what")], 4400),
        (vec![json!({ "type": "nothing" })], 4400),
        (vec![init(), json!({ "type": "subscribe", "payload": { "query": "{ a }" } })], 4400),
        (vec![init(), subscribe("")], 4400),
        (vec![subscribe("a")], 4401),
        (vec![json!({ "type": "connection_init", "payload": { "authorization": "Bearer x" } })], 4403),
        (vec![json!({ "type": "connection_init", "payload": { "Authorization": 7 } })], 4403),
        (vec![init(), init()], 4429),
    ] {
        let mut client = connect(address, &[PROTOCOL]).await.unwrap();
        for message in &messages {
            client.say(message.clone()).await;
        }
        let acknowledged = messages.first() == Some(&init());
        if acknowledged {
            assert_eq!(client.hear().await["type"], "connection_ack");
        }
        assert_eq!(client.closed().await, code, "{messages:?}");
    }
    let token = bed.register("acme").await;
    let mut client = Client::ready(address, Some(&token)).await;
    client.subscribe("a", LIVE).await;
    assert_eq!(client.hear().await["type"], "next");
    client.subscribe("a", LIVE).await;
    assert_eq!(client.closed().await, 4409);
    let mut client = Client::ready(address, None).await;
    client.0.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(client.closed().await, 4400);
}

#[tokio::test]
async fn a_socket_that_may_not_be_opened_is_refused_before_it_is_one() {
    let bed = Bed::set(&[("max_sockets", "1")]).await;
    let address = listen(&bed).await;
    let status = async |headers: &[(&'static str, &str)]| match connect(address, headers).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{:?}", other.map(|_| "opened")),
    };
    assert_eq!(status(&[]).await, 400);
    assert_eq!(status(&[("sec-websocket-protocol", "graphql-ws")]).await, 400);
    assert_eq!(status(&[PROTOCOL, ("authorization", "Bearer x")]).await, 401);
    let first = Client::ready(address, None).await;
    assert_eq!(status(&[PROTOCOL]).await, 503);
    let events = bed.post(&[("accept", "text/event-stream")], r#"{"query":"{ __typename }"}"#).await;
    assert_eq!((events.status.as_u16(), events.refusal().1), (503, "LIMIT_EXCEEDED".to_owned()));
    drop(first);
    // Its place is free as soon as the server has noticed.
    tokio::time::timeout(Duration::from_secs(60), async {
        while connect(address, &[PROTOCOL]).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_token_in_the_header_of_the_upgrade_is_as_good() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let bearer = format!("Bearer {token}");
    let mut client = connect(listen(&bed).await, &[PROTOCOL, ("authorization", &bearer)]).await.unwrap();
    client.say(json!({ "type": "connection_init" })).await;
    client.hear().await;
    client.subscribe("q", "{ viewer { organization { name } } }").await;
    assert_eq!(client.hear().await["payload"]["data"]["viewer"]["organization"]["name"], "acme");
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_only_itself() {
    let clocks = Clocks { write: Duration::from_millis(200), ..Clocks::USUAL };
    let bed = Bed::with(settings(&[]), Beds { clocks, ..Beds::default() }).await;
    let token = bed.register("acme").await;
    let address = listen(&bed).await;
    let mut slow = Client::ready(address, Some(&token)).await;
    // Answers of many megabytes in all, more than the two ends of a connection hold, of which nothing is read.
    let part = |n: u32| format!("a{n}: __schema {{ types {{ name description fields {{ name description }} }} }} ");
    let large = format!("{{ {} }}", (0..12).map(part).collect::<String>());
    for n in 0..40 {
        slow.subscribe(&n.to_string(), &large).await;
    }
    let mut quick = Client::ready(address, Some(&token)).await;
    quick.subscribe("l", LIVE).await;
    quick.hear().await;
    bed.project(&token, "AA").await;
    assert_eq!(quick.hear().await["payload"]["data"]["live"]["projects"]["nodes"], json!([{ "name": "AA" }]));
    // The slow one loses its place, without a word that it could not take either.
    tokio::time::timeout(Duration::from_secs(60), async {
        while bed.state.places.held() != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    drop(slow);
}

#[tokio::test]
async fn a_server_that_stops_says_so() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let mut client = Client::ready(listen(&bed).await, Some(&token)).await;
    client.subscribe("l", LIVE).await;
    client.hear().await;
    let mut events = Events::open(&bed, &token, LIVE).await;
    events.next().await.unwrap();
    bed.stop.cancel();
    assert_eq!(client.closed().await, 1012);
    assert_eq!(events.next().await, None, "a stream that ends without `complete` is asked for again");
}

/// Server-sent events, as they come.
pub struct Events {
    body: Body,
    text: String,
}

impl Events {
    pub async fn open(bed: &Bed, token: &str, query: &str) -> Self {
        let bearer = format!("Bearer {token}");
        let headers =
            [("content-type", "application/json"), ("accept", "text/event-stream"), ("authorization", bearer.as_str())];
        let request = with(Request::post("/graphql"), &headers, json!({ "query": query }).to_string().into());
        let response = bed.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next event and its data.
    pub async fn next(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    lines.map(str::trim_start).collect::<Vec<_>>().join("\n")
                };
                let found = (field("event"), field("data"));
                self.text = rest.to_owned();
                if !found.0.is_empty() {
                    return Some(found);
                }
                continue;
            }
            let frame = self.body.frame().await?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn events_carry_one_answer_or_many() {
    let bed = Bed::new().await;
    let token = bed.register("acme").await;
    let mut once = Events::open(&bed, &token, "{ __typename }").await;
    let (event, data) = once.next().await.unwrap();
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((event.as_str(), &data["data"]["__typename"]), ("next", &json!("Query")));
    assert_eq!(once.next().await, Some(("complete".to_owned(), "\n".to_owned())));
    assert_eq!(once.next().await, None);

    let mut live = Events::open(&bed, &token, LIVE).await;
    assert!(live.next().await.unwrap().1.contains(r#""nodes":[]"#));
    bed.project(&token, "AA").await;
    assert!(live.next().await.unwrap().1.contains(r#""nodes":[{"name":"AA"}]"#));
    bed.ask(Some(&token), "mutation { logout { userErrors { code } } }", json!({})).await;
    let (event, data) = live.next().await.unwrap();
    assert!(event == "next" && data.contains("UNAUTHENTICATED"), "{data}");
    assert_eq!(live.next().await.unwrap().0, "complete");
}

#[tokio::test]
async fn a_subscription_needs_a_stream() {
    let bed = Bed::new().await;
    let body = json!({ "query": LIVE }).to_string();
    let plain = bed.post(&[], body.clone()).await;
    assert_eq!(plain.refusal(), (400, "BAD_REQUEST".to_owned()));
    let accept = "application/graphql-response+json, application/json, text/event-stream";
    let request =
        with(Request::post("/graphql"), &[("content-type", "application/json"), ("accept", accept)], body.into());
    let response = bed.router.clone().oneshot(request).await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
}
