//! The product from outside: the real program, real requests, real answers; and the guards that keep the house.
#![allow(clippy::unwrap_used)]

mod support;

mod architecture;
mod audit;
mod documents;
mod first_light;
mod freshness;
mod hostile;
mod nodes;
mod operations;
mod rebuilds;
mod recovery;
mod restarts;
mod search;
mod tenants;
mod tls;
mod tour;
mod traces;
