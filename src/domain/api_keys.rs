//! API keys: what programs act with, on behalf of the member who made them.
//!
//! Invariants: a key is made, and given a new secret, by a person for themselves and by nobody else; a key makes no
//! keys. It is given nothing that its maker does not have at that moment, and what it has later is what both its
//! scopes and its owner have then. Its scopes are never widened. Of a secret only the SHA-256 is kept. After a rotation the old secret is good for a
//! bounded time, and never more than one old secret is. A revoked key stays so.
//!
//! Nothing here knows what a secret looks like, nor who is asked for one.

use std::time::Duration;

use oriel_kernel::{
    Actor, Aggregate, Command, Decision, ErrorCode, Event, Given, Grant, MemberId, OrganizationId, Outcome, Pattern,
    Permissions, Rejection, Timestamp, bounded_text, ids,
};

use crate::members;
use crate::persisted_operations::OperationsMode;

ids! {
    /// An API key.
    ApiKeyId = "key",
}

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to an API key.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "api_key")]
pub enum ApiKeyEvent {
    /// Was made.
    #[event("api_key_created")]
    Created {
        /// Where.
        organization: OrganizationId,
        /// On whose behalf it acts.
        owner: MemberId,
        /// What people call it.
        name: ApiKeyName,
        /// What it may do, as far as its owner may.
        scopes: Vec<Pattern>,
        /// The SHA-256 of its secret, in hexadecimal digits.
        secret_hash: String,
        /// The end of its secret, by which people know it again.
        hint: String,
        /// When it ends by itself.
        expires_at: Option<Timestamp>,
        /// Which documents it may have executed, where that is stricter than what holds for all.
        operations: Option<OperationsMode>,
        /// How much cost it may cause in a minute, where that is less than what holds for all.
        rate_limit: Option<u32>,
    },
    /// Has another secret.
    #[event("api_key_rotated")]
    Rotated {
        /// The SHA-256 of the new one, in hexadecimal digits.
        secret_hash: String,
        /// Its end.
        hint: String,
        /// Until when the one before is good.
        previous_until: Timestamp,
    },
    /// Is called otherwise, may do less, or ends at another time.
    #[event("api_key_changed")]
    Changed {
        /// What people call it now.
        name: ApiKeyName,
        /// What it may do now, as far as its owner may.
        scopes: Vec<Pattern>,
        /// When it ends by itself.
        expires_at: Option<Timestamp>,
    },
    /// Is good for nothing any more.
    #[event("api_key_revoked")]
    Revoked,
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What people call a key.
    ApiKeyName: 1..=120,
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a key's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiKey(Option<Present>);

#[derive(Clone, Debug, PartialEq)]
struct Present {
    organization: OrganizationId,
    owner: MemberId,
    name: ApiKeyName,
    scopes: Vec<Pattern>,
    secret_hash: String,
    expires_at: Option<Timestamp>,
    revoked: bool,
}

impl Aggregate for ApiKey {
    type Kind = kinds::ApiKeyId;
    type Event = ApiKeyEvent;
    const NOUN: &'static str = "API key";

    fn evolve(&mut self, event: &ApiKeyEvent) {
        match event {
            ApiKeyEvent::Created { organization, owner, name, scopes, secret_hash, expires_at, .. } => {
                self.0 = Some(Present {
                    organization: *organization,
                    owner: *owner,
                    name: name.clone(),
                    scopes: scopes.clone(),
                    secret_hash: secret_hash.clone(),
                    expires_at: *expires_at,
                    revoked: false,
                });
            }
            ApiKeyEvent::Rotated { secret_hash, hint: _, previous_until: _ } => {
                if let Some(key) = &mut self.0 {
                    key.secret_hash.clone_from(secret_hash);
                }
            }
            ApiKeyEvent::Changed { name, scopes, expires_at } => {
                if let Some(key) = &mut self.0 {
                    (key.name, key.scopes, key.expires_at) = (name.clone(), scopes.clone(), *expires_at);
                }
            }
            ApiKeyEvent::Revoked => {
                if let Some(key) = &mut self.0 {
                    key.revoked = true;
                }
            }
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.0.as_ref().map(|key| key.organization)
    }
}

impl ApiKey {
    /// The most scopes of one.
    pub const MAX_SCOPES: usize = 50;
    /// How far ahead a key may end by itself.
    pub const LONGEST_LIFE: Duration = Duration::from_secs(3_660 * 24 * 3_600);
    /// How long an old secret may be good beside the new one.
    pub const LONGEST_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3_600);

    fn present(&self) -> Result<&Present, Rejection> {
        self.0.as_ref().ok_or_else(|| Rejection::not_found(Self::NOUN))
    }
}

impl Present {
    /// Refuses to change what is good for nothing any more.
    fn must_be_good(&self, given: &Given<'_>) -> Result<(), Rejection> {
        if self.revoked {
            return Err(Rejection::conflict("This key was revoked. Make another one."));
        }
        if self.expires_at.is_some_and(|end| end <= given.now) {
            return Err(Rejection::new(ErrorCode::Expired, "This key has ended. Make another one."));
        }
        Ok(())
    }
}

/// The member who asks in person.
fn in_person(given: &Given<'_>) -> Result<MemberId, Rejection> {
    match given.actor {
        Actor::Member(member) => Ok(member),
        Actor::ApiKey(_) | Actor::User(_) | Actor::System | Actor::Anonymous => {
            let message = "Only a person who is signed in gives out secrets of keys, and only of their own.";
            Err(Rejection::new(ErrorCode::Forbidden, message))
        }
    }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Makes a key of the actor's own, in the organisation in which they act.
pub struct CreateApiKey {
    /// What people call it.
    pub name: ApiKeyName,
    /// What it may do.
    pub scopes: Vec<Pattern>,
    /// The SHA-256 of its secret, in hexadecimal digits.
    pub secret_hash: String,
    /// The end of its secret.
    pub hint: String,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// Which documents it may have executed.
    pub operations: Option<OperationsMode>,
    /// How much cost it may cause in a minute.
    pub rate_limit: Option<u32>,
}

impl Command for CreateApiKey {
    type Aggregate = ApiKey;
    const CREATES: bool = true;

    fn decide(&self, key: &ApiKey, given: &Given<'_>) -> Decision<ApiKeyEvent> {
        crate::must_be_new(key)?;
        let owner = in_person(given)?;
        let scopes = normal(&self.scopes)?;
        if let Some(scope) = scopes.iter().find(|scope| !given.permissions.covers(scope)) {
            let message = format!("You do not have `{scope}` yourself, and a key never has more than who made it.");
            return Err(Rejection::new(ErrorCode::Forbidden, message).at("scopes"));
        }
        may_end(self.expires_at, given)?;
        if self.rate_limit == Some(0) {
            return Err(Rejection::new(ErrorCode::Invalid, "A limit of 0 allows nothing.").at("rateLimit"));
        }
        let gone = Rejection::new(ErrorCode::Forbidden, "You are not an active member of this organization any more.");
        Ok(Outcome::events([ApiKeyEvent::Created {
            organization: given.organization,
            owner,
            name: self.name.clone(),
            scopes,
            secret_hash: self.secret_hash.clone(),
            hint: self.hint.clone(),
            expires_at: self.expires_at,
            operations: self.operations,
            rate_limit: self.rate_limit,
        }])
        .require(members::active(given.organization, owner), gone))
    }
}

/// The permissions, sorted, each once.
fn normal(scopes: &[Pattern]) -> Result<Vec<Pattern>, Rejection> {
    let mut scopes = scopes.to_vec();
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Rejection::new(ErrorCode::Required, "Name at least one permission.").at("scopes"));
    }
    if scopes.len() > ApiKey::MAX_SCOPES {
        let message = format!("At most {} permissions; these are {}.", ApiKey::MAX_SCOPES, scopes.len());
        return Err(Rejection::new(ErrorCode::LimitExceeded, message).at("scopes"));
    }
    Ok(scopes)
}

fn may_end(end: Option<Timestamp>, given: &Given<'_>) -> Result<(), Rejection> {
    if end.is_none_or(|end| given.now < end && end <= given.now + ApiKey::LONGEST_LIFE) {
        return Ok(());
    }
    let message = "A key ends in the future, within ten years; without an end it is good until it is revoked.";
    Err(Rejection::new(ErrorCode::Invalid, message).at("expiresAt"))
}

/// Calls a key otherwise, takes permissions from it, or has it end at another time. It is never given more: only its owner
/// lets it go on for longer.
pub struct UpdateApiKey {
    /// What people call it; left as it is when there is none.
    pub name: Option<ApiKeyName>,
    /// What it may do, of what it may now; left as it is when there is none.
    pub scopes: Option<Vec<Pattern>>,
    /// When it ends by itself, if ever; left as it is when there is none.
    pub expires_at: Option<Option<Timestamp>>,
}

impl Command for UpdateApiKey {
    type Aggregate = ApiKey;

    fn decide(&self, key: &ApiKey, given: &Given<'_>) -> Decision<ApiKeyEvent> {
        let key = key.present()?;
        if given.grant == Grant::Own && !given.is(key.owner) {
            return Err(crate::not_yours(ApiKey::NOUN));
        }
        key.must_be_good(given)?;
        let scopes = match &self.scopes {
            Some(scopes) => normal(scopes)?,
            None => key.scopes.clone(),
        };
        let has = Permissions::new(key.scopes.iter().map(ToString::to_string));
        if let Some(scope) = scopes.iter().find(|scope| !has.covers(scope)) {
            let message = format!("This key does not have `{scope}`, and is given nothing more. Make another one.");
            return Err(Rejection::new(ErrorCode::Forbidden, message).at("scopes"));
        }
        let expires_at = self.expires_at.unwrap_or(key.expires_at);
        if expires_at != key.expires_at {
            may_end(expires_at, given)?;
            let never = Timestamp::MAX_UTC;
            let longer = expires_at.unwrap_or(never) > key.expires_at.unwrap_or(never);
            if longer && given.actor != Actor::Member(key.owner) {
                let message = "Only who made a key, in person, lets it go on for longer.";
                return Err(Rejection::new(ErrorCode::Forbidden, message).at("expiresAt"));
            }
        }
        let name = self.name.clone().unwrap_or_else(|| key.name.clone());
        if (&name, &scopes, expires_at) == (&key.name, &key.scopes, key.expires_at) {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([ApiKeyEvent::Changed { name, scopes, expires_at }]))
    }
}

/// Gives a key another secret.
pub struct RotateApiKey {
    /// The SHA-256 of the new one, in hexadecimal digits.
    pub secret_hash: String,
    /// Its end.
    pub hint: String,
    /// How long the one before is good beside it.
    pub overlap: Duration,
}

impl Command for RotateApiKey {
    type Aggregate = ApiKey;

    fn decide(&self, key: &ApiKey, given: &Given<'_>) -> Decision<ApiKeyEvent> {
        let key = key.present()?;
        // Whoever gets the secret gets what its owner may.
        if in_person(given)? != key.owner {
            return Err(Rejection::new(ErrorCode::Forbidden, "Only who made a key gives it another secret."));
        }
        key.must_be_good(given)?;
        if self.overlap > ApiKey::LONGEST_OVERLAP {
            let message = format!("At most {} seconds, which are 7 days.", ApiKey::LONGEST_OVERLAP.as_secs());
            return Err(Rejection::new(ErrorCode::Invalid, message).at("overlapSeconds"));
        }
        if key.secret_hash == self.secret_hash {
            return Err(Rejection::conflict("The next secret has to be a new one."));
        }
        Ok(Outcome::events([ApiKeyEvent::Rotated {
            secret_hash: self.secret_hash.clone(),
            hint: self.hint.clone(),
            previous_until: given.now + self.overlap,
        }]))
    }
}

/// Ends a key.
pub struct RevokeApiKey;

impl Command for RevokeApiKey {
    type Aggregate = ApiKey;

    fn decide(&self, key: &ApiKey, given: &Given<'_>) -> Decision<ApiKeyEvent> {
        let key = key.present()?;
        if given.grant == Grant::Own && !given.is(key.owner) {
            return Err(crate::not_yours(ApiKey::NOUN));
        }
        if key.revoked {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([ApiKeyEvent::Revoked]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::Permissions;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, at, member, uuid};

    /// Members 1 and 2 are active; 1 acts.
    fn desk() -> Desk {
        let mut desk = Desk::new();
        for n in 1..=2 {
            desk.facts.insert(members::active(desk.organization, member(n)));
        }
        desk.actor = Actor::Member(member(1));
        desk
    }

    fn create(scopes: &[&str]) -> CreateApiKey {
        CreateApiKey {
            name: ApiKeyName::parse("Nightly build").unwrap(),
            scopes: scopes.iter().map(|scope| Pattern::parse(scope).unwrap()).collect(),
            secret_hash: "h0".to_owned(),
            hint: "wxyz".to_owned(),
            expires_at: None,
            operations: None,
            rate_limit: None,
        }
    }

    fn rotate(hash: &str, overlap: u64) -> RotateApiKey {
        RotateApiKey { secret_hash: hash.to_owned(), hint: "abcd".to_owned(), overlap: Duration::from_secs(overlap) }
    }

    fn change(scopes: Option<&[&str]>, expires_at: Option<Option<Timestamp>>) -> UpdateApiKey {
        let scopes = scopes.map(|scopes| scopes.iter().map(|scope| Pattern::parse(scope).unwrap()).collect());
        UpdateApiKey { name: None, scopes, expires_at }
    }

    #[test]
    fn a_key_is_changed_to_less_and_to_no_more() {
        let (mut desk, mut key) = (desk(), ApiKey::default());
        desk.done(uuid(7), &mut key, &create(&["documents:*", "members:view"]));
        for more in ["*", "projects:view", "members:*", "*:view"] {
            let refused = desk.refused(uuid(7), &key, &change(Some(&[more]), None));
            assert_eq!(refused, (ErrorCode::Forbidden, "scopes"), "{more}");
        }
        assert_eq!(desk.refused(uuid(7), &key, &change(Some(&[]), None)), (ErrorCode::Required, "scopes"));
        desk.done(uuid(7), &mut key, &change(Some(&["documents:view", "documents:view"]), None));
        assert_eq!(
            desk.refused(uuid(7), &key, &change(Some(&["members:view"]), None)),
            (ErrorCode::Forbidden, "scopes")
        );
        assert_eq!(desk.done(uuid(7), &mut key, &change(Some(&["documents:view"]), None)), []);
        let name = ApiKeyName::parse("Another").unwrap();
        let rename = UpdateApiKey { name: Some(name), ..change(None, None) };
        assert_eq!(desk.done(uuid(7), &mut key, &rename).len(), 1);

        // Anybody who may edit keys lets one end sooner; for longer only its owner in person.
        let end = |second| change(None, Some(second));
        assert_eq!(desk.refused(uuid(7), &key, &end(Some(at(0)))), (ErrorCode::Invalid, "expiresAt"));
        desk.actor = Actor::Member(member(2));
        desk.done(uuid(7), &mut key, &end(Some(at(100))));
        for longer in [Some(at(101)), None] {
            assert_eq!(desk.refused(uuid(7), &key, &end(longer)), (ErrorCode::Forbidden, "expiresAt"));
        }
        (desk.actor, desk.owner) = (Actor::ApiKey(uuid(7)), Some(member(1)));
        assert_eq!(desk.refused(uuid(7), &key, &end(None)), (ErrorCode::Forbidden, "expiresAt"));
        (desk.actor, desk.owner, desk.grant) = (Actor::Member(member(2)), None, Grant::Own);
        assert_eq!(desk.refused(uuid(7), &key, &end(Some(at(50)))), (ErrorCode::Forbidden, ""));
        desk.actor = Actor::Member(member(1));
        desk.done(uuid(7), &mut key, &end(None));
        desk.done(uuid(7), &mut key, &end(Some(at(10))));
        desk.now = at(10);
        assert_eq!(desk.refused(uuid(7), &key, &end(None)), (ErrorCode::Expired, ""));
    }

    #[test]
    fn a_key_is_given_nothing_that_its_maker_does_not_have() {
        let mut desk = desk();
        desk.permissions = Permissions::new(["documents:*", "projects:view:own"]);
        let none = ApiKey::default();
        let forbidden = (ErrorCode::Forbidden, "scopes");
        for more in
            ["*", "documents:*:own", "projects:view", "projects:*:own", "members:view", "system:manage", "*:view"]
        {
            let refused = desk.execute(uuid(7), &mut none.clone(), &create(&[more])).map_err(|r| (r.code, r.field));
            // What is one's own is within what is all.
            let expected = if more == "documents:*:own" { None } else { Some(forbidden) };
            assert_eq!(refused.err(), expected, "{more}");
        }
        desk.permissions = Permissions::new(["*"]);
        assert_eq!(desk.refused(uuid(7), &none, &create(&["system:manage"])), forbidden);
        assert_eq!(desk.refused(uuid(7), &none, &create(&[])), (ErrorCode::Required, "scopes"));
        let events =
            desk.done(uuid(7), &mut ApiKey::default(), &create(&["search:view", "documents:view", "search:view"]));
        let ApiKeyEvent::Created { scopes, owner, .. } = &events[0] else { panic!("{events:?}") };
        let scopes: Vec<_> = scopes.iter().map(Pattern::as_str).collect();
        assert_eq!((scopes, *owner), (vec!["documents:view", "search:view"], member(1)));
    }

    #[test]
    fn only_a_person_makes_keys_and_gives_them_secrets() {
        let (mut desk, mut key) = (desk(), ApiKey::default());
        desk.done(uuid(7), &mut key, &create(&["*"]));
        desk.owner = Some(member(1));
        for actor in [Actor::ApiKey(uuid(7)), Actor::System, Actor::Anonymous] {
            desk.actor = actor;
            let forbidden = (ErrorCode::Forbidden, "");
            assert_eq!(desk.refused(uuid(8), &ApiKey::default(), &create(&["*"])), forbidden);
            assert_eq!(desk.refused(uuid(7), &key, &rotate("h1", 0)), forbidden);
        }
        // Whoever may do everything does not get what is somebody else's.
        desk.actor = Actor::Member(member(2));
        assert_eq!(desk.refused(uuid(7), &key, &rotate("h1", 0)), (ErrorCode::Forbidden, ""));
        desk.actor = Actor::Member(member(3));
        assert_eq!(desk.refused(uuid(8), &ApiKey::default(), &create(&["*"])), (ErrorCode::Forbidden, ""));
    }

    #[test]
    fn a_key_ends_in_the_future_and_has_room_for_something() {
        let mut desk = desk();
        for end in [at(-1), at(0), at(0) + 2 * ApiKey::LONGEST_LIFE] {
            let command = CreateApiKey { expires_at: Some(end), ..create(&["*"]) };
            assert_eq!(desk.refused(uuid(7), &ApiKey::default(), &command), (ErrorCode::Invalid, "expiresAt"));
        }
        let command = CreateApiKey { rate_limit: Some(0), ..create(&["*"]) };
        assert_eq!(desk.refused(uuid(7), &ApiKey::default(), &command), (ErrorCode::Invalid, "rateLimit"));
        let mut key = ApiKey::default();
        desk.done(uuid(7), &mut key, &CreateApiKey { expires_at: Some(at(60)), ..create(&["*"]) });
        desk.now = at(59);
        desk.done(uuid(7), &mut key, &rotate("h1", 3_600));
        desk.now = at(60);
        assert_eq!(desk.refused(uuid(7), &key, &rotate("h2", 0)), (ErrorCode::Expired, ""));
    }

    #[test]
    fn whoever_may_end_only_their_own_keys_ends_those() {
        let (mut desk, mut key) = (desk(), ApiKey::default());
        desk.done(uuid(7), &mut key, &create(&["*"]));
        desk.grant = Grant::Own;
        desk.actor = Actor::Member(member(2));
        assert_eq!(desk.refused(uuid(7), &key, &RevokeApiKey), (ErrorCode::Forbidden, ""));
        (desk.actor, desk.owner) = (Actor::ApiKey(uuid(7)), Some(member(1)));
        assert_eq!(desk.done(uuid(7), &mut key, &RevokeApiKey), [ApiKeyEvent::Revoked]);
        assert_eq!(desk.done(uuid(7), &mut key, &RevokeApiKey), []);
        desk.actor = Actor::Member(member(1));
        assert_eq!(desk.refused(uuid(7), &key, &rotate("h1", 0)), (ErrorCode::Conflict, ""));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_head_of_this_file_holds(
            steps in prop::collection::vec((0u8..4, 0u8..5, 0u64..1_000_000, any::<bool>()), 0..40),
        ) {
            let (mut desk, mut key) = (desk(), ApiKey::default());
            for (what, who, number, own) in steps {
                desk.grant = if own { Grant::Own } else { Grant::All };
                desk.now += Duration::from_secs(number % 100);
                (desk.actor, desk.owner) = match who {
                    0 | 1 => (Actor::Member(member(1)), None),
                    2 => (Actor::Member(member(2)), None),
                    3 => (Actor::ApiKey(uuid(7)), Some(member(1))),
                    _ => (Actor::System, None),
                };
                desk.permissions = Permissions::new(["documents:*"]);
                let before = key.clone();
                let written = match what {
                    0 => desk.execute(uuid(7), &mut key, &create(&[["documents:view", "members:view"][usize::from(own)]])),
                    1 => desk.execute(uuid(7), &mut key, &RevokeApiKey),
                    2 => {
                        let end = at(i64::try_from(number % 5_000).unwrap());
                        let scopes = ["documents:view", "documents:view:own", "members:view"];
                        let change = change(Some(&[scopes[usize::from(who) % 3]]), (number % 3 > 0).then_some(Some(end)));
                        desk.execute(uuid(7), &mut key, &change)
                    }
                    _ => desk.execute(uuid(7), &mut key, &rotate(&format!("h{}", number % 9), number)),
                };
                let Ok(events) = written else {
                    prop_assert_eq!(&before, &key);
                    continue;
                };
                for event in events {
                    match event {
                        ApiKeyEvent::Created { owner, scopes, .. } => {
                            prop_assert_eq!(&before, &ApiKey::default());
                            prop_assert!(desk.actor == Actor::Member(owner) && desk.permissions.covers(&scopes[0]));
                        }
                        ApiKeyEvent::Rotated { previous_until, .. } => {
                            prop_assert!(desk.actor == Actor::Member(member(1)) || desk.actor == Actor::Member(member(2)));
                            prop_assert_eq!(desk.actor, Actor::Member(before.0.as_ref().unwrap().owner));
                            prop_assert!(!before.0.as_ref().unwrap().revoked);
                            prop_assert!(previous_until >= desk.now && previous_until <= desk.now + ApiKey::LONGEST_OVERLAP);
                        }
                        ApiKeyEvent::Changed { scopes, expires_at, .. } => {
                            let old = before.0.as_ref().unwrap();
                            let had = Permissions::new(old.scopes.iter().map(ToString::to_string));
                            prop_assert!(!old.revoked && scopes.iter().all(|scope| had.covers(scope)));
                            let never = Timestamp::MAX_UTC;
                            let longer = expires_at.unwrap_or(never) > old.expires_at.unwrap_or(never);
                            prop_assert!(!longer || desk.actor == Actor::Member(old.owner));
                        }
                        ApiKeyEvent::Revoked => {
                            prop_assert!(!own || desk.actor != Actor::System);
                            prop_assert!(key.0.as_ref().unwrap().revoked);
                        }
                    }
                }
                // Once revoked, always revoked.
                let is_revoked = |key: &ApiKey| key.0.as_ref().is_some_and(|key| key.revoked);
                prop_assert!(!is_revoked(&before) || is_revoked(&key));
            }
        }
    }
}
