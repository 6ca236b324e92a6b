//! The composition root of the binary `oriel`: command line, settings, HTTP, and the choice of every backend.
//!
//! It is the only room that knows all others. It holds no rule of the product: what it does not compose, it asks.

pub mod audit;
pub mod backends;
pub mod backup;
pub mod cli;
pub mod client;
mod connections;
pub mod demo;
pub mod doctor;
pub mod http;
pub mod import;
pub mod installation;
pub mod keys;
mod listener;
pub mod master_keys;
pub mod nodes;
pub mod operations;
pub mod read_models;
pub mod serve;
pub mod settings;
pub mod telemetry;
pub mod tls;
pub mod traces;
