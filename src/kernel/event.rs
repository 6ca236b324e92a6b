//! Events: what happened, for ever.
//!
//! An event's type name and version are data: renaming Rust changes nothing. An old version is decoded for ever, by
//! upcasting its JSON step by step to today's.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::{Actor, EventId, OrganizationId, PersonalVisitor, Position, Timestamp};

/// What an event does by itself, whatever the projections make of it. The engine does it in the transaction of the
/// commit, and in every replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect<'a> {
    /// The data key with the id of the event's subject, a person's or an organisation's, is destroyed. What was sealed
    /// with it is erased, and nothing more is written that needs it.
    DestroysKey,
    /// These rows of a read model go, at most [`Effect::MOST`].
    RemovesRows {
        /// Its table.
        read_model: &'a str,
        /// Which rows.
        ids: &'a [Uuid],
    },
    /// What was made of the events of these aggregates, at most [`Effect::MOST`], is made anew: a key was destroyed
    /// with which some of them are sealed.
    MakesAnew {
        /// Which aggregates.
        subjects: &'a [Uuid],
    },
}

impl Effect<'_> {
    /// How many rows, or aggregates, one event can name.
    pub const MOST: usize = 50;
}

/// The events of one aggregate. Derived: `#[derive(Event)] #[event(stream = "project")]`.
pub trait Event: Clone + fmt::Debug + Send + Sync + Sized + 'static {
    /// The name of the aggregate whose streams hold these events.
    const STREAM: &'static str;
    /// Every event type with the version that is written today.
    const TYPES: &'static [(&'static str, i16)];

    /// The stable name of this event's type, such as `project_created`.
    fn event_type(&self) -> &'static str;
    /// The version of this type that is written today, from 1.
    fn type_version(&self) -> i16;
    /// The payload as JSON. Fails when personal data is still clear.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// The event from a payload of any version that was ever written.
    fn decode(event_type: &str, type_version: i16, payload: &[u8]) -> Result<Self, EventDecodeError>;
    /// The payload as JSON for somebody who may see it: personal data clear, or null where it was forgotten.
    fn shown(&self) -> Result<serde_json::Value, serde_json::Error>;
    /// Shows every personal value to the visitor.
    fn visit_personal(&mut self, visitor: &mut dyn PersonalVisitor);
    /// What it does by itself. Derived from `#[event(stream = "...", effect = function)]`.
    fn effect(&self) -> Option<Effect<'_>> {
        None
    }
}

/// A stored event that this program cannot read.
#[derive(Debug, thiserror::Error)]
pub enum EventDecodeError {
    /// Written by a newer release, or by none.
    #[error("no event type {event_type} version {type_version} is known to this release")]
    Unknown {
        /// The stored type.
        event_type: String,
        /// The stored version.
        type_version: i16,
    },
    /// The payload is not what the type says.
    #[error("the payload of {event_type} version {type_version} does not decode: {source}")]
    Payload {
        /// The stored type.
        event_type: String,
        /// The stored version.
        type_version: i16,
        /// What the decoder says.
        source: serde_json::Error,
    },
}

/// An event of any aggregate.
pub trait AnyEvent: fmt::Debug + Send + Sync + 'static {
    /// See [`Event::STREAM`].
    fn stream(&self) -> &'static str;
    /// See [`Event::event_type`].
    fn event_type(&self) -> &'static str;
    /// See [`Event::type_version`].
    fn type_version(&self) -> i16;
    /// See [`Event::encode`].
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// See [`Event::shown`].
    fn shown(&self) -> Result<serde_json::Value, serde_json::Error>;
    /// See [`Event::visit_personal`].
    fn visit_personal(&mut self, visitor: &mut dyn PersonalVisitor);
    /// See [`Event::effect`].
    fn effect(&self) -> Option<Effect<'_>>;
    /// A copy (the log's copy is sealed, the projections' copy is not).
    fn clone_boxed(&self) -> Box<dyn AnyEvent>;
    /// To downcast to the aggregate's own event type.
    fn as_any(&self) -> &dyn Any;
}

impl<E: Event> AnyEvent for E {
    fn stream(&self) -> &'static str {
        E::STREAM
    }
    fn event_type(&self) -> &'static str {
        Event::event_type(self)
    }
    fn type_version(&self) -> i16 {
        Event::type_version(self)
    }
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        Event::encode(self)
    }
    fn shown(&self) -> Result<serde_json::Value, serde_json::Error> {
        Event::shown(self)
    }
    fn visit_personal(&mut self, visitor: &mut dyn PersonalVisitor) {
        Event::visit_personal(self, visitor);
    }
    fn effect(&self) -> Option<Effect<'_>> {
        Event::effect(self)
    }
    fn clone_boxed(&self) -> Box<dyn AnyEvent> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// From an event's type, its version and its payload to the event.
pub type Decode = fn(&str, i16, &[u8]) -> Result<Box<dyn AnyEvent>, EventDecodeError>;

/// Reads the events of one aggregate from the log.
#[derive(Clone, Copy)]
pub struct EventDecoder {
    /// See [`Event::STREAM`].
    pub stream: &'static str,
    /// The prefix of the aggregate's ids.
    pub id_prefix: &'static str,
    /// See [`Event::TYPES`].
    pub types: &'static [(&'static str, i16)],
    /// See [`Event::decode`].
    pub decode: Decode,
}

impl EventDecoder {
    /// The decoder of an aggregate's events.
    pub const fn of<A: crate::Aggregate>() -> Self {
        Self {
            stream: <A::Event as Event>::STREAM,
            id_prefix: <A::Kind as crate::IdKind>::PREFIX,
            types: <A::Event as Event>::TYPES,
            decode: |event_type, version, payload| {
                A::Event::decode(event_type, version, payload).map(|event| Box::new(event) as Box<dyn AnyEvent>)
            },
        }
    }
}

/// An event with its place in the log.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its place in the log of the installation.
    pub position: Position,
    /// Its own id.
    pub id: EventId,
    /// The organisation that it belongs to; [`OrganizationId::ABSENT`](crate::Id::ABSENT) for the installation.
    pub organization: OrganizationId,
    /// Its place in the log of its organisation: contiguous from 1.
    pub sequence: i64,
    /// The aggregate that it happened to.
    pub subject: Uuid,
    /// The aggregate's version after it: contiguous from 1.
    pub version: i32,
    /// Who caused it.
    pub actor: Actor,
    /// When it was decided.
    pub at: Timestamp,
    /// What belongs together: the first command of a chain.
    pub correlation: Uuid,
    /// The event or command that led to it.
    pub causation: Option<Uuid>,
    /// What happened.
    pub event: Arc<dyn AnyEvent>,
}

impl Recorded {
    /// What happened, if it is an event of this aggregate.
    pub fn event_as<E: Event>(&self) -> Option<&E> {
        self.event.as_any().downcast_ref()
    }
}
