//! Security events, through the running program: administrators are told at once, the person by a letter, nobody else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Server, Session, databases};

const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse battery";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const LIST: &str = "{ securityEvents { totalCount nodes { id kind severity status count reasons sourceAddress
    member { user { name } } } } }";

/// A live query over server-sent events, and everything that it was told.
struct Live {
    response: reqwest::Response,
    text: String,
}

impl Live {
    async fn open(session: &Session, query: &str) -> Self {
        let query = json!({ "query": format!("subscription {{ live {query} }}") });
        let request = session.http.post(format!("{}/graphql", session.url)).bearer_auth(&session.token);
        let response = request.header("Accept", "text/event-stream").json(&query).send().await.unwrap();
        Self { response, text: String::new() }
    }

    async fn until(&mut self, said: &str) {
        while !self.text.contains(said) {
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| panic!("{said} does not come: {}", self.text)).unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("{}", self.text))).unwrap());
        }
    }
}

/// What is done without being signed in, from this address (a proxy on the same machine says it) with this program.
async fn from(session: &Session, (address, program): (&str, &str), mutation: &str, input: Value) -> Value {
    let type_name = format!("{}{}Input", mutation[..1].to_uppercase(), &mutation[1..]);
    let query = format!(
        "mutation($input: {type_name}!) {{ {mutation}(input: $input) {{ refreshToken userErrors {{ code }} }} }}"
    );
    let request = session.http.post(format!("{}/graphql", session.url));
    let request = request.header("X-Forwarded-For", address).header("User-Agent", program);
    let request = request.json(&json!({ "query": query, "variables": { "input": input } }));
    request.send().await.unwrap().json::<Value>().await.unwrap()["data"][mutation].take()
}

async fn sign_in(session: &Session, place: (&str, &str), password: &str) -> Value {
    from(session, place, "login", json!({ "email": "ada@example.org", "password": password })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_are_told_at_once_the_person_by_letter_and_nobody_else() {
    for database in databases() {
        let server = Server::start(database).await;
        let (ada, eve) = (server.register("Ada").await, server.register("Eve").await);
        let bob = ada.join("Bob", "member").await;
        let mut live = Live::open(&ada, LIST).await;
        live.until("securityEvents").await;
        let mut elsewhere = Live::open(&eve, LIST).await;
        elsewhere.until("securityEvents").await;

        let home = ("203.0.113.7", FIREFOX);
        let mut signed_in = Value::Null;
        for _ in 0..3 {
            signed_in = sign_in(&ada, home, PASSWORD).await;
            assert!(signed_in["refreshToken"].is_string(), "{signed_in}");
        }
        sign_in(&ada, ("198.51.100.9", "curl/8.14.1"), PASSWORD).await;
        live.until("UNUSUAL_SIGN_IN").await;
        let token = json!({ "refreshToken": signed_in["refreshToken"] });
        from(&ada, home, "sessionRefresh", token.clone()).await;
        from(&ada, home, "sessionRefresh", token).await;
        live.until("REFRESH_TOKEN_REUSED").await;
        for n in 0..10 {
            let answer = sign_in(&ada, (&format!("192.0.2.{n}"), "curl/8.14.1"), "wrong horse battery").await;
            assert_eq!(answer["userErrors"][0]["code"], "INVALID_CREDENTIALS", "{answer}");
        }
        live.until("ACCOUNT_GUESSING").await;

        let told = ada.ask(LIST, json!({})).await["securityEvents"].take();
        let nodes = told["nodes"].as_array().unwrap();
        assert_eq!((&told["totalCount"], nodes.len()), (&json!(3), 3), "{told}");
        assert!(nodes.iter().all(|node| node["member"]["user"]["name"] == "Ada Owner"), "{told}");
        let unusual = nodes.iter().find(|node| node["kind"] == "UNUSUAL_SIGN_IN").unwrap();
        assert_eq!(unusual["reasons"], json!(["NEW_NETWORK", "NEW_DEVICE"]));
        assert_eq!((&unusual["severity"], &unusual["sourceAddress"]), (&json!("MEDIUM"), &json!("198.51.100.9")));

        // To the person: of the sign-in and of the session, not of what somebody only tries.
        let outbox = server.folder().join("data/outbox");
        let letters = |_: &Value| {
            let files = std::fs::read_dir(&outbox).unwrap().map(|entry| entry.unwrap().path());
            let letters: Vec<String> = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
            let of = |subject: &str| letters.iter().filter(|letter| letter.contains(subject)).count();
            of("A sign-in from somewhere new") == 1 && of("A session of yours was ended") == 1
        };
        ada.until("{ viewer { user { id } } }", json!({}), letters).await;

        // Seen to, which is told at once too.
        let acknowledge = "mutation($input: SecurityEventAcknowledgeInput!) { securityEventAcknowledge(input: $input) {
            securityEvent { status note } userErrors { code } } }";
        let input = json!({ "input": { "id": unusual["id"], "note": "She is on a journey." } });
        let refused = bob.raw(acknowledge, input.clone()).await;
        assert_eq!(refused["data"]["securityEventAcknowledge"]["userErrors"][0]["code"], "FORBIDDEN", "{refused}");
        let refused = eve.ask(acknowledge, input.clone()).await;
        assert_eq!(refused["securityEventAcknowledge"]["userErrors"][0]["code"], "NOT_FOUND", "{refused}");
        let seen = ada.ask(acknowledge, input).await["securityEventAcknowledge"]["securityEvent"].take();
        assert_eq!(seen, json!({ "status": "ACKNOWLEDGED", "note": "She is on a journey." }));
        live.until("ACKNOWLEDGED").await;
        let refused = bob.raw(LIST, json!({})).await;
        assert_eq!(refused["errors"][0]["extensions"]["code"], "FORBIDDEN", "{refused}");
        assert_eq!(eve.ask(LIST, json!({})).await["securityEvents"]["totalCount"], 0);
        eve.create_project("OWN").await;
        assert!(!elsewhere.text.contains("ACCOUNT"), "{}", elsewhere.text);

        let metrics = ada.http.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
        for kind in ["unusual_sign_in", "refresh_token_reused", "account_guessing"] {
            let line = format!("oriel_security_events_total{{kind=\"{kind}\"}} 1");
            assert!(metrics.contains(&line), "{line}: {metrics}");
        }
    }
}
