//! The erasure of a person, which is for good.
//!
//! Invariants: from [`EraseUser`] on the person's data key is destroyed, in the log and everywhere that follows it, and
//! their address and user name are free. What was made of what they had said goes after that, one event after the other;
//! at last a certificate says what is clean. An erased user changes no more.

use oriel_kernel::{Command, Decision, Given, Outcome, Personal, Rejection, UserId};
use uuid::Uuid;

use super::{User, UserEvent, email_fact, username_fact};
use crate::organizations::Cleaned;

/// How far an erasure is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Erasure {
    #[default]
    NotYet,
    /// The key is destroyed.
    Begun,
    /// Everything is clean.
    Complete,
}

impl User {
    pub(super) fn erase(&mut self) {
        self.erasure = Erasure::Begun;
        for said in [&mut self.name, &mut self.email].into_iter().flatten() {
            *said = Personal::Erased { of: said.of() };
        }
        (self.new_email, self.reset, self.factor) = (None, None, Default::default());
        self.preferences = Default::default();
    }
}

/// Erases a person. That they own no organisation is looked up before.
pub struct EraseUser {
    /// Who wants it, if it is the person; else the operator of the installation does, or Oriel itself.
    pub by: Option<UserId>,
}

impl Command for EraseUser {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        if self.by.is_some_and(|by| by.uuid() != given.id) {
            return Err(Rejection::not_found("user"));
        }
        if user.erasure != Erasure::NotYet {
            return Ok(Outcome::nothing());
        }
        let erased = Outcome::events([UserEvent::Erased]).release(email_fact(&user.email_hash));
        let erased = user.factor.facts().fold(erased, Outcome::release);
        Ok(match &user.username_hash {
            Some(hash) => erased.release(username_fact(hash)),
            None => erased,
        })
    }
}

/// Has made anew what was made of events that said something about an erased person.
pub struct MakeAnew {
    /// Whose events: at most [`Effect::MOST`](oriel_kernel::Effect::MOST) aggregates.
    pub subjects: Vec<Uuid>,
}

impl Command for MakeAnew {
    type Aggregate = User;

    fn decide(&self, user: &User, _: &Given<'_>) -> Decision<UserEvent> {
        if user.erasure != Erasure::Begun {
            return Err(Rejection::conflict("This person is not being erased."));
        }
        Ok(Outcome::events([UserEvent::MadeAnew { subjects: self.subjects.clone() }]))
    }
}

/// Certifies that nothing is left of a person.
pub struct CertifyErasure {
    /// What was cleaned, and up to where.
    pub stores: Vec<Cleaned>,
}

impl Command for CertifyErasure {
    type Aggregate = User;

    fn decide(&self, user: &User, _: &Given<'_>) -> Decision<UserEvent> {
        match user.erasure {
            Erasure::Begun => Ok(Outcome::events([UserEvent::ErasureCompleted { stores: self.stores.clone() }])),
            Erasure::Complete => Ok(Outcome::nothing()),
            Erasure::NotYet => Err(Rejection::conflict("This person is not being erased.")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::{Aggregate, Effect, ErrorCode, Event};

    use super::super::{Email, PasswordHash, PersonName, RegisterUser, RenameUser, Username};
    use super::*;
    use crate::testing::{Desk, user, uuid};

    fn register() -> RegisterUser {
        RegisterUser {
            email: Email::parse("ada@example.org").unwrap(),
            username: Username::parse("countess").ok(),
            name: PersonName::parse("Ada Lovelace").unwrap(),
            password_hash: PasswordHash::new("$argon2id$v=19$x"),
        }
    }

    #[test]
    fn it_is_for_good_and_the_address_is_free() {
        let (mut desk, mut ada) = (Desk::new(), User::default());
        desk.done(uuid(1), &mut ada, &register());
        assert_eq!(desk.refused(uuid(1), &ada, &EraseUser { by: Some(user(2)) }), (ErrorCode::NotFound, ""));
        assert_eq!(desk.refused(uuid(1), &ada, &MakeAnew { subjects: vec![] }), (ErrorCode::Conflict, ""));
        let erased = desk.done(uuid(1), &mut ada, &EraseUser { by: Some(user(1)) });
        assert_eq!(erased, [UserEvent::Erased]);
        assert_eq!(erased[0].effect(), Some(Effect::DestroysKey));
        assert!(desk.facts.is_empty());
        assert_eq!(desk.done(uuid(1), &mut ada, &EraseUser { by: None }), []);
        let name = PersonName::parse("Ada King").unwrap();
        assert_eq!(desk.refused(uuid(1), &ada, &RenameUser { by: user(1), name }), (ErrorCode::NotFound, ""));
        assert!(ada.tenant().is_some_and(|tenant| tenant.is_absent()), "who was erased is not nobody");

        let subjects = vec![uuid(5)];
        let anew = desk.done(uuid(1), &mut ada, &MakeAnew { subjects: subjects.clone() });
        assert_eq!(anew[0].effect(), Some(Effect::MakesAnew { subjects: &subjects }));
        desk.done(uuid(1), &mut ada, &CertifyErasure { stores: vec![] });
        assert_eq!(desk.done(uuid(1), &mut ada, &CertifyErasure { stores: vec![] }), []);
        assert_eq!(desk.refused(uuid(1), &ada, &MakeAnew { subjects }), (ErrorCode::Conflict, ""));
        // Somebody else may have the address now.
        desk.done(uuid(2), &mut User::default(), &register());
    }
}
