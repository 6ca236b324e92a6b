//! `oriel serve`: everything composed, and ended in order.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oriel_backends::bus::Bus;
use oriel_backends::extraction::{Limits as ExtractionLimits, Program};
use oriel_engine::Engine;
use oriel_engine::rebuild::{Progress, ReadModelState, Verified};
use oriel_kernel::Position;
use oriel_reactors::{Limits as ReactorLimits, Parts as ReactorParts, Reactors};
use oriel_schema::endpoint::Endpoint;
use oriel_schema::passwords::Passwords;
use oriel_schema::services::{BackendState, ConsumerState, IndexFailure, Operations, Policy, QueueState, Services};
use oriel_schema::sessions::attempts::Attempts;
use oriel_schema::system::keys::wrap_anew;
use oriel_schema::system::read_models::Rebuilds;
use oriel_schema::tokens::{SETTLED, Tokens};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::backends::Backends;
use crate::connections::Connections;
use crate::doctor::{EXEMPT_IS_MENDED, exempt};
use crate::http::{HttpState, documents, router};
use crate::installation::{Installation, namespace};
use crate::listener::Terms;
use crate::settings::{Role, Settings};
use crate::telemetry::Metrics;
use crate::tls::Tls;
use crate::{demo, listener, nodes};

/// Why the server does not run.
pub type ServeError = Box<dyn std::error::Error + Send + Sync>;

/// Runs until it is told to stop.
pub async fn run(mut settings: Settings, with_demo: bool) -> ExitCode {
    match serve(&mut settings, with_demo).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the server does not run");
            eprintln!("oriel: {error}");
            ExitCode::FAILURE
        }
    }
}

/// This program as the child that reads documents.
///
/// # Errors
/// When it cannot be found.
pub fn reader_of_documents() -> std::io::Result<Program> {
    // In KiB: the allocator takes addresses for a gigabyte at once by itself, which is more than the child may have.
    Ok(Program::this()?.with_variable("MIMALLOC_ARENA_RESERVE", "16384"))
}

async fn serve(settings: &mut Settings, with_demo: bool) -> Result<(), ServeError> {
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}; choose another with --listen", settings.listen))?;
    // Port 0 means any: from here on it is the one that was given.
    settings.listen = listener.local_addr()?;
    let tls = match settings.tls() {
        Some(files) => Some(Tls::open(files).await?),
        None => None,
    };
    let metrics = Metrics::install()?;
    let stop = CancellationToken::new();
    let house = House::open(settings, reader_of_documents()?, &stop).await?;
    if let Some(role) = house.installation.engine.database().exempt_role().await? {
        tracing::warn!(%role, "{}. {EXEMPT_IS_MENDED}", exempt(&role));
    }
    let upkeep = tokio::spawn(metrics.clone().upkeep());
    let state = HttpState::new(house.endpoint.clone(), settings, Some(metrics), stop.clone())?;
    let made = if with_demo { Some(demo::make(&house.endpoint).await?) } else { None };

    let told = CancellationToken::new();
    tokio::spawn(told_to_stop(told.clone()));
    tokio::spawn(leave(told, state.clone(), settings.shutdown_delay, stop.clone()));
    tracing::info!(url = %settings.public_url(), listen = %settings.listen, data = %settings.data.display(),
        position = %house.installation.engine.feed().head(), "serving");
    println!("Oriel serves {}", settings.public_url());
    if let Some(made) = made {
        say_how_to_sign_in(&settings.public_url(), made.as_ref());
    }
    let following = tls.clone().map(|tls| tokio::spawn(tls.follow()));
    let room = (settings.max_connections, settings.max_connections_per_address, settings.trusted_proxies.clone());
    let terms = Terms { idle: settings.idle_timeout, room: Connections::new(room.0, room.1, room.2) };
    let serving = tokio::spawn(listener::serve(listener, tls, router(state), terms, stop.clone()));
    let engine = Arc::clone(&house.installation.engine);
    if stop.run_until_cancelled(engine.history_is_lost()).await.is_some() {
        // Nothing of what is kept here is the truth any more, and nothing more can be read: a new process begins with
        // what there is.
        let why = "the database lacks what was committed: a replica was promoted, or a backup restored, without it. \
                   This node ends, and has to be started anew; what it has kept is made anew from the log";
        return Err(why.into());
    }
    tracing::info!("stopping: running requests are finished, nothing new is taken");
    match tokio::time::timeout(settings.shutdown_grace, serving).await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!(grace = ?settings.shutdown_grace, "some requests were still running and are ended"),
    }
    upkeep.abort();
    if let Some(following) = following {
        following.abort();
    }
    house.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Lets balancers notice that this node is going before it takes nothing more.
async fn leave(told: CancellationToken, state: HttpState, delay: Duration, stop: CancellationToken) {
    told.cancelled().await;
    if !delay.is_zero() {
        tracing::info!(?delay, "told to stop: what comes is still taken, and /health/ready says that nothing should");
        state.leave();
        tokio::time::sleep(delay).await;
    }
    stop.cancel();
}

/// Everything that works, beside the transport.
pub struct House {
    /// The log and the backends.
    pub installation: Installation,
    /// What answers.
    pub endpoint: Endpoint,
    reactors: Arc<Reactors>,
}

impl House {
    /// Opens everything. `program`: the one that reads documents in child processes.
    ///
    /// # Errors
    /// What cannot be opened, and what to do.
    pub async fn open(settings: &Settings, program: Program, stop: &CancellationToken) -> Result<Self, ServeError> {
        let installation = Installation::open(settings).await?;
        let engine = Arc::clone(&installation.engine);
        let limits = ReactorLimits {
            extraction: ExtractionLimits {
                wall: settings.extraction_timeout,
                cpu: settings.extraction_timeout,
                memory_bytes: settings.extraction_memory,
                ..ExtractionLimits::default()
            },
            extractions: settings.extraction_workers,
            works: settings.role != Role::Api,
            retention: settings.retention(),
            ..ReactorLimits::default()
        };
        let reactors = Arc::new(Reactors::start(ReactorParts {
            engine: Arc::clone(&engine),
            blobs: installation.blobs.clone(),
            search: installation.search.clone(),
            scanner: installation.scanner.clone(),
            mail: installation.mail.clone(),
            base_url: settings.public_url(),
            program,
            limits,
        }));
        let bus = bus(settings, &engine)?;
        let backends = Backends {
            search: installation.search.clone(),
            blobs: installation.blobs.clone(),
            scanner: installation.scanner.clone(),
            mail: installation.mail.clone(),
            identity: installation.identity.clone(),
            redis: installation.redis.clone(),
            bus: bus.clone(),
        };
        tokio::spawn(backends.clone().beat(stop.clone()));
        let policy = policy(settings);
        let services = Services {
            tokens: Tokens::open(&engine).await?,
            passwords: Passwords::new(policy.password_memory_kib),
            attempts: Attempts::new(installation.redis.clone()),
            operations: Arc::new(Watched { engine: Arc::clone(&engine), reactors: Arc::clone(&reactors), backends }),
            rebuilds: Rebuilds::default(),
            blobs: installation.blobs.clone(),
            search: installation.search.clone(),
            identity: installation.identity.clone(),
            redis: installation.redis.clone(),
            engine: Arc::clone(&engine),
            documents: documents(settings),
            policy,
        };
        if let Some(bus) = bus {
            tokio::spawn(nodes::follow(Arc::clone(&engine), bus, stop.clone()));
        }
        tokio::spawn(forget_old_commands(Arc::clone(&engine), settings.idempotency_retention, stop.clone()));
        let services = Arc::new(services);
        tokio::spawn(wrap_anew(Arc::clone(&services)));
        tokio::spawn(renew_signing_keys(Arc::clone(&services), stop.clone()));
        Ok(Self { installation, endpoint: Endpoint::new(services), reactors })
    }

    /// Ends what runs, in order; nothing acknowledged is lost.
    pub async fn close(self) {
        self.endpoint.flush().await;
        self.reactors.stop().await;
        self.installation.engine.stop().await;
        self.installation.engine.database().clone().close().await;
    }
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        open_registration: settings.registration_is_open(),
        access_token_ttl: settings.access_token_ttl,
        refresh_token_ttl: settings.refresh_token_ttl,
        retention: settings.retention(),
        organization_grace: settings.organization_grace,
        password_memory_kib: Passwords::MEMORY_KIB,
        url_ttl: settings.download_url_ttl,
        max_file_size: settings.upload_max_size,
        scanner: settings.scanner_url.is_some(),
        live_pace: settings.live_pace,
        live_queries_per_viewer: settings.max_live_queries_per_viewer,
        cache_bytes: settings.cache_size,
        max_page: settings.max_page,
        at_least_wait: Duration::from_secs(5),
        base_url: settings.public_url(),
        relying_party: settings.relying_party(),
    }
}

/// The bus between nodes; none where one process owns the log.
fn bus(settings: &Settings, engine: &Engine) -> Result<Option<Bus>, ServeError> {
    if settings.redis_url.is_none() && !settings.is_postgres() {
        return Ok(None);
    }
    // Another installation, or the same after a restore, must not be heard.
    Ok(Some(Bus::open(settings.redis_url.as_ref().map(|url| url.expose()), &namespace(engine))?))
}

/// Every node knows a new key before it signs.
async fn renew_signing_keys(services: Arc<Services>, stop: CancellationToken) {
    let mut often = tokio::time::interval(SETTLED / 4);
    while stop.run_until_cancelled(often.tick()).await.is_some() {
        if let Err(error) = services.tokens.renew(&services.engine).await {
            tracing::warn!(%error, "the keys that tokens are signed with cannot be read at the moment");
        }
    }
}

async fn forget_old_commands(engine: Arc<Engine>, retention: Duration, stop: CancellationToken) {
    let mut hourly = tokio::time::interval(Duration::from_secs(3600));
    while stop.run_until_cancelled(hourly.tick()).await.is_some() {
        // A bounded number at a time, so that nobody waits for it.
        loop {
            match engine.forget_commands(engine.now() - retention).await {
                Ok(1000) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old commands cannot be forgotten at the moment");
                    break;
                }
            }
        }
    }
}

/// For `system`.
struct Watched {
    engine: Arc<Engine>,
    reactors: Arc<Reactors>,
    backends: Backends,
}

#[async_trait]
impl Operations for Watched {
    fn consumers(&self) -> Vec<ConsumerState> {
        let states = self.reactors.states().consumers.into_iter();
        let shown = states.map(|consumer| ConsumerState {
            name: consumer.name.to_owned(),
            position: consumer.position,
            state: consumer.state.as_str().to_owned(),
            last_error: consumer.last_error,
            set_aside: consumer.set_aside,
            lag: consumer.lag,
        });
        shown.collect()
    }

    fn queues(&self) -> Vec<QueueState> {
        let now = self.engine.now();
        let states = self.reactors.states().queues.into_iter();
        let shown = states.map(|queue| QueueState {
            name: queue.name,
            depth: queue.depth,
            running: queue.running,
            failed: queue.failed,
            oldest: queue.oldest.map(|since| (now - since).to_std().unwrap_or_default()),
        });
        shown.collect()
    }

    fn backends(&self) -> Vec<BackendState> {
        let index = self.reactors.states().consumers.into_iter().find(|consumer| consumer.name.contains("search"));
        let mut states = self.backends.states(index.and_then(|index| index.last_error));
        states.extend(self.engine.replica_states().into_iter().map(|replica| BackendState {
            name: replica.name,
            kind: "postgresql".to_owned(),
            healthy: replica.is_usable,
            last_error: replica.why_not,
            health: None,
        }));
        states
    }

    fn index_position(&self) -> Position {
        self.reactors.index_position()
    }

    fn index_states(&self) -> Vec<ReadModelState> {
        self.reactors.index_states()
    }

    async fn rebuild_index(&self, progress: Progress<'_>) -> Result<Position, IndexFailure> {
        Ok(self.reactors.rebuild_index(progress).await?)
    }

    async fn verify_index(&self) -> Result<Verified, IndexFailure> {
        Ok(self.reactors.verify_index().await?)
    }
}

fn say_how_to_sign_in(url: &str, made: Option<&demo::SignIn>) {
    match made {
        Some(demo::SignIn { email, password, access_token }) => println!(
            "\nThe demonstration is made. Open {url} and sign in:\n\n  e-mail address  {email}\n  password        {password}\n\n\
             or use this access token for the first minutes:\n\n  authorization: Bearer {access_token}\n"
        ),
        None => println!("There is something in this installation already: no demonstration is made."),
    }
}

/// SIGTERM of an operator, or Ctrl-C.
async fn told_to_stop(stop: CancellationToken) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be caught");
                let _ = tokio::signal::ctrl_c().await;
            }
        }
    }
    #[cfg(not(unix))]
    let _ = tokio::signal::ctrl_c().await;
    stop.cancel();
}
