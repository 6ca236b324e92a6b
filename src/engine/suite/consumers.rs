//! Consumers: nothing skipped, nothing set aside without a word, and nothing set aside in an outage.

use std::collections::BTreeSet;
use std::sync::Mutex;

use oriel_kernel::{EventId, Position};
use tokio::sync::{Semaphore, mpsc};

use super::things::{Count, Label, ThingEvent};
use super::*;
use crate::consumers::{
    Behind, Checkpoint, Consumer, ConsumerError, ConsumerLimits, Consumers, Follower, Following, Lease, Reactor,
    SharedConsumer,
};
use crate::jobs::NewJob;

/// An index in memory that outlives its consumer, and fails as it is told to.
struct Sink {
    held: Mutex<Held>,
    /// Each application takes a permit.
    gate: Semaphore,
    entered: mpsc::UnboundedSender<()>,
}

#[derive(Default)]
struct Held {
    checkpoint: Option<Checkpoint>,
    applied: Vec<i64>,
    poison: BTreeSet<i64>,
    panics: BTreeSet<i64>,
    outages: u32,
    failures: u32,
    resets: u32,
}

struct SinkConsumer(Arc<Sink>);

impl Sink {
    fn new(permits: usize, held: Held) -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
        let (entered, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { held: Mutex::new(held), gate: Semaphore::new(permits), entered }), receiver)
    }

    fn open(held: Held) -> Arc<Self> {
        Self::new(1_000_000, held).0
    }

    fn follower(self: &Arc<Self>) -> Vec<Follower> {
        vec![Follower::PerNode(Arc::new(SinkConsumer(Arc::clone(self))))]
    }

    fn applied(&self) -> Vec<i64> {
        self.held.lock().unwrap().applied.clone()
    }
}

#[async_trait::async_trait]
impl Consumer for SinkConsumer {
    fn name(&self) -> &'static str {
        "sink"
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError> {
        Ok(self.0.held.lock().unwrap().checkpoint)
    }

    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint) -> Result<(), ConsumerError> {
        let _ = self.0.entered.send(());
        self.0.gate.acquire().await.unwrap().forget();
        let mut held = self.0.held.lock().unwrap();
        if held.outages > 0 {
            held.outages -= 1;
            return Err(ConsumerError::Unavailable("the index is not there".to_owned()));
        }
        if held.failures > 0 {
            held.failures -= 1;
            return Err(ConsumerError::Failed("for a moment".to_owned()));
        }
        if let Some(event) = events.iter().find(|event| held.poison.contains(&event.position.number())) {
            return Err(ConsumerError::Failed(format!("cannot bear\0 {}", event.position)));
        }
        let panics = events.iter().any(|event| held.panics.contains(&event.position.number()));
        if panics {
            drop(held);
            panic!("as these tests want it");
        }
        held.applied.extend(events.iter().map(|event| event.position.number()));
        held.checkpoint = Some(to);
        Ok(())
    }

    async fn reset(&self) -> Result<(), ConsumerError> {
        let mut held = self.0.held.lock().unwrap();
        held.checkpoint = None;
        held.applied.clear();
        held.resets += 1;
        Ok(())
    }
}

/// As long as a lease holds here: on the clock that moves when it is told to.
const LEASE: Duration = Duration::from_secs(600);

/// Without waits between attempts.
fn limits(batch: u64) -> ConsumerLimits {
    ConsumerLimits {
        batch,
        attempts: 3,
        backoff: Duration::ZERO,
        longest_backoff: Duration::ZERO,
        lease: LEASE,
        stand_by: Duration::from_millis(5),
        ..ConsumerLimits::default()
    }
}

fn follow(engine: &Arc<Engine>, sink: &Arc<Sink>, batch: u64) -> Consumers {
    Consumers::start(engine, sink.follower(), limits(batch))
}

/// A log of this many events.
async fn grown(place: &Place, events: usize) -> (Arc<Engine>, ThingId) {
    let engine = place.engine().await;
    let id = make(&engine, org(1), "a").await;
    for _ in 1..events {
        count(&engine, org(1), id).await.unwrap();
    }
    (engine, id)
}

async fn reached(consumers: &Consumers, position: i64) {
    consumers.wait_for("sink", Position::new(position), Duration::from_secs(60)).await.unwrap();
}

fn all(range: std::ops::RangeInclusive<i64>) -> Vec<i64> {
    range.collect()
}

/// Everything once and in order, but for these.
fn all_but(range: std::ops::RangeInclusive<i64>, not: &[i64]) -> Vec<i64> {
    range.filter(|n| !not.contains(n)).collect()
}

/// Says that each counted thing has to be counted elsewhere too.
struct Counting;

impl Reactor for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        match event.event_as::<ThingEvent>() {
            Some(ThingEvent::Counted { by }) => {
                let job =
                    |which: &str| NewJob::new("count", event).payload(serde_json::json!({ "by": by, "which": which }));
                vec![job("first"), job("second")]
            }
            _ => vec![],
        }
    }
}

fn counting() -> Vec<Follower> {
    vec![Follower::Reactor(Arc::new(Counting))]
}

async fn react(engine: &Arc<Engine>, position: i64) -> Consumers {
    let consumers = Consumers::start(engine, counting(), limits(7));
    consumers.wait_for("counting", Position::new(position), Duration::from_secs(60)).await.unwrap();
    consumers
}

const JOBS: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM jobs";

on_both! {
    async fn follows_what_is_written(place) {
        let (engine, id) = grown(&place, 25).await;
        let sink = Sink::open(Held::default());
        let consumers = follow(&engine, &sink, 10);
        reached(&consumers, 25).await;
        for _ in 0..5 {
            let committed = count(&engine, org(1), id).await.unwrap();
            reached(&consumers, committed.position.number()).await;
        }
        assert_eq!(sink.applied(), all(1..=30));
        until(|| async { consumers.states()[0].state == Following::Running && consumers.states()[0].lag == Duration::ZERO }).await;
        let state = consumers.states().remove(0);
        assert_eq!((state.name, state.position, state.lag_events, state.set_aside), ("sink", Position::new(30), 0, 0));
        let behind = consumers.wait_for("sink", Position::new(31), Duration::from_millis(1)).await;
        assert_eq!(behind, Err(Behind::At(Position::new(30))));
        assert_eq!(consumers.wait_for("nobody", Position::START, Duration::ZERO).await, Err(Behind::Unknown));
        consumers.stop().await;
        assert_eq!(consumers.states()[0].state, Following::Stopped);
    }

    async fn goes_on_where_it_was_dropped(place) {
        let (engine, _) = grown(&place, 30).await;
        let (sink, mut entered) = Sink::new(1, Held::default());
        let consumers = follow(&engine, &sink, 10);
        // The first batch is through, the second has begun and hangs.
        in_time(entered.recv()).await.unwrap();
        in_time(entered.recv()).await.unwrap();
        assert_eq!(sink.applied(), all(1..=10));
        drop(consumers);
        sink.gate.add_permits(1_000);
        let consumers = follow(&place.engine().await, &sink, 10);
        reached(&consumers, 30).await;
        assert_eq!(sink.applied(), all(1..=30));
    }

    async fn stops_at_a_batch(place) {
        let (engine, _) = grown(&place, 30).await;
        let (sink, mut entered) = Sink::new(0, Held::default());
        let consumers = follow(&engine, &sink, 10);
        in_time(entered.recv()).await.unwrap();
        // The batch that is on its way is brought to its end, and no other is begun.
        let (_, ()) = tokio::join!(in_time(consumers.stop()), async { sink.gate.add_permits(1_000) });
        assert_eq!(sink.applied(), all(1..=10));
        let consumers = follow(&engine, &sink, 10);
        reached(&consumers, 30).await;
        assert_eq!(sink.applied(), all(1..=30));
    }

    async fn sets_a_poisoned_event_aside(place) {
        let (engine, id) = grown(&place, 40).await;
        let (poison, panics) = (BTreeSet::from([7, 8, 33]), BTreeSet::from([20]));
        let sink = Sink::open(Held { poison, panics, ..Held::default() });
        let consumers = follow(&engine, &sink, 16);
        reached(&consumers, 40).await;
        assert_eq!(sink.applied(), all_but(1..=40, &[7, 8, 20, 33]));
        let aside = consumers.set_aside("sink", 10).await.unwrap();
        let aside: Vec<_> = aside.iter().map(|one| (one.position.number(), one.attempts, one.error.as_str())).collect();
        let expected = [(33, 3, "cannot bear 33"), (20, 3, "the consumer panicked"), (8, 3, "cannot bear 8"), (7, 3, "cannot bear 7")];
        assert_eq!(aside, expected);
        assert_eq!(consumers.states()[0].set_aside, 4);
        // It goes on, and remembers after a restart.
        let committed = count(&engine, org(1), id).await.unwrap();
        reached(&consumers, committed.position.number()).await;
        consumers.stop().await;
        let consumers = follow(&engine, &sink, 16);
        reached(&consumers, 41).await;
        assert_eq!(consumers.states()[0].set_aside, 4);
        assert_eq!(sink.applied().last(), Some(&41));
    }

    async fn a_poisoned_last_event_is_not_tried_for_ever(place) {
        let (engine, _) = grown(&place, 3).await;
        let sink = Sink::open(Held { poison: BTreeSet::from([1, 2, 3]), ..Held::default() });
        let consumers = follow(&engine, &sink, 10);
        reached(&consumers, 3).await;
        assert_eq!(sink.applied(), Vec::<i64>::new());
        assert_eq!(sink.held.lock().unwrap().checkpoint.map(|(position, _)| position), Some(Position::new(3)));
        assert_eq!(consumers.states()[0].set_aside, 3);
    }

    async fn a_passing_failure_sets_nothing_aside(place) {
        let (engine, _) = grown(&place, 20).await;
        let sink = Sink::open(Held { failures: 2, ..Held::default() });
        let consumers = follow(&engine, &sink, 10);
        reached(&consumers, 20).await;
        assert_eq!((sink.applied(), consumers.states()[0].set_aside), (all(1..=20), 0));
    }

    async fn an_outage_is_waited_out(place) {
        let (engine, _) = grown(&place, 20).await;
        let sink = Sink::open(Held { outages: 50, ..Held::default() });
        let consumers = follow(&engine, &sink, 10);
        reached(&consumers, 20).await;
        assert_eq!((sink.applied(), consumers.states()[0].set_aside), (all(1..=20), 0));
        assert_eq!(consumers.states()[0].last_error.as_deref(), Some("not available: the index is not there"));
        assert!(consumers.set_aside("sink", 10).await.unwrap().is_empty());
    }

    async fn another_history_begins_anew(place) {
        let (engine, _) = grown(&place, 12).await;
        let strange = EventId::from_uuid(Uuid::from_u128(1));
        // Another event at that place, and a place beyond the end.
        for checkpoint in [(Position::new(5), strange), (Position::new(500), strange)] {
            let sink = Sink::open(Held { checkpoint: Some(checkpoint), applied: vec![77], ..Held::default() });
            let consumers = follow(&engine, &sink, 10);
            until(|| async { sink.applied() == all(1..=12) }).await;
            assert_eq!(sink.held.lock().unwrap().resets, 1);
            consumers.stop().await;
        }
    }

    async fn a_reactor_makes_its_jobs_once(place) {
        let (engine, id) = grown(&place, 21).await;
        let consumers = react(&engine, 21).await;
        assert_eq!(number(&engine, JOBS).await, 40);
        consumers.stop().await;
        count(&engine, org(1), id).await.unwrap();
        // After a restart it goes on.
        let consumers = react(&engine, 22).await;
        assert_eq!(number(&engine, JOBS).await, 42);
        consumers.stop().await;
        // Even from the beginning it makes no job twice.
        engine.database().writer().execute_unprepared("DELETE FROM consumers").await.unwrap();
        let consumers = react(&engine, 22).await;
        assert_eq!(number(&engine, JOBS).await, 42);
        consumers.stop().await;
        // In another history it does nothing but say so.
        let sql = "UPDATE consumers SET position = 3";
        engine.database().writer().execute_unprepared(sql).await.unwrap();
        let consumers = Consumers::start(&engine, counting(), limits(7));
        until(|| async { consumers.states()[0].state == Following::OtherHistory }).await;
        assert_eq!(number(&engine, "SELECT position FROM consumers").await, 3);
        in_time(consumers.stop()).await;
    }

    /// What nothing is to be done for costs no transaction: the row stays behind, and is written when that has gone on
    /// long enough, when the lease is renewed, and at the end.
    async fn what_leads_to_no_job_is_passed_in_memory(place) {
        let (engine, id) = grown(&place, 1).await;
        let row = || number(&engine, "SELECT position FROM consumers");
        let label = async |n: i64| {
            engine.execute(&context(&engine, org(1)), id, Label(n.to_string())).await.unwrap();
        };
        let start = |limits| Consumers::start(&engine, counting(), limits);
        let passed = async |consumers: &Consumers, position| {
            consumers.wait_for("counting", Position::new(position), Duration::from_secs(60)).await.unwrap();
        };
        let consumers = start(ConsumerLimits { lazy: 4, ..limits(7) });
        for n in 1..=7 {
            if n > 1 {
                label(n).await;
            }
            passed(&consumers, n).await;
            assert_eq!(row().await, n / 4 * 4);
        }
        // What is to be done moves the row with it.
        count(&engine, org(1), id).await.unwrap();
        passed(&consumers, 8).await;
        assert_eq!((row().await, number(&engine, JOBS).await), (8, 2));
        label(9).await;
        passed(&consumers, 9).await;
        assert_eq!(row().await, 8);
        consumers.stop().await;
        assert_eq!(row().await, 9);
        // Killed, it comes again to what it had passed.
        label(10).await;
        let consumers = react(&engine, 10).await;
        drop(consumers);
        assert_eq!(row().await, 9);
        if engine.shared_with_other_nodes() {
            place.sources.advance(LEASE);
        }
        let consumers = start(ConsumerLimits { lease: Duration::from_millis(30), ..limits(7) });
        passed(&consumers, 10).await;
        until(|| async { row().await == 10 }).await;
        label(11).await;
        until(|| async { row().await == 11 }).await;
        assert_eq!(number(&engine, JOBS).await, 2);
        in_time(consumers.stop()).await;
    }

    /// What others have written is not in the feed: it is read, and nothing of it is left out or comes twice.
    async fn follows_what_several_write(place) {
        let (engine, id) = grown(&place, 1).await;
        let sink = Sink::open(Held::default());
        let consumers = follow(&engine, &sink, 3);
        let others = if engine.shared_with_other_nodes() { place.engine().await } else { Arc::clone(&engine) };
        let mut last = 1;
        for n in 0..20 {
            let writer = if n % 3 == 0 { &others } else { &engine };
            let times = if n % 5 == 0 { 7 } else { 1 };
            let more = Count { by: 1, times, beside: None };
            last = writer.execute(&context(writer, org(1)), id, more).await.unwrap().position.number();
        }
        engine.feed().catch_up().await.unwrap();
        reached(&consumers, last).await;
        assert_eq!(sink.applied(), all(1..=last));
        in_time(consumers.stop()).await;
    }

    /// One process owns an SQLite database: the lease of one that was killed is void, and nobody waits for its end.
    async fn where_one_process_owns_the_log_nobody_waits(place) {
        let (engine, id) = grown(&place, 21).await;
        if engine.shared_with_other_nodes() {
            return;
        }
        drop(react(&engine, 21).await);
        count(&engine, org(1), id).await.unwrap();
        let consumers = react(&engine, 22).await;
        assert_eq!(number(&engine, JOBS).await, 42);
        consumers.stop().await;
    }
}

/// What others have applied: from where, and up to where.
type Heard = Arc<Mutex<Vec<(Option<i64>, i64)>>>;

/// Copies the log into a table that all nodes share, each event with the node that applied it.
struct Copies {
    node: &'static str,
    engine: Arc<Engine>,
    /// Each application takes a permit, after it was begun and before it writes.
    gate: Arc<Semaphore>,
    entered: mpsc::UnboundedSender<()>,
    elsewhere: Heard,
}

#[async_trait::async_trait]
impl SharedConsumer for Copies {
    fn name(&self) -> &'static str {
        "copies"
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ConsumerError> {
        Ok(self.engine.shared_checkpoint("copies").await?)
    }

    async fn apply(&self, events: &[Arc<Recorded>], to: Checkpoint, lease: &Lease) -> Result<(), ConsumerError> {
        let _ = self.entered.send(());
        self.gate.acquire().await.unwrap().forget();
        let transaction = lease.begin(Some(to)).await?;
        for event in events {
            let sql = format!("INSERT INTO copies VALUES ({}, '{}')", event.position, self.node);
            transaction.execute_unprepared(&sql).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn applied_elsewhere(&self, from: Option<Position>, to: Position) -> Result<(), ConsumerError> {
        self.elsewhere.lock().unwrap().push((from.map(Position::number), to.number()));
        Ok(())
    }

    async fn reset(&self, lease: &Lease) -> Result<(), ConsumerError> {
        lease.restart().await
    }
}

/// One node that may lead, as if in a process of its own.
struct Node {
    consumers: Consumers,
    gate: Arc<Semaphore>,
    entered: mpsc::UnboundedReceiver<()>,
    elsewhere: Heard,
}

impl Node {
    async fn start(place: &Place, node: &'static str, permits: usize) -> Self {
        let (sender, entered) = mpsc::unbounded_channel();
        let (gate, elsewhere) = (Arc::new(Semaphore::new(permits)), Heard::default());
        let engine = place.engine().await;
        let copies = Copies {
            node,
            engine: Arc::clone(&engine),
            gate: Arc::clone(&gate),
            entered: sender,
            elsewhere: Arc::clone(&elsewhere),
        };
        let consumers = Consumers::start(&engine, vec![Follower::Shared(Arc::new(copies))], limits(10));
        Self { consumers, gate, entered, elsewhere }
    }

    async fn is(&self, state: Following) {
        until(|| async { self.consumers.states()[0].state == state }).await;
    }

    async fn reached(&self, position: i64) {
        self.consumers.wait_for("copies", Position::new(position), Duration::from_secs(60)).await.unwrap();
    }
}

const OPEN: usize = 1_000_000;

/// A log of 30 events and the table of copies; where other processes may write to the same log.
async fn shared(place: &Place) -> Option<(Arc<Engine>, ThingId)> {
    let (engine, id) = grown(place, 30).await;
    engine.database().writer().execute_unprepared("CREATE TABLE copies (position BIGINT, node TEXT)").await.unwrap();
    engine.shared_with_other_nodes().then_some((engine, id))
}

/// Who applied each event, in order; each was applied once.
async fn copied(engine: &Engine, events: i64) -> Vec<String> {
    let sql = "SELECT position, node FROM copies ORDER BY position";
    let rows = engine.database().query(sql, vec![]).await.unwrap();
    let positions: Vec<i64> = rows.iter().map(|row| row.try_get("", "position").unwrap()).collect();
    assert_eq!(positions, all(1..=events));
    rows.iter().map(|row| row.try_get("", "node").unwrap()).collect()
}

on_both! {
    async fn one_node_leads_and_the_others_stand_by(place) {
        let Some((engine, id)) = shared(&place).await else { return };
        let first = Node::start(&place, "first", OPEN).await;
        first.reached(30).await;
        let second = Node::start(&place, "second", OPEN).await;
        second.is(Following::StandingBy).await;
        for _ in 0..5 {
            count(&engine, org(1), id).await.unwrap();
        }
        // Who stands by knows how far it is, and what this process has not applied itself.
        second.reached(35).await;
        let heard = second.elsewhere.lock().unwrap().clone();
        assert_eq!((heard.first(), heard.last().map(|(_, to)| *to)), (Some(&(None, 30)), Some(35)));
        assert!(heard.windows(2).all(|two| two[1].0 == Some(two[0].1)), "without a gap: {heard:?}");
        // Ended in order, it gives the lease back: nobody's clock has to move.
        in_time(first.consumers.stop()).await;
        for _ in 0..5 {
            count(&engine, org(1), id).await.unwrap();
        }
        second.reached(40).await;
        assert_eq!(copied(&engine, 40).await, [vec!["first"; 35], vec!["second"; 5]].concat());
        assert!(first.consumers.states()[0].set_aside + second.consumers.states()[0].set_aside == 0);
    }

    async fn another_goes_on_where_the_leader_vanished(place) {
        let Some((engine, id)) = shared(&place).await else { return };
        let mut first = Node::start(&place, "first", 2).await;
        for _ in 0..3 {
            in_time(first.entered.recv()).await.unwrap();
        }
        let second = Node::start(&place, "second", OPEN).await;
        second.is(Following::StandingBy).await;
        // Killed in the third batch. As long as its lease holds, nobody follows.
        drop(first);
        count(&engine, org(1), id).await.unwrap();
        second.reached(20).await;
        assert_eq!(copied(&engine, 20).await, vec!["first"; 20]);
        place.sources.advance(LEASE);
        second.reached(31).await;
        assert_eq!(copied(&engine, 31).await, [vec!["first"; 20], vec!["second"; 11]].concat());
    }

    async fn who_wakes_up_after_its_lease_writes_nothing(place) {
        let Some((engine, id)) = shared(&place).await else { return };
        let mut first = Node::start(&place, "first", 1).await;
        for _ in 0..2 {
            in_time(first.entered.recv()).await.unwrap();
        }
        let second = Node::start(&place, "second", OPEN).await;
        second.is(Following::StandingBy).await;
        // It stands still in its second batch, another one takes over.
        place.sources.advance(LEASE);
        second.reached(30).await;
        first.gate.add_permits(OPEN);
        first.is(Following::StandingBy).await;
        first.reached(30).await;
        for _ in 0..5 {
            count(&engine, org(1), id).await.unwrap();
        }
        first.reached(35).await;
        assert_eq!(copied(&engine, 35).await, [vec!["first"; 10], vec!["second"; 25]].concat());
        assert_eq!(number(&engine, "SELECT fence FROM consumers").await, 2);
    }

    async fn two_processes_make_jobs_once(place) {
        let (engine, _) = grown(&place, 60).await;
        if !engine.shared_with_other_nodes() {
            return;
        }
        let nodes = [place.engine().await, place.engine().await];
        let consumers = [&nodes[0], &nodes[1]].map(|node| Consumers::start(node, counting(), limits(3)));
        for consumers in &consumers {
            consumers.wait_for("counting", Position::new(60), Duration::from_secs(60)).await.unwrap();
        }
        assert_eq!(number(&engine, JOBS).await, 118);
        assert_eq!(number(&engine, "SELECT position FROM consumers").await, 60);
        assert!(consumers.iter().all(|consumers| consumers.states()[0].set_aside == 0));
    }
}
