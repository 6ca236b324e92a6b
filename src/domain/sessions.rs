//! Sessions: signed-in devices. A session is a family of refresh tokens, of which only the newest is good.
//!
//! Invariants: only hashes of tokens are kept, the newest and at most 100 before it. A token that was replaced and
//! comes back ends the session, because two hold it. An ended or expired session never continues. Who does not hold
//! a token of the family learns nothing about the session.
//!
//! Nothing here knows how a token looks or how it is hashed.

use std::collections::VecDeque;

use oriel_kernel::{
    Actor, Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, Grant, MemberId, OrganizationId, Outcome,
    Personal, Rejection, Timestamp, UserId, kinds,
};
use serde::{Deserialize, Serialize};

use crate::members;

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a session.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "session")]
pub enum SessionEvent {
    /// Somebody signed in.
    #[event("session_started")]
    Started {
        /// Who.
        user: UserId,
        /// As whom.
        member: MemberId,
        /// Where.
        organization: OrganizationId,
        /// The hash of the first refresh token.
        refresh_hash: String,
        /// From which address.
        ip: Option<Personal<String>>,
        /// With which program.
        user_agent: Option<Personal<String>>,
        /// Until when, if it is not refreshed.
        expires_at: Timestamp,
    },
    /// The refresh token was exchanged for the next.
    #[event("session_refreshed")]
    Refreshed {
        /// The hash of the token that is good now.
        refresh_hash: String,
        /// Until when.
        expires_at: Timestamp,
    },
    /// Is over.
    #[event("session_ended")]
    Ended {
        /// Why.
        reason: EndReason,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EndReason {
    /// The person signed out.
    SignedOut,
    /// The person, or an administrator, ended it from elsewhere.
    Revoked,
    /// A refresh token was used twice: somebody else may hold it.
    Reused,
    /// The person went on in another organisation.
    Switched,
    /// Its time was over.
    Expired,
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a session's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    whose: Option<Whose>,
    current: String,
    /// The replaced ones, oldest first.
    older: VecDeque<String>,
    expires_at: Timestamp,
    ended: Option<EndReason>,
}

#[derive(Clone, Debug, PartialEq)]
struct Whose {
    member: MemberId,
    organization: OrganizationId,
}

impl Aggregate for Session {
    type Kind = kinds::SessionId;
    type Event = SessionEvent;
    const NOUN: &'static str = "session";

    fn evolve(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::Started { member, organization, refresh_hash, expires_at, .. } => {
                self.whose = Some(Whose { member: *member, organization: *organization });
                self.current.clone_from(refresh_hash);
                self.expires_at = *expires_at;
            }
            SessionEvent::Refreshed { refresh_hash, expires_at } => {
                self.older.push_back(std::mem::replace(&mut self.current, refresh_hash.clone()));
                if self.older.len() > Self::REMEMBERED {
                    self.older.pop_front();
                }
                self.expires_at = *expires_at;
            }
            SessionEvent::Ended { reason } => self.ended = Some(*reason),
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.whose.as_ref().map(|whose| whose.organization)
    }
}

impl Session {
    /// How many replaced tokens are recognised.
    pub const REMEMBERED: usize = 100;

    /// Why it ended, if it did.
    pub fn ended(&self) -> Option<EndReason> {
        self.ended
    }

    /// Whether the token with this hash is the one that is good now.
    pub fn is_current(&self, hash: &str) -> bool {
        self.whose.is_some() && self.ended.is_none() && self.current == hash
    }

    fn knows(&self, hash: &str) -> bool {
        self.current == hash || self.older.iter().any(|older| older == hash)
    }
}

fn member_active(organization: OrganizationId, member: MemberId) -> (Fact, Rejection) {
    let message = "You are not an active member of this organization. Ask one of its administrators.";
    (members::active(organization, member), Rejection::new(ErrorCode::Forbidden, message))
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Signs a member in. That they are who they say is checked before.
pub struct StartSession {
    /// Who.
    pub user: UserId,
    /// As whom.
    pub member: MemberId,
    /// Where.
    pub organization: OrganizationId,
    /// The hash of the first refresh token.
    pub refresh_hash: String,
    /// From which address.
    pub ip: Option<String>,
    /// With which program; cut to 400 characters.
    pub user_agent: Option<String>,
    /// Until when, if it is not refreshed.
    pub expires_at: Timestamp,
}

impl Command for StartSession {
    type Aggregate = Session;
    const CREATES: bool = true;

    fn decide(&self, session: &Session, _: &Given<'_>) -> Decision<SessionEvent> {
        crate::must_be_new(session)?;
        let personal = |text: &String| Personal::new(self.user, text.chars().take(400).collect());
        let (active, otherwise) = member_active(self.organization, self.member);
        Ok(Outcome::events([SessionEvent::Started {
            user: self.user,
            member: self.member,
            organization: self.organization,
            refresh_hash: self.refresh_hash.clone(),
            ip: self.ip.as_ref().map(personal),
            user_agent: self.user_agent.as_ref().map(personal),
            expires_at: self.expires_at,
        }])
        .require(active, otherwise))
    }
}

/// Exchanges a refresh token for the next.
///
/// A token that was replaced before is answered by *success with the event* [`SessionEvent::Ended`], because the end
/// has to be written: the caller gave out the next token only if [`Session::is_current`] says so of `next_hash`
/// afterwards (or the event is [`SessionEvent::Refreshed`]), and else answers `INVALID_CREDENTIALS`.
pub struct RefreshSession {
    /// The hash of the token that was shown.
    pub presented_hash: String,
    /// The hash of the token that replaces it.
    pub next_hash: String,
    /// Until when, if it is not refreshed again.
    pub expires_at: Timestamp,
}

impl Command for RefreshSession {
    type Aggregate = Session;

    fn decide(&self, session: &Session, given: &Given<'_>) -> Decision<SessionEvent> {
        let unknown = || Rejection::new(ErrorCode::InvalidCredentials, "This token is not valid. Sign in again.");
        let whose = session.whose.as_ref().ok_or_else(unknown)?;
        if !session.knows(&self.presented_hash) {
            return Err(unknown());
        }
        if session.ended.is_some() || session.expires_at <= given.now {
            return Err(Rejection::new(ErrorCode::Expired, "This session is over. Sign in again."));
        }
        if session.current != self.presented_hash {
            return Ok(Outcome::events([SessionEvent::Ended { reason: EndReason::Reused }]));
        }
        if session.knows(&self.next_hash) {
            return Err(Rejection::conflict("The next token has to be a new one."));
        }
        let (active, otherwise) = member_active(whose.organization, whose.member);
        Ok(Outcome::events([SessionEvent::Refreshed {
            refresh_hash: self.next_hash.clone(),
            expires_at: self.expires_at,
        }])
        .require(active, otherwise))
    }
}

/// Ends a session.
pub struct EndSession {
    /// Why.
    pub reason: EndReason,
}

impl Command for EndSession {
    type Aggregate = Session;

    fn decide(&self, session: &Session, given: &Given<'_>) -> Decision<SessionEvent> {
        let own = session.whose.as_ref().is_some_and(|whose| given.actor == Actor::Member(whose.member));
        if given.grant == Grant::Own && !own {
            return Err(crate::not_yours(Session::NOUN));
        }
        if session.ended.is_some() {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([SessionEvent::Ended { reason: self.reason }]))
    }
}
