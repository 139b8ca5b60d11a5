//! What raft-rs reads: entries in memory since the last trim, and who votes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use raft::prelude::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

/// Entries and configuration of one replica.
#[derive(Default)]
pub(super) struct Mem {
    pub hard_state: HardState,
    pub conf_state: ConfState,
    /// Index and term of the entry before the first one kept.
    pub truncated: (u64, u64),
    pub entries: VecDeque<Entry>,
    /// Bytes of the entries kept.
    pub bytes: usize,
    /// A follower needs a snapshot: the driver makes one.
    pub snapshot_wanted: bool,
    pub snapshot: Option<Snapshot>,
}

impl Mem {
    pub fn last_index(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        let at = index.checked_sub(self.truncated.0 + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term)
    }

    /// Appends entries, replacing what they contradict. Answers the first void index, if any.
    pub fn append(&mut self, entries: &[Entry]) -> Option<u64> {
        let first = entries.first()?.index;
        assert!(first > self.truncated.0 && first <= self.last_index() + 1, "entries with a gap");
        let cut = (first <= self.last_index()).then_some(first);
        while self.last_index() >= first {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry.data.len();
            }
        }
        for entry in entries {
            self.bytes += entry.data.len();
            self.entries.push_back(entry.clone());
        }
        cut
    }

    /// Forgets entries up to `index`, which are applied and durable in the state.
    pub fn trim(&mut self, index: u64) {
        while self.truncated.0 < index {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= entry.data.len();
            self.truncated = (entry.index, entry.term);
        }
    }

    /// A snapshot at (index, term) replaces everything.
    pub fn reset(&mut self, index: u64, term: u64, conf_state: ConfState) {
        self.truncated = (index, term);
        self.entries.clear();
        self.bytes = 0;
        self.conf_state = conf_state;
        self.hard_state.commit = self.hard_state.commit.max(index);
        self.hard_state.term = self.hard_state.term.max(term);
    }
}

/// Shared with raft-rs.
#[derive(Clone, Default)]
pub(super) struct SharedMem(pub Rc<RefCell<Mem>>);

impl Storage for SharedMem {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mem = self.0.borrow();
        Ok(RaftState::new(mem.hard_state.clone(), mem.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let mem = self.0.borrow();
        if low <= mem.truncated.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > mem.last_index() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let mut out = Vec::new();
        for index in low..high {
            let entry = &mem.entries[(index - mem.truncated.0 - 1) as usize];
            size += entry.data.len() as u64 + 32;
            if !out.is_empty() && size > max {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let mem = self.0.borrow();
        if index < mem.truncated.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        mem.term(index).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.0.borrow().truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.0.borrow().last_index())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let mut mem = self.0.borrow_mut();
        match &mem.snapshot {
            Some(snapshot) if snapshot.get_metadata().index >= request_index.max(mem.truncated.0) => {
                Ok(snapshot.clone())
            }
            _ => {
                mem.snapshot_wanted = true;
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
