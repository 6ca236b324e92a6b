//! Several nodes over one log: each tells the others that it committed, and reads what they committed.
//!
//! The message says only "there is more"; what changed stands in the changes table. A lost message costs a second.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oriel_backends::bus::Bus;
use oriel_engine::Engine;
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "committed";
/// How often the changes table is read when nobody says anything: twice before what is kept may not be served.
const SAFETY_NET: Duration = Duration::from_millis(400);

/// Follows the other nodes, and tells them, until `stop`.
pub async fn follow(engine: Arc<Engine>, bus: Bus, stop: CancellationToken) {
    let mut messages = bus.subscribe(TOPIC);
    let mut head = engine.feed().watch();
    let mut net = tokio::time::interval(SAFETY_NET);
    net.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let others = tokio::select! {
            () = stop.cancelled() => return,
            // A message, or a gap in them: both mean that there may be more.
            message = messages.next() => message.is_some(),
            _ = net.tick() => true,
            changed = head.changed() => {
                if changed.is_err() {
                    return;
                }
                let position = head.borrow_and_update().to_string();
                if let Err(error) = bus.publish(TOPIC, Bytes::from(position)) {
                    tracing::debug!(%error, "the other nodes are not told; they look by themselves");
                }
                false
            }
        };
        if others && let Err(error) = engine.feed().catch_up().await {
            tracing::warn!(%error, "the changes of other nodes cannot be read at the moment");
        }
    }
}
