//! The change feed of this process: what was committed, in order, for whoever follows.
//!
//! The changes table is the truth; what comes through here is the fast way. A batch whose positions do not follow on
//! what is known (another node committed in between) is preceded by what the table says about the gap. What has no
//! position stands elsewhere: which generation of each read model is read from, in the table of read models.

mod ticks;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oriel_kernel::{EventId, Position, Recorded};
use sea_orm::{DbBackend, DbErr, QueryResult};
use tokio::sync::{broadcast, watch};

use self::ticks::Ticks;
use crate::db::Database;
use crate::keyring::Keyring;
use crate::live::{Tick, Tracker};
use crate::read::Dependency;

/// One committed batch.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Its first position.
    pub first: Position,
    /// Its last position.
    pub last: Position,
    /// Every row and collection that it touched.
    pub touched: Vec<Dependency>,
    /// Its events; empty when another node wrote them.
    pub events: Vec<Arc<Recorded>>,
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    database: Database,
    tracker: Tracker,
    keyring: Arc<Keyring>,
    head: watch::Sender<Position>,
    batches: broadcast::Sender<Arc<Applied>>,
    /// Batches are announced one after the other, whoever brings them. Guards what is known of the generations.
    order: tokio::sync::Mutex<Generations>,
    began: Instant,
    /// Milliseconds after `began` at which the head was last known to be that of the log.
    confirmed: AtomicU64,
    /// Up to which tick each batch was applied, the newest last.
    ticks: Mutex<Ticks>,
    /// A hash of the generations that are read from.
    generations: AtomicU64,
}

/// Which generation of each read model is read from.
type Generations = BTreeMap<String, i32>;

/// How long a node may not have confirmed the head and still serve what it has kept.
const CURRENT_FOR: Duration = Duration::from_secs(1);
/// How long reading what other nodes have committed may take at once.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(10);
/// How many batches from before its start a node looks at.
const BEFORE: u32 = 1_000;

impl Feed {
    /// A feed that begins at `head`.
    pub fn new(database: Database, tracker: Tracker, keyring: Arc<Keyring>, head: Position) -> Self {
        Self {
            database,
            tracker,
            keyring,
            head: watch::Sender::new(head),
            batches: broadcast::Sender::new(1024),
            order: tokio::sync::Mutex::default(),
            began: Instant::now(),
            confirmed: AtomicU64::new(0),
            ticks: Mutex::default(),
            generations: AtomicU64::new(0),
        }
    }

    /// Looks at what was touched shortly before this node started, so that it can tell of what other nodes have kept
    /// whether it is current. To be called once, before anything is kept.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn begin(&self) -> Result<(), DbErr> {
        let mut known = self.order.lock().await;
        *known = self.generations_now().await?;
        self.generations.store(hash(&known), Ordering::Release);
        let sql = format!("SELECT {CHANGES} WHERE position <= $1 ORDER BY position DESC LIMIT {BEFORE}");
        let rows = self.database.query(&sql, vec![self.head().number().into()]).await?;
        for row in rows.iter().rev() {
            let (batch, _) = applied(row)?;
            let before = Position::new(batch.first.number() - 1);
            self.ticks().note(before, self.tracker.tick());
            let tick = self.tracker.apply(&batch.touched);
            self.ticks().note(batch.last, tick);
        }
        Ok(())
    }

    /// The tick from which on this node knows everything up to `position`: what somebody has read who had seen that
    /// position is current here while nothing that it depends on was touched after this tick. `None`: this node is
    /// behind it, or does not know any more.
    pub fn tick_at(&self, position: Position) -> Option<Tick> {
        if position > self.head() {
            return None;
        }
        self.ticks().at(position)
    }

    /// Nothing panics while it holds this lock, so what a poisoned one guards is whole.
    fn ticks(&self) -> MutexGuard<'_, Ticks> {
        self.ticks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for the generations of the read models that this node reads from: nodes with different ones do not use
    /// each other's answers.
    pub fn generations(&self) -> u64 {
        self.generations.load(Ordering::Acquire)
    }

    /// Whether this node knows what other nodes have committed, up to a second ago: else nothing that it has kept
    /// may be served. One process alone owns an SQLite database, and always knows.
    pub fn is_current(&self) -> bool {
        let confirmed = Duration::from_millis(self.confirmed.load(Ordering::Acquire));
        self.database.backend() == DbBackend::Sqlite || self.began.elapsed() < confirmed + CURRENT_FOR
    }

    fn confirm(&self, as_of: Instant) {
        let millis = as_of.saturating_duration_since(self.began).as_millis();
        self.confirmed.fetch_max(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// What this node has applied.
    pub fn head(&self) -> Position {
        *self.head.borrow()
    }

    /// Follows the head.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    /// Follows the batches. One who lags gets `Lagged` and reads the log instead.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Applied>> {
        self.batches.subscribe()
    }

    /// Waits until this node has applied `position`.
    pub async fn reached(&self, position: Position) {
        let mut head = self.head.subscribe();
        // The sender lives as long as `self`: this ends only by the condition.
        let _ = head.wait_for(|head| *head >= position).await;
    }

    /// Announces a batch of this node's own, after what other nodes wrote before it.
    pub(crate) async fn announce(&self, batch: Applied) {
        let _turn = self.order.lock().await;
        if batch.last <= self.head() {
            return; // catching up was faster
        }
        if batch.first > self.head().next()
            && let Err(error) = self.read_changes(Some(batch.first)).await
        {
            // Nothing may be served as current that we do not know to be: the floor rises.
            tracing::warn!(%error, "the changes of other nodes cannot be read; caches are dropped");
            self.keyring.drop_all();
            self.tracker.raise_floor();
        }
        let last = batch.events.last().map(|event| event.id);
        self.send(batch, last);
    }

    /// Reads from the changes table what other nodes committed, and which read models they have switched. Called when
    /// one of them says so, and now and then, because such a message can be lost.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn catch_up(&self) -> Result<(), DbErr> {
        // Who announces a batch waits for this. What was read is applied, however it ends.
        let late = |_| Err(DbErr::Custom(format!("the changes table cannot be read within {CAUGHT_UP_WITHIN:?}")));
        tokio::time::timeout(CAUGHT_UP_WITHIN, self.catch_up_now()).await.unwrap_or_else(late)
    }

    async fn catch_up_now(&self) -> Result<(), DbErr> {
        let mut known = self.order.lock().await;
        let asked = Instant::now();
        self.read_changes(None).await?;
        self.read_generations(&mut known).await?;
        self.confirm(asked);
        Ok(())
    }

    /// What was read from a table in whose place another one is now is not trusted any more.
    async fn read_generations(&self, known: &mut Generations) -> Result<(), DbErr> {
        let now = self.generations_now().await?;
        let is_new = |(name, generation): &(&String, &i32)| known.get(*name) != Some(generation);
        let switched = now.iter().filter(is_new).map(|(name, _)| Dependency::named(format!("read_model:{name}")));
        let switched: Vec<Dependency> = switched.collect();
        if !switched.is_empty() {
            self.tracker.apply(&switched);
            // Every answer may have come from the old table: nothing that is cached survives.
            self.tracker.raise_floor();
            self.generations.store(hash(&now), Ordering::Release);
        }
        *known = now;
        Ok(())
    }

    async fn generations_now(&self) -> Result<Generations, DbErr> {
        let rows =
            self.database.query("SELECT name, generation FROM read_models WHERE state = 'inline'", vec![]).await?;
        rows.iter().map(|row| Ok((row.try_get("", "name")?, row.try_get("", "generation")?))).collect()
    }

    async fn read_changes(&self, before: Option<Position>) -> Result<(), DbErr> {
        let sql = format!("SELECT {CHANGES} WHERE position > $1 ORDER BY position LIMIT 1000");
        loop {
            let rows = self.database.query(&sql, vec![self.head().number().into()]).await?;
            let full = rows.len() == 1000;
            for row in rows {
                let (batch, last) = applied(&row)?;
                if before.is_some_and(|before| batch.first >= before) {
                    return Ok(());
                }
                self.send(batch, last);
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Announces changes that are not in the log: of an index, of an account's scope.
    pub fn touch(&self, touched: &[Dependency]) {
        self.tracker.apply(touched);
    }

    /// `last`: its last event.
    fn send(&self, batch: Applied, last: Option<EventId>) {
        if let (Some(primary), Some(last), true) = (self.database.primary(), last, batch.last > self.head()) {
            primary.applied(batch.last, last);
        }
        self.keyring.hear(&batch.touched);
        let tick = self.tracker.apply(&batch.touched);
        self.ticks().note(batch.last, tick);
        self.head.send_if_modified(|head| {
            let moved = batch.last > *head;
            *head = batch.last.max(*head);
            moved
        });
        metrics::gauge!("oriel_position").set(self.head().number() as f64);
        // Nobody listening is not an error.
        let _ = self.batches.send(Arc::new(batch));
    }
}

/// What a row of the changes table says, and the last event that it is of.
const CHANGES: &str = "first_position, position, touched, \
                       (SELECT id FROM events WHERE events.position = changes.position) AS last_id FROM changes";

/// A row of the changes table, and its last event.
fn applied(row: &QueryResult) -> Result<(Applied, Option<EventId>), DbErr> {
    let text: String = row.try_get("", "touched")?;
    let touched: Vec<String> = serde_json::from_str(&text).map_err(|e| DbErr::Json(e.to_string()))?;
    let batch = Applied {
        first: Position::new(row.try_get("", "first_position")?),
        last: Position::new(row.try_get("", "position")?),
        touched: touched.into_iter().map(Dependency::named).collect(),
        events: Vec::new(),
    };
    let last: Option<uuid::Uuid> = row.try_get("", "last_id")?;
    Ok((batch, last.map(EventId::from_uuid)))
}

fn hash(generations: &Generations) -> u64 {
    let mut hasher = DefaultHasher::new();
    generations.hash(&mut hasher);
    hasher.finish()
}

/// As the changes table holds it.
pub(crate) fn touched_json(touched: &BTreeSet<Dependency>) -> String {
    let texts: Vec<&str> = touched.iter().map(Dependency::as_str).collect();
    serde_json::json!(texts).to_string()
}
