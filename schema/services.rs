//! What resolvers need besides the reader: the engine, the backends, and who is calling.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::Context;
use async_graphql::parser::types::ExecutableDocument;
use async_trait::async_trait;
use oriel_backends::blobs::Blobs;
use oriel_backends::identity::IdentityProviders;
use oriel_backends::redis::Redis;
use oriel_backends::resilience::Health;
use oriel_backends::search::Search;
use oriel_domain::retention::Rules;
use oriel_domain::users::webauthn::RelyingParty;
use oriel_engine::Engine;
use oriel_engine::read::Limits;
use oriel_engine::rebuild::{Progress, ReadModelState, Verified};
use oriel_kernel::{Credential, Position, Rejection, Timestamp, Viewer};
use uuid::Uuid;

use crate::passwords::Passwords;
use crate::sessions::attempts::Attempts;
use crate::system::read_models::Rebuilds;
use crate::tokens::Tokens;
use crate::uploads::Uploads;

/// Everything that outlives a request.
pub struct Services {
    /// The log and what moves along it.
    pub engine: Arc<Engine>,
    /// Files.
    pub blobs: Blobs,
    /// The search index.
    pub search: Search,
    /// Servers of organisations that say who somebody is.
    pub identity: IdentityProviders,
    /// What the nodes share for a moment; `None` where there is one.
    pub redis: Option<Arc<Redis>>,
    /// Access tokens and refresh tokens.
    pub tokens: Tokens,
    /// Hashes and checks passwords: `Passwords::new(policy.password_memory_kib)`.
    pub passwords: Passwords,
    /// Counts attempts to sign in.
    pub attempts: Attempts,
    /// What operators see of the parts that the schema does not know.
    pub operations: Arc<dyn Operations>,
    /// What this node rebuilds or verifies.
    pub rebuilds: Rebuilds,
    /// Reads documents within the limits of a request.
    pub documents: Arc<dyn DocumentReader>,
    /// What the settings say.
    pub policy: Policy,
}

/// What the settings say about requests.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whether everybody may register.
    pub open_registration: bool,
    /// How long an access token is valid.
    pub access_token_ttl: Duration,
    /// How long a session lives without a refresh.
    pub refresh_token_ttl: Duration,
    /// For how long what may be removed is kept.
    pub retention: Rules,
    /// How long an organisation goes on whose end was scheduled.
    pub organization_grace: Duration,
    /// How much memory hashing a password takes, in KiB; [`Passwords::MEMORY_KIB`] unless there is a reason.
    pub password_memory_kib: u32,
    /// How long a download or upload URL is valid.
    pub url_ttl: Duration,
    /// The largest file, in bytes.
    pub max_file_size: u64,
    /// Whether uploads are scanned for viruses.
    pub scanner: bool,
    /// How fast bursts reach a live query at most.
    pub live_pace: Duration,
    /// How many live queries one person may have open on this node.
    pub live_queries_per_viewer: usize,
    /// How many bytes of answers are kept.
    pub cache_bytes: u64,
    /// Items of a page at most.
    pub max_page: u32,
    /// How long a request waits for the position that it asks for.
    pub at_least_wait: Duration,
    /// What URLs of this server begin with, such as `http://127.0.0.1:8080`.
    pub base_url: String,
    /// The domain that passkeys belong to, and the origins that may ask for them; none where browsers reach the
    /// installation by an address alone.
    pub relying_party: Option<RelyingParty>,
}

/// Reads documents as the transport does, which has the limits of a request.
pub trait DocumentReader: Send + Sync {
    /// Parses a document.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED` when it is over a limit, `INVALID` when it is no document.
    fn read(&self, text: &str) -> Result<ExecutableDocument, Rejection>;
}

impl Policy {
    /// What a read may ask for at most.
    pub fn reading(&self) -> Limits {
        Limits { page: self.max_page, ..Limits::default() }
    }
}

/// What operators see of the parts that the schema does not know: consumers, queues and the index.
#[async_trait]
pub trait Operations: Send + Sync {
    /// Those who follow the log.
    fn consumers(&self) -> Vec<ConsumerState>;
    /// Work that waits.
    fn queues(&self) -> Vec<QueueState>;
    /// The backends and whether they answer.
    fn backends(&self) -> Vec<BackendState>;
    /// Where in the log the search index stands.
    fn index_position(&self) -> Position;
    /// The search index as one more read model: the generation that answers, and the one that is being built.
    fn index_states(&self) -> Vec<ReadModelState>;
    /// Builds the search index anew beside the running one, and switches.
    ///
    /// # Errors
    /// Why not; the running one is untouched.
    async fn rebuild_index(&self, progress: Progress<'_>) -> Result<Position, IndexFailure>;
    /// Compares the search index with one that is built anew.
    ///
    /// # Errors
    /// Why not.
    async fn verify_index(&self) -> Result<Verified, IndexFailure>;
}

/// Why the search index was not rebuilt or verified: for operators and the log.
pub type IndexFailure = Box<dyn std::error::Error + Send + Sync>;

/// One who follows the log.
#[derive(Clone, Debug)]
pub struct ConsumerState {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub position: Position,
    /// `running`, `retrying` or `stopped`.
    pub state: String,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Events that it set aside.
    pub set_aside: i64,
    /// How long it has been behind.
    pub lag: Duration,
}

/// Work of one kind.
#[derive(Clone, Debug)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Jobs that wait.
    pub depth: i64,
    /// Jobs that are being done.
    pub running: i64,
    /// Jobs that failed for good.
    pub failed: i64,
    /// How long the oldest has waited.
    pub oldest: Option<Duration>,
}

/// One backend.
#[derive(Clone, Debug)]
pub struct BackendState {
    /// What it is for: `search`, `blobs` …
    pub name: String,
    /// Which one it is: `tantivy`, `s3` …
    pub kind: String,
    /// Whether it answers.
    pub healthy: bool,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What stands between Oriel and a server of its own; `None` for what is inside the process.
    pub health: Option<Health>,
}

/// One request: who calls, from where, with which files.
#[derive(Clone)]
pub struct Meta {
    /// The id of the request's trace: the correlation of what it causes.
    pub request: Uuid,
    /// Who is signed in.
    pub viewer: Option<Arc<Viewer>>,
    /// By what they are known.
    pub credential: Option<Credential>,
    /// When their access token ends.
    pub token_ends: Option<Timestamp>,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's name for itself.
    pub user_agent: Option<String>,
    /// The files of a multipart request.
    pub uploads: Uploads,
    /// Whether the installation is under maintenance. Asked for what changes something, and for nothing else.
    pub maintenance: bool,
}

impl Services {
    /// Those of the running server.
    ///
    /// # Errors
    /// When the schema is executed without them: a defect.
    pub fn of<'a>(cx: &Context<'a>) -> Result<&'a Arc<Self>, async_graphql::Error> {
        cx.data_opt::<Arc<Self>>().ok_or_else(|| crate::access::internal("the schema is executed without services"))
    }
}

impl Meta {
    /// That of the current request.
    ///
    /// # Errors
    /// When the schema is executed without it: a defect.
    pub fn of<'a>(cx: &Context<'a>) -> Result<&'a Self, async_graphql::Error> {
        cx.data_opt::<Self>().ok_or_else(|| crate::access::internal("the schema is executed without a request"))
    }
}
