//! Repair, transcode and delete move and remove the shard of a chunk while readers hold old routes and
//! messages arrive late. Numbers that are never reused, given by Raft before the first byte, make them safe.

use std::collections::BTreeSet;

use super::{Found, search};

/// What a shard holds: a copy, or a column of a stripe.
type Kind = bool;
/// Placement number and kind.
type Shard = (u8, Kind);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mover {
    id: u8,
    disk: u8,
    kind: Kind,
    from: u8,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    disks: [BTreeSet<Shard>; 2],
    /// Disk, number and kind of the shard, as Raft has it.
    route: Option<(u8, u8, Kind)>,
    pending: BTreeSet<(u8, u8, Kind)>,
    /// A mover acts for ever, also when nobody waits for it any more.
    movers: BTreeSet<Mover>,
    /// Deletes under way: disk and number.
    deletes: BTreeSet<(u8, u8)>,
    /// A route that some reader keeps.
    cached: Option<(u8, u8, Kind)>,
    next_id: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Rules {
    /// At most one move is pending for a chunk.
    one_pending: bool,
    /// A commit looks whether its move is pending.
    commit_checks: bool,
    /// A read names the placement.
    reads_name: bool,
    /// A delete names the placement, not the chunk.
    deletes_name: bool,
}

const AS_IT_IS: Rules = Rules { one_pending: true, commit_checks: true, reads_name: true, deletes_name: true };

fn model(rules: Rules) -> Found {
    let initial = State {
        disks: [BTreeSet::from([(1, false)]), BTreeSet::new()],
        route: Some((0, 1, false)),
        pending: BTreeSet::new(),
        movers: BTreeSet::new(),
        deletes: BTreeSet::new(),
        cached: None,
        next_id: 2,
    };
    search(
        initial,
        |state, next| step(state, rules, next),
        |state| {
            if let Some((disk, id, kind)) = state.route
                && !state.disks[disk as usize].contains(&(id, kind))
            {
                return Some("Raft names a shard that is gone".into());
            }
            let (disk, id, kind) = state.cached?;
            let other = |shard: &Shard| (shard.0 == id || !rules.reads_name) && shard.1 != kind;
            let found = state.disks[disk as usize].iter().any(other);
            found.then(|| "a reader gets a cell of the other layout".into())
        },
    )
}

fn step(state: &State, rules: Rules, next: &mut Vec<(String, State)>) {
    let mut add = |label: String, change: &dyn Fn(&mut State)| {
        let mut after = state.clone();
        change(&mut after);
        next.push((label, after));
    };
    if let Some(route) = state.route {
        add("reader caches".into(), &|after| after.cached = Some(route));
        if state.next_id <= 4 && (state.pending.is_empty() || !rules.one_pending) {
            for disk in 0..2 {
                for kind in BTreeSet::from([route.2, true]) {
                    let id = state.next_id;
                    add(format!("plan {id} to {disk}"), &|after| {
                        after.pending.insert((id, disk, kind));
                        after.movers.insert(Mover { id, disk, kind, from: route.1 });
                        after.next_id += 1;
                    });
                }
            }
        }
        add("delete the chunk".into(), &|after| {
            after.route = None;
            after.deletes.insert((route.0, route.1));
            after.deletes.extend(state.pending.iter().map(|(id, disk, _)| (*disk, *id)));
            after.pending.clear();
        });
    }
    for mover in &state.movers {
        let Mover { id, disk, kind, from } = *mover;
        if !state.disks[disk as usize].contains(&(id, kind)) {
            add(format!("mover {id} writes"), &|after| {
                after.disks[disk as usize].insert((id, kind));
            });
        } else if let Some(route) = state.route {
            let pending = state.pending.contains(&(id, disk, kind));
            let may = if rules.commit_checks { pending } else { route.1 != id };
            if may && (rules.one_pending || route.1 == from) {
                add(format!("mover {id} commits"), &|after| {
                    after.route = Some((disk, id, kind));
                    after.pending.remove(&(id, disk, kind));
                    after.deletes.insert((route.0, route.1));
                });
            }
        }
    }
    for (id, disk, kind) in &state.pending {
        add(format!("abort {id}"), &|after| {
            after.pending.remove(&(*id, *disk, *kind));
            after.deletes.insert((*disk, *id));
        });
    }
    for (disk, id) in &state.deletes {
        let goes = |shard: &Shard| shard.0 == *id || !rules.deletes_name;
        if state.disks[*disk as usize].iter().any(goes) {
            add(format!("delete {id} on {disk}"), &|after| after.disks[*disk as usize].retain(|shard| !goes(shard)));
        }
    }
}

#[test]
fn placement_numbers_make_moves_deletes_and_readers_safe_together() {
    assert!(model(AS_IT_IS).is_safe());
    assert!(model(Rules { one_pending: false, ..AS_IT_IS }).is_safe());
    assert!(model(Rules { reads_name: false, ..AS_IT_IS }).is_bad());
    assert!(model(Rules { deletes_name: false, ..AS_IT_IS }).is_bad());
    assert!(model(Rules { commit_checks: false, ..AS_IT_IS }).is_bad());
}
