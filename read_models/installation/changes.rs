//! What was changed of the installation while it ran, and who did it: a row for each change, for the operator.
//!
//! The events are the installation's, which is no organisation: nobody reads them with `events`.

use async_graphql::{ComplexObject, Context, Result, SimpleObject};
use oriel_domain::installation::InstallationEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{Collection, ReadModel};
use oriel_kernel::{Actor as Author, Event, EventId, Permission, Recorded, Timestamp, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Expr;
use sea_orm::{Condition, DbBackend};

use super::INSTALLATION;
use crate::events::Actor;
use crate::reader;

/// Seeing what was changed.
pub const VIEW: Permission = Permission::new("system", "manage");

/// A change of the installation.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "installation_changes")]
#[graphql(name = "InstallationChange", complex)]
#[read_model(kind = "installation_change", scope = seen, shared, collections(installation = "installation_id"))]
pub struct Model {
    /// The event.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: EventId,
    /// The same of all.
    #[graphql(skip)]
    pub installation_id: Uuid,
    /// What happened, such as `installation_notice_set` or `installation_feature_overridden`.
    #[graphql(name = "type")]
    pub event_type: String,
    /// What it was changed to.
    #[sea_orm(column_type = "JsonBinary")]
    pub data: Json,
    /// What kind of author did it.
    #[graphql(skip)]
    pub actor_kind: i16,
    /// Who did it.
    #[graphql(skip)]
    pub actor_id: Uuid,
    /// When.
    pub at: Timestamp,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// Who did it; null when they are not there any more.
    async fn actor(&self, cx: &Context<'_>) -> Option<Result<Actor>> {
        let actor = async {
            match Author::from_columns(self.actor_kind, self.actor_id) {
                Some(author) => Ok(Actor::of(reader(cx)?, author).await?),
                None => Ok(None),
            }
        };
        actor.await.transpose()
    }
}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let all = Condition::all();
    if viewer.grant(VIEW).is_some() { all } else { all.add(Expr::Constant(false.into())) }
}

/// All of them, in the order in which they happened.
pub fn all() -> Collection<Model> {
    Model::in_installation(INSTALLATION)
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub InstallationChanges for Model, version 1, on InstallationEvent
}

impl On<InstallationEvent> for InstallationChanges {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &InstallationEvent) {
        let (actor_kind, actor_id) = at.actor.to_columns();
        rows.insert(Model {
            id: at.id,
            installation_id: INSTALLATION,
            event_type: event.event_type().to_owned(),
            // What holds nothing personal is shown as it is.
            data: event.shown().unwrap_or_default(),
            actor_kind,
            actor_id,
            at: at.at,
        });
    }
}
