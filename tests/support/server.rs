//! The program `oriel serve`, in a folder and on a port of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A running server. Dropped: killed.
pub struct Server {
    process: Child,
    pub url: String,
    folder: Arc<TempDir>,
    program: PathBuf,
    environment: Environment,
    pub log: Arc<Mutex<Vec<String>>>,
}

/// Somebody who is signed in.
#[derive(Clone)]
pub struct Session {
    pub url: String,
    pub token: String,
    pub http: reqwest::Client,
}

/// Settings by their variables.
pub type Environment = Vec<(&'static str, String)>;

const PATIENCE: Duration = Duration::from_secs(60);

/// The program that is tested: the one that was built with the tests, or the one that `ORIEL_TEST_BINARY` names.
pub fn program() -> PathBuf {
    std::env::var_os("ORIEL_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_oriel").into(), PathBuf::from)
}

impl Server {
    /// A server on an empty installation.
    pub async fn start(database: Option<String>) -> Self {
        Self::start_with(database, &[]).await
    }

    pub async fn start_with(database: Option<String>, flags: &[&str]) -> Self {
        let environment = database.map(|url| ("ORIEL_DATABASE_URL", url)).into_iter().collect();
        Self::start_in(program(), Arc::new(tempfile::tempdir().unwrap()), environment, flags).await
    }

    /// A server with a data folder of its own and these settings.
    pub async fn start_among(environment: Environment) -> Self {
        Self::start_as(program(), environment).await
    }

    /// The same with this program.
    pub async fn start_as(program: PathBuf, environment: Environment) -> Self {
        Self::start_in(program, Arc::new(tempfile::tempdir().unwrap()), environment, &[]).await
    }

    /// A server on the folder `data` in this one.
    pub async fn start_on(folder: TempDir) -> Self {
        Self::start_in(program(), Arc::new(folder), Environment::new(), &[]).await
    }

    async fn start_in(program: PathBuf, folder: Arc<TempDir>, environment: Environment, flags: &[&str]) -> Self {
        let mut command = Command::new(&program);
        command.arg("serve").args(["--listen", "127.0.0.1:0", "--log-format", "json"]).args(flags);
        command.arg("--data").arg(folder.path().join("data")).env_clear();
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (found, address) = std::sync::mpsc::channel();
        for stream in [
            Box::new(process.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
            Box::new(process.stderr.take().unwrap()),
        ] {
            let (log, found) = (Arc::clone(&log), found.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    for scheme in ["http", "https"] {
                        if let Some((_, rest)) = line.split_once(&format!("{scheme}://127.0.0.1:")) {
                            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                            let _ = found.send(format!("{scheme}://127.0.0.1:{port}"));
                        }
                    }
                    log.lock().unwrap().push(line);
                }
            });
        }
        drop(found);
        let url = tokio::task::spawn_blocking(move || address.recv_timeout(PATIENCE)).await.unwrap();
        let url = url.unwrap_or_else(|_| panic!("the server does not listen: {:#?}", log.lock().unwrap()));
        Self { process, url, folder, program, environment, log }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Lets it stand still where it is; its connections stay open.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Tells it that its files have changed.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// The most memory that it has ever used, in bytes.
    pub fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()).unwrap();
        most.parse::<u64>().unwrap() << 10
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal("-TERM");
        self.process.wait().unwrap()
    }

    /// Waits until it ends by itself.
    pub async fn ends(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until it has said this: what it says arrives a moment later, also when it has ended.
    pub async fn says(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log.lock().unwrap().iter().any(|line| line.contains(text)) {
            assert!(Instant::now() < deadline, "it does not say {text}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Starts it again on the same data.
    pub async fn restart(self) -> Self {
        self.restart_with(&[]).await
    }

    /// Starts it again on the same data, with other settings.
    pub async fn restart_with(self, flags: &[&str]) -> Self {
        let program = self.program.clone();
        self.restart_as(program, flags).await
    }

    /// Starts it again on the same data, as this program.
    pub async fn restart_as(self, program: PathBuf, flags: &[&str]) -> Self {
        let (folder, environment) = (Arc::clone(&self.folder), self.environment.clone());
        drop(self);
        Self::start_in(program, folder, environment, flags).await
    }

    /// Starts it again on the same data, with other variables.
    pub async fn restart_among(self, environment: Environment) -> Self {
        let (program, folder) = (self.program.clone(), Arc::clone(&self.folder));
        drop(self);
        Self::start_in(program, folder, environment, &[]).await
    }

    /// A folder beside the data, for whatever a test wants to keep.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new organisation and its owner.
    pub async fn register(&self, name: &str) -> Session {
        let anonymous = Session { url: self.url.clone(), token: String::new(), http: reqwest::Client::new() };
        let email = format!("{}@example.org", name.to_lowercase());
        let input = json!({"organizationName": name, "name": format!("{name} Owner"), "email": email, "password": "correct horse battery"});
        let answer = anonymous
            .ask(
                "mutation($input: RegisterInput!) { register(input: $input) { accessToken userErrors { message } } }",
                json!({"input": input}),
            )
            .await;
        let token = answer["register"]["accessToken"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Session { token, ..anonymous }
    }

    /// The program's other commands, against this server.
    pub fn oriel(&self, arguments: &[&str], token: &str) -> std::process::Output {
        Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .env("ORIEL_URL", &self.url)
            .env("ORIEL_TOKEN", token)
            .output()
            .unwrap()
    }

    pub fn spawn_oriel(&self, arguments: &[&str], token: &str) -> Child {
        Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .env("ORIEL_URL", &self.url)
            .env("ORIEL_TOKEN", token)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            let tail = log.len().saturating_sub(40);
            let _ = writeln!(std::io::stderr(), "--- the server's log ---\n{}", log[tail..].join("\n"));
        }
    }
}

impl Session {
    /// The whole answer.
    pub async fn raw(&self, query: &str, variables: Value) -> Value {
        let mut request =
            self.http.post(format!("{}/graphql", self.url)).json(&json!({"query": query, "variables": variables}));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        request.send().await.unwrap().json().await.unwrap()
    }

    /// The data of an answer without errors.
    pub async fn ask(&self, query: &str, variables: Value) -> Value {
        let answer = self.raw(query, variables).await;
        assert!(answer.get("errors").is_none(), "{query}\n{answer:#}");
        answer["data"].clone()
    }

    /// Invites somebody with this role, who accepts.
    pub async fn join(&self, name: &str, role: &str) -> Self {
        let input = json!({ "email": format!("{}@example.org", name.to_lowercase()), "roles": [role] });
        let query = "mutation($input: MemberInviteInput!) { memberInvite(input: $input) { invitationToken userErrors { message } } }";
        let answer = self.ask(query, json!({ "input": input })).await;
        let token = &answer["memberInvite"]["invitationToken"];
        let input = json!({ "token": token, "name": name, "password": "correct horse battery" });
        let query = "mutation($input: MemberAcceptInput!) { memberAccept(input: $input) { accessToken userErrors { message } } }";
        let answer = Self { token: String::new(), ..self.clone() }.ask(query, json!({ "input": input })).await;
        let token = answer["memberAccept"]["accessToken"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Self { token, ..self.clone() }
    }

    /// The same with a key that has these scopes.
    pub async fn with_key(&self, scopes: &[&str]) -> Self {
        let query =
            "mutation($input: ApiKeyCreateInput!) { apiKeyCreate(input: $input) { secret userErrors { message } } }";
        let answer = self.ask(query, json!({ "input": { "name": "A program", "scopes": scopes } })).await;
        let token = answer["apiKeyCreate"]["secret"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Self { token, ..self.clone() }
    }

    /// Makes a role that lets documents be seen.
    pub async fn create_role(&self, name: &str) {
        let query = "mutation($input: RoleCreateInput!) { roleCreate(input: $input) { userErrors { message } } }";
        let answer = self.ask(query, json!({ "input": { "name": name, "permissions": ["documents:view"] } })).await;
        assert_eq!(answer["roleCreate"]["userErrors"], json!([]), "{answer}");
    }

    pub async fn create_project(&self, key: &str) -> String {
        let query = "mutation($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id } userErrors { message } } }";
        let answer = self.ask(query, json!({"input": {"key": key, "name": format!("Project {key}")}})).await;
        answer["projectCreate"]["project"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Uploads a file; the payload.
    pub async fn upload(&self, project: &str, file_name: &str, content: Vec<u8>) -> Value {
        let query = "mutation($input: DocumentUploadInput!) { documentUpload(input: $input) { document { id status } userErrors { code message } position } }";
        let operations =
            json!({"query": query, "variables": {"input": {"projectId": project, "file": null}}}).to_string();
        let form = reqwest::multipart::Form::new()
            .text("operations", operations)
            .text("map", r#"{"0":["variables.input.file"]}"#)
            .part("0", reqwest::multipart::Part::bytes(content).file_name(file_name.to_owned()));
        let request = self.http.post(format!("{}/graphql", self.url)).header("graphql-require-preflight", "1");
        let answer: Value =
            request.bearer_auth(&self.token).multipart(form).send().await.unwrap().json().await.unwrap();
        answer["data"]["documentUpload"].clone()
    }

    /// Asks until `done` holds: over HTTP nothing tells a test when to look. Bounded.
    pub async fn until(&self, query: &str, variables: Value, done: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, query, variables, done).await
    }

    /// The same with another patience: a server that was away too often is left alone for a minute.
    pub async fn until_within(
        &self,
        patience: Duration,
        query: &str,
        variables: Value,
        done: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.ask(query, variables.clone()).await;
            if done(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "it does not become true: {answer:#}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub async fn document_ends(&self, id: &str) -> Value {
        let query = "query($id: ID!) { document(id: $id) { status title pageCount language pipeline { stage state attempts reason } text(maxChars: 2000) } }";
        let answer = self.until(query, json!({"id": id}), |answer| answer["document"]["status"] != "PROCESSING").await;
        answer["document"].clone()
    }
}
