//! One shard in memory: what is accepted, what is durable, where its records lie. Pure.

use std::collections::VecDeque;

use proto::record::{BLOCK, RecordKind, record_len};
use types::ids::{ChunkId, Epoch, PlacementId, ShardIndex};

/// Where a data record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordRef {
    /// First shard byte.
    pub offset: u64,
    /// Position of the header block in the data file, bytes.
    pub position: u64,
    /// Payload bytes.
    pub len: u32,
}

/// A record on its way to the disk.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    end: u64,
    data: Vec<RecordRef>,
    done: bool,
    checksum: u64,
    offset: u64,
    behind: (u32, u64),
}

/// Why an append, fence or seal is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another epoch is stored.
    Fenced(Epoch),
    /// Sealed at this length.
    Sealed(u64),
    /// The shard's length is this.
    WrongOffset(u64),
    /// A write failed or a tail was cut: nothing is taken until it is fenced.
    Broken,
}

/// What to do with an append.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it.
    Accept,
    /// It was written before; wait until this shard byte is durable.
    Retry(u64),
    /// Earlier appends have not arrived yet.
    Early,
}

/// A place for a piece of an append.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Piece {
    /// Position of its record in the data file.
    pub position: u64,
    /// Payload bytes.
    pub len: usize,
    /// Index and sequence of the slot.
    pub slot_index: u32,
    /// Occupancy of the slot.
    pub sequence: u64,
}

/// A shard.
#[derive(Debug)]
pub struct Shard {
    pub chunk: ChunkId,
    pub placement: PlacementId,
    pub index: ShardIndex,
    pub epoch: Epoch,
    pub sealed: bool,
    /// It lost a tail at a restart, or was not known when it was fenced; the length is "at least".
    pub cut: bool,
    /// A write failed, or a tail was cut and no fence came since: no appends.
    pub broken: bool,
    /// Recovery found rotten records below what was durable: it is to be repaired.
    pub has_holes: bool,
    /// (slot, sequence), in order.
    pub slots: Vec<(u64, u64)>,
    /// Durable data records in order of offset.
    pub records: Vec<RecordRef>,
    /// Where the next record begins in the data file; 0 = in a new slot.
    pub tail: u64,
    /// Slot index and file position behind the last durable record; position 0 = the slot's start.
    pub durable_tail: (u32, u64),
    /// Records whose device write has not come back yet.
    pub writing: u32,
    /// Slots that hold nothing durable since a write failed; given back once no write is under way.
    pub abandoned: Vec<u64>,
    accepted: u64,
    durable: u64,
    pending: VecDeque<Pending>,
    next_ticket: u64,
    recent: VecDeque<(u64, u64, u64)>,
}

/// Appends remembered for recognising an exact retry.
const RECENT_MAX: usize = 64;
/// How far ahead of the shard's length an append may arrive.
const WINDOW: u64 = 32 << 20;

impl Shard {
    /// An empty shard.
    pub fn new(chunk: ChunkId, placement: PlacementId, index: ShardIndex, epoch: Epoch) -> Shard {
        Shard {
            chunk,
            placement,
            index,
            epoch,
            sealed: false,
            cut: false,
            broken: false,
            has_holes: false,
            slots: Vec::new(),
            records: Vec::new(),
            tail: 0,
            durable_tail: (0, 0),
            writing: 0,
            abandoned: Vec::new(),
            accepted: 0,
            durable: 0,
            pending: VecDeque::new(),
            next_ticket: 0,
            recent: VecDeque::new(),
        }
    }

    /// Bytes acked or recovered.
    pub fn durable_len(&self) -> u64 {
        self.durable
    }

    /// Bytes accepted, durable or on their way.
    pub fn accepted_len(&self) -> u64 {
        self.accepted
    }

    /// After recovery: everything up to `len` is durable.
    pub fn set_recovered_len(&mut self, len: u64) {
        self.accepted = len;
        self.durable = len;
    }

    /// Whether records are on their way to the disk.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Judges an append of `len` bytes with `checksum` at `offset` under `epoch`.
    pub fn judge(&self, epoch: Epoch, offset: u64, len: u64, checksum: u64) -> Result<Verdict, Refusal> {
        if epoch != self.epoch {
            return Err(Refusal::Fenced(self.epoch));
        }
        if self.sealed {
            return Err(Refusal::Sealed(self.durable));
        }
        if offset < self.accepted {
            let known = self.recent.iter().any(|recent| *recent == (offset, len, checksum));
            return if known { Ok(Verdict::Retry(offset + len)) } else { Err(Refusal::WrongOffset(self.accepted)) };
        }
        if self.broken {
            return Err(Refusal::Broken);
        }
        if offset > self.accepted {
            let near = offset - self.accepted <= WINDOW;
            return if near { Ok(Verdict::Early) } else { Err(Refusal::WrongOffset(self.accepted)) };
        }
        Ok(Verdict::Accept)
    }

    /// Finds room for a record of `len` payload bytes behind the tail, splitting it where a slot
    /// ends; `take_slot` gives further slots. The pieces are contiguous in the shard.
    ///
    /// # Errors
    /// No slot is left. The shard is as it was; the slots taken in vain go back to the caller.
    pub fn place(
        &mut self,
        len: usize,
        slot_size: u64,
        mut take_slot: impl FnMut() -> Option<(u64, u64)>,
    ) -> Result<Vec<Piece>, Vec<u64>> {
        let (tail, slots) = (self.tail, self.slots.len());
        let mut pieces = Vec::new();
        let mut left = len;
        loop {
            let slot_end = self.slots.last().map_or(0, |(slot, _)| (slot + 1) * slot_size);
            let room = if self.tail == 0 { 0 } else { slot_end - self.tail };
            let fits = piece_that_fits(left, room as usize);
            let Some(take) = fits else {
                let Some((slot, sequence)) = take_slot() else {
                    self.tail = tail;
                    return Err(self.slots.drain(slots..).map(|(slot, _)| slot).collect());
                };
                self.slots.push((slot, sequence));
                // Slot 0 begins at byte 0 of the file, which also means "no tail": the file's
                // first block is therefore never used.
                self.tail = (slot * slot_size).max(BLOCK as u64);
                continue;
            };
            pieces.push(Piece {
                position: self.tail,
                len: take,
                slot_index: (self.slots.len() - 1) as u32,
                sequence: self.slots.last().map_or(0, |slot| slot.1),
            });
            self.tail += record_len(take) as u64;
            if self.tail >= (self.slots.last().map_or(0, |slot| slot.0) + 1) * slot_size {
                self.tail = 0;
            }
            left -= take;
            if left == 0 {
                return Ok(pieces);
            }
        }
    }

    /// Notes that a record is on its way. Answers a ticket for [`Shard::finished`].
    pub fn started(&mut self, kind: RecordKind, offset: u64, len: u64, checksum: u64, data: Vec<RecordRef>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.writing += 1;
        if kind == RecordKind::Data {
            assert_eq!(offset, self.accepted, "append out of order was accepted");
            self.accepted += len;
            self.recent.push_back((offset, len, checksum));
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
        }
        let behind = if self.tail == 0 {
            (self.slots.len() as u32, 0)
        } else {
            ((self.slots.len() as u32).saturating_sub(1), self.tail)
        };
        self.pending.push_back(Pending { ticket, end: self.accepted, data, done: false, checksum, offset, behind });
        ticket
    }

    /// A record is flushed: everything up to the first unfinished record is durable.
    pub fn finished(&mut self, ticket: u64) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.ticket == ticket) {
            pending.done = true;
        }
        while self.pending.front().is_some_and(|pending| pending.done) && !self.broken {
            if let Some(pending) = self.pending.pop_front() {
                self.durable = pending.end;
                self.durable_tail = pending.behind;
                self.records.extend(pending.data);
            }
        }
    }

    /// The write or flush of the record of `ticket` failed: what is not durable never will be. A
    /// record of a life that a fence has ended changes nothing.
    ///
    /// Slots without a durable record are abandoned, so that every slot of the shard begins with a
    /// record: recovery finds slots by their first one.
    pub fn failed(&mut self, ticket: u64) {
        if !self.pending.iter().any(|pending| pending.ticket == ticket) {
            return;
        }
        self.broken = true;
        self.accepted = self.durable;
        let kept = self.slots_with_durable_records();
        if self.slots.len() > kept {
            self.abandoned.extend(self.slots.drain(kept..).map(|(slot, _)| slot));
            self.tail = 0;
        }
        for pending in self.pending.drain(..) {
            self.recent.retain(|recent| *recent != (pending.offset, pending.end - pending.offset, pending.checksum));
        }
    }

    /// How many slots, from the first, hold what is durable.
    pub fn slots_with_durable_records(&self) -> usize {
        let (index, position) = self.durable_tail;
        (index as usize + usize::from(position > 0)).min(self.slots.len())
    }

    /// Whether the record of `ticket` and all before it are durable.
    pub fn is_finished(&self, ticket: u64) -> bool {
        self.pending.front().is_none_or(|pending| pending.ticket > ticket) && ticket < self.next_ticket
    }

    /// Fixes the length for ever; drops what lies beyond it.
    pub fn seal_at(&mut self, len: u64) {
        assert!(len <= self.durable, "seal beyond the durable length");
        self.sealed = true;
        self.durable = len;
        self.accepted = len;
        self.records.retain(|record| record.offset < len);
    }

    /// The records that cover `offset..end`, by index range.
    pub fn find(&self, offset: u64, end: u64) -> &[RecordRef] {
        let first = self.records.partition_point(|record| record.offset + u64::from(record.len) <= offset);
        let last = self.records.partition_point(|record| record.offset < end);
        &self.records[first..last.max(first)]
    }
}

/// How many bytes of a record with `left` bytes of payload fit into `room` bytes.
fn piece_that_fits(left: usize, room: usize) -> Option<usize> {
    if record_len(left) <= room {
        return Some(left);
    }
    // A split is worth it only if at least one whole payload block fits behind the header.
    (room >= 2 * BLOCK).then(|| (room - BLOCK) / BLOCK * BLOCK).filter(|take| *take < left)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, ChunkId, Epoch, Piece, PlacementId, RecordKind, Refusal, Shard, ShardIndex, Verdict};

    fn shard() -> Shard {
        Shard::new(ChunkId(1), PlacementId(1), ShardIndex(0), Epoch(1))
    }

    #[test]
    fn append_is_accepted_only_at_the_length_and_epoch() {
        let mut shard = shard();
        assert_eq!(shard.judge(Epoch(1), 0, 10, 5), Ok(Verdict::Accept));
        assert_eq!(shard.judge(Epoch(2), 0, 10, 5), Err(Refusal::Fenced(Epoch(1))));
        let ticket = shard.started(RecordKind::Data, 0, 10, 5, Vec::new());
        assert_eq!(shard.judge(Epoch(1), 20, 10, 5), Ok(Verdict::Early));
        assert_eq!(shard.judge(Epoch(1), 0, 10, 5), Ok(Verdict::Retry(10)));
        assert_eq!(shard.judge(Epoch(1), 0, 10, 6), Err(Refusal::WrongOffset(10)));
        assert_eq!(shard.durable_len(), 0);
        shard.finished(ticket);
        assert_eq!(shard.durable_len(), 10);
    }

    #[test]
    fn length_is_durable_only_as_a_prefix() {
        let mut shard = shard();
        let first = shard.started(RecordKind::Data, 0, 10, 0, Vec::new());
        let second = shard.started(RecordKind::Data, 10, 10, 0, Vec::new());
        shard.finished(second);
        assert_eq!(shard.durable_len(), 0);
        assert!(!shard.is_finished(second));
        shard.finished(first);
        assert_eq!(shard.durable_len(), 20);
        assert!(shard.is_finished(second));
    }

    #[test]
    fn failed_write_stops_the_shard_at_its_durable_length() {
        let mut shard = shard();
        let first = shard.started(RecordKind::Data, 0, 10, 0, Vec::new());
        shard.finished(first);
        let second = shard.started(RecordKind::Data, 10, 10, 0, Vec::new());
        shard.failed(second);
        shard.finished(second);
        assert_eq!(shard.durable_len(), 10);
        assert_eq!(shard.judge(Epoch(1), 10, 10, 0), Err(Refusal::Broken));
    }

    #[test]
    fn records_are_split_where_a_slot_ends() {
        let mut shard = shard();
        let mut next = 3;
        let mut take = || {
            next += 1;
            Some((next, 100 + next))
        };
        let slot = 16 * BLOCK as u64;
        let pieces = shard.place(20 * BLOCK, slot, &mut take).expect("room");
        assert_eq!(
            pieces,
            vec![
                Piece { position: 4 * slot, len: 15 * BLOCK, slot_index: 0, sequence: 104 },
                Piece { position: 5 * slot, len: 5 * BLOCK, slot_index: 1, sequence: 105 },
            ]
        );
        assert_eq!(shard.tail, 5 * slot + 6 * BLOCK as u64);
    }

    #[test]
    fn slot_whose_first_write_failed_is_abandoned() {
        let mut shard = shard();
        let slot = 16 * BLOCK as u64;
        shard.place(3 * BLOCK, slot, || Some((4, 0))).expect("room");
        let first = shard.started(RecordKind::Data, 0, 3 * BLOCK as u64, 0, Vec::new());
        shard.finished(first);
        shard.place(15 * BLOCK, slot, || Some((5, 1))).expect("room");
        let second = shard.started(RecordKind::Data, 3 * BLOCK as u64, 15 * BLOCK as u64, 0, Vec::new());
        assert_eq!(shard.slots.len(), 2);
        shard.failed(second);
        assert_eq!((shard.slots.clone(), shard.abandoned.clone(), shard.tail), (vec![(4, 0)], vec![5], 0));
        // A record that failed long ago does not end the life that began with a fence.
        shard.broken = false;
        shard.failed(second);
        assert!(!shard.broken);
    }

    #[test]
    fn append_without_room_leaves_the_shard_as_it_was() {
        let mut shard = shard();
        let slot = 16 * BLOCK as u64;
        shard.place(BLOCK, slot, || Some((4, 0))).expect("room");
        let tail = shard.tail;
        let mut left = vec![(5, 1)];
        assert_eq!(shard.place(40 * BLOCK, slot, || left.pop()), Err(vec![5]));
        assert_eq!((shard.slots.len(), shard.tail), (1, tail));
    }

    #[test]
    fn seal_drops_what_lies_beyond() {
        let mut shard = shard();
        let ticket = shard.started(RecordKind::Data, 0, 10, 0, Vec::new());
        shard.finished(ticket);
        shard.seal_at(4);
        assert_eq!(shard.durable_len(), 4);
        assert_eq!(shard.judge(Epoch(1), 4, 1, 0), Err(Refusal::Sealed(4)));
    }
}
