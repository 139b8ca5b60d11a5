//! The simulator's state store: a map that reopens at any permitted prefix of its batches.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use super::{Batch, StoreFault};

#[derive(Default)]
struct Inner {
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    since_flush: Vec<Batch>,
    rotten: bool,
}

/// A map with a crash. Clones share it; the simulator keeps one per replica across crashes.
#[derive(Clone, Default)]
pub struct MemoryStore(Rc<RefCell<Inner>>);

fn put(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => {
                map.insert(key.clone(), value.clone());
            }
            None => {
                map.remove(key);
            }
        }
    }
}

impl MemoryStore {
    /// The process died: `keep` of the batches since the last flush survive (in order).
    /// Answers how many there were.
    pub fn crash(&self, choose: impl FnOnce(usize) -> usize) -> usize {
        let inner = &mut *self.0.borrow_mut();
        let all = inner.since_flush.len();
        let keep = choose(all).min(all);
        for batch in inner.since_flush.drain(..).take(keep) {
            put(&mut inner.durable, &batch);
        }
        inner.since_flush.clear();
        inner.live = inner.durable.clone();
        all
    }

    /// From now on the store is damaged, until its whole content is replaced.
    pub fn rot(&self) {
        self.0.borrow_mut().rotten = true;
    }

    /// Somebody emptied the store.
    pub fn wipe(&self) {
        *self.0.borrow_mut() = Inner::default();
    }

    pub(super) fn check(&self) -> Result<(), StoreFault> {
        if self.0.borrow().rotten { Err(StoreFault("rotten".into())) } else { Ok(()) }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.borrow().live.get(key).cloned()
    }

    pub(super) fn scan(&self, start: &[u8], end: Option<&[u8]>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let inner = self.0.borrow();
        if end.is_some_and(|end| end <= start) {
            return;
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in inner.live.range::<[u8], _>((Bound::Included(start), upper)) {
            if !visit(key, value) {
                break;
            }
        }
    }

    pub(super) fn write(&self, batch: &Batch) {
        let mut inner = self.0.borrow_mut();
        put(&mut inner.live, batch);
        inner.since_flush.push(batch.clone());
    }

    pub(super) fn flush(&self) {
        let inner = &mut *self.0.borrow_mut();
        for batch in inner.since_flush.drain(..) {
            put(&mut inner.durable, &batch);
        }
    }

    pub(super) fn replace(&self, pages: &[Vec<(Vec<u8>, Vec<u8>)>]) {
        let inner = &mut *self.0.borrow_mut();
        inner.live = pages.iter().flatten().cloned().collect();
        inner.durable = inner.live.clone();
        inner.since_flush.clear();
        inner.rotten = false;
    }
}
