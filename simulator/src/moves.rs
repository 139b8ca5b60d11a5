//! Moves: a shard that a chunk names since a move must be whole on its disk.
//!
//! It looks behind the leader's back, now and then and when a move is likely to have gone wrong. What is
//! rebuilt later does not excuse a chunk that named what was not there.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use metaserver::server::MetaServer;
use proto::chunk::Census;
use proto::rows::{ChunkRow, ShardRow, chunk_state, disk_state};

use crate::checkers::Checker;
use crate::cluster::Cluster;
use crate::inspect;

/// What was seen at the last look.
#[derive(Default)]
pub struct Moves {
    /// Placements of sealed chunks.
    named: RefCell<BTreeMap<u64, BTreeSet<u64>>>,
    /// The leader's applied index: who takes himself for the leader may be behind.
    applied: Cell<u64>,
}

impl Moves {
    /// Looks at the shards that came since the last look.
    pub fn look(&self, cluster: &Cluster) {
        let Some(leader) = cluster.leader() else { return };
        let applied = leader.replica().applied();
        if applied < self.applied.replace(applied.max(self.applied.get())) {
            return;
        }
        let rows: BTreeMap<u64, ChunkRow> =
            inspect::chunks(&leader).into_iter().filter(|(_, row)| row.state == chunk_state::SEALED).collect();
        let mut known = self.named.borrow_mut();
        known.retain(|chunk, _| rows.contains_key(chunk));
        for (chunk, row) in rows {
            let named: BTreeSet<u64> = row.shards.iter().map(|shard| shard.placement).collect();
            let Some(before) = known.insert(chunk, named) else { continue };
            for shard in row.shards.iter().filter(|shard| !shard.bad && !before.contains(&shard.placement)) {
                if !is_there(cluster, &leader, chunk, &row, shard) {
                    let what = format!("chunk {chunk:x} names shard {} on disk {}", shard.index, shard.disk);
                    cluster
                        .violated(Checker::Moves, format!("{what}, placement {}, that is not there", shard.placement));
                }
            }
        }
    }
}

/// Whether the disk holds the whole shard; yes also if nobody can tell now.
fn is_there(cluster: &Cluster, leader: &MetaServer, chunk: u64, row: &ChunkRow, shard: &ShardRow) -> bool {
    let disks = inspect::disks(leader);
    let Some(disk) = disks.get(&shard.disk).filter(|disk| disk.state == disk_state::IN) else { return true };
    let stores = cluster.stores();
    let Some(store) = stores.iter().flatten().find(|store| store.id().0 == disk.store && !store.is_failed()) else {
        return true;
    };
    let held = store.census(Census { after: chunk - 1, upto: chunk });
    held.shards.iter().any(|held| held.name.placement == shard.placement && held.len >= row.sealed_len)
}
