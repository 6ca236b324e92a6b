//! What read models ask of backends that stand below them: the text and the address of a file, the payload of an event.

use std::sync::Arc;

use async_graphql::Result;
use oriel_backends::blobs::{BlobError, BlobKey, Disposition};
use oriel_engine::log::Sealed;
use oriel_read_models::documents::{Contents, Download};
use oriel_read_models::events::{self, Payloads};

use crate::access::{internal, unavailable};
use crate::services::Services;

/// The blob backend, for the document's fields.
pub(crate) struct BlobContents(Arc<Services>);

impl BlobContents {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self(services)
    }
}

/// More than the longest text that is ever kept.
const TEXT_BYTES: u64 = 64 << 20;

#[async_trait::async_trait]
impl Contents for BlobContents {
    async fn text(&self, blob: &str, max_chars: usize) -> Result<Option<String>> {
        let key = BlobKey::parse(blob).map_err(internal)?;
        let bytes = match self.0.blobs.read(&key, TEXT_BYTES).await {
            Ok(bytes) => bytes,
            Err(BlobError::NotFound) => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let text = String::from_utf8_lossy(&bytes);
        Ok(Some(match text.char_indices().nth(max_chars) {
            Some((end, _)) => text[..end].to_owned(),
            None => text.into_owned(),
        }))
    }

    async fn download_url(&self, file: &Download<'_>) -> Result<String> {
        let key = BlobKey::parse(file.blob).map_err(internal)?;
        let now = self.0.engine.now();
        let expires = now + self.0.policy.url_ttl;
        let disposition = Disposition::attachment(file.file_name);
        let media_type = Some(file.media_type);
        let signed =
            self.0.blobs.presign_get(&key, expires, &disposition, media_type, now).await.map_err(unavailable)?;
        Ok(self.0.absolute(&signed.url))
    }
}

impl Services {
    /// A URL that a client can use: the embedded blob backend gives a path on this server.
    pub(crate) fn absolute(&self, url: &str) -> String {
        if url.starts_with('/') {
            format!("{}{url}", self.policy.base_url.trim_end_matches('/'))
        } else {
            url.to_owned()
        }
    }
}

/// The log, for the data of events.
pub(crate) struct LogPayloads(Arc<Services>);

impl LogPayloads {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self(services)
    }
}

#[async_trait::async_trait]
impl Payloads for LogPayloads {
    async fn data(&self, events: &[Arc<events::Model>]) -> Vec<Result<serde_json::Value>> {
        let sealed = events.iter().map(|event| Sealed {
            position: event.place(),
            organization: event.organization_id,
            stream: &event.stream,
            event_type: &event.event_type.0,
            type_version: event.type_version,
            data: &event.data,
        });
        let sealed: Vec<_> = sealed.collect();
        match self.0.engine.log().unseal(&sealed).await {
            Ok(opened) => opened.into_iter().map(|event| event.map_err(internal)?.shown().map_err(internal)).collect(),
            Err(error) => vec![Err(unavailable(error)); events.len()],
        }
    }
}
