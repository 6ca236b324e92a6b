//! Redis: what the nodes of an installation share for a moment. Budgets of the rate limit, counted attempts, and answers.
//!
//! Invariants
//! - Nothing here is the truth, and nothing is missed when it is gone: who gets no answer goes on with what this node
//!   knows by itself. So it is asked briefly, once, and through a [`Guard`].
//! - While there is no connection nobody waits for one: a task of its own connects, again and again.
//! - Every key begins with the namespace of the installation, and every value ends by itself.
//!
//! Nothing here knows what a budget is spent on, what is attempted or what an answer says. The feed between the nodes is in
//! [`bus`](crate::bus).

pub(crate) mod place;
#[cfg(test)]
mod test_servers;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{RedisError, RedisResult, Script};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use self::place::InvalidRedisUrl;
use self::place::{Connection, Place};
use crate::resilience::{Fault, Guard, Health, Limits, Pause, Policy, Sources, SystemSources, Unanswered};

/// The longest value that is kept.
const MAX_VALUE: usize = 256 * 1024;

/// How Redis is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a connection may take.
    pub connect: Duration,
    /// Between two attempts to connect.
    pub pause: Pause,
    /// How requests are treated.
    pub policy: Policy,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            pause: Pause { least: Duration::from_millis(100), most: Duration::from_secs(5) },
            policy: Policy {
                time_out: Some(Duration::from_millis(250)),
                attempts: 1,
                running: 512,
                waiting: 1024,
                breaker: Limits::default(),
                ..Policy::default()
            },
        }
    }
}

/// Why there is no answer.
#[derive(thiserror::Error, Debug)]
pub enum RedisFault {
    /// It does not answer.
    #[error("Redis is not available")]
    Away(#[source] RedisError),
    /// There is no connection.
    #[error("there is no connection to Redis")]
    Disconnected,
    /// This process has just begun to connect.
    #[error("the connection to Redis is being made")]
    Connecting,
    /// It answers that it does not do this.
    #[error("Redis refuses this")]
    Refused(#[source] RedisError),
    /// It is not asked, or did not answer in time.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl Fault for RedisFault {
    fn is_outage(&self) -> bool {
        match self {
            Self::Away(_) | Self::Disconnected | Self::Unanswered(Unanswered::TimedOut(_)) => true,
            Self::Connecting | Self::Refused(_) | Self::Unanswered(_) => false,
        }
    }
}

impl From<RedisError> for RedisFault {
    fn from(error: RedisError) -> Self {
        // What a server says of a command that it has read is an answer; one that is loading or has no primary is away.
        let is_away = error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
            || error.is_cluster_error()
            || error.is_unrecoverable_error()
            || matches!(error.code(), Some("LOADING" | "MASTERDOWN" | "READONLY" | "NOREPLICAS" | "BUSY" | "MISCONF"));
        if is_away { Self::Away(error) } else { Self::Refused(error) }
    }
}

/// A budget: a bucket that holds so much, and fills evenly.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Budget {
    /// What it holds.
    pub capacity: f64,
    /// In what time an empty one is full again.
    pub fills_in: Duration,
}

/// What became of a budget.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Balance {
    /// Whether there was enough. If not, nothing was taken.
    pub was_enough: bool,
    /// What is left.
    pub left: f64,
}

/// Takes a cost from a bucket, by the server's own clock, so that the clocks of the nodes do not matter. What is owed
/// was spent already: it is taken in any case, down to an empty bucket.
static SPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local capacity, fills_in = tonumber(ARGV[1]), tonumber(ARGV[2])
        local cost, owed = tonumber(ARGV[3]), tonumber(ARGV[4])
        local time = redis.call('TIME')
        local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
        local bucket = redis.call('HMGET', KEYS[1], 'left', 'at')
        local left, at = tonumber(bucket[1]) or capacity, tonumber(bucket[2]) or now
        left = math.min(capacity, left + math.max(0, now - at) * capacity / fills_in)
        left = math.max(0, left - owed)
        local enough = left >= cost
        if enough then left = left - cost end
        redis.call('HSET', KEYS[1], 'left', string.format('%.3f', left), 'at', string.format('%.3f', now))
        redis.call('PEXPIRE', KEYS[1], fills_in)
        return {enough and 1 or 0, string.format('%.3f', left)}
        ",
    )
});

/// How attempts of one kind are made to wait: a second after the first that is not free, twice as long after each next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    /// How many failures are free.
    pub free: u32,
    /// The longest wait.
    pub longest: Duration,
}

/// What is known of what is attempted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// How often it was attempted and not said to have succeeded.
    pub failures: u32,
    /// How long the next attempt has to wait, whatever the rule.
    pub wait: Duration,
}

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempted {
    /// Whether it may be made. If not, it does not count.
    pub may: bool,
    /// Each counter as it is now, in the order in which they were asked for.
    pub counters: Vec<Counted>,
}

/// Counts an attempt under each key, unless it has to wait for one of them. By the server's own clock, so that the
/// clocks of the nodes do not matter; one script, so that many at once are no way around.
static ATTEMPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local time = redis.call('TIME')
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local known, may = {}, 1
        for i, key in ipairs(KEYS) do
            local counter = redis.call('HMGET', key, 'failures', 'open_at')
            known[i] = {tonumber(counter[1]) or 0, math.max(0, (tonumber(counter[2]) or 0) - now)}
            if math.min(known[i][2], tonumber(ARGV[2 * i + 1])) > 0 then may = 0 end
        end
        local answer = {may}
        for i, key in ipairs(KEYS) do
            if may == 1 then
                local failures, wait = known[i][1] + 1, 0
                local more = failures - tonumber(ARGV[2 * i])
                if more >= 0 then wait = math.min(1000 * 2 ^ math.min(more, 20), tonumber(ARGV[2 * i + 1])) end
                redis.call('HSET', key, 'failures', string.format('%.0f', failures), 'open_at', string.format('%.0f', now + wait))
                redis.call('PEXPIRE', key, ARGV[1])
                known[i] = {failures, wait}
            end
            answer[#answer + 1], answer[#answer + 2] = known[i][1], known[i][2]
        end
        return answer
        ",
    )
});

/// Takes an attempt back: nothing waits for it any more. Under a key that is said so everything before it is forgotten.
static TAKE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        for i, key in ipairs(KEYS) do
            local failures = tonumber(redis.call('HGET', key, 'failures'))
            if failures and (ARGV[i] == '1' or failures <= 1) then
                redis.call('DEL', key)
            elseif failures then
                redis.call('HSET', key, 'failures', string.format('%.0f', failures - 1), 'open_at', '0')
            end
        end
        ",
    )
});

/// See the module. Ends its connection when it is dropped.
pub struct Redis {
    shared: Arc<Shared>,
    connecting: JoinHandle<()>,
}

struct Shared {
    place: Place,
    namespace: String,
    timing: Timing,
    guard: Guard,
    link: Mutex<Link>,
    lost: Notify,
}

/// The connection, and how often there was a new one.
#[derive(Default)]
struct Link {
    connection: Option<Connection>,
    number: u64,
    /// Whether the first attempt to connect has ended.
    has_tried: bool,
}

impl Redis {
    /// Opens what `url` names, also while it does not answer. `namespace` keeps installations apart. To be called on a
    /// runtime, on which the connection lives.
    ///
    /// # Errors
    /// For a URL of another form.
    pub fn open(url: &str, namespace: &str) -> Result<Self, InvalidRedisUrl> {
        Self::with(url, namespace, Timing::default(), Arc::new(SystemSources))
    }

    /// The same with other times, and another clock for the breaker.
    ///
    /// # Errors
    /// For a URL of another form.
    pub fn with(
        url: &str,
        namespace: &str,
        timing: Timing,
        sources: Arc<dyn Sources>,
    ) -> Result<Self, InvalidRedisUrl> {
        let shared = Arc::new(Shared {
            place: Place::parse(url)?,
            namespace: namespace.to_owned(),
            timing,
            guard: Guard::with_sources("redis", timing.policy, Arc::clone(&sources)),
            link: Mutex::default(),
            lost: Notify::new(),
        });
        let connecting = tokio::spawn(Arc::clone(&shared).stay_connected(sources));
        Ok(Self { shared, connecting })
    }

    /// How the server is.
    pub fn health(&self) -> Health {
        self.shared.guard.health()
    }

    /// Which kind of installation it is: `redis`, `redis+sentinel` or `redis+cluster`.
    pub fn kind(&self) -> &'static str {
        self.shared.place.kind()
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), RedisFault> {
        let key = self.key("ping");
        let asked = async |mut connection| redis::cmd("EXISTS").arg(&key).query_async::<i64>(&mut connection).await;
        let (shared, limit) = (&self.shared, self.shared.timing.policy.time_out);
        let (connection, number) = shared.connection()?;
        let answer = shared.guard.look(limit.unwrap_or(shared.timing.connect), over(connection, asked)).await;
        shared.hear(answer, number).map(drop)
    }

    /// Takes a cost from the budget of this name, in one round trip, and what is `owed` to it beside.
    ///
    /// # Errors
    /// When there is no answer; then nothing may be said about the budget.
    pub async fn spend(&self, name: &str, budget: Budget, cost: f64, owed: f64) -> Result<Balance, RedisFault> {
        let mut spend = SPEND.key(self.key(name));
        spend.arg(budget.capacity).arg(millis(budget.fills_in)).arg(cost).arg(owed);
        let asked = async |mut connection| spend.invoke_async::<(bool, f64)>(&mut connection).await;
        let (was_enough, left) = self.ask(asked).await?;
        Ok(Balance { was_enough, left })
    }

    /// Counts an attempt under these names, in one round trip, unless it has to wait. What is counted is forgotten when
    /// nothing was counted there for as long as `keep`.
    ///
    /// # Errors
    /// When there is no answer; then nothing may be said about the counters.
    pub async fn attempt(&self, under: &[(&str, Waits)], keep: Duration) -> Result<Attempted, RedisFault> {
        let mut attempt = ATTEMPT.prepare_invoke();
        attempt.arg(millis(keep));
        for (name, waits) in under {
            attempt.key(self.attempts(name)).arg(waits.free).arg(millis(waits.longest));
        }
        let asked = async |mut connection| attempt.invoke_async::<Vec<u64>>(&mut connection).await;
        let answer = self.ask(asked).await?;
        let counters = answer.get(1..).unwrap_or_default().chunks_exact(2).map(|counter| Counted {
            failures: u32::try_from(counter[0]).unwrap_or(u32::MAX),
            wait: Duration::from_millis(counter[1]),
        });
        Ok(Attempted { may: answer.first() == Some(&1), counters: counters.collect() })
    }

    /// Takes an attempt back under these names, or forgets all that was counted under a name.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn take_back(&self, under: &[(&str, bool)]) -> Result<(), RedisFault> {
        let mut take_back = TAKE_BACK.prepare_invoke();
        for (name, forget) in under {
            take_back.key(self.attempts(name)).arg(u8::from(*forget));
        }
        let asked = async |mut connection| take_back.invoke_async::<()>(&mut connection).await;
        self.ask(asked).await
    }

    /// In a Cluster all of them are in one place, so that one script sees them together.
    fn attempts(&self, name: &str) -> String {
        self.key(&format!("{{attempts}}:{name}"))
    }

    /// The value that is kept under a name.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, RedisFault> {
        let key = self.key(name);
        let asked =
            async |mut connection| redis::cmd("GET").arg(&key).query_async::<Option<Vec<u8>>>(&mut connection).await;
        Ok(self.ask(asked).await?.map(Bytes::from))
    }

    /// Keeps a value under a name, for a while at most. One that is too long is not kept.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn put(&self, name: &str, value: &[u8], keep: Duration) -> Result<(), RedisFault> {
        if value.len() > MAX_VALUE {
            return Ok(());
        }
        let key = self.key(name);
        let seconds = keep.as_secs().max(1);
        let asked = async |mut connection| {
            redis::cmd("SET").arg(&key).arg(value).arg("EX").arg(seconds).query_async::<()>(&mut connection).await
        };
        self.ask(asked).await
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.shared.namespace)
    }

    async fn ask<T>(&self, work: impl AsyncFnOnce(Connection) -> RedisResult<T>) -> Result<T, RedisFault> {
        let (connection, number) = self.shared.connection()?;
        let answer = self.shared.guard.once(over(connection, work)).await;
        self.shared.hear(answer, number)
    }
}

async fn over<T>(
    connection: Option<Connection>,
    work: impl AsyncFnOnce(Connection) -> RedisResult<T>,
) -> Result<T, RedisFault> {
    Ok(work(connection.ok_or(RedisFault::Disconnected)?).await?)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.connecting.abort();
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("kind", &self.kind()).field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Connects, and connects again whenever the connection is lost.
    async fn stay_connected(self: Arc<Self>, sources: Arc<dyn Sources>) {
        let mut failures = 0;
        loop {
            let connected =
                match tokio::time::timeout(self.timing.connect, self.place.connect(self.timing.connect)).await {
                    Ok(connected) => connected.map_err(|error| error.to_string()),
                    Err(_) => Err("it does not answer in time".to_owned()),
                };
            let is_up = connected.is_ok();
            {
                let mut link = self.link();
                link.has_tried = true;
                link.number += 1;
                link.connection = connected.inspect_err(|error| tracing::debug!(error, "no connection to Redis")).ok();
            }
            if is_up {
                self.lost.notified().await;
            }
            // One that is lost as soon as it is made is not made again at once either.
            tokio::time::sleep(self.timing.pause.after(failures, sources.chance())).await;
            failures = if is_up { 0 } else { failures + 1 };
        }
    }

    /// The connection that there is, and its number.
    fn connection(&self) -> Result<(Option<Connection>, u64), RedisFault> {
        let link = self.link();
        if link.connection.is_none() && !link.has_tried {
            return Err(RedisFault::Connecting);
        }
        Ok((link.connection.clone(), link.number))
    }

    /// What was answered over the connection of this number, which may have been lost with it.
    fn hear<T>(&self, answer: Result<T, RedisFault>, number: u64) -> Result<T, RedisFault> {
        if answer.as_ref().is_err_and(RedisFault::is_outage) {
            self.lose(number);
        }
        answer
    }

    /// The connection of this number is not used any more.
    fn lose(&self, number: u64) {
        let mut link = self.link();
        // That of a cluster mends itself: it is many, of which one was lost.
        if link.number == number && !matches!(link.connection, None | Some(Connection::Cluster(_))) {
            link.connection = None;
            self.lost.notify_one();
        }
    }

    /// Nothing panics while it holds this lock, so what a poisoned one guards is whole.
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
