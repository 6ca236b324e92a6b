//! The hash chain of an organization's readings, by which it shows when one is changed, missing, foreign or elsewhere.
//!
//! There is one for an organization, whichever nodes its readings come from: a batch takes the row of the head as its
//! lock ([`super::heads`]), numbers what it has, and puts it at the end. A chain for each node would need no lock, but
//! nodes come and go with every start: nobody could tell one that was removed from one that never was. The lock is held
//! for a few statements a batch, five times a second and node at most, and no answer waits for it.
//!
//! The oldest rows go after their time. What is left begins after the anchor, the number and the link of the last that
//! went; and the removal is an entry of the chain itself, which says the same. So the beginning cannot be cut off
//! unseen, and a file of what is left can be checked by itself.

use oriel_engine::Database;
use oriel_engine::chain::{fields, link, record};
use oriel_engine::read::Tags;
use oriel_kernel::{OrganizationId, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, FromQueryResult, IsolationLevel, QueryOrder, QuerySelect, TransactionTrait,
};

use super::{Column, Entity, heads};

/// Rows that are read at once.
const ROWS: u64 = 1_000;

/// What a link covers. Its record is made of these fields, as [`oriel_engine::chain`] writes them; integers are
/// big-endian, ids the 16 bytes of their UUID, the time microseconds since 1970, words are parted by spaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which reading.
    pub id: Uuid,
    /// Where.
    pub organization: Uuid,
    /// Its place in the access log of the organization.
    pub sequence: i64,
    /// When, in microseconds since 1970.
    pub at: i64,
    /// What kind of thing was read.
    pub kind: String,
    /// Who: which kind of author, and which one.
    pub actor: (i16, Uuid),
    /// What the client calls its operation; empty when it does not.
    pub operation: String,
    /// The ids among its variables.
    pub ids: String,
    /// What was removed, when that is what it says.
    pub removed: Option<Removed>,
}

/// That the oldest rows were removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removed {
    /// The number of the last of them.
    pub through: i64,
    /// The link of that one.
    pub hash: Vec<u8>,
}

impl Entry {
    /// What the link covers.
    pub fn record(&self) -> Vec<u8> {
        let (through, hash) = self.removed.as_ref().map_or((0, [].as_slice()), |r| (r.through, &r.hash));
        record(&[
            self.id.as_bytes(),
            self.organization.as_bytes(),
            &self.sequence.to_be_bytes(),
            &self.at.to_be_bytes(),
            self.kind.as_bytes(),
            &self.actor.0.to_be_bytes(),
            self.actor.1.as_bytes(),
            self.operation.as_bytes(),
            self.ids.as_bytes(),
            &through.to_be_bytes(),
            hash,
        ])
    }

    /// Reads a record; `None` when these bytes are none.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let [id, organization, sequence, at, kind, actor_kind, actor, operation, ids, through, hash] = fields(record)?;
        let uuid = |bytes: &[u8]| bytes.try_into().ok().map(Uuid::from_bytes);
        let number = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_be_bytes);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let removed = Removed { through: number(through)?, hash: hash.to_vec() };
        Some(Self {
            id: uuid(id)?,
            organization: uuid(organization)?,
            sequence: number(sequence)?,
            at: number(at)?,
            kind: text(kind)?,
            actor: (i16::from_be_bytes(actor_kind.try_into().ok()?), uuid(actor)?),
            operation: text(operation)?,
            ids: text(ids)?,
            removed: (removed.through != 0).then_some(removed),
        })
    }
}

/// What checking a chain has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// How many rows follow on each other, from the first that is left.
    pub readings: i64,
    /// How many were removed before it after their time.
    pub removed: i64,
    /// The link of the last of these.
    pub hash: Vec<u8>,
    /// The number of the first row that does not follow, or is missing.
    pub broken_at: Option<i64>,
}

/// A row as the database holds it, whatever somebody has made of it.
#[derive(FromQueryResult)]
struct Stored {
    id: Uuid,
    sequence: i64,
    at: Timestamp,
    kind: String,
    actor_kind: i16,
    actor_id: Uuid,
    operation: Option<String>,
    ids: Tags,
    removed_through: Option<i64>,
    removed_hash: Option<Vec<u8>>,
    hash: Vec<u8>,
}

/// Checks the chain of an organization: that no row is missing, from the first that is left to the last, and that each
/// says what it said when it was written. All of one moment.
///
/// # Errors
/// The database cannot be read.
pub async fn check(database: &Database, organization: OrganizationId) -> Result<Checked, DbErr> {
    let reader = database.reader();
    let moment = match database.backend() {
        DbBackend::Postgres => {
            reader.begin_with_config(Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly)).await?
        }
        _ => reader.begin().await?,
    };
    let head = heads::Entity::find_by_id(organization).one(&moment).await?;
    let head = head.unwrap_or_else(|| heads::Model::new(organization));
    let (mut sequence, mut hash) = (head.removed_through, head.removed_hash.clone());
    let mut said: Option<Removed> = None;
    let broken = |sequence: i64, hash: Vec<u8>| Checked {
        readings: (sequence - head.removed_through).max(0),
        removed: head.removed_through,
        hash,
        broken_at: Some(sequence + 1),
    };
    let mut after = i64::MIN;
    loop {
        let rows = stored(&moment, organization, after).await?;
        let Some(last) = rows.last() else { break };
        after = last.sequence;
        for row in rows {
            let removed =
                row.removed_through.map(|through| Removed { through, hash: row.removed_hash.unwrap_or_default() });
            let entry = Entry {
                id: row.id,
                organization: organization.uuid(),
                sequence: row.sequence,
                at: row.at.timestamp_micros(),
                kind: row.kind,
                actor: (row.actor_kind, row.actor_id),
                operation: row.operation.unwrap_or_default(),
                ids: row.ids.0.join(" "),
                removed: removed.clone(),
            };
            if row.sequence != sequence + 1 || link(&hash, &entry.record()) != row.hash {
                return Ok(broken(sequence, hash));
            }
            (sequence, hash) = (row.sequence, row.hash);
            said = removed.or(said);
        }
    }
    let anchor =
        (head.removed_through != 0).then(|| Removed { through: head.removed_through, hash: head.removed_hash.clone() });
    if said != anchor {
        return Ok(broken(head.removed_through, head.removed_hash.clone()));
    }
    if (sequence, &hash) != (head.sequence, &head.hash) {
        return Ok(broken(sequence, hash));
    }
    let (readings, removed) = (sequence - head.removed_through, head.removed_through);
    Ok(Checked { readings, removed, hash, broken_at: None })
}

async fn stored(moment: &impl ConnectionTrait, organization: OrganizationId, after: i64) -> Result<Vec<Stored>, DbErr> {
    let columns = [
        Column::Id,
        Column::Sequence,
        Column::At,
        Column::Kind,
        Column::ActorKind,
        Column::ActorId,
        Column::Operation,
        Column::Ids,
        Column::RemovedThrough,
        Column::RemovedHash,
        Column::Hash,
    ];
    let these = Entity::find().select_only().columns(columns).filter(Column::OrganizationId.eq(organization.uuid()));
    let these = these.filter(Column::Sequence.gt(after)).order_by_asc(Column::Sequence).limit(ROWS);
    these.into_model().all(moment).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_says_what_was_read(
            ids in any::<[u128; 3]>(), sequence: i64, at: i64, kind in "[a-z]{0,9}", actor_kind: i16,
            operation in "\\PC{0,12}", named in "\\PC{0,30}", through in 0_i64.., hash: Vec<u8>, cut: usize,
        ) {
            let [id, organization, actor] = ids.map(Uuid::from_u128);
            let removed = (through != 0).then_some(Removed { through, hash });
            let entry = Entry {
                id, organization, sequence, at, kind, actor: (actor_kind, actor), operation, ids: named, removed,
            };
            let record = entry.record();
            prop_assert_eq!(Entry::parse(&record), Some(entry));
            prop_assert_eq!(Entry::parse(&record[..cut % record.len()]), None);
        }
    }
}
