//! What every bus has to do, run in process and, where it is installed, through Redis.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::time::timeout;

use super::redis_server::RedisServer;
use super::*;
use crate::resilience::Pause;

const LONG: Duration = Duration::from_secs(20);
const BRISK: Timing = Timing {
    answer: Duration::from_millis(300),
    ping: Duration::from_millis(200),
    pause: Pause { least: Duration::from_millis(20), most: Duration::from_millis(200) },
};

/// Two nodes of one installation.
struct Nodes {
    here: Bus,
    there: Bus,
    server: Option<RedisServer>,
}

impl Nodes {
    fn in_process() -> Option<Self> {
        let here = Bus::in_process();
        Some(Self { there: here.clone(), here, server: None })
    }

    fn redis() -> Option<Self> {
        let server = RedisServer::start()?;
        Some(Self { here: node(&server.url(), "oriel"), there: node(&server.url(), "oriel"), server: Some(server) })
    }

    fn server(&mut self) -> &mut RedisServer {
        self.server.as_mut().unwrap()
    }
}

fn node(url: &str, namespace: &str) -> Bus {
    Bus::Redis(Arc::new(RedisBus::open(url, namespace, BRISK).unwrap()))
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod in_process {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Nodes::in_process().unwrap()).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                if let Some(nodes) = super::Nodes::redis() {
                    super::$name(nodes).await;
                }
            })*
        }
    };
}

contract!(
    it_begins_with_a_gap_and_goes_on_in_order,
    every_subscriber_hears_its_topic_and_no_other,
    a_slow_subscriber_has_a_gap_and_costs_only_itself,
    a_message_has_a_longest_length,
    a_topic_is_forgotten_with_its_last_subscriber,
    it_ends_with_the_bus,
);

async fn next(subscription: &mut Subscription) -> Notice {
    timeout(LONG, subscription.next()).await.expect("nothing was heard").expect("the bus ended")
}

async fn subscribed(bus: &Bus, topic: &str) -> Subscription {
    let mut subscription = bus.subscribe(topic);
    assert_eq!(next(&mut subscription).await, Notice::Gap);
    subscription
}

fn message(text: &'static str) -> Notice {
    Notice::Message(Bytes::from_static(text.as_bytes()))
}

fn publish(bus: &Bus, topic: &str, text: &'static str) {
    bus.publish(topic, Bytes::from_static(text.as_bytes())).unwrap();
}

/// Publishes until it is heard; everything before that may be gaps or messages.
async fn until_heard(bus: &Bus, subscription: &mut Subscription, topic: &str, text: &'static str) {
    let begun = Instant::now();
    loop {
        publish(bus, topic, text);
        while let Ok(notice) = timeout(Duration::from_millis(100), subscription.next()).await {
            if notice.as_ref() == Some(&message(text)) {
                return;
            }
        }
        assert!(begun.elapsed() < LONG, "it was not heard again");
    }
}

async fn it_begins_with_a_gap_and_goes_on_in_order(nodes: Nodes) {
    let mut subscription = subscribed(&nodes.there, "log").await;
    drop(subscribed(&nodes.here, "another").await);
    for text in ["1", "", "3", "\0\r\n\u{ff}"] {
        publish(&nodes.here, "log", text);
    }
    for text in ["1", "", "3", "\0\r\n\u{ff}"] {
        assert_eq!(next(&mut subscription).await, message(text));
    }
    // A second one begins with its own gap, also where the topic is in force already.
    let mut second = Box::pin(nodes.there.subscribe("log").into_stream());
    assert_eq!(timeout(LONG, second.next()).await.unwrap(), Some(Notice::Gap));
    publish(&nodes.there, "log", "own");
    assert_eq!(timeout(LONG, second.next()).await.unwrap(), Some(message("own")));
    assert_eq!(next(&mut subscription).await, message("own"), "the first one has no further gap");
    assert!(nodes.here.is_connected() && nodes.there.is_connected());
}

async fn every_subscriber_hears_its_topic_and_no_other(nodes: Nodes) {
    let mut heard = Vec::new();
    for (bus, topic) in [(&nodes.here, "a"), (&nodes.there, "a"), (&nodes.here, "b"), (&nodes.there, "b")] {
        heard.push((topic, subscribed(bus, topic).await));
    }
    publish(&nodes.here, "c", "for nobody");
    publish(&nodes.here, "a", "for a");
    publish(&nodes.here, "b", "for b");
    for (topic, subscription) in &mut heard {
        assert_eq!(next(subscription).await, message(if *topic == "a" { "for a" } else { "for b" }));
    }
}

async fn a_slow_subscriber_has_a_gap_and_costs_only_itself(nodes: Nodes) {
    let mut slow = subscribed(&nodes.there, "log").await;
    let mut brisk = subscribed(&nodes.there, "log").await;
    let count = 3 * MAX_WAITING as u32;
    for number in 0..count {
        nodes.here.publish("log", Bytes::copy_from_slice(&number.to_be_bytes())).unwrap();
        assert_eq!(next(&mut brisk).await, Notice::Message(Bytes::copy_from_slice(&number.to_be_bytes())));
    }
    assert_eq!(next(&mut slow).await, Notice::Gap);
    for number in count - MAX_WAITING as u32..count {
        assert_eq!(next(&mut slow).await, Notice::Message(Bytes::copy_from_slice(&number.to_be_bytes())));
    }
}

async fn a_message_has_a_longest_length(nodes: Nodes) {
    let mut subscription = subscribed(&nodes.there, "log").await;
    let longest = Bytes::from(vec![7; MAX_MESSAGE]);
    let refused = nodes.here.publish("log", Bytes::from(vec![7; MAX_MESSAGE + 1]));
    assert_eq!(refused, Err(MessageTooLong { length: MAX_MESSAGE + 1 }));
    nodes.here.publish("log", longest.clone()).unwrap();
    assert!(next(&mut subscription).await == Notice::Message(longest));
}

async fn a_topic_is_forgotten_with_its_last_subscriber(nodes: Nodes) {
    let topics = match &nodes.there {
        Bus::InProcess(topics) => topics.clone(),
        Bus::Redis(redis) => redis.topics().clone(),
    };
    for _ in 0..3 {
        let (first, second) = (subscribed(&nodes.there, "log").await, subscribed(&nodes.there, "log").await);
        drop(first);
        assert_eq!(topics.states(), [("log".to_owned(), true)]);
        drop(second);
        assert_eq!(topics.states(), []);
        // At once again, perhaps before the server was told.
        let mut again = subscribed(&nodes.there, "log").await;
        publish(&nodes.here, "log", "again");
        assert_eq!(next(&mut again).await, message("again"));
    }
}

async fn it_ends_with_the_bus(nodes: Nodes) {
    let mut subscription = subscribed(&nodes.there, "log").await;
    let Nodes { here, there, server: _server } = nodes;
    drop((here, there));
    assert_eq!(timeout(LONG, subscription.next()).await.expect("it goes on"), None);
}

#[tokio::test]
async fn redis_that_restarts_is_a_gap() {
    let Some(mut nodes) = Nodes::redis() else { return };
    let mut subscription = subscribed(&nodes.there, "log").await;
    publish(&nodes.here, "log", "before");
    assert_eq!(next(&mut subscription).await, message("before"));
    nodes.server().stop();
    nodes.server().start_again();
    assert_eq!(next(&mut subscription).await, Notice::Gap, "though nobody published meanwhile");
    nodes.server().stop();
    let begun = Instant::now();
    for _ in 0..10_000 {
        publish(&nodes.here, "log", "into the void");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "publishing waited for a stopped server");
    nodes.server().start_again();
    assert_eq!(next(&mut subscription).await, Notice::Gap);
    until_heard(&nodes.here, &mut subscription, "log", "after").await;
}

#[tokio::test]
async fn redis_that_hangs_is_noticed_and_a_gap() {
    let Some(mut nodes) = Nodes::redis() else { return };
    let mut subscription = subscribed(&nodes.there, "log").await;
    nodes.server().freeze();
    let begun = Instant::now();
    for _ in 0..10_000 {
        publish(&nodes.here, "log", "into the void");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "publishing waited for a server that hangs");
    while nodes.there.is_connected() {
        assert!(begun.elapsed() < LONG, "nobody noticed");
        tokio::task::yield_now().await;
    }
    nodes.server().thaw();
    until_heard(&nodes.here, &mut subscription, "log", "after").await;
}

/// The test does not yield while it publishes, so that the queue of what is not sent yet runs over.
#[tokio::test]
async fn messages_that_find_no_room_are_a_gap() {
    let Some(nodes) = Nodes::redis() else { return };
    let mut subscription = subscribed(&nodes.there, "log").await;
    let mut other = subscribed(&nodes.there, "other").await;
    for number in 0..2 * over_redis::MAX_UNSENT as u32 {
        nodes.here.publish("log", Bytes::copy_from_slice(&number.to_be_bytes())).unwrap();
    }
    assert_eq!(next(&mut subscription).await, Notice::Gap);
    for number in 0..over_redis::MAX_UNSENT as u32 {
        assert_eq!(next(&mut subscription).await, Notice::Message(Bytes::copy_from_slice(&number.to_be_bytes())));
    }
    publish(&nodes.here, "other", "it missed nothing");
    assert_eq!(next(&mut other).await, message("it missed nothing"));
}

#[tokio::test]
async fn a_bus_opens_before_its_server() {
    let Some(mut server) = RedisServer::start() else { return };
    server.stop();
    let bus = node(&server.url(), "oriel");
    let mut subscription = bus.subscribe("log");
    assert!(!bus.is_connected());
    server.start_again();
    assert_eq!(next(&mut subscription).await, Notice::Gap);
    until_heard(&bus, &mut subscription, "log", "heard").await;
}

#[tokio::test]
async fn installations_that_share_a_server_do_not_hear_each_other() {
    let Some(nodes) = Nodes::redis() else { return };
    let other = node(&nodes.server.as_ref().unwrap().url(), "oriel:other");
    let mut ours = subscribed(&nodes.here, "other:log").await;
    let mut theirs = subscribed(&other, "log").await;
    publish(&nodes.there, "log", "ours");
    publish(&other, "log", "theirs");
    assert_eq!(next(&mut theirs).await, message("theirs"));
    publish(&nodes.there, "other:log", "ours as well");
    assert_eq!(next(&mut ours).await, message("ours as well"));
}

#[tokio::test]
async fn a_wrong_url_is_refused_without_repeating_its_secret() {
    for url in ["hunter2", "http://:hunter2@127.0.0.1", "redis://:hunter2@127.0.0.1:port/"] {
        let refused = Bus::open(Some(url), "oriel").unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
    let bus = Bus::open(Some("redis://:hunter2@127.0.0.1:1/"), "oriel").unwrap();
    assert!(!format!("{bus:?}").contains("hunter2"));
    assert!(matches!(Bus::open(None, "oriel").unwrap(), Bus::InProcess(_)));
}
