//! The numbers that nobody counts as they change: read when somebody asks for all of them.

use metrics::gauge;

use super::HttpState;

impl HttpState {
    /// Notes how things are at this moment. Nothing is asked of the database.
    pub fn observe(&self) {
        let services = self.endpoint.services();
        let engine = &services.engine;
        gauge!("oriel_feed_is_current").set(if engine.feed().is_current() { 1.0 } else { 0.0 });
        gauge!("oriel_commands_waiting").set(engine.queued_commands() as f64);
        gauge!("oriel_commands_waiting_seconds").set(engine.queued_for().as_secs_f64());
        for pool in engine.database().pools() {
            let used = pool.open.saturating_sub(pool.idle);
            gauge!("oriel_database_connections", "pool" => pool.name, "state" => "used").set(used as f64);
            gauge!("oriel_database_connections", "pool" => pool.name, "state" => "idle").set(pool.idle as f64);
            gauge!("oriel_database_connections_most", "pool" => pool.name).set(pool.most as f64);
        }
        for consumer in services.operations.consumers() {
            gauge!("oriel_consumer_lag_seconds", "consumer" => consumer.name).set(consumer.lag.as_secs_f64());
        }
        for queue in services.operations.queues() {
            let oldest = queue.oldest.unwrap_or_default().as_secs_f64();
            gauge!("oriel_jobs_oldest_seconds", "queue" => queue.name).set(oldest);
        }
        let cache = self.endpoint.cache_report();
        gauge!("oriel_cache_entries").set(cache.entries as f64);
        gauge!("oriel_cache_bytes").set(cache.bytes as f64);
    }
}
