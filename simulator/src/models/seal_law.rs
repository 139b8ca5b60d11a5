//! When can a seal lose an acked byte? With n shards of which k are needed, acks from q and a decision
//! on r answers: never, if and only if the answers are fenced and q + r >= n + k.

use types::redundancy::Redundancy;

use super::search;

/// One append. Shards are alike, so only their counts matter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Neither appended nor asked.
    fresh: usize,
    /// Appended, not asked.
    appended: usize,
    /// Answered "empty".
    answered_empty: usize,
    /// Answered "has it".
    answered_full: usize,
    /// Answered "empty", and appended after that: possible without a fence only.
    appended_late: usize,
    acked: bool,
    /// Whether the sealed length covers the append.
    sealed: Option<bool>,
}

fn is_safe(n: usize, k: usize, q: usize, r: usize, fenced: bool) -> bool {
    let initial = State {
        fresh: n,
        appended: 0,
        answered_empty: 0,
        answered_full: 0,
        appended_late: 0,
        acked: false,
        sealed: None,
    };
    let step = |state: &State, next: &mut Vec<(String, State)>| {
        let mut add = |change: &dyn Fn(&mut State)| {
            let mut after = state.clone();
            change(&mut after);
            after.acked |= after.appended + after.answered_full + after.appended_late >= q;
            next.push((String::new(), after));
        };
        if state.fresh > 0 {
            add(&|after| {
                after.fresh -= 1;
                after.appended += 1;
            });
        }
        if state.answered_empty > 0 && !fenced {
            add(&|after| {
                after.answered_empty -= 1;
                after.appended_late += 1;
            });
        }
        if state.sealed.is_some() {
            return;
        }
        if state.fresh > 0 {
            add(&|after| {
                after.fresh -= 1;
                after.answered_empty += 1;
            });
        }
        if state.appended > 0 {
            add(&|after| {
                after.appended -= 1;
                after.answered_full += 1;
            });
        }
        if state.answered_empty + state.answered_full + state.appended_late >= r {
            add(&|after| after.sealed = Some(after.answered_full >= k));
        }
    };
    search(initial, step, |state| (state.acked && state.sealed == Some(false)).then(String::new)).is_safe()
}

#[test]
fn law_of_sealing_holds_for_every_configuration() {
    let mut tried = 0;
    for n in 2..=12 {
        for k in 1..=n {
            for q in k..=n {
                for r in 1..=n {
                    tried += 1;
                    assert_eq!(is_safe(n, k, q, r, true), q + r >= n + k, "n {n} k {k} q {q} r {r}");
                }
            }
        }
    }
    assert!(tried > 3000);
}

#[test]
fn no_configuration_is_safe_without_a_fence() {
    for n in [3, 6, 11] {
        for k in 1..n {
            for q in k..=n {
                for r in 1..=n {
                    assert!(!is_safe(n, k, q, r, false), "n {n} k {k} q {q} r {r}");
                }
            }
        }
    }
}

#[test]
fn code_asks_for_what_the_model_finds_safe() {
    let stripes = |data, parity| Redundancy::Erasure { data, parity };
    for policy in [Redundancy::Copies(2), Redundancy::Copies(3), stripes(4, 2), stripes(2, 1), stripes(8, 3)] {
        let (n, k) = (policy.shards(), policy.needed());
        for q in k..=n {
            for r in 1..=n {
                assert_eq!(policy.seal_is_safe(q, r), is_safe(n, k, q, r, true), "{policy} q {q} r {r}");
            }
        }
    }
}
