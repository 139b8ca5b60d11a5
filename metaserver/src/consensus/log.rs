//! The Raft log on disk: segment files of records (`proto::log_record`), the only write-ahead log.
//!
//! Each write begins on a fresh 4 KiB block, so no flushed block is ever rewritten. Every segment
//! begins with a hard state. On opening, a bad record whose sequence lies at or below a later
//! record's durable mark is rot: the replica must not vote until its peers have refilled it. Any
//! other bad record ends the log; whether it may have been acknowledged is what [`Tail`] says.

mod scan;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::buffer::{BLOCK, Buffer};
use platform::disk::{Disk, DiskError, File, Open};
use platform::planted::{Planted, PlantedBug};
use proto::log_record::{LogKind, LogRecord};
use thiserror::Error;
use types::ids::StoreId;

use self::scan::Scan;

/// Why the log cannot be opened or written.
#[derive(Debug, Error)]
pub enum LogError {
    /// A record that was flushed is damaged.
    #[error("raft log of {store} is rotten at record {sequence}: {later} vouches for it")]
    Rot {
        /// The replica's store.
        store: StoreId,
        /// The missing record.
        sequence: u64,
        /// A later record whose durable mark covers it.
        later: u64,
    },
    /// Records of another replica, or of another life of this one.
    #[error("raft log of {store} holds records of {found}")]
    Foreign {
        /// Whose log it should be.
        store: StoreId,
        /// Whose record lies there.
        found: StoreId,
    },
    /// The disk failed.
    #[error("raft log: {0}")]
    Disk(#[from] DiskError),
}

/// An entry as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Raft index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
    /// Raft's entry type as a number.
    pub kind: u64,
    /// Encoded entry.
    pub data: Vec<u8>,
}

/// Term, vote and commit index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    /// Current term.
    pub term: u64,
    /// Whom this replica voted for in it, 0 = nobody.
    pub vote: u64,
    /// Highest index known committed.
    pub commit: u64,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tail {
    /// With a record.
    Whole,
    /// With a write that never arrived as a whole; a disk that keeps its word never acknowledged it.
    Torn,
    /// With a record that arrived and is damaged: it may have been acknowledged.
    Bad,
}

/// What opening found.
pub struct Recovered {
    /// Entries in order, without gaps.
    pub entries: Vec<LogEntry>,
    /// The last hard state.
    pub vote: Vote,
    /// How the log ended; what was bad is cut off.
    pub tail: Tail,
    /// Sequence of the last record.
    pub sequence: u64,
}

/// Where a log lies and how it is cut into files.
#[derive(Clone, Copy)]
pub struct LogConfig {
    /// The name that its records carry.
    pub store: StoreId,
    /// Segments below it are of an earlier life.
    pub first_segment: u64,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Mistakes to make.
    pub planted: Planted,
}

struct Segment {
    number: u64,
    last_index: u64,
}

/// Writes records; one write at a time.
pub struct LogWriter {
    disk: Disk,
    store: StoreId,
    segment_size: u64,
    file: File,
    number: u64,
    position: u64,
    sequence: u64,
    durable_sequence: u64,
    vote: Vote,
    segments: Vec<Segment>,
    last_index: u64,
    ahead_ready: Rc<Cell<bool>>,
    /// A planted mistake.
    unflushed: bool,
}

/// A file of zeros that becomes the next segment: a block that was written before is flushed twice
/// as fast as one that was not.
const AHEAD: &str = "ahead";
const AHEAD_UNFINISHED: &str = "ahead-unfinished";

fn name(number: u64) -> String {
    format!("log-{number:016x}")
}

fn number_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("log-")?, 16).ok()
}

impl LogWriter {
    /// Whether anything was ever written to a log in `disk`.
    ///
    /// # Errors
    /// The disk.
    pub async fn exists(disk: &Disk) -> Result<bool, LogError> {
        for name in disk.list().await? {
            if number_of(&name).is_some() && disk.open(&name, Open::Existing).await?.len().await? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the log in `disk`, making it if it is new. Segments below `first_segment` belong to an
    /// earlier life of the replica and are passed over.
    ///
    /// # Errors
    /// `Rot` when flushed records are damaged, `Foreign` when they are of somebody else; the disk.
    pub async fn open(disk: Disk, config: LogConfig) -> Result<(LogWriter, Recovered), LogError> {
        let LogConfig { store, first_segment, segment_size, planted } = config;
        let names = disk.list().await?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        let ahead_ready = Rc::new(Cell::new(names.iter().any(|name| name == AHEAD)));
        numbers.sort_unstable();
        let next = numbers.last().map_or(1, |last| last + 1).max(first_segment);
        numbers.retain(|number| *number >= first_segment);
        let mut scan = Scan::new(store, planted.has(PlantedBug::LogCutAtRot));
        for number in &numbers {
            scan.segment(&disk, *number).await?;
        }
        let content_end = scan.content_end;
        let found = scan.finish()?;
        // What a killed process wrote may be with the machine but not on the device yet. From here
        // on it counts as durable (and may be acknowledged), so it must be.
        // The zeros it was written ahead with go: nothing is appended to it any more, and the next
        // starts need not read them. They stay where they may be the rest of a torn record.
        if let Some(last) = numbers.last() {
            let file = disk.open(&name(*last), Open::Existing).await?;
            if found.recovered.tail == Tail::Whole && content_end < file.len().await? {
                file.set_len(content_end).await?;
            }
            file.flush().await?;
        }
        let file = open_next(&disk, next, &ahead_ready).await?;
        let segments = found
            .segments
            .iter()
            .map(|(number, last_index)| Segment { number: *number, last_index: *last_index })
            .collect();
        let last_index = found.recovered.entries.last().map_or(0, |entry| entry.index);
        let writer = LogWriter {
            disk,
            store,
            segment_size,
            file,
            number: next,
            position: 0,
            sequence: found.last_sequence,
            durable_sequence: found.last_sequence,
            vote: found.recovered.vote,
            segments,
            last_index,
            ahead_ready,
            unflushed: planted.has(PlantedBug::LogNotFlushed),
        };
        Ok((writer, found.recovered))
    }

    /// The number behind those of all segments in `disk`.
    ///
    /// # Errors
    /// The disk.
    pub async fn next_segment(disk: &Disk) -> Result<u64, LogError> {
        let names = disk.list().await?;
        Ok(names.iter().filter_map(|name| number_of(name)).max().unwrap_or(0) + 1)
    }

    /// What the first hard state written from now on says if nothing newer is appended before.
    pub fn begin_with(&mut self, vote: Vote) {
        self.vote = vote;
    }

    /// Sequence of the last record that is durable.
    pub fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    /// Removes the segments of earlier lives, below `first_segment`.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn remove_earlier_lives(&self, first_segment: u64) -> Result<(), LogError> {
        for name in self.disk.list().await? {
            if number_of(&name).is_some_and(|number| number < first_segment) {
                self.disk.remove(&name).await?;
            }
        }
        Ok(())
    }

    /// Appends a hard state (if it changed), a cut (if entries from `cut` on are void), and
    /// entries, then flushes. Durable when this returns; a crash in the middle leaves a prefix.
    ///
    /// # Errors
    /// The disk failed: the replica must stop.
    pub async fn append(&mut self, vote: Option<Vote>, cut: Option<u64>, entries: &[LogEntry]) -> Result<(), LogError> {
        if self.position >= self.segment_size {
            self.roll().await?;
        }
        let mut out = Vec::with_capacity(BLOCK);
        if let Some(vote) = vote {
            self.vote = vote;
        }
        if vote.is_some() || self.position == 0 {
            let vote = self.vote;
            self.encode(&mut out, LogKind::HardState, (vote.commit, vote.term, vote.vote), Vec::new());
        }
        if let Some(cut) = cut {
            self.encode(&mut out, LogKind::Cut, (cut, 0, 0), Vec::new());
            self.last_index = cut.saturating_sub(1);
        }
        for entry in entries {
            self.encode(&mut out, LogKind::Entry, (entry.index, entry.term, entry.kind), entry.data.clone());
            self.last_index = entry.index;
        }
        let mut buffer = Buffer::zeroed(out.len().next_multiple_of(BLOCK));
        buffer[..out.len()].copy_from_slice(&out);
        let bytes: Bytes = buffer.freeze();
        let len = bytes.len() as u64;
        // One trip to the device: written and durable together.
        if self.unflushed {
            self.file.write_at(self.position, vec![bytes]).await?;
        } else {
            self.file.write_durable_at(self.position, vec![bytes]).await?;
        }
        self.position += len;
        self.durable_sequence = self.sequence;
        Ok(())
    }

    fn encode(&mut self, out: &mut Vec<u8>, kind: LogKind, fields: (u64, u64, u64), data: Vec<u8>) {
        self.sequence += 1;
        let (index, term, extra) = fields;
        LogRecord {
            kind,
            store: self.store,
            segment: self.number,
            index,
            term,
            extra,
            durable_sequence: self.durable_sequence,
            sequence: self.sequence,
            data,
        }
        .encode(out);
    }

    async fn roll(&mut self) -> Result<(), LogError> {
        self.segments.push(Segment { number: self.number, last_index: self.last_index });
        self.number += 1;
        self.file = open_next(&self.disk, self.number, &self.ahead_ready).await?;
        self.position = 0;
        Ok(())
    }

    /// Removes segments whose entries all lie at or below `index`; the state up to there is
    /// durable elsewhere.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn trim(&mut self, index: u64, platform: &Platform) -> Result<(), LogError> {
        if self.position == 0 {
            // The present segment has no hard state yet: the last one lies in an older segment.
            return Ok(());
        }
        while self.segments.first().is_some_and(|segment| segment.last_index <= index) {
            let segment = self.segments.remove(0);
            self.disk.remove(&name(segment.number)).await?;
            platform.reached("log segment removed");
        }
        Ok(())
    }

    /// Whether a segment is written ahead; [`keep_ahead`] sets it, the next roll takes it.
    pub fn ahead_ready(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.ahead_ready)
    }

    /// Segments in use, the current one included.
    pub fn segment_count(&self) -> usize {
        self.segments.len() + 1
    }
}

/// Opens the file of a new segment: the one that was written ahead, if there is one.
async fn open_next(disk: &Disk, number: u64, ahead_ready: &Cell<bool>) -> Result<File, DiskError> {
    if ahead_ready.replace(false) {
        disk.rename(AHEAD, &name(number)).await?;
        return disk.open(&name(number), Open::Existing).await;
    }
    disk.open(&name(number), Open::CreateNew).await
}

/// Keeps one segment written ahead, in small steps, until the disk fails. A crash in the middle
/// leaves an unfinished file that the next run begins anew.
pub async fn keep_ahead(platform: Platform, disk: Disk, ready: Rc<Cell<bool>>, segment_size: u64) {
    loop {
        platform.clock().sleep(Duration::from_millis(250)).await;
        if ready.get() {
            continue;
        }
        match write_ahead(&platform, &disk, segment_size).await {
            Ok(()) => ready.set(true),
            Err(error) => {
                tracing::warn!(%error, "no log segment is written ahead; flushes will be slower");
                return;
            }
        }
    }
}

async fn write_ahead(platform: &Platform, disk: &Disk, len: u64) -> Result<(), DiskError> {
    let file = disk.open(AHEAD_UNFINISHED, Open::CreateOrExisting).await?;
    let zeros = Buffer::zeros(len.min(256 << 10) as usize);
    let mut at = 0;
    while at < len {
        file.write_at(at, vec![zeros.clone()]).await?;
        at += zeros.len() as u64;
        platform.clock().sleep(Duration::from_millis(2)).await;
    }
    file.flush().await?;
    disk.rename(AHEAD_UNFINISHED, AHEAD).await
}

#[cfg(test)]
mod flips;
#[cfg(test)]
mod tests;
