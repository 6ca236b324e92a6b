//! The product from outside: the real program, real requests, real answers; and the guards that keep the house.
#![allow(clippy::unwrap_used)]

mod support;

mod architecture;
mod attacks;
mod audit;
mod capabilities;
mod chaos;
mod documents;
mod erasure;
mod failover;
mod federation;
mod first_light;
mod freshness;
mod hostile;
mod installation;
mod keys;
mod mail;
mod migrations;
mod nodes;
mod operations;
mod outages;
mod privacy;
mod rebuilds;
mod recovery;
mod redis;
mod replicas;
mod restarts;
mod rolling;
mod scanner;
mod search;
mod second_factor;
mod security_events;
mod tenants;
mod tls;
mod tour;
mod traces;
mod walls;
