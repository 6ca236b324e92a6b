//! The hash chain of an organisation's events.
//!
//! The record of an event is its envelope and its sealed payload: the fields in the order of [`Record`], each as the
//! number of its bytes (8 bytes, big-endian) and its bytes; integers are big-endian, ids the 16 bytes of their UUID, the
//! time microseconds since 1970. A link is the SHA-256 over the link before it, written like a field, and the record;
//! before the first one stands an empty field. Whoever has the records and the last link of a chain can check all of
//! it without us, and without being able to read what is sealed.
//!
//! Another chain than that of events is made of the same parts: [`record`], [`fields`] and [`link`].

use aws_lc_rs::digest::{Context, SHA256};
use oriel_kernel::{Recorded, Timestamp};
use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;

/// What a link covers besides the payload, as the log's table holds it.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// The event.
    pub id: Uuid,
    /// Whose it is.
    pub organization: Uuid,
    /// Its place in the log of the organisation.
    pub sequence: i64,
    /// The kind of aggregate that it happened to.
    pub stream: &'a str,
    /// What it happened to.
    pub subject: Uuid,
    /// The version of that after it.
    pub version: i32,
    /// Which kind of thing happened.
    pub event_type: &'a str,
    /// The version that was written, which today's form of the event may have left behind.
    pub type_version: i16,
    /// Who caused it: which kind of author, and which one.
    pub actor: (i16, Uuid),
    /// When it was decided.
    pub at: Timestamp,
    /// What belongs together.
    pub correlation: Uuid,
    /// The event that led to it.
    pub causation: Option<Uuid>,
}

impl<'a> Envelope<'a> {
    /// Of an event that is being written.
    pub(crate) fn of(event: &'a Recorded) -> Self {
        Self {
            id: event.id.uuid(),
            organization: event.organization.uuid(),
            sequence: event.sequence,
            stream: event.event.stream(),
            subject: event.subject,
            version: event.version,
            event_type: event.event.event_type(),
            type_version: event.event.type_version(),
            actor: event.actor.to_columns(),
            at: event.at,
            correlation: event.correlation,
            causation: event.causation,
        }
    }

    /// Of a row of the log; the two texts are its `stream` and its `type`.
    pub(crate) fn stored(row: &QueryResult, (stream, event_type): (&'a str, &'a str)) -> Result<Self, DbErr> {
        Ok(Self {
            id: row.try_get("", "id")?,
            organization: row.try_get("", "organization_id")?,
            sequence: row.try_get("", "sequence")?,
            stream,
            subject: row.try_get("", "subject_id")?,
            version: row.try_get("", "version")?,
            event_type,
            type_version: row.try_get("", "type_version")?,
            actor: (row.try_get("", "actor_kind")?, row.try_get("", "actor_id")?),
            at: row.try_get("", "at")?,
            correlation: row.try_get("", "correlation_id")?,
            causation: row.try_get("", "causation_id")?,
        })
    }

    /// The record of an event with this sealed payload.
    pub fn record(&self, data: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(256 + data.len());
        self.fields(data, |bytes| {
            record.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            record.extend_from_slice(bytes);
        });
        record
    }

    fn fields(&self, data: &[u8], mut field: impl FnMut(&[u8])) {
        field(self.id.as_bytes());
        field(self.organization.as_bytes());
        field(&self.sequence.to_be_bytes());
        field(self.stream.as_bytes());
        field(self.subject.as_bytes());
        field(&self.version.to_be_bytes());
        field(self.event_type.as_bytes());
        field(&self.type_version.to_be_bytes());
        field(&self.actor.0.to_be_bytes());
        field(self.actor.1.as_bytes());
        field(&self.at.timestamp_micros().to_be_bytes());
        field(self.correlation.as_bytes());
        field(self.causation.unwrap_or(Uuid::nil()).as_bytes());
        field(data);
    }
}

/// The next link after `before`, of an event with this sealed payload.
pub(crate) fn chain(before: &[u8], event: &Envelope<'_>, data: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    let mut field = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    field(before);
    event.fields(data, field);
    context.finish().as_ref().to_vec()
}

/// A record, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The event.
    pub id: Uuid,
    /// Whose it is.
    pub organization: Uuid,
    /// Its place in the log of the organisation.
    pub sequence: i64,
    /// The kind of aggregate that it happened to.
    pub stream: String,
    /// What it happened to.
    pub subject: Uuid,
    /// The version of that after it.
    pub version: i32,
    /// Which kind of thing happened.
    pub event_type: String,
    /// The version of the payload's form.
    pub type_version: i16,
    /// Who caused it.
    pub actor: (i16, Uuid),
    /// When it was decided, in microseconds since 1970.
    pub at: i64,
    /// What belongs together.
    pub correlation: Uuid,
    /// The event that led to it; nil when a request did.
    pub causation: Uuid,
    /// The sealed payload.
    pub data: Vec<u8>,
}

impl Record {
    /// Reads a record; `None` when these bytes are none.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        let record = Self {
            id: fixed(rest).map(Uuid::from_bytes)?,
            organization: fixed(rest).map(Uuid::from_bytes)?,
            sequence: fixed(rest).map(i64::from_be_bytes)?,
            stream: String::from_utf8(field(rest)?.to_vec()).ok()?,
            subject: fixed(rest).map(Uuid::from_bytes)?,
            version: fixed(rest).map(i32::from_be_bytes)?,
            event_type: String::from_utf8(field(rest)?.to_vec()).ok()?,
            type_version: fixed(rest).map(i16::from_be_bytes)?,
            actor: (fixed(rest).map(i16::from_be_bytes)?, fixed(rest).map(Uuid::from_bytes)?),
            at: fixed(rest).map(i64::from_be_bytes)?,
            correlation: fixed(rest).map(Uuid::from_bytes)?,
            causation: fixed(rest).map(Uuid::from_bytes)?,
            data: field(rest)?.to_vec(),
        };
        rest.is_empty().then_some(record)
    }
}

/// The link of what has this record, after the link `before` (empty before the first).
pub fn link(before: &[u8], record: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(&(before.len() as u64).to_be_bytes());
    context.update(before);
    context.update(record);
    context.finish().as_ref().to_vec()
}

/// The record that has these fields.
pub fn record(fields: &[&[u8]]) -> Vec<u8> {
    let mut record = Vec::with_capacity(fields.iter().map(|field| 8 + field.len()).sum());
    for field in fields {
        record.extend_from_slice(&(field.len() as u64).to_be_bytes());
        record.extend_from_slice(field);
    }
    record
}

/// The fields of a record; `None` when these bytes are no record of so many.
pub fn fields<const N: usize>(mut record: &[u8]) -> Option<[&[u8]; N]> {
    let mut fields = [[].as_slice(); N];
    for one in &mut fields {
        *one = field(&mut record)?;
    }
    record.is_empty().then_some(fields)
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (field, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    field(rest)?.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_says_what_the_link_covers(
            ids in any::<[u128; 6]>(), sequence: i64, version: i32, form: i16, kind: i16, at in 0_i64..4_000_000_000_000_000,
            stream in "[a-z]{0,12}", event_type in "\\PC{0,12}", caused: bool, data: Vec<u8>, before: Vec<u8>, cut: usize,
        ) {
            let [id, organization, subject, actor, correlation, causation] = ids.map(Uuid::from_u128);
            let causation = caused.then_some(causation);
            let envelope = Envelope {
                id, organization, sequence, stream: &stream, subject, version, event_type: &event_type,
                type_version: form, actor: (kind, actor), at: Timestamp::from_timestamp_micros(at).unwrap(), correlation,
                causation,
            };
            let record = envelope.record(&data);
            prop_assert_eq!(link(&before, &record), chain(&before, &envelope, &data));
            let causation = causation.unwrap_or(Uuid::nil());
            let read = Record {
                id, organization, sequence, stream: stream.clone(), subject, version, event_type: event_type.clone(),
                type_version: form, actor: (kind, actor), at, correlation, causation, data,
            };
            prop_assert_eq!(Record::parse(&record), Some(read));
            prop_assert_eq!(Record::parse(&record[..cut % record.len()]), None);
            let fields = fields::<14>(&record).unwrap();
            prop_assert_eq!(super::record(&fields), record);
        }
    }
}
