//! Which disks are much slower than the others, from how long appends to them take. No IO, no clock.
//!
//! A write waits for all its shards, so one slow disk slows every write that touches it (Dean and Barroso,
//! "The Tail at Scale", 2013). Shards of one append are equally long, so disks can be compared without
//! looking at lengths. A disk is judged by the others: when all are slow, none is.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::clock::Instant;

/// Appends before a disk is judged, or others by it.
const SAMPLES_MIN: u32 = 8;
/// A disk is slow if its usual time is this many times the middle one's...
const SLOW_FACTOR: u64 = 6;
/// ...and at least this long.
const SLOW_MIN: Duration = Duration::from_millis(20);
/// An append that took so long says more than those before it, and counts as several: a disk whose appends
/// are given up gets few of them.
const LONG: Duration = Duration::from_secs(1);
const LONG_COUNTS: u32 = SAMPLES_MIN / 2;
/// How long a slow disk is let alone before it is tried again; twice as long each time, up to the other.
const REST: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(240));

#[derive(Default)]
struct Speed {
    /// A moving average over some eight appends.
    usual_us: u64,
    samples: u32,
    /// Let alone until then.
    until: Option<Instant>,
    /// How long it was let alone last.
    rest: Duration,
}

/// What is known of the disks' speeds.
#[derive(Default)]
pub(crate) struct Speeds(BTreeMap<u64, Speed>);

/// A disk was found to be slow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slow {
    /// Its usual time for an append.
    pub(crate) usual: Duration,
    /// That of the disk in the middle.
    pub(crate) others: Duration,
    /// How long it is let alone.
    pub(crate) rest: Duration,
}

impl Speeds {
    /// An append to `disk` took so long. Answers whether the disk has become a slow one by that.
    pub(crate) fn note(&mut self, disk: u64, took: Duration, now: Instant) -> Option<Slow> {
        let took_us = took.as_micros() as u64;
        let speed = self.0.entry(disk).or_default();
        if speed.until.is_some_and(|until| now < until) {
            return None;
        }
        if speed.until.take().is_some() {
            // A new trial: what it was like before does not count.
            speed.samples = 0;
        }
        speed.usual_us = match speed.samples {
            0 => took_us,
            _ if took >= LONG => (speed.usual_us + took_us) / 2,
            _ => (speed.usual_us * 7 + took_us) / 8,
        };
        speed.samples = speed.samples.saturating_add(if took >= LONG { LONG_COUNTS } else { 1 });
        let (samples, usual_us) = (speed.samples, speed.usual_us);
        if samples < SAMPLES_MIN {
            return None;
        }
        let mut others: Vec<u64> = self
            .0
            .iter()
            .filter(|(other, speed)| **other != disk && speed.samples >= SAMPLES_MIN && speed.until.is_none())
            .map(|(_, speed)| speed.usual_us)
            .collect();
        // Of two disks nobody can say which is the odd one.
        if others.len() < 2 {
            return None;
        }
        others.sort_unstable();
        let middle_us = others[others.len() / 2];
        let speed = self.0.get_mut(&disk)?;
        if usual_us < SLOW_FACTOR * middle_us || usual_us < SLOW_MIN.as_micros() as u64 {
            if samples >= 8 * SAMPLES_MIN {
                speed.rest = Duration::ZERO;
            }
            return None;
        }
        speed.rest = (speed.rest * 2).clamp(REST.0, REST.1);
        speed.until = Some(now + speed.rest);
        let (usual, others) = (Duration::from_micros(usual_us), Duration::from_micros(middle_us));
        Some(Slow { usual, others, rest: speed.rest })
    }

    /// Disks that are let alone now.
    pub(crate) fn slow(&self, now: Instant) -> impl Iterator<Item = u64> {
        self.0.iter().filter(move |(_, speed)| speed.until.is_some_and(|until| now < until)).map(|(disk, _)| *disk)
    }

    /// Whether this disk is let alone now.
    pub(crate) fn is_slow(&self, disk: u64, now: Instant) -> bool {
        self.0.get(&disk).is_some_and(|speed| speed.until.is_some_and(|until| now < until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Rounds of appends to six disks, the first of which takes `slow` for each. When it was found.
    fn run(speeds: &mut Speeds, from: Instant, rounds: u32, slow: Duration, others: Duration) -> Option<(u32, Slow)> {
        for round in 0..rounds {
            let now = from + others * round;
            for disk in 1..6 {
                assert_eq!(speeds.note(disk, others + others / 10 * disk as u32, now), None, "disk {disk}");
            }
            if let Some(found) = speeds.note(0, slow, now) {
                return Some((round, found));
            }
        }
        None
    }

    #[test]
    fn disk_that_is_much_slower_than_the_others_is_found_soon() {
        let mut speeds = Speeds::default();
        let (round, found) = run(&mut speeds, Instant(0), 100, 200 * MS, 2 * MS).expect("found");
        assert_eq!((round, found.rest), (7, REST.0));
        assert!(speeds.is_slow(0, Instant(0) + 10 * MS));
        assert!(!speeds.is_slow(0, Instant(0) + REST.0 + MS * 100));
        assert_eq!(speeds.slow(Instant(0) + MS).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn one_append_that_was_given_up_is_enough_even_if_the_others_are_not_quick() {
        let mut speeds = Speeds::default();
        assert_eq!(run(&mut speeds, Instant(0), 20, 50 * MS, 50 * MS), None);
        let found = speeds.note(0, Duration::from_secs(2), Instant(0) + Duration::from_secs(9));
        assert_eq!(found.map(|found| found.rest), Some(REST.0));
    }

    #[test]
    fn disk_that_was_never_quick_is_found_by_its_second_append() {
        let mut speeds = Speeds::default();
        for _ in 0..20 {
            for disk in 1..4 {
                assert_eq!(speeds.note(disk, 20 * MS, Instant(0)), None);
            }
        }
        assert_eq!(speeds.note(0, 2000 * MS, Instant(0)), None);
        assert!(speeds.note(0, 2000 * MS, Instant(0)).is_some());
    }

    #[test]
    fn disks_that_are_all_slow_or_a_little_slower_are_used() {
        assert_eq!(run(&mut Speeds::default(), Instant(0), 300, 900 * MS, 300 * MS), None);
        assert_eq!(run(&mut Speeds::default(), Instant(0), 300, 8 * MS, MS), None, "nobody waits long");
        let mut two = Speeds::default();
        for _ in 0..100 {
            assert_eq!(two.note(1, MS, Instant(0)), None);
            assert_eq!(two.note(2, 300 * MS, Instant(0)), None, "one of two");
        }
    }

    #[test]
    fn disk_that_goes_on_being_slow_is_tried_less_and_less_and_one_that_is_well_again_is_forgiven() {
        let mut speeds = Speeds::default();
        let mut now = Instant(0);
        let mut rests = Vec::new();
        for _ in 0..6 {
            let (_, found) = run(&mut speeds, now, 100, 200 * MS, 2 * MS).expect("found");
            rests.push(found.rest.as_secs());
            now = now + found.rest + Duration::from_secs(1);
        }
        assert_eq!(rests, [15, 30, 60, 120, 240, 240]);
        assert_eq!(run(&mut speeds, now, 100, 2 * MS, 2 * MS), None);
        let (_, found) = run(&mut speeds, now + Duration::from_secs(9), 300, 200 * MS, 2 * MS).expect("found");
        assert_eq!(found.rest, REST.0);
    }
}
