//! The matrices of recent reconstructions.
//!
//! A lost disk makes the same shards missing in thousands of chunks, so the inversion is worth
//! keeping. The cache changes how long a reconstruction takes, never what it gives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::kernel::Plan;

/// Which shards are read and which are made: sets of shard indexes as bit masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Erasure {
    /// Shards the product is made from.
    pub used: u32,
    /// Shards that are made.
    pub missing: u32,
}

/// A map of bounded size that forgets what was not used for longest.
#[derive(Debug)]
pub struct DecodeCache {
    entries_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    uses: u64,
    plans: BTreeMap<Erasure, Entry>,
}

#[derive(Debug)]
struct Entry {
    last_use: u64,
    plan: Arc<Plan>,
}

impl DecodeCache {
    /// An empty cache of at most `entries_max` plans (at least one).
    pub fn new(entries_max: usize) -> DecodeCache {
        DecodeCache { entries_max: entries_max.max(1), state: Mutex::default() }
    }

    /// The plan for `erasure`, made by `make` if it is not kept.
    pub fn get_or_make(&self, erasure: Erasure, make: impl FnOnce() -> Plan) -> Arc<Plan> {
        if let Some(plan) = self.touch(erasure) {
            return plan;
        }
        // Made outside the lock: two threads may both make it, which wastes a few microseconds.
        let plan = Arc::new(make());
        self.keep(erasure, plan.clone());
        plan
    }

    fn touch(&self, erasure: Erasure) -> Option<Arc<Plan>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.uses += 1;
        let now = state.uses;
        let entry = state.plans.get_mut(&erasure)?;
        entry.last_use = now;
        Some(entry.plan.clone())
    }

    fn keep(&self, erasure: Erasure, plan: Arc<Plan>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last_use = state.uses;
        state.plans.insert(erasure, Entry { last_use, plan });
        while state.plans.len() > self.entries_max {
            let oldest = state.plans.iter().filter(|(key, _)| **key != erasure).min_by_key(|(_, entry)| entry.last_use);
            let Some((oldest, _)) = oldest else { break };
            let oldest = *oldest;
            state.plans.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DecodeCache, Erasure};
    use crate::kernel::Plan;
    use crate::matrix::Matrix;

    #[test]
    fn the_plan_unused_for_longest_is_forgotten_first() {
        let cache = DecodeCache::new(2);
        let made = |missing: u32| {
            let mut made = false;
            cache.get_or_make(Erasure { used: 1, missing }, || {
                made = true;
                Plan::new(&Matrix::from_cells(1, 1, |_, _| 1))
            });
            made
        };
        assert!(made(1));
        assert!(made(2));
        assert!(!made(1));
        assert!(made(3), "2 is forgotten now");
        assert!(!made(1));
        assert!(made(2));
    }
}
