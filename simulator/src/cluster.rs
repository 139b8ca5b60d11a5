//! A cluster in a simulation: what outlives its processes, and handles on those that live.
//!
//! Invariant: a handle on a process is dropped when the process dies.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use chunkserver::store::Store;
use client::object::Objects;
use metaserver::server::MetaServer;
use metaserver::store::memory::MemoryStore;
use platform::planted::PlantedBug;
use platform::sim::Simulation;
use proto::rows::{ClusterRow, RedundancyRow};
use types::ids::ClusterId;

use crate::checkers::{Checker, Violation};
use crate::draw::Draw;
use crate::history::History;
use crate::moves::Moves;
use crate::nodes;
use crate::shape::{CHUNKS, METAS, Shape};
use crate::volumes::history::Volumes;

/// The cluster's id.
pub const CLUSTER: ClusterId = ClusterId(0xb1c1);
/// What its processes prove to each other.
pub const SECRET: [u8; 32] = [0x5e; 32];
/// The bucket that clients use.
pub const BUCKET: &str = "bucket";

/// A process of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Node {
    /// A metaserver replica.
    Meta(usize),
    /// A chunkserver.
    Chunk(usize),
    /// A client.
    Client(usize),
}

impl Node {
    /// Its name on the network.
    pub fn name(self) -> String {
        match self {
            Node::Meta(index) => format!("m{}", index + 1),
            Node::Chunk(index) => format!("k{}", index + 1),
            Node::Client(index) => format!("c{}", index + 1),
        }
    }

    /// Where it listens.
    pub fn address(self) -> String {
        format!("{}:7000", self.name())
    }
}

/// Addresses of the metaserver replicas.
pub fn meta_addresses() -> Vec<String> {
    (0..METAS).map(|index| Node::Meta(index).address()).collect()
}

/// What is counted over a seed.
#[derive(Default)]
pub struct Counts {
    /// Operations that clients began.
    pub operations: Cell<u64>,
    /// Faults that were injected, not counting random ones of network and disks.
    pub faults: Cell<u64>,
    /// How many of each kind.
    pub kinds: RefCell<BTreeMap<&'static str, u64>>,
}

#[derive(Default)]
struct Alive {
    metas: Vec<Option<MetaServer>>,
    stores: Vec<Option<Store>>,
    objects: Vec<Option<Objects>>,
}

/// Counts a worker for as long as it lives.
pub struct Running(Rc<Cluster>);

impl Running {
    /// One more worker.
    pub fn new(cluster: &Rc<Cluster>) -> Running {
        cluster.workers_running.set(cluster.workers_running.get() + 1);
        Running(cluster.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.workers_running.set(self.0.workers_running.get() - 1);
    }
}

/// The cluster of one seed.
pub struct Cluster {
    /// The machine.
    pub simulation: Simulation,
    /// What the seed drew.
    pub shape: Shape,
    /// Choices of workload and faults.
    pub draw: Draw,
    /// What clients saw.
    pub history: History,
    /// Figures.
    pub counts: Counts,
    /// Workers stop after their present operation.
    pub stopping: Cell<bool>,
    /// Workers that have not stopped.
    pub workers_running: Cell<usize>,
    /// Keys given out that are written once.
    pub once_keys: Cell<u32>,
    /// Buckets made to be deleted with what they hold.
    pub trash_buckets: Cell<u64>,
    /// Values that somebody saw last, by key: what conditions are made of.
    pub seen: RefCell<BTreeMap<u32, u64>>,
    /// Watches what moves put into chunks.
    pub moves: Moves,
    /// What was asked of volumes.
    pub volumes: Volumes,
    states: Vec<MemoryStore>,
    /// Metaservers that were started once: an empty directory of theirs was emptied.
    started: RefCell<BTreeSet<usize>>,
    /// Metaservers that may stop because their disk failed, until they are started anew.
    excused: RefCell<BTreeSet<usize>>,
    alive: RefCell<Alive>,
    violations: RefCell<Vec<Violation>>,
    story: RefCell<Vec<String>>,
}

impl Cluster {
    /// A cluster none of whose processes has started.
    pub fn new(shape: Shape, simulation: Simulation) -> Cluster {
        let clients = shape.work.clients;
        Cluster {
            simulation,
            draw: Draw::new(shape.seed ^ 0x7a5e),
            shape,
            history: History::new(),
            counts: Counts::default(),
            stopping: Cell::new(false),
            workers_running: Cell::new(0),
            once_keys: Cell::new(0),
            trash_buckets: Cell::new(0),
            seen: RefCell::default(),
            moves: Moves::default(),
            volumes: Volumes::default(),
            states: (0..METAS).map(|_| MemoryStore::default()).collect(),
            started: RefCell::default(),
            excused: RefCell::default(),
            alive: RefCell::new(Alive {
                metas: vec![None; METAS],
                stores: vec![None; CHUNKS],
                objects: vec![None; clients],
            }),
            violations: RefCell::default(),
            story: RefCell::default(),
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Node> {
        let metas = (0..METAS).map(Node::Meta);
        let chunks = (0..CHUNKS).map(Node::Chunk);
        metas.chain(chunks).chain((0..self.shape.work.clients).map(Node::Client)).collect()
    }

    /// The first command.
    pub fn row(&self) -> ClusterRow {
        ClusterRow {
            cluster: CLUSTER.0,
            feature_level: self.shape.level,
            partitions: self.shape.partitions,
            redundancy: RedundancyRow::from(self.shape.policy),
            chunk_capacity: self.shape.chunk_capacity,
            cell_size: self.shape.cell_size,
        }
    }

    /// Starts a process of the node; one that lives is crashed first.
    pub fn boot(self: &Rc<Cluster>, node: Node) {
        if self.simulation.is_up(&node.name()) {
            self.crash(node);
        }
        let platform = self.simulation.node(&node.name());
        let tasks = platform.tasks().clone();
        match node {
            Node::Meta(index) => tasks.spawn(nodes::meta::run(self.clone(), platform, index)).detach(),
            Node::Chunk(index) => tasks.spawn(nodes::chunk::run(self.clone(), platform, index)).detach(),
            Node::Client(index) => tasks.spawn(nodes::client::run(self.clone(), platform, index)).detach(),
        }
    }

    /// Cuts the node's power.
    pub fn crash(&self, node: Node) {
        self.forget(node);
        self.simulation.crash(&node.name());
    }

    /// kill -9: the machine keeps what was written.
    pub fn kill(&self, node: Node) {
        self.forget(node);
        self.simulation.kill(&node.name());
    }

    fn forget(&self, node: Node) {
        let mut alive = self.alive.borrow_mut();
        match node {
            Node::Meta(index) => {
                // RocksDB's memtables die with the process; what was flushed stays.
                self.excused.borrow_mut().remove(&index);
                self.states[index].crash(|batches| self.draw.below(batches as u64 + 1) as usize);
                alive.metas[index] = None;
            }
            Node::Chunk(index) => alive.stores[index] = None,
            Node::Client(index) => alive.objects[index] = None,
        }
    }

    /// Whether a process of the node lives.
    pub fn is_up(&self, node: Node) -> bool {
        self.simulation.is_up(&node.name())
    }

    /// What survives a replica's crashes.
    pub fn state(&self, index: usize) -> MemoryStore {
        self.states[index].clone()
    }

    /// Whether the replica was ever started.
    pub fn has_started(&self, index: usize) -> bool {
        self.started.borrow().contains(&index)
    }

    /// The replica was started.
    pub fn has_started_now(&self, index: usize) {
        self.started.borrow_mut().insert(index);
    }

    /// The replica may stop: its disk fails.
    pub fn excuse(&self, index: usize) {
        self.excused.borrow_mut().insert(index);
    }

    /// Whether it may.
    pub fn is_excused(&self, index: usize) -> bool {
        self.excused.borrow().contains(&index)
    }

    /// The replica of the node now serves.
    pub fn serves_meta(&self, index: usize, server: MetaServer) {
        self.alive.borrow_mut().metas[index] = Some(server);
    }

    /// The store of the node now serves.
    pub fn serves_store(&self, index: usize, store: Store) {
        self.alive.borrow_mut().stores[index] = Some(store);
    }

    /// The client of the node now works.
    pub fn serves_objects(&self, index: usize, objects: Objects) {
        self.alive.borrow_mut().objects[index] = Some(objects);
    }

    /// The replicas that live.
    pub fn metas(&self) -> Vec<Option<MetaServer>> {
        self.alive.borrow().metas.clone()
    }

    /// The stores that live.
    pub fn stores(&self) -> Vec<Option<Store>> {
        self.alive.borrow().stores.clone()
    }

    /// Whoever leads with the highest term.
    pub fn leader(&self) -> Option<MetaServer> {
        let metas = self.metas();
        metas.into_iter().flatten().filter(|meta| meta.replica().is_leader()).max_by_key(|meta| meta.replica().term())
    }

    /// Drops the handles on all processes.
    pub fn close(&self) {
        let mut alive = self.alive.borrow_mut();
        alive.metas.fill(None);
        alive.stores.fill_with(|| None);
        alive.objects.fill_with(|| None);
    }

    /// A promise was broken.
    pub fn violated(&self, checker: Checker, what: impl Into<String>) {
        let violation = Violation { checker, at: self.seconds(), what: what.into() };
        tracing::error!("VIOLATION: {violation}");
        self.tell(format!("VIOLATION, {checker:?}: {}", violation.what));
        self.violations.borrow_mut().push(violation);
    }

    /// The promises broken so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().clone()
    }

    /// A fault of a kind (see `situations`) is being injected.
    pub fn fault(&self, kind: &'static str, what: &str) {
        tracing::info!("FAULT: {what}");
        self.tell(what.to_owned());
        self.counts.faults.set(self.counts.faults.get() + 1);
        *self.counts.kinds.borrow_mut().entry(kind).or_default() += 1;
    }

    /// The work came into a situation (see `situations`).
    pub fn situation(&self, name: &'static str) {
        *self.counts.kinds.borrow_mut().entry(name).or_default() += 1;
    }

    fn seconds(&self) -> f64 {
        self.simulation.now().0 as f64 / 1e9
    }

    /// Adds a line to the story of the run.
    pub fn tell(&self, what: impl Into<String>) {
        self.story.borrow_mut().push(format!("{:10.3}s  {}", self.seconds(), what.into()));
    }

    /// What happened, in short.
    pub fn story(&self) -> Vec<String> {
        self.story.borrow().clone()
    }

    /// Whether the code was asked to make this mistake.
    pub fn planted(&self, bug: PlantedBug) -> bool {
        self.shape.machine.planted.contains(&bug)
    }
}
