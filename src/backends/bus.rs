//! The change bus: a word passed between the nodes of an installation, in process or through Redis.
//!
//! Invariants
//! - Nothing depends on it but latency. The truth is in the database; a subscriber that never hears anything only
//!   learns later, by looking.
//! - A subscription says where it has a hole: its first item is [`Notice::Gap`], and another follows whenever messages
//!   may have been missed. Whoever looks into the database after a gap has seen everything, and hears of the rest.
//! - [`Bus::publish`] never waits: not for a slow subscriber, not for a Redis that is stopped.
//! - Every queue is bounded; what does not fit becomes a gap.
//!
//! Each node hears what it publishes itself. Nothing here knows what a message says.

#[cfg(test)]
mod contract;
mod over_redis;
#[cfg(test)]
pub(crate) mod redis_server;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{Notify, broadcast};

pub use self::over_redis::{RedisBus, Timing};
use crate::redis::InvalidRedisUrl;

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// How many messages wait for one subscriber before the oldest become a gap.
pub const MAX_WAITING: usize = 256;

/// What a subscriber hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A message, in the order in which its publisher sent it.
    Message(Bytes),
    /// Messages may be missing up to here: look for yourself.
    Gap,
}

/// A message that is longer than [`MAX_MESSAGE`]; publish one that tells where to look instead.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error("the message of {length} bytes is longer than {MAX_MESSAGE} bytes")]
pub struct MessageTooLong {
    /// How long it is.
    pub length: usize,
}

/// The bus of this process. Clones share it; it ends, and with it its subscriptions, when the last one is dropped.
#[derive(Clone, Debug)]
pub enum Bus {
    /// Among the subscribers of this process.
    InProcess(Arc<Topics>),
    /// Among all processes that use the same server and namespace.
    Redis(Arc<RedisBus>),
}

impl Bus {
    /// The bus through the Redis that `url` names; without one, that of this process. `namespace` keeps installations
    /// apart that share a Redis. To be called on a runtime, on which the connections live.
    pub fn open(url: Option<&str>, namespace: &str) -> Result<Self, InvalidRedisUrl> {
        match url {
            None => Ok(Self::in_process()),
            Some(url) => Ok(Self::Redis(Arc::new(RedisBus::open(url, namespace, Timing::default())?))),
        }
    }

    /// The bus of one process.
    pub fn in_process() -> Self {
        Self::InProcess(Arc::new(Topics::new(true)))
    }

    /// Passes a message to whoever has subscribed to the topic. Returns at once, whether or not anybody hears it.
    pub fn publish(&self, topic: &str, message: Bytes) -> Result<(), MessageTooLong> {
        if message.len() > MAX_MESSAGE {
            return Err(MessageTooLong { length: message.len() });
        }
        match self {
            Self::InProcess(topics) => topics.deliver(topic, Notice::Message(message)),
            Self::Redis(redis) => redis.publish(topic, message),
        }
        Ok(())
    }

    /// Subscribes to a topic. Returns at once; the first item comes when the subscription is in force.
    pub fn subscribe(&self, topic: &str) -> Subscription {
        match self {
            Self::InProcess(topics) => topics.subscribe(topic),
            Self::Redis(redis) => redis.subscribe(topic),
        }
    }

    /// Whether other nodes are heard at the moment; when not, look more often.
    pub fn is_connected(&self) -> bool {
        match self {
            Self::InProcess(_) => true,
            Self::Redis(redis) => redis.is_connected(),
        }
    }
}

/// The notices of one topic. It ends when the bus does.
pub struct Subscription {
    topic: String,
    topics: Weak<Topics>,
    receiver: Option<broadcast::Receiver<Notice>>,
    /// The gap with which a subscription to a topic begins that is in force already.
    begins: bool,
}

impl Subscription {
    /// The next notice; `None` when the bus has ended. May be dropped while it waits, nothing is lost by that.
    pub async fn next(&mut self) -> Option<Notice> {
        if std::mem::take(&mut self.begins) {
            return Some(Notice::Gap);
        }
        match self.receiver.as_mut()?.recv().await {
            Ok(notice) => Some(notice),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                metrics::counter!("oriel_bus_lagged_total").increment(missed);
                Some(Notice::Gap)
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Notice> + Send + 'static {
        futures::stream::unfold(self, |mut subscription| async move {
            let notice = subscription.next().await?;
            Some((notice, subscription))
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.receiver.take());
        if let Some(topics) = self.topics.upgrade() {
            topics.forget_if_unheard(&self.topic);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The topics that somebody in this process has subscribed to.
pub struct Topics {
    topics: Mutex<HashMap<String, Topic>>,
    /// Whether a new topic is in force from the start.
    at_once: bool,
    /// Told when a topic came or went.
    changed: Notify,
}

struct Topic {
    sender: broadcast::Sender<Notice>,
    in_force: bool,
}

impl Topics {
    fn new(at_once: bool) -> Self {
        Self { topics: Mutex::default(), at_once, changed: Notify::new() }
    }

    fn subscribe(self: &Arc<Self>, name: &str) -> Subscription {
        let mut topics = self.lock();
        let topic = topics.entry(name.to_owned()).or_insert_with(|| {
            self.changed.notify_one();
            Topic { sender: broadcast::Sender::new(MAX_WAITING), in_force: self.at_once }
        });
        Subscription {
            topic: name.to_owned(),
            topics: Arc::downgrade(self),
            receiver: Some(topic.sender.subscribe()),
            begins: topic.in_force,
        }
    }

    fn deliver(&self, name: &str, notice: Notice) {
        if let Some(topic) = self.lock().get(name) {
            // Without a receiver the topic is about to be forgotten.
            let _ = topic.sender.send(notice);
        }
    }

    /// From now on everything published to the topic is heard.
    fn enter_into_force(&self, name: &str) {
        if let Some(topic) = self.lock().get_mut(name) {
            topic.in_force = true;
            let _ = topic.sender.send(Notice::Gap);
        }
    }

    /// From now on nothing is heard.
    fn all_out_of_force(&self) {
        self.lock().values_mut().for_each(|topic| topic.in_force = false);
    }

    fn forget_if_unheard(&self, name: &str) {
        let mut topics = self.lock();
        if topics.get(name).is_some_and(|topic| topic.sender.receiver_count() == 0) {
            topics.remove(name);
            self.changed.notify_one();
        }
    }

    /// The topics, and of each whether it is in force.
    fn states(&self) -> Vec<(String, bool)> {
        self.lock().iter().map(|(name, topic)| (name.clone(), topic.in_force)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Topic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("count", &self.lock().len()).finish_non_exhaustive()
    }
}
