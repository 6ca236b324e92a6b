//! Security events: what looks like an attack, as administrators see and acknowledge it; and those that are noticed where
//! requests are answered, because nothing of them stands in the log: wrong passwords and codes, and many readings.
//!
//! Invariants: noticing keeps no answer waiting, and no answer tells that something was noticed. Nothing is written for
//! one wrong password: a burst is raised when its count reaches a limit, and counted on when it has doubled, so that n
//! attempts write about log n events; within one hour it is one security event. An organisation is told of the accounts
//! of its own members, and of nobody else's. Accounts that do not exist are nobody's, and nobody is told.
//!
//! Wrong passwords and codes are counted as attempts are (`sessions/attempts.rs`): for all nodes where there is a Redis
//! between them. Readings are counted by each node for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::{Context, InputObject};
use oriel_domain::security_events::detection::{MANY_ACCOUNTS, MANY_FAILURES, MANY_READINGS, is_told};
use oriel_domain::security_events::{
    AcknowledgeSecurityEvent, RaiseSecurityEvent, SecurityEventId, SecurityEventKind, SecurityNote, SecurityReason,
    Severity, security_event_id,
};
use oriel_engine::read::{Connection, PageArgs};
use oriel_engine::{CommandContext, CommandError, Engine};
use oriel_kernel::{
    Actor, ErrorCode, Grant, MemberId, OrganizationId, Rejection, Timestamp, UserId, Viewer, operations,
};
use oriel_read_models::access_log::AccessKind;
use oriel_read_models::security_events::{
    Model as SecurityEvent, SecurityEventFilter, SecurityEventOrder, newest_first,
};
use oriel_read_models::sign_in;

use crate::access::{Granted, Problems, Result, after_write, reader};
use crate::payload::payloads;
use crate::services::{Meta, Services};
use crate::sessions::attempts::{Attempt, Place, Secret};

/// Those whose readings are counted at a time.
const READERS: usize = 10_000;

/// What can be asked about security events.
#[derive(Default)]
pub struct SecurityEventQuery;

/// What can be done with security events.
#[derive(Default)]
pub struct SecurityEventMutation;

payloads! {
    /// What became of acknowledging a security event.
    SecurityEventPayload {
        /// The security event.
        security_event: Arc<SecurityEvent>,
    }
}

#[operations(query)]
impl SecurityEventQuery {
    /// The security event with this id; null when there is none in your organization.
    #[permission("security:view")]
    async fn security_event(&self, cx: &Context<'_>, id: SecurityEventId) -> Result<Option<Arc<SecurityEvent>>> {
        must_reach_all(&granted)?;
        Ok(reader(cx)?.get(id).await?)
    }

    /// What looks like an attack on the people of your organization and on their accounts, what was noticed last first
    /// unless another order is asked for. Follow it with `subscription { live { securityEvents { … } } }` to be told at
    /// once. What concerns a person's account itself is listed in each organization that they are an active member of.
    #[permission("security:view")]
    #[allow(clippy::too_many_arguments)]
    async fn security_events(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<SecurityEventFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<SecurityEventOrder>>,
    ) -> Result<Connection<SecurityEvent>> {
        must_reach_all(&granted)?;
        let reader = reader(cx)?;
        let all = SecurityEvent::in_org(reader.organization());
        let order_by = Some(order_by.unwrap_or_else(newest_first));
        Ok(reader.page(all, PageArgs::new(first, after, last, before), filter, order_by)?)
    }
}

#[operations(mutation)]
impl SecurityEventMutation {
    /// Says that you have seen to a security event, with a note if you like. One that goes on afterwards is open again.
    /// `CONFLICT` when somebody else was faster.
    #[permission("security:edit")]
    async fn security_event_acknowledge(
        &self,
        cx: &Context<'_>,
        input: SecurityEventAcknowledgeInput,
    ) -> Result<SecurityEventPayload> {
        let context = granted.command(cx, &input)?;
        must_reach_all(&granted)?;
        let mut problems = Problems::default();
        let note = problems.take("note", input.note.as_deref().map(SecurityNote::parse).transpose());
        let Some(note) = note else { return Err(problems.failure()) };
        let acknowledge = AcknowledgeSecurityEvent { note };
        let done = Services::of(cx)?.engine.execute(&context, input.id, acknowledge).await?;
        let security_event = after_write::<SecurityEvent>(cx, done.subject).await?;
        Ok(SecurityEventPayload { security_event, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// A security event is nobody's own.
fn must_reach_all(granted: &Granted) -> Result<()> {
    match granted.grant() {
        Grant::All => Ok(()),
        Grant::Own => {
            let message = "Security events are of the whole organization: this needs the permission without `:own`.";
            Err(Rejection::new(ErrorCode::Forbidden, message).into())
        }
    }
}

/// A security event that somebody has seen to.
#[derive(InputObject)]
struct SecurityEventAcknowledgeInput {
    /// Which one.
    id: SecurityEventId,
    /// What you say to it, for others who look after the organization: 1 to 500 characters. It is forgotten with the
    /// person whom the security event is about.
    note: Option<String>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

// --- wrong passwords and codes -----------------------------------------------------------------------------------------

/// An attempt at a secret of somebody's account, and where it was made.
struct Tried {
    services: Arc<Services>,
    user: UserId,
    place: Place,
    address: Option<String>,
    program: Option<String>,
    now: Timestamp,
}

impl Tried {
    fn new(cx: &Context<'_>, user: UserId) -> Result<Self> {
        let (services, meta) = (Arc::clone(Services::of(cx)?), Meta::of(cx)?);
        let (address, program) = (meta.ip.clone(), meta.user_agent.clone());
        let (place, now) = (Place::of(address.as_deref()), services.engine.now());
        Ok(Self { services, user, place, address, program, now })
    }

    /// Where the person is an active member; nowhere when that cannot be read.
    async fn memberships(&self) -> Vec<(MemberId, OrganizationId)> {
        let theirs = sign_in::active_members(self.services.engine.database().reader(), self.user).await;
        theirs.unwrap_or_else(|error| {
            tracing::error!(%error, user = %self.user, "what looks like an attack could not be told to anybody");
            Vec::new()
        })
    }

    fn found(&self, kind: SecurityEventKind, severity: Severity, count: u32) -> RaiseSecurityEvent {
        RaiseSecurityEvent {
            kind,
            severity,
            reasons: vec![SecurityReason::WrongSecrets],
            user: self.user,
            member: None,
            actor: None,
            address: self.address.clone(),
            program: self.program.clone(),
            began_at: self.now,
            count: i32::try_from(count).unwrap_or(i32::MAX),
            letter: false,
        }
    }

    /// Raises it in each of these organisations; the person gets one letter at most.
    async fn raise(&self, theirs: &[(MemberId, OrganizationId)], found: &RaiseSecurityEvent) {
        let cause = format!("{}:{}", self.user, hour(self.now));
        for (n, (member, organization)) in theirs.iter().enumerate() {
            let found = RaiseSecurityEvent { member: Some(*member), letter: found.letter && n == 0, ..found.clone() };
            raise(&self.services.engine, *organization, &cause, found).await;
        }
    }
}

/// A secret of this account was wrong. It is noticed beside the answer.
pub(crate) fn wrong(cx: &Context<'_>, secret: Secret, attempt: &Attempt, user: Option<UserId>) -> Result<()> {
    let (failures, first_here) = (attempt.failures(), attempt.failures_here() == 1 && secret == Secret::Password);
    let is_burst = is_told(failures, MANY_FAILURES);
    let Some(user) = user.filter(|_| is_burst || first_here) else { return Ok(()) };
    let tried = Tried::new(cx, user)?;
    tokio::spawn(async move {
        let theirs = tried.memberships().await;
        if is_burst {
            let found = tried.found(SecurityEventKind::AccountGuessing, Severity::Medium, failures);
            tried.raise(&theirs, &found).await;
        }
        if !first_here {
            return;
        }
        for (_, organization) in theirs {
            let accounts = tried.services.attempts.count_account(organization, &tried.place, tried.now).await;
            if is_told(accounts, MANY_ACCOUNTS) {
                let cause = format!("{}:{}", tried.place.as_str(), hour(tried.now));
                let reasons = vec![SecurityReason::WrongSecrets, SecurityReason::ManyAccounts];
                let found = tried.found(SecurityEventKind::PasswordSpraying, Severity::High, accounts);
                raise(&tried.services.engine, organization, &cause, RaiseSecurityEvent { reasons, ..found }).await;
            }
        }
    });
    Ok(())
}

/// A secret of this account was right. It is noticed beside the answer.
pub(crate) fn right(cx: &Context<'_>, secret: Secret, attempt: &Attempt, user: Option<UserId>) -> Result<()> {
    let before = attempt.failures().saturating_sub(1);
    let (is_late, was_wrong) = (before >= MANY_FAILURES, attempt.failures_here() > 1 && secret == Secret::Password);
    let Some(user) = user.filter(|_| is_late || was_wrong) else { return Ok(()) };
    let tried = Tried::new(cx, user)?;
    tokio::spawn(async move {
        let theirs = tried.memberships().await;
        if was_wrong {
            for (_, organization) in &theirs {
                tried.services.attempts.uncount_account(*organization, &tried.place, tried.now);
            }
        }
        if is_late {
            let found = tried.found(SecurityEventKind::SignInAfterFailures, Severity::High, before);
            tried.raise(&theirs, &RaiseSecurityEvent { letter: true, ..found }).await;
        }
    });
    Ok(())
}

// --- readings ------------------------------------------------------------------------------------------------------------

/// Counts what each reads of what is sensitive, within an hour.
#[derive(Default)]
pub(crate) struct Readings(Mutex<HashMap<(OrganizationId, Actor), (i64, u32)>>);

impl Readings {
    /// Counts an operation that has read this. Who somebody is stands on every page and is not counted.
    pub(crate) fn count(&self, engine: &Arc<Engine>, viewer: &Viewer, kinds: &[AccessKind]) {
        if kinds.iter().all(|kind| *kind == AccessKind::Person) {
            return;
        }
        let (now, actor) = (engine.now(), viewer.actor());
        let count = self.next(viewer.organization, actor, hour(now));
        if !is_told(count, MANY_READINGS) {
            return;
        }
        let found = RaiseSecurityEvent {
            kind: SecurityEventKind::ManyReadings,
            severity: Severity::Medium,
            reasons: vec![SecurityReason::ManyReadings],
            user: viewer.user,
            member: Some(viewer.member),
            actor: Some(actor),
            address: None,
            program: None,
            began_at: now,
            count: i32::try_from(count).unwrap_or(i32::MAX),
            letter: false,
        };
        let cause = format!("{}:{}", actor.id().unwrap_or_default(), hour(now));
        let (engine, organization) = (Arc::clone(engine), viewer.organization);
        tokio::spawn(async move { raise(&engine, organization, &cause, found).await });
    }

    fn next(&self, organization: OrganizationId, actor: Actor, hour: i64) -> u32 {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= READERS && !counted.contains_key(&(organization, actor)) {
            counted.retain(|_, (began, _)| *began == hour);
            // More than that within an hour begin anew.
            if counted.len() >= READERS {
                counted.clear();
            }
        }
        let (began, count) = counted.entry((organization, actor)).or_insert((hour, 0));
        if *began != hour {
            (*began, *count) = (hour, 0);
        }
        *count = count.saturating_add(1);
        *count
    }
}

// --- what both share -----------------------------------------------------------------------------------------------------

fn hour(now: Timestamp) -> i64 {
    now.timestamp().div_euclid(3600)
}

async fn raise(engine: &Engine, organization: OrganizationId, cause: &str, found: RaiseSecurityEvent) {
    let kind = found.kind.as_str();
    let id = security_event_id(organization, found.kind, cause);
    let context = CommandContext::system(engine.new_id(), organization, engine.now());
    match engine.execute(&CommandContext { may_repeat: false, ..context }, id, found).await {
        Ok(done) if !done.events.is_empty() => {
            metrics::counter!("oriel_security_events_total", "kind" => kind).increment(1);
        }
        // Raised before; or the person or the organisation is gone for good.
        Ok(_) | Err(CommandError::Rejected(_)) => {}
        Err(error) => tracing::error!(%error, %organization, kind, "a security event could not be raised"),
    }
}

#[cfg(test)]
mod tests;
