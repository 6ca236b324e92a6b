//! Policies: texts that people agree to, in versions.
//!
//! Invariants: a policy has one key in its organisation (or in the installation), and its versions count from 1. One
//! version is in force at a time, until another takes its place or the policy is retired. Only a required one blocks:
//! who has not agreed to it does nothing else. Who agreed to what stands in `consents.rs`, which rests on [`in_force`].

use aws_lc_rs::digest::{SHA256, digest};
use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, OrganizationId, Outcome, Rejection, bounded_text, ids,
};
use serde::{Deserialize, Serialize};
use uuid::Builder;

ids! {
    /// A policy.
    PolicyId = "pol",
}

/// The id of the policy with this key: the same for ever, so that there is one.
pub fn policy_id(organization: OrganizationId, key: &PolicyKey) -> PolicyId {
    let whole = digest(&SHA256, format!("policy:{organization}:{}", key.0).as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&whole.as_ref()[..16]);
    PolicyId::from_uuid(Builder::from_custom_bytes(beginning).into_uuid())
}

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a policy.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "policy")]
pub enum PolicyEvent {
    /// A version is in force from now on.
    #[event("policy_published", version = 2, upcast = published_v1_to_v2)]
    Published {
        /// Whose it is: an organisation's, or (`ABSENT`) the installation's.
        organization: OrganizationId,
        /// What programs call it.
        key: PolicyKey,
        /// Which version, from 1.
        revision: i32,
        /// What people call it.
        title: PolicyTitle,
        /// What it says.
        text: PolicyText,
        /// Whether everybody is to agree.
        required: bool,
        /// Whether who has not agreed does nothing else.
        blocking: bool,
    },
    /// Nobody is asked to agree any more.
    #[event("policy_retired")]
    Retired,
}

/// Version 1 kept nobody from anything.
fn published_v1_to_v2(mut published: serde_json::Value) -> serde_json::Value {
    published["blocking"] = false.into();
    published
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What people call a policy.
    PolicyTitle: 1..=200,
    /// What a policy says.
    PolicyText: 1..=50000 multiline,
}

/// What programs call a policy: lower-case letters, digits and single dashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyKey(String);

impl PolicyKey {
    /// The key, trimmed.
    ///
    /// # Errors
    /// `REQUIRED`, `TOO_LONG` beyond 40 characters, or `INVALID`.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 40, false)?;
        let fits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !text.split('-').all(fits) {
            let message = "Lower-case letters, digits and single dashes between them, such as `privacy`.";
            return Err(Rejection::new(ErrorCode::Invalid, message));
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a policy's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    organization: Option<OrganizationId>,
    revision: i32,
    said: Option<(PolicyTitle, PolicyText, Asked)>,
}

/// What is asked of people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// To agree.
    ToAgree,
    /// To agree before they do anything else.
    ToAgreeFirst,
}

impl Asked {
    /// From what an event says of it.
    pub fn of(required: bool, blocking: bool) -> Self {
        match (required, blocking) {
            (_, true) => Self::ToAgreeFirst,
            (true, false) => Self::ToAgree,
            (false, false) => Self::Nothing,
        }
    }

    fn is_required(self) -> bool {
        self != Self::Nothing
    }

    fn is_blocking(self) -> bool {
        self == Self::ToAgreeFirst
    }
}

impl Aggregate for Policy {
    type Kind = kinds::PolicyId;
    type Event = PolicyEvent;
    const NOUN: &'static str = "policy";

    fn evolve(&mut self, event: &PolicyEvent) {
        match event {
            PolicyEvent::Published { organization, key: _, revision, title, text, required, blocking } => {
                self.organization = Some(*organization);
                self.revision = *revision;
                self.said = Some((title.clone(), text.clone(), Asked::of(*required, *blocking)));
            }
            PolicyEvent::Retired => self.said = None,
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }
}

/// That this version of a policy is in force.
pub fn in_force(organization: OrganizationId, policy: PolicyId, revision: i32) -> Fact {
    Fact::new("policy_in_force", organization, format!("{policy}/{revision}"))
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Puts a version of a policy in force. One that says the same as that in force is none.
pub struct PublishPolicy {
    /// What programs call it.
    pub key: PolicyKey,
    /// What people call it.
    pub title: PolicyTitle,
    /// What it says.
    pub text: PolicyText,
    /// What is asked of people.
    pub asked: Asked,
}

impl Command for PublishPolicy {
    type Aggregate = Policy;
    const CREATES: bool = true;

    fn decide(&self, policy: &Policy, given: &Given<'_>) -> Decision<PolicyEvent> {
        let said = (self.title.clone(), self.text.clone(), self.asked);
        if policy.said.as_ref() == Some(&said) {
            return Ok(Outcome::nothing());
        }
        let (title, text, asked) = said;
        let (organization, id) = (given.organization, PolicyId::from_uuid(given.id));
        let revision = policy.revision + 1;
        let (required, blocking) = (asked.is_required(), asked.is_blocking());
        let key = self.key.clone();
        let event = PolicyEvent::Published { organization, key, revision, title, text, required, blocking };
        let at_this_moment = Rejection::conflict("Somebody else published it at this moment. Look at it first.");
        let published = Outcome::events([event]).claim(in_force(organization, id, revision), at_this_moment);
        Ok(match policy.said {
            Some(_) => published.release(in_force(organization, id, policy.revision)),
            None => published,
        })
    }
}

/// Takes a policy out of force.
pub struct RetirePolicy;

impl Command for RetirePolicy {
    type Aggregate = Policy;

    fn decide(&self, policy: &Policy, given: &Given<'_>) -> Decision<PolicyEvent> {
        if policy.said.is_none() {
            return Ok(Outcome::nothing());
        }
        let fact = in_force(given.organization, PolicyId::from_uuid(given.id), policy.revision);
        Ok(Outcome::events([PolicyEvent::Retired]).release(fact))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{Desk, uuid};

    pub fn publish(text: &str) -> PublishPolicy {
        PublishPolicy {
            key: PolicyKey::parse("privacy").unwrap(),
            title: PolicyTitle::parse("Privacy").unwrap(),
            text: PolicyText::parse(text).unwrap(),
            asked: Asked::ToAgree,
        }
    }

    #[test]
    fn one_version_is_in_force_and_the_same_again_is_none() {
        let (mut desk, mut policy) = (Desk::new(), Policy::default());
        let id = PolicyId::from_uuid(uuid(5));
        desk.done(uuid(5), &mut policy, &publish("We keep\nlittle."));
        assert_eq!(desk.done(uuid(5), &mut policy, &publish("We keep\nlittle.")), []);
        let second = desk.done(uuid(5), &mut policy, &publish("We keep less."));
        assert!(matches!(second[0], PolicyEvent::Published { revision: 2, .. }));
        let facts: Vec<_> = desk.facts.iter().cloned().collect();
        assert_eq!(facts, [in_force(desk.organization, id, 2)]);
        desk.done(uuid(5), &mut policy, &RetirePolicy);
        assert_eq!(desk.done(uuid(5), &mut policy, &RetirePolicy), []);
        assert!(desk.facts.is_empty());
        let third = desk.done(uuid(5), &mut policy, &publish("We keep less."));
        assert!(matches!(third[0], PolicyEvent::Published { revision: 3, .. }), "versions never come again");
        let first = PublishPolicy { asked: Asked::ToAgreeFirst, ..publish("We keep less.") };
        let fourth = desk.done(uuid(5), &mut policy, &first);
        assert!(matches!(fourth[0], PolicyEvent::Published { required: true, blocking: true, .. }), "{fourth:?}");
        assert_eq!(desk.done(uuid(5), &mut policy, &first), []);
    }

    #[test]
    fn keys_are_what_programs_can_say() {
        let organization = Desk::new().organization;
        let id = |key| policy_id(organization, &PolicyKey::parse(key).unwrap());
        assert!(id("privacy") == id(" privacy ") && id("privacy") != id("terms-2"));
        for wrong in ["", "Privacy", "a--b", "-a", "ä", "a b"] {
            assert!(PolicyKey::parse(wrong).is_err(), "{wrong}");
        }
    }
}
