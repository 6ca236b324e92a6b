//! Who has read what is sensitive: the table `access_log`. Reading is no event, so this is no projection: rows are added
//! beside the log, in batches, and announced to nobody; what shows them is never kept.
//!
//! Invariants: a row says who, when, what kind of thing and by which operation, all by ids: nothing in it is personal, so
//! nothing has to be forgotten with a person. No row is ever changed, and it shows when one is ([`chain`]); the oldest go
//! after their time, which is an entry of its own.

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use data_encoding::{BASE64, HEXLOWER};
use oriel_engine::read::{OrderDirection, ReadModel, Tags};
use oriel_kernel::{Actor as Author, OrganizationId, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::{IntoActiveModel, QueryOrder, QuerySelect, TransactionSession, TransactionTrait};

use crate::access_log::chain::{Entry, Removed};
use crate::events::Actor;
use crate::reader;

pub mod chain;
pub mod heads;

/// What kind of thing was read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum AccessKind {
    /// An address from which a file can be downloaded.
    #[sea_orm(string_value = "download")]
    Download,
    /// The text of documents.
    #[sea_orm(string_value = "content")]
    Content,
    /// What is said about people: names, addresses.
    #[sea_orm(string_value = "person")]
    Person,
    /// What happened in detail, as an audit takes it out.
    #[sea_orm(string_value = "audit")]
    Audit,
    /// Everything that is held about a person.
    #[sea_orm(string_value = "export")]
    Export,
    /// Nothing: the oldest readings were removed after their time. `removed` says which.
    #[sea_orm(string_value = "removal")]
    Removal,
}

/// That somebody has read something sensitive.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "access_log")]
#[graphql(name = "AccessRecord", complex)]
#[read_model(kind = "access_record", tenant = "organization_id", collections(org = "organization_id"))]
pub struct Model {
    /// In the order of time.
    #[sea_orm(primary_key, auto_increment = false)]
    #[graphql(skip)]
    pub id: Uuid,
    /// Where.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// Its place in the access log of the organization: from 1, without gaps. The first ones go after their time.
    #[read_model(order)]
    pub sequence: i64,
    /// When it was answered; of what is followed live, when that was begun.
    pub at: Timestamp,
    /// What kind of thing was read.
    pub kind: AccessKind,
    /// What kind of author asked.
    #[graphql(skip)]
    pub actor_kind: i16,
    /// Who asked.
    #[graphql(skip)]
    pub actor_id: Uuid,
    /// What the client calls its operation; null when it gives it no name.
    pub operation: Option<String>,
    /// The ids among the variables of the operation, as far as there are not too many.
    #[graphql(skip)]
    #[sea_orm(column_type = "JsonBinary")]
    pub ids: Tags,
    /// The number of the last row that was removed, where that is what is said.
    #[graphql(skip)]
    pub removed_through: Option<i64>,
    /// The link of that one.
    #[graphql(skip)]
    pub removed_hash: Option<Vec<u8>>,
    /// Its link of the organization's chain of readings.
    #[graphql(skip)]
    pub hash: Vec<u8>,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// Who asked; null when they are not there any more.
    async fn actor(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        let actor = async {
            match Author::from_columns(self.actor_kind, self.actor_id) {
                Some(author) => Ok(Actor::of(reader(cx)?, author).await?),
                None => Ok(None),
            }
        };
        actor.await.transpose()
    }

    /// The ids among the variables of the operation, at most 20.
    #[graphql(name = "ids")]
    async fn shown_ids(&self) -> &[String] {
        &self.ids.0
    }

    /// What was removed; null unless that is what this says.
    async fn removed(&self) -> Option<AccessRemoval> {
        let Removed { through, hash } = self.removal()?;
        Some(AccessRemoval { through, hash: HEXLOWER.encode(&hash) })
    }

    /// Its link of the chain of the organization's readings, in hexadecimal digits: the SHA-256 over the link of the one
    /// before it (`sequence` - 1) and `record`. The link before it is preceded by its length in 8 bytes, which are all
    /// zero for the first reading, where nothing is before it.
    #[graphql(name = "hash")]
    async fn shown_hash(&self) -> String {
        HEXLOWER.encode(&self.hash)
    }

    /// What the link covers, in base64, so that anybody can check it: each field as its length in 8 bytes and its bytes
    /// (integers big-endian): id, organization, sequence, microseconds since 1970, kind, kind of actor, actor, operation,
    /// ids (parted by spaces), and, where readings were removed, the number of the last one (else 0) and its hash. Ids
    /// of rows, organizations and actors are the 16 bytes of their UUID.
    async fn record(&self) -> String {
        BASE64.encode(&self.entry().record())
    }
}

/// That the oldest readings were removed after their time.
#[derive(Clone, PartialEq, Eq, Debug, SimpleObject)]
pub struct AccessRemoval {
    /// The `sequence` of the last of them.
    pub through: i64,
    /// The `hash` of that one: what the first one that is left follows on.
    pub hash: String,
}

impl Model {
    fn removal(&self) -> Option<Removed> {
        Some(Removed { through: self.removed_through?, hash: self.removed_hash.clone()? })
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry {
            id: self.id,
            organization: self.organization_id.uuid(),
            sequence: self.sequence,
            at: self.at.timestamp_micros(),
            kind: self.kind.to_value(),
            actor: (self.actor_kind, self.actor_id),
            operation: self.operation.clone().unwrap_or_default(),
            ids: self.ids.0.join(" "),
            removed: self.removal(),
        }
    }
}

/// The order in which readings stand in their chain.
pub fn in_order() -> Vec<AccessRecordOrder> {
    vec![AccessRecordOrder { field: AccessRecordOrderField::Sequence, direction: OrderDirection::Asc }]
}

/// A reading that is not written down yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Which one.
    pub id: Uuid,
    /// Where.
    pub organization: OrganizationId,
    /// When.
    pub at: Timestamp,
    /// What kind of thing was read.
    pub kind: AccessKind,
    /// Who asked.
    pub actor: Author,
    /// What the client calls its operation.
    pub operation: Option<String>,
    /// The ids among its variables.
    pub ids: Tags,
}

/// Writes readings down, each at the end of the chain of its organization.
///
/// # Errors
/// The database cannot be written: then none of them is.
pub async fn add(writer: &impl TransactionTrait, readings: Vec<Reading>) -> Result<(), DbErr> {
    let transaction = writer.begin().await?;
    let mut heads = heads::lock(&transaction, readings.iter().map(|reading| reading.organization)).await?;
    let rows = readings.into_iter().filter_map(|reading| {
        let head = heads.get_mut(&reading.organization.uuid())?;
        Some(head.append(reading, None).into_active_model().reset_all())
    });
    let rows: Vec<ActiveModel> = rows.collect();
    Entity::insert_many(rows).exec_without_returning(&transaction).await?;
    heads::keep(&transaction, heads.into_values()).await?;
    transaction.commit().await
}

/// Removes rows of an organization that are older than this, some of them, from the first one on; how many. The removal
/// is a row itself, with this id and of this moment.
///
/// # Errors
/// The database cannot be written.
pub async fn remove_before(
    writer: &impl TransactionTrait,
    organization: OrganizationId,
    before: Timestamp,
    (id, at): (Uuid, Timestamp),
) -> Result<u64, DbErr> {
    let transaction = writer.begin().await?;
    let mut heads = heads::lock(&transaction, [organization]).await?;
    let these = Entity::find().select_only().columns([Column::Sequence, Column::At, Column::Hash]);
    let these = these.filter(Column::OrganizationId.eq(organization)).order_by_asc(Column::Sequence).limit(1_000);
    let rows: Vec<(i64, Timestamp, Vec<u8>)> = these.into_tuple().all(&transaction).await?;
    let last = rows.into_iter().take_while(|(_, at, _)| *at < before).last();
    let (Some((through, _, hash)), Some(head)) = (last, heads.get_mut(&organization.uuid())) else {
        return transaction.rollback().await.map(|()| 0);
    };
    let (kind, actor, ids) = (AccessKind::Removal, Author::System, Tags::default());
    let removal = Reading { id, organization, at, kind, actor, operation: None, ids };
    (head.removed_through, head.removed_hash) = (through, hash.clone());
    let row = head.append(removal, Some(Removed { through, hash }));
    let gone =
        Entity::delete_many().filter(Column::OrganizationId.eq(organization)).filter(Column::Sequence.lte(through));
    let gone = gone.exec(&transaction).await?.rows_affected;
    Entity::insert(row.into_active_model().reset_all()).exec_without_returning(&transaction).await?;
    heads::keep(&transaction, heads.into_values()).await?;
    transaction.commit().await?;
    Ok(gone)
}
