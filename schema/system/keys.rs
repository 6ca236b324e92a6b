//! Which keys the installation has, and another master key in the place of the one in force.
//!
//! What is shown are ids, ages and counts: no key ever comes here.

use std::sync::Arc;

use async_graphql::{Context, InputObject, SimpleObject};
use oriel_engine::keyring::{Inventory, MasterKeyState, Rotation, SecretState};
use oriel_kernel::{ErrorCode, Rejection, Timestamp, operations};

use super::{dependency, short};
use crate::access::unavailable;
use crate::payload::payloads;
use crate::services::Services;

/// What can be done with master keys.
#[derive(Default)]
pub struct MasterKeyMutation;

payloads! {
    /// Which master key wraps from now on.
    MasterKeyRotatePayload {
        /// Its id.
        key_id: String,
    }
}

/// Another master key needs nothing.
#[derive(InputObject)]
struct MasterKeyRotateInput {
    /// Makes a retry safe: the same key rotates once.
    idempotency_key: Option<String>,
}

#[operations(mutation)]
impl MasterKeyMutation {
    /// Lets another master key wrap the keys of the installation: a new one where it is in a file of the data folder,
    /// else the one in `ORIEL_MASTER_KEY`, which every node was given beside the one in force
    /// (`ORIEL_MASTER_KEY_PREVIOUS`). Answers when it wraps; see `system.keyInventory` for how far everything else is
    /// wrapped anew. That goes on after a restart.
    #[permission("system:manage")]
    async fn master_key_rotate(
        &self,
        cx: &Context<'_>,
        input: Option<MasterKeyRotateInput>,
    ) -> crate::access::Result<MasterKeyRotatePayload> {
        let services = Services::of(cx)?;
        let context = granted.command(cx, &input)?;
        let rotation = services.engine.keyring().rotate(context.command.uuid(), context.now).await;
        let conflict = |message: &str| Err(Rejection::new(ErrorCode::Conflict, message).into());
        let key_id = match rotation.map_err(unavailable)? {
            Rotation::Begun(id) => id,
            Rotation::NoOther => {
                return conflict(
                    "The master key comes from the settings, and is the one in force. Give every node a new one as \
                     ORIEL_MASTER_KEY and the one in force as ORIEL_MASTER_KEY_PREVIOUS, restart them, and ask again.",
                );
            }
            Rotation::Used(_) => {
                return conflict("That master key was in force before, and is not taken again. Make a new one.");
            }
            Rotation::Raced => return conflict("Somebody else rotated at this moment."),
        };
        let by = granted.viewer()?;
        tracing::info!(user = %by.user, member = %by.member, key = key_id, "a master key took the place of another");
        tokio::spawn(wrap_anew(Arc::clone(services)));
        Ok(MasterKeyRotatePayload { key_id: Some(key_id), user_errors: Vec::new(), position: None })
    }
}

/// Wraps anew what is wrapped by a master key that was replaced, if anything is.
pub async fn wrap_anew(services: Arc<Services>) {
    let keyring = services.engine.keyring();
    let done = match keyring.is_unfinished().await {
        Ok(false) => return,
        Ok(true) => keyring.wrap_anew(services.engine.now()).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => tracing::info!("every key is wrapped by the master key in force"),
        Err(error) => tracing::error!(%error, "keys are not wrapped anew; it goes on after a restart, or when asked"),
    }
    services.engine.feed().touch(&[dependency()]);
}

/// The keys of the installation: ids, ages and counts, never a key.
#[derive(SimpleObject)]
pub(super) struct KeyInventory {
    /// The master keys that wrap or wrapped the others, the one in force last.
    master_keys: Vec<MasterKeyStatus>,
    /// Data keys: one for each person and each organization.
    data_keys: i32,
    /// Data keys that were destroyed, by an erasure or the end of an organization.
    destroyed_data_keys: i32,
    /// The secrets of the installation, by name.
    secrets: Vec<SecretStatus>,
}

/// A master key.
#[derive(SimpleObject)]
struct MasterKeyStatus {
    /// What it is called. It follows from the key, and does not give it away.
    id: String,
    /// Since when it wraps.
    since: Timestamp,
    /// When another one took its place; null for the one in force.
    replaced_at: Option<Timestamp>,
    /// Since when nothing is wrapped with it, so that nobody needs it any more.
    emptied_at: Option<Timestamp>,
    /// Data keys that it wraps.
    data_keys: i32,
    /// Secrets that it wraps.
    secrets: i32,
    /// Whether the node that answers has it.
    at_hand: bool,
}

/// The secrets of the installation under one name.
#[derive(SimpleObject)]
struct SecretStatus {
    /// What they are for.
    name: String,
    /// How many there are.
    count: i32,
    /// When the first was made.
    oldest: Timestamp,
    /// When the last was made.
    newest: Timestamp,
}

/// Which keys there are.
pub(super) async fn inventory(services: &Services) -> async_graphql::Result<KeyInventory> {
    let Inventory { master_keys, data_keys, destroyed, secrets } =
        services.engine.keyring().inventory().await.map_err(unavailable)?;
    Ok(KeyInventory {
        master_keys: master_keys.into_iter().map(MasterKeyStatus::from).collect(),
        data_keys: short(data_keys),
        destroyed_data_keys: short(destroyed),
        secrets: secrets.into_iter().map(SecretStatus::from).collect(),
    })
}

impl From<MasterKeyState> for MasterKeyStatus {
    fn from(key: MasterKeyState) -> Self {
        let MasterKeyState { id, since, replaced_at, emptied_at, data_keys, secrets, at_hand } = key;
        Self { id, since, replaced_at, emptied_at, data_keys: short(data_keys), secrets: short(secrets), at_hand }
    }
}

impl From<SecretState> for SecretStatus {
    fn from(secret: SecretState) -> Self {
        let SecretState { name, count, oldest, newest } = secret;
        Self { name, count: short(count), oldest, newest }
    }
}
