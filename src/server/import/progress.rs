//! How far an import is: a bar on a terminal, now and then a line elsewhere.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const PACE: Duration = Duration::from_secs(5);

/// Counts files and bytes. Clones count together.
#[derive(Clone)]
pub struct Progress {
    shown: Shown,
    counts: Arc<Counts>,
}

#[derive(Clone)]
enum Shown {
    Bar(ProgressBar),
    Lines(Arc<Mutex<Instant>>),
    Nothing,
}

struct Counts {
    files: AtomicUsize,
    of_files: usize,
    bytes: AtomicU64,
    of_bytes: u64,
    started: Instant,
}

impl Progress {
    /// A bar when standard error is a terminal, else lines.
    pub fn for_terminal(files: usize, bytes: u64) -> Self {
        let shown = if io::stderr().is_terminal() {
            let bar = ProgressBar::new(bytes);
            let template = "{bar:30} {msg} files  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(format!("0/{files}"));
            bar.enable_steady_tick(Duration::from_millis(200));
            Shown::Bar(bar)
        } else {
            Shown::Lines(Arc::new(Mutex::new(Instant::now())))
        };
        Self::new(shown, files, bytes)
    }

    /// Counts and shows nothing.
    pub fn silent(files: usize, bytes: u64) -> Self {
        Self::new(Shown::Nothing, files, bytes)
    }

    fn new(shown: Shown, of_files: usize, of_bytes: u64) -> Self {
        let counts = Counts {
            files: AtomicUsize::new(0),
            of_files,
            bytes: AtomicU64::new(0),
            of_bytes,
            started: Instant::now(),
        };
        Self { shown, counts: Arc::new(counts) }
    }

    /// Bytes were sent, or need not be.
    pub fn forward(&self, bytes: u64) {
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        match &self.shown {
            Shown::Bar(bar) => bar.inc(bytes),
            Shown::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= PACE {
                    *last = Instant::now();
                    eprintln!("{}", self.line());
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Bytes have to be sent again.
    pub fn back(&self, bytes: u64) {
        self.counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Shown::Bar(bar) = &self.shown {
            bar.dec(bytes);
        }
    }

    /// One more file is through, one way or the other.
    pub fn file_done(&self) {
        let files = self.counts.files.fetch_add(1, Ordering::Relaxed) + 1;
        if let Shown::Bar(bar) = &self.shown {
            bar.set_message(format!("{files}/{}", self.counts.of_files));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    fn line(&self) -> String {
        let Counts { files, of_files, bytes, of_bytes, started } = &*self.counts;
        let bytes = bytes.load(Ordering::Relaxed);
        let rate = bytes as f64 / started.elapsed().as_secs_f64().max(0.001);
        let left = of_bytes.saturating_sub(bytes) as f64 / rate.max(1.0);
        format!(
            "{}/{of_files} files, {} of {}, {}/s, {left:.0} s left",
            files.load(Ordering::Relaxed),
            HumanBytes(bytes),
            HumanBytes(*of_bytes),
            HumanBytes(rate as u64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_is_counted_once() {
        let progress = Progress::silent(2, 3 << 20);
        progress.forward(1 << 20);
        progress.back(1 << 20);
        progress.clone().forward(2 << 20);
        progress.file_done();
        assert!(progress.line().starts_with("1/2 files, 2.00 MiB of 3.00 MiB, "), "{}", progress.line());
    }
}
