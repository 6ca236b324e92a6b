//! Keys: the data keys of persons and organisations, by which personal data in the log is sealed, and the
//! installation's.
//!
//! All are rows, wrapped by a [master key](master), made once by insert-if-absent; nothing that a second node needs is local
//! to a node. What an organisation's event says about a person is sealed with a key that follows from both their keys:
//! when either is destroyed, it is erased. The installation's events need the person's alone.
//!
//! A data key is destroyed by an event, in its transaction, and stays as a row without a key, so that it is never made
//! again. Every node drops it when it hears of that batch; what was sealed before it heard is refused by the committer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use oriel_kernel::{AnyEvent, Blinder, OrganizationId, PersonalField, PersonalVisitor, Timestamp};
use sea_orm::{ColumnType, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, QueryResult, Value};
use uuid::Uuid;
use zeroize::Zeroizing;

mod envelopes;
mod master;
mod secrets;

pub use envelopes::{Envelopes, KeyService, ServiceKey};
use master::Masters;
pub use master::{Inventory, KeyPlace, MasterKey, MasterKeyState, MasterKeys, MasterKeysError, Rotation, SecretState};

use crate::bulk::{Bulk, OnConflict, ids_json, in_ids};
use crate::db::Database;
use crate::read::Dependency;

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// Damaged.
    #[error("a key of the installation does not open with its master key: it is damaged")]
    Unwrap,
    /// This process was not given a master key that is needed.
    #[error(
        "keys of this installation are wrapped by the master key {wanted}, and this process was given {given}; give it \
         that one as well (ORIEL_MASTER_KEY_PREVIOUS, or a line of the file master.key) until `oriel keys rotate` is done"
    )]
    Lacking {
        /// The id of the one that is needed.
        wanted: String,
        /// The ids of those that are there.
        given: String,
    },
    /// The place of the master keys.
    #[error(transparent)]
    MasterKeys(#[from] MasterKeysError),
    /// The operating system gives no random bytes, or refuses the cipher.
    #[error("the cipher failed")]
    Cipher,
    /// The event cannot be serialised.
    #[error("personal data is not serialisable: {0}")]
    Serialise(#[from] serde_json::Error),
    /// Something was to be sealed with a key that was destroyed.
    #[error("the data key {0} was destroyed: nothing more is sealed with it")]
    Destroyed(Uuid),
}

/// A data key; `None` when it was destroyed.
type DataKey = Option<Arc<Zeroizing<[u8; 32]>>>;
type DataKeys = HashMap<Uuid, DataKey>;

/// The keys, with a bounded cache.
pub struct Keyring {
    database: Database,
    masters: Masters,
    random: SystemRandom,
    cached: moka::sync::Cache<Uuid, DataKey>,
    /// How often this process was told that keys were destroyed: what was read before that is not kept.
    dropped: AtomicU64,
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
    /// When a master key that is needed is not given.
    pub async fn open(database: Database, masters: Arc<dyn MasterKeys>, now: Timestamp) -> Result<Self, KeyError> {
        let mut this = Self {
            masters: Masters::open(&database, masters, now).await?,
            database,
            random: SystemRandom::new(),
            cached: moka::sync::Cache::new(100_000),
            dropped: AtomicU64::new(0),
            blind: hmac::Key::new(hmac::HMAC_SHA256, &[]),
        };
        let blind = this.secret("blind", now).await?;
        this.blind = hmac::Key::new(hmac::HMAC_SHA256, blind.as_slice());
        Ok(this)
    }

    /// The newest 32 byte secret of the installation under this name; made when there is none.
    ///
    /// # Errors
    /// See [`Keyring::open`].
    pub async fn secret(&self, name: &str, now: Timestamp) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let select = "SELECT wrapped, wrapped_by FROM secrets WHERE name = $1 ORDER BY created_at DESC LIMIT 1";
        if let Some(row) = self.database.query(select, vec![name.into()]).await?.first() {
            return self.open_secret(row, name);
        }
        // Whoever is first makes it: all nodes would give it the same id.
        self.add_secret(name, Uuid::nil(), now).await?;
        let statement = self.database.statement(select, select, vec![name.into()]);
        let row = self.database.writer().query_one_raw(statement).await?.ok_or(KeyError::Unwrap)?;
        self.open_secret(&row, name)
    }

    /// All secrets of the installation under a name, the oldest first, each with the moment since when it is there.
    ///
    /// # Errors
    /// See [`Keyring::open`].
    pub async fn secrets(&self, name: &str) -> Result<Vec<(Timestamp, Zeroizing<[u8; 32]>)>, KeyError> {
        let select = "SELECT wrapped, wrapped_by, created_at FROM secrets WHERE name = $1 ORDER BY created_at, key_id";
        let rows = self.database.query(select, vec![name.into()]).await?;
        rows.iter().map(|row| Ok((row.try_get("", "created_at")?, self.open_secret(row, name)?))).collect()
    }

    /// Adds a secret under a name; those before it stay. Added again with the same id, nothing changes.
    ///
    /// # Errors
    /// See [`Keyring::open`].
    pub async fn add_secret(&self, name: &str, id: Uuid, now: Timestamp) -> Result<(), KeyError> {
        let bytes = random_key()?;
        let postgres = "WITH m AS (SELECT id FROM master_keys WHERE id = $5 AND replaced_at IS NULL FOR SHARE) \
                        INSERT INTO secrets (name, key_id, wrapped, created_at, wrapped_by) \
                        SELECT $1, $2, $3, $4, m.id FROM m ON CONFLICT DO NOTHING";
        let sqlite = "INSERT INTO secrets (name, key_id, wrapped, created_at, wrapped_by) \
                      SELECT $1, $2, $3, $4, id FROM master_keys WHERE id = $5 AND replaced_at IS NULL \
                      ON CONFLICT DO NOTHING";
        loop {
            let (wrapped, by) = self.wrap(bytes.as_slice(), name.as_bytes())?;
            let values = vec![name.into(), id.into(), wrapped.into(), now.into(), by.clone().into()];
            self.database.writer().execute_raw(self.database.statement(postgres, sqlite, values)).await?;
            if self.wraps_still(&by).await? {
                return Ok(());
            }
        }
    }

    /// Whether this master key is still the one that wraps. If not, what was to be wrapped by it was not written.
    async fn wraps_still(&self, by: &str) -> Result<bool, KeyError> {
        self.masters.refresh(&self.database).await?;
        Ok(self.masters.wrapping()?.0 == by)
    }

    fn open_secret(&self, row: &QueryResult, name: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let by: String = row.try_get("", "wrapped_by")?;
        self.masters.unwrap(&by, &row.try_get::<Vec<u8>>("", "wrapped")?, name.as_bytes())
    }

    /// Seals the personal data of an event of this organisation (`ABSENT`: of the installation) with the keys of the
    /// persons it is about; makes the missing ones. Gives the persons: their keys have to be there still when the event
    /// is written.
    ///
    /// # Errors
    /// When a key was destroyed, or the database is not there.
    pub async fn seal(
        &self,
        organization: OrganizationId,
        event: &mut dyn AnyEvent,
    ) -> Result<BTreeSet<Uuid>, KeyError> {
        let persons = persons_of(event);
        if persons.is_empty() {
            return Ok(persons);
        }
        let keys = self.keys(with(&persons, organization), true).await?;
        let mut sealer = Sealer { keyring: self, keys, organization, error: None };
        event.visit_personal(&mut sealer);
        sealer.error.map_or(Ok(persons), Err)
    }

    /// Opens the personal data of events that were read from the log, each with its organisation; what was forgotten
    /// becomes erased.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn unseal(&self, mut events: Vec<(OrganizationId, &mut dyn AnyEvent)>) -> Result<(), KeyError> {
        let mut wanted = BTreeSet::new();
        for (organization, event) in &mut events {
            let persons = persons_of(*event);
            if !persons.is_empty() {
                wanted.append(&mut with(&persons, *organization));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let keys = self.keys(wanted, false).await?;
        for (organization, event) in events {
            event.visit_personal(&mut Opener { keys: &keys, organization });
        }
        Ok(())
    }

    /// Drops what this batch destroyed. Called before anybody is told of the batch.
    pub(crate) fn hear(&self, touched: &[Dependency]) {
        if touched.iter().any(|dependency| dependency.as_str() == ANY_KEY) {
            self.drop_all();
        }
    }

    /// Drops every key that this process has at hand: they are read anew, those that are still there.
    pub(crate) fn drop_all(&self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        self.cached.invalidate_all();
    }

    /// These keys; the missing ones are made, or left out.
    async fn keys(&self, ids: BTreeSet<Uuid>, make: bool) -> Result<DataKeys, KeyError> {
        let (mut keys, mut unknown) = (DataKeys::new(), Vec::new());
        for id in ids {
            match self.cached.get(&id) {
                Some(key) => drop(keys.insert(id, key)),
                None => unknown.push(id),
            }
        }
        if unknown.is_empty() {
            return Ok(keys);
        }
        keys.extend(self.stored(self.connection(make), &unknown).await?);
        unknown.retain(|id| !keys.contains_key(id));
        while make && !unknown.is_empty() {
            let (by, _) = self.masters.wrapping()?;
            for id in &unknown {
                self.add_data_key(*id).await?;
            }
            // Another node may have been first: what is stored counts.
            keys.extend(self.stored(self.database.writer(), &unknown).await?);
            unknown.retain(|id| !keys.contains_key(id));
            // None was written when another master key has taken the place of the one that they were wrapped by.
            if !unknown.is_empty() && self.wraps_still(&by).await? {
                return Err(KeyError::Unwrap);
            }
        }
        Ok(keys)
    }

    /// Makes a data key, unless it is there.
    async fn add_data_key(&self, id: Uuid) -> Result<(), KeyError> {
        let (wrapped, by) = self.wrap(random_key()?.as_slice(), id.as_bytes())?;
        let postgres = "WITH m AS (SELECT id FROM master_keys WHERE id = $3 AND replaced_at IS NULL FOR SHARE) \
                        INSERT INTO data_keys (id, wrapped, wrapped_by) SELECT $1, $2, m.id FROM m \
                        ON CONFLICT DO NOTHING";
        let sqlite = "INSERT INTO data_keys (id, wrapped, wrapped_by) SELECT $1, $2, id FROM master_keys \
                      WHERE id = $3 AND replaced_at IS NULL ON CONFLICT DO NOTHING";
        let values = vec![id.into(), wrapped.into(), by.into()];
        self.database.writer().execute_raw(self.database.statement(postgres, sqlite, values)).await?;
        Ok(())
    }

    /// Where keys are looked up: what is about to be sealed sees a key that was made a moment ago; what is opened was
    /// sealed with a key that is there, and may be read while this process holds the one connection that writes.
    fn connection(&self, make: bool) -> &DatabaseConnection {
        if make { self.database.writer() } else { self.database.reader() }
    }

    async fn stored(&self, connection: &DatabaseConnection, ids: &[Uuid]) -> Result<DataKeys, KeyError> {
        let backend: DbBackend = self.database.backend();
        let sql = format!("SELECT id, wrapped, wrapped_by FROM data_keys WHERE {}", in_ids(backend, "id", 1));
        let mut refreshed = false;
        'reading: loop {
            let dropped = self.dropped.load(Ordering::SeqCst);
            let statement = self.database.statement(&sql, &sql, vec![Value::from(ids_json(ids))]);
            let mut found = DataKeys::new();
            for row in connection.query_all_raw(statement).await? {
                let id: Uuid = row.try_get("", "id")?;
                let key = match row.try_get::<Option<Vec<u8>>>("", "wrapped")? {
                    None => None,
                    Some(wrapped) => {
                        let by: String = row.try_get("", "wrapped_by")?;
                        match self.masters.unwrap(&by, &wrapped, id.as_bytes()) {
                            Ok(bytes) => Some(Arc::new(bytes)),
                            // It may have come since this process looked.
                            Err(KeyError::Lacking { .. }) if !refreshed => {
                                self.masters.refresh(&self.database).await?;
                                refreshed = true;
                                continue 'reading;
                            }
                            Err(error) => return Err(error),
                        }
                    }
                };
                self.cached.insert(id, key.clone());
                found.insert(id, key);
            }
            if self.dropped.load(Ordering::SeqCst) == dropped {
                return Ok(found);
            }
            // One of them may have been destroyed while it was read.
            self.cached.invalidate_all();
        }
    }

    /// The bytes, wrapped by the master key in force, and its id.
    fn wrap(&self, bytes: &[u8], context: &[u8]) -> Result<(Vec<u8>, String), KeyError> {
        let (id, master) = self.masters.wrapping()?;
        Ok((self.encrypt(&master, bytes, context)?, id))
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

/// Touched whenever a data key is destroyed: what shows opened personal data depends on it.
pub const ANY_KEY: &str = "data_keys";

/// What destroys these keys: rows for the transaction of the events that do it.
pub(crate) fn destroyed(backend: DbBackend, ids: impl IntoIterator<Item = Uuid>) -> Result<Bulk, DbErr> {
    let bytes = ColumnType::VarBinary(sea_orm::sea_query::StringLen::None);
    let columns = [("id", ColumnType::Uuid), ("wrapped", bytes)];
    let mut bulk = Bulk::new(backend, "data_keys", &columns, OnConflict::Replace);
    for id in ids {
        bulk.row([Value::from(id), Value::Bytes(None)])?;
    }
    Ok(bulk)
}

/// The key of what an organisation's event says about a person; `None` when one of the two was destroyed.
fn key_of(keys: &DataKeys, organization: OrganizationId, person: Uuid) -> Option<LessSafeKey> {
    let person = keys.get(&person)?.as_ref()?;
    if organization.is_absent() {
        return aes(person.as_slice()).ok();
    }
    let organization = keys.get(&organization.uuid())?.as_ref()?;
    let mut both = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, person.as_slice()));
    both.update(b"organization");
    both.update(organization.as_slice());
    aes(both.sign().as_ref()).ok()
}

/// The keys that what an organisation's events say about these persons needs.
fn with(persons: &BTreeSet<Uuid>, organization: OrganizationId) -> BTreeSet<Uuid> {
    let organization = Some(organization.uuid()).filter(|_| !organization.is_absent());
    persons.iter().copied().chain(organization).collect()
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
    keys: DataKeys,
    organization: OrganizationId,
    error: Option<KeyError>,
}

impl PersonalVisitor for Sealer<'_> {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        let of = field.of().uuid();
        let sealed = match (field.clear_bytes(), key_of(&self.keys, self.organization, of)) {
            (None, _) => return,
            (Some(Err(error)), _) => Err(error.into()),
            (Some(Ok(_)), None) => Err(KeyError::Destroyed(of)),
            (Some(Ok(clear)), Some(key)) => self.keyring.encrypt(&key, &clear, of.as_bytes()),
        };
        match sealed {
            Ok(bytes) => field.set_sealed(bytes),
            Err(error) => self.error = Some(error),
        }
    }
}

struct Opener<'a> {
    keys: &'a DataKeys,
    organization: OrganizationId,
}

impl PersonalVisitor for Opener<'_> {
    fn visit(&mut self, field: &mut dyn PersonalField) {
        let of = field.of().uuid();
        let opened = field
            .sealed_bytes()
            .and_then(|sealed| open(&key_of(self.keys, self.organization, of)?, sealed, of.as_bytes()));
        match opened {
            Some(clear) if field.set_clear(&clear).is_ok() => {}
            _ => field.set_erased(),
        }
    }
}
