//! oriel-backends
pub mod search;
