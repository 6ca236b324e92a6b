//! oriel-engine

// The derives write `::oriel_engine`, here too.
extern crate self as oriel_engine;

pub mod live;
pub mod read;
