//! At which tick each position was applied, for a bounded number of them.
//!
//! Invariant: the tick that is told of a position is not later than the one at which it was applied. An earlier one only
//! makes more of what was read at that position old; that is how room is made.

use std::collections::VecDeque;

use oriel_kernel::Position;

use crate::live::Tick;

/// How many are remembered.
const MOST: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ticks(VecDeque<(Position, Tick)>);

impl Ticks {
    /// Everything up to this position was applied at this tick. Positions and ticks only grow.
    pub fn note(&mut self, position: Position, tick: Tick) {
        self.note_of(MOST, position, tick);
    }

    fn note_of(&mut self, most: usize, position: Position, tick: Tick) {
        self.0.push_back((position, tick));
        if self.0.len() > most {
            // Every other one of the older half goes.
            let mut number = 0;
            self.0.retain(|_| {
                number += 1;
                number > most / 2 || number % 2 == 1
            });
        }
    }

    /// A tick from which on everything up to this position is known. `None`: it is older than what is remembered.
    pub fn at(&self, position: Position) -> Option<Tick> {
        let behind = self.0.partition_point(|(known, _)| *known <= position);
        self.0.get(behind.checked_sub(1)?).map(|(_, tick)| *tick)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::live::Tracker;

    proptest! {
        #[test]
        fn a_tick_is_never_later_than_its_position(
            batches in prop::collection::vec((1i64..5, 0usize..3), 1..400),
            most in 4usize..500,
        ) {
            let (tracker, mut ticks) = (Tracker::new(8), Ticks::default());
            let (mut applied, mut last) = (Vec::new(), 0);
            ticks.note_of(most, Position::new(0), tracker.tick());
            let started = tracker.tick();
            for (length, others) in &batches {
                // What has no position moves the tick as well.
                (0..*others).for_each(|_| _ = tracker.apply(&[]));
                let tick = tracker.apply(&[]);
                applied.extend((0..*length).map(|_| tick));
                last += length;
                ticks.note_of(most, Position::new(last), tick);
            }
            for (index, tick) in applied.iter().enumerate() {
                let position = index as i64 + 1;
                let at = ticks.at(Position::new(position)).unwrap();
                prop_assert!(at <= *tick, "{position}");
                // What is applied at once is known at once.
                let is_last = applied.get(index + 1) != Some(tick);
                let previous = index.checked_sub(1).map_or(started, |before| applied[before]);
                if batches.len() < most {
                    prop_assert_eq!(at, if is_last { *tick } else { previous.min(at) });
                }
            }
            prop_assert_eq!(ticks.at(Position::new(last)), Some(*applied.last().unwrap()));
            prop_assert!(ticks.0.len() <= most);
            prop_assert_eq!(Ticks::default().at(Position::new(1)), None);
        }
    }
}
