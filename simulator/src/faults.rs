//! Faults, each kind by its own rate. They damage only what the promises cover.
//!
//! Crashes, partitions, pauses and passing errors come at any time and together. Losing a disk for
//! good is different: the promise is "up to `parity` shards of a chunk", and a chunk that is sealed
//! while a node is away goes on with fewer shards. So a disk is lost only at a calm moment, when the
//! metadata says that every chunk can spare it.

mod drains;
mod leaders;
pub mod metadata;
mod operators;
mod rot;
mod volumes;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use client::meta::MetaClient;
use futures_util::future::{Either, select};
use metaserver::server::MetaServer;
use platform::sim::Simulation;
use proto::rows::chunk_state;

use self::metadata::Copied;
use crate::cluster::{Cluster, Node};
use crate::inspect;
use crate::nodes::chunk;
use crate::shape::{CHUNKS, METAS};

/// How long it is calm before a disk is lost, and after.
const CALM: Duration = Duration::from_secs(5);

/// The faults of one seed.
pub struct Faults {
    cluster: Rc<Cluster>,
    /// The driver's way to the metaserver.
    meta: MetaClient,
    on: Cell<bool>,
    calm: Cell<bool>,
    /// Chunk disks whose flushes fail until they are replaced.
    spoilt: RefCell<BTreeSet<usize>>,
    /// Disks lost so far, for good.
    lost: Cell<usize>,
    /// The metaserver whose directory was damaged, until it is whole again: there is only one at a time.
    damaged: Cell<Option<usize>>,
    /// Older contents of the metaservers' directories.
    copies: RefCell<Vec<Option<Copied>>>,
}

/// What a disk can have for a while.
#[derive(Clone, Copy, Debug)]
enum Passing {
    Slow,
    ReadFails,
    WriteFails,
}

impl Faults {
    /// Starts injecting.
    pub fn start(cluster: Rc<Cluster>, meta: MetaClient) -> Rc<Faults> {
        let rates = cluster.shape.rates.clone();
        let faults = Rc::new(Faults {
            cluster,
            meta,
            on: Cell::new(true),
            calm: Cell::new(false),
            spoilt: RefCell::default(),
            lost: Cell::new(0),
            damaged: Cell::new(None),
            copies: RefCell::new((0..METAS).map(|_| None).collect()),
        });
        faults.every(rates.crash_chunk, |this| this.crash(Node::Chunk(this.below(CHUNKS))));
        faults.every(rates.crash_meta, |this| this.crash(Node::Meta(this.below(METAS))));
        faults.every(rates.crash_client, |this| this.crash(Node::Client(this.below(this.cluster.shape.work.clients))));
        faults.every(rates.kill, Faults::kill);
        faults.every(rates.power_cut, Faults::power_cut);
        faults.every(rates.partition, |this| this.partition(true));
        faults.every(rates.one_way, |this| this.partition(false));
        faults.every(rates.pause, Faults::pause);
        faults.every(rates.slow_disk, |this| this.passing(Passing::Slow));
        faults.every(rates.read_fails, |this| this.passing(Passing::ReadFails));
        faults.every(rates.write_fails, |this| this.passing(Passing::WriteFails));
        faults.every(rates.clock_jump, Faults::clock_jump);
        faults.every(rates.seal, |this| drop(this.seal()));
        faults.every(rates.dark, Faults::dark);
        faults.every(rates.split, Faults::split);
        faults.every(rates.stall, Faults::stall);
        faults.every(rates.drain, Faults::drain);
        faults.every(rates.finalize, Faults::finalize);
        faults.every(rates.owner, Faults::catch_owner);
        faults.every(rates.split_owner, Faults::split_owner);
        faults.every(rates.redundancy, Faults::change_redundancy);
        faults.start_metadata();
        faults.one_after_the_other(rates.rot_open, async |this| this.rot_open().await);
        faults.one_after_the_other(rates.lose_disk, async |this| this.lose_disk().await);
        faults
    }

    /// Ends all faults and brings everything back, empty disks in place of lost ones.
    pub fn end(&self) {
        self.on.set(false);
        self.quiet();
        for index in std::mem::take(&mut *self.spoilt.borrow_mut()) {
            self.replace(index);
        }
    }

    fn simulation(&self) -> &Simulation {
        &self.cluster.simulation
    }

    fn below(&self, n: usize) -> usize {
        self.cluster.draw.below(n as u64) as usize
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.simulation().platform().tasks().spawn(task).detach();
    }

    async fn wait(&self, duration: Duration) {
        self.simulation().platform().clock().sleep(duration).await;
    }

    fn every(self: &Rc<Faults>, mean: Option<Duration>, inject: impl Fn(&Rc<Faults>) + 'static) {
        let Some(mean) = mean else { return };
        let this = self.clone();
        self.spawn(async move {
            loop {
                this.wait(this.cluster.draw.wait(mean)).await;
                if !this.on.get() {
                    return;
                }
                if !this.calm.get() {
                    inject(&this);
                }
            }
        });
    }

    /// Like `every`, for what takes its time: the next one is drawn when the one before has ended.
    fn one_after_the_other(self: &Rc<Faults>, mean: Option<Duration>, inject: impl AsyncFn(&Rc<Faults>) + 'static) {
        let Some(mean) = mean else { return };
        let this = self.clone();
        self.spawn(async move {
            while this.on.get() {
                this.wait(this.cluster.draw.wait(mean)).await;
                inject(&this).await;
            }
        });
    }

    /// Runs `then` after a drawn time, if faults still happen.
    fn later(self: &Rc<Faults>, after: Duration, then: impl FnOnce(&Rc<Faults>) + 'static) {
        let this = self.clone();
        self.spawn(async move {
            this.wait(after).await;
            if this.on.get() {
                then(&this);
            }
        });
    }

    fn back_later(self: &Rc<Faults>, node: Node, after: Duration) {
        self.later(after, move |this| {
            if !this.cluster.is_up(node) {
                this.cluster.boot(node);
            }
        });
    }

    fn crash(self: &Rc<Faults>, node: Node) {
        self.cluster.fault("power cut", &format!("power cut of {}", node.name()));
        self.cluster.crash(node);
        self.back_later(node, self.cluster.draw.millis(10, *self.cluster.draw.pick(&[300, 3000, 10_000])));
    }

    fn kill(self: &Rc<Faults>) {
        let nodes = self.cluster.nodes();
        let node = *self.cluster.draw.pick(&nodes);
        self.cluster.fault("kill -9", &format!("kill -9 of {}", node.name()));
        self.cluster.kill(node);
        self.back_later(node, self.cluster.draw.millis(1, 2000));
    }

    fn power_cut(self: &Rc<Faults>) {
        self.cluster.fault("power cut of everything", "power cut of everything");
        for node in self.cluster.nodes() {
            self.cluster.crash(node);
            self.back_later(node, self.cluster.draw.millis(1, 3000));
        }
    }

    fn partition(self: &Rc<Faults>, both_ways: bool) {
        let mut nodes = self.cluster.nodes();
        let cut_off = self.cluster.draw.between(1, 4) as usize;
        let mut others = nodes.split_off(0);
        for _ in 0..cut_off {
            nodes.push(others.swap_remove(self.below(others.len())));
        }
        let names: Vec<String> = nodes.iter().map(|node| node.name()).collect();
        let kind = if both_ways { "partition" } else { "one-way partition" };
        self.cluster.fault(kind, &format!("{} cut off, both ways: {both_ways}", names.join(" ")));
        let inward = self.cluster.draw.chance(0.5);
        for one in &nodes {
            for other in &others {
                let (from, to) = if inward { (other, one) } else { (one, other) };
                self.simulation().partition(&from.name(), &to.name(), both_ways);
            }
        }
        self.later(self.cluster.draw.millis(200, 10_000), |this| this.simulation().heal_all());
    }

    fn pause(self: &Rc<Faults>) {
        let nodes = self.cluster.nodes();
        let name = self.cluster.draw.pick(&nodes).name();
        self.cluster.fault("pause", &format!("{name} is stopped"));
        self.simulation().pause(&name);
        let after = self.cluster.draw.millis(100, *self.cluster.draw.pick(&[2000, 15_000]));
        self.later(after, move |this| this.simulation().resume(&name));
    }

    fn passing(self: &Rc<Faults>, what: Passing) {
        use platform::fault::DiskFault;
        let (node, index, dir) = if matches!(what, Passing::Slow) && self.cluster.draw.chance(0.3) {
            (Node::Meta(self.below(METAS)), None, crate::nodes::meta::DIR)
        } else {
            let index = self.below(CHUNKS);
            (Node::Chunk(index), Some(index), chunk::DIR)
        };
        let fault = match what {
            Passing::Slow => DiskFault::SlowBy(self.cluster.draw.between(5, 200) as u32),
            Passing::ReadFails => DiskFault::ReadFails,
            Passing::WriteFails => DiskFault::WriteFails,
        };
        self.cluster.fault("disk is passing bad", &format!("disk of {}: {what:?}", node.name()));
        self.simulation().disk_fault(&node.name(), dir, fault);
        self.later(self.cluster.draw.millis(100, 6000), move |this| this.cure(node, index, dir));
    }

    /// Ends the passing faults of a disk.
    fn cure(&self, node: Node, index: Option<usize>, dir: &str) {
        use platform::fault::DiskFault;
        self.simulation().disk_fault(&node.name(), dir, DiskFault::Healthy);
        if index.is_some_and(|index| self.spoilt.borrow().contains(&index)) {
            self.simulation().disk_fault(&node.name(), dir, DiskFault::FlushFails);
        }
    }

    /// Asks the leader to seal some open chunk behind its writer's back. Answers who leads.
    fn seal(self: &Rc<Faults>) -> Option<String> {
        let leader = self.cluster.leader()?;
        let open: Vec<u64> = inspect::chunks(&leader)
            .into_iter()
            .filter(|(_, row)| row.state == chunk_state::OPEN)
            .map(|(chunk, _)| chunk)
            .collect();
        if open.is_empty() {
            return None;
        }
        let chunk = *self.cluster.draw.pick(&open);
        self.cluster
            .fault("seal behind the writer's back", &format!("chunk {chunk:x} is sealed behind its writer's back"));
        let meta = self.meta.clone();
        // Whether it works does not matter.
        self.spawn(async move { drop(meta.seal(chunk, false).await) });
        let address = leader.replica().address().to_owned();
        Some(address.trim_end_matches(":7000").to_owned())
    }

    /// The power of all chunkservers goes when a seal is committed: what they stored of the fence is all
    /// that keeps the writer out.
    fn dark(self: &Rc<Faults>) {
        let Some(leader) = self.seal() else { return };
        let this = self.clone();
        self.spawn(async move {
            let patience = std::pin::pin!(this.wait(Duration::from_secs(2)));
            let trap = std::pin::pin!(this.simulation().trap(&leader, "seal is committed"));
            let Either::Left(_) = select(trap, patience).await else { return };
            if this.on.get() {
                this.cluster.fault("chunkservers go dark behind a seal", "power cut of all chunkservers");
                // A client that does not notice goes on with the chunk.
                let clients: Vec<String> =
                    (0..this.cluster.shape.work.clients).map(|index| Node::Client(index).name()).collect();
                let unnoticed = this.cluster.draw.chance(0.5);
                if unnoticed {
                    clients.iter().for_each(|name| this.simulation().pause(name));
                }
                for node in (0..CHUNKS).map(Node::Chunk) {
                    this.cluster.crash(node);
                    this.back_later(node, this.cluster.draw.millis(1, 50));
                }
                if unnoticed {
                    this.wait(Duration::from_millis(80)).await;
                    clients.iter().for_each(|name| this.simulation().resume(name));
                    this.wait(this.cluster.draw.millis(50, 400)).await;
                }
            }
            this.simulation().resume(&leader);
        });
    }

    /// Who has rebuilt a shard commits it only when its move has been given to somebody else.
    fn stall(self: &Rc<Faults>) {
        let name = Node::Chunk(self.below(CHUNKS)).name();
        let this = self.clone();
        self.spawn(async move {
            let patience = std::pin::pin!(this.wait(Duration::from_secs(10)));
            let trap = std::pin::pin!(this.simulation().trap(&name, "shard is rebuilt"));
            let Either::Left(_) = select(trap, patience).await else { return };
            if this.on.get() {
                this.cluster
                    .fault("executor stalls with a rebuilt shard", &format!("{name} stalls with a rebuilt shard"));
                let before = this.moves_under_way();
                this.cluster.moves.look(&this.cluster);
                this.wait(this.cluster.shape.times.job_lease).await;
                // Best in the moment in which somebody else has begun.
                for _ in 0..500 {
                    let now = this.moves_under_way();
                    if before.iter().any(|(chunk, id)| now.get(chunk).is_some_and(|later| later != id)) {
                        break;
                    }
                    this.wait(Duration::from_millis(10)).await;
                }
            }
            this.simulation().resume(&name);
            for millis in [5, 10, 20, 40] {
                this.wait(Duration::from_millis(millis)).await;
                this.cluster.moves.look(&this.cluster);
            }
        });
    }

    /// Pending moves by chunk.
    fn moves_under_way(&self) -> BTreeMap<u64, u64> {
        let chunks = self.cluster.leader().map(|leader| inspect::chunks(&leader)).unwrap_or_default();
        chunks.into_iter().filter_map(|(chunk, row)| Some((chunk, row.pending_move?.id))).collect()
    }

    fn clock_jump(self: &Rc<Faults>) {
        let nodes = self.cluster.nodes();
        let name = self.cluster.draw.pick(&nodes).name();
        let offset_ms = self.cluster.draw.between(0, 7_200_000) as i64 - 3_600_000;
        self.cluster.fault("clock jumps", &format!("wall clock of {name} off by {offset_ms}ms"));
        self.simulation().set_wall_clock_offset_ms(&name, offset_ms);
    }

    /// Brings everything back and stops random faults; lost disks stay lost.
    fn quiet(&self) {
        self.simulation().set_faults(false);
        self.simulation().heal_all();
        for node in self.cluster.nodes() {
            self.simulation().resume(&node.name());
            if !self.cluster.is_up(node) {
                self.cluster.boot(node);
            }
        }
        for index in 0..CHUNKS {
            self.cure(Node::Chunk(index), Some(index), chunk::DIR);
        }
        for index in 0..METAS {
            self.cure(Node::Meta(index), None, crate::nodes::meta::DIR);
            let stopped = |meta: &MetaServer| meta.replica().stopped().is_some();
            if self.cluster.metas()[index].as_ref().is_some_and(stopped) {
                self.cluster.boot(Node::Meta(index));
            }
        }
    }

    async fn lose_disk(self: &Rc<Faults>) {
        if !self.on.get() || self.calm.replace(true) {
            return;
        }
        self.quiet();
        self.wait(CALM).await;
        let index = self.below(CHUNKS);
        if self.on.get() && inspect::can_spare(&self.cluster, index) {
            self.lost.set(self.lost.get() + 1);
            let node = Node::Chunk(index);
            if self.cluster.draw.chance(0.5) {
                self.cluster.fault("disk is lost", &format!("disk of {} is wiped", node.name()));
                self.replace(index);
            } else {
                self.cluster.fault("disk is lost", &format!("flushes of the disk of {} fail", node.name()));
                self.spoilt.borrow_mut().insert(index);
                self.simulation().disk_fault(&node.name(), chunk::DIR, platform::fault::DiskFault::FlushFails);
                self.later(self.cluster.draw.millis(6000, 20_000), move |this| {
                    if this.spoilt.borrow_mut().remove(&index) {
                        this.cluster.fault("disk is lost", &format!("disk of {} is replaced", node.name()));
                        this.replace(index);
                    }
                });
            }
            self.wait(CALM).await;
        }
        if self.on.get() {
            self.calm.set(false);
            self.simulation().set_faults(true);
        }
    }

    /// An empty disk in place of the node's.
    fn replace(&self, index: usize) {
        let node = Node::Chunk(index);
        self.cluster.crash(node);
        self.simulation().wipe_disk(&node.name(), chunk::DIR);
        self.cluster.boot(node);
    }
}
