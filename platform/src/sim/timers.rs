//! The timers of a simulation: wakers by virtual time.
//!
//! A cancelled timer stays in the heap until its time or until half of the heap is dead; it neither wakes
//! anybody nor moves time. Invariant: a slot's `sequence` names the timer that holds it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;

/// The heap is cleaned of cancelled timers when it is larger than this and mostly dead.
const CLEAN_MIN: usize = 256;

#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    sequence: u64,
}

struct Slot {
    sequence: u64,
    waker: Option<Waker>,
}

/// Names one registered timer.
#[derive(Clone, Copy)]
pub(crate) struct TimerKey {
    slot: u32,
    sequence: u64,
}

impl Timers {
    /// Wakes `waker` when the time is `at` (nanoseconds).
    pub(crate) fn register(&mut self, at: u64, waker: Waker) -> TimerKey {
        self.sequence += 1;
        let sequence = self.sequence;
        let filled = Slot { sequence, waker: Some(waker) };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = filled;
                slot
            }
            None => {
                self.slots.push(filled);
                (self.slots.len() - 1) as u32
            }
        };
        self.heap.push(Reverse((at, sequence, slot)));
        TimerKey { slot, sequence }
    }

    /// Wakes `waker` instead; false if the timer has fired.
    pub(crate) fn update(&mut self, key: TimerKey, waker: &Waker) -> bool {
        match self.slots.get_mut(key.slot as usize) {
            Some(slot) if slot.sequence == key.sequence => {
                if let Some(old) = &mut slot.waker {
                    old.clone_from(waker);
                    return true;
                }
                false
            }
            _ => false,
        }
    }

    /// Forgets a timer; nothing if it has fired.
    pub(crate) fn cancel(&mut self, key: TimerKey) {
        let Some(slot) = self.slots.get_mut(key.slot as usize) else { return };
        if slot.sequence != key.sequence || slot.waker.is_none() {
            return;
        }
        slot.waker = None;
        slot.sequence = 0;
        self.free.push(key.slot);
        let dead = self.heap.len() - (self.slots.len() - self.free.len());
        if self.heap.len() > CLEAN_MIN && dead * 2 > self.heap.len() {
            let slots = &self.slots;
            self.heap.retain(|Reverse((_, sequence, slot))| slots[*slot as usize].sequence == *sequence);
        }
    }

    /// When the next timer fires.
    pub(crate) fn next_at(&mut self) -> Option<u64> {
        while let Some(Reverse((at, sequence, slot))) = self.heap.peek() {
            if self.slots[*slot as usize].sequence == *sequence {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the waker of the next timer if it is due at `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<Waker> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse((_, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let slot = &mut self.slots[slot as usize];
        slot.sequence = 0;
        slot.waker.take()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> Vec<Waker> {
        self.heap.clear();
        self.free.clear();
        self.slots.drain(..).filter_map(|slot| slot.waker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_cancelled_ones_never() {
        let mut timers = Timers::default();
        let keys: Vec<TimerKey> = (0..1000).map(|at| timers.register(at, Waker::noop().clone())).collect();
        for key in &keys[..990] {
            timers.cancel(*key);
        }
        assert!(timers.heap.len() < 600, "cancelled timers are cleaned away");
        assert_eq!(timers.next_at(), Some(990));
        assert!(timers.pop_due(989).is_none());
        assert!(timers.pop_due(990).is_some());
        timers.cancel(keys[990]);
        assert!(!timers.update(keys[990], Waker::noop()));
        assert!(timers.update(keys[991], Waker::noop()));
        let again = timers.register(5, Waker::noop().clone());
        assert_eq!(timers.next_at(), Some(5));
        timers.cancel(again);
        assert_eq!(timers.next_at(), Some(991));
    }
}
