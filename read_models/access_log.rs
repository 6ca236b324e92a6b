//! Who has read what is sensitive: the table `access_log`. Reading is no event, so this is no projection: rows are added
//! beside the log, in batches, and announced to nobody; what shows them is never kept.
//!
//! Invariants: a row says who, when, what kind of thing and by which operation, all by ids: nothing in it is personal, so
//! nothing has to be forgotten with a person. No row is ever changed.

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_engine::read::{ReadModel, Tags};
use oriel_kernel::{Actor as Author, OrganizationId, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, IntoActiveModel, QuerySelect};

use crate::events::Actor;
use crate::reader;

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
}

/// Adds rows.
///
/// # Errors
/// The database cannot be written.
pub async fn add(writer: &impl ConnectionTrait, rows: Vec<Model>) -> Result<(), DbErr> {
    let rows = rows.into_iter().map(|row| row.into_active_model().reset_all());
    Entity::insert_many(rows).exec_without_returning(writer).await.map(|_| ())
}

/// Removes rows that are older than this, some of them; how many.
///
/// # Errors
/// The database cannot be written.
pub async fn remove_before(writer: &impl ConnectionTrait, before: Timestamp) -> Result<u64, DbErr> {
    let old = Entity::find().select_only().column(Column::Id).filter(Column::At.lt(before)).limit(1_000);
    let old: Vec<Uuid> = old.into_tuple().all(writer).await?;
    if old.is_empty() {
        return Ok(0);
    }
    Ok(Entity::delete_many().filter(Column::Id.is_in(old)).exec(writer).await?.rows_affected)
}
