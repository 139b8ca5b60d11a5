//! Where metaserver replicas live in a cluster of several nodes: on three of them, once there are so many.
//!
//! Every node looks at the same facts (who belongs to the group, which nodes there are) and does its own
//! part: a node without a replica begins one, a node with one too many has it leave. Nodes in line wait
//! for those before them; what two do at once is mended by the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rpc::peers::split_address;

/// As many replicas as a cluster needs, and as many nodes as it takes to have them apart.
const WANTED: usize = 3;
/// How long a need must last before the first in line acts, and what each one behind it waits more.
const SETTLED: Duration = Duration::from_secs(3);
const IN_LINE: Duration = Duration::from_secs(15);

/// A node as its disks say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// HOST:PORT.
    pub address: String,
    /// It answers.
    pub alive: bool,
    /// It has disks in use that are not drained. One that is silent for long loses them.
    pub stays: bool,
}

/// What all nodes know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Raft id to address of those that belong to the group.
    pub group: BTreeMap<u64, String>,
    /// Those of them that vote.
    pub voters: BTreeSet<u64>,
    /// All nodes by address.
    pub nodes: Vec<Node>,
}

/// What a node is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// All is well, or it is for others to act.
    Nothing,
    /// Begin a replica, if the need has lasted for so long.
    Begin(Duration),
    /// Have this replica of its own leave.
    Leave(u64),
}

/// The step of the node at `own`.
pub fn step(facts: &Facts, own: &str) -> Step {
    let which = |is: fn(&Node) -> bool| -> BTreeSet<&str> {
        facts.nodes.iter().filter(|node| is(node)).map(|node| &*node.address).collect()
    };
    let (alive, stays) = (which(|node| node.alive), which(|node| node.stays));
    let usable: Vec<&str> = alive.intersection(&stays).copied().collect();
    let mut by_node: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (id, address) in &facts.group {
        by_node.entry(split_address(address).0).or_default().push(*id);
    }
    let all_vote = facts.group.keys().all(|id| facts.voters.contains(id));
    if usable.len() < WANTED || !all_vote {
        return Step::Nothing;
    }
    if facts.group.len() > WANTED {
        // Off nodes that are going first, then off those that hold several.
        let most = by_node.iter().max_by_key(|(node, held)| (!stays.contains(**node), held.len(), **node));
        let Some((node, held)) = most else { return Step::Nothing };
        // A node that is gone has others act for it.
        let actor = if alive.contains(*node) { Some(*node) } else { usable.first().copied() };
        let leaving = held.last().filter(|_| actor == Some(own));
        return leaving.map_or(Step::Nothing, |id| Step::Leave(*id));
    }
    let badly_placed = by_node.iter().any(|(node, held)| held.len() > 1 || !stays.contains(node));
    let is_needed = facts.group.len() < WANTED || badly_placed;
    let mut waiting = usable.iter().filter(|node| !by_node.contains_key(**node));
    match waiting.position(|node| *node == own) {
        Some(place) if is_needed => Step::Begin(SETTLED + IN_LINE * place as u32),
        _ => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Node, SETTLED, Step, step};
    use std::collections::BTreeMap;

    fn facts(group: &[(u64, &str)], usable: &[&str], others: &[&str]) -> Facts {
        let node = |stays| move |address: &&str| Node { address: (*address).to_owned(), alive: true, stays };
        Facts {
            group: group.iter().map(|(id, node)| (*id, format!("{node}#{id:016x}"))).collect(),
            voters: group.iter().map(|(id, _)| *id).collect(),
            nodes: usable.iter().map(node(true)).chain(others.iter().map(node(false))).collect(),
        }
    }

    /// Lets everybody act in turn until nobody has anything to do; answers who holds how many.
    fn settled(mut facts: Facts) -> BTreeMap<String, usize> {
        let mut next = 100;
        for _ in 0..50 {
            let nodes: Vec<String> = facts.nodes.iter().map(|node| node.address.clone()).collect();
            let mut quiet = true;
            // Whoever is first in line acts alone.
            for node in &nodes {
                match step(&facts, node) {
                    Step::Begin(wait) if wait == SETTLED => {
                        next += 1;
                        facts.group.insert(next, format!("{node}#{next:016x}"));
                        facts.voters.insert(next);
                        quiet = false;
                    }
                    Step::Leave(id) => {
                        assert!(facts.group.len() > 3, "never fewer than three by leaving");
                        facts.group.remove(&id);
                        facts.voters.remove(&id);
                        quiet = false;
                    }
                    _ => {}
                }
            }
            if quiet {
                let mut held = BTreeMap::new();
                for address in facts.group.values() {
                    *held.entry(address.split('#').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
                }
                return held;
            }
        }
        panic!("they never come to rest: {facts:?}");
    }

    #[test]
    fn three_replicas_come_to_live_on_three_nodes() {
        let one_each = |held: BTreeMap<String, usize>| held.len() == 3 && held.values().all(|count| *count == 1);
        // One machine with one replica, or with three, and two that join.
        assert!(one_each(settled(facts(&[(1, "a")], &["a", "b", "c"], &[]))));
        assert!(one_each(settled(facts(&[(1, "a"), (2, "a"), (3, "a")], &["a", "b", "c"], &[]))));
        assert!(one_each(settled(facts(&[(1, "a"), (2, "a"), (3, "b")], &["a", "b", "c", "d"], &[]))));
        // Four by a race.
        assert!(one_each(settled(facts(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")], &["a", "b", "c", "d"], &[]))));
        // Six nodes are no reason to move anything.
        let six = facts(&[(1, "a"), (2, "b"), (3, "c")], &["a", "b", "c", "d", "e", "f"], &[]);
        assert!(six.nodes.iter().all(|node| step(&six, &node.address) == Step::Nothing));
    }

    #[test]
    fn drained_node_gives_its_replica_up_when_another_has_taken_its_place() {
        let held = settled(facts(&[(1, "a"), (2, "b"), (3, "c")], &["b", "c", "d"], &["a"]));
        assert_eq!(held.keys().map(String::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
    }

    #[test]
    fn node_that_is_gone_is_replaced_and_one_that_is_silent_is_not() {
        let mut down = facts(&[(1, "a"), (2, "b"), (3, "c")], &["a", "b", "c", "d"], &[]);
        down.nodes[0].alive = false;
        assert!(["b", "c", "d"].iter().all(|node| step(&down, node) == Step::Nothing), "it may come back");
        down.nodes.remove(0);
        let held = settled(down);
        assert_eq!(held.keys().map(String::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
    }

    #[test]
    fn with_two_nodes_all_stays_as_it_is() {
        let two = facts(&[(1, "a"), (2, "a"), (3, "a")], &["a", "b"], &[]);
        assert!(["a", "b"].iter().all(|node| step(&two, node) == Step::Nothing));
    }

    #[test]
    fn nobody_acts_while_a_new_replica_learns() {
        let mut learning = facts(&[(1, "a"), (2, "a"), (3, "a"), (4, "b")], &["a", "b", "c"], &[]);
        learning.voters.remove(&4);
        assert!(["a", "b", "c"].iter().all(|node| step(&learning, node) == Step::Nothing));
    }
}
