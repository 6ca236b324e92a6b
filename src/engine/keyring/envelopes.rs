//! Master keys that lie in the database, sealed by a service (envelope encryption). The service is asked for a master key
//! once in the life of a process, and never for the key of a person.
//!
//! Invariants: a sealed key is in the database before it wraps anything, so that all nodes have the same one; it is
//! removed when its turn is over and it wraps nothing. Nobody is asked for a key that nothing needs: a service that
//! another has taken the place of is not missed.
//!
//! Nothing here knows which service it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use zeroize::Zeroizing;

use super::master::{KeyPlace, MasterKey, MasterKeys, MasterKeysError};
use crate::db::Database;

/// A key, as a service gives it: in the clear, and sealed by one of the service's own.
pub struct ServiceKey {
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
    /// The same, sealed.
    pub sealed: Vec<u8>,
    /// The service's name for the key that it was sealed by.
    pub by: String,
}

/// A service that keeps keys which never leave it, and seals others by them.
#[async_trait]
pub trait KeyService: Send + Sync {
    /// What the settings call it: what it has sealed is found by this name.
    fn name(&self) -> &str;

    /// A new key.
    ///
    /// # Errors
    /// When the service is away or refuses.
    async fn generate(&self) -> Result<ServiceKey, MasterKeysError>;

    /// Opens what was sealed by one of its keys.
    ///
    /// # Errors
    /// When the service is away or refuses.
    async fn open(&self, sealed: &[u8], by: &str) -> Result<Zeroizing<[u8; 32]>, MasterKeysError>;
}

/// The master keys that one service has sealed.
pub struct Envelopes {
    database: Database,
    service: Arc<dyn KeyService>,
    makes: bool,
    /// Those that were opened, by their ids.
    opened: Mutex<BTreeMap<String, MasterKey>>,
}

/// A row.
struct Envelope {
    id: String,
    number: i32,
    by: String,
    sealed: Vec<u8>,
    /// Its turn is over, and it wraps nothing.
    is_spent: bool,
}

impl Envelope {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            id: row.try_get("", "id")?,
            number: row.try_get("", "number")?,
            by: row.try_get("", "sealed_by")?,
            sealed: row.try_get("", "sealed")?,
            is_spent: row.try_get::<Option<oriel_kernel::Timestamp>>("", "emptied_at")?.is_some(),
        })
    }
}

impl Envelopes {
    /// Those of this service, which is to wrap: the first one is made when there is none.
    pub fn new(database: Database, service: Arc<dyn KeyService>) -> Self {
        Self { database, service, makes: true, opened: Mutex::default() }
    }

    /// Those of a service that wrapped before: none is made.
    pub fn of_before(database: Database, service: Arc<dyn KeyService>) -> Self {
        Self { makes: false, ..Self::new(database, service) }
    }

    /// The newest first.
    async fn envelopes(&self) -> Result<Vec<Envelope>, MasterKeysError> {
        let sql = "SELECT e.id, e.number, e.sealed_by, e.sealed, m.emptied_at FROM master_key_envelopes e \
                   LEFT JOIN master_keys m ON m.id = e.id WHERE e.service = $1 ORDER BY e.number DESC";
        let statement = self.database.statement(sql, sql, vec![self.service.name().into()]);
        let rows = self.database.writer().query_all_raw(statement).await.map_err(unread)?;
        rows.iter().map(Envelope::read).collect::<Result<_, _>>().map_err(unread)
    }

    /// Has the service make the next one after these. When another node is first, its one counts: then nothing is written.
    async fn add_to(&self, envelopes: &[Envelope]) -> Result<Vec<Envelope>, MasterKeysError> {
        let number = envelopes.first().map_or(1, |newest| newest.number + 1);
        let ServiceKey { key, sealed, by } = self.service.generate().await?;
        let key = MasterKey::new(*key).kept_in(KeyPlace::Service(by.clone()));
        let id = key.id();
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), key);
        let sql = "INSERT INTO master_key_envelopes (id, service, number, sealed_by, sealed) \
                   VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let values = vec![id.into(), self.service.name().into(), number.into(), by.into(), sealed.into()];
        self.database.writer().execute_raw(self.database.statement(sql, sql, values)).await.map_err(unread)?;
        self.envelopes().await
    }

    async fn open(&self, envelope: &Envelope) -> Result<MasterKey, MasterKeysError> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&envelope.id).cloned();
        if let Some(key) = opened {
            return Ok(key);
        }
        let bytes = self.service.open(&envelope.sealed, &envelope.by).await?;
        let key = MasterKey::new(*bytes).kept_in(KeyPlace::Service(envelope.by.clone()));
        if key.id() != envelope.id {
            let (id, service) = (&envelope.id, self.service.name());
            let why = format!("{service} opens another key in the place of {id}: somebody has changed the database");
            return Err(MasterKeysError(why));
        }
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(key.id(), key.clone());
        Ok(key)
    }
}

#[async_trait]
impl MasterKeys for Envelopes {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        let mut envelopes = self.envelopes().await?;
        if self.makes && envelopes.iter().all(|envelope| envelope.is_spent) {
            envelopes = self.add_to(&envelopes).await?;
        }
        let mut keys = Vec::new();
        for envelope in envelopes.iter().filter(|envelope| !envelope.is_spent) {
            keys.push(self.open(envelope).await?);
        }
        Ok(keys)
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        if !self.makes {
            return Ok(None);
        }
        match self.add_to(&self.envelopes().await?).await?.first() {
            Some(newest) => self.open(newest).await.map(Some),
            None => Ok(None),
        }
    }

    async fn keep_only(&self, key: &MasterKey) -> Result<(), MasterKeysError> {
        // Not every other one: the next to wrap may be there already.
        let sql = "DELETE FROM master_key_envelopes WHERE id IN \
                   (SELECT id FROM master_keys WHERE emptied_at IS NOT NULL)";
        self.database.writer().execute_raw(self.database.statement(sql, sql, vec![])).await.map_err(unread)?;
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| *id == key.id());
        Ok(())
    }
}

fn unread(error: DbErr) -> MasterKeysError {
    MasterKeysError(format!("the database: {error}"))
}
