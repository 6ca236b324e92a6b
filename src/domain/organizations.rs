//! Organisations: tenants, from their founding to their end.
//!
//! Invariants: a slug belongs to one organisation of the installation and never changes. An organisation belongs to
//! itself. Who may be its owner is decided in `members.rs`, and written down here. What somebody may do in it rests on
//! [`open`]: not while it is suspended, and never after its end. A deletion is scheduled, can be cancelled until its
//! moment, and is for good from [`EndOrganization`] on: its data key is destroyed, its rows go one event after the
//! other, and at last a certificate says what is clean. After that nothing happens to it any more.

use oriel_kernel::{
    Aggregate, Command, Decision, Effect, ErrorCode, Event, Fact, Given, OrganizationId, Outcome, Position, Rejection,
    Timestamp, UserId, bounded_text, kinds,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to an organisation.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "organization", effect = OrganizationEvent::does)]
pub enum OrganizationEvent {
    /// Was founded.
    #[event("organization_created")]
    Created {
        /// Itself: the tenant that its events belong to.
        organization: OrganizationId,
        /// What it is called.
        name: OrganizationName,
        /// Its name in addresses.
        slug: Slug,
        /// Who founded it.
        owner: UserId,
    },
    /// Is called otherwise.
    #[event("organization_renamed")]
    Renamed {
        /// What it is called now.
        name: OrganizationName,
    },
    /// Belongs to somebody else.
    #[event("organization_owner_changed")]
    OwnerChanged {
        /// Who owns it now.
        owner: UserId,
    },
    /// Has other settings.
    #[event("organization_configured")]
    Configured {
        /// The language that it is written to in.
        language: Option<Language>,
        /// The time zone that it lives in.
        time_zone: Option<TimeZone>,
    },
    /// Asks its people for a second factor, or does so no more.
    #[event("organization_second_factor_required")]
    SecondFactorRequired {
        /// Whether it does.
        required: bool,
    },
    /// Operates the installation, and has added a key that access tokens are signed with.
    #[event("organization_signing_key_added")]
    SigningKeyAdded,
    /// Operates the installation, the keys of which are wrapped by another master key from now on.
    #[event("organization_master_key_rotated")]
    MasterKeyRotated {
        /// The one before.
        from: MasterKeyName,
        /// The one from now on.
        to: MasterKeyName,
    },
    /// Nobody can act or read in it for now.
    #[event("organization_suspended")]
    Suspended {
        /// Why, for its people.
        reason: SuspensionReason,
    },
    /// Goes on.
    #[event("organization_reinstated")]
    Reinstated,
    /// Will end, unless that is cancelled.
    #[event("organization_deletion_scheduled")]
    DeletionScheduled {
        /// Not before.
        ends_at: Timestamp,
    },
    /// Will not end.
    #[event("organization_deletion_cancelled")]
    DeletionCancelled,
    /// Has ended: nobody can act or read in it any more, and what it says about persons is erased.
    #[event("organization_ended")]
    Ended,
    /// These rows of it are gone.
    #[event("organization_rows_removed")]
    RowsRemoved {
        /// Of which read model.
        read_model: String,
        /// Which rows.
        ids: Vec<Uuid>,
    },
    /// Nothing is left of it but its sealed log: the certificate.
    #[event("organization_erased")]
    Erased {
        /// What was cleaned, and up to where.
        stores: Vec<Cleaned>,
    },
}

/// A master key where it is spoken of: it is not to be found out from this.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MasterKeyName {
    /// What it is called. It follows from the key.
    pub id: String,
    /// Where it is kept.
    pub place: MasterKeyPlace,
}

/// Where a master key is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasterKeyPlace {
    /// In the settings of each node.
    Settings,
    /// In a file of the data folder.
    File,
    /// In the database, sealed by this key of a key management service.
    Kms(String),
}

/// That nothing is left somewhere of what was to be erased.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cleaned {
    /// Where.
    pub store: String,
    /// The place in the log at which that was so.
    pub position: Position,
}

impl OrganizationEvent {
    fn does(&self) -> Option<Effect<'_>> {
        match self {
            Self::Ended => Some(Effect::DestroysKey),
            Self::RowsRemoved { read_model, ids } => Some(Effect::RemovesRows { read_model, ids }),
            Self::Created { .. }
            | Self::Renamed { .. }
            | Self::OwnerChanged { .. }
            | Self::Configured { .. }
            | Self::SecondFactorRequired { .. }
            | Self::Suspended { .. }
            | Self::Reinstated
            | Self::DeletionScheduled { .. }
            | Self::DeletionCancelled
            | Self::SigningKeyAdded
            | Self::MasterKeyRotated { .. }
            | Self::Erased { .. } => None,
        }
    }
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What an organisation is called.
    OrganizationName: 1..=120,
}

bounded_text! {
    /// Why an organisation is suspended.
    SuspensionReason: 1..=500,
}

/// A language, as a BCP 47 tag: `de`, `pt-BR`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Language(String);

impl Language {
    /// The tag, trimmed.
    ///
    /// # Errors
    /// `REQUIRED`, `TOO_LONG`, or `INVALID` when it does not look like a tag.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 2, 35, false)?;
        let mut parts = text.split('-');
        let first = parts.next().unwrap_or_default();
        let fits = (2..=3).contains(&first.len())
            && first.bytes().all(|b| b.is_ascii_lowercase())
            && parts.all(|part| (2..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
        if !fits {
            return Err(Rejection::new(ErrorCode::Invalid, "A language tag such as `de` or `pt-BR`."));
        }
        Ok(Self(text))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A time zone, by its name in the tz database: `Europe/Vienna`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeZone(String);

impl TimeZone {
    /// The name, trimmed.
    ///
    /// # Errors
    /// `REQUIRED`, `TOO_LONG`, or `INVALID` when it does not look like such a name. Whether there is a zone of this
    /// name is not known here: there are new ones each year.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 60, false)?;
        let fits = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
        };
        if !text.split('/').all(fits) {
            let message = "The name of a time zone, such as `Europe/Vienna` or `UTC`.";
            return Err(Rejection::new(ErrorCode::Invalid, message));
        }
        Ok(Self(text))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An organisation's name in addresses: lower-case letters, digits and single dashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slug(String);

impl Slug {
    const MAX: usize = 60;

    /// The slug, trimmed.
    ///
    /// # Errors
    /// `REQUIRED`, `TOO_LONG`, or `INVALID` when it has anything but lower-case letters, digits and single dashes.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 2, Self::MAX, false)?;
        let fits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !text.split('-').all(fits) {
            let message = "Lower-case letters, digits and single dashes between them, such as `acme-labs`.";
            return Err(Rejection::new(ErrorCode::Invalid, message));
        }
        Ok(Self(text))
    }

    /// A slug for an organisation that did not choose one: its name, and the end of its id, which is random.
    pub fn for_name(name: &OrganizationName, id: OrganizationId) -> Self {
        let mut slug = String::new();
        for c in name.as_str().chars().flat_map(char::to_lowercase) {
            if c.is_ascii_alphanumeric() {
                slug.push(c);
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        slug.truncate(Self::MAX - 9);
        let id = id.to_string();
        let end = &id[id.len() - 8..];
        let name = slug.trim_end_matches('-');
        Self(if name.is_empty() { end.to_owned() } else { format!("{name}-{end}") })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Slug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about an organisation's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Organization {
    id: Option<OrganizationId>,
    name: OrganizationName,
    slug: Slug,
    owner: UserId,
    language: Option<Language>,
    time_zone: Option<TimeZone>,
    second_factor_required: bool,
    suspended: bool,
    /// When its deletion is due.
    ends_at: Option<Timestamp>,
    end: End,
}

/// How far the end of an organisation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    NotYet,
    /// Its rows are being removed.
    Ended,
    /// Nothing is left.
    Erased,
}

impl Aggregate for Organization {
    type Kind = kinds::OrganizationId;
    type Event = OrganizationEvent;
    const NOUN: &'static str = "organization";

    fn evolve(&mut self, event: &OrganizationEvent) {
        match event {
            OrganizationEvent::Created { organization, name, slug, owner } => {
                self.id = Some(*organization);
                self.name = name.clone();
                self.slug = slug.clone();
                self.owner = *owner;
            }
            OrganizationEvent::Renamed { name } => self.name = name.clone(),
            OrganizationEvent::OwnerChanged { owner } => self.owner = *owner,
            OrganizationEvent::Configured { language, time_zone } => {
                self.language.clone_from(language);
                self.time_zone.clone_from(time_zone);
            }
            OrganizationEvent::SecondFactorRequired { required } => self.second_factor_required = *required,
            OrganizationEvent::Suspended { reason: _ } => self.suspended = true,
            OrganizationEvent::Reinstated => self.suspended = false,
            OrganizationEvent::DeletionScheduled { ends_at } => self.ends_at = Some(*ends_at),
            OrganizationEvent::DeletionCancelled => self.ends_at = None,
            OrganizationEvent::Ended => self.end = End::Ended,
            OrganizationEvent::RowsRemoved { .. }
            | OrganizationEvent::SigningKeyAdded
            | OrganizationEvent::MasterKeyRotated { .. } => {}
            OrganizationEvent::Erased { stores: _ } => self.end = End::Erased,
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.id
    }
}

impl Organization {
    /// Its id, unless it has ended: then it looks absent.
    fn present(&self) -> Result<OrganizationId, Rejection> {
        self.id.filter(|_| self.end == End::NotYet).ok_or_else(|| Rejection::not_found(Self::NOUN))
    }

    /// Its id, while its end goes on.
    fn ending(&self) -> Result<OrganizationId, Rejection> {
        let ending = self.id.filter(|_| self.end == End::Ended);
        ending.ok_or_else(|| Rejection::conflict("This organization has not ended, or everything of it is gone."))
    }
}

/// That people can act in an organisation: it is neither suspended nor at its end. What somebody may do rests on it.
pub fn open(organization: OrganizationId) -> Fact {
    Fact::new("organization_open", organization, "open")
}

fn is_open() -> Rejection {
    Rejection::conflict("This organization is open already.")
}

fn slug_fact(slug: &Slug) -> Fact {
    Fact { scope: "organization_slug".to_owned(), value: slug.to_string() }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Founds an organisation. Its first member joins in the same transaction: `members::FoundMember`.
pub struct CreateOrganization {
    /// What it is called.
    pub name: OrganizationName,
    /// Its name in addresses; [`Slug::for_name`] when none was chosen.
    pub slug: Slug,
    /// Who founds it.
    pub owner: UserId,
}

impl Command for CreateOrganization {
    type Aggregate = Organization;
    const CREATES: bool = true;

    fn decide(&self, organization: &Organization, given: &Given<'_>) -> Decision<OrganizationEvent> {
        crate::must_be_new(organization)?;
        let taken = Rejection::taken("Another organization has this slug. Choose another.").at("slug");
        Ok(Outcome::events([OrganizationEvent::Created {
            organization: OrganizationId::from_uuid(given.id),
            name: self.name.clone(),
            slug: self.slug.clone(),
            owner: self.owner,
        }])
        .claim(slug_fact(&self.slug), taken)
        .claim(open(OrganizationId::from_uuid(given.id)), is_open()))
    }
}

/// Changes what an organisation is called, and its settings. What is left out stays.
#[derive(Default)]
pub struct UpdateOrganization {
    /// What it is called from now on.
    pub name: Option<OrganizationName>,
    /// The language that it is written to in from now on.
    pub language: Option<Language>,
    /// The time zone that it lives in from now on.
    pub time_zone: Option<TimeZone>,
}

impl Command for UpdateOrganization {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.present()?;
        let renamed = self.name.clone().filter(|name| organization.name != *name);
        let renamed = renamed.map(|name| OrganizationEvent::Renamed { name });
        let language = self.language.clone().or_else(|| organization.language.clone());
        let time_zone = self.time_zone.clone().or_else(|| organization.time_zone.clone());
        let changed = language != organization.language || time_zone != organization.time_zone;
        let configured = changed.then_some(OrganizationEvent::Configured { language, time_zone });
        Ok(Outcome::events(renamed.into_iter().chain(configured)))
    }
}

/// Writes down who owns an organisation from now on. Committed together with `members::TakeOver` and
/// `members::StepDown`, which decide that they may.
pub struct ChangeOwner {
    /// Who.
    pub owner: UserId,
}

impl Command for ChangeOwner {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.present()?;
        if organization.owner == self.owner {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([OrganizationEvent::OwnerChanged { owner: self.owner }]))
    }
}

/// Asks the people of an organisation for a second factor, or does so no more.
pub struct RequireSecondFactor {
    /// Whether it does from now on.
    pub required: bool,
}

impl Command for RequireSecondFactor {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.present()?;
        if organization.second_factor_required == self.required {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([OrganizationEvent::SecondFactorRequired { required: self.required }]))
    }
}

/// Writes that a key was added that access tokens are signed with, in the organisation that operates the installation.
pub struct AddSigningKey;

impl Command for AddSigningKey {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.present()?;
        Ok(Outcome::events([OrganizationEvent::SigningKeyAdded]))
    }
}

/// Writes that another master key wraps the keys, in the organisation that operates the installation.
pub struct RotateMasterKey {
    /// The one before.
    pub from: MasterKeyName,
    /// The one from now on.
    pub to: MasterKeyName,
}

impl Command for RotateMasterKey {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.present()?;
        let (from, to) = (self.from.clone(), self.to.clone());
        Ok(Outcome::events([OrganizationEvent::MasterKeyRotated { from, to }]))
    }
}

/// Keeps everybody from acting or reading in an organisation until it is reinstated.
pub struct SuspendOrganization {
    /// Why, for its people.
    pub reason: SuspensionReason,
}

impl Command for SuspendOrganization {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        let id = organization.present()?;
        if organization.suspended {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([OrganizationEvent::Suspended { reason: self.reason.clone() }]).release(open(id)))
    }
}

/// Lets an organisation go on.
pub struct ReinstateOrganization;

impl Command for ReinstateOrganization {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        let id = organization.present()?;
        if !organization.suspended {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([OrganizationEvent::Reinstated]).claim(open(id), is_open()))
    }
}

/// Schedules the end of an organisation. Until then it goes on as it is.
pub struct ScheduleDeletion {
    /// Not before.
    pub ends_at: Timestamp,
}

impl Command for ScheduleDeletion {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.present()?;
        // Asked again, it does not begin anew.
        if organization.ends_at.is_some() {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([OrganizationEvent::DeletionScheduled { ends_at: self.ends_at }]))
    }
}

/// Lets an organisation be whose end was scheduled.
pub struct CancelDeletion;

impl Command for CancelDeletion {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.present()?;
        if organization.ends_at.is_none() {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([OrganizationEvent::DeletionCancelled]))
    }
}

/// Ends an organisation whose end is due. The rest is done by [`RemoveRows`] and [`CertifyEnd`].
pub struct EndOrganization;

impl Command for EndOrganization {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, given: &Given<'_>) -> Decision<OrganizationEvent> {
        if organization.end != End::NotYet {
            return Ok(Outcome::nothing());
        }
        if organization.ends_at.is_none_or(|ends_at| given.now < ends_at) {
            return Err(Rejection::conflict("The end of this organization is not due."));
        }
        let ended = Outcome::events([OrganizationEvent::Ended]).release(slug_fact(&organization.slug));
        Ok(ended.release(open(organization.present()?)))
    }
}

/// Removes rows of an organisation that has ended.
pub struct RemoveRows {
    /// Of which read model, and which: at most [`Effect::MOST`].
    pub rows: (&'static str, Vec<Uuid>),
}

impl Command for RemoveRows {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        organization.ending()?;
        let (read_model, ids) = (self.rows.0.to_owned(), self.rows.1.clone());
        Ok(Outcome::events([OrganizationEvent::RowsRemoved { read_model, ids }]))
    }
}

/// Certifies that nothing is left of an organisation.
pub struct CertifyEnd {
    /// What was cleaned, and up to where.
    pub stores: Vec<Cleaned>,
}

impl Command for CertifyEnd {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        if organization.end == End::Erased {
            return Ok(Outcome::nothing());
        }
        organization.ending()?;
        Ok(Outcome::events([OrganizationEvent::Erased { stores: self.stores.clone() }]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, at, user, uuid};

    fn rename(text: &str) -> UpdateOrganization {
        UpdateOrganization { name: Some(name(text)), ..UpdateOrganization::default() }
    }

    fn name(text: &str) -> OrganizationName {
        OrganizationName::parse(text).unwrap()
    }

    fn create(slug: &str) -> CreateOrganization {
        CreateOrganization { name: name("Acme"), slug: Slug::parse(slug).unwrap(), owner: user(9) }
    }

    #[test]
    fn it_belongs_to_itself_and_its_slug_to_it_alone() {
        let (mut desk, mut acme) = (Desk::new(), Organization::default());
        let events = desk.done(uuid(1), &mut acme, &create("acme"));
        assert_eq!(events.len(), 1);
        assert_eq!(acme.tenant(), Some(OrganizationId::from_uuid(uuid(1))));
        assert_eq!(desk.refused(uuid(2), &Organization::default(), &create("acme")), (ErrorCode::Taken, "slug"));
        assert_eq!(desk.refused(uuid(1), &acme, &create("other")), (ErrorCode::Conflict, ""));
    }

    #[test]
    fn renaming_to_the_same_name_writes_nothing() {
        let (mut desk, mut acme) = (Desk::new(), Organization::default());
        desk.done(uuid(1), &mut acme, &create("acme"));
        assert_eq!(desk.done(uuid(1), &mut acme, &rename("Acme")), []);
        let renamed = desk.done(uuid(1), &mut acme, &rename("Acme Labs"));
        assert_eq!(renamed, [OrganizationEvent::Renamed { name: name("Acme Labs") }]);
    }

    #[test]
    fn what_is_left_out_of_the_settings_stays() {
        let (mut desk, mut acme) = (Desk::new(), Organization::default());
        desk.done(uuid(1), &mut acme, &create("acme"));
        let (language, time_zone) = (Language::parse("pt-BR").ok(), TimeZone::parse("Europe/Vienna").ok());
        let command = UpdateOrganization { language: language.clone(), ..UpdateOrganization::default() };
        desk.done(uuid(1), &mut acme, &command);
        let command = UpdateOrganization { time_zone: time_zone.clone(), ..UpdateOrganization::default() };
        let changed = desk.done(uuid(1), &mut acme, &command);
        assert_eq!(changed, [OrganizationEvent::Configured { language, time_zone }]);
        assert_eq!(desk.done(uuid(1), &mut acme, &command), []);
        for bad in ["", "d", "DE", "de_AT", "de-", "deutsch", "de-x"] {
            assert!(Language::parse(bad).is_err(), "{bad}");
        }
        for (zone, good) in
            [("UTC", true), ("Etc/GMT+1", true), ("America/Port-au-Prince", true), ("a b", false), ("/x", false)]
        {
            assert_eq!(TimeZone::parse(zone).is_ok(), good, "{zone}");
        }
    }

    #[test]
    fn an_end_is_scheduled_and_can_be_cancelled_until_it_is_there() {
        let (mut desk, mut acme) = (Desk::new(), Organization::default());
        desk.done(uuid(1), &mut acme, &create("acme"));
        assert_eq!(desk.refused(uuid(1), &acme, &EndOrganization), (ErrorCode::Conflict, ""));
        let schedule = ScheduleDeletion { ends_at: at(10) };
        desk.done(uuid(1), &mut acme, &schedule);
        assert_eq!(desk.done(uuid(1), &mut acme, &ScheduleDeletion { ends_at: at(20) }), [], "it does not begin anew");
        desk.now = at(9);
        assert_eq!(desk.refused(uuid(1), &acme, &EndOrganization), (ErrorCode::Conflict, ""));
        desk.done(uuid(1), &mut acme, &CancelDeletion);
        desk.now = at(30);
        assert_eq!(desk.refused(uuid(1), &acme, &EndOrganization), (ErrorCode::Conflict, ""));
        desk.done(uuid(1), &mut acme, &ScheduleDeletion { ends_at: at(30) });
        assert_eq!(desk.done(uuid(1), &mut acme, &EndOrganization), [OrganizationEvent::Ended]);
        assert_eq!(desk.refused(uuid(1), &acme, &CancelDeletion), (ErrorCode::NotFound, ""));
        assert_eq!(desk.refused(uuid(1), &acme, &rename("Acme Labs")), (ErrorCode::NotFound, ""));
        // Its slug is free.
        desk.done(uuid(2), &mut Organization::default(), &create("acme"));
    }

    #[test]
    fn slugs() {
        for good in ["ab", "acme-labs", "a1-2"] {
            assert!(Slug::parse(good).is_ok(), "{good}");
        }
        for bad in ["a", "Acme", "acme--labs", "-acme", "acme-", "äcme", "a b"] {
            assert_eq!(Slug::parse(bad).map_err(|r| r.code), Err(ErrorCode::Invalid), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_has_a_slug(text in "\\PC{1,120}", id: u128) {
            if let Ok(name) = OrganizationName::parse(&text) {
                let slug = Slug::for_name(&name, OrganizationId::from_uuid(uuid(id)));
                prop_assert_eq!(Slug::parse(slug.as_str()), Ok(slug));
            }
        }

        #[test]
        fn whatever_happens_a_slug_names_one_and_an_end_is_for_good(
            steps in prop::collection::vec((1u128..4, 0u8..10, 0usize..3), 0..60),
        ) {
            let mut desk = Desk::new();
            let mut all = vec![Organization::default(); 4];
            let mut slugs = std::collections::BTreeSet::new();
            for (second, (who, what, which)) in (0..).zip(steps) {
                desk.now = at(second);
                let id = OrganizationId::from_uuid(uuid(who));
                desk.organization = id;
                let state = &mut all[who as usize];
                let before = state.clone();
                let reason = SuspensionReason::parse("Because.").unwrap();
                let written = match what {
                    0 => desk.execute(uuid(who), state, &create(["acme", "apex", "atlas"][which])),
                    1 => desk.execute(uuid(who), state, &rename(["A", "B", "C"][which])),
                    2 => desk.execute(uuid(who), state, &SuspendOrganization { reason }),
                    3 => desk.execute(uuid(who), state, &ReinstateOrganization),
                    4 => desk.execute(uuid(who), state, &ScheduleDeletion { ends_at: at(second + 3) }),
                    5 => desk.execute(uuid(who), state, &CancelDeletion),
                    6 => desk.execute(uuid(who), state, &EndOrganization),
                    7 => desk.execute(uuid(who), state, &ChangeOwner { owner: user(which as u128) }),
                    8 => desk.execute(uuid(who), state, &RemoveRows { rows: ("documents", vec![uuid(1)]) }),
                    _ => desk.execute(uuid(who), state, &CertifyEnd { stores: vec![] }),
                };
                for event in written.unwrap_or_default() {
                    prop_assert!(before.end != End::Erased, "{event:?}");
                    let removes =
                        matches!(event, OrganizationEvent::RowsRemoved { .. } | OrganizationEvent::Erased { .. });
                    prop_assert_eq!(removes, before.end == End::Ended, "{:?}", &event);
                    match event {
                        OrganizationEvent::Created { slug, .. } => prop_assert!(slugs.insert(slug)),
                        OrganizationEvent::Renamed { name } => prop_assert_ne!(name, before.name.clone()),
                        OrganizationEvent::OwnerChanged { owner } => prop_assert_ne!(owner, before.owner),
                        OrganizationEvent::Ended => {
                            prop_assert!(before.ends_at.is_some_and(|ends_at| ends_at <= desk.now));
                            prop_assert!(slugs.remove(&before.slug));
                        }
                        _ => {}
                    }
                }
                let goes_on = state.id.is_some() && !state.suspended && state.end == End::NotYet;
                prop_assert_eq!(desk.facts.contains(&open(id)), goes_on);
            }
        }
    }
}
