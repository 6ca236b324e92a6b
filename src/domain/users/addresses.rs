//! What a person does by mail: shows that an address is theirs, moves to another one, and chooses another password when
//! they have forgotten it.
//!
//! Invariants: a link is good once and for a time; a newer one takes its place. An address becomes a person's when a
//! link was opened that went there, and not before; until then the old one is theirs. A changed password ends every link
//! that was sent before. Whoever opened a link has shown that the address is theirs.
//!
//! A link is a [`Ticket`](crate::tickets::Ticket), whose signature is checked before: commands carry what it is about.

use chrono::TimeDelta;
use oriel_kernel::{Command, Decision, ErrorCode, Fact, Given, Outcome, Personal, Rejection, Timestamp, UserId};

use super::{Email, PasswordHash, User, UserEvent, email_fact};

/// What tickets that reset a password are signed for; they are about [`RequestPasswordReset::request`].
pub const PASSWORD_RESET: &str = "password_reset";
/// What tickets that confirm an address are signed for; they are about [`Email::blind`] of it.
pub const EMAIL: &str = "email_confirmation";
/// How long a link to choose another password is good.
pub const RESET_LIFE: TimeDelta = TimeDelta::hours(1);
/// How long a link to confirm an address is good.
pub const EMAIL_LIFE: TimeDelta = TimeDelta::days(3);
/// How far apart the mails with such links are.
pub const PAUSE: TimeDelta = TimeDelta::minutes(2);

/// A link to choose another password, under way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reset {
    pub(super) request: String,
    pub(super) ends_at: Timestamp,
}

/// An address that a person wants to move to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NewEmail {
    pub(super) email: Personal<String>,
    pub(super) hash: String,
    pub(super) ends_at: Timestamp,
}

/// A link that is not good.
pub fn over() -> Rejection {
    let message = "This link is not good any more: it was used, it ended, or there is a newer one. Ask for another.";
    Rejection::new(ErrorCode::Expired, message).at("token")
}

fn taken() -> Rejection {
    Rejection::taken("Somebody is registered with this e-mail address.").at("email")
}

impl User {
    /// Whether a link that is about this request is good now.
    ///
    /// # Errors
    /// `EXPIRED` when it is not.
    pub fn may_reset(&self, request: &str, now: Timestamp) -> Result<(), Rejection> {
        let good = |reset: &&Reset| reset.request == request && now < reset.ends_at;
        self.reset.as_ref().filter(good).map(drop).ok_or_else(over)
    }

    /// The user's id, if they are there and not forgotten: for whoever opened a link that was sent to them.
    fn reached(&self, given: &Given<'_>) -> Result<UserId, Rejection> {
        self.themselves(UserId::from_uuid(given.id), given)
    }

    fn fact(&self) -> Fact {
        email_fact(&self.email_hash)
    }
}

/// Sends a link to choose another password to the user's address. Asked again soon after, nothing more is sent.
pub struct RequestPasswordReset {
    /// Names this request: letters that were never used before.
    pub request: String,
}

impl Command for RequestPasswordReset {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        user.reached(given)?;
        let soon = |reset: &Reset| given.now < reset.ends_at - RESET_LIFE + PAUSE;
        if user.reset.as_ref().is_some_and(soon) {
            return Ok(Outcome::nothing());
        }
        let ends_at = given.now + RESET_LIFE;
        Ok(Outcome::events([UserEvent::PasswordResetRequested { request: self.request.clone(), ends_at }]))
    }
}

/// Chooses another password, by a link.
pub struct ResetPassword {
    /// What the link is about.
    pub request: String,
    /// The hash of the new password.
    pub password_hash: PasswordHash,
}

impl Command for ResetPassword {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.reached(given)?;
        user.may_reset(&self.request, given.now)?;
        let password_hash = Personal::new(of, self.password_hash.as_str().to_owned());
        let mut events = vec![UserEvent::PasswordReset { password_hash }];
        if !user.email_verified {
            events.push(UserEvent::EmailVerified);
        }
        Ok(Outcome::events(events))
    }
}

/// Wants to move to another address, or to show that the same one is theirs: a link is sent there, and the old one is
/// told. That the password was shown is checked before.
pub struct RequestEmailChange {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// The address.
    pub email: Email,
}

impl Command for RequestEmailChange {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(self.by, given)?;
        let hash = self.email.blind(given.blinder);
        let same = user.email.as_ref().and_then(Personal::get).is_some_and(|email| email == self.email.as_str());
        if same && user.email_verified && user.new_email.is_none() {
            return Ok(Outcome::nothing());
        }
        let soon = |new: &NewEmail| given.now < new.ends_at - EMAIL_LIFE + PAUSE;
        if user.new_email.as_ref().is_some_and(soon) {
            let message = "A link was sent a moment ago. Wait two minutes before you ask for another.";
            return Err(Rejection::conflict(message));
        }
        let Some(from) = user.email.clone() else { return Err(Rejection::not_found("user")) };
        Ok(Outcome::events([UserEvent::EmailChangeRequested {
            from,
            email: Personal::new(of, self.email.as_str().to_owned()),
            email_hash: hash,
            ends_at: given.now + EMAIL_LIFE,
        }]))
    }
}

/// Shows that an address is theirs, by a link that went there: the one that the user has, or wants to move to.
pub struct ConfirmEmail {
    /// What the link is about.
    pub email_hash: String,
}

impl Command for ConfirmEmail {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        user.reached(given)?;
        match &user.new_email {
            Some(new) if new.hash == self.email_hash && given.now < new.ends_at => {
                let (email, email_hash) = (new.email.clone(), new.hash.clone());
                let outcome = Outcome::events([UserEvent::EmailChanged { email, email_hash }]);
                // The same address in another case is the same to everybody else.
                if new.hash == user.email_hash {
                    return Ok(outcome);
                }
                Ok(outcome.release(user.fact()).claim(email_fact(&new.hash), taken()))
            }
            _ if self.email_hash != user.email_hash => Err(over()),
            _ if user.email_verified => Ok(Outcome::nothing()),
            _ => Ok(Outcome::events([UserEvent::EmailVerified])),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, TestBlinder, user, uuid};
    use crate::users::{ChangePassword, PersonName, RegisterUser};

    fn hash_of(email: &str) -> String {
        Email::parse(email).unwrap().blind(&TestBlinder)
    }

    fn registered(desk: &mut Desk, id: u128, email: &str) -> User {
        let mut state = User::default();
        let command = RegisterUser {
            email: Email::parse(email).unwrap(),
            username: None,
            name: PersonName::parse("Ada").unwrap(),
            password_hash: PasswordHash::new("$argon2id$x"),
        };
        desk.done(uuid(id), &mut state, &command);
        state
    }

    fn request(name: &str) -> RequestPasswordReset {
        RequestPasswordReset { request: name.to_owned() }
    }

    fn reset(name: &str) -> ResetPassword {
        ResetPassword { request: name.to_owned(), password_hash: PasswordHash::new("$argon2id$y") }
    }

    fn change(email: &str) -> RequestEmailChange {
        RequestEmailChange { by: user(1), email: Email::parse(email).unwrap() }
    }

    fn confirm(email: &str) -> ConfirmEmail {
        ConfirmEmail { email_hash: hash_of(email) }
    }

    #[test]
    fn a_link_resets_the_password_once_and_shows_whose_the_address_is() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1, "ada@example.org");
        assert_eq!(desk.refused(uuid(1), &ada, &reset("r1")), (ErrorCode::Expired, "token"));
        desk.done(uuid(1), &mut ada, &request("r1"));
        assert_eq!(desk.done(uuid(1), &mut ada, &request("r2")), [], "a mail was sent a moment ago");
        assert_eq!(desk.refused(uuid(1), &ada, &reset("r2")), (ErrorCode::Expired, "token"));
        assert_eq!(desk.done(uuid(1), &mut ada, &reset("r1")).len(), 2);
        assert!(ada.email_verified);
        assert_eq!(desk.refused(uuid(1), &ada, &reset("r1")), (ErrorCode::Expired, "token"));
    }

    #[test]
    fn a_newer_link_a_password_and_time_end_a_link() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1, "ada@example.org");
        desk.done(uuid(1), &mut ada, &request("r1"));
        desk.now += PAUSE;
        desk.done(uuid(1), &mut ada, &request("r2"));
        assert_eq!(desk.refused(uuid(1), &ada, &reset("r1")), (ErrorCode::Expired, "token"));
        desk.now += RESET_LIFE;
        assert_eq!(desk.refused(uuid(1), &ada, &reset("r2")), (ErrorCode::Expired, "token"));
        desk.done(uuid(1), &mut ada, &request("r3"));
        desk.done(uuid(1), &mut ada, &change("new@example.org"));
        let password_hash = PasswordHash::new("$argon2id$z");
        desk.done(uuid(1), &mut ada, &ChangePassword { by: user(1), password_hash });
        assert_eq!(desk.refused(uuid(1), &ada, &reset("r3")), (ErrorCode::Expired, "token"));
        assert_eq!(desk.refused(uuid(1), &ada, &confirm("new@example.org")), (ErrorCode::Expired, "token"));
    }

    #[test]
    fn an_address_is_confirmed_by_a_link_that_went_there() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1, "ada@example.org");
        assert_eq!(desk.refused(uuid(1), &ada, &confirm("new@example.org")), (ErrorCode::Expired, "token"));
        assert_eq!(desk.done(uuid(1), &mut ada, &confirm("ada@example.org")), [UserEvent::EmailVerified]);
        assert_eq!(desk.done(uuid(1), &mut ada, &confirm("ada@example.org")), []);
        desk.done(uuid(1), &mut ada, &change("new@example.org"));
        assert!(desk.facts.contains(&email_fact(&hash_of("ada@example.org"))), "it is not theirs before");
        assert_eq!(desk.refused(uuid(1), &ada, &change("other@example.org")), (ErrorCode::Conflict, ""));
        desk.done(uuid(1), &mut ada, &confirm("new@example.org"));
        assert!(!desk.facts.contains(&email_fact(&hash_of("ada@example.org"))));
        assert!(desk.facts.contains(&email_fact(&hash_of("new@example.org"))));
        assert_eq!(desk.done(uuid(1), &mut ada, &confirm("new@example.org")), [], "twice is once");
        assert_eq!(desk.refused(uuid(1), &ada, &confirm("ada@example.org")), (ErrorCode::Expired, "token"));
    }

    #[test]
    fn an_address_that_somebody_has_is_refused_when_it_is_confirmed_and_told_to_nobody_before() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1, "ada@example.org");
        registered(&mut desk, 2, "bob@example.org");
        desk.done(uuid(1), &mut ada, &change("bob@example.org"));
        assert_eq!(desk.refused(uuid(1), &ada, &confirm("bob@example.org")), (ErrorCode::Taken, "email"));
    }

    #[test]
    fn the_same_address_in_another_case_moves_no_fact() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1, "ada@example.org");
        assert_eq!(desk.done(uuid(1), &mut ada, &change("ada@example.org")).len(), 1, "it is not confirmed yet");
        desk.done(uuid(1), &mut ada, &confirm("ada@example.org"));
        assert_eq!(desk.done(uuid(1), &mut ada, &change("ada@example.org")), []);
        desk.done(uuid(1), &mut ada, &change("Ada@Example.org"));
        desk.done(uuid(1), &mut ada, &confirm("ada@example.org"));
        assert_eq!(ada.email.as_ref().unwrap().get().unwrap(), "Ada@Example.org");
        assert!(desk.facts.contains(&email_fact(&hash_of("ada@example.org"))));
    }

    #[test]
    fn only_the_user_themselves_asks_to_move() {
        let mut desk = Desk::new();
        let ada = registered(&mut desk, 1, "ada@example.org");
        let by_another = RequestEmailChange { by: user(2), ..change("x@example.org") };
        assert_eq!(desk.refused(uuid(1), &ada, &by_another), (ErrorCode::NotFound, ""));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_address_has_its_fact_and_a_link_is_good_once(
            steps in prop::collection::vec((0u8..6, 0usize..3, 0i64..7_200), 0..60),
        ) {
            let addresses = ["ada@example.org", "b@example.org", "c@example.org"];
            let mut desk = Desk::new();
            let mut ada = registered(&mut desk, 1, addresses[0]);
            let mut used = std::collections::BTreeSet::new();
            for (n, (what, which, seconds)) in steps.into_iter().enumerate() {
                desk.now += TimeDelta::seconds(seconds);
                let name = format!("r{which}");
                match what {
                    0 | 1 => drop(desk.execute(uuid(1), &mut ada, &request(&format!("{name}-{n}")))),
                    2 => {
                        let open = ada.reset.clone().map_or(name, |reset| reset.request);
                        if desk.execute(uuid(1), &mut ada, &reset(&open)).is_ok() {
                            prop_assert!(used.insert(open), "a link was good twice");
                        }
                    }
                    3 => drop(desk.execute(uuid(1), &mut ada, &change(addresses[which]))),
                    _ => drop(desk.execute(uuid(1), &mut ada, &confirm(addresses[which]))),
                }
                let held: Vec<_> = desk.facts.iter().filter(|fact| fact.scope == "user_email").collect();
                prop_assert_eq!(held, [&email_fact(&ada.email_hash)]);
            }
        }
    }
}
