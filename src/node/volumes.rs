//! Volumes: what the admin door passes on of `bixi volume`.

use block_gateway::registry::Registry;
use client::meta::MetaClient;
use client::volume::{self, CHUNK_LEN as VOLUME_CHUNK, VolumeError};
use crypto::suite::Suite;
use proto::query::{Ask, AskAll, AskChunks};
use proto::rows::chunk_state;
use proto::volume::{Qos, SnapshotRow, VolumeChunk, VolumeRow};
use s3_gateway::admin::members::Denied;
use s3_gateway::admin::volumes::{self as asks, AskedVolume, DATA_MAX, Told};
use serde_json::{Value, json};
use types::ids::Partition;
use types::redundancy::{BadRedundancy, Redundancy};

use super::cluster::Inside;

/// Bytes of a volume that one map tells of, and pieces at most.
const MAP_SPAN: u64 = 4 << 30;
const MAP_PIECES: usize = 4096;
/// Chunks asked about at once.
const CHUNKS_AT_ONCE: usize = 256;

/// Carries out what was asked.
///
/// # Errors
/// What stands against it, or no leader in time.
pub async fn carry_out(registry: &Registry, inside: Option<&Inside>, asked: AskedVolume) -> Result<Told, Denied> {
    let meta = registry.meta();
    let told = match asked {
        AskedVolume::List => {
            let mut rows = volume::list(meta).await.map_err(denied)?;
            rows.sort_by(|one, other| one.name.cmp(&other.name));
            json!({ "volumes": rows.iter().map(tree).collect::<Vec<Value>>() })
        }
        AskedVolume::Status(ask) => status(meta, &ask.name).await?,
        AskedVolume::Create(ask) => create(meta, ask).await?,
        AskedVolume::Resize(ask) => tree(&volume::resize(meta, &ask.name, ask.size).await.map_err(denied)?),
        AskedVolume::Delete(ask) => {
            match ask.name.split_once('@') {
                Some((name, snapshot)) => volume::delete_snapshot(meta, name, snapshot).await,
                None => {
                    // It may be this process's for a moment still.
                    registry.release(&ask.name).await;
                    volume::delete(meta, &ask.name).await
                }
            }
            .map_err(denied)?;
            json!({ "name": ask.name, "state": "deleted" })
        }
        AskedVolume::Rename(ask) => {
            registry.release(&ask.name).await;
            volume::rename(meta, &ask.name, &ask.to).await.map_err(denied)?;
            json!({ "name": ask.to })
        }
        AskedVolume::Snapshot(ask) => {
            let row = registry.take_snapshot(&ask.name, &ask.snapshot).await.map_err(denied)?;
            snapshot_tree(&row)
        }
        AskedVolume::Rollback(ask) => {
            registry.roll_back(&ask.name, &ask.snapshot).await.map_err(denied)?;
            json!({ "name": ask.name, "snapshot": ask.snapshot })
        }
        AskedVolume::Clone(ask) => {
            let policy = if ask.redundancy.is_empty() { None } else { Some(policy_of(&ask.redundancy)?) };
            let made = volume::clone(meta, &ask.from, &ask.snapshot, &ask.name, ask.size, policy).await;
            tree(&made.map_err(denied)?)
        }
        AskedVolume::Qos(ask) => {
            let qos = Qos { iops: ask.iops, bytes: ask.bytes, burst_s: ask.burst_s };
            let qos = (qos.iops > 0 || qos.bytes > 0).then_some(qos);
            tree(&volume::set_qos(meta, &ask.name, qos).await.map_err(denied)?)
        }
        AskedVolume::Map(ask) => map(registry, &ask).await?,
        AskedVolume::Door(ask) => {
            let text = "this process is reached by nobody from outside: start it with --internal-addr HOST:PORT";
            let inside = inside.ok_or_else(|| Denied::conflict(text))?;
            let pass = inside.pass(&ask.host).await.map_err(|error| Denied::conflict(error.text))?;
            serde_json::to_value(&pass).map_err(|error| Denied::unavailable(error.to_string()))?
        }
        AskedVolume::Read(ask) => {
            let len = bounded(ask.len)?;
            let lease = registry.open(&ask.name).await.map_err(denied)?;
            return Ok(Told::Data(lease.device().read(ask.start, len).await.map_err(denied)?));
        }
        AskedVolume::Zero(ask) => {
            let lease = registry.open(&ask.name).await.map_err(denied)?;
            lease.device().clear(ask.start, ask.len).await.map_err(denied)?;
            json!({ "name": ask.name })
        }
        AskedVolume::Write { name, start, data } => {
            let lease = registry.open(&name).await.map_err(denied)?;
            lease.device().write(start, data).await.map_err(denied)?;
            json!({ "name": name })
        }
    };
    Ok(Told::Tree(told))
}

fn bounded(len: u64) -> Result<u64, Denied> {
    if len > DATA_MAX { Err(Denied::bad(format!("at most {DATA_MAX} bytes at once"))) } else { Ok(len) }
}

fn policy_of(text: &str) -> Result<Redundancy, Denied> {
    text.parse::<Redundancy>().map_err(|error: BadRedundancy| Denied::bad(error.to_string()))
}

async fn create(meta: &MetaClient, ask: asks::Create) -> Result<Value, Denied> {
    let view = meta.query(Ask::Cluster(AskAll {})).await.map_err(|error| Denied::unavailable(error.to_string()))?;
    let cluster = view.cluster.ok_or_else(|| Denied::unavailable("the cluster is not initialised"))?;
    let policy = if ask.redundancy.is_empty() {
        cluster.redundancy.policy().ok_or_else(|| Denied::conflict("the cluster's redundancy is unknown here"))?
    } else {
        policy_of(&ask.redundancy)?
    };
    // Volumes are dealt out to partitions, so that they need not all have one leader.
    let partition = meta.platform().random().below(u64::from(cluster.partitions.max(1)));
    let cipher = match ask.cipher.as_str() {
        "" => None,
        name => Some(name.parse::<Suite>().map_err(|error| Denied::bad(error.to_string()))?),
    };
    let partition = Partition(partition as u16);
    let row = volume::create(meta, &ask.name, ask.size, policy, partition, cipher).await.map_err(denied)?;
    Ok(tree(&row))
}

/// What is stored, or has changed, in pieces of length and state (1: it is), from `start` on.
async fn map(registry: &Registry, ask: &asks::Map) -> Result<Value, Denied> {
    let lease = registry.open(&ask.name).await.map_err(denied)?;
    let device = lease.device();
    let size = device.size();
    let len = size.saturating_sub(ask.start).min(MAP_SPAN);
    let mut pieces: Vec<(u64, u8)> = if len == 0 {
        Vec::new()
    } else if ask.since.is_empty() {
        let runs = device.status(ask.start, len).await.map_err(denied)?;
        runs.iter().map(|run| (run.len, u8::from(!run.is_hole))).collect()
    } else {
        let runs = device.changed_since(&ask.since, ask.start, len).await.map_err(denied)?;
        runs.iter().map(|run| (run.len, u8::from(run.is_changed))).collect()
    };
    pieces.truncate(MAP_PIECES);
    let next = ask.start + pieces.iter().map(|(len, _)| len).sum::<u64>();
    Ok(json!({ "size": size, "pieces": pieces, "next": next }))
}

async fn status(meta: &MetaClient, name: &str) -> Result<Value, Denied> {
    let row = volume::named(meta, name).await.map_err(denied)?;
    let chunks = volume::chunks(meta, row.id).await.map_err(denied)?;
    let snapshots = volume::snapshots(meta, row.id).await.map_err(denied)?;
    let held = held(meta, &chunks).await?;
    // What would come back if only that snapshot were deleted.
    let unique = |snapshot: &SnapshotRow| {
        let needs = |one: &SnapshotRow, chunk: &proto::volume::VolumeChunkRow| one.needs(chunk.born, chunk.dropped);
        let others = || snapshots.iter().filter(|other| other.number != snapshot.number);
        let only = chunks
            .iter()
            .map(|chunk| &chunk.row)
            .filter(|chunk| chunk.dropped > 0 && needs(snapshot, chunk) && !others().any(|other| needs(other, chunk)));
        only.map(|chunk| chunk.bytes).sum::<u64>()
    };
    let shown = snapshots.iter().filter(|snapshot| !snapshot.hidden);
    let shown: Vec<Value> = shown
        .map(|snapshot| {
            let mut tree = snapshot_tree(snapshot);
            tree["unique"] = json!(unique(snapshot));
            tree
        })
        .collect();
    let mut tree = tree(&row);
    tree["journal"] = json!(held.journal);
    tree["kept_for_snapshots"] = json!(held.for_snapshots);
    tree["stored"] = json!(held.stored);
    tree["snapshots"] = json!(shown);
    Ok(tree)
}

/// Bytes of chunks.
#[derive(Default)]
struct Held {
    /// Of the journal, once, and of what only snapshots need of it.
    journal: u64,
    for_snapshots: u64,
    /// On all disks together.
    stored: u64,
}

/// What the chunks of a volume hold. Of those that are still open one is written, and counts as if it were full.
async fn held(meta: &MetaClient, chunks: &[VolumeChunk]) -> Result<Held, Denied> {
    let (mut held, mut is_first_open) = (Held::default(), true);
    for some in chunks.chunks(CHUNKS_AT_ONCE) {
        let asked = some.iter().map(|chunk| chunk.chunk).collect();
        let view = meta.query(Ask::Chunks(AskChunks { chunks: asked })).await;
        for entry in view.map_err(|error| Denied::unavailable(error.to_string()))?.chunks {
            let Some(policy) = entry.row.redundancy.policy() else { continue };
            let needed = policy.needed() as u64;
            let is_open = entry.row.state == chunk_state::OPEN;
            let shard = match is_open {
                true if std::mem::take(&mut is_first_open) => entry.row.capacity.min(VOLUME_CHUNK) / needed,
                true => 0,
                false => entry.row.sealed_len,
            };
            let is_dropped = some.iter().any(|chunk| chunk.chunk == entry.chunk && chunk.row.dropped > 0);
            *(if is_dropped { &mut held.for_snapshots } else { &mut held.journal }) += shard * needed;
            held.stored += shard * policy.shards() as u64;
        }
    }
    Ok(held)
}

fn tree(row: &VolumeRow) -> Value {
    let qos = row.qos.unwrap_or_default();
    json!({
        "name": row.name,
        "size": row.size,
        "used": row.used,
        "redundancy": row.redundancy.policy().map(|policy| policy.to_string()),
        "created_ms": row.created_ms,
        "attached_by": (row.session != 0).then_some(&row.owner),
        "cloned_from": row.base.as_ref().map(|base| &base.name),
        "encryption": row.encryption.as_ref().map(|how| Suite::of_number(how.suite).map_or("unknown", Suite::name)),
        "qos": { "iops": qos.iops, "bytes": qos.bytes, "burst_s": qos.burst_s },
    })
}

fn snapshot_tree(row: &SnapshotRow) -> Value {
    json!({
        "name": row.name,
        "size": row.size,
        "used": row.used,
        "created_ms": row.created_ms,
        "clones": row.clones,
        "ready": row.ready,
    })
}

fn denied(error: VolumeError) -> Denied {
    match error {
        VolumeError::NotFound(text) => Denied::not_found(text),
        VolumeError::Busy(_) | VolumeError::Fenced(_) | VolumeError::ReadOnly => Denied::conflict(error.to_string()),
        VolumeError::Refused(text) => Denied::bad(text),
        VolumeError::OutOfRange { .. } => Denied::bad(error.to_string()),
        error => Denied::unavailable(error.to_string()),
    }
}
