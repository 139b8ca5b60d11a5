//! The state of a simulated disk: what it shows, what it would still hold after a power cut.
//!
//! Each file keeps its pages as they read now and, for pages with unflushed writes, what the device held
//! before. A flush forgets the before-images; a power cut goes back to them and then applies a random subset
//! of the sectors of the unflushed writes, in order. No time and no errors here: see `sim::disk`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use crate::buffer::{BLOCK, Buffer};
use crate::fault::DiskFault;
use crate::random::Generator;

/// What a device writes atomically, in bytes.
const SECTOR: usize = 512;
const BLOCK_U64: u64 = BLOCK as u64;

pub(crate) struct Device {
    pub(crate) files: RefCell<BTreeMap<String, Rc<RefCell<FileState>>>>,
    pub(crate) faults: RefCell<Faults>,
    capacity: u64,
    locked: Cell<bool>,
}

/// The lasting faults, and the one-shot ones that wait.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    pub(crate) flush_fails: bool,
    pub(crate) read_fails: bool,
    pub(crate) write_fails: bool,
    pub(crate) full: bool,
    pub(crate) slow_by: u32,
    pub(crate) lose_next_write: bool,
}

/// The content of a disk at a moment, to be put back later.
#[derive(Clone, Default)]
pub struct DiskImage {
    files: BTreeMap<String, FileState>,
}

impl DiskImage {
    /// The bytes of a file as they were.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.files.get(name)?;
        Some(file.read(0, file.len() as usize).to_vec())
    }
}

#[derive(Clone, Default)]
pub(crate) struct FileState {
    len: u64,
    pages: BTreeMap<u64, Bytes>,
    durable_len: u64,
    /// What the device holds of each page that `pending` changes; `None` is a hole.
    before: BTreeMap<u64, Option<Bytes>>,
    pending: Vec<Pending>,
}

/// A change that no flush has made durable.
#[derive(Clone)]
struct Pending {
    /// When the write was answered; a flush that starts earlier does not cover it.
    completes_at: u64,
    change: Change,
}

#[derive(Clone)]
enum Change {
    Write { first_page: u64, pages: Vec<Bytes> },
    Len(u64),
}

impl Device {
    pub(crate) fn new(capacity: u64) -> Device {
        Device { files: RefCell::default(), faults: RefCell::default(), capacity, locked: Cell::new(false) }
    }

    /// False if it is locked already.
    pub(crate) fn lock(&self) -> bool {
        !self.locked.replace(true)
    }

    pub(crate) fn unlock(&self) {
        self.locked.set(false);
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes that files occupy.
    pub(crate) fn used(&self) -> u64 {
        self.files.borrow().values().map(|file| file.borrow().len.next_multiple_of(BLOCK_U64)).sum()
    }

    /// Whether `more` bytes can be allocated.
    pub(crate) fn has_room(&self, more: u64) -> bool {
        more == 0 || (!self.faults.borrow().full && self.used().saturating_add(more) <= self.capacity)
    }

    pub(crate) fn wipe(&self) {
        self.files.borrow_mut().clear();
        *self.faults.borrow_mut() = Faults::default();
    }

    pub(crate) fn image(&self) -> DiskImage {
        let files = self.files.borrow();
        DiskImage { files: files.iter().map(|(name, file)| (name.clone(), file.borrow().clone())).collect() }
    }

    pub(crate) fn restore(&self, image: &DiskImage) {
        let entries = image.files.iter();
        *self.files.borrow_mut() =
            entries.map(|(name, file)| (name.clone(), Rc::new(RefCell::new(file.clone())))).collect();
    }

    pub(crate) fn lengths(&self) -> Vec<(String, u64)> {
        self.files.borrow().iter().map(|(name, file)| (name.clone(), file.borrow().len())).collect()
    }

    /// Puts back those files of `image` that `chosen` takes, and removes the others that it takes.
    pub(crate) fn restore_files(&self, image: &DiskImage, chosen: impl Fn(&str) -> bool) {
        let mut files = self.files.borrow_mut();
        files.retain(|name, _| !chosen(name));
        for (name, file) in image.files.iter().filter(|(name, _)| chosen(name)) {
            files.insert(name.clone(), Rc::new(RefCell::new(file.clone())));
        }
    }

    pub(crate) fn apply_fault(&self, fault: DiskFault) {
        let mut faults = self.faults.borrow_mut();
        match fault {
            DiskFault::FlushFails => faults.flush_fails = true,
            DiskFault::ReadFails => faults.read_fails = true,
            DiskFault::WriteFails => faults.write_fails = true,
            DiskFault::Full => faults.full = true,
            DiskFault::SlowBy(factor) => faults.slow_by = factor,
            DiskFault::LoseNextWrite => faults.lose_next_write = true,
            DiskFault::Healthy => *faults = Faults::default(),
            DiskFault::RotBit { file, offset, bit } => {
                if let Some(file) = self.files.borrow().get(&file) {
                    file.borrow_mut().flip_bit(offset, bit);
                }
            }
            DiskFault::Misdirect { file, from, to } => {
                if let Some(file) = self.files.borrow().get(&file) {
                    file.borrow_mut().copy_page(from / BLOCK_U64, to / BLOCK_U64);
                }
            }
        }
    }

    /// The process that wrote is gone at `now`: the machine has what was under way, and the next
    /// flush covers it.
    pub(crate) fn writer_died(&self, now: u64) {
        for file in self.files.borrow().values() {
            for pending in &mut file.borrow_mut().pending {
                pending.completes_at = pending.completes_at.min(now);
            }
        }
    }

    /// A power cut: each file keeps what was flushed and some sectors of what was not.
    pub(crate) fn cut_power(&self, random: &Generator) {
        self.unlock();
        for file in self.files.borrow().values() {
            file.borrow_mut().cut_power(random);
        }
    }
}

impl FileState {
    /// A file that holds `bytes`, durably.
    pub(crate) fn durable(bytes: &[u8]) -> FileState {
        let mut buffer = Buffer::copy_of(bytes);
        buffer.resize(bytes.len().next_multiple_of(BLOCK));
        let content = buffer.freeze();
        let mut pages = BTreeMap::new();
        for (page, at) in (0..content.len()).step_by(BLOCK).enumerate() {
            pages.insert(page as u64, content.slice(at..at + BLOCK));
        }
        let len = bytes.len() as u64;
        FileState { len, durable_len: len, pages, ..FileState::default() }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Up to `len` bytes from `offset` on; holes read as zeros.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Buffer {
        let end = self.len.min(offset.saturating_add(len as u64)).max(offset);
        let len = (end - offset) as usize;
        let mut buffer = Buffer::stale(len.next_multiple_of(BLOCK));
        let first = offset / BLOCK_U64;
        let last = first + (buffer.len() / BLOCK) as u64;
        let mut next = first;
        for (page, content) in self.pages.range(first..last) {
            buffer[(next - first) as usize * BLOCK..(page - first) as usize * BLOCK].fill(0);
            let at = (page - first) as usize * BLOCK;
            buffer[at..at + BLOCK].copy_from_slice(content);
            next = page + 1;
        }
        buffer[(next - first) as usize * BLOCK..].fill(0);
        buffer.truncate(len);
        buffer
    }

    /// Bytes that a write up to `end` would allocate.
    pub(crate) fn growth_to(&self, end: u64) -> u64 {
        end.saturating_sub(self.len.next_multiple_of(BLOCK_U64))
    }

    /// Writes aligned `parts`; visible at once, durable with a flush that starts at or after `completes_at`.
    /// If `lost`, only the length changes.
    pub(crate) fn write(&mut self, offset: u64, parts: &[Bytes], completes_at: u64, lost: bool) {
        let first_page = offset / BLOCK_U64;
        let mut pages = Vec::new();
        for part in parts {
            pages.extend((0..part.len()).step_by(BLOCK).map(|at| part.slice(at..at + BLOCK)));
        }
        self.len = self.len.max(offset + (pages.len() * BLOCK) as u64);
        if lost {
            self.pending.push(Pending { completes_at, change: Change::Len(self.len) });
            return;
        }
        for (page, content) in (first_page..).zip(&pages) {
            let old = self.pages.insert(page, content.clone());
            self.before.entry(page).or_insert(old);
        }
        self.pending.push(Pending { completes_at, change: Change::Write { first_page, pages } });
    }

    /// Cuts or grows; durable like a write.
    pub(crate) fn set_len(&mut self, len: u64, completes_at: u64) {
        for page in self.pages.range(len.div_ceil(BLOCK_U64)..).map(|(page, _)| *page).collect::<Vec<_>>() {
            let old = self.pages.remove(&page);
            self.before.entry(page).or_insert(old);
        }
        self.len = len;
        self.pending.push(Pending { completes_at, change: Change::Len(len) });
        self.zero_behind_end();
    }

    /// What lies behind the end in the last page must not come back when the file grows again.
    fn zero_behind_end(&mut self) {
        let inside = (self.len % BLOCK_U64) as usize;
        if inside == 0 {
            return;
        }
        let page = self.len / BLOCK_U64;
        if let Some(content) = self.pages.get_mut(&page) {
            let mut zeroed = Buffer::copy_of(content);
            zeroed[inside..].fill(0);
            let old = std::mem::replace(content, zeroed.freeze());
            self.before.entry(page).or_insert(Some(old));
        }
    }

    /// Makes durable what had completed when the flush started at `started_at`.
    pub(crate) fn flush(&mut self, started_at: u64) {
        self.settle(|pending| pending.completes_at <= started_at);
    }

    /// Makes durable the last write, to `len` bytes at `offset`, and what it needs: changes of length before it,
    /// and the older writes that it overwrites.
    pub(crate) fn flush_range(&mut self, offset: u64, len: u64) {
        let range = offset / BLOCK_U64..(offset + len) / BLOCK_U64;
        self.settle(|pending| match &pending.change {
            Change::Write { first_page, pages } => {
                *first_page < range.end && first_page + pages.len() as u64 > range.start
            }
            Change::Len(_) => true,
        });
    }

    /// Makes the covered changes durable. The before-images of the others become what the covered ones left.
    fn settle(&mut self, is_covered: impl Fn(&Pending) -> bool) {
        if self.pending.iter().all(&is_covered) {
            self.pending.clear();
            self.before.clear();
            self.durable_len = self.len;
            return;
        }
        let (covered, open): (Vec<Pending>, Vec<Pending>) =
            std::mem::take(&mut self.pending).into_iter().partition(is_covered);
        let now_shown = self.take_before_images();
        for pending in covered {
            self.apply_durable(pending.change);
        }
        for (page, shown) in now_shown {
            let durable = match shown {
                Some(content) => self.pages.insert(page, content),
                None => self.pages.remove(&page),
            };
            self.before.insert(page, durable);
        }
        self.pending = open;
    }

    /// Puts the before-images in place of the changed pages and gives what those pages showed.
    fn take_before_images(&mut self) -> Vec<(u64, Option<Bytes>)> {
        let before = std::mem::take(&mut self.before);
        let mut shown = Vec::with_capacity(before.len());
        for (page, durable) in before {
            let now = match durable {
                Some(content) => self.pages.insert(page, content),
                None => self.pages.remove(&page),
            };
            shown.push((page, now));
        }
        shown
    }

    /// Applies a change to pages that are all durable.
    fn apply_durable(&mut self, change: Change) {
        match change {
            Change::Write { first_page, pages } => {
                self.durable_len = self.durable_len.max((first_page + pages.len() as u64) * BLOCK_U64);
                self.pages.extend((first_page..).zip(pages));
            }
            Change::Len(len) => {
                self.durable_len = len;
                self.pages.split_off(&len.div_ceil(BLOCK_U64));
            }
        }
    }

    fn flip_bit(&mut self, offset: u64, bit: u8) {
        let page = offset / BLOCK_U64;
        let at = (offset % BLOCK_U64) as usize;
        let flip = |content: &mut Bytes| {
            let mut flipped = Buffer::copy_of(content);
            flipped[at] ^= 1 << (bit % 8);
            *content = flipped.freeze();
        };
        if offset < self.len {
            self.pages.entry(page).and_modify(flip);
            if let Some(Some(before)) = self.before.get_mut(&page) {
                flip(before);
            }
        }
    }

    fn copy_page(&mut self, from: u64, to: u64) {
        if to * BLOCK_U64 >= self.len {
            return;
        }
        let content = self.pages.get(&from).cloned().unwrap_or_else(|| Buffer::zeros(BLOCK));
        self.pages.insert(to, content.clone());
        if let Some(before) = self.before.get_mut(&to) {
            *before = Some(content);
        }
    }

    fn cut_power(&mut self, random: &Generator) {
        if self.pending.is_empty() {
            return;
        }
        let shown_len = self.len;
        let pending = std::mem::take(&mut self.pending);
        drop(self.take_before_images());
        // The new length is metadata: it survives as a whole or not at all.
        let len_survives = random.chance(0.5);
        let sectors_survive = [0.0, 0.5, 1.0, 0.9][random.below(4) as usize];
        for pending in pending {
            match pending.change {
                Change::Write { first_page, pages } => {
                    for (page, content) in (first_page..).zip(pages) {
                        self.tear_into(page, content, sectors_survive, random);
                    }
                }
                Change::Len(len) => {
                    if len_survives {
                        self.pages.split_off(&len.div_ceil(BLOCK_U64));
                        self.len = len;
                        self.zero_behind_end();
                    }
                }
            }
        }
        self.len = if len_survives { shown_len } else { self.durable_len };
        self.durable_len = self.len;
        self.pages.split_off(&self.len.div_ceil(BLOCK_U64));
        self.zero_behind_end();
        self.before.clear();
    }

    /// Writes those sectors of `content` that survive.
    fn tear_into(&mut self, page: u64, content: Bytes, survive: f64, random: &Generator) {
        if survive >= 1.0 {
            self.pages.insert(page, content);
            return;
        }
        if survive <= 0.0 {
            return;
        }
        let mut torn = match self.pages.get(&page) {
            Some(old) => Buffer::copy_of(old),
            None => Buffer::zeroed(BLOCK),
        };
        for at in (0..BLOCK).step_by(SECTOR) {
            if random.chance(survive) {
                torn[at..at + SECTOR].copy_from_slice(&content[at..at + SECTOR]);
            }
        }
        self.pages.insert(page, torn.freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8) -> Bytes {
        let mut page = Buffer::zeroed(BLOCK);
        page.fill(fill);
        page.freeze()
    }

    #[test]
    fn flushed_bytes_survive_a_power_cut_and_others_are_old_or_new_by_sector() {
        let mut kinds = [0; 3];
        for seed in 0..200 {
            let mut file = FileState::default();
            file.write(0, &[page(1), page(2)], 10, false);
            file.flush(10);
            file.write(0, &[page(3)], 20, false);
            file.cut_power(&Generator::new(seed));
            let read = file.read(0, 2 * BLOCK);
            assert_eq!(read.len(), 2 * BLOCK);
            assert!(read[BLOCK..].iter().all(|byte| *byte == 2));
            let new = read[..BLOCK].chunks(SECTOR).filter(|sector| sector.iter().all(|byte| *byte == 3)).count();
            let old = read[..BLOCK].chunks(SECTOR).filter(|sector| sector.iter().all(|byte| *byte == 1)).count();
            assert_eq!(new + old, 8);
            kinds[if new == 0 {
                0
            } else if old == 0 {
                1
            } else {
                2
            }] += 1;
        }
        assert!(kinds.iter().all(|count| *count > 10), "{kinds:?}");
    }

    #[test]
    fn a_flush_does_not_cover_writes_that_run_beside_it() {
        let mut old_seen = false;
        for seed in 0..100 {
            let mut file = FileState::default();
            file.write(0, &[page(1), page(1)], 10, false);
            file.write(0, &[page(2)], 30, false);
            file.flush(20);
            assert_eq!(file.read(0, BLOCK)[0], 2);
            file.cut_power(&Generator::new(seed));
            let read = file.read(0, 2 * BLOCK);
            assert!(read[BLOCK..].iter().all(|byte| *byte == 1), "covered by the flush");
            assert!(read[..BLOCK].iter().all(|byte| *byte == 1 || *byte == 2), "never older than the flush");
            old_seen |= read[0] == 1;
        }
        assert!(old_seen);
    }

    #[test]
    fn a_durable_write_does_not_cover_its_neighbours() {
        let mut neighbour_lost = false;
        for seed in 0..100 {
            let mut file = FileState::durable(&[1; 3 * BLOCK]);
            file.write(0, &[page(2)], 10, false);
            file.write(2 * BLOCK_U64, &[page(3), page(3)], 20, false);
            file.flush_range(2 * BLOCK_U64, 2 * BLOCK_U64);
            file.cut_power(&Generator::new(seed));
            let read = file.read(0, 8 * BLOCK);
            assert_eq!(read.len(), 4 * BLOCK);
            assert!(read[2 * BLOCK..].iter().all(|byte| *byte == 3));
            neighbour_lost |= read[0] == 1;
        }
        assert!(neighbour_lost);
    }

    #[test]
    fn lengths_are_old_or_new_after_a_power_cut() {
        let mut seen = [false; 2];
        for seed in 0..50 {
            let mut file = FileState::durable(&[7; 3 * BLOCK]);
            file.set_len(BLOCK_U64, 10);
            assert_eq!(file.read(0, 8 * BLOCK).len(), BLOCK);
            file.cut_power(&Generator::new(seed));
            let read = file.read(0, 8 * BLOCK);
            assert!(read.len() == BLOCK || read.len() == 3 * BLOCK);
            assert!(read.iter().all(|byte| *byte == 7));
            seen[usize::from(read.len() == BLOCK)] = true;
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn rot_and_misdirection_outlive_a_power_cut() {
        let device = Device::new(1 << 30);
        let file = Rc::new(RefCell::new(FileState::durable(&[[1; BLOCK], [2; BLOCK]].concat())));
        device.files.borrow_mut().insert("file".to_owned(), file.clone());
        device.apply_fault(DiskFault::RotBit { file: "file".to_owned(), offset: 5, bit: 3 });
        device.apply_fault(DiskFault::Misdirect { file: "file".to_owned(), from: 0, to: BLOCK_U64 });
        device.cut_power(&Generator::new(1));
        let read = file.borrow().read(0, 2 * BLOCK);
        assert_eq!((read[4], read[5], read[BLOCK + 4], read[BLOCK + 5]), (1, 9, 1, 9));
    }
}
