//! Members: who belongs to the organisation, inviting, roles, suspending, removing, handing over the ownership.
//!
//! Invariants: a change of a member holds for their sessions at once, because each request asks anew who it is, and
//! each commit whether that is so still. Whoever is suspended or removed has no session that goes on. An invitation is
//! a signed token (`Ticket`): nothing of it is kept but the invited member. Whoever accepts one is the person whose
//! address was invited: registered then, or known by their password.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::api_keys::RevokeApiKey;
use oriel_domain::identities::UnlinkIdentity;
use oriel_domain::members::{
    AcceptInvitation, ChangeRoles, InviteMember, MemberEvent, ReactivateMember, RemoveMember, StepDown, SuspendMember,
    TakeOver,
};
use oriel_domain::organizations::ChangeOwner;
use oriel_domain::projects::LeaveProject;
use oriel_domain::sessions::{EndReason, EndSession};
use oriel_domain::tickets::{INVITATION, INVITATION_LIFE, Ticket};
use oriel_domain::users::Email;
use oriel_engine::read::{Connection, PageArgs};
use oriel_engine::{CommandContext, Committed, Scope, Transaction};
use oriel_kernel::{Actor, Command, ErrorCode, MemberId, OrganizationId, Rejection, UserId, operations};
use oriel_read_models::members::{MemberFilter, MemberOrder, Model as Member, leaving};
use oriel_read_models::{identities, sign_in};

use crate::access::{Failure, Problems, Result, after_write, reader, unavailable};
use crate::payload::payloads;
use crate::roles::assigned;
use crate::services::Services;
use crate::sessions::{
    SessionPayload, Who, password_is_right, repetition, secret_command, start, start_again, wrong_credentials,
};
use crate::users::NewPerson;

/// What can be asked about members.
#[derive(Default)]
pub struct MemberQuery;

/// What can be done with members.
#[derive(Default)]
pub struct MemberMutation;

payloads! {
    /// What became of a change of a member.
    MemberPayload {
        /// The member as they are now; null after `memberRemove`, because they are no member any more.
        member: Arc<Member>,
        /// From `memberInvite` alone: what the invited person accepts with, in `memberAccept`. It is shown this once,
        /// and good for 7 days. They are sent it by mail too; if you hand it over yourself, then to nobody else.
        invitation_token: String,
    }
}

#[operations(query)]
impl MemberQuery {
    /// The member of your organization with this id; null when there is none.
    #[permission("members:view")]
    async fn member(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "Which member.")] id: MemberId,
    ) -> Result<Option<Arc<Member>>> {
        Ok(reader(cx)?.get(id).await?)
    }

    /// The members of your organization, those who are invited or suspended included; oldest first unless another
    /// order is asked for.
    #[permission("members:view")]
    #[allow(clippy::too_many_arguments)]
    async fn members(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<MemberFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<MemberOrder>>,
    ) -> Result<Connection<Member>> {
        let reader = reader(cx)?;
        let all = Member::in_org(reader.organization());
        Ok(reader.page(all, PageArgs::new(first, after, last, before), filter, order_by)?)
    }
}

#[operations(mutation)]
impl MemberMutation {
    /// Invites a person into your organization by their e-mail address. The answer has the token with which they
    /// accept; Oriel does not send it, so hand it over yourself. `memberRemove` withdraws an invitation.
    #[permission("members:create")]
    async fn member_invite(&self, cx: &Context<'_>, input: MemberInviteInput) -> Result<MemberPayload> {
        let context = granted.command(cx, &input)?;
        let engine = &Services::of(cx)?.engine;
        let mut problems = Problems::default();
        let email = problems.take("email", Email::parse(&input.email));
        let roles = problems.take_all(assigned(cx, &input.roles).await)?;
        let (Some(email), Some(roles)) = (email, roles) else { return Err(problems.failure()) };
        let hash = email.blind(engine.keyring().as_ref());
        let known = sign_in::user_by_email(engine.database().reader(), &hash).await.map_err(unavailable)?;
        let user = known.map_or_else(|| engine.new_id(), |user| user.id);
        let invite = InviteMember { user, email, roles, invited_by: granted.viewer()?.member };
        let done = engine.execute(&context, engine.new_id(), invite).await?;
        let (subject, ends_at) = (MemberId::from_uuid(done.subject), context.now + INVITATION_LIFE);
        let ticket = Ticket { subject, ends_at, about: String::new() };
        let mut payload = payload(cx, done).await?;
        payload.invitation_token = Some(ticket.sign(INVITATION, engine.keyring().as_ref()));
        Ok(payload)
    }

    /// Accepts an invitation and signs you in. If the invited address is new here, this registers you with it: give a
    /// name, and choose a password. If you have an account with that address, its password says that it is you, and
    /// name and user name stay as they are.
    #[public]
    async fn member_accept(&self, cx: &Context<'_>, input: MemberAcceptInput) -> Result<SessionPayload> {
        let services = Services::of(cx)?;
        let engine = &services.engine;
        let mut context = secret_command(&granted, cx, &input)?;
        if let Some(done) = repetition(cx, &context).await? {
            return start_again(cx, &context, &done, &input.password).await;
        }
        let ticket = Ticket::read(&input.token, INVITATION, context.now, engine.keyring().as_ref());
        let member: MemberId = ticket.ok_or_else(no_invitation)?.subject;
        let invitation = Invitation::of(cx, member).await?.ok_or_else(no_invitation)?;
        let organization = invitation.organization;
        let known =
            sign_in::user_by_email(engine.database().reader(), &invitation.email_hash).await.map_err(unavailable)?;
        let mut transaction = Transaction::new();
        let user = match known {
            Some(user) => {
                if !password_is_right(cx, &invitation.email_hash, Some(&user), &input.password).await? {
                    let message = "There is an account with the invited address already, and this is not its password.";
                    return Err(wrong_credentials(message).at("password").into());
                }
                user.id
            }
            None => {
                let mut problems = Problems::default();
                let (name, username) = (input.name.as_deref().unwrap_or_default(), input.username.as_deref());
                let person = NewPerson::parse(&mut problems, Some(&invitation.email), name, &input.password, username);
                let person = match person {
                    Some(person) => person.alone(cx, &mut problems).await?,
                    None => None,
                };
                let Some(person) = person else { return Err(problems.failure()) };
                transaction = transaction.and(invitation.user, person.register(cx).await?);
                invitation.user
            }
        };
        (context.actor, context.organization) = (Actor::User(user), organization);
        let transaction = transaction.and(member, AcceptInvitation { user });
        start(cx, &context, transaction, Who { user, member, organization, federated: None }).await
    }

    /// Gives a member other roles, in place of those that they have. An owner keeps theirs until
    /// `memberTransferOwnership`.
    #[permission("members:edit")]
    async fn member_update(&self, cx: &Context<'_>, input: MemberUpdateInput) -> Result<MemberPayload> {
        let context = granted.command(cx, &input)?;
        let roles = assigned(cx, &input.roles).await?;
        execute(cx, &context, input.id, ChangeRoles { roles }).await
    }

    /// Keeps a member from doing or seeing anything in this organization until they are reactivated. Their sessions
    /// here end at once; once reactivated they sign in again.
    #[permission("members:edit")]
    async fn member_suspend(&self, cx: &Context<'_>, input: MemberSuspendInput) -> Result<MemberPayload> {
        deactivate(cx, &granted.command(cx, &input)?, input.id, SuspendMember, false).await
    }

    /// Lets a suspended member act again.
    #[permission("members:edit")]
    async fn member_reactivate(&self, cx: &Context<'_>, input: MemberReactivateInput) -> Result<MemberPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, ReactivateMember).await
    }

    /// Ends a membership, or withdraws an invitation. Their sessions here end at once, and they are taken out of all
    /// projects. Whoever comes back later is a new member.
    #[permission("members:delete")]
    async fn member_remove(&self, cx: &Context<'_>, input: MemberRemoveInput) -> Result<MemberPayload> {
        deactivate(cx, &granted.command(cx, &input)?, input.id, RemoveMember, true).await
    }

    /// Makes another active member the owner of the organization; you become an admin. Only an owner can do this.
    #[permission("organization:manage")]
    async fn member_transfer_ownership(
        &self,
        cx: &Context<'_>,
        input: MemberTransferOwnershipInput,
    ) -> Result<MemberPayload> {
        let context = granted.command(cx, &input)?;
        let owner = granted.viewer()?.member;
        if input.id == owner {
            return Err(Rejection::conflict("You own the organization already. Name another member.").at("id").into());
        }
        let engine = &Services::of(cx)?.engine;
        let transaction = Transaction::new().and(input.id, TakeOver { from: owner }).and(owner, StepDown);
        let heir = leaving::persons(engine.database().reader(), &[input.id]).await.map_err(unavailable)?.pop();
        // Nobody: it is refused by the first step.
        let transaction = match heir {
            Some(owner) => transaction.and(context.organization, ChangeOwner { owner }),
            None => transaction,
        };
        payload(cx, engine.transact(&context, transaction).await?).await
    }
}

pub(crate) async fn execute<C: Command<Aggregate = oriel_domain::members::Member>>(
    cx: &Context<'_>,
    context: &CommandContext,
    id: MemberId,
    command: C,
) -> Result<MemberPayload> {
    let done = Services::of(cx)?.engine.execute(context, id, command).await?;
    payload(cx, done).await
}

/// How many sessions, how many projects, and how many keys, end in one transaction with the member that they belong to.
const AT_ONCE: u64 = 200;

/// Carries out the command, and ends in the same transaction what belongs to the member: their sessions and, when they
/// leave, their places in projects, their keys and what identity providers call them. What is more than that, or was begun meanwhile, ends right after:
/// from then on nothing is begun any more.
async fn deactivate<C: Command<Aggregate = oriel_domain::members::Member>>(
    cx: &Context<'_>,
    context: &CommandContext,
    id: MemberId,
    command: C,
    leaves: bool,
) -> Result<MemberPayload> {
    let engine = &Services::of(cx)?.engine;
    // Who was removed has no row any more.
    let person = leaving::persons(engine.database().reader(), &[id]).await.map_err(unavailable)?.pop();
    let ending = async |mut transaction: Transaction| {
        let (connection, who) = (engine.database().reader(), (context.organization, id));
        let sessions = leaving::sessions(connection, who, AT_ONCE).await.map_err(unavailable)?;
        let (mut projects, mut keys, mut known) = (Vec::new(), Vec::new(), Vec::new());
        if leaves {
            projects = leaving::projects(connection, who, AT_ONCE).await.map_err(unavailable)?;
            keys = leaving::api_keys(connection, who, AT_ONCE).await.map_err(unavailable)?;
            if let Some(person) = person {
                known = identities::of_person(connection, (context.organization, person)).await.map_err(unavailable)?;
            }
        }
        let rest = !sessions.is_empty() || !projects.is_empty() || !keys.is_empty() || !known.is_empty();
        for session in sessions {
            transaction = transaction.and(session, EndSession { reason: EndReason::Deactivated });
        }
        for project in projects {
            transaction = transaction.and(project, LeaveProject { member: id });
        }
        for key in keys {
            transaction = transaction.and(key, RevokeApiKey);
        }
        for identity in known {
            transaction = transaction.and(identity, UnlinkIdentity { by: None });
        }
        Ok::<_, Failure>((transaction, rest))
    };
    let (transaction, _) = ending(Transaction::new().and(id, command)).await?;
    let done = engine.transact(context, transaction).await?;
    // Whoever was suspended long ago may have been reactivated since; who was removed never comes back.
    let finishing = leaves || !done.repeated;
    while finishing && let (transaction, true) = ending(Transaction::new()).await? {
        // It follows from what was permitted, whatever the caller may do since.
        let (scope, authority) = (Scope::unlimited(), None);
        let command = engine.new_id();
        let context = context.clone();
        let context =
            CommandContext { command, may_repeat: false, expected_version: None, scope, authority, ..context };
        if engine.transact(&context, transaction).await?.events.is_empty() {
            break;
        }
    }
    payload(cx, done).await
}

async fn payload(cx: &Context<'_>, done: Committed) -> Result<MemberPayload> {
    let member = after_write::<Member>(cx, done.subject).await?;
    Ok(MemberPayload { member, invitation_token: None, user_errors: Vec::new(), position: Some(done.position) })
}

// --- invitations ------------------------------------------------------------------------------------------------

fn no_invitation() -> Rejection {
    let message = "This invitation is not valid, or not any more. Ask whoever invited you for another one.";
    Rejection::new(ErrorCode::Expired, message).at("token")
}

/// What the log says about an invitation.
struct Invitation {
    organization: OrganizationId,
    user: UserId,
    email: String,
    email_hash: String,
}

impl Invitation {
    /// The one that made this member; nothing when it was withdrawn, or the person forgotten.
    async fn of(cx: &Context<'_>, member: MemberId) -> Result<Option<Self>> {
        let events = Services::of(cx)?.engine.log().read_subject(member.uuid()).await.map_err(unavailable)?;
        let mut invitation = None;
        for event in events.iter().filter_map(|recorded| recorded.event_as()) {
            match event {
                MemberEvent::Invited { organization, user, email, email_hash, .. } => {
                    invitation = email.get().map(|email| Self {
                        organization: *organization,
                        user: *user,
                        email: email.clone(),
                        email_hash: email_hash.clone(),
                    });
                }
                MemberEvent::Removed { .. } => invitation = None,
                MemberEvent::Joined { .. }
                | MemberEvent::RolesChanged { .. }
                | MemberEvent::PermissionGranted { .. }
                | MemberEvent::PermissionRevoked { .. }
                | MemberEvent::Suspended
                | MemberEvent::Reactivated
                | MemberEvent::SecondFactorReset { .. } => {}
            }
        }
        Ok(invitation)
    }
}

// --- inputs -----------------------------------------------------------------------------------------------------

/// Who is to become a member.
#[derive(InputObject)]
struct MemberInviteInput {
    /// The e-mail address that they sign in with, or will.
    email: String,
    /// What they will be: `admin`, `member` or `viewer`; at least one.
    roles: Vec<String>,
    /// Makes a retry safe: the same key gives the same member, one write, and a token for it. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// An invitation, and who accepts it.
#[derive(InputObject)]
struct MemberAcceptInput {
    /// The `invitationToken` that whoever invited you handed over.
    #[graphql(secret)]
    token: String,
    /// What you are called: 1 to 120 characters. Required if you have no account with the invited address, else not
    /// looked at.
    name: Option<String>,
    /// The password of your account; if you have none, the one that you want: at least 10 characters.
    #[graphql(secret)]
    password: String,
    /// If you have no account, another way to sign in: 3 to 40 letters, digits, `.`, `_` and `-`, beginning with a
    /// letter.
    username: Option<String>,
    /// Makes a retry safe: the same key and input give the same ids and position, and the session that was started
    /// then. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of a member's roles.
#[derive(InputObject)]
struct MemberUpdateInput {
    /// Which member.
    id: MemberId,
    /// All roles that they are to have: `admin`, `member` or `viewer`; at least one.
    roles: Vec<String>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The member to be suspended.
#[derive(InputObject)]
struct MemberSuspendInput {
    /// Which member.
    id: MemberId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The member to be let act again.
#[derive(InputObject)]
struct MemberReactivateInput {
    /// Which member.
    id: MemberId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The member to be removed.
#[derive(InputObject)]
struct MemberRemoveInput {
    /// Which member, or which invited one.
    id: MemberId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Who is to own the organization from now on.
#[derive(InputObject)]
struct MemberTransferOwnershipInput {
    /// Which active member becomes the owner.
    id: MemberId,
    /// Refuse the change unless this is that member's version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
