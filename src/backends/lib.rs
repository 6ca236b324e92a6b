//! oriel-backends
pub mod blobs;
pub mod extraction;
pub mod search;
