//! Promises of apply, on a map.

use proto::chunk::ShardName;
use proto::keys;
use proto::meta::{
    Body, Command, CompleteUpload, Conditions, CreateBucket, CreateUpload, DeleteObject, Deleted, DiskShards,
    ExtentMove, FinishMove, GrantChunks, LoseDisk, MoveExtents, NamedPart, NewBody, Outcome, PlannedChunk, PutObject,
    PutPart, RegisterSession, SealChunk, StartMove, refusal,
};
use proto::rows::{ChunkRow, ClusterRow, DeleteRow, DiskRow, ExtentRow, MetaRow, RedundancyRow, ShardRow};
use types::ids::{ChunkId, DiskId, PlacementId};
use types::redundancy::Redundancy;

use super::apply;
use super::txn::Txn;
use crate::store::StateStore;
use crate::store::memory::MemoryStore;

struct World {
    store: StateStore,
    session: u64,
    sequence: u64,
}

impl World {
    fn new() -> World {
        let mut world = World { store: StateStore::Memory(MemoryStore::default()), session: 0, sequence: 0 };
        world.bare(Body::InitCluster(ClusterRow {
            cluster: 1,
            feature_level: proto::level::CURRENT,
            partitions: 4,
            redundancy: RedundancyRow::from(Redundancy::Copies(2)),
            chunk_capacity: 1 << 20,
            cell_size: 4096,
        }));
        for disk in 1..=3 {
            let row = DiskRow { store: disk, node: format!("n{disk}"), path: "/d".into(), ..DiskRow::default() };
            assert_eq!(world.bare(Body::RegisterDisk(row)).number, disk);
        }
        world.session = world.bare(Body::RegisterSession(RegisterSession { name: "t".into(), nonce: 7 })).number;
        world
    }

    fn run(&self, command: &Command) -> Outcome {
        let mut txn = Txn::new(&self.store);
        let outcome = apply(&mut txn, command).expect("store is sound");
        self.store.write(&txn.into_batch()).expect("write");
        outcome
    }

    fn bare(&self, body: Body) -> Outcome {
        self.run(&Command { now_ms: 5, body: Some(body), ..Command::default() })
    }

    fn command(&mut self, partition: u32, body: Body) -> Outcome {
        self.sequence += 1;
        self.run(&Command {
            session: self.session,
            sequence: self.sequence,
            floor: 0,
            partition,
            now_ms: 9,
            body: Some(body),
        })
    }

    fn bucket(&mut self) -> u64 {
        self.command(1, Body::CreateBucket(CreateBucket { name: "bucket".into(), owner: "u".into(), kind: 0 })).number
    }

    fn chunk(&mut self) -> u64 {
        let grant = GrantChunks {
            session: self.session,
            redundancy: RedundancyRow::from(Redundancy::Copies(2)),
            cell_size: 4096,
            capacity: 1 << 20,
            chunks: vec![PlannedChunk { disks: vec![1, 2] }],
            becomes: None,
        };
        self.command(1, Body::GrantChunks(grant)).chunks[0].chunk
    }

    fn row(&self, chunk: u64) -> Option<ChunkRow> {
        Txn::new(&self.store).get(&keys::chunk(ChunkId(chunk))).expect("store is sound")
    }
}

fn extents(chunk: u64, offset: u64, len: u64) -> NewBody {
    NewBody { extents: vec![ExtentRow { logical: 0, chunk, offset, len }], size: len, ..NewBody::default() }
}

fn put(bucket: u64, key: &str, body: NewBody) -> PutObject {
    PutObject { bucket, key: key.into(), meta: MetaRow::default(), body, conditions: Conditions::default() }
}

#[test]
fn retried_command_returns_the_first_outcome_and_happens_once() {
    let mut world = World::new();
    let first = world.bucket();
    let again = Command {
        session: world.session,
        sequence: world.sequence,
        floor: 0,
        partition: 1,
        now_ms: 77,
        body: Some(Body::CreateBucket(CreateBucket { name: "bucket".into(), owner: "u".into(), kind: 0 })),
    };
    let retried = world.run(&again);
    assert_eq!((retried.refusal, retried.number), (refusal::NONE, first));
    let other = Command {
        body: Some(Body::CreateBucket(CreateBucket { name: "other".into(), owner: "u".into(), kind: 0 })),
        ..again.clone()
    };
    assert_eq!(world.run(&other).refusal, refusal::OTHER_BODY);
    let next = Command { sequence: world.sequence + 1, floor: world.sequence, ..other };
    assert_eq!(world.run(&next).refusal, refusal::NONE);
    assert_eq!(world.run(&again).refusal, refusal::BELOW_FLOOR);
    let stranger = Command { session: 99, ..again };
    assert_eq!(world.run(&stranger).refusal, refusal::NO_SESSION);
}

#[test]
fn only_the_first_of_two_creators_wins() {
    let mut world = World::new();
    let bucket = world.bucket();
    let absent = |key: &str| PutObject {
        conditions: Conditions { absent: true, etag: String::new() },
        ..put(bucket, key, NewBody::default())
    };
    assert_eq!(world.command(1, Body::PutObject(absent("k"))).refusal, refusal::NONE);
    assert_eq!(world.command(1, Body::PutObject(absent("k"))).refusal, refusal::PRECONDITION);
}

#[test]
fn chunk_is_condemned_only_when_released_sealed_and_unreferenced() {
    let mut world = World::new();
    let bucket = world.bucket();
    let chunk = world.chunk();
    assert_eq!(world.command(1, Body::PutObject(put(bucket, "k", extents(chunk, 0, 100)))).refusal, refusal::NONE);
    let keep: Vec<u64> = world.row(chunk).expect("chunk").shards.iter().map(|shard| shard.placement).collect();
    let seal = |len, release| Body::SealChunk(SealChunk { chunk, epoch: 1, len, keep: keep.clone(), release });
    assert_eq!(world.bare(seal(50, false)).refusal, refusal::CHUNK, "below a committed extent");
    assert_eq!(world.bare(seal(100, false)).refusal, refusal::NONE);
    let delete = DeleteObject { bucket, key: "k".into(), conditions: Conditions::default() };
    world.command(1, Body::DeleteObject(delete));
    assert!(world.row(chunk).is_some(), "its session may still commit");
    world.bare(seal(100, true));
    assert!(world.row(chunk).is_none());
    assert_eq!(world.command(1, Body::PutObject(put(bucket, "k", extents(chunk, 0, 10)))).refusal, refusal::CHUNK);
}

#[test]
fn refused_part_leaves_the_earlier_part_whole() {
    let mut world = World::new();
    let bucket = world.bucket();
    let chunk = world.chunk();
    let create = CreateUpload { bucket, key: "k".into(), meta: MetaRow::default(), checksum_kind: String::new() };
    let upload = world.command(1, Body::CreateUpload(create)).number;
    let part = |body| {
        Body::PutPart(PutPart {
            bucket,
            key: "k".into(),
            upload,
            number: 1,
            etag: "e".into(),
            checksums: Vec::new(),
            body,
        })
    };
    assert_eq!(world.command(1, part(extents(chunk, 0, 100))).refusal, refusal::NONE);
    assert_eq!(world.command(1, part(extents(chunk + 1, 0, 100))).refusal, refusal::CHUNK);
    assert_eq!(world.row(chunk).map(|row| row.live_bytes), Some(100));
    let complete = CompleteUpload {
        bucket,
        key: "k".into(),
        upload,
        parts: vec![NamedPart { number: 1, etag: "e".into(), checksums: Vec::new() }],
        meta: MetaRow::default(),
        conditions: Conditions::default(),
    };
    let outcome = world.command(1, Body::CompleteUpload(complete));
    assert_eq!(outcome.object.map(|object| object.size), Some(100));
    assert_eq!(world.row(chunk).map(|row| row.live_bytes), Some(100));
}

impl World {
    /// A sealed chunk of 100 bytes with one object in it.
    fn sealed_chunk(&mut self) -> u64 {
        let bucket = self.bucket();
        let chunk = self.chunk();
        assert_eq!(self.command(1, Body::PutObject(put(bucket, "k", extents(chunk, 0, 100)))).refusal, refusal::NONE);
        let keep = self.row(chunk).expect("chunk").shards.iter().map(|shard| shard.placement).collect();
        let seal = SealChunk { chunk, epoch: 1, len: 100, keep, release: true };
        assert_eq!(self.bare(Body::SealChunk(seal)).refusal, refusal::NONE);
        chunk
    }

    fn is_listed_as_missing(&self, chunk: u64) -> bool {
        Txn::new(&self.store).get_bytes(&keys::missing(ChunkId(chunk))).expect("store is sound").is_some()
    }

    fn deletes(&self) -> usize {
        Txn::new(&self.store).scan_prefix(&[keys::table::DELETE], usize::MAX).expect("store is sound").len()
    }
}

fn name(chunk: u64, placement: u64) -> ShardName {
    ShardName { placement, chunk, index: 0 }
}

#[test]
fn bad_shard_stays_and_is_listed_until_a_move_replaces_it() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    let bad = world.row(chunk).expect("chunk").shards[0];
    assert!(!world.is_listed_as_missing(chunk));
    let mark = |disk, placement| Body::MarkBad(DiskShards { disk, shards: vec![name(chunk, placement)] });
    world.bare(mark(bad.disk + 1, bad.placement));
    assert!(!world.is_listed_as_missing(chunk), "another disk's word");
    world.bare(mark(bad.disk, bad.placement));
    assert!(world.is_listed_as_missing(chunk));
    assert_eq!(world.row(chunk).expect("chunk").shards.len(), 2, "what is left of it may be needed");
    let target = ShardRow { index: bad.index, disk: 3, ..ShardRow::default() };
    let started = world.bare(Body::StartMove(StartMove { chunk, shards: vec![target], becomes: None }));
    world.bare(Body::FinishMove(FinishMove { chunk, id: started.number, commit: true }));
    let row = world.row(chunk).expect("chunk");
    assert!(row.shards.iter().all(|shard| !shard.bad && shard.placement != bad.placement));
    assert!(!world.is_listed_as_missing(chunk));
    assert_eq!(world.deletes(), 1);
}

#[test]
fn at_most_one_move_is_pending_and_its_commit_checks_that_it_still_is() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    let start = |disk| {
        let target = ShardRow { index: 0, disk, ..ShardRow::default() };
        Body::StartMove(StartMove { chunk, shards: vec![target], becomes: None })
    };
    let first = world.bare(start(3));
    assert_eq!(first.refusal, refusal::NONE);
    assert!(world.is_listed_as_missing(chunk), "a move that nobody works on must be found");
    assert_eq!(world.bare(start(3)).refusal, refusal::CHUNK);
    let finish = |id, commit| Body::FinishMove(FinishMove { chunk, id, commit });
    assert_eq!(world.bare(finish(first.number, false)).refusal, refusal::NONE);
    assert_eq!(world.deletes(), 1, "the aborted move's placement");
    let before = world.row(chunk);
    assert_eq!(world.bare(finish(first.number, true)).refusal, refusal::CHUNK);
    assert_eq!(world.row(chunk), before);
    let second = world.bare(start(3));
    assert_eq!(world.bare(finish(first.number, true)).refusal, refusal::CHUNK);
    assert_eq!(world.bare(finish(second.number, true)).refusal, refusal::NONE);
    assert!(!world.is_listed_as_missing(chunk));
}

#[test]
fn unknown_shard_is_deleted_only_if_no_chunk_names_it_and_its_numbers_were_given_out() {
    let mut world = World::new();
    let chunk = world.sealed_chunk();
    let shard = world.row(chunk).expect("chunk").shards[0];
    let other = world.row(chunk).expect("chunk").shards[1];
    let drop = |shards| Body::DropUnknown(DiskShards { disk: shard.disk, shards });
    world.bare(drop(vec![name(chunk, shard.placement)]));
    world.bare(drop(vec![name(chunk, 1_000_000), name(chunk + 1000, other.placement)]));
    assert_eq!(world.deletes(), 0);
    // A chunk that is gone: its number was given out.
    let gone = world.chunk();
    let placement = world.row(gone).expect("chunk").shards[0].placement;
    let keep = world.row(gone).expect("chunk").shards.iter().map(|shard| shard.placement).collect();
    world.bare(Body::SealChunk(SealChunk { chunk: gone, epoch: 1, len: 0, keep, release: true }));
    let deletes = world.deletes();
    let disk_deletes = Deleted { disk: shard.disk, placements: vec![placement] };
    world.bare(Body::Deleted(disk_deletes));
    assert_eq!(world.deletes(), deletes - 1);
    world.bare(drop(vec![name(gone, placement)]));
    assert_eq!(world.deletes(), deletes);
}

#[test]
fn extents_are_moved_by_compare_and_set_and_the_empty_chunk_goes() {
    let mut world = World::new();
    let bucket = world.bucket();
    let (old, new) = (world.chunk(), world.chunk());
    for (number, key) in ["dead", "kept", "deleted meanwhile"].into_iter().enumerate() {
        let body = extents(old, number as u64 * 100, 100);
        assert_eq!(world.command(1, Body::PutObject(put(bucket, key, body))).refusal, refusal::NONE);
    }
    let keep = world.row(old).expect("chunk").shards.iter().map(|shard| shard.placement).collect();
    world.bare(Body::SealChunk(SealChunk { chunk: old, epoch: 1, len: 300, keep, release: true }));
    let delete =
        |key: &str| Body::DeleteObject(DeleteObject { bucket, key: key.into(), conditions: Conditions::default() });
    world.command(1, delete("dead"));
    let blobs: Vec<u64> = (1..=3).collect();
    let moved = |blob: usize, from: u64, to: u64| ExtentMove {
        blob: blobs[blob],
        old: ExtentRow { logical: 0, chunk: old, offset: from, len: 100 },
        new: vec![
            ExtentRow { logical: 0, chunk: new, offset: to, len: 60 },
            ExtentRow { logical: 60, chunk: new, offset: to + 60, len: 40 },
        ],
    };
    world.command(1, delete("deleted meanwhile"));
    let moves = vec![moved(0, 0, 0), moved(1, 100, 100), moved(2, 200, 200)];
    let outcome = world.command(1, Body::MoveExtents(MoveExtents { chunk: old, moves: moves.clone() }));
    assert_eq!((outcome.refusal, outcome.number), (refusal::NONE, 1));
    assert!(world.row(old).is_none(), "nothing is left in it");
    assert_eq!(world.row(new).map(|row| row.live_bytes), Some(100));
    let again = world.command(1, Body::MoveExtents(MoveExtents { chunk: old, moves }));
    assert_eq!((again.refusal, again.number), (refusal::NONE, 0));
    assert_eq!(world.row(new).map(|row| row.live_bytes), Some(100));
    // The object's blob names its new place, and frees it when it is deleted.
    world.command(1, delete("kept"));
    assert_eq!(world.row(new).map(|row| row.live_bytes), Some(0));
    let references = Txn::new(&world.store).scan_prefix(&[keys::table::REFERENCE], usize::MAX).expect("store is sound");
    assert!(references.is_empty());
}

#[test]
fn extents_are_not_moved_into_a_chunk_of_another_session_or_with_gaps() {
    let mut world = World::new();
    let old = world.sealed_chunk();
    let new = world.chunk();
    let row = ExtentRow { logical: 0, chunk: old, offset: 0, len: 100 };
    let run = |world: &mut World, new: Vec<ExtentRow>| {
        let moves = vec![ExtentMove { blob: 1, old: row, new }];
        world.command(1, Body::MoveExtents(MoveExtents { chunk: old, moves })).refusal
    };
    let place = |logical, len| ExtentRow { logical, chunk: new, offset: 0, len };
    assert_eq!(run(&mut world, vec![place(0, 50), place(60, 50)]), refusal::MALFORMED);
    assert_eq!(run(&mut world, vec![place(0, 99)]), refusal::MALFORMED);
    assert_eq!(run(&mut world, Vec::new()), refusal::MALFORMED);
    world.session = world.bare(Body::RegisterSession(RegisterSession { name: "other".into(), nonce: 8 })).number;
    world.sequence = 0;
    assert_eq!(run(&mut world, vec![place(0, 100)]), refusal::CHUNK);
    assert_eq!(world.row(old).map(|row| row.live_bytes), Some(100));
}

#[test]
fn one_move_is_pending_at_most_and_its_commit_asks_whether_it_still_is() {
    let mut world = World::new();
    let bucket = world.bucket();
    let chunk = world.chunk();
    assert_eq!(world.command(1, Body::PutObject(put(bucket, "k", extents(chunk, 0, 100)))).refusal, refusal::NONE);
    let first = world.row(chunk).expect("chunk").shards[0];
    let seal = SealChunk { chunk, epoch: 1, len: 100, keep: vec![first.placement], release: false };
    assert_eq!(world.bare(Body::SealChunk(seal)).refusal, refusal::NONE);
    let start = || {
        let shards = vec![ShardRow { index: 1, disk: 3, ..ShardRow::default() }];
        world.bare(Body::StartMove(StartMove { chunk, shards, becomes: None }))
    };
    let finish = |id, commit| world.bare(Body::FinishMove(FinishMove { chunk, id, commit })).refusal;
    let shards = || world.row(chunk).expect("chunk").shards;

    let aborted = start();
    assert_eq!(aborted.refusal, refusal::NONE);
    assert_eq!(start().refusal, refusal::CHUNK, "a second move beside the first");
    assert_eq!(finish(aborted.number + 1, true), refusal::CHUNK, "a move that never was");
    assert_eq!(finish(aborted.number, false), refusal::NONE);
    let pending = aborted.chunks[0].row.pending_move.as_ref().expect("the move");
    let delete = keys::delete(DiskId(3), PlacementId(pending.shards[0].placement));
    let queued: Option<DeleteRow> = Txn::new(&world.store).get(&delete).expect("store is sound");
    assert!(queued.is_some(), "an aborted move's own placements are deleted");
    assert_eq!(finish(aborted.number, true), refusal::CHUNK, "committed after its abort");
    assert_eq!(shards(), [first]);

    let committed = start();
    assert_eq!(finish(committed.number, true), refusal::NONE);
    assert_eq!(finish(committed.number, true), refusal::CHUNK, "committed twice");
    assert_eq!(shards().iter().map(|shard| shard.disk).collect::<Vec<_>>(), [first.disk, 3]);

    // A disk that is lost takes the move to it along.
    assert_eq!(world.bare(Body::LoseDisk(LoseDisk { disk: 3 })).refusal, refusal::NONE);
    assert_eq!(shards(), [first]);
    let elsewhere = vec![ShardRow { index: 1, disk: 2, ..ShardRow::default() }];
    let lost = world.bare(Body::StartMove(StartMove { chunk, shards: elsewhere, becomes: None }));
    assert_eq!(world.bare(Body::LoseDisk(LoseDisk { disk: 2 })).refusal, refusal::NONE);
    assert_eq!(finish(lost.number, true), refusal::CHUNK, "its disk was lost meanwhile");
    assert_eq!(shards(), [first]);
}

mod disks;
mod transcode;
mod trash;
mod volumes;
