//! oriel-reactors
