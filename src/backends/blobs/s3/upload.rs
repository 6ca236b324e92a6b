//! A body on its way up in parts.

use std::future::Future;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::super::BlobError;
use super::super::body::{Body, Meter};
use super::{S3Blobs, WRITE, asked};
use crate::resilience::Guard;

/// The smallest part that S3 takes.
const PART: usize = 5 * 1024 * 1024;
/// After so many parts they double in size: 5 GB go up in the smallest ones, and the 10 000 that S3 takes of a blob
/// are enough for the 5 TB that it takes.
const PARTS_OF_ONE_SIZE: usize = 1_000;
const PARTS_IN_FLIGHT: usize = 3;

/// Cuts a body into parts.
#[derive(Default)]
pub(super) struct Parts {
    cut: usize,
    rest: BytesMut,
    pub(super) ended: bool,
}

impl Parts {
    /// The next part, of full size unless the body `ended`.
    pub(super) async fn next(&mut self, body: &mut Body<'_>, meter: &mut Meter) -> Result<Bytes, BlobError> {
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
pub(super) struct Upload {
    client: Client,
    guard: Arc<Guard>,
    bucket: String,
    name: String,
    id: Option<String>,
    sent: i32,
    in_flight: JoinSet<Result<CompletedPart, BlobError>>,
    done: Vec<CompletedPart>,
}

impl Upload {
    /// Begins one under this name; `write`: the mark of what it writes.
    pub(super) async fn begin(store: &S3Blobs, name: String, write: &str) -> Result<Self, BlobError> {
        let request = store
            .client
            .create_multipart_upload()
            .bucket(&store.bucket)
            .key(&name)
            .metadata(WRITE, write)
            .set_server_side_encryption(store.algorithm())
            .set_ssekms_key_id(store.kms_key());
        let begun = asked(&store.guard, request.send()).await?;
        let id = begun.upload_id.ok_or_else(|| BlobError::unavailable("the store began an upload without an id"))?;
        Ok(Self {
            client: store.client.clone(),
            guard: Arc::clone(&store.guard),
            bucket: store.bucket.clone(),
            name,
            id: Some(id),
            sent: 0,
            in_flight: JoinSet::new(),
            done: Vec::new(),
        })
    }

    /// Sends a part, once there is room among those in flight.
    pub(super) async fn send(&mut self, part: Bytes) -> Result<(), BlobError> {
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
        let guard = Arc::clone(&self.guard);
        let sending = async move {
            let answer = asked(&guard, request.send()).await?;
            Ok(CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag).build())
        };
        self.in_flight.spawn(sending.in_current_span());
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), BlobError> {
        if let Some(joined) = self.in_flight.join_next().await {
            self.done.push(joined.map_err(BlobError::unavailable)??);
        }
        Ok(())
    }

    pub(super) async fn complete(&mut self, replace: bool) -> Result<(), BlobError> {
        while !self.in_flight.is_empty() {
            self.settle().await?;
        }
        self.done.sort_unstable_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.done))).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(&self.name)
            .set_upload_id(self.id.clone())
            .set_if_none_match((!replace).then(|| "*".to_owned()))
            .multipart_upload(parts);
        asked(&self.guard, request.send()).await?;
        self.id = None;
        Ok(())
    }

    pub(super) async fn abort(&mut self) {
        if let Some(aborting) = self.aborting() {
            aborting.await;
        }
    }

    /// The work of aborting, once. It waits for the parts in flight: one that arrived later would stay.
    fn aborting(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let id = self.id.take()?;
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.name).upload_id(id);
        let mut in_flight = std::mem::take(&mut self.in_flight);
        let guard = Arc::clone(&self.guard);
        Some(async move {
            while in_flight.join_next().await.is_some() {}
            if let Err(error) = asked(&guard, request.send()).await {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn as_many_parts_as_s3_takes_hold_as_much_as_it_takes() {
        let in_all: u64 = (0..10_000).map(|index| part_size(index) as u64).sum();
        assert!(in_all >= 5_000_000_000_000);
        assert_eq!(part_size(999), PART);
        assert!(part_size(9_999) as u64 <= 5 << 30, "a part is too large");
    }
}
