//! Where Redis is: one server, the primary that Sentinels name, or a Cluster.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisFuture, RedisResult,
    TlsMode, Value,
};
use tokio::sync::Mutex;

/// Where Sentinels listen, unless it is said.
const SENTINEL_PORT: u16 = 26379;

/// A mistake in the settings. A server that does not answer is none.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error(
    "the Redis URL is not usable: write redis://[user:password@]host:port/[number of the database], \
     redis+sentinel://[user:password@]host:port,host:port/name of the primary/[number][?sentinel_password=...] \
     or redis+cluster://[user:password@]host:port,host:port; rediss instead of redis for TLS"
)]
pub struct InvalidRedisUrl;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Place {
    /// One server.
    One(Box<Client>),
    /// Whichever server is the primary now.
    Sentinel(Arc<Sentinels>),
    /// Many servers, each with a part of the keys.
    Cluster(Arc<Cluster>),
}

pub(crate) struct Sentinels {
    primary: String,
    servers: SentinelNodeConnectionInfo,
    sentinels: Mutex<Sentinel>,
}

pub(crate) struct Cluster {
    nodes: Vec<ConnectionInfo>,
    next: AtomicUsize,
}

impl Place {
    /// Reads a URL of one of the three forms.
    pub fn parse(url: &str) -> Result<Self, InvalidRedisUrl> {
        Self::read(url).ok_or(InvalidRedisUrl)
    }

    fn read(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let Some((scheme, kind)) = scheme.split_once('+') else {
            return matches!(scheme, "redis" | "rediss")
                .then(|| Client::open(url).ok().map(Box::new).map(Self::One))?;
        };
        if !matches!(scheme, "redis" | "rediss") {
            return None;
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let hosts: Vec<&str> = hosts.split(',').collect();
        let server = |credentials: &str, host: &str, path: &str| {
            (!host.is_empty()).then(|| format!("{scheme}://{credentials}{host}/{path}").into_connection_info().ok())?
        };
        match kind {
            "sentinel" => {
                let (primary, number) = path.split_once('/').unwrap_or((path, ""));
                let own = sentinel_credentials(query)?;
                let mut sentinels = Vec::with_capacity(hosts.len());
                for host in &hosts {
                    let has_port = host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
                    let host = if has_port { (*host).to_owned() } else { format!("{host}:{SENTINEL_PORT}") };
                    sentinels.push(server(&own, &host, "")?);
                }
                let settings = server(credentials, "any", number)?.redis_settings().clone();
                let servers = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
                let is_encrypted = scheme == "rediss";
                Some(Self::Sentinel(Arc::new(Sentinels {
                    primary: (!primary.is_empty()).then(|| primary.to_owned())?,
                    servers: if is_encrypted { servers.set_tls_mode(TlsMode::Secure) } else { servers },
                    sentinels: Mutex::new(Sentinel::build(sentinels).ok()?),
                })))
            }
            "cluster" if path.is_empty() && query.is_empty() => {
                let nodes = hosts.iter().map(|host| server(credentials, host, "")).collect::<Option<Vec<_>>>()?;
                // So that a mistake is found now.
                ClusterClient::new(nodes.clone()).ok()?;
                Some(Self::Cluster(Arc::new(Cluster { nodes, next: AtomicUsize::new(0) })))
            }
            _ => None,
        }
    }

    /// The word for it, as in its URL.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::One(_) => "redis",
            Self::Sentinel(_) => "redis+sentinel",
            Self::Cluster(_) => "redis+cluster",
        }
    }

    /// A connection for commands on keys. Answers that take longer than `answer` are errors.
    pub async fn connect(&self, answer: Duration) -> RedisResult<Connection> {
        match self {
            Self::One(_) | Self::Sentinel(_) => Ok(Connection::One(self.connect_to_one(answer).await?)),
            Self::Cluster(cluster) => {
                let client = ClusterClient::builder(cluster.nodes.clone());
                let client = client.connection_timeout(answer).response_timeout(answer).build()?;
                Ok(Connection::Cluster(client.get_async_connection().await?))
            }
        }
    }

    /// A connection to one server, for what any of them does: to publish. A cluster passes it on to all its servers.
    pub async fn connect_to_one(&self, answer: Duration) -> RedisResult<MultiplexedConnection> {
        let answer = Some(answer);
        let config = AsyncConnectionConfig::new().set_connection_timeout(answer).set_response_timeout(answer);
        self.client().await?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// A connection that listens.
    pub async fn listen(&self) -> RedisResult<PubSub> {
        self.client().await?.get_async_pubsub().await
    }

    async fn client(&self) -> RedisResult<Client> {
        match self {
            Self::One(client) => Ok(Client::clone(client)),
            Self::Sentinel(watched) => {
                let mut sentinels = watched.sentinels.lock().await;
                sentinels.async_master_for(&watched.primary, Some(&watched.servers)).await
            }
            // One after the other: who comes back because one is gone tries the next.
            Self::Cluster(cluster) => {
                let next = cluster.next.fetch_add(1, Ordering::Relaxed) % cluster.nodes.len().max(1);
                Client::open(cluster.nodes[next].clone())
            }
        }
    }
}

/// What Sentinels want for themselves, as it stands in a URL; `None` for a query of something else.
fn sentinel_credentials(query: &str) -> Option<String> {
    let (mut user, mut password) = ("", "");
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("sentinel_user", value) => user = value,
            ("sentinel_password", value) => password = value,
            _ => return None,
        }
    }
    Some(if user.is_empty() && password.is_empty() { String::new() } else { format!("{user}:{password}@") })
}

impl fmt::Debug for Place {
    /// Without its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// A connection for commands. Clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    /// To one server.
    One(MultiplexedConnection),
    /// To all servers of a cluster.
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(cmd),
            Self::Cluster(all) => all.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(cmd, offset, count),
            Self::Cluster(all) => all.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(all) => all.get_db(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_one_of_three_forms() {
        for (url, kind) in [
            ("redis://127.0.0.1:6379/", "redis"),
            ("rediss://user:pass%40word@redis.example:6380/2", "redis"),
            ("redis+sentinel://a:26379,b:26380,[::1]:26379/main", "redis+sentinel"),
            ("redis+sentinel://:secret@a,b/main/3?sentinel_user=s&sentinel_password=p", "redis+sentinel"),
            ("rediss+sentinel://a/main", "redis+sentinel"),
            ("redis+cluster://user:secret@a:7000,b:7001", "redis+cluster"),
            ("rediss+cluster://a", "redis+cluster"),
        ] {
            assert_eq!(Place::parse(url).map(|place| place.kind()), Ok(kind), "{url}");
        }
        for wrong in [
            "",
            "127.0.0.1",
            "http://a",
            "redis://",
            "redis://a/b",
            "redis+cluster://",
            "redis+cluster://a,",
            "redis+cluster://a/1",
            "redis+sentinel://a",
            "redis+sentinel://a/main/x",
            "redis+sentinel://a/main?other=1",
            "redis+other://a",
            "http+cluster://a",
        ] {
            assert_eq!(Place::parse(wrong).map(|place| place.kind()), Err(InvalidRedisUrl), "{wrong}");
        }
        assert!(!format!("{:?}", Place::parse("redis://:secret@a").unwrap()).contains("secret"));
    }

    #[test]
    fn credentials_are_those_of_the_servers_or_of_the_sentinels() {
        let url = "redis+sentinel://own:secret@a/main/3?sentinel_user=s&sentinel_password=p";
        let Place::Sentinel(watched) = Place::parse(url).unwrap() else { panic!("it is another form") };
        let shown = format!("{:?}", watched.servers);
        assert_eq!(watched.primary, "main");
        assert!(shown.contains("own") && !shown.contains("\"p\""), "{shown}");
        assert_eq!(sentinel_credentials("sentinel_password=p%40"), Some(":p%40@".to_owned()));
        assert_eq!(sentinel_credentials(""), Some(String::new()));
    }
}
