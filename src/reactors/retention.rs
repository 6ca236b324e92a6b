//! What was kept for long enough goes: for as long as each organisation says, or the installation.
//!
//! Invariants: one node sweeps at a time, by a lease. Nothing goes that is not due by what applies at the moment of the
//! sweep, and nothing that has changed since it was found: a command says which version it means. What stands in a read
//! model goes by an event of its own aggregate, so that every node and every replay follows; only readings, which are no
//! events, are rows that are removed. A sweep works in bounded batches, and goes on there the next time. The log itself
//! stays. Time is the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use oriel_domain::documents::{DocumentId, PurgeDocument};
use oriel_domain::members::RemoveMember;
use oriel_domain::retention::{RetentionKind, Rule, Rules};
use oriel_domain::sessions::ForgetSession;
use oriel_engine::{CommandContext, CommandError, Engine};
use oriel_kernel::{Aggregate, Command, Id, MemberId, OrganizationId, SessionId, Timestamp};
use oriel_read_models::access_log;
use oriel_read_models::retention::{Due, due, said, sweeps};
use sea_orm::DbErr;
use tokio::sync::watch;
use uuid::Uuid;

/// Things that are looked for at once.
const BATCH: u64 = 500;
/// Batches of a kind in one sweep.
const BATCHES: usize = 200;
/// Commands that are on their way at once.
const AT_ONCE: usize = 32;
/// How long nobody else sweeps after the last batch of one that died.
const LEASE: Duration = Duration::from_secs(300);

/// Why a sweep did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// What is due.
    #[error("what is due cannot be read, or what was removed cannot be written down: {0}")]
    Database(#[from] DbErr),
    /// A command.
    #[error("something that is due cannot be removed: {0}")]
    Command(#[from] CommandError),
    /// The lease.
    #[error("another node sweeps: this one stood still for too long")]
    Elsewhere,
}

/// How many things of a kind were removed in an organisation.
pub type Removed = BTreeMap<(RetentionKind, OrganizationId), u64>;

/// See the module.
pub(crate) struct Retention {
    engine: Arc<Engine>,
    rules: Rules,
    /// This process, to the others.
    holder: Uuid,
}

impl Retention {
    pub(crate) fn new(engine: Arc<Engine>, rules: Rules) -> Self {
        let holder = engine.new_id::<()>().uuid();
        Self { engine, rules, holder }
    }

    /// Removes what is due; nothing is said when another node does so.
    pub(crate) async fn run(&self) -> Result<Option<Removed>, RetentionError> {
        if !self.hold().await? {
            return Ok(None);
        }
        let mut removed = Removed::new();
        for rule in self.rules.iter() {
            let of_kind = self.sweep(rule).await?;
            let count: u64 = of_kind.values().sum();
            if count > 0 {
                tracing::info!(kind = rule.kind.name(), count, "what was kept for long enough was removed");
                metrics::counter!("oriel_retention_removed_total", "kind" => rule.kind.name()).increment(count);
            }
            removed.extend(of_kind.into_iter().map(|(organization, count)| ((rule.kind, organization), count)));
        }
        let (writer, now) = (self.engine.database().writer(), self.engine.now());
        sweeps::finish(writer, self.holder, now, removed.values().sum()).await?;
        Ok(Some(removed))
    }

    async fn hold(&self) -> Result<bool, DbErr> {
        let now = self.engine.now();
        sweeps::hold(self.engine.database().writer(), self.holder, (now, now + LEASE)).await
    }

    /// Removes what is due of a kind: how many in which organisation.
    async fn sweep(&self, rule: &Rule) -> Result<BTreeMap<OrganizationId, u64>, RetentionError> {
        let now = self.engine.now();
        let mut terms = vec![None];
        terms.extend(said(self.engine.database().reader(), rule.kind).await?.into_iter().map(Some));
        let (mut removed, mut batches) = (BTreeMap::new(), 0);
        for said in terms {
            // Without a number it is kept until somebody removes it.
            let Some(days) = rule.applies(said) else { continue };
            let before = rule.kind.due_before(now, days);
            while batches < BATCHES {
                batches += 1;
                let found = due(self.engine.database().reader(), (rule.kind, said), before, BATCH).await?;
                let gone = match rule.kind {
                    RetentionKind::AccessLog => self.remove_readings(&found, before).await?,
                    kind => self.remove(kind, &found, now).await?,
                };
                let none = gone.values().all(|count| *count == 0);
                for (organization, count) in gone.into_iter().filter(|(_, count)| *count > 0) {
                    *removed.entry(organization).or_default() += count;
                }
                // What is left has changed since it was found.
                if none {
                    break;
                }
                if !self.hold().await? {
                    return Err(RetentionError::Elsewhere);
                }
            }
        }
        for (organization, count) in &removed {
            sweeps::note(self.engine.database().writer(), (*organization, rule.kind), now, *count).await?;
        }
        Ok(removed)
    }

    /// Removes these; how many are gone in which organisation.
    async fn remove(
        &self,
        kind: RetentionKind,
        found: &[Due],
        now: Timestamp,
    ) -> Result<BTreeMap<OrganizationId, u64>, RetentionError> {
        let gone = stream::iter(found.iter().copied()).map(|due| async move {
            let removed = match kind {
                RetentionKind::Sessions => self.execute(due, SessionId::from_uuid(due.id), ForgetSession, now).await?,
                RetentionKind::Invitations => self.execute(due, MemberId::from_uuid(due.id), RemoveMember, now).await?,
                RetentionKind::Trash => self.execute(due, DocumentId::from_uuid(due.id), PurgeDocument, now).await?,
                RetentionKind::AccessLog => false,
            };
            Ok::<_, CommandError>(removed.then_some(due.organization))
        });
        let gone: Vec<Option<OrganizationId>> = gone.buffer_unordered(AT_ONCE).try_collect().await?;
        let mut counts = BTreeMap::new();
        gone.into_iter().flatten().for_each(|organization| *counts.entry(organization).or_default() += 1);
        Ok(counts)
    }

    /// Removes readings of the organisations of these, from the first one on; how many are gone in which.
    async fn remove_readings(
        &self,
        found: &[Due],
        before: Timestamp,
    ) -> Result<BTreeMap<OrganizationId, u64>, RetentionError> {
        let mut counts = BTreeMap::new();
        for organization in found.iter().map(|due| due.organization).collect::<BTreeSet<_>>() {
            let removal = (self.engine.new_id::<()>().uuid(), self.engine.now());
            let writer = self.engine.database().writer();
            counts.insert(organization, access_log::remove_before(writer, organization, before, removal).await?);
        }
        Ok(counts)
    }

    /// Whether it was removed: not, when it has changed meanwhile.
    async fn execute<C: Command>(
        &self,
        due: Due,
        id: Id<<C::Aggregate as Aggregate>::Kind>,
        command: C,
        now: Timestamp,
    ) -> Result<bool, CommandError> {
        let context = CommandContext::system(self.engine.new_id(), due.organization, now);
        let context = CommandContext { may_repeat: false, expected_version: due.version, ..context };
        match self.engine.execute(&context, id, command).await {
            Ok(done) => Ok(!done.events.is_empty()),
            Err(CommandError::Rejected(error)) => {
                tracing::debug!(id = %due.id, ?error, "what was due has changed, and stays");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Sweeps now and then, until told to stop.
pub(crate) async fn every(pause: Duration, retention: Arc<Retention>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        let swept = tokio::select! {
            swept = retention.run() => swept,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "not everything was removed that was kept for long enough; it is next time");
        }
    }
}
