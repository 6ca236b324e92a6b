//! Identities as they are read: to which identity providers of the organisation one is known.
//!
//! Invariants: a person sees their own, in the organisation in which they act, and nobody sees another's. What is said
//! about them is gone when they are forgotten; an unlinked one has no row.

use std::fmt;
use std::sync::Arc;

use async_graphql::SimpleObject;
use oriel_domain::identities::{IdentityEvent, IdentityId};
use oriel_domain::identity_providers::IdentityProviderId;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{OrganizationId, Recorded, Timestamp, UserId, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ConnectionTrait, DbBackend, QueryOrder, QuerySelect};

use crate::told;

/// That you are known to an identity provider of this organization, with which you sign in.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "identities")]
#[graphql(name = "Identity")]
#[read_model(kind = "identity", scope = seen, collections(user = "user_id"))]
pub struct Model {
    /// The identity's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: IdentityId,
    /// Where.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// Who knows you: one of `loginProviders`.
    pub provider_id: IdentityProviderId,
    /// Who it is.
    #[graphql(skip)]
    pub user_id: UserId,
    /// Finds the person by what the provider calls them.
    #[graphql(skip)]
    pub subject_hash: String,
    /// What the provider calls you.
    pub subject: Option<String>,
    /// Your e-mail address there, as it was when you were linked; null when it was not told.
    pub email: Option<String>,
    /// Since when it is known who you are there.
    pub linked_at: Timestamp,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says nothing about the person.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        shown.field("id", &self.id).field("organization_id", &self.organization_id);
        shown.field("provider_id", &self.provider_id).field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let here = Condition::all().add(Column::OrganizationId.eq(viewer.organization.uuid()));
    here.add(Column::UserId.eq(viewer.person().uuid()))
}

/// The viewer's identities where they act, the oldest first.
///
/// # Errors
/// The database cannot be read.
pub async fn of_viewer(reader: &Reader) -> Result<Vec<Arc<Model>>, ReadError> {
    Ok(reader.many(Model::in_user(reader.viewer().user)).await?.to_vec())
}

/// The identity by which a provider knows somebody: see `identities::subject_hash` of the domain. What signing in asks,
/// before anybody is known.
///
/// # Errors
/// The database cannot be read.
pub async fn by_subject(connection: &impl ConnectionTrait, hash: &str) -> Result<Option<Model>, DbErr> {
    Entity::find().filter(Column::SubjectHash.eq(hash)).one(connection).await
}

/// The identities of a person in an organisation: what ends with their membership.
///
/// # Errors
/// The database cannot be read.
pub async fn of_person(
    connection: &impl ConnectionTrait,
    (organization, user): (OrganizationId, UserId),
) -> Result<Vec<IdentityId>, DbErr> {
    let theirs = Entity::find().select_only().column(Column::Id).filter(Column::UserId.eq(user.uuid()));
    let theirs = theirs.filter(Column::OrganizationId.eq(organization.uuid())).order_by_asc(Column::Id);
    theirs.into_tuple().all(connection).await
}

/// Some of the identities by which a provider knows people, at most `limit`: what ends with it.
///
/// # Errors
/// The database cannot be read.
pub async fn of_provider(
    connection: &impl ConnectionTrait,
    (organization, provider): (OrganizationId, IdentityProviderId),
    limit: u64,
) -> Result<Vec<IdentityId>, DbErr> {
    let known = Entity::find().select_only().column(Column::Id).filter(Column::ProviderId.eq(provider.uuid()));
    known.filter(Column::OrganizationId.eq(organization.uuid())).limit(limit).into_tuple().all(connection).await
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Identities for Model, version 1, on IdentityEvent
}

impl On<IdentityEvent> for Identities {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &IdentityEvent) {
        match event {
            IdentityEvent::Linked { organization, provider, user, subject, subject_hash, email } => {
                rows.insert(Model {
                    id: IdentityId::from_uuid(at.subject),
                    organization_id: *organization,
                    provider_id: *provider,
                    user_id: *user,
                    subject_hash: subject_hash.clone(),
                    subject: told(subject),
                    email: email.as_ref().and_then(told),
                    linked_at: at.at,
                });
            }
            IdentityEvent::Unlinked => rows.delete(at.subject),
        }
    }
}
