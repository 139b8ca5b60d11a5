//! What clients asked and what they were told: the only thing the checkers look at.

use std::cell::RefCell;

use platform::clock::Instant;

/// What a client asked of one key. Values are unique numbers; 0 never is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Write.
    Put {
        /// The new value.
        value: u64,
    },
    /// Write if the key is absent.
    PutAbsent {
        /// The new value.
        value: u64,
    },
    /// Write if the key has the expected value.
    PutMatch {
        /// The new value.
        value: u64,
        /// The value it must have.
        expected: u64,
    },
    /// Delete.
    Delete,
    /// Delete if the key has the expected value.
    DeleteMatch {
        /// The value it must have.
        expected: u64,
    },
    /// Read (also a row of a listing).
    Read,
}

/// What the client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// A put went well.
    Done,
    /// A delete went well; whether there was anything.
    Existed(bool),
    /// A read: the value, `None` if absent.
    Value(Option<u64>),
    /// The condition did not hold; the key exists.
    Precondition,
    /// The condition asks for a key that does not exist.
    NoKey,
}

/// One operation on one key.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which client worker.
    pub worker: u32,
    /// Which key.
    pub key: u32,
    /// What was asked.
    pub ask: Ask,
    /// When.
    pub start: Instant,
    /// When the answer came; `None` = never, it may have happened or may still happen.
    pub end: Option<Instant>,
    /// The answer.
    pub told: Option<Told>,
}

/// A number by which an operation is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(usize);

/// Everything that was asked, in order of start.
#[derive(Default)]
pub struct History {
    operations: RefCell<Vec<Operation>>,
    /// Size of each value in bytes, by number.
    sizes: RefCell<Vec<u64>>,
}

impl History {
    /// A history without operations.
    pub fn new() -> History {
        // Number 0 means "absent".
        History { operations: RefCell::default(), sizes: RefCell::new(vec![0]) }
    }

    /// A new value of `size` bytes.
    pub fn new_value(&self, size: u64) -> u64 {
        let mut sizes = self.sizes.borrow_mut();
        sizes.push(size);
        sizes.len() as u64 - 1
    }

    /// Size of a value in bytes; `None` if it was never made.
    pub fn size_of(&self, value: u64) -> Option<u64> {
        if value == 0 { None } else { self.sizes.borrow().get(value as usize).copied() }
    }

    /// An operation begins.
    pub fn start(&self, worker: u32, key: u32, ask: Ask, now: Instant) -> Handle {
        let mut operations = self.operations.borrow_mut();
        operations.push(Operation { worker, key, ask, start: now, end: None, told: None });
        Handle(operations.len() - 1)
    }

    /// It was answered.
    pub fn end(&self, handle: Handle, told: Told, now: Instant) {
        let mut operations = self.operations.borrow_mut();
        let operation = &mut operations[handle.0];
        operation.end = Some(now);
        operation.told = Some(told);
    }

    /// An operation that began and ended (rows of listings, final reads).
    pub fn note(&self, operation: Operation) {
        self.operations.borrow_mut().push(operation);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.operations.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operations on one key that say something: all but unanswered reads.
    pub fn of_key(&self, key: u32) -> Vec<Operation> {
        let operations = self.operations.borrow();
        let says =
            |operation: &&Operation| operation.key == key && (operation.told.is_some() || operation.ask != Ask::Read);
        operations.iter().filter(says).cloned().collect()
    }

    /// The highest key number used, plus one.
    pub fn key_count(&self) -> u32 {
        self.operations.borrow().iter().map(|operation| operation.key + 1).max().unwrap_or(0)
    }
}
