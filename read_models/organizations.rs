//! Organisations as they are read, with what they add up to.
//!
//! Invariants: the counters say what the lists say: `memberCount` counts whom `members` lists as active,
//! `projectCount` what `projects` lists, `documentCount` what `documents` lists by itself (nothing in the trash).
//! Storage counts every revision of every document until it is purged, the trash included, as it does in a project. An
//! event moves a counter once, however often it is folded.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::documents::DocumentEvent;
use oriel_domain::members::MemberEvent;
use oriel_domain::organizations::OrganizationEvent;
use oriel_domain::projects::ProjectEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ByteSize, Connection, PageArgs, ReadError, ReadModel, Reader};
use oriel_kernel::time::to_micros;
use oriel_kernel::{OrganizationId, Recorded, Timestamp, UserId, Viewer};
use sea_orm::DbBackend;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Query;
use sea_orm::{Condition, ConnectionTrait, QueryOrder, QuerySelect, sea_query::Expr};

use crate::documents::counted;
use crate::members::{self, MemberStatus, mine};
use crate::retention::{self, RetentionSetting};
use crate::{events, must, plain, reader, same};

pub mod accounts;
pub mod standings;

/// Whether an organization goes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum OrganizationStatus {
    /// Its people act in it.
    #[sea_orm(string_value = "active")]
    Active,
    /// Nobody can act or read in it until the operator of the installation reinstates it.
    #[sea_orm(string_value = "suspended")]
    Suspended,
}

/// An organization: its people, projects and documents are seen by nobody else.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "organizations")]
#[graphql(name = "Organization", complex)]
#[read_model(kind = "organization", scope = seen, shared, collections(installation = "installation_id"))]
pub struct Model {
    /// The organization's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: OrganizationId,
    /// What it is called.
    pub name: String,
    /// Its name in addresses: unique in the installation, and never another.
    pub slug: String,
    /// The language that it is written to in, as a BCP 47 tag; null until it is set.
    pub language: Option<String>,
    /// The time zone that it lives in, such as `Europe/Vienna`; null until it is set.
    pub time_zone: Option<String>,
    /// Whether its people need a second factor: who has none may do nothing here but set one up.
    pub second_factor_required: bool,
    /// Whether it goes on.
    pub status: OrganizationStatus,
    /// When it ends for good, after `organizationDelete`; null when that is not planned. Until then an owner can call
    /// it off with `organizationDeleteCancel`.
    pub ends_at: Option<Timestamp>,
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
    /// The same of all: by it they are listed together (`accounts.rs`).
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
    /// How it became what it is: its founding, its names and settings, and when it was to end; who changed what, and
    /// when. The newest first. Of the organization in which you act; requires `events:view`.
    async fn history(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many from the beginning.")] first: Option<i32>,
        #[graphql(desc = "Only what stands behind this cursor.")] after: Option<String>,
    ) -> Option<Result<Connection<events::Model>>> {
        let history = || {
            let reader = reader(cx)?;
            must(reader, events::VIEW)?;
            let own = events::Model::in_org(self.id).and(events::Column::SubjectId.eq(self.id.uuid()));
            let page = PageArgs { first, after, ..PageArgs::default() };
            Ok(reader.page(own, page, None, Some(events::newest_first()))?)
        };
        Some(history())
    }

    /// For how long what may be removed is kept here, kind by kind (`retentionUpdate`). What happened (`events`) is of no
    /// kind: it stays. Of the organization in which you act; null of another.
    async fn retention(&self, cx: &Context<'_>) -> Option<Result<Vec<RetentionSetting>>> {
        let settings = async {
            let reader = reader(cx)?;
            if reader.organization() != self.id {
                return Ok(None);
            }
            Ok(Some(retention::settings(reader, retention::rules(cx)?).await?))
        };
        settings.await.transpose()
    }
}

/// The organisation in which the viewer acts, and, unless an identity provider of it speaks for them, the others that the
/// same person is an active member of. Only
/// [`find`] and [`of_viewer`] look for the others, and say themselves that the answer is personal.
fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let joined = Query::select()
        .expr(Expr::val(1))
        .from(members::Entity)
        .and_where(same((members::Entity, members::Column::OrganizationId), (Entity, Column::Id)))
        .and_where(members::Column::UserId.eq(viewer.person().uuid()))
        .and_where(members::Column::Status.eq(MemberStatus::Active))
        .take();
    let own = Condition::any().add(Column::Id.eq(viewer.organization.uuid()));
    if viewer.confined { own } else { own.add(Expr::exists(joined)) }
}

/// The organisation with this id, if the viewer may see it: for ids that come from outside.
///
/// # Errors
/// The database cannot be read.
pub async fn find(reader: &Reader, id: OrganizationId) -> Result<Option<Arc<Model>>, ReadError> {
    reader.recorder().record(members::Model::in_user(reader.viewer().user).dependency());
    reader.get(id).await
}

/// The organisation that operates the installation: the first. None before anybody has registered.
///
/// # Errors
/// The database cannot be read.
pub async fn first(connection: &impl ConnectionTrait) -> Result<Option<OrganizationId>, DbErr> {
    let first = Entity::find().order_by_asc(Column::CreatedPosition).limit(1).one(connection).await?;
    Ok(first.map(|organization| organization.id))
}

/// The organisations that the viewer's person is an active member of, the oldest first; of a key the one in which it
/// acts.
///
/// # Errors
/// The database cannot be read.
pub async fn of_viewer(reader: &Reader) -> Result<Vec<Arc<Model>>, ReadError> {
    let memberships = reader.many(mine::Model::in_user(reader.viewer().user)).await?;
    let active = memberships.iter().filter(|membership| membership.status == MemberStatus::Active);
    let theirs = active.map(|membership| membership.organization_id);
    let of_key = reader.viewer().session().is_none().then_some(reader.organization());
    let found = theirs.chain(of_key).map(|organization| reader.get::<Model>(organization));
    let mut organizations = Vec::new();
    for organization in futures::future::join_all(found).await {
        organizations.extend(organization?);
    }
    organizations.sort_by_key(|organization| organization.id);
    Ok(organizations)
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Organizations for Model, version 4, on OrganizationEvent, MemberEvent, ProjectEvent, DocumentEvent
}

impl On<OrganizationEvent> for Organizations {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &OrganizationEvent) {
        let mut change = |change: &dyn Fn(&mut Model)| {
            rows.update(at.subject, |organization| {
                change(organization);
                organization.version = at.version;
            });
        };
        match event {
            OrganizationEvent::Renamed { name } => change(&|organization| organization.name = plain(name.as_str())),
            OrganizationEvent::OwnerChanged { owner } => change(&|organization| organization.owner_id = *owner),
            OrganizationEvent::Configured { language, time_zone } => change(&|organization| {
                organization.language = language.as_ref().map(|language| language.as_str().to_owned());
                organization.time_zone = time_zone.as_ref().map(|time_zone| time_zone.as_str().to_owned());
            }),
            OrganizationEvent::SecondFactorRequired { required } => {
                change(&|organization| organization.second_factor_required = *required);
            }
            OrganizationEvent::Suspended { reason: _ } => {
                change(&|organization| organization.status = OrganizationStatus::Suspended);
            }
            OrganizationEvent::Reinstated => {
                change(&|organization| organization.status = OrganizationStatus::Active);
            }
            OrganizationEvent::DeletionScheduled { ends_at } => {
                change(&|organization| organization.ends_at = Some(to_micros(*ends_at)));
            }
            OrganizationEvent::DeletionCancelled => change(&|organization| organization.ends_at = None),
            OrganizationEvent::Ended => rows.delete(at.subject),
            // Its version moves with each event.
            OrganizationEvent::SigningKeyAdded | OrganizationEvent::MasterKeyRotated { .. } => change(&|_| {}),
            OrganizationEvent::RowsRemoved { .. } | OrganizationEvent::Erased { .. } => {}
            OrganizationEvent::Created { organization, name, slug, owner } => rows.insert(Model {
                id: *organization,
                name: plain(name.as_str()),
                slug: slug.to_string(),
                language: None,
                time_zone: None,
                second_factor_required: false,
                status: OrganizationStatus::Active,
                ends_at: None,
                created_at: at.at,
                member_count: 0,
                project_count: 0,
                document_count: 0,
                storage_used: ByteSize::default(),
                version: at.version,
                created_position: at.position.number(),
                counted_position: at.position.number(),
                installation_id: accounts::INSTALLATION,
                owner_id: *owner,
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
            MemberEvent::Invited { .. }
            | MemberEvent::RolesChanged { .. }
            | MemberEvent::PermissionGranted { .. }
            | MemberEvent::PermissionRevoked { .. }
            | MemberEvent::SecondFactorReset { .. } => 0,
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
