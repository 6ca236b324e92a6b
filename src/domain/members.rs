//! Members: a person in one organisation, with roles.
//!
//! Invariants: a person is a member of an organisation once. A removed member looks absent; whoever comes back is a
//! new member. **Every organisation has an owner.** Facts cannot count owners, so an owner can be neither demoted,
//! suspended nor removed, and nobody becomes one but by founding the organisation or by taking over: `TakeOver` on
//! the new owner comes first and leaves a mark that only `StepDown` on the old one can use up, so that no order and
//! no half of the two leaves an organisation without an owner.
//!
//! **Nobody gives away more than they have**, neither by a role nor by a permission that they grant directly; what a
//! member has already, they keep.
//!
//! Nothing here knows what a member is let do by all this.

use oriel_kernel::{
    Actor, Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, Grant, MemberId, OrganizationId, Outcome,
    Pattern, Personal, Rejection, UserId, kinds,
};

use crate::roles::{self, AssignedRole, Role, RoleName};
use crate::users::Email;
use crate::users::second_factor::ResetReason;

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a member.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "member")]
pub enum MemberEvent {
    /// Was invited.
    #[event("member_invited")]
    Invited {
        /// Where to.
        organization: OrganizationId,
        /// The user who has this address, or the id reserved for whoever registers with it.
        user: UserId,
        /// Where the invitation is sent.
        email: Personal<String>,
        /// See [`Email::blind`].
        email_hash: String,
        /// What they will be.
        roles: Vec<Role>,
        /// Who invited them.
        invited_by: MemberId,
    },
    /// Became a member: founded the organisation, or accepted the invitation.
    #[event("member_joined")]
    Joined {
        /// Which one.
        organization: OrganizationId,
        /// Who; after an invitation perhaps not the user that it named, but who holds it.
        user: UserId,
        /// What they are.
        roles: Vec<Role>,
    },
    /// Has other roles.
    #[event("member_roles_changed")]
    RolesChanged {
        /// All of them, sorted.
        roles: Vec<Role>,
    },
    /// May do something besides what their roles allow.
    #[event("member_permission_granted")]
    PermissionGranted {
        /// What.
        permission: Pattern,
    },
    /// May do that no more, unless a role allows it.
    #[event("member_permission_revoked")]
    PermissionRevoked {
        /// What.
        permission: Pattern,
    },
    /// May do nothing for now.
    #[event("member_suspended")]
    Suspended,
    /// May act again.
    #[event("member_reactivated")]
    Reactivated,
    /// Had lost their second factor: it was taken away, so that they set up another one.
    #[event("member_second_factor_reset")]
    SecondFactorReset {
        /// Why, in the words of whoever did it.
        reason: Personal<String>,
    },
    /// Is no member any more; or the invitation was withdrawn.
    #[event("member_removed", version = 2, upcast = removed_v1_to_v2)]
    Removed {
        /// Whether they could act until then: they were neither suspended nor only invited.
        active: bool,
    },
}

/// Version 1 did not say where the member had stood.
fn removed_v1_to_v2(_: serde_json::Value) -> serde_json::Value {
    serde_json::json!({ "active": true })
}

// --- state -------------------------------------------------------------------------------------------------------

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemberStatus {
    /// Has not accepted yet.
    Invited,
    /// May act.
    Active,
    /// May do nothing for now.
    Suspended,
    /// Is no member any more.
    Removed,
}

/// What decides about a member's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member(Option<Present>);

#[derive(Clone, Debug, PartialEq)]
struct Present {
    organization: OrganizationId,
    user: UserId,
    roles: Vec<Role>,
    /// What they were granted directly.
    grants: Vec<Pattern>,
    status: MemberStatus,
    /// While invited.
    email_hash: Option<String>,
}

impl Aggregate for Member {
    type Kind = kinds::MemberId;
    type Event = MemberEvent;
    const NOUN: &'static str = "member";

    fn evolve(&mut self, event: &MemberEvent) {
        match event {
            MemberEvent::Invited { organization, user, email_hash, roles, .. } => {
                self.0 = Some(Present {
                    organization: *organization,
                    user: *user,
                    roles: roles.clone(),
                    grants: Vec::new(),
                    status: MemberStatus::Invited,
                    email_hash: Some(email_hash.clone()),
                });
            }
            MemberEvent::Joined { organization, user, roles } => {
                self.0 = Some(Present {
                    organization: *organization,
                    user: *user,
                    roles: roles.clone(),
                    grants: Vec::new(),
                    status: MemberStatus::Active,
                    email_hash: None,
                });
            }
            MemberEvent::RolesChanged { roles } => self.change(|member| member.roles.clone_from(roles)),
            MemberEvent::PermissionGranted { permission } => self.change(|member| {
                member.grants.retain(|granted| granted != permission);
                member.grants.push(permission.clone());
            }),
            MemberEvent::PermissionRevoked { permission } => {
                self.change(|member| member.grants.retain(|granted| granted != permission));
            }
            MemberEvent::Suspended => self.change(|member| member.status = MemberStatus::Suspended),
            MemberEvent::Reactivated => self.change(|member| member.status = MemberStatus::Active),
            MemberEvent::SecondFactorReset { reason: _ } => {}
            MemberEvent::Removed { active: _ } => self.change(|member| member.status = MemberStatus::Removed),
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.0.as_ref().map(|member| member.organization)
    }
}

impl Member {
    /// The most permissions that are granted directly.
    pub const MAX_GRANTS: usize = 50;

    fn change(&mut self, change: impl FnOnce(&mut Present)) {
        if let Some(member) = &mut self.0 {
            change(member);
        }
    }

    /// The member, unless removed.
    fn present(&self) -> Result<&Present, Rejection> {
        let present = self.0.as_ref().filter(|member| member.status != MemberStatus::Removed);
        present.ok_or_else(|| Rejection::not_found(Self::NOUN))
    }

    /// The member, to be changed by whoever asks. An owner is changed by nobody.
    fn changeable(&self, given: &Given<'_>) -> Result<&Present, Rejection> {
        let member = self.present()?;
        if given.grant == Grant::Own && given.actor != Actor::Member(MemberId::from_uuid(given.id)) {
            return Err(crate::not_yours(Self::NOUN));
        }
        if member.is_owner() {
            let message = "This member owns the organization. Transfer the ownership to somebody else first.";
            return Err(Rejection::conflict(message));
        }
        Ok(member)
    }
}

impl Present {
    fn is_owner(&self) -> bool {
        self.roles.contains(&RoleName::Owner.into())
    }

    fn membership(&self) -> Fact {
        membership(self.organization, self.user)
    }
}

// --- facts -------------------------------------------------------------------------------------------------------

/// That this person is a member of the organisation, or invited.
fn membership(organization: OrganizationId, user: UserId) -> Fact {
    Fact::new("member", organization, user.to_string())
}

/// That somebody with this address is invited.
fn invitation(organization: OrganizationId, email_hash: &str) -> Fact {
    Fact::new("member_invitation", organization, email_hash)
}

/// That this member of this organisation may act.
pub fn active(organization: OrganizationId, member: MemberId) -> Fact {
    Fact::new("member_active", organization, member.to_string())
}

/// That the organisation was founded. Never released.
fn founded(organization: OrganizationId) -> Fact {
    Fact { scope: "organization_founded".to_owned(), value: organization.to_string() }
}

/// That this member owns the organisation.
fn owner(organization: OrganizationId, member: MemberId) -> Fact {
    Fact::new("organization_owner", organization, member.to_string())
}

/// That somebody took over from this owner, who has yet to step down.
fn succeeded(organization: OrganizationId, owner: MemberId) -> Fact {
    Fact::new("organization_owner_succeeded", organization, owner.to_string())
}

fn member_already() -> Rejection {
    Rejection::taken("This person is a member of the organization, or invited, already.").at("email")
}

fn already_active() -> Rejection {
    Rejection::conflict("This member is active already.")
}

// --- commands ----------------------------------------------------------------------------------------------------

/// The founder joins, as the owner. Possible once in an organisation's life.
pub struct FoundMember {
    /// The organisation that is founded in the same transaction.
    pub organization: OrganizationId,
    /// Who founds it.
    pub user: UserId,
}

impl Command for FoundMember {
    type Aggregate = Member;
    const CREATES: bool = true;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        crate::must_be_new(member)?;
        let (organization, id) = (self.organization, MemberId::from_uuid(given.id));
        let exists = Rejection::conflict("This organization has been founded already.");
        Ok(Outcome::events([MemberEvent::Joined {
            organization,
            user: self.user,
            roles: vec![RoleName::Owner.into()],
        }])
        .claim(founded(organization), exists.clone())
        .claim(owner(organization, id), exists)
        .claim(membership(organization, self.user), member_already())
        .claim(active(organization, id), already_active()))
    }
}

/// Invites a person into the organisation in which the actor acts.
pub struct InviteMember {
    /// The user with this address; a fresh id, reserved for them, when there is none.
    pub user: UserId,
    /// Where the invitation is sent.
    pub email: Email,
    /// What they will be. Not the owner.
    pub roles: Vec<AssignedRole>,
    /// Who invites them.
    pub invited_by: MemberId,
}

impl Command for InviteMember {
    type Aggregate = Member;
    const CREATES: bool = true;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        crate::must_be_new(member)?;
        let organization = given.organization;
        let email_hash = self.email.blind(given.blinder);
        let roles = assignable(&self.roles, &[], given)?;
        let outcome = Outcome::events([MemberEvent::Invited {
            organization,
            user: self.user,
            email: Personal::new(self.user, self.email.as_str().to_owned()),
            email_hash: email_hash.clone(),
            roles,
            invited_by: self.invited_by,
        }])
        .claim(membership(organization, self.user), member_already())
        .claim(invitation(organization, &email_hash), member_already());
        Ok(as_defined(outcome, organization, &self.roles))
    }
}

/// Accepts an invitation. That `user` holds it is checked before: it is theirs, or they showed its link.
pub struct AcceptInvitation {
    /// Who joins.
    pub user: UserId,
}

impl Command for AcceptInvitation {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.present()?;
        if member.status != MemberStatus::Invited {
            return if member.user == self.user {
                Ok(Outcome::nothing())
            } else {
                Err(Rejection::new(ErrorCode::Expired, "This invitation has been accepted already."))
            };
        }
        let organization = member.organization;
        let mut outcome =
            Outcome::events([MemberEvent::Joined { organization, user: self.user, roles: member.roles.clone() }])
                .claim(active(organization, MemberId::from_uuid(given.id)), already_active());
        if let Some(hash) = &member.email_hash {
            outcome = outcome.release(invitation(organization, hash));
        }
        if self.user != member.user {
            let twice = Rejection::taken("You are a member of this organization already.");
            outcome = outcome.release(member.membership()).claim(membership(organization, self.user), twice);
        }
        Ok(outcome)
    }
}

/// Makes a person a member because an identity provider of the organisation speaks for them. That it does, and what
/// they are by what it says, is found out before.
pub struct ProvisionMember {
    /// Where.
    pub organization: OrganizationId,
    /// Who.
    pub user: UserId,
    /// What they are. Not the owner.
    pub roles: Vec<AssignedRole>,
}

impl Command for ProvisionMember {
    type Aggregate = Member;
    const CREATES: bool = true;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        crate::must_be_new(member)?;
        let (organization, id) = (self.organization, MemberId::from_uuid(given.id));
        let roles = assignable(&self.roles, &[], given)?;
        let outcome = Outcome::events([MemberEvent::Joined { organization, user: self.user, roles }])
            .claim(membership(organization, self.user), member_already())
            .claim(active(organization, id), already_active());
        Ok(as_defined(outcome, organization, &self.roles))
    }
}

/// Gives a member other roles.
pub struct ChangeRoles {
    /// All of them. Not the owner.
    pub roles: Vec<AssignedRole>,
}

impl Command for ChangeRoles {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.changeable(given)?;
        if given.grant == Grant::Own {
            return Err(Rejection::new(ErrorCode::Forbidden, "You may not change your own roles."));
        }
        let roles = assignable(&self.roles, &member.roles, given)?;
        if member.roles == roles {
            return Ok(Outcome::nothing());
        }
        let outcome = Outcome::events([MemberEvent::RolesChanged { roles }]);
        Ok(as_defined(outcome, member.organization, &self.roles))
    }
}

/// Lets a member do something besides what their roles allow.
pub struct GrantPermission {
    /// What.
    pub permission: Pattern,
}

impl Command for GrantPermission {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.changeable(given)?;
        if given.grant == Grant::Own {
            return Err(Rejection::new(ErrorCode::Forbidden, "You may not grant yourself anything."));
        }
        if member.status == MemberStatus::Invited {
            return Err(Rejection::conflict("This person has not accepted the invitation yet."));
        }
        roles::must_be_grantable([&self.permission], given, "permission")?;
        if member.grants.contains(&self.permission) {
            return Ok(Outcome::nothing());
        }
        if member.grants.len() >= Member::MAX_GRANTS {
            let message = format!("At most {} permissions of their own; make a role of them.", Member::MAX_GRANTS);
            return Err(Rejection::new(ErrorCode::LimitExceeded, message).at("permission"));
        }
        Ok(Outcome::events([MemberEvent::PermissionGranted { permission: self.permission.clone() }]))
    }
}

/// Takes a permission back that was granted directly.
pub struct RevokePermission {
    /// Which one.
    pub permission: Pattern,
}

impl Command for RevokePermission {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.changeable(given)?;
        if !member.grants.contains(&self.permission) {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([MemberEvent::PermissionRevoked { permission: self.permission.clone() }]))
    }
}

/// Keeps a member from acting.
pub struct SuspendMember;

impl Command for SuspendMember {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.changeable(given)?;
        match member.status {
            MemberStatus::Suspended => Ok(Outcome::nothing()),
            MemberStatus::Invited => {
                Err(Rejection::conflict("This person has not accepted the invitation yet. Remove it instead."))
            }
            MemberStatus::Active | MemberStatus::Removed => Ok(Outcome::events([MemberEvent::Suspended])
                .release(active(member.organization, MemberId::from_uuid(given.id)))),
        }
    }
}

/// Lets a suspended member act again.
pub struct ReactivateMember;

impl Command for ReactivateMember {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.present()?;
        if given.grant == Grant::Own {
            return Err(crate::not_yours(Member::NOUN));
        }
        match member.status {
            MemberStatus::Active => Ok(Outcome::nothing()),
            MemberStatus::Invited => Err(Rejection::conflict("This person has not accepted the invitation yet.")),
            MemberStatus::Suspended | MemberStatus::Removed => Ok(Outcome::events([MemberEvent::Reactivated])
                .claim(active(member.organization, MemberId::from_uuid(given.id)), already_active())),
        }
    }
}

/// Takes away a member's second factor, which they have lost, together with
/// [`ResetSecondFactor`](crate::users::second_factor::ResetSecondFactor) on the person. That the person is a member of no
/// other organisation is looked up before: no organisation makes an account easier to get into for others.
pub struct ResetMemberSecondFactor {
    /// What the member is, as it was read: nobody does it who may less than they.
    pub roles: Vec<AssignedRole>,
    /// Why.
    pub reason: ResetReason,
}

/// `FORBIDDEN`, for whoever may not take away this member's second factor. It does not tell which it is, so that nobody
/// learns where else somebody is a member.
pub fn may_not_reset() -> Rejection {
    let message = "Not of this member: they may do something here that you may not, or their account is not this \
                   organization's alone. The operator of the installation can, with `userSecondFactorReset`.";
    Rejection::new(ErrorCode::Forbidden, message)
}

impl Command for ResetMemberSecondFactor {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.present()?;
        if given.is(MemberId::from_uuid(given.id)) {
            let message = "This is for somebody else. Give up your own with `totpDisable` and `passkeyRemove`.";
            return Err(Rejection::new(ErrorCode::Forbidden, message));
        }
        if given.grant == Grant::Own {
            return Err(crate::not_yours(Member::NOUN));
        }
        if member.status == MemberStatus::Invited {
            return Err(Rejection::conflict("This person has not accepted the invitation yet."));
        }
        if roles::normal(&self.roles)? != member.roles {
            return Err(Rejection::conflict("The roles of this member changed at this moment. Try again."));
        }
        let has_more = self.roles.iter().any(|role| role.must_be_covered(given).is_err())
            || member.grants.iter().any(|granted| !given.permissions.covers(granted));
        if has_more {
            return Err(may_not_reset());
        }
        let reason = Personal::new(member.user, self.reason.to_string());
        let outcome = Outcome::events([MemberEvent::SecondFactorReset { reason }]);
        Ok(as_defined(outcome, member.organization, &self.roles))
    }
}

/// Ends a membership, or withdraws an invitation.
pub struct RemoveMember;

impl Command for RemoveMember {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.changeable(given)?;
        let active_until_now = member.status == MemberStatus::Active;
        let removed = MemberEvent::Removed { active: active_until_now };
        let mut outcome = Outcome::events([removed]).release(member.membership());
        if let Some(hash) = &member.email_hash {
            outcome = outcome.release(invitation(member.organization, hash));
        }
        if active_until_now {
            outcome = outcome.release(active(member.organization, MemberId::from_uuid(given.id)));
        }
        Ok(outcome)
    }
}

/// First half of a transfer, on the new owner: becomes an owner. Committed together with [`StepDown`].
pub struct TakeOver {
    /// The owner, who is also the actor.
    pub from: MemberId,
}

impl Command for TakeOver {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.present()?;
        must_be(self.from, given)?;
        if member.status != MemberStatus::Active {
            return Err(Rejection::conflict("Only an active member can own the organization."));
        }
        if member.is_owner() {
            return Err(Rejection::conflict("This member owns the organization already."));
        }
        let (organization, id) = (member.organization, MemberId::from_uuid(given.id));
        let already = Rejection::conflict("The ownership has been transferred already.");
        Ok(Outcome::events([MemberEvent::RolesChanged { roles: vec![RoleName::Owner.into()] }])
            .require(owner(organization, self.from), only_the_owner())
            .claim(owner(organization, id), already.clone())
            .claim(succeeded(organization, self.from), already))
    }
}

/// Second half of a transfer, on the old owner: becomes an admin.
pub struct StepDown;

impl Command for StepDown {
    type Aggregate = Member;

    fn decide(&self, member: &Member, given: &Given<'_>) -> Decision<MemberEvent> {
        let member = member.present()?;
        let id = MemberId::from_uuid(given.id);
        must_be(id, given)?;
        if !member.is_owner() {
            return Err(only_the_owner());
        }
        let alone = Rejection::conflict("Somebody has to take over first.");
        Ok(Outcome::events([MemberEvent::RolesChanged { roles: vec![RoleName::Admin.into()] }])
            .require(succeeded(member.organization, id), alone)
            .release(succeeded(member.organization, id))
            .release(owner(member.organization, id)))
    }
}

fn only_the_owner() -> Rejection {
    Rejection::new(ErrorCode::Forbidden, "Only the owner can transfer the ownership.")
}

fn must_be(owner: MemberId, given: &Given<'_>) -> Result<(), Rejection> {
    if given.actor == Actor::Member(owner) || given.actor == Actor::System { Ok(()) } else { Err(only_the_owner()) }
}

/// The roles, if they can be given away by whoever asks; what is `held` already, is not given.
fn assignable(roles: &[AssignedRole], held: &[Role], given: &Given<'_>) -> Result<Vec<Role>, Rejection> {
    if roles.contains(&RoleName::Owner.into()) {
        let message = "Nobody is made an owner like this: the owner transfers the ownership.";
        return Err(Rejection::new(ErrorCode::Invalid, message).at("roles"));
    }
    for role in roles.iter().filter(|role| !held.contains(&role.role())) {
        role.must_be_covered(given)?;
    }
    roles::normal(roles)
}

/// The outcome, if the organisation's own roles among these still allow what was read.
fn as_defined(
    outcome: Outcome<MemberEvent>,
    organization: OrganizationId,
    roles: &[AssignedRole],
) -> Outcome<MemberEvent> {
    let definitions = roles.iter().filter_map(|role| role.definition(organization));
    definitions.fold(outcome, |outcome, (defined, otherwise)| outcome.require(defined, otherwise))
}

#[cfg(test)]
mod tests;
