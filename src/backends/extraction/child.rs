//! The child's side of an extraction: takes its limits, reads stdin, parses, prints one answer.
//!
//! Invariants: limits are set before the first byte of the document is read; after that the process can open no
//! file and no socket, write to no file and (unless it runs as root) start no process. A panic of a parser becomes
//! an answer.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use rlimit::Resource;
use serde::{Deserialize, Serialize};

use super::sink::TextSink;
use super::{
    About, ExtractFailure, Extractable, Extracted, Extractor, Limits, docx, extractable, html, language, markdown, odt,
    pdf, text,
};

/// Begins the line that is the answer.
pub(super) const ANSWER_MARK: &str = "\u{1e}oriel-extracted ";
/// A title is a line, not a document.
const TITLE_CHARS: usize = 500;

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It went well.
    Text(Extracted),
    /// It did not.
    Failure(ExtractFailure),
}

/// The arguments that [`child_main`] understands.
pub(super) fn arguments(media_type: &str, limits: &Limits) -> Vec<OsString> {
    [
        ("--type", media_type.to_owned()),
        ("--memory", limits.memory_bytes.to_string()),
        ("--cpu", limits.cpu.as_secs().max(1).to_string()),
        ("--input", limits.input_bytes.to_string()),
        ("--output", limits.output_bytes.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [OsString::from(name), OsString::from(value)])
    .collect()
}

/// The whole of the hidden `extract` subcommand: `arguments` are those after its name, the document is stdin.
///
/// To be called before any runtime, thread or configuration exists.
pub fn child_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some((media_type, limits)) = parse(arguments) else {
        eprintln!("usage: extract --type MEDIA_TYPE --memory BYTES --cpu SECONDS --input BYTES --output BYTES < FILE");
        return ExitCode::from(2);
    };
    if let Err(error) = confine(&limits) {
        eprintln!("limits could not be set: {error}");
        return ExitCode::from(3);
    }
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let outcome = catch_unwind(AssertUnwindSafe(|| read(&media_type, &limits)))
        .unwrap_or_else(|_| Err(ExtractFailure::broken("its content contradicts its format")));
    let answer = match outcome {
        Ok(extracted) => Answer::Text(extracted),
        Err(failure) => Answer::Failure(failure),
    };
    match print(&answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("no answer: {error}");
            ExitCode::from(4)
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<(String, Limits)> {
    let mut media_type = None;
    let mut limits = Limits::default();
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let value = arguments.next()?.into_string().ok()?;
        let number = || value.parse::<u64>().ok();
        match name.to_str()? {
            "--type" => media_type = Some(value),
            "--memory" => limits.memory_bytes = number()?,
            "--cpu" => limits.cpu = std::time::Duration::from_secs(number()?),
            "--input" => limits.input_bytes = number()?,
            "--output" => limits.output_bytes = number()?,
            _ => return None,
        }
    }
    Some((media_type?, limits))
}

fn confine(limits: &Limits) -> std::io::Result<()> {
    let cpu = limits.cpu.as_secs().max(1);
    // The soft limit ends it with its own signal; the hard one is for a parser that would ignore that.
    lower(Resource::CPU, cpu, cpu + 1)?;
    lower(Resource::AS, limits.memory_bytes, limits.memory_bytes)?;
    lower(Resource::CORE, 0, 0)?;
    lower(Resource::FSIZE, 0, 0)?;
    // stdin, stdout and stderr are open; nothing else can be.
    lower(Resource::NOFILE, 3, 3)?;
    #[cfg(target_os = "linux")]
    lower(Resource::NPROC, 0, 0)?;
    Ok(())
}

/// Sets a limit, unless a lower one holds already.
fn lower(resource: Resource, soft: u64, hard: u64) -> std::io::Result<()> {
    let (_, held) = resource.get()?;
    resource.set(soft.min(held), hard.min(held))
}

fn read(media_type: &str, limits: &Limits) -> Result<Extracted, ExtractFailure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(limits.input_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ExtractFailure::Unavailable { detail: error.to_string() })?;
    if bytes.len() as u64 > limits.input_bytes {
        return Err(ExtractFailure::TooLarge { limit_bytes: limits.input_bytes });
    }
    #[cfg(test)]
    super::tests::misbehave(media_type);
    parse_document(bytes, media_type, limits.output_bytes)
}

/// The parsers behind one door; never called in the server's own process.
pub(super) fn parse_document(bytes: Vec<u8>, media_type: &str, output_bytes: u64) -> Result<Extracted, ExtractFailure> {
    if bytes.is_empty() {
        return Err(ExtractFailure::Empty);
    }
    let Extractable::Yes(extractor) = extractable(media_type) else {
        return Err(ExtractFailure::Unsupported { media_type: media_type.to_owned() });
    };
    let mut sink = TextSink::new(usize::try_from(output_bytes).unwrap_or(usize::MAX));
    let About { title, page_count } = match extractor {
        Extractor::Text => text::extract(&bytes, &mut sink),
        Extractor::Markdown => markdown::extract(&bytes, &mut sink),
        Extractor::Html => html::extract(&bytes, &mut sink),
        Extractor::Pdf => pdf::extract(bytes, &mut sink),
        Extractor::Docx => docx::extract(&bytes, &mut sink),
        Extractor::Odt => odt::extract(&bytes, &mut sink),
    }?;
    let (text, truncated) = sink.finish();
    let language = language::detect(&text).map(str::to_owned);
    Ok(Extracted { title: title.as_deref().and_then(tidy_title), page_count, language, truncated, text })
}

fn tidy_title(title: &str) -> Option<String> {
    let mut sink = TextSink::new(4 * TITLE_CHARS);
    sink.words(title);
    let (title, _) = sink.finish();
    (!title.is_empty()).then(|| title.chars().take(TITLE_CHARS).collect())
}

fn print(answer: &Answer) -> std::io::Result<()> {
    let json = serde_json::to_vec(answer)?;
    let mut out = std::io::stdout().lock();
    for part in [b"\n", ANSWER_MARK.as_bytes(), &json, b"\n"] {
        out.write_all(part)?;
    }
    out.flush()
}
