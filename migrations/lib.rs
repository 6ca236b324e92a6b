//! oriel-migrations
