//! Reading the log back: which records stand, and what is to be thought of those that do not.
//!
//! ```text
//! good good bad good(mark covers bad)   rot: flushed, so perhaps acknowledged -> LogError::Rot
//! good good bad good(mark does not)     torn: a write that no flush covered
//! good good bad                         torn if a sector of it never arrived, else bad
//! ```

use std::collections::BTreeMap;

use platform::buffer::BLOCK;
use platform::disk::{Disk, Open};
use proto::log_record::{HEADER_LEN, LogKind, LogRecord, resembles, span};
use types::ids::StoreId;

use super::{LogEntry, LogError, Recovered, Tail, Vote, name};

/// What a device writes atomically, bytes.
const SECTOR: usize = 512;

pub(super) struct Found {
    pub(super) recovered: Recovered,
    /// Number and last index of each segment.
    pub(super) segments: Vec<(u64, u64)>,
    pub(super) last_sequence: u64,
}

pub(super) struct Scan {
    store: StoreId,
    entries: BTreeMap<u64, LogEntry>,
    vote: Vote,
    last_sequence: u64,
    /// First record of the log that is still kept.
    started: bool,
    segments: Vec<(u64, u64)>,
    /// Set once a gap was met: the first missing sequence.
    gap: Option<u64>,
    /// Highest durable mark behind the gap, and who says so.
    mark: (u64, u64),
    /// What was met behind the last record that stands.
    tail: Tail,
    /// Where the last segment read has nothing but zeros behind.
    pub(super) content_end: u64,
    /// A planted mistake.
    cut_at_rot: bool,
}

impl Scan {
    pub(super) fn new(store: StoreId, cut_at_rot: bool) -> Scan {
        Scan {
            store,
            entries: BTreeMap::new(),
            vote: Vote::default(),
            last_sequence: 0,
            started: false,
            segments: Vec::new(),
            gap: None,
            mark: (0, 0),
            tail: Tail::Whole,
            content_end: 0,
            cut_at_rot,
        }
    }

    pub(super) async fn segment(&mut self, disk: &Disk, number: u64) -> Result<(), LogError> {
        let file = disk.open(&name(number), Open::Existing).await?;
        let len = file.len().await?.next_multiple_of(BLOCK as u64);
        let mut bytes = Vec::with_capacity(len as usize);
        while (bytes.len() as u64) < len {
            let part = file.read_at(bytes.len() as u64, (len as usize - bytes.len()).min(1 << 20)).await?;
            if part.is_empty() {
                break;
            }
            bytes.extend_from_slice(&part);
            if part.len() % BLOCK != 0 {
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            }
        }
        let mut at = 0;
        while at < bytes.len() {
            match LogRecord::decode(&bytes[at..]) {
                Ok((record, _)) if record.store != self.store => {
                    return Err(LogError::Foreign { store: self.store, found: record.store });
                }
                Ok((record, used)) if record.segment == number => {
                    self.take(record);
                    at += used;
                }
                _ => {
                    // What is met first decides: a write begins only when the one before it is durable.
                    if self.tail == Tail::Whole {
                        self.tail = self.verdict(&bytes[at..], number);
                    }
                    at = (at + 1).next_multiple_of(BLOCK);
                }
            }
        }
        let written = bytes.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0));
        self.content_end = written.map_or(0, |last| ((last + 1) * BLOCK) as u64);
        let last = self.entries.last_key_value().map_or(0, |(index, _)| *index);
        self.segments.push((number, last));
        Ok(())
    }

    fn take(&mut self, record: LogRecord) {
        // After an earlier restart cut a torn tail, its numbers were given out again: the log goes
        // on behind what was left of it.
        if self.gap == Some(record.sequence) {
            self.gap = None;
            self.mark = (0, 0);
        }
        if self.gap.is_none() && self.started && record.sequence != self.last_sequence + 1 {
            self.gap = Some(self.last_sequence + 1);
        }
        if self.gap.is_some() {
            if record.durable_sequence > self.mark.0 {
                self.mark = (record.durable_sequence, record.sequence);
            }
            return;
        }
        self.started = true;
        self.tail = Tail::Whole;
        self.last_sequence = record.sequence;
        match record.kind {
            LogKind::HardState => self.vote = Vote { term: record.term, vote: record.extra, commit: record.index },
            LogKind::Cut => {
                self.entries.split_off(&record.index);
            }
            LogKind::Entry => {
                self.entries.split_off(&record.index);
                let entry = LogEntry { index: record.index, term: record.term, kind: record.extra, data: record.data };
                self.entries.insert(record.index, entry);
            }
        }
    }

    /// What to think of bytes that are no record, from where one should begin. What a power cut left
    /// out of a write reads as zeros, sector by sector, since segments are never recycled.
    fn verdict(&self, bytes: &[u8], segment: u64) -> Tail {
        // `bytes` ends with the file, whose length is a multiple of the block.
        if bytes[..rest(bytes.len(), BLOCK)].iter().all(|byte| *byte == 0) {
            return Tail::Whole;
        }
        if !resembles(bytes, self.store, segment) {
            // The middle of a record whose beginning never arrived.
            return Tail::Torn;
        }
        // Of a record whose header cannot be trusted only the header's own sectors are known.
        let len = span(bytes).unwrap_or(HEADER_LEN);
        if len > bytes.len() {
            return Tail::Torn;
        }
        let mut at = 0;
        while at < len {
            let end = (at + rest(bytes.len() - at, SECTOR)).min(len);
            if bytes[at..end].iter().all(|byte| *byte == 0) {
                return Tail::Torn;
            }
            at = end;
        }
        Tail::Bad
    }

    pub(super) fn finish(self) -> Result<Found, LogError> {
        if let Some(gap) = self.gap
            && self.mark.0 >= gap
            && !self.cut_at_rot
        {
            return Err(LogError::Rot { store: self.store, sequence: gap, later: self.mark.1 });
        }
        // Entries end at a gap in their indexes (it cannot be, but costs nothing to ask).
        let mut entries: Vec<LogEntry> = Vec::new();
        for entry in self.entries.into_values() {
            if entries.last().is_some_and(|last| last.index + 1 != entry.index) {
                entries.clear();
            }
            entries.push(entry);
        }
        let tail = if self.cut_at_rot {
            Tail::Whole
        } else if self.gap.is_some() {
            self.tail.max(Tail::Torn)
        } else {
            self.tail
        };
        Ok(Found {
            recovered: Recovered { entries, vote: self.vote, tail, sequence: self.last_sequence },
            segments: self.segments,
            last_sequence: self.last_sequence,
        })
    }
}

/// Bytes to the next multiple of `unit` of a position that has `left` bytes before the file's end.
fn rest(left: usize, unit: usize) -> usize {
    match left % unit {
        0 => unit.min(left),
        rest => rest,
    }
}
