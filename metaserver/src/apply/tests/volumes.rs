//! Promises of apply about volumes: one owner, chunks that stay while they are needed.

use proto::meta::EndSession;
use proto::volume::{
    AttachVolume, Checkpoint, CloneVolume, CreateVolume, DeleteSnapshot, DeleteVolume, DetachVolume, Encryption,
    PurgeVolume, RenameVolume, ResizeVolume, RollBack, SnapshotRow, SweepVolume, TakeChunks, TakeSnapshot, VolumeRow,
    WantSnapshot,
};

use super::*;

impl World {
    fn volume(&mut self, name: &str) -> VolumeRow {
        let redundancy = RedundancyRow::from(Redundancy::Copies(2));
        let body = CreateVolume { name: name.into(), size: 1 << 30, redundancy, encryption: None };
        self.command(1, Body::CreateVolume(body)).volume.expect("made")
    }

    fn attach(&mut self, name: &str, take_over: bool) -> Outcome {
        let body = AttachVolume { name: name.into(), owner: "o".into(), take_over, only_epoch: 0 };
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
    let create = |name: &str, size, redundancy| {
        Body::CreateVolume(CreateVolume { name: name.into(), size, redundancy, encryption: None })
    };
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
    let detach = Body::DetachVolume(DetachVolume { volume: volume.id, epoch, sequence: 0 });
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
    world.command(1, Body::DetachVolume(DetachVolume { volume: volume.id, epoch, sequence: 0 }));
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

/// A volume that is attached, with chunks.
struct Journal {
    world: World,
    volume: VolumeRow,
    epoch: u64,
}

impl Journal {
    fn new() -> Journal {
        let mut world = World::new();
        let volume = world.volume("v");
        let epoch = world.attach("v", false).number;
        Journal { world, volume, epoch }
    }

    /// A chunk of the journal, full.
    fn chunk(&mut self) -> u64 {
        let chunk = self.world.chunk();
        assert_eq!(self.world.take(&self.volume, self.epoch, chunk).refusal, refusal::NONE);
        self.world.sealed(chunk);
        chunk
    }

    fn checkpoint(&mut self, root: u64, sequence: u64, drop: &[u64]) -> u32 {
        self.world.checkpoint(&self.volume, self.epoch, root, sequence, drop)
    }

    fn snapshot(&mut self, name: &str, sequence: u64) -> Outcome {
        let body = TakeSnapshot { name: "v".into(), snapshot: name.into(), epoch: self.epoch, sequence };
        self.world.command(1, Body::TakeSnapshot(body))
    }

    fn forget(&mut self, name: &str) -> u32 {
        let body = DeleteSnapshot { name: "v".into(), snapshot: name.into() };
        self.world.command(1, Body::DeleteSnapshot(body)).refusal
    }

    fn sweep(&self, volume: u64) {
        let body = Body::SweepVolume(SweepVolume { volume });
        let command = Command { partition: 1, body: Some(body), ..Command::default() };
        while self.world.run(&command).existed {}
    }

    fn there(&self, chunks: &[u64]) -> Vec<bool> {
        chunks.iter().map(|chunk| self.world.row(*chunk).is_some()).collect()
    }

    fn snapshots(&self, volume: u64) -> Vec<SnapshotRow> {
        crate::apply::snapshots::of(&Txn::new(&self.world.store), volume).expect("store is sound")
    }

    fn detach(&mut self, sequence: u64) {
        let body = DetachVolume { volume: self.volume.id, epoch: self.epoch, sequence };
        assert_eq!(self.world.command(1, Body::DetachVolume(body)).refusal, refusal::NONE);
    }
}

#[test]
fn chunks_stay_while_a_snapshot_may_need_them() {
    let mut journal = Journal::new();
    let (before, index) = (journal.chunk(), journal.chunk());
    assert!(!journal.snapshot("one", 5).snapshot.expect("taken").ready);
    assert_eq!(journal.snapshot("one", 6).refusal, refusal::EXISTS);
    assert_eq!(journal.snapshot("a/b", 6).refusal, refusal::MALFORMED);
    assert_eq!(journal.checkpoint(index, 6, &[]), refusal::MALFORMED, "the snapshot's index comes first");
    // Its index may go to a chunk that is taken later.
    let late = journal.chunk();
    assert_eq!(journal.checkpoint(late, 5, &[]), refusal::NONE);
    let after = journal.chunk();
    assert_eq!(journal.checkpoint(after, 9, &[before, index, late]), refusal::NONE);
    let root = journal.chunk();
    assert_eq!(journal.checkpoint(root, 10, &[after]), refusal::NONE);
    assert_eq!(journal.there(&[before, index, late, after, root]), [true, true, true, false, true]);
    assert_eq!(journal.checkpoint(root, 11, &[before]), refusal::CHUNK, "dropped already");
    assert_eq!(journal.forget("two"), refusal::NO_VOLUME);
    assert_eq!(journal.forget("one"), refusal::NONE);
    journal.sweep(journal.volume.id);
    assert_eq!(journal.there(&[before, index, late, root]), [false, false, false, true]);
    assert_eq!(journal.snapshot("one", 4).refusal, refusal::MALFORMED, "a moment that is past");
    assert!(journal.snapshot("one", 10).snapshot.expect("taken").ready, "the row's index is of that moment");
}

#[test]
fn clone_keeps_what_it_was_made_of_when_snapshot_and_volume_are_deleted() {
    let mut journal = Journal::new();
    let (data, root) = (journal.chunk(), journal.chunk());
    journal.checkpoint(root, 5, &[]);
    journal.snapshot("s", 5);
    let clone = |name: &str, size| {
        let from = CloneVolume { from: "v".into(), snapshot: "s".into(), name: name.into(), size, redundancy: None };
        Body::CloneVolume(from)
    };
    assert_eq!(journal.world.command(1, clone("c", 1)).refusal, refusal::MALFORMED, "smaller than the snapshot");
    assert_eq!(journal.world.command(1, clone("v", 0)).refusal, refusal::EXISTS);
    let made = journal.world.command(1, clone("c", 0)).volume.expect("cloned");
    assert_eq!((made.size, made.base.as_ref().map(|base| base.name.as_str())), (1 << 30, Some("v@s")));
    // A snapshot of a clone that nobody has written to reads as what that was made of.
    let body = TakeSnapshot { name: "c".into(), snapshot: "t".into(), epoch: 0, sequence: 0 };
    let taken = journal.world.command(1, Body::TakeSnapshot(body)).snapshot.expect("taken");
    assert!(taken.ready && taken.root[0].chunk == root, "{taken:?}");
    let body = DeleteSnapshot { name: "c".into(), snapshot: "t".into() };
    assert_eq!(journal.world.command(1, Body::DeleteSnapshot(body)).refusal, refusal::NONE);
    let other = journal.chunk();
    journal.checkpoint(other, 8, &[data, root]);
    assert_eq!(journal.forget("s"), refusal::NONE);
    journal.sweep(journal.volume.id);
    assert_eq!(journal.there(&[data, root, other]), [true, true, true], "the clone needs them");
    assert_eq!(journal.forget("s"), refusal::NO_VOLUME, "its name is free");
    journal.detach(8);
    journal.world.command(1, Body::DeleteVolume(DeleteVolume { name: "v".into() }));
    journal.sweep(journal.volume.id);
    assert_eq!(journal.there(&[data, root, other]), [true, true, false]);
    // Once its own index is whole, the clone lets go.
    let epoch = journal.world.attach("c", false).number;
    let own = journal.world.chunk();
    journal.world.take(&made, epoch, own);
    let extent = |chunk| vec![ExtentRow { logical: 0, chunk, offset: 0, len: 10 }];
    let alone =
        Checkpoint { volume: made.id, epoch, root: extent(own), sequence: 3, is_alone: true, ..Checkpoint::default() };
    assert_eq!(journal.world.command(1, Body::Checkpoint(alone)).volume.expect("kept").base, None);
    journal.sweep(journal.volume.id);
    assert_eq!(journal.there(&[data, root, own]), [false, false, true]);
    assert_eq!(journal.snapshots(journal.volume.id), []);
}

#[test]
fn clone_that_was_cleared_does_not_read_as_what_it_was_made_of() {
    let mut journal = Journal::new();
    let root = journal.chunk();
    journal.checkpoint(root, 5, &[]);
    journal.snapshot("s", 5);
    let body = CloneVolume { from: "v".into(), snapshot: "s".into(), name: "c".into(), size: 0, redundancy: None };
    let made = journal.world.command(1, Body::CloneVolume(body)).volume.expect("cloned");
    assert!(made.base_to_read().is_some());
    let epoch = journal.world.attach("c", false).number;
    let taken = |name: &str, sequence| {
        Body::TakeSnapshot(TakeSnapshot { name: "c".into(), snapshot: name.into(), epoch, sequence })
    };
    // A snapshot keeps the base, and the index of a volume that was cleared has a root of no bytes.
    journal.world.command(1, taken("before", 0));
    let empty = Checkpoint { volume: made.id, epoch, sequence: 3, is_alone: true, ..Checkpoint::default() };
    let cleared = journal.world.command(1, Body::Checkpoint(empty)).volume.expect("kept");
    assert!(cleared.base.is_some() && cleared.base_to_read().is_none(), "{cleared:?}");
    let after = journal.world.command(1, taken("after", 3)).snapshot.expect("taken");
    assert!(after.ready && after.root.is_empty(), "{after:?}");
}

#[test]
fn volume_is_rolled_back_to_what_its_chunks_still_hold() {
    let mut journal = Journal::new();
    let (data, root) = (journal.chunk(), journal.chunk());
    journal.checkpoint(root, 5, &[]);
    journal.snapshot("s", 5);
    let later = journal.chunk();
    journal.checkpoint(later, 9, &[data, root]);
    let back = |journal: &mut Journal, snapshot: &str| {
        let (volume, epoch) = (journal.volume.id, journal.epoch);
        let body = RollBack { volume, epoch, snapshot: snapshot.into(), sequence: 9, from_order: 0 };
        journal.world.command(1, Body::RollBack(body))
    };
    assert_eq!(back(&mut journal, "t").refusal, refusal::NO_VOLUME);
    let row = back(&mut journal, "s").volume.expect("rolled back");
    assert_eq!((row.root[0].chunk, row.sequence), (root, 9));
    assert_eq!(journal.forget("s"), refusal::NONE);
    journal.sweep(journal.volume.id);
    assert_eq!(journal.there(&[data, root, later]), [true, true, true], "the volume needs them again");
    assert_eq!(journal.checkpoint(data, 10, &[later, root]), refusal::NONE);
    assert_eq!(journal.there(&[data, root, later]), [true, false, false]);
}

#[test]
fn snapshots_without_an_owner_and_wishes_to_one() {
    let mut journal = Journal::new();
    let root = journal.chunk();
    journal.checkpoint(root, 5, &[]);
    let take = |journal: &mut Journal, snapshot: &str| {
        let body = TakeSnapshot { name: "v".into(), snapshot: snapshot.into(), epoch: 0, sequence: 0 };
        journal.world.command(1, Body::TakeSnapshot(body))
    };
    assert_eq!(take(&mut journal, "s").refusal, refusal::VOLUME_BUSY, "its owner knows more");
    let want = |journal: &mut Journal, snapshot: &str, withdraw| {
        let body = WantSnapshot { name: "v".into(), snapshot: snapshot.into(), withdraw };
        journal.world.command(1, Body::WantSnapshot(body)).volume.map(|row| row.wanted)
    };
    assert_eq!(want(&mut journal, "w", false), Some(vec!["w".into()]));
    want(&mut journal, "x", false);
    assert_eq!(want(&mut journal, "x", true), Some(vec!["w".into()]));
    assert_eq!(journal.snapshot("w", 7).volume.expect("taken").wanted, Vec::<String>::new());
    assert_eq!(want(&mut journal, "w", false), None, "it is there");
    journal.detach(7);
    assert_eq!(take(&mut journal, "s").refusal, refusal::VOLUME_BUSY, "records were left");
    journal.epoch = journal.world.attach("v", false).number;
    assert_eq!(journal.checkpoint(root, 7, &[]), refusal::NONE);
    journal.detach(7);
    assert!(take(&mut journal, "s").snapshot.expect("taken").ready);
    let rename = RenameVolume { name: "v".into(), to: "u".into() };
    assert_eq!(journal.world.command(1, Body::RenameVolume(rename)).refusal, refusal::NONE);
    assert_eq!(journal.world.attach("v", false).refusal, refusal::NO_VOLUME);
    assert_eq!(journal.world.attach("u", false).refusal, refusal::NONE);
    let again = AttachVolume { name: "u".into(), owner: "o".into(), take_over: true, only_epoch: 1 };
    assert_eq!(journal.world.command(1, Body::AttachVolume(again)).refusal, refusal::VOLUME_FENCED);
}

#[test]
fn key_of_a_volume_goes_with_it_and_stays_with_its_clones() {
    let mut world = World::new();
    let redundancy = RedundancyRow::from(Redundancy::Copies(2));
    let encryption = Some(Encryption { suite: 1, number: vec![1; 16], root: vec![2; 8], wrapped: vec![3; 92] });
    let body = CreateVolume { name: "v".into(), size: 1 << 30, redundancy, encryption: encryption.clone() };
    let made = world.command(1, Body::CreateVolume(body)).volume.expect("made");
    assert_eq!(made.encryption, encryption);
    let body = TakeSnapshot { name: "v".into(), snapshot: "s".into(), epoch: 0, sequence: 0 };
    assert_eq!(world.command(1, Body::TakeSnapshot(body)).refusal, refusal::NONE);
    let body = CloneVolume { from: "v".into(), snapshot: "s".into(), name: "c".into(), size: 0, redundancy: None };
    assert_eq!(world.command(1, Body::CloneVolume(body)).volume.expect("cloned").encryption, encryption);
    let gone = world.command(1, Body::DeleteVolume(DeleteVolume { name: "v".into() })).volume.expect("deleted");
    assert_eq!(gone.encryption, None);
    let body = RenameVolume { name: "c".into(), to: "d".into() };
    assert_eq!(world.command(1, Body::RenameVolume(body)).volume.expect("renamed").encryption, encryption);
}
