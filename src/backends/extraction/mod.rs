//! Documents as text: what a file is (`sniff`), and its words, read in a child process with limits.
//!
//! Invariants: a parser never runs in the server's own process; whatever a file does to its parser, the caller gets
//! text or a reason that a person understands, within the wall time; the child gets no environment, no path, no
//! secret, only the bytes. This module must not know where a file is kept or what a document is to the product.
//!
//! The caller bounds how many children run at once.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod child;
mod docx;
mod html;
mod language;
mod markdown;
mod odt;
mod package;
mod parent;
mod pdf;
mod pdf_layout;
mod sink;
mod sniff;
mod text;

pub use child::child_main;
pub use parent::{Input, extract};
pub use sniff::{SNIFF_BYTES, Sniffed, contradicts, sniff};

/// What can be done to get text out of a kind of file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extractable {
    /// It is read by this parser.
    Yes(Extractor),
    /// It has no text by its nature (images, sound, video, fonts): complete without.
    NoText,
    /// It may hold text that cannot be read here; the reason is for a person.
    Unsupported {
        /// Why, and what would help.
        reason: String,
    },
}

/// The parsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extractor {
    /// Plain text, CSV, JSON, XML, source.
    Text,
    /// Markdown.
    Markdown,
    /// HTML and XHTML.
    Html,
    /// PDF.
    Pdf,
    /// Office Open XML text.
    Docx,
    /// OpenDocument text.
    Odt,
}

/// What can be done with this media type (as `sniff` names it; parameters are ignored).
pub fn extractable(media_type: &str) -> Extractable {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let unsupported = |reason: &str| Extractable::Unsupported { reason: reason.to_owned() };
    match essence.as_str() {
        "application/pdf" => Extractable::Yes(Extractor::Pdf),
        sniff::DOCX | sniff::DOTX | sniff::DOCM => Extractable::Yes(Extractor::Docx),
        sniff::ODT | sniff::OTT => Extractable::Yes(Extractor::Odt),
        "text/html" | "application/xhtml+xml" => Extractable::Yes(Extractor::Html),
        "text/markdown" => Extractable::Yes(Extractor::Markdown),
        sniff::OOXML_ENCRYPTED => unsupported("The document is protected with a password."),
        "application/rtf" | "text/rtf" => {
            unsupported("Text of RTF files is not read; save it as DOCX, ODT or PDF to find it by its words.")
        }
        other if sniff::is_text_like(other) => Extractable::Yes(Extractor::Text),
        other if ["image/", "audio/", "video/", "font/"].iter().any(|kind| other.starts_with(kind)) => {
            Extractable::NoText
        }
        "application/font-sfnt" | "application/font-woff" => Extractable::NoText,
        other => unsupported(&format!("Text is not read from {}.", sniff::describe(other))),
    }
}

/// What a document says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// Its words, in reading order; empty for a scan.
    pub text: String,
    /// The title that the file gives itself.
    pub title: Option<String>,
    /// The number of pages, where the format has pages.
    pub page_count: Option<u32>,
    /// ISO 639-1, when detected reliably.
    pub language: Option<String>,
    /// Whether the text was longer than the limit and is cut off there.
    pub truncated: bool,
}

/// Why there is no text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum ExtractFailure {
    /// The file has no bytes.
    Empty,
    /// A password is needed.
    Encrypted,
    /// The file is damaged; `detail` completes "The document cannot be read: ...".
    Broken {
        /// For a person.
        detail: String,
    },
    /// The file, or what it unpacks to, is larger than this.
    TooLarge {
        /// The limit that was met.
        limit_bytes: u64,
    },
    /// No end within the time.
    TimedOut {
        /// The limit that was met.
        seconds: u64,
    },
    /// No end within the memory.
    OutOfMemory {
        /// The limit that was met.
        limit_bytes: u64,
    },
    /// The parser crashed on it.
    Crashed,
    /// There is no parser for this media type.
    Unsupported {
        /// As asked for.
        media_type: String,
    },
    /// Nothing is known about the file: the child could not be started, or was ended from outside.
    Unavailable {
        /// For the log, never for a client.
        #[serde(skip)]
        detail: String,
    },
}

impl ExtractFailure {
    pub(crate) fn broken(detail: impl Into<String>) -> Self {
        Self::Broken { detail: detail.into() }
    }

    /// A sentence for a person.
    pub fn reason(&self) -> String {
        match self {
            Self::Empty => "The file is empty.".to_owned(),
            Self::Encrypted => {
                "The document is protected with a password. Remove the password and upload it again.".to_owned()
            }
            Self::Broken { detail } => format!("The document cannot be read: {detail}."),
            Self::TooLarge { limit_bytes } => {
                format!("The document is too large to be read: unpacked it exceeds {}.", megabytes(*limit_bytes))
            }
            Self::TimedOut { seconds } => {
                format!("Reading the document took longer than {seconds} s and was stopped.")
            }
            Self::OutOfMemory { limit_bytes } => {
                format!("Reading the document needed more than {} of memory and was stopped.", megabytes(*limit_bytes))
            }
            Self::Crashed => "The document made its reader fail; it may be damaged.".to_owned(),
            Self::Unsupported { media_type } => format!("Text is not read from {}.", sniff::describe(media_type)),
            Self::Unavailable { .. } => "The document could not be read just now; it will be tried again.".to_owned(),
        }
    }

    /// Whether another attempt may end differently. All else is a property of the file.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}

/// What one extraction may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From start to answer.
    pub wall: Duration,
    /// Processor time; whole seconds.
    pub cpu: Duration,
    /// Address space of the child.
    pub memory_bytes: u64,
    /// The file itself.
    pub input_bytes: u64,
    /// Text; what is beyond it is cut off and said so.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(30),
            cpu: Duration::from_secs(20),
            memory_bytes: 768 << 20,
            input_bytes: 128 << 20,
            output_bytes: 10 << 20,
        }
    }
}

/// The program that is started as the child: one whose `main` calls [`child_main`].
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, &'static str)>,
}

impl Program {
    /// This very program with its hidden `extract` subcommand.
    ///
    /// On Linux the running file itself, also after a new version has been put in its place.
    pub fn this() -> std::io::Result<Self> {
        let path = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
        Ok(Self::new(path, ["extract"]))
    }

    /// A program and the arguments that lead it to [`child_main`].
    pub fn new<A: Into<OsString>>(path: PathBuf, arguments: impl IntoIterator<Item = A>) -> Self {
        Self { path, arguments: arguments.into_iter().map(Into::into).collect(), environment: Vec::new() }
    }

    /// With this variable. It has no others: nothing of this process's environment is handed on.
    pub fn with_variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }
}

/// What a parser learns besides the text.
#[derive(Debug, Default)]
struct About {
    title: Option<String>,
    page_count: Option<u32>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fixtures;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
