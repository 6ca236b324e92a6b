//! Identity providers: setting up with which servers of its own an organisation's people sign in.
//!
//! Invariants: what is shown to a provider comes in and never goes out: it is sealed before it is in a command. What was
//! begun by a provider that signs nobody in any more ends with that. Who gives away what is decided in the domain.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, SimpleObject};
use oriel_backends::identity::IdentityError;
use oriel_domain::identities::UnlinkIdentity;
use oriel_domain::identity_providers::{
    ChangeIdentityProvider, Changes, ClaimName, ClaimValue, ClientId, CreateIdentityProvider, DeleteIdentityProvider,
    EmailDomain, IdentityProviderId, Issuer, ProviderName, RedirectUri, Scope as ProviderScope, SealedSecret,
};
use oriel_domain::roles::AssignedRole;
use oriel_domain::sessions::{EndReason, EndSession};
use oriel_engine::read::Recorder;
use oriel_engine::{CommandContext, Scope, Transaction};
use oriel_kernel::{ErrorCode, OrganizationId, Rejection, operations};
use oriel_read_models::identity_providers::{self, Model as IdentityProvider};
use oriel_read_models::{identities, sessions};

use crate::access::{Failure, Problems, Result, after_write, internal, reader, unavailable};
use crate::payload::payloads;
use crate::roles::assigned;
use crate::services::Services;
use crate::sessions::{repetition, secret_command};

/// The most providers of an organisation.
const MAX_PROVIDERS: u64 = 20;
/// How many sessions, and how many identities, end in one transaction.
const AT_ONCE: u64 = 200;

/// What can be asked about identity providers.
#[derive(Default)]
pub struct IdentityProviderQuery;

/// What can be done with identity providers.
#[derive(Default)]
pub struct IdentityProviderMutation;

payloads! {
    /// What became of a change of an identity provider.
    IdentityProviderPayload {
        /// The provider as it is now; null after `identityProviderDelete`.
        identity_provider: Arc<IdentityProvider>,
    }
}

/// A way to sign in to an organization.
#[derive(SimpleObject)]
pub struct LoginProvider {
    /// For `providerLoginBegin`.
    id: IdentityProviderId,
    /// What people call it.
    name: String,
}

#[operations(query)]
impl IdentityProviderQuery {
    /// The identity provider with this id; null when there is none.
    #[permission("providers:view")]
    async fn identity_provider(
        &self,
        cx: &Context<'_>,
        id: IdentityProviderId,
    ) -> Result<Option<Arc<IdentityProvider>>> {
        Ok(reader(cx)?.get(id).await?)
    }

    /// The identity providers of your organization, the oldest first.
    #[permission("providers:view")]
    async fn identity_providers(&self, cx: &Context<'_>) -> Result<Vec<Arc<IdentityProvider>>> {
        let reader = reader(cx)?;
        Ok(reader.many(IdentityProvider::in_org(reader.organization())).await?.to_vec())
    }

    /// With which identity providers one signs in to an organization, the oldest first; empty too when there is no such
    /// organization. Go on with `providerLoginBegin`.
    #[public]
    async fn login_providers(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "The slug of the organization.")] organization: String,
    ) -> Result<Vec<LoginProvider>> {
        // Asked before anybody is known, so not by a reader: the answer is not kept.
        if let Some(recorder) = cx.data_opt::<Arc<Recorder>>() {
            recorder.volatile();
        }
        let connection = Services::of(cx)?.engine.database().reader();
        let offered = identity_providers::offered(connection, organization.trim()).await.map_err(unavailable)?;
        Ok(offered.into_iter().map(|provider| LoginProvider { id: provider.id, name: provider.name }).collect())
    }
}

#[operations(mutation)]
impl IdentityProviderMutation {
    /// Sets up an identity provider: a server that speaks OpenID Connect, in which you have registered this installation
    /// as a client with the redirect addresses that you name here. It is asked at once what it is like. You let it give
    /// no role that allows more than you may yourself, and never the owner's.
    #[permission("providers:manage")]
    async fn identity_provider_create(
        &self,
        cx: &Context<'_>,
        input: IdentityProviderCreateInput,
    ) -> Result<IdentityProviderPayload> {
        let context = secret_command(&granted, cx, &input)?;
        let services = Services::of(cx)?;
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let mut problems = Problems::default();
                let issuer = problems.take("issuer", Issuer::parse(&input.issuer));
                let settings = Wanted {
                    name: Some(input.name),
                    client_id: Some(input.client_id),
                    scopes: input.scopes,
                    redirect_uris: Some(input.redirect_uris),
                    enabled: input.enabled,
                    roles_claim: input.roles_claim.map_or(MaybeUndefined::Undefined, MaybeUndefined::Value),
                    role_mappings: input.role_mappings,
                    default_roles: input.default_roles,
                    provisions: input.provisions,
                    email_domains: input.email_domains,
                    trusts_email: input.trusts_email,
                };
                let settings = settings.parse(cx, &mut problems).await?;
                let (Some(issuer), Some(settings)) = (issuer, settings) else { return Err(problems.failure()) };
                let reader = reader(cx)?;
                if reader.count(IdentityProvider::in_org(reader.organization())).await? >= MAX_PROVIDERS {
                    let message =
                        format!("Your organization has {MAX_PROVIDERS}, and that is the most. Delete one first.");
                    return Err(Rejection::new(ErrorCode::LimitExceeded, message).into());
                }
                services.identity.check(issuer.as_str(), context.now).await.map_err(|error| not_set_up(&error))?;
                let id: IdentityProviderId = services.engine.new_id();
                let secret = input.client_secret.as_deref();
                let client_secret = sealed(services, context.organization, id, secret).await?;
                let create = CreateIdentityProvider { issuer, client_secret, settings };
                services.engine.execute(&context, id, create).await?
            }
        };
        let identity_provider = after_write::<IdentityProvider>(cx, done.subject).await?;
        Ok(IdentityProviderPayload { identity_provider, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Changes an identity provider. What is left out stays as it is; who issues its tokens is never changed: set up
    /// another one for that. When it is not `enabled` any more, the sessions that were begun by it end.
    #[permission("providers:manage")]
    async fn identity_provider_update(
        &self,
        cx: &Context<'_>,
        input: IdentityProviderUpdateInput,
    ) -> Result<IdentityProviderPayload> {
        let context = secret_command(&granted, cx, &input)?;
        let services = Services::of(cx)?;
        let mut problems = Problems::default();
        let changes = Wanted {
            name: input.name,
            client_id: input.client_id,
            scopes: input.scopes,
            redirect_uris: input.redirect_uris,
            enabled: input.enabled,
            roles_claim: input.roles_claim,
            role_mappings: input.role_mappings,
            default_roles: input.default_roles,
            provisions: input.provisions,
            email_domains: input.email_domains,
            trusts_email: input.trusts_email,
        };
        let Some(changes) = changes.parse(cx, &mut problems).await? else { return Err(problems.failure()) };
        let client_secret = match input.client_secret {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(secret) => {
                Some(sealed(services, context.organization, input.id, Some(&secret)).await?)
            }
        };
        let command = ChangeIdentityProvider { client_secret, changes };
        let done = services.engine.execute(&context, input.id, command).await?;
        if input.enabled == Some(false) {
            cut_off(cx, &context, input.id, false).await?;
        }
        let identity_provider = after_write::<IdentityProvider>(cx, done.subject).await?;
        Ok(IdentityProviderPayload { identity_provider, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Deletes an identity provider: nobody signs in by it any more, the sessions that were begun by it end, and what
    /// it calls people is forgotten. They stay members.
    #[permission("providers:manage")]
    async fn identity_provider_delete(
        &self,
        cx: &Context<'_>,
        input: IdentityProviderDeleteInput,
    ) -> Result<IdentityProviderPayload> {
        let context = granted.command(cx, &input)?;
        let done = Services::of(cx)?.engine.execute(&context, input.id, DeleteIdentityProvider).await?;
        cut_off(cx, &context, input.id, true).await?;
        Ok(IdentityProviderPayload { identity_provider: None, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// Ends what was begun by a provider that signs nobody in any more, and, if it is gone, what it knows. Should this not
/// come to its end, no session is refreshed all the same.
async fn cut_off(
    cx: &Context<'_>,
    context: &CommandContext,
    provider: IdentityProviderId,
    is_gone: bool,
) -> Result<()> {
    let engine = &Services::of(cx)?.engine;
    let (connection, which) = (engine.database().reader(), (context.organization, provider));
    loop {
        let begun = sessions::of_provider(connection, which, None, AT_ONCE).await.map_err(unavailable)?;
        let known = match is_gone {
            true => identities::of_provider(connection, which, AT_ONCE).await.map_err(unavailable)?,
            false => Vec::new(),
        };
        let ended = begun.into_iter().fold(Transaction::new(), |transaction, session| {
            transaction.and(session, EndSession { reason: EndReason::Unlinked })
        });
        let ended = known
            .into_iter()
            .fold(ended, |transaction, identity| transaction.and(identity, UnlinkIdentity { by: None }));
        // It follows from what was permitted, whatever the caller may do since.
        let (scope, authority, command) = (Scope::unlimited(), None, engine.new_id());
        let context =
            CommandContext { command, may_repeat: false, expected_version: None, scope, authority, ..context.clone() };
        if engine.transact(&context, ended).await?.events.is_empty() {
            return Ok(());
        }
    }
}

/// What secrets of providers are sealed for.
pub(crate) fn purpose(provider: IdentityProviderId) -> String {
    format!("client_secret of {provider}")
}

async fn sealed(
    services: &Services,
    organization: OrganizationId,
    provider: IdentityProviderId,
    secret: Option<&str>,
) -> Result<Option<SealedSecret>> {
    let Some(secret) = secret else { return Ok(None) };
    let secret = oriel_kernel::input::bounded(secret, 1, 1_000, false).map_err(|r| r.at("clientSecret"))?;
    let keyring = services.engine.keyring();
    let sealed = keyring.seal_secret(organization, &purpose(provider), secret.as_bytes()).await.map_err(internal)?;
    Ok(Some(SealedSecret::new(&sealed)))
}

/// Why a provider is not taken, for whoever sets it up.
fn not_set_up(error: &IdentityError) -> Failure {
    let rejection = match error {
        IdentityError::Unreachable(_) | IdentityError::Unanswered(_) => {
            let message = "It does not answer under this address. Is it reachable from this server?";
            Rejection::new(ErrorCode::Unavailable, message)
        }
        IdentityError::Address(_) | IdentityError::Odd(_) | IdentityError::Refused | IdentityError::Untrusted(_) => {
            let message = format!("This is no identity provider that can be used here: {error}.");
            Rejection::new(ErrorCode::Invalid, message)
        }
    };
    rejection.at("issuer").into()
}

/// What is to be changed, as it was typed.
struct Wanted {
    name: Option<String>,
    client_id: Option<String>,
    scopes: Option<Vec<String>>,
    redirect_uris: Option<Vec<String>>,
    enabled: Option<bool>,
    roles_claim: MaybeUndefined<String>,
    role_mappings: Option<Vec<RoleMappingInput>>,
    default_roles: Option<Vec<String>>,
    provisions: Option<bool>,
    email_domains: Option<Vec<String>>,
    trusts_email: Option<bool>,
}

impl Wanted {
    async fn parse(self, cx: &Context<'_>, problems: &mut Problems) -> Result<Option<Changes>> {
        fn each<T>(
            texts: Option<Vec<String>>,
            parse: impl Fn(&str) -> Result<T, Rejection>,
        ) -> Result<Option<Vec<T>>, Rejection> {
            texts.map(|texts| texts.iter().map(|text| parse(text)).collect()).transpose()
        }
        let name = problems.take("name", self.name.as_deref().map(ProviderName::parse).transpose());
        let client_id = problems.take("clientId", self.client_id.as_deref().map(ClientId::parse).transpose());
        let scopes = problems.take("scopes", each(self.scopes, ProviderScope::parse));
        let redirect_uris = problems.take("redirectUris", each(self.redirect_uris, RedirectUri::parse));
        let roles_claim = match self.roles_claim {
            MaybeUndefined::Undefined => Some(None),
            MaybeUndefined::Null => Some(Some(None)),
            MaybeUndefined::Value(name) => {
                problems.take("rolesClaim", ClaimName::parse(&name)).map(|name| Some(Some(name)))
            }
        };
        let role_mappings = match self.role_mappings {
            None => Some(None),
            Some(mappings) => {
                let values = mappings.iter().map(|mapping| ClaimValue::parse(&mapping.value)).collect();
                let values: Option<Vec<ClaimValue>> = problems.take("roleMappings", values);
                let names: Vec<String> = mappings.into_iter().map(|mapping| mapping.role).collect();
                let roles = named(cx, problems, &names, "roleMappings").await?;
                values.zip(roles).map(|(values, roles)| Some(values.into_iter().zip(roles).collect()))
            }
        };
        let default_roles = match self.default_roles {
            None => Some(None),
            Some(names) => named(cx, problems, &names, "defaultRoles").await?.map(Some),
        };
        let email_domains = problems.take("emailDomains", each(self.email_domains, EmailDomain::parse));
        let changes = || {
            Some(Changes {
                name: name?,
                client_id: client_id?,
                scopes: scopes?,
                redirect_uris: redirect_uris?,
                enabled: self.enabled,
                roles_claim: roles_claim?,
                role_mappings: role_mappings?,
                default_roles: default_roles?,
                provisions: self.provisions,
                email_domains: email_domains?,
                trusts_email: self.trusts_email,
            })
        };
        Ok(changes())
    }
}

/// The roles of these names, or the problem at this field.
async fn named(
    cx: &Context<'_>,
    problems: &mut Problems,
    names: &[String],
    field: &'static str,
) -> Result<Option<Vec<AssignedRole>>> {
    match assigned(cx, names).await {
        Ok(roles) => Ok(Some(roles)),
        Err(Failure::Rejected(errors)) => {
            for error in errors {
                problems.push(Rejection::new(error.code, error.message).at(field));
            }
            Ok(None)
        }
        Err(error @ Failure::Error(_)) => Err(error),
    }
}

// --- inputs --------------------------------------------------------------------------------------------------------

/// What a value of the claim means here.
#[derive(InputObject)]
struct RoleMappingInput {
    /// As the provider says it.
    value: String,
    /// A role, by its name or its id; not the owner's.
    role: String,
}

/// An identity provider that is to be set up.
#[derive(InputObject)]
struct IdentityProviderCreateInput {
    /// What people call it: 1 to 80 characters, unique in the organization.
    name: String,
    /// Who issues its tokens, exactly as it writes it itself, such as `https://id.example.org/realms/one`: what it is
    /// like is read from `/.well-known/openid-configuration` there. Never changed.
    issuer: String,
    /// What it calls this installation.
    client_id: String,
    /// What is shown to it to be that client; left out for a public client. It is kept sealed and never shown again.
    #[graphql(secret)]
    client_secret: Option<String>,
    /// What it is asked for besides `openid`, such as `email` and `profile`.
    scopes: Option<Vec<String>>,
    /// Where it may send people back to: at least one, compared letter by letter. `https://`, `http://` on one's own
    /// machine, or an application's own scheme.
    redirect_uris: Vec<String>,
    /// Whether it signs people in; true unless you say otherwise.
    enabled: Option<bool>,
    /// The claim that says what somebody is there, such as `groups` or `realm_access.roles`: a text, a list of texts, or
    /// an object's keys. With it, each time somebody signs in they get the roles that its values mean, and no others.
    roles_claim: Option<String>,
    /// What its values mean here.
    role_mappings: Option<Vec<RoleMappingInput>>,
    /// What somebody is here of whom none of the values says anything. Without any they do not sign in, if there is a
    /// claim.
    default_roles: Option<Vec<String>>,
    /// Whether people who are not here become members when they come, if their address is verified; false unless you
    /// say otherwise.
    provisions: Option<bool>,
    /// Let in only people with a verified e-mail address in one of these domains; all, when it is left out.
    email_domains: Option<Vec<String>>,
    /// Whether a verified address in one of these domains says by itself who a member is, so that they need not link
    /// themselves first. It never does of somebody who may more than whoever set the provider up last. Needs
    /// `emailDomains`.
    trusts_email: Option<bool>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of an identity provider.
#[derive(InputObject)]
struct IdentityProviderUpdateInput {
    /// Which one.
    id: IdentityProviderId,
    /// What people call it: 1 to 80 characters, unique in the organization.
    name: Option<String>,
    /// What it calls this installation.
    client_id: Option<String>,
    /// What is shown to it to be that client; null for nothing.
    #[graphql(secret)]
    client_secret: MaybeUndefined<String>,
    /// What it is asked for besides `openid`.
    scopes: Option<Vec<String>>,
    /// Where it may send people back to.
    redirect_uris: Option<Vec<String>>,
    /// Whether it signs people in.
    enabled: Option<bool>,
    /// The claim that says what somebody is there; null: roles are nothing of the provider's.
    roles_claim: MaybeUndefined<String>,
    /// What its values mean here: all of them.
    role_mappings: Option<Vec<RoleMappingInput>>,
    /// What somebody is here of whom none of the values says anything.
    default_roles: Option<Vec<String>>,
    /// Whether people who are not here become members when they come.
    provisions: Option<bool>,
    /// Let in only people with a verified e-mail address in one of these domains; empty for all.
    email_domains: Option<Vec<String>>,
    /// Whether a verified address in one of these domains says by itself who a member is.
    trusts_email: Option<bool>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The identity provider that is to be deleted.
#[derive(InputObject)]
struct IdentityProviderDeleteInput {
    /// Which one.
    id: IdentityProviderId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}
