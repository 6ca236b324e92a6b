//! Sessions: signed-in devices. A session is a family of refresh tokens, of which only the newest is good.
//!
//! Invariants: only hashes of tokens are kept, the newest and at most 100 before it. A token that was replaced and
//! comes back ends the session, because two hold it. An ended or expired session never continues. Who does not hold
//! a token of the family learns nothing about the session. One that is over is forgotten after a while
//! (`retention.rs`): then it is in no read model any more.
//!
//! Nothing here knows how a token looks or how it is hashed.

use std::collections::VecDeque;

use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, Grant, MemberId, OrganizationId, Outcome, Personal,
    Rejection, SessionId, Timestamp, UserId, kinds,
};
use serde::{Deserialize, Serialize};

use crate::identity_providers::{self, IdentityProviderId};
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
        /// The identity provider that said who they are, if one did.
        provider: Option<IdentityProviderId>,
        /// By what they showed who they are, if it was not a provider that said so.
        method: Option<SignInMethod>,
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
    /// Was over for so long that nobody is shown it any more.
    #[event("session_forgotten")]
    Forgotten,
}

/// By what somebody showed who they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SignInMethod {
    /// A password.
    Password,
    /// A password, and a code of their authenticator or of recovery.
    PasswordAndCode,
    /// A password, and a passkey.
    PasswordAndPasskey,
    /// A passkey alone.
    Passkey,
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
    /// The member was suspended, or removed.
    Deactivated,
    /// The identity provider that it was begun by signs nobody in any more, or knows the person no more.
    Unlinked,
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
    forgotten: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Whose {
    member: MemberId,
    organization: OrganizationId,
    provider: Option<IdentityProviderId>,
}

impl Aggregate for Session {
    type Kind = kinds::SessionId;
    type Event = SessionEvent;
    const NOUN: &'static str = "session";

    fn evolve(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::Started { member, organization, refresh_hash, expires_at, provider, .. } => {
                self.whose = Some(Whose { member: *member, organization: *organization, provider: *provider });
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
            SessionEvent::Forgotten => self.forgotten = true,
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.whose.as_ref().map(|whose| whose.organization)
    }
}

impl Whose {
    fn ended(&self, given: &Given<'_>, reason: EndReason) -> Outcome<SessionEvent> {
        let session = SessionId::from_uuid(given.id);
        Outcome::events([SessionEvent::Ended { reason }]).release(active(self.organization, session))
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

/// That this session of this organisation goes on: started and not ended. What somebody may do rests on it.
pub fn active(organization: OrganizationId, session: SessionId) -> Fact {
    Fact::new("session_active", organization, session.to_string())
}

fn member_active(organization: OrganizationId, member: MemberId) -> (Fact, Rejection) {
    let message = "You are not an active member of this organization. Ask one of its administrators.";
    (members::active(organization, member), Rejection::new(ErrorCode::Forbidden, message))
}

/// Only while the identity provider that said who they are signs people in.
fn while_usable(
    outcome: Outcome<SessionEvent>,
    organization: OrganizationId,
    provider: Option<IdentityProviderId>,
) -> Outcome<SessionEvent> {
    let Some(provider) = provider else { return outcome };
    let gone = "The identity provider signs nobody in any more. Sign in another way.";
    outcome.require(identity_providers::usable(organization, provider), Rejection::new(ErrorCode::Expired, gone))
}

fn already_active() -> Rejection {
    Rejection::conflict("This session has begun already.")
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
    /// The identity provider that said who they are, if one did: the session goes on while it signs people in.
    pub provider: Option<IdentityProviderId>,
    /// By what they showed who they are, if it was not a provider that said so.
    pub method: Option<SignInMethod>,
}

impl Command for StartSession {
    type Aggregate = Session;
    const CREATES: bool = true;

    fn decide(&self, session: &Session, given: &Given<'_>) -> Decision<SessionEvent> {
        crate::must_be_new(session)?;
        let personal = |text: &String| Personal::new(self.user, text.chars().take(400).collect());
        let (may_act, otherwise) = member_active(self.organization, self.member);
        let outcome = Outcome::events([SessionEvent::Started {
            user: self.user,
            member: self.member,
            organization: self.organization,
            refresh_hash: self.refresh_hash.clone(),
            ip: self.ip.as_ref().map(personal),
            user_agent: self.user_agent.as_ref().map(personal),
            expires_at: self.expires_at,
            provider: self.provider,
            method: self.method,
        }])
        .claim(active(self.organization, SessionId::from_uuid(given.id)), already_active())
        .require(may_act, otherwise);
        Ok(while_usable(outcome, self.organization, self.provider))
    }
}

/// Exchanges a refresh token for the next.
///
/// A token that was replaced before is answered by *success with the event* [`SessionEvent::Ended`], because the end
/// has to be written: the caller gives out the next token only if [`Session::is_current`] says so of `next_hash`
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
            return Ok(whose.ended(given, EndReason::Reused));
        }
        if session.knows(&self.next_hash) {
            return Err(Rejection::conflict("The next token has to be a new one."));
        }
        let (may_act, otherwise) = member_active(whose.organization, whose.member);
        let outcome = Outcome::events([SessionEvent::Refreshed {
            refresh_hash: self.next_hash.clone(),
            expires_at: self.expires_at,
        }])
        .require(may_act, otherwise);
        Ok(while_usable(outcome, whose.organization, whose.provider))
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
        let whose = session.whose.as_ref().ok_or_else(|| Rejection::not_found(Session::NOUN))?;
        if given.grant == Grant::Own && !given.is(whose.member) {
            return Err(crate::not_yours(Session::NOUN));
        }
        if session.ended.is_some() {
            return Ok(Outcome::nothing());
        }
        Ok(whose.ended(given, self.reason))
    }
}

/// Takes a session that is over out of what is shown. One that its time has ended is ended by that.
pub struct ForgetSession;

impl Command for ForgetSession {
    type Aggregate = Session;

    fn decide(&self, session: &Session, given: &Given<'_>) -> Decision<SessionEvent> {
        let whose = session.whose.as_ref().ok_or_else(|| Rejection::not_found(Session::NOUN))?;
        if session.forgotten {
            return Ok(Outcome::nothing());
        }
        if session.ended.is_some() {
            return Ok(Outcome::events([SessionEvent::Forgotten]));
        }
        if session.expires_at > given.now {
            return Err(Rejection::conflict("This session goes on. End it first."));
        }
        let mut outcome = whose.ended(given, EndReason::Expired);
        outcome.events.push(SessionEvent::Forgotten);
        Ok(outcome)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::Actor;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, at, member, user, uuid};

    fn start(desk: &Desk) -> StartSession {
        StartSession {
            user: user(1),
            member: member(2),
            organization: desk.organization,
            refresh_hash: "h0".to_owned(),
            ip: Some("192.0.2.7".to_owned()),
            user_agent: Some("x".repeat(1_000)),
            expires_at: at(100),
            provider: None,
            method: Some(SignInMethod::Password),
        }
    }

    fn refresh(presented: &str, next: &str) -> RefreshSession {
        RefreshSession { presented_hash: presented.to_owned(), next_hash: next.to_owned(), expires_at: at(200) }
    }

    fn signed_in() -> (Desk, Session) {
        let (mut desk, mut session) = (Desk::new(), Session::default());
        desk.facts.insert(members::active(desk.organization, member(2)));
        let command = start(&desk);
        desk.done(uuid(3), &mut session, &command);
        (desk, session)
    }

    #[test]
    fn only_an_active_member_signs_in() {
        let mut desk = Desk::new();
        let command = start(&desk);
        assert_eq!(desk.refused(uuid(3), &Session::default(), &command), (ErrorCode::Forbidden, ""));
    }

    #[test]
    fn what_a_client_says_of_itself_is_cut() {
        let (desk, session) = signed_in();
        let outcome = desk.decide(uuid(3), &Session::default(), &start(&desk)).unwrap();
        let SessionEvent::Started { user_agent, .. } = &outcome.events[0] else { panic!("{outcome:?}") };
        assert_eq!(user_agent.as_ref().unwrap().get().unwrap().len(), 400);
        assert!(session.is_current("h0") && !session.is_current("h1") && !Session::default().is_current(""));
    }

    #[test]
    fn what_a_provider_began_goes_on_while_it_signs_people_in() {
        let (mut desk, mut session) = (Desk::new(), Session::default());
        desk.facts.insert(members::active(desk.organization, member(2)));
        let provider = IdentityProviderId::from_uuid(uuid(9));
        let command = StartSession { provider: Some(provider), ..start(&desk) };
        assert_eq!(desk.refused(uuid(3), &session, &command), (ErrorCode::Expired, ""));
        desk.facts.insert(identity_providers::usable(desk.organization, provider));
        desk.done(uuid(3), &mut session, &command);
        desk.done(uuid(3), &mut session, &refresh("h0", "h1"));
        desk.facts.remove(&identity_providers::usable(desk.organization, provider));
        assert_eq!(desk.refused(uuid(3), &session, &refresh("h1", "h2")), (ErrorCode::Expired, ""));
        desk.done(uuid(3), &mut session, &EndSession { reason: EndReason::Unlinked });
    }

    #[test]
    fn a_token_is_good_once() {
        let (mut desk, mut session) = signed_in();
        desk.done(uuid(3), &mut session, &refresh("h0", "h1"));
        assert!(session.is_current("h1"));
        let events = desk.done(uuid(3), &mut session, &refresh("h0", "h2"));
        assert_eq!(events, [SessionEvent::Ended { reason: EndReason::Reused }]);
        assert!(!session.is_current("h2") && !session.is_current("h1"));
        assert_eq!(desk.refused(uuid(3), &session, &refresh("h1", "h3")), (ErrorCode::Expired, ""));
    }

    #[test]
    fn who_holds_no_token_learns_nothing() {
        let (mut desk, mut session) = signed_in();
        let guess = refresh("guess", "h1");
        assert_eq!(desk.refused(uuid(3), &session, &guess), (ErrorCode::InvalidCredentials, ""));
        desk.done(uuid(3), &mut session, &EndSession { reason: EndReason::SignedOut });
        assert_eq!(desk.refused(uuid(3), &session, &guess), (ErrorCode::InvalidCredentials, ""));
        assert_eq!(desk.refused(uuid(3), &session, &refresh("h0", "h1")), (ErrorCode::Expired, ""));
    }

    #[test]
    fn time_and_suspension_end_it() {
        let (mut desk, session) = signed_in();
        desk.facts.clear();
        assert_eq!(desk.refused(uuid(3), &session, &refresh("h0", "h1")), (ErrorCode::Forbidden, ""));
        desk.now = at(100);
        assert_eq!(desk.refused(uuid(3), &session, &refresh("h0", "h1")), (ErrorCode::Expired, ""));
    }

    #[test]
    fn ending_it_twice_writes_once_and_only_ones_own() {
        let (mut desk, mut session) = signed_in();
        desk.grant = Grant::Own;
        desk.actor = Actor::Member(member(9));
        let end = EndSession { reason: EndReason::Revoked };
        assert_eq!(desk.refused(uuid(3), &session, &end), (ErrorCode::Forbidden, ""));
        desk.actor = Actor::Member(member(2));
        assert_eq!(desk.done(uuid(3), &mut session, &end).len(), 1);
        assert_eq!(desk.done(uuid(3), &mut session, &EndSession { reason: EndReason::SignedOut }), []);
        assert_eq!(session.ended(), Some(EndReason::Revoked));
    }

    #[test]
    fn only_what_is_over_is_forgotten_and_once() {
        let (mut desk, mut session) = signed_in();
        assert_eq!(desk.refused(uuid(3), &session, &ForgetSession), (ErrorCode::Conflict, ""));
        let mut expired = session.clone();
        desk.done(uuid(3), &mut session, &EndSession { reason: EndReason::SignedOut });
        assert_eq!(desk.done(uuid(3), &mut session, &ForgetSession), [SessionEvent::Forgotten]);
        assert_eq!(desk.done(uuid(3), &mut session, &ForgetSession), []);
        assert_eq!(desk.refused(uuid(3), &session, &refresh("h0", "h1")), (ErrorCode::Expired, ""));
        // Of one whose time is over nobody has written the end.
        desk.facts.insert(active(desk.organization, SessionId::from_uuid(uuid(3))));
        desk.now = at(100);
        let written = desk.done(uuid(3), &mut expired, &ForgetSession);
        assert_eq!(written, [SessionEvent::Ended { reason: EndReason::Expired }, SessionEvent::Forgotten]);
        assert!(!desk.facts.contains(&active(desk.organization, SessionId::from_uuid(uuid(3)))));
    }

    #[test]
    fn replaced_tokens_are_remembered_up_to_a_bound() {
        let (mut desk, mut session) = signed_in();
        for n in 0..Session::REMEMBERED + 5 {
            desk.done(uuid(3), &mut session, &refresh(&format!("h{n}"), &format!("h{}", n + 1)));
        }
        assert_eq!(session.older.len(), Session::REMEMBERED);
        assert_eq!(desk.refused(uuid(3), &session, &refresh("h0", "x")), (ErrorCode::InvalidCredentials, ""));
        assert_eq!(desk.done(uuid(3), &mut session, &refresh("h50", "x")).len(), 1);
        assert_eq!(session.ended(), Some(EndReason::Reused));
    }

    proptest! {
        #[test]
        fn whatever_happens_at_most_one_token_is_good(
            steps in prop::collection::vec((0u8..4, 0u8..8, 0u8..8, 0i64..120), 0..60),
        ) {
            let (mut desk, mut session) = signed_in();
            let mut used = std::collections::BTreeSet::new();
            for (what, presented, next, now) in steps {
                desk.now = at(now);
                let before = session.clone();
                let (presented, next) = (format!("h{presented}"), format!("h{next}"));
                let written = match what {
                    0 => desk.execute(uuid(3), &mut session, &EndSession { reason: EndReason::Expired }),
                    _ => desk.execute(uuid(3), &mut session, &refresh(&presented, &next)),
                };
                if before.ended().is_some() {
                    prop_assert_eq!(&before, &session);
                }
                let goes_on = desk.facts.contains(&active(desk.organization, SessionId::from_uuid(uuid(3))));
                prop_assert_eq!(goes_on, session.ended().is_none());
                match written.as_deref() {
                    Ok([SessionEvent::Refreshed { .. }]) => {
                        prop_assert!(before.is_current(&presented) && session.is_current(&next));
                        prop_assert!(used.insert(presented), "a token was good twice");
                    }
                    Ok([SessionEvent::Ended { reason: EndReason::Reused }]) => prop_assert!(used.contains(&presented)),
                    Ok([SessionEvent::Ended { .. }]) => prop_assert_eq!(what, 0),
                    Ok(_) | Err(_) => prop_assert_eq!(&before, &session),
                }
                prop_assert!(!session.older.contains(&session.current));
            }
        }
    }
}
