//! One question, answered: from the cache, by waiting for somebody who asks the same, or by executing it.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Request, Response};
use aws_lc_rs::digest::{Context, SHA256};
use chrono::TimeDelta;
use metrics::counter;
use oriel_engine::live::Tick;
use oriel_engine::read::{Reader, Recorder, Source};
use oriel_engine::{Engine, Moment};
use oriel_kernel::{Credential, Position, Timestamp, Viewer, Visible};
use oriel_read_models::Readers;
use oriel_read_models::viewer::{ViewerRow, is_suspended};

use super::answer::{Answer, Outcome};
use super::cache::{Found, Key};
use super::operation::Operation;
use super::{Caller, Endpoint};
use crate::access::Asker;
use crate::services::Meta;

/// How often a query whose data changes while it is read is read again, before all of it is read in one transaction.
const AGAIN: usize = 2;
/// How long a query may take on a replica before the primary is asked: one that stands still answers nobody.
const REPLICA_WITHIN: Duration = Duration::from_secs(3);
/// How often an answer is asked for anew that somebody else was waiting for, or whose viewer changed meanwhile.
const TURNS: usize = 4;

/// Who asks, and since when that is known.
#[derive(Clone)]
pub(super) struct Who {
    pub row: Option<Arc<ViewerRow>>,
    pub since: Tick,
    /// When they are signed out by time.
    pub until: Option<Timestamp>,
    /// Whether the installation is under maintenance, for what changes something.
    pub maintenance: bool,
    scope: Scope,
}

/// The fingerprint of an organisation, permissions and projects: those in whom it is equal see the same, but for what
/// is personal. That of nobody is all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Scope([u8; 16]);

impl Scope {
    pub fn of(viewer: &Viewer) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(viewer.organization.uuid().as_bytes());
        for pattern in viewer.permissions.patterns() {
            hash.update(pattern.as_bytes());
            hash.update(b"\n");
        }
        match &viewer.visible {
            Visible::All => hash.update(b"all"),
            Visible::Only(parts) => parts.iter().for_each(|part| hash.update(part.as_bytes())),
        }
        if let Some(policy) = viewer.unagreed {
            hash.update(b"unagreed");
            hash.update(policy.as_bytes());
        }
        let mut scope = Self::default();
        scope.0.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
        scope
    }
}

impl Who {
    /// What everyone has in common who sees the same.
    pub fn scope(&self) -> &[u8] {
        &self.scope.0
    }
}

impl Endpoint {
    /// Who calls, at this moment.
    pub(super) async fn who(&self, caller: &Caller) -> Result<Who, async_graphql::Error> {
        let since = self.services.engine.tracker().tick();
        let Some(credential) = caller.credential else {
            return Ok(Who { row: None, since, until: None, maintenance: false, scope: Scope::default() });
        };
        let Some(known) = self.known(credential).await? else {
            return Err(ended(&self.services.engine, credential).await);
        };
        let until = signed_in_until(&known.row, caller.token_ends, self.services.policy.access_token_ttl);
        if until <= self.services.engine.now() {
            return Err(crate::access::error("UNAUTHENTICATED", TOKEN_ENDED));
        }
        let row = Some(Arc::clone(&known.row));
        Ok(Who { row, since, until: Some(until), maintenance: false, scope: known.scope })
    }

    /// Whether they are still who they were.
    pub(super) fn is_still(&self, who: &Who) -> bool {
        let tracker = self.services.engine.tracker();
        let row = who.row.as_ref();
        who.until.is_none_or(|until| until > self.services.engine.now())
            && row.is_none_or(|row| tracker.valid(who.since, row.dependencies.iter()))
    }

    /// Answers a query.
    pub(super) async fn query(&self, operation: &Arc<Operation>, caller: &Caller) -> Answer {
        if let Err(behind) = self.wait_for(caller.at_least).await {
            return Answer::refused(behind);
        }
        let mut turn = 0;
        loop {
            let who = match self.who(caller).await {
                Ok(who) => who,
                Err(refused) => return Answer::refused(refused),
            };
            let (outcome, position) = self.outcome(operation, &who, caller).await;
            turn += 1;
            // Who lost a permission while the query went on gets nothing of it any more.
            if self.is_still(&who) || turn == TURNS {
                return outcome.answer(position);
            }
        }
    }

    /// What this question is answered for them, and a position up to which that is known to hold.
    pub(super) async fn outcome(
        &self,
        operation: &Arc<Operation>,
        who: &Who,
        caller: &Caller,
    ) -> (Arc<Outcome>, Position) {
        let engine = &self.services.engine;
        let tracker = engine.tracker();
        let arrived = tracker.tick();
        let mut key = operation.key(who.scope());
        for _ in 0..TURNS {
            if engine.feed().is_current() {
                // Read before it is asked what was touched: all that was touched up to here is known then.
                let head = engine.feed().head();
                match self.cache.find(&key, tracker, engine.now(), caller.at_least) {
                    Found::Hit(outcome) => {
                        self.cache.count_hit();
                        return (outcome, head);
                    }
                    Found::Personal => {
                        key = who.personal(key);
                        continue;
                    }
                    Found::Nothing => {}
                }
            }
            let flight = self.cache.join(key, || {
                let (this, operation) = (self.clone(), Arc::clone(operation));
                let (who, caller) = (who.clone(), caller.clone());
                async move { this.executed(&operation, key, &who, &caller).await }
            });
            let is_new = flight.is_new;
            let outcome = flight.outcome().await;
            if is_new {
                self.cache.count_new(&outcome);
                let position = outcome.position;
                return (outcome, position);
            }
            if outcome.is_personal && !key.is_personal() {
                key = who.personal(key); // it is somebody else's
                continue;
            }
            let head = engine.feed().head();
            let covers = outcome.slowest.is_none_or(|slowest| Some(slowest) >= caller.at_least);
            let is_current = tracker.valid(outcome.t0, outcome.dependencies.iter());
            if covers && (is_current || outcome.t0 >= arrived) {
                self.cache.count_coalesced();
                let position = if is_current { head } else { outcome.position };
                return (outcome, position);
            }
        }
        let outcome = self.executed(operation, key, who, caller).await;
        self.cache.count_new(&outcome);
        let position = outcome.position;
        (outcome, position)
    }

    /// Executes it, again while what it reads is changed, and keeps what it gives; or keeps what another node has
    /// executed.
    async fn executed(&self, operation: &Operation, key: Key, who: &Who, caller: &Caller) -> Arc<Outcome> {
        let engine = &self.services.engine;
        let tracker = engine.tracker();
        let shared = self.shared.as_ref().and_then(|shared| Some((shared, shared.name(&key, engine)?)));
        if let Some((shared, name)) = &shared
            && let Some(outcome) = shared.find(name, engine).await
        {
            let outcome = Arc::new(outcome);
            self.cache.keep(key, caller.credential, &outcome, tracker);
            return outcome;
        }
        let mut round = 0;
        let mut asks_replica = self.asks_replicas;
        loop {
            let position = engine.feed().head();
            let t0 = tracker.tick();
            if std::mem::take(&mut asks_replica)
                && let Some(moment) = engine.moment_of_replica(caller.at_least, t0).await
            {
                if let Some(outcome) = self.on_replica(operation, moment, position, who, caller).await {
                    self.cache.keep(key, caller.credential, &outcome, tracker);
                    if let Some((shared, name)) = shared {
                        shared.keep(name, &outcome);
                    }
                    return outcome;
                }
                continue;
            }
            counter!("oriel_reads_total", "target" => "primary").increment(1);
            let pool = engine.database().reader();
            let source = match round {
                0..AGAIN => Source::Pool(pool.clone()),
                // All of an answer from one moment.
                _ => match engine.snapshot().await {
                    Ok(transaction) => Source::Transaction(Arc::new(transaction)),
                    Err(_) => Source::Pool(pool.clone()),
                },
            };
            let (response, recorder) = self.once(operation.request(), source, who, caller).await;
            let outcome = Outcome::new(response, &recorder, t0, position);
            round += 1;
            let is_whole = tracker.valid(t0, outcome.dependencies.iter());
            if is_whole || round > AGAIN || !outcome.errors.is_empty() {
                let outcome = Arc::new(outcome);
                self.cache.keep(key, caller.credential, &outcome, tracker);
                if let Some((shared, name)) = shared.filter(|_| is_whole) {
                    shared.keep(name, &outcome);
                }
                return outcome;
            }
        }
    }

    /// Executes it at a moment of a replica; nothing where that fails, takes too long, or is not how it is any more. Then
    /// the primary is asked, and nobody notices.
    async fn on_replica(
        &self,
        operation: &Operation,
        moment: Moment,
        position: Position,
        who: &Who,
        caller: &Caller,
    ) -> Option<Arc<Outcome>> {
        let Moment { transaction, since, name } = moment;
        let executed = self.once(operation.request(), Source::Transaction(transaction), who, caller);
        let outcome = tokio::time::timeout(REPLICA_WITHIN, executed)
            .await
            .ok()
            .map(|(response, recorder)| Outcome::new(response, &recorder, since, position));
        let tracker = self.services.engine.tracker();
        let holds = |outcome: &Outcome| outcome.errors.is_empty() && tracker.valid(since, outcome.dependencies.iter());
        let outcome = outcome.filter(holds).map(Arc::new);
        match &outcome {
            Some(_) => counter!("oriel_reads_total", "target" => name).increment(1),
            None => counter!("oriel_replica_misses_total", "replica" => name).increment(1),
        }
        outcome
    }

    async fn once(&self, request: Request, source: Source, who: &Who, caller: &Caller) -> (Response, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let request = self.with_data(request, source, who, caller, &recorder);
        (self.schema.execute(request).await, recorder)
    }

    /// Puts into the request what its resolvers need.
    pub(super) fn with_data(
        &self,
        request: Request,
        source: Source,
        who: &Who,
        caller: &Caller,
        recorder: &Arc<Recorder>,
    ) -> Request {
        let viewer = who.row.as_ref().map(|row| Arc::clone(&row.viewer));
        let readers = match &viewer {
            Some(viewer) => {
                let limits = self.services.policy.reading();
                Readers::of(Reader::with_limits(source, Arc::clone(viewer), Arc::clone(recorder), limits))
            }
            None => Readers::default(),
        };
        let meta = Meta {
            request: caller.request,
            viewer,
            credential: caller.credential,
            token_ends: caller.token_ends,
            ip: caller.ip.clone(),
            user_agent: caller.user_agent.clone(),
            uploads: caller.uploads.clone(),
            maintenance: who.maintenance,
        };
        let request = request
            .data(meta)
            .data(readers)
            .data(Arc::clone(recorder))
            .data(Arc::clone(&self.contents))
            .data(Arc::clone(&self.payloads))
            .data(self.cache.clone());
        let request = match &who.row {
            Some(row) => request.data(Asker { row: Arc::clone(row), since: who.since }),
            None => request,
        };
        match caller.at_least {
            // The index follows the log at its own pace: a search waits for it by itself.
            Some(position) => request.data(crate::search::AtLeast(position)),
            None => request,
        }
    }
}

/// `UNAUTHENTICATED`, for somebody who was known by this.
pub(crate) async fn ended(engine: &Engine, credential: Credential) -> async_graphql::Error {
    match is_suspended(engine.database().reader(), credential).await {
        Ok(true) => return crate::access::error("ORGANIZATION_SUSPENDED", SUSPENDED),
        Ok(false) => {}
        Err(error) => return crate::access::unavailable(error),
    }
    let message = match credential {
        Credential::Session(_) => "This session has ended. Sign in again.",
        Credential::ApiKey { .. } => {
            "This API key is not valid, or not any more: it was revoked, rotated or has ended."
        }
    };
    crate::access::error("UNAUTHENTICATED", message)
}

/// What somebody is told whose organisation is suspended.
pub(crate) const SUSPENDED: &str = "This organization is suspended: nobody can act or read in it until the operator \
                                    of the installation reinstates it. Sign in to another one, or ask the operator.";

/// What somebody is told whose access token ended while something went on.
pub(crate) const TOKEN_ENDED: &str = "The access token has expired. Refresh the session with `sessionRefresh`: what is \
                                      open goes on when that is done in time.";

/// Until when somebody is signed in: to the end of their access token, or of the last one that their session was given
/// (`time_to_live` after that), and not longer than the session goes on.
pub(crate) fn signed_in_until(row: &ViewerRow, token_ends: Option<Timestamp>, time_to_live: Duration) -> Timestamp {
    let last = TimeDelta::from_std(time_to_live).ok().and_then(|time| row.last_seen_at.checked_add_signed(time));
    token_ends.map_or(row.expires_at, |ends| ends.max(last.unwrap_or(ends)).min(row.expires_at))
}

impl Who {
    pub fn personal(&self, key: Key) -> Key {
        self.row.as_ref().map_or(key, |row| key.personal(row.viewer.credential))
    }
}
