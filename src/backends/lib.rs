//! oriel-backends
pub mod extraction;
pub mod search;
