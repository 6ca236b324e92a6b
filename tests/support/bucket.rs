//! An S3 server for one test: it goes away and comes back with what it holds.

use std::net::SocketAddr;

use axum::error_handling::HandleError;
use axum::http::StatusCode;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::Environment;

const ACCESS: &str = "AKIAORIEL";
const SECRET: &str = "a-secret-of-the-bucket";

/// A server with one bucket, which checks signatures.
pub struct Bucket {
    folder: TempDir,
    address: SocketAddr,
    /// Its own, so that its connections end with it.
    running: Option<Runtime>,
}

impl Bucket {
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        let mut this = Self { folder, address: SocketAddr::from(([127, 0, 0, 1], 0)), running: None };
        this.start_again();
        this
    }

    /// What a node has to know of it.
    pub fn environment(&self) -> Environment {
        vec![
            ("ORIEL_BLOBS_URL", format!("s3://bucket?endpoint=http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", ACCESS.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// It is gone in the middle of whatever it does.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown_background();
        }
    }

    /// On the same port, with what it has.
    pub fn start_again(&mut self) {
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(self.folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let failed = |error: s3s::HttpError| async move { (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")) };
        let router = axum::Router::new().fallback_service(HandleError::new(service.build(), failed));
        let running = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (told, address) = std::sync::mpsc::channel();
        let wanted = self.address;
        running.spawn(async move {
            // What was there before it may not have let go of the port yet.
            let listener = loop {
                match TcpListener::bind(wanted).await {
                    Ok(listener) => break listener,
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            };
            told.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        self.address = address.recv().unwrap();
        self.running = Some(running);
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.stop();
    }
}
