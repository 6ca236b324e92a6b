//! Passkeys: registering one, signing in with one, calling it otherwise, removing it.
//!
//! Invariants: a challenge is random, good for five minutes, and for the session or the person that it was given to. It is
//! a signed ticket, of which nothing is kept until it is answered; then the person's own history holds that it was, so
//! that no node takes it twice. Whoever begins to sign in without a password is told the same, whoever they are. Whether
//! somebody may act anywhere is told only to who has shown a passkey of theirs.

use async_graphql::{Context, InputObject, Json};
use oriel_domain::sessions::SignInMethod;
use oriel_domain::tickets::Ticket;
use oriel_domain::users::passkeys::{
    Answer, Asked, CHALLENGE_LIFE, LOGIN, PasskeyId, PasskeyName, REGISTRATION, Recognized, RegisterPasskey,
    RemovePasskey, RenamePasskey, SuspectClone, UsePasskey, handle,
};
use oriel_domain::users::webauthn::{ALGORITHMS, Challenge, RelyingParty};
use oriel_domain::users::{User as UserState, UserEvent};
use oriel_engine::{CommandContext, Committed, Transaction};
use oriel_kernel::{Actor, Blinder, ErrorCode, OrganizationId, Rejection, SessionId, Timestamp, UserId, operations};
use oriel_read_models::sign_in;
use oriel_read_models::users::passkeys::{self, Passkey};
use serde_json::{Value, json};

use super::second_factor::{random, recovery_codes};
use super::{UserPayload, end_sessions};
use crate::access::{Result, after_write, internal, unavailable};
use crate::payload::payloads;
use crate::services::Services;
use crate::sessions::attempts::Secret;
use crate::sessions::{
    SessionPayload, Who, begin_attempt, challenged, password_is_right, repetition, secret_command, start_session,
    started_before, wrong_credentials,
};

/// What can be done with passkeys.
#[derive(Default)]
pub struct PasskeyMutation;

payloads! {
    /// What a browser is asked with.
    PasskeyBeginPayload {
        /// Give it back with the browser's answer, within five minutes.
        challenge_token: String,
        /// For `PublicKeyCredential.parseCreationOptionsFromJSON` and `navigator.credentials.create`, or
        /// `parseRequestOptionsFromJSON` and `navigator.credentials.get` (Web Authentication, Level 3).
        options: Json<Value>,
    }

    /// What became of registering a passkey.
    PasskeyRegisterPayload {
        /// The passkey.
        passkey: Passkey,
        /// Your recovery codes, if this is your first second factor: each signs you in once, after your password, when
        /// the passkey is lost. They are shown this once; null in a repetition, and when you have some.
        recovery_codes: Vec<String>,
    }

    /// What became of a change of a passkey.
    PasskeyRenamePayload {
        /// The passkey as it is now.
        passkey: Passkey,
    }
}

#[operations(mutation)]
impl PasskeyMutation {
    /// Begins to register a passkey: a key that one of your devices keeps (Web Authentication). The browser makes it with
    /// these options; go on with `passkeyRegister`, in the same session.
    #[signed_in]
    async fn passkey_registration_begin(
        &self,
        cx: &Context<'_>,
        input: PasskeyRegistrationBeginInput,
    ) -> Result<PasskeyBeginPayload> {
        let services = Services::of(cx)?;
        let (party, blinder) = (relying_party(services)?, services.engine.keyring().as_ref());
        let by = granted.viewer()?.user;
        let user = sign_in::user(services.engine.database().reader(), by).await.map_err(unavailable)?;
        let name = user.as_ref().and_then(|user| user.email_hash.clone()).unwrap_or_default();
        if !password_is_right(cx, &name, user.as_ref(), &input.current_password).await? {
            return Err(wrong_credentials("This is not your password.").at("currentPassword").into());
        }
        let state: UserState = services.engine.state(by).await?;
        let (account, person) = user.map(|user| (user.email.unwrap_or_default(), user.name)).unwrap_or_default();
        let challenge = Challenge::new(&random()?);
        let options = json!({
            "rp": { "id": party.id(), "name": "Oriel" },
            "user": { "id": handle(by, blinder), "name": account, "displayName": person },
            "challenge": challenge.as_str(),
            "pubKeyCredParams":
                ALGORITHMS.iter().map(|alg| json!({ "type": "public-key", "alg": alg })).collect::<Vec<_>>(),
            "timeout": CHALLENGE_LIFE.num_milliseconds(),
            "excludeCredentials": descriptors(&state),
            "authenticatorSelection":
                { "residentKey": "required", "requireResidentKey": true, "userVerification": "required" },
            "attestation": "none",
        });
        let about = format!("{}.{}", challenge.as_str(), granted.session()?);
        Ok(begun(services, by, about, REGISTRATION, options))
    }

    /// Registers the passkey that the browser made: from now on it signs you in by itself, and your password alone does
    /// not any more. If it is your first second factor, the answer has your recovery codes, and all your other sessions
    /// end. You have at most 20.
    #[signed_in]
    async fn passkey_register(&self, cx: &Context<'_>, input: PasskeyRegisterInput) -> Result<PasskeyRegisterPayload> {
        let services = Services::of(cx)?;
        let context = secret_command(&granted, cx, &input)?;
        let (by, session) = (granted.viewer()?.user, granted.session()?);
        let recovery = recovery_codes()?;
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let ticket = ticket(services, &input.challenge_token, REGISTRATION, context.now)?;
                let (asked, here) = asked(&ticket)?;
                if ticket.subject != by || here.parse::<SessionId>().ok() != Some(session) {
                    return Err(over().into());
                }
                let credential = relying_party(services)?.registered(&input.credential, &asked.challenge)?;
                let name = PasskeyName::parse(&input.name).map_err(|r| r.at("name"))?;
                let (id, recovery) = (services.engine.new_id(), recovery.clone());
                let register = RegisterPasskey { by, id, name, credential, asked, recovery };
                services.engine.execute(&context, by, register).await?
            }
        };
        let registered = done.events.iter().find_map(|event| match event.event_as() {
            Some(UserEvent::PasskeyRegistered { passkey, recovery_hashes, .. }) => {
                Some((*passkey, !recovery_hashes.is_empty()))
            }
            _ => None,
        });
        let (id, has_new_codes) = match registered {
            Some(registered) => registered,
            None => registered_at(services, &done).await?,
        };
        if has_new_codes {
            end_sessions(cx, &context, by, Some(session), |_| true).await?;
        }
        let texts = recovery.iter().map(|code| code.expose().to_owned()).collect();
        Ok(PasskeyRegisterPayload {
            passkey: own(cx, by, id).await?,
            recovery_codes: (has_new_codes && !done.repeated).then_some(texts),
            user_errors: Vec::new(),
            position: Some(done.position),
        })
    }

    /// Calls one of your passkeys otherwise.
    #[signed_in]
    async fn passkey_rename(&self, cx: &Context<'_>, input: PasskeyRenameInput) -> Result<PasskeyRenamePayload> {
        let context = granted.command(cx, &input)?;
        let by = granted.viewer()?.user;
        let name = PasskeyName::parse(&input.name).map_err(|r| r.at("name"))?;
        let rename = RenamePasskey { by, passkey: input.id, name };
        let done = Services::of(cx)?.engine.execute(&context, by, rename).await?;
        let passkey = own(cx, by, input.id).await?;
        Ok(PasskeyRenamePayload { passkey, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Removes one of your passkeys: it signs you in no longer. With the last one, if you have no authenticator either,
    /// your recovery codes go too, and your password alone signs you in again.
    #[signed_in]
    async fn passkey_remove(&self, cx: &Context<'_>, input: PasskeyRemoveInput) -> Result<UserPayload> {
        let services = Services::of(cx)?;
        let context = secret_command(&granted, cx, &input)?;
        let by = granted.viewer()?.user;
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let user = sign_in::user(services.engine.database().reader(), by).await.map_err(unavailable)?;
                let name = user.as_ref().and_then(|user| user.email_hash.clone()).unwrap_or_default();
                if !password_is_right(cx, &name, user.as_ref(), &input.current_password).await? {
                    return Err(wrong_credentials("This is not your password.").at("currentPassword").into());
                }
                services.engine.execute(&context, by, RemovePasskey { by, passkey: input.id }).await?
            }
        };
        let user = after_write::<oriel_read_models::users::Model>(cx, done.subject).await?;
        Ok(UserPayload { user, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Begins to sign in with a passkey. Without an `mfaToken` the browser offers the passkeys that it has for this
    /// installation, and no name is typed; with one, which `login` gave with `MFA_REQUIRED`, those of that account are asked
    /// for. Go on with `passkeyLogin`.
    #[public]
    async fn passkey_login_begin(
        &self,
        cx: &Context<'_>,
        input: Option<PasskeyLoginBeginInput>,
    ) -> Result<PasskeyBeginPayload> {
        let services = Services::of(cx)?;
        let party = relying_party(services)?;
        let context = secret_command(&granted, cx, &input)?;
        let who = match input.as_ref().and_then(|input| input.mfa_token.as_ref()) {
            Some(token) => Some(challenged(cx, token, context.now).await?),
            None => None,
        };
        let allowed = match &who {
            Some(who) => descriptors(&services.engine.state(who.user).await?),
            None => Vec::new(),
        };
        if who.is_some() && allowed.is_empty() {
            let message = "This account has no passkey. Go on with `loginVerify`.";
            return Err(Rejection::conflict(message).at("mfaToken").into());
        }
        let challenge = Challenge::new(&random()?);
        let options = json!({
            "challenge": challenge.as_str(),
            "timeout": CHALLENGE_LIFE.num_milliseconds(),
            "rpId": party.id(),
            "allowCredentials": allowed,
            "userVerification": "required",
        });
        let (of, organization) =
            who.map_or((UserId::ABSENT, OrganizationId::ABSENT), |who| (who.user, who.organization));
        let about = format!("{}.{organization}", challenge.as_str());
        Ok(begun(services, of, about, LOGIN, options))
    }

    /// Signs you in with a passkey: by itself, or after `login` as the second factor. You act in the organization that you
    /// name, else in the one that `login` said, else in the one that you joined first. Each challenge is good once. A
    /// passkey whose counter did not go on may have been copied: it is refused, and you are told by mail. After some wrong
    /// ones each next attempt has to wait, as with `login`.
    #[public]
    async fn passkey_login(&self, cx: &Context<'_>, input: PasskeyLoginInput) -> Result<SessionPayload> {
        let services = Services::of(cx)?;
        let (connection, blinder) = (services.engine.database().reader(), services.engine.keyring().as_ref());
        let mut context = secret_command(&granted, cx, &input)?;
        if let Some(done) = repetition(cx, &context).await? {
            return started_before(cx, &context, &done).await;
        }
        let ticket = ticket(services, &input.challenge_token, LOGIN, context.now)?;
        let (asked, organization) = asked(&ticket)?;
        let assertion = relying_party(services)?.asserted(&input.credential, &asked.challenge)?;
        let user = match (ticket.subject.is_absent(), &assertion.handle) {
            (false, _) => Some(ticket.subject),
            (true, Some(handle)) => sign_in::user_by_passkey_handle(connection, handle).await.map_err(unavailable)?,
            (true, None) => None,
        };
        // Nobody is counted like anybody.
        let account = user.map_or_else(|| blinder.blind("passkey", &assertion.credential), |user| user.to_string());
        let attempt = begin_attempt(cx, Secret::Passkey, &account, user).await?;
        let unknown = || wrong_credentials("This passkey is not known here. Sign in in another way.").at("credential");
        let user = user.ok_or_else(unknown)?;
        context.actor = Actor::User(user);
        let answer = Answer { assertion, asked };
        let state: UserState = services.engine.state(user).await?;
        if state.recognizes(user, &answer, blinder)? == Recognized::MayBeCopied {
            // It is no part of what was asked for.
            let mut suspicion = CommandContext::system(services.engine.new_id(), OrganizationId::ABSENT, context.now);
            suspicion.actor = Actor::User(user);
            services.engine.execute(&suspicion, user, SuspectClone(answer)).await?;
            tracing::warn!(%user, "a passkey was used whose counter did not go on: there may be a copy of it");
            let message = "This passkey has counted fewer signatures than before, so there may be a copy of it. Sign in \
                           in another way, remove it, and register another one.";
            return Err(wrong_credentials(message).at("credential").into());
        }
        let there = OrganizationId::parse_or_absent(organization);
        let there = input.organization_id.or((!there.is_absent()).then_some(there));
        let member = sign_in::active_member(connection, user, there).await.map_err(unavailable)?;
        let Some((member, organization)) = member else {
            let message = "You are not an active member there, or anywhere. Ask an administrator of the organization.";
            return Err(wrong_credentials(message).into());
        };
        context.organization = organization;
        let method = if ticket.subject.is_absent() { SignInMethod::Passkey } else { SignInMethod::PasswordAndPasskey };
        let used = Transaction::new().and(user, UsePasskey(answer));
        // A passkey says by itself who somebody is, whoever said so before.
        let who = Who { user, member, organization, federated: None };
        let signed_in = start_session(cx, &context, used, who, Some(method)).await?;
        services.attempts.succeeded(attempt, context.now);
        Ok(signed_in)
    }
}

fn relying_party(services: &Services) -> Result<&RelyingParty> {
    let none = || {
        let message = "Passkeys belong to a domain, and this installation is reached by an address alone. Its operator \
                       sets `base_url`.";
        Rejection::conflict(message)
    };
    Ok(services.policy.relying_party.as_ref().ok_or_else(none)?)
}

fn over() -> Rejection {
    let message = "This challenge is not good any more. Begin again.";
    Rejection::new(ErrorCode::Expired, message).at("challengeToken")
}

fn begun(services: &Services, of: UserId, about: String, purpose: &str, options: Value) -> PasskeyBeginPayload {
    let ticket = Ticket { subject: of, ends_at: services.engine.now() + CHALLENGE_LIFE, about };
    PasskeyBeginPayload {
        challenge_token: Some(ticket.sign(purpose, services.engine.keyring().as_ref())),
        options: Some(Json(options)),
        user_errors: Vec::new(),
        position: None,
    }
}

fn ticket(services: &Services, token: &str, purpose: &str, now: Timestamp) -> Result<Ticket<UserId>> {
    Ok(Ticket::read(token, purpose, now, services.engine.keyring().as_ref()).ok_or_else(over)?)
}

/// The challenge that the ticket is about, and for what it was given.
fn asked(ticket: &Ticket<UserId>) -> Result<(Asked, &str)> {
    let (challenge, given_for) = ticket.about.split_once('.').ok_or_else(over)?;
    let challenge = Challenge::parse(challenge).ok_or_else(over)?;
    Ok((Asked { challenge, ends_at: ticket.ends_at }, given_for))
}

/// The passkeys of somebody, as options name them.
fn descriptors(state: &UserState) -> Vec<Value> {
    let described = |(id, transports)| json!({ "type": "public-key", "id": id, "transports": transports });
    state.passkeys().map(described).collect()
}

/// The passkey that this command registered when it was carried out first, and whether there were new recovery codes.
async fn registered_at(services: &Services, done: &Committed) -> Result<(PasskeyId, bool)> {
    let before = oriel_kernel::Position::new(done.position.number() - 1);
    let events = services.engine.log().read(before, 1).await.map_err(unavailable)?;
    let found = events.first().and_then(|recorded| match recorded.event_as() {
        Some(UserEvent::PasskeyRegistered { passkey, recovery_hashes, .. }) => {
            Some((*passkey, !recovery_hashes.is_empty()))
        }
        _ => None,
    });
    found.ok_or_else(|| internal(format!("no passkey is registered at position {}", done.position)).into())
}

/// A passkey of whoever asks, as it is now.
async fn own(cx: &Context<'_>, by: UserId, id: PasskeyId) -> Result<Option<Passkey>> {
    let all = after_write::<passkeys::Model>(cx, by.uuid()).await?;
    Ok(all.and_then(|all| all.passkeys.0.iter().find(|passkey| passkey.id == id).cloned()))
}

/// That you want a passkey.
#[derive(InputObject)]
struct PasskeyRegistrationBeginInput {
    /// Your password.
    #[graphql(secret)]
    current_password: String,
}

/// A passkey that a browser made.
#[derive(InputObject)]
struct PasskeyRegisterInput {
    /// What `passkeyRegistrationBegin` gave.
    #[graphql(secret)]
    challenge_token: String,
    /// What `toJSON()` of the browser's `PublicKeyCredential` gives.
    credential: Json<Value>,
    /// What you call it: 1 to 60 characters, such as the name of the device.
    name: String,
    /// Makes a retry safe: the same key and passkey give the same answer, without the recovery codes. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// What a passkey is to be called.
#[derive(InputObject)]
struct PasskeyRenameInput {
    /// Which one: `viewer { passkeys { id } }`.
    id: PasskeyId,
    /// What you call it: 1 to 60 characters.
    name: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The passkey that is to be removed.
#[derive(InputObject)]
struct PasskeyRemoveInput {
    /// Which one: `viewer { passkeys { id } }`.
    id: PasskeyId,
    /// Your password.
    #[graphql(secret)]
    current_password: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Signing in with a passkey needs nothing, unless it comes after a password.
#[derive(InputObject)]
struct PasskeyLoginBeginInput {
    /// The `mfaToken` that signing in with the password gave.
    #[graphql(secret)]
    mfa_token: Option<String>,
}

/// What a passkey has signed.
#[derive(InputObject)]
struct PasskeyLoginInput {
    /// What `passkeyLoginBegin` gave.
    #[graphql(secret)]
    challenge_token: String,
    /// What `toJSON()` of the browser's `PublicKeyCredential` gives.
    #[graphql(secret)]
    credential: Json<Value>,
    /// Where you want to act; without it, where `login` said, or in the organization that you joined first.
    organization_id: Option<OrganizationId>,
    /// Makes a retry safe: the same key and input give the same session. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
