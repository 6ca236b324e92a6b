//! One master key takes the place of another: nothing that was sealed is lost, whoever is killed when.

use std::sync::Mutex;

use async_trait::async_trait;
use oriel_kernel::{AnyEvent, Personal};

use super::*;
use crate::keyring::{KeyError, Keyring, MasterKeys, MasterKeysError, Rotation};

/// Master keys as a folder would have them, with whether new ones are made.
struct Kept {
    keys: Mutex<Vec<MasterKey>>,
    makes: bool,
}

impl Kept {
    fn of(bytes: &[u8]) -> Arc<Self> {
        let keys = bytes.iter().map(|byte| MasterKey::new([*byte; 32])).collect();
        Arc::new(Self { keys: Mutex::new(keys), makes: false })
    }
}

#[async_trait]
impl MasterKeys for Kept {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        Ok(self.keys.lock().unwrap().clone())
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        let mut keys = self.keys.lock().unwrap();
        if self.makes {
            let made = MasterKey::new([100 + u8::try_from(keys.len()).unwrap(); 32]);
            keys.insert(0, made.clone());
            return Ok(Some(made));
        }
        Ok(None)
    }

    async fn keep_only(&self, key: &MasterKey) -> Result<(), MasterKeysError> {
        self.keys.lock().unwrap().retain(|kept| kept.id() == key.id());
        Ok(())
    }
}

fn id(byte: u8) -> String {
    MasterKey::new([byte; 32]).id()
}

async fn keyring(place: &Place, keys: &[u8]) -> Result<Keyring, KeyError> {
    let database = Database::open(&place.location, 2).await.unwrap();
    Keyring::open(database, Kept::of(keys), place.sources.now()).await
}

fn made_by(number: u128) -> ThingEvent {
    let owner = Personal::new(person(number), "Ada Lovelace".to_owned());
    ThingEvent::Made {
        thing: ThingId::from_uuid(Uuid::from_u128(number)),
        organization: org(1),
        label: String::new(),
        owner,
    }
}

/// An event about each of these persons, sealed.
async fn sealed(keyring: &Keyring, persons: std::ops::Range<u128>) -> Vec<ThingEvent> {
    let mut events: Vec<ThingEvent> = persons.map(made_by).collect();
    for event in &mut events {
        keyring.seal(org(1), event).await.unwrap();
    }
    events
}

/// How many of them can be read.
async fn legible(keyring: &Keyring, events: &[ThingEvent]) -> usize {
    let mut events = events.to_vec();
    let sealed = events.iter_mut().map(|event| (org(1), event as &mut dyn AnyEvent)).collect();
    keyring.unseal(sealed).await.unwrap();
    let is_legible = |event: &&ThingEvent| matches!(event, ThingEvent::Made { owner: Personal::Clear { .. }, .. });
    events.iter().filter(is_legible).count()
}

on_both! {
    /// Killed after each of its steps, begun again elsewhere, and beside a node that goes on with the old one.
    async fn what_was_sealed_stays_legible_and_the_old_key_is_not_needed(place) {
        let now = place.sources.now();
        let old = keyring(&place, &[1]).await.unwrap();
        let secret = old.secret("urls", now).await.unwrap();
        let events = sealed(&old, 1..450).await;
        assert_eq!(old.rotate(Uuid::from_u128(1), now).await.unwrap(), Rotation::NoOther);
        // Another one alone opens nothing.
        assert!(matches!(keyring(&place, &[2]).await, Err(KeyError::Lacking { wanted, .. }) if wanted == id(1)));

        // Beside the one in force it wraps nothing until somebody rotates.
        let (one, other) = (keyring(&place, &[2, 1]).await.unwrap(), keyring(&place, &[2, 1]).await.unwrap());
        sealed(&one, 450..451).await;
        assert_eq!(one.inventory().await.unwrap().master_keys.len(), 1);
        assert_eq!(one.rotate(Uuid::from_u128(1), now).await.unwrap(), Rotation::Begun(id(2)));
        assert_eq!(other.rotate(Uuid::from_u128(1), now).await.unwrap(), Rotation::Begun(id(2)), "a repetition");
        // Killed here: the old one is needed still.
        assert!(matches!(keyring(&place, &[2]).await, Err(KeyError::Lacking { wanted, .. }) if wanted == id(1)));
        // A node that has not heard of it wraps with the new one, and reads what it has not at hand.
        let late = sealed(&other, 451..460).await;
        let count = |keyring: &Keyring, key: usize| {
            let inventory = futures::executor::block_on(keyring.inventory()).unwrap();
            (inventory.master_keys[key].data_keys, inventory.master_keys[key].secrets)
        };
        assert_eq!(count(&other, 1).0, 9);
        assert_eq!(legible(&keyring(&place, &[1, 2]).await.unwrap(), &late).await, 9, "whatever stands first");

        // Both at once, and one of them a second time.
        let (first, second) = futures::join!(one.wrap_anew(now), other.wrap_anew(now));
        first.unwrap();
        second.unwrap();
        one.wrap_anew(now).await.unwrap();
        // 459 persons and the organisation.
        assert_eq!((count(&one, 0), count(&one, 1)), ((0, 0), (460, 2)));
        let alone = keyring(&place, &[2]).await.unwrap();
        assert_eq!((legible(&alone, &events).await, legible(&alone, &late).await), (449, 9));
        assert_eq!(*alone.secret("urls", now).await.unwrap(), *secret);
        assert!(matches!(keyring(&place, &[1]).await, Err(KeyError::Lacking { wanted, .. }) if wanted == id(2)));
        let again = keyring(&place, &[1, 2]).await.unwrap();
        assert_eq!(again.rotate(Uuid::from_u128(2), now).await.unwrap(), Rotation::Used(id(1)));
        // A node that was never given the new one seals nothing that others could not open.
        let mut event = made_by(900);
        assert!(matches!(old.seal(org(1), &mut event).await, Err(KeyError::Lacking { wanted, .. }) if wanted == id(2)));
    }

    /// Where keys are made here: one is made, takes the place of the other, and is alone.
    async fn a_key_that_is_made_here_is_alone_in_the_end(place) {
        let now = place.sources.now();
        let database = Database::open(&place.location, 2).await.unwrap();
        let kept = Arc::new(Kept { keys: Mutex::new(vec![MasterKey::new([1; 32])]), makes: true });
        let one = Keyring::open(database.clone(), Arc::clone(&kept) as Arc<dyn MasterKeys>, now).await.unwrap();
        let events = sealed(&one, 1..5).await;
        // Whose key was destroyed stays erased.
        let sql = "UPDATE data_keys SET wrapped = NULL WHERE id = $1";
        let destroy = database.statement(sql, sql, vec![person(1).uuid().into()]);
        database.writer().execute_raw(destroy).await.unwrap();
        assert!(!one.is_unfinished().await.unwrap());
        assert_eq!(one.rotate(Uuid::from_u128(1), now).await.unwrap(), Rotation::Begun(id(101)));
        assert!(one.is_unfinished().await.unwrap());
        one.wrap_anew(now).await.unwrap();
        assert!(!one.is_unfinished().await.unwrap());
        let kept: Vec<String> = kept.keys.lock().unwrap().iter().map(MasterKey::id).collect();
        assert_eq!(kept, [id(101)]);
        let alone = keyring(&place, &[101]).await.unwrap();
        assert_eq!(legible(&alone, &events).await, 3);
        let inventory = alone.inventory().await.unwrap();
        assert_eq!((inventory.data_keys, inventory.destroyed), (5, 1));
    }
}
