//! The files of a multipart request: streamed into the blob backend before the operation runs, named in its variables.
//!
//! The transport puts `upload:N` where the request's map says that file N belongs; [`Upload`] takes it from there. A
//! file that no operation takes is removed again by [`Uploads::leftovers`].

use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use oriel_backends::blobs::BlobKey;

/// The number of a file of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload(usize);

/// A file of the request. Send the request as `multipart/form-data`:
/// <https://github.com/jaydenseric/graphql-multipart-request-spec>. JSON cannot hold one.
#[Scalar(name = "Upload", specified_by_url = "https://github.com/jaydenseric/graphql-multipart-request-spec")]
impl ScalarType for Upload {
    fn parse(value: Value) -> InputValueResult<Self> {
        let number = match &value {
            Value::String(text) => text.strip_prefix("upload:").and_then(|n| n.parse().ok()),
            _ => None,
        };
        number.map(Self).ok_or_else(|| {
            InputValueError::custom(
                "a file has to be sent as multipart/form-data, see the GraphQL multipart request specification",
            )
        })
    }

    fn to_value(&self) -> Value {
        Value::String(format!("upload:{}", self.0))
    }
}

/// A file that is in the blob backend already.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it is.
    pub blob: BlobKey,
    /// Bytes.
    pub size: u64,
    /// Of the content.
    pub sha256: [u8; 32],
    /// What the client calls it.
    pub file_name: String,
    /// Its first bytes, for sniffing.
    pub head: Vec<u8>,
}

/// The files of one request, by their number in the request's map.
#[derive(Clone, Default)]
pub struct Uploads(Arc<Mutex<Vec<Option<Received>>>>);

impl Uploads {
    /// Keeps a file; its number.
    pub fn add(&self, file: Received) -> usize {
        let mut files = self.lock();
        files.push(Some(file));
        files.len() - 1
    }

    /// What stands in the variables for file N.
    pub fn placeholder(number: usize) -> String {
        format!("upload:{number}")
    }

    /// Takes a file: an operation uses it now. A second one finds nothing.
    pub fn take(&self, upload: Upload) -> Option<Received> {
        self.lock().get_mut(upload.0).and_then(Option::take)
    }

    /// Gives back a file that was not used after all.
    pub fn give_back(&self, file: Received) {
        self.add(file);
    }

    /// What no operation took: to be removed from the blob backend.
    pub fn leftovers(&self) -> Vec<Received> {
        self.lock().drain(..).flatten().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<Received>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
