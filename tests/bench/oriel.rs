//! The program, running.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::load;

pub struct Running {
    process: Child,
    folder: TempDir,
    pub address: String,
    pub started_in: Duration,
    connections: Mutex<Vec<TcpStream>>,
}

impl Running {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_oriel"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data"])
            .arg(folder.path().join("data"))
            .env_clear()
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().to_owned();
        Self { process, folder, address, started_in: started.elapsed(), connections: Mutex::default() }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Resident memory now, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Over a connection that is kept.
    pub async fn post(&self, token: &str, body: &str) -> Value {
        let kept = self.connections.lock().unwrap().pop();
        let mut stream = match kept {
            Some(stream) => stream,
            None => TcpStream::connect(&self.address).await.unwrap(),
        };
        stream.set_nodelay(true).unwrap();
        let mut buffer = Vec::new();
        let request = match token {
            "" => {
                let text = String::from_utf8(load::request(&self.address, token, body)).unwrap();
                text.replace("authorization: Bearer \r\n", "").into_bytes()
            }
            _ => load::request(&self.address, token, body),
        };
        let answer: Value = serde_json::from_slice(load::exchange(&mut stream, &request, &mut buffer).await).unwrap();
        assert!(answer.get("errors").is_none(), "{answer}");
        self.connections.lock().unwrap().push(stream);
        answer
    }

    pub async fn register(&self) -> String {
        let query =
            "mutation($input: RegisterInput!) { register(input: $input) { accessToken userErrors { message } } }";
        let input = json!({"organizationName": "Bench", "name": "Bench", "email": "bench@example.org", "password": "correct horse battery"});
        let answer = self.post("", &json!({"query": query, "variables": {"input": input}}).to_string()).await;
        answer["data"]["register"]["accessToken"].as_str().unwrap().to_owned()
    }

    pub async fn projects(&self, token: &str, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for n in 0..count {
            let query = "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id } } }";
            let body = json!({"query": query, "variables": {"input": {"key": format!("P{n}"), "name": format!("Project {n}")}}});
            let answer = self.post(token, &body.to_string()).await;
            ids.push(answer["data"]["projectCreate"]["project"]["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    pub async fn rename(&self, token: &str, project: &str, n: usize) {
        let body = format!(
            r#"{{"query":"mutation {{ projectUpdate(input: {{id: \"{project}\", name: \"Name {n}\"}}) {{ project {{ id name version }} userErrors {{ message }} position }} }}"}}"#
        );
        let answer = self.post(token, &body).await;
        assert_eq!(answer["data"]["projectUpdate"]["userErrors"], json!([]));
    }

    pub async fn documents(&self, token: &str, project: &str, count: usize) {
        let http = reqwest::Client::new();
        for n in 0..count {
            let query = "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { document { id } userErrors { message } } }";
            let operations =
                json!({"query": query, "variables": {"input": {"projectId": project, "file": null}}}).to_string();
            let file = reqwest::multipart::Part::bytes(format!("Document number {n}").into_bytes())
                .file_name(format!("{n}.txt"));
            let form = reqwest::multipart::Form::new()
                .text("operations", operations)
                .text("map", r#"{"0":["variables.input.file"]}"#)
                .part("0", file);
            let request =
                http.post(format!("http://{}/graphql", self.address)).header("graphql-require-preflight", "1");
            let answer: Value = request.bearer_auth(token).multipart(form).send().await.unwrap().json().await.unwrap();
            assert!(answer["data"]["documentUpload"]["document"]["id"].is_string(), "{answer}");
        }
        // What is measured next is measured alone: the work on these is over.
        let pending = r#"{"query":"{ documents(filter: {status: {eq: PROCESSING}}) { totalCount } }"}"#;
        while self.post(token, pending).await["data"]["documents"]["totalCount"] != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn database(&self) -> std::path::PathBuf {
        self.folder.path().join("data/oriel.sqlite")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
