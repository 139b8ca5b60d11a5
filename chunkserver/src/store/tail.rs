//! The tail of an unsealed shard after a crash: which records count, where it ends.
//!
//! A bad record below a later record's durable mark is rot: it stays a hole that reads report and
//! repair fills. Any other bad record ends the shard, which then says "at least this long" and
//! takes no appends until it is fenced (ARCHITECTURE 4, rule 10; the model `torn_or_rot`).

use futures_util::{StreamExt, stream};
use platform::buffer::Buffer;
use platform::disk::DiskError;
use proto::record::{BLOCK, RecordHeader, RecordKind, is_inline, payload_start, record_len, verify_blocks};

use super::recovery::Recovery;
use super::shard::{RecordRef, Shard};

/// Bytes read at once while one record follows the other.
const WINDOW: usize = 64 << 10;
/// Bytes read at once where records have ended: behind the last one every block of the slot must
/// be looked at, since a later record would make what is missing before it rot.
const WINDOW_BEYOND: usize = 512 << 10;
/// Payloads of a shard checked at once.
const PAYLOADS_AT_ONCE: usize = 2;

/// Reads the tail of a shard; with a `gap` something is missing behind its slots. `false` = it was
/// deleted.
pub(super) async fn recover(recovery: &Recovery<'_>, shard: &mut Shard, gap: bool) -> Result<bool, DiskError> {
    if let Some((slot, sequence)) = shard.slots.first().copied() {
        let block = recovery.file.read_at(recovery.slot_start(slot), BLOCK).await?;
        let header = RecordHeader::decode(&block, recovery.store);
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
    let len = shard.durable_len();
    let mut tail =
        Tail { shard, len, mark: len, found: Vec::new(), bad: false, rot: 0, cut_at_rot: recovery.cut_at_rot };
    if scan(recovery, &mut tail).await? {
        return Ok(true);
    }
    tail.bad |= gap;
    settle(recovery, tail).await?;
    Ok(true)
}

/// Takes in every record behind the durable tail, slot by slot. `true` = it found the seal.
async fn scan(recovery: &Recovery<'_>, tail: &mut Tail<'_>) -> Result<bool, DiskError> {
    let (mut index, mut position) = tail.shard.durable_tail;
    while let Some((slot, sequence)) = tail.shard.slots.get(index as usize).copied() {
        position = position.max(recovery.slot_start(slot));
        let mut window = Window::new(recovery, (slot + 1) * recovery.slot_size);
        while position < window.end {
            let block = window.block(position).await?;
            let decoded = RecordHeader::decode(block, recovery.store)
                .ok()
                .filter(|header| header.placement == tail.shard.placement && header.slot_sequence == sequence);
            let Some(header) = decoded else {
                tail.bad |= RecordHeader::resembles(block, tail.shard.placement, sequence);
                position += BLOCK as u64;
                window.step = WINDOW_BEYOND;
                continue;
            };
            let len = record_len(header.payload_len as usize) as u64;
            if !tail.take(header, position) {
                position += BLOCK as u64;
                continue;
            }
            window.step = WINDOW;
            position += len;
            tail.shard.durable_tail = (index, position);
            if tail.shard.sealed {
                return Ok(true);
            }
        }
        index += 1;
        position = 0;
    }
    Ok(false)
}

/// Checks the payload of what no later mark vouches for, and fixes the shard's length.
async fn settle(recovery: &Recovery<'_>, mut tail: Tail<'_>) -> Result<(), DiskError> {
    let mut len = tail.len;
    let mark = tail.mark;
    let unvouched = tail.found.iter().filter(|record| record.offset + u64::from(record.len) > mark);
    let mut checks = stream::iter(unvouched.map(|record| async move {
        let good = payload_is_good(recovery, *record).await?;
        Ok::<_, DiskError>((record.offset, good))
    }))
    .buffered(PAYLOADS_AT_ONCE);
    while let Some(check) = checks.next().await {
        let (offset, good) = check?;
        if !good {
            tail.bad = true;
            len = len.min(offset);
            break;
        }
    }
    drop(checks);
    tail.shard.records.extend(tail.found.iter().filter(|record| record.offset + u64::from(record.len) <= len));
    tail.shard.set_recovered_len(len);
    if tail.bad {
        tracing::info!(placement = %tail.shard.placement, len, "a torn tail was cut");
        // The mistake takes what it cut for never acknowledged.
        tail.shard.cut = !tail.cut_at_rot;
        tail.shard.broken = !tail.cut_at_rot;
    }
    if tail.rot > 0 {
        tail.shard.has_holes = true;
        tracing::warn!(placement = %tail.shard.placement, records = tail.rot, "rotten records below the durable mark");
    }
    // The next record goes to a fresh slot: nothing that may have been acked is overwritten.
    tail.shard.tail = 0;
    tail.shard.durable_tail = (tail.shard.slots.len() as u32, 0);
    Ok(())
}

async fn payload_is_good(recovery: &Recovery<'_>, record: RecordRef) -> Result<bool, DiskError> {
    let len = record.len as usize;
    let bytes = recovery.file.read_at(record.position, record_len(len)).await?;
    if bytes.len() < record_len(len) {
        return Ok(false);
    }
    let start = payload_start(len);
    let payload = if is_inline(len) { &bytes[start..start + len] } else { &bytes[start..] };
    Ok(verify_blocks(&bytes[..BLOCK], len, 0, payload).is_ok())
}

/// Blocks of a slot, read ahead in one piece.
struct Window<'a> {
    recovery: &'a Recovery<'a>,
    /// Where the slot ends.
    end: u64,
    /// Bytes to read next.
    step: usize,
    start: u64,
    bytes: Buffer,
}

impl<'a> Window<'a> {
    fn new(recovery: &'a Recovery<'a>, end: u64) -> Window<'a> {
        Window { recovery, end, step: WINDOW, start: 0, bytes: Buffer::zeroed(0) }
    }

    /// The block at `position`; zeros beyond the file's end.
    async fn block(&mut self, position: u64) -> Result<&[u8], DiskError> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if !held.contains(&position) || position + BLOCK as u64 > held.end {
            let len = self.step.min((self.end - position) as usize);
            let inside = position < self.recovery.file_len;
            let mut bytes = if inside { self.recovery.file.read_at(position, len).await? } else { Buffer::zeroed(0) };
            if bytes.len() < BLOCK {
                bytes = Buffer::zeroed(BLOCK);
            }
            (self.start, self.bytes) = (position, bytes);
        }
        let at = (position - self.start) as usize;
        Ok(&self.bytes[at..at + BLOCK])
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
    /// A planted mistake.
    cut_at_rot: bool,
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
                    if header.durable_len <= self.len || self.cut_at_rot {
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
                    if header.durable_len <= self.len || self.cut_at_rot {
                        self.bad = true;
                        return false;
                    }
                    self.rot += 1;
                    self.len = header.offset;
                }
                // What lies beyond the length of a fence was cut before it.
                self.found.retain(|record| record.offset < header.offset);
                self.len = header.offset;
                // A seal is written when what it fixes is durable; a fence beside appends that are still on
                // their way, and a power cut may leave it and tear them.
                let vouched = if header.kind == RecordKind::Seal { header.offset } else { header.durable_len };
                self.mark = self.mark.max(vouched);
                self.bad = false;
                // The fence began a new life.
                self.shard.broken = false;
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
