//! A volume's new owner fences chunks of the old one, who may still be writing. Which ones must it
//! fence? All that were granted and are not sealed, creating shards that do not exist yet.

use super::{Found, search};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fenced {
    AllGranted,
    LastTwoGranted,
    /// The last two of which shards know.
    LastTwoUsed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ack {
    /// Accepting and acknowledging is one step.
    AtOnce,
    /// An append accepted before the fence is acknowledged after it.
    ThoughFenced,
    /// The fence drops it.
    FenceDrops,
}

#[derive(Clone, Copy)]
struct Rules {
    granted: usize,
    fenced: Fenced,
    /// The fence creates a shard that does not exist.
    creates: bool,
    /// Chunks with an append whose fate is unknown.
    in_flight: usize,
    ack: Ack,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Shard {
    exists: bool,
    full: bool,
    fenced: bool,
    /// Accepted, not acknowledged.
    accepted: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Two shards a chunk, one append a chunk.
    shards: Vec<[Shard; 2]>,
    sent: Vec<bool>,
    acked: Vec<bool>,
    /// What each fenced chunk's shards answered, once the take-over began.
    answers: Option<Vec<(usize, [Option<bool>; 2])>>,
    /// What was replayed of each chunk.
    replayed: Option<Vec<bool>>,
}

fn model(rules: Rules) -> Found {
    let chunks = rules.granted;
    let initial = State {
        shards: vec![[Shard::default(); 2]; chunks],
        sent: vec![false; chunks],
        acked: vec![false; chunks],
        answers: None,
        replayed: None,
    };
    search(
        initial,
        |state, next| {
            old_owner(state, rules, next);
            new_owner(state, rules, next);
        },
        |state| {
            let replayed = state.replayed.as_ref()?;
            let lost = (0..chunks).find(|chunk| state.acked[*chunk] && !replayed[*chunk])?;
            Some(format!("the acked write in chunk {lost} was not replayed"))
        },
    )
}

fn old_owner(state: &State, rules: Rules, next: &mut Vec<(String, State)>) {
    let open = state.sent.iter().zip(&state.acked).filter(|(sent, acked)| **sent && !**acked).count();
    if let Some(chunk) = state.sent.iter().position(|sent| !sent).filter(|_| open < rules.in_flight) {
        let mut after = state.clone();
        after.sent[chunk] = true;
        next.push((format!("send to {chunk}"), after));
    }
    for chunk in (0..rules.granted).filter(|chunk| state.sent[*chunk]) {
        for index in 0..2 {
            let shard = state.shards[chunk][index];
            if !shard.fenced && !shard.full && !shard.accepted {
                let mut after = state.clone();
                let changed = &mut after.shards[chunk][index];
                changed.exists = true;
                match rules.ack {
                    Ack::AtOnce => changed.full = true,
                    Ack::ThoughFenced | Ack::FenceDrops => changed.accepted = true,
                }
                next.push((format!("{chunk}.{index} accepts"), after));
            }
            if shard.accepted && (!shard.fenced || rules.ack == Ack::ThoughFenced) {
                let mut after = state.clone();
                after.shards[chunk][index].accepted = false;
                after.shards[chunk][index].full = true;
                next.push((format!("{chunk}.{index} acks"), after));
            }
        }
        if !state.acked[chunk] && state.shards[chunk].iter().all(|shard| shard.full) {
            let mut after = state.clone();
            after.acked[chunk] = true;
            next.push((format!("write {chunk} is acked"), after));
        }
    }
}

fn new_owner(state: &State, rules: Rules, next: &mut Vec<(String, State)>) {
    let Some(answers) = &state.answers else {
        let last_two = |chunks: Vec<usize>| chunks[chunks.len().saturating_sub(2)..].to_vec();
        let all: Vec<usize> = (0..rules.granted).collect();
        let used = |chunk: &usize| state.shards[*chunk].iter().any(|shard| shard.exists);
        let chosen = match rules.fenced {
            Fenced::AllGranted => all,
            Fenced::LastTwoGranted => last_two(all),
            Fenced::LastTwoUsed => last_two(all.into_iter().filter(used).collect()),
        };
        let mut after = state.clone();
        after.answers = Some(chosen.into_iter().map(|chunk| (chunk, [None; 2])).collect());
        next.push(("take over".into(), after));
        return;
    };
    if state.replayed.is_some() {
        return;
    }
    for (at, (chunk, heard)) in answers.iter().enumerate() {
        for index in (0..2).filter(|index| heard[*index].is_none()) {
            let mut after = state.clone();
            let shard = &mut after.shards[*chunk][index];
            let full = shard.full;
            if shard.exists || rules.creates {
                shard.exists = true;
                shard.fenced = true;
                shard.accepted &= rules.ack == Ack::ThoughFenced;
            }
            after.answers.as_mut().expect("it began")[at].1[index] = Some(full);
            next.push((format!("fence {chunk}.{index}"), after));
        }
    }
    if answers.iter().all(|(_, heard)| heard.iter().any(Option::is_some)) {
        let mut after = state.clone();
        let replay = |chunk: usize| match answers.iter().find(|(fenced, _)| *fenced == chunk) {
            Some((_, heard)) => heard.contains(&Some(true)),
            None => state.shards[chunk].iter().any(|shard| shard.full),
        };
        after.replayed = Some((0..rules.granted).map(replay).collect());
        next.push(("replay".into(), after));
    }
}

#[test]
fn new_owner_must_fence_every_granted_chunk() {
    let as_it_is = Rules { granted: 3, fenced: Fenced::AllGranted, creates: true, in_flight: 2, ack: Ack::AtOnce };
    assert!(model(as_it_is).is_safe());
    assert!(model(Rules { fenced: Fenced::LastTwoGranted, in_flight: 1, ..as_it_is }).is_bad());
    assert!(model(Rules { fenced: Fenced::LastTwoUsed, in_flight: 1, ..as_it_is }).is_bad());
    assert!(model(Rules { creates: false, ..as_it_is }).is_bad());
    let two = Rules { granted: 2, ..as_it_is };
    assert!(model(Rules { ack: Ack::FenceDrops, ..two }).is_safe());
    assert!(model(Rules { ack: Ack::ThoughFenced, ..two }).is_bad());
}
