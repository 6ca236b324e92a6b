//! The workers of this process: they claim jobs, renew the lease while a job runs, and report.
//!
//! Ended orderly, they finish what runs, a bounded time, and give the rest back. Ended otherwise, their leases run
//! out and somebody takes over. What a claim means stands in `jobs.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use oriel_kernel::Position;
use oriel_kernel::trace::{self, Place};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument;
use uuid::Uuid;

use crate::consumers::backoff;
use crate::engine::Engine;
use crate::jobs::{Job, JobFailure, Outcome, QueueState, Worker, WorkerLimits};

/// The workers of this process.
pub struct Workers {
    stop: watch::Sender<bool>,
    states: Arc<Mutex<Vec<QueueState>>>,
    /// Aborted when this is dropped: the leases then run out by themselves.
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl Workers {
    /// Starts to work on the queues of these.
    pub fn start(engine: &Arc<Engine>, workers: Vec<Arc<dyn Worker>>, limits: WorkerLimits) -> Self {
        let (stop, stopped) = watch::channel(false);
        let states = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let names: Vec<&'static str> = workers.iter().map(|worker| worker.queue()).collect();
        for worker in workers {
            let engine = Arc::clone(engine);
            let work = engine.work.subscribe();
            let runner = Runner { engine, worker, limits, stopped: stopped.clone(), work, last: Uuid::nil() };
            tasks.spawn(runner.run());
        }
        tasks.spawn(observe(Arc::clone(engine), names, Arc::clone(&states), limits, stopped));
        Self { stop, states, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// Claims nothing more, waits for what runs, a bounded time, and gives the rest back.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a worker ended badly");
            }
        }
    }

    /// The queues as they were a moment ago, without asking the database.
    pub fn states(&self) -> Vec<QueueState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps what operators see, and removes what ended long ago.
async fn observe(
    engine: Arc<Engine>,
    queues: Vec<&'static str>,
    states: Arc<Mutex<Vec<QueueState>>>,
    limits: WorkerLimits,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        match engine.queue_states().await {
            Ok(mut now) => {
                let idle =
                    queues.iter().filter(|queue| now.iter().all(|state| state.name != **queue)).collect::<Vec<_>>();
                now.extend(idle.iter().map(|queue| QueueState { name: (**queue).to_owned(), ..QueueState::default() }));
                for state in &now {
                    let name = || state.name.clone();
                    metrics::gauge!("oriel_jobs", "queue" => name(), "state" => "queued").set(state.depth as f64);
                    metrics::gauge!("oriel_jobs", "queue" => name(), "state" => "running").set(state.running as f64);
                    metrics::gauge!("oriel_jobs", "queue" => name(), "state" => "failed").set(state.failed as f64);
                }
                *states.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            Err(error) => tracing::warn!(%error, "the queues cannot be counted"),
        }
        for queue in &queues {
            if let Err(error) = engine.prune_jobs(queue, &limits).await {
                tracing::warn!(%error, queue, "old jobs cannot be removed");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(limits.poll * 5) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Works on one queue.
struct Runner {
    engine: Arc<Engine>,
    worker: Arc<dyn Worker>,
    limits: WorkerLimits,
    stopped: watch::Receiver<bool>,
    work: watch::Receiver<u64>,
    /// Whose turn it was last.
    last: Uuid,
}

impl Runner {
    async fn run(mut self) {
        let mut running: JoinSet<()> = JoinSet::new();
        let (release, released) = watch::channel(false);
        let mut next_look = tokio::time::Instant::now();
        while !*self.stopped.borrow() {
            self.work.mark_unchanged();
            if tokio::time::Instant::now() >= next_look {
                next_look = tokio::time::Instant::now() + self.limits.poll;
                if let Err(error) = self.engine.take_over_jobs(self.worker.queue(), self.worker.max_attempts()).await {
                    tracing::warn!(%error, queue = self.worker.queue(), "expired leases cannot be taken over");
                }
            }
            while running.len() < self.worker.slots().max(1) && !*self.stopped.borrow() {
                match self.engine.claim_job(self.worker.queue(), self.last, self.limits.lease).await {
                    Ok(Some(job)) => {
                        self.last = job.organization.uuid();
                        let (engine, worker) = (Arc::clone(&self.engine), Arc::clone(&self.worker));
                        running.spawn(told(engine, worker, job, self.limits, released.clone()));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, queue = self.worker.queue(), "no job can be claimed");
                        break;
                    }
                }
            }
            tokio::select! {
                Some(_) = running.join_next() => {}
                _ = self.work.changed() => {}
                () = tokio::time::sleep_until(next_look) => {}
                _ = self.stopped.changed() => {}
            }
        }
        let ended = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.limits.grace, ended).await.is_err() {
            release.send_replace(true);
            while running.join_next().await.is_some() {}
        }
    }
}

/// One attempt at a job, in a span that comes after the event that the job was made for.
async fn told(
    engine: Arc<Engine>,
    worker: Arc<dyn Worker>,
    job: Job,
    limits: WorkerLimits,
    released: watch::Receiver<bool>,
) {
    let span = tracing::debug_span!(
        target: trace::TARGET,
        "job",
        otel.name = job.queue.as_str(),
        otel.kind = "consumer",
        job = %job.id,
        attempt = job.attempt,
    );
    if !span.is_disabled() {
        match engine.log().read(Position::new(job.position.number() - 1), 1).await {
            Ok(events) => events.iter().for_each(|event| trace::follow(&span, Place::of(event))),
            Err(error) => tracing::debug!(%error, job = %job.id, "the event of a job cannot be read"),
        }
    }
    attempt(engine, worker, job, limits, released).instrument(span).await;
}

/// One attempt at a job, from the claim to the report.
async fn attempt(
    engine: Arc<Engine>,
    worker: Arc<dyn Worker>,
    job: Job,
    limits: WorkerLimits,
    mut released: watch::Receiver<bool>,
) {
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(worker.run(&job)).catch_unwind() => {
            let failed = |failure: JobFailure| match failure {
                JobFailure { message, retry: true } if job.attempt < worker.max_attempts() => {
                    Outcome::Again(message, worker.backoff(job.attempt))
                }
                JobFailure { message, .. } => Outcome::Failed(message),
            };
            match outcome {
                Ok(Ok(())) => Outcome::Done,
                Ok(Err(failure)) => failed(failure),
                Err(_) => failed(JobFailure::again("the worker panicked")),
            }
        }
        () = lease_lost(&engine, &job, limits.lease) => {
            tracing::warn!(job = %job.id, queue = job.queue, "the lease of a running job was lost; somebody else does it");
            return;
        }
        _ = released.wait_for(|released| *released) => Outcome::Released,
    };
    report(&engine, &job, &outcome, &limits).await;
}

/// Renews the lease, until that is refused.
async fn lease_lost(engine: &Engine, job: &Job, lease: Duration) {
    loop {
        tokio::time::sleep(lease / 3).await;
        match engine.renew_lease(job, lease).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, job = %job.id, "a lease cannot be renewed"),
        }
    }
}

/// Says what became of it; as long as the lease may last, in an outage. After that somebody else has it.
async fn report(engine: &Engine, job: &Job, outcome: &Outcome, limits: &WorkerLimits) {
    let word = match outcome {
        Outcome::Done => "done",
        Outcome::Failed(why) => {
            tracing::error!(job = %job.id, queue = job.queue, subject = %job.subject, attempt = job.attempt, why, "a job failed for good");
            "failed"
        }
        Outcome::Again(why, _) => {
            tracing::warn!(job = %job.id, queue = job.queue, subject = %job.subject, attempt = job.attempt, why, "a job failed and is tried again");
            "retried"
        }
        Outcome::Released => "released",
    };
    let until = tokio::time::Instant::now() + limits.lease;
    let mut failures = 0;
    loop {
        match engine.finish_job(job, outcome).await {
            Ok(true) => break,
            Ok(false) => {
                tracing::warn!(job = %job.id, queue = job.queue, word, "a report came after its lease; it changes nothing");
                return;
            }
            Err(error) if tokio::time::Instant::now() >= until => {
                tracing::error!(%error, job = %job.id, queue = job.queue, word, "a report was lost; the job will be done again");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, job = %job.id, "a report is tried again");
                failures += 1;
                tokio::time::sleep(backoff(Duration::from_millis(100), Duration::from_secs(5), failures)).await;
            }
        }
    }
    metrics::counter!("oriel_jobs_total", "queue" => job.queue.clone(), "outcome" => word).increment(1);
}
