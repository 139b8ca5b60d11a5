//! One damage at a time, told as a story.

use std::rc::Rc;
use std::time::Duration;

use client::object::api::WriteConditions;
use platform::fault::DiskFault;
use platform::sim::{DiskImage, SimOptions, Simulation};

use simulator::cluster::{Cluster, Node};
use simulator::faults::metadata::PLACES;
use simulator::history::Ask;
use simulator::nodes::client::Layers;
use simulator::nodes::meta::{BALLOT, DIR};
use simulator::shape::{CHUNKS, METAS, Rates, Shape};
use simulator::workload::{Actor, bucket_name};
use simulator::{seed, settle};

/// A founded cluster in which nothing happens by chance, and somebody who uses it.
struct Scene {
    cluster: Rc<Cluster>,
    actor: Actor,
}

fn happens<F: Future<Output = ()> + 'static>(seed: u64, story: impl FnOnce(Rc<Scene>) -> F + 'static) -> Rc<Cluster> {
    happens_with(seed, 20, story)
}

/// `flush_entries`: entries after which the state is flushed; with many, a restart replays them all.
fn happens_with<F: Future<Output = ()> + 'static>(
    seed: u64,
    flush_entries: u64,
    story: impl FnOnce(Rc<Scene>) -> F + 'static,
) -> Rc<Cluster> {
    let mut shape = Shape::draw(seed, &[], None, 0);
    shape.rates = Rates::default();
    shape.machine = SimOptions::default();
    (shape.segment_size, shape.flush_entries, shape.keep_entries) = (16 << 10, flush_entries, 2);
    let simulation = Simulation::new(seed, shape.machine.clone());
    simulation.set_faults(false);
    let cluster = Rc::new(Cluster::new(shape, simulation.clone()));
    let inside = cluster.clone();
    let run = async move {
        for node in (0..METAS).map(Node::Meta).chain((0..CHUNKS).map(Node::Chunk)) {
            inside.boot(node);
        }
        let Layers { objects, .. } = seed::found(&inside).await.expect("founded");
        let platform = inside.simulation.platform();
        let actor = Actor { cluster: inside.clone(), platform, objects, worker: 0 };
        story(Rc::new(Scene { cluster: inside, actor })).await;
    };
    simulation.run(run, Duration::from_secs(600)).expect("the story ends");
    assert!(cluster.violations().is_empty(), "seed {seed}: {:?}", cluster.violations());
    cluster.close();
    cluster
}

impl Scene {
    async fn wait(&self, seconds: u64) {
        self.actor.platform.clock().sleep(Duration::from_secs(seconds)).await;
    }

    /// Puts an object under each of the keys.
    async fn put(&self, keys: std::ops::Range<u32>) {
        let bucket = self.actor.objects.bucket(&bucket_name()).await.expect("bucket");
        for key in keys {
            self.actor.put(&bucket, key, WriteConditions::default(), |value| Ask::Put { value }).await.expect("put");
        }
    }

    /// Every object put before is there.
    async fn check(&self, keys: std::ops::Range<u32>) {
        let bucket = self.actor.objects.bucket(&bucket_name()).await.expect("bucket");
        for key in keys {
            assert!(self.actor.get(&bucket, key).await.expect("get").is_some(), "key {key} is gone");
        }
    }

    fn leader(&self) -> Option<usize> {
        let metas = self.cluster.metas();
        metas.iter().position(|meta| meta.as_ref().is_some_and(|meta| meta.replica().is_leader()))
    }

    /// The leader and two others.
    fn roles(&self) -> [usize; 3] {
        let leader = self.leader().expect("somebody leads");
        [leader, (leader + 1) % 3, (leader + 2) % 3]
    }

    fn name(index: usize) -> String {
        Node::Meta(index).name()
    }

    /// Everybody votes and holds the same.
    async fn becomes_whole(&self) {
        let clock = self.actor.platform.clock();
        settle::all_vote(&self.cluster, clock).await;
        settle::agree(&self.cluster, clock).await;
    }

    /// Flips a bit in the header at the start of the given block of the log, counted from its end if negative.
    fn rot(&self, index: usize, block: i64) {
        let files = self.cluster.simulation.disk_files(&Self::name(index), DIR);
        let blocks: Vec<(String, u64)> = files
            .into_iter()
            .filter(|(file, _)| file.starts_with("log-"))
            .flat_map(|(file, len)| (0..len / 4096).map(move |block| (file.clone(), block)))
            .collect();
        let at = if block < 0 { blocks.len() as i64 + block } else { block };
        let (file, block) = blocks[at as usize].clone();
        let rot = DiskFault::RotBit { file, offset: block * 4096 + 60, bit: 3 };
        self.cluster.simulation.disk_fault(&Self::name(index), DIR, rot);
    }

    fn reached(&self, what: &str) -> u64 {
        self.cluster.simulation.reached().get(what).copied().unwrap_or(0)
    }
}

#[test]
fn replica_whose_log_rotted_is_filled_by_the_others_and_votes_again() {
    happens(1, |scene| async move {
        scene.put(0..12).await;
        let [leader, one, _] = scene.roles();
        for victim in [one, leader] {
            let before = scene.cluster.metas()[victim].as_ref().map(|meta| meta.replica().raft_id());
            scene.cluster.crash(Node::Meta(victim));
            scene.rot(victim, 1);
            scene.cluster.boot(Node::Meta(victim));
            scene.becomes_whole().await;
            let after = scene.cluster.metas()[victim].as_ref().map(|meta| meta.replica().raft_id());
            assert_ne!(before, after, "a life that forgot its votes must not go on");
            scene.put(12..14).await;
        }
        scene.check(0..14).await;
        scene.wait(2).await;
        assert_eq!(scene.reached("joined replica votes"), 2);
    });
}

#[test]
fn emptied_replica_does_not_vote_before_it_is_let_in() {
    happens(2, |scene| async move {
        scene.put(0..5).await;
        let [leader, one, two] = scene.roles();
        scene.cluster.crash(Node::Meta(leader));
        scene.cluster.crash(Node::Meta(one));
        scene.cluster.simulation.wipe_disk(&Scene::name(one), DIR);
        scene.cluster.state(one).wipe();
        scene.cluster.boot(Node::Meta(one));
        scene.wait(20).await;
        assert_eq!(scene.leader(), None, "{two} alone is no majority, and an emptied replica has no say");
        scene.cluster.boot(Node::Meta(leader));
        scene.becomes_whole().await;
        scene.check(0..5).await;
    });
}

#[test]
fn replica_whose_state_or_ballot_is_damaged_is_filled_by_the_others() {
    happens(3, |scene| async move {
        scene.put(0..5).await;
        let [_, one, two] = scene.roles();
        scene.cluster.crash(Node::Meta(one));
        scene.cluster.state(one).rot();
        scene.cluster.boot(Node::Meta(one));
        scene.becomes_whole().await;
        scene.cluster.crash(Node::Meta(two));
        let rot = DiskFault::RotBit { file: BALLOT.into(), offset: 10, bit: 0 };
        scene.cluster.simulation.disk_fault(&Scene::name(two), DIR, rot);
        scene.cluster.boot(Node::Meta(two));
        scene.becomes_whole().await;
        scene.check(0..5).await;
        scene.wait(2).await;
        assert_eq!(scene.reached("joined replica votes"), 2);
    });
}

#[test]
fn voter_that_lost_acknowledged_entries_votes_only_after_it_has_heard_everybody() {
    happens(4, |scene| async move {
        scene.put(0..3).await;
        let [leader, victim, late] = scene.roles();
        scene.cluster.crash(Node::Meta(late));
        // Acknowledged by the leader and the victim alone.
        scene.put(3..6).await;
        scene.cluster.crash(Node::Meta(leader));
        scene.cluster.crash(Node::Meta(victim));
        scene.rot(victim, -1);
        scene.rot(victim, -2);
        scene.cluster.boot(Node::Meta(victim));
        scene.cluster.boot(Node::Meta(late));
        scene.wait(20).await;
        assert_eq!(scene.leader(), None, "the two do not know of everything that was acknowledged");
        assert!(scene.cluster.metas()[victim].as_ref().is_some_and(|meta| meta.replica().is_in_doubt()));
        scene.cluster.boot(Node::Meta(leader));
        scene.becomes_whole().await;
        scene.check(0..6).await;
    });
}

#[test]
fn older_copy_of_the_log_is_told_by_the_ballot() {
    happens(5, |scene| async move {
        scene.put(0..3).await;
        let [leader, victim, late] = scene.roles();
        let image = scene.cluster.simulation.disk_image(&Scene::name(victim), DIR);
        scene.cluster.crash(Node::Meta(late));
        scene.put(3..6).await;
        scene.wait(12).await;
        scene.cluster.crash(Node::Meta(leader));
        scene.cluster.crash(Node::Meta(victim));
        let simulation = &scene.cluster.simulation;
        simulation.restore_files(&Scene::name(victim), DIR, &image, |file| file.starts_with("log-"));
        scene.cluster.boot(Node::Meta(victim));
        scene.cluster.boot(Node::Meta(late));
        scene.wait(20).await;
        assert_eq!(scene.leader(), None, "an older log must not count as the whole one");
        scene.cluster.boot(Node::Meta(leader));
        scene.becomes_whole().await;
        scene.check(0..6).await;
    });
}

#[test]
fn leader_does_not_count_on_what_a_follower_has_lost_without_a_trace() {
    happens(6, |scene| async move {
        scene.put(0..3).await;
        let [_, victim, _] = scene.roles();
        scene.wait(6).await;
        let image = scene.cluster.simulation.disk_image(&Scene::name(victim), DIR);
        scene.put(3..5).await;
        scene.cluster.crash(Node::Meta(victim));
        let simulation = &scene.cluster.simulation;
        // Log and ballot: nothing in the directory tells.
        simulation.restore_files(&Scene::name(victim), DIR, &image, |_| true);
        scene.cluster.boot(Node::Meta(victim));
        scene.put(5..8).await;
        scene.becomes_whole().await;
        scene.check(0..8).await;
    });
}

#[test]
fn failed_flush_stops_the_replica_and_the_others_go_on() {
    happens(7, |scene| async move {
        scene.put(0..3).await;
        let [leader, _, _] = scene.roles();
        scene.cluster.excuse(leader);
        scene.cluster.simulation.disk_fault(&Scene::name(leader), DIR, DiskFault::FlushFails);
        scene.put(3..6).await;
        assert!(scene.cluster.metas()[leader].as_ref().is_some_and(|meta| meta.replica().stopped().is_some()));
        scene.cluster.crash(Node::Meta(leader));
        scene.cluster.simulation.disk_fault(&Scene::name(leader), DIR, DiskFault::Healthy);
        scene.cluster.boot(Node::Meta(leader));
        scene.becomes_whole().await;
        scene.check(0..6).await;
    });
}

#[test]
fn power_cut_anywhere_in_snapshot_and_trim_leaves_a_replica_that_goes_on() {
    for (seed, place) in (10..).zip(PLACES) {
        happens(seed, move |scene| async move {
            scene.put(0..3).await;
            let [_, victim, _] = scene.roles();
            scene.cluster.crash(Node::Meta(victim));
            // So much that the others no longer have the entries that the victim lacks.
            scene.put(3..40).await;
            scene.wait(3).await;
            if place == "replica in doubt has heard the others" {
                scene.rot(victim, -1);
            }
            scene.cluster.boot(Node::Meta(victim));
            let cluster = scene.cluster.clone();
            let name = Scene::name(victim);
            let trap = async { cluster.simulation.trap(&name, place).await };
            let writes = async {
                for key in 40..80 {
                    scene.put(key..key + 1).await;
                    scene.actor.platform.clock().sleep(Duration::from_millis(200)).await;
                }
            };
            let mut writes = std::pin::pin!(writes);
            let sprung = {
                let trap = std::pin::pin!(trap);
                matches!(
                    futures_util::future::select(trap, writes.as_mut()).await,
                    futures_util::future::Either::Left(_)
                )
            };
            assert!(sprung, "{place} was never reached");
            scene.cluster.crash(Node::Meta(victim));
            scene.cluster.boot(Node::Meta(victim));
            writes.await;
            scene.becomes_whole().await;
            scene.check(0..80).await;
        });
    }
}

#[test]
fn replica_in_doubt_hears_those_that_took_the_others_places() {
    happens_with(8, 10_000, |scene| async move {
        scene.put(0..3).await;
        let [leader, one, victim] = scene.roles();
        // Two new lives while the victim looks on: who voted at its last flush is no more.
        for damaged in [one, leader] {
            scene.cluster.crash(Node::Meta(damaged));
            scene.rot(damaged, 1);
            scene.cluster.boot(Node::Meta(damaged));
            scene.becomes_whole().await;
            scene.put(3..6).await;
        }
        scene.cluster.crash(Node::Meta(victim));
        let no_files = DiskImage::default();
        scene.cluster.simulation.restore_files(&Scene::name(victim), DIR, &no_files, |file| file == BALLOT);
        scene.cluster.boot(Node::Meta(victim));
        scene.becomes_whole().await;
        scene.check(0..6).await;
        assert!(scene.reached("replica in doubt has heard the others") > 0);
    });
}
