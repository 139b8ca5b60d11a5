//! Opening a store: checkpoint, slots taken since, and (in `tail`) the tail of every unsealed shard.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::{StreamExt, stream};
use platform::Platform;
use platform::buffer::Buffer;
use platform::disk::{Disk, DiskError, File, Open, Space};
use platform::planted::PlantedBug;
use proto::checkpoint::{Checkpoint, ShardEntry};
use proto::chunk::ScrubState;
use proto::record::{BLOCK, RecordHeader};
use tokio::sync::Notify;
use types::ids::{ChunkId, Epoch, PlacementId, ShardIndex, StoreId};

use super::config::StoreConfig;
use super::flush::Flusher;
use super::maintain::CHECKPOINT;
use super::shard::{RecordRef, Shard};
use super::slots::Slots;
use super::tables::TableCache;
use super::{Inner, State, Store, StoreError, tail};

/// Shards whose tails are read at once.
const SHARDS_AT_ONCE: usize = 8;
/// First records of slots read at once.
const SLOTS_AT_ONCE: usize = 32;

pub(super) struct Recovery<'a> {
    pub(super) file: &'a File,
    pub(super) store: StoreId,
    pub(super) slot_size: u64,
    pub(super) file_len: u64,
    /// A planted mistake.
    pub(super) cut_at_rot: bool,
}

/// What a slot's first record says.
struct Adopted {
    slot: u64,
    /// The record is damaged; only what it was meant to be is known.
    torn: bool,
    header: RecordHeader,
}

/// What the first block of a slot says.
enum First {
    /// A record.
    Of(Adopted),
    /// Nothing.
    Free,
    /// It was a record: rot, or a write that was torn.
    Damaged(u64),
}

struct Recovered {
    shards: BTreeMap<PlacementId, Shard>,
    next_sequence: u64,
    /// Slots whose first record is damaged so that nobody knows whose they are. Any open shard may
    /// have lost its end, and one that is not known may have lost all.
    orphans: Vec<u64>,
}

impl Store {
    /// Opens the store in `disk`, making it if it is new, and recovers what a crash left.
    ///
    /// # Errors
    /// The disk fails. Damage never is an error here: it is cut or reported.
    pub async fn open(platform: Platform, disk: Disk, id: StoreId, config: StoreConfig) -> Result<Store, StoreError> {
        let io = |error: DiskError| StoreError::Disk(Rc::new(error));
        assert_eq!(config.slot_size % BLOCK as u64, 0, "slots are whole blocks");
        let file = disk.open("data", Open::CreateOrExisting).await.map_err(io)?;
        // What a killed process wrote may be with the machine but not on the device yet. What
        // recovery finds counts as durable, so it must be.
        file.flush().await.map_err(io)?;
        let checkpoint = match disk.read_file(CHECKPOINT).await.map_err(io)? {
            None => Checkpoint::default(),
            Some(bytes) => Checkpoint::decode_file(&bytes).unwrap_or_else(|error| {
                tracing::warn!(store = %id, %error, "checkpoint is damaged, reading every slot");
                Checkpoint::default()
            }),
        };
        let file_len = file.len().await.map_err(io)?;
        let cut_at_rot = platform.planted(PlantedBug::ShardCutAtRot);
        let recovery = Recovery { file: &file, store: id, slot_size: config.slot_size, file_len, cut_at_rot };
        let count = file_len.div_ceil(config.slot_size);
        let scrubbed = (PlacementId(checkpoint.scrubbed), checkpoint.scrub_began_ms);
        let Recovered { mut shards, next_sequence, orphans } = recovery.run(checkpoint, count).await.map_err(io)?;
        if !orphans.is_empty() {
            tracing::warn!(store = %id, slots = ?orphans, "slots begin with damaged records, nobody knows whose");
            for shard in shards.values_mut().filter(|shard| !shard.sealed) {
                (shard.cut, shard.broken) = (true, true);
            }
        }
        if platform.planted(PlantedBug::EpochLostAtRestart) {
            shards.values_mut().filter(|shard| !shard.sealed).for_each(|shard| shard.epoch = Epoch(1));
        }
        let damaged = shards.values().filter(|shard| shard.has_holes).map(|shard| shard.placement).collect();
        let used: BTreeSet<u64> = shards.values().flat_map(|shard| shard.slots.iter().map(|(slot, _)| *slot)).collect();
        let space = disk.space().unwrap_or(Space { total: 0, available: 0 });
        let slots = Slots::recovered(count, &used, next_sequence);
        let state = State {
            shards,
            slots_then: slots.count(),
            slots,
            fresh_records: 0,
            dying: BTreeMap::new(),
            deleted: BTreeSet::new(),
            damaged,
            space,
        };
        let store = Store(Rc::new(Inner {
            platform,
            disk,
            file,
            id,
            config,
            state: RefCell::new(state),
            changed: Notify::new(),
            flusher: Flusher::default(),
            failed: Cell::new(false),
            rot_found: Cell::new(0),
            tables: TableCache::default(),
            checkpointing: Cell::new(false),
            scrub: Cell::new(ScrubState::default()),
            scrubbed: Cell::new(scrubbed),
        }));
        // Free slots may be taken at once, so what was just found must not depend on them.
        store.checkpoint().await?;
        // What an orphan means is in the checkpoint now; it must not be found again.
        for slot in orphans {
            let start = (slot * store.0.config.slot_size).max(BLOCK as u64);
            store.0.file.write_at(start, vec![Buffer::zeros(BLOCK)]).await.map_err(io)?;
        }
        Ok(store)
    }
}

impl Recovery<'_> {
    async fn run(&self, checkpoint: Checkpoint, count: u64) -> Result<Recovered, DiskError> {
        let known: BTreeSet<u64> =
            checkpoint.shards.iter().flat_map(|shard| shard.slots.iter().map(|slot| slot.slot)).collect();
        let unknown: Vec<u64> = (0..count).filter(|slot| !known.contains(slot)).collect();
        let mut adopted: BTreeMap<PlacementId, Vec<Adopted>> = BTreeMap::new();
        let mut next_sequence = checkpoint.next_slot_sequence;
        let mut orphans = Vec::new();
        let mut firsts =
            stream::iter(unknown.into_iter().map(|slot| self.first_record(slot))).buffer_unordered(SLOTS_AT_ONCE);
        while let Some(first) = firsts.next().await {
            let first = match first? {
                First::Of(first) => first,
                First::Free => continue,
                First::Damaged(slot) => {
                    orphans.push(slot);
                    continue;
                }
            };
            if first.header.slot_sequence >= checkpoint.next_slot_sequence {
                next_sequence = next_sequence.max(first.header.slot_sequence + 1);
                adopted.entry(first.header.placement).or_default().push(first);
            }
        }
        drop(firsts);
        let mut found = Vec::new();
        for entry in &checkpoint.shards {
            let mut shard = shard_of(entry);
            let more = adopted.remove(&shard.placement).unwrap_or_default();
            let gap = adopt(&mut shard, more);
            found.push((shard, gap));
        }
        for (placement, slots) in adopted {
            let Some(first) = slots.first() else { continue };
            let mut shard = Shard::new(first.header.chunk, placement, first.header.shard, first.header.epoch);
            let torn = slots.iter().any(|slot| slot.torn && slot.header.slot_index == 0);
            let gap = adopt(&mut shard, slots);
            // Slots of a deleted shard whose first one was used again say nothing.
            if !shard.slots.is_empty() || torn {
                found.push((shard, gap));
            }
        }
        let mut shards = BTreeMap::new();
        let mut recovering = stream::iter(found.into_iter().map(|(mut shard, gap)| async move {
            let alive = tail::recover(self, &mut shard, gap).await?;
            Ok::<_, DiskError>(alive.then_some(shard))
        }))
        .buffer_unordered(SHARDS_AT_ONCE);
        while let Some(shard) = recovering.next().await {
            if let Some(shard) = shard? {
                shards.insert(shard.placement, shard);
            }
        }
        drop(recovering);
        Ok(Recovered { shards, next_sequence, orphans })
    }

    async fn first_record(&self, slot: u64) -> Result<First, DiskError> {
        let block = self.file.read_at(self.slot_start(slot), BLOCK).await?;
        if let Ok(header) = RecordHeader::decode(&block, self.store) {
            return Ok(First::Of(Adopted { slot, torn: false, header }));
        }
        if let Ok(header) = RecordHeader::decode_name(&block, self.store) {
            return Ok(First::Of(Adopted { slot, torn: true, header }));
        }
        // A slot that was never taken is zero, one that was given back begins with its last owner's record.
        Ok(if block.iter().all(|byte| *byte == 0) { First::Free } else { First::Damaged(slot) })
    }

    pub(super) fn slot_start(&self, slot: u64) -> u64 {
        (slot * self.slot_size).max(BLOCK as u64)
    }
}

/// Adds slots found on the disk to a shard, in order. Of two for one place the later counts: the
/// earlier was abandoned when its first write failed. Behind a slot that is missing or whose first
/// record is damaged nothing is known: `true` = the shard is cut there.
fn adopt(shard: &mut Shard, mut found: Vec<Adopted>) -> bool {
    if shard.sealed {
        return false;
    }
    found.sort_by_key(|adopted| (adopted.header.slot_index, Reverse(adopted.header.slot_sequence)));
    let mut last_index = None;
    for Adopted { slot, torn, header } in found {
        let index = header.slot_index as usize;
        if last_index.replace(index) == Some(index) {
            continue;
        }
        if index < shard.slots.len() && index >= shard.slots_with_durable_records() {
            shard.slots.truncate(index);
        }
        if index == shard.slots.len() && !torn {
            shard.slots.push((slot, header.slot_sequence));
        } else if index >= shard.slots.len() {
            tracing::warn!(placement = %shard.placement, slot, index, "a slot of the shard is missing, it is cut there");
            return true;
        }
    }
    false
}

fn shard_of(entry: &ShardEntry) -> Shard {
    let index = ShardIndex(entry.name.index as u8);
    let mut shard = Shard::new(ChunkId(entry.name.chunk), PlacementId(entry.name.placement), index, Epoch(entry.epoch));
    shard.cut = entry.cut;
    shard.broken = entry.broken;
    shard.slots = entry.slots.iter().map(|slot| (slot.slot, slot.sequence)).collect();
    shard.records = entry
        .records
        .as_chunks::<3>()
        .0
        .iter()
        .map(|[offset, position, len]| RecordRef { offset: *offset, position: *position, len: *len as u32 })
        .collect();
    shard.durable_tail = (entry.tail_slot, entry.tail);
    shard.set_recovered_len(entry.len);
    shard.sealed = entry.sealed;
    shard
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use platform::fault::DiskFault;
    use platform::sim::{SimOptions, Simulation};
    use proto::chunk::Census;
    use types::ids::{Epoch, RequestId};

    use crate::store::StoreError;
    use crate::store::tests::{append, open, pattern, simulated, target};

    const SLOT: u64 = 1 << 20;

    /// What a shard of three slots answers to a fence after the byte `at` of slot 1 has rotted at a
    /// moment when no checkpoint names it: (length, cut).
    fn fenced_after_rot(at: u64) -> (u64, bool) {
        fenced_after_rot_in(1, at)
    }

    fn fenced_after_rot_in(slot: u64, at: u64) -> (u64, bool) {
        simulated(move |sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            for step in 0..10 {
                append(&platform, &store, 1, 1, step * 250_000, &pattern(step, 250_000)).await.expect("append");
            }
            sim.rot((SLOT * slot).max(4096) + at);
            sim.crash();
            let platform = sim.node();
            let store = open(&platform).await;
            if at < 4096 {
                let refused = append(&platform, &store, 1, 1, 2_500_000, b"x").await;
                assert!(refused.is_err(), "a shard that was cut takes nothing before its fence");
            }
            let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
            (state.len, state.cut)
        })
    }

    #[test]
    fn shard_whose_middle_slot_is_missing_is_cut_there() {
        for at in [9, 60, 128 + 5] {
            let (len, cut) = fenced_after_rot(at);
            assert!(cut, "rot at {at} of the slot's first block");
            assert!(len < SLOT, "rot at {at}: {len} bytes without slot 1");
        }
        // Rot of a payload below a later mark cuts nothing; the read reports it.
        assert_eq!(fenced_after_rot(4096 + 77), (2_500_000, false));
    }

    #[test]
    fn shard_whose_first_or_last_slot_is_nobodys_any_more_is_cut() {
        for at in [9, 20, 60] {
            assert_eq!(fenced_after_rot_in(0, at), (0, true), "rot at {at} of the first slot's first block");
            let (len, cut) = fenced_after_rot_in(2, at);
            assert!(cut && len < 2 * SLOT, "rot at {at} of the last slot's first block: {len}, cut: {cut}");
        }
    }

    #[test]
    fn fence_that_survives_a_power_cut_does_not_vouch_for_appends_that_were_torn_by_it() {
        let mut torn = 0;
        for seed in 0..200 {
            let slow = Duration::from_millis(50);
            let options = SimOptions { disk_flush: (slow, slow), ..SimOptions::default() };
            let simulation = Rc::new(Simulation::new(seed, options));
            simulation.set_faults(false);
            let sim = Rc::clone(&simulation);
            let run = async move {
                let platform = sim.node("n");
                let store = open(&platform).await;
                append(&platform, &store, 1, 1, 0, &pattern(1, 5000)).await.expect("append");
                // Both are written, neither is flushed.
                let more = pattern(2, 20_000);
                let fencing = async {
                    platform.clock().sleep(Duration::from_millis(1)).await;
                    store.fence(target(1), Epoch(2), RequestId(1)).await
                };
                let writing = futures_util::future::join(append(&platform, &store, 1, 1, 5000, &more), fencing);
                assert!(platform.clock().timeout(Duration::from_millis(20), writing).await.is_err());
                sim.crash("n");
                let platform = sim.node("n");
                let store = open(&platform).await;
                let state = store.fence(target(1), Epoch(3), RequestId(1)).await.expect("fence");
                assert!(state.len >= 5000, "what was acknowledged is there");
                let read = store.read(target(1), 0, state.len as usize).await;
                assert!(
                    read.is_ok(),
                    "seed {seed}: {} bytes are answered, and they cannot be read: {read:?}",
                    state.len
                );
                state.len == 5000
            };
            torn += u32::from(simulation.run(run, Duration::from_secs(60)).expect("story ends"));
        }
        assert!(torn > 20 && torn < 180, "{torn} of 200 were torn");
    }

    #[test]
    fn damaged_slot_is_told_of_once() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            append(&platform, &store, 1, 1, 0, &pattern(1, 9000)).await.expect("append");
            sim.rot(4096 + 9);
            sim.crash();
            open(&sim.node()).await;
            sim.crash();
            let platform = sim.node();
            let store = open(&platform).await;
            append(&platform, &store, 2, 1, 0, &pattern(1, 9000)).await.expect("append");
            let state = store.fence(target(2), Epoch(2), RequestId(1)).await.expect("fence");
            assert_eq!((state.len, state.cut), (9000, false), "what came later has lost nothing");
        });
    }

    #[test]
    fn power_cut_while_a_damaged_slot_is_put_away_loses_nothing_and_says_so() {
        let (mut cut_in_the_middle, mut whole) = (0, 0);
        for micros in (0..2000).step_by(20) {
            let (in_time, len, cut) = simulated(move |sim| async move {
                let platform = sim.node();
                let store = open(&platform).await;
                for step in 0..2 {
                    append(&platform, &store, 1, 1, step * 750_000, &pattern(1, 750_000)).await.expect("append");
                }
                append(&platform, &store, 2, 1, 0, &pattern(2, 9000)).await.expect("append");
                store.fence(target(2), Epoch(2), RequestId(1)).await.expect("fence");
                store.seal(target(2), Epoch(2), 9000, RequestId(1)).await.expect("seal");
                // The second slot of the first shard.
                sim.rot(SLOT + 9);
                sim.crash();
                let platform = sim.node();
                let in_time = platform.clock().timeout(Duration::from_micros(micros), open(&platform)).await.is_ok();
                sim.crash();
                let store = open(&sim.node()).await;
                let read = store.read(target(2), 0, 9000).await.expect("sealed bytes");
                assert_eq!(&read[..], &pattern(2, 9000)[..]);
                let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
                (in_time, state.len, state.cut)
            });
            assert!(cut, "{len} bytes are answered as if they were all, after {micros} us");
            *(if in_time { &mut whole } else { &mut cut_in_the_middle }) += 1;
        }
        assert!(cut_in_the_middle > 10 && whole > 10, "{cut_in_the_middle} cut, {whole} whole");
    }

    #[test]
    fn cut_is_remembered_over_restarts_until_the_fence() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            append(&platform, &store, 1, 1, 0, &pattern(1, 9000)).await.expect("append");
            // The table of the only record: its name still holds.
            sim.rot(4096 + 128 + 3);
            for _ in 0..3 {
                sim.crash();
                let platform = sim.node();
                let store = open(&platform).await;
                let refused = append(&platform, &store, 1, 1, 0, b"x").await;
                assert!(matches!(refused, Err(StoreError::Broken)), "{refused:?}");
            }
            let store = open(&sim.node()).await;
            let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
            assert_eq!((state.len, state.cut), (0, true));
        });
    }

    #[test]
    fn fence_after_a_failed_first_write_of_a_slot_survives() {
        // With 0 bytes the first write of the shard fails, with more that of its second slot.
        for filled in [0, 1_000_000u64] {
            simulated(move |sim| async move {
                let platform = sim.node();
                let store = open(&platform).await;
                if filled > 0 {
                    append(&platform, &store, 1, 1, 0, &pattern(1, filled as usize)).await.expect("append");
                }
                sim.fault(DiskFault::WriteFails);
                append(&platform, &store, 1, 1, filled, &pattern(2, 500_000)).await.expect_err("the disk fails");
                sim.fault(DiskFault::Healthy);
                let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
                assert_eq!(state.len, filled);
                sim.crash();
                let platform = sim.node();
                let store = open(&platform).await;
                let refused = append(&platform, &store, 1, 1, filled, b"x").await;
                assert!(matches!(refused, Err(StoreError::Fenced { stored: Epoch(2) })), "{refused:?}");
                append(&platform, &store, 1, 2, filled, b"more").await.expect("the new epoch writes");
                if filled > 0 {
                    let bytes = store.read(target(1), 0, filled as usize).await.expect("read");
                    assert_eq!(&bytes[..], &pattern(1, filled as usize)[..]);
                }
            });
        }
    }

    #[test]
    fn abandoned_slot_of_a_checkpoint_gives_way_to_the_later_one() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            // Fills slot 0.
            append(&platform, &store, 1, 1, 0, &pattern(1, 1_040_000)).await.expect("append");
            sim.fault(DiskFault::WriteFails);
            sim.fault(DiskFault::SlowBy(1000));
            let (writer, machine) = (store.clone(), platform.clone());
            let second =
                platform.tasks().spawn(async move { append(&machine, &writer, 1, 1, 1_040_000, b"second").await });
            platform::tasks::yield_now().await;
            sim.fault(DiskFault::Healthy);
            // Names slot 1, which holds nothing durable and never will.
            store.checkpoint().await.expect("checkpoint");
            second.await.expect("task").expect_err("the disk failed");
            store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
            sim.crash();
            let platform = sim.node();
            let store = open(&platform).await;
            let refused = append(&platform, &store, 1, 1, 1_040_000, b"x").await;
            assert!(matches!(refused, Err(StoreError::Fenced { stored: Epoch(2) })), "{refused:?}");
            assert_eq!(store.read(target(1), 0, 1_040_000).await.expect("read").len(), 1_040_000);
        });
    }

    #[test]
    fn rotten_record_of_a_tail_is_told_as_damage_at_the_start() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            for step in 0..3 {
                append(&platform, &store, 1, 1, step * 9000, &pattern(step, 9000)).await.expect("append");
            }
            // The header of the second record: the third one says that it was durable.
            sim.rot(4096 + 4 * 4096 + 9);
            sim.crash();
            let store = open(&sim.node()).await;
            let damaged = store.census(Census { after: 0, upto: 0 }).damaged;
            assert_eq!(damaged.iter().map(|name| name.placement).collect::<Vec<_>>(), [1]);
            let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
            assert_eq!((state.len, state.cut), (27_000, false));
            assert!(matches!(store.read(target(1), 9000, 10).await, Err(StoreError::Rot { .. })));
        });
    }
}
