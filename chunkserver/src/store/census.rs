//! What a store tells the metaserver of itself: shards held, shards damaged, progress of the scrub.

use proto::chunk::{Census, CensusPage, HeldShard, ScrubState, ShardName};

use super::Store;
use super::shard::Shard;

/// Shards of one page.
const PAGE_MAX: usize = 4000;
/// Damaged shards told at once; the others follow when these are replaced.
const DAMAGED_MAX: usize = 500;

impl Store {
    /// Answers a census.
    pub fn census(&self, ask: Census) -> CensusPage {
        self.census_page(ask, PAGE_MAX)
    }

    fn census_page(&self, ask: Census, max: usize) -> CensusPage {
        let state = self.0.state.borrow();
        let wanted = |shard: &&Shard| shard.chunk.0 > ask.after && shard.chunk.0 <= ask.upto;
        let mut shards: Vec<HeldShard> = state.shards.values().filter(wanted).map(held).collect();
        shards.sort_unstable_by_key(|shard| (shard.name.chunk, shard.name.placement));
        let mut upto = ask.upto;
        if shards.len() > max {
            // The last chunk of the page may be there in part only.
            upto = shards[max].name.chunk - 1;
            shards.retain(|shard| shard.name.chunk <= upto);
        }
        let damaged = state.damaged.iter().filter_map(|placement| state.shards.get(placement));
        let damaged = damaged.take(DAMAGED_MAX).map(|shard| held(shard).name).collect();
        CensusPage { shards, upto, damaged, scrub: self.0.scrub.get() }
    }

    /// How far the scrub is.
    pub fn scrub_state(&self) -> ScrubState {
        self.0.scrub.get()
    }

    /// Shards with damage that are still held.
    pub fn damaged_count(&self) -> usize {
        self.0.state.borrow().damaged.len()
    }
}

fn held(shard: &Shard) -> HeldShard {
    let name = ShardName { placement: shard.placement.0, chunk: shard.chunk.0, index: u32::from(shard.index.0) };
    HeldShard { name, len: shard.durable_len() }
}

#[cfg(test)]
mod tests {
    use proto::chunk::Census;
    use types::ids::{ChunkId, PlacementId, RequestId};
    use types::ids::{Epoch, ShardIndex};

    use crate::store::StoreError;
    use crate::store::tests::{append, open, pattern, simulated, target};
    use crate::store::write::Target;

    #[test]
    fn pages_of_a_census_tell_every_shard_once() {
        simulated(|sim| async move {
            let store = open(&sim.node()).await;
            for number in 1..=20u64 {
                let target = Target {
                    chunk: ChunkId(1 + number / 3),
                    placement: PlacementId(100 - number),
                    index: ShardIndex(0),
                };
                store.fence(target, Epoch(1), RequestId(1)).await.expect("fence");
            }
            for max in [3, 4, 100] {
                let (mut after, mut told) = (0, Vec::new());
                while after < 50 {
                    let page = store.census_page(Census { after, upto: 50 }, max);
                    assert!(page.upto > after, "no progress with pages of {max}");
                    told.extend(page.shards.iter().map(|shard| shard.name.placement));
                    after = page.upto;
                }
                told.sort_unstable();
                assert_eq!(told, (80..100).collect::<Vec<u64>>());
            }
        });
    }

    #[test]
    fn damaged_shard_is_told_until_it_is_deleted() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            append(&platform, &store, 1, 1, 0, &pattern(1, 90_000)).await.expect("append");
            append(&platform, &store, 2, 1, 0, &pattern(2, 90_000)).await.expect("append");
            let nothing = Census { after: 0, upto: 0 };
            assert!(store.census(nothing).damaged.is_empty());
            sim.rot((1 << 20) + 4096 + 7);
            assert!(matches!(store.read(target(2), 0, 90_000).await, Err(StoreError::Rot { offset: 0 })));
            store.read(target(1), 0, 90_000).await.expect("the other one is sound");
            let damaged = store.census(nothing).damaged;
            assert_eq!(damaged.iter().map(|name| name.placement).collect::<Vec<_>>(), [2]);
            store.delete(&[PlacementId(2)]).await.expect("delete");
            assert!(store.census(nothing).damaged.is_empty());
            sim.fault(platform::fault::DiskFault::ReadFails);
            assert!(matches!(store.read(target(1), 0, 10).await, Err(StoreError::Disk(_))));
            assert_eq!(store.census(nothing).damaged.len(), 1);
        });
    }
}
