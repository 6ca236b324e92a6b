//! Organisations: tenants.
//!
//! Invariants: a slug belongs to one organisation of the installation and never changes. An organisation belongs to
//! itself. Who its owner is stands in `members.rs`.

use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, OrganizationId, Outcome, Rejection, UserId,
    bounded_text, kinds,
};
use serde::{Deserialize, Serialize};

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to an organisation.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "organization")]
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
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What an organisation is called.
    OrganizationName: 1..=120,
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
}

impl Aggregate for Organization {
    type Kind = kinds::OrganizationId;
    type Event = OrganizationEvent;
    const NOUN: &'static str = "organization";

    fn evolve(&mut self, event: &OrganizationEvent) {
        match event {
            OrganizationEvent::Created { organization, name, .. } => {
                self.id = Some(*organization);
                self.name = name.clone();
            }
            OrganizationEvent::Renamed { name } => self.name = name.clone(),
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.id
    }
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
        .claim(slug_fact(&self.slug), taken))
    }
}

/// Changes what an organisation is called.
pub struct RenameOrganization {
    /// What it is called from now on.
    pub name: OrganizationName,
}

impl Command for RenameOrganization {
    type Aggregate = Organization;

    fn decide(&self, organization: &Organization, _: &Given<'_>) -> Decision<OrganizationEvent> {
        if organization.name == self.name {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([OrganizationEvent::Renamed { name: self.name.clone() }]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, user, uuid};

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
        assert_eq!(desk.done(uuid(1), &mut acme, &RenameOrganization { name: name("Acme") }), []);
        let renamed = desk.done(uuid(1), &mut acme, &RenameOrganization { name: name("Acme Labs") });
        assert_eq!(renamed, [OrganizationEvent::Renamed { name: name("Acme Labs") }]);
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
        fn whatever_happens_a_slug_names_one(steps in prop::collection::vec((1u128..4, 0u8..2, 0usize..3), 0..30)) {
            let mut desk = Desk::new();
            let mut all = vec![Organization::default(); 4];
            let mut slugs = std::collections::BTreeSet::new();
            for (who, what, which) in steps {
                desk.organization = OrganizationId::from_uuid(uuid(who));
                let state = &mut all[who as usize];
                let before = state.clone();
                let written = match what {
                    0 => desk.execute(uuid(who), state, &create(["acme", "apex", "atlas"][which])),
                    _ => desk.execute(uuid(who), state, &RenameOrganization { name: name(["A", "B", "C"][which]) }),
                };
                for event in written.unwrap_or_default() {
                    match event {
                        OrganizationEvent::Created { slug, .. } => prop_assert!(slugs.insert(slug)),
                        OrganizationEvent::Renamed { name } => prop_assert_ne!(name, before.name.clone()),
                    }
                }
            }
        }
    }
}
