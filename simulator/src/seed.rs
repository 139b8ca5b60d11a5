//! One seed from its draw to its verdict.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use platform::planted::PlantedBug;
use platform::sim::Simulation;
use proto::meta::Body;
use proto::query::{Ask, AskAll};

use crate::checkers::{Checker, Violation};
use crate::cluster::{Cluster, Node};
use crate::faults::Faults;
use crate::linear::{self, Verdict};
use crate::nodes::client::{Layers, heartbeat, layers};
use crate::shape::{CHUNKS, METAS, Shape};
use crate::workload::bucket_name;
use crate::{settle, situations, volumes};

/// Virtual time after which a seed is given up.
const LIMIT: Duration = Duration::from_secs(900);
/// After the faults have stopped, before anything is expected.
const CALM: Duration = Duration::from_secs(3);
/// A seed lasts at least this long.
const VIRTUAL_MIN: Duration = Duration::from_secs(61);
/// Steps of the search for an order that explains a key's history.
const STEPS_MAX: u64 = 300_000;

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What the seed drew, in a line.
    pub summary: String,
    /// Promises that were broken; empty = passed.
    pub violations: Vec<Violation>,
    /// Virtual seconds.
    pub virtual_seconds: f64,
    /// Client operations.
    pub operations: u64,
    /// Injected faults.
    pub faults: u64,
    /// Keys whose history was too hard to judge.
    pub undecided: u64,
    /// A hash over everything that happened.
    pub trace_hash: u64,
    /// The last events of the machine, if they were asked for.
    pub trace: Vec<String>,
    /// Faults and what they led to, in words.
    pub story: Vec<String>,
    /// How often each situation was reached.
    pub reached: BTreeMap<&'static str, u64>,
}

/// How to run seeds.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Deliberate mistakes that are switched on.
    pub planted: Vec<PlantedBug>,
    /// Faults are turned up as for finding this mistake.
    pub profile: Option<PlantedBug>,
    /// Events of the machine to keep.
    pub trace_events: usize,
    /// There is work on volumes in any case, and less of the other.
    pub volumes: bool,
}

impl Options {
    /// The mistake, switched on, among the faults that uncover it.
    pub fn planted(bug: PlantedBug) -> Options {
        Options { planted: vec![bug], profile: Some(bug), ..Options::default() }
    }
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Report {
    let shape = Shape::draw_with(seed, &options.planted, options.profile, options.trace_events, options.volumes);
    tracing::info!("{shape:#?}");
    // The owner stays here: everything in the simulation ends with it.
    let simulation = Simulation::new(seed, shape.machine.clone());
    let cluster = Rc::new(Cluster::new(shape, simulation.clone()));
    crate::clock::show(&simulation);
    if let Err(error) = simulation.run(story(cluster.clone()), LIMIT) {
        cluster.violated(Checker::Machine, error.to_string());
    }
    let reached = reached(&cluster);
    let undecided = if cluster.violations().is_empty() { judge(&cluster) } else { 0 };
    let report = Report {
        seed,
        summary: cluster.shape.summary(),
        violations: cluster.violations(),
        virtual_seconds: simulation.now().0 as f64 / 1e9,
        operations: cluster.counts.operations.get(),
        faults: cluster.counts.faults.get(),
        undecided,
        trace_hash: simulation.trace_hash(),
        trace: simulation.trace(),
        story: cluster.story(),
        reached,
    };
    crate::clock::hide();
    cluster.close();
    report
}

/// Runs a seed twice: it must give the same run.
pub fn run_twice(seed: u64, options: &Options) -> Report {
    let (mut one, two) = (run(seed, options), run(seed, options));
    if one.trace_hash != two.trace_hash {
        let what = format!("the run has the trace {:016x}, then {:016x}", one.trace_hash, two.trace_hash);
        one.violations.push(Violation { checker: Checker::Replay, at: one.virtual_seconds, what });
    }
    one
}

/// How often each situation was reached, those of the list first.
fn reached(cluster: &Cluster) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<&'static str, u64> =
        situations::PLACES.iter().chain(situations::VOLUMES).chain(situations::FAULTS).map(|name| (*name, 0)).collect();
    let found = cluster.simulation.reached().into_iter().chain(cluster.counts.kinds.borrow().clone());
    for (name, count) in found {
        match counts.get_mut(name) {
            Some(known) => *known += count,
            None if situations::RARE.contains(&name) => _ = counts.insert(name, count),
            None => cluster.violated(Checker::Situations, format!("{name:?} is not in the list of situations")),
        }
    }
    counts
}

async fn story(cluster: Rc<Cluster>) {
    let clock = cluster.simulation.platform().clock().clone();
    cluster.simulation.set_faults(false);
    for node in (0..METAS).map(Node::Meta).chain((0..CHUNKS).map(Node::Chunk)) {
        cluster.boot(node);
    }
    let Some(layers) = found(&cluster).await else { return };
    if let Err(error) = volumes::finish::found(&cluster, &layers).await {
        return cluster.violated(Checker::Service, format!("volumes cannot be made: {error}"));
    }
    for client in 0..cluster.shape.work.clients {
        cluster.boot(Node::Client(client));
    }
    cluster.simulation.platform().tasks().spawn(one_leader_a_term(cluster.clone())).detach();
    cluster.simulation.platform().tasks().spawn(moves_are_whole(cluster.clone())).detach();
    cluster.simulation.set_faults(true);
    let faults = Faults::start(cluster.clone(), layers.meta.clone());
    clock.sleep(cluster.shape.safety).await;
    faults.end();
    tracing::info!("LIVENESS: the faults stop");
    cluster.tell("the faults stop");
    clock.sleep(CALM).await;
    if faults.rot() {
        // Twice round: what was read a moment before it rotted is read again.
        clock.sleep(cluster.shape.scrub * 2 + CALM).await;
    }
    settle::run(cluster.clone(), &layers).await;
    let end = platform::clock::Instant(0) + VIRTUAL_MIN;
    clock.sleep_until(end).await;
}

/// Election safety: no term has two leaders.
async fn one_leader_a_term(cluster: Rc<Cluster>) {
    let clock = cluster.simulation.platform().clock().clone();
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        clock.sleep(Duration::from_millis(50)).await;
        for meta in cluster.metas().iter().flatten().filter(|meta| meta.replica().is_leader()) {
            let (term, leader) = (meta.replica().term(), meta.replica().raft_id());
            if *known.entry(term).or_insert(leader) != leader {
                cluster.violated(
                    Checker::Leaders,
                    format!("term {term} has the leaders {:x} and {leader:x}", known[&term]),
                );
                return;
            }
        }
    }
}

/// What a move put into a chunk is there.
async fn moves_are_whole(cluster: Rc<Cluster>) {
    loop {
        cluster.simulation.platform().clock().sleep(Duration::from_secs(1)).await;
        cluster.moves.look(&cluster);
    }
}

/// Founds the cluster: its row, all disks, the bucket.
pub async fn found(cluster: &Rc<Cluster>) -> Option<Layers> {
    let platform = cluster.simulation.platform();
    let layers = layers(cluster, &platform, "driver", &cluster.row(), 0);
    let outcome = layers.meta.bare_command(Body::InitCluster(cluster.row())).await;
    if let Err(error) = outcome {
        cluster.violated(Checker::Service, format!("cluster cannot be founded: {error}"));
        return None;
    }
    platform.tasks().spawn(heartbeat(layers.meta.clone())).detach();
    for _ in 0..100 {
        let view = layers.meta.query(Ask::Disks(AskAll {})).await.unwrap_or_default();
        if view.disks.iter().filter(|disk| disk.alive).count() == CHUNKS {
            return match layers.objects.create_bucket(&bucket_name(), "owner").await {
                Ok(_) => Some(layers),
                Err(error) => {
                    cluster.violated(Checker::Service, format!("bucket cannot be made: {error}"));
                    None
                }
            };
        }
        platform.clock().sleep(Duration::from_millis(100)).await;
    }
    cluster.violated(Checker::Service, "disks do not register");
    None
}

/// Judges the history, key by key. Answers how many keys were too hard.
fn judge(cluster: &Cluster) -> u64 {
    let mut undecided = 0;
    for key in 0..cluster.history.key_count() {
        let operations = cluster.history.of_key(key);
        match linear::check(&operations, STEPS_MAX) {
            Verdict::Linearizable => {}
            Verdict::TooHard => undecided += 1,
            Verdict::Impossible(at) => {
                cluster.violated(Checker::Histories, format!("key {key}: no order explains {:?}", operations[at]));
                for operation in &operations {
                    tracing::info!("  {operation:?}");
                }
            }
        }
    }
    let (wrong, too_hard) = cluster.volumes.judge();
    wrong.into_iter().for_each(|what| cluster.violated(Checker::Volumes, what));
    undecided + too_hard
}
