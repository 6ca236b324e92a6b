//! What the head of `members.rs` promises.
#![allow(clippy::unwrap_used)]

use oriel_kernel::Permissions;
use proptest::prelude::*;

use super::*;
use crate::roles::RoleId;
use crate::testing::{Desk, member, user, uuid};

fn found(desk: &mut Desk) -> Member {
    let mut founder = Member::default();
    desk.done(uuid(10), &mut founder, &FoundMember { organization: desk.organization, user: user(1) });
    founder
}

fn invite(who: UserId, roles: &[RoleName]) -> InviteMember {
    let roles = roles.iter().copied().map(AssignedRole::from).collect();
    let email = Email::parse(&format!("{who}@example.org")).unwrap();
    InviteMember { user: who, email, roles, invited_by: member(10) }
}

fn join(desk: &mut Desk, id: u128, who: UserId) -> Member {
    let mut state = Member::default();
    desk.done(uuid(id), &mut state, &invite(who, &[RoleName::Member]));
    desk.done(uuid(id), &mut state, &AcceptInvitation { user: who });
    state
}

#[test]
fn an_organization_is_founded_once() {
    let mut desk = Desk::new();
    let founder = found(&mut desk);
    assert_eq!(founder.0.as_ref().unwrap().roles, [RoleName::Owner.into()]);
    assert!(desk.facts.contains(&active(desk.organization, member(10))));
    let again = FoundMember { organization: desk.organization, user: user(2) };
    assert_eq!(desk.refused(uuid(11), &Member::default(), &again), (ErrorCode::Conflict, ""));
}

#[test]
fn an_invitation_is_accepted_once() {
    let mut desk = Desk::new();
    found(&mut desk);
    let mut guest = Member::default();
    desk.done(uuid(11), &mut guest, &invite(user(2), &[RoleName::Viewer, RoleName::Member, RoleName::Viewer]));
    assert!(!desk.facts.contains(&active(desk.organization, member(11))));
    assert_eq!(
        desk.refused(uuid(12), &Member::default(), &invite(user(2), &[RoleName::Viewer])),
        (ErrorCode::Taken, "email")
    );
    let joined = desk.done(uuid(11), &mut guest, &AcceptInvitation { user: user(2) });
    let roles = vec![RoleName::Member.into(), RoleName::Viewer.into()];
    assert_eq!(joined, [MemberEvent::Joined { organization: desk.organization, user: user(2), roles }]);
    assert!(desk.facts.contains(&active(desk.organization, member(11))));
    assert_eq!(desk.done(uuid(11), &mut guest, &AcceptInvitation { user: user(2) }), []);
    assert_eq!(desk.refused(uuid(11), &guest, &AcceptInvitation { user: user(3) }), (ErrorCode::Expired, ""));
}

#[test]
fn one_address_is_invited_once_even_under_another_reserved_id() {
    let mut desk = Desk::new();
    found(&mut desk);
    desk.done(uuid(11), &mut Member::default(), &invite(user(2), &[RoleName::Viewer]));
    let again = InviteMember { user: user(3), ..invite(user(2), &[RoleName::Viewer]) };
    assert_eq!(desk.refused(uuid(12), &Member::default(), &again), (ErrorCode::Taken, "email"));
}

#[test]
fn whoever_holds_the_invitation_may_join_but_nobody_twice() {
    let mut desk = Desk::new();
    found(&mut desk);
    let mut guest = Member::default();
    desk.done(uuid(11), &mut guest, &invite(user(2), &[RoleName::Viewer]));
    assert_eq!(desk.refused(uuid(11), &guest, &AcceptInvitation { user: user(1) }), (ErrorCode::Taken, ""));
    desk.done(uuid(11), &mut guest, &AcceptInvitation { user: user(3) });
    assert!(desk.facts.contains(&membership(desk.organization, user(3))));
    assert!(!desk.facts.contains(&membership(desk.organization, user(2))));
}

#[test]
fn the_owner_stays() {
    let mut desk = Desk::new();
    let founder = found(&mut desk);
    let conflict = (ErrorCode::Conflict, "");
    assert_eq!(desk.refused(uuid(10), &founder, &SuspendMember), conflict);
    assert_eq!(desk.refused(uuid(10), &founder, &RemoveMember), conflict);
    assert_eq!(desk.refused(uuid(10), &founder, &ChangeRoles { roles: vec![RoleName::Admin.into()] }), conflict);
    assert_eq!(desk.refused(uuid(10), &founder, &StepDown), conflict);
}

#[test]
fn nobody_is_made_an_owner_by_roles() {
    let mut desk = Desk::new();
    found(&mut desk);
    let second = join(&mut desk, 11, user(2));
    let roles = [RoleName::Admin, RoleName::Owner];
    assert_eq!(desk.refused(uuid(12), &Member::default(), &invite(user(3), &roles)), (ErrorCode::Invalid, "roles"));
    let roles = roles.map(AssignedRole::from).to_vec();
    assert_eq!(desk.refused(uuid(11), &second, &ChangeRoles { roles }), (ErrorCode::Invalid, "roles"));
    assert_eq!(desk.refused(uuid(11), &second, &ChangeRoles { roles: vec![] }), (ErrorCode::Required, "roles"));
}

#[test]
fn ownership_is_transferred_by_its_owner() {
    let mut desk = Desk::new();
    let mut first = found(&mut desk);
    let mut second = join(&mut desk, 11, user(2));
    desk.actor = Actor::Member(member(11));
    assert_eq!(desk.refused(uuid(11), &second, &TakeOver { from: member(10) }), (ErrorCode::Forbidden, ""));
    assert_eq!(desk.refused(uuid(11), &second, &TakeOver { from: member(11) }), (ErrorCode::Forbidden, ""));
    desk.actor = Actor::Member(member(10));
    desk.done(uuid(11), &mut second, &TakeOver { from: member(10) });
    desk.done(uuid(10), &mut first, &StepDown);
    assert_eq!(second.0.as_ref().unwrap().roles, [RoleName::Owner.into()]);
    assert_eq!(first.0.as_ref().unwrap().roles, [RoleName::Admin.into()]);
    desk.done(uuid(10), &mut first, &RemoveMember);
}

#[test]
fn suspension_takes_the_active_fact_and_removal_everything() {
    let mut desk = Desk::new();
    found(&mut desk);
    let mut second = join(&mut desk, 11, user(2));
    let is_active = |desk: &Desk| desk.facts.contains(&active(desk.organization, member(11)));
    desk.done(uuid(11), &mut second, &SuspendMember);
    assert!(!is_active(&desk));
    assert_eq!(desk.done(uuid(11), &mut second, &SuspendMember), []);
    desk.done(uuid(11), &mut second, &ReactivateMember);
    assert!(is_active(&desk));
    let removed = |active| [MemberEvent::Removed { active }];
    assert_eq!(desk.done(uuid(11), &mut second, &RemoveMember), removed(true));
    assert!(!is_active(&desk));
    assert_eq!(desk.refused(uuid(11), &second, &ReactivateMember), (ErrorCode::NotFound, ""));
    let mut third = join(&mut desk, 12, user(2));
    desk.done(uuid(12), &mut third, &SuspendMember);
    assert_eq!(desk.done(uuid(12), &mut third, &RemoveMember), removed(false));
}

#[test]
fn with_a_grant_for_their_own_a_member_may_only_leave() {
    let mut desk = Desk::new();
    found(&mut desk);
    let mut second = join(&mut desk, 11, user(2));
    let third = join(&mut desk, 12, user(3));
    desk.grant = Grant::Own;
    desk.actor = Actor::Member(member(11));
    let forbidden = (ErrorCode::Forbidden, "");
    assert_eq!(desk.refused(uuid(12), &third, &RemoveMember), forbidden);
    assert_eq!(desk.refused(uuid(11), &second, &ChangeRoles { roles: vec![RoleName::Admin.into()] }), forbidden);
    assert_eq!(desk.refused(uuid(11), &second, &ReactivateMember), forbidden);
    desk.done(uuid(11), &mut second, &RemoveMember);
}

#[test]
fn nobody_gives_more_than_they_have_by_a_role() {
    let mut desk = Desk::new();
    let mut owner = found(&mut desk);
    let mut second = join(&mut desk, 11, user(2));
    let custom = |texts: &[&str]| {
        AssignedRole::Custom(
            RoleId::from_uuid(uuid(40)),
            texts.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        )
    };
    let forbidden = (ErrorCode::Forbidden, "roles");
    desk.permissions = Permissions::new(["members:*", "documents:view"]);
    for role in [RoleName::Admin, RoleName::Moderator, RoleName::Viewer] {
        let both = ChangeRoles { roles: vec![role.into(), RoleName::Member.into()] };
        assert_eq!(desk.refused(uuid(11), &second, &both), forbidden);
        assert_eq!(desk.refused(uuid(12), &Member::default(), &invite(user(3), &[role])), forbidden);
    }
    let more = custom(&["documents:*"]);
    assert_eq!(desk.refused(uuid(11), &second, &ChangeRoles { roles: vec![more] }), forbidden);
    // What is known of a role that the organization made has to be so still.
    let known = custom(&["documents:view:own"]);
    let give = ChangeRoles { roles: vec![known.clone(), RoleName::Member.into()] };
    assert_eq!(desk.refused(uuid(11), &second, &give), (ErrorCode::Conflict, "roles"));
    desk.facts.insert(known.definition(desk.organization).unwrap().0);
    desk.done(uuid(11), &mut second, &give);
    // What a member has they keep, whoever takes something else away.
    desk.done(uuid(11), &mut second, &ChangeRoles { roles: vec![RoleName::Member.into()] });
    assert_eq!(desk.refused(uuid(10), &owner, &give).0, ErrorCode::Conflict);
    desk.grant = Grant::Own;
    desk.actor = Actor::Member(member(10));
    assert!(desk.execute(uuid(10), &mut owner, &give).is_err());
}

#[test]
fn nobody_grants_more_than_they_have() {
    let mut desk = Desk::new();
    let founder = found(&mut desk);
    let mut second = join(&mut desk, 11, user(2));
    let grant = |text: &str| GrantPermission { permission: Pattern::parse(text).unwrap() };
    let revoke = |text: &str| RevokePermission { permission: Pattern::parse(text).unwrap() };
    desk.permissions = Permissions::new(["members:*", "documents:*"]);
    for more in ["*", "projects:view", "*:view", "organization:manage"] {
        assert_eq!(desk.refused(uuid(11), &second, &grant(more)), (ErrorCode::Forbidden, "permission"), "{more}");
    }
    let permission = Pattern::parse("documents:view").unwrap();
    let granted = MemberEvent::PermissionGranted { permission: permission.clone() };
    assert_eq!(desk.done(uuid(11), &mut second, &grant("documents:view")), [granted]);
    assert_eq!(desk.done(uuid(11), &mut second, &grant("documents:view")), []);
    assert_eq!(desk.refused(uuid(10), &founder, &grant("documents:view")).0, ErrorCode::Conflict);
    desk.permissions = Permissions::new(["members:*"]);
    assert_eq!(desk.done(uuid(11), &mut second, &revoke("documents:edit")), []);
    let revoked = MemberEvent::PermissionRevoked { permission };
    assert_eq!(desk.done(uuid(11), &mut second, &revoke("documents:view")), [revoked]);
    desk.permissions = Permissions::new(["*"]);
    assert_eq!(desk.refused(uuid(11), &second, &grant("system:view")), (ErrorCode::Forbidden, "permission"));
    for n in 0..Member::MAX_GRANTS {
        let module: String = format!("{n:02}").bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
        desk.done(uuid(11), &mut second, &grant(&format!("{module}:view")));
    }
    assert_eq!(desk.refused(uuid(11), &second, &grant("search:view")), (ErrorCode::LimitExceeded, "permission"));
    let mut invited = Member::default();
    desk.done(uuid(12), &mut invited, &invite(user(3), &[RoleName::Viewer]));
    assert_eq!(desk.refused(uuid(12), &invited, &grant("search:view")), (ErrorCode::Conflict, ""));
}

proptest! {
    #[test]
    fn whatever_happens_there_is_an_owner(
        steps in prop::collection::vec((0usize..5, 0u8..9, 0u128..5, 0usize..4), 0..80),
    ) {
        let mut desk = Desk::new();
        let mut members = vec![Member::default(); 5];
        let organization = desk.organization;
        members[0] = {
            let mut founder = Member::default();
            desk.done(uuid(0), &mut founder, &FoundMember { organization, user: user(0) });
            founder
        };
        for (who, what, by, role) in steps {
            desk.actor = Actor::Member(member(by));
            let (id, state) = (uuid(who as u128), &mut members[who]);
            let roles = [[RoleName::Owner, RoleName::Admin, RoleName::Member, RoleName::Viewer][role]];
            let before = state.clone();
            let written = match what {
                0 => desk.execute(id, state, &invite(user(by), &roles)),
                1 => desk.execute(id, state, &AcceptInvitation { user: user(by) }),
                2 => desk.execute(id, state, &ChangeRoles { roles: roles.map(AssignedRole::from).to_vec() }),
                3 => desk.execute(id, state, &SuspendMember),
                4 => desk.execute(id, state, &ReactivateMember),
                5 => desk.execute(id, state, &RemoveMember),
                6 => desk.execute(id, state, &TakeOver { from: member(by) }),
                7 => desk.execute(id, state, &StepDown),
                _ => desk.execute(id, state, &FoundMember { organization, user: user(by) }),
            };
            if written.is_err() {
                prop_assert_eq!(&before, state);
            }

            let mut users = Vec::new();
            let mut owners = 0;
            for (number, present) in members.iter().enumerate().filter_map(|(n, m)| m.0.as_ref().map(|m| (n, m))) {
                let id = member(number as u128);
                prop_assert_eq!(desk.facts.contains(&active(organization, id)), present.status == MemberStatus::Active);
                prop_assert_eq!(desk.facts.contains(&owner(organization, id)), present.is_owner());
                if present.status != MemberStatus::Removed {
                    prop_assert!(desk.facts.contains(&present.membership()));
                    users.push(present.user);
                }
                if present.is_owner() {
                    prop_assert_eq!(present.status, MemberStatus::Active);
                    owners += 1;
                }
            }
            let successions = desk.facts.iter().filter(|f| f.scope.starts_with("organization_owner_succeeded")).count();
            prop_assert_eq!(owners, 1 + successions);
            let count = users.len();
            users.sort();
            users.dedup();
            prop_assert_eq!(users.len(), count, "a person is a member twice");
        }
    }
}
