//! Which keys the installation has, and another master key in the place of the one in force.
//!
//! What is shown are ids, ages and counts: no key ever comes here.

use std::sync::Arc;

use async_graphql::{Context, Enum, InputObject, SimpleObject};
use oriel_domain::organizations::{MasterKeyName, MasterKeyPlace as NamedPlace, RotateMasterKey};
use oriel_engine::keyring::{Inventory, KeyPlace, MasterKeyState, Rotation, SecretState};
use oriel_engine::{CommandContext, CommandError};
use oriel_kernel::{ErrorCode, Position, Rejection, Timestamp, operations};
use oriel_read_models::organizations;

use super::{dependency, short};
use crate::access::{derived_command, unavailable};
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
    /// Lets another master key wrap the keys of the installation: a new one where it is in a file of the data folder or
    /// sealed by a key management service; else, and from one place to another, the one in `ORIEL_MASTER_KEY`, which every
    /// node was given beside the one in force (`ORIEL_MASTER_KEY_PREVIOUS`). Answers when it wraps; see `system.keyInventory` for how far everything else is
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
        let position = written(services, Some(&context)).await?;
        let by = granted.viewer()?;
        tracing::info!(user = %by.user, member = %by.member, key = key_id, "a master key took the place of another");
        tokio::spawn(wrap_anew(Arc::clone(services)));
        Ok(MasterKeyRotatePayload { key_id: Some(key_id), user_errors: Vec::new(), position })
    }
}

/// Writes into the log of the organisation that operates the installation that the last rotation was, once: by whom, or,
/// when the process was killed before it could, that it was found.
async fn written(services: &Services, by: Option<&CommandContext>) -> Result<Option<Position>, CommandError> {
    let engine = &services.engine;
    let Some([from, to]) = engine.keyring().last_rotation().await? else { return Ok(None) };
    // Asked again after it was done, there may be no key of before any more; then it was written long ago.
    let (Some(from), Some(to)) = (named(from), named(to)) else { return Ok(None) };
    let operator = organizations::first(engine.database().reader()).await;
    let operator = operator.map_err(|error| CommandError::Unavailable(error.to_string()))?;
    let Some(operator) = operator else { return Ok(None) };
    let id = derived_command(&format!("master_key/{}", to.id));
    let mut context = CommandContext::system(id, operator, engine.now());
    if let Some(by) = by {
        (context.actor, context.correlation) = (by.actor, by.correlation);
    }
    let done = engine.execute(&context, operator, RotateMasterKey { from, to }).await?;
    Ok(Some(done.position))
}

fn named((id, place): (String, Option<KeyPlace>)) -> Option<MasterKeyName> {
    let place = match place? {
        KeyPlace::Settings => NamedPlace::Settings,
        KeyPlace::File => NamedPlace::File,
        KeyPlace::Service(key) => NamedPlace::Kms(key),
    };
    Some(MasterKeyName { id, place })
}

/// Wraps anew what is wrapped by a master key that was replaced, if anything is.
pub async fn wrap_anew(services: Arc<Services>) {
    let keyring = services.engine.keyring();
    let done = match keyring.is_unfinished().await {
        Ok(false) => return,
        Ok(true) => {
            if let Err(error) = written(&services, None).await {
                tracing::error!(%error, "that another master key wraps is not in the log");
            }
            keyring.wrap_anew(services.engine.now()).await
        }
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
    /// Where that node has it from; null when it does not have it.
    place: Option<MasterKeyPlace>,
    /// The key of the key management service that has sealed it, as the service calls it; null for other places.
    kms_key_id: Option<String>,
}

/// Where a master key is kept.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
enum MasterKeyPlace {
    /// In the settings of each node.
    Settings,
    /// In a file of the data folder.
    File,
    /// In the database, sealed by a key of a key management service.
    Kms,
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
        let MasterKeyState { id, since, replaced_at, emptied_at, data_keys, secrets, place } = key;
        let (data_keys, secrets, at_hand) = (short(data_keys), short(secrets), place.is_some());
        let (place, kms_key_id) = match place {
            None => (None, None),
            Some(KeyPlace::Settings) => (Some(MasterKeyPlace::Settings), None),
            Some(KeyPlace::File) => (Some(MasterKeyPlace::File), None),
            Some(KeyPlace::Service(key)) => (Some(MasterKeyPlace::Kms), Some(key)),
        };
        Self { id, since, replaced_at, emptied_at, data_keys, secrets, at_hand, place, kms_key_id }
    }
}

impl From<SecretState> for SecretStatus {
    fn from(secret: SecretState) -> Self {
        let SecretState { name, count, oldest, newest } = secret;
        Self { name, count: short(count), oldest, newest }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_domain::organizations::OrganizationEvent;
    use oriel_kernel::{Actor, Position as At};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::testing::Bed;

    /// Who did it, from which key, to which.
    async fn rotations(bed: &Bed) -> Vec<(Actor, String, String)> {
        let log = bed.endpoint.services().engine.log().read(At::START, 1_000).await.unwrap();
        let rotations = log.iter().filter_map(|recorded| match recorded.event_as() {
            Some(OrganizationEvent::MasterKeyRotated { from, to }) => {
                assert_eq!((&from.place, &to.place), (&NamedPlace::Settings, &NamedPlace::Settings));
                Some((recorded.actor, from.id.clone(), to.id.clone()))
            }
            _ => None,
        });
        rotations.collect()
    }

    #[tokio::test]
    async fn a_rotation_is_in_the_log_once_whoever_is_killed_when() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["admin"]).await;
        let rotate = async |token: &str, key: &str| {
            let query = "mutation($key: String!) { masterKeyRotate(input: { idempotencyKey: $key }) {
                keyId userErrors { code } } }";
            bed.ask(Some(token), query, json!({ "key": key })).await["data"]["masterKeyRotate"].take()
        };
        let refused = rotate(&bob.access, "r").await;
        assert_eq!(refused["userErrors"], json!([{ "code": "FORBIDDEN" }]), "{refused}");
        let rotated = rotate(&ada.access, "r").await;
        assert_eq!(rotate(&ada.access, "r").await, rotated);
        let hers = Actor::Member(ada.member.parse().unwrap());
        let log = rotations(&bed).await;
        assert_eq!((log.len(), log[0].0, &json!(log[0].2)), (1, hers, &rotated["keyId"]));

        // Killed between the two: the next process that starts writes that it was.
        let services = bed.endpoint.services();
        let next = services.engine.keyring().rotate(Uuid::from_u128(7), services.engine.now()).await.unwrap();
        assert_eq!(rotations(&bed).await.len(), 1);
        for _ in 0..2 {
            wrap_anew(Arc::clone(services)).await;
        }
        let log = rotations(&bed).await;
        assert_eq!(log[1], (Actor::System, log[0].2.clone(), log[1].2.clone()));
        assert_eq!((log.len(), next), (2, Rotation::Begun(log[1].2.clone())));
    }
}
