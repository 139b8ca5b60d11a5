//! Promises of apply, on a map.

use proto::keys;
use proto::meta::{
    Body, Command, CompleteUpload, Conditions, CreateBucket, CreateUpload, DeleteObject, FinishMove, GrantChunks,
    LoseDisk, NamedPart, NewBody, Outcome, PlannedChunk, PutObject, PutPart, RegisterSession, SealChunk, StartMove,
    refusal,
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
            feature_level: 1,
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
        let shards = vec![ShardRow { index: 1, placement: 0, disk: 3 }];
        world.bare(Body::StartMove(StartMove { chunk, shards }))
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
    let elsewhere = vec![ShardRow { index: 1, placement: 0, disk: 2 }];
    let lost = world.bare(Body::StartMove(StartMove { chunk, shards: elsewhere }));
    assert_eq!(world.bare(Body::LoseDisk(LoseDisk { disk: 2 })).refusal, refusal::NONE);
    assert_eq!(finish(lost.number, true), refusal::CHUNK, "its disk was lost meanwhile");
    assert_eq!(shards(), [first]);
}
