//! Identity providers: servers of an organisation that say, by OpenID Connect, who somebody is.
//!
//! Invariants: the name of a provider is unique in its organisation, whatever its case; who issues its tokens is never
//! changed, because people are known by what that issuer calls them. **Nobody gives away more than they have**: a role
//! that a provider gives is covered by what whoever names it may, and is never the owner's. A provider is believed about
//! addresses only within domains that are named, and vouches by an address for nobody who may more than whoever set it
//! up last (its ceiling): of such a person it speaks only once they have said so themselves. What is shown to
//! the provider is in no event but sealed. A deleted one stays so.
//!
//! Nothing here knows HTTP, or what a token looks like; whom a provider lets in is decided in `identities.rs`.

use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, Grant, OrganizationId, Outcome, Pattern, Permissions,
    Rejection, bounded_text, ids,
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::roles::{AssignedRole, Role, RoleName};

ids! {
    /// An identity provider.
    IdentityProviderId = "idp",
}

// --- events --------------------------------------------------------------------------------------------------------

/// What can happen to an identity provider.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "identity_provider")]
pub enum IdentityProviderEvent {
    /// Was set up.
    #[event("identity_provider_created")]
    Created {
        /// Where.
        organization: OrganizationId,
        /// Who issues its tokens.
        issuer: Issuer,
        /// What is shown to it to be its client.
        client_secret: Option<SealedSecret>,
        /// All else.
        settings: Settings,
    },
    /// Is now as this says.
    #[event("identity_provider_changed")]
    Changed {
        /// All that can be changed.
        settings: Settings,
    },
    /// Is shown another secret, or none.
    #[event("identity_provider_secret_changed")]
    SecretChanged {
        /// What is shown to it from now on.
        client_secret: Option<SealedSecret>,
    },
    /// Signs nobody in any more.
    #[event("identity_provider_deleted")]
    Deleted,
}

/// What can be changed of a provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What people call it.
    pub name: ProviderName,
    /// What it calls this installation.
    pub client_id: ClientId,
    /// What it is asked for; `openid` among them.
    pub scopes: Vec<Scope>,
    /// Where it may send people back to.
    pub redirect_uris: Vec<RedirectUri>,
    /// Whether it signs anybody in.
    pub enabled: bool,
    /// The claim that says what somebody is there; without it roles are nothing of the provider's.
    pub roles_claim: Option<ClaimName>,
    /// What its values mean here.
    pub role_mappings: Vec<RoleMapping>,
    /// What somebody is here of whom none of them says anything.
    pub default_roles: Vec<Role>,
    /// Whether people who are not here become members when they come.
    pub provisions: bool,
    /// Whose addresses are let in; all, when there is none.
    pub email_domains: Vec<EmailDomain>,
    /// Whether an address in one of these domains that the provider has verified says who somebody is here.
    pub trusts_email: bool,
    /// What whoever set it up last may.
    pub ceiling: Vec<Pattern>,
}

/// What a value of the claim means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleMapping {
    /// As the provider says it.
    pub value: ClaimValue,
    /// What somebody is here of whom it is said.
    pub role: Role,
}

// --- parsed types --------------------------------------------------------------------------------------------------

bounded_text! {
    /// What people call a provider.
    ProviderName: 1..=80,
    /// What a provider calls its client.
    ClientId: 1..=255,
    /// The name of a claim, or a path of names with dots.
    ClaimName: 1..=120,
    /// A value of a claim.
    ClaimValue: 1..=200,
}

/// A secret that was sealed for one provider, in base64. It prints as nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedSecret(String);

impl SealedSecret {
    /// From what was sealed.
    pub fn new(sealed: &[u8]) -> Self {
        Self(data_encoding::BASE64.encode(sealed))
    }

    /// What was sealed.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        data_encoding::BASE64.decode(self.0.as_bytes()).ok()
    }

    /// As it is kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedSecret(***)")
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )+};
}

texts! {
    /// Who issues tokens: the address under which a provider says what it is like.
    Issuer
    /// Where a provider sends people back to.
    RedirectUri
    /// The domain of e-mail addresses, in lower case.
    EmailDomain
    /// What a provider is asked for.
    Scope
}

impl Issuer {
    /// The address, as it was typed: the provider has to write it the same.
    ///
    /// # Errors
    /// `INVALID` when it is none.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 400, false)?;
        let invalid = || {
            let message = "The issuer is an address such as https://id.example.org, without query; with http:// only on \
                           this machine.";
            Rejection::new(ErrorCode::Invalid, message)
        };
        let url = Url::parse(&text).map_err(|_| invalid())?;
        let plain = is_plain(&url) && url.query().is_none();
        if plain && (url.scheme() == "https" || is_here(&url)) { Ok(Self(text)) } else { Err(invalid()) }
    }
}

impl RedirectUri {
    /// The address, as it was typed: it is compared letter by letter.
    ///
    /// # Errors
    /// `INVALID` when it is none.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 500, false)?;
        let invalid = || {
            let message = "People are sent back to an https:// address without fragment, to http:// on their own \
                           machine, or to an application by a scheme of its own such as org.example.app:/signed-in.";
            Rejection::new(ErrorCode::Invalid, message)
        };
        let url = Url::parse(&text).map_err(|_| invalid())?;
        let applications = url.scheme().contains('.');
        let fits = applications || (is_plain(&url) && (url.scheme() == "https" || is_here(&url)));
        if fits && url.fragment().is_none() { Ok(Self(text)) } else { Err(invalid()) }
    }
}

/// Nothing but a place.
fn is_plain(url: &Url) -> bool {
    url.has_host() && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
}

fn is_here(url: &Url) -> bool {
    url.scheme() == "http" && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

impl EmailDomain {
    /// The domain, in lower case.
    ///
    /// # Errors
    /// `INVALID` when it is none.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 253, false)?.to_lowercase();
        // What follows the @ of an address.
        crate::users::Email::parse(&format!("x@{text}")).map_err(|_| {
            Rejection::new(ErrorCode::Invalid, "This is not the domain of addresses, such as example.org.")
        })?;
        Ok(Self(text))
    }

    /// Whether an address is of this domain, and not of one below it.
    pub fn has(&self, email: &str) -> bool {
        email.rsplit_once('@').is_some_and(|(_, domain)| domain.to_lowercase() == self.0)
    }
}

impl Scope {
    /// The scope.
    ///
    /// # Errors
    /// `INVALID` when it is none.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 120, false)?;
        // RFC 6749, 3.3.
        if text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
            return Ok(Self(text));
        }
        Err(Rejection::new(ErrorCode::Invalid, "A scope is one word without quotes, such as email."))
    }

    /// That which makes it OpenID Connect.
    pub fn openid() -> Self {
        Self("openid".to_owned())
    }
}

// --- state ---------------------------------------------------------------------------------------------------------

/// What decides about a provider's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentityProvider(Option<Present>);

#[derive(Clone, Debug, PartialEq)]
struct Present {
    organization: OrganizationId,
    issuer: Issuer,
    client_secret: Option<SealedSecret>,
    settings: Settings,
    deleted: bool,
}

impl Aggregate for IdentityProvider {
    type Kind = kinds::IdentityProviderId;
    type Event = IdentityProviderEvent;
    const NOUN: &'static str = "identity provider";

    fn evolve(&mut self, event: &IdentityProviderEvent) {
        match event {
            IdentityProviderEvent::Created { organization, issuer, client_secret, settings } => {
                self.0 = Some(Present {
                    organization: *organization,
                    issuer: issuer.clone(),
                    client_secret: client_secret.clone(),
                    settings: settings.clone(),
                    deleted: false,
                });
            }
            IdentityProviderEvent::Changed { settings } => self.change(|provider| provider.settings = settings.clone()),
            IdentityProviderEvent::SecretChanged { client_secret } => {
                self.change(|provider| provider.client_secret.clone_from(client_secret));
            }
            IdentityProviderEvent::Deleted => self.change(|provider| provider.deleted = true),
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.0.as_ref().map(|provider| provider.organization)
    }
}

impl IdentityProvider {
    /// The most addresses, domains and scopes of one.
    pub const MOST: usize = 20;
    /// The most values that mean something.
    pub const MAX_MAPPINGS: usize = 100;

    fn change(&mut self, change: impl FnOnce(&mut Present)) {
        if let Some(provider) = &mut self.0 {
            change(provider);
        }
    }

    fn present(&self) -> Result<&Present, Rejection> {
        self.0.as_ref().filter(|provider| !provider.deleted).ok_or_else(|| Rejection::not_found(Self::NOUN))
    }

    /// What it is like, if it signs people in.
    pub fn usable(&self) -> Option<(&Issuer, &Settings, Option<&SealedSecret>)> {
        let provider = self.present().ok().filter(|provider| provider.settings.enabled)?;
        Some((&provider.issuer, &provider.settings, provider.client_secret.as_ref()))
    }
}

impl Settings {
    /// What its values make somebody here; nothing when roles are nothing of the provider's. Empty: nothing.
    pub fn roles_of(&self, values: &[String]) -> Option<Vec<Role>> {
        self.roles_claim.as_ref()?;
        let said = |mapping: &&RoleMapping| values.iter().any(|value| value == mapping.value.as_str());
        let mut roles: Vec<Role> = self.role_mappings.iter().filter(said).map(|mapping| mapping.role).collect();
        if roles.is_empty() {
            roles.clone_from(&self.default_roles);
        }
        roles.sort_unstable();
        roles.dedup();
        Some(roles)
    }

    /// Whether an address is one of those that are let in.
    pub fn lets_in(&self, email: &str) -> bool {
        self.email_domains.is_empty() || self.email_domains.iter().any(|domain| domain.has(email))
    }

    /// Whether it may speak, by an address alone, for somebody who may this.
    pub fn vouches_for(&self, permissions: &Permissions) -> bool {
        let ceiling = Permissions::new(self.ceiling.iter().cloned());
        let theirs = permissions.patterns().iter().map(|pattern| Pattern::parse(pattern));
        theirs.into_iter().all(|pattern| pattern.is_ok_and(|pattern| ceiling.covers(&pattern)))
    }

    fn roles(&self) -> Vec<Role> {
        self.role_mappings.iter().map(|mapping| mapping.role).chain(self.default_roles.iter().copied()).collect()
    }
}

// --- facts ---------------------------------------------------------------------------------------------------------

fn named(organization: OrganizationId, name: &ProviderName) -> Fact {
    Fact::new("identity_provider_name", organization, name.as_str().to_lowercase())
}

/// That a provider of this organisation signs people in. What was begun by it goes on while it does.
pub fn usable(organization: OrganizationId, provider: IdentityProviderId) -> Fact {
    Fact::new("identity_provider_usable", organization, provider.to_string())
}

fn name_taken() -> Rejection {
    Rejection::taken("Another identity provider has this name.").at("name")
}

fn again() -> Rejection {
    Rejection::conflict("This identity provider was changed at this moment. Try again.")
}

// --- commands ------------------------------------------------------------------------------------------------------

/// What is to be changed. What is `None` stays; of a new provider it is what the least is.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What people call it.
    pub name: Option<ProviderName>,
    /// What it calls this installation.
    pub client_id: Option<ClientId>,
    /// What it is asked for besides `openid`.
    pub scopes: Option<Vec<Scope>>,
    /// Where it may send people back to.
    pub redirect_uris: Option<Vec<RedirectUri>>,
    /// Whether it signs anybody in.
    pub enabled: Option<bool>,
    /// The claim that says what somebody is; `Some(None)`: roles are nothing of the provider's.
    pub roles_claim: Option<Option<ClaimName>>,
    /// What its values mean here.
    pub role_mappings: Option<Vec<(ClaimValue, AssignedRole)>>,
    /// What somebody is of whom none of them says anything.
    pub default_roles: Option<Vec<AssignedRole>>,
    /// Whether people who are not here become members when they come.
    pub provisions: Option<bool>,
    /// Whose addresses are let in.
    pub email_domains: Option<Vec<EmailDomain>>,
    /// Whether a verified address says who somebody is here.
    pub trusts_email: Option<bool>,
}

impl Changes {
    /// What a provider is like after them, and what has to hold.
    fn of(&self, before: &Settings, given: &Given<'_>) -> Result<(Settings, Vec<(Fact, Rejection)>), Rejection> {
        let held = before.roles();
        let mappings = self.role_mappings.iter().flatten().map(|(_, role)| (role, "roleMappings"));
        let defaults = self.default_roles.iter().flatten().map(|role| (role, "defaultRoles"));
        let mut definitions = Vec::new();
        for (role, field) in mappings.chain(defaults) {
            if role.role() == RoleName::Owner.into() {
                let message = "Nobody is made an owner like this: the owner transfers the ownership.";
                return Err(Rejection::new(ErrorCode::Invalid, message).at(field));
            }
            if !held.contains(&role.role()) {
                role.must_be_covered(given).map_err(|rejection| rejection.at(field))?;
            }
            definitions.extend(role.definition(given.organization).map(|(fact, why)| (fact, why.at(field))));
        }
        let mappings = self.role_mappings.as_ref().map(|mappings| {
            let mapping =
                |(value, role): &(ClaimValue, AssignedRole)| RoleMapping { value: value.clone(), role: role.role() };
            mappings.iter().map(mapping).collect()
        });
        let defaults = self.default_roles.as_ref().map(|roles| {
            let mut roles: Vec<Role> = roles.iter().map(AssignedRole::role).collect();
            roles.sort_unstable();
            roles.dedup();
            roles
        });
        let after = Settings {
            name: self.name.clone().unwrap_or_else(|| before.name.clone()),
            client_id: self.client_id.clone().unwrap_or_else(|| before.client_id.clone()),
            scopes: self.scopes.as_ref().map_or_else(|| before.scopes.clone(), |scopes| with_openid(scopes)),
            redirect_uris: sorted(self.redirect_uris.as_ref().unwrap_or(&before.redirect_uris)),
            enabled: self.enabled.unwrap_or(before.enabled),
            roles_claim: self.roles_claim.clone().unwrap_or_else(|| before.roles_claim.clone()),
            role_mappings: mappings.unwrap_or_else(|| before.role_mappings.clone()),
            default_roles: defaults.unwrap_or_else(|| before.default_roles.clone()),
            provisions: self.provisions.unwrap_or(before.provisions),
            email_domains: sorted(self.email_domains.as_ref().unwrap_or(&before.email_domains)),
            trusts_email: self.trusts_email.unwrap_or(before.trusts_email),
            // What is the installation's is nobody's to vouch for.
            ceiling: given
                .permissions
                .patterns()
                .iter()
                .filter_map(|pattern| Pattern::parse(pattern).ok())
                .filter(|pattern| pattern.module() != "system")
                .collect(),
        };
        after.must_make_sense()?;
        Ok((after, definitions))
    }
}

impl Settings {
    /// The least that one can be.
    fn least() -> Self {
        Self {
            name: ProviderName::default(),
            client_id: ClientId::default(),
            scopes: with_openid(&[]),
            redirect_uris: Vec::new(),
            enabled: true,
            roles_claim: None,
            role_mappings: Vec::new(),
            default_roles: Vec::new(),
            provisions: false,
            email_domains: Vec::new(),
            trusts_email: false,
            ceiling: Vec::new(),
        }
    }

    fn must_make_sense(&self) -> Result<(), Rejection> {
        let limits = [
            ("scopes", self.scopes.len(), IdentityProvider::MOST),
            ("redirectUris", self.redirect_uris.len(), IdentityProvider::MOST),
            ("emailDomains", self.email_domains.len(), IdentityProvider::MOST),
            ("defaultRoles", self.default_roles.len(), IdentityProvider::MOST),
            ("roleMappings", self.role_mappings.len(), IdentityProvider::MAX_MAPPINGS),
        ];
        for (field, number, most) in limits {
            if number > most {
                let message = format!("At most {most}; these are {number}.");
                return Err(Rejection::new(ErrorCode::LimitExceeded, message).at(field));
            }
        }
        if self.name.as_str().is_empty() || self.client_id.as_str().is_empty() {
            let field = if self.name.as_str().is_empty() { "name" } else { "clientId" };
            return Err(Rejection::new(ErrorCode::Required, "This may not be empty.").at(field));
        }
        if self.redirect_uris.is_empty() {
            let message = "Name at least one address that people are sent back to.";
            return Err(Rejection::new(ErrorCode::Required, message).at("redirectUris"));
        }
        if self.trusts_email && self.email_domains.is_empty() {
            let message = "Name the domains within which the provider is believed about addresses.";
            return Err(Rejection::new(ErrorCode::Invalid, message).at("trustsEmail"));
        }
        let gives = !self.default_roles.is_empty() || (self.roles_claim.is_some() && !self.role_mappings.is_empty());
        if self.provisions && !gives {
            let message = "Say which roles people have who become members: default roles, or a claim with mappings.";
            return Err(Rejection::new(ErrorCode::Invalid, message).at("provisions"));
        }
        Ok(())
    }
}

fn with_openid(scopes: &[Scope]) -> Vec<Scope> {
    let mut all = vec![Scope::openid()];
    for scope in scopes {
        if !all.contains(scope) {
            all.push(scope.clone());
        }
    }
    all
}

fn sorted<T: Ord + Clone>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort();
    values.dedup();
    values
}

/// Providers are the organisation's: a grant that reaches only one's own reaches nothing here.
fn must_reach_all(given: &Given<'_>) -> Result<(), Rejection> {
    match given.grant {
        Grant::All => Ok(()),
        Grant::Own => Err(Rejection::new(
            ErrorCode::Forbidden,
            "Identity providers belong to the organization: this needs the permission without `:own`.",
        )),
    }
}

/// Sets a provider up, in the organisation in which the actor acts.
pub struct CreateIdentityProvider {
    /// Who issues its tokens.
    pub issuer: Issuer,
    /// What is shown to it.
    pub client_secret: Option<SealedSecret>,
    /// All else.
    pub settings: Changes,
}

impl Command for CreateIdentityProvider {
    type Aggregate = IdentityProvider;
    const CREATES: bool = true;

    fn decide(&self, provider: &IdentityProvider, given: &Given<'_>) -> Decision<IdentityProviderEvent> {
        crate::must_be_new(provider)?;
        must_reach_all(given)?;
        let (settings, definitions) = self.settings.of(&Settings::least(), given)?;
        let (organization, id) = (given.organization, IdentityProviderId::from_uuid(given.id));
        let (name, enabled) = (named(organization, &settings.name), settings.enabled);
        let outcome = Outcome::events([IdentityProviderEvent::Created {
            organization,
            issuer: self.issuer.clone(),
            client_secret: self.client_secret.clone(),
            settings,
        }])
        .claim(name, name_taken());
        let outcome = if enabled { outcome.claim(usable(organization, id), again()) } else { outcome };
        Ok(definitions.into_iter().fold(outcome, |outcome, (fact, why)| outcome.require(fact, why)))
    }
}

/// Changes a provider.
pub struct ChangeIdentityProvider {
    /// What is shown to it; `Some(None)`: nothing.
    pub client_secret: Option<Option<SealedSecret>>,
    /// All else.
    pub changes: Changes,
}

impl Command for ChangeIdentityProvider {
    type Aggregate = IdentityProvider;

    fn decide(&self, provider: &IdentityProvider, given: &Given<'_>) -> Decision<IdentityProviderEvent> {
        let before = provider.present()?;
        must_reach_all(given)?;
        let (settings, definitions) = self.changes.of(&before.settings, given)?;
        let (organization, id) = (before.organization, IdentityProviderId::from_uuid(given.id));
        let mut events = Vec::new();
        if let Some(client_secret) = &self.client_secret
            && *client_secret != before.client_secret
        {
            events.push(IdentityProviderEvent::SecretChanged { client_secret: client_secret.clone() });
        }
        if settings != before.settings {
            events.push(IdentityProviderEvent::Changed { settings: settings.clone() });
        }
        if events.is_empty() {
            return Ok(Outcome::nothing());
        }
        let mut outcome = Outcome::events(events);
        let (was, is) = (named(organization, &before.settings.name), named(organization, &settings.name));
        if was != is {
            outcome = outcome.release(was).claim(is, name_taken());
        }
        match (before.settings.enabled, settings.enabled) {
            (true, false) => outcome = outcome.release(usable(organization, id)),
            (false, true) => outcome = outcome.claim(usable(organization, id), again()),
            _ => {}
        }
        Ok(definitions.into_iter().fold(outcome, |outcome, (fact, why)| outcome.require(fact, why)))
    }
}

/// Ends a provider.
pub struct DeleteIdentityProvider;

impl Command for DeleteIdentityProvider {
    type Aggregate = IdentityProvider;

    fn decide(&self, provider: &IdentityProvider, given: &Given<'_>) -> Decision<IdentityProviderEvent> {
        let provider = provider.present()?;
        must_reach_all(given)?;
        let (organization, id) = (provider.organization, IdentityProviderId::from_uuid(given.id));
        let outcome =
            Outcome::events([IdentityProviderEvent::Deleted]).release(named(organization, &provider.settings.name));
        Ok(if provider.settings.enabled { outcome.release(usable(organization, id)) } else { outcome })
    }
}

#[cfg(test)]
mod tests;
