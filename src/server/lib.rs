//! oriel
