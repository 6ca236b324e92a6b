//! Mail: what a person is written because of an event. Each letter is a job of its own, tried again for a day.
//!
//! Invariants: a job says which event it is about, and nothing about a person: the letter is made from the log and the
//! read models when it is sent, so that nothing is written to whoever was forgotten meanwhile. A link in it is a signed
//! ticket, of which nothing is kept. A letter that is sent twice (after a kill in between) has the same id both times.
//! A link whose time is over is not sent.

use std::sync::Arc;
use std::time::Duration;

use oriel_backends::mail::{Letter, Mail, MailError};
use oriel_backends::resilience::Unanswered;
use oriel_domain::data_exports::{DataExportEvent, DataExportId};
use oriel_domain::members::MemberEvent;
use oriel_domain::security_events::SecurityEventEvent;
use oriel_domain::security_events::detection::device;
use oriel_domain::tickets::{INVITATION, INVITATION_LIFE, Ticket};
use oriel_domain::users::UserEvent;
use oriel_domain::users::addresses::{EMAIL, EMAIL_LIFE, PASSWORD_RESET};
use oriel_engine::Engine;
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_kernel::{Actor, MemberId, Personal, Position, Recorded, Timestamp, UserId};
use oriel_read_models::{data_exports, members, organizations, users};
use sea_orm::{DbErr, EntityTrait};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::Parts;

mod texts;

const QUEUE: &str = "mail";
/// How long a letter waits for a server that is away, before it is made anew: a link in it may have ended.
const AWAY: Duration = Duration::from_secs(600);
/// How often it is seen meanwhile whether the server is back.
const LOOK: Duration = Duration::from_secs(1);

/// Which letter an event leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// To somebody who has registered: a link that shows that the address is theirs.
    Welcome,
    /// A link to choose another password.
    PasswordReset,
    /// The password was changed.
    PasswordChanged,
    /// To the address that somebody wants to have: a link that shows that it is theirs.
    EmailConfirm,
    /// To the address that they have: somebody wants to move to another.
    EmailMoving,
    /// A second factor was set up.
    SecondFactorOn,
    /// The second factor was given up.
    SecondFactorOff,
    /// A passkey was added.
    PasskeyAdded,
    /// A passkey was removed.
    PasskeyRemoved,
    /// There may be a copy of a passkey.
    PasskeyCopied,
    /// Somebody else has taken away the second factor, which was lost.
    SecondFactorReset,
    /// What is held about them can be downloaded.
    DataExportReady,
    /// Something looks like an attack on them.
    SecurityAlert,
    /// To somebody who is invited: a link to accept with.
    Invitation,
}

/// Orders the letters.
pub(crate) struct Letters;

impl Reactor for Letters {
    fn name(&self) -> &'static str {
        "mail"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        if let Some(DataExportEvent::Completed { .. }) = event.event_as() {
            let order = serde_json::to_value(Kind::DataExportReady).ok();
            return order.into_iter().map(|order| NewJob::new(QUEUE, event).payload(order)).collect();
        }
        if let Some(SecurityEventEvent::Raised { letter: true, .. }) = event.event_as() {
            let order = serde_json::to_value(Kind::SecurityAlert).ok();
            return order.into_iter().map(|order| NewJob::new(QUEUE, event).payload(order)).collect();
        }
        let kinds = match (event.event_as(), event.event_as()) {
            (Some(happened), _) => to_user(event, happened),
            (None, Some(happened)) => to_member(happened),
            (None, None) => &[],
        };
        let order = |kind: &Kind| serde_json::to_value(kind).ok();
        kinds.iter().filter_map(order).map(|order| NewJob::new(QUEUE, event).payload(order)).collect()
    }
}

fn to_user(event: &Recorded, happened: &UserEvent) -> &'static [Kind] {
    match happened {
        // Who was taken over from another system has not registered.
        UserEvent::Registered { .. } if event.actor != Actor::User(UserId::from_uuid(event.subject)) => &[],
        UserEvent::Registered { .. } => &[Kind::Welcome],
        UserEvent::PasswordResetRequested { .. } => &[Kind::PasswordReset],
        UserEvent::PasswordChanged { .. } | UserEvent::PasswordReset { .. } => &[Kind::PasswordChanged],
        UserEvent::EmailChangeRequested { .. } => &[Kind::EmailConfirm, Kind::EmailMoving],
        UserEvent::TotpConfirmed { .. } => &[Kind::SecondFactorOn],
        UserEvent::TotpDisabled => &[Kind::SecondFactorOff],
        UserEvent::PasskeyRegistered { .. } => &[Kind::PasskeyAdded],
        UserEvent::PasskeyRemoved { .. } => &[Kind::PasskeyRemoved],
        UserEvent::PasskeyCloneSuspected { .. } => &[Kind::PasskeyCopied],
        UserEvent::SecondFactorReset { .. } => &[Kind::SecondFactorReset],
        UserEvent::Renamed { .. }
        | UserEvent::PreferencesChanged { .. }
        | UserEvent::PasswordRehashed { .. }
        | UserEvent::EmailVerified
        | UserEvent::EmailChanged { .. }
        | UserEvent::TotpBegun { .. }
        | UserEvent::TotpUsed { .. }
        | UserEvent::PasskeyUsed { .. }
        | UserEvent::PasskeyRenamed { .. }
        | UserEvent::RecoveryCodeUsed { .. }
        | UserEvent::RecoveryCodesReplaced { .. }
        | UserEvent::Erased
        | UserEvent::MadeAnew { .. }
        | UserEvent::ErasureCompleted { .. } => &[],
    }
}

fn to_member(event: &MemberEvent) -> &'static [Kind] {
    // Whatever else happens to a member is nothing that they are written.
    if matches!(event, MemberEvent::Invited { .. }) { &[Kind::Invitation] } else { &[] }
}

/// Sends the letters.
pub(crate) struct Post {
    engine: Arc<Engine>,
    mail: Mail,
    base_url: String,
}

impl Post {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self { engine: Arc::clone(&parts.engine), mail: parts.mail.clone(), base_url: parts.base_url.clone() }
    }
}

/// Whom a letter goes to, and what it says; nothing when there is nobody to write to, or nothing to say any more.
struct Draft {
    to: String,
    text: texts::Text,
}

#[async_trait::async_trait]
impl Worker for Post {
    fn queue(&self) -> &'static str {
        QUEUE
    }

    /// With the pauses of [`Worker::backoff`], about a day.
    fn max_attempts(&self) -> u32 {
        35
    }

    fn slots(&self) -> usize {
        8
    }

    fn backoff(&self, attempts: u32) -> Duration {
        Duration::from_secs(1 << attempts.min(12)).min(Duration::from_secs(3600))
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        let kind: Kind = serde_json::from_value(job.payload.clone())
            .map_err(|error| JobFailure::for_good(format!("the order is not readable: {error}")))?;
        let events = self.engine.log().read(Position::new(job.position.number() - 1), 1).await;
        let events = events.map_err(|error| JobFailure::again(format!("the event cannot be read: {error}")))?;
        let event = events.first().ok_or_else(|| JobFailure::again("the event is not there"))?;
        let draft = self.draft(kind, event).await;
        let draft = draft.map_err(|error| JobFailure::again(format!("the person cannot be read: {error}")))?;
        let Some(Draft { to, text }) = draft else {
            tracing::info!(job = %job.id, ?kind, "a letter is not sent: whom it is for was forgotten, or its time is over");
            return Ok(());
        };
        let texts::Text { subject, body } = text;
        let letter = Letter { id: job.id, to, subject, text: body };
        // A server that is known to be away was not asked in vain: the letter waits for it, and is sent when it is back.
        let began = Instant::now();
        let sent = loop {
            match self.mail.send(&letter).await {
                Err(MailError::Unanswered(Unanswered::Open(_))) if began.elapsed() < AWAY => sleep(LOOK).await,
                sent => break sent,
            }
        };
        sent.map_err(|error| match error.is_final() {
            true => JobFailure::for_good(error.to_string()),
            false => JobFailure::again(error.to_string()),
        })
    }
}

impl Post {
    async fn draft(&self, kind: Kind, event: &Recorded) -> Result<Option<Draft>, DbErr> {
        if let Some(invited) = event.event_as::<MemberEvent>() {
            return self.invitation(event, invited).await;
        }
        if event.event_as::<DataExportEvent>().is_some() {
            return self.data_export(event).await;
        }
        if let Some(raised) = event.event_as::<SecurityEventEvent>() {
            return self.security_alert(raised).await;
        }
        let Some(happened) = event.event_as::<UserEvent>() else { return Ok(None) };
        let id = UserId::from_uuid(event.subject);
        let user = users::Entity::find_by_id(id).one(self.engine.database().reader()).await?;
        let Some(user) = user else { return Ok(None) };
        let (name, link) = (user.name.as_str(), |purpose, ends_at, about: &str, page| {
            let ticket = Ticket { subject: id, ends_at, about: about.to_owned() };
            self.link(page, ticket.sign(purpose, self.engine.keyring().as_ref()), ends_at)
        });
        let (to, text) = match (kind, happened) {
            (Kind::Welcome, UserEvent::Registered { email, email_hash, .. }) => {
                let link = link(EMAIL, event.at + EMAIL_LIFE, email_hash, "email-confirm");
                (clear(email), link.map(|link| texts::welcome(name, &link)))
            }
            (Kind::PasswordReset, UserEvent::PasswordResetRequested { request, ends_at }) => {
                let link = link(PASSWORD_RESET, *ends_at, request, "password-reset");
                (user.email, link.map(|link| texts::password_reset(&user.name, &link)))
            }
            (Kind::EmailConfirm, UserEvent::EmailChangeRequested { email, email_hash, ends_at, .. }) => {
                let link = link(EMAIL, *ends_at, email_hash, "email-confirm");
                (clear(email), link.map(|link| texts::email_confirm(name, &link)))
            }
            // Who has only their own address confirmed again is told nothing new.
            (Kind::EmailMoving, UserEvent::EmailChangeRequested { from, email, .. }) if from.get() != email.get() => {
                (clear(from), Some(texts::email_moving(name)))
            }
            (Kind::PasswordChanged, _) => (user.email, Some(texts::password_changed(&user.name))),
            (Kind::SecondFactorOn, _) => (user.email, Some(texts::second_factor_on(&user.name))),
            (Kind::SecondFactorOff, _) => (user.email, Some(texts::second_factor_off(&user.name))),
            (Kind::PasskeyAdded, _) => (user.email, Some(texts::passkey_added(&user.name))),
            (Kind::PasskeyRemoved, _) => (user.email, Some(texts::passkey_removed(&user.name))),
            (Kind::PasskeyCopied, _) => (user.email, Some(texts::passkey_copied(&user.name))),
            (Kind::SecondFactorReset, _) => (user.email, Some(texts::second_factor_reset(&user.name))),
            _ => (None, None),
        };
        Ok(to.zip(text).map(|(to, text)| Draft { to, text }))
    }

    async fn data_export(&self, event: &Recorded) -> Result<Option<Draft>, DbErr> {
        let connection = self.engine.database().reader();
        let export = data_exports::Entity::find_by_id(DataExportId::from_uuid(event.subject)).one(connection).await?;
        // One that has ended meanwhile is not told of.
        let Some(export) = export.filter(|export| export.blob.is_some()) else { return Ok(None) };
        let user = users::Entity::find_by_id(export.user_id).one(connection).await?;
        let Some((user, ends_at)) = user.zip(export.ends_at) else { return Ok(None) };
        let text = texts::data_export_ready(&user.name, &self.base_url, ends_at);
        Ok(user.email.map(|to| Draft { to, text }))
    }

    async fn security_alert(&self, raised: &SecurityEventEvent) -> Result<Option<Draft>, DbErr> {
        let SecurityEventEvent::Raised { kind, user, address, program, began_at, count, .. } = raised else {
            return Ok(None);
        };
        let user = users::Entity::find_by_id(*user).one(self.engine.database().reader()).await?;
        let Some(user) = user else { return Ok(None) };
        let (address, program) = (address.as_ref().and_then(clear), program.as_ref().and_then(clear));
        let from: Vec<_> = [address, program.as_deref().map(device)].into_iter().flatten().collect();
        let from = from.join(", ");
        let text = texts::security_alert(&user.name, *kind, *began_at, &from, *count);
        Ok(user.email.zip(text).map(|(to, text)| Draft { to, text }))
    }

    async fn invitation(&self, event: &Recorded, invited: &MemberEvent) -> Result<Option<Draft>, DbErr> {
        let MemberEvent::Invited { organization, email, invited_by, .. } = invited else { return Ok(None) };
        let connection = self.engine.database().reader();
        let member = MemberId::from_uuid(event.subject);
        // Who has accepted, or was taken back, is not invited any more.
        let row = members::Entity::find_by_id(member).one(connection).await?;
        let still = row.is_some_and(|row| row.status == members::MemberStatus::Invited);
        let organization = organizations::Entity::find_by_id(*organization).one(connection).await?;
        let (Some(organization), true, Some(to)) = (organization, still, clear(email)) else { return Ok(None) };
        let host = match members::Entity::find_by_id(*invited_by).one(connection).await? {
            Some(host) => users::Entity::find_by_id(host.user_id).one(connection).await?.map(|user| user.name),
            None => None,
        };
        let ends_at = event.at + INVITATION_LIFE;
        let ticket = Ticket { subject: member, ends_at, about: String::new() };
        let link = self.link("member-accept", ticket.sign(INVITATION, self.engine.keyring().as_ref()), ends_at);
        Ok(link.map(|link| Draft { to, text: texts::invitation(&organization.name, host.as_deref(), &link) }))
    }

    /// Where a ticket is taken, unless its time is over. What stands behind the `#` is sent to no server and stands in
    /// no log of one.
    fn link(&self, page: &str, ticket: String, ends_at: Timestamp) -> Option<texts::Link> {
        let url = format!("{}/#{page}={ticket}", self.base_url);
        (ends_at > self.engine.now()).then_some(texts::Link { url, ticket, ends_at })
    }
}

fn clear(value: &Personal<String>) -> Option<String> {
    value.get().cloned()
}
