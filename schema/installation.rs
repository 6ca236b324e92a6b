//! The installation: settings that its operator changes while it runs, and features that are switched on and off.
//!
//! Invariants: everybody is told what holds for them, also who is not known yet: what the operator has to say, whether
//! one may register, which features are on. What is on for whom else, and who changed what, is the operator's to know.
//! Nodes follow as they follow every change of the log.

use std::sync::Arc;

use async_graphql::{Context, Enum, InputObject, MaybeUndefined, SimpleObject};
use oriel_domain::installation::{
    FeatureDescription, FeatureKey, INSTALLATION, Notice, OverrideFeature, Registration, RemoveFeature, SetFeature,
    UpdateInstallation,
};
use oriel_engine::read::Recorder;
use oriel_engine::{CommandContext, Committed};
use oriel_kernel::{Command, OrganizationId, Rejection, operations};
use oriel_read_models::installation::features::{self, Model as Feature, feature_id};
use oriel_read_models::installation::{self as read, Settings};
use oriel_read_models::organizations::accounts::Model as Account;

use crate::access::{Granted, Problems, Result, after_write, reader, unavailable};
use crate::payload::payloads;
use crate::services::Services;

/// What can be asked about the installation by everybody.
#[derive(Default)]
pub struct InstallationQuery;

/// What its operator does with the installation.
#[derive(Default)]
pub struct InstallationMutation;

/// What everybody is told about the installation.
#[derive(SimpleObject)]
pub struct InstallationInfo {
    /// What its operator has to say, for people: 1 to 2000 characters, several lines; null when nothing.
    notice: Option<String>,
    /// Whether the installation is under maintenance: then only its operators change anything, and everybody else is
    /// refused with `MAINTENANCE`; everything can be read.
    maintenance: bool,
    /// Whether everybody may register, and not only whoever was invited.
    registration_open: bool,
}

/// Who may register.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(name = "RegistrationMode", remote = "Registration")]
pub enum RegistrationMode {
    /// Everybody.
    Open,
    /// Whoever was invited.
    Invite,
}

/// The settings of the installation that are changed while it runs.
#[derive(SimpleObject)]
pub struct InstallationSettings {
    /// Who may register; null: whom the server's own setting (`ORIEL_REGISTRATION`) lets.
    registration: Option<RegistrationMode>,
    /// What everybody is told; null when nothing.
    notice: Option<String>,
    /// Whether only operators change anything.
    maintenance: bool,
}

impl From<Settings> for InstallationSettings {
    fn from(settings: Settings) -> Self {
        let Settings { registration, notice, maintenance } = settings;
        Self { registration: registration.map(RegistrationMode::from), notice, maintenance }
    }
}

payloads! {
    /// What became of a change of the installation's settings.
    InstallationPayload {
        /// The settings as they are now.
        settings: InstallationSettings,
    }

    /// What became of a change of a feature.
    FeaturePayload {
        /// The feature as it is now; null after `featureRemove`.
        feature: Arc<Feature>,
    }
}

/// Whether everybody may register, and not only whoever was invited.
pub(crate) fn registration_is_open(settings: &Settings, services: &Services) -> bool {
    match settings.registration {
        Some(registration) => registration == Registration::Open,
        None => services.policy.open_registration,
    }
}

#[operations(query)]
impl InstallationQuery {
    /// What holds for everybody: what the operator has to say, whether there is maintenance, who may register. `live`
    /// follows it. The first organization may always be founded.
    #[public]
    async fn installation(&self, cx: &Context<'_>) -> Result<InstallationInfo> {
        // Asked by who is not known yet too, so not by a reader.
        if let Some(recorder) = cx.data_opt::<Arc<Recorder>>() {
            recorder.record(read::dependency());
        }
        let services = Services::of(cx)?;
        let settings = read::current(services.engine.database().reader()).await.map_err(unavailable)?;
        let registration_open = registration_is_open(&settings, services);
        Ok(InstallationInfo { notice: settings.notice, maintenance: settings.maintenance, registration_open })
    }
}

#[operations(mutation)]
impl InstallationMutation {
    /// Changes settings of the installation, on every node at once. What is left out stays; null is as if it had never
    /// been set. `system { changes }` tells who changed what.
    #[permission("system:manage")]
    async fn installation_update(
        &self,
        cx: &Context<'_>,
        input: InstallationUpdateInput,
    ) -> Result<InstallationPayload> {
        let context = about_installation(&granted, cx, &input)?;
        let mut problems = Problems::default();
        let registration = given(input.registration).map(|mode| mode.map(Registration::from));
        let notice = match given(input.notice) {
            Some(Some(text)) => problems.take("notice", Notice::parse(&text)).map(|notice| Some(Some(notice))),
            Some(None) => Some(Some(None)),
            None => Some(None),
        };
        let Some(notice) = notice else { return Err(problems.failure()) };
        let update = UpdateInstallation { registration, notice, maintenance: input.maintenance };
        let done = execute(cx, &context, update).await?;
        let settings = read::current(Services::of(cx)?.engine.database().reader()).await.map_err(unavailable)?;
        Ok(InstallationPayload {
            settings: Some(settings.into()),
            user_errors: Vec::new(),
            position: Some(done.position),
        })
    }

    /// Sets up a feature, or says otherwise what it is: whether it is on for organizations about which nothing else is
    /// said. `viewer { features }` tells frontends which are on.
    #[permission("system:manage")]
    async fn feature_set(&self, cx: &Context<'_>, input: FeatureSetInput) -> Result<FeaturePayload> {
        let context = about_installation(&granted, cx, &input)?;
        let mut problems = Problems::default();
        let feature = problems.take("key", FeatureKey::parse(&input.key));
        let description = input.description.as_deref().unwrap_or_default();
        let description = problems.take("description", FeatureDescription::parse(description));
        let (Some(feature), Some(description)) = (feature, description) else { return Err(problems.failure()) };
        let set = SetFeature { feature: feature.clone(), description, enabled: input.enabled };
        let done = execute(cx, &context, set).await?;
        payload(cx, &feature, done).await
    }

    /// Switches a feature on or off for one organization, whatever it is for the others; without `enabled` it is there
    /// as for the others again.
    #[permission("system:manage")]
    async fn feature_override(&self, cx: &Context<'_>, input: FeatureOverrideInput) -> Result<FeaturePayload> {
        let context = about_installation(&granted, cx, &input)?;
        let feature = FeatureKey::parse(&input.key).map_err(|r| r.at("key"))?;
        // What was said about one that has ended can be taken back.
        if input.enabled.is_some() && reader(cx)?.get::<Account>(input.organization_id).await?.is_none() {
            return Err(Rejection::not_found("organization").at("organizationId").into());
        }
        let organization = input.organization_id;
        let for_one = OverrideFeature { feature: feature.clone(), organization, enabled: input.enabled };
        let done = execute(cx, &context, for_one).await?;
        payload(cx, &feature, done).await
    }

    /// Removes a feature: it is off for everybody, and nobody's word about it is kept.
    #[permission("system:manage")]
    async fn feature_remove(&self, cx: &Context<'_>, input: FeatureRemoveInput) -> Result<FeaturePayload> {
        let context = about_installation(&granted, cx, &input)?;
        let feature = FeatureKey::parse(&input.key).map_err(|r| r.at("key"))?;
        let done = execute(cx, &context, RemoveFeature { feature: feature.clone() }).await?;
        payload(cx, &feature, done).await
    }
}

/// The context of a command about the installation, which is nobody's.
fn about_installation<I: async_graphql::InputType>(
    granted: &Granted,
    cx: &Context<'_>,
    input: &I,
) -> Result<CommandContext> {
    Ok(CommandContext { organization: OrganizationId::ABSENT, ..granted.command(cx, input)? })
}

async fn execute<C: Command<Aggregate = oriel_domain::installation::Installation>>(
    cx: &Context<'_>,
    context: &CommandContext,
    command: C,
) -> Result<Committed> {
    Ok(Services::of(cx)?.engine.execute(context, INSTALLATION, command).await?)
}

async fn payload(cx: &Context<'_>, key: &FeatureKey, done: Committed) -> Result<FeaturePayload> {
    let feature = after_write::<Feature>(cx, feature_id(key)).await?;
    Ok(FeaturePayload { feature, user_errors: Vec::new(), position: Some(done.position) })
}

/// What an input says: nothing, null, or a value.
fn given<T>(said: MaybeUndefined<T>) -> Option<Option<T>> {
    match said {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(None),
        MaybeUndefined::Value(value) => Some(Some(value)),
    }
}

/// The features that are on for whoever asks, sorted.
///
/// # Errors
/// When nobody is signed in, or the database cannot be read.
pub(crate) async fn enabled(cx: &Context<'_>) -> Result<Vec<String>> {
    Ok(features::enabled(&reader(cx)?).await?)
}

/// A change of the installation's settings.
#[derive(InputObject)]
struct InstallationUpdateInput {
    /// Who may register; null: whom the server's own setting (`ORIEL_REGISTRATION`) lets.
    registration: MaybeUndefined<RegistrationMode>,
    /// What everybody is told: 1 to 2000 characters, several lines; null: nothing.
    notice: MaybeUndefined<String>,
    /// Whether only operators change anything from now on.
    maintenance: Option<bool>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A feature.
#[derive(InputObject)]
struct FeatureSetInput {
    /// What programs call it: 1 to 60 lower-case letters, digits and single dashes, such as `new-editor`.
    key: String,
    /// What it does: 500 characters at most. Left out: nothing is said.
    description: Option<String>,
    /// Whether it is on for organizations about which nothing else is said.
    enabled: bool,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A feature for one organization.
#[derive(InputObject)]
struct FeatureOverrideInput {
    /// What programs call it.
    key: String,
    /// For which organization.
    organization_id: OrganizationId,
    /// Whether it is on there; left out or null: as for the others.
    enabled: Option<bool>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A feature that is to be none any more.
#[derive(InputObject)]
struct FeatureRemoveInput {
    /// What programs call it.
    key: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
