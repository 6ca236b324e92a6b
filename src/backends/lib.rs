//! oriel-backends
pub mod blobs;
pub mod bus;
pub mod extraction;
pub mod search;
