//! Checksum tables of records that were read lately: a small read of a large record then costs one device
//! read instead of two. No IO.
//!
//! A table is a copy of the front of a header block that was checked. What it says is held against the
//! bytes all the same; where they differ, the header is read again before anybody is told of damage.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use proto::record::table_len;

use super::shard::RecordRef;
use super::write::Target;

/// Bytes that an entry takes beside its table, about.
const ENTRY_LEN: usize = 128;

struct Table {
    target: Target,
    record: RecordRef,
    front: Box<[u8]>,
    used: Cell<bool>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Tables {
    by_position: BTreeMap<u64, Table>,
    /// Each position once, the oldest first.
    order: VecDeque<u64>,
    bytes: usize,
}

impl Tables {
    fn remember(&mut self, target: Target, record: RecordRef, header: &[u8], bytes_max: usize) {
        let Some(front) = header.get(..table_len(record.len as usize)) else { return };
        let table = Table { target, record, front: front.into(), used: Cell::new(false) };
        self.bytes += front.len() + ENTRY_LEN;
        match self.by_position.insert(record.position, table) {
            Some(old) => self.bytes -= old.front.len() + ENTRY_LEN,
            None => self.order.push_back(record.position),
        }
        while self.bytes > bytes_max {
            let Some(position) = self.order.pop_front() else { return };
            if self.by_position.get(&position).is_some_and(|table| table.used.replace(false)) {
                self.order.push_back(position);
            } else if let Some(old) = self.by_position.remove(&position) {
                self.bytes -= old.front.len() + ENTRY_LEN;
            }
        }
    }

    fn check<T>(&self, target: Target, record: RecordRef, check: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let table = self.by_position.get(&record.position)?;
        if table.target != target || table.record != record {
            return None;
        }
        table.used.set(true);
        Some(check(&table.front))
    }
}

/// Tables of a store.
#[derive(Default)]
pub(super) struct TableCache(RefCell<Tables>);

impl TableCache {
    /// Keeps the table of a header that was checked.
    pub fn remember(&self, target: Target, record: RecordRef, header: &[u8], bytes_max: usize) {
        self.0.borrow_mut().remember(target, record, header, bytes_max);
    }

    /// Whether the table of a record is here.
    pub fn has(&self, target: Target, record: RecordRef) -> bool {
        self.0.borrow().check(target, record, |_| ()).is_some()
    }

    /// What `check` says of a record's table, if it is here.
    pub fn check<T>(&self, target: Target, record: RecordRef, check: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.0.borrow().check(target, record, check)
    }
}

#[cfg(test)]
mod tests {
    use types::ids::{ChunkId, PlacementId, ShardIndex};

    use super::{RecordRef, TableCache, Target};

    fn target(placement: u64) -> Target {
        Target { chunk: ChunkId(1), placement: PlacementId(placement), index: ShardIndex(0) }
    }

    #[test]
    fn tables_are_kept_up_to_their_bytes_and_those_in_use_longest() {
        let cache = TableCache::default();
        let record = |at: u64| RecordRef { offset: 0, position: at * 4096, len: 8192 };
        let header = vec![7; 4096];
        for at in 0..10 {
            cache.remember(target(1), record(at), &header, 10 * 260);
            assert!(cache.has(target(1), record(0)), "it is asked for every time");
        }
        let kept: Vec<u64> = (0..10).filter(|at| cache.has(target(1), record(*at))).collect();
        assert!(kept.contains(&0) && kept.contains(&9) && (3..10).contains(&kept.len()), "{kept:?}");
        assert!(!cache.has(target(2), record(0)), "a slot is another placement's by now");
        assert!(!cache.has(target(1), RecordRef { offset: 4096, ..record(0) }));
        cache.remember(target(2), record(0), &header, 10 * 260);
        assert!(cache.has(target(2), record(0)) && !cache.has(target(1), record(0)));
    }
}
