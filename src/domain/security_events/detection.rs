//! What is unusual: pure functions, from what was seen before to a verdict. The same history gives the same verdict, and
//! each says by what it is told.
//!
//! Invariants: an account without a history has nothing unusual. Where somebody has been before, with what they have used
//! before, nothing is unusual, whatever else is in the history. What is counted is told of when it reaches its limit and
//! then each time that it has doubled: of n attempts about log n times.

use core::net::IpAddr;

use super::{SecurityReason, Severity};

/// Sign-ins before which nothing is unusual.
pub const HISTORY: usize = 3;
/// How many sign-ins, the last ones, are a person's history.
pub const REMEMBERED: u64 = 500;
/// Wrong passwords or codes at an account, within an hour or two, that are many.
pub const MANY_FAILURES: u32 = 10;
/// Accounts of one organisation, with wrong passwords from one place within an hour or two, that are many.
pub const MANY_ACCOUNTS: u32 = 8;
/// Readings of what is sensitive by one person within an hour that are many.
pub const MANY_READINGS: u32 = 200;

/// From where somebody signs in, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SignInPlace {
    /// From which address.
    pub address: Option<String>,
    /// With which program, as it calls itself.
    pub program: Option<String>,
}

/// Whether a sign-in is unusual for somebody who has signed in from these places before, and by what that is told. Who
/// comes from a network that is new for them is; more so with a device that is. A new device alone, where they have been
/// before, is what everybody has now and then.
pub fn unusual_sign_in(before: &[SignInPlace], now: &SignInPlace) -> Option<(Severity, Vec<SecurityReason>)> {
    if before.len() < HISTORY {
        return None;
    }
    let is_new = |of: fn(&SignInPlace) -> Option<String>| {
        of(now).is_some_and(|now| !before.iter().any(|place| of(place).as_ref() == Some(&now)))
    };
    let network = |place: &SignInPlace| place.address.as_deref().and_then(network);
    let device = |place: &SignInPlace| place.program.as_deref().map(device);
    match (is_new(network), is_new(device)) {
        (true, true) => Some((Severity::Medium, vec![SecurityReason::NewNetwork, SecurityReason::NewDevice])),
        (true, false) => Some((Severity::Low, vec![SecurityReason::NewNetwork])),
        (false, _) => None,
    }
}

/// Whether a number that has just been reached is told of: the limit, and each doubling of it.
pub fn is_told(count: u32, limit: u32) -> bool {
    limit > 0 && count.is_multiple_of(limit) && (count / limit).is_power_of_two()
}

/// About the provider of an address, and the region: the first half of one of IPv4, the first quarter of one of IPv6.
/// Within it addresses change from day to day.
fn network(address: &str) -> Option<String> {
    Some(match address.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(ip) => format!("{}.{}", ip.octets()[0], ip.octets()[1]),
        IpAddr::V6(ip) => format!("{:x}:{:x}", ip.segments()[0], ip.segments()[1]),
    })
}

/// The family of a program and the system that it runs on, without versions: `Firefox on Linux`. Of what is no browser its
/// own first word, cut to 40 characters: what a program calls itself is anybody's words.
pub fn device(program: &str) -> String {
    let named =
        |names: &[(&str, &'static str)]| names.iter().find(|(mark, _)| program.contains(mark)).map(|(_, name)| *name);
    // Each calls itself what those before it in time were called too: the newest name is the one that tells.
    let family = named(&[
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ]);
    let system = named(&[
        ("iPhone", "iOS"),
        ("iPad", "iOS"),
        ("Android", "Android"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ]);
    let first_word = || {
        let word = program.split(|c: char| c == '/' || c == '(' || c.is_whitespace()).next().unwrap_or_default();
        word.chars().filter(|c| !c.is_control()).take(40).collect()
    };
    let family = family.map_or_else(first_word, str::to_owned);
    system.map_or_else(|| family.clone(), |system| format!("{family} on {system}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                          Chrome/141.0.0.0 Safari/537.36";
    const EDGE: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                        Chrome/141.0.0.0 Safari/537.36 Edg/141.0.0.0";
    const SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like \
                          Gecko) Version/18.6 Mobile/15E148 Safari/604.1";

    fn place(address: &str, program: &str) -> SignInPlace {
        SignInPlace { address: Some(address.to_owned()), program: Some(program.to_owned()) }
    }

    #[test]
    fn devices_and_networks_are_families() {
        let families = [FIREFOX, CHROME, EDGE, SAFARI, "curl/8.14.1", "", "oriel"].map(device);
        let wanted = ["Firefox on Linux", "Chrome on Windows", "Edge on Windows", "Safari on iOS", "curl", "", "oriel"];
        assert_eq!(families, wanted);
        assert_eq!(device(&FIREFOX.replace("140", "141")), device(FIREFOX));
        assert_eq!(network("203.0.113.7"), network("::ffff:203.0.0.1"));
        assert_ne!(network("203.0.113.7"), network("203.1.113.7"));
        assert_eq!(network("2001:db8:1::7"), network("2001:db8:2::7"));
        assert_eq!(network("nowhere"), None);
    }

    #[test]
    fn a_new_network_is_unusual_and_more_so_with_a_new_device() {
        let home = place("203.0.113.7", FIREFOX);
        let before = [home.clone(), place("203.0.120.1", SAFARI), home.clone()];
        let told = |address: &str, program: &str| unusual_sign_in(&before, &place(address, program));
        assert_eq!(told("203.0.1.1", FIREFOX), None);
        assert_eq!(told("203.0.1.1", CHROME), None, "a new device where they have been before");
        assert_eq!(told("198.51.100.1", SAFARI), Some((Severity::Low, vec![SecurityReason::NewNetwork])));
        let both = vec![SecurityReason::NewNetwork, SecurityReason::NewDevice];
        assert_eq!(told("198.51.100.1", CHROME), Some((Severity::Medium, both)));
        assert_eq!(unusual_sign_in(&before[..2], &place("198.51.100.1", CHROME)), None, "there is no history");
        assert_eq!(unusual_sign_in(&before, &SignInPlace::default()), None, "nothing is known");
    }

    #[test]
    fn what_is_counted_is_told_of_at_the_limit_and_when_it_has_doubled() {
        let told: Vec<u32> = (0..=200).filter(|count| is_told(*count, 10)).collect();
        assert_eq!(told, [10, 20, 40, 80, 160]);
    }

    fn some_place() -> impl Strategy<Value = SignInPlace> {
        let address = prop::option::of((0u8..6, 0u8..3).prop_map(|(a, b)| format!("198.{a}.{b}.1")));
        let program = prop::option::of(prop::sample::select(vec![FIREFOX, CHROME, EDGE, SAFARI, "curl/8", "\u{0}"]));
        (address, program.prop_map(|name| name.map(str::to_owned)))
            .prop_map(|(address, program)| SignInPlace { address, program })
    }

    proptest! {
        /// Whatever the history: where they have been nothing is unusual, more history makes nothing more unusual, its
        /// order says nothing, and each verdict says why.
        #[test]
        fn verdicts_are_explained_and_a_longer_history_never_accuses(
            before in prop::collection::vec(some_place(), 0..12), more in some_place(), now in some_place(),
        ) {
            let verdict = unusual_sign_in(&before, &now);
            prop_assert_eq!(&verdict, &unusual_sign_in(&before, &now));
            let backwards: Vec<_> = before.iter().rev().cloned().collect();
            prop_assert_eq!(&verdict, &unusual_sign_in(&backwards, &now));
            let been = [before.as_slice(), std::slice::from_ref(&now)].concat();
            prop_assert_eq!(unusual_sign_in(&been, &now), None);
            let longer = [before.as_slice(), &[more]].concat();
            let severity = |verdict: Option<(Severity, Vec<SecurityReason>)>| verdict.map(|(severity, _)| severity);
            if before.len() >= HISTORY {
                prop_assert!(severity(unusual_sign_in(&longer, &now)) <= severity(verdict.clone()));
            }
            if let Some((severity, reasons)) = verdict {
                prop_assert!(before.len() >= HISTORY && now.address.is_some());
                prop_assert!(reasons.contains(&SecurityReason::NewNetwork));
                prop_assert_eq!(severity == Severity::Medium, reasons.contains(&SecurityReason::NewDevice));
            }
        }

        #[test]
        fn what_is_told_grows_as_the_logarithm(most in 1u32..100_000, limit in 1u32..500) {
            let told = (1..=most).filter(|count| is_told(*count, limit)).count();
            prop_assert_eq!(told as u32, (most / limit).checked_ilog2().map_or(0, |log| log + 1));
        }

        #[test]
        fn no_text_makes_it_panic(address in ".{0,60}", program in ".{0,120}") {
            let now = SignInPlace { address: Some(address), program: Some(program) };
            unusual_sign_in(&vec![SignInPlace::default(); HISTORY], &now);
        }
    }
}
