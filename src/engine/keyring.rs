//! Keys: a person's, by which personal data in the log is sealed, and the installation's.
//!
//! All are rows, wrapped by the master key, made once by insert-if-absent; nothing that a second node needs is local
//! to a node. A destroyed person key stays as a row without a key, so that it is never made again.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use oriel_kernel::{AnyEvent, Blinder, Id, PersonalField, PersonalVisitor, Timestamp, UserId};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Value};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::bulk::{ids_json, in_ids};
use crate::db::Database;

/// The key that wraps all others. 32 bytes, never printed.
#[derive(Clone)]
pub struct MasterKey(Arc<Zeroizing<[u8; 32]>>);

impl MasterKey {
    /// From 32 bytes of a file or a setting.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// Wrapped by another master key, or damaged.
    #[error("a key of the installation does not open with this master key")]
    Unwrap,
    /// The operating system gives no random bytes, or refuses the cipher.
    #[error("the cipher failed")]
    Cipher,
    /// The event cannot be serialised.
    #[error("personal data is not serialisable: {0}")]
    Serialise(#[from] serde_json::Error),
    /// Something was written about a person whose key was destroyed.
    #[error("the key of {0} was destroyed: nothing more can be written about this person")]
    Destroyed(UserId),
}

/// The keys, with a bounded cache.
pub struct Keyring {
    database: Database,
    master: LessSafeKey,
    random: SystemRandom,
    persons: moka::sync::Cache<Uuid, Option<Arc<LessSafeKey>>>,
    blind: hmac::Key,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

impl Keyring {
    /// Opens the installation's keys, and makes those that are missing.
    ///
    /// # Errors
    /// When the master key is not the one that wrapped them.
    pub async fn open(database: Database, master: &MasterKey, now: Timestamp) -> Result<Self, KeyError> {
        let mut this = Self {
            database,
            master: aes(master.0.as_slice())?,
            random: SystemRandom::new(),
            persons: moka::sync::Cache::new(100_000),
            blind: hmac::Key::new(hmac::HMAC_SHA256, &[]),
        };
        let blind = this.secret("blind", now).await?;
        this.blind = hmac::Key::new(hmac::HMAC_SHA256, blind.as_slice());
        Ok(this)
    }

    /// A 32 byte secret of the installation by its name; made once.
    ///
    /// # Errors
    /// See [`Keyring::open`].
    pub async fn secret(&self, name: &str, now: Timestamp) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let fresh = random_key()?;
        // One current key a name for now; the key id leaves the room for rotation with overlap.
        let wrapped = self.wrap(fresh.as_slice(), name.as_bytes())?;
        let insert = self.database.statement(
            "INSERT INTO secrets (name, key_id, wrapped, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            "INSERT INTO secrets (name, key_id, wrapped, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            vec![name.into(), Uuid::nil().into(), wrapped.into(), now.into()],
        );
        let select = "SELECT wrapped FROM secrets WHERE name = $1 ORDER BY created_at DESC LIMIT 1";
        if let Some(row) = self.database.query(select, vec![name.into()]).await?.first() {
            return self.open_secret(&row.try_get::<Vec<u8>>("", "wrapped")?, name);
        }
        self.database.writer().execute_raw(insert).await?;
        let statement = self.database.statement(select, select, vec![name.into()]);
        let row = self.database.writer().query_one_raw(statement).await?.ok_or(KeyError::Unwrap)?;
        self.open_secret(&row.try_get::<Vec<u8>>("", "wrapped")?, name)
    }

    fn open_secret(&self, wrapped: &[u8], name: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let bytes = open(&self.master, wrapped, name.as_bytes()).ok_or(KeyError::Unwrap)?;
        Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| KeyError::Unwrap)?))
    }

    /// Seals the personal data of an event with the keys of the persons it is about; makes the missing ones.
    ///
    /// # Errors
    /// When a person's key was destroyed, or the database is not there.
    pub async fn seal(&self, event: &mut dyn AnyEvent) -> Result<(), KeyError> {
        let persons = persons_of(event);
        if persons.is_empty() {
            return Ok(());
        }
        self.load(&persons, true).await?;
        let mut sealer = Sealer { keyring: self, error: None };
        event.visit_personal(&mut sealer);
        sealer.error.map_or(Ok(()), Err)
    }

    /// Opens the personal data of events that were read from the log; what was forgotten becomes erased.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn unseal(&self, mut events: Vec<&mut dyn AnyEvent>) -> Result<(), KeyError> {
        let mut persons = BTreeSet::new();
        for event in &mut events {
            persons.extend(persons_of(*event));
        }
        if persons.is_empty() {
            return Ok(());
        }
        self.load(&persons, false).await?;
        for event in events {
            event.visit_personal(&mut Opener { keyring: self });
        }
        Ok(())
    }

    /// Loads the keys of these persons into the cache, and makes missing ones.
    async fn load(&self, persons: &BTreeSet<Uuid>, make: bool) -> Result<(), KeyError> {
        let unknown: Vec<Uuid> = persons.iter().filter(|id| !self.persons.contains_key(*id)).copied().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = self.stored(self.connection(make), &unknown).await?;
        let missing: Vec<Uuid> = unknown.into_iter().filter(|id| !found.contains(id)).collect();
        if make && !missing.is_empty() {
            for id in &missing {
                let wrapped = self.wrap(random_key()?.as_slice(), id.as_bytes())?;
                let sql = "INSERT INTO person_keys (user_id, wrapped) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                let statement = self.database.statement(sql, sql, vec![(*id).into(), wrapped.into()]);
                self.database.writer().execute_raw(statement).await?;
            }
            // Another node may have been first: what is stored counts.
            self.stored(self.database.writer(), &missing).await?;
        }
        Ok(())
    }

    /// Where keys are looked up: what is about to be sealed sees a key that was made a moment ago; what is opened was
    /// sealed with a key that is there, and may be read while this process holds the one connection that writes.
    fn connection(&self, make: bool) -> &DatabaseConnection {
        if make { self.database.writer() } else { self.database.reader() }
    }

    async fn stored(&self, connection: &DatabaseConnection, ids: &[Uuid]) -> Result<BTreeSet<Uuid>, KeyError> {
        let backend: DbBackend = self.database.backend();
        let sql = format!("SELECT user_id, wrapped FROM person_keys WHERE {}", in_ids(backend, "user_id", 1));
        let statement = self.database.statement(&sql, &sql, vec![Value::from(ids_json(ids))]);
        let mut found = BTreeSet::new();
        for row in connection.query_all_raw(statement).await? {
            let id: Uuid = row.try_get("", "user_id")?;
            let key = match row.try_get::<Option<Vec<u8>>>("", "wrapped")? {
                None => None,
                Some(wrapped) => {
                    let bytes = open(&self.master, &wrapped, id.as_bytes()).ok_or(KeyError::Unwrap)?;
                    Some(Arc::new(aes(&bytes)?))
                }
            };
            self.persons.insert(id, key);
            found.insert(id);
        }
        Ok(found)
    }

    fn wrap(&self, bytes: &[u8], context: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.encrypt(&self.master, bytes, context)
    }

    fn encrypt(&self, key: &LessSafeKey, bytes: &[u8], context: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| KeyError::Cipher)?;
        let mut sealed = bytes.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed)
            .map_err(|_| KeyError::Cipher)?;
        let mut out = nonce.to_vec();
        out.append(&mut sealed);
        Ok(out)
    }
}

impl Blinder for Keyring {
    fn blind(&self, purpose: &str, value: &str) -> String {
        let mut context = hmac::Context::with_key(&self.blind);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(value.as_bytes());
        data_encoding::BASE64URL_NOPAD.encode(context.sign().as_ref())
    }
}

/// A new key from the system's randomness.
///
/// # Errors
/// When the system gives no random bytes.
pub fn random_key() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| KeyError::Cipher)?;
    Ok(bytes)
}

fn aes(key: &[u8]) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| KeyError::Cipher)
}

fn open(key: &LessSafeKey, sealed: &[u8], context: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = Zeroizing::new(rest.to_vec());
    let length = key.open_in_place(nonce, Aad::from(context), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

fn persons_of(event: &mut dyn AnyEvent) -> BTreeSet<Uuid> {
    struct Collect(BTreeSet<Uuid>);
    impl PersonalVisitor for Collect {
        fn visit(&mut self, field: &mut dyn PersonalField) {
            self.0.insert(field.of().uuid());
        }
    }
    let mut collect = Collect(BTreeSet::new());
    event.visit_personal(&mut collect);
    collect.0
}

struct Sealer<'a> {
    keyring: &'a Keyring,
    error: Option<KeyError>,
}

impl PersonalVisitor for Sealer<'_> {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        let of = field.of();
        let sealed = match (field.clear_bytes(), self.keyring.persons.get(&of.uuid()).flatten()) {
            (None, _) => return,
            (Some(Err(error)), _) => Err(error.into()),
            (Some(Ok(_)), None) => Err(KeyError::Destroyed(of)),
            (Some(Ok(clear)), Some(key)) => self.keyring.encrypt(&key, &clear, of.uuid().as_bytes()),
        };
        match sealed {
            Ok(bytes) => field.set_sealed(bytes),
            Err(error) => self.error = Some(error),
        }
    }
}

struct Opener<'a> {
    keyring: &'a Keyring,
}

impl PersonalVisitor for Opener<'_> {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        let of: Id<_> = field.of();
        let opened = self
            .keyring
            .persons
            .get(&of.uuid())
            .flatten()
            .zip(field.sealed_bytes())
            .and_then(|(key, sealed)| open(&key, sealed, of.uuid().as_bytes()));
        match opened {
            Some(clear) if field.set_clear(&clear).is_ok() => {}
            _ => field.set_erased(),
        }
    }
}
