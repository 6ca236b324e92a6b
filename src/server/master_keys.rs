//! Where the master keys of an installation are: in the settings, in a file of the data folder, or in the database, sealed
//! by a key management service.
//!
//! Invariants: a key that was made is on disk before it wraps anything; the file has its name only once it is whole, and
//! only its owner reads it. A line is a key; the first is the one that is to wrap. No key of another place comes into
//! the file. What the settings give is made and taken away by whoever sets them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use data_encoding::BASE64;
use oriel_backends::aws::variable;
use oriel_backends::kms::{Kms, KmsError, KmsKey, SealedKey};
use oriel_engine::Database;
use oriel_engine::keyring::{
    Envelopes, KeyPlace, KeyService, MasterKey, MasterKeys, MasterKeysError, ServiceKey, random_key,
};
use zeroize::Zeroizing;

use crate::installation::restrict;
use crate::settings::{MasterKeyAt, Settings};

/// The name of the file in the data folder.
pub const FILE: &str = "master.key";

/// Those that the settings name.
///
/// # Errors
/// When something is missing that a KMS is asked with.
pub fn master_keys(settings: &Settings, database: &Database) -> Result<Arc<dyn MasterKeys>, MasterKeysError> {
    let file = settings.data.join(FILE);
    let first: Box<dyn MasterKeys> = match &settings.master_key {
        MasterKeyAt::File => Box::new(KeyFile(file.clone())),
        MasterKeyAt::Given(key) => Box::new(MasterKey::new(*key.expose())),
        MasterKeyAt::Kms(key) => Box::new(Envelopes::new(database.clone(), service(key)?)),
    };
    let mut before: Vec<Box<dyn MasterKeys>> = Vec::new();
    for key in &settings.master_key_previous {
        before.push(match key {
            MasterKeyAt::File => Box::new(FileBefore(KeyFile(file.clone()))),
            MasterKeyAt::Given(key) => Box::new(MasterKey::new(*key.expose())),
            MasterKeyAt::Kms(key) => Box::new(Envelopes::of_before(database.clone(), service(key)?)),
        });
    }
    Ok(Arc::new(Several { first, before }))
}

/// A key of a KMS, as the environment lets it be asked.
///
/// # Errors
/// When something is missing.
pub fn kms(key: &KmsKey) -> Result<Kms, KmsError> {
    Kms::open(key, variable)
}

fn service(key: &KmsKey) -> Result<Arc<dyn KeyService>, MasterKeysError> {
    kms(key).map(|kms| Arc::new(Service(kms)) as Arc<dyn KeyService>).map_err(not_had)
}

fn not_had(error: KmsError) -> MasterKeysError {
    MasterKeysError(error.to_string())
}

/// A KMS, as the keyring sees it.
struct Service(Kms);

#[async_trait]
impl KeyService for Service {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn generate(&self) -> Result<ServiceKey, MasterKeysError> {
        let SealedKey { key, sealed, by } = self.0.generate().await.map_err(not_had)?;
        Ok(ServiceKey { key, sealed, by })
    }

    async fn open(&self, sealed: &[u8], by: &str) -> Result<Zeroizing<[u8; 32]>, MasterKeysError> {
        self.0.unseal(sealed, by).await.map_err(not_had)
    }
}

/// The place of the one that is to wrap, and those of others that wrapped before.
struct Several {
    first: Box<dyn MasterKeys>,
    before: Vec<Box<dyn MasterKeys>>,
}

#[async_trait]
impl MasterKeys for Several {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        let mut keys = self.first.all().await?;
        for place in &self.before {
            keys.extend(place.all().await?);
        }
        Ok(keys)
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        self.first.make().await
    }

    async fn keep_only(&self, key: &MasterKey) -> Result<(), MasterKeysError> {
        for place in std::iter::once(&self.first).chain(&self.before) {
            place.keep_only(key).await?;
        }
        if !self.before.is_empty() {
            tracing::info!(
                "the master keys in master_key_previous are not needed any more: take them out of the settings"
            );
        }
        Ok(())
    }
}

/// A file whose keys wrapped before: it is not made, and not written.
struct FileBefore(KeyFile);

#[async_trait]
impl MasterKeys for FileBefore {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        let text = std::fs::read_to_string(&self.0.0).map_err(|error| self.0.wrong(&error))?;
        self.0.read(&text)
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        Ok(None)
    }

    async fn keep_only(&self, _: &MasterKey) -> Result<(), MasterKeysError> {
        tracing::info!(file = %self.0.0.display(), "the file of master keys is not needed any more: remove it");
        Ok(())
    }
}

/// In a file.
struct KeyFile(PathBuf);

#[async_trait]
impl MasterKeys for KeyFile {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        match std::fs::read_to_string(&self.0) {
            Ok(text) => self.read(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![self.put_first(Vec::new())?]),
            Err(error) => Err(self.wrong(&error)),
        }
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        Ok(Some(self.put_first(self.all().await?)?))
    }

    async fn keep_only(&self, key: &MasterKey) -> Result<(), MasterKeysError> {
        let is_here = self.all().await?.iter().any(|here| here.id() == key.id());
        if is_here { self.write(std::slice::from_ref(key)) } else { Ok(()) }
    }
}

impl KeyFile {
    fn read(&self, text: &str) -> Result<Vec<MasterKey>, MasterKeysError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.map(|line| {
            let bytes: [u8; 32] = BASE64.decode(line.as_bytes()).ok()?.try_into().ok()?;
            Some(MasterKey::new(bytes).kept_in(KeyPlace::File))
        });
        keys.collect::<Option<Vec<_>>>().filter(|keys| !keys.is_empty()).ok_or_else(|| {
            MasterKeysError(format!(
                "{} does not hold 32 bytes in base64 on each line; restore it from a backup: what was sealed with it \
                 cannot be read without it",
                self.0.display()
            ))
        })
    }

    fn put_first(&self, others: Vec<MasterKey>) -> Result<MasterKey, MasterKeysError> {
        let made = random_key().map_err(|error| MasterKeysError(error.to_string()))?;
        let made = MasterKey::new(*made).kept_in(KeyPlace::File);
        let mut keys = vec![made.clone()];
        keys.extend(others);
        self.write(&keys)?;
        Ok(made)
    }

    fn write(&self, keys: &[MasterKey]) -> Result<(), MasterKeysError> {
        let lines: Vec<String> = keys.iter().map(|key| BASE64.encode(key.expose())).collect();
        write_whole(&self.0, &format!("{}\n", lines.join("\n"))).map_err(|error| self.wrong(&error))
    }

    fn wrong(&self, error: &std::io::Error) -> MasterKeysError {
        MasterKeysError(format!("{}: {error}", self.0.display()))
    }
}

/// On disk under its name only once it is whole.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&beside)?;
    restrict(&beside, 0o600)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ids(keys: &[MasterKey]) -> Vec<String> {
        keys.iter().map(MasterKey::id).collect()
    }

    #[tokio::test]
    async fn a_key_that_is_made_stands_first_in_the_file_until_it_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile(folder.path().join(FILE));
        let first = file.all().await.unwrap();
        assert_eq!(ids(&file.all().await.unwrap()), ids(&first), "made once");
        let made = file.make().await.unwrap().unwrap();
        assert_eq!(ids(&file.all().await.unwrap()), [made.id(), first[0].id()]);
        let elsewhere = MasterKey::new([1; 32]);
        file.keep_only(&elsewhere).await.unwrap();
        assert_eq!(file.all().await.unwrap().len(), 2, "the key of another place is not written here");
        file.keep_only(&made).await.unwrap();
        assert_eq!(ids(&file.all().await.unwrap()), [made.id()]);
        let before = FileBefore(KeyFile(file.0.clone()));
        assert_eq!(ids(&before.all().await.unwrap()), [made.id()]);
        assert!(before.make().await.unwrap().is_none());
        before.keep_only(&elsewhere).await.unwrap();
        assert_eq!(ids(&before.all().await.unwrap()), [made.id()]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile(folder.path().join(FILE));
        assert!(FileBefore(KeyFile(file.0.clone())).all().await.is_err() && !file.0.exists(), "none is made");
        for damaged in ["nonsense", "", "AAAA\n"] {
            std::fs::write(&file.0, damaged).unwrap();
            assert!(file.all().await.unwrap_err().to_string().contains("restore it from a backup"));
            assert!(file.make().await.is_err());
            assert_eq!(std::fs::read_to_string(&file.0).unwrap(), damaged);
        }
    }
}
