//! The repair of what stood on lost disks: planned by the leader's code, and what it would load.

use std::collections::BTreeSet;

use metaserver::server::scale::{Leader, Planner};
use platform::clock::Instant;
use proto::rows::ChunkRow;

use super::Stored;
use super::map::Map;
use crate::draw::Draw;

/// What a repair reads and writes.
#[derive(Default)]
pub struct Repair {
    /// Chunks that lacked something.
    pub chunks: u64,
    /// Shards that were given new homes.
    pub shards: u64,
    /// Chunks for which no home was found.
    pub blocked: u64,
    /// Chunks that are out of bounds afterwards.
    pub out_of_bounds: u64,
    /// Bytes read from each disk, by number.
    pub read: Vec<u64>,
    /// Bytes written to each disk.
    pub written: Vec<u64>,
}

impl Repair {
    /// Disks that are read, or written, at all.
    pub fn spread(loads: &[u64]) -> usize {
        loads.iter().filter(|load| **load > 0).count()
    }

    /// Bytes of the most loaded disk, and what it bears over the mean of those that bear any.
    pub fn peak(loads: &[u64]) -> (u64, f64) {
        let most = loads.iter().max().copied().unwrap_or(0);
        let mean = loads.iter().sum::<u64>() as f64 / Repair::spread(loads).max(1) as f64;
        (most, most as f64 / mean.max(1.0))
    }

    /// Seconds until it is done when each disk reads and writes so many bytes a second in all.
    pub fn seconds(&self, bytes_per_s: u64) -> f64 {
        let busiest = self.read.iter().zip(&self.written).map(|(read, written)| read + written).max().unwrap_or(0);
        busiest as f64 / bytes_per_s as f64
    }
}

/// Chunks that lost shards, without them: as apply leaves them behind when the disks are lost.
pub fn lacking(stored: &Stored, lost: &[u64]) -> Vec<(u64, ChunkRow)> {
    let lost: BTreeSet<u64> = lost.iter().copied().collect();
    let mut lacking = Vec::new();
    for chunk in 0..stored.count() {
        let mut row = stored.row(chunk);
        let before = row.shards.len();
        row.shards.retain(|shard| !lost.contains(&shard.disk));
        if row.shards.len() < before {
            lacking.push((chunk as u64, row));
        }
    }
    lacking
}

/// The disks as the planner sees them, gathered once.
pub fn planner(leader: &Leader, draw: &Draw) -> Planner {
    leader.planner(&mut || draw.word())
}

/// Plans all of it: the order, then one chunk after another. Rows are read again as the leader
/// does. Answers the rows as they are after the moves.
pub fn plan(planner: &mut Planner, lacking: &[(u64, Vec<u8>)], now: Instant) -> Vec<(u64, ChunkRow)> {
    let decode = |bytes: &[u8]| proto::decode::<ChunkRow>(bytes).expect("a row that was encoded here can be read");
    let rows: Vec<(u64, ChunkRow)> = lacking.iter().map(|(chunk, bytes)| (*chunk, decode(bytes))).collect();
    let order = planner.order(rows.iter().map(|(chunk, row)| (*chunk, row)), now);
    drop(rows);
    let mut repaired = Vec::with_capacity(order.len());
    for chunk in order {
        let Ok(at) = lacking.binary_search_by_key(&chunk, |(chunk, _)| *chunk) else { continue };
        let mut row = decode(&lacking[at].1);
        row.shards.extend(planner.repair(chunk, &row).unwrap_or_default());
        repaired.push((chunk, row));
    }
    repaired
}

/// What these repairs load, each reading its share of what is needed from every shard that is left.
pub fn weigh(map: &Map, stored: &Stored, lacking: &[(u64, ChunkRow)], repaired: &[(u64, ChunkRow)]) -> Repair {
    let policy = stored.policy;
    let mut repair = Repair { chunks: lacking.len() as u64, ..Repair::default() };
    repair.read = vec![0; map.count() as usize + 1];
    repair.written = vec![0; map.count() as usize + 1];
    for (chunk, row) in repaired {
        let Ok(at) = lacking.binary_search_by_key(chunk, |(chunk, _)| *chunk) else { continue };
        let left = lacking[at].1.shards.len();
        let (old, new) = row.shards.split_at(left);
        if new.is_empty() {
            repair.blocked += 1;
            continue;
        }
        repair.shards += new.len() as u64;
        let share = row.sealed_len * policy.needed() as u64 / left as u64;
        old.iter().for_each(|shard| repair.read[shard.disk as usize] += share);
        new.iter().for_each(|shard| repair.written[shard.disk as usize] += row.sealed_len);
        let disks: Vec<u64> = row.shards.iter().map(|shard| shard.disk).collect();
        repair.out_of_bounds += u64::from(!map.keeps_bounds(policy, &disks));
    }
    repair
}
