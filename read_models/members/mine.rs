//! A person's own memberships, whatever the organisation that they act in: the table `members`, seen from the other
//! side. Only what it takes to list one's organisations; everything else about a member stays inside its organisation.

use oriel_engine::read::ReadModel;
use oriel_kernel::{MemberId, OrganizationId, UserId};
use sea_orm::entity::prelude::*;

use super::MemberStatus;

/// That the viewer's person is a member somewhere.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "members")]
#[read_model(kind = "member", name = "Membership", owner = "user_id", collections(user = "user_id"))]
pub struct Model {
    /// The member's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: MemberId,
    /// Where.
    pub organization_id: OrganizationId,
    /// Who.
    pub user_id: UserId,
    /// Where the member stands.
    pub status: MemberStatus,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
