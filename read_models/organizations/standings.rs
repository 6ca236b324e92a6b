//! Whether an organisation is open to its people, and what it asks of them: what signing in and every request ask, and
//! no answer shows.
//!
//! Invariants: a row is there from the founding until nothing is left of the organisation. Only what closes or opens it,
//! or moves its end, changes the row: whoever depends on it is not disturbed by anything else that happens there.

use oriel_domain::organizations::OrganizationEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{Dependency, ReadError, ReadModel, Reader};
use oriel_kernel::time::to_micros;
use oriel_kernel::{OrganizationId, Recorded, Timestamp};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, Query, SelectStatement, SimpleExpr};
use sea_orm::{ConnectionTrait, DbErr, QueryOrder, QuerySelect};

use crate::same;

/// How an organisation stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum Standing {
    /// Its people act in it.
    #[sea_orm(string_value = "open")]
    Open,
    /// Nobody acts or reads in it for now.
    #[sea_orm(string_value = "suspended")]
    Suspended,
    /// It has ended, and is being removed.
    #[sea_orm(string_value = "ended")]
    Ended,
}

/// The standing of an organisation. `id` is the organisation's.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "organization_standings")]
#[read_model(kind = "organization_standing", name = "OrganizationStanding", tenant = "id")]
pub struct Model {
    /// The organisation.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: OrganizationId,
    /// How it stands.
    pub standing: Standing,
    /// Whether its people need a second factor to do anything here.
    pub second_factor_required: bool,
    /// When its end is due.
    pub ends_at: Option<Timestamp>,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// What whoever acts in an organisation depends on.
pub fn dependency(organization: OrganizationId) -> Dependency {
    Dependency::row(Model::KIND, organization.uuid())
}

/// That the organisation in this column is open.
pub(crate) fn open(organization: impl sea_orm::sea_query::IntoColumnRef) -> SimpleExpr {
    let open = Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(same((Entity, Column::Id), organization))
        .and_where(Column::Standing.eq(Standing::Open))
        .take();
    Expr::exists(open)
}

/// Whether an organisation asks its people for a second factor.
///
/// # Errors
/// The database cannot be read.
pub async fn asks_for_second_factor(reader: &Reader) -> Result<bool, ReadError> {
    let row = reader.get::<Model>(reader.organization()).await?;
    Ok(row.is_some_and(|row| row.second_factor_required))
}

/// That the organisation in this column asks for a second factor.
pub(crate) fn second_factor_required(organization: impl sea_orm::sea_query::IntoColumnRef) -> SelectStatement {
    Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(same((Entity, Column::Id), organization))
        .and_where(Column::SecondFactorRequired.eq(true))
        .take()
}

/// How an organisation stands; nothing when there is none.
///
/// # Errors
/// The database cannot be read.
pub async fn standing(
    connection: &impl ConnectionTrait,
    organization: OrganizationId,
) -> Result<Option<Standing>, DbErr> {
    let row = Entity::find().filter(Column::Id.eq(organization.uuid())).one(connection).await?;
    Ok(row.map(|row| row.standing))
}

/// Some organisations whose end is due, the one that waits longest first.
///
/// # Errors
/// The database cannot be read.
pub async fn due(connection: &impl ConnectionTrait, now: Timestamp) -> Result<Vec<OrganizationId>, DbErr> {
    let due = Entity::find().select_only().column(Column::Id).filter(Column::EndsAt.lte(now));
    let due = due.filter(Column::Standing.ne(Standing::Ended)).order_by_asc(Column::EndsAt).limit(100);
    due.into_tuple().all(connection).await
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Standings for Model, version 1, on OrganizationEvent
}

impl On<OrganizationEvent> for Standings {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &OrganizationEvent) {
        let mut becomes = |standing| rows.update(at.subject, |row| row.standing = standing);
        match event {
            OrganizationEvent::Suspended { reason: _ } => becomes(Standing::Suspended),
            OrganizationEvent::Reinstated => becomes(Standing::Open),
            OrganizationEvent::Ended => becomes(Standing::Ended),
            OrganizationEvent::Created { organization, .. } => {
                rows.insert(Model {
                    id: *organization,
                    standing: Standing::Open,
                    second_factor_required: false,
                    ends_at: None,
                });
            }
            OrganizationEvent::SecondFactorRequired { required } => {
                rows.update(at.subject, |row| row.second_factor_required = *required);
            }
            OrganizationEvent::DeletionScheduled { ends_at } => {
                rows.update(at.subject, |row| row.ends_at = Some(to_micros(*ends_at)));
            }
            OrganizationEvent::DeletionCancelled => rows.update(at.subject, |row| row.ends_at = None),
            OrganizationEvent::Erased { .. } => rows.delete(at.subject),
            OrganizationEvent::Renamed { .. }
            | OrganizationEvent::OwnerChanged { .. }
            | OrganizationEvent::Configured { .. }
            | OrganizationEvent::SigningKeyAdded
            | OrganizationEvent::MasterKeyRotated { .. }
            | OrganizationEvent::RowsRemoved { .. } => {}
        }
    }
}
