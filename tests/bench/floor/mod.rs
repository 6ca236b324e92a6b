//! The floor: what nobody can do without.

pub mod reads;
pub mod writes;
