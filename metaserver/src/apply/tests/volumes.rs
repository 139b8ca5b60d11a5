//! Promises of apply about volumes: one owner, chunks that stay while they are needed.

use proto::meta::EndSession;
use proto::volume::{
    AttachVolume, Checkpoint, CreateVolume, DeleteVolume, DetachVolume, PurgeVolume, ResizeVolume, TakeChunks,
    VolumeRow,
};

use super::*;

impl World {
    fn volume(&mut self, name: &str) -> VolumeRow {
        let redundancy = RedundancyRow::from(Redundancy::Copies(2));
        let body = CreateVolume { name: name.into(), size: 1 << 30, redundancy };
        self.command(1, Body::CreateVolume(body)).volume.expect("made")
    }

    fn attach(&mut self, name: &str, take_over: bool) -> Outcome {
        let body = AttachVolume { name: name.into(), owner: "o".into(), take_over };
        self.command(1, Body::AttachVolume(body))
    }

    fn take(&mut self, volume: &VolumeRow, epoch: u64, chunk: u64) -> Outcome {
        self.command(1, Body::TakeChunks(TakeChunks { volume: volume.id, epoch, chunks: vec![chunk] }))
    }

    fn checkpoint(&mut self, volume: &VolumeRow, epoch: u64, root: u64, sequence: u64, drop: &[u64]) -> u32 {
        let root = vec![ExtentRow { logical: 0, chunk: root, offset: 0, len: 10 }];
        let body =
            Checkpoint { volume: volume.id, epoch, root, sequence, drop: drop.to_vec(), ..Checkpoint::default() };
        self.command(1, Body::Checkpoint(body)).refusal
    }

    /// Another process; answers the session that was there before.
    fn stranger(&mut self, nonce: u64) -> (u64, u64) {
        let body = RegisterSession { name: "s".into(), nonce };
        let session = self.bare(Body::RegisterSession(body)).number;
        let before = (self.session, self.sequence);
        (self.session, self.sequence) = (session, 0);
        before
    }

    fn sealed(&mut self, chunk: u64) {
        let row = self.row(chunk).expect("chunk");
        let keep = row.shards.iter().map(|shard| shard.placement).collect();
        let body = SealChunk { chunk, epoch: row.epoch, len: 100, keep, release: true };
        assert_eq!(self.bare(Body::SealChunk(body)).refusal, refusal::NONE);
    }
}

#[test]
fn names_sizes_and_policies_are_looked_at() {
    let mut world = World::new();
    let create =
        |name: &str, size, redundancy| Body::CreateVolume(CreateVolume { name: name.into(), size, redundancy });
    let good = RedundancyRow::from(Redundancy::Copies(2));
    for body in [
        create("a/b", 1, good),
        create("a", 0, good),
        create("a", (64 << 40) + 1, good),
        create("a", 1, RedundancyRow::default()),
    ] {
        assert_eq!(world.command(1, body).refusal, refusal::MALFORMED);
    }
    assert_eq!(world.command(1, create("a", 64 << 40, good)).refusal, refusal::NONE);
    assert_eq!(world.command(2, create("a", 1, good)).refusal, refusal::EXISTS);
    let resize = |name: &str, size| Body::ResizeVolume(ResizeVolume { name: name.into(), size, epoch: 0 });
    assert_eq!(world.command(1, resize("a", 1 << 40)).refusal, refusal::VOLUME_BUSY, "who has it looks first");
    assert_eq!(world.command(1, resize("b", 1 << 40)).refusal, refusal::NO_VOLUME);
}

#[test]
fn what_an_older_owner_asks_for_is_refused() {
    let mut world = World::new();
    let volume = world.volume("v");
    let epoch = world.attach("v", false).number;
    let chunk = world.chunk();
    assert_eq!(world.take(&volume, epoch, chunk).refusal, refusal::NONE);
    let old = world.chunk();

    let first = world.stranger(8);
    assert_eq!(world.attach("v", false).refusal, refusal::VOLUME_BUSY);
    let risen = world.attach("v", true).number;
    assert_eq!(risen, epoch + 1);
    assert_eq!(world.take(&volume, risen, chunk).refusal, refusal::CHUNK, "it was granted to another session");
    let second = (world.session, world.sequence);

    (world.session, world.sequence) = first;
    assert_eq!(world.take(&volume, epoch, old).refusal, refusal::VOLUME_FENCED);
    assert_eq!(world.take(&volume, risen, old).refusal, refusal::VOLUME_FENCED, "an epoch alone is not enough");
    assert_eq!(world.checkpoint(&volume, epoch, chunk, 1, &[]), refusal::VOLUME_FENCED);
    let detach = Body::DetachVolume(DetachVolume { volume: volume.id, epoch });
    assert_eq!(world.command(1, detach).refusal, refusal::VOLUME_FENCED);

    (world.session, world.sequence) = second;
    assert_eq!(world.checkpoint(&volume, risen, chunk, 5, &[]), refusal::NONE);
    assert_eq!(world.checkpoint(&volume, risen, chunk, 4, &[]), refusal::MALFORMED, "an older index");
    assert_eq!(world.checkpoint(&volume, risen, old, 6, &[]), refusal::CHUNK, "not the volume's");
    assert_eq!(world.checkpoint(&volume, risen, chunk, 6, &[chunk]), refusal::CHUNK, "the index lies there");
}

#[test]
fn chunks_stay_when_the_owner_ends_and_go_when_they_are_dropped() {
    let mut world = World::new();
    let volume = world.volume("v");
    let epoch = world.attach("v", false).number;
    let (one, two) = (world.chunk(), world.chunk());
    world.take(&volume, epoch, one);
    assert_eq!(world.take(&volume, epoch, two).volume.map(|row| row.next_order), Some(2));
    assert_eq!(world.take(&volume, epoch, two).refusal, refusal::CHUNK, "taken once");
    world.bare(Body::EndSession(EndSession { session: world.session }));
    for chunk in [one, two] {
        world.sealed(chunk);
        assert!(world.row(chunk).is_some_and(|row| row.live_bytes == row.capacity), "nobody gives it back");
    }
    world.stranger(8);
    let epoch = world.attach("v", false).number;
    assert_eq!(world.checkpoint(&volume, epoch, two, 1, &[one]), refusal::NONE);
    assert_eq!((world.row(one), world.row(two).is_some()), (None, true));
    assert_eq!(world.checkpoint(&volume, epoch, two, 2, &[one]), refusal::CHUNK, "it was dropped");
    let delete = |name: &str| Body::DeleteVolume(DeleteVolume { name: name.into() });
    assert_eq!(world.command(1, delete("v")).refusal, refusal::VOLUME_BUSY);
    world.command(1, Body::DetachVolume(DetachVolume { volume: volume.id, epoch }));
    assert_eq!(world.command(1, delete("v")).refusal, refusal::NONE);
    assert_eq!(world.attach("v", true).refusal, refusal::NO_VOLUME);
    let purge = Command {
        partition: 1,
        body: Some(Body::PurgeVolume(PurgeVolume { volume: volume.id })),
        ..Command::default()
    };
    assert!(!world.run(&purge).existed, "nothing is left");
    assert_eq!(world.row(two), None);
    assert_eq!(world.run(&purge).refusal, refusal::NO_VOLUME);
}
