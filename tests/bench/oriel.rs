//! The program, running.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::{self, Connection};

pub const PASSWORD: &str = "correct horse battery";

/// A server in a folder of its own. Dropped: killed.
pub struct Running {
    process: Child,
    folder: Arc<TempDir>,
    pub address: String,
    pub started_in: Duration,
    connections: Mutex<Vec<Connection>>,
    uploads: reqwest::Client,
}

impl Running {
    /// On SQLite, with the defaults.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), settings)
    }

    /// On the folder `data` in this one.
    pub fn start_in(folder: Arc<TempDir>, settings: &[(&str, &str)]) -> Self {
        let started = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_oriel"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--data"])
            .arg(folder.path().join("data"))
            .env_clear()
            .env("ORIEL_ACCESS_TOKEN_TTL", "1d")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let address = first_address(&mut process);
        Self {
            process,
            folder,
            address,
            started_in: started.elapsed(),
            connections: Mutex::default(),
            uploads: reqwest::Client::new(),
        }
    }

    /// Starts it again on the same data, with these settings.
    pub fn restart_with(self, settings: &[(&str, &str)]) -> Self {
        let folder = Arc::clone(&self.folder);
        drop(self);
        Self::start_in(folder, settings)
    }

    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// A folder on the server's disk.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("data/oriel.sqlite")
    }

    /// Over a connection that is kept; again, when there is too much to do.
    pub async fn post(&self, token: &str, body: &Value) -> Value {
        let request = load::request("/graphql", token, &body.to_string());
        loop {
            let kept = self.connections.lock().unwrap().pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(&self.address).await,
            };
            let answer: Value = serde_json::from_slice(connection.receive(&request).await).unwrap();
            self.connections.lock().unwrap().push(connection);
            let code = &answer["errors"][0]["extensions"]["code"];
            if code != "OVERLOADED" && code != "RATE_LIMITED" {
                assert!(answer.get("errors").is_none(), "{answer}");
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn register(&self) -> String {
        self.register_as("Bench").await
    }

    /// An organisation of this name, and its owner; the address is the name, at example.org.
    pub async fn register_as(&self, name: &str) -> String {
        let query =
            "mutation($input: RegisterInput!) { register(input: $input) { accessToken userErrors { message } } }";
        let email = format!("{}@example.org", name.to_lowercase());
        let input = json!({"organizationName": name, "name": name, "email": email, "password": PASSWORD});
        let answer = self.post("", &json!({"query": query, "variables": {"input": input}})).await;
        answer["data"]["register"]["accessToken"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Somebody else in the organisation of whoever has this token.
    pub async fn join(&self, owner: &str, name: &str, role: &str) -> String {
        let query = "mutation($input: MemberInviteInput!) { memberInvite(input: $input) { invitationToken userErrors { message } } }";
        let input = json!({"email": format!("{name}@example.org"), "roles": [role]});
        let answer = self.post(owner, &json!({"query": query, "variables": {"input": input}})).await;
        let input =
            json!({"token": answer["data"]["memberInvite"]["invitationToken"], "name": name, "password": PASSWORD});
        let query = "mutation($input: MemberAcceptInput!) { memberAccept(input: $input) { accessToken userErrors { message } } }";
        let answer = self.post("", &json!({"query": query, "variables": {"input": input}})).await;
        answer["data"]["memberAccept"]["accessToken"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// A number of `/metrics`: of its name with its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.address);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub async fn projects(&self, token: &str, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for n in 0..count {
            let query = "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id } } }";
            let input = json!({"key": format!("P{n}"), "name": format!("Project {n}")});
            let answer = self.post(token, &json!({"query": query, "variables": {"input": input}})).await;
            ids.push(answer["data"]["projectCreate"]["project"]["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    /// Calls a project `Name n`.
    pub async fn rename(&self, token: &str, project: &str, n: usize) {
        let query = "mutation($input: ProjectUpdateInput!) { projectUpdate(input: $input) { project { id name version } userErrors { message } position } }";
        let input = json!({"id": project, "name": format!("Name {n}")});
        let answer = self.post(token, &json!({"query": query, "variables": {"input": input}})).await;
        assert_eq!(answer["data"]["projectUpdate"]["userErrors"], json!([]));
    }

    /// Uploads a document and waits until the work on it is over; its id.
    pub async fn document(&self, token: &str, project: &str) -> String {
        let id = self.upload(token, project, "words.txt", "A document of a few words".to_owned()).await;
        self.documents_are_read(token).await;
        id
    }

    /// Waits until no document is being worked on.
    pub async fn documents_are_read(&self, token: &str) {
        let pending = json!({"query": "{ documents(filter: {status: {eq: PROCESSING}}) { totalCount } }"});
        while self.post(token, &pending).await["data"]["documents"]["totalCount"] != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Uploads a document; its id.
    pub async fn upload(&self, token: &str, project: &str, name: &str, text: String) -> String {
        let answer = self.try_upload(token, project, name, text).await.unwrap();
        let id = answer["data"]["documentUpload"]["document"]["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
        id.to_owned()
    }

    /// Uploads a document, which may be refused, before it was sent as well.
    pub async fn try_upload(&self, token: &str, project: &str, name: &str, text: String) -> reqwest::Result<Value> {
        let query = "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { document { id } userErrors { message } } }";
        let operations =
            json!({"query": query, "variables": {"input": {"projectId": project, "file": null}}}).to_string();
        let file = reqwest::multipart::Part::text(text).file_name(name.to_owned());
        let form = reqwest::multipart::Form::new()
            .text("operations", operations)
            .text("map", r#"{"0":["variables.input.file"]}"#)
            .part("0", file);
        let request =
            self.uploads.post(format!("http://{}/graphql", self.address)).header("graphql-require-preflight", "1");
        request.bearer_auth(token).multipart(form).send().await?.json().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address in the first line that a server prints.
pub fn first_address(process: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().rsplit("http://").next().unwrap().to_owned()
}
