//! The endpoint without a transport: an operation goes in, an answer or a stream of answers comes out.
//!
//! Here the viewer is resolved to values; a query is answered from what is kept or executed, and a live query is
//! executed again when something that it has read was touched. Transports (HTTP, WebSocket, SSE) and tests call
//! nothing else.

mod answer;
mod cache;
mod execution;
mod live;
mod operation;
mod patch;
mod shared;
#[cfg(test)]
mod tests;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_graphql::Value;
use futures::{Stream, StreamExt};
use oriel_domain::api_keys::ApiKeyId;
use oriel_engine::live::{Tick, Watch};
use oriel_engine::read::{Dependency, Recorder, Source};
use oriel_kernel::{Credential, Position, SessionId, Timestamp, Viewer};
use oriel_read_models::api_keys::uses;
use oriel_read_models::documents::Contents;
use oriel_read_models::events::Payloads;
use oriel_read_models::installation;
use oriel_read_models::viewer::{ViewerRow, resolve};
use uuid::Uuid;

pub use self::answer::{Answer, Data, code};
pub use self::cache::CacheReport;
pub use self::operation::{Document, Kind, Operation, Unclear};

pub(crate) use self::cache::Cache;
pub(crate) use self::execution::{SUSPENDED, TOKEN_ENDED, ended, signed_in_until};
use self::execution::{Scope, Who};
use self::live::Hub;
use self::shared::Shared;
use crate::OrielSchema;
use crate::access_log::{AccessLog, Note};
use crate::api_keys::secret;
use crate::contents::{BlobContents, LogPayloads};
use crate::events::known;
use crate::services::Services;
use crate::uploads::Uploads;
use crate::validation::SchemaIsHidden;

/// How long a position that this node has not seen is waited for before the log is asked whether there is one.
const SOON: Duration = Duration::from_millis(300);

/// What a transport knows of a request.
#[derive(Clone, Default)]
pub struct Caller {
    /// The id of the request's trace, which is that of the request unless its client named another.
    pub request: Uuid,
    /// By what they are known: the session that the access token names, which was verified, or a key.
    pub credential: Option<Credential>,
    /// When the access token ends; nothing for a key. What goes on longer (a live query, a socket) goes on while its
    /// session was given another one in time.
    pub token_ends: Option<Timestamp>,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's name for itself.
    pub user_agent: Option<String>,
    /// The answer has to see at least this.
    pub at_least: Option<Position>,
    /// The files of a multipart request.
    pub uploads: Uploads,
    /// They may not see the schema: nothing of it is suggested to them.
    pub schema_is_hidden: bool,
}

/// How somebody stands who stays.
pub struct Standing {
    /// When they are signed out if nothing happens: when their access token ends, or the last one that their session was
    /// given. `None`: nobody is signed in, or for as long as the session goes on.
    pub until: Option<Timestamp>,
    /// Hears when something happens that they are known by: a session ends, a key is revoked, roles change. `None`:
    /// nobody is signed in.
    pub watch: Option<Watch>,
}

/// How often the use of a key is noted.
const USE_IS_NOTED_EVERY: Duration = Duration::from_secs(60);

/// Why a bearer token is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidToken;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    schema: OrielSchema,
    services: Arc<Services>,
    contents: Arc<dyn Contents>,
    payloads: Arc<dyn Payloads>,
    viewers: moka::sync::Cache<Credential, Arc<Known>>,
    maintenance: Arc<ArcSwapOption<Maintenance>>,
    /// What tokens say whose signature was checked, by their hash: only whether they have ended is asked again.
    verified: moka::sync::Cache<[u8; 32], (SessionId, Timestamp)>,
    /// When the use of a key was last noted.
    used: moka::sync::Cache<ApiKeyId, Timestamp>,
    cache: Arc<Cache>,
    access: AccessLog,
    /// Whether queries may be read from replicas of the database.
    asks_replicas: bool,
    shared: Option<Shared>,
    hub: Hub,
}

/// A viewer that was resolved.
struct Known {
    since: Tick,
    row: Arc<ViewerRow>,
    /// What everyone has in common who sees the same.
    scope: Scope,
}

/// Whether the installation is under maintenance, as it was read.
struct Maintenance {
    since: Tick,
    dependency: Dependency,
    is_on: bool,
}

/// A stream of answers.
pub type Answers = Pin<Box<dyn Stream<Item = Answer> + Send>>;

impl Endpoint {
    /// The endpoint over these services.
    pub fn new(services: Arc<Services>) -> Self {
        let bytes = services.policy.cache_bytes;
        Self::keeping(services, bytes)
    }

    /// The same, which keeps this many bytes of answers; with none it reads everything anew for each execution, who
    /// is asking too, and where it was written.
    pub fn keeping(services: Arc<Services>, bytes: u64) -> Self {
        let schema = crate::schema().data(services.policy.retention).data(Arc::clone(&services)).finish();
        Self {
            schema,
            contents: Arc::new(BlobContents::new(Arc::clone(&services))),
            payloads: Arc::new(LogPayloads::new(Arc::clone(&services))),
            cache: Arc::new(Cache::new(bytes)),
            access: AccessLog::start(Arc::clone(&services.engine)),
            // Who keeps nothing reads everything anew.
            shared: services.redis.clone().filter(|_| bytes > 0).map(Shared::new),
            asks_replicas: bytes > 0,
            hub: Hub::default(),
            maintenance: Arc::default(),
            services,
            viewers: moka::sync::Cache::new(if bytes > 0 { 50_000 } else { 0 }),
            verified: moka::sync::Cache::new(50_000),
            used: moka::sync::Cache::new(50_000),
        }
    }

    /// What the resolvers use.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// What the cache of answers has done.
    pub fn cache_report(&self) -> CacheReport {
        self.cache.report()
    }

    /// By whom a bearer token is sent, and when it ends by itself. Whether the session (or the key, and with this
    /// secret) still lives is asked at each execution.
    ///
    /// # Errors
    /// When the token is not one of ours, or has ended.
    pub fn authenticate(&self, token: &str) -> Result<(Credential, Option<Timestamp>), InvalidToken> {
        if token.starts_with(secret::PREFIX) {
            return secret::read(token).map(|credential| (credential, None)).ok_or(InvalidToken);
        }
        let now = self.services.engine.now();
        let hash = operation::sha256(token.as_bytes());
        if let Some((session, ends)) = self.verified.get(&hash) {
            return if ends > now { Ok((Credential::Session(session), Some(ends))) } else { Err(InvalidToken) };
        }
        let claims = self.services.tokens.verify(token, now).ok_or(InvalidToken)?;
        let ends = Timestamp::from_timestamp_secs(claims.exp).ok_or(InvalidToken)?;
        self.verified.insert(hash, (claims.sid, ends));
        Ok((Credential::Session(claims.sid), Some(ends)))
    }

    /// How the caller stands: until when they are signed in, and what ends that earlier.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when that is over.
    pub async fn standing(&self, caller: &Caller) -> Result<Standing, async_graphql::Error> {
        let who = self.who(caller).await?;
        let watch = who.row.is_some().then(|| self.watch(&who));
        Ok(Standing { until: who.until, watch })
    }

    /// Who this is, from the cache while nothing touched it. `Ok(None)`: the session has ended, the key is not good.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn viewer(&self, credential: Credential) -> Result<Option<Arc<ViewerRow>>, async_graphql::Error> {
        Ok(self.known(credential).await?.map(|known| Arc::clone(&known.row)))
    }

    /// Why nobody acts with this credential: `ORGANIZATION_SUSPENDED`, or `UNAUTHENTICATED`.
    pub async fn refusal(&self, credential: Credential) -> async_graphql::Error {
        ended(&self.services.engine, credential).await
    }

    async fn known(&self, credential: Credential) -> Result<Option<Arc<Known>>, async_graphql::Error> {
        let engine = &self.services.engine;
        let (tracker, now) = (engine.tracker(), engine.now());
        if engine.feed().is_current()
            && let Some(known) = self.viewers.get(&credential)
            && known.row.expires_at > now
            && tracker.valid(known.since, &known.row.dependencies)
        {
            self.note_use(&known.row.viewer, now);
            return Ok(Some(known));
        }
        let since = tracker.tick();
        let row = resolve(engine.database().reader(), credential, now).await.map_err(crate::access::unavailable)?;
        let Some(row) = row.map(Arc::new) else { return Ok(None) };
        let scope = Scope::of(&row.viewer);
        let known = Arc::new(Known { since, row, scope });
        self.viewers.insert(credential, Arc::clone(&known));
        self.note_use(&known.row.viewer, now);
        Ok(Some(known))
    }

    /// Whether only operators change anything, from memory while nothing touched it.
    async fn is_under_maintenance(&self) -> Result<bool, async_graphql::Error> {
        let engine = &self.services.engine;
        if engine.feed().is_current()
            && let Some(known) = self.maintenance.load_full()
            && engine.tracker().valid(known.since, [&known.dependency])
        {
            return Ok(known.is_on);
        }
        let (since, dependency) = (engine.tracker().tick(), installation::dependency());
        let settings = installation::current(engine.database().reader()).await.map_err(crate::access::unavailable)?;
        let is_on = settings.maintenance;
        self.maintenance.store(Some(Arc::new(Maintenance { since, dependency, is_on })));
        Ok(is_on)
    }

    /// Notes that a key is used, at most once a minute and without keeping anybody waiting.
    fn note_use(&self, viewer: &Viewer, now: Timestamp) {
        let Credential::ApiKey { key, .. } = viewer.credential else { return };
        let (key, organization) = (ApiKeyId::from_uuid(key), viewer.organization);
        if self.used.get(&key).is_some_and(|noted| now < noted + USE_IS_NOTED_EVERY) {
            return;
        }
        self.used.insert(key, now);
        let database = self.services.engine.database().clone();
        tokio::spawn(async move {
            if let Err(error) = uses::note(database.writer(), organization, key, now).await {
                tracing::warn!(%error, %key, "the use of a key could not be noted");
            }
        });
    }

    /// Executes a query or a mutation.
    pub async fn execute(&self, operation: Operation, caller: Caller) -> Answer {
        let (note, credential) = (operation.note(), caller.credential);
        let answer = match operation.kind() {
            Kind::Query => self.query(&Arc::new(operation), &caller).await,
            Kind::Mutation | Kind::Subscription => self.change(operation, &caller).await,
        };
        self.note_reading(note, credential);
        answer
    }

    /// Notes that something sensitive was read, without keeping anybody waiting.
    fn note_reading(&self, note: Option<Note>, credential: Option<Credential>) {
        let (Some(note), Some(credential)) = (note, credential) else { return };
        if let Some(known) = self.viewers.get(&credential) {
            self.access.note(&known.row.viewer, &note);
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            if let Ok(Some(known)) = this.known(credential).await {
                this.access.note(&known.row.viewer, &note);
            }
        });
    }

    /// Waits until every reading that was noted is written down.
    pub async fn flush(&self) {
        self.access.flush().await;
    }

    /// The access log, for tests.
    #[cfg(test)]
    pub(crate) fn access_log(&self) -> &AccessLog {
        &self.access
    }

    /// Executes any operation: a subscription gives many answers, all else one.
    pub fn execute_stream(&self, operation: Operation, caller: Caller) -> Answers {
        let this = self.clone();
        if operation.kind() != Kind::Subscription {
            return Box::pin(futures::stream::once(async move { this.execute(operation, caller).await }));
        }
        self.note_reading(operation.note(), caller.credential);
        match operation.live() {
            Some((key, query)) => {
                let wants_patches = operation.extensions().get("livePatch") == Some(&Value::Boolean(true));
                this.live(key, query, wants_patches, caller)
            }
            None => this.subscribe(operation, caller),
        }
    }

    /// A mutation, or what claims to be something with one answer.
    async fn change(&self, operation: Operation, caller: &Caller) -> Answer {
        let prepared = async {
            self.wait_for(caller.at_least).await?;
            let mut who = self.who(caller).await?;
            who.maintenance = self.is_under_maintenance().await?;
            Ok::<_, async_graphql::Error>(who)
        };
        let who = match prepared.await {
            Ok(who) => who,
            Err(refused) => return Answer::refused(refused),
        };
        let pool = Source::Pool(self.services.engine.database().reader().clone());
        let mut request = self.with_data(operation.into_request(), pool, &who, caller, &Arc::default());
        if caller.schema_is_hidden {
            request = request.data(SchemaIsHidden);
        }
        self.with_position(self.schema.execute(request).await.into())
    }

    /// A subscription other than `live`.
    fn subscribe(self, operation: Operation, caller: Caller) -> Answers {
        Box::pin(async_stream::stream! {
            let prepared = async {
                self.wait_for(caller.at_least).await?;
                self.who(&caller).await
            };
            let who = match prepared.await {
                Ok(who) => who,
                Err(refused) => {
                    yield Answer::refused(refused);
                    return;
                }
            };
            let pool = Source::Pool(self.services.engine.database().reader().clone());
            let recorder: Arc<Recorder> = Arc::default();
            let request = self.with_data(operation.into_request(), pool, &who, &caller, &recorder);
            let mut answers = self.schema.execute_stream(request).boxed();
            while let Some(answer) = answers.next().await {
                yield self.with_position(answer.into());
            }
        })
    }

    /// Waits, bounded, until this node has applied the position that the client has seen.
    async fn wait_for(&self, at_least: Option<Position>) -> Result<(), async_graphql::Error> {
        let Some(position) = at_least else { return Ok(()) };
        let engine = &self.services.engine;
        if engine.feed().head() >= position {
            return Ok(());
        }
        if tokio::time::timeout(SOON, engine.feed().reached(position)).await.is_ok() {
            return Ok(());
        }
        // It comes, or there is none: what was promoted or restored may lack it.
        known(&self.services, position).await.map(drop)
    }

    /// Hears when they are somebody else.
    fn watch(&self, who: &Who) -> Watch {
        let dependencies = who.row.as_ref().map(|row| row.dependencies.clone()).unwrap_or_default();
        self.services.engine.tracker().watch(who.since, dependencies)
    }

    /// Until they are signed out by time; that may have been put off by then.
    async fn expired(&self, who: &Who) {
        match who.until {
            Some(until) => tokio::time::sleep((until - self.services.engine.now()).to_std().unwrap_or_default()).await,
            None => pending().await,
        }
    }

    fn with_position(&self, mut answer: Answer) -> Answer {
        let position = self.services.engine.feed().head();
        answer.extensions.insert("position".to_owned(), Value::String(position.to_string()));
        answer
    }
}
