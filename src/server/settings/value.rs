//! The kinds of values that a setting can have: how one is read, what is allowed, how it is shown.
//!
//! Invariants: what a kind shows, it reads back as the same value; a secret shows `***`, also when it is wrong.
//! Nothing here knows a setting's name or where a value came from.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use data_encoding::{BASE64, BASE64_NOPAD};
use oriel_backends::kms::{KmsKey, SCHEME as KMS};
use oriel_domain::roles::RoleName;

/// What stands in the place of a secret.
pub const MASK: &str = "***";

type Read<T> = Box<dyn Fn(&str) -> Option<T>>;
type Show<T> = Box<dyn Fn(&T) -> String>;

/// How values of one kind are read and shown.
pub struct Kind<T> {
    /// What is allowed, in words that finish the sentence "allowed: ...".
    pub allowed: String,
    /// The whole value is a secret.
    pub secret: bool,
    read: Read<T>,
    show: Show<T>,
    mask: fn(&str) -> String,
}

impl<T> Kind<T> {
    fn new(
        allowed: impl Into<String>,
        read: impl Fn(&str) -> Option<T> + 'static,
        show: impl Fn(&T) -> String + 'static,
    ) -> Self {
        Self { allowed: allowed.into(), secret: false, read: Box::new(read), show: Box::new(show), mask: str::to_owned }
    }

    /// The value, or `None` when the text is not allowed.
    pub fn read(&self, text: &str) -> Option<T> {
        (self.read)(text.trim())
    }

    /// The value as it may be printed anywhere: readable again, or masked.
    pub fn show(&self, value: &T) -> String {
        (self.show)(value)
    }

    /// A text that may be wrong as it may be printed anywhere.
    pub fn mask(&self, text: &str) -> String {
        (self.mask)(text)
    }
}

/// A value that must not be printed. Only [`Secret::expose`] gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that uses it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// The URL of a backend. It prints without its password; [`BackendUrl::expose`] gives all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUrl(String);

impl BackendUrl {
    /// The whole URL, password included, for the one place that connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `postgres` of `postgres://...`.
    pub fn scheme(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(&self.0))
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(&self.0))
    }
}

/// Hides what may be a credential: all before the last `@`, and query values whose name speaks of a secret.
/// Rather too much than too little: the text may be a mistyped URL.
pub fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return if text.is_empty() || text.starts_with("sqlite:") { text.to_owned() } else { MASK.to_owned() };
    };
    let (credentials, place) = match rest.rfind('@') {
        Some(at) => (format!("{MASK}@"), &rest[at + 1..]),
        None => (String::new(), rest),
    };
    let (place, query) = place.split_once('?').unwrap_or((place, ""));
    let query: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if speaks_of_a_secret(name) => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        })
        .collect();
    let question = if query.is_empty() { "" } else { "?" };
    format!("{scheme}://{credentials}{place}{question}{}", query.join("&"))
}

fn speaks_of_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "secret", "pass", "token", "pwd", "sig", "cred", "auth"].iter().any(|word| name.contains(word))
}

/// An address and a port to listen on.
pub fn address() -> Kind<SocketAddr> {
    Kind::new(
        "ADDRESS:PORT, for example 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080",
        |text| text.parse().ok(),
        SocketAddr::to_string,
    )
}

/// A path to a folder.
pub fn folder() -> Kind<PathBuf> {
    Kind::new(
        "the path of a folder",
        |text| (!text.is_empty()).then(|| PathBuf::from(text)),
        |path| path.display().to_string(),
    )
}

/// A path to something, or nothing.
pub fn path(what: &str) -> Kind<Option<PathBuf>> {
    optional(Kind { allowed: format!("the path of {what}"), ..folder() })
}

/// The URL under which a browser reaches something: `http` or `https`, no query, kept without the last slash.
pub fn web_url() -> Kind<Option<String>> {
    optional(Kind::new(
        "an http:// or https:// URL without query and fragment",
        |text| {
            let url = reqwest::Url::parse(text).ok()?;
            let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
            let web = matches!(url.scheme(), "http" | "https") && url.has_host();
            (plain && web).then(|| url.as_str().trim_end_matches('/').to_owned())
        },
        String::clone,
    ))
}

/// A domain's name.
pub fn domain() -> Kind<Option<String>> {
    optional(Kind::new(
        "a domain such as example.org",
        |text| {
            let label = |label: &str| {
                let fits = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                (1..=63).contains(&label.len()) && fits && !label.starts_with('-') && !label.ends_with('-')
            };
            (text.len() <= 253 && text.split('.').all(label)).then(|| text.to_owned())
        },
        String::clone,
    ))
}

/// The URL of a backend with one of some schemes; `sqlite` also without the slashes.
pub fn backend_url(schemes: &'static [&'static str]) -> Kind<Option<BackendUrl>> {
    let allowed: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://...")).collect();
    let kind = Kind::new(
        format!("a URL {}", any_of(&allowed)),
        move |text: &str| {
            let (scheme, rest) = text.split_once(':')?;
            let place = if scheme == "sqlite" { rest } else { rest.strip_prefix("//")? };
            let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control());
            (schemes.contains(&scheme) && !place.is_empty() && clean).then(|| BackendUrl(text.to_owned()))
        },
        BackendUrl::to_string,
    );
    optional(Kind { mask: mask_url, ..kind })
}

/// URLs of backends of one kind, with commas between them; in the file also a TOML array.
pub fn backend_urls(schemes: &'static [&'static str]) -> Kind<Vec<BackendUrl>> {
    let one = backend_url(schemes);
    let allowed = format!("{}; several with commas between them", one.allowed);
    let kind = Kind::new(
        allowed,
        move |text: &str| {
            let list = text.split(',').map(str::trim).filter(|url| !url.is_empty());
            list.map(|url| one.read(url).flatten()).collect()
        },
        |list: &Vec<BackendUrl>| list.iter().map(BackendUrl::to_string).collect::<Vec<_>>().join(","),
    );
    Kind { mask: |text| text.split(',').map(mask_url).collect::<Vec<_>>().join(","), ..kind }
}

/// A secret text of at least some characters.
pub fn secret_text() -> Kind<Option<Secret<String>>> {
    optional(Kind {
        secret: true,
        mask: |_| MASK.to_owned(),
        ..Kind::new(
            "a text without blanks",
            |text: &str| (!text.contains(char::is_whitespace)).then(|| Secret::new(text.to_owned())),
            Secret::to_string,
        )
    })
}

/// Where a master key is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MasterKeyAt {
    /// Here.
    Given(Secret<[u8; 32]>),
    /// In the database, sealed by this key of a KMS.
    Kms(KmsKey),
    /// In the file of the data folder.
    File,
}

impl MasterKeyAt {
    fn read(text: &str) -> Option<Self> {
        if text == FILE {
            return Some(Self::File);
        }
        if text.starts_with(KMS) {
            return KmsKey::parse(text).ok().map(Self::Kms);
        }
        let bytes = BASE64.decode(text.as_bytes()).or_else(|_| BASE64_NOPAD.decode(text.as_bytes())).ok()?;
        Some(Self::Given(Secret::new(<[u8; 32]>::try_from(bytes).ok()?)))
    }
}

impl fmt::Display for MasterKeyAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(key) => key.fmt(f),
            Self::Kms(key) => key.fmt(f),
            Self::File => f.write_str(FILE),
        }
    }
}

/// What the file of the data folder is called.
const FILE: &str = "file";

/// A master key: a secret of 32 bytes in base64, a key of a KMS, or the file, which nothing says as well.
pub fn master_key() -> Kind<MasterKeyAt> {
    Kind {
        secret: true,
        mask: |_| MASK.to_owned(),
        ..Kind::new(
            "file; 32 random bytes in base64, as `openssl rand -base64 32` makes them; or the id, ARN or alias of a key \
             of a KMS, as in kms:alias/oriel?region=eu-central-1",
            |text: &str| if text.is_empty() { Some(MasterKeyAt::File) } else { MasterKeyAt::read(text) },
            MasterKeyAt::to_string,
        )
    }
}

/// A list of master keys with commas.
pub fn master_keys() -> Kind<Vec<MasterKeyAt>> {
    Kind {
        secret: true,
        mask: |text| if text.is_empty() { String::new() } else { MASK.to_owned() },
        ..Kind::new(
            "a list, each 32 random bytes in base64, a key of a KMS (kms:...), or file; empty for none",
            |text: &str| {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(MasterKeyAt::read).collect()
            },
            |list: &Vec<MasterKeyAt>| list.iter().map(MasterKeyAt::to_string).collect::<Vec<_>>().join(","),
        )
    }
}

/// A filter of log lines, as `tracing` reads it.
pub fn log_filter() -> Kind<String> {
    Kind::new(
        "error, warn, info, debug, trace, off, or a list of TARGET=LEVEL such as info,oriel_engine=debug",
        |text| (!text.is_empty() && crate::telemetry::filter(text).is_ok()).then(|| text.to_owned()),
        String::clone,
    )
}

/// Whom a mail is from. Whether the address is one is found when mail is opened.
pub fn mailbox() -> Kind<String> {
    Kind::new(
        "an address, such as Oriel <oriel@example.org>",
        |text| (text.contains('@') && !text.chars().any(char::is_control)).then(|| text.to_owned()),
        String::clone,
    )
}

/// A whole number between two bounds.
pub fn whole<T>(least: T, most: T) -> Kind<T>
where
    T: Copy + PartialOrd + fmt::Display + std::str::FromStr + 'static,
{
    Kind::new(
        format!("a whole number from {least} to {most}"),
        move |text| text.parse().ok().filter(|number| (least..=most).contains(number)),
        T::to_string,
    )
}

/// One of some words.
pub fn choice<T: Copy + PartialEq + 'static>(words: &'static [(&'static str, T)]) -> Kind<T> {
    let allowed: Vec<String> = words.iter().map(|(word, _)| (*word).to_owned()).collect();
    Kind::new(
        any_of(&allowed),
        |text| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value),
        |value| words.iter().find(|(_, known)| known == value).map(|(word, _)| (*word).to_owned()).unwrap_or_default(),
    )
}

/// A list with commas; in the file also a TOML array.
pub fn origins() -> Kind<Vec<String>> {
    Kind::new(
        "a list of origins such as https://app.example.com, without path; empty for none",
        |text| {
            let list = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
            list.map(|origin| {
                let url = reqwest::Url::parse(origin).ok()?;
                (url.origin().ascii_serialization() == origin && url.has_host()).then(|| origin.to_owned())
            })
            .collect()
        },
        |list: &Vec<String>| list.join(","),
    )
}

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `192.0.2.0/24`, `2001:db8::/32` or a single address.
    fn parse(text: &str) -> Option<Self> {
        let (first, bits) = text.split_once('/').map_or((text, None), |(first, bits)| (first, Some(bits)));
        let first: IpAddr = first.parse().ok()?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
        Some(Self { first, bits })
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let high = |bits: u128, of: u8| bits.checked_shr(u32::from(of - self.bits)).unwrap_or_default();
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                high(first.to_bits().into(), 32) == high(address.to_bits().into(), 32)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => high(first.to_bits(), 128) == high(address.to_bits(), 128),
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// A list of networks with commas.
pub fn networks() -> Kind<Vec<Network>> {
    Kind::new(
        "a list of addresses and networks such as 10.0.0.0/8,2001:db8::1; empty for none",
        |text| text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Network::parse).collect(),
        |list: &Vec<Network>| list.iter().map(Network::to_string).collect::<Vec<_>>().join(","),
    )
}

/// A list with commas; in the file also a TOML array.
pub fn roles() -> Kind<Vec<RoleName>> {
    let names: Vec<String> = RoleName::ALL.iter().map(ToString::to_string).collect();
    Kind::new(
        format!("a list of the roles {}; empty for none", names.join(", ")),
        |text| {
            let list = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            list.map(|name| RoleName::parse(name).ok()).collect()
        },
        |list: &Vec<RoleName>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    )
}

/// A length of time between two bounds: `30s`, `1h30m`, `50ms`.
pub fn duration(least: &'static str, most: &'static str) -> Kind<Duration> {
    let bounds = parse_duration(least).unwrap_or_default()..=parse_duration(most).unwrap_or_default();
    Kind::new(
        format!("a length of time from {least} to {most}, with a unit (ms, s, m, h, d)"),
        move |text| parse_duration(text).filter(|value| bounds.contains(value)),
        |value| show_duration(*value),
    )
}

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0_u64;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?.1;
        if factor >= last {
            return None;
        }
        last = factor;
        millis = millis.checked_add(number.checked_mul(factor)?)?;
        rest = after;
    }
    (last != u64::MAX).then(|| Duration::from_millis(millis))
}

fn show_duration(value: Duration) -> String {
    let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let unit = DURATION_UNITS.iter().find(|(_, factor)| millis.is_multiple_of(*factor));
    unit.map(|(name, factor)| format!("{}{name}", millis / factor)).unwrap_or_default()
}

/// A number of bytes between two bounds: `64MiB`, `2GiB`, `1048576`.
pub fn size(least: &'static str, most: &'static str) -> Kind<u64> {
    let bounds = parse_size(least).unwrap_or_default()..=parse_size(most).unwrap_or_default();
    Kind::new(
        format!("a number of bytes from {least} to {most}, plain or with a unit (KiB, MiB, GiB, TiB, KB, MB, GB, TB)"),
        move |text| parse_size(text).filter(|value| bounds.contains(value)),
        |value| show_size(*value),
    )
}

const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, after) = number_and_unit(text)?;
    let factor = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1;
    if after.is_empty() { number.checked_mul(factor) } else { None }
}

fn show_size(bytes: u64) -> String {
    let unit = SIZE_UNITS[..4].iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// `90`, `s` and what follows, of `90s...`; blanks between number and unit are allowed.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    let rest = text[digits..].trim_start();
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    Some((number, &rest[..letters], rest[letters..].trim_start()))
}

/// What a client may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimit {
    /// Off on a loopback listener, else [`RateLimit::USUAL`].
    Auto,
    /// No limit.
    Off,
    /// Units of cost per minute.
    PerMinute(u32),
}

impl RateLimit {
    /// Units of cost per minute where `auto` means on.
    pub const USUAL: u32 = 120_000;
}

/// `auto`, `off` or a number per minute.
pub fn rate_limit() -> Kind<RateLimit> {
    Kind::new(
        "auto, off, or a number of units of cost per minute from 1 to 1000000000",
        |text| match text {
            "auto" => Some(RateLimit::Auto),
            "off" => Some(RateLimit::Off),
            number => {
                number.parse().ok().filter(|number| (1..=1_000_000_000).contains(number)).map(RateLimit::PerMinute)
            }
        },
        |limit| match limit {
            RateLimit::Auto => "auto".to_owned(),
            RateLimit::Off => "off".to_owned(),
            RateLimit::PerMinute(number) => number.to_string(),
        },
    )
}

/// The empty text is "not set".
fn optional<T: 'static>(kind: Kind<T>) -> Kind<Option<T>> {
    let Kind { allowed, secret, read, show, mask } = kind;
    Kind {
        allowed: format!("{allowed}, or nothing"),
        secret,
        read: Box::new(move |text| if text.is_empty() { Some(None) } else { read(text).map(Some) }),
        show: Box::new(move |value| value.as_ref().map(&show).unwrap_or_default()),
        mask,
    }
}

fn any_of(words: &[String]) -> String {
    match words {
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
        [] => String::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("50ms"), Some(Duration::from_millis(50)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(604_800)));
        for wrong in ["", "30", "s", "30 parsecs", "1m1h", "1s1s", "-1s", "1.5s", "99999999999999999999d"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
        assert_eq!(parse_size("64 MiB"), Some(64 << 20));
        assert_eq!(parse_size("2gb"), Some(2_000_000_000));
        assert_eq!(parse_size("17"), Some(17));
        for wrong in ["", "MiB", "1MiB2", "-1", "1.5GiB", "99999999TiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bounds_are_kept() {
        assert!(duration("1s", "1m").read("61s").is_none());
        assert!(duration("1s", "1m").read("999ms").is_none());
        assert!(size("1KiB", "1MiB").read("1048577").is_none());
        assert!(whole(1_u32, 10).read("0").is_none());
        assert_eq!(whole(1_u32, 10).read(" 10 "), Some(10));
    }

    #[test]
    fn urls_print_without_what_is_secret() {
        let masked = |text| mask_url(text);
        assert_eq!(masked("postgres://oriel:pa@ss/wo@db:5432/oriel"), "postgres://***@db:5432/oriel");
        assert_eq!(
            masked("s3://bucket?endpoint=http://minio:9000&secret_access_key=x"),
            "s3://bucket?endpoint=http://minio:9000&secret_access_key=***"
        );
        assert_eq!(masked("redis://redis:6379"), "redis://redis:6379");
        assert_eq!(masked("hunter2"), "***");
        assert_eq!(masked("sqlite::memory:"), "sqlite::memory:");
    }

    #[test]
    fn a_backend_url_has_one_of_the_schemes() {
        let kind = backend_url(&["postgres", "sqlite"]);
        assert_eq!(kind.read("postgres://db/x").unwrap().unwrap().scheme(), "postgres");
        assert_eq!(kind.read("sqlite:oriel.db").unwrap().unwrap().scheme(), "sqlite");
        assert_eq!(kind.read(""), Some(None));
        for wrong in ["mysql://db/x", "postgres:db", "postgres://", "postgres://d b", "db"] {
            assert!(kind.read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn keys_have_32_bytes() {
        let key = BASE64.encode(&[7; 32]);
        assert_eq!(master_key().read(&key), Some(MasterKeyAt::Given(Secret::new([7; 32]))));
        assert_eq!(master_key().read(""), master_key().read("file"));
        for wrong in [&BASE64.encode(&[7; 31]), "not base64", "kms:", "kms:a?endpoint=http://kms.example"] {
            assert!(master_key().read(wrong).is_none(), "{wrong}");
        }
        assert_eq!(format!("{0:?} {0}", Secret::new("hunter2")), "*** ***");
    }

    #[test]
    fn master_keys_print_as_where_they_are() {
        let key = BASE64.encode(&[7; 32]);
        let all = format!("{key}, kms:alias/oriel?region=r ,file");
        let shown = master_keys().show(&master_keys().read(&all).unwrap());
        assert_eq!(shown, "***,kms:alias/oriel?installation=oriel&region=r,file");
        assert_eq!(master_keys().read(""), Some(vec![]));
        assert_eq!(master_keys().mask(&all), MASK);
        assert!(master_keys().read("file,nonsense").is_none());
        assert!(!format!("{:?}", master_keys().read(&all)).contains(&key));
    }

    #[test]
    fn a_network_holds_the_addresses_that_begin_like_it() {
        let holds = |network: &str, address: &str| Network::parse(network).unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("0.0.0.0/0", "198.51.100.1") && holds("::/0", "2001:db8::1") && !holds("::/0", "192.0.2.1"));
        assert!(holds("127.0.0.0/8", "::ffff:127.0.0.1"), "an IPv4 address on a socket of both kinds");
        assert!(holds("2001:db8::/33", "2001:db8:7fff::1") && !holds("2001:db8::/33", "2001:db8:8000::1"));
        for wrong in ["", "10.0.0.0/33", "::1/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "proxy.example"] {
            assert!(Network::parse(wrong).is_none(), "{wrong}");
        }
        let shown = networks().show(&networks().read("127.0.0.0/8, ::1").unwrap());
        assert_eq!(shown, "127.0.0.0/8,::1/128");
    }

    #[test]
    fn origins_are_origins() {
        assert_eq!(origins().read("https://a.example, http://localhost:3000").unwrap().len(), 2);
        assert_eq!(origins().read(""), Some(vec![]));
        for wrong in ["*", "https://a.example/", "a.example", "https://a.example/path", "null"] {
            assert!(origins().read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn roles_are_roles() {
        assert_eq!(roles().read("admin, owner"), Some(vec![RoleName::Admin, RoleName::Owner]));
        assert_eq!(roles().read(""), Some(vec![]));
        assert_eq!(roles().read("root"), None);
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(millis in 0_u64..10_000_000_000) {
            let value = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(value)), Some(value));
        }

        #[test]
        fn a_shown_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn a_password_never_survives_the_mask(user in "[a-z]{0,5}", password in "P[A-Z/:@?&=#]{3,12}W", host in "[a-z]{1,8}") {
            let masked = mask_url(&format!("postgres://{user}:{password}@{host}/db"));
            prop_assert!(!masked.contains(&password), "{}", masked);
        }
    }
}
