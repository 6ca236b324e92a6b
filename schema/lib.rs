//! oriel-schema
