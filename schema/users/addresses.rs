//! What a person does by mail: a forgotten password, another address, and showing that an address is theirs.
//!
//! Invariants: whether there is somebody with an address is told to nobody who only asks: the answer is the same, and
//! is there before anything is looked up. A link is checked before anything costly is done. A reset password leaves no
//! session. Nothing here writes a mail: the reactors do, from the events.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::tickets::Ticket;
use oriel_domain::users::addresses::{
    ConfirmEmail, EMAIL, PASSWORD_RESET, RESET_LIFE, RequestEmailChange, RequestPasswordReset, ResetPassword, over,
};
use oriel_domain::users::{Email, Password, User as UserState};
use oriel_engine::{CommandContext, Committed};
use oriel_kernel::{Actor, Aggregate, OrganizationId, UserId, operations};
use oriel_read_models::sign_in;
use oriel_read_models::users::Model as User;

use super::{UserPayload, about, end_sessions};
use crate::access::{Result, after_write, unavailable};
use crate::payload::payloads;
use crate::services::{Meta, Services};
use crate::sessions::attempts::{Place, Secret};
use crate::sessions::{password_is_right, repetition, secret_command, wrong_credentials};

/// What can be done by mail.
#[derive(Default)]
pub struct AddressMutation;

payloads! {
    /// What became of asking for a link: nothing tells whether there is an account.
    PasswordResetRequestPayload {
        /// How long a link is good, in minutes, if one was sent.
        good_for_minutes: i32,
    }
}

#[operations(mutation)]
impl AddressMutation {
    /// Sends a link to choose another password, if there is an account with this address. The answer is the same if
    /// there is none. If no mail comes, ask again after two minutes. Who asks often has to wait, as `RATE_LIMITED` with
    /// `retryAfter`.
    #[public]
    async fn password_reset_request(
        &self,
        cx: &Context<'_>,
        input: PasswordResetRequestInput,
    ) -> Result<PasswordResetRequestPayload> {
        let services = Services::of(cx)?;
        let mut context = secret_command(&granted, cx, &input)?;
        (context.actor, context.organization) = (Actor::Anonymous, OrganizationId::ABSENT);
        let email = Email::parse(&input.email).map_err(|r| r.at("email"))?;
        let place = Place::of(Meta::of(cx)?.ip.as_deref());
        // Each counts: nobody needs many.
        let now = context.now;
        let counted = services.attempts.begin(Secret::Link, None, &place, false, now).await?;
        let beside = Arc::clone(services);
        let taken = services.attempts.aside(async move {
            if let Err(error) = request_reset(&beside, &context, &email).await {
                tracing::warn!(%error, "a link to reset a password was not sent");
            }
        });
        if let Err(overloaded) = taken {
            services.attempts.withdrawn(counted, now);
            return Err(overloaded);
        }
        let good_for_minutes = i32::try_from(RESET_LIFE.num_minutes()).ok();
        Ok(PasswordResetRequestPayload { good_for_minutes, user_errors: Vec::new(), position: None })
    }

    /// Chooses another password, by a link that `passwordResetRequest` sent, and ends all sessions of the account. Then
    /// sign in with it; a second factor is still asked for.
    #[public]
    async fn password_reset(&self, cx: &Context<'_>, input: PasswordResetInput) -> Result<UserPayload> {
        let services = Services::of(cx)?;
        let engine = &services.engine;
        let mut context = secret_command(&granted, cx, &input)?;
        (context.actor, context.organization) = (Actor::Anonymous, OrganizationId::ABSENT);
        let blinder = engine.keyring().as_ref();
        let ticket: Ticket<UserId> =
            Ticket::read(&input.token, PASSWORD_RESET, context.now, blinder).ok_or_else(over)?;
        context.actor = Actor::User(ticket.subject);
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let user = sign_in::user(engine.database().reader(), ticket.subject).await.map_err(unavailable)?;
                let user = user.ok_or_else(over)?;
                // From the log: whether the link is good is asked before the work, and before anything ends.
                let mut state = UserState::default();
                for recorded in engine.log().read_subject(user.id.uuid()).await.map_err(unavailable)? {
                    recorded.event_as().into_iter().for_each(|event| state.evolve(event));
                }
                state.may_reset(&ticket.about, context.now)?;
                let password = Password::parse(&input.new_password, &about(&user)).map_err(|r| r.at("newPassword"))?;
                let password_hash = services.passwords.hash(password).await?;
                // They end before the password changes, and what was begun with the old one meanwhile ends after.
                end_sessions(cx, &context, user.id, None, |_| true).await?;
                let reset = ResetPassword { request: ticket.about, password_hash };
                engine.execute(&context, user.id, reset).await?
            }
        };
        end_sessions(cx, &context, ticket.subject, None, |_| true).await?;
        payload(cx, &done).await
    }

    /// Sends a link to an address that you want to have instead of yours, or to yours, to show that it is yours. Your
    /// address is told, and stays yours until the link was opened: see `emailConfirm`.
    #[signed_in]
    async fn email_change(&self, cx: &Context<'_>, input: EmailChangeInput) -> Result<UserPayload> {
        let services = Services::of(cx)?;
        let context = secret_command(&granted, cx, &input)?;
        let by = granted.viewer()?.user;
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let email = Email::parse(&input.email).map_err(|r| r.at("email"))?;
                let user = sign_in::user(services.engine.database().reader(), by).await.map_err(unavailable)?;
                let name = user.as_ref().and_then(|user| user.email_hash.clone()).unwrap_or_default();
                if !password_is_right(cx, &name, user.as_ref(), &input.current_password).await? {
                    return Err(wrong_credentials("This is not your current password.").at("currentPassword").into());
                }
                services.engine.execute(&context, by, RequestEmailChange { by, email }).await?
            }
        };
        payload(cx, &done).await
    }

    /// Shows that an address is yours, by the link that was sent there. If you asked to have it instead of your old
    /// one, it is yours from now on.
    #[public]
    async fn email_confirm(&self, cx: &Context<'_>, input: EmailConfirmInput) -> Result<UserPayload> {
        let services = Services::of(cx)?;
        let mut context = secret_command(&granted, cx, &input)?;
        let blinder = services.engine.keyring().as_ref();
        let ticket: Ticket<UserId> = Ticket::read(&input.token, EMAIL, context.now, blinder).ok_or_else(over)?;
        (context.actor, context.organization) = (Actor::User(ticket.subject), OrganizationId::ABSENT);
        let confirm = ConfirmEmail { email_hash: ticket.about };
        let done = services.engine.execute(&context, ticket.subject, confirm).await?;
        payload(cx, &done).await
    }
}

/// Asks for a link, if there is somebody with this address.
async fn request_reset(services: &Services, context: &CommandContext, email: &Email) -> Result<(), String> {
    let engine = &services.engine;
    let hash = email.blind(engine.keyring().as_ref());
    let found = sign_in::user_by_email(engine.database().reader(), &hash).await.map_err(|error| error.to_string())?;
    let Some(user) = found else { return Ok(()) };
    let named = context.command.uuid().simple().to_string();
    let request = RequestPasswordReset { request: named };
    engine.execute(context, user.id, request).await.map(drop).map_err(|error| error.to_string())
}

async fn payload(cx: &Context<'_>, done: &Committed) -> Result<UserPayload> {
    let user = after_write::<User>(cx, done.subject).await?;
    Ok(UserPayload { user, user_errors: Vec::new(), position: Some(done.position) })
}

/// Whose password was forgotten.
#[derive(InputObject)]
struct PasswordResetRequestInput {
    /// The e-mail address of the account, whatever its case.
    email: String,
    /// Makes a retry safe: the same key sends one mail. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The link, and the new password.
#[derive(InputObject)]
struct PasswordResetInput {
    /// What the link in the mail ends with.
    #[graphql(secret)]
    token: String,
    /// The password that you want: at least 10 characters, and not one that is guessed first.
    #[graphql(secret)]
    new_password: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Another address.
#[derive(InputObject)]
struct EmailChangeInput {
    /// The address that you want to have; yours, to have its link sent again.
    email: String,
    /// Your password.
    #[graphql(secret)]
    current_password: String,
    /// Makes a retry safe: the same key sends one mail. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The link.
#[derive(InputObject)]
struct EmailConfirmInput {
    /// What the link in the mail ends with.
    #[graphql(secret)]
    token: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
