//! Which trace a request belongs to, as W3C Trace Context says it: <https://www.w3.org/TR/trace-context-2/>.
//!
//! Invariant: a `traceparent` that does not follow that text is as good as none; the request then begins a trace. Its
//! id is that of the request, so that either finds the same line of the log.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use oriel_kernel::trace::Place;
use uuid::Uuid;

/// The header that says which trace a request belongs to.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add to it; not read here.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The header that tells the caller in which trace the request was done, and by which span of it.
pub const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Length of `00-<trace>-<parent>-<flags>`.
const LENGTH: usize = 55;
/// The trace's id is random.
const RANDOM: u8 = 0b10;

/// A request's place in a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    id: String,
    place: Place,
}

impl Trace {
    /// The trace that the headers name, else one of this id.
    pub fn of(headers: &HeaderMap, request: Uuid) -> Self {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let first = given.next().and_then(|value| value.to_str().ok());
        let named = first.filter(|_| given.next().is_none()).and_then(parse);
        named.unwrap_or_else(|| Self { id: request.simple().to_string(), place: Place::start(request) })
    }

    /// Its id: 32 digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it comes after: the caller's span, or nothing yet.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What the caller is told: the same trace, and the span that was recorded here, else a new id.
    pub fn response(&self, recorded: Option<Place>) -> Option<HeaderValue> {
        let own = || Place { span: Uuid::new_v4().as_u64_pair().1, ..self.place };
        HeaderValue::from_str(&recorded.unwrap_or_else(own).to_string()).ok()
    }
}

/// Reads version 00, and of later versions what they have in common with it.
fn parse(text: &str) -> Option<Trace> {
    let head = text.get(..LENGTH)?;
    let mut parts = head.split('-');
    let mut part = |length: usize| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let (version, id, parent, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let is_zero = |digits: &str| digits.bytes().all(|byte| byte == b'0');
    let ends_well = match version {
        "ff" => false,
        "00" => text.len() == LENGTH,
        _ => text.len() == LENGTH || text.as_bytes()[LENGTH] == b'-',
    };
    let flags = u8::from_str_radix(flags, 16).ok()? & (Place::SAMPLED | RANDOM);
    let span = u64::from_str_radix(parent, 16).ok()?;
    let place = Place { trace: Uuid::try_parse(id).ok()?, span, flags };
    (ends_well && !is_zero(id) && !is_zero(parent)).then(|| Trace { id: id.to_owned(), place })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn the_header_of_the_specification_is_read_and_answered() {
        let trace = parse(&format!("00-{ID}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!((trace.id(), trace.place().span, trace.place().flags), (ID, 0x00f0_67aa_0ba9_02b7, 1));
        let (one, other) = (trace.response(None).unwrap(), trace.response(None).unwrap());
        let said = one.to_str().unwrap();
        assert!(said.starts_with(&format!("00-{ID}-")) && said.ends_with("-01") && said.len() == LENGTH, "{said}");
        assert_ne!(one, other, "each is a span of its own");
        assert_eq!(parse(said).unwrap().id(), ID, "what is said can be sent on");
        let recorded = Place { span: 9, ..trace.place() };
        assert_eq!(trace.response(Some(recorded)).unwrap(), format!("00-{ID}-0000000000000009-01"));
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        for later in ["cc", "01", "fe"] {
            assert_eq!(parse(&format!("{later}-{ID}-00f067aa0ba902b7-ff")).unwrap().place().flags, 3);
            assert!(parse(&format!("{later}-{ID}-00f067aa0ba902b7-01-what-comes")).is_some());
            assert!(parse(&format!("{later}-{ID}-00f067aa0ba902b7-01.what")).is_none());
        }
    }

    #[test]
    fn what_does_not_follow_the_specification_is_none() {
        let zero = "0".repeat(32);
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("00-{ID}-00f067aa0ba902b7-01-more"),
            format!("00-{ID}-00f067aa0ba902b7-0"),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{zero}-00f067aa0ba902b7-01"),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7--01", &ID[1..]),
            format!("0x-{ID}-00f067aa0ba902b7-01"),
            format!("00-{}ä-00f067aa0ba902b7-01", &ID[2..]),
            format!(" 00-{ID}-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_headers_are_as_good_as_none() {
        let request = Uuid::now_v7();
        let value = HeaderValue::from_str(&format!("00-{ID}-00f067aa0ba902b7-00")).unwrap();
        let one = HeaderMap::from_iter([(TRACEPARENT, value.clone())]);
        assert_eq!(Trace::of(&one, request).id(), ID);
        let mut two = one;
        two.append(TRACEPARENT, value);
        assert_eq!(Trace::of(&two, request).id(), request.simple().to_string());
    }
}
