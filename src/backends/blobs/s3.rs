//! Blobs in a bucket of S3 or of a store that speaks its protocol.
//!
//! Invariants
//! - A body goes up in parts, a few at a time: those and the one being filled are in memory.
//! - An upload that fails or is dropped is aborted, after its parts in flight have ended, so that none is left. What a
//!   killed process leaves is aborted later, see [`S3Blobs::abort_unfinished`].
//! - Where the bucket keeps versions, all of them go with a blob, unless the settings say that they stay.
//! - A key that is taken is refused by the store itself (`If-None-Match: *`), not by a look before. Each write leaves a
//!   mark of its own on what it wrote: when its answer is lost and it is repeated, what it finds there is known for its
//!   own.
//! - Checksums are sent and asked for only where the protocol demands it: compatible stores differ in the rest, and
//!   requests are signed over the hash of their body anyway.
//!
//! Time-outs and retries of one request are the SDK's; a [`Guard`] is around all of them.

mod settings;
mod upload;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ServerSideEncryption;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::Method;
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::settings::Encryption;
pub use self::settings::{S3Settings, Versions};
use self::upload::{Parts, Upload};
use super::body::{Body, Meter, Terms, resolve};
use super::signed::{GetTerms, PutTerms};
use super::{BlobEntry, BlobError, BlobInfo, BlobKey, BlobPrefix, MAX_LISTED, PresignError, Presigned, PutSize};
use crate::aws::Credentials;
use crate::resilience::{Guard, Health, Policy};
use crate::trace::ToAws;

/// The mark of a write, in the metadata of what it wrote.
const WRITE: &str = "oriel-write";
/// Above this size S3 does not copy in one request.
const MAX_COPY: u64 = 5 * 1024 * 1024 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long the bucket may take to say that it is there.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// A bucket of blobs.
pub struct S3Blobs {
    client: Client,
    /// Signs URLs for clients outside.
    public: Client,
    bucket: String,
    base: String,
    guard: Arc<Guard>,
    encryption: Option<Encryption>,
    versions: Versions,
    /// Whether the bucket keeps versions, once it was asked.
    is_versioned: OnceCell<bool>,
}

impl fmt::Debug for S3Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Blobs").field("bucket", &self.bucket).field("base", &self.base).finish_non_exhaustive()
    }
}

impl S3Blobs {
    pub(super) fn new(settings: S3Settings, credentials: Credentials) -> Self {
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(settings.region))
            .credentials_provider(credentials.0)
            .interceptor(ToAws)
            .force_path_style(settings.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard())
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).read_timeout(ANSWER_WITHIN).build(),
            );
        config.set_endpoint_url(settings.endpoint.clone());
        let client = Client::from_conf(config.clone().build());
        config.set_endpoint_url(settings.public_endpoint.or(settings.endpoint));
        let public = Client::from_conf(config.build());
        // A body that is sent takes its time, and requests are repeated already.
        let guard = Guard::new("blobs", Policy { time_out: None, attempts: 1, ..Policy::default() });
        Self {
            client,
            public,
            bucket: settings.bucket,
            base: settings.base,
            guard: Arc::new(guard),
            encryption: settings.encryption,
            versions: settings.versions,
            is_versioned: OnceCell::new(),
        }
    }

    /// How the store is.
    pub(super) fn health(&self) -> Health {
        self.guard.health()
    }

    pub(super) async fn put(&self, key: &BlobKey, mut body: Body<'_>, terms: Terms) -> Result<BlobInfo, BlobError> {
        let mut meter = Meter::new(terms.limit);
        let mut parts = Parts::default();
        let first = parts.next(&mut body, &mut meter).await?;
        if !parts.ended {
            return self.put_parts(key, first, parts, body, meter, terms).await;
        }
        let info = terms.accept(meter.finish())?;
        let write = Uuid::now_v7().to_string();
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .metadata(WRITE, &write)
            .set_if_none_match((!terms.replace).then(|| "*".to_owned()))
            .set_server_side_encryption(self.algorithm())
            .set_ssekms_key_id(self.kms_key())
            .body(ByteStream::from(first));
        let answer = asked(&self.guard, request.send()).await;
        self.is_done(key, &write, answer.map(drop)).await?;
        Ok(info)
    }

    /// How a write has ended. One whose answer was lost is repeated, and is told that the key is taken, or that its
    /// upload is over: by itself, if what is there bears its mark.
    async fn is_done(&self, key: &BlobKey, write: &str, answer: Result<(), BlobError>) -> Result<(), BlobError> {
        let Err(error @ (BlobError::Exists | BlobError::NotFound)) = answer else { return answer };
        let request = self.client.head_object().bucket(&self.bucket).key(self.name(key));
        match asked(&self.guard, request.send()).await {
            Ok(found) if found.metadata().and_then(|marks| marks.get(WRITE)).is_some_and(|mark| mark == write) => {
                Ok(())
            }
            Ok(_) | Err(BlobError::NotFound) => Err(error),
            Err(away) => Err(away),
        }
    }

    async fn put_parts(
        &self,
        key: &BlobKey,
        first: Bytes,
        mut parts: Parts,
        mut body: Body<'_>,
        mut meter: Meter,
        terms: Terms,
    ) -> Result<BlobInfo, BlobError> {
        let write = Uuid::now_v7().to_string();
        let mut upload = Upload::begin(self, self.name(key), &write).await?;
        let finish = async {
            let mut part = first;
            loop {
                upload.send(part).await?;
                if parts.ended {
                    break;
                }
                part = parts.next(&mut body, &mut meter).await?;
            }
            let info = terms.accept(meter.finish())?;
            let completed = upload.complete(terms.replace).await;
            self.is_done(key, &write, completed).await?;
            Ok(info)
        };
        let finished = finish.await;
        if finished.is_err() {
            upload.abort().await;
        }
        finished
    }

    pub(super) async fn get(
        &self,
        key: &BlobKey,
        range: Option<Range<u64>>,
    ) -> Result<(u64, Range<u64>, BoxStream<'static, io::Result<Bytes>>), BlobError> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Err(BlobError::RangeOutside { size: self.head(key).await?.size });
        }
        let header = range.as_ref().map(range_header);
        let request = self.client.get_object().bucket(&self.bucket).key(self.name(key)).set_range(header);
        let answer = self.guard.once(async {
            match request.send().await {
                Err(error) if status(&error) == Some(416) => Ok(None),
                answer => answer.map(Some).map_err(refused),
            }
        });
        let Some(answer) = answer.await? else {
            return Err(BlobError::RangeOutside { size: self.head(key).await?.size });
        };
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        // `bytes 2-4/10`: without it the store sent everything, whatever was asked for.
        let (size, sent) = match answer.content_range() {
            Some(text) => content_range(text),
            None => length.map(|length| (length, 0..length)),
        }
        .ok_or_else(|| BlobError::unavailable("the answer does not tell its length"))?;
        if resolve(range, size) != Some(sent.clone()) {
            return Err(BlobError::unavailable("the answer holds another range than was asked for"));
        }
        let stream = futures::stream::try_unfold(answer.body, |mut body| async move {
            let chunk = body.try_next().await.map_err(io::Error::other)?;
            Ok(chunk.map(|chunk| (chunk, body)))
        });
        Ok((size, sent, stream.boxed()))
    }

    pub(super) async fn head(&self, key: &BlobKey) -> Result<BlobEntry, BlobError> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.name(key));
        let answer = asked(&self.guard, request.send()).await?;
        entry(key.clone(), answer.content_length(), answer.last_modified())
    }

    pub(super) async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        if self.versions == Versions::Remove && self.is_versioned().await? {
            return self.delete_versions(key).await;
        }
        self.delete_object(&self.name(key), None).await
    }

    async fn delete_object(&self, name: &str, version: Option<String>) -> Result<(), BlobError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(name).set_version_id(version);
        match asked(&self.guard, request.send()).await {
            Ok(_) | Err(BlobError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes all that the bucket keeps of a blob: its versions, and the marks that it was removed.
    async fn delete_versions(&self, key: &BlobKey) -> Result<(), BlobError> {
        let name = self.name(key);
        let mut after = (None, None);
        loop {
            let request = self
                .client
                .list_object_versions()
                .bucket(&self.bucket)
                .prefix(&name)
                .set_key_marker(after.0)
                .set_version_id_marker(after.1);
            let page = asked(&self.guard, request.send()).await?;
            let versions = page.versions().iter().map(|one| (one.key(), one.version_id()));
            let marks = page.delete_markers().iter().map(|one| (one.key(), one.version_id()));
            for (found, version) in versions.chain(marks) {
                // Another key may begin like this one.
                if found == Some(&name) {
                    self.delete_object(&name, version.map(str::to_owned)).await?;
                }
            }
            if !page.is_truncated().unwrap_or(false) {
                return Ok(());
            }
            after = (page.next_key_marker, page.next_version_id_marker);
        }
    }

    /// Whether the bucket keeps versions. One that does not say so keeps none.
    async fn is_versioned(&self) -> Result<bool, BlobError> {
        let ask = async || {
            let request = self.client.get_bucket_versioning().bucket(&self.bucket);
            self.guard
                .once(async {
                    match request.send().await {
                        Ok(answer) => Ok(answer.status().is_some()),
                        Err(error) if matches!(status(&error), Some(403)) => {
                            tracing::warn!(
                                "it is not allowed to ask whether the bucket keeps versions (s3:GetBucketVersioning): \
                                 if it does, what is removed stays in it as a version"
                            );
                            Ok(false)
                        }
                        Err(error) if matches!(status(&error), Some(400 | 404 | 405 | 501)) => Ok(false),
                        Err(error) => Err(refused(error)),
                    }
                })
                .await
        };
        self.is_versioned.get_or_try_init(ask).await.copied()
    }

    /// Aborts what was begun before then and never completed: a killed process left it. How many there were.
    pub(super) async fn abort_unfinished(&self, before: DateTime<Utc>) -> Result<usize, BlobError> {
        let (mut aborted, mut after) = (0, (None, None));
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(&self.base)
                .set_key_marker(after.0)
                .set_upload_id_marker(after.1);
            let page = self.guard.once(async {
                match request.send().await {
                    // A store that does not tell clears them by itself, or not at all.
                    Err(error) if matches!(status(&error), Some(403 | 405 | 501)) => Ok(None),
                    page => page.map(Some).map_err(refused),
                }
            });
            let Some(page) = page.await? else { return Ok(aborted) };
            for upload in page.uploads() {
                let (Some(name), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                let is_ours = name.strip_prefix(&self.base).is_some_and(|name| BlobKey::parse(name).is_ok());
                let is_old = upload.initiated().is_some_and(|begun| begun.secs() < before.timestamp());
                if is_ours && is_old {
                    let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(name).upload_id(id);
                    asked(&self.guard, request.send()).await?;
                    aborted += 1;
                }
            }
            if !page.is_truncated().unwrap_or(false) {
                return Ok(aborted);
            }
            after = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    pub(super) async fn copy(&self, from: &BlobKey, to: &BlobKey) -> Result<(), BlobError> {
        // Not every store takes a condition on the target of a copy; the key is fresh, this finds the mistake.
        match self.head(to).await {
            Err(BlobError::NotFound) => {}
            Ok(_) => return Err(BlobError::Exists),
            Err(error) => return Err(error),
        }
        if self.head(from).await?.size > MAX_COPY {
            return Err(BlobError::TooLarge { limit: MAX_COPY });
        }
        let source = format!("{}/{}", self.bucket, self.name(from));
        let request = self
            .client
            .copy_object()
            .copy_source(source)
            .bucket(&self.bucket)
            .key(self.name(to))
            .set_server_side_encryption(self.algorithm())
            .set_ssekms_key_id(self.kms_key());
        asked(&self.guard, request.send()).await?;
        Ok(())
    }

    pub(super) async fn list(
        &self,
        prefix: BlobPrefix,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let mut found = Vec::new();
        let mut after = after.map(|key| self.name(key));
        while found.len() < limit {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{}/", self.base, prefix.as_str()))
                .set_start_after(after.clone())
                .max_keys((limit - found.len()).min(MAX_LISTED) as i32);
            let page = asked(&self.guard, request.send()).await?;
            let Some(last) = page.contents().last().and_then(|object| object.key()) else { break };
            after = Some(last.to_owned());
            for object in page.contents() {
                // What is no key was put there by somebody else, and is left alone.
                let name = object.key().and_then(|name| name.strip_prefix(&self.base));
                if let Some(Ok(key)) = name.map(BlobKey::parse) {
                    found.push(entry(key, object.size(), object.last_modified())?);
                }
            }
            if !page.is_truncated().unwrap_or(false) {
                break;
            }
        }
        Ok(found)
    }

    pub(super) async fn check(&self) -> Result<(), BlobError> {
        let request = self.client.head_bucket().bucket(&self.bucket);
        let checked = self.guard.look(CHECK_WITHIN, async {
            match request.send().await.map_err(refused) {
                Ok(_) => Ok(()),
                Err(BlobError::NotFound) => Err(BlobError::unavailable("there is no such bucket")),
                Err(error) => Err(error),
            }
        });
        checked.await
    }

    pub(super) async fn presign_put(
        &self,
        key: &BlobKey,
        terms: &PutTerms,
        now: DateTime<Utc>,
    ) -> Result<Presigned, PresignError> {
        let length = match terms.size {
            PutSize::Exactly(size) => i64::try_from(size).ok(),
            PutSize::AtMost(_) => None,
        };
        let request = self
            .public
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_content_length(length)
            .set_server_side_encryption(self.algorithm())
            .set_ssekms_key_id(self.kms_key())
            .set_content_type(terms.media_type.clone());
        presigned(request.presigned(valid(terms.expires_at, now)?).await, Method::PUT, terms.expires_at)
    }

    pub(super) async fn presign_get(
        &self,
        key: &BlobKey,
        terms: &GetTerms,
        now: DateTime<Utc>,
    ) -> Result<Presigned, PresignError> {
        let request = self
            .public
            .get_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .response_content_disposition(terms.disposition.header_value())
            .set_response_content_type(terms.media_type.clone());
        presigned(request.presigned(valid(terms.expires_at, now)?).await, Method::GET, terms.expires_at)
    }

    fn algorithm(&self) -> Option<ServerSideEncryption> {
        self.encryption.as_ref().map(|how| how.algorithm.clone())
    }

    fn kms_key(&self) -> Option<String> {
        self.encryption.as_ref().and_then(|how| how.key.clone())
    }

    fn name(&self, key: &BlobKey) -> String {
        format!("{}{key}", self.base)
    }
}

fn valid(expires_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<PresigningConfig, PresignError> {
    // From a whole second on, because that is what the URL carries.
    let from = DateTime::from_timestamp(now.timestamp(), 0).ok_or(PresignError::Expiry)?;
    PresigningConfig::builder()
        .start_time(SystemTime::from(from))
        .expires_in((expires_at - from).to_std().map_err(|_| PresignError::Expiry)?)
        .build()
        .map_err(|_| PresignError::Expiry)
}

fn presigned<E>(
    signed: Result<PresignedRequest, SdkError<E>>,
    method: Method,
    expires_at: DateTime<Utc>,
) -> Result<Presigned, PresignError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let signed = signed.map_err(|error| PresignError::Unavailable(DisplayErrorContext(&error).to_string().into()))?;
    Ok(Presigned {
        url: signed.uri().to_owned(),
        method,
        // Clients set these two by themselves, browsers allow nobody else to.
        headers: signed
            .headers()
            .filter(|(name, _)| !matches!(*name, "host" | "content-length"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        expires_at,
    })
}

fn entry(
    key: BlobKey,
    size: Option<i64>,
    modified: Option<&aws_sdk_s3::primitives::DateTime>,
) -> Result<BlobEntry, BlobError> {
    let size = size.and_then(|size| u64::try_from(size).ok());
    let modified = modified.and_then(|time| DateTime::from_timestamp(time.secs(), time.subsec_nanos()));
    match (size, modified) {
        (Some(size), Some(modified)) => Ok(BlobEntry { key, size, modified }),
        _ => Err(BlobError::unavailable("the store told no size or no time")),
    }
}

/// An end beyond all blobs is left out: stores refuse numbers that are too large for them.
fn range_header(range: &Range<u64>) -> String {
    match i64::try_from(range.end) {
        Ok(end) => format!("bytes={}-{}", range.start, end - 1),
        Err(_) => format!("bytes={}-", range.start),
    }
}

/// `bytes 2-4/10`: ten bytes in all, of which 2, 3 and 4 were sent.
fn content_range(text: &str) -> Option<(u64, Range<u64>)> {
    let (sent, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = sent.split_once('-')?;
    Some((size.parse().ok()?, first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?))
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}

/// A request behind the guard.
async fn asked<T, E>(guard: &Guard, request: impl Future<Output = Result<T, SdkError<E>>>) -> Result<T, BlobError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    guard.once(async { request.await.map_err(refused) }).await
}

/// What an answer means. A missing bucket is a 404 as well, but a mistake of the settings, not a missing blob.
fn refused<E>(error: SdkError<E>) -> BlobError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    match (status(&error), code) {
        (Some(404), None | Some("NoSuchKey" | "NoSuchUpload" | "NotFound")) => BlobError::NotFound,
        (Some(412), _) => BlobError::Exists,
        (status, code) => {
            let what = match &error {
                // The body of a refusal may repeat the request; its code says enough.
                SdkError::ServiceError(_) => format!("status {status:?}, code {code:?}"),
                other => DisplayErrorContext(other).to_string(),
            };
            BlobError::unavailable(what)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_content_range_is_read() {
        assert_eq!(content_range("bytes 2-4/10"), Some((10, 2..5)));
        assert_eq!(content_range("bytes */10"), None);
        assert_eq!(content_range("bytes 0-18446744073709551615/*"), None);
    }
}
