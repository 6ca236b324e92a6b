//! The server's side of an extraction: starts the child, feeds it, bounds it, and turns its end into an answer.

use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::child::{ANSWER_MARK, Answer, arguments};
use super::{ExtractFailure, Extracted, Limits, Program};

/// Of what the child says on stderr, this much is read.
const LOG_BYTES: u64 = 4096;
/// JSON doubles a quote or a line feed at worst; the rest is the frame and what a library may print.
const FRAME_BYTES: u64 = 64 << 10;

/// Where the bytes of the document come from.
pub enum Input {
    /// An open file, handed to the child as it is.
    File(std::fs::File),
    /// A stream (a blob on its way from a store), copied to the child.
    Stream(Pin<Box<dyn AsyncRead + Send>>),
}

/// Reads the text of a document in a child process. Dropping the future ends the child.
pub async fn extract(
    program: &Program,
    input: Input,
    media_type: &str,
    limits: &Limits,
) -> Result<Extracted, ExtractFailure> {
    let (stdin, stream) = match input {
        Input::File(file) => (Stdio::from(file), None),
        Input::Stream(stream) => (Stdio::piped(), Some(stream)),
    };
    let mut child = Command::new(&program.path)
        .args(&program.arguments)
        .args(arguments(media_type, limits))
        .env_clear()
        .envs(program.environment.iter().copied())
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in a terminal is meant for the server, which decides what becomes of its children.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unavailable(format!("the reader of documents could not be started: {error}")))?;

    let ended = tokio::time::timeout(limits.wall, converse(&mut child, stream, limits)).await;
    let end = match ended {
        Ok(end) => end?,
        Err(_) => {
            stop(&mut child).await;
            return Err(ExtractFailure::TimedOut { seconds: limits.wall.as_secs().max(1) });
        }
    };
    let outcome = judge(&end, limits);
    if let Err(failure) = &outcome {
        let log = String::from_utf8_lossy(&end.log);
        tracing::debug!(media_type, status = %end.status, ?failure, stderr = log.trim(), "no text from a document");
    }
    outcome
}

struct End {
    status: ExitStatus,
    answer: Vec<u8>,
    log: Vec<u8>,
}

async fn converse(
    child: &mut Child,
    stream: Option<Pin<Box<dyn AsyncRead + Send>>>,
    limits: &Limits,
) -> Result<End, ExtractFailure> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        let (Some(mut stream), Some(mut stdin)) = (stream, stdin) else { return Ok(()) };
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = stream
                .read(&mut buffer)
                .await
                .map_err(|error| unavailable(format!("the document's bytes could not be fetched: {error}")))?;
            // A child that has ended, or seen enough, closes its end: its answer counts, not this.
            if read == 0 || stdin.write_all(&buffer[..read]).await.is_err() {
                return Ok(());
            }
        }
    };
    let bound = 2 * limits.output_bytes + FRAME_BYTES;
    let (answer, log, fed) = tokio::join!(bounded(stdout, bound), bounded(stderr, LOG_BYTES), async {
        let fed: Result<(), ExtractFailure> = feed.await;
        fed
    });
    if let Err(failure) = fed {
        // The child saw a document cut short; what it says about it is not true.
        stop(child).await;
        return Err(failure);
    }
    let status = child.wait().await.map_err(|error| unavailable(format!("waiting for the reader: {error}")))?;
    Ok(End { status, answer, log })
}

/// Reads to the end and keeps the first `limit` bytes; closing early would end the child by a broken pipe.
async fn bounded(source: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut source) = source {
        let mut head = (&mut source).take(limit);
        if head.read_to_end(&mut kept).await.is_ok() {
            let _ = tokio::io::copy(&mut source, &mut tokio::io::sink()).await;
        }
    }
    kept
}

async fn stop(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "the reader of a document could not be stopped");
    }
}

fn judge(end: &End, limits: &Limits) -> Result<Extracted, ExtractFailure> {
    if let Some(signal) = end.status.signal() {
        return Err(ended_by(signal, &end.log, limits));
    }
    match answer_in(&end.answer) {
        Some(Answer::Text(extracted)) if end.status.success() => Ok(extracted),
        Some(Answer::Failure(failure)) => Err(failure),
        _ => Err(ExtractFailure::Crashed),
    }
}

/// The last line with the mark: a library may print before it.
fn answer_in(output: &[u8]) -> Option<Answer> {
    let line = output.rsplit(|b| *b == b'\n').find_map(|line| line.strip_prefix(ANSWER_MARK.as_bytes()))?;
    serde_json::from_slice(line).ok()
}

fn ended_by(signal: i32, log: &[u8], limits: &Limits) -> ExtractFailure {
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGTERM: i32 = 15;
    const SIGXCPU: i32 = 24;
    let log = String::from_utf8_lossy(log);
    match signal {
        SIGXCPU => ExtractFailure::TimedOut { seconds: limits.cpu.as_secs().max(1) },
        // The allocator of the standard library ends the process so, and says so.
        SIGABRT if log.contains("memory allocation of") => {
            ExtractFailure::OutOfMemory { limit_bytes: limits.memory_bytes }
        }
        SIGABRT if log.contains("has overflowed its stack") => ExtractFailure::broken("it is nested too deeply"),
        // Not from here: the system was short of memory, or an operator ended it. That is not the file's property.
        SIGKILL | SIGTERM => unavailable(format!("the reader of documents was ended by signal {signal}")),
        _ => ExtractFailure::Crashed,
    }
}

fn unavailable(detail: String) -> ExtractFailure {
    tracing::warn!(detail, "a document could not be read now");
    ExtractFailure::Unavailable { detail }
}
