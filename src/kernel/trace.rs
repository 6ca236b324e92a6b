//! Which trace something belongs to, so that a request, the command in it, what its events lead to, and what other
//! servers are asked meanwhile are told as one story (W3C Trace Context).
//!
//! The id of a trace is the correlation of its events, and the span of an event follows from the event's id. So what
//! is done because of an event, on whatever node and however much later, finds its place in the trace, with nothing
//! stored for that.
//!
//! Nothing here records anything. Who does is told once, when the process starts; until then all of this does nothing.

use std::fmt;
use std::sync::OnceLock;

use tracing::Span;
use uuid::Uuid;

use crate::{EventId, Recorded};

/// The target of spans that are recorded. At DEBUG, they are for who records traces; at INFO, the log names them too.
pub const TARGET: &str = "oriel::trace";

/// A place in a trace: a span of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The id of the trace. Not nil.
    pub trace: Uuid,
    /// The id of the span; 0 where there is none yet.
    pub span: u64,
    /// What is said of the trace: bit 0, that it is recorded.
    pub flags: u8,
}

impl Place {
    /// The trace is recorded.
    pub const SAMPLED: u8 = 0b01;

    /// The beginning of the trace with this id.
    pub fn start(trace: Uuid) -> Self {
        Self { trace, span: 0, flags: 0 }
    }

    /// That of an event.
    pub fn of(event: &Recorded) -> Self {
        Self { trace: event.correlation, span: span_of(event.id), flags: 0 }
    }
}

/// As the header `traceparent` says it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{:016x}-{:02x}", self.trace.simple(), self.span, self.flags)
    }
}

/// The id of the span that is this event: the half of its id that is random.
pub fn span_of(event: EventId) -> u64 {
    event.uuid().as_u64_pair().1
}

/// Who knows, and perhaps records, to which trace spans belong.
pub trait Tracer: Send + Sync {
    /// This span comes after that place.
    fn follow(&self, span: &Span, place: Place);
    /// This span has to do with that place, too.
    fn link(&self, span: &Span, place: Place);
    /// This span is the one of an event.
    fn identify(&self, span: &Span, event: EventId);
    /// Where the current span is, for whom it asks.
    fn current(&self) -> Option<Place>;
}

static TRACER: OnceLock<Box<dyn Tracer>> = OnceLock::new();

/// Says who knows. Only the first one counts.
pub fn install(tracer: Box<dyn Tracer>) {
    let _ = TRACER.set(tracer);
}

fn with(span: &Span, tell: impl FnOnce(&dyn Tracer)) {
    if !span.is_disabled()
        && let Some(tracer) = TRACER.get()
    {
        tell(tracer.as_ref());
    }
}

/// This span comes after that place; without this, after the span that it was made in.
pub fn follow(span: &Span, place: Place) {
    with(span, |tracer| tracer.follow(span, place));
}

/// This span has to do with that place, too.
pub fn link(span: &Span, place: Place) {
    with(span, |tracer| tracer.link(span, place));
}

/// Records that an event was written, in the current span.
pub fn event(event: &Recorded) {
    let span = tracing::debug_span!(
        target: TARGET,
        "event",
        otel.name = event.event.event_type(),
        otel.kind = "producer",
        position = event.position.number(),
        subject = %event.subject,
    );
    with(&span, |tracer| tracer.identify(&span, event.id));
}

/// What the current work belongs to, to be said to whom it asks.
pub fn current() -> Option<Place> {
    TRACER.get()?.current()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_said_as_the_specification_wants_it() {
        let trace = Uuid::from_u128(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        let place = Place { trace, span: 0x00f0_67aa_0ba9_02b7, flags: Place::SAMPLED };
        assert_eq!(place.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    }

    #[test]
    fn each_event_is_a_span_of_its_own() {
        let event = EventId::from_uuid(Uuid::from_u128(0x0199_c2d1_7a5e_7c11_8000_0123_4567_89ab));
        assert_eq!(span_of(event), 0x8000_0123_4567_89ab);
    }
}
