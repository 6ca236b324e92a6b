//! One master key takes the place of another: nothing that was sealed is lost, whoever is killed when.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use oriel_kernel::{AnyEvent, Personal};
use zeroize::Zeroizing;

use super::*;
use crate::keyring::{
    Envelopes, KeyError, KeyPlace, KeyService, Keyring, MasterKeys, MasterKeysError, Rotation, ServiceKey,
};

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

/// A service that seals by turning bytes over, and counts how often it is asked.
struct Service {
    name: String,
    is_away: AtomicBool,
    asked: AtomicUsize,
}

impl Service {
    fn called(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), is_away: AtomicBool::new(false), asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn answers(&self) -> Result<(), MasterKeysError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let is_away = self.is_away.load(Ordering::SeqCst);
        if is_away { Err(MasterKeysError(format!("{} is away", self.name))) } else { Ok(()) }
    }
}

#[async_trait]
impl KeyService for Service {
    fn name(&self) -> &str {
        &self.name
    }

    async fn generate(&self) -> Result<ServiceKey, MasterKeysError> {
        self.answers()?;
        let key = crate::keyring::random_key().unwrap();
        let sealed = key.iter().map(|byte| !byte).collect();
        Ok(ServiceKey { key, sealed, by: format!("a key of {}", self.name) })
    }

    async fn open(&self, sealed: &[u8], by: &str) -> Result<Zeroizing<[u8; 32]>, MasterKeysError> {
        self.answers()?;
        assert_eq!(by, format!("a key of {}", self.name));
        let bytes: Vec<u8> = sealed.iter().map(|byte| !byte).collect();
        Ok(Zeroizing::new(bytes.try_into().unwrap()))
    }
}

/// The place of the key that is to wrap, and those of others that wrapped before.
struct Several(Box<dyn MasterKeys>, Vec<Box<dyn MasterKeys>>);

#[async_trait]
impl MasterKeys for Several {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        let mut keys = self.0.all().await?;
        for before in &self.1 {
            keys.extend(before.all().await?);
        }
        Ok(keys)
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        self.0.make().await
    }

    async fn keep_only(&self, key: &MasterKey) -> Result<(), MasterKeysError> {
        for place in std::iter::once(&self.0).chain(&self.1) {
            place.keep_only(key).await?;
        }
        Ok(())
    }
}

/// A node whose master key is a service's.
async fn served(place: &Place, service: &Arc<Service>, before: Vec<Box<dyn MasterKeys>>) -> Result<Keyring, KeyError> {
    let database = Database::open(&place.location, 2).await.unwrap();
    let service = Arc::clone(service) as Arc<dyn KeyService>;
    let source = Several(Box::new(Envelopes::new(database.clone(), service)), before);
    Keyring::open(database, Arc::new(source), place.sources.now()).await
}

fn given(byte: u8) -> Box<dyn MasterKeys> {
    Box::new(MasterKey::new([byte; 32]))
}

async fn envelopes(place: &Place) -> usize {
    let database = Database::open(&place.location, 2).await.unwrap();
    database.query("SELECT id FROM master_key_envelopes", vec![]).await.unwrap().len()
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

    /// The service is asked when a node starts and when keys are rotated: nobody waits for it otherwise.
    async fn a_service_seals_the_master_key_and_is_not_asked_for_anybodys(place) {
        let kms = Service::called("kms");
        let (one, other) = futures::join!(served(&place, &kms, vec![]), served(&place, &kms, vec![]));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(envelopes(&place).await, 1, "whoever was first");
        let asked = kms.asked();
        assert!((2..=3).contains(&asked), "{asked}");
        let events = sealed(&one, 1..300).await;
        assert_eq!(legible(&other, &events).await, 299);
        assert_eq!(kms.asked(), asked);
        let keys = one.inventory().await.unwrap().master_keys;
        assert_eq!(keys[0].place, Some(KeyPlace::Service("a key of kms".to_owned())));

        // A node that starts while it is away says so, and those that run go on.
        kms.is_away.store(true, Ordering::SeqCst);
        let refused = served(&place, &kms, vec![]).await.err().unwrap().to_string();
        assert!(refused.contains("kms is away"), "{refused}");
        assert!(one.rotate(Uuid::from_u128(1), place.sources.now()).await.is_err());
        sealed(&one, 300..310).await;
        assert_eq!(legible(&other, &events).await, 299);
        kms.is_away.store(false, Ordering::SeqCst);

        // Whoever changes the database does not get their own key taken.
        let database = Database::open(&place.location, 2).await.unwrap();
        let sql = "UPDATE master_key_envelopes SET sealed = $1";
        let changed = database.statement(sql, sql, vec![vec![1_u8; 32].into()]);
        database.writer().execute_raw(changed).await.unwrap();
        let refused = served(&place, &kms, vec![]).await.err().unwrap().to_string();
        assert!(refused.contains("somebody has changed the database"), "{refused}");
    }

    /// From the settings to a service, to another key of it, to another service, and back.
    async fn master_keys_move_to_a_service_and_away_from_it(place) {
        let now = place.sources.now();
        let (kms, next) = (Service::called("kms"), Service::called("next"));
        let old = keyring(&place, &[1]).await.unwrap();
        let events = sealed(&old, 1..20).await;
        let rotated = async |node: &Keyring, command: u128| {
            let rotation = node.rotate(Uuid::from_u128(command), now).await.unwrap();
            node.wrap_anew(now).await.unwrap();
            assert!(matches!(rotation, Rotation::Begun(_)), "{rotation:?}");
        };
        // Beside the one in force, it is made and wraps nothing.
        let node = served(&place, &kms, vec![given(1)]).await.unwrap();
        assert_eq!((envelopes(&place).await, node.inventory().await.unwrap().master_keys.len()), (1, 1));
        rotated(&node, 1).await;
        let alone = served(&place, &kms, vec![]).await.unwrap();
        assert_eq!(legible(&alone, &events).await, 19);
        // Another one of the same service; nodes that have not heard of it go on.
        rotated(&alone, 2).await;
        assert_eq!(envelopes(&place).await, 1, "the one before is gone");
        assert_eq!(legible(&node, &sealed(&alone, 20..25).await).await, 5);
        // To another service: until that is done, the one before is needed, and its name is said.
        let lacking = served(&place, &next, vec![]).await.err().unwrap().to_string();
        assert!(lacking.contains(" of kms,"), "{lacking}");
        let database = Database::open(&place.location, 2).await.unwrap();
        let before = |service: &Arc<Service>| -> Vec<Box<dyn MasterKeys>> {
            vec![Box::new(Envelopes::of_before(database.clone(), Arc::clone(service) as Arc<dyn KeyService>))]
        };
        let node = served(&place, &next, before(&kms)).await.unwrap();
        rotated(&node, 3).await;
        assert_eq!(envelopes(&place).await, 1);
        kms.is_away.store(true, Ordering::SeqCst);
        let node = served(&place, &next, before(&kms)).await.unwrap();
        assert_eq!(legible(&node, &events).await, 19, "it is not missed");
        // And back into the settings.
        let source = Arc::new(Several(given(2), before(&next)));
        let node = Keyring::open(database.clone(), source, now).await.unwrap();
        rotated(&node, 4).await;
        next.is_away.store(true, Ordering::SeqCst);
        assert_eq!(legible(&keyring(&place, &[2]).await.unwrap(), &events).await, 19);
        assert_eq!(envelopes(&place).await, 0);
    }
}
