//! Groups on even and uneven maps: what they are, and what is chosen from them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Copysets, Crowding, Pick, SCATTER_WIDTH, STAND_INS_MAX, stream};
use crate::server::placement::{self, Widths};
use types::redundancy::Redundancy;

/// Domains of zones with so many racks, and so many hosts in each.
fn map(zones: &[(usize, usize)]) -> Vec<String> {
    let mut names = Vec::new();
    for (zone, (racks, hosts)) in zones.iter().enumerate() {
        for rack in 0..*racks {
            names.extend((0..*hosts).map(|host| format!("z{zone}/r{rack:02}/h{host:02}")));
        }
    }
    names.sort();
    names
}

fn even() -> Vec<String> {
    map(&[(4, 12); 5])
}

fn policies() -> [Redundancy; 5] {
    ["copies:2", "copies:3", "ec:4+2", "ec:6+3", "ec:8+3"].map(|text| text.parse().expect("policy"))
}

/// Every domain has the disk of its own number.
fn all(domain: u32) -> Option<Pick> {
    Some(Pick { weight: 0, draw: 0, disk: u64::from(domain) })
}

/// No two in one domain, and no rack or zone holds more than it may.
fn check_bounds(policy: Redundancy, names: &[String], chosen: &[u64]) {
    assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), policy.shards());
    for width in Widths::of(names.iter().map(String::as_str)).bounded(policy) {
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for domain in chosen {
            *held.entry(placement::group(&names[*domain as usize], width)).or_default() += 1;
        }
        assert!(held.values().all(|count| *count <= placement::most(policy)), "{policy}: {held:?}");
    }
}

#[test]
fn every_group_keeps_the_bounds_and_every_domain_is_in_each_round() {
    // The last two: a zone that is much smaller, and no zones at all.
    let flat = (0..211).map(|host| format!("host-{host:03}")).collect();
    for names in [even(), map(&[(4, 20), (4, 20), (4, 20), (2, 3)]), flat] {
        for policy in policies() {
            let sets = Copysets::deal(policy, &names).expect("dealt");
            let mut first = 0;
            for end in &sets.rounds {
                let mut dealt = BTreeSet::new();
                for group in first..*end {
                    let members: Vec<u64> = sets.group(group).iter().map(|domain| u64::from(*domain)).collect();
                    check_bounds(policy, &names, &members);
                    dealt.extend(members);
                }
                assert_eq!(dealt.len(), names.len(), "{policy}");
                first = *end;
            }
        }
    }
}

#[test]
fn scatter_width_is_reached_and_hardly_exceeded() {
    let names = map(&[(10, 10); 10]);
    for policy in policies() {
        let sets = Copysets::deal(policy, &names).expect("dealt");
        let around = |domain: u32| {
            let groups = (0..sets.count()).map(|group| sets.group(group)).filter(|group| group.contains(&domain));
            groups.flatten().copied().filter(|other| *other != domain).collect::<BTreeSet<u32>>().len()
        };
        let widths: Vec<usize> = (0..40).map(|at| around(at * 25)).collect();
        assert!(
            widths.iter().all(|width| (SCATTER_WIDTH * 7 / 10..=SCATTER_WIDTH * 5 / 4).contains(width)),
            "{widths:?}"
        );
    }
}

#[test]
fn same_domains_give_the_same_groups_and_few_give_none() {
    let policy = Redundancy::Erasure { data: 4, parity: 2 };
    let (one, two) = (Copysets::deal(policy, &even()), Copysets::deal(policy, &even()));
    assert_eq!(one.expect("dealt").members, two.expect("dealt").members);
    assert!(Copysets::deal(policy, &map(&[(3, 3); 3])).is_none());
    assert!(Copysets::deal(Redundancy::Copies(1), &even()).is_none());
}

#[test]
fn chunks_lie_in_groups_and_load_is_even() {
    let names = even();
    for policy in policies() {
        let sets = Copysets::deal(policy, &names).expect("dealt");
        let groups: BTreeSet<BTreeSet<u64>> =
            (0..sets.count()).map(|at| sets.group(at).iter().map(|domain| u64::from(*domain)).collect()).collect();
        let (mut load, mut draw) = (vec![0_u64; names.len()], stream(7));
        for _ in 0..names.len() * 20 {
            let pick = |domain: u32| all(domain).map(|pick| Pick { weight: load[domain as usize], ..pick });
            let chosen = sets.choose(Crowding::AsDealt, &pick, &mut draw).expect("chosen");
            assert!(groups.contains(&chosen.iter().copied().collect()));
            chosen.iter().for_each(|disk| load[*disk as usize] += 1);
        }
        let (mean, most) = (20 * policy.shards() as u64, load.iter().max().copied().unwrap_or(0));
        assert!(most <= mean + mean / 4, "{policy}: {most} of {mean}");
    }
}

#[test]
fn member_that_cannot_take_a_shard_is_replaced_by_one_of_a_few() {
    let names = even();
    for policy in policies() {
        let sets = Copysets::deal(policy, &names).expect("dealt");
        let gone = sets.group(3)[1];
        let (mut load, mut draw) = (vec![0_u64; names.len()], stream(7));
        let mut stand_ins = BTreeSet::new();
        for _ in 0..200 {
            let weights = load.clone();
            let pick = |domain: u32| {
                let usable = all(domain).filter(|_| domain != gone);
                usable.map(|pick| Pick { weight: weights[domain as usize], ..pick })
            };
            let picks = sets.complete(3, Crowding::AsDealt, &pick).expect("complete");
            let chosen: Vec<u64> = picks.iter().map(|pick| pick.disk).collect();
            check_bounds(policy, &names, &chosen);
            chosen.iter().for_each(|disk| load[*disk as usize] += 1);
            stand_ins.extend(chosen.iter().filter(|disk| !sets.group(3).contains(&(**disk as u32))).copied());
            let chosen = sets.choose(Crowding::WithinBounds, &pick, &mut draw).expect("chosen");
            assert!(!chosen.contains(&u64::from(gone)));
            check_bounds(policy, &names, &chosen);
        }
        assert!((2..=STAND_INS_MAX).contains(&stand_ins.len()), "{policy}: {stand_ins:?}");
    }
}

#[test]
fn repair_stays_in_the_group_if_it_can_and_within_the_bounds_always() {
    let names = even();
    for policy in policies() {
        let sets = Copysets::deal(policy, &names).expect("dealt");
        for group in (0..sets.count()).step_by(7) {
            let lost = (group % policy.parity()) + 1;
            let kept = &sets.group(group)[lost..];
            let back = sets.replace(kept, lost, &all).expect("replaced");
            let own: Vec<u64> = sets.group(group)[..lost].iter().map(|domain| u64::from(*domain)).collect();
            if kept.len() > 2 {
                assert_eq!(BTreeSet::from_iter(back), own.iter().copied().collect(), "{policy}");
            }
            let without = |domain: u32| all(domain).filter(|pick| !own.contains(&pick.disk));
            let mut chosen = sets.replace(kept, lost, &without).expect("replaced");
            chosen.extend(kept.iter().map(|domain| u64::from(*domain)));
            check_bounds(policy, &names, &chosen);
            let domains: Vec<u32> = chosen.iter().map(|domain| *domain as u32).collect();
            assert!(sets.is_well_spread(&domains));
        }
    }
}

#[test]
fn nothing_is_chosen_where_nobody_is_heard_or_the_bounds_cannot_be_kept() {
    let names = map(&[(8, 15); 3]);
    let policy = Redundancy::Erasure { data: 4, parity: 2 };
    let sets = Copysets::deal(policy, &names).expect("dealt");
    let mut draw = stream(7);
    assert!(sets.choose(Crowding::WithinBounds, &|_| None, &mut draw).is_none());
    // One zone of three is gone: two may hold two shards each, and six are wanted.
    let left = |domain: u32| all(domain).filter(|_| !names[domain as usize].starts_with("z1"));
    assert!(sets.choose(Crowding::WithinBounds, &left, &mut draw).is_none());
    assert!(sets.replace(&sets.group(0)[..5], 1, &|_| None).is_none());
}
