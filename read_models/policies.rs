//! Policies as they are read: those of the viewer's organisation, and those of the installation, which hold for
//! everybody.

use std::sync::Arc;

use async_graphql::SimpleObject;
use oriel_domain::policies::{PolicyEvent, PolicyId};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{Id, OrganizationId, Recorded, Timestamp, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, IntoColumnRef, Order, Query, SelectStatement};
use sea_orm::{Condition, DbBackend};

use crate::{consents, same};

/// A text that people agree to, in versions.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "policies")]
#[graphql(name = "Policy")]
#[read_model(kind = "policy", scope = seen, shared, collections(org = "organization_id"))]
pub struct Model {
    /// The policy's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: PolicyId,
    /// Whose it is.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// What programs call it, such as `privacy`.
    pub key: String,
    /// Which version of the text this is, from 1.
    pub revision: i32,
    /// What people call it.
    pub title: String,
    /// What it says.
    #[sea_orm(column_type = "Text")]
    pub text: String,
    /// Whether everybody is to agree.
    pub required: bool,
    /// Whether who has not agreed is refused everything else, with `CONSENT_REQUIRED`.
    pub blocking: bool,
    /// Since when this version is in force.
    pub published_at: Timestamp,
    /// Since when nobody is asked to agree any more; null while it is in force.
    pub retired_at: Option<Timestamp>,
    /// The optimistic version: give it back as `expectedVersion`.
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

/// The policies that are in force for the viewer: those of the installation first.
///
/// # Errors
/// The database cannot be read.
pub async fn in_force(reader: &Reader) -> Result<Vec<Arc<Model>>, ReadError> {
    let mut policies = Vec::new();
    for organization in [Id::ABSENT, reader.organization()] {
        let rows = reader.many(Model::in_org(organization).and(Column::RetiredAt.is_null())).await?;
        policies.extend(rows.iter().cloned());
    }
    Ok(policies)
}

/// The policy that keeps this person from everything else in this organisation: one that blocks and is in force, and to
/// which they have not agreed as it is now. Those of the installation come first.
pub(crate) fn unagreed(user: impl IntoColumnRef, organization: impl IntoColumnRef) -> SelectStatement {
    use consents::Column as Consent;
    let agreed = Query::select()
        .expr(Expr::val(1))
        .from(consents::Entity)
        .and_where(same((consents::Entity, Consent::PolicyId), (Entity, Column::Id)))
        .and_where(same((consents::Entity, Consent::Revision), (Entity, Column::Revision)))
        .and_where(same((consents::Entity, Consent::UserId), user))
        .take();
    let holds = Condition::any()
        .add(Column::OrganizationId.eq(OrganizationId::ABSENT.uuid()))
        .add(same((Entity, Column::OrganizationId), organization));
    Query::select()
        .column((Entity, Column::Id))
        .from(Entity)
        .cond_where(holds)
        .and_where(Column::Blocking.eq(true))
        .and_where(Column::RetiredAt.is_null())
        .and_where(sea_orm::sea_query::ExprTrait::not(Expr::exists(agreed)))
        .order_by((Entity, Column::OrganizationId), Order::Asc)
        .order_by((Entity, Column::Id), Order::Asc)
        .limit(1)
        .take()
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Policies for Model, version 2, on PolicyEvent
}

impl On<PolicyEvent> for Policies {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &PolicyEvent) {
        match event {
            PolicyEvent::Published { organization, key, revision, title, text, required, blocking } => {
                rows.insert(Model {
                    id: PolicyId::from_uuid(at.subject),
                    organization_id: *organization,
                    key: key.as_str().to_owned(),
                    revision: *revision,
                    title: title.to_string(),
                    text: text.to_string(),
                    required: *required,
                    blocking: *blocking,
                    published_at: at.at,
                    retired_at: None,
                    version: at.version,
                });
            }
            PolicyEvent::Retired => rows.update(at.subject, |policy| {
                (policy.retired_at, policy.version) = (Some(at.at), at.version);
            }),
        }
    }
}
