//! What a person prefers: how it looks, in which language, at which time.
//!
//! Invariants: a person says so for themselves alone. An event says all that they prefer from then on. What they have not
//! said is their organisation's, or their device's. Which letters about their security they get is no preference.

use oriel_kernel::{Command, Decision, Given, Outcome, Personal, UserId};
use serde::{Deserialize, Serialize};

use super::{User, UserEvent};
use crate::organizations::{Language, TimeZone};

/// How it looks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Theme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
    /// As the device has it.
    System,
}

/// What a person prefers. Of what is none they have said nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Preferences {
    theme: Option<Theme>,
    language: Option<Personal<String>>,
    time_zone: Option<Personal<String>>,
}

impl Preferences {
    pub(super) fn evolve(&mut self, event: &UserEvent) {
        if let UserEvent::PreferencesChanged { theme, language, time_zone } = event {
            self.theme = *theme;
            self.language.clone_from(language);
            self.time_zone.clone_from(time_zone);
        }
    }
}

/// Changes what a user prefers. What is none stays, what is `Some(None)` is said no more.
#[derive(Clone, Debug)]
pub struct ChangePreferences {
    /// Who wants it: the user themselves.
    pub by: UserId,
    /// How it looks from now on.
    pub theme: Option<Option<Theme>>,
    /// In which language they read from now on.
    pub language: Option<Option<Language>>,
    /// In which time zone they live from now on.
    pub time_zone: Option<Option<TimeZone>>,
}

impl Command for ChangePreferences {
    type Aggregate = User;

    fn decide(&self, user: &User, given: &Given<'_>) -> Decision<UserEvent> {
        let of = user.themselves(self.by, given)?;
        let said = |text: &str| Personal::new(of, text.to_owned());
        let mut next = user.preferences.clone();
        if let Some(theme) = self.theme {
            next.theme = theme;
        }
        if let Some(language) = &self.language {
            next.language = language.as_ref().map(|language| said(language.as_str()));
        }
        if let Some(time_zone) = &self.time_zone {
            next.time_zone = time_zone.as_ref().map(|time_zone| said(time_zone.as_str()));
        }
        if next == user.preferences {
            return Ok(Outcome::nothing());
        }
        let Preferences { theme, language, time_zone } = next;
        Ok(Outcome::events([UserEvent::PreferencesChanged { theme, language, time_zone }]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::ErrorCode;

    use super::*;
    use crate::testing::{Desk, user, uuid};
    use crate::users::erasure::EraseUser;
    use crate::users::{Email, PasswordHash, PersonName, RegisterUser};

    fn ada() -> (Desk, User) {
        let (mut desk, mut ada) = (Desk::new(), User::default());
        desk.organization = oriel_kernel::Id::ABSENT;
        let register = RegisterUser {
            email: Email::parse("ada@example.org").unwrap(),
            username: None,
            name: PersonName::parse("Ada").unwrap(),
            password_hash: PasswordHash::new("$argon2id$secret"),
        };
        desk.done(uuid(1), &mut ada, &register);
        (desk, ada)
    }

    fn nothing() -> ChangePreferences {
        ChangePreferences { by: user(1), theme: None, language: None, time_zone: None }
    }

    #[test]
    fn what_is_left_out_stays_and_what_is_taken_back_is_said_no_more() {
        let (mut desk, mut ada) = ada();
        assert_eq!(desk.done(uuid(1), &mut ada, &nothing()), []);
        let dark = ChangePreferences { theme: Some(Some(Theme::Dark)), ..nothing() };
        assert_eq!(desk.done(uuid(1), &mut ada, &dark).len(), 1);
        assert_eq!(desk.done(uuid(1), &mut ada, &dark), []);
        let german = ChangePreferences { language: Some(Language::parse("de").ok()), ..nothing() };
        let both = UserEvent::PreferencesChanged {
            theme: Some(Theme::Dark),
            language: Some(Personal::new(user(1), "de".to_owned())),
            time_zone: None,
        };
        assert_eq!(desk.done(uuid(1), &mut ada, &german), [both]);
        let none = ChangePreferences { theme: Some(None), language: Some(None), time_zone: Some(None), ..nothing() };
        let written = UserEvent::PreferencesChanged { theme: None, language: None, time_zone: None };
        assert_eq!(desk.done(uuid(1), &mut ada, &none), [written]);
    }

    #[test]
    fn it_is_ones_own_alone_and_nobodys_after_an_erasure() {
        let (mut desk, mut ada) = ada();
        let dark = ChangePreferences { theme: Some(Some(Theme::Dark)), ..nothing() };
        let others = ChangePreferences { by: user(2), ..dark.clone() };
        assert_eq!(desk.refused(uuid(1), &ada, &others), (ErrorCode::NotFound, ""));
        desk.done(uuid(1), &mut ada, &dark);
        desk.done(uuid(1), &mut ada, &EraseUser { by: None });
        assert_eq!(ada.preferences, Preferences::default());
        assert_eq!(desk.refused(uuid(1), &ada, &dark), (ErrorCode::NotFound, ""));
    }
}
