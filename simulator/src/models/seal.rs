//! A seal in steps, with sealers that die anywhere: what may happen to shards between the fence and the
//! commit? The decision is the code's own.

use metaserver::server::seal::{Answered, decide};
use types::redundancy::Redundancy;

use super::{Found, search};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Shards are dropped by the seal itself, never replaced before it.
    AsItIs,
    /// A shard that did not answer is replaced by an empty one before the seal, to be filled then.
    ReplaceFirst,
    /// As it is, but a shard that cut a rotten tail does not say so.
    CutIsSecret,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sealer {
    epoch: u64,
    /// Shard and length, in order of the shard.
    answers: Vec<(usize, u64)>,
    /// The decided length, and who holds it.
    decided: Option<(u64, Vec<usize>)>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Of the shards of the chunk, and of a spare one at the end.
    lens: Vec<u64>,
    fences: Vec<u64>,
    /// What a shard had before it cut a rotten tail, 0 = it has not.
    had: Vec<u64>,
    rot_left: u64,
    layout: Vec<usize>,
    acked: u64,
    epoch: u64,
    sealed: Option<u64>,
    sealer: Option<Sealer>,
}

fn model(policy: Redundancy, rule: Rule, rot: u64, appends: u64) -> Found {
    let n = policy.shards();
    let initial = State {
        lens: vec![0; n + 1],
        fences: vec![0; n + 1],
        had: vec![0; n + 1],
        rot_left: rot,
        layout: (0..n).collect(),
        acked: 0,
        epoch: 0,
        sealed: None,
        sealer: None,
    };
    search(
        initial,
        |state, next| {
            write(state, n, appends, next);
            if state.sealed.is_none() {
                seal(state, policy, rule, next);
            }
        },
        |state| {
            let lost = state.sealed.filter(|len| *len < state.acked)?;
            Some(format!("sealed at {lost}, acked {}", state.acked))
        },
    )
}

/// The writer appends to the original shards and is acked when all have it; a tail may rot and be cut.
fn write(state: &State, n: usize, appends: u64, next: &mut Vec<(String, State)>) {
    for shard in 0..n {
        if state.fences[shard] == 0 && state.lens[shard] < appends {
            let mut after = state.clone();
            after.lens[shard] += 1;
            next.push((format!("append to {shard}"), after));
        }
        if state.rot_left > 0 && state.lens[shard] > 0 && state.had[shard] == 0 {
            let mut after = state.clone();
            after.had[shard] = after.lens[shard];
            after.lens[shard] -= 1;
            after.rot_left -= 1;
            next.push((format!("{shard} cuts its rotten tail"), after));
        }
    }
    let stored = |shard: usize| state.lens[shard].max(state.had[shard]);
    let everywhere = (0..n).map(stored).min().unwrap_or(0);
    if everywhere > state.acked {
        let mut after = state.clone();
        after.acked = everywhere;
        next.push((format!("ack {everywhere}"), after));
    }
}

fn seal(state: &State, policy: Redundancy, rule: Rule, next: &mut Vec<(String, State)>) {
    if state.epoch < 2 {
        let mut after = state.clone();
        after.epoch += 1;
        after.sealer = Some(Sealer { epoch: after.epoch, answers: Vec::new(), decided: None });
        next.push((format!("sealer {}", after.epoch), after));
    }
    let Some(sealer) = &state.sealer else { return };
    let Some((len, keep)) = &sealer.decided else {
        for shard in state.layout.iter().filter(|shard| sealer.answers.iter().all(|(other, _)| other != *shard)) {
            let mut after = state.clone();
            after.fences[*shard] = sealer.epoch.max(after.fences[*shard]);
            let sealer = after.sealer.as_mut().expect("there is one");
            sealer.answers.push((*shard, state.lens[*shard]));
            sealer.answers.sort_unstable();
            next.push((format!("fence {shard}"), after));
        }
        let answers: Vec<Answered> = sealer
            .answers
            .iter()
            .map(|(shard, len)| {
                let cut = state.had[*shard] > 0 && rule != Rule::CutIsSecret;
                Answered { placement: *shard as u64, len: *len, cut }
            })
            .collect();
        if let Some(decision) = decide(policy, &answers, state.layout.len() - answers.len()) {
            let mut after = state.clone();
            let keep = decision.keep.iter().map(|placement| *placement as usize).collect();
            after.sealer.as_mut().expect("there is one").decided = Some((decision.len, keep));
            next.push((format!("decide {}", decision.len), after));
        }
        return;
    };
    let spare = state.lens.len() - 1;
    if rule == Rule::ReplaceFirst && !state.layout.contains(&spare) {
        for shard in state.layout.iter().filter(|shard| !keep.contains(shard)) {
            let mut after = state.clone();
            after.layout.retain(|other| other != shard);
            after.layout.push(spare);
            after.fences[spare] = sealer.epoch;
            next.push((format!("replace {shard}"), after));
        }
    }
    if sealer.epoch == state.epoch {
        let mut after = state.clone();
        after.sealed = Some(*len);
        next.push((format!("seal at {len}"), after));
    }
}

const COPIES: Redundancy = Redundancy::Copies(3);
const STRIPES: Redundancy = Redundancy::Erasure { data: 4, parity: 2 };

#[test]
fn seal_loses_nothing_though_sealers_die_and_shards_do_not_answer() {
    assert!(model(COPIES, Rule::AsItIs, 0, 2).is_safe());
    assert!(model(STRIPES, Rule::AsItIs, 0, 1).is_safe());
}

#[test]
fn replacing_a_shard_before_the_seal_would_lose_data() {
    assert!(model(COPIES, Rule::ReplaceFirst, 0, 1).is_bad());
}

#[test]
fn shard_that_cut_its_tail_must_say_so() {
    assert!(model(COPIES, Rule::AsItIs, 1, 1).is_safe());
    assert!(model(COPIES, Rule::CutIsSecret, 1, 1).is_bad());
}
