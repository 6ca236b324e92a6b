//! Users: persons of the installation. What they are in an organisation is a member (`members.rs`).
//!
//! Invariants: an e-mail address and a user name belong to one user of the installation, whatever their case. What
//! is said about a person is `Personal`; facts and look-ups hold keyed hashes. A user changes only themselves, and
//! an erased user changes no more.
//!
//! Nothing here hashes a password or sees one being checked: commands carry the finished hash.

use oriel_kernel::{
    Aggregate, Blinder, Command, Decision, Effect, ErrorCode, Event, Fact, Given, Id, OrganizationId, Outcome,
    Personal, Rejection, Timestamp, UserId, bounded_text, kinds,
};
use uuid::Uuid;

use crate::organizations::Cleaned;

pub mod addresses;
pub mod erasure;
pub mod passkeys;
mod password;
pub mod preferences;
pub mod second_factor;
pub mod webauthn;

pub use password::{Password, PasswordHash};

use addresses::{NewEmail, Reset};
use erasure::Erasure;
use passkeys::PasskeyId;
use preferences::{Preferences, Theme};
use second_factor::SecondFactor;

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a user.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "user", effect = UserEvent::does)]
pub enum UserEvent {
    /// Became a user.
    #[event("user_registered")]
    Registered {
        /// As it was typed.
        email: Personal<String>,
        /// See [`Email::blind`].
        email_hash: String,
        /// As it was typed.
        username: Option<Personal<String>>,
        /// See [`Username::blind`].
        username_hash: Option<String>,
        /// What they are called.
        name: Personal<String>,
        /// A PHC string; none, when an identity provider says who they are.
        password_hash: Option<Personal<String>>,
    },
    /// Is called otherwise.
    #[event("user_renamed")]
    Renamed {
        /// What they are called now.
        name: Personal<String>,
    },
    /// Prefers something else: all that they prefer from now on. Of what is none they have said nothing.
    #[event("user_preferences_changed")]
    PreferencesChanged {
        /// How it looks.
        theme: Option<Theme>,
        /// The language that they read, a BCP 47 tag.
        language: Option<Personal<String>>,
        /// The time zone that they live in.
        time_zone: Option<Personal<String>>,
    },
    /// Has the same password, hashed in another way.
    #[event("user_password_rehashed")]
    PasswordRehashed {
        /// A PHC string.
        password_hash: Personal<String>,
    },
    /// Has another password.
    #[event("user_password_changed")]
    PasswordChanged {
        /// A PHC string.
        password_hash: Personal<String>,
    },
    /// Asked for a link to choose another password.
    #[event("user_password_reset_requested")]
    PasswordResetRequested {
        /// What the link is about.
        request: String,
        /// When the link ends.
        ends_at: Timestamp,
    },
    /// Chose another password, by such a link.
    #[event("user_password_reset")]
    PasswordReset {
        /// A PHC string.
        password_hash: Personal<String>,
    },
    /// Showed that the address is theirs.
    #[event("user_email_verified")]
    EmailVerified,
    /// Wants to move to another address.
    #[event("user_email_change_requested")]
    EmailChangeRequested {
        /// Where they are told that somebody wants it.
        from: Personal<String>,
        /// Where the link is sent.
        email: Personal<String>,
        /// See [`Email::blind`].
        email_hash: String,
        /// When the link ends.
        ends_at: Timestamp,
    },
    /// Has moved to another address, and shown that it is theirs.
    #[event("user_email_changed")]
    EmailChanged {
        /// As it was typed.
        email: Personal<String>,
        /// See [`Email::blind`].
        email_hash: String,
    },
    /// Was given a secret for an authenticator.
    #[event("user_totp_begun")]
    TotpBegun {
        /// In base32.
        secret: Personal<String>,
    },
    /// The authenticator showed a code: it is asked for from now on.
    #[event("user_totp_confirmed")]
    TotpConfirmed {
        /// Whose code it was, in steps of thirty seconds since 1970.
        step: u64,
        /// Keyed hashes of the recovery codes.
        recovery_hashes: Vec<String>,
    },
    /// Used a code of the authenticator.
    #[event("user_totp_used")]
    TotpUsed {
        /// Whose code it was.
        step: u64,
    },
    /// Used a recovery code.
    #[event("user_recovery_code_used")]
    RecoveryCodeUsed {
        /// Its keyed hash.
        hash: String,
    },
    /// Has other recovery codes.
    #[event("user_recovery_codes_replaced")]
    RecoveryCodesReplaced {
        /// Their keyed hashes.
        hashes: Vec<String>,
    },
    /// Has no second factor any more.
    #[event("user_totp_disabled")]
    TotpDisabled,
    /// Has a passkey more.
    #[event("user_passkey_registered")]
    PasskeyRegistered {
        /// Its id.
        passkey: PasskeyId,
        /// See [`passkeys::handle`].
        handle: String,
        /// What they call it.
        name: Personal<String>,
        /// By which its authenticator knows it: base64url.
        credential: Personal<String>,
        /// A keyed hash of that.
        credential_hash: String,
        /// COSE, base64url.
        public_key: Personal<String>,
        /// How often it has signed, if its authenticator counts.
        counter: u32,
        /// How its authenticator is reached.
        transports: Vec<String>,
        /// Whether it is kept elsewhere too.
        backed_up: bool,
        /// The challenge that it answered.
        challenge: String,
        /// Until when that could be answered.
        ends_at: Timestamp,
        /// Keyed hashes of recovery codes, for who had none.
        recovery_hashes: Vec<String>,
    },
    /// Signed in with a passkey.
    #[event("user_passkey_used")]
    PasskeyUsed {
        /// Which one.
        passkey: PasskeyId,
        /// How often it has signed, if its authenticator counts.
        counter: u32,
        /// Whether it is kept elsewhere too.
        backed_up: bool,
        /// The challenge that it answered.
        challenge: String,
        /// Until when that could be answered.
        ends_at: Timestamp,
    },
    /// Somebody showed a passkey whose counter did not go on: there may be a copy of it. They were not signed in.
    #[event("user_passkey_clone_suspected")]
    PasskeyCloneSuspected {
        /// Which one.
        passkey: PasskeyId,
        /// How often it said to have signed.
        counter: u32,
        /// How often it had signed before.
        expected_above: u32,
        /// The challenge that it answered.
        challenge: String,
        /// Until when that could be answered.
        ends_at: Timestamp,
    },
    /// Calls a passkey otherwise.
    #[event("user_passkey_renamed")]
    PasskeyRenamed {
        /// Which one.
        passkey: PasskeyId,
        /// What they call it now.
        name: Personal<String>,
    },
    /// Has a passkey less.
    #[event("user_passkey_removed")]
    PasskeyRemoved {
        /// Which one.
        passkey: PasskeyId,
    },
    /// Had lost authenticator and passkeys: somebody who may took them away, and the recovery codes.
    #[event("user_second_factor_reset")]
    SecondFactorReset {
        /// Why, in the words of whoever did it.
        reason: Personal<String>,
    },
    /// Is forgotten: what the log says about them is erased.
    #[event("user_erased")]
    Erased,
    /// What was made of these aggregates' events is made anew, without what they had said about the person.
    #[event("user_made_anew")]
    MadeAnew {
        /// Which aggregates.
        subjects: Vec<Uuid>,
    },
    /// Nothing is left of them anywhere: the certificate.
    #[event("user_erasure_completed")]
    ErasureCompleted {
        /// What was cleaned, and up to where.
        stores: Vec<Cleaned>,
    },
}

impl UserEvent {
    fn does(&self) -> Option<Effect<'_>> {
        match self {
            Self::Erased => Some(Effect::DestroysKey),
            Self::MadeAnew { subjects } => Some(Effect::MakesAnew { subjects }),
            _ => None,
        }
    }
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What a person is called.
    PersonName: 1..=120,
}

/// An e-mail address.
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// The address, trimmed.
    ///
    /// # Errors
    /// `REQUIRED` when empty, `TOO_LONG` beyond 254 characters, `INVALID` when it cannot be an address.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 1, 254, false)?;
        let invalid =
            || Rejection::new(ErrorCode::Invalid, "This is not an e-mail address of the form name@example.org.");
        let (local, domain) = text.rsplit_once('@').ok_or_else(invalid)?;
        let strange = |c: char| c.is_whitespace() || "<>()[],;:\\\"@".contains(c);
        let label_fits = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_alphanumeric() || c == '-')
        };
        let local_fits = (1..=64).contains(&local.len())
            && !local.contains(strange)
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..");
        if local_fits && domain.contains('.') && domain.split('.').all(label_fits) {
            Ok(Self(text))
        } else {
            Err(invalid())
        }
    }

    /// As it was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The keyed hash that finds its user, whatever the case.
    pub fn blind(&self, blinder: &dyn Blinder) -> String {
        blinder.blind("email", &self.0.to_lowercase())
    }
}

/// A name to sign in with instead of the e-mail address.
#[derive(Clone, PartialEq, Eq)]
pub struct Username(String);

impl Username {
    /// The user name, trimmed.
    ///
    /// # Errors
    /// `REQUIRED` when empty, `TOO_LONG` beyond 40 characters, `INVALID` when it is not made of letters, digits,
    /// `.`, `_` and `-`, beginning with a letter, or has fewer than 3 characters.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 3, 40, false)?;
        let fits = text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !fits {
            let message = "A user name begins with a letter and has letters, digits, '.', '_' and '-' only.";
            return Err(Rejection::new(ErrorCode::Invalid, message));
        }
        Ok(Self(text))
    }

    /// As it was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The keyed hash that finds its user, whatever the case.
    pub fn blind(&self, blinder: &dyn Blinder) -> String {
        blinder.blind("username", &self.0.to_lowercase())
    }
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a user's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    name: Option<Personal<String>>,
    email: Option<Personal<String>>,
    email_hash: String,
    email_verified: bool,
    new_email: Option<NewEmail>,
    reset: Option<Reset>,
    factor: SecondFactor,
    preferences: Preferences,
    username_hash: Option<String>,
    erasure: Erasure,
}

impl Aggregate for User {
    type Kind = kinds::UserId;
    type Event = UserEvent;
    const NOUN: &'static str = "user";

    fn evolve(&mut self, event: &UserEvent) {
        self.factor.evolve(event);
        self.preferences.evolve(event);
        match event {
            UserEvent::Registered { name, email, email_hash, username_hash, .. } => {
                (self.name, self.email) = (Some(name.clone()), Some(email.clone()));
                self.email_hash.clone_from(email_hash);
                self.username_hash.clone_from(username_hash);
            }
            UserEvent::Renamed { name } => self.name = Some(name.clone()),
            UserEvent::PasswordChanged { .. } | UserEvent::PasswordReset { .. } => {
                (self.reset, self.new_email) = (None, None);
            }
            UserEvent::PasswordResetRequested { request, ends_at } => {
                self.reset = Some(Reset { request: request.clone(), ends_at: *ends_at });
            }
            UserEvent::EmailVerified => self.email_verified = true,
            UserEvent::EmailChangeRequested { email, email_hash, ends_at, .. } => {
                let (email, hash) = (email.clone(), email_hash.clone());
                self.new_email = Some(NewEmail { email, hash, ends_at: *ends_at });
            }
            UserEvent::EmailChanged { email, email_hash } => {
                self.email = Some(email.clone());
                self.email_hash.clone_from(email_hash);
                (self.email_verified, self.new_email) = (true, None);
            }
            UserEvent::Erased => self.erase(),
            UserEvent::ErasureCompleted { stores: _ } => self.erasure = Erasure::Complete,
            UserEvent::MadeAnew { .. }
            | UserEvent::PreferencesChanged { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::TotpBegun { .. }
            | UserEvent::TotpConfirmed { .. }
            | UserEvent::TotpUsed { .. }
            | UserEvent::RecoveryCodeUsed { .. }
            | UserEvent::RecoveryCodesReplaced { .. }
            | UserEvent::TotpDisabled
            | UserEvent::PasskeyRegistered { .. }
            | UserEvent::PasskeyUsed { .. }
            | UserEvent::PasskeyCloneSuspected { .. }
            | UserEvent::PasskeyRenamed { .. }
            | UserEvent::PasskeyRemoved { .. }
            | UserEvent::SecondFactorReset { .. } => {}
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.name.as_ref().map(|_| Id::ABSENT)
    }
}

impl User {
    /// The user's id, if they change themselves and are not forgotten. Anybody else's looks absent.
    fn themselves(&self, by: UserId, given: &Given<'_>) -> Result<UserId, Rejection> {
        let erased = matches!(self.name, Some(Personal::Erased { .. }));
        if by.uuid() == given.id && !erased { Ok(by) } else { Err(Rejection::not_found("user")) }
    }
}

// --- facts -------------------------------------------------------------------------------------------------------

fn email_fact(hash: &str) -> Fact {
    Fact { scope: "user_email".to_owned(), value: hash.to_owned() }
}

fn username_fact(hash: &str) -> Fact {
    Fact { scope: "user_username".to_owned(), value: hash.to_owned() }
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Makes a user: under a fresh id, or the one that an invitation reserved.
pub struct RegisterUser {
    /// How they are written to and sign in.
    pub email: Email,
    /// Another way to sign in.
    pub username: Option<Username>,
    /// What they are called.
    pub name: PersonName,
    /// The hash of their password.
    pub password_hash: PasswordHash,
}

impl Command for RegisterUser {
    type Aggregate = User;
    const CREATES: bool = true;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        crate::must_be_new(user)?;
        let of = UserId::from_uuid(given.id);
        let email_hash = self.email.blind(given.blinder);
        let username_hash = self.username.as_ref().map(|username| username.blind(given.blinder));
        let mut outcome = Outcome::events([UserEvent::Registered {
            email: Personal::new(of, self.email.as_str().to_owned()),
            email_hash: email_hash.clone(),
            username: self.username.as_ref().map(|username| Personal::new(of, username.as_str().to_owned())),
            username_hash: username_hash.clone(),
            name: Personal::new(of, self.name.to_string()),
            password_hash: Some(Personal::new(of, self.password_hash.as_str().to_owned())),
        }])
        .claim(
            email_fact(&email_hash),
            Rejection::taken("Somebody is registered with this e-mail address.").at("email"),
        );
        if let Some(hash) = username_hash {
            let taken = Rejection::taken("Somebody else has this user name. Choose another.").at("username");
            outcome = outcome.claim(username_fact(&hash), taken);
        }
        Ok(outcome)
    }
}

/// Makes a user of whom an identity provider speaks. They have no password until they choose one.
pub struct ProvisionUser {
    /// How they are written to.
    pub email: Email,
    /// What they are called.
    pub name: PersonName,
}

impl Command for ProvisionUser {
    type Aggregate = User;
    const CREATES: bool = true;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        crate::must_be_new(user)?;
        let of = UserId::from_uuid(given.id);
        let email_hash = self.email.blind(given.blinder);
        let taken = Rejection::conflict("Somebody has registered with this e-mail address at this moment. Try again.");
        Ok(Outcome::events([UserEvent::Registered {
            email: Personal::new(of, self.email.as_str().to_owned()),
            email_hash: email_hash.clone(),
            username: None,
            username_hash: None,
            name: Personal::new(of, self.name.to_string()),
            password_hash: None,
        }])
        .claim(email_fact(&email_hash), taken))
    }
}

/// Changes what a user is called.
pub struct RenameUser {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// What they are called from now on.
    pub name: PersonName,
}

impl Command for RenameUser {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(self.by, given)?;
        if user.name.as_ref().and_then(Personal::get).is_some_and(|name| name == self.name.as_str()) {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([UserEvent::Renamed { name: Personal::new(of, self.name.to_string()) }]))
    }
}

/// Changes a user's password. That the old one was shown, or a reset link, is checked before.
pub struct ChangePassword {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// The hash of the new password.
    pub password_hash: PasswordHash,
}

impl Command for ChangePassword {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(self.by, given)?;
        let password_hash = Personal::new(of, self.password_hash.as_str().to_owned());
        Ok(Outcome::events([UserEvent::PasswordChanged { password_hash }]))
    }
}

/// Keeps a better hash of the password that the user has. That it is the same password is checked before: say which
/// version of the user it was checked against, so that it never takes the place of a newer one.
pub struct RehashPassword {
    /// The better hash.
    pub password_hash: PasswordHash,
}

impl Command for RehashPassword {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(UserId::from_uuid(given.id), given)?;
        let password_hash = Personal::new(of, self.password_hash.as_str().to_owned());
        Ok(Outcome::events([UserEvent::PasswordRehashed { password_hash }]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::PersonalField;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, TestBlinder, user, uuid};

    fn register(email: &str, username: Option<&str>) -> RegisterUser {
        RegisterUser {
            email: Email::parse(email).unwrap(),
            username: username.map(|name| Username::parse(name).unwrap()),
            name: PersonName::parse("Ada Lovelace").unwrap(),
            password_hash: PasswordHash::new("$argon2id$v=19$x"),
        }
    }

    #[test]
    fn an_address_and_a_user_name_belong_to_one_user_whatever_their_case() {
        let mut desk = Desk::new();
        desk.done(uuid(1), &mut User::default(), &register("Ada@Example.org", Some("ada")));
        let new = User::default();
        assert_eq!(desk.refused(uuid(2), &new, &register("ada@example.ORG", None)), (ErrorCode::Taken, "email"));
        assert_eq!(
            desk.refused(uuid(2), &new, &register("b@example.org", Some("ADA"))),
            (ErrorCode::Taken, "username")
        );
        desk.done(uuid(2), &mut User::default(), &register("b@example.org", Some("bob")));
    }

    #[test]
    fn facts_hold_nothing_about_the_person() {
        let mut desk = Desk::new();
        desk.done(uuid(1), &mut User::default(), &register("ada@example.org", Some("countess")));
        assert_eq!(desk.facts.len(), 2);
        for fact in &desk.facts {
            assert!(!fact.value.contains("ada") && !fact.value.contains("countess"), "{fact:?}");
        }
    }

    #[test]
    fn the_registered_hashes_find_the_user() {
        let command = register("Ada@example.org", Some("Ada"));
        let events = Desk::new().done(uuid(1), &mut User::default(), &command);
        let UserEvent::Registered { email, email_hash, username_hash, .. } = &events[0] else { panic!("{events:?}") };
        assert_eq!(email.get().unwrap(), "Ada@example.org");
        assert_eq!(*email_hash, Email::parse("aDa@example.org").unwrap().blind(&TestBlinder));
        assert_eq!(username_hash.as_ref(), Some(&Username::parse("aDA").unwrap().blind(&TestBlinder)));
    }

    #[test]
    fn a_user_changes_only_themselves() {
        let (mut desk, mut ada) = (Desk::new(), User::default());
        desk.done(uuid(1), &mut ada, &register("ada@example.org", None));
        let name = PersonName::parse("Ada King").unwrap();
        let by_another = RenameUser { by: user(2), name: name.clone() };
        assert_eq!(desk.refused(uuid(1), &ada, &by_another), (ErrorCode::NotFound, ""));
        let password_hash = PasswordHash::new("$argon2id$other");
        let by_another = ChangePassword { by: user(2), password_hash: password_hash.clone() };
        assert_eq!(desk.refused(uuid(1), &ada, &by_another), (ErrorCode::NotFound, ""));
        assert_eq!(desk.done(uuid(1), &mut ada, &ChangePassword { by: user(1), password_hash }).len(), 1);
        assert_eq!(desk.done(uuid(1), &mut ada, &RenameUser { by: user(1), name: name.clone() }).len(), 1);
        assert_eq!(desk.done(uuid(1), &mut ada, &RenameUser { by: user(1), name }), []);
    }

    #[test]
    fn an_erased_user_looks_absent() {
        let (mut desk, mut ada) = (Desk::new(), User::default());
        let mut events = desk.done(uuid(1), &mut ada, &register("ada@example.org", None));
        if let UserEvent::Registered { name, .. } = &mut events[0] {
            name.set_erased();
        }
        ada.evolve(&events[0]);
        let rename = RenameUser { by: user(1), name: PersonName::parse("Anybody").unwrap() };
        assert_eq!(desk.refused(uuid(1), &ada, &rename), (ErrorCode::NotFound, ""));
    }

    #[test]
    fn nobody_registers_twice() {
        let (mut desk, mut ada) = (Desk::new(), User::default());
        desk.done(uuid(1), &mut ada, &register("ada@example.org", None));
        assert_eq!(desk.refused(uuid(1), &ada, &register("other@example.org", None)), (ErrorCode::Conflict, ""));
    }

    #[test]
    fn addresses() {
        for good in ["a@b.co", " ada.l+x@sub.example.org ", "grüße@bücher.example", "o'neil@example.org"] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in
            ["a", "a@b", "@b.co", "a@", "a@b..co", "a b@c.de", "a@b@c.de", "a@-b.co", ".a@b.co", "a..b@c.de", &long]
        {
            assert_eq!(Email::parse(bad).map_err(|r| r.code).err(), Some(ErrorCode::Invalid), "{bad}");
        }
        assert_eq!(Email::parse("  ").map_err(|r| r.code).err(), Some(ErrorCode::Required));
    }

    #[test]
    fn user_names() {
        for good in ["ada", "Ada.L-1_x"] {
            assert!(Username::parse(good).is_ok(), "{good}");
        }
        for bad in ["ad", "1ada", "ada@home", "ada l", "adä"] {
            assert!(Username::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsers_take_any_text(text in "\\PC{0,80}|.{0,300}") {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(Email::parse(email.as_str()).map(|e| e.0).ok(), Some(email.0));
            }
            if let Ok(name) = Username::parse(&text) {
                prop_assert!(name.as_str().len() <= 40);
            }
        }

        #[test]
        fn whatever_happens_one_address_has_one_user(
            steps in prop::collection::vec((0u128..4, 0u8..4, 0usize..3, 0u128..4), 0..40),
        ) {
            let addresses = ["a@example.org", "A@example.org", "b@example.org"];
            let mut desk = Desk::new();
            let mut users: Vec<User> = vec![User::default(); 4];
            let mut registered = std::collections::BTreeMap::new();
            for (who, what, which, by) in steps {
                let state = &mut users[who as usize];
                let before = state.clone();
                let name = PersonName::parse(addresses[which]).unwrap();
                let written = match what {
                    0 => desk.execute(uuid(who), state, &register(addresses[which], None)),
                    1 => desk.execute(uuid(who), state, &RenameUser { by: user(by), name }),
                    2 => {
                        let password_hash = PasswordHash::new("$argon2id$x");
                        desk.execute(uuid(who), state, &ChangePassword { by: user(by), password_hash })
                    }
                    _ => desk.execute(uuid(who), state, &register(addresses[which], Some("ada"))),
                };
                match written {
                    Ok(events) => for event in &events {
                        if let UserEvent::Registered { email_hash, .. } = event {
                            prop_assert_eq!(registered.insert(email_hash.clone(), who), None);
                        } else {
                            prop_assert_eq!(who, by);
                        }
                    },
                    Err(_) => prop_assert_eq!(&before, state),
                }
            }
        }
    }
}
