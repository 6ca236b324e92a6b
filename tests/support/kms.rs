//! A key management service for one test: moto, an AWS of other people's making. It checks no signatures.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Environment;

const REGION: &str = "eu-central-1";
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a free port. Its keys are gone with it.
pub struct Kms {
    process: Child,
    pub endpoint: String,
}

impl Kms {
    /// `None` when moto is not installed, which is said on the console and is a failure with `ORIEL_REQUIRE_SERVERS=1`.
    pub fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let Ok(process) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            let missing = "moto_server is missing (PyPI: moto, flask, flask-cors): no KMS";
            assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "{missing}");
            eprintln!("not run: {missing}");
            return None;
        };
        let this = Self { process, endpoint: format!("http://127.0.0.1:{port}") };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "moto does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(this)
    }

    /// A new key with this alias; its ARN.
    pub async fn make(&self, alias: &str) -> String {
        let key = self.ask("CreateKey", json!({})).await["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
        self.ask("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": key })).await;
        key
    }

    async fn ask(&self, what: &str, body: Value) -> Value {
        let signed = format!("AWS4-HMAC-SHA256 Credential=a/20260101/{REGION}/kms/aws4_request, Signature=b");
        let request = reqwest::Client::new()
            .post(&self.endpoint)
            .header("x-amz-target", format!("TrentService.{what}"))
            .header("content-type", "application/x-amz-json-1.1")
            .header("authorization", signed);
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{what}: {}", answer.status());
        serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default()
    }

    /// The settings of a node whose master key is sealed by the key with this alias.
    pub fn environment(&self, alias: &str) -> Environment {
        let credentials = [("AWS_ACCESS_KEY_ID", "AKIAORIEL"), ("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-kms")];
        let credentials = credentials.map(|(name, value)| (name, value.to_owned()));
        credentials.into_iter().chain([("ORIEL_MASTER_KEY", self.key(alias))]).collect()
    }

    /// What the settings call the key with this alias.
    pub fn key(&self, alias: &str) -> String {
        format!("kms:{alias}?region={REGION}&installation=test&endpoint={}", self.endpoint)
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
