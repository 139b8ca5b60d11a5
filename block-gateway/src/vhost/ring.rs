//! A split ring: requests are taken from it on the session's thread and answered from the reactor's.
//!
//! ```text
//!  descriptors (16 each)      available: flags, index, heads.., used_event
//!                             used:      flags, index, (head, len).., avail_event
//! ```
//!
//! Invariants: a head that is under way is not taken again; after [`Ring::close`] nothing of the guest's
//! memory is touched; whatever the driver writes, the ring stops at worst ([`Phase::Broken`]).

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::chain::{Chain, walk};
use super::inflight::Tracker;
use super::memory::{Memory, NotShared};
use super::wire::{NO_INTERRUPT, status};

/// Descriptors of the largest ring.
pub const SIZE_MAX: u16 = 1024;

/// Guest addresses of the three parts.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Stopped,
    /// The driver may kick; where the ring stands is not known yet.
    Starting,
    Running,
    /// What the driver wrote makes no sense: it has to reset the device.
    Broken,
    /// The frontend has gone.
    Closed,
}

struct State {
    phase: Phase,
    is_enabled: bool,
    memory: Arc<Memory>,
    addresses: Option<Addresses>,
    size: u16,
    has_event_idx: bool,
    next_available: u16,
    next_used: u16,
    call: Option<File>,
    error: Option<File>,
    tracker: Option<Tracker>,
    /// Taken by a process before this one and not answered.
    again: VecDeque<u16>,
    /// By head.
    under_way: Vec<bool>,
    count: usize,
}

/// One queue of a session.
pub struct Ring {
    index: usize,
    state: Mutex<State>,
    idle: Condvar,
}

/// A request as it was taken.
pub struct Taken {
    pub memory: Arc<Memory>,
    pub chain: Chain,
}

/// Why a ring cannot go on.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    NotShared(#[from] NotShared),
    #[error(transparent)]
    Chain(#[from] super::chain::Broken),
    #[error("{0}")]
    Nonsense(&'static str),
}

impl Ring {
    /// A ring that stands still.
    pub fn new(index: usize) -> Ring {
        let state = State {
            phase: Phase::Stopped,
            is_enabled: false,
            memory: Arc::default(),
            addresses: None,
            size: SIZE_MAX,
            has_event_idx: false,
            next_available: 0,
            next_used: 0,
            call: None,
            error: None,
            tracker: None,
            again: VecDeque::new(),
            under_way: Vec::new(),
            count: 0,
        };
        Ring { index, state: Mutex::new(state), idle: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic on either thread ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's memory is another from now on.
    pub fn set_memory(&self, memory: &Arc<Memory>) {
        self.lock().memory = Arc::clone(memory);
    }

    /// Sets how many descriptors there are; false: there cannot be so many, or the ring runs.
    pub fn set_size(&self, size: u32) -> bool {
        let mut state = self.lock();
        let is_good = size.is_power_of_two() && size <= u32::from(SIZE_MAX) && state.phase == Phase::Stopped;
        if is_good {
            state.size = size as u16;
        }
        is_good
    }

    /// Where the parts lie.
    pub fn set_addresses(&self, addresses: Addresses) {
        self.lock().addresses = Some(addresses);
    }

    /// Which entry of the available ring comes next.
    pub fn set_base(&self, base: u16) {
        self.lock().next_available = base;
    }

    /// Whether driver and device say when they want to be woken.
    pub fn set_event_idx(&self, has_event_idx: bool) {
        self.lock().has_event_idx = has_event_idx;
    }

    /// Who hears of answers.
    pub fn set_call(&self, call: Option<File>) {
        self.lock().call = call;
    }

    /// Who hears that the ring broke.
    pub fn set_error(&self, error: Option<File>) {
        self.lock().error = error;
    }

    /// Whether requests may be taken.
    pub fn set_enabled(&self, is_enabled: bool) {
        self.lock().is_enabled = is_enabled;
    }

    /// The driver may kick from now on. `tracker` notes what is under way.
    pub fn start(&self, tracker: Option<Tracker>) {
        let mut state = self.lock();
        if state.phase == Phase::Stopped {
            (state.phase, state.tracker) = (Phase::Starting, tracker);
        }
    }

    /// Waits until everything taken is answered, and stands still. Returns the next entry of the available ring.
    pub fn stop(&self) -> u16 {
        let mut state = self.lock();
        // Nothing more is taken while it waits: that happens on this thread.
        while state.count > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.phase != Phase::Closed {
            state.phase = Phase::Stopped;
        }
        (state.call, state.tracker) = (None, None);
        state.again.clear();
        state.next_available
    }

    /// The frontend has gone: what is under way is not answered any more.
    pub fn close(&self) {
        self.lock().phase = Phase::Closed;
    }

    /// Waits until nothing is under way.
    pub fn drain(&self) {
        let mut state = self.lock();
        while state.count > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next request; `None`: there is none for now, and the driver kicks when there is.
    pub fn take(&self) -> Option<Taken> {
        let mut state = self.lock();
        if !state.is_enabled || !matches!(state.phase, Phase::Starting | Phase::Running) {
            return None;
        }
        match state.take() {
            Ok(taken) => taken,
            Err(stop) => {
                tracing::warn!(queue = self.index, error = %stop, "a queue is stopped: the driver broke it");
                state.break_down();
                None
            }
        }
    }

    /// Answers: `data` and the status go to the guest, which is told unless it does not want to be.
    pub fn answer(&self, chain: &Chain, status: u8, data: &[u8]) {
        let mut state = self.lock();
        state.forget(chain.head);
        if state.phase == Phase::Running
            && let Err(error) = state.answer(chain, status, data)
        {
            tracing::warn!(queue = self.index, %error, "a queue is stopped: it cannot be answered");
            state.break_down();
        }
        if state.count == 0 {
            self.idle.notify_all();
        }
    }

    /// Nobody will answer, as if this process had died.
    pub fn abandon(&self, head: u16) {
        let mut state = self.lock();
        state.forget(head);
        if state.count == 0 {
            self.idle.notify_all();
        }
    }
}

impl State {
    fn addresses(&self) -> Result<Addresses, Stop> {
        self.addresses.ok_or(Stop::Nonsense("kicked before anybody said where the ring is"))
    }

    /// Finds out where the ring stands.
    fn begin(&mut self) -> Result<(), Stop> {
        let used = self.memory.load(self.addresses()?.used + 2, Ordering::Acquire)?;
        self.next_used = used;
        self.under_way = vec![false; usize::from(self.size)];
        self.count = 0;
        let found = match &mut self.tracker {
            Some(tracker) => tracker.recover(self.size, used).map_err(Stop::Nonsense)?,
            None => None,
        };
        if let Some(again) = found {
            if !again.is_empty() {
                tracing::info!(requests = again.len(), "requests of a process before this one are carried out again");
            }
            // What was taken is answered or under way, whatever base the frontend had to guess.
            self.next_available = used.wrapping_add(again.len() as u16);
            self.again = again.into();
        }
        self.phase = Phase::Running;
        // Whoever answered last may have died before it told the guest.
        self.signal();
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Taken>, Stop> {
        if self.phase == Phase::Starting {
            self.begin()?;
        }
        let addresses = self.addresses()?;
        let is_again = !self.again.is_empty();
        let head = match self.again.pop_front() {
            Some(head) => head,
            None => match self.available(addresses)? {
                Some(head) => head,
                None => return Ok(None),
            },
        };
        let memory = Arc::clone(&self.memory);
        match self.under_way.get_mut(usize::from(head)) {
            None => return Err(Stop::Nonsense("a head that the ring does not have")),
            Some(true) => return Err(Stop::Nonsense("a head that is under way")),
            Some(free) => *free = true,
        }
        self.count += 1;
        if let Some(tracker) = self.tracker.as_mut().filter(|_| !is_again) {
            tracker.begin(head);
        }
        match walk(&memory, addresses.descriptors, self.size, head) {
            Ok(chain) => Ok(Some(Taken { memory, chain })),
            Err(broken) => {
                self.forget(head);
                Err(broken.into())
            }
        }
    }

    /// The next head that the driver made available.
    fn available(&mut self, at: Addresses) -> Result<Option<u16>, Stop> {
        let index_at = at.available + 2;
        let mut waiting = self.memory.load(index_at, Ordering::Acquire)?.wrapping_sub(self.next_available);
        if waiting == 0 && self.has_event_idx {
            let event_at = at.used + 4 + 8 * u64::from(self.size);
            self.memory.store(event_at, self.next_available, Ordering::Relaxed)?;
            // Either the driver sees that it has to kick, or we see what it made available meanwhile.
            fence(Ordering::SeqCst);
            waiting = self.memory.load(index_at, Ordering::Acquire)?.wrapping_sub(self.next_available);
        }
        if waiting > self.size {
            return Err(Stop::Nonsense("more is available than the ring holds"));
        }
        if waiting == 0 {
            return Ok(None);
        }
        let entry = u64::from(self.next_available & (self.size - 1));
        let head = self.memory.load(at.available + 4 + 2 * entry, Ordering::Relaxed)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    fn answer(&mut self, chain: &Chain, status: u8, data: &[u8]) -> Result<(), Stop> {
        let at = self.addresses()?;
        let status_at = chain.status_address().ok_or(super::chain::Broken::NoStatus)?;
        let (status, len) = match chain.scatter(&self.memory, data) {
            Ok(()) => (status, data.len() as u32 + 1),
            Err(_) => (status::IOERR, 1),
        };
        self.memory.write(status_at, &[status])?;
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(chain.head).to_le_bytes());
        element[4..].copy_from_slice(&len.to_le_bytes());
        let entry = u64::from(self.next_used & (self.size - 1));
        self.memory.write(at.used + 4 + 8 * entry, &element)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.answering(chain.head);
        }
        let before = self.next_used;
        self.next_used = before.wrapping_add(1);
        self.memory.store(at.used + 2, self.next_used, Ordering::Release)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.answered(chain.head, self.next_used);
        }
        // The driver looks at the used index after it has said what it waits for.
        fence(Ordering::SeqCst);
        let is_wanted = if self.has_event_idx {
            self.memory.load(at.available + 4 + 2 * u64::from(self.size), Ordering::Relaxed)? == before
        } else {
            self.memory.load(at.available, Ordering::Relaxed)? & NO_INTERRUPT == 0
        };
        if is_wanted {
            self.signal();
        }
        Ok(())
    }

    fn signal(&self) {
        if let Some(call) = &self.call {
            tell(call);
        }
    }

    fn forget(&mut self, head: u16) {
        self.under_way[usize::from(head)] = false;
        self.count -= 1;
    }

    fn break_down(&mut self) {
        self.phase = Phase::Broken;
        if let Some(error) = &self.error {
            tell(error);
        }
    }
}

/// Rings at an event descriptor, which does not block. One that cannot count further has not been heard yet.
fn tell(mut event: &File) {
    if let Err(error) = event.write(&1u64.to_ne_bytes()) {
        tracing::debug!(%error, "an event is lost on a full counter, or there is nobody to hear it");
    }
}
