//! Places for connections: how many there are in all, and from one address.
//!
//! Invariants: a place is given back when it is dropped; the memory for this is bounded by the places. Addresses of
//! trusted proxies have as many as there are: behind one are all clients, whose sockets and requests have limits of
//! their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use serde_json::json;

use crate::settings::Network;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Places>);

struct Places {
    all: usize,
    address: usize,
    trusted: Vec<Network>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// A connection, while it is open.
pub struct Connection {
    of: Connections,
    address: Option<IpAddr>,
}

/// Why there is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// There are as many as this server may have.
    Server(usize),
    /// There are as many as one address may have.
    Address(usize),
}

impl Full {
    /// When to come again: others end their connections all the time.
    pub const AGAIN: Duration = Duration::from_secs(5);

    fn limit(self) -> &'static str {
        match self {
            Self::Server(_) => "max_connections",
            Self::Address(_) => "max_connections_per_address",
        }
    }

    /// The status and the body of the answer: the same error as that of every other limit.
    pub fn answer(self) -> (&'static str, String) {
        let limit = self.limit();
        let (status, most, message) = match self {
            Self::Server(most) => {
                let message = format!("This server has {limit} = {most} connections already. Try again later.");
                ("503 Service Unavailable", most, message)
            }
            Self::Address(most) => {
                let message = format!(
                    "Your address has {limit} = {most} connections already. Close some: requests can share one, one \
                     after the other, or with HTTP/2 at the same time."
                );
                ("429 Too Many Requests", most, message)
            }
        };
        let extensions = json!({ "code": "LIMIT_EXCEEDED", "limit": limit, "allowed": most, "found": most + 1,
            "retryAfter": Self::AGAIN.as_secs() });
        (status, json!({ "errors": [{ "message": message, "extensions": extensions }] }).to_string())
    }
}

impl Connections {
    /// So many in all and from one address, but for these.
    pub fn new(all: usize, address: usize, trusted: Vec<Network>) -> Self {
        Self(Arc::new(Places { all, address, trusted, held: Mutex::default() }))
    }

    /// A place for a connection from this address.
    ///
    /// # Errors
    /// There is none.
    pub fn take(&self, address: IpAddr) -> Result<Connection, Full> {
        let address = (!self.0.trusted.iter().any(|network| network.contains(address))).then(|| neighbours(address));
        let taken = self.hold(address);
        match taken {
            Ok(()) => gauge!("oriel_connections").increment(1.0),
            Err(full) => counter!("oriel_connections_refused_total", "limit" => full.limit()).increment(1),
        }
        taken.map(|()| Connection { of: self.clone(), address })
    }

    fn hold(&self, address: Option<IpAddr>) -> Result<(), Full> {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.all >= self.0.all {
            return Err(Full::Server(self.0.all));
        }
        if let Some(address) = address {
            let count = held.by.get(&address).copied().unwrap_or_default();
            if count >= self.0.address {
                return Err(Full::Address(self.0.address));
            }
            held.by.insert(address, count + 1);
        }
        held.all += 1;
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut held = self.of.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = held.by.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                held.by.remove(&address);
            }
        }
        drop(held);
        gauge!("oriel_connections").decrement(1.0);
    }
}

/// Who counts as one: an address, of IPv6 the network of 64 bits that everybody is given.
fn neighbours(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_and_all_have_theirs() {
        let connections = Connections::new(4, 2, Vec::new());
        let take = |address| connections.take(at(address));
        let mut held = vec![take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap()];
        assert_eq!(take("192.0.2.1").err(), Some(Full::Address(2)));
        held.push(take("2001:db8::1").unwrap());
        held.push(take("2001:db8::2:1").unwrap());
        assert_eq!(take("192.0.2.9").err(), Some(Full::Server(4)));
        held.remove(0);
        assert_eq!(take("2001:db8::3").err(), Some(Full::Address(2)));
        held.push(take("192.0.2.1").unwrap());
        drop(held);
        let held = connections.0.held.lock().unwrap();
        assert!(held.all == 0 && held.by.is_empty());
    }

    #[test]
    fn a_trusted_proxy_has_as_many_as_there_are() {
        let trusted = crate::settings::load(&crate::settings::Sources::default()).unwrap().settings.trusted_proxies;
        let connections = Connections::new(3, 1, trusted);
        let held: Vec<_> = (0..3).map(|_| connections.take(at("127.0.0.1")).unwrap()).collect();
        assert_eq!(connections.take(at("127.0.0.1")).err(), Some(Full::Server(3)));
        drop(held);
        let _one = connections.take(at("192.0.2.1")).unwrap();
        assert_eq!(connections.take(at("192.0.2.1")).err(), Some(Full::Address(1)));
    }
}
