//! Blobs: bytes under a key that is used once, in a local folder or in an S3 bucket.
//!
//! Invariants
//! - A key is fresh and its bytes never change: [`Blobs::put`] refuses a key that is taken. Only an upload through a
//!   signed URL may arrive twice under its key, which is why such a key is copied to a fresh one before it is used.
//! - When `put` or `copy` returns, the bytes are durable. When it fails or is dropped, nothing stays.
//! - Bodies are streams: memory does not grow with their size.
//! - Signed URLs name one key, one method, one size and one moment after which they are refused.
//! - Neither keys, credentials nor signed URLs appear in `Debug`, and the text of an error names no address.
//!
//! Both backends pass the one suite in `contract/`. Nothing here knows what the bytes stand for.

mod body;
mod key;
mod local;
mod s3;
mod signed;

#[cfg(test)]
mod contract;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{Stream, TryStreamExt};
use tokio::io::AsyncWriteExt;
use url::Url;

use self::body::{Meter, Terms};
pub use self::key::{BlobKey, BlobPrefix, EXPORTS, FILES, InvalidBlobKey, STAGING, TEXTS};
pub use self::local::LocalBlobs;
pub use self::s3::{S3Blobs, S3Settings};
pub use self::signed::{BASE_PATH, Disposition, Grant, PresignError, Presigned, PutSize, SignatureError, UrlKeys};

use crate::aws::{Credentials, variable};
use crate::resilience::{Fault, Health, Unanswered};

/// Most entries of one [`Blobs::list`].
pub const MAX_LISTED: usize = 1_000;

/// Any error, as it comes out of somebody else's stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What was written, measured while it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobInfo {
    /// Number of bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

impl BlobInfo {
    /// The hash as 64 lower-case hexadecimal digits.
    pub fn sha256_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.sha256)
    }
}

/// What the store knows of a blob without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobEntry {
    /// Where it is.
    pub key: BlobKey,
    /// Number of bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// A blob that is being read.
pub struct BlobBody {
    /// Number of bytes of the whole blob.
    pub size: u64,
    /// Which of them follow.
    pub range: Range<u64>,
    /// The bytes of `range`; one that ends early ends with an error.
    pub stream: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody").field("size", &self.size).field("range", &self.range).finish_non_exhaustive()
    }
}

/// Why a blob was not written or read.
#[derive(thiserror::Error, Debug)]
pub enum BlobError {
    /// Nothing is kept under this key.
    #[error("there is no such blob")]
    NotFound,
    /// The key is taken; a fresh one has to be made.
    #[error("a blob with this key exists already")]
    Exists,
    /// The body went on after `limit` bytes.
    #[error("the blob is larger than {limit} bytes")]
    TooLarge {
        /// The limit that was passed in.
        limit: u64,
    },
    /// The sender stopped before the end, or sent another number of bytes than it announced.
    #[error("the body broke off before its end")]
    BrokenOff(#[source] BoxError),
    /// No byte of the range exists.
    #[error("the range lies outside of the blob's {size} bytes")]
    RangeOutside {
        /// Number of bytes of the whole blob.
        size: u64,
    },
    /// The disk is full, the bucket does not answer, the credentials are refused. The source is for the log.
    #[error("the blob store is not available")]
    Unavailable(#[source] BoxError),
}

impl BlobError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }

    /// Of work on the files of blobs, where a missing file is a missing blob.
    fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Exists,
            _ => Self::unavailable(error),
        }
    }
}

impl From<Unanswered> for BlobError {
    fn from(why: Unanswered) -> Self {
        Self::unavailable(why)
    }
}

impl Fault for BlobError {
    fn is_outage(&self) -> bool {
        self.is_transient()
    }
}

/// Why a store could not be opened: a mistake in the settings or on the machine.
#[derive(thiserror::Error, Debug)]
pub enum OpenError {
    /// The URL names no store.
    #[error(
        "the blobs URL is not usable: {0}; write file:///folder or s3://bucket?endpoint=https://host&region=name&encryption=AES256"
    )]
    Url(String),
    /// S3 without credentials.
    #[error("an s3:// blobs URL needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")]
    Credentials,
    /// The folder cannot be made or written.
    #[error("the blobs folder {} is not usable", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The blob store of this process. Clones share it.
#[derive(Clone, Debug)]
pub enum Blobs {
    /// A folder of this machine.
    Local(Arc<LocalBlobs>),
    /// A bucket of S3 or of a compatible store.
    S3(Arc<S3Blobs>),
}

impl Blobs {
    /// Opens the store that `url` names, without a URL `default_folder`. `keys` sign the URLs of a local store; S3
    /// signs its own with the credentials of the environment. Does not talk to the bucket: see [`Blobs::check`].
    pub async fn open(url: Option<&str>, default_folder: &Path, keys: UrlKeys) -> Result<Self, OpenError> {
        let Some(url) = url else { return Self::open_folder(default_folder, keys).await };
        let url = Url::parse(url).map_err(|error| OpenError::Url(error.to_string()))?;
        match url.scheme() {
            "file" => {
                let folder =
                    url.to_file_path().map_err(|()| OpenError::Url("not a path of this machine".to_owned()))?;
                Self::open_folder(&folder, keys).await
            }
            "s3" => {
                let settings = S3Settings::parse(&url, variable)?;
                let credentials = Credentials::from_environment(variable).ok_or(OpenError::Credentials)?;
                Ok(Self::open_s3(settings, credentials))
            }
            other => Err(OpenError::Url(format!("`{other}:` is not known"))),
        }
    }

    /// Opens a folder, which is made when it is missing, and clears what a killed process left unfinished.
    pub async fn open_folder(folder: &Path, keys: UrlKeys) -> Result<Self, OpenError> {
        Ok(Self::Local(Arc::new(LocalBlobs::open(folder, keys).await?)))
    }

    /// Opens a bucket.
    pub fn open_s3(settings: S3Settings, credentials: Credentials) -> Self {
        Self::S3(Arc::new(S3Blobs::new(settings, credentials)))
    }

    /// Writes a blob. Over `limit` bytes it is [`BlobError::TooLarge`].
    pub async fn put<S, E>(&self, key: &BlobKey, body: S, limit: u64) -> Result<BlobInfo, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<BoxError>,
    {
        let body = pin!(body.map_err(Into::into));
        match self {
            Self::Local(local) => local.put(key, body, Terms::new_key(limit)).await,
            Self::S3(s3) => s3.put(key, body, Terms::new_key(limit)).await,
        }
    }

    /// Writes what is in memory already: a derived blob such as the text of a file.
    pub async fn write(&self, key: &BlobKey, bytes: Bytes) -> Result<BlobInfo, BlobError> {
        let limit = bytes.len() as u64;
        self.put(key, futures::stream::iter([Ok::<_, io::Error>(bytes)]), limit).await
    }

    /// Writes the body of a request that carried a signed URL, within the terms of its grant. Arriving again under
    /// the same key it replaces what arrived before, as it does in S3.
    pub async fn receive<S, E>(&self, grant: &Grant, body: S) -> Result<BlobInfo, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<BoxError>,
    {
        let Grant::Put { key, size, .. } = grant else {
            return Err(BlobError::unavailable("a grant to read does not allow to write"));
        };
        let body = pin!(body.map_err(Into::into));
        let terms = Terms::signed(*size);
        match self {
            Self::Local(local) => local.put(key, body, terms).await,
            Self::S3(s3) => s3.put(key, body, terms).await,
        }
    }

    /// Reads a blob, or the bytes of a range of it. A range that reaches over the end is cut there.
    pub async fn get(&self, key: &BlobKey, range: Option<Range<u64>>) -> Result<BlobBody, BlobError> {
        let (size, range, stream) = match self {
            Self::Local(local) => local.get(key, range).await?,
            Self::S3(s3) => s3.get(key, range).await?,
        };
        let stream = body::whole(stream, range.end - range.start);
        Ok(BlobBody { size, range, stream })
    }

    /// Reads a small blob into memory; one of more than `limit` bytes is [`BlobError::TooLarge`], unread.
    pub async fn read(&self, key: &BlobKey, limit: u64) -> Result<Bytes, BlobError> {
        let mut body = self.get(key, None).await?;
        if body.size > limit {
            return Err(BlobError::TooLarge { limit });
        }
        let mut bytes = BytesMut::with_capacity(body.size as usize);
        while let Some(chunk) = body.stream.try_next().await.map_err(BlobError::unavailable)? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// Reads a blob to measure it: what [`Blobs::put`] would have answered. Over `limit` bytes it is
    /// [`BlobError::TooLarge`], unread.
    pub async fn measure(&self, key: &BlobKey, limit: u64) -> Result<BlobInfo, BlobError> {
        let mut body = self.get(key, None).await?;
        if body.size > limit {
            return Err(BlobError::TooLarge { limit });
        }
        let mut meter = Meter::new(limit);
        while let Some(chunk) = body.stream.try_next().await.map_err(BlobError::unavailable)? {
            meter.take(&chunk)?;
        }
        Ok(meter.finish())
    }

    /// The file in which a local store keeps the blob, for whoever needs a file and only reads it. `None`: the store
    /// has no files, use [`Blobs::fetch_to`].
    pub fn local_path(&self, key: &BlobKey) -> Option<PathBuf> {
        match self {
            Self::Local(local) => Some(local.path(key)),
            Self::S3(_) => None,
        }
    }

    /// Copies a blob into the file `path`, which is made or overwritten, and removed again when that fails.
    pub async fn fetch_to(&self, key: &BlobKey, path: &Path) -> Result<BlobInfo, BlobError> {
        let body = self.get(key, None).await?;
        let written = write_file(body, path).await;
        if written.is_err() {
            // What failed is told; a file that could not be made cannot be removed either.
            let _ = tokio::fs::remove_file(path).await;
        }
        written
    }

    /// Size and time of a blob.
    pub async fn head(&self, key: &BlobKey) -> Result<BlobEntry, BlobError> {
        match self {
            Self::Local(local) => local.head(key).await,
            Self::S3(s3) => s3.head(key).await,
        }
    }

    /// Removes a blob. One that is not there is removed already.
    pub async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        match self {
            Self::Local(local) => local.delete(key).await,
            Self::S3(s3) => s3.delete(key).await,
        }
    }

    /// Removes what uploads left that were begun before then and never ended. How many there were. A folder has none: it
    /// is cleared when it is opened.
    pub async fn abort_unfinished(&self, before: DateTime<Utc>) -> Result<usize, BlobError> {
        match self {
            Self::Local(_) => Ok(0),
            Self::S3(s3) => s3.abort_unfinished(before).await,
        }
    }

    /// Copies a blob to a fresh key without moving its bytes through this process.
    ///
    /// An upload through a signed URL is completed in this order: copy it to a fresh key, [`Blobs::measure`] the copy,
    /// commit, delete the original. Whoever still holds the URL can then change nothing that was measured.
    pub async fn copy(&self, from: &BlobKey, to: &BlobKey) -> Result<(), BlobError> {
        match self {
            Self::Local(local) => local.copy(from, to).await,
            Self::S3(s3) => s3.copy(from, to).await,
        }
    }

    /// The blobs under a prefix, at most `limit` (and [`MAX_LISTED`]), in an order of the store's own; `after` is the
    /// last key of the page before. Fewer than asked for: there are no more.
    pub async fn list(
        &self,
        prefix: BlobPrefix,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let limit = limit.min(MAX_LISTED);
        match self {
            Self::Local(local) => local.list(prefix, after, limit).await,
            Self::S3(s3) => s3.list(prefix, after, limit).await,
        }
    }

    /// Whether the store answers and, if it is local, can be written.
    pub async fn check(&self) -> Result<(), BlobError> {
        match self {
            Self::Local(local) => local.check().await,
            Self::S3(s3) => s3.check().await,
        }
    }

    /// How the server of the store is; `None` for a folder.
    pub fn health(&self) -> Option<Health> {
        match self {
            Self::Local(_) => None,
            Self::S3(s3) => Some(s3.health()),
        }
    }

    /// A URL to which one may upload to this key until `expires_at`. That of a local store is a path under the
    /// server's own address ([`BASE_PATH`]).
    pub async fn presign_put(
        &self,
        key: &BlobKey,
        expires_at: DateTime<Utc>,
        size: PutSize,
        media_type: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Presigned, PresignError> {
        let terms = signed::PutTerms::checked(expires_at, size, media_type, now)?;
        match self {
            Self::Local(local) => Ok(local.keys().presign_put(key, &terms)),
            Self::S3(s3) => s3.presign_put(key, &terms, now).await,
        }
    }

    /// A URL from which one may download this blob until `expires_at`, under the name and the media type given here.
    pub async fn presign_get(
        &self,
        key: &BlobKey,
        expires_at: DateTime<Utc>,
        disposition: &Disposition,
        media_type: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Presigned, PresignError> {
        let terms = signed::GetTerms::checked(expires_at, disposition, media_type, now)?;
        match self {
            Self::Local(local) => Ok(local.keys().presign_get(key, &terms)),
            Self::S3(s3) => s3.presign_get(key, &terms, now).await,
        }
    }

    /// What a request with a signed URL of this store may do. Only a local store has its URLs answered by the server.
    pub fn verify(
        &self,
        method: &http::Method,
        path_and_query: &str,
        now: DateTime<Utc>,
    ) -> Result<Grant, SignatureError> {
        match self {
            Self::Local(local) => local.keys().verify(method, path_and_query, now),
            Self::S3(_) => Err(SignatureError::Invalid),
        }
    }

    /// Replaces the keys that sign URLs, when they were rotated. S3 has none.
    pub fn set_url_keys(&self, keys: UrlKeys) {
        if let Self::Local(local) = self {
            local.set_keys(keys);
        }
    }
}

async fn write_file(mut body: BlobBody, path: &Path) -> Result<BlobInfo, BlobError> {
    let mut file = tokio::fs::File::create(path).await.map_err(BlobError::unavailable)?;
    let mut meter = Meter::new(body.size);
    while let Some(chunk) = body.stream.try_next().await.map_err(BlobError::unavailable)? {
        meter.take(&chunk)?;
        file.write_all(&chunk).await.map_err(BlobError::unavailable)?;
    }
    file.flush().await.map_err(BlobError::unavailable)?;
    Ok(meter.finish())
}
