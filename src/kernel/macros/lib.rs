//! oriel-macros
