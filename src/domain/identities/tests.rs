#![allow(clippy::unwrap_used)]

use oriel_kernel::{Id, Pattern};
use proptest::prelude::*;

use super::*;
use crate::identity_providers::{EmailDomain, usable};
use crate::testing::{Desk, TestBlinder, member, user, uuid};

const PROVIDER: u128 = 0x51;

fn link(desk: &Desk, who: u128, subject: &str) -> LinkIdentity {
    LinkIdentity {
        organization: desk.organization,
        provider: Id::from_uuid(uuid(PROVIDER)),
        user: user(who),
        member: member(who),
        subject: subject.to_owned(),
        email: Some("ada@example.org".to_owned()),
    }
}

/// The provider signs people in, and members 1 and 2 are active.
fn desk() -> Desk {
    let mut desk = Desk::new();
    desk.facts.insert(usable(desk.organization, Id::from_uuid(uuid(PROVIDER))));
    let organization = desk.organization;
    desk.facts.extend((1..=2).map(|n| members::active(organization, member(n))));
    desk
}

#[test]
fn a_name_is_one_persons_and_a_person_has_one() {
    let mut desk = desk();
    let mut identity = Identity::default();
    let command = link(&desk, 1, "248289761001");
    let events = desk.done(uuid(7), &mut identity, &command);
    let IdentityEvent::Linked { subject_hash: hash, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!(*hash, subject_hash(Id::from_uuid(uuid(PROVIDER)), "248289761001", &TestBlinder));
    let none = Identity::default();
    let (theirs, another) = (link(&desk, 2, "248289761001"), link(&desk, 1, "another"));
    assert_eq!(desk.refused(uuid(8), &none, &theirs), (ErrorCode::Taken, ""));
    assert_eq!(desk.refused(uuid(8), &none, &another), (ErrorCode::Taken, ""));
    assert_eq!(desk.refused(uuid(7), &identity, &command), (ErrorCode::Conflict, ""), "a state is good once");
    assert_eq!(desk.refused(uuid(7), &identity, &UnlinkIdentity { by: Some(user(2)) }), (ErrorCode::NotFound, ""));
    desk.done(uuid(7), &mut identity, &UnlinkIdentity { by: Some(user(1)) });
    assert_eq!(desk.done(uuid(7), &mut identity, &UnlinkIdentity { by: None }), []);
    assert_eq!(desk.refused(uuid(7), &identity, &command), (ErrorCode::Conflict, ""), "nor after it was unlinked");
    desk.done(uuid(8), &mut Identity::default(), &theirs);
}

#[test]
fn nothing_is_linked_to_a_provider_or_a_member_that_is_gone() {
    let mut desk = desk();
    let nobody = link(&desk, 3, "x");
    assert_eq!(desk.refused(uuid(7), &Identity::default(), &nobody), (ErrorCode::Forbidden, ""));
    let command = link(&desk, 1, "x");
    desk.facts.remove(&usable(desk.organization, Id::from_uuid(uuid(PROVIDER))));
    assert_eq!(desk.refused(uuid(7), &Identity::default(), &command), (ErrorCode::Conflict, ""));
}

fn provider(domains: &[&str], trusts_email: bool, provisions: bool) -> Settings {
    serde_json::from_value(serde_json::json!({
        "name": "Company account", "client_id": "oriel", "scopes": ["openid"], "redirect_uris": ["https://app.example.org"],
        "enabled": true, "role_mappings": [], "default_roles": ["member"], "provisions": provisions,
        "email_domains": domains.iter().map(|d| EmailDomain::parse(d).unwrap()).collect::<Vec<_>>(),
        "trusts_email": trusts_email, "ceiling": [Pattern::parse("documents:*").unwrap()],
    }))
    .unwrap()
}

fn known(n: u8) -> Known {
    match n {
        0 => Known::Linked,
        1 => Known::Member(Permissions::new(["documents:view"])),
        2 => Known::Member(Permissions::new(["*"])),
        3 => Known::Stranger,
        _ => Known::Nobody,
    }
}

proptest! {
    /// The rules against taking over an account, one by one.
    #[test]
    fn whom_a_provider_lets_in(
        (trusts, provisions, verified) in any::<(bool, bool, bool)>(),
        email in prop::option::of(prop::sample::select(vec!["ada@example.org", "ada@evil.org", "ada@sub.example.org"])),
        domains in prop::sample::subsequence(vec!["example.org", "other.org"], 0..=2),
        who in 0u8..5,
    ) {
        let settings = provider(&domains, trusts, provisions);
        let asserted = Asserted { email: email.map(|email| Email::parse(email).unwrap()), email_verified: verified };
        let admitted = admit(&settings, &asserted, &known(who));
        if let Err(rejection) = &admitted {
            prop_assert_eq!(rejection.code, ErrorCode::Forbidden);
        }
        let within = email.is_some_and(|email| domains.iter().any(|domain| email.ends_with(&format!("@{domain}"))));
        if !domains.is_empty() {
            prop_assert!(admitted.is_err() || (within && verified), "only verified addresses of these domains");
        }
        match admitted {
            Ok(Admission::SignIn) => prop_assert_eq!(who, 0),
            Ok(Admission::Link) => {
                prop_assert_eq!(who, 1, "not who may more than who set it up, nor who is no member");
                prop_assert!(trusts && verified && email.is_some());
            }
            Ok(Admission::Join) => prop_assert!(who == 4 && provisions && verified && email.is_some()),
            // Who could sign in otherwise learns nothing from the refusal.
            Err(rejection) if who > 0 && (domains.is_empty() || (within && verified)) => {
                let stranger = admit(&provider(&domains, false, false), &asserted, &Known::Stranger).unwrap_err();
                prop_assert_eq!(rejection, stranger);
            }
            Err(_) => prop_assert!(who > 0 || !domains.is_empty()),
        }
    }
}
