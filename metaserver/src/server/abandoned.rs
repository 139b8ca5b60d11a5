//! Open chunks whose session has ended, one of whose disks or shards is gone or to go, or that are
//! crowded though they need not be any more: the leader seals them, and what is sealed can be moved.
//!
//! A few are under way at once. One that cannot be sealed yet waits, longer each time, while the
//! others have their turn; nothing else the leader does waits for any of them.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::clock::Instant;
use proto::keys;
use proto::rows::{ChunkRow, DiskRow, chunk_state, disk_state};

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;

/// Seals under way at once.
const AT_ONCE: usize = 16;
/// Pause before a chunk that could not be sealed is tried again: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long an open chunk may be crowded for no reason that the leader sees: its writer may know one.
const CROWDED_MAX: Duration = Duration::from_secs(10);

/// A chunk that was tried.
#[derive(Clone, Copy, Debug)]
enum Tried {
    Running,
    /// In vain: not again before this moment.
    Resting(Instant),
}

/// Whose turn it is. In memory; begins anew with each leader.
#[derive(Default, Debug)]
pub(super) struct Turns {
    /// The chunk that had the last turn: the next one begins behind it.
    last: u64,
    tried: BTreeMap<u64, Tried>,
    /// How long a chunk rested the last time.
    pauses: BTreeMap<u64, Duration>,
    /// Since when a chunk has been crowded though it need not be.
    crowded: BTreeMap<u64, Instant>,
}

impl Turns {
    /// Which of the chunks that are due (in order) begin now.
    fn next(&mut self, due: &[u64], now: Instant) -> Vec<u64> {
        self.tried.retain(|_, tried| match tried {
            Tried::Running => true,
            Tried::Resting(until) => *until > now,
        });
        self.pauses.retain(|chunk, _| due.contains(chunk));
        let running = self.tried.values().filter(|tried| matches!(tried, Tried::Running)).count();
        let behind = due.partition_point(|chunk| *chunk <= self.last);
        let order = due[behind..].iter().chain(&due[..behind]);
        let free = order.copied().filter(|chunk| !self.tried.contains_key(chunk));
        let begin: Vec<u64> = free.take(AT_ONCE.saturating_sub(running)).collect();
        for chunk in &begin {
            self.tried.insert(*chunk, Tried::Running);
            self.last = *chunk;
        }
        begin
    }

    /// Which of the chunks that are crowded now have been so for too long.
    fn crowded_for_long(&mut self, now_crowded: &[u64], now: Instant) -> Vec<u64> {
        self.crowded.retain(|chunk, _| now_crowded.contains(chunk));
        let is_long = |chunk: &u64| {
            let since = *self.crowded.entry(*chunk).or_insert(now);
            now.saturating_since(since) >= CROWDED_MAX
        };
        now_crowded.iter().copied().filter(is_long).collect()
    }

    fn ended(&mut self, chunk: u64, sealed: bool, now: Instant) {
        self.tried.remove(&chunk);
        if sealed {
            self.pauses.remove(&chunk);
            return;
        }
        let pause = self.pauses.get(&chunk).map_or(PAUSE_MIN, |last| (*last * 2).min(PAUSE_MAX));
        self.pauses.insert(chunk, pause);
        self.tried.insert(chunk, Tried::Resting(now + pause));
    }
}

impl MetaServer {
    /// Begins the seals whose turn it is.
    pub(super) fn seal_abandoned(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let due = self.abandoned(now)?;
        let begin = self.0.abandoned.borrow_mut().next(&due, now);
        for chunk in begin {
            let this = self.clone();
            self.0.platform.tasks().spawn(async move {
                let sealed = this.seal_chunk(chunk, false).await;
                let is_sealed = sealed.is_ok();
                if let Err(trouble) = sealed {
                    tracing::debug!(text = %trouble.failure().text, "an abandoned chunk is not sealed yet");
                }
                let now = this.0.platform.clock().now();
                this.0.abandoned.borrow_mut().ended(chunk, is_sealed, now);
            });
        }
        Ok(())
    }

    /// Open chunks that nobody fills any more, in order.
    fn abandoned(&self, now: Instant) -> Result<Vec<u64>, Trouble> {
        let disks = self.disks()?;
        let pool = self.pool()?;
        let (mut due, mut crowded) = (Vec::new(), Vec::new());
        let txn = Txn::new(self.0.replica.store());
        for (key, _) in txn.scan_prefix(&[keys::table::OPEN_CHUNK], usize::MAX)? {
            let Some(chunk) = keys::last_u64(&key) else { continue };
            let Some(row) = self.chunk(chunk)? else { continue };
            if row.state != chunk_state::OPEN {
                continue;
            }
            if row.released || self.has_lost_a_shard(&row, &disks, now) {
                due.push(chunk);
            } else if pool.could_spread(&row) {
                crowded.push(chunk);
            }
        }
        due.extend(self.0.abandoned.borrow_mut().crowded_for_long(&crowded, now));
        due.sort_unstable();
        Ok(due)
    }

    fn has_lost_a_shard(&self, row: &ChunkRow, disks: &BTreeMap<u64, DiskRow>, now: Instant) -> bool {
        let liveness = self.0.liveness.borrow();
        row.shards.iter().any(|shard| {
            let leaves = |row: &DiskRow| row.state == disk_state::LOST || row.draining;
            let lost = shard.bad || disks.get(&shard.disk).is_none_or(leaves);
            let silence = liveness.disk_silence(shard.disk, now);
            lost || silence.is_some_and(|silence| silence > self.0.times.disk_silent * 4)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{AT_ONCE, Instant, Turns};

    #[test]
    fn chunks_that_cannot_be_sealed_do_not_hold_back_others() {
        let mut turns = Turns::default();
        let mut now = Instant(1);
        // More than fit at once cannot be sealed; every round tells so at once.
        let due: Vec<u64> = (1..=4 * AT_ONCE as u64).collect();
        let stuck = |chunk: u64| chunk <= 3 * AT_ONCE as u64;
        let mut left: BTreeSet<u64> = due.iter().copied().collect();
        for _ in 0..5 {
            let open: Vec<u64> = due.iter().copied().filter(|chunk| left.contains(chunk)).collect();
            let begun = turns.next(&open, now);
            assert!(begun.len() <= AT_ONCE);
            for chunk in begun {
                turns.ended(chunk, !stuck(chunk), now);
                if !stuck(chunk) {
                    left.remove(&chunk);
                }
            }
            now = now + Duration::from_secs(1);
        }
        assert!(left.iter().all(|chunk| stuck(*chunk)), "{left:?}");
    }

    #[test]
    fn hanging_seals_are_not_begun_twice_and_stuck_ones_come_again() {
        let mut turns = Turns::default();
        let mut now = Instant(1);
        assert_eq!(turns.next(&[3, 5], now), [3, 5]);
        assert_eq!(turns.next(&[3, 5], now), [] as [u64; 0]);
        turns.ended(3, false, now);
        turns.ended(5, false, now);
        let mut tries = 0;
        for _ in 0..300 {
            now = now + Duration::from_secs(1);
            for chunk in turns.next(&[3, 5], now) {
                tries += 1;
                turns.ended(chunk, false, now);
            }
        }
        // At least every 30 seconds, and not every second.
        assert!((20..60).contains(&tries), "{tries}");
    }

    #[test]
    fn chunk_is_sealed_only_after_it_was_crowded_for_a_while_without_a_break() {
        let mut turns = Turns::default();
        let mut now = Instant(1);
        let step = Duration::from_secs(4);
        assert_eq!(turns.crowded_for_long(&[7], now), [] as [u64; 0]);
        now = now + step;
        assert_eq!(turns.crowded_for_long(&[], now), [] as [u64; 0]);
        for _ in 0..3 {
            assert_eq!(turns.crowded_for_long(&[7], now), [] as [u64; 0]);
            now = now + step;
        }
        assert_eq!(turns.crowded_for_long(&[7, 9], now), [7]);
    }
}
