//! oriel-kernel
