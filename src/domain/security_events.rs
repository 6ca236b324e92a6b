//! Security events: what looks like an attack on the people of an organisation and on their accounts, until somebody who
//! looks after it has seen it.
//!
//! Invariants: one is raised once, however often it is said: its id follows from what it was raised by
//! ([`security_event_id`]). While it goes on its count grows and never shrinks, and what has grown is open again. It is
//! acknowledged by somebody, and with a note of theirs. Where it came from and what the note says is personal, and is
//! forgotten with the person whom it is about.
//!
//! What is unusual is decided in `detection.rs`; who noticed it is no matter here.

use aws_lc_rs::digest::{SHA256, digest};
use oriel_kernel::{
    Actor, Aggregate, Command, Decision, Event, Given, MemberId, OrganizationId, Outcome, Personal, Rejection,
    Timestamp, UserId, bounded_text, ids,
};
use serde::{Deserialize, Serialize};
use uuid::Builder;

pub mod detection;
#[cfg(test)]
mod tests;

ids! {
    /// Something that looks like an attack.
    SecurityEventId = "sev",
}

/// The id of what was raised in this organisation by this cause: the same for ever, so that it is raised once. A cause is
/// an event, or an account or a place together with the hour.
pub fn security_event_id(organization: OrganizationId, kind: SecurityEventKind, cause: &str) -> SecurityEventId {
    let whole = digest(&SHA256, format!("security_event:{organization}:{}:{cause}", kind.as_str()).as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&whole.as_ref()[..16]);
    SecurityEventId::from_uuid(Builder::from_custom_bytes(beginning).into_uuid())
}

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a security event.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "security_event")]
pub enum SecurityEventEvent {
    /// Something looks like an attack.
    #[event("security_event_raised")]
    Raised {
        /// Who is told of it.
        organization: OrganizationId,
        /// What it looks like.
        kind: SecurityEventKind,
        /// How bad it would be.
        severity: Severity,
        /// By what that is told.
        reasons: Vec<SecurityReason>,
        /// Whom it is about: of many accounts, the last one.
        user: UserId,
        /// The same as a member of the organisation, if it is about one person.
        member: Option<MemberId>,
        /// Who did it, if that is known.
        actor: Option<Actor>,
        /// From which address.
        address: Option<Personal<String>>,
        /// With which program.
        program: Option<Personal<String>>,
        /// When it began.
        began_at: Timestamp,
        /// How often it was seen.
        count: i32,
        /// Whether the person is told by a letter: of what is raised in several organisations, once.
        letter: bool,
    },
    /// It went on.
    #[event("security_event_continued")]
    Continued {
        /// How often it was seen by now.
        count: i32,
    },
    /// Somebody has seen to it.
    #[event("security_event_acknowledged")]
    Acknowledged {
        /// What they say to it.
        note: Option<Personal<String>>,
    },
}

/// What something looks like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SecurityEventKind {
    /// A refresh token was used twice: somebody else holds it.
    RefreshTokenReused,
    /// A sign-in from where the person has never been.
    UnusualSignIn,
    /// A right password or code after many wrong ones.
    SignInAfterFailures,
    /// Many wrong passwords or codes at one account.
    AccountGuessing,
    /// Wrong passwords at many accounts, from one place.
    PasswordSpraying,
    /// There may be a copy of a passkey.
    PasskeyCopied,
    /// Somebody else has taken a second factor away.
    SecondFactorReset,
    /// Somebody has given up a second factor of their own.
    SecondFactorRemoved,
    /// One person has read much of what is sensitive in a short time.
    ManyReadings,
}

impl SecurityEventKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::RefreshTokenReused,
        Self::UnusualSignIn,
        Self::SignInAfterFailures,
        Self::AccountGuessing,
        Self::PasswordSpraying,
        Self::PasskeyCopied,
        Self::SecondFactorReset,
        Self::SecondFactorRemoved,
        Self::ManyReadings,
    ];

    /// Its name, for ever.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::UnusualSignIn => "unusual_sign_in",
            Self::SignInAfterFailures => "sign_in_after_failures",
            Self::AccountGuessing => "account_guessing",
            Self::PasswordSpraying => "password_spraying",
            Self::PasskeyCopied => "passkey_copied",
            Self::SecondFactorReset => "second_factor_reset",
            Self::SecondFactorRemoved => "second_factor_removed",
            Self::ManyReadings => "many_readings",
        }
    }
}

/// How bad it would be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Severity {
    /// As a rule harmless.
    Low,
    /// To be looked at.
    Medium,
    /// Somebody has got in, or is about to.
    High,
}

/// By what it is told that something looks like an attack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SecurityReason {
    /// The person has not signed in from this network before.
    NewNetwork,
    /// The person has not signed in with such a program on such a system before.
    NewDevice,
    /// There were many wrong passwords or codes.
    WrongSecrets,
    /// They were for many accounts.
    ManyAccounts,
    /// A token that is good once was used a second time.
    UsedTwice,
    /// A passkey had counted fewer signatures than before.
    CounterWentBack,
    /// Another person did it.
    ByAnother,
    /// The person did it themselves.
    ByThemselves,
    /// Without another second factor, the password alone signs the person in.
    NoSecondFactorLeft,
    /// More was read within an hour than people read.
    ManyReadings,
}

bounded_text! {
    /// What somebody says to a security event.
    SecurityNote: 1..=500 multiline,
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a security event's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecurityEvent {
    organization: Option<OrganizationId>,
    user: UserId,
    count: i32,
    acknowledged: bool,
}

impl Aggregate for SecurityEvent {
    type Kind = kinds::SecurityEventId;
    type Event = SecurityEventEvent;
    const NOUN: &'static str = "security event";

    fn evolve(&mut self, event: &SecurityEventEvent) {
        match event {
            SecurityEventEvent::Raised { organization, user, count, .. } => {
                (self.organization, self.user, self.count) = (Some(*organization), *user, *count);
            }
            SecurityEventEvent::Continued { count } => (self.count, self.acknowledged) = (*count, false),
            SecurityEventEvent::Acknowledged { note: _ } => self.acknowledged = true,
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Says that something looks like an attack; or, where that was said before, how often it was seen by now.
#[derive(Clone)]
pub struct RaiseSecurityEvent {
    /// What it looks like.
    pub kind: SecurityEventKind,
    /// How bad it would be.
    pub severity: Severity,
    /// By what that is told.
    pub reasons: Vec<SecurityReason>,
    /// Whom it is about: of many accounts, the last one.
    pub user: UserId,
    /// The same as a member of the organisation, if it is about one person.
    pub member: Option<MemberId>,
    /// Who did it, if that is known.
    pub actor: Option<Actor>,
    /// From which address.
    pub address: Option<String>,
    /// With which program; cut to 400 characters.
    pub program: Option<String>,
    /// When it began.
    pub began_at: Timestamp,
    /// How often it was seen by now.
    pub count: i32,
    /// Whether the person is told by a letter.
    pub letter: bool,
}

impl Command for RaiseSecurityEvent {
    type Aggregate = SecurityEvent;
    const CREATES: bool = true;

    fn decide(&self, event: &SecurityEvent, given: &Given<'_>) -> Decision<SecurityEventEvent> {
        if event.organization.is_some() {
            return Ok(match self.count > event.count {
                true => Outcome::events([SecurityEventEvent::Continued { count: self.count }]),
                false => Outcome::nothing(),
            });
        }
        let personal = |text: &String| Personal::new(self.user, text.chars().take(400).collect());
        Ok(Outcome::events([SecurityEventEvent::Raised {
            organization: given.organization,
            kind: self.kind,
            severity: self.severity,
            reasons: self.reasons.clone(),
            user: self.user,
            member: self.member,
            actor: self.actor,
            address: self.address.as_ref().map(personal),
            program: self.program.as_ref().map(personal),
            began_at: self.began_at,
            count: self.count,
            letter: self.letter,
        }]))
    }
}

/// Says that somebody has seen to it.
pub struct AcknowledgeSecurityEvent {
    /// What they say to it.
    pub note: Option<SecurityNote>,
}

impl Command for AcknowledgeSecurityEvent {
    type Aggregate = SecurityEvent;

    fn decide(&self, event: &SecurityEvent, _: &Given<'_>) -> Decision<SecurityEventEvent> {
        if event.organization.is_none() {
            return Err(Rejection::not_found(SecurityEvent::NOUN));
        }
        if event.acknowledged {
            return Err(Rejection::conflict("Somebody has acknowledged this before: `acknowledgedBy` says who."));
        }
        let note = self.note.as_ref().map(|note| Personal::new(event.user, note.to_string()));
        Ok(Outcome::events([SecurityEventEvent::Acknowledged { note }]))
    }
}
