//! One generation: a tantivy index, its writer and the snapshot that readers see.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tantivy::directory::MmapDirectory;
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::schema::Schema;
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, Term};

use super::super::{Change, Checkpoint, SearchError, Stats, not_backwards};
use super::files;
use super::schema::{Fields, Owner};

/// What the writer may hold before it writes a segment.
const WRITER_BYTES: usize = 50 << 20;
/// Segments of more entries are not merged further: a merge reads and writes all of both.
const MAX_MERGED_DOCUMENTS: usize = 2_000_000;
/// An index up to this size is read through when it is opened, to find damage at once.
const MAX_VERIFIED_BYTES: u64 = 256 << 20;

pub(super) struct Generation {
    pub name: String,
    path: PathBuf,
    schema: Schema,
    fields: Fields,
    index: Index,
    reader: IndexReader,
    /// Absent until something is written, and after a failed write, which it forgets that way.
    writer: Mutex<Option<IndexWriter>>,
    snapshot: RwLock<Snapshot>,
}

/// What one answer is made from.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub searcher: Searcher,
    pub fields: Fields,
    pub checkpoint: Option<Checkpoint>,
    /// How many entries each organisation has, once somebody asked.
    entries: Arc<Mutex<HashMap<String, u64>>>,
}

impl Snapshot {
    fn new(searcher: Searcher, fields: Fields, checkpoint: Option<Checkpoint>) -> Self {
        Self { searcher, fields, checkpoint, entries: Arc::default() }
    }

    /// How many entries the organisation has: counted at the first question.
    pub fn entries(&self, owner: &Owner, count: impl FnOnce() -> tantivy::Result<u64>) -> tantivy::Result<u64> {
        let known = || self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entries) = known().get(owner.as_str()) {
            return Ok(*entries);
        }
        let entries = count()?;
        known().insert(owner.as_str().to_owned(), entries);
        Ok(entries)
    }
}

impl Generation {
    /// Opens the generation in this folder; an empty folder becomes an empty generation.
    pub fn open(path: &Path, name: &str) -> Result<Self, SearchError> {
        let (schema, fields) = Fields::schema();
        let directory = MmapDirectory::open(path).map_err(tantivy::TantivyError::from)?;
        let exists = Index::exists(&directory).map_err(tantivy::TantivyError::from)?;
        let mut index = if exists {
            Index::open(directory)?
        } else if holds_files(path) {
            return Err(SearchError::Damaged("its list of segments is missing".into()));
        } else {
            Index::builder().schema(schema.clone()).create_in_dir(path)?
        };
        if index.schema() != schema {
            return Err(SearchError::Damaged("its fields are not those that this program writes".into()));
        }
        index.set_tokenizers(Fields::tokenizers());
        if size(path) <= MAX_VERIFIED_BYTES {
            let damaged = index.validate_checksum()?;
            if !damaged.is_empty() {
                return Err(SearchError::Damaged(format!("{} of its files are damaged", damaged.len())));
            }
        }
        let checkpoint = checkpoint(&index)?;
        let reader =
            index.reader_builder().reload_policy(ReloadPolicy::Manual).doc_store_cache_num_blocks(16).try_into()?;
        let reader: IndexReader = reader;
        let snapshot = RwLock::new(Snapshot::new(reader.searcher(), fields, checkpoint));
        let (name, path) = (name.to_owned(), path.to_owned());
        Ok(Self { name, path, schema, fields, index, reader, writer: Mutex::new(None), snapshot })
    }

    /// Which one it is, from 1.
    pub fn number(&self) -> i32 {
        files::number(&self.name).unwrap_or_default()
    }

    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commits the changes with the checkpoint and shows both to readers. After an error nothing was changed.
    pub fn apply(&self, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        let mut slot = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        not_backwards(self.snapshot().checkpoint, to)?;
        let mut writer = match slot.take() {
            Some(writer) => writer,
            None => self.new_writer()?,
        };
        // An error drops the writer, and with it whatever was not committed.
        self.write(&mut writer, changes, to)?;
        *slot = Some(writer);
        self.reader.reload()?;
        let snapshot = Snapshot::new(self.reader.searcher(), self.fields, Some(to));
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        Ok(())
    }

    fn write(&self, writer: &mut IndexWriter, changes: Vec<Change>, to: Checkpoint) -> Result<(), SearchError> {
        for change in changes {
            match change {
                Change::Put(entry) => {
                    writer.delete_term(Term::from_field_text(self.fields.id, &entry.id));
                    writer.add_document(self.fields.document(&self.schema, &entry)?)?;
                }
                Change::Remove { id } => {
                    writer.delete_term(Term::from_field_text(self.fields.id, &id));
                }
                Change::RemoveOrganization(organization) => {
                    writer.delete_term(Owner::new(organization).term(self.fields.organization, ""));
                }
            }
        }
        let mut commit = writer.prepare_commit()?;
        commit.set_payload(&serde_json::to_string(&to).map_err(SearchError::unavailable)?);
        commit.commit()?;
        Ok(())
    }

    fn new_writer(&self) -> Result<IndexWriter, SearchError> {
        let options = IndexWriterOptions::builder()
            .memory_budget_per_thread(WRITER_BYTES)
            .num_worker_threads(1)
            .num_merge_threads(1)
            .build();
        let writer = self.index.writer_with_options(options)?;
        let mut merging = LogMergePolicy::default();
        merging.set_max_docs_before_merge(MAX_MERGED_DOCUMENTS);
        // Without it, updated entries would leave their old versions on disk for long.
        merging.set_del_docs_ratio_before_merge(0.3);
        writer.set_merge_policy(Box::new(merging));
        // A new writer counts its operations from the number of the last commit on, which then has two meanings: a merge
        // that begins right after that takes a removal of this number for one that all its segments have seen, and what
        // was replaced is there again beside its replacement. Nobody gets this number now (tantivy 0.27).
        writer.run([])?;
        Ok(writer)
    }

    /// Ends writing, so that the files can be removed.
    pub fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(writer);
    }

    pub fn stats(&self) -> Result<Stats, SearchError> {
        Ok(Stats { documents: self.snapshot().searcher.num_docs(), bytes: size(&self.path) })
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("name", &self.name).finish_non_exhaustive()
    }
}

fn checkpoint(index: &Index) -> Result<Option<Checkpoint>, SearchError> {
    let payload = index.load_metas()?.payload;
    payload
        .map(|payload| serde_json::from_str(&payload))
        .transpose()
        .map_err(|error| SearchError::Damaged(format!("its checkpoint is not readable: {error}")))
}

fn files_in(path: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(path).into_iter().flatten().flatten()
}

fn holds_files(path: &Path) -> bool {
    files_in(path).next().is_some()
}

fn size(path: &Path) -> u64 {
    files_in(path).filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
