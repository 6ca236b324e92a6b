//! Setting up a second factor, and giving it up.
//!
//! Invariants: what is secret is shown once, to the person whose it is, after they have shown their password or a code.
//! Whoever sets one up is signed in nowhere else afterwards: what was begun with the password alone ends.
//!
//! **One that was lost.** An account may be of several organisations, and none of them makes it easier to get into for the
//! others: so a member's second factor is taken away by who may at least as much here, if the person is a member
//! nowhere else; of everybody else by the operator of the installation. The person is told by mail, their sessions end,
//! and the log says who did it and why.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::members::{Member as MemberState, ResetMemberSecondFactor, may_not_reset};
use oriel_domain::users::UserEvent;
use oriel_domain::users::second_factor::{
    BeginTotp, ConfirmTotp, DisableTotp, RecoveryCode, ReplaceRecoveryCodes, ResetReason, ResetSecondFactor, TotpSecret,
};
use oriel_engine::keyring::random_key;
use oriel_engine::{CommandContext, Committed, Transaction};
use oriel_kernel::{Aggregate, Command, ErrorCode, MemberId, OrganizationId, Position, Rejection, UserId, operations};
use oriel_read_models::members::{Model as Member, leaving};
use oriel_read_models::sign_in;
use oriel_read_models::users::Model as User;

use super::{UserPayload, end_sessions};
use crate::access::{Result, after_write, internal, reader, unavailable};
use crate::members::MemberPayload;
use crate::payload::payloads;
use crate::roles::assigned;
use crate::services::Services;
use crate::sessions::attempts::Secret;
use crate::sessions::{begin_attempt, end_attempt, password_is_right, repetition, secret_command, wrong_credentials};

/// What can be done with a second factor.
#[derive(Default)]
pub struct SecondFactorMutation;

payloads! {
    /// What an authenticator is set up with. Keep it secret; it is not asked for before `totpConfirm`.
    TotpBeginPayload {
        /// To be typed into an authenticator: base32.
        secret: String,
        /// To be shown as a picture (a QR code) that an authenticator reads: `otpauth://totp/…`.
        url: String,
    }

    /// What became of taking away a person's second factor.
    UserSecondFactorResetPayload {
        /// The person's id.
        user_id: UserId,
    }

    /// Your recovery codes. They are shown this once: keep them where the authenticator is not.
    RecoveryCodesPayload {
        /// Each signs you in once, instead of a code of your authenticator. Null when the command is repeated under its
        /// idempotency key: then have new ones made, by `recoveryCodesRegenerate`.
        recovery_codes: Vec<String>,
        /// You as a person.
        user: Arc<User>,
    }
}

#[operations(mutation)]
impl SecondFactorMutation {
    /// Begins to set up an authenticator (an app that shows codes, RFC 6238: SHA-1, six digits, thirty seconds). It is
    /// asked for when you sign in once it has shown a code: go on with `totpConfirm`.
    #[signed_in]
    async fn totp_begin(&self, cx: &Context<'_>, input: TotpBeginInput) -> Result<TotpBeginPayload> {
        let services = Services::of(cx)?;
        let context = secret_command(&granted, cx, &input)?;
        let by = granted.viewer()?.user;
        let user = sign_in::user(services.engine.database().reader(), by).await.map_err(unavailable)?;
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let name = user.as_ref().and_then(|user| user.email_hash.clone()).unwrap_or_default();
                if !password_is_right(cx, &name, user.as_ref(), &input.current_password).await? {
                    return Err(wrong_credentials("This is not your password.").at("currentPassword").into());
                }
                let secret = TotpSecret::new(&random()?);
                services.engine.execute(&context, by, BeginTotp { by, secret }).await?
            }
        };
        let secret = begun_at(services, done.position).await?;
        let account = user.and_then(|user| user.email).unwrap_or_default();
        let (url, position) = (secret.url(&account), Some(done.position));
        Ok(TotpBeginPayload { secret: Some(secret.expose().to_owned()), url, user_errors: Vec::new(), position })
    }

    /// Shows that the authenticator is set up: from now on you are asked for a code of it when you sign in. All your
    /// other sessions end. The answer has your recovery codes.
    #[signed_in]
    async fn totp_confirm(&self, cx: &Context<'_>, input: TotpConfirmInput) -> Result<RecoveryCodesPayload> {
        let context = secret_command(&granted, cx, &input)?;
        let (by, recovery) = (granted.viewer()?.user, recovery_codes()?);
        let command = ConfirmTotp { by, code: input.code, recovery: recovery.clone() };
        let payload = with_codes(cx, &context, by, command, recovery).await?;
        end_sessions(cx, &context, by, granted.viewer()?.session(), |_| true).await?;
        Ok(payload)
    }

    /// Makes new recovery codes: the old ones are good no longer.
    #[signed_in]
    async fn recovery_codes_regenerate(
        &self,
        cx: &Context<'_>,
        input: RecoveryCodesRegenerateInput,
    ) -> Result<RecoveryCodesPayload> {
        let context = secret_command(&granted, cx, &input)?;
        let (by, recovery) = (granted.viewer()?.user, recovery_codes()?);
        let command = ReplaceRecoveryCodes { by, code: input.code, recovery: recovery.clone() };
        with_codes(cx, &context, by, command, recovery).await
    }

    /// Takes away a member's second factor that they have lost: authenticator, passkeys and recovery codes. All their
    /// sessions end, and they are told by mail; their password alone signs them in until they set up another one. You
    /// need all that they may do here, and they may be a member of no other organization: an account of several is for
    /// the operator of the installation, with `userSecondFactorReset`.
    #[permission("members:edit")]
    async fn member_second_factor_reset(
        &self,
        cx: &Context<'_>,
        input: MemberSecondFactorResetInput,
    ) -> Result<MemberPayload> {
        let services = Services::of(cx)?;
        let engine = &services.engine;
        let context = granted.command(cx, &input)?;
        let reason = ResetReason::parse(&input.reason).map_err(|r| r.at("reason"))?;
        let reader = reader(cx)?;
        let member = reader.get::<Member>(input.id).await?;
        let member = member.ok_or_else(|| Rejection::not_found(MemberState::NOUN).at("id"))?;
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let (connection, user) = (engine.database().reader(), member.user_id);
                let elsewhere = leaving::is_member_elsewhere(connection, user, context.organization).await;
                if elsewhere.map_err(unavailable)? {
                    return Err(may_not_reset().into());
                }
                let roles = assigned(cx, &member.roles.0).await?;
                let reset = ResetMemberSecondFactor { roles, reason: reason.clone() };
                let transaction = Transaction::new().and(member.id, reset).and(user, ResetSecondFactor { reason });
                engine.transact(&context, transaction).await?
            }
        };
        end_sessions(cx, &context, member.user_id, None, |_| true).await?;
        let member = after_write::<Member>(cx, member.id.uuid()).await?;
        Ok(MemberPayload { member, invitation_token: None, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Takes away the second factor of any person, who has lost it: authenticator, passkeys and recovery codes. All their
    /// sessions end, and they are told by mail. For the installation's operator, who has to make sure that it is the
    /// person who asks.
    #[permission("system:manage")]
    async fn user_second_factor_reset(
        &self,
        cx: &Context<'_>,
        input: UserSecondFactorResetInput,
    ) -> Result<UserSecondFactorResetPayload> {
        let engine = &Services::of(cx)?.engine;
        let mut context = granted.command(cx, &input)?;
        // A person belongs to the installation, not to the operator's organisation.
        context.organization = OrganizationId::ABSENT;
        let reason = ResetReason::parse(&input.reason).map_err(|r| r.at("reason"))?;
        if granted.viewer()?.user == input.id {
            let message = "This is for somebody else. Give up your own with `totpDisable` and `passkeyRemove`.";
            return Err(Rejection::new(ErrorCode::Forbidden, message).at("id").into());
        }
        let done = engine.execute(&context, input.id, ResetSecondFactor { reason }).await?;
        end_sessions(cx, &context, input.id, None, |_| true).await?;
        let (user_id, position) = (Some(input.id), Some(done.position));
        Ok(UserSecondFactorResetPayload { user_id, user_errors: Vec::new(), position })
    }

    /// Gives up the authenticator: no code of it is asked for any more. If you have no passkey either, your recovery codes
    /// go too, and your password alone signs you in again.
    #[signed_in]
    async fn totp_disable(&self, cx: &Context<'_>, input: TotpDisableInput) -> Result<UserPayload> {
        let context = secret_command(&granted, cx, &input)?;
        let by = granted.viewer()?.user;
        let done = with_code(cx, &context, by, DisableTotp { by, code: input.code }).await?;
        let user = after_write::<User>(cx, done.subject).await?;
        Ok(UserPayload { user, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// Carries out a command that shows a code; the attempt is counted.
async fn with_code<C>(cx: &Context<'_>, context: &CommandContext, by: UserId, command: C) -> Result<Committed>
where
    C: Command<Aggregate = oriel_domain::users::User>,
{
    let services = Services::of(cx)?;
    let attempt = begin_attempt(cx, Secret::Code, &by.to_string(), Some(by)).await?;
    let done = services.engine.execute(context, by, command).await;
    end_attempt(cx, Secret::Code, attempt, Some(by), done.is_ok())?;
    Ok(done?)
}

async fn with_codes<C>(
    cx: &Context<'_>,
    context: &CommandContext,
    by: UserId,
    command: C,
    recovery: Vec<RecoveryCode>,
) -> Result<RecoveryCodesPayload>
where
    C: Command<Aggregate = oriel_domain::users::User>,
{
    let done = with_code(cx, context, by, command).await?;
    let texts = recovery.iter().map(|code| code.expose().to_owned()).collect();
    Ok(RecoveryCodesPayload {
        // Those of the first time are not kept, and these are not theirs.
        recovery_codes: (!done.repeated).then_some(texts),
        user: after_write::<User>(cx, done.subject).await?,
        user_errors: Vec::new(),
        position: Some(done.position),
    })
}

/// The secret that the event at this position handed out.
async fn begun_at(services: &Services, position: Position) -> Result<TotpSecret> {
    let log = services.engine.log();
    let events = log.read(Position::new(position.number() - 1), 1).await.map_err(unavailable)?;
    let secret = events.first().and_then(|recorded| match recorded.event_as() {
        Some(UserEvent::TotpBegun { secret }) => secret.get().and_then(|secret| TotpSecret::parse(secret)),
        _ => None,
    });
    secret.ok_or_else(|| internal(format!("no authenticator is begun at position {position}")).into())
}

pub(super) fn recovery_codes() -> Result<Vec<RecoveryCode>> {
    (0..RecoveryCode::COUNT).map(|_| Ok(RecoveryCode::new(&random()?))).collect()
}

pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let bytes = random_key().map_err(internal)?;
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    Ok(out)
}

/// The member whose second factor is lost.
#[derive(InputObject)]
struct MemberSecondFactorResetInput {
    /// Which member.
    id: MemberId,
    /// Why, for the log: 1 to 400 characters.
    reason: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The person whose second factor is lost.
#[derive(InputObject)]
struct UserSecondFactorResetInput {
    /// Which person.
    id: UserId,
    /// Why, for the log: 1 to 400 characters.
    reason: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// That you want an authenticator.
#[derive(InputObject)]
struct TotpBeginInput {
    /// Your password.
    #[graphql(secret)]
    current_password: String,
    /// Makes a retry safe: the same key gives the same secret and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// That the authenticator is set up.
#[derive(InputObject)]
struct TotpConfirmInput {
    /// The six digits that it shows.
    #[graphql(secret)]
    code: String,
    /// Makes a retry safe: the same key and code give the same answer, without the recovery codes. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// That you want other recovery codes.
#[derive(InputObject)]
struct RecoveryCodesRegenerateInput {
    /// The six digits that your authenticator shows, or a recovery code.
    #[graphql(secret)]
    code: String,
    /// Makes a retry safe: the same key and code give the same answer, without the recovery codes. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// That you want no second factor any more.
#[derive(InputObject)]
struct TotpDisableInput {
    /// The six digits that your authenticator shows, or a recovery code.
    #[graphql(secret)]
    code: String,
    /// Makes a retry safe: the same key and code give the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
