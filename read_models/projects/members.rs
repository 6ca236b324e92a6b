//! Who is in a project: what somebody sees who sees only their own projects follows from these rows (`viewer.rs`).
//!
//! A row's id is derived from project and member. Whoever leaves the organisation leaves its projects with it.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Result, SimpleObject};
use oriel_domain::projects::{ProjectEvent, ProjectId};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{OrderDirection, ReadModel};
use oriel_kernel::{MemberId, OrganizationId, Recorded, Timestamp, ids};
use sea_orm::entity::prelude::*;

use crate::{derived, reader};

ids! {
    /// That somebody is in a project.
    ProjectMemberId = "pmb",
}

/// A member of the organization in a project.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "project_members")]
#[graphql(name = "ProjectMember", complex)]
#[read_model(
    kind = "project_member",
    tenant = "organization_id",
    visible_by = "project_id",
    collections(project = "project_id", member = "member_id")
)]
pub struct Model {
    /// The id of this membership in the project.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ProjectMemberId,
    /// Where.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// In which project.
    #[graphql(skip)]
    pub project_id: ProjectId,
    /// Who.
    #[graphql(skip)]
    pub member_id: MemberId,
    /// When they came into the project.
    #[read_model(filter, order)]
    pub added_at: Timestamp,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// The member; null when they are no member of the organization any more.
    async fn member(&self, cx: &Context<'_>) -> Option<Result<Arc<crate::members::Model>>> {
        let member = async { Ok(reader(cx)?.get::<crate::members::Model>(self.member_id).await?) };
        member.await.transpose()
    }
}

/// The order in which they came: the ids say nothing about it.
pub(crate) fn by_coming() -> Vec<ProjectMemberOrder> {
    vec![ProjectMemberOrder { field: ProjectMemberOrderField::AddedAt, direction: OrderDirection::Asc }]
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub ProjectMembers for Model, version 1, on ProjectEvent
}

impl On<ProjectEvent> for ProjectMembers {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &ProjectEvent) {
        let id = |member: &MemberId| derived::pair(at.subject, member.uuid());
        match event {
            ProjectEvent::Created { owner: member, .. } | ProjectEvent::MemberAdded { member } => rows.insert(Model {
                id: ProjectMemberId::from_uuid(id(member)),
                organization_id: at.organization,
                project_id: ProjectId::from_uuid(at.subject),
                member_id: *member,
                added_at: at.at,
            }),
            ProjectEvent::MemberRemoved { member } => rows.delete(id(member)),
            ProjectEvent::Renamed { .. }
            | ProjectEvent::Described { .. }
            | ProjectEvent::Archived
            | ProjectEvent::Restored => {}
        }
    }
}
