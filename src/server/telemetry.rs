//! What operators see: one log record per line on standard error, and the numbers behind `/metrics`.
//!
//! Invariants: a record is one line in either format; no listener is opened here, the HTTP face asks [`Metrics`] for
//! the text. Every metric of the product is described in the table below, wherever it is counted.
//! Nothing here knows a request or a setting.

use std::fs;
use std::io::{self, IsTerminal};
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use oriel_kernel::trace::{self, TARGET};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{fmt::MakeWriter, prelude::*};

use crate::settings::LogFormat;
use crate::traces::{Recording, Unrecorded, is_recorded};

/// Reads a filter of log records: `info`, or `info,oriel_engine=debug`. What a request belongs to is known at any level;
/// the spans of SQL statements are for who records traces, not for the log.
pub fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(format!("{TARGET}=info,sea_orm=warn,{text}"))
}

/// Why the telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of log records is wrong.
    #[error("log_level is not a filter of log records: {0}")]
    Filter(#[from] ParseError),
    /// Logging was started before.
    #[error("logging was started twice: {0}")]
    Twice(#[from] TryInitError),
    /// The metrics were started before, or their table is wrong.
    #[error("the metrics cannot be started: {0}")]
    Metrics(#[from] BuildError),
    /// Another recorder is installed.
    #[error("the metrics were started twice")]
    MetricsTwice,
}

/// Starts logging to standard error, and turns a panic into a log record. With a recording, spans go there.
pub fn start_logging(format: LogFormat, level: &str, recording: Option<Recording>) -> Result<(), TelemetryError> {
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    subscriber(json, filter(level)?, io::stderr, recording.as_ref()).try_init()?;
    trace::install(match recording {
        Some(recording) => Box::new(recording),
        None => Box::new(Unrecorded),
    });
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: "panic", %place, message);
    }));
    Ok(())
}

fn subscriber<W>(
    json: bool,
    filter: EnvFilter,
    writer: W,
    recording: Option<&Recording>,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        lines.boxed()
    };
    match recording {
        // One filter for all: what is not logged is not even made.
        None => Box::new(tracing_subscriber::registry().with(lines).with(filter)),
        Some(recording) => {
            let spans = tracing_opentelemetry::layer().with_tracer(recording.tracer());
            let spans = spans.with_location(false).with_threads(false).with_tracked_inactivity(false);
            let spans = spans.with_target(false).with_level(false).with_filter(filter_fn(is_recorded));
            Box::new(tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans))
        }
    }
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How observations are spread.
    Histogram,
}

/// One metric, as it is described to who reads `/metrics`.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name; the last word is the unit.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: MetricKind,
    /// Its labels, all of few values: never an id.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels, help }
}

const fn level(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels, help }
}

const fn spread(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Histogram, labels, help }
}

/// Every metric of the product.
pub const METRICS: &[Metric] = &[
    // requests
    counter("oriel_http_requests_total", &["route", "status"], "HTTP requests answered."),
    spread("oriel_http_request_seconds", &["route"], "Time from the first byte of a request to its answer."),
    counter(
        "oriel_operations_total",
        &["kind", "outcome"],
        "GraphQL operations: query, mutation, subscription; ok, error.",
    ),
    counter(
        "oriel_security_events_total",
        &["kind"],
        "Security events raised: unusual_sign_in, account_guessing, password_spraying and others.",
    ),
    counter("oriel_access_log_lost_total", &[], "Readings of sensitive data that could not be written down."),
    spread("oriel_operation_seconds", &["kind"], "Time to execute a GraphQL operation."),
    counter("oriel_refusals_total", &["code"], "Requests refused before the work, by error code."),
    counter(
        "oriel_operations_unregistered_total",
        &["outcome"],
        "Operations that are not published, by what became of them: warned, refused.",
    ),
    counter(
        "oriel_persisted_operations_total",
        &["found"],
        "Operations asked for by their hash, by where it was found: published, remembered, nowhere.",
    ),
    counter("oriel_upload_bytes_total", &[], "Bytes of files received."),
    counter("oriel_scans_total", &["verdict"], "Files shown to the scanner for viruses: clean, infected, none."),
    // connections and sockets
    level("oriel_connections", &[], "Open TCP connections."),
    counter("oriel_connections_refused_total", &["limit"], "TCP connections refused because there were too many."),
    level("oriel_sockets", &["transport"], "Open sockets: websocket, sse."),
    // answers that are kept, and live queries
    counter(
        "oriel_cache_requests_total",
        &["outcome"],
        "Queries by where their answer came from: hit (kept), shared (kept by another node), coalesced, miss.",
    ),
    counter("oriel_cache_invalidated_total", &["by"], "Kept answers found to be old, by what had been touched."),
    level("oriel_cache_entries", &[], "Answers that are kept."),
    level("oriel_cache_bytes", &[], "About how much memory they take."),
    level("oriel_live_queries", &[], "Live queries that are open."),
    level("oriel_live_groups", &[], "Different live queries that are open: identical ones are executed together."),
    counter("oriel_live_executions_total", &[], "Executions of live queries."),
    counter("oriel_live_messages_total", &[], "Answers sent to live queries."),
    // the log
    level("oriel_position", &[], "The last position of the log that this node has applied."),
    level(
        "oriel_feed_is_current",
        &[],
        "1 while this node knows that it has applied the whole log; else it serves nothing from what is kept.",
    ),
    counter("oriel_events_total", &[], "Events appended by this node."),
    spread("oriel_commit_seconds", &[], "Time of one batch, the order lock included."),
    spread("oriel_commit_batch_commands", &[], "Commands in one batch."),
    level("oriel_commands_waiting", &[], "Commands that wait to be committed."),
    level("oriel_commands_waiting_seconds", &[], "How long the first of them has waited."),
    counter("oriel_commands_refused_total", &["reason"], "Commands refused before they were decided."),
    counter("oriel_command_conflicts_total", &[], "Commands decided again because of a version conflict."),
    counter("oriel_commands_poisoned_total", &[], "Commands that made a batch fail and were set apart."),
    // what follows the log
    level("oriel_consumer_lag_events", &["consumer"], "Events that a consumer has not yet applied."),
    level(
        "oriel_consumer_lag_seconds",
        &["consumer"],
        "How long ago the first event was decided that it has not applied.",
    ),
    counter("oriel_consumer_set_aside_total", &["consumer"], "Events that a consumer could not apply and set aside."),
    level("oriel_jobs", &["queue", "state"], "Jobs by queue and state."),
    level("oriel_jobs_oldest_seconds", &["queue"], "How long the oldest job has waited that is not yet begun."),
    counter("oriel_jobs_total", &["queue", "outcome"], "Jobs ended: done, retried, failed."),
    // the database
    level("oriel_database_connections", &["pool", "state"], "Connections to the database: used, idle."),
    level("oriel_database_connections_most", &["pool"], "How many connections to the database there may be."),
    // replicas of the database
    counter("oriel_reads_total", &["target"], "Queries that were executed, by where they read: primary, replica_1."),
    counter(
        "oriel_replica_misses_total",
        &["replica"],
        "Queries that were executed again, because what a replica showed did not hold any more.",
    ),
    level("oriel_replica_lag", &["replica"], "Positions that a replica lacks of the log, when it was asked last."),
    // the outside world
    counter(
        "oriel_backend_requests_total",
        &["backend", "outcome"],
        "Requests to a server outside: answered, outage, refused (the breaker is open), full (too many wait).",
    ),
    counter("oriel_backend_retries_total", &["backend"], "Requests to a server outside that were made again."),
    spread("oriel_backend_seconds", &["backend"], "Time of a request to a server outside."),
    level("oriel_backend_breaker", &["backend"], "The circuit breaker: 0 closed, 1 half open, 2 open."),
    counter("oriel_blobs_swept_total", &[], "Files removed because nothing refers to them."),
    counter("oriel_retention_removed_total", &["kind"], "What was removed because it had been kept for long enough."),
    counter("oriel_bus_unsent_total", &[], "Messages to other nodes that were not sent; they catch up from the log."),
    counter("oriel_bus_lagged_total", &[], "Messages of other nodes that were missed; they are read from the log."),
    // the process
    level("process_resident_memory_bytes", &[], "Memory of this process."),
    level("process_cpu_seconds_total", &[], "Processor time of this process."),
    level("process_open_fds", &[], "Open files and sockets of this process."),
];

/// The spread of times, from a cache hit to a slow upload.
const SECONDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// The spread of numbers of things.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// How often histograms are folded, so that nobody reading `/metrics` costs no memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// The numbers of this process, for `/metrics`.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder for the whole process. Give [`Metrics::upkeep`] a task.
    pub fn install() -> Result<Self, TelemetryError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::MetricsTwice)?;
        describe();
        Ok(Self { handle })
    }

    /// Numbers that nobody counts, beside those of the process.
    #[cfg(test)]
    pub fn apart() -> Result<Self, TelemetryError> {
        Ok(Self { handle: recorder()?.handle() })
    }

    /// The text of `/metrics`, in the format of Prometheus (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        observe_process();
        self.handle.render()
    }

    /// Folds histograms now and then, for as long as it is polled.
    pub async fn upkeep(self) {
        let mut beat = tokio::time::interval(UPKEEP);
        loop {
            beat.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    Ok(PrometheusBuilder::new().set_buckets(COUNTS)?.set_buckets_for_metric(seconds, SECONDS)?.build_recorder())
}

fn describe() {
    for Metric { name, kind, labels: _, help } in METRICS.iter().copied() {
        match kind {
            MetricKind::Counter => describe_counter!(name, unit(name), help),
            MetricKind::Gauge => describe_gauge!(name, unit(name), help),
            MetricKind::Histogram => describe_histogram!(name, unit(name), help),
        }
    }
}

fn unit(name: &str) -> Unit {
    if name.contains("_seconds") {
        Unit::Seconds
    } else if name.contains("_bytes") {
        Unit::Bytes
    } else {
        Unit::Count
    }
}

/// Memory, processor time and open files, as Linux tells them; elsewhere nothing.
fn observe_process() {
    /// Ticks of a processor per second in `/proc`, the same on every Linux.
    const TICKS: f64 = 100.0;

    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    if let Some(kilobytes) = resident.and_then(|number| number.parse::<f64>().ok()) {
        gauge!("process_resident_memory_bytes").set(kilobytes * 1024.0);
    }
    // The program's name, in brackets, may hold blanks; after it, user and system time are words 12 and 13.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let words = stat.rsplit_once(") ").map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    let ticks: Vec<f64> = words.skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
    if let [user, system] = ticks[..] {
        gauge!("process_cpu_seconds_total").set((user + system) / TICKS);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(files.count() as f64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, level: &str, work: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(json, filter(level).unwrap(), move || writer.clone(), None);
        tracing::subscriber::with_default(subscriber, work);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_record_is_one_line_of_json_with_its_fields_at_the_top() {
        let text = logged(true, "info", || {
            let _span = tracing::info_span!("request", trace_id = "t1").entered();
            tracing::info!(position = 7, name = "two\nlines", "committed");
            tracing::debug!("unseen");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["message"], "committed");
        assert_eq!(record["position"], 7);
        assert_eq!(record["name"], "two\nlines");
        assert_eq!(record["span"]["trace_id"], "t1");
    }

    #[test]
    fn a_record_is_one_line_of_text() {
        let text = logged(false, "warn,elsewhere=off", || {
            tracing::warn!(name = "two\nlines", "degraded");
            tracing::info!("unseen");
        });
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(text.contains("degraded"), "{text}");
    }

    #[test]
    fn a_wrong_filter_is_refused() {
        assert!(filter("info,oriel_engine=debug").is_ok());
        assert!(filter("loud=very").is_err());
    }

    #[test]
    fn metrics_are_named_by_the_rules() {
        for metric in METRICS {
            let named = metric.name.starts_with("oriel_") || metric.name.starts_with("process_");
            assert!(named && metric.help.ends_with('.'), "{}", metric.name);
            assert!(metric.kind != MetricKind::Counter || metric.name.ends_with("_total"), "{}", metric.name);
            assert_eq!(METRICS.iter().filter(|other| other.name == metric.name).count(), 1, "{}", metric.name);
        }
    }

    #[test]
    fn what_is_counted_anywhere_is_described_here() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut counted = Vec::new();
        for room in ["src", "read_models", "schema"] {
            let files = walkdir::WalkDir::new(root.join(room)).into_iter().filter_map(Result::ok);
            for file in files.filter(|file| file.path().extension().is_some_and(|ending| ending == "rs")) {
                let text = fs::read_to_string(file.path()).unwrap();
                for (kind, word) in [
                    (MetricKind::Counter, "counter"),
                    (MetricKind::Gauge, "gauge"),
                    (MetricKind::Histogram, "histogram"),
                ] {
                    let call = format!("{word}!(");
                    let names = text.split(&call).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
                    counted.extend(names.filter_map(|rest| Some((kind, rest.split_once('"')?.0.to_owned()))));
                }
            }
        }
        assert!(counted.contains(&(MetricKind::Counter, "oriel_events_total".to_owned())), "{counted:?}");
        let described = |kind, name: &str| METRICS.iter().any(|metric| metric.name == name && metric.kind == kind);
        counted.retain(|(kind, name)| !described(*kind, name));
        assert!(counted.is_empty(), "counted somewhere and not described in telemetry.rs: {counted:?}");
    }

    #[test]
    fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/observability");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut asked = std::collections::BTreeSet::new();
        for file in ["alerts.yml", "alerts.test.yml", "grafana.json"] {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            let names = text.split(|c: char| !is_name(c)).filter(|word| {
                let ours = word.starts_with("oriel_") || word.starts_with("process_");
                ours && word.len() > "process_".len()
            });
            asked.extend(names.map(str::to_owned));
        }
        assert!(asked.contains("oriel_commit_seconds_bucket"), "{asked:?}");
        for name in &asked {
            let spread = name.strip_suffix("_bucket").or(name.strip_suffix("_sum")).or(name.strip_suffix("_count"));
            let found = METRICS.iter().any(|metric| match metric.kind {
                MetricKind::Histogram => Some(metric.name) == spread,
                _ => metric.name == name,
            });
            assert!(found, "{name} is asked for and not measured");
        }
        for metric in METRICS {
            let found = asked.iter().any(|name| name.starts_with(metric.name));
            assert!(found, "{} is measured, and neither the dashboard nor an alert shows it", metric.name);
        }
    }

    #[test]
    fn numbers_are_rendered_with_their_description_and_buckets() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        let text = metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::counter!("oriel_events_total").increment(3);
            metrics::histogram!("oriel_commit_seconds").record(0.002);
            metrics::histogram!("oriel_commit_batch_commands").record(3.0);
            Metrics { handle }.render()
        });
        for line in [
            "# HELP oriel_events_total Events appended by this node.",
            "oriel_events_total 3",
            "oriel_commit_seconds_bucket{le=\"0.0025\"} 1",
            "oriel_commit_batch_commands_bucket{le=\"4\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let memory = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        assert!(memory.unwrap().parse::<f64>().unwrap() > 1_000_000.0);
    }
}
