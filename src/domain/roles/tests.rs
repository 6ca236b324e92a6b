//! What the head of `roles.rs` promises.
#![allow(clippy::unwrap_used)]

use oriel_kernel::Actor;
use proptest::prelude::*;

use super::*;
use crate::testing::{Desk, member, uuid};

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
}

fn create(name: &str, permissions: &[&str]) -> CreateRole {
    CreateRole {
        name: RoleTitle::parse_new(name).unwrap(),
        description: RoleDescription::default(),
        permissions: patterns(permissions),
        operations: None,
    }
}

fn change(permissions: &[&str]) -> ChangeRole {
    ChangeRole { name: None, description: None, permissions: Some(patterns(permissions)), operations: None }
}

fn rename(name: &str) -> ChangeRole {
    ChangeRole {
        name: Some(RoleTitle::parse_new(name).unwrap()),
        description: None,
        permissions: None,
        operations: None,
    }
}

fn desk(permissions: &[&str]) -> Desk {
    let mut desk = Desk::new();
    desk.actor = Actor::Member(member(1));
    desk.permissions = Permissions::new(permissions.iter().copied());
    desk
}

#[test]
fn a_role_comes_to_allow_nothing_that_its_editor_does_not_have() {
    let mut desk = desk(&["roles:*", "documents:*", "members:view"]);
    let (mut role, forbidden) = (CustomRole::default(), (ErrorCode::Forbidden, "permissions"));
    for more in ["*", "*:view", "members:*", "members:edit:own", "system:manage", "projects:view"] {
        assert_eq!(desk.refused(uuid(7), &role, &create("Auditors", &[more])), forbidden, "{more}");
    }
    desk.done(uuid(7), &mut role, &create("Auditors", &["documents:view", "members:view:own"]));
    assert_eq!(desk.refused(uuid(7), &role, &change(&["documents:view", "projects:view"])), forbidden);
    desk.done(uuid(7), &mut role, &change(&["documents:*"]));
    // Somebody with less takes away what they do not have, and does not give it back.
    desk.permissions = Permissions::new(["roles:*", "documents:view"]);
    desk.done(uuid(7), &mut role, &rename("Readers"));
    desk.done(uuid(7), &mut role, &change(&["documents:edit"]));
    desk.done(uuid(7), &mut role, &change(&["documents:view"]));
    assert_eq!(desk.refused(uuid(7), &role, &change(&["documents:edit"])), forbidden);
}

#[test]
fn what_is_the_owners_alone_is_not_given_away() {
    let mut desk = desk(&["*", "system:*"]);
    for alone in ["*", "organization:*", "organization:manage", "*:delete", "organization:delete:own"] {
        let refused = desk.refused(uuid(7), &CustomRole::default(), &create("Deputy", &[alone]));
        assert_eq!(refused, (ErrorCode::Forbidden, "permissions"), "{alone}");
    }
    desk.done(uuid(7), &mut CustomRole::default(), &create("Deputy", &["organization:edit", "system:view"]));
}

#[test]
fn names_are_unique_whatever_their_case() {
    let mut desk = desk(&["*"]);
    let (mut first, mut second) = (CustomRole::default(), CustomRole::default());
    desk.done(uuid(7), &mut first, &create("Auditors", &[]));
    assert_eq!(desk.refused(uuid(8), &second, &create("AUDITORS", &[])), (ErrorCode::Taken, "name"));
    desk.done(uuid(8), &mut second, &create("Readers", &[]));
    assert_eq!(desk.refused(uuid(8), &second, &rename("auditors")), (ErrorCode::Taken, "name"));
    desk.done(uuid(7), &mut first, &rename("AUDITORS"));
    assert_eq!(desk.done(uuid(7), &mut first, &rename("AUDITORS")), []);
    desk.done(uuid(7), &mut first, &DeleteRole);
    assert_eq!(desk.refused(uuid(7), &first, &DeleteRole), (ErrorCode::NotFound, ""));
    assert_eq!(desk.refused(uuid(7), &first, &change(&["documents:view"])), (ErrorCode::NotFound, ""));
    desk.done(uuid(8), &mut second, &rename("Auditors"));
    for (bad, code) in
        [("Admin", ErrorCode::Taken), ("", ErrorCode::Required), ("rol_01jd0000000000000000000000", ErrorCode::Invalid)]
    {
        assert_eq!(RoleTitle::parse_new(bad).map_err(|r| r.code), Err(code), "{bad}");
    }
}

#[test]
fn roles_are_nobodys_own_and_have_their_limits() {
    let mut desk = desk(&["*"]);
    let mut role = CustomRole::default();
    desk.done(uuid(7), &mut role, &create("Auditors", &[]));
    let many: Vec<String> = (0..101)
        .map(|n| {
            format!("{n:03}").bytes().map(|digit| char::from(digit - b'0' + b'a')).chain(":view".chars()).collect()
        })
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(desk.refused(uuid(7), &role, &change(&many)), (ErrorCode::LimitExceeded, "permissions"));
    desk.grant = Grant::Own;
    let forbidden = (ErrorCode::Forbidden, "");
    assert_eq!(desk.refused(uuid(7), &role, &change(&[])), forbidden);
    assert_eq!(desk.refused(uuid(7), &role, &DeleteRole), forbidden);
    assert_eq!(desk.refused(uuid(8), &CustomRole::default(), &create("Readers", &[])), forbidden);
}

#[test]
fn a_role_is_a_text() {
    let id: RoleId = "rol_01jd0000000000000000000000".parse().unwrap();
    for (role, text) in
        [(Role::from(RoleName::ReportManager), "report_manager"), (Role::Custom(id), "rol_01jd0000000000000000000000")]
    {
        assert_eq!((role.to_string().as_str(), Role::parse(text)), (text, Some(role)));
        assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Role>(&format!("\"{text}\"")).unwrap(), role);
    }
    assert_eq!(Role::parse("root"), None);
    assert_eq!(normal(&[]).map_err(|r| (r.code, r.field)), Err((ErrorCode::Required, "roles")));
    let twice = [RoleName::Viewer, RoleName::Admin, RoleName::Viewer].map(AssignedRole::from);
    assert_eq!(normal(&twice), Ok(vec![RoleName::Admin.into(), RoleName::Viewer.into()]));
}

proptest! {
    #[test]
    fn whatever_happens_the_head_of_this_file_holds(
        steps in prop::collection::vec((0usize..3, 0u8..4, 0usize..4, 0usize..5), 0..40),
    ) {
        const HELD: [&[&str]; 4] = [&["*"], &["documents:*"], &["documents:view", "members:*:own"], &[]];
        const ALLOWED: [&[&str]; 5] = [&["*"], &["documents:view"], &["documents:*", "members:view"], &["members:*:own"], &[]];
        let mut desk = desk(&[]);
        let mut roles = vec![CustomRole::default(); 3];
        for (which, what, held, allowed) in steps {
            desk.permissions = Permissions::new(HELD[held].iter().copied());
            let (id, role) = (uuid(which as u128), &mut roles[which]);
            let before = role.clone();
            let name = ["One", "Two", "one", "Three"][held];
            let written = match what {
                0 => desk.execute(id, role, &create(name, ALLOWED[allowed])),
                1 => desk.execute(id, role, &change(ALLOWED[allowed])),
                2 => desk.execute(id, role, &rename(name)),
                _ => desk.execute(id, role, &DeleteRole),
            };
            if written.is_err() {
                prop_assert_eq!(&before, &*role);
            }
            let allowed_before = before.0.as_ref().map(|role| role.permissions.clone()).unwrap_or_default();
            let already = Permissions::new(allowed_before.iter().cloned());
            for pattern in role.0.iter().flat_map(|role| &role.permissions) {
                prop_assert!(already.covers(pattern) || desk.permissions.covers(pattern), "{} was given away", pattern);
                prop_assert!(THE_OWNERS.into_iter().all(|owners| pattern.grant(owners).is_none()));
            }
            let present = || roles.iter().enumerate().filter_map(|(n, role)| Some((n, role.0.as_ref().filter(|r| !r.deleted)?)));
            let names: std::collections::BTreeSet<_> = present().map(|(_, role)| role.name.as_str().to_lowercase()).collect();
            prop_assert_eq!(names.len(), present().count());
            for (n, role) in present() {
                let defined = definition(desk.organization, RoleId::from_uuid(uuid(n as u128)), &role.permissions);
                prop_assert!(desk.facts.contains(&defined));
            }
            prop_assert_eq!(desk.facts.len(), 2 * present().count());
        }
    }
}
