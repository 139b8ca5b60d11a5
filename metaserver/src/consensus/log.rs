//! The Raft log on disk: segment files of records (`proto::log_record`), the only write-ahead log.
//!
//! Each write begins on a fresh 4 KiB block, so no flushed block is ever rewritten. Every segment
//! begins with a hard state. On opening, a bad record whose sequence lies at or below a later
//! record's durable mark is rot: the replica must not vote until its peers have refilled it. Any
//! other bad record ends the log (it was never flushed, so never acknowledged).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::buffer::{BLOCK, Buffer};
use platform::disk::{Disk, DiskError, File, Open};
use proto::log_record::{LogKind, LogRecord};
use thiserror::Error;
use types::ids::StoreId;

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

/// What opening found.
pub struct Recovered {
    /// Entries in order, without gaps.
    pub entries: Vec<LogEntry>,
    /// The last hard state.
    pub vote: Vote,
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
    /// Opens the log in `disk`, making it if it is new.
    ///
    /// # Errors
    /// `Rot` when flushed records are damaged; the disk.
    pub async fn open(disk: Disk, store: StoreId, segment_size: u64) -> Result<(LogWriter, Recovered), LogError> {
        let names = disk.list().await?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        let ahead_ready = Rc::new(Cell::new(names.iter().any(|name| name == AHEAD)));
        numbers.sort_unstable();
        let mut scan = Scan::new(store);
        for number in &numbers {
            scan.segment(&disk, *number).await?;
        }
        let content_end = scan.content_end;
        let found = scan.finish()?;
        // What a killed process wrote may be with the machine but not on the device yet. From here
        // on it counts as durable (and may be acknowledged), so it must be.
        // The zeros it was written ahead with go: nothing is appended to it any more, and the next
        // starts need not read them.
        if let Some(last) = numbers.last() {
            let file = disk.open(&name(*last), Open::Existing).await?;
            if content_end < file.len().await? {
                file.set_len(content_end).await?;
            }
            file.flush().await?;
        }
        let next = numbers.last().map_or(1, |last| last + 1);
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
        };
        Ok((writer, found.recovered))
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
        self.file.write_durable_at(self.position, vec![bytes]).await?;
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
    pub async fn trim(&mut self, index: u64) -> Result<(), LogError> {
        if self.position == 0 {
            // The present segment has no hard state yet: the last one lies in an older segment.
            return Ok(());
        }
        while self.segments.first().is_some_and(|segment| segment.last_index <= index) {
            let segment = self.segments.remove(0);
            self.disk.remove(&name(segment.number)).await?;
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
    let zeros = Buffer::zeroed(256 << 10).freeze();
    let mut at = 0;
    while at < len {
        file.write_at(at, vec![zeros.clone()]).await?;
        at += zeros.len() as u64;
        platform.clock().sleep(Duration::from_millis(2)).await;
    }
    file.flush().await?;
    disk.rename(AHEAD_UNFINISHED, AHEAD).await
}

struct Found {
    recovered: Recovered,
    segments: Vec<(u64, u64)>,
    last_sequence: u64,
}

struct Scan {
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
    /// Where the last segment read has nothing but zeros behind.
    content_end: u64,
}

impl Scan {
    fn new(store: StoreId) -> Scan {
        Scan {
            store,
            entries: BTreeMap::new(),
            vote: Vote::default(),
            last_sequence: 0,
            started: false,
            segments: Vec::new(),
            gap: None,
            mark: (0, 0),
            content_end: 0,
        }
    }

    async fn segment(&mut self, disk: &Disk, number: u64) -> Result<(), LogError> {
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
                Ok((record, used)) if record.store == self.store && record.segment == number => {
                    self.take(record);
                    at += used;
                }
                _ => at = (at + 1).next_multiple_of(BLOCK),
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

    fn finish(self) -> Result<Found, LogError> {
        if let Some(gap) = self.gap
            && self.mark.0 >= gap
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
        Ok(Found {
            recovered: Recovered { entries, vote: self.vote },
            segments: self.segments,
            last_sequence: self.last_sequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Duration;

    use super::{LogEntry, LogError, LogWriter, StoreId, Vote};
    use platform::fault::DiskFault;
    use platform::sim::{SimOptions, Simulation};

    fn entry(index: u64) -> LogEntry {
        LogEntry { index, term: 1, kind: 0, data: vec![index as u8; 100] }
    }

    fn story<F: Future<Output = ()> + 'static>(make: impl FnOnce(Rc<Simulation>) -> F) {
        let simulation = Rc::new(Simulation::new(3, SimOptions::default()));
        simulation.set_faults(false);
        let run = make(Rc::clone(&simulation));
        simulation.run(run, Duration::from_secs(60)).expect("story ends");
    }

    #[test]
    fn segment_of_an_earlier_start_gives_up_the_zeros_behind_its_records() {
        story(|sim| async move {
            let open = |node: platform::Platform| node.open_disk(Path::new("/d")).expect("disk");
            let disk = open(sim.node("n"));
            let (mut log, _) = LogWriter::open(disk.clone(), StoreId(1), 64 << 10).await.expect("open");
            let vote = Some(Vote { term: 1, vote: 1, commit: 0 });
            log.append(vote, None, &[entry(1), entry(2)]).await.expect("append");
            let file = disk.open("log-0000000000000001", platform::disk::Open::Existing).await.expect("segment");
            let used = file.len().await.expect("len");
            file.set_len(64 << 10).await.expect("as if it had been written ahead");
            file.flush().await.expect("flush");
            for _ in 0..2 {
                sim.crash("n");
                let disk = open(sim.node("n"));
                let (_, found) = LogWriter::open(disk.clone(), StoreId(1), 64 << 10).await.expect("open");
                assert_eq!(found.entries, [entry(1), entry(2)]);
                let file = disk.open("log-0000000000000001", platform::disk::Open::Existing).await.expect("segment");
                assert_eq!(file.len().await.expect("len"), used);
            }
        });
    }

    #[test]
    fn flushed_records_survive_a_crash_over_segments() {
        story(|sim| async move {
            let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
            let (mut log, found) = LogWriter::open(disk, StoreId(1), 64 << 10).await.expect("open");
            assert!(found.entries.is_empty());
            let vote = Vote { term: 3, vote: 2, commit: 1 };
            log.append(Some(vote), None, &[entry(1), entry(2)]).await.expect("append");
            for index in 3..60 {
                log.append(None, None, &[entry(index)]).await.expect("append");
            }
            log.append(None, Some(50), &[entry(50)]).await.expect("overwrite");
            assert!(log.segment_count() > 2);
            sim.crash("n");
            let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
            let (mut log, found) = LogWriter::open(disk, StoreId(1), 64 << 10).await.expect("open");
            assert_eq!(found.vote, vote);
            assert_eq!(found.entries, (1..=50).map(entry).collect::<Vec<_>>());
            log.append(None, None, &[entry(51)]).await.expect("append");
            log.trim(40).await.expect("trim");
            sim.crash("n");
            let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
            let (_, found) = LogWriter::open(disk, StoreId(1), 64 << 10).await.expect("open");
            assert_eq!(found.entries.last(), Some(&entry(51)));
            assert!(found.entries.first().is_some_and(|first| first.index <= 41));
            assert_eq!(found.vote, vote);
        });
    }

    #[test]
    fn torn_tail_is_not_taken_for_rot_by_a_later_opening() {
        // Several records in one write, torn by a power cut: a survivor may lie behind the gap.
        // Whatever survived, every later opening must go on where the first one did.
        for seed in 0..60 {
            let simulation = Rc::new(Simulation::new(seed, SimOptions::default()));
            simulation.set_faults(false);
            let sim = Rc::clone(&simulation);
            let run = async move {
                let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
                let (mut log, _) = LogWriter::open(disk, StoreId(1), 64 << 10).await.expect("open");
                log.append(None, None, &[entry(1)]).await.expect("append");
                let platform = sim.node("n");
                let disk = platform.open_disk(Path::new("/d")).expect("disk");
                let (mut log, _) = LogWriter::open(disk, StoreId(1), 64 << 10).await.expect("open");
                let entries: Vec<LogEntry> = (2..40).map(entry).collect();
                // Dropped in the middle: the write is under way, the flush has not begun.
                let appending = platform.clock().timeout(Duration::from_micros(20), log.append(None, None, &entries));
                assert!(appending.await.is_err());
                sim.crash("n");
                for round in 0..3 {
                    let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
                    let (mut log, found) = LogWriter::open(disk, StoreId(1), 64 << 10).await.expect("open");
                    let next = found.entries.last().expect("entries").index + 1;
                    assert!(next > 1 + round);
                    log.append(None, None, &[entry(next)]).await.expect("append");
                    log.append(None, None, &[entry(next + 1)]).await.expect("append");
                }
            };
            simulation.run(run, Duration::from_secs(60)).expect("story ends");
        }
    }

    #[test]
    fn rot_in_the_middle_is_told_from_a_torn_tail() {
        story(|sim| async move {
            let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
            let (mut log, _) = LogWriter::open(disk, StoreId(1), 1 << 20).await.expect("open");
            for index in 1..10 {
                log.append(None, None, &[entry(index)]).await.expect("append");
            }
            // Record 4 lies in the fourth block of the first segment.
            let rot = DiskFault::RotBit { file: "log-0000000000000001".into(), offset: 3 * 4096 + 100, bit: 3 };
            sim.disk_fault("n", Path::new("/d"), rot);
            sim.crash("n");
            let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
            let opened = LogWriter::open(disk, StoreId(1), 1 << 20).await;
            assert!(matches!(opened, Err(LogError::Rot { .. })));
            // The last record alone: nothing vouches for it.
            let disk = sim.node("m").open_disk(Path::new("/d")).expect("disk");
            let (mut log, _) = LogWriter::open(disk, StoreId(1), 1 << 20).await.expect("open");
            for index in 1..10 {
                log.append(None, None, &[entry(index)]).await.expect("append");
            }
            let torn = DiskFault::RotBit { file: "log-0000000000000001".into(), offset: 8 * 4096 + 100, bit: 3 };
            sim.disk_fault("m", Path::new("/d"), torn);
            sim.crash("m");
            let disk = sim.node("m").open_disk(Path::new("/d")).expect("disk");
            let (_, found) = LogWriter::open(disk, StoreId(1), 1 << 20).await.expect("open");
            assert_eq!(found.entries.len(), 8);
        });
    }
}
