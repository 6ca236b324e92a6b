//! What the tests of the aggregates stand on: a desk at which commands are decided the way the engine does it, with
//! facts in memory, and every event sent through the log's bytes and back.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use oriel_kernel::{
    Actor, Aggregate, Blinder, Command, Decision, ErrorCode, Event, Fact, Facts, Given, Grant, Id, MemberId,
    OrganizationId, Permissions, PersonalField, PersonalVisitor, Rejection, Timestamp, UserId, Visible,
};
use uuid::Uuid;

type EventOf<C> = <<C as Command>::Aggregate as Aggregate>::Event;

/// Hashes that nobody could mistake for what was hashed.
pub struct TestBlinder;

impl Blinder for TestBlinder {
    fn blind(&self, purpose: &str, value: &str) -> String {
        let mut hasher = DefaultHasher::new();
        (purpose, value).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

pub fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub fn user(number: u128) -> UserId {
    UserId::from_uuid(uuid(number))
}

pub fn member(number: u128) -> MemberId {
    MemberId::from_uuid(uuid(number))
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

/// Where commands are decided.
pub struct Desk {
    pub now: Timestamp,
    pub actor: Actor,
    pub organization: OrganizationId,
    pub grant: Grant,
    /// All that the actor may.
    pub permissions: Permissions,
    /// Whose key it is, when a key acts.
    pub owner: Option<MemberId>,
    pub visible: Visible,
    pub facts: BTreeSet<Fact>,
}

impl Desk {
    /// The system acts, in organisation 1, and may and sees everything.
    pub fn new() -> Self {
        Self {
            now: at(0),
            actor: Actor::System,
            organization: Id::from_uuid(uuid(1)),
            grant: Grant::All,
            permissions: Permissions::everything(),
            owner: None,
            visible: Visible::All,
            facts: BTreeSet::new(),
        }
    }

    /// The decision alone: no facts, no engine.
    pub fn decide<C: Command>(&self, id: Uuid, state: &C::Aggregate, command: &C) -> Decision<EventOf<C>> {
        command.decide(
            state,
            &Given {
                id,
                now: self.now,
                actor: self.actor,
                member: if let Actor::Member(member) = self.actor { Some(member) } else { self.owner },
                organization: self.organization,
                grant: self.grant,
                permissions: &self.permissions,
                visible: &self.visible,
                blinder: &TestBlinder,
            },
        )
    }

    /// What the engine does with a command: is it there and seen, the decision, the facts, the new state.
    pub fn execute<C: Command>(
        &mut self,
        id: Uuid,
        state: &mut C::Aggregate,
        command: &C,
    ) -> Result<Vec<EventOf<C>>, Rejection>
    where
        EventOf<C>: PartialEq,
    {
        let tenant = state.tenant();
        let here = tenant.is_some_and(|tenant| tenant == self.organization || tenant.is_absent());
        let seen = state.scope().is_none_or(|scope| self.visible.sees(scope));
        let found = here && seen;
        if !C::CREATES && !found {
            return Err(Rejection::not_found(C::Aggregate::NOUN));
        }
        let outcome = self.decide(id, state, command)?;
        if outcome.events.is_empty() {
            assert!(outcome.facts.is_empty(), "facts without an event are never written");
            return Ok(Vec::new());
        }
        self.settle(outcome.facts)?;
        for event in &outcome.events {
            assert_survives_the_log(event);
            state.evolve(event);
        }
        assert!(state.tenant().is_some());
        Ok(outcome.events)
    }

    /// Executes what has to succeed.
    pub fn done<C: Command>(&mut self, id: Uuid, state: &mut C::Aggregate, command: &C) -> Vec<EventOf<C>>
    where
        EventOf<C>: PartialEq,
    {
        self.execute(id, state, command).unwrap()
    }

    /// Executes what has to be refused, and says how and about which field.
    pub fn refused<C: Command>(&mut self, id: Uuid, state: &C::Aggregate, command: &C) -> (ErrorCode, &'static str)
    where
        EventOf<C>: PartialEq,
    {
        let rejection = self.execute(id, &mut state.clone(), command).unwrap_err();
        assert!(rejection.message.ends_with('.'), "not a sentence: {}", rejection.message);
        (rejection.code, rejection.field)
    }

    fn settle(&mut self, facts: Facts) -> Result<(), Rejection> {
        let mut after = self.facts.clone();
        for fact in &facts.release {
            after.remove(fact);
        }
        for (fact, otherwise) in facts.require {
            if !self.facts.contains(&fact) {
                return Err(otherwise);
            }
        }
        for (fact, otherwise) in facts.claim {
            if !after.insert(fact) {
                return Err(otherwise);
            }
        }
        self.facts = after;
        Ok(())
    }
}

struct Sealer {
    met: usize,
}

impl PersonalVisitor for Sealer {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        self.met += 1;
        let mut bytes = field.clear_bytes().unwrap().unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
        field.set_sealed(bytes);
    }
}

struct Opener;

impl PersonalVisitor for Opener {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        let mut bytes = field.sealed_bytes().unwrap().to_vec();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
        field.set_clear(&bytes).unwrap();
    }
}

/// Sealed, written, read and opened it is what it was; unsealed personal data is never written.
pub fn assert_survives_the_log<E: Event + PartialEq>(event: &E) {
    let mut sealed = event.clone();
    let mut sealer = Sealer { met: 0 };
    sealed.visit_personal(&mut sealer);
    assert_eq!(event.encode().is_err(), sealer.met > 0, "{event:?}");
    let bytes = sealed.encode().unwrap();
    let mut read = E::decode(event.event_type(), event.type_version(), &bytes).unwrap();
    assert_eq!(read, sealed);
    read.visit_personal(&mut Opener);
    assert_eq!(&read, event);
}
