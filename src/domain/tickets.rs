//! Tickets: what a mail hands over, to show that its receiver may do one thing.
//!
//! Invariants: nothing of a ticket is kept. It says whom it is about, until when it is good and what for, and is signed
//! with a key of the installation, so that nobody makes one; what is stored does not help to. That it is used once is
//! the matter of whoever takes it: what it is about has changed afterwards.

use std::fmt::Display;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::TimeDelta;
use oriel_kernel::{Blinder, Timestamp};

/// What tickets that accept an invitation are signed for; they are about the invited member.
pub const INVITATION: &str = "invitation";
/// How long an invitation is good.
pub const INVITATION_LIFE: TimeDelta = TimeDelta::days(7);

/// A ticket: `id.seconds.about.signature`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket<I> {
    /// Whom or what it is about: an id.
    pub subject: I,
    /// When it ends.
    pub ends_at: Timestamp,
    /// What else it is about, in letters that stand in a URL.
    pub about: String,
}

impl<I: Display + FromStr> Ticket<I> {
    /// The ticket as text, good for this purpose alone.
    pub fn sign(&self, purpose: &str, blinder: &dyn Blinder) -> String {
        let said = format!("{}.{}.{}", self.subject, self.ends_at.timestamp(), self.about);
        format!("{said}.{}", blinder.blind(purpose, &said))
    }

    /// The ticket, if the installation signed it for this purpose and it has not ended.
    pub fn read(text: &str, purpose: &str, now: Timestamp, blinder: &dyn Blinder) -> Option<Self> {
        let (said, signature) = text.trim().rsplit_once('.')?;
        verify_slices_are_equal(blinder.blind(purpose, said).as_bytes(), signature.as_bytes()).ok()?;
        let mut parts = said.splitn(3, '.');
        let subject = parts.next()?.parse().ok()?;
        let ends_at = Timestamp::from_timestamp(parts.next()?.parse().ok()?, 0)?;
        let about = parts.next()?.to_owned();
        (ends_at > now).then_some(Self { subject, ends_at, about })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::{MemberId, UserId};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{TestBlinder, at, user};

    fn ticket() -> Ticket<UserId> {
        Ticket { subject: user(1), ends_at: at(100), about: "x-1.y".to_owned() }
    }

    fn read(text: &str, purpose: &str, second: i64) -> Option<Ticket<UserId>> {
        Ticket::read(text, purpose, at(second), &TestBlinder)
    }

    #[test]
    fn a_ticket_is_good_for_its_purpose_until_it_ends() {
        let text = ticket().sign("reset", &TestBlinder);
        assert_eq!(read(&format!(" {text}\n"), "reset", 99), Some(ticket()));
        assert_eq!(read(&text, "reset", 100), None);
        assert_eq!(read(&text, "email", 0), None);
        assert_eq!(Ticket::<MemberId>::read(&text, "reset", at(0), &TestBlinder), None);
    }

    #[test]
    fn a_ticket_that_was_changed_is_none() {
        let text = ticket().sign("reset", &TestBlinder);
        let later = ticket().ends_at.timestamp() + 1;
        let changed = text.replace(&ticket().ends_at.timestamp().to_string(), &later.to_string());
        assert_ne!(changed, text);
        assert_eq!(read(&changed, "reset", 0), None);
        assert_eq!(read(&text[..text.len() - 1], "reset", 0), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,80}") {
            prop_assert_eq!(read(&text, "reset", 0), None);
        }
    }
}
