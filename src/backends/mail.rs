//! Mail: letters of plain text to one person each, embedded as files in a folder, in production by SMTP.
//!
//! Invariants: over SMTP nothing is said before the connection is encrypted, unless the URL says `tls=none` or names
//! this machine. A letter that is sent again is the same letter: its `Message-ID` follows from its id, and its file has
//! that name. An error names no address: it is kept where the person may be forgotten.
//! Nothing here knows what a letter is about.

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Mailbox};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::io::AsyncWriteExt;
use url::Url;
use uuid::Uuid;

use crate::resilience::{Fault, Guard, Health, Policy, Unanswered};

/// How long handing over one letter may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may take to greet, when it is looked whether it is back.
const GREETED_WITHIN: Duration = Duration::from_secs(5);

/// A letter to one person.
#[derive(Clone)]
pub struct Letter {
    /// Names it: the same letter has the same id, however often it is sent.
    pub id: Uuid,
    /// Where it goes.
    pub to: String,
    /// What it is about.
    pub subject: String,
    /// What it says.
    pub text: String,
}

/// Says nothing about whom it goes to, or what it hands over.
impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a letter was not sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MailError {
    /// The server does not take it, and will not.
    #[error("the mail server refuses it: {0}")]
    Refused(String),
    /// The server does not take it at the moment.
    #[error("the mail server does not take it now: {0}")]
    Later(String),
    /// The server is not there, or not the one that it should be.
    #[error("the mail server cannot be reached: {0}")]
    Unreachable(String),
    /// It was not asked.
    #[error("the mail server was not asked: {0}")]
    Unanswered(#[from] Unanswered),
    /// The letter is none: an address that cannot be written to.
    #[error("it cannot be written to this address")]
    Address,
    /// The folder.
    #[error("the outbox: {0}")]
    Folder(Arc<std::io::Error>),
}

impl MailError {
    /// Whether it never will be sent.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Address)
    }
}

impl Fault for MailError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unanswered(_))
    }
}

/// Why there is no mail.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one of a mail server.
    #[error(
        "mail_url: {0}; write smtp://user:password@host, smtps://… for TLS from the first byte, or ?tls=none within a network that is safe"
    )]
    Url(&'static str),
    /// The sender is no address.
    #[error("mail_from is not an address: write Name <name@example.org>")]
    From,
    /// What is needed for TLS is not there.
    #[error("mail: TLS cannot be set up: {0}")]
    Tls(String),
    /// The folder.
    #[error("the outbox {}: {source}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Where letters go. Cheap to clone.
#[derive(Clone)]
pub struct Mail {
    from: Mailbox,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Folder(Arc<Path>),
    Smtp { transport: AsyncSmtpTransport<Tokio1Executor>, guard: Arc<Guard> },
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail").field("kind", &self.name()).finish_non_exhaustive()
    }
}

impl Mail {
    /// By SMTP where there is a URL, else into this folder. `from`: whom letters are from.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(url: Option<&str>, folder: &Path, from: &str) -> Result<Self, OpenError> {
        let from = from.parse().map_err(|_| OpenError::From)?;
        let way = match url {
            Some(url) => smtp(url)?,
            None => {
                private_folder(folder).map_err(|source| OpenError::Folder { folder: folder.to_owned(), source })?;
                Way::Folder(folder.into())
            }
        };
        Ok(Self { from, way })
    }

    /// Sends a letter.
    ///
    /// # Errors
    /// See [`MailError`].
    pub async fn send(&self, letter: &Letter) -> Result<(), MailError> {
        let to: Address = letter.to.parse().map_err(|_| MailError::Address)?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&letter.subject)
            .message_id(Some(format!("<{}@{}>", letter.id.simple(), self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN)
            .body(body(&letter.text))
            .map_err(|_| MailError::Address)?;
        match &self.way {
            Way::Folder(folder) => {
                let kept = keep(folder, letter.id, &message.formatted()).await;
                kept.map_err(|error| MailError::Folder(Arc::new(error)))
            }
            Way::Smtp { transport, guard } => {
                let send = async { transport.send(message).await.map(drop).map_err(told) };
                guard.within(PATIENCE, send).await
            }
        }
    }

    /// Looks whether a server answers again that did not. One that did is not asked: mail servers do not like to be
    /// greeted for nothing.
    ///
    /// # Errors
    /// See [`MailError`].
    pub async fn check(&self) -> Result<(), MailError> {
        match &self.way {
            Way::Smtp { transport, guard } if !guard.health().is_up() => {
                let greeted = async {
                    match transport.test_connection().await.map_err(told)? {
                        true => Ok(()),
                        false => Err(MailError::Unreachable("it greets, and says no more".to_owned())),
                    }
                };
                guard.look(GREETED_WITHIN, greeted).await
            }
            Way::Smtp { .. } | Way::Folder(_) => Ok(()),
        }
    }

    /// What it is: `folder` or `smtp`.
    pub fn name(&self) -> &'static str {
        match self.way {
            Way::Folder(_) => "folder",
            Way::Smtp { .. } => "smtp",
        }
    }

    /// How the server is; `None` where there is none.
    pub fn health(&self) -> Option<Health> {
        match &self.way {
            Way::Folder(_) => None,
            Way::Smtp { guard, .. } => Some(guard.health()),
        }
    }
}

fn smtp(url: &str) -> Result<Way, OpenError> {
    let url = Url::parse(url).map_err(|_| OpenError::Url("it is not a URL"))?;
    let host = url.host_str().ok_or(OpenError::Url("it names no host"))?.to_owned();
    let plain = url.query_pairs().any(|(key, value)| key == "tls" && value == "none");
    // The library knows no addresses behind this scheme, only names.
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let here = host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback());
    let required = url.query_pairs().any(|(key, value)| key == "tls" && value == "required");
    type Transport = AsyncSmtpTransport<Tokio1Executor>;
    let no_tls = |error: SmtpError| OpenError::Tls(error.to_string());
    let mut builder = match url.scheme() {
        "smtps" => Transport::relay(&host).map_err(no_tls)?,
        "smtp" if plain || (here && !required) => Transport::builder_dangerous(&host),
        "smtp" => Transport::starttls_relay(&host).map_err(no_tls)?,
        _ => return Err(OpenError::Url("it begins with neither smtp:// nor smtps://")),
    };
    if let Some(port) = url.port() {
        builder = builder.port(port);
    }
    if let Some(password) = url.password() {
        let clear = |text: &str| {
            let pairs = format!("x={}", text.replace('+', "%2B"));
            url::form_urlencoded::parse(pairs.as_bytes()).next().map(|(_, value)| value.into_owned())
        };
        let (user, password) = (clear(url.username()), clear(password));
        builder = builder.credentials(Credentials::new(user.unwrap_or_default(), password.unwrap_or_default()));
    }
    let transport = builder.timeout(Some(PATIENCE / 2)).build();
    // A letter is sent again by the job that it belongs to.
    let policy = Policy { time_out: None, attempts: 1, running: 8, ..Policy::default() };
    Ok(Way::Smtp { transport, guard: Arc::new(Guard::new("mail", policy)) })
}

/// As it is where SMTP carries that (RFC 5322: 998 letters of ASCII in a line), so that a link is one line wherever it is
/// looked at; else encoded.
fn body(text: &str) -> Body {
    let plain = text.is_ascii() && text.lines().all(|line| line.len() <= 998);
    match plain {
        true => {
            let lines = text.replace("\r\n", "\n").replace('\n', "\r\n");
            Body::dangerous_pre_encoded(lines.into_bytes(), ContentTransferEncoding::SevenBit)
        }
        false => Body::new(text.to_owned()),
    }
}

/// What a server said, but for its words: they may name the person.
fn told(error: SmtpError) -> MailError {
    match error.status() {
        Some(code) if error.is_permanent() => MailError::Refused(code.to_string()),
        Some(code) => MailError::Later(code.to_string()),
        None if error.is_tls() => MailError::Unreachable("the connection cannot be encrypted".to_owned()),
        None if error.is_timeout() => MailError::Unreachable("it did not answer in time".to_owned()),
        None if error.is_client() => {
            MailError::Unreachable("it does not offer what is needed (TLS, or signing in)".to_owned())
        }
        None => MailError::Unreachable(system(&error)),
    }
}

/// What the system says about a connection that failed.
fn system(error: &SmtpError) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.to_string();
        }
        source = error.source();
    }
    "the connection failed".to_owned()
}

/// Under its name only once it is whole.
async fn keep(folder: &Path, id: Uuid, bytes: &[u8]) -> std::io::Result<()> {
    let path = folder.join(format!("{}.eml", id.simple()));
    let beside = path.with_extension("new");
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(&beside).await?;
    file.write_all(bytes).await?;
    file.sync_all().await?;
    tokio::fs::rename(&beside, &path).await
}

fn private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.recursive(true).create(folder)
}
