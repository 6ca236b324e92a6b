//! Aggregates and commands: what may happen.
//!
//! `decide(state, command) -> events + facts | rejection` and `evolve(state, event) -> state` are pure and total.
//! They may run again on a newer state, with the same ids and the same `now`.

use uuid::Uuid;

use crate::{
    Actor, Blinder, Event, Fact, Facts, Grant, IdKind, MemberId, OrganizationId, Permissions, Rejection, Timestamp,
    Visible,
};

/// The state that decides about the next command: what its events add up to, no more than decisions need.
pub trait Aggregate: Default + Clone + Send + Sync + 'static {
    /// What its ids look like.
    type Kind: IdKind;
    /// What can happen to it.
    type Event: Event;
    /// What a person calls it, such as `project`; used in "There is no such …".
    const NOUN: &'static str;

    /// The state after this event.
    fn evolve(&mut self, event: &Self::Event);

    /// The organisation that it belongs to: `None` before its first event,
    /// [`OrganizationId::ABSENT`](crate::Id::ABSENT) when it belongs to the installation.
    fn tenant(&self) -> Option<OrganizationId>;

    /// The part of the organisation (the project) that a viewer must see to know of it; `None` for all of it.
    fn scope(&self) -> Option<Uuid> {
        None
    }
}

/// Something that a person or a program wants done to one aggregate. Its fields are parsed types: what cannot be
/// valid cannot get this far.
pub trait Command: Send + Sync + 'static {
    /// What it is done to.
    type Aggregate: Aggregate;
    /// Whether it makes the aggregate. Otherwise the aggregate has to be there, in the viewer's organisation and
    /// sight; the engine checks that before it asks.
    const CREATES: bool = false;

    /// What happens, or why not. Pure.
    fn decide(&self, state: &Self::Aggregate, given: &Given<'_>) -> Decision<<Self::Aggregate as Aggregate>::Event>;
}

/// What a decision may look at besides the aggregate.
pub struct Given<'a> {
    /// The aggregate's id.
    pub id: Uuid,
    /// The moment of the command: the same when it is decided again.
    pub now: Timestamp,
    /// Who asks.
    pub actor: Actor,
    /// As whom they act: the member, or whose key it is. `None` for Oriel itself and outside an organisation.
    pub member: Option<MemberId>,
    /// The organisation that they act in.
    pub organization: OrganizationId,
    /// Whether their permission covers everything or only what is their own.
    pub grant: Grant,
    /// All that they may: nobody gives away more than that.
    pub permissions: &'a Permissions,
    /// Which parts of the organisation they see.
    pub visible: &'a Visible,
    /// Hashes of personal data, for unique facts.
    pub blinder: &'a dyn Blinder,
}

impl Given<'_> {
    /// Whether this is as whom they act: what is a member's own is their keys' own too.
    pub fn is(&self, member: MemberId) -> bool {
        self.member == Some(member)
    }
}

/// What `decide` answers.
pub type Decision<E> = Result<Outcome<E>, Rejection>;

/// What happens, and what it asks of the facts.
#[derive(Clone, Debug)]
pub struct Outcome<E> {
    /// In order. None: success, and nothing is written.
    pub events: Vec<E>,
    /// The rules between aggregates.
    pub facts: Facts,
}

impl<E> Outcome<E> {
    /// Nothing changes. That is a success.
    pub fn nothing() -> Self {
        Self::events([])
    }

    /// These things happen, in this order.
    pub fn events(events: impl IntoIterator<Item = E>) -> Self {
        Self { events: events.into_iter().collect(), facts: Facts::default() }
    }

    /// If nobody has claimed it yet; else the rejection.
    pub fn claim(mut self, fact: Fact, otherwise: Rejection) -> Self {
        self.facts.claim.push((fact, otherwise));
        self
    }

    /// If it holds; else the rejection.
    pub fn require(mut self, fact: Fact, otherwise: Rejection) -> Self {
        self.facts.require.push((fact, otherwise));
        self
    }

    /// It holds no longer.
    pub fn release(mut self, fact: Fact) -> Self {
        self.facts.release.push(fact);
        self
    }
}
