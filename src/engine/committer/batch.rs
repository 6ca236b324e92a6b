//! A batch while it is judged, command by command, and what its survivors write into the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oriel_kernel::{Effect, ErrorCode, Fact, Observed, Position, Recorded, Rejection, Timestamp};
use sea_orm::{ColumnType, DbBackend, DbErr, Value};
use uuid::Uuid;

use super::ground::Ground;
use super::{Proposal, Verdict};
use crate::bulk::{Bulk, OnConflict, Writes};
use crate::chain::{Envelope, chain};
use crate::feed::touched_json;
use crate::read::Dependency;

/// A batch while it is judged: what is known, with the survivors so far on top.
pub(super) struct Batch {
    pub(super) ground: Ground,
    pub(super) events: Vec<(Arc<Recorded>, Vec<u8>)>,
    hashes: Vec<Vec<u8>>,
    commands: Vec<(Uuid, Position, Uuid, [u8; 32], Timestamp)>,
    /// Facts that the batch changed: whether they hold now, and whether they held before.
    facts: BTreeMap<(String, String), (bool, bool)>,
}

impl Batch {
    pub(super) fn new(ground: Ground) -> Self {
        Self { ground, events: Vec::new(), hashes: Vec::new(), commands: Vec::new(), facts: BTreeMap::new() }
    }

    pub(super) fn judge(&mut self, proposal: &Proposal) -> Verdict {
        if let Some((position, subject, input_hash)) = self.ground.commands.get(&proposal.command) {
            return Verdict::Repeated { position: *position, subject: *subject, input_hash: input_hash.clone() };
        }
        if proposal.keys.iter().any(|key| self.ground.destroyed.contains(key)) {
            return Verdict::Rejected(Rejection::new(ErrorCode::NotFound, "What this is about was deleted for good."));
        }
        let version = |id: &Uuid| self.ground.versions.get(id).copied().unwrap_or(0);
        let Observed { versions, facts } = &proposal.observed;
        if versions.iter().any(|(id, observed)| version(id) != *observed)
            || facts.iter().any(|fact| !self.holds(&key(fact)))
        {
            return Verdict::Stale;
        }
        if let Some(append) = proposal.appends.iter().find(|append| version(&append.subject) != append.expected) {
            return Verdict::Conflict { subject: append.subject };
        }
        let facts = match self.judge_facts(proposal) {
            Ok(facts) => facts,
            Err(rejection) => return Verdict::Rejected(rejection),
        };
        for (fact, holds) in facts {
            let held = self.ground.facts.contains(&fact);
            self.facts.entry(fact).or_insert((holds, held)).0 = holds;
        }
        let events = self.append(proposal);
        let position = self.ground.head;
        self.ground.commands.insert(proposal.command, (position, proposal.subject, proposal.input_hash.to_vec()));
        self.commands.push((proposal.command, position, proposal.subject, proposal.input_hash, proposal.at));
        Verdict::Committed { position, events }
    }

    /// Whether a fact holds, after the survivors so far.
    fn holds(&self, key: &(String, String)) -> bool {
        let in_batch = self.facts.get(key).map(|(holds, _)| *holds);
        in_batch.unwrap_or_else(|| self.ground.facts.contains(key))
    }

    /// In the order of the command's parts: what is required, then what is released, then what is claimed.
    fn judge_facts(&self, proposal: &Proposal) -> Result<BTreeMap<(String, String), bool>, Rejection> {
        let mut changed: BTreeMap<(String, String), bool> = BTreeMap::new();
        for facts in proposal.appends.iter().map(|append| &append.facts) {
            let holds = |changed: &BTreeMap<(String, String), bool>, key: &(String, String)| {
                changed.get(key).copied().unwrap_or_else(|| self.holds(key))
            };
            for (fact, otherwise) in &facts.require {
                if !holds(&changed, &key(fact)) {
                    return Err(otherwise.clone());
                }
            }
            for fact in &facts.release {
                changed.insert(key(fact), false);
            }
            for (fact, otherwise) in &facts.claim {
                if holds(&changed, &key(fact)) {
                    return Err(otherwise.clone());
                }
                changed.insert(key(fact), true);
            }
        }
        Ok(changed)
    }

    fn append(&mut self, proposal: &Proposal) -> Vec<Arc<Recorded>> {
        let mut events = Vec::new();
        for append in &proposal.appends {
            for prepared in &append.events {
                self.ground.head = self.ground.head.next();
                let link = self.ground.chains.entry(append.tenant.uuid()).or_insert((0, Vec::new()));
                link.0 += 1;
                let version = self.ground.versions.entry(append.subject).or_insert(0);
                *version += 1;
                let event = Recorded {
                    position: self.ground.head,
                    id: prepared.id,
                    organization: append.tenant,
                    sequence: link.0,
                    subject: append.subject,
                    version: *version,
                    actor: proposal.actor,
                    at: proposal.at,
                    correlation: proposal.correlation,
                    causation: proposal.causation,
                    event: Arc::clone(&prepared.event),
                };
                link.1 = chain(&link.1, &Envelope::of(&event), &prepared.data);
                self.hashes.push(link.1.clone());
                if event.event.effect() == Some(Effect::DestroysKey) {
                    self.ground.destroyed.insert(event.subject);
                }
                let event = Arc::new(event);
                self.events.push((Arc::clone(&event), prepared.data.clone()));
                events.push(event);
            }
        }
        events
    }

    /// Whose data keys the survivors destroy.
    pub(super) fn destroyed(&self) -> impl Iterator<Item = Uuid> {
        let destroys = |event: &&(Arc<Recorded>, _)| event.0.event.effect() == Some(Effect::DestroysKey);
        let subjects: BTreeSet<Uuid> = self.events.iter().filter(destroys).map(|(event, _)| event.subject).collect();
        subjects.into_iter()
    }

    pub(super) fn log_writes(&self, backend: DbBackend) -> Result<Writes, DbErr> {
        let bytes = || ColumnType::VarBinary(sea_orm::sea_query::StringLen::None);
        let columns = [
            ("position", ColumnType::BigInteger),
            ("id", ColumnType::Uuid),
            ("organization_id", ColumnType::Uuid),
            ("sequence", ColumnType::BigInteger),
            ("stream", ColumnType::Text),
            ("subject_id", ColumnType::Uuid),
            ("version", ColumnType::Integer),
            ("type", ColumnType::Text),
            ("type_version", ColumnType::SmallInteger),
            ("actor_kind", ColumnType::SmallInteger),
            ("actor_id", ColumnType::Uuid),
            ("at", ColumnType::TimestampWithTimeZone),
            ("correlation_id", ColumnType::Uuid),
            ("causation_id", ColumnType::Uuid),
            ("data", bytes()),
            ("hash", bytes()),
        ];
        let mut events = Bulk::new(backend, "events", &columns, OnConflict::Fail);
        for ((event, data), hash) in self.events.iter().zip(&self.hashes) {
            let (actor_kind, actor_id) = event.actor.to_columns();
            events.row([
                Value::from(event.position.number()),
                event.id.uuid().into(),
                event.organization.uuid().into(),
                event.sequence.into(),
                event.event.stream().into(),
                event.subject.into(),
                event.version.into(),
                event.event.event_type().into(),
                event.event.type_version().into(),
                actor_kind.into(),
                actor_id.into(),
                event.at.into(),
                event.correlation.into(),
                event.causation.into(),
                data.clone().into(),
                hash.clone().into(),
            ])?;
        }
        let columns = [
            ("id", ColumnType::Uuid),
            ("input_hash", bytes()),
            ("position", ColumnType::BigInteger),
            ("subject_id", ColumnType::Uuid),
            ("at", ColumnType::TimestampWithTimeZone),
        ];
        let mut commands = Bulk::new(backend, "commands", &columns, OnConflict::Fail);
        for (id, position, subject, input_hash, at) in &self.commands {
            commands.row([
                Value::from(*id),
                input_hash.to_vec().into(),
                position.number().into(),
                (*subject).into(),
                (*at).into(),
            ])?;
        }
        let columns = [("scope", ColumnType::Text), ("value", ColumnType::Text)];
        let mut claimed = Bulk::new(backend, "facts", &columns, OnConflict::Fail);
        let mut released = Vec::new();
        for ((scope, value), change) in &self.facts {
            match change {
                (true, false) => claimed.row([Value::from(scope.as_str()), value.as_str().into()])?,
                (false, true) => released.push((scope.as_str(), value.as_str())),
                (true, true) | (false, false) => {}
            }
        }
        let mut writes = Writes::default();
        writes.insert(events);
        writes.insert(commands);
        writes.insert(claimed);
        writes.remove_facts(&released);
        Ok(writes)
    }
}

fn key(fact: &Fact) -> (String, String) {
    (fact.scope.clone(), fact.value.clone())
}

/// The row that says what the batch touched.
pub(super) fn changes_row(
    backend: DbBackend,
    first: Position,
    last: Position,
    touched: &BTreeSet<Dependency>,
) -> Result<Bulk, DbErr> {
    let columns = [
        ("position", ColumnType::BigInteger),
        ("first_position", ColumnType::BigInteger),
        ("touched", ColumnType::Text),
    ];
    let mut changes = Bulk::new(backend, "changes", &columns, OnConflict::Fail);
    changes.row([Value::from(last.number()), first.number().into(), touched_json(touched).into()])?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use oriel_kernel::{Actor, EventId, Facts, OrganizationId};
    use proptest::prelude::*;

    use super::super::{Append, Prepared};
    use super::*;
    use crate::suite::ThingEvent;

    fn fact(n: u8) -> Fact {
        Fact::new("test", "facts", n.to_string())
    }

    /// A command that appends one event, releases or claims a fact, and rests on a version and a fact.
    #[derive(Clone, Debug)]
    struct Step {
        subject: u8,
        changed: (u8, bool),
        version: (u8, i32),
        present: u8,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (subject, fact) = (0..4u8, 0..4u8);
        (subject.clone(), (fact.clone(), any::<bool>()), (subject, 0..4i32), fact)
            .prop_map(|(subject, changed, version, present)| Step { subject, changed, version, present })
    }

    proptest! {
        /// Survivors of the same batch count: a role that is taken away before a command in it refuses the command.
        #[test]
        fn a_command_rests_on_what_the_survivors_before_it_left(steps in prop::collection::vec(step(), 1..40)) {
            let mut batch = Batch::new(Ground::default());
            let (mut versions, mut facts) = (HashMap::<u8, i32>::new(), HashSet::<u8>::new());
            for (n, step) in steps.iter().enumerate() {
                let uuid = |n: u8| Uuid::from_u128(1 + u128::from(n));
                let expected = versions.get(&step.subject).copied().unwrap_or(0);
                let (changed, claimed) = step.changed;
                let otherwise = Rejection::conflict("It is there.");
                let facts_of_step = match claimed {
                    true => Facts { claim: vec![(fact(changed), otherwise)], ..Facts::default() },
                    false => Facts { release: vec![fact(changed)], ..Facts::default() },
                };
                let event = ThingEvent::Counted { by: 1 };
                let prepared = Prepared { id: EventId::from_uuid(uuid(0)), event: Arc::new(event), data: vec![] };
                let (on, version) = step.version;
                let proposal = Proposal {
                    command: Uuid::from_u128(1_000 + n as u128),
                    input_hash: [0; 32],
                    subject: uuid(step.subject),
                    organization: OrganizationId::ABSENT,
                    appends: vec![Append {
                        tenant: OrganizationId::ABSENT,
                        subject: uuid(step.subject),
                        expected,
                        events: vec![prepared],
                        facts: facts_of_step,
                    }],
                    observed: Observed { versions: vec![(uuid(on), version)], facts: vec![fact(step.present)] },
                    keys: BTreeSet::new(),
                    actor: Actor::System,
                    at: Timestamp::default(),
                    correlation: Uuid::nil(),
                    causation: None,
                    span: tracing::Span::none(),
                };
                // The first few have nothing to rest on yet.
                let rests = n > 4;
                let proposal = if rests { proposal } else { Proposal { observed: Observed::default(), ..proposal } };
                let current = versions.get(&on).copied().unwrap_or(0) == version && facts.contains(&step.present);
                match batch.judge(&proposal) {
                    Verdict::Stale => prop_assert!(rests && !current),
                    verdict => {
                        prop_assert!(!rests || current, "{verdict:?}");
                        prop_assert_eq!(matches!(verdict, Verdict::Rejected(_)), claimed && facts.contains(&changed));
                        if matches!(verdict, Verdict::Committed { .. }) {
                            *versions.entry(step.subject).or_default() += 1;
                            if claimed { facts.insert(changed) } else { facts.remove(&changed) };
                        }
                    }
                }
            }
        }
    }
}
