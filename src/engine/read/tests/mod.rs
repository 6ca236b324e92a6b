//! A read model that has one column of each kind, on both databases.

#![allow(clippy::unwrap_used)]

mod filters;
mod graphql;
mod pages;
mod postgres;
mod reading;
mod variants;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_graphql::{Enum, SimpleObject};
use chrono::DateTime;
use oriel_kernel::{
    Credential, MemberId, OrganizationId, Permissions, SessionId, Timestamp, UserId, Viewer, Visible, ids,
};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectOptions, Database, DatabaseConnection, IntoActiveModel, Schema};

use super::*;

ids! {
    /// A thing.
    ThingId = "thg",
    /// Where things stand.
    ShelfId = "shf",
}

/// What a thing is up to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum ThingState {
    /// Lost.
    #[sea_orm(string_value = "lost")]
    Lost,
    /// There.
    #[sea_orm(string_value = "there")]
    There,
}

/// A thing.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "things")]
#[graphql(name = "Thing")]
#[read_model(
    kind = "thing",
    tenant = "organization_id",
    visible_by = "shelf_id",
    collections(org = "organization_id", shelf = "shelf_id", lender = "lender_id")
)]
pub struct Model {
    /// Its id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ThingId,
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// Where it stands.
    #[read_model(filter)]
    pub shelf_id: ShelfId,
    /// Who lent it.
    #[read_model(filter)]
    pub lender_id: Option<UserId>,
    /// What it is called.
    #[read_model(filter, order)]
    #[sea_orm(column_type = "Text")]
    pub name: String,
    /// What is written on it.
    #[read_model(filter, order)]
    #[sea_orm(column_type = "Text", nullable)]
    pub note: Option<String>,
    /// What it is up to.
    #[read_model(filter, order)]
    pub state: ThingState,
    /// How dear it is.
    #[read_model(filter, order)]
    pub rank: Option<i32>,
    /// How large it is.
    #[read_model(filter, order)]
    pub size: ByteSize,
    /// Whether it makes noise.
    #[read_model(filter, order)]
    pub loud: bool,
    /// What is said of it.
    #[read_model(filter)]
    #[sea_orm(column_type = "JsonBinary")]
    pub tags: Tags,
    /// When it came.
    #[read_model(filter, order)]
    pub created_at: Timestamp,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub fn org(number: u128) -> OrganizationId {
    OrganizationId::from_uuid(uuid(number))
}

pub fn shelf(number: u128) -> ShelfId {
    ShelfId::from_uuid(uuid(number))
}

pub fn micros(micros: i64) -> Timestamp {
    DateTime::from_timestamp_micros(1_700_000_000_000_000 + micros).unwrap()
}

/// A plain thing in organisation 1, on shelf 1.
pub fn thing(number: u128) -> Model {
    Model {
        id: ThingId::from_uuid(uuid(number)),
        organization_id: org(1),
        shelf_id: shelf(1),
        lender_id: None,
        name: format!("thing {number}"),
        note: None,
        state: ThingState::There,
        rank: None,
        size: ByteSize::new(number as u64),
        loud: false,
        tags: Tags::default(),
        created_at: micros(number as i64),
    }
}

pub fn viewer(organization: u128, visible: Visible) -> Arc<Viewer> {
    Arc::new(Viewer {
        user: UserId::from_uuid(uuid(7)),
        member: MemberId::from_uuid(uuid(8)),
        organization: org(organization),
        credential: Credential::Session(SessionId::from_uuid(uuid(9))),
        versions: Arc::default(),
        permissions: Arc::new(Permissions::default()),
        visible,
        confined: false,
        unagreed: None,
    })
}

pub fn only(shelves: &[u128]) -> Visible {
    Visible::Only(Arc::new(shelves.iter().map(|s| uuid(*s)).collect::<BTreeSet<_>>()))
}

/// A reader of organisation 1 that sees all of it.
pub fn reader(db: &DatabaseConnection) -> Reader {
    reader_of(db, viewer(1, Visible::All))
}

pub fn reader_of(db: &DatabaseConnection, viewer: Arc<Viewer>) -> Reader {
    Reader::new(db.clone(), viewer, Arc::new(Recorder::default()))
}

pub async fn sqlite() -> DatabaseConnection {
    let mut options = ConnectOptions::new("sqlite::memory:");
    options.max_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    create(&db).await;
    db
}

pub async fn create(db: &DatabaseConnection) {
    let table = Schema::new(db.get_database_backend()).create_table_from_entity(Entity);
    db.execute(&table).await.unwrap();
}

pub async fn put(db: &DatabaseConnection, things: impl IntoIterator<Item = Model>) {
    Entity::delete_many().exec(db).await.unwrap();
    let things: Vec<_> = things.into_iter().map(IntoActiveModel::into_active_model).collect();
    if !things.is_empty() {
        Entity::insert_many(things).exec_without_returning(db).await.unwrap();
    }
}
