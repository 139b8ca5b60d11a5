//! A disk is drained: what the leader plans, leases and says.

use proto::members::{AskSafety, DrainDisks, RemoveDisk, why};
use proto::meta::{Body, Command, DiskReport, FinishMove, Heartbeat, LeaseJobRequest};
use proto::rows::DiskRow;
use proto::service::code;

use super::{Fake, World, story};

impl World {
    async fn third_disk(&self) {
        self.fakes.borrow_mut().insert(3, Fake::default());
        let row = DiskRow {
            store: 3,
            node: "n3".into(),
            domain: "n3".into(),
            address: "stores".into(),
            path: "/d".into(),
            ..DiskRow::default()
        };
        self.server.propose_own(Body::RegisterDisk(row)).await.expect("disk");
        let (alive, clock) = (self.server.clone(), self.server.0.platform.clock().clone());
        self.server.0.platform.tasks().spawn(async move {
            loop {
                let report =
                    DiskReport { disk: 3, total_bytes: 1 << 40, available_bytes: 1 << 40, failed: false, level: 0 };
                alive.heartbeat(Heartbeat { sessions: vec![], disks: vec![report] }).await.expect("heartbeat");
                clock.sleep(std::time::Duration::from_secs(1)).await;
            }
        });
        self.wait(1).await;
    }

    pub(super) async fn asked(&self, sequence: u64, body: Body) -> Result<u32, u32> {
        let command = Command { session: 1, sequence, body: Some(body), ..Command::default() };
        let outcome = self.server.propose_for(command).await;
        outcome.map(|outcome| outcome.refusal).map_err(|trouble| trouble.failure().code)
    }

    async fn lease(&self, done: Option<FinishMove>) -> proto::meta::Job {
        let ask = LeaseJobRequest { executor: "e".into(), done, compacted: 0 };
        self.server.lease_job(ask).await.expect("lease")
    }
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
