//! Consents as they are read: what people say to the policies that hold for them.
//!
//! Invariants: the row of a person is read for that person, and for whoever may see consents of the organisation, of the
//! people in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_graphql::{Enum, SimpleObject};
use oriel_domain::consents::{ConsentEvent, ConsentId};
use oriel_domain::policies::PolicyId;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{OrganizationId, Permission, Recorded, Timestamp, UserId, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, DbBackend};

use crate::policies;

/// Seeing what others have agreed to: who publishes policies.
pub const VIEW: Permission = Permission::new("policies", "edit");

/// What a person says to a policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Enum)]
pub enum ConsentState {
    /// They agree to the version that is in force.
    Given,
    /// They agreed to an earlier version.
    Outdated,
    /// They agreed, and took it back.
    Withdrawn,
    /// They have said nothing.
    Missing,
}

/// What a person says to a policy that holds for them.
#[derive(Clone, Debug, SimpleObject)]
pub struct ConsentStatus {
    /// The policy, in the version that is in force.
    policy: Arc<policies::Model>,
    /// What they say to it.
    state: ConsentState,
    /// To which version they agree; null when to none.
    revision: Option<i32>,
    /// When they said so; null when they never did.
    changed_at: Option<Timestamp>,
}

/// A row.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "consents")]
#[read_model(kind = "consent", name = "Consent", scope = seen, shared, collections(user = "user_id"))]
pub struct Model {
    /// Of this person to this policy.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ConsentId,
    /// Whose policy it is.
    pub organization_id: OrganizationId,
    /// Which policy.
    pub policy_id: PolicyId,
    /// Who.
    pub user_id: UserId,
    /// To which version they agree; none when they took it back.
    pub revision: Option<i32>,
    /// When they said so.
    pub changed_at: Timestamp,
    /// The version of the row.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let installation = OrganizationId::ABSENT.uuid();
    Condition::all().add(Column::OrganizationId.is_in([viewer.organization.uuid(), installation]))
}

/// What this person says to each policy that holds here. Whoever calls has found out that the viewer may know.
///
/// # Errors
/// The database cannot be read.
pub async fn of(reader: &Reader, user: UserId) -> Result<Vec<ConsentStatus>, ReadError> {
    let policies = policies::in_force(reader).await?;
    let rows = reader.many(Model::in_user(user)).await?;
    let said: BTreeMap<PolicyId, &Arc<Model>> = rows.iter().map(|row| (row.policy_id, row)).collect();
    let status = |policy: Arc<policies::Model>| {
        let row = said.get(&policy.id);
        let state = match row.map(|row| row.revision) {
            None => ConsentState::Missing,
            Some(None) => ConsentState::Withdrawn,
            Some(Some(revision)) if revision == policy.revision => ConsentState::Given,
            Some(Some(_)) => ConsentState::Outdated,
        };
        let (revision, changed_at) = (row.and_then(|row| row.revision), row.map(|row| row.changed_at));
        ConsentStatus { policy, state, revision, changed_at }
    };
    Ok(policies.into_iter().map(status).collect())
}

impl ConsentStatus {
    /// Whether the person is to agree, and does not.
    pub fn is_lacking(&self) -> bool {
        self.policy.required && self.state != ConsentState::Given
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Consents for Model, version 1, on ConsentEvent
}

impl On<ConsentEvent> for Consents {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &ConsentEvent) {
        match event {
            ConsentEvent::Given { organization, policy, revision, user } => rows.insert(Model {
                id: ConsentId::from_uuid(at.subject),
                organization_id: *organization,
                policy_id: *policy,
                user_id: *user,
                revision: Some(*revision),
                changed_at: at.at,
                version: at.version,
            }),
            ConsentEvent::Withdrawn => rows.update(at.subject, |consent| {
                (consent.revision, consent.changed_at, consent.version) = (None, at.at, at.version);
            }),
        }
    }
}
