//! The scrub: reads everything at rest once in a set time, so that rot is found while there is
//! redundancy to repair it from.
//!
//! It reads through the same verified read as everybody, spread evenly over the cycle, and what it
//! finds is noted by that read. It goes on where it was over restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::clock::Instant;
use proto::chunk::ScrubState;
use types::ids::PlacementId;

use super::shard::Shard;
use super::write::Target;
use super::{Store, StoreError};

/// Bytes read at once.
const STEP: u64 = 256 << 10;
/// The most bytes a second, however short the cycle is.
const RATE_MAX: u64 = 64 << 20;
/// How long the place reached may be unknown to the next start.
const REMEMBER: Duration = Duration::from_secs(600);
/// How often speed and report are fitted to what is held, at most and as a part of the cycle.
const LOOK_AROUND: Duration = Duration::from_secs(60);
const LOOKS_PER_CYCLE: u32 = 20;
/// Pause when there is nothing to read.
const IDLE: Duration = Duration::from_secs(1);

impl Store {
    /// Scrubs for ever, everything within `cycle`; spawn it beside the store. A round begins with the
    /// oldest shard, takes in what is written meanwhile, and ends when the cycle has passed.
    pub async fn scrub(self, cycle: Duration) {
        let clock = self.0.platform.clock().clone();
        let cycle_ms = u64::try_from(cycle.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut remembered = clock.now();
        if self.0.scrubbed.get().1 == 0 {
            self.0.scrubbed.set((PlacementId(0), clock.unix_ms()));
        }
        let mut pace = Pace { cycle, looked: clock.now() };
        self.look_around(cycle, self.bytes_up_to(self.0.scrubbed.get().0));
        // Shards that were still being filled when their turn came, and how much was read of them.
        let mut open: BTreeMap<PlacementId, u64> = BTreeMap::new();
        while !self.is_failed() {
            let (after, began_ms) = self.0.scrubbed.get();
            let age_ms = clock.unix_ms().checked_sub(began_ms);
            self.look_around_if_due(&mut pace);
            match self.shard_behind(after) {
                // A clock that was set back begins the cycle anew.
                None if age_ms.is_none_or(|age_ms| age_ms >= cycle_ms) => {
                    let mut state = self.0.scrub.get();
                    state.rounds += 1;
                    self.0.scrub.set(state);
                    self.0.scrubbed.set((PlacementId(0), clock.unix_ms()));
                    self.look_around(cycle, 0);
                    open.clear();
                }
                None => {
                    self.scrub_grown(&mut pace, &mut open).await;
                    clock.sleep(IDLE.min(cycle)).await;
                }
                Some((target, len, sealed)) => {
                    if !sealed {
                        open.insert(target.placement, len);
                    }
                    self.scrub_shard(&mut pace, target, 0, len).await;
                    self.0.scrubbed.set((target.placement, began_ms));
                }
            }
            if clock.now().saturating_since(remembered) > REMEMBER {
                remembered = clock.now();
                if let Err(error) = self.checkpoint().await {
                    tracing::warn!(store = %self.0.id, %error, "checkpoint failed");
                }
            }
        }
    }

    /// Reads what was added to shards since their turn; those that are sealed or gone are done.
    async fn scrub_grown(&self, pace: &mut Pace, open: &mut BTreeMap<PlacementId, u64>) {
        for (placement, read) in std::mem::take(open) {
            let found = {
                let state = self.0.state.borrow();
                state.shards.get(&placement).map(|shard| (target_of(shard), shard.durable_len(), shard.sealed))
            };
            let Some((target, len, sealed)) = found else { continue };
            if len > read {
                self.scrub_shard(pace, target, read, len).await;
            }
            if !sealed {
                open.insert(placement, len);
            }
        }
    }

    fn look_around_if_due(&self, pace: &mut Pace) {
        let now = self.0.platform.clock().now();
        if now.saturating_since(pace.looked) >= pace.interval() {
            pace.looked = now;
            self.look_around(pace.cycle, self.0.scrub.get().done_bytes);
        }
    }

    /// Fits speed and report to what is held now.
    fn look_around(&self, cycle: Duration, done_bytes: u64) {
        let total_bytes = self.bytes_held();
        let rounds = self.0.scrub.get().rounds;
        let rate_bytes = rate(total_bytes, cycle);
        self.0.scrub.set(ScrubState { cycle_s: cycle.as_secs(), done_bytes, total_bytes, rate_bytes, rounds });
    }

    fn bytes_up_to(&self, last: PlacementId) -> u64 {
        self.0.state.borrow().shards.range(..=last).map(|(_, shard)| shard.durable_len()).sum()
    }

    fn bytes_held(&self) -> u64 {
        self.0.state.borrow().shards.values().map(|shard| shard.durable_len()).sum()
    }

    fn shard_behind(&self, after: PlacementId) -> Option<(Target, u64, bool)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let state = self.0.state.borrow();
        let (_, shard) = state.shards.range((Excluded(after), Unbounded)).next()?;
        Some((target_of(shard), shard.durable_len(), shard.sealed))
    }

    async fn scrub_shard(&self, pace: &mut Pace, target: Target, from: u64, len: u64) {
        let mut at = from;
        while at < len {
            let step = STEP.min(len - at);
            match self.read_all(target, at, step as usize).await {
                Ok(_) => {}
                // It is repaired as a whole: the rest of it need not be read.
                Err(StoreError::NoShard | StoreError::Beyond { .. } | StoreError::Rot { .. } | StoreError::Disk(_)) => {
                    self.count(len - at);
                    return;
                }
                Err(error) => {
                    tracing::warn!(placement = %target.placement, %error, "shard cannot be scrubbed");
                    self.count(len - at);
                    return;
                }
            }
            at += step;
            self.count(step);
            self.rest(pace, step).await;
        }
    }

    /// Waits for as long as `bytes` take at the speed aimed at, which may rise meanwhile: a store
    /// that was empty a moment ago must not be read at an empty store's speed.
    async fn rest(&self, pace: &mut Pace, bytes: u64) {
        let mut owed = bytes;
        while owed > 0 {
            let rate = self.0.scrub.get().rate_bytes.max(1);
            let rest = Duration::from_nanos(owed.saturating_mul(1_000_000_000) / rate);
            if rest <= pace.interval() {
                self.0.platform.clock().sleep(rest).await;
                return;
            }
            self.0.platform.clock().sleep(pace.interval()).await;
            let paid = u128::from(rate) * pace.interval().as_nanos() / 1_000_000_000;
            owed = owed.saturating_sub(u64::try_from(paid).unwrap_or(u64::MAX).max(1));
            self.look_around_if_due(pace);
        }
    }

    fn count(&self, bytes: u64) {
        let mut state = self.0.scrub.get();
        state.done_bytes += bytes;
        self.0.scrub.set(state);
    }
}

/// When speed and report were fitted last.
struct Pace {
    cycle: Duration,
    looked: Instant,
}

impl Pace {
    fn interval(&self) -> Duration {
        (self.cycle / LOOKS_PER_CYCLE).clamp(Duration::from_millis(1), LOOK_AROUND)
    }
}

fn target_of(shard: &Shard) -> Target {
    Target { chunk: shard.chunk, placement: shard.placement, index: shard.index }
}

/// Bytes a second at which `total` bytes take nine tenths of the cycle: what is written meanwhile
/// is read too.
fn rate(total: u64, cycle: Duration) -> u64 {
    let ms = u64::try_from(cycle.as_millis()).unwrap_or(u64::MAX).max(1);
    (u128::from(total) * 1000 * 10 / 9 / u128::from(ms)).clamp(4096, u128::from(RATE_MAX)) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::chunk::Census;

    use super::rate;
    use crate::store::tests::{append, open, pattern, simulated};

    const NOTHING: Census = Census { after: 0, upto: 0 };
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn rot_that_nobody_reads_is_found_within_a_cycle() {
        // A header, a payload, and a write that went astray.
        for fault in 0..3 {
            simulated(move |sim| async move {
                let platform = sim.node();
                let store = open(&platform).await;
                for placement in 1..=4 {
                    append(&platform, &store, placement, 1, 0, &pattern(placement, 700_000)).await.expect("append");
                }
                let slot = 2 << 20;
                match fault {
                    0 => sim.rot(slot + 50),
                    1 => sim.rot(slot + 4096 + 600_000),
                    _ => sim.fault(platform::fault::DiskFault::Misdirect {
                        file: "data".into(),
                        from: (1 << 20) + 8 * 4096,
                        to: slot + 20 * 4096,
                    }),
                }
                platform.tasks().spawn(store.clone().scrub(HOUR)).detach();
                platform.clock().sleep(HOUR).await;
                let damaged = store.census(NOTHING).damaged;
                assert_eq!(damaged.iter().map(|name| name.placement).collect::<Vec<_>>(), [3], "fault {fault}");
            });
        }
    }

    #[test]
    fn scrub_goes_on_where_it_was_after_a_restart() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            for placement in 1..=4 {
                append(&platform, &store, placement, 1, 0, &pattern(placement, 700_000)).await.expect("append");
            }
            let cycle = Duration::from_secs(300);
            platform.tasks().spawn(store.clone().scrub(cycle)).detach();
            platform.clock().sleep(Duration::from_secs(125)).await;
            let done = store.scrub_state().done_bytes;
            assert!((700_000..2_100_000).contains(&done), "{done}");
            store.checkpoint().await.expect("checkpoint");
            // In what was not read yet.
            sim.rot((3 << 20) + 50);
            sim.crash();
            let platform = sim.node();
            let store = open(&platform).await;
            platform.tasks().spawn(store.clone().scrub(cycle)).detach();
            // From the beginning it would take 200 s to get there.
            platform.clock().sleep(Duration::from_secs(170)).await;
            assert_eq!(store.census(NOTHING).damaged.len(), 1);
        });
    }

    #[test]
    fn shard_written_into_an_empty_store_is_scrubbed_within_the_cycle_and_again_in_the_next() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            platform.tasks().spawn(store.clone().scrub(HOUR)).detach();
            platform.clock().sleep(Duration::from_secs(60)).await;
            append(&platform, &store, 1, 1, 0, &pattern(1, 300_000)).await.expect("append");
            platform.clock().sleep(Duration::from_secs(100)).await;
            // It had its turn already, and grows.
            append(&platform, &store, 1, 1, 300_000, &pattern(1, 400_000)).await.expect("append");
            platform.clock().sleep(HOUR - Duration::from_secs(220)).await;
            assert_eq!((store.scrub_state().rounds, store.scrub_state().done_bytes), (0, 700_000));
            sim.rot(4096 + 50);
            platform.clock().sleep(Duration::from_secs(400)).await;
            assert_eq!(store.scrub_state().rounds, 1);
            assert_eq!(store.census(NOTHING).damaged.len(), 1);
        });
    }

    #[test]
    fn a_store_that_fills_while_its_first_shard_is_read_is_read_at_its_new_speed() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            let cycle = Duration::from_secs(20);
            platform.tasks().spawn(store.clone().scrub(cycle)).detach();
            append(&platform, &store, 1, 1, 0, &pattern(1, 700_000)).await.expect("append");
            // The first shard is being read now, at an empty store's speed.
            platform.clock().sleep(Duration::from_secs(2)).await;
            for placement in 2..=4 {
                append(&platform, &store, placement, 1, 0, &pattern(placement, 700_000)).await.expect("append");
            }
            sim.rot((3 << 20) + 50);
            platform.clock().sleep(cycle * 2).await;
            assert_eq!(store.census(NOTHING).damaged.len(), 1);
        });
    }

    #[test]
    fn rate_is_what_the_cycle_asks_for_within_bounds() {
        assert_eq!(rate(900 << 20, Duration::from_secs(1000)), 1 << 20);
        assert_eq!(rate(1 << 50, Duration::from_secs(1)), super::RATE_MAX);
        assert_eq!(rate(0, HOUR), 4096);
    }
}
