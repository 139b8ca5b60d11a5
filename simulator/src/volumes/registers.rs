//! Is what a register answered possible? Each granule of a volume is one.
//!
//! A write whose fate is unknown may take effect at any time until `until`: then another owner had the
//! volume, and what the one before it had under way is there or never will be. Effects are put as late as
//! answers allow (Lowe's just-in-time linearization, 2016); a write that nobody saw lies hidden just before
//! the one that overwrote it. Times are nanoseconds.

use std::collections::BTreeSet;

/// A value that nobody knows yet: what is read first.
pub const ANY: u64 = u64::MAX;
/// States that are followed at once; with more a register counts as undecided.
const STATES_MAX: usize = 3000;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The value was written.
    Write(u64),
    /// The value was read.
    Read(u64),
}

/// One operation on one register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// What was done.
    pub what: What,
    /// When it began.
    pub start: u64,
    /// When it was answered; a read always was.
    pub end: Option<u64>,
    /// It takes no effect after this.
    pub until: Option<u64>,
}

impl Op {
    /// The time up to which it must have taken effect, if it must.
    fn due(&self) -> Option<u64> {
        self.end.map(|end| self.until.map_or(end, |until| until.min(end)).max(self.start))
    }

    /// The last moment at which it may take effect.
    fn last(&self) -> u64 {
        self.due().or(self.until).unwrap_or(u64::MAX).max(self.start)
    }
}

/// What the judge says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything has an explanation.
    Possible,
    /// The operation, by index, that nothing explains.
    Impossible(usize),
    /// Too many explanations to follow.
    TooHard,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    value: u64,
    /// Since when; 0 = from the beginning.
    since: u64,
    /// Earlier values and until when.
    before: BTreeSet<(u64, u64)>,
    /// Writes under way that took effect.
    used: BTreeSet<usize>,
}

impl State {
    fn write(&self, value: u64, at: u64) -> State {
        let mut next = self.clone();
        next.before.insert((self.value, at));
        (next.value, next.since) = (value, at);
        next
    }

    /// The value was there just before the present one.
    fn hide(&self, value: u64) -> State {
        let mut next = self.clone();
        next.before.insert((value, self.since));
        next
    }

    fn with_used(mut self, index: usize) -> State {
        self.used.insert(index);
        self
    }

    fn had(&self, value: u64, from: u64) -> bool {
        self.value == value || self.before.iter().any(|(was, until)| (*was == value || *was == ANY) && *until >= from)
    }
}

/// Whether there is an order in which the operations explain each other, beginning with `initial`.
pub fn check(initial: u64, ops: &[Op]) -> Verdict {
    let mut events: Vec<(u64, u8, usize)> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        events.push((op.start, 0, index));
        if op.last() < u64::MAX {
            events.push((op.last(), 1, index));
        }
    }
    events.sort_unstable();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let first = State { value: initial, since: 0, before: BTreeSet::new(), used: BTreeSet::new() };
    let mut states: BTreeSet<State> = BTreeSet::from([first]);
    for (now, kind, index) in events {
        if kind == 0 {
            open.insert(index);
            continue;
        }
        let op = &ops[index];
        let mut next = BTreeSet::new();
        for state in &states {
            match op.what {
                What::Read(value) => read(state, value, op.start, now, ops, &open, &mut next),
                What::Write(_) if state.used.contains(&index) => {
                    let mut state = state.clone();
                    state.used.remove(&index);
                    next.insert(state);
                }
                // It took effect up to now, or never does.
                What::Write(value) if op.end.is_none() => {
                    next.insert(state.write(value, now));
                    next.insert(state.clone());
                }
                What::Write(value) => {
                    next.insert(state.write(value, now));
                    if state.since >= op.start {
                        next.insert(state.hide(value));
                    }
                }
            }
        }
        open.remove(&index);
        if next.is_empty() {
            return Verdict::Impossible(index);
        }
        if next.len() > STATES_MAX {
            return Verdict::TooHard;
        }
        let reads = open.iter().filter(|index| matches!(ops[**index].what, What::Read(_)));
        let oldest = reads.map(|index| ops[*index].start).min().unwrap_or(now);
        states = next
            .into_iter()
            .map(|mut state| {
                state.before.retain(|(_, until)| *until >= oldest);
                state
            })
            .collect();
    }
    Verdict::Possible
}

/// The states in which a read of `value` that began at `from` and ends now is explained.
fn read(
    state: &State,
    value: u64,
    from: u64,
    now: u64,
    ops: &[Op],
    open: &BTreeSet<usize>,
    next: &mut BTreeSet<State>,
) {
    if state.value == ANY {
        next.insert(State { value, ..state.clone() });
        return;
    }
    if state.had(value, from) {
        next.insert(state.clone());
        return;
    }
    for index in open.iter().filter(|index| ops[**index].what == What::Write(value) && !state.used.contains(index)) {
        next.insert(state.write(value, now).with_used(*index));
        if state.since >= from.max(ops[*index].start) {
            next.insert(state.hide(value).with_used(*index));
        }
    }
}

/// Whether there was a moment in `from..=upto` at which all registers (what they began with, their operations)
/// can have had these values at once.
pub fn is_cut(registers: &[(u64, Vec<Op>, u64)], from: u64, upto: u64) -> bool {
    let spans: Vec<Vec<(u64, u64)>> =
        registers.iter().map(|(initial, ops, value)| spans(*initial, ops, *value)).collect();
    let starts = spans.iter().flatten().map(|(start, _)| *start).filter(|start| (from..=upto).contains(start));
    let moments: BTreeSet<u64> = starts.chain([from]).collect();
    moments.iter().any(|at| spans.iter().all(|spans| spans.iter().any(|(start, end)| (start..=end).contains(&at))))
}

/// When a register can have had a value.
fn spans(initial: u64, ops: &[Op], value: u64) -> Vec<(u64, u64)> {
    let overwritten = |last: u64| {
        let later = ops.iter().filter(|op| matches!(op.what, What::Write(_)) && op.start > last);
        later.filter_map(Op::due).min().unwrap_or(u64::MAX)
    };
    if initial == ANY {
        return vec![(0, u64::MAX)];
    }
    let writes = ops.iter().filter(|op| op.what == What::Write(value));
    let first = (initial == value).then(|| (0, overwritten(0)));
    writes.map(|op| (op.start, overwritten(op.last()))).chain(first).collect()
}

#[cfg(test)]
mod tests {
    use super::{ANY, Op, Verdict, What, check, is_cut};

    fn write(value: u64, start: u64, end: u64) -> Op {
        Op { what: What::Write(value), start, end: Some(end), until: None }
    }

    fn lost(value: u64, start: u64, until: Option<u64>) -> Op {
        Op { what: What::Write(value), start, end: None, until }
    }

    fn read(value: u64, start: u64, end: u64) -> Op {
        Op { what: What::Read(value), start, end: Some(end), until: None }
    }

    fn fine(ops: &[Op]) -> bool {
        check(0, ops) == Verdict::Possible
    }

    #[test]
    fn acknowledged_write_is_read_until_it_is_overwritten() {
        assert!(fine(&[read(0, 1, 2), write(7, 3, 4), read(7, 5, 6), write(8, 7, 8), read(8, 9, 10)]));
        assert!(!fine(&[write(7, 3, 4), read(0, 5, 6)]));
        assert!(!fine(&[write(7, 3, 4), write(8, 7, 8), read(7, 9, 10)]));
        assert!(fine(&[write(7, 3, 10), read(0, 5, 6), read(7, 5, 12)]));
        assert!(!fine(&[write(7, 3, 10), read(7, 4, 5), read(0, 6, 7)]), "once seen it stays");
    }

    #[test]
    fn lost_write_comes_once_or_never_and_not_after_the_next_owner() {
        let put = lost(7, 3, None);
        assert!(fine(&[put, read(0, 5, 6), read(7, 50, 60)]));
        assert!(!fine(&[put, read(7, 5, 6), read(0, 7, 8)]));
        assert!(!fine(&[put, read(7, 5, 6), write(8, 7, 8), read(7, 9, 10)]));
        assert!(fine(&[lost(7, 3, Some(20)), read(0, 5, 6), read(7, 19, 30)]));
        assert!(fine(&[lost(7, 3, Some(20)), read(0, 5, 6), read(7, 21, 30)]));
        assert!(!fine(&[lost(7, 3, Some(20)), read(0, 21, 22), read(7, 23, 30)]));
        let acked_late = Op { until: Some(20), ..write(7, 3, 40) };
        assert!(!fine(&[acked_late, read(0, 21, 22)]), "acknowledged, so it was there when the next owner came");
    }

    #[test]
    fn concurrent_writes_come_in_any_order_that_all_readers_share() {
        let (one, two) = (write(1, 1, 10), write(2, 1, 10));
        assert!(fine(&[one, two, read(1, 1, 20), read(2, 1, 20)]));
        assert!(fine(&[one, two, read(2, 1, 20), read(1, 11, 12)]));
        assert!(!fine(&[one, two, read(2, 11, 12), read(1, 13, 14)]));
        assert!(!fine(&[one, two, read(1, 2, 3), read(2, 4, 5), read(1, 6, 7)]));
        // Hidden behind the one that is read first, and seen by a slow reader.
        assert!(fine(&[write(2, 1, 9), write(3, 1, 30), read(2, 1, 10), read(3, 1, 20), read(2, 25, 26)]));
        assert!(fine(&[write(0, 1, 10), one, read(0, 11, 12)]), "zeroes are written too");
    }

    #[test]
    fn what_nobody_knew_is_what_is_read_first() {
        let explained = |ops: &[Op]| check(ANY, ops) == Verdict::Possible;
        assert!(explained(&[read(5, 1, 2), read(5, 3, 4)]));
        assert!(!explained(&[read(5, 1, 2), read(6, 3, 4)]));
    }

    #[test]
    fn cut_is_a_moment_of_all_registers() {
        let (one, two) = (write(1, 10, 20), write(2, 30, 40));
        let at = |first, second| is_cut(&[(0, vec![one], first), (0, vec![two], second)], 5, 50);
        assert!(at(0, 0) && at(1, 0) && at(1, 2));
        assert!(!at(0, 2), "the later write without the one that was answered before it began");
        assert!(!is_cut(&[(0, vec![one], 0)], 25, 50), "answered before the snapshot was asked for");
        assert!(!is_cut(&[(0, vec![one], 1)], 2, 9), "written after it was answered");
        assert!(is_cut(&[(0, vec![lost(7, 10, None), two], 7)], 45, 50), "nobody knows when it came");
    }
}
