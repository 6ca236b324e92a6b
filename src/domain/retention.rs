//! Retention: for how long an organisation keeps what may be removed, kind by kind.
//!
//! Invariants: an organisation says one thing about each kind ([`retention_id`]), within what the installation allows at
//! that moment. What applies is never outside of what the installation allows now ([`Rule::applies`]). What an event said
//! is no kind: the log is never swept.
//!
//! Nothing here knows where things of a kind are, or who removes them.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::NaiveTime;
use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Given, OrganizationId, Outcome, Rejection, Timestamp, ids,
};
use serde::{Deserialize, Serialize};
use uuid::Builder;

ids! {
    /// What an organisation says about a kind.
    RetentionId = "ret",
}

/// What may be removed after a while.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionKind {
    /// Sessions that are over, with the address and the program of the device; from the moment when they were.
    Sessions,
    /// Invitations that nobody has accepted, with the address that they went to; from the invitation on.
    Invitations,
    /// Who has read what is sensitive; from the reading on.
    AccessLog,
    /// Documents in the trash, with their files; from the moment when they went there.
    Trash,
}

impl RetentionKind {
    /// As events and tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Invitations => "invitations",
            Self::AccessLog => "access_log",
            Self::Trash => "trash",
        }
    }
}

impl RetentionKind {
    /// The moment of which nothing is due that is later, when this many days apply. Readings go by whole days (UTC),
    /// because each removal is itself said in their log.
    pub fn due_before(self, now: Timestamp, days: i32) -> Timestamp {
        let before = now - Duration::from_secs(24 * 3600 * u64::from(days.unsigned_abs()));
        match self {
            Self::AccessLog => before.date_naive().and_time(NaiveTime::MIN).and_utc(),
            Self::Sessions | Self::Invitations | Self::Trash => before,
        }
    }
}

/// What holds for a kind in an installation. All in days.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Which kind.
    pub kind: RetentionKind,
    /// What applies where an organisation says nothing; none: it is kept until somebody removes it.
    pub default: Option<i32>,
    /// What an organisation may say at least.
    pub least: i32,
    /// What an organisation may say at most.
    pub most: i32,
}

impl Rule {
    /// What applies to an organisation that said this, or nothing.
    pub fn applies(&self, said: Option<i32>) -> Option<i32> {
        said.map(|days| days.max(self.least).min(self.most)).or(self.default)
    }
}

/// Every kind, and what holds for it in an installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules([Rule; 4]);

impl Default for Rules {
    /// The one table of kinds.
    fn default() -> Self {
        let rule = |kind, default| Rule { kind, default, least: 1, most: 4_000 };
        Self([
            rule(RetentionKind::Sessions, Some(90)),
            rule(RetentionKind::Invitations, Some(30)),
            rule(RetentionKind::AccessLog, Some(400)),
            rule(RetentionKind::Trash, None),
        ])
    }
}

impl Rules {
    /// With these bounds for every kind.
    pub fn within(mut self, least: i32, most: i32) -> Self {
        self.0.iter_mut().for_each(|rule| (rule.least, rule.most) = (least, most));
        self
    }

    /// With another default for a kind.
    pub fn by_default(mut self, kind: RetentionKind, days: i32) -> Self {
        self.0.iter_mut().filter(|rule| rule.kind == kind).for_each(|rule| rule.default = Some(days));
        self
    }

    /// All of them, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// What holds for this kind.
    ///
    /// # Errors
    /// `INVALID` for a kind that the table does not have: a defect.
    pub fn of(&self, kind: RetentionKind) -> Result<Rule, Rejection> {
        let found = self.iter().find(|rule| rule.kind == kind).copied();
        found.ok_or_else(|| Rejection::new(ErrorCode::Invalid, "There is no such kind here.").at("kind"))
    }
}

/// The id of what an organisation says about a kind: the same for ever, so that there is one.
pub fn retention_id(organization: OrganizationId, kind: RetentionKind) -> RetentionId {
    let whole = digest(&SHA256, format!("retention:{organization}:{}", kind.name()).as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&whole.as_ref()[..16]);
    RetentionId::from_uuid(Builder::from_custom_bytes(beginning).into_uuid())
}

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to what an organisation says about a kind.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "retention")]
pub enum RetentionEvent {
    /// Is another from now on.
    #[event("retention_changed")]
    Changed {
        /// Whose it is.
        organization: OrganizationId,
        /// Of which kind.
        kind: RetentionKind,
        /// Days; none: what the installation says.
        days: Option<i32>,
    },
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about the next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retention {
    organization: Option<OrganizationId>,
    days: Option<i32>,
}

impl Aggregate for Retention {
    type Kind = kinds::RetentionId;
    type Event = RetentionEvent;
    const NOUN: &'static str = "retention";

    fn evolve(&mut self, event: &RetentionEvent) {
        match event {
            RetentionEvent::Changed { organization, kind: _, days } => {
                (self.organization, self.days) = (Some(*organization), *days);
            }
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Says for how long things of a kind are kept from now on.
pub struct ChangeRetention {
    /// What holds for the kind in this installation.
    pub rule: Rule,
    /// Days; none: what the installation says.
    pub days: Option<i32>,
}

impl Command for ChangeRetention {
    type Aggregate = Retention;
    const CREATES: bool = true;

    fn decide(&self, retention: &Retention, given: &Given<'_>) -> Decision<RetentionEvent> {
        if retention.days == self.days {
            return Ok(Outcome::nothing());
        }
        let Rule { kind, least, most, .. } = self.rule;
        if self.days.is_some_and(|days| days < least || days > most) {
            let message = format!("This installation allows {least} to {most} days.");
            return Err(Rejection::new(ErrorCode::Invalid, message).at("days"));
        }
        Ok(Outcome::events([RetentionEvent::Changed { organization: given.organization, kind, days: self.days }]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, uuid};

    fn rule(least: i32, most: i32) -> Rule {
        Rules::default().within(least, most).of(RetentionKind::Sessions).unwrap()
    }

    #[test]
    fn every_kind_is_in_the_table_once_and_has_an_id_of_its_own() {
        let kinds: Vec<_> = Rules::default().iter().map(|rule| rule.kind).collect();
        let organization = Desk::new().organization;
        let ids: BTreeSet<_> = kinds.iter().map(|kind| retention_id(organization, *kind)).collect();
        assert_eq!(ids.len(), kinds.len());
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(Rules::default().of(kind).unwrap().kind, kind);
        }
    }

    #[test]
    fn the_same_again_writes_nothing_and_what_is_taken_back_is_the_installations() {
        let (mut desk, mut retention) = (Desk::new(), Retention::default());
        let change = |days| ChangeRetention { rule: rule(7, 100), days };
        assert_eq!(desk.done(uuid(5), &mut retention, &change(None)), []);
        assert_eq!(desk.done(uuid(5), &mut retention, &change(Some(7))).len(), 1);
        assert_eq!(desk.done(uuid(5), &mut retention, &change(Some(7))), []);
        assert_eq!(desk.refused(uuid(5), &retention, &change(Some(6))), (ErrorCode::Invalid, "days"));
        assert_eq!(desk.refused(uuid(5), &retention, &change(Some(101))), (ErrorCode::Invalid, "days"));
        assert_eq!(desk.done(uuid(5), &mut retention, &change(None)).len(), 1);
        assert_eq!(rule(7, 100).applies(retention.days), Some(90));
    }

    proptest! {
        #[test]
        fn whatever_is_said_what_applies_is_allowed(
            least in 1i32..100, more in 0i32..100, said in prop::option::of(any::<i32>()), asked in any::<i32>(),
        ) {
            let rule = rule(least, least + more);
            let applies = rule.applies(said).unwrap();
            prop_assert!(said.is_none() || (rule.least..=rule.most).contains(&applies));
            let change = ChangeRetention { rule, days: Some(asked) };
            let written = Desk::new().execute(uuid(5), &mut Retention::default(), &change);
            prop_assert_eq!(written.is_ok(), rule.applies(Some(asked)) == Some(asked));
        }
    }
}
