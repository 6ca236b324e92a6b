//! Consents: what a person has agreed to, version by version.
//!
//! Invariants: a person agrees only for themselves, and only to the version of a policy that is in force. What was agreed
//! to can be taken back at any time, and given again. The events say nothing about the person but who it is; they are the
//! history.

use aws_lc_rs::digest::{SHA256, digest};
use oriel_kernel::{Aggregate, Command, Decision, Event, Given, OrganizationId, Outcome, Rejection, UserId, ids};
use uuid::Builder;

use crate::policies::{PolicyId, in_force};

ids! {
    /// What a person says to a policy.
    ConsentId = "cns",
}

/// The id of what this person says to this policy: the same for ever.
pub fn consent_id(policy: PolicyId, user: UserId) -> ConsentId {
    let whole = digest(&SHA256, format!("consent:{policy}:{user}").as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&whole.as_ref()[..16]);
    ConsentId::from_uuid(Builder::from_custom_bytes(beginning).into_uuid())
}

// --- events ----------------------------------------------------------------------------------------------------

/// What a person can say to a policy.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "consent")]
pub enum ConsentEvent {
    /// Agrees.
    #[event("consent_given")]
    Given {
        /// Whose policy it is.
        organization: OrganizationId,
        /// Which policy.
        policy: PolicyId,
        /// Which version of it.
        revision: i32,
        /// Who agrees.
        user: UserId,
    },
    /// Does not agree any more.
    #[event("consent_withdrawn")]
    Withdrawn,
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about the next thing that a person says to a policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Consent {
    organization: Option<OrganizationId>,
    user: UserId,
    /// What they agree to now.
    revision: Option<i32>,
}

impl Aggregate for Consent {
    type Kind = kinds::ConsentId;
    type Event = ConsentEvent;
    const NOUN: &'static str = "consent";

    fn evolve(&mut self, event: &ConsentEvent) {
        match event {
            ConsentEvent::Given { organization, policy: _, revision, user } => {
                (self.organization, self.user, self.revision) = (Some(*organization), *user, Some(*revision));
            }
            ConsentEvent::Withdrawn => self.revision = None,
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Agrees to a version of a policy.
pub struct GiveConsent {
    /// Which policy.
    pub policy: PolicyId,
    /// Which version.
    pub revision: i32,
    /// Who agrees: whoever asks.
    pub user: UserId,
}

impl Command for GiveConsent {
    type Aggregate = Consent;
    const CREATES: bool = true;

    fn decide(&self, consent: &Consent, given: &Given<'_>) -> Decision<ConsentEvent> {
        if consent.revision == Some(self.revision) {
            return Ok(Outcome::nothing());
        }
        let organization = given.organization;
        let other = Rejection::conflict("This version of the policy is not in force. Read the one that is.");
        let agreed =
            ConsentEvent::Given { organization, policy: self.policy, revision: self.revision, user: self.user };
        let in_force = in_force(organization, self.policy, self.revision);
        Ok(Outcome::events([agreed]).require(in_force, other.at("revision")))
    }
}

/// Takes back what was agreed to.
pub struct WithdrawConsent {
    /// Who: whoever asks.
    pub user: UserId,
}

impl Command for WithdrawConsent {
    type Aggregate = Consent;

    fn decide(&self, consent: &Consent, _: &Given<'_>) -> Decision<ConsentEvent> {
        if consent.user != self.user {
            return Err(Rejection::not_found(Consent::NOUN));
        }
        Ok(match consent.revision {
            Some(_) => Outcome::events([ConsentEvent::Withdrawn]),
            None => Outcome::nothing(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::ErrorCode;
    use proptest::prelude::*;

    use super::*;
    use crate::policies::tests::publish;
    use crate::policies::{Policy, RetirePolicy};
    use crate::testing::{Desk, user, uuid};

    fn give(revision: i32) -> GiveConsent {
        GiveConsent { policy: PolicyId::from_uuid(uuid(5)), revision, user: user(1) }
    }

    #[test]
    fn only_to_what_is_in_force_and_until_it_is_taken_back() {
        let (mut desk, mut policy, mut consent) = (Desk::new(), Policy::default(), Consent::default());
        assert_eq!(desk.refused(uuid(9), &consent, &give(1)), (ErrorCode::Conflict, "revision"));
        desk.done(uuid(5), &mut policy, &publish("One."));
        desk.done(uuid(9), &mut consent, &give(1));
        assert_eq!(desk.done(uuid(9), &mut consent, &give(1)), []);
        desk.done(uuid(5), &mut policy, &publish("Two."));
        assert_eq!(desk.refused(uuid(9), &consent, &give(3)), (ErrorCode::Conflict, "revision"));
        desk.done(uuid(9), &mut consent, &give(2));
        let somebody_else = WithdrawConsent { user: user(2) };
        assert_eq!(desk.refused(uuid(9), &consent, &somebody_else), (ErrorCode::NotFound, ""));
        let withdraw = WithdrawConsent { user: user(1) };
        assert_eq!(desk.done(uuid(9), &mut consent, &withdraw), [ConsentEvent::Withdrawn]);
        assert_eq!(desk.done(uuid(9), &mut consent, &withdraw), []);
        desk.done(uuid(5), &mut policy, &RetirePolicy);
        assert_eq!(desk.refused(uuid(9), &consent, &give(2)), (ErrorCode::Conflict, "revision"));
    }

    proptest! {
        /// Whatever is published and said in whatever order: what is agreed to was in force when it was.
        #[test]
        fn random_histories(steps in proptest::collection::vec((0u8..4, 1i32..5), 0..40)) {
            let (mut desk, mut policy, mut consent) = (Desk::new(), Policy::default(), Consent::default());
            let mut in_force_now = None;
            let mut published = 0;
            for (what, n) in steps {
                match what {
                    0 => {
                        let done = desk.done(uuid(5), &mut policy, &publish(&format!("Text {n}.")));
                        published += i32::try_from(done.len()).unwrap();
                        in_force_now = Some(published);
                    }
                    1 => {
                        if in_force_now.take().is_some() {
                            desk.done(uuid(5), &mut policy, &RetirePolicy);
                        }
                    }
                    2 => {
                        let agreed = consent.revision == Some(n);
                        let given = desk.execute(uuid(9), &mut consent, &give(n)).is_ok();
                        prop_assert_eq!(given, agreed || in_force_now == Some(n));
                    }
                    _ => {
                        let taken = desk.execute(uuid(9), &mut consent, &WithdrawConsent { user: user(1) });
                        prop_assert!(taken.is_err() || consent.revision.is_none());
                    }
                }
            }
        }
    }
}
