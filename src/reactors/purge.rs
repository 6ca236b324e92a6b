//! The files of a purged document go, and that of a data export that has ended. The event says which: nobody else can
//! know any more.

use oriel_backends::blobs::{BlobKey, Blobs};
use oriel_domain::data_exports::DataExportEvent;
use oriel_domain::documents::DocumentEvent;
use oriel_engine::consumers::Reactor;
use oriel_engine::jobs::{Job, JobFailure, NewJob, Worker};
use oriel_kernel::Recorded;

const QUEUE: &str = "purge";

/// Orders the removal.
pub(crate) struct Purge;

impl Reactor for Purge {
    fn name(&self) -> &'static str {
        "purge"
    }

    fn react(&self, event: &Recorded) -> Vec<NewJob> {
        match event.event_as() {
            Some(DocumentEvent::Purged { blobs, .. }) if !blobs.is_empty() => {
                vec![NewJob::new(QUEUE, event).payload(blobs.clone().into())]
            }
            _ => match event.event_as() {
                Some(DataExportEvent::Ended { blob: Some(blob), .. }) => {
                    vec![NewJob::new(QUEUE, event).payload(vec![blob.clone()].into())]
                }
                _ => Vec::new(),
            },
        }
    }
}

/// Removes files.
pub(crate) struct Purging {
    pub(crate) blobs: Blobs,
}

#[async_trait::async_trait]
impl Worker for Purging {
    fn queue(&self) -> &'static str {
        QUEUE
    }

    async fn run(&self, job: &Job) -> Result<(), JobFailure> {
        let keys: Vec<String> = serde_json::from_value(job.payload.clone())
            .map_err(|error| JobFailure::for_good(format!("the keys are not readable: {error}")))?;
        for key in keys {
            let Ok(key) = BlobKey::parse(&key) else {
                tracing::warn!(subject = %job.subject, "what a purged document calls a file is no key; there is nothing to remove");
                continue;
            };
            // One that is gone already is removed.
            self.blobs
                .delete(&key)
                .await
                .map_err(|error| JobFailure::again(format!("a file cannot be removed: {error}")))?;
        }
        Ok(())
    }
}
