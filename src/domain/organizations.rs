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
