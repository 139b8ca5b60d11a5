//! What the reactor's thread and the session's thread both know.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Bytes under way above which no further request is taken.
const UNDER_WAY_MAX: u64 = 64 << 20;
/// No frontend knows a size yet.
const UNKNOWN: u64 = u64::MAX;

/// Numbers and flags, and a way to wake the session's thread.
pub struct Shared {
    wake: EventFd,
    /// Bytes of the device.
    size: AtomicU64,
    /// The size that the frontend knows.
    told: AtomicU64,
    /// The frontend is to hear that the configuration has changed.
    is_to_tell: AtomicBool,
    /// A guest has begun to use the device.
    is_in_use: AtomicBool,
    under_way: AtomicU64,
    /// Requests wait until others are through.
    is_full: AtomicBool,
    is_stopped: AtomicBool,
}

impl Shared {
    /// For a device of `size` bytes.
    pub fn new(size: u64) -> io::Result<Shared> {
        Ok(Shared {
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            size: AtomicU64::new(size),
            told: AtomicU64::new(UNKNOWN),
            is_to_tell: AtomicBool::new(false),
            is_in_use: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        })
    }

    /// What the session's thread waits for.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Has the thread look at everything again.
    pub fn wake_up(&self) {
        // Fails only if it was woken very often and has not looked yet.
        let _ = self.wake.write(1);
    }

    /// Ends the session's thread once everything under way is answered.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.wake_up();
    }

    /// Whether the thread is to end.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    /// Bytes of the device; the frontend knows from now on.
    pub fn tell_size(&self) -> u64 {
        let size = self.size.load(Ordering::SeqCst);
        self.told.store(size, Ordering::SeqCst);
        size
    }

    /// Notes the device's size. If a frontend knows another, `may_tell` has it told.
    pub fn note_size(&self, size: u64, may_tell: bool) {
        self.size.store(size, Ordering::SeqCst);
        if may_tell && self.is_in_use() && self.told.load(Ordering::SeqCst) != size {
            self.is_to_tell.store(true, Ordering::SeqCst);
            self.wake_up();
        }
    }

    /// Whether the frontend is to hear of the size now.
    pub fn is_to_tell(&self) -> bool {
        self.is_to_tell.swap(false, Ordering::SeqCst)
    }

    /// A guest begins to use the device, or the frontend has gone.
    pub fn set_in_use(&self, is_in_use: bool) {
        if !is_in_use {
            self.told.store(UNKNOWN, Ordering::SeqCst);
        }
        self.is_in_use.store(is_in_use, Ordering::SeqCst);
    }

    /// Whether a guest uses the device.
    pub fn is_in_use(&self) -> bool {
        self.is_in_use.load(Ordering::SeqCst)
    }

    /// Whether one more request may be taken. If not, the thread is woken when there is room.
    pub fn has_room(&self) -> bool {
        let is_room = || self.under_way.load(Ordering::SeqCst) < UNDER_WAY_MAX;
        if is_room() {
            return true;
        }
        self.is_full.store(true, Ordering::SeqCst);
        // What was through meanwhile did not see that somebody waits.
        is_room()
    }

    /// So many bytes are under way.
    pub fn charge(&self, bytes: u64) {
        self.under_way.fetch_add(bytes, Ordering::SeqCst);
    }

    /// So many bytes are through.
    pub fn discharge(&self, bytes: u64) {
        let before = self.under_way.fetch_sub(bytes, Ordering::SeqCst);
        if before - bytes < UNDER_WAY_MAX && self.is_full.swap(false, Ordering::SeqCst) {
            self.wake_up();
        }
    }
}
