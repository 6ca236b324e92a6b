//! TLS: the certificate of the listener, from two PEM files, replaced while the server runs when they change.
//!
//! Invariants: TLS 1.3 and nothing older. Files that cannot be used never replace a certificate that is in use: what
//! is wrong with them goes to the log, and they are looked at again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{Error as RustlsError, InconsistentKeys, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long a certificate has to be valid at least for an operator to be at ease.
const SOON: chrono::Duration = chrono::Duration::days(14);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    File(PathBuf, std::io::Error),
    /// There is no certificate in the file.
    #[error("{0} holds no certificate: {1}. It has to be a PEM file with the certificate and those that it needs")]
    Certificate(PathBuf, pem::Error),
    /// There is no key in the file.
    #[error("{0} holds no private key: {1}. It has to be a PEM file with the key of the certificate")]
    Key(PathBuf, pem::Error),
    /// The key is another certificate's.
    #[error("tls_key is not the key of the certificate in tls_certificate: give the two that belong together")]
    Apart,
    /// The two cannot be used.
    #[error("tls_certificate and tls_key cannot be used: {0}")]
    Unusable(#[from] RustlsError),
}

/// The two files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What the files held.
#[derive(Debug)]
struct Read {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// TLS for a listener. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    files: Files,
    current: Arc<Current>,
}

/// The certificate in use, and what was read for it.
#[derive(Debug)]
struct Current(Mutex<(Read, Arc<CertifiedKey>)>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).1))
    }
}

impl Files {
    async fn read(&self) -> Result<Read, TlsError> {
        let read = async |path: &Path| tokio::fs::read(path).await.map_err(|e| TlsError::File(path.to_owned(), e));
        Ok(Read { certificate: read(&self.certificate).await?, key: read(&self.key).await? })
    }

    fn certificates(&self, read: &Read) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let wrong = |error| TlsError::Certificate(self.certificate.clone(), error);
        let all: Vec<_> = CertificateDer::pem_slice_iter(&read.certificate).collect::<Result<_, _>>().map_err(wrong)?;
        if all.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(all) }
    }

    fn pair(&self, read: &Read, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(&read.key).map_err(|error| TlsError::Key(self.key.clone(), error))?;
        CertifiedKey::from_der(self.certificates(read)?, key, provider).map_err(|error| match error {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Apart,
            other => TlsError::Unusable(other),
        })
    }

    /// What an operator should know of the certificate.
    ///
    /// # Errors
    /// What has to be mended.
    pub async fn examine(&self, now: DateTime<Utc>) -> Result<String, String> {
        let ends = self.ends().await?;
        let (day, file) = (ends.format("%Y-%m-%d %H:%M UTC"), self.certificate.display());
        if ends <= now {
            return Err(format!("the certificate in {file} ended on {day}; a new one in its place is taken at once"));
        }
        let left = ends - now;
        let said = format!("TLS 1.3; the certificate in {file} is valid until {day}, for {} days", left.num_days());
        if left < SOON { Err(format!("{said}: renew it; a new one in its place is taken at once")) } else { Ok(said) }
    }

    /// When the certificate ends, if the two files can be used.
    async fn ends(&self) -> Result<DateTime<Utc>, String> {
        let read = self.read().await.map_err(|error| error.to_string())?;
        let pair = self.pair(&read, &aws_lc_rs::default_provider()).map_err(|error| error.to_string())?;
        let end_entity = pair.end_entity_cert().map_err(|error| error.to_string())?;
        not_after(end_entity).ok_or_else(|| "the certificate has no end that can be told".to_owned())
    }
}

/// When an X.509 certificate ends (RFC 5280, 4.1): `Certificate { TBSCertificate { version?, serialNumber, signature,
/// issuer, Validity { notBefore, notAfter } … } … }`. rustls only says that it has ended; this one date is not worth
/// a dozen packages.
fn not_after(certificate: &[u8]) -> Option<DateTime<Utc>> {
    const VERSION: u8 = 0xA0;
    const UTC_TIME: u8 = 0x17;
    let (_, signed, _) = value(certificate)?;
    let (_, fields, _) = value(signed)?;
    let rest = match value(fields)? {
        (VERSION, _, rest) => rest,
        _ => fields,
    };
    let (_, _, after_serial) = value(rest)?;
    let (_, _, after_signature) = value(after_serial)?;
    let (_, _, after_issuer) = value(after_signature)?;
    let (_, validity, _) = value(after_issuer)?;
    let (_, _, second) = value(validity)?;
    let (tag, text, _) = value(second)?;
    let text = std::str::from_utf8(text).ok()?;
    let century = match tag {
        UTC_TIME if text < "50" => "20",
        UTC_TIME => "19",
        _ => "",
    };
    let time = chrono::NaiveDateTime::parse_from_str(&format!("{century}{text}"), "%Y%m%d%H%M%SZ").ok()?;
    Some(time.and_utc())
}

/// The first value in DER: its tag, what it holds, and what comes after it.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F)).filter(|(bytes, _)| bytes.len() <= 4)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (inside, after) = rest.split_at_checked(length)?;
    Some((tag, inside, after))
}

impl Tls {
    /// TLS with the certificate of these files.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub async fn open(files: Files) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let read = files.read().await?;
        let pair = Arc::new(files.pair(&read, &provider)?);
        let current = Arc::new(Current(Mutex::new((read, pair))));
        let versions = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
        let mut config = versions.with_no_client_auth().with_cert_resolver(Arc::clone(&current) as Arc<_>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), files, current })
    }

    /// Begins TLS on a connection.
    pub fn accept(&self, stream: TcpStream) -> Accept<TcpStream> {
        self.acceptor.accept(stream)
    }

    /// Looks at the files; whether there is another certificate since.
    ///
    /// # Errors
    /// What is wrong with the files; the certificate in use stays.
    pub async fn reload(&self) -> Result<bool, TlsError> {
        let read = self.files.read().await?;
        {
            let current = self.current.0.lock().unwrap_or_else(PoisonError::into_inner);
            if current.0.certificate == read.certificate && current.0.key == read.key {
                return Ok(false);
            }
        }
        let pair = Arc::new(self.files.pair(&read, &aws_lc_rs::default_provider())?);
        *self.current.0.lock().unwrap_or_else(PoisonError::into_inner) = (read, pair);
        Ok(true)
    }

    /// Takes a new certificate when the files change, or when the process is sent SIGHUP.
    pub async fn follow(self) {
        let mut told = hangup();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut complained = String::new();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = told.recv() => complained.clear(),
            }
            match self.reload().await {
                Ok(true) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "a new certificate is used")
                }
                Ok(false) => complained.clear(),
                // Once for each trouble: it lasts until somebody mends it.
                Err(error) if error.to_string() == complained => {}
                Err(error) => {
                    complained = error.to_string();
                    tracing::warn!(%error, "the certificate files changed and cannot be used; the one in use stays");
                }
            }
        }
    }
}

/// A stream of bytes under TLS.
pub type Stream = TlsStream<TcpStream>;

/// SIGHUP, where there is such a thing.
struct Hangup(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangup {
    async fn recv(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

fn hangup() -> Hangup {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let signal = signal(SignalKind::hangup());
        Hangup(signal.inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be caught")).ok())
    }
    #[cfg(not(unix))]
    Hangup()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, missing_docs)]
pub mod tests {
    use tempfile::TempDir;

    use super::*;

    const NOON: DateTime<Utc> = DateTime::from_timestamp_nanos(1_800_000_000_000_000_000);

    /// A certificate for `localhost` that ends at this time, written to its files.
    pub fn write(folder: &TempDir, ends: DateTime<Utc>) -> Files {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let since_1970 = Duration::from_secs(ends.timestamp().try_into().unwrap());
        parameters.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970;
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let files = Files { certificate: folder.path().join("tls.pem"), key: folder.path().join("tls.key") };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_are_refused_by_name_and_never_replace_a_certificate() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = NOON;
        let files = write(&folder, now + chrono::Duration::days(90));
        let tls = Tls::open(files.clone()).await.unwrap();
        let used = || Arc::clone(&tls.current.0.lock().unwrap().1);
        let first = used();
        assert!(!tls.reload().await.unwrap(), "nothing has changed");

        let foreign = write(&other, now + chrono::Duration::days(90));
        let own = std::fs::read(&files.key).unwrap();
        std::fs::copy(&foreign.key, &files.key).unwrap();
        assert!(matches!(tls.reload().await, Err(TlsError::Apart)));
        std::fs::write(&files.key, "no key").unwrap();
        assert!(tls.reload().await.unwrap_err().to_string().contains("tls.key holds no private key"));
        std::fs::remove_file(&files.key).unwrap();
        assert!(tls.reload().await.unwrap_err().to_string().contains("tls.key cannot be read"));
        std::fs::write(&files.key, own).unwrap();
        std::fs::write(&files.certificate, "no certificate").unwrap();
        assert!(tls.reload().await.unwrap_err().to_string().contains("tls.pem holds no certificate"));
        assert!(Arc::ptr_eq(&first, &used()), "the one in use stays");

        write(&folder, now + chrono::Duration::days(180));
        assert!(tls.reload().await.unwrap());
        assert!(!Arc::ptr_eq(&first, &used()));
    }

    #[test]
    fn the_end_is_read_in_both_forms_and_nothing_is_made_of_rubbish() {
        let ends = |year: i32| {
            let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            parameters.not_after = rcgen::date_time_ymd(year, 5, 17);
            let key = rcgen::KeyPair::generate().unwrap();
            parameters.self_signed(&key).unwrap().der().to_vec()
        };
        for year in [1999, 2049, 2050, 2999] {
            assert_eq!(not_after(&ends(year)).unwrap().to_string(), format!("{year}-05-17 00:00:00 UTC"));
        }
        let whole = ends(2049);
        for cut in 0..whole.len() {
            assert_eq!(not_after(&whole[..cut]), None, "{cut}");
        }
        for rubbish in [&[][..], &[0x30, 0x80], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x30, 0x84, 255, 255, 255, 255]] {
            assert_eq!(not_after(rubbish), None);
        }
    }

    #[tokio::test]
    async fn an_operator_hears_of_the_end_before_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let now = NOON;
        let said = write(&folder, now + chrono::Duration::days(90)).examine(now).await.unwrap();
        assert!(said.contains("for 89 days") || said.contains("for 90 days"), "{said}");
        let soon = write(&folder, now + chrono::Duration::days(3)).examine(now).await.unwrap_err();
        assert!(soon.contains("renew it"), "{soon}");
        let over = write(&folder, now - chrono::Duration::days(3)).examine(now).await.unwrap_err();
        assert!(over.contains("ended on"), "{over}");
    }
}
