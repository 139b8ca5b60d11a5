//! Small models of the protocols whose rules are not obvious, searched exhaustively: every order of
//! events within small bounds. Each module holds the rule as it is and the plausible alternatives to it
//! that lose data, so that the search is seen to find what it looks for.
//!
//! Where the code has the decision as a plain function (`seal::decide`, `Redundancy::seal_is_safe`) the
//! model calls that one. Too large to be searched is [`index`], which is run from seeds.

#[cfg(test)]
mod exactly_once;
pub mod index;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod reclaim;
#[cfg(test)]
mod seal;
#[cfg(test)]
mod seal_law;
#[cfg(test)]
mod take_over;
#[cfg(test)]
mod torn_or_rot;

#[cfg(test)]
use std::collections::{BTreeMap, VecDeque};

/// What a search found.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// No state is bad; how many there are.
    Safe(usize),
    /// The shortest way to a bad state, and what is bad there.
    Bad(Vec<String>, String),
}

#[cfg(test)]
impl Found {
    fn is_safe(&self) -> bool {
        matches!(self, Found::Safe(_))
    }

    fn is_bad(&self) -> bool {
        !self.is_safe()
    }
}

/// Searches breadth first from `initial`. `step` tells what can happen next, `bad` what must not be.
#[cfg(test)]
fn search<S: Ord + Clone>(
    initial: S,
    step: impl Fn(&S, &mut Vec<(String, S)>),
    bad: impl Fn(&S) -> Option<String>,
) -> Found {
    let mut seen: BTreeMap<S, usize> = BTreeMap::from([(initial.clone(), 0)]);
    let mut states: Vec<(usize, String)> = vec![(0, String::new())];
    let mut open: VecDeque<(usize, S)> = VecDeque::from([(0, initial)]);
    let mut next = Vec::new();
    while let Some((at, state)) = open.pop_front() {
        if let Some(what) = bad(&state) {
            let mut way = Vec::new();
            let mut from = at;
            while from != 0 {
                way.push(states[from].1.clone());
                from = states[from].0;
            }
            way.reverse();
            return Found::Bad(way, what);
        }
        step(&state, &mut next);
        for (label, after) in next.drain(..) {
            if !seen.contains_key(&after) {
                seen.insert(after.clone(), states.len());
                open.push_back((states.len(), after));
                states.push((at, label));
            }
        }
    }
    Found::Safe(states.len())
}
