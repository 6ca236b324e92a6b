//! How often the database is asked, counted on the wire: a proxy stands before PostgreSQL and counts each time that
//! the client speaks after the server has answered. Pings are counted apart: the pool sends one when a connection is
//! given back, while nobody waits for it.

use std::path::PathBuf;

use futures::future::join_all;
use oriel_kernel::Position;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::things::{Label, Make};
use super::*;
use crate::keyring::Keyring;
use crate::log::{Log, LogError, Sealed};
use crate::testing;

struct Proxy {
    _folder: tempfile::TempDir,
    url: Location,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    trips: AtomicU64,
    pings: AtomicU64,
}

/// The message `Sync` alone.
const PING: &[u8] = b"S\0\0\0\x04";

impl Proxy {
    fn before(location: &Location, database: &str) -> Self {
        let server = testing::postgres().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let counts = Arc::new(Counts::default());
        tokio::spawn(accept(listener, server.socket(), Arc::clone(&counts)));
        assert!(matches!(location, Location::Postgres(_)));
        let url = Location::parse(&server.url(folder.path(), database)).unwrap();
        Self { _folder: folder, url, counts }
    }

    fn trips(&self) -> u64 {
        self.counts.trips.load(Ordering::SeqCst)
    }

    fn pings(&self) -> u64 {
        self.counts.pings.load(Ordering::SeqCst)
    }
}

async fn accept(listener: UnixListener, server: PathBuf, counts: Arc<Counts>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = UnixStream::connect(&server).await.unwrap();
        tokio::spawn(relay(client, server, Arc::clone(&counts)));
    }
}

async fn relay(mut client: UnixStream, mut server: UnixStream, counts: Arc<Counts>) -> std::io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut server_spoke_last = true;
    loop {
        tokio::select! {
            n = client.read(&mut asked) => match n? {
                0 => return Ok(()),
                n => {
                    let count = if &asked[..n] == PING { &counts.pings } else { &counts.trips };
                    count.fetch_add(u64::from(server_spoke_last), Ordering::SeqCst);
                    server_spoke_last = false;
                    server.write_all(&asked[..n]).await?;
                }
            },
            n = server.read(&mut answered) => match n? {
                0 => return Ok(()),
                n => {
                    server_spoke_last = true;
                    client.write_all(&answered[..n]).await?;
                }
            },
        }
    }
}

/// An engine behind a proxy, and the proxy.
async fn watched() -> Option<(Place, Arc<Engine>, Proxy)> {
    let place = Place::postgres().await?;
    let Location::Postgres(_) = &place.location else { return None };
    let database = place.database_name().await;
    let proxy = Proxy::before(&place.location, &database);
    let connections = Database::open(&proxy.url, 2).await.unwrap();
    // Six read models: what a batch costs does not depend on how many it touches.
    echoes::create(&connections).await;
    let read_models = things::read_models().into_iter().chain(echoes::read_models()).collect();
    let engine = place.engine_of(connections, QueueLimits::default(), read_models).await;
    Some((place, engine, proxy))
}

impl Place {
    async fn database_name(&self) -> String {
        let database = Database::open(&self.location, 2).await.unwrap();
        let sql = "SELECT CAST(current_database() AS TEXT) AS name";
        let name = database.query(sql, vec![]).await.unwrap()[0].try_get("", "name").unwrap();
        database.close().await;
        name
    }
}

/// Everything prepared on every connection, so that only what is asked each time is counted.
async fn warm(engine: &Engine) -> Vec<ThingId> {
    let mut things = Vec::new();
    for n in 0..12u128 {
        let id = make(engine, org(n % 3), &format!("{n}")).await;
        count(engine, org(n % 3), id).await.unwrap();
        engine.execute(&context(engine, org(n % 3)), id, Label(format!("again {n}"))).await.unwrap();
        things.push(id);
    }
    for _ in 0..4 {
        join_all(things.iter().enumerate().map(|(n, id)| count(engine, org(n as u128 % 3), *id))).await;
    }
    things
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_takes_at_most_eight_round_trips() {
    let Some((_place, engine, proxy)) = watched().await else { return };
    let things = warm(&engine).await;

    // A hot aggregate: nothing is asked but by the committer.
    let before = proxy.trips();
    count(&engine, org(0), things[0]).await.unwrap();
    let hot = proxy.trips() - before;
    assert!((3..=8).contains(&hot), "{hot} round trips");
    assert_eq!(number(&engine, "SELECT SUM(CAST(total AS BIGINT))::bigint FROM echo_fifth").await, 12 * 5 + 1);
    let before = proxy.trips();
    engine.execute(&context(&engine, org(1)), things[1], Label("with facts".to_owned())).await.unwrap();
    let facts = proxy.trips() - before;
    assert!((3..=8).contains(&facts), "{facts} round trips");
    let (before, pings) = (proxy.trips(), proxy.pings());
    for _ in 0..20 {
        count(&engine, org(0), things[0]).await.unwrap();
    }
    assert_eq!(proxy.trips() - before, 20 * hot);
    let pings = proxy.pings() - pings;
    assert!(pings < 30, "{pings} pings for 20 uses of a connection: it is asked before each");

    // A forgotten one: one question more.
    engine.aggregates.invalidate(&things[0].uuid());
    let before = proxy.trips();
    count(&engine, org(0), things[0]).await.unwrap();
    assert_eq!(proxy.trips() - before, hot + 1);

    // A new one: loading it, and no more.
    let command = Make { label: "new".to_owned(), owner: person(1), name: "Ada" };
    let before = proxy.trips();
    engine.execute(&context(&engine, org(0)), engine.new_id(), command).await.unwrap();
    let new = proxy.trips() - before;
    assert!(new <= 8 + 1, "{new} round trips");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commands_share_their_round_trips() {
    let Some((_place, engine, proxy)) = watched().await else { return };
    let things = warm(&engine).await;
    // While the lock is held elsewhere everything queues; at most two batches take it all.
    let lock = engine.database().begin_ordered().await.unwrap();
    let counts = things.iter().enumerate().map(|(n, id)| {
        let (engine, id) = (Arc::clone(&engine), *id);
        tokio::spawn(async move { count(&engine, org(n as u128 % 3), id).await.unwrap() })
    });
    let counts: Vec<_> = counts.collect();
    until(|| async { engine.queued_commands() >= things.len() - 1 }).await;
    let before = proxy.trips();
    lock.rollback().await.unwrap();
    for count in counts {
        in_time(count).await.unwrap();
    }
    let trips = proxy.trips() - before;
    assert!(trips <= 1 + 2 * 8, "{trips} round trips for {} commands", things.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_page_are_one_question() {
    let Some((_place, engine, proxy)) = watched().await else { return };
    for n in 0..50 {
        let command = Make { label: format!("{n}"), owner: person(n), name: "Ada Lovelace" };
        engine.execute(&context(&engine, org(1)), engine.new_id(), command).await.unwrap();
    }
    let sql = "SELECT position, type, data FROM events ORDER BY position";
    let rows = engine.database().query(sql, vec![]).await.unwrap();
    let payloads: Vec<(i64, String, Vec<u8>)> = rows
        .iter()
        .map(|row| {
            (row.try_get("", "position").unwrap(), row.try_get("", "type").unwrap(), row.try_get("", "data").unwrap())
        })
        .collect();
    let sealed = payloads.iter().map(|(position, event_type, data)| Sealed {
        position: Position::new(*position),
        organization: org(1),
        stream: "thing",
        event_type,
        type_version: if *position == 7 { 99 } else { 1 },
        data,
    });
    let sealed: Vec<_> = sealed.collect();
    // A process that has no key at hand.
    let master = Arc::new(MasterKey::new([7; 32]));
    let cold = Keyring::open(engine.database().clone(), master, engine.now()).await.unwrap();
    let log = Log::new(engine.database().clone(), Arc::new(cold), &things::DECODERS);
    let before = proxy.trips();
    let opened = log.unseal(&sealed).await.unwrap();
    let trips = proxy.trips() - before;
    // One question, and on a connection that has not heard it before its preparation.
    assert!((1..=2).contains(&trips), "{trips} round trips");
    for (n, event) in opened.into_iter().enumerate() {
        match event {
            Ok(event) => assert_eq!(event.shown().unwrap()["owner"], "Ada Lovelace"),
            Err(error) => assert!(n == 6 && matches!(error, LogError::Decode { .. }), "{error}"),
        }
    }
}
