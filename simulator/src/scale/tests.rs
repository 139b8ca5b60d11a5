//! A small run of what `bixi-scale` measures: bounds are kept, repair is wide, and data is lost as
//! seldom as the closed form says.

use platform::clock::Instant;
use types::redundancy::Redundancy;

use super::loss::{self, Deaths};
use super::map::Map;
use super::{Stored, hear_all, heartbeats, leader, repair};
use crate::draw::Draw;

const MAP: Map = Map { zones: 10, racks: 10, hosts: 10 };
const EC: Redundancy = Redundancy::Erasure { data: 8, parity: 3 };
const NOW: Instant = Instant(1_000_000_000);

fn encoded(rows: &[(u64, proto::rows::ChunkRow)]) -> Vec<(u64, Vec<u8>)> {
    rows.iter().map(|(chunk, row)| (*chunk, proto::encode(row))).collect()
}

#[test]
fn thousand_disks_keep_the_bounds_and_lose_data_as_seldom_as_the_closed_form_says() {
    let draw = Draw::new(7);
    let mut leader = leader(&MAP);
    hear_all(&mut leader, &heartbeats(&MAP), NOW);
    let stored = Stored::fill(&mut leader, EC, 20_000, &draw).expect("homes");
    assert!(stored.homes().all(|disks| MAP.keeps_bounds(EC, &disks)));
    let (most, mean) = stored.load();
    assert!((most as f64) < mean * 1.3, "{most} of {mean}");

    let groups = leader.copysets(EC).expect("copysets") as u64;
    let sets = loss::distinct(stored.homes());
    assert!(sets.len() as u64 <= groups);
    let deaths = Deaths { nodes: 1000, dead: 30 };
    let (closed, random) = (deaths.of_any(EC, groups), deaths.of_any(EC, 20_000));
    let trials = 20_000;
    let counted = loss::count(&sets, deaths, EC.parity() + 1, trials, &draw) as f64 / trials as f64;
    assert!(closed / 1.5 < counted && counted < closed * 1.5, "{counted} for {closed}");
    assert!(counted * 3.0 < random, "{counted}, at random {random}");
    let sets = loss::random_sets(EC, 20_000, 1000, &draw);
    let counted = loss::count(&sets, deaths, EC.parity() + 1, 500, &draw) as f64 / 500.0;
    assert!((counted - random).abs() < 0.2, "{counted} for {random}");
}

#[test]
fn lost_rack_is_repaired_widely_within_the_bounds_and_near_its_copysets() {
    let draw = Draw::new(8);
    let mut leader = leader(&MAP);
    hear_all(&mut leader, &heartbeats(&MAP), NOW);
    let stored = Stored::fill(&mut leader, EC, 20_000, &draw).expect("homes");
    let lost = MAP.disks_of_rack(17);
    let lacking = repair::lacking(&stored, &lost);
    leader.lose(&lost);
    let mut planner = repair::planner(&leader, &draw);
    let repaired = repair::plan(&mut planner, &encoded(&lacking), NOW);
    let repair = repair::weigh(&MAP, &stored, &lacking, &repaired);
    assert_eq!((repair.chunks, repair.blocked, repair.out_of_bounds), (lacking.len() as u64, 0, 0));
    assert!(repaired.iter().all(|(chunk, row)| planner.is_well(*chunk, row)));
    let (targets, sources) = (repair::Repair::spread(&repair.written), repair::Repair::spread(&repair.read));
    assert!(targets > 80 && sources > 500, "{targets} targets, {sources} sources");
    let (_, over_mean) = repair::Repair::peak(&repair.written);
    assert!(over_mean < 3.0, "{over_mean}");
    let homes = repaired.iter().map(|(_, row)| row.shards.iter().map(|shard| shard.disk).collect());
    let sets = loss::distinct(homes).len();
    assert!(sets < lacking.len() * 3 / 4, "{sets} sets of {} chunks", lacking.len());
}

#[test]
fn closed_form_agrees_with_counting_by_hand() {
    // Three copies, all three dead: one of the 120 triples of ten.
    let three = Deaths { nodes: 10, dead: 3 };
    assert!((three.of_one(Redundancy::Copies(3)) - 1.0 / 120.0).abs() < 1e-12);
    // Two or three of three among four dead of ten: (3*C(7,2) + C(7,1)) / C(10,4).
    let four = Deaths { nodes: 10, dead: 4 };
    assert!((four.of_one(Redundancy::Erasure { data: 2, parity: 1 }) - 70.0 / 210.0).abs() < 1e-12);
    assert!((three.of_any(Redundancy::Copies(3), 2) - (1.0 - (119.0_f64 / 120.0).powi(2))).abs() < 1e-12);
}
