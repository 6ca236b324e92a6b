//! Features as they are read: what each is by default, and for which organisations it is otherwise.
//!
//! Invariants: whether a feature is on is answered for the reader's organisation alone; what is said about others is
//! the operator's, who gets the rows themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_graphql::{ComplexObject, SimpleObject};
use aws_lc_rs::digest::{SHA256, digest};
use oriel_domain::installation::{FeatureKey, InstallationEvent};
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{Id, OrganizationId, Recorded, Timestamp};
use sea_orm::FromJsonQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use uuid::Builder;

use super::{INSTALLATION, everybody};

/// Something that frontends show or do when it is switched on.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "features")]
#[graphql(name = "Feature", complex)]
#[read_model(kind = "feature", scope = everybody, shared, collections(installation = "installation_id"))]
pub struct Model {
    /// The feature.
    #[sea_orm(primary_key, auto_increment = false)]
    #[graphql(skip)]
    pub id: Uuid,
    /// The same of all.
    #[graphql(skip)]
    pub installation_id: Uuid,
    /// What programs call it.
    pub key: String,
    /// What it does.
    #[sea_orm(column_type = "Text")]
    pub description: String,
    /// Whether it is on for organizations about which nothing else is said.
    pub enabled: bool,
    /// For which organisations it is otherwise said.
    #[graphql(skip)]
    #[sea_orm(column_type = "JsonBinary")]
    pub overrides: Overrides,
    /// When anything of this was changed.
    pub changed_at: Timestamp,
}

/// Organisations for which something of its own is said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Overrides(BTreeMap<Uuid, bool>);

/// That a feature is on or off for one organization.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureOverride {
    /// For which.
    organization_id: OrganizationId,
    /// Whether it is on there.
    enabled: bool,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[ComplexObject]
impl Model {
    /// For which organizations it is on or off, whatever it is for the others.
    #[graphql(name = "overrides")]
    async fn shown_overrides(&self) -> Vec<FeatureOverride> {
        let overrides = self.overrides.0.iter();
        overrides
            .map(|(id, enabled)| FeatureOverride { organization_id: Id::from_uuid(*id), enabled: *enabled })
            .collect()
    }
}

impl Model {
    /// Whether it is on for this organisation.
    pub fn is_on(&self, organization: OrganizationId) -> bool {
        self.overrides.0.get(&organization.uuid()).copied().unwrap_or(self.enabled)
    }
}

/// All features, by their keys. For the operator.
///
/// # Errors
/// The database cannot be read.
pub async fn all(reader: &Reader) -> Result<Vec<Arc<Model>>, ReadError> {
    let mut features = reader.many(Model::in_installation(INSTALLATION)).await?.to_vec();
    features.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(features)
}

/// The keys of the features that are on for the reader's organisation, sorted.
///
/// # Errors
/// The database cannot be read.
pub async fn enabled(reader: &Reader) -> Result<Vec<String>, ReadError> {
    let on = all(reader).await?;
    let on = on.iter().filter(|feature| feature.is_on(reader.organization()));
    Ok(on.map(|feature| feature.key.clone()).collect())
}

/// The id of the row of the feature with this key.
pub fn feature_id(key: &FeatureKey) -> Uuid {
    let whole = digest(&SHA256, format!("feature:{}", key.as_str()).as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&whole.as_ref()[..16]);
    Builder::from_custom_bytes(beginning).into_uuid()
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Features for Model, version 1, on InstallationEvent
}

impl On<InstallationEvent> for Features {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &InstallationEvent) {
        let mut change = |feature: &FeatureKey, change: &dyn Fn(&mut Model)| {
            rows.update(feature_id(feature), |feature| {
                change(feature);
                feature.changed_at = at.at;
            });
        };
        match event {
            InstallationEvent::FeatureChanged { feature, description, enabled } => change(feature, &|feature| {
                feature.description = description.to_string();
                feature.enabled = *enabled;
            }),
            InstallationEvent::FeatureOverridden { feature, organization, enabled } => change(feature, &|feature| {
                match enabled {
                    Some(enabled) => feature.overrides.0.insert(organization.uuid(), *enabled),
                    None => feature.overrides.0.remove(&organization.uuid()),
                };
            }),
            InstallationEvent::FeatureRemoved { feature } => rows.delete(feature_id(feature)),
            InstallationEvent::FeatureAdded { feature, description, enabled } => rows.insert(Model {
                id: feature_id(feature),
                installation_id: INSTALLATION,
                key: feature.as_str().to_owned(),
                description: description.to_string(),
                enabled: *enabled,
                overrides: Overrides::default(),
                changed_at: at.at,
            }),
            InstallationEvent::RegistrationSet { .. }
            | InstallationEvent::NoticeSet { .. }
            | InstallationEvent::MaintenanceSet { .. } => {}
        }
    }
}
