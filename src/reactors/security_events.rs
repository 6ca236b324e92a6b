//! What the log says that looks like an attack: a token that was used twice, a sign-in from where its person has never
//! been, a copied passkey, a second factor that is gone. Each such event is a job, which raises a security event; bursts,
//! of which the log does not say anything, are raised where they are counted (the schema's `security_events.rs`).
//!
//! Invariants: what is raised has an id that follows from the event, so that doing the job again, or following the log anew,
//! raises nothing twice. What happened in an organisation is told of there alone; what concerns the account itself in every
//! organisation that the person is an active member of, and nothing in it is another organisation's. A sign-in is compared
//! with what was before it, so that the moment of looking does not matter.

use std::sync::Arc;

use oriel_domain::security_events::detection::{REMEMBERED, SignInPlace, unusual_sign_in};
use oriel_domain::security_events::{
    RaiseSecurityEvent, SecurityEventKind, SecurityReason, Severity, security_event_id,
};
use oriel_domain::sessions::{EndReason, SessionEvent};
use oriel_domain::users::UserEvent;
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_engine::{CommandContext, CommandError, Engine};
use oriel_kernel::{Actor, MemberId, OrganizationId, Personal, Position, Recorded, SessionId, UserId};
use oriel_read_models::{members, sessions, sign_in};
use sea_orm::{DbErr, EntityTrait};

const QUEUE: &str = "security";

/// Orders the looking.
pub(crate) struct Watch;

impl Reactor for Watch {
    fn name(&self) -> &'static str {
        "security_events"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        let of_session = matches!(
            event.event_as(),
            Some(SessionEvent::Started { .. } | SessionEvent::Ended { reason: EndReason::Reused })
        );
        let of_user = matches!(
            event.event_as(),
            Some(
                UserEvent::PasskeyCloneSuspected { .. }
                    | UserEvent::PasskeyRemoved { .. }
                    | UserEvent::TotpDisabled
                    | UserEvent::SecondFactorReset { .. }
            )
        );
        (of_session || of_user).then(|| NewJob::new(QUEUE, event)).into_iter().collect()
    }
}

/// Looks, and raises.
pub(crate) struct Watching {
    pub(crate) engine: Arc<Engine>,
}

#[async_trait::async_trait]
impl Worker for Watching {
    fn queue(&self) -> &'static str {
        QUEUE
    }

    /// With the pauses of [`Worker::backoff`], more than a day: an alarm is not given up because of an outage.
    fn max_attempts(&self) -> u32 {
        40
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        let events = self.engine.log().read(Position::new(job.position.number() - 1), 1).await;
        let events = events.map_err(|error| JobFailure::again(format!("the event cannot be read: {error}")))?;
        let event = events.first().ok_or_else(|| JobFailure::again("the event is not there"))?;
        let found = match (event.event_as(), event.event_as()) {
            (Some(happened), _) => self.in_session(event, happened).await,
            (None, Some(happened)) => self.in_account(event, happened).await,
            (None, None) => Ok(Vec::new()),
        };
        let found = found.map_err(|error| JobFailure::again(format!("what was before cannot be read: {error}")))?;
        for (organization, raise) in found {
            self.raise(job, event, organization, raise).await?;
        }
        Ok(())
    }
}

/// What is to be raised, and where.
type Found = Vec<(OrganizationId, RaiseSecurityEvent)>;

impl Watching {
    async fn in_session(&self, event: &Recorded, happened: &SessionEvent) -> Result<Found, DbErr> {
        let connection = self.engine.database().reader();
        match happened {
            SessionEvent::Started { user, member, organization, ip, user_agent, .. } => {
                let clear = |value: &Option<Personal<String>>| value.as_ref().and_then(Personal::get).cloned();
                let now = SignInPlace { address: clear(ip), program: clear(user_agent) };
                let before = sign_in::places(connection, *user, event.at, REMEMBERED).await?;
                let place = |(address, program)| SignInPlace { address, program };
                let before: Vec<SignInPlace> = before.into_iter().map(place).collect();
                let Some((severity, reasons)) = unusual_sign_in(&before, &now) else { return Ok(Vec::new()) };
                let SignInPlace { address, program } = now;
                let letter = severity >= Severity::Medium;
                let found = found(event, SecurityEventKind::UnusualSignIn, severity, reasons, (*user, *member));
                Ok(vec![(*organization, RaiseSecurityEvent { address, program, letter, ..found })])
            }
            SessionEvent::Ended { reason: EndReason::Reused } => {
                let session = sessions::Entity::find_by_id(SessionId::from_uuid(event.subject));
                let Some(session) = session.one(connection).await? else { return Ok(Vec::new()) };
                let (kind, reasons) = (SecurityEventKind::RefreshTokenReused, vec![SecurityReason::UsedTwice]);
                let found = found(event, kind, Severity::High, reasons, (session.user_id, session.member_id));
                Ok(vec![(session.organization_id, RaiseSecurityEvent { letter: true, ..found })])
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The person is written about it by another letter (`mail.rs`).
    async fn in_account(&self, event: &Recorded, happened: &UserEvent) -> Result<Found, DbErr> {
        let connection = self.engine.database().reader();
        let user = UserId::from_uuid(event.subject);
        let row = sign_in::user(connection, user).await?;
        let none_left = row.is_some_and(|row| row.second_factor_since.is_none());
        let left = |reason| match none_left {
            true => vec![reason, SecurityReason::NoSecondFactorLeft],
            false => vec![reason],
        };
        let (kind, severity, reasons) = match happened {
            UserEvent::PasskeyCloneSuspected { .. } => {
                (SecurityEventKind::PasskeyCopied, Severity::High, vec![SecurityReason::CounterWentBack])
            }
            UserEvent::SecondFactorReset { .. } => {
                (SecurityEventKind::SecondFactorReset, Severity::Medium, left(SecurityReason::ByAnother))
            }
            UserEvent::TotpDisabled => {
                (SecurityEventKind::SecondFactorRemoved, Severity::Low, left(SecurityReason::ByThemselves))
            }
            // One passkey of several says nothing.
            UserEvent::PasskeyRemoved { .. } if none_left => {
                (SecurityEventKind::SecondFactorRemoved, Severity::Low, left(SecurityReason::ByThemselves))
            }
            _ => return Ok(Vec::new()),
        };
        let by = match event.actor {
            Actor::Member(by) => members::Entity::find_by_id(by).one(connection).await?,
            _ => None,
        };
        let theirs = sign_in::active_members(connection, user).await?;
        let found = theirs.into_iter().map(|(member, organization)| {
            let found = found(event, kind, severity, reasons.clone(), (user, member));
            let actor = match kind {
                SecurityEventKind::SecondFactorRemoved => Some(Actor::Member(member)),
                // Who acts elsewhere is nobody here.
                SecurityEventKind::SecondFactorReset => {
                    by.as_ref().filter(|by| by.organization_id == organization).map(|by| Actor::Member(by.id))
                }
                _ => None,
            };
            (organization, RaiseSecurityEvent { actor, ..found })
        });
        Ok(found.collect())
    }

    async fn raise(
        &self,
        job: &Job,
        event: &Recorded,
        organization: OrganizationId,
        raise: RaiseSecurityEvent,
    ) -> Result<(), JobFailure> {
        let kind = raise.kind.as_str();
        let id = security_event_id(organization, raise.kind, &event.id.to_string());
        let command = job.command(&format!("raise {organization}"));
        let context = CommandContext::system(command, organization, self.engine.now()).caused_by(event);
        match self.engine.execute(&context, id, raise).await {
            Ok(done) if !done.repeated && !done.events.is_empty() => {
                metrics::counter!("oriel_security_events_total", "kind" => kind).increment(1);
                Ok(())
            }
            Ok(_) => Ok(()),
            // The person or the organisation is gone for good.
            Err(CommandError::Rejected(_)) => Ok(()),
            Err(error) => Err(JobFailure::again(format!("it cannot be raised: {error}"))),
        }
    }
}

fn found(
    event: &Recorded,
    kind: SecurityEventKind,
    severity: Severity,
    reasons: Vec<SecurityReason>,
    (user, member): (UserId, MemberId),
) -> RaiseSecurityEvent {
    RaiseSecurityEvent {
        kind,
        severity,
        reasons,
        user,
        member: Some(member),
        actor: None,
        address: None,
        program: None,
        began_at: event.at,
        count: 1,
        letter: false,
    }
}
