//! Answers that the nodes share, through Redis: what one node has executed, another one need not.
//!
//! Invariants
//! - No time to live stands in for being current. An entry says up to which position of the log its node had seen
//!   everything when it began to read, and what it read. Another node serves it while it knows that position, is itself
//!   current, and nothing that was read was touched by anything after that position: the rule by which it serves its own.
//!   That an entry goes after a while only bounds the memory.
//! - What hangs on more than the log is left out: answers that asked an index, values that pass, and what is for one
//!   person alone.
//! - The name of an entry holds the question, what its asker may see, the sources that the node was built of (`build.rs`)
//!   and the generations of the read models: an old and a new node do not use each other's answers.
//! - Without Redis everything is executed, and nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use oriel_backends::redis::Redis;
use oriel_engine::Engine;
use oriel_engine::read::{Dependency, Stability};
use oriel_kernel::{Position, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::{Data, Outcome};
use super::cache::Key;
use super::operation::sha256;

/// How long an entry takes room at most.
const KEEP: Duration = Duration::from_secs(600);
/// What depends on more is not shared: to read it would cost as much as to execute it.
const MAX_DEPENDENCIES: usize = 500;
/// Longer answers are not shared.
const MAX_BYTES: usize = 128 * 1024;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Shared {
    redis: Arc<Redis>,
    release: [u8; 32],
}

/// The name of an entry.
pub(super) struct Name(String);

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Everything up to here was seen.
    position: i64,
    /// In microseconds, of an answer that holds up to a moment.
    until: Option<i64>,
    dependencies: Vec<String>,
    data: Box<RawValue>,
}

impl Shared {
    pub fn new(redis: Arc<Redis>) -> Self {
        // What an answer looks like follows from the sources, not from the contract alone.
        let release = format!("{}\n{}\n{}", env!("CARGO_PKG_VERSION"), env!("ORIEL_SOURCES"), crate::sdl());
        Self { redis, release: sha256(release.as_bytes()) }
    }

    /// The name under which the answer to a question is shared now; `None` for what is for one person alone.
    pub fn name(&self, key: &Key, engine: &Engine) -> Option<Name> {
        if key.is_personal() {
            return None;
        }
        let mut hash = Context::new(&SHA256);
        hash.update(&self.release);
        // What was answered before a restore or a promotion is of another history.
        hash.update(engine.incarnation().as_bytes());
        hash.update(&engine.feed().generations().to_le_bytes());
        hash.update(key.question());
        Some(Name(format!("answer:{}", data_encoding::HEXLOWER.encode(&hash.finish().as_ref()[..16]))))
    }

    /// What another node has kept under this name, if it is current here.
    pub async fn find(&self, name: &Name, engine: &Engine) -> Option<Outcome> {
        // Not to be asked for what may not be served.
        if !engine.feed().is_current() {
            return None;
        }
        let entry = self.redis.get(&name.0).await.ok()??;
        let entry: Entry = serde_json::from_slice(&entry)
            .inspect_err(|error| tracing::debug!(%error, "an answer of another node is not readable"))
            .ok()?;
        let feed = engine.feed();
        // Read before it is asked what was touched: all that was touched up to here is known then.
        let head = feed.head();
        let t0 = feed.tick_at(Position::new(entry.position))?;
        let dependencies: Arc<[Dependency]> = entry.dependencies.into_iter().map(Dependency::named).collect();
        let stability = match entry.until {
            None => Stability::Stable,
            Some(micros) => Stability::Until(Timestamp::from_timestamp_micros(micros)?),
        };
        let is_over = matches!(stability, Stability::Until(moment) if moment <= engine.now());
        if is_over || !feed.is_current() || !engine.tracker().valid(t0, dependencies.iter()) {
            return None;
        }
        Some(Outcome::shared(Data::of(entry.data), dependencies, t0, head, stability))
    }

    /// Keeps an answer for the other nodes, if it is one that can be shared. Returns at once.
    pub fn keep(&self, name: Name, outcome: &Outcome) {
        let Some(data) = &outcome.data else { return };
        let is_for_all = !outcome.is_personal && outcome.is_stable() && outcome.slowest.is_none();
        if !is_for_all || outcome.dependencies.len() > MAX_DEPENDENCIES || data.json().len() > MAX_BYTES {
            return;
        }
        let entry = Entry {
            position: outcome.position.number(),
            until: match outcome.stability {
                Stability::Until(moment) => Some(moment.timestamp_micros()),
                Stability::Stable | Stability::Volatile => None,
            },
            dependencies: outcome.dependencies.iter().map(|one| one.as_str().to_owned()).collect(),
            data: data.raw().to_owned(),
        };
        let Ok(text) = serde_json::to_vec(&entry) else { return };
        let redis = Arc::clone(&self.redis);
        tokio::spawn(async move {
            if let Err(error) = redis.put(&name.0, &text, KEEP).await {
                tracing::trace!(%error, "an answer is not shared");
            }
        });
    }
}

#[cfg(test)]
#[allow(dead_code)]
#[path = "../build.rs"]
mod build;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;
    use std::{env, fs};

    use super::build::{SOURCES, hash};

    #[test]
    fn whatever_changes_in_the_sources_changes_what_they_are_known_by() {
        let folder = env::temp_dir().join(format!("oriel-sources-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("room/inner")).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let mut known = HashSet::new();
        let mut is_new = || known.insert(hash(&folder, &["room", "lock"]).unwrap());
        write("lock", "1");
        write("room/lib.rs", "fn a() {}");
        assert!(is_new() && !is_new());
        write("room/inner/deep.rs", "");
        assert!(is_new());
        write("room/inner/deep.rs", "fn b() {}");
        assert!(is_new());
        fs::rename(folder.join("room/inner/deep.rs"), folder.join("room/inner/other.rs")).unwrap();
        assert!(is_new());
        write("lock", "2");
        assert!(is_new());
        write("room/notes.md", "What is no source changes nothing.");
        assert!(!is_new());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn this_was_built_of_sources_that_are_there() {
        assert_eq!(env!("ORIEL_SOURCES").len(), 16);
        for source in SOURCES {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(), "{source}");
        }
    }
}
