//! The PostgreSQL server that takes writes: which of those that a URL names it is, and whether it goes on with the
//! history that this process knows.
//!
//! Invariants. No connection is used to a server that is a replica; that is on an older timeline than one that was met
//! before, which has taken its place; or in whose log the last event that this process has applied is missing. Where a
//! replica was promoted, what was kept from before goes, and so do the connections from before: on a server that is
//! replaced and lives on, what it says is not the truth any more.
//!
//! A promotion goes on on a new timeline, so each new connection asks for that and nothing else asks anything. Where the
//! URL names several servers, a connection of this module's own watches the one that takes writes.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use oriel_kernel::{EventId, Position};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::sync::watch;

/// On which timeline a server writes: the first 8 digits of the name of a WAL file. Nothing for a replica.
const TIMELINE: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL \
                        ELSE ('x' || substring(pg_walfile_name(pg_current_wal_lsn()) FOR 8))::bit(32)::bigint END";
/// How long a server may take to say what it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often the one that takes writes is asked whether it still does, where there are several.
const LOOK: Duration = Duration::from_millis(500);
/// How long what is under way may go on when another server has taken the place of the one before: it may be under way to
/// the new one.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);
/// How long one is looked for at the start.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// What the connections of a pool are to be like.
pub(crate) type Terms = Box<dyn Fn(PgConnectOptions) -> PgConnectOptions + Send + Sync>;

/// See the module.
pub(crate) struct Primary {
    places: Vec<PgConnectOptions>,
    known: Mutex<Known>,
    /// Called when a replica was promoted, before anything is read from it.
    promoted: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Counts the promotions that this process has seen.
    promotions: watch::Sender<u64>,
    /// Counts how often another server was found to take the writes.
    moves: watch::Sender<u64>,
    /// Whether the log has lost what this process has applied.
    is_lost: watch::Sender<bool>,
}

/// What this process knows of the server.
#[derive(Default)]
struct Known {
    timeline: i64,
    /// The last event that was applied.
    head: Option<(Position, EventId)>,
    /// Connections from before are not used any more.
    since: Option<Instant>,
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Primary").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

impl Primary {
    /// Among the servers that this URL names, as libpq has it: `postgres://user@a:5432,b:5432/database`.
    pub(crate) fn parse(url: &str) -> Result<Self, sqlx::Error> {
        let places = places(url).iter().map(|place| PgConnectOptions::from_str(place)).collect::<Result<_, _>>()?;
        Ok(Self {
            places,
            known: Mutex::default(),
            promoted: OnceLock::new(),
            promotions: watch::Sender::new(0),
            moves: watch::Sender::new(0),
            is_lost: watch::Sender::new(false),
        })
    }

    /// The server that takes writes; where there is one alone it is not asked.
    pub(crate) async fn find(&self) -> Result<PgConnectOptions, sqlx::Error> {
        if let [only] = self.places.as_slice() {
            return Ok(only.clone());
        }
        let began = Instant::now();
        loop {
            if let Some((place, _)) = self.look().await {
                return Ok(self.places[place].clone());
            }
            if began.elapsed() > FOUND_WITHIN {
                let why = "none of the servers that the URL names answers and takes writes: start the primary, or promote a replica";
                return Err(sqlx::Error::Protocol(why.to_owned()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks all of them at once. Of two that take writes, the one that was promoted last.
    async fn look(&self) -> Option<(usize, PgConnection)> {
        let asked = self.places.iter().map(|place| async {
            let answer = async {
                let mut connection = place.connect().await.ok()?;
                Some((timeline(&mut connection).await.ok()??, connection))
            };
            tokio::time::timeout(ANSWER_WITHIN, answer).await.ok().flatten()
        });
        let known = self.known().timeline;
        let answers = join_all(asked).await.into_iter().enumerate();
        let writable =
            answers.filter_map(|(place, answer)| answer.map(|(timeline, connection)| (timeline, place, connection)));
        let newest = writable.filter(|(timeline, ..)| *timeline >= known).max_by_key(|(timeline, ..)| *timeline);
        newest.map(|(_, place, connection)| (place, connection))
    }

    /// Whether there is one to be chosen.
    pub(crate) fn is_one_of_several(&self) -> bool {
        self.places.len() > 1
    }

    /// Leads the pools to the server that takes writes, whenever it is another one. Goes on until it is dropped.
    pub(crate) async fn follow(&self, pools: Vec<(PgPool, Terms)>) {
        let (mut current, mut last): (Option<(usize, PgConnection)>, Option<usize>) = (None, None);
        loop {
            if let Some((_, connection)) = &mut current {
                let answer = tokio::time::timeout(ANSWER_WITHIN, timeline(connection)).await;
                let known = self.known().timeline;
                if matches!(answer, Ok(Ok(Some(timeline))) if timeline >= known) {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            }
            // Ended before others are asked.
            drop(current.take());
            current = self.look().await;
            match &current {
                Some((place, _)) if last != Some(*place) => {
                    tracing::info!(host = self.places[*place].get_host(), "this server takes the writes");
                    let before = last.replace(*place);
                    // Nobody waits for the one before it, which may hang.
                    self.known().since = before.map(|_| Instant::now());
                    for (pool, terms) in &pools {
                        pool.set_connect_options(terms(self.places[*place].clone()));
                    }
                    if before.is_some() {
                        self.moves.send_modify(|count| *count += 1);
                    }
                }
                Some(_) => {}
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Whether a new connection may be used.
    pub(crate) async fn admit(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Its age is counted from when it was admitted.
        let began = Instant::now();
        let refused = |why: &str| Err(sqlx::Error::Protocol(why.to_owned()));
        let Some(timeline) = timeline(connection).await? else {
            return refused("this server is a replica that was not promoted: it takes no writes");
        };
        let (before, head) = {
            let known = self.known();
            (known.timeline, known.head)
        };
        if timeline < before {
            return refused(
                "another server was promoted in the place of this one: what it says is not the truth any more",
            );
        }
        if timeline == before {
            return Ok(());
        }
        if let Some((position, id)) = head {
            let sql = "SELECT EXISTS (SELECT 1 FROM events WHERE position = $1 AND CAST(id AS text) = $2)";
            let asked = sqlx::query_scalar::<_, bool>(sql).bind(position.number()).bind(id.uuid().to_string());
            if !asked.fetch_one(connection).await? {
                self.is_lost.send_replace(true);
                return refused(
                    "the log of this server lacks what was committed: it was promoted, or restored, without it",
                );
            }
        }
        if before != 0 {
            tracing::warn!(
                timeline,
                "the log goes on on another timeline: a replica was promoted. Nothing that is known here is lost"
            );
            if let Some(promoted) = self.promoted.get() {
                promoted();
            }
        }
        {
            let mut known = self.known();
            if known.timeline < timeline {
                known.timeline = timeline;
                known.since = (before != 0).then_some(began);
            }
        }
        if before != 0 {
            self.promotions.send_modify(|count| *count += 1);
            self.moves.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Whether a connection of this age is to the server that takes writes now.
    pub(crate) fn is_current(&self, age: Duration) -> bool {
        self.known().since.is_none_or(|since| age <= since.elapsed())
    }

    /// Ends when, from now on, another server is found to take the writes, and what was under way has had a moment more. A
    /// server that is gone without a word ends nothing that waits for it.
    pub(crate) fn replaced(&self) -> impl Future<Output = ()> + use<> {
        let mut moves = self.moves.subscribe();
        async move {
            if moves.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SETTLED_WITHIN).await;
        }
    }

    /// This event was applied: no history without it is this one.
    pub(crate) fn applied(&self, position: Position, id: EventId) {
        self.known().head = Some((position, id));
    }

    /// To be called when a replica was promoted, before anything is read from it. The first one counts.
    pub(crate) fn on_promotion(&self, then: impl Fn() + Send + Sync + 'static) {
        let _ = self.promoted.set(Box::new(then));
    }

    /// Counts the promotions.
    pub(crate) fn promotions(&self) -> watch::Receiver<u64> {
        self.promotions.subscribe()
    }

    /// Becomes true when the log has lost what this process has applied.
    pub(crate) fn is_lost(&self) -> watch::Receiver<bool> {
        self.is_lost.subscribe()
    }

    /// Nothing panics while it holds this lock, so what a poisoned one guards is whole.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn timeline(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(TIMELINE).fetch_one(connection).await
}

/// A URL for each of the servers. What libpq is told of which of them is wanted is left out: it is always the one that
/// takes writes.
fn places(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let query: Vec<&str> =
        query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("target_session_attrs=")).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}{mark}{}", query.join("&"))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_server_or_several() {
        let one = "postgres://me:secret@db.example.com:5432/oriel?sslmode=require";
        assert_eq!(places(one), [one]);
        let local = "postgres://postgres@localhost/oriel?host=/run/postgresql";
        assert_eq!(places(local), [local]);
        let several =
            "postgres://me:se%2Ccret@a:5432,b,[::1]:5433/oriel?target_session_attrs=read-write&sslmode=require";
        let expected =
            ["a:5432", "b", "[::1]:5433"].map(|host| format!("postgres://me:se%2Ccret@{host}/oriel?sslmode=require"));
        assert_eq!(places(several), expected);
        assert_eq!(places("postgres://a,b?target_session_attrs=any"), ["postgres://a", "postgres://b"]);
        let parsed = Primary::parse(several).unwrap();
        assert_eq!(parsed.places.iter().map(|place| place.get_port()).collect::<Vec<_>>(), [5432, 5432, 5433]);
        assert!(Primary::parse("postgres://me@a:port/oriel").is_err());
    }

    #[tokio::test]
    async fn what_is_under_way_to_a_server_that_was_replaced_has_a_moment_more() {
        let primary = Primary::parse("postgres://a,b/oriel").unwrap();
        primary.moves.send_modify(|count| *count += 1);
        // Of what was before nothing is said.
        let mut replaced = Box::pin(primary.replaced());
        assert!(futures::poll!(&mut replaced).is_pending());
        primary.moves.send_modify(|count| *count += 1);
        assert!(futures::poll!(&mut replaced).is_pending());
        replaced.await;
    }

    #[test]
    fn connections_from_before_a_promotion_are_not_used() {
        let primary = Primary::parse("postgres://a/oriel").unwrap();
        assert!(primary.is_current(Duration::from_secs(3600)));
        primary.known().since = Some(Instant::now());
        assert!(!primary.is_current(Duration::from_secs(3600)));
        assert!(primary.is_current(Duration::ZERO));
    }
}
