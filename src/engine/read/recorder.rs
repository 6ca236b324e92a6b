//! What one execution has read: its dependencies, how long the answer holds, how many statements it took.
//!
//! Recording happens before the statement runs, so that an answer that failed or was cancelled depends on it too.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oriel_kernel::{Position, Timestamp};

use super::Dependency;

/// How long an answer holds while nothing that it depends on is touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stability {
    /// For ever.
    #[default]
    Stable,
    /// Until this moment.
    Until(Timestamp),
    /// Not at all: it is never cached nor compared.
    Volatile,
}

/// Collects what one execution depends on.
#[derive(Debug, Default)]
pub struct Recorder {
    seen: Mutex<Seen>,
    statements: AtomicU64,
}

#[derive(Debug, Default)]
struct Seen {
    dependencies: HashSet<Dependency>,
    stability: Stability,
    passing: Vec<Vec<PathPart>>,
    personal: bool,
    as_of: Option<Position>,
}

/// One step from the root of an answer to a value in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathPart {
    /// Into the field of this response key.
    Key(String),
    /// To this place in a list.
    Index(usize),
}

impl Recorder {
    /// The answer depends on this.
    pub fn record(&self, dependency: Dependency) {
        self.seen().dependencies.insert(dependency);
    }

    /// The answer holds until this moment at most.
    pub fn until(&self, moment: Timestamp) {
        let mut seen = self.seen();
        seen.stability = match seen.stability {
            Stability::Volatile => Stability::Volatile,
            Stability::Until(earlier) => Stability::Until(earlier.min(moment)),
            Stability::Stable => Stability::Until(moment),
        };
    }

    /// The answer holds a value that is another one each time (signed URLs, timings).
    pub fn volatile(&self) {
        self.seen().stability = Stability::Volatile;
    }

    /// The value at this place is another one each time, and nobody waits for it: it keeps the answer from being
    /// cached, and a live query does not compare it.
    pub fn passing(&self, place: Vec<PathPart>) {
        self.seen().passing.push(place);
    }

    /// Where the passing values are.
    pub fn passing_values(&self) -> Vec<Vec<PathPart>> {
        self.seen().passing.clone()
    }

    /// The answer depends on who is asking, beyond organisation, permissions and projects: nobody else may get it.
    pub fn personal(&self) {
        self.seen().personal = true;
    }

    /// Whether the answer is for who asked alone.
    pub fn is_personal(&self) -> bool {
        self.seen().personal
    }

    /// Something in the answer follows the log at its own pace and had come as far as this.
    pub fn as_of(&self, position: Position) {
        let mut seen = self.seen();
        seen.as_of = Some(seen.as_of.map_or(position, |earlier| earlier.min(position)));
    }

    /// How far the slowest of what was asked had come; `None` when all of it is as far as the log.
    pub fn slowest(&self) -> Option<Position> {
        self.seen().as_of
    }

    /// Everything recorded so far, in no particular order.
    pub fn dependencies(&self) -> Vec<Dependency> {
        self.seen().dependencies.iter().cloned().collect()
    }

    /// How long the answer holds.
    pub fn stability(&self) -> Stability {
        self.seen().stability
    }

    /// How many statements were sent to the database.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    pub(super) fn count_statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    #[test]
    fn the_shortest_stability_wins() {
        let at = |second: i64| DateTime::from_timestamp_micros(second * 1_000_000).unwrap_or_default();
        let recorder = Recorder::default();
        assert_eq!(recorder.stability(), Stability::Stable);
        recorder.until(at(5));
        recorder.until(at(9));
        assert_eq!(recorder.stability(), Stability::Until(at(5)));
        recorder.volatile();
        recorder.until(at(1));
        assert_eq!(recorder.stability(), Stability::Volatile);
    }
}
