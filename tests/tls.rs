//! TLS on the listener: the program with a certificate, with another one after a signal, and what `doctor` says of it.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::Server;

/// A certificate for this machine in the two files; for who is to trust it.
fn write(folder: &Path) -> reqwest::Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("tls.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    reqwest::Certificate::from_pem(certificate.pem().as_bytes()).unwrap()
}

fn trusting(certificate: reqwest::Certificate) -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap()
}

#[tokio::test]
async fn the_server_speaks_tls_and_takes_a_renewed_certificate_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let first = trusting(write(folder.path()));
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let files = vec![("ORIEL_TLS_CERTIFICATE", path("tls.pem")), ("ORIEL_TLS_KEY", path("tls.key"))];
    let mut server = Server::start_among(files).await;
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let live = format!("{}/health/live", server.url);
    let answer = first.get(&live).send().await.unwrap();
    assert!(answer.status() == 200 && answer.headers().contains_key("strict-transport-security"), "{answer:?}");
    // Read to its end, the connection stays open.
    answer.text().await.unwrap();
    assert!(reqwest::get(live.replace("https", "http")).await.is_err(), "nothing is said in the clear");

    let renewed = trusting(write(folder.path()));
    server.hang_up();
    let began = Instant::now();
    // Each attempt is a connection of its own: until the signal is heard, none of them is trusted.
    while let Err(error) = renewed.get(&live).send().await {
        assert!(began.elapsed() < Duration::from_secs(60), "{error:?}");
    }
    let stays = first.get(&live).send().await.unwrap();
    assert_eq!(stays.status(), 200, "an open connection goes on");
    assert!(server.terminate().success());

    let flags = ["doctor", "--set", &format!("tls_certificate={}", path("tls.pem"))];
    let data = folder.path().join("data");
    let key = format!("tls_key={}", path("tls.key"));
    let said = server.oriel(&[&flags[..], &["--set", &key, "--data", data.to_str().unwrap()]].concat(), "");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.lines().any(|line| line.starts_with("ok       tls") && line.contains("is valid until")), "{said}");
}
