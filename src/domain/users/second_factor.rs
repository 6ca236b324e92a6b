//! The second factor: one-time codes of an authenticator (TOTP, RFC 6238), passkeys (see `passkeys.rs`), and recovery
//! codes for who has lost them.
//!
//! Invariants: who has an authenticator or a passkey is asked for one of them after the password. A code is good once: of an authenticator none that is older than the last one used, of recovery each one
//! once. An authenticator is asked for only after it has shown a code. Who has neither any more has no recovery codes
//! either. The secret is `Personal`; of recovery codes there is but a keyed hash.
//!
//! Nothing here is random: secrets and recovery codes are made outside.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use oriel_kernel::{
    Command, Decision, ErrorCode, Given, Outcome, Personal, Rejection, Timestamp, UserId, bounded_text,
};
use totp_rs::{Algorithm, Builder, Totp};

use super::passkeys::Passkey;
use super::{User, UserEvent};

bounded_text! {
    /// Why somebody's second factor is taken away.
    ResetReason: 1..=400,
}

/// What decides about the second factor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecondFactor {
    /// A secret that was handed out and has not shown a code yet.
    pub(super) begun: Option<Personal<String>>,
    /// The secret that is asked for, and the step of the last code that was used.
    pub(super) active: Option<(Personal<String>, u64)>,
    /// Hashes of the recovery codes that are left.
    pub(super) recovery: Vec<String>,
    /// The passkeys.
    pub(super) passkeys: Vec<Passkey>,
    /// Challenges that passkeys have answered, and when each ends.
    pub(super) answered: Vec<(String, Timestamp)>,
}

/// The secret of an authenticator: 160 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct TotpSecret(String);

impl TotpSecret {
    /// How many random bytes it is made of.
    pub const BYTES: usize = 20;

    /// From random bytes.
    pub fn new(bytes: &[u8; Self::BYTES]) -> Self {
        Self(BASE32_NOPAD.encode(bytes))
    }

    /// From what [`TotpSecret::expose`] gave.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE32_NOPAD.decode(text.as_bytes()).ok()?;
        (bytes.len() == Self::BYTES).then(|| Self(text.to_owned()))
    }

    /// As a person types it into an authenticator.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// As an authenticator reads it, from a picture: `otpauth://totp/…`, with the account's name.
    pub fn url(&self, account: &str) -> Option<String> {
        let account = account.replace(':', " ");
        let builder = builder(&self.0)?.with_issuer(Some("Oriel")).with_account_name(account);
        builder.build().ok()?.to_url().ok()
    }
}

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret")
    }
}

/// What every authenticator can: SHA-1, six digits, thirty seconds, and one step either way for clocks that differ.
fn builder(secret: &str) -> Option<Builder> {
    let bytes = BASE32_NOPAD.decode(secret.as_bytes()).ok()?;
    let builder = Builder::new().with_algorithm(Algorithm::SHA1).with_digits(6).with_skew(1).with_step_duration(30);
    Some(builder.with_secret(bytes))
}

/// The step whose code this is, at this moment.
fn step(secret: &Personal<String>, code: &str, given: &Given<'_>) -> Option<u64> {
    let totp: Totp = builder(secret.get()?)?.with_account_name("").build_noncompliant();
    totp.check(code, u64::try_from(given.now.timestamp()).ok()?)
}

/// A code that signs in once, for who has lost their authenticator.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryCode(String);

impl RecoveryCode {
    /// How many random bytes it is made of: 80 bits.
    pub const BYTES: usize = 10;
    /// How many a person has.
    pub const COUNT: usize = 10;

    /// From random bytes: `xxxx-xxxx-xxxx-xxxx`.
    pub fn new(bytes: &[u8; Self::BYTES]) -> Self {
        let text = BASE32_NOPAD.encode(bytes).to_lowercase();
        let groups: Vec<&str> = (0..text.len()).step_by(4).map(|at| &text[at..(at + 4).min(text.len())]).collect();
        Self(groups.join("-"))
    }

    /// As a person keeps it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn hash(text: &str, given: &Given<'_>) -> String {
        let letters: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        let of = UserId::from_uuid(given.id);
        given.blinder.blind("recovery_code", &format!("{of}/{}", letters.to_ascii_lowercase()))
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryCode")
    }
}

fn wrong() -> Rejection {
    let message = "This code is wrong, or was used already. Wait for the next one.";
    Rejection::new(ErrorCode::InvalidCredentials, message).at("code")
}

fn none_active() -> Rejection {
    Rejection::conflict("You have no authenticator. Begin with `totpBegin`.")
}

impl SecondFactor {
    /// Whether one is asked for after the password.
    pub fn is_needed(&self) -> bool {
        self.active.is_some() || !self.passkeys.is_empty()
    }

    /// Who has no second factor any more has nothing to recover.
    pub(super) fn forget_recovery_codes_of_nothing(&mut self) {
        if !self.is_needed() {
            self.recovery.clear();
        }
    }

    /// What using this code writes.
    fn used(&self, code: &str, given: &Given<'_>) -> Result<UserEvent, Rejection> {
        if !self.is_needed() {
            return Err(none_active());
        }
        let code = code.trim();
        if code.len() <= 7 && code.bytes().all(|b| b.is_ascii_digit() || b == b' ') {
            let (secret, last) = self.active.as_ref().ok_or_else(wrong)?;
            let digits: String = code.chars().filter(char::is_ascii_digit).collect();
            let step = step(secret, &digits, given).filter(|step| step > last).ok_or_else(wrong)?;
            return Ok(UserEvent::TotpUsed { step });
        }
        let hash = RecoveryCode::hash(code, given);
        if self.recovery.contains(&hash) { Ok(UserEvent::RecoveryCodeUsed { hash }) } else { Err(wrong()) }
    }

    pub(super) fn evolve(&mut self, event: &UserEvent) {
        match event {
            UserEvent::TotpBegun { secret } => self.begun = Some(secret.clone()),
            UserEvent::TotpConfirmed { step, recovery_hashes } => {
                self.active = self.begun.take().map(|secret| (secret, *step));
                self.recovery.clone_from(recovery_hashes);
            }
            UserEvent::TotpUsed { step } => {
                if let Some((_, last)) = &mut self.active {
                    *last = *step;
                }
            }
            UserEvent::RecoveryCodeUsed { hash } => self.recovery.retain(|other| other != hash),
            UserEvent::RecoveryCodesReplaced { hashes } => self.recovery.clone_from(hashes),
            UserEvent::TotpDisabled => {
                (self.begun, self.active) = (None, None);
                self.forget_recovery_codes_of_nothing();
            }
            UserEvent::PasskeyRegistered { .. }
            | UserEvent::PasskeyUsed { .. }
            | UserEvent::PasskeyCloneSuspected { .. }
            | UserEvent::PasskeyRenamed { .. }
            | UserEvent::PasskeyRemoved { .. } => self.evolve_passkeys(event),
            UserEvent::SecondFactorReset { reason: _ } => {
                let answered = std::mem::take(&mut self.answered);
                *self = Self { answered, ..Self::default() };
            }
            UserEvent::Registered { .. }
            | UserEvent::Renamed { .. }
            | UserEvent::PreferencesChanged { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::PasswordChanged { .. }
            | UserEvent::PasswordResetRequested { .. }
            | UserEvent::PasswordReset { .. }
            | UserEvent::EmailVerified
            | UserEvent::EmailChangeRequested { .. }
            | UserEvent::EmailChanged { .. }
            | UserEvent::Erased
            | UserEvent::MadeAnew { .. }
            | UserEvent::ErasureCompleted { .. } => {}
        }
    }
}

pub(super) fn hashes(codes: &[RecoveryCode], given: &Given<'_>) -> Vec<String> {
    codes.iter().map(|code| RecoveryCode::hash(&code.0, given)).collect()
}

/// Hands out a secret for an authenticator. It is not asked for before it has shown a code. That the password was shown
/// is checked before.
pub struct BeginTotp {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// The secret.
    pub secret: TotpSecret,
}

impl Command for BeginTotp {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(self.by, given)?;
        if user.factor.active.is_some() {
            return Err(Rejection::conflict(
                "You have an authenticator already. Disable it first, with `totpDisable`.",
            ));
        }
        Ok(Outcome::events([UserEvent::TotpBegun { secret: Personal::new(of, self.secret.0.clone()) }]))
    }
}

/// Shows a code of the authenticator: from now on it is asked for.
pub struct ConfirmTotp {
    /// Who does it: the user themselves.
    pub by: UserId,
    /// What the authenticator shows.
    pub code: String,
    /// New recovery codes.
    pub recovery: Vec<RecoveryCode>,
}

impl Command for ConfirmTotp {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        user.themselves(self.by, given)?;
        let begun = || Rejection::conflict("There is nothing to be confirmed. Begin with `totpBegin`.");
        let secret = user.factor.begun.as_ref().ok_or_else(begun)?;
        let digits: String = self.code.chars().filter(|c| !c.is_whitespace()).collect();
        let step = step(secret, &digits, given).ok_or_else(wrong)?;
        Ok(Outcome::events([UserEvent::TotpConfirmed { step, recovery_hashes: hashes(&self.recovery, given) }]))
    }
}

/// Uses a code, of the authenticator or of recovery, to sign in. That the password was shown is checked before.
pub struct UseSecondFactor {
    /// What was typed.
    pub code: String,
}

impl Command for UseSecondFactor {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        user.themselves(UserId::from_uuid(given.id), given)?;
        Ok(Outcome::events([user.factor.used(&self.code, given)?]))
    }
}

/// Has other recovery codes: the old ones are good no longer. A code is used up for it.
pub struct ReplaceRecoveryCodes {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// What the authenticator shows.
    pub code: String,
    /// The new ones.
    pub recovery: Vec<RecoveryCode>,
}

impl Command for ReplaceRecoveryCodes {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        user.themselves(self.by, given)?;
        let used = user.factor.used(&self.code, given)?;
        let hashes = hashes(&self.recovery, given);
        Ok(Outcome::events([used, UserEvent::RecoveryCodesReplaced { hashes }]))
    }
}

/// Has no second factor any more. A code is used up for it.
pub struct DisableTotp {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// What the authenticator shows, or a recovery code.
    pub code: String,
}

impl Command for DisableTotp {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        user.themselves(self.by, given)?;
        if user.factor.active.is_none() {
            return Err(none_active());
        }
        let used = user.factor.used(&self.code, given)?;
        Ok(Outcome::events([used, UserEvent::TotpDisabled]))
    }
}

/// Takes all of it away, for somebody who has lost it: authenticator, passkeys and recovery codes. Who may do that is
/// the matter of whoever does: see [`ResetMemberSecondFactor`](crate::members::ResetMemberSecondFactor).
pub struct ResetSecondFactor {
    /// Why.
    pub reason: ResetReason,
}

impl Command for ResetSecondFactor {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(UserId::from_uuid(given.id), given)?;
        if !user.factor.is_needed() {
            return Err(Rejection::conflict("This person has no second factor."));
        }
        let reason = Personal::new(of, self.reason.to_string());
        let outcome = Outcome::events([UserEvent::SecondFactorReset { reason }]);
        Ok(user.factor.facts().fold(outcome, Outcome::release))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, at, user, uuid};
    use crate::users::{Email, PasswordHash, PersonName, RegisterUser};

    /// The secret of the examples in RFC 6238: the ASCII of 1234567890, twice.
    const SECRET: &[u8; 20] = b"12345678901234567890";

    fn code_at(second: i64) -> String {
        let totp = builder(&BASE32_NOPAD.encode(SECRET)).unwrap().with_account_name("").build_noncompliant();
        totp.generate(u64::try_from(at(second).timestamp()).unwrap()).to_string()
    }

    fn recovery() -> Vec<RecoveryCode> {
        (0..RecoveryCode::COUNT).map(|n| RecoveryCode::new(&[u8::try_from(n).unwrap(); 10])).collect()
    }

    fn using(code: &str) -> UseSecondFactor {
        UseSecondFactor { code: code.to_owned() }
    }

    fn enrolled() -> (Desk, User) {
        let (mut desk, mut ada) = (Desk::new(), User::default());
        let register = RegisterUser {
            email: Email::parse("ada@example.org").unwrap(),
            username: None,
            name: PersonName::parse("Ada").unwrap(),
            password_hash: PasswordHash::new("$argon2id$x"),
        };
        desk.done(uuid(1), &mut ada, &register);
        desk.done(uuid(1), &mut ada, &BeginTotp { by: user(1), secret: TotpSecret::new(SECRET) });
        assert!(!ada.factor.is_needed(), "it has not shown a code yet");
        let confirm = |code: &str| ConfirmTotp { by: user(1), code: code.to_owned(), recovery: recovery() };
        assert_eq!(desk.refused(uuid(1), &ada, &confirm("000000")), (ErrorCode::InvalidCredentials, "code"));
        desk.done(uuid(1), &mut ada, &confirm(&code_at(0)));
        assert!(ada.factor.is_needed());
        (desk, ada)
    }

    #[test]
    fn the_codes_are_those_of_the_standard() {
        let totp = builder(&BASE32_NOPAD.encode(SECRET)).unwrap().with_account_name("").build_noncompliant();
        // RFC 6238, appendix B, to six digits.
        for (second, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(totp.generate(second).to_string(), code);
        }
    }

    #[test]
    fn a_code_is_good_once_and_no_older_one_after_it() {
        let (mut desk, mut ada) = enrolled();
        let wrong = (ErrorCode::InvalidCredentials, "code");
        assert_eq!(desk.refused(uuid(1), &ada, &using(&code_at(0))), wrong, "it was used to confirm");
        desk.now = at(60);
        desk.done(uuid(1), &mut ada, &using(&format!(" {} {} ", &code_at(60)[..3], &code_at(60)[3..])));
        assert_eq!(desk.refused(uuid(1), &ada, &using(&code_at(60))), wrong);
        assert_eq!(desk.refused(uuid(1), &ada, &using(&code_at(30))), wrong, "older than the last");
        desk.done(uuid(1), &mut ada, &using(&code_at(90)));
        assert_eq!(desk.refused(uuid(1), &ada, &using(&code_at(150))), wrong, "of the future");
        for nonsense in ["", "12345", "1234567", "abcdef", "      "] {
            assert_eq!(desk.refused(uuid(1), &ada, &using(nonsense)), wrong, "{nonsense}");
        }
    }

    #[test]
    fn a_recovery_code_is_good_once_however_it_is_written() {
        let (mut desk, mut ada) = enrolled();
        let codes = recovery();
        assert_eq!(codes[1].expose().len(), 19);
        desk.done(uuid(1), &mut ada, &using(&codes[1].expose().replace('-', " ").to_uppercase()));
        assert_eq!(desk.refused(uuid(1), &ada, &using(codes[1].expose())), (ErrorCode::InvalidCredentials, "code"));
        desk.now = at(60);
        let other: Vec<_> = (100..110).map(|n| RecoveryCode::new(&[n; 10])).collect();
        let replace = ReplaceRecoveryCodes { by: user(1), code: code_at(60), recovery: other.clone() };
        desk.done(uuid(1), &mut ada, &replace);
        assert_eq!(desk.refused(uuid(1), &ada, &using(codes[2].expose())), (ErrorCode::InvalidCredentials, "code"));
        desk.done(uuid(1), &mut ada, &using(other[0].expose()));
    }

    #[test]
    fn it_is_disabled_by_a_code_and_can_be_begun_again() {
        let (mut desk, mut ada) = enrolled();
        let begin = BeginTotp { by: user(1), secret: TotpSecret::new(&[1; 20]) };
        assert_eq!(desk.refused(uuid(1), &ada, &begin), (ErrorCode::Conflict, ""));
        let disable = |by, code: &str| DisableTotp { by: user(by), code: code.to_owned() };
        assert_eq!(desk.refused(uuid(1), &ada, &disable(1, "000000")), (ErrorCode::InvalidCredentials, "code"));
        assert_eq!(desk.refused(uuid(1), &ada, &disable(2, recovery()[0].expose())), (ErrorCode::NotFound, ""));
        desk.done(uuid(1), &mut ada, &disable(1, recovery()[0].expose()));
        assert_eq!(desk.refused(uuid(1), &ada, &using(recovery()[1].expose())), (ErrorCode::Conflict, ""));
        desk.done(uuid(1), &mut ada, &begin);
    }

    #[test]
    fn the_address_for_an_authenticator_names_the_account() {
        let url = TotpSecret::new(SECRET).url("ada@example.org").unwrap();
        assert!(url.starts_with("otpauth://totp/Oriel:ada"), "{url}");
        assert!(url.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ") && url.contains("issuer=Oriel"), "{url}");
        assert!(TotpSecret::new(SECRET).url("a:b@example.org").is_some());
        assert_eq!(format!("{:?} {:?}", TotpSecret::new(SECRET), recovery()[0]), "TotpSecret RecoveryCode");
    }

    proptest! {
        #[test]
        fn whatever_is_typed_no_code_is_good_twice(
            steps in prop::collection::vec((0i64..90, 0i64..5, 0usize..3, any::<bool>()), 0..40),
        ) {
            let (mut desk, mut ada) = enrolled();
            let mut used = std::collections::BTreeSet::from([code_at(0)]);
            let mut now = 0;
            for (pause, offset, which, recovers) in steps {
                now += pause;
                desk.now = at(0) + TimeDelta::seconds(now);
                let code =
                    if recovers { recovery()[which].expose().to_owned() } else { code_at(now + 30 * (offset - 2)) };
                let known = used.contains(&code);
                if desk.execute(uuid(1), &mut ada, &using(&code)).is_ok() {
                    prop_assert!(!known, "{} was good twice", code);
                    used.insert(code);
                }
            }
        }
    }
}
