//! Promises of apply about disks that are drained and removed.

use proto::members::{DrainDisks, RemoveDisk};
use proto::meta::{Body, Conditions, DeleteObject, FinishMove, SealChunk, StartMove, refusal};
use proto::rows::{DiskRow, ShardRow, disk_state};
use types::ids::DiskId;

use super::{Txn, World, keys};

impl World {
    fn disk(&self, disk: u64) -> DiskRow {
        Txn::new(&self.store).get(&keys::disk(DiskId(disk))).expect("store is sound").expect("disk")
    }

    fn drain(&self, disks: &[u64], draining: bool) -> u32 {
        self.bare(Body::DrainDisks(DrainDisks { disks: disks.to_vec(), draining })).refusal
    }

    fn remove(&self, disk: u64, lost: bool) -> u32 {
        self.bare(Body::RemoveDisk(RemoveDisk { disk, lost })).refusal
    }

    /// Moves the shard of the chunk that lies on a disk to another one.
    fn move_shard(&self, chunk: u64, from: u64, disk: u64) -> u32 {
        let row = self.row(chunk).expect("chunk");
        let index = row.shards.iter().find(|shard| shard.disk == from).expect("shard").index;
        let shards = vec![ShardRow { index, disk, ..ShardRow::default() }];
        let started = self.bare(Body::StartMove(StartMove { chunk, shards, becomes: None }));
        if started.refusal != refusal::NONE {
            return started.refusal;
        }
        self.bare(Body::FinishMove(FinishMove { chunk, id: started.number, commit: true })).refusal
    }
}

#[test]
fn disk_is_removed_only_when_no_shard_there_is_needed() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    assert_eq!(world.remove(9, false), refusal::NO_DISK);
    assert_eq!(world.remove(1, false), refusal::DISK, "in use");
    assert_eq!(world.drain(&[1], true), refusal::NONE);
    assert_eq!(world.remove(1, false), refusal::DISK, "not drained yet");
    assert_eq!(world.move_shard(chunk, 1, 3), refusal::NONE);
    assert_eq!(world.remove(1, false), refusal::NONE);
    let row = world.disk(1);
    assert!(row.removed && !row.draining && row.state == disk_state::LOST);
    assert_eq!(world.deletes(), 0, "nothing there needs deleting any more");
    assert_eq!(world.row(chunk).expect("chunk").shards.len(), 2);
    assert!(!world.is_listed_as_missing(chunk));
}

#[test]
fn open_chunk_and_pending_move_keep_a_disk_and_what_holds_no_bytes_does_not() {
    let mut world = World::new();
    let open = world.chunk();
    world.drain(&[1], true);
    assert_eq!(world.remove(1, false), refusal::DISK, "bytes may be there that nobody has committed yet");
    let keep = world.row(open).expect("chunk").shards.iter().map(|shard| shard.placement).collect();
    world.bare(Body::SealChunk(SealChunk { chunk: open, epoch: 1, len: 0, keep, release: false }));
    let sealed = world.sealed_chunk();
    assert_eq!(world.move_shard(sealed, 1, 3), refusal::NONE);
    world.drain(&[1], false);
    let back = vec![ShardRow { index: 0, disk: 1, ..ShardRow::default() }];
    let started = world.bare(Body::StartMove(StartMove { chunk: sealed, shards: back, becomes: None }));
    assert_eq!(started.refusal, refusal::NONE);
    assert_eq!(world.remove(1, false), refusal::DISK, "a shard is on its way there");
    world.bare(Body::FinishMove(FinishMove { chunk: sealed, id: started.number, commit: false }));
    assert_eq!(world.remove(1, false), refusal::NONE);
    assert!(world.row(open).expect("chunk").shards.iter().all(|shard| shard.disk != 1));
}

#[test]
fn disk_that_is_removed_as_lost_has_its_chunks_repaired() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    assert_eq!(world.remove(1, true), refusal::NONE);
    assert_eq!(world.row(chunk).expect("chunk").shards.len(), 1);
    assert!(world.is_listed_as_missing(chunk));
    assert!(world.disk(1).removed);
    assert_eq!(world.remove(1, false), refusal::NONE, "said twice");
}

#[test]
fn drained_disk_takes_no_moved_shards_until_it_is_taken_back() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    assert_eq!(world.drain(&[3, 9], true), refusal::NO_DISK);
    assert!(!world.disk(3).draining, "all of them or none");
    assert_eq!(world.drain(&[3], true), refusal::NONE);
    assert_eq!(world.move_shard(chunk, 1, 3), refusal::DISK);
    assert_eq!(world.drain(&[3], false), refusal::NONE);
    assert_eq!(world.move_shard(chunk, 1, 3), refusal::NONE);
}

#[test]
fn process_that_starts_again_does_not_take_its_disk_back() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    world.drain(&[1], true);
    let again = DiskRow { store: 1, node: "n1".into(), path: "/elsewhere".into(), ..DiskRow::default() };
    assert_eq!(world.bare(Body::RegisterDisk(again.clone())).number, 1);
    let row = world.disk(1);
    assert!(row.draining && row.path == "/elsewhere");
    world.move_shard(chunk, 1, 3);
    world.remove(1, false);
    assert_eq!(world.bare(Body::RegisterDisk(again.clone())).refusal, refusal::DISK);
    // Emptied, it is another store, and no flag of a process counts.
    let anew = DiskRow { store: 77, draining: true, removed: true, ..again };
    let number = world.bare(Body::RegisterDisk(anew)).number;
    assert_eq!(number, 4);
    assert!(!world.disk(4).draining && !world.disk(4).removed);
}

#[test]
fn chunk_that_is_deleted_leaves_its_drained_disk_free() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    // The first of partition 1.
    let bucket = 1 << 48 | 1;
    world.drain(&[2], true);
    let delete = DeleteObject { bucket, key: "k".into(), conditions: Conditions::default() };
    assert_eq!(world.command(1, Body::DeleteObject(delete)).refusal, refusal::NONE);
    assert!(world.row(chunk).is_none());
    assert_eq!(world.remove(2, false), refusal::NONE);
}
