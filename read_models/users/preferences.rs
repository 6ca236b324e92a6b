//! What a person prefers, as they see it on every device.
//!
//! Invariants: a person sees their own, and nobody else's. There is a row of whoever has ever said something. A forgotten
//! person has none.

use std::fmt;
use std::sync::Arc;

use async_graphql::{Enum, SimpleObject};
use oriel_domain::users::UserEvent;
use oriel_domain::users::preferences::Theme as Preferred;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{Recorded, UserId};
use sea_orm::entity::prelude::*;

use crate::{organizations, told};

/// How it looks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumIter, DeriveActiveEnum, Enum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum Theme {
    /// Dark on light.
    #[sea_orm(string_value = "light")]
    Light,
    /// Light on dark.
    #[sea_orm(string_value = "dark")]
    Dark,
    /// As the device has it.
    #[sea_orm(string_value = "system")]
    System,
}

impl From<Preferred> for Theme {
    fn from(theme: Preferred) -> Self {
        match theme {
            Preferred::Light => Self::Light,
            Preferred::Dark => Self::Dark,
            Preferred::System => Self::System,
        }
    }
}

impl From<Theme> for Preferred {
    fn from(theme: Theme) -> Self {
        match theme {
            Theme::Light => Self::Light,
            Theme::Dark => Self::Dark,
            Theme::System => Self::System,
        }
    }
}

/// What one person prefers. `id` is the person's.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "user_preferences")]
#[read_model(kind = "user_preferences", name = "UserPreferences", owner = "id")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: UserId,
    /// How it looks.
    pub theme: Option<Theme>,
    /// In which language they read.
    pub language: Option<String>,
    /// In which time zone they live.
    pub time_zone: Option<String>,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says nothing about the person.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPreferences").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What you prefer, the same on every device and in every organization. `preferencesUpdate` changes it.
#[derive(Clone, SimpleObject)]
pub struct Preferences {
    /// How it looks; null until you say so: then as the client has it.
    theme: Option<Theme>,
    /// The language in which you read, as a BCP 47 tag; null until you say so: then your organization's.
    language: Option<String>,
    /// The time zone in which you live, such as `Europe/Vienna`; null until you say so: then your organization's.
    time_zone: Option<String>,
    /// Your language, or else that of the organization in which you act; null when neither is said.
    effective_language: Option<String>,
    /// Your time zone, or else that of the organization in which you act; null when neither is said.
    effective_time_zone: Option<String>,
}

/// What the viewer's person prefers.
///
/// # Errors
/// The database cannot be read.
pub async fn of_viewer(reader: &Reader) -> Result<Preferences, ReadError> {
    let row = reader.get::<Model>(reader.viewer().user).await?;
    let organization = reader.get::<organizations::Model>(reader.organization()).await?;
    let (theme, language, time_zone) = match row.as_deref() {
        Some(row) => (row.theme, row.language.clone(), row.time_zone.clone()),
        None => (None, None, None),
    };
    let theirs = |of: fn(&organizations::Model) -> &Option<String>| {
        organization.as_ref().and_then(|organization: &Arc<organizations::Model>| of(organization).clone())
    };
    Ok(Preferences {
        theme,
        effective_language: language.clone().or_else(|| theirs(|organization| &organization.language)),
        effective_time_zone: time_zone.clone().or_else(|| theirs(|organization| &organization.time_zone)),
        language,
        time_zone,
    })
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub UserPreferences for Model, version 1, on UserEvent
}

impl On<UserEvent> for UserPreferences {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &UserEvent) {
        match event {
            UserEvent::PreferencesChanged { theme, language, time_zone } => rows.insert(Model {
                id: UserId::from_uuid(at.subject),
                theme: theme.map(Into::into),
                language: language.as_ref().and_then(told),
                time_zone: time_zone.as_ref().and_then(told),
            }),
            UserEvent::Erased => rows.delete(at.subject),
            UserEvent::Registered { .. }
            | UserEvent::Renamed { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::PasswordChanged { .. }
            | UserEvent::PasswordResetRequested { .. }
            | UserEvent::PasswordReset { .. }
            | UserEvent::EmailVerified
            | UserEvent::EmailChangeRequested { .. }
            | UserEvent::EmailChanged { .. }
            | UserEvent::TotpBegun { .. }
            | UserEvent::TotpConfirmed { .. }
            | UserEvent::TotpUsed { .. }
            | UserEvent::RecoveryCodeUsed { .. }
            | UserEvent::RecoveryCodesReplaced { .. }
            | UserEvent::TotpDisabled
            | UserEvent::PasskeyRegistered { .. }
            | UserEvent::PasskeyUsed { .. }
            | UserEvent::PasskeyCloneSuspected { .. }
            | UserEvent::PasskeyRenamed { .. }
            | UserEvent::PasskeyRemoved { .. }
            | UserEvent::SecondFactorReset { .. }
            | UserEvent::MadeAnew { .. }
            | UserEvent::ErasureCompleted { .. } => {}
        }
    }
}
