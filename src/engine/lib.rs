//! oriel-engine
