//! A memory budget: payload bytes that a process holds for requests in flight.

use std::cell::Cell;
use std::rc::Rc;

/// Counts bytes; cheap to clone.
#[derive(Clone)]
pub struct Budget {
    used: Rc<Cell<usize>>,
    max: usize,
}

/// Bytes taken from a budget; given back on drop.
pub struct Share {
    used: Rc<Cell<usize>>,
    bytes: usize,
}

impl Budget {
    /// A budget of `max` bytes.
    pub fn new(max: usize) -> Budget {
        Budget { used: Rc::new(Cell::new(0)), max }
    }

    /// Takes `bytes` if they fit.
    pub fn take(&self, bytes: usize) -> Option<Share> {
        let used = self.used.get().checked_add(bytes)?;
        (used <= self.max).then(|| {
            self.used.set(used);
            Share { used: Rc::clone(&self.used), bytes }
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.get()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn bytes_beyond_the_budget_are_refused_until_given_back() {
        let budget = Budget::new(10);
        let share = budget.take(8).expect("fits");
        assert!(budget.take(3).is_none());
        drop(share);
        assert!(budget.take(10).is_some());
    }
}
