//! What waits for the committer: bounded by count and bytes, fair between organisations.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// The bounds of the queue and of one batch.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Commands that may wait.
    pub count: usize,
    /// Bytes of events that may wait.
    pub bytes: usize,
    /// How long one may wait before it is refused.
    pub age: Duration,
    /// Commands in one batch.
    pub batch_count: usize,
    /// Bytes of events in one batch.
    pub batch_bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { count: 10_000, bytes: 64 << 20, age: Duration::from_secs(5), batch_count: 512, batch_bytes: 4 << 20 }
    }
}

/// Something that waits.
pub(crate) trait Waiting {
    /// Whose turn it uses.
    fn organization(&self) -> Uuid;
    /// What it weighs.
    fn bytes(&self) -> usize;
    /// The aggregates that it appends to: each stands in a batch once.
    fn subjects(&self) -> impl Iterator<Item = Uuid>;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    limits: QueueLimits,
    turns: VecDeque<Uuid>,
    waiting: HashMap<Uuid, VecDeque<(Instant, T)>>,
    count: usize,
    bytes: usize,
}

impl<T: Waiting> Queue<T> {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { limits, turns: VecDeque::new(), waiting: HashMap::new(), count: 0, bytes: 0 }
    }

    /// Whether something of this weight would be taken.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.count < self.limits.count && (self.bytes + bytes <= self.limits.bytes || self.count == 0)
    }

    /// Takes it, or gives it back when there is no room.
    pub(crate) fn push(&mut self, item: T, now: Instant) -> Result<(), T> {
        if !self.has_room(item.bytes()) {
            return Err(item);
        }
        self.count += 1;
        self.bytes += item.bytes();
        let organization = item.organization();
        let line = self.waiting.entry(organization).or_default();
        if line.is_empty() {
            self.turns.push_back(organization);
        }
        line.push_back((now, item));
        Ok(())
    }

    /// The next batch, one of each organisation in turn; and what has waited too long.
    pub(crate) fn batch(&mut self, now: Instant) -> (Vec<T>, Vec<T>) {
        let (mut batch, mut late, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut subjects: HashSet<Uuid> = HashSet::new();
        let mut held: Vec<Uuid> = Vec::new();
        while batch.len() < self.limits.batch_count {
            let Some(organization) = self.turns.pop_front() else { break };
            let Some(line) = self.waiting.get_mut(&organization) else { continue };
            let Some((since, item)) = line.front() else { continue };
            let too_late = now.duration_since(*since) > self.limits.age;
            let fits = batch.is_empty() || bytes + item.bytes() <= self.limits.batch_bytes;
            if !too_late && (!fits || item.subjects().any(|subject| subjects.contains(&subject))) {
                held.push(organization); // waits for the next batch, and keeps the order of its organisation
                continue;
            }
            if let Some((_, item)) = line.pop_front() {
                self.count -= 1;
                self.bytes -= item.bytes();
                if too_late {
                    late.push(item);
                } else {
                    bytes += item.bytes();
                    subjects.extend(item.subjects());
                    batch.push(item);
                }
            }
            if line.is_empty() {
                self.waiting.remove(&organization);
            } else {
                self.turns.push_back(organization);
            }
        }
        for organization in held.into_iter().rev() {
            self.turns.push_front(organization);
        }
        (batch, late)
    }

    /// How many wait.
    /// Since when the first of all waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|items| items.front()).map(|(since, _)| *since).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Item {
        organization: u128,
        subject: u128,
        bytes: usize,
    }

    impl Waiting for Item {
        fn organization(&self) -> Uuid {
            Uuid::from_u128(self.organization)
        }
        fn bytes(&self) -> usize {
            self.bytes
        }
        fn subjects(&self) -> impl Iterator<Item = Uuid> {
            std::iter::once(Uuid::from_u128(self.subject))
        }
    }

    fn limits() -> QueueLimits {
        QueueLimits { count: 20, bytes: 1000, age: Duration::from_secs(5), batch_count: 4, batch_bytes: 100 }
    }

    proptest! {
        /// Everything taken comes out once, in the order of its organisation, within the bounds of a batch.
        #[test]
        fn nothing_is_lost_and_nothing_overtakes(items in prop::collection::vec((0u128..4, 0u128..6, 1usize..60), 0..40)) {
            let now = Instant::now();
            let mut queue = Queue::new(limits());
            let mut taken = Vec::new();
            for (organization, subject, bytes) in items {
                let item = Item { organization, subject, bytes };
                let room = queue.has_room(bytes);
                prop_assert_eq!(queue.push(item.clone(), now).is_ok(), room);
                if room {
                    taken.push(item);
                }
                prop_assert!(queue.count <= 20);
            }
            let mut out = Vec::new();
            while queue.len() > 0 {
                let (batch, late) = queue.batch(now);
                prop_assert!(late.is_empty());
                prop_assert!(!batch.is_empty() && batch.len() <= 4);
                prop_assert!(batch.len() == 1 || batch.iter().map(|i| i.bytes).sum::<usize>() <= 100);
                let subjects: HashSet<u128> = batch.iter().map(|i| i.subject).collect();
                prop_assert_eq!(subjects.len(), batch.len());
                out.extend(batch);
            }
            prop_assert_eq!(queue.bytes, 0);
            for organization in 0..4 {
                let of = |all: &[Item]| all.iter().filter(|i| i.organization == organization).cloned().collect::<Vec<_>>();
                prop_assert_eq!(of(&taken), of(&out));
            }
        }
    }

    #[test]
    fn one_organisation_does_not_starve_another() {
        let now = Instant::now();
        let mut queue = Queue::new(limits());
        for subject in 0..10 {
            queue.push(Item { organization: 1, subject, bytes: 1 }, now).unwrap();
        }
        queue.push(Item { organization: 2, subject: 99, bytes: 1 }, now).unwrap();
        assert!(queue.batch(now).0.iter().any(|item| item.organization == 2));
    }

    #[test]
    fn what_waited_too_long_is_refused() {
        let now = Instant::now();
        let mut queue = Queue::new(limits());
        assert_eq!(queue.oldest(), None);
        queue.push(Item { organization: 1, subject: 1, bytes: 1 }, now).unwrap();
        queue.push(Item { organization: 2, subject: 2, bytes: 1 }, now + Duration::from_secs(2)).unwrap();
        assert_eq!(queue.oldest(), Some(now));
        let (batch, late) = queue.batch(now + Duration::from_secs(6));
        assert_eq!((batch.len(), late.len(), queue.oldest()), (1, 1, None));
    }
}
