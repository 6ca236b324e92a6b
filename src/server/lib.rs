//! The composition root of the binary `oriel`: command line, settings, HTTP, and the choice of every backend.
//!
//! It is the only room that knows all others. It holds no rule of the product: what it does not compose, it asks.

pub mod cli;
pub mod client;
pub mod import;
pub mod settings;
pub mod telemetry;
