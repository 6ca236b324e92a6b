//! Sessions: signing in and out, refreshing, switching to another organisation, and who one is.
//!
//! Invariants: what a caller learns when signing in fails does not tell which part was wrong. A refresh token is
//! given out once; one that was replaced and comes back ends its session. What is kept of a command's input does not
//! help to guess a password in it.
//!
//! Whoever has a second factor is signed in by nothing else than both, or a passkey alone (`users/passkeys.rs`): what checks a
//! password ends in [`start`], which then answers with a challenge. Attempts are counted (`attempts.rs`).
//!
//! **Retries.** Tokens are not kept and cannot be read back. A command with an idempotency key therefore derives its
//! refresh token from the key, the whole input (the password included) and a secret of the installation, so that the
//! repetition gives the same one, as long as that is still good; its access token is a new one of the same session.
//! Without a key the refresh token is random.

use std::sync::Arc;

use async_graphql::{Context, Enum, InputObject, InputType, Object, SimpleObject};
use aws_lc_rs::digest::{SHA256, digest};
use chrono::TimeDelta;
use data_encoding::HEXLOWER;
use oriel_domain::identity_providers::IdentityProviderId;
use oriel_domain::sessions::{
    EndReason, EndSession, RefreshSession, Session as SessionState, SessionEvent, SignInMethod, StartSession,
};
use oriel_domain::tickets::Ticket;
use oriel_domain::users::second_factor::UseSecondFactor;
use oriel_domain::users::{Email, RehashPassword, Username};
use oriel_engine::read::{ReadModel, Reader};
use oriel_engine::{CommandContext, Committed, Transaction};
use oriel_kernel::{
    Actor, Aggregate, Blinder, Credential, ErrorCode, Id, MemberId, OrganizationId, Position, Rejection, SessionId,
    Timestamp, UserId, operations,
};
use oriel_read_models::api_keys::Model as ApiKey;
use oriel_read_models::consents::{self, ConsentStatus};
use oriel_read_models::identities::{self, Model as Identity};
use oriel_read_models::members::Model as Member;
use oriel_read_models::organizations::{self, Model as Organization, standings};
use oriel_read_models::sessions::{self, Model as Session};
use oriel_read_models::users::Model as User;
use oriel_read_models::users::passkeys::{self, Passkey};
use oriel_read_models::users::preferences::{self, Preferences};
use oriel_read_models::{Readers, current_reader, sign_in, viewer};
use uuid::Uuid;

use crate::access::{Granted, Refusal, Result, answered, error, internal, unavailable};
use crate::installation;
use crate::payload::payloads;
use crate::security_events;
use crate::services::{Meta, Services};
use crate::tokens::read_refresh_token;
use crate::users::end_sessions;

pub mod attempts;

use attempts::{Attempt, Place, Secret, Wait};

/// What the tickets that stand for a checked password are signed for.
const SECOND_FACTOR: &str = "second_factor";
/// How long a checked password waits for the second factor.
const CHALLENGE_LIFE: TimeDelta = TimeDelta::minutes(5);

/// What can be asked about who one is.
#[derive(Default)]
pub struct SessionQuery;

/// What can be done with sessions.
#[derive(Default)]
pub struct SessionMutation;

payloads! {
    /// What became of signing in.
    SessionPayload {
        /// Send it with each request, as `Authorization: Bearer …`. It is short-lived; see `expiresAt`.
        access_token: String,
        /// Good once, for `sessionRefresh`; keep it secret. When a command is repeated under its idempotency key, the
        /// same one, or null if it has been used since: sign in again, then.
        refresh_token: String,
        /// When the access token ends. Refresh the session before.
        expires_at: Timestamp,
        /// With `MFA_REQUIRED`, and only then: give it within five minutes to `loginVerify`, with a code of your second
        /// factor, or to `passkeyLoginBegin`.
        mfa_token: String,
        /// With `MFA_REQUIRED`, and only then: what you can go on with.
        mfa_methods: Vec<MfaMethod>,
        /// Who you are now, and what you see. Null too when an earlier mutation of the same request has signed you in
        /// or changed something: ask for it in the next request.
        viewer: Viewer,
    }

    /// What became of ending a session.
    SessionRevokePayload {
        /// The session, which is over.
        session: Arc<Session>,
    }

    /// What became of ending all other sessions.
    SessionRevokeAllPayload {
        /// The session that goes on.
        session: Arc<Session>,
    }

    /// What became of signing out.
    LogoutPayload {
        /// The session, which is over. Neither of its tokens is good any more.
        session: Arc<Session>,
    }
}

/// What somebody can go on with whose password was right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enum)]
pub enum MfaMethod {
    /// A code of an authenticator: `loginVerify`.
    Authenticator,
    /// A passkey: `passkeyLoginBegin` with the `mfaToken`, then `passkeyLogin`.
    Passkey,
    /// A recovery code: `loginVerify`.
    RecoveryCode,
}

/// A second factor: besides your password you are asked for a code of your authenticator, or a passkey, when you sign in.
#[derive(SimpleObject)]
pub struct SecondFactor {
    /// Since when you are asked for it.
    since: Timestamp,
    /// How many recovery codes are left: each signs you in once without the authenticator.
    recovery_codes_left: i32,
}

/// Who is signed in; everything about them is asked of the reader.
#[derive(Clone, Copy, Debug)]
pub struct Viewer;

/// You, as you are signed in: a person, acting as a member of one organization.
#[Object]
impl Viewer {
    /// You as a person.
    async fn user(&self, cx: &Context<'_>) -> async_graphql::Result<Arc<User>> {
        let reader = reading(cx)?;
        own(&reader, reader.viewer().user.uuid()).await
    }

    /// You in the organization in which you act: your roles.
    async fn member(&self, cx: &Context<'_>) -> async_graphql::Result<Arc<Member>> {
        let reader = reading(cx)?;
        own(&reader, reader.viewer().member.uuid()).await
    }

    /// The organization in which you act.
    async fn organization(&self, cx: &Context<'_>) -> async_graphql::Result<Arc<Organization>> {
        let reader = reading(cx)?;
        own(&reader, reader.organization().uuid()).await
    }

    /// All organizations that you are an active member of, the oldest first: `sessionSwitch` goes to another one. Of a
    /// key the one in which it acts.
    async fn organizations(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<Arc<Organization>>> {
        Ok(organizations::of_viewer(&reading(cx)?).await?)
    }

    /// What you may do here, sorted: `module:action`, with `:own` for what is your own, and `*` for all.
    async fn permissions(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<String>> {
        Ok(reading(cx)?.permissions().patterns().to_vec())
    }

    /// Your second factor; null when you have none. `totpBegin` or `passkeyRegistrationBegin` sets one up.
    async fn second_factor(&self, cx: &Context<'_>) -> async_graphql::Result<Option<SecondFactor>> {
        let reader = reading(cx)?;
        let user = own::<User>(&reader, reader.viewer().user.uuid()).await?;
        let recovery_codes_left = user.recovery_codes_left;
        Ok(user.second_factor_since.map(|since| SecondFactor { since, recovery_codes_left }))
    }

    /// Whether this organization asks for a second factor and you have none: then you may do nothing here but set one
    /// up, with `totpBegin`.
    async fn second_factor_missing(&self, cx: &Context<'_>) -> async_graphql::Result<bool> {
        let reader = reading(cx)?;
        if reader.viewer().session().is_none() || !standings::asks_for_second_factor(&reader).await? {
            return Ok(false);
        }
        Ok(own::<User>(&reader, reader.viewer().user.uuid()).await?.second_factor_since.is_none())
    }

    /// Your passkeys, the oldest first. To a key none is shown.
    async fn passkeys(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<Passkey>> {
        let reader = reading(cx)?;
        if reader.viewer().session().is_none() {
            return Ok(Vec::new());
        }
        Ok(passkeys::of_viewer(&reader).await?)
    }

    /// The session in which you ask.
    async fn session(&self, cx: &Context<'_>) -> async_graphql::Result<Arc<Session>> {
        let reader = reading(cx)?;
        let no_session = "A key is not signed in: ask for `viewer { apiKey { id } }`.";
        let session = reader.viewer().session().ok_or_else(|| error("FORBIDDEN", no_session))?;
        own(&reader, session.uuid()).await
    }

    /// The key with which you ask; null when you are signed in.
    async fn api_key(&self, cx: &Context<'_>) -> async_graphql::Result<Option<Arc<ApiKey>>> {
        let reader = reading(cx)?;
        match reader.viewer().credential {
            Credential::ApiKey { key, .. } => own(&reader, key).await.map(Some),
            Credential::Session(_) => Ok(None),
        }
    }

    /// What you prefer, the same on every device and in every organization: `preferencesUpdate` changes it. To a key none
    /// is shown.
    async fn preferences(&self, cx: &Context<'_>) -> async_graphql::Result<Option<Preferences>> {
        let reader = reading(cx)?;
        if reader.viewer().session().is_none() {
            return Ok(None);
        }
        Ok(Some(preferences::of_viewer(&reader).await?))
    }

    /// To which identity providers of this organization you are known, the oldest first: `identityLinkBegin` adds one. To
    /// a key none is shown.
    async fn identities(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<Arc<Identity>>> {
        Ok(identities::of_viewer(&reading(cx)?).await?)
    }

    /// What you say to each policy that holds for you: `consentGive` agrees to one.
    async fn consents(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<ConsentStatus>> {
        let reader = reading(cx)?;
        Ok(consents::of(&reader, reader.viewer().user).await?)
    }

    /// Whether there is a policy to which you are to agree and do not.
    async fn consents_missing(&self, cx: &Context<'_>) -> async_graphql::Result<bool> {
        let reader = reading(cx)?;
        let consents = consents::of(&reader, reader.viewer().user).await?;
        Ok(consents.iter().any(ConsentStatus::is_lacking))
    }

    /// The features that are on for the organization in which you act, by their keys, sorted. `live` follows them.
    async fn features(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<String>> {
        answered(installation::enabled(cx).await)
    }

    /// Whether the feature with this key is on for the organization in which you act; no when there is none.
    async fn feature(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "What programs call it.")] key: String,
    ) -> async_graphql::Result<bool> {
        Ok(answered(installation::enabled(cx).await)?.contains(&key))
    }

    /// All devices on which you are signed in, in any organization, the newest first; where an identity provider says who
    /// you are, those in its organization. To a key none is shown.
    async fn sessions(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<Arc<Session>>> {
        let now = Services::of(cx)?.engine.now();
        Ok(sessions::of_viewer(&reading(cx)?, now).await?)
    }
}

fn reading(cx: &Context<'_>) -> async_graphql::Result<Reader> {
    current_reader(cx).ok_or_else(|| Refusal::Unauthenticated.into())
}

/// What has to be there as long as somebody is signed in.
async fn own<M: ReadModel>(reader: &Reader, id: Uuid) -> async_graphql::Result<Arc<M>> {
    // The session may have ended since the request began.
    reader.get::<M>(id).await?.ok_or_else(|| Refusal::Unauthenticated.into())
}

#[operations(query)]
impl SessionQuery {
    /// Who you are and what you may do; null when you are not signed in.
    #[public]
    async fn viewer(&self, cx: &Context<'_>) -> Result<Option<Viewer>> {
        Ok(current_reader(cx).map(|_| Viewer))
    }
}

#[operations(mutation)]
impl SessionMutation {
    /// Signs you in with your password, and exactly one of e-mail address and user name. You act in the organization
    /// that you name, else in the one that you joined first. If you have a second factor, the answer is `MFA_REQUIRED`
    /// with an `mfaToken`: go on with `loginVerify`. After some wrong passwords each next attempt has to wait, as
    /// `RATE_LIMITED` with `retryAfter`; where you have signed in before, no stranger's attempts make you wait.
    #[public]
    async fn login(&self, cx: &Context<'_>, input: LoginInput) -> Result<SessionPayload> {
        let services = Services::of(cx)?;
        let (connection, blinder) = (services.engine.database().reader(), services.engine.keyring().as_ref());
        let mut context = secret_command(&granted, cx, &input)?;
        let (name, found) = match (&input.email, &input.username) {
            (Some(text), None) => match Email::parse(text) {
                Ok(email) => {
                    let hash = email.blind(blinder);
                    let found = sign_in::user_by_email(connection, &hash).await;
                    (hash, found)
                }
                Err(_) => (blinder.blind("email", text), Ok(None)),
            },
            (None, Some(text)) => match Username::parse(text) {
                Ok(username) => {
                    let hash = username.blind(blinder);
                    let found = sign_in::user_by_username(connection, &hash).await;
                    (hash, found)
                }
                Err(_) => (blinder.blind("username", text), Ok(None)),
            },
            _ => {
                let message = "Sign in with exactly one of `email` and `username`.";
                return Err(Rejection::new(ErrorCode::Invalid, message).at("email").into());
            }
        };
        let found = found.map_err(unavailable)?;
        let right = password_is_right(cx, &name, found.as_ref(), &input.password).await?;
        let Some(user) = found.filter(|_| right) else {
            return Err(wrong_credentials("The e-mail address, the user name or the password is wrong.").into());
        };
        let member = sign_in::active_member(connection, user.id, input.organization_id).await.map_err(unavailable)?;
        let Some((member, organization)) = member else {
            let message = match input.organization_id {
                Some(_) => "You are not an active member of this organization. Ask one of its administrators.",
                None => "You are not an active member of any organization. Ask an administrator of yours.",
            };
            return Err(wrong_credentials(message).into());
        };
        (context.actor, context.organization) = (Actor::User(user.id), organization);
        start(cx, &context, Transaction::new(), Who { user: user.id, member, organization, federated: None }).await
    }

    /// Finishes signing in, with a code of your second factor: the six digits that your authenticator shows, or one of
    /// your recovery codes. Each code is good once.
    #[public]
    async fn login_verify(&self, cx: &Context<'_>, input: LoginVerifyInput) -> Result<SessionPayload> {
        let mut context = secret_command(&granted, cx, &input)?;
        if let Some(done) = repetition(cx, &context).await? {
            return started_before(cx, &context, &done).await;
        }
        let who = challenged(cx, &input.mfa_token, context.now).await?;
        let attempt = begin_attempt(cx, Secret::Code, &who.user.to_string(), Some(who.user)).await?;
        (context.actor, context.organization) = (Actor::User(who.user), who.organization);
        let code = Transaction::new().and(who.user, UseSecondFactor { code: input.code });
        let signed_in = start_session(cx, &context, code, who, Some(SignInMethod::PasswordAndCode)).await;
        end_attempt(cx, Secret::Code, attempt, Some(who.user), signed_in.is_ok())?;
        signed_in
    }

    /// Exchanges a refresh token for the next one and a new access token. Each refresh token is good once: one that
    /// comes back after it was exchanged ends the session, because two hold it. Give an `idempotencyKey` if you want
    /// to be able to repeat the exchange after a lost answer.
    #[public]
    async fn session_refresh(&self, cx: &Context<'_>, input: SessionRefreshInput) -> Result<SessionPayload> {
        let services = Services::of(cx)?;
        let mut context = secret_command(&granted, cx, &input)?;
        let not_valid = || wrong_credentials("This token is not valid. Sign in again.").at("refreshToken");
        let (session, presented_hash) = read_refresh_token(&input.refresh_token).ok_or_else(not_valid)?;
        let state: SessionState = services.engine.state(session).await?;
        context.organization = state.tenant().ok_or_else(not_valid)?;
        let row = viewer::resolve(services.engine.database().reader(), Credential::Session(session), context.now)
            .await
            .map_err(unavailable)?;
        context.actor = row.map_or(Actor::Anonymous, |row| row.viewer.actor());
        let (token, next_hash) = refresh_token(services, &context, session)?;
        let expires_at = context.now + services.policy.refresh_token_ttl;
        let refresh = RefreshSession { presented_hash, next_hash: next_hash.clone(), expires_at };
        let done = services.engine.execute(&context, session, refresh).await?;
        if done.events.iter().any(|event| matches!(event.event_as(), Some(SessionEvent::Ended { .. }))) {
            let message =
                "This token was used before, so somebody else may hold it: the session has been ended. Sign in again.";
            return Err(wrong_credentials(message).at("refreshToken").into());
        }
        // A repetition may come after the token that it gave was used in its turn.
        let state: SessionState = services.engine.state(session).await?;
        signed_in(cx, session, state.is_current(&next_hash).then_some(token), done.position).await
    }

    /// Goes on in another organization that you are an active member of: a new session there, while the one in which
    /// you ask ends. Its tokens are good no longer.
    #[signed_in]
    async fn session_switch(&self, cx: &Context<'_>, input: SessionSwitchInput) -> Result<SessionPayload> {
        let (viewer, session) = (granted.in_person()?, granted.session()?);
        let context = granted.command(cx, &input)?;
        if viewer.organization == input.organization_id {
            return Err(Rejection::conflict("You act in this organization already.").at("organizationId").into());
        }
        let connection = Services::of(cx)?.engine.database().reader();
        let member = sign_in::active_member(connection, viewer.user, Some(input.organization_id)).await;
        let Some((member, organization)) = member.map_err(unavailable)? else {
            return Err(Rejection::not_found(oriel_domain::organizations::Organization::NOUN)
                .at("organizationId")
                .into());
        };
        let ended = Transaction::new().and(session, EndSession { reason: EndReason::Switched });
        // It was shown when the session began that ends now.
        let here = crate::access::reader(cx)?.get::<Session>(session).await?;
        let method = here.and_then(|here| here.method).map(Into::into);
        start_session(cx, &context, ended, Who { user: viewer.user, member, organization, federated: None }, method)
            .await
    }

    /// Ends one of your sessions, on whatever device and in whatever organization. Its tokens are good no longer.
    #[signed_in]
    async fn session_revoke(&self, cx: &Context<'_>, input: SessionRevokeInput) -> Result<SessionRevokePayload> {
        let viewer = granted.viewer()?;
        let mut context = granted.command(cx, &input)?;
        let connection = Services::of(cx)?.engine.database().reader().clone();
        let reader = Reader::new(connection, Arc::clone(viewer), Arc::default());
        let found = reader.get::<Session>(input.id).await?;
        let found = found.filter(|found| !viewer.confined || found.organization_id == viewer.organization);
        let found = found.ok_or_else(|| Rejection::not_found(SessionState::NOUN).at("id"))?;
        context.organization = found.organization_id;
        let (session, position) = end(cx, &context, found.id, EndReason::Revoked).await?;
        Ok(SessionRevokePayload { session, user_errors: Vec::new(), position: Some(position) })
    }

    /// Ends all your sessions but the one in which you ask, on every device and in every organization. Their tokens are
    /// good no longer.
    #[signed_in]
    async fn session_revoke_all(
        &self,
        cx: &Context<'_>,
        input: Option<SessionRevokeAllInput>,
    ) -> Result<SessionRevokeAllPayload> {
        let (viewer, session) = (granted.viewer()?, granted.session()?);
        let context = granted.command(cx, &input)?;
        let here = |organization| !viewer.confined || organization == viewer.organization;
        end_sessions(cx, &context, viewer.user, Some(session), here).await?;
        let engine = &Services::of(cx)?.engine;
        let reader = Reader::new(engine.database().reader().clone(), Arc::clone(viewer), Arc::default());
        let (session, position) = (reader.get(session).await?, Some(engine.feed().head()));
        Ok(SessionRevokeAllPayload { session, user_errors: Vec::new(), position })
    }

    /// Signs you out: the session in which you ask ends, and its tokens are good no longer.
    #[signed_in]
    async fn logout(&self, cx: &Context<'_>, input: Option<LogoutInput>) -> Result<LogoutPayload> {
        let context = granted.command(cx, &input)?;
        let (session, position) = end(cx, &context, granted.session()?, EndReason::SignedOut).await?;
        Ok(LogoutPayload { session, user_errors: Vec::new(), position: Some(position) })
    }
}

async fn end(
    cx: &Context<'_>,
    context: &CommandContext,
    session: SessionId,
    reason: EndReason,
) -> Result<(Option<Arc<Session>>, Position)> {
    let engine = &Services::of(cx)?.engine;
    let done = engine.execute(context, session, EndSession { reason }).await?;
    let viewer = Meta::of(cx)?.viewer.clone().ok_or(Refusal::Unauthenticated)?;
    // Whoever ended their own session still learns that.
    let reader = Reader::new(engine.database().reader().clone(), viewer, Arc::default());
    Ok((reader.get(session).await?, done.position))
}

// --- what registering and accepting an invitation share with signing in --------------------------------------------

/// Who signs in, and where.
#[derive(Clone, Copy)]
pub(crate) struct Who {
    pub user: UserId,
    pub member: MemberId,
    pub organization: OrganizationId,
    /// Who said who they are, if it was not they themselves. To be kept on the way to the session, unless they show a
    /// passkey: without it the session would be good in other organisations too.
    pub federated: Option<Federated>,
}

/// That an identity provider says who somebody is.
#[derive(Clone, Copy)]
pub(crate) struct Federated {
    /// Which one.
    pub provider: IdentityProviderId,
    /// The session that begins with it: one, however often it is said.
    pub session: SessionId,
}

/// `INVALID_CREDENTIALS`, in these words.
pub(crate) fn wrong_credentials(message: &str) -> Rejection {
    Rejection::new(ErrorCode::InvalidCredentials, message)
}

/// The context of a command whose input holds a secret: the hash that is kept of it is keyed, so that whoever reads
/// the database cannot try passwords on it.
pub(crate) fn secret_command<I: InputType>(granted: &Granted, cx: &Context<'_>, input: &I) -> Result<CommandContext> {
    let mut context = granted.command(cx, input)?;
    let blind = Services::of(cx)?.engine.keyring().blind("command_input", &HEXLOWER.encode(&context.input_hash));
    context.input_hash.copy_from_slice(digest(&SHA256, blind.as_bytes()).as_ref());
    Ok(context)
}

/// What this command did when it was carried out before, under its idempotency key. To be asked by operations whose
/// checks would refuse a repetition.
pub(crate) async fn repetition(cx: &Context<'_>, context: &CommandContext) -> Result<Option<Committed>> {
    if !context.may_repeat {
        return Ok(None);
    }
    let done = Services::of(cx)?.engine.transact(context, Transaction::new()).await?;
    Ok(done.repeated.then_some(done))
}

/// Begins an attempt at a secret of this account, from where the request comes. `user`: whose account it is, if
/// anybody's.
pub(crate) async fn begin_attempt(
    cx: &Context<'_>,
    secret: Secret,
    account: &str,
    user: Option<UserId>,
) -> Result<Attempt> {
    let services = Services::of(cx)?;
    let (place, now) = (Place::of(Meta::of(cx)?.ip.as_deref()), services.engine.now());
    match services.attempts.begin(secret, Some(account), &place, false, now).await {
        Err(Wait { strangers_only: true, .. }) => {
            // For nobody too, so that it takes as long.
            let (connection, user) = (services.engine.database().reader(), user.unwrap_or(UserId::ABSENT));
            let known = sign_in::addresses(connection, user).await.map_err(unavailable)?;
            let at_home = known.iter().any(|address| Place::of(Some(address)) == place);
            Ok(services.attempts.begin(secret, Some(account), &place, at_home, now).await?)
        }
        begun => Ok(begun?),
    }
}

/// Ends an attempt that was looked at. What looks like an attack is told to those who look after the account.
pub(crate) fn end_attempt(
    cx: &Context<'_>,
    secret: Secret,
    attempt: Attempt,
    user: Option<UserId>,
    is_right: bool,
) -> Result<()> {
    let services = Services::of(cx)?;
    if !is_right {
        return security_events::wrong(cx, secret, &attempt, user);
    }
    security_events::right(cx, secret, &attempt, user)?;
    services.attempts.succeeded(attempt, services.engine.now());
    Ok(())
}

/// Whether this is the password of the user who signs in under this name; `name`: its keyed hash. The attempt is
/// counted, and takes as long when there is no such user. A right one whose hash is not as it would be made today is
/// hashed anew.
pub(crate) async fn password_is_right(cx: &Context<'_>, name: &str, user: Option<&User>, typed: &str) -> Result<bool> {
    let services = Services::of(cx)?;
    let attempt = begin_attempt(cx, Secret::Password, name, user.map(|user| user.id)).await?;
    let hash = user.and_then(|user| user.password_hash.as_deref());
    let is_right = match services.passwords.verify(typed, hash).await {
        Ok(is_right) => is_right,
        Err(failure) => {
            services.attempts.withdrawn(attempt, services.engine.now());
            return Err(failure);
        }
    };
    end_attempt(cx, Secret::Password, attempt, user.map(|user| user.id), is_right)?;
    if !is_right {
        return Ok(false);
    }
    if let Some((user, hash)) = user.zip(hash)
        && services.passwords.is_outdated(hash)
    {
        let command = RehashPassword { password_hash: services.passwords.rehash(typed).await? };
        let mut context =
            CommandContext::system(services.engine.new_id(), OrganizationId::ABSENT, services.engine.now());
        (context.actor, context.expected_version) = (Actor::User(user.id), Some(user.version));
        // If something else has changed meanwhile, the next time will do.
        if let Err(error) = services.engine.execute(&context, user.id, command).await {
            tracing::warn!(user = %user.id, %error, "a password could not be hashed anew");
        }
    }
    Ok(true)
}

/// Changes with the password, and tells nothing about it.
fn password_mark(user: &User, blinder: &dyn Blinder) -> String {
    blinder.blind("password_mark", user.password_hash.as_deref().unwrap_or_default())
}

/// Carries out the transaction and signs this person in, whose password was checked: as its last part; or, if they have
/// a second factor, not before they have shown it.
pub(crate) async fn start(
    cx: &Context<'_>,
    context: &CommandContext,
    transaction: Transaction,
    who: Who,
) -> Result<SessionPayload> {
    let services = Services::of(cx)?;
    let user = sign_in::user(services.engine.database().reader(), who.user).await.map_err(unavailable)?;
    let Some(user) = user.filter(|user| user.second_factor_since.is_some()) else {
        return start_session(cx, context, transaction, who, Some(SignInMethod::Password)).await;
    };
    let done = services.engine.transact(context, transaction).await?;
    Ok(challenge(services, &user, who, done.position))
}

/// The answer to a right password that is not enough.
fn challenge(services: &Services, user: &User, who: Who, position: Position) -> SessionPayload {
    let blinder = services.engine.keyring().as_ref();
    let mut about = format!("{}.{}", who.organization, password_mark(user, blinder));
    if let Some(Federated { provider, session }) = who.federated {
        about.push_str(&format!(".{provider}.{session}"));
    }
    let ends_at = services.engine.now() + CHALLENGE_LIFE;
    let ticket = Ticket { subject: user.id, ends_at, about };
    let message = "A second factor is needed: give `mfaToken` and a code to `loginVerify`, or go on with a passkey.";
    let has = [
        (user.has_authenticator, MfaMethod::Authenticator),
        (user.passkey_count > 0, MfaMethod::Passkey),
        (user.recovery_codes_left > 0, MfaMethod::RecoveryCode),
    ];
    SessionPayload {
        access_token: None,
        refresh_token: None,
        expires_at: None,
        mfa_token: Some(ticket.sign(SECOND_FACTOR, blinder)),
        mfa_methods: Some(has.into_iter().filter(|(has, _)| *has).map(|(_, method)| method).collect()),
        viewer: None,
        user_errors: vec![Rejection::new(ErrorCode::MfaRequired, message).into()],
        position: Some(position),
    }
}

/// Whose right password this token stands for, and where they act.
pub(crate) async fn challenged(cx: &Context<'_>, token: &str, now: Timestamp) -> Result<Who> {
    let engine = &Services::of(cx)?.engine;
    let (connection, blinder) = (engine.database().reader(), engine.keyring().as_ref());
    let over = || {
        let message = "This token is not good any more. Begin again with `login`.";
        Rejection::new(ErrorCode::Expired, message).at("mfaToken")
    };
    let ticket: Ticket<UserId> = Ticket::read(token, SECOND_FACTOR, now, blinder).ok_or_else(over)?;
    let user = sign_in::user(connection, ticket.subject).await.map_err(unavailable)?.ok_or_else(over)?;
    let mut about = ticket.about.split('.');
    let (organization, password) = about.next().zip(about.next()).ok_or_else(over)?;
    if password != password_mark(&user, blinder) {
        return Err(over().into());
    }
    let federated = match (about.next().map(str::parse), about.next().map(str::parse)) {
        (None, None) => None,
        (Some(Ok(provider)), Some(Ok(session))) => Some(Federated { provider, session }),
        _ => return Err(over().into()),
    };
    let organization = OrganizationId::parse_or_absent(organization);
    let member = sign_in::active_member(connection, user.id, Some(organization)).await.map_err(unavailable)?;
    let (member, organization) = member.ok_or_else(over)?;
    Ok(Who { user: user.id, member, organization, federated })
}

/// The answer of a command that began a session when it was carried out before.
pub(crate) async fn started_before(
    cx: &Context<'_>,
    context: &CommandContext,
    done: &Committed,
) -> Result<SessionPayload> {
    let (session, _) = started_at(cx, done.position).await?;
    continued(cx, context, session, done.position).await
}

/// Carries out the transaction and, as its last part, begins a session; `method`: by what they showed who they are.
pub(crate) async fn start_session(
    cx: &Context<'_>,
    context: &CommandContext,
    transaction: Transaction,
    who: Who,
    method: Option<SignInMethod>,
) -> Result<SessionPayload> {
    let (services, meta) = (Services::of(cx)?, Meta::of(cx)?);
    let session: SessionId = who.federated.map_or_else(|| services.engine.new_id(), |said| said.session);
    let (token, refresh_hash) = refresh_token(services, context, session)?;
    let start = StartSession {
        user: who.user,
        member: who.member,
        organization: who.organization,
        refresh_hash,
        ip: meta.ip.clone(),
        user_agent: meta.user_agent.clone(),
        expires_at: context.now + services.policy.refresh_token_ttl,
        provider: who.federated.map(|said| said.provider),
        method: method.filter(|_| who.federated.is_none()),
    };
    let done = services.engine.transact(context, transaction.and(session, start)).await?;
    if done.repeated {
        return started_before(cx, context, &done).await;
    }
    signed_in(cx, session, Some(token), done.position).await
}

/// Signs in once more with the session that the repeated command started, if this is still the person's password.
pub(crate) async fn start_again(
    cx: &Context<'_>,
    context: &CommandContext,
    done: &Committed,
    password: &str,
) -> Result<SessionPayload> {
    let services = Services::of(cx)?;
    let (session, user) = started_at(cx, done.position).await?;
    let user = sign_in::user(services.engine.database().reader(), user).await.map_err(unavailable)?;
    let name = user.as_ref().and_then(|user| user.email_hash.clone()).unwrap_or_default();
    if !password_is_right(cx, &name, user.as_ref(), password).await? {
        return Err(wrong_credentials("The password has been changed since. Sign in with the new one.")
            .at("password")
            .into());
    }
    if user.is_some_and(|user| user.second_factor_since.is_some()) {
        let message = "You have a second factor since. Sign in with `login`.";
        return Err(Rejection::new(ErrorCode::MfaRequired, message).into());
    }
    continued(cx, context, session, done.position).await
}

/// The session whose start is the event at this position, and whose it is.
async fn started_at(cx: &Context<'_>, position: Position) -> Result<(SessionId, UserId)> {
    let log = Services::of(cx)?.engine.log();
    let events = log.read(Position::new(position.number() - 1), 1).await.map_err(unavailable)?;
    events
        .first()
        .and_then(|recorded| match recorded.event_as() {
            Some(SessionEvent::Started { user, .. }) => Some((Id::from_uuid(recorded.subject), *user)),
            _ => None,
        })
        .ok_or_else(|| internal(format!("no session begins at position {position}")).into())
}

/// The answer of a command that started this session when it was carried out first.
async fn continued(
    cx: &Context<'_>,
    context: &CommandContext,
    session: SessionId,
    position: Position,
) -> Result<SessionPayload> {
    let services = Services::of(cx)?;
    let (token, hash) = refresh_token(services, context, session)?;
    let state: SessionState = services.engine.state(session).await?;
    signed_in(cx, session, state.is_current(&hash).then_some(token), position).await
}

/// A refresh token for this session, and the hash to keep: see the module.
fn refresh_token(services: &Services, context: &CommandContext, session: SessionId) -> Result<(String, String)> {
    if !context.may_repeat {
        return Ok(services.tokens.refresh_token(session).map_err(internal)?);
    }
    let command = format!("{}/{}", context.command, HEXLOWER.encode(&context.input_hash));
    let token = format!("{session}.{}", services.engine.keyring().blind("refresh_token", &command));
    let (_, hash) = read_refresh_token(&token).ok_or_else(|| internal("a refresh token does not name its session"))?;
    Ok((token, hash))
}

/// The tokens of a session that goes on, and what its viewer sees from now on.
async fn signed_in(
    cx: &Context<'_>,
    session: SessionId,
    refresh_token: Option<String>,
    position: Position,
) -> Result<SessionPayload> {
    let services = Services::of(cx)?;
    let (connection, now) = (services.engine.database().reader(), services.engine.now());
    let row = viewer::resolve(connection, Credential::Session(session), now).await.map_err(unavailable)?;
    let over = || Rejection::new(ErrorCode::Expired, "This session is over. Sign in again.");
    let viewer = row.ok_or_else(over)?.viewer;
    let ttl = services.policy.access_token_ttl;
    let signed = services.tokens.sign(viewer.user, session, viewer.organization, viewer.member, now, ttl);
    let (access_token, expires_at) = signed.map_err(internal)?;
    if let Some(readers) = cx.data_opt::<Readers>() {
        let recorder = current_reader(cx).map(|reader| Arc::clone(reader.recorder())).unwrap_or_default();
        let limits = services.policy.reading();
        readers.become_viewer(Reader::with_limits(connection.clone(), viewer, recorder, limits));
    }
    let sees = current_reader(cx).is_some_and(|reader| reader.viewer().session() == Some(session));
    Ok(SessionPayload {
        access_token: Some(access_token),
        refresh_token,
        expires_at: Some(expires_at),
        mfa_token: None,
        mfa_methods: None,
        viewer: sees.then_some(Viewer),
        user_errors: Vec::new(),
        position: Some(position),
    })
}

// --- inputs -----------------------------------------------------------------------------------------------------

/// Who signs in, and where.
#[derive(InputObject)]
struct LoginInput {
    /// Your e-mail address, whatever its case. Either this or `username`.
    email: Option<String>,
    /// Your user name, whatever its case. Either this or `email`.
    username: Option<String>,
    /// Your password, exactly as you chose it.
    #[graphql(secret)]
    password: String,
    /// Where you want to act; without it, in the organization that you joined first.
    organization_id: Option<OrganizationId>,
    /// Makes a retry safe: the same key and input give the same session. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The second half of signing in.
#[derive(InputObject)]
struct LoginVerifyInput {
    /// The `mfaToken` that signing in with the password gave.
    #[graphql(secret)]
    mfa_token: String,
    /// The six digits that your authenticator shows, or a recovery code.
    #[graphql(secret)]
    code: String,
    /// Makes a retry safe: the same key, token and code give the same session. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The token to be exchanged.
#[derive(InputObject)]
struct SessionRefreshInput {
    /// The refresh token that signing in, or the last refresh, gave.
    #[graphql(secret)]
    refresh_token: String,
    /// Makes a retry safe: the same key and token give the same next token. Without it a repetition looks like a
    /// stolen token and ends the session. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Where to go on.
#[derive(InputObject)]
struct SessionSwitchInput {
    /// An organization that you are an active member of: `viewer { organizations { id } }`.
    organization_id: OrganizationId,
    /// Names this command. A repetition needs the session that it ended, so after a lost answer sign in again.
    idempotency_key: Option<String>,
}

/// The session to be ended.
#[derive(InputObject)]
struct SessionRevokeInput {
    /// Which one: `viewer { sessions { id } }`.
    id: SessionId,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Ending all other sessions needs nothing.
#[derive(InputObject)]
struct SessionRevokeAllInput {
    /// Names this command. A repetition ends what was begun since.
    idempotency_key: Option<String>,
}

/// Signing out needs nothing.
#[derive(InputObject)]
struct LogoutInput {
    /// Names this command. A repetition is refused as `UNAUTHENTICATED`: you are signed out.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
