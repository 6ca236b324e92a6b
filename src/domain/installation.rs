//! The installation: those of its settings that are changed while it runs, and the features that are switched on and
//! off.
//!
//! Invariants: there is one. It belongs to no organisation; who may change it is decided by the permission alone. A
//! feature has one key, and an organisation has at most one word of its own about it. Everything here is told to
//! everybody, or to whom a feature is for: nothing secret or personal belongs in it.

use std::collections::BTreeMap;

use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Given, OrganizationId, Outcome, Rejection, bounded_text, ids,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

ids! {
    /// The installation.
    InstallationId = "ins",
}

/// The one installation.
pub const INSTALLATION: InstallationId = InstallationId::from_uuid(Uuid::from_u128(1));

/// The most features.
pub const MAX_FEATURES: usize = 200;
/// The most organisations that have a word of their own about a feature.
pub const MAX_OVERRIDES: usize = 500;

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to the installation.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "installation")]
pub enum InstallationEvent {
    /// Somebody else may register from now on.
    #[event("installation_registration_set")]
    RegistrationSet {
        /// Who; none: whom the server's own setting lets.
        registration: Option<Registration>,
    },
    /// Everybody is told something else.
    #[event("installation_notice_set")]
    NoticeSet {
        /// What; none: nothing.
        notice: Option<Notice>,
    },
    /// Only operators change anything, or everybody does again.
    #[event("installation_maintenance_set")]
    MaintenanceSet {
        /// Whether only operators do.
        maintenance: bool,
    },
    /// A feature is there.
    #[event("installation_feature_added")]
    FeatureAdded {
        /// Which.
        feature: FeatureKey,
        /// What it does, for people.
        description: FeatureDescription,
        /// Whether it is on for an organisation that has no word of its own.
        enabled: bool,
    },
    /// A feature is said to be otherwise. What organisations have of their own about it stays.
    #[event("installation_feature_changed")]
    FeatureChanged {
        /// Which.
        feature: FeatureKey,
        /// What it does, for people.
        description: FeatureDescription,
        /// Whether it is on for an organisation that has no word of its own.
        enabled: bool,
    },
    /// A feature is on or off for an organisation, whatever it is for the others.
    #[event("installation_feature_overridden")]
    FeatureOverridden {
        /// Which.
        feature: FeatureKey,
        /// For which organisation.
        organization: OrganizationId,
        /// Whether it is on; none: as for the others again.
        enabled: Option<bool>,
    },
    /// A feature is none any more.
    #[event("installation_feature_removed")]
    FeatureRemoved {
        /// Which.
        feature: FeatureKey,
    },
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What everybody is told.
    Notice: 1..=2000 multiline,
    /// What a feature does.
    FeatureDescription: 0..=500,
}

/// Who may register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Everybody.
    Open,
    /// Whoever was invited.
    Invite,
}

/// What programs call a feature: lower-case letters, digits and single dashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeatureKey(String);

impl FeatureKey {
    /// The key, trimmed.
    ///
    /// # Errors
    /// `REQUIRED`, `TOO_LONG` beyond 60 characters, or `INVALID`.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 60, false)?;
        let fits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !text.split('-').all(fits) {
            let message = "Lower-case letters, digits and single dashes between them, such as `new-editor`.";
            return Err(Rejection::new(ErrorCode::Invalid, message));
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about the next change of the installation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Installation {
    changed: bool,
    registration: Option<Registration>,
    notice: Option<Notice>,
    maintenance: bool,
    features: BTreeMap<FeatureKey, Feature>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Feature {
    description: FeatureDescription,
    enabled: bool,
    overrides: BTreeMap<OrganizationId, bool>,
}

impl Aggregate for Installation {
    type Kind = kinds::InstallationId;
    type Event = InstallationEvent;
    const NOUN: &'static str = "installation";

    fn evolve(&mut self, event: &InstallationEvent) {
        self.changed = true;
        match event {
            InstallationEvent::RegistrationSet { registration } => self.registration = *registration,
            InstallationEvent::NoticeSet { notice } => self.notice.clone_from(notice),
            InstallationEvent::MaintenanceSet { maintenance } => self.maintenance = *maintenance,
            InstallationEvent::FeatureAdded { feature, description, enabled }
            | InstallationEvent::FeatureChanged { feature, description, enabled } => {
                let feature = self.features.entry(feature.clone()).or_default();
                (feature.description, feature.enabled) = (description.clone(), *enabled);
            }
            InstallationEvent::FeatureOverridden { feature, organization, enabled } => {
                let Some(feature) = self.features.get_mut(feature) else { return };
                match enabled {
                    Some(enabled) => feature.overrides.insert(*organization, *enabled),
                    None => feature.overrides.remove(organization),
                };
            }
            InstallationEvent::FeatureRemoved { feature } => {
                self.features.remove(feature);
            }
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.changed.then_some(OrganizationId::ABSENT)
    }
}

fn no_feature() -> Rejection {
    Rejection::not_found("feature").at("key")
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Changes settings of the installation. What is left out stays.
#[derive(Default)]
pub struct UpdateInstallation {
    /// Who may register from now on; `Some(None)`: whom the server's own setting lets.
    pub registration: Option<Option<Registration>>,
    /// What everybody is told from now on; `Some(None)`: nothing.
    pub notice: Option<Option<Notice>>,
    /// Whether only operators change anything from now on.
    pub maintenance: Option<bool>,
}

impl Command for UpdateInstallation {
    type Aggregate = Installation;
    const CREATES: bool = true;

    fn decide(&self, installation: &Installation, _: &Given<'_>) -> Decision<InstallationEvent> {
        let registration = self.registration.filter(|registration| *registration != installation.registration);
        let notice = self.notice.clone().filter(|notice| *notice != installation.notice);
        let maintenance = self.maintenance.filter(|maintenance| *maintenance != installation.maintenance);
        let events = [
            registration.map(|registration| InstallationEvent::RegistrationSet { registration }),
            notice.map(|notice| InstallationEvent::NoticeSet { notice }),
            maintenance.map(|maintenance| InstallationEvent::MaintenanceSet { maintenance }),
        ];
        Ok(Outcome::events(events.into_iter().flatten()))
    }
}

/// Sets up a feature, or says otherwise what it is and for whom.
pub struct SetFeature {
    /// What programs call it.
    pub feature: FeatureKey,
    /// What it does.
    pub description: FeatureDescription,
    /// Whether it is on where nothing else is said.
    pub enabled: bool,
}

impl Command for SetFeature {
    type Aggregate = Installation;
    const CREATES: bool = true;

    fn decide(&self, installation: &Installation, _: &Given<'_>) -> Decision<InstallationEvent> {
        let (feature, description, enabled) = (self.feature.clone(), self.description.clone(), self.enabled);
        Ok(match installation.features.get(&feature) {
            Some(known) if known.description == description && known.enabled == enabled => Outcome::nothing(),
            Some(_) => Outcome::events([InstallationEvent::FeatureChanged { feature, description, enabled }]),
            None if installation.features.len() >= MAX_FEATURES => {
                let message = format!("There are {MAX_FEATURES} features. Remove one that nobody asks for any more.");
                return Err(Rejection::new(ErrorCode::LimitExceeded, message));
            }
            None => Outcome::events([InstallationEvent::FeatureAdded { feature, description, enabled }]),
        })
    }
}

/// Switches a feature on or off for one organisation, or lets it be there as for the others.
pub struct OverrideFeature {
    /// Which.
    pub feature: FeatureKey,
    /// For which organisation.
    pub organization: OrganizationId,
    /// Whether it is on; none: as for the others.
    pub enabled: Option<bool>,
}

impl Command for OverrideFeature {
    type Aggregate = Installation;
    const CREATES: bool = true;

    fn decide(&self, installation: &Installation, _: &Given<'_>) -> Decision<InstallationEvent> {
        let overrides = &installation.features.get(&self.feature).ok_or_else(no_feature)?.overrides;
        let said = overrides.get(&self.organization).copied();
        if said == self.enabled {
            return Ok(Outcome::nothing());
        }
        if said.is_none() && overrides.len() >= MAX_OVERRIDES {
            let message = format!(
                "{MAX_OVERRIDES} organizations have a word of their own about this feature. Switch it for everybody."
            );
            return Err(Rejection::new(ErrorCode::LimitExceeded, message));
        }
        let (feature, organization, enabled) = (self.feature.clone(), self.organization, self.enabled);
        Ok(Outcome::events([InstallationEvent::FeatureOverridden { feature, organization, enabled }]))
    }
}

/// Removes a feature, with what organisations have of their own about it.
pub struct RemoveFeature {
    /// Which.
    pub feature: FeatureKey,
}

impl Command for RemoveFeature {
    type Aggregate = Installation;
    const CREATES: bool = true;

    fn decide(&self, installation: &Installation, _: &Given<'_>) -> Decision<InstallationEvent> {
        if !installation.features.contains_key(&self.feature) {
            return Err(no_feature());
        }
        Ok(Outcome::events([InstallationEvent::FeatureRemoved { feature: self.feature.clone() }]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, uuid};

    fn desk() -> Desk {
        Desk { organization: OrganizationId::ABSENT, ..Desk::new() }
    }

    fn key(text: &str) -> FeatureKey {
        FeatureKey::parse(text).unwrap()
    }

    fn set(feature: &str, enabled: bool) -> SetFeature {
        SetFeature { feature: key(feature), description: FeatureDescription::default(), enabled }
    }

    fn for_one(feature: &str, organization: u128, enabled: Option<bool>) -> OverrideFeature {
        OverrideFeature { feature: key(feature), organization: OrganizationId::from_uuid(uuid(organization)), enabled }
    }

    #[test]
    fn what_is_left_out_stays_and_the_same_again_is_nothing() {
        let (mut desk, mut installation) = (desk(), Installation::default());
        let notice = Notice::parse("Back at noon.").ok();
        let both = UpdateInstallation {
            notice: Some(notice.clone()),
            maintenance: Some(true),
            ..UpdateInstallation::default()
        };
        let events = desk.done(INSTALLATION.uuid(), &mut installation, &both);
        assert_eq!(
            events,
            [InstallationEvent::NoticeSet { notice }, InstallationEvent::MaintenanceSet { maintenance: true }]
        );
        assert_eq!(desk.done(INSTALLATION.uuid(), &mut installation, &both), []);
        let over = UpdateInstallation { maintenance: Some(false), ..UpdateInstallation::default() };
        desk.done(INSTALLATION.uuid(), &mut installation, &over);
        let quiet = UpdateInstallation { notice: Some(None), ..UpdateInstallation::default() };
        let events = desk.done(INSTALLATION.uuid(), &mut installation, &quiet);
        assert_eq!(events, [InstallationEvent::NoticeSet { notice: None }]);
        let closed = UpdateInstallation { registration: Some(Some(Registration::Invite)), ..Default::default() };
        assert_eq!(desk.done(INSTALLATION.uuid(), &mut installation, &closed).len(), 1);
    }

    #[test]
    fn a_feature_is_there_before_an_organization_has_a_word_of_its_own() {
        let (mut desk, mut installation) = (desk(), Installation::default());
        let refused = desk.refused(INSTALLATION.uuid(), &installation, &for_one("editor", 3, Some(true)));
        assert_eq!(refused, (ErrorCode::NotFound, "key"));
        desk.done(INSTALLATION.uuid(), &mut installation, &set("editor", false));
        assert_eq!(desk.done(INSTALLATION.uuid(), &mut installation, &set("editor", false)), []);
        desk.done(INSTALLATION.uuid(), &mut installation, &for_one("editor", 3, Some(true)));
        assert_eq!(desk.done(INSTALLATION.uuid(), &mut installation, &for_one("editor", 3, Some(true))), []);
        desk.done(INSTALLATION.uuid(), &mut installation, &for_one("editor", 3, None));
        assert_eq!(desk.done(INSTALLATION.uuid(), &mut installation, &for_one("editor", 3, None)), []);
        desk.done(INSTALLATION.uuid(), &mut installation, &RemoveFeature { feature: key("editor") });
        let again = desk.refused(INSTALLATION.uuid(), &installation, &RemoveFeature { feature: key("editor") });
        assert_eq!(again, (ErrorCode::NotFound, "key"));
        for wrong in ["", "Editor", "a--b", "-a", "ä", "a b"] {
            assert!(FeatureKey::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn features_and_words_of_their_own_are_bounded() {
        let mut installation = Installation::default();
        for n in 0..MAX_FEATURES {
            installation.features.insert(key(&format!("f{n}")), Feature::default());
        }
        installation.changed = true;
        let one_more = desk().refused(INSTALLATION.uuid(), &installation, &set("one-more", true));
        assert_eq!(one_more.0, ErrorCode::LimitExceeded);
        let overrides = (0..MAX_OVERRIDES as u128).map(|n| (OrganizationId::from_uuid(uuid(n + 10)), true)).collect();
        installation.features.get_mut(&key("f1")).unwrap().overrides = overrides;
        let one_more = desk().refused(INSTALLATION.uuid(), &installation, &for_one("f1", 3, Some(true)));
        assert_eq!(one_more.0, ErrorCode::LimitExceeded);
        let mut desk = desk();
        assert_eq!(desk.done(INSTALLATION.uuid(), &mut installation, &for_one("f1", 10, Some(false))).len(), 1);
    }

    proptest! {
        /// Whatever is said in whatever order: a word of its own is about a feature that is there, and each event
        /// changes something.
        #[test]
        fn random_histories(steps in proptest::collection::vec((0u8..5, 0usize..3, 1u128..4, any::<bool>()), 0..60)) {
            let (mut desk, mut installation) = (desk(), Installation::default());
            for (what, which, who, enabled) in steps {
                let (feature, before) = (["one", "two", "three"][which], installation.clone());
                let id = INSTALLATION.uuid();
                let written = match what {
                    0 => desk.execute(id, &mut installation, &set(feature, enabled)),
                    1 => desk.execute(id, &mut installation, &for_one(feature, who, Some(enabled))),
                    2 => desk.execute(id, &mut installation, &for_one(feature, who, None)),
                    3 => desk.execute(id, &mut installation, &RemoveFeature { feature: key(feature) }),
                    _ => {
                        let change = UpdateInstallation { maintenance: Some(enabled), ..UpdateInstallation::default() };
                        desk.execute(id, &mut installation, &change)
                    }
                };
                let is_known = before.features.contains_key(&key(feature));
                prop_assert_eq!(written.is_err(), (1..=3).contains(&what) && !is_known);
                if written.is_ok_and(|events| !events.is_empty()) {
                    prop_assert_ne!(before, installation.clone());
                }
            }
        }
    }
}
