//! Access tokens that somebody has made or changed.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::{PASSWORD, SIGNED_IN, events, installation, nobody, told, with_token};
use crate::support::{Server, Session};

const WHO: &str = "{ viewer { user { name } organization { id } } }";
/// What stands before the 32 bytes of an Ed25519 key in its usual file.
const SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn encode(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

fn decode(part: &str) -> Value {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

/// Everything that is known to have worked somewhere, by what it is.
async fn forgeries(server: &Server, victim: &Session, thief: &Session) -> Vec<(String, String)> {
    let published: Value =
        thief.http.get(format!("{}/.well-known/jwks.json", server.url)).send().await.unwrap().json().await.unwrap();
    let published = published["keys"][0].clone();
    let kid = published["kid"].as_str().unwrap();
    let public = BASE64URL_NOPAD.decode(published["x"].as_str().unwrap().as_bytes()).unwrap();
    let [header, claims, signature] = victim.token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let [own_header, own_claims, own_signature] = thief.token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(decode(header), json!({ "typ": "JWT", "alg": "EdDSA", "kid": kid }), "what is forged here");
    let mut forged = Vec::new();
    let mut add = |what: String, token: String| forged.push((what, token));

    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = encode(&json!({ "typ": "JWT", "alg": alg, "kid": kid }));
        add(format!("{alg:?} without a signature"), format!("{header}.{claims}."));
        add(format!("{alg:?} with another's signature"), format!("{header}.{claims}.{signature}"));
    }
    add("no signature".to_owned(), format!("{header}.{claims}."));
    add("two parts".to_owned(), format!("{header}.{claims}"));
    add("two signatures".to_owned(), format!("{header}.{claims}.{signature}.{signature}"));

    // The public key as the secret of a MAC, in every form in which a program may hold it.
    let file = [SPKI, &public].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(&file));
    let jwk = published.to_string();
    let forms = [&public, &file, pem.as_bytes(), published["x"].as_str().unwrap().as_bytes(), jwk.as_bytes(), b""];
    let algorithms = [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)];
    for (n, form) in forms.iter().enumerate() {
        for (alg, algorithm) in algorithms {
            let said = format!("{}.{claims}", encode(&json!({ "typ": "JWT", "alg": alg, "kid": kid })));
            let mac = hmac::sign(&hmac::Key::new(algorithm, form), said.as_bytes());
            add(
                format!("{alg} with form {n} of the public key"),
                format!("{said}.{}", BASE64URL_NOPAD.encode(mac.as_ref())),
            );
        }
    }

    // A key of one's own, under every name and with every hint where to find it.
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let own = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": kid, "x": BASE64URL_NOPAD.encode(pair.public_key().as_ref()) });
    for header in [
        json!({ "alg": "EdDSA", "kid": kid }),
        json!({ "alg": "EdDSA" }),
        json!({ "alg": "EdDSA", "kid": "unknown" }),
        json!({ "alg": "EdDSA", "kid": null }),
        json!({ "alg": "EdDSA", "kid": "../../../../dev/null" }),
        json!({ "alg": "EdDSA", "kid": "' OR 1 = 1 --" }),
        json!({ "alg": "EdDSA", "kid": kid, "jwk": own }),
        json!({ "alg": "EdDSA", "kid": kid, "jku": "http://127.0.0.1:1/jwks.json", "x5u": "http://127.0.0.1:1/x" }),
        json!({ "alg": "EdDSA", "kid": kid, "crit": ["b64"], "b64": false }),
    ] {
        let said = format!("{}.{claims}", encode(&header));
        let made = BASE64URL_NOPAD.encode(pair.sign(said.as_bytes()).as_ref());
        add(format!("signed by oneself: {header}"), format!("{said}.{made}"));
    }

    // One's own token, saying what another one says; another one's with one's own signature.
    let (theirs, mine) = (decode(claims), decode(own_claims));
    for (claim, value) in theirs.as_object().unwrap() {
        let mut changed = mine.clone();
        changed[claim] = value.clone();
        if changed != mine {
            let changed = encode(&changed);
            add(format!("one's own with another's {claim}"), format!("{own_header}.{changed}.{own_signature}"));
        }
    }
    let mut longer = mine.clone();
    longer["exp"] = json!(4_102_444_800_u64);
    add("one's own that never ends".to_owned(), format!("{own_header}.{}.{own_signature}", encode(&longer)));
    add("another's with one's own signature".to_owned(), format!("{header}.{claims}.{own_signature}"));

    // One of another installation of the same program.
    let elsewhere = Server::start(None).await;
    add("one of another installation".to_owned(), elsewhere.register("Victim").await.token.clone());
    // What is a secret, and no access token.
    let input = json!({ "email": "thief@example.org", "password": PASSWORD });
    let signed_in = told(&nobody(thief), "login", input, SIGNED_IN).await;
    add("a refresh token".to_owned(), signed_in["data"]["login"]["refreshToken"].as_str().unwrap().to_owned());
    add("a key that nobody has".to_owned(), format!("orl_{}", "0".repeat(48)));
    forged
}

/// What becomes of the connection of somebody who says this token in its first message.
async fn on_a_socket(server: &Server, token: &str) -> Option<u16> {
    let place = server.url.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{place}/graphql").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    let hello = json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } });
    socket.send(Message::text(hello.to_string())).await.unwrap();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(frame) => return frame.map(|frame| u16::from(frame.code)),
            Message::Text(text) => {
                assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["type"], "connection_ack");
                return None;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_that_somebody_made_is_good_anywhere() {
    let (server, operator, victim) = installation().await;
    let thief = server.register("Thief").await;
    let forged = forgeries(&server, &victim, &thief).await;
    let before = events(&operator).await;
    for (what, token) in &forged {
        let forger = with_token(&thief, token);
        let url = format!("{}/graphql", forger.url);
        let question = json!({ "query": WHO });
        let change = json!({ "query": "mutation { projectCreate(input: {key: \"FORGED\", name: \"Forged\"}) { project { id } } }" });
        let post = |body: &Value| forger.http.post(&url).bearer_auth(token).json(body);
        let stream =
            post(&json!({ "query": format!("subscription {{ live {WHO} }}") })).header("accept", "text/event-stream");
        let get = forger.http.get(&url).query(&[("query", WHO)]).bearer_auth(token);
        for request in [post(&question), post(&change), stream, get] {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 401, "{what}");
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{what}: {answer}");
            assert!(answer.get("data").is_none(), "{what}: {answer}");
        }
        assert_eq!(on_a_socket(&server, token).await, Some(4403), "{what}");
    }
    assert_eq!(events(&operator).await, before, "a forged token has changed something");
    // What was forged is good as it was, everywhere.
    assert_eq!(victim.ask(WHO, json!({})).await["viewer"]["user"]["name"], "Ada Owner");
    assert_eq!(on_a_socket(&server, &victim.token).await, None);
}
