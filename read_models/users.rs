//! Users as they are read: persons of the installation.
//!
//! Invariants: a person is seen by those who share an organisation with them, and not before they accepted its
//! invitation. What is said about them stands here alone; other read models hold their id. A forgotten person has no
//! address and an empty name.
//!
//! A membership that begins or ends changes who sees a person, and no row of this table: whoever reads one by an id
//! that did not come from a membership uses [`find`], which depends on the memberships too.

use std::fmt;
use std::sync::Arc;

use async_graphql::SimpleObject;
use oriel_domain::users::UserEvent;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{Recorded, Timestamp, UserId, Viewer};
use sea_orm::DbBackend;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Query;
use sea_orm::{Condition, sea_query::Expr};

use crate::members::{self, MemberStatus};
use crate::{same, told};

pub mod passkeys;
pub mod preferences;

/// A person. Seen by those who share an organization with them.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "users")]
#[graphql(name = "User")]
#[read_model(kind = "user", scope = seen, shared)]
pub struct Model {
    /// The person's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: UserId,
    /// The person's e-mail address; null when they were forgotten.
    pub email: Option<String>,
    /// Finds the person by the address, whatever its case.
    #[graphql(skip)]
    pub email_hash: Option<String>,
    /// Whether the person has shown that the address is theirs, by a link that was sent there.
    pub email_verified: bool,
    /// What the person is called; empty when they were forgotten.
    pub name: String,
    /// Another way to sign in.
    #[graphql(skip)]
    pub username: Option<String>,
    /// Finds the person by the user name, whatever its case.
    #[graphql(skip)]
    pub username_hash: Option<String>,
    /// What a password is checked against; none when they were forgotten.
    #[graphql(skip)]
    pub password_hash: Option<String>,
    /// Since when a second factor is asked for; none when it is not.
    #[graphql(skip)]
    pub second_factor_since: Option<Timestamp>,
    /// How many recovery codes are left.
    #[graphql(skip)]
    pub recovery_codes_left: i32,
    /// Whether codes of an authenticator are asked for.
    #[graphql(skip)]
    pub has_authenticator: bool,
    /// How many passkeys they have.
    #[graphql(skip)]
    pub passkey_count: i32,
    /// The optimistic version.
    #[graphql(skip)]
    pub version: i32,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Says who it is, and nothing that is said about them.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("id", &self.id).field("version", &self.version).finish_non_exhaustive()
    }
}

fn seen(viewer: &Viewer, _: DbBackend) -> Condition {
    let here = Query::select()
        .expr(Expr::val(1))
        .from(members::Entity)
        .and_where(members::Column::OrganizationId.eq(viewer.organization.uuid()))
        .and_where(same((members::Entity, members::Column::UserId), (Entity, Column::Id)))
        .and_where(members::Column::Status.ne(MemberStatus::Invited))
        .take();
    Condition::all().add(Expr::exists(here))
}

/// The person with this id, if the viewer may see them: for ids that come from outside.
///
/// # Errors
/// The database cannot be read.
pub async fn find(reader: &Reader, id: UserId) -> Result<Option<Arc<Model>>, ReadError> {
    reader.recorder().record(members::Model::in_user(id).dependency());
    reader.get(id).await
}

impl Model {
    fn has_second_factor(&mut self, since: Timestamp) {
        self.second_factor_since.get_or_insert(since);
    }

    fn may_have_no_second_factor(&mut self) {
        if !self.has_authenticator && self.passkey_count == 0 {
            (self.second_factor_since, self.recovery_codes_left) = (None, 0);
        }
    }

    /// A person of whom no more is known than this: somebody who is invited, or was forgotten.
    pub(crate) fn known_only_by(id: UserId, email: Option<String>) -> Self {
        Self {
            id,
            name: email.clone().unwrap_or_default(),
            email,
            email_hash: None,
            email_verified: false,
            username: None,
            username_hash: None,
            password_hash: None,
            second_factor_since: None,
            recovery_codes_left: 0,
            has_authenticator: false,
            passkey_count: 0,
            version: 0,
        }
    }
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub Users for Model, version 1, on UserEvent
}

impl On<UserEvent> for Users {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &UserEvent) {
        let mut change = |change: &dyn Fn(&mut Model)| {
            rows.update(at.subject, |user| {
                change(user);
                user.version = at.version;
            });
        };
        match event {
            UserEvent::Registered { email, email_hash, username, username_hash, name, password_hash } => {
                rows.insert(Model {
                    id: UserId::from_uuid(at.subject),
                    email: told(email),
                    email_hash: email.get().map(|_| email_hash.clone()),
                    email_verified: false,
                    name: told(name).unwrap_or_default(),
                    username: username.as_ref().and_then(told),
                    username_hash: username.as_ref().and_then(|name| name.get()).and(username_hash.clone()),
                    password_hash: password_hash.as_ref().and_then(told),
                    second_factor_since: None,
                    recovery_codes_left: 0,
                    has_authenticator: false,
                    passkey_count: 0,
                    version: at.version,
                });
            }
            UserEvent::Renamed { name } => change(&|user| user.name = told(name).unwrap_or_default()),
            UserEvent::PasswordChanged { password_hash }
            | UserEvent::PasswordReset { password_hash }
            | UserEvent::PasswordRehashed { password_hash } => {
                change(&|user| user.password_hash = told(password_hash));
            }
            UserEvent::EmailVerified => change(&|user| user.email_verified = true),
            UserEvent::EmailChanged { email, email_hash } => change(&|user| {
                user.email = told(email);
                user.email_hash = email.get().map(|_| email_hash.clone());
                user.email_verified = true;
            }),
            UserEvent::TotpConfirmed { step: _, recovery_hashes } => change(&|user| {
                user.has_authenticator = true;
                user.has_second_factor(at.at);
                user.recovery_codes_left = count(recovery_hashes);
            }),
            UserEvent::PasskeyRegistered { recovery_hashes, .. } => change(&|user| {
                // Folded twice, an event counts once.
                user.passkey_count += i32::from(user.version < at.version);
                user.has_second_factor(at.at);
                if !recovery_hashes.is_empty() {
                    user.recovery_codes_left = count(recovery_hashes);
                }
            }),
            UserEvent::PasskeyRemoved { passkey: _ } => change(&|user| {
                user.passkey_count -= i32::from(user.version < at.version);
                user.may_have_no_second_factor();
            }),
            UserEvent::RecoveryCodeUsed { hash: _ } => {
                change(&|user| user.recovery_codes_left -= i32::from(user.version < at.version));
            }
            UserEvent::RecoveryCodesReplaced { hashes } => change(&|user| user.recovery_codes_left = count(hashes)),
            UserEvent::TotpDisabled => change(&|user| {
                user.has_authenticator = false;
                user.may_have_no_second_factor();
            }),
            UserEvent::SecondFactorReset { reason: _ } => change(&|user| {
                (user.has_authenticator, user.passkey_count) = (false, 0);
                user.may_have_no_second_factor();
            }),
            UserEvent::PreferencesChanged { .. }
            | UserEvent::PasswordResetRequested { .. }
            | UserEvent::EmailChangeRequested { .. }
            | UserEvent::TotpBegun { .. }
            | UserEvent::TotpUsed { .. }
            | UserEvent::PasskeyUsed { .. }
            | UserEvent::PasskeyCloneSuspected { .. }
            | UserEvent::PasskeyRenamed { .. }
            | UserEvent::MadeAnew { .. }
            | UserEvent::ErasureCompleted { .. } => change(&|_| {}),
            UserEvent::Erased => change(&|user| *user = Model::known_only_by(user.id, None)),
        }
    }
}

fn count(codes: &[String]) -> i32 {
    i32::try_from(codes.len()).unwrap_or(i32::MAX)
}
