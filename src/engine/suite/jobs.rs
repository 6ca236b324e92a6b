//! Jobs: leases, fences, order, turns, ends.

use std::collections::HashMap;
use std::sync::Mutex;

use futures::future::join_all;
use oriel_kernel::Position;
use tokio::sync::mpsc;

use super::*;
use crate::jobs::{self, Job, JobFailure, NewJob, Outcome, QueueState, Worker, WorkerLimits, Workers};

const LEASE: Duration = Duration::from_secs(60);

/// Makes jobs: (organisation, subject, position).
async fn queue(engine: &Engine, of: &[(u128, u128, i64)]) {
    let transaction = engine.database().begin().await.unwrap();
    let job = |(organization, subject, position): &(u128, u128, i64)| {
        let new = NewJob {
            queue: "work",
            organization: org(*organization),
            subject: Uuid::from_u128(*subject),
            payload: serde_json::json!({ "position": position }),
            run_at: None,
        };
        (Uuid::from_u128(0x3000 + *position as u128), Position::new(*position), engine.now(), new)
    };
    jobs::insert(&transaction, &of.iter().map(job).collect::<Vec<_>>()).await.unwrap();
    transaction.commit().await.unwrap();
    engine.wake_workers();
}

async fn claim(engine: &Engine) -> Option<Job> {
    engine.claim_job("work", Uuid::nil(), LEASE).await.unwrap()
}

fn positions(jobs: &[Job]) -> Vec<i64> {
    jobs.iter().map(|job| job.position.number()).collect()
}

/// (state, attempts, last error) of each job, in order.
async fn states(engine: &Engine) -> Vec<(String, i32, Option<String>)> {
    let sql = "SELECT state, attempts, last_error FROM jobs ORDER BY position";
    let rows = engine.database().writer().query_all_raw(engine.database().statement(sql, sql, vec![])).await.unwrap();
    rows.iter()
        .map(|row| {
            (
                row.try_get("", "state").unwrap(),
                row.try_get("", "attempts").unwrap(),
                row.try_get("", "last_error").unwrap(),
            )
        })
        .collect()
}

fn state(name: &str, attempts: i32, error: Option<&str>) -> (String, i32, Option<String>) {
    (name.to_owned(), attempts, error.map(str::to_owned))
}

/// Answers as it is told, and says what it began.
struct Scripted {
    began: mpsc::UnboundedSender<Job>,
    answers: Mutex<HashMap<i64, Vec<Answer>>>,
    running: Mutex<HashMap<Uuid, i64>>,
    slots: usize,
}

#[derive(Clone, Debug)]
enum Answer {
    Again(&'static str),
    ForGood(&'static str),
    Panic,
    Hang,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = (i64, Vec<Answer>)>) -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        Self::with_slots(3, answers)
    }

    fn with_slots(
        slots: usize,
        answers: impl IntoIterator<Item = (i64, Vec<Answer>)>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        let (began, receiver) = mpsc::unbounded_channel();
        let answers = Mutex::new(answers.into_iter().collect());
        (Arc::new(Self { began, answers, running: Mutex::default(), slots }), receiver)
    }
}

#[async_trait::async_trait]
impl Worker for Scripted {
    fn queue(&self) -> &'static str {
        "work"
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        let beside = self.running.lock().unwrap().insert(job.subject, job.position.number());
        assert_eq!(beside, None, "two jobs of one subject at once");
        let _ = self.began.send(job.clone());
        tokio::task::yield_now().await;
        let answer = self
            .answers
            .lock()
            .unwrap()
            .get_mut(&job.position.number())
            .and_then(|left| (!left.is_empty()).then(|| left.remove(0)));
        if let Some(Answer::Hang) = answer {
            std::future::pending::<()>().await;
        }
        self.running.lock().unwrap().remove(&job.subject);
        match answer {
            None | Some(Answer::Hang) => Ok(()),
            Some(Answer::Again(why)) => Err(JobFailure::again(why)),
            Some(Answer::ForGood(why)) => Err(JobFailure::for_good(why)),
            Some(Answer::Panic) => panic!("as these tests want it"),
        }
    }

    fn max_attempts(&self) -> u32 {
        3
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn backoff(&self, _: u32) -> Duration {
        Duration::ZERO
    }
}

fn work(engine: &Arc<Engine>, worker: &Arc<Scripted>, limits: WorkerLimits) -> Workers {
    Workers::start(engine, vec![Arc::clone(worker) as Arc<dyn Worker>], limits)
}

async fn ended(engine: &Engine, count: usize) {
    until(|| async {
        states(engine).await.iter().filter(|(state, ..)| state == "done" || state == "failed").count() == count
    })
    .await;
}

on_both! {
    async fn a_subject_has_one_job_at_a_time(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 100, 1), (1, 100, 2), (1, 200, 3), (1, 100, 4)]).await;
        let first = claim(&engine).await.unwrap();
        let other = claim(&engine).await.unwrap();
        assert_eq!(positions(&[first.clone(), other]), [1, 3]);
        assert_eq!(first.payload, serde_json::json!({ "position": 1 }));
        assert!(claim(&engine).await.is_none(), "the next of the subject waits");
        // An attempt to come is not an end; a failure is.
        assert!(engine.finish_job(&first, &Outcome::Again("later".to_owned(), Duration::from_secs(5))).await.unwrap());
        assert!(claim(&engine).await.is_none());
        place.sources.advance(Duration::from_secs(5));
        let first = claim(&engine).await.unwrap();
        assert_eq!((first.position.number(), first.attempt, first.fence), (1, 2, 2));
        assert!(engine.finish_job(&first, &Outcome::Failed("broken".to_owned())).await.unwrap());
        let second = claim(&engine).await.unwrap();
        assert_eq!(second.position.number(), 2);
        assert!(engine.finish_job(&second, &Outcome::Done).await.unwrap());
        assert_eq!(claim(&engine).await.unwrap().position.number(), 4);
        let expected = [state("failed", 2, Some("broken")), state("done", 1, None), state("running", 1, None), state("running", 1, None)];
        assert_eq!(states(&engine).await, expected);
    }

    async fn organisations_take_turns(place) {
        let engine = place.engine().await;
        let mut of: Vec<_> = (1..=8).map(|n| (1, n as u128, n)).collect();
        of.extend([(2, 21, 9), (2, 22, 10), (3, 31, 11)]);
        queue(&engine, &of).await;
        let (mut turns, mut last) = (Vec::new(), Uuid::nil());
        while let Some(job) = engine.claim_job("work", last, LEASE).await.unwrap() {
            last = job.organization.uuid();
            turns.push(job.organization);
        }
        let expected = [1, 2, 3, 1, 2, 1, 1, 1, 1, 1, 1].map(org);
        assert_eq!(turns, expected);
    }

    async fn one_worker_goes_round_the_organisations(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4), (2, 5, 5), (3, 6, 6), (3, 7, 7)]).await;
        let (worker, mut began) = Scripted::with_slots(1, []);
        let workers = work(&engine, &worker, WorkerLimits::default());
        let mut turns = Vec::new();
        for _ in 0..7 {
            turns.push(in_time(began.recv()).await.unwrap().position.number());
        }
        assert_eq!(turns, [1, 5, 6, 2, 7, 3, 4]);
        in_time(workers.stop()).await;
    }

    async fn a_zombie_reports_nothing(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 100, 1)]).await;
        let zombie = claim(&engine).await.unwrap();
        assert_eq!(engine.take_over_jobs("work", 3).await.unwrap(), 0, "the lease holds");
        place.sources.advance(LEASE - Duration::from_secs(1));
        assert!(engine.renew_lease(&zombie, LEASE).await.unwrap());
        place.sources.advance(LEASE);
        assert_eq!(engine.take_over_jobs("work", 3).await.unwrap(), 0, "it was renewed");
        place.sources.advance(Duration::from_secs(1));
        assert_eq!(engine.take_over_jobs("work", 3).await.unwrap(), 1);
        // Between two holders, and beside the new one.
        assert!(!engine.finish_job(&zombie, &Outcome::Done).await.unwrap());
        let heir = claim(&engine).await.unwrap();
        assert_eq!((heir.fence, heir.attempt), (zombie.fence + 1, 2));
        assert!(!engine.renew_lease(&zombie, LEASE).await.unwrap());
        for outcome in [Outcome::Done, Outcome::Failed("no".to_owned()), Outcome::Released, Outcome::Again("no".to_owned(), LEASE)] {
            assert!(!engine.finish_job(&zombie, &outcome).await.unwrap(), "{outcome:?}");
        }
        assert!(engine.finish_job(&heir, &Outcome::Done).await.unwrap());
        assert!(!engine.finish_job(&heir, &Outcome::Done).await.unwrap(), "an end is an end");
        assert_eq!(states(&engine).await, [state("done", 2, None)]);
    }

    async fn a_job_that_kills_its_worker_fails(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 100, 1), (1, 100, 2)]).await;
        for _ in 0..3 {
            assert_eq!(claim(&engine).await.unwrap().position.number(), 1);
            place.sources.advance(LEASE + Duration::from_secs(1));
            assert_eq!(engine.take_over_jobs("work", 3).await.unwrap(), 1);
        }
        let (name, attempts, why) = states(&engine).await.remove(0);
        assert_eq!((name.as_str(), attempts), ("failed", 3));
        assert!(why.is_some_and(|why| why.contains("ended each time")));
        assert_eq!(claim(&engine).await.unwrap().position.number(), 2);
    }

    async fn many_claim_each_job_once(place) {
        let engine = place.engine().await;
        let of: Vec<_> = (1..=120).map(|n| (n as u128 % 3, n as u128 % 17, n)).collect();
        queue(&engine, &of).await;
        let nodes = if engine.shared_with_other_nodes() { [place.engine().await, place.engine().await] } else { [engine.clone(), engine.clone()] };
        let done = Arc::new(Mutex::new(Vec::new()));
        let workers = (0..8usize).map(|n| {
            let (engine, done) = (Arc::clone(&nodes[n % 2]), Arc::clone(&done));
            tokio::spawn(async move {
                while done.lock().unwrap().len() < 120 {
                    let Some(job) = claim(&engine).await else { tokio::task::yield_now().await; continue };
                    done.lock().unwrap().push(job.clone());
                    assert!(engine.finish_job(&job, &Outcome::Done).await.unwrap());
                }
            })
        });
        for worker in in_time(join_all(workers)).await {
            worker.unwrap();
        }
        let done = done.lock().unwrap();
        assert!(done.iter().all(|job| job.fence == 1));
        for subject in 0..17 {
            let of: Vec<i64> = positions(&done.iter().filter(|job| job.subject.as_u128() == subject).cloned().collect::<Vec<_>>());
            assert_eq!(of, (1..=120).filter(|n| *n as u128 % 17 == subject).collect::<Vec<_>>());
        }
    }

    async fn every_job_ends(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 1, 1), (1, 2, 2), (1, 3, 3), (2, 4, 4), (2, 4, 5), (2, 6, 6)]).await;
        let again = |times| vec![Answer::Again("not yet"); times];
        let (worker, mut began) = Scripted::new([
            (2, again(2)),
            (3, again(9)),
            (4, vec![Answer::ForGood("never")]),
            (6, vec![Answer::Panic; 9]),
        ]);
        let workers = work(&engine, &worker, WorkerLimits { poll: Duration::from_millis(20), ..WorkerLimits::default() });
        ended(&engine, 6).await;
        let expected = [
            state("done", 1, None),
            state("done", 3, Some("not yet")),
            state("failed", 3, Some("not yet")),
            state("failed", 1, Some("never")),
            state("done", 1, None),
            state("failed", 3, Some("the worker panicked")),
        ];
        assert_eq!(states(&engine).await, expected);
        let mut commands = HashMap::<i64, Vec<CommandId>>::new();
        while let Ok(job) = began.try_recv() {
            commands.entry(job.position.number()).or_default().push(job.command("report"));
        }
        assert_eq!(commands[&2].len(), 3);
        assert!(commands.values().all(|ids| ids.iter().all(|id| *id == ids[0])), "each attempt reports as the same command");
        assert_ne!(commands[&2][0], commands[&3][0]);
        let failed = engine.retry_failed_jobs("work").await.unwrap();
        assert_eq!(failed, 3);
        in_time(workers.stop()).await;
    }

    async fn new_jobs_wake_the_workers(place) {
        let engine = place.engine().await;
        let (worker, mut began) = Scripted::new([]);
        // No poll would come in time.
        let workers = work(&engine, &worker, WorkerLimits { poll: Duration::from_secs(3600), ..WorkerLimits::default() });
        for n in 1..=20 {
            queue(&engine, &[(1, n as u128, n)]).await;
            assert_eq!(in_time(began.recv()).await.unwrap().position.number(), n);
        }
        ended(&engine, 20).await;
        in_time(workers.stop()).await;
    }

    async fn stopping_gives_back_what_is_not_done(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 1, 1), (1, 2, 2)]).await;
        let (worker, mut began) = Scripted::new([(2, vec![Answer::Hang])]);
        let workers = work(&engine, &worker, WorkerLimits { grace: Duration::from_millis(50), ..WorkerLimits::default() });
        for _ in 0..2 {
            in_time(began.recv()).await.unwrap();
        }
        in_time(workers.stop()).await;
        assert_eq!(states(&engine).await, [state("done", 1, None), state("queued", 0, None)]);
    }

    async fn a_crash_is_taken_over(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 1, 1), (1, 1, 2)]).await;
        let (worker, mut began) = Scripted::new([(1, vec![Answer::Hang])]);
        let workers = work(&engine, &worker, WorkerLimits::default());
        in_time(began.recv()).await.unwrap();
        drop(workers);
        let (worker, mut began) = Scripted::new([]);
        place.sources.advance(LEASE + Duration::from_secs(1));
        let workers = work(&engine, &worker, WorkerLimits::default());
        let job = in_time(began.recv()).await.unwrap();
        assert_eq!((job.position.number(), job.fence, job.attempt), (1, 2, 2));
        assert_eq!(in_time(began.recv()).await.unwrap().position.number(), 2);
        ended(&engine, 2).await;
        in_time(workers.stop()).await;
    }

    async fn operators_see_the_queues(place) {
        let engine = place.engine().await;
        let made = engine.now();
        queue(&engine, &[(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4)]).await;
        place.sources.advance(Duration::from_secs(30));
        let job = claim(&engine).await.unwrap();
        engine.finish_job(&job, &Outcome::Failed("broken".to_owned())).await.unwrap();
        claim(&engine).await.unwrap();
        let expected = QueueState { name: "work".to_owned(), depth: 2, running: 1, failed: 1, oldest: Some(made) };
        assert_eq!(engine.queue_states().await.unwrap(), [expected]);
    }

    async fn old_jobs_are_forgotten(place) {
        let engine = place.engine().await;
        queue(&engine, &[(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4)]).await;
        for outcome in [Outcome::Done, Outcome::Failed("broken".to_owned())] {
            let job = claim(&engine).await.unwrap();
            engine.finish_job(&job, &outcome).await.unwrap();
        }
        claim(&engine).await.unwrap();
        let limits = WorkerLimits::default();
        assert_eq!(engine.prune_jobs("work", &limits).await.unwrap(), 0);
        place.sources.advance(limits.keep_done + Duration::from_secs(1));
        assert_eq!(engine.prune_jobs("work", &limits).await.unwrap(), 1);
        place.sources.advance(limits.keep_failed);
        assert_eq!(engine.prune_jobs("work", &limits).await.unwrap(), 1);
        let left: Vec<String> = states(&engine).await.into_iter().map(|(state, ..)| state).collect();
        assert_eq!(left, ["running", "queued"]);
    }
}
