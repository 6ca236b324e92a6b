//! Signing in by an identity provider, and linking what it calls somebody to their account.
//!
//! Invariants: what a browser begins, that browser ends. Between the two nothing is kept here: the client holds a token,
//! sealed with a key of the organisation, in which the secrets of the attempt are, and the `state` that travels through
//! the provider is its hash. So whoever plants a code and a state in somebody's browser has not the token that belongs
//! to them, and whoever reads a redirect has neither. An attempt ends after ten minutes, and is good once: the
//! session (or the identity) that it leads to has its id from the beginning, and the log has every id once.
//!
//! A session that a provider began is good in the provider's organisation alone: a server that an organisation runs
//! speaks for nobody elsewhere. A second factor is asked for as after a password.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use aws_lc_rs::digest::{SHA256, digest};
use chrono::TimeDelta;
use data_encoding::BASE64URL_NOPAD;
use oriel_backends::identity::{Attempt, Claims, Client, IdentityError, Returned};
use oriel_domain::identities::{
    Admission, Asserted, IdentityId, Known, LinkIdentity, UnlinkIdentity, admit, subject_hash,
};
use oriel_domain::identity_providers::{IdentityProvider, IdentityProviderId, Settings};
use oriel_domain::members::{ChangeRoles, ProvisionMember};
use oriel_domain::roles::{Role, RoleName};
use oriel_domain::sessions::{EndReason, EndSession, Session as SessionState};
use oriel_domain::users::{Email, PersonName, ProvisionUser};
use oriel_engine::Transaction;
use oriel_engine::keyring::random_key;
use oriel_kernel::{
    Actor, Aggregate, ErrorCode, MemberId, OrganizationId, Rejection, SessionId, Timestamp, UserId, operations,
};
use oriel_read_models::identities::{self, Model as Identity};
use oriel_read_models::organizations::standings::{self, Standing};
use oriel_read_models::{authorization, roles, sessions, sign_in};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::access::{Result, after_write, internal, reader, unavailable};
use crate::identity_providers::purpose;
use crate::payload::payloads;
use crate::services::Services;
use crate::sessions::{Federated, SessionPayload, Who, secret_command, start};

/// How long an attempt is good.
const LIFE: TimeDelta = TimeDelta::minutes(10);
/// How many sessions end with an identity, in its transaction.
const AT_ONCE: u64 = 200;

/// What can be done with identities.
#[derive(Default)]
pub struct IdentityMutation;

payloads! {
    /// Where to go to say who you are.
    ProviderLoginBeginPayload {
        /// Send the browser there. It comes back to your address with `code`, `state` and perhaps `iss`.
        authorization_url: String,
        /// Keep it in this browser (its session storage, or a cookie of your own) and nowhere else, and give it back
        /// with what comes back.
        login_token: String,
    }

    /// What became of a change of an identity.
    IdentityPayload {
        /// The identity; null after `identityUnlink`.
        identity: Arc<Identity>,
    }
}

#[operations(mutation)]
impl IdentityMutation {
    /// Begins to sign in by an identity provider (OpenID Connect, authorization code flow with PKCE). Go on with
    /// `providerLogin` within ten minutes, in the same browser.
    #[public]
    async fn provider_login_begin(
        &self,
        cx: &Context<'_>,
        input: ProviderLoginBeginInput,
    ) -> Result<ProviderLoginBeginPayload> {
        begin(cx, Purpose::Login, input.provider_id, input.redirect_uri, None).await
    }

    /// Signs you in with what came back from the identity provider, in its organization. If you have a second factor, the
    /// answer is `MFA_REQUIRED` with an `mfaToken`, as after `login`. Who is not known yet becomes a member, if the
    /// organization has it so. Good once: after a lost answer begin again. `UNAVAILABLE` says that the provider does not
    /// answer.
    #[public]
    async fn provider_login(&self, cx: &Context<'_>, input: ProviderLoginInput) -> Result<SessionPayload> {
        let mut context = secret_command(&granted, cx, &input)?;
        let services = Services::of(cx)?;
        let (engine, connection) = (&services.engine, services.engine.database().reader());
        let begun = Begun::open(cx, Purpose::Login, &input.login_token, &input.state, context.now).await?;
        let session = SessionId::from_uuid(begun.leads_to);
        if engine.state::<SessionState>(session).await?.tenant().is_some() {
            return Err(over().into());
        }
        let asked = begun.ask(cx, &input.code, input.iss.as_deref()).await?;
        let (organization, provider) = (begun.organization, begun.provider);
        let hash = subject_hash(provider, asked.claims.subject(), engine.keyring().as_ref());
        let linked = identities::by_subject(connection, &hash).await.map_err(unavailable)?;
        let asserted = asked.asserted();
        let email_hash = asserted.email.as_ref().map(|email| email.blind(engine.keyring().as_ref()));
        let user = match (&linked, &email_hash) {
            (Some(identity), _) => Some(identity.user_id),
            (None, Some(hash)) => {
                sign_in::user_by_email(connection, hash).await.map_err(unavailable)?.map(|user| user.id)
            }
            (None, None) => None,
        };
        let member = match user {
            Some(user) => authorization::of_person(connection, user, organization).await.map_err(unavailable)?,
            None => None,
        };
        let known = match (&linked, user, &member) {
            (Some(_), _, _) => Known::Linked,
            (None, Some(_), Some(member)) => Known::Member(member.permissions.clone()),
            (None, Some(_), None) => Known::Stranger,
            (None, None, _) => Known::Nobody,
        };
        let admission = admit(&asked.settings, &asserted, &known)?;
        let roles = asked.roles();
        let mut transaction = Transaction::new();
        let (user, member) = match (admission, user, member) {
            (Admission::Join, _, _) => {
                let (user, member): (UserId, MemberId) = (engine.new_id(), engine.new_id());
                let Some(email) = asserted.email.clone() else { return Err(no_member().into()) };
                let roles = roles.unwrap_or_else(|| asked.settings.default_roles.clone());
                let roles = roles::assigned(connection, organization, &roles).await.map_err(unavailable)?;
                if roles.is_empty() {
                    return Err(no_role().into());
                }
                let name = asked.name(&email);
                transaction = transaction
                    .and(user, ProvisionUser { email, name })
                    .and(member, ProvisionMember { organization, user, roles });
                (user, member)
            }
            (Admission::SignIn | Admission::Link, Some(user), Some(found)) => {
                // Whoever owns the organisation, owns it whatever the provider says.
                let is_owner = found.roles.contains(&Role::from(RoleName::Owner));
                if let Some(roles) = roles.filter(|_| !is_owner) {
                    let roles = roles::assigned(connection, organization, &roles).await.map_err(unavailable)?;
                    if roles.is_empty() {
                        return Err(no_role().into());
                    }
                    transaction = transaction.and(found.id, ChangeRoles { roles });
                }
                (user, found.id)
            }
            (Admission::SignIn | Admission::Link, _, _) => return Err(no_member().into()),
        };
        if admission != Admission::SignIn {
            let identity: IdentityId = engine.new_id();
            transaction = transaction.and(identity, asked.link(&begun, user, member));
        }
        (context.actor, context.organization) = (Actor::User(user), organization);
        let federated = Some(Federated { provider, session });
        start(cx, &context, transaction, Who { user, member, organization, federated }).await
    }

    /// Begins to link what an identity provider of this organization calls you to your account, so that you sign in by
    /// it. Go on with `identityLink` within ten minutes, in the same browser.
    #[signed_in]
    async fn identity_link_begin(
        &self,
        cx: &Context<'_>,
        input: IdentityLinkBeginInput,
    ) -> Result<ProviderLoginBeginPayload> {
        let viewer = granted.in_person()?;
        begin(cx, Purpose::Link, input.provider_id, input.redirect_uri, Some((viewer.user, viewer.organization))).await
    }

    /// Links what came back from the identity provider to your account: from now on you sign in by it.
    #[signed_in]
    async fn identity_link(&self, cx: &Context<'_>, input: IdentityLinkInput) -> Result<IdentityPayload> {
        let context = secret_command(&granted, cx, &input)?;
        let viewer = granted.in_person()?;
        let engine = &Services::of(cx)?.engine;
        let begun = Begun::open(cx, Purpose::Link, &input.login_token, &input.state, context.now).await?;
        if begun.user != Some(viewer.user) || begun.organization != viewer.organization {
            return Err(over().into());
        }
        let asked = begun.ask(cx, &input.code, input.iss.as_deref()).await?;
        admit(&asked.settings, &asked.asserted(), &Known::Linked)?;
        let link = asked.link(&begun, viewer.user, viewer.member);
        let done = engine.execute(&context, IdentityId::from_uuid(begun.leads_to), link).await?;
        let identity = after_write::<Identity>(cx, done.subject).await?;
        Ok(IdentityPayload { identity, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Unlinks an identity of yours: its provider does not say who you are any more, and your sessions that were begun by
    /// it end, this one too if it was.
    #[signed_in]
    async fn identity_unlink(&self, cx: &Context<'_>, input: IdentityUnlinkInput) -> Result<IdentityPayload> {
        let context = granted.command(cx, &input)?;
        let (viewer, engine) = (granted.viewer()?, &Services::of(cx)?.engine);
        let mut transaction = Transaction::new().and(input.id, UnlinkIdentity { by: Some(viewer.user) });
        if let Some(identity) = reader(cx)?.get::<Identity>(input.id).await? {
            let which = (identity.organization_id, identity.provider_id);
            let connection = engine.database().reader();
            let begun = sessions::of_provider(connection, which, Some(viewer.user), AT_ONCE).await;
            for session in begun.map_err(unavailable)? {
                transaction = transaction.and(session, EndSession { reason: EndReason::Unlinked });
            }
        }
        let done = engine.transact(&context, transaction).await?;
        Ok(IdentityPayload { identity: None, user_errors: Vec::new(), position: Some(done.position) })
    }
}

// --- an attempt ----------------------------------------------------------------------------------------------------

/// What an attempt is for; one is not taken for the other.
#[derive(Clone, Copy)]
enum Purpose {
    Login,
    Link,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "provider_login",
            Self::Link => "identity_link",
        }
    }
}

/// What an attempt is about. It is in the client's hands, sealed.
#[derive(Serialize, Deserialize)]
struct Begun {
    organization: OrganizationId,
    provider: IdentityProviderId,
    redirect_uri: String,
    nonce: String,
    verifier: String,
    ends_at: i64,
    /// The id of what it leads to.
    leads_to: Uuid,
    /// Who links themselves.
    user: Option<UserId>,
}

fn over() -> Rejection {
    let message = "This attempt is not good any more, or was begun in another browser. Begin again.";
    Rejection::new(ErrorCode::Expired, message).at("loginToken")
}

fn no_member() -> Rejection {
    let message = "You are not an active member of this organization. Ask one of its administrators.";
    Rejection::new(ErrorCode::Forbidden, message)
}

fn no_role() -> Rejection {
    let message = "What the identity provider says of you gives you no role here. Ask an administrator.";
    Rejection::new(ErrorCode::Forbidden, message)
}

/// What travels through the provider: nobody finds the token by it.
fn state_of(token: &str) -> String {
    BASE64URL_NOPAD.encode(digest(&SHA256, token.as_bytes()).as_ref())
}

/// Begins an attempt; `by`: who links themselves, and where.
async fn begin(
    cx: &Context<'_>,
    purpose: Purpose,
    provider: IdentityProviderId,
    redirect_uri: String,
    by: Option<(UserId, OrganizationId)>,
) -> Result<ProviderLoginBeginPayload> {
    let services = Services::of(cx)?;
    let (engine, now) = (&services.engine, services.engine.now());
    let none = || Rejection::not_found(IdentityProvider::NOUN).at("providerId");
    let state: IdentityProvider = engine.state(provider).await?;
    let here = |organization: &OrganizationId| by.is_none_or(|(_, here)| here == *organization);
    let organization = state.tenant().filter(here).ok_or_else(none)?;
    is_open(services, organization).await?.then_some(()).ok_or_else(none)?;
    let (issuer, settings, _) = state.usable().ok_or_else(none)?;
    if !settings.redirect_uris.iter().any(|known| known.as_str() == redirect_uri) {
        let message = "This is none of the addresses that the identity provider may send people back to.";
        return Err(Rejection::new(ErrorCode::Invalid, message).at("redirectUri").into());
    }
    let random = || Ok::<_, async_graphql::Error>(BASE64URL_NOPAD.encode(random_key().map_err(internal)?.as_slice()));
    let begun = Begun {
        organization,
        provider,
        redirect_uri,
        nonce: random()?,
        verifier: random()?,
        ends_at: (now + LIFE).timestamp(),
        leads_to: engine.new_id::<()>().uuid(),
        user: by.map(|(user, _)| user),
    };
    let text = serde_json::to_vec(&begun).map_err(internal)?;
    let sealed = engine.keyring().seal_secret(organization, purpose.as_str(), &text).await.map_err(internal)?;
    let token = format!("{organization}.{}", BASE64URL_NOPAD.encode(&sealed));
    let scopes: Vec<String> = settings.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let client = Client { issuer: issuer.as_str(), id: settings.client_id.as_str(), secret: None };
    let state = state_of(&token);
    let url = services.identity.authorization_url(client, &scopes, begun.attempt(&state), now).await;
    let authorization_url = url.map_err(|error| refused(provider, &error))?;
    Ok(ProviderLoginBeginPayload {
        authorization_url: Some(authorization_url),
        login_token: Some(token),
        user_errors: Vec::new(),
        position: None,
    })
}

async fn is_open(services: &Services, organization: OrganizationId) -> Result<bool> {
    let standing = standings::standing(services.engine.database().reader(), organization).await;
    Ok(standing.map_err(unavailable)? == Some(Standing::Open))
}

impl Begun {
    /// The attempt that this token was given out for, if this state came back.
    async fn open(cx: &Context<'_>, purpose: Purpose, token: &str, state: &str, now: Timestamp) -> Result<Self> {
        let engine = &Services::of(cx)?.engine;
        if state_of(token) != state {
            return Err(over().into());
        }
        let (organization, sealed) = token.split_once('.').ok_or_else(over)?;
        let organization = OrganizationId::parse_or_absent(organization);
        let sealed = BASE64URL_NOPAD.decode(sealed.as_bytes()).map_err(|_| over())?;
        let opened = engine.keyring().open_secret_of(organization, purpose.as_str(), &sealed).await;
        let text = opened.map_err(unavailable)?.ok_or_else(over)?;
        let begun: Self = serde_json::from_slice(&text).map_err(internal)?;
        if begun.ends_at <= now.timestamp() { Err(over().into()) } else { Ok(begun) }
    }

    fn attempt<'a>(&'a self, state: &'a str) -> Attempt<'a> {
        Attempt { redirect_uri: &self.redirect_uri, state, nonce: &self.nonce, verifier: &self.verifier }
    }

    /// Asks the provider who it is.
    async fn ask(&self, cx: &Context<'_>, code: &str, issuer: Option<&str>) -> Result<Asked> {
        let services = Services::of(cx)?;
        let provider: IdentityProvider = services.engine.state(self.provider).await?;
        let Some((known_issuer, settings, secret)) = provider.usable() else { return Err(over().into()) };
        if !is_open(services, self.organization).await? {
            return Err(over().into());
        }
        let secret = match secret.and_then(|secret| secret.bytes()) {
            Some(sealed) => {
                let keyring = services.engine.keyring();
                let opened = keyring.open_secret_of(self.organization, &purpose(self.provider), &sealed).await;
                let opened = opened.map_err(unavailable)?;
                Some(opened.ok_or_else(|| internal("the secret of an identity provider does not open"))?)
            }
            None => None,
        };
        let secret = secret.as_ref().and_then(|secret| std::str::from_utf8(secret).ok());
        let client = Client { issuer: known_issuer.as_str(), id: settings.client_id.as_str(), secret };
        let mut wanted = vec!["email", "email_verified"];
        wanted.extend(settings.roles_claim.as_ref().map(|name| name.as_str()));
        let returned = Returned { code, issuer };
        let claims = services.identity.claims(client, self.attempt(""), returned, &wanted, services.engine.now()).await;
        let claims = claims.map_err(|error| refused(self.provider, &error))?;
        Ok(Asked { claims, settings: settings.clone() })
    }
}

/// What a provider said, and what that means.
struct Asked {
    claims: Claims,
    settings: Settings,
}

impl Asked {
    fn email(&self) -> Option<Email> {
        self.claims.text("email").and_then(|email| Email::parse(email).ok())
    }

    fn asserted(&self) -> Asserted {
        Asserted { email: self.email(), email_verified: self.claims.flag("email_verified") }
    }

    fn roles(&self) -> Option<Vec<Role>> {
        let name = self.settings.roles_claim.as_ref()?;
        self.settings.roles_of(&self.claims.values(name.as_str()))
    }

    /// What the person is called; if it is not said, as their address begins.
    fn name(&self, email: &Email) -> PersonName {
        let said = ["name", "preferred_username"].into_iter().filter_map(|claim| self.claims.text(claim));
        let local = email.as_str().split('@').next();
        let fitting = said.chain(local).map(|text| text.chars().take(120).collect::<String>());
        fitting.into_iter().find_map(|text| PersonName::parse(&text).ok()).unwrap_or_default()
    }

    fn link(&self, begun: &Begun, user: UserId, member: MemberId) -> LinkIdentity {
        LinkIdentity {
            organization: begun.organization,
            provider: begun.provider,
            user,
            member,
            subject: self.claims.subject().to_owned(),
            email: self.email().map(|email| email.as_str().to_owned()),
        }
    }
}

/// What somebody is told whom a provider could not be asked about; what it was goes to the log.
fn refused(provider: IdentityProviderId, error: &IdentityError) -> Rejection {
    tracing::warn!(%provider, %error, "an identity provider does not say who somebody is");
    let (code, message) = match error {
        IdentityError::Unreachable(_) | IdentityError::Unanswered(_) => (
            ErrorCode::Unavailable,
            "The identity provider does not answer. Try again in a minute, or sign in another way.",
        ),
        IdentityError::Address(_) | IdentityError::Odd(_) => (
            ErrorCode::Conflict,
            "The identity provider and this installation do not agree. Ask an administrator of your organization: the \
             log says what is wrong.",
        ),
        IdentityError::Refused => {
            (ErrorCode::Expired, "The identity provider does not take this code, or not any more. Begin again.")
        }
        IdentityError::Untrusted(_) => (
            ErrorCode::InvalidCredentials,
            "What came back from the identity provider is not to be believed. Begin again; if it stays so, tell an \
             administrator.",
        ),
    };
    Rejection::new(code, message)
}

// --- inputs --------------------------------------------------------------------------------------------------------

/// By whom to sign in.
#[derive(InputObject)]
struct ProviderLoginBeginInput {
    /// One of `loginProviders`.
    provider_id: IdentityProviderId,
    /// Where the provider sends you back to: one of those that it was set up with.
    redirect_uri: String,
}

/// What came back.
#[derive(InputObject)]
struct ProviderLoginInput {
    /// The `loginToken` that beginning gave, in this browser.
    #[graphql(secret)]
    login_token: String,
    /// The `state` of the address to which you were sent back.
    state: String,
    /// Its `code`.
    #[graphql(secret)]
    code: String,
    /// Its `iss`, if it has one.
    iss: Option<String>,
}

/// Whom to be known to.
#[derive(InputObject)]
struct IdentityLinkBeginInput {
    /// One of `loginProviders` of the organization in which you act.
    provider_id: IdentityProviderId,
    /// Where the provider sends you back to: one of those that it was set up with.
    redirect_uri: String,
}

/// What came back.
#[derive(InputObject)]
struct IdentityLinkInput {
    /// The `loginToken` that beginning gave, in this browser.
    #[graphql(secret)]
    login_token: String,
    /// The `state` of the address to which you were sent back.
    state: String,
    /// Its `code`.
    #[graphql(secret)]
    code: String,
    /// Its `iss`, if it has one.
    iss: Option<String>,
}

/// The identity to be unlinked.
#[derive(InputObject)]
struct IdentityUnlinkInput {
    /// Which one: `viewer { identities { id } }`.
    id: IdentityId,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}
