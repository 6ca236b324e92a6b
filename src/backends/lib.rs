//! oriel-backends
pub mod aws;
pub mod blobs;
pub mod bus;
pub mod extraction;
pub mod identity;
pub mod kms;
pub mod mail;
pub mod redis;
pub mod resilience;
pub mod scanner;
pub mod search;
mod trace;
