//! Signed URLs of a local store, and what all signed URLs have in common.
//!
//! Invariants
//! - The signature covers the method, the key, the expiry, the size, the name, the media type and the id of the
//!   signing key, each with its length, so that no two grants have the same signed text.
//! - It is compared in constant time, and before anything else in the URL is believed.
//! - Parameters that are unknown or come twice are refused. Time is passed in.
//!
//! Keys have ids, so that a new one can sign while URLs of the one before are still accepted.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::hmac;
use chrono::{DateTime, Utc};
use data_encoding::BASE64URL_NOPAD;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use url::form_urlencoded;

use super::BlobKey;

/// Under which path of the server the URLs of a local store live.
pub const BASE_PATH: &str = "/blobs/";

/// How long a signed URL may be valid: what S3 allows.
const MAX_VALIDITY: chrono::TimeDelta = chrono::TimeDelta::days(7);
const MAX_FILE_NAME: usize = 255;
const MAX_MEDIA_TYPE: usize = 255;
const VERSION: &str = "oriel blob url 1";

/// How large an upload may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutSize {
    /// Exactly so many bytes: the client said so, and both kinds of store hold it to that.
    Exactly(u64),
    /// At most so many. S3 cannot hold a PUT to that: measure the blob before it is used.
    AtMost(u64),
}

/// What a client needs to use a signed URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Presigned {
    /// The URL; of a local store a path under the server's own address.
    pub url: String,
    /// The only method it is good for (a GET may be sent as HEAD to a local store).
    pub method: Method,
    /// Headers to be sent exactly so.
    pub headers: Vec<(String, String)>,
    /// From when on it is refused.
    pub expires_at: DateTime<Utc>,
}

impl fmt::Debug for Presigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, method, headers, expires_at } = self;
        f.debug_struct("Presigned")
            .field("method", method)
            .field("headers", headers)
            .field("expires_at", expires_at)
            .finish_non_exhaustive()
    }
}

/// Why no URL was signed.
#[derive(thiserror::Error, Debug)]
pub enum PresignError {
    /// Not a moment after now and within seven days.
    #[error("a signed URL expires after now and within seven days")]
    Expiry,
    /// Not a media type: it would not stand in a header.
    #[error("this media type cannot stand in a header")]
    MediaType,
    /// The store could not sign. The source is for the log.
    #[error("the URL could not be signed")]
    Unavailable(#[source] super::BoxError),
}

/// Why a signed URL is refused.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignatureError {
    /// Changed, incomplete, of another key or for another method. Which of them is nobody's business.
    #[error("the signature of this URL is not valid")]
    Invalid,
    /// It was valid.
    #[error("this URL has expired")]
    Expired,
    /// The request differs from what was signed in its media type or length.
    #[error("the request's content type or length is not the one that was signed")]
    Headers,
}

/// How a download presents itself to a browser.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disposition {
    /// The name offered for saving.
    pub file_name: String,
    /// Shown in the browser instead of saved.
    pub inline: bool,
}

impl Disposition {
    /// To be saved under this name.
    pub fn attachment(file_name: impl Into<String>) -> Self {
        Self { file_name: file_name.into(), inline: false }
    }

    /// The value of `Content-Disposition`: safe for any name, which is given in ASCII and in full (RFC 6266).
    pub fn header_value(&self) -> String {
        let kind = if self.inline { "inline" } else { "attachment" };
        let name: String = self
            .file_name
            .chars()
            .map(|c| if c.is_control() || matches!(c, '/' | '\\') { '_' } else { c })
            .take(MAX_FILE_NAME)
            .collect();
        let ascii: String =
            name.chars().map(|c| if c.is_ascii() && !matches!(c, '"' | '%') { c } else { '_' }).collect();
        let mut value = format!("{kind}; filename=\"{ascii}\"");
        if ascii != name {
            value.push_str("; filename*=UTF-8''");
            for byte in name.bytes() {
                if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                    value.push(char::from(byte));
                } else {
                    value.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        value
    }
}

/// What the holder of a signed URL may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grant {
    /// Write this blob: pass it to `Blobs::receive`.
    Put {
        /// Where to.
        key: BlobKey,
        /// How much.
        size: PutSize,
        /// With which `Content-Type`; `None`: any.
        media_type: Option<String>,
        /// Until when the request had to begin.
        expires_at: DateTime<Utc>,
    },
    /// Read this blob.
    Get {
        /// Which.
        key: BlobKey,
        /// Under which name. Whatever is served inline needs `nosniff` and a sandboxing content policy.
        disposition: Disposition,
        /// As which `Content-Type`.
        media_type: Option<String>,
        /// Until when the request had to begin.
        expires_at: DateTime<Utc>,
    },
}

impl Grant {
    /// The blob it is about.
    pub fn key(&self) -> &BlobKey {
        match self {
            Self::Put { key, .. } | Self::Get { key, .. } => key,
        }
    }

    /// Holds an upload to its signed media type and, where the request tells its length, to the size: before a byte
    /// of the body is read.
    pub fn check_headers(&self, headers: &HeaderMap) -> Result<(), SignatureError> {
        let Self::Put { size, media_type, .. } = self else { return Ok(()) };
        let length = match headers.get(CONTENT_LENGTH).map(|length| length.to_str().ok()?.parse::<u64>().ok()) {
            Some(None) => return Err(SignatureError::Headers),
            told => told.flatten(),
        };
        let fits = match (size, length) {
            (_, None) => true,
            (PutSize::Exactly(size), Some(length)) => length == *size,
            (PutSize::AtMost(limit), Some(length)) => length <= *limit,
        };
        let sent = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let same_type = media_type.as_deref().is_none_or(|signed| sent == Some(signed.as_bytes()));
        if fits && same_type { Ok(()) } else { Err(SignatureError::Headers) }
    }
}

/// The keys that sign the URLs of a local store: one that signs, and older ones whose URLs are still good.
#[derive(Clone)]
pub struct UrlKeys {
    current: (String, hmac::Key),
    older: Vec<(String, hmac::Key)>,
}

impl UrlKeys {
    /// The key that signs. Its id stands in every URL.
    pub fn new(id: impl Into<String>, secret: &[u8; 32]) -> Self {
        Self { current: (id.into(), hmac::Key::new(hmac::HMAC_SHA256, secret)), older: Vec::new() }
    }

    /// A key that signed before and whose URLs have not all expired.
    #[must_use]
    pub fn and_older(mut self, id: impl Into<String>, secret: &[u8; 32]) -> Self {
        self.older.push((id.into(), hmac::Key::new(hmac::HMAC_SHA256, secret)));
        self
    }

    pub(super) fn presign_put(&self, key: &BlobKey, terms: &PutTerms) -> Presigned {
        let mut parameters = vec![match terms.size {
            PutSize::Exactly(size) => ("size", size.to_string()),
            PutSize::AtMost(limit) => ("max", limit.to_string()),
        }];
        parameters.extend(terms.media_type.iter().map(|media_type| ("type", media_type.clone())));
        Presigned {
            url: self.sign(&Method::PUT, key, terms.expires_at, parameters),
            method: Method::PUT,
            headers: terms
                .media_type
                .iter()
                .map(|media_type| ("content-type".to_owned(), media_type.clone()))
                .collect(),
            expires_at: terms.expires_at,
        }
    }

    pub(super) fn presign_get(&self, key: &BlobKey, terms: &GetTerms) -> Presigned {
        let kind = if terms.disposition.inline { "inline" } else { "attachment" };
        let mut parameters = vec![("name", terms.disposition.file_name.clone()), ("as", kind.to_owned())];
        parameters.extend(terms.media_type.iter().map(|media_type| ("type", media_type.clone())));
        Presigned {
            url: self.sign(&Method::GET, key, terms.expires_at, parameters),
            method: Method::GET,
            headers: Vec::new(),
            expires_at: terms.expires_at,
        }
    }

    /// What a request may do. `path_and_query` is what the client sent, from [`BASE_PATH`] on.
    pub(super) fn verify(
        &self,
        method: &Method,
        path_and_query: &str,
        now: DateTime<Utc>,
    ) -> Result<Grant, SignatureError> {
        let invalid = SignatureError::Invalid;
        // Whoever may read may also ask for the headers alone.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let (path, query) = path_and_query.split_once('?').ok_or(invalid)?;
        let key = path.strip_prefix(BASE_PATH).and_then(|key| BlobKey::parse(key).ok()).ok_or(invalid)?;
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if parameters.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(invalid);
            }
        }
        let signature = parameters.remove("signature").ok_or(invalid)?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| invalid)?;
        let id = parameters.get("key").ok_or(invalid)?;
        let (_, secret) =
            std::iter::once(&self.current).chain(&self.older).find(|(known, _)| known == id).ok_or(invalid)?;
        let signed = signed_text(method, &key, parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        hmac::verify(secret, &signed, &signature).map_err(|_| invalid)?;

        let mut take = |name: &str| parameters.remove(name);
        take("key");
        let expires_at =
            take("expires").and_then(|seconds| DateTime::from_timestamp(seconds.parse().ok()?, 0)).ok_or(invalid)?;
        let media_type = take("type");
        let number = |text: String| text.parse::<u64>().ok();
        let grant = if method == Method::PUT {
            let size = match (take("size").and_then(number), take("max").and_then(number)) {
                (Some(size), None) => PutSize::Exactly(size),
                (None, Some(limit)) => PutSize::AtMost(limit),
                _ => return Err(invalid),
            };
            Grant::Put { key, size, media_type, expires_at }
        } else if method == Method::GET {
            let inline = take("as").ok_or(invalid)? == "inline";
            let disposition = Disposition { file_name: take("name").ok_or(invalid)?, inline };
            Grant::Get { key, disposition, media_type, expires_at }
        } else {
            return Err(invalid);
        };
        if !parameters.is_empty() {
            return Err(invalid);
        }
        if now >= expires_at { Err(SignatureError::Expired) } else { Ok(grant) }
    }

    fn sign(
        &self,
        method: &Method,
        key: &BlobKey,
        expires_at: DateTime<Utc>,
        parameters: Vec<(&'static str, String)>,
    ) -> String {
        let (id, secret) = &self.current;
        let mut parameters: BTreeMap<&str, String> = parameters.into_iter().collect();
        parameters.insert("expires", expires_at.timestamp().to_string());
        parameters.insert("key", id.clone());
        let signed = signed_text(method, key, parameters.iter().map(|(name, value)| (*name, value.as_str())));
        let signature = BASE64URL_NOPAD.encode(hmac::sign(secret, &signed).as_ref());
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&parameters)
            .append_pair("signature", &signature)
            .finish();
        format!("{BASE_PATH}{key}?{query}")
    }
}

impl fmt::Debug for UrlKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let older: Vec<&str> = self.older.iter().map(|(id, _)| id.as_str()).collect();
        f.debug_struct("UrlKeys").field("current", &self.current.0).field("older", &older).finish_non_exhaustive()
    }
}

fn signed_text<'a>(method: &Method, key: &BlobKey, parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    let mut part = |value: &str| {
        text.extend_from_slice(&(value.len() as u64).to_be_bytes());
        text.extend_from_slice(value.as_bytes());
    };
    part(VERSION);
    part(method.as_str());
    part(key.as_str());
    for (name, value) in parameters {
        part(name);
        part(value);
    }
    text
}

/// What is signed for an upload.
pub(super) struct PutTerms {
    pub expires_at: DateTime<Utc>,
    pub size: PutSize,
    pub media_type: Option<String>,
}

impl PutTerms {
    pub fn checked(
        expires_at: DateTime<Utc>,
        size: PutSize,
        media_type: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Self, PresignError> {
        Ok(Self { expires_at: check_expiry(expires_at, now)?, size, media_type: check_media_type(media_type)? })
    }
}

/// What is signed for a download.
pub(super) struct GetTerms {
    pub expires_at: DateTime<Utc>,
    pub disposition: Disposition,
    pub media_type: Option<String>,
}

impl GetTerms {
    pub fn checked(
        expires_at: DateTime<Utc>,
        disposition: &Disposition,
        media_type: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Self, PresignError> {
        let file_name = disposition.file_name.chars().take(MAX_FILE_NAME).collect();
        Ok(Self {
            expires_at: check_expiry(expires_at, now)?,
            disposition: Disposition { file_name, inline: disposition.inline },
            media_type: check_media_type(media_type)?,
        })
    }
}

/// Whole seconds, because that is what URLs carry.
fn check_expiry(expires_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<DateTime<Utc>, PresignError> {
    let seconds = DateTime::from_timestamp(expires_at.timestamp(), 0).ok_or(PresignError::Expiry)?;
    if seconds > now && seconds - now <= MAX_VALIDITY { Ok(seconds) } else { Err(PresignError::Expiry) }
}

fn check_media_type(media_type: Option<&str>) -> Result<Option<String>, PresignError> {
    let Some(media_type) = media_type else { return Ok(None) };
    if media_type.is_empty() || media_type.len() > MAX_MEDIA_TYPE || !media_type.is_ascii() {
        return Err(PresignError::MediaType);
    }
    HeaderValue::from_str(media_type).map_err(|_| PresignError::MediaType)?;
    Ok(Some(media_type.to_owned()))
}

#[cfg(test)]
#[path = "signed_tests.rs"]
mod tests;
