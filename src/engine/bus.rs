//! The command bus: from a command to its events in the log.
//!
//! It loads the aggregates (hot ones from a bounded cache, without a query), decides, seals personal data, and hands
//! a proposal to the committer. Commands on one aggregate wait for each other inside a process; what another node
//! wrote in between shows as a version conflict, upon which everything is loaded and decided again, with the same ids
//! and the same `now`, a bounded number of times. What somebody may do is looked at again by the committer; when it has
//! changed, it is found out anew, once.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use oriel_kernel::trace;
use oriel_kernel::{
    Actor, Aggregate, AnyEvent, Command, CommandId, ErrorCode, EventId, Fact, Facts, Given, Grant, Id, MemberId,
    Observed, OrganizationId, Permissions, Position, Recorded, Rejection, Timestamp, UserError, Visible,
};
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::committer::{Append, Prepared, Proposal, Verdict};
use crate::engine::Engine;
use crate::keyring::KeyError;
use crate::log::LogError;

/// How often a command is decided again before it is a conflict.
const ATTEMPTS: u32 = 8;
/// An id that no aggregate has.
const NOBODY: Uuid = Uuid::max();
/// The most events that one command may write.
pub const MAX_EVENTS: usize = 1_000;
/// The most bytes that one command may write.
pub const MAX_BYTES: usize = 1 << 20;

/// What somebody may do, and what that rests on.
#[derive(Clone, Debug)]
pub struct Scope {
    /// How far their permission reaches.
    pub grant: Grant,
    /// Which parts of the organisation they see.
    pub visible: Visible,
    /// As whom they act: the member, or whose key it is.
    pub member: Option<MemberId>,
    /// All that they may.
    pub permissions: Arc<Permissions>,
    /// What all this was read from.
    pub observed: Observed,
}

static EVERYTHING: LazyLock<Arc<Permissions>> = LazyLock::new(|| Arc::new(Permissions::everything()));

impl Scope {
    /// Everything, whatever happens: for Oriel itself, and for who needs no permission.
    pub fn unlimited() -> Self {
        Self {
            grant: Grant::All,
            visible: Visible::All,
            member: None,
            permissions: Arc::clone(&EVERYTHING),
            observed: Observed::default(),
        }
    }

    /// As whom this actor acts.
    fn member(&self, actor: Actor) -> Option<MemberId> {
        match actor {
            Actor::Member(member) => Some(member),
            Actor::ApiKey(_) => self.member,
            Actor::User(_) | Actor::System | Actor::Anonymous => None,
        }
    }

    /// What lets this actor see these parts of the organisation.
    fn sight(&self, actor: Actor, parts: [Option<Uuid>; 2]) -> Vec<Fact> {
        let (Visible::Only(seen), Some(member)) = (&self.visible, self.member(actor)) else { return Vec::new() };
        parts.into_iter().flatten().filter(|part| seen.contains(part)).map(|part| Visible::fact(member, part)).collect()
    }
}

/// Finds out what somebody may do at this moment.
#[async_trait::async_trait]
pub trait Authority: std::fmt::Debug + Send + Sync {
    /// What they may do now.
    ///
    /// # Errors
    /// When they may not do it any more, or it cannot be found out.
    async fn renew(&self) -> Result<Scope, CommandError>;
}

/// On whose behalf and in which circumstances a command is decided.
#[derive(Clone, Debug)]
pub struct CommandContext {
    /// The command's id: derived from the client's idempotency key, or new.
    pub command: CommandId,
    /// Whether it may be a repetition, to be looked up before anything is decided.
    pub may_repeat: bool,
    /// A hash of the whole input: another one under the same id is refused.
    pub input_hash: [u8; 32],
    /// Who asks.
    pub actor: Actor,
    /// The organisation that they act in.
    pub organization: OrganizationId,
    /// What they may do.
    pub scope: Scope,
    /// Finds that out anew, once, when it has changed at the moment of the commit. Without it the command is refused.
    pub authority: Option<Arc<dyn Authority>>,
    /// What the client believes the first aggregate's version to be.
    pub expected_version: Option<i32>,
    /// What belongs together.
    pub correlation: Uuid,
    /// The event that led to this command.
    pub causation: Option<Uuid>,
    /// The moment of the command.
    pub now: Timestamp,
}

impl CommandContext {
    /// For Oriel itself, in this organisation.
    pub fn system(command: CommandId, organization: OrganizationId, now: Timestamp) -> Self {
        Self {
            command,
            may_repeat: true,
            input_hash: [0; 32],
            actor: Actor::System,
            organization,
            scope: Scope::unlimited(),
            authority: None,
            expected_version: None,
            correlation: command.uuid(),
            causation: None,
            now,
        }
    }

    /// As led to by this event.
    pub fn caused_by(mut self, event: &Recorded) -> Self {
        self.correlation = event.correlation;
        self.causation = Some(event.id.uuid());
        self
    }
}

/// A command that succeeded.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Where its last event is; the head of the log when it wrote nothing.
    pub position: Position,
    /// The aggregate that it is about.
    pub subject: Uuid,
    /// What it wrote; empty when it changed nothing or was a repetition.
    pub events: Vec<Arc<Recorded>>,
    /// Whether it had been carried out before, under the same idempotency key.
    pub repeated: bool,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Something that a person can mend.
    #[error("rejected: {0:?}")]
    Rejected(UserError),
    /// What the actor may do has changed since it was read, and again when that was read anew.
    #[error("the actor's permissions changed")]
    Stale,
    /// The session of who asks has ended since.
    #[error("the actor's session has ended")]
    SignedOut,
    /// Too much is waiting.
    #[error("too many commands wait")]
    Overloaded,
    /// The database is not there. It may be tried again with the same command id.
    #[error("not available: {0}")]
    Unavailable(String),
    /// A defect. The log line has the rest.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<Rejection> for CommandError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection.into())
    }
}

impl From<LogError> for CommandError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Database(error) => Self::Unavailable(error.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<KeyError> for CommandError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Database(error) => Self::Unavailable(error.to_string()),
            KeyError::MasterKeys(error) => Self::Unavailable(error.to_string()),
            KeyError::Destroyed(_) => {
                Rejection::new(ErrorCode::NotFound, "What this is about was deleted for good.").into()
            }
            other => Self::Internal(other.to_string()),
        }
    }
}

/// Commands on distinct aggregates that succeed or fail together.
#[derive(Default)]
pub struct Transaction {
    steps: Vec<Box<dyn Step>>,
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// And this command on this aggregate.
    pub fn and<C: Command>(mut self, id: Id<<C::Aggregate as Aggregate>::Kind>, command: C) -> Self {
        self.steps.push(Box::new(StepOf { id: id.uuid(), command }));
        self
    }
}

/// An aggregate's state as the cache holds it.
#[derive(Clone)]
pub(crate) struct Cached {
    state: Arc<dyn Any + Send + Sync>,
    version: i32,
}

struct Decided {
    events: Vec<Box<dyn AnyEvent>>,
    facts: Facts,
    tenant: OrganizationId,
    /// The part of the organisation that it was in before, and that it is in afterwards.
    parts: [Option<Uuid>; 2],
    after: Arc<dyn Any + Send + Sync>,
}

/// A command on an aggregate, whatever its types.
trait Step: Send + Sync {
    /// The command's name in the program.
    fn name(&self) -> &'static str;
    fn subject(&self) -> Uuid;
    fn replay(&self, events: &[Arc<Recorded>]) -> Cached;
    /// Whether who asks may know that it is there.
    fn is_known(&self, cached: &Cached, given: &Given<'_>) -> bool;
    fn decide(&self, cached: &Cached, given: Given<'_>) -> Result<Decided, Rejection>;
}

struct StepOf<C> {
    id: Uuid,
    command: C,
}

impl<C: Command> Step for StepOf<C> {
    fn name(&self) -> &'static str {
        let path = std::any::type_name::<C>();
        path.rsplit("::").next().unwrap_or(path)
    }

    fn subject(&self) -> Uuid {
        self.id
    }

    fn replay(&self, events: &[Arc<Recorded>]) -> Cached {
        replay::<C::Aggregate>(events)
    }

    fn is_known(&self, cached: &Cached, given: &Given<'_>) -> bool {
        // Another aggregate's state under this id means an id of another kind: it is not there.
        let state = cached.state.downcast_ref::<C::Aggregate>();
        C::CREATES || state.is_some_and(|state| known(state, given))
    }

    fn decide(&self, cached: &Cached, given: Given<'_>) -> Result<Decided, Rejection> {
        if !self.is_known(cached, &given) {
            return Err(Rejection::not_found(C::Aggregate::NOUN));
        }
        let fresh = C::Aggregate::default();
        let state = cached.state.downcast_ref::<C::Aggregate>().unwrap_or(&fresh);
        let outcome = self.command.decide(state, &given)?;
        let mut after = state.clone();
        for event in &outcome.events {
            after.evolve(event);
        }
        let tenant = after.tenant().unwrap_or(given.organization);
        let events = outcome.events.into_iter().map(|event| Box::new(event) as Box<dyn AnyEvent>).collect();
        let parts = [state.scope(), after.scope()];
        Ok(Decided { events, facts: outcome.facts, tenant, parts, after: Arc::new(after) })
    }
}

/// Whether it is there, in this organisation (or the installation's), and in sight.
fn known<A: Aggregate>(state: &A, given: &Given<'_>) -> bool {
    let tenant = state.tenant().is_some_and(|tenant| tenant == given.organization || tenant.is_absent());
    tenant && state.scope().is_none_or(|scope| given.visible.sees(scope))
}

fn replay<A: Aggregate>(events: &[Arc<Recorded>]) -> Cached {
    let mut state = A::default();
    let mut version = 0;
    for recorded in events {
        if let Some(event) = recorded.event_as::<A::Event>() {
            state.evolve(event);
            version = recorded.version;
        }
    }
    Cached { state: Arc::new(state), version }
}

impl Engine {
    /// Carries out one command.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn execute<C: Command>(
        &self,
        context: &CommandContext,
        id: Id<<C::Aggregate as Aggregate>::Kind>,
        command: C,
    ) -> Result<Committed, CommandError> {
        self.transact(context, Transaction::new().and(id, command)).await
    }

    /// Carries out several commands on distinct aggregates, all or none. The first one's aggregate is what the
    /// transaction is about.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn transact(
        &self,
        context: &CommandContext,
        transaction: Transaction,
    ) -> Result<Committed, CommandError> {
        let span = tracing::debug_span!(
            target: trace::TARGET,
            "command",
            otel.name = transaction.steps.first().map(|step| step.name()),
            command = %context.command,
            organization = %context.organization,
        );
        // In memory of its own: what a field's resolver holds on the stack stays small.
        Box::pin(self.carry_out(context, transaction)).instrument(span).await
    }

    async fn carry_out(&self, context: &CommandContext, transaction: Transaction) -> Result<Committed, CommandError> {
        let subject = transaction.steps.first().map(|step| step.subject()).unwrap_or_default();
        if !self.committer.has_room(0) {
            return Err(CommandError::Overloaded);
        }
        let _turns = self.turns(transaction.steps.iter().map(|step| step.subject())).await;
        // Only now: a repetition that came at the same time has been carried out while this one waited for its turn.
        if let Some(committed) = self.repeated(context).await? {
            return Ok(committed);
        }
        let mut context = Cow::Borrowed(context);
        let (mut conflicts, mut renewed) = (0, false);
        loop {
            let attempt = self.attempt(&context, &transaction.steps, subject).await;
            if let (Err(CommandError::Stale), Some(authority), false) = (&attempt, &context.authority, renewed) {
                tracing::debug!(command = %context.command, "the actor's permissions changed; they are read anew");
                let scope = authority.renew().await?;
                context.to_mut().scope = scope;
                renewed = true;
                continue;
            }
            // It may have been carried out since that look (by another node, or for a client that went away). Then
            // this decision is about what it did itself, and the first answer is the answer.
            let about_itself = match &attempt {
                Ok(Attempt::Done(committed)) => committed.events.is_empty() && !committed.repeated,
                Ok(Attempt::Conflict) | Err(CommandError::Rejected(_)) => true,
                Err(_) => false,
            };
            if about_itself && let Some(committed) = self.repeated(&context).await? {
                return Ok(committed);
            }
            match attempt? {
                Attempt::Done(committed) => return Ok(committed),
                Attempt::Conflict if conflicts < ATTEMPTS => {
                    conflicts += 1;
                    metrics::counter!("oriel_command_conflicts_total").increment(1);
                }
                Attempt::Conflict => {
                    return Err(Rejection::conflict("Others are changing this at the moment. Try again.").into());
                }
            }
        }
    }

    /// The state of an aggregate, as the next command would see it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn state<A: Aggregate>(&self, id: Id<A::Kind>) -> Result<A, CommandError> {
        if let Some(cached) = self.aggregates.get(&id.uuid())
            && let Some(state) = cached.state.downcast_ref::<A>()
        {
            return Ok(state.clone());
        }
        let cached = replay::<A>(&self.log.read_subject(id.uuid()).await?);
        Ok(cached.state.downcast_ref::<A>().cloned().unwrap_or_default())
    }

    async fn attempt(
        &self,
        context: &CommandContext,
        steps: &[Box<dyn Step>],
        subject: Uuid,
    ) -> Result<Attempt, CommandError> {
        let (mut appends, mut after) = (Vec::new(), Vec::new());
        let mut observed = context.scope.observed.clone();
        let mut keys = BTreeSet::new();
        let (mut events, mut bytes) = (0, 0);
        for (n, step) in steps.iter().enumerate() {
            let cached = self.load(context, step.as_ref()).await?;
            if n == 0
                && context.expected_version.is_some_and(|expected| expected != cached.version)
                && cached.version > 0
            {
                // Only for those who may know that it is there.
                let given = self.given(context, step.subject());
                if step.decide(&cached, given).is_err_and(|r| r.code == ErrorCode::NotFound) {
                    return Err(Rejection::not_found("thing").into());
                }
                return Err(version_conflict(cached.version));
            }
            let decided = step.decide(&cached, self.given(context, step.subject()))?;
            if decided.events.is_empty() && decided.facts.is_empty() {
                continue;
            }
            observed.facts.extend(context.scope.sight(context.actor, decided.parts));
            // An organisation itself is written of even after its end.
            if decided.tenant.uuid() != step.subject() && !decided.tenant.is_absent() {
                keys.insert(decided.tenant.uuid());
            }
            let mut prepared = Vec::with_capacity(decided.events.len());
            for event in decided.events {
                let mut sealed = event.clone_boxed();
                keys.append(&mut self.keyring.seal(decided.tenant, sealed.as_mut()).await?);
                let data = sealed.encode().map_err(|e| CommandError::Internal(e.to_string()))?;
                bytes += data.len();
                events += 1;
                prepared.push(Prepared { id: EventId::from_uuid(self.sources.id()), event: event.into(), data });
            }
            let version = cached.version + i32::try_from(prepared.len()).unwrap_or(i32::MAX);
            after.push((step.subject(), Cached { state: decided.after, version }));
            appends.push(Append {
                tenant: decided.tenant,
                subject: step.subject(),
                expected: cached.version,
                events: prepared,
                facts: decided.facts,
            });
        }
        if events > MAX_EVENTS || bytes > MAX_BYTES {
            let message = format!(
                "This would write {events} events of {bytes} bytes; at most {MAX_EVENTS} events or {MAX_BYTES} bytes. Split it."
            );
            return Err(Rejection::new(ErrorCode::LimitExceeded, message).into());
        }
        if events == 0 {
            return self.unchanged(context, steps, subject).await;
        }
        let proposal = Proposal {
            command: context.command.uuid(),
            input_hash: context.input_hash,
            subject,
            organization: context.organization,
            appends,
            observed,
            keys,
            actor: context.actor,
            at: oriel_kernel::time::to_micros(context.now),
            correlation: context.correlation,
            causation: context.causation,
            span: Span::current(),
        };
        // The write goes on when the client goes away: the caller's future may be dropped, this task is not.
        let committer = Arc::clone(&self.committer);
        let cache = self.aggregates.clone();
        let task = tokio::spawn(async move {
            let touched: Vec<Uuid> = after.iter().map(|(id, _)| *id).collect();
            let verdict = committer.submit(proposal).await;
            match &verdict {
                Verdict::Committed { .. } => after.into_iter().for_each(|(id, cached)| cache.insert(id, cached)),
                Verdict::Rejected(_) | Verdict::Overloaded | Verdict::Stale => {}
                _ => touched.iter().for_each(|id| cache.invalidate(id)),
            }
            verdict
        });
        let verdict = task.await.map_err(|e| CommandError::Internal(e.to_string()))?;
        self.verdict(context, subject, verdict)
    }

    fn verdict(&self, context: &CommandContext, subject: Uuid, verdict: Verdict) -> Result<Attempt, CommandError> {
        match verdict {
            Verdict::Committed { position, events } => {
                events.iter().for_each(|event| trace::event(event));
                Ok(Attempt::Done(Committed { position, subject, events, repeated: false }))
            }
            Verdict::Repeated { position, subject, input_hash } => {
                same_input(context, &input_hash)?;
                Ok(Attempt::Done(Committed { position, subject, events: Vec::new(), repeated: true }))
            }
            Verdict::Conflict { subject } => {
                tracing::debug!(%subject, command = %context.command, "a version conflict; the command is decided again");
                Ok(Attempt::Conflict)
            }
            Verdict::Stale => Err(CommandError::Stale),
            Verdict::Rejected(rejection) => Err(rejection.into()),
            Verdict::Overloaded => Err(CommandError::Overloaded),
            Verdict::Unavailable(why) => Err(CommandError::Unavailable(why)),
            Verdict::Poisoned(why) => Err(CommandError::Internal(why)),
        }
    }

    /// A decision without events: where other nodes write, it is confirmed against the versions of now.
    async fn unchanged(
        &self,
        context: &CommandContext,
        steps: &[Box<dyn Step>],
        subject: Uuid,
    ) -> Result<Attempt, CommandError> {
        if self.shared_with_other_nodes() {
            for step in steps {
                let Some(cached) = self.aggregates.get(&step.subject()) else { continue };
                if self.version(step.subject()).await? != cached.version {
                    self.aggregates.invalidate(&step.subject());
                    return Ok(Attempt::Conflict);
                }
            }
        }
        tracing::debug!(command = %context.command, "nothing changed");
        Ok(Attempt::Done(Committed { position: self.feed.head(), subject, events: Vec::new(), repeated: false }))
    }

    async fn version(&self, subject: Uuid) -> Result<i32, CommandError> {
        let sql = "SELECT CAST(COALESCE(MAX(version), 0) AS BIGINT) AS n FROM events WHERE subject_id = $1";
        let rows = self.database.query(sql, vec![subject.into()]).await.map_err(LogError::from)?;
        let version: i64 =
            rows.first().map(|row| row.try_get("", "n")).transpose().map_err(LogError::from)?.unwrap_or(0);
        Ok(i32::try_from(version).unwrap_or(i32::MAX))
    }

    /// The answer to a command that was carried out before.
    async fn repeated(&self, context: &CommandContext) -> Result<Option<Committed>, CommandError> {
        if !context.may_repeat {
            return Ok(None);
        }
        let sql = "SELECT position, subject_id, input_hash FROM commands WHERE id = $1";
        let rows = self.database.query(sql, vec![context.command.uuid().into()]).await.map_err(LogError::from)?;
        let Some(row) = rows.first() else { return Ok(None) };
        let input_hash: Vec<u8> = row.try_get("", "input_hash").map_err(LogError::from)?;
        same_input(context, &input_hash)?;
        self.database.confirm().await.map_err(LogError::from)?;
        Ok(Some(Committed {
            position: Position::new(row.try_get("", "position").map_err(LogError::from)?),
            subject: row.try_get("", "subject_id").map_err(LogError::from)?,
            events: Vec::new(),
            repeated: true,
        }))
    }

    /// The state of an aggregate, from memory if it is there. One that who asks may not know of is refused as one that
    /// nobody has, and no sooner: that one would have been looked for in the log.
    async fn load(&self, context: &CommandContext, step: &dyn Step) -> Result<Cached, CommandError> {
        if let Some(cached) = self.aggregates.get(&step.subject()) {
            if !step.is_known(&cached, &self.given(context, step.subject())) {
                self.log.read_subject(NOBODY).await?;
            }
            return Ok(cached);
        }
        let events = self.log.read_subject(step.subject()).await?;
        let cached = step.replay(&events);
        // An id of another kind gives a state of nothing: it must not displace the real one.
        if cached.version > 0 {
            self.aggregates.insert(step.subject(), cached.clone());
        }
        Ok(cached)
    }

    fn given<'a>(&'a self, context: &'a CommandContext, id: Uuid) -> Given<'a> {
        Given {
            id,
            now: context.now,
            actor: context.actor,
            member: context.scope.member(context.actor),
            organization: context.organization,
            grant: context.scope.grant,
            permissions: &context.scope.permissions,
            visible: &context.scope.visible,
            blinder: self.keyring.as_ref(),
        }
    }

    /// One turn for each aggregate, taken in one order everywhere, so that nobody waits in a circle.
    async fn turns(&self, subjects: impl Iterator<Item = Uuid>) -> Vec<tokio::sync::OwnedMutexGuard<()>> {
        let count = self.turns.len() as u128;
        let shards: BTreeSet<usize> = subjects.map(|id| (id.as_u128() % count) as usize).collect();
        let mut guards = Vec::with_capacity(shards.len());
        for shard in shards {
            guards.push(Arc::clone(&self.turns[shard]).lock_owned().await);
        }
        guards
    }
}

enum Attempt {
    Done(Committed),
    Conflict,
}

fn same_input(context: &CommandContext, input_hash: &[u8]) -> Result<(), CommandError> {
    if input_hash == context.input_hash {
        return Ok(());
    }
    let message = "This idempotency key was used with another input. Use a new key for a new command.";
    Err(Rejection::new(ErrorCode::IdempotencyMismatch, message).at("idempotencyKey").into())
}

fn version_conflict(current: i32) -> CommandError {
    let message =
        format!("This was changed meanwhile: its version is {current}. Read it again and repeat your change.");
    let mut error = UserError::from(Rejection::conflict(message).at("expectedVersion"));
    error.current_version = Some(current);
    CommandError::Rejected(error)
}
