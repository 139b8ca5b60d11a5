//! A leader against stores that answer what the test wants.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use platform::planted::Planted;
use platform::sim::{SimOptions, Simulation};
use proto::chunk::{CensusPage, HeldShard, ScrubState, ShardName, ShardState};
use proto::meta::{
    Body, CheckDisk, Command, Conditions, CreateBucket, DiskReport, GrantChunks, Heartbeat, NewBody, PlannedChunk,
    PutObject, RegisterSession, difference,
};
use proto::rows::{ChunkRow, ClusterRow, DiskRow, ExtentRow, MetaRow, RedundancyRow, ShardRow};
use proto::service::{Answer, Done, Request, class, code};
use rpc::call::Reply;
use rpc::peers::Peers;
use types::ids::{ClusterId, StoreId};
use types::redundancy::Redundancy;

use super::keyring::Keyring;
use super::{MetaServer, ServerTimes};
use crate::consensus::replica::ReplicaConfig;
use crate::store::StateStore;
use crate::store::memory::MemoryStore;

/// What a store says.
#[derive(Default)]
struct Fake {
    held: Vec<HeldShard>,
    damaged: Vec<ShardName>,
    deleted: Vec<u64>,
}

type Fakes = Rc<RefCell<BTreeMap<u64, Fake>>>;

/// A leader, two disks (number = store), and one sealed chunk of 100 bytes in two copies.
struct World {
    server: MetaServer,
    fakes: Fakes,
    chunk: u64,
}

impl World {
    async fn new(simulation: &Simulation) -> World {
        let platform = simulation.node("m");
        let peers = Peers::new(platform.clone(), ClusterId(1), b"secret".to_vec());
        let fakes = Fakes::default();
        let stores = Rc::clone(&fakes);
        peers.register_local(
            "stores",
            Rc::new(move |call| {
                let reply = answer(&stores, call.store, call.body);
                Box::pin(async move { reply })
            }),
        );
        let config = ReplicaConfig {
            raft_id: 1,
            address: "m".into(),
            founders: [(1, "m".to_owned())].into(),
            contacts: BTreeMap::new(),
            replaces: 0,
            founding: true,
            planted: Planted::default(),
            state_damaged: None,
            store: StoreId(9),
            tick: Duration::from_millis(50),
            election_ticks: 10,
            segment_size: 1 << 20,
            flush_entries: 1000,
            keep_entries: 1000,
        };
        let disk = platform.open_disk(Path::new("/m")).expect("disk");
        let state = StateStore::Memory(MemoryStore::default());
        let server = MetaServer::start(
            platform.clone(),
            disk,
            state,
            peers,
            "m".into(),
            config,
            ServerTimes::default(),
            Keyring::default(),
        )
        .await
        .expect("start");
        while !server.replica().is_leader() {
            platform.clock().sleep(Duration::from_millis(10)).await;
        }
        let (alive, clock) = (server.clone(), platform.clock().clone());
        platform.tasks().spawn(async move {
            loop {
                let report =
                    |disk| DiskReport { disk, total_bytes: 1 << 40, available_bytes: 1 << 40, failed: false, level: 0 };
                let beat = Heartbeat { sessions: vec![1], disks: vec![report(1), report(2)] };
                alive.heartbeat(beat).await.expect("heartbeat");
                clock.sleep(Duration::from_secs(1)).await;
            }
        });
        let mut world = World { server, fakes, chunk: 0 };
        world.fill().await;
        world
    }

    async fn fill(&mut self) {
        let redundancy = RedundancyRow::from(Redundancy::Copies(2));
        let cluster = ClusterRow {
            cluster: 1,
            feature_level: 1,
            partitions: 1,
            redundancy,
            chunk_capacity: 1 << 20,
            cell_size: 4096,
        };
        self.server.propose_own(Body::InitCluster(cluster)).await.expect("init");
        for disk in 1..=2 {
            self.fakes.borrow_mut().insert(disk, Fake::default());
            let (node, domain) = (format!("n{disk}"), format!("n{disk}"));
            let row = DiskRow {
                store: disk,
                node,
                domain,
                address: "stores".into(),
                path: "/d".into(),
                ..DiskRow::default()
            };
            self.server.propose_own(Body::RegisterDisk(row)).await.expect("disk");
        }
        let session = RegisterSession { name: "t".into(), nonce: 5 };
        self.server.propose_own(Body::RegisterSession(session)).await.expect("session");
        let bucket = CreateBucket { name: "bucket".into(), owner: "u".into(), kind: 0 };
        let bucket = self.command(1, Body::CreateBucket(bucket)).await.number;
        let chunks = vec![PlannedChunk { disks: vec![1, 2] }];
        let grant = GrantChunks { session: 1, redundancy, cell_size: 4096, capacity: 1 << 20, chunks, becomes: None };
        self.chunk = self.command(2, Body::GrantChunks(grant)).await.chunks[0].chunk;
        for shard in self.row().shards {
            self.hold(shard.disk, shard.placement, self.chunk, 100);
        }
        let extents = vec![ExtentRow { logical: 0, chunk: self.chunk, offset: 0, len: 100 }];
        let put = PutObject {
            bucket,
            key: "k".into(),
            meta: MetaRow::default(),
            body: NewBody { extents, size: 100, ..NewBody::default() },
            conditions: Conditions::default(),
        };
        self.command(3, Body::PutObject(put)).await;
        self.server.seal_chunk(self.chunk, true).await.expect("seal");
    }

    async fn command(&self, sequence: u64, body: Body) -> proto::meta::Outcome {
        let command = Command { session: 1, sequence, body: Some(body), ..Command::default() };
        let outcome = self.server.propose(command).await.expect("command");
        assert_eq!(outcome.refusal, 0, "{}", outcome.text);
        outcome
    }

    fn hold(&self, disk: u64, placement: u64, chunk: u64, len: u64) {
        let name = ShardName { placement, chunk, index: 0 };
        let mut fakes = self.fakes.borrow_mut();
        let fake = fakes.entry(disk).or_default();
        fake.held.retain(|held| held.name.placement != placement);
        fake.held.push(HeldShard { name, len });
    }

    fn row(&self) -> ChunkRow {
        self.server.chunk(self.chunk).expect("state").expect("chunk")
    }

    fn shard_on(&self, disk: u64) -> ShardRow {
        *self.row().shards.iter().find(|shard| shard.disk == disk).expect("shard")
    }

    async fn wait(&self, seconds: u64) {
        self.server.0.platform.clock().sleep(Duration::from_secs(seconds)).await;
    }

    async fn differences(&self, disk: u64) -> Vec<(u64, u32)> {
        let checked = self.server.check_disk(CheckDisk { disk, after: 0 }).await.expect("check");
        checked.differences.iter().map(|found| (found.shard.placement, found.kind)).collect()
    }
}

fn answer(fakes: &Fakes, store: StoreId, request: Request) -> Reply {
    let mut fakes = fakes.borrow_mut();
    let Some(fake) = fakes.get_mut(&store.0) else {
        return Reply::failed(class::REFETCH, code::WRONG_TARGET, "no such store");
    };
    match request {
        Request::Census(ask) => {
            let inside = |held: &&HeldShard| held.name.chunk > ask.after && held.name.chunk <= ask.upto;
            Reply::of(Answer::CensusPage(CensusPage {
                shards: fake.held.iter().filter(inside).copied().collect(),
                upto: ask.upto,
                damaged: fake.damaged.clone(),
                scrub: ScrubState { cycle_s: 77, ..ScrubState::default() },
            }))
        }
        Request::Delete(delete) => {
            fake.held.retain(|held| !delete.placements.contains(&held.name.placement));
            fake.deleted.extend(delete.placements);
            Reply::of(Answer::Done(Done {}))
        }
        _ => Reply::of(Answer::Shard(ShardState { len: 100, epoch: 9, cut: false, sealed: true })),
    }
}

fn story<F: Future<Output = ()> + 'static>(make: impl FnOnce(World) -> F + 'static) {
    let simulation = Rc::new(Simulation::new(11, SimOptions::default()));
    let world = Rc::clone(&simulation);
    let run = async move { make(World::new(&world).await).await };
    simulation.run(run, Duration::from_secs(7200)).expect("story ends");
}

#[test]
fn whole_disks_have_no_differences_and_tell_of_their_scrub() {
    story(|world| async move {
        world.wait(120).await;
        assert!(world.row().shards.iter().all(|shard| !shard.bad));
        for disk in 1..=2 {
            assert_eq!(world.differences(disk).await, []);
            assert_eq!(world.server.scrub_of(disk).cycle_s, 77);
        }
    });
}

#[test]
fn shard_that_lost_acknowledged_bytes_is_marked_bad() {
    story(|world| async move {
        let shard = world.shard_on(1);
        world.hold(1, shard.placement, world.chunk, 99);
        assert_eq!(world.differences(1).await, [(shard.placement, difference::SHORT)]);
        world.wait(60).await;
        assert!(world.shard_on(1).bad && !world.shard_on(2).bad);
        assert_eq!(world.differences(1).await, [(shard.placement, difference::SHORT)], "told until it is replaced");
        // One that is not there at all.
        world.fakes.borrow_mut().get_mut(&2).expect("disk").held.clear();
        world.wait(60).await;
        assert!(world.shard_on(2).bad);
    });
}

#[test]
fn damage_that_a_disk_tells_of_is_marked_at_once() {
    story(|world| async move {
        let shard = world.shard_on(2);
        let name = ShardName { placement: shard.placement, chunk: world.chunk, index: shard.index };
        world.fakes.borrow_mut().get_mut(&2).expect("disk").damaged.push(name);
        world.wait(3).await;
        assert!(world.shard_on(2).bad && !world.shard_on(1).bad);
    });
}

#[test]
fn unknown_shard_is_quarantined_then_deleted_and_an_alien_one_never() {
    story(|world| async move {
        // One that was given out, but for the other disk; here nobody names it.
        let given_out = world.shard_on(1).placement.min(world.shard_on(2).placement);
        let disk = if world.shard_on(1).placement == given_out { 2 } else { 1 };
        world.hold(disk, given_out, world.chunk, 5);
        world.hold(disk, 1_000_000, world.chunk, 5);
        let mut found = world.differences(disk).await;
        found.sort_unstable();
        assert_eq!(found, [(given_out, difference::UNKNOWN), (1_000_000, difference::ALIEN)]);
        world.wait(300).await;
        assert_eq!(world.server.unknown_on(disk), 2);
        assert!(world.fakes.borrow()[&disk].deleted.is_empty(), "left alone for now");
        world.wait(600).await;
        assert_eq!(world.fakes.borrow()[&disk].deleted, [given_out]);
        assert_eq!(world.server.unknown_on(disk), 1);
        assert!(world.row().shards.iter().all(|shard| !shard.bad));
    });
}

mod drain;
mod level;
mod table;
mod trash;
