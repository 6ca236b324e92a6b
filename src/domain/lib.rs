//! oriel-domain
