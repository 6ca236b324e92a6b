//! The names of blobs: `prefix/32 hexadecimal digits`.
//!
//! A key is a URL path, an S3 key and a file path at once, so its grammar leaves no room for anything else: no dots,
//! no capitals, one slash. It is made of a fresh UUID and never used again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

const MAX_PREFIX: usize = 32;

/// The first part of a key: what the blobs under it have in common. 1 to 32 characters `a-z 0-9 -`, a letter first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlobPrefix(&'static str);

impl BlobPrefix {
    /// A prefix; to be written as a constant, where a bad one does not compile.
    ///
    /// ```
    /// use oriel_backends::blobs::BlobPrefix;
    /// const COVERS: BlobPrefix = BlobPrefix::new("covers");
    /// ```
    pub const fn new(prefix: &'static str) -> Self {
        assert!(is_prefix(prefix.as_bytes()), "a blob prefix is 1 to 32 characters a-z 0-9 -, a letter first");
        Self(prefix)
    }

    /// The prefix as text, without the slash.
    pub const fn as_str(&self) -> &'static str {
        self.0
    }
}

/// Where the files of documents are kept.
pub const FILES: BlobPrefix = BlobPrefix::new("files");
/// Where the texts of files are kept.
pub const TEXTS: BlobPrefix = BlobPrefix::new("texts");
/// Where data exports are kept, until they end.
pub const EXPORTS: BlobPrefix = BlobPrefix::new("exports");
/// Where clients upload to by a signed URL. What stays there is removed after a day.
pub const STAGING: BlobPrefix = BlobPrefix::new("staging");

/// The name of one blob.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobKey(String);

impl BlobKey {
    /// The key of a new blob; `id` has to be new as well.
    pub fn fresh(prefix: BlobPrefix, id: Uuid) -> Self {
        Self(format!("{}/{}", prefix.0, id.simple()))
    }

    /// Reads a key that was kept as text.
    pub fn parse(text: &str) -> Result<Self, InvalidBlobKey> {
        let (prefix, name) = text.split_once('/').ok_or(InvalidBlobKey)?;
        if is_prefix(prefix.as_bytes()) && is_name(name) { Ok(Self(text.to_owned())) } else { Err(InvalidBlobKey) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the slash.
    pub fn prefix(&self) -> &str {
        &self.0[..self.slash()]
    }

    /// What stands after the slash.
    pub(super) fn name(&self) -> &str {
        &self.0[self.slash() + 1..]
    }

    /// Two digits that spread keys evenly: the last ones, because UUIDs of version 7 begin with the time.
    pub(super) fn shard(&self) -> &str {
        &self.0[self.0.len() - 2..]
    }

    fn slash(&self) -> usize {
        self.0.len() - NAME_LENGTH - 1
    }
}

const NAME_LENGTH: usize = 32;

/// Whether this is what stands after the slash of a key.
pub(super) fn is_name(name: &str) -> bool {
    name.len() == NAME_LENGTH && is_hexadecimal(name)
}

/// Whether this is a shard of keys.
pub(super) fn is_shard(name: &str) -> bool {
    name.len() == 2 && is_hexadecimal(name)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

const fn is_prefix(prefix: &[u8]) -> bool {
    if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 0;
    while at < prefix.len() {
        if !matches!(prefix[at], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        at += 1;
    }
    true
}

/// A text that is not a key. It is not repeated, because it may come from anybody.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error("not a blob key: it reads prefix/32 hexadecimal digits")]
pub struct InvalidBlobKey;

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BlobKey {
    type Err = InvalidBlobKey;
    fn from_str(text: &str) -> Result<Self, InvalidBlobKey> {
        Self::parse(text)
    }
}

impl TryFrom<String> for BlobKey {
    type Error = InvalidBlobKey;
    fn try_from(text: String) -> Result<Self, InvalidBlobKey> {
        Self::parse(&text)
    }
}

impl From<BlobKey> for String {
    fn from(key: BlobKey) -> Self {
        key.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_reads_back_and_nothing_else_is_one() {
        let key = BlobKey::fresh(BlobPrefix::new("files-2"), Uuid::from_u128(0xab));
        assert_eq!(key.as_str(), "files-2/000000000000000000000000000000ab");
        assert_eq!((key.prefix(), key.name(), key.shard()), ("files-2", "000000000000000000000000000000ab", "ab"));
        assert_eq!(BlobKey::parse(key.as_str()).unwrap(), key);
        assert_eq!(serde_json::from_str::<BlobKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);

        let name = "000000000000000000000000000000ab";
        let long = "a".repeat(33);
        for prefix in ["", "Files", "1files", "-files", "fi les", "fi.les", "..", ".", "a/b", "a\0b", "é", &long] {
            assert_eq!(BlobKey::parse(&format!("{prefix}/{name}")), Err(InvalidBlobKey), "{prefix:?}");
        }
        for name in [
            "",
            "ab",
            "../../../../../../etc/passwd/..",
            "000000000000000000000000000000AB",
            "g0000000000000000000000000000000",
        ] {
            assert_eq!(BlobKey::parse(&format!("files/{name}")), Err(InvalidBlobKey), "{name:?}");
        }
        assert!(serde_json::from_str::<BlobKey>("\"../x\"").is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_stays_below_its_folder(text in "[a-z./\\\\0-9\0A-Z-]{0,20}/?[0-9a-f./]{0,34}") {
            if let Ok(key) = BlobKey::parse(&text) {
                prop_assert!(key.as_str().split('/').count() == 2);
                prop_assert!(!key.as_str().contains(['.', '\\', '\0']));
            }
        }
    }
}
