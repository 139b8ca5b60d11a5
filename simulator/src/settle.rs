//! The liveness phase: faults have stopped, so within bounded time everything must be well.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use client::object::api::{ObjectError, WriteConditions};
use erasure::Coder;
use metaserver::server::MetaServer;
use platform::clock::Clock;
use proto::members::RemoveDisk;
use proto::meta::Body;
use proto::rows::{ChunkRow, chunk_state, disk_state};
use types::ids::Partition;
use types::redundancy::Redundancy;

use crate::checkers::Checker;
use crate::cluster::Cluster;
use crate::history::Ask;
use crate::inspect;
use crate::nodes::client::Layers;
use crate::shape::METAS;
use crate::volumes;
use crate::workload::{Actor, bucket_name};

/// Every operation that was under way when the faults stopped must have ended by then.
const DRAIN: Duration = Duration::from_secs(120);
/// A cluster without faults has a leader and does operations after this long.
const LEADER: Duration = Duration::from_secs(20);
/// Redundancy is whole again after this long.
const WHOLE: Duration = Duration::from_secs(150);
/// The worker number of the final operations.
pub const LAST: u32 = u32::MAX;
/// How often a chunk that does not fit is looked at again.
const LOOKS: usize = 8;
/// Bytes of a shard read at once.
const STEP: u64 = 1 << 20;

/// Runs the phase. `layers` are the driver's own, which sees no faults.
pub async fn run(cluster: Rc<Cluster>, layers: &Layers) {
    let clock = cluster.simulation.platform().clock().clone();
    cluster.stopping.set(true);
    if !until(&clock, DRAIN, || cluster.workers_running.get() == 0).await {
        cluster.violated(Checker::Service, format!("{} workers hang without faults", cluster.workers_running.get()));
        return;
    }
    if !until(&clock, LEADER, || cluster.leader().is_some()).await {
        return cluster.violated(Checker::Service, "no leader without faults");
    }
    let platform = cluster.simulation.platform();
    let actor = Actor { cluster: cluster.clone(), platform, objects: layers.objects.clone(), worker: LAST };
    if let Err(error) = works(&actor).await {
        return cluster.violated(Checker::Service, format!("operations fail without faults: {error}"));
    }
    read_all(&actor).await;
    volumes::finish::run(&cluster, layers).await;
    if !cluster.violations().is_empty() {
        return;
    }
    become_whole(&cluster, &clock).await;
    if !cluster.violations().is_empty() {
        return;
    }
    remove_drained(&cluster, layers).await;
    check_shards(&cluster, layers).await;
    read_all(&actor).await;
    all_vote(&cluster, &clock).await;
    agree(&cluster, &clock).await;
}

/// Waits until `done`; `false` if it takes longer than `limit`.
async fn until(clock: &Clock, limit: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = clock.now() + limit;
    while !done() {
        if clock.now() >= deadline {
            return false;
        }
        clock.sleep(Duration::from_millis(100)).await;
    }
    true
}

/// Puts, reads and lists once more.
async fn works(actor: &Actor) -> Result<(), ObjectError> {
    let clock = actor.platform.clock().clone();
    // The first operation may meet what the faults left: an old leader, a suspect disk.
    let deadline = clock.now() + LEADER;
    loop {
        let tried: Result<(), ObjectError> = async {
            let bucket = actor.objects.bucket(&bucket_name()).await?;
            for key in 0..3 {
                let key = actor.cluster.shape.work.registers + actor.cluster.once_keys.get() + key;
                actor.put(&bucket, key, WriteConditions::default(), |value| Ask::Put { value }).await?;
                actor.get(&bucket, key).await?;
            }
            actor.list(&bucket).await
        }
        .await;
        match tried {
            Err(ObjectError::Unavailable(why)) if clock.now() < deadline => {
                tracing::debug!(why, "not well yet");
                clock.sleep(Duration::from_millis(500)).await;
            }
            other => return other,
        }
    }
}

/// Reads every key; each must be readable now.
async fn read_all(actor: &Actor) {
    let bucket = match actor.objects.bucket(&bucket_name()).await {
        Ok(bucket) => bucket,
        Err(error) => return actor.cluster.violated(Checker::Service, format!("bucket cannot be read: {error}")),
    };
    for key in 0..actor.cluster.history.key_count() {
        if let Err(error) = actor.get(&bucket, key).await {
            actor.cluster.violated(Checker::Service, format!("key {key} cannot be read without faults: {error}"));
        }
    }
    if let Err(error) = actor.list(&bucket).await {
        actor.cluster.violated(Checker::Service, format!("bucket cannot be listed without faults: {error}"));
    }
}

async fn become_whole(cluster: &Cluster, clock: &Clock) {
    let look = || match cluster.leader() {
        Some(leader) => inspect::unsettled(cluster, &leader),
        None => vec!["no leader".to_owned()],
    };
    if !until(clock, WHOLE, || look().is_empty()).await {
        for what in look().into_iter().take(5) {
            cluster
                .violated(Checker::Redundancy, format!("not whole after {}s without faults: {what}", WHOLE.as_secs()));
        }
        return;
    }
    let Some(leader) = cluster.leader() else { return };
    for what in inspect::references(&leader).into_iter().take(5) {
        cluster.violated(Checker::References, what);
    }
}

/// A disk that is drained can be removed, and nothing is missed.
async fn remove_drained(cluster: &Cluster, layers: &Layers) {
    let Some(leader) = cluster.leader() else { return };
    for (disk, row) in inspect::disks(&leader) {
        if !row.draining || row.state != disk_state::IN {
            continue;
        }
        let body = Body::RemoveDisk(RemoveDisk { disk, lost: false });
        if let Err(error) = layers.meta.command(Partition(0), body).await {
            cluster.violated(Checker::Redundancy, format!("drained disk {disk} cannot be removed: {error}"));
        }
    }
}

/// Reads every shard of every sealed chunk: copies must be equal, parity must fit. A chunk whose
/// shards move meanwhile is looked at again.
async fn check_shards(cluster: &Cluster, layers: &Layers) {
    let clock = layers.meta.platform().clock().clone();
    let Some(leader) = cluster.leader() else { return };
    for chunk in inspect::chunks(&leader).into_keys() {
        let mut left = LOOKS;
        loop {
            let row = cluster.leader().and_then(|leader| inspect::chunks(&leader).remove(&chunk));
            let Some(row) = row.filter(|row| row.state == chunk_state::SEALED) else { break };
            let Err(why) = check_chunk(layers, chunk, &row).await else { break };
            left -= 1;
            if left == 0 {
                return cluster.violated(Checker::Shards, why);
            }
            clock.sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn check_chunk(layers: &Layers, chunk: u64, row: &ChunkRow) -> Result<(), String> {
    let mut at = 0;
    while at < row.sealed_len {
        let upto = row.sealed_len.min(at + STEP);
        let columns = columns(layers, chunk, row, at, upto).await?;
        let parts: Vec<&[u8]> = columns.values().map(|bytes| &bytes[..]).collect();
        let fits = match row.redundancy.policy() {
            Some(Redundancy::Copies(_)) => parts.windows(2).all(|pair| pair[0] == pair[1]),
            Some(Redundancy::Erasure { data, parity }) => {
                let coder = Coder::new(usize::from(data), usize::from(parity));
                coder.is_ok_and(|coder| coder.verify(&parts).unwrap_or(false))
            }
            None => false,
        };
        if !fits {
            return Err(format!("shards of chunk {chunk:x} do not fit each other in {at}..{upto}"));
        }
        at = upto;
    }
    Ok(())
}

/// The given range of every shard, by index.
async fn columns(
    layers: &Layers,
    chunk: u64,
    row: &ChunkRow,
    from: u64,
    to: u64,
) -> Result<BTreeMap<u32, Bytes>, String> {
    let mut columns = BTreeMap::new();
    for shard in &row.shards {
        let request = layers.meta.peers().new_request();
        let read = layers.shards.read(chunk, *shard, from, (to - from) as u32, request).await;
        let bytes = read.map_err(|error| {
            format!("shard {} of chunk {chunk:x} (len {}) on disk {}: {error}", shard.index, row.sealed_len, shard.disk)
        })?;
        columns.insert(shard.index, bytes);
    }
    Ok(columns)
}

/// Every replica must vote, whatever happened to its directory, and doubt nothing any more.
pub async fn all_vote(cluster: &Cluster, clock: &Clock) {
    let look = || -> Result<(), String> {
        let leader = cluster.leader().ok_or("no leader")?;
        let voters: BTreeSet<u64> = leader.replica().voters().into_iter().collect();
        let metas: Vec<_> = cluster.metas().into_iter().flatten().collect();
        let present: BTreeSet<u64> = metas.iter().map(|meta| meta.replica().raft_id()).collect();
        if voters != present || present.len() != METAS {
            return Err(format!("{voters:x?} vote, {present:x?} are there"));
        }
        if metas.iter().any(|meta| meta.replica().is_in_doubt()) {
            return Err("a replica is in doubt for ever".into());
        }
        Ok(())
    };
    if !until(clock, WHOLE, || look().is_ok()).await {
        cluster.violated(Checker::Voters, format!("metaservers are not whole: {}", look().err().unwrap_or_default()));
    }
}

/// Replicas that applied the same must hold the same.
pub async fn agree(cluster: &Cluster, clock: &Clock) {
    let applied = || -> Option<Vec<u64>> {
        cluster.metas().iter().map(|meta| meta.as_ref().map(|meta| meta.replica().applied())).collect()
    };
    let equal = || applied().is_some_and(|applied| applied.windows(2).all(|pair| pair[0] == pair[1]));
    if !until(clock, LEADER, equal).await {
        return cluster.violated(Checker::Agreement, format!("replicas do not catch up: {:?}", applied()));
    }
    let hashes: Vec<_> = cluster.metas().iter().flatten().map(|meta| meta.replica().state_hash().ok()).collect();
    if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
        cluster.violated(Checker::Agreement, format!("replicas differ at the same index: {hashes:x?}"));
    }
    // What a replica keeps decoded must not outlive a command or a snapshot that changed it.
    let stale = |meta: &MetaServer| meta.known_disks().is_some_and(|known| known != inspect::disks(meta));
    if cluster.metas().iter().flatten().any(stale) {
        cluster.violated(Checker::Agreement, "a replica goes by other disks than its state has");
    }
}
