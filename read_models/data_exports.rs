//! Data exports as they are read: by the person whom they are about, and by nobody else.
//!
//! Invariants: nothing here says what is in the file. The row of somebody who was erased is gone.

use async_graphql::{ComplexObject, Context, Enum, Result, SimpleObject};
use oriel_domain::data_exports::{DataExportEvent, DataExportId, ExportEnd};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ByteSize, ReadModel};
use oriel_kernel::time::to_micros;
use oriel_kernel::{Recorded, Timestamp, UserId};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, QuerySelect};

use crate::documents::{Download, contents};
use crate::passing;

/// How far a data export is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum DataExportStatus {
    /// Nobody works on it yet; or it is tried again.
    #[sea_orm(string_value = "pending")]
    Pending,
    /// It is being made.
    #[sea_orm(string_value = "running")]
    Running,
    /// It can be downloaded.
    #[sea_orm(string_value = "ready")]
    Ready,
    /// It could not be made; `reason` says why. Ask for another.
    #[sea_orm(string_value = "failed")]
    Failed,
    /// Its time was over, and the file is gone.
    #[sea_orm(string_value = "expired")]
    Expired,
    /// You did not want it any more, and the file is gone.
    #[sea_orm(string_value = "discarded")]
    Discarded,
}

/// Everything that is held about you, as a file: a ZIP of JSON files, with a list of them.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "data_exports")]
#[graphql(name = "DataExport", complex)]
#[read_model(kind = "data_export", owner = "user_id", collections(user = "user_id"))]
pub struct Model {
    /// The export's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: DataExportId,
    /// About whom.
    #[graphql(skip)]
    pub user_id: UserId,
    /// How far it is.
    pub status: DataExportStatus,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// How often it was tried to make it.
    pub attempts: i32,
    /// Why the last attempt failed; null when it did not.
    pub reason: Option<String>,
    /// When the file was there.
    pub completed_at: Option<Timestamp>,
    /// When the file goes by itself.
    pub ends_at: Option<Timestamp>,
    /// Bytes of the file.
    pub size: Option<ByteSize>,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: Option<String>,
    /// The key under which the file is kept. Never shown.
    #[graphql(skip)]
    pub blob: Option<String>,
    /// The optimistic version.
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// A signed URL to download the file from, for a limited time; null unless it is ready. Whoever has it can download
    /// the file: give it to nobody.
    async fn download_url(&self, cx: &Context<'_>) -> Option<Result<String>> {
        let blob = self.blob.as_deref()?;
        passing(cx);
        let file_name = format!("{}.zip", self.id);
        let file = Download { blob, file_name: &file_name, media_type: "application/zip" };
        Some(async { contents(cx)?.download_url(&file).await }.await)
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub DataExports for Model, version 1, on DataExportEvent
}

impl On<DataExportEvent> for DataExports {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &DataExportEvent) {
        let mut change = |change: &dyn Fn(&mut Model)| {
            rows.update(at.subject, |export| {
                change(export);
                export.version = at.version;
            });
        };
        match event {
            DataExportEvent::Requested { user } => rows.insert(Model {
                id: DataExportId::from_uuid(at.subject),
                user_id: *user,
                status: DataExportStatus::Pending,
                created_at: at.at,
                attempts: 0,
                reason: None,
                completed_at: None,
                ends_at: None,
                size: None,
                sha256: None,
                blob: None,
                version: at.version,
            }),
            DataExportEvent::Started { attempt } => change(&|export| {
                (export.status, export.attempts) = (DataExportStatus::Running, *attempt);
            }),
            DataExportEvent::Failed { attempt: _, reason } => change(&|export| {
                (export.status, export.reason) = (DataExportStatus::Pending, Some(reason.clone()));
            }),
            DataExportEvent::Completed { blob, size, sha256, ends_at } => change(&|export| {
                (export.status, export.reason) = (DataExportStatus::Ready, None);
                (export.completed_at, export.ends_at) = (Some(at.at), Some(to_micros(*ends_at)));
                (export.size, export.sha256) =
                    (Some(ByteSize::new(u64::try_from(*size).unwrap_or(0))), Some(sha256.clone()));
                export.blob = Some(blob.clone());
            }),
            DataExportEvent::Ended { reason: ExportEnd::Erased, blob: _ } => rows.delete(at.subject),
            DataExportEvent::Ended { reason, blob: _ } => change(&|export| {
                export.status = match reason {
                    ExportEnd::Failed => DataExportStatus::Failed,
                    ExportEnd::Discarded => DataExportStatus::Discarded,
                    ExportEnd::Expired | ExportEnd::Erased => DataExportStatus::Expired,
                };
                export.blob = None;
            }),
        }
    }
}

/// The exports that are due to end, some of them.
///
/// # Errors
/// The database cannot be read.
pub async fn due(connection: &impl ConnectionTrait, now: Timestamp) -> Result<Vec<DataExportId>, DbErr> {
    let due = Entity::find().select_only().column(Column::Id).filter(Column::Status.eq(DataExportStatus::Ready));
    due.filter(Column::EndsAt.lte(now)).limit(100).into_tuple().all(connection).await
}

/// The exports of a person, whoever asks: for the one that erases them.
///
/// # Errors
/// The database cannot be read.
pub async fn of_person(connection: &impl ConnectionTrait, user: UserId) -> Result<Vec<Model>, DbErr> {
    Entity::find().filter(Column::UserId.eq(user.uuid())).all(connection).await
}

/// The files of all exports.
///
/// # Errors
/// The database cannot be read.
pub async fn files(connection: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let files = Entity::find().select_only().column(Column::Blob).filter(Column::Blob.is_not_null());
    files.into_tuple().all(connection).await
}
