//! Against a server that says what it is told to. What moto says, another's KMS, is in the tests of the product.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// What it says to the next, the last one again and again; `None`: nothing, ever.
type Says = Option<(u16, Value)>;

#[derive(Clone)]
struct Peer {
    says: Arc<Mutex<Vec<Says>>>,
    /// What it was asked: the operation, and the body.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Who signed it.
    signed: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    async fn saying(says: Vec<Says>) -> (Self, SocketAddr) {
        let this = Self { says: Arc::new(Mutex::new(says)), asked: Arc::default(), signed: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(this.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (this, address)
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(State(peer): State<Peer>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap().to_owned();
    peer.signed.lock().unwrap().push(headers["authorization"].to_str().unwrap().to_owned());
    peer.asked.lock().unwrap().push((target, serde_json::from_slice(&body).unwrap()));
    let says = {
        let mut says = peer.says.lock().unwrap();
        if says.len() > 1 { says.remove(0) } else { says[0].clone() }
    };
    match says {
        Some((status, body)) => {
            let head = [("content-type", "application/x-amz-json-1.1")];
            (StatusCode::from_u16(status).unwrap(), head, body.to_string()).into_response()
        }
        None => std::future::pending().await,
    }
}

fn here(name: &str) -> Option<String> {
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].contains(&name).then(|| "hunter2".to_owned())
}

fn kms(address: SocketAddr, patience: Patience) -> Kms {
    let text = format!("kms:alias/oriel?endpoint=http://{address}&installation=here");
    Kms::with(&KmsKey::parse(&text).unwrap(), here, patience).unwrap()
}

fn key(length: usize) -> Says {
    let (plain, sealed) = (data_encoding::BASE64.encode(&vec![7; length]), data_encoding::BASE64.encode(b"sealed"));
    Some((200, json!({ "KeyId": "arn:1", "Plaintext": plain, "CiphertextBlob": sealed })))
}

fn refusal(code: &str) -> Says {
    Some((400, json!({ "__type": code, "message": "hunter2" })))
}

#[tokio::test]
async fn keys_are_asked_for_in_the_name_of_the_installation() {
    let (peer, address) = Peer::saying(vec![key(32)]).await;
    let kms = kms(address, Patience::default());
    let made = kms.generate().await.unwrap();
    assert_eq!((*made.key, made.sealed.as_slice(), made.by.as_str()), ([7; 32], &b"sealed"[..], "arn:1"));
    assert_eq!(*kms.unseal(&made.sealed, &made.by).await.unwrap(), [7; 32]);
    assert_eq!(kms.check().await.unwrap(), "arn:1");
    let asked = peer.asked();
    let context = json!({ "oriel-installation": "here" });
    assert_eq!(asked[0].0, "TrentService.GenerateDataKey");
    assert_eq!(asked[0].1, json!({ "KeyId": "alias/oriel", "KeySpec": "AES_256", "EncryptionContext": context }));
    assert_eq!(asked[1].0, "TrentService.Decrypt");
    assert_eq!((&asked[1].1["KeyId"], &asked[1].1["EncryptionContext"]), (&json!("arn:1"), &context));
}

#[tokio::test]
async fn it_has_credentials_of_its_own_where_the_files_have_others() {
    let (peer, address) = Peer::saying(vec![key(32)]).await;
    let name = KmsKey::parse(&format!("kms:a?endpoint=http://{address}")).unwrap();
    for environment in [here, |name: &str| Some(if name.ends_with("_KMS") { "own" } else { "others" }.to_owned())] {
        let variable =
            |name: &str| environment(name).filter(|_| !name.contains("ENDPOINT") && !name.contains("REGION"));
        Kms::open(&name, variable).unwrap().generate().await.unwrap();
    }
    let signed = peer.signed.lock().unwrap().clone();
    assert!(signed[0].contains("Credential=hunter2/") && signed[1].contains("Credential=own/"), "{signed:?}");
}

#[tokio::test]
async fn a_refusal_says_how_it_is_mended() {
    for (code, mend) in [
        ("AccessDeniedException", "allow kms:GenerateDataKey and kms:Decrypt on the key"),
        ("AccessDeniedException", "oriel-installation=here"),
        ("UnrecognizedClientException", "AWS_ACCESS_KEY_ID"),
        ("NotFoundException", "region="),
        ("DisabledException", "enable it"),
        ("InvalidCiphertextException", "another installation than here"),
        ("SomethingElse", "policy"),
    ] {
        let (peer, address) = Peer::saying(vec![refusal(code)]).await;
        let error = kms(address, Patience::default()).unseal(b"sealed", "arn:1").await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains(code) && said.contains(mend) && said.contains("kms:alias/oriel"), "{said}");
        assert!(!said.contains("hunter2") && !error.is_outage(), "{said}");
        assert_eq!(peer.asked().len(), 1, "it is not asked again");
    }
}

#[tokio::test]
async fn who_is_away_for_a_moment_is_asked_again_and_who_stays_away_is_named() {
    let broken = || Some((500, json!({ "__type": "KMSInternalException" })));
    let (peer, address) = Peer::saying(vec![broken(), refusal("ThrottlingException"), key(32)]).await;
    assert_eq!(kms(address, Patience::default()).check().await.unwrap(), "arn:1");
    assert_eq!(peer.asked().len(), 4);

    let (peer, address) = Peer::saying(vec![broken()]).await;
    let error = kms(address, Patience::default()).generate().await.err().unwrap();
    assert!(error.is_outage() && error.to_string().contains("KMSInternalException"), "{error}");
    assert_eq!(peer.asked().len(), ATTEMPTS as usize);

    let (_silent, address) = Peer::saying(vec![None]).await;
    let soon = Duration::from_millis(50);
    let patience = Patience { attempt: soon, ..Patience::default() };
    let error = kms(address, patience).generate().await.err().unwrap();
    assert!(error.is_outage() && error.to_string().contains("kms:alias/oriel"), "{error}");

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = kms(gone, Patience::default()).generate().await.err().unwrap();
    assert!(error.is_outage() && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    for says in [key(31), Some((200, json!({})))] {
        let (_peer, address) = Peer::saying(vec![says]).await;
        let kms = kms(address, Patience::default());
        assert!(matches!(kms.generate().await, Err(KmsError::Garbled(_))));
        assert!(matches!(kms.unseal(b"sealed", "arn:1").await, Err(KmsError::Garbled(_))));
    }
}

#[test]
fn a_key_is_named_with_what_the_environment_does_not_say() {
    let region = |text: &str| {
        let variable = |name: &str| (name == "AWS_REGION").then(|| "of-the-environment".to_owned());
        KmsKey::parse(text).map(|key| key.region(variable))
    };
    assert_eq!(region("kms:alias/oriel").unwrap(), "of-the-environment");
    assert_eq!(region("kms:arn:aws:kms:eu-west-1:1:key/2").unwrap(), "eu-west-1");
    assert_eq!(region("kms:arn:aws:kms:eu-west-1:1:key/2?region=eu-west-2").unwrap(), "eu-west-2");
    let whole = KmsKey::parse("kms:alias/a?region=r&endpoint=https://kms.example/&installation=i").unwrap();
    assert_eq!(KmsKey::parse(&whole.to_string()), Ok(whole));
    for wrong in [
        "kms:",
        "alias/oriel",
        "kms:a b",
        "kms:a?key=x",
        "kms:a?region=",
        "kms:a?endpoint=http://kms.example",
        "kms:a?endpoint=https://k:s@kms.example",
        "kms:a?endpoint=ftp://127.0.0.1",
    ] {
        assert_eq!(KmsKey::parse(wrong), Err(InvalidKmsKey), "{wrong}");
    }
    let key = KmsKey::parse("kms:a").unwrap();
    assert!(matches!(Kms::open(&key, |_| None), Err(KmsError::Credentials(_))));
    let elsewhere = |name: &str| here(name).or_else(|| (name == "AWS_ENDPOINT_URL").then(|| "http://kms".to_owned()));
    assert!(matches!(Kms::open(&key, elsewhere), Err(KmsError::Endpoint(_))));
}
