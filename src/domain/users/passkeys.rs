//! Passkeys: keys of a person that sign them in, kept by their devices (Web Authentication).
//!
//! Invariants: a passkey signs in alone, because its authenticator made sure that it was its person; after a password it
//! is the second factor. A challenge is answered once: those that were are remembered until they end. A passkey that
//! counts and did not count on may have been copied: it is refused, and that is written. A passkey is of one person. Who
//! has a first second factor is given recovery codes. Ids, keys and names are `Personal`; facts hold keyed hashes.
//!
//! Nothing here is random, and nothing knows what a browser says: see `webauthn.rs`.

use chrono::TimeDelta;
use oriel_kernel::{
    Blinder, Command, Decision, ErrorCode, Fact, Given, Outcome, Personal, Rejection, Timestamp, UserId, bounded_text,
    ids,
};

use super::second_factor::{RecoveryCode, SecondFactor, hashes};
use super::webauthn::{Assertion, Challenge, NewCredential};
use super::{User, UserEvent};

ids! {
    /// A passkey.
    PasskeyId = "pky",
}

bounded_text! {
    /// What a person calls a passkey.
    PasskeyName: 1..=60,
}

/// What tickets with a challenge to register a passkey are signed for.
pub const REGISTRATION: &str = "passkey_registration";
/// What tickets with a challenge to sign in are signed for.
pub const LOGIN: &str = "passkey_login";
/// How long a challenge waits for its answer.
pub const CHALLENGE_LIFE: TimeDelta = TimeDelta::minutes(5);

/// What decides about a passkey.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Passkey {
    id: PasskeyId,
    credential: Personal<String>,
    credential_hash: String,
    public_key: Personal<String>,
    counter: u32,
    transports: Vec<String>,
}

/// A challenge, and until when it could be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What had to be signed.
    pub challenge: Challenge,
    /// When it ends.
    pub ends_at: Timestamp,
}

/// Whose passkey it is, as authenticators are told: tells nothing about them, and is the same for all that they have.
pub fn handle(user: UserId, blinder: &dyn Blinder) -> String {
    blinder.blind("passkey_handle", &user.to_string())
}

/// That a passkey is somebody's.
fn passkey_fact(credential_hash: &str) -> Fact {
    Fact { scope: "user_passkey".to_owned(), value: credential_hash.to_owned() }
}

fn wrong() -> Rejection {
    let message = "This passkey is not known here any more, or was not used as it should. Sign in in another way, and \
                   register it anew.";
    Rejection::new(ErrorCode::InvalidCredentials, message).at("credential")
}

fn unverified() -> Rejection {
    let message = "The authenticator did not make sure that it was you. Unlock it by its PIN, a finger or a face: ask \
                   with the options as they were given (`userVerification: required`).";
    Rejection::new(ErrorCode::InvalidCredentials, message).at("credential")
}

impl SecondFactor {
    /// Refuses a challenge that was answered before.
    fn is_new(&self, asked: &Asked) -> Result<(), Rejection> {
        if self.answered.iter().any(|(answered, _)| answered == asked.challenge.as_str()) {
            return Err(wrong());
        }
        // Those that had ended when this one was asked do not count.
        let asked_at = asked.ends_at - CHALLENGE_LIFE;
        if self.answered.iter().filter(|(_, ends_at)| *ends_at > asked_at).count() >= User::MOST_ANSWERS {
            let message = "This account was used too often in a short time. Wait five minutes.";
            return Err(Rejection::new(ErrorCode::LimitExceeded, message));
        }
        Ok(())
    }

    /// What was asked before the end of what was answered last can be forgotten: it has ended.
    fn has_answered(&mut self, challenge: &str, ends_at: Timestamp) {
        let asked_at = ends_at - CHALLENGE_LIFE;
        self.answered.retain(|(_, ends_at)| *ends_at > asked_at);
        self.answered.push((challenge.to_owned(), ends_at));
    }

    fn passkey(&self, id: PasskeyId) -> Result<&Passkey, Rejection> {
        self.passkeys.iter().find(|passkey| passkey.id == id).ok_or_else(|| Rejection::not_found("passkey"))
    }

    /// The facts that all passkeys claim.
    pub(super) fn facts(&self) -> impl Iterator<Item = Fact> {
        self.passkeys.iter().map(|passkey| passkey_fact(&passkey.credential_hash))
    }

    pub(super) fn evolve_passkeys(&mut self, event: &UserEvent) {
        match event {
            UserEvent::PasskeyRegistered {
                passkey,
                credential,
                credential_hash,
                public_key,
                counter,
                transports,
                challenge,
                ends_at,
                recovery_hashes,
                handle: _,
                name: _,
                backed_up: _,
            } => {
                self.has_answered(challenge, *ends_at);
                self.passkeys.push(Passkey {
                    id: *passkey,
                    credential: credential.clone(),
                    credential_hash: credential_hash.clone(),
                    public_key: public_key.clone(),
                    counter: *counter,
                    transports: transports.clone(),
                });
                if !recovery_hashes.is_empty() {
                    self.recovery.clone_from(recovery_hashes);
                }
            }
            UserEvent::PasskeyUsed { passkey, counter, challenge, ends_at, backed_up: _ } => {
                self.has_answered(challenge, *ends_at);
                if let Some(passkey) = self.passkeys.iter_mut().find(|known| known.id == *passkey) {
                    passkey.counter = *counter;
                }
            }
            UserEvent::PasskeyCloneSuspected { challenge, ends_at, .. } => self.has_answered(challenge, *ends_at),
            UserEvent::PasskeyRemoved { passkey } => {
                self.passkeys.retain(|known| known.id != *passkey);
                self.forget_recovery_codes_of_nothing();
            }
            _ => {}
        }
    }
}

impl User {
    /// The most passkeys of one person.
    pub const MOST_PASSKEYS: usize = 20;
    /// How many challenges are answered in five minutes at most.
    pub const MOST_ANSWERS: usize = 200;

    /// Ids of the passkeys, as authenticators know them, and how each is reached.
    pub fn passkeys(&self) -> impl Iterator<Item = (&str, &[String])> {
        let passkeys = self.factor.passkeys.iter();
        passkeys.filter_map(|passkey| Some((passkey.credential.get()?.as_str(), passkey.transports.as_slice())))
    }

    /// The passkey that has signed this, of this user, and whether its counter went on.
    fn signed(&self, of: UserId, answer: &Answer, blinder: &dyn Blinder) -> Result<(&Passkey, bool), Rejection> {
        let Answer { assertion, asked } = answer;
        let known = |passkey: &&Passkey| passkey.credential.get() == Some(&assertion.credential);
        let passkey = self.factor.passkeys.iter().find(known).ok_or_else(wrong)?;
        let theirs = assertion.handle.as_ref().is_none_or(|said| *said == handle(of, blinder));
        let signed = passkey.public_key.get().is_some_and(|key| assertion.is_signed_by(key));
        if !theirs || !signed {
            return Err(wrong());
        }
        if !assertion.verified {
            return Err(unverified());
        }
        self.factor.is_new(asked)?;
        let counts = passkey.counter > 0 || assertion.counter > 0;
        Ok((passkey, !counts || assertion.counter > passkey.counter))
    }

    /// Whether this is good to sign in with; if not, whether the passkey may have been copied.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` when it is not good for another reason.
    pub fn recognizes(&self, of: UserId, answer: &Answer, blinder: &dyn Blinder) -> Result<Recognized, Rejection> {
        let (_, went_on) = self.signed(of, answer, blinder)?;
        Ok(if went_on { Recognized::Good } else { Recognized::MayBeCopied })
    }
}

/// What became of looking at a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recognized {
    /// It is good.
    Good,
    /// It is by the right key, and by an older counter than one before it.
    MayBeCopied,
}

/// What a passkey has signed, for a challenge.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it has signed.
    pub assertion: Assertion,
    /// For what.
    pub asked: Asked,
}

/// Adds a passkey. That the password was shown is checked before.
pub struct RegisterPasskey {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// Its id.
    pub id: PasskeyId,
    /// What they call it.
    pub name: PasskeyName,
    /// The passkey.
    pub credential: NewCredential,
    /// For what it was made.
    pub asked: Asked,
    /// Recovery codes, for who has none.
    pub recovery: Vec<RecoveryCode>,
}

impl Command for RegisterPasskey {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(self.by, given)?;
        if !self.credential.verified {
            return Err(unverified());
        }
        user.factor.is_new(&self.asked)?;
        if user.factor.passkeys.len() >= User::MOST_PASSKEYS {
            let message = format!("You have {} passkeys, and that is the most. Remove one first.", User::MOST_PASSKEYS);
            return Err(Rejection::new(ErrorCode::LimitExceeded, message));
        }
        let credential_hash = given.blinder.blind("passkey", &self.credential.id);
        let has_codes = !user.factor.recovery.is_empty();
        let recovery_hashes = if has_codes { Vec::new() } else { hashes(&self.recovery, given) };
        let taken = Rejection::taken("This passkey is registered already.").at("credential");
        Ok(Outcome::events([UserEvent::PasskeyRegistered {
            passkey: self.id,
            handle: handle(of, given.blinder),
            name: Personal::new(of, self.name.to_string()),
            credential: Personal::new(of, self.credential.id.clone()),
            credential_hash: credential_hash.clone(),
            public_key: Personal::new(of, self.credential.public_key.clone()),
            counter: self.credential.counter,
            transports: self.credential.transports.clone(),
            backed_up: self.credential.backed_up,
            challenge: self.asked.challenge.as_str().to_owned(),
            ends_at: self.asked.ends_at,
            recovery_hashes,
        }])
        .claim(passkey_fact(&credential_hash), taken))
    }
}

/// Signs in with a passkey.
pub struct UsePasskey(pub Answer);

impl Command for UsePasskey {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(UserId::from_uuid(given.id), given)?;
        let Answer { assertion, asked } = &self.0;
        let (passkey, went_on) = user.signed(of, &self.0, given.blinder)?;
        if !went_on {
            return Err(wrong());
        }
        Ok(Outcome::events([UserEvent::PasskeyUsed {
            passkey: passkey.id,
            counter: assertion.counter,
            backed_up: assertion.backed_up,
            challenge: asked.challenge.as_str().to_owned(),
            ends_at: asked.ends_at,
        }]))
    }
}

/// Writes that a passkey was used whose counter did not go on.
pub struct SuspectClone(pub Answer);

impl Command for SuspectClone {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(UserId::from_uuid(given.id), given)?;
        let Answer { assertion, asked } = &self.0;
        let (passkey, went_on) = user.signed(of, &self.0, given.blinder)?;
        if went_on {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([UserEvent::PasskeyCloneSuspected {
            passkey: passkey.id,
            counter: assertion.counter,
            expected_above: passkey.counter,
            challenge: asked.challenge.as_str().to_owned(),
            ends_at: asked.ends_at,
        }]))
    }
}

/// Calls a passkey otherwise.
pub struct RenamePasskey {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// Which one.
    pub passkey: PasskeyId,
    /// What they call it from now on.
    pub name: PasskeyName,
}

impl Command for RenamePasskey {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(self.by, given)?;
        let passkey = user.factor.passkey(self.passkey).map_err(|r| r.at("id"))?.id;
        Ok(Outcome::events([UserEvent::PasskeyRenamed { passkey, name: Personal::new(of, self.name.to_string()) }]))
    }
}

/// Removes a passkey: it signs in no longer. That the password was shown is checked before.
pub struct RemovePasskey {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// Which one.
    pub passkey: PasskeyId,
}

impl Command for RemovePasskey {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        user.themselves(self.by, given)?;
        let passkey = user.factor.passkey(self.passkey).map_err(|r| r.at("id"))?;
        Ok(Outcome::events([UserEvent::PasskeyRemoved { passkey: passkey.id }])
            .release(passkey_fact(&passkey.credential_hash)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::Aggregate;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::second_factor::{ResetReason, ResetSecondFactor, UseSecondFactor};
    use super::super::webauthn::RelyingParty;
    use super::super::webauthn::authenticator::{Algorithm, Authenticator, PRESENT};
    use super::super::{Email, PasswordHash, PersonName, RegisterUser};
    use super::*;
    use crate::testing::{Desk, TestBlinder, at, user, uuid};
    use crate::users::erasure::EraseUser;

    const PAGE: &str = "https://example.org";

    fn here() -> RelyingParty {
        RelyingParty::new("example.org", vec![PAGE.to_owned()])
    }

    fn device(n: u8) -> Authenticator {
        Authenticator::new(Algorithm::EdDsa, n, "example.org", PAGE)
    }

    fn asked(n: u8, desk: &Desk) -> Asked {
        Asked { challenge: Challenge::new(&[n; Challenge::BYTES]), ends_at: desk.now + CHALLENGE_LIFE }
    }

    fn recovery() -> Vec<RecoveryCode> {
        (0..10).map(|n| RecoveryCode::new(&[n; RecoveryCode::BYTES])).collect()
    }

    fn passkey(n: u128) -> PasskeyId {
        PasskeyId::from_uuid(uuid(n))
    }

    fn registration(of: u128, n: u8, device: &mut Authenticator, asked: Asked) -> RegisterPasskey {
        let options =
            json!({ "challenge": asked.challenge.as_str(), "user": { "id": handle(user(of), &TestBlinder) } });
        let credential = here().registered(&device.create(&options), &asked.challenge).unwrap();
        let name = PasskeyName::parse("Telephone").unwrap();
        RegisterPasskey { by: user(of), id: passkey(n.into()), name, credential, asked, recovery: recovery() }
    }

    fn answer(device: &mut Authenticator, asked: Asked) -> Answer {
        let said = device.get(&json!({ "challenge": asked.challenge.as_str() }));
        Answer { assertion: here().asserted(&said, &asked.challenge).unwrap(), asked }
    }

    fn registered(desk: &mut Desk, n: u128) -> User {
        let mut state = User::default();
        let register = RegisterUser {
            email: Email::parse(&format!("u{n}@example.org")).unwrap(),
            username: None,
            name: PersonName::parse("Ada").unwrap(),
            password_hash: PasswordHash::new("$argon2id$x"),
        };
        desk.done(uuid(n), &mut state, &register);
        state
    }

    const WRONG: (ErrorCode, &str) = (ErrorCode::InvalidCredentials, "credential");

    #[test]
    fn a_challenge_is_answered_once_and_a_removed_passkey_is_refused() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1);
        let mut telephone = device(1);
        let register = registration(1, 1, &mut telephone, asked(1, &desk));
        let events = desk.done(uuid(1), &mut ada, &register);
        let UserEvent::PasskeyRegistered { recovery_hashes, .. } = &events[0] else { panic!("{events:?}") };
        assert_eq!(recovery_hashes.len(), 10);
        assert!(ada.factor.is_needed());
        assert_eq!(desk.refused(uuid(1), &ada, &register), WRONG, "its challenge was answered");

        let first = answer(&mut telephone, asked(2, &desk));
        desk.done(uuid(1), &mut ada, &UsePasskey(first.clone()));
        assert_eq!(desk.refused(uuid(1), &ada, &UsePasskey(first.clone())), WRONG);
        // What has ended is not remembered, and its ticket is not good any more.
        desk.now = at(400);
        desk.done(uuid(1), &mut ada, &UsePasskey(answer(&mut telephone, asked(3, &desk))));
        assert_eq!(ada.factor.answered.len(), 1);

        let code = UseSecondFactor { code: recovery()[2].expose().to_owned() };
        desk.done(uuid(1), &mut ada, &code);
        let next = UsePasskey(answer(&mut telephone, asked(4, &desk)));
        let old = asked(3, &desk);
        let remove = |by| RemovePasskey { by: user(by), passkey: passkey(1) };
        assert_eq!(desk.refused(uuid(1), &ada, &remove(2)), (ErrorCode::NotFound, ""));
        desk.done(uuid(1), &mut ada, &remove(1));
        assert_eq!(desk.refused(uuid(1), &ada, &next), WRONG);
        assert_eq!(desk.refused(uuid(1), &ada, &remove(1)), (ErrorCode::NotFound, "id"));
        assert!(!ada.factor.is_needed() && ada.factor.recovery.is_empty(), "the codes go with the last one");
        // It can be registered again, for another challenge.
        assert_eq!(desk.refused(uuid(1), &ada, &registration(1, 1, &mut telephone, old)), WRONG);
        let again = registration(1, 2, &mut telephone, asked(5, &desk));
        desk.done(uuid(1), &mut ada, &again);
    }

    #[test]
    fn a_passkey_is_of_one_person_and_of_nobody_who_is_forgotten() {
        let mut desk = Desk::new();
        let (mut ada, mut bob) = (registered(&mut desk, 1), registered(&mut desk, 2));
        let mut key = device(1);
        let hers = registration(1, 1, &mut key, asked(1, &desk));
        desk.done(uuid(1), &mut ada, &hers);
        let his = registration(2, 2, &mut key, asked(2, &desk));
        assert_eq!(desk.refused(uuid(2), &bob, &his), (ErrorCode::Taken, "credential"));
        let mut other = device(2);
        let his = registration(2, 2, &mut other, asked(3, &desk));
        desk.done(uuid(2), &mut bob, &his);
        for fact in &desk.facts {
            assert!(!fact.value.contains(&hers.credential.id), "{fact:?}");
        }
        // Signed with the handle of somebody else.
        assert_eq!(desk.refused(uuid(1), &ada, &UsePasskey(answer(&mut other, asked(4, &desk)))), WRONG);
        key.handle.clone_from(&other.handle);
        let stolen = answer(&mut key, asked(4, &desk));
        assert_eq!(desk.refused(uuid(2), &bob, &UsePasskey(stolen)), WRONG);

        desk.done(uuid(1), &mut ada, &EraseUser { by: Some(user(1)) });
        assert_eq!(ada.passkeys().count(), 0);
        let free = registration(2, 3, &mut key, asked(5, &desk));
        desk.done(uuid(2), &mut bob, &free);
    }

    #[test]
    fn a_counter_that_does_not_go_on_is_refused_and_written() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1);
        let mut key = device(1);
        key.counter = 10;
        desk.done(uuid(1), &mut ada, &registration(1, 1, &mut key, asked(1, &desk)));
        desk.done(uuid(1), &mut ada, &UsePasskey(answer(&mut key, asked(2, &desk))));
        key.counter = 4;
        let copied = answer(&mut key, asked(3, &desk));
        assert_eq!(ada.recognizes(user(1), &copied, &TestBlinder), Ok(Recognized::MayBeCopied));
        assert_eq!(desk.refused(uuid(1), &ada, &UsePasskey(copied.clone())), WRONG);
        let events = desk.done(uuid(1), &mut ada, &SuspectClone(copied.clone()));
        assert!(matches!(events[0], UserEvent::PasskeyCloneSuspected { counter: 5, expected_above: 11, .. }));
        assert_eq!(desk.refused(uuid(1), &ada, &SuspectClone(copied)), WRONG, "it is written once");
        key.counter = 11;
        let good = answer(&mut key, asked(4, &desk));
        assert_eq!(ada.recognizes(user(1), &good, &TestBlinder), Ok(Recognized::Good));
        assert_eq!(desk.done(uuid(1), &mut ada, &SuspectClone(good.clone())), []);
        desk.done(uuid(1), &mut ada, &UsePasskey(good));
        key.counter = 0;
        let fallen = answer(&mut key, asked(5, &desk));
        assert_eq!(desk.refused(uuid(1), &ada, &UsePasskey(fallen)), WRONG, "one that counted counts on");
    }

    #[test]
    fn who_was_not_verified_neither_registers_nor_signs_in() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1);
        let mut key = device(1);
        key.flags = PRESENT;
        let touched = registration(1, 1, &mut key, asked(1, &desk));
        assert_eq!(desk.refused(uuid(1), &ada, &touched), WRONG);
        key.flags |= 1 << 2;
        desk.done(uuid(1), &mut ada, &registration(1, 1, &mut key, asked(1, &desk)));
        key.flags = PRESENT;
        assert_eq!(desk.refused(uuid(1), &ada, &UsePasskey(answer(&mut key, asked(2, &desk)))), WRONG);
    }

    #[test]
    fn there_is_a_most_of_them_and_a_reset_takes_all() {
        let mut desk = Desk::new();
        let mut ada = registered(&mut desk, 1);
        let most = u8::try_from(User::MOST_PASSKEYS).unwrap();
        for n in 0..most {
            let register = registration(1, n, &mut device(n), asked(n, &desk));
            let events = desk.done(uuid(1), &mut ada, &register);
            let UserEvent::PasskeyRegistered { recovery_hashes, .. } = &events[0] else { panic!("{events:?}") };
            assert_eq!(recovery_hashes.is_empty(), n > 0, "who has codes keeps them");
        }
        let more = registration(1, most, &mut device(most), asked(most, &desk));
        assert_eq!(desk.refused(uuid(1), &ada, &more), (ErrorCode::LimitExceeded, ""));
        assert_eq!(ada.passkeys().count(), User::MOST_PASSKEYS);
        let facts = desk.facts.len();
        let reset = ResetSecondFactor { reason: ResetReason::parse("Lost on a train.").unwrap() };
        desk.done(uuid(1), &mut ada, &reset);
        assert_eq!((ada.passkeys().count(), ada.factor.is_needed()), (0, false));
        assert_eq!(desk.facts.len(), facts - User::MOST_PASSKEYS);
        assert_eq!(desk.refused(uuid(1), &ada, &reset), (ErrorCode::Conflict, ""));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// Two people, three keys, challenges that come again, counters that go anywhere.
        #[test]
        fn whatever_happens_no_challenge_is_answered_twice_and_no_counter_goes_back(
            steps in prop::collection::vec((0u8..5, 1u128..3, 0usize..3, 0u8..6, 0u32..6), 0..40),
        ) {
            let mut desk = Desk::new();
            let mut people = [registered(&mut desk, 1), registered(&mut desk, 2)];
            let mut keys = [device(0), device(1), device(2)];
            let mut answered = std::collections::BTreeSet::new();
            for (what, who, which, challenge, counter) in steps {
                let state = &mut people[who as usize - 1];
                let (id, key) = (passkey(which as u128), &mut keys[which]);
                let asked = asked(challenge, &desk);
                let before = state.clone();
                key.counter = counter;
                let done = match what {
                    0 => desk.execute(uuid(who), state, &RemovePasskey { by: user(who), passkey: id }),
                    1 => {
                        let register = registration(who, which as u8, key, asked);
                        desk.execute(uuid(who), state, &register)
                    }
                    2 => desk.execute(uuid(who), state, &SuspectClone(answer(key, asked))),
                    _ => desk.execute(uuid(who), state, &UsePasskey(answer(key, asked))),
                };
                let Ok(events) = done else { continue };
                for event in events {
                    let counters = |state: &User| state.factor.passkey(id).map(|known| known.counter).unwrap_or(0);
                    match &event {
                        UserEvent::PasskeyUsed { challenge, .. } => {
                            prop_assert!(answered.insert((who, challenge.clone())));
                            let (old, new) = (counters(&before), counters(state));
                            prop_assert!(new > old || (new, old) == (0, 0), "{} after {}", new, old);
                        }
                        UserEvent::PasskeyRegistered { challenge, .. }
                        | UserEvent::PasskeyCloneSuspected { challenge, .. } => {
                            prop_assert!(answered.insert((who, challenge.clone())));
                        }
                        _ => {}
                    }
                    prop_assert!(state.tenant().is_some());
                }
                let ids: Vec<&str> = people.iter().flat_map(|state| state.passkeys()).map(|(id, _)| id).collect();
                let once: std::collections::BTreeSet<&str> = ids.iter().copied().collect();
                prop_assert_eq!(once.len(), ids.len(), "of one person each");
            }
        }
    }
}
