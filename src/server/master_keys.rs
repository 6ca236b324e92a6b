//! Where the master keys of an installation are: in the settings, or in a file of the data folder.
//!
//! Invariants: a key that was made is on disk before it wraps anything; the file has its name only once it is whole, and
//! only its owner reads it. A line is a key; the first is the one that is to wrap. What the settings give is made and
//! taken away by whoever sets them.
//!
//! A service that keeps master keys would be one more [`MasterKeys`] here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use data_encoding::BASE64;
use oriel_engine::keyring::{MasterKey, MasterKeys, MasterKeysError, random_key};

use crate::installation::restrict;
use crate::settings::Settings;

/// The name of the file in the data folder.
pub const FILE: &str = "master.key";

/// Those that the settings name: given ones, or the file's.
pub fn master_keys(settings: &Settings) -> Arc<dyn MasterKeys> {
    match &settings.master_key {
        Some(key) => {
            let keys = std::iter::once(key).chain(&settings.master_key_previous);
            Arc::new(Given(keys.map(|key| MasterKey::new(*key.expose())).collect()))
        }
        None => Arc::new(KeyFile(settings.data.join(FILE))),
    }
}

/// From the settings.
struct Given(Vec<MasterKey>);

#[async_trait]
impl MasterKeys for Given {
    async fn all(&self) -> Result<Vec<MasterKey>, MasterKeysError> {
        Ok(self.0.clone())
    }

    async fn make(&self) -> Result<Option<MasterKey>, MasterKeysError> {
        Ok(None)
    }

    async fn keep_only(&self, _: &MasterKey) -> Result<(), MasterKeysError> {
        tracing::info!("the master keys in master_key_previous are not needed any more: take them out of the settings");
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
        self.write(std::slice::from_ref(key))
    }
}

impl KeyFile {
    fn read(&self, text: &str) -> Result<Vec<MasterKey>, MasterKeysError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.map(|line| {
            let bytes: [u8; 32] = BASE64.decode(line.as_bytes()).ok()?.try_into().ok()?;
            Some(MasterKey::new(bytes))
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
        let made = MasterKey::new(*random_key().map_err(|error| MasterKeysError(error.to_string()))?);
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
        file.keep_only(&made).await.unwrap();
        assert_eq!(ids(&file.all().await.unwrap()), [made.id()]);
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
        for damaged in ["nonsense", "", "AAAA\n"] {
            std::fs::write(&file.0, damaged).unwrap();
            assert!(file.all().await.unwrap_err().to_string().contains("restore it from a backup"));
            assert!(file.make().await.is_err());
            assert_eq!(std::fs::read_to_string(&file.0).unwrap(), damaged);
        }
    }
}
