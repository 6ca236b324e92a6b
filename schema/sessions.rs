//! Sessions: signing in and out, refreshing, switching to another organisation, and who one is.
//!
//! Invariants: what a caller learns when signing in fails does not tell which part was wrong. A refresh token is
//! given out once; one that was replaced and comes back ends its session. What is kept of a command's input does not
//! help to guess a password in it.
//!
//! **Retries.** Tokens are not kept and cannot be read back. A command with an idempotency key therefore derives its
//! refresh token from the key, the whole input (the password included) and a secret of the installation, so that the
//! repetition gives the same one, as long as that is still good; its access token is a new one of the same session.
//! Without a key the refresh token is random.

use std::sync::Arc;

use async_graphql::{Context, InputObject, InputType, Object};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use oriel_domain::sessions::{
    EndReason, EndSession, RefreshSession, Session as SessionState, SessionEvent, StartSession,
};
use oriel_domain::users::{Email, Username};
use oriel_engine::read::{ReadModel, Reader};
use oriel_engine::{CommandContext, Committed, Transaction};
use oriel_kernel::{
    Actor, Aggregate, Blinder, Credential, ErrorCode, Id, MemberId, OrganizationId, Position, Rejection, SessionId,
    Timestamp, UserId, operations,
};
use oriel_read_models::members::Model as Member;
use oriel_read_models::organizations::{self, Model as Organization};
use oriel_read_models::sessions::{self, Model as Session};
use oriel_read_models::users::Model as User;
use oriel_read_models::{Readers, current_reader, sign_in, viewer};
use uuid::Uuid;

use crate::access::{Granted, Refusal, Result, error, internal, unavailable};
use crate::payload::payloads;
use crate::services::{Meta, Services};
use crate::tokens::read_refresh_token;

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
        /// With `MFA_REQUIRED`: what to finish with by a second factor. Else null.
        mfa_token: String,
        /// Who you are now, and what you see. Null too when an earlier mutation of the same request has signed you in
        /// or changed something: ask for it in the next request.
        viewer: Viewer,
    }

    /// What became of ending a session.
    SessionRevokePayload {
        /// The session, which is over.
        session: Arc<Session>,
    }

    /// What became of signing out.
    LogoutPayload {
        /// The session, which is over. Neither of its tokens is good any more.
        session: Arc<Session>,
    }
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

    /// All organizations that you are an active member of, the oldest first: `sessionSwitch` goes to another one.
    async fn organizations(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<Arc<Organization>>> {
        Ok(organizations::of_viewer(&reading(cx)?).await?)
    }

    /// What you may do here, sorted: `module:action`, with `:own` for what is your own, and `*` for all.
    async fn permissions(&self, cx: &Context<'_>) -> async_graphql::Result<Vec<String>> {
        Ok(reading(cx)?.permissions().patterns().to_vec())
    }

    /// The session in which you ask.
    async fn session(&self, cx: &Context<'_>) -> async_graphql::Result<Arc<Session>> {
        let reader = reading(cx)?;
        let no_session = "A key is not signed in: ask for `viewer { apiKey { id } }`.";
        let session = reader.viewer().session().ok_or_else(|| error("FORBIDDEN", no_session))?;
        own(&reader, session.uuid()).await
    }

    /// All devices on which you are signed in, in any organization, the newest first.
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
    /// that you name, else in the one that you joined first.
    #[public]
    async fn login(&self, cx: &Context<'_>, input: LoginInput) -> Result<SessionPayload> {
        let services = Services::of(cx)?;
        let (connection, blinder) = (services.engine.database().reader(), services.engine.keyring());
        let mut context = secret_command(&granted, cx, &input)?;
        let found = match (&input.email, &input.username) {
            (Some(email), None) => match Email::parse(email) {
                Ok(email) => sign_in::user_by_email(connection, &email.blind(blinder.as_ref())).await,
                Err(_) => Ok(None),
            },
            (None, Some(username)) => match Username::parse(username) {
                Ok(username) => sign_in::user_by_username(connection, &username.blind(blinder.as_ref())).await,
                Err(_) => Ok(None),
            },
            _ => {
                let message = "Sign in with exactly one of `email` and `username`.";
                return Err(Rejection::new(ErrorCode::Invalid, message).at("email").into());
            }
        };
        let found = found.map_err(unavailable)?;
        let hash = found.as_ref().and_then(|user| user.password_hash.as_deref());
        let right = services.passwords.verify(&input.password, hash).await?;
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
        start(cx, &context, Transaction::new(), Who { user: user.id, member, organization }).await
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
        let (viewer, session) = (granted.viewer()?, granted.session()?);
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
        start(cx, &context, ended, Who { user: viewer.user, member, organization }).await
    }

    /// Ends one of your sessions, on whatever device and in whatever organization. Its tokens are good no longer.
    #[signed_in]
    async fn session_revoke(&self, cx: &Context<'_>, input: SessionRevokeInput) -> Result<SessionRevokePayload> {
        let viewer = granted.viewer()?;
        let mut context = granted.command(cx, &input)?;
        let connection = Services::of(cx)?.engine.database().reader().clone();
        let reader = Reader::new(connection, Arc::clone(viewer), Arc::default());
        let found = reader.get::<Session>(input.id).await?;
        let found = found.ok_or_else(|| Rejection::not_found(SessionState::NOUN).at("id"))?;
        context.organization = found.organization_id;
        let (session, position) = end(cx, &context, found.id, EndReason::Revoked).await?;
        Ok(SessionRevokePayload { session, user_errors: Vec::new(), position: Some(position) })
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

/// Carries out the transaction and, as its last part, signs this person in.
pub(crate) async fn start(
    cx: &Context<'_>,
    context: &CommandContext,
    transaction: Transaction,
    who: Who,
) -> Result<SessionPayload> {
    let (services, meta) = (Services::of(cx)?, Meta::of(cx)?);
    let session: SessionId = services.engine.new_id();
    let (token, refresh_hash) = refresh_token(services, context, session)?;
    let start = StartSession {
        user: who.user,
        member: who.member,
        organization: who.organization,
        refresh_hash,
        ip: meta.ip.clone(),
        user_agent: meta.user_agent.clone(),
        expires_at: context.now + services.policy.refresh_token_ttl,
    };
    let done = services.engine.transact(context, transaction.and(session, start)).await?;
    if done.repeated {
        let (session, _) = started_at(cx, done.position).await?;
        return continued(cx, context, session, done.position).await;
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
    let hash = user.as_ref().and_then(|user| user.password_hash.as_deref());
    if !services.passwords.verify(password, hash).await? {
        return Err(wrong_credentials("The password has been changed since. Sign in with the new one.")
            .at("password")
            .into());
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

/// Signing out needs nothing.
#[derive(InputObject)]
struct LogoutInput {
    /// Names this command. A repetition is refused as `UNAUTHENTICATED`: you are signed out.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
