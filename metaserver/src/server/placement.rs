//! Which disks a chunk's shards go to. Pure.
//!
//! A failure domain is a path, widest group first: `zone-1/rack-7/host-3`. One shard per domain while
//! there are enough; otherwise up to `parity` shards in one (the chunk is then *crowded*), never
//! more: losing a domain must not lose data. The same holds for racks and zones wherever they are
//! so many that none needs to hold more than `parity`; where they are too few to survive the loss
//! of one in any case (4+2 over two zones), they do not count.
//!
//! Here every disk is looked at. Where there are many domains, `copysets` comes first, and this is
//! what is left when no group of them can take the shards.

use std::collections::{BTreeMap, BTreeSet};

use types::redundancy::Redundancy;

/// A disk with less than this gets no new chunk, bytes.
pub const SPACE_MIN: u64 = 32 << 20;

/// A disk that may take a shard.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The disk.
    pub disk: u64,
    /// Its failure domain, a path.
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

/// Like [`plan`], without the disks in `slow` if that crowds no disk, domain, rack or zone more than with them.
pub fn plan_around(slow: &[u64], policy: Redundancy, candidates: &[Candidate]) -> Option<Vec<u64>> {
    let all = plan(policy, candidates);
    if slow.is_empty() {
        return all;
    }
    let quick: Vec<Candidate> =
        candidates.iter().filter(|candidate| !slow.contains(&candidate.disk)).cloned().collect();
    let around = plan(policy, &quick).filter(|around| {
        let Some(all) = &all else { return true };
        let (around, all) = (crowding(candidates, around), crowding(candidates, all));
        around.iter().zip(all).all(|(around, all)| *around <= all)
    });
    around.or(all)
}

/// The most shards in one group of each width, and on one disk.
fn crowding(candidates: &[Candidate], disks: &[u64]) -> [usize; WIDTHS_MAX + 1] {
    let mut most = [0; WIDTHS_MAX + 1];
    let mut counts: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    let mut per_disk: BTreeMap<u64, usize> = BTreeMap::new();
    for candidate in disks.iter().filter_map(|disk| candidates.iter().find(|candidate| candidate.disk == *disk)) {
        for (width, most) in most.iter_mut().enumerate().take(WIDTHS_MAX) {
            let count = counts.entry((width, group(&candidate.domain, width))).or_insert(0);
            *count += 1;
            *most = (*most).max(*count);
        }
        let count = per_disk.entry(candidate.disk).or_insert(0);
        *count += 1;
        most[WIDTHS_MAX] = most[WIDTHS_MAX].max(*count);
    }
    most
}

/// Disks for `count` shards of a chunk that already has shards in `used` domains. If the bounds of
/// racks and zones cannot be kept (their other disks are full), they give way.
pub fn plan_some(
    policy: Redundancy,
    count: usize,
    used: &BTreeMap<String, usize>,
    candidates: &[Candidate],
) -> Option<Vec<u64>> {
    let everywhere =
        candidates.iter().map(|candidate| candidate.domain.as_str()).chain(used.keys().map(String::as_str));
    let bounded = Widths::of(everywhere).bounded(policy);
    let within = choose(policy, count, used, candidates, &bounded);
    if bounded.is_empty() { within } else { within.or_else(|| choose(policy, count, used, candidates, &[])) }
}

fn choose(
    policy: Redundancy,
    count: usize,
    used: &BTreeMap<String, usize>,
    candidates: &[Candidate],
    bounded: &[usize],
) -> Option<Vec<u64>> {
    let most = most(policy);
    let mut held = held(used);
    let mut per_disk: BTreeMap<u64, usize> = BTreeMap::new();
    let mut out = Vec::new();
    for _ in 0..count {
        let (_, best) = candidates
            .iter()
            .filter_map(|candidate| {
                let in_domain = held.get(candidate.domain.as_str()).copied().unwrap_or(0);
                let mut in_groups = [0; WIDTHS_MAX];
                for (sum, width) in in_groups.iter_mut().zip(bounded) {
                    *sum = held.get(group(&candidate.domain, *width)).copied().unwrap_or(0);
                }
                let fits = in_domain < most && in_groups.iter().all(|sum| *sum < most);
                let on_disk = per_disk.get(&candidate.disk).copied().unwrap_or(0);
                fits.then_some(((in_groups, in_domain, on_disk, candidate.weight, candidate.draw), candidate))
            })
            .min_by_key(|(key, _)| *key)?;
        for group in groups(&best.domain) {
            *held.entry(group).or_insert(0) += 1;
        }
        *per_disk.entry(best.disk).or_insert(0) += 1;
        out.push(best.disk);
    }
    Some(out)
}

/// Widths of groups above the narrowest that are looked at: zone, rack, host.
pub(super) const WIDTHS_MAX: usize = 3;

/// The most shards of a chunk that may be in one place.
pub(super) fn most(policy: Redundancy) -> usize {
    policy.parity().max(1)
}

/// The groups that a domain lies in, widest first; the last is the domain itself.
fn groups(domain: &str) -> impl Iterator<Item = &str> {
    domain.match_indices('/').filter_map(|(at, _)| domain.get(..at)).chain(std::iter::once(domain))
}

/// The group of this width (0 = the widest) that a domain lies in. One that has no such group is its own.
pub(super) fn group(domain: &str, width: usize) -> &str {
    groups(domain).nth(width).unwrap_or(domain)
}

/// How many shards each group holds, by how many each domain does.
fn held(used: &BTreeMap<String, usize>) -> BTreeMap<&str, usize> {
    let mut held = BTreeMap::new();
    for (domain, count) in used {
        for group in groups(domain) {
            *held.entry(group).or_insert(0) += count;
        }
    }
    held
}

/// How many groups there are of each width above the narrowest.
#[derive(Clone, Default)]
pub struct Widths(Vec<usize>);

impl Widths {
    /// Counts the groups of these domains.
    pub fn of<'a>(domains: impl Iterator<Item = &'a str>) -> Widths {
        let domains: BTreeSet<&str> = domains.collect();
        let widest = domains.iter().map(|domain| groups(domain).count()).max().unwrap_or(0);
        let count = |width| domains.iter().map(|domain| group(domain, width)).collect::<BTreeSet<_>>().len();
        Widths((0..widest.saturating_sub(1).min(WIDTHS_MAX)).map(count).collect())
    }

    /// Widths at which no group needs to hold more than `parity` shards of a chunk.
    pub(super) fn bounded(&self, policy: Redundancy) -> Vec<usize> {
        let enough = |(_, groups): &(usize, &usize)| **groups * most(policy) >= policy.shards();
        self.0.iter().enumerate().filter(enough).map(|(width, _)| width).collect()
    }

    /// Where the shards of a chunk lie, by domain.
    pub fn room<'a>(&self, policy: Redundancy, used: &'a BTreeMap<String, usize>) -> Room<'a> {
        Room { bounded: self.bounded(policy), most: most(policy), held: held(used) }
    }
}

/// How much room there is for a chunk in racks and zones.
pub struct Room<'a> {
    bounded: Vec<usize>,
    most: usize,
    held: BTreeMap<&'a str, usize>,
}

impl Room<'_> {
    fn groups_hold(&self, domain: &str, less_than: usize) -> bool {
        self.bounded.iter().all(|width| self.holds(group(domain, *width)) < less_than)
    }

    fn holds(&self, group: &str) -> usize {
        self.held.get(group).copied().unwrap_or(0)
    }

    /// Whether one more shard in this domain leaves every rack and zone within its bound.
    pub fn fits(&self, domain: &str) -> bool {
        self.groups_hold(domain, self.most)
    }

    /// The same, and no other shard is in the domain.
    pub fn is_free(&self, domain: &str) -> bool {
        self.fits(domain) && self.holds(domain) == 0
    }

    /// Whether a rack or zone that the domain lies in holds more of the chunk than it may.
    pub fn is_exceeded(&self, domain: &str) -> bool {
        !self.groups_hold(domain, self.most + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Candidate, Redundancy, Widths, groups, most, plan, plan_around, plan_some};

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

    /// Shards by the group that begins the domain's path.
    fn by_group(chosen: &[u64], map: &[Candidate], width: usize) -> BTreeMap<String, usize> {
        let mut sums = BTreeMap::new();
        for disk in chosen {
            let at = map.iter().find(|at| at.disk == *disk).expect("chosen from the map");
            *sums.entry(groups(&at.domain).nth(width).expect("deep enough").to_owned()).or_insert(0) += 1;
        }
        sums
    }

    #[test]
    fn groups_of_a_domain_are_its_beginnings() {
        assert_eq!(groups("z/r/h").collect::<Vec<_>>(), ["z", "z/r", "z/r/h"]);
        assert_eq!(groups("disk-1").collect::<Vec<_>>(), ["disk-1"]);
    }

    /// Every map of up to four zones, three racks in each and three hosts in each rack, with every
    /// policy: the loss of a zone (rack, host) leaves enough wherever any placement could.
    #[test]
    fn loss_of_any_zone_rack_or_host_is_survived_on_every_map_on_which_it_can_be() {
        let policies = ["copies:2", "copies:3", "ec:2+1", "ec:4+2", "ec:8+3"].map(|text| text.parse().expect("policy"));
        let mut tried = 0;
        for shape in 0_u32..6_u32.pow(4) {
            // Each zone: 0..6 = absent, or racks and hosts.
            let zone = |at: u32| [(0, 0), (1, 1), (1, 3), (2, 1), (3, 2), (3, 3)][(shape / 6_u32.pow(at) % 6) as usize];
            let mut domains = Vec::new();
            for at in 0..4 {
                let (racks, hosts) = zone(at);
                for rack in 0..racks {
                    domains.extend((0..hosts).map(|host| format!("z{at}/r{rack}/h{host}")));
                }
            }
            let map = disks(&domains.iter().map(String::as_str).collect::<Vec<_>>());
            for policy in policies {
                let policy: Redundancy = policy;
                let count = |width| {
                    let all = domains.iter().map(|domain| groups(domain).nth(width).expect("deep enough"));
                    all.collect::<BTreeSet<_>>().len()
                };
                let Some(chosen) = plan(policy, &map) else {
                    assert!(count(2) * most(policy) < policy.shards(), "{policy} on {domains:?}");
                    continue;
                };
                tried += 1;
                for width in 0..3 {
                    let fullest = by_group(&chosen, &map, width).into_values().max().expect("chosen");
                    if count(width) * most(policy) >= policy.shards() {
                        assert!(fullest <= most(policy), "{policy}, width {width}, {chosen:?} on {domains:?}");
                    }
                }
            }
        }
        assert!(tried > 4000, "{tried}");
    }

    #[test]
    fn slow_disk_is_left_out_only_if_that_crowds_nothing() {
        let map = |count: u64| -> Vec<Candidate> {
            let candidate = |disk| Candidate { disk, domain: format!("host-{disk}"), weight: 0, draw: disk };
            (0..count).map(candidate).collect()
        };
        let ec = Redundancy::Erasure { data: 4, parity: 2 };
        let seven = plan_around(&[3], ec, &map(7)).expect("a plan");
        assert!(!seven.contains(&3), "{seven:?}");
        let six = plan_around(&[3], ec, &map(6)).expect("a plan");
        assert_eq!(BTreeSet::from_iter(six).len(), 6, "slow is better than crowded");
        let three = plan_around(&[0, 1], Redundancy::Copies(3), &map(4)).expect("a plan");
        assert_eq!(BTreeSet::from_iter(three).len(), 3);
    }

    #[test]
    fn zones_that_are_too_few_do_not_crowd_hosts() {
        let policy = Redundancy::Erasure { data: 4, parity: 2 };
        // Two zones cannot survive the loss of one: then each shard has a host of its own at least.
        let map = disks(&["a/1", "a/2", "a/3", "a/4", "a/5", "b/1"]);
        let chosen = plan(policy, &map).expect("plan");
        assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 6);
    }

    #[test]
    fn bound_of_zones_gives_way_when_only_one_has_space() {
        let policy = Redundancy::Erasure { data: 4, parity: 2 };
        let used = BTreeMap::from([("a/1", 1), ("a/2", 1), ("b/1", 1), ("b/2", 1), ("c/1", 1)]);
        let used = used.into_iter().map(|(domain, count)| (domain.to_owned(), count)).collect();
        assert_eq!(plan_some(policy, 1, &used, &disks(&["a/3"])), Some(vec![1]));
        assert_eq!(plan_some(policy, 1, &used, &disks(&["a/3", "c/2"])), Some(vec![2]));
    }

    #[test]
    fn what_a_lost_zone_left_crowded_goes_back_once_and_stays() {
        let policy = Redundancy::Erasure { data: 4, parity: 2 };
        let all = ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3", "c/1", "c/2"];
        let widths = Widths::of(all.into_iter());
        let used = |domains: &[&str]| -> BTreeMap<String, usize> {
            domains.iter().map(|domain| ((*domain).to_owned(), 1)).collect()
        };
        let crowded = used(&["a/1", "a/2", "a/3", "b/1", "b/2", "b/3"]);
        assert!(widths.room(policy, &crowded).is_exceeded("a/3"));
        let others = used(&["a/1", "a/2", "b/1", "b/2", "b/3"]);
        let room = widths.room(policy, &others);
        assert!(!room.is_free("a/3") && room.is_free("c/1"));
        assert!(!room.is_free("b/1"), "that zone is full, and that host taken");
        let spread = used(&["a/1", "a/2", "b/1", "b/2", "c/1", "c/2"]);
        assert!(spread.keys().all(|domain| !widths.room(policy, &spread).is_exceeded(domain)));
        let others = used(&["a/1", "a/2", "b/1", "b/2", "c/1"]);
        let room = widths.room(policy, &others);
        assert!(room.is_free("c/2") && !room.fits("a/3"));
    }
}
