//! Persisted operations as they are read, and the look-up by which one is executed.
//!
//! Invariants: a row is there exactly as long as its operation is published. The first organisation operates the
//! installation, and what it publishes holds for all: for other organisations, and for who is not signed in.
//!
//! [`published`] is asked without a viewer, because it decides whether there will be an execution at all; it gives the
//! text of a document and nothing else. What it depends on is [`dependency`].

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::persisted_operations::{OperationKind as Kind, PersistedOperationEvent, PersistedOperationId};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{Dependency, ReadModel};
use oriel_kernel::{Actor as Author, OrganizationId, Permission, Recorded, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ConnectionTrait, QueryOrder, QuerySelect};

use crate::events::Actor;
use crate::{organizations, reader};

/// Seeing persisted operations.
pub const VIEW: Permission = Permission::new("operations", "view");

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum OperationKind {
    /// It reads.
    #[sea_orm(string_value = "query")]
    Query,
    /// It changes something.
    #[sea_orm(string_value = "mutation")]
    Mutation,
    /// It is followed.
    #[sea_orm(string_value = "subscription")]
    Subscription,
}

impl From<Kind> for OperationKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Query => Self::Query,
            Kind::Mutation => Self::Mutation,
            Kind::Subscription => Self::Subscription,
        }
    }
}

/// An operation that clients of the organization may send by its hash alone.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "persisted_operations")]
#[graphql(name = "PersistedOperation", complex)]
#[read_model(kind = "persisted_operation", tenant = "organization_id", collections(org = "organization_id"))]
pub struct Model {
    /// The operation's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: PersistedOperationId,
    /// Where it is published.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// What clients send in place of the body, as `documentId` or as `extensions.persistedQuery.sha256Hash`: the
    /// SHA-256 of the body in hexadecimal digits, or what the tool that made the manifest calls it.
    #[read_model(filter)]
    pub hash: String,
    /// The SHA-256 of the body in hexadecimal digits.
    pub sha256: String,
    /// What the document calls the operation; null when it gives it no name.
    #[read_model(filter, order)]
    pub name: Option<String>,
    /// What it does.
    #[read_model(filter)]
    pub kind: OperationKind,
    /// The document: the operation with its fragments, byte for byte as it was published.
    pub body: String,
    /// What kind of author published it.
    #[graphql(skip)]
    pub published_by_kind: i16,
    /// Who published it.
    #[graphql(skip)]
    pub published_by_id: Uuid,
    /// When it was published.
    #[read_model(filter, order)]
    pub created_at: Timestamp,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// Who published it; null when they are not there any more.
    async fn published_by(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        let author = async {
            match Author::from_columns(self.published_by_kind, self.published_by_id) {
                Some(author) => Ok(Actor::of(reader(cx)?, author).await?),
                None => Ok(None),
            }
        };
        author.await.transpose()
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub PersistedOperations for Model, version 1, on PersistedOperationEvent
}

impl On<PersistedOperationEvent> for PersistedOperations {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &PersistedOperationEvent) {
        match event {
            PersistedOperationEvent::Published { organization, hash, body, name, kind } => {
                let (published_by_kind, published_by_id) = at.actor.to_columns();
                rows.insert(Model {
                    id: PersistedOperationId::from_uuid(at.subject),
                    organization_id: *organization,
                    hash: hash.to_string(),
                    sha256: body.sha256(),
                    name: name.as_ref().map(ToString::to_string),
                    kind: (*kind).into(),
                    body: body.as_str().to_owned(),
                    published_by_kind,
                    published_by_id,
                    created_at: at.at,
                    version: at.version,
                });
            }
            PersistedOperationEvent::Retired => rows.delete(at.subject),
        }
    }
}

// --- the look-up before an execution -------------------------------------------------------------------------------

/// What answers of [`published`] about this organisation depend on.
pub fn dependency(organization: OrganizationId) -> Dependency {
    Model::in_org(organization).dependency()
}

/// The organisation that operates the installation; nothing while there is none. Once there is one, it stays so.
///
/// # Errors
/// The database cannot be read.
pub async fn operator(connection: &impl ConnectionTrait) -> Result<Option<OrganizationId>, DbErr> {
    organizations::Entity::find()
        .select_only()
        .column(organizations::Column::Id)
        .order_by_asc(organizations::Column::CreatedPosition)
        .into_tuple()
        .one(connection)
        .await
}

/// The text of what is published in this organisation under this hash, or has this SHA-256.
///
/// # Errors
/// The database cannot be read.
pub async fn published(
    connection: &impl ConnectionTrait,
    organization: OrganizationId,
    hash: &str,
) -> Result<Option<String>, DbErr> {
    Entity::find()
        .select_only()
        .column(Column::Body)
        .filter(Column::OrganizationId.eq(organization.uuid()))
        .filter(Condition::any().add(Column::Hash.eq(hash)).add(Column::Sha256.eq(hash)))
        .into_tuple()
        .one(connection)
        .await
}
