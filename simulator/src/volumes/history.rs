//! What was asked of volumes and what was answered, by granules; and the verdict over it.
//!
//! ```text
//! volume: ....[area 0]..........[area 1]....page border....[area 2]...
//!              granules of 509 bytes: nothing is aligned with anything
//! ```
//!
//! A write that is not answered, or answered with an error, stays open in the history until another owner
//! has the volume.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use platform::buffer::Buffer;

use super::registers::{self, ANY, Op, Verdict, What, is_cut};
use crate::content::content;

/// Bytes of a granule: a prime, so that writes are aligned with neither blocks nor pages.
pub const GRANULE: u64 = 509;
/// Granules of an area.
pub const AREA: usize = 96;
/// Where areas begin: near the first byte, across two borders of index pages.
pub const AREAS: [u64; 3] = [1_009, (4 << 20) - 20_011, (8 << 20) - 30_011];
/// Granules of a volume.
pub const GRANULES: usize = AREA * AREAS.len();
/// Bytes of a volume.
pub const SIZE: u64 = (8 << 20) + (1 << 20) + 77;

/// Where a granule begins.
pub fn place(granule: usize) -> u64 {
    AREAS[granule / AREA] + (granule % AREA) as u64 * GRANULE
}

fn word(value: u64, granule: usize) -> u64 {
    value.wrapping_mul(1_000_003).wrapping_add(granule as u64)
}

/// The bytes of a value in so many granules from `first` on.
pub fn bytes_of(value: u64, first: usize, count: usize) -> Bytes {
    let mut out = Buffer::zeroed(count * GRANULE as usize);
    for (number, granule) in out.chunks_mut(GRANULE as usize).enumerate() {
        let body = content(word(value, first + number), granule.len() - 8);
        granule[..8].copy_from_slice(&value.to_le_bytes());
        granule[8..].copy_from_slice(&body);
    }
    out.freeze()
}

/// The values of granules from `first` on: 0 = zeroes. Else the granule that holds what nobody wrote.
///
/// # Errors
/// The number of the granule.
pub fn values_of(bytes: &[u8], first: usize) -> Result<Vec<u64>, usize> {
    let granules = bytes.chunks_exact(GRANULE as usize).enumerate();
    granules
        .map(|(number, granule)| {
            if granule.iter().all(|byte| *byte == 0) {
                return Ok(0);
            }
            let mut value = [0; 8];
            value.copy_from_slice(&granule[..8]);
            let value = u64::from_le_bytes(value);
            let good = value != 0 && granule[8..] == content(word(value, first + number), granule.len() - 8)[..];
            if good { Ok(value) } else { Err(first + number) }
        })
        .collect()
}

/// What a write put into its granules.
#[derive(Clone, Debug)]
enum Values {
    One(u64),
    Each(Vec<u64>),
}

#[derive(Clone, Debug)]
struct Write {
    first: usize,
    count: usize,
    values: Values,
    start: u64,
    end: Option<u64>,
    until: Option<u64>,
    /// Of the owner; `None`: who went back to a snapshot.
    epoch: Option<u64>,
    /// An answer came, be it an error.
    answered: bool,
}

#[derive(Clone, Debug)]
struct Read {
    first: usize,
    values: Vec<u64>,
    start: u64,
    end: u64,
}

/// A snapshot of a volume.
#[derive(Clone, Debug)]
pub struct Snap {
    /// Its name.
    pub name: String,
    /// When it was asked for.
    pub start: u64,
    /// When it was known to be there.
    pub end: Option<u64>,
    /// What was read of it; nothing: not yet.
    pub content: Vec<Option<u64>>,
    /// Somebody asked for its deletion.
    pub is_doomed: bool,
}

/// A volume.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// The volume and snapshot that it was cloned of.
    pub origin: Option<(usize, usize)>,
    /// Its snapshots.
    pub snaps: Vec<Snap>,
    /// Somebody asked for its deletion.
    pub is_doomed: bool,
    writes: Vec<Write>,
    reads: Vec<Read>,
}

/// A write in the history.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    line: usize,
    write: usize,
}

/// The history of all volumes.
#[derive(Default)]
pub struct Volumes {
    /// The volumes.
    pub lines: RefCell<Vec<Line>>,
    values: Cell<u64>,
}

impl Volumes {
    /// A number that was not given out before.
    pub fn number(&self) -> u64 {
        self.values.set(self.values.get() + 1);
        self.values.get()
    }

    /// A new volume.
    pub fn add(&self, name: String, origin: Option<(usize, usize)>) {
        let line = Line { name, origin, snaps: vec![], is_doomed: false, writes: vec![], reads: vec![] };
        self.lines.borrow_mut().push(line);
    }

    /// A write of one value begins.
    pub fn begin(&self, line: usize, epoch: u64, first: usize, count: usize, value: u64, now: u64) -> Handle {
        self.begin_any(line, Some(epoch), first, count, Values::One(value), now)
    }

    /// A volume goes back to what is known of a snapshot.
    pub fn begin_rollback(&self, line: usize, values: Vec<u64>, now: u64) -> Handle {
        self.begin_any(line, None, 0, GRANULES, Values::Each(values), now)
    }

    fn begin_any(
        &self,
        line: usize,
        epoch: Option<u64>,
        first: usize,
        count: usize,
        values: Values,
        now: u64,
    ) -> Handle {
        let mut lines = self.lines.borrow_mut();
        let writes = &mut lines[line].writes;
        writes.push(Write { first, count, values, start: now, end: None, until: None, epoch, answered: false });
        Handle { line, write: writes.len() - 1 }
    }

    /// A write was answered: it is there, or nobody knows.
    pub fn end(&self, handle: Handle, is_done: bool, now: u64) {
        let mut lines = self.lines.borrow_mut();
        let line = &mut lines[handle.line];
        let write = &mut line.writes[handle.write];
        write.answered = true;
        write.end = is_done.then_some(now);
        let (start, is_rollback) = (write.start, write.epoch.is_none());
        if is_done && is_rollback {
            // What was under way before it is there by then or never; but for others that still try to go back.
            let is_over = |other: &&mut Write| other.start < start && (other.epoch.is_some() || other.answered);
            for other in line.writes.iter_mut().filter(is_over) {
                other.until.get_or_insert(now);
            }
        }
    }

    /// The owner of an epoch, who asked at `start`, has the volume now. Answers how many writes of others were
    /// under way.
    pub fn owned(&self, line: usize, epoch: u64, start: u64, now: u64) -> usize {
        let mut lines = self.lines.borrow_mut();
        let mut under_way = 0;
        for write in &mut lines[line].writes {
            let is_older = match write.epoch {
                Some(other) => other < epoch,
                None => write.answered && write.start < start,
            };
            if is_older && write.until.is_none() {
                under_way += usize::from(!write.answered && write.count > 0);
                write.until = Some(now);
            }
        }
        under_way
    }

    /// A read was answered.
    pub fn read(&self, line: usize, first: usize, values: Vec<u64>, start: u64, end: u64) {
        self.lines.borrow_mut()[line].reads.push(Read { first, values, start, end });
    }

    /// Something was read of a snapshot. Answers the granule and both values if it was something else before.
    pub fn read_snapshot(&self, line: usize, snap: usize, first: usize, values: &[u64]) -> Option<(usize, u64, u64)> {
        let mut lines = self.lines.borrow_mut();
        let content = &mut lines[line].snaps[snap].content;
        let mut other = None;
        for (granule, value) in (first..).zip(values) {
            match content[granule] {
                Some(known) if known != *value => other = other.or(Some((granule, known, *value))),
                _ => content[granule] = Some(*value),
            }
        }
        other
    }

    /// Operations on volumes so far.
    pub fn count(&self) -> usize {
        self.lines.borrow().iter().map(|line| line.writes.len() + line.reads.len()).sum()
    }

    /// Judges everything: what is impossible, and how many granules were too hard.
    pub fn judge(&self) -> (Vec<String>, u64) {
        let lines = self.lines.borrow();
        let (mut wrong, mut too_hard) = (Vec::new(), 0);
        for line in lines.iter() {
            let initial = |granule: usize| match line.origin {
                Some((parent, snap)) => lines[parent].snaps[snap].content[granule].unwrap_or(ANY),
                None => 0,
            };
            let ops: Vec<Vec<Op>> = (0..GRANULES).map(|granule| line.ops(granule)).collect();
            for (granule, ops) in ops.iter().enumerate() {
                let known = line.snaps.iter().filter_map(|snap| snap.as_read(granule));
                let mut all: Vec<Op> = ops.iter().copied().chain(known).collect();
                all.sort_by_key(|op| op.start);
                match registers::check(initial(granule), &all) {
                    Verdict::Possible => {}
                    Verdict::TooHard => too_hard += 1,
                    Verdict::Impossible(at) => {
                        let what = all[at];
                        let about = all.iter().filter(|op| op.start <= what.end.unwrap_or(u64::MAX));
                        let about: Vec<String> = about.rev().take(12).map(tell).collect();
                        wrong.push(format!(
                            "volume {}, granule {granule} at {}: nothing explains {}; before it, last first: {}",
                            line.name,
                            place(granule),
                            tell(&what),
                            about.join(", ")
                        ));
                    }
                }
            }
            for snap in &line.snaps {
                let Some(upto) = snap.end else { continue };
                let registers: Vec<(u64, Vec<Op>, u64)> = (0..GRANULES)
                    .filter_map(|granule| Some((initial(granule), ops[granule].clone(), snap.content[granule]?)))
                    .collect();
                if !registers.is_empty() && !is_cut(&registers, snap.start, upto) {
                    wrong.push(format!(
                        "snapshot {}@{} is of no moment between its asking and its answer",
                        line.name, snap.name
                    ));
                }
            }
        }
        (wrong, too_hard)
    }
}

fn tell(op: &Op) -> String {
    let seconds = |at: u64| format!("{:.3}", at as f64 / 1e9);
    let upto = match (op.end, op.until) {
        (Some(end), _) => seconds(end),
        (None, Some(until)) => format!("? up to {}", seconds(until)),
        (None, None) => "?".to_owned(),
    };
    format!("{:?} {}..{upto}", op.what, seconds(op.start))
}

impl Snap {
    /// It is a read of a moment between its asking and its answer.
    fn as_read(&self, granule: usize) -> Option<Op> {
        let what = What::Read(self.content[granule]?);
        Some(Op { what, start: self.start, end: Some(self.end?), until: None })
    }
}

impl Line {
    /// What is known of a snapshot, if all is.
    pub fn known(&self, snap: usize) -> Option<Vec<u64>> {
        self.snaps[snap].content.iter().copied().collect()
    }

    fn ops(&self, granule: usize) -> Vec<Op> {
        let writes = self.writes.iter().filter(|write| (write.first..write.first + write.count).contains(&granule));
        let writes = writes.map(|write| {
            let value = match &write.values {
                Values::One(value) => *value,
                Values::Each(values) => values[granule - write.first],
            };
            Op { what: What::Write(value), start: write.start, end: write.end, until: write.until }
        });
        let reads = self.reads.iter().filter(|read| (read.first..read.first + read.values.len()).contains(&granule));
        let reads = reads.map(|read| Op {
            what: What::Read(read.values[granule - read.first]),
            start: read.start,
            end: Some(read.end),
            until: None,
        });
        let mut ops: Vec<Op> = writes.chain(reads).collect();
        ops.sort_by_key(|op| op.start);
        ops
    }
}

#[cfg(test)]
mod tests {
    use super::{AREA, AREAS, GRANULE, GRANULES, SIZE, Volumes, bytes_of, place, values_of};

    #[test]
    fn granules_tell_what_they_hold() {
        let bytes = bytes_of(9, 5, 3);
        assert_eq!(values_of(&bytes, 5), Ok(vec![9, 9, 9]));
        assert_eq!(values_of(&bytes, 6), Err(6), "the bytes of other granules");
        let mut bad = bytes.to_vec();
        bad[GRANULE as usize + 100] ^= 1;
        assert_eq!(values_of(&bad, 5), Err(6));
        assert_eq!(values_of(&[0; 509], 0), Ok(vec![0]));
        assert!(AREAS.windows(2).all(|pair| pair[0] + AREA as u64 * GRANULE < pair[1]));
        assert!(place(GRANULES - 1) + GRANULE < SIZE);
    }

    #[test]
    fn what_the_next_owner_does_not_find_is_impossible() {
        let story = |seen: u64, clone_sees: u64| {
            let volumes = Volumes::default();
            volumes.add("v".into(), None);
            let lost = volumes.begin(0, 1, 3, 2, 77, 5);
            volumes.end(lost, false, 8);
            let kept = volumes.begin(0, 1, 4, 1, 78, 10);
            volumes.end(kept, true, 12);
            volumes.owned(0, 2, 20, 30);
            volumes.read(0, 3, vec![seen, 78], 31, 32);
            let snap = super::Snap {
                name: "s".into(),
                start: 40,
                end: Some(41),
                content: vec![None; GRANULES],
                is_doomed: false,
            };
            volumes.lines.borrow_mut()[0].snaps.push(snap);
            assert_eq!(volumes.read_snapshot(0, 0, 3, &[seen, 78]), None);
            volumes.add("c".into(), Some((0, 0)));
            volumes.read(1, 4, vec![clone_sees], 50, 51);
            volumes.judge().0.len()
        };
        assert_eq!((story(0, 78), story(77, 78)), (0, 0));
        assert_eq!(story(76, 78), 2, "as it is read, and in the snapshot");
        assert_eq!(story(0, 0), 1);
    }
}
