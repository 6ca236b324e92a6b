//! Personal data: what an event says about a person and what that person may have forgotten.
//!
//! In memory a [`Personal`] value is clear while the command that made it is being committed, and after it was read
//! back with the person's key. In the log it is sealed with that key, always: a clear value refuses to be
//! serialised. A destroyed key turns it into [`Personal::Erased`], when the log is written on and when it is
//! replayed alike. Look-ups and unique facts hold a keyed hash ([`Blinder`]) instead.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::UserId;

/// A value about a person.
#[derive(Clone, PartialEq, Eq)]
pub enum Personal<T> {
    /// The value itself.
    Clear {
        /// Whose key seals it.
        of: UserId,
        /// What is said.
        value: T,
    },
    /// As the log holds it.
    Sealed {
        /// Whose key opens it.
        of: UserId,
        /// Nonce, ciphertext and tag.
        bytes: Vec<u8>,
    },
    /// The person's key was destroyed.
    Erased {
        /// Whose key it was.
        of: UserId,
    },
}

impl<T> Personal<T> {
    /// A clear value about `of`.
    pub fn new(of: UserId, value: T) -> Self {
        Self::Clear { of, value }
    }

    /// The value, unless it is erased (or was never opened).
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Clear { value, .. } => Some(value),
            Self::Sealed { .. } | Self::Erased { .. } => None,
        }
    }

    /// Whom it is about.
    pub fn of(&self) -> UserId {
        match self {
            Self::Clear { of, .. } | Self::Sealed { of, .. } | Self::Erased { of } => *of,
        }
    }
}

impl<T: Serialize> Personal<T> {
    /// The value as JSON; null when it is not clear.
    ///
    /// # Errors
    /// When the value is not serialisable.
    pub fn shown(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self.get())
    }
}

/// Never prints what is said about a person.
impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self {
            Self::Clear { .. } => "clear",
            Self::Sealed { .. } => "sealed",
            Self::Erased { .. } => "erased",
        };
        write!(f, "Personal({state}, of {})", self.of())
    }
}

/// One personal value of an event, whatever its type: what sealing and opening work on.
pub trait PersonalField {
    /// Whom it is about.
    fn of(&self) -> UserId;
    /// The clear value as JSON; `None` when it is not clear.
    fn clear_bytes(&self) -> Option<Result<Vec<u8>, serde_json::Error>>;
    /// The sealed bytes; `None` when it is not sealed.
    fn sealed_bytes(&self) -> Option<&[u8]>;
    /// Becomes sealed.
    fn set_sealed(&mut self, bytes: Vec<u8>);
    /// Becomes clear, from the JSON that [`PersonalField::clear_bytes`] gave.
    fn set_clear(&mut self, json: &[u8]) -> Result<(), serde_json::Error>;
    /// Becomes erased.
    fn set_erased(&mut self);
}

/// Is shown every personal value of an event. The event derive finds them.
pub trait PersonalVisitor {
    /// Called once for each personal value.
    fn visit(&mut self, field: &mut dyn PersonalField);
}

impl<T: Serialize + DeserializeOwned> PersonalField for Personal<T> {
    fn of(&self) -> UserId {
        Personal::of(self)
    }
    fn clear_bytes(&self) -> Option<Result<Vec<u8>, serde_json::Error>> {
        self.get().map(serde_json::to_vec)
    }
    fn sealed_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Sealed { bytes, .. } => Some(bytes),
            Self::Clear { .. } | Self::Erased { .. } => None,
        }
    }
    fn set_sealed(&mut self, bytes: Vec<u8>) {
        *self = Self::Sealed { of: Personal::of(self), bytes };
    }
    fn set_clear(&mut self, json: &[u8]) -> Result<(), serde_json::Error> {
        *self = Self::Clear { of: Personal::of(self), value: serde_json::from_slice(json)? };
        Ok(())
    }
    fn set_erased(&mut self) {
        *self = Self::Erased { of: Personal::of(self) };
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    of: UserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

impl<T> Serialize for Personal<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Clear { .. } => Err(serde::ser::Error::custom("personal data must be sealed before it is written")),
            Self::Sealed { of, bytes } => {
                Wire { of: *of, sealed: Some(data_encoding::BASE64.encode(bytes)) }.serialize(serializer)
            }
            Self::Erased { of } => Wire { of: *of, sealed: None }.serialize(serializer),
        }
    }
}

impl<'de, T> Deserialize<'de> for Personal<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        match wire.sealed {
            None => Ok(Self::Erased { of: wire.of }),
            Some(text) => data_encoding::BASE64
                .decode(text.as_bytes())
                .map(|bytes| Self::Sealed { of: wire.of, bytes })
                .map_err(serde::de::Error::custom),
        }
    }
}

/// A keyed hash, by which equal personal values are found without being kept.
pub trait Blinder: Send + Sync {
    /// The hash of `value` for this purpose, as text. The same value under another purpose has another hash.
    fn blind(&self, purpose: &str, value: &str) -> String;
}
