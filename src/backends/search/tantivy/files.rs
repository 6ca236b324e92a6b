//! The index's folder: `CURRENT` names the generation that serves, each generation is a folder beside it.
//!
//! `CURRENT` changes by an atomic, synced rename; a generation it does not name is a leftover.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::SearchError;

/// Raised with every change of the fields or of how text becomes words.
pub(super) const FORMAT: i32 = 1;

const CURRENT: &str = "CURRENT";

#[derive(Serialize, Deserialize)]
struct Current {
    format: i32,
    generation: String,
}

#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn path(&self, generation: &str) -> PathBuf {
        self.root.join(generation)
    }

    /// The generation that serves; `None` in a new folder.
    pub fn current(&self) -> Result<Option<String>, SearchError> {
        let bytes = match fs::read(self.root.join(CURRENT)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SearchError::unavailable(error)),
        };
        let current: Current = serde_json::from_slice(&bytes)
            .map_err(|error| SearchError::Damaged(format!("its file {CURRENT} is not readable: {error}")))?;
        if current.format != FORMAT {
            return Err(SearchError::Damaged(format!(
                "it has format {}, this program writes format {FORMAT}",
                current.format
            )));
        }
        if number(&current.generation).is_none() || !self.path(&current.generation).is_dir() {
            return Err(SearchError::Damaged("the generation that its file CURRENT names is missing".into()));
        }
        Ok(Some(current.generation))
    }

    /// A new, empty generation, and `CURRENT` naming it.
    pub fn start(&self) -> Result<String, SearchError> {
        fs::create_dir_all(&self.root).map_err(SearchError::unavailable)?;
        let name = self.create_next()?;
        self.switch_to(&name)?;
        Ok(name)
    }

    /// A new, empty generation behind all that are there.
    pub fn create_next(&self) -> Result<String, SearchError> {
        let last = self.generations().iter().filter_map(|name| number(name)).max().unwrap_or(0);
        let name = format!("g{}", last + 1);
        fs::create_dir(self.path(&name)).map_err(SearchError::unavailable)?;
        Ok(name)
    }

    /// Makes `CURRENT` name this generation.
    pub fn switch_to(&self, generation: &str) -> Result<(), SearchError> {
        self.write_current(generation).map_err(SearchError::unavailable)
    }

    fn write_current(&self, generation: &str) -> std::io::Result<()> {
        let current = Current { format: FORMAT, generation: generation.to_owned() };
        let new = self.root.join("CURRENT.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&current)?)?;
        file.sync_all()?;
        // The generation's own name must be on disk before something names it.
        File::open(&self.root)?.sync_all()?;
        fs::rename(&new, self.root.join(CURRENT))?;
        File::open(&self.root)?.sync_all()
    }

    /// Removes all other generations. What cannot be removed now is removed at the next occasion.
    pub fn remove_all_but(&self, keep: &str) {
        for name in self.generations() {
            if name != keep {
                self.remove(&name);
            }
        }
    }

    /// Removes the generation unless it serves.
    pub fn remove_unless_current(&self, generation: &str) {
        if matches!(self.current(), Ok(Some(current)) if current != generation) {
            self.remove(generation);
        }
    }

    fn remove(&self, generation: &str) {
        if let Err(error) = fs::remove_dir_all(self.path(generation)) {
            tracing::warn!(generation, %error, "a retired generation of the search index is not removed yet");
        }
    }

    fn generations(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| number(name).is_some()).collect()
    }
}

/// Which one it is, from 1.
pub(super) fn number(generation: &str) -> Option<i32> {
    generation.strip_prefix('g')?.parse().ok()
}
