//! Commands are sent again, delayed and repeated by the network, and clients start anew. Which rules
//! execute each once and answer each with its own outcome?

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, search};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trim {
    Never,
    /// Some day an outcome is forgotten.
    ByTime,
    /// Outcomes up to the client's acknowledged floor are forgotten, and commands below it refused.
    ByFloor,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// A restarted client keeps its name and counts from 1 again.
    Same,
    /// It takes a new name, and any name is accepted.
    Unregistered,
    /// It registers a new name, which ends the old one.
    Registered,
}

type Message = (u8, u8, u8, u8);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Operations executed, in order.
    executed: Vec<u8>,
    /// Outcomes by name and sequence.
    outcomes: BTreeMap<(u8, u8), u8>,
    floors: BTreeMap<u8, u8>,
    /// Name, sequence, operation, floor; a message may arrive at any time, any number of times.
    messages: BTreeSet<Message>,
    name: u8,
    sequence: u8,
    operation: u8,
    waiting: Option<u8>,
    names: BTreeSet<u8>,
    restarted: bool,
    /// A client was told the outcome of another operation.
    lied: bool,
}

fn model(trim: Trim, restarts: bool, names: Names) -> Found {
    let initial = State {
        executed: Vec::new(),
        outcomes: BTreeMap::new(),
        floors: BTreeMap::new(),
        messages: BTreeSet::new(),
        name: 1,
        sequence: 1,
        operation: 1,
        waiting: None,
        names: BTreeSet::from([1]),
        restarted: false,
        lied: false,
    };
    let step = |state: &State, next: &mut Vec<(String, State)>| {
        if state.waiting.is_none() && state.operation <= 3 {
            let mut after = state.clone();
            after.messages.insert((state.name, state.sequence, state.operation, state.sequence - 1));
            after.waiting = Some(state.operation);
            next.push((format!("send {}", state.operation), after));
        }
        for message in &state.messages {
            arrive(state, *message, trim, names, next);
        }
        if trim == Trim::ByTime {
            for key in state.outcomes.keys() {
                let mut after = state.clone();
                after.outcomes.remove(key);
                next.push((format!("forget {key:?}"), after));
            }
        }
        if restarts && !state.restarted {
            next.push(("client starts anew".into(), restart(state, names)));
        }
    };
    search(initial, step, |state| {
        let once: BTreeSet<u8> = state.executed.iter().copied().collect();
        if once.len() != state.executed.len() {
            return Some(format!("executed twice: {:?}", state.executed));
        }
        state.lied.then(|| "answered with the outcome of another operation".into())
    })
}

fn arrive(state: &State, message: Message, trim: Trim, names: Names, next: &mut Vec<(String, State)>) {
    let (name, sequence, operation, floor) = message;
    let refused = names == Names::Registered && !state.names.contains(&name)
        || trim == Trim::ByFloor && sequence <= state.floors.get(&name).copied().unwrap_or(0);
    if refused || state.executed.len() > 4 {
        return;
    }
    let mut after = state.clone();
    let outcome = match state.outcomes.get(&(name, sequence)) {
        Some(outcome) => *outcome,
        None => {
            after.executed.push(operation);
            after.outcomes.insert((name, sequence), operation);
            if trim == Trim::ByFloor {
                let raised = after.floors.entry(name).or_default();
                *raised = floor.max(*raised);
                let raised = *raised;
                after.outcomes.retain(|(other, sequence), _| *other != name || *sequence > raised);
            }
            operation
        }
    };
    next.push((format!("apply {operation}"), after.clone()));
    if (name, sequence) == (state.name, state.sequence)
        && let Some(waiting) = state.waiting
    {
        after.lied |= outcome != waiting;
        after.waiting = None;
        after.sequence += 1;
        after.operation += 1;
        next.push((format!("answer {operation}"), after));
    }
}

fn restart(state: &State, names: Names) -> State {
    let mut after = state.clone();
    after.restarted = true;
    after.sequence = 1;
    after.operation += u8::from(state.waiting.is_some());
    after.waiting = None;
    if names != Names::Same {
        after.outcomes.retain(|(name, _), _| *name != state.name);
        after.name = 2;
        after.names.insert(2);
    }
    if names == Names::Registered {
        after.names.remove(&state.name);
    }
    after
}

#[test]
fn commands_happen_once_with_registered_names_and_floors() {
    assert!(model(Trim::ByFloor, false, Names::Registered).is_safe());
    assert!(model(Trim::ByFloor, true, Names::Registered).is_safe());
    assert!(model(Trim::Never, true, Names::Registered).is_safe());
    for trim in [Trim::Never, Trim::ByTime, Trim::ByFloor] {
        assert!(model(trim, true, Names::Same).is_bad());
        assert!(model(trim, true, Names::Unregistered).is_bad());
    }
    assert!(model(Trim::ByTime, false, Names::Registered).is_bad());
}
