//! Memory aligned to 4096 bytes, as direct IO wants it, recycled by size.
//!
//! Large reads would otherwise map and unmap memory each time, which costs more than the read. Freed memory
//! goes to a pool of the thread that frees it. Invariants: every byte of a buffer's memory has been
//! initialised once (fresh memory is zeroed), so stale bytes are at worst old data and never undefined; only
//! `len` bytes are visible.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;

/// Alignment of memory, offsets and lengths of direct IO, in bytes.
pub const BLOCK: usize = 4096;

/// Buffers larger than this are not recycled.
const POOLED_MAX: usize = 2 << 20;
/// Bytes kept for each size class and thread.
const POOLED_BYTES_PER_CLASS: usize = 8 << 20;
/// Zero bytes that every thread has ready.
const ZEROS_BYTES: usize = 1 << 20;
/// Size classes: four to each doubling, from one block up to [`POOLED_MAX`].
const CLASSES: usize = 4 * 10;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { classes: Vec::new() }) };
}

/// A thread's free memory by class; given back to the system when the thread ends.
struct Pool {
    classes: Vec<Vec<(NonNull<u8>, usize)>>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (start, capacity) in self.classes.drain(..).flatten() {
            // SAFETY: it lies in the pool alone.
            unsafe { release(start, capacity) };
        }
    }
}

/// An owned, growable run of bytes whose memory starts at a multiple of [`BLOCK`].
pub struct Buffer {
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
}

// SAFETY: a Buffer owns its memory alone; the pool it returns to belongs to whichever thread drops it.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Buffer {
        let mut buffer = Buffer::with_capacity(len);
        if len > POOLED_MAX {
            // Fresh pages.
            buffer.len = len;
        } else {
            buffer.resize(len);
        }
        buffer
    }

    /// `len` shared zero bytes; up to 1 MiB of them cost no memory of their own.
    pub fn zeros(len: usize) -> Bytes {
        thread_local! {
            static ZEROS: Bytes = Buffer::zeroed(ZEROS_BYTES).freeze();
        }
        if len > ZEROS_BYTES {
            return Buffer::zeroed(len).freeze();
        }
        ZEROS.try_with(|zeros| zeros.slice(..len)).unwrap_or_else(|_| Buffer::zeroed(len).freeze())
    }

    /// An empty buffer with room for at least `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Buffer {
        if capacity == 0 {
            return Buffer { start: NonNull::dangling(), capacity: 0, len: 0 };
        }
        let capacity = round_up(capacity);
        Buffer { start: take(capacity), capacity, len: 0 }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// `len` bytes of unspecified (old) content, to be overwritten by a read as a whole. Memory beyond the
    /// recycled sizes takes no room before it is written.
    pub fn stale(len: usize) -> Buffer {
        let mut buffer = Buffer::with_capacity(len);
        buffer.len = len;
        buffer
    }

    /// Appends `bytes`; moves to larger memory if needed.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        // SAFETY: reserve made room for bytes.len() bytes behind len, and the regions cannot overlap since
        // self is borrowed mutably.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(self.len), bytes.len()) };
        self.len += bytes.len();
    }

    /// Grows by zero bytes, or cuts, to exactly `len` bytes.
    pub fn resize(&mut self, len: usize) {
        if len > self.len {
            self.reserve(len - self.len);
            // SAFETY: reserve made room up to len.
            unsafe { std::ptr::write_bytes(self.start.as_ptr().add(self.len), 0, len - self.len) };
        }
        self.len = len;
    }

    /// Cuts to `len` bytes; nothing if it is shorter already.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Bytes of memory behind it.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Turns into shareable bytes without a copy; the memory returns to a pool when the last share is dropped.
    pub fn freeze(self) -> Bytes {
        if self.len == 0 {
            return Bytes::new();
        }
        Bytes::from_owner(self)
    }

    fn reserve(&mut self, more: usize) {
        let needed = self.len.checked_add(more).expect("a buffer length fits usize");
        if needed <= self.capacity {
            return;
        }
        let mut larger = Buffer::with_capacity(needed.max(self.capacity.saturating_mul(2)));
        larger.extend_from_slice(self);
        *self = larger;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.capacity > 0 {
            give_back(self.start, self.capacity);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: len <= capacity bytes, all initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and self is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len, self.capacity)
    }
}

/// Whether direct IO takes these bytes as they lie: start and length are multiples of [`BLOCK`].
pub fn is_aligned(bytes: &Bytes) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(BLOCK) && bytes.len().is_multiple_of(BLOCK)
}

/// The capacity of the class that holds `len` bytes; multiples of [`BLOCK`] beyond the largest class.
fn round_up(len: usize) -> usize {
    let blocks = len.div_ceil(BLOCK);
    if blocks <= 4 {
        return blocks * BLOCK;
    }
    if len > POOLED_MAX {
        return blocks * BLOCK;
    }
    let doubling = usize::BITS - 1 - (blocks - 1).leading_zeros();
    let step = 1 << (doubling - 2);
    blocks.next_multiple_of(step) * BLOCK
}

/// The pool's index of a capacity that [`round_up`] gave; `None` if it is not pooled.
fn class_of(capacity: usize) -> Option<usize> {
    if capacity > POOLED_MAX {
        return None;
    }
    let blocks = capacity / BLOCK;
    if blocks <= 4 {
        return Some(blocks - 1);
    }
    let doubling = (usize::BITS - 1 - (blocks - 1).leading_zeros()) as usize;
    let step = 1 << (doubling - 2);
    Some(4 + (doubling - 2) * 4 + (blocks / step - 5))
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, BLOCK).expect("a buffer capacity fits a layout")
}

fn take(capacity: usize) -> NonNull<u8> {
    let recycled = class_of(capacity).and_then(|class| {
        POOL.try_with(|pool| pool.borrow_mut().classes.get_mut(class).and_then(Vec::pop)).ok().flatten()
    });
    if let Some((start, _)) = recycled {
        return start;
    }
    fresh(capacity)
}

/// Zeroed memory. What is not recycled comes as pages of the system, which take no room before they are
/// written: the allocator would write zeroes to all of them.
fn fresh(capacity: usize) -> NonNull<u8> {
    let start = if class_of(capacity).is_some() {
        // SAFETY: capacity is not zero.
        unsafe { alloc_zeroed(layout(capacity)) }
    } else {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new pages, wherever the system has room.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), capacity, access, kind, -1, 0) };
        if start == libc::MAP_FAILED { std::ptr::null_mut() } else { start.cast() }
    };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout(capacity)))
}

/// Gives memory of [`fresh`] back to where it came from.
///
/// # Safety
/// It came from there with this capacity, and nobody else holds it.
unsafe fn release(start: NonNull<u8>, capacity: usize) {
    if class_of(capacity).is_some() {
        // SAFETY: as the caller says.
        unsafe { dealloc(start.as_ptr(), layout(capacity)) };
    } else {
        // SAFETY: as the caller says. It cannot fail for pages that are mapped.
        let result = unsafe { libc::munmap(start.as_ptr().cast(), capacity) };
        debug_assert_eq!(result, 0, "a buffer was not mapped");
    }
}

fn give_back(start: NonNull<u8>, capacity: usize) {
    let kept = class_of(capacity).is_some_and(|class| {
        POOL.try_with(|pool| {
            let classes = &mut pool.borrow_mut().classes;
            if classes.is_empty() {
                classes.resize_with(CLASSES, Vec::new);
            }
            let room = (classes[class].len() + 1) * capacity <= POOLED_BYTES_PER_CLASS;
            if room {
                classes[class].push((start, capacity));
            }
            room
        })
        .unwrap_or(false)
    });
    if !kept {
        // SAFETY: nobody else holds it.
        unsafe { release(start, capacity) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capacity_has_its_own_class() {
        let mut last = None;
        for blocks in 1..=POOLED_MAX / BLOCK {
            let capacity = round_up(blocks * BLOCK);
            assert!(capacity >= blocks * BLOCK);
            assert!(capacity <= blocks * BLOCK * 5 / 4 + BLOCK);
            assert_eq!(round_up(capacity), capacity);
            let class = class_of(capacity).unwrap();
            assert!(class < CLASSES);
            if let Some((last_class, last_capacity)) = last {
                assert_eq!(class == last_class, capacity == last_capacity);
                assert!(class >= last_class);
            }
            last = Some((class, capacity));
        }
        assert_eq!(class_of(round_up(POOLED_MAX + 1)), None);
    }

    #[test]
    fn recycled_memory_is_zeroed_when_asked() {
        let mut dirty = Buffer::zeroed(10_000);
        dirty.fill(7);
        drop(dirty);
        assert!(Buffer::zeroed(10_000).iter().all(|byte| *byte == 0));
        for len in [0, 1, BLOCK, ZEROS_BYTES, ZEROS_BYTES + 1] {
            let zeros = Buffer::zeros(len);
            assert!(zeros.len() == len && zeros.iter().all(|byte| *byte == 0));
            assert!(len == 0 || (zeros.as_ptr() as usize).is_multiple_of(BLOCK));
        }
    }

    #[test]
    fn frozen_bytes_are_aligned_and_equal() {
        let mut buffer = Buffer::with_capacity(1);
        for round in 0..100u8 {
            buffer.extend_from_slice(&[round; 100]);
        }
        assert_eq!(buffer.len(), 10_000);
        buffer.resize(3 * BLOCK);
        let bytes = buffer.freeze();
        assert!(is_aligned(&bytes));
        assert!(!is_aligned(&bytes.slice(1..)));
        assert_eq!(bytes[9_999], 99);
        assert_eq!(bytes[10_000], 0);
    }
}
