//! A disk is drained: what the leader plans, leases and says.

use proto::members::{AskSafety, DrainDisks, RemoveDisk, why};
use proto::meta::{Body, Command, DiskReport, FinishMove, GrantChunks, Heartbeat, LeaseJobRequest, PlannedChunk};
use proto::rows::DiskRow;
use proto::service::{class, code};

use super::super::heartbeat::Liveness;
use super::{Fake, World, story};

impl World {
    /// A disk that is not heard of, of a node that is named like it.
    async fn silent_disk(&self, number: u64) {
        self.fakes.borrow_mut().insert(number, Fake::default());
        let row = DiskRow {
            store: number,
            node: format!("n{number}"),
            domain: format!("n{number}"),
            address: "stores".into(),
            path: "/d".into(),
            ..DiskRow::default()
        };
        self.server.propose_own(Body::RegisterDisk(row)).await.expect("disk");
    }

    async fn third_disk(&self) {
        self.heard_disk(3).await;
        self.wait(1).await;
    }

    /// A disk that is heard of every second.
    async fn heard_disk(&self, disk: u64) {
        self.silent_disk(disk).await;
        let (alive, clock) = (self.server.clone(), self.server.0.platform.clock().clone());
        self.server.0.platform.tasks().spawn(async move {
            loop {
                let report =
                    DiskReport { disk, total_bytes: 1 << 40, available_bytes: 1 << 40, failed: false, level: 0 };
                alive.heartbeat(Heartbeat { sessions: vec![], disks: vec![report] }).await.expect("heartbeat");
                clock.sleep(std::time::Duration::from_secs(1)).await;
            }
        });
    }

    pub(super) async fn asked(&self, sequence: u64, body: Body) -> Result<u32, u32> {
        let command = Command { session: 1, sequence, body: Some(body), ..Command::default() };
        let outcome = self.server.propose_for(command).await;
        outcome.map(|outcome| outcome.refusal).map_err(|trouble| trouble.failure().code)
    }

    async fn lease(&self, done: Option<FinishMove>) -> proto::meta::Job {
        self.lease_by("e", done).await
    }

    async fn lease_by(&self, executor: &str, done: Option<FinishMove>) -> proto::meta::Job {
        let ask = LeaseJobRequest { executor: executor.into(), done, compacted: 0 };
        self.server.lease_job(ask).await.expect("lease")
    }

    /// Waits until an executor is given a move; answers its id, and after how many seconds that was.
    async fn lease_soon(&self, executor: &str) -> (u64, u64) {
        for seconds in 0..60 {
            if let Some(entry) = self.lease_by(executor, None).await.chunk {
                return (entry.row.pending_move.expect("a move").id, seconds);
            }
            self.wait(1).await;
        }
        panic!("no move was leased");
    }
}

#[test]
fn move_of_an_executor_that_died_is_soon_carried_out_by_another() {
    story(|world| async move {
        world.third_disk().await;
        let drain = Body::DrainDisks(DrainDisks { disks: vec![1], draining: true });
        assert_eq!(world.asked(4, drain).await, Ok(0));
        let (first, _) = world.lease_soon("n2").await;
        assert_eq!(world.lease_by("n3", None).await.chunk, None, "it is under way");
        // n2 was started again, or did not get the answer; what has failed once rests for some seconds.
        let (second, seconds) = world.lease_soon("n2").await;
        assert!(second > first && seconds <= 6, "after {seconds} s");
        let late = FinishMove { chunk: world.chunk, id: first, commit: true };
        assert_eq!(world.lease_by("n3", Some(late)).await.chunk, None);
        assert!(world.row().pending_move.is_some_and(|pending| pending.id == second), "a late report changes nothing");

        let again = FinishMove { chunk: world.chunk, id: second, commit: false };
        assert_eq!(world.lease_by("n2", Some(again)).await.chunk, None);
        world.silent_disk(4).await;
        let (third, _) = world.lease_soon("n4").await;
        let (fourth, seconds) = world.lease_soon("n3").await;
        assert!(fourth > third && seconds < 60, "after {seconds} s");
    });
}

#[test]
fn plan_tells_the_same_homes_while_a_move_is_being_begun() {
    story(|world| async move {
        for disk in 3..12 {
            world.heard_disk(disk).await;
        }
        world.wait(1).await;
        let drain = Body::DrainDisks(DrainDisks { disks: vec![1], draining: true });
        assert_eq!(world.asked(4, drain).await, Ok(0));
        let told = || {
            let plan = world.server.plan().expect("plan");
            plan.moves.into_iter().find(|one| one.chunk == world.chunk).map(|one| one.targets)
        };
        let homes = told();
        assert!(homes.is_some());
        for _ in 0..60 {
            let asks = world.server.clone();
            world.server.0.platform.tasks().spawn(async move {
                let ask = LeaseJobRequest { executor: "n2".into(), done: None, compacted: 0 };
                asks.lease_job(ask).await.expect("lease");
            });
            for _ in 0..20_000 {
                assert_eq!(told(), homes);
                world.server.0.platform.clock().sleep(std::time::Duration::from_micros(50)).await;
            }
            if let Some(pending) = world.row().pending_move {
                assert_eq!(
                    Some(pending.shards.iter().map(|shard| shard.disk).collect()),
                    homes,
                    "that is what is done"
                );
                return;
            }
        }
        panic!("no move was leased");
    });
}

#[test]
fn seal_that_leaves_nothing_to_spare_waits_for_the_other_shards_a_while() {
    story(|world| async move {
        let redundancy = world.row().redundancy;
        let mut open = Vec::new();
        for sequence in [4, 5] {
            let chunks = vec![PlannedChunk { disks: vec![1, 2] }];
            let grant =
                GrantChunks { session: 1, redundancy, cell_size: 4096, capacity: 1 << 20, chunks, becomes: None };
            open.push(world.command(sequence, Body::GrantChunks(grant)).await.chunks[0].chunk);
        }
        let shards = |entry: proto::meta::ChunkEntry| entry.row.shards.len();
        let gone = world.fakes.borrow_mut().remove(&2).expect("disk");
        for chunk in &open {
            let refused = world.server.seal_chunk(*chunk, false).await.map(shards);
            assert_eq!(refused.map_err(|trouble| trouble.failure().class), Err(class::RETRY));
        }
        world.fakes.borrow_mut().insert(2, gone);
        assert_eq!(world.server.seal_chunk(open[0], false).await.map(shards).ok(), Some(2), "it is back");
        let _gone = world.fakes.borrow_mut().remove(&2);
        world.wait(13).await;
        assert_eq!(world.server.seal_chunk(open[1], false).await.map(shards).ok(), Some(1), "long enough");
    });
}

#[test]
fn new_leader_does_not_say_which_disks_are_enough_before_it_has_heard_them() {
    story(|world| async move {
        world.third_disk().await;
        world.wait(10).await;
        let drain = || Body::DrainDisks(DrainDisks { disks: vec![1], draining: true });
        *world.server.0.liveness.borrow_mut() = Liveness::default();
        assert_eq!(world.asked(4, drain()).await, Err(code::OTHER), "ask again");
        let safety = || AskSafety { disks: vec![1], nodes: Vec::new() };
        let told = world.server.safety(safety()).await.map_err(|trouble| trouble.failure().class);
        assert_eq!(told.map(|_| ()), Err(class::RETRY));
        world.wait(2).await;
        assert_eq!(world.asked(5, drain()).await, Ok(0));
        // Who is still silent after a while is not waited for.
        world.silent_disk(4).await;
        *world.server.0.liveness.borrow_mut() = Liveness::default();
        world.wait(4).await;
        let drain = Body::DrainDisks(DrainDisks { disks: vec![1, 4], draining: false });
        assert_eq!(world.asked(6, drain).await, Ok(0));
    });
}

#[test]
fn drained_disk_is_emptied_as_it_was_planned_and_then_removed() {
    story(|world| async move {
        world.third_disk().await;
        let drain = |disks: &[u64]| Body::DrainDisks(DrainDisks { disks: disks.to_vec(), draining: true });
        assert_eq!(world.asked(4, drain(&[1, 2])).await, Err(code::CONFLICT), "two copies need two domains");
        assert_eq!(world.server.plan().expect("plan").moves, []);
        assert_eq!(world.asked(5, drain(&[1])).await, Ok(0));
        let plan = world.server.plan().expect("plan");
        let planned = &plan.moves[0];
        assert_eq!((plan.moves.len(), planned.why, planned.chunk), (1, why::DRAIN, world.chunk));
        assert_eq!((&planned.sources[..], &planned.targets[..]), (&[1][..], &[3][..]));

        let job = world.lease(None).await.chunk.expect("a job");
        let pending = job.row.pending_move.expect("a move");
        assert_eq!(pending.shards.iter().map(|shard| shard.disk).collect::<Vec<u64>>(), planned.targets);
        world.hold(3, pending.shards[0].placement, world.chunk, 100);
        assert!(world.server.plan().expect("plan").moves[0].under_way);
        assert_ne!(world.asked(6, Body::RemoveDisk(RemoveDisk { disk: 1, lost: false })).await, Ok(0));
        let done = FinishMove { chunk: world.chunk, id: pending.id, commit: true };
        assert_eq!(world.lease(Some(done)).await.chunk, None);
        assert_eq!(world.server.plan().expect("plan").moves, []);

        let safety = |disks: Vec<u64>| world.server.safety(AskSafety { disks, nodes: Vec::new() });
        assert!(safety(vec![1]).await.expect("answer").safe);
        assert!(safety(vec![2]).await.expect("answer").safe, "the other copy is left");
        assert!(!safety(vec![2, 3]).await.expect("answer").safe);
        assert_eq!(safety(vec![9]).await.expect("answer").unknown, "disk 9");
        assert_eq!(world.asked(7, Body::RemoveDisk(RemoveDisk { disk: 1, lost: false })).await, Ok(0));
        let report = DiskReport { disk: 1, total_bytes: 1, available_bytes: 1, failed: false, level: 0 };
        let ack = world.server.heartbeat(Heartbeat { sessions: vec![], disks: vec![report] }).await.expect("heartbeat");
        assert_eq!(ack.removed, [1], "its process gives it up");
        assert!(world.row().shards.iter().all(|shard| shard.disk != 1 && !shard.bad));
    });
}
