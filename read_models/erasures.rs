//! What was erased, and the certificates of it. An end of an organisation and an erasure of a person have a row each.
//!
//! Invariants: nothing here tells who or what it was but an id. Only the operator of the installation sees it. A
//! certificate is complete when it is there: it names every store and the place in the log at which it was clean.

use async_graphql::{ComplexObject, Enum, ID, Result, SimpleObject};
use oriel_domain::organizations::{Cleaned, OrganizationEvent};
use oriel_domain::users::UserEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::ReadModel;
use oriel_kernel::{OrganizationId, Permission, Position, Recorded, Timestamp, UserId, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Expr;
use sea_orm::{Condition, DbBackend, FromJsonQueryResult};
use serde::{Deserialize, Serialize};

/// Seeing what was erased.
pub const VIEW: Permission = Permission::new("system", "manage");

/// What was erased.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum ErasureKind {
    /// A person.
    #[sea_orm(string_value = "person")]
    Person,
    /// A whole organization.
    #[sea_orm(string_value = "organization")]
    Organization,
}

/// An erasure and, when it is complete, its certificate.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "erasures")]
#[graphql(name = "Erasure", complex)]
#[read_model(kind = "erasure", scope = seen, shared)]
pub struct Model {
    /// What was erased.
    #[sea_orm(primary_key, auto_increment = false)]
    #[graphql(skip)]
    pub id: Uuid,
    /// What was erased.
    pub kind: ErasureKind,
    /// When its data key was destroyed: from then on nothing that the log says about it can be read.
    pub began_at: Timestamp,
    /// When everything was clean, whatever store it was in; null until then.
    pub completed_at: Option<Timestamp>,
    /// The stores that were cleaned; empty until all are.
    #[graphql(skip)]
    #[sea_orm(column_type = "JsonBinary")]
    pub stores: Stores,
}

/// The stores that were cleaned.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Stores(Vec<Cleaned>);

/// A store that was cleaned.
#[derive(Clone, Debug, SimpleObject)]
pub struct CleanedStore {
    /// Which store: `data_keys`, a read model, `search`, `blobs` …
    pub name: String,
    /// The place in the log at which nothing of it was left there.
    pub position: Position,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let all = Condition::all();
    if viewer.grant(VIEW).is_some() { all } else { all.add(Expr::Constant(false.into())) }
}

#[ComplexObject]
impl Model {
    /// The id of the person or the organization that was erased. It names nothing any more.
    async fn subject_id(&self) -> Result<ID> {
        Ok(match self.kind {
            ErasureKind::Person => UserId::from_uuid(self.id).to_string().into(),
            ErasureKind::Organization => OrganizationId::from_uuid(self.id).to_string().into(),
        })
    }

    /// The certificate: each store, and up to where it is clean. Empty until the erasure is complete.
    #[graphql(name = "stores")]
    async fn shown_stores(&self) -> Vec<CleanedStore> {
        let stores = self.stores.0.iter();
        stores.map(|clean| CleanedStore { name: clean.store.clone(), position: clean.position }).collect()
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Erasures for Model, version 1, on OrganizationEvent, UserEvent
}

fn began(rows: &mut Rows<Model>, at: &Recorded, kind: ErasureKind) {
    let (began_at, stores) = (at.at, Stores::default());
    rows.insert(Model { id: at.subject, kind, began_at, completed_at: None, stores });
}

fn completed(rows: &mut Rows<Model>, at: &Recorded, stores: &[Cleaned]) {
    rows.update(at.subject, |erasure| {
        erasure.completed_at = Some(at.at);
        erasure.stores = Stores(stores.to_vec());
    });
}

impl On<OrganizationEvent> for Erasures {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &OrganizationEvent) {
        match event {
            OrganizationEvent::Ended => began(rows, at, ErasureKind::Organization),
            OrganizationEvent::Erased { stores } => completed(rows, at, stores),
            OrganizationEvent::Created { .. }
            | OrganizationEvent::Renamed { .. }
            | OrganizationEvent::OwnerChanged { .. }
            | OrganizationEvent::Configured { .. }
            | OrganizationEvent::SecondFactorRequired { .. }
            | OrganizationEvent::SigningKeyAdded
            | OrganizationEvent::MasterKeyRotated { .. }
            | OrganizationEvent::Suspended { .. }
            | OrganizationEvent::Reinstated
            | OrganizationEvent::DeletionScheduled { .. }
            | OrganizationEvent::DeletionCancelled
            | OrganizationEvent::RowsRemoved { .. } => {}
        }
    }
}

impl On<UserEvent> for Erasures {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &UserEvent) {
        match event {
            UserEvent::Erased => began(rows, at, ErasureKind::Person),
            UserEvent::ErasureCompleted { stores } => completed(rows, at, stores),
            UserEvent::Registered { .. }
            | UserEvent::Renamed { .. }
            | UserEvent::PreferencesChanged { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::PasswordChanged { .. }
            | UserEvent::PasswordResetRequested { .. }
            | UserEvent::PasswordReset { .. }
            | UserEvent::EmailVerified
            | UserEvent::EmailChangeRequested { .. }
            | UserEvent::EmailChanged { .. }
            | UserEvent::TotpBegun { .. }
            | UserEvent::TotpConfirmed { .. }
            | UserEvent::TotpUsed { .. }
            | UserEvent::RecoveryCodeUsed { .. }
            | UserEvent::RecoveryCodesReplaced { .. }
            | UserEvent::TotpDisabled
            | UserEvent::PasskeyRegistered { .. }
            | UserEvent::PasskeyUsed { .. }
            | UserEvent::PasskeyCloneSuspected { .. }
            | UserEvent::PasskeyRenamed { .. }
            | UserEvent::PasskeyRemoved { .. }
            | UserEvent::SecondFactorReset { .. }
            | UserEvent::MadeAnew { .. } => {}
        }
    }
}
