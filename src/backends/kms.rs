//! A key management service: AWS KMS, or a server that speaks its protocol. It keeps keys that never leave it, and seals
//! others by them.
//!
//! Invariants: what is sealed is bound to the name of the installation (the encryption context), so that a policy of the
//! service can tell installations apart that share a key. A key in the clear travels over TLS, or within this machine; it
//! is wiped, and never printed.
//!
//! Retries and time-outs of one request are the SDK's; a [`Guard`] is around all of them.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{BehaviorVersion, Region};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::aws::{Credentials, region};
use crate::resilience::{Fault, Guard, Policy, Unanswered};
use crate::trace::ToAws;

#[cfg(test)]
mod tests;

/// What a [`KmsKey`] begins with.
pub const SCHEME: &str = "kms:";
/// The encryption context: its value is the name of the installation.
pub const CONTEXT: &str = "oriel-installation";
const ATTEMPTS: u32 = 3;

/// A key of a service: `kms:` and its id, ARN or alias; then, after a question mark, what the environment does not say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KmsKey {
    key: String,
    region: Option<String>,
    endpoint: Option<String>,
    installation: String,
}

/// That names no key of a service.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error(
    "it names no key of a KMS: write kms: and the id, ARN or alias of a key, such as \
     kms:alias/oriel?region=eu-central-1&installation=production; an endpoint= is https://, or http:// on this machine"
)]
pub struct InvalidKmsKey;

impl KmsKey {
    /// Reads `kms:key[?region=..&endpoint=..&installation=..]`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidKmsKey> {
        let (key, query) =
            text.strip_prefix(SCHEME).map(|rest| rest.split_once('?').unwrap_or((rest, ""))).unwrap_or_default();
        let mut this = Self { key: word(key)?, region: None, endpoint: None, installation: "oriel".to_owned() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "region" => this.region = Some(word(&value)?),
                "endpoint" => this.endpoint = Some(endpoint(&value)?),
                "installation" => this.installation = word(&value)?,
                _ => return Err(InvalidKmsKey),
            }
        }
        Ok(this)
    }

    /// Which region is asked: the one that is named, that of the ARN, or that of the environment.
    fn region(&self, variable: impl Fn(&str) -> Option<String>) -> String {
        let of_arn = || self.key.strip_prefix("arn:")?.split(':').nth(2).map(str::to_owned);
        self.region.clone().or_else(of_arn).unwrap_or_else(|| region(variable))
    }
}

impl fmt::Display for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}?installation={}", self.key, self.installation)?;
        self.region.iter().try_for_each(|region| write!(f, "&region={region}"))?;
        self.endpoint.iter().try_for_each(|endpoint| write!(f, "&endpoint={endpoint}"))
    }
}

fn word(text: &str) -> Result<String, InvalidKmsKey> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | ':');
    if text.is_empty() || !text.chars().all(is_plain) { Err(InvalidKmsKey) } else { Ok(text.to_owned()) }
}

/// An address at which keys may be asked for.
fn endpoint(text: &str) -> Result<String, InvalidKmsKey> {
    let url = Url::parse(text).map_err(|_| InvalidKmsKey)?;
    let host = url.host_str().ok_or(InvalidKmsKey)?;
    let is_here = host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let is_private = url.scheme() == "https" || (url.scheme() == "http" && is_here);
    let is_plain = url.username().is_empty() && url.query().is_none() && url.fragment().is_none();
    if is_private && is_plain { Ok(text.trim_end_matches('/').to_owned()) } else { Err(InvalidKmsKey) }
}

/// What goes wrong. Nothing of it is secret.
#[derive(thiserror::Error, Debug)]
pub enum KmsError {
    /// Nothing signs requests.
    #[error(
        "{0} needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment (or both with _KMS at their ends, where \
         those are for the store of the files)"
    )]
    Credentials(String),
    /// The environment names an address that would have keys travel in the clear.
    #[error("{0}: AWS_ENDPOINT_URL_KMS (or AWS_ENDPOINT_URL) is not https://, nor http:// on this machine")]
    Endpoint(String),
    /// It answers that it does not.
    #[error("the KMS refuses to {what} by {name} ({code}): {mend}")]
    Refused {
        /// Whose key.
        name: String,
        /// What was asked.
        what: &'static str,
        /// What it calls the reason.
        code: String,
        /// What is to be done.
        mend: String,
    },
    /// It does not answer.
    #[error("the KMS does not {what} by {name}: {why}; it is needed when a node starts and when keys are rotated")]
    Away {
        /// Whose key.
        name: String,
        /// What was asked.
        what: &'static str,
        /// What is known.
        why: String,
    },
    /// It was not asked.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// It answers with something else than a key of 32 bytes.
    #[error("what answers for {0} is no KMS: it gives no key of 32 bytes")]
    Garbled(String),
}

impl Fault for KmsError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Unanswered(_) | Self::Garbled(_))
    }
}

/// A key in the clear, and sealed.
pub struct SealedKey {
    /// In the clear.
    pub key: Zeroizing<[u8; 32]>,
    /// Sealed.
    pub sealed: Vec<u8>,
    /// The ARN of the key that it was sealed by.
    pub by: String,
}

/// A key of a service, at work.
pub struct Kms {
    client: Client,
    key: String,
    name: String,
    installation: String,
    guard: Guard,
}

/// How long it is waited for.
#[derive(Clone, Copy)]
struct Patience {
    connect: Duration,
    attempt: Duration,
    all: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [connect, attempt, all] = [3, 5, 20].map(Duration::from_secs);
        Self { connect, attempt, all }
    }
}

impl Kms {
    /// With the region, the address and the credentials of the environment, where the key does not name them. Asks
    /// nothing yet.
    ///
    /// # Errors
    /// When the environment lacks what is needed.
    pub fn open(key: &KmsKey, variable: impl Fn(&str) -> Option<String>) -> Result<Self, KmsError> {
        Self::with(key, variable, Patience::default())
    }

    fn with(key: &KmsKey, variable: impl Fn(&str) -> Option<String>, patience: Patience) -> Result<Self, KmsError> {
        let region = key.region(&variable);
        let name = format!("{SCHEME}{}?region={region}", key.key);
        let there = ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"].into_iter().find_map(&variable);
        let there = match (&key.endpoint, there) {
            (Some(named), _) => Some(named.clone()),
            (None, Some(there)) => Some(endpoint(&there).map_err(|_| KmsError::Endpoint(name.clone()))?),
            (None, None) => None,
        };
        // The store of the files may be somebody else's.
        let own = |name: &str| variable(&format!("{name}_KMS"));
        let credentials = Credentials::from_environment(own).or_else(|| Credentials::from_environment(&variable));
        let credentials = credentials.ok_or_else(|| KmsError::Credentials(name.clone()))?;
        let mut config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(credentials.0)
            .interceptor(ToAws)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(patience.connect)
                    .operation_attempt_timeout(patience.attempt)
                    .operation_timeout(patience.all)
                    .build(),
            );
        config.set_endpoint_url(there);
        // Requests are repeated, and have a time, already.
        let guard = Guard::new("kms", Policy { time_out: None, attempts: 1, ..Policy::default() });
        let (key, installation) = (key.key.clone(), key.installation.clone());
        Ok(Self { client: Client::from_conf(config.build()), key, name, installation, guard })
    }

    /// The key, as the settings name it, and the region in which it is asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new key.
    ///
    /// # Errors
    /// When the service is away or refuses.
    pub async fn generate(&self) -> Result<SealedKey, KmsError> {
        let request = self
            .client
            .generate_data_key()
            .key_id(&self.key)
            .key_spec(DataKeySpec::Aes256)
            .encryption_context(CONTEXT, &self.installation);
        let what = "make a key that is sealed";
        let answer = self.guard.once(async { request.send().await.map_err(|error| self.failed(what, error)) }).await?;
        match (answer.ciphertext_blob, answer.key_id) {
            (Some(sealed), Some(by)) => {
                Ok(SealedKey { key: self.bytes(answer.plaintext)?, sealed: sealed.into_inner(), by })
            }
            _ => Err(KmsError::Garbled(self.name.clone())),
        }
    }

    /// Opens what was sealed by the key with this ARN.
    ///
    /// # Errors
    /// When the service is away or refuses.
    pub async fn unseal(&self, sealed: &[u8], by: &str) -> Result<Zeroizing<[u8; 32]>, KmsError> {
        let request = self
            .client
            .decrypt()
            .key_id(by)
            .ciphertext_blob(Blob::new(sealed))
            .encryption_context(CONTEXT, &self.installation);
        let what = "open what was sealed";
        let answer = self.guard.once(async { request.send().await.map_err(|error| self.failed(what, error)) }).await?;
        self.bytes(answer.plaintext)
    }

    /// Whether it does both. Gives the ARN of the key that seals.
    ///
    /// # Errors
    /// When the service is away or refuses.
    pub async fn check(&self) -> Result<String, KmsError> {
        let SealedKey { key, sealed, by } = self.generate().await?;
        if *self.unseal(&sealed, &by).await? == *key { Ok(by) } else { Err(KmsError::Garbled(self.name.clone())) }
    }

    fn bytes(&self, plaintext: Option<Blob>) -> Result<Zeroizing<[u8; 32]>, KmsError> {
        let bytes = Zeroizing::new(plaintext.map(Blob::into_inner).unwrap_or_default());
        let key = bytes.as_slice().try_into().map_err(|_| KmsError::Garbled(self.name.clone()))?;
        Ok(Zeroizing::new(key))
    }

    fn failed<E: Error + ProvideErrorMetadata + 'static>(&self, what: &'static str, error: SdkError<E>) -> KmsError {
        let name = self.name.clone();
        match &error {
            SdkError::ServiceError(refusal) if refusal.raw().status().as_u16() < 500 && !is_busy(error.code()) => {
                let code = error.code().unwrap_or("no reason is given").to_owned();
                let mend = self.mend(&code);
                KmsError::Refused { name, what, code, mend }
            }
            SdkError::ServiceError(refusal) => {
                let why =
                    format!("status {}, {}", refusal.raw().status().as_u16(), error.code().unwrap_or("no reason"));
                KmsError::Away { name, what, why }
            }
            _ => KmsError::Away { name, what, why: innermost(&error) },
        }
    }

    /// What is to be done about a refusal.
    fn mend(&self, code: &str) -> String {
        match code {
            "AccessDeniedException" => format!(
                "allow kms:GenerateDataKey and kms:Decrypt on the key, with the encryption context \
                 {CONTEXT}={}, to whom AWS_ACCESS_KEY_ID belongs",
                self.installation
            ),
            "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "IncompleteSignatureException"
            | "MissingAuthenticationTokenException"
            | "ExpiredTokenException"
            | "InvalidClientTokenId" => {
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN is not good, or has ended".to_owned()
            }
            "NotFoundException" | "InvalidArnException" => {
                "there is no such key in this region: see its id, or name its region=".to_owned()
            }
            "DisabledException" | "KMSInvalidStateException" => {
                "the key is disabled, or about to be deleted: enable it again".to_owned()
            }
            "InvalidCiphertextException" | "IncorrectKeyException" => format!(
                "what is in the database was sealed by another key, or for another installation than {}: see \
                 installation= in the settings",
                self.installation
            ),
            "InvalidKeyUsageException" | "UnsupportedOperationException" | "ValidationException" => {
                "a symmetric key is needed, for encryption and decryption".to_owned()
            }
            _ => "see the key's policy, and what the service says of it".to_owned(),
        }
    }
}

/// Whether it says that it could at another moment.
fn is_busy(code: Option<&str>) -> bool {
    let codes =
        ["ThrottlingException", "LimitExceededException", "KeyUnavailableException", "DependencyTimeoutException"];
    code.is_some_and(|code| codes.contains(&code))
}

/// The reason behind all reasons.
fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
