//! Live queries: identical ones of equal scope are one group, which is executed again when something that it has read
//! was touched, and tells its subscribers when the answer became another one.
//!
//! Invariants: nothing is executed that was not touched; a burst becomes few executions, and the last state is never
//! missed, because what was touched during an execution is seen after it; a subscriber who is slow gets the newest
//! state and holds up nobody; before anything is handed to a subscriber it is asked whether they are still who they
//! were when they joined.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_graphql::{ErrorExtensions, Name, Value};
use metrics::{counter, gauge};
use oriel_engine::live::Tracker;
use oriel_engine::read::Stability;
use oriel_kernel::UserId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Answer, Fingerprint, Outcome};
use super::cache::Key;
use super::execution::Who;
use super::operation::Operation;
use super::{Answers, Caller, Endpoint, patch};

/// How long to wait after a failure, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// All groups of this node.
#[derive(Clone, Default)]
pub(super) struct Hub(Arc<Shared>);

#[derive(Default)]
struct Shared {
    groups: Mutex<HashMap<Key, Weak<Group>>>,
    /// How many live queries each person has open.
    open: Mutex<HashMap<UserId, usize>>,
}

/// One query that several follow. It is executed while somebody does.
struct Group {
    hub: Hub,
    key: Key,
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
enum State {
    /// It is being executed for the first time.
    Pending,
    /// The answer is personal: everyone follows their own.
    Personal,
    Holds(Arc<Told>),
}

/// An outcome, and what subscribers are told of it.
struct Told {
    outcome: Arc<Outcome>,
    answer: Answer,
}

impl Told {
    fn new(outcome: Arc<Outcome>, key: &str) -> Arc<Self> {
        let answer = outcome.under(key);
        Arc::new(Self { outcome, answer })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        gauge!("oriel_live_groups").decrement(1.0);
        let mut groups = lock(&self.hub.0.groups);
        if groups.get(&self.key).is_some_and(|group| group.strong_count() == 0) {
            groups.remove(&self.key);
        }
    }
}

/// One live query that somebody has open.
struct Place {
    hub: Hub,
    user: Option<UserId>,
}

impl Drop for Place {
    fn drop(&mut self) {
        gauge!("oriel_live_queries").decrement(1.0);
        let Some(user) = self.user else { return };
        let mut open = lock(&self.hub.0.open);
        if let Some(count) = open.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&user);
            }
        }
    }
}

impl Hub {
    /// A place for one more live query of this person; `None` when they have as many as they may.
    fn place(&self, user: Option<UserId>, most: usize) -> Option<Place> {
        if let Some(user) = user {
            let mut open = lock(&self.0.open);
            let count = open.entry(user).or_default();
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        gauge!("oriel_live_queries").increment(1.0);
        Some(Place { hub: self.clone(), user })
    }

    /// The group of this question, which is made if there is none.
    fn join(&self, key: Key, endpoint: &Endpoint, asked: &Asked, who: &Who) -> Arc<Group> {
        let mut groups = lock(&self.0.groups);
        let is_alive = |group: &Arc<Group>| group.state.has_changed().is_ok();
        if let Some(group) = groups.get(&key).and_then(Weak::upgrade).filter(is_alive) {
            return group;
        }
        let (state, receiver) = watch::channel(State::Pending);
        let turns = turns(endpoint.clone(), asked.clone(), who.clone(), key, state);
        let task = AbortOnDropHandle::new(tokio::spawn(turns));
        gauge!("oriel_live_groups").increment(1.0);
        let group = Arc::new(Group { hub: self.clone(), key, state: receiver, _task: task });
        groups.insert(key, Arc::downgrade(&group));
        group
    }
}

/// What is followed: the query, and the key of the subscription's answer.
#[derive(Clone)]
struct Asked {
    key: Arc<str>,
    operation: Arc<Operation>,
    caller: Caller,
}

/// Executes a group's query whenever it was touched, until it is dropped.
async fn turns(endpoint: Endpoint, asked: Asked, who: Who, key: Key, state: watch::Sender<State>) {
    let engine = &endpoint.services().engine;
    let pace = endpoint.services().policy.live_pace;
    // What somebody waits for at first has nothing to do with what the others wait for.
    let caller = Caller { at_least: None, ..asked.caller };
    let mut wait = RETRY.0;
    let mut known: Option<Fingerprint> = None;
    loop {
        let began = Instant::now();
        let outcome = endpoint.outcome(&asked.operation, &who, &caller).await.0;
        counter!("oriel_live_executions_total").increment(1);
        if outcome.is_personal && !key.is_personal() {
            state.send_replace(State::Personal);
            return;
        }
        if outcome.is_failing() && known.is_some() {
            // What was said holds until something better is known.
            sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
            continue;
        }
        wait = RETRY.0;
        let (t0, dependencies) = (outcome.t0, Arc::clone(&outcome.dependencies));
        let until = match outcome.stability {
            Stability::Until(moment) => Some((moment - engine.now()).to_std().unwrap_or_default()),
            Stability::Stable | Stability::Volatile => None,
        };
        if known != Some(outcome.compared) {
            known = Some(outcome.compared);
            state.send_replace(State::Holds(Told::new(outcome, &asked.key)));
        }
        let mut touched = engine.tracker().watch(t0, dependencies);
        match until {
            Some(left) => tokio::select! {
                () = touched.changed() => {}
                () = sleep(left) => {}
            },
            None => touched.changed().await,
        }
        // The first change is told at once, those that follow it within the pace are told together.
        sleep_until(began + pace).await;
    }
}

impl Endpoint {
    /// Follows a query: its answer now, and each other one that it becomes.
    pub(super) fn live(self, key: String, operation: Operation, wants_patches: bool, caller: Caller) -> Answers {
        let asked = Asked { key: key.into(), operation: Arc::new(operation), caller };
        Box::pin(async_stream::stream! {
            if let Err(behind) = self.wait_for(asked.caller.at_least).await {
                yield Answer::refused(behind);
                return;
            }
            let mut sent = Sent { wants_patches, revision: 0, last: None };
            let mut place = None;
            let mut is_personal = false;
            // Held until its successor is there, which may be the same one.
            let mut _group: Option<Arc<Group>> = None;
            'anew: loop {
                let who = match self.who(&asked.caller).await {
                    Ok(who) => who,
                    Err(refused) => {
                        yield Answer::refused(refused);
                        return;
                    }
                };
                if place.is_none() {
                    let most = self.services().policy.live_queries_per_viewer;
                    place = self.hub.place(who.row.as_ref().map(|row| row.viewer.user), most);
                    if place.is_none() {
                        yield Answer::refused(too_many(most));
                        return;
                    }
                }
                let mut key = asked.operation.key(who.scope());
                if is_personal || self.cache.is_personal(&key) {
                    key = who.personal(key);
                }
                let joined = self.hub.join(key, &self, &asked, &who);
                let mut state = joined.state.clone();
                _group = Some(joined);
                state.mark_changed();
                if sent.last.is_none() && asked.caller.at_least.is_some() {
                    // What the group knows may be older than what this subscriber has seen of an index.
                    let (outcome, _) = self.outcome(&asked.operation, &who, &asked.caller).await;
                    let tracker = self.services().engine.tracker();
                    if self.is_still(&who) && let Some(answer) = sent.next(&Told::new(outcome, &asked.key), tracker) {
                        let is_over = answer.has_no_result();
                        yield answer;
                        if is_over {
                            return;
                        }
                    }
                }
                let mut withdrawn = self.watch(&who);
                loop {
                    tokio::select! {
                        biased;
                        () = withdrawn.changed() => continue 'anew,
                        () = self.expired(&who) => continue 'anew,
                        changed = state.changed() => if changed.is_err() {
                            yield Answer::refused(crate::access::internal("executing a live query panicked"));
                            return;
                        },
                    }
                    let now = state.borrow_and_update().clone();
                    // Asked here and not of the watch, which may hear of it later than the group does.
                    if !self.is_still(&who) {
                        continue 'anew;
                    }
                    match now {
                        State::Pending => {}
                        State::Personal => {
                            is_personal = true;
                            continue 'anew;
                        }
                        State::Holds(told) => if let Some(answer) = sent.next(&told, self.services().engine.tracker()) {
                            counter!("oriel_live_messages_total").increment(1);
                            let is_over = answer.has_no_result();
                            yield answer;
                            if is_over {
                                return;
                            }
                        },
                    }
                }
            }
        })
    }
}

fn too_many(most: usize) -> async_graphql::Error {
    let message = format!(
        "You have max_live_queries_per_viewer = {most} live queries open. Complete one first, or ask for more in one."
    );
    crate::access::error("LIMIT_EXCEEDED", message).extend_with(|_, extensions| {
        extensions.set("limit", "max_live_queries_per_viewer");
        extensions.set("allowed", most as u64);
    })
}

/// What a subscriber knows.
struct Sent {
    wants_patches: bool,
    revision: u64,
    last: Option<Arc<Told>>,
}

impl Sent {
    /// What is to be told now, if it is anything new. What was read before the last one and was touched since is read
    /// again; untouched it is what holds, for who may again what they might not for a while.
    fn next(&mut self, told: &Arc<Told>, tracker: &Tracker) -> Option<Answer> {
        let outcome = &told.outcome;
        let is_past =
            |last: &Told| outcome.t0 < last.outcome.t0 && !tracker.valid(outcome.t0, outcome.dependencies.iter());
        if let Some(last) = &self.last
            && (last.outcome.compared == outcome.compared || is_past(last))
        {
            return None;
        }
        if outcome.is_lost() {
            // Nothing is left to be shown: the stream ends with the reason.
            return Some(Answer::from_errors(outcome.errors.clone()));
        }
        let before = self.last.replace(Arc::clone(told));
        let mut answer = told.answer.clone();
        if self.wants_patches {
            self.revision += 1;
            let mut live = vec![("revision", Value::from(self.revision))];
            let before = before.as_ref().and_then(|told| told.answer.data.as_ref());
            if let (Some(before), Some(now)) = (before, &answer.data)
                && answer.is_ok()
                && let Some(patch) = patch::between(before.json(), now.json())
            {
                answer.data = None;
                live.push(("patch", patch));
            }
            let live = live.into_iter().map(|(name, value)| (Name::new(name), value)).collect();
            answer.extensions.insert("live".to_owned(), Value::Object(live));
        }
        Some(answer)
    }
}

/// Nothing panics while it holds one of these locks, so what a poisoned one guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
