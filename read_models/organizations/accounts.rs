//! Organisations as the operator of the installation sees them: the table `organizations`, seen from outside. Who they
//! are, whose, how they stand and how much they hold; nothing of what is in them.
//!
//! Invariants: nobody else gets a row of this, and no field leads from here into an organisation. On PostgreSQL the
//! statement itself says that it is the operator's, else row-level security would hold the other rows back; it opens
//! this table and that of people alone (`migrations/wall.rs`).

use std::fmt;
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Result, SimpleObject};
use oriel_engine::read::{ByteSize, Collection, ReadModel};
use oriel_kernel::{OrganizationId, Permission, Timestamp, UserId, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Expr;
use sea_orm::{Condition, DbBackend};

use super::OrganizationStatus;
use crate::reader;

/// Seeing what organisations there are.
pub const VIEW: Permission = Permission::new("system", "manage");

/// What the column holds by which all organisations are listed together.
pub const INSTALLATION: Uuid = Uuid::nil();

/// An organization as the operator of the installation sees it: who it is, how it stands and how much it holds.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "organizations")]
#[graphql(name = "OrganizationAccount", complex)]
#[read_model(kind = "organization", scope = seen, shared, collections(installation = "installation_id"))]
pub struct Model {
    /// The organization's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: OrganizationId,
    /// What it is called.
    #[read_model(filter, order)]
    pub name: String,
    /// Its name in addresses.
    pub slug: String,
    /// Whether it goes on.
    #[read_model(filter)]
    pub status: OrganizationStatus,
    /// When it ends for good; null when that is not planned.
    #[read_model(filter)]
    pub ends_at: Option<Timestamp>,
    /// When it was founded.
    #[read_model(filter, order)]
    pub created_at: Timestamp,
    /// How many active members it has.
    pub member_count: i32,
    /// How many projects it has, the archived ones included.
    pub project_count: i32,
    /// How many documents it has, without those in the trash.
    pub document_count: i32,
    /// Bytes of all its files, as in `Organization.storageUsed`.
    pub storage_used: ByteSize,
    /// The same of all.
    #[graphql(skip)]
    pub installation_id: Uuid,
    /// Whose it is.
    #[graphql(skip)]
    pub owner_id: UserId,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// Who owns it; null when they were erased.
    async fn owner(&self, cx: &Context<'_>) -> Option<Result<Arc<owners::Model>>> {
        let owner = async { Ok(reader(cx)?.get::<owners::Model>(self.owner_id).await?) };
        owner.await.transpose()
    }
}

/// All of them.
pub fn all() -> Collection<Model> {
    Model::in_installation(INSTALLATION)
}

/// What the operator alone sees.
fn operated(viewer: &Viewer) -> Condition {
    let all = Condition::all();
    if viewer.grant(VIEW).is_some() { all } else { all.add(Expr::Constant(false.into())) }
}

fn seen(viewer: &Viewer, backend: DbBackend) -> Condition {
    match (viewer.grant(VIEW), backend) {
        (Some(_), DbBackend::Postgres) => {
            operated(viewer).add(Expr::cust("(SELECT set_config('oriel.operator', 'on', true)) IS NOT NULL"))
        }
        _ => operated(viewer),
    }
}

/// Whose organisations are: the table `users`, as far as the operator needs it to reach somebody.
pub mod owners {
    use super::*;

    /// A person who owns an organization, for the operator of the installation.
    #[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
    #[sea_orm(table_name = "users")]
    #[graphql(name = "OrganizationOwner")]
    #[read_model(kind = "user", scope = seen, shared)]
    pub struct Model {
        /// The person's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: UserId,
        /// What the person is called; empty when they were forgotten.
        pub name: String,
        /// The person's e-mail address; null when they were forgotten.
        pub email: Option<String>,
    }

    /// None: relations are read through the reader.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}

    impl fmt::Debug for Model {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("OrganizationOwner").field("id", &self.id).finish_non_exhaustive()
        }
    }
}
