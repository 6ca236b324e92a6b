//! oriel-backends
