//! The bus through Redis: one connection to publish, one to listen, whatever the number of topics and subscribers.
//!
//! Invariants
//! - A message is tried once. One that could not be sent makes its topic *missed*, and as soon as the server answers
//!   again a gap is published there instead, so that other nodes look for themselves.
//! - Each new connection puts every topic into force again, with a gap.
//! - A server that hangs is noticed by a ping and treated as one that is gone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{RedisError, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::{MAX_MESSAGE, Notice, Subscription, Topics};
use crate::redis::InvalidRedisUrl;
use crate::redis::place::Place;
use crate::resilience::{Pause, Sources, SystemSources};

/// How many messages wait to be sent.
pub(super) const MAX_UNSENT: usize = 256;
/// How many messages go in one round trip.
const MAX_AT_ONCE: usize = 32;
/// Of how many topics it is remembered that they missed something.
const MAX_MISSED: usize = 10_000;
/// The first byte of what is sent: a message follows, or nothing does.
const MESSAGE: u8 = 1;
const GAP: u8 = 0;

/// How long the bus waits for Redis.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For a connection, and for any answer.
    pub answer: Duration,
    /// Between two pings of the connection that listens.
    pub ping: Duration,
    /// Before it connects again.
    pub pause: Pause,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(1),
            ping: Duration::from_secs(5),
            pause: Pause { least: Duration::from_millis(100), most: Duration::from_secs(5) },
        }
    }
}

/// A bus that passes through Redis.
pub struct RedisBus {
    topics: Arc<Topics>,
    unsent: mpsc::Sender<(String, Bytes)>,
    missed: Arc<Missed>,
    connected: Arc<AtomicBool>,
    work: [JoinHandle<()>; 2],
}

impl RedisBus {
    /// Opens the bus, also while the server does not answer.
    pub fn open(url: &str, namespace: &str, timing: Timing) -> Result<Self, InvalidRedisUrl> {
        let place = Place::parse(url)?;
        let topics = Arc::new(Topics::new(false));
        let missed = Arc::new(Missed::default());
        let connected = Arc::new(AtomicBool::new(false));
        let (unsent, queue) = mpsc::channel(MAX_UNSENT);
        // So that the first colon of a channel ends the namespace.
        let namespace = namespace.replace('%', "%25").replace(':', "%3A");
        let shared = Shared { place, namespace, timing };
        let publisher = Publisher { shared: shared.clone(), queue, missed: missed.clone(), connection: None };
        let listener = Listener { shared, topics: topics.clone(), connected: connected.clone() };
        let work = [tokio::spawn(publisher.run()), tokio::spawn(listener.run())];
        Ok(Self { topics, unsent, missed, connected, work })
    }

    pub(super) fn publish(&self, topic: &str, message: Bytes) {
        if self.unsent.try_send((topic.to_owned(), message)).is_err() {
            self.missed.add(topic);
        }
    }

    pub(super) fn subscribe(&self, topic: &str) -> Subscription {
        self.topics.subscribe(topic)
    }

    #[cfg(test)]
    pub(super) fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.work.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

/// What both connections need.
#[derive(Clone)]
struct Shared {
    place: Place,
    namespace: String,
    timing: Timing,
}

impl Shared {
    fn channel(&self, topic: &str) -> String {
        format!("{}:{topic}", self.namespace)
    }

    async fn in_time<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        timeout(self.timing.answer, answer).await.unwrap_or_else(|_| Err(no_answer()))
    }

    /// Random enough that nodes do not return all at once.
    fn pause(&self, failures: u32) -> Duration {
        self.timing.pause.after(failures, SystemSources.chance())
    }
}

fn no_answer() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Topics on which something could not be sent.
#[derive(Default)]
struct Missed(Mutex<BTreeSet<String>>);

impl Missed {
    fn add(&self, topic: &str) {
        metrics::counter!("oriel_bus_unsent_total").increment(1);
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.len() < MAX_MISSED {
            topics.insert(topic.to_owned());
        }
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

struct Publisher {
    shared: Shared,
    queue: mpsc::Receiver<(String, Bytes)>,
    missed: Arc<Missed>,
    connection: Option<MultiplexedConnection>,
}

impl Publisher {
    async fn run(mut self) {
        let mut failures = 0;
        let mut not_before = Instant::now();
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                received = self.queue.recv_many(&mut batch, MAX_AT_ONCE) => if received == 0 { return },
                () = sleep_until(not_before), if !self.missed.is_empty() => {}
            }
            if Instant::now() < not_before {
                batch.iter().for_each(|(topic, _)| self.missed.add(topic));
                continue;
            }
            let gaps = self.missed.take();
            match self.send(&gaps, &batch).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    tracing::debug!(%error, "changes were not published");
                    self.connection = None;
                    gaps.iter().chain(batch.iter().map(|(topic, _)| topic)).for_each(|topic| self.missed.add(topic));
                    not_before = Instant::now() + self.shared.pause(failures);
                    failures += 1;
                }
            }
        }
    }

    /// Gaps go first: who hears one looks, and so has seen what the messages after it say, or more.
    async fn send(&mut self, gaps: &BTreeSet<String>, messages: &[(String, Bytes)]) -> RedisResult<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connecting = self.shared.place.connect_to_one(self.shared.timing.answer);
                none.insert(self.shared.in_time(connecting).await?)
            }
        };
        let mut pipe = redis::pipe();
        for topic in gaps {
            pipe.publish(self.shared.channel(topic), &[GAP][..]).ignore();
        }
        let mut frame = Vec::with_capacity(MAX_MESSAGE.min(4096));
        for (topic, message) in messages {
            frame.clear();
            frame.push(MESSAGE);
            frame.extend_from_slice(message);
            pipe.publish(self.shared.channel(topic), &frame[..]).ignore();
        }
        self.shared.in_time(pipe.query_async::<()>(connection)).await
    }
}

struct Listener {
    shared: Shared,
    topics: Arc<Topics>,
    connected: Arc<AtomicBool>,
}

impl Listener {
    async fn run(self) {
        let mut failures = 0;
        loop {
            match self.shared.in_time(self.shared.place.listen()).await {
                Ok(connection) => {
                    failures = 0;
                    let (mut sink, mut stream) = connection.split();
                    let ended = self.listen(&mut sink, &mut stream).await;
                    self.connected.store(false, Ordering::Relaxed);
                    self.topics.all_out_of_force();
                    if let Err(error) = ended {
                        tracing::warn!(%error, "Redis is lost; changes of other nodes arrive later until it is back");
                    }
                }
                Err(error) => tracing::debug!(%error, "Redis does not answer"),
            }
            tokio::time::sleep(self.shared.pause(failures)).await;
            failures += 1;
        }
    }

    /// Listens until the connection is lost.
    async fn listen(&self, sink: &mut PubSubSink, stream: &mut PubSubStream) -> RedisResult<()> {
        let mut subscribed = HashSet::new();
        self.connected.store(true, Ordering::Relaxed);
        self.follow_topics(&mut subscribed, sink, stream).await?;
        let mut next_ping = Instant::now() + self.shared.timing.ping;
        loop {
            tokio::select! {
                () = self.topics.changed.notified() => self.follow_topics(&mut subscribed, sink, stream).await?,
                message = stream.next() => self.hear(message)?,
                () = sleep_until(next_ping) => {
                    self.hearing(stream, sink.ping::<Value>()).await?;
                    next_ping = Instant::now() + self.shared.timing.ping;
                }
            }
        }
    }

    /// Subscribes to what is new and leaves what nobody here listens to any more.
    async fn follow_topics(
        &self,
        subscribed: &mut HashSet<String>,
        sink: &mut PubSubSink,
        stream: &mut PubSubStream,
    ) -> RedisResult<()> {
        let wanted: HashMap<String, bool> = self.topics.states().into_iter().collect();
        let left: Vec<String> = subscribed.iter().filter(|topic| !wanted.contains_key(*topic)).cloned().collect();
        if !left.is_empty() {
            self.hearing(stream, sink.unsubscribe(self.channels(&left))).await?;
            left.iter().for_each(|topic| _ = subscribed.remove(topic));
        }
        let new: Vec<String> = wanted.keys().filter(|topic| !subscribed.contains(*topic)).cloned().collect();
        if !new.is_empty() {
            self.hearing(stream, sink.subscribe(self.channels(&new))).await?;
            subscribed.extend(new);
        }
        // Also one that went and came back before it was left.
        wanted.iter().filter(|(_, in_force)| !**in_force).for_each(|(topic, _)| self.topics.enter_into_force(topic));
        Ok(())
    }

    fn channels(&self, topics: &[String]) -> Vec<String> {
        topics.iter().map(|topic| self.shared.channel(topic)).collect()
    }

    /// Waits for an answer and hears meanwhile what comes.
    async fn hearing<T>(
        &self,
        stream: &mut PubSubStream,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let mut answer = std::pin::pin!(self.shared.in_time(answer));
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                message = stream.next() => self.hear(message)?,
            }
        }
    }

    fn hear(&self, message: Option<redis::Msg>) -> RedisResult<()> {
        let lost = || RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        let message = message.ok_or_else(lost)?;
        let topic =
            message.get_channel_name().strip_prefix(&self.shared.namespace).and_then(|rest| rest.strip_prefix(':'));
        if let Some(topic) = topic {
            let notice = match message.get_payload_bytes() {
                [MESSAGE, message @ ..] if message.len() <= MAX_MESSAGE => {
                    Notice::Message(Bytes::copy_from_slice(message))
                }
                // Also what another version sends: that there is something is all that is understood of it.
                _ => Notice::Gap,
            };
            self.topics.deliver(topic, notice);
        }
        Ok(())
    }
}
