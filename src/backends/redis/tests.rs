//! What is shared through Redis, on one server, on what Sentinels watch, and on a Cluster; and what is lost with it.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use tokio::time::timeout;

use super::test_servers::{RedisCluster, WatchedRedis};
use super::*;
use crate::bus::redis_server::RedisServer;
use crate::bus::{Bus, Notice, RedisBus, Subscription, Timing as BusTiming};
use crate::resilience::State;

const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE: Budget = Budget { capacity: 100.0, fills_in: Duration::from_secs(60) };
/// A breaker that soon tries again, and a server that may be slow: the machine is.
const TIMING: Timing = Timing {
    connect: Duration::from_secs(5),
    pause: Pause { least: Duration::from_millis(10), most: Duration::from_millis(100) },
    policy: Policy {
        time_out: Some(Duration::from_secs(5)),
        attempts: 1,
        pause: Pause { least: Duration::from_millis(10), most: Duration::from_millis(100) },
        breaker: Limits { outages: 5, open_for: Duration::from_millis(300), look_after: Duration::from_millis(300) },
        running: 64,
        waiting: 64,
    },
};

/// Something that holds the servers of one kind.
struct Servers<S> {
    url: String,
    _servers: S,
}

fn one() -> Option<Servers<RedisServer>> {
    RedisServer::start().map(|server| Servers { url: server.url(), _servers: server })
}

fn watched() -> Option<Servers<WatchedRedis>> {
    WatchedRedis::start().map(|servers| Servers { url: servers.url(), _servers: servers })
}

fn cluster() -> Option<Servers<RedisCluster>> {
    RedisCluster::start().map(|servers| Servers { url: servers.url(), _servers: servers })
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        contract! { one: $($name),* }
        contract! { watched: $($name),* }
        contract! { cluster: $($name),* }
    };
    ($kind:ident: $($name:ident),*) => {
        mod $kind {
            $(#[tokio::test]
            async fn $name() {
                if let Some(servers) = super::$kind() {
                    super::$name(&servers.url).await;
                }
            })*
        }
    };
}

contract!(nodes_share_a_budget, nodes_share_attempts, nodes_share_what_is_kept, nodes_hear_each_other);

async fn nodes_share_attempts(url: &str) {
    let (a, b) = (node(url, "attempts", TIMING).await, node(url, "attempts", TIMING).await);
    let rule = |free| Waits { free, longest: Duration::from_secs(60) };
    let attempt =
        async |node: &Redis, under: &[(&str, Waits)]| node.attempt(under, Duration::from_secs(60)).await.unwrap();
    let counted = |failures, seconds| Counted { failures, wait: Duration::from_secs(seconds) };
    // Under two names at once; whoever asks.
    let both = [("account", rule(2)), ("place", rule(9))];
    assert_eq!(attempt(&a, &both).await, Attempted { may: true, counters: vec![counted(1, 0); 2] });
    assert_eq!(attempt(&b, &both).await, Attempted { may: true, counters: vec![counted(2, 1), counted(2, 0)] });
    // One that is taken back is not counted, and what is forgotten never was.
    a.take_back(&[("account", true), ("place", false), ("never", false)]).await.unwrap();
    let fresh = attempt(&b, &both).await;
    assert_eq!(fresh, Attempted { may: true, counters: vec![counted(1, 0), counted(2, 0)] });
    // Many at once are no way around.
    let (one, began) = ([("many", rule(5))], Instant::now());
    let many = (0..20).map(|n| attempt(if n % 2 == 0 { &a } else { &b }, &one));
    let may = futures::future::join_all(many).await.into_iter().filter(|attempted| attempted.may).count();
    // One more for each wait that has ended meanwhile: a second, two, four.
    let waits = (1.0 + began.elapsed().as_secs_f64()).log2() as usize;
    assert!((5..=5 + waits).contains(&may), "{may}");
    // Twice as long each time, and not longer than the longest.
    for before in 0..10 {
        let name = format!("wait {before}");
        for _ in 0..before {
            let none = Waits { free: 0, longest: Duration::ZERO };
            assert!(attempt(&a, &[(name.as_str(), none)]).await.may);
        }
        let waits = attempt(&b, &[(name.as_str(), rule(3))]).await.counters[0].wait;
        let expected = if before < 2 { 0 } else { (1 << (before - 2)).min(60) };
        assert_eq!(waits, Duration::from_secs(expected), "after {before}");
    }
    // Who has to wait under one name is refused, and is counted under none.
    let refused = attempt(&a, &[("wait 9", rule(3)), ("other", rule(9))]).await;
    assert!(!refused.may && refused.counters[0].failures == 10, "{refused:?}");
    assert_eq!(refused.counters[1], Counted::default());
    // Of another installation nothing is known.
    let other = node(url, "elsewhere", TIMING).await;
    assert_eq!(attempt(&other, &both).await.counters, vec![counted(1, 0); 2]);
}

async fn node(url: &str, namespace: &str, timing: Timing) -> Redis {
    let redis = Redis::with(url, namespace, timing, Arc::new(SystemSources)).unwrap();
    up(&redis).await;
    redis
}

/// Waits until it answers.
async fn up(redis: &Redis) {
    let began = Instant::now();
    while let Err(error) = redis.ping().await {
        assert!(began.elapsed() < PATIENCE, "it does not answer: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn nodes_share_a_budget(url: &str) {
    let (a, b) = (node(url, "oriel", TIMING).await, node(url, "oriel", TIMING).await);
    let other = node(url, "other", TIMING).await;
    let began = Instant::now();
    for (n, redis) in [&a, &b].into_iter().cycle().take(10).enumerate() {
        let balance = redis.spend("rate:ada", MINUTE, 9.0, 0.0).await.unwrap();
        let left = 100.0 - 9.0 * (n as f64 + 1.0);
        assert!(balance.was_enough && balance.left >= left && balance.left <= left + filled(began), "{balance:?}");
    }
    let refused = b.spend("rate:ada", MINUTE, 50.0, 0.0).await.unwrap();
    assert!(!refused.was_enough && refused.left >= 10.0 && refused.left <= 10.0 + filled(began), "{refused:?}");
    // What is owed is taken in any case.
    let owed = a.spend("rate:ada", MINUTE, 50.0, 9.0).await.unwrap();
    assert!(!owed.was_enough && owed.left <= 1.0 + filled(began), "{owed:?}");
    // Others have their own, and so has another installation.
    for (redis, name) in [(&a, "rate:bob"), (&other, "rate:ada")] {
        assert!(redis.spend(name, MINUTE, 100.0, 0.0).await.unwrap().was_enough);
    }
    // However many ask at once, no more is spent than there is.
    let began = Instant::now();
    let asked = (0..100).map(|n| if n % 2 == 0 { &a } else { &b }.spend("rate:eve", MINUTE, 3.0, 0.0));
    let balances = futures::future::join_all(asked).await;
    let spent = 3 * balances.iter().filter(|balance| balance.as_ref().unwrap().was_enough).count();
    assert!(spent >= 99 && spent as f64 <= 100.0 + filled(began), "{spent}");
    // It fills evenly.
    let fast = Budget { capacity: 1_000.0, fills_in: Duration::from_secs(1) };
    let began = Instant::now();
    assert!(a.spend("rate:fast", fast, 1_000.0, 0.0).await.unwrap().was_enough);
    while !b.spend("rate:fast", fast, 300.0, 0.0).await.unwrap().was_enough {
        assert!(began.elapsed() < PATIENCE, "it does not fill");
    }
    assert!(began.elapsed() >= Duration::from_millis(200), "it fills too fast: {:?}", began.elapsed());
}

/// What may have come back since then.
fn filled(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() + 0.1) * MINUTE.capacity / MINUTE.fills_in.as_secs_f64()
}

async fn nodes_share_what_is_kept(url: &str) {
    let (a, b) = (node(url, "oriel", TIMING).await, node(url, "oriel", TIMING).await);
    let other = node(url, "other", TIMING).await;
    let value = b"\0 any bytes \xff".as_slice();
    for number in 0..20 {
        a.put(&format!("answer:{number}"), value, Duration::from_secs(60)).await.unwrap();
        assert_eq!(b.get(&format!("answer:{number}")).await.unwrap().as_deref(), Some(value));
    }
    assert_eq!(b.get("answer:20").await.unwrap(), None);
    assert_eq!(other.get("answer:1").await.unwrap(), None);
    a.put("answer:long", &vec![0; MAX_VALUE + 1], Duration::from_secs(60)).await.unwrap();
    assert_eq!(b.get("answer:long").await.unwrap(), None);
    a.put("answer:short", value, Duration::from_secs(1)).await.unwrap();
    let began = Instant::now();
    while b.get("answer:short").await.unwrap().is_some() {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(a.health().is_up() && !format!("{a:?}").contains("127.0.0.1"), "{a:?}");
}

fn bus(url: &str) -> Bus {
    let pause = Pause { least: Duration::from_millis(20), most: Duration::from_millis(200) };
    let timing = BusTiming { answer: Duration::from_secs(2), ping: Duration::from_millis(200), pause };
    Bus::Redis(Arc::new(RedisBus::open(url, "oriel", timing).unwrap()))
}

/// Publishes until it is heard.
async fn heard(from: &Bus, subscription: &mut Subscription, text: &'static str) {
    let began = Instant::now();
    loop {
        from.publish("log", Bytes::from_static(text.as_bytes())).unwrap();
        while let Ok(notice) = timeout(Duration::from_millis(100), subscription.next()).await {
            if notice == Some(Notice::Message(Bytes::from_static(text.as_bytes()))) {
                return;
            }
        }
        assert!(began.elapsed() < PATIENCE, "it is not heard");
    }
}

async fn nodes_hear_each_other(url: &str) {
    // In a cluster each of them is connected to another server.
    let nodes = [bus(url), bus(url), bus(url)];
    let mut subscriptions = nodes.each_ref().map(|node| node.subscribe("log"));
    for (node, text) in nodes.iter().zip(["one", "two", "three"]) {
        for subscription in &mut subscriptions {
            heard(node, subscription, text).await;
        }
    }
}

#[tokio::test]
async fn a_stopped_server_costs_no_time_and_is_found_again() {
    let Some(mut server) = RedisServer::start() else { return };
    let redis = node(&server.url(), "oriel", TIMING).await;
    server.stop();
    let began = Instant::now();
    while redis.health().state != State::Open {
        assert!(redis.spend("rate:ada", MINUTE, 1.0, 0.0).await.is_err());
        assert!(began.elapsed() < PATIENCE, "nobody noticed");
    }
    assert!(!redis.health().is_up() && redis.health().last_error.is_some());
    let began = Instant::now();
    for _ in 0..1_000 {
        assert!(redis.get("answer").await.is_err());
    }
    assert!(began.elapsed() < PATIENCE, "they waited for it: {:?}", began.elapsed());
    server.start_again();
    up(&redis).await;
    assert!(redis.spend("rate:ada", MINUTE, 1.0, 0.0).await.unwrap().was_enough, "it knows its script again");
    assert!(redis.health().is_up());
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_five_times() {
    let Some(server) = RedisServer::start() else { return };
    let limit = Duration::from_millis(200);
    let policy = Policy { time_out: Some(limit), breaker: Limits::default(), ..TIMING.policy };
    let redis = node(&server.url(), "oriel", Timing { policy, ..TIMING }).await;
    // The machine may have been slow before.
    assert_eq!(redis.health().state, State::Closed);
    server.freeze();
    let (mut waited, mut began) = (0, Instant::now());
    while redis.health().state != State::Open {
        let asked = Instant::now();
        assert!(redis.get("answer").await.is_err());
        waited += u32::from(asked.elapsed() >= limit);
        assert!(began.elapsed() < PATIENCE, "nobody noticed");
    }
    assert!(waited <= 5, "{waited}");
    began = Instant::now();
    for _ in 0..1_000 {
        assert!(redis.get("answer").await.is_err());
    }
    assert!(began.elapsed() < PATIENCE, "they waited for it: {:?}", began.elapsed());
    server.thaw();
}

#[tokio::test]
async fn a_node_begins_without_its_server() {
    let Some(mut server) = RedisServer::start() else { return };
    server.stop();
    let redis = Redis::with(&server.url(), "oriel", TIMING, Arc::new(SystemSources)).unwrap();
    assert!(redis.ping().await.is_err());
    server.start_again();
    up(&redis).await;
}

#[tokio::test]
async fn the_replica_takes_over() {
    let Some(mut servers) = WatchedRedis::start() else { return };
    let url = servers.url();
    let redis = node(&url, "oriel", TIMING).await;
    let (here, there) = (bus(&url), bus(&url));
    let mut subscription = there.subscribe("log");
    heard(&here, &mut subscription, "before").await;
    redis.put("answer", b"kept", PATIENCE).await.unwrap();
    servers.primary.stop();
    let began = Instant::now();
    loop {
        // Written: so it is the new primary that answers.
        if redis.put("answer", b"kept again", PATIENCE).await.is_ok() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the replica does not take over: {:?}", redis.health());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("Sentinel: what nodes share is there again after {:?}", began.elapsed());
    assert_eq!(redis.get("answer").await.unwrap().as_deref(), Some(b"kept again".as_slice()));
    assert!(redis.spend("rate:ada", MINUTE, 1.0, 0.0).await.unwrap().was_enough);
    heard(&here, &mut subscription, "after").await;
}

#[tokio::test]
async fn a_server_of_a_cluster_is_lost_and_comes_back() {
    let Some(mut servers) = RedisCluster::start() else { return };
    let url = servers.url();
    let redis = node(&url, "oriel", TIMING).await;
    let (here, there) = (bus(&url), bus(&url));
    let mut subscription = there.subscribe("log");
    heard(&here, &mut subscription, "before").await;
    let names: Vec<String> = (0..30).map(|n| format!("answer:{n}")).collect();
    servers.nodes[0].stop();
    // Two thirds of the keys are where they were, as soon as it is known that the others are gone.
    let began = Instant::now();
    loop {
        let mut kept = 0;
        for name in &names {
            kept += usize::from(redis.put(name, b"kept", PATIENCE).await.is_ok());
        }
        if kept >= 10 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "with one server the others are lost: {kept}");
    }
    heard(&here, &mut subscription, "meanwhile").await;
    servers.nodes[0].start_again();
    let began = Instant::now();
    loop {
        let mut all = true;
        for name in &names {
            all &= redis.put(name, b"kept", PATIENCE).await.is_ok();
        }
        if all {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it does not come back: {:?}", redis.health());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    heard(&here, &mut subscription, "after").await;
}
