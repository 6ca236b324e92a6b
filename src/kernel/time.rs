//! Time as Oriel keeps it: UTC, microseconds. Nothing here reads a clock: `now` is always passed in.

/// A moment, in UTC. Kept to the microsecond, which is what both databases hold.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// Cuts a moment to what the databases hold, so that what was written equals what is read.
pub fn to_micros(moment: Timestamp) -> Timestamp {
    chrono::DateTime::from_timestamp_micros(moment.timestamp_micros()).unwrap_or(moment)
}

/// A moment as text, always with six digits, so that the order of texts is the order of moments.
pub fn text(moment: Timestamp) -> String {
    moment.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
