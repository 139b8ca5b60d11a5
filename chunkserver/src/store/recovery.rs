//! Opening a store: checkpoint, slots taken since, and the tail of every unsealed shard.
//!
//! A bad record below a later record's durable mark is rot: it stays a hole that reads report and
//! repair fills. Any other bad record ends the shard, which then says "at least this long" and
//! takes no appends until it is fenced (ARCHITECTURE 4, rule 10; the model `torn_or_rot`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::{StreamExt, stream};
use platform::Platform;
use platform::disk::{Disk, DiskError, File, Open, Space};
use proto::checkpoint::{Checkpoint, ShardEntry};
use proto::record::{BLOCK, RecordHeader, RecordKind, is_inline, payload_start, record_len, verify_blocks};
use tokio::sync::Notify;
use types::ids::{ChunkId, Epoch, PlacementId, ShardIndex, StoreId};

use super::config::StoreConfig;
use super::flush::Flusher;
use super::maintain::CHECKPOINT;
use super::shard::{RecordRef, Shard};
use super::slots::Slots;
use super::{Inner, State, Store, StoreError};

/// Bytes read at once when headers are searched.
const WINDOW: usize = 64 << 10;

struct Recovery<'a> {
    file: &'a File,
    store: StoreId,
    slot_size: u64,
    file_len: u64,
    window: RefCell<(u64, Vec<u8>)>,
}

/// What a slot's first record says.
struct Adopted {
    slot: u64,
    header: RecordHeader,
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
        let recovery = Recovery {
            file: &file,
            store: id,
            slot_size: config.slot_size,
            file_len,
            window: RefCell::new((u64::MAX, Vec::new())),
        };
        let count = file_len.div_ceil(config.slot_size);
        let (shards, next_sequence) = recovery.run(checkpoint, count).await.map_err(io)?;
        let used: BTreeSet<u64> = shards.values().flat_map(|shard| shard.slots.iter().map(|(slot, _)| *slot)).collect();
        let space = disk.space().unwrap_or(Space { total: 0, available: 0 });
        let state = State {
            shards,
            slots: Slots::recovered(count, &used, next_sequence),
            fresh_records: 0,
            deleted: BTreeSet::new(),
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
            checkpointing: Cell::new(false),
        }));
        // Free slots may be taken at once, so what was just found must not depend on them.
        store.checkpoint().await?;
        Ok(store)
    }
}

impl Recovery<'_> {
    async fn run(&self, checkpoint: Checkpoint, count: u64) -> Result<(BTreeMap<PlacementId, Shard>, u64), DiskError> {
        let known: BTreeSet<u64> =
            checkpoint.shards.iter().flat_map(|shard| shard.slots.iter().map(|slot| slot.slot)).collect();
        let unknown: Vec<u64> = (0..count).filter(|slot| !known.contains(slot)).collect();
        let mut adopted: BTreeMap<PlacementId, Vec<Adopted>> = BTreeMap::new();
        let mut next_sequence = checkpoint.next_slot_sequence;
        let mut firsts = stream::iter(unknown.into_iter().map(|slot| async move {
            let block = self.file.read_at(self.slot_start(slot), BLOCK).await?;
            Ok::<_, DiskError>((slot, RecordHeader::decode(&block, self.store).ok()))
        }))
        .buffer_unordered(32);
        while let Some(first) = firsts.next().await {
            let (slot, Some(header)) = first? else { continue };
            if header.slot_sequence >= checkpoint.next_slot_sequence {
                next_sequence = next_sequence.max(header.slot_sequence + 1);
                adopted.entry(header.placement).or_default().push(Adopted { slot, header });
            }
        }
        drop(firsts);
        let mut shards = BTreeMap::new();
        for entry in &checkpoint.shards {
            let mut shard = shard_of(entry);
            let more = adopted.remove(&shard.placement).unwrap_or_default();
            self.adopt(&mut shard, more);
            if self.recover(&mut shard).await? {
                shards.insert(shard.placement, shard);
            }
        }
        for (placement, slots) in adopted {
            let Some(first) = slots.first() else { continue };
            let mut shard = Shard::new(first.header.chunk, placement, first.header.shard, Epoch(0));
            self.adopt(&mut shard, slots);
            if shard.slots.is_empty() {
                continue;
            }
            if self.recover(&mut shard).await? {
                shards.insert(placement, shard);
            }
        }
        Ok((shards, next_sequence))
    }

    fn slot_start(&self, slot: u64) -> u64 {
        (slot * self.slot_size).max(BLOCK as u64)
    }

    /// Adds slots found on the disk to a shard, in order, without gaps.
    fn adopt(&self, shard: &mut Shard, mut found: Vec<Adopted>) {
        found.sort_by_key(|adopted| adopted.header.slot_index);
        for adopted in found {
            if adopted.header.slot_index as usize == shard.slots.len() {
                shard.slots.push((adopted.slot, adopted.header.slot_sequence));
            } else {
                tracing::warn!(placement = %shard.placement, slot = adopted.slot, "slot of a shard without the one before it, left alone");
            }
        }
    }

    /// Reads the tail of a shard. `false` = it was deleted.
    async fn recover(&self, shard: &mut Shard) -> Result<bool, DiskError> {
        if let Some((slot, sequence)) = shard.slots.first().copied() {
            let block = self.file.read_at(self.slot_start(slot), BLOCK).await?;
            let header = RecordHeader::decode(&block, self.store);
            if header.is_ok_and(|header| {
                header.kind == RecordKind::Tombstone
                    && header.placement == shard.placement
                    && header.slot_sequence == sequence
            }) {
                return Ok(false);
            }
        }
        if shard.sealed {
            return Ok(true);
        }
        let mut tail = Tail { shard, len: 0, mark: 0, found: Vec::new(), bad: false, rot: 0 };
        tail.len = tail.shard.durable_len();
        tail.mark = tail.len;
        let (mut index, mut position) = tail.shard.durable_tail;
        while let Some((slot, sequence)) = tail.shard.slots.get(index as usize).copied() {
            let start = self.slot_start(slot);
            position = position.max(start);
            let end = (slot + 1) * self.slot_size;
            while position < end {
                let block = self.block(position).await?;
                let decoded = RecordHeader::decode(&block, self.store)
                    .ok()
                    .filter(|header| header.placement == tail.shard.placement && header.slot_sequence == sequence);
                match decoded {
                    Some(header) => {
                        let len = record_len(header.payload_len as usize) as u64;
                        if !tail.take(header, position) {
                            position += BLOCK as u64;
                            continue;
                        }
                        position += len;
                        tail.shard.durable_tail = (index, position);
                    }
                    None => {
                        tail.bad |= RecordHeader::resembles(&block, tail.shard.placement, sequence);
                        position += BLOCK as u64;
                    }
                }
                if tail.shard.sealed {
                    return Ok(true);
                }
            }
            index += 1;
            position = 0;
        }
        self.settle(tail).await?;
        Ok(true)
    }

    /// Checks the payload of what no later mark vouches for, and fixes the shard's length.
    async fn settle(&self, mut tail: Tail<'_>) -> Result<(), DiskError> {
        let mut len = tail.len;
        for record in &tail.found {
            let end = record.offset + u64::from(record.len);
            if end > tail.mark && !self.payload_is_good(tail.shard, *record).await? {
                tail.bad = true;
                len = len.min(record.offset);
                break;
            }
        }
        tail.shard.records.extend(tail.found.iter().filter(|record| record.offset + u64::from(record.len) <= len));
        tail.shard.set_recovered_len(len);
        if tail.bad {
            tracing::info!(placement = %tail.shard.placement, len, "a torn tail was cut");
            tail.shard.cut = true;
            tail.shard.broken = true;
        }
        if tail.rot > 0 {
            tracing::warn!(placement = %tail.shard.placement, records = tail.rot, "rotten records below the durable mark");
        }
        // The next record goes to a fresh slot: nothing that may have been acked is overwritten.
        tail.shard.tail = 0;
        tail.shard.durable_tail = (tail.shard.slots.len() as u32, 0);
        Ok(())
    }

    async fn payload_is_good(&self, shard: &Shard, record: RecordRef) -> Result<bool, DiskError> {
        let len = record.len as usize;
        let bytes = self.file.read_at(record.position, record_len(len)).await?;
        if bytes.len() < record_len(len) {
            return Ok(false);
        }
        let start = payload_start(len);
        let payload = if is_inline(len) { &bytes[start..start + len] } else { &bytes[start..] };
        debug_assert!(shard.placement.0 > 0);
        Ok(verify_blocks(&bytes[..BLOCK], len, 0, payload).is_ok())
    }

    async fn block(&self, position: u64) -> Result<Vec<u8>, DiskError> {
        {
            let window = self.window.borrow();
            if position >= window.0 && position + BLOCK as u64 <= window.0.saturating_add(window.1.len() as u64) {
                let at = (position - window.0) as usize;
                return Ok(window.1[at..at + BLOCK].to_vec());
            }
        }
        if position >= self.file_len {
            return Ok(vec![0; BLOCK]);
        }
        let bytes = self.file.read_at(position, WINDOW).await?;
        let mut bytes = bytes.to_vec();
        if bytes.len() < BLOCK {
            bytes.resize(BLOCK, 0);
        }
        let block = bytes[..BLOCK].to_vec();
        *self.window.borrow_mut() = (position, bytes);
        Ok(block)
    }
}

/// A shard's tail while it is read.
struct Tail<'a> {
    shard: &'a mut Shard,
    /// Bytes found so far.
    len: u64,
    /// Highest durable mark seen in any record.
    mark: u64,
    found: Vec<RecordRef>,
    /// A record that must have been there is bad, and nothing behind it vouches for it.
    bad: bool,
    rot: u64,
}

impl Tail<'_> {
    /// Takes in a valid record; `false` if it is none of this life of the shard.
    fn take(&mut self, header: RecordHeader, position: u64) -> bool {
        let record = RecordRef { offset: header.offset, position, len: header.payload_len };
        match header.kind {
            RecordKind::Data => {
                if header.offset < self.len {
                    return false;
                }
                if header.offset > self.len {
                    if header.durable_len <= self.len {
                        // Written before what is missing was durable: never acked.
                        self.bad = true;
                        return false;
                    }
                    self.rot += 1;
                }
                self.bad = false;
                self.mark = self.mark.max(header.durable_len);
                self.len = header.offset + u64::from(header.payload_len);
                self.found.push(record);
                self.shard.epoch = self.shard.epoch.max(header.epoch);
            }
            RecordKind::Fence | RecordKind::Seal => {
                if header.offset > self.len {
                    if header.durable_len <= self.len {
                        self.bad = true;
                        return false;
                    }
                    self.rot += 1;
                    self.len = header.offset;
                }
                // What lies beyond the length of a fence was cut before it.
                self.found.retain(|record| record.offset < header.offset);
                self.len = header.offset;
                self.mark = self.mark.max(header.offset);
                self.bad = false;
                self.shard.epoch = self.shard.epoch.max(header.epoch);
                self.shard.cut |= header.cut;
                if header.kind == RecordKind::Seal {
                    self.shard.records.append(&mut self.found);
                    self.shard.set_recovered_len(header.offset);
                    self.shard.seal_at(header.offset);
                }
            }
            RecordKind::Tombstone => return false,
        }
        true
    }
}

fn shard_of(entry: &ShardEntry) -> Shard {
    let index = ShardIndex(entry.name.index as u8);
    let mut shard = Shard::new(ChunkId(entry.name.chunk), PlacementId(entry.name.placement), index, Epoch(entry.epoch));
    shard.cut = entry.cut;
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
