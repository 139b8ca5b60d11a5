//! Which requests are under way, in memory that outlives this process.
//!
//! The frontend keeps the memory and hands it to the next backend. A request that was taken from a ring and
//! not yet answered when this process died is found there and carried out again (vhost-user, "Inflight I/O
//! tracking", split rings). One queue's part, little-endian, 64-byte aligned:
//!
//! ```text
//!  0 u64 features (0)     16 + 16 i:  u8  under way (0, 1)
//!  8 u16 version (1)                  u8[5] 0
//! 10 u16 descriptors                  u16 the head answered before this one
//! 12 u16 last head answered           u64 when it was taken: a count
//! 14 u16 used index
//! ```
//!
//! The order of the stores matters: at any of them the process may die. What the frontend stores there is
//! believed only as far as it does no harm.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::memory::holds;
use super::ring::SIZE_MAX;

const VERSION: u16 = 1;
const HEADER: usize = 16;
const ENTRY: usize = 16;
const ALIGNMENT: usize = 64;
const VERSION_AT: usize = 8;
const COUNT_AT: usize = 10;
const LAST_AT: usize = 12;
const USED_AT: usize = 14;

/// The memory of all queues.
pub struct Region {
    mapping: MmapRegion<()>,
    queues: u16,
    queue_size: u16,
}

/// The part of one queue.
pub struct Tracker {
    region: Arc<Region>,
    start: usize,
    taken: u64,
}

fn stride(queue_size: u16) -> usize {
    (HEADER + ENTRY * usize::from(queue_size)).next_multiple_of(ALIGNMENT)
}

/// A file of `len` zero bytes that lives in memory and cannot change its length.
pub(super) fn memory_file(name: &std::ffi::CStr, len: u64) -> io::Result<File> {
    // SAFETY: the name is a string with an end, and the descriptor that comes back is nobody else's.
    let file = unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    file.set_len(len)?;
    // SAFETY: the descriptor is open; the call takes no pointers.
    let sealed = unsafe {
        libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)
    };
    if sealed < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Makes memory for `asked.num_queues` queues of `asked.queue_size` descriptors.
///
/// # Errors
/// More than a device has; no memory.
pub fn create(asked: &VhostUserInflight) -> io::Result<(VhostUserInflight, File)> {
    let (queues, queue_size) = (asked.num_queues, asked.queue_size);
    if queue_size > SIZE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("queues of {queue_size} descriptors")));
    }
    let len = (stride(queue_size) * usize::from(queues)) as u64;
    let file = memory_file(c"bixi-inflight", len)?;
    Ok((VhostUserInflight::new(len, 0, queues, queue_size), file))
}

impl Region {
    /// Maps what [`create`] made, here or in a process before this one.
    ///
    /// # Errors
    /// The memory is smaller than its queues; it cannot be mapped.
    pub fn map(told: &VhostUserInflight, file: File) -> io::Result<Region> {
        let (queues, queue_size) = (told.num_queues, told.queue_size);
        let len = stride(queue_size) * usize::from(queues);
        if queue_size > SIZE_MAX || len == 0 || (len as u64) > told.mmap_size {
            let text = format!("{} bytes for {queues} queues of {queue_size} descriptors", told.mmap_size);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        holds(&file, told.mmap_offset, len as u64)?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, told.mmap_offset), len).map_err(io::Error::other)?;
        Ok(Region { mapping, queues, queue_size })
    }

    /// The part of queue `index`; `None` if there is none.
    pub fn tracker(self: &Arc<Self>, index: usize) -> Option<Tracker> {
        let is_there = index < usize::from(self.queues);
        is_there.then(|| Tracker { region: Arc::clone(self), start: index * stride(self.queue_size), taken: 0 })
    }
}

impl Tracker {
    /// Finds what is under way, the oldest first, in a queue of `size` descriptors whose used ring is at
    /// `used`; `None` if nobody has used the memory for it.
    ///
    /// # Errors
    /// The memory was not written by this version, or for another queue.
    pub fn recover(&mut self, size: u16, used: u16) -> Result<Option<Vec<u16>>, &'static str> {
        if size > self.region.queue_size {
            return Err("the queue is larger than its memory for what is under way");
        }
        let is_idle = (0..self.region.queue_size).all(|head| self.flag(head) == 0);
        // New memory, or a driver that has begun anew with another size.
        if self.load(VERSION_AT) == 0 || is_idle && self.load(COUNT_AT) != size {
            self.store(COUNT_AT, size);
            self.store(USED_AT, used);
            self.store(VERSION_AT, VERSION);
            return Ok(None);
        }
        if self.load(VERSION_AT) != VERSION || self.load(COUNT_AT) != size {
            return Err("the memory for what is under way is another queue's");
        }
        // Answered, but not yet noted so.
        let mut head = self.load(LAST_AT);
        for _ in 0..used.wrapping_sub(self.load(USED_AT)).min(size) {
            if head >= size {
                return Err("the memory for what is under way is damaged");
            }
            self.store_flag(head, 0);
            head = self.load(self.entry(head) + 6);
        }
        self.store(USED_AT, used);
        let mut found: Vec<(u64, u16)> =
            (0..size).filter(|head| self.flag(*head) == 1).map(|head| (self.count(head), head)).collect();
        found.sort_unstable();
        self.taken = found.last().map_or(0, |(count, _)| count.wrapping_add(1));
        Ok(Some(found.into_iter().map(|(_, head)| head).collect()))
    }

    /// A request was taken from the ring.
    pub fn begin(&mut self, head: u16) {
        self.put(self.entry(head) + 8, self.taken.to_le_bytes());
        self.taken = self.taken.wrapping_add(1);
        self.store_flag(head, 1);
    }

    /// Its answer is about to be seen.
    pub fn answering(&mut self, head: u16) {
        let before = self.load(LAST_AT);
        self.store(self.entry(head) + 6, before);
        self.store(LAST_AT, head);
    }

    /// Its answer can be seen: the used ring is at `used` now.
    pub fn answered(&mut self, head: u16, used: u16) {
        self.store_flag(head, 0);
        self.store(USED_AT, used);
    }

    fn entry(&self, head: u16) -> usize {
        HEADER + ENTRY * usize::from(head)
    }

    fn flag(&self, head: u16) -> u8 {
        self.get::<1>(self.entry(head))[0]
    }

    fn store_flag(&mut self, head: u16, value: u8) {
        let at = self.start + self.entry(head);
        self.region.mapping.as_volatile_slice().store(value, at, Ordering::Release).expect(INSIDE);
    }

    fn count(&self, head: u16) -> u64 {
        u64::from_le_bytes(self.get(self.entry(head) + 8))
    }

    fn load(&self, at: usize) -> u16 {
        let loaded = self.region.mapping.as_volatile_slice().load::<u16>(self.start + at, Ordering::Acquire);
        u16::from_le(loaded.expect(INSIDE))
    }

    fn store(&mut self, at: usize, value: u16) {
        let slice = self.region.mapping.as_volatile_slice();
        slice.store(value.to_le(), self.start + at, Ordering::Release).expect(INSIDE);
    }

    fn get<const LEN: usize>(&self, at: usize) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        self.region.mapping.as_volatile_slice().read_slice(&mut bytes, self.start + at).expect(INSIDE);
        bytes
    }

    fn put<const LEN: usize>(&mut self, at: usize, bytes: [u8; LEN]) {
        self.region.mapping.as_volatile_slice().write_slice(&bytes, self.start + at).expect(INSIDE);
    }
}

/// Heads are smaller than the queue, and the queue was measured when it was recovered.
const INSIDE: &str = "a queue's part lies inside the region";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use vhost::vhost_user::message::VhostUserInflight;

    use super::{Region, Tracker, create};

    fn tracker() -> (Arc<Region>, Tracker) {
        let (told, file) = create(&VhostUserInflight::new(0, 0, 2, 8)).unwrap();
        let region = Arc::new(Region::map(&told, file).unwrap());
        let tracker = region.tracker(1).unwrap();
        assert!(region.tracker(2).is_none());
        (region, tracker)
    }

    #[test]
    fn what_is_under_way_is_found_oldest_first() {
        let (region, mut first) = tracker();
        assert_eq!(first.recover(8, 40), Ok(None));
        [5, 3, 7].into_iter().for_each(|head| first.begin(head));
        first.answering(3);
        first.answered(3, 41);
        let mut second = region.tracker(1).unwrap();
        assert_eq!(second.recover(8, 41), Ok(Some(vec![5, 7])));
        // Counting goes on where it was: what is taken now is younger.
        second.begin(0);
        assert_eq!(region.tracker(1).unwrap().recover(8, 41), Ok(Some(vec![5, 7, 0])));
        assert_eq!(region.tracker(0).unwrap().recover(8, 41), Ok(None));
    }

    #[test]
    fn an_answer_that_was_seen_counts_though_its_note_is_missing() {
        let (region, mut first) = tracker();
        first.recover(8, 0).unwrap();
        [1, 2].into_iter().for_each(|head| first.begin(head));
        // The process dies between the used ring's index and the note.
        first.answering(2);
        assert_eq!(region.tracker(1).unwrap().recover(8, 1), Ok(Some(vec![1])));
        // Or before the index: then nobody has seen the answer.
        first.answering(1);
        assert_eq!(region.tracker(1).unwrap().recover(8, 1), Ok(Some(vec![1])));
    }

    #[test]
    fn the_format_is_pinned() {
        let (told, file) = create(&VhostUserInflight::new(0, 0, 1, 2)).unwrap();
        assert_eq!((told.mmap_size, told.mmap_offset, told.num_queues, told.queue_size), (64, 0, 1, 2));
        let region = Arc::new(Region::map(&told, file.try_clone().unwrap()).unwrap());
        let mut tracker = region.tracker(0).unwrap();
        tracker.recover(2, 0x0506).unwrap();
        [1, 0].into_iter().for_each(|head| tracker.begin(head));
        tracker.answering(1);
        tracker.answered(1, 0x0507);
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut expected = [0; 64];
        expected[8..16].copy_from_slice(&[1, 0, 2, 0, 1, 0, 7, 5]);
        expected[16..32].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn foreign_memory_is_refused() {
        let (region, mut first) = tracker();
        first.recover(8, 0).unwrap();
        first.begin(2);
        assert!(region.tracker(1).unwrap().recover(4, 0).is_err());
        assert!(region.tracker(0).unwrap().recover(16, 0).is_err());
        first.store(super::LAST_AT, 9);
        assert!(region.tracker(1).unwrap().recover(8, 3).is_err());
        let (told, file) = create(&VhostUserInflight::new(0, 0, 2, 8)).unwrap();
        let lying = VhostUserInflight::new(told.mmap_size, 0, 3, 8);
        assert!(Region::map(&lying, file.try_clone().unwrap()).is_err());
        let beyond = VhostUserInflight::new(1 << 30, 0, 3, 1024);
        assert!(Region::map(&beyond, file).is_err(), "the file is shorter");
    }
}
