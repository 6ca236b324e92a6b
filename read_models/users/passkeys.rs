//! The passkeys of a person, as they see them; and by what a passkey finds its person.
//!
//! Invariants: a person sees their own, and nobody else's. One row holds all of one person. Neither keys nor what
//! authenticators know them by stand here. A forgotten person has none.

use std::fmt;

use async_graphql::SimpleObject;
use oriel_domain::users::UserEvent;
use oriel_domain::users::passkeys::PasskeyId;
use oriel_engine::projection::{On, Rows};
use oriel_engine::read::{ReadError, ReadModel, Reader};
use oriel_kernel::{Personal, Recorded, Timestamp, UserId};
use sea_orm::FromJsonQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::told;

/// The passkeys of one person. `id` is the person's.
#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
#[sea_orm(table_name = "user_passkeys")]
#[read_model(kind = "user_passkeys", name = "UserPasskeys", owner = "id")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: UserId,
    /// Who they are to authenticators; none until they have had a passkey.
    pub handle: Option<String>,
    /// Their passkeys, the oldest first.
    #[sea_orm(column_type = "JsonBinary")]
    pub passkeys: Passkeys,
}

/// None: relations are read through the reader.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The passkeys of one person, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromJsonQueryResult)]
#[serde(transparent)]
pub struct Passkeys(pub Vec<Passkey>);

/// A key that one of your devices keeps: it signs you in without a password, and is asked for after the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, SimpleObject)]
pub struct Passkey {
    /// The passkey's id.
    pub id: PasskeyId,
    /// What you call it.
    pub name: String,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last signed you in; null when it never did.
    pub last_used_at: Option<Timestamp>,
    /// How its authenticator is reached: `internal` in the device itself, `hybrid` in a telephone near by, `usb`, `nfc`,
    /// `ble`; as far as it is known.
    pub transports: Vec<String>,
    /// Whether it is kept elsewhere too, such as in an account at the maker of the device: then it is not lost with that.
    pub backed_up: bool,
}

/// Says nothing about the person.
impl fmt::Debug for Passkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passkey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The passkeys of the viewer's person, the oldest first.
///
/// # Errors
/// The database cannot be read.
pub async fn of_viewer(reader: &Reader) -> Result<Vec<Passkey>, ReadError> {
    let row = reader.get::<Model>(reader.viewer().user).await?;
    Ok(row.map(|row| row.passkeys.0.clone()).unwrap_or_default())
}

oriel_engine::projection! {
    /// Folds events into [`Model`]s.
    pub UserPasskeys for Model, version 1, on UserEvent
}

impl On<UserEvent> for UserPasskeys {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &UserEvent) {
        let mut change = |id: PasskeyId, change: &dyn Fn(&mut Passkey)| {
            rows.update(at.subject, |row| {
                row.passkeys.0.iter_mut().filter(|passkey| passkey.id == id).for_each(change)
            });
        };
        match event {
            UserEvent::Registered { .. } => rows.insert(Model::none(UserId::from_uuid(at.subject))),
            UserEvent::PasskeyRegistered { passkey, handle, name, transports, backed_up, .. } => {
                let Personal::Clear { value: name, .. } = name else { return };
                let row = Passkey {
                    id: *passkey,
                    name: crate::plain(name),
                    created_at: at.at,
                    last_used_at: None,
                    transports: transports.clone(),
                    backed_up: *backed_up,
                };
                rows.update(at.subject, |theirs| {
                    theirs.handle = Some(handle.clone());
                    // Folded twice, an event counts once.
                    theirs.passkeys.0.retain(|known| known.id != row.id);
                    theirs.passkeys.0.push(row);
                });
            }
            UserEvent::PasskeyUsed { passkey, backed_up, .. } => change(*passkey, &|passkey| {
                (passkey.last_used_at, passkey.backed_up) = (Some(at.at), *backed_up);
            }),
            UserEvent::PasskeyRenamed { passkey, name } => {
                change(*passkey, &|passkey| passkey.name = told(name).unwrap_or_default());
            }
            UserEvent::PasskeyRemoved { passkey } => {
                rows.update(at.subject, |theirs| theirs.passkeys.0.retain(|known| known.id != *passkey));
            }
            UserEvent::SecondFactorReset { reason: _ } => rows.update(at.subject, |theirs| theirs.passkeys.0.clear()),
            UserEvent::Erased => rows.update(at.subject, |theirs| *theirs = Model::none(theirs.id)),
            UserEvent::Renamed { .. }
            | UserEvent::PreferencesChanged { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::PasswordChanged { .. }
            | UserEvent::PasswordResetRequested { .. }
            | UserEvent::PasswordReset { .. }
            | UserEvent::EmailVerified
            | UserEvent::EmailChangeRequested { .. }
            | UserEvent::EmailChanged { .. }
            | UserEvent::TotpBegun { .. }
            | UserEvent::TotpConfirmed { .. }
            | UserEvent::TotpUsed { .. }
            | UserEvent::RecoveryCodeUsed { .. }
            | UserEvent::RecoveryCodesReplaced { .. }
            | UserEvent::TotpDisabled
            | UserEvent::PasskeyCloneSuspected { .. }
            | UserEvent::MadeAnew { .. }
            | UserEvent::ErasureCompleted { .. } => {}
        }
    }
}

impl Model {
    fn none(id: UserId) -> Self {
        Self { id, handle: None, passkeys: Passkeys::default() }
    }
}
