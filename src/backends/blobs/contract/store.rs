//! The stores that the contract runs on, each with a server that answers its signed URLs.

use std::path::PathBuf;

use axum::body::Body;
use axum::error_handling::HandleError;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;

pub const ACCESS: &str = "AKIAORIEL";
pub const SECRET: &str = "a-secret-of-the-bucket";

/// A store in a temporary folder.
pub struct Store {
    pub blobs: Blobs,
    /// What stands before the signed URLs of this store.
    pub address: String,
    folder: TempDir,
}

impl Store {
    pub async fn local() -> Self {
        let folder = TempDir::new().unwrap();
        let blobs = Blobs::open_folder(&folder.path().join("data"), UrlKeys::new("k1", &[42; 32])).await.unwrap();
        let address = serve(axum::Router::new().fallback(answer).with_state(blobs.clone())).await;
        Self { blobs, address, folder }
    }

    pub async fn s3() -> Self {
        let (folder, endpoint) = s3_server().await;
        let url = format!("s3://bucket/base?endpoint={endpoint}&region=eu-test-1");
        let settings = S3Settings::parse(&Url::parse(&url).unwrap(), |_| None).unwrap();
        let blobs = Blobs::open_s3(settings, Credentials::new(ACCESS, SECRET, None));
        Self { blobs, address: String::new(), folder }
    }

    /// Where the store keeps its files.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A path that is not the store's.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What uploads that did not succeed left behind.
    pub fn leftovers(&self) -> Vec<String> {
        let folder = match self.blobs {
            Blobs::Local(_) => self.data().join(".unfinished"),
            // The test server keeps uploads and their parts as hidden files beside the buckets.
            Blobs::S3(_) => self.data(),
        };
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| matches!(self.blobs, Blobs::Local(_)) || name.starts_with(".upload")).collect()
    }
}

/// An S3 server that checks signatures, with one bucket, `bucket`.
pub async fn s3_server() -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir_all(folder.path().join("data/bucket")).unwrap();
    let endpoint = serve_s3(s3s_fs::FileSystem::new(folder.path().join("data")).unwrap()).await;
    (folder, endpoint)
}

/// Serves it; signatures are checked.
pub async fn serve_s3(server: impl s3s::S3) -> String {
    let mut service = S3ServiceBuilder::new(server);
    service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
    let failed = |error: s3s::HttpError| async move { (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")) };
    serve(axum::Router::new().fallback_service(HandleError::new(service.build(), failed))).await
}

async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

/// What the server does with the signed URLs of a local store.
async fn answer(State(blobs): State<Blobs>, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().as_str().to_owned();
    let grant = match blobs.verify(request.method(), &path, now_here()) {
        Ok(grant) => grant,
        Err(error) => return (StatusCode::FORBIDDEN, error.to_string()).into_response(),
    };
    if let Err(error) = grant.check_headers(request.headers()) {
        return (StatusCode::FORBIDDEN, error.to_string()).into_response();
    }
    match &grant {
        Grant::Put { .. } => match blobs.receive(&grant, request.into_body().into_data_stream()).await {
            Ok(_) => StatusCode::OK.into_response(),
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        },
        Grant::Get { key, disposition, media_type, .. } => match blobs.get(key, None).await {
            Ok(body) => {
                let media_type = media_type.clone().unwrap_or_else(|| "application/octet-stream".to_owned());
                let headers =
                    [(header::CONTENT_TYPE, media_type), (header::CONTENT_DISPOSITION, disposition.header_value())];
                (headers, Body::from_stream(body.stream)).into_response()
            }
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

/// The clock of this machine, by which the S3 server checks its URLs.
#[allow(clippy::disallowed_methods)]
pub fn now_here() -> DateTime<Utc> {
    Utc::now()
}

pub fn fresh(prefix: BlobPrefix) -> BlobKey {
    BlobKey::fresh(prefix, Uuid::now_v7())
}

/// Bytes that repeat nowhere near, so that a mixed-up order shows.
pub fn bytes(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(size)
    .collect()
}

pub fn chunked(content: &Bytes, size: usize) -> stream::Iter<std::vec::IntoIter<io::Result<Bytes>>> {
    let starts = (0..content.len()).step_by(size);
    stream::iter(starts.map(|at| Ok(content.slice(at..content.len().min(at + size)))).collect::<Vec<_>>())
}

pub fn sha256(content: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content).as_ref().try_into().unwrap()
}
