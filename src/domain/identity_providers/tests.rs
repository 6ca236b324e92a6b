#![allow(clippy::unwrap_used)]

use oriel_kernel::{Actor, Id};
use proptest::prelude::*;

use super::*;
use crate::roles::RoleId;
use crate::testing::{Desk, member, uuid};

fn changes() -> Changes {
    Changes {
        name: ProviderName::parse("Company account").ok(),
        client_id: ClientId::parse("oriel").ok(),
        redirect_uris: Some(vec![RedirectUri::parse("https://app.example.org/signed-in").unwrap()]),
        ..Changes::default()
    }
}

fn create(settings: Changes) -> CreateIdentityProvider {
    let issuer = Issuer::parse("https://id.example.org/realms/one").unwrap();
    CreateIdentityProvider { issuer, client_secret: Some(SealedSecret::new(b"sealed")), settings }
}

fn change(changes: Changes) -> ChangeIdentityProvider {
    ChangeIdentityProvider { client_secret: None, changes }
}

fn value(text: &str) -> ClaimValue {
    ClaimValue::parse(text).unwrap()
}

fn admin() -> Desk {
    let mut desk = Desk::new();
    desk.actor = Actor::Member(member(1));
    desk.permissions = Permissions::new(RoleName::Admin.patterns().iter().copied());
    desk
}

#[test]
fn nobody_has_a_provider_give_more_than_they_have() {
    let desk = &mut admin();
    let none = IdentityProvider::default();
    let mut refused = |role: AssignedRole| {
        let mapped = Changes { role_mappings: Some(vec![(value("x"), role.clone())]), ..changes() };
        let default = Changes { default_roles: Some(vec![role]), ..changes() };
        (desk.refused(uuid(7), &none, &create(mapped)), desk.refused(uuid(7), &none, &create(default)))
    };
    let owner = (ErrorCode::Invalid, ErrorCode::Invalid);
    let (mapped, default) = refused(RoleName::Owner.into());
    assert_eq!((mapped, default), ((owner.0, "roleMappings"), (owner.1, "defaultRoles")));
    let more = AssignedRole::Custom(Id::from_uuid(uuid(41)), vec![Pattern::parse("organization:manage").unwrap()]);
    assert_eq!(refused(more).0, (ErrorCode::Forbidden, "roleMappings"));
    let mut least = admin();
    least.permissions = Permissions::new(["providers:manage"]);
    let default = Changes { default_roles: Some(vec![RoleName::Viewer.into()]), ..changes() };
    assert_eq!(least.refused(uuid(7), &none, &create(default)), (ErrorCode::Forbidden, "defaultRoles"));
}

#[test]
fn a_role_that_changes_meanwhile_is_looked_at_again() {
    let mut desk = admin();
    let made = AssignedRole::Custom(RoleId::from_uuid(uuid(41)), vec![Pattern::parse("documents:view").unwrap()]);
    let mapped = Changes { role_mappings: Some(vec![(value("x"), made.clone())]), ..changes() };
    assert_eq!(
        desk.refused(uuid(7), &IdentityProvider::default(), &create(mapped.clone())),
        (ErrorCode::Conflict, "roleMappings")
    );
    desk.facts.insert(made.definition(desk.organization).unwrap().0);
    desk.done(uuid(7), &mut IdentityProvider::default(), &create(mapped));
}

#[test]
fn its_life() {
    let mut desk = admin();
    let mut provider = IdentityProvider::default();
    desk.done(uuid(7), &mut provider, &create(changes()));
    let usable_now = |desk: &Desk| desk.facts.contains(&usable(desk.organization, Id::from_uuid(uuid(7))));
    assert!(usable_now(&desk) && provider.usable().is_some());
    let taken = desk.refused(uuid(8), &IdentityProvider::default(), &create(changes()));
    assert_eq!(taken, (ErrorCode::Taken, "name"));
    assert_eq!(desk.done(uuid(7), &mut provider, &change(Changes::default())), []);
    let off = Changes { enabled: Some(false), ..Changes::default() };
    desk.done(uuid(7), &mut provider, &change(off));
    assert!(!usable_now(&desk) && provider.usable().is_none());
    let on = Changes { enabled: Some(true), name: ProviderName::parse("Other").ok(), ..Changes::default() };
    desk.done(uuid(7), &mut provider, &change(on));
    assert!(usable_now(&desk));
    let none = ChangeIdentityProvider { client_secret: Some(None), changes: Changes::default() };
    let events = desk.done(uuid(7), &mut provider, &none);
    assert_eq!(events, [IdentityProviderEvent::SecretChanged { client_secret: None }]);
    desk.done(uuid(7), &mut provider, &DeleteIdentityProvider);
    assert!(desk.facts.is_empty() && provider.usable().is_none(), "{:?}", desk.facts);
    assert_eq!(desk.refused(uuid(7), &provider, &DeleteIdentityProvider), (ErrorCode::NotFound, ""));
    assert_eq!(desk.refused(uuid(7), &provider, &change(changes())), (ErrorCode::NotFound, ""));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut desk = admin();
    let none = IdentityProvider::default();
    let mut refused = |settings: Changes| desk.refused(uuid(7), &none, &create(settings));
    assert_eq!(refused(Changes { name: None, ..changes() }), (ErrorCode::Required, "name"));
    assert_eq!(refused(Changes { redirect_uris: None, ..changes() }), (ErrorCode::Required, "redirectUris"));
    assert_eq!(refused(Changes { trusts_email: Some(true), ..changes() }), (ErrorCode::Invalid, "trustsEmail"));
    assert_eq!(refused(Changes { provisions: Some(true), ..changes() }), (ErrorCode::Invalid, "provisions"));
    let many = (0..21).map(|n| EmailDomain::parse(&format!("d{n}.example.org")).unwrap()).collect();
    assert_eq!(refused(Changes { email_domains: Some(many), ..changes() }), (ErrorCode::LimitExceeded, "emailDomains"));
    desk.grant = Grant::Own;
    assert_eq!(desk.refused(uuid(7), &none, &create(changes())), (ErrorCode::Forbidden, ""));
}

#[test]
fn addresses() {
    for good in ["https://id.example.org", "https://id.example.org/realms/one/", "http://127.0.0.1:4000"] {
        assert_eq!(Issuer::parse(good).unwrap().as_str(), good);
    }
    for bad in ["", "id.example.org", "http://id.example.org", "https://a:b@x.org", "https://x.org?a", "javascript:x"] {
        assert!(Issuer::parse(bad).is_err(), "{bad}");
    }
    for good in ["https://app.example.org/cb?x=1", "http://localhost:3000/cb", "org.example.app:/signed-in"] {
        assert_eq!(RedirectUri::parse(good).unwrap().as_str(), good);
    }
    for bad in
        ["http://app.example.org/cb", "https://x.org/#a", "javascript:alert(1)", "data:text/html,x", "/cb", "//x"]
    {
        assert!(RedirectUri::parse(bad).is_err(), "{bad}");
    }
    let domain = EmailDomain::parse("Example.ORG").unwrap();
    assert!(domain.has("ada@EXAMPLE.org"));
    for other in ["ada@evil-example.org", "ada@sub.example.org", "ada@example.org.evil.net", "example.org"] {
        assert!(!domain.has(other), "{other}");
    }
    assert!(EmailDomain::parse("org").is_err() && EmailDomain::parse("a@b.org").is_err());
    assert!(Scope::parse("email").is_ok() && Scope::parse("a b").is_err() && Scope::parse("a\"").is_err());
    assert!(!format!("{:?}", SealedSecret::new(b"sealed")).contains("c2VhbGVk"));
}

#[test]
fn a_provider_vouches_for_nobody_who_may_more_than_who_set_it_up() {
    let mut desk = admin();
    let mut provider = IdentityProvider::default();
    desk.done(uuid(7), &mut provider, &create(changes()));
    let vouches = |provider: &IdentityProvider, patterns: &[&str]| {
        provider.usable().unwrap().1.vouches_for(&Permissions::new(patterns.iter().copied()))
    };
    assert!(vouches(&provider, RoleName::Admin.patterns()) && vouches(&provider, &[]));
    assert!(!vouches(&provider, &["*"]) && !vouches(&provider, &["organization:manage"]));
    desk.permissions = Permissions::new(["*", "system:*"]);
    let renamed = Changes { name: ProviderName::parse("The owner's").ok(), ..Changes::default() };
    desk.done(uuid(7), &mut provider, &change(renamed));
    assert!(vouches(&provider, &["*"]) && !vouches(&provider, &["*", "system:*"]));
}

proptest! {
    #[test]
    fn roles_are_those_that_are_mapped_or_the_default_and_never_an_owners(
        claim in any::<bool>(),
        mapped in prop::collection::vec((0u8..5, 1usize..8), 0..6),
        default in prop::collection::vec(1usize..8, 0..3),
        said in prop::collection::vec(0u8..5, 0..4),
    ) {
        let role = |n: usize| AssignedRole::from(RoleName::ALL[n]);
        let mut desk = admin();
        let mut provider = IdentityProvider::default();
        let settings = Changes {
            roles_claim: Some(claim.then(|| ClaimName::parse("groups").unwrap())),
            role_mappings: Some(mapped.iter().map(|(n, r)| (value(&format!("g{n}")), role(*r))).collect()),
            default_roles: Some(default.iter().map(|n| role(*n)).collect()),
            ..changes()
        };
        desk.done(uuid(7), &mut provider, &create(settings));
        let (_, settings, _) = provider.usable().unwrap();
        let values: Vec<String> = said.iter().map(|n| format!("g{n}")).collect();
        let roles = settings.roles_of(&values);
        prop_assert_eq!(roles.is_some(), claim);
        for role in roles.iter().flatten() {
            prop_assert_ne!(*role, Role::from(RoleName::Owner));
            let by_value = mapped.iter().any(|(n, r)| said.contains(n) && Role::from(RoleName::ALL[*r]) == *role);
            prop_assert!(by_value || default.iter().any(|n| Role::from(RoleName::ALL[*n]) == *role));
        }
    }

    #[test]
    fn whatever_happens_the_facts_say_what_it_is_like(steps in prop::collection::vec((0u8..5, any::<bool>()), 0..40)) {
        let mut desk = admin();
        let mut provider = IdentityProvider::default();
        for (n, (what, flag)) in steps.into_iter().enumerate() {
            let named = Changes { name: ProviderName::parse(&format!("N{n}")).ok(), ..Changes::default() };
            let before = provider.clone();
            let written = match what {
                0 => desk.execute(uuid(7), &mut provider, &create(Changes { enabled: Some(flag), ..changes() })),
                1 => desk.execute(uuid(7), &mut provider, &change(Changes { enabled: Some(flag), ..named })),
                2 => desk.execute(uuid(7), &mut provider, &change(named)),
                3 => desk.execute(uuid(7), &mut provider, &change(Changes::default())),
                _ if flag => desk.execute(uuid(7), &mut provider, &DeleteIdentityProvider),
                _ => continue,
            };
            if written.is_err() {
                prop_assert_eq!(&before, &provider);
            }
            let (there, on) = (provider.present().is_ok(), provider.usable().is_some());
            prop_assert_eq!(desk.facts.len(), usize::from(there) + usize::from(on));
        }
    }
}
