//! Chunks of copies that become stripes.

use super::*;

const STRIPES: Redundancy = Redundancy::Erasure { data: 2, parity: 1 };

impl World {
    /// A sealed chunk of copies with 10,000 bytes that is to become stripes, and its blob's bucket.
    fn copies_to_be_striped(&mut self) -> (u64, u64) {
        let bucket = self.bucket();
        let grant = GrantChunks {
            session: self.session,
            redundancy: RedundancyRow::from(Redundancy::Copies(2)),
            cell_size: 4096,
            capacity: 1 << 20,
            chunks: vec![PlannedChunk { disks: vec![1, 2] }],
            becomes: Some(RedundancyRow::from(STRIPES)),
        };
        let chunk = self.command(1, Body::GrantChunks(grant)).chunks[0].chunk;
        let object = Body::PutObject(put(bucket, "key", extents(chunk, 5000, 5000)));
        assert_eq!(self.command(1, object).refusal, refusal::NONE);
        let keep = self.row(chunk).expect("chunk").shards.iter().map(|shard| shard.placement).collect();
        self.bare(Body::SealChunk(SealChunk { chunk, epoch: 1, len: 10_000, keep, release: false }));
        (chunk, bucket)
    }

    fn start_transcode(&mut self, chunk: u64, indexes: &[u32]) -> Outcome {
        let target = |index: &u32| ShardRow { index: *index, disk: u64::from(*index) + 1, ..ShardRow::default() };
        let shards = indexes.iter().map(target).collect();
        self.bare(Body::StartMove(StartMove { chunk, shards, becomes: Some(RedundancyRow::from(STRIPES)) }))
    }

    fn release(&mut self, chunk: u64) {
        let seal = SealChunk { chunk, epoch: 1, len: 10_000, keep: Vec::new(), release: true };
        assert_eq!(self.bare(Body::SealChunk(seal)).refusal, refusal::NONE);
    }
}

#[test]
fn transcode_exchanges_layout_and_shards_at_once_and_extents_stay() {
    let mut world = World::new();
    let (chunk, bucket) = world.copies_to_be_striped();
    assert_eq!(world.start_transcode(chunk, &[0, 1, 2]).refusal, refusal::CHUNK, "its writer still has it");
    world.release(chunk);
    assert_eq!(world.start_transcode(chunk, &[0, 1]).refusal, refusal::MALFORMED, "all shards are needed");
    assert_eq!(world.start_transcode(chunk, &[0, 2, 1]).refusal, refusal::MALFORMED);
    let started = world.start_transcode(chunk, &[0, 1, 2]);
    assert_eq!(started.refusal, refusal::NONE);
    let before = world.row(chunk).expect("chunk");
    assert_eq!(before.redundancy.policy(), Some(Redundancy::Copies(2)), "not before the commit");
    let pending = before.pending_move.expect("a move");
    assert_eq!((pending.shards.len(), pending.sealed_len), (3, 8192), "two stripes of two cells");
    world.bare(Body::FinishMove(FinishMove { chunk, id: started.number, commit: true }));
    let after = world.row(chunk).expect("chunk");
    assert_eq!((after.redundancy.policy(), after.sealed_len), (Some(STRIPES), 8192));
    assert_eq!((after.shards, after.becomes, after.pending_move), (pending.shards, None, None));
    assert_eq!((after.live_bytes, world.deletes()), (5000, 2), "both copies are deleted");
    assert!(!world.is_listed_as_missing(chunk));
    // The object's extent is given back from the stripes as from the copies.
    let delete = DeleteObject { bucket, key: "key".into(), conditions: Conditions::default() };
    world.command(1, Body::DeleteObject(delete));
    assert_eq!((world.row(chunk), world.deletes()), (None, 5));
}

#[test]
fn transcode_that_is_given_up_leaves_the_copies() {
    let mut world = World::new();
    let (chunk, _) = world.copies_to_be_striped();
    world.release(chunk);
    let started = world.start_transcode(chunk, &[0, 1, 2]);
    let abort = FinishMove { chunk, id: started.number, commit: false };
    assert_eq!(world.bare(Body::FinishMove(abort)).refusal, refusal::NONE);
    let row = world.row(chunk).expect("chunk");
    assert_eq!((row.redundancy.policy(), row.sealed_len), (Some(Redundancy::Copies(2)), 10_000));
    assert_eq!((row.shards.len(), row.becomes.is_some(), world.deletes()), (2, true, 3));
    // A disk that is lost under it ends it too.
    world.start_transcode(chunk, &[0, 1, 2]);
    world.bare(Body::LoseDisk(LoseDisk { disk: 3 }));
    assert_eq!(world.row(chunk).expect("chunk").pending_move, None);
}
