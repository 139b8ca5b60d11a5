//! What happened in a simulation: a hash over everything, and the last events in words.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::random::mix;

/// One event, kept small: words are made only when somebody asks.
#[derive(Clone, Copy)]
struct Event {
    at: u64,
    what: &'static str,
    host: u32,
    one: u64,
    two: u64,
}

pub(crate) struct Trace {
    hash: Cell<u64>,
    events: RefCell<VecDeque<Event>>,
    events_max: usize,
}

impl Trace {
    pub(crate) fn new(events_max: usize) -> Trace {
        Trace { hash: Cell::new(0), events: RefCell::new(VecDeque::new()), events_max }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// Mixes a word into the hash.
    pub(crate) fn note(&self, word: u64) {
        self.hash.set(mix(self.hash.get().rotate_left(5) ^ word));
    }

    /// Mixes an event into the hash and keeps it for [`Trace::lines`].
    pub(crate) fn event(&self, at: u64, what: &'static str, host: u32, one: u64, two: u64) {
        self.note(at ^ digest(what.as_bytes()));
        self.note((u64::from(host) << 48) ^ one.rotate_left(17) ^ two);
        if self.events_max == 0 {
            return;
        }
        let mut events = self.events.borrow_mut();
        if events.len() == self.events_max {
            events.pop_front();
        }
        events.push_back(Event { at, what, host, one, two });
    }

    /// The last events, oldest first; `name` tells the name of a host.
    pub(crate) fn lines(&self, name: impl Fn(u32) -> String) -> Vec<String> {
        let line = |event: &Event| {
            let (at_s, at_ns) = (event.at / 1_000_000_000, event.at % 1_000_000_000);
            format!("{at_s}.{at_ns:09} {} {} {:#x} {}", name(event.host), event.what, event.one, event.two)
        };
        self.events.borrow().iter().map(line).collect()
    }
}

/// A cheap digest of a few bytes of `bytes` and of its length: enough to tell two runs apart.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let sampled = if bytes.len() <= 64 { bytes } else { &bytes[..64] };
    for chunk in sampled.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word));
    }
    hash
}
