//! Users: registering, and what a person changes about themselves.
//!
//! Invariants: whoever registers founds an organisation and owns it. Where registering is closed only the first
//! organisation of the installation is founded this way. A changed password leaves no session but the one in which
//! it was changed.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::members::FoundMember;
use oriel_domain::organizations::{CreateOrganization, OrganizationName, Slug};
use oriel_domain::sessions::{EndReason, EndSession};
use oriel_domain::users::{ChangePassword, Email, Password, PersonName, RegisterUser, RenameUser, Username};
use oriel_engine::{CommandContext, Transaction};
use oriel_kernel::{Actor, ErrorCode, MemberId, OrganizationId, Position, Rejection, SessionId, UserId, operations};
use oriel_read_models::users::Model as User;
use oriel_read_models::{installation, sign_in};

use crate::access::{Problems, Result, after_write, unavailable};
use crate::installation::registration_is_open;
use crate::passwords::Passwords;
use crate::payload::payloads;
use crate::services::{Meta, Services};
use crate::sessions::attempts::{Place, Secret};
use crate::sessions::{
    SessionPayload, Who, password_is_right, repetition, secret_command, start, start_again, wrong_credentials,
};

pub mod addresses;
pub mod passkeys;
pub mod preferences;
pub mod second_factor;

/// What can be done with users.
#[derive(Default)]
pub struct UserMutation;

payloads! {
    /// What became of a change of yourself.
    UserPayload {
        /// You as a person, as you are now.
        user: Arc<User>,
    }
}

payloads! {
    /// What became of taking over a person.
    UserImportPayload {
        /// The person's id. They are seen by those who share an organization with them.
        user_id: UserId,
    }
}

#[operations(mutation)]
impl UserMutation {
    /// Registers a person and founds their organization, which they own, and signs them in at once. An installation
    /// may be closed: then this answers `FORBIDDEN`, and you join by an invitation. The very first organization can
    /// always be founded; its owner operates the installation. Whether an address is taken is told; who asks for one
    /// after the other has to wait, as `RATE_LIMITED` with `retryAfter`.
    #[public]
    async fn register(&self, cx: &Context<'_>, input: RegisterInput) -> Result<SessionPayload> {
        let services = Services::of(cx)?;
        let engine = &services.engine;
        let mut context = secret_command(&granted, cx, &input)?;
        if let Some(done) = repetition(cx, &context).await? {
            return start_again(cx, &context, &done, &input.password).await;
        }
        let settings = installation::current(engine.database().reader()).await.map_err(unavailable)?;
        let is_open = registration_is_open(&settings, services);
        if !is_open && engine.log().head().await.map_err(unavailable)?.0 > Position::START {
            let message = "Registering is closed here. Ask an administrator of your organization for an invitation, and accept it with `memberAccept`.";
            return Err(Rejection::new(ErrorCode::Forbidden, message).into());
        }
        let mut problems = Problems::default();
        let organization_name = problems.take("organizationName", OrganizationName::parse(&input.organization_name));
        let person = NewPerson::parse(
            &mut problems,
            Some(&input.email),
            &input.name,
            &input.password,
            input.username.as_deref(),
        );
        let person = match person {
            Some(person) => person.alone(cx, &mut problems).await?,
            None => None,
        };
        let (Some(name), Some(person)) = (organization_name, person) else {
            return Err(problems.failure());
        };
        let (user, organization, member): (UserId, OrganizationId, MemberId) =
            (engine.new_id(), engine.new_id(), engine.new_id());
        (context.actor, context.organization) = (Actor::User(user), organization);
        let slug = Slug::for_name(&name, organization);
        let transaction = Transaction::new()
            .and(user, person.register(cx).await?)
            .and(organization, CreateOrganization { name, slug, owner: user })
            .and(member, FoundMember { organization, user });
        start(cx, &context, transaction, Who { user, member, organization, federated: None }).await
    }

    /// Takes over a person from another system, with the hash of their password, which is replaced by a better one when
    /// they sign in. Invite them then: they accept with the password that they have.
    #[permission("system:manage")]
    async fn user_import(&self, cx: &Context<'_>, input: UserImportInput) -> Result<UserImportPayload> {
        let mut context = secret_command(&granted, cx, &input)?;
        // A person belongs to the installation, not to the operator's organisation.
        context.organization = OrganizationId::ABSENT;
        let mut problems = Problems::default();
        let email = problems.take("email", Email::parse(&input.email));
        let name = problems.take("name", PersonName::parse(&input.name));
        let username = problems.take("username", input.username.as_deref().map(Username::parse).transpose());
        let password_hash = problems.take("passwordHash", Passwords::import(&input.password_hash));
        let (Some(email), Some(name), Some(username), Some(password_hash)) = (email, name, username, password_hash)
        else {
            return Err(problems.failure());
        };
        let engine = &Services::of(cx)?.engine;
        let register = RegisterUser { email, username, name, password_hash };
        let done = engine.execute(&context, engine.new_id(), register).await?;
        let user_id = Some(UserId::from_uuid(done.subject));
        Ok(UserImportPayload { user_id, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Changes what you are called, in every organization.
    #[signed_in]
    async fn user_update(&self, cx: &Context<'_>, input: UserUpdateInput) -> Result<UserPayload> {
        let context = granted.command(cx, &input)?;
        let user = granted.in_person()?.user;
        let name = PersonName::parse(&input.name).map_err(|r| r.at("name"))?;
        let done = Services::of(cx)?.engine.execute(&context, user, RenameUser { by: user, name }).await?;
        let user = after_write::<User>(cx, done.subject).await?;
        Ok(UserPayload { user, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Changes your password and ends all your sessions but the one in which you ask, on every device and in every
    /// organization.
    #[signed_in]
    async fn password_change(&self, cx: &Context<'_>, input: PasswordChangeInput) -> Result<UserPayload> {
        let services = Services::of(cx)?;
        let context = secret_command(&granted, cx, &input)?;
        let viewer = granted.viewer()?;
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let user =
                    sign_in::user(services.engine.database().reader(), viewer.user).await.map_err(unavailable)?;
                let name = user.as_ref().and_then(|user| user.email_hash.clone()).unwrap_or_default();
                if !password_is_right(cx, &name, user.as_ref(), &input.current_password).await? {
                    return Err(wrong_credentials("This is not your current password.").at("currentPassword").into());
                }
                let about = user.as_ref().map(about).unwrap_or_default();
                let password = Password::parse(&input.new_password, &about).map_err(|r| r.at("newPassword"))?;
                let password_hash = services.passwords.hash(password).await?;
                // Those of other organisations need transactions of their own. They end before the password changes,
                // and what was begun with the old one meanwhile ends after.
                let elsewhere = |there| there != viewer.organization;
                end_sessions(cx, &context, viewer.user, viewer.session(), elsewhere).await?;
                let change = ChangePassword { by: viewer.user, password_hash };
                let mut transaction = Transaction::new().and(viewer.user, change);
                let all = sign_in::sessions(services.engine.database().reader(), viewer.user, context.now).await;
                let others = all
                    .map_err(unavailable)?
                    .into_iter()
                    .filter(|(there, session)| *there == viewer.organization && Some(*session) != viewer.session());
                for (_, session) in others.take(AT_ONCE) {
                    transaction = transaction.and(session, EndSession { reason: EndReason::Revoked });
                }
                services.engine.transact(&context, transaction).await?
            }
        };
        end_sessions(cx, &context, viewer.user, viewer.session(), |_| true).await?;
        let user = after_write::<User>(cx, done.subject).await?;
        Ok(UserPayload { user, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// How many sessions end in one transaction.
const AT_ONCE: usize = 200;

/// Ends the sessions of a person but one, in the organisations for which this holds.
pub(crate) async fn end_sessions(
    cx: &Context<'_>,
    context: &CommandContext,
    user: UserId,
    but: Option<SessionId>,
    there: impl Fn(OrganizationId) -> bool,
) -> Result<()> {
    let engine = &Services::of(cx)?.engine;
    let all = sign_in::sessions(engine.database().reader(), user, engine.now()).await.map_err(unavailable)?;
    let others: Vec<_> =
        all.into_iter().filter(|(organization, session)| there(*organization) && Some(*session) != but).collect();
    for group in others.chunk_by(|a, b| a.0 == b.0).flat_map(|group| group.chunks(AT_ONCE)) {
        let Some((organization, _)) = group.first() else { continue };
        let mut context = context.clone();
        (context.command, context.may_repeat, context.expected_version) = (engine.new_id(), false, None);
        // They are not a member of the other organisation in this session, but the same person.
        (context.actor, context.organization) = (Actor::User(user), *organization);
        let end =
            |transaction: Transaction, session| transaction.and(session, EndSession { reason: EndReason::Revoked });
        let transaction = group.iter().map(|(_, session)| *session).fold(Transaction::new(), end);
        engine.transact(&context, transaction).await?;
    }
    Ok(())
}

/// What is said about a person, and guessed first as their password.
fn about(user: &User) -> Vec<&str> {
    [user.email.as_deref(), Some(user.name.as_str()), user.username.as_deref()].into_iter().flatten().collect()
}

/// Somebody who is about to be registered: everything is valid.
pub(crate) struct NewPerson {
    email: Email,
    username: Option<Username>,
    name: PersonName,
    password: Password,
}

impl NewPerson {
    /// From the fields of an input; `email` is the address of that field, or the one that an invitation went to.
    pub(crate) fn parse(
        problems: &mut Problems,
        email: Option<&str>,
        name: &str,
        password: &str,
        username: Option<&str>,
    ) -> Option<Self> {
        let about: Vec<&str> = [email, Some(name), username].into_iter().flatten().collect();
        let parsed_email = problems.take("email", Email::parse(email.unwrap_or_default()));
        let parsed_name = problems.take("name", PersonName::parse(name));
        let parsed_password = problems.take("password", Password::parse(password, &about));
        let parsed_username = problems.take("username", username.map(Username::parse).transpose());
        Some(Self { email: parsed_email?, username: parsed_username?, name: parsed_name?, password: parsed_password? })
    }

    /// The person, unless somebody else has the address or the user name. The commit decides that; here it is told
    /// together with whatever else is wrong.
    pub(crate) async fn alone(self, cx: &Context<'_>, problems: &mut Problems) -> Result<Option<Self>> {
        let services = Services::of(cx)?;
        let engine = &services.engine;
        let (connection, blinder) = (engine.database().reader(), engine.keyring().as_ref());
        // Who asks for one name after the other learns which are taken: so they have to wait.
        let (place, now) = (Place::of(Meta::of(cx)?.ip.as_deref()), engine.now());
        let attempt = services.attempts.begin(Secret::Name, None, &place, false, now).await?;
        let mut alone = true;
        if sign_in::user_by_email(connection, &self.email.blind(blinder)).await.map_err(unavailable)?.is_some() {
            alone = false;
            problems.push(Rejection::taken("Somebody is registered with this e-mail address.").at("email"));
        }
        if let Some(username) = &self.username
            && sign_in::user_by_username(connection, &username.blind(blinder)).await.map_err(unavailable)?.is_some()
        {
            alone = false;
            problems.push(Rejection::taken("Somebody else has this user name. Choose another.").at("username"));
        }
        if alone {
            services.attempts.succeeded(attempt, now);
        }
        Ok(alone.then_some(self))
    }

    /// The command, with the password hashed.
    pub(crate) async fn register(self, cx: &Context<'_>) -> Result<RegisterUser> {
        let password_hash = Services::of(cx)?.passwords.hash(self.password).await?;
        Ok(RegisterUser { email: self.email, username: self.username, name: self.name, password_hash })
    }
}

/// A person and their organization.
#[derive(InputObject)]
struct RegisterInput {
    /// What the organization is called: 1 to 120 characters.
    organization_name: String,
    /// Your e-mail address: you sign in with it, whatever its case.
    email: String,
    /// What you are called: 1 to 120 characters.
    name: String,
    /// At least 10 characters. What is guessed first (your own names, well-known words, runs of keys) is refused with
    /// `WEAK_PASSWORD`.
    #[graphql(secret)]
    password: String,
    /// Another way to sign in: 3 to 40 letters, digits, `.`, `_` and `-`, beginning with a letter.
    username: Option<String>,
    /// Makes a retry safe: the same key and input give the same ids and position, and the session that was started
    /// then. Its access token is a new one, its refresh token the same, or null if it has been used since. Kept for 7
    /// days.
    idempotency_key: Option<String>,
}

/// A person of another system.
#[derive(InputObject)]
struct UserImportInput {
    /// Their e-mail address.
    email: String,
    /// What they are called: 1 to 120 characters.
    name: String,
    /// Another way to sign in: 3 to 40 letters, digits, `.`, `_` and `-`, beginning with a letter.
    username: Option<String>,
    /// The hash of their password as a PHC string: Argon2id, or PBKDF2 with SHA-256 or SHA-512, such as
    /// `$pbkdf2-sha256$i=600000$salt$hash`.
    #[graphql(secret)]
    password_hash: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of yourself.
#[derive(InputObject)]
struct UserUpdateInput {
    /// What you are called: 1 to 120 characters.
    name: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The old password and the new one.
#[derive(InputObject)]
struct PasswordChangeInput {
    /// The password that you have now.
    #[graphql(secret)]
    current_password: String,
    /// The one that you want: at least 10 characters, and not one that is guessed first.
    #[graphql(secret)]
    new_password: String,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
