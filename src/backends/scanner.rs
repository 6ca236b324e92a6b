//! The virus scanner: a clamd, asked over TCP about one file at a time.
//!
//! Invariants: a file is clean only if clamd has said so in so many words, after its last byte; whatever else is heard,
//! cut off or not heard in time is an error. Bytes go through in pieces: memory does not grow with a file. A file that
//! is larger than the scanner takes is not sent. What clamd says about one file is an answer, also when it refuses it;
//! only a server that is away, stuck or speaks another language counts as an outage.
//!
//! The protocol (clamd(8), INSTREAM) is short enough to stand here: a command, then each piece behind its length, then
//! a length of nothing, and one line as an answer.

#[cfg(test)]
pub(crate) mod clamd;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use crate::resilience::{Fault, Guard, Health, Policy, Unanswered};

/// Where clamd listens, unless it is said.
const PORT: u16 = 3310;
/// The longest answer: a line with the name of a virus.
const MAX_ANSWER: u64 = 4 * 1024;
/// The largest piece that is sent at once.
const PIECE: usize = 256 * 1024;

/// How long clamd is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// To connect, and to answer what needs no work.
    pub greeting: Duration,
    /// To take a piece of a file.
    pub piece: Duration,
    /// To say what it thinks of a file, once it has it. clamd's own `MaxScanTime` is two minutes.
    pub verdict: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { greeting: Duration::from_secs(5), piece: Duration::from_secs(30), verdict: Duration::from_secs(150) }
    }
}

/// What was found in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Who says so: the program and its signatures, as it calls them.
    pub engine: String,
    /// What was found; `None`: nothing.
    pub signature: Option<String>,
}

/// Why there is no verdict.
#[derive(thiserror::Error, Debug)]
pub enum ScanError {
    /// The server is not there.
    #[error("the scanner cannot be reached")]
    Unreachable(#[source] io::Error),
    /// It is there and does nothing.
    #[error("the scanner did not go on for {} s", .0.as_secs_f64())]
    Stuck(Duration),
    /// What answers is no clamd, or was cut off.
    #[error("the scanner says what it should not: {0:?}")]
    Garbled(String),
    /// It was not asked.
    #[error("the scanner was not asked: {0}")]
    Unanswered(#[from] Unanswered),
    /// clamd cannot do this with this file.
    #[error("the scanner refuses the file: {0}")]
    Refused(String),
    /// The file is larger than the scanner takes.
    #[error("the file is larger than the scanner takes")]
    TooLarge,
    /// The file broke off before its end.
    #[error("the file cannot be read to its end")]
    Body(#[source] io::Error),
}

impl Fault for ScanError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Stuck(_) | Self::Garbled(_) | Self::Unanswered(_))
    }
}

/// The URL names no scanner.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error("scanner_url is not usable: write tcp://host:port of a clamd")]
pub struct InvalidScannerUrl;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Scanner(Arc<Clamd>);

struct Clamd {
    address: String,
    max_size: u64,
    times: Times,
    guard: Guard,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").field("max_size", &self.0.max_size).finish_non_exhaustive()
    }
}

impl Scanner {
    /// The clamd of this URL, also while it does not answer. It takes files of `max_size` bytes at most.
    ///
    /// # Errors
    /// For a URL of another form.
    pub fn open(url: &str, max_size: u64) -> Result<Self, InvalidScannerUrl> {
        Self::with(url, max_size, Times::default())
    }

    /// The same with other times.
    ///
    /// # Errors
    /// For a URL of another form.
    pub fn with(url: &str, max_size: u64, times: Times) -> Result<Self, InvalidScannerUrl> {
        let url = Url::parse(url).map_err(|_| InvalidScannerUrl)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidScannerUrl)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.username().is_empty();
        if url.scheme() != "tcp" || !bare {
            return Err(InvalidScannerUrl);
        }
        let address = format!("{host}:{}", url.port().unwrap_or(PORT));
        // Each step has a time of its own, because a large file takes long. Jobs repeat what failed.
        let policy = Policy { time_out: None, attempts: 1, running: 8, ..Policy::default() };
        let guard = Guard::new("scanner", policy);
        Ok(Self(Arc::new(Clamd { address, max_size, times, guard })))
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check(&self) -> Result<(), ScanError> {
        let clamd = &self.0;
        let ping = async {
            match clamd.ask("PING").await?.as_str() {
                "PONG" => Ok(()),
                other => Err(garbled(other)),
            }
        };
        // To connect, to say it, to hear the answer.
        clamd.guard.look(clamd.times.greeting * 3, ping).await
    }

    /// What it finds in a file of this size.
    ///
    /// # Errors
    /// See [`ScanError`]; none of them says anything about the file being clean.
    pub async fn scan(&self, size: u64, body: BoxStream<'static, io::Result<Bytes>>) -> Result<Verdict, ScanError> {
        let clamd = &self.0;
        if size > clamd.max_size {
            return Err(ScanError::TooLarge);
        }
        clamd
            .guard
            .once(async {
                let engine = clamd.ask("VERSION").await?;
                if !engine.starts_with("ClamAV ") {
                    return Err(garbled(&engine));
                }
                Ok(Verdict { engine, signature: clamd.stream(body).await? })
            })
            .await
    }

    /// How the server is.
    pub fn health(&self) -> Health {
        self.0.guard.health()
    }
}

impl Clamd {
    async fn connect(&self) -> Result<TcpStream, ScanError> {
        within(self.times.greeting, TcpStream::connect(&self.address)).await
    }

    /// What it answers to a command that needs no work.
    async fn ask(&self, command: &str) -> Result<String, ScanError> {
        let mut socket = self.connect().await?;
        within(self.times.greeting, socket.write_all(format!("z{command}\0").as_bytes())).await?;
        answer(&mut socket, self.times.greeting).await
    }

    /// Sends a file; what is found in it. An answer that comes before the end of the file can only be a refusal.
    async fn stream(&self, body: BoxStream<'static, io::Result<Bytes>>) -> Result<Option<String>, ScanError> {
        let mut socket = self.connect().await?;
        let (mut from, mut to) = socket.split();
        let early = {
            let mut heard = pin!(answer(&mut from, Duration::MAX));
            let sending = pin!(self.send(&mut to, body));
            tokio::select! {
                biased;
                heard = &mut heard => Some(heard),
                sent = sending => match sent {
                    Ok(()) => None,
                    // It has hung up: what it said before, if anything, is the reason.
                    Err(error @ ScanError::Unreachable(_)) => match tokio::time::timeout(self.times.greeting, heard).await {
                        Ok(Ok(heard)) => Some(Ok(heard)),
                        _ => return Err(error),
                    },
                    Err(error) => return Err(error),
                },
            }
        };
        match early {
            Some(heard) => match verdict(&heard?) {
                Err(refusal @ (ScanError::Refused(_) | ScanError::TooLarge)) => Err(refusal),
                Ok(_) => Err(garbled("an answer before the end of the file")),
                Err(error) => Err(error),
            },
            None => verdict(&answer(&mut from, self.times.verdict).await?),
        }
    }

    async fn send(
        &self,
        to: &mut (impl AsyncWrite + Unpin),
        mut body: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<(), ScanError> {
        within(self.times.piece, to.write_all(b"zINSTREAM\0")).await?;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(ScanError::Body)?;
            for piece in chunk.chunks(PIECE) {
                // At most `PIECE`, so it fits.
                within(self.times.piece, to.write_all(&(piece.len() as u32).to_be_bytes())).await?;
                within(self.times.piece, to.write_all(piece)).await?;
            }
        }
        within(self.times.piece, to.write_all(&0u32.to_be_bytes())).await
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> Result<T, ScanError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(ScanError::Unreachable),
        Err(_) => Err(ScanError::Stuck(limit)),
    }
}

/// One line, which ends with a zero: what has none was cut off.
async fn answer(from: &mut (impl AsyncRead + Unpin), limit: Duration) -> Result<String, ScanError> {
    let mut bytes = Vec::new();
    let mut from = from.take(MAX_ANSWER);
    loop {
        let mut piece = [0; 512];
        let length = within(limit, from.read(&mut piece)).await?;
        bytes.extend_from_slice(&piece[..length]);
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            return Ok(String::from_utf8_lossy(&bytes[..end]).into_owned());
        }
        if length == 0 && bytes.is_empty() {
            return Err(ScanError::Unreachable(io::ErrorKind::UnexpectedEof.into()));
        }
        if length == 0 {
            return Err(garbled(&String::from_utf8_lossy(&bytes)));
        }
    }
}

fn verdict(answer: &str) -> Result<Option<String>, ScanError> {
    if answer == "stream: OK" {
        return Ok(None);
    }
    if let Some(signature) = answer.strip_prefix("stream: ").and_then(|rest| rest.strip_suffix(" FOUND"))
        && !signature.is_empty()
    {
        return Ok(Some(signature.to_owned()));
    }
    match answer.strip_suffix("ERROR").map(|why| why.trim_start_matches("stream: ").trim()) {
        Some(why) if why.contains("size limit exceeded") => Err(ScanError::TooLarge),
        Some(why) => Err(ScanError::Refused(why.to_owned())),
        None => Err(garbled(answer)),
    }
}

/// A line of it, without what a terminal or a log should not be told.
fn garbled(answer: &str) -> ScanError {
    ScanError::Garbled(answer.chars().filter(|c| !c.is_control()).take(80).collect())
}
