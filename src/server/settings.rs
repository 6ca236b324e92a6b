//! The settings: each one declared once, in the table below, with its default, what is allowed and what it is for.
//!
//! Invariants: a flag wins over a variable, a variable over the file, the file over the default. A wrong setting is
//! refused at the start, all wrong ones at once, with the name, the place it came from and what is allowed. A secret
//! is never printed. The printed default file, read back, gives the defaults.
//! Nothing here knows what a setting is used for, but for the few rules in [`Settings::check`].

mod print;
mod sources;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use oriel_domain::persisted_operations::OperationsMode;
use oriel_domain::retention::{RetentionKind, Rules};
use oriel_domain::roles::RoleName;
use oriel_domain::users::webauthn::RelyingParty;

use crate::tls::Files;

pub use print::{default_file, effective};
pub use sources::{Chosen, Flag, Loaded, Origin, SettingsError, Sources, load};
pub use value::{BackendUrl, Kind, MASK, MasterKeyAt, Network, RateLimit, Secret, mask_url};

use value::{
    address, backend_url, backend_urls, choice, domain, duration, folder, log_filter, mailbox, master_key, master_keys,
    networks, origins, path, rate_limit, roles, secret_text, size, web_url, whole,
};

/// Who may register an organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Open on a loopback listener, else by invitation.
    Auto,
    /// Everyone may.
    Open,
    /// Only who was invited.
    Invite,
}

/// Who may see the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntrospectionMode {
    /// Everyone.
    Everyone,
    /// Who is signed in.
    SignedIn,
    /// Nobody.
    Off,
}

/// What a node does, where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Both,
    /// It answers, and leaves the work that events lead to to others.
    Api,
    /// It does that work, and answers nobody.
    Worker,
}

/// How log records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One JSON object per line.
    Json,
    /// One line of text.
    Text,
}

/// What the table says about one setting.
pub struct Setting {
    /// The heading it stands under.
    pub section: &'static str,
    /// Its name in the file and after `--set`.
    pub key: &'static str,
    /// What it is for, a line each.
    pub doc: &'static [&'static str],
    /// The default, as one would write it.
    pub default: &'static str,
    /// What is allowed.
    pub allowed: String,
    /// Never to be printed.
    pub secret: bool,
}

impl Setting {
    /// Its name in the environment: `ORIEL_` and the key in capitals.
    pub fn variable(&self) -> String {
        variable(self.key)
    }
}

/// What the URL of a Redis begins with.
const REDIS: &[&str] = &["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

fn variable(key: &str) -> String {
    format!("ORIEL_{}", key.to_ascii_uppercase())
}

/// From one declaration per setting: the struct, the table and the reader of all values.
macro_rules! settings {
    ($($section:literal { $( $(#[doc = $doc:literal])+ $key:ident : $type:ty = $default:literal, $kind:expr; )+ })+) => {
        /// All settings, read and checked.
        #[derive(Debug, Clone)]
        pub struct Settings { $($( $(#[doc = $doc])+ pub $key: $type, )+)+ }

        /// Every setting, in the order of the printed file.
        pub fn table() -> Vec<Setting> {
            vec![$($({
                let kind: Kind<$type> = $kind;
                Setting {
                    section: $section,
                    key: stringify!($key),
                    doc: &[$($doc),+],
                    default: $default,
                    allowed: kind.allowed,
                    secret: kind.secret,
                }
            }),+),+]
        }

        impl Settings {
            /// Reads every chosen text; what is wrong is told to `wrong`, and then there are no settings.
            fn read(chosen: &mut sources::Choice, wrong: &mut Vec<String>) -> Option<Self> {
                $($( let $key: Option<$type> = chosen.read(stringify!($key), $default, &$kind, wrong); )+)+
                Some(Self { $($( $key: $key?, )+)+ })
            }
        }
    };
}

settings! {
    "Where Oriel listens and keeps its data" {
        /// The address and port of the one listener. Beyond loopback the defaults become stricter:
        /// registration by invitation, rate limit on, a master key wanted with PostgreSQL.
        listen: SocketAddr = "127.0.0.1:8080", address();
        /// The folder of everything embedded: database, blobs, index, outbox, keys. One process owns it.
        /// A file `oriel.toml` in it is read when no other is named.
        data: PathBuf = "./oriel-data", folder();
        /// How browsers reach this installation; it stands in mails and signed links.
        /// Empty: http:// and the listener's address.
        base_url: Option<String> = "", web_url();
        /// The domain that passkeys belong to: the host of base_url, or a domain that it ends with, such as example.org of
        /// api.example.org, so that pages of cors_origins in it can ask for them too. Passkeys of another one are lost.
        /// Empty: the host of base_url; localhost on a loopback listener.
        passkey_domain: Option<String> = "", domain();
        /// With this certificate the listener speaks TLS 1.3, and nothing else: a PEM file, with the certificates
        /// between it and its authority. A new one in its place is taken while the server runs. Empty: no TLS.
        tls_certificate: Option<PathBuf> = "", path("a file");
        /// The private key of the certificate, a PEM file.
        tls_key: Option<PathBuf> = "", path("a file");
        /// What this node does. both: everything. api: it answers. worker: it reads documents, sends mail and does what
        /// else events lead to; it listens for /health and /metrics alone. Of the last two there is at least one each.
        role: Role = "both", choice(&[("both", Role::Both), ("api", Role::Api), ("worker", Role::Worker)]);
        /// The folder of another page for / than the console, such as GraphiQL (see deploy/graphiql): its index.html,
        /// and what that loads from console/. Empty: the console.
        console_dir: Option<PathBuf> = "", path("a folder");
    }
    "Backends: embedded when empty, one URL each moves to production" {
        /// The log, the read models and the sessions. Empty: SQLite in the data folder. postgres://user@db1,db2/name
        /// names a primary and its replicas: the one that takes writes is used.
        database_url: Option<BackendUrl> = "", backend_url(&["postgres", "postgresql", "sqlite"]);
        /// Replicas of that PostgreSQL, from which queries are answered when they are far enough: URLs with commas between
        /// them. One that is away or lags is not asked.
        database_replica_url: Vec<BackendUrl> = "", backend_urls(&["postgres", "postgresql"]);
        /// Connections to the database, at most, of this node.
        database_max_connections: u32 = "16", whole(2, 1_000);
        /// How long one of them is waited for when all are in use; then the request is refused with UNAVAILABLE.
        database_acquire_timeout: Duration = "10s", duration("100ms", "5m");
        /// How long PostgreSQL works on a statement that reads, and a request_timeout at least.
        database_read_timeout: Duration = "30s", duration("1s", "1h");
        /// How long PostgreSQL works on a statement of a connection that writes.
        database_write_timeout: Duration = "60s", duration("1s", "1h");
        /// Search. Empty: an index in the data folder. Else Meilisearch.
        search_url: Option<BackendUrl> = "", backend_url(&["http"]);
        /// The key for Meilisearch.
        search_key: Option<Secret<String>> = "", secret_text();
        /// Files. Empty: a folder in the data folder. Else S3 or compatible: s3://bucket?endpoint=...
        blobs_url: Option<BackendUrl> = "", backend_url(&["s3", "file"]);
        /// The feed between nodes, shared cache and rate limits: redis://[user:password@]host:port/[number],
        /// redis+sentinel://[user:password@]host:port,host:port/name of the primary, or
        /// redis+cluster://[user:password@]host:port,host:port; rediss for TLS. Empty: inside the process, for one node.
        redis_url: Option<BackendUrl> = "", backend_url(REDIS);
        /// Mail. Empty: files in the data folder's outbox. Else smtp://user:password@host, which encrypts before anything
        /// is said (unless the host is this machine, or the URL ends with ?tls=none), or smtps:// for TLS at once.
        mail_url: Option<BackendUrl> = "", backend_url(&["smtp", "smtps"]);
        /// Whom mails are from.
        mail_from: String = "Oriel <oriel@localhost>", mailbox();
        /// The virus scanner: tcp://host:port of a clamd. Empty: files are not scanned, and each document says so.
        scanner_url: Option<BackendUrl> = "", backend_url(&["tcp"]);
        /// The largest file that is shown to the scanner: its StreamMaxLength. A larger one stays in quarantine until
        /// somebody releases it.
        scanner_max_size: u64 = "100MiB", size("1KiB", "4GiB");
    }
    "Access" {
        /// Wraps the installation's keys; all nodes need the same one. file: it is in master.key in the data folder.
        /// kms:alias/oriel?region=..&installation=..&endpoint=..: a key that the database holds, sealed by this key of a
        /// KMS. It is opened when a node starts. `installation` is the encryption context oriel-installation, by which a
        /// policy tells installations apart.
        master_key: MasterKeyAt = "file", master_key();
        /// Master keys that wrapped before, or still do: needed beside another master_key until `oriel keys rotate` is
        /// done. file: the one in the data folder.
        master_key_previous: Vec<MasterKeyAt> = "", master_keys();
        /// Who may register an organisation. auto: open on a loopback listener, else invite.
        registration: Registration = "auto",
            choice(&[("auto", Registration::Auto), ("open", Registration::Open), ("invite", Registration::Invite)]);
        /// What one person may spend in a minute, or one address that nobody signed in from, in the units of
        /// max_cost. auto: off on a loopback listener, else 120000.
        rate_limit: RateLimit = "auto", rate_limit();
        /// Proxies that are believed when they say, in X-Forwarded-For or Forwarded, whom they speak for.
        trusted_proxies: Vec<Network> = "127.0.0.0/8,::1", networks();
        /// Networks that are not public in which an organization may name an identity provider, such as 10.0.0.0/8.
        /// Empty: none, so that nobody has this server ask inside.
        identity_networks: Vec<Network> = "", networks();
        /// With this token as `Authorization: Bearer`, /metrics can be read from elsewhere.
        /// Empty: only from this machine.
        metrics_token: Option<Secret<String>> = "", secret_text();
        /// How long an access token is valid.
        access_token_ttl: Duration = "15m", duration("1m", "1d");
        /// How long a session lives without being used.
        refresh_token_ttl: Duration = "30d", duration("1h", "400d");
        /// How long an organisation goes on whose end was scheduled. Until then that can be called off.
        organization_grace: Duration = "30d", duration("0s", "400d");
        /// How long it stays listed who has read what is sensitive (`accessLog`), in organizations that say nothing else.
        access_log_retention: Duration = "400d", duration("1d", "4000d");
        /// How long sessions that are over stay listed, in organizations that say nothing else.
        session_retention: Duration = "90d", duration("1d", "4000d");
        /// How long invitations stand that nobody accepts, in organizations that say nothing else.
        invitation_retention: Duration = "30d", duration("1d", "4000d");
        /// The least that an organization may say about how long something is kept (`retentionUpdate`).
        retention_least: Duration = "1d", duration("1d", "4000d");
        /// The most that it may say.
        retention_most: Duration = "4000d", duration("1d", "4000d");
        /// How long a signed download link is valid.
        download_url_ttl: Duration = "15m", duration("10s", "7d");
        /// Which operations are executed. open: all. warn: all, but those that are not published are counted, logged
        /// and answered with a warning. registered: only those that are published (`oriel operations publish`).
        operations: OperationsMode = "open",
            choice(&[
                ("open", OperationsMode::Open),
                ("warn", OperationsMode::Warn),
                ("registered", OperationsMode::Registered),
            ]);
        /// Roles that may send any operation, whatever `operations` says.
        operations_exempt_roles: Vec<RoleName> = "", roles();
        /// Memory for operations that clients send once and then by their hash (automatic persisted queries). 0: none.
        persisted_queries_memory: u64 = "16MiB", size("0", "16GiB");
        /// Who may see the schema, by introspection and as /graphql.schema. off: only the roles below. To others it is
        /// not suggested what they may have meant either.
        introspection: IntrospectionMode = "everyone",
            choice(&[
                ("everyone", IntrospectionMode::Everyone),
                ("signed_in", IntrospectionMode::SignedIn),
                ("off", IntrospectionMode::Off),
            ]);
        /// Roles that may see the schema, whatever `introspection` says.
        introspection_exempt_roles: Vec<RoleName> = "", roles();
        /// Origins of browser applications that may call from elsewhere (CORS).
        cors_origins: Vec<String> = "", origins();
    }
    "What is told to operators" {
        /// auto: text on a terminal, else JSON.
        log_format: LogFormat = "auto",
            choice(&[("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)]);
        /// Which log records are written.
        log_level: String = "info", log_filter();
        /// Where traces go: a receiver of OTLP over HTTP, such as http://localhost:4318. What it wants to be sent as
        /// headers stands in OTEL_EXPORTER_OTLP_HEADERS. Empty: nothing is recorded.
        otlp_endpoint: Option<String> = "", web_url();
        /// One in so many traces is recorded; and each that its client has asked to record.
        otlp_one_in: u32 = "1", whole(1, 1_000_000);
    }
    "Documents" {
        /// The largest file that can be uploaded.
        upload_max_size: u64 = "2GiB", size("1KiB", "1TiB");
        /// Processes that read documents at the same time.
        extraction_workers: usize = "2", whole(1, 256);
        /// How long one document may take to read, before its process is ended.
        extraction_timeout: Duration = "30s", duration("1s", "1h");
        /// The memory that reading one document may take.
        extraction_memory: u64 = "512MiB", size("64MiB", "64GiB");
    }
    "Limits of a request, checked before the work" {
        /// The body of a request without files.
        max_body_bytes: u64 = "1MiB", size("1KiB", "64MiB");
        /// The text of a GraphQL document.
        max_query_bytes: u64 = "128KiB", size("1KiB", "16MiB");
        /// Tokens in a GraphQL document.
        max_query_tokens: usize = "10000", whole(100, 1_000_000);
        /// Fields inside fields.
        max_depth: usize = "15", whole(5, 100);
        /// Aliases in a GraphQL document.
        max_aliases: usize = "100", whole(1, 10_000);
        /// Fields of Query or Mutation in one operation.
        max_root_fields: usize = "50", whole(1, 1_000);
        /// Directives in a GraphQL document.
        max_directives: usize = "200", whole(1, 100_000);
        /// What one operation may cost: every field costs 1 for each item of the lists around it.
        max_cost: u64 = "50000", whole(100, 1_000_000_000);
        /// Values inside the variables of one operation.
        max_variable_values: usize = "10000", whole(10, 1_000_000);
        /// Operations in one batched request.
        max_batch: usize = "10", whole(1, 1_000);
        /// Rows in one page. Clients may count on 100.
        max_page: u32 = "100", whole(100, 10_000);
        /// How long a request may take; uploads and subscriptions are not counted.
        request_timeout: Duration = "30s", duration("1s", "1h");
        /// How long a connection may be without a request, and how long the head of one may take. Longer than that of
        /// a proxy before it.
        idle_timeout: Duration = "75s", duration("1s", "1h");
        /// Bytes that the body of a request has to bring each second, on the average of a request_timeout.
        min_body_rate: u64 = "256", size("1", "1MiB");
        /// TCP connections of this node. More than max_sockets: each of those is one, too.
        max_connections: usize = "30000", whole(1, 1_000_000);
        /// Those from one address (of IPv6: from one network of 64 bits), but for those of trusted_proxies.
        max_connections_per_address: usize = "2000", whole(1, 1_000_000);
        /// Open WebSocket and SSE connections of this node.
        max_sockets: usize = "20000", whole(1, 1_000_000);
        /// Those of one person, wherever they are signed in.
        max_sockets_per_viewer: usize = "100", whole(1, 1_000_000);
        /// Those from one address, whoever is signed in (of IPv6: from one network of 64 bits).
        max_sockets_per_address: usize = "1000", whole(1, 1_000_000);
        /// Subscriptions on one socket.
        max_operations_per_socket: usize = "100", whole(1, 10_000);
        /// How far apart two messages of one live query are at least.
        live_pace: Duration = "50ms", duration("0s", "1m");
        /// Live queries that one person may have open on this node.
        max_live_queries_per_viewer: usize = "200", whole(1, 1_000_000);
        /// Memory for answers that are kept until something changes them.
        cache_size: u64 = "64MiB", size("0", "64GiB");
    }
    "The log" {
        /// Commands waiting to be committed; beyond it the answer is OVERLOADED.
        commit_queue_count: usize = "10000", whole(1, 1_000_000);
        /// Bytes of commands waiting to be committed.
        commit_queue_bytes: u64 = "64MiB", size("1MiB", "16GiB");
        /// How long a command may wait to be committed.
        commit_queue_age: Duration = "5s", duration("100ms", "5m");
        /// How long a repeated idempotency key is recognised.
        idempotency_retention: Duration = "7d", duration("1h", "400d");
        /// How long running work may take to end after a signal to stop.
        shutdown_grace: Duration = "30s", duration("0s", "10m");
        /// How long a node still takes what comes after a signal to stop, while /health/ready says that it is stopping,
        /// so that balancers leave it first. Longer than the pause between two of their questions.
        shutdown_delay: Duration = "0s", duration("0s", "5m");
    }
}

impl Settings {
    /// Whether only this machine can reach the listener.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// Whether everyone may register, with `auto` resolved.
    pub fn registration_is_open(&self) -> bool {
        match self.registration {
            Registration::Auto => self.is_loopback(),
            Registration::Open => true,
            Registration::Invite => false,
        }
    }

    /// What one client may spend in a minute, with `auto` resolved; `None` is no limit.
    pub fn cost_per_minute(&self) -> Option<u32> {
        match self.rate_limit {
            RateLimit::Auto => (!self.is_loopback()).then_some(RateLimit::USUAL),
            RateLimit::Off => None,
            RateLimit::PerMinute(number) => Some(number),
        }
    }

    /// How browsers reach this installation, without a last slash.
    pub fn public_url(&self) -> String {
        let scheme = if self.tls().is_some() { "https" } else { "http" };
        match &self.base_url {
            Some(url) => url.clone(),
            None if self.listen.ip().is_unspecified() => format!("{scheme}://localhost:{}", self.listen.port()),
            None => format!("{scheme}://{}", self.listen),
        }
    }

    /// For how long what may be removed is kept, and what organizations may say about it: in whole days.
    pub fn retention(&self) -> Rules {
        let days = |time: Duration| i32::try_from(time.as_secs() / (24 * 3600)).unwrap_or(i32::MAX);
        let least = days(self.retention_least);
        Rules::default()
            .within(least, days(self.retention_most).max(least))
            .by_default(RetentionKind::Sessions, days(self.session_retention))
            .by_default(RetentionKind::Invitations, days(self.invitation_retention))
            .by_default(RetentionKind::AccessLog, days(self.access_log_retention))
    }

    /// The domain that passkeys belong to, and the origins of the pages that may ask for them; nothing where browsers
    /// reach this installation by an address alone.
    pub fn relying_party(&self) -> Option<RelyingParty> {
        let here = reqwest::Url::parse(&self.public_url()).ok()?;
        let by_address = here.host_str()?.trim_matches(['[', ']']).parse::<IpAddr>();
        let (host, origin) = match by_address {
            Ok(address) if address.to_canonical().is_loopback() => {
                let port = here.port().map(|port| format!(":{port}")).unwrap_or_default();
                ("localhost".to_owned(), format!("{}://localhost{port}", here.scheme()))
            }
            Ok(_) => return None,
            Err(_) => (here.host_str()?.to_owned(), here.origin().ascii_serialization()),
        };
        let domain = self.passkey_domain.clone().unwrap_or(host);
        let inside = |origin: &String| {
            let host = reqwest::Url::parse(origin).ok().and_then(|url| url.host_str().map(str::to_owned));
            host.is_some_and(|host| is_within(&host, &domain))
        };
        let origins = std::iter::once(&origin).chain(&self.cors_origins).filter(|origin| inside(origin)).cloned();
        let origins = origins.collect();
        Some(RelyingParty::new(domain, origins))
    }

    /// The files for TLS on the listener.
    pub fn tls(&self) -> Option<Files> {
        let (certificate, key) = (self.tls_certificate.clone()?, self.tls_key.clone()?);
        Some(Files { certificate, key })
    }

    /// Whether the log is in PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        self.database_url.as_ref().is_some_and(|url| url.scheme().starts_with("postgres"))
    }

    /// The rules between settings: what is refused, and what is only warned of.
    fn check(&self, wrong: &mut Vec<String>, warnings: &mut Vec<String>) {
        if self.refresh_token_ttl < self.access_token_ttl {
            wrong.push("refresh_token_ttl is shorter than access_token_ttl; make it longer".to_owned());
        }
        if self.is_postgres() && self.master_key == MasterKeyAt::File {
            let why = "database_url is PostgreSQL and master_key is a file: the keys of this installation would hang \
                       on a file of one machine; set ORIEL_MASTER_KEY to 32 random bytes in base64 \
                       (openssl rand -base64 32), or to a key of a KMS (kms:alias/oriel)";
            if self.is_loopback() { warnings.push(why.to_owned()) } else { wrong.push(why.to_owned()) }
        }
        if self.master_key == MasterKeyAt::File && self.master_key_previous.contains(&MasterKeyAt::File) {
            wrong.push(
                "master_key and master_key_previous are the same file; set master_key, or unset the other".to_owned(),
            );
        }
        if self.role != Role::Both && !self.is_postgres() {
            let why = "role is api or worker, and only one process works on this installation; set ORIEL_DATABASE_URL \
                       to PostgreSQL, or role to both";
            wrong.push(why.to_owned());
        }
        if !self.database_replica_url.is_empty() && !self.is_postgres() {
            wrong.push(
                "database_replica_url is set, and database_url is not PostgreSQL; unset one or set both".to_owned(),
            );
        }
        if self.is_postgres() && self.blobs_url.is_none() {
            let why = "database_url is PostgreSQL and blobs_url is not set: files are in a folder of this node, where \
                       another one does not find them; set ORIEL_BLOBS_URL before there are several nodes";
            warnings.push(why.to_owned());
        }
        if self.search_key.is_some() && self.search_url.is_none() {
            warnings.push("search_key is set and search_url is not: the key is not used".to_owned());
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            wrong.push("tls_certificate and tls_key belong together; set both, or none".to_owned());
        }
        if let Some(folder) = self.console_dir.as_ref().filter(|folder| !folder.join("index.html").is_file()) {
            wrong.push(format!(
                "console_dir = {} has no index.html: build it first, or leave it empty",
                folder.display()
            ));
        }
        if self.tls().is_some() && self.base_url.as_ref().is_some_and(|url| url.starts_with("http:")) {
            warnings
                .push("base_url begins with http:// and the listener speaks TLS: begin it with https://".to_owned());
        }
        let host = reqwest::Url::parse(&self.public_url()).ok().and_then(|url| url.host_str().map(str::to_owned));
        if let (Some(domain), Some(host)) = (&self.passkey_domain, host)
            && !is_within(&host, domain)
            && !(domain == "localhost" && self.is_loopback())
        {
            wrong.push(format!(
                "passkey_domain = {domain} is neither {host}, the host of base_url, nor what it ends with; browsers \
                 would give no passkey of it"
            ));
        }
        if !self.is_loopback() && self.base_url.is_none() {
            let url = self.public_url();
            warnings.push(format!("base_url is not set: links in mails will begin with {url}"));
        }
    }
}

/// Whether a host is this domain, or in it.
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
        let environment = pairs.iter().map(|(key, value)| (variable(key).into(), value.into())).collect();
        load(&Sources { environment, ..Sources::default() })
    }

    #[test]
    fn passkeys_belong_to_the_domain_of_the_installation() {
        let party = |pairs: &[(&str, &str)]| with(pairs).unwrap().settings.relying_party();
        let of = |domain: &str, origins: &[&str]| {
            Some(RelyingParty::new(domain, origins.iter().map(|&origin| origin.to_owned()).collect()))
        };
        assert_eq!(party(&[]), of("localhost", &["http://localhost:8080"]));
        assert_eq!(party(&[("passkey_domain", "localhost")]), party(&[]));
        assert_eq!(party(&[("listen", "[::1]:9000")]), of("localhost", &["http://localhost:9000"]));
        let url = ("base_url", "https://api.example.org/oriel");
        assert_eq!(party(&[url]), of("api.example.org", &["https://api.example.org"]));
        let others = ("cors_origins", "https://app.example.org,https://badexample.org,https://example.com");
        let all = ["https://api.example.org", "https://app.example.org"];
        assert_eq!(party(&[url, others, ("passkey_domain", "example.org")]), of("example.org", &all));
        assert_eq!(party(&[url, others]), of("api.example.org", &["https://api.example.org"]));
        assert_eq!(party(&[("base_url", "https://192.0.2.7")]), None);
        assert!(with(&[url, ("passkey_domain", "example.com")]).is_err());
        assert!(with(&[url, ("passkey_domain", "https://example.org")]).is_err());
    }

    #[test]
    fn every_setting_is_documented_and_its_default_allowed() {
        let table = table();
        for setting in &table {
            assert!(setting.doc.iter().all(|line| !line.trim().is_empty()), "{}", setting.key);
            assert!(!setting.allowed.is_empty(), "{}", setting.key);
            assert_eq!(table.iter().filter(|other| other.key == setting.key).count(), 1, "{}", setting.key);
        }
        with(&[]).unwrap();
    }

    #[test]
    fn every_limit_stands_in_the_readme_with_its_default() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let limits = table().into_iter().filter(|setting| setting.section.starts_with("Limits of a request"));
        for Setting { key, default, .. } in limits {
            let row = format!("| `{key}` | `{default}` | ");
            assert!(readme.lines().any(|line| line.starts_with(&row)), "no line begins with {row}");
        }
        assert!(readme.contains(&format!("else {}", RateLimit::USUAL)));
    }

    #[test]
    fn what_is_deployed_sets_what_can_be_set() {
        let known: Vec<String> = table().iter().map(|setting| variable(setting.key)).collect();
        for file in [
            "docker-compose.yml",
            "deploy/Dockerfile",
            "deploy/direct-downloads.yml",
            "deploy/make-env",
            "deploy/kubernetes/oriel.yml",
        ] {
            let text = std::fs::read_to_string(format!("{}/../../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
            let set: Vec<&str> = words.filter(|word| word.starts_with("ORIEL_")).collect();
            assert!(!set.is_empty(), "{file} sets nothing");
            for name in set {
                assert!(known.iter().any(|known| known == name), "{file} sets {name}, which nobody reads");
            }
        }
    }

    #[test]
    fn auto_is_strict_beyond_loopback() {
        for (listen, open) in [("127.0.0.1:1", true), ("[::1]:1", true), ("0.0.0.0:1", false), ("192.0.2.1:1", false)] {
            let settings = with(&[("listen", listen)]).unwrap().settings;
            assert_eq!(settings.registration_is_open(), open, "{listen}");
            assert_eq!(settings.cost_per_minute().is_none(), open, "{listen}");
        }
        let settings =
            with(&[("listen", "0.0.0.0:1"), ("rate_limit", "off"), ("registration", "open")]).unwrap().settings;
        assert!(settings.registration_is_open() && settings.cost_per_minute().is_none());
        assert_eq!(with(&[("rate_limit", "7")]).unwrap().settings.cost_per_minute(), Some(7));
    }

    #[test]
    fn postgres_without_a_master_key_is_refused_beyond_loopback() {
        let url = ("database_url", "postgres://db/oriel");
        let refused = with(&[url, ("listen", "0.0.0.0:80")]).unwrap_err().to_string();
        assert!(refused.contains("ORIEL_MASTER_KEY"), "{refused}");
        assert!(with(&[url]).unwrap().warnings.iter().any(|warning| warning.contains("ORIEL_MASTER_KEY")));
        let key = data_encoding::BASE64.encode(&[1; 32]);
        with(&[url, ("listen", "0.0.0.0:80"), ("master_key", &key)]).unwrap();
    }

    #[test]
    fn the_public_url_follows_the_listener_unless_it_is_set() {
        assert_eq!(with(&[]).unwrap().settings.public_url(), "http://127.0.0.1:8080");
        assert_eq!(with(&[("listen", "0.0.0.0:80")]).unwrap().settings.public_url(), "http://localhost:80");
        let url = ("base_url", "https://docs.example.com/oriel/");
        assert_eq!(with(&[url]).unwrap().settings.public_url(), "https://docs.example.com/oriel");
    }

    #[test]
    fn a_certificate_comes_with_its_key_and_changes_the_public_url() {
        let both = [("tls_certificate", "tls.pem"), ("tls_key", "tls.key")];
        assert_eq!(with(&both).unwrap().settings.public_url(), "https://127.0.0.1:8080");
        for one in both {
            let refused = with(&[one]).unwrap_err().to_string();
            assert!(refused.contains("belong together"), "{refused}");
        }
        let warned = with(&[both[0], both[1], ("base_url", "http://docs.example.com")]).unwrap().warnings;
        assert!(warned.iter().any(|warning| warning.contains("https://")), "{warned:?}");
        assert!(with(&[]).unwrap().settings.tls().is_none());
    }

    #[test]
    fn a_page_that_is_not_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let refused = with(&[("console_dir", path)]).unwrap_err().to_string();
        assert!(refused.contains("has no index.html"), "{refused}");
        std::fs::write(folder.path().join("index.html"), "").unwrap();
        with(&[("console_dir", path)]).unwrap();
    }

    #[test]
    fn tokens_that_outlive_their_session_are_refused() {
        let refused = with(&[("access_token_ttl", "1d"), ("refresh_token_ttl", "1h")]).unwrap_err().to_string();
        assert!(refused.contains("refresh_token_ttl"), "{refused}");
    }
}
