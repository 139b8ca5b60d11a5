//! The leader's planning at scale: the real code for heartbeats, grants and repairs, driven over a
//! map of many disks that lies in memory. `bixi-scale` prints what this measures.
//!
//! What it leaves to others: what is planned (`metaserver::server::scale`), and the clock, which is
//! the program's. Everything else follows from the seed.

pub mod loss;
pub mod map;
pub mod repair;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use metaserver::server::scale::Leader;
use platform::clock::Instant;
use proto::meta::{DiskReport, Heartbeat};
use proto::rows::{ChunkRow, RedundancyRow, ShardRow, chunk_state};
use types::redundancy::Redundancy;

use self::map::Map;
use crate::draw::Draw;

/// Logical bytes of a full chunk.
pub const CHUNK_BYTES: u64 = 128 << 20;
/// Bytes of a disk, and how many of them are free.
const DISK_BYTES: u64 = 10 << 40;
const FREE_BYTES: u64 = 6 << 40;
/// Chunks asked for in one request.
const CHUNKS_ASKED: usize = 8;
/// After so much silence a disk gets no new shards, as by default.
const SILENT: Duration = Duration::from_secs(3);

/// A leader that hears all disks of a map.
pub fn leader(map: &Map) -> Leader {
    Leader::new(map.disks(), SILENT)
}

/// One heartbeat of every disk, as sent by processes of one disk and one session each.
pub fn heartbeats(map: &Map) -> Vec<Vec<u8>> {
    let report =
        |disk| DiskReport { disk, total_bytes: DISK_BYTES, available_bytes: FREE_BYTES, failed: false, level: 0 };
    (1..=map.count())
        .map(|disk| proto::encode(&Heartbeat { sessions: vec![disk], disks: vec![report(disk)] }))
        .collect()
}

/// The leader hears every disk now.
pub fn hear_all(leader: &mut Leader, heartbeats: &[Vec<u8>], now: Instant) {
    for heartbeat in heartbeats {
        assert!(leader.hear(heartbeat, now), "a heartbeat that was just encoded can be read");
    }
}

/// Full, sealed chunks of one policy: their rows as they are stored.
pub struct Stored {
    /// The policy of all.
    pub policy: Redundancy,
    rows: Vec<Box<[u8]>>,
}

impl Stored {
    /// Has so many chunks granted, a request's worth at a time. `None`: the disks are too few.
    pub fn fill(leader: &mut Leader, policy: Redundancy, count: usize, draw: &Draw) -> Option<Stored> {
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            let wanted = CHUNKS_ASKED.min(count - rows.len());
            for disks in leader.grant(policy, wanted, &mut || draw.word())? {
                let first = (rows.len() * policy.shards()) as u64 + 1;
                rows.push(proto::encode(&sealed(policy, &disks, first)).into_boxed_slice());
            }
        }
        Some(Stored { policy, rows })
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// A chunk, decoded.
    pub fn row(&self, chunk: usize) -> ChunkRow {
        proto::decode(&self.rows[chunk]).expect("a row that was encoded here can be read")
    }

    /// A chunk is now this.
    pub fn put(&mut self, chunk: usize, row: &ChunkRow) {
        self.rows[chunk] = proto::encode(row).into_boxed_slice();
    }

    /// The disks of each chunk.
    pub fn homes(&self) -> impl Iterator<Item = Vec<u64>> {
        (0..self.count()).map(|chunk| self.row(chunk).shards.iter().map(|shard| shard.disk).collect())
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.len()).sum()
    }

    /// Shards on the fullest disk, and on a disk in the mean.
    pub fn load(&self) -> (u64, f64) {
        let mut loads: BTreeMap<u64, u64> = BTreeMap::new();
        for disk in self.homes().flatten() {
            *loads.entry(disk).or_default() += 1;
        }
        let sum: u64 = loads.values().sum();
        (loads.values().max().copied().unwrap_or(0), sum as f64 / loads.len().max(1) as f64)
    }
}

fn sealed(policy: Redundancy, disks: &[u64], first_placement: u64) -> ChunkRow {
    let shards = (0..).zip(disks).map(|(index, disk)| ShardRow {
        index,
        placement: first_placement + u64::from(index),
        disk: *disk,
        bad: false,
    });
    ChunkRow {
        redundancy: RedundancyRow::from(policy),
        cell_size: 64 << 10,
        capacity: CHUNK_BYTES,
        epoch: 1,
        state: chunk_state::SEALED,
        sealed_len: CHUNK_BYTES / policy.needed() as u64,
        session: 1,
        released: true,
        shards: shards.collect(),
        committed_len: CHUNK_BYTES,
        live_bytes: CHUNK_BYTES,
        ..ChunkRow::default()
    }
}
