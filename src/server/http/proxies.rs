//! Whose request it is: the peer's, or that of whom a trusted proxy speaks for.
//!
//! Invariant: what somebody wrote who is not trusted decides nothing. A list of addresses is read from its end, where
//! our own proxy wrote, and the first one that is not a proxy of ours is the client; what stands before it was written
//! by anybody. A proxy writes one of the two headers and passes the other one on as it came: where they do not agree,
//! neither is believed.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::FORWARDED;
use axum::http::{HeaderMap, HeaderName};

use crate::settings::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are trusted.
#[derive(Clone, Debug)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    /// These.
    pub fn new(trusted: Vec<Network>) -> Self {
        Self(trusted)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Where the request of this peer comes from.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let lists = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let plain = lists(FORWARDED_FOR).flat_map(|list| list.split(',')).map(address);
        let named = lists(FORWARDED).flat_map(|list| list.split(',')).map(for_of);
        match (self.last(plain.collect()), self.last(named.collect())) {
            (Some(one), Some(other)) if one != other => peer,
            (one, other) => one.or(other).unwrap_or(peer),
        }
    }

    /// The last one that is not a proxy of ours; where all are, the first. `None` where it cannot be read.
    fn last(&self, hops: Vec<Option<IpAddr>>) -> Option<IpAddr> {
        let client = hops.iter().rev().find(|hop| hop.is_none_or(|address| !self.trusts(address)));
        *client.or(hops.first())?
    }
}

/// Whether a proxy says that it passes this on.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED_FOR) || headers.contains_key(FORWARDED)
}

/// What stands behind `for=` (RFC 7239).
fn for_of(hop: &str) -> Option<IpAddr> {
    let pairs = hop.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

/// An address with or without brackets and port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip())).or_else(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::settings::{Sources, load};

    fn proxies(list: &str) -> Proxies {
        let environment = vec![("ORIEL_TRUSTED_PROXIES".into(), list.into())];
        Proxies::new(load(&Sources { environment, ..Sources::default() }).unwrap().settings.trusted_proxies)
    }

    fn client(list: &str, peer: &str, told: &[(HeaderName, &str)]) -> String {
        let headers = told.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        proxies(list).client(peer.parse().unwrap(), &headers.collect()).to_string()
    }

    const HERE: &str = "127.0.0.0/8,::1";

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_word() {
        let told = [(FORWARDED_FOR, "198.51.100.7, 203.0.113.9")];
        assert_eq!(client(HERE, "127.0.0.1", &told), "203.0.113.9");
        assert_eq!(client(HERE, "::ffff:127.0.0.1", &told), "203.0.113.9");
        assert_eq!(client(HERE, "192.0.2.1", &told), "192.0.2.1");
        assert_eq!(client("", "127.0.0.1", &told), "127.0.0.1");
        assert_eq!(client("192.0.2.0/24", "192.0.2.1", &told), "203.0.113.9");
        assert_eq!(client(HERE, "::1", &[]), "::1");
    }

    #[test]
    fn a_chain_of_proxies_leads_to_the_first_that_is_not_ours() {
        let ours = "127.0.0.1,10.0.0.0/8";
        assert_eq!(
            client(ours, "127.0.0.1", &[(FORWARDED_FOR, "6.6.6.6, 203.0.113.9, 10.1.1.1, 10.2.2.2")]),
            "203.0.113.9"
        );
        assert_eq!(client(ours, "127.0.0.1", &[(FORWARDED_FOR, "6.6.6.6"), (FORWARDED_FOR, "10.2.2.2")]), "6.6.6.6");
        assert_eq!(client(ours, "127.0.0.1", &[(FORWARDED_FOR, "10.3.3.3, 10.2.2.2")]), "10.3.3.3", "within the house");
    }

    #[test]
    fn both_ways_to_say_it_are_read() {
        for (name, text, wanted) in [
            (FORWARDED, "for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            (FORWARDED, "for=1.1.1.1, For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            (FORWARDED, "proto=https;for=192.0.2.60:8080", "192.0.2.60"),
            (FORWARDED_FOR, "[2001:db8::9]", "2001:db8::9"),
            (FORWARDED_FOR, "192.0.2.60:4711", "192.0.2.60"),
        ] {
            assert_eq!(client(HERE, "127.0.0.1", &[(name, text)]), wanted, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_does_not_agree_leaves_the_proxy_itself() {
        for told in [
            &[(FORWARDED_FOR, "nobody")][..],
            &[(FORWARDED_FOR, "203.0.113.9, unknown")],
            &[(FORWARDED, "for=_hidden")],
            &[(FORWARDED, "by=203.0.113.43")],
            &[(FORWARDED, "for=6.6.6.6"), (FORWARDED_FOR, "203.0.113.9")],
        ] {
            assert_eq!(client(HERE, "127.0.0.1", told), "127.0.0.1", "{told:?}");
        }
        let same = [(FORWARDED, "for=203.0.113.9"), (FORWARDED_FOR, "203.0.113.9")];
        assert_eq!(client(HERE, "127.0.0.1", &same), "203.0.113.9");
    }
}
