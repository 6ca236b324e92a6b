//! Identities: that a person of the installation is known to an identity provider of an organisation, and by what.
//!
//! Invariants: what a provider calls somebody is one person's here, and a person is known to a provider by one name. An
//! identity is linked by the person themselves, or because the provider is to be believed about an address that it has
//! verified, and then only to a member whom it may vouch for; or with the person, who did not exist before. An
//! unlinked one stays so.
//!
//! Whom a provider lets in is decided here, in [`admit`], from what it says and what is known. Nothing here knows how it
//! says so.

use oriel_kernel::{
    Aggregate, Blinder, Command, Decision, ErrorCode, Event, Fact, Given, MemberId, OrganizationId, Outcome,
    Permissions, Personal, Rejection, UserId, ids,
};

use crate::identity_providers::{self, IdentityProviderId, Settings};
use crate::members;
use crate::users::Email;

ids! {
    /// That a person is known to an identity provider.
    IdentityId = "idn",
}

// --- events --------------------------------------------------------------------------------------------------------

/// What can happen to an identity.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "identity")]
pub enum IdentityEvent {
    /// Is a person's.
    #[event("identity_linked")]
    Linked {
        /// Where.
        organization: OrganizationId,
        /// Who knows them.
        provider: IdentityProviderId,
        /// Who they are.
        user: UserId,
        /// What the provider calls them.
        subject: Personal<String>,
        /// See [`subject_hash`].
        subject_hash: String,
        /// Their address there.
        email: Option<Personal<String>>,
    },
    /// Is nobody's any more.
    #[event("identity_unlinked")]
    Unlinked,
}

// --- state ---------------------------------------------------------------------------------------------------------

/// What decides about an identity's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity(Option<Present>);

#[derive(Clone, Debug, PartialEq)]
struct Present {
    organization: OrganizationId,
    provider: IdentityProviderId,
    user: UserId,
    subject_hash: String,
    unlinked: bool,
}

impl Aggregate for Identity {
    type Kind = kinds::IdentityId;
    type Event = IdentityEvent;
    const NOUN: &'static str = "identity";

    fn evolve(&mut self, event: &IdentityEvent) {
        match event {
            IdentityEvent::Linked { organization, provider, user, subject: _, subject_hash, email: _ } => {
                self.0 = Some(Present {
                    organization: *organization,
                    provider: *provider,
                    user: *user,
                    subject_hash: subject_hash.clone(),
                    unlinked: false,
                });
            }
            IdentityEvent::Unlinked => {
                if let Some(identity) = &mut self.0 {
                    identity.unlinked = true;
                }
            }
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.0.as_ref().map(|identity| identity.organization)
    }
}

// --- facts ---------------------------------------------------------------------------------------------------------

/// The keyed hash by which somebody is found whom a provider calls this.
pub fn subject_hash(provider: IdentityProviderId, subject: &str, blinder: &dyn Blinder) -> String {
    blinder.blind("identity", &format!("{provider} {subject}"))
}

fn known_as(organization: OrganizationId, subject_hash: &str) -> Fact {
    Fact::new("identity_subject", organization, subject_hash)
}

fn known_to(organization: OrganizationId, provider: IdentityProviderId, user: UserId) -> Fact {
    Fact::new("identity_user", organization, format!("{provider} {user}"))
}

// --- commands ------------------------------------------------------------------------------------------------------

/// Links what a provider calls somebody to a member. That it is them is checked before.
pub struct LinkIdentity {
    /// Where.
    pub organization: OrganizationId,
    /// Who knows them.
    pub provider: IdentityProviderId,
    /// Who they are.
    pub user: UserId,
    /// As whom they act there.
    pub member: MemberId,
    /// What the provider calls them.
    pub subject: String,
    /// Their address there.
    pub email: Option<String>,
}

impl Command for LinkIdentity {
    type Aggregate = Identity;
    const CREATES: bool = true;

    fn decide(&self, identity: &Identity, given: &Given<'_>) -> Decision<IdentityEvent> {
        crate::must_be_new(identity)?;
        let hash = subject_hash(self.provider, &self.subject, given.blinder);
        let somebody = Rejection::taken("Somebody else is known to the identity provider by this name.");
        let yourself = Rejection::taken("You are known to this identity provider by another name. Unlink that first.");
        let gone = Rejection::conflict("This identity provider signs nobody in any more.");
        let no_member = Rejection::new(ErrorCode::Forbidden, "You are not an active member of this organization.");
        Ok(Outcome::events([IdentityEvent::Linked {
            organization: self.organization,
            provider: self.provider,
            user: self.user,
            subject: Personal::new(self.user, self.subject.clone()),
            subject_hash: hash.clone(),
            email: self.email.as_ref().map(|email| Personal::new(self.user, email.clone())),
        }])
        .claim(known_as(self.organization, &hash), somebody)
        .claim(known_to(self.organization, self.provider, self.user), yourself)
        .require(identity_providers::usable(self.organization, self.provider), gone)
        .require(members::active(self.organization, self.member), no_member))
    }
}

/// Unlinks an identity.
pub struct UnlinkIdentity {
    /// Who wants it: the person themselves; nobody, when it follows from something else.
    pub by: Option<UserId>,
}

impl Command for UnlinkIdentity {
    type Aggregate = Identity;

    fn decide(&self, identity: &Identity, _: &Given<'_>) -> Decision<IdentityEvent> {
        let identity = identity.0.as_ref().ok_or_else(|| Rejection::not_found(Identity::NOUN))?;
        if self.by.is_some_and(|by| by != identity.user) {
            return Err(Rejection::not_found(Identity::NOUN));
        }
        if identity.unlinked {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([IdentityEvent::Unlinked])
            .release(known_as(identity.organization, &identity.subject_hash))
            .release(known_to(identity.organization, identity.provider, identity.user)))
    }
}

// --- whom a provider lets in ---------------------------------------------------------------------------------------

/// What a provider says about somebody.
#[derive(Clone)]
pub struct Asserted {
    /// Their address.
    pub email: Option<Email>,
    /// Whether it has found out that the address is theirs.
    pub email_verified: bool,
}

/// What is known here of whom it speaks.
#[derive(Clone, Debug)]
pub enum Known {
    /// Their identity is linked.
    Linked,
    /// It is not, and a member who may this has the address.
    Member(Permissions),
    /// It is not, and somebody has the address who is no active member here.
    Stranger,
    /// Nobody.
    Nobody,
}

/// How somebody is let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// As who they are.
    SignIn,
    /// As the member who has the address; from now on they are known.
    Link,
    /// As a new person, and a member from now on.
    Join,
}

/// Whether a provider lets somebody in, and how.
///
/// # Errors
/// Why not, in words that tell nobody who has which address.
pub fn admit(provider: &Settings, asserted: &Asserted, known: &Known) -> Result<Admission, Rejection> {
    let refused = |message: &str| Err(Rejection::new(ErrorCode::Forbidden, message));
    let verified = asserted.email.as_ref().filter(|_| asserted.email_verified);
    if !provider.email_domains.is_empty() && !verified.is_some_and(|email| provider.lets_in(email.as_str())) {
        return refused(
            "Only people with a verified e-mail address of this organization's domains sign in by this identity provider.",
        );
    }
    // One answer for all who could sign in otherwise: whether an address is somebody's is nothing to tell.
    let elsewhere = "The identity provider does not say by itself who you are here. If you have an account, sign in \
                     with your password and link this identity provider; else ask an administrator for an invitation.";
    match known {
        Known::Linked => Ok(Admission::SignIn),
        Known::Member(permissions)
            if verified.is_some() && provider.trusts_email && provider.vouches_for(permissions) =>
        {
            Ok(Admission::Link)
        }
        Known::Nobody if provider.provisions && verified.is_some() => Ok(Admission::Join),
        Known::Member(_) | Known::Stranger | Known::Nobody => refused(elsewhere),
    }
}

#[cfg(test)]
mod tests;
