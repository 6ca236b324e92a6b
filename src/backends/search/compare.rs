//! Two generations compared, entry by entry.
//!
//! A digest stands for all that a search reads of an entry. Digests of different entries are equal by chance once in
//! 2^64; an entry costs about a hundred bytes of memory while it is compared.

use std::collections::HashMap;

/// What a comparison of the running generation with another one found. All is well when nothing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Entries of the running generation.
    pub entries: u64,
    /// Entries that only the running one has.
    pub only_running: u64,
    /// Entries that only the other one has. An entry that differs is in both counts.
    pub only_other: u64,
}

/// Gathers the running generation first, and holds the other one against it.
#[derive(Default)]
pub(super) struct Comparison {
    running: HashMap<String, u64>,
    entries: u64,
    /// Entries whose id the running generation holds a second time.
    repeated: u64,
    only_other: u64,
}

impl Comparison {
    /// An entry of the running generation.
    pub fn running(&mut self, id: String, digest: u64) {
        self.entries += 1;
        if self.running.insert(id, digest).is_some() {
            self.repeated += 1;
        }
    }

    /// An entry of the other one.
    pub fn other(&mut self, id: &str, digest: u64) {
        if self.running.get(id) == Some(&digest) {
            self.running.remove(id);
        } else {
            self.only_other += 1;
        }
    }

    pub fn finish(self) -> Compared {
        let only_running = self.running.len() as u64 + self.repeated;
        Compared { entries: self.entries, only_running, only_other: self.only_other }
    }
}
