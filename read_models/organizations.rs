//! Organisations as they are read, with what they add up to.
//!
//! Invariants: the counters say what the lists say: `memberCount` counts whom `members` lists as active,
//! `projectCount` what `projects` lists, `documentCount` what `documents` lists by itself (nothing in the trash).
//! Storage counts every revision of every document until it is purged, the trash included, as it does in a project. An event moves a
//! counter once, however often it is folded.

use std::sync::Arc;

use async_graphql::SimpleObject;
use oriel_domain::documents::DocumentEvent;
use oriel_domain::members::MemberEvent;
use oriel_domain::organizations::OrganizationEvent;
use oriel_domain::projects::ProjectEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ByteSize, ReadError, ReadModel, Reader};
use oriel_kernel::{OrganizationId, Recorded, Timestamp, Viewer};
use sea_orm::DbBackend;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Query;
use sea_orm::{Condition, sea_query::Expr};

use crate::documents::counted;
use crate::members::{self, MemberStatus, mine};
use crate::{plain, same};

/// An organization: its people, projects and documents are seen by nobody else.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "organizations")]
#[graphql(name = "Organization")]
#[read_model(kind = "organization", scope = seen, shared)]
pub struct Model {
    /// The organization's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: OrganizationId,
    /// What it is called.
    pub name: String,
    /// Its name in addresses: unique in the installation, and never another.
    pub slug: String,
    /// When it was founded.
    pub created_at: Timestamp,
    /// How many active members it has: without those who are suspended or have yet to accept their invitation.
    pub member_count: i32,
    /// How many projects it has, the archived ones included.
    pub project_count: i32,
    /// How many documents it has, without those in the trash.
    pub document_count: i32,
    /// Bytes of all its files: every revision of every document, also in the trash, until the document is purged.
    pub storage_used: ByteSize,
    /// The optimistic version: give it back as `expectedVersion`.
    pub version: i32,
    /// Where in the log it was founded; the first organisation operates the installation.
    #[graphql(skip)]
    pub created_position: i64,
    /// The last event that moved a counter.
    #[graphql(skip)]
    pub counted_position: i64,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The organisation in which the viewer acts, and the others that the same person is an active member of. Only
/// [`find`] and [`of_viewer`] look for the others, and say themselves that the answer is personal.
fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let joined = Query::select()
        .expr(Expr::val(1))
        .from(members::Entity)
        .and_where(same((members::Entity, members::Column::OrganizationId), (Entity, Column::Id)))
        .and_where(members::Column::UserId.eq(viewer.user.uuid()))
        .and_where(members::Column::Status.eq(MemberStatus::Active))
        .take();
    Condition::any().add(Column::Id.eq(viewer.organization.uuid())).add(Expr::exists(joined))
}

/// The organisation with this id, if the viewer may see it: for ids that come from outside.
///
/// # Errors
/// The database cannot be read.
pub async fn find(reader: &Reader, id: OrganizationId) -> Result<Option<Arc<Model>>, ReadError> {
    reader.recorder().record(members::Model::in_user(reader.viewer().user).dependency());
    reader.get(id).await
}

/// The organisations that the viewer's person is an active member of, the oldest first.
///
/// # Errors
/// The database cannot be read.
pub async fn of_viewer(reader: &Reader) -> Result<Vec<Arc<Model>>, ReadError> {
    let memberships = reader.many(mine::Model::in_user(reader.viewer().user)).await?;
    let active = memberships.iter().filter(|membership| membership.status == MemberStatus::Active);
    let found = active.map(|membership| reader.get::<Model>(membership.organization_id));
    let mut organizations = Vec::new();
    for organization in futures::future::join_all(found).await {
        organizations.extend(organization?);
    }
    organizations.sort_by_key(|organization| organization.id);
    Ok(organizations)
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Organizations for Model, version 2, on OrganizationEvent, MemberEvent, ProjectEvent, DocumentEvent
}

impl On<OrganizationEvent> for Organizations {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &OrganizationEvent) {
        match event {
            OrganizationEvent::Created { organization, name, slug, owner: _ } => rows.insert(Model {
                id: *organization,
                name: plain(name.as_str()),
                slug: slug.to_string(),
                created_at: at.at,
                member_count: 0,
                project_count: 0,
                document_count: 0,
                storage_used: ByteSize::default(),
                version: at.version,
                created_position: at.position.number(),
                counted_position: at.position.number(),
            }),
            OrganizationEvent::Renamed { name } => rows.update(at.subject, |organization| {
                organization.name = plain(name.as_str());
                organization.version = at.version;
            }),
        }
    }
}

/// Moves counters of the organisation that the event belongs to, once.
fn count(rows: &mut Rows<Model>, at: &Recorded, change: impl FnOnce(&mut Model)) {
    rows.update(at.organization.uuid(), |organization| {
        if organization.counted_position < at.position.number() {
            organization.counted_position = at.position.number();
            change(organization);
        }
    });
}

impl On<MemberEvent> for Organizations {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &MemberEvent) {
        let change = match event {
            MemberEvent::Joined { .. } | MemberEvent::Reactivated => 1,
            MemberEvent::Suspended => -1,
            MemberEvent::Removed { active } => -i32::from(*active),
            MemberEvent::Invited { .. } | MemberEvent::RolesChanged { .. } => 0,
        };
        if change != 0 {
            count(rows, at, |organization| organization.member_count += change);
        }
    }
}

impl On<ProjectEvent> for Organizations {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &ProjectEvent) {
        match event {
            ProjectEvent::Created { .. } => count(rows, at, |organization| organization.project_count += 1),
            ProjectEvent::Renamed { .. }
            | ProjectEvent::Described { .. }
            | ProjectEvent::Archived
            | ProjectEvent::Restored
            | ProjectEvent::MemberAdded { .. }
            | ProjectEvent::MemberRemoved { .. } => {}
        }
    }
}

impl On<DocumentEvent> for Organizations {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &DocumentEvent) {
        let changes = counted(event);
        let documents: i32 = changes.iter().map(|change| change.documents).sum();
        let bytes: i64 = changes.iter().map(|change| change.bytes).sum();
        if documents != 0 || bytes != 0 {
            count(rows, at, |organization| {
                organization.document_count += documents;
                organization.storage_used = grown(organization.storage_used, bytes);
            });
        }
    }
}

/// A size after something was added, or (less than zero) taken away.
pub(crate) fn grown(size: ByteSize, bytes: i64) -> ByteSize {
    let change = ByteSize::new(bytes.unsigned_abs());
    if bytes < 0 { size - change } else { size + change }
}
