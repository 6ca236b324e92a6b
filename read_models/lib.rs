//! oriel-read-models
