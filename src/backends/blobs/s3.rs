//! Blobs in a bucket of S3 or of a store that speaks its protocol.
//!
//! Invariants
//! - A body goes up in parts, a few at a time: [`PARTS_IN_FLIGHT`] parts and the one being filled are in memory.
//! - An upload that fails or is dropped is aborted, after its parts in flight have ended, so that none is left. Only
//!   a killed process leaves parts; a lifecycle rule of the bucket (`AbortIncompleteMultipartUpload`) clears them.
//! - A key that is taken is refused by the store itself (`If-None-Match: *`), not by a look before.
//! - Checksums are sent and asked for only where the protocol demands it: compatible stores differ in the rest, and
//!   requests are signed over the hash of their body anyway.
//!
//! Time-outs and retries of one request are the SDK's.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::Method;
use tokio::task::JoinSet;
use url::Url;

use super::body::{Body, Meter, Terms, resolve};
use super::signed::{GetTerms, PutTerms};
use super::{
    BlobEntry, BlobError, BlobInfo, BlobKey, BlobPrefix, MAX_LISTED, OpenError, PresignError, Presigned, PutSize,
};

/// The smallest part that S3 takes.
const PART: usize = 5 * 1024 * 1024;
/// After so many parts they double in size: 5 GB go up in the smallest ones, and the 10 000 that S3 takes of a blob
/// are enough for the 5 TB that it takes.
const PARTS_OF_ONE_SIZE: usize = 1_000;
const PARTS_IN_FLIGHT: usize = 3;
/// Above this size S3 does not copy in one request.
const MAX_COPY: u64 = 5 * 1024 * 1024 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Where a bucket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Settings {
    bucket: String,
    /// What stands before each key: empty, or ending with a slash.
    base: String,
    region: String,
    endpoint: Option<String>,
    public_endpoint: Option<String>,
    path_style: bool,
}

impl S3Settings {
    /// Reads `s3://bucket[/folder]?endpoint=..&public_endpoint=..&region=..&path_style=..`; what it does not say is
    /// looked up in the usual variables of the environment. `public_endpoint` is the address under which clients
    /// reach the store, where that differs. With an endpoint of one's own, path style is the default.
    pub fn parse(url: &Url, variable: impl Fn(&str) -> Option<String>) -> Result<Self, OpenError> {
        let wrong = |what: &str| OpenError::Url(what.to_owned());
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        }
        let bucket = url.host_str().filter(|bucket| !bucket.is_empty()).ok_or_else(|| wrong("it names no bucket"))?;
        let base = url.path().trim_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '=');
        if !base.chars().all(is_plain) || base.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(wrong("its folder is written with a-z A-Z 0-9 / - _ . ="));
        }
        let mut settings = Self {
            bucket: bucket.to_owned(),
            base: if base.is_empty() { String::new() } else { format!("{base}/") },
            region: ["AWS_REGION", "AWS_DEFAULT_REGION"]
                .into_iter()
                .find_map(&variable)
                .unwrap_or_else(|| "us-east-1".to_owned()),
            endpoint: ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().find_map(&variable),
            public_endpoint: None,
            path_style: false,
        };
        let mut path_style = None;
        for (name, value) in url.query_pairs() {
            match (&*name, &*value) {
                ("endpoint", value) => settings.endpoint = Some(endpoint(value)?),
                ("public_endpoint", value) => settings.public_endpoint = Some(endpoint(value)?),
                ("region", value) if !value.is_empty() => settings.region = value.to_owned(),
                ("path_style", "true") => path_style = Some(true),
                ("path_style", "false") => path_style = Some(false),
                ("region" | "path_style", _) => return Err(wrong("`region` is a name, `path_style` true or false")),
                _ => return Err(wrong("it knows endpoint, public_endpoint, region and path_style")),
            }
        }
        settings.path_style = path_style.unwrap_or(settings.endpoint.is_some());
        Ok(settings)
    }
}

fn endpoint(text: &str) -> Result<String, OpenError> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(OpenError::Url("an endpoint reads http(s)://host:port".to_owned())),
    }
}

/// What signs requests to a bucket.
#[derive(Clone)]
pub struct Credentials(aws_sdk_s3::config::Credentials);

impl Credentials {
    /// An access key and its secret; `session` for credentials that expire.
    pub fn new(access_key: &str, secret: &str, session: Option<String>) -> Self {
        Self(aws_sdk_s3::config::Credentials::new(access_key, secret, session, None, "oriel"))
    }

    /// Reads the usual variables of the environment.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, OpenError> {
        match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(key), Some(secret)) => Ok(Self::new(&key, &secret, variable("AWS_SESSION_TOKEN"))),
            _ => Err(OpenError::Credentials),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// A bucket of blobs.
pub struct S3Blobs {
    client: Client,
    /// Signs URLs for clients outside.
    public: Client,
    bucket: String,
    base: String,
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
        Self { client, public, bucket: settings.bucket, base: settings.base }
    }

    pub(super) async fn put(&self, key: &BlobKey, mut body: Body<'_>, terms: Terms) -> Result<BlobInfo, BlobError> {
        let mut meter = Meter::new(terms.limit);
        let mut parts = Parts::default();
        let first = parts.next(&mut body, &mut meter).await?;
        if !parts.ended {
            return self.put_parts(key, first, parts, body, meter, terms).await;
        }
        let info = terms.accept(meter.finish())?;
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_if_none_match((!terms.replace).then(|| "*".to_owned()))
            .body(ByteStream::from(first))
            .send()
            .await
            .map_err(refused)?;
        Ok(info)
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
        let mut upload = Upload::begin(&self.client, &self.bucket, self.name(key)).await?;
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
            upload.complete(terms.replace).await?;
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
        let asked = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_range(range.as_ref().map(range_header))
            .send()
            .await;
        let answer = match asked {
            Err(error) if status(&error) == Some(416) => {
                return Err(BlobError::RangeOutside { size: self.head(key).await?.size });
            }
            asked => asked.map_err(refused)?,
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
        let answer =
            self.client.head_object().bucket(&self.bucket).key(self.name(key)).send().await.map_err(refused)?;
        entry(key.clone(), answer.content_length(), answer.last_modified())
    }

    pub(super) async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        let deleted = self.client.delete_object().bucket(&self.bucket).key(self.name(key)).send().await;
        match deleted.map_err(refused) {
            Ok(_) | Err(BlobError::NotFound) => Ok(()),
            Err(error) => Err(error),
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
        self.client
            .copy_object()
            .copy_source(format!("{}/{}", self.bucket, self.name(from)))
            .bucket(&self.bucket)
            .key(self.name(to))
            .send()
            .await
            .map_err(refused)?;
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
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{}/", self.base, prefix.as_str()))
                .set_start_after(after.clone())
                .max_keys((limit - found.len()).min(MAX_LISTED) as i32)
                .send()
                .await
                .map_err(refused)?;
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
        match self.client.head_bucket().bucket(&self.bucket).send().await.map_err(refused) {
            Ok(_) => Ok(()),
            Err(BlobError::NotFound) => Err(BlobError::unavailable("there is no such bucket")),
            Err(error) => Err(error),
        }
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

    fn name(&self, key: &BlobKey) -> String {
        format!("{}{key}", self.base)
    }
}

/// Cuts a body into parts.
#[derive(Default)]
struct Parts {
    cut: usize,
    rest: BytesMut,
    ended: bool,
}

impl Parts {
    /// The next part, of full size unless the body `ended`.
    async fn next(&mut self, body: &mut Body<'_>, meter: &mut Meter) -> Result<Bytes, BlobError> {
        let size = part_size(self.cut);
        while self.rest.len() < size {
            match meter.next(body).await? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None => {
                    self.ended = true;
                    return Ok(self.rest.split().freeze());
                }
            }
        }
        self.cut += 1;
        Ok(self.rest.split_to(size).freeze())
    }
}

fn part_size(index: usize) -> usize {
    PART << (index / PARTS_OF_ONE_SIZE)
}

/// A multipart upload that is aborted unless it was completed.
struct Upload {
    client: Client,
    bucket: String,
    name: String,
    id: Option<String>,
    sent: i32,
    in_flight: JoinSet<Result<CompletedPart, BlobError>>,
    done: Vec<CompletedPart>,
}

impl Upload {
    async fn begin(client: &Client, bucket: &str, name: String) -> Result<Self, BlobError> {
        let begun = client.create_multipart_upload().bucket(bucket).key(&name).send().await.map_err(refused)?;
        let id = begun.upload_id.ok_or_else(|| BlobError::unavailable("the store began an upload without an id"))?;
        Ok(Self {
            client: client.clone(),
            bucket: bucket.to_owned(),
            name,
            id: Some(id),
            sent: 0,
            in_flight: JoinSet::new(),
            done: Vec::new(),
        })
    }

    /// Sends a part, once there is room among those in flight.
    async fn send(&mut self, part: Bytes) -> Result<(), BlobError> {
        while self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.settle().await?;
        }
        self.sent += 1;
        let number = self.sent;
        let request = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(&self.name)
            .set_upload_id(self.id.clone())
            .part_number(number)
            .body(ByteStream::from(part));
        self.in_flight.spawn(async move {
            let answer = request.send().await.map_err(refused)?;
            Ok(CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag).build())
        });
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), BlobError> {
        if let Some(joined) = self.in_flight.join_next().await {
            self.done.push(joined.map_err(BlobError::unavailable)??);
        }
        Ok(())
    }

    async fn complete(&mut self, replace: bool) -> Result<(), BlobError> {
        while !self.in_flight.is_empty() {
            self.settle().await?;
        }
        self.done.sort_unstable_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.done))).build();
        self.client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(&self.name)
            .set_upload_id(self.id.clone())
            .set_if_none_match((!replace).then(|| "*".to_owned()))
            .multipart_upload(parts)
            .send()
            .await
            .map_err(refused)?;
        self.id = None;
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(aborting) = self.aborting() {
            aborting.await;
        }
    }

    /// The work of aborting, once. It waits for the parts in flight: one that arrived later would stay.
    fn aborting(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let id = self.id.take()?;
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.name).upload_id(id);
        let mut in_flight = std::mem::take(&mut self.in_flight);
        Some(async move {
            in_flight.shutdown().await;
            if let Err(error) = request.send().await.map_err(refused) {
                tracing::warn!(error = &error as &dyn std::error::Error, "an upload to the bucket was not aborted");
            }
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(aborting), Ok(runtime)) = (self.aborting(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(aborting);
        }
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

/// What an answer means. A missing bucket is a 404 as well, but a mistake of the settings, not a missing blob.
fn refused<E>(error: SdkError<E>) -> BlobError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    match (status(&error), code) {
        (Some(404), None | Some("NoSuchKey" | "NotFound")) => BlobError::NotFound,
        (Some(412), _) | (Some(409), Some("ConditionalRequestConflict")) => BlobError::Exists,
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

    fn parse(url: &str, environment: &[(&str, &str)]) -> Result<S3Settings, OpenError> {
        S3Settings::parse(&Url::parse(url).unwrap(), |name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_url_says_where_the_bucket_is_and_the_environment_the_rest() {
        let own =
            parse("s3://files/a/b?endpoint=http://127.0.0.1:9000/&region=here&public_endpoint=https://s3.example", &[]);
        let own = own.unwrap();
        assert_eq!((own.bucket.as_str(), own.base.as_str(), own.region.as_str()), ("files", "a/b/", "here"));
        assert_eq!(own.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(own.public_endpoint.as_deref(), Some("https://s3.example"));
        assert!(own.path_style);
        assert!(!parse("s3://files?endpoint=http://x&path_style=false", &[]).unwrap().path_style);

        let aws = parse("s3://files", &[("AWS_DEFAULT_REGION", "eu-central-1")]).unwrap();
        assert_eq!((aws.region.as_str(), aws.endpoint.clone(), aws.path_style), ("eu-central-1", None, false));
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_its_secret() {
        for url in [
            "s3://key:hunter2@files",
            "s3://",
            "s3://files?endpoint=hunter2",
            "s3://files?endpoint=ftp://x",
            "s3://files?hunter2=1",
            "s3://files?path_style=yes",
            "s3://files/hunter%202",
        ] {
            let error = parse(url, &[]).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
        let key = Credentials::new("hunter2", "hunter2", Some("hunter2".to_owned()));
        assert!(!format!("{key:?}").contains("hunter2"));
        assert!(matches!(Credentials::from_environment(|_| None), Err(OpenError::Credentials)));
    }

    #[test]
    fn a_content_range_is_read() {
        assert_eq!(content_range("bytes 2-4/10"), Some((10, 2..5)));
        assert_eq!(content_range("bytes */10"), None);
        assert_eq!(content_range("bytes 0-18446744073709551615/*"), None);
    }

    #[test]
    fn as_many_parts_as_s3_takes_hold_as_much_as_it_takes() {
        let in_all: u64 = (0..10_000).map(|index| part_size(index) as u64).sum();
        assert!(in_all >= 5_000_000_000_000);
        assert_eq!(part_size(999), PART);
        assert!(part_size(9_999) as u64 <= 5 << 30, "a part is too large");
    }
}
