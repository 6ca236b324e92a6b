//! Master keys: what wraps every data key and every secret, and how one takes the place of another.
//!
//! The installation says which one wraps (the last row of `master_keys`), not a node: nodes that were given the next one
//! beside it go on with the one in force until somebody rotates. From that moment no node wraps with the one before it
//! any more, and what it wrapped is wrapped anew, row by row, however often a process is killed meanwhile. When nothing
//! is left, the row says so, and from then on a process starts without the old one.
//!
//! Nothing here knows how master keys are kept: that is a [`MasterKeys`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::hmac;
use oriel_kernel::Timestamp;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{KeyError, Keyring, aes, open};
use crate::db::Database;

/// Keys that are wrapped anew in one transaction.
const BATCH: usize = 200;

/// A key that wraps others. 32 bytes, never printed.
#[derive(Clone)]
pub struct MasterKey {
    bytes: Arc<Zeroizing<[u8; 32]>>,
    place: KeyPlace,
}

/// Where a master key is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyPlace {
    /// In the settings.
    Settings,
    /// In a file of the data folder.
    File,
    /// In the database, sealed by this key of a service.
    Service(String),
}

impl MasterKey {
    /// From 32 bytes of the settings.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self { bytes: Arc::new(Zeroizing::new(bytes)), place: KeyPlace::Settings }
    }

    /// The same, kept somewhere else.
    pub fn kept_in(self, place: KeyPlace) -> Self {
        Self { place, ..self }
    }

    /// What it is called where it is spoken of: it follows from the key, and does not give it away.
    pub fn id(&self) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.bytes.as_slice());
        data_encoding::HEXLOWER.encode(&hmac::sign(&key, b"the id of a master key").as_ref()[..8])
    }

    /// The bytes, for where they are kept.
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// The place of the master keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the master keys cannot be had: {0}")]
pub struct MasterKeysError(pub String);

/// Where master keys are kept: settings, a file, or a service that hands them out.
#[async_trait]
pub trait MasterKeys: Send + Sync {
    /// Every key that can be had. The first is the one that is to wrap, once somebody rotates.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError>;

    /// Makes a key and keeps it, before the others; `None` where keys are made by somebody else.
    ///
    /// # Errors
    /// When it cannot be kept; then it is not used.
    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError>;

    /// Lets go of every key but this one, where that is for Oriel to do: nothing is wrapped with them any more.
    ///
    /// # Errors
    /// When the others cannot be removed.
    async fn keep_only(&self, key: &MasterKey) -> Result<(), MasterKeysError>;
}

/// One key that stays.
#[async_trait]
impl MasterKeys for MasterKey {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        Ok(vec![self.clone()])
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        Ok(None)
    }

    async fn keep_only(&self, _: &MasterKey) -> Result<(), MasterKeysError> {
        Ok(())
    }
}

/// The master keys of this process, opened.
pub(super) struct Masters {
    source: Arc<dyn MasterKeys>,
    opened: ArcSwap<Opened>,
}

struct Opened {
    /// Each by its id.
    ciphers: BTreeMap<String, (Arc<LessSafeKey>, KeyPlace)>,
    /// The id of the one that wraps.
    wrapping: String,
}

/// A row of `master_keys`.
struct Turn {
    id: String,
    since: Timestamp,
    replaced_at: Option<Timestamp>,
    emptied_at: Option<Timestamp>,
    command: Option<Uuid>,
    /// What the settings call the service that has sealed it.
    service: Option<String>,
}

impl Turn {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            id: row.try_get("", "id")?,
            since: row.try_get("", "since")?,
            replaced_at: row.try_get("", "replaced_at")?,
            emptied_at: row.try_get("", "emptied_at")?,
            command: row.try_get("", "command")?,
            service: row.try_get("", "service")?,
        })
    }
}

/// All that ever wrapped, the first one first.
async fn turns(database: &Database) -> Result<Vec<Turn>, DbErr> {
    let sql = "SELECT m.id, m.since, m.replaced_at, m.emptied_at, m.command, e.service FROM master_keys m \
               LEFT JOIN master_key_envelopes e ON e.id = m.id ORDER BY m.turn";
    let rows = database.writer().query_all_raw(database.statement(sql, sql, vec![])).await?;
    rows.iter().map(Turn::read).collect()
}

impl Masters {
    /// Those of the installation; the first one to wrap in an empty one is the first that is given.
    pub(super) async fn open(
        database: &Database,
        source: Arc<dyn MasterKeys>,
        now: Timestamp,
    ) -> Result<Self, KeyError> {
        let keys = source.all().await?;
        let first = keys.first().ok_or_else(|| MasterKeysError("there is none".to_owned()))?;
        let sql = "INSERT INTO master_keys (turn, id, since) VALUES (1, $1, $2) ON CONFLICT DO NOTHING";
        let statement = database.statement(sql, sql, vec![first.id().into(), now.into()]);
        database.writer().execute_raw(statement).await?;
        let opened = Opened::of(&keys, &turns(database).await?)?;
        Ok(Self { source, opened: ArcSwap::from_pointee(opened) })
    }

    /// Reads anew which keys there are and which one wraps.
    pub(super) async fn refresh(&self, database: &Database) -> Result<(), KeyError> {
        let opened = Opened::of(&self.source.all().await?, &turns(database).await?)?;
        self.opened.store(Arc::new(opened));
        Ok(())
    }

    /// The key that wraps now, with its id.
    pub(super) fn wrapping(&self) -> Result<(String, Arc<LessSafeKey>), KeyError> {
        let opened = self.opened.load();
        let (cipher, _) = opened.ciphers.get(&opened.wrapping).ok_or(KeyError::Unwrap)?;
        Ok((opened.wrapping.clone(), Arc::clone(cipher)))
    }

    /// Opens what this key has wrapped.
    pub(super) fn unwrap(&self, by: &str, wrapped: &[u8], context: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let opened = self.opened.load();
        let (cipher, _) = opened.ciphers.get(by).ok_or_else(|| opened.lacks(by.to_owned()))?;
        let bytes = open(cipher, wrapped, context).ok_or(KeyError::Unwrap)?;
        Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| KeyError::Unwrap)?))
    }
}

impl Opened {
    fn of(keys: &[MasterKey], turns: &[Turn]) -> Result<Self, KeyError> {
        let ciphers = keys.iter().map(|key| Ok((key.id(), (Arc::new(aes(key.expose())?), key.place.clone()))));
        let wrapping = turns.last().map(|turn| turn.id.clone()).unwrap_or_default();
        let this = Self { ciphers: ciphers.collect::<Result<_, KeyError>>()?, wrapping };
        // What still wraps something has to be at hand.
        match turns.iter().find(|turn| turn.emptied_at.is_none() && !this.ciphers.contains_key(&turn.id)) {
            Some(Turn { id, service: Some(service), .. }) => Err(this.lacks(format!("{id} of {service}"))),
            Some(turn) => Err(this.lacks(turn.id.clone())),
            None => Ok(this),
        }
    }

    fn lacks(&self, wanted: String) -> KeyError {
        let given = self.ciphers.keys().cloned().collect::<Vec<_>>().join(", ");
        KeyError::Lacking { wanted, given }
    }

    fn place(&self, id: &str) -> Option<KeyPlace> {
        self.ciphers.get(id).map(|(_, place)| place.clone())
    }
}

/// What became of asking for another master key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rotation {
    /// This one wraps from now on; what others wrapped is yet to be wrapped anew.
    Begun(String),
    /// The key in force is the first of those that were given, and this process makes none.
    NoOther,
    /// This key wrapped before another took its place, and is not taken again.
    Used(String),
    /// Somebody else rotated at this moment.
    Raced,
}

/// A master key that is in force or was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MasterKeyState {
    /// What it is called.
    pub id: String,
    /// Since when it wraps.
    pub since: Timestamp,
    /// When another one took its place.
    pub replaced_at: Option<Timestamp>,
    /// Since when nothing is wrapped with it.
    pub emptied_at: Option<Timestamp>,
    /// Data keys that it wraps.
    pub data_keys: i64,
    /// Secrets that it wraps.
    pub secrets: i64,
    /// Where it is kept, as far as this process has it.
    pub place: Option<KeyPlace>,
}

/// The secrets of the installation under one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretState {
    /// What they are for.
    pub name: String,
    /// How many there are.
    pub count: i64,
    /// When the first was made.
    pub oldest: Timestamp,
    /// When the last was made.
    pub newest: Timestamp,
}

/// Which keys there are: ids, ages and counts, never bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inventory {
    /// The master keys, the one that wraps last.
    pub master_keys: Vec<MasterKeyState>,
    /// Keys of persons and organisations.
    pub data_keys: i64,
    /// Those of them that were destroyed.
    pub destroyed: i64,
    /// The secrets of the installation, by name.
    pub secrets: Vec<SecretState>,
}

impl Keyring {
    /// Lets another master key wrap from now on: the first of those that are given, or, where they are made here, a new
    /// one. Asked again by the same command, it says what that became. [`Keyring::wrap_anew`] does the rest.
    ///
    /// # Errors
    /// When the database or the place of the master keys is not there.
    pub async fn rotate(&self, command: Uuid, now: Timestamp) -> Result<Rotation, KeyError> {
        self.masters.refresh(&self.database).await?;
        let turns = turns(&self.database).await?;
        if let Some(turn) = turns.iter().find(|turn| turn.command == Some(command)) {
            return Ok(Rotation::Begun(turn.id.clone()));
        }
        let (in_force, _) = self.masters.wrapping()?;
        let first = self.masters.source.all().await?.into_iter().next().map(|key| key.id());
        let next = match first.filter(|first| *first != in_force) {
            Some(first) => first,
            None => match self.masters.source.make().await? {
                Some(made) => made.id(),
                None => return Ok(Rotation::NoOther),
            },
        };
        if turns.iter().any(|turn| turn.id == next) {
            return Ok(Rotation::Used(next));
        }
        let transaction = self.database.begin().await?;
        // Who makes a key holds this row: none is wrapped by the old one once it says that it was replaced.
        let sql = "UPDATE master_keys SET replaced_at = $1 WHERE id = $2 AND replaced_at IS NULL";
        let values = vec![now.into(), in_force.into()];
        let replaced = transaction.execute_raw(self.database.statement(sql, sql, values)).await?;
        if replaced.rows_affected() != 1 {
            transaction.rollback().await?;
            return Ok(Rotation::Raced);
        }
        let sql =
            "INSERT INTO master_keys (turn, id, since, command) SELECT MAX(turn) + 1, $1, $2, $3 FROM master_keys";
        let values = vec![next.clone().into(), now.into(), command.into()];
        transaction.execute_raw(self.database.statement(sql, sql, values)).await?;
        transaction.commit().await?;
        self.masters.refresh(&self.database).await?;
        Ok(Rotation::Begun(next))
    }

    /// Which key took the place of which when somebody rotated last; each with its place, if this process has it.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn last_rotation(&self) -> Result<Option<[(String, Option<KeyPlace>); 2]>, KeyError> {
        let turns = turns(&self.database).await?;
        let opened = self.masters.opened.load();
        let named = |turn: &Turn| (turn.id.clone(), opened.place(&turn.id));
        Ok(turns.last_chunk().map(|[from, to]: &[Turn; 2]| [named(from), named(to)]))
    }

    /// Whether something is wrapped by a key that was replaced.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn is_unfinished(&self) -> Result<bool, KeyError> {
        let turns = turns(&self.database).await?;
        Ok(turns.iter().any(|turn| turn.replaced_at.is_some() && turn.emptied_at.is_none()))
    }

    /// Wraps anew what was wrapped by keys that were replaced. May be broken off and begun again, by whatever node.
    ///
    /// # Errors
    /// When the database or the place of the master keys is not there.
    pub async fn wrap_anew(&self, now: Timestamp) -> Result<(), KeyError> {
        self.masters.refresh(&self.database).await?;
        let (wrapping, _) = self.masters.wrapping()?;
        let sql = format!(
            "SELECT id, wrapped, wrapped_by FROM data_keys \
             WHERE id > $1 AND wrapped IS NOT NULL AND wrapped_by <> $2 ORDER BY id LIMIT {BATCH}"
        );
        let mut reached = Uuid::nil();
        loop {
            let values = vec![reached.into(), wrapping.clone().into()];
            let rows = self.database.writer().query_all_raw(self.database.statement(&sql, &sql, values)).await?;
            let Some(last) = rows.last() else { break };
            reached = last.try_get("", "id")?;
            // One that was destroyed meanwhile stays so.
            let update = "UPDATE data_keys SET wrapped = $1, wrapped_by = $2 \
                          WHERE id = $3 AND wrapped_by = $4 AND wrapped IS NOT NULL";
            self.write_anew(&rows, update, |row| {
                let id: Uuid = row.try_get("", "id")?;
                Ok((id.as_bytes().to_vec(), vec![id.into()]))
            })
            .await?;
        }
        let sql = "SELECT name, key_id, wrapped, wrapped_by FROM secrets WHERE wrapped_by <> $1";
        let statement = self.database.statement(sql, sql, vec![wrapping.clone().into()]);
        let rows = self.database.writer().query_all_raw(statement).await?;
        let update =
            "UPDATE secrets SET wrapped = $1, wrapped_by = $2 WHERE name = $3 AND key_id = $4 AND wrapped_by = $5";
        self.write_anew(&rows, update, |row| {
            let (name, key): (String, Uuid) = (row.try_get("", "name")?, row.try_get("", "key_id")?);
            Ok((name.clone().into_bytes(), vec![name.into(), key.into()]))
        })
        .await?;
        let sql = "UPDATE master_keys SET emptied_at = $1 WHERE replaced_at IS NOT NULL AND emptied_at IS NULL \
                   AND NOT EXISTS (SELECT 1 FROM data_keys k WHERE k.wrapped_by = master_keys.id AND k.wrapped IS NOT NULL) \
                   AND NOT EXISTS (SELECT 1 FROM secrets s WHERE s.wrapped_by = master_keys.id)";
        self.database.writer().execute_raw(self.database.statement(sql, sql, vec![now.into()])).await?;
        if !self.is_unfinished().await? {
            let keys = self.masters.source.all().await?;
            if let Some(key) = keys.iter().find(|key| key.id() == wrapping) {
                self.masters.source.keep_only(key).await?;
            }
        }
        Ok(())
    }

    /// Wraps these rows anew in one transaction. `place` gives what is bound to the key, and how its row is found.
    async fn write_anew(
        &self,
        rows: &[QueryResult],
        update: &str,
        place: impl Fn(&QueryResult) -> Result<(Vec<u8>, Vec<Value>), DbErr>,
    ) -> Result<(), KeyError> {
        if rows.is_empty() {
            return Ok(());
        }
        let transaction = self.database.begin().await?;
        for row in rows {
            let (context, found_by) = place(row)?;
            let by: String = row.try_get("", "wrapped_by")?;
            let bytes = self.masters.unwrap(&by, &row.try_get::<Vec<u8>>("", "wrapped")?, &context)?;
            let (wrapped, wrapping) = self.wrap(bytes.as_slice(), &context)?;
            let values = [vec![wrapped.into(), wrapping.into()], found_by, vec![by.into()]].concat();
            transaction.execute_raw(self.database.statement(update, update, values)).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Which keys there are.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn inventory(&self) -> Result<Inventory, KeyError> {
        let sql = "SELECT wrapped_by, COUNT(*) AS count FROM data_keys WHERE wrapped IS NOT NULL GROUP BY wrapped_by";
        let data_keys = counts(&self.database.query(sql, vec![]).await?)?;
        let sql = "SELECT wrapped_by, COUNT(*) AS count FROM secrets GROUP BY wrapped_by";
        let secrets = counts(&self.database.query(sql, vec![]).await?)?;
        let sql = "SELECT COUNT(*) AS count FROM data_keys WHERE wrapped IS NULL";
        let destroyed = match self.database.query(sql, vec![]).await?.first() {
            Some(row) => row.try_get("", "count")?,
            None => 0,
        };
        let opened = self.masters.opened.load();
        let of = |counts: &BTreeMap<String, i64>, id: &str| counts.get(id).copied().unwrap_or(0);
        let master_keys = turns(&self.database).await?.into_iter().map(|turn| MasterKeyState {
            data_keys: of(&data_keys, &turn.id),
            secrets: of(&secrets, &turn.id),
            place: opened.place(&turn.id),
            id: turn.id,
            since: turn.since,
            replaced_at: turn.replaced_at,
            emptied_at: turn.emptied_at,
        });
        let mut named: Vec<SecretState> = Vec::new();
        let sql = "SELECT name, created_at FROM secrets ORDER BY name, created_at";
        for row in self.database.query(sql, vec![]).await? {
            let (name, at): (String, Timestamp) = (row.try_get("", "name")?, row.try_get("", "created_at")?);
            match named.last_mut().filter(|last| last.name == name) {
                Some(last) => (last.count, last.newest) = (last.count + 1, at),
                None => named.push(SecretState { name, count: 1, oldest: at, newest: at }),
            }
        }
        let live: i64 = data_keys.values().sum();
        Ok(Inventory { master_keys: master_keys.collect(), data_keys: live + destroyed, destroyed, secrets: named })
    }
}

fn counts(rows: &[QueryResult]) -> Result<BTreeMap<String, i64>, DbErr> {
    rows.iter().map(|row| Ok((row.try_get("", "wrapped_by")?, row.try_get("", "count")?))).collect()
}
