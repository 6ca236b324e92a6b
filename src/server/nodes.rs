//! Several nodes over one log: each tells the others that it committed, and reads what they committed.
//!
//! The message says only "there is more"; what changed stands in the changes table. A lost message costs a second.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oriel_backends::bus::{Bus, Notice};
use oriel_engine::Engine;
use oriel_kernel::Position;
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
            // A message, or a gap in them: both mean that there may be more, unless it is our own.
            message = messages.next() => message.is_some_and(|notice| !is_known(&notice, engine.feed().head())),
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

/// Whether this says only what is applied here already, as each node's own messages do.
fn is_known(notice: &Notice, head: Position) -> bool {
    let Notice::Message(text) = notice else { return false };
    let position = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Position>().ok());
    position.is_some_and(|position| position <= head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_applied_already_is_not_looked_for() {
        let head = Position::new(7);
        let says = |text: &'static str| is_known(&Notice::Message(Bytes::from_static(text.as_bytes())), head);
        assert!(says("7") && says("3"));
        assert!(!says("8") && !says("") && !says("something else"));
        assert!(!is_known(&Notice::Gap, head));
    }
}
