//! Which disks a new chunk's shards go to. Pure.
//!
//! One shard per failure domain while there are enough; otherwise up to `parity` shards in one
//! domain (the chunk is then *crowded*), never more: losing a domain must not lose data.

use std::collections::BTreeMap;

use types::redundancy::Redundancy;

/// A disk with less than this gets no new chunk, bytes.
pub const SPACE_MIN: u64 = 32 << 20;

/// A disk that may take a shard.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The disk.
    pub disk: u64,
    /// Its failure domain.
    pub domain: String,
    /// How much it has been chosen; less is better.
    pub weight: u64,
    /// Random tie-break.
    pub draw: u64,
}

/// Disks in order of shard index, `None` if there are too few domains.
pub fn plan(policy: Redundancy, candidates: &[Candidate]) -> Option<Vec<u64>> {
    plan_some(policy, policy.shards(), &BTreeMap::new(), candidates)
}

/// Disks for `count` shards of a chunk that already has shards in `used` domains.
pub fn plan_some(
    policy: Redundancy,
    count: usize,
    used: &BTreeMap<String, usize>,
    candidates: &[Candidate],
) -> Option<Vec<u64>> {
    let per_domain_max = policy.parity().max(1);
    let mut used = used.clone();
    let mut per_disk: BTreeMap<u64, usize> = BTreeMap::new();
    let mut out = Vec::new();
    for _ in 0..count {
        let best = candidates
            .iter()
            .filter(|candidate| used.get(&candidate.domain).copied().unwrap_or(0) < per_domain_max)
            .min_by_key(|candidate| {
                let in_domain = used.get(&candidate.domain).copied().unwrap_or(0);
                let on_disk = per_disk.get(&candidate.disk).copied().unwrap_or(0);
                (in_domain, on_disk, candidate.weight, candidate.draw)
            })?;
        *used.entry(best.domain.clone()).or_insert(0) += 1;
        *per_disk.entry(best.disk).or_insert(0) += 1;
        out.push(best.disk);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Candidate, Redundancy, plan};

    fn disks(domains: &[&str]) -> Vec<Candidate> {
        domains
            .iter()
            .enumerate()
            .map(|(at, domain)| Candidate {
                disk: at as u64 + 1,
                domain: (*domain).to_owned(),
                weight: 0,
                draw: at as u64,
            })
            .collect()
    }

    #[test]
    fn shards_go_to_different_domains_while_there_are_enough() {
        let chosen = plan(Redundancy::Erasure { data: 4, parity: 2 }, &disks(&["a", "b", "c", "d", "e", "f", "g"]))
            .expect("plan");
        assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 6);
    }

    #[test]
    fn four_domains_of_six_still_take_4_2_crowded_but_never_above_parity() {
        let policy = Redundancy::Erasure { data: 4, parity: 2 };
        let chosen = plan(policy, &disks(&["a", "b", "c", "d"])).expect("plan");
        let mut per: BTreeMap<u64, usize> = BTreeMap::new();
        for disk in chosen {
            *per.entry(disk).or_insert(0) += 1;
        }
        assert!(per.values().all(|count| *count <= policy.parity()));
        assert_eq!(per.len(), 4);
        assert!(plan(policy, &disks(&["a", "b"])).is_none());
        assert!(plan(Redundancy::Copies(3), &disks(&["a", "b"])).is_some());
        assert!(plan(Redundancy::Copies(3), &disks(&["a"])).is_none());
        assert_eq!(plan(Redundancy::Copies(1), &disks(&["a"])), Some(vec![1]));
    }
}
