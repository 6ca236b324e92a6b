//! Projects as they are read, with what they add up to.
//!
//! Invariants: the counters follow the same rule as those of the organisation (`organizations.rs`); an event moves a
//! counter once, however often it is folded. `version` and `updatedAt` are the project's own: what happens to its
//! documents moves neither. Who sees a project stands in `viewer.rs`.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::documents::DocumentEvent;
use oriel_domain::projects::{ProjectEvent, ProjectId};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ByteSize, Connection, PageArgs, ReadModel};
use oriel_kernel::{MemberId, OrganizationId, Permission, Recorded, Timestamp};
use sea_orm::entity::prelude::*;

use crate::documents::{self, DocumentFilter, DocumentOrder, counted};
use crate::organizations::grown;
use crate::{must, plain, reader};

pub mod members;

/// Seeing projects.
pub const VIEW: Permission = Permission::new("projects", "view");

/// Whether a project is in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum ProjectStatus {
    /// In use.
    #[sea_orm(string_value = "active")]
    Active,
    /// Put away: it and its documents can be read, and nothing is added.
    #[sea_orm(string_value = "archived")]
    Archived,
}

/// A named place for documents and people inside an organization.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "projects")]
#[graphql(name = "Project", complex)]
#[read_model(kind = "project", tenant = "organization_id", visible_by = "id", collections(org = "organization_id"))]
pub struct Model {
    /// The project's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ProjectId,
    /// Where it is.
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// What it is called.
    #[read_model(filter, order)]
    pub name: String,
    /// Its short name: unique in the organization, and never another.
    #[read_model(filter, order)]
    pub key: String,
    /// What it is about.
    pub description: Option<String>,
    /// Whether it is in use.
    #[read_model(filter)]
    pub status: ProjectStatus,
    /// Whose it is.
    #[graphql(skip)]
    #[read_model(filter)]
    pub owner_id: MemberId,
    /// How many members it has, the owner included.
    pub member_count: i32,
    /// How many documents are in it, without those in the trash.
    pub document_count: i32,
    /// Bytes of all its files: every revision of every document, also in the trash, until the document is purged.
    pub storage_used: ByteSize,
    /// When it was made.
    #[read_model(filter, order)]
    pub created_at: Timestamp,
    /// When it was changed itself: its name, description, status or members.
    #[read_model(filter, order)]
    pub updated_at: Timestamp,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
    /// The last event that moved a counter.
    #[graphql(skip)]
    pub counted_position: i64,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// Whose it is; null when they are no member of the organization any more.
    async fn owner(&self, cx: &Context<'_>) -> Option<Result<Arc<crate::members::Model>>> {
        let owner = async { Ok(reader(cx)?.get::<crate::members::Model>(self.owner_id).await?) };
        owner.await.transpose()
    }

    /// Who is in it, in the order in which they came unless another is wanted.
    #[allow(clippy::too_many_arguments)]
    async fn members(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many from the beginning.")] first: Option<i32>,
        #[graphql(desc = "Only what stands behind this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end.")] last: Option<i32>,
        #[graphql(desc = "Only what stands before this cursor.")] before: Option<String>,
        #[graphql(desc = "Which of them.")] filter: Option<members::ProjectMemberFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<members::ProjectMemberOrder>>,
    ) -> Result<Connection<members::Model>> {
        let reader = reader(cx)?;
        must(reader, crate::members::VIEW)?;
        let order = order_by.unwrap_or_else(members::by_coming);
        let page = PageArgs::new(first, after, last, before);
        Ok(reader.page(members::Model::in_project(self.id), page, filter, Some(order))?)
    }

    /// Its documents. Those in the trash are listed only if the filter names the status `TRASHED`.
    #[allow(clippy::too_many_arguments)]
    async fn documents(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many from the beginning.")] first: Option<i32>,
        #[graphql(desc = "Only what stands behind this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end.")] last: Option<i32>,
        #[graphql(desc = "Only what stands before this cursor.")] before: Option<String>,
        #[graphql(desc = "Which of them.")] filter: Option<DocumentFilter>,
        #[graphql(desc = "In which order; by default the oldest first.")] order_by: Option<Vec<DocumentOrder>>,
    ) -> Result<Connection<documents::Model>> {
        let reader = reader(cx)?;
        must(reader, documents::VIEW)?;
        let listed = documents::listed(documents::Model::in_project(self.id), filter.as_ref());
        Ok(reader.page(listed, PageArgs::new(first, after, last, before), filter, order_by)?)
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Projects for Model, version 1, on ProjectEvent, DocumentEvent
}

impl On<ProjectEvent> for Projects {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &ProjectEvent) {
        let mut change = |change: &dyn Fn(&mut Model)| {
            rows.update(at.subject, |project| {
                change(project);
                project.version = at.version;
                project.updated_at = at.at;
            });
        };
        match event {
            ProjectEvent::Renamed { name } => change(&|project| project.name = plain(name.as_str())),
            ProjectEvent::Described { description } => {
                change(&|project| project.description = described(description.as_str()));
            }
            ProjectEvent::Archived => change(&|project| project.status = ProjectStatus::Archived),
            ProjectEvent::Restored => change(&|project| project.status = ProjectStatus::Active),
            ProjectEvent::MemberAdded { member: _ } => change(&|project| once(project, at, |p| p.member_count += 1)),
            ProjectEvent::MemberRemoved { member: _ } => change(&|project| once(project, at, |p| p.member_count -= 1)),
            ProjectEvent::Created { project, organization, key, name, description, owner } => rows.insert(Model {
                id: *project,
                organization_id: *organization,
                name: plain(name.as_str()),
                key: key.to_string(),
                description: description.as_ref().and_then(|text| described(text.as_str())),
                status: ProjectStatus::Active,
                owner_id: *owner,
                member_count: 1,
                document_count: 0,
                storage_used: ByteSize::default(),
                created_at: at.at,
                updated_at: at.at,
                version: at.version,
                counted_position: at.position.number(),
            }),
        }
    }
}

impl On<DocumentEvent> for Projects {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &DocumentEvent) {
        for change in counted(event) {
            rows.update(change.project.uuid(), |project| {
                once(project, at, |project| {
                    project.document_count += change.documents;
                    project.storage_used = grown(project.storage_used, change.bytes);
                });
            });
        }
    }
}

/// Moves counters, unless this event has done so already.
fn once(project: &mut Model, at: &Recorded, change: impl FnOnce(&mut Model)) {
    if project.counted_position < at.position.number() {
        project.counted_position = at.position.number();
        change(project);
    }
}

fn described(text: &str) -> Option<String> {
    Some(plain(text)).filter(|text| !text.is_empty())
}
