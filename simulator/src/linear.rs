//! Is a history of one register linearizable? (Wing and Gong 1993, with Lowe's memory of states.)
//!
//! Operations without an answer may take effect at any time after their start, or never. They are
//! tried only where the next answered operation needs them: an unanswered write whose effect the
//! next operation does not need can be moved behind it, or left out, without changing any answer.

use std::collections::BTreeSet;

use crate::history::{Ask, Operation, Told};

/// What the search says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none. The answered operation that no order got beyond, by index.
    Impossible(usize),
    /// Not decided within the given number of steps.
    TooHard,
}

/// The value after `operation` on a register that holds `state` (0 = absent); `None` if its
/// answer does not fit. Without an answer: `None` if it would change nothing.
fn step(operation: &Operation, state: u64) -> Option<u64> {
    let fits = |fits: bool, next: u64| fits.then_some(next);
    match (operation.ask, operation.told) {
        (Ask::Put { value }, Some(Told::Done)) => Some(value),
        (Ask::PutAbsent { value }, Some(Told::Done)) => fits(state == 0, value),
        (Ask::PutAbsent { .. }, Some(Told::Precondition)) => fits(state != 0, state),
        (Ask::PutMatch { value, expected }, Some(Told::Done)) => fits(state == expected, value),
        (Ask::DeleteMatch { expected }, Some(Told::Existed(true))) => fits(state == expected, 0),
        (Ask::PutMatch { expected, .. } | Ask::DeleteMatch { expected }, Some(Told::Precondition)) => {
            fits(state != expected && state != 0, state)
        }
        (Ask::PutMatch { .. } | Ask::DeleteMatch { .. }, Some(Told::NoKey)) => fits(state == 0, 0),
        (Ask::Delete, Some(Told::Existed(existed))) => fits(existed == (state != 0), 0),
        (Ask::Read, Some(Told::Value(value))) => fits(value.unwrap_or(0) == state, state),
        (_, Some(_)) => None,
        (Ask::Put { value }, None) => Some(value),
        (Ask::PutAbsent { value }, None) => fits(state == 0, value),
        (Ask::PutMatch { value, expected }, None) => fits(state == expected, value),
        (Ask::Delete, None) => fits(state != 0, 0),
        (Ask::DeleteMatch { expected }, None) => fits(state == expected, 0),
        (Ask::Read, None) => None,
    }
}

struct Search<'a> {
    /// Answered operations by end, then unanswered ones.
    operations: Vec<&'a Operation>,
    answered: usize,
    done: Vec<u64>,
    seen: BTreeSet<(Vec<u64>, u64)>,
    steps_left: u64,
    /// The most answered operations that any order explained, and who was stuck then.
    best: (usize, usize),
}

impl Search<'_> {
    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] >> (index % 64) & 1 == 1
    }

    fn flip(&mut self, index: usize) {
        self.done[index / 64] ^= 1 << (index % 64);
    }

    /// Whether the rest can be explained from `state`. `needed_from`: an unanswered operation was
    /// just applied to that state, so the next one must not fit there.
    fn explain(&mut self, state: u64, needed_from: Option<u64>, count: usize) -> Option<bool> {
        let Some(first) = (0..self.answered).find(|index| !self.is_done(*index)) else { return Some(true) };
        if self.steps_left == 0 {
            return None;
        }
        self.steps_left -= 1;
        if needed_from.is_none() && !self.seen.insert((self.done.clone(), state)) {
            return Some(false);
        }
        if count >= self.best.0 {
            self.best = (count, first);
        }
        // Operations are in order of their ends, so the first open one ends first.
        let horizon = self.operations[first].end;
        for index in first..self.operations.len() {
            let operation = self.operations[index];
            let late = horizon.is_some_and(|horizon| operation.start > horizon);
            if late || self.is_done(index) {
                continue;
            }
            let Some(next) = step(operation, state) else { continue };
            if needed_from.is_some_and(|before| step(operation, before).is_some()) {
                continue;
            }
            self.flip(index);
            let explained = if index < self.answered {
                self.explain(next, None, count + 1)
            } else {
                self.explain(next, Some(state), count)
            };
            self.flip(index);
            match explained {
                Some(false) => {}
                other => return other,
            }
        }
        Some(false)
    }
}

/// Searches an order that explains `operations` (of one key, which begins absent), in at most
/// `steps_max` steps.
pub fn check(operations: &[Operation], steps_max: u64) -> Verdict {
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|index| {
        let operation = &operations[*index];
        (operation.end.is_none(), operation.end, operation.start, *index)
    });
    let answered = operations.iter().filter(|operation| operation.end.is_some()).count();
    let mut search = Search {
        operations: order.iter().map(|index| &operations[*index]).collect(),
        answered,
        done: vec![0; operations.len().div_ceil(64)],
        seen: BTreeSet::new(),
        steps_left: steps_max,
        best: (0, 0),
    };
    match search.explain(0, None, 0) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Impossible(order[search.best.1]),
        None => Verdict::TooHard,
    }
}

#[cfg(test)]
mod tests {
    use super::{Ask, Operation, Told, Verdict, check};
    use platform::clock::Instant;

    fn op(start: u64, end: u64, ask: Ask, told: Told) -> Operation {
        Operation { worker: 0, key: 0, ask, start: Instant(start), end: Some(Instant(end)), told: Some(told) }
    }

    fn lost(start: u64, ask: Ask) -> Operation {
        Operation { worker: 0, key: 0, ask, start: Instant(start), end: None, told: None }
    }

    fn read(start: u64, end: u64, value: u64) -> Operation {
        op(start, end, Ask::Read, Told::Value((value > 0).then_some(value)))
    }

    fn fine(operations: &[Operation]) -> bool {
        check(operations, 100_000) == Verdict::Linearizable
    }

    #[test]
    fn acked_write_must_be_read_afterwards() {
        let put = op(0, 10, Ask::Put { value: 1 }, Told::Done);
        assert!(fine(&[put.clone(), read(11, 12, 1)]));
        assert!(!fine(&[put.clone(), read(11, 12, 0)]));
        assert!(fine(&[put.clone(), read(5, 12, 0)]));
        assert!(!fine(&[put, read(5, 6, 1), read(7, 8, 0)]));
    }

    #[test]
    fn unanswered_write_may_happen_late_once_or_never() {
        let put = lost(0, Ask::Put { value: 1 });
        assert!(fine(&[put.clone(), read(11, 12, 0), read(100, 101, 1)]));
        assert!(fine(&[put.clone(), read(11, 12, 0)]));
        assert!(!fine(&[put.clone(), read(11, 12, 1), read(13, 14, 0)]));
        let over = op(20, 21, Ask::Put { value: 2 }, Told::Done);
        assert!(!fine(&[put.clone(), read(11, 12, 1), over.clone(), read(30, 31, 1)]));
        assert!(fine(&[put, over, read(30, 31, 1)]));
    }

    #[test]
    fn of_two_conditional_winners_one_is_a_lie() {
        let one = op(0, 10, Ask::PutAbsent { value: 1 }, Told::Done);
        let two = op(0, 10, Ask::PutAbsent { value: 2 }, Told::Done);
        assert!(!fine(&[one.clone(), two.clone()]));
        let lost_delete = lost(5, Ask::Delete);
        assert!(fine(&[one.clone(), two, lost_delete]));
        let refused = op(0, 10, Ask::PutAbsent { value: 2 }, Told::Precondition);
        assert!(fine(&[one, refused.clone()]));
        assert!(!fine(&[refused]));
    }

    #[test]
    fn chains_of_unanswered_writes_are_found() {
        let first = lost(0, Ask::Put { value: 1 });
        let second = lost(1, Ask::PutMatch { value: 2, expected: 1 });
        let third = lost(2, Ask::PutMatch { value: 3, expected: 2 });
        assert!(fine(&[first.clone(), second.clone(), third.clone(), read(10, 11, 3)]));
        assert!(fine(&[third, second, first, read(10, 11, 0), read(20, 21, 2)]));
    }

    #[test]
    fn delete_tells_whether_there_was_anything() {
        let put = op(0, 1, Ask::Put { value: 1 }, Told::Done);
        let delete = |existed| op(2, 3, Ask::Delete, Told::Existed(existed));
        assert!(fine(&[put.clone(), delete(true), read(4, 5, 0)]));
        assert!(!fine(&[put, delete(false)]));
    }
}
