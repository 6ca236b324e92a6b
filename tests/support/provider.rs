//! Identity providers for the tests of federation: a real one, as a process (npm `oidc-provider`, in `tests/provider`),
//! and one inside the test that says whatever it is told to say.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::extract::{Form, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, redirect};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Where the providers send people back to. Nobody listens there: a test reads what would be sent.
pub const BACK: &str = "http://127.0.0.1:9/signed-in";
pub const CLIENT: &str = "oriel";
pub const SECRET: &str = "what the client shows: a+b%c";

const PATIENCE: Duration = Duration::from_secs(60);

/// What somebody comes back with.
#[derive(Clone, Debug)]
pub struct Back {
    pub code: String,
    pub state: String,
    pub iss: Option<String>,
}

impl Back {
    fn from(url: &str) -> Self {
        let url = reqwest::Url::parse(url).unwrap();
        let mut said: HashMap<String, String> = url.query_pairs().into_owned().collect();
        let mut take = |name: &str| said.remove(name);
        let (code, state, iss) = (take("code"), take("state"), take("iss"));
        Self { code: code.unwrap_or_else(|| panic!("{url}")), state: state.unwrap(), iss }
    }
}

// --- a real one ----------------------------------------------------------------------------------------------------

/// Dropped: killed.
pub struct Provider {
    process: Child,
    said: Receiver<String>,
    pub issuer: String,
    people: TempDir,
}

impl Provider {
    /// Nothing when what it needs is not installed, which is said on the console and is a failure with
    /// `ORIEL_REQUIRE_SERVERS=1`.
    pub fn start() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/provider");
        let node = Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success());
        if !node || !folder.join("node_modules/oidc-provider").is_dir() {
            let missing = "Node.js 20 and `npm ci` in tests/provider are missing: no identity provider";
            assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "{missing}");
            eprintln!("not run: {missing}");
            return None;
        }
        let people = tempfile::tempdir().unwrap();
        let client = json!({ "client_id": CLIENT, "client_secret": SECRET, "redirect_uris": [BACK] });
        let mut process = Command::new("node")
            .arg("server.js")
            .current_dir(folder)
            .env("PEOPLE", people.path().join("people.json"))
            .env("CLIENT", client.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (says, said) = std::sync::mpsc::channel();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(|line| drop(says.send(line))));
        let mut this = Self { process, said, issuer: String::new(), people };
        this.issuer = this.said.recv_timeout(PATIENCE).unwrap();
        Some(this)
    }

    /// Whom it knows from now on, and what it says of them.
    pub fn knows(&self, people: &Value) {
        std::fs::write(self.people.path().join("people.json"), people.to_string()).unwrap();
    }

    /// It has other keys, and those alone.
    pub fn rotate(&self) {
        assert!(Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status().unwrap().success());
        assert_eq!(self.said.recv_timeout(PATIENCE).unwrap(), "other keys");
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// What a browser does that is sent there: somebody signs in as this, agrees, and is sent back.
    pub async fn visit(&self, authorization_url: &str, login: &str) -> Back {
        let browser = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        let mut cookies = BTreeMap::new();
        let mut next = authorization_url.to_owned();
        let mut asked = 0;
        for _ in 0..20 {
            if next.starts_with(BACK) {
                return Back::from(&next);
            }
            let url = if next.starts_with('/') { format!("{}{next}", self.issuer) } else { next.clone() };
            let request = if url.contains("/interaction/") {
                let prompt = if asked == 0 { "login" } else { "consent" };
                asked += 1;
                let form = format!("prompt={prompt}&login={login}&password=any");
                browser.post(&url).header("content-type", "application/x-www-form-urlencoded").body(form)
            } else {
                browser.get(&url)
            };
            let jar = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
            let answer = request.header(COOKIE, jar).send().await.unwrap();
            keep(&answer, &mut cookies);
            let place = answer.headers().get(LOCATION).map(|place| place.to_str().unwrap().to_owned());
            next = match place {
                Some(place) => place.strip_prefix(&self.issuer).map_or(place.clone(), str::to_owned),
                None => panic!("{url}: {} {}", answer.status(), answer.text().await.unwrap()),
            };
        }
        panic!("it sends people round: {next}");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn keep(answer: &Response, cookies: &mut BTreeMap<String, String>) {
    for cookie in answer.headers().get_all(SET_COOKIE) {
        let cookie = cookie.to_str().unwrap();
        let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
        match value {
            "" => drop(cookies.remove(name)),
            value => drop(cookies.insert(name.to_owned(), value.to_owned())),
        }
    }
}

// --- one that says what it is told ---------------------------------------------------------------------------------

/// What it says to the next who brings a code, from the claims that would be right.
pub type Says = Box<dyn Fn(&Signer, Value) -> Value + Send>;

pub struct Scripted {
    pub issuer: String,
    shared: Arc<Shared>,
}

struct Shared {
    signer: Signer,
    issuer: String,
    /// The nonces by code, as they were asked for.
    asked: Mutex<HashMap<String, String>>,
    says: Mutex<Says>,
    /// What was brought to the token endpoint.
    brought: Mutex<Vec<HashMap<String, String>>>,
}

/// Its key.
pub struct Signer {
    key: EncodingKey,
    pub public: String,
}

impl Signer {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        Self { key: EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref()), public }
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(claims, Algorithm::EdDSA, &self.key)
    }

    pub fn sign_as(&self, claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> String {
        let mut header = Header::new(algorithm);
        header.kid = Some("scripted".to_owned());
        jsonwebtoken::encode(&header, claims, key).unwrap()
    }
}

impl Scripted {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            signer: Signer::new(),
            issuer: issuer.clone(),
            asked: Mutex::default(),
            says: Mutex::new(Box::new(|signer, claims| json!({ "id_token": signer.sign(&claims) }))),
            brought: Mutex::default(),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { issuer, shared }
    }

    /// What it says from now on.
    pub fn says(&self, says: impl Fn(&Signer, Value) -> Value + Send + 'static) {
        *self.shared.says.lock().unwrap() = Box::new(says);
    }

    /// Somebody signs in there and is sent back.
    pub fn visit(&self, authorization_url: &str) -> Back {
        let url = reqwest::Url::parse(authorization_url).unwrap();
        let said: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!((said["response_type"].as_str(), said["code_challenge_method"].as_str()), ("code", "S256"));
        let mut asked = self.shared.asked.lock().unwrap();
        let code = format!("code-{}", asked.len());
        asked.insert(code.clone(), said["nonce"].clone());
        Back { code, state: said["state"].clone(), iss: Some(self.issuer.clone()) }
    }

    /// How often somebody brought a code.
    pub fn exchanges(&self) -> usize {
        self.shared.brought.lock().unwrap().len()
    }
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let at = |path: &str| format!("{}{path}", shared.issuer);
    Json(json!({
        "issuer": shared.issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/jwks"),
        "authorization_response_iss_parameter_supported": true,
    }))
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": "scripted", "x": shared.signer.public });
    Json(json!({ "keys": [key] }))
}

async fn token(State(shared): State<Arc<Shared>>, Form(form): Form<HashMap<String, String>>) -> Json<Value> {
    let nonce = form.get("code").and_then(|code| shared.asked.lock().unwrap().get(code).cloned());
    shared.brought.lock().unwrap().push(form);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": shared.issuer, "aud": CLIENT, "sub": "eve", "nonce": nonce, "iat": now, "exp": now + 300,
        "email": "eve@example.org", "email_verified": true,
    });
    let says = shared.says.lock().unwrap();
    Json(says(&shared.signer, claims))
}
