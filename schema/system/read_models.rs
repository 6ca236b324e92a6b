//! What is made of the log alone, and can be made anew: the read models, and the search index as one more of them.
//!
//! At most one rebuild or comparison of each goes on at a time on a node; the engine sees to it between nodes. A
//! rebuild goes on after its mutation has answered. However it ends, what is read from stays whole.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_graphql::{Context, InputObject, SimpleObject};
use oriel_engine::rebuild::{ReadModelState, RebuildError, Verified};
use oriel_kernel::{ErrorCode, Position, Rejection, UserError, operations};

use super::{dependency, short};
use crate::access::{Failure, Payload, Result, internal, unavailable};
use crate::payload::payloads;
use crate::services::{IndexFailure, Services};

/// What the operator does.
#[derive(Default)]
pub struct SystemMutation;

#[operations(mutation)]
impl SystemMutation {
    /// Rebuilds a read model, or the search index, from the log, beside the running one and while writes go on.
    /// Answers at once; see `system.readModels` for how far it is. A rebuild of a read model that was cancelled or
    /// killed is gone on with; one of the search index begins anew.
    #[permission("system:manage")]
    async fn read_model_rebuild(
        &self,
        cx: &Context<'_>,
        input: ReadModelRebuildInput,
    ) -> Result<ReadModelRebuildPayload> {
        let services = Arc::clone(Services::of(cx)?);
        let target = Target::named(&services, &input.name)?;
        let turn = services.rebuilds.begin(&input.name)?;
        let position = services.engine.feed().head();
        tokio::spawn(async move {
            let progress = |at: Position, head: Position| {
                tracing::info!(read_model = turn.name, %at, %head, "a read model is being rebuilt");
                services.engine.feed().touch(&[dependency()]);
                turn.goes_on()
            };
            let rebuilt = match target {
                Target::ReadModel(name) => services.engine.rebuild(name, &progress).await.map_err(Into::into),
                Target::Index => services.operations.rebuild_index(&progress).await.map(|_| ()),
            };
            if let Err(error) = rebuilt {
                let name = &turn.name;
                tracing::error!(read_model = name, %error, "a read model was not rebuilt; the running one is untouched");
                turn.failed(error.to_string());
            }
            drop(turn);
            services.engine.feed().touch(&[dependency()]);
        });
        Ok(ReadModelRebuildPayload { name: Some(input.name), user_errors: Vec::new(), position: Some(position) })
    }

    /// Ends a rebuild that the node that answers works on, after the events that it is at. The running one is
    /// untouched.
    #[permission("system:manage")]
    async fn read_model_rebuild_cancel(
        &self,
        cx: &Context<'_>,
        input: ReadModelRebuildCancelInput,
    ) -> Result<ReadModelRebuildPayload> {
        let services = Services::of(cx)?;
        services.rebuilds.cancel(&input.name)?;
        let position = services.engine.feed().head();
        Ok(ReadModelRebuildPayload { name: Some(input.name), user_errors: Vec::new(), position: Some(position) })
    }

    /// Builds a read model, or the search index, from the log beside the running one and compares the two: of a read
    /// model row by row, of the index entry by entry, with all that a search reads of it. Nothing is changed. Answers
    /// when it is done, which takes the longer the longer the log is; where that is longer than a request may take, it
    /// goes on, and what it found is in `system.readModels`.
    #[permission("system:manage")]
    async fn read_model_verify(&self, cx: &Context<'_>, input: ReadModelVerifyInput) -> Result<ReadModelVerifyPayload> {
        let services = Arc::clone(Services::of(cx)?);
        let target = Target::named(&services, &input.name)?;
        let turn = services.rebuilds.begin(&input.name)?;
        // It goes on when the client goes away, so that what it leaves behind is cleared.
        let task = tokio::spawn(async move {
            let verified = match target {
                Target::ReadModel(name) => services.engine.verify(name).await.map_err(Unverified::ReadModel),
                Target::Index => services.operations.verify_index().await.map_err(Unverified::Index),
            };
            match &verified {
                Ok(verified) => turn.found(verified.clone()),
                Err(error) => turn.failed(error.to_string()),
            }
            verified
        });
        let verified = task.await.map_err(internal)?.map_err(Failure::from)?;
        Ok(ReadModelVerifyPayload { result: Some(verified.into()), user_errors: Vec::new() })
    }
}

/// What is rebuilt or verified.
enum Target {
    ReadModel(&'static str),
    Index,
}

impl Target {
    fn named(services: &Services, name: &str) -> Result<Self, Rejection> {
        let mut tables = services.engine.read_models().iter().map(|read_model| read_model.table());
        if let Some(table) = tables.find(|table| *table == name) {
            return Ok(Self::ReadModel(table));
        }
        if services.operations.index_states().iter().any(|index| index.name == name) {
            return Ok(Self::Index);
        }
        let message = "There is no such read model. Their names are in `system.readModels`.";
        Err(Rejection::new(ErrorCode::NotFound, message).at("name"))
    }
}

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
enum Unverified {
    #[error(transparent)]
    ReadModel(RebuildError),
    #[error("{0}")]
    Index(IndexFailure),
}

impl From<Unverified> for Failure {
    fn from(error: Unverified) -> Self {
        match error {
            Unverified::ReadModel(RebuildError::Elsewhere(_)) => {
                let message = "Another node rebuilds or verifies this. Wait until that is done.";
                Rejection::conflict(message).at("name").into()
            }
            Unverified::ReadModel(RebuildError::Database(error)) => unavailable(error).into(),
            Unverified::ReadModel(other) => internal(other).into(),
            Unverified::Index(error) => unavailable(error).into(),
        }
    }
}

/// What this node rebuilds or verifies, each by its name. Cheap to clone.
#[derive(Clone, Default)]
pub struct Rebuilds(Arc<Mutex<BTreeMap<String, Work>>>);

/// The work on one of them.
#[derive(Clone, Default)]
struct Work {
    busy: bool,
    cancelled: bool,
    last_error: Option<String>,
    verified: Option<Verified>,
}

/// The right to work on one of them. Ends with its drop.
struct Turn {
    rebuilds: Rebuilds,
    name: String,
}

impl Rebuilds {
    fn begin(&self, name: &str) -> Result<Turn, Rejection> {
        let mut works = self.works();
        let work = works.entry(name.to_owned()).or_default();
        if work.busy {
            let message = "This read model is being rebuilt or verified. Wait until that is done.";
            return Err(Rejection::conflict(message).at("name"));
        }
        *work = Work { busy: true, ..Work::default() };
        Ok(Turn { rebuilds: self.clone(), name: name.to_owned() })
    }

    fn cancel(&self, name: &str) -> Result<(), Rejection> {
        match self.works().get_mut(name) {
            Some(work) if work.busy => {
                work.cancelled = true;
                Ok(())
            }
            _ => Err(Rejection::conflict("This node does not rebuild it at the moment.").at("name")),
        }
    }

    fn works(&self) -> MutexGuard<'_, BTreeMap<String, Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn goes_on(&self) -> ControlFlow<()> {
        match self.rebuilds.works().get(&self.name) {
            Some(work) if work.cancelled => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn failed(&self, why: String) {
        if let Some(work) = self.rebuilds.works().get_mut(&self.name) {
            work.last_error = Some(why);
        }
    }

    fn found(&self, verified: Verified) {
        if let Some(work) = self.rebuilds.works().get_mut(&self.name) {
            work.verified = Some(verified);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(work) = self.rebuilds.works().get_mut(&self.name) {
            work.busy = false;
        }
    }
}

/// Every read model and the search index, with those that are being built beside them, by name.
///
/// # Errors
/// When the database is not there.
pub(super) async fn states(services: &Services) -> async_graphql::Result<Vec<ReadModelStatus>> {
    // Looked at first: who sees that nobody works on it any more sees what became of it.
    let works = services.rebuilds.works().clone();
    let mut states = services.engine.read_model_states().await.map_err(unavailable)?;
    states.extend(services.operations.index_states());
    states.sort_by(|a, b| (&a.name, a.generation).cmp(&(&b.name, b.generation)));
    let head = services.engine.feed().head();
    let shown = states.into_iter().map(|state| {
        let work = works.get(&state.name).cloned().unwrap_or_default();
        ReadModelStatus::new(state, work, head)
    });
    Ok(shown.collect())
}

/// Something that is read from and made of the log alone, or what will take its place.
#[derive(SimpleObject)]
pub(super) struct ReadModelStatus {
    /// Its name.
    name: String,
    /// How often it was built.
    generation: i32,
    /// The version of its projection, or of the index's format.
    version: i32,
    /// `inline`: it is read from, and moves with each commit. `following`: it is read from, and follows the log behind
    /// the commit. `catching_up`: it is being built; or was, and the next rebuild goes on with it.
    state: String,
    /// How far it is.
    position: Position,
    /// How many events it has still to take in.
    lag: i32,
    /// Whether the node that answers rebuilds or verifies it at this moment.
    busy: bool,
    /// Why the last rebuild or comparison that this node began did not come to its end; null when it did, or goes on.
    last_error: Option<String>,
    /// What the last comparison on this node found; null when there was none, or a rebuild was begun since.
    verified: Option<ReadModelVerification>,
}

/// What a comparison with what the log gives found. All is well when nothing differs.
#[derive(SimpleObject)]
struct ReadModelVerification {
    /// What was compared.
    name: String,
    /// Rows of the running table, or entries of the running index.
    rows: i32,
    /// Rows that only the running one has.
    only_running: i32,
    /// Rows that only the replay has. A row that differs is in both counts.
    only_replayed: i32,
    /// Where in the log they were compared.
    position: Position,
}

impl ReadModelStatus {
    fn new(state: ReadModelState, work: Work, head: Position) -> Self {
        let ReadModelState { name, generation, version, state, position } = state;
        let lag = short((head.number() - position.number()).max(0));
        let Work { busy, last_error, verified, .. } = work;
        Self { name, generation, version, state, position, lag, busy, last_error, verified: verified.map(Into::into) }
    }
}

impl From<Verified> for ReadModelVerification {
    fn from(verified: Verified) -> Self {
        Self {
            name: verified.name.to_owned(),
            rows: short(verified.rows),
            only_running: short(verified.only_running),
            only_replayed: short(verified.only_replayed),
            position: verified.position,
        }
    }
}

/// The read model that is to be rebuilt.
#[derive(InputObject)]
struct ReadModelRebuildInput {
    /// Its name, as in `system.readModels`.
    name: String,
}

/// The rebuild that is to be ended.
#[derive(InputObject)]
struct ReadModelRebuildCancelInput {
    /// The name of what is being rebuilt, as in `system.readModels`.
    name: String,
}

/// The read model that is to be compared with the log.
#[derive(InputObject)]
struct ReadModelVerifyInput {
    /// Its name, as in `system.readModels`.
    name: String,
}

payloads! {
    /// Whether a rebuild was begun, or is being ended.
    ReadModelRebuildPayload {
        /// What is being rebuilt.
        name: String,
    }
}

/// What a comparison found.
#[derive(SimpleObject)]
struct ReadModelVerifyPayload {
    /// What was found.
    result: Option<ReadModelVerification>,
    /// What has to be mended before this can be done; empty when it was done.
    user_errors: Vec<UserError>,
}

impl Payload for ReadModelVerifyPayload {
    fn rejected(user_errors: Vec<UserError>) -> Self {
        Self { result: None, user_errors }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_until_it_ends_or_is_ended() {
        let rebuilds = Rebuilds::default();
        assert!(rebuilds.cancel("documents").is_err(), "nobody works on it");
        let turn = rebuilds.begin("documents").unwrap();
        assert!(rebuilds.begin("documents").is_err());
        assert!(rebuilds.begin("search").is_ok());
        assert!(turn.goes_on().is_continue());
        rebuilds.cancel("documents").unwrap();
        assert!(turn.goes_on().is_break());
        turn.failed("cancelled".to_owned());
        drop(turn);
        let last = rebuilds.works()["documents"].clone();
        assert_eq!((last.busy, last.last_error.as_deref()), (false, Some("cancelled")));
        let turn = rebuilds.begin("documents").unwrap();
        assert!(turn.goes_on().is_continue());
        assert_eq!(rebuilds.works()["documents"].last_error, None, "it is about the last one");
    }
}
