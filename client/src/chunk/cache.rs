//! A bounded cache of pieces of chunks. Chunk bytes never change, so nothing is ever invalidated.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

type Key = (u64, u64, u64);

#[derive(Default)]
struct Inner {
    pieces: BTreeMap<Key, (u64, Bytes)>,
    by_age: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
    hits: u64,
    misses: u64,
}

/// Least recently used pieces go first. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Rc<RefCell<Inner>>);

impl Cache {
    /// Holds at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Cache {
        Cache(Rc::new(RefCell::new(Inner { bytes_max, ..Inner::default() })))
    }

    /// The piece (chunk, offset, len).
    pub fn get(&self, chunk: u64, offset: u64, len: u64) -> Option<Bytes> {
        let inner = &mut *self.0.borrow_mut();
        let key = (chunk, offset, len);
        let Some((age, bytes)) = inner.pieces.get_mut(&key) else {
            inner.misses += 1;
            return None;
        };
        inner.hits += 1;
        inner.clock += 1;
        inner.by_age.remove(age);
        *age = inner.clock;
        inner.by_age.insert(inner.clock, key);
        Some(bytes.clone())
    }

    /// Keeps a piece.
    pub fn put(&self, chunk: u64, offset: u64, bytes: Bytes) {
        let inner = &mut *self.0.borrow_mut();
        let key = (chunk, offset, bytes.len() as u64);
        if bytes.len() * 4 > inner.bytes_max || inner.pieces.contains_key(&key) {
            return;
        }
        inner.clock += 1;
        inner.bytes += bytes.len();
        inner.by_age.insert(inner.clock, key);
        inner.pieces.insert(key, (inner.clock, bytes));
        while inner.bytes > inner.bytes_max {
            let Some((_, oldest)) = inner.by_age.pop_first() else { break };
            if let Some((_, bytes)) = inner.pieces.remove(&oldest) {
                inner.bytes -= bytes.len();
            }
        }
    }

    /// Hits and misses so far.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.0.borrow();
        (inner.hits, inner.misses)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Cache};

    #[test]
    fn least_recently_used_goes_first_and_the_bound_holds() {
        let cache = Cache::new(100);
        for offset in 0..4 {
            cache.put(1, offset, Bytes::from(vec![0; 25]));
        }
        assert!(cache.get(1, 0, 25).is_some());
        cache.put(1, 9, Bytes::from(vec![0; 25]));
        assert!(cache.get(1, 0, 25).is_some());
        assert!(cache.get(1, 1, 25).is_none());
    }
}
