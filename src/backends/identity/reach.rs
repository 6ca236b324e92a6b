//! Where an organisation can have this server ask: public addresses, and those of its own networks that the
//! installation names.
//!
//! Invariants: an address is looked at when it is connected to, after its name was resolved, so that no name leads
//! elsewhere at the second look. Nothing is asked without TLS but on this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::IdentityError;

/// Which addresses may be asked that are not public.
pub type Private = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub(super) struct Reach(Private);

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reach")
    }
}

impl Reach {
    pub(super) fn new(private: Private) -> Self {
        Self(private)
    }

    fn may(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || (self.0)(address)
    }

    /// The URL, if it may be asked.
    pub(super) fn url(&self, text: &str) -> Result<Url, IdentityError> {
        let url = Url::parse(text).map_err(|_| IdentityError::Address("is no URL"))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(IdentityError::Address("has more than a place in it"));
        }
        let (may, here) = match url.host() {
            Some(Host::Domain(name)) => (true, name == "localhost"),
            Some(Host::Ipv4(ip)) => (self.may(ip.into()), ip.is_loopback()),
            Some(Host::Ipv6(ip)) => (self.may(ip.into()), ip.is_loopback()),
            None => (false, false),
        };
        match url.scheme() {
            "https" | "http" if !may => Err(IdentityError::Address("is in a network that may not be asked")),
            "https" => Ok(url),
            "http" if here => Ok(url),
            _ => Err(IdentityError::Address("does not begin with https://")),
        }
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let may: Vec<SocketAddr> = found.into_iter().filter(|address| this.may(address.ip())).collect();
            if may.is_empty() {
                return Err("the name leads to no network that may be asked".into());
            }
            Ok(Box::new(may.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let protocols = a == 192 && b == 0 && c == 0;
            let relays = a == 192 && b == 88 && c == 99;
            let benchmarks = a == 198 && (b == 18 || b == 19);
            !(a == 0
                || a >= 240
                || ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || shared
                || protocols
                || relays
                || benchmarks)
        }
        IpAddr::V6(ip) => {
            let first = ip.segments();
            // Addresses that stand for one of version 4 lead where that leads.
            if first[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
                return is_public(embedded(ip, 12).into());
            }
            if first[0] == 0x2002 {
                return is_public(embedded(ip, 2).into());
            }
            let protocols = first[0] == 0x2001 && first[1] < 0x200;
            let documentation = (first[0] == 0x2001 && first[1] == 0xdb8) || first[0] == 0x3fff;
            first[0] & 0xe000 == 0x2000 && !protocols && !documentation
        }
    }
}

/// The address of version 4 that begins at this byte.
fn embedded(ip: Ipv6Addr, at: usize) -> Ipv4Addr {
    let bytes = ip.octets();
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}
