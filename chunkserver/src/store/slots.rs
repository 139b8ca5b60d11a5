//! Which slots of the data file are free. Pure.
//!
//! A freed slot may be taken again only after a checkpoint that no longer names its old shard is
//! durable: recovery relies on it.

use std::collections::BTreeSet;

/// The allocator.
#[derive(Debug, Default)]
pub struct Slots {
    free: BTreeSet<u64>,
    /// Free, but their space was given back to the file system: taken after the others, like new ones.
    bare: BTreeSet<u64>,
    /// Freed since the last durable checkpoint.
    resting: Vec<u64>,
    /// Slots in the file so far; the next new one has this number.
    count: u64,
    /// Slots below this have been written once (fast to flush).
    prewritten: u64,
    next_sequence: u64,
}

impl Slots {
    /// After recovery: `count` slots, those in `used` taken.
    pub fn recovered(count: u64, used: &BTreeSet<u64>, next_sequence: u64) -> Slots {
        // A power cut may have taken the file's growth back while a checkpoint already names slots
        // there: they must not be given out a second time.
        let count = count.max(used.last().map_or(0, |last| last + 1));
        let free = (0..count).filter(|slot| !used.contains(slot)).collect();
        Slots { free, count, prewritten: count, next_sequence, ..Slots::default() }
    }

    /// Takes a slot: a recycled or prewritten one, else a new one if `count_max` allows.
    /// Answers (slot, sequence).
    pub fn take(&mut self, count_max: u64) -> Option<(u64, u64)> {
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None => self.grow(count_max)?,
        };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Some((slot, sequence))
    }

    /// Takes back slots that were taken and never written.
    pub fn untake(&mut self, slots: impl IntoIterator<Item = u64>) {
        self.free.extend(slots);
    }

    /// Gives slots back; they rest until [`Slots::checkpointed`].
    pub fn give_back(&mut self, slots: impl IntoIterator<Item = u64>) {
        self.resting.extend(slots);
    }

    /// How many slots rest now; pass it to [`Slots::checkpointed`] when the checkpoint taken at
    /// this moment is durable.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// The checkpoint taken when `resting` slots rested is durable: they are free.
    pub fn checkpointed(&mut self, resting: usize) {
        self.free.extend(self.resting.drain(..resting));
    }

    /// The sequence the next taken slot will have.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Slots that could be taken at once without taking space from the file system.
    pub fn free_count(&self) -> u64 {
        self.free.len() as u64
    }

    /// Slots that take space of the file system.
    pub fn count(&self) -> u64 {
        self.count - self.bare.len() as u64
    }

    /// Free slots at the end of the file, at most `most`, whose space is to be given back. Nobody can take
    /// them until [`Slots::add_bare`].
    pub fn take_last(&mut self, most: usize) -> Vec<u64> {
        let last: Vec<u64> = self.free.iter().rev().take(most).copied().collect();
        last.iter().for_each(|slot| _ = self.free.remove(slot));
        last
    }

    /// The space of a slot from [`Slots::take_last`] was given back.
    pub fn add_bare(&mut self, slot: u64) {
        self.bare.insert(slot);
    }

    /// A slot that takes no space yet, a new one at the end of the file if there is none within, to be written ahead by the caller and then added with
    /// [`Slots::add_prewritten`].
    pub fn grow(&mut self, count_max: u64) -> Option<u64> {
        if self.count() >= count_max {
            return None;
        }
        if let Some(slot) = self.bare.pop_first() {
            return Some(slot);
        }
        self.count += 1;
        Some(self.count - 1)
    }

    /// A slot from [`Slots::grow`] is written and may be taken.
    pub fn add_prewritten(&mut self, slot: u64) {
        self.prewritten = self.prewritten.max(slot + 1);
        self.free.insert(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Slots;

    #[test]
    fn slot_beyond_a_file_that_lost_its_growth_is_not_given_twice() {
        let mut slots = Slots::recovered(1, &[0, 3].into(), 7);
        assert_eq!(slots.take(9), Some((1, 7)));
        assert_eq!(slots.take(9), Some((2, 8)));
        assert_eq!(slots.take(9), Some((4, 9)));
    }

    #[test]
    fn freed_slot_rests_until_the_checkpoint_is_durable() {
        let mut slots = Slots::default();
        assert_eq!(slots.take(2), Some((0, 0)));
        assert_eq!(slots.take(2), Some((1, 1)));
        assert_eq!(slots.take(2), None);
        slots.give_back([0]);
        assert_eq!(slots.take(2), None);
        let resting = slots.resting();
        slots.give_back([1]);
        slots.checkpointed(resting);
        assert_eq!(slots.take(2), Some((0, 2)));
        assert_eq!(slots.take(2), None);
    }

    #[test]
    fn slots_whose_space_was_given_back_are_like_new_ones() {
        let mut slots = Slots::recovered(6, &BTreeSet::from([1]), 1);
        assert_eq!(slots.take_last(2), [5, 4]);
        assert_eq!((slots.free_count(), slots.count()), (3, 6), "nobody can take them meanwhile");
        slots.add_bare(4);
        slots.add_bare(5);
        assert_eq!((slots.free_count(), slots.count()), (3, 4));
        let taken: Vec<u64> = std::iter::from_fn(|| slots.take(6)).map(|(slot, _)| slot).collect();
        assert_eq!(taken, [0, 2, 3, 4, 5], "the written ones first, and no more than the space allows");
        assert_eq!(slots.take(7).map(|(slot, _)| slot), Some(6));
    }
}
