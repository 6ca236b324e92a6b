//! Settings of the installation that are changed while it runs, as they are read: a row for each that was ever set.
//!
//! Invariants: a row says all of its setting, so that the last event about it makes it. They hold for everybody, and
//! some of them for who is not known yet: those are read without a reader, by [`current`]. What changed when, and who
//! did it, stands in `changes.rs`.

use oriel_domain::installation::{InstallationEvent, Registration};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{Dependency, ReadError, ReadModel, Reader};
use oriel_kernel::{Recorded, Timestamp, Viewer};
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ConnectionTrait, DbBackend, DbErr};

pub mod changes;
pub mod features;

/// What the column holds by which everything of the installation is listed together.
const INSTALLATION: Uuid = Uuid::nil();

/// Which setting.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum Setting {
    /// Who may register.
    #[sea_orm(string_value = "registration")]
    Registration,
    /// What everybody is told.
    #[sea_orm(string_value = "notice")]
    Notice,
    /// Whether only operators change anything.
    #[sea_orm(string_value = "maintenance")]
    Maintenance,
}

/// A setting that was set.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "installation_settings")]
#[read_model(
    kind = "installation_setting",
    name = "InstallationSetting",
    scope = everybody,
    shared,
    collections(installation = "installation_id")
)]
pub struct Model {
    /// The setting.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The same of all.
    pub installation_id: Uuid,
    /// Which setting.
    pub setting: Setting,
    /// What it is; none: as if it had never been set.
    #[sea_orm(column_type = "Text", nullable)]
    pub value: Option<String>,
    /// Since when.
    pub changed_at: Timestamp,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub(crate) fn everybody(_: &Viewer, _: DbBackend) -> Condition {
    Condition::all()
}

/// The settings of the installation, as they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Who may register; none: whom the server's own setting lets.
    pub registration: Option<Registration>,
    /// What everybody is told.
    pub notice: Option<String>,
    /// Whether only operators change anything.
    pub maintenance: bool,
}

impl Settings {
    fn of<'a>(rows: impl IntoIterator<Item = &'a Model>) -> Self {
        let mut settings = Self::default();
        for row in rows {
            match row.setting {
                Setting::Registration => {
                    settings.registration = row.value.as_deref().map(|value| match value {
                        OPEN => Registration::Open,
                        _ => Registration::Invite,
                    });
                }
                Setting::Notice => settings.notice.clone_from(&row.value),
                Setting::Maintenance => settings.maintenance = row.value.is_some(),
            }
        }
        settings
    }
}

/// How the table calls what everybody may do, and what is on.
const OPEN: &str = "open";
const INVITE: &str = "invite";
const ON: &str = "on";

/// What whoever follows the settings depends on.
pub fn dependency() -> Dependency {
    Model::in_installation(INSTALLATION).dependency()
}

/// The settings, for an answer.
///
/// # Errors
/// The database cannot be read.
pub async fn settings(reader: &Reader) -> Result<Settings, ReadError> {
    let rows = reader.many(Model::in_installation(INSTALLATION)).await?;
    Ok(Settings::of(rows.iter().map(|row| &**row)))
}

/// The settings, for who is not known yet and for what is decided by them.
///
/// # Errors
/// The database cannot be read.
pub async fn current(connection: &impl ConnectionTrait) -> Result<Settings, DbErr> {
    let rows = Entity::find().all(connection).await?;
    Ok(Settings::of(&rows))
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub InstallationSettings for Model, version 1, on InstallationEvent
}

impl On<InstallationEvent> for InstallationSettings {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &InstallationEvent) {
        let (id, setting, value) = match event {
            InstallationEvent::RegistrationSet { registration } => {
                let value = registration.map(|registration| match registration {
                    Registration::Open => OPEN.to_owned(),
                    Registration::Invite => INVITE.to_owned(),
                });
                (1, Setting::Registration, value)
            }
            InstallationEvent::NoticeSet { notice } => {
                (2, Setting::Notice, notice.as_ref().map(|notice| crate::plain(notice.as_str())))
            }
            InstallationEvent::MaintenanceSet { maintenance } => {
                (3, Setting::Maintenance, maintenance.then(|| ON.to_owned()))
            }
            InstallationEvent::FeatureAdded { .. }
            | InstallationEvent::FeatureChanged { .. }
            | InstallationEvent::FeatureOverridden { .. }
            | InstallationEvent::FeatureRemoved { .. } => return,
        };
        rows.insert(Model {
            id: Uuid::from_u128(id),
            installation_id: INSTALLATION,
            setting,
            value,
            changed_at: at.at,
        });
    }
}
