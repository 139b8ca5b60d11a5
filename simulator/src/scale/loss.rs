//! The chance that data is lost when a share of the nodes dies at once: counted over the
//! placements there are, and in closed form.
//!
//! A set of `n` nodes out of `N` is fatal if `m + 1` of it are among the `f` that die, `m` = parity.
//! How many of it are follows the hypergeometric distribution, with the tail `q`. With `s` distinct
//! sets, taken as independent of each other, some chunk is lost with `1 - (1 - q)^s`; chunks spread
//! at random are as many sets as there are chunks.

use std::collections::BTreeSet;

use types::redundancy::Redundancy;

use crate::draw::Draw;

/// Nodes, and how many of them die at once.
#[derive(Clone, Copy, Debug)]
pub struct Deaths {
    /// Nodes in all, numbered from 1.
    pub nodes: u64,
    /// Of them dead.
    pub dead: u64,
}

impl Deaths {
    /// One node in a hundred.
    pub fn of_percent(nodes: u64) -> Deaths {
        Deaths { nodes, dead: nodes / 100 }
    }

    /// The chance that a chunk is lost.
    pub fn of_one(&self, policy: Redundancy) -> f64 {
        let (size, fatal) = (policy.shards() as u64, policy.parity() as u64 + 1);
        let all = ln_choose(self.nodes, self.dead);
        let exactly = |count: u64| {
            let rest = self.dead - count;
            (ln_choose(size, count) + ln_choose(self.nodes - size, rest) - all).exp()
        };
        (fatal..=size.min(self.dead)).map(exactly).sum()
    }

    /// The chance that any of so many independent sets is lost.
    pub fn of_any(&self, policy: Redundancy, sets: u64) -> f64 {
        -(sets as f64 * (-self.of_one(policy)).ln_1p()).exp_m1()
    }
}

/// Logarithm of the number of ways to choose `some` of `all`.
fn ln_choose(all: u64, some: u64) -> f64 {
    (1..=some).map(|step| ((all - some + step) as f64 / step as f64).ln()).sum()
}

/// Sets of nodes, each once.
pub fn distinct(homes: impl Iterator<Item = Vec<u64>>) -> Vec<Vec<u64>> {
    let sorted = homes.map(|mut disks| {
        disks.sort_unstable();
        disks
    });
    sorted.collect::<BTreeSet<_>>().into_iter().collect()
}

/// How many of `trials` deaths lose a set; `fatal` = how many dead nodes a set does not survive.
pub fn count(sets: &[Vec<u64>], deaths: Deaths, fatal: usize, trials: u64, draw: &Draw) -> u64 {
    let mut sets_of: Vec<Vec<u32>> = vec![Vec::new(); deaths.nodes as usize];
    for (at, set) in (0..).zip(sets) {
        set.iter().for_each(|node| sets_of[*node as usize - 1].push(at));
    }
    let mut nodes: Vec<usize> = (0..deaths.nodes as usize).collect();
    let mut hit = vec![0_u8; sets.len()];
    let mut losses = 0;
    for _ in 0..trials {
        for at in 0..deaths.dead as usize {
            nodes.swap(at, at + draw.below(deaths.nodes - at as u64) as usize);
        }
        let dead = &nodes[..deaths.dead as usize];
        let mut is_lost = false;
        for set in dead.iter().flat_map(|node| &sets_of[*node]) {
            hit[*set as usize] += 1;
            is_lost |= usize::from(hit[*set as usize]) >= fatal;
        }
        losses += u64::from(is_lost);
        dead.iter().flat_map(|node| &sets_of[*node]).for_each(|set| hit[*set as usize] = 0);
    }
    losses
}

/// As many sets at random, for comparison; of no zones and racks.
pub fn random_sets(policy: Redundancy, count: usize, nodes: u64, draw: &Draw) -> Vec<Vec<u64>> {
    let one = || {
        let mut set = BTreeSet::new();
        while set.len() < policy.shards() {
            set.insert(draw.below(nodes) + 1);
        }
        set.into_iter().collect()
    };
    (0..count).map(|_| one()).collect()
}
