//! A bucket that encrypts, keeps versions, tells of unfinished uploads and knows which are over, around the test server
//! that does not; that what a bucket is asked for is asked for; and that an answer may be lost on its way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use super::super::{Credentials, Grant};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::store::{ACCESS, SECRET, bytes, chunked, fresh, now_here, serve_s3};
use super::*;

/// A bucket with what [`FileSystem`] lacks.
#[derive(Clone)]
struct Bucket {
    files: Arc<FileSystem>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Of each request that writes: its algorithm and its key.
    encryption: Vec<(&'static str, Option<String>, Option<String>)>,
    /// Unfinished uploads and their keys.
    uploads: BTreeMap<String, String>,
    /// Whether versions are kept, and if so which: key, id, and whether it is a mark.
    versions: Option<Vec<(String, String, bool)>>,
    number: u32,
}

impl Seen {
    fn write(&mut self, kind: &'static str, algorithm: Option<&ServerSideEncryption>, key: Option<&String>) {
        self.encryption.push((kind, algorithm.map(|one| one.as_str().to_owned()), key.cloned()));
    }

    fn version(&mut self, key: &str, is_mark: bool) {
        self.number += 1;
        let id = format!("v{}", self.number);
        if let Some(versions) = &mut self.versions {
            versions.push((key.to_owned(), id, is_mark));
        }
    }
}

impl Bucket {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(req).await
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let (algorithm, key) = (req.input.server_side_encryption.clone(), req.input.ssekms_key_id.clone());
        self.seen().write("put", algorithm.as_ref(), key.as_ref());
        let name = req.input.key.clone();
        let answer = self.files.put_object(req).await?;
        self.seen().version(&name, false);
        Ok(answer)
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(req).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let (algorithm, key) = (req.input.server_side_encryption.clone(), req.input.ssekms_key_id.clone());
        self.seen().write("copy", algorithm.as_ref(), key.as_ref());
        let name = req.input.key.clone();
        let answer = self.files.copy_object(req).await?;
        self.seen().version(&name, false);
        Ok(answer)
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (name, version) = (req.input.key.clone(), req.input.version_id.clone());
        {
            let mut seen = self.seen();
            match (version, &mut seen.versions) {
                (None, _) => seen.version(&name, true),
                (Some(version), Some(versions)) => versions.retain(|(key, id, _)| (key, id) != (&name, &version)),
                (Some(version), None) => panic!("there is no version {version}"),
            }
        }
        self.files.delete_object(req).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (algorithm, key) = (req.input.server_side_encryption.clone(), req.input.ssekms_key_id.clone());
        self.seen().write("upload", algorithm.as_ref(), key.as_ref());
        let name = req.input.key.clone();
        let answer = self.files.create_multipart_upload(req).await?;
        self.seen().uploads.insert(answer.output.upload_id.clone().unwrap(), name);
        Ok(answer)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (id, name) = (req.input.upload_id.clone(), req.input.key.clone());
        if !self.seen().uploads.contains_key(&id) {
            return Err(s3_error!(NoSuchUpload));
        }
        let answer = self.files.complete_multipart_upload(req).await?;
        let mut seen = self.seen();
        seen.uploads.remove(&id);
        seen.version(&name, false);
        Ok(answer)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let id = req.input.upload_id.clone();
        let answer = self.files.abort_multipart_upload(req).await?;
        self.seen().uploads.remove(&id);
        Ok(answer)
    }

    /// One at a time, so that there are pages.
    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let seen = self.seen();
        let after = req.input.upload_id_marker.unwrap_or_default();
        let mut rest = seen.uploads.iter().filter(|(id, _)| **id > after);
        let Some((id, key)) = rest.next() else { return Ok(S3Response::new(ListMultipartUploadsOutput::default())) };
        let upload = MultipartUpload {
            upload_id: Some(id.clone()),
            key: Some(key.clone()),
            initiated: Some(SystemTime::now().into()),
            ..MultipartUpload::default()
        };
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(vec![upload]),
            is_truncated: Some(rest.next().is_some()),
            next_key_marker: Some(key.clone()),
            next_upload_id_marker: Some(id.clone()),
            ..ListMultipartUploadsOutput::default()
        }))
    }

    async fn get_bucket_versioning(
        &self,
        _: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let status = self.seen().versions.as_ref().map(|_| BucketVersioningStatus::from_static("Enabled"));
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }))
    }

    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let prefix = req.input.prefix.unwrap_or_default();
        let (mut versions, mut marks) = (Vec::new(), Vec::new());
        for (key, id, is_mark) in self.seen().versions.iter().flatten().filter(|(key, ..)| key.starts_with(&prefix)) {
            let (key, version_id) = (Some(key.clone()), Some(id.clone()));
            match is_mark {
                true => marks.push(DeleteMarkerEntry { key, version_id, ..DeleteMarkerEntry::default() }),
                false => versions.push(ObjectVersion { key, version_id, ..ObjectVersion::default() }),
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            versions: Some(versions),
            delete_markers: Some(marks),
            is_truncated: Some(false),
            ..ListObjectVersionsOutput::default()
        }))
    }
}

/// Its folder, itself, and where it is served.
async fn served() -> (TempDir, Bucket, String) {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir_all(folder.path().join("bucket")).unwrap();
    let files = Arc::new(FileSystem::new(folder.path()).unwrap());
    let bucket = Bucket { files, seen: Arc::default() };
    let endpoint = serve_s3(bucket.clone()).await;
    (folder, bucket, endpoint)
}

async fn bucket(parameters: &str, is_versioned: bool) -> (TempDir, Bucket, Blobs) {
    let (folder, bucket, endpoint) = served().await;
    bucket.seen().versions = is_versioned.then(Vec::new);
    let url = format!("s3://bucket/base?endpoint={endpoint}{parameters}");
    let settings = S3Settings::parse(&Url::parse(&url).unwrap(), |_| None).unwrap();
    (folder, bucket, Blobs::open_s3(settings, Credentials::new(ACCESS, SECRET, None)))
}

#[tokio::test]
async fn what_is_written_is_encrypted_as_the_settings_say() {
    for (parameters, algorithm, kms_key) in [
        ("", None, None),
        ("&encryption=AES256", Some("AES256"), None),
        ("&encryption=aws:kms", Some("aws:kms"), None),
        ("&encryption=aws:kms&kms_key=alias/oriel", Some("aws:kms"), Some("alias/oriel")),
    ] {
        let (_folder, bucket, blobs) = bucket(parameters, false).await;
        let (small, large, copied, staged) = (fresh(FILES), fresh(FILES), fresh(FILES), fresh(STAGING));
        blobs.write(&small, bytes(3)).await.unwrap();
        blobs.put(&large, chunked(&bytes(LARGE), MEGABYTE), LARGE as u64).await.unwrap();
        blobs.copy(&small, &copied).await.unwrap();
        // Who has a signed URL sends the same.
        let now = now_here();
        let url = blobs.presign_put(&staged, now + chrono::TimeDelta::hours(1), PutSize::Exactly(3), None, now).await;
        let url = url.unwrap();
        let mut request = reqwest::Client::new().put(&url.url).body(bytes(3));
        for (name, value) in &url.headers {
            request = request.header(name, value);
        }
        assert!(request.send().await.unwrap().status().is_success(), "{parameters}");
        let expected = |kind| (kind, algorithm.map(str::to_owned), kms_key.map(str::to_owned));
        assert_eq!(bucket.seen().encryption, ["put", "upload", "copy", "put"].map(expected), "{parameters}");
        assert_eq!(blobs.read(&staged, 3).await.unwrap(), bytes(3));
    }
}

#[tokio::test]
async fn versions_go_with_their_blob_unless_they_are_to_stay() {
    let kept = |bucket: &Bucket| bucket.seen().versions.clone().unwrap();
    let (_folder, bucket_of, blobs) = bucket("", true).await;
    let (key, other) = (fresh(STAGING), fresh(STAGING));
    let now = now_here();
    let grant =
        |key: &BlobKey| Grant::Put { key: key.clone(), size: PutSize::AtMost(9), media_type: None, expires_at: now };
    // What arrives again replaces what arrived before, which stays as a version.
    for size in [3, 5] {
        let body = stream::iter([Ok::<_, io::Error>(bytes(size))]);
        blobs.receive(&grant(&key), body).await.unwrap();
    }
    blobs.write(&other, bytes(3)).await.unwrap();
    assert_eq!(kept(&bucket_of).len(), 3);
    blobs.delete(&key).await.unwrap();
    assert!(matches!(blobs.head(&key).await, Err(BlobError::NotFound)));
    let left = kept(&bucket_of);
    assert!(left.len() == 1 && left[0].0.ends_with(other.as_str()), "{left:?}");
    blobs.delete(&key).await.unwrap();
    assert_eq!(kept(&bucket_of), left, "it is removed already");

    let (_folder, bucket_of, blobs) = bucket("&versions=keep", true).await;
    blobs.write(&key, bytes(3)).await.unwrap();
    blobs.delete(&key).await.unwrap();
    let is_mark: Vec<bool> = kept(&bucket_of).into_iter().map(|(.., is_mark)| is_mark).collect();
    assert_eq!(is_mark, [false, true], "a version, and the mark that it was removed at {now}");
}

#[tokio::test]
async fn what_a_killed_process_began_is_aborted_a_day_later() {
    let (_folder, bucket, blobs) = bucket("", false).await;
    for _ in 0..3 {
        let body = chunked(&bytes(LARGE), MEGABYTE).chain(stream::pending());
        let key = fresh(FILES);
        let mut put = Box::pin(blobs.put(&key, body, u64::MAX >> 1));
        let before = bucket.seen().uploads.len();
        while bucket.seen().uploads.len() == before {
            assert!(futures::poll!(&mut put).is_pending());
            tokio::task::yield_now().await;
        }
        // As a kill does: nothing of it is cleaned up.
        std::mem::forget(put);
    }
    // Somebody else's, in the same bucket.
    bucket.seen().uploads.insert("other".to_owned(), "elsewhere/file".to_owned());
    let now = now_here();
    let a_day_ago = now - chrono::TimeDelta::hours(24);
    assert_eq!(blobs.abort_unfinished(a_day_ago).await.unwrap(), 0, "they may go on still");
    assert_eq!(blobs.abort_unfinished(now + chrono::TimeDelta::minutes(1)).await.unwrap(), 3);
    assert_eq!(bucket.seen().uploads.keys().collect::<Vec<_>>(), ["other"]);
}

/// Stands before a store, and loses the answer to the first request that holds this: the store has done it, and the
/// connection breaks off.
async fn losing(endpoint: &str, needle: &'static str) -> (String, Arc<AtomicBool>) {
    let target = endpoint.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let lost = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&lost);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, lost) = (target.clone(), Arc::clone(&lost));
            tokio::spawn(async move {
                let store = TcpStream::connect(target).await.unwrap();
                let ((mut from, mut to_client), (mut answers, mut to)) = (client.into_split(), store.into_split());
                let asked = Arc::new(AtomicBool::new(false));
                let asks = Arc::clone(&asked);
                let onward = async move {
                    let mut bytes = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = from.read(&mut bytes).await {
                        let text = String::from_utf8_lossy(&bytes[..read]);
                        asks.fetch_or(text.contains(needle), Ordering::SeqCst);
                        if to.write_all(&bytes[..read]).await.is_err() {
                            return;
                        }
                    }
                };
                let back = async move {
                    let mut bytes = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = answers.read(&mut bytes).await {
                        if asked.load(Ordering::SeqCst) && !lost.swap(true, Ordering::SeqCst) {
                            return;
                        }
                        if to_client.write_all(&bytes[..read]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! { () = onward => {}, () = back => {} }
            });
        }
    });
    (here, told)
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_a_write() {
    for (needle, size) in [("PUT /bucket/", 3), ("partNumber=1&", LARGE), ("?uploadId=", LARGE)] {
        let (_folder, _, endpoint) = served().await;
        let (endpoint, lost) = losing(&endpoint, needle).await;
        let settings = S3Settings::parse(&Url::parse(&format!("s3://bucket?endpoint={endpoint}")).unwrap(), |_| None);
        let blobs = Blobs::open_s3(settings.unwrap(), Credentials::new(ACCESS, SECRET, None));
        let (key, content) = (fresh(FILES), bytes(size));
        let info = blobs.put(&key, chunked(&content, 64 * 1024), u64::MAX).await;
        assert_eq!(info.unwrap_or_else(|error| panic!("{needle}: {error:?}")).size, size as u64);
        assert_eq!(blobs.read(&key, u64::MAX).await.unwrap(), content);
        // What another one has written is another's.
        assert!(matches!(blobs.write(&key, bytes(3)).await, Err(BlobError::Exists)));
        assert!(lost.load(Ordering::SeqCst), "{needle}: nothing was lost");
    }
}
