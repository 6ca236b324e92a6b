//! What events cause outside the log: files are scanned, text is extracted, the search index follows, files that nobody needs go.
//!
//! A reactor only says which jobs an event leads to; a worker does them and reports by commands with derived ids, so
//! that doing one again writes nothing twice. What is kept in step with the log itself (the search index) is a
//! consumer with a checkpoint of its own. Whatever is killed at whatever moment goes on where it was.
//!
//! A new side effect is a file here and a line in [`reactors`] and [`workers`]. Nothing here knows a transport, GraphQL
//! or a viewer.

use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::Blobs;
pub use oriel_backends::blobs::{FILES, STAGING, TEXTS};
use oriel_backends::extraction::{Limits as ExtractionLimits, Program};
use oriel_backends::mail::Mail;
use oriel_backends::scanner::Scanner;
use oriel_backends::search::Search;
use oriel_domain::retention::Rules;
use oriel_engine::Engine;
use oriel_engine::consumers::{Behind, ConsumerLimits, ConsumerState, Consumers, Follower, Reactor};
use oriel_engine::jobs::{QueueState, Worker, WorkerLimits, Workers};
use oriel_engine::rebuild::{Progress, ReadModelState, Verified};
use oriel_kernel::Position;
use tokio::sync::watch;
use tokio::task::JoinSet;

mod data_exports;
mod endings;
mod extraction;
mod index_stage;
mod mail;
mod purge;
mod retention;
mod scan;
mod search_index;
mod security_events;
mod stages;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod suite;
mod sweep;

pub use endings::EndingError;
pub use retention::{Removed, RetentionError};
pub use search_index::{INDEX, IndexError, open_index};
pub use sweep::{SweepError, Swept};

/// What the side effects work with.
#[derive(Clone)]
pub struct Parts {
    /// The log, and how commands get into it.
    pub engine: Arc<Engine>,
    /// Where files are kept.
    pub blobs: Blobs,
    /// The index; see [`open_index`].
    pub search: Search,
    /// Who looks for viruses; `None`: nobody does.
    pub scanner: Option<Scanner>,
    /// Where letters go.
    pub mail: Mail,
    /// What the links in them begin with.
    pub base_url: String,
    /// Which program reads documents as a child.
    pub program: Program,
    /// How far everything may go.
    pub limits: Limits,
}

/// How far the side effects may go.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What one extraction may use.
    pub extraction: ExtractionLimits,
    /// Whether this process does what events lead to. If not it follows its own index alone, and others do the rest.
    pub works: bool,
    /// How many documents are read beside each other.
    pub extractions: usize,
    /// How the log is followed.
    pub consumers: ConsumerLimits,
    /// How jobs are done.
    pub workers: WorkerLimits,
    /// For how long what may be removed is kept.
    pub retention: Rules,
    /// How often files that nobody needs are looked for, and what was kept for long enough.
    pub sweep_every: Duration,
    /// How often organisations are looked for whose end is due.
    pub end_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            extraction: ExtractionLimits::default(),
            works: true,
            extractions: std::thread::available_parallelism().map_or(2, usize::from).min(8),
            consumers: ConsumerLimits::default(),
            workers: WorkerLimits::default(),
            retention: Rules::default(),
            sweep_every: Duration::from_secs(3600),
            end_every: Duration::from_secs(10),
        }
    }
}

/// Every reactor: the one list of what events lead to.
fn reactors() -> Vec<Arc<dyn Reactor>> {
    vec![
        Arc::new(scan::Scan),
        Arc::new(extraction::Extract),
        Arc::new(purge::Purge),
        Arc::new(endings::Endings),
        Arc::new(data_exports::Exports),
        Arc::new(mail::Letters),
        Arc::new(security_events::Watch),
    ]
}

/// Every worker: the one list of who does the jobs.
fn workers(parts: &Parts, index: &Arc<search_index::SearchIndex>) -> Vec<Arc<dyn Worker>> {
    let (engine, blobs, index) = (Arc::clone(&parts.engine), parts.blobs.clone(), Arc::clone(index));
    vec![
        Arc::new(scan::Scanning::new(parts)),
        Arc::new(extraction::Extraction::new(parts)),
        Arc::new(purge::Purging { blobs: parts.blobs.clone() }),
        Arc::new(security_events::Watching { engine: Arc::clone(&engine) }),
        Arc::new(data_exports::Gathering { engine: Arc::clone(&engine), blobs: blobs.clone() }),
        Arc::new(endings::Erasing { engine: Arc::clone(&engine), blobs: blobs.clone(), index: Arc::clone(&index) }),
        Arc::new(endings::Ending { engine, blobs, index }),
        Arc::new(mail::Post::new(parts)),
    ]
}

/// The side effects of this process. Dropped, they end at once; see [`Reactors::stop`].
pub struct Reactors {
    engine: Arc<Engine>,
    index: Arc<search_index::SearchIndex>,
    consumers: Consumers,
    workers: Workers,
    sweep: Arc<sweep::Sweep>,
    retention: Arc<retention::Retention>,
    stopping: watch::Sender<bool>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

/// What the side effects are doing, for operators.
#[derive(Clone, Debug)]
pub struct States {
    /// Who follows the log.
    pub consumers: Vec<ConsumerState>,
    /// What waits to be done.
    pub queues: Vec<QueueState>,
}

impl Reactors {
    /// Starts everything.
    pub fn start(parts: Parts) -> Self {
        let (stopping, stopped) = watch::channel(false);
        let engine = Arc::clone(&parts.engine);
        let index = Arc::new(search_index::SearchIndex::new(&parts));
        let mut followers = vec![search_index::follower(&index)];
        let mut working = Vec::new();
        if parts.limits.works {
            let stage = index_stage::IndexStage::new(Arc::clone(&engine), Arc::clone(&index), stopped.clone());
            followers.push(Follower::Shared(Arc::new(stage)));
            followers.extend(reactors().into_iter().map(Follower::Reactor));
            working = workers(&parts, &index);
        }
        let consumers = Consumers::start(&engine, followers, parts.limits.consumers);
        let workers = Workers::start(&engine, working, parts.limits.workers);
        let sweep = Arc::new(sweep::Sweep::new(Arc::clone(&engine), parts.blobs));
        let retention = Arc::new(retention::Retention::new(Arc::clone(&engine), parts.limits.retention));
        let mut tasks = JoinSet::new();
        if parts.limits.works {
            tasks.spawn(sweep::every(parts.limits.sweep_every, Arc::clone(&sweep), stopped.clone()));
            tasks.spawn(retention::every(parts.limits.sweep_every, Arc::clone(&retention), stopped.clone()));
            tasks.spawn(data_exports::every(parts.limits.end_every, Arc::clone(&engine), stopped.clone()));
            tasks.spawn(endings::every(parts.limits.end_every, Arc::clone(&engine), stopped));
        }
        Self { engine, index, consumers, workers, sweep, retention, stopping, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// Ends everything in order: batches and jobs that run are finished, within the workers' grace.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        tokio::join!(self.consumers.stop(), self.workers.stop());
        let mut tasks = self.tasks.lock().await;
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "what is done now and then ended badly");
            }
        }
    }

    /// What everything is doing.
    pub fn states(&self) -> States {
        States { consumers: self.consumers.states(), queues: self.workers.states() }
    }

    /// The consumers: how far each is, and what each set aside.
    pub fn consumers(&self) -> &Consumers {
        &self.consumers
    }

    /// How far the search index is: a search that begins now sees everything up to here.
    pub fn index_position(&self) -> Position {
        self.index.position()
    }

    /// Waits until a search sees everything up to `position`.
    ///
    /// # Errors
    /// When it does not after `timeout`.
    pub async fn index_reached(&self, position: Position, timeout: Duration) -> Result<(), Behind> {
        let reached = tokio::time::timeout(timeout, self.index.reached(position)).await;
        reached.map_err(|_| Behind::At(self.index.position()))
    }

    /// The search index as operators see it: the generation that answers, and the one that is being built beside it.
    pub fn index_states(&self) -> Vec<ReadModelState> {
        self.index.states()
    }

    /// Builds the search index anew from the log beside the running one, and switches. May be dropped at any moment,
    /// or ended by `progress`: then nothing happened.
    ///
    /// # Errors
    /// When a rebuild runs already, or the log, the read models, the blobs or the index are not there.
    pub async fn rebuild_index(&self, progress: Progress<'_>) -> Result<Position, IndexError> {
        let position = self.index.rebuild(progress).await?;
        tracing::info!(%position, head = %self.engine.feed().head(), "the search index was rebuilt");
        Ok(position)
    }

    /// Builds the search index anew beside the running one and compares the two, entry by entry, at one position: all
    /// that a search reads of each. What was built is thrown away.
    ///
    /// # Errors
    /// See [`Reactors::rebuild_index`].
    pub async fn verify_index(&self) -> Result<Verified, IndexError> {
        self.index.verify().await
    }

    /// Ends the organisations whose end is due; how many. Also happens by itself now and then.
    ///
    /// # Errors
    /// When the read models cannot be read, or nothing can be written.
    pub async fn end_due(&self) -> Result<usize, EndingError> {
        endings::end_due(&self.engine).await
    }

    /// Ends the data exports whose time is over; how many. Also happens by itself now and then.
    ///
    /// # Errors
    /// When the read models cannot be read, or nothing can be written.
    pub async fn expire_exports(&self) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        data_exports::expire_due(&self.engine).await
    }

    /// Removes what was kept for long enough, a bounded number of each kind; nothing is said when another node does so.
    /// Also happens by itself now and then.
    ///
    /// # Errors
    /// When the read models cannot be read, or nothing can be written.
    pub async fn sweep_retention(&self) -> Result<Option<Removed>, RetentionError> {
        self.retention.run().await
    }

    /// Removes files that nobody needs, a bounded number of them. Also happens by itself now and then.
    ///
    /// # Errors
    /// When the blobs or the read models cannot be read.
    pub async fn sweep(&self) -> Result<Swept, SweepError> {
        self.sweep.run().await
    }
}
