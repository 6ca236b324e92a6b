//! oriel-backends
pub mod blobs;
pub mod bus;
pub mod extraction;
pub mod identity;
pub mod mail;
pub mod redis;
pub mod resilience;
pub mod scanner;
pub mod search;
mod trace;
